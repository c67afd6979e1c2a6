//! One IKE SA: what both roles share. Each exchange lives in a file of its own.

mod auth;
mod auth_initiator;
mod auth_responder;
mod child;
mod child_create;
mod child_exchange;
mod child_request;
mod contact;
mod context;
mod exchange;
mod fragments;
mod ghost;
mod informational;
mod init_initiator;
mod init_responder;
mod intermediate;
mod keys;
mod ledger;
mod legacy;
mod lifetime;
mod mobike;
mod naming;
mod plain;
mod ppk;
mod recognition;
mod rekey;
mod rekey_ike;
mod retired;
mod selectors;
mod status;
mod timers;
pub(crate) mod window;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ::keys::{KeyId, QkdKey, SaeId, Secret};

use self::{
    auth_initiator::AuthI,
    auth_responder::AuthR,
    child::Child,
    contact::Contact,
    fragments::Inbox,
    init_initiator::InitI,
    init_responder::InitR,
    intermediate::Between,
    keys::Crypt,
    ledger::Ledger,
    lifetime::Life,
    mobike::Mobility,
    naming::PpkContext,
    ppk::Ppk,
    rekey_ike::{Heir, OwnRekey, PeerRekey},
    retired::Retired,
    window::{Requests, Responses},
};
pub(crate) use self::{
    contact::ProvenIdentity,
    context::{Cx, Ids, NAT_PORT},
    ghost::Ghost,
    init_initiator::Earlier,
    init_responder::{InitRequest, Refusal},
    ledger::lose_unclaimed,
    recognition::Recognition,
};
use crate::{
    config::{EndpointConfig, Mode, Profile, Terms},
    crypto::{ChildSuite, IkeSuite, signature::HashAlgorithm},
    event::{ChildFailure, ChildId, CloseReason, Event, KeyRequestId, Path, QkdFailure, SaId},
    time::Instant,
    wire::{Delete, ExchangeType, Header, Identification, Notify, NotifyType, Payload},
};

/// Where an IKE SA stands.
enum Phase {
    /// Initiator: IKE_SA_INIT request sent.
    InitSent(Box<InitI>),
    /// Initiator: a response names keys; the KMS is being asked.
    Collecting(Box<InitI>),
    /// Responder: a request is acceptable; the KMS is being asked.
    Allocating(Box<InitR>),
    /// Between IKE_SA_INIT and IKE_AUTH: IKE_INTERMEDIATE.
    Between(Box<Between>),
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
    /// The next IKE_FOLLOWUP_KE of a Child SA.
    FollowChild(ChildId),
    RekeyIke,
    DeleteChild(ChildId),
    /// Deletes what the peer made and this side did not take.
    DeleteSpi(u32),
    Probe,
    /// Tells the peer our new address.
    UpdateAddresses,
    /// Asks the peer at its new address.
    CheckRoutability,
    /// Notifies of the daemon's, by its token.
    Inform(u64),
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

/// An SPI of ours that messages of this SA carry from now on, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpiChange {
    Taken(u64),
    Free(u64),
}

/// One IKE SA.
pub(crate) struct Sa {
    pub(crate) id: SaId,
    /// The role in the first IKE SA: the UE. The other end is master of the QKD keys.
    ue: bool,
    /// The role in the current IKE SA, which whoever rekeys takes over.
    initiator: bool,
    spi_i: u64,
    spi_r: u64,
    path: Path,
    nat_local: bool,
    nat_remote: bool,
    /// Before the answer to IKE_SA_INIT: the best of those offered.
    mode: Mode,
    /// What the peer may do, since IKE_SA_INIT; an initiator's own.
    terms: Terms,
    /// For the endpoint, to be taken up after every call.
    pub(crate) spi_changes: Vec<SpiChange>,
    created: Instant,
    established: Option<Instant>,
    phase: Phase,
    requests: Requests,
    responses: Responses,
    /// Whether both ends take fragments.
    fragments: bool,
    inbox: Inbox,
    transcript: Transcript,
    suite: Option<IkeSuite>,
    /// ESP suites offered and accepted, best first, of one kind with the IKE SA's.
    esp_suites: Vec<ChildSuite>,
    crypt: Option<Crypt>,
    ledger: Ledger,
    ike_keys: Vec<KeyId>,
    /// Keys of the first user-plane Child SA, until it takes them.
    user_keys: Option<Vec<QkdKey>>,
    /// Keys of the signalling Child SA, until it takes them.
    signalling_keys: Option<Vec<QkdKey>>,
    msk: Option<Secret>,
    /// Mode `hybrid`, until established.
    ppk: Option<Ppk>,
    /// Mode `hybrid` with RFC 9867, once established: what PPK Confirmation covers of the current IKE SA.
    ppk_context: Option<Arc<PpkContext>>,
    /// What AUTH covers of IKE_INTERMEDIATE.
    int_auth: Option<Vec<u8>>,
    /// Hash algorithms the peer announced for signatures (RFC 7427).
    peer_hashes: Option<Vec<HashAlgorithm>>,
    contact: Contact,
    local_id: Option<Identification>,
    remote_id: Option<Identification>,
    peer_sae: Option<SaeId>,
    /// Initiator: the SAE ID it says it has.
    own_sae: Option<SaeId>,
    /// For the endpoint, once established.
    recognition: Option<Recognition>,
    /// A key of this attach that our KMS does not have.
    missing: Option<KeyId>,
    /// Boxed: a node of the map has room for eleven, and most IKE SAs have two.
    children: BTreeMap<ChildId, Box<Child>>,
    queue: VecDeque<Command>,
    /// What [`Command::Inform`] sends.
    informs: VecDeque<(u64, Vec<Notify>)>,
    current: Option<Command>,
    /// The Child SA whose CREATE_CHILD_SA request of the peer waits for its response.
    answering: Option<ChildId>,
    /// What the peer deleted of which we have not heard yet, while our CREATE_CHILD_SA is outstanding.
    early_deletes: Vec<u32>,
    /// Our own rekey of the IKE SA, from its beginning until both ends have the new one.
    own_rekey: Option<Box<OwnRekey>>,
    /// The peer's rekey of the IKE SA, while our answer to it waits for keys.
    peer_rekey: Option<Box<PeerRekey>>,
    /// The IKE SA the peer's rekey has made, until the peer is seen to use it.
    heir: Option<Box<Heir>>,
    /// IKE SAs that were replaced.
    retired: Vec<Retired>,
    /// Responses to CREATE_CHILD_SA so far, of a peer that numbers them as it likes.
    seen_responses: Vec<window::RequestDigest>,
    life: Life,
    mobility: Mobility,
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
    fn new(cx: &mut Cx<'_>, initiator: bool, path: Path, mode: Mode) -> Self {
        let spi = cx.ike_spi();
        Self {
            id: cx.ids.sa(),
            ue: initiator,
            initiator,
            spi_i: if initiator { spi } else { 0 },
            spi_r: if initiator { 0 } else { spi },
            path,
            nat_local: false,
            nat_remote: false,
            mode,
            terms: Terms::default(),
            spi_changes: vec![SpiChange::Taken(spi)],
            created: cx.now,
            established: None,
            phase: Phase::Gone,
            requests: Requests::default(),
            responses: Responses::default(),
            fragments: false,
            inbox: Inbox::default(),
            transcript: Transcript::default(),
            suite: None,
            esp_suites: Vec::new(),
            crypt: None,
            ledger: Ledger::default(),
            ike_keys: Vec::new(),
            user_keys: None,
            signalling_keys: None,
            msk: None,
            ppk: None,
            ppk_context: None,
            int_auth: None,
            peer_hashes: None,
            contact: Contact::default(),
            local_id: None,
            remote_id: None,
            peer_sae: None,
            own_sae: None,
            recognition: None,
            missing: None,
            children: BTreeMap::new(),
            queue: VecDeque::new(),
            informs: VecDeque::new(),
            current: None,
            answering: None,
            early_deletes: Vec::new(),
            own_rekey: None,
            peer_rekey: None,
            heir: None,
            retired: Vec::new(),
            seen_responses: Vec::new(),
            life: Life::default(),
            mobility: Mobility::default(),
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
        !self.initiator
            && matches!(
                self.phase,
                Phase::Allocating(_) | Phase::Between(_) | Phase::AuthR(_)
            )
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The wire form: that of mode `qkd`, and the `native` one elsewhere.
    fn profile(&self) -> Profile {
        match self.mode {
            Mode::Qkd(profile) => profile,
            _ => Profile::Native,
        }
    }

    pub(crate) fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Established)
    }

    /// Whether the key suite of this SA is of the AEAD kind, which fixes the number of keys per SA.
    fn aead(&self) -> bool {
        self.suite.is_some_and(|suite| suite.integ.is_none())
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
            _ if self.rekey_waits_for(request) => self.rekey_keys(cx, request, keys),
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
        self.contact.prove();
        self.deadline = None;
        let lifetime = cx
            .config
            .lifetimes
            .ike
            .filter(|_| !self.never_rekeys(cx.config));
        self.life = Life::begin(cx, lifetime);
        self.msk = None;
        self.begin_naming();
        self.ppk = None;
        self.int_auth = None;
        self.transcript = Transcript::default();
        self.recognition = self.recognition_key(cx);
        if let Some(crypt) = &mut self.crypt {
            crypt.auth = None;
        }
        let ids = self.ike_keys.clone();
        self.ledger.used(self.id, &ids, None, cx.events);
    }

    /// Deletes the SA, politely if it is established.
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>) {
        match self.phase {
            Phase::Established => {
                self.queue.clear();
                self.informs.clear();
                self.settle_rekeys(cx);
                self.phase = Phase::Deleting;
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
        if matches!(reason, CloseReason::HalfOpenExpired) {
            self.responses.forget();
        }
        for id in self.children.keys().copied().collect::<Vec<_>>() {
            self.drop_child(cx, id, by_peer);
        }
        self.free_rekeys();
        self.ledger.lose_all(self.id, cx.events);
        self.phase = Phase::Gone;
        self.inbox = Inbox::default();
        self.crypt = None;
        self.user_keys = None;
        self.signalling_keys = None;
        self.msk = None;
        self.ppk = None;
        self.queue.clear();
        self.informs.clear();
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
