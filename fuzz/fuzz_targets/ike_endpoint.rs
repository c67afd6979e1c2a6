//! Two endpoints in a conversation that the input directs.
#![no_main]

#[path = "../../crates/ike/tests/support/converse.rs"]
mod converse;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    converse::conversation(input);
});
