//! Rate limits of sessions in user space, by the algorithm that the programs use.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use ebpf_common::relay::RateState;
use gtpu::Direction;

use super::Ambr;

/// One direction.
#[derive(Debug)]
pub(super) struct Limit {
    cost: AtomicU64,
    tolerance: AtomicU64,
    conforming: AtomicU64,
}

impl Limit {
    pub(super) fn new(bits: u64) -> Self {
        let state = RateState::new(Some(bits));
        Self {
            cost: state.cost.into(),
            tolerance: state.tolerance_ns.into(),
            conforming: AtomicU64::new(0),
        }
    }

    fn set(&self, bits: u64) {
        let state = RateState::new(Some(bits));
        self.tolerance.store(state.tolerance_ns, Relaxed);
        self.cost.store(state.cost, Relaxed);
        self.conforming.store(0, Relaxed);
    }

    fn next(&self, before: u64, octets: u32, now: u64) -> Option<u64> {
        let price = RateState::price_ns(self.cost.load(Relaxed), octets);
        RateState::admit(before, now, price, self.tolerance.load(Relaxed))
    }

    fn would_admit(&self, octets: u32, now: u64) -> bool {
        self.next(self.conforming.load(Relaxed), octets, now)
            .is_some()
    }

    /// Whether a packet is within the limit; it is charged then.
    pub(super) fn admit(&self, octets: u32, now: u64) -> bool {
        self.conforming
            .fetch_update(Relaxed, Relaxed, |before| self.next(before, octets, now))
            .is_ok()
    }

    fn charge(&self, octets: u32, now: u64) {
        // What another thread made too early since is charged to nobody.
        let _ = self
            .conforming
            .fetch_update(Relaxed, Relaxed, |before| self.next(before, octets, now));
    }
}

/// An AMBR.
#[derive(Debug)]
pub(super) struct Both {
    uplink: Limit,
    downlink: Limit,
}

impl Both {
    pub(super) fn new(ambr: Ambr) -> Self {
        Self {
            uplink: Limit::new(ambr.uplink),
            downlink: Limit::new(ambr.downlink),
        }
    }

    pub(super) fn set(&self, ambr: Ambr) {
        self.uplink.set(ambr.uplink);
        self.downlink.set(ambr.downlink);
    }

    const fn side(&self, direction: Direction) -> &Limit {
        match direction {
            Direction::Uplink => &self.uplink,
            Direction::Downlink => &self.downlink,
        }
    }
}

/// The limits of one session: its own, and the one it shares with its UE's others.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) session: Option<Both>,
    pub(super) ue: Option<Arc<Both>>,
}

impl Limits {
    /// Whether a PDU is within all limits at `now`, nanoseconds; it is charged to all or to none.
    pub(super) fn admit(&self, direction: Direction, octets: usize, now: u64) -> bool {
        let octets = u32::try_from(octets).unwrap_or(u32::MAX).min(65_535);
        let all = || {
            let own = self.session.iter();
            own.chain(self.ue.as_deref())
                .map(|both| both.side(direction))
        };
        let admitted = all().all(|limit| limit.would_admit(octets, now));
        if admitted {
            all().for_each(|limit| limit.charge(octets, now));
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn ambr(bits: u64) -> Ambr {
        Ambr {
            uplink: bits,
            downlink: bits,
        }
    }

    /// Octets of 1000 that pass when one comes every 10 microseconds, 800 Mbit/s.
    fn pass(limits: &[Limits], seconds: u64) -> u64 {
        let mut passed = 0;
        for n in 0..seconds * 100_000 {
            let limits = &limits[usize::try_from(n).unwrap() % limits.len()];
            if limits.admit(Direction::Uplink, 1000, n * 10_000) {
                passed += 1000;
            }
        }
        passed
    }

    #[test]
    fn the_lowest_limit_counts() {
        let of = |session, ue| Limits {
            session: Some(Both::new(ambr(session))),
            ue: Some(Arc::new(Both::new(ambr(ue)))),
        };
        // 8 Mbit/s: 1 MB/s and 100 ms of it at once, but for the packet that is just too early.
        let expected = 4_099_000..=4_100_000;
        assert!(expected.contains(&pass(&[of(8_000_000, 80_000_000)], 4)));
        assert!(expected.contains(&pass(&[of(80_000_000, 8_000_000)], 4)));
    }

    #[test]
    fn sessions_of_a_ue_share_its_limit() {
        let ue = Arc::new(Both::new(ambr(16_000_000)));
        let limits = [0, 1].map(|_| Limits {
            session: Some(Both::new(ambr(80_000_000))),
            ue: Some(Arc::clone(&ue)),
        });
        assert!((4_199_000..=4_200_000).contains(&pass(&limits, 2)));
        ue.set(ambr(8_000_000));
        let late = limits[0].admit(Direction::Uplink, 1000, 9 * SECOND);
        assert!(late, "a change takes nothing that was there");
        // What one refuses is not charged to the other.
        let mut refused = 0;
        for _ in 0..200 {
            if !limits[0].admit(Direction::Uplink, 1000, 9 * SECOND) {
                refused += 1;
            }
        }
        assert_eq!(refused, 101);
        let own = limits[0].session.as_ref().unwrap();
        let ahead = own.uplink.conforming.load(Relaxed) - 9 * SECOND;
        assert_eq!(ahead, 100 * 100_000, "100 PDUs at 80 Mbit/s");
    }
}
