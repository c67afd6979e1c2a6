//! INITIAL_CONTACT (RFC 7296 2.4): a peer that has lost what it had says so on its first IKE SA, and what is left of it here
//! goes at once instead of by liveness checks.
//!
//! It counts when the new IKE SA is established, so only from who has proven to be that identity:
//!
//! | mode | identity | proven by |
//! |---|---|---|
//! | `qkd`, `hybrid` | the SAE ID of the UE | keys that the KMS gives to that SAE alone |
//! | `cert`, `plain` | IDi | certificate or shared key |
//! | `psk` | none: IDi is random (TS 24.502 7.3.2.1) | the AMF releases the older context of a subscription |

use keys::SaeId;

use super::{Cx, Sa};
use crate::{config::Mode, event::CloseReason, wire::Identification};

/// What became of INITIAL_CONTACT at a responder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Contact {
    /// The peer did not say it, or it has been seen to.
    #[default]
    Silent,
    /// It said so in its first IKE_AUTH request.
    Claimed,
    /// And is authenticated.
    Proven,
}

impl Contact {
    pub(super) fn prove(&mut self) {
        if *self == Self::Claimed {
            *self = Self::Proven;
        }
    }
}

/// Who a peer has proven to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ProvenIdentity {
    /// The KMS's word.
    Sae(SaeId),
    /// IDi.
    Identification(Identification),
}

impl Sa {
    fn proven_identity(&self) -> Option<ProvenIdentity> {
        match self.mode {
            Mode::Qkd(_) | Mode::Hybrid => self.peer_sae.clone().map(ProvenIdentity::Sae),
            Mode::Cert | Mode::Plain => self.remote_id.clone().map(ProvenIdentity::Identification),
            Mode::Psk => None,
        }
    }

    /// Who the peer of an established IKE SA is, where this side is the N3IWF.
    pub(crate) fn peer_of_established(&self) -> Option<ProvenIdentity> {
        self.established.filter(|_| !self.ue)?;
        self.proven_identity()
    }

    /// Once, when the peer has proven that it is the one that says INITIAL_CONTACT: whose older IKE SAs go.
    pub(crate) fn take_contact(&mut self) -> Option<ProvenIdentity> {
        if self.contact != Contact::Proven {
            return None;
        }
        self.contact = Contact::Silent;
        self.proven_identity()
    }

    /// The peer has no such IKE SA any more, so it is told nothing.
    pub(crate) fn forsaken(&mut self, cx: &mut Cx<'_>) {
        self.finish(cx, CloseReason::InitialContact);
    }
}
