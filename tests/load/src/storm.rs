//! Everybody rekeys at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use bench::records::Storm;
use bench::stats::real;
use ike::Timing;
use load::fleet::{Fleet, Rekeyed, Sas};
use load::watch::Watch;
use ue_user::core::ue::State;

use crate::drive::{self, Growth};

/// UEs that are told to begin, or looked at, before datagrams have their turn.
const TOGETHER: usize = 256;
/// How long a storm may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What was replaced of Child SAs is gone then (the daemons keep it 5 s for packets on their way).
const DRAINED: Duration = Duration::from_secs(6);
/// Longer than a replaced IKE SA answers what its peer repeats, by this.
const FORGOTTEN: Duration = Duration::from_secs(3);
/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Grows to each size and has all that are attached rekey their Child SAs, and then their IKE SAs: once, and `rounds`
/// times at the last size, to see whether memory goes on growing.
pub(crate) async fn storms(
    fleet: &mut Fleet,
    watch: Watch,
    steps: &[usize],
    rounds: usize,
    mut write: impl FnMut(Storm) -> Result<()>,
) -> Result<()> {
    drive::warm_up(fleet).await?;
    let mut growth = Growth::new(fleet);
    for (index, &size) in steps.iter().enumerate() {
        growth.reach(fleet, size).await?;
        let last = index + 1 == steps.len();
        for round in 0..if last { rounds } else { 1 } {
            for what in [Rekeyed::Children, Rekeyed::Ike] {
                let storm = storm(fleet, watch, &growth.attached, what).await?;
                let quiet = Instant::now() + forgotten_after(what);
                while Instant::now() < quiet {
                    fleet.turn(quiet).await?;
                    drop(fleet.ended());
                }
                write(Storm {
                    round,
                    memory_after: Some(watch.memory()?),
                    ..storm
                })?;
            }
        }
    }
    // They stay: whoever measures ends the N3IWF next.
    Ok(())
}

/// How long nothing reminds of what was replaced.
fn forgotten_after(what: Rekeyed) -> Duration {
    match what {
        Rekeyed::Children => DRAINED,
        Rekeyed::Ike => Timing::default().linger + FORGOTTEN,
    }
}

/// A UE that has not finished.
struct Pending {
    ue: usize,
    before: Sas,
}

impl Pending {
    /// New SAs, and the keys in them: once there are as many as there were before.
    fn done(&self, what: Rekeyed, now: &Sas) -> Option<(usize, usize)> {
        let (new, wanted) = match what {
            Rekeyed::Ike => {
                let new = now
                    .ike
                    .iter()
                    .filter(|(spi, _)| !self.before.ike.contains_key(*spi));
                (
                    new.map(|(_, keys)| *keys).collect::<Vec<_>>(),
                    self.before.ike.len(),
                )
            }
            Rekeyed::Children => {
                let old = &self.before.children;
                let new = now.children.iter().filter(|(id, _)| !old.contains_key(id));
                (new.map(|(_, keys)| *keys).collect(), old.len())
            }
        };
        (new.len() == wanted && wanted > 0).then(|| (wanted, new.iter().sum()))
    }
}

async fn storm(fleet: &mut Fleet, watch: Watch, ues: &[usize], what: Rekeyed) -> Result<Storm> {
    let mut pending: VecDeque<Pending> = ues
        .iter()
        .map(|&ue| Pending {
            ue,
            before: fleet.sas(ue),
        })
        .collect();
    let memory_before = watch.memory()?;
    let (cpu, fetched) = (watch.cpu()?, fleet.keys_fetched());
    let begun = Instant::now();
    let (mut rekeys, mut keys, mut failed) = (0, 0, 0);
    for some in ues.chunks(TOGETHER) {
        for &ue in some {
            if let Err(error) = fleet.rekey(ue, what) {
                eprintln!("load: UE {ue}: {error}");
            }
        }
        fleet.turn(Instant::now()).await?;
    }
    let all_begun = begun.elapsed();
    let (mut memory, mut looked) = (memory_before, begun);
    let mut seconds = 0.0;
    while !pending.is_empty() && begun.elapsed() < PATIENCE {
        fleet
            .turn(Instant::now() + Duration::from_millis(10))
            .await?;
        // Nobody attaches now: whoever ends is lost, and seen below.
        drop(fleet.ended());
        for _ in 0..TOGETHER.min(pending.len()) {
            let Some(one) = pending.pop_front() else {
                break;
            };
            match one.done(what, &fleet.sas(one.ue)) {
                Some((sas, of)) => {
                    rekeys += sas;
                    keys += of;
                    seconds = begun.elapsed().as_secs_f64();
                }
                None if fleet.state(one.ue) != State::Registered => failed += 1,
                None => pending.push_back(one),
            }
        }
        if looked.elapsed() > LOOK {
            looked = Instant::now();
            memory = memory.max(watch.memory()?);
        }
    }
    let cpu = (watch.cpu()? - cpu).as_secs_f64() * 1000.0;
    Ok(Storm {
        ues: ues.len(),
        round: 0,
        what: match what {
            Rekeyed::Ike => "IKE SA",
            Rekeyed::Children => "Child SA",
        }
        .to_owned(),
        rekeys,
        failed: failed + pending.len(),
        begun_within: all_begun.as_secs_f64(),
        seconds,
        n3iwf_cpu_ms: cpu / real(rekeys.max(1)),
        memory: memory.max(watch.memory()?),
        memory_before,
        memory_after: None,
        keys_fetched: fleet.keys_fetched() - fetched,
        keys_in_sas: u64::try_from(keys)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ue_is_done_when_every_sa_has_a_successor() {
        let sas = |ike: &[(&str, usize)], children: &[(u64, usize)]| Sas {
            ike: ike
                .iter()
                .map(|(spi, keys)| ((*spi).to_owned(), *keys))
                .collect(),
            children: children.iter().copied().collect(),
        };
        let pending = Pending {
            ue: 0,
            before: sas(&[("a", 3)], &[(1, 2), (2, 2)]),
        };
        let one = sas(&[("a", 3)], &[(1, 2), (2, 2), (3, 2)]);
        assert_eq!(pending.done(Rekeyed::Children, &one), None);
        let both = sas(&[("a", 3)], &[(2, 2), (3, 2), (4, 2)]);
        assert_eq!(pending.done(Rekeyed::Children, &both), Some((2, 4)));
        assert_eq!(pending.done(Rekeyed::Ike, &both), None);
        let ike = sas(&[("b", 2)], &[(3, 2), (4, 2)]);
        assert_eq!(pending.done(Rekeyed::Ike, &ike), Some((1, 2)));
        assert_eq!(pending.done(Rekeyed::Ike, &sas(&[], &[])), None);
    }
}
