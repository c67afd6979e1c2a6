//! The UPF's rules, packet by packet.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic
)]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use core5g::amf::UpfSession;
use core5g::router::Ipv6Session;
use core5g::upf::{Upf, Uplink};
use gtpu::{Direction, ErrorIndication, Message, MessageType, PduSessionContainer};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));
const UE: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 2);
const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);
const TEID: u32 = 0x0102_0304;

fn n3iwf() -> SocketAddr {
    "203.0.113.1:2152".parse().unwrap()
}

/// A UDP packet of IPv4, without checksums: the UPF does not look at them.
fn packet(source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(&ports.0.to_be_bytes());
    packet.extend_from_slice(&ports.1.to_be_bytes());
    packet.extend_from_slice(&[0, 12, 0, 0, 1, 2, 3, 4]);
    packet
}

fn container(qfi: u8) -> PduSessionContainer {
    PduSessionContainer {
        direction: Direction::Uplink,
        qfi,
        rqi: false,
    }
}

fn upf() -> Upf {
    let mut upf = Upf::default();
    let config = support::core::parse(support::core::CONFIG);
    upf.install(UpfSession {
        uplink_teid: TEID,
        address: UE,
        ipv4: true,
        ipv6: None,
        flows: config.smf.dnns[0].flows.clone(),
    });
    upf
}

#[test]
fn uplink_packets_are_checked() {
    let mut upf = upf();
    let good = packet(UE, REMOTE, (1, 2));
    let g_pdu = gtpu::encode_g_pdu(TEID, container(1), &good).unwrap();
    assert_eq!(upf.uplink(LOCAL, n3iwf(), &g_pdu), Uplink::Deliver(&good));
    // Without a container: the default flow.
    let mut bare = vec![0x30, 255, 0, 32, 1, 2, 3, 4];
    bare.extend_from_slice(&good);
    assert_eq!(upf.uplink(LOCAL, n3iwf(), &bare), Uplink::Deliver(&good));

    let spoofed = packet(Ipv4Addr::new(10, 60, 0, 3), REMOTE, (1, 2));
    let downlink = PduSessionContainer {
        direction: Direction::Downlink,
        ..container(1)
    };
    for (message, _why) in [
        (
            gtpu::encode_g_pdu(TEID, container(1), &spoofed).unwrap(),
            "source",
        ),
        (
            gtpu::encode_g_pdu(TEID, container(9), &good).unwrap(),
            "QFI",
        ),
        (
            gtpu::encode_g_pdu(TEID, downlink, &good).unwrap(),
            "direction",
        ),
        (
            gtpu::encode_g_pdu(TEID, container(1), &[0x60; 40]).unwrap(),
            "IPv6",
        ),
        (vec![0x30, 255], "cut"),
    ] {
        assert_eq!(upf.uplink(LOCAL, n3iwf(), &message), Uplink::Dropped);
    }
    let status = &upf.status()[0];
    assert_eq!(status.counters.uplink_packets, 2);
    assert_eq!(status.counters.uplink_bytes, 64);
    assert_eq!(status.counters.spoofed, 1);
    assert_eq!(status.counters.wrong_qfi, 2);
    assert_eq!(upf.counters.not_ip, 1);
    assert_eq!(upf.counters.undecodable, 1);
}

#[test]
fn an_unknown_tunnel_is_indicated_and_an_echo_answered() {
    let mut upf = upf();
    let g_pdu = gtpu::encode_g_pdu(7, container(1), &packet(UE, REMOTE, (1, 2))).unwrap();
    let from = "203.0.113.1:40000".parse().unwrap();
    let Uplink::Reply(to, answer) = upf.uplink(LOCAL, from, &g_pdu) else {
        panic!("an error indication expected");
    };
    assert_eq!(to, n3iwf(), "to the port of GTP-U");
    let message = Message::decode(&answer).unwrap();
    assert_eq!(message.header.kind, MessageType::ErrorIndication);
    let indication = ErrorIndication::decode(message.payload).unwrap();
    assert_eq!(
        indication,
        ErrorIndication {
            teid: 7,
            peer: LOCAL
        }
    );

    let Uplink::Reply(to, answer) = upf.uplink(LOCAL, from, &gtpu::echo_request(77)) else {
        panic!("an echo response expected");
    };
    assert_eq!(to, from, "to the port of the request");
    let message = Message::decode(&answer).unwrap();
    assert_eq!(message.header.kind, MessageType::EchoResponse);
    assert_eq!(message.header.sequence, Some(77));
}

#[test]
fn downlink_packets_find_their_tunnel_and_flow() {
    let mut upf = upf();
    let plain = packet(REMOTE, UE, (80, 1000));
    assert_eq!(upf.downlink(&plain), None, "no tunnel end yet");
    upf.connect(TEID, (n3iwf().ip(), 99), vec![1, 2]);
    let media = packet(REMOTE, UE, (5004, 1000));
    let mut fragment = media.clone();
    fragment[7] = 8;
    for (packet, qfi, rqi) in [(&plain, 1, false), (&media, 2, true), (&fragment, 1, false)] {
        let (to, message) = upf.downlink(packet).unwrap();
        assert_eq!(to, n3iwf());
        let message = Message::decode(&message).unwrap();
        assert_eq!(message.header.teid, 99);
        assert_eq!(message.payload, &packet[..]);
        let container = message.header.container.unwrap();
        assert_eq!(container.direction, Direction::Downlink);
        assert_eq!((container.qfi, container.rqi), (qfi, rqi));
    }
    // A flow that the N3IWF did not accept is not used.
    upf.connect(TEID, (n3iwf().ip(), 99), vec![1]);
    let (_, message) = upf.downlink(&media).unwrap();
    assert_eq!(
        Message::decode(&message)
            .unwrap()
            .header
            .container
            .unwrap()
            .qfi,
        1
    );

    assert_eq!(
        upf.downlink(&packet(REMOTE, Ipv4Addr::new(10, 60, 9, 9), (1, 1))),
        None
    );
    assert_eq!(upf.counters.unknown_destination, 1);
    // The N3IWF says that it does not know the tunnel.
    let indication = ErrorIndication {
        teid: 99,
        peer: n3iwf().ip(),
    };
    assert_eq!(
        upf.uplink(LOCAL, n3iwf(), &indication.encode(0)),
        Uplink::Dropped
    );
    assert_eq!(upf.downlink(&plain), None);
    let status = &upf.status()[0];
    assert_eq!(status.counters.downlink_packets, 4);
    assert_eq!(status.counters.no_tunnel, 2);

    let last = upf.remove(TEID).unwrap();
    assert_eq!(last.downlink_packets, 4);
    assert_eq!(upf.downlink(&plain), None);
    assert!(upf.status().is_empty());
}

#[test]
fn ipv6_has_a_prefix_of_its_own_and_a_router() {
    let ipv6 = Ipv6Session {
        prefix: "2001:db8:60:7::".parse().unwrap(),
        interface_id: [0, 0, 0, 1, 2, 3, 4, 5],
    };
    let config = support::core::parse(support::core::CONFIG);
    let mut upf = Upf::default();
    upf.install(UpfSession {
        uplink_teid: TEID,
        address: UE,
        ipv4: false,
        ipv6: Some(ipv6),
        flows: config.smf.dnns[0].flows.clone(),
    });
    upf.connect(TEID, (n3iwf().ip(), 77), vec![]);
    let six = |from: &str, to: &str, next: u8, payload: &[u8]| {
        let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let mut packet = vec![
            0x60,
            0,
            0,
            0,
            0,
            u8::try_from(payload.len()).unwrap(),
            next,
            255,
        ];
        packet.extend(address(from));
        packet.extend(address(to));
        packet.extend(payload);
        packet
    };
    let mut uplink = |packet: &[u8]| {
        let g_pdu = gtpu::encode_g_pdu(TEID, container(1), packet).unwrap();
        match upf.uplink(LOCAL, n3iwf(), &g_pdu) {
            Uplink::Deliver(delivered) => Some(Ok(delivered.to_vec())),
            Uplink::Reply(_, reply) => Some(Err(reply)),
            Uplink::Dropped => None,
        }
    };
    let solicitation = six(
        "fe80::1:203:405",
        "ff02::2",
        58,
        &[133, 0, 0, 0, 0, 0, 0, 0],
    );
    let Some(Err(reply)) = uplink(&solicitation) else {
        panic!("a router advertisement");
    };
    let message = Message::decode(&reply).unwrap();
    assert_eq!((message.header.teid, message.payload[40]), (77, 134));
    let good = six("2001:db8:60:7::99", "2001:db8:18::10", 17, &[0; 8]);
    assert_eq!(uplink(&good), Some(Ok(good.clone())));
    let spoofed = six("2001:db8:60:8::99", "2001:db8:18::10", 17, &[0; 8]);
    assert_eq!(uplink(&spoofed), None);
    let on_link = six("fe80::1:203:405", "ff02::16", 17, &[0; 8]);
    assert_eq!(uplink(&on_link), None, "what is for the link ends here");
    assert_eq!(uplink(&packet(UE, REMOTE, (1, 2))), None, "no IPv4");
    let down = six("2001:db8:18::10", "2001:db8:60:7::99", 17, &[0; 8]);
    let (_, datagram) = upf.downlink(&down).unwrap();
    assert_eq!(Message::decode(&datagram).unwrap().payload, down);
    let other = six("2001:db8:18::10", "2001:db8:60:8::99", 17, &[0; 8]);
    assert_eq!(upf.downlink(&other), None);
    upf.remove(TEID);
    assert_eq!(upf.downlink(&down), None);
}
