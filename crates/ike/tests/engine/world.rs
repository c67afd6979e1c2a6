//! A UE and an N3IWF in one process: two endpoints, a network that misbehaves by seed, a KME pair, and two small
//! daemons. Time jumps from one thing to do to the next.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use ike::{
    ChildAnswer, ChildId, ChildSa, CloseReason, EapSuccess, Endpoint, EndpointConfig, Event, Fate,
    InitiatorConfig, Instant, KeyPurpose, KeyRequestId, KeysWanted, Path, QkdFailure, SaId,
    SaState, SaStatus,
    wire::{NotifyType, Notify, TrafficSelector},
};
use keys::{KeyId, Secret};
use rand_core::{Rng, SeedableRng};

use crate::{kme::Kme, rng::TestRng, setup};

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

/// One datagram as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) from: Side,
    pub(crate) path: Path,
    pub(crate) data: Vec<u8>,
}

impl Sent {
    /// Octets as an Ethernet frame over IPv4.
    pub(crate) fn frame_len(&self) -> usize {
        14 + 20 + 8 + self.data.len()
    }
}

/// A data plane's view of a Child SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) id: ChildId,
    pub(crate) sa: SaId,
    pub(crate) spi_in: u32,
    pub(crate) spi_out: u32,
    pub(crate) key_in: Vec<u8>,
    pub(crate) key_out: Vec<u8>,
    pub(crate) salt_in: [u8; 4],
    pub(crate) salt_out: [u8; 4],
    pub(crate) integ_in: Option<Vec<u8>>,
    pub(crate) integ_out: Option<Vec<u8>>,
    pub(crate) signalling: bool,
    pub(crate) udp_encap: bool,
    pub(crate) key_ids: Vec<KeyId>,
    pub(crate) ts_local: Vec<TrafficSelector>,
    pub(crate) ts_remote: Vec<TrafficSelector>,
    pub(crate) notifies: Vec<Notify>,
}

/// What one side has seen.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) established: Vec<SaId>,
    pub(crate) closed: Vec<(SaId, CloseReason)>,
    pub(crate) installed: BTreeMap<ChildId, Installed>,
    pub(crate) up: HashSet<ChildId>,
    pub(crate) tokens_up: Vec<u64>,
    pub(crate) failed: Vec<(ChildId, ike::ChildFailure)>,
    pub(crate) down: Vec<(ChildId, bool)>,
    pub(crate) fates: HashMap<KeyId, Fate>,
    pub(crate) provided: usize,
    pub(crate) keys_needed: usize,
    pub(crate) paths: Vec<Path>,
    pub(crate) eap_begins: usize,
    pub(crate) eap_failures: usize,
    pub(crate) configuration: Vec<ike::wire::CfgAttribute>,
    pub(crate) notifies: Vec<Notify>,
    installs: usize,
    requests: HashSet<KeyRequestId>,
}

pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    pub(crate) record: Record,
    /// EAP rounds of each SA.
    rounds: HashMap<SaId, usize>,
}

enum Action {
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
    pub(crate) outer: std::net::IpAddr,
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
        let id = self.ue.endpoint.initiate(self.now, setup::ue_path(), config);
        self.drain(Ue);
        id
    }

    /// Runs a command on one side and carries out what follows from it.
    pub(crate) fn command<R>(&mut self, side: Side, act: impl FnOnce(&mut Endpoint, Instant) -> R) -> R {
        let now = self.now;
        let result = act(&mut self.node(side).endpoint, now);
        self.drain(side);
        result
    }

    fn schedule(&mut self, after: Duration, action: Action) {
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

    fn up_to(&mut self, bound: Duration) -> Duration {
        match u64::try_from(bound.as_micros()).unwrap() {
            0 => Duration::ZERO,
            micros => Duration::from_micros(self.rng.next_u64() % micros),
        }
    }

    /// Carries out everything one side has to say.
    fn drain(&mut self, side: Side) {
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
                        SocketAddr::new(setup::UE, port)
                    }
                    Some(_) => return None,
                    None => target,
                };
                (target.ip() == setup::UE).then_some((
                    Ue,
                    Path {
                        local: target,
                        remote: source,
                    },
                ))
            }
        }
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

    /// Notes what is final at once, and hands the rest to the daemon after its reaction time.
    fn note(&mut self, side: Side, event: Event) {
        let record = &mut self.node(side).record;
        match &event {
            Event::KeyFate { id, fate, .. } => {
                let before = record.fates.insert(*id, *fate);
                assert_eq!(before, None, "{side:?}: {id} has two fates");
            }
            Event::Established {
                sa,
                configuration,
                notifies,
            } => {
                assert!(!record.established.contains(sa), "established twice");
                record.established.push(*sa);
                record.configuration.clone_from(configuration);
                record.notifies.clone_from(notifies);
            }
            Event::Closed { sa, reason } => {
                assert!(
                    record.closed.iter().all(|(closed, _)| closed != sa),
                    "closed twice"
                );
                record.closed.push((*sa, reason.clone()));
            }
            Event::ChildUp { child, token, .. } => {
                assert!(record.installed.contains_key(child), "up before installed");
                assert!(record.up.insert(*child), "up twice");
                record.tokens_up.push(*token);
            }
            Event::ChildFailed { child, reason, .. } => {
                assert!(!record.up.contains(child), "failed after it was up");
                record.failed.push((*child, *reason));
            }
            Event::ChildDown {
                child,
                spi_in,
                by_peer,
                ..
            } => {
                if let Some(installed) = record.installed.remove(child) {
                    assert_eq!(installed.spi_in, *spi_in);
                }
                record.up.remove(child);
                record.down.push((*child, *by_peer));
            }
            Event::KeysNeeded { request, .. } => {
                assert!(record.requests.insert(*request), "asked twice");
                record.keys_needed += 1;
            }
            Event::PathChanged { path, .. } => record.paths.push(*path),
            Event::EapBegin { .. } => record.eap_begins += 1,
            Event::EapFailure { .. } => record.eap_failures += 1,
            _ => {}
        }
        let slowness = self.behaviour.slowness;
        let after = self.up_to(slowness);
        // A data plane works in the order it is told to: only questions may take their time.
        match event {
            Event::KeysNeeded {
                sa,
                request,
                wanted,
            } => self.schedule(after, Action::Keys(side, sa, request, wanted, 0)),
            Event::InstallChild { .. } => self.schedule(after, Action::React(side, event)),
            Event::EapBegin { .. }
            | Event::Eap { .. }
            | Event::EapSuccess { .. }
            | Event::ChildRequested { .. } => self.schedule(after, Action::React(side, event)),
            _ => {}
        }
    }

    fn react(&mut self, side: Side, event: Event) {
        let now = self.now;
        let behaviour = self.behaviour.clone();
        match event {
            Event::EapBegin { sa, .. } => {
                self.n3iwf.endpoint.send_eap(now, sa, setup::eap(1, 14));
            }
            Event::Eap { sa, packet } => {
                let round = *self.node(side).rounds.entry(sa).or_default();
                *self.node(side).rounds.entry(sa).or_default() += 1;
                match side {
                    Ue => {
                        assert_eq!(packet[0], 1, "the UE gets EAP requests");
                        let len = behaviour.eap.get(round).map_or(20, |(len, _)| *len);
                        self.ue.endpoint.send_eap(now, sa, setup::eap(2, len));
                    }
                    N3iwf => {
                        assert_eq!(packet[0], 2, "the N3IWF gets EAP responses");
                        self.authenticator(sa, round);
                    }
                }
            }
            Event::EapSuccess { sa } => {
                let msk = if behaviour.wrong_msk { 8 } else { 7 };
                self.ue
                    .endpoint
                    .set_msk(now, sa, Secret::from_slice(&[msk; 32]));
            }
            Event::InstallChild { sa, child } => self.install(side, sa, *child),
            Event::ChildRequested { sa, child, .. } => {
                let answer = match behaviour.refuses_children {
                    Some(kind) => Err(kind),
                    None => Ok(ChildAnswer::default()),
                };
                self.node(side)
                    .endpoint
                    .answer_child(now, sa, child, answer);
            }
            _ => {}
        }
        self.drain(side);
    }

    fn authenticator(&mut self, sa: SaId, round: usize) {
        let now = self.now;
        let behaviour = &self.behaviour;
        let last = round + 1 >= behaviour.eap.len();
        if last && behaviour.eap_fails {
            self.n3iwf.endpoint.eap_failure(now, sa, setup::eap(4, 4));
        } else if last {
            let success = EapSuccess {
                packet: setup::eap(3, 4),
                msk: Secret::from_slice(&[7; 32]),
                configuration: setup::cfg_reply(),
                ts_local: vec![setup::N3IWF_INNER],
                ts_remote: behaviour.ts_ue.clone(),
                notifies: setup::nas_notifies(),
            };
            self.n3iwf.endpoint.eap_success(now, sa, success);
        } else {
            let len = behaviour.eap[round].1;
            self.n3iwf.endpoint.send_eap(now, sa, setup::eap(1, len));
        }
    }

    fn install(&mut self, side: Side, sa: SaId, child: ChildSa) {
        if self.behaviour.silent_install == Some(side) {
            return;
        }
        let fails = self.behaviour.install_fails;
        let now = self.now;
        let node = self.node(side);
        let ordinal = node.record.installs;
        node.record.installs += 1;
        let id = child.id;
        if fails == Some((side, ordinal)) {
            node.endpoint.child_installed(now, sa, id, Err(()));
            return;
        }
        let octets = |secret: &Secret| secret.expose().to_vec();
        // When the SA is gone by now, ChildDown has been reported already and nothing may stay behind.
        let gone = node.record.down.iter().any(|(down, _)| *down == id);
        if !gone {
            node.record.installed.insert(
                id,
                Installed {
                    id,
                    sa,
                    spi_in: child.spi_in,
                    spi_out: child.spi_out,
                    key_in: octets(&child.keys_in.encr),
                    key_out: octets(&child.keys_out.encr),
                    salt_in: child.keys_in.salt,
                    salt_out: child.keys_out.salt,
                    integ_in: child.keys_in.integ.as_ref().map(octets),
                    integ_out: child.keys_out.integ.as_ref().map(octets),
                    signalling: child.signalling,
                    udp_encap: child.udp_encap,
                    key_ids: child.key_ids.clone(),
                    ts_local: child.ts_local.clone(),
                    ts_remote: child.ts_remote.clone(),
                    notifies: child.notifies.clone(),
                },
            );
        }
        node.endpoint.child_installed(now, sa, id, Ok(()));
    }

    fn keys(&mut self, side: Side, sa: SaId, request: KeyRequestId, wanted: KeysWanted, tries: u32) {
        if self.behaviour.silent_keys == Some(side) {
            return;
        }
        let answer = match self.kme.answer(self.now, &wanted) {
            Ok(keys) => Ok(keys),
            Err(None) if tries < 20 => {
                let again = Action::Keys(side, sa, request, wanted, tries + 1);
                return self.schedule(Duration::from_millis(200), again);
            }
            Err(failure) => Err(failure.unwrap_or(QkdFailure::UnknownKey)),
        };
        let now = self.now;
        let node = self.node(side);
        node.record.provided += answer.as_ref().map_or(0, Vec::len);
        node.endpoint.provide_keys(now, sa, request, answer);
        self.drain(side);
    }

    /// Does the next thing, if it is due by `until`.
    fn step(&mut self, until: Instant) -> bool {
        let action = self.queue.peek().map(|Reverse(due)| due.at);
        let timers = [Ue, N3iwf].map(|side| (self.timeout(side), side));
        let timer = timers
            .iter()
            .filter_map(|(at, side)| at.map(|at| (at, *side)))
            .min();
        let next = [action, timer.map(|(at, _)| at)].into_iter().flatten().min();
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
        let before = self.n3iwf.record.established.len();
        let ue = self.initiate(config);
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

    /// Keys agree on both sides, no key serves two purposes, no purpose has two keys.
    ///
    /// Keys that a KME delivers wrong for a Child SA are nothing IKE could see, so they are not compared.
    pub(crate) fn check_keys(&mut self) {
        let sound = self.kme.faults.wrong_octets.is_none();
        for installed in self.ue.record.installed.values().filter(|_| sound) {
            let Some(peer) = self
                .n3iwf
                .record
                .installed
                .values()
                .find(|peer| peer.spi_in == installed.spi_out && peer.spi_out == installed.spi_in)
            else {
                continue;
            };
            assert_eq!(installed.key_in, peer.key_out);
            assert_eq!(installed.key_out, peer.key_in);
            assert_eq!(installed.salt_in, peer.salt_out);
            assert_eq!(installed.salt_out, peer.salt_in);
            assert_eq!(installed.integ_in, peer.integ_out);
            assert_eq!(installed.integ_out, peer.integ_in);
            assert_ne!(installed.key_in, installed.key_out);
            assert_eq!(installed.key_ids, peer.key_ids);
        }
        for side in [Ue, N3iwf] {
            let record = &self.node(side).record;
            let mut purposes: HashSet<(KeyPurpose, Option<ChildId>)> = HashSet::new();
            let mut octets = HashSet::new();
            for (id, fate) in &record.fates {
                if let Fate::Used { purpose, child } = fate
                    && child.is_some()
                {
                    assert!(purposes.insert((*purpose, *child)), "two keys for {purpose:?}");
                }
                assert!(octets.insert(*id));
            }
            let mut seen = HashSet::new();
            for installed in record.installed.values() {
                for id in &installed.key_ids {
                    assert!(seen.insert(*id), "{id} serves two Child SAs");
                }
            }
        }
        // A key that both sides used, both used for the same.
        for (id, fate) in &self.ue.record.fates {
            if let (
                Fate::Used { purpose, .. },
                Some(Fate::Used {
                    purpose: theirs, ..
                }),
            ) = (fate, self.n3iwf.record.fates.get(id))
            {
                assert_eq!(purpose, theirs, "{id}");
            }
        }
    }
}
