//! The endpoint: one UDP service with all its IKE SAs, driven by datagrams, time and answers.

mod bucket;
mod dispatch;
mod tickets;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map::Entry},
    net::{IpAddr, SocketAddr},
};

use keys::{QkdKey, Secret};
use rand_core::CryptoRng;

use self::{
    bucket::Buckets,
    dispatch::Limiter,
    tickets::{OwnTickets, Tickets},
};
use crate::{
    config::{EndpointConfig, InitiatorConfig, Mode, Offer, QkdPolicy},
    counters::Counters,
    crypto::cookie::CookieJar,
    event::{
        ChildAnswer, ChildId, CommandError, EapSuccess, Event, Grant, KeyRequestId, NewChild, Path,
        QkdFailure, SaId, Transmit,
    },
    sa::{
        Cx, Ghost, Ids, ProvenIdentity, Recognition, Sa, SpiChange, lose_unclaimed,
        window::RequestDigest,
    },
    status::{Census, SaStatus},
    time::Instant,
    wire::{Notify, NotifyType},
};

/// All IKE SAs of one node, in both roles. Neither socket nor clock: every input is a call with the time,
/// after which the caller drains [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event)
/// and arms a timer for [`poll_timeout`](Self::poll_timeout).
///
/// Calls that name an [`SaId`] which is gone do nothing; keys given to one are reported lost.
pub struct Endpoint {
    config: EndpointConfig,
    rng: Box<dyn CryptoRng + Send>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    ids: Ids,
    sas: BTreeMap<SaId, Box<Sa>>,
    ghosts: BTreeMap<SaId, Ghost>,
    /// By the SPI this side chose.
    by_spi: HashMap<u64, SaId>,
    /// Established ones, by who the peer has proven to be.
    by_peer: HashMap<ProvenIdentity, BTreeSet<SaId>>,
    /// IKE_SA_INIT requests taken up, and by which SA: whoever repeats one costs nothing.
    requests: HashMap<RequestDigest, SaId>,
    request_of: HashMap<SaId, RequestDigest>,
    timers: BTreeSet<(Instant, SaId)>,
    armed: HashMap<SaId, Instant>,
    half_open: usize,
    cookies: CookieJar,
    cookies_until: Instant,
    unprotected: Limiter,
    /// What is spent on SAE IDs that anybody may claim, and on UEs that show who they are.
    claimed: Buckets,
    known: Buckets,
    tickets: Tickets,
    own_tickets: OwnTickets,
    counters: Counters,
    now: Instant,
}

impl Endpoint {
    /// An endpoint without any SA. `rng` is the only source of randomness: the operating system's in a daemon.
    pub fn new(config: EndpointConfig, mut rng: Box<dyn CryptoRng + Send>) -> Self {
        let cookies = CookieJar::new(&mut *rng);
        Self {
            config,
            rng,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            ids: Ids::default(),
            sas: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            by_spi: HashMap::new(),
            by_peer: HashMap::new(),
            requests: HashMap::new(),
            request_of: HashMap::new(),
            timers: BTreeSet::new(),
            armed: HashMap::new(),
            half_open: 0,
            cookies,
            cookies_until: Instant::ZERO,
            unprotected: Limiter::default(),
            claimed: Buckets::default(),
            known: Buckets::default(),
            tickets: Tickets::default(),
            own_tickets: OwnTickets::default(),
            counters: Counters::default(),
            now: Instant::ZERO,
        }
    }

    /// Begins an IKE SA over `path`. Its outcome is [`Event::Established`] or [`Event::Closed`].
    ///
    /// `path.local` has to be the address the peer sees when there is no NAT, not an unspecified one.
    pub fn initiate(&mut self, now: Instant, path: Path, config: InitiatorConfig) -> SaId {
        self.initiate_with(now, path, config, &Offer::default())
    }

    /// The same, with a choice of key modes.
    pub fn initiate_with(
        &mut self,
        now: Instant,
        path: Path,
        config: InitiatorConfig,
        offer: &Offer,
    ) -> SaId {
        self.advance(now);
        let admission = self.config.admission.tags.and_then(|_| {
            self.own_tickets
                .find(self.now, path.remote.ip(), &config.sae_id)
        });
        let sa = Sa::initiate(&mut self.cx(), path, config, offer.clone(), admission);
        self.insert(sa)
    }

    /// A UDP payload arrived on `path` (local: the address and port it arrived on).
    pub fn handle_datagram(&mut self, now: Instant, path: Path, data: &[u8]) {
        self.advance(now);
        self.dispatch(path, data);
    }

    /// Time has passed. To be called at [`poll_timeout`](Self::poll_timeout); earlier or later does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        let now = self.now;
        let due: Vec<SaId> = self
            .timers
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, id)| *id)
            .collect();
        for id in due {
            if self.with(id, Sa::handle_timeout).is_none() {
                self.ghost(id, Ghost::handle_timeout);
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Answer to [`Event::KeysNeeded`]. Each key given here gets exactly one [`Event::KeyFate`].
    pub fn provide_keys(
        &mut self,
        now: Instant,
        sa: SaId,
        request: KeyRequestId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) {
        self.advance(now);
        if self.sas.contains_key(&sa) {
            self.with(sa, |sa, cx| sa.provide_keys(cx, request, keys));
        } else {
            lose_unclaimed(sa, keys.unwrap_or_default(), &mut self.events);
        }
    }

    /// Sends an EAP packet: the authenticator a request, the peer a response.
    pub fn send_eap(&mut self, now: Instant, sa: SaId, packet: Vec<u8>) {
        self.advance(now);
        self.with(sa, |sa, cx| sa.send_eap(cx, packet));
    }

    /// Responder in mode `plain`: consent to [`Event::PeerAuthenticated`].
    pub fn grant(&mut self, now: Instant, sa: SaId, grant: Grant) {
        self.advance(now);
        self.with(sa, |sa, cx| sa.grant(cx, grant));
    }

    /// Authenticator: ends EAP well.
    pub fn eap_success(&mut self, now: Instant, sa: SaId, success: EapSuccess) {
        self.advance(now);
        self.with(sa, |sa, cx| sa.eap_success(cx, success));
    }

    /// Authenticator: sends EAP-Failure and closes the SA.
    pub fn eap_failure(&mut self, now: Instant, sa: SaId, packet: Vec<u8>) {
        self.advance(now);
        self.with(sa, |sa, cx| sa.eap_failure(cx, packet));
    }

    /// Responder: answers with error notifies (CONGESTION, ...) in place of an EAP packet or of a grant, and closes
    /// the SA.
    pub fn refuse(&mut self, now: Instant, sa: SaId, notifies: Vec<Notify>) {
        self.advance(now);
        self.with(sa, |sa, cx| sa.refuse(cx, notifies));
    }

    /// Peer: the key both AUTH payloads are made with (K_N3IWF). Answer to [`Event::EapSuccess`], or earlier.
    pub fn set_msk(&mut self, now: Instant, sa: SaId, msk: Secret) {
        self.advance(now);
        self.with(sa, |sa, cx| sa.set_msk(cx, msk));
    }

    /// Answer to [`Event::InstallChild`]. After `Err` the data plane must hold nothing of it.
    pub fn child_installed(
        &mut self,
        now: Instant,
        sa: SaId,
        child: ChildId,
        result: Result<(), ()>,
    ) {
        self.advance(now);
        self.with(sa, |sa, cx| sa.child_installed(cx, child, result));
    }

    /// Begins a further Child SA; queued behind whatever exchange is under way (window of 1).
    pub fn create_child(
        &mut self,
        now: Instant,
        sa: SaId,
        child: NewChild,
    ) -> Result<ChildId, CommandError> {
        self.advance(now);
        self.with(sa, |sa, cx| sa.create_child(cx, child))
            .unwrap_or(Err(CommandError::UnknownSa))
    }

    /// Answer to [`Event::ChildRequested`]: consent, or the error notify to refuse with.
    pub fn answer_child(
        &mut self,
        now: Instant,
        sa: SaId,
        child: ChildId,
        answer: Result<ChildAnswer, NotifyType>,
    ) {
        self.advance(now);
        self.with(sa, |sa, cx| sa.answer_child(cx, child, answer));
    }

    /// Replaces a Child SA by a fresh one for the same traffic; its identifier is given back. For expire events of a
    /// kernel; [`Lifetimes`](crate::Lifetimes) do the same by time.
    pub fn rekey_child(
        &mut self,
        now: Instant,
        sa: SaId,
        child: ChildId,
    ) -> Result<ChildId, CommandError> {
        self.advance(now);
        self.with(sa, |sa, cx| sa.rekey_child(cx, child))
            .unwrap_or(Err(CommandError::UnknownSa))
    }

    /// Replaces the keys and SPIs of an IKE SA; its identifier stays, and so do its Child SAs.
    pub fn rekey_ike(&mut self, now: Instant, sa: SaId) -> Result<(), CommandError> {
        self.advance(now);
        self.with(sa, Sa::rekey_ike)
            .unwrap_or(Err(CommandError::UnknownSa))
    }

    /// Deletes a Child SA. [`Event::ChildDown`] comes when the peer has confirmed.
    pub fn delete_child(&mut self, now: Instant, sa: SaId, child: ChildId) {
        self.advance(now);
        self.with(sa, |sa, cx| sa.delete_child(cx, child));
    }

    /// Deletes an IKE SA with everything in it. [`Event::Closed`] comes when the peer has confirmed or is given up;
    /// at once for one that is not established.
    pub fn close(&mut self, now: Instant, sa: SaId) {
        self.advance(now);
        self.with(sa, Sa::close);
    }

    /// Forgets an IKE SA without telling the peer: for a daemon that must stop now.
    pub fn abandon(&mut self, now: Instant, sa: SaId) {
        self.advance(now);
        self.with(sa, |sa, cx| sa.finish(cx, crate::CloseReason::Local));
    }

    /// Asks the peer whether it lives (an empty INFORMATIONAL). Silence ends in [`Event::Closed`].
    pub fn probe(&mut self, now: Instant, sa: SaId) {
        self.advance(now);
        self.with(sa, Sa::probe);
    }

    /// Initiator: this host has another address, or another route to its peer (RFC 4555 3.5). A request under way is
    /// sent again from there, and the peer is told next; with the address as it was, it is told all the same.
    /// Ports stay. [`Event::PathChanged`] comes at once.
    pub fn roam(&mut self, now: Instant, sa: SaId, local: IpAddr) -> Result<(), CommandError> {
        self.advance(now);
        self.with(sa, |sa, cx| sa.roam(cx, local))
            .unwrap_or(Err(CommandError::UnknownSa))
    }

    /// Authentic ESP of this IKE SA came from another address or port, as the kernel tells: a NAT has a new mapping.
    /// Followed as an IKE message from there would be, of a peer behind a NAT alone (RFC 7296 2.23) and not with
    /// MOBIKE (RFC 4555 3.8): [`Event::PathChanged`].
    pub fn remap(&mut self, now: Instant, sa: SaId, remote: SocketAddr) {
        self.advance(now);
        self.with(sa, |sa, cx| sa.remap(cx, remote));
    }

    /// Tells the peer notifies the engine has no meaning for, in an INFORMATIONAL exchange of their own; queued behind
    /// whatever exchange is under way. The answer is [`Event::Informed`] with the same token, unless the IKE SA ends.
    pub fn inform(
        &mut self,
        now: Instant,
        sa: SaId,
        token: u64,
        notifies: Vec<Notify>,
    ) -> Result<(), CommandError> {
        self.advance(now);
        self.with(sa, |sa, cx| sa.inform(cx, token, notifies))
            .unwrap_or(Err(CommandError::UnknownSa))
    }

    /// All IKE SAs, oldest first.
    pub fn sas(&self) -> impl Iterator<Item = SaStatus> {
        self.sas.values().map(|sa| sa.status())
    }

    /// How many IKE SAs and Child SAs there are, without a look at each from outside.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for sa in self.sas.values() {
            sa.count(&mut census);
        }
        census
    }

    /// QKD keys in IKE SAs that have no fate yet.
    pub fn keys_held(&self) -> usize {
        self.sas.values().map(|sa| sa.keys_held()).sum()
    }

    /// The key mode of an IKE SA, while there is one of that number.
    pub fn mode(&self, sa: SaId) -> Option<Mode> {
        self.sas.get(&sa).map(|sa| sa.mode())
    }

    /// The policy that decided about it.
    pub fn policy(&self, sa: SaId) -> Option<QkdPolicy> {
        self.sas.get(&sa).map(|sa| sa.policy())
    }

    /// What happened here so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Responder: UEs whose admission tags are known, and SAE IDs with a bucket that is or was not full.
    pub fn recognised(&self) -> (usize, usize) {
        (self.tickets.len(), self.claimed.len() + self.known.len())
    }

    /// IKE SAs of the responder that have not reached their final IKE_AUTH.
    pub fn half_open(&self) -> usize {
        self.half_open
    }

    /// Time never runs backwards here, whatever the caller's clock does.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn cx(&mut self) -> Cx<'_> {
        Cx {
            now: self.now,
            config: &self.config,
            rng: &mut *self.rng,
            transmits: &mut self.transmits,
            events: &mut self.events,
            ids: &mut self.ids,
            counters: &mut self.counters,
        }
    }

    fn insert(&mut self, sa: Sa) -> SaId {
        let id = sa.id;
        self.half_open += usize::from(sa.is_half_open());
        self.sas.insert(id, Box::new(sa));
        self.settle(id);
        id
    }

    /// Lets one SA act, and follows up on what has become of it.
    fn with<R>(&mut self, id: SaId, act: impl FnOnce(&mut Sa, &mut Cx<'_>) -> R) -> Option<R> {
        let sa = self.sas.get_mut(&id)?;
        let before = sa.is_half_open();
        let before_established = !sa.is_established();
        let mut cx = Cx {
            now: self.now,
            config: &self.config,
            rng: &mut *self.rng,
            transmits: &mut self.transmits,
            events: &mut self.events,
            ids: &mut self.ids,
            counters: &mut self.counters,
        };
        let result = act(sa, &mut cx);
        if before && !sa.is_half_open() {
            self.half_open = self.half_open.saturating_sub(1);
        }
        if before_established && let Some(peer) = sa.peer_of_established() {
            self.by_peer.entry(peer).or_default().insert(id);
        }
        let contact = sa.take_contact();
        let recognition = sa.take_recognition();
        let missing = sa.take_missing();
        self.settle(id);
        if let Some((responder, sae, key)) = missing {
            self.own_tickets.note_missing(responder, &sae, key);
        }
        if let (Some(recognition), Some(life)) = (recognition, self.config.admission.tags) {
            let Recognition { ue, peer, sae, key } = recognition;
            match ue {
                true => self.own_tickets.keep(self.now, life, peer, sae, key),
                false => self.tickets.keep(self.now, life, sae, key),
            }
        }
        if let Some(identity) = contact {
            self.end_older(id, &identity);
        }
        Some(result)
    }

    /// Ends the IKE SAs that a peer had before this one.
    fn end_older(&mut self, new: SaId, identity: &ProvenIdentity) {
        let older = self.by_peer.get(identity).into_iter();
        let older: Vec<SaId> = older.flatten().copied().filter(|id| *id < new).collect();
        for id in older {
            self.with(id, Sa::forsaken);
        }
    }

    /// Turns a closed SA into its ghost, and arms the timer of a living one.
    fn settle(&mut self, id: SaId) {
        let Some(sa) = self.sas.get_mut(&id) else {
            return;
        };
        for change in sa.spi_changes.drain(..) {
            match change {
                SpiChange::Taken(spi) => self.by_spi.insert(spi, id),
                SpiChange::Free(spi) => self.by_spi.remove(&spi),
            };
        }
        if !sa.is_closed() {
            return self.arm(
                id,
                self.sas
                    .get(&id)
                    .and_then(|sa| sa.next_timeout(&self.config)),
            );
        }
        if let Some(sa) = self.sas.remove(&id) {
            if let Some(peer) = sa.peer_of_established()
                && let Entry::Occupied(mut known) = self.by_peer.entry(peer)
            {
                known.get_mut().remove(&id);
                if known.get().is_empty() {
                    known.remove();
                }
            }
            let ghost = sa.into_ghost(self.now, &self.config);
            self.arm(id, Some(ghost.next_timeout()));
            self.ghosts.insert(id, ghost);
        }
    }

    /// Lets one ghost act; it vanishes when it says so.
    fn ghost(&mut self, id: SaId, act: impl FnOnce(&mut Ghost, &mut Cx<'_>) -> bool) {
        let Some(ghost) = self.ghosts.get_mut(&id) else {
            return self.arm(id, None);
        };
        let mut cx = Cx {
            now: self.now,
            config: &self.config,
            rng: &mut *self.rng,
            transmits: &mut self.transmits,
            events: &mut self.events,
            ids: &mut self.ids,
            counters: &mut self.counters,
        };
        let over = act(ghost, &mut cx);
        let next = ghost.next_timeout();
        let spi = ghost.own_spi();
        if !over {
            return self.arm(id, Some(next));
        }
        self.ghosts.remove(&id);
        self.by_spi.remove(&spi);
        if let Some(digest) = self.request_of.remove(&id) {
            self.requests.remove(&digest);
        }
        self.arm(id, None);
    }

    fn arm(&mut self, id: SaId, at: Option<Instant>) {
        let old = match at {
            Some(at) => self.armed.insert(id, at),
            None => self.armed.remove(&id),
        };
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.timers.remove(&(old, id));
        }
        if let Some(at) = at {
            self.timers.insert((at, id));
        }
    }
}
