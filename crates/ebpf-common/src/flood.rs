//! A limit of IKE_SA_INIT requests from each source, before user space has to look at them.
//!
//! A source is an IPv4 address, or the first 64 bits of an IPv6 one: who has such a prefix has all its addresses
//! (RFC 6177). Whoever forges sources has no limit here; cookies are for that (RFC 7296, 2.6).

/// Name of the one-entry array that holds [`InitLimit`].
pub const MAP_INIT_LIMIT: &str = "nwu_init_limit";
/// Name of the sources seen last: `LruHashMap<[u8; 16], InitSource>`. Keys are addresses in network byte order, IPv4
/// as `::ffff:a.b.c.d`, IPv6 with zeros for its last 64 bits.
pub const MAP_INIT_SOURCES: &str = "nwu_init_source";
/// Name of the counter of what was dropped: `PerCpuArray<Counter>`, one entry.
pub const MAP_INIT_DROPS: &str = "nwu_init_drops";

/// Sources remembered; the one unused for longest makes room.
pub const INIT_SOURCES: u32 = 65_536;
/// The highest limit, requests per second.
pub const MOST_INITS: u32 = 100_000;

const SECOND_NS: u64 = 1_000_000_000;

/// Value of [`MAP_INIT_LIMIT`]. All zeroes, as after loading, limits nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InitLimit {
    /// What a request costs, nanoseconds; 0: no limit.
    pub price_ns: u64,
    /// How far a source may be ahead, nanoseconds.
    pub tolerance_ns: u64,
}

/// Value of [`MAP_INIT_SOURCES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InitSource {
    /// `CLOCK_MONOTONIC`, nanoseconds, at which all its requests so far would have passed at the limit exactly: see
    /// [`crate::rate`].
    pub conforming_ns: u64,
}

impl InitLimit {
    /// So many requests per second, and as many at once; 1 to [`MOST_INITS`].
    #[must_use]
    pub const fn per_second(requests: u32) -> Self {
        let requests = if requests == 0 { 1 } else { requests };
        Self {
            price_ns: SECOND_NS / requests as u64,
            tolerance_ns: SECOND_NS,
        }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;

    use super::*;
    use crate::relay::RateState;

    /// Requests of one source that pass when they come every `gap` nanoseconds from `from` on.
    fn pass(limit: InitLimit, source: &mut InitSource, from: u64, gap: u64, count: u64) -> u64 {
        let mut passed = 0;
        for n in 0..count {
            let now = from + n * gap;
            let (price, tolerance) = (limit.price_ns, limit.tolerance_ns);
            if let Some(next) = RateState::admit(source.conforming_ns, now, price, tolerance) {
                source.conforming_ns = next;
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn a_source_passes_at_its_rate_and_a_second_of_it_at_once() {
        for rate in [1, 3, 10, 500, MOST_INITS] {
            let limit = InitLimit::per_second(rate);
            let mut source = InitSource::default();
            let rate = u64::from(rate);
            let at_once = pass(limit, &mut source, 5, 0, 10 * rate);
            assert_eq!(at_once, rate);
            // Ten times the rate for ten seconds more.
            let gap = SECOND_NS / rate / 10;
            let later = pass(limit, &mut source, 5, gap.max(1), 100 * rate);
            assert!(
                later.abs_diff(10 * rate) <= 1 + rate / 100,
                "{later} of {rate}"
            );
        }
    }

    #[test]
    fn a_ue_that_repeats_itself_is_below_any_limit() {
        let mut source = InitSource::default();
        let passed = pass(InitLimit::per_second(1), &mut source, 7, SECOND_NS, 20);
        assert_eq!(passed, 20);
    }

    #[test]
    fn layout_and_names() {
        assert_eq!(size_of::<InitLimit>(), 16);
        assert_eq!(size_of::<InitSource>(), 8);
        for name in [MAP_INIT_LIMIT, MAP_INIT_SOURCES, MAP_INIT_DROPS] {
            assert!(name.len() <= 15, "{name}");
        }
        assert_eq!(InitLimit::per_second(0), InitLimit::per_second(1));
    }
}
