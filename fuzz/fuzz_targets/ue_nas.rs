//! The UE's NAS: a network with the right keys, or without, that says anything.
#![no_main]

#[path = "../../ue-user/tests/support/nas_script.rs"]
mod nas_script;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    nas_script::play(input);
});
