//! An EAP packet of an IKE peer.
#![no_main]

#[path = "../../crates/nwu/tests/support/exercise.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::eap5g(input));
