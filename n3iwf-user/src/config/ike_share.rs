//! What the IKE endpoint is told: key modes, proposals, identity, certificates.

use std::{collections::HashMap, iter, path::Path, sync::Arc, time::Duration};

use daemon::config::Complaint;
use ike::{
    Acceptance, Admission, Bucket, CertificateUse, CookiePolicy, EndpointConfig, Mobike, Mode,
    PaperResponder, PeerRule, Profile, ResponderConfig, Timing,
    crypto::{
        IkeSuite,
        certificate::Credential,
        rsa::{Certificate, RsaSigner},
    },
    wire::Identification,
};
use ike_config::{Choice, FREE5GC_GRE, ModeWord, PolicyWord};
use ipnet::IpNet;
use keys::SaeId;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{CookieWhen, File, SendCertificate, WireProfile};

/// UEs leave and come back at four fifths of it.
const SHORTEST_AUTHENTICATION: Duration = Duration::from_secs(60);
const PREFIX: &str = "configuration.";
const CERTIFICATE: &str = "configuration.certificate";
const PRIVATE_KEY: &str = "configuration.privateKey";
const AUTHORITY: &str = "configuration.certificateAuthority";
const PEER_PROFILE: &str = "configuration.ike.peerProfile";
const PROPOSALS: &str = "configuration.ike.proposals";
const FRAGMENT_SIZE: &str = "configuration.ike.fragmentSize";

/// Key modes and policy of everybody, and of peers at certain addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices {
    /// For whom none of `peers` is.
    pub general: Choice,
    /// As listed.
    pub peers: Vec<(Vec<IpNet>, Choice)>,
}

impl Choices {
    /// All of them, each with what its keys stand under.
    fn each(&self) -> impl Iterator<Item = (String, &Choice)> {
        let peers = (0..).zip(&self.peers);
        let peers = peers.map(|(at, (_, choice))| (peers_prefix(at), choice));
        iter::once((PREFIX.to_owned(), &self.general)).chain(peers)
    }

    /// Whether a mode that counts for somebody takes keys from the KMS.
    #[must_use]
    pub fn needs_kms(&self) -> bool {
        self.each().any(|(_, choice)| choice.needs_kms())
    }

    fn has(&self, mode: Mode) -> bool {
        self.each().any(|(_, choice)| choice.has(mode))
    }

    fn exchanges_keys(&self) -> bool {
        self.each().any(|(_, choice)| choice.exchanges_keys())
    }
}

fn peers_prefix(at: usize) -> String {
    format!("{PREFIX}peers[{at}].")
}

impl File {
    /// The key modes and policies, of everybody and of `peers`.
    ///
    /// # Errors
    /// A [`Complaint`] about `modes`, `policy` or `addresses`.
    pub fn choices(&self) -> Result<Choices, Complaint> {
        let own = &self.configuration;
        let general = self.choice(PREFIX, &own.modes, own.policy)?;
        let mut seen: HashMap<IpNet, String> = HashMap::new();
        let mut peers = Vec::new();
        for (at, rule) in own.peers.iter().enumerate() {
            let prefix = peers_prefix(at);
            if rule.addresses.is_empty() {
                let what = "at least one range of addresses is needed";
                return Err(Complaint::new(format!("{prefix}addresses"), what));
            }
            for (number, range) in rule.addresses.iter().enumerate() {
                let key = format!("{prefix}addresses[{number}]");
                if let Some(before) = seen.insert(range.0, key.clone()) {
                    let what = format!("{} is in {before} already", range.0);
                    return Err(Complaint::new(key, what));
                }
            }
            let modes = rule.modes.as_ref().unwrap_or(&own.modes);
            let choice = self.choice(&prefix, modes, rule.policy.or(own.policy))?;
            let ranges = rule.addresses.iter().map(|range| range.0);
            peers.push((ranges.collect(), choice));
        }
        Ok(Choices { general, peers })
    }

    fn choice(
        &self,
        prefix: &str,
        modes: &[ModeWord],
        policy: Option<PolicyWord>,
    ) -> Result<Choice, Complaint> {
        let own = &self.configuration;
        let profiles: Vec<Profile> = own
            .qkd
            .iter()
            .flat_map(|qkd| &qkd.profiles)
            .map(|profile| match profile {
                WireProfile::Native => Profile::Native,
                WireProfile::Paper => Profile::Paper,
            })
            .collect();
        let takes = |word: &ModeWord| matches!(word, ModeWord::Qkd | ModeWord::Hybrid);
        if modes.iter().any(takes) {
            let qkd = own.qkd.as_ref();
            if qkd.is_none() {
                let what = "modes qkd and hybrid need the section `qkd`";
                return Err(Complaint::new(format!("{prefix}modes"), what));
            }
            if profiles.is_empty() && modes.contains(&ModeWord::Qkd) {
                let what = "at least one profile is needed";
                return Err(Complaint::new("configuration.qkd.profiles", what));
            }
        }
        Choice::new(prefix, modes, policy, &profiles)
    }

    /// What the modes need besides.
    pub(super) fn check_modes(&self) -> Result<(), Complaint> {
        let own = &self.configuration;
        let choices = self.choices()?;
        let proposals = self.proposals(&choices);
        for (_, choice) in choices.each() {
            choice.check_proposals(PROPOSALS, &proposals)?;
        }
        if own.ike.peer_profile.is_free5gc() {
            if !choices.has(Mode::Psk) {
                let what = "free5GC's UEs know mode psk alone";
                return Err(Complaint::new(PEER_PROFILE, what));
            }
            if own.gre_protocol != FREE5GC_GRE {
                let what = "free5GC's UEs take GRE with protocol type 2048 alone";
                return Err(Complaint::new("configuration.greProtocol", what));
            }
        }
        ike_config::fragmentation(FRAGMENT_SIZE, own.ike.fragment_size)?;
        let certified = own.certificate.is_some() && own.private_key.is_some();
        let fail = |key: &str, what: &str| Err(Complaint::new(key, what));
        if own.certificate.is_some() != own.private_key.is_some() {
            return fail(CERTIFICATE, "`certificate` and `privateKey` go together");
        }
        if choices.has(Mode::Qkd(Profile::Paper)) {
            if !certified {
                let what = "`paper` needs `privateKey` and `certificate`";
                return fail("configuration.qkd.profiles", what);
            }
            if own.qkd.as_ref().is_some_and(|qkd| qkd.paper.is_none()) {
                let what = "`paper` needs `qkd.paper.ueSaeId`";
                return fail("configuration.qkd.profiles", what);
            }
        }
        for (prefix, choice) in choices.each() {
            if choice.has(Mode::Cert) && !(certified && own.certificate_authority.is_some()) {
                let what = "mode cert needs `certificate`, `privateKey` and `certificateAuthority`";
                return fail(&format!("{prefix}modes"), what);
            }
        }
        if own.ike.send_certificate == SendCertificate::Always && !certified {
            let what = "`always` needs `certificate` and `privateKey`";
            return fail("configuration.ike.sendCertificate", what);
        }
        Ok(())
    }

    fn proposals(&self, choices: &Choices) -> Vec<IkeSuite> {
        if let Some(proposals) = &self.configuration.ike.proposals {
            return proposals.0.clone();
        }
        let mut suites = Vec::new();
        for suite in choices.each().flat_map(|(_, own)| own.default_proposals()) {
            if !suites.contains(&suite) {
                suites.push(suite);
            }
        }
        suites
    }

    /// The IKE endpoint's share; reads the certificates the modes need. It takes the time of this call for
    /// [`ike::Instant::ZERO`].
    ///
    /// # Errors
    /// A [`Complaint`] that names the key, the file at fault and the line in it.
    pub fn endpoint(&self) -> Result<EndpointConfig, Complaint> {
        let own = &self.configuration;
        let choices = self.choices()?;
        let alive = &own.liveness_check;
        let timing = Timing {
            retransmit_first: own.ike.retransmit,
            retransmit_tries: alive.max_retry_times,
            dpd_interval: alive.enable.then_some(alive.trans_freq),
            half_open_lifetime: own.ike.half_open_lifetime,
            ..Timing::default()
        };
        let paper = match choices.has(Mode::Qkd(Profile::Paper)) {
            true => Some(self.paper()?),
            false => None,
        };
        let lifetimes = ike::Lifetimes::from(own.lifetimes);
        if let Some((which, what)) = lifetimes.fault() {
            let key = format!("configuration.lifetimes.{which}");
            return Err(Complaint::new(key, what));
        }
        let longest = Duration::from_secs(u32::MAX.into());
        if let Some(authentication) = own.authentication_lifetime
            && !(SHORTEST_AUTHENTICATION..=longest).contains(&authentication)
        {
            let key = "configuration.authenticationLifetime";
            return Err(Complaint::new(key, "1m to 4294967295s"));
        }
        let (mut ike_suites, mut esp_suites) =
            (self.proposals(&choices), own.ike.esp_proposals.0.clone());
        own.ike
            .peer_profile
            .extend(&mut ike_suites, &mut esp_suites);
        Ok(EndpointConfig {
            timing,
            peer_profile: own.ike.peer_profile.into(),
            lifetimes,
            responder: Some(ResponderConfig {
                // The acceptance tells which; this list is for an empty one.
                profiles: Vec::new(),
                sae_id: self.sae_id(),
                identity: Identification::fqdn(&own.fqdn),
                paper,
                ike_suites,
                esp_suites,
                cookies: match own.ike.cookie.when {
                    CookieWhen::Never => CookiePolicy::Never,
                    CookieWhen::Threshold => CookiePolicy::Above(own.ike.cookie.threshold),
                    CookieWhen::Always => CookiePolicy::Always,
                },
                half_open_limit: own.ike.half_open_limit,
            }),
            acceptance: self.acceptance(choices)?,
            admission: self.admission(),
            fragmentation: ike_config::fragmentation(FRAGMENT_SIZE, own.ike.fragment_size)?,
            mobike: own.ike.mobike.then_some(Mobike {
                check_routability: own.ike.check_routability,
                ..Mobike::default()
            }),
            ..EndpointConfig::default()
        })
    }

    /// This node's SAE ID. Without QKD keys nobody hears it.
    fn sae_id(&self) -> SaeId {
        let qkd = self.configuration.qkd.as_ref();
        qkd.map_or_else(SaeId::absent, |qkd| qkd.sae_id.clone())
    }

    fn admission(&self) -> Admission {
        let Some(qkd) = &self.configuration.qkd else {
            return Admission::default();
        };
        Admission {
            bucket: qkd.bucket.map(|bucket| Bucket {
                per_minute: bucket.per_minute,
                burst: bucket.burst,
                hard: bucket.hard,
            }),
            tags: Some(qkd.recognise).filter(|life| !life.is_zero()),
        }
    }

    fn acceptance(&self, choices: Choices) -> Result<Acceptance, Complaint> {
        let own = &self.configuration;
        let mut acceptance = Acceptance {
            certificate: match own.ike.send_certificate {
                SendCertificate::WhenAsked => CertificateUse::WhenAsked,
                SendCertificate::Always => CertificateUse::Always,
                SendCertificate::Never => CertificateUse::Never,
            },
            policy: choices.general.policy,
            ..Acceptance::default()
        };
        if choices.exchanges_keys() {
            acceptance.credential = self.credential()?.map(Arc::new);
        }
        if choices.has(Mode::Cert) {
            let files = own.certificate_authority.as_slice();
            acceptance.trust = ike_config::trust(AUTHORITY, files)?;
        }
        let rule = |range: IpNet, choice: &Choice| PeerRule {
            address: range.addr(),
            prefix_len: range.prefix_len(),
            modes: choice.modes.clone(),
            policy: choice.policy,
        };
        for (ranges, choice) in &choices.peers {
            let rules = ranges.iter().map(|range| rule(*range, choice));
            acceptance.peers.extend(rules);
        }
        acceptance.modes = choices.general.modes;
        Ok(acceptance)
    }

    /// Chain and key, which have to be for this N3IWF's name.
    ///
    /// # Errors
    /// As [`endpoint`](Self::endpoint).
    pub fn credential(&self) -> Result<Option<Credential>, Complaint> {
        let own = &self.configuration;
        let (Some(chain), Some(key)) = (&own.certificate, &own.private_key) else {
            return Ok(None);
        };
        let credential = ike_config::credential((CERTIFICATE, chain), (PRIVATE_KEY, key))?;
        if !credential.is_for(&Identification::fqdn(&own.fqdn)) {
            let what = format!(
                "{}: `fqdn` ({}) is no subjectAltName of it, so UEs will refuse it",
                chain.display(),
                own.fqdn
            );
            return Err(Complaint::new(CERTIFICATE, what));
        }
        Ok(Some(credential))
    }

    fn paper(&self) -> Result<PaperResponder, Complaint> {
        let own = &self.configuration;
        let missing =
            |key: &str| Complaint::new(format!("{PREFIX}{key}"), "needed by profile `paper`");
        let complain = |key: &str, path: &Path, what: String| {
            Complaint::new(key, format!("{}: {what}", path.display()))
        };
        let path = own
            .certificate
            .as_deref()
            .ok_or_else(|| missing("certificate"))?;
        let pem = ike_config::read(CERTIFICATE, path)?;
        let der = CertificateDer::from_pem_slice(&pem)
            .map_err(|error| complain(CERTIFICATE, path, error.to_string()))?;
        let certificate = Certificate::new(&der)
            .map_err(|error| complain(CERTIFICATE, path, error.to_string()))?;
        let path = own
            .private_key
            .as_deref()
            .ok_or_else(|| missing("privateKey"))?;
        let pem = ike_config::read(PRIVATE_KEY, path)?;
        let signer =
            RsaSigner::new(&pem).map_err(|error| complain(PRIVATE_KEY, path, error.to_string()))?;
        if !signer.fits(&certificate) {
            let what = "not the key of `certificate`".to_owned();
            return Err(complain(PRIVATE_KEY, path, what));
        }
        let paper = own.qkd.as_ref().and_then(|qkd| qkd.paper.as_ref());
        let paper = paper.ok_or_else(|| missing("qkd.paper"))?;
        Ok(PaperResponder {
            ue_sae_id: paper.ue_sae_id.clone(),
            certificate: Arc::new(certificate),
            signer: Arc::new(signer),
        })
    }
}
