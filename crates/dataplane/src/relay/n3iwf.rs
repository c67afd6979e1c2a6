//! The N3IWF's relay: raw GRE sockets, one per XFRM interface, and one GTP-U socket.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use caps::CapSet;
use gtpu::{DecodeError, Direction, ErrorIndication, Message, MessageType, PduSessionContainer};
use nwu::GreHeader;
use socket2::{Domain, Socket, Type};
use tracing::{debug, warn};

use super::{
    AccessEvent, AccessRelay, AccessSession, Ambr, Drops, SessionReading,
    gre_socket::{self, Stop},
    limit::Limit,
    mmsg::{Outgoing, Receiver, Room, send},
    packet::ipv4,
    path::Paths,
    segment::Parts,
    table::{Counters, Entry, Table, UnknownTeid},
    too_big,
};
use crate::Error;

/// Octets that GTP-U with a container adds to a PDU on N3: IPv4 20 or IPv6 40, UDP 8, GTP-U 16.
pub(super) const fn n3_overhead(ours: IpAddr) -> usize {
    match ours {
        IpAddr::V4(_) => 44,
        IpAddr::V6(_) => 64,
    }
}

/// Octets that GRE adds to a PDU inside the tunnel: IPv4 20, GRE 8.
pub(super) const GRE_OVERHEAD: usize = 28;

/// Events kept for the daemon; older ones are worth more than newer ones of a flood.
const MAX_EVENTS: usize = 1024;

/// Most of what is sent about PDUs that do not fit, bit/s: about 200 answers a second.
const ANSWERS: u64 = 1_000_000;

/// Where the relay listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GtpRelayConfig {
    /// N3 address and port (`n3iwfGtpBindAddress`, 2152), of IPv4 or of IPv6.
    pub gtp: SocketAddr,
    /// UP_IP4_ADDRESS: GRE of UEs is addressed to it.
    pub up_address: Ipv4Addr,
    /// MTU of N3.
    pub n3_mtu: u16,
    /// MTU of the XFRM interfaces ([`crate::Options::mtu`]).
    pub tunnel_mtu: u16,
    /// GRE protocol type sent: 0 as TS 24.502 wants, 0x0800 for peers with Linux GRE devices.
    pub gre_protocol: u16,
}

/// [`AccessRelay`] in user space.
pub struct GtpRelay {
    shared: Arc<Shared>,
    stop: Stop,
    n3: Option<thread::JoinHandle<()>>,
    uplinks: Mutex<BTreeMap<u32, Uplink>>,
}

/// The thread that reads one GRE socket.
struct Uplink {
    stop: Stop,
    thread: thread::JoinHandle<()>,
}

struct Shared {
    config: GtpRelayConfig,
    gtp: Socket,
    table: RwLock<Table>,
    gre: RwLock<BTreeMap<u32, Arc<Socket>>>,
    unknown: Counters,
    events: Mutex<VecDeque<AccessEvent>>,
    sequence: AtomicU16,
    paths: RwLock<Paths>,
    /// Limits what is sent about PDUs that do not fit.
    answers: Limit,
    /// Rate limits count from here.
    origin: Instant,
}

impl GtpRelay {
    /// Opens the N3 socket and starts to serve it.
    pub fn start(config: GtpRelayConfig) -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::for_address(config.gtp), Type::DGRAM, None)?;
            if config.gtp.is_ipv6() {
                // IPv4 may have a relay of its own on the port. UDP checksums are the kernel's, both
                // ways: over IPv6 none is zero (RFC 8200, 8.1).
                socket.set_only_v6(true)?;
            }
            socket.bind(&config.gtp.into())?;
            gre_socket::grow(&socket);
            Ok(socket)
        };
        let gtp =
            open().map_err(|error| Error::io(format!("opening GTP-U on {}", config.gtp), error))?;
        let shared = Arc::new(Shared {
            paths: RwLock::new(Paths::new(config.n3_mtu)),
            config,
            gtp,
            table: RwLock::default(),
            gre: RwLock::default(),
            unknown: Counters::default(),
            events: Mutex::default(),
            sequence: AtomicU16::new(0),
            answers: Limit::new(ANSWERS),
            origin: Instant::now(),
        });
        let stop = Stop::new()?;
        let thread = {
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            let room = Room::new()?;
            spawn("relay-n3", move || shared.serve_n3(&stop, room))?
        };
        Ok(Self {
            shared,
            stop,
            n3: Some(thread),
            uplinks: Mutex::default(),
        })
    }

    fn open_uplink(&self, slot: u32, interface: Option<&str>) -> Result<(), Error> {
        let mut uplinks = lock(&self.uplinks);
        if uplinks.contains_key(&slot) {
            return Ok(());
        }
        let socket = Arc::new(gre_socket::open(self.shared.config.up_address, interface)?);
        let stop = Stop::new()?;
        let bound = interface.map(|_| slot);
        let thread = {
            let (shared, stop) = (Arc::clone(&self.shared), stop.clone());
            let socket = Arc::clone(&socket);
            let room = Room::new()?;
            spawn("relay-gre", move || {
                shared.serve_gre(&socket, bound, &stop, room);
            })?
        };
        write(&self.shared.gre).insert(slot, socket);
        uplinks.insert(slot, Uplink { stop, thread });
        Ok(())
    }

    /// The one socket on N3 reaches peers of its own IP version.
    fn check(&self, session: &AccessSession) -> Result<(), Error> {
        let (ours, upf) = (self.shared.config.gtp.ip(), session.upf);
        if ours.is_ipv4() == upf.is_ipv4() {
            return Ok(());
        }
        Err(Error::Config(format!(
            "the UPF {upf} cannot be reached from {ours}, our address on N3"
        )))
    }

    /// Largest PDU that fits the path to a UPF, octets.
    pub(super) fn uplink_max(&self, upf: IpAddr) -> usize {
        self.shared.uplink_max(&read(&self.shared.paths), upf)
    }

    /// Asks the kernel now and then for paths that are narrower than N3.
    fn look_at_paths(&self) {
        if !read(&self.shared.paths).is_due() {
            return;
        }
        let upfs = read(&self.shared.table).upfs();
        write(&self.shared.paths).ask(self.shared.config.gtp, upfs);
    }

    fn close_uplink(&self, slot: u32) {
        write(&self.shared.gre).remove(&slot);
        if let Some(uplink) = lock(&self.uplinks).remove(&slot) {
            uplink.stop.set();
            // A thread that panicked has nothing more to end.
            let _ = uplink.thread.join();
        }
    }
}

impl Drop for GtpRelay {
    fn drop(&mut self) {
        let slots: Vec<u32> = lock(&self.uplinks).keys().copied().collect();
        for slot in slots {
            self.close_uplink(slot);
        }
        self.stop.set();
        if let Some(thread) = self.n3.take() {
            let _ = thread.join();
        }
    }
}

impl AccessRelay for GtpRelay {
    fn add(&self, session: AccessSession) -> Result<(), Error> {
        self.check(&session)?;
        // Without IPsec every session shares the one socket that is bound to no interface.
        let slot = session.interface.as_ref().map_or(0, |_| session.slot);
        self.open_uplink(slot, session.interface.as_deref())?;
        for tunnel in &session.further {
            if tunnel.interface.is_some() {
                self.open_uplink(tunnel.slot, tunnel.interface.as_deref())?;
            }
        }
        write(&self.shared.table).insert(session);
        Ok(())
    }

    fn modify(&self, session: AccessSession) -> Result<(), Error> {
        self.check(&session)?;
        let dl_teid = session.dl_teid;
        if write(&self.shared.table).modify(session) {
            return Ok(());
        }
        Err(unknown_session(dl_teid))
    }

    fn set_ue_ambr(&self, ue: u32, ambr: Ambr) {
        read(&self.shared.table).set_ue_ambr(ue, ambr);
    }

    fn remove(&self, dl_teid: u32) -> Option<SessionReading> {
        let (reading, unused) = {
            let mut table = write(&self.shared.table);
            let reading = table.remove(dl_teid)?;
            let slots: Vec<u32> = read(&self.shared.gre).keys().copied().collect();
            let unused = slots.into_iter().filter(|slot| !table.uses_slot(*slot));
            (reading, unused.collect::<Vec<_>>())
        };
        for slot in unused {
            self.close_uplink(slot);
        }
        Some(reading)
    }

    fn readings(&self) -> Vec<SessionReading> {
        read(&self.shared.table).readings()
    }

    fn drops(&self) -> Drops {
        self.shared.unknown.drops()
    }

    fn poll_event(&self) -> Option<AccessEvent> {
        self.look_at_paths();
        lock(&self.shared.events).pop_front()
    }
}

/// There is nothing to modify.
pub(super) fn unknown_session(dl_teid: u32) -> Error {
    Error::Config(format!("no session has the TEID {dl_teid:#010x}"))
}

impl Shared {
    /// Uplink: GRE in, GTP-U out.
    fn serve_gre(&self, socket: &Socket, slot: Option<u32>, stop: &Stop, room: Room) {
        let mut receiver = Receiver::new(room);
        while stop.wait(socket.as_fd()) {
            let received = match receiver.receive(socket.as_fd()) {
                Ok(received) => received,
                Err(error) => {
                    transient(&error);
                    continue;
                }
            };
            let now = self.now();
            let mut pdus = Vec::with_capacity(received);
            {
                let table = read(&self.table);
                for (_, packet) in receiver.datagrams(received) {
                    let Some(ip) = ipv4(packet) else {
                        self.unknown.malformed.fetch_add(1, Relaxed);
                        continue;
                    };
                    pdus.extend(table.uplink(slot, ip.source, ip.payload, now, &self.unknown));
                }
            }
            let parts: Vec<(usize, Parts<'_>)> = {
                let paths = read(&self.paths);
                pdus.iter()
                    .map(|(entry, _, pdu)| {
                        let limit = self.uplink_max(&paths, entry.session.upf);
                        (limit, Parts::new(pdu, limit))
                    })
                    .collect()
            };
            let mut out = Vec::with_capacity(pdus.len());
            for ((entry, container, pdu), (limit, parts)) in pdus.iter().zip(&parts) {
                let limit = *limit;
                if parts.too_long(limit) && self.refuse(entry, Direction::Uplink, pdu, limit) {
                    continue;
                }
                let to = SocketAddr::new(entry.session.upf, gtpu::PORT);
                for part in parts.iter() {
                    let teid = entry.session.ul_teid;
                    match gtpu::g_pdu_header(teid, *container, part.len()) {
                        Some(header) => {
                            entry.count(container.qfi, Direction::Uplink, part.len());
                            out.push(Outgoing {
                                to,
                                dscp: entry.session.n3_dscp(container.qfi),
                                header,
                                header_len: header.len(),
                                payload: part,
                            });
                        }
                        None => {
                            entry.counters.malformed.fetch_add(1, Relaxed);
                        }
                    }
                }
            }
            let refused = send(self.gtp.as_fd(), &out);
            self.unknown.send_failed.fetch_add(refused, Relaxed);
        }
    }

    fn uplink_max(&self, paths: &Paths, upf: IpAddr) -> usize {
        usize::from(paths.mtu(upf)).saturating_sub(n3_overhead(self.config.gtp.ip()))
    }

    /// N3: G-PDUs down to GRE, and what belongs to the path.
    fn serve_n3(&self, stop: &Stop, room: Room) {
        let limit = usize::from(self.config.tunnel_mtu).saturating_sub(GRE_OVERHEAD);
        let mut receiver = Receiver::new(room);
        while stop.wait(self.gtp.as_fd()) {
            let received = match receiver.receive(self.gtp.as_fd()) {
                Ok(received) => received,
                Err(error) => {
                    transient(&error);
                    continue;
                }
            };
            let now = self.now();
            let mut pdus = Vec::with_capacity(received);
            for (from, datagram) in receiver.datagrams(received) {
                match Message::decode(datagram) {
                    Ok(message) if message.header.kind == MessageType::GPdu => {
                        let found = read(&self.table).downlink(
                            from.ip(),
                            &message.header,
                            message.payload.len(),
                            now,
                            &self.unknown,
                        );
                        match found {
                            Ok(found) => {
                                pdus.extend(
                                    found.map(|(entry, gre)| (entry, gre, message.payload)),
                                );
                            }
                            Err(UnknownTeid) => self.indicate_error(from, message.header.teid),
                        }
                    }
                    Ok(message) => self.path_message(from, &message),
                    Err(DecodeError::RequiredExtension(extension)) => {
                        debug!(%from, %extension, "G-PDU refused");
                        self.unknown.malformed.fetch_add(1, Relaxed);
                        self.answer(
                            from,
                            &gtpu::supported_extension_headers(self.next_sequence()),
                        );
                    }
                    Err(error) => {
                        debug!(%from, %error, "datagram on N3 dropped");
                        self.unknown.malformed.fetch_add(1, Relaxed);
                    }
                }
            }
            self.send_gre(&pdus, limit);
        }
    }

    /// Nanoseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether a PDU that does not fit must not be fragmented. Its sender is told then, by a packet
    /// the other way; `false`: the outer packet is fragmented.
    fn refuse(&self, entry: &Entry, direction: Direction, pdu: &[u8], limit: usize) -> bool {
        let Some(answer) = too_big::answer(pdu, limit) else {
            return false;
        };
        entry.counters.too_big.fetch_add(1, Relaxed);
        let octets = u32::try_from(answer.len()).unwrap_or(u32::MAX);
        if self.answers.admit(octets, self.now()) {
            match direction {
                Direction::Uplink => self.answer_down(entry, &answer),
                Direction::Downlink => self.answer_up(entry, &answer),
            }
        }
        true
    }

    /// A packet of our own to the sender of a downlink PDU, through the session.
    fn answer_up(&self, entry: &Entry, packet: &[u8]) {
        let container = PduSessionContainer {
            direction: Direction::Uplink,
            qfi: entry.session.default_qfi,
            rqi: false,
        };
        let teid = entry.session.ul_teid;
        if let Some(header) = gtpu::g_pdu_header(teid, container, packet.len()) {
            let out = Outgoing {
                to: SocketAddr::new(entry.session.upf, gtpu::PORT),
                dscp: entry.session.n3_dscp(container.qfi),
                header,
                header_len: header.len(),
                payload: packet,
            };
            let refused = send(self.gtp.as_fd(), &[out]);
            self.unknown.send_failed.fetch_add(refused, Relaxed);
        }
    }

    /// A packet of our own to the UE.
    fn answer_down(&self, entry: &Entry, packet: &[u8]) {
        let gre = GreHeader {
            qfi: Some(entry.session.default_qfi),
            rqi: false,
        };
        let encoded = gre.encode(self.config.gre_protocol);
        let mut header = [0; 16];
        if let Some(place) = header.first_chunk_mut() {
            *place = encoded;
        }
        let sockets = read(&self.gre);
        if let Some(socket) = sockets.get(&entry.home(entry.session.default_qfi)) {
            let out = Outgoing {
                to: SocketAddrV4::new(entry.session.ue_inner, 0).into(),
                dscp: entry.session.tunnel_dscp(entry.session.default_qfi),
                header,
                header_len: encoded.len(),
                payload: packet,
            };
            let refused = send(socket.as_fd(), &[out]);
            self.unknown.send_failed.fetch_add(refused, Relaxed);
        }
    }

    fn send_gre(&self, pdus: &[(Arc<Entry>, GreHeader, &[u8])], limit: usize) {
        let sockets = read(&self.gre);
        let parts: Vec<Parts<'_>> = pdus
            .iter()
            .map(|(_, _, pdu)| Parts::new(pdu, limit))
            .collect();
        for (slot, socket) in sockets.iter() {
            let mut out = Vec::new();
            for ((entry, gre, pdu), parts) in pdus.iter().zip(&parts) {
                if entry.home(gre.qfi.unwrap_or(entry.session.default_qfi)) != *slot {
                    continue;
                }
                if parts.too_long(limit) && self.refuse(entry, Direction::Downlink, pdu, limit) {
                    continue;
                }
                let mut header = [0; 16];
                let encoded = gre.encode(self.config.gre_protocol);
                if let Some(place) = header.first_chunk_mut() {
                    *place = encoded;
                }
                let to = SocketAddrV4::new(entry.session.ue_inner, 0).into();
                for payload in parts.iter() {
                    let qfi = gre.qfi.unwrap_or(entry.session.default_qfi);
                    entry.count(qfi, Direction::Downlink, payload.len());
                    out.push(Outgoing {
                        to,
                        dscp: entry.session.tunnel_dscp(qfi),
                        header,
                        header_len: encoded.len(),
                        payload,
                    });
                }
            }
            let refused = send(socket.as_fd(), &out);
            self.unknown.send_failed.fetch_add(refused, Relaxed);
        }
    }

    /// Everything on N3 that is no G-PDU (TS 29.281 clauses 7.2 and 7.3).
    fn path_message(&self, from: SocketAddr, message: &Message<'_>) {
        match message.header.kind {
            MessageType::EchoRequest => {
                let sequence = message.header.sequence.unwrap_or(0);
                self.answer(from, &gtpu::echo_response(sequence));
            }
            MessageType::ErrorIndication => match ErrorIndication::decode(message.payload) {
                Ok(indication) => {
                    let found = read(&self.table).by_ul_teid(from.ip(), indication.teid);
                    if let Some(dl_teid) = found {
                        let mut events = lock(&self.events);
                        if events.len() < MAX_EVENTS {
                            events.push_back(AccessEvent::TunnelUnknown { dl_teid });
                        }
                    }
                }
                Err(error) => {
                    debug!(%from, %error, "Error Indication dropped");
                    self.unknown.malformed.fetch_add(1, Relaxed);
                }
            },
            // No path switch ends at an N3IWF, so an End Marker tells nothing new.
            other => debug!(%from, ?other, "message on N3 ignored"),
        }
    }

    fn indicate_error(&self, from: SocketAddr, teid: u32) {
        let indication = ErrorIndication {
            teid,
            peer: self.config.gtp.ip(),
        };
        // The sender's address with its zone, if it has one.
        let mut to = from;
        to.set_port(gtpu::PORT);
        self.answer(to, &indication.encode(self.next_sequence()));
    }

    fn next_sequence(&self) -> u16 {
        self.sequence.fetch_add(1, Relaxed)
    }

    fn answer(&self, to: SocketAddr, octets: &[u8]) {
        let answer = Outgoing {
            to,
            dscp: 0,
            header: [0; 16],
            header_len: 0,
            payload: octets,
        };
        let refused = send(self.gtp.as_fd(), &[answer]);
        self.unknown.send_failed.fetch_add(refused, Relaxed);
    }
}

/// What the kernel reports about one datagram ends nothing.
pub(super) fn transient(error: &io::Error) {
    if !matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    ) {
        warn!(%error, "relay socket");
    }
}

/// A thread that reads packets of others and has no right but to the sockets it is given.
pub(super) fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, Error> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
                if let Err(error) = caps::clear(None, set) {
                    warn!(%error, "a relay keeps its capabilities");
                }
            }
            run();
        })
        .map_err(|error| Error::io(format!("starting thread {name}"), error))
}

/// No code between lock and unlock leaves a value half changed, so a poisoned lock is still good.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
