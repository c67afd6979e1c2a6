//! Our N3IWF (engine and core, no sockets) with a 5G core, against N3IWUE and against worse.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod hostile;
mod hostile_authenticated;
mod n3iwue;
mod stranger;
mod world;
