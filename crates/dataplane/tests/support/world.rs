//! An access network, an N3IWF and a core in three namespaces, GRE in clear on the access side.
#![allow(dead_code, reason = "each target uses its part")]

use std::{
    io::{self, Read},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use dataplane::relay::{
    AccessSession, GtpRelayConfig, KernelRelayConfig, TunRelay, TunRelayConfig, UeRelay, UeSession,
    UplinkRules,
};
use gtpu::{Direction, Message, MessageType, PduSessionContainer, encode_g_pdu};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::RcvBufForce},
};
use nwu::GreHeader;
use socket2::{Domain, Protocol, Socket, Type};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::support::{Space, object};

pub(crate) const N3IWF_INNER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const UE_INNER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
pub(crate) const N3IWF: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(crate) const UPF: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);
pub(crate) const PDU_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 7);
pub(crate) const UL_TEID: u32 = 0x0a0b_0c0d;
pub(crate) const DL_TEID: u32 = 0x7000_0001;
pub(crate) const QFI: u8 = 9;

/// N3 over IPv6 too, where a test asks for it.
pub(crate) const N3IWF6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 1);
pub(crate) const UPF6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2);

const PATIENCE: Duration = Duration::from_secs(20);

/// Three namespaces: `access` is a veth between UE and N3IWF, `n3` one between N3IWF and core.
pub(crate) struct World {
    pub(crate) ue: Space,
    pub(crate) n3iwf: Space,
    pub(crate) core: Space,
}

fn join(left: (&Space, Ipv4Addr), right: (&Space, Ipv4Addr), name: &str) {
    let peer = &right.0.name;
    left.0.ip(&[
        "link", "add", name, "type", "veth", "peer", "name", name, "netns", peer,
    ]);
    for (space, address) in [left, right] {
        space.run(|| {
            let file = format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode");
            std::fs::write(file, "1").unwrap();
        });
        space.ip(&["address", "add", &format!("{address}/24"), "dev", name]);
        space.ip(&["link", "set", name, "up"]);
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self::without_access();
        join((&world.n3iwf, N3IWF_INNER), (&world.ue, UE_INNER), "access");
        world
    }

    /// Gives N3 the IPv6 addresses; `more` are further ones of the core.
    pub(crate) fn add_n3_ipv6(&self, more: &[Ipv6Addr]) {
        let core = [&[UPF6], more].concat();
        for (space, addresses) in [(&self.n3iwf, vec![N3IWF6]), (&self.core, core)] {
            for address in addresses {
                let prefix = format!("{address}/64");
                space.ip(&["address", "add", &prefix, "dev", "n3", "nodad"]);
                space.delivers(address);
            }
        }
    }

    /// Another way between N3IWF and UE; both answer there for the addresses they have.
    pub(crate) fn add_access(&self, name: &str) {
        let peer = &self.ue.name;
        self.n3iwf.ip(&[
            "link", "add", name, "type", "veth", "peer", "name", name, "netns", peer,
        ]);
        for space in [&self.n3iwf, &self.ue] {
            space.run(|| {
                let file = format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode");
                std::fs::write(file, "1").unwrap();
            });
            space.ip(&["link", "set", name, "up"]);
        }
    }

    /// A raw GRE socket at the UE.
    pub(crate) fn gre_at_ue(&self, interface: &str) -> Socket {
        self.ue.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(47))).unwrap();
            socket.bind_device(Some(interface.as_bytes())).unwrap();
            socket.bind(&SocketAddrV4::new(UE_INNER, 0).into()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        })
    }

    /// UE and N3IWF are not connected yet.
    pub(crate) fn without_access() -> Self {
        let (ue, n3iwf, core) = (Space::new("u"), Space::new("n"), Space::new("c"));
        join((&n3iwf, N3IWF), (&core, UPF), "n3");
        Self { ue, n3iwf, core }
    }

    /// A raw GRE socket at the UE, on `interface`, and the UPF's socket.
    pub(crate) fn ends(&self, interface: &str) -> (Socket, UdpSocket) {
        let gre = self.gre_at_ue(interface);
        let upf = self
            .core
            .run(|| UdpSocket::bind((UPF, gtpu::PORT)).unwrap());
        upf.set_read_timeout(Some(PATIENCE)).unwrap();
        (gre, upf)
    }

    /// Pins of the relay under test.
    pub(crate) fn pins(&self) -> PathBuf {
        crate::support::pin_dir(&self.n3iwf)
    }

    pub(crate) fn relay_config(&self) -> KernelRelayConfig {
        relay_config(self.pins())
    }
}

/// A relay for the world, with pins there.
pub(crate) fn relay_config(pin_dir: PathBuf) -> KernelRelayConfig {
    KernelRelayConfig {
        user: user_config(),
        object: object().unwrap(),
        pin_dir,
        max_sessions: 64,
        reqid_base: 0,
        clear_access: true,
    }
}

/// The same in user space.
pub(crate) fn user_config() -> GtpRelayConfig {
    GtpRelayConfig {
        gtp: (N3IWF, gtpu::PORT).into(),
        up_address: N3IWF_INNER,
        n3_mtu: 1500,
        tunnel_mtu: 1386,
        gre_protocol: 0,
    }
}

pub(crate) fn session(interface: &str) -> AccessSession {
    AccessSession {
        dl_teid: DL_TEID,
        ul_teid: UL_TEID,
        upf: UPF.into(),
        ue_inner: UE_INNER,
        pdu_session: 5,
        qfis: vec![QFI, 10],
        default_qfi: QFI,
        slot: 0,
        interface: Some(interface.into()),
        further: Vec::new(),
        ue: 1,
        session_ambr: None,
        ue_ambr: None,
        dscp: 0,
        n3_dscp: std::collections::BTreeMap::new(),
    }
}

/// A UPF of one session: a TUN device is its data network.
pub(crate) struct Upf {
    /// G-PDUs of the session that arrived, and that were sent.
    pub(crate) packets: Arc<[AtomicU64; 2]>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Upf {
    /// Starts in the core, with `HOST` as the address of the data network's only host.
    pub(crate) fn start(core: &Space) -> Self {
        let (device, socket) = core.run(|| {
            // No router solicitations into the tunnel.
            std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
            let device = DeviceBuilder::new()
                .name("dn")
                .mtu(1400)
                .build_sync()
                .unwrap();
            device.set_nonblocking(true).unwrap();
            let socket = UdpSocket::bind((UPF, gtpu::PORT)).unwrap();
            socket.set_nonblocking(true).unwrap();
            // A thread that does not get its turn loses nothing of a window.
            setsockopt(&socket, RcvBufForce, &(8 << 20)).unwrap();
            (Arc::new(device), Arc::new(socket))
        });
        core.ip(&["address", "add", &format!("{HOST}/24"), "dev", "dn"]);
        core.ip(&["link", "set", "dn", "up", "txqueuelen", "10000"]);
        core.ip(&["route", "add", "10.60.0.0/16", "dev", "dn"]);
        let stop = Arc::new(AtomicBool::new(false));
        let packets = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let up = {
            let (device, socket) = (device.clone(), socket.clone());
            let (stop, packets) = (stop.clone(), packets.clone());
            std::thread::spawn(move || to_network(&device, &socket, &stop, &packets[0]))
        };
        let down = {
            let (stop, packets) = (stop.clone(), packets.clone());
            std::thread::spawn(move || to_access(&device, &socket, &stop, &packets[1]))
        };
        Self {
            packets,
            stop,
            threads: vec![up, down],
        }
    }
}

impl Drop for Upf {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Waits a little for something to read.
fn readable(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let _ = poll(&mut fds, 50u8);
}

fn to_network(device: &SyncDevice, socket: &UdpSocket, stop: &AtomicBool, count: &AtomicU64) {
    let mut room = vec![0; 65_536];
    while !stop.load(Relaxed) {
        match socket.recv(&mut room) {
            Ok(len) => {
                let Ok(message) = Message::decode(&room[..len]) else {
                    continue;
                };
                if message.header.kind == MessageType::GPdu && message.header.teid == UL_TEID {
                    count.fetch_add(1, Relaxed);
                    let _ = device.send(message.payload);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => readable(socket.as_fd()),
            Err(_) => {}
        }
    }
}

fn to_access(device: &SyncDevice, socket: &UdpSocket, stop: &AtomicBool, count: &AtomicU64) {
    let container = PduSessionContainer {
        direction: Direction::Downlink,
        qfi: QFI,
        rqi: false,
    };
    let mut room = vec![0; 65_536];
    while !stop.load(Relaxed) {
        match device.recv(&mut room) {
            Ok(len) => {
                count.fetch_add(1, Relaxed);
                let datagram = encode_g_pdu(DL_TEID, container, &room[..len]).unwrap();
                while let Err(error) = socket.send_to(&datagram, (N3IWF, gtpu::PORT)) {
                    if error.kind() != io::ErrorKind::WouldBlock || stop.load(Relaxed) {
                        break;
                    }
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => readable(device.as_fd()),
            Err(_) => {}
        }
    }
}

/// TCP segments sent again in these namespaces since they were made.
pub(crate) fn retransmissions(spaces: &[&Space]) -> u64 {
    let of = |space: &&Space| counter(space, "snmp", "Tcp:", "RetransSegs");
    spaces.iter().map(of).sum()
}

/// One number of a file below `/proc/net`.
pub(crate) fn counter(space: &Space, file: &str, group: &str, name: &str) -> u64 {
    let path = format!("/proc/thread-self/net/{file}");
    let text = space.run(|| std::fs::read_to_string(path).unwrap());
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let names = lines.next().unwrap().split_whitespace();
    let values = lines.next().unwrap().split_whitespace();
    let found = names.zip(values).find(|(found, _)| *found == name);
    found.unwrap().1.parse().unwrap()
}

/// What the UE's relays are told in every test.
pub(crate) const TUNNEL: TunRelayConfig = TunRelayConfig {
    gre_protocol: 0,
    tunnel_mtu: 1386,
};

/// The UE's end of [`session`].
pub(crate) fn ue_session(interface: &str, rules: UplinkRules) -> UeSession {
    UeSession {
        pdu_session: 5,
        device: "uepdu5".into(),
        address: Some(PDU_ADDRESS),
        interface_id: None,
        mtu: 1358,
        routes: vec!["198.18.0.0/24".parse().unwrap()],
        rules,
        inner_local: UE_INNER,
        up_address: N3IWF_INNER,
        interface: Some(interface.into()),
        dscp: 0,
        further: Vec::new(),
    }
}

/// Attaches a UE by the relay in user space.
pub(crate) fn attach(world: &World, interface: &str) -> TunRelay {
    let relay = TunRelay::new(TUNNEL);
    let session = ue_session(interface, UplinkRules::one(QFI));
    world.ue.run(|| relay.add(session).unwrap());
    world
        .ue
        .ip(&["link", "set", "uepdu5", "txqueuelen", "10000"]);
    relay
}

pub(crate) fn datagram(socket: &UdpSocket) -> Vec<u8> {
    let mut room = vec![0; 65_536];
    let len = socket.recv(&mut room).unwrap();
    room.truncate(len);
    room
}

/// A datagram and the TOS of its IPv4 header, of a socket that asks for it.
pub(crate) fn classed_datagram(socket: &UdpSocket) -> (Vec<u8>, u8) {
    let mut room = vec![0; 65_536];
    let mut vectors = [io::IoSliceMut::new(&mut room)];
    let mut control = nix::cmsg_space!(libc::c_int);
    let fd = socket.as_raw_fd();
    let flags = MsgFlags::empty();
    let got = recvmsg::<()>(fd, &mut vectors, Some(&mut control), flags).unwrap();
    let class = got.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::Ipv4Tos(class) => Some(class),
        _ => None,
    });
    let (len, class) = (got.bytes, class.unwrap());
    room.truncate(len);
    (room, class)
}

pub(crate) fn raw(mut socket: &Socket) -> Vec<u8> {
    let mut room = vec![0; 65_536];
    let len = socket.read(&mut room).unwrap();
    room.truncate(len);
    room
}

/// An IPv4 UDP packet without a UDP checksum.
pub(crate) fn pdu(from: Ipv4Addr, to: Ipv4Addr, len: usize) -> Vec<u8> {
    let mut pdu = vec![0x45, 0];
    pdu.extend((len as u16).to_be_bytes());
    pdu.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    pdu.extend(from.octets());
    pdu.extend(to.octets());
    pdu.extend([0x1f, 0x40, 0x1f, 0x41]);
    pdu.extend((len as u16 - 20).to_be_bytes());
    pdu.extend([0, 0]);
    pdu.resize(len, 0x5a);
    pdu
}

pub(crate) fn uplink(qfi: u8, pdu: &[u8]) -> Vec<u8> {
    let header = GreHeader {
        qfi: Some(qfi),
        rqi: false,
    };
    [&header.encode(0)[..], pdu].concat()
}

pub(crate) fn downlink(teid: u32, qfi: u8, pdu: &[u8]) -> Vec<u8> {
    let container = PduSessionContainer {
        direction: Direction::Downlink,
        qfi,
        rqi: true,
    };
    encode_g_pdu(teid, container, pdu).unwrap()
}
