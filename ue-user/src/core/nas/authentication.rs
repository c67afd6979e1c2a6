//! 5G AKA and security mode control (TS 24.501, 5.4.1.3 and 5.4.2).

use oxirush_nas::nas_5gs::{
    GmmCause, KeySetIdentifier, Nas5gsMessage, Nas5gsSecurityHeaderType as Sht,
    NasAuthenticationFailure, NasAuthenticationFailureParameter, NasAuthenticationRequest,
    NasAuthenticationResponse, NasAuthenticationResponseParameter, NasFGmmCause,
    NasFGsMobileIdentity, NasImeisvRequest, NasMessageContainer, NasSecurityModeCommand,
    NasSecurityModeComplete, NasSecurityModeReject,
};

use super::{
    Discard, Event, Failure, Nas, Output, ciphering_name, integrity_name,
    mobility::Procedure,
    security::{Announced, Context, Partial, Refusal},
};
use crate::core::usim::Challenge;

/// How far authentication is on this NAS signalling connection.
#[derive(Default)]
pub(super) struct State {
    /// The answer to an accepted challenge, until the sequence numbers are durable.
    held: Option<Nas5gsMessage>,
    /// The challenge that was answered last, with its answer: the network may repeat it
    /// (5.4.1.3.2), and the USIM would call the repetition a replay.
    answered: Option<([u8; 16], Nas5gsMessage)>,
    /// Challenges in a row that were refused.
    refused: u8,
}

/// Refused challenges after which the network is not what it says (5.4.1.3.7).
const MAX_REFUSED: u8 = 3;

impl Nas {
    /// AUTHENTICATION REQUEST.
    pub(super) fn authentication_request(
        &mut self,
        request: &NasAuthenticationRequest,
    ) -> Result<(), Discard> {
        if matches!(self.procedure, Procedure::Deregistered) {
            return Err(Discard::Unexpected("AUTHENTICATION REQUEST".into()));
        }
        let challenge = request
            .authentication_parameter_rand
            .as_ref()
            .zip(request.authentication_parameter_autn.as_ref());
        let Some((rand, autn)) = challenge else {
            self.fail(Failure::Protocol(
                "the network wants EAP-AKA', this UE has 5G AKA".into(),
            ));
            return Ok(());
        };
        let octets = |value: &[u8]| <[u8; 16]>::try_from(value).ok();
        let (Some(rand), Some(autn)) = (octets(&rand.value), octets(&autn.value)) else {
            return Err(Discard::Unreadable("RAND and AUTN have 16 octets".into()));
        };
        if let Some((answered, answer)) = &self.authentication.answered
            && *answered == rand
        {
            let answer = answer.clone();
            self.send(&answer);
            return Ok(());
        }
        let KeySetIdentifier::Native(ngksi) = request.ngksi.key_set_identifier() else {
            self.refuse_challenge(
                GmmCause::NgKsiAlreadyInUse,
                None,
                "it names no native key set",
            );
            return Ok(());
        };
        // A key set in use must keep its identifier (5.4.1.3.6, cause 71).
        let in_use = self.context.as_ref().map(Context::ngksi);
        if self.secured && in_use == Some(ngksi) {
            self.refuse_challenge(GmmCause::NgKsiAlreadyInUse, None, "ngKSI already in use");
            return Ok(());
        }
        let sn_name = self.serving_network_name();
        match self
            .usim
            .challenge(&sn_name, &rand, &autn, request.abba.abba())
        {
            Challenge::Accepted(accepted) => {
                self.authentication.refused = 0;
                self.partial = Some(Partial {
                    k_amf: accepted.k_amf.clone(),
                    ngksi,
                });
                let parameter = NasAuthenticationResponseParameter::from_res_star(
                    *accepted.res_star.as_octets(),
                );
                let response = Nas5gsMessage::new_5gmm(
                    NasAuthenticationResponse::new()
                        .with_authentication_response_parameter(parameter),
                );
                self.authentication.answered = Some((rand, response.clone()));
                self.authentication.held = Some(response);
                let state = self.usim.sqn_state().clone();
                self.outputs.push_back(Output::StoreSqn(state));
            }
            Challenge::MacFailure => {
                self.refuse_challenge(GmmCause::MacFailure, None, "MAC failure");
            }
            Challenge::NotFor5gs => {
                let cause = GmmCause::NonFiveGAuthenticationUnacceptable;
                self.refuse_challenge(cause, None, "a challenge that is not for 5GS");
            }
            Challenge::SynchFailure(auts) => {
                self.refuse_challenge(GmmCause::SynchFailure, Some(auts), "synch failure");
            }
        }
        Ok(())
    }

    /// The outcome of [`Output::StoreSqn`].
    pub fn sqn_stored(&mut self, outcome: Result<(), String>) {
        let Some(response) = self.authentication.held.take() else {
            return;
        };
        match outcome {
            Ok(()) => {
                self.send(&response);
                self.event(Event::Authenticated);
            }
            Err(error) => self.fail(Failure::SqnStore(error)),
        }
    }

    /// Whether an answer waits for [`Self::sqn_stored`].
    pub fn is_waiting_for_sqn(&self) -> bool {
        self.authentication.held.is_some()
    }

    /// SECURITY MODE COMMAND, not verified yet. `pdu` is the whole protected message.
    pub(super) fn security_mode_command(&mut self, pdu: &[u8], command: &NasSecurityModeCommand) {
        let capability = self.security_capability();
        let announced = Announced {
            capability: &capability.value,
            ciphering: &self.config.ciphering,
            integrity: &self.config.integrity,
        };
        let context = Context::from_command(
            pdu,
            command,
            self.partial.as_ref(),
            self.context.as_ref(),
            &announced,
        );
        match context {
            Ok(context) => self.security_mode_complete(context, command),
            Err(refusal) => {
                let (cause, why) = match refusal {
                    Refusal::Mismatch(why) => (GmmCause::UeSecurityCapabilitiesMismatch, why),
                    Refusal::Unspecified(why) => (GmmCause::SecurityModeRejectedUnspecified, why),
                };
                // Under the context that was in use before, if any (5.4.2.5).
                self.send_gmm(NasSecurityModeReject::new(NasFGmmCause::from_cause(cause)));
                // It may come from anyone, so a registration that stands goes on under that context.
                if self.is_registered() {
                    self.event(Event::Status(format!(
                        "SECURITY MODE COMMAND refused: {why}"
                    )));
                } else {
                    self.fail(Failure::SecurityMode(why));
                }
            }
        }
    }

    fn security_mode_complete(&mut self, mut context: Context, command: &NasSecurityModeCommand) {
        let mut complete = NasSecurityModeComplete::new();
        let wanted = command.imeisv_request.as_ref();
        if wanted.is_some_and(NasImeisvRequest::is_requested)
            && let Some(imeisv) = &self.config.imeisv
        {
            match NasFGsMobileIdentity::from_imeisv(imeisv) {
                Ok(identity) => complete.set_imeisv(identity),
                Err(error) => return self.fail(Failure::Encode(error.to_string())),
            };
        }
        // The request went out with its cleartext IEs alone, so the complete one follows here
        // (4.4.6); a network that asks for it (RINMR) gets the same.
        if let Some(request) = &self.request {
            match NasMessageContainer::from_nas_message(request) {
                Ok(container) => complete.set_nas_message_container(container),
                Err(error) => return self.fail(Failure::Encode(error.to_string())),
            };
        }
        let header = Sht::IntegrityProtectedAndCipheredWithNewFiveGNasSecurityContext;
        match context.protect(&Nas5gsMessage::new_5gmm(complete), header) {
            Ok((pdu, count)) => {
                let (nea, nia) = context.algorithms();
                self.context = Some(context);
                self.partial = None;
                self.secured = true;
                if matches!(self.procedure, Procedure::Registering { .. }) {
                    self.access_count = Some(count);
                }
                self.authentication.answered = None;
                self.outputs.push_back(Output::Send(pdu));
                self.event(Event::Secured {
                    ciphering: ciphering_name(nea),
                    integrity: integrity_name(nia),
                });
            }
            Err(error) => self.fail(Failure::Encode(error.to_string())),
        }
    }

    fn refuse_challenge(&mut self, cause: GmmCause, auts: Option<[u8; 14]>, why: &'static str) {
        let mut failure = NasAuthenticationFailure::new(NasFGmmCause::from_cause(cause));
        if let Some(auts) = auts {
            let parameter = NasAuthenticationFailureParameter::new(auts.to_vec());
            failure.set_authentication_failure_parameter(parameter);
        }
        self.send_gmm(failure);
        self.authentication.refused = self.authentication.refused.saturating_add(1);
        if self.authentication.refused >= MAX_REFUSED {
            self.fail(Failure::NetworkNotAuthentic(why));
        }
    }
}
