//! XFRM, interfaces, eBPF loading and the user-plane relays.
//!
//! A daemon asks a [`Dataplane`] to install the Child SAs that `ike` negotiated and to read their
//! counters. [`Xfrm`] does it with the kernel's IPsec and, if configured, eBPF accounting on NWu;
//! [`Recording`] does neither, for hosts whose kernel has no ESP.
//!
//! Every call works on the network namespace of the calling thread and is short; on a
//! multi-threaded runtime other tasks keep running meanwhile.

mod bpf;
mod config;
mod error;
mod kernel;
mod lasting;
mod link;
mod loader;
mod netlink;
mod notice;
mod places;
pub mod preflight;
mod reading;
mod recording;
mod refusals;
pub mod relay;
mod sa_table;
mod spec;
mod sums;
mod sys;
mod whereabouts;
mod wire;
mod xfrm;

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;

pub use config::{BpfOptions, Config, DEFAULT_MTU, Kind, Limits, Options};
pub use error::Error;
pub use kernel::Xfrm;
pub use notice::Notice;
pub use reading::{
    ClassReading, Classes, Refused, SaReading, Seen, StartReport, StopReport, Traffic,
};
pub use recording::Recording;
pub use spec::{ChildSaSpec, EncrAlg, EspKeys, IntegAlg, Plane, Role, SpecError};
pub use sums::{Sums, Totals};
pub use sys::enable_udp_encap;
pub use whereabouts::{AddressNews, is_ours, source_towards};
pub use wire::{Suite, inner_mtu, wire_length, wire_overhead_bounds};

/// IPsec of one daemon: its Child SAs, interfaces, policies and counters.
#[async_trait]
pub trait Dataplane: Send + Sync {
    /// Removes what an earlier run of this daemon left, and nothing that belongs to others; makes
    /// the XFRM interface, addresses and routes; attaches eBPF.
    async fn start(&self) -> Result<StartReport, Error>;

    /// Installs both states, the policies and the eBPF entries, and reads them back. On error
    /// nothing of it is left.
    async fn install(&self, sa: ChildSaSpec) -> Result<(), Error>;

    /// As [`install`](Self::install), but packets keep leaving through the Child SA that this one
    /// replaces (same reqid) until [`switch`](Self::switch): for the end that answers a rekey, whose
    /// peer has the new SA only once the answer is there (RFC 7296 section 2.8).
    async fn install_inbound(&self, sa: ChildSaSpec) -> Result<(), Error>;

    /// Lets packets leave through a Child SA of [`install_inbound`](Self::install_inbound); nothing
    /// changes for one that has its outbound state.
    async fn switch(&self, id: u64) -> Result<(), Error>;

    /// The outer addresses of a Child SA are others now, or, with ESP in UDP, the ports: a NAT has a
    /// new mapping. Keys, sequence numbers and counters go on.
    ///
    /// ESP goes into UDP when a NAT appears, and stays there when it disappears: a kernel takes the
    /// encapsulation from a state only together with its sequence number. Both ends do alike; the
    /// Child SA that replaces this one goes without.
    async fn relocate(
        &self,
        id: u64,
        local: SocketAddr,
        remote: SocketAddr,
        udp_encap: bool,
    ) -> Result<(), Error>;

    /// The next Child SA that reached one of the configured [`Limits`], or whose peer is now behind
    /// another mapping of its NAT; pends where nothing is counted or sent.
    async fn notice(&self) -> Notice;

    /// Removes a Child SA and returns its final counters; `None` when there is none of that number.
    async fn remove(&self, id: u64) -> Result<Option<SaReading>, Error>;

    /// Counters of all Child SAs, ordered by number.
    async fn readings(&self) -> Result<Vec<SaReading>, Error>;

    /// Classes of packets on NWu; `None` without eBPF.
    async fn classes(&self) -> Result<Option<ClassReading>, Error>;

    /// Removes everything this data plane made.
    async fn stop(&self) -> Result<StopReport, Error>;
}

/// The data plane that `config.options.kind` names.
pub fn open(config: Config) -> Result<Arc<dyn Dataplane>, Error> {
    config.check()?;
    Ok(match config.options.kind {
        Kind::Kernel => Arc::new(Xfrm::new(config)?),
        Kind::Recording => Arc::new(Recording::new(config)?),
    })
}
