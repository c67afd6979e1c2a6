//! A pair of QKD key management entities (ETSI GS QKD 014 V1.1.1) over a simulated QKD link.
//!
//! For tests, [`Pair::start`] runs both in-process on free ports with certificates of their own;
//! the binary runs them as processes. Faults ([`fault::Kind`]) can be switched on at any time, and
//! [`Counters`] tell how many keys left each KME.

mod api;
pub mod certs;
pub mod config;
pub mod control;
pub mod fault;
mod link;
pub mod metrics;
mod node;
mod pair;
mod server;
mod store;
mod tls;

pub use node::{Counters, NodeStatus};
pub use pair::{Kme, Pair, Setup};
