//! The eBPF programs on a veth: every class of packet, counted exactly.
//!
//! Needs root and the object of `cargo xtask build`; no ESP, so it runs on any kernel with eBPF.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a test fails by panicking"
)]

#[path = "support/frames.rs"]
mod frames;
mod support;
#[path = "support/traffic.rs"]
#[allow(dead_code, reason = "this test uses its part")]
mod traffic;

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use dataplane::{
    BpfOptions, ChildSaSpec, ClassReading, Config, Dataplane, EncrAlg, EspKeys, Kind, Options,
    Plane, Recording, Role, SaReading,
};
use frames::{Frame, Sender};
use keys::Secret;
use support::{Space, has_programs, nwu, object, pin_dir, skip, wait};

const SPI_CONTROL: u32 = 0xc000_0001;
const SPI_USER: u32 = 0xc000_0002;

/// The data plane under test: the recording one, which accounts just like the kernel's.
fn recording(space: &Space, options: Options) -> Recording {
    Recording::new(Config {
        role: Role::N3iwf,
        owner: "bpf_native".into(),
        interface_name: "xfrmi".into(),
        interface_id: 1,
        inner_address: Some("10.0.0.1".parse().unwrap()),
        inner_range: Some("10.0.0.0/24".parse().unwrap()),
        options: Options {
            kind: Kind::Recording,
            bpf: Some(BpfOptions {
                interface: "nwu".into(),
                object: object().unwrap(),
                pin_dir: pin_dir(space),
                max_child_sas: Some(64),
                ike_init_per_source: None,
            }),
            ..options
        },
    })
    .unwrap()
}

fn keys() -> EspKeys {
    EspKeys {
        encr: Secret::filled(32, |o| o.fill(1)),
        salt: [0; 4],
        integ: None,
    }
}

fn child_sa(plane: Plane, remote: &str) -> ChildSaSpec {
    let (id, spi, pdu_session) = match plane {
        Plane::Control => (1, SPI_CONTROL, None),
        Plane::User => (2, SPI_USER, Some(5)),
    };
    ChildSaSpec {
        id,
        plane,
        ue: 3,
        pdu_session,
        spi_in: spi,
        spi_out: spi + 0x100,
        encr: EncrAlg::AesGcm16,
        integ: None,
        keys_in: keys(),
        keys_out: keys(),
        esn: true,
        replay_window: 64,
        local: "192.0.2.1:4500".parse().unwrap(),
        remote: remote.parse().unwrap(),
        udp_encap: false,
        inner_local: "10.0.0.1".parse().unwrap(),
        inner_remote: "10.0.0.7".parse().unwrap(),
        protocol: None,
        slot: 0,
        reqid: 1,
    }
}

/// NWu on which nothing is sent but by a test. With an IPv6 address a kernel reports its multicast groups, by chance
/// within a second after the link is up.
fn quiet_nwu() -> (Space, Space) {
    let (n3iwf, ue) = nwu();
    for space in [&n3iwf, &ue] {
        space.run(|| std::fs::write("/proc/sys/net/ipv6/conf/nwu/disable_ipv6", "1").unwrap());
    }
    (n3iwf, ue)
}

fn readings(space: &Space, plane: &Recording) -> (ClassReading, Vec<SaReading>) {
    space.run(|| {
        wait(async {
            (
                plane.classes().await.unwrap().unwrap(),
                plane.readings().await.unwrap(),
            )
        })
    })
}

/// What is sent, and the class it has to count in.
fn cases() -> Vec<(&'static str, Frame)> {
    let esp4 = |spi| Frame::v4(50, &frames::esp(spi, 40));
    let udp4 = |ports: (u16, u16), payload: &[u8]| Frame::v4(17, &frames::udp(ports, payload));
    let nat = (40_000, 4500);
    let marked = |exchange| [&[0; 4][..], &frames::ike(2, exchange)].concat();
    let truncated_udp = {
        let mut udp = frames::udp((500, 500), &frames::ike(2, 34));
        // Says it is longer than the IP packet.
        udp[4..6].copy_from_slice(&200u16.to_be_bytes());
        udp
    };
    let hop_by_hop = [&[50, 0, 1, 4, 0, 0, 0, 0][..], &frames::esp(SPI_USER, 16)].concat();
    let fragment6 = [
        &[17, 0, 0, 1, 0, 0, 0, 9][..],
        &frames::udp(nat, &marked(35)),
    ]
    .concat();
    let atomic6 = [
        &[17, 0, 0, 0, 0, 0, 0, 9][..],
        &frames::udp(nat, &marked(35)),
    ]
    .concat();
    let chain = |count: usize| {
        let mut octets = Vec::new();
        for left in (0..count).rev() {
            octets.extend([if left == 0 { 50 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        octets.extend(frames::esp(SPI_CONTROL, 16));
        octets
    };
    vec![
        ("ike_sa_init", udp4((500, 500), &frames::ike(2, 34))),
        ("ike_sa_init", udp4(nat, &marked(34))),
        (
            "ike_sa_init",
            Frame::v6(17, &frames::udp((500, 500), &frames::ike(2, 34))),
        ),
        ("ike_auth", udp4(nat, &marked(35))),
        ("ike_auth", udp4(nat, &marked(35)).vlan(7)),
        ("ike_auth", udp4(nat, &marked(35)).vlan(7).vlan(9)),
        ("ike_auth", Frame::v6(44, &atomic6)),
        ("ike_create_child_sa", udp4(nat, &marked(36))),
        ("ike_informational", udp4(nat, &marked(37))),
        (
            "ike_informational",
            Frame::v4_options(17, &frames::udp(nat, &marked(37))),
        ),
        ("ike_other", udp4(nat, &marked(43))),
        // IKEv1 main mode.
        ("ike_other", udp4((500, 500), &frames::ike(1, 2))),
        ("nat_keepalive", udp4(nat, &[0xff])),
        ("nat_keepalive", Frame::v6(17, &frames::udp(nat, &[0xff]))),
        ("esp_control", esp4(SPI_CONTROL)),
        ("esp_control", udp4(nat, &frames::esp(SPI_CONTROL, 40))),
        ("esp_control", Frame::v6(60, &chain(1))),
        ("esp_control", Frame::v6(60, &chain(8))),
        ("esp_user", esp4(SPI_USER)),
        ("esp_user", esp4(SPI_USER).vlan(7)),
        ("esp_user", udp4(nat, &frames::esp(SPI_USER, 1000))),
        ("esp_user", Frame::v6(50, &frames::esp(SPI_USER, 40))),
        ("esp_user", Frame::v6(0, &hop_by_hop)),
        ("esp_unknown_spi", esp4(0xdead_beef)),
        // Our outbound SPI does not name an inbound SA.
        ("esp_unknown_spi", esp4(SPI_USER + 0x100)),
        ("esp_unknown_spi", udp4(nat, &frames::esp(0xdead_beef, 40))),
        ("fragment", esp4(SPI_USER).fragment(0, true)),
        ("fragment", esp4(SPI_USER).fragment(185, false)),
        ("fragment", Frame::v6(44, &fragment6)),
        ("malformed", Frame::raw(0x0800, &[0x45, 0])),
        // Header length below 20, version 5, total length beyond the frame.
        ("malformed", esp4(SPI_USER).patch(0, 0x44)),
        ("malformed", esp4(SPI_USER).patch(0, 0x55)),
        ("malformed", esp4(SPI_USER).patch(2, 0x10)),
        ("malformed", Frame::v4(17, &truncated_udp)),
        ("malformed", Frame::v4(17, &[0; 5])),
        ("malformed", Frame::v4(50, &[1, 2, 3, 4, 5])),
        ("malformed", udp4((500, 500), &[0; 27])),
        ("malformed", udp4(nat, &[0xfe])),
        ("malformed", udp4(nat, &[0, 0, 0, 0, 1])),
        ("malformed", Frame::v6(60, &[50, 200, 0, 0])),
        ("other", udp4((53, 53), b"x")),
        ("other", Frame::v4(1, &[8, 0, 0, 0, 0, 0, 0, 0])),
        ("other", Frame::v4(6, &[0; 20])),
        // More extension headers than are looked through.
        ("other", Frame::v6(60, &chain(9))),
        ("non_ip", Frame::raw(0x88b5, &[0; 46])),
    ]
}

#[test]
fn every_class_is_counted_exactly() {
    if !has_programs() {
        return;
    }
    let (n3iwf, ue) = quiet_nwu();
    let plane = recording(&n3iwf, Options::default());
    n3iwf.run(|| {
        wait(async {
            let report = plane.start().await.unwrap();
            assert!(matches!(report.bpf.as_deref(), Some("tcx" | "clsact")));
            for (kind, remote) in [
                (Plane::Control, "192.0.2.10:4500"),
                (Plane::User, "192.0.2.10:4500"),
            ] {
                plane.install(child_sa(kind, remote)).await.unwrap();
            }
        });
    });
    let (before, _) = readings(&n3iwf, &plane);
    let cases = cases();
    ue.run(|| {
        let sender = Sender::new("nwu");
        for (_, frame) in &cases {
            sender.send(&frame.octets());
        }
    });
    let (after, sas) = readings(&n3iwf, &plane);
    for ((name, was), (_, is)) in before.ingress.iter().zip(after.ingress.iter()) {
        let expected: Vec<u64> = cases
            .iter()
            .filter(|(class, _)| *class == name)
            .map(|(_, frame)| frame.counted())
            .collect();
        assert!(!expected.is_empty(), "no case for {name}");
        assert_eq!(
            is.packets - was.packets,
            expected.len() as u64,
            "{name} packets"
        );
        assert_eq!(
            is.bytes - was.bytes,
            expected.iter().sum::<u64>(),
            "{name} bytes"
        );
        assert!(is.last_seen.is_some(), "{name} last seen");
    }
    // What counts for a plane counts for the SA of that plane too.
    for (sa, class) in [
        (&sas[0], after.ingress.esp_control),
        (&sas[1], after.ingress.esp_user),
    ] {
        assert_eq!(sa.ebpf_in, Some(class));
        assert_eq!(sa.ebpf_out, Some(Default::default()));
    }

    // The other direction: the same frames leave, and the peer's SPI with its address is the key.
    n3iwf.run(|| {
        let sender = Sender::new("nwu");
        sender.send(
            &Frame::v4(50, &frames::esp(SPI_USER + 0x100, 40))
                .towards_ue()
                .octets(),
        );
        // The right SPI to somebody else is not our SA.
        sender.send(&Frame::v4(50, &frames::esp(SPI_USER + 0x100, 40)).octets());
        sender.send(&Frame::v6(50, &frames::esp(SPI_USER + 0x100, 40)).octets());
        sender.send(&Frame::v4(17, &frames::udp((4500, 40_000), &[0xff])).octets());
    });
    let (out, sas) = readings(&n3iwf, &plane);
    let grown = |f: fn(&ClassReading) -> u64| f(&out) - f(&after);
    assert_eq!(grown(|c| c.egress.esp_user.packets), 1);
    assert_eq!(grown(|c| c.egress.esp_unknown_spi.packets), 2);
    assert_eq!(grown(|c| c.egress.nat_keepalive.packets), 1);
    assert_eq!(grown(|c| c.ingress.esp_user.packets), 0);
    let user_out = sas[1].ebpf_out.unwrap();
    assert_eq!((user_out.packets, user_out.bytes), (1, 20 + 8 + 40));

    // An SA that goes takes its entries along: its SPI is unknown from then on.
    n3iwf.run(|| wait(plane.remove(2)).unwrap().unwrap());
    ue.run(|| Sender::new("nwu").send(&Frame::v4(50, &frames::esp(SPI_USER, 40)).octets()));
    let (last, sas) = readings(&n3iwf, &plane);
    assert_eq!(
        last.ingress.esp_unknown_spi.packets - out.ingress.esp_unknown_spi.packets,
        1
    );
    assert_eq!(sas.len(), 1);
    let report = n3iwf.run(|| wait(plane.stop())).unwrap();
    assert_eq!(report.left, Vec::<String>::new());
    assert!(!pin_dir(&n3iwf).exists());
}

/// Packets whose octets are not in the linear part of the buffer, as TCP and large frames make them.
#[test]
fn non_linear_packets_are_read_too() {
    if !has_programs() {
        return;
    }
    let (n3iwf, ue) = quiet_nwu();
    for space in [&n3iwf, &ue] {
        space.ip(&["link", "set", "nwu", "mtu", "40000"]);
    }
    let plane = recording(&n3iwf, Options::default());
    n3iwf.run(|| {
        wait(async {
            plane.start().await.unwrap();
            let sa = child_sa(Plane::User, "192.0.2.10:4500");
            plane.install(sa).await.unwrap();
        });
    });
    // A page or more goes into fragments of the buffer.
    let frame = Frame::v4(50, &frames::esp(SPI_USER, 30_000));
    ue.run(|| Sender::new("nwu").send(&frame.octets()));
    let (classes, sas) = readings(&n3iwf, &plane);
    assert_eq!(classes.ingress.esp_user.packets, 1);
    assert_eq!(sas[0].ebpf_in.unwrap().bytes, 20 + 8 + 30_000);

    // TCP in clear: every segment counts as it is on the wire, super-packet or not.
    traffic::tcp_exchange(&n3iwf, &ue, "192.0.2.1", "192.0.2.10", 1 << 20);
    let (after, _) = readings(&n3iwf, &plane);
    let (into, out) = (after.ingress.other, after.egress.other);
    assert_eq!(after.ingress.malformed.packets, 0);
    for count in [into, out] {
        // 1 MiB and a header of 40 to 60 octets for each segment that carries some of it.
        let octets = 1 << 20;
        assert!(
            count.bytes > octets && count.bytes < 2 * octets,
            "{count:?}"
        );
    }
    let report = n3iwf.run(|| wait(plane.stop())).unwrap();
    assert_eq!(report.left, Vec::<String>::new());
}

/// A TUN device has no link header: packets start with the IP header.
#[test]
fn an_interface_without_link_header() {
    if !has_programs() {
        return;
    }
    let space = Space::new("t");
    space.ip(&["tuntap", "add", "nwu", "mode", "tun"]);
    let device = space.run(|| {
        tun_rs::DeviceBuilder::new()
            .name("nwu")
            .ipv4("192.0.2.1", 24, None)
            .build_sync()
            .unwrap()
    });
    let plane = recording(&space, Options::default());
    space.run(|| {
        wait(async {
            plane.start().await.unwrap();
            let sa = child_sa(Plane::User, "192.0.2.10:4500");
            plane.install(sa).await.unwrap();
        });
    });
    let frame = Frame::v4(50, &frames::esp(SPI_USER, 40));
    // Behind the Ethernet header of the frame: what a TUN device takes.
    device.send(&frame.octets()[14..]).unwrap();
    let (classes, sas) = readings(&space, &plane);
    assert_eq!(classes.ingress.esp_user.packets, 1);
    assert_eq!(sas[0].ebpf_in.unwrap().bytes, frame.counted());
    let report = space.run(|| wait(plane.stop())).unwrap();
    assert_eq!(report.left, Vec::<String>::new());
}

#[test]
fn bpftool_prints_field_names() {
    if !has_programs() {
        return;
    }
    if Command::new("bpftool").arg("version").output().is_err() {
        return skip("bpftool is not installed");
    }
    let (n3iwf, ue) = quiet_nwu();
    let plane = recording(&n3iwf, Options::default());
    n3iwf.run(|| {
        wait(async {
            plane.start().await.unwrap();
            let sa = child_sa(Plane::User, "192.0.2.10:4500");
            plane.install(sa).await.unwrap();
        });
    });
    ue.run(|| Sender::new("nwu").send(&Frame::v4(50, &frames::esp(SPI_USER, 40)).octets()));
    let dump = |map: &str| {
        let pin = pin_dir(&n3iwf).join(map);
        support::run(
            "bpftool",
            &["-j", "map", "dump", "pinned", pin.to_str().unwrap()],
        )
    };
    let json: serde_json::Value = serde_json::from_str(&dump("nwu_classes")).unwrap();
    let per_cpu = json[0]["formatted"]["values"].as_array().unwrap();
    let packets: u64 = per_cpu
        .iter()
        .map(|cpu| cpu["value"]["esp_user"]["packets"].as_u64().unwrap())
        .sum();
    assert_eq!(packets, 1);
    let json: serde_json::Value = serde_json::from_str(&dump("nwu_sas")).unwrap();
    let entries = json.as_array().unwrap();
    assert_eq!(entries.len(), 2);
    let all: serde_json::Value = serde_json::from_str(&dump("nwu_sa_stats")).unwrap();
    let taken =
        |entry: &&serde_json::Value| entry["formatted"]["values"][0]["value"]["sa"]["plane"] != 0;
    assert_eq!(all.as_array().unwrap().iter().filter(taken).count(), 2);
    for entry in entries {
        let (key, value) = (&entry["formatted"]["key"], &entry["formatted"]["value"]);
        let outbound = key["direction"] == 1;
        assert_eq!(
            key["spi"],
            if outbound { SPI_USER + 0x100 } else { SPI_USER }
        );
        assert_eq!(value["sa"]["plane"], 2);
        assert_eq!(value["sa"]["ue"], 3);
        assert_eq!(value["sa"]["pdu_session"], 5);
        let place = &all[usize::try_from(value["place"].as_u64().unwrap()).unwrap()];
        let per_cpu = place["formatted"]["values"].as_array().unwrap();
        for cpu in per_cpu {
            assert_eq!(cpu["value"]["key"], *key);
            assert_eq!(cpu["value"]["sa"], value["sa"]);
        }
        let counter =
            |cpu: &serde_json::Value, field: &str| cpu["value"]["counter"][field].as_u64().unwrap();
        for (field, inbound) in [("packets", 1), ("bytes", 68)] {
            let sum: u64 = per_cpu.iter().map(|cpu| counter(cpu, field)).sum();
            assert_eq!(sum, if outbound { 0 } else { inbound }, "{field}");
        }
        let seen = |cpu: &serde_json::Value| counter(cpu, "last_seen_ns") > 0;
        assert_eq!(per_cpu.iter().any(seen), !outbound);
    }
    let report = n3iwf.run(|| wait(plane.stop())).unwrap();
    assert_eq!(report.left, Vec::<String>::new());
}

/// As many Child SAs as there is room for: most of them share the place that their keys say with others. Those that
/// come after them get places that were given up.
#[test]
fn a_full_table_counts_every_sa_and_takes_new_ones() {
    if !has_programs() {
        return;
    }
    const ROOM: u32 = 64;
    let (n3iwf, ue) = quiet_nwu();
    let plane = recording(&n3iwf, Options::default());
    n3iwf.run(|| wait(plane.start()).unwrap());
    let sa = |n: u32| ChildSaSpec {
        id: n.into(),
        spi_in: 0xc100_0000 + n,
        spi_out: 0xd100_0000 + n,
        reqid: n,
        ..child_sa(Plane::User, "192.0.2.10:4500")
    };
    for generation in 0..3 {
        let ids: Vec<u32> = (1..=ROOM).map(|n| generation * 1000 + n).collect();
        for n in &ids {
            n3iwf.run(|| wait(plane.install(sa(*n))).unwrap());
        }
        let one_more = n3iwf.run(|| wait(plane.install(sa(9999))));
        assert!(one_more.is_err(), "there is no room for it");
        ue.run(|| {
            let sender = Sender::new("nwu");
            for n in &ids {
                let packet = Frame::v4(50, &frames::esp(sa(*n).spi_in, 40)).octets();
                // The nth SA gets n packets, so that one that counts for another is seen.
                for _ in 0..n % 1000 {
                    sender.send(&packet);
                }
            }
        });
        let (_, readings) = readings(&n3iwf, &plane);
        assert_eq!(readings.len(), ids.len());
        for reading in readings {
            let seen = reading.ebpf_in.unwrap();
            assert_eq!(seen.packets, reading.id % 1000, "Child SA {}", reading.id);
        }
        for n in &ids {
            n3iwf.run(|| wait(plane.remove(u64::from(*n))).unwrap());
        }
    }
    let report = n3iwf.run(|| wait(plane.stop())).unwrap();
    assert_eq!(report.left, Vec::<String>::new());
}

#[test]
fn a_killed_daemon_leaves_class_counters_and_nothing_attached_twice() {
    if !has_programs() {
        return;
    }
    let (n3iwf, ue) = quiet_nwu();
    let probe = || {
        ue.run(|| Sender::new("nwu").send(&Frame::v4(50, &frames::esp(SPI_USER, 40)).octets()));
    };
    let first = recording(&n3iwf, Options::default());
    n3iwf.run(|| {
        wait(async {
            first.start().await.unwrap();
            let sa = child_sa(Plane::User, "192.0.2.10:4500");
            first.install(sa).await.unwrap();
        });
    });
    probe();
    assert_eq!(readings(&n3iwf, &first).0.ingress.esp_user.packets, 1);
    // As when a process is killed: programs and pins stay, and must not count a second time.
    drop(first);
    let second = recording(&n3iwf, Options::default());
    let report = n3iwf.run(|| wait(second.start())).unwrap();
    assert!(
        report
            .removed
            .iter()
            .any(|line| line.contains("nwu_sa_stats")),
        "{report:?}"
    );
    assert!(
        report.removed.iter().any(|line| line.contains("10.0.0.7")),
        "{report:?}"
    );
    // The counters go on, the SA of the first run is unknown now.
    let (classes, sas) = readings(&n3iwf, &second);
    assert_eq!(classes.ingress.esp_user.packets, 1);
    assert_eq!(sas, []);
    let unknown = classes.ingress.esp_unknown_spi.packets;
    probe();
    let (classes, _) = readings(&n3iwf, &second);
    assert_eq!(classes.ingress.esp_unknown_spi.packets, unknown + 1);
    assert_eq!(classes.ingress.esp_user.packets, 1);
    let report = n3iwf.run(|| wait(second.stop())).unwrap();
    assert_eq!(report.left, Vec::<String>::new());
    assert!(!pin_dir(&n3iwf).exists());
}

/// An earlier run's programs count until the next one's do: no packet is missed and none counted twice.
#[test]
fn the_next_run_takes_over_between_two_packets() {
    if !has_programs() {
        return;
    }
    let (n3iwf, ue) = quiet_nwu();
    let first = recording(&n3iwf, Options::default());
    n3iwf.run(|| wait(first.start())).unwrap();
    drop(first);
    let second = recording(&n3iwf, Options::default());
    let over = AtomicBool::new(false);
    let (sent, report) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            ue.run(|| {
                let sender = Sender::new("nwu");
                let frame = Frame::v4(50, &frames::esp(SPI_USER, 40)).octets();
                let mut sent = 0;
                while !over.load(Ordering::Relaxed) {
                    sender.send(&frame);
                    sent += 1;
                    std::thread::sleep(Duration::from_micros(20));
                }
                sent
            })
        });
        // Some while nobody runs, and some after the second is there.
        std::thread::sleep(Duration::from_millis(50));
        let report = n3iwf.run(|| wait(second.start())).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        over.store(true, Ordering::Relaxed);
        (sender.join().unwrap(), report)
    });
    let counted = || {
        let classes = readings(&n3iwf, &second).0;
        classes.ingress.esp_unknown_spi.packets
    };
    // What is on its way arrives.
    let begin = Instant::now();
    while counted() < sent && begin.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
    if report.bpf.as_deref() == Some("tcx") {
        assert_eq!(counted(), sent);
    } else {
        // By clsact it is two requests.
        assert!((1..=sent).contains(&counted()), "{} of {sent}", counted());
    }
    let report = n3iwf.run(|| wait(second.stop())).unwrap();
    assert_eq!(report.left, Vec::<String>::new());
    assert!(!pin_dir(&n3iwf).exists());
}

#[test]
fn a_failed_start_leaves_nothing() {
    if !has_programs() {
        return;
    }
    let (n3iwf, _ue) = quiet_nwu();
    let missing = Recording::new(Config {
        role: Role::N3iwf,
        owner: "bpf_native".into(),
        interface_name: "xfrmi".into(),
        interface_id: 1,
        inner_address: Some("10.0.0.1".parse().unwrap()),
        inner_range: Some("10.0.0.0/24".parse().unwrap()),
        options: Options {
            kind: Kind::Recording,
            bpf: Some(BpfOptions {
                interface: "nowhere".into(),
                object: object().unwrap(),
                pin_dir: pin_dir(&n3iwf),
                max_child_sas: Some(64),
                ike_init_per_source: None,
            }),
            ..Options::default()
        },
    })
    .unwrap();
    let error = n3iwf.run(|| wait(missing.start())).unwrap_err().to_string();
    assert!(error.contains("interface nowhere"), "{error}");
    assert!(!pin_dir(&n3iwf).exists());
    assert!(
        !n3iwf
            .ip(&["address", "show", "dev", "lo"])
            .contains("10.0.0.1")
    );
}

/// libbpf, by which bpftool loads, is stricter about the types of maps than this crate's loader.
#[test]
fn bpftool_loads_the_object_too() {
    if !has_programs() {
        return;
    }
    let space = Space::new("b");
    let pins = pin_dir(&space);
    std::fs::create_dir(&pins).unwrap();
    let (object, programs, maps) = (object().unwrap(), pins.join("programs"), pins.join("maps"));
    let [object, programs, maps] = [&object, &programs, &maps].map(|path| path.to_str().unwrap());
    let output = Command::new("bpftool")
        .args(["prog", "loadall", object, programs, "type", "classifier"])
        .args(["pinmaps", maps])
        .output()
        .unwrap();
    let names = |directory: &str| -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(directory) else {
            return Vec::new();
        };
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let (programs, maps) = (names(programs), names(maps));
    std::fs::remove_dir_all(&pins).unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    for name in [
        "nwu_ingress",
        "nwu_egress",
        "relay_uplink",
        "relay_downlink",
    ] {
        assert!(programs.iter().any(|one| one == name), "{programs:?}");
    }
    for name in ["nwu_classes", "nwu_sas", "nwu_sa_stats", "relay_events"] {
        assert!(maps.iter().any(|one| one == name), "{maps:?}");
    }
}
