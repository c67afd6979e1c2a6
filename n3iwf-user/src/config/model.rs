//! The file as it is written: every key, its type and its default.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use ike::crypto::{EspSuite, IkeSuite};
use ipnet::Ipv4Net;
use keys::SaeId;
use serde::{Deserialize, Deserializer, de};

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
    /// NAS_TCP_PORT.
    #[serde(default = "default_nas_port")]
    pub nas_tcp_port: u16,
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
    /// Our address on N3.
    pub n3iwf_gtp_bind_address: Ipv4Addr,
    /// IDr.
    pub fqdn: String,
    /// RSA key of `certificate`, PEM; the `paper` profile alone needs it.
    #[serde(default)]
    pub private_key: Option<PathBuf>,
    /// Accepted for compatibility; CERTREQ is not evaluated.
    #[serde(default)]
    pub certificate_authority: Option<PathBuf>,
    /// X.509 certificate, PEM; the `paper` profile alone needs it.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Whether and how silent UEs are probed.
    #[serde(default)]
    pub liveness_check: LivenessCheck,
    /// QKD and IKE.
    pub qkd: Qkd,
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
    /// Where to write keys for Wireshark. Never in service.
    #[serde(default)]
    pub debug_key_log: Option<PathBuf>,
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

/// QKD and IKE.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Qkd {
    /// This N3IWF's SAE ID: the master.
    pub sae_id: SaeId,
    /// What an attach needs.
    #[serde(default)]
    pub policy: Policy,
    /// Accepted wire profiles.
    #[serde(default = "default_profiles")]
    pub profiles: Vec<WireProfile>,
    /// The KMS of this site.
    pub kms: qkd::KmsConfig,
    /// When senders have to show return routability first.
    #[serde(default)]
    pub cookie: Cookie,
    /// Half-open IKE SAs beyond this are not created.
    #[serde(default = "default_half_open_limit")]
    pub half_open_limit: usize,
    /// How long an IKE SA may stay half-open.
    #[serde(default = "default_half_open_lifetime", with = "qkd::duration")]
    pub half_open_lifetime: Duration,
    /// Suites of the IKE SA, best first.
    #[serde(default = "default_ike_suites")]
    pub ike_suites: Vec<Text<IkeSuite>>,
    /// Suites of Child SAs, best first.
    #[serde(default = "default_esp_suites")]
    pub esp_suites: Vec<Text<EspSuite>>,
    /// Wait before the first retransmission; doubles.
    #[serde(default = "default_retransmit", with = "qkd::duration")]
    pub retransmit: Duration,
    /// What the `paper` profile needs besides certificate and key.
    #[serde(default)]
    pub paper: Option<Paper>,
}

/// What an attach needs; more words join with the modes they stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// QKD keys, or no attach.
    #[default]
    RequireQkd,
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

/// A value that is text in the file and has a reader of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

impl<'de, T: std::str::FromStr<Err: std::fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse()
            .map(Self)
            .map_err(|error| de::Error::custom(format_args!("`{text}`: {error}")))
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

fn default_profiles() -> Vec<WireProfile> {
    vec![WireProfile::Native]
}

const fn default_half_open_limit() -> usize {
    4096
}

const fn default_half_open_lifetime() -> Duration {
    Duration::from_secs(30)
}

const fn default_retransmit() -> Duration {
    Duration::from_secs(1)
}

fn default_ike_suites() -> Vec<Text<IkeSuite>> {
    suites(&["AES_GCM_16-256/PRF_HMAC_SHA2_256"])
}

fn default_esp_suites() -> Vec<Text<EspSuite>> {
    suites(&["AES_GCM_16-256/ESN", "AES_GCM_16-256"])
}

fn suites<T: std::str::FromStr>(texts: &[&str]) -> Vec<Text<T>> {
    texts
        .iter()
        .filter_map(|text| text.parse().ok())
        .map(Text)
        .collect()
}
