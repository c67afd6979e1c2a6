//! The N3IWF control daemon.
//!
//! [`core`] is the daemon without a socket or a clock: sessions, NGAP, EAP-5G, NAS relay.
//! [`gateway`] joins it to an `ike::Endpoint`, still without input or output, so that one test
//! process can run thousands of UEs in virtual time. [`shell`] adds sockets, timers, the KMS and
//! the data plane.

pub mod core;
pub mod gateway;
pub mod ngap;
