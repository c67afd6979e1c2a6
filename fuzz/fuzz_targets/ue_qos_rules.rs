//! The authorized QoS rules of a PDU session, and their modification.
#![no_main]

#[path = "../../ue-user/tests/support/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    exercise::qos_rules(input);
});
