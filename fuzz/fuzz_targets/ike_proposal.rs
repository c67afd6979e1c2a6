//! Configuration text with proposals.
#![no_main]

#[path = "../../crates/ike/tests/support/exercise_crypto.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::proposal(input));
