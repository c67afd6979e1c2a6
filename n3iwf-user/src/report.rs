//! What the control socket is asked and answers: shared by the daemon and `n3iwfctl`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use dataplane::{
    ClassReading, SaReading, Totals, Traffic,
    relay::{Drops, KernelReasons, SessionReading},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::{AmfStatus, SessionRow, UeStatus};
pub use crate::tally::Counts;

/// A request of the control tool.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// [`Status`].
    Status,
    /// [`Sas`].
    Sas,
    /// [`Ues`].
    Ues,
    /// [`Keys`].
    Keys,
    /// [`Counters`].
    Counters,
    /// [`Overview`].
    Overview {
        /// Rows of UEs at most.
        #[serde(default)]
        ues: usize,
    },
    /// Lets the AMF release a UE; answered with `null`.
    Release {
        /// RAN-UE-NGAP-ID.
        ue: u32,
    },
    /// Rekeys SAs of a UE; answered with `null` when it has begun.
    Rekey {
        /// RAN-UE-NGAP-ID.
        ue: u32,
        /// Its IKE SA; otherwise its Child SAs.
        #[serde(default)]
        ike: bool,
        /// One Child SA by number; all of them without it.
        #[serde(default)]
        child: Option<u64>,
    },
}

/// How the daemon is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Seconds since it started.
    pub uptime: u64,
    /// Whether a UE could attach now.
    pub ready: bool,
    /// This N3IWF's SAE ID, where a mode takes QKD keys.
    pub sae_id: Option<String>,
    /// The AMFs.
    pub amfs: Vec<AmfStatus>,
    /// The KMS endpoints: URL, health, last error.
    pub kms: Vec<Value>,
    /// IKE SAs.
    pub ike_sas: usize,
    /// Those of them that have not reached their final IKE_AUTH.
    pub half_open: usize,
    /// UEs.
    pub ues: usize,
    /// Inner addresses given out.
    pub addresses_taken: usize,
    /// `kernel` or `recording`.
    pub dataplane: String,
    /// XFRM interface.
    pub interface: Option<String>,
    /// How eBPF is attached.
    pub bpf: Option<String>,
}

/// All IKE SAs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sas {
    /// Oldest first.
    pub sas: Vec<IkeSa>,
}

/// One IKE SA with its Child SAs; field names follow VICI's `list-sa` where it has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IkeSa {
    /// Number, never reused.
    pub uniqueid: u64,
    /// `CONNECTING`, `ESTABLISHED`, `DELETING`.
    pub state: String,
    /// 16 hexadecimal digits.
    pub initiator_spi: String,
    /// 16 hexadecimal digits.
    pub responder_spi: String,
    /// IDr.
    pub local_id: String,
    /// IDi.
    pub remote_id: String,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Whether this host is behind a NAT.
    pub nat_local: bool,
    /// Whether the peer is.
    pub nat_remote: bool,
    /// Whether the peer may change its address (MOBIKE).
    #[serde(default)]
    pub mobike: bool,
    /// Key mode: `qkd-native`, `qkd-paper`, `hybrid`, `psk`, `cert`.
    pub mode: String,
    /// The policy in force: `require-qkd`, `prefer-qkd`, `no-qkd`.
    pub policy: String,
    /// Key exchange method; none where the keys are QKD keys.
    pub key_exchange: Option<String>,
    /// Algorithms.
    pub suite: Option<String>,
    /// Seconds since it was established.
    pub established: Option<u64>,
    /// Retransmissions of own requests.
    pub retransmits: u64,
    /// The peer's SAE ID.
    pub peer_sae: Option<String>,
    /// The KME the keys came from; none without QKD keys.
    pub kme: Option<String>,
    /// QKD keys in it, shortened.
    pub key_ids: Vec<String>,
    /// Keys fetched and not used yet.
    pub held_keys: usize,
    /// RAN-UE-NGAP-ID.
    pub ran_ue_ngap_id: Option<u32>,
    /// AMF-UE-NGAP-ID.
    pub amf_ue_ngap_id: Option<u64>,
    /// The UE's inner address.
    pub inner: Option<IpAddr>,
    /// Child SAs.
    pub child_sas: Vec<ChildSa>,
}

/// One Child SA.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChildSa {
    /// Number, never reused.
    pub uniqueid: u64,
    /// `signalling` or `pdu-<id>`.
    pub name: String,
    /// reqid in the kernel.
    pub reqid: Option<u32>,
    /// `INSTALLED` or `CREATED`.
    pub state: String,
    /// Algorithms.
    pub suite: Option<String>,
    /// Eight hexadecimal digits.
    pub spi_in: String,
    /// Eight hexadecimal digits.
    pub spi_out: String,
    /// XFRM interface ID.
    pub if_id: Option<u32>,
    /// Kernel counters, from the UE.
    pub traffic_in: Traffic,
    /// Kernel counters, to the UE.
    pub traffic_out: Traffic,
    /// Seconds since it is up.
    pub age: Option<u64>,
    /// Our side of the traffic.
    pub local_ts: Vec<String>,
    /// The UE's side.
    pub remote_ts: Vec<String>,
    /// QKD keys in it, shortened.
    pub key_ids: Vec<String>,
    /// The PDU session it carries.
    pub pdu_session: Option<SessionRow>,
}

/// All UEs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ues {
    /// By number.
    pub ues: Vec<UeStatus>,
}

/// The key account.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Keys {
    /// All peers together.
    pub total: KeyTotals,
    /// Per peer SAE.
    pub peers: Vec<(String, KeyTotals)>,
    /// The keys still listed.
    pub keys: Vec<KeyRow>,
}

/// `fetched = used + lost + held`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyTotals {
    /// Delivered by the KMS.
    pub fetched: u64,
    /// Keyed something.
    pub used: u64,
    /// Wiped without use.
    pub lost: u64,
    /// In memory: fetched ahead, or for an exchange that is not final.
    pub held: u64,
    /// Those of them that were fetched ahead.
    #[serde(default)]
    pub ahead: u64,
    /// Asked for without a response.
    pub uncertain: u64,
    /// Whether the equation holds.
    pub balanced: bool,
}

impl From<qkd::account::Totals> for KeyTotals {
    fn from(totals: qkd::account::Totals) -> Self {
        Self {
            fetched: totals.fetched,
            used: totals.used,
            lost: totals.lost,
            held: totals.held,
            ahead: 0,
            uncertain: totals.uncertain,
            balanced: totals.balanced(),
        }
    }
}

/// One key of the listing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyRow {
    /// Its key_ID.
    pub id: String,
    /// The SAE with the other copy.
    pub peer: String,
    /// `held`, `used`, `lost`.
    pub state: String,
    /// What it keys.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub purpose: Option<String>,
    /// Number of the IKE SA it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sa: Option<String>,
}

/// Everything in numbers, for `top` and `watch`. Cheap for the daemon, however many UEs there are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overview {
    /// As `status` tells it.
    pub status: Status,
    /// Milliseconds since the daemon started.
    pub uptime_ms: u64,
    /// IKE SAs: state, key mode, how many.
    pub ike_sas: Vec<(String, String, usize)>,
    /// Child SAs that carry signalling.
    pub child_sas_control: usize,
    /// Child SAs that carry user packets.
    pub child_sas_user: usize,
    /// UEs by state.
    pub ues: BTreeMap<String, usize>,
    /// PDU sessions by state.
    pub sessions: BTreeMap<String, usize>,
    /// What came of attaches and IKE SAs.
    pub counts: Counts,
    /// Own IKE requests sent again.
    pub retransmissions: u64,
    /// COOKIE notifies sent.
    pub cookies_sent: u64,
    /// The key account.
    pub keys: KeyTotals,
    /// What the KMS has in store, while that is known.
    pub stock: Option<Stock>,
    /// Traffic, that of Child SAs and sessions that are gone included.
    pub traffic: Totals,
    /// The UEs with the lowest numbers.
    pub rows: Vec<UeTraffic>,
}

/// Keys in store at the KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stock {
    /// Keys.
    pub stored: u64,
    /// Most keys it can store.
    pub capacity: u64,
    /// Seconds since it said so.
    pub age: u64,
}

/// One UE and its traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UeTraffic {
    /// RAN-UE-NGAP-ID.
    pub ue: u32,
    /// As in [`UeStatus`].
    pub state: String,
    /// Its outer address.
    pub remote: SocketAddr,
    /// Its inner address.
    pub inner: Option<IpAddr>,
    /// PDU sessions.
    pub sessions: usize,
    /// User packets from it.
    pub up: Traffic,
    /// User packets to it.
    pub down: Traffic,
}

/// All counters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counters {
    /// Classes of packets on NWu; `None` without eBPF.
    pub classes: Option<ClassReading>,
    /// Per Child SA: kernel and eBPF.
    pub sas: Vec<SaReading>,
    /// Per PDU session: the relay.
    pub sessions: Vec<SessionReading>,
    /// What the relay could not assign to a session.
    pub drops: Drops,
    /// What the relay's programs in the kernel left alone, and why; `None` without them.
    #[serde(default)]
    pub relay_kernel: Option<KernelReasons>,
}
