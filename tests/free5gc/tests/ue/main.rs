//! Our UE (engine, NAS and core, no sockets) against free5GC's N3IWF with a 5G core, and against worse.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wrong_self_convention,
    reason = "a test fails by panicking"
)]

mod hostile;
mod n3iwf;
mod world;
