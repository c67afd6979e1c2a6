//! 5GMM: identification, authentication, security mode, registration.

use oxirush_nas::nas_5gs::{
    Direction, GmmCause, KeySetIdentifier, MobileIdentityType, Nas5gmmMessage, Nas5gsMessage,
    Nas5gsSecurityHeaderType, NasAuthenticationFailure, NasAuthenticationResponse, NasConnection,
    NasCount, NasError, NasFGmmCause, NasFGmmStatus, NasFGsMobileIdentity, NasRegistrationRequest,
    NasSecurityContext, NasSecurityModeComplete,
};
use oxirush_ngap::ngap::{Cause, CauseNas, CauseRadioNetwork};
use oxirush_security::nas_5gs::{ResStar, derive_kn3iwf};

use crate::amf::Amf;
use crate::amf::ue::{Phase, Security};
use crate::home::HomeError;
use crate::types::Slice;
use crate::{nas, ngap};

/// 5GMM cause 3, illegal UE: what a SUPI without subscription is told.
const ILLEGAL_UE: u8 = 3;

/// How a downlink NAS message is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// As the state has it: ciphered once security is in use, else plain.
    Normal,
    /// Integrity only, with the new context (SECURITY MODE COMMAND).
    NewContext,
}

impl Amf {
    /// An uplink NAS message: its name.
    pub(super) fn uplink_nas(&mut self, id: u64, octets: &[u8]) -> String {
        let decoded = match Nas5gsMessage::decode(octets) {
            Ok(message) => message,
            Err(error) => {
                self.counters.nas_undecodable += 1;
                tracing::warn!(ue = id, %error, "NAS message does not decode");
                if let Some(answer) =
                    Nas5gsMessage::answer_to(octets, &Err(error), Direction::Uplink)
                {
                    self.send_nas(id, &answer, Protection::Normal);
                }
                return "undecodable NAS".to_owned();
            }
        };
        let (message, verified) = match decoded {
            Nas5gsMessage::SecurityProtected(_, inner) => match self.verify(id, octets) {
                Ok((message, count)) => (message, Some(count)),
                Err(Some(answer)) => {
                    self.send_nas(id, &answer, Protection::Normal);
                    return "refused NAS".to_owned();
                }
                Err(None) => (*inner, None),
            },
            plain => (plain, None),
        };
        let name = nas::name(&message);
        let Nas5gsMessage::Gmm(_, message) = message else {
            self.counters.nas_unexpected += 1;
            return name;
        };
        tracing::debug!(ue = id, message = %name, protected = verified.is_some(), "NAS received");
        if verified.is_none() && !self.accepts_unprotected(id, &message) {
            self.counters.nas_unexpected += 1;
            tracing::warn!(ue = id, message = %name, "unprotected NAS message dropped");
            return name;
        }
        self.gmm(id, message, verified);
        name
    }

    /// Checks MAC and COUNT. `Err(None)`: not verified, the clear inner message
    /// may still do; `Err(Some)`: authentic, and to be answered so.
    fn verify(
        &mut self,
        id: u64,
        octets: &[u8],
    ) -> Result<(Nas5gsMessage, NasCount), Option<Nas5gsMessage>> {
        let Some(security) = self.ues.get_mut(&id).and_then(|ue| ue.security.as_mut()) else {
            return Err(None);
        };
        match security.context.unprotect_for_access(
            octets,
            Direction::Uplink,
            NasConnection::Non3Gpp,
        ) {
            Ok(verified) => Ok((verified.message, verified.count)),
            Err(error @ NasError::AuthenticMessageRefused { .. }) => {
                self.counters.nas_undecodable += 1;
                tracing::warn!(ue = id, %error, "authentic NAS message refused");
                let answer = Nas5gsMessage::answer_to_refused(octets, &error, Direction::Uplink);
                Err(Some(answer.unwrap_or_else(|| {
                    let cause = NasFGmmCause::from_cause(GmmCause::ProtocolErrorUnspecified);
                    Nas5gsMessage::new_5gmm(NasFGmmStatus::new(cause))
                })))
            }
            Err(error) => {
                self.counters.nas_integrity_failures += 1;
                tracing::warn!(ue = id, %error, "NAS integrity check failed");
                Err(None)
            }
        }
    }

    /// Which messages are taken without a verified MAC (TS 24.501 4.4.4.3).
    /// Once security is in use, a deregistration without a MAC is not: anybody
    /// could send it.
    fn accepts_unprotected(&self, id: u64, message: &Nas5gmmMessage) -> bool {
        let secured = self
            .ues
            .get(&id)
            .is_some_and(|ue| ue.security.is_some() && !matches!(ue.phase, Phase::Secure));
        match message {
            Nas5gmmMessage::RegistrationRequest(_)
            | Nas5gmmMessage::AuthenticationResponse(_)
            | Nas5gmmMessage::AuthenticationFailure(_)
            | Nas5gmmMessage::IdentityResponse(_)
            | Nas5gmmMessage::SecurityModeReject(_)
            | Nas5gmmMessage::DeregistrationRequestUeOriginating(_) => !secured,
            _ => false,
        }
    }

    fn gmm(&mut self, id: u64, message: Nas5gmmMessage, verified: Option<NasCount>) {
        use Nas5gmmMessage as M;
        let Some(ue) = self.ues.get_mut(&id) else {
            return;
        };
        match (message, &mut ue.phase) {
            (_, Phase::Release) => {}
            (M::RegistrationRequest(request), Phase::Registered) if verified.is_some() => {
                ue.request = Some(*request);
                self.send_accept(id);
            }
            (M::RegistrationRequest(request), _) => self.registration_request(id, *request),
            (M::IdentityResponse(response), Phase::Identify) => {
                self.identified(id, &response.mobile_identity);
            }
            (M::AuthenticationResponse(response), Phase::Authenticate(_)) => {
                self.authenticated(id, &response);
            }
            (M::AuthenticationFailure(failure), Phase::Authenticate(_)) => {
                self.authentication_failed(id, &failure);
            }
            (M::SecurityModeComplete(complete), Phase::Secure) => {
                if let Some(count) = verified {
                    self.secured(id, &complete, count);
                }
            }
            (M::SecurityModeReject(reject), Phase::Secure) => {
                tracing::warn!(ue = id, cause = %reject.fgmm_cause.description(), "SECURITY MODE REJECT");
                self.release_ue(id, Cause::nas(CauseNas::unspecified));
            }
            (M::RegistrationComplete(_), Phase::Accept) => self.registered(id),
            (M::ConfigurationUpdateComplete(_), _) => ue.configured = true,
            (M::UlNasTransport(transport), Phase::Registered) => {
                self.session_transport(id, &transport);
            }
            (M::DeregistrationRequestUeOriginating(request), _) => {
                self.deregistration_request(id, request.de_registration_type.switch_off());
            }
            (M::DeregistrationAcceptUeTerminated(_), Phase::Deregister) => {
                self.release_ue(id, Cause::nas(CauseNas::deregister));
            }
            (M::FiveGmmStatus(status), _) => {
                tracing::warn!(ue = id, cause = %status.fgmm_cause.description(), "5GMM STATUS");
            }
            (other, phase) => {
                self.counters.nas_unexpected += 1;
                tracing::warn!(ue = id, message = ?other.message_type(), phase = phase.name(),
                    "NAS message does not fit the state");
            }
        }
    }

    fn registration_request(&mut self, id: u64, request: NasRegistrationRequest) {
        if let Some(cause) = self.policy.registration_reject {
            return self.reject_registration(id, cause, &[]);
        }
        let Some(ue) = self.ues.get_mut(&id) else {
            return;
        };
        if let Some(capability) = request.ue_security_capability.clone() {
            ue.capability = Some(capability);
        }
        if ue.capability.is_none() {
            let cause = GmmCause::InvalidMandatoryInformation.as_u8();
            return self.reject_registration(id, cause, &[]);
        }
        // A key set identifier that the UE does not hold.
        ue.ksi = match request.ngksi.key_set_identifier() {
            KeySetIdentifier::Native(held) => held.wrapping_add(1) % 7,
            _ => 0,
        };
        let identity = request.fgs_mobile_identity.clone();
        ue.request = Some(request);
        self.identified(id, &identity);
    }

    /// What a mobile identity leads to: authentication, or the question for a
    /// better one.
    fn identified(&mut self, id: u64, identity: &NasFGsMobileIdentity) {
        let supi = match identity.identity_type() {
            Some(MobileIdentityType::Suci) => match self.home.deconceal(&identity.value) {
                Ok(supi) => supi,
                Err(error) => {
                    tracing::warn!(ue = id, %error, "SUCI refused");
                    return self.reject_unknown(id);
                }
            },
            Some(MobileIdentityType::Guti) => {
                let known = identity.as_guti().filter(|guti| self.is_ours(guti));
                match known.and_then(|guti| self.gutis.get(&guti.tmsi())) {
                    Some(supi) => supi.clone(),
                    None => return self.ask_identity(id),
                }
            }
            _ => return self.ask_identity(id),
        };
        if !self.home.knows(&supi) {
            tracing::warn!(ue = id, %supi, "unknown subscriber");
            return self.reject_unknown(id);
        }
        if let Some(ue) = self.ues.get_mut(&id) {
            ue.supi = Some(supi);
        }
        self.authenticate(id);
    }

    fn is_ours(&self, guti: &oxirush_nas::nas_5gs::Guti) -> bool {
        guti.plmn() == self.config.plmn.get()
            && guti.amf_region_id() == self.config.region
            && guti.amf_set_id() == self.config.set
            && guti.amf_pointer() == self.config.pointer
    }

    fn ask_identity(&mut self, id: u64) {
        self.enter(id, Phase::Identify);
        match nas::identity_request() {
            Ok(message) => self.send_nas(id, &message, Protection::Normal),
            Err(error) => tracing::error!(%error),
        }
    }

    fn authenticate(&mut self, id: u64) {
        let Some((supi, ksi)) = self
            .ues
            .get(&id)
            .and_then(|ue| Some((ue.supi.clone()?, ue.ksi)))
        else {
            return;
        };
        let network = self.config.plmn.serving_network_name();
        let challenge = match self.home.challenge(&supi, &network, self.rng.as_mut()) {
            Ok(challenge) => challenge,
            Err(error) => {
                tracing::error!(ue = id, %error, "no authentication vector");
                return self.reject_unknown(id);
            }
        };
        let mut autn = *challenge.autn.as_octets();
        if self.policy.corrupt_autn
            && let Some(last) = autn.last_mut()
        {
            *last ^= 1;
        }
        let rand = *challenge.rand.as_octets();
        self.enter(id, Phase::Authenticate(Box::new(challenge)));
        match nas::authentication_request(ksi, rand, autn) {
            Ok(message) => self.send_nas(id, &message, Protection::Normal),
            Err(error) => tracing::error!(%error),
        }
    }

    fn authenticated(&mut self, id: u64, response: &NasAuthenticationResponse) {
        let refuse = self.policy.authentication_reject;
        let Some(ue) = self.ues.get_mut(&id) else {
            return;
        };
        let Phase::Authenticate(challenge) = &ue.phase else {
            return;
        };
        let right = response
            .authentication_response_parameter
            .as_ref()
            .and_then(|parameter| parameter.res_star())
            .is_some_and(|octets| challenge.expected.accepts(&ResStar::new(octets)));
        if !right || refuse {
            tracing::warn!(ue = id, supi = ue.supi.as_deref(), "RES* refused");
            return self.reject_authentication(id);
        }
        let k_amf = challenge.k_amf.clone();
        let (ksi, imeisv) = (ue.ksi, self.config.request_imeisv);
        let Some(capability) = ue.capability.clone() else {
            return;
        };
        let integrity = self
            .config
            .integrity
            .iter()
            .map(|algorithm| nas::integrity(*algorithm))
            .find(|algorithm| capability.supports_ia(*algorithm as u8));
        let ciphering = self
            .config
            .ciphering
            .iter()
            .map(|algorithm| nas::ciphering(*algorithm))
            .find(|algorithm| capability.supports_ea(*algorithm as u8));
        let (Some(integrity), Some(ciphering)) = (integrity, ciphering) else {
            tracing::warn!(ue = id, "no common NAS algorithm");
            let cause = GmmCause::UeSecurityCapabilitiesMismatch.as_u8();
            return self.reject_registration(id, cause, &[]);
        };
        let context = match NasSecurityContext::from_fresh_kamf(&k_amf, integrity, ciphering) {
            Ok(context) => context,
            Err(error) => {
                tracing::error!(ue = id, %error, "NAS security context");
                return self.release_ue(id, Cause::nas(CauseNas::unspecified));
            }
        };
        ue.security = Some(Security { context, k_amf });
        self.enter(id, Phase::Secure);
        match nas::security_mode_command(ksi, (integrity, ciphering), capability, imeisv) {
            Ok(message) => self.send_nas(id, &message, Protection::NewContext),
            Err(error) => tracing::error!(%error),
        }
    }

    fn authentication_failed(&mut self, id: u64, failure: &NasAuthenticationFailure) {
        let Some(ue) = self.ues.get_mut(&id) else {
            return;
        };
        let Phase::Authenticate(challenge) = &ue.phase else {
            return;
        };
        let cause = failure.fgmm_cause.cause_received();
        tracing::warn!(ue = id, cause = %failure.fgmm_cause.description(), "AUTHENTICATION FAILURE");
        match cause {
            GmmCause::SynchFailure if !ue.resynchronised => {
                let auts = failure
                    .authentication_failure_parameter
                    .as_ref()
                    .and_then(|parameter| parameter.auts().copied());
                let supi = ue.supi.clone().unwrap_or_default();
                let rand = challenge.rand.clone();
                ue.resynchronised = true;
                let done = auts
                    .ok_or(HomeError::Auts)
                    .and_then(|auts| self.home.resynchronise(&supi, &rand, &auts));
                match done {
                    Ok(()) => {
                        self.counters.resynchronisations += 1;
                        self.authenticate(id);
                    }
                    Err(error) => {
                        tracing::warn!(ue = id, %error, "re-synchronisation refused");
                        self.reject_authentication(id);
                    }
                }
            }
            GmmCause::NgKsiAlreadyInUse => {
                ue.ksi = (ue.ksi + 1) % 7;
                self.authenticate(id);
            }
            _ => self.reject_authentication(id),
        }
    }

    fn secured(&mut self, id: u64, complete: &NasSecurityModeComplete, count: NasCount) {
        // From here on the context is confirmed, and protects every message.
        self.enter(id, Phase::Context);
        let Some(ue) = self.ues.get_mut(&id) else {
            return;
        };
        ue.imeisv = complete
            .imeisv
            .as_ref()
            .and_then(NasFGsMobileIdentity::as_imeisv)
            .map(|imeisv| imeisv.to_string());
        let whole = complete
            .nas_message_container
            .as_ref()
            .and_then(|container| container.decode_as_nas_message().ok());
        if let Some(Nas5gsMessage::Gmm(_, Nas5gmmMessage::RegistrationRequest(request))) = whole {
            ue.request = Some(*request);
        }
        let supi = ue.supi.clone().unwrap_or_default();
        self.replace_older(id, &supi);
        let Some((allowed, rejected)) = self.allowed_slices(id, &supi) else {
            return;
        };
        let Some(ue) = self.ues.get_mut(&id) else {
            return;
        };
        if allowed.is_empty() {
            tracing::warn!(ue = id, %supi, "no slice allowed");
            let cause = GmmCause::NoNetworkSlicesAvailable.as_u8();
            return self.reject_registration(id, cause, &rejected);
        }
        ue.allowed = allowed;
        ue.rejected = rejected;
        let Some(security) = &ue.security else {
            return;
        };
        // TS 33.501 A.9: the uplink COUNT of the message that started the
        // access security.
        let key = *derive_kn3iwf(&security.k_amf, count).as_octets();
        let algorithms = ue
            .capability
            .as_ref()
            .map_or((0, 0), |c| (c.ea_byte(), c.ia_byte()));
        let allowed = ue.allowed.clone();
        let nas = if self.config.accept_in_context_setup {
            self.accept_octets(id)
        } else {
            None
        };
        let Some(ids) = self.ues.get(&id).map(|ue| (ue.association, ue.ids(id))) else {
            return;
        };
        let with_accept = nas.is_some();
        let built = ngap::initial_context_setup(
            ids.1,
            ngap::ContextSetup {
                amf: &self.config,
                allowed: &allowed,
                algorithms,
                key,
                nas,
            },
        );
        let names: &[&str] = if with_accept {
            &["InitialContextSetupRequest", "RegistrationAccept"]
        } else {
            &["InitialContextSetupRequest"]
        };
        self.emit(ids.0, Some(id), names, built);
    }

    /// Requested slices that are subscribed and served; without a request,
    /// every subscribed one. `None` when the UE is gone.
    fn allowed_slices(&self, id: u64, supi: &str) -> Option<(Vec<Slice>, Vec<Slice>)> {
        let ue = self.ues.get(&id)?;
        let subscribed = self.home.slices(supi);
        let served = |slice: &Slice| {
            self.config.slices.contains(slice)
                && (subscribed.is_empty() || subscribed.contains(slice))
        };
        let requested: Vec<Slice> = ue
            .request
            .as_ref()
            .and_then(|request| request.requested_nssai.as_ref())
            .map(|nssai| {
                nssai
                    .parse_all()
                    .iter()
                    .map(|contents| Slice {
                        sst: contents.sst,
                        sd: contents.sd,
                    })
                    .collect()
            })
            .unwrap_or_default();
        Some(if requested.is_empty() {
            let all = self.config.slices.iter().copied().filter(served).collect();
            (all, Vec::new())
        } else {
            requested.into_iter().partition(served)
        })
    }

    /// A UE has one registration over non-3GPP access: the older one ends.
    fn replace_older(&mut self, id: u64, supi: &str) {
        let before = self.registered.insert(supi.to_owned(), id);
        let older = before.filter(|other| *other != id).filter(|other| {
            let ue = self.ues.get(other);
            ue.is_some_and(|ue| ue.supi.as_deref() == Some(supi) && ue.security.is_some())
        });
        if let Some(other) = older {
            tracing::info!(ue = other, %supi, "registered anew: the older context is released");
            self.release_ue(other, Cause::nas(CauseNas::normal_release));
        }
    }

    /// The N3IWF has the context: accept, unless the accept went with it.
    pub(super) fn register(&mut self, id: u64) {
        if self.config.accept_in_context_setup {
            self.enter(id, Phase::Accept);
        } else {
            self.send_accept(id);
        }
    }

    fn send_accept(&mut self, id: u64) {
        if let Some(message) = self.build_accept(id) {
            self.enter(id, Phase::Accept);
            self.send_nas(id, &message, Protection::Normal);
        }
    }

    fn accept_octets(&mut self, id: u64) -> Option<Vec<u8>> {
        let message = self.build_accept(id)?;
        self.protect(id, &message, Protection::Normal)
    }

    fn build_accept(&mut self, id: u64) -> Option<Nas5gsMessage> {
        let tmsi = self.random_u32();
        let plmn = self.config.plmn.get();
        let guti = oxirush_nas::nas_5gs::Guti::new(
            plmn,
            self.config.region,
            self.config.set,
            self.config.pointer,
            tmsi,
        );
        let ue = self.ues.get_mut(&id)?;
        let guti = match guti {
            Ok(guti) => guti,
            Err(error) => {
                tracing::error!(%error, "5G-GUTI");
                return None;
            }
        };
        if let Some(supi) = &ue.supi {
            // One identity per subscriber: the one before is void.
            if let Some(before) = self.guti_of.insert(supi.clone(), tmsi) {
                self.gutis.remove(&before);
            }
            self.gutis.insert(tmsi, supi.clone());
        }
        ue.guti = Some(guti);
        let built = nas::registration_accept(&nas::Accept {
            guti,
            plmn,
            areas: &self.config.tracking_areas,
            allowed: &ue.allowed,
            rejected: &ue.rejected,
            deregistration_timer: self.config.deregistration_timer,
        });
        built
            .inspect_err(|error| tracing::error!(ue = id, %error, "REGISTRATION ACCEPT"))
            .ok()
    }

    fn registered(&mut self, id: u64) {
        self.enter(id, Phase::Registered);
        self.set_guard(id, false);
        let supi = self.ues.get(&id).and_then(|ue| ue.supi.clone());
        tracing::info!(ue = id, supi, "registered");
        if let Some(network) = self.config.network_name.clone() {
            let acknowledge = self.config.acknowledge_configuration;
            let message = nas::configuration_update(&network, acknowledge);
            self.send_nas(id, &message, Protection::Normal);
        }
    }

    pub(super) fn context_failed(&mut self, id: u64, cause: Option<Cause>) {
        tracing::warn!(ue = id, ?cause, "INITIAL CONTEXT SETUP FAILURE");
        let cause = cause.unwrap_or(Cause::radioNetwork(CauseRadioNetwork::unspecified));
        self.release_ue(id, cause);
    }

    fn reject_unknown(&mut self, id: u64) {
        let cause = self.policy.unknown_subscriber_cause.unwrap_or(ILLEGAL_UE);
        self.reject_registration(id, cause, &[]);
    }

    fn reject_registration(&mut self, id: u64, cause: u8, rejected: &[Slice]) {
        match nas::registration_reject(cause, rejected) {
            Ok(message) => self.send_nas(id, &message, Protection::Normal),
            Err(error) => tracing::error!(%error),
        }
        self.release_ue(id, Cause::nas(CauseNas::unspecified));
    }

    fn reject_authentication(&mut self, id: u64) {
        self.counters.authentication_rejects += 1;
        self.send_nas(id, &nas::authentication_reject(), Protection::Normal);
        self.release_ue(id, Cause::nas(CauseNas::authentication_failure));
    }

    /// Moves on, with a new guard timer.
    pub(super) fn enter(&mut self, id: u64, phase: Phase) {
        if let Some(ue) = self.ues.get_mut(&id) {
            ue.phase = phase;
        }
        self.set_guard(id, true);
    }

    pub(super) fn guard_expired(&mut self, id: u64) {
        self.counters.timeouts += 1;
        let Some(ue) = self.ues.get(&id) else {
            return;
        };
        tracing::warn!(ue = id, phase = ue.phase.name(), "no answer in time");
        if matches!(ue.phase, Phase::Release) {
            self.forget_ue(id);
        } else {
            self.release_ue(id, Cause::nas(CauseNas::unspecified));
        }
    }

    /// Sends a NAS message in DOWNLINK NAS TRANSPORT.
    pub(super) fn send_nas(&mut self, id: u64, message: &Nas5gsMessage, protection: Protection) {
        let name = nas::name(message);
        let Some(octets) = self.protect(id, message, protection) else {
            return;
        };
        tracing::debug!(ue = id, message = %name, "NAS sent");
        self.emit_ue(id, &[&name, "DownlinkNASTransport"], |ids| {
            ngap::downlink_nas(ids, octets)
        });
    }

    /// The octets of a NAS message as the UE's state protects it.
    pub(super) fn protect(
        &mut self,
        id: u64,
        message: &Nas5gsMessage,
        protection: Protection,
    ) -> Option<Vec<u8>> {
        use Nas5gsSecurityHeaderType as Header;
        let ue = self.ues.get_mut(&id)?;
        // A context that the UE has not confirmed protects its offer only.
        let confirmed = !matches!(ue.phase, Phase::Secure) || protection == Protection::NewContext;
        let built = match ue.security.as_mut().filter(|_| confirmed) {
            None => message.encode(),
            Some(security) => {
                let header = match protection {
                    Protection::Normal => Header::IntegrityProtectedAndCiphered,
                    Protection::NewContext => {
                        Header::IntegrityProtectedWithNewFiveGNasSecurityContext
                    }
                };
                security.context.protect_for_access(
                    message,
                    header,
                    Direction::Downlink,
                    NasConnection::Non3Gpp,
                )
            }
        };
        built
            .inspect_err(|error| tracing::error!(ue = id, %error, "NAS message not sent"))
            .ok()
    }
}
