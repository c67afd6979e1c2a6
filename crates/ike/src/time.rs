//! Virtual time: the engine never reads a clock.

use std::{
    ops::{Add, AddAssign},
    time::Duration,
};

/// A point in time, counted from an origin of the caller's choice.
///
/// A daemon passes the time since it started (`std::time::Instant::elapsed`), a test whatever it likes.
/// It has to be monotonic: a call with an earlier time than the last is treated as "no time has passed".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(Duration);

impl Instant {
    /// The origin.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// The instant `since_origin` after the origin.
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// Time since the origin.
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// Time from `earlier` to `self`, zero when `earlier` is later.
    pub const fn duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at the end of time: a timer set there never fires.
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_wraps() {
        let end = Instant::from_origin(Duration::MAX);
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(Instant::ZERO.duration_since(end), Duration::ZERO);
        assert_eq!(
            (Instant::ZERO + Duration::from_secs(3)).duration_since(Instant::ZERO),
            Duration::from_secs(3)
        );
    }
}
