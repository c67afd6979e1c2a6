//! Registration, deregistration, identification and configuration update
//! (TS 24.501, 5.5.1, 5.5.2, 5.4.3, 5.4.4).

use std::time::Duration;

use nwu::SNssai;
use oxirush_nas::nas_5gs::{
    AccessTypeValue, KeySetIdentifier, MobileIdentityType, Nas5gmmMessage, Nas5gsMessage,
    NasConfigurationUpdateCommand, NasConfigurationUpdateComplete,
    NasConfigurationUpdateIndication, NasDeRegistrationType, NasDeregistrationAcceptUeTerminated,
    NasDeregistrationRequestUeOriginating, NasDeregistrationRequestUeTerminated, NasFGmmCapability,
    NasFGsMobileIdentity, NasFGsRegistrationType, NasIdentityResponse, NasKeySetIdentifier,
    NasNetworkName, NasNssai, NasRegistrationAccept, NasRegistrationComplete,
    NasRegistrationRequest, NasSNssai, RegistrationType,
};

use super::{Discard, Event, Failure, MmCause, Nas, Output, security::Context};

/// The mobility management procedure that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Procedure {
    Deregistered,
    Registering { deadline: Duration },
    Registered,
    Deregistering { deadline: Duration, sent: u8 },
}

/// DEREGISTRATION REQUESTs before the UE gives up waiting (5.5.2.2.6: T3521 expires five times).
const MAX_DEREGISTRATION_REQUESTS: u8 = 5;

impl Procedure {
    pub(super) fn deadline(self) -> Option<Duration> {
        match self {
            Self::Registering { deadline } | Self::Deregistering { deadline, .. } => Some(deadline),
            Self::Deregistered | Self::Registered => None,
        }
    }
}

impl Nas {
    /// Begins an initial registration: gives the REGISTRATION REQUEST.
    ///
    /// With a 5G-GUTI and a security context of an earlier registration it is integrity protected
    /// and the network may skip authentication; otherwise it is in clear, with cleartext IEs alone.
    pub fn register(&mut self, now: Duration) {
        self.reset_connection();
        self.sessions.clear();
        match self.registration_request() {
            Ok((pdu, request)) => {
                self.request = Some(request);
                self.procedure = Procedure::Registering {
                    deadline: now + self.config.timers.t3510,
                };
                self.outputs.push_back(Output::Send(pdu));
            }
            Err(error) => self.fail(Failure::Encode(error)),
        }
    }

    /// Begins a deregistration from non-3GPP access. With `switch_off` the network sends no answer,
    /// so it is over as soon as the request is out.
    pub fn deregister(&mut self, now: Duration, switch_off: bool) {
        if !self.is_registered() {
            self.procedure = Procedure::Deregistered;
            self.event(Event::Deregistered);
            return;
        }
        if !self.send_deregistration(switch_off) {
            return;
        }
        if switch_off {
            self.deregistered();
        } else {
            self.procedure = Procedure::Deregistering {
                deadline: now + self.config.timers.t3521,
                sent: 1,
            };
        }
    }

    /// Forgets the 5G-GUTI and the security context: the next registration uses the SUCI.
    pub fn forget_identity(&mut self) {
        self.guti = None;
        self.context = None;
    }

    pub(super) fn mobility_timeout(&mut self, now: Duration) {
        match self.procedure {
            Procedure::Registering { deadline } if now >= deadline => {
                self.fail(Failure::NoAnswer("T3510"));
            }
            Procedure::Deregistering { deadline, sent } if now >= deadline => {
                if sent >= MAX_DEREGISTRATION_REQUESTS {
                    self.deregistered();
                } else if self.send_deregistration(false) {
                    self.procedure = Procedure::Deregistering {
                        deadline: now + self.config.timers.t3521,
                        sent: sent + 1,
                    };
                }
            }
            _ => {}
        }
    }

    /// A 5GMM message, verified or one that needs no integrity protection.
    pub(super) fn mobility(
        &mut self,
        now: Duration,
        message: Nas5gmmMessage,
    ) -> Result<(), Discard> {
        let registering = matches!(self.procedure, Procedure::Registering { .. });
        match message {
            Nas5gmmMessage::AuthenticationRequest(request) => {
                return self.authentication_request(&request);
            }
            Nas5gmmMessage::AuthenticationReject(_) if registering || self.is_registered() => {
                self.forget_identity();
                self.fail(Failure::AuthenticationRejected);
            }
            Nas5gmmMessage::IdentityRequest(request) => {
                return self.identity_request(request.identity_type.identity_type());
            }
            Nas5gmmMessage::RegistrationAccept(accept) if registering => {
                self.registration_accept(&accept);
            }
            Nas5gmmMessage::RegistrationReject(reject) if registering => {
                let failure = Failure::Rejected {
                    cause: MmCause(reject.fgmm_cause.cause_raw()),
                    retry_after: reject
                        .t3346_value
                        .and_then(|timer| timer.to_seconds())
                        .map(Duration::from_secs),
                };
                if failure.is_permanent() || failure.is_unknown_identity() {
                    self.forget_identity();
                }
                self.fail(failure);
            }
            Nas5gmmMessage::ConfigurationUpdateCommand(command) if self.is_registered() => {
                self.configuration_update(&command);
            }
            Nas5gmmMessage::DeregistrationAcceptUeOriginating(_)
                if matches!(self.procedure, Procedure::Deregistering { .. }) =>
            {
                self.deregistered();
            }
            Nas5gmmMessage::DeregistrationRequestUeTerminated(request) => {
                self.deregistration_request(&request);
            }
            Nas5gmmMessage::DlNasTransport(transport) if self.is_registered() => {
                return self.dl_nas_transport(now, &transport);
            }
            Nas5gmmMessage::FiveGmmStatus(status) => {
                let cause = MmCause(status.fgmm_cause.cause_raw());
                if registering {
                    self.fail(Failure::Protocol(format!(
                        "the network cannot use what the UE sent: {cause}"
                    )));
                } else {
                    self.event(Event::Status(format!("5GMM STATUS: {cause}")));
                }
            }
            other => return Err(Discard::Unexpected(format!("{:?}", other.message_type()))),
        }
        Ok(())
    }

    /// The REGISTRATION REQUEST to send and the complete one it stands for.
    fn registration_request(&mut self) -> Result<(Vec<u8>, Nas5gsMessage), String> {
        let ngksi = match (&self.context, &self.guti) {
            (Some(context), Some(_)) => KeySetIdentifier::Native(context.ngksi()),
            _ => KeySetIdentifier::NoKey,
        };
        let identity = match &self.guti {
            Some(guti) => NasFGsMobileIdentity::from_guti(*guti),
            None => self.suci()?,
        };
        let kind =
            NasFGsRegistrationType::from_registration_type(RegistrationType::InitialRegistration)
                // More follows on this connection: the PDU session requests.
                .with_follow_on_request(true);
        let cleartext = NasRegistrationRequest::new(
            kind,
            NasKeySetIdentifier::from_key_set_identifier(ngksi).map_err(text)?,
            identity,
        )
        .with_ue_security_capability(self.security_capability());
        let mut complete = cleartext.clone().with_fgmm_capability(
            NasFGmmCapability::from_octets(vec![self.config.gmm_capability]).map_err(text)?,
        );
        if !self.config.requested_nssai.is_empty() {
            let nssai: Vec<_> = self.config.requested_nssai.iter().map(to_nas).collect();
            complete.set_requested_nssai(NasNssai::from_snssais(&nssai).map_err(text)?);
        }
        let complete = Nas5gsMessage::new_5gmm(complete);
        let (pdu, count) = match (&mut self.context, &self.guti) {
            (Some(context), Some(_)) => {
                let (pdu, count) = context.protect_initial(&complete).map_err(text)?;
                (pdu, Some(count))
            }
            _ => {
                let cleartext = Nas5gsMessage::new_5gmm(cleartext);
                (cleartext.encode().map_err(text)?, None)
            }
        };
        self.access_count = count;
        Ok((pdu, complete))
    }

    fn registration_accept(&mut self, accept: &NasRegistrationAccept) {
        let guti = accept
            .fg_guti
            .as_ref()
            .and_then(NasFGsMobileIdentity::as_guti);
        if guti.is_some() {
            self.guti = guti;
        }
        self.procedure = Procedure::Registered;
        self.request = None;
        // What the UE has to acknowledge (5.5.1.2.4).
        if guti.is_some()
            || accept.configured_nssai.is_some()
            || accept.network_slicing_indication.is_some()
            || accept
                .operator_defined_access_category_definitions
                .is_some()
        {
            self.send_gmm(NasRegistrationComplete::new());
        }
        let allowed = accept.allowed_nssai.as_ref();
        self.event(Event::Registered {
            guti: guti.map(|guti| guti.to_string()),
            allowed_nssai: allowed.map(from_nas).unwrap_or_default(),
        });
    }

    fn identity_request(&mut self, wanted: Option<MobileIdentityType>) -> Result<(), Discard> {
        if matches!(self.procedure, Procedure::Deregistered) {
            return Err(Discard::Unexpected("IDENTITY REQUEST".into()));
        }
        let imeisv = self.config.imeisv.as_deref();
        let identity = match wanted {
            Some(MobileIdentityType::Suci) => self.suci().ok(),
            Some(MobileIdentityType::Guti) => self.guti.map(NasFGsMobileIdentity::from_guti),
            Some(MobileIdentityType::Imeisv) => {
                imeisv.and_then(|digits| NasFGsMobileIdentity::from_imeisv(digits).ok())
            }
            // TAC and SNR of the IMEISV, with the check digit of an IMEI.
            Some(MobileIdentityType::Imei) => imeisv
                .and_then(|digits| digits.get(..14))
                .and_then(|digits| NasFGsMobileIdentity::from_imei_tac_snr(digits).ok()),
            _ => None,
        };
        let identity = identity.unwrap_or_else(NasFGsMobileIdentity::from_no_identity);
        self.send_gmm(NasIdentityResponse::new(identity));
        Ok(())
    }

    fn configuration_update(&mut self, command: &NasConfigurationUpdateCommand) {
        if let Some(guti) = command
            .fg_guti
            .as_ref()
            .and_then(NasFGsMobileIdentity::as_guti)
        {
            self.guti = Some(guti);
        }
        let indication = command.configuration_update_indication.as_ref();
        if indication.is_some_and(NasConfigurationUpdateIndication::ack) {
            self.send_gmm(NasConfigurationUpdateComplete::new());
        }
        let name = command.full_name_for_network.as_ref();
        self.event(Event::ConfigurationUpdated {
            network_name: name.and_then(NasNetworkName::name),
            register_again: indication.is_some_and(NasConfigurationUpdateIndication::red),
        });
    }

    fn deregistration_request(&mut self, request: &NasDeregistrationRequestUeTerminated) {
        let register_again = request.de_registration_type.re_registration_required();
        let cause = request.fgmm_cause.as_ref();
        let failure = Failure::Deregistered {
            cause: cause.map(|cause| MmCause(cause.cause_raw())),
            register_again,
        };
        self.send_gmm(NasDeregistrationAcceptUeTerminated::new());
        if failure.is_permanent() {
            self.forget_identity();
        }
        self.fail(failure);
    }

    fn send_deregistration(&mut self, switch_off: bool) -> bool {
        let identity = match &self.guti {
            Some(guti) => NasFGsMobileIdentity::from_guti(*guti),
            None => match self.suci() {
                Ok(suci) => suci,
                Err(error) => {
                    self.fail(Failure::Encode(error));
                    return false;
                }
            },
        };
        let ngksi = self.context.as_ref().map_or(7, Context::ngksi);
        let kind = NasDeRegistrationType::default()
            .with_access_type(AccessTypeValue::Non3GppAccess)
            .with_switch_off(switch_off);
        let request = NasDeregistrationRequestUeOriginating::new(
            kind,
            NasKeySetIdentifier::new(ngksi),
            identity,
        );
        // It continues a secured connection, so it is ciphered whole and no initial message.
        self.send_gmm(request)
    }

    /// This UE's deregistration is over.
    fn deregistered(&mut self) {
        self.procedure = Procedure::Deregistered;
        self.reset_connection();
        self.sessions.clear();
        self.event(Event::Deregistered);
    }

    fn suci(&self) -> Result<NasFGsMobileIdentity, String> {
        self.config.concealer.conceal().map_err(text)
    }
}

pub(super) fn to_nas(slice: &SNssai) -> NasSNssai {
    NasSNssai::from_sst_sd(slice.sst, slice.sd)
}

fn from_nas(nssai: &NasNssai) -> Vec<SNssai> {
    let slices = nssai.parse_all();
    let slice = |s: &oxirush_nas::nas_5gs::SNssaiContents| SNssai {
        sst: s.sst,
        sd: s.sd,
    };
    slices.iter().map(slice).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "an adapter for map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}
