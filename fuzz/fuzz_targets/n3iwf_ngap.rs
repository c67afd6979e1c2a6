//! The decoder of what an AMF says.
#![no_main]

#[path = "../../n3iwf-user/tests/support/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::ngap(input));
