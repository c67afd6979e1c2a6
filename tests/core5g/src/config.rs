//! The configuration file of the stand-in.
//!
//! YAML, unknown keys refused. `docs` of each field give its unit and default.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::config::{Complaint, ConfigError};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::policy::{Fault, Policy};
use crate::types::{Plmn, Secret, Slice, Tac};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the AMF waits for N3IWFs: `sctp:IP:PORT` or `unix:/path`.
    pub listen: n2::Address,
    /// The control socket.
    pub control: PathBuf,
    /// A `tracing` filter. Default `info`.
    #[serde(default = "default_log")]
    pub log: String,
    /// Log lines as JSON. Default off.
    #[serde(default)]
    pub log_json: bool,
    /// The AMF.
    pub amf: AmfConfig,
    /// The SMF.
    pub smf: SmfConfig,
    /// The UPF.
    pub upf: UpfConfig,
    /// Subscribers in this file.
    #[serde(default)]
    pub subscribers: Vec<Subscriber>,
    /// Another file with a list `subscribers`; a relative path starts at this
    /// file's directory.
    pub subscriber_file: Option<PathBuf>,
    /// Private keys of the home network, to deconceal SUCIs.
    #[serde(default)]
    pub home_network_keys: Vec<HomeNetworkKey>,
    /// What is refused on purpose; the control socket changes it.
    #[serde(default)]
    pub policy: Policy,
    /// What goes wrong on purpose; the control socket changes it.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// The AMF: who it is, what it serves, which algorithms it prefers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmfConfig {
    /// AMF Name, a PrintableString.
    #[serde(default = "default_amf_name")]
    pub name: String,
    /// The serving network.
    pub plmn: Plmn,
    /// AMF Region ID, 8 bits.
    #[serde(default = "default_region")]
    pub region: u8,
    /// AMF Set ID, 10 bits.
    #[serde(default = "default_set")]
    pub set: u16,
    /// AMF Pointer, 6 bits.
    #[serde(default)]
    pub pointer: u8,
    /// Tracking areas that an N3IWF may announce.
    pub tracking_areas: Vec<Tac>,
    /// Slices of the network.
    pub slices: Vec<Slice>,
    /// Integrity algorithms, best first. Default NIA2, NIA1.
    #[serde(default = "default_integrity")]
    pub integrity: Vec<Integrity>,
    /// Ciphering algorithms, best first. Default NEA2, NEA1, NEA0.
    #[serde(default = "default_ciphering")]
    pub ciphering: Vec<Ciphering>,
    /// Ask for the IMEISV in SECURITY MODE COMMAND. Default on.
    #[serde(default = "yes")]
    pub request_imeisv: bool,
    /// Network name in CONFIGURATION UPDATE COMMAND after a registration; none
    /// sends no command.
    pub network_name: Option<String>,
    /// Ask the UE to acknowledge that command. Default on.
    #[serde(default = "yes")]
    pub acknowledge_configuration: bool,
    /// Put REGISTRATION ACCEPT into INITIAL CONTEXT SETUP REQUEST instead of
    /// sending it after the response. Default off.
    #[serde(default)]
    pub accept_in_context_setup: bool,
    /// UE aggregate maximum bit rate, which the N3IWF enforces.
    #[serde(default = "default_ue_ambr")]
    pub ue_ambr: Ambr,
    /// Non-3GPP de-registration timer sent to the UE, seconds. Default 54 min.
    #[serde(default = "default_deregistration_timer")]
    pub deregistration_timer: u64,
    /// How long a UE or an N3IWF may take over one answer, milliseconds, before
    /// its context is released. Default 30 000.
    #[serde(default = "default_guard")]
    pub guard_ms: u64,
    /// How long UEs and their sessions stay after an association was lost without a farewell, milliseconds, or until the
    /// N3IWF is back with an NG SETUP REQUEST. Default 0.
    #[serde(default)]
    pub keep_lost_ms: u64,
}

impl AmfConfig {
    /// [`Self::keep_lost_ms`].
    #[must_use]
    pub fn keep_lost(&self) -> Duration {
        Duration::from_millis(self.keep_lost_ms)
    }

    /// [`Self::guard_ms`].
    #[must_use]
    pub fn guard(&self) -> Duration {
        Duration::from_millis(self.guard_ms)
    }
}

/// A NAS integrity algorithm. NIA0 is for unauthenticated emergency calls,
/// which a stand-in for tests does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Integrity {
    /// SNOW 3G.
    #[serde(rename = "NIA1")]
    Nia1,
    /// AES-CMAC.
    #[serde(rename = "NIA2")]
    Nia2,
}

/// A NAS ciphering algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ciphering {
    /// Null.
    #[serde(rename = "NEA0")]
    Nea0,
    /// SNOW 3G.
    #[serde(rename = "NEA1")]
    Nea1,
    /// AES-CTR.
    #[serde(rename = "NEA2")]
    Nea2,
}

/// An aggregate maximum bit rate, kbit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ambr {
    /// To the UE.
    pub downlink_kbps: u64,
    /// From the UE.
    pub uplink_kbps: u64,
}

/// The SMF: the data networks it connects to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmfConfig {
    /// Data networks; the first is the default.
    pub dnns: Vec<DnnConfig>,
}

/// One data network.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnnConfig {
    /// Data network name.
    pub name: String,
    /// UE addresses. Network, broadcast and the addresses of `exclude` are not
    /// given out.
    pub pool: Ipv4Net,
    /// IPv6: each session has a prefix of 64 bits of it, with the number that its IPv4 address has in
    /// `pool`. Without it sessions are of IPv4 alone.
    pub pool6: Option<Ipv6Net>,
    /// Addresses of the pool that are taken, such as the UPF's own.
    #[serde(default)]
    pub exclude: BTreeSet<Ipv4Addr>,
    /// IPv4 link MTU sent to the UE (TS 24.008 10.5.6.3, container 0010H).
    pub mtu: Option<u16>,
    /// DNS servers sent to the UE (container 000DH).
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Session AMBR.
    #[serde(default = "default_session_ambr")]
    pub ambr: Ambr,
    /// QoS flows. The first one is the default flow and has no filter.
    #[serde(default = "default_flows")]
    pub flows: Vec<FlowConfig>,
}

impl DnnConfig {
    /// The IPv6 prefix of the session that has an IPv4 address of the pool.
    #[must_use]
    pub fn prefix(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let first = u32::from(self.pool.network());
        let number = u128::from(u32::from(address).wrapping_sub(first));
        let network = u128::from(self.pool6?.network());
        Some(Ipv6Addr::from(network | number << 64))
    }
}

/// One QoS flow of every session of a data network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowConfig {
    /// QoS flow identifier, 1 to 63.
    pub qfi: u8,
    /// Standardised 5QI of a non-GBR flow.
    #[serde(default = "default_five_qi")]
    pub five_qi: u8,
    /// Allocation and retention priority, 1 to 15.
    #[serde(default = "default_arp")]
    pub arp: u8,
    /// Ask for reflective QoS in downlink packets (RQI).
    #[serde(default)]
    pub reflective: bool,
    /// The packets of the flow; none for the default flow.
    pub filter: Option<FlowFilter>,
}

/// A packet filter: every part that is given must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    /// Addresses in the data network.
    pub remote: Option<Ipv4Net>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Port in the data network.
    pub remote_port: Option<u16>,
}

/// The UPF.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpfConfig {
    /// GTP-U socket, UDP. Port 2152 by the standard.
    pub listen: SocketAddr,
    /// The address told to N3IWFs, where it is not the one of `listen`.
    pub advertise: Option<IpAddr>,
    /// What is behind the UPF.
    #[serde(default)]
    pub n6: N6Config,
}

impl UpfConfig {
    /// The address told to N3IWFs.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.advertise.unwrap_or_else(|| self.listen.ip())
    }
}

/// N6, the side of the data network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum N6Config {
    /// Nothing: uplink packets are counted and dropped.
    #[default]
    None,
    /// A TUN device of the process' own network namespace.
    Tun {
        /// Interface name.
        #[serde(default = "default_tun")]
        name: String,
        /// Its address and the prefix of the UE pools.
        address: Ipv4Net,
        /// The same for IPv6.
        address6: Option<Ipv6Net>,
        /// Its MTU. Default 1456: a 1500 octet N3 path without the G-PDU
        /// headers.
        #[serde(default = "default_tun_mtu")]
        mtu: u16,
    },
}

/// One subscription.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscriber {
    /// `imsi-` and 14 or 15 digits.
    pub supi: String,
    /// Subscriber key K, 16 octets in hexadecimal.
    pub k: Secret<16>,
    /// OPc, 16 octets in hexadecimal.
    pub opc: Option<Secret<16>>,
    /// OP, when OPc is not given.
    pub op: Option<Secret<16>>,
    /// Sequence number last used, 6 octets in hexadecimal.
    #[serde(default = "default_sqn")]
    pub sqn: String,
    /// Authentication management field, 2 octets in hexadecimal. The
    /// separation bit (8000) is what a UE of 5GS asks for.
    #[serde(default = "default_amf_field")]
    pub amf: String,
    /// Subscribed slices; none given means every slice of the network.
    #[serde(default)]
    pub slices: Vec<Slice>,
    /// Subscribed data networks; none given means every one.
    #[serde(default)]
    pub dnns: Vec<String>,
    /// The UE's address in every data network that has it in its pool.
    pub static_ip: Option<Ipv4Addr>,
}

/// A file that only lists subscribers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscriberFile {
    subscribers: Vec<Subscriber>,
}

/// A private key of the home network (TS 33.501 Annex C).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HomeNetworkKey {
    /// Home network public key identifier.
    pub id: u8,
    /// Which scheme it is for.
    pub profile: Profile,
    /// 32 octets in hexadecimal.
    pub private_key: Secret<32>,
}

/// A protection scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// X25519.
    A,
    /// secp256r1.
    B,
}

/// Reads and checks a configuration file, and the subscriber file it names.
///
/// # Errors
/// File, line, column and key of the first thing that is wrong.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let mut config: Config = daemon::config::load_checked(path, check)?;
    if let Some(file) = &config.subscriber_file {
        let file = path.parent().unwrap_or(Path::new(".")).join(file);
        let more: SubscriberFile = daemon::config::load_checked(&file, |more: &SubscriberFile| {
            check_subscribers(&more.subscribers)
        })?;
        config.subscribers.extend(more.subscribers);
    }
    Ok(config)
}

/// What one key alone cannot tell.
///
/// # Errors
/// The key and the reason.
pub fn check(config: &Config) -> Result<(), Complaint> {
    let amf = &config.amf;
    let complain = |key: &str, what: &str| Err(Complaint::new(key, what));
    if amf.set >= 1 << 10 {
        return complain("amf.set", "an AMF Set ID has 10 bits: at most 1023");
    }
    if amf.pointer >= 1 << 6 {
        return complain("amf.pointer", "an AMF Pointer has 6 bits: at most 63");
    }
    if amf.tracking_areas.is_empty() {
        return complain("amf.tracking_areas", "at least one tracking area");
    }
    if amf.slices.is_empty() || amf.slices.len() > 8 {
        return complain(
            "amf.slices",
            "one to eight slices (an allowed NSSAI has eight)",
        );
    }
    if amf.integrity.is_empty() {
        return complain("amf.integrity", "at least one algorithm");
    }
    if amf.ciphering.is_empty() {
        return complain("amf.ciphering", "at least one algorithm");
    }
    if config.smf.dnns.is_empty() {
        return complain("smf.dnns", "at least one data network");
    }
    for (index, dnn) in config.smf.dnns.iter().enumerate() {
        check_dnn(dnn, index)?;
    }
    for (index, key) in config.home_network_keys.iter().enumerate() {
        if key.id == 0 {
            return complain(
                &format!("home_network_keys[{index}].id"),
                "0 is the identifier of the null scheme",
            );
        }
    }
    check_subscribers(&config.subscribers)
}

fn check_dnn(dnn: &DnnConfig, index: usize) -> Result<(), Complaint> {
    if let Some(pool6) = dnn.pool6
        && pool6.prefix_len() > 32 + dnn.pool.prefix_len()
    {
        let what = "it has fewer prefixes of 64 bits than the pool has addresses";
        return Err(Complaint::new(format!("smf.dnns[{index}].pool6"), what));
    }

    let key = |rest: &str| format!("smf.dnns[{index}].{rest}");
    let mut seen = BTreeSet::new();
    if dnn.flows.is_empty() {
        return Err(Complaint::new(key("flows"), "at least the default flow"));
    }
    for (number, flow) in dnn.flows.iter().enumerate() {
        let flow_key = |rest: &str| key(&format!("flows[{number}].{rest}"));
        if !(1..=63).contains(&flow.qfi) {
            return Err(Complaint::new(flow_key("qfi"), "a QFI is 1 to 63"));
        }
        if !seen.insert(flow.qfi) {
            return Err(Complaint::new(flow_key("qfi"), "this QFI is given twice"));
        }
        if !(1..=15).contains(&flow.arp) {
            return Err(Complaint::new(flow_key("arp"), "a priority is 1 to 15"));
        }
        match (number, flow.filter) {
            (0, Some(_)) => {
                let what = "the first flow is the default flow, which takes what no filter takes";
                return Err(Complaint::new(flow_key("filter"), what));
            }
            (1.., None) => {
                return Err(Complaint::new(
                    flow_key("qfi"),
                    "every flow but the first needs a filter",
                ));
            }
            (
                _,
                Some(FlowFilter {
                    remote: None,
                    protocol: None,
                    remote_port: None,
                }),
            ) => {
                return Err(Complaint::new(
                    flow_key("filter"),
                    "a filter has at least one part",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_subscribers(subscribers: &[Subscriber]) -> Result<(), Complaint> {
    for (index, subscriber) in subscribers.iter().enumerate() {
        let key = |rest: &str| format!("subscribers[{index}].{rest}");
        let digits = subscriber.supi.strip_prefix("imsi-").unwrap_or_default();
        if !(14..=15).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Complaint::new(
                key("supi"),
                "expected `imsi-` and 14 or 15 digits",
            ));
        }
        if subscriber.opc.is_some() == subscriber.op.is_some() {
            return Err(Complaint::new(key("opc"), "exactly one of `opc` and `op`"));
        }
        if !is_hex(&subscriber.sqn, 6) {
            return Err(Complaint::new(key("sqn"), "expected 12 hexadecimal digits"));
        }
        if !is_hex(&subscriber.amf, 2) {
            return Err(Complaint::new(key("amf"), "expected 4 hexadecimal digits"));
        }
    }
    Ok(())
}

fn is_hex(text: &str, octets: usize) -> bool {
    text.len() == octets * 2 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn default_log() -> String {
    "info".to_owned()
}
fn default_amf_name() -> String {
    "core5g".to_owned()
}
const fn default_region() -> u8 {
    0xca
}
const fn default_set() -> u16 {
    1
}
fn default_integrity() -> Vec<Integrity> {
    vec![Integrity::Nia2, Integrity::Nia1]
}
fn default_ciphering() -> Vec<Ciphering> {
    vec![Ciphering::Nea2, Ciphering::Nea1, Ciphering::Nea0]
}
const fn yes() -> bool {
    true
}
const fn default_ue_ambr() -> Ambr {
    Ambr {
        downlink_kbps: 2_000_000,
        uplink_kbps: 1_000_000,
    }
}
const fn default_session_ambr() -> Ambr {
    Ambr {
        downlink_kbps: 1_000_000,
        uplink_kbps: 1_000_000,
    }
}
const fn default_deregistration_timer() -> u64 {
    54 * 60
}
const fn default_guard() -> u64 {
    30_000
}
const fn default_five_qi() -> u8 {
    9
}
const fn default_arp() -> u8 {
    8
}
fn default_flows() -> Vec<FlowConfig> {
    vec![FlowConfig {
        qfi: 1,
        five_qi: default_five_qi(),
        arp: default_arp(),
        reflective: false,
        filter: None,
    }]
}
fn default_tun() -> String {
    "upfgtp".to_owned()
}
const fn default_tun_mtu() -> u16 {
    1456
}
fn default_sqn() -> String {
    "000000000000".to_owned()
}
fn default_amf_field() -> String {
    "8000".to_owned()
}
