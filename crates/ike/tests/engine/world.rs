//! A UE and an N3IWF in one process: two endpoints, a network that misbehaves by seed, a KME pair, and two small
//! daemons. Time jumps from one thing to do to the next.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ike::{
    CloseReason, Endpoint, EndpointConfig, Event, InitiatorConfig, Instant, KeyRequestId,
    KeysWanted, Path, SaId, SaState, SaStatus,
    wire::{self, Body, NotifyType, Payload, TrafficSelector},
};
use rand_core::{Rng, SeedableRng};

use crate::{
    kme::Kme,
    record::{Record, Sent},
    rng::TestRng,
    setup,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Side {
    Ue,
    N3iwf,
}

use Side::{N3iwf, Ue};

/// Chances per datagram in 1/1000, and delays.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) loss: u32,
    pub(crate) duplicate: u32,
    pub(crate) truncate: u32,
    pub(crate) flip: u32,
    /// Largest extra delay: what reorders.
    pub(crate) jitter: Duration,
}

/// How the daemons behave.
#[derive(Clone)]
pub(crate) struct Behaviour {
    /// EAP responses of the UE and, as answers to them, requests of the N3IWF (octets of the packets).
    pub(crate) eap: Vec<(usize, usize)>,
    /// Ends EAP in failure instead.
    pub(crate) eap_fails: bool,
    /// The UE's MSK differs.
    pub(crate) wrong_msk: bool,
    /// Largest delay of any daemon's answer.
    pub(crate) slowness: Duration,
    /// This side's data plane refuses the n-th Child SA.
    pub(crate) install_fails: Option<(Side, usize)>,
    /// The UE refuses further Child SAs with this.
    pub(crate) refuses_children: Option<NotifyType>,
    /// Traffic Selectors the N3IWF's daemon wants on the UE's side.
    pub(crate) ts_ue: Vec<TrafficSelector>,
    /// The daemons of this side do not answer KeysNeeded.
    pub(crate) silent_keys: Option<Side>,
    /// The daemons of this side do not answer InstallChild.
    pub(crate) silent_install: Option<Side>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            // Registration Request, Authentication Request; Response, Security Mode Command; Complete, (Success).
            eap: vec![(69, 58), (39, 35), (69, 4)],
            eap_fails: false,
            wrong_msk: false,
            slowness: Duration::ZERO,
            install_fails: None,
            refuses_children: None,
            ts_ue: vec![setup::UE_INNER],
            silent_keys: None,
            silent_install: None,
        }
    }
}

pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    pub(crate) record: Record,
    /// EAP rounds of each SA.
    pub(crate) rounds: HashMap<SaId, usize>,
}

pub(crate) enum Action {
    Deliver(Side, Path, Vec<u8>),
    React(Side, Event),
    Keys(Side, SaId, KeyRequestId, KeysWanted, u32),
}

struct Due {
    at: Instant,
    order: u64,
    action: Action,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A NAT in front of the UE: its outer address, and what is added to its ports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nat {
    pub(crate) outer: IpAddr,
    pub(crate) port_offset: u16,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) ue: Node,
    pub n3iwf: Node,
    pub(crate) kme: Kme,
    pub(crate) faults: Faults,
    pub(crate) latency: Duration,
    pub(crate) nat: Option<Nat>,
    /// Where the UE is: what comes from or goes to another address of its is lost.
    pub(crate) ue_address: IpAddr,
    pub(crate) behaviour: Behaviour,
    /// Datagrams of this side vanish.
    pub(crate) muted: HashSet<Side>,
    pub(crate) sent: Vec<Sent>,
    /// A filter that sees, changes or drops each datagram (return `None`).
    #[expect(clippy::type_complexity, reason = "one use")]
    pub(crate) tap: Option<Box<dyn FnMut(Side, &[u8]) -> Option<Vec<u8>>>>,
    pub(crate) record_sent: bool,
    queue: BinaryHeap<Reverse<Due>>,
    order: u64,
    rng: TestRng,
}

impl World {
    pub(crate) fn new(seed: u64, ue: EndpointConfig, n3iwf: EndpointConfig) -> Self {
        let node = |config, salt| Node {
            endpoint: Endpoint::new(config, Box::new(TestRng::seed_from_u64(seed ^ salt))),
            record: Record::default(),
            rounds: HashMap::new(),
        };
        Self {
            now: Instant::ZERO,
            ue: node(ue, 0x7565_0000),
            n3iwf: node(n3iwf, 0x6e33_0000),
            kme: Kme::new(seed),
            faults: Faults::default(),
            latency: Duration::from_millis(10),
            nat: None,
            ue_address: setup::UE,
            behaviour: Behaviour::default(),
            muted: HashSet::new(),
            sent: Vec::new(),
            tap: None,
            record_sent: true,
            queue: BinaryHeap::new(),
            order: 0,
            rng: TestRng::seed_from_u64(seed ^ 0x6e65_7400),
        }
    }

    /// Both sides with default settings of the `native` profile.
    pub(crate) fn native(seed: u64) -> Self {
        Self::new(seed, setup::ue_endpoint(), setup::n3iwf_endpoint())
    }

    pub(crate) fn node(&mut self, side: Side) -> &mut Node {
        match side {
            Ue => &mut self.ue,
            N3iwf => &mut self.n3iwf,
        }
    }

    pub(crate) fn initiate(&mut self, config: InitiatorConfig) -> SaId {
        let id = self
            .ue
            .endpoint
            .initiate(self.now, setup::ue_path(), config);
        self.drain(Ue);
        id
    }

    pub(crate) fn initiate_with(&mut self, config: InitiatorConfig, offer: &ike::Offer) -> SaId {
        let path = setup::ue_path();
        let id = self
            .ue
            .endpoint
            .initiate_with(self.now, path, config, offer);
        self.drain(Ue);
        id
    }

    /// Runs a command on one side and carries out what follows from it.
    pub(crate) fn command<R>(
        &mut self,
        side: Side,
        act: impl FnOnce(&mut Endpoint, Instant) -> R,
    ) -> R {
        let now = self.now;
        let result = act(&mut self.node(side).endpoint, now);
        self.drain(side);
        result
    }

    pub(crate) fn schedule(&mut self, after: Duration, action: Action) {
        self.order += 1;
        self.queue.push(Reverse(Due {
            at: self.now + after,
            order: self.order,
            action,
        }));
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.next_u32() % 1000 < per_mille
    }

    pub(crate) fn up_to(&mut self, bound: Duration) -> Duration {
        match u64::try_from(bound.as_micros()).unwrap() {
            0 => Duration::ZERO,
            micros => Duration::from_micros(self.rng.next_u64() % micros),
        }
    }

    /// Carries out everything one side has to say.
    pub(crate) fn drain(&mut self, side: Side) {
        while let Some(transmit) = self.node(side).endpoint.poll_transmit() {
            if self.record_sent {
                self.sent.push(Sent {
                    at: self.now,
                    from: side,
                    path: transmit.path,
                    data: transmit.data.clone(),
                });
            }
            self.send(side, transmit.path, transmit.data);
        }
        while let Some(event) = self.node(side).endpoint.poll_event() {
            self.note(side, event);
        }
        self.check_account(side);
    }

    /// provided = used + lost + held, at every step.
    fn check_account(&mut self, side: Side) {
        let node = self.node(side);
        let held: usize = node.endpoint.sas().map(|sa| sa.held_keys).sum();
        assert_eq!(
            node.record.provided,
            node.record.fates.len() + held,
            "{side:?}: keys are unaccounted for"
        );
    }

    fn send(&mut self, from: Side, path: Path, data: Vec<u8>) {
        if self.muted.contains(&from) || self.chance(self.faults.loss) {
            return;
        }
        let data = match &mut self.tap {
            Some(tap) => match tap(from, &data) {
                Some(data) => data,
                None => return,
            },
            None => data,
        };
        self.carry(from, path, data.clone());
        if self.chance(self.faults.duplicate) {
            self.carry(from, path, data);
        }
    }

    fn carry(&mut self, from: Side, path: Path, mut data: Vec<u8>) {
        let Some((to, seen)) = self.route(from, path) else {
            return;
        };
        if self.chance(self.faults.truncate) && !data.is_empty() {
            let len = self.rng.next_u32() as usize % data.len();
            data.truncate(len);
        }
        if self.chance(self.faults.flip) && !data.is_empty() {
            let at = self.rng.next_u32() as usize % data.len();
            data[at] ^= 1 << (self.rng.next_u32() % 8);
        }
        let delay = self.latency + self.up_to(self.faults.jitter);
        self.schedule(delay, Action::Deliver(to, seen, data));
    }

    /// Where a datagram comes out, and between which addresses.
    fn route(&self, from: Side, path: Path) -> Option<(Side, Path)> {
        let (source, target) = (path.local, path.remote);
        match from {
            Ue => {
                if source.ip() != self.ue_address {
                    return None;
                }
                let source = match self.nat {
                    Some(nat) => SocketAddr::new(nat.outer, source.port() + nat.port_offset),
                    None => source,
                };
                (target.ip() == setup::N3IWF).then_some((
                    N3iwf,
                    Path {
                        local: target,
                        remote: source,
                    },
                ))
            }
            N3iwf => {
                let target = match self.nat {
                    Some(nat) if target.ip() == nat.outer => {
                        let port = target.port().checked_sub(nat.port_offset)?;
                        SocketAddr::new(self.ue_address, port)
                    }
                    Some(_) => return None,
                    None => target,
                };
                (target.ip() == self.ue_address).then_some((
                    Ue,
                    Path {
                        local: target,
                        remote: source,
                    },
                ))
            }
        }
    }

    /// From now on somebody on the way changes the clear messages of one side.
    pub(crate) fn tamper(&mut self, side: Side, change: impl Fn(&mut Vec<Payload>) + 'static) {
        self.tap = Some(Box::new(move |from, data| {
            let parsed = wire::parse(data).unwrap();
            match parsed.body {
                Body::Clear(mut payloads) if from == side => {
                    change(&mut payloads);
                    Some(wire::encode(&parsed.header, &payloads).unwrap())
                }
                _ => Some(data.to_vec()),
            }
        }));
    }

    /// Puts a datagram in front of one side, as if from the other.
    pub(crate) fn inject(&mut self, to: Side, data: Vec<u8>) {
        let path = match to {
            N3iwf => setup::ue_path(),
            Ue => setup::n3iwf_path(),
        };
        let path = Path {
            local: path.remote,
            remote: path.local,
        };
        self.inject_on(to, path, data);
    }

    /// The same on a chosen path, seen from the receiver.
    pub(crate) fn inject_on(&mut self, to: Side, path: Path, data: Vec<u8>) {
        self.schedule(Duration::ZERO, Action::Deliver(to, path, data));
    }

    /// Does the next thing, if it is due by `until`.
    fn step(&mut self, until: Instant) -> bool {
        let action = self.queue.peek().map(|Reverse(due)| due.at);
        let timers = [Ue, N3iwf].map(|side| (self.timeout(side), side));
        let timer = timers
            .iter()
            .filter_map(|(at, side)| at.map(|at| (at, *side)))
            .min();
        let next = [action, timer.map(|(at, _)| at)]
            .into_iter()
            .flatten()
            .min();
        let Some(next) = next.filter(|next| *next <= until) else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(next);
        if let Some((at, side)) = timer
            && at <= self.now
            && action.is_none_or(|action| at <= action)
        {
            let now = self.now;
            self.node(side).endpoint.handle_timeout(now);
            assert!(
                self.timeout(side).is_none_or(|at| at > now),
                "{side:?}: a timer stands still"
            );
            self.drain(side);
            return true;
        }
        if let Some(Reverse(due)) = self.queue.pop() {
            match due.action {
                Action::Deliver(to, path, data) => {
                    let now = self.now;
                    self.node(to).endpoint.handle_datagram(now, path, &data);
                    self.drain(to);
                }
                Action::React(side, event) => self.react(side, event),
                Action::Keys(side, sa, request, wanted, tries) => {
                    self.keys(side, sa, request, wanted, tries);
                }
            }
        }
        true
    }

    fn timeout(&mut self, side: Side) -> Option<Instant> {
        self.node(side).endpoint.poll_timeout()
    }

    /// Lets this much time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// Runs until both sides are established, or panics.
    pub(crate) fn attach(&mut self, config: InitiatorConfig) -> (SaId, SaId) {
        self.attach_with(config, &ike::Offer::default())
    }

    /// The same with a choice of modes.
    pub(crate) fn attach_with(
        &mut self,
        config: InitiatorConfig,
        offer: &ike::Offer,
    ) -> (SaId, SaId) {
        let before = self.n3iwf.record.established.len();
        let ue = self.initiate_with(config, offer);
        let limit = self.now + Duration::from_secs(60);
        while self.step(limit) {
            let n3iwf = self.n3iwf.record.established.get(before).copied();
            if let (true, Some(n3iwf)) = (self.ue.record.established.contains(&ue), n3iwf) {
                self.run(Duration::from_millis(100));
                return (ue, n3iwf);
            }
        }
        panic!(
            "no attach: UE {:?}, N3IWF {:?}",
            self.ue.record.closed, self.n3iwf.record.closed
        );
    }

    pub(crate) fn sas(&mut self, side: Side) -> Vec<SaStatus> {
        self.node(side).endpoint.sas().collect()
    }

    pub(crate) fn established(&mut self, side: Side) -> Vec<SaStatus> {
        self.sas(side)
            .into_iter()
            .filter(|sa| sa.state == SaState::Established)
            .collect()
    }

    pub(crate) fn reason(&mut self, side: Side, sa: SaId) -> Option<CloseReason> {
        self.node(side)
            .record
            .closed
            .iter()
            .find(|(closed, _)| *closed == sa)
            .map(|(_, reason)| reason.clone())
    }
}
