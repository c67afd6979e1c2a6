//! A message written by hand, octet by octet, against the codec both ways.

use ike::wire::{
    Body, ExchangeType, Flags, Header, Notify, NotifyType, Payload, Proposal, Protocol, SaPayload,
    Transform, TransformType, encode, parse, qkd::QkdSupported,
};

fn octets() -> Vec<u8> {
    let text: String = include_str!("../vectors/ike-sa-init.txt")
        .lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(|line| line.chars().filter(|c| !c.is_whitespace()))
        .collect();
    hex::decode(text).unwrap()
}

fn header() -> Header {
    Header {
        spi_i: 0x0011_2233_4455_6677,
        spi_r: 0,
        exchange: ExchangeType::IkeSaInit,
        flags: Flags {
            initiator: true,
            response: false,
        },
        message_id: 0,
    }
}

fn payloads() -> Vec<Payload> {
    let proposals = vec![
        Proposal {
            number: 1,
            protocol: Protocol::IKE,
            spi: vec![],
            transforms: vec![
                Transform::with_key_length(TransformType::ENCR, 20, 256),
                Transform::new(TransformType::PRF, 5),
            ],
        },
        Proposal {
            number: 2,
            protocol: Protocol::IKE,
            spi: vec![],
            transforms: vec![
                Transform::with_key_length(TransformType::ENCR, 12, 256),
                Transform::new(TransformType::INTEG, 2),
                Transform::new(TransformType::PRF, 2),
                Transform::new(TransformType::KE, 31),
            ],
        },
    ];
    let supported = QkdSupported {
        qkd: true,
        hybrid: false,
        paper: false,
        sae: "sae-ue-1".parse().unwrap(),
    };
    vec![
        Payload::Sa(SaPayload { proposals }),
        Payload::Ke {
            method: 31,
            data: (0x40..0x60).collect(),
        },
        Payload::Nonce((0x80..0xa0).collect()),
        Notify::status(NotifyType::NAT_DETECTION_SOURCE_IP, (0xa0..0xb4).collect()).into(),
        Notify::status(
            NotifyType::NAT_DETECTION_DESTINATION_IP,
            (0xc0..0xd4).collect(),
        )
        .into(),
        supported.to_notify().into(),
        Payload::VendorId(vec![0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]),
    ]
}

#[test]
fn reads_what_was_written_by_hand() {
    let octets = octets();
    let parsed = parse(&octets).unwrap();
    assert_eq!(parsed.header, header());
    assert_eq!(parsed.body, Body::Clear(payloads()));
    assert_eq!(Header::peek(&octets), Some(header()));
}

#[test]
fn writes_what_was_written_by_hand() {
    assert_eq!(
        hex::encode(encode(&header(), &payloads()).unwrap()),
        hex::encode(octets())
    );
}
