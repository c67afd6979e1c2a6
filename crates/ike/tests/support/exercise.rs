//! What the fuzz targets do with an input; the corpus test does the same on any compiler.

use ike::{
    crypto::{AesBits, DirectionKeys, Encr, Integ, OpenError, Protector},
    wire::{
        Body, Header, NotifyType, PayloadType, WireError, encode, encode_payloads, parse,
        parse_payloads,
        qkd::{QkdAdmission, QkdKeyIds, QkdSupported, QkdUnavailable},
    },
};
use keys::Secret;

/// A datagram from anyone, as it is and with its Length field made right.
pub fn message(input: &[u8]) {
    datagram(input);
    let mut fitting = input.to_vec();
    let length = u32::try_from(input.len()).unwrap_or(u32::MAX);
    if let Some(field) = fitting.get_mut(24..28) {
        field.copy_from_slice(&length.to_be_bytes());
        datagram(&fitting);
    }
}

/// Read, written again, or tried with keys it was not made with.
fn datagram(input: &[u8]) {
    assert_eq!(Header::peek(input).is_some(), input.len() >= 28);
    let parsed = match parse(input) {
        Ok(parsed) => parsed,
        Err(error) => {
            assert!(error.notify().kind.is_error());
            return;
        }
    };
    match &parsed.body {
        Body::Clear(payloads) => {
            let again = encode(&parsed.header, payloads).expect("what was read can be written");
            let read = parse(&again).expect("what was written can be read");
            assert_eq!(read.header, parsed.header);
            assert_eq!(read.body, parsed.body);
        }
        Body::Encrypted { fragment, .. } => {
            for protector in protectors() {
                let error = if fragment.is_some() {
                    protector.open_fragment(&parsed).err()
                } else {
                    protector.open(&parsed).err()
                };
                assert_eq!(error, Some(OpenError::Integrity));
            }
        }
    }
}

/// A decrypted chain: first octet the type of its first payload.
pub fn payloads(input: &[u8]) {
    let Some((first, octets)) = input.split_first() else {
        return;
    };
    let Ok(payloads) = parse_payloads(PayloadType(*first), octets) else {
        return;
    };
    let (first, again) = encode_payloads(&payloads).expect("what was read can be written");
    assert!(again.len() <= octets.len());
    assert_eq!(parse_payloads(first, &again), Ok(payloads));
}

/// Data of a QKD notification: first octet says which.
pub fn qkd(input: &[u8]) {
    let Some((which, data)) = input.split_first() else {
        return;
    };
    let written = match which {
        0 => QkdSupported::from_data(data).map(|read| read.to_notify()),
        1 => QkdKeyIds::from_data(data).map(|read| read.to_notify()),
        2 => QkdUnavailable::from_data(data).map(QkdUnavailable::to_notify),
        3 => QkdAdmission::from_data(data).map(|read| read.to_notify()),
        _ => return,
    };
    match written {
        // Unknown flags are dropped, and UUIDs may be in capitals: nothing else changes.
        Ok(notify) if *which == 0 => {
            assert_eq!(notify.data.get(2..), data.get(2..));
        }
        Ok(notify) => assert!(notify.data.eq_ignore_ascii_case(data)),
        Err(error) => {
            assert!(matches!(
                error,
                WireError::InvalidSyntax(_) | WireError::Truncated(_)
            ));
            assert_eq!(error.notify().kind, NotifyType::INVALID_SYNTAX);
        }
    }
}

fn protectors() -> [Protector; 2] {
    let make = |encr: Encr, integ: Option<Integ>| {
        let keys = DirectionKeys {
            encr: Secret::from_slice(&[0x5a; 32]),
            salt: [1, 2, 3, 4],
            integ: integ.map(|_| Secret::from_slice(&[0xa5; 20])),
        };
        Protector::new(encr, integ, keys).expect("keys of the right size")
    };
    [
        make(Encr::AesGcm16(AesBits::B256), None),
        make(Encr::AesCbc(AesBits::B256), Some(Integ::HmacSha1_96)),
    ]
}
