//! IKE_SA_INIT, responder (RFC 7296 1.2; mode `qkd`: keys first, then the answer that names them).
//!
//! The mode is the best of ours that the request offers: `qkd` by QKD_SUPPORTED, `psk` by a KE payload.

use keys::{QkdKey, SaeId, Secret};
use rand_core::CryptoRng;

use super::{
    Cx, Phase, Sa,
    keys::{self as key_material, key_method},
    ledger, window,
};
use crate::{
    config::{Acceptance, Mode, Profile, ResponderConfig},
    crypto::{IkeSuite, KeMethod, Selection, signature::HashAlgorithm},
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
    mode: Mode,
    suite: IkeSuite,
    answer: SaPayload,
    nonce: Vec<u8>,
    source: Source,
}

/// Where the keys of the IKE SA come from.
enum Source {
    /// The KMS, shared with this slave.
    Kms { slave: SaeId },
    /// A key exchange: our public value, the shared secret.
    Exchange { public: Vec<u8>, shared: Secret },
}

/// What a request offers.
struct Offered<'a> {
    proposals: &'a SaPayload,
    ke: Option<(u16, &'a [u8])>,
    supported: Option<QkdSupported>,
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

    /// Reads a request and decides mode and suite. In a key exchange, our half of it is done here, so that a value that
    /// is none costs no state.
    pub(crate) fn read(
        config: &ResponderConfig,
        acceptance: &Acceptance,
        payloads: &[Payload],
        rng: &mut (dyn CryptoRng + Send),
    ) -> Result<Self, Refusal> {
        let nonce = Self::peek_nonce(payloads)
            .ok_or(NotifyType::INVALID_SYNTAX)?
            .to_vec();
        let mut proposals = None;
        let mut ke = None;
        for payload in payloads {
            match payload {
                Payload::Sa(sa) if proposals.is_none() => proposals = Some(sa),
                Payload::Ke { method, data } if ke.is_none() => {
                    ke = Some((*method, data.as_slice()));
                }
                _ => {}
            }
        }
        let supported = find_notify(payloads, NotifyType::QKD_SUPPORTED)
            .map(|notify| QkdSupported::from_data(&notify.data))
            .transpose()
            .map_err(|_| NotifyType::INVALID_SYNTAX)?;
        let offered = Offered {
            proposals: proposals.ok_or(NotifyType::INVALID_SYNTAX)?,
            ke,
            supported,
        };
        let (mode, selection) = acceptance
            .modes(config)
            .into_iter()
            .find_map(|mode| Some((mode, offered.select(config, mode)?)))
            .ok_or(NotifyType::NO_PROPOSAL_CHOSEN)?;
        let suite = selection.suite;
        if nonce.len() < suite.prf.key_len() / 2 {
            return Err(NotifyType::INVALID_SYNTAX.into());
        }
        let source = match key_method(&suite) {
            Some(method) => offered.exchange(method, rng)?,
            None => Source::Kms {
                slave: match (offered.supported, &config.paper) {
                    (Some(supported), _) => supported.sae,
                    (None, Some(paper)) => paper.ue_sae_id.clone(),
                    (None, None) => return Err(NotifyType::NO_PROPOSAL_CHOSEN.into()),
                },
            },
        };
        Ok(Self {
            mode,
            suite,
            answer: selection.answer(Vec::new()),
            nonce,
            source,
        })
    }
}

impl Offered<'_> {
    /// The suite for this mode, if the request offers the mode at all.
    fn select(&self, config: &ResponderConfig, mode: Mode) -> Option<Selection<IkeSuite>> {
        let offers = match mode {
            Mode::Qkd(Profile::Native) => self.supported.as_ref().is_some_and(|s| s.qkd),
            Mode::Qkd(Profile::Paper) => self.supported.is_none() && config.paper.is_some(),
            Mode::Psk | Mode::Cert => self.ke.is_some(),
        };
        let suites = key_material::ike_suites(mode, &config.ike_suites);
        offers
            .then(|| IkeSuite::select(&suites, self.proposals))
            .flatten()
    }

    /// Our half of the key exchange; INVALID_KE_PAYLOAD when the value is of another method (RFC 7296 1.2).
    fn exchange(
        &self,
        method: KeMethod,
        rng: &mut (dyn CryptoRng + Send),
    ) -> Result<Source, Refusal> {
        match self.ke {
            Some((id, value)) if id == method.id() => {
                let (public, shared) = method
                    .respond(value, rng)
                    .map_err(|_| NotifyType::INVALID_SYNTAX)?;
                Ok(Source::Exchange { public, shared })
            }
            _ => {
                let wish = method.id().to_be_bytes().to_vec();
                Err(Refusal(Notify::status(
                    NotifyType::INVALID_KE_PAYLOAD,
                    wish,
                )))
            }
        }
    }
}

impl Sa {
    /// Takes up an IKE_SA_INIT request. In mode `qkd` it asks for keys, and the answer waits for them.
    pub(crate) fn respond_init(
        cx: &mut Cx<'_>,
        path: Path,
        parsed: &Parsed<'_>,
        payloads: &[Payload],
        request: InitRequest,
        config: &ResponderConfig,
    ) -> Self {
        let (spi_i, datagram) = (parsed.header.spi_i, parsed.datagram);
        let mut sa = Self::new(cx, false, path, request.mode);
        sa.spi_i = spi_i;
        (sa.nat_local, sa.nat_remote) = key_material::detect_nat(spi_i, 0, path, payloads);
        sa.responses
            .accept(0, ExchangeType::IkeSaInit, window::digest(datagram), path);
        sa.transcript.request = datagram.to_vec();
        sa.transcript.nonce_i = request.nonce;
        sa.transcript.nonce_r = cx.random(key_material::init_nonce_len(sa.profile()));
        sa.suite = Some(request.suite);
        sa.esp_suites = key_material::esp_suites(request.mode, &request.suite, &config.esp_suites);
        sa.local_id = Some(config.identity.clone());
        sa.deadline = Some(cx.now + cx.config.timing.half_open_lifetime);
        sa.peer_hashes = key_material::announced_hashes(payloads);
        match request.source {
            Source::Exchange { public, shared } => {
                let ke = key_method(&request.suite).map(|method| Payload::Ke {
                    method: method.id(),
                    data: public,
                });
                let made = sa.take_shared_secret(cx, &shared);
                let mut payloads = sa.init_answer(request.answer, ke);
                let acceptance = &cx.config.acceptance;
                if sa.peer_hashes.is_some() {
                    payloads.push(HashAlgorithm::to_notify(&HashAlgorithm::ALL).into());
                }
                if let Some(trust) = &acceptance.trust
                    && acceptance.modes(config).contains(&Mode::Cert)
                {
                    payloads.push(trust.anchors.request());
                }
                if made.is_ok() && sa.send_init_response(cx, sa.spi_r, &payloads) {
                    sa.begin_auth_responder();
                } else {
                    sa.finish(cx, CloseReason::Unsendable);
                }
            }
            Source::Kms { slave } => {
                sa.peer_sae = Some(slave.clone());
                let key_request = cx.ids.key_request();
                sa.phase = Phase::Allocating(Box::new(InitR {
                    request: key_request,
                    answer: request.answer,
                }));
                cx.events.push_back(Event::KeysNeeded {
                    sa: sa.id,
                    request: key_request,
                    wanted: KeysWanted::Allocate {
                        slave,
                        number: ledger::keys_per_attach(sa.aead()),
                        size_bits: key_material::size_bits(&request.suite, &sa.esp_suites),
                    },
                });
            }
        }
        sa
    }

    /// What every good answer begins with.
    fn init_answer(&self, chosen: SaPayload, ke: Option<Payload>) -> Vec<Payload> {
        let mut payloads = vec![Payload::Sa(chosen)];
        payloads.extend(ke);
        payloads.push(Payload::Nonce(self.transcript.nonce_r.clone()));
        payloads.extend(key_material::nat_detection(
            self.spi_i, self.spi_r, self.path,
        ));
        payloads
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
        let mut payloads = self.init_answer(init.answer, None);
        let format = match (self.profile(), &cx.config.responder) {
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
}
