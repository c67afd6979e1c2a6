//! Protected messages: octets made by another implementation, and every way to spoil them.

use ike::{
    crypto::{AesBits, DirectionKeys, Encr, Integ, KeyError, OpenError, Protector, SealError},
    wire::{
        Body, Delete, ExchangeType, Notify, NotifyType, Payload, PayloadType, WireError, encode,
        encode_payloads, parse,
    },
};
use keys::Secret;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{
    samples,
    script::Script,
    vectors::{Case, cases},
};

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(7)
}

fn protector(case: &Case) -> Protector {
    let integ: Option<Integ> = match case.text("integ_text") {
        "" => None,
        name => Some(name.parse().unwrap()),
    };
    let keys = DirectionKeys {
        encr: Secret::from_slice(&case.octets("encr_key")),
        salt: case.octets("salt").try_into().unwrap(),
        integ: integ.map(|_| Secret::from_slice(&case.octets("integ_key"))),
    };
    Protector::new(case.text("encr_text").parse().unwrap(), integ, keys).unwrap()
}

fn content() -> Vec<Payload> {
    vec![
        Notify::status(NotifyType::INITIAL_CONTACT, vec![]).into(),
        Payload::Delete(Delete::Ike),
    ]
}

#[test]
fn messages_of_another_implementation() {
    let file = cases(include_str!("../vectors/messages.txt"));
    assert_eq!(file.len(), 16);
    for case in &file {
        let message = case.octets("message");
        let parsed = parse(&message).unwrap();
        let mut protector = protector(case);
        let mut script = Script(case.octets("iv"));
        let (first, chain) = encode_payloads(&content()).unwrap();
        assert_eq!(chain, case.octets("content"));
        let sealed = if case.text("fragment_text").is_empty() {
            assert_eq!(protector.open(&parsed).unwrap(), content());
            assert!(matches!(
                protector.open_fragment(&parsed),
                Err(OpenError::Kind)
            ));
            assert_eq!(protector.sealed_len(chain.len()), message.len());
            protector.seal(&parsed.header, &content(), &mut script)
        } else {
            assert_eq!(*protector.open_fragment(&parsed).unwrap(), chain);
            assert_eq!(protector.open(&parsed), Err(OpenError::Kind));
            protector.seal_fragment(&parsed.header, first, (1, 3), &chain, &mut script)
        };
        assert_eq!(hex::encode(sealed.unwrap()), case.text("message"));
    }
}

#[test]
fn no_octet_may_be_changed_or_lost() {
    for case in cases(include_str!("../vectors/messages.txt")) {
        let message = case.octets("message");
        let protector = protector(&case);
        let open = |octets: &[u8]| {
            let parsed = parse(octets).ok()?;
            match parsed.body {
                Body::Encrypted { fragment: None, .. } => protector.open(&parsed).err(),
                Body::Encrypted { .. } => protector.open_fragment(&parsed).err(),
                Body::Clear(_) => panic!("a protected message"),
            }
        };
        for place in 0..message.len() {
            for bit in [0x01, 0x80] {
                let mut spoiled = message.clone();
                spoiled[place] ^= bit;
                if parse(&spoiled).is_err() {
                    continue;
                }
                // A type changed from SK to something unknown leaves a clear message.
                if let Ok(parsed) = parse(&spoiled)
                    && matches!(parsed.body, Body::Clear(_))
                {
                    assert_eq!(place, 16);
                    continue;
                }
                let error = open(&spoiled);
                assert_eq!(error, Some(OpenError::Integrity), "octet {place}");
            }
        }
        // Shorter, with all lengths made right.
        let fragment = usize::from(message[16] == 53) * 4;
        for len in 32 + fragment..message.len() {
            let mut cut = message[..len].to_vec();
            cut[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
            cut[30..32].copy_from_slice(&u16::try_from(len - 28).unwrap().to_be_bytes());
            assert_eq!(open(&cut), Some(OpenError::Integrity), "{len} octets");
        }
    }
}

/// Both ends of one direction.
fn pair(encr: Encr, integ: Option<Integ>) -> (Protector, Protector) {
    let make = || {
        let keys = DirectionKeys {
            encr: Secret::from_slice(&vec![3; encr.key_len()]),
            salt: [1, 2, 3, 4],
            integ: integ.map(|integ| Secret::from_slice(&vec![5; integ.key_len()])),
        };
        Protector::new(encr, integ, keys).unwrap()
    };
    (make(), make())
}

fn suites() -> Vec<(Encr, Option<Integ>)> {
    let mut suites = Vec::new();
    for encr in Encr::ALL {
        if encr.is_aead() {
            suites.push((encr, None));
        } else {
            suites.extend(Integ::ALL.map(|integ| (encr, Some(integ))));
        }
    }
    suites
}

#[test]
fn every_suite_carries_every_sample() {
    let header = samples::header(ExchangeType::IkeAuth, true, false);
    for (encr, integ) in suites() {
        let (mut sealer, opener) = pair(encr, integ);
        let mut seen = Vec::new();
        for (name, payloads) in samples::chains() {
            let sealed = sealer.seal(&header, &payloads, &mut rng()).unwrap();
            let (_, chain) = encode_payloads(&payloads).unwrap();
            assert_eq!(sealed.len(), sealer.sealed_len(chain.len()));
            let parsed = parse(&sealed).unwrap();
            assert_eq!(opener.open(&parsed).unwrap(), payloads, "{name} {encr}");
            seen.push(sealed[32..40].to_vec());
        }
        if encr.is_aead() {
            let number = seen.len();
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), number, "an IV of an AEAD is used once");
        }
    }
}

#[test]
fn sizes_of_the_paper() {
    // 28 header, 4 payload header, 16 IV, content and Pad Length in whole blocks, 12 of HMAC-SHA1-96.
    let (sealer, _) = pair(Encr::AesCbc(AesBits::B256), Some(Integ::HmacSha1_96));
    for (content, whole) in [(0, 16), (15, 16), (16, 32), (31, 32), (127, 128)] {
        assert_eq!(sealer.sealed_len(content), 28 + 4 + 16 + whole + 12);
    }
    let (sealer, _) = pair(Encr::AesGcm16(AesBits::B256), None);
    assert_eq!(sealer.sealed_len(100), 28 + 4 + 8 + 100 + 1 + 16);
}

#[test]
fn authentic_nonsense_is_an_error_of_content() {
    let header = samples::header(ExchangeType::Informational, true, false);
    for (encr, integ) in suites() {
        let (mut sealer, opener) = pair(encr, integ);
        let unknown = Payload::Unknown {
            payload_type: 99,
            data: vec![0; 3],
        };
        let (_, chain) = encode_payloads(&[unknown]).unwrap();
        let mut critical = chain.clone();
        critical[1] = 0x80;
        for (first, chain, error) in [
            (99, &critical, WireError::UnsupportedCritical(99)),
            (40, &chain, WireError::InvalidSyntax("length of a Nonce")),
            (
                0,
                &chain,
                WireError::InvalidSyntax("octets after the last payload"),
            ),
            (
                46,
                &chain,
                WireError::InvalidSyntax("misplaced Encrypted payload"),
            ),
        ] {
            let sealed = sealer
                .seal_chain(&header, PayloadType(first), chain, &mut rng())
                .unwrap();
            let parsed = parse(&sealed).unwrap();
            assert_eq!(opener.open(&parsed), Err(OpenError::Content(error)));
        }
    }
}

#[test]
fn clear_messages_are_not_opened() {
    let (_, opener) = pair(Encr::AesGcm16(AesBits::B256), None);
    let header = samples::header(ExchangeType::Informational, true, false);
    let clear = encode(&header, &content()).unwrap();
    let parsed = parse(&clear).unwrap();
    assert_eq!(opener.open(&parsed), Err(OpenError::Kind));
    assert_eq!(opener.open_fragment(&parsed).err(), Some(OpenError::Kind));
}

#[test]
fn what_does_not_fit_is_not_sealed() {
    let header = samples::header(ExchangeType::Informational, true, false);
    let (mut sealer, _) = pair(Encr::AesGcm16(AesBits::B256), None);
    let sealed = sealer.seal(&header, &[Payload::VendorId(vec![0; 65_500])], &mut rng());
    assert!(matches!(sealed, Err(SealError::Encode(_))), "{sealed:?}");
}

#[test]
fn keys_must_have_the_size_of_the_suite() {
    let make = |encr: Encr, integ: Option<Integ>, encr_len: usize, integ_len: Option<usize>| {
        let keys = DirectionKeys {
            encr: Secret::from_slice(&vec![0; encr_len]),
            salt: [0; 4],
            integ: integ_len.map(|len| Secret::from_slice(&vec![0; len])),
        };
        Protector::new(encr, integ, keys).err()
    };
    let gcm = Encr::AesGcm16(AesBits::B256);
    let cbc = Encr::AesCbc(AesBits::B128);
    let sha1 = Some(Integ::HmacSha1_96);
    assert_eq!(make(gcm, None, 32, None), None);
    assert_eq!(make(cbc, sha1, 16, Some(20)), None);
    let short = |have, need| Some(KeyError::TooShort { have, need });
    assert_eq!(make(gcm, None, 31, None), short(31, 32));
    assert_eq!(make(gcm, None, 36, None), short(36, 32));
    assert_eq!(make(cbc, sha1, 16, Some(12)), short(12, 20));
    assert_eq!(make(gcm, None, 32, Some(20)), Some(KeyError::Suite));
    assert_eq!(make(cbc, sha1, 16, None), Some(KeyError::Suite));
    assert_eq!(make(cbc, None, 16, None), Some(KeyError::Suite));
    assert_eq!(make(gcm, sha1, 32, Some(20)), Some(KeyError::Suite));
}
