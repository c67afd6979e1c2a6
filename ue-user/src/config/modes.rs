//! Key modes: which are offered, with what proposals and certificates.

use std::{net::IpAddr, sync::Arc};

use daemon::config::Complaint;
use ike::{
    Mode, Offer,
    crypto::{ChildSuite, IkeSuite, certificate::Credential},
    wire::{IdType, Identification},
};
use ike_config::{Choice, FREE5GC_GRE, ModeWord, PeerWord};

use super::{Config, Profile};

const CERTIFICATE: &str = "ike.certificate";
const PRIVATE_KEY: &str = "ike.privateKey";
const TRUSTED: &str = "ike.trustedCertificates";
const PEER_PROFILE: &str = "ike.peerProfile";
const IDENTITY: &str = "ike.identity";

impl Config {
    /// The key modes and the policy.
    ///
    /// # Errors
    /// A [`Complaint`] about `modes` or `policy`.
    pub fn choice(&self) -> Result<Choice, Complaint> {
        let takes = |word: &ModeWord| matches!(word, ModeWord::Qkd | ModeWord::Hybrid);
        if self.modes.iter().any(takes) && self.qkd.is_none() {
            let what = "modes qkd and hybrid need the section `qkd`";
            return Err(Complaint::new("modes", what));
        }
        Choice::new("", &self.modes, self.policy, &[self.wire_profile()])
    }

    /// The profile of mode `qkd`.
    pub(super) fn wire_profile(&self) -> ike::Profile {
        match self.profile {
            Profile::Native => ike::Profile::Native,
            Profile::Paper => ike::Profile::Paper,
        }
    }

    /// What the modes need besides.
    pub(super) fn check_modes(&self) -> Result<(), Complaint> {
        let choice = self.choice()?;
        let complain = |key: &str, what: &str| Err(Complaint::new(key, what));
        if self.ike.peer_profile.is_free5gc() {
            if choice.order() != [Mode::Psk] {
                return complain(PEER_PROFILE, "free5GC's N3IWF knows mode psk alone");
            }
            if self.ike.gre_protocol != FREE5GC_GRE {
                let what = "free5GC sends and expects GRE with protocol type 2048";
                return complain("ike.greProtocol", what);
            }
        }
        choice.check_proposals("ike.proposals", &self.proposals(&choice))?;
        self.fragmentation()?;
        let qkd = self.qkd.as_ref();
        let paper = choice.has(Mode::Qkd(ike::Profile::Paper));
        if paper && qkd.is_some_and(|qkd| qkd.n3iwf_sae_id.is_none()) {
            return complain("qkd.n3iwfSaeId", "needed for profile paper");
        }
        if self.ike.certificate.is_some() != self.ike.private_key.is_some() {
            return complain(CERTIFICATE, "`certificate` and `privateKey` go together");
        }
        if choice.has(Mode::Cert)
            && (self.ike.certificate.is_none() || self.ike.trusted_certificates.is_empty())
        {
            let what =
                "mode cert needs `ike.certificate`, `ike.privateKey` and `ike.trustedCertificates`";
            return complain("modes", what);
        }
        if self.judges_certificates(&choice) && self.nwu.n3iwf_fqdn.is_none() {
            let what = "needed with `ike.trustedCertificates`: else whoever has a certificate of \
                        theirs could be the N3IWF";
            return complain("nwu.n3iwfFqdn", what);
        }
        Ok(())
    }

    /// What an operator should know about the modes.
    pub(super) fn mode_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let Ok(choice) = self.choice() else {
            return warnings;
        };
        let unjudged = self.ike.trusted_certificates.is_empty();
        if unjudged && choice.has(Mode::Qkd(ike::Profile::Paper)) {
            warnings.push(
                "profile paper without ike.trustedCertificates: the N3IWF's certificate is not judged"
                    .to_owned(),
            );
        }
        if unjudged && choice.has(Mode::Psk) {
            warnings.push(
                "mode psk without ike.trustedCertificates: the N3IWF is known by K_N3IWF alone, \
                 after NAS has told it who the UE is"
                    .to_owned(),
            );
        }
        if choice.policy == ike::QkdPolicy::Prefer
            && choice.order().iter().any(|mode| !mode.has_qkd_key())
        {
            warnings.push(
                "policy prefer-qkd: when QKD keys cannot be had the UE attaches without them, and \
                 shows it"
                    .to_owned(),
            );
        }
        if self.ike.peer_profile.is_free5gc() {
            warnings.push(
                "ike.peerProfile free5gc: SHA-1, no rekeying, and faults are forgiven".to_owned(),
            );
        }
        if self.ike.allow_sha1 {
            warnings.push("ike.allowSha1: the N3IWF may sign with SHA-1".to_owned());
        }
        warnings
    }

    /// Whether a certificate chain of the N3IWF is verified.
    fn judges_certificates(&self, choice: &Choice) -> bool {
        choice.exchanges_keys() && !self.ike.trusted_certificates.is_empty()
    }

    /// Suites of the IKE SA.
    pub(super) fn proposals(&self, choice: &Choice) -> Vec<IkeSuite> {
        match &self.ike.proposals {
            Some(proposals) => proposals.0.clone(),
            None if self.ike.peer_profile.is_free5gc() => PeerWord::ike_suites(),
            None => choice.default_proposals(),
        }
    }

    /// Suites of Child SAs.
    pub(super) fn esp_suites(&self) -> Vec<ChildSuite> {
        let mut suites = self.ike.esp_proposals.0.clone();
        let peers = self.ike.peer_profile;
        peers.extend(&mut Vec::new(), &mut suites);
        suites
    }

    /// How large datagrams may be.
    pub(super) fn fragmentation(&self) -> Result<ike::Fragmentation, Complaint> {
        ike_config::fragmentation("ike.fragmentSize", self.ike.fragment_size)
    }

    /// The N3IWF's name: an address or a domain name.
    pub(super) fn peer_identity(&self) -> Option<Identification> {
        self.nwu.n3iwf_fqdn.as_deref().map(identity)
    }

    /// What is offered; reads the certificates the modes need. It takes the time of this call for
    /// [`ike::Instant::ZERO`].
    ///
    /// # Errors
    /// A [`Complaint`] that names the key, the file at fault and the line in it.
    pub fn offer(&self) -> Result<Offer, Complaint> {
        let choice = self.choice()?;
        let mut offer = Offer {
            policy: choice.policy,
            allow_sha1: self.ike.allow_sha1 || self.ike.peer_profile.is_free5gc(),
            ..Offer::default()
        };
        if self.judges_certificates(&choice) {
            offer.trust = ike_config::trust(TRUSTED, &self.ike.trusted_certificates)?;
        }
        if choice.has(Mode::Cert)
            && let Some(credential) = self.credential()?
        {
            offer.identity = Some(self.certified_identity(&credential)?);
            offer.credential = Some(Arc::new(credential));
        }
        offer.modes = choice.modes;
        Ok(offer)
    }

    /// Chain and key.
    ///
    /// # Errors
    /// As [`offer`](Self::offer).
    pub fn credential(&self) -> Result<Option<Credential>, Complaint> {
        match (&self.ike.certificate, &self.ike.private_key) {
            (Some(chain), Some(key)) => {
                ike_config::credential((CERTIFICATE, chain), (PRIVATE_KEY, key)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// IDi of mode `cert`: the N3IWF accepts nothing that is not a name of the certificate.
    ///
    /// # Errors
    /// The certificate has not this name, or none at all.
    pub fn certified_identity(&self, credential: &Credential) -> Result<Identification, Complaint> {
        let said = credential
            .describe()
            .map_err(|error| Complaint::new(CERTIFICATE, error.to_string()))?;
        match &self.ike.identity {
            None => said.names.into_iter().next().ok_or_else(|| {
                Complaint::new(CERTIFICATE, "the certificate has no name IKE could use")
            }),
            Some(text) => {
                let wanted = identity(text);
                match credential.is_for(&wanted) {
                    true => Ok(wanted),
                    false => {
                        let names: Vec<String> =
                            said.names.iter().map(ToString::to_string).collect();
                        let what = format!(
                            "`{text}` is no name of the certificate, which is for {}",
                            names.join(", ")
                        );
                        Err(Complaint::new(IDENTITY, what))
                    }
                }
            }
        }
    }
}

/// An address, a mail address or a domain name, by its look.
fn identity(text: &str) -> Identification {
    match text.parse() {
        Ok(IpAddr::V4(address)) => {
            Identification::new(IdType::IPV4_ADDR, address.octets().to_vec())
        }
        Ok(IpAddr::V6(address)) => {
            Identification::new(IdType::IPV6_ADDR, address.octets().to_vec())
        }
        Err(_) if text.contains('@') => {
            Identification::new(IdType::RFC822_ADDR, text.as_bytes().to_vec())
        }
        Err(_) => Identification::fqdn(text),
    }
}
