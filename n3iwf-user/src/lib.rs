//! The N3IWF control daemon.
//!
//! [`core`] is the daemon without a socket or a clock: sessions, NGAP, EAP-5G, NAS relay.
//! [`gateway`] joins it to an `ike::Endpoint`, still without input or output, so that one test
//! process can run thousands of UEs in virtual time. [`shell`] adds sockets, timers, the KMS and
//! the data plane. [`report`], [`render`] and [`top`] are what `n3iwfctl` shows, [`metrics`] is what
//! Prometheus is told.

pub mod config;
pub mod core;
pub mod gateway;
pub mod metrics;
pub mod ngap;
pub mod preflight;
pub mod render;
pub mod report;
pub mod shell;
mod tally;
pub mod top;

/// Chooses the TLS implementation of the whole process; a second call changes nothing.
pub fn tls_provider() {
    // An error says that there is one already.
    drop(rustls::crypto::ring::default_provider().install_default());
}
