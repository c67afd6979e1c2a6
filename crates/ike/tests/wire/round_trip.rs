//! Whatever can be written is read back as it was, and written again octet for octet.

use std::net::IpAddr;

use ike::wire::{
    Attribute, AuthMethod, Body, CertEncoding, CfgAttribute, CfgAttributeType, CfgType,
    Configuration, Delete, ExchangeType, Flags, Header, IdType, Identification, Notify, NotifyType,
    Payload, PayloadType, Proposal, Protocol, SaPayload, TrafficSelector, Transform, TransformType,
    encode, encode_payloads, parse, parse_payloads,
};
use proptest::{collection::vec, prelude::*};

use crate::samples;

fn octets(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=most)
}

fn attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        // 14 in the short form is the key length, which has a field of its own.
        (0..0x8000u16, any::<u16>())
            .prop_filter("key length", |(kind, _)| *kind != 14)
            .prop_map(|(kind, value)| Attribute::Short(kind, value)),
        (0..0x8000u16, octets(20)).prop_map(|(kind, value)| Attribute::Long(kind, value)),
    ]
}

fn transform() -> impl Strategy<Value = Transform> {
    (
        any::<u8>(),
        any::<u16>(),
        any::<Option<u16>>(),
        vec(attribute(), 0..3),
    )
        .prop_map(|(kind, id, key_length, other)| Transform {
            kind: TransformType(kind),
            id,
            key_length,
            other,
        })
}

fn proposal() -> impl Strategy<Value = Proposal> {
    let protocol = prop_oneof![
        Just((Protocol::IKE, 0)),
        Just((Protocol::IKE, 8)),
        Just((Protocol::AH, 4)),
        Just((Protocol::ESP, 4)),
        Just((Protocol(77), 200)),
    ];
    (any::<u8>(), protocol, any::<u8>(), vec(transform(), 0..6)).prop_map(
        |(number, (protocol, spi), octet, transforms)| Proposal {
            number,
            protocol,
            spi: vec![octet; spi],
            transforms,
        },
    )
}

fn selector() -> impl Strategy<Value = TrafficSelector> {
    let addresses = prop_oneof![
        (any::<u32>(), any::<u32>()).prop_map(|(a, b)| {
            let of = |bits: u32| IpAddr::from(bits.to_be_bytes());
            (of(a.min(b)), of(a.max(b)))
        }),
        (any::<u128>(), any::<u128>()).prop_map(|(a, b)| {
            let of = |bits: u128| IpAddr::from(bits.to_be_bytes());
            (of(a.min(b)), of(a.max(b)))
        }),
    ];
    (any::<u8>(), any::<u16>(), any::<u16>(), addresses).prop_map(
        |(ip_protocol, start_port, end_port, (start, end))| TrafficSelector {
            ip_protocol,
            start_port,
            end_port,
            start,
            end,
        },
    )
}

fn identification() -> impl Strategy<Value = Identification> {
    prop_oneof![
        octets(40).prop_map(Identification::key_id),
        any::<[u8; 4]>().prop_map(|a| Identification::new(IdType::IPV4_ADDR, a.to_vec())),
        any::<[u8; 16]>().prop_map(|a| Identification::new(IdType::IPV6_ADDR, a.to_vec())),
        "[a-z.]{1,30}".prop_map(|name| Identification::fqdn(&name)),
    ]
}

fn cfg_attribute() -> impl Strategy<Value = CfgAttribute> {
    prop_oneof![
        any::<u32>().prop_map(|a| CfgAttribute::ipv4(CfgAttributeType::INTERNAL_IP4_DNS, a.into())),
        (any::<u128>(), any::<u8>()).prop_map(|(a, p)| CfgAttribute::ipv6_address(a.into(), p)),
        (100..0x8000u16, octets(20)).prop_map(|(kind, value)| CfgAttribute {
            kind: CfgAttributeType(kind),
            value,
        }),
    ]
}

fn notify() -> impl Strategy<Value = Notify> {
    (any::<u8>(), octets(8), any::<u16>(), octets(60)).prop_map(|(protocol, spi, kind, data)| {
        Notify {
            protocol: Protocol(protocol),
            spi,
            kind: NotifyType(kind),
            data,
        }
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        vec(proposal(), 1..4).prop_map(|proposals| Payload::Sa(SaPayload { proposals })),
        (any::<u16>(), octets(100)).prop_map(|(method, data)| Payload::Ke { method, data }),
        identification().prop_map(Payload::IdI),
        identification().prop_map(Payload::IdR),
        (any::<u8>(), octets(100)).prop_map(|(encoding, data)| Payload::Cert {
            encoding: CertEncoding(encoding),
            data,
        }),
        vec(any::<[u8; 20]>(), 0..4).prop_map(|hashes| Payload::CertReq {
            encoding: CertEncoding::X509_SIGNATURE,
            authorities: hashes.concat(),
        }),
        (any::<u8>(), octets(100)).prop_map(|(method, data)| Payload::Auth {
            method: AuthMethod(method),
            data,
        }),
        vec(any::<u8>(), 16..=256).prop_map(Payload::Nonce),
        notify().prop_map(Payload::Notify),
        vec(any::<u32>(), 0..5).prop_map(|spis| Payload::Delete(Delete::esp(spis))),
        Just(Payload::Delete(Delete::Ike)),
        octets(40).prop_map(Payload::VendorId),
        vec(selector(), 0..5).prop_map(Payload::TsI),
        vec(selector(), 0..5).prop_map(Payload::TsR),
        (any::<u8>(), vec(cfg_attribute(), 0..5)).prop_map(|(kind, attributes)| {
            Payload::Cp(Configuration {
                kind: CfgType(kind),
                attributes,
            })
        }),
        vec(any::<u8>(), 4..80).prop_map(Payload::Eap),
        (54..=255u8, octets(40))
            .prop_map(|(payload_type, data)| Payload::Unknown { payload_type, data }),
    ]
}

fn header() -> impl Strategy<Value = Header> {
    (
        1..=u64::MAX,
        any::<u64>(),
        any::<u8>(),
        any::<bool>(),
        any::<bool>(),
        any::<u32>(),
    )
        .prop_map(
            |(spi_i, spi_r, exchange, initiator, response, message_id)| Header {
                spi_i,
                spi_r,
                exchange: ExchangeType::from_number(exchange),
                flags: Flags {
                    initiator,
                    response,
                },
                message_id,
            },
        )
}

proptest! {
    #[test]
    fn messages(header in header(), payloads in vec(payload(), 0..8)) {
        let octets = encode(&header, &payloads).unwrap();
        let parsed = parse(&octets).unwrap();
        prop_assert_eq!(parsed.header, header);
        let Body::Clear(read) = parsed.body else { panic!("a clear message") };
        prop_assert_eq!(&read, &payloads);
        prop_assert_eq!(encode(&header, &read).unwrap(), octets);
    }

    #[test]
    fn arbitrary_octets_never_panic(octets in octets(300), first in any::<u8>()) {
        // The result does not matter, only that there is one and that what is read can be written.
        if let Ok(payloads) = parse_payloads(PayloadType(first), &octets) {
            let (first, again) = encode_payloads(&payloads).unwrap();
            prop_assert_eq!(parse_payloads(first, &again).unwrap(), payloads);
        }
    }

    #[test]
    fn one_octet_changed_never_panics(
        which in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        octet in any::<u8>(),
    ) {
        let samples = samples::messages();
        let (_, mut octets) = which.get(&samples).clone();
        let place = place.index(octets.len());
        octets[place] = octet;
        if let Ok(parsed) = parse(&octets)
            && let Body::Clear(payloads) = parsed.body
        {
            prop_assert!(encode(&parsed.header, &payloads).is_ok());
        }
    }
}

#[test]
fn samples_are_written_again_octet_for_octet() {
    for (name, octets) in samples::messages() {
        let parsed = parse(&octets).unwrap();
        let Body::Clear(payloads) = parsed.body else {
            panic!("{name} is clear");
        };
        assert_eq!(encode(&parsed.header, &payloads).unwrap(), octets, "{name}");
    }
    for (name, payloads) in samples::chains() {
        let (first, octets) = encode_payloads(&payloads).unwrap();
        assert_eq!(parse_payloads(first, &octets).unwrap(), payloads, "{name}");
    }
}

#[test]
fn reserved_octets_of_an_identity_are_kept_for_auth() {
    let octets = hex::decode("0000000a0b0102030908").unwrap();
    let payloads = parse_payloads(PayloadType::ID_I, &octets).unwrap();
    let [Payload::IdI(id)] = &payloads[..] else {
        panic!("an identity");
    };
    assert_eq!(id.body(), octets[4..]);
    assert_eq!(encode_payloads(&payloads).unwrap().1, octets);
}

#[test]
fn selectors_meet() {
    let selector = |protocol, ports: (u16, u16), start: &str, end: &str| TrafficSelector {
        ip_protocol: protocol,
        start_port: ports.0,
        end_port: ports.1,
        start: start.parse().unwrap(),
        end: end.parse().unwrap(),
    };
    let any = (0, 65535);
    let opaque = (65535, 0);
    let net = selector(0, any, "10.0.0.0", "10.0.0.255");
    let tcp = selector(6, (80, 90), "10.0.0.7", "10.0.1.7");
    assert_eq!(
        net.intersect(&tcp),
        Some(selector(6, (80, 90), "10.0.0.7", "10.0.0.255"))
    );
    assert_eq!(net.intersect(&tcp), tcp.intersect(&net));
    let other_ports = selector(6, (91, 99), "10.0.0.7", "10.0.0.7");
    assert_eq!(tcp.intersect(&other_ports), None);
    let gre = selector(47, any, "10.0.0.7", "10.0.0.7");
    assert_eq!(tcp.intersect(&gre), None);
    let elsewhere = selector(0, any, "10.0.2.0", "10.0.2.255");
    assert_eq!(net.intersect(&elsewhere), None);
    assert_eq!(
        TrafficSelector::any_v4().intersect(&TrafficSelector::any_v6()),
        None
    );
    let opaque = selector(6, opaque, "10.0.0.7", "10.0.0.7");
    assert_eq!(opaque.intersect(&opaque), Some(opaque));
    assert_eq!(opaque.intersect(&net), Some(opaque));
    assert_eq!(opaque.intersect(&tcp), None);
    assert_eq!(net.to_string(), "10.0.0.0..10.0.0.255");
    assert_eq!(opaque.to_string(), "10.0.0.7[6/OPAQUE]");
}
