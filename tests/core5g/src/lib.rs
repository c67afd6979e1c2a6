//! A 5G core stand-in: AMF, AUSF, SMF over NGAP and a UPF over GTP-U.
//!
//! It speaks the real protocols with real keys, and can be told to refuse,
//! delay, spoil or drop any message. [`amf::Amf`] and [`upf::Upf`] hold the
//! logic without sockets or clocks; [`server`] gives them both.

pub mod amf;
pub mod config;
pub mod home;
pub mod nas;
pub mod ngap;
pub mod policy;
pub mod router;
pub mod server;
pub mod types;
pub mod upf;
