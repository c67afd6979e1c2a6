//! What goes in and out of the core, and what it knows of a UE.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use daemon::timeline::Timeline;
use dataplane::{ChildSaSpec, relay::Ambr};
use ike::{
    ChildId, EapSuccess, Fate, Instant, KeyRequestId, NewChild, Path, QkdFailure, SaId,
    wire::Notify,
};
use ipnet::IpNet;
use keys::{KeyId, QkdKey, SaeId};

use super::{
    dscp::DscpTable,
    keydesk::KeyPolicy,
    modify::Modify,
    pacing::Pace,
    spread::{ChildSas, Further},
};
use crate::ngap::{ContextSetup, ModifiedFlows, Node, QosFlow, SessionOutcome, SessionRequest};

/// What the core is told once.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The N3IWF towards AMFs.
    pub node: Node,
    /// Names of the AMFs as configured (for logs and tables); their positions are their numbers.
    pub amfs: Vec<String>,
    /// Our inner address: NAS_IP_ADDRESS and UP_IP_ADDRESS.
    pub inner_address: IpAddr,
    /// Inner addresses of UEs.
    pub inner_range: IpNet,
    /// NAS_TCP_PORT.
    pub nas_port: u16,
    /// Our N3 address.
    pub gtp_address: IpAddr,
    /// XFRM interfaces: 1 plus the further PDU sessions of a UE.
    pub slots: u32,
    /// Which Child SAs a PDU session has.
    pub child_sas: ChildSas,
    /// DSCP of outer headers on NWu and N3.
    pub dscp: DscpTable,
    /// Replay window of ESP, packets.
    pub replay_window: u32,
    /// How QKD keys are given out.
    pub keys: KeyPolicy,
    /// Timers.
    pub timing: CoreTiming,
}

/// Timers of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreTiming {
    /// How long an AMF may take to answer NG SETUP REQUEST.
    pub ng_setup: Duration,
    /// Wait before the first reconnection to an AMF; doubles.
    pub reconnect_first: Duration,
    /// Longest wait between two reconnections.
    pub reconnect_max: Duration,
    /// How long the AMF may take to answer UE CONTEXT RELEASE REQUEST before the UE is dropped.
    pub context_release: Duration,
    /// How long a Child SA that was rekeyed stays in the data plane for packets still on their way.
    pub drain: Duration,
    /// Wait before a Child SA at a soft limit is rekeyed again when that failed.
    pub rekey_retry: Duration,
    /// How long an authentication is good for (AUTH_LIFETIME of RFC 4478); `None`: for ever.
    pub authentication: Option<Duration>,
}

impl Default for CoreTiming {
    fn default() -> Self {
        Self {
            ng_setup: Duration::from_secs(10),
            reconnect_first: Duration::from_secs(1),
            reconnect_max: Duration::from_secs(30),
            context_release: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            rekey_retry: Duration::from_secs(10),
            authentication: None,
        }
    }
}

/// The position of an AMF in the configuration.
pub type AmfNumber = usize;

/// A NAS TCP connection, numbered by whoever accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NasLink(pub u64);

/// What the core wants done outside.
#[derive(Debug)]
pub enum Action {
    /// Connect to an AMF; answer with `amf_connected` or `amf_lost`.
    ConnectAmf {
        /// Which.
        amf: AmfNumber,
    },
    /// Close the association; no answer is waited for.
    DisconnectAmf {
        /// Which.
        amf: AmfNumber,
    },
    /// Send an NGAP message: about a UE on that UE's stream, else on stream 0.
    SendNgap {
        /// To which AMF.
        amf: AmfNumber,
        /// RAN-UE-NGAP-ID.
        ue: Option<u32>,
        /// The message.
        data: Vec<u8>,
    },
    /// Ask the KMS; answer with `keys_fetched`.
    FetchKeys {
        /// For which IKE SA.
        sa: SaId,
        /// To be given back.
        request: KeyRequestId,
        /// The UE's SAE.
        slave: SaeId,
        /// How many keys.
        number: usize,
        /// Of which size in bits.
        size_bits: u32,
    },
    /// Ask the KMS for keys before anybody needs them; answer with `keys_ahead`.
    FetchAhead {
        /// The UE's SAE.
        slave: SaeId,
        /// How many keys.
        number: usize,
        /// Of which size in bits.
        size_bits: u32,
    },
    /// Ask the KMS for its status; answer with `stock_told`.
    AskStock {
        /// The UE's SAE.
        slave: SaeId,
    },
    /// These were wiped unused: book them as lost.
    LoseKeys {
        /// The keys.
        ids: Vec<KeyId>,
    },
    /// Book a key's fate in the account.
    BookKey {
        /// Of which IKE SA.
        sa: SaId,
        /// Which key.
        id: KeyId,
        /// What became of it.
        fate: Fate,
    },
    /// The IKE SA is gone: its used keys leave the listing.
    ForgetKeys {
        /// Which IKE SA.
        sa: SaId,
    },
    /// What these keys protected is gone, the IKE SA goes on: they leave the listing.
    ReleaseKeys {
        /// The keys.
        ids: Vec<KeyId>,
    },
    /// Install a Child SA; answer with `child_installed`.
    InstallSa {
        /// Of which IKE SA.
        sa: SaId,
        /// Which.
        child: ChildId,
        /// Everything about it.
        spec: Box<ChildSaSpec>,
        /// Without the outbound state, which waits for [`Action::SwitchSa`].
        inbound: bool,
    },
    /// Let packets leave through a Child SA that has its inbound state alone.
    SwitchSa {
        /// Which.
        child: ChildId,
    },
    /// The peer of a Child SA is elsewhere.
    MoveSa {
        /// Which.
        child: ChildId,
        /// The new path.
        path: Path,
        /// Whether ESP goes in UDP there.
        udp_encap: bool,
    },
    /// Remove a Child SA; answer with `child_removed`.
    RemoveSa {
        /// Which.
        child: ChildId,
    },
    /// Relay a PDU session; answer with `session_added`.
    AddSession(RelaySession),
    /// Relay a PDU session otherwise than before; answer with `session_modified`.
    ModifySession {
        /// As it shall be from now on; the downlink TEID says which.
        session: RelaySession,
        /// To be given back.
        token: u64,
    },
    /// Change the limit that all sessions of a UE share; no answer is waited for.
    SetUeAmbr {
        /// Whose.
        ue: u32,
        /// UE-AMBR.
        ambr: Ambr,
    },
    /// Stop relaying a PDU session; answer with `session_removed`.
    RemoveSession {
        /// Whose.
        ue: u32,
        /// The session's downlink TEID.
        dl_teid: u32,
    },
    /// Send a NAS message over TCP, in one write.
    SendNas {
        /// On which connection.
        link: NasLink,
        /// The NAS message, without its envelope.
        message: Vec<u8>,
    },
    /// Close a NAS TCP connection.
    CloseNas {
        /// Which.
        link: NasLink,
    },
}

/// A PDU session for the user-plane relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySession {
    /// RAN-UE-NGAP-ID, which is also the UE's number.
    pub ue: u32,
    /// PDU session ID.
    pub session: u8,
    /// The UE's inner address: GRE peer.
    pub ue_inner: IpAddr,
    /// Our inner address: UP_IP_ADDRESS.
    pub up_address: IpAddr,
    /// XFRM interface number.
    pub slot: u32,
    /// Reqid of the session's default Child SA: uplink packets come out of no others than those here.
    pub reqid: u32,
    /// DSCP of what goes by it.
    pub dscp: u8,
    /// The Child SAs beside it.
    pub further: Vec<RelayTunnel>,
    /// DSCP on N3 by QFI, as far as it is not 0.
    pub n3_dscp: BTreeMap<u8, u8>,
    /// Session-AMBR.
    pub ambr: Option<Ambr>,
    /// UE-AMBR, which all sessions of the UE share.
    pub ue_ambr: Option<Ambr>,
    /// QFIs allowed; the first is the default.
    pub qfis: Vec<u8>,
    /// The UPF's N3 address.
    pub upf: IpAddr,
    /// TEID of uplink packets.
    pub ul_teid: u32,
    /// TEID of downlink packets.
    pub dl_teid: u32,
}

/// A Child SA of a PDU session for some of its flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayTunnel {
    /// XFRM interface number.
    pub slot: u32,
    /// Its reqid.
    pub reqid: u32,
    /// Flows that go through it.
    pub qfis: Vec<u8>,
    /// DSCP of what goes by it.
    pub dscp: u8,
}

/// What the core wants of the IKE endpoint.
#[derive(Debug)]
pub enum Command {
    /// `Endpoint::provide_keys`.
    ProvideKeys {
        /// The IKE SA.
        sa: SaId,
        /// The request answered.
        request: KeyRequestId,
        /// The keys, or why there are none.
        keys: Result<Vec<QkdKey>, QkdFailure>,
    },
    /// `Endpoint::send_eap`.
    SendEap {
        /// The IKE SA.
        sa: SaId,
        /// The packet.
        packet: Vec<u8>,
    },
    /// `Endpoint::eap_success`.
    EapSuccess {
        /// The IKE SA.
        sa: SaId,
        /// The packet, the key, and what the last response carries; boxed because of its size.
        success: Box<EapSuccess>,
    },
    /// `Endpoint::eap_failure`.
    EapFailure {
        /// The IKE SA.
        sa: SaId,
        /// The packet.
        packet: Vec<u8>,
    },
    /// `Endpoint::refuse`: error notifies instead of EAP, and the end of the IKE SA.
    Refuse {
        /// The IKE SA.
        sa: SaId,
        /// CONGESTION.
        notifies: Vec<Notify>,
    },
    /// `Endpoint::child_installed`.
    ChildInstalled {
        /// The IKE SA.
        sa: SaId,
        /// The Child SA.
        child: ChildId,
        /// Whether it is in the data plane.
        ok: bool,
    },
    /// `Endpoint::create_child`; a refusal comes back through `child_refused`.
    CreateChild {
        /// The IKE SA.
        sa: SaId,
        /// What.
        child: NewChild,
    },
    /// `Endpoint::answer_child` with a refusal: an N3IWF alone creates user-plane Child SAs.
    RefuseChild {
        /// The IKE SA.
        sa: SaId,
        /// The Child SA that is not to be.
        child: ChildId,
    },
    /// `Endpoint::inform`; a refusal comes back through `inform_refused`.
    Inform {
        /// The IKE SA.
        sa: SaId,
        /// To be given back.
        token: u64,
        /// 5G_QOS_INFO.
        notifies: Vec<Notify>,
    },
    /// `Endpoint::delete_child`.
    DeleteChild {
        /// The IKE SA.
        sa: SaId,
        /// The Child SA.
        child: ChildId,
    },
    /// `Endpoint::rekey_child`; what becomes of it is an event.
    RekeyChild {
        /// The IKE SA.
        sa: SaId,
        /// The Child SA.
        child: ChildId,
    },
    /// `Endpoint::close`.
    Close {
        /// The IKE SA.
        sa: SaId,
    },
}

/// A UE: everything that is joined under one RAN-UE-NGAP-ID.
pub(crate) struct Ue {
    pub(crate) number: u32,
    pub(crate) sa: SaId,
    pub(crate) path: Path,
    pub(crate) ike: IkeState,
    pub(crate) n2: N2State,
    pub(crate) amf: Option<AmfNumber>,
    pub(crate) eap: Eap,
    /// Downlink NAS that waits for its turn in EAP, or for the TCP connection.
    pub(crate) downlink: VecDeque<Vec<u8>>,
    pub(crate) link: Option<NasLink>,
    /// Of a UE that cannot take downlink NAS as it comes.
    pub(crate) pace: Option<Pace>,
    pub(crate) inner: Option<IpAddr>,
    /// UE-AMBR, as the AMF told it last.
    pub(crate) ambr: Option<Ambr>,
    pub(crate) children: HashMap<ChildId, Child>,
    pub(crate) signalling: Option<ChildId>,
    /// Received, and answered only once the signalling Child SA is up.
    pub(crate) context: Option<PendingContext>,
    /// Boxed: a node of the map has room for eleven, and most UEs have one.
    pub(crate) sessions: BTreeMap<u8, Box<Session>>,
    /// Sessions whose Child SA the UE deleted, until the AMF is told.
    pub(crate) lost: Vec<u8>,
    pub(crate) setups: Vec<Setup>,
    pub(crate) releases: Vec<Release>,
    pub(crate) modifies: Vec<Modify>,
    /// Downlink TEIDs the relay knows, or is being told about.
    pub(crate) relays: BTreeMap<u32, Relay>,
    pub(crate) timeline: Timeline,
    pub(crate) since: Instant,
}

/// The UE's IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IkeState {
    /// In EAP, up to EAP-Success.
    Authenticating,
    /// EAP-Success is sent, the signalling Child SA is not up yet.
    Finishing,
    /// The signalling Child SA is up.
    Up,
    /// Told to close.
    Closing,
    /// Gone.
    Closed,
}

/// The UE's context at the AMF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum N2State {
    /// No AMF knows of the UE.
    None,
    /// INITIAL UE MESSAGE is sent, the AMF's identifier is not known.
    Asked,
    /// As `Asked`, but the UE is gone: the AMF's first answer is met with a release request.
    Orphaned(Instant),
    /// Both identifiers are known.
    Active(u64),
    /// UE CONTEXT RELEASE REQUEST is sent.
    Releasing(u64, Instant),
    /// Released, or the association was lost: nothing more is said about this UE.
    Gone,
}

impl N2State {
    pub(crate) fn amf_ue(self) -> Option<u64> {
        match self {
            Self::Active(id) | Self::Releasing(id, _) => Some(id),
            Self::None | Self::Asked | Self::Orphaned(_) | Self::Gone => None,
        }
    }
}

/// The EAP-5G conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Eap {
    /// Of the last request.
    pub(crate) identifier: u8,
    /// Whether the UE owes a response (else we owe a request, or EAP is over).
    pub(crate) awaits_ue: bool,
}

/// A Child SA in the data plane, or on its way in or out.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub(crate) state: ChildState,
    pub(crate) reqid: u32,
    /// The Child SA it takes over from.
    pub(crate) replaces: Option<ChildId>,
    /// Packets do not leave through it yet.
    pub(crate) inbound: bool,
    /// Another one has taken over from it.
    pub(crate) superseded: bool,
    /// It reached a soft limit.
    pub(crate) expired: bool,
    /// When its rekey, which failed, is tried again.
    pub(crate) rekey_at: Option<Instant>,
    pub(crate) key_ids: Vec<KeyId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildState {
    Installing,
    Installed,
    /// Replaced; still there for packets on their way.
    Draining(Instant),
    Removing,
}

/// INITIAL CONTEXT SETUP REQUEST between its arrival and its answer.
pub(crate) enum PendingContext {
    /// Not yet EAP-Success: the UE owes a response.
    Received(Box<ContextSetup>),
    /// EAP-Success is sent.
    Finishing {
        nas: Option<Vec<u8>>,
        sessions: Vec<SessionRequest>,
    },
}

/// A PDU session.
pub(crate) struct Session {
    pub(crate) state: SessionState,
    /// Marks the Child SA to be; never 0.
    pub(crate) token: u64,
    /// Child SAs that are not up yet.
    pub(crate) awaited: usize,
    /// The default Child SA.
    pub(crate) child: Option<ChildId>,
    pub(crate) slot: u32,
    pub(crate) further: Vec<Further>,
    pub(crate) flows: Vec<QosFlow>,
    pub(crate) ambr: Option<Ambr>,
    pub(crate) upf: IpAddr,
    pub(crate) ul_teid: u32,
    pub(crate) dl_teid: u32,
    pub(crate) security_indicated: bool,
    pub(crate) nas: Option<Vec<u8>>,
    pub(crate) change: Option<Change>,
}

impl Session {
    pub(crate) fn qfis(&self) -> Vec<u8> {
        self.flows.iter().map(|flow| flow.qfi).collect()
    }
}

/// What a session is to become.
pub(crate) struct Change {
    /// Marks the questions to UE and relay; never 0.
    pub(crate) token: u64,
    /// The relay has been told.
    pub(crate) applied: bool,
    pub(crate) flows: Vec<QosFlow>,
    pub(crate) ambr: Option<Ambr>,
    pub(crate) upf: IpAddr,
    pub(crate) ul_teid: u32,
    pub(crate) nas: Option<Vec<u8>>,
    pub(crate) outcome: ModifiedFlows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionState {
    /// CREATE_CHILD_SA is under way, once for each Child SA.
    Creating,
    /// All Child SAs are up, the relay is being told.
    Relaying,
    /// In use.
    Up,
    /// Its Child SAs are being deleted.
    Releasing,
}

/// A setup procedure that waits for its sessions.
pub(crate) struct Setup {
    /// Whether it is answered by INITIAL CONTEXT SETUP RESPONSE.
    pub(crate) context: bool,
    pub(crate) waiting: BTreeSet<u8>,
    pub(crate) outcomes: Vec<SessionOutcome>,
}

/// A release procedure that waits for its Child SAs.
pub(crate) struct Release {
    pub(crate) waiting: BTreeSet<u8>,
    pub(crate) sessions: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relay {
    Adding,
    Present,
    Removing,
}
