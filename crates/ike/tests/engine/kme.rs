//! A KME pair without HTTP: each key is handed out exactly once on each side.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use ike::{Instant, KeysWanted, QkdFailure};
use keys::{KeyId, QkdKey, Secret};
use rand_core::{Rng, SeedableRng};

use crate::rng::TestRng;

/// What goes wrong at the KMEs.
#[derive(Debug, Clone, Default)]
pub(crate) struct KmeFaults {
    /// Master side refuses with this.
    pub(crate) master: Option<QkdFailure>,
    /// Slave side refuses with this.
    pub(crate) slave: Option<QkdFailure>,
    /// Keys reach the slave side this much later than the master.
    pub(crate) replication: Duration,
    /// The slave side holds other octets under this ordinal of each request (0: the first).
    pub(crate) wrong_octets: Option<usize>,
    /// The slave side never gets keys with this ordinal.
    pub(crate) missing: Option<usize>,
}

struct Stored {
    octets: Vec<u8>,
    from: Instant,
}

/// Both KMEs and the link between them.
pub(crate) struct Kme {
    rng: TestRng,
    pub(crate) faults: KmeFaults,
    store: HashMap<KeyId, Stored>,
    collected: HashSet<KeyId>,
    /// Octets of every key made, by ID, for comparison with what is installed.
    pub(crate) made: HashMap<KeyId, Vec<u8>>,
    /// `enc_keys` calls.
    pub(crate) allocations: usize,
    /// `dec_keys` calls.
    pub(crate) collections: usize,
}

impl Kme {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: TestRng::seed_from_u64(seed ^ 0x6b6d65),
            faults: KmeFaults::default(),
            store: HashMap::new(),
            collected: HashSet::new(),
            made: HashMap::new(),
            allocations: 0,
            collections: 0,
        }
    }

    /// Answers a request; `Err(None)` means "not yet there", to be asked again.
    pub(crate) fn answer(
        &mut self,
        now: Instant,
        wanted: &KeysWanted,
    ) -> Result<Vec<QkdKey>, Option<QkdFailure>> {
        match wanted {
            KeysWanted::Allocate {
                number, size_bits, ..
            } => {
                self.allocations += 1;
                match self.faults.master {
                    Some(failure) => Err(Some(failure)),
                    None => Ok(self.allocate(now, *number, *size_bits as usize / 8)),
                }
            }
            KeysWanted::Collect { ids, .. } => {
                self.collections += 1;
                match self.faults.slave {
                    Some(failure) => Err(Some(failure)),
                    None => self.collect(now, ids),
                }
            }
        }
    }

    fn allocate(&mut self, now: Instant, number: usize, size: usize) -> Vec<QkdKey> {
        (0..number)
            .map(|ordinal| {
                let mut id = [0; 16];
                self.rng.fill_bytes(&mut id);
                let mut octets = vec![0; size];
                self.rng.fill_bytes(&mut octets);
                let id = KeyId::from_octets(id);
                let mut copy = octets.clone();
                if self.faults.wrong_octets == Some(ordinal) {
                    copy[0] ^= 1;
                }
                if self.faults.missing != Some(ordinal) {
                    let from = now + self.faults.replication;
                    self.store.insert(id, Stored { octets: copy, from });
                }
                self.made.insert(id, octets.clone());
                QkdKey {
                    id,
                    secret: Secret::from_slice(&octets),
                }
            })
            .collect()
    }

    /// All or nothing, as ETSI GS QKD 014 wants.
    fn collect(&mut self, now: Instant, ids: &[KeyId]) -> Result<Vec<QkdKey>, Option<QkdFailure>> {
        for id in ids {
            assert!(!self.collected.contains(id), "{id} fetched twice");
            match self.store.get(id) {
                None => return Err(Some(QkdFailure::UnknownKey)),
                Some(stored) if stored.from > now => return Err(None),
                Some(_) => {}
            }
        }
        Ok(ids
            .iter()
            .filter_map(|id| {
                self.collected.insert(*id);
                let stored = self.store.remove(id)?;
                Some(QkdKey {
                    id: *id,
                    secret: Secret::from_slice(&stored.octets),
                })
            })
            .collect())
    }
}
