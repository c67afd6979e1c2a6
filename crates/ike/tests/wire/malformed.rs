//! Input that is cut off, that lies about a length, or that says what the standard rules out.

use ike::wire::{
    Body, Notify, NotifyType, PayloadType, WireError, encode_payloads, parse, parse_payloads,
};

use crate::samples;

/// One payload of this type with this body.
fn payload(kind: PayloadType, body: &str) -> Result<Vec<ike::wire::Payload>, WireError> {
    parse_payloads(
        kind,
        &framed(0, 0, &hex::decode(body.replace(' ', "")).unwrap()),
    )
}

fn framed(next: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[next, flags], &length[..], body].concat()
}

fn invalid(kind: PayloadType, body: &str) -> &'static str {
    match payload(kind, body) {
        Err(WireError::InvalidSyntax(what)) => what,
        other => panic!("{kind} {body}: {other:?}"),
    }
}

fn truncated(kind: PayloadType, body: &str) {
    match payload(kind, body) {
        Err(WireError::Truncated(_)) => {}
        other => panic!("{kind} {body}: {other:?}"),
    }
}

#[test]
fn a_message_cut_off_anywhere_is_refused() {
    for (name, octets) in samples::messages() {
        for len in 0..octets.len() {
            let error = parse(&octets[..len]).unwrap_err();
            if len < 28 {
                assert_eq!(error, WireError::Truncated("header"), "{name} at {len}");
            } else {
                let claimed = u32::try_from(octets.len()).unwrap();
                assert_eq!(
                    error,
                    WireError::Length {
                        claimed,
                        actual: len
                    }
                );
            }
        }
    }
}

#[test]
fn a_message_cut_off_with_a_matching_length_is_refused() {
    for (name, octets) in samples::messages() {
        for len in 28..octets.len() {
            let mut cut = octets[..len].to_vec();
            cut[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
            assert!(parse(&cut).is_err(), "{name} at {len}");
        }
    }
}

#[test]
fn a_chain_cut_off_anywhere_is_refused() {
    for (name, payloads) in samples::chains() {
        let (first, octets) = encode_payloads(&payloads).unwrap();
        for len in 0..octets.len() {
            assert!(
                parse_payloads(first, &octets[..len]).is_err(),
                "{name} at {len}"
            );
        }
    }
}

#[test]
fn every_payload_body_cut_off_is_refused_or_shorter() {
    // The payload's own length is right, its body ends early: the decoder of the body must notice,
    // or the payload ends in free octets and the value is shorter.
    for (name, payloads) in samples::chains() {
        for whole in payloads {
            let (first, octets) = encode_payloads(std::slice::from_ref(&whole)).unwrap();
            let body = &octets[4..];
            for len in 0..body.len() {
                if let Ok(read) = parse_payloads(first, &framed(0, 0, &body[..len])) {
                    assert_ne!(
                        read,
                        std::slice::from_ref(&whole),
                        "{name} {first} at {len}"
                    );
                    let (_, again) = encode_payloads(&read).unwrap();
                    assert_eq!(again[4..], body[..len], "{name} {first} at {len}");
                }
            }
        }
    }
}

#[test]
fn a_length_that_lies_is_refused() {
    let (_, octets) = samples::messages().remove(0);
    let claim = |length: u32| {
        let mut lying = octets.clone();
        lying[24..28].copy_from_slice(&length.to_be_bytes());
        parse(&lying).unwrap_err()
    };
    let actual = octets.len();
    for claimed in [0, 27, 28, u32::try_from(actual).unwrap() + 1, u32::MAX] {
        assert_eq!(claim(claimed), WireError::Length { claimed, actual });
    }
    // A payload that claims less than its own header, and one that claims more than there is.
    for length in [0u16, 1, 3] {
        let mut lying = octets.clone();
        lying[30..32].copy_from_slice(&length.to_be_bytes());
        assert_eq!(
            parse(&lying).unwrap_err(),
            WireError::InvalidSyntax("length of a payload")
        );
    }
    let mut lying = octets.clone();
    lying[30..32].copy_from_slice(&u16::MAX.to_be_bytes());
    assert_eq!(parse(&lying).unwrap_err(), WireError::Truncated("payload"));
}

#[test]
fn octets_after_the_last_payload_are_refused() {
    assert_eq!(
        parse_payloads(PayloadType::NONE, &[0]),
        Err(WireError::InvalidSyntax("octets after the last payload"))
    );
    let mut octets = framed(0, 0, b"id");
    octets.push(0);
    assert_eq!(
        parse_payloads(PayloadType::VENDOR_ID, &octets),
        Err(WireError::InvalidSyntax("octets after the last payload"))
    );
}

#[test]
fn versions() {
    let (_, mut octets) = samples::messages().remove(0);
    octets[17] = 0x2f;
    assert!(parse(&octets).is_ok(), "a minor version is ignored");
    for (version, major) in [(0x10, 1), (0x30, 3), (0xff, 15)] {
        octets[17] = version;
        let error = parse(&octets).unwrap_err();
        assert_eq!(error, WireError::MajorVersion(major));
        assert_eq!(error.notify().kind, NotifyType::INVALID_MAJOR_VERSION);
        assert!(ike::wire::Header::peek(&octets).is_some());
    }
}

#[test]
fn an_initiator_spi_of_zero_is_refused() {
    let (_, mut octets) = samples::messages().remove(0);
    octets[..8].fill(0);
    assert!(matches!(parse(&octets), Err(WireError::InvalidSyntax(_))));
}

#[test]
fn unknown_payloads() {
    for kind in [1, 32, 49, 52, 54, 128, 255] {
        let kind = PayloadType(kind);
        let error = parse_payloads(kind, &framed(0, 0x80, b"x")).unwrap_err();
        assert_eq!(error, WireError::UnsupportedCritical(kind.0));
        assert_eq!(
            error.notify(),
            Notify::status(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind.0])
        );
        let skipped = parse_payloads(kind, &framed(0, 0x7f, b"x")).unwrap();
        assert_eq!(skipped.len(), 1);
        assert_eq!(skipped[0].payload_type(), kind);
    }
    // Known types are read whatever the bit says (RFC 7296, section 2.5).
    let nonce = framed(0, 0x80, &[7; 16]);
    assert!(parse_payloads(PayloadType::NONCE, &nonce).is_ok());
}

#[test]
fn security_associations() {
    let sa = PayloadType::SA;
    truncated(sa, "");
    assert_eq!(invalid(sa, "01000008 01010000"), "proposal");
    assert_eq!(invalid(sa, "00000003 01010000"), "proposal");
    truncated(sa, "00000009 01010000");
    // More are announced than there are, and more than announced.
    truncated(sa, "02000008 01010000");
    assert_eq!(invalid(sa, "00000008 01010000 00000008 02010000"), "SA");
    // SPI sizes: IKE 0 or 8, ESP 4.
    assert_eq!(
        invalid(sa, "0000000c 01010400 01020304"),
        "SPI size of a proposal"
    );
    assert_eq!(invalid(sa, "00000008 01030000"), "SPI size of a proposal");
    truncated(sa, "00000008 0103ff00");
    // Transforms: wrong marker, count too high, count too low, length below the header.
    assert_eq!(
        invalid(sa, "00000010 01010001 03000008 02000005"),
        "transform"
    );
    truncated(sa, "00000010 01010002 03000008 02000005");
    assert_eq!(
        invalid(sa, "00000018 01010001 00000008 02000005 00000008 02000005"),
        "proposal"
    );
    assert_eq!(
        invalid(sa, "00000010 01010001 00000003 02000005"),
        "transform"
    );
    // Attributes: cut off, longer than the transform, key length twice.
    truncated(sa, "00000012 01010001 0000000a 01000014 800e");
    truncated(sa, "00000014 01010001 0000000c 01000014 00010001");
    assert_eq!(
        invalid(sa, "00000018 01010001 00000010 01000014 800e0100 800e0080"),
        "two key lengths in a transform"
    );
}

#[test]
fn key_exchange_identities_certificates() {
    truncated(PayloadType::KE, "001f00");
    truncated(PayloadType::ID_I, "020000");
    truncated(PayloadType::ID_R, "");
    assert_eq!(
        invalid(PayloadType::ID_I, "01000000 c00002"),
        "length of an address identity"
    );
    assert_eq!(
        invalid(PayloadType::ID_R, "05000000 c0000201"),
        "length of an address identity"
    );
    truncated(PayloadType::CERT, "");
    truncated(PayloadType::CERTREQ, "");
    assert_eq!(
        invalid(PayloadType::CERTREQ, "04 0102"),
        "authorities of a CERTREQ"
    );
    truncated(PayloadType::AUTH, "010000");
    truncated(PayloadType::EAP, "010100");
}

#[test]
fn nonces_have_16_to_256_octets() {
    for (len, good) in [
        (0, false),
        (15, false),
        (16, true),
        (256, true),
        (257, false),
    ] {
        let read = parse_payloads(PayloadType::NONCE, &framed(0, 0, &vec![1; len]));
        assert_eq!(read.is_ok(), good, "{len}");
    }
}

#[test]
fn notifications_and_deletions() {
    truncated(PayloadType::NOTIFY, "000040");
    truncated(PayloadType::NOTIFY, "03044009 010203");
    truncated(PayloadType::DELETE, "030400");
    truncated(PayloadType::DELETE, "03040002 01020304");
    truncated(PayloadType::DELETE, "0304ffff 01020304");
    let syntax = "protocol or SPI size of a Delete";
    assert_eq!(
        invalid(PayloadType::DELETE, "03080001 0102030405060708"),
        syntax
    );
    assert_eq!(invalid(PayloadType::DELETE, "01000001"), syntax);
    assert_eq!(invalid(PayloadType::DELETE, "01040001 01020304"), syntax);
    assert_eq!(invalid(PayloadType::DELETE, "09000000"), syntax);
    assert_eq!(invalid(PayloadType::DELETE, "01000000 00"), "D");
    assert_eq!(invalid(PayloadType::DELETE, "03040001 01020304 05"), "D");
}

#[test]
fn traffic_selectors() {
    let ts = PayloadType::TS_I;
    let one = "07000010 0000ffff c0000201 c00002ff";
    truncated(ts, "010000");
    truncated(ts, "01000000");
    truncated(ts, &format!("02000000 {one}"));
    assert_eq!(invalid(ts, &format!("00000000 {one}")), "TSi");
    assert_eq!(
        invalid(ts, "01000000 07000003"),
        "length of a Traffic Selector"
    );
    truncated(ts, "01000000 0700000f 0000ffff c0000201 c00002");
    assert_eq!(
        invalid(ts, "01000000 07000011 0000ffff c0000201 c00002ff 00"),
        "Traffic Selector"
    );
    truncated(ts, "01000000 08000010 0000ffff c0000201 c00002ff");
    assert_eq!(
        invalid(ts, "01000000 07000010 0000ffff c00002ff c0000201"),
        "addresses of a Traffic Selector"
    );
    // Another type is skipped whatever is in it.
    let read = payload(ts, &format!("02000000 0a000008 01020304 {one}")).unwrap();
    assert!(matches!(&read[..], [ike::wire::Payload::TsI(list)] if list.len() == 1));
}

#[test]
fn configurations() {
    let cp = PayloadType::CP;
    truncated(cp, "010000");
    truncated(cp, "01000000 0001");
    truncated(cp, "01000000 00010004 0a0000");
    for attribute in [
        "00010003 0a0000",
        "00020005 0a00000001",
        "00030001 0a",
        "00080010 20010db8000000000000000000000007",
        "000a0011 20010db800000000000000000000000740",
        "000d0004 0a000000",
        "000e0003 000100",
    ] {
        assert_eq!(
            invalid(cp, &format!("02000000 {attribute}")),
            "length of a configuration attribute"
        );
    }
}

#[test]
fn encrypted_payloads() {
    let message = |kind: u8, chain: Vec<u8>| {
        let mut octets = hex::decode("0102030405060708111213141516171800202308").unwrap();
        octets[16] = kind;
        octets.extend_from_slice(&1u32.to_be_bytes());
        octets.extend_from_slice(&u32::try_from(28 + chain.len()).unwrap().to_be_bytes());
        octets.extend_from_slice(&chain);
        octets
    };
    let body = |octets: &[u8]| parse(octets).map(|parsed| parsed.body);
    // Behind a clear Notify: Next Payload names the content, so nothing has to follow.
    let notify = framed(46, 0, &hex::decode("00004000").unwrap());
    let octets = message(41, [notify, framed(35, 0, &[9; 40])].concat());
    match body(&octets).unwrap() {
        Body::Encrypted {
            first,
            offset,
            fragment,
            before,
        } => {
            assert_eq!((first, offset, fragment), (PayloadType::ID_I, 36, None));
            assert_eq!(before.len(), 1);
        }
        other => panic!("{other:?}"),
    }
    // Not the last payload.
    let octets = message(
        46,
        [framed(41, 0, &[9; 40]), framed(0, 0, &[0; 4])].concat(),
    );
    assert_eq!(
        body(&octets),
        Err(WireError::InvalidSyntax("octets after the last payload"))
    );
    // Fragment numbers run from 1 to the total.
    for (fields, good) in [
        ("00010001", true),
        ("00020003", true),
        ("00000001", false),
        ("00020001", false),
        ("00010000", false),
    ] {
        let octets = message(53, framed(0, 0, &hex::decode(fields).unwrap()));
        assert_eq!(body(&octets).is_ok(), good, "{fields}");
    }
    let octets = message(53, framed(0, 0, &[0, 1, 0]));
    assert_eq!(body(&octets), Err(WireError::Truncated("SKF")));
    // Inside of one there is no other.
    for kind in [PayloadType::SK, PayloadType::SKF] {
        assert_eq!(
            parse_payloads(kind, &framed(0, 0, &[0; 40])),
            Err(WireError::InvalidSyntax("misplaced Encrypted payload"))
        );
    }
}
