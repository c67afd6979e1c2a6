//! The file as it is written: every key, its type and its default.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use ike::crypto::{ChildSuite, IkeSuite};
use ike_config::{Lifetimes, ModeWord, PeerWord, PolicyWord, Proposals};
use ipnet::{IpNet, Ipv4Net};
use keys::SaeId;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::core::{ChildSas, DscpTable};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    /// Version and description, for people.
    #[serde(default)]
    pub info: Option<Info>,
    /// Everything about the N3IWF.
    pub configuration: Configuration,
    /// Logging.
    #[serde(default)]
    pub logger: Logger,
}

/// What people want to know of a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Info {
    /// Version of the file.
    #[serde(default)]
    pub version: Option<String>,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
}

/// Everything about the N3IWF.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    /// Who this N3IWF is.
    pub n3iwf_information: Information,
    /// SCTP source address.
    #[serde(default)]
    pub local_sctp_addr: Option<IpAddr>,
    /// The AMFs.
    #[serde(rename = "amfSCTPAddresses")]
    pub amf_sctp_addresses: Vec<AmfAddress>,
    /// When an association with an AMF counts as lost.
    #[serde(default)]
    pub sctp: Sctp,
    /// NAS_TCP_PORT.
    #[serde(default = "default_nas_port")]
    pub nas_tcp_port: u16,
    /// Which Child SAs a PDU session has.
    #[serde(default)]
    pub child_sas: ChildSas,
    /// DSCP of outer headers by 5QI.
    #[serde(default)]
    pub dscp: DscpTable,
    /// Our address on NWu: UDP 500 and 4500.
    pub ike_bind_address: IpAddr,
    /// Our inner address.
    pub ip_sec_tunnel_address: Ipv4Addr,
    /// Inner addresses of UEs.
    pub ue_ip_address_range: Ipv4Net,
    /// XFRM interface, 1 to 10 characters.
    #[serde(default = "default_interface")]
    pub xfrm_interface_name: String,
    /// XFRM interface ID, not 0.
    #[serde(rename = "xfrmInterfaceID", default = "default_interface_id")]
    pub xfrm_interface_id: u32,
    /// Our address on N3, of IPv4 or of IPv6.
    pub n3iwf_gtp_bind_address: IpAddr,
    /// IDr.
    pub fqdn: String,
    /// Private key of `certificate`, PEM.
    #[serde(default)]
    pub private_key: Option<PathBuf>,
    /// Authorities of the UEs' certificates, PEM; mode `cert` needs them.
    #[serde(default)]
    pub certificate_authority: Option<PathBuf>,
    /// This N3IWF's certificate and what leads from it to an authority, PEM.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Key modes accepted, best first.
    #[serde(default = "default_modes")]
    pub modes: Vec<ModeWord>,
    /// What an attach needs; follows from `modes` where those leave no doubt.
    #[serde(default)]
    pub policy: Option<PolicyWord>,
    /// Other modes, or another policy, for the peers at some addresses.
    #[serde(default)]
    pub peers: Vec<Peers>,
    /// Whether and how silent UEs are probed.
    #[serde(default)]
    pub liveness_check: LivenessCheck,
    /// QKD keys; not needed where no mode takes any.
    #[serde(default)]
    pub qkd: Option<Qkd>,
    /// IKE.
    #[serde(default)]
    pub ike: Ike,
    /// When SAs are rekeyed.
    #[serde(default)]
    pub lifetimes: Lifetimes,
    /// How long an authentication is good for (RFC 4478): the UE is told, and at its end the IKE SA
    /// is deleted unless the UE has attached anew; absent: for ever.
    #[serde(default, deserialize_with = "optional_duration")]
    pub authentication_lifetime: Option<Duration>,
    /// IPsec and the user plane.
    #[serde(default)]
    pub dataplane: dataplane::Options,
    /// MTU of N3.
    #[serde(default = "default_n3_mtu")]
    pub n3_mtu: u16,
    /// Protocol type of GRE headers sent.
    #[serde(default)]
    pub gre_protocol: u16,
    /// The control socket.
    #[serde(default = "default_control")]
    pub control: PathBuf,
    /// The endpoint for Prometheus; none without the section.
    #[serde(default)]
    pub metrics: Option<metrics::Options>,
    /// What the daemon gives up once it serves.
    #[serde(default)]
    pub hardening: daemon::hardening::Options,
    /// Where to write keys for Wireshark. Never in service.
    #[serde(default)]
    pub debug_key_log: Option<PathBuf>,
}

/// Peers known by where their IKE_SA_INIT comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peers {
    /// Ranges of addresses; of several with a peer's address the smallest counts.
    pub addresses: Vec<Range>,
    /// Key modes accepted, best first; `configuration.modes` when absent.
    #[serde(default, deserialize_with = "given")]
    pub modes: Option<Vec<ModeWord>>,
    /// What an attach needs; `configuration.policy` when absent.
    #[serde(default, deserialize_with = "given")]
    pub policy: Option<PolicyWord>,
}

/// A range of addresses, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range(pub IpNet);

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let range = match text.parse::<IpAddr>() {
            Ok(address) => Some(IpNet::from(address)),
            Err(_) => text.parse().ok(),
        };
        let Some(range) = range else {
            let what = "not a range of addresses, such as 192.0.2.0/24 or 2001:db8::/32";
            return Err(D::Error::custom(what));
        };
        // Whoever writes 192.0.2.1/24 has meant either of two things.
        if range.trunc() != range {
            let what = format!("more than the prefix: {} is the range", range.trunc());
            return Err(D::Error::custom(what));
        }
        if range.addr().to_canonical() != range.addr() {
            return Err(D::Error::custom("IPv4 within IPv6: write it as IPv4"));
        }
        Ok(Self(range))
    }
}

/// A key without a value is no absent key.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Who this N3IWF is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Information {
    /// Global N3IWF ID.
    #[serde(rename = "globalN3IWFID")]
    pub global_n3iwf_id: GlobalId,
    /// RAN node name.
    #[serde(default)]
    pub name: String,
    /// Tracking areas.
    #[serde(rename = "supportedTAList")]
    pub supported_ta_list: Vec<TrackingArea>,
}

/// Global N3IWF ID.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GlobalId {
    /// The PLMN.
    #[serde(rename = "plmnID")]
    pub plmn_id: PlmnId,
    /// N3IWF ID, 16 bits.
    #[serde(rename = "n3iwfID")]
    pub n3iwf_id: u16,
}

/// A PLMN; both parts are text, since zeros in front count.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlmnId {
    /// Three digits.
    #[serde(deserialize_with = "digits")]
    pub mcc: String,
    /// Two or three digits.
    #[serde(deserialize_with = "digits")]
    pub mnc: String,
}

/// A tracking area.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrackingArea {
    /// Six hexadecimal digits.
    #[serde(deserialize_with = "digits")]
    pub tac: String,
    /// Its PLMNs.
    pub broadcast_plmn_list: Vec<BroadcastPlmn>,
}

/// A PLMN of a tracking area.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BroadcastPlmn {
    /// Which.
    #[serde(rename = "plmnID")]
    pub plmn_id: PlmnId,
    /// Its slices.
    pub tai_slice_support_list: Vec<Slice>,
}

/// A slice.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// S-NSSAI.
    pub snssai: Snssai,
}

/// S-NSSAI.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snssai {
    /// Slice/Service Type.
    pub sst: u8,
    /// Slice Differentiator, six hexadecimal digits.
    #[serde(default, deserialize_with = "optional_digits")]
    pub sd: Option<String>,
}

/// An AMF: SCTP addresses of one, or a Unix socket for hosts without SCTP.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmfAddress {
    /// Addresses; each is an AMF of its own here.
    #[serde(default)]
    pub ip: Vec<IpAddr>,
    /// SCTP port.
    #[serde(default = "default_sctp_port")]
    pub port: u16,
    /// A `SOCK_SEQPACKET` socket in place of SCTP.
    #[serde(default)]
    pub unix: Option<PathBuf>,
}

/// When an association with an AMF counts as lost (RFC 9260, 8).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sctp {
    /// Silence after which a HEARTBEAT is sent.
    #[serde(with = "qkd::duration")]
    pub heartbeat: Duration,
    /// HEARTBEATs or retransmissions in a row without an answer, 1 to 20.
    pub retransmissions: u16,
    /// Longest wait for one answer.
    #[serde(with = "qkd::duration")]
    pub rto_max: Duration,
}

impl Default for Sctp {
    fn default() -> Self {
        let n2::Liveness {
            heartbeat,
            retransmissions,
            rto_max,
        } = n2::Liveness::default();
        Self {
            heartbeat,
            retransmissions,
            rto_max,
        }
    }
}

/// Liveness of UEs (RFC 7296, 2.4).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LivenessCheck {
    /// Whether silent UEs are probed.
    pub enable: bool,
    /// Silence after which a UE is probed.
    #[serde(with = "qkd::duration")]
    pub trans_freq: Duration,
    /// Retransmissions of a request before the UE counts as gone.
    pub max_retry_times: u32,
}

impl Default for LivenessCheck {
    fn default() -> Self {
        Self {
            enable: true,
            trans_freq: Duration::from_secs(60),
            max_retry_times: 4,
        }
    }
}

fn optional_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    qkd::duration::deserialize(from).map(Some)
}

/// QKD keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Qkd {
    /// This N3IWF's SAE ID: the master.
    pub sae_id: SaeId,
    /// Accepted wire profiles.
    #[serde(default = "default_profiles")]
    pub profiles: Vec<WireProfile>,
    /// The KMS of this site.
    pub kms: qkd::KmsConfig,
    /// Keys fetched before anybody needs them; none without the section.
    #[serde(default)]
    pub ahead: Option<Ahead>,
    /// Keys of each peer that new attaches leave for rekeys.
    #[serde(default)]
    pub floor: u64,
    /// What becomes of an attach while there are no keys.
    #[serde(default)]
    pub when_empty: WhenEmpty,
    /// For `wait`: how long.
    #[serde(default = "default_wait", with = "qkd::duration")]
    pub wait: Duration,
    /// Attaches of each SAE ID; `null`: as many as are asked for.
    #[serde(default = "default_bucket")]
    pub bucket: Option<Bucket>,
    /// How long a UE that attached is recognised by its tag, without a cookie; 0: never.
    #[serde(default = "default_recognise", with = "qkd::duration")]
    pub recognise: Duration,
    /// What the `paper` profile needs besides certificate and key.
    #[serde(default)]
    pub paper: Option<Paper>,
}

/// Attaches that an SAE ID has, since each costs keys and the ID is anybody's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Bucket {
    /// Tokens that come back per minute.
    pub per_minute: u32,
    /// Attaches in a row that need no cookie.
    pub burst: u32,
    /// Attaches beyond them that need one; then QKD_UNAVAILABLE.
    pub hard: u32,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            per_minute: 60,
            burst: 60,
            hard: 240,
        }
    }
}

impl Bucket {
    pub(super) fn fault(&self) -> Option<(&'static str, &'static str)> {
        const MOST: u32 = 1_000_000;
        if !(1..=MOST).contains(&self.per_minute) {
            Some(("perMinute", "1 to 1000000"))
        } else if self.burst > MOST || self.hard > MOST {
            Some(("burst", "`burst` and `hard`: at most 1000000 each"))
        } else if self.burst == 0 && self.hard == 0 {
            Some(("hard", "with `burst` 0, 1 at least: nobody could attach"))
        } else {
            None
        }
    }
}

/// Keys fetched before anybody needs them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ahead {
    /// Keys held for each peer after a refill.
    pub keys: usize,
    /// A refill begins when fewer are left.
    pub refill_below: usize,
    /// Older ones are wiped, and counted as lost.
    #[serde(with = "qkd::duration")]
    pub maximum_age: Duration,
    /// Keys held for all peers together at most.
    pub total: usize,
    /// Peers whose keys are fetched from the start; others from their first attach on.
    pub peers: Vec<SaeId>,
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            keys: 14,
            refill_below: 7,
            maximum_age: Duration::from_secs(3600),
            total: 4096,
            peers: Vec::new(),
        }
    }
}

impl Ahead {
    pub(super) fn fault(&self) -> Option<(&'static str, &'static str)> {
        if self.refill_below == 0 || self.refill_below > self.keys {
            Some(("refillBelow", "1 to `keys`"))
        } else if self.keys > 1024 {
            Some(("keys", "at most 1024"))
        } else if self.total < self.keys {
            Some(("total", "at least `keys`"))
        } else if self.maximum_age < Duration::from_secs(1) {
            Some(("maximumAge", "1s or more"))
        } else {
            None
        }
    }
}

/// What becomes of an attach while there are no keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenEmpty {
    /// QKD_UNAVAILABLE at once.
    #[default]
    Refuse,
    /// It waits for keys, and is refused then.
    Wait,
}

/// IKE.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ike {
    /// Suites of the IKE SA, best first; those with a key exchange method are for modes without QKD
    /// keys, those without one for mode `qkd`. What the modes need when absent.
    pub proposals: Option<Proposals<IkeSuite>>,
    /// Suites of Child SAs, best first.
    pub esp_proposals: Proposals<ChildSuite>,
    /// Whose faults are borne with, and whose suites are accepted besides.
    pub peer_profile: PeerWord,
    /// When the first AUTH is by certificate in mode `psk`.
    pub send_certificate: SendCertificate,
    /// When senders have to show return routability first.
    pub cookie: Cookie,
    /// Half-open IKE SAs beyond this are not created.
    pub half_open_limit: usize,
    /// How long an IKE SA may stay half-open.
    #[serde(with = "qkd::duration")]
    pub half_open_lifetime: Duration,
    /// Wait before the first retransmission; doubles.
    #[serde(with = "qkd::duration")]
    pub retransmit: Duration,
    /// Octets of the largest IP datagram, from 576: what is larger is sent in fragments (RFC 7383).
    pub fragment_size: u16,
    /// Whether UEs may change their address (MOBIKE, RFC 4555).
    pub mobike: bool,
    /// Whether a new address has to return a cookie before Child SAs go there (RFC 4555, 3.7).
    pub check_routability: bool,
}

impl Default for Ike {
    fn default() -> Self {
        Self {
            proposals: None,
            esp_proposals: Proposals(
                ["AES_GCM_16-256/ESN", "AES_GCM_16-256"]
                    .iter()
                    .filter_map(|text| text.parse().ok())
                    .collect(),
            ),
            peer_profile: PeerWord::default(),
            send_certificate: SendCertificate::default(),
            cookie: Cookie::default(),
            half_open_limit: 4096,
            half_open_lifetime: Duration::from_secs(30),
            retransmit: Duration::from_secs(1),
            fragment_size: ike_config::FRAGMENT_SIZE,
            mobike: false,
            check_routability: true,
        }
    }
}

/// When the first AUTH is by certificate in mode `psk` (TS 24.502, 7.3.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SendCertificate {
    /// When the UE sent CERTREQ.
    #[default]
    WhenAsked,
    /// In every attach.
    Always,
    /// Never.
    Never,
}

/// A wire profile of mode `qkd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WireProfile {
    /// Binary key IDs, no certificate.
    Native,
    /// As measured in arXiv 2603.24426.
    Paper,
}

/// When to ask for a COOKIE.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cookie {
    /// `never`, `threshold` or `always`.
    pub when: CookieWhen,
    /// For `threshold`: from this many half-open IKE SAs on.
    pub threshold: usize,
}

impl Default for Cookie {
    fn default() -> Self {
        Self {
            when: CookieWhen::default(),
            threshold: 32,
        }
    }
}

/// When to ask for a COOKIE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CookieWhen {
    /// Never.
    Never,
    /// From a number of half-open IKE SAs on.
    #[default]
    Threshold,
    /// Always.
    Always,
}

/// What the `paper` profile needs besides certificate and key.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Paper {
    /// The UE's SAE ID, which that profile has no room for.
    pub ue_sae_id: SaeId,
}

/// Logging.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Logger {
    /// Whether anything below a warning is logged.
    pub enable: bool,
    /// A `tracing` filter: `info`, `warn,n3iwf_user=debug`.
    pub level: String,
    /// Accepted for compatibility; module names are always there.
    pub report_caller: bool,
    /// JSON in place of text.
    pub json: bool,
}

impl Default for Logger {
    fn default() -> Self {
        Self {
            enable: true,
            level: "info".to_owned(),
            report_caller: false,
            json: false,
        }
    }
}

impl Logger {
    /// The filter to start logging with.
    pub fn filter(&self) -> &str {
        if self.enable { &self.level } else { "warn" }
    }
}

/// Digits that YAML may take for a number: `208`, `93`. Written `001`, they need quotes in some
/// readers, not in this one.
fn digits<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::deserialize(from)
}

fn optional_digits<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    String::deserialize(from).map(Some)
}

const fn default_nas_port() -> u16 {
    20_000
}

fn default_interface() -> String {
    "xfrmi".to_owned()
}

const fn default_interface_id() -> u32 {
    1
}

const fn default_sctp_port() -> u16 {
    n2::NGAP_PORT
}

const fn default_n3_mtu() -> u16 {
    1500
}

fn default_control() -> PathBuf {
    "/run/n3iwf/n3iwf.sock".into()
}

#[expect(clippy::unnecessary_wraps, reason = "serde's type")]
fn default_bucket() -> Option<Bucket> {
    Some(Bucket::default())
}

const fn default_recognise() -> Duration {
    Duration::from_secs(24 * 3600)
}

const fn default_wait() -> Duration {
    Duration::from_secs(10)
}

fn default_profiles() -> Vec<WireProfile> {
    vec![WireProfile::Native]
}

fn default_modes() -> Vec<ModeWord> {
    vec![ModeWord::Qkd]
}
