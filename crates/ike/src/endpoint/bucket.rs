//! A token bucket for each SAE: how many QKD keys may be spent on who only says that it is that SAE.
//!
//! A bucket is the time at which it will be full again: each attach moves that by the time one token takes. So one that
//! is full says nothing and need not be kept.

use std::{collections::HashMap, time::Duration};

use keys::SaeId;

use crate::{config::Bucket, time::Instant};

/// SAEs remembered one by one; what is beyond them shares one bucket, so that a flood of invented SAE IDs neither takes
/// memory nor makes anybody's debts forgotten.
const CAPACITY: usize = 16_384;
/// How often full buckets are looked for, while there is no room.
const SWEEP: Duration = Duration::from_secs(1);

/// What an SAE's bucket allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Keys for anybody.
    Free,
    /// Keys for who returns a cookie.
    Low,
    /// No keys.
    Spent,
}

/// Buckets by SAE.
#[derive(Default)]
pub(super) struct Buckets {
    full_at: HashMap<SaeId, Instant>,
    /// The bucket of all that find no room.
    crowd: Instant,
    swept: Instant,
}

impl Buckets {
    pub(super) fn standing(&mut self, now: Instant, bucket: &Bucket, sae: &SaeId) -> Standing {
        if self.full_at.len() >= CAPACITY {
            self.sweep(now);
        }
        let own = self.full_at.get(sae).copied();
        let full_at = match own {
            Some(full_at) => full_at,
            None if self.full_at.len() < CAPACITY => now,
            None => self.crowd,
        };
        let token = token(bucket);
        let wanted = full_at.duration_since(now) + token;
        if wanted <= token.saturating_mul(bucket.burst) {
            Standing::Free
        } else if wanted <= token.saturating_mul(bucket.burst.saturating_add(bucket.hard)) {
            Standing::Low
        } else {
            Standing::Spent
        }
    }

    /// One attach of this SAE.
    pub(super) fn take(&mut self, now: Instant, bucket: &Bucket, sae: &SaeId) {
        let room = self.full_at.len() < CAPACITY || self.full_at.contains_key(sae);
        let full_at = match room {
            true => self.full_at.entry(sae.clone()).or_default(),
            false => &mut self.crowd,
        };
        *full_at = now.max(*full_at) + token(bucket);
    }

    pub(super) fn len(&self) -> usize {
        self.full_at.len()
    }

    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) >= SWEEP {
            self.swept = now;
            self.full_at.retain(|_, full_at| *full_at > now);
        }
    }
}

/// The time in which one token comes back.
fn token(bucket: &Bucket) -> Duration {
    Duration::from_secs(60) / bucket.per_minute.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: Bucket = Bucket {
        per_minute: 6,
        burst: 2,
        hard: 3,
    };

    fn sae(n: usize) -> SaeId {
        format!("sae-{n}").parse().unwrap()
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn a_bucket_empties_in_two_steps_and_fills_with_time() {
        let mut buckets = Buckets::default();
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(buckets.standing(at(100), &BUCKET, &sae(1)));
            buckets.take(at(100), &BUCKET, &sae(1));
        }
        use Standing::{Free, Low, Spent};
        assert_eq!(seen, [Free, Free, Low, Low, Low, Spent]);
        assert_eq!(buckets.standing(at(100), &BUCKET, &sae(2)), Free);
        // Six were taken and one comes back each ten seconds.
        for (seconds, standing) in [(119, Spent), (120, Low), (149, Low), (150, Free)] {
            let found = buckets.standing(at(seconds), &BUCKET, &sae(1));
            assert_eq!(found, standing, "after {seconds} s");
        }
    }

    #[test]
    fn invented_saes_neither_grow_the_table_nor_clear_a_debt() {
        let mut buckets = Buckets::default();
        for _ in 0..5 {
            buckets.take(at(0), &BUCKET, &sae(0));
        }
        for n in 1..CAPACITY + 100 {
            buckets.take(at(0), &BUCKET, &sae(n));
        }
        assert_eq!(buckets.len(), CAPACITY);
        assert_eq!(buckets.standing(at(0), &BUCKET, &sae(0)), Standing::Spent);
        // Those without room are in one bucket.
        let stranger = sae(CAPACITY + 1000);
        assert_eq!(buckets.standing(at(0), &BUCKET, &stranger), Standing::Spent);
        // In time the buckets of the invented are full and go.
        assert_eq!(buckets.standing(at(11), &BUCKET, &stranger), Standing::Free);
        buckets.take(at(11), &BUCKET, &stranger);
        assert_eq!(buckets.len(), 2);
        assert_eq!(buckets.standing(at(11), &BUCKET, &sae(0)), Standing::Low);
    }
}
