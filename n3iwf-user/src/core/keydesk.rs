//! Who gets QKD keys: keys fetched ahead, the floor kept for rekeys, and attaches when there are none.
//!
//! Neither KMS nor clock. A request goes in with the time; what comes out are [`Order`]s: keys for the
//! asker, a refusal, or something to ask the KMS. A rekey is never held back; an attach is when it would
//! take keys below the floor, or when the KMS had none a moment ago. Then it waits or is refused, as
//! [`WhenEmpty`] says, and goes on by itself once there are keys again.

mod peer;
mod policy;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use ike::{Instant, KeyRequestId, QkdFailure, SaId};
use keys::{KeyId, QkdKey, SaeId};
use tracing::info;

use self::peer::{Peer, Stock};
pub use self::policy::{Ahead, DeskCounts, KeyPolicy, WhenEmpty};

/// How long a KMS that had no keys, or was not there, is left alone by attaches.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a refill that failed waits; doubles up to [`LONGEST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a `stored_key_count` is believed.
const FRESH: Duration = Duration::from_secs(5);
/// How long an attach waits for a status at most, whatever the policy.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);
/// Attaches that wait for keys at most.
const MOST_WAITING: usize = 1024;
/// Peers remembered at most; SAE IDs of strangers are not authenticated.
const MOST_PEERS: usize = 65_536;

/// A request for keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) sa: SaId,
    pub(crate) request: KeyRequestId,
    pub(crate) slave: SaeId,
    pub(crate) number: usize,
    pub(crate) size_bits: u32,
    /// For an SA in use, as opposed to an attach.
    pub(crate) rekey: bool,
    /// It had to wait before.
    pub(crate) waited: bool,
}

/// What the desk wants done.
#[derive(Debug)]
pub(crate) enum Order {
    Give {
        ask: Ask,
        keys: Vec<QkdKey>,
    },
    Refuse {
        ask: Ask,
        failure: QkdFailure,
    },
    /// Ask the KMS; answer with [`KeyDesk::answered`].
    Fetch(Ask),
    /// Ask the KMS; answer with [`KeyDesk::arrived`].
    FetchAhead {
        slave: SaeId,
        number: usize,
        size_bits: u32,
    },
    /// Ask the KMS for its status; answer with [`KeyDesk::stock_told`].
    AskStock {
        slave: SaeId,
    },
    /// These were wiped unused.
    Wiped(Vec<KeyId>),
}

struct Waiting {
    ask: Ask,
    until: Instant,
}

/// A fetch for one asker.
struct UnderWay {
    ask: Ask,
    /// How long its asker may wait.
    until: Instant,
    /// The asker is gone.
    orphan: bool,
}

/// Whether an attach may take keys.
enum Gate {
    Open,
    /// It depends on a status that is asked for.
    Unknown,
    Shut,
}

pub(crate) struct KeyDesk {
    policy: KeyPolicy,
    peers: HashMap<SaeId, Peer>,
    /// IKE SAs that were given keys: whose, and whether they are established.
    sas: HashMap<SaId, (SaeId, bool)>,
    waiting: VecDeque<Waiting>,
    under_way: HashMap<(SaId, KeyRequestId), UnderWay>,
    timers: BTreeSet<(Instant, SaeId)>,
    poll_at: Option<Instant>,
    orders: VecDeque<Order>,
    counts: DeskCounts,
    closed: bool,
}

impl KeyDesk {
    pub(crate) fn new(policy: KeyPolicy) -> Self {
        Self {
            policy,
            peers: HashMap::new(),
            sas: HashMap::new(),
            waiting: VecDeque::new(),
            under_way: HashMap::new(),
            timers: BTreeSet::new(),
            poll_at: None,
            orders: VecDeque::new(),
            counts: DeskCounts::default(),
            closed: false,
        }
    }

    /// Begins with the peers that are named.
    pub(crate) fn start(&mut self, now: Instant) {
        let named = self.policy.ahead.iter().flat_map(|ahead| &ahead.peers);
        for slave in named.cloned().collect::<Vec<_>>() {
            self.peers.entry(slave.clone()).or_default().named = true;
            self.tend(now, &slave);
        }
    }

    pub(crate) fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let peers = self.timers.first().map(|(at, _)| *at);
        let waiting = self.waiting.iter().map(|waiting| waiting.until);
        peers.into_iter().chain(waiting).chain(self.poll_at).min()
    }

    pub(crate) fn counts(&self) -> DeskCounts {
        DeskCounts {
            waiting: self.waiting.len(),
            ..self.counts
        }
    }

    /// Keys held ahead by peer.
    pub(crate) fn held(&self) -> BTreeMap<SaeId, usize> {
        let held = self.peers.iter().filter(|(_, peer)| !peer.ready.is_empty());
        held.map(|(slave, peer)| (slave.clone(), peer.ready.len()))
            .collect()
    }

    /// Somebody needs keys.
    pub(crate) fn request(&mut self, now: Instant, ask: Ask) {
        if let Some(peer) = self.peers.get_mut(&ask.slave) {
            peer.size_bits = peer.size_bits.max(ask.size_bits);
        }
        let patience = match self.policy.empty {
            WhenEmpty::Refuse => STATUS_PATIENCE,
            WhenEmpty::Wait(time) => time,
        };
        let until = now + patience;
        if let Some(ask) = self.serve(now, ask, until) {
            self.hold(now, ask, until);
        }
    }

    fn hold(&mut self, now: Instant, mut ask: Ask, until: Instant) {
        if self.waiting.len() >= MOST_WAITING {
            return self.refuse(ask, QkdFailure::NoKeys);
        }
        self.counts.waited += u64::from(!std::mem::replace(&mut ask.waited, true));
        self.waiting.push_back(Waiting { ask, until });
        self.poll_at.get_or_insert(now + PAUSE);
    }

    /// Gives, fetches or refuses. `Some`: it has to wait.
    fn serve(&mut self, now: Instant, ask: Ask, until: Instant) -> Option<Ask> {
        let spare = ask.rekey || self.spare(now, &ask);
        if spare && let Some(keys) = self.take(now, &ask) {
            self.counts.ahead += 1;
            self.give(ask, keys);
            return None;
        }
        let gate = match ask.rekey {
            true => Gate::Open,
            false => self.gate(now, &ask),
        };
        match (gate, self.policy.empty) {
            (Gate::Open, _) => {
                self.fetch(now, ask, until);
                None
            }
            (Gate::Unknown, _) => {
                self.ask_stock(&ask.slave);
                Some(ask)
            }
            (Gate::Shut, WhenEmpty::Wait(_)) => Some(ask),
            (Gate::Shut, WhenEmpty::Refuse) => {
                self.refuse(ask, QkdFailure::NoKeys);
                None
            }
        }
    }

    /// Whether keys held ahead can be given to an attach without going below the floor, as far as is known.
    fn spare(&mut self, now: Instant, ask: &Ask) -> bool {
        if self.policy.floor == 0 {
            return true;
        }
        let Some(peer) = self.peers.get(&ask.slave) else {
            return true;
        };
        let (ready, known) = (peer.ready.len() as u64, peer.stock_at(now));
        if known.is_none() {
            // Who has keys here does not wait for a status.
            self.ask_stock(&ask.slave);
        }
        match known {
            Some(Some(stored)) => {
                ready.saturating_add(stored) >= self.policy.floor + ask.number as u64
            }
            _ => true,
        }
    }

    fn gate(&mut self, now: Instant, ask: &Ask) -> Gate {
        let strange = self.peers.len() >= MOST_PEERS;
        let floor = self.policy.floor;
        let peer = match self.peers.get_mut(&ask.slave) {
            Some(peer) => peer,
            None if floor == 0 || strange => return Gate::Open,
            None => self.peers.entry(ask.slave.clone()).or_default(),
        };
        if let Some(drought) = &mut peer.drought {
            if now < drought.until || std::mem::replace(&mut drought.probing, true) {
                return Gate::Shut;
            }
            return Gate::Open;
        }
        if floor == 0 {
            return Gate::Open;
        }
        let ready = peer.ready.len() as u64;
        match peer.stock_at(now) {
            None => Gate::Unknown,
            Some(Some(stored)) if ready.saturating_add(stored) < floor + ask.number as u64 => {
                Gate::Shut
            }
            Some(_) => Gate::Open,
        }
    }

    fn fetch(&mut self, now: Instant, ask: Ask, until: Instant) {
        self.counts.on_demand += 1;
        if let Some(peer) = self.peers.get_mut(&ask.slave) {
            peer.spent(ask.number);
        }
        let under_way = UnderWay {
            ask: ask.clone(),
            until,
            orphan: false,
        };
        self.under_way.insert((ask.sa, ask.request), under_way);
        self.rearm(now, &ask.slave);
        self.orders.push_back(Order::Fetch(ask));
    }

    fn give(&mut self, ask: Ask, keys: Vec<QkdKey>) {
        if !ask.rekey {
            self.sas.insert(ask.sa, (ask.slave.clone(), false));
        }
        self.orders.push_back(Order::Give { ask, keys });
    }

    fn refuse(&mut self, ask: Ask, failure: QkdFailure) {
        if !ask.rekey {
            self.counts.refused += 1;
        }
        self.orders.push_back(Order::Refuse { ask, failure });
    }

    fn ask_stock(&mut self, slave: &SaeId) {
        if let Some(peer) = self.peers.get_mut(slave)
            && !std::mem::replace(&mut peer.asking, true)
        {
            let slave = slave.clone();
            self.orders.push_back(Order::AskStock { slave });
        }
    }

    /// The peer says that its KMS does not have this key, of those last given to it from store. What was in store with
    /// it would end the next attach the same way.
    pub(crate) fn missing(&mut self, now: Instant, slave: &SaeId, id: KeyId) {
        let Some(peer) = self.peers.get_mut(slave) else {
            return;
        };
        let keys = peer.take_given_with(id);
        if !keys.is_empty() {
            info!(%slave, keys = keys.len(), "the peer's KMS does not have what was fetched ahead");
        }
        self.counts.held -= keys.len();
        self.wiped(&keys);
        self.tend(now, slave);
    }

    /// Keys held ahead, oldest first; all that are asked for, or none.
    fn take(&mut self, now: Instant, ask: &Ask) -> Option<Vec<QkdKey>> {
        let peer = self.peers.get_mut(&ask.slave)?;
        let keys = peer.take(now, ask.number, ask.size_bits)?;
        self.counts.held -= keys.len();
        self.tend(now, &ask.slave);
        Some(keys)
    }

    /// The answer to [`Order::Fetch`].
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        sa: SaId,
        request: KeyRequestId,
        answer: Result<Vec<QkdKey>, QkdFailure>,
    ) {
        let Some(UnderWay { ask, until, orphan }) = self.under_way.remove(&(sa, request)) else {
            return self.wiped(&answer.unwrap_or_default());
        };
        let slave = ask.slave.clone();
        match answer {
            Ok(keys) => {
                if orphan {
                    self.keep(now, &ask, keys);
                } else {
                    self.give(ask, keys);
                }
                self.water(now, &slave);
            }
            Err(failure @ (QkdFailure::NoKeys | QkdFailure::Unreachable)) => {
                self.dry(now, &slave);
                let waits = matches!(self.policy.empty, WhenEmpty::Wait(_));
                if waits && !ask.rekey && !orphan && until > now {
                    self.hold(now, ask, until);
                } else if !orphan {
                    self.refuse(ask, failure);
                }
            }
            Err(failure) => {
                if let Some(peer) = self.peers.get_mut(&slave)
                    && let Some(drought) = &mut peer.drought
                {
                    drought.probing = false;
                }
                if !orphan {
                    self.refuse(ask, failure);
                }
            }
        }
        self.rearm(now, &slave);
    }

    /// Keys whose asker is gone: nobody has seen their IDs, so they are as good as new.
    fn keep(&mut self, now: Instant, ask: &Ask, keys: Vec<QkdKey>) {
        let room = self.policy.ahead.as_ref().is_some_and(|ahead| {
            let peer = self.peers.get(&ask.slave);
            let wanted = peer.is_some_and(|peer| {
                peer.is_wanted()
                    && !peer.refilling
                    && peer.ready.len() + keys.len() <= ahead.keys
                    && ask.size_bits >= peer.size_bits
            });
            wanted && self.counts.held + keys.len() <= ahead.total && !self.closed
        });
        match self.peers.get_mut(&ask.slave) {
            Some(peer) if room => {
                self.counts.held += keys.len();
                peer.store(now, ask.size_bits, keys);
            }
            _ => self.wiped(&keys),
        }
    }

    fn wiped(&mut self, keys: &[QkdKey]) {
        if !keys.is_empty() {
            let ids = keys.iter().map(|key| key.id).collect();
            self.orders.push_back(Order::Wiped(ids));
        }
    }

    /// The answer to [`Order::FetchAhead`].
    pub(crate) fn arrived(
        &mut self,
        now: Instant,
        slave: &SaeId,
        answer: Result<Vec<QkdKey>, QkdFailure>,
    ) {
        let closed = self.closed;
        let Some(peer) = self.peers.get_mut(slave) else {
            return self.wiped(&answer.unwrap_or_default());
        };
        peer.refilling = false;
        match answer {
            Ok(keys) if !closed && peer.is_wanted() => {
                peer.failures = 0;
                self.counts.held += keys.len();
                let size_bits = peer.asked_bits;
                peer.store(now, size_bits, keys);
                self.water(now, slave);
            }
            Ok(keys) => self.wiped(&keys),
            Err(failure) => {
                peer.failed(now);
                if matches!(failure, QkdFailure::NoKeys | QkdFailure::Unreachable) {
                    self.dry(now, slave);
                }
            }
        }
        self.tend(now, slave);
    }

    /// The answer to [`Order::AskStock`]; `None`: there was none.
    pub(crate) fn stock_told(&mut self, now: Instant, slave: &SaeId, stored: Option<u64>) {
        if let Some(peer) = self.peers.get_mut(slave) {
            peer.asking = false;
            peer.stock = Some(Stock { stored, at: now });
        }
        self.reconsider(now, slave);
        self.tend(now, slave);
    }

    /// Whose keys an IKE SA that began here has.
    pub(crate) fn peer_of(&self, sa: SaId) -> Option<&SaeId> {
        self.sas.get(&sa).map(|(slave, _)| slave)
    }

    /// An IKE SA is authenticated: its peer is who it says, and may have keys ahead.
    pub(crate) fn established(&mut self, now: Instant, sa: SaId) {
        if let Some((slave, live)) = self.sas.get_mut(&sa)
            && !std::mem::replace(live, true)
            && self.policy.ahead.is_some()
        {
            let slave = slave.clone();
            self.peers.entry(slave.clone()).or_default().live += 1;
            self.tend(now, &slave);
        }
    }

    /// An IKE SA is gone.
    pub(crate) fn ended(&mut self, now: Instant, sa: SaId) {
        self.waiting.retain(|waiting| waiting.ask.sa != sa);
        let of_sa = self.under_way.iter_mut().filter(|((of, _), _)| *of == sa);
        for (_, under_way) in of_sa {
            under_way.orphan = true;
        }
        if let Some((slave, live)) = self.sas.remove(&sa) {
            if let Some(peer) = self.peers.get_mut(&slave)
                && live
            {
                peer.live = peer.live.saturating_sub(1);
            }
            self.rearm(now, &slave);
        }
    }

    /// No more attaches: what is held ahead is wiped.
    pub(crate) fn close(&mut self, now: Instant) {
        self.closed = true;
        for waiting in std::mem::take(&mut self.waiting) {
            self.refuse(waiting.ask, QkdFailure::Quota);
        }
        let all: Vec<SaeId> = self.peers.keys().cloned().collect();
        for slave in all {
            let ready = self.peers.get_mut(&slave).map(Peer::take_all);
            let keys = ready.unwrap_or_default();
            self.counts.held -= keys.len();
            self.wiped(&keys);
            self.rearm(now, &slave);
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, slave)) = self.timers.pop_first() {
            if at > now {
                self.timers.insert((at, slave));
                break;
            }
            if let Some(peer) = self.peers.get_mut(&slave) {
                peer.armed = None;
            }
            self.reconsider(now, &slave);
            self.tend(now, &slave);
        }
        let (over, left): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| waiting.until <= now);
        self.waiting = left;
        for waiting in over {
            self.refuse(waiting.ask, QkdFailure::NoKeys);
        }
        if self.poll_at.is_some_and(|at| at <= now) {
            let slaves: BTreeSet<SaeId> =
                self.waiting.iter().map(|w| w.ask.slave.clone()).collect();
            self.poll_at = (!slaves.is_empty()).then_some(now + PAUSE);
            if self.policy.floor > 0 {
                for slave in &slaves {
                    self.ask_stock(slave);
                }
            }
        }
    }

    /// The KMS had no keys for this peer, or was not there.
    fn dry(&mut self, now: Instant, slave: &SaeId) {
        if self.peers.len() < MOST_PEERS || self.peers.contains_key(slave) {
            let peer = self.peers.entry(slave.clone()).or_default();
            peer.dry(now + PAUSE);
        }
    }

    /// The KMS gave keys for this peer: whoever waits for it may go on.
    fn water(&mut self, now: Instant, slave: &SaeId) {
        if let Some(peer) = self.peers.get_mut(slave) {
            peer.drought = None;
        }
        self.reconsider(now, slave);
    }

    /// Whoever waits for keys of this peer gets another look.
    fn reconsider(&mut self, now: Instant, slave: &SaeId) {
        if !self.waiting.iter().any(|w| w.ask.slave == *slave) {
            return;
        }
        for Waiting { ask, until } in std::mem::take(&mut self.waiting) {
            let kept = match ask.slave == *slave {
                true => self.serve(now, ask, until),
                false => Some(ask),
            };
            if let Some(ask) = kept {
                self.waiting.push_back(Waiting { ask, until });
            }
        }
    }

    /// Lets keys of a peer grow old, refills them, and forgets a peer about which nothing is left to know.
    fn tend(&mut self, now: Instant, slave: &SaeId) {
        let Some(peer) = self.peers.get_mut(slave) else {
            return;
        };
        if let Some(ahead) = &self.policy.ahead {
            let old = peer.take_old(now, ahead.age);
            self.counts.held -= old.len();
            self.counts.aged += old.len() as u64;
            self.wiped(&old);
        }
        self.refill(now, slave);
        let waited_for = self.waiting.iter().any(|w| w.ask.slave == *slave);
        if let Some(peer) = self.peers.get_mut(slave) {
            peer.forget(now, waited_for);
            if peer.is_blank() && !waited_for {
                if let Some(at) = peer.armed {
                    self.timers.remove(&(at, slave.clone()));
                }
                self.peers.remove(slave);
                return;
            }
        }
        self.rearm(now, slave);
    }

    fn refill(&mut self, now: Instant, slave: &SaeId) {
        let (Some(ahead), Some(peer)) = (&self.policy.ahead, self.peers.get_mut(slave)) else {
            return;
        };
        let due = peer.is_wanted() && peer.ready.len() < ahead.low && peer.may_refill(now);
        let number = ahead.keys.saturating_sub(peer.ready.len());
        let room = ahead.total.saturating_sub(self.counts.held);
        if !due || self.closed || number == 0 || number > room {
            return;
        }
        if self.policy.floor > 0 {
            match peer.stock_at(now) {
                None => return self.ask_stock(slave),
                // What is left at the KMS is for rekeys, of any peer.
                Some(Some(stored)) if stored < self.policy.floor + number as u64 => {
                    return peer.postpone(now + FRESH);
                }
                Some(_) => {}
            }
        }
        peer.refilling = true;
        peer.asked_bits = peer.size_bits;
        peer.spent(number);
        let order = Order::FetchAhead {
            slave: slave.clone(),
            number,
            size_bits: peer.size_bits,
        };
        self.orders.push_back(order);
    }

    fn rearm(&mut self, now: Instant, slave: &SaeId) {
        let Some(peer) = self.peers.get_mut(slave) else {
            return;
        };
        let next = peer.due(now, self.policy.ahead.as_ref());
        let old = std::mem::replace(&mut peer.armed, next);
        if old == next {
            return;
        }
        if let Some(at) = old {
            self.timers.remove(&(at, slave.clone()));
        }
        if let Some(at) = next {
            self.timers.insert((at, slave.clone()));
        }
    }
}
