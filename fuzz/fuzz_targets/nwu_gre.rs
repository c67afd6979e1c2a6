//! A GRE packet from the tunnel.
#![no_main]

#[path = "../../crates/nwu/tests/support/exercise.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::gre(input));
