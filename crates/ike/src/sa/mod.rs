//! One IKE SA: what both roles share. Each exchange lives in a file of its own.

mod auth;
mod auth_initiator;
mod auth_responder;
mod child;
mod child_request;
mod ghost;
mod informational;
mod init_initiator;
mod init_responder;
mod keys;
mod ledger;
mod selectors;
mod status;
pub(crate) mod window;

use std::collections::{BTreeMap, HashSet, VecDeque};

use ::keys::{QkdKey, SaeId, Secret};
use rand_core::CryptoRng;

use self::{
    auth_initiator::AuthI,
    auth_responder::AuthR,
    child::Child,
    init_initiator::InitI,
    init_responder::InitR,
    keys::Crypt,
    ledger::Ledger,
    window::{Incoming, Requests, Responses, Tick},
};
pub(crate) use self::{
    ghost::Ghost,
    init_responder::{InitRequest, Refusal},
    ledger::lose_unclaimed,
};
use crate::{
    config::{EndpointConfig, Profile},
    crypto::{EspSuite, IkeSuite},
    event::{
        ChildFailure, ChildId, CloseReason, Event, KeyRequestId, Path, QkdFailure, SaId, Transmit,
    },
    time::Instant,
    wire::{
        Delete, ExchangeType, Flags, Header, Identification, Notify, NotifyType, Parsed, Payload,
        WireError,
    },
};

/// UDP port of IKE and ESP in UDP behind NATs (RFC 3948).
pub(crate) const NAT_PORT: u16 = 4500;

/// What an IKE SA may touch of its endpoint.
pub(crate) struct Cx<'a> {
    pub(crate) now: Instant,
    pub(crate) config: &'a EndpointConfig,
    pub(crate) rng: &'a mut (dyn CryptoRng + Send),
    pub(crate) transmits: &'a mut VecDeque<Transmit>,
    pub(crate) events: &'a mut VecDeque<Event>,
    pub(crate) ids: &'a mut Ids,
}

impl Cx<'_> {
    /// Queues a datagram, with the non-ESP marker when it leaves from port 4500.
    pub(crate) fn transmit(&mut self, path: Path, message: &[u8]) {
        let marker: &[u8] = if path.local.port() == NAT_PORT {
            &[0; 4]
        } else {
            &[]
        };
        let data = [marker, message].concat();
        self.transmits.push_back(Transmit { path, data });
    }

    /// `len` random octets.
    pub(crate) fn random(&mut self, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.rng.fill_bytes(&mut octets);
        octets
    }

    /// A random SPI of an IKE SA, never 0.
    pub(crate) fn ike_spi(&mut self) -> u64 {
        loop {
            let spi = self.rng.next_u64();
            if spi != 0 {
                return spi;
            }
        }
    }

    /// A random ESP SPI that no Child SA of this endpoint has; 1 to 255 are reserved (RFC 4303 2.1).
    pub(crate) fn esp_spi(&mut self) -> u32 {
        loop {
            let spi = self.rng.next_u32();
            if spi > 255 && self.ids.spis.insert(spi) {
                return spi;
            }
        }
    }
}

/// Numbers unique over an endpoint.
#[derive(Default)]
pub(crate) struct Ids {
    next: u64,
    spis: HashSet<u32>,
}

impl Ids {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn sa(&mut self) -> SaId {
        SaId(self.number())
    }

    fn child(&mut self) -> ChildId {
        ChildId(self.number())
    }

    fn key_request(&mut self) -> KeyRequestId {
        KeyRequestId(self.number())
    }
}

/// Where an IKE SA stands.
enum Phase {
    /// Initiator: IKE_SA_INIT request sent.
    InitSent(Box<InitI>),
    /// Initiator: a response names keys; the KMS is being asked.
    Collecting(Box<InitI>),
    /// Responder: a request is acceptable; the KMS is being asked.
    Allocating(Box<InitR>),
    /// Initiator: IKE_AUTH.
    AuthI(Box<AuthI>),
    /// Responder: IKE_AUTH.
    AuthR(Box<AuthR>),
    /// Both AUTH payloads were good.
    Established,
    /// A Delete of this IKE SA is queued or sent.
    Deleting,
    /// Nothing is left but what [`Ghost`] takes over.
    Gone,
}

/// Own exchanges after IKE_AUTH, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    CreateChild(ChildId),
    DeleteChild(ChildId),
    /// Deletes what the peer made and this side did not take.
    DeleteSpi(u32),
    Probe,
    DeleteIke,
}

/// What IKE_SA_INIT leaves for AUTH and keys: both messages and both nonces.
#[derive(Default)]
struct Transcript {
    request: Vec<u8>,
    response: Vec<u8>,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
}

/// One IKE SA.
pub(crate) struct Sa {
    pub(crate) id: SaId,
    initiator: bool,
    spi_i: u64,
    spi_r: u64,
    path: Path,
    nat_local: bool,
    nat_remote: bool,
    profile: Profile,
    created: Instant,
    established: Option<Instant>,
    phase: Phase,
    requests: Requests,
    responses: Responses,
    transcript: Transcript,
    suite: Option<IkeSuite>,
    /// ESP suites offered and accepted, best first, of one kind with the IKE SA's.
    esp_suites: Vec<EspSuite>,
    crypt: Option<Crypt>,
    ledger: Ledger,
    ike_keys: Vec<::keys::KeyId>,
    /// Keys of the first user-plane Child SA, until it takes them.
    user_keys: Option<Vec<QkdKey>>,
    /// Keys of the signalling Child SA, until it takes them.
    signalling_keys: Option<Vec<QkdKey>>,
    msk: Option<Secret>,
    local_id: Option<Identification>,
    remote_id: Option<Identification>,
    peer_sae: Option<SaeId>,
    children: BTreeMap<ChildId, Child>,
    queue: VecDeque<Command>,
    current: Option<Command>,
    /// The Child SA whose CREATE_CHILD_SA request of the peer waits for its response.
    answering: Option<ChildId>,
    /// What the peer deleted of which we have not heard yet, while our CREATE_CHILD_SA is outstanding.
    early_deletes: Vec<u32>,
    /// Half-open lifetime of a responder, patience of an initiator with its own daemon.
    deadline: Option<Instant>,
    last_heard: Instant,
    last_sent: Instant,
    /// Why, once [`finish`](Self::finish) ran.
    closed: bool,
}

/// A request that cannot be granted: what to answer, and whether the IKE SA ends with it.
struct Denial {
    answer: Notify,
    fatal: Option<CloseReason>,
}

impl Denial {
    fn fatal(kind: NotifyType, reason: CloseReason) -> Self {
        Self {
            answer: Notify::status(kind, Vec::new()),
            fatal: Some(reason),
        }
    }

    fn syntax(what: &'static str) -> Self {
        Self::fatal(NotifyType::INVALID_SYNTAX, CloseReason::Syntax(what))
    }
}

impl Sa {
    fn new(cx: &mut Cx<'_>, initiator: bool, path: Path, profile: Profile) -> Self {
        let spi = cx.ike_spi();
        Self {
            id: cx.ids.sa(),
            initiator,
            spi_i: if initiator { spi } else { 0 },
            spi_r: if initiator { 0 } else { spi },
            path,
            nat_local: false,
            nat_remote: false,
            profile,
            created: cx.now,
            established: None,
            phase: Phase::Gone,
            requests: Requests::default(),
            responses: Responses::default(),
            transcript: Transcript::default(),
            suite: None,
            esp_suites: Vec::new(),
            crypt: None,
            ledger: Ledger::default(),
            ike_keys: Vec::new(),
            user_keys: None,
            signalling_keys: None,
            msk: None,
            local_id: None,
            remote_id: None,
            peer_sae: None,
            children: BTreeMap::new(),
            queue: VecDeque::new(),
            current: None,
            answering: None,
            early_deletes: Vec::new(),
            deadline: None,
            last_heard: cx.now,
            last_sent: cx.now,
            closed: false,
        }
    }

    /// The SPI this side chose, by which the endpoint finds the SA.
    pub(crate) fn own_spi(&self) -> u64 {
        if self.initiator {
            self.spi_i
        } else {
            self.spi_r
        }
    }

    /// Whether a message names both SPIs right.
    pub(crate) fn has_spis(&self, header: &Header) -> bool {
        header.spi_i == self.spi_i && header.spi_r == self.spi_r
    }

    /// Whether this counts against the half-open limit.
    pub(crate) fn is_half_open(&self) -> bool {
        !self.initiator && matches!(self.phase, Phase::Allocating(_) | Phase::AuthR(_))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Established)
    }

    /// Whether the key suite of this SA is of the AEAD kind, which fixes the number of keys per SA.
    fn aead(&self) -> bool {
        self.suite.is_some_and(|suite| suite.integ.is_none())
    }

    fn header(&self, exchange: ExchangeType, response: bool, message_id: u32) -> Header {
        Header {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            exchange,
            flags: Flags {
                initiator: self.initiator,
                response,
            },
            message_id,
        }
    }

    fn transmit(&mut self, cx: &mut Cx<'_>, message: &[u8]) {
        self.last_sent = cx.now;
        cx.transmit(self.path, message);
    }

    /// Sends a protected request. The window has to be free.
    fn request(&mut self, cx: &mut Cx<'_>, exchange: ExchangeType, payloads: &[Payload]) {
        let Some(id) = self.requests.next_id() else {
            return self.finish(cx, CloseReason::Unsendable);
        };
        let header = self.header(exchange, false, id);
        let sealed = match &mut self.crypt {
            Some(crypt) => crypt.outbound.seal(&header, payloads, cx.rng).ok(),
            None => None,
        };
        let Some(datagram) = sealed else {
            return self.finish(cx, CloseReason::Unsendable);
        };
        self.transmit(cx, &datagram);
        self.requests
            .sent(cx.now, &cx.config.timing, id, exchange, datagram);
    }

    /// Answers the peer's request that is being worked on.
    fn respond(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) {
        let Some(pending) = self.responses.pending() else {
            return;
        };
        let header = self.header(pending.exchange, true, pending.id);
        let sealed = match &mut self.crypt {
            Some(crypt) => crypt.outbound.seal(&header, payloads, cx.rng).ok(),
            None => None,
        };
        let Some(datagram) = sealed else {
            return self.finish(cx, CloseReason::Unsendable);
        };
        self.last_sent = cx.now;
        cx.transmit(pending.path, &datagram);
        self.responses.answered(datagram);
    }

    /// A datagram for this SA that is not IKE_SA_INIT.
    pub(crate) fn handle(&mut self, cx: &mut Cx<'_>, path: Path, parsed: &Parsed<'_>) {
        if parsed.header.flags.response {
            self.handle_response(cx, path, parsed);
        } else {
            self.handle_request(cx, path, parsed);
        }
    }

    fn handle_request(&mut self, cx: &mut Cx<'_>, path: Path, parsed: &Parsed<'_>) {
        let header = &parsed.header;
        let digest = window::digest(parsed.datagram);
        match self.responses.classify(header.message_id, &digest) {
            Incoming::New => {}
            Incoming::Replay(response) => return cx.transmit(path, response),
            Incoming::InProgress | Incoming::Outside => return,
        }
        if !self.takes(header.exchange) {
            return;
        }
        let Some(opened) = self.open(cx, path, parsed) else {
            return;
        };
        self.responses
            .accept(header.message_id, header.exchange, digest, path);
        let denial = match opened {
            Ok(payloads) => match header.exchange {
                ExchangeType::IkeAuth => self.auth_request(cx, path, payloads),
                ExchangeType::CreateChildSa => self.child_request(cx, &payloads),
                _ => self.informational_request(cx, &payloads),
            },
            // An unknown critical payload fails only its exchange, once the SA is established (RFC 7296 2.21.3).
            Err(error @ WireError::UnsupportedCritical(_)) if self.is_established() => {
                Err(Denial {
                    answer: error.notify(),
                    fatal: None,
                })
            }
            Err(error) => Err(Denial {
                answer: error.notify(),
                fatal: Some(CloseReason::Syntax("of a protected request")),
            }),
        };
        if let Err(denial) = denial {
            self.respond(cx, &[denial.answer.into()]);
            if let Some(reason) = denial.fatal {
                self.finish(cx, reason);
            }
        }
        self.pump(cx);
    }

    fn handle_response(&mut self, cx: &mut Cx<'_>, path: Path, parsed: &Parsed<'_>) {
        let header = &parsed.header;
        if !self.requests.expects(header.message_id, header.exchange) {
            return;
        }
        let Some(opened) = self.open(cx, path, parsed) else {
            return;
        };
        self.requests.answered();
        match opened {
            Ok(payloads) => match header.exchange {
                ExchangeType::IkeAuth => self.auth_response(cx, &payloads),
                _ => self.command_response(cx, &payloads),
            },
            Err(_) if matches!(self.phase, Phase::Deleting) => {
                self.finish(cx, CloseReason::Local);
            }
            Err(_) => self.finish(cx, CloseReason::Syntax("of a protected response")),
        }
        self.pump(cx);
    }

    /// Which requests make sense now. Others are left to be retransmitted, or to die.
    fn takes(&self, exchange: ExchangeType) -> bool {
        match (&self.phase, exchange) {
            (Phase::AuthR(auth), ExchangeType::IkeAuth) => auth.awaits_request(),
            (Phase::AuthI(_) | Phase::AuthR(_), ExchangeType::Informational) => true,
            (
                Phase::Established | Phase::Deleting,
                ExchangeType::CreateChildSa | ExchangeType::Informational,
            ) => true,
            _ => false,
        }
    }

    /// Opens a protected message. `None`: it is not one, or not from the peer.
    fn open(
        &mut self,
        cx: &mut Cx<'_>,
        path: Path,
        parsed: &Parsed<'_>,
    ) -> Option<Result<Vec<Payload>, WireError>> {
        let crypt = self.crypt.as_mut()?;
        let opened = keys::open(&crypt.inbound, parsed)?;
        self.last_heard = cx.now;
        self.follow(cx, path, parsed.header.flags.response);
        Some(opened)
    }

    /// Takes over the path of an authenticated message: freely until established (the initiator floats to
    /// port 4500), later only of a peer behind a NAT (RFC 7296 2.23).
    fn follow(&mut self, cx: &mut Cx<'_>, path: Path, response: bool) {
        if self.initiator || response || path == self.path {
            return;
        }
        match self.phase {
            Phase::AuthR(_) => self.path = path,
            Phase::Established if self.nat_remote => {
                self.path = path;
                let sa = self.id;
                cx.events.push_back(Event::PathChanged { sa, path });
            }
            _ => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(crate) fn next_timeout(&self, config: &EndpointConfig) -> Option<Instant> {
        let timing = &config.timing;
        let grace = match &self.phase {
            Phase::InitSent(init) => init.grace_ends(),
            _ => None,
        };
        let liveness = match timing.dpd_interval {
            Some(interval) if self.is_established() && self.requests.is_free() => {
                Some(self.last_heard + interval)
            }
            _ => None,
        };
        let keepalive = self
            .sends_keepalives()
            .then(|| self.last_sent + timing.keepalive);
        [
            self.deadline,
            grace,
            self.requests.due(),
            liveness,
            keepalive,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn sends_keepalives(&self) -> bool {
        self.initiator && self.nat_local && self.crypt.is_some()
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        let timing = &cx.config.timing;
        if self.deadline.is_some_and(|deadline| deadline <= cx.now) {
            let reason = if self.initiator {
                CloseReason::LocalTimeout
            } else {
                CloseReason::HalfOpenExpired
            };
            return self.fail(cx, reason, &[Payload::Delete(Delete::Ike)]);
        }
        if let Phase::InitSent(init) = &self.phase
            && let Some(reason) = init.grace_over(cx.now)
        {
            return self.finish(cx, reason);
        }
        match self.requests.tick(cx.now, timing) {
            Tick::Nothing => {}
            Tick::Resend(datagram) => {
                self.last_sent = cx.now;
                cx.transmit(self.path, datagram);
            }
            Tick::GiveUp => {
                let reason = match &self.phase {
                    Phase::InitSent(init) => init.hint().unwrap_or(CloseReason::PeerDead),
                    Phase::Deleting => CloseReason::Local,
                    _ => CloseReason::PeerDead,
                };
                return self.finish(cx, reason);
            }
        }
        if let Some(interval) = timing.dpd_interval
            && self.is_established()
            && self.last_heard + interval <= cx.now
        {
            self.probe(cx);
        }
        if self.sends_keepalives() && self.last_sent + timing.keepalive <= cx.now {
            self.last_sent = cx.now;
            let path = self.path;
            let data = vec![0xff];
            cx.transmits.push_back(Transmit { path, data });
        }
    }

    /// Asks for a sign of life unless some request is already waiting for one.
    pub(crate) fn probe(&mut self, cx: &mut Cx<'_>) {
        if self.is_established() && self.requests.is_free() && self.queue.is_empty() {
            self.queue.push_back(Command::Probe);
            self.pump(cx);
        }
    }

    /// Sends the next own request when the window is free.
    fn pump(&mut self, cx: &mut Cx<'_>) {
        while matches!(self.phase, Phase::Established | Phase::Deleting) && self.requests.is_free()
        {
            let Some(command) = self.queue.pop_front() else {
                return;
            };
            self.current = Some(command);
            match command {
                Command::Probe => self.request(cx, ExchangeType::Informational, &[]),
                Command::CreateChild(child) => self.send_child_request(cx, child),
                Command::DeleteChild(child) => self.send_child_delete(cx, child),
                Command::DeleteSpi(spi) => self.send_delete(cx, spi),
                Command::DeleteIke => self.send_ike_delete(cx),
            }
        }
    }

    fn command_response(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) {
        match self.current.take() {
            Some(Command::CreateChild(child)) => self.child_response(cx, child, payloads),
            Some(Command::DeleteChild(child)) => self.remove_child(cx, child, false),
            Some(Command::DeleteIke) => self.finish(cx, CloseReason::Local),
            Some(Command::Probe | Command::DeleteSpi(_)) | None => {}
        }
    }

    /// Keys from the daemon, or why there are none.
    pub(crate) fn provide_keys(
        &mut self,
        cx: &mut Cx<'_>,
        request: KeyRequestId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) {
        match &self.phase {
            Phase::Collecting(init) if init.waits_for(request) => self.collected(cx, keys),
            Phase::Allocating(init) if init.waits_for(request) => self.allocated(cx, keys),
            _ => match self.child_waiting_for(request) {
                Some(child) => self.child_keys(cx, child, keys),
                None => lose_unclaimed(self.id, keys.unwrap_or_default(), cx.events),
            },
        }
        self.pump(cx);
    }

    pub(crate) fn send_eap(&mut self, cx: &mut Cx<'_>, packet: Vec<u8>) {
        match &self.phase {
            Phase::AuthI(_) => self.initiator_eap(cx, packet),
            Phase::AuthR(_) => self.responder_eap(cx, packet),
            _ => {}
        }
    }

    /// Both ends are authenticated.
    fn establish(&mut self, cx: &mut Cx<'_>) {
        self.phase = Phase::Established;
        self.established = Some(cx.now);
        self.deadline = None;
        self.msk = None;
        let ids = self.ike_keys.clone();
        self.ledger.used(self.id, &ids, None, cx.events);
    }

    /// Deletes the SA, politely if it is established.
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>) {
        match self.phase {
            Phase::Established => {
                self.phase = Phase::Deleting;
                self.queue.clear();
                self.queue.push_back(Command::DeleteIke);
                self.pump(cx);
            }
            Phase::Deleting | Phase::Gone => {}
            _ => self.fail(cx, CloseReason::Local, &[Payload::Delete(Delete::Ike)]),
        }
    }

    /// Ends the SA and, if an initiator can say so to its peer, tells why: the peer's keys are freed at once
    /// instead of by its timers. The notification is retransmitted by the [`Ghost`].
    fn fail(&mut self, cx: &mut Cx<'_>, reason: CloseReason, farewell: &[Payload]) {
        let tells = self.initiator
            && !farewell.is_empty()
            && self.crypt.is_some()
            && self.requests.is_free()
            && !self.closed;
        if tells {
            self.request(cx, ExchangeType::Informational, farewell);
        } else {
            self.requests.answered();
        }
        self.end(cx, reason);
    }

    /// Ends the SA without a word.
    pub(crate) fn finish(&mut self, cx: &mut Cx<'_>, reason: CloseReason) {
        self.requests.answered();
        self.end(cx, reason);
    }

    fn end(&mut self, cx: &mut Cx<'_>, reason: CloseReason) {
        if self.closed {
            return;
        }
        self.closed = true;
        let by_peer = matches!(reason, CloseReason::PeerDeleted);
        for id in self.children.keys().copied().collect::<Vec<_>>() {
            self.drop_child(cx, id, by_peer);
        }
        self.ledger.lose_all(self.id, cx.events);
        self.phase = Phase::Gone;
        self.crypt = None;
        self.user_keys = None;
        self.signalling_keys = None;
        self.msk = None;
        self.queue.clear();
        self.current = None;
        self.deadline = None;
        let sa = self.id;
        cx.events.push_back(Event::Closed { sa, reason });
    }

    /// What has to outlive the SA.
    pub(crate) fn into_ghost(self, cx_now: Instant, config: &EndpointConfig) -> Ghost {
        Ghost::new(
            self.own_spi(),
            self.path,
            self.requests,
            self.responses,
            cx_now + config.timing.linger,
        )
    }

    /// Whatever state a Child SA is in, it is no more.
    fn drop_child(&mut self, cx: &mut Cx<'_>, id: ChildId, by_peer: bool) {
        let installed = self
            .children
            .get(&id)
            .is_some_and(|child| child.state.is_installed());
        if installed {
            self.remove_child(cx, id, by_peer);
        } else {
            self.fail_child(cx, id, ChildFailure::Abandoned);
        }
    }
}
