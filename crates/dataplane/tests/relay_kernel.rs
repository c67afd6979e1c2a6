//! The kernel relay behind real ESP: UE, N3IWF and core in three namespaces.
//!
//! Needs root and a kernel with ESP and XFRM interfaces; skips with a printed reason elsewhere,
//! fails instead when `REQUIRE_KERNEL` is set.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test fails by panicking"
)]

#[path = "support/nwu.rs"]
mod nwu_link;
mod support;
#[path = "support/world.rs"]
mod world;

use std::{
    io::{Read, Write},
    net::{SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::Duration,
};

use dataplane::{
    Dataplane, Role,
    relay::{AccessRelay, KernelRelay, Path, UeRelay},
};
use gtpu::Message;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nwu::GreHeader;
use nwu_link::{IPV4, REQID_BASE, install, plane};
use support::{ready, wait};
use world::{
    DL_TEID, HOST, N3IWF, N3IWF_INNER, PDU_ADDRESS, QFI, UE_INNER, UL_TEID, Upf, World, attach,
    datagram, downlink, pdu, raw, session, uplink,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Amount of the TCP transfer: emulated processors are slow ciphers.
const AMOUNT: usize = 1 << 20;

/// Everything on NWu, both directions, seen from the UE's end.
struct Wire(OwnedFd);

impl Wire {
    fn tap(world: &World) -> Self {
        Self(world.ue.run(|| {
            let fd = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
            .unwrap();
            let _ = setsockopt(&fd, sockopt::RcvBufForce, &(64 << 20));
            fd
        }))
    }

    /// Takes what was seen: every IP packet has to be ESP. Returns how many were.
    fn only_esp(&self) -> usize {
        let mut room = vec![0; 65_536];
        let mut seen = 0;
        while let Ok(len) = recv(self.0.as_raw_fd(), &mut room, MsgFlags::empty()) {
            let frame = &room[..len];
            // The XFRM interface and the TUN device have no Ethernet header: only NWu has.
            let ether = frame.len() > 34 && frame[12..14] == [8, 0] && frame[14] >> 4 == 4;
            let nwu = ether && frame[26..29] == [192, 0, 2] && frame[30..33] == [192, 0, 2];
            if !nwu {
                continue;
            }
            assert_eq!(frame[23], 50, "on NWu in clear: {frame:x?}");
            let clear = frame.windows(16).any(|octets| octets == [0x5a; 16]);
            assert!(!clear, "the PDU shows: {frame:x?}");
            seen += 1;
        }
        seen
    }
}

#[test]
fn gre_goes_through_esp_and_kernel_both_ways() {
    if !ready() {
        return;
    }
    let world = IPV4.world();
    let (n3iwf, ue) = (plane(&world, Role::N3iwf), plane(&world, Role::Ue));
    let mut config = world.relay_config();
    config.clear_access = false;
    config.reqid_base = REQID_BASE;
    let relay = world.n3iwf.run(|| KernelRelay::start(config).unwrap());
    install(&world, &ue, Role::Ue, IPV4.child_sa(Role::Ue, 1, UE_INNER));
    install(
        &world,
        &n3iwf,
        Role::N3iwf,
        IPV4.child_sa(Role::N3iwf, 1, UE_INNER),
    );
    world.n3iwf.run(|| {
        relay.add(session("xfrmi")).unwrap();
        assert_eq!(
            relay.readings()[0].path,
            Path::User,
            "no Child SA is known yet"
        );
        relay.bind(DL_TEID, 1);
        assert_eq!(relay.readings()[0].path, Path::Kernel);
    });
    let wire = Wire::tap(&world);
    let to_n3iwf = SocketAddrV4::new(N3IWF_INNER, 0).into();
    let n3 = (N3IWF, gtpu::PORT);
    {
        let (gre, upf) = world.ends("xfrmi");
        let sizes = [28, 500, 1000, 1358];
        for len in sizes {
            gre.send_to(&uplink(10, &pdu(PDU_ADDRESS, HOST, len)), &to_n3iwf)
                .unwrap();
            let octets = datagram(&upf);
            let message = Message::decode(&octets).unwrap();
            assert_eq!(message.header.teid, UL_TEID);
            assert_eq!(message.header.container.unwrap().qfi, 10);
            assert_eq!(message.payload, pdu(PDU_ADDRESS, HOST, len));
            upf.send_to(&downlink(DL_TEID, QFI, &pdu(HOST, PDU_ADDRESS, len)), n3)
                .unwrap();
            let octets = raw(&gre);
            let (header, payload) = GreHeader::decode(&octets[20..]).unwrap();
            assert_eq!((header.qfi, header.rqi), (Some(QFI), true));
            assert_eq!(payload, pdu(HOST, PDU_ADDRESS, len));
        }
        let reading = &relay.readings()[0];
        assert_eq!((reading.uplink.packets, reading.downlink.packets), (4, 4));
        for reasons in relay.reasons().unwrap() {
            let left: u64 = reasons.named().iter().skip(1).map(|(_, count)| count).sum();
            assert_eq!(left, 0, "{reasons:?}");
        }
        // The kernel's SA, its accounting and the relay agree: 28 octets of IP and GRE a packet.
        let sa = world
            .n3iwf
            .run(|| wait(n3iwf.readings()).unwrap())
            .remove(0);
        assert_eq!((sa.kernel_in.packets, sa.kernel_out.packets), (4, 4));
        assert_eq!(sa.kernel_in.bytes, reading.uplink.bytes + 4 * 28);
        assert_eq!(sa.kernel_out.bytes, reading.downlink.bytes + 4 * 28);
        // Up all was of QFI 10, down of the other one.
        let flows: Vec<_> = reading
            .flows
            .iter()
            .map(|flow| (flow.qfi, flow.uplink, flow.downlink))
            .collect();
        let none = dataplane::Traffic::default();
        assert_eq!(
            flows,
            [(QFI, none, reading.downlink), (10, reading.uplink, none)]
        );
        assert!(reading.flows.iter().all(|flow| flow.last_seen.is_some()));
        assert_eq!(sa.ebpf_in.unwrap().packets, 4);
        assert_eq!(wire.only_esp(), 8);

        // What does not fit goes by user space, and is protected too.
        upf.send_to(&downlink(DL_TEID, QFI, &pdu(HOST, PDU_ADDRESS, 1400)), n3)
            .unwrap();
        assert_eq!(raw(&gre)[28..], pdu(HOST, PDU_ADDRESS, 1400));
        assert_eq!(relay.reasons().unwrap()[1].too_big, 1);
        assert_eq!(wire.only_esp(), 2, "two fragments");
    }
    tcp(&world);
    assert!(wire.only_esp() > 2 * AMOUNT / 1358);

    let (gre, upf) = world.ends("xfrmi");
    // Another Child SA of the N3IWF, whose peer pretends to be the session's UE.
    let other = std::net::Ipv4Addr::new(10, 0, 0, 8);
    world.ue.run(|| wait(ue.remove(1)).unwrap().unwrap());
    install(
        &world,
        &n3iwf,
        Role::N3iwf,
        IPV4.child_sa(Role::N3iwf, 2, other),
    );
    install(&world, &ue, Role::Ue, IPV4.child_sa(Role::Ue, 2, UE_INNER));
    let before = relay.readings()[0].uplink;
    gre.send_to(&uplink(QFI, &pdu(PDU_ADDRESS, HOST, 100)), &to_n3iwf)
        .unwrap();
    upf.set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    assert!(
        upf.recv(&mut [0; 2000]).is_err(),
        "the spoofed packet got through"
    );
    assert_eq!(relay.reasons().unwrap()[0].wrong_sa, 1);
    assert_eq!(relay.readings()[0].drops.wrong_sa, 1);
    assert_eq!(relay.readings()[0].uplink, before);
    assert_eq!(wire.only_esp(), 1);

    // Without the session's Child SA nothing goes down, least of all in clear.
    world.n3iwf.run(|| wait(n3iwf.remove(1)).unwrap().unwrap());
    for len in [100, 1400] {
        upf.send_to(&downlink(DL_TEID, QFI, &pdu(HOST, PDU_ADDRESS, len)), n3)
            .unwrap();
    }
    thread::sleep(Duration::from_millis(500));
    assert_eq!(wire.only_esp(), 0);

    world.n3iwf.run(|| relay.remove(DL_TEID)).unwrap();
    world.n3iwf.run(|| drop(relay));
    for (plane, space) in [(&n3iwf, &world.n3iwf), (&ue, &world.ue)] {
        let report = space.run(|| wait(plane.stop()).unwrap());
        assert_eq!(report.left, Vec::<String>::new());
    }
    assert!(!world.pins().exists());
}

/// Octets to the data network and back over TCP.
fn tcp(world: &World) {
    let relay = attach(world, "xfrmi");
    let upf = Upf::start(&world.core);
    let listener = world.core.run(|| TcpListener::bind((HOST, 9000)).unwrap());
    let at_ue = world.ue.run(|| TcpStream::connect((HOST, 9000)).unwrap());
    let at_host = listener.accept().unwrap().0;
    for stream in [&at_ue, &at_host] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let sent: Vec<u8> = (0..AMOUNT).map(|n| (n % 251) as u8).collect();
    for (direction, from, to) in [("up", 0, 1), ("down", 1, 0)] {
        let ends = [&at_ue, &at_host];
        let sent = &sent;
        let received = thread::scope(|scope| {
            let mut from = ends[from].try_clone().unwrap();
            scope.spawn(move || from.write_all(sent).unwrap());
            let mut received = vec![0; AMOUNT];
            ends[to]
                .try_clone()
                .unwrap()
                .read_exact(&mut received)
                .unwrap();
            received
        });
        assert!(received == *sent, "{direction}");
    }
    world.ue.run(|| relay.remove(5)).unwrap();
    drop(upf);
}
