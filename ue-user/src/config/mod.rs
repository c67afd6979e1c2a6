//! The configuration file of `ue-user`.
//!
//! YAML; every key is documented in `config/ue.yaml`, and unknown keys are errors. What the file
//! holds that is secret, K and OP or OPc, is read into [`Secret`] and shown by nothing.

mod build;
mod hex_secret;
mod modes;

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use daemon::{
    config::{Complaint, ConfigError},
    hardening::{Capability, Needs},
};
use ike::crypto::{ChildSuite, IkeSuite};
use ike_config::{Lifetimes, ModeWord, PeerWord, PolicyWord, Proposals};
use ipnet::IpNet;
use keys::SaeId;
use serde::{Deserialize, Deserializer, de};

pub use self::{build::subscriber, hex_secret::HexSecret};
use crate::core::nas::SessionKind;

/// The whole file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The access network.
    pub nwu: Nwu,
    /// The subscriber.
    pub subscriber: Subscriber,
    /// PLMN to register with.
    pub plmn: PlmnId,
    /// Requested NSSAI.
    #[serde(default)]
    pub nssai: Vec<Slice>,
    /// GUAMI to name while there is no 5G-GUTI: AMF region, set and pointer, 6 hexadecimal digits.
    #[serde(default)]
    pub amf_id: Option<AmfId>,
    /// NAS algorithms.
    #[serde(default)]
    pub nas: NasOptions,
    /// PDU sessions; the n-th has PDU session identity n.
    #[serde(default)]
    pub sessions: Vec<SessionOptions>,
    /// Key modes offered, best first.
    #[serde(default = "default_modes")]
    pub modes: Vec<ModeWord>,
    /// What an attach needs; follows from `modes` where those leave no doubt.
    #[serde(default)]
    pub policy: Option<PolicyWord>,
    /// QKD keys; not needed where no mode takes any.
    #[serde(default)]
    pub qkd: Option<Qkd>,
    /// Wire form of the QKD-keyed exchange.
    #[serde(default)]
    pub profile: Profile,
    /// IKE.
    #[serde(default)]
    pub ike: IkeOptions,
    /// When SAs are rekeyed.
    #[serde(default)]
    pub lifetimes: Lifetimes,
    /// The data plane.
    #[serde(default)]
    pub dataplane: dataplane::Options,
    /// Control socket.
    #[serde(default = "default_control")]
    pub control: PathBuf,
    /// The endpoint for Prometheus; none without the section.
    #[serde(default)]
    pub metrics: Option<metrics::Options>,
    /// What the daemon gives up once it serves.
    #[serde(default)]
    pub hardening: daemon::hardening::Options,
    /// Logging.
    #[serde(default)]
    pub logger: Logger,
    /// Back-off between attaches.
    #[serde(default)]
    pub retry: Retry,
}

/// `nwu:`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nwu {
    /// This host's address on NWu.
    pub local_address: IpAddr,
    /// The N3IWF's address.
    pub n3iwf_address: IpAddr,
    /// What the N3IWF has to call itself.
    #[serde(default)]
    pub n3iwf_fqdn: Option<String>,
    /// UDP port IKE starts on: 500, or 4500 (RFC 7296, 2.23).
    #[serde(default = "default_port")]
    pub port: u16,
    /// Name of the XFRM interface, 1 to 10 characters.
    #[serde(default = "default_interface")]
    pub xfrm_interface_name: String,
    /// XFRM interface ID, not 0.
    #[serde(rename = "xfrmInterfaceID", default = "default_interface_id")]
    pub xfrm_interface_id: u32,
}

/// `subscriber:`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subscriber {
    /// `imsi-` and 6 to 15 digits.
    pub supi: String,
    /// Home PLMN; the PLMN to register with when absent.
    #[serde(default)]
    pub home_plmn: Option<PlmnId>,
    /// K.
    pub k: HexSecret,
    /// OPc.
    #[serde(default)]
    pub opc: Option<HexSecret>,
    /// OP, instead of OPc.
    #[serde(default)]
    pub op: Option<HexSecret>,
    /// File of the sequence numbers.
    pub sqn_file: PathBuf,
    /// Sequence number to start from while that file does not exist.
    #[serde(default, deserialize_with = "hex_number")]
    pub sqn: u64,
    /// 16 digits.
    #[serde(default)]
    pub imeisv: Option<String>,
    /// How the SUPI is concealed.
    #[serde(default)]
    pub suci_scheme: SuciScheme,
    /// Home network public key, hexadecimal.
    #[serde(default)]
    pub home_network_public_key: Option<String>,
    /// Its identifier, 1 to 254.
    #[serde(default)]
    pub home_network_public_key_id: u8,
    /// Routing indicator, 1 to 4 digits.
    #[serde(default)]
    pub routing_indicator: String,
}

/// SUCI protection scheme.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum SuciScheme {
    /// Scheme 0: not concealed.
    #[default]
    Null,
    /// X25519.
    ProfileA,
    /// P-256.
    ProfileB,
}

/// A PLMN identity.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct PlmnId {
    /// 3 digits.
    pub mcc: String,
    /// 2 or 3 digits.
    pub mnc: String,
}

/// An S-NSSAI.
#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Slice/service type.
    pub sst: u8,
    /// Slice differentiator, 6 hexadecimal digits.
    #[serde(default, deserialize_with = "slice_differentiator")]
    pub sd: Option<[u8; 3]>,
}

/// AMF region (8 bits), set (10) and pointer (6).
#[derive(Clone, Copy)]
pub struct AmfId(pub [u8; 3]);

/// `nas:`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NasOptions {
    /// Ciphering algorithms offered.
    pub ciphering: Vec<Nea>,
    /// Integrity algorithms offered.
    pub integrity: Vec<Nia>,
}

/// A ciphering algorithm.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Nea {
    NEA0,
    NEA1,
    NEA2,
}

/// An integrity algorithm; never NIA0.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Nia {
    NIA1,
    NIA2,
}

/// An entry of `sessions:`.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionOptions {
    /// Data network name.
    #[serde(default)]
    pub dnn: Option<String>,
    /// Slice.
    #[serde(default)]
    pub s_nssai: Option<Slice>,
    /// PDU session type.
    #[serde(rename = "type", default)]
    pub kind: SessionType,
    /// Whether 0.0.0.0/0 goes through the session. ::/0 does with IPv6, as the network advertises.
    #[serde(default)]
    pub default_route: bool,
    /// Destinations that go through the session.
    #[serde(default)]
    pub routes: Vec<IpNet>,
    /// Name of the interface; `<uepdu><n>` when absent.
    #[serde(default)]
    pub interface: Option<String>,
}

/// PDU session type.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SessionType {
    #[default]
    IPv4,
    IPv6,
    IPv4v6,
}

impl From<SessionType> for SessionKind {
    fn from(kind: SessionType) -> Self {
        match kind {
            SessionType::IPv4 => Self::Ipv4,
            SessionType::IPv6 => Self::Ipv6,
            SessionType::IPv4v6 => Self::Ipv4v6,
        }
    }
}

/// `qkd:`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Qkd {
    /// This UE's SAE ID.
    pub sae_id: SaeId,
    /// The N3IWF's SAE ID; needed for profile `paper`, which does not signal it.
    #[serde(default)]
    pub n3iwf_sae_id: Option<SaeId>,
    /// The KMS of this site.
    pub kms: qkd::KmsConfig,
}

/// `profile:`.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Binary key IDs, AES-GCM, no certificate.
    #[default]
    Native,
    /// The byte layout of arXiv 2603.24426.
    Paper,
}

/// `ike:`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IkeOptions {
    /// Suites offered for the IKE SA, best first; profile `paper` has one of its own. What the modes
    /// need when absent.
    pub proposals: Option<Proposals<IkeSuite>>,
    /// Suites offered for Child SAs, best first.
    pub esp_proposals: Proposals<ChildSuite>,
    /// First wait before a request is sent again; doubles.
    #[serde(with = "qkd::duration")]
    pub retransmit_first: Duration,
    /// Longest such wait.
    #[serde(with = "qkd::duration")]
    pub retransmit_max: Duration,
    /// Times a request is sent again.
    pub retransmit_tries: u32,
    /// Silence after which the N3IWF is asked whether it lives.
    #[serde(with = "qkd::duration")]
    pub dpd_interval: Duration,
    /// Behind a NAT: silence of the UE after which a keepalive holds its mapping (RFC 3948, 4).
    #[serde(with = "qkd::duration")]
    pub nat_keepalive: Duration,
    /// Octets of the largest IP datagram, from 576: what is larger is sent in fragments (RFC 7383).
    pub fragment_size: u16,
    /// Whether the attach goes on when this host's address changes (MOBIKE, RFC 4555).
    pub mobike: bool,
    /// Replay window of Child SAs in packets, 32 to 4096.
    pub replay_window: u32,
    /// PEM certificates that may vouch for the N3IWF in modes `psk` and `cert` (of authorities) and in
    /// profile `paper` (its own, or of its issuer); none: it is not judged.
    pub trusted_certificates: Vec<PathBuf>,
    /// This UE's certificate and what leads from it to an authority, PEM, for mode `cert`.
    pub certificate: Option<PathBuf>,
    /// Private key of `certificate`, PEM.
    pub private_key: Option<PathBuf>,
    /// IDi in mode `cert`: a name of the certificate, its first subjectAltName when absent.
    pub identity: Option<String>,
    /// Whose faults are borne with, and whose suites are offered.
    pub peer_profile: PeerWord,
    /// Whether the N3IWF may sign with method 1 (RSA with SHA-1).
    pub allow_sha1: bool,
    /// GRE protocol type of user packets: 0, or 0x0800 for stock free5GC.
    pub gre_protocol: u16,
}

/// `logger:`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logger {
    /// A `tracing` filter: `info`, `warn,ue_user=debug`.
    pub level: String,
    /// Whether log lines are JSON.
    pub json: bool,
}

/// `retry:`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retry {
    /// Attaches that may fail in a row; 0: without end.
    pub attempts: u32,
    /// First pause.
    #[serde(with = "qkd::duration")]
    pub initial: Duration,
    /// Longest pause.
    #[serde(with = "qkd::duration")]
    pub maximum: Duration,
    /// Longest time an attach may take until the UE is registered.
    #[serde(with = "qkd::duration")]
    pub attach_timeout: Duration,
    /// How long to wait for the network after a deregistration.
    #[serde(with = "qkd::duration")]
    pub release_timeout: Duration,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        daemon::config::load_checked(path, Self::check)
    }

    /// The same of a text that errors call `file`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        daemon::config::parse(file, text, Self::check)
    }

    /// The capabilities the daemon needs, and until when.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let ebpf = self.dataplane.bpf.is_some()
            || self.dataplane.relay == dataplane::relay::RelayKind::Kernel;
        let mut needs = Needs::of_a_daemon(ebpf);
        if self.ike.mobike {
            // UDP port 500 again, at another address.
            needs.serve.push(Capability::CAP_NET_BIND_SERVICE);
        }
        needs
    }

    /// What an operator should know about the file.
    pub fn warnings(&self, path: &Path) -> Vec<String> {
        let mut warnings = Vec::new();
        let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o044 != 0) {
            warnings.push(format!(
                "{} holds K and can be read by others: chmod 600 it",
                path.display()
            ));
        }
        warnings.extend(self.mode_warnings());
        if self.subscriber.suci_scheme == SuciScheme::Null {
            warnings.push("suciScheme null: the SUPI is not concealed from the N3IWF".to_owned());
        }
        warnings
    }

    /// Where the NWu sockets and IKE_SA_INIT are.
    pub fn path(&self) -> ike::Path {
        ike::Path {
            local: SocketAddr::new(self.nwu.local_address, self.nwu.port),
            remote: SocketAddr::new(self.nwu.n3iwf_address, self.nwu.port),
        }
    }

    /// What one key alone cannot tell.
    fn check(&self) -> Result<(), Complaint> {
        let complain = |key: &str, what: &str| Err(Complaint::new(key, what));
        if self.nwu.local_address.is_ipv4() != self.nwu.n3iwf_address.is_ipv4() {
            return complain("nwu.n3iwfAddress", "not of the IP version of localAddress");
        }
        if !matches!(self.nwu.port, 500 | 4500) {
            return complain("nwu.port", "500 or 4500");
        }
        if self.subscriber.opc.is_some() == self.subscriber.op.is_some() {
            return complain("subscriber.opc", "either opc or op, and not both");
        }
        let plain = self.subscriber.suci_scheme == SuciScheme::Null;
        if plain != self.subscriber.home_network_public_key.is_none() {
            return complain(
                "subscriber.suciScheme",
                "profileA and profileB need homeNetworkPublicKey, null has none",
            );
        }
        if let Some(imeisv) = &self.subscriber.imeisv
            && (imeisv.len() != 16 || !imeisv.bytes().all(|digit| digit.is_ascii_digit()))
        {
            return complain("subscriber.imeisv", "an IMEISV has 16 digits");
        }
        self.check_modes()?;
        if self.sessions.len() > 15 {
            return complain("sessions", "15 PDU sessions at most");
        }
        if self.nas.ciphering.is_empty() || self.nas.integrity.is_empty() {
            return complain("nas", "at least one algorithm of each kind");
        }
        if self.ike.nat_keepalive < Duration::from_secs(1) {
            return complain("ike.natKeepalive", "1s or more");
        }
        if let Some((which, what)) = ike::Lifetimes::from(self.lifetimes).fault() {
            return complain(&format!("lifetimes.{which}"), what);
        }
        if !(32..=4096).contains(&self.ike.replay_window) {
            return complain("ike.replayWindow", "32 to 4096 packets");
        }
        for (index, session) in self.sessions.iter().enumerate() {
            let name = session.interface_name(index);
            if name.is_empty() || name.len() > 15 || !name.bytes().all(|c| c.is_ascii_graphic()) {
                let key = format!("sessions[{index}].interface");
                return complain(&key, "1 to 15 visible characters");
            }
        }
        subscriber(self)
            .map(|_| ())
            .map_err(|(key, what)| Complaint::new(key, what))
    }
}

impl SessionOptions {
    /// Name of the interface of the session at `index` of the list.
    pub fn interface_name(&self, index: usize) -> String {
        match &self.interface {
            Some(name) => name.clone(),
            None => format!("uepdu{}", index + 1),
        }
    }
}

impl Default for NasOptions {
    fn default() -> Self {
        Self {
            ciphering: vec![Nea::NEA2, Nea::NEA1, Nea::NEA0],
            integrity: vec![Nia::NIA2, Nia::NIA1],
        }
    }
}

impl Default for IkeOptions {
    fn default() -> Self {
        let timing = ike::Timing::default();
        Self {
            proposals: None,
            esp_proposals: Proposals("AES_GCM_16-256/ESN".parse().into_iter().collect()),
            retransmit_first: timing.retransmit_first,
            retransmit_max: timing.retransmit_max,
            retransmit_tries: timing.retransmit_tries,
            dpd_interval: timing.dpd_interval.unwrap_or(Duration::ZERO),
            nat_keepalive: timing.keepalive,
            fragment_size: ike_config::FRAGMENT_SIZE,
            mobike: false,
            replay_window: 128,
            trusted_certificates: Vec::new(),
            certificate: None,
            private_key: None,
            identity: None,
            peer_profile: PeerWord::default(),
            allow_sha1: false,
            gre_protocol: 0,
        }
    }
}

impl Default for Logger {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            json: false,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 0,
            initial: Duration::from_secs(2),
            maximum: Duration::from_secs(60),
            attach_timeout: Duration::from_secs(60),
            release_timeout: Duration::from_secs(3),
        }
    }
}

impl<'de> Deserialize<'de> for AmfId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        octets(&text)
            .map(Self)
            .ok_or_else(|| de::Error::custom("6 hexadecimal digits: region, set and pointer"))
    }
}

fn octets<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut octets = [0; N];
    hex::decode_to_slice(text, &mut octets).ok()?;
    Some(octets)
}

fn slice_differentiator<'de, D: Deserializer<'de>>(d: D) -> Result<Option<[u8; 3]>, D::Error> {
    match Option::<String>::deserialize(d)? {
        None => Ok(None),
        Some(text) => octets(&text)
            .map(Some)
            .ok_or_else(|| de::Error::custom("6 hexadecimal digits, quoted")),
    }
}

fn hex_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    u64::from_str_radix(&text, 16)
        .ok()
        .filter(|number| *number < 1 << 48)
        .ok_or_else(|| de::Error::custom("up to 12 hexadecimal digits, quoted"))
}

fn default_modes() -> Vec<ModeWord> {
    vec![ModeWord::Qkd]
}

fn default_control() -> PathBuf {
    "/run/ue-user/ue.sock".into()
}

fn default_port() -> u16 {
    500
}

fn default_interface() -> String {
    "nwuipsec".to_owned()
}

fn default_interface_id() -> u32 {
    7
}

#[cfg(test)]
mod tests;
