//! IKE_SA_INIT, responder (RFC 7296 1.2; mode `qkd`: keys first, then the answer that names them).

use keys::{QkdKey, SaeId};

use super::{Cx, Phase, Sa, keys as key_material, ledger, window};
use crate::{
    config::{Mode, Profile, ResponderConfig},
    crypto::IkeSuite,
    event::{CloseReason, Event, KeyRequestId, KeysWanted, Path, QkdFailure},
    wire::{
        self, ExchangeType, Notify, NotifyType, Parsed, Payload, SaPayload, find_notify,
        qkd::{KeyIdFormat, QkdKeyIds, QkdSupported},
    },
};

pub(super) struct InitR {
    request: KeyRequestId,
    answer: SaPayload,
}

impl InitR {
    pub(super) fn waits_for(&self, request: KeyRequestId) -> bool {
        self.request == request
    }
}

/// A request this responder can grant.
pub(crate) struct InitRequest {
    profile: Profile,
    suite: IkeSuite,
    answer: SaPayload,
    nonce: Vec<u8>,
    slave: SaeId,
}

/// The unprotected error notify a request is refused with, without keeping any state.
pub(crate) struct Refusal(pub(crate) Notify);

impl From<NotifyType> for Refusal {
    fn from(kind: NotifyType) -> Self {
        Self(Notify::status(kind, Vec::new()))
    }
}

impl InitRequest {
    /// The initiator's nonce, which a cookie is bound to.
    pub(crate) fn peek_nonce(payloads: &[Payload]) -> Option<&[u8]> {
        payloads.iter().find_map(|payload| match payload {
            Payload::Nonce(nonce) => Some(nonce.as_slice()),
            _ => None,
        })
    }

    /// Reads a request and decides mode, profile and suite.
    pub(crate) fn read(config: &ResponderConfig, payloads: &[Payload]) -> Result<Self, Refusal> {
        let nonce = Self::peek_nonce(payloads)
            .ok_or(NotifyType::INVALID_SYNTAX)?
            .to_vec();
        let proposals = payloads
            .iter()
            .find_map(|payload| match payload {
                Payload::Sa(sa) => Some(sa),
                _ => None,
            })
            .ok_or(NotifyType::INVALID_SYNTAX)?;
        let (profile, slave) = match find_notify(payloads, NotifyType::QKD_SUPPORTED) {
            Some(notify) => {
                let supported = QkdSupported::from_data(&notify.data)
                    .map_err(|_| NotifyType::INVALID_SYNTAX)?;
                if !supported.qkd {
                    return Err(NotifyType::NO_PROPOSAL_CHOSEN.into());
                }
                (Profile::Native, supported.sae)
            }
            None => {
                let paper = config
                    .paper
                    .as_ref()
                    .ok_or(NotifyType::NO_PROPOSAL_CHOSEN)?;
                (Profile::Paper, paper.ue_sae_id.clone())
            }
        };
        if !config.profiles.contains(&profile) {
            return Err(NotifyType::NO_PROPOSAL_CHOSEN.into());
        }
        let suites = key_material::ike_suites(profile, &config.ike_suites);
        let selection =
            IkeSuite::select(&suites, proposals).ok_or(NotifyType::NO_PROPOSAL_CHOSEN)?;
        let suite = selection.suite;
        if nonce.len() < suite.prf.key_len() / 2 {
            return Err(NotifyType::INVALID_SYNTAX.into());
        }
        Ok(Self {
            profile,
            suite,
            answer: selection.answer(Vec::new()),
            nonce,
            slave,
        })
    }
}

impl Sa {
    /// Takes up an IKE_SA_INIT request: asks for keys. The answer waits for them.
    pub(crate) fn respond_init(
        cx: &mut Cx<'_>,
        path: Path,
        parsed: &Parsed<'_>,
        payloads: &[Payload],
        request: InitRequest,
        config: &ResponderConfig,
    ) -> Self {
        let (spi_i, datagram) = (parsed.header.spi_i, parsed.datagram);
        let mut sa = Self::new(cx, false, path, request.profile);
        sa.spi_i = spi_i;
        (sa.nat_local, sa.nat_remote) = key_material::detect_nat(spi_i, 0, path, payloads);
        sa.responses
            .accept(0, ExchangeType::IkeSaInit, window::digest(datagram), path);
        sa.transcript.request = datagram.to_vec();
        sa.transcript.nonce_i = request.nonce;
        sa.transcript.nonce_r = cx.random(key_material::init_nonce_len(request.profile));
        sa.suite = Some(request.suite);
        sa.esp_suites =
            key_material::esp_suites(request.profile, &request.suite, &config.esp_suites);
        sa.local_id = Some(config.identity.clone());
        sa.peer_sae = Some(request.slave.clone());
        sa.deadline = Some(cx.now + cx.config.timing.half_open_lifetime);
        let key_request = cx.ids.key_request();
        sa.phase = Phase::Allocating(Box::new(InitR {
            request: key_request,
            answer: request.answer,
        }));
        cx.events.push_back(Event::KeysNeeded {
            sa: sa.id,
            request: key_request,
            wanted: KeysWanted::Allocate {
                slave: request.slave,
                number: ledger::keys_per_attach(sa.aead()),
                size_bits: key_material::size_bits(&request.suite, &sa.esp_suites),
            },
        });
        sa
    }

    /// Whether a datagram is this SA's IKE_SA_INIT request again; answers it if the answer is made.
    pub(crate) fn replay_init(&self, cx: &mut Cx<'_>, path: Path, datagram: &[u8]) {
        let digest = window::digest(datagram);
        if let window::Incoming::Replay(response) = self.responses.classify(0, &digest) {
            cx.transmit(path, response);
        }
    }

    /// The KMS's answer: with keys the request is granted.
    pub(super) fn allocated(&mut self, cx: &mut Cx<'_>, keys: Result<Vec<QkdKey>, QkdFailure>) {
        let Phase::Allocating(init) = std::mem::replace(&mut self.phase, Phase::Gone) else {
            return;
        };
        let ids: Vec<_> = match &keys {
            Ok(keys) => keys.iter().map(|key| key.id).collect(),
            Err(_) => Vec::new(),
        };
        if let Err(failure) = keys.and_then(|keys| self.take_initial_keys(cx, keys)) {
            let refusal = key_material::unavailable(failure);
            self.send_init_response(cx, 0, &[refusal.into()]);
            return self.finish(cx, CloseReason::Qkd(failure));
        }
        let mut payloads = vec![
            Payload::Sa(init.answer),
            Payload::Nonce(self.transcript.nonce_r.clone()),
        ];
        payloads.extend(key_material::nat_detection(
            self.spi_i, self.spi_r, self.path,
        ));
        let format = match (self.profile, &cx.config.responder) {
            (Profile::Native, Some(config)) => {
                let supported = QkdSupported {
                    qkd: true,
                    hybrid: false,
                    paper: false,
                    sae: config.sae_id.clone(),
                };
                payloads.push(supported.to_notify().into());
                KeyIdFormat::Binary
            }
            _ => KeyIdFormat::Json,
        };
        payloads.push(QkdKeyIds { format, ids }.to_notify().into());
        if self.send_init_response(cx, self.spi_r, &payloads) {
            self.begin_auth_responder();
        } else {
            self.finish(cx, CloseReason::Unsendable);
        }
    }

    fn send_init_response(&mut self, cx: &mut Cx<'_>, spi_r: u64, payloads: &[Payload]) -> bool {
        let mut header = self.header(ExchangeType::IkeSaInit, true, 0);
        header.spi_r = spi_r;
        let Ok(datagram) = wire::encode(&header, payloads) else {
            return false;
        };
        self.transmit(cx, &datagram);
        self.transcript.response.clone_from(&datagram);
        self.responses.answered(datagram);
        true
    }

    pub(super) fn mode(&self) -> Mode {
        Mode::Qkd(self.profile)
    }
}
