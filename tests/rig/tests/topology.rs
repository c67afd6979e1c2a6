//! The topology is what it claims to be, and nothing of it stays. Needs root.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use rig::bulk::{Direction, transfer};
use rig::capture::{Capture, ike_frames};
use rig::process::{Process, Spec};
use rig::topology::{self, Place, Topology};

/// These tests need root; without it they say so and do nothing, unless `REQUIRE_KERNEL` is set.
fn root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("REQUIRE_KERNEL").is_none(),
        "root is required"
    );
    println!("skipped: network namespaces need root");
    false
}

fn prefix(name: &str) -> String {
    format!("rig{}{name}", std::process::id())
}

fn reaches(topology: &Topology, from: Place, address: &str) -> bool {
    let target: SocketAddr = format!("{address}:8443").parse().unwrap();
    topology
        .place(from)
        .unwrap()
        .run(|| {
            Ok(TcpStream::connect_timeout(
                &target,
                Duration::from_millis(300),
            )?)
        })
        .is_ok()
}

#[test]
fn sites_are_apart() {
    if !root() {
        return;
    }
    let topology = Topology::build(&prefix("a")).unwrap();
    let listen = |place: Place| {
        let netns = topology.place(place).unwrap();
        netns
            .run(|| Ok(TcpListener::bind("0.0.0.0:8443")?))
            .unwrap()
    };
    let _listeners = [
        listen(Place::KmeA),
        listen(Place::KmeB),
        listen(Place::N3iwf),
    ];
    assert!(reaches(&topology, Place::N3iwf, topology::KME_A));
    assert!(reaches(&topology, Place::Ue, topology::KME_B));
    assert!(reaches(&topology, Place::Ue, topology::N3IWF_NWU));
    assert!(reaches(&topology, Place::KmeA, topology::KME_B_LINK));
    assert!(
        !reaches(&topology, Place::Ue, topology::KME_A),
        "the UE reaches KME-A"
    );
    assert!(
        !reaches(&topology, Place::N3iwf, topology::KME_B),
        "the N3IWF reaches KME-B"
    );
    assert!(
        !reaches(&topology, Place::Ue, topology::CORE),
        "the UE reaches the core"
    );
}

#[test]
fn bulk_transfer_and_capture_over_a_link() {
    if !root() {
        return;
    }
    let topology = Topology::build(&prefix("b")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (ue, n3iwf) = (
        topology.place(Place::Ue).unwrap(),
        topology.place(Place::N3iwf).unwrap(),
    );
    let file = dir.path().join("nwu.pcap");
    let capture = Capture::start(n3iwf, "nwu", topology::UE_NWU, &file, dir.path()).unwrap();
    let source: IpAddr = topology::UE_NWU.parse().unwrap();
    let target: IpAddr = topology::N3IWF_NWU.parse().unwrap();
    for direction in [Direction::Up, Direction::Down] {
        let done = transfer(ue, source, n3iwf, target, direction, 1 << 20).unwrap();
        assert_eq!(done.octets, 1 << 20);
    }
    let elsewhere: IpAddr = "192.0.2.77".parse().unwrap();
    let error = transfer(ue, elsewhere, n3iwf, target, Direction::Up, 1).unwrap_err();
    assert!(format!("{error:#}").contains("192.0.2.77"), "{error:#}");
    let file = capture.finish().unwrap();
    assert!(
        fs::metadata(&file).unwrap().len() > 2 << 20,
        "the capture holds both transfers"
    );
    assert!(ike_frames(&file).unwrap().is_empty());
}

#[test]
fn nothing_stays() {
    if !root() {
        return;
    }
    let name = prefix("c");
    let dir = tempfile::tempdir().unwrap();
    let topology = Topology::build(&name).unwrap();
    let spec = Spec {
        name: "sleeper".to_owned(),
        program: PathBuf::from("sleep"),
        arguments: vec!["600".to_owned()],
        environment: Vec::new(),
        logs: dir.path().to_path_buf(),
    };
    let process = Process::start(topology.place(Place::Ue).unwrap(), spec.clone()).unwrap();
    let id = process.id();
    let inside = fs::read_link(format!("/proc/{id}/ns/net")).unwrap();
    assert_ne!(
        inside,
        fs::read_link("/proc/self/ns/net").unwrap(),
        "it runs in the namespace"
    );
    drop(process);
    assert!(
        !PathBuf::from(format!("/proc/{id}")).exists(),
        "the process is gone"
    );
    // One that nobody stops goes with the namespace.
    let orphan = Process::start(topology.place(Place::Core).unwrap(), spec).unwrap();
    let id = orphan.id();
    std::mem::forget(orphan);
    drop(topology);
    let state = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    assert!(
        state.is_empty() || state.contains(") Z "),
        "the orphan lives on: {state}"
    );
    let left: Vec<_> = fs::read_dir("/run/netns")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|netns| netns.starts_with(&name))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
