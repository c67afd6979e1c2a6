//! IKE_AUTH, responder: EAP authenticator (RFC 7296 1.2, 2.16; TS 24.502 7.3).

use super::{
    Cx, Denial, Phase, Sa,
    auth_initiator::{EAP_RESPONSE, eap_packet},
    child::{Child, ChildState},
    selectors,
};
use crate::{
    config::Mode,
    crypto::EspSuite,
    event::{ChildFailure, ChildId, CloseReason, EapSuccess, Event, Path},
    wire::{
        CfgAttribute, CfgType, Configuration, Notify, NotifyType, Payload, SaPayload,
        TrafficSelector,
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
    success: Option<EapSuccess>,
    /// Whether CERTREQ came.
    asked: bool,
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
    pub(super) fn begin_auth_responder(&mut self) {
        self.phase = Phase::AuthR(Box::new(AuthR {
            step: Step::AwaitFirst,
            rounds: 0,
            child: None,
            answer: Err(NotifyType::NO_PROPOSAL_CHOSEN),
            wanted: Vec::new(),
            success: None,
            asked: false,
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
            Step::First | Step::Eap | Step::Installing => Ok(()),
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
        self.judge_first_auth(cx, certified, payloads)?;
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
        auth.step = Step::First;
        auth.asked = asked;
        let configuration = auth.wanted.clone();
        cx.events.push_back(Event::EapBegin {
            sa: self.id,
            path,
            peer_id: identity,
            configuration,
        });
        Ok(())
    }

    /// AUTH in the first request makes the difference between modes `psk` and `cert`.
    fn judge_first_auth(
        &mut self,
        cx: &mut Cx<'_>,
        certified: bool,
        payloads: &[Payload],
    ) -> Result<(), Denial> {
        let accepted = cx.config.responder.as_ref().is_some_and(|config| {
            let modes = cx.config.acceptance.modes(config);
            match certified {
                _ if self.mode.is_qkd() => true,
                true => modes.contains(&Mode::Cert),
                false => modes.contains(&Mode::Psk),
            }
        });
        if !accepted || (certified && !self.initiator_is_certified(cx, payloads)) {
            return Err(Denial::fatal(
                NotifyType::AUTHENTICATION_FAILED,
                CloseReason::AuthenticationFailed,
            ));
        }
        if !self.mode.is_qkd() {
            self.mode = if certified { Mode::Cert } else { Mode::Psk };
        }
        Ok(())
    }

    /// The signalling Child SA as offered: a suite now, Traffic Selectors when the daemon has an address for the UE.
    fn offered_child(
        &mut self,
        cx: &mut Cx<'_>,
        offer: &SaPayload,
        ts_i: Vec<TrafficSelector>,
        ts_r: Vec<TrafficSelector>,
    ) -> Result<(ChildId, SaPayload), NotifyType> {
        let selection = EspSuite::select(&self.esp_suites, offer)
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
        self.children.insert(id, child);
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
                auth.success = Some(success);
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
            && matches!(auth.step, Step::First | Step::Eap)
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
        let good = match &self.phase {
            Phase::AuthR(auth) => match &auth.success {
                Some(success) => payloads.iter().any(|payload| match payload {
                    Payload::Auth { method, data } => {
                        self.verify_final_auth(&success.msk, *method, data)
                    }
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
        let Phase::AuthR(auth) = &mut self.phase else {
            return Ok(());
        };
        auth.step = Step::Installing;
        let (child, answer) = (auth.child, auth.answer.is_ok());
        let (local, remote) = match &auth.success {
            Some(success) => (success.ts_local.clone(), success.ts_remote.clone()),
            None => (Vec::new(), Vec::new()),
        };
        let (Some(child), true) = (child, answer) else {
            self.send_last_response(cx, Err(NotifyType::NO_PROPOSAL_CHOSEN));
            return Ok(());
        };
        let Some(entry) = self.children.get_mut(&child) else {
            return Ok(());
        };
        entry.ts_local = selectors::narrow(&entry.ts_local, &local);
        entry.ts_remote = selectors::narrow(&entry.ts_remote, &remote);
        if entry.ts_local.is_empty() || entry.ts_remote.is_empty() {
            self.send_last_response(cx, Err(NotifyType::TS_UNACCEPTABLE));
            return Ok(());
        }
        if let Some(keys) = self.signalling_keys.take() {
            entry.give_keys(keys);
        }
        self.install_child(cx, child);
        Ok(())
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
        let Some(success) = auth.success.take() else {
            return;
        };
        let wanted = std::mem::take(&mut auth.wanted);
        let id = auth.child;
        let answer = std::mem::replace(&mut auth.answer, Err(NotifyType::NO_PROPOSAL_CHOSEN));
        let mut payloads: Vec<Payload> = self.own_final_auth(&success.msk).into_iter().collect();
        if !success.configuration.is_empty() {
            payloads.push(Payload::Cp(Configuration {
                kind: CfgType::REPLY,
                attributes: success.configuration,
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
        payloads.extend(success.notifies.into_iter().map(Payload::Notify));
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
