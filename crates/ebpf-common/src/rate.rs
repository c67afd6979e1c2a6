//! Rate limits: the generic cell rate algorithm, a token bucket that is one number.
//!
//! A flow of rate R may be ahead of R by `tolerance`. [`RateState::conforming_ns`] is the time at
//! which all octets so far would have passed at R exactly. An octet costs 8/R; a packet passes when
//! that time, moved by its cost, is at most `tolerance` ahead of the clock. Over a span T that begins
//! idle a flow so passes at most R * (T + tolerance), and never less than offered below R.

use crate::relay::RateState;

/// Binary places of [`RateState::cost`].
const PLACES: u32 = 20;
/// Slower rates are served as this one, so that a cost stays within its number, bit/s.
pub const SLOWEST: u64 = 1000;
/// How far a flow may be ahead of its rate. TCP behind a limit without a queue needs about a round trip
/// of the path at the rate; 100 ms is a long one.
pub const TOLERANCE_NS: u64 = 100_000_000;
/// The tolerance is never less than this many octets, or slow rates would never pass a packet.
pub const LEAST_BURST: u64 = 2 * 1500;

impl RateState {
    /// The limit of `bits` per second; `None` limits nothing.
    pub const fn new(bits: Option<u64>) -> Self {
        let Some(bits) = bits else {
            return Self {
                cost: 0,
                tolerance_ns: 0,
                conforming_ns: 0,
            };
        };
        let bits = if bits < SLOWEST { SLOWEST } else { bits };
        let cost = (8_000_000_000 << PLACES) / bits;
        let least = (LEAST_BURST * cost) >> PLACES;
        Self {
            // Above 8 Pbit/s an octet would cost nothing, which means no limit.
            cost: if cost == 0 { 1 } else { cost },
            tolerance_ns: if least > TOLERANCE_NS {
                least
            } else {
                TOLERANCE_NS
            },
            conforming_ns: 0,
        }
    }

    /// What `octets` cost, nanoseconds.
    #[inline(always)]
    pub const fn price_ns(cost: u64, octets: u32) -> u64 {
        // At most 8e6 << 20 times a packet of 65535: below 2^63.
        (cost * octets as u64) >> PLACES
    }

    /// The next `conforming_ns` when a packet of that price passes at `now`; `None` when it is too
    /// early.
    #[inline(always)]
    pub const fn admit(conforming: u64, now: u64, price: u64, tolerance: u64) -> Option<u64> {
        let from = if conforming > now { conforming } else { now };
        let next = from + price;
        if next - now > tolerance {
            None
        } else {
            Some(next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Octets that pass within `span` nanoseconds when packets of `octets` come every `gap`.
    fn pass(limit: &mut RateState, octets: u32, gap: u64, from: u64, span: u64) -> u64 {
        let mut passed = 0;
        let mut now = from;
        while now < from + span {
            let price = RateState::price_ns(limit.cost, octets);
            let next = RateState::admit(limit.conforming_ns, now, price, limit.tolerance_ns);
            if let Some(next) = next {
                limit.conforming_ns = next;
                passed += u64::from(octets);
            }
            now += gap;
        }
        passed
    }

    #[test]
    fn a_flood_passes_at_the_rate_and_its_burst() {
        const SECOND: u64 = 1_000_000_000;
        for bits in [64_000, 1_000_000, 20_000_000, 1_000_000_000] {
            let mut limit = RateState::new(Some(bits));
            // Twice the rate offered for ten seconds of virtual time.
            let gap = 1400 * 8 * SECOND / bits / 2;
            let passed = pass(&mut limit, 1400, gap, 77, 10 * SECOND);
            let burst = limit.tolerance_ns as f64 * bits as f64 / 8e9;
            let most = bits as f64 / 8.0 * 10.0 + burst;
            assert!(passed as f64 <= most, "{bits}: {passed} > {most}");
            assert!(
                passed as f64 >= most - 2.0 * 1400.0,
                "{bits}: {passed} of {most}"
            );
        }
    }

    #[test]
    fn below_the_rate_nothing_is_lost() {
        let mut limit = RateState::new(Some(8_000_000));
        // 1000 octets a millisecond are the rate exactly.
        let passed = pass(&mut limit, 1000, 1_000_000, 0, 3_000_000_000);
        assert_eq!(passed, 3_000_000);
    }

    #[test]
    fn time_without_packets_is_not_saved_up() {
        let mut limit = RateState::new(Some(8_000_000));
        let first = pass(&mut limit, 1000, 1000, 0, 1_000_000);
        // An hour later: one burst, not an hour's worth.
        let later = pass(&mut limit, 1000, 1000, 3_600_000_000_000, 1_000_000);
        assert_eq!((first, later), (100_000, 100_000));
    }

    #[test]
    fn extremes_neither_overflow_nor_block() {
        for bits in [0, 1, 999, 4_000_000_000_000, u64::MAX] {
            let limit = RateState::new(Some(bits));
            let price = RateState::price_ns(limit.cost, 65_535);
            assert!(price < 1 << 63, "{bits}");
            let small = RateState::price_ns(limit.cost, 1500);
            assert!(RateState::admit(0, 1, small, limit.tolerance_ns).is_some());
        }
        let none = RateState::new(None);
        assert_eq!(none.cost, 0);
    }
}
