//! The UE's programs with IPv6 in the session, and downlink: between namespaces, no ESP.
//!
//! Needs root and the object of `cargo xtask build`.
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
    net::{Ipv6Addr, UdpSocket},
    time::Duration,
};

use dataplane::relay::{
    AccessRelay, Component, Drops, FlowReading, GtpRelay, Path, TunRelay, TunRelayConfig, UeRelay,
    UeSession, UplinkRule, UplinkRules,
};
use gtpu::{Direction, Message, PduSessionContainer, encode_g_pdu};
use support::{is_root, object, skip};
use world::{DL_TEID, HOST, N3IWF_INNER, PDU_ADDRESS, QFI, UE_INNER, World, datagram, session};

const OTHER: u8 = 10;
const IID: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 7];
const UE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x60, 0, 0, 0, 0, 7);
const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 0x10);
const PATIENCE: Duration = Duration::from_secs(20);

fn rules() -> UplinkRules {
    let rule = |precedence, qfi, filter| UplinkRule {
        precedence,
        qfi,
        filters: vec![filter],
    };
    let near = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 0).octets();
    let far = Ipv6Addr::new(0x2001, 0xdb8, 0x19, 0, 0, 0, 0, 0).octets();
    UplinkRules::new(vec![
        rule(255, QFI, vec![Component::Any]),
        rule(
            10,
            OTHER,
            vec![
                Component::RemoteIpv6(near, 64),
                Component::Protocol(17),
                Component::RemotePort(7000..=7009),
            ],
        ),
        // Nothing is for that network, and nothing of IPv4 is for port 7020.
        rule(
            11,
            OTHER,
            vec![Component::RemoteIpv6(far, 64), Component::Any],
        ),
        rule(
            12,
            OTHER,
            vec![
                Component::RemoteIpv4([0; 4], [0; 4]),
                Component::RemotePort(7020..=7020),
            ],
        ),
    ])
    .with_rq_timer(Duration::from_secs(600))
}

fn attach(world: &World) -> TunRelay {
    let config = TunRelayConfig {
        gre_protocol: 0,
        tunnel_mtu: 1386,
    };
    let relay = world.ue.run(|| {
        let relay = TunRelay::with_programs(config, &object().unwrap()).unwrap();
        relay
            .add(UeSession {
                pdu_session: 5,
                device: "uepdu5".into(),
                address: Some(PDU_ADDRESS),
                interface_id: Some(IID),
                mtu: 1358,
                routes: vec!["198.18.0.0/24".parse().unwrap()],
                rules: rules(),
                inner_local: UE_INNER,
                up_address: N3IWF_INNER,
                interface: Some("access".into()),
                dscp: 0,
                further: Vec::new(),
            })
            .unwrap();
        relay
    });
    let own = format!("{UE6}/64");
    world
        .ue
        .ip(&["-6", "address", "add", &own, "dev", "uepdu5", "nodad"]);
    let route = ["-6", "route", "add", "2001:db8:18::/64", "dev", "uepdu5"];
    world.ue.ip(&route);
    relay
}

/// UE and N3IWF with a session, the UPF's socket and one of the UE for each IP version; or nothing where
/// the test cannot run.
struct Attached {
    ue4: UdpSocket,
    ue6: UdpSocket,
    upf: UdpSocket,
    relay: TunRelay,
    _n3iwf: GtpRelay,
    world: World,
}

fn ready() -> Option<Attached> {
    if !is_root() {
        skip("loading eBPF programs needs root");
        return None;
    }
    if object().is_none() {
        skip("there is no eBPF object: run `cargo xtask build`");
        return None;
    }
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        skip("this kernel has no IPv6");
        return None;
    }
    let world = World::new();
    let config = world.relay_config().user;
    let n3iwf = world.n3iwf.run(|| {
        let relay = GtpRelay::start(config).unwrap();
        relay.add(session("access")).unwrap();
        relay
    });
    let relay = attach(&world);
    let upf = world
        .core
        .run(|| UdpSocket::bind((world::UPF, gtpu::PORT)).unwrap());
    let ue4 = world
        .ue
        .run(|| UdpSocket::bind((PDU_ADDRESS, 8001)).unwrap());
    let ue6 = world.ue.run(|| UdpSocket::bind((UE6, 8001)).unwrap());
    for socket in [&upf, &ue4, &ue6] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    Some(Attached {
        ue4,
        ue6,
        upf,
        relay,
        _n3iwf: n3iwf,
        world,
    })
}

impl Attached {
    /// The next packet of ours at the UPF, with its QFI: the kernel's own (router solicitations and the
    /// like) are passed over.
    fn arrives(&self, octets: &[u8]) -> u8 {
        loop {
            let datagram = datagram(&self.upf);
            let message = Message::decode(&datagram).unwrap();
            if message.payload.ends_with(octets) {
                return message.header.container.unwrap().qfi;
            }
            assert_eq!(message.payload[6], 58, "{:x?}", message.payload);
        }
    }

    fn six(&self, port: u16, octets: &[u8]) -> u8 {
        self.ue6.send_to(octets, (HOST6, port)).unwrap();
        self.arrives(octets)
    }

    fn four(&self, port: u16, octets: &[u8]) -> u8 {
        self.ue4.send_to(octets, (HOST, port)).unwrap();
        self.arrives(octets)
    }

    fn down(&self, qfi: u8, rqi: bool, pdu: &[u8]) {
        let container = PduSessionContainer {
            direction: Direction::Downlink,
            qfi,
            rqi,
        };
        let datagram = encode_g_pdu(DL_TEID, container, pdu).unwrap();
        self.upf
            .send_to(&datagram, (world::N3IWF, gtpu::PORT))
            .unwrap();
    }

    fn flow(&self, qfi: u8) -> Option<FlowReading> {
        let reading = self.relay.readings().remove(0);
        assert_eq!(reading.path, Path::Kernel);
        reading.flows.into_iter().find(|flow| flow.qfi == qfi)
    }

    fn end(self) {
        let reading = self.world.ue.run(|| self.relay.remove(5)).unwrap();
        assert_eq!(reading.drops, Drops::default());
    }
}

fn checksum(octets: &[u8]) -> u16 {
    let words = octets
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn udp6(from: (Ipv6Addr, u16), to: (Ipv6Addr, u16), payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let mut udp = [from.1.to_be_bytes(), to.1.to_be_bytes(), len.to_be_bytes()].concat();
    udp.extend([0, 0]);
    udp.extend(payload);
    let addresses = [from.0.octets(), to.0.octets()].concat();
    let pseudo = [&addresses[..], &[0, 0], &len.to_be_bytes(), &[0, 0, 0, 17]].concat();
    let sum = checksum(&[pseudo, udp.clone()].concat()).to_be_bytes();
    udp[6..8].copy_from_slice(&sum);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([17, 64]);
    packet.extend(addresses);
    packet.extend(udp);
    packet
}

fn udp4(to_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = world::pdu(HOST, PDU_ADDRESS, 28 + payload.len());
    packet[22..24].copy_from_slice(&to_port.to_be_bytes());
    packet[28..].copy_from_slice(payload);
    let sum = checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

fn received(socket: &UdpSocket) -> Vec<u8> {
    datagram(socket)
}

#[test]
fn rules_choose_the_flow_over_ipv6() {
    let Some(attached) = ready() else { return };
    for (port, qfi) in [(6999, QFI), (7000, OTHER), (7009, OTHER), (7020, QFI)] {
        assert_eq!(attached.six(port, b"over six"), qfi, "port {port}");
    }
    // What is said of IPv6 is not said of IPv4, and the reverse.
    assert_eq!(attached.four(7000, b"over four"), QFI);
    assert_eq!(attached.four(7020, b"over four"), OTHER);
    for len in [0u32, 1, 999, 1310] {
        let octets: Vec<u8> = (0..len).map(|n| n as u8).collect();
        assert_eq!(attached.six(7000, &octets), OTHER, "{len} octets");
    }
    let flow = attached.flow(OTHER).unwrap();
    assert_eq!(flow.uplink.packets, 2 + 1 + 4);
    assert!(flow.last_seen.is_some(), "the kernel sent them");
    // Fragments go by user space, where the first one alone has ports.
    attached.ue6.send_to(&[0x5a; 3000], (HOST6, 7000)).unwrap();
    for qfi in [OTHER, QFI, QFI] {
        assert_eq!(attached.arrives(&[0x5a; 16]), qfi);
    }
    attached.end();
}

#[test]
fn downlink_goes_by_the_kernel_in_both_versions() {
    let Some(attached) = ready() else { return };
    let from = (HOST6, 9000);
    let mut octets = 0;
    for len in [0u32, 1, 500, 1300] {
        let payload: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
        let six = udp6(from, (UE6, 8001), &payload);
        let four = udp4(8001, &payload);
        octets += six.len() + four.len();
        attached.down(OTHER, false, &six);
        assert_eq!(received(&attached.ue6), payload);
        attached.down(OTHER, false, &four);
        assert_eq!(received(&attached.ue4), payload);
    }
    let flow = attached.flow(OTHER).unwrap();
    assert_eq!(
        (flow.downlink.packets, flow.downlink.bytes),
        (8, octets as u64)
    );
    assert_eq!(flow.uplink.packets, 0);
    assert!(flow.last_seen.is_some(), "the kernel delivered them");
    // A packet for somebody else is user space's to count.
    let stray = udp4(8001, b"stray");
    let mut stray = stray;
    stray[19] ^= 1;
    let sum = {
        stray[10..12].fill(0);
        checksum(&stray[..20]).to_be_bytes()
    };
    stray[10..12].copy_from_slice(&sum);
    attached.down(OTHER, false, &stray);
    attached.down(OTHER, false, &udp4(8001, b"behind"));
    assert_eq!(received(&attached.ue4), b"behind");
    let mut left = 1000;
    while attached.relay.readings()[0].drops.no_session == 0 {
        left -= 1;
        assert!(left > 0, "the stray is counted");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(attached.relay.readings()[0].drops.no_session, 1);
}

#[test]
fn reflective_qos_holds_for_ipv6_and_does_not_keep_packets_out_of_the_kernel() {
    let Some(attached) = ready() else { return };
    assert_eq!(attached.six(9000, b"before"), QFI);
    let down = udp6((HOST6, 9000), (UE6, 8001), b"reflect");
    for _ in 0..20 {
        attached.down(OTHER, true, &down);
        assert_eq!(received(&attached.ue6), b"reflect");
    }
    assert_eq!(attached.six(9000, b"after"), OTHER);
    assert_eq!(attached.six(9001, b"another"), QFI);
    let flow = attached.flow(OTHER).unwrap();
    assert_eq!(flow.downlink.packets, 20);
    assert_eq!(flow.uplink.packets, 1);
    // New rules without reflection end what was derived, and its packets stay in the kernel.
    attached.relay.set_rules(5, UplinkRules::one(QFI));
    assert_eq!(attached.six(9000, b"ended"), QFI);
    attached.down(OTHER, true, &down);
    assert_eq!(received(&attached.ue6), b"reflect");
    attached.end();
}
