//! What goes into a [`Ue`](super::Ue) and what comes out.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use dataplane::relay::UplinkRules;
use ike::{
    ChildId, ChildSa, CloseReason, Fate, InitiatorConfig, KeyRequestId, Lifetimes, Mobike, Offer,
    Path, PeerProfile, SaId, Timing,
};
use keys::{KeyId, SaeId};
use nwu::{Guami, SNssai};
use thiserror::Error;

use crate::core::{
    nas::{Failure, NasConfig, SessionAccept, SessionRequest},
    usim::SqnState,
};

/// Everything a UE is told once.
#[derive(Debug, Clone)]
pub struct UeConfig {
    /// NAS.
    pub nas: NasConfig,
    /// Where IKE_SA_INIT goes from and to.
    pub path: Path,
    /// IKE; IDi is replaced by a random ID_KEY_ID for each attach (TS 24.502, 7.3.2.1).
    pub initiator: InitiatorConfig,
    /// Key modes and what they need.
    pub offer: Offer,
    /// Which faults of the N3IWF are borne with.
    pub peer_profile: PeerProfile,
    /// MOBIKE; none: neither offered nor used, and a change of address means another attach.
    pub mobike: Option<Mobike>,
    /// Octets of the random IDi.
    pub identity_len: usize,
    /// IKE timers.
    pub timing: Timing,
    /// How large IKE datagrams may be.
    pub fragmentation: ike::Fragmentation,
    /// When SAs are rekeyed by time, and whether the N3IWF may rekey them.
    pub lifetimes: Lifetimes,
    /// Requested NSSAI of the AN-parameters.
    pub an_nssai: Vec<SNssai>,
    /// GUAMI of the AN-parameters while there is no 5G-GUTI to take it from.
    pub guami: Option<Guami>,
    /// PDU sessions; established as soon as the UE is registered.
    pub sessions: Vec<SessionRequest>,
    /// What happens after an attach failed.
    pub retry: Retry,
    /// Longest time from IKE_SA_INIT to REGISTRATION ACCEPT.
    pub attach_timeout: Duration,
    /// How long the UE waits for the network to take down the IKE SA after a deregistration.
    pub release_timeout: Duration,
    /// MTU of the XFRM interfaces, octets.
    pub tunnel_mtu: u16,
}

/// Back-off between attaches: `initial`, doubled with each failure up to `maximum`, each time
/// somewhere between its half and its whole, so that many UEs do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attaches that may fail in a row before the UE stays detached; 0: without end.
    pub attempts: u32,
    /// First pause.
    pub initial: Duration,
    /// Longest pause.
    pub maximum: Duration,
}

/// What an operator may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach, if not attached or under way; a pause of the back-off ends.
    Attach,
    /// Establish the configured PDU session with this identity.
    Establish(u8),
    /// Release the PDU session with this identity.
    Release(u8),
    /// Rekey the IKE SA.
    RekeyIke,
    /// Rekey the Child SA of this number; without one, all of them.
    RekeyChild(Option<u64>),
    /// Deregister and stay detached.
    Deregister,
    /// Deregister without waiting for the network's answer: the daemon ends.
    Shutdown,
}

/// A Child SA for the data plane.
#[derive(Debug)]
pub struct Install {
    /// Keys, SPIs, selectors, outer path.
    pub child: Box<ChildSa>,
    /// Our inner address.
    pub inner_local: IpAddr,
    /// The N3IWF's inner address.
    pub inner_remote: IpAddr,
    /// The PDU session; none for the signalling Child SA.
    pub pdu_session: Option<u8>,
    /// Number of the XFRM interface: 0 for signalling and the first PDU session.
    pub slot: u32,
    /// Ties states and policies together; below 2^20. That of the Child SA it replaces, if any.
    pub reqid: u32,
    /// Without the outbound state, which waits for [`Action::Switch`].
    pub inbound: bool,
}

/// The interface of a PDU session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInterface {
    /// What the network accepted.
    pub accept: SessionAccept,
    /// MTU of the interface, octets.
    pub mtu: u16,
    /// Our inner address: GRE comes from it.
    pub inner_local: IpAddr,
    /// UP_IP4_ADDRESS: GRE goes to it.
    pub up_address: IpAddr,
    /// Number of the XFRM interface.
    pub slot: u32,
    /// DSCP of what goes by it.
    pub dscp: u8,
    /// Child SAs beside the default one.
    pub further: Vec<FurtherChild>,
}

/// A Child SA of a PDU session for some of its flows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FurtherChild {
    /// Number of the XFRM interface.
    pub slot: u32,
    /// The flows.
    pub qfis: Vec<u8>,
    /// DSCP of what goes by it.
    pub dscp: u8,
}

/// What the daemon does, in order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action {
    /// Keys may be asked for soon, and until then there is time: open a connection to the KMS.
    ReadyKms,
    /// `dec_keys`; answer with [`Ue::keys_fetched`](super::Ue::keys_fetched).
    FetchKeys {
        /// To be given back.
        sa: SaId,
        /// To be given back.
        request: KeyRequestId,
        /// The N3IWF.
        master: SaeId,
        /// In the order they are needed.
        ids: Vec<KeyId>,
    },
    /// Book what became of a key.
    KeyFate {
        /// The key.
        id: KeyId,
        /// What became of it.
        fate: Fate,
        /// The IKE SA.
        sa: SaId,
    },
    /// Nothing of the IKE SA is left; its keys leave the account's listing.
    ForgetKeys(SaId),
    /// Make it durable; answer with [`Ue::sqn_stored`](super::Ue::sqn_stored).
    StoreSqn(SqnState),
    /// Install; answer with [`Ue::installed`](super::Ue::installed).
    Install(Box<Install>),
    /// Let packets leave through a Child SA that has its inbound state alone.
    Switch(ChildId),
    /// One end of a Child SA is elsewhere.
    Move {
        /// Which.
        child: ChildId,
        /// The new path.
        path: Path,
        /// Whether ESP goes in UDP there.
        udp_encap: bool,
    },
    /// What these keys protected is gone, the IKE SA goes on: they leave the account's listing.
    ReleaseKeys(Vec<KeyId>),
    /// Remove from the data plane.
    Remove(ChildId),
    /// Connect; answer with [`Ue::nas_connected`](super::Ue::nas_connected) or
    /// [`Ue::nas_closed`](super::Ue::nas_closed).
    ConnectNas {
        /// Our inner address.
        local: IpAddr,
        /// NAS_IP4_ADDRESS and NAS_TCP_PORT.
        remote: SocketAddr,
        /// Tells this connection from earlier ones.
        token: u64,
    },
    /// Write these octets, envelope included, in one piece.
    SendNas(Vec<u8>),
    /// Close the connection.
    CloseNas,
    /// Make the interface; answer with [`Ue::session_added`](super::Ue::session_added).
    AddSession(Box<SessionInterface>),
    /// Change the Child SAs of a PDU session.
    SetTunnels {
        /// Which.
        id: u8,
        /// DSCP of the default one.
        dscp: u8,
        /// Those beside it.
        further: Vec<FurtherChild>,
    },
    /// Change the QoS rules of the interface.
    SetRules(u8, UplinkRules),
    /// Remove the interface.
    RemoveSession(u8),
    /// Registered, with every session that was to come up, up or refused.
    Attached,
    /// The attach ended without success, or an attach ended that had succeeded.
    Detached {
        /// Why; none when an operator wanted it.
        failure: Option<AttachFailure>,
        /// When the UE tries again.
        retry_in: Option<Duration>,
    },
}

/// Why there is no attach.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttachFailure {
    /// NAS.
    #[error("{0}")]
    Nas(Failure),
    /// IKE.
    #[error("IKE: {0}")]
    Ike(CloseReason),
    /// The N3IWF does not keep to TS 24.502.
    #[error("NWu: {0}")]
    Nwu(String),
    /// The data plane.
    #[error("data plane: {0}")]
    DataPlane(String),
    /// NAS over TCP.
    #[error("NAS connection: {0}")]
    NasConnection(String),
    /// Not registered in time.
    #[error("not registered within {} s", .0.as_secs())]
    TimedOut(Duration),
}

impl AttachFailure {
    /// One word for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Nas(_) => "nas",
            Self::Ike(reason) => reason.label(),
            Self::Nwu(_) => "nwu",
            Self::DataPlane(_) => "data_plane",
            Self::NasConnection(_) => "nas_connection",
            Self::TimedOut(_) => "timed_out",
        }
    }

    /// Whether trying again is of no use.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Nas(failure) if failure.is_permanent())
    }
}

/// How far the UE is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not attached, and nothing going on.
    Detached,
    /// Not attached; the next attempt has its time.
    BackingOff,
    /// IKE_SA_INIT.
    Connecting,
    /// IKE_AUTH with EAP-5G.
    Authenticating,
    /// The signalling Child SA is up; REGISTRATION ACCEPT is to come.
    Registering,
    /// Registered.
    Registered,
    /// On the way out.
    Detaching,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detached => "detached",
            Self::BackingOff => "backing off",
            Self::Connecting => "connecting",
            Self::Authenticating => "authenticating",
            Self::Registering => "registering",
            Self::Registered => "registered",
            Self::Detaching => "detaching",
        })
    }
}
