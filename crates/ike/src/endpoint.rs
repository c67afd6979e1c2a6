//! The endpoint: one UDP service with all its IKE SAs, driven by datagrams, time and answers.

use std::collections::VecDeque;

use keys::{QkdKey, Secret};
use rand_core::CryptoRng;

use crate::{
    config::{EndpointConfig, InitiatorConfig},
    event::{
        ChildAnswer, ChildId, CommandError, EapSuccess, Event, KeyRequestId, NewChild, Path,
        QkdFailure, SaId, SaStatus, Transmit,
    },
    time::Instant,
    wire::NotifyType,
};

/// All IKE SAs of one node, in both roles. Neither socket nor clock: every input is a call with the time,
/// after which the caller drains [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event)
/// and arms a timer for [`poll_timeout`](Self::poll_timeout).
///
/// Calls that name an [`SaId`] which is gone do nothing; keys given to one are reported lost.
pub struct Endpoint {
    config: EndpointConfig,
    #[expect(dead_code, reason = "the state machines follow")]
    rng: Box<dyn CryptoRng + Send>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Endpoint {
    /// An endpoint without any SA. `rng` is the only source of randomness: the operating system's in a daemon.
    pub fn new(config: EndpointConfig, rng: Box<dyn CryptoRng + Send>) -> Self {
        Self {
            config,
            rng,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Begins an IKE SA over `path`. Its outcome is [`Event::Established`] or [`Event::Closed`].
    pub fn initiate(&mut self, now: Instant, path: Path, config: InitiatorConfig) -> SaId {
        let _ = (now, path, config);
        SaId(0)
    }

    /// A UDP payload arrived on `path` (local: the socket it arrived on).
    pub fn handle_datagram(&mut self, now: Instant, path: Path, data: &[u8]) {
        let _ = (now, path, data, &self.config);
    }

    /// Time has passed. To be called at [`poll_timeout`](Self::poll_timeout); earlier or later does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
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
        let _ = (now, sa, request, keys);
    }

    /// Sends an EAP packet: the authenticator a request, the peer a response.
    pub fn send_eap(&mut self, now: Instant, sa: SaId, packet: Vec<u8>) {
        let _ = (now, sa, packet);
    }

    /// Authenticator: ends EAP well.
    pub fn eap_success(&mut self, now: Instant, sa: SaId, success: EapSuccess) {
        let _ = (now, sa, success);
    }

    /// Authenticator: sends EAP-Failure and closes the SA.
    pub fn eap_failure(&mut self, now: Instant, sa: SaId, packet: Vec<u8>) {
        let _ = (now, sa, packet);
    }

    /// Peer: the key both AUTH payloads are made with (K_N3IWF). Answer to [`Event::EapSuccess`], or earlier.
    pub fn set_msk(&mut self, now: Instant, sa: SaId, msk: Secret) {
        let _ = (now, sa, msk);
    }

    /// Answer to [`Event::InstallChild`]. After `Err` the data plane must hold nothing of it.
    pub fn child_installed(
        &mut self,
        now: Instant,
        sa: SaId,
        child: ChildId,
        result: Result<(), ()>,
    ) {
        let _ = (now, sa, child, result);
    }

    /// Begins a further Child SA; queued behind whatever exchange is under way (window of 1).
    pub fn create_child(
        &mut self,
        now: Instant,
        sa: SaId,
        child: NewChild,
    ) -> Result<ChildId, CommandError> {
        let _ = (now, sa, child);
        Err(CommandError::UnknownSa)
    }

    /// Answer to [`Event::ChildRequested`]: consent, or the error notify to refuse with.
    pub fn answer_child(
        &mut self,
        now: Instant,
        sa: SaId,
        child: ChildId,
        answer: Result<ChildAnswer, NotifyType>,
    ) {
        let _ = (now, sa, child, answer);
    }

    /// Deletes a Child SA. [`Event::ChildDown`] comes when the peer has confirmed.
    pub fn delete_child(&mut self, now: Instant, sa: SaId, child: ChildId) {
        let _ = (now, sa, child);
    }

    /// Deletes an IKE SA with everything in it. [`Event::Closed`] comes when the peer has confirmed or is given up;
    /// at once for one that is not established.
    pub fn close(&mut self, now: Instant, sa: SaId) {
        let _ = (now, sa);
    }

    /// Forgets an IKE SA without telling the peer: for a daemon that must stop now.
    pub fn abandon(&mut self, now: Instant, sa: SaId) {
        let _ = (now, sa);
    }

    /// Asks the peer whether it lives (an empty INFORMATIONAL). Silence ends in [`Event::Closed`].
    pub fn probe(&mut self, now: Instant, sa: SaId) {
        let _ = (now, sa);
    }

    /// All IKE SAs, oldest first.
    pub fn sas(&self) -> impl Iterator<Item = SaStatus> {
        std::iter::empty()
    }
}
