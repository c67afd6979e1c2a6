//! Deregistration, by the UE and by the network.

use std::time::Duration;

use oxirush_ngap::ngap::{Cause, CauseNas};

use crate::amf::registration::Protection;
use crate::amf::ue::Phase;
use crate::amf::{Action, Amf, CommandError};
use crate::nas;

impl Amf {
    /// DEREGISTRATION REQUEST of a UE: accepted, unless it switches off, which
    /// leaves nobody to answer (TS 24.501 5.5.2.2).
    pub(super) fn deregistration_request(&mut self, id: u64, switch_off: bool) {
        tracing::info!(ue = id, switch_off, "the UE deregisters");
        if !switch_off {
            self.send_nas(id, &nas::deregistration_accept(), Protection::Normal);
        }
        self.release_ue(id, Cause::nas(CauseNas::deregister));
    }

    /// Deregisters a UE from the network's side.
    ///
    /// # Errors
    /// [`CommandError::NoUe`].
    pub fn deregister(
        &mut self,
        now: Duration,
        supi: &str,
        reregister: bool,
        cause: Option<u8>,
    ) -> Result<Vec<Action>, CommandError> {
        self.advance(now);
        let id = self.registered_ue(supi)?;
        let message = nas::deregistration_request(reregister, cause);
        self.enter(id, Phase::Deregister);
        self.send_nas(id, &message, Protection::Normal);
        Ok(std::mem::take(&mut self.ready))
    }

    /// Releases a UE's connection without deregistering it first, as an AMF
    /// does that has lost its context.
    ///
    /// # Errors
    /// [`CommandError::NoUe`].
    pub fn release(&mut self, now: Duration, supi: &str) -> Result<Vec<Action>, CommandError> {
        self.advance(now);
        let id = self.connected_ue(supi)?;
        self.release_ue(id, Cause::nas(CauseNas::normal_release));
        Ok(std::mem::take(&mut self.ready))
    }

    pub(super) fn registered_ue(&self, supi: &str) -> Result<u64, CommandError> {
        self.ues
            .iter()
            .find(|(_, ue)| {
                ue.supi.as_deref() == Some(supi) && matches!(ue.phase, Phase::Registered)
            })
            .map(|(id, _)| *id)
            .ok_or_else(|| CommandError::NoUe(supi.to_owned()))
    }

    fn connected_ue(&self, supi: &str) -> Result<u64, CommandError> {
        self.ues
            .iter()
            .find(|(_, ue)| ue.supi.as_deref() == Some(supi) && !matches!(ue.phase, Phase::Release))
            .map(|(id, _)| *id)
            .ok_or_else(|| CommandError::NoUe(supi.to_owned()))
    }
}
