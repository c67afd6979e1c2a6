//! A datagram on N3.
#![no_main]

#[path = "../../crates/gtpu/tests/support/exercise.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::message(input));
