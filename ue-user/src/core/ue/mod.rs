//! One UE: an `ike::Endpoint` and NAS joined, without a socket, a clock or a file.
//!
//! Every input is a method with the time; after each, the caller drains [`Ue::poll_transmit`] and
//! [`Ue::poll_action`] and arms a timer for [`Ue::poll_timeout`]. The parts of one attach live in a
//! [`Link`], which exists from IKE_SA_INIT until the engine reports that nothing of the IKE SA is
//! left; the 5G-GUTI, the security context and the sequence numbers live in NAS and outlive it.

mod attach;
mod rekey;
mod roam;
mod sessions;
mod status;
#[cfg(test)]
mod tests;
mod types;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use daemon::timeline::{Party, Phase, Timeline};
use ike::{
    ChildId, CloseReason, Endpoint, EndpointConfig, Event, Instant, KeyRequestId, Offer, Path,
    QkdFailure, SaId, Transmit, wire::Identification,
};
use keys::{KeyId, QkdKey};
use nwu::EnvelopeReader;
use rand_core::{CryptoRng, Rng};
use tracing::{info, warn};

pub use self::{
    status::{Census, ChildRow, IkeRow, SessionRow, Status},
    types::{
        Action, AttachFailure, Command, FurtherChild, Install, Retry, SessionInterface, State,
        UeConfig,
    },
};
use super::{eap5g::Peer, nas::Nas, usim::Usim};

/// Pause before a NAS connection that failed is tried again.
const NAS_RETRY: Duration = Duration::from_millis(500);
/// NAS connections that may fail in a row: whoever answers there is not the N3IWF of this attach.
const NAS_ATTEMPTS: u32 = 4;
/// How long the N3IWF has to confirm that the IKE SA is deleted, before the UE forgets it.
const CONFIRM: Duration = Duration::from_secs(3);

/// One UE.
pub struct Ue {
    config: UeConfig,
    endpoint: Endpoint,
    nas: Nas,
    rng: Box<dyn CryptoRng + Send>,
    link: Option<Link>,
    /// Whether an attach has succeeded since the start.
    contacted: bool,
    /// When the next attach begins.
    retry_at: Option<Instant>,
    /// Attaches that failed in a row.
    failures: u32,
    last_failure: Option<AttachFailure>,
    /// The last attach, until the next one begins.
    timeline: Timeline,
    /// Tells NAS connections apart.
    connections: u64,
    /// Reqids given so far.
    reqids: u32,
    actions: VecDeque<Action>,
}

/// Everything of one IKE SA.
struct Link {
    sa: SaId,
    eap: Peer,
    /// IKE_AUTH is done: NAS goes over TCP.
    established: bool,
    /// REGISTRATION ACCEPT has come.
    registered: bool,
    /// The last NAS message without effect.
    discarded: Option<String>,
    /// The signalling Child SA went down.
    signalling_lost: bool,
    /// By when the UE has to be registered.
    deadline: Instant,
    inner: Option<IpAddr>,
    nas: NasLink,
    /// The Child SA that carries NAS.
    signalling: Option<ChildId>,
    /// When the UE leaves to attach anew, before its authentication is too old (RFC 4478).
    renew_at: Option<Instant>,
    /// It has left for that.
    renewing: bool,
    children: BTreeMap<ChildId, Child>,
    sessions: BTreeMap<u8, Session>,
    /// Every session of the configuration has come up or was refused.
    settled: bool,
    /// ESP is in UDP on the present path, as far as is known.
    udp_encap: bool,
    /// QKD keys could not be had: from what to what, and why.
    fallback: Option<String>,
    ending: Option<Ending>,
}

/// NAS over TCP inside the signalling Child SA.
#[derive(Default)]
struct NasLink {
    remote: Option<SocketAddr>,
    token: u64,
    connected: bool,
    retry_at: Option<Instant>,
    /// Attempts since the last connection.
    failed: u32,
    reader: EnvelopeReader,
    /// Uplink PDUs that wait for the connection, in their envelopes.
    waiting: VecDeque<Vec<u8>>,
}

/// A Child SA the data plane knows, or is about to.
struct Child {
    pdu_session: Option<u8>,
    /// Flows of the session that it carries.
    qfis: Vec<u8>,
    /// DSCP of outer headers, 6 bits.
    dscp: u8,
    slot: u32,
    inner_remote: IpAddr,
    reqid: u32,
    /// Installed here.
    installed: bool,
    /// Agreed with the peer.
    up: bool,
    /// The Child SA it takes over from.
    replaces: Option<ChildId>,
    /// Packets do not leave through it yet.
    inbound: bool,
    /// Another one has taken over from it.
    superseded: bool,
    /// Deleted, and here for packets still on their way, until then.
    drained_at: Option<Instant>,
    /// It reached a soft limit.
    expired: bool,
    /// When its rekey, which failed, is tried again.
    rekey_at: Option<Instant>,
    key_ids: Vec<KeyId>,
}

/// A PDU session.
#[derive(Default)]
struct Session {
    accept: Option<super::nas::SessionAccept>,
    /// The default Child SA.
    child: Option<ChildId>,
    interface: Option<SessionInterface>,
    /// The data plane made the interface.
    up: bool,
    failure: Option<String>,
}

/// The attach is to end, or is ending.
struct Ending {
    failure: Option<AttachFailure>,
    /// Attach again without a pause.
    again: bool,
    /// When the UE deletes the IKE SA itself, or, once it has, forgets it.
    close_at: Instant,
    closing: bool,
}

impl Ue {
    /// A UE that is not attached. The first generator is the engine's, the second draws IDi and the
    /// jitter of pauses.
    pub fn new(
        config: UeConfig,
        usim: Usim,
        engine_rng: Box<dyn CryptoRng + Send>,
        rng: Box<dyn CryptoRng + Send>,
    ) -> Self {
        let endpoint = EndpointConfig {
            timing: config.timing,
            lifetimes: config.lifetimes,
            peer_profile: config.peer_profile,
            fragmentation: config.fragmentation,
            mobike: config.mobike,
            ..EndpointConfig::default()
        };
        Self {
            endpoint: Endpoint::new(endpoint, engine_rng),
            nas: Nas::new(config.nas.clone(), usim),
            config,
            rng,
            link: None,
            contacted: false,
            retry_at: None,
            failures: 0,
            last_failure: None,
            timeline: Timeline::default(),
            connections: 0,
            reqids: 0,
            actions: VecDeque::new(),
        }
    }

    /// Other UEs have the SAE ID of this one, so that its first attach says nothing of theirs (no INITIAL_CONTACT).
    pub const fn shares_its_sae(&mut self) {
        self.contacted = true;
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.endpoint.poll_transmit()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let nas = self.nas.poll_timeout().map(Instant::from_origin);
        let link = self.link.as_ref();
        let ending = link.and_then(|link| link.ending.as_ref());
        let close = ending.map(|ending| ending.close_at);
        let deadline = link
            .filter(|link| link.ending.is_none() && !link.registered)
            .map(|link| link.deadline);
        let connect = link.and_then(|link| link.nas.retry_at);
        let rekey = link.and_then(Link::next_rekey);
        [
            self.endpoint.poll_timeout(),
            nas,
            close,
            deadline,
            connect,
            rekey,
            self.retry_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Lets what is due happen.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
        self.nas.handle_timeout(now.since_origin());
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            self.begin(now);
        }
        self.link_timeout(now);
        self.rekeys_due(now);
        self.drive(now);
    }

    /// A datagram of the NWu sockets.
    pub fn handle_datagram(&mut self, now: Instant, path: Path, data: &[u8]) {
        self.endpoint.handle_datagram(now, path, data);
        self.drive(now);
    }

    /// The outcome of [`Action::FetchKeys`].
    pub fn keys_fetched(
        &mut self,
        now: Instant,
        sa: SaId,
        request: KeyRequestId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) {
        self.timeline.done_waiting(Party::Kms, now.since_origin());
        self.endpoint.provide_keys(now, sa, request, keys);
        self.drive(now);
    }

    /// The outcome of [`Action::StoreSqn`].
    pub fn sqn_stored(&mut self, now: Instant, outcome: Result<(), String>) {
        self.nas.sqn_stored(outcome);
        self.drive(now);
    }

    /// The outcome of [`Action::Install`].
    pub fn installed(&mut self, now: Instant, child: ChildId, outcome: Result<(), String>) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let sa = link.sa;
        let result = match outcome {
            Ok(()) => {
                if let Some(child) = link.children.get_mut(&child) {
                    child.installed = true;
                }
                Ok(())
            }
            Err(error) => {
                warn!(child = child.number(), %error, "Child SA not installed");
                let signalling = link
                    .children
                    .remove(&child)
                    .is_some_and(|child| child.pdu_session.is_none() && child.replaces.is_none());
                if signalling {
                    self.end(now, Some(AttachFailure::DataPlane(error)), false);
                }
                Err(())
            }
        };
        self.endpoint.child_installed(now, sa, child, result);
        self.drive(now);
    }

    /// The NAS connection of [`Action::ConnectNas`] is there.
    pub fn nas_connected(&mut self, now: Instant, token: u64) {
        if let Some(link) = self.link.as_mut()
            && link.nas.token == token
        {
            link.nas.connected = true;
            link.nas.failed = 0;
            link.nas.reader = EnvelopeReader::new();
            let waiting = std::mem::take(&mut link.nas.waiting);
            self.actions
                .extend(waiting.into_iter().map(Action::SendNas));
        }
        self.drive(now);
    }

    /// Octets of the NAS connection.
    pub fn nas_received(&mut self, now: Instant, token: u64, octets: &[u8]) {
        self.read_nas(now, token, octets);
        self.drive(now);
    }

    /// The NAS connection failed or ended.
    pub fn nas_closed(&mut self, now: Instant, token: u64, why: &str) {
        if let Some(link) = self.link.as_mut()
            && link.nas.token == token
        {
            link.nas.connected = false;
            link.nas.failed += 1;
            if link.ending.is_some() {
                // It goes down with the IKE SA.
            } else if link.nas.failed >= NAS_ATTEMPTS {
                let failure = AttachFailure::NasConnection(why.to_owned());
                self.end(now, Some(failure), false);
            } else {
                warn!(why, "NAS connection lost, trying again");
                link.nas.retry_at = Some(now + NAS_RETRY);
                // The whole N3IWF may be gone.
                let sa = link.sa;
                self.endpoint.probe(now, sa);
                self.ready_kms();
            }
        }
        self.drive(now);
    }

    fn ready_kms(&mut self) {
        let modes = self.modes();
        // None named: mode `qkd`.
        if modes.is_empty() || modes.iter().any(|mode| mode.has_qkd_key()) {
            self.actions.push_back(Action::ReadyKms);
        }
    }

    /// The outcome of [`Action::AddSession`].
    pub fn session_added(&mut self, now: Instant, id: u8, outcome: Result<(), String>) {
        self.interface_added(now, id, outcome);
        self.drive(now);
    }

    /// What an operator asks.
    pub fn command(&mut self, now: Instant, command: Command) -> Result<(), String> {
        let outcome = self.obey(now, command);
        self.drive(now);
        outcome
    }

    /// What one of the daemon's handlers took, by the clock and of the processor, for the phases of the attach.
    pub fn handled(&mut self, took: Duration, spent: Duration) {
        self.timeline.handled(took, spent);
    }

    /// How far the UE is.
    pub fn state(&self) -> State {
        match &self.link {
            None if self.retry_at.is_some() => State::BackingOff,
            None => State::Detached,
            Some(link) if link.ending.is_some() => State::Detaching,
            Some(_) if self.nas.is_registered() => State::Registered,
            Some(link) if link.established => State::Registering,
            Some(_) => match self.timeline.phase() {
                Some(Phase::Init) => State::Connecting,
                _ => State::Authenticating,
            },
        }
    }

    /// Acts on everything the engine and NAS have to say, until both are silent.
    fn drive(&mut self, now: Instant) {
        loop {
            if let Some(event) = self.endpoint.poll_event() {
                self.ike_event(now, event);
            } else if let Some(output) = self.nas.poll_output() {
                self.nas_output(now, output);
            } else if !self.settle(now) {
                return;
            }
        }
    }

    fn obey(&mut self, now: Instant, command: Command) -> Result<(), String> {
        match command {
            Command::Attach => match self.state() {
                State::Detached | State::BackingOff => {
                    self.retry_at = None;
                    self.failures = 0;
                    self.begin(now);
                    Ok(())
                }
                state => Err(format!("the UE is {state}")),
            },
            Command::Establish(id) => self.establish(now, id),
            Command::Release(id) => self.release(now, id),
            Command::RekeyIke => self.rekey_ike(now),
            Command::RekeyChild(child) => self.rekey_children(now, child),
            Command::Deregister => {
                self.leave(now, false);
                Ok(())
            }
            Command::Shutdown => {
                self.leave(now, true);
                Ok(())
            }
        }
    }

    /// Begins an attach.
    fn begin(&mut self, now: Instant) {
        if self.link.is_some() {
            return;
        }
        let mut identity = vec![0; self.config.identity_len];
        self.rng.fill_bytes(&mut identity);
        let mut initiator = self.config.initiator.clone();
        initiator.identity = Identification::key_id(identity);
        self.timeline = Timeline::begin(now.since_origin());
        let path = self.config.path;
        info!(n3iwf = %path.remote, "attaching");
        let offer = Offer {
            // Whatever an earlier run of this daemon left at the N3IWF is nobody's.
            initial_contact: !self.contacted,
            ..self.config.offer.clone()
        };
        let sa = self.endpoint.initiate_with(now, path, initiator, &offer);
        self.ready_kms();
        self.link = Some(Link {
            sa,
            eap: Peer::new(self.an_parameters()),
            established: false,
            registered: false,
            discarded: None,
            signalling_lost: false,
            deadline: now + self.config.attach_timeout,
            inner: None,
            nas: NasLink::default(),
            signalling: None,
            renew_at: None,
            renewing: false,
            children: BTreeMap::new(),
            sessions: BTreeMap::new(),
            settled: false,
            udp_encap: false,
            fallback: None,
            ending: None,
        });
    }

    /// Deregisters, if there is anything to deregister, and stays detached.
    fn leave(&mut self, now: Instant, switch_off: bool) {
        self.retry_at = None;
        let Some(link) = self.link.as_mut() else {
            return;
        };
        link.renewing = false;
        if let Some(ending) = link.ending.as_mut() {
            ending.again = false;
            ending.close_at = ending.close_at.min(now + self.config.release_timeout);
            return;
        }
        if self.nas.is_registered() && link.nas.connected {
            self.nas.deregister(now.since_origin(), switch_off);
        } else {
            self.end(now, None, false);
        }
    }

    /// Ends the attach: at once, unless the network is expected to take the IKE SA down.
    fn end(&mut self, now: Instant, failure: Option<AttachFailure>, again: bool) {
        self.end_after(now, Duration::ZERO, failure, again);
    }

    fn end_after(
        &mut self,
        now: Instant,
        wait: Duration,
        failure: Option<AttachFailure>,
        again: bool,
    ) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let ending = link.ending.get_or_insert(Ending {
            failure,
            again,
            close_at: now + wait,
            closing: false,
        });
        if !ending.closing && now >= ending.close_at {
            ending.closing = true;
            ending.close_at = now + CONFIRM;
            let sa = link.sa;
            self.endpoint.close(now, sa);
        }
    }

    fn link_timeout(&mut self, now: Instant) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        match &mut link.ending {
            Some(ending) if now >= ending.close_at => {
                let sa = link.sa;
                ending.close_at = now + CONFIRM;
                if std::mem::replace(&mut ending.closing, true) {
                    self.endpoint.abandon(now, sa);
                } else {
                    self.endpoint.close(now, sa);
                }
            }
            Some(_) => {}
            None if !link.registered && now >= link.deadline => {
                let failure = AttachFailure::TimedOut(self.config.attach_timeout);
                self.end(now, Some(failure), false);
            }
            None if link.nas.retry_at.is_some_and(|at| now >= at) => {
                link.nas.retry_at = None;
                self.connect_nas();
            }
            None => {}
        }
    }

    /// The IKE SA is gone: cleans up, and decides what comes next.
    fn closed(&mut self, now: Instant, sa: SaId, reason: CloseReason) {
        self.actions.push_back(Action::ForgetKeys(sa));
        if self.link.as_ref().is_none_or(|link| link.sa != sa) {
            return;
        }
        let Some(mut link) = self.link.take() else {
            return;
        };
        for (id, session) in std::mem::take(&mut link.sessions) {
            if session.interface.is_some() {
                self.actions.push_back(Action::RemoveSession(id));
            }
        }
        self.actions.push_back(Action::CloseNas);
        // The engine has reported each of them down; this is for one that failed in between.
        // One that is being installed would stay, since nobody asks what came of it.
        for id in std::mem::take(&mut link.children).into_keys() {
            self.actions.push_back(Action::Remove(id));
        }
        // The N3IWF's Delete may overtake DEREGISTRATION ACCEPT, which takes another way.
        let leaving = self.nas.is_deregistering();
        self.nas.connection_lost();
        self.timeline.end(now.since_origin());
        let (failure, again) = match link.ending {
            Some(ending) => (ending.failure, ending.again),
            None if leaving => (None, link.renewing),
            None => (Some(AttachFailure::Ike(reason)), false),
        };
        self.last_failure.clone_from(&failure);
        // At once, but not twice in a row without a registration in between.
        let retry_in = if again && (link.registered || self.failures == 0) {
            self.failures = self.failures.saturating_add(1);
            Some(Duration::ZERO)
        } else {
            failure.as_ref().and_then(|failure| self.pause(failure))
        };
        match (&failure, retry_in) {
            (Some(failure), Some(pause)) => {
                warn!(%failure, retry_in_ms = pause.as_millis(), "not attached");
            }
            (Some(failure), None) => warn!(%failure, "not attached, no further attempt"),
            (None, _) => info!("detached"),
        }
        self.retry_at = retry_in.map(|pause| now + pause);
        self.actions
            .push_back(Action::Detached { failure, retry_in });
    }

    /// How long to wait after a failure; none for ever.
    fn pause(&mut self, failure: &AttachFailure) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        let retry = self.config.retry;
        if failure.is_permanent() || (retry.attempts != 0 && self.failures >= retry.attempts) {
            return None;
        }
        if let AttachFailure::Nas(failure) = failure
            && let Some(wanted) = failure.retry_after()
        {
            return Some(wanted);
        }
        let doubled = 1u32
            .checked_shl(self.failures.saturating_sub(1).min(31))
            .unwrap_or(u32::MAX);
        let whole = retry.initial.saturating_mul(doubled).min(retry.maximum);
        let share = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        Some(whole.mul_f64(0.5 + share / 2.0))
    }

    fn ike_event(&mut self, now: Instant, event: Event) {
        let of = match &event {
            Event::KeysNeeded { sa, .. }
            | Event::Keyed { sa, .. }
            | Event::ModeFallback { sa, .. }
            | Event::Eap { sa, .. }
            | Event::EapSuccess { sa }
            | Event::InstallChild { sa, .. }
            | Event::Established { sa, .. }
            | Event::ChildRequested { sa, .. }
            | Event::Told { sa, .. }
            | Event::ChildUp { sa, .. } => Some(*sa),
            _ => None,
        };
        if of.is_some_and(|sa| self.link.as_ref().is_none_or(|link| link.sa != sa)) {
            return;
        }
        self.attach_event(now, event);
    }
}

impl std::fmt::Debug for Ue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ue")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
