//! Processors, devices and neighbours of a measurement.

use std::process::Command;

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    support::{self, Space},
    world::{self, World},
};

/// The processor of the sender, and the one of the relay.
pub(crate) const PROCESSORS: [usize; 2] = [0, 1];

/// This thread, and those that it makes from now on, run on these processors alone.
pub(crate) fn run_on(processors: &[usize]) {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor).unwrap();
    }
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// What arrives at an interface is work of the second processor.
pub(crate) fn steer(space: &Space, device: &str) {
    let steer = format!("echo 2 > /sys/class/net/{device}/queues/rx-0/rps_cpus");
    let steered = Command::new("ip")
        .args(["netns", "exec", &space.name, "sh", "-c", &steer])
        .status()
        .unwrap();
    assert!(steered.success());
}

/// A program with two instructions that drops what arrives.
pub(crate) fn drop_all(space: &Space, device: &str) {
    space.run(|| {
        support::run("tc", &["qdisc", "add", "dev", device, "clsact"]);
        let filter = "1,6 0 0 2,";
        support::run(
            "tc",
            &[
                "filter", "add", "dev", device, "ingress", "bpf", "da", "bytecode", filter,
            ],
        );
    });
}

/// Address resolution would be lost in the flood.
pub(crate) fn know_neighbours(world: &World) {
    know_neighbours_of_core(world);
    know(world, &world.ue, world::UE_INNER, "access");
}

pub(crate) fn know_neighbours_of_core(world: &World) {
    know(world, &world.core, world::UPF, "n3");
}

fn know(world: &World, peer: &Space, address: std::net::Ipv4Addr, device: &str) {
    let octets = hardware_address(peer, device).map(|octet| format!("{octet:02x}"));
    let (address, hardware) = (address.to_string(), octets.join(":"));
    world.n3iwf.ip(&[
        "neigh",
        "replace",
        &address,
        "lladdr",
        &hardware,
        "dev",
        device,
        "nud",
        "permanent",
    ]);
}

pub(crate) fn hardware_address(space: &Space, device: &str) -> [u8; 6] {
    let text = space.ip(&["-o", "link", "show", "dev", device]);
    let mut words = text.split_whitespace();
    words.find(|word| *word == "link/ether").unwrap();
    let mut address = [0; 6];
    for (octet, hex) in address.iter_mut().zip(words.next().unwrap().split(':')) {
        *octet = u8::from_str_radix(hex, 16).unwrap();
    }
    address
}

/// Packets that an interface has received.
pub(crate) fn packets_in(space: &Space, device: &str) -> u64 {
    let text = space.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{device}:")))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A frame with this packet, of IPv4, to a device of `space`.
pub(crate) fn framed(space: &Space, device: &str, packet: &[u8]) -> Vec<u8> {
    let mut frame = hardware_address(space, device).to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    frame.extend(packet);
    frame
}

/// The N3IWF's host forwards.
pub(crate) fn forward(world: &World) {
    world
        .n3iwf
        .run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
}
