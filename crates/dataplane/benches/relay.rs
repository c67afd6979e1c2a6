//! What relaying costs: `cargo bench -p dataplane --bench relay`, as root, on an idle host.
//!
//! First each program alone, packet by packet (`BPF_PROG_TEST_RUN`), with one session and with
//! 10 000. Then the kernel relay against the one in user space between namespaces, GRE in clear, and
//! against what the kernel forwards without any relay, which is as fast as a relay can be here: on any
//! processors, and with all work of the relay on one, so that its cost in processor time shows. What comes
//! out is dropped at the first place there is, or the receiver would be measured too.
//! Tables on standard error, JSON lines on standard output.
//!
//! `... -- esp` measures the whole chain with ESP, on a kernel that has it. `... -- programs` leaves out what takes long; `... -- profile` shows instead where the processor of a
//! relay is under a flood (`perf`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a measurement ends by panicking"
)]

#[path = "support/esp.rs"]
mod esp;
#[path = "support/flood.rs"]
mod flood;
#[path = "../tests/support/nwu.rs"]
mod nwu_link;
#[path = "../tests/support/programs.rs"]
mod programs;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../tests/support/world.rs"]
mod world;

use std::{
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use dataplane::relay::{AccessRelay, GtpRelay, KernelRelay, Path};
use ebpf_common::relay::{PROGRAM_DOWNLINK, PROGRAM_UPLINK};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use programs::{Programs, REDIRECT, Session};
use support::{Space, is_root, object};
use world::{DL_TEID, QFI, World, session};

/// Single runs of which the median is taken: each session is visited twice.
const RUNS: usize = 20_000;
/// How often one session and many take turns.
const ROUNDS: usize = 5;
const MANY: u32 = 10_000;
/// How long packets are sent at each rate.
const SPAN: Duration = Duration::from_millis(500);
/// Packets per second offered, and at last as many as the sender can. A relay in user space gets
/// less done when it is flooded, so the best of all counts.
const OFFERED: [f64; 6] = [100e3, 150e3, 200e3, 250e3, 300e3, f64::INFINITY];
/// The processor of the sender, and the one of the relay.
const PROCESSORS: [usize; 2] = [0, 1];
/// Packets per system call of the sender.
const BATCH: usize = 64;

fn main() {
    if !is_root() || object().is_none() {
        // `cargo test --benches` comes here too.
        eprintln!("skipped: needs root and the object of `cargo xtask build`");
        return;
    }
    // `cargo bench` passes words of its own; `programs` alone leaves out what takes long.
    let told = |what: &str| std::env::args().any(|word| word == what);
    if told("profile") {
        profiles();
        return;
    }
    if told("esp") {
        esp::chain();
        return;
    }
    Space::new("b").run(single_packets);
    if !told("programs") {
        streams();
    }
}

/// Median of single runs in each of the rounds, nanoseconds, without what the harness takes.
type Medians = [f64; ROUNDS];

/// Runs each packet once: a program changes its packet, so it cannot run on it again. Packets are
/// made one at a time, or thousands of them would push the maps out of the caches.
fn median(
    programs: &Programs,
    name: &str,
    action: u32,
    round: usize,
    packet: impl Fn(usize) -> Vec<u8>,
) -> f64 {
    let mut times: Vec<u64> = (0..RUNS)
        .map(|n| {
            // A stride that is a prime visits every session.
            let ran = programs.run(name, &packet((round * RUNS + n) * 7919), 1);
            assert_eq!(ran.action, action);
            ran.duration.as_nanos() as u64
        })
        .collect();
    times.sort_unstable();
    times[RUNS / 2] as f64
}

/// The middle of the rounds, and the least and the most.
fn spread(mut values: Medians) -> (f64, f64, f64) {
    values.sort_unstable_by(f64::total_cmp);
    (values[ROUNDS / 2], values[0], values[ROUNDS - 1])
}

/// One session and many take turns, so that what else the host does costs both the same.
fn single_packets() {
    eprintln!(
        "program         octets    ns, 1 session (spread)    ns, {MANY} sessions (spread)    \
         ratio (spread)"
    );
    let sets = [1, MANY].map(|count| {
        let mut programs = Programs::load(MANY);
        let sessions: Vec<Session> = (0..count)
            .map(|number| Session { number, reqid: 0 })
            .collect();
        for session in &sessions {
            programs.add(*session);
        }
        (programs, sessions)
    });
    // What the kernel takes for a run that ends at once: no IP packet.
    let mut nothing = vec![0; 64];
    nothing[12] = 0x88;
    for (name, octets) in [PROGRAM_UPLINK, PROGRAM_DOWNLINK]
        .into_iter()
        .flat_map(|name| [(name, 64), (name, 1400)])
    {
        let mut costs = [[0.0; ROUNDS]; 2];
        let mut ratios = [0.0; ROUNDS];
        for round in 0..ROUNDS {
            for (cost, (programs, sessions)) in costs.iter_mut().zip(&sets) {
                // `octets` is the length of the IP packet that comes in.
                let whole = median(programs, name, REDIRECT, round, |n| {
                    let session = sessions[n % sessions.len()];
                    programs::frame(&if name == PROGRAM_UPLINK {
                        programs::gre(session, QFI, &programs::pdu(octets - 28))
                    } else {
                        programs::downlink(session, QFI, true, &programs::pdu(octets - 44))
                    })
                });
                let harness = median(programs, PROGRAM_UPLINK, programs::PASS, round, |_| {
                    nothing.clone()
                });
                cost[round] = (whole - harness).max(1.0);
            }
            ratios[round] = costs[1][round] / costs[0][round];
        }
        let [one, many] = costs.map(spread);
        let ratio = spread(ratios);
        eprintln!(
            "{name:<15} {octets:>6} {:>11.0} ({:.0}..{:.0}) {:>19.0} ({:.0}..{:.0}) {:>17.2} \
             ({:.2}..{:.2})",
            one.0, one.1, one.2, many.0, many.1, many.2, ratio.0, ratio.1, ratio.2
        );
        println!(
            "{{\"bench\":\"relay_program\",\"program\":\"{name}\",\"octets\":{octets},\
             \"sessions\":{MANY},\"one_ns\":[{:.0},{:.0},{:.0}],\"many_ns\":[{:.0},{:.0},{:.0}],\
             \"ratio\":[{:.2},{:.2},{:.2}]}}",
            one.0, one.1, one.2, many.0, many.1, many.2, ratio.0, ratio.1, ratio.2
        );
    }
}

/// What is between the namespaces.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    User,
    Kernel,
    /// Plain IPv4 forwarding of packets of the same length.
    Forward,
}

const WAYS: [Way; 3] = [Way::User, Way::Kernel, Way::Forward];

fn streams() {
    eprintln!(
        "packets/s        PDU octets  relay's processors  user, best  user, flood  kernel, flood  \
         forwarding, flood  kernel/user, best  kernel/user, flood  kernel/forwarding"
    );
    for one in [false, true] {
        for (up, octets) in [(true, 64), (true, 1300), (false, 64), (false, 1300)] {
            let [user, kernel, forward] = WAYS.map(|way| stream(way, up, octets, one, &rates));
            let direction = if up { "uplink" } else { "downlink" };
            let processors = if one { "one" } else { "any" };
            let ratios = [
                kernel.flood / user.best,
                kernel.flood / user.flood,
                kernel.flood / forward.flood,
            ];
            eprintln!(
                "{direction:<15} {octets:>11} {processors:>19} {:>11.0} {:>12.0} {:>14.0} {:>18.0} \
                 {:>18.1} {:>19.1} {:>18.2}",
                user.best, user.flood, kernel.flood, forward.flood, ratios[0], ratios[1], ratios[2]
            );
            println!(
                "{{\"bench\":\"relay_stream\",\"direction\":\"{direction}\",\
                 \"pdu_octets\":{octets},\"processors\":\"{processors}\",\
                 \"user_best_pps\":{:.0},\"user_flood_pps\":{:.0},\"kernel_pps\":{:.0},\
                 \"forward_pps\":{:.0},\"ratio_best\":{:.2},\"ratio_flood\":{:.2}}}",
                user.best, user.flood, kernel.flood, forward.flood, ratios[0], ratios[1]
            );
        }
    }
}

/// Packets per second that came out.
#[derive(Clone, Copy, Default)]
struct Rates {
    /// At the best rate offered.
    best: f64,
    /// While as many were sent as the sender can.
    flood: f64,
}

/// What a sender does, with a count of what came out.
type Measure<'a> = &'a (dyn Fn(&flood::Sender, &dyn Fn() -> u64) -> Rates + Sync);

fn rates(sender: &flood::Sender, count: &dyn Fn() -> u64) -> Rates {
    let mut rates = Rates::default();
    for offered in OFFERED {
        // The last one is the flood.
        rates.flood = offer(sender, offered, count);
        rates.best = rates.best.max(rates.flood);
    }
    rates
}

/// Where the processor of the relay is under a flood: functions of the kernel and of the relay, by their
/// share of samples.
fn profiles() {
    let file = std::env::temp_dir().join(format!("relay-{}.perf", std::process::id()));
    let profile = |sender: &flood::Sender, count: &dyn Fn() -> u64| {
        let processor = PROCESSORS[1].to_string();
        let file = file.to_str().unwrap();
        let mut perf = Command::new("perf")
            .args(["record", "-q", "-C", &processor, "-F", "4999", "-o", file])
            .args(["--", "sleep", "3"])
            .spawn()
            .expect("perf");
        let before = count();
        let begin = Instant::now();
        while perf.try_wait().unwrap().is_none() {
            for _ in 0..100 {
                sender.send();
            }
        }
        let flood = (count() - before) as f64 / begin.elapsed().as_secs_f64();
        Rates { best: flood, flood }
    };
    for (way, name) in WAYS.into_iter().zip(["user", "kernel", "forwarding"]) {
        for up in [true, false] {
            let rate = stream(way, up, 64, true, &profile).flood;
            let report = support::run(
                "perf",
                &[
                    "report",
                    "--stdio",
                    "--no-children",
                    "--sort",
                    "symbol",
                    "--percent-limit",
                    "2",
                    "-i",
                    file.to_str().unwrap(),
                ],
            );
            let direction = if up { "uplink" } else { "downlink" };
            println!("# {name}, {direction}, 64 octets, {rate:.0} packets/s");
            for line in report.lines().filter(|line| line.contains('%')) {
                println!("{line}");
            }
        }
    }
    let _ = std::fs::remove_file(file);
}

/// This thread, and those that it makes from now on, run on these processors alone.
fn run_on(processors: &[usize]) {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor).unwrap();
    }
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// What arrives at an interface is work of the second processor.
fn steer(space: &Space, device: &str) {
    let steer = format!("echo 2 > /sys/class/net/{device}/queues/rx-0/rps_cpus");
    let steered = Command::new("ip")
        .args(["netns", "exec", &space.name, "sh", "-c", &steer])
        .status()
        .unwrap();
    assert!(steered.success());
}

/// A program with two instructions that drops what arrives.
fn drop_all(space: &Space, device: &str) {
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

/// Packets per second that come out while more go in than can pass. `one`: all of the relay is on one
/// processor.
fn stream(way: Way, up: bool, octets: usize, one: bool, measure: Measure<'_>) -> Rates {
    let world = World::new();
    let config = world.relay_config();
    let path = if way == Way::Kernel {
        Path::Kernel
    } else {
        Path::User
    };
    let relay: Arc<dyn AccessRelay> = world.n3iwf.run(|| -> Arc<dyn AccessRelay> {
        if one {
            run_on(&PROCESSORS[1..]);
        }
        let relay: Arc<dyn AccessRelay> = match path {
            Path::User => Arc::new(GtpRelay::start(config.user).unwrap()),
            Path::Kernel => Arc::new(KernelRelay::start(config).unwrap()),
        };
        // Which starts the threads of the sockets.
        relay.add(session("access")).unwrap();
        run_on(&PROCESSORS);
        relay
    });
    assert_eq!(relay.readings()[0].path, path);
    // Receiving is work of the second processor, sending of the first.
    let (from, device, to, out) = if up {
        (&world.ue, "access", &world.core, "n3")
    } else {
        (&world.core, "n3", &world.ue, "access")
    };
    drop_all(to, out);
    steer(&world.n3iwf, device);
    let packet = if way == Way::Forward {
        world
            .n3iwf
            .run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        let (sender, receiver) = if up {
            (world::UE_INNER, world::UPF)
        } else {
            (world::UPF, world::UE_INNER)
        };
        // GRE is 28 octets in front of the PDU, GTP-U 44.
        let length = octets + if up { 28 } else { 44 };
        programs::ipv4(
            17,
            sender.octets(),
            receiver.octets(),
            &programs::pdu(length - 20),
        )
    } else if up {
        let session = Session {
            number: 0,
            reqid: 0,
        };
        programs::gre(session, QFI, &programs::pdu(octets))
    } else {
        let container = gtpu::PduSessionContainer {
            direction: gtpu::Direction::Downlink,
            qfi: QFI,
            rqi: false,
        };
        let gtp = gtpu::encode_g_pdu(DL_TEID, container, &programs::pdu(octets)).unwrap();
        let mut packet = programs::n3(programs::UPF, &gtp);
        // No UDP checksum.
        packet[26..28].fill(0);
        packet
    };
    let mut frame = hardware_address(&world.n3iwf, device).to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    frame.extend(packet);
    know_neighbours(&world);
    let received = from.run(|| {
        run_on(&PROCESSORS[..1]);
        let sender = flood::Sender::new(device, &frame, BATCH);
        measure(&sender, &|| packets_in(to, out))
    });
    assert!(received.flood > 0.0);
    let reading = relay.readings().remove(0);
    let relayed = reading.uplink.packets + reading.downlink.packets;
    assert_eq!(relayed > 0, way != Way::Forward);
    received
}

/// Packets per second that came out while `rate` were sent.
fn offer(sender: &flood::Sender, rate: f64, count: &dyn Fn() -> u64) -> f64 {
    let before = count();
    let begin = Instant::now();
    let mut sent = 0;
    loop {
        let elapsed = begin.elapsed();
        if elapsed >= SPAN {
            break;
        }
        if sent as f64 <= rate * elapsed.as_secs_f64() {
            sent += sender.send();
        }
    }
    let received = count() - before;
    let seconds = begin.elapsed().as_secs_f64();
    // What is still queued is not the next rate's.
    thread::sleep(Duration::from_millis(200));
    received as f64 / seconds
}

/// Address resolution would be lost in the flood.
fn know_neighbours(world: &World) {
    know_neighbours_of_core(world);
    know(world, &world.ue, world::UE_INNER, "access");
}

fn know_neighbours_of_core(world: &World) {
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

fn hardware_address(space: &Space, device: &str) -> [u8; 6] {
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
fn packets_in(space: &Space, device: &str) -> u64 {
    let text = space.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{device}:")))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
