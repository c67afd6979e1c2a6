//! The UE's relay: a TUN device per PDU session on one side, GRE inside the tunnel on the other.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use gtpu::Direction;
use nwu::GreHeader;
use socket2::Socket;

use super::{
    FlowReading, Path, SessionReading, Tunnel, UeRelay, UeSession, UplinkRules,
    gre_socket::{self, Stop},
    kernel::UePrograms,
    mmsg::{BATCH, Outgoing, Receiver, Room, send},
    n3iwf::{lock, read, spawn, transient, write},
    packet::{ipv4, ipv6},
    reflect::Reflections,
    segment::Parts,
    table::{Both, Counters},
    tun::{Tun, link_local},
};
use crate::Error;

/// IPv4 and GRE with key around a PDU.
const GRE_OVERHEAD: usize = 28;
/// QFIs have 6 bits.
const QFIS: u8 = 64;

/// What the relay needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunRelayConfig {
    /// GRE protocol type sent: 0 as TS 24.502 wants, 0x0800 for peers with Linux GRE devices.
    pub gre_protocol: u16,
    /// MTU of the XFRM interfaces ([`crate::Options::mtu`]).
    pub tunnel_mtu: u16,
}

/// [`UeRelay`] in user space, or in the kernel with the one in user space behind it.
pub struct TunRelay {
    config: TunRelayConfig,
    programs: Option<Arc<Mutex<UePrograms>>>,
    sessions: Mutex<BTreeMap<u8, Running>>,
}

struct Running {
    shared: Arc<Shared>,
    stop: Stop,
    threads: Vec<thread::JoinHandle<()>>,
}

struct Shared {
    session: UeSession,
    config: TunRelayConfig,
    tun: Tun,
    gre: Arc<Socket>,
    /// DSCP of the default Child SA.
    dscp: AtomicU8,
    /// Child SAs beside the default one, whose socket is `gre`.
    further: RwLock<Vec<Further>>,
    rules: RwLock<UplinkRules>,
    /// What reflective QoS made of downlink packets.
    reflections: Reflections,
    /// RQ timers count from here.
    origin: Instant,
    /// By QFI.
    flows: Vec<Both>,
    counters: Counters,
    programs: Option<Arc<Mutex<UePrograms>>>,
}

/// The socket of a Child SA for some flows.
struct Further {
    tunnel: Tunnel,
    gre: Arc<Socket>,
    stop: Stop,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Further {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to end.
            let _ = thread.join();
        }
    }
}

impl TunRelay {
    /// A relay without sessions.
    pub fn new(config: TunRelayConfig) -> Self {
        Self {
            config,
            programs: None,
            sessions: Mutex::default(),
        }
    }

    /// The same with the programs of `object` (made by `cargo xtask build`) in front.
    pub fn with_programs(config: TunRelayConfig, object: &std::path::Path) -> Result<Self, Error> {
        Ok(Self {
            programs: Some(Arc::new(Mutex::new(UePrograms::load(object)?))),
            ..Self::new(config)
        })
    }
}

impl UeRelay for TunRelay {
    fn add(&self, session: UeSession) -> Result<(), Error> {
        self.remove(session.pdu_session);
        let id = session.pdu_session;
        let gre = gre_socket::open(session.inner_local, session.interface.as_deref())?;
        let gre = Arc::new(gre);
        let (dscp, further) = (session.dscp, session.further.clone());
        let tun = Tun::open(&session)?;
        let rules = RwLock::new(session.rules.clone());
        let shared = Arc::new(Shared {
            session,
            config: self.config,
            tun,
            gre: Arc::clone(&gre),
            dscp: AtomicU8::new(dscp),
            further: RwLock::default(),
            rules,
            reflections: Reflections::default(),
            origin: Instant::now(),
            flows: (0..QFIS).map(|_| Both::default()).collect(),
            counters: Counters::default(),
            programs: self.programs.clone(),
        });
        let mut running = Running {
            shared: Arc::clone(&shared),
            stop: Stop::new()?,
            threads: Vec::new(),
        };
        let (own, stop, room) = (Arc::clone(&shared), running.stop.clone(), Room::new()?);
        let thread = spawn("relay-tun", move || own.serve_tun(&stop, room))?;
        running.threads.push(thread);
        let (own, stop, room) = (Arc::clone(&shared), running.stop.clone(), Room::new()?);
        let thread = spawn("relay-gre", move || own.serve_gre(&gre, &stop, room))?;
        running.threads.push(thread);
        shared.set_further(further)?;
        shared.serve_by_programs();
        lock(&self.sessions).insert(id, running);
        Ok(())
    }

    fn set_tunnels(&self, pdu_session: u8, dscp: u8, further: Vec<Tunnel>) -> Result<(), Error> {
        match lock(&self.sessions).get(&pdu_session) {
            Some(running) => {
                running.shared.dscp.store(dscp, Relaxed);
                running.shared.set_further(further)?;
                running.shared.tunnels_for_programs();
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn set_rules(&self, pdu_session: u8, rules: UplinkRules) {
        if let Some(running) = lock(&self.sessions).get(&pdu_session) {
            if rules.rq_timer().is_zero() {
                running.shared.reflections.clear();
            }
            if let Some(programs) = &self.programs {
                lock(programs).set_rules(pdu_session, &rules);
            }
            *write(&running.shared.rules) = rules;
        }
    }

    fn remove(&self, pdu_session: u8) -> Option<SessionReading> {
        let running = lock(&self.sessions).remove(&pdu_session)?;
        Some(running.end())
    }

    fn readings(&self) -> Vec<SessionReading> {
        let sessions = lock(&self.sessions);
        sessions.values().map(|r| r.shared.reading()).collect()
    }
}

impl Running {
    fn end(mut self) -> SessionReading {
        self.join();
        let reading = self.shared.reading();
        if let Some(programs) = &self.shared.programs {
            lock(programs).remove(self.shared.session.pdu_session);
        }
        reading
    }

    fn join(&mut self) {
        write(&self.shared.further).clear();
        self.stop.set();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing more to end.
            let _ = thread.join();
        }
    }
}

/// Whether an IPv6 address may be the UE's: the link-local one that the network chose, or any of a prefix
/// that the kernel took from a router. Which prefix is the session's, the network checks.
fn own(address: Ipv6Addr, interface_id: [u8; 8]) -> bool {
    if address.is_unicast_link_local() {
        return address == link_local(interface_id);
    }
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

/// Threads must not outlive the relay, or the device would stay.
impl Drop for Running {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    fn count(&self, qfi: u8, direction: Direction, octets: usize) {
        if let Some(flow) = self.flows.get(usize::from(qfi)) {
            flow.count(direction, octets);
        }
    }

    /// Opens what is new and closes what is no more.
    fn set_further(self: &Arc<Self>, wanted: Vec<Tunnel>) -> Result<(), Error> {
        let mut old = std::mem::take(&mut *write(&self.further));
        for tunnel in wanted {
            // Without IPsec the one socket has all.
            if tunnel.interface.is_none() {
                continue;
            }
            let known = old
                .iter()
                .position(|f| f.tunnel.interface == tunnel.interface);
            let further = match known {
                Some(at) => {
                    let mut known = old.swap_remove(at);
                    known.tunnel = tunnel;
                    known
                }
                None => self.open_further(tunnel)?,
            };
            write(&self.further).push(further);
        }
        Ok(())
    }

    fn open_further(self: &Arc<Self>, tunnel: Tunnel) -> Result<Further, Error> {
        let interface = tunnel.interface.as_deref();
        let gre = Arc::new(gre_socket::open(self.session.inner_local, interface)?);
        let stop = Stop::new()?;
        let (own, socket, ends) = (Arc::clone(self), Arc::clone(&gre), stop.clone());
        let room = Room::new()?;
        let thread = spawn("relay-gre", move || own.serve_gre(&socket, &ends, room))?;
        Ok(Further {
            tunnel,
            gre,
            stop,
            thread: Some(thread),
        })
    }

    /// Tells the programs which flow goes by which Child SA, and with which DSCP.
    fn tunnels_for_programs(&self) {
        if let Some(programs) = &self.programs {
            let further = read(&self.further);
            let further: Vec<Tunnel> = further.iter().map(|f| f.tunnel.clone()).collect();
            let dscp = self.dscp.load(Relaxed);
            lock(programs).set_tunnels(self.session.pdu_session, dscp, &further);
        }
    }

    /// A session that the programs cannot serve goes by user space alone.
    fn serve_by_programs(&self) {
        let Some(programs) = &self.programs else {
            return;
        };
        let session = &self.session;
        let limit = u32::from(self.config.tunnel_mtu)
            .saturating_sub(u32::try_from(GRE_OVERHEAD).unwrap_or(0));
        let added = self.tun.index().and_then(|index| {
            let gre_protocol = self.config.gre_protocol;
            lock(programs).add(session, index, gre_protocol, limit)
        });
        let id = session.pdu_session;
        match added {
            Ok(()) => tracing::info!(pdu_session = id, "session in the kernel"),
            Err(error) => {
                tracing::warn!(pdu_session = id, %error, "the session is served by user space alone");
            }
        }
        self.tunnels_for_programs();
    }

    fn reading(&self) -> SessionReading {
        let id = self.session.pdu_session;
        let (path, kernel) = match self.programs.as_ref().map(|programs| lock(programs)) {
            Some(programs) if programs.serves(id) => (Path::Kernel, programs.counters(id)),
            Some(programs) => (Path::User, programs.counters(id)),
            None => (Path::User, Vec::new()),
        };
        let flows = (0..QFIS).zip(&self.flows);
        let flows = flows.map(|(qfi, flow)| {
            let kernel = kernel.get(usize::from(qfi)).copied().unwrap_or_default();
            let [uplink, downlink] = [
                (Direction::Uplink, kernel.uplink),
                (Direction::Downlink, kernel.downlink),
            ]
            .map(|(direction, counter)| {
                let mut total = flow.traffic(direction);
                total.packets += counter.packets;
                total.bytes += counter.bytes;
                total
            });
            let last = kernel.uplink.last_seen_ns.max(kernel.downlink.last_seen_ns);
            FlowReading {
                qfi,
                uplink,
                downlink,
                last_seen: (last != 0).then(|| Duration::from_nanos(last)),
            }
        });
        let seen = |flow: &FlowReading| flow.uplink.packets != 0 || flow.downlink.packets != 0;
        let flows: Vec<FlowReading> = flows.filter(seen).collect();
        SessionReading {
            pdu_session: id,
            dl_teid: 0,
            address: self.session.address.unwrap_or(Ipv4Addr::UNSPECIFIED),
            uplink: flows.iter().map(|flow| flow.uplink).sum(),
            downlink: flows.iter().map(|flow| flow.downlink).sum(),
            flows,
            drops: self.counters.drops(),
            path,
        }
    }

    /// Nanoseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// GRE of a flow, in the room that every header has.
    fn gre_header(&self, qfi: u8) -> ([u8; 16], usize) {
        let gre = GreHeader {
            qfi: Some(qfi),
            rqi: false,
        };
        let encoded = gre.encode(self.config.gre_protocol);
        let mut header = [0; 16];
        if let Some(place) = header.first_chunk_mut() {
            *place = encoded;
        }
        (header, encoded.len())
    }

    /// Uplink: packets from the device, out as GRE.
    fn serve_tun(&self, stop: &Stop, mut room: Room) {
        let limit = usize::from(self.config.tunnel_mtu).saturating_sub(GRE_OVERHEAD);
        let to = SocketAddrV4::new(self.session.up_address, 0).into();
        while stop.wait(self.tun.as_fd()) {
            let mut lengths = Vec::with_capacity(BATCH);
            for buffer in room.buffers_mut() {
                match self.tun.receive(buffer) {
                    Ok(length) => lengths.push(length),
                    Err(error) => {
                        transient(&error);
                        break;
                    }
                }
            }
            let packets = room.buffers().zip(&lengths);
            let packets = packets.filter_map(|(buffer, length)| buffer.get(..*length));
            let now = self.now();
            let rules = read(&self.rules);
            let mut ready = Vec::with_capacity(lengths.len());
            for packet in packets {
                // The device also emits what the kernel says on its own.
                match self.leaves(packet) {
                    Ok(()) => match rules.choose(packet, &self.reflections, now) {
                        Some(qfi) => ready.push((qfi, Parts::new(packet, limit))),
                        None => {
                            self.counters.qfi_not_allowed.fetch_add(1, Relaxed);
                        }
                    },
                    Err(reason) => {
                        reason(&self.counters).fetch_add(1, Relaxed);
                    }
                }
            }
            drop(rules);
            let (dscp, further) = (self.dscp.load(Relaxed), read(&self.further));
            let mut out = Vec::with_capacity(ready.len());
            let mut by_further: Vec<Vec<Outgoing<'_>>> = further.iter().map(|_| vec![]).collect();
            for (qfi, parts) in &ready {
                let (header, header_len) = self.gre_header(*qfi);
                let own = further.iter().zip(&mut by_further);
                let mut own = own.filter(|(further, _)| further.tunnel.qfis.contains(qfi));
                let (dscp, out) = match own.next() {
                    Some((further, own)) => (further.tunnel.dscp, own),
                    None => (dscp, &mut out),
                };
                for payload in parts.iter() {
                    self.count(*qfi, Direction::Uplink, payload.len());
                    out.push(Outgoing {
                        to,
                        dscp,
                        header,
                        header_len,
                        payload,
                    });
                }
            }
            let mut refused = send(self.gre.as_fd(), &out);
            for (further, out) in further.iter().zip(&by_further) {
                refused += send(further.gre.as_fd(), out);
            }
            drop(further);
            self.counters.send_failed.fetch_add(refused, Relaxed);
        }
    }

    /// Downlink: GRE from the N3IWF, out through the device.
    fn serve_gre(&self, gre: &Socket, stop: &Stop, room: Room) {
        let mut receiver = Receiver::new(room);
        while stop.wait(gre.as_fd()) {
            let received = match receiver.receive(gre.as_fd()) {
                Ok(received) => received,
                Err(error) => {
                    transient(&error);
                    continue;
                }
            };
            for (_, packet) in receiver.datagrams(received) {
                self.deliver(packet);
            }
        }
    }

    /// Whether a packet of the device may go, or what it is counted as.
    fn leaves(&self, packet: &[u8]) -> Result<(), fn(&Counters) -> &AtomicU64> {
        let ours = match (ipv4(packet), ipv6(packet)) {
            (Some(ip), _) => self.session.address.map(|address| ip.source == address),
            (None, Some((source, _))) => self.session.interface_id.map(|id| own(source, id)),
            (None, None) => None,
        };
        match ours {
            Some(true) => Ok(()),
            Some(false) => Err(|counters| &counters.wrong_address),
            None => Err(|counters| &counters.malformed),
        }
    }

    /// Whether a PDU is for this session; `None`: it is no packet, or of a family that the session has not.
    fn arrives(&self, pdu: &[u8]) -> Option<bool> {
        if let Some(ip) = ipv4(pdu) {
            return self
                .session
                .address
                .map(|address| ip.destination == address);
        }
        let (_, destination) = ipv6(pdu)?;
        let interface_id = self.session.interface_id?;
        Some(destination.is_multicast() || own(destination, interface_id))
    }

    fn deliver(&self, packet: &[u8]) {
        let decoded = ipv4(packet).and_then(|outer| {
            let (gre, pdu) = GreHeader::decode(outer.payload).ok()?;
            Some((outer.source, gre, pdu, self.arrives(pdu)?))
        });
        let Some((source, gre, pdu, ours)) = decoded else {
            self.counters.malformed.fetch_add(1, Relaxed);
            return;
        };
        if source != self.session.up_address {
            self.counters.wrong_address.fetch_add(1, Relaxed);
            return;
        }
        if !ours {
            // Another session's, when no interface tells the sockets apart.
            self.counters.no_session.fetch_add(1, Relaxed);
            return;
        }
        let qfi = gre.qfi.unwrap_or(0);
        if gre.rqi {
            let rq_timer = read(&self.rules).rq_timer();
            if !rq_timer.is_zero() {
                let told = self.reflections.learn(pdu, qfi, rq_timer, self.now());
                if let (Some(told), Some(programs)) = (told, &self.programs) {
                    lock(programs).derive(self.session.pdu_session, &told);
                }
            }
        }
        match self.tun.send(pdu) {
            Ok(()) => self.count(qfi, Direction::Downlink, pdu.len()),
            Err(error) => {
                transient(&error);
                self.counters.send_failed.fetch_add(1, Relaxed);
            }
        }
    }
}
