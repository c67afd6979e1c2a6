//! The N3IWF's configuration file, without the files it names.
#![no_main]

#[path = "../../n3iwf-user/tests/support/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::config(input));
