//! A scripted N3IWF and a scripted UE: they check what the core sends as the
//! real ones would, and answer.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value
)]

pub mod core;
pub mod n3iwf;
pub mod ue;
