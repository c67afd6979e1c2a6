//! The maps with few UEs and with many: `cargo bench -p dataplane --bench maps`, as root.
//!
//! What they take of the kernel's memory, what entering a UE costs, and what a packet costs when any
//! of the UEs may be its owner (`BPF_PROG_TEST_RUN`). JSON lines on standard output.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a measurement ends by panicking"
)]

#[path = "../tests/support/accounting.rs"]
mod accounting;
#[path = "../tests/support/programs.rs"]
mod programs;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{fs, time::Instant};

use accounting::Accounting;
use ebpf_common::{
    PROGRAM_EGRESS, PROGRAM_INGRESS,
    relay::{PROGRAM_DOWNLINK, PROGRAM_UPLINK},
};
use programs::{PASS, Programs, REDIRECT, Session};
use serde_json::json;
use support::{Space, is_root, object};

/// UEs in the maps.
const UES: [u32; 2] = [100, 10_000];
/// Single runs of which the median is taken.
const RUNS: usize = 20_000;
/// How often few and many take turns; the median of these is told.
const ROUNDS: usize = 5;
/// Octets of a PDU.
const PDU: usize = 64;

fn main() {
    if !is_root() || object().is_none() {
        // `cargo test --benches` comes here too.
        eprintln!("skipped: needs root and the object of `cargo xtask build`");
        return;
    }
    Space::new("m").run(|| {
        relaying();
        counting();
    });
}

/// Octets that the kernel has for all maps this process has open.
fn memory() -> u64 {
    let mut total = 0;
    for entry in fs::read_dir("/proc/self/fdinfo").unwrap() {
        // The directory's own descriptor is gone by now.
        let Ok(text) = fs::read_to_string(entry.unwrap().path()) else {
            continue;
        };
        if text.contains("map_id:") {
            let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
            total += line.unwrap().trim().parse::<u64>().unwrap();
        }
    }
    total
}

/// What was made and filled, with its memory and the microseconds that each UE took.
struct Filled<T> {
    what: T,
    ues: u32,
    memory: u64,
    insert_us: f64,
}

fn fill<T>(ues: u32, load: impl FnOnce(u32) -> T, mut add: impl FnMut(&mut T, u32)) -> Filled<T> {
    let before = memory();
    let mut what = load(ues);
    let begun = Instant::now();
    for ue in 0..ues {
        add(&mut what, ue);
    }
    let insert_us = begun.elapsed().as_secs_f64() * 1e6 / f64::from(ues);
    Filled {
        what,
        ues,
        memory: memory() - before,
        insert_us,
    }
}

/// Runs each of the programs on a packet of one UE after another, few and many in turns.
fn compare<T>(
    name: &str,
    sets: &[Filled<T>],
    run: impl Fn(&T, u32) -> u64,
    nothing: impl Fn(&T) -> u64,
) {
    let mut costs = vec![Vec::new(); sets.len()];
    for round in 0..ROUNDS {
        for (costs, set) in costs.iter_mut().zip(sets) {
            // A stride that is a prime visits every UE.
            let ue = |n: usize| ((round * RUNS + n) * 7919) as u32 % set.ues;
            let whole = median((0..RUNS).map(|n| run(&set.what, ue(n))).collect());
            let idle = median((0..RUNS).map(|_| nothing(&set.what)).collect());
            costs.push(whole.saturating_sub(idle).max(1));
        }
    }
    for (costs, set) in costs.into_iter().zip(sets) {
        println!(
            "{}",
            json!({
                "record": "maps",
                "program": name,
                "ues": set.ues,
                "memory": set.memory,
                "insert_us": set.insert_us,
                "packet_ns": median(costs) as f64,
            })
        );
    }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// No IP packet: a run that ends at once.
fn nothing() -> Vec<u8> {
    let mut nothing = vec![0; 64];
    nothing[12] = 0x88;
    nothing
}

fn relaying() {
    let session = |number| Session { number, reqid: 0 };
    let sets = UES.map(|ues| fill(ues, Programs::load, |all, ue| all.add(session(ue))));
    let run = |all: &Programs, name: &str, action, packet: &[u8]| {
        let ran = all.run(name, packet, 1);
        assert_eq!(ran.action, action);
        ran.duration.as_nanos() as u64
    };
    let nothing = nothing();
    for (name, up) in [(PROGRAM_UPLINK, true), (PROGRAM_DOWNLINK, false)] {
        let packet = |ue| {
            let pdu = programs::pdu(PDU);
            programs::frame(&match up {
                true => programs::gre(session(ue), programs::QFIS[0], &pdu),
                false => programs::downlink(session(ue), programs::QFIS[0], true, &pdu),
            })
        };
        compare(
            &format!("{name}, {PDU} octets"),
            &sets,
            |all, ue| run(all, name, REDIRECT, &packet(ue)),
            |all| run(all, name, PASS, &nothing),
        );
    }
}

fn counting() {
    let sets = UES.map(|ues| fill(ues, Accounting::load, Accounting::add));
    let nothing = nothing();
    for (name, inbound) in [(PROGRAM_INGRESS, true), (PROGRAM_EGRESS, false)] {
        compare(
            &format!("{name}, ESP"),
            &sets,
            |all, ue| all.run(name, &Accounting::esp(ue, inbound)),
            |all| all.run(name, &nothing),
        );
        // Every packet was known, or what was measured is something else.
        assert!(sets.iter().all(|set| set.what.unknown(inbound) == 0));
        assert!(sets.iter().all(|set| set.what.counted(inbound) > 0));
    }
}
