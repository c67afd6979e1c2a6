//! What an endpoint tells about its SAs when asked.

use std::{collections::HashMap, net::IpAddr};

use keys::{KeyId, SaeId};

use crate::{
    config::{Mode, QkdPolicy},
    crypto::{EspSuite, IkeSuite, KeyExchange},
    event::{ChildId, Path, SaId},
    time::Instant,
    wire::{Identification, TrafficSelector},
};

/// Where an IKE SA stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SaState {
    /// Before the final IKE_AUTH.
    Connecting,
    /// Ready for use.
    Established,
    /// A delete is under way.
    Deleting,
}

/// How many IKE SAs and Child SAs an endpoint has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// IKE SAs by state and key mode.
    pub ike_sas: HashMap<(SaState, Mode), usize>,
    /// Signalling Child SAs that are up.
    pub signalling: usize,
    /// User-plane Child SAs that are up.
    pub user: usize,
}

/// One IKE SA, for a status table.
#[derive(Debug, Clone)]
pub struct SaStatus {
    /// The IKE SA.
    pub id: SaId,
    /// Where it stands.
    pub state: SaState,
    /// Whether this side began it.
    pub initiator: bool,
    /// The initiator's SPI.
    pub spi_i: u64,
    /// The responder's SPI, 0 while unknown.
    pub spi_r: u64,
    /// Where the peer is now.
    pub path: Path,
    /// Our identity.
    pub local_id: Option<Identification>,
    /// The peer's identity.
    pub remote_id: Option<Identification>,
    /// The peer's SAE ID.
    pub peer_sae: Option<SaeId>,
    /// Key mode and profile.
    pub mode: Mode,
    /// What decided about the mode: of a responder the rule for where IKE_SA_INIT came from.
    pub policy: QkdPolicy,
    /// Algorithms of the IKE SA, once agreed.
    pub suite: Option<IkeSuite>,
    /// When the first datagram was sent or seen.
    pub created: Instant,
    /// When it was established.
    pub established: Option<Instant>,
    /// Whether this host is behind a NAT.
    pub nat_local: bool,
    /// Whether the peer is behind a NAT.
    pub nat_remote: bool,
    /// Whether both ends have MOBIKE.
    pub mobike: bool,
    /// Further addresses of the peer (ADDITIONAL_IP4_ADDRESS, ADDITIONAL_IP6_ADDRESS).
    pub peer_addresses: Vec<IpAddr>,
    /// Keys in the IKE SA itself (with K_auth), in order of use.
    pub key_ids: Vec<KeyId>,
    /// Keys fetched but not used yet (of the first user-plane Child SA).
    pub held_keys: usize,
    /// Retransmissions of own requests so far.
    pub retransmits: u64,
    /// Child SAs.
    pub children: Vec<ChildStatus>,
}

/// One Child SA, for a status table.
#[derive(Debug, Clone)]
pub struct ChildStatus {
    /// The Child SA.
    pub id: ChildId,
    /// Our SPI.
    pub spi_in: u32,
    /// The peer's SPI, 0 while unknown.
    pub spi_out: u32,
    /// Algorithms, once agreed.
    pub suite: Option<EspSuite>,
    /// The key exchange that its keys come from besides those of the IKE SA.
    pub key_exchange: Option<KeyExchange>,
    /// Our side of the traffic.
    pub ts_local: Vec<TrafficSelector>,
    /// The peer's side.
    pub ts_remote: Vec<TrafficSelector>,
    /// Whether it is the Child SA of IKE_AUTH.
    pub signalling: bool,
    /// Whether it is installed and agreed.
    pub up: bool,
    /// Since when.
    pub since: Option<Instant>,
    /// QKD keys in it.
    pub key_ids: Vec<KeyId>,
}
