//! The kernel relay between namespaces, with a veth where the XFRM interface would be: GRE in
//! clear, so that no ESP is needed. Needs root and the object of `cargo xtask build`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test fails by panicking"
)]

mod support;
#[path = "support/world.rs"]
mod world;

use std::{
    io::{Read, Write},
    net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use dataplane::relay::{AccessRelay, KernelRelay, Path, UeRelay};
use gtpu::{Message, MessageType};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use nwu::GreHeader;
use socket2::{Domain, Socket, Type};
use support::{is_root, object, skip};
use world::{
    DL_TEID, HOST, N3IWF, N3IWF_INNER, PDU_ADDRESS, QFI, UL_TEID, Upf, World, attach, datagram,
    downlink, pdu, raw, retransmissions, session, uplink,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// Less than the smallest socket buffer on the way, so that no packet is lost but by the relay.
const WINDOW: usize = 96 << 10;
const AMOUNT: usize = 64 << 20;
/// Segments that may be sent again though nothing is lost: an emulated processor is late for a timer
/// now and then.
const LATE: u64 = 2;

fn ready() -> bool {
    if !is_root() {
        skip("the relay needs root");
    } else if object().is_none() {
        skip("there is no eBPF object: run `cargo xtask build`");
    } else {
        return true;
    }
    false
}

fn start(world: &World) -> KernelRelay {
    let config = world.relay_config();
    world.n3iwf.run(|| {
        let relay = KernelRelay::start(config).unwrap();
        relay.add(session("access")).unwrap();
        relay
    })
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The octets of the stream from `at` on: no two blocks of it are the same.
fn stream(at: usize, room: &mut [u8]) {
    for (n, octet) in room.iter_mut().enumerate() {
        let place = (at + n) as u64;
        let mixed = (place / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *octet = mixed.to_le_bytes()[(place % 8) as usize];
    }
}

fn send(mut connection: &TcpStream) {
    let mut block = vec![0; 256 << 10];
    let mut sent = 0;
    while sent < AMOUNT {
        stream(sent, &mut block);
        connection.write_all(&block).unwrap();
        sent += block.len();
    }
    connection.shutdown(std::net::Shutdown::Write).unwrap();
}

fn receive(mut connection: &TcpStream) {
    let (mut block, mut expected) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    let mut received = 0;
    loop {
        let len = connection.read(&mut block).unwrap();
        if len == 0 {
            break;
        }
        stream(received, &mut expected[..len]);
        assert!(block[..len] == expected[..len], "octets at {received}");
        received += len;
    }
    assert_eq!(received, AMOUNT);
}

/// Connects the UE to the host, both with a small window.
fn connect(world: &World) -> (TcpStream, TcpStream) {
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(WINDOW / 2).unwrap();
        socket
    };
    let listener = world.core.run(|| {
        let socket = open();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((HOST, 9000)).into()).unwrap();
        socket.listen(1).unwrap();
        TcpListener::from(socket)
    });
    let ue = world.ue.run(|| {
        let socket = open();
        let to = SocketAddr::from((HOST, 9000)).into();
        socket.connect_timeout(&to, PATIENCE).unwrap();
        TcpStream::from(socket)
    });
    let host = listener.accept().unwrap().0;
    for connection in [&ue, &host] {
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (ue, host)
}

#[test]
fn tcp_is_identical_both_ways_and_never_leaves_the_kernel() {
    if !ready() {
        return;
    }
    // On one processor: threads of the ends that move between two overtake their own packets.
    let mut one = CpuSet::new();
    one.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
    let world = World::new();
    for end in [&world.ue, &world.core] {
        // No tail loss probes: they come early where a process of the ends waits for its turn.
        end.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_early_retrans", "0").unwrap());
    }
    let relay = start(&world);
    let ue = attach(&world, "access");
    let upf = Upf::start(&world.core);
    for (direction, upload) in [("upload", true), ("download", false)] {
        let (at_ue, at_host) = connect(&world);
        let (from, to) = if upload {
            (at_ue, at_host)
        } else {
            (at_host, at_ue)
        };
        let begin = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| send(&from));
            receive(&to);
        });
        let seconds = begin.elapsed().as_secs_f64();
        let again = retransmissions(&[&world.ue, &world.core]);
        println!(
            "{direction}: 64 MiB in {seconds:.1} s, {:.0} Mbit/s, {again} segments sent again",
            AMOUNT as f64 * 8e-6 / seconds,
        );
        assert!(again <= LATE, "{direction}: {again} segments sent again");
    }
    let reading = relay.readings().remove(0);
    assert_eq!(reading.path, Path::Kernel);
    let at_ue = ue.readings().remove(0);
    assert_eq!(
        (reading.uplink, reading.downlink),
        (at_ue.uplink, at_ue.downlink)
    );
    // Every packet that an end sent arrived at the other.
    let [up, down] = &*upf.packets;
    assert_eq!(reading.uplink.packets, up.load(Relaxed));
    assert_eq!(reading.downlink.packets, down.load(Relaxed));
    assert!(reading.uplink.bytes > AMOUNT as u64 && reading.downlink.bytes > AMOUNT as u64);
    // Nothing of it was left to user space; ARP is "other".
    for reasons in relay.reasons().unwrap() {
        let left: Vec<_> = reasons
            .named()
            .into_iter()
            .filter(|(name, count)| *name != "other" && *count > 0)
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    world.ue.run(|| ue.remove(5)).unwrap();
}

#[test]
fn what_the_kernel_leaves_user_space_serves() {
    if !ready() {
        return;
    }
    let world = World::new();
    let relay = start(&world);
    let (gre, upf) = world.ends("access");
    let to_n3iwf = SocketAddrV4::new(N3IWF_INNER, 0).into();
    let at = (N3IWF, gtpu::PORT);

    // The path.
    upf.send_to(&gtpu::echo_request(7), at).unwrap();
    assert_eq!(datagram(&upf), gtpu::echo_response(7));
    upf.send_to(&downlink(0x99, QFI, &pdu(HOST, PDU_ADDRESS, 100)), at)
        .unwrap();
    let answer = datagram(&upf);
    let message = Message::decode(&answer).unwrap();
    assert_eq!(message.header.kind, MessageType::ErrorIndication);

    // The small ones go through the kernel, both ways.
    for len in [28, 500, 1358] {
        gre.send_to(&uplink(10, &pdu(PDU_ADDRESS, HOST, len)), &to_n3iwf)
            .unwrap();
        let octets = datagram(&upf);
        let message = Message::decode(&octets).unwrap();
        assert_eq!(message.header.teid, UL_TEID);
        assert_eq!(message.header.container.unwrap().qfi, 10);
        assert_eq!(message.payload, pdu(PDU_ADDRESS, HOST, len));
        upf.send_to(&downlink(DL_TEID, QFI, &pdu(HOST, PDU_ADDRESS, len)), at)
            .unwrap();
        let octets = raw(&gre);
        let (header, payload) = GreHeader::decode(&octets[20..]).unwrap();
        assert_eq!((header.qfi, header.rqi), (Some(QFI), true));
        assert_eq!(payload, pdu(HOST, PDU_ADDRESS, len));
    }
    let [up, down] = relay.reasons().unwrap();
    assert_eq!((up.too_big, up.fragment, down.too_big), (0, 0, 0));
    assert_eq!((down.signalling, down.no_session), (1, 1));

    // A large one down is fragmented by user space; one up comes in fragments.
    upf.send_to(&downlink(DL_TEID, QFI, &pdu(HOST, PDU_ADDRESS, 1400)), at)
        .unwrap();
    assert_eq!(raw(&gre)[28..], pdu(HOST, PDU_ADDRESS, 1400));
    gre.send_to(&uplink(QFI, &pdu(PDU_ADDRESS, HOST, 3000)), &to_n3iwf)
        .unwrap();
    let octets = datagram(&upf);
    assert_eq!(
        Message::decode(&octets).unwrap().payload,
        pdu(PDU_ADDRESS, HOST, 3000)
    );
    let [up, down] = relay.reasons().unwrap();
    assert_eq!((up.fragment, down.too_big), (3, 1));

    // Another session's flow is counted where it is dropped: in user space.
    gre.send_to(&uplink(11, &pdu(PDU_ADDRESS, HOST, 100)), &to_n3iwf)
        .unwrap();
    eventually("the flow is refused", || {
        relay.readings()[0].drops.qfi_not_allowed == 1
    });
    assert_eq!(relay.reasons().unwrap()[0].qfi_not_allowed, 1);

    // One reading for both halves.
    let reading = &relay.readings()[0];
    assert_eq!((reading.uplink.packets, reading.downlink.packets), (4, 4));
    assert_eq!(reading.uplink.bytes, 28 + 500 + 1358 + 3000);
    assert_eq!(reading.downlink.bytes, 28 + 500 + 1358 + 1400);

    // A session that goes leaves nothing in the kernel.
    let last = world.n3iwf.run(|| relay.remove(DL_TEID)).unwrap();
    assert_eq!((last.uplink.packets, last.path), (4, Path::Kernel));
    let before = relay.reasons().unwrap();
    gre.send_to(&uplink(QFI, &pdu(PDU_ADDRESS, HOST, 100)), &to_n3iwf)
        .unwrap();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(
        relay.reasons().unwrap(),
        before,
        "no program hangs on the interface"
    );
    let pins = world.pins();
    assert!(pins.join("relay_ul").exists());
    world.n3iwf.run(|| drop(relay));
    assert!(!pins.exists(), "no pin is left");
}

#[test]
fn a_session_the_kernel_cannot_serve_says_so_and_works() {
    if !ready() {
        return;
    }
    let world = World::new();
    let (gre, upf) = world.ends("access");
    let serve = |config, interface: Option<&str>| {
        world.n3iwf.run(|| {
            let relay = KernelRelay::start(config).unwrap();
            let mut session = session("access");
            session.interface = interface.map(str::to_owned);
            relay.add(session).unwrap();
            relay.bind(DL_TEID, 1);
            assert_eq!(relay.readings()[0].path, Path::User);
            let packet = uplink(QFI, &pdu(PDU_ADDRESS, HOST, 100));
            gre.send_to(&packet, &SocketAddrV4::new(N3IWF_INNER, 0).into())
                .unwrap();
            let octets = datagram(&upf);
            assert_eq!(Message::decode(&octets).unwrap().header.teid, UL_TEID);
            assert_eq!(relay.readings()[0].uplink.packets, 1);
            drop(relay);
        });
    };
    // No interface; an interface that is no XFRM interface; no room.
    serve(world.relay_config(), None);
    let mut config = world.relay_config();
    config.clear_access = false;
    serve(config, Some("access"));
    // Without the programs nothing starts, and nothing stays open.
    let mut config = world.relay_config();
    config.object = "/nonexistent".into();
    let refused = world.n3iwf.run(|| KernelRelay::start(config).err());
    assert!(refused.unwrap().to_string().contains("/nonexistent"));
}
