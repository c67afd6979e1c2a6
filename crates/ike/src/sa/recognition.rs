//! What an attach in mode `qkd` leaves for the UE's next one: a key that it is recognised by.

use std::net::IpAddr;

use keys::{KeyId, SaeId};

use super::{Cx, Sa};
use crate::{
    config::{Mode, Profile},
    crypto::admission::AdmissionKey,
};

/// An admission key, and whose it is.
pub(crate) struct Recognition {
    /// Whether this end is the UE.
    pub(crate) ue: bool,
    /// Where the other end is.
    pub(crate) peer: IpAddr,
    /// The UE's SAE ID, which the KMSs vouch for: both ends have proven to have its keys.
    pub(crate) sae: SaeId,
    pub(crate) key: AdmissionKey,
}

impl Sa {
    /// To be called before `K_auth` is wiped.
    pub(super) fn recognition_key(&self, cx: &Cx<'_>) -> Option<Recognition> {
        cx.config.admission.tags?;
        if self.mode != Mode::Qkd(Profile::Native) {
            return None;
        }
        let keys = self.crypt.as_ref()?.auth.as_ref()?;
        let sae = match self.ue {
            true => &self.own_sae,
            false => &self.peer_sae,
        };
        Some(Recognition {
            ue: self.ue,
            peer: self.path.remote.ip(),
            sae: sae.clone()?,
            key: AdmissionKey::derive(keys.prf, keys.k_auth.as_ref()?).ok()?,
        })
    }

    /// Once, when our KMS has not got a key that the responder named: its address, our SAE ID, the key.
    pub(crate) fn take_missing(&mut self) -> Option<(IpAddr, SaeId, KeyId)> {
        let id = self.missing.take()?;
        Some((self.path.remote.ip(), self.own_sae.clone()?, id))
    }

    /// Once, when both ends are authenticated.
    pub(crate) fn take_recognition(&mut self) -> Option<Recognition> {
        self.recognition.take()
    }
}
