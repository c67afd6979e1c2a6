//! Messages as they travel on NWu, for tests and as seeds of the fuzz targets.

use std::net::IpAddr;

use ike::{
    crypto::{EspSuite, IkeSuite},
    wire::{
        AuthMethod, CertEncoding, CfgAttribute, CfgAttributeType, CfgType, Configuration, Delete,
        ExchangeType, Flags, Header, Identification, Notify, NotifyType, Payload, TrafficSelector,
        encode, encode_payloads,
        qkd::{KeyIdFormat, QkdAdmission, QkdKeyIds, QkdSupported, QkdUnavailable},
    },
};
use keys::KeyId;

/// A sample: its name and its octets.
pub(crate) type Sample = (&'static str, Vec<u8>);

/// Octets counted upwards from `from`.
pub(crate) fn count(from: u8, len: usize) -> Vec<u8> {
    (0u8..=255).cycle().skip(from.into()).take(len).collect()
}

/// `number` different key IDs.
pub(crate) fn key_ids(number: u8, format: KeyIdFormat) -> QkdKeyIds {
    let ids = (0..number)
        .map(|index| KeyId::from_octets([index; 16]))
        .collect();
    QkdKeyIds { format, ids }
}

fn supported(sae: &str) -> Payload {
    QkdSupported {
        qkd: true,
        hybrid: false,
        paper: false,
        sae: sae.parse().unwrap(),
    }
    .to_notify()
    .into()
}

fn nat_detection() -> [Payload; 2] {
    [
        NotifyType::NAT_DETECTION_SOURCE_IP,
        NotifyType::NAT_DETECTION_DESTINATION_IP,
    ]
    .map(|kind| Notify::status(kind, count(0x30, 20)).into())
}

pub(crate) fn header(exchange: ExchangeType, initiator: bool, response: bool) -> Header {
    Header {
        spi_i: 0x1122_3344_5566_7788,
        spi_r: if response { 0x99aa_bbcc_ddee_ff00 } else { 0 },
        exchange,
        flags: Flags {
            initiator,
            response,
        },
        message_id: 0,
    }
}

fn suite(text: &str) -> IkeSuite {
    text.parse().unwrap()
}

/// Clear messages.
pub(crate) fn messages() -> Vec<Sample> {
    let native = suite("AES_GCM_16-256/PRF_HMAC_SHA2_256");
    let paper = suite("AES_CBC-256/HMAC_SHA1_96/PRF_HMAC_SHA1");
    let request = header(ExchangeType::IkeSaInit, true, false);
    let response = header(ExchangeType::IkeSaInit, false, true);
    let message =
        |header: &Header, payloads: Vec<Vec<Payload>>| encode(header, &payloads.concat()).unwrap();
    vec![
        (
            "init-request-native",
            message(
                &request,
                vec![
                    vec![
                        Payload::Sa(IkeSuite::offer(&[native, paper], &[])),
                        Payload::Nonce(count(1, 32)),
                    ],
                    nat_detection().to_vec(),
                    vec![supported("sae-ue-1")],
                ],
            ),
        ),
        (
            "init-response-native",
            message(
                &response,
                vec![
                    vec![
                        Payload::Sa(IkeSuite::offer(&[native], &[])),
                        Payload::Nonce(count(2, 32)),
                    ],
                    nat_detection().to_vec(),
                    vec![
                        supported("sae-n3iwf"),
                        key_ids(7, KeyIdFormat::Binary).to_notify().into(),
                    ],
                ],
            ),
        ),
        (
            "init-request-paper",
            message(
                &request,
                vec![
                    vec![
                        Payload::Sa(IkeSuite::offer(&[paper], &[])),
                        Payload::Nonce(count(1, 256)),
                    ],
                    nat_detection().to_vec(),
                ],
            ),
        ),
        (
            "init-response-paper",
            message(
                &response,
                vec![
                    vec![
                        Payload::Sa(IkeSuite::offer(&[paper], &[])),
                        Payload::Nonce(count(2, 256)),
                    ],
                    nat_detection().to_vec(),
                    vec![key_ids(13, KeyIdFormat::Json).to_notify().into()],
                ],
            ),
        ),
        (
            "init-cookie",
            message(
                &response,
                vec![vec![
                    Notify::status(NotifyType::COOKIE, count(5, 36)).into(),
                ]],
            ),
        ),
        (
            "init-request-ecdh",
            message(
                &request,
                vec![vec![
                    Payload::Sa(IkeSuite::offer(
                        &[suite(
                            "AES_CBC-128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256",
                        )],
                        &[],
                    )),
                    Payload::Ke {
                        method: 19,
                        data: count(9, 64),
                    },
                    Payload::Nonce(count(3, 32)),
                    Payload::VendorId(count(0x60, 16)),
                ]],
            ),
        ),
    ]
}

/// Contents of Encrypted payloads.
pub(crate) fn chains() -> Vec<(&'static str, Vec<Payload>)> {
    let esp: EspSuite = "AES_CBC-256/HMAC_SHA1_96".parse().unwrap();
    let inner: IpAddr = "10.0.0.2".parse().unwrap();
    let v6 = TrafficSelector {
        ip_protocol: 47,
        ..TrafficSelector::host("2001:db8::7".parse().unwrap())
    };
    vec![
        ("empty", vec![]),
        (
            "auth-1-request",
            vec![
                Payload::IdI(Identification::key_id(count(7, 5))),
                Payload::Cp(Configuration {
                    kind: CfgType::REQUEST,
                    attributes: vec![CfgAttribute::request(
                        CfgAttributeType::INTERNAL_IP4_ADDRESS,
                    )],
                }),
                Payload::Sa(EspSuite::offer(&[esp], 0xc0ff_ee01)),
                Payload::TsI(vec![TrafficSelector::any_v4()]),
                Payload::TsR(vec![TrafficSelector::any_v4(), TrafficSelector::any_v6()]),
                Payload::CertReq {
                    encoding: CertEncoding::X509_SIGNATURE,
                    authorities: count(0, 40),
                },
            ],
        ),
        (
            "auth-1-response",
            vec![
                Payload::IdR(Identification::fqdn("n3iwf.example.net")),
                Payload::Cert {
                    encoding: CertEncoding::X509_SIGNATURE,
                    data: count(0, 300),
                },
                Payload::Auth {
                    method: AuthMethod::RSA,
                    data: count(1, 256),
                },
                Payload::Eap(hex::decode("0101000efe0028af000000030100").unwrap()),
            ],
        ),
        (
            "auth-final-response",
            vec![
                Payload::Auth {
                    method: AuthMethod::SHARED_KEY,
                    data: count(4, 32),
                },
                Payload::Cp(Configuration {
                    kind: CfgType::REPLY,
                    attributes: vec![
                        CfgAttribute::ipv4(
                            CfgAttributeType::INTERNAL_IP4_ADDRESS,
                            "10.0.0.2".parse().unwrap(),
                        ),
                        CfgAttribute::ipv4(
                            CfgAttributeType::INTERNAL_IP4_NETMASK,
                            "255.255.255.0".parse().unwrap(),
                        ),
                        CfgAttribute::ipv6_address("2001:db8::7".parse().unwrap(), 64),
                    ],
                }),
                Payload::Sa(EspSuite::offer(&[esp], 0xc0ff_ee02)),
                Payload::TsI(vec![TrafficSelector::host(inner)]),
                Payload::TsR(vec![v6]),
                Notify::status(NotifyType::NAS_IP4_ADDRESS, vec![10, 0, 0, 1]).into(),
                Notify::status(NotifyType::NAS_TCP_PORT, vec![0x4e, 0x20]).into(),
            ],
        ),
        (
            "create-child-request",
            vec![
                Payload::Sa(EspSuite::offer(&[esp], 0xc0ff_ee03)),
                Payload::Nonce(count(6, 32)),
                Payload::TsI(vec![TrafficSelector::host(inner)]),
                Payload::TsR(vec![TrafficSelector::host(inner)]),
                Notify::status(NotifyType::FIVE_G_QOS_INFO, vec![4, 1, 1, 9, 2]).into(),
                Notify::status(NotifyType::UP_IP4_ADDRESS, vec![10, 0, 0, 1]).into(),
                key_ids(2, KeyIdFormat::Binary).to_notify().into(),
            ],
        ),
        (
            "rekey",
            vec![
                Notify::about_esp(NotifyType::REKEY_SA, 0xc0ff_ee03, vec![]).into(),
                Payload::Sa(IkeSuite::offer(
                    &[suite("AES_GCM_16-256/PRF_HMAC_SHA2_384/ML_KEM_768")],
                    &count(1, 8),
                )),
                Payload::Nonce(count(6, 16)),
            ],
        ),
        (
            "delete",
            vec![
                Payload::Delete(Delete::esp(vec![0xc0ff_ee03, 0xc0ff_ee04])),
                Payload::Delete(Delete::Ike),
                Payload::Unknown {
                    payload_type: 200,
                    data: count(0, 3),
                },
            ],
        ),
    ]
}

/// Data of the QKD notifications behind an octet that tells which: see `exercise::qkd`.
pub(crate) fn qkd_bodies() -> Vec<Sample> {
    let Payload::Notify(supported) = supported("sae-ue-1") else {
        panic!("QKD_SUPPORTED is a notification");
    };
    let admission = QkdAdmission {
        tag_id: [1; 8],
        tag: [2; 16],
    };
    [
        ("supported", 0, supported.data),
        (
            "key-ids-binary",
            1,
            key_ids(7, KeyIdFormat::Binary).to_notify().data,
        ),
        (
            "key-ids-json",
            1,
            key_ids(13, KeyIdFormat::Json).to_notify().data,
        ),
        ("unavailable", 2, QkdUnavailable::Quota.to_notify().data),
        ("admission", 3, admission.to_notify().data),
    ]
    .map(|(name, which, data)| (name, [vec![which], data].concat()))
    .to_vec()
}

/// [`chains`] as octets behind the type of the first payload: see `exercise::payloads`.
pub(crate) fn chain_octets() -> Vec<Sample> {
    chains()
        .into_iter()
        .map(|(name, payloads)| {
            let (first, chain) = encode_payloads(&payloads).unwrap();
            (name, [vec![first.0], chain].concat())
        })
        .collect()
}
