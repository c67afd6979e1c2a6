//! Ends: of a UE by its AMF, by itself, by the operator, by silence.

use ike::{CloseReason, Instant, SaId};
use tracing::{info, warn};

use super::{
    N3iwf,
    types::{Action, ChildState, Command, IkeState, N2State},
};
use crate::ngap::{self, Cause, CauseRadioNetwork};

impl N3iwf {
    /// UE CONTEXT RELEASE COMMAND (TS 38.413, 8.3.3): answered at once, so that the AMF never
    /// waits for a UE that may be out of reach; the IKE SA goes on its own time.
    pub(super) fn context_release(
        &mut self,
        now: Instant,
        amf: usize,
        id: u64,
        ran: Option<u32>,
        cause: Option<&Cause>,
    ) {
        let found = self
            .ues
            .values()
            .filter(|ue| ue.amf == Some(amf))
            .find(|ue| match ran {
                Some(ran) => ue.number == ran && ue.n2.amf_ue().is_none_or(|known| known == id),
                None => ue.n2.amf_ue() == Some(id),
            })
            .filter(|ue| !matches!(ue.n2, N2State::None | N2State::Gone))
            .map(|ue| ue.number);
        let Some(number) = found else {
            warn!(
                amf = self.amf_name(amf),
                id,
                ?ran,
                "release of no UE of ours"
            );
            let cause = Cause::radioNetwork(CauseRadioNetwork::unknown_local_UE_NGAP_ID);
            let answer = ngap::error_indication(Some(id), ran, cause);
            self.send_ngap(amf, None, answer);
            return;
        };
        let text = cause.map(ngap::cause_text).unwrap_or_default();
        info!(ue = number, cause = %text, "released by the AMF");
        if let Some(ue) = self.ues.get_mut(&number) {
            ue.n2 = N2State::Active(id);
            self.touched = Some(ue.sa);
        }
        self.send_about(number, |ids, ue| {
            let sessions: Vec<u8> = ue.sessions.keys().copied().collect();
            ngap::context_release_complete(ids, &sessions)
        });
        self.forget_context(now, number);
    }

    /// Lets the AMF release a UE; if it does not, the UE goes all the same. `false`: no such UE.
    pub fn release(&mut self, now: Instant, number: u32) -> bool {
        let Some(ue) = self.ues.get(&number) else {
            return false;
        };
        info!(ue = number, "released by the operator");
        let cause = Cause::misc(ngap::CauseMisc::om_intervention);
        if matches!(ue.n2, N2State::Active(_)) && ue.ike != IkeState::Authenticating {
            self.ask_release(now, number, cause);
        } else {
            self.release_now(now, number, cause);
        }
        true
    }

    /// Tells the AMF and closes the IKE SA without waiting for either.
    pub(super) fn release_now(&mut self, now: Instant, number: u32, cause: Cause) {
        self.ask_release(now, number, cause);
        self.close_ike(now, number);
        self.reap(number);
    }

    /// UE CONTEXT RELEASE REQUEST, once.
    pub(super) fn ask_release(&mut self, now: Instant, number: u32, cause: Cause) {
        let deadline = now + self.config.timing.context_release;
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        match ue.n2 {
            N2State::Active(id) => {
                self.send_about(number, |ids, _| ngap::context_release_request(ids, cause));
                if let Some(ue) = self.ues.get_mut(&number) {
                    ue.n2 = N2State::Releasing(id, deadline);
                }
            }
            N2State::Asked => ue.n2 = N2State::Orphaned(deadline),
            N2State::None | N2State::Orphaned(_) | N2State::Releasing(..) | N2State::Gone => {}
        }
    }

    /// Deletes the IKE SA, whatever its state.
    pub(super) fn close_ike(&mut self, now: Instant, number: u32) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        match ue.ike {
            IkeState::Authenticating if !ue.eap.awaits_ue => self.abandon_eap(now, number),
            IkeState::Authenticating | IkeState::Finishing | IkeState::Up => {
                ue.ike = IkeState::Closing;
                let sa = ue.sa;
                self.commands.push_back(Command::Close { sa });
            }
            IkeState::Closing | IkeState::Closed => {}
        }
    }

    /// Nothing of the IKE SA is left: whatever hung on it goes, and the AMF is told unless it was
    /// the AMF that wanted it.
    pub(super) fn closed(&mut self, now: Instant, sa: SaId, reason: &CloseReason) {
        self.half_open.remove(&sa);
        self.actions.push_back(Action::ForgetKeys { sa });
        let Some(ue) = self.ue_of(sa) else {
            return;
        };
        let number = ue.number;
        info!(ue = number, %reason, "IKE SA closed");
        ue.ike = IkeState::Closed;
        ue.timeline.end(now.since_origin());
        ue.lost.clear();
        let link = ue.link.take();
        let undelivered = std::mem::take(&mut ue.downlink);
        let leftover: Vec<_> = ue
            .children
            .iter_mut()
            .filter(|(_, child)| {
                matches!(child.state, ChildState::Installed | ChildState::Draining(_))
            })
            .map(|(id, child)| {
                child.state = ChildState::Removing;
                *id
            })
            .collect();
        for child in leftover {
            self.actions.push_back(Action::RemoveSa { child });
        }
        if let Some(link) = link {
            self.by_link.remove(&link);
            self.actions.push_back(Action::CloseNas { link });
        }
        self.fail_context(number);
        let cause = cause(reason);
        self.drop_sessions(number, &cause);
        for nas in undelivered {
            let cause = cause.clone();
            self.send_about(number, |ids, _| ngap::nas_non_delivery(ids, &nas, cause));
        }
        self.ask_release(now, number, cause);
        self.reap(number);
    }
}

/// How the end of an IKE SA is told to the AMF.
fn cause(reason: &CloseReason) -> Cause {
    Cause::radioNetwork(match reason {
        CloseReason::PeerDead
        | CloseReason::PeerDeleted
        | CloseReason::HalfOpenExpired
        | CloseReason::InitialContact => CauseRadioNetwork::radio_connection_with_ue_lost,
        CloseReason::Local => CauseRadioNetwork::release_due_to_ngran_generated_reason,
        _ => CauseRadioNetwork::failure_in_radio_interface_procedure,
    })
}
