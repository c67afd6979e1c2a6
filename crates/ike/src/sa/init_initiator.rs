//! IKE_SA_INIT, initiator (RFC 7296 1.2, 2.6, 2.21.1).
//!
//! Nothing in a response is authenticated yet, so nothing in it ends the attempt at once: an error notify, an
//! answer outside the offers or key IDs the KMS does not know are hints, after which a good answer has
//! [`Timing::init_error_grace`](crate::config::Timing::init_error_grace) left to arrive.

use keys::{KeyId, QkdKey, SaeId};

use super::{Cx, Phase, Sa, keys as key_material, ledger, window};
use crate::{
    config::{InitiatorConfig, Profile},
    crypto::IkeSuite,
    event::{CloseReason, Event, KeyRequestId, KeysWanted, Path, QkdFailure},
    time::Instant,
    wire::{
        self, ExchangeType, Notify, NotifyType, Payload, find_notify, notifies,
        qkd::{QkdKeyIds, QkdSupported},
    },
};

/// A cookie more than this often is no defence but a fault.
const MAX_COOKIES: u32 = 4;
/// Answers remembered as useless.
const MAX_REFUSED: usize = 8;

pub(super) struct InitI {
    pub(super) config: InitiatorConfig,
    /// The request without a cookie.
    payloads: Vec<Payload>,
    suites: Vec<IkeSuite>,
    cookies: u32,
    /// When to stop hoping, and why.
    grace: Option<(Instant, CloseReason)>,
    /// Responses that proved useless: their repetition says nothing new.
    refused: Vec<window::RequestDigest>,
    candidate: Option<Candidate>,
}

/// A response worth asking the KMS for.
struct Candidate {
    request: KeyRequestId,
    ids: Vec<KeyId>,
    digest: window::RequestDigest,
    spi_r: u64,
}

/// What a good response says.
struct Answer {
    suite: IkeSuite,
    nonce: Vec<u8>,
    master: SaeId,
    ids: Vec<KeyId>,
}

impl InitI {
    pub(super) fn waits_for(&self, request: KeyRequestId) -> bool {
        self.candidate
            .as_ref()
            .is_some_and(|candidate| candidate.request == request)
    }

    pub(super) fn grace_ends(&self) -> Option<Instant> {
        self.grace.as_ref().map(|(until, _)| *until)
    }

    pub(super) fn grace_over(&self, now: Instant) -> Option<CloseReason> {
        self.grace
            .as_ref()
            .filter(|(until, _)| *until <= now)
            .map(|(_, reason)| reason.clone())
    }

    pub(super) fn hint(&self) -> Option<CloseReason> {
        self.grace.as_ref().map(|(_, reason)| reason.clone())
    }

    fn useless(&mut self, cx: &Cx<'_>, digest: window::RequestDigest, reason: CloseReason) {
        if self.refused.len() < MAX_REFUSED {
            self.refused.push(digest);
        }
        self.grace
            .get_or_insert((cx.now + cx.config.timing.init_error_grace, reason));
    }
}

impl Sa {
    /// Begins an IKE SA: sends IKE_SA_INIT.
    pub(crate) fn initiate(cx: &mut Cx<'_>, path: Path, config: InitiatorConfig) -> Self {
        let mut sa = Self::new(cx, true, path, config.profile);
        let nonce_len = key_material::init_nonce_len(config.profile);
        sa.transcript.nonce_i = cx.random(nonce_len);
        sa.local_id = Some(config.identity.clone());
        let suites = key_material::ike_suites(config.profile, &config.ike_suites);
        let mut payloads = vec![
            Payload::Sa(IkeSuite::offer(&suites, &[])),
            Payload::Nonce(sa.transcript.nonce_i.clone()),
        ];
        payloads.extend(key_material::nat_detection(sa.spi_i, 0, path));
        if config.profile == Profile::Native {
            let supported = QkdSupported {
                qkd: true,
                hybrid: false,
                paper: false,
                sae: config.sae_id.clone(),
            };
            payloads.push(supported.to_notify().into());
        }
        sa.phase = Phase::InitSent(Box::new(InitI {
            config,
            payloads,
            suites,
            cookies: 0,
            grace: None,
            refused: Vec::new(),
            candidate: None,
        }));
        sa.send_init(cx, None);
        sa
    }

    /// Sends the request, with the cookie in front if there is one and everything else unchanged (RFC 7296 2.6).
    fn send_init(&mut self, cx: &mut Cx<'_>, cookie: Option<Notify>) {
        let Phase::InitSent(init) = &self.phase else {
            return;
        };
        let payloads: Vec<Payload> = cookie
            .map(Payload::Notify)
            .into_iter()
            .chain(init.payloads.iter().cloned())
            .collect();
        let header = self.header(ExchangeType::IkeSaInit, false, 0);
        let Ok(datagram) = wire::encode(&header, &payloads) else {
            return self.finish(cx, CloseReason::Unsendable);
        };
        self.transmit(cx, &datagram);
        self.transcript.request.clone_from(&datagram);
        self.requests.sent(
            cx.now,
            &cx.config.timing,
            0,
            ExchangeType::IkeSaInit,
            datagram,
        );
    }

    /// A response to IKE_SA_INIT.
    pub(crate) fn init_response(
        &mut self,
        cx: &mut Cx<'_>,
        path: Path,
        header: &wire::Header,
        datagram: &[u8],
        payloads: &[Payload],
    ) {
        if header.spi_i != self.spi_i || header.message_id != 0 || path.remote != self.path.remote {
            return;
        }
        let Phase::InitSent(init) = &mut self.phase else {
            return;
        };
        let digest = window::digest(datagram);
        if init.refused.contains(&digest) {
            return;
        }
        let has_sa = payloads
            .iter()
            .any(|payload| matches!(payload, Payload::Sa(_)));
        if let Some(cookie) = find_notify(payloads, NotifyType::COOKIE)
            && !has_sa
        {
            if !(1..=64).contains(&cookie.data.len()) {
                return init.useless(cx, digest, CloseReason::Syntax("length of a COOKIE"));
            }
            init.cookies += 1;
            if init.cookies > MAX_COOKIES {
                return init.useless(cx, digest, CloseReason::TooManyRounds);
            }
            let cookie = cookie.clone();
            return self.send_init(cx, Some(cookie));
        }
        if let Some(error) = notifies(payloads).find(|notify| notify.kind.is_error()) {
            return init.useless(cx, digest, refusal(error));
        }
        match read_answer(init, header.spi_r, payloads) {
            Err(reason) => init.useless(cx, digest, reason),
            Ok(answer) => {
                let (nat_local, nat_remote) =
                    key_material::detect_nat(self.spi_i, header.spi_r, self.path, payloads);
                self.nat_local = nat_local;
                self.nat_remote = nat_remote;
                self.transcript.response = datagram.to_vec();
                self.transcript.nonce_r = answer.nonce;
                self.suite = Some(answer.suite);
                self.peer_sae = Some(answer.master.clone());
                let request = cx.ids.key_request();
                init.candidate = Some(Candidate {
                    request,
                    ids: answer.ids.clone(),
                    digest,
                    spi_r: header.spi_r,
                });
                self.requests.hold();
                self.deadline = Some(cx.now + cx.config.timing.local_answer);
                if let Phase::InitSent(init) = std::mem::replace(&mut self.phase, Phase::Gone) {
                    self.phase = Phase::Collecting(init);
                }
                cx.events.push_back(Event::KeysNeeded {
                    sa: self.id,
                    request,
                    wanted: KeysWanted::Collect {
                        master: answer.master,
                        ids: answer.ids,
                    },
                });
            }
        }
    }

    /// The KMS's answer for the response's key IDs.
    pub(super) fn collected(&mut self, cx: &mut Cx<'_>, keys: Result<Vec<QkdKey>, QkdFailure>) {
        let Phase::Collecting(mut init) = std::mem::replace(&mut self.phase, Phase::Gone) else {
            return;
        };
        let Some(candidate) = init.candidate.take() else {
            return;
        };
        self.deadline = None;
        let ready = match keys {
            Err(failure) => Err(failure),
            Ok(keys) => match key_material::in_order(&candidate.ids, keys) {
                Ok(keys) => {
                    self.spi_r = candidate.spi_r;
                    self.take_initial_keys(cx, keys)
                }
                Err(unwanted) => {
                    ledger::lose_unclaimed(self.id, unwanted, cx.events);
                    Err(QkdFailure::UnknownKey)
                }
            },
        };
        match ready {
            Ok(()) => {
                self.requests.answered();
                self.begin_auth(cx, init.config);
            }
            Err(failure) => {
                self.spi_r = 0;
                self.suite = None;
                self.peer_sae = None;
                init.useless(cx, candidate.digest, CloseReason::Qkd(failure));
                self.phase = Phase::InitSent(init);
                self.requests.resume(cx.now);
            }
        }
    }
}

/// What an error notify of IKE_SA_INIT hints at.
fn refusal(error: &Notify) -> CloseReason {
    match (error.kind, error.data.as_slice()) {
        (NotifyType::QKD_UNAVAILABLE, [reason]) => CloseReason::PeerQkdUnavailable(*reason),
        (NotifyType::NO_PROPOSAL_CHOSEN, _) => CloseReason::NoProposalChosen,
        (kind, _) => CloseReason::Refused(kind),
    }
}

fn read_answer(init: &InitI, spi_r: u64, payloads: &[Payload]) -> Result<Answer, CloseReason> {
    let syntax = CloseReason::Syntax;
    if spi_r == 0 {
        return Err(syntax("IKE_SA_INIT response without an SPI"));
    }
    let mut proposal = None;
    let mut nonce = None;
    for payload in payloads {
        match payload {
            Payload::Sa(sa) => proposal = Some(sa),
            Payload::Nonce(octets) => nonce = Some(octets.clone()),
            _ => {}
        }
    }
    let nonce = nonce.ok_or(syntax("IKE_SA_INIT response without a Nonce"))?;
    let answer = proposal.ok_or(syntax("IKE_SA_INIT response without an SA"))?;
    let suite = IkeSuite::accepted(&init.suites, answer)
        .ok_or(CloseReason::NoProposalChosen)?
        .suite;
    let master = match init.config.profile {
        Profile::Native => {
            let notify = find_notify(payloads, NotifyType::QKD_SUPPORTED)
                .ok_or(syntax("no QKD_SUPPORTED in the answer"))?;
            let supported =
                QkdSupported::from_data(&notify.data).map_err(|_| syntax("QKD_SUPPORTED"))?;
            if !supported.qkd {
                return Err(CloseReason::NoProposalChosen);
            }
            supported.sae
        }
        Profile::Paper => init
            .config
            .master_sae_id
            .clone()
            .ok_or(syntax("no master SAE ID configured"))?,
    };
    let notify = find_notify(payloads, NotifyType::QKD_KEY_IDS)
        .ok_or(syntax("no QKD_KEY_IDS in the answer"))?;
    let ids = QkdKeyIds::from_data(&notify.data)
        .map_err(|_| syntax("QKD_KEY_IDS"))?
        .ids;
    if ids.len() != ledger::keys_per_attach(suite.integ.is_none()) {
        return Err(syntax("number of QKD_KEY_IDS"));
    }
    Ok(Answer {
        suite,
        nonce,
        master,
        ids,
    })
}
