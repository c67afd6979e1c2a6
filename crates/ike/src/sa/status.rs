//! What an IKE SA tells about itself.

use super::{Phase, Sa, child::ChildState};
use crate::{
    config::{Mode, QkdPolicy},
    status::{Census, ChildStatus, SaState, SaStatus},
};

impl Sa {
    fn state(&self) -> SaState {
        match self.phase {
            Phase::Established => SaState::Established,
            Phase::Deleting | Phase::Gone => SaState::Deleting,
            _ => SaState::Connecting,
        }
    }

    pub(crate) const fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) const fn policy(&self) -> QkdPolicy {
        self.terms.policy
    }

    pub(crate) fn keys_held(&self) -> usize {
        self.ledger.len()
    }

    pub(crate) fn count(&self, census: &mut Census) {
        *census.ike_sas.entry((self.state(), self.mode)).or_default() += 1;
        for child in self.children.values() {
            if child.state == ChildState::Up {
                *(if child.signalling {
                    &mut census.signalling
                } else {
                    &mut census.user
                }) += 1;
            }
        }
    }

    pub(crate) fn status(&self) -> SaStatus {
        SaStatus {
            id: self.id,
            state: self.state(),
            initiator: self.initiator,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            path: self.path,
            local_id: self.local_id.clone(),
            remote_id: self.remote_id.clone(),
            peer_sae: self.peer_sae.clone(),
            mode: self.mode,
            policy: self.terms.policy,
            suite: self.suite,
            created: self.created,
            established: self.established,
            nat_local: self.nat_local,
            nat_remote: self.nat_remote,
            mobike: self.mobility.is_agreed(),
            peer_addresses: self.mobility.peer_addresses().to_vec(),
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
                    key_exchange: child.exchange.agreed,
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
