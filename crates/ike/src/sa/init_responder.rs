//! IKE_SA_INIT, responder (RFC 7296 1.2; mode `qkd`: keys first, then the answer that names them).
//!
//! The mode is the best of ours that the request offers: `qkd` by QKD_SUPPORTED, `psk` by a KE payload, `hybrid` by both.

use std::net::IpAddr;

use keys::{QkdKey, SaeId, Secret};
use rand_core::CryptoRng;

use super::{
    Cx, Phase, Sa,
    keys::{self as key_material, key_method},
    ledger,
    legacy::{is_legacy, respond_without_zeros},
    ppk::{PPK_BITS, PpkPlace},
    window,
};
use crate::{
    config::{Acceptance, Mode, PeerProfile, Profile, ResponderConfig, Terms},
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
    /// Mode `hybrid`: our half of the key exchange.
    exchange: Option<Exchange>,
}

/// Our half of a key exchange, and where a QKD key goes besides.
struct Exchange {
    public: Vec<u8>,
    shared: Secret,
    place: Option<PpkPlace>,
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
    /// What the sender may do.
    terms: Terms,
}

/// Where the keys of the IKE SA come from.
enum Source {
    /// The KMS, shared with this slave; in mode `hybrid` beside a key exchange.
    Kms {
        slave: SaeId,
        exchange: Option<Exchange>,
    },
    Exchange(Exchange),
}

/// What a request offers.
struct Offered<'a> {
    proposals: &'a SaPayload,
    ke: Option<(u16, &'a [u8])>,
    supported: Option<QkdSupported>,
    /// IKE_INTERMEDIATE.
    intermediate: bool,
    ppk: Option<PpkPlace>,
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

    /// Whose keys it takes, if it takes any of the KMS.
    pub(crate) fn slave(&self) -> Option<&SaeId> {
        match &self.source {
            Source::Kms { slave, .. } => Some(slave),
            Source::Exchange(_) => None,
        }
    }

    /// Reads a request of `peer` and decides mode and suite. In a key exchange, our half of it is done here, so that a value that
    /// is none costs no state.
    pub(crate) fn read(
        config: &ResponderConfig,
        acceptance: &Acceptance,
        peer: IpAddr,
        profile: PeerProfile,
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
            intermediate: find_notify(payloads, NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)
                .is_some(),
            ppk: PpkPlace::choose(payloads, acceptance.ppk),
        };
        let terms = acceptance.terms(config, peer);
        let (mode, selection) = terms
            .modes
            .iter()
            .copied()
            .find_map(|mode| Some((mode, offered.select(config, mode)?)))
            .ok_or(NotifyType::NO_PROPOSAL_CHOSEN)?;
        let suite = selection.suite;
        if nonce.len() < suite.prf.key_len() / 2 {
            return Err(NotifyType::INVALID_SYNTAX.into());
        }
        let source = match key_method(&suite) {
            Some(method) => {
                let legacy = is_legacy(profile, false, mode, Some(&suite));
                let exchange = offered.exchange(method, legacy, rng)?;
                match (mode, offered.supported) {
                    (Mode::Hybrid, Some(supported)) => Source::Kms {
                        slave: supported.sae,
                        exchange: Some(Exchange {
                            place: offered.ppk,
                            ..exchange
                        }),
                    },
                    _ => Source::Exchange(exchange),
                }
            }
            None => Source::Kms {
                exchange: None,
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
            terms,
        })
    }
}

impl Offered<'_> {
    /// The suite for this mode, if the request offers the mode at all.
    fn select(&self, config: &ResponderConfig, mode: Mode) -> Option<Selection<IkeSuite>> {
        let offers = match mode {
            Mode::Qkd(Profile::Native) => self.supported.as_ref().is_some_and(|s| s.qkd),
            Mode::Qkd(Profile::Paper) => self.supported.is_none() && config.paper.is_some(),
            Mode::Hybrid => {
                let both = self.supported.as_ref().is_some_and(|s| s.hybrid);
                both && self.ke.is_some() && self.ppk.is_some()
            }
            Mode::Psk | Mode::Cert | Mode::Plain => self.ke.is_some(),
        };
        let mut suites = key_material::ike_suites(mode, &config.ike_suites);
        suites.retain(|suite| self.intermediate || !key_material::has_additional(suite));
        offers
            .then(|| IkeSuite::select(&suites, self.proposals))
            .flatten()
    }

    /// Our half of the key exchange; INVALID_KE_PAYLOAD when the value is of another method (RFC 7296 1.2).
    fn exchange(
        &self,
        method: KeMethod,
        legacy: bool,
        rng: &mut (dyn CryptoRng + Send),
    ) -> Result<Exchange, Refusal> {
        match self.ke {
            Some((id, value)) if id == method.id() => {
                let answer = match legacy {
                    true => respond_without_zeros(method, value, rng),
                    false => method.respond(value, rng),
                };
                let (public, shared) = answer.map_err(|_| NotifyType::INVALID_SYNTAX)?;
                Ok(Exchange {
                    public,
                    shared,
                    place: None,
                })
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
        sa.terms = request.terms;
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
        sa.fragments = key_material::fragmentation_agreed(cx, payloads);
        match request.source {
            Source::Exchange(exchange) => {
                let made = sa.take_shared_secret(cx, &exchange.shared);
                sa.configure_ppk(cx.config.acceptance.configured_ppk.as_deref(), payloads);
                let mut payloads = sa.init_answer(request.answer, Some(exchange.public));
                let acceptance = &cx.config.acceptance;
                if sa.peer_hashes.is_some() {
                    payloads.push(HashAlgorithm::to_notify(&HashAlgorithm::ALL).into());
                }
                if let Some(trust) = &acceptance.trust
                    && sa
                        .terms
                        .modes
                        .iter()
                        .any(|mode| matches!(mode, Mode::Cert | Mode::Plain))
                {
                    payloads.push(trust.anchors.request());
                }
                if made.is_ok() && sa.send_init_response(cx, sa.spi_r, &payloads) {
                    sa.after_init_responder(cx);
                } else {
                    sa.finish(cx, CloseReason::Unsendable);
                }
            }
            Source::Kms { slave, exchange } => {
                sa.peer_sae = Some(slave.clone());
                let key_request = cx.ids.key_request();
                let (number, size_bits) = match &exchange {
                    Some(_) => (1, PPK_BITS),
                    None => (
                        ledger::keys_per_attach(sa.aead()),
                        key_material::size_bits(&request.suite, &sa.esp_suites),
                    ),
                };
                sa.phase = Phase::Allocating(Box::new(InitR {
                    request: key_request,
                    answer: request.answer,
                    exchange,
                }));
                cx.events.push_back(Event::KeysNeeded {
                    sa: sa.id,
                    request: key_request,
                    wanted: KeysWanted::Allocate {
                        slave,
                        number,
                        size_bits,
                    },
                });
            }
        }
        sa
    }

    /// What every good answer begins with.
    fn init_answer(&self, chosen: SaPayload, public: Option<Vec<u8>>) -> Vec<Payload> {
        let method = self.suite.as_ref().and_then(key_method);
        let ke = method.zip(public).map(|(method, data)| Payload::Ke {
            method: method.id(),
            data,
        });
        let mut payloads = vec![Payload::Sa(chosen)];
        payloads.extend(ke);
        payloads.push(Payload::Nonce(self.transcript.nonce_r.clone()));
        payloads.extend(key_material::nat_detection(
            self.spi_i, self.spi_r, self.path,
        ));
        let additional = self
            .suite
            .as_ref()
            .is_some_and(key_material::has_additional);
        if additional || self.ppk_place() == Some(PpkPlace::Intermediate) {
            payloads.push(key_material::intermediate_supported());
        }
        payloads.extend(self.ppk_place().map(PpkPlace::notify));
        if self.fragments {
            let kind = NotifyType::IKEV2_FRAGMENTATION_SUPPORTED;
            payloads.push(Notify::status(kind, Vec::new()).into());
        }
        payloads
    }

    /// Whether a datagram is this SA's IKE_SA_INIT request again; answers it if the answer is made.
    pub(crate) fn replay_init(&self, cx: &mut Cx<'_>, path: Path, datagram: &[u8]) {
        let digest = window::digest(datagram);
        if let window::Incoming::Replay(response) = self.responses.classify(0, &digest) {
            cx.transmit_all(path, response);
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
        let (exchange, public) = match init.exchange {
            Some(exchange) => (
                exchange.place.map(|place| (exchange.shared, place)),
                Some(exchange.public),
            ),
            None => (None, None),
        };
        let taken = keys.and_then(|keys| match &exchange {
            Some((shared, place)) => self.take_hybrid_keys(cx, shared, *place, keys),
            None => self.take_initial_keys(cx, keys),
        });
        if let Err(failure) = taken {
            let refusal = key_material::unavailable(failure);
            self.send_init_response(cx, 0, &[refusal.into()]);
            return self.finish(cx, CloseReason::Qkd(failure));
        }
        let hybrid = self.mode == Mode::Hybrid;
        let mut payloads = self.init_answer(init.answer, public);
        let format = match (self.profile(), &cx.config.responder) {
            (Profile::Native, Some(config)) => {
                let supported = QkdSupported {
                    qkd: !hybrid,
                    hybrid,
                    paper: false,
                    sae: config.sae_id.clone(),
                };
                payloads.push(supported.to_notify().into());
                KeyIdFormat::Binary
            }
            _ => KeyIdFormat::Json,
        };
        payloads.push(QkdKeyIds { format, ids }.to_notify().into());
        if hybrid && self.peer_hashes.is_some() {
            payloads.push(HashAlgorithm::to_notify(&HashAlgorithm::ALL).into());
        }
        if self.send_init_response(cx, self.spi_r, &payloads) {
            self.after_init_responder(cx);
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
        self.responses.answered(vec![datagram]);
        true
    }
}
