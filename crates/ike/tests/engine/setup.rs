//! Addresses, configurations and messages of the tests.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ike::{
    Acceptance, CertificateUse, CookiePolicy, EndpointConfig, InitiatorConfig, Lifetimes, Mode,
    NewChild, Offer, PaperResponder, Path, PeerCertificate, Profile, QkdPolicy, ResponderConfig,
    Trust,
    crypto::{
        AesBits, Encr, EspSuite, IkeSuite, Integ, KeMethod, KeyExchange, Prf,
        certificate::{Credential, TrustAnchors},
        rsa::{Certificate, RsaSigner},
    },
    wire::{CfgAttribute, CfgAttributeType, Identification, Notify, NotifyType, TrafficSelector},
};

pub(crate) const UE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
pub(crate) const N3IWF: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const UE_INNER: TrafficSelector =
    TrafficSelector::host(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
pub(crate) const N3IWF_INNER: TrafficSelector =
    TrafficSelector::host(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));

pub(crate) const GCM_IKE: IkeSuite = IkeSuite {
    encr: Encr::AesGcm16(AesBits::B256),
    integ: None,
    prf: Prf::HmacSha2_256,
    ke: None,
};
pub(crate) const GCM_ESP: EspSuite = EspSuite {
    encr: Encr::AesGcm16(AesBits::B256),
    integ: None,
    esn: false,
};
pub(crate) const CBC_IKE: IkeSuite = IkeSuite {
    encr: Encr::AesCbc(AesBits::B256),
    integ: Some(Integ::HmacSha2_256_128),
    prf: Prf::HmacSha2_512,
    ke: None,
};
pub(crate) const CBC_ESP: EspSuite = EspSuite {
    encr: Encr::AesCbc(AesBits::B256),
    integ: Some(Integ::HmacSha2_256_128),
    esn: false,
};

pub(crate) const fn exchange(method: KeMethod) -> IkeSuite {
    IkeSuite {
        ke: Some(KeyExchange::single(method)),
        ..GCM_IKE
    }
}

/// Curve25519, then these.
pub(crate) fn additional(methods: &[KeMethod]) -> IkeSuite {
    let ke = (1..).zip(methods).fold(
        KeyExchange::single(KeMethod::Curve25519),
        |ke, (number, method)| ke.with_additional(number, *method).unwrap(),
    );
    IkeSuite {
        ke: Some(ke),
        ..GCM_IKE
    }
}

fn hybrid_suite() -> IkeSuite {
    additional(&[KeMethod::MlKem768])
}

/// An N3IWF of mode `hybrid`, with ML-KEM-768.
pub(crate) fn hybrid_endpoint() -> EndpointConfig {
    let mut config = accepting(&[Mode::Hybrid], QkdPolicy::Require);
    config.lifetimes.from_peer = true;
    if let Some(responder) = &mut config.responder {
        responder.ike_suites = vec![hybrid_suite()];
    }
    config
}

/// Its UE.
pub(crate) fn hybrid_config() -> InitiatorConfig {
    InitiatorConfig {
        ike_suites: vec![hybrid_suite()],
        ..native()
    }
}

/// Suites of both kinds, for a choice of modes.
pub(crate) fn all_suites() -> Vec<IkeSuite> {
    vec![
        GCM_IKE,
        CBC_IKE,
        exchange(KeMethod::Curve25519),
        exchange(KeMethod::Ecp256),
    ]
}

/// An N3IWF that accepts these modes.
pub(crate) fn accepting(modes: &[Mode], policy: QkdPolicy) -> EndpointConfig {
    EndpointConfig {
        responder: Some(ResponderConfig {
            ike_suites: all_suites(),
            ..responder()
        }),
        acceptance: Acceptance {
            modes: modes.to_vec(),
            policy,
            credential: Some(old_credential()),
            certificate: CertificateUse::WhenAsked,
            ..Acceptance::default()
        },
        ..EndpointConfig::default()
    }
}

/// A UE with suites for every mode.
pub(crate) fn choosy() -> InitiatorConfig {
    InitiatorConfig {
        ike_suites: all_suites(),
        ..native()
    }
}

pub(crate) fn offering(modes: &[Mode], policy: QkdPolicy) -> Offer {
    Offer {
        modes: modes.to_vec(),
        policy,
        ..Offer::default()
    }
}

/// RSA, for peers that know method 1 only.
fn old_credential() -> Arc<Credential> {
    let leaf = include_bytes!("../vectors/rsa-leaf.der");
    let key = include_bytes!("../vectors/rsa-key.pem");
    Arc::new(Credential::new(leaf, key).unwrap())
}

/// An end entity with the one between it and [`trust`]'s root; the names of all are the same.
pub(crate) fn credential(pem: &[u8], key: &[u8]) -> Arc<Credential> {
    let chain = [pem, include_bytes!("../vectors/pki/sub.pem")].concat();
    Arc::new(Credential::new(&chain, key).unwrap())
}

/// The root of the certificates of OpenSSL, in 2027.
pub(crate) fn trust() -> Trust {
    Trust {
        anchors: Arc::new(TrustAnchors::new(include_bytes!("../vectors/pki/root.pem")).unwrap()),
        epoch: 1_800_000_000,
    }
}

pub(crate) fn ue_path() -> Path {
    Path {
        local: (UE, 500).into(),
        remote: (N3IWF, 500).into(),
    }
}

pub(crate) fn n3iwf_path() -> Path {
    Path {
        local: (N3IWF, 500).into(),
        remote: (UE, 500).into(),
    }
}

pub(crate) fn ue_endpoint() -> EndpointConfig {
    EndpointConfig::default()
}

pub(crate) fn responder() -> ResponderConfig {
    ResponderConfig {
        profiles: vec![Profile::Native],
        sae_id: "sae-n3iwf".parse().unwrap(),
        identity: Identification::fqdn("n3iwf.example.net"),
        paper: None,
        ike_suites: vec![GCM_IKE, CBC_IKE],
        esp_suites: vec![GCM_ESP.into(), CBC_ESP.into()],
        cookies: CookiePolicy::Never,
        half_open_limit: 1000,
    }
}

pub(crate) fn n3iwf_endpoint() -> EndpointConfig {
    EndpointConfig {
        responder: Some(responder()),
        lifetimes: Lifetimes {
            from_peer: true,
            ..Lifetimes::default()
        },
        ..EndpointConfig::default()
    }
}

pub(crate) fn native() -> InitiatorConfig {
    InitiatorConfig {
        profile: Profile::Native,
        sae_id: "sae-ue-1".parse().unwrap(),
        master_sae_id: None,
        identity: Identification::key_id(vec![0x5a, 0xa5]),
        peer_identity: Some(Identification::fqdn("n3iwf.example.net")),
        peer_certificate: PeerCertificate::Ignore,
        ike_suites: vec![GCM_IKE],
        esp_suites: vec![GCM_ESP.into()],
        ts_local: vec![TrafficSelector::any_v4()],
        ts_remote: vec![TrafficSelector::any_v4()],
        configuration: vec![CfgAttribute::request(
            CfgAttributeType::INTERNAL_IP4_ADDRESS,
        )],
    }
}

/// A key and a certificate for it, shared with the tests of the primitives.
pub(crate) fn rsa() -> (Arc<Certificate>, Arc<RsaSigner>) {
    let certificate = Certificate::new(include_bytes!("../vectors/rsa-leaf.der")).unwrap();
    let signer = RsaSigner::new(include_bytes!("../vectors/rsa-key.pem")).unwrap();
    (Arc::new(certificate), Arc::new(signer))
}

pub(crate) fn paper_endpoint() -> EndpointConfig {
    let (certificate, signer) = rsa();
    EndpointConfig {
        responder: Some(ResponderConfig {
            profiles: vec![Profile::Paper],
            paper: Some(PaperResponder {
                ue_sae_id: "sae-ue-1".parse().unwrap(),
                certificate,
                signer,
            }),
            ..responder()
        }),
        ..EndpointConfig::default()
    }
}

pub(crate) fn paper() -> InitiatorConfig {
    InitiatorConfig {
        profile: Profile::Paper,
        master_sae_id: Some("sae-n3iwf".parse().unwrap()),
        identity: Identification::key_id(b"UE".to_vec()),
        ..native()
    }
}

/// An EAP packet with a code and a length.
pub(crate) fn eap(code: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = code;
    packet[1] = 1;
    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet
}

pub(crate) fn cfg_reply() -> Vec<CfgAttribute> {
    vec![
        CfgAttribute::ipv4(
            CfgAttributeType::INTERNAL_IP4_ADDRESS,
            Ipv4Addr::new(10, 0, 0, 2),
        ),
        CfgAttribute::ipv4(
            CfgAttributeType::INTERNAL_IP4_NETMASK,
            Ipv4Addr::new(255, 255, 255, 0),
        ),
    ]
}

pub(crate) fn nas_notifies() -> Vec<Notify> {
    vec![
        Notify::status(NotifyType::NAS_IP4_ADDRESS, vec![10, 0, 0, 1]),
        Notify::status(NotifyType::NAS_TCP_PORT, vec![0x4e, 0x20]),
    ]
}

/// A user-plane Child SA as the N3IWF asks for it.
pub(crate) fn user_child(token: u64) -> NewChild {
    NewChild {
        ts_local: vec![N3IWF_INNER],
        ts_remote: vec![UE_INNER],
        notifies: vec![
            Notify::status(NotifyType::FIVE_G_QOS_INFO, vec![4, 1, 1, 9, 2]),
            Notify::status(NotifyType::UP_IP4_ADDRESS, vec![10, 0, 0, 1]),
        ],
        token,
    }
}
