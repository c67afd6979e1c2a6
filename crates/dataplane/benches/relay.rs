//! What relaying costs: `cargo bench -p dataplane --bench relay`, as root, on an idle host.
//!
//! Each part alone by its name, `... -- single` and so on; without a name the first four:
//!
//! * `single`: each program alone, packet by packet (`BPF_PROG_TEST_RUN`), with one session and with 10 000.
//! * `warm`: what the kernel accounts for a run of each program in a flood (`BPF_ENABLE_STATS`).
//! * `counting`: what the programs that count on NWu add to a packet that is forwarded.
//! * `streams`: the kernel relay against the one in user space between namespaces, GRE in clear, and against
//!   what the kernel forwards without any relay, which is as fast as a relay can be here.
//! * `profile`: where the processor of a relay is under a flood (`perf`).
//! * `esp`: the whole chain with ESP, on a kernel that has it.
//!
//! What comes out is dropped at the first place there is, or the receiver would be measured too. What is
//! found goes to standard error as it is found, and as JSON lines to standard output.
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

#[path = "support/counting.rs"]
mod counting;
#[path = "support/esp.rs"]
mod esp;
#[path = "support/flood.rs"]
mod flood;
#[path = "support/net.rs"]
mod net;
#[path = "../tests/support/nwu.rs"]
mod nwu_link;
#[path = "../tests/support/programs.rs"]
mod programs;
#[path = "support/single.rs"]
mod single;
#[path = "support/stream.rs"]
mod stream;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "support/warm.rs"]
mod warm;
#[path = "../tests/support/world.rs"]
mod world;

use serde_json::Value;
use support::{Space, has_programs};

/// Sessions, where there are many.
const MANY: u32 = 10_000;

fn main() {
    if !has_programs() {
        // `cargo test --benches` comes here too.
        return;
    }
    let words: Vec<String> = std::env::args().collect();
    let asked = |part: &str| words.iter().any(|word| word == part);
    // `cargo bench` passes words of its own.
    let parts = ["single", "warm", "counting", "streams", "profile", "esp"];
    let all = !parts.iter().any(|part| asked(part));
    if all || asked("single") {
        Space::new("b").run(single::packets);
    }
    if all || asked("warm") {
        warm::programs();
    }
    if all || asked("counting") {
        counting::cost();
    }
    if all || asked("streams") {
        stream::rates_of_all();
    }
    if asked("profile") {
        stream::profiles();
    }
    if asked("esp") {
        esp::chain();
    }
}

/// One line of what was found.
fn tell(of: &str, mut found: Value) {
    found["record"] = "relay".into();
    found["of"] = of.into();
    eprintln!("{found}");
    println!("{found}");
}

/// The median, the least and the most.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_unstable_by(f64::total_cmp);
    [
        values[values.len() / 2],
        values[0],
        values[values.len() - 1],
    ]
}

/// The median and the quartiles.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_unstable_by(f64::total_cmp);
    let at = |part: usize| values[values.len() * part / 4];
    [at(2), at(1), at(3)]
}
