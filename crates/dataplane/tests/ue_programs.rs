//! The UE's programs: every packet has the QFI that the relay in user space would give it
//! (`BPF_PROG_TEST_RUN`), and a session between namespaces.
//!
//! Needs root and the object of `cargo xtask build`; no ESP.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a test fails by panicking"
)]

mod support;
#[path = "support/ue.rs"]
mod ue;
#[path = "support/world.rs"]
mod world;

use std::{
    io::Write,
    net::UdpSocket,
    time::{Duration, Instant},
};

use aya::{EbpfLoader, programs::SchedClassifier};
use dataplane::relay::{Component, Drops, Path, TunRelay, UeRelay, UplinkRule, UplinkRules};
use ebpf_common::ue::{PROGRAM_UE_DOWNLINK, PROGRAM_UE_TUNNEL, PROGRAM_UE_UPLINK};
use gtpu::Message;
use support::{has_programs, object};
use ue::{OTHER, at_ue, at_upf, n3iwf, rule, udp4};
use world::{HOST, PDU_ADDRESS, QFI, World, datagram, downlink, ue_session};

#[test]
fn the_verifier_accepts_all() {
    if !has_programs() {
        return;
    }
    let object = std::fs::read(object().unwrap()).unwrap();
    let mut ebpf = EbpfLoader::new().load(&object).unwrap();
    let release = nix::sys::utsname::uname().unwrap();
    for name in [PROGRAM_UE_UPLINK, PROGRAM_UE_TUNNEL, PROGRAM_UE_DOWNLINK] {
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program
            .load()
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let instructions = program.info().unwrap().verified_instruction_count();
        let instructions = instructions.expect("Linux 5.16 and later tell");
        writeln!(
            std::io::stderr(),
            "{}: {name}: {instructions} instructions verified",
            release.release().to_string_lossy()
        )
        .unwrap();
        assert!(instructions < 100_000, "{name}: {instructions}");
    }
}

fn rules() -> UplinkRules {
    UplinkRules::new(vec![
        rule(255, QFI, vec![Component::Any]),
        rule(
            10,
            OTHER,
            vec![Component::Protocol(17), Component::RemotePort(7000..=7009)],
        ),
    ])
    .with_rq_timer(Duration::from_secs(600))
}

fn attach(world: &World, programs: bool) -> TunRelay {
    ue::attach(world, ue_session("access", rules()), programs)
}

/// QFI and payload of a packet to `port` of the host when it arrives at the UPF.
fn arrives(ue: &UdpSocket, upf: &UdpSocket, port: u16, octets: &[u8]) -> u8 {
    ue.send_to(octets, (HOST, port)).unwrap();
    let datagram = datagram(upf);
    let message = Message::decode(&datagram).unwrap();
    assert!(message.payload.ends_with(octets), "port {port}");
    message.header.container.unwrap().qfi
}

#[test]
fn rules_choose_the_flow_and_user_space_has_what_is_not_plain() {
    if !has_programs() {
        return;
    }
    let world = World::new();
    let _n3iwf = n3iwf(&world);
    let relay = attach(&world, true);
    let upf = at_upf(&world);
    let ue = at_ue(&world, PDU_ADDRESS);
    for (port, qfi) in [(6999, QFI), (7000, OTHER), (7009, OTHER), (7010, QFI)] {
        assert_eq!(arrives(&ue, &upf, port, b"up"), qfi, "port {port}");
    }
    let reading = || relay.readings().remove(0);
    let by_flow = |qfi| {
        let flows = reading().flows;
        let found = flows.iter().find(|flow| flow.qfi == qfi).copied();
        found.map_or((0, None), |flow| (flow.uplink.packets, flow.last_seen))
    };
    assert_eq!((by_flow(QFI).0, by_flow(OTHER).0), (2, 2));
    assert!(by_flow(OTHER).1.is_some(), "the kernel sent it");
    assert_eq!(reading().path, Path::Kernel);

    // Fragments go by user space, which has the rules too: the first one has ports.
    ue.send_to(&[0x5a; 3000], (HOST, 7000)).unwrap();
    let qfis: Vec<u8> = (0..3)
        .map(|_| {
            Message::decode(&datagram(&upf))
                .unwrap()
                .header
                .container
                .unwrap()
                .qfi
        })
        .collect();
    assert_eq!(qfis, [OTHER, QFI, QFI]);
    assert_eq!((by_flow(QFI).0, by_flow(OTHER).0), (4, 3));

    // Reflective QoS: the downlink goes by user space and tells the programs.
    let send_down = |rqi_port: u16| {
        let datagram = downlink(world::DL_TEID, OTHER, &udp4(rqi_port, &[0x5a; 32]));
        upf.send_to(&datagram, (world::N3IWF, gtpu::PORT)).unwrap();
        let mut room = [0; 100];
        ue.recv(&mut room).unwrap();
    };
    assert_eq!(arrives(&ue, &upf, 9000, b"before"), QFI);
    send_down(9000);
    assert_eq!(arrives(&ue, &upf, 9000, b"after"), OTHER);
    assert_eq!(arrives(&ue, &upf, 9001, b"another"), QFI);

    // New rules take the place of the old ones, and end what was derived.
    relay.set_rules(5, UplinkRules::one(OTHER));
    assert_eq!(arrives(&ue, &upf, 6999, b"new"), OTHER);
    relay.set_rules(5, UplinkRules::one(QFI));
    assert_eq!(arrives(&ue, &upf, 9000, b"new"), QFI);
    // More than the programs take: user space goes on alone.
    let filters = vec![vec![Component::Any]; 33];
    let many = UplinkRule {
        precedence: 1,
        qfi: OTHER,
        filters,
    };
    relay.set_rules(5, UplinkRules::new(vec![many]));
    assert_eq!(arrives(&ue, &upf, 6999, b"many"), OTHER);
    assert_eq!(reading().path, Path::User);
    let before = by_flow(OTHER).0;
    relay.set_rules(5, rules());
    assert_eq!(arrives(&ue, &upf, 7000, b"back"), OTHER);
    assert_eq!(reading().path, Path::Kernel);
    assert_eq!(by_flow(OTHER).0, before + 1);
    // What the kernel says by itself over IPv6 is "malformed" here.
    let drops = Drops {
        malformed: 0,
        ..reading().drops
    };
    assert_eq!(drops, Drops::default());

    let last = relay.remove(5).unwrap();
    assert_eq!(last.flows.len(), 2);
    let links = world.ue.ip(&["-o", "link", "show"]);
    assert!(!links.contains("uepdu5"), "{links}");
    // A session with the same interface name is served again.
    drop((relay, ue));
    let relay = attach(&world, true);
    let ue = at_ue(&world, PDU_ADDRESS);
    assert_eq!(arrives(&ue, &upf, 7000, b"again"), OTHER);
    assert_eq!(relay.readings()[0].path, Path::Kernel);
}

/// A flood of one socket up to the interface of the tunnel, both ways in turn. The figures are printed;
/// asserted is that the kernel's way loses nothing.
#[test]
fn both_ways_are_measured() {
    if !has_programs() {
        return;
    }
    const PACKETS: u64 = 100_000;
    for octets in [64 - 28, 1330 - 28] {
        for programs in [false, true] {
            let world = World::new();
            let relay = attach(&world, programs);
            let ue = at_ue(&world, PDU_ADDRESS);
            let sent = || relay.readings()[0].uplink.packets;
            let payload = vec![0x5a; octets];
            let begin = Instant::now();
            for _ in 0..PACKETS {
                ue.send_to(&payload, (HOST, 7000)).unwrap();
            }
            let (mut last, mut elapsed) = (0, begin.elapsed());
            let mut quiet = 0;
            while quiet < 20 {
                let now = sent();
                quiet += 1;
                if now != last {
                    (last, elapsed, quiet) = (now, begin.elapsed(), 0);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            let rate = last as f64 / elapsed.as_secs_f64();
            writeln!(
                std::io::stderr(),
                "{} octets, programs {programs}: {last} of {PACKETS} relayed, {rate:.0} packets/s",
                octets + 28
            )
            .unwrap();
            assert!(last > 0);
            if programs {
                assert_eq!(last, PACKETS, "none is lost on the way through the kernel");
            }
        }
    }
}
