//! From the file to what the core is told.

use std::sync::Arc;

use daemon::config::Complaint;
use ike::{
    InitiatorConfig, Mobike, Mode, PeerCertificate, Timing,
    crypto::rsa::Certificate,
    wire::{CfgAttribute, CfgAttributeType, Identification, TrafficSelector},
};
use ike_config::Choice;
use keys::{SaeId, Secret};
use nwu::{Guami, SNssai};
use oxirush_nas::nas_5gs::{CipheringAlgorithm, IntegrityAlgorithm};
use oxirush_security::Plmn;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{Config, HexSecret, Nea, Nia, PlmnId, Profile, Slice, SuciScheme};
use crate::core::{
    nas::{NasConfig, SessionRequest, Timers},
    suci::{Concealer, Scheme},
    ue::{Retry, UeConfig},
    usim::{OperatorKey, SqnState, Usim},
};

/// First octet of the 5GMM capability that the paper's UE sends: S1 mode, HO attach, LPP.
const PAPER_GMM_CAPABILITY: u8 = 0x07;

/// A key of the file and what is wrong with it.
type Fault = (&'static str, String);

/// The subscriber's name on the air; also the check that IMSI, PLMN and key go together.
pub fn subscriber(config: &Config) -> Result<(Plmn, Concealer), Fault> {
    let plmn = plmn(&config.plmn, "plmn")?;
    let subscriber = &config.subscriber;
    let home = match &subscriber.home_plmn {
        Some(home) => self::plmn(home, "subscriber.homePlmn")?,
        None => plmn,
    };
    let key = || {
        let text = subscriber.home_network_public_key.as_deref().unwrap_or("");
        hex::decode(text).map_err(|_| {
            let what = "hexadecimal digits".to_owned();
            ("subscriber.homeNetworkPublicKey", what)
        })
    };
    let id = subscriber.home_network_public_key_id;
    let scheme = match subscriber.suci_scheme {
        SuciScheme::Null => Ok(Scheme::Null),
        SuciScheme::ProfileA => Scheme::profile_a(id, &key()?),
        SuciScheme::ProfileB => Scheme::profile_b(id, &key()?),
    };
    let scheme = scheme.map_err(|error| ("subscriber.homeNetworkPublicKey", error.to_string()))?;
    let imsi = imsi(&subscriber.supi);
    let concealer = Concealer::new(home, imsi, &subscriber.routing_indicator, scheme)
        .map_err(|error| ("subscriber.supi", error.to_string()))?;
    Ok((plmn, concealer))
}

impl Config {
    /// The USIM with its stored sequence numbers.
    pub fn usim(&self, sqn: SqnState) -> Result<Usim, String> {
        let copy = |key: &HexSecret| -> Secret { key.secret().duplicate() };
        let subscriber = &self.subscriber;
        let operator = match (&subscriber.opc, &subscriber.op) {
            (Some(opc), _) => OperatorKey::Opc(copy(opc)),
            (None, Some(op)) => OperatorKey::Op(copy(op)),
            (None, None) => return Err("neither opc nor op".to_owned()),
        };
        Usim::new(subscriber.k.secret(), &operator, &subscriber.supi, sqn)
            .map_err(|error| format!("subscriber: {error}"))
    }

    /// What the core is told; reads the certificates that the modes need.
    ///
    /// # Errors
    /// A [`Complaint`] that names the key at fault, and the file and line where it is one of those.
    pub fn ue(&self) -> Result<UeConfig, Complaint> {
        let (plmn, concealer) =
            subscriber(self).map_err(|(key, what)| Complaint::new(key, what))?;
        let choice = self.choice()?;
        let paper = self.profile == Profile::Paper;
        let nssai: Vec<SNssai> = self.nssai.iter().map(slice).collect();
        let sessions = self
            .sessions
            .iter()
            .zip(1..=15)
            .map(|(session, id)| SessionRequest {
                id,
                dnn: session.dnn.clone(),
                s_nssai: session.s_nssai.as_ref().map(slice),
                kind: session.kind.into(),
            });
        Ok(UeConfig {
            nas: NasConfig {
                plmn,
                concealer,
                imeisv: self.subscriber.imeisv.clone(),
                ciphering: self
                    .nas
                    .ciphering
                    .iter()
                    .map(|&nea| ciphering(nea))
                    .collect(),
                integrity: self
                    .nas
                    .integrity
                    .iter()
                    .map(|&nia| integrity(nia))
                    .collect(),
                // The paper's UE asks for its slices in the AN-parameters alone.
                requested_nssai: if paper { Vec::new() } else { nssai.clone() },
                gmm_capability: if paper { PAPER_GMM_CAPABILITY } else { 0 },
                timers: Timers::default(),
            },
            path: self.path(),
            initiator: self.initiator(&choice)?,
            offer: self.offer()?,
            peer_profile: self.ike.peer_profile.into(),
            // Random and never compared. Three octets leave room for INITIAL_CONTACT in the paper's frame.
            identity_len: if paper { 2 } else { 3 },
            mobike: self.ike.mobike.then(Mobike::default),
            timing: self.timing(),
            fragmentation: self.fragmentation()?,
            lifetimes: self.lifetimes.into(),
            an_nssai: nssai,
            guami: self.guami(),
            sessions: sessions.collect(),
            retry: Retry {
                attempts: self.retry.attempts,
                initial: self.retry.initial,
                maximum: self.retry.maximum,
            },
            attach_timeout: self.retry.attach_timeout,
            release_timeout: self.retry.release_timeout,
            tunnel_mtu: u16::try_from(self.dataplane.mtu).unwrap_or(u16::MAX),
        })
    }

    /// The data plane.
    pub fn dataplane(&self) -> dataplane::Config {
        dataplane::Config {
            role: dataplane::Role::Ue,
            owner: format!("ue-user {}", self.nwu.xfrm_interface_name),
            interface_name: self.nwu.xfrm_interface_name.clone(),
            interface_id: self.nwu.xfrm_interface_id,
            inner_address: None,
            inner_range: None,
            options: self.dataplane.clone(),
        }
    }

    fn initiator(&self, choice: &Choice) -> Result<InitiatorConfig, Complaint> {
        let mut trusted = Vec::new();
        if choice.has(Mode::Qkd(ike::Profile::Paper)) {
            for path in &self.ike.trusted_certificates {
                let fault = |error: &dyn std::fmt::Display| {
                    let what = format!("{}: {error}", path.display());
                    Complaint::new("ike.trustedCertificates", what)
                };
                let certificates = CertificateDer::pem_file_iter(path).map_err(|e| fault(&e))?;
                for certificate in certificates {
                    let der = certificate.map_err(|e| fault(&e))?;
                    let certificate = Certificate::new(&der).map_err(|e| fault(&e))?;
                    trusted.push(Arc::new(certificate));
                }
            }
        }
        let qkd = self.qkd.as_ref();
        Ok(InitiatorConfig {
            profile: self.wire_profile(),
            sae_id: qkd.map_or_else(SaeId::absent, |qkd| qkd.sae_id.clone()),
            master_sae_id: qkd.and_then(|qkd| qkd.n3iwf_sae_id.clone()),
            identity: Identification::key_id(Vec::new()),
            peer_identity: self.peer_identity(),
            peer_certificate: match trusted.is_empty() {
                true => PeerCertificate::Ignore,
                false => PeerCertificate::Trusted(trusted),
            },
            ike_suites: self.proposals(choice),
            esp_suites: self.esp_suites(),
            ts_local: vec![TrafficSelector::any_v4()],
            ts_remote: vec![TrafficSelector::any_v4()],
            configuration: vec![CfgAttribute::request(
                CfgAttributeType::INTERNAL_IP4_ADDRESS,
            )],
        })
    }

    fn timing(&self) -> Timing {
        let dpd = self.ike.dpd_interval;
        Timing {
            retransmit_first: self.ike.retransmit_first,
            retransmit_max: self.ike.retransmit_max,
            retransmit_tries: self.ike.retransmit_tries,
            dpd_interval: (!dpd.is_zero()).then_some(dpd),
            keepalive: self.ike.nat_keepalive,
            ..Timing::default()
        }
    }

    fn guami(&self) -> Option<Guami> {
        let [region, high, low] = self.amf_id?.0;
        let set_and_pointer = u16::from_be_bytes([high, low]);
        Some(Guami {
            plmn: nwu::Plmn::from_digits(&self.plmn.mcc, &self.plmn.mnc)?,
            region,
            set: set_and_pointer >> 6,
            pointer: low & 0x3f,
        })
    }
}

fn plmn(id: &PlmnId, key: &'static str) -> Result<Plmn, Fault> {
    Plmn::new(&id.mcc, &id.mnc).map_err(|error| (key, error.to_string()))
}

/// The digits of `imsi-…`.
fn imsi(supi: &str) -> &str {
    supi.strip_prefix("imsi-").unwrap_or(supi)
}

fn slice(slice: &Slice) -> SNssai {
    SNssai {
        sst: slice.sst,
        sd: slice.sd,
    }
}

fn ciphering(nea: Nea) -> CipheringAlgorithm {
    match nea {
        Nea::NEA0 => CipheringAlgorithm::NEA0,
        Nea::NEA1 => CipheringAlgorithm::NEA1,
        Nea::NEA2 => CipheringAlgorithm::NEA2,
    }
}

fn integrity(nia: Nia) -> IntegrityAlgorithm {
    match nia {
        Nia::NIA1 => IntegrityAlgorithm::NIA1,
        Nia::NIA2 => IntegrityAlgorithm::NIA2,
    }
}
