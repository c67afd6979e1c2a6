//! The gateway in virtual time: real IKE endpoints as UEs, a scripted AMF, doubles for KMS, data
//! plane and relay. No socket is opened.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "helpers of tests may fail loudly"
)]

mod amf;
mod attach;
mod early;
mod failure;
mod fuzz_corpus;
mod fuzzed;
mod hostile;
mod modification;
mod modify;
mod n2;
mod n3;
mod overload;
mod rekey;
mod sessions;
mod world;
