//! The configuration file.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, ensure};
use ike::{
    Acceptance, CertificateUse, CookiePolicy, EndpointConfig, Fragmentation, InitiatorConfig,
    Lifetimes, Mobike, Mode, Offer, PeerCertificate, Profile, QkdPolicy, ResponderConfig, Timing,
    Trust,
    crypto::{
        ChildSuite, IkeSuite,
        certificate::{Credential, TrustAnchors},
    },
    wire::{IdType, Identification, TrafficSelector},
};
use keys::{QkdKey, SaeId, Secret};
use serde::Deserialize;

/// The file as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Outer address of this end: UDP 500 and 4500 of it.
    pub listen: IpAddr,
    /// Outer address of the other end, for `initiate`.
    pub remote: IpAddr,
    /// IDi or IDr: an e-mail address (ID_RFC822_ADDR) or a name (ID_FQDN).
    pub identity: String,
    /// The only identity the other end may have.
    pub remote_identity: String,
    /// Proposals for the IKE SA in swanctl's words.
    pub ike: String,
    /// Proposals for the Child SA in swanctl's words.
    pub esp: String,
    /// How both ends prove themselves.
    pub authentication: Authentication,
    /// A postquantum preshared key both ends have (RFC 8784); no IKE SA without it.
    pub ppk: Option<Ppk>,
    /// Inner address of this end.
    pub inner_local: IpAddr,
    /// Inner address of the other end.
    pub inner_remote: IpAddr,
    /// As responder: ask everybody for a cookie.
    #[serde(default)]
    pub cookies: bool,
    /// Octets of the largest IP datagram: larger messages are fragmented. The engine's default without it.
    pub datagram: Option<u16>,
    /// Whether this end speaks MOBIKE (RFC 4555); as responder it asks new addresses for a cookie.
    #[serde(default)]
    pub mobike: bool,
    /// What carries ESP.
    #[serde(default)]
    pub esp_in: Esp,
}

/// How both ends prove themselves.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Authentication {
    /// Method 2 with this shared key.
    Psk(String),
    /// By certificate.
    Certificate(Certificates),
    /// The responder by certificate, the initiator by EAP-MSCHAPv2.
    Eap(Eap),
}

impl std::fmt::Debug for Authentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Psk(_) => f.write_str("Psk"),
            Self::Eap(eap) => write!(f, "Eap({:?})", eap.user),
            Self::Certificate(files) => files.fmt(f),
        }
    }
}

/// An account, and the certificates of the responder.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Eap {
    /// Name of the initiator's account.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Files.
    pub certificates: Certificates,
}

/// PEM files.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Certificates {
    /// Our chain, end entity first.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of the other end.
    pub authorities: PathBuf,
    /// Whether the other end may sign with method 1, RSA with SHA-1.
    #[serde(default)]
    pub allow_sha1: bool,
}

/// A postquantum preshared key.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ppk {
    /// Its name: a UUID, whose text is the PPK_ID of type PPK_ID_FIXED.
    pub id: String,
    /// At least 32 octets of text.
    pub secret: String,
}

impl std::fmt::Debug for Ppk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ppk({})", self.id)
    }
}

/// What carries ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Esp {
    /// Nothing: the keys are agreed and forgotten, for hosts whose kernel has no ESP.
    #[default]
    Nothing,
    /// The kernel.
    Kernel,
}

/// What the engine is told.
pub struct Parts {
    /// At its creation.
    pub endpoint: EndpointConfig,
    /// For `initiate`.
    pub initiator: InitiatorConfig,
    /// For `initiate`.
    pub offer: Offer,
}

impl Config {
    /// Reads the file; unknown keys are errors with line and column.
    ///
    /// # Errors
    /// When it cannot be read or makes no sense.
    pub fn load(path: &Path) -> Result<Self> {
        Ok(daemon::config::load(path)?)
    }

    /// In the engine's words; reads certificates and keys.
    ///
    /// # Errors
    /// When a suite or a file makes no sense.
    pub fn parts(&self) -> Result<Parts> {
        let ike_suites = IkeSuite::from_keywords(&self.ike).context("ike")?;
        let esp_suites = ChildSuite::from_keywords(&self.esp).context("esp")?;
        let sae_id: SaeId = "ikepeer".parse().map_err(|_| anyhow!("SAE ID"))?;
        let mut acceptance = Acceptance {
            modes: vec![Mode::Plain],
            policy: QkdPolicy::Forbid,
            ..Acceptance::default()
        };
        if let Some(ppk) = &self.ppk {
            ensure!(ppk.secret.len() >= 32, "ppk: a secret of 32 octets or more");
            acceptance.configured_ppk = Some(Arc::new(QkdKey {
                id: ppk.id.parse().map_err(|_| anyhow!("ppk: not a UUID"))?,
                secret: Secret::from_slice(ppk.secret.as_bytes()),
            }));
        }
        match &self.authentication {
            Authentication::Psk(key) => {
                acceptance.shared_key = Some(Arc::new(Secret::from_slice(key.as_bytes())));
            }
            Authentication::Eap(eap) => {
                let (credential, trust) = eap.certificates.read()?;
                acceptance.modes = vec![Mode::Psk];
                acceptance.credential = Some(credential);
                acceptance.certificate = CertificateUse::Always;
                acceptance.trust = Some(trust);
            }
            Authentication::Certificate(files) => {
                let (credential, trust) = files.read()?;
                acceptance.credential = Some(credential);
                acceptance.trust = Some(trust);
                acceptance.allow_sha1 = files.allow_sha1;
            }
        }
        #[allow(clippy::needless_update, reason = "for what offers will have besides")]
        let offer = Offer {
            modes: acceptance.modes.clone(),
            policy: acceptance.policy,
            credential: acceptance.credential.clone(),
            trust: acceptance.trust.clone(),
            allow_sha1: acceptance.allow_sha1,
            shared_key: acceptance.shared_key.clone(),
            configured_ppk: acceptance.configured_ppk.clone(),
            ..Offer::default()
        };
        let responder = ResponderConfig {
            profiles: Vec::new(),
            sae_id: sae_id.clone(),
            identity: identification(&self.identity),
            paper: None,
            ike_suites: ike_suites.clone(),
            esp_suites: esp_suites.clone(),
            cookies: match self.cookies {
                true => CookiePolicy::Always,
                false => CookiePolicy::Never,
            },
            half_open_limit: 100,
        };
        let endpoint = EndpointConfig {
            timing: Timing {
                dpd_interval: None,
                retransmit_tries: 4,
                ..Timing::default()
            },
            responder: Some(responder),
            lifetimes: Lifetimes {
                retry: Duration::from_secs(2),
                from_peer: true,
                ..Lifetimes::default()
            },
            acceptance,
            mobike: self.mobike.then_some(Mobike {
                check_routability: true,
                ..Mobike::default()
            }),
            fragmentation: match self.datagram {
                None => Fragmentation::default(),
                datagram => Fragmentation {
                    datagram,
                    ..Fragmentation::default()
                },
            },
            ..EndpointConfig::default()
        };
        let initiator = InitiatorConfig {
            profile: Profile::Native,
            sae_id,
            master_sae_id: None,
            identity: identification(&self.identity),
            peer_identity: Some(identification(&self.remote_identity)),
            peer_certificate: PeerCertificate::Ignore,
            ike_suites,
            esp_suites,
            ts_local: vec![self.ts_local()],
            ts_remote: vec![self.ts_remote()],
            configuration: Vec::new(),
        };
        Ok(Parts {
            endpoint,
            initiator,
            offer,
        })
    }

    /// Our side of the traffic.
    #[must_use]
    pub fn ts_local(&self) -> TrafficSelector {
        TrafficSelector::host(self.inner_local)
    }

    /// The other side of the traffic.
    #[must_use]
    pub fn ts_remote(&self) -> TrafficSelector {
        TrafficSelector::host(self.inner_remote)
    }
}

impl Certificates {
    fn read(&self) -> Result<(Arc<Credential>, Trust)> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("{}", path.display()));
        let credential = Credential::new(&read(&self.chain)?, &read(&self.key)?)
            .with_context(|| format!("{}", self.chain.display()))?;
        let anchors = TrustAnchors::new(&read(&self.authorities)?)
            .with_context(|| format!("{}", self.authorities.display()))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let trust = Trust {
            anchors: Arc::new(anchors),
            epoch: i64::try_from(now.as_secs())?,
        };
        Ok((Arc::new(credential), trust))
    }
}

fn identification(text: &str) -> Identification {
    if text.contains('@') {
        Identification::new(IdType::RFC822_ADDR, text.as_bytes().to_vec())
    } else {
        Identification::fqdn(text)
    }
}
