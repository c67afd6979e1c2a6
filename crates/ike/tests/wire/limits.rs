//! What no field can hold cannot be written; what passes the limits is not read.

use ike::wire::{
    CfgAttribute, CfgAttributeType, CfgType, Configuration, Delete, EncodeError, ExchangeType,
    MAX_MESSAGE, MAX_PAYLOADS, Notify, NotifyType, Payload, Proposal, Protocol, SaPayload,
    TrafficSelector, Transform, TransformType, WireError, encode, encode_payloads, parse,
    parse_payloads,
};

use crate::samples::header;

fn refused(payload: Payload) -> EncodeError {
    encode_payloads(&[payload]).unwrap_err()
}

#[test]
fn number_of_payloads() {
    let chain = |number: usize| {
        let payloads = vec![Payload::VendorId(vec![]); number];
        encode_payloads(&payloads).unwrap()
    };
    let (first, octets) = chain(MAX_PAYLOADS);
    assert_eq!(parse_payloads(first, &octets).unwrap().len(), MAX_PAYLOADS);
    let (first, octets) = chain(MAX_PAYLOADS + 1);
    assert_eq!(
        parse_payloads(first, &octets),
        Err(WireError::InvalidSyntax("too many payloads"))
    );
}

#[test]
fn length_of_a_message() {
    let header = header(ExchangeType::IkeSaInit, true, false);
    let message = |len: usize| encode(&header, &[Payload::VendorId(vec![0; len])]);
    let longest = message(MAX_MESSAGE - 32).unwrap();
    assert_eq!(longest.len(), MAX_MESSAGE);
    assert!(parse(&longest).is_ok());
    assert_eq!(
        message(MAX_MESSAGE - 31),
        Err(EncodeError::TooLong("message"))
    );
    // Two octets more than a datagram holds, length fields right.
    let mut longer = longest;
    longer.extend_from_slice(&[0, 0]);
    longer[24..28].copy_from_slice(&u32::try_from(MAX_MESSAGE + 2).unwrap().to_be_bytes());
    longer[30..32].copy_from_slice(&u16::try_from(MAX_MESSAGE - 26).unwrap().to_be_bytes());
    assert_eq!(
        parse(&longer),
        Err(WireError::InvalidSyntax("message too long"))
    );
}

#[test]
fn parts_that_do_not_fit() {
    assert_eq!(
        refused(Payload::VendorId(vec![0; 65_532])),
        EncodeError::TooLong("a payload")
    );
    assert_eq!(
        refused(Payload::Nonce(vec![0; 15])),
        EncodeError::Invalid("length of a Nonce")
    );
    assert_eq!(
        refused(
            Notify {
                spi: vec![0; 256],
                ..Notify::status(NotifyType::REKEY_SA, vec![])
            }
            .into()
        ),
        EncodeError::TooLong("SPI of a Notify")
    );
    assert_eq!(
        refused(Payload::Delete(Delete::esp(vec![0; 65_536]))),
        EncodeError::TooLong("SPIs of a Delete")
    );
    assert_eq!(
        refused(Payload::Delete(Delete::Child {
            protocol: Protocol::IKE,
            spis: vec![]
        })),
        EncodeError::Invalid("protocol of a Delete")
    );
    assert_eq!(
        refused(Payload::TsI(vec![TrafficSelector::any_v4(); 256])),
        EncodeError::TooLong("Traffic Selectors")
    );
    let mixed = TrafficSelector {
        end: "2001:db8::1".parse().unwrap(),
        ..TrafficSelector::any_v4()
    };
    assert_eq!(
        refused(Payload::TsR(vec![mixed])),
        EncodeError::Invalid("address families of a Traffic Selector")
    );
    let attribute = |kind, value| {
        Payload::Cp(Configuration {
            kind: CfgType::SET,
            attributes: vec![CfgAttribute { kind, value }],
        })
    };
    assert_eq!(
        refused(attribute(CfgAttributeType(0x8000), vec![])),
        EncodeError::Invalid("type of a configuration attribute")
    );
    assert_eq!(
        refused(attribute(CfgAttributeType(7), vec![0; 65_536])),
        EncodeError::TooLong("value of a configuration attribute")
    );
}

#[test]
fn proposals_that_do_not_fit() {
    let proposal = |protocol, spi: usize, transforms: usize| {
        Payload::Sa(SaPayload {
            proposals: vec![Proposal {
                number: 1,
                protocol,
                spi: vec![1; spi],
                transforms: vec![Transform::new(TransformType::PRF, 5); transforms],
            }],
        })
    };
    assert!(encode_payloads(&[proposal(Protocol::ESP, 4, 255)]).is_ok());
    assert_eq!(
        refused(proposal(Protocol::ESP, 4, 256)),
        EncodeError::TooLong("transforms of a proposal")
    );
    assert_eq!(
        refused(proposal(Protocol::ESP, 8, 1)),
        EncodeError::Invalid("SPI size of a proposal")
    );
    assert_eq!(
        refused(proposal(Protocol::IKE, 4, 1)),
        EncodeError::Invalid("SPI size of a proposal")
    );
}
