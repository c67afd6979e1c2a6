//! What a KME holds: the filling of its half of the link, and keys waiting for their slave SAEs.
//!
//! Time is a [`Duration`] since the KME's start, given by the caller.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use keys::{KeyId, QkdKey, SaeId, Secret};

use crate::config::LinkConfig;

/// Keys that may wait for slave SAEs; beyond, the oldest are dropped.
const MOST_WAITING: usize = 100_000;

/// Key IDs remembered to recognise a key that the link delivers again.
const MOST_RECENT: usize = 10_000;

/// The buffer of a QKD link: fills at a rate, in bits.
#[derive(Debug)]
pub(crate) struct Buffer {
    rate: u64,
    size: u64,
    /// In bits times 10^9, so that no fraction of a bit is lost between two looks.
    level: u128,
    seen: Duration,
}

const NANO: u128 = 1_000_000_000;

impl Buffer {
    pub(crate) fn new(link: &LinkConfig) -> Self {
        let initial = link.initial.unwrap_or(link.buffer).min(link.buffer);
        Self {
            rate: link.rate,
            size: link.buffer,
            level: u128::from(initial) * NANO,
            seen: Duration::ZERO,
        }
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Whole bits in the buffer.
    pub(crate) fn level(&mut self, now: Duration) -> u64 {
        let elapsed = now.saturating_sub(self.seen).as_nanos();
        self.seen = self.seen.max(now);
        self.level = self
            .level
            .saturating_add(elapsed.saturating_mul(u128::from(self.rate)))
            .min(u128::from(self.size) * NANO);
        u64::try_from(self.level / NANO).unwrap_or(u64::MAX)
    }

    /// Takes `bits`, or nothing when there are fewer.
    pub(crate) fn draw(&mut self, now: Duration, bits: u64) -> bool {
        if self.level(now) < bits {
            return false;
        }
        self.level -= u128::from(bits) * NANO;
        true
    }
}

/// A key delivered to its master SAE, on its way to the slave SAEs.
pub(crate) struct Record {
    pub(crate) id: KeyId,
    pub(crate) secret: Secret,
    pub(crate) master: SaeId,
    pub(crate) slaves: Vec<SaeId>,
}

/// Why `dec_keys` gets nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TakeError {
    /// At least one key is not here, or not any more: 400.
    NotFound,
    /// At least one key is here, but not for this SAE from this master: 401.
    NotNamed,
}

struct Waiting {
    visible: Duration,
    record: Record,
    /// Slave SAEs that have not had it.
    left: Vec<SaeId>,
}

/// Keys waiting for slave SAEs.
#[derive(Default)]
pub(crate) struct Store {
    waiting: HashMap<KeyId, Waiting>,
    /// In order of arrival; may name keys that have left since.
    order: VecDeque<KeyId>,
    recent: HashSet<KeyId>,
    recent_order: VecDeque<KeyId>,
}

impl Store {
    /// Keeps a key that is known here from `visible` on. A key seen before is left alone.
    pub(crate) fn put(&mut self, visible: Duration, record: Record) -> bool {
        let id = record.id;
        if !self.recent.insert(id) {
            return false;
        }
        self.recent_order.push_back(id);
        if self.recent_order.len() > MOST_RECENT
            && let Some(oldest) = self.recent_order.pop_front()
        {
            self.recent.remove(&oldest);
        }
        self.order.push_back(id);
        let left = record.slaves.clone();
        let waiting = Waiting {
            visible,
            record,
            left,
        };
        self.waiting.insert(id, waiting);
        while self.waiting.len() > MOST_WAITING
            && let Some(oldest) = self.order.pop_front()
        {
            self.waiting.remove(&oldest);
        }
        if self.order.len() > 2 * self.waiting.len() + 1024 {
            let waiting = &self.waiting;
            self.order.retain(|id| waiting.contains_key(id));
        }
        true
    }

    /// How many keys wait, visible or not.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// All of the keys `ids` for `slave` from `master`, or none of them (014, 5.4 and 6.4).
    pub(crate) fn take(
        &mut self,
        now: Duration,
        slave: &SaeId,
        master: &SaeId,
        ids: &[KeyId],
    ) -> Result<Vec<QkdKey>, TakeError> {
        let mut found = true;
        for id in ids {
            match self.waiting.get(id) {
                Some(Waiting {
                    visible,
                    record,
                    left,
                }) if *visible <= now => {
                    if record.master != *master || !record.slaves.contains(slave) {
                        return Err(TakeError::NotNamed);
                    }
                    found &= left.contains(slave);
                }
                _ => found = false,
            }
        }
        if !found {
            return Err(TakeError::NotFound);
        }
        let mut keys = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(waiting) = self.waiting.get_mut(id) else {
                continue;
            };
            // Each slave SAE gets the key once; the last one takes it away.
            waiting.left.retain(|named| named != slave);
            let secret = if waiting.left.is_empty() {
                self.waiting.remove(id).map(|waiting| waiting.record.secret)
            } else {
                Some(waiting.record.secret.duplicate())
            };
            keys.extend(secret.map(|secret| QkdKey { id: *id, secret }));
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sae(name: &str) -> SaeId {
        name.parse().unwrap()
    }

    fn id(n: u8) -> KeyId {
        KeyId::from_octets([n; 16])
    }

    fn record(n: u8, slaves: &[&str]) -> Record {
        Record {
            id: id(n),
            secret: Secret::from_slice(&[n; 32]),
            master: sae("m"),
            slaves: slaves.iter().map(|name| sae(name)).collect(),
        }
    }

    fn buffer(rate: u64, size: u64, initial: u64) -> Buffer {
        Buffer::new(&LinkConfig {
            rate,
            buffer: size,
            initial: Some(initial),
            delay: Duration::ZERO,
        })
    }

    #[test]
    fn the_buffer_fills_at_its_rate_up_to_its_size() {
        let mut buffer = buffer(100, 1000, 0);
        assert!(!buffer.draw(Duration::ZERO, 1));
        assert_eq!(buffer.level(SECOND / 2), 50);
        // A third of a bit is not lost.
        for step in 1..=300u32 {
            buffer.level(SECOND / 2 + SECOND / 300 * step);
        }
        assert_eq!(buffer.level(SECOND * 3 / 2), 150);
        assert_eq!(buffer.level(SECOND * 100), 1000);
        assert!(buffer.draw(SECOND * 100, 1000));
        assert!(!buffer.draw(SECOND * 100, 1));
        assert_eq!(buffer.level(SECOND), 0, "time does not go back");
    }

    #[test]
    fn a_key_is_taken_once_by_who_was_named() {
        let mut store = Store::default();
        store.put(SECOND, record(1, &["s"]));
        let take = |store: &mut Store, now, slave: &str, master: &str| {
            store
                .take(now, &sae(slave), &sae(master), &[id(1)])
                .map(|keys| keys.len())
        };
        assert_eq!(
            take(&mut store, Duration::ZERO, "s", "m"),
            Err(TakeError::NotFound),
            "not replicated yet"
        );
        assert_eq!(take(&mut store, SECOND, "x", "m"), Err(TakeError::NotNamed));
        assert_eq!(take(&mut store, SECOND, "s", "x"), Err(TakeError::NotNamed));
        assert_eq!(take(&mut store, SECOND, "s", "m"), Ok(1));
        assert_eq!(take(&mut store, SECOND, "s", "m"), Err(TakeError::NotFound));
        assert!(
            !store.put(SECOND, record(1, &["s"])),
            "the link repeats itself"
        );
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn several_keys_are_all_or_nothing() {
        let mut store = Store::default();
        store.put(Duration::ZERO, record(1, &["s"]));
        assert_eq!(
            store
                .take(SECOND, &sae("s"), &sae("m"), &[id(1), id(2)])
                .map(|keys| keys.len()),
            Err(TakeError::NotFound)
        );
        store.put(Duration::ZERO, record(2, &["s"]));
        let keys = store
            .take(SECOND, &sae("s"), &sae("m"), &[id(2), id(1)])
            .unwrap();
        assert_eq!(keys[0].id, id(2));
        assert_eq!(keys[1].secret.expose(), [1; 32]);
    }

    #[test]
    fn each_of_several_slaves_gets_its_copy() {
        let mut store = Store::default();
        store.put(Duration::ZERO, record(1, &["s", "t"]));
        for slave in ["t", "s"] {
            let mut take = || store.take(SECOND, &sae(slave), &sae("m"), &[id(1)]);
            assert_eq!(take().unwrap()[0].secret.expose(), [1; 32]);
            assert_eq!(take().map(|keys| keys.len()), Err(TakeError::NotFound));
        }
        assert_eq!(store.len(), 0);
    }
}
