//! What both daemons and their stand-ins share: configuration files, logging, the control
//! socket, UDP sockets, preflight reports, process hardening, shutdown and attach timelines.
//!
//! Nothing here knows IKE, NGAP or keys; it is the part of a daemon that every daemon has.

pub mod apart;
pub mod config;
pub mod control;
pub mod datagrams;
pub mod hardening;
pub mod log;
pub mod preflight;
mod process;
pub mod steer;
pub mod timeline;

pub use process::{HardenError, Shutdown, harden};
