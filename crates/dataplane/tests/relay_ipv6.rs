//! N3 over IPv6 between namespaces, GRE in clear on the access side: the relay in user space, alone
//! and behind the programs of the kernel relay. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;
#[path = "support/world.rs"]
mod world;

use std::{
    io::Read,
    net::{IpAddr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use dataplane::relay::{AccessEvent, AccessRelay, AccessSession, GtpRelay, KernelRelay, Path};
use gtpu::{Direction, Message, MessageType};
use nwu::GreHeader;
use socket2::{Domain, Protocol, Socket, Type};
use support::{Space, has_object, is_root, run, skip};
use world::{
    DL_TEID, HOST, N3IWF_INNER, N3IWF6 as N3IWF, PDU_ADDRESS, QFI, UL_TEID, UPF6 as UPF, World,
    datagram, downlink, pdu, raw, session, uplink,
};

/// Another host of the core.
const OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 3);
const AT: (Ipv6Addr, u16) = (N3IWF, gtpu::PORT);
const PATIENCE: Duration = Duration::from_secs(20);
/// Of 1500 octets on N3: IPv6 40, UDP 8, GTP-U 16 are not the PDU's.
const LARGEST: usize = 1436;

/// Three namespaces with IPv6 on N3, if the tests can run here. Checksums are made and looked at by
/// software, as between hosts.
fn ready() -> Option<World> {
    let world = ready_with_offloads()?;
    for space in [&world.n3iwf, &world.core] {
        space.run(|| run("ethtool", &["-K", "n3", "tx", "off", "rx", "off"]));
    }
    Some(world)
}

/// The same with checksums that the devices leave for later.
fn ready_with_offloads() -> Option<World> {
    if !is_root() {
        skip("the relay needs root");
        return None;
    }
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        skip("this kernel has no IPv6");
        return None;
    }
    let world = World::new();
    world.add_n3_ipv6(&[OTHER]);
    Some(world)
}

fn over_ipv6() -> AccessSession {
    AccessSession {
        upf: UPF.into(),
        ..session("access")
    }
}

/// The relay in user space, or with the programs in front of it.
fn start(world: &World, kernel: bool) -> Box<dyn AccessRelay> {
    world.n3iwf.run(|| -> Box<dyn AccessRelay> {
        let relay: Box<dyn AccessRelay> = if kernel {
            let mut config = world.relay_config();
            config.user.gtp = AT.into();
            Box::new(KernelRelay::start(config).unwrap())
        } else {
            let mut config = world::user_config();
            config.gtp = AT.into();
            Box::new(GtpRelay::start(config).unwrap())
        };
        relay.add(over_ipv6()).unwrap();
        relay
    })
}

fn core_socket(core: &Space, address: Ipv6Addr) -> UdpSocket {
    let socket = core.run(|| UdpSocket::bind((address, gtpu::PORT)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// UDP datagrams to the core with their headers, as they were on the link.
fn with_headers(core: &Space) -> Socket {
    let socket = core.run(|| Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::UDP)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Checks the UDP checksum of a datagram from the N3IWF to the UPF; its payload.
fn checked(mut socket: &Socket) -> Vec<u8> {
    let mut room = vec![0; 65_536];
    let len = socket.read(&mut room).unwrap();
    room.truncate(len);
    assert_ne!(room[6..8], [0, 0], "over IPv6 there is a checksum");
    let mut all = [N3IWF.octets(), UPF.octets()].concat();
    all.extend((len as u32).to_be_bytes());
    all.extend([0, 0, 0, 17]);
    all.extend(&room);
    if len % 2 == 1 {
        all.push(0);
    }
    let words = all
        .chunks(2)
        .map(|w| u64::from(u16::from_be_bytes([w[0], w[1]])));
    // A sum of ones' complement over what has its checksum in it is all ones.
    assert_eq!(words.sum::<u64>() % 0xffff, 0, "{len} octets");
    room.split_off(8)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// PDUs both ways, small ones and such as go in fragments.
fn pdus_pass(world: &World, relay: &dyn AccessRelay, path: Path) {
    let gre = world.gre_at_ue("access");
    let upf = core_socket(&world.core, UPF);
    let on_the_link = with_headers(&world.core);
    let to_n3iwf = SocketAddrV4::new(N3IWF_INNER, 0).into();
    let sizes = [28, 29, 500, 1358, LARGEST, LARGEST + 1, 3000];
    for len in sizes {
        gre.send_to(&uplink(10, &pdu(PDU_ADDRESS, HOST, len)), &to_n3iwf)
            .unwrap();
        let octets = datagram(&upf);
        assert_eq!(checked(&on_the_link), octets);
        let message = Message::decode(&octets).unwrap();
        assert_eq!(message.header.teid, UL_TEID);
        let container = message.header.container.unwrap();
        assert_eq!(
            (container.direction, container.qfi),
            (Direction::Uplink, 10)
        );
        assert_eq!(message.payload, pdu(PDU_ADDRESS, HOST, len));

        upf.send_to(&downlink(DL_TEID, QFI, &pdu(HOST, PDU_ADDRESS, len)), AT)
            .unwrap();
        let octets = raw(&gre);
        let (header, payload) = GreHeader::decode(&octets[20..]).unwrap();
        assert_eq!((header.qfi, header.rqi), (Some(QFI), true));
        assert_eq!(payload, pdu(HOST, PDU_ADDRESS, len));
    }
    let reading = &relay.readings()[0];
    assert_eq!(reading.path, path);
    for traffic in [reading.uplink, reading.downlink] {
        assert_eq!(traffic.packets, sizes.len() as u64);
        assert_eq!(traffic.bytes, sizes.iter().sum::<usize>() as u64);
    }
    for space in [&world.n3iwf, &world.core] {
        assert_eq!(snmp6(space, "Udp6InCsumErrors"), 0);
    }
}

fn snmp6(space: &Space, name: &str) -> u64 {
    let text = space.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap());
    let mut words = text.split_whitespace();
    words.find(|word| *word == name).unwrap();
    words.next().unwrap().parse().unwrap()
}

#[test]
fn pdus_pass_both_ways_with_checksums() {
    let Some(world) = ready() else {
        return;
    };
    let relay = start(&world, false);
    pdus_pass(&world, &*relay, Path::User);
    world.n3iwf.run(|| drop(relay));
}

/// The kernel relay with its session, or nothing without the object.
fn start_kernel(world: &World) -> Option<Box<dyn AccessRelay>> {
    has_object().then(|| start(world, true))
}

#[test]
fn the_programs_relay_what_fits() {
    for offloads in [false, true] {
        let world = if offloads {
            ready_with_offloads()
        } else {
            ready()
        };
        let Some(world) = world else { return };
        let Some(relay) = start_kernel(&world) else {
            return;
        };
        pdus_pass(&world, &*relay, Path::Kernel);
        // What was left to user space: PDUs that do not fit, and packets that came in fragments, two
        // or three of them.
        let reasons = relay.kernel_reasons().unwrap();
        for (reasons, expected) in [
            (reasons.uplink, &[("too_big", 1), ("fragment", 3)]),
            (reasons.downlink, &[("too_big", 1), ("fragment", 5)]),
        ] {
            let found: Vec<(&str, u64)> = reasons
                .iter()
                .map(|(name, count)| (name.as_str(), *count))
                // Neighbour discovery and the like.
                .filter(|(name, count)| *count > 0 && *name != "other")
                .collect();
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for one in expected {
                assert!(found.contains(one), "{found:?}");
            }
        }
        world.n3iwf.run(|| drop(relay));
    }
}

/// Somebody on the way to the UPF says that its link carries `mtu` octets.
fn packet_too_big(core: &Space, mtu: u32) {
    let socket = core.run(|| {
        let icmpv6 = Some(Protocol::ICMPV6);
        let socket = Socket::new(Domain::IPV6, Type::RAW, icmpv6).unwrap();
        socket
            .bind(&SocketAddrV6::new(OTHER, 0, 0, 0).into())
            .unwrap();
        socket
    });
    // RFC 4443, 3.2; the kernel puts the checksum in.
    let mut message = vec![2, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend([0x60, 0, 0, 0, 0x05, 0x40, 17, 63]);
    message.extend(N3IWF.octets());
    message.extend(UPF.octets());
    message.extend([0x08, 0x68, 0x08, 0x68, 0x05, 0x40, 0, 0]);
    message.resize(message.len() + 64, 0);
    let to = SocketAddrV6::new(N3IWF, 0, 0, 0).into();
    socket.send_to(&message, &to).unwrap();
}

/// What fits a narrower path still goes by the programs; what does not is fragmented by its sender, or its
/// own sender is told.
#[test]
fn a_narrow_path_is_learnt() {
    const NARROW: usize = 1300;
    for kernel in [false, true] {
        let Some(world) = ready() else { return };
        if kernel && !has_object() {
            return;
        }
        let relay = start(&world, kernel);
        let gre = world.gre_at_ue("access");
        let upf = core_socket(&world.core, UPF);
        let to_n3iwf = SocketAddrV4::new(N3IWF_INNER, 0).into();
        let send = |len: usize, dont_fragment: bool| {
            let mut pdu = pdu(PDU_ADDRESS, HOST, len);
            pdu[6] = u8::from(dont_fragment) << 6;
            gre.send_to(&uplink(QFI, &pdu), &to_n3iwf).unwrap();
        };
        packet_too_big(&world.core, NARROW as u32);
        let limit = NARROW - 64;
        // Too long by one octet: an answer, once the path is known.
        let mut told = None;
        gre.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        eventually("the sender is told", || {
            world.n3iwf.run(|| relay.poll_event());
            send(limit + 1, true);
            let mut room = [0; 2000];
            told = (&gre).read(&mut room).ok().map(|len| room[..len].to_vec());
            told.is_some()
        });
        let octets = told.unwrap();
        let (_, answer) = GreHeader::decode(&octets[20..]).unwrap();
        assert_eq!((answer[9], &answer[20..22]), (1, &[3, 4][..]), "ICMP");
        assert_eq!(answer[26..28], (limit as u16).to_be_bytes());
        // Before that, the PDU went: the UPF has it.
        upf.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let mut room = [0; 2000];
        while upf.recv(&mut room).is_ok() {}
        upf.set_read_timeout(Some(PATIENCE)).unwrap();
        let before = snmp6(&world.n3iwf, "Ip6FragCreates");
        send(limit, true);
        assert_eq!(
            Message::decode(&datagram(&upf)).unwrap().payload.len(),
            limit
        );
        assert_eq!(snmp6(&world.n3iwf, "Ip6FragCreates"), before);
        send(limit + 1, false);
        let whole = datagram(&upf);
        assert_eq!(Message::decode(&whole).unwrap().payload.len(), limit + 1);
        assert!(snmp6(&world.n3iwf, "Ip6FragCreates") > before);
        if kernel {
            assert!(relay.kernel_reasons().unwrap().uplink["too_big"] >= 2);
        }
        world.n3iwf.run(|| drop(relay));
    }
}

#[test]
fn the_path_is_managed() {
    let Some(world) = ready() else {
        return;
    };
    let relay = start(&world, false);
    let upf = core_socket(&world.core, UPF);
    let on_the_link = with_headers(&world.core);
    // Echo, from another port as well: the answer goes to where the request came from.
    let probe = world.core.run(|| UdpSocket::bind((UPF, 0)).unwrap());
    probe.set_read_timeout(Some(PATIENCE)).unwrap();
    for (socket, sequence) in [(&upf, 7), (&probe, 8)] {
        socket.send_to(&gtpu::echo_request(sequence), AT).unwrap();
        assert_eq!(datagram(socket), gtpu::echo_response(sequence));
        assert_eq!(checked(&on_the_link), gtpu::echo_response(sequence));
    }

    // An unknown TEID: told to the port of GTP-U, with the address that the G-PDU was sent to.
    let stray = downlink(0x99, QFI, &pdu(HOST, PDU_ADDRESS, 100));
    probe.send_to(&stray, AT).unwrap();
    let answer = datagram(&upf);
    assert_eq!(checked(&on_the_link), answer);
    let message = Message::decode(&answer).unwrap();
    assert_eq!(message.header.kind, MessageType::ErrorIndication);
    let indication = gtpu::ErrorIndication::decode(message.payload).unwrap();
    assert_eq!(
        (indication.teid, indication.peer),
        (0x99, IpAddr::V6(N3IWF))
    );
    assert_eq!(relay.drops().no_session, 1);

    // The session's tunnel is the UPF's: nobody else may send into it, or end it.
    let other = core_socket(&world.core, OTHER);
    let forged = downlink(DL_TEID, QFI, &pdu(HOST, PDU_ADDRESS, 100));
    other.send_to(&forged, AT).unwrap();
    eventually("it is counted", || {
        relay.readings()[0].drops.wrong_address == 1
    });
    let unknown = |peer| {
        let peer = IpAddr::V6(peer);
        let teid = UL_TEID;
        gtpu::ErrorIndication { teid, peer }.encode(3)
    };
    other.send_to(&unknown(OTHER), AT).unwrap();
    // The answer to an Echo says that what came before has been looked at.
    other.send_to(&gtpu::echo_request(9), AT).unwrap();
    assert_eq!(datagram(&other), gtpu::echo_response(9));
    assert_eq!(relay.poll_event(), None);
    upf.send_to(&unknown(UPF), AT).unwrap();
    let mut event = None;
    eventually("the daemon is told", || {
        event = event.or(relay.poll_event());
        event.is_some()
    });
    assert_eq!(event, Some(AccessEvent::TunnelUnknown { dl_teid: DL_TEID }));
    world.n3iwf.run(|| drop(relay));
}

#[test]
fn senders_learn_what_fits_beside_the_longer_header() {
    let Some(world) = ready() else {
        return;
    };
    let relay = start(&world, false);
    let gre = world.gre_at_ue("access");
    let mut large = pdu(PDU_ADDRESS, HOST, LARGEST + 1);
    // DF.
    large[6] = 0x40;
    gre.send_to(
        &uplink(QFI, &large),
        &SocketAddrV4::new(N3IWF_INNER, 0).into(),
    )
    .unwrap();
    let octets = raw(&gre);
    let (_, answer) = GreHeader::decode(&octets[20..]).unwrap();
    assert_eq!((answer[9], &answer[20..22]), (1, &[3, 4][..]), "ICMP");
    assert_eq!(answer[26..28], (LARGEST as u16).to_be_bytes());
    let reading = &relay.readings()[0];
    assert_eq!((reading.drops.too_big, reading.uplink.packets), (1, 0));
    world.n3iwf.run(|| drop(relay));
}

#[test]
fn a_upf_of_the_other_version_is_refused_by_name() {
    let Some(world) = ready() else {
        return;
    };
    let relay = start(&world, false);
    let why = |session: AccessSession| {
        let refused = world.n3iwf.run(|| relay.add(session.clone())).unwrap_err();
        let modified = relay.modify(session).unwrap_err();
        assert_eq!(refused.to_string(), modified.to_string());
        refused.to_string()
    };
    let why = why(session("access"));
    assert!(
        why.contains(&world::UPF.to_string()) && why.contains(&N3IWF.to_string()),
        "{why}"
    );
    // The one that was there is as before.
    assert_eq!(relay.readings().len(), 1);
    let upf = core_socket(&world.core, UPF);
    let gre = world.gre_at_ue("access");
    let to_n3iwf = SocketAddrV4::new(N3IWF_INNER, 0).into();
    gre.send_to(&uplink(QFI, &pdu(PDU_ADDRESS, HOST, 100)), &to_n3iwf)
        .unwrap();
    assert_eq!(
        Message::decode(&datagram(&upf)).unwrap().header.teid,
        UL_TEID
    );
    world.n3iwf.run(|| drop(relay));
}
