//! What an endpoint is told once: identities, accepted suites, limits and timers.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use keys::{QkdKey, SaeId, Secret};

use crate::{
    crypto::{
        ChildSuite, IkeSuite,
        certificate::{Credential, TrustAnchors, chain_of},
        rsa::{Certificate, RsaSigner},
    },
    fragmentation::Fragmentation,
    key_log::KeyLog,
    peer_rules::{PeerRule, rule_for},
    time::Instant,
    wire::{CfgAttribute, Identification, Payload, TrafficSelector},
};

/// How the keys of an IKE SA come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// QKD keys directly, without any key exchange method.
    Qkd(Profile),
    /// A key exchange, and a QKD key as PPK (RFC 9867, RFC 8784); AUTH as in `psk`. Broken only if both are.
    Hybrid,
    /// A key exchange; AUTH with K_N3IWF alone (TS 24.502, TS 33.501): the 3GPP standard.
    Psk,
    /// A key exchange; both ends prove themselves by certificate in the first IKE_AUTH exchange, and by K_N3IWF after
    /// EAP.
    Cert,
    /// A key exchange; both ends prove themselves in one IKE_AUTH exchange without EAP (RFC 7296 1.2, 2.15), by shared
    /// key or certificate. For peers that are neither UE nor N3IWF: no subscription is proven.
    Plain,
}

impl Mode {
    /// Whether its keys come from the QKD system alone.
    pub const fn is_qkd(self) -> bool {
        matches!(self, Self::Qkd(_))
    }

    /// Whether a QKD key is in its keys: what [`QkdPolicy`] asks for.
    pub const fn has_qkd_key(self) -> bool {
        matches!(self, Self::Qkd(_) | Self::Hybrid)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qkd(profile) => write!(f, "qkd-{profile}"),
            Self::Hybrid => f.write_str("hybrid"),
            Self::Psk => f.write_str("psk"),
            Self::Cert => f.write_str("cert"),
            Self::Plain => f.write_str("plain"),
        }
    }
}

/// The two wire forms of mode `qkd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Binary key IDs, 32-octet nonces, no certificate.
    Native,
    /// The byte layout of the measurements in arXiv 2603.24426: JSON key IDs, RSA certificate,
    /// 256-octet nonces, no nonce in CREATE_CHILD_SA.
    Paper,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Paper => "paper",
        })
    }
}

/// How the QKD key of mode `hybrid` may enter the keys of the first IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PpkUse {
    /// In IKE_INTERMEDIATE if the peer can, else in IKE_AUTH.
    #[default]
    Either,
    /// In IKE_INTERMEDIATE only (RFC 9867): the first IKE SA and the identities are protected by it too.
    Intermediate,
    /// In IKE_AUTH only (RFC 8784): from the first Child SA on.
    Auth,
}

/// What becomes of an attach when QKD keys cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum QkdPolicy {
    /// No attach without QKD keys: other modes are neither offered nor accepted.
    Require,
    /// Modes with QKD keys before the others. When they fail, the others are tried in the open:
    /// [`Event::ModeFallback`](crate::Event::ModeFallback) tells, and the SA shows its mode.
    #[default]
    Prefer,
    /// Modes without QKD keys only.
    Forbid,
}

impl QkdPolicy {
    /// The modes this policy leaves, in the order it wants.
    pub fn order(self, modes: &[Mode]) -> Vec<Mode> {
        let (qkd, other): (Vec<Mode>, Vec<Mode>) =
            modes.iter().partition(|mode| mode.has_qkd_key());
        match self {
            Self::Require => qkd,
            Self::Prefer => qkd.into_iter().chain(other).collect(),
            Self::Forbid => other,
        }
    }
}

/// The configuration's words: `require-qkd`, `prefer-qkd`, `no-qkd`.
impl fmt::Display for QkdPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Require => "require-qkd",
            Self::Prefer => "prefer-qkd",
            Self::Forbid => "no-qkd",
        })
    }
}

/// Key modes a responder accepts, and how both ends authenticate in those without a QKD key.
#[derive(Clone, Default)]
pub struct Acceptance {
    /// Modes, best first. Empty: mode `qkd` in the profiles of [`ResponderConfig`].
    pub modes: Vec<Mode>,
    /// Which of them count.
    pub policy: QkdPolicy,
    /// Certificate chain and private key for the first AUTH.
    pub credential: Option<Arc<Credential>>,
    /// When the first AUTH is by certificate in mode `psk`; in mode `cert` it always is.
    pub certificate: CertificateUse,
    /// Authorities of the peers' certificates, for modes `cert` and `plain`.
    pub trust: Option<Trust>,
    /// Mode `plain`: the key that proves both ends. Without it they do so by certificate.
    pub shared_key: Option<Arc<Secret>>,
    /// Mode `plain`: a PPK by configuration (RFC 8784), named by its identifier as text; no attach without it.
    pub configured_ppk: Option<Arc<QkdKey>>,
    /// Mode `hybrid`: where the QKD key may enter.
    pub ppk: PpkUse,
    /// Mode `plain`: whether the initiator may sign with method 1 (RSA with SHA-1).
    pub allow_sha1: bool,
    /// Peers for whom other modes or another policy count, by the address that IKE_SA_INIT comes from. What was
    /// decided then holds for the IKE SA, its rekeys and wherever the peer moves.
    pub peers: Vec<PeerRule>,
}

impl fmt::Debug for Acceptance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptance")
            .field("modes", &self.modes)
            .field("policy", &self.policy)
            .field("certificate", &self.certificate)
            .field("trust", &self.trust)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl Acceptance {
    /// What a peer at this address may do.
    pub(crate) fn terms(&self, config: &ResponderConfig, peer: IpAddr) -> Terms {
        let (modes, policy) = match rule_for(&self.peers, peer) {
            Some(rule) => (rule.policy.order(&rule.modes), rule.policy),
            None if self.modes.is_empty() => {
                let modes = config.profiles.iter().copied().map(Mode::Qkd);
                (modes.collect(), self.policy)
            }
            None => (self.policy.order(&self.modes), self.policy),
        };
        Terms { modes, policy }
    }
}

/// What one peer may do, decided once for each IKE SA.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    /// Modes that count, best first.
    pub(crate) modes: Vec<Mode>,
    /// What left these.
    pub(crate) policy: QkdPolicy,
}

/// When a responder proves itself by certificate before EAP (TS 24.502 7.3.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CertificateUse {
    /// When the initiator sent CERTREQ.
    #[default]
    WhenAsked,
    /// In every attach.
    Always,
    /// Never: only AUTH with K_N3IWF after EAP.
    Never,
}

/// Authorities, and the calendar to judge their certificates by.
#[derive(Clone)]
pub struct Trust {
    /// The authorities.
    pub anchors: Arc<TrustAnchors>,
    /// Seconds since 1970 at [`Instant::ZERO`](crate::Instant::ZERO): the engine has no calendar of its own.
    pub epoch: i64,
}

impl Trust {
    /// Whether AUTH is by a certificate of one of the authorities for this identity.
    pub(crate) fn accepts(
        &self,
        now: Instant,
        payloads: &[Payload],
        id: &Identification,
        octets: &[u8],
        allow_sha1: bool,
    ) -> bool {
        let elapsed = i64::try_from(now.since_origin().as_secs()).unwrap_or(i64::MAX);
        let now = self.epoch.saturating_add(elapsed);
        let proof = payloads.iter().find_map(|payload| match payload {
            Payload::Auth { method, data } => Some((*method, data)),
            _ => None,
        });
        match (proof, self.anchors.verify(&chain_of(payloads), now, id)) {
            (Some((method, data)), Ok(peer)) => {
                peer.key.verify(method, data, octets, allow_sha1).is_ok()
            }
            _ => false,
        }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Key modes an initiator offers, and what it needs for certificates.
#[derive(Clone, Default)]
pub struct Offer {
    /// Modes, best first. Empty: mode `qkd` in the profile of [`InitiatorConfig`].
    pub modes: Vec<Mode>,
    /// Which of them count, and whether others may follow when QKD keys cannot be had.
    pub policy: QkdPolicy,
    /// Certificate chain and private key, for modes `cert` and `plain`.
    pub credential: Option<Arc<Credential>>,
    /// IDi in mode `cert`: a name of the credential. [`InitiatorConfig::identity`] when absent, and in other modes.
    pub identity: Option<Identification>,
    /// Authorities of the N3IWF's certificate, in modes `psk`, `cert` and `plain`. Takes the place of
    /// [`InitiatorConfig::peer_certificate`]. With it an answer without a good certificate is refused.
    pub trust: Option<Trust>,
    /// Whether the N3IWF may sign with method 1 (RSA with SHA-1): for peers that have nothing newer.
    pub allow_sha1: bool,
    /// Mode `plain`: the key that proves both ends. Without it they do so by certificate.
    pub shared_key: Option<Arc<Secret>>,
    /// Mode `plain`: a PPK by configuration (RFC 8784), named by its identifier as text; no attach without it.
    pub configured_ppk: Option<Arc<QkdKey>>,
    /// Mode `hybrid`: where the QKD key may enter.
    pub ppk: PpkUse,
    /// Whether to tell that there is no other IKE SA between the two identities (INITIAL_CONTACT, RFC 7296 2.4).
    /// Never in the `paper` profile and to peers of free5GC.
    pub initial_contact: bool,
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer")
            .field("modes", &self.modes)
            .field("policy", &self.policy)
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

impl Offer {
    pub(crate) fn modes(&self, config: &InitiatorConfig) -> Vec<Mode> {
        if self.modes.is_empty() {
            vec![Mode::Qkd(config.profile)]
        } else {
            self.policy.order(&self.modes)
        }
    }
}

/// Everything an [`Endpoint`](crate::Endpoint) is told at its creation.
#[derive(Debug, Clone, Default)]
pub struct EndpointConfig {
    /// Timers of both roles.
    pub timing: Timing,
    /// The responder's side; without it IKE_SA_INIT requests are dropped.
    pub responder: Option<ResponderConfig>,
    /// When Child SAs and IKE SAs are rekeyed by this side.
    pub lifetimes: Lifetimes,
    /// Key modes the responder accepts.
    pub acceptance: Acceptance,
    /// Cutting messages into fragments.
    pub fragmentation: Fragmentation,
    /// Which faults of peers are borne with.
    pub peer_profile: PeerProfile,
    /// Who gets QKD keys in IKE_SA_INIT.
    pub admission: Admission,
    /// MOBIKE; `None`: neither offered nor accepted.
    pub mobike: Option<Mobike>,
    /// Is told the keys of IKE SAs, for a dissector. `None` in service.
    pub key_log: Option<Arc<dyn KeyLog>>,
}

/// MOBIKE (RFC 4555), in every mode but the `paper` profile of `qkd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mobike {
    /// Responder: whether an initiator's new address has to return a COOKIE2 before Child SAs go there (3.7).
    pub check_routability: bool,
    /// Initiator: whether an address on the way that is not our own ends the change, or the attach (3.9).
    pub no_nats: bool,
}

/// Whose faults are borne with. Suites are not in it: those are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerProfile {
    /// Nobody's: peers do as the standards say.
    #[default]
    Standard,
    /// Those of free5GC's N3IWUE, at a responder in IKE SAs of mode `psk` whose PRF is HMAC-SHA-1; those of its N3IWF,
    /// at an initiator in every IKE SA of mode `psk`.
    Free5gc,
}

/// Timers. All in virtual time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Wait before the first retransmission of a request; doubles with each one (RFC 7296 2.1).
    pub retransmit_first: Duration,
    /// Upper bound of the wait between two retransmissions.
    pub retransmit_max: Duration,
    /// Retransmissions after the first transmission; when the wait after the last has passed the peer is dead.
    pub retransmit_tries: u32,
    /// Silence of the peer after which an empty INFORMATIONAL asks whether it lives (RFC 7296 2.4); `None`: never.
    pub dpd_interval: Option<Duration>,
    /// Interval of NAT keepalives, sent by an initiator that found itself behind a NAT (RFC 3948 4).
    pub keepalive: Duration,
    /// Life of an IKE SA of the responder that has not reached its final IKE_AUTH.
    pub half_open_lifetime: Duration,
    /// How long the initiator keeps waiting for a good answer after an unauthenticated error notify,
    /// or after key IDs its KMS does not know, in IKE_SA_INIT (RFC 7296 2.21.1).
    pub init_error_grace: Duration,
    /// How long the responder remembers a finished SA's last response, to replay it to a peer that missed it.
    pub linger: Duration,
    /// How long the initiator waits for its own daemon (keys, EAP, MSK, installation) before it gives up.
    pub local_answer: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retransmit_first: Duration::from_secs(1),
            retransmit_max: Duration::from_secs(20),
            retransmit_tries: 8,
            dpd_interval: Some(Duration::from_secs(60)),
            keepalive: Duration::from_secs(20),
            half_open_lifetime: Duration::from_secs(30),
            init_error_grace: Duration::from_secs(5),
            linger: Duration::from_secs(30),
            local_answer: Duration::from_secs(60),
        }
    }
}

/// When this side rekeys. Nothing is negotiated: each side has its own (RFC 7296 2.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of Child SAs; `None`: by command or by the peer only.
    pub child: Option<Lifetime>,
    /// Of IKE SAs; `None`: by command or by the peer only.
    pub ike: Option<Lifetime>,
    /// Wait before a rekey that failed is tried again, until the hard lifetime.
    pub retry: Duration,
    /// Whether a rekey that the peer asks for is granted; it gets NO_ADDITIONAL_SAS otherwise. Only
    /// for a daemon that follows [`ChildSa::replaces`](crate::ChildSa) and the rekey events.
    pub from_peer: bool,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            child: None,
            ike: None,
            retry: Duration::from_secs(10),
            from_peer: false,
        }
    }
}

impl Lifetimes {
    /// What cannot work, as the name of the SA and what is wrong with its ages.
    pub fn fault(&self) -> Option<(&'static str, &'static str)> {
        let all = [("child", self.child), ("ike", self.ike)];
        all.into_iter().find_map(|(name, lifetime)| {
            let ages = lifetime?;
            if ages.soft < Duration::from_secs(1) {
                Some((name, "a soft age of 1s or more"))
            } else if ages.jitter >= ages.soft {
                Some((name, "a jitter below the soft age"))
            } else if ages.hard <= ages.soft {
                Some((name, "a hard age above the soft one"))
            } else {
                None
            }
        })
    }
}

/// The life of one SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Rekeyed at this age,
    pub soft: Duration,
    /// or up to this much earlier, by chance, so that the two ends seldom do it at once.
    pub jitter: Duration,
    /// Deleted at this age.
    pub hard: Duration,
}

/// When a sender of IKE_SA_INIT has to return a COOKIE first (RFC 7296 2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookiePolicy {
    /// Never.
    Never,
    /// When this many IKE SAs are half-open, or more.
    Above(usize),
    /// Always: no QKD key is spent on a sender that has not shown return routability.
    Always,
}

/// On whom QKD keys are spent in IKE_SA_INIT, besides [`CookiePolicy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Responder: how many attaches each SAE ID has; `None`: as many as are asked for.
    pub bucket: Option<Bucket>,
    /// How long an attach in mode `qkd`, profile `native`, lets the UE show in its next IKE_SA_INIT that it is known
    /// (QKD_ADMISSION): no cookie, and a bucket of its own. `None`: such tags are neither made nor looked at.
    pub tags: Option<Duration>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            bucket: None,
            tags: Some(Duration::from_secs(24 * 3600)),
        }
    }
}

/// The token bucket of an SAE ID, in attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Tokens that come back per minute; 0 counts as 1.
    pub per_minute: u32,
    /// Attaches that cost no cookie.
    pub burst: u32,
    /// Attaches beyond them with a cookie; then QKD_UNAVAILABLE, quota.
    pub hard: u32,
}

/// The responder's (N3IWF's) side.
#[derive(Debug, Clone)]
pub struct ResponderConfig {
    /// Accepted profiles of mode `qkd`.
    pub profiles: Vec<Profile>,
    /// This node's SAE ID: the master SAE.
    pub sae_id: SaeId,
    /// IDr.
    pub identity: Identification,
    /// What the `paper` profile needs besides; without it that profile is refused.
    pub paper: Option<PaperResponder>,
    /// Suites accepted for the IKE SA, best first: in the `native` profile those without a key exchange method, in
    /// mode `psk` those with one. (`paper` has exactly one.)
    pub ike_suites: Vec<IkeSuite>,
    /// Suites accepted for Child SAs in the `native` profile, best first. In mode `qkd` a Child SA uses a suite of
    /// the same kind (AEAD or not) as its IKE SA, since the keys of both are fetched before the child's suite is known.
    /// A key exchange is for CREATE_CHILD_SA in the other modes: rekeys and further Child SAs.
    pub esp_suites: Vec<ChildSuite>,
    /// When to ask for a COOKIE.
    pub cookies: CookiePolicy,
    /// Half-open IKE SAs beyond this number are not created: the request is dropped without an answer.
    pub half_open_limit: usize,
}

/// The responder's share of the `paper` profile.
#[derive(Clone)]
pub struct PaperResponder {
    /// The UE's SAE ID, which the profile's IKE_SA_INIT request has no room for.
    pub ue_sae_id: SaeId,
    /// The certificate sent in IKE_AUTH.
    pub certificate: Arc<Certificate>,
    /// Its private key: signs the first AUTH (method 1, RSASSA-PKCS1-v1_5 with SHA-1).
    pub signer: Arc<RsaSigner>,
}

impl fmt::Debug for PaperResponder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PaperResponder")
            .field("ue_sae_id", &self.ue_sae_id)
            .finish_non_exhaustive()
    }
}

/// How the UE judges the certificate the N3IWF sends in mode `psk` and in the `paper` profile.
///
/// Whatever is chosen, the AUTH after EAP-Success proves the subscription, and in `paper` the QKD keys.
#[derive(Clone, Default)]
pub enum PeerCertificate {
    /// Neither certificate nor signature is looked at, as stock free5GC UEs do.
    #[default]
    Ignore,
    /// The certificate has to be one of these, or be issued directly by one of them for the peer's IDr, and the
    /// signature has to be its. Validity periods are the caller's to check: the engine has no calendar.
    /// In mode `psk` the certificate is asked for with CERTREQ; an answer without one is refused.
    Trusted(Vec<Arc<Certificate>>),
}

impl fmt::Debug for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignore => f.write_str("Ignore"),
            Self::Trusted(list) => write!(f, "Trusted({})", list.len()),
        }
    }
}

/// What the initiator (UE) wants of one attach.
#[derive(Debug, Clone)]
pub struct InitiatorConfig {
    /// The profile to speak.
    pub profile: Profile,
    /// This UE's SAE ID: sent in QKD_SUPPORTED (`native`).
    pub sae_id: SaeId,
    /// The master SAE's ID for the `paper` profile, which does not signal it. Ignored in `native`.
    pub master_sae_id: Option<SaeId>,
    /// IDi. TS 24.502 7.3.2.1 wants ID_KEY_ID with a random value, never a subscription identifier.
    pub identity: Identification,
    /// When given, the N3IWF's IDr has to be this.
    pub peer_identity: Option<Identification>,
    /// How to judge the N3IWF's certificate.
    pub peer_certificate: PeerCertificate,
    /// Suites offered for the IKE SA, best first: in the `native` profile those without a key exchange method, in
    /// mode `psk` those with one. (`paper` has exactly one.)
    pub ike_suites: Vec<IkeSuite>,
    /// Suites offered for the signalling Child SA, and accepted for later ones, in the `native` profile, best first. A
    /// key exchange is for CREATE_CHILD_SA, in modes other than `qkd`.
    pub esp_suites: Vec<ChildSuite>,
    /// Selectors offered for the signalling Child SA: this side.
    pub ts_local: Vec<TrafficSelector>,
    /// Selectors offered for the signalling Child SA: the N3IWF's side.
    pub ts_remote: Vec<TrafficSelector>,
    /// Attributes of CFG_REQUEST, usually one empty INTERNAL_IP4_ADDRESS.
    pub configuration: Vec<CfgAttribute>,
}
