//! The N3IWF without sockets: any NGAP, EAP-5G and NAS, in any order.
#![no_main]
#![allow(
    dead_code,
    unused_imports,
    reason = "shared with the tests of the gateway"
)]

#[path = "../../n3iwf-user/tests/gateway/amf.rs"]
mod amf;
#[path = "../../n3iwf-user/tests/gateway/fuzzed.rs"]
mod fuzzed;
#[path = "../../n3iwf-user/tests/gateway/modification.rs"]
mod modification;
#[path = "../../n3iwf-user/tests/gateway/world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzzed::play(input);
});
