//! An access network, an N3IWF and a core in three namespaces, GRE in clear on the access side.
#![allow(dead_code, reason = "each target uses its part")]

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use dataplane::relay::{AccessSession, GtpRelayConfig, KernelRelayConfig};
use gtpu::{Direction, Message, MessageType, PduSessionContainer, encode_g_pdu};
use nix::poll::{PollFd, PollFlags, poll};
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

    /// UE and N3IWF are not connected yet.
    pub(crate) fn without_access() -> Self {
        let (ue, n3iwf, core) = (Space::new("u"), Space::new("n"), Space::new("c"));
        join((&n3iwf, N3IWF), (&core, UPF), "n3");
        Self { ue, n3iwf, core }
    }

    /// Pins of the relay under test.
    pub(crate) fn pins(&self) -> PathBuf {
        crate::support::pin_dir(&self.n3iwf)
    }

    pub(crate) fn relay_config(&self) -> KernelRelayConfig {
        KernelRelayConfig {
            user: GtpRelayConfig {
                gtp: SocketAddrV4::new(N3IWF, gtpu::PORT),
                up_address: N3IWF_INNER,
                n3_mtu: 1500,
                tunnel_mtu: 1386,
                gre_protocol: 0,
            },
            object: object().unwrap(),
            pin_dir: self.pins(),
            max_sessions: 64,
            reqid_base: 0,
            clear_access: true,
        }
    }
}

pub(crate) fn session(interface: &str) -> AccessSession {
    AccessSession {
        dl_teid: DL_TEID,
        ul_teid: UL_TEID,
        upf: UPF,
        ue_inner: UE_INNER,
        pdu_session: 5,
        qfis: vec![QFI, 10],
        default_qfi: QFI,
        slot: 0,
        interface: Some(interface.into()),
    }
}

/// A UPF of one session: a TUN device is its data network.
pub(crate) struct Upf {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Upf {
    /// Starts in the core, with `HOST` as the address of the data network's only host.
    pub(crate) fn start(core: &Space) -> Self {
        let (device, socket) = core.run(|| {
            let device = DeviceBuilder::new()
                .name("dn")
                .mtu(1400)
                .build_sync()
                .unwrap();
            device.set_nonblocking(true).unwrap();
            let socket = UdpSocket::bind((UPF, gtpu::PORT)).unwrap();
            socket.set_nonblocking(true).unwrap();
            (Arc::new(device), Arc::new(socket))
        });
        core.ip(&["address", "add", &format!("{HOST}/24"), "dev", "dn"]);
        core.ip(&["link", "set", "dn", "up", "txqueuelen", "10000"]);
        core.ip(&["route", "add", "10.60.0.0/16", "dev", "dn"]);
        let stop = Arc::new(AtomicBool::new(false));
        let up = {
            let (device, socket, stop) = (device.clone(), socket.clone(), stop.clone());
            std::thread::spawn(move || uplink(&device, &socket, &stop))
        };
        let down = {
            let stop = stop.clone();
            std::thread::spawn(move || downlink(&device, &socket, &stop))
        };
        Self {
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

fn uplink(device: &SyncDevice, socket: &UdpSocket, stop: &AtomicBool) {
    let mut room = vec![0; 65_536];
    while !stop.load(Relaxed) {
        match socket.recv(&mut room) {
            Ok(len) => {
                let Ok(message) = Message::decode(&room[..len]) else {
                    continue;
                };
                if message.header.kind == MessageType::GPdu && message.header.teid == UL_TEID {
                    let _ = device.send(message.payload);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => readable(socket.as_fd()),
            Err(_) => {}
        }
    }
}

fn downlink(device: &SyncDevice, socket: &UdpSocket, stop: &AtomicBool) {
    let container = PduSessionContainer {
        direction: Direction::Downlink,
        qfi: QFI,
        rqi: false,
    };
    let mut room = vec![0; 65_536];
    while !stop.load(Relaxed) {
        match device.recv(&mut room) {
            Ok(len) => {
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

/// TCP segments sent again in a namespace since it was made.
pub(crate) fn retransmissions(space: &Space) -> u64 {
    let text = space.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let names = lines.next().unwrap().split_whitespace();
    let values = lines.next().unwrap().split_whitespace();
    names
        .zip(values)
        .find(|(name, _)| *name == "RetransSegs")
        .unwrap()
        .1
        .parse()
        .unwrap()
}
