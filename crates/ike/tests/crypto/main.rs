//! Key schedules, message protection, AUTH, negotiation: against known answers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../support/samples.rs"]
#[expect(dead_code, reason = "shared with the tests of the wire format")]
mod samples;
#[path = "../support/vectors.rs"]
mod vectors;

mod auth;
mod certificates;
mod cookie;
mod ke;
mod keys;
mod messages;
mod mixed;
mod negotiation;
mod proposals;
mod script;
mod signatures;
