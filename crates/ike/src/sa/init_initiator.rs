//! IKE_SA_INIT, initiator (RFC 7296 1.2, 2.6, 2.21.1).
//!
//! Nothing in a response is authenticated yet, so nothing in it ends the attempt at once: an error notify, an
//! answer outside the offers or key IDs the KMS does not know are hints, after which a good answer has
//! [`Timing::init_error_grace`](crate::config::Timing::init_error_grace) left to arrive.

use std::{sync::Arc, time::Duration};

use keys::{KeyId, QkdKey, SaeId, Secret};

use super::{
    Cx, Phase, Sa, SpiChange,
    keys::{self as key_material, key_method},
    ledger,
    ppk::PpkPlace,
    window,
};
use crate::{
    config::{InitiatorConfig, Mode, Offer, Profile, Terms},
    crypto::{IkeSuite, KeMethod, KeSecret, admission::AdmissionKey, signature::HashAlgorithm},
    event::{CloseReason, Event, KeyRequestId, KeysWanted, Path, QkdFailure},
    time::Instant,
    wire::{
        self, ExchangeType, Notify, NotifyType, Payload, find_notify, notifies,
        qkd::{QkdAdmission, QkdKeyIds, QkdKeysMissing, QkdSupported},
    },
};

/// A cookie more than this often is no defence but a fault.
const MAX_COOKIES: u32 = 4;
/// Wishes for another key exchange method obeyed: there is no reason for a second one.
const MAX_KE_CHANGES: u32 = 2;
/// How long a better answer may take when the KMS knows nothing of the first: a retransmission or two.
const RETRANSMITTED: Duration = Duration::from_secs(2);
/// Answers remembered as useless.
const MAX_REFUSED: usize = 8;

pub(super) struct InitI {
    pub(super) config: InitiatorConfig,
    offer: Offer,
    /// Modes that are left to try, best first, and those of this request.
    modes: Vec<Mode>,
    offered: Vec<Mode>,
    suites: Vec<IkeSuite>,
    ke: Option<KeSecret>,
    ke_changes: u32,
    cookie: Option<Notify>,
    cookies: u32,
    /// When to stop hoping, and why.
    grace: Option<(Instant, CloseReason)>,
    /// Responses that proved useless: their repetition says nothing new.
    refused: Vec<window::RequestDigest>,
    candidate: Option<Candidate>,
    /// Of an earlier attach.
    admission: Option<Earlier>,
}

/// What an earlier attach has left.
#[derive(Clone)]
pub(crate) struct Earlier {
    pub(crate) key: Arc<AdmissionKey>,
    /// Of one that failed since then: a key that our KMS does not have.
    pub(crate) missing: Option<KeyId>,
}

/// A response worth asking the KMS for.
struct Candidate {
    request: KeyRequestId,
    ids: Vec<KeyId>,
    digest: window::RequestDigest,
    spi_r: u64,
    offered_mode: Mode,
    /// Mode `hybrid`: the secret of the key exchange, and where the one key goes.
    hybrid: Option<(Secret, PpkPlace)>,
    arrived: Instant,
}

/// What a good response says.
struct Answer {
    suite: IkeSuite,
    nonce: Vec<u8>,
    mode: Mode,
    source: Source,
}

/// Where the keys of the IKE SA come from.
enum Source {
    Kms {
        master: SaeId,
        ids: Vec<KeyId>,
    },
    Exchange(Secret),
    Both {
        shared: Secret,
        place: PpkPlace,
        master: SaeId,
        id: KeyId,
    },
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

    /// The mode that goes with a key exchange alone: the best offered, but `cert` before `psk` only for a peer that asks for
    /// our certificate.
    /// `None`: only with a QKD key.
    fn exchange_mode(&self, payloads: &[Payload]) -> Option<Mode> {
        let asked = payloads
            .iter()
            .any(|payload| matches!(payload, Payload::CertReq { .. }));
        let mut modes = self
            .offered
            .iter()
            .copied()
            .filter(|mode| !mode.has_qkd_key());
        match modes.next() {
            Some(Mode::Cert) if !asked => modes.next().or(Some(Mode::Cert)),
            first => first,
        }
    }

    /// The key exchange method of INVALID_KE_PAYLOAD, if it is another one of those offered (RFC 7296 1.2).
    fn other_method(&self, wish: &Notify) -> Result<KeMethod, CloseReason> {
        let id = <[u8; 2]>::try_from(wish.data.as_slice())
            .map_err(|_| CloseReason::Syntax("INVALID_KE_PAYLOAD"))?;
        let method = KeMethod::from_id(u16::from_be_bytes(id))
            .filter(|method| {
                self.suites
                    .iter()
                    .any(|suite| key_method(suite) == Some(*method))
            })
            .ok_or(CloseReason::NoProposalChosen)?;
        let sent = self.ke.as_ref().map(KeSecret::method);
        if sent == Some(method) || self.ke_changes >= MAX_KE_CHANGES {
            return Err(CloseReason::TooManyRounds);
        }
        Ok(method)
    }

    fn useless(&mut self, cx: &Cx<'_>, digest: window::RequestDigest, reason: CloseReason) {
        self.useless_until(cx.now + cx.config.timing.init_error_grace, digest, reason);
    }

    fn useless_until(
        &mut self,
        until: Instant,
        digest: window::RequestDigest,
        reason: CloseReason,
    ) {
        if self.refused.len() < MAX_REFUSED {
            self.refused.push(digest);
        }
        self.grace.get_or_insert((until, reason));
    }
}

impl Sa {
    /// Begins an IKE SA: sends IKE_SA_INIT.
    pub(crate) fn initiate(
        cx: &mut Cx<'_>,
        path: Path,
        config: InitiatorConfig,
        offer: Offer,
        admission: Option<Earlier>,
    ) -> Self {
        let modes = offer.modes(&config);
        let first = modes.first().copied().unwrap_or(Mode::Qkd(config.profile));
        let mut sa = Self::new(cx, true, path, first);
        sa.local_id = Some(config.identity.clone());
        sa.own_sae = Some(config.sae_id.clone());
        sa.offer_modes(cx, config, offer, modes, admission);
        sa
    }

    /// Sends an IKE_SA_INIT that offers as many of these modes as fit into one.
    fn offer_modes(
        &mut self,
        cx: &mut Cx<'_>,
        config: InitiatorConfig,
        offer: Offer,
        modes: Vec<Mode>,
        admission: Option<Earlier>,
    ) {
        let paper = Mode::Qkd(Profile::Paper);
        // That profile has no room for a choice.
        let offered: Vec<Mode> = match modes.first() {
            Some(first) if *first == paper => vec![paper],
            _ => modes
                .iter()
                .copied()
                .filter(|mode| *mode != paper)
                .collect(),
        };
        let mut suites: Vec<IkeSuite> = Vec::new();
        for mode in &offered {
            let more = key_material::ike_suites(*mode, &config.ike_suites);
            suites.extend(
                more.into_iter()
                    .filter(|suite| !suites.contains(suite))
                    .collect::<Vec<_>>(),
            );
        }
        let (Some(mode), false) = (offered.first().copied(), suites.is_empty()) else {
            return self.finish(cx, CloseReason::NoProposalChosen);
        };
        self.mode = mode;
        self.terms = Terms {
            modes: offered.clone(),
            policy: offer.policy,
        };
        self.transcript.nonce_i = cx.random(key_material::init_nonce_len(self.profile()));
        let ke = suites.iter().find_map(key_method);
        self.phase = Phase::InitSent(Box::new(InitI {
            config,
            offer,
            modes,
            offered,
            suites,
            ke: ke.map(|method| method.generate(cx.rng)),
            ke_changes: 0,
            cookie: None,
            cookies: 0,
            grace: None,
            refused: Vec::new(),
            candidate: None,
            admission,
        }));
        self.send_init(cx);
    }

    /// Sends the request, with the cookie in front if there is one (RFC 7296 2.6).
    fn send_init(&mut self, cx: &mut Cx<'_>) {
        let Phase::InitSent(init) = &self.phase else {
            return;
        };
        let mut payloads: Vec<Payload> = init.cookie.iter().cloned().map(Payload::Notify).collect();
        payloads.push(Payload::Sa(IkeSuite::offer(&init.suites, &[])));
        payloads.extend(init.ke.as_ref().map(|ke| Payload::Ke {
            method: ke.method().id(),
            data: ke.public().to_vec(),
        }));
        payloads.push(Payload::Nonce(self.transcript.nonce_i.clone()));
        payloads.extend(key_material::nat_detection(self.spi_i, 0, self.path));
        let qkd = init.offered.contains(&Mode::Qkd(Profile::Native));
        let hybrid = init.offered.contains(&Mode::Hybrid);
        if qkd || hybrid {
            let supported = QkdSupported {
                qkd,
                hybrid,
                paper: false,
                sae: init.config.sae_id.clone(),
            };
            payloads.push(supported.to_notify().into());
        }
        if hybrid || init.suites.iter().any(key_material::has_additional) {
            payloads.push(key_material::intermediate_supported());
        }
        if hybrid {
            payloads.extend(PpkPlace::offer(init.offer.ppk));
        } else if init.offer.configured_ppk.is_some() {
            payloads.push(PpkPlace::Auth.notify());
        }
        if self.mode != Mode::Qkd(Profile::Paper) {
            payloads.extend(key_material::fragmentation_supported(cx));
        }
        let signs = |mode: &Mode| matches!(mode, Mode::Cert | Mode::Plain);
        if init.offer.trust.is_some() || init.offered.iter().any(signs) {
            payloads.push(HashAlgorithm::to_notify(&HashAlgorithm::ALL).into());
        }
        // Last of all, so that the tag ends the message.
        let admission = init.admission.clone().filter(|_| qkd || hybrid);
        if let Some(Earlier { key, missing }) = &admission {
            payloads.extend(missing.map(|id| QkdKeysMissing(id).to_notify().into()));
            let unsigned = QkdAdmission {
                tag_id: key.id(),
                tag: [0; 16],
            };
            payloads.push(unsigned.to_notify().into());
        }
        let header = self.header(ExchangeType::IkeSaInit, false, 0);
        let Ok(mut datagram) = wire::encode(&header, &payloads) else {
            return self.finish(cx, CloseReason::Unsendable);
        };
        if let Some(Earlier { key, .. }) = admission {
            key.sign(&mut datagram);
        }
        self.transmit(cx, &datagram);
        self.transcript.request.clone_from(&datagram);
        let timing = self.timing(cx.config);
        self.requests
            .sent(cx.now, &timing, 0, ExchangeType::IkeSaInit, vec![datagram]);
    }

    /// The attempt is over without an answer to go on with. Whether there are other modes to try: only when QKD keys
    /// could not be had, or when the peer knows none of the modes offered so far.
    pub(super) fn fall_back(&mut self, cx: &mut Cx<'_>, reason: &CloseReason) -> bool {
        let Phase::InitSent(init) = &self.phase else {
            return false;
        };
        let keyless = matches!(
            reason,
            CloseReason::Qkd(_) | CloseReason::PeerQkdUnavailable(_)
        );
        let left: Vec<Mode> = match reason {
            _ if keyless && init.offered.iter().any(|mode| mode.has_qkd_key()) => init
                .modes
                .iter()
                .copied()
                .filter(|mode| !mode.has_qkd_key())
                .collect(),
            CloseReason::NoProposalChosen => init
                .modes
                .iter()
                .copied()
                .filter(|mode| !init.offered.contains(mode))
                .collect(),
            _ => return false,
        };
        if left.is_empty() {
            return false;
        }
        let Phase::InitSent(init) = std::mem::replace(&mut self.phase, Phase::Gone) else {
            return false;
        };
        cx.events.push_back(Event::ModeFallback {
            sa: self.id,
            from: init.offered,
            to: left.clone(),
            reason: reason.clone(),
        });
        // A fresh SPI, so that nothing said about the old request counts.
        self.spi_changes.push(SpiChange::Free(self.spi_i));
        self.spi_i = cx.ike_spi();
        self.spi_changes.push(SpiChange::Taken(self.spi_i));
        self.requests.restart();
        self.offer_modes(cx, init.config, init.offer, left, init.admission);
        true
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
            init.cookie = Some(cookie.clone());
            return self.send_init(cx);
        }
        if let Some(wish) = find_notify(payloads, NotifyType::INVALID_KE_PAYLOAD)
            && !has_sa
        {
            return match init.other_method(wish) {
                Ok(method) => {
                    init.ke_changes += 1;
                    init.ke = Some(method.generate(cx.rng));
                    self.send_init(cx);
                }
                Err(reason) => init.useless(cx, digest, reason),
            };
        }
        if let Some(error) = notifies(payloads).find(|notify| notify.kind.is_error()) {
            return init.useless(cx, digest, refusal(error));
        }
        let answer = match read_answer(init, header.spi_r, payloads) {
            Err(reason) => return init.useless(cx, digest, reason),
            Ok(answer) => answer,
        };
        let (nat_local, nat_remote) =
            key_material::detect_nat(self.spi_i, header.spi_r, self.path, payloads);
        self.nat_local = nat_local;
        self.nat_remote = nat_remote;
        self.mobility.note_init(cx, answer.mode, payloads);
        self.transcript.response = datagram.to_vec();
        self.transcript.nonce_r = answer.nonce;
        self.peer_hashes = key_material::announced_hashes(payloads);
        self.fragments = self.mode != Mode::Qkd(Profile::Paper)
            && key_material::fragmentation_agreed(cx, payloads);
        self.suite = Some(answer.suite);
        let offered_mode = std::mem::replace(&mut self.mode, answer.mode);
        match answer.source {
            Source::Exchange(shared) => {
                self.spi_r = header.spi_r;
                let made = self.take_shared_secret(cx, &shared);
                let Phase::InitSent(mut init) = std::mem::replace(&mut self.phase, Phase::Gone)
                else {
                    return;
                };
                if made.is_ok() {
                    self.requests.answered();
                    return self.after_init(cx, init.config, init.offer);
                }
                self.forget_answer(offered_mode);
                init.useless(cx, digest, CloseReason::NoProposalChosen);
                self.phase = Phase::InitSent(init);
            }
            source @ (Source::Kms { .. } | Source::Both { .. }) => {
                let (master, ids, hybrid) = match source {
                    Source::Both {
                        shared,
                        place,
                        master,
                        id,
                    } => (master, vec![id], Some((shared, place))),
                    Source::Kms { master, ids } => (master, ids, None),
                    Source::Exchange(_) => return,
                };
                self.peer_sae = Some(master.clone());
                let request = cx.ids.key_request();
                init.candidate = Some(Candidate {
                    request,
                    ids: ids.clone(),
                    digest,
                    spi_r: header.spi_r,
                    offered_mode,
                    hybrid,
                    arrived: cx.now,
                });
                self.requests.hold();
                self.deadline = Some(cx.now + cx.config.timing.local_answer);
                if let Phase::InitSent(init) = std::mem::replace(&mut self.phase, Phase::Gone) {
                    self.phase = Phase::Collecting(init);
                }
                cx.events.push_back(Event::KeysNeeded {
                    sa: self.id,
                    request,
                    wanted: KeysWanted::Collect { master, ids },
                });
            }
        }
    }

    /// The answer taken up was no good after all.
    fn forget_answer(&mut self, offered_mode: Mode) {
        self.spi_r = 0;
        self.suite = None;
        self.peer_sae = None;
        self.mode = offered_mode;
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
                    match candidate.hybrid {
                        None => self.take_initial_keys(cx, keys),
                        Some((shared, place)) => self.take_hybrid_keys(cx, &shared, place, keys),
                    }
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
                self.after_init(cx, init.config, init.offer);
            }
            Err(failure) => {
                if failure == QkdFailure::UnknownKey {
                    self.missing = candidate.ids.first().copied();
                }
                self.forget_answer(candidate.offered_mode);
                // The KMS was asked for a while already. A better answer comes with the next retransmission.
                let grace = cx.config.timing.init_error_grace;
                let until = (candidate.arrived + grace).max(cx.now + grace.min(RETRANSMITTED));
                init.useless_until(until, candidate.digest, CloseReason::Qkd(failure));
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
    let mut public = None;
    for payload in payloads {
        match payload {
            Payload::Sa(sa) => proposal = Some(sa),
            Payload::Ke { method, data } => public = Some((*method, data.as_slice())),
            Payload::Nonce(octets) => nonce = Some(octets.clone()),
            _ => {}
        }
    }
    let nonce = nonce.ok_or(syntax("IKE_SA_INIT response without a Nonce"))?;
    let answer = proposal.ok_or(syntax("IKE_SA_INIT response without an SA"))?;
    let suite = IkeSuite::accepted(&init.suites, answer)
        .ok_or(CloseReason::NoProposalChosen)?
        .suite;
    if nonce.len() < suite.prf.min_nonce_len() {
        return Err(syntax("a Nonce that is too short"));
    }
    if let Some(method) = key_method(&suite) {
        let (ke, value) = match (&init.ke, public) {
            (Some(ke), Some((id, value))) if id == method.id() && ke.method() == method => {
                (ke, value)
            }
            _ => return Err(syntax("KE of another method than the SA's")),
        };
        let shared = ke.finish(value).map_err(|_| syntax("a KE value"))?;
        let supported = NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED;
        if key_material::has_additional(&suite) && find_notify(payloads, supported).is_none() {
            return Err(syntax("additional key exchanges without IKE_INTERMEDIATE"));
        }
        let (mode, source) = match read_hybrid(init, payloads)? {
            Some((place, master, id)) => {
                let source = Source::Both {
                    shared,
                    place,
                    master,
                    id,
                };
                (Mode::Hybrid, source)
            }
            None => {
                let mode = init.exchange_mode(payloads);
                let mode = mode.ok_or(CloseReason::NoProposalChosen)?;
                let wanted = mode == Mode::Plain && init.offer.configured_ppk.is_some();
                if wanted && find_notify(payloads, NotifyType::USE_PPK).is_none() {
                    return Err(CloseReason::NoProposalChosen);
                }
                (mode, Source::Exchange(shared))
            }
        };
        return Ok(Answer {
            suite,
            nonce,
            mode,
            source,
        });
    }
    let mode = init.offered.iter().copied().find(|mode| mode.is_qkd());
    let Some(Mode::Qkd(profile)) = mode else {
        return Err(CloseReason::NoProposalChosen);
    };
    let master = match profile {
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
        mode: Mode::Qkd(profile),
        source: Source::Kms { master, ids },
    })
}

/// Mode `hybrid`, when the answer is in it: where the key goes, whose it is, and which.
fn read_hybrid(
    init: &InitI,
    payloads: &[Payload],
) -> Result<Option<(PpkPlace, SaeId, KeyId)>, CloseReason> {
    let syntax = CloseReason::Syntax;
    let Some(notify) = find_notify(payloads, NotifyType::QKD_SUPPORTED) else {
        return Ok(None);
    };
    let supported = QkdSupported::from_data(&notify.data).map_err(|_| syntax("QKD_SUPPORTED"))?;
    if !supported.hybrid || !init.offered.contains(&Mode::Hybrid) {
        return Ok(None);
    }
    let place = PpkPlace::choose(payloads, init.offer.ppk)
        .ok_or(syntax("neither USE_PPK nor USE_PPK_INT in the answer"))?;
    let notify = find_notify(payloads, NotifyType::QKD_KEY_IDS)
        .ok_or(syntax("no QKD_KEY_IDS in the answer"))?;
    let ids = QkdKeyIds::from_data(&notify.data).map_err(|_| syntax("QKD_KEY_IDS"))?;
    match ids.ids.as_slice() {
        [id] => Ok(Some((place, supported.sae, *id))),
        _ => Err(syntax("number of QKD_KEY_IDS")),
    }
}
