//! The wire format: a message written by hand, round trips, input that is not what it says.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../support/samples.rs"]
#[expect(dead_code, reason = "shared with the corpus test")]
mod samples;

mod by_hand;
mod limits;
mod malformed;
mod qkd;
mod round_trip;
