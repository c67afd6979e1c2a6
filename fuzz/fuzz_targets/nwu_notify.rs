//! The data of a private notify.
#![no_main]

#[path = "../../crates/nwu/tests/support/exercise.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::notify(input));
