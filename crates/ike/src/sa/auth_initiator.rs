//! IKE_AUTH, initiator: EAP-only client, shared-key AUTH at the end (RFC 7296 1.2, 2.16; TS 24.502 7.3). In mode `plain`
//! the first exchange is the last.

use keys::Secret;

use super::{
    Cx, Phase, Sa,
    child::{Child, ChildState},
    keys as key_material, legacy,
    plain::Expected,
    ppk::PpkPlace,
};
use crate::{
    config::{InitiatorConfig, Mode, Offer, PeerCertificate, Profile},
    crypto::EspSuite,
    event::{ChildFailure, ChildId, CloseReason, Event},
    wire::{
        CertEncoding, CfgAttribute, CfgType, Configuration, ExchangeType, Notify, NotifyType,
        Payload, notifies,
    },
};

/// EAP rounds after which something is wrong.
const MAX_EAP_ROUNDS: u32 = 64;

pub(super) struct AuthI {
    config: InitiatorConfig,
    offer: Offer,
    child: ChildId,
    step: Step,
    rounds: u32,
    /// CFG_REPLY and notifies of the last response, for [`Event::Established`].
    gift: Option<(Vec<CfgAttribute>, Vec<Notify>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The first request is sent.
    First,
    /// An EAP response is sent.
    Eap,
    /// The daemon prepares an EAP response.
    AwaitEap,
    /// EAP succeeded; the daemon prepares the MSK.
    AwaitMsk,
    /// AUTH is sent.
    Final,
    /// Both AUTH are good; the data plane works.
    Installing,
}

/// A response to IKE_AUTH that ends the SA.
struct Failure {
    reason: CloseReason,
    farewell: Vec<Payload>,
}

impl Failure {
    /// This side rejects its peer, and says so.
    fn ours(kind: NotifyType, reason: CloseReason) -> Self {
        let farewell = vec![Notify::status(kind, Vec::new()).into()];
        Self { reason, farewell }
    }

    fn syntax(what: &'static str) -> Self {
        Self::ours(NotifyType::INVALID_SYNTAX, CloseReason::Syntax(what))
    }

    fn authentication() -> Self {
        Self::ours(
            NotifyType::AUTHENTICATION_FAILED,
            CloseReason::AuthenticationFailed,
        )
    }

    /// The peer has ended it already.
    fn theirs(reason: CloseReason) -> Self {
        Self {
            reason,
            farewell: Vec::new(),
        }
    }
}

impl Sa {
    /// Sends the first IKE_AUTH request.
    pub(super) fn begin_auth(&mut self, cx: &mut Cx<'_>, config: InitiatorConfig, offer: Offer) {
        let Some(suite) = self.suite else {
            return self.finish(cx, CloseReason::NoProposalChosen);
        };
        cx.events.push_back(Event::Keyed {
            sa: self.id,
            mode: self.mode,
        });
        self.esp_suites = key_material::esp_suites(self.mode, &suite, &config.esp_suites);
        if self.is_legacy(cx.config) {
            let plain = key_material::without_exchange(&self.esp_suites);
            let single = legacy::single_esp_suite(plain, &suite);
            self.esp_suites = single.into_iter().map(Into::into).collect();
        }
        let id = cx.ids.child();
        let mut child = Child::new(cx, id, ChildState::Requested);
        child.signalling = true;
        child.ours = true;
        child.ts_local.clone_from(&config.ts_local);
        child.ts_remote.clone_from(&config.ts_remote);
        child.nonce_i.clone_from(&self.transcript.nonce_i);
        child.nonce_r.clone_from(&self.transcript.nonce_r);
        let identity = match (&offer.identity, self.mode) {
            (Some(certified), Mode::Cert) => certified.clone(),
            _ => config.identity.clone(),
        };
        self.local_id = Some(identity.clone());
        let mut payloads = vec![Payload::IdI(identity)];
        if offer.initial_contact && self.profile() == Profile::Native && !self.is_legacy(cx.config)
        {
            payloads.push(Notify::status(NotifyType::INITIAL_CONTACT, Vec::new()).into());
        }
        // RFC 7296 2.19 wants CFG_REQUEST beside the SA; the peers of the paper read it in the last request.
        if self.profile() == Profile::Native {
            payloads.extend(request_configuration(&config));
        }
        // TS 24.502 7.3.2.1: asked for exactly when it can be judged.
        if let Some(trust) = offer.trust.as_ref().filter(|_| !self.mode.is_qkd()) {
            payloads.push(trust.anchors.request());
        } else if matches!(self.mode, Mode::Psk | Mode::Hybrid)
            && let PeerCertificate::Trusted(anchors) = &config.peer_certificate
        {
            payloads.push(Payload::CertReq {
                encoding: CertEncoding::X509_SIGNATURE,
                authorities: anchors
                    .iter()
                    .flat_map(|anchor| *anchor.authority_hash())
                    .collect(),
            });
        }
        if self.mode == Mode::Cert {
            let own = offer.credential.as_ref();
            match own.and_then(|own| self.initiator_first_auth(cx, own)) {
                Some(proof) => payloads.extend(proof),
                None => return self.finish(cx, CloseReason::Unsendable),
            }
        }
        if self.mode == Mode::Plain {
            // That the peer can was seen in its IKE_SA_INIT response.
            let can = [PpkPlace::Auth.notify()];
            self.configure_ppk(offer.configured_ppk.as_deref(), &can);
            match self.ppk_for_auth() {
                Ok(named) => payloads.extend(named),
                Err(_) => return self.finish(cx, CloseReason::Unsendable),
            }
            let key = offer.shared_key.as_deref();
            match self.own_proof(cx, key, offer.credential.as_deref()) {
                Some(proof) => payloads.extend(proof),
                None => return self.finish(cx, CloseReason::Unsendable),
            }
        }
        payloads.extend([
            Payload::Sa(EspSuite::offer(
                &key_material::without_exchange(&self.esp_suites),
                child.spi_in,
            )),
            Payload::TsI(child.ts_local.clone()),
            Payload::TsR(child.ts_remote.clone()),
        ]);
        payloads.extend(self.offer_mobike(cx));
        self.children.insert(id, Box::new(child));
        self.phase = Phase::AuthI(Box::new(AuthI {
            config,
            offer,
            child: id,
            step: Step::First,
            rounds: 0,
            gift: None,
        }));
        self.request(cx, ExchangeType::IkeAuth, &payloads);
    }

    /// A response to IKE_AUTH.
    pub(super) fn auth_response(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) {
        let Phase::AuthI(mut auth) = std::mem::replace(&mut self.phase, Phase::Gone) else {
            return;
        };
        let result = match auth.step {
            Step::First => self.first_response(cx, &mut auth, payloads),
            Step::Eap => self.eap_response(cx, &mut auth, payloads),
            Step::Final => self.final_response(cx, &mut auth, payloads),
            Step::AwaitEap | Step::AwaitMsk | Step::Installing => Ok(()),
        };
        if self.closed {
            return;
        }
        self.phase = Phase::AuthI(auth);
        match result {
            Ok(()) => self.after_final(cx),
            Err(failure) => self.fail(cx, failure.reason, &failure.farewell),
        }
    }

    fn first_response(
        &mut self,
        cx: &mut Cx<'_>,
        auth: &mut AuthI,
        payloads: &[Payload],
    ) -> Result<(), Failure> {
        let mut identity = None;
        let mut certificate = None;
        let mut proof = None;
        for payload in payloads {
            match payload {
                Payload::IdR(id) => identity = Some(id),
                Payload::Cert { data, .. } if certificate.is_none() => certificate = Some(data),
                Payload::Auth { method, data } => proof = Some((*method, data)),
                _ => {}
            }
        }
        let Some(identity) = identity else {
            return Err(match first_error(payloads) {
                Some(reason) => Failure::theirs(reason),
                None => Failure::syntax("first IKE_AUTH response without IDr"),
            });
        };
        let optional = matches!(self.mode, Mode::Psk | Mode::Hybrid);
        if proof.is_none() && !optional {
            return Err(Failure::syntax("first IKE_AUTH response without AUTH"));
        }
        if auth.config.peer_identity.as_ref().is_some_and(|expected| {
            expected.kind != identity.kind || expected.data != identity.data
        }) {
            return Err(Failure::authentication());
        }
        self.remote_id = Some(identity.clone());
        let judge = &auth.config.peer_certificate;
        let good = match (proof, self.mode) {
            (Some((method, data)), Mode::Qkd(Profile::Native)) => {
                self.verify_first_auth(method, data)
            }
            (_, Mode::Plain) => {
                let expected = Expected {
                    shared_key: auth.offer.shared_key.as_deref(),
                    trust: auth.offer.trust.as_ref(),
                    allow_sha1: auth.offer.allow_sha1,
                };
                self.peer_is_proven(cx, &expected, payloads)
            }
            (_, mode) if !mode.is_qkd() && auth.offer.trust.is_some() => {
                auth.offer.trust.as_ref().is_some_and(|trust| {
                    self.responder_is_certified(cx, trust, payloads, auth.offer.allow_sha1)
                })
            }
            // Mode `cert` proves both ends, or it is none.
            (_, Mode::Cert) => false,
            (Some((method, data)), _) => {
                self.verify_certificate(judge, certificate.map(Vec::as_slice), method, data)
            }
            // Who provisioned a trust anchor wants it used.
            (None, _) => matches!(judge, PeerCertificate::Ignore),
        };
        if !good {
            return Err(Failure::authentication());
        }
        if self.mode == Mode::Plain {
            self.take_last_response(cx, auth, payloads);
            return Ok(());
        }
        self.eap_response(cx, auth, payloads)
    }

    fn eap_response(
        &mut self,
        cx: &mut Cx<'_>,
        auth: &mut AuthI,
        payloads: &[Payload],
    ) -> Result<(), Failure> {
        let Some(packet) = eap_packet(payloads) else {
            return Err(match first_error(payloads) {
                Some(reason) => Failure::theirs(reason),
                None => Failure::syntax("IKE_AUTH response without EAP"),
            });
        };
        auth.rounds += 1;
        if auth.rounds > MAX_EAP_ROUNDS {
            return Err(Failure::ours(
                NotifyType::AUTHENTICATION_FAILED,
                CloseReason::TooManyRounds,
            ));
        }
        let sa = self.id;
        let patience = cx.now + cx.config.timing.local_answer;
        match packet.first() {
            Some(&EAP_REQUEST) => {
                auth.step = Step::AwaitEap;
                self.deadline = Some(patience);
                let packet = packet.to_vec();
                cx.events.push_back(Event::Eap { sa, packet });
                Ok(())
            }
            Some(&EAP_SUCCESS) => {
                cx.events.push_back(Event::EapSuccess { sa });
                match self.msk.take() {
                    Some(msk) => self.send_final(cx, auth, msk),
                    None => {
                        auth.step = Step::AwaitMsk;
                        self.deadline = Some(patience);
                    }
                }
                Ok(())
            }
            Some(&EAP_FAILURE) => {
                cx.events.push_back(Event::EapFailure { sa });
                Err(Failure::theirs(CloseReason::EapFailure))
            }
            _ => Err(Failure::syntax("EAP code")),
        }
    }

    /// The daemon's EAP response.
    pub(super) fn initiator_eap(&mut self, cx: &mut Cx<'_>, packet: Vec<u8>) {
        let Phase::AuthI(auth) = &mut self.phase else {
            return;
        };
        if auth.step == Step::AwaitEap {
            auth.step = Step::Eap;
            self.deadline = None;
            self.request(cx, ExchangeType::IkeAuth, &[Payload::Eap(packet)]);
        }
    }

    /// The daemon's MSK: AUTH can be made.
    pub(crate) fn set_msk(&mut self, cx: &mut Cx<'_>, msk: Secret) {
        let Phase::AuthI(mut auth) = std::mem::replace(&mut self.phase, Phase::Gone) else {
            return;
        };
        if auth.step == Step::AwaitMsk {
            self.deadline = None;
            self.send_final(cx, &mut auth, msk);
        } else {
            self.msk = Some(msk);
        }
        if !self.closed {
            self.phase = Phase::AuthI(auth);
        }
    }

    fn send_final(&mut self, cx: &mut Cx<'_>, auth: &mut AuthI, msk: Secret) {
        auth.step = Step::Final;
        let Ok(ppk) = self.ppk_for_auth() else {
            return self.finish(cx, CloseReason::Unsendable);
        };
        let mut payloads: Vec<Payload> = self.own_final_auth(&msk).into_iter().collect();
        payloads.extend(ppk);
        if self.profile() == Profile::Paper || self.is_legacy(cx.config) {
            payloads.extend(request_configuration(&auth.config));
        }
        self.msk = Some(msk);
        self.request(cx, ExchangeType::IkeAuth, &payloads);
    }

    fn final_response(
        &mut self,
        cx: &mut Cx<'_>,
        auth: &mut AuthI,
        payloads: &[Payload],
    ) -> Result<(), Failure> {
        let proof = payloads.iter().find_map(|payload| match payload {
            Payload::Auth { method, data } => Some((*method, data)),
            _ => None,
        });
        let Some((method, data)) = proof else {
            return Err(match first_error(payloads) {
                Some(reason) => Failure::theirs(reason),
                None => Failure::syntax("last IKE_AUTH response without AUTH"),
            });
        };
        let good = match &self.msk {
            Some(msk) => self.verify_final_auth(msk, method, data),
            None => false,
        };
        if !good {
            return Err(Failure::authentication());
        }
        self.take_last_response(cx, auth, payloads);
        Ok(())
    }

    /// The peer is authenticated: what it gives, and the Child SA.
    fn take_last_response(&mut self, cx: &mut Cx<'_>, auth: &mut AuthI, payloads: &[Payload]) {
        auth.step = Step::Installing;
        let configuration = payloads
            .iter()
            .find_map(|payload| match payload {
                Payload::Cp(cp) if cp.kind == CfgType::REPLY => Some(cp.attributes.clone()),
                _ => None,
            })
            .unwrap_or_default();
        let foreign = key_material::foreign_notifies(payloads);
        self.mobike_answered(payloads);
        auth.gift = Some((configuration, foreign));
        let outcome = self.read_child_answer(auth.child, payloads);
        match outcome {
            Ok(()) => {
                if let Some(child) = self.children.get_mut(&auth.child)
                    && let Some(keys) = self.signalling_keys.take()
                {
                    child.give_keys(keys);
                }
                self.deadline = Some(cx.now + cx.config.timing.local_answer);
                self.install_child(cx, auth.child);
            }
            Err(failure) => {
                if let Some(child) = self.children.get_mut(&auth.child) {
                    child.state = ChildState::Failed(failure);
                }
            }
        }
    }

    /// After the last response: established as soon as the data plane has answered, or has nothing to do.
    pub(super) fn after_final(&mut self, cx: &mut Cx<'_>) {
        let Phase::AuthI(auth) = &mut self.phase else {
            return;
        };
        if auth.step != Step::Installing {
            return;
        }
        let child = auth.child;
        let outcome = match self.children.get(&child).map(|child| &child.state) {
            Some(ChildState::Installing) => return,
            Some(ChildState::Failed(failure)) => Err(*failure),
            Some(_) => Ok(()),
            None => return,
        };
        let (configuration, notifies) = auth.gift.take().unwrap_or_default();
        self.establish(cx);
        cx.events.push_back(Event::Established {
            sa: self.id,
            configuration,
            notifies,
        });
        match outcome {
            Ok(()) => self.child_is_up(cx, child),
            Err(failure) => {
                let spi = self.children.get(&child).map(|child| child.spi_in);
                // The peer may have installed what this side could not.
                if !matches!(failure, ChildFailure::Refused(_))
                    && let Some(spi) = spi
                {
                    self.queue.push_back(super::Command::DeleteSpi(spi));
                }
                self.fail_child(cx, child, failure);
            }
        }
        self.pump(cx);
    }
}

/// EAP codes (RFC 3748 4).
pub(super) const EAP_REQUEST: u8 = 1;
pub(super) const EAP_RESPONSE: u8 = 2;
pub(super) const EAP_SUCCESS: u8 = 3;
pub(super) const EAP_FAILURE: u8 = 4;

pub(super) fn eap_packet(payloads: &[Payload]) -> Option<&[u8]> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Eap(packet) => Some(packet.as_slice()),
        _ => None,
    })
}

fn request_configuration(config: &InitiatorConfig) -> Option<Payload> {
    (!config.configuration.is_empty()).then(|| {
        Payload::Cp(Configuration {
            kind: CfgType::REQUEST,
            attributes: config.configuration.clone(),
        })
    })
}

/// What a protected error notify in IKE_AUTH means for the SA.
pub(super) fn first_error(payloads: &[Payload]) -> Option<CloseReason> {
    let error = notifies(payloads).find(|notify| notify.kind.is_error())?;
    Some(match (error.kind, error.data.as_slice()) {
        (NotifyType::AUTHENTICATION_FAILED, _) => CloseReason::AuthenticationRefused,
        (NotifyType::QKD_UNAVAILABLE, [reason]) => CloseReason::PeerQkdUnavailable(*reason),
        (kind, _) => CloseReason::Refused(kind),
    })
}
