//! What the kernel itself accounts for each run of a program (`BPF_ENABLE_STATS`), in a flood.

use std::time::{Duration, Instant};

use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use dataplane::relay::{AccessRelay, KernelRelay};
use ebpf_common::relay::{PROGRAM_DOWNLINK, PROGRAM_UPLINK};
use serde_json::json;

use crate::{
    MANY, flood,
    net::framed,
    quartiles,
    stream::{BATCH, Rates, Stream, Way},
    tell,
    world::{World, session},
};

/// How long it is looked at in a round.
const SPAN: Duration = Duration::from_millis(100);
const ROUNDS: usize = 21;
/// Octets of PDUs.
const OCTETS: [usize; 2] = [64, 1300];

/// Runs of the programs of a name, and the nanoseconds that they took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Account {
    runs: u64,
    ns: u64,
}

impl Account {
    fn of(name: &str) -> Self {
        let mut total = Self::default();
        // One that ends meanwhile is an error.
        for program in loaded_programs().filter_map(Result::ok) {
            if program.name_as_str() == Some(name) {
                total.runs += program.run_count();
                total.ns += program.run_time().as_nanos() as u64;
            }
        }
        total
    }
}

/// Nanoseconds of a run of the program while `work` goes on, and how many runs there were. The clock, which
/// is read before and after each run, is in it.
pub(crate) fn per_run(name: &str, work: impl FnOnce()) -> (f64, u64) {
    let counting = enable_stats(Stats::RunTime).unwrap();
    let before = Account::of(name);
    work();
    let after = Account::of(name);
    drop(counting);
    let runs = after.runs - before.runs;
    assert!(runs > 0, "{name} did not run");
    ((after.ns - before.ns) as f64 / runs as f64, runs)
}

/// Sends as much as goes for a while.
pub(crate) fn flood_for(sender: &flood::Sender, span: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < span {
        for _ in 0..16 {
            sender.send();
        }
    }
}

/// The same of a program that ends at once, as it does for what is no IP packet: the clock, mostly.
fn nothing() -> f64 {
    let world = World::new();
    let config = world.relay_config();
    let relay = world.n3iwf.run(|| {
        let relay = KernelRelay::start(config).unwrap();
        relay.add(session("access")).unwrap();
        relay
    });
    let mut frame = framed(&world.n3iwf, "access", &[0; 50]);
    frame[12] = 0x88;
    let found = world.ue.run(|| {
        let sender = flood::Sender::new("access", vec![frame], BATCH);
        let rounds = (0..ROUNDS).map(|_| per_run(PROGRAM_UPLINK, || flood_for(&sender, SPAN)).0);
        quartiles(rounds.collect())[0]
    });
    world.n3iwf.run(|| drop(relay));
    found
}

pub(crate) fn programs() {
    let clock = nothing();
    for (program, up) in [(PROGRAM_UPLINK, true), (PROGRAM_DOWNLINK, false)] {
        for sessions in [1, MANY] {
            let stream = Stream {
                way: Way::Kernel,
                up,
                octets: OCTETS.to_vec(),
                one: true,
                sessions,
            };
            stream.measure(&|senders, count| {
                let mut last = Rates::default();
                for (sender, octets) in senders.iter().zip(OCTETS) {
                    last = flooded(
                        sender,
                        count,
                        |ns, rate| {
                            tell(
                                "warm",
                                json!({
                                    "program": program, "octets": octets, "sessions": sessions,
                                    "ns": ns, "clock_ns": clock, "rate": rate,
                                }),
                            );
                        },
                        program,
                    );
                }
                last
            });
        }
    }
}

/// Nanoseconds a run, and packets per second, of rounds of which the middle is told: what else the host does
/// would be in a mean.
fn flooded(
    sender: &flood::Sender,
    count: &dyn Fn() -> u64,
    found: impl FnOnce([f64; 3], f64),
    program: &str,
) -> Rates {
    // Caches and neighbours first.
    flood_for(sender, SPAN);
    let rounds = (0..ROUNDS).map(|_| {
        let before = count();
        let begin = Instant::now();
        let (ns, _) = per_run(program, || flood_for(sender, SPAN));
        let rate = (count() - before) as f64 / begin.elapsed().as_secs_f64();
        (ns, rate)
    });
    let (ns, rates): (Vec<f64>, Vec<f64>) = rounds.unzip();
    let [flood, ..] = quartiles(rates);
    found(quartiles(ns), flood.round());
    Rates { best: flood, flood }
}
