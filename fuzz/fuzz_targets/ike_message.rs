//! An IKE datagram from anyone.
#![no_main]

#[path = "../../crates/ike/tests/support/exercise.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::message(input));
