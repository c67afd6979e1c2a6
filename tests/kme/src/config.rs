//! Configuration of one KME, of a pair, and of the link between them.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use keys::SaeId;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// `kme run`: one end of a pair as a process of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunConfig {
    /// This end.
    pub kme: KmeConfig,
    /// The simulated QKD link.
    #[serde(default)]
    pub link: LinkConfig,
    /// How this end finds the other.
    pub peer: PeerConfig,
    /// Unix socket for `kme status` and `kme fault`.
    #[serde(default)]
    pub control: Option<PathBuf>,
    /// The endpoint for Prometheus; none without the section.
    #[serde(default)]
    pub metrics: Option<MetricsConfig>,
    /// Log filter.
    #[serde(default = "default_log")]
    pub log: String,
}

/// `kme pair`: both ends in one process.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PairConfig {
    /// One end.
    pub a: KmeConfig,
    /// The other.
    pub b: KmeConfig,
    /// The simulated QKD link.
    #[serde(default)]
    pub link: LinkConfig,
    /// Unix socket for `kme status` and `kme fault`.
    #[serde(default)]
    pub control: Option<PathBuf>,
    /// The endpoint for Prometheus; none without the section.
    #[serde(default)]
    pub metrics: Option<MetricsConfig>,
    /// Log filter.
    #[serde(default = "default_log")]
    pub log: String,
}

/// `metrics:`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Address and port; 127.0.0.1:9734 when absent.
    pub listen: Option<SocketAddr>,
}

/// One KME.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KmeConfig {
    /// KME ID.
    pub id: String,
    /// Where the HTTPS server listens; port 0 takes any free port.
    pub listen: SocketAddr,
    /// PEM file of the CA that SAE certificates must chain to.
    pub ca: PathBuf,
    /// PEM file of the server certificate, leaf first.
    pub certificate: PathBuf,
    /// PEM file of the key of `certificate`.
    pub private_key: PathBuf,
    /// SAEs of this site; a `*` at the end stands for any rest. Without the list, any SAE with a
    /// certificate of the CA is one.
    #[serde(default)]
    pub saes: Vec<String>,
    /// What the KME offers.
    #[serde(default)]
    pub offer: Offer,
    /// Faults from the start.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Every key delivered is written here in clear, so that a test can look for it elsewhere.
    #[serde(default)]
    pub journal: Option<PathBuf>,
}

/// What a KME offers, as its status tells it. Sizes in bits.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Offer {
    /// Size when the request names none.
    pub key_size: u32,
    /// Smallest size.
    pub min_key_size: u32,
    /// Largest size.
    pub max_key_size: u32,
    /// Most keys of one `enc_keys`.
    pub max_key_per_request: u32,
    /// Most additional slave SAEs of one `enc_keys`.
    #[serde(rename = "maxSaeIdCount")]
    pub max_sae_id_count: u32,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            key_size: 256,
            min_key_size: 64,
            max_key_size: 4096,
            max_key_per_request: 128,
            max_sae_id_count: 0,
        }
    }
}

/// The simulated QKD link. Each end draws from a buffer of its own, filled at the same rate.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LinkConfig {
    /// Secret key rate in bits per second and direction; 0 gives no more than the first filling.
    pub rate: u64,
    /// Buffer in bits and direction.
    pub buffer: u64,
    /// Filling at the start in bits; a full buffer when absent.
    pub initial: Option<u64>,
    /// How long a key delivered at one end takes to be known at the other.
    #[serde(with = "qkd::duration")]
    pub delay: Duration,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            rate: 100_000,
            buffer: 10_000_000,
            initial: None,
            delay: Duration::from_millis(20),
        }
    }
}

/// How an end of a pair in two processes finds the other. The connection stands for the QKD link
/// and is as open to eavesdroppers as a simulation is: keep it on a network of its own.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum PeerConfig {
    /// Waits for the other end here.
    Listen(SocketAddr),
    /// Connects to the other end, again and again.
    Connect(SocketAddr),
}

/// Whether `sae` is one of `patterns`; an empty list allows every SAE.
pub(crate) fn allowed(patterns: &[String], sae: &SaeId) -> bool {
    patterns.is_empty()
        || patterns
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => sae.as_str().starts_with(start),
                None => sae.as_str() == pattern,
            })
}

fn default_log() -> String {
    "info".into()
}
