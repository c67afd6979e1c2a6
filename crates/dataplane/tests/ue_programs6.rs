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
#[path = "support/ue.rs"]
mod ue;
#[path = "support/world.rs"]
mod world;

use std::{
    net::{Ipv6Addr, UdpSocket},
    time::{Duration, Instant},
};

use dataplane::relay::{
    Component, Drops, FlowReading, GtpRelay, Path, TunRelay, UeRelay, UeSession, UplinkRules,
};
use gtpu::{Direction, Message, PduSessionContainer, encode_g_pdu};
use support::{
    has_programs,
    internet::{self, seal},
    skip,
};
use ue::{OTHER, PORT, at_ue, at_upf, n3iwf, rule, udp4};
use world::{DL_TEID, HOST, PDU_ADDRESS, QFI, World, datagram, ue_session};

const IID: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 7];
const UE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x60, 0, 0, 0, 0, 7);
const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 0x10);

fn rules() -> UplinkRules {
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
    let session = UeSession {
        interface_id: Some(IID),
        ..ue_session("access", rules())
    };
    let relay = ue::attach(world, session, true);
    let own = format!("{UE6}/64");
    world
        .ue
        .ip(&["-6", "address", "add", &own, "dev", "uepdu5", "nodad"]);
    let route = ["-6", "route", "add", "2001:db8:18::/64", "dev", "uepdu5"];
    world.ue.ip(&route);
    world.ue.delivers(UE6);
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
    if !has_programs() {
        return None;
    }
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        skip("this kernel has no IPv6");
        return None;
    }
    let world = World::new();
    let n3iwf = n3iwf(&world);
    let relay = attach(&world);
    Some(Attached {
        ue4: at_ue(&world, PDU_ADDRESS),
        ue6: at_ue(&world, UE6),
        upf: at_upf(&world),
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

    /// The flow once so many downlink packets are counted: user space counts a packet after it has handed it on,
    /// and may have to wait for its turn in between.
    fn delivered(&self, qfi: u8, packets: u64) -> FlowReading {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let flow = self.flow(qfi).unwrap();
            if flow.downlink.packets >= packets || Instant::now() > end {
                assert_eq!(flow.downlink.packets, packets);
                return flow;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) {
        let reading = self.world.ue.run(|| self.relay.remove(5)).unwrap();
        assert_eq!(reading.drops, Drops::default());
    }
}

/// UDP over IPv6 from a port of the host to the UE's socket.
fn udp6(port: u16, payload: &[u8]) -> Vec<u8> {
    let (from, to) = ((HOST6.octets(), port), (UE6.octets(), PORT));
    internet::udp6(0, from, to, payload)
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
    let mut octets = 0;
    for len in [0u32, 1, 500, 1300] {
        let payload: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
        let six = udp6(9000, &payload);
        let four = udp4(8000, &payload);
        octets += six.len() + four.len();
        attached.down(OTHER, false, &six);
        assert_eq!(datagram(&attached.ue6), payload);
        attached.down(OTHER, false, &four);
        assert_eq!(datagram(&attached.ue4), payload);
    }
    let flow = attached.flow(OTHER).unwrap();
    assert_eq!(
        (flow.downlink.packets, flow.downlink.bytes),
        (8, octets as u64)
    );
    assert_eq!(flow.uplink.packets, 0);
    assert!(flow.last_seen.is_some(), "the kernel delivered them");
    // A packet for somebody else is user space's to count.
    let mut stray = udp4(8000, b"stray");
    stray[19] ^= 1;
    seal(&mut stray);
    attached.down(OTHER, false, &stray);
    attached.down(OTHER, false, &udp4(8000, b"behind"));
    assert_eq!(datagram(&attached.ue4), b"behind");
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
    let down = udp6(9000, b"reflect");
    for _ in 0..20 {
        attached.down(OTHER, true, &down);
        assert_eq!(datagram(&attached.ue6), b"reflect");
    }
    assert_eq!(attached.six(9000, b"after"), OTHER);
    assert_eq!(attached.six(9001, b"another"), QFI);
    assert_eq!(attached.delivered(OTHER, 20).uplink.packets, 1);
    // New rules without reflection end what was derived, and its packets stay in the kernel.
    attached.relay.set_rules(5, UplinkRules::one(QFI));
    assert_eq!(attached.six(9000, b"ended"), QFI);
    attached.down(OTHER, true, &down);
    assert_eq!(datagram(&attached.ue6), b"reflect");
    attached.end();
}
