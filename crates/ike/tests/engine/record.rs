//! What the tests look at afterwards, and that the keys are right.

use std::collections::{BTreeMap, HashMap, HashSet};

use ike::{
    ChildId, CloseReason, Fate, Instant, KeyPurpose, KeyRequestId, Mode, Path, SaId,
    wire::{Notify, NotifyType, TrafficSelector},
};
use keys::{KeyId, SaeId};

use crate::world::{
    Side::{self, N3iwf, Ue},
    World,
};

/// One datagram as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) from: Side,
    pub(crate) path: Path,
    pub(crate) data: Vec<u8>,
}

impl Sent {
    /// Octets as an Ethernet frame over IPv4.
    pub(crate) fn frame_len(&self) -> usize {
        14 + 20 + 8 + self.data.len()
    }
}

/// A data plane's view of a Child SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) id: ChildId,
    pub(crate) sa: SaId,
    pub(crate) spi_in: u32,
    pub(crate) spi_out: u32,
    pub(crate) key_in: Vec<u8>,
    pub(crate) key_out: Vec<u8>,
    pub(crate) salt_in: [u8; 4],
    pub(crate) salt_out: [u8; 4],
    pub(crate) integ_in: Option<Vec<u8>>,
    pub(crate) integ_out: Option<Vec<u8>>,
    pub(crate) signalling: bool,
    pub(crate) udp_encap: bool,
    pub(crate) key_ids: Vec<KeyId>,
    pub(crate) ts_local: Vec<TrafficSelector>,
    pub(crate) ts_remote: Vec<TrafficSelector>,
    pub(crate) notifies: Vec<Notify>,
}

/// What one side has seen.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) established: Vec<SaId>,
    /// What known UEs said that their KMS does not have.
    pub(crate) keys_missing: Vec<(SaeId, KeyId)>,
    pub(crate) closed: Vec<(SaId, CloseReason)>,
    pub(crate) installed: BTreeMap<ChildId, Installed>,
    pub(crate) up: HashSet<ChildId>,
    pub(crate) tokens_up: Vec<u64>,
    pub(crate) failed: Vec<(ChildId, ike::ChildFailure)>,
    pub(crate) down: Vec<(ChildId, bool)>,
    pub(crate) fates: HashMap<KeyId, Fate>,
    pub(crate) provided: usize,
    pub(crate) keys_needed: usize,
    pub(crate) paths: Vec<Path>,
    pub(crate) encaps: Vec<bool>,
    pub(crate) refusals: Vec<NotifyType>,
    pub(crate) eap_begins: usize,
    pub(crate) eap_failures: usize,
    pub(crate) configuration: Vec<ike::wire::CfgAttribute>,
    pub(crate) notifies: Vec<Notify>,
    pub(crate) installs: usize,
    pub(crate) requests: HashSet<KeyRequestId>,
    /// Rekeys: old and new Child SA.
    pub(crate) switched: Vec<(ChildId, ChildId)>,
    pub(crate) rekeys_failed: Vec<(ChildId, ike::ChildFailure)>,
    pub(crate) ike_rekeys: usize,
    pub(crate) ike_rekeys_failed: Vec<ike::ChildFailure>,
    /// What the peer told with `inform`.
    pub(crate) told: Vec<Vec<Notify>>,
    /// Answers to `inform`, by token.
    pub(crate) informed: Vec<(u64, Option<NotifyType>)>,
    pub(crate) fallbacks: Vec<(Vec<Mode>, Vec<Mode>, CloseReason)>,
}

impl World {
    /// Keys agree on both sides, no key serves two purposes, no purpose has two keys.
    ///
    /// Keys that a KME delivers wrong for a Child SA are nothing IKE could see, so they are not compared.
    pub(crate) fn check_keys(&mut self) {
        let sound = self.kme.faults.wrong_octets.is_none();
        for installed in self.ue.record.installed.values().filter(|_| sound) {
            let Some(peer) =
                self.n3iwf.record.installed.values().find(|peer| {
                    peer.spi_in == installed.spi_out && peer.spi_out == installed.spi_in
                })
            else {
                continue;
            };
            assert_eq!(installed.key_in, peer.key_out);
            assert_eq!(installed.key_out, peer.key_in);
            assert_eq!(installed.salt_in, peer.salt_out);
            assert_eq!(installed.salt_out, peer.salt_in);
            assert_eq!(installed.integ_in, peer.integ_out);
            assert_eq!(installed.integ_out, peer.integ_in);
            assert_ne!(installed.key_in, installed.key_out);
            assert_eq!(installed.key_ids, peer.key_ids);
        }
        for side in [Ue, N3iwf] {
            let record = &self.node(side).record;
            let mut purposes: HashSet<(KeyPurpose, Option<ChildId>)> = HashSet::new();
            let mut octets = HashSet::new();
            for (id, fate) in &record.fates {
                if let Fate::Used { purpose, child } = fate
                    && child.is_some()
                {
                    assert!(
                        purposes.insert((*purpose, *child)),
                        "two keys for {purpose:?}"
                    );
                }
                assert!(octets.insert(*id));
            }
            let mut seen = HashSet::new();
            for installed in record.installed.values() {
                for id in &installed.key_ids {
                    assert!(seen.insert(*id), "{id} serves two Child SAs");
                }
            }
        }
        // A key that both sides used, both used for the same.
        for (id, fate) in &self.ue.record.fates {
            if let (
                Fate::Used { purpose, .. },
                Some(Fate::Used {
                    purpose: theirs, ..
                }),
            ) = (fate, self.n3iwf.record.fates.get(id))
            {
                assert_eq!(purpose, theirs, "{id}");
            }
        }
    }
}
