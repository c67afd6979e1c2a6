//! Both relays in the namespace of the test, GRE in clear over loopback: needs root, no ESP.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use gtpu::{Direction, Message, MessageType, PduSessionContainer, encode_g_pdu};
use nix::sched::{CloneFlags, unshare};

use super::{
    AccessEvent, AccessRelay, AccessSession, GtpRelay, GtpRelayConfig, TunRelay, TunRelayConfig,
    UeRelay, UeSession, UplinkRules,
};

const UPF: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const N3IWF: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const UE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PDU_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 7);
const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);

/// Runs `test` in a network namespace of its own; says why when it cannot.
fn in_namespace(test: fn()) {
    if !nix::unistd::geteuid().is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI runs the relay tests as root"
        );
        println!("skipped: the relay tests need root");
        return;
    }
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        test();
    })
    .join()
    .unwrap();
}

fn access(qfis: &[u8]) -> (GtpRelay, UdpSocket) {
    let relay = GtpRelay::start(GtpRelayConfig {
        gtp: (N3IWF, gtpu::PORT).into(),
        up_address: N3IWF,
        n3_mtu: 1500,
        tunnel_mtu: 1386,
        gre_protocol: 0,
    })
    .unwrap();
    relay.add(session(7, qfis)).unwrap();
    let upf = UdpSocket::bind((UPF, gtpu::PORT)).unwrap();
    upf.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (relay, upf)
}

fn session(dl_teid: u32, qfis: &[u8]) -> AccessSession {
    AccessSession {
        dl_teid,
        ul_teid: 0x0a0b_0c0d,
        upf: UPF.into(),
        ue_inner: UE,
        pdu_session: 5,
        qfis: qfis.to_vec(),
        default_qfi: 9,
        slot: 0,
        interface: None,
        further: Vec::new(),
        ue: 1,
        session_ambr: None,
        ue_ambr: None,
        dscp: 0,
        n3_dscp: std::collections::BTreeMap::new(),
    }
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut room = vec![0; 65_536];
    let length = socket.recv(&mut room).unwrap();
    room.truncate(length);
    room
}

/// Waits, within bounds, for what another thread counts.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}");
}

/// A UDP packet as the DN would send it.
fn downlink_pdu(data: &[u8]) -> Vec<u8> {
    let total = u16::try_from(28 + data.len()).unwrap().to_be_bytes();
    let udp = u16::try_from(8 + data.len()).unwrap().to_be_bytes();
    let mut pdu = vec![0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, 17, 0, 0];
    pdu.extend(HOST.octets());
    pdu.extend(PDU_ADDRESS.octets());
    let sum = super::packet::checksum(&[&pdu]).to_be_bytes();
    pdu[10..12].copy_from_slice(&sum);
    pdu.extend([0x1f, 0x40, 0x1f, 0x41, udp[0], udp[1], 0, 0]);
    pdu.extend_from_slice(data);
    pdu
}

#[test]
fn a_packet_goes_up_and_down() {
    in_namespace(|| {
        let (relay, upf) = access(&[9]);
        let ue = TunRelay::new(TunRelayConfig {
            gre_protocol: 0,
            tunnel_mtu: 1386,
        });
        ue.add(UeSession {
            pdu_session: 5,
            device: "uepdu5".into(),
            address: Some(PDU_ADDRESS),
            interface_id: None,
            mtu: 1358,
            routes: vec!["198.18.0.0/24".parse().unwrap()],
            rules: UplinkRules::one(9),
            inner_local: UE,
            up_address: N3IWF,
            interface: None,
            dscp: 0,
            further: Vec::new(),
        })
        .unwrap();
        let host = UdpSocket::bind((PDU_ADDRESS, 8001)).unwrap();
        host.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        host.send_to(b"up", (HOST, 8000)).unwrap();
        let octets = receive(&upf);
        let message = Message::decode(&octets).unwrap();
        assert_eq!(message.header.teid, 0x0a0b_0c0d);
        let container = message.header.container.unwrap();
        assert_eq!((container.direction, container.qfi), (Direction::Uplink, 9));
        assert_eq!(&message.payload[28..], b"up");

        let container = PduSessionContainer {
            direction: Direction::Downlink,
            qfi: 9,
            rqi: false,
        };
        let down = encode_g_pdu(7, container, &downlink_pdu(b"down")).unwrap();
        upf.send_to(&down, (N3IWF, gtpu::PORT)).unwrap();
        assert_eq!(receive(&host), b"down");

        eventually("both ends count the same", || {
            let (access, ue) = (&relay.readings()[0], &ue.readings()[0]);
            access.uplink.packets == 1
                && access.uplink == ue.uplink
                && access.downlink == ue.downlink
                && access.downlink.bytes == 32
        });
        ue.remove(5).unwrap();
        let gone = std::process::Command::new("ip")
            .args(["link", "show", "uepdu5"])
            .output();
        assert!(
            !gone.unwrap().status.success(),
            "the device is gone with its session"
        );
    });
}

#[test]
fn an_uplink_flow_follows_the_qfi_of_downlink_packets_with_rqi() {
    in_namespace(|| {
        let (_relay, upf) = access(&[9, 12]);
        let ue = TunRelay::new(TunRelayConfig {
            gre_protocol: 0,
            tunnel_mtu: 1386,
        });
        let rules = UplinkRules::one(9).with_rq_timer(Duration::from_secs(600));
        ue.add(UeSession {
            pdu_session: 5,
            device: "uepdu5".into(),
            address: Some(PDU_ADDRESS),
            interface_id: None,
            mtu: 1358,
            routes: vec!["198.18.0.0/24".parse().unwrap()],
            rules: rules.clone(),
            inner_local: UE,
            up_address: N3IWF,
            interface: None,
            dscp: 0,
            further: Vec::new(),
        })
        .unwrap();
        let host = UdpSocket::bind((PDU_ADDRESS, 8001)).unwrap();
        host.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let uplink_qfi = |port| {
            host.send_to(b"up", (HOST, port)).unwrap();
            let octets = receive(&upf);
            Message::decode(&octets)
                .unwrap()
                .header
                .container
                .unwrap()
                .qfi
        };
        assert_eq!(uplink_qfi(8000), 9);
        let down = |rqi| {
            let container = PduSessionContainer {
                direction: Direction::Downlink,
                qfi: 12,
                rqi,
            };
            let down = encode_g_pdu(7, container, &downlink_pdu(b"down")).unwrap();
            upf.send_to(&down, (N3IWF, gtpu::PORT)).unwrap();
            assert_eq!(receive(&host), b"down");
        };
        down(false);
        assert_eq!(uplink_qfi(8000), 9, "without RQI nothing is derived");
        down(true);
        assert_eq!(uplink_qfi(8000), 12);
        assert_eq!(uplink_qfi(8002), 9, "another flow");
        ue.set_rules(5, rules.with_rq_timer(Duration::ZERO));
        assert_eq!(uplink_qfi(8000), 9, "reflective QoS is off");
        down(true);
        assert_eq!(uplink_qfi(8000), 9);
    });
}

/// ICMPv6 with its checksum, hop limit 255.
fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, len[0], len[1], 58, 255];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let pseudo = [0, 0, len[0], len[1], 0, 0, 0, 58];
    let sum = super::packet::checksum(&[&packet[8..40], &pseudo, message]).to_be_bytes();
    packet.extend(message);
    packet[42..44].copy_from_slice(&sum);
    packet
}

#[test]
fn ipv6_has_the_link_local_address_told_and_those_of_the_prefix_advertised() {
    in_namespace(|| {
        let ipv6 = std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/accept_ra");
        if ipv6.is_err() {
            println!("skipped: this kernel has no IPv6");
            return;
        }
        let (_relay, upf) = access(&[9]);
        let ue = TunRelay::new(TunRelayConfig {
            gre_protocol: 0,
            tunnel_mtu: 1386,
        });
        let interface_id = [0, 0, 0, 1, 2, 3, 4, 5];
        ue.add(UeSession {
            pdu_session: 5,
            device: "uepdu5".into(),
            address: None,
            interface_id: Some(interface_id),
            mtu: 1358,
            routes: vec!["198.18.0.0/24".parse().unwrap()],
            rules: UplinkRules::one(9),
            inner_local: UE,
            up_address: N3IWF,
            interface: None,
            dscp: 0,
            further: Vec::new(),
        })
        .unwrap();
        let link_local = super::tun::link_local(interface_id);
        assert_eq!(link_local.to_string(), "fe80::1:203:405");
        // The kernel asks for a router, from that address alone.
        let uplink = || {
            let octets = receive(&upf);
            let message = Message::decode(&octets).unwrap();
            let (source, destination) = super::packet::ipv6(message.payload).unwrap();
            (source, destination, message.payload.to_vec())
        };
        loop {
            let (source, _, packet) = uplink();
            assert!(source == link_local, "{source}");
            if packet[6] == 58 && packet[40] == 133 {
                break;
            }
        }
        // Router Advertisement: a prefix of 64 bits to make addresses of (RFC 4861, 4.2 and 4.6.2).
        let prefix: Ipv6Addr = "2001:db8:60:7::".parse().unwrap();
        let mut advertisement = vec![134, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        advertisement.extend([
            3, 4, 64, 0x40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ]);
        advertisement.extend([0; 4]);
        advertisement.extend(prefix.octets());
        let router: Ipv6Addr = "fe80::1".parse().unwrap();
        let down = |packet: &[u8]| {
            let container = PduSessionContainer {
                direction: Direction::Downlink,
                qfi: 9,
                rqi: false,
            };
            let datagram = encode_g_pdu(7, container, packet).unwrap();
            upf.send_to(&datagram, (N3IWF, gtpu::PORT)).unwrap();
        };
        down(&icmpv6(router, link_local, &advertisement));
        let mut address = prefix.octets();
        address[8..].copy_from_slice(&interface_id);
        let address = Ipv6Addr::from(address);
        let mut bound = None;
        eventually("the address of the prefix", || {
            bound = UdpSocket::bind((address, 8001)).ok();
            bound.is_some()
        });
        let host = bound.unwrap();
        host.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let remote: Ipv6Addr = "2001:db8:18::10".parse().unwrap();
        host.send_to(b"up", (remote, 8000)).unwrap();
        let packet = loop {
            let (source, destination, packet) = uplink();
            if packet[6] == 17 {
                assert_eq!((source, destination), (address, remote));
                break packet;
            }
        };
        assert!(packet.ends_with(b"up"));
        // The answer: the same with both ends exchanged has the same checksum.
        let mut answer = packet.clone();
        answer[8..24].copy_from_slice(&packet[24..40]);
        answer[24..40].copy_from_slice(&packet[8..24]);
        answer[40..42].copy_from_slice(&packet[42..44]);
        answer[42..44].copy_from_slice(&packet[40..42]);
        down(&answer);
        assert_eq!(receive(&host), b"up");
        // IPv4 is no part of this session.
        down(&downlink_pdu(b"no"));
        eventually("it is refused", || ue.readings()[0].drops.malformed == 1);
    });
}

#[test]
fn a_merged_tcp_packet_leaves_in_segments() {
    in_namespace(|| {
        let (relay, upf) = access(&[9]);
        let gre = super::gre_socket::open(UE, None).unwrap();
        let data: Vec<u8> = (0..20_000_u32)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let total = u16::try_from(40 + data.len()).unwrap().to_be_bytes();
        let mut pdu = vec![0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, 6, 0, 0];
        pdu.extend(PDU_ADDRESS.octets());
        pdu.extend(HOST.octets());
        pdu.extend([
            0, 80, 0, 81, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 16, 0, 0, 0, 0, 0,
        ]);
        pdu.extend_from_slice(&data);
        let header = nwu::GreHeader {
            qfi: Some(9),
            rqi: false,
        }
        .encode(0);
        let packet = [&header[..], &pdu].concat();
        gre.send_to(&packet, &SocketAddrV4::new(N3IWF, 0).into())
            .unwrap();
        let mut found = Vec::new();
        while found.len() < data.len() {
            let octets = receive(&upf);
            let message = Message::decode(&octets).unwrap();
            assert!(message.payload.len() <= 1456, "fits N3");
            found.extend_from_slice(&message.payload[40..]);
        }
        assert_eq!(found, data);
        assert!(relay.readings()[0].uplink.packets >= 14);
    });
}

#[test]
fn the_path_is_managed() {
    in_namespace(|| {
        let (relay, upf) = access(&[9]);
        upf.send_to(&gtpu::echo_request(0x77), (N3IWF, gtpu::PORT))
            .unwrap();
        assert_eq!(receive(&upf), gtpu::echo_response(0x77));

        let container = PduSessionContainer {
            direction: Direction::Downlink,
            qfi: 9,
            rqi: false,
        };
        let stray = encode_g_pdu(0x99, container, &downlink_pdu(b"x")).unwrap();
        upf.send_to(&stray, (N3IWF, gtpu::PORT)).unwrap();
        let answer = receive(&upf);
        let message = Message::decode(&answer).unwrap();
        assert_eq!(message.header.kind, MessageType::ErrorIndication);
        let indication = gtpu::ErrorIndication::decode(message.payload).unwrap();
        assert_eq!((indication.teid, indication.peer), (0x99, N3IWF.into()));

        let unknown = gtpu::ErrorIndication {
            teid: 0x0a0b_0c0d,
            peer: UPF.into(),
        };
        upf.send_to(&unknown.encode(3), (N3IWF, gtpu::PORT))
            .unwrap();
        let mut event = None;
        eventually("the daemon is told", || {
            event = event.or(relay.poll_event());
            event.is_some()
        });
        assert_eq!(event, Some(AccessEvent::TunnelUnknown { dl_teid: 7 }));

        let required = [0x34, 0xff, 0, 8, 0, 0, 0, 7, 0, 0, 0, 0xc1, 1, 0, 0, 0];
        upf.send_to(&required, (N3IWF, gtpu::PORT)).unwrap();
        let answer = receive(&upf);
        let kind = Message::decode(&answer).unwrap().header.kind;
        assert_eq!(kind, MessageType::SupportedExtensionHeadersNotification);
        assert_eq!(relay.drops().no_session, 1);
    });
}

#[test]
fn garbage_and_foreign_flows_are_counted_and_dropped() {
    in_namespace(|| {
        let (relay, upf) = access(&[9]);
        let gre = super::gre_socket::open(UE, None).unwrap();
        let to = SocketAddrV4::new(N3IWF, 0).into();
        let foreign = nwu::GreHeader {
            qfi: Some(10),
            rqi: false,
        }
        .encode(0);
        gre.send_to(&foreign, &to).unwrap();
        gre.send_to(&[0x60, 0, 0, 0], &to).unwrap();
        gre.send_to(&[], &to).unwrap();
        for garbage in [
            &[][..],
            &[0x34],
            &[0xff; 40],
            &[0x34, 0xff, 0xff, 0xff, 0, 0, 0, 7],
        ] {
            upf.send_to(garbage, (N3IWF, gtpu::PORT)).unwrap();
        }
        eventually("everything is counted", || {
            relay.readings()[0].drops.qfi_not_allowed == 1 && relay.drops().malformed == 6
        });
        assert_eq!(relay.readings()[0].uplink.packets, 0);
        relay.remove(7).unwrap();
        assert!(relay.readings().is_empty());
    });
}
