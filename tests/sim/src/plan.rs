//! What a seed means: how many UEs, which network, what goes wrong and when.

use std::time::Duration;

use ike::QkdFailure;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// One scenario.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where it comes from.
    pub seed: u64,
    /// UEs, each with a subscription and an SAE ID of its own.
    pub ues: usize,
    /// When each begins to attach.
    pub starts: Vec<Duration>,
    /// Which UEs are behind a NAT.
    pub behind_nat: Vec<bool>,
    /// Datagrams lost, of a thousand, until the last fault is over.
    pub loss: u32,
    /// Datagrams that arrive twice, of a thousand.
    pub duplicates: u32,
    /// Delay of every datagram.
    pub delay: Duration,
    /// A further delay, drawn for each datagram: reordering.
    pub jitter: Duration,
    /// Answers of the KMSs take this long.
    pub kms_delay: Duration,
    /// How long a key takes over the QKD link.
    pub replication: Duration,
    /// How the N3IWF's keys come.
    pub supply: Supply,
    /// What goes wrong.
    pub faults: Vec<(Duration, Fault)>,
    /// From here on nothing goes wrong any more.
    pub healed: Duration,
}

/// The QKD link, and how the N3IWF deals with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Supply {
    /// Keys per second and most keys in store; `None`: as many as anybody wants.
    pub link: Option<(u32, u32)>,
    /// Keys fetched ahead for each peer; 0: none.
    pub ahead: usize,
    /// Keys kept for rekeys.
    pub floor: u64,
    /// How long attaches wait for keys; 0: refused at once.
    pub wait: Duration,
}

impl Supply {
    /// Of a seed; with dice of its own, so that older seeds mean what they meant.
    fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x7375_7070_6c79);
        Self {
            link: dice.pick(&[None, None, Some((40, 400)), Some((10, 60))], None),
            ahead: dice.pick(&[0, 0, 14, 21], 0),
            floor: dice.pick(&[0, 0, 9, 20], 0),
            wait: dice.pick(&[s(0), s(0), s(5), s(10)], s(0)),
        }
    }
}

/// Something that goes wrong, or somebody's command at a bad moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nobody's datagrams arrive for a while.
    CutAll(Duration),
    /// One UE's datagrams do not arrive for a while.
    CutUe(usize, Duration),
    /// The NAT before the UE forgets its mappings.
    Rebind(usize),
    /// The UE's daemon dies, and starts again after a while.
    UeCrash(usize, Duration),
    /// The N3IWF's daemon dies, and starts again after a while.
    N3iwfCrash(Duration),
    /// The AMF dies with everything it knew, and starts again after a while.
    AmfRestart(Duration),
    /// The AMF does nothing for a while, and then everything at once.
    AmfHangs(Duration),
    /// The N2 association breaks.
    N2Break,
    /// The N3IWF's KMS fails for a while.
    KmsA(QkdFailure, Duration),
    /// The UEs' KMS fails for a while.
    KmsB(QkdFailure, Duration),
    /// Both KMSs take this much longer, for a while.
    KmsSlow(Duration, Duration),
    /// Keys do not reach the UEs' KMS for a while.
    KeyLoss(Duration),
    /// Both KMSs start again without the keys they had.
    KmsRestart,
    /// The N3IWF's kernel refuses SAs for a while.
    N3iwfPlane(Duration),
    /// A UE's kernel refuses SAs for a while.
    UePlane(usize, Duration),
    /// A UE cannot store its sequence numbers for a while.
    DiskFull(usize, Duration),
    /// `uectl attach`.
    Attach(usize),
    /// `uectl deregister`.
    Deregister(usize),
    /// `uectl release`.
    Release(usize),
    /// `uectl establish`.
    Establish(usize),
    /// `uectl rekey --ike`.
    RekeyIke(usize),
    /// `uectl rekey --child`.
    RekeyChild(usize),
    /// The operator of the N3IWF releases somebody.
    OperatorRelease(usize),
}

/// Draws of a plan.
pub(crate) struct Dice(ChaCha20Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha20Rng::seed_from_u64(seed))
    }

    /// Below `bound`; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // The modulo's bias is of no matter here.
        self.0.next_u64().checked_rem(bound).unwrap_or(0)
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T], otherwise: T) -> T {
        let index = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
        of.get(index).copied().unwrap_or(otherwise)
    }

    pub(crate) fn chance(&mut self, of_thousand: u32) -> bool {
        self.below(1000) < u64::from(of_thousand)
    }

    pub(crate) fn time(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(most.as_micros()).unwrap_or(u64::MAX)))
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

impl Plan {
    /// The scenario of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let ues = match dice.below(40) {
            0 => 20 + dice.index(31),
            1..=9 => 5 + dice.index(6),
            _ => 1 + dice.index(4),
        };
        let faulty = dice.pick(&[s(20), s(40), s(90)], s(40));
        let starts = (0..ues).map(|_| dice.time(faulty / 2)).collect();
        let behind_nat = (0..ues).map(|_| dice.chance(300)).collect();
        let count = dice.index(8);
        let mut faults: Vec<(Duration, Fault)> = (0..count)
            .map(|_| (dice.time(faulty), Fault::draw(&mut dice, ues)))
            .collect();
        // With dice of their own, so that older seeds mean what they meant.
        let mut more = Dice::new(seed ^ 0x6b6d_7372);
        if more.chance(100) {
            faults.push((more.time(faulty), Fault::KmsRestart));
        }
        faults.sort_by_key(|(at, _)| *at);
        let longest = faults.iter().map(|(at, fault)| *at + fault.lasts()).max();
        Self {
            seed,
            ues,
            starts,
            behind_nat,
            loss: dice.pick(&[0, 0, 20, 100, 250], 0),
            duplicates: dice.pick(&[0, 20, 100], 0),
            delay: dice.pick(&[ms(1), ms(10), ms(40)], ms(1)),
            jitter: dice.pick(&[ms(0), ms(5), ms(300)], ms(0)),
            kms_delay: dice.pick(&[ms(1), ms(30), ms(400)], ms(1)),
            replication: dice.pick(&[ms(0), ms(20), ms(700)], ms(0)),
            supply: Supply::draw(seed),
            faults,
            healed: faulty.max(longest.unwrap_or_default()),
        }
    }

    /// A scenario in which nothing goes wrong.
    #[must_use]
    pub fn quiet(ues: usize) -> Self {
        Self {
            seed: 0,
            ues,
            // The N3IWF has its AMF by then.
            starts: vec![s(1); ues],
            behind_nat: vec![false; ues],
            loss: 0,
            duplicates: 0,
            delay: ms(1),
            jitter: ms(0),
            kms_delay: ms(1),
            replication: ms(0),
            supply: Supply::default(),
            faults: Vec::new(),
            healed: s(5),
        }
    }
}

impl Fault {
    fn draw(dice: &mut Dice, ues: usize) -> Self {
        let ue = dice.index(ues);
        let long = dice.pick(&[ms(300), s(2), s(8), s(30)], s(2));
        let failure = dice.pick(
            &[
                QkdFailure::NoKeys,
                QkdFailure::Unreachable,
                QkdFailure::UnknownSae,
                QkdFailure::Quota,
            ],
            QkdFailure::NoKeys,
        );
        match dice.below(24) {
            0 => Self::CutAll(long),
            1 => Self::CutUe(ue, long),
            2 => Self::Rebind(ue),
            3 => Self::UeCrash(ue, long),
            4 => Self::N3iwfCrash(long),
            5 => Self::AmfRestart(long),
            6 => Self::AmfHangs(long),
            7 => Self::N2Break,
            8 => Self::KmsA(failure, long),
            9 => Self::KmsB(failure, long),
            10 => Self::KmsSlow(dice.pick(&[s(1), s(4), s(20)], s(1)), long),
            11 => Self::KeyLoss(long),
            12 => Self::N3iwfPlane(long),
            13 => Self::UePlane(ue, long),
            14 => Self::DiskFull(ue, long),
            15 => Self::Attach(ue),
            16 => Self::Deregister(ue),
            17 => Self::Release(ue),
            18 => Self::Establish(ue),
            19 | 20 => Self::RekeyIke(ue),
            21 | 22 => Self::RekeyChild(ue),
            _ => Self::OperatorRelease(ue),
        }
    }

    /// How long after its beginning it is over.
    pub(crate) fn lasts(self) -> Duration {
        match self {
            Self::CutAll(time)
            | Self::CutUe(_, time)
            | Self::UeCrash(_, time)
            | Self::N3iwfCrash(time)
            | Self::AmfRestart(time)
            | Self::AmfHangs(time)
            | Self::KmsA(_, time)
            | Self::KmsB(_, time)
            | Self::KmsSlow(_, time)
            | Self::KeyLoss(time)
            | Self::N3iwfPlane(time)
            | Self::UePlane(_, time)
            | Self::DiskFull(_, time) => time,
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_one_plan() {
        for seed in 0..200 {
            assert_eq!(
                format!("{:?}", Plan::new(seed)),
                format!("{:?}", Plan::new(seed))
            );
        }
    }

    #[test]
    fn every_fault_is_drawn_and_over_in_time() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..1000 {
            let plan = Plan::new(seed);
            assert!(plan.ues >= 1 && plan.ues <= 50);
            assert_eq!(
                (plan.starts.len(), plan.behind_nat.len()),
                (plan.ues, plan.ues)
            );
            for (at, fault) in plan.faults {
                assert!(at + fault.lasts() <= plan.healed);
                kinds.insert(format!("{fault:?}").split('(').next().map(str::to_owned));
            }
        }
        assert_eq!(kinds.len(), 23, "{kinds:?}");
    }
}
