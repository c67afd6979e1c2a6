//! The UE's configuration file, without the files it names.
#![no_main]

#[path = "../../ue-user/tests/support/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::config(input));
