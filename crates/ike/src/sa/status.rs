//! What an IKE SA tells about itself.

use super::{Phase, Sa, child::ChildState};
use crate::status::{ChildStatus, SaState, SaStatus};

impl Sa {
    pub(crate) fn status(&self) -> SaStatus {
        SaStatus {
            id: self.id,
            state: match self.phase {
                Phase::Established => SaState::Established,
                Phase::Deleting | Phase::Gone => SaState::Deleting,
                _ => SaState::Connecting,
            },
            initiator: self.initiator,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            path: self.path,
            local_id: self.local_id.clone(),
            remote_id: self.remote_id.clone(),
            peer_sae: self.peer_sae.clone(),
            mode: self.mode,
            suite: self.suite,
            created: self.created,
            established: self.established,
            nat_local: self.nat_local,
            nat_remote: self.nat_remote,
            key_ids: self.ike_keys.clone(),
            held_keys: self.ledger.len(),
            retransmits: self.requests.retransmits(),
            children: self
                .children
                .values()
                .map(|child| ChildStatus {
                    id: child.id,
                    spi_in: child.spi_in,
                    spi_out: child.spi_out,
                    suite: child.suite,
                    ts_local: child.ts_local.clone(),
                    ts_remote: child.ts_remote.clone(),
                    signalling: child.signalling,
                    up: child.state == ChildState::Up,
                    since: child.since,
                    key_ids: child.key_ids.clone(),
                })
                .collect(),
        }
    }
}
