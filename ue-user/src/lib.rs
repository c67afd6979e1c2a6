//! The UE control daemon: IKE initiator, EAP-5G peer, NAS and PDU sessions of one UE.
//!
//! [`core`] is the protocol without input or output, [`shell`] the sockets, files and kernel around
//! it, [`config`] the file that an operator writes, [`metrics`] what Prometheus is told.

pub mod config;
pub mod core;
pub mod metrics;
pub mod shell;
