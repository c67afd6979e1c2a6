//! The recording data plane: inner addresses reach each other in clear, operations are recorded,
//! nothing is left. Needs root for network namespaces and addresses, no ESP and no eBPF.
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

mod support;
#[path = "support/traffic.rs"]
#[allow(dead_code, reason = "this test uses its part")]
mod traffic;

use std::{fs, path::Path};

use dataplane::{
    ChildSaSpec, Config, EncrAlg, Error, EspKeys, IntegAlg, Kind, Options, Plane, Role,
};
use keys::Secret;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use support::{Space, is_root, nwu, skip, wait};

fn config(role: Role, file: &Path) -> Config {
    Config {
        role,
        owner: "recording".into(),
        interface_name: "xfrmi".into(),
        interface_id: 1,
        inner_address: (role == Role::N3iwf).then(|| "10.0.0.1".parse().unwrap()),
        inner_range: (role == Role::N3iwf).then(|| "10.0.0.0/24".parse().unwrap()),
        options: Options {
            kind: Kind::Recording,
            record_file: Some(file.to_owned()),
            ..Options::default()
        },
    }
}

fn child_sa(role: Role, id: u64) -> ChildSaSpec {
    let keys = || EspKeys {
        encr: Secret::filled(32, |o| o.fill(0xa5)),
        salt: [0xa5; 4],
        integ: Some(Secret::filled(32, |o| o.fill(0xa5))),
    };
    let at_n3iwf = role == Role::N3iwf;
    let pair = |n3iwf, ue| if at_n3iwf { (n3iwf, ue) } else { (ue, n3iwf) };
    let (local, remote) = pair("192.0.2.1:4500", "192.0.2.10:4500");
    let (inner_local, inner_remote) = pair("10.0.0.1", "10.0.0.7");
    ChildSaSpec {
        id,
        plane: if id == 1 { Plane::Control } else { Plane::User },
        ue: 4,
        pdu_session: (id != 1).then_some(1),
        spi_in: 0xc000_0001,
        spi_out: 0xc000_0002,
        encr: EncrAlg::AesCbc,
        integ: Some(IntegAlg::HmacSha2_256_128),
        keys_in: keys(),
        keys_out: keys(),
        esn: true,
        replay_window: 64,
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        udp_encap: true,
        inner_local: inner_local.parse().unwrap(),
        inner_remote: inner_remote.parse().unwrap(),
        protocol: Some(6),
        slot: 0,
        reqid: 1,
    }
}

fn clean(space: &Space) -> bool {
    !space.ip(&["address"]).contains("10.0.0.") && !space.ip(&["route"]).contains("10.0.0.")
}

#[test]
fn inner_addresses_reach_each_other_and_nothing_is_left() {
    if !is_root() {
        return skip("network namespaces need root");
    }
    let (n3iwf, ue) = nwu();
    let dir = tempfile::tempdir().unwrap();
    let files = [dir.path().join("n3iwf.jsonl"), dir.path().join("ue.jsonl")];
    let ends = [(&n3iwf, Role::N3iwf), (&ue, Role::Ue)];
    let planes: Vec<_> = ends
        .iter()
        .zip(&files)
        .map(|((_, role), file)| dataplane::open(config(*role, file)).unwrap())
        .collect();
    for ((space, role), plane) in ends.iter().zip(&planes) {
        space.run(|| {
            wait(async {
                // Nothing works before the start.
                let early = plane.install(child_sa(*role, 1)).await;
                assert!(matches!(early, Err(Error::Config(_))), "{early:?}");
                let report = plane.start().await.unwrap();
                assert_eq!(report.warnings.len(), 1);
                assert_eq!(report.bpf, None);
                for id in [1, 2] {
                    plane.install(child_sa(*role, id)).await.unwrap();
                }
                let again = plane.install(child_sa(*role, 2)).await;
                assert!(matches!(again, Err(Error::Exists(2))), "{again:?}");
                assert_eq!(plane.readings().await.unwrap().len(), 2);
                assert_eq!(plane.classes().await.unwrap(), None);
            });
        });
    }
    traffic::tcp_exchange(&n3iwf, &ue, "10.0.0.1", "10.0.0.7", 100_000);
    traffic::gre_exchange(&n3iwf, &ue, "10.0.0.1", "10.0.0.7", "nwu", &[100, 1000]);
    for ((space, _), plane) in ends.iter().zip(&planes) {
        space.run(|| {
            wait(async {
                let reading = plane.remove(1).await.unwrap().unwrap();
                assert!(!reading.in_kernel);
                assert_eq!(plane.remove(1).await.unwrap(), None);
            });
        });
        // The user-plane SA still needs address and route.
        assert!(!clean(space));
        let report = space.run(|| wait(plane.stop()).unwrap());
        assert_eq!((report.child_sas, report.left), (1, vec![]));
        assert!(clean(space));
    }
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let operations: Vec<&str> = lines
            .iter()
            .map(|line| line["operation"].as_str().unwrap())
            .collect();
        assert_eq!(
            operations,
            ["start", "install", "install", "remove", "stop"]
        );
        assert_eq!(lines[1]["spi_in"], "c0000001");
        assert_eq!(lines[1]["encr_key_bits"], 256);
        // Neither as hexadecimal nor as numbers.
        assert!(!text.contains("a5a5") && !text.contains("165,165"));
    }
}

/// `/dev/full` takes no octet: what a full disk says, the kernel says here.
#[test]
fn a_full_disk_costs_records_and_nothing_else() {
    if !is_root() {
        return skip("network namespaces need root");
    }
    let (n3iwf, _peer) = nwu();
    let plane = dataplane::open(config(Role::N3iwf, Path::new("/dev/full"))).unwrap();
    n3iwf.run(|| {
        wait(async {
            plane.start().await.unwrap();
            plane.install(child_sa(Role::N3iwf, 1)).await.unwrap();
            plane
                .install_inbound(child_sa(Role::N3iwf, 2))
                .await
                .unwrap();
            plane.switch(2).await.unwrap();
            assert_eq!(plane.readings().await.unwrap().len(), 2);
            assert!(plane.remove(1).await.unwrap().is_some());
            let report = plane.stop().await.unwrap();
            assert_eq!((report.child_sas, report.left), (1, vec![]));
        });
    });
    assert!(clean(&n3iwf));
}

/// A disk that fills up in the middle of a line: a file system of two pages.
#[test]
fn a_disk_that_fills_up_leaves_whole_records() {
    if !is_root() {
        return skip("a file system to fill needs root");
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let file = disk.join("record.jsonl");
    let (n3iwf, _peer) = nwu();
    let plane = dataplane::open(config(Role::N3iwf, &file)).unwrap();
    let lines = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["operation"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    n3iwf.run(|| {
        // What this thread mounts goes with it.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let small = MsFlags::empty();
        mount(Some("none"), &disk, Some("tmpfs"), small, Some("size=8k")).unwrap();
        wait(async {
            plane.start().await.unwrap();
            for id in 1..=40 {
                plane.install(child_sa(Role::N3iwf, id)).await.unwrap();
            }
            assert_eq!(plane.readings().await.unwrap().len(), 40);
        });
        let full = lines(&fs::read_to_string(&file).unwrap());
        assert!(full.len() > 5 && full.len() < 41, "{}", full.len());
        // Room again: the next line follows the last whole one.
        let bigger = MsFlags::MS_REMOUNT;
        mount(Some("none"), &disk, None::<&str>, bigger, Some("size=64k")).unwrap();
        wait(async {
            plane.remove(1).await.unwrap();
            assert_eq!(plane.stop().await.unwrap().child_sas, 39);
        });
        let after = lines(&fs::read_to_string(&file).unwrap());
        assert_eq!(after.get(..full.len()), Some(&full[..]));
        assert_eq!(
            after.get(full.len()..),
            Some(&["remove".to_owned(), "stop".into()][..])
        );
    });
}

#[test]
fn the_next_run_clears_what_a_killed_one_left() {
    if !is_root() {
        return skip("network namespaces need root");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("record.jsonl");
    let (again, _peer) = nwu();
    // Somebody else's address and route.
    again.ip(&["address", "add", "10.8.0.1/32", "dev", "lo"]);
    again.ip(&["route", "add", "10.9.0.0/16", "via", "192.0.2.10"]);
    let first = dataplane::open(config(Role::N3iwf, &file)).unwrap();
    let next = dataplane::open(config(Role::N3iwf, &file)).unwrap();
    let report = again.run(|| {
        wait(async {
            first.start().await.unwrap();
            first.install(child_sa(Role::N3iwf, 1)).await.unwrap();
            // Killed here.
            next.start().await.unwrap()
        })
    });
    assert_eq!(
        report.removed,
        ["route to 10.0.0.7/32", "address 10.0.0.1"],
        "{report:?}"
    );
    let report = again.run(|| wait(next.stop()).unwrap());
    assert_eq!(report.left, Vec::<String>::new());
    assert!(clean(&again));
    assert!(
        again
            .ip(&["address", "show", "dev", "lo"])
            .contains("10.8.0.1")
    );
    assert!(again.ip(&["route"]).contains("10.9.0.0/16"));
}
