//! IKE_AUTH, responder: EAP authenticator (RFC 7296 1.2, 2.16; TS 24.502 7.3). In mode `plain` one exchange is all.

use super::{
    Cx, Denial, Phase, Sa,
    auth_initiator::{EAP_RESPONSE, eap_packet},
    child::{Child, ChildState},
    contact::Contact,
    keys as key_material,
    plain::Expected,
    selectors,
};
use ::keys::Secret;

use crate::{
    config::Mode,
    crypto::EspSuite,
    event::{ChildFailure, ChildId, CloseReason, EapSuccess, Event, Grant, Path},
    wire::{
        CfgAttribute, CfgType, Configuration, Notify, NotifyType, Payload, SaPayload,
        TrafficSelector, find_notify,
    },
};

/// EAP rounds after which something is wrong.
const MAX_EAP_ROUNDS: u32 = 64;

pub(super) struct AuthR {
    step: Step,
    rounds: u32,
    child: Option<ChildId>,
    /// SA payload of the last response, or the error notify in its place.
    answer: Result<SaPayload, NotifyType>,
    /// Attributes of CFG_REQUEST, from whichever request had it.
    wanted: Vec<CfgAttribute>,
    /// The key of EAP-Success, that both final AUTH are made with.
    msk: Option<Secret>,
    grant: Option<Grant>,
    /// Whether CERTREQ came.
    asked: bool,
    /// RFC 8784: the confirmation of the PPK.
    ppk: Option<Payload>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The peer's first request is due.
    AwaitFirst,
    /// The daemon prepares the first EAP request.
    First,
    /// The peer's next EAP response is due.
    AwaitEap,
    /// The daemon prepares the next EAP packet.
    Eap,
    /// Mode `plain`: the peer's AUTH is good; the daemon admits it or not.
    Grant,
    /// EAP succeeded; the peer's AUTH is due.
    AwaitFinal,
    /// The peer's AUTH is good; the data plane works.
    Installing,
}

impl AuthR {
    pub(super) fn awaits_request(&self) -> bool {
        matches!(
            self.step,
            Step::AwaitFirst | Step::AwaitEap | Step::AwaitFinal
        )
    }
}

impl Sa {
    pub(super) fn begin_auth_responder(&mut self, cx: &mut Cx<'_>) {
        cx.events.push_back(Event::Keyed {
            sa: self.id,
            mode: self.mode,
        });
        self.phase = Phase::AuthR(Box::new(AuthR {
            step: Step::AwaitFirst,
            rounds: 0,
            child: None,
            answer: Err(NotifyType::NO_PROPOSAL_CHOSEN),
            wanted: Vec::new(),
            msk: None,
            grant: None,
            asked: false,
            ppk: None,
        }));
    }

    /// A request of IKE_AUTH.
    pub(super) fn auth_request(
        &mut self,
        cx: &mut Cx<'_>,
        path: Path,
        payloads: &[Payload],
    ) -> Result<(), Denial> {
        let Phase::AuthR(auth) = &mut self.phase else {
            return Ok(());
        };
        for payload in payloads {
            if let Payload::Cp(cp) = payload
                && cp.kind == CfgType::REQUEST
                && auth.wanted.is_empty()
            {
                auth.wanted.clone_from(&cp.attributes);
            }
        }
        match auth.step {
            Step::AwaitFirst => self.first_auth_request(cx, path, payloads),
            Step::AwaitEap => {
                auth.rounds += 1;
                let packet = eap_packet(payloads)
                    .filter(|packet| packet.first() == Some(&EAP_RESPONSE))
                    .ok_or(Denial::syntax("IKE_AUTH request without an EAP response"))?;
                if auth.rounds > MAX_EAP_ROUNDS {
                    return Err(Denial::fatal(
                        NotifyType::AUTHENTICATION_FAILED,
                        CloseReason::TooManyRounds,
                    ));
                }
                auth.step = Step::Eap;
                cx.events.push_back(Event::Eap {
                    sa: self.id,
                    packet: packet.to_vec(),
                });
                Ok(())
            }
            Step::AwaitFinal => self.final_auth_request(cx, payloads),
            Step::First | Step::Eap | Step::Grant | Step::Installing => Ok(()),
        }
    }

    fn first_auth_request(
        &mut self,
        cx: &mut Cx<'_>,
        path: Path,
        payloads: &[Payload],
    ) -> Result<(), Denial> {
        let mut identity = None;
        let mut offer = None;
        let mut ts_i = None;
        let mut ts_r = None;
        let mut asked = false;
        let mut certified = false;
        for payload in payloads {
            match payload {
                Payload::CertReq { .. } => asked = true,
                Payload::IdI(id) => identity = Some(id.clone()),
                Payload::Sa(sa) => offer = Some(sa.clone()),
                Payload::TsI(list) => ts_i = Some(list.clone()),
                Payload::TsR(list) => ts_r = Some(list.clone()),
                // In mode `qkd` a request for authentication without EAP, which there is not.
                Payload::Auth { .. } if self.mode.is_qkd() => {
                    return Err(Denial::fatal(
                        NotifyType::AUTHENTICATION_FAILED,
                        CloseReason::AuthenticationFailed,
                    ));
                }
                Payload::Auth { .. } => certified = true,
                _ => {}
            }
        }
        let (Some(identity), Some(offer), Some(ts_i), Some(ts_r)) = (identity, offer, ts_i, ts_r)
        else {
            return Err(Denial::syntax(
                "first IKE_AUTH request without IDi, SA or TS",
            ));
        };
        self.remote_id = Some(identity.clone());
        self.contact = match find_notify(payloads, NotifyType::INITIAL_CONTACT) {
            Some(_) => Contact::Claimed,
            None => Contact::Silent,
        };
        self.judge_first_auth(cx, certified, payloads)?;
        self.mobike_offered(cx, path, payloads)?;
        let answer = self.offered_child(cx, &offer, ts_i, ts_r);
        let Phase::AuthR(auth) = &mut self.phase else {
            return Ok(());
        };
        match answer {
            Ok((child, sa)) => {
                auth.child = Some(child);
                auth.answer = Ok(sa);
            }
            Err(kind) => auth.answer = Err(kind),
        }
        auth.asked = asked;
        let configuration = auth.wanted.clone();
        if self.mode == Mode::Plain {
            auth.step = Step::Grant;
            cx.events.push_back(Event::PeerAuthenticated {
                sa: self.id,
                path,
                peer_id: identity,
                configuration,
            });
            return Ok(());
        }
        auth.step = Step::First;
        let legacy = self.is_legacy(cx.config);
        cx.events.push_back(Event::EapBegin {
            sa: self.id,
            path,
            peer_id: identity,
            configuration,
            legacy,
        });
        Ok(())
    }

    /// AUTH in the first request makes the difference between modes `psk` and `cert`, or `plain`.
    fn judge_first_auth(
        &mut self,
        cx: &mut Cx<'_>,
        certified: bool,
        payloads: &[Payload],
    ) -> Result<(), Denial> {
        let mut mode = self.mode;
        let modes = &self.terms.modes;
        if !mode.has_qkd_key() {
            mode = match certified {
                true if modes.contains(&Mode::Plain) => Mode::Plain,
                true => Mode::Cert,
                false => Mode::Psk,
            };
        }
        let accepted = match mode {
            Mode::Hybrid => !certified,
            mode => mode.is_qkd() || modes.contains(&mode),
        };
        let proven = match mode {
            Mode::Plain if !self.takes_configured_ppk(cx, payloads) => false,
            Mode::Plain => {
                let acceptance = &cx.config.acceptance;
                let expected = Expected {
                    shared_key: acceptance.shared_key.as_deref(),
                    trust: acceptance.trust.as_ref(),
                    allow_sha1: acceptance.allow_sha1,
                };
                self.peer_is_proven(cx, &expected, payloads)
            }
            _ => !certified || self.initiator_is_certified(cx, payloads),
        };
        if !accepted || !proven {
            return Err(Denial::fatal(
                NotifyType::AUTHENTICATION_FAILED,
                CloseReason::AuthenticationFailed,
            ));
        }
        self.mode = mode;
        Ok(())
    }

    /// Mode `plain`: whether the PPK of the configuration, if there is one, is in the keys now (RFC 8784).
    fn takes_configured_ppk(&mut self, cx: &Cx<'_>, payloads: &[Payload]) -> bool {
        let wanted = cx.config.acceptance.configured_ppk.is_some();
        let Ok(consent) = self.ppk_of_auth(payloads) else {
            return false;
        };
        let taken = consent.is_some();
        if let Phase::AuthR(auth) = &mut self.phase {
            auth.ppk = consent;
        }
        taken == wanted
    }

    /// The signalling Child SA as offered: a suite now, Traffic Selectors when the daemon has an address for the UE.
    fn offered_child(
        &mut self,
        cx: &mut Cx<'_>,
        offer: &SaPayload,
        ts_i: Vec<TrafficSelector>,
        ts_r: Vec<TrafficSelector>,
    ) -> Result<(ChildId, SaPayload), NotifyType> {
        let plain = key_material::without_exchange(&self.esp_suites);
        let selection = EspSuite::select(&plain, offer)
            .and_then(|selection| Some((selection.proposal.esp_spi()?, selection)));
        let (spi_out, selection) = selection.ok_or(NotifyType::NO_PROPOSAL_CHOSEN)?;
        let id = cx.ids.child();
        let mut child = Child::new(cx, id, ChildState::Asked);
        child.signalling = true;
        child.spi_out = spi_out;
        child.suite = Some(selection.suite);
        child.ts_remote = ts_i;
        child.ts_local = ts_r;
        child.nonce_i.clone_from(&self.transcript.nonce_i);
        child.nonce_r.clone_from(&self.transcript.nonce_r);
        let answer = selection.answer(child.spi_in.to_be_bytes().to_vec());
        self.children.insert(id, Box::new(child));
        if self.is_legacy(cx.config) {
            // It takes the first proposal it is shown.
            self.esp_suites = vec![selection.suite.into()];
        } else {
            // What it does not speak need not be proposed to it in CREATE_CHILD_SA.
            self.esp_suites.retain(|suite| {
                let plain = key_material::without_exchange(std::slice::from_ref(suite));
                EspSuite::select(&plain, offer).is_some()
            });
        }
        Ok((id, answer))
    }

    /// The daemon's next EAP request.
    pub(super) fn responder_eap(&mut self, cx: &mut Cx<'_>, packet: Vec<u8>) {
        if let Some(payloads) = self.eap_payloads(cx, packet) {
            if let Phase::AuthR(auth) = &mut self.phase {
                auth.step = Step::AwaitEap;
            }
            self.respond(cx, &payloads);
        }
    }

    /// The daemon ends EAP well.
    pub(crate) fn eap_success(&mut self, cx: &mut Cx<'_>, success: EapSuccess) {
        if let Some(payloads) = self.eap_payloads(cx, success.packet.clone()) {
            if let Phase::AuthR(auth) = &mut self.phase {
                auth.step = Step::AwaitFinal;
                auth.msk = Some(success.msk);
                auth.grant = Some(Grant {
                    configuration: success.configuration,
                    ts_local: success.ts_local,
                    ts_remote: success.ts_remote,
                    notifies: success.notifies,
                });
            }
            self.respond(cx, &payloads);
        }
    }

    /// The daemon ends EAP badly.
    pub(crate) fn eap_failure(&mut self, cx: &mut Cx<'_>, packet: Vec<u8>) {
        if let Some(payloads) = self.eap_payloads(cx, packet) {
            self.respond(cx, &payloads);
            self.finish(cx, CloseReason::EapFailure);
        }
    }

    /// The daemon refuses the peer with error notifies instead of an EAP packet.
    pub(crate) fn refuse(&mut self, cx: &mut Cx<'_>, notifies: Vec<Notify>) {
        if let Phase::AuthR(auth) = &self.phase
            && matches!(auth.step, Step::First | Step::Eap | Step::Grant)
        {
            let payloads: Vec<Payload> = notifies.into_iter().map(Payload::Notify).collect();
            self.respond(cx, &payloads);
            self.finish(cx, CloseReason::Local);
        }
    }

    /// The payloads of the response that carries this packet; `None` when none is due.
    fn eap_payloads(&mut self, cx: &mut Cx<'_>, packet: Vec<u8>) -> Option<Vec<Payload>> {
        let Phase::AuthR(auth) = &self.phase else {
            return None;
        };
        match auth.step {
            Step::First => {
                let asked = auth.asked;
                let mut payloads = vec![Payload::IdR(self.local_id.clone()?)];
                match self.own_first_auth(cx, asked) {
                    Some(proof) => payloads.extend(proof),
                    None => {
                        self.finish(cx, CloseReason::Unsendable);
                        return None;
                    }
                }
                payloads.push(Payload::Eap(packet));
                Some(payloads)
            }
            Step::Eap => Some(vec![Payload::Eap(packet)]),
            _ => None,
        }
    }

    fn final_auth_request(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) -> Result<(), Denial> {
        let ppk = self.ppk_of_auth(payloads).map_err(|_| {
            Denial::fatal(
                NotifyType::AUTHENTICATION_FAILED,
                CloseReason::AuthenticationFailed,
            )
        })?;
        if let Phase::AuthR(auth) = &mut self.phase {
            auth.ppk = ppk;
        }
        let good = match &self.phase {
            Phase::AuthR(auth) => match &auth.msk {
                Some(msk) => payloads.iter().any(|payload| match payload {
                    Payload::Auth { method, data } => self.verify_final_auth(msk, *method, data),
                    _ => false,
                }),
                None => false,
            },
            _ => return Ok(()),
        };
        if !good {
            return Err(Denial::fatal(
                NotifyType::AUTHENTICATION_FAILED,
                CloseReason::AuthenticationFailed,
            ));
        }
        self.give_first_child(cx);
        Ok(())
    }

    /// Mode `plain`: the daemon admits the peer.
    pub(crate) fn grant(&mut self, cx: &mut Cx<'_>, grant: Grant) {
        if let Phase::AuthR(auth) = &mut self.phase
            && auth.step == Step::Grant
        {
            auth.grant = Some(grant);
            self.give_first_child(cx);
        }
    }

    /// The peer is authenticated and admitted: its Child SA, then the last response.
    fn give_first_child(&mut self, cx: &mut Cx<'_>) {
        let Phase::AuthR(auth) = &mut self.phase else {
            return;
        };
        auth.step = Step::Installing;
        let (child, answer) = (auth.child, auth.answer.is_ok());
        let (local, remote) = match &auth.grant {
            Some(grant) => (grant.ts_local.clone(), grant.ts_remote.clone()),
            None => (Vec::new(), Vec::new()),
        };
        let (Some(child), true) = (child, answer) else {
            return self.send_last_response(cx, Err(NotifyType::NO_PROPOSAL_CHOSEN));
        };
        let Some(entry) = self.children.get_mut(&child) else {
            return;
        };
        entry.ts_local = selectors::narrow(&entry.ts_local, &local);
        entry.ts_remote = selectors::narrow(&entry.ts_remote, &remote);
        if entry.ts_local.is_empty() || entry.ts_remote.is_empty() {
            return self.send_last_response(cx, Err(NotifyType::TS_UNACCEPTABLE));
        }
        if let Some(keys) = self.signalling_keys.take() {
            entry.give_keys(keys);
        }
        self.install_child(cx, child);
    }

    /// The data plane has answered for the signalling Child SA.
    pub(super) fn signalling_installed(&mut self, cx: &mut Cx<'_>, result: Result<(), ()>) {
        self.send_last_response(cx, result.map_err(|()| NotifyType::NO_ADDITIONAL_SAS));
    }

    /// The last response: AUTH, then the Child SA or why there is none (RFC 7296 1.2: the IKE SA stands either way).
    fn send_last_response(&mut self, cx: &mut Cx<'_>, child: Result<(), NotifyType>) {
        let Phase::AuthR(auth) = &mut self.phase else {
            return;
        };
        let Some(grant) = auth.grant.take() else {
            return;
        };
        let msk = auth.msk.take();
        let asked = auth.asked;
        let ppk = auth.ppk.take();
        let wanted = std::mem::take(&mut auth.wanted);
        let id = auth.child;
        let answer = std::mem::replace(&mut auth.answer, Err(NotifyType::NO_PROPOSAL_CHOSEN));
        let proof: Option<Vec<Payload>> = match &msk {
            Some(msk) => self.own_final_auth(msk).map(|auth| vec![auth]),
            None => self.local_id.clone().and_then(|id| {
                let mut payloads = vec![Payload::IdR(id)];
                payloads.extend(self.own_first_auth(cx, asked)?);
                Some(payloads)
            }),
        };
        let Some(mut payloads) = proof else {
            return self.finish(cx, CloseReason::Unsendable);
        };
        payloads.extend(ppk);
        if !grant.configuration.is_empty() {
            payloads.push(Payload::Cp(Configuration {
                kind: CfgType::REPLY,
                attributes: grant.configuration,
            }));
        }
        let selectors = id
            .and_then(|id| self.children.get(&id))
            .map(|child| (child.ts_remote.clone(), child.ts_local.clone()));
        match (child, answer, selectors) {
            (Ok(()), Ok(sa), Some((ts_i, ts_r))) => {
                payloads.extend([Payload::Sa(sa), Payload::TsI(ts_i), Payload::TsR(ts_r)]);
            }
            (outcome, _, _) => {
                let kind = outcome.err().unwrap_or(NotifyType::NO_PROPOSAL_CHOSEN);
                payloads.push(Notify::status(kind, Vec::new()).into());
            }
        }
        payloads.extend(grant.notifies.into_iter().map(Payload::Notify));
        payloads.extend(self.mobility.answer());
        self.respond(cx, &payloads);
        if self.closed {
            return;
        }
        self.establish(cx);
        cx.events.push_back(Event::Established {
            sa: self.id,
            configuration: wanted,
            notifies: Vec::new(),
        });
        match (child, id) {
            (Ok(()), Some(id)) => self.child_is_up(cx, id),
            (Err(kind), Some(id)) => {
                let reason = match kind {
                    NotifyType::NO_ADDITIONAL_SAS => ChildFailure::InstallFailed,
                    kind => ChildFailure::Refused(kind),
                };
                self.fail_child(cx, id, reason);
            }
            (_, None) => {}
        }
        self.pump(cx);
    }
}
