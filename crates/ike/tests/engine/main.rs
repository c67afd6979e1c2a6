//! The engine as its daemons see it: pairs of endpoints in virtual time.

// Helpers fail as tests do.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic
)]

#[path = "../support/converse.rs"]
mod converse;

mod admission;
mod attach;
mod authentication;
mod certificates;
mod children;
mod contact;
mod daemon;
mod exchange;
mod forged;
mod fragments;
mod fuzzed;
mod hybrid;
mod hybrid_rekey;
mod kme;
mod mobike;
mod modes;
mod nat;
mod pfs;
mod plain;
mod recognition;
mod record;
mod rekey;
mod rng;
mod setup;
mod sizes;
mod storm;
mod world;
