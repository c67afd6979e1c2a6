//! A Status or an Error of ETSI GS QKD 014.
#![no_main]

#[path = "../../crates/qkd/tests/support/exercise.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::status(input));
