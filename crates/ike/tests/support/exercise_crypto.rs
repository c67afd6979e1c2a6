//! What the fuzz targets of `ike::crypto` do with an input; the corpus test does the same on any
//! compiler.

use ike::{
    crypto::{
        ChildSuite, EspSuite, IkeSuite, KeError, KeMethod,
        auth::AuthError,
        certificate::TrustAnchors,
        ppk::{PpkId, PpkOffer},
        public_key::{PublicKey, SigningKey},
        signature::{HashAlgorithm, Scheme},
    },
    wire::{AuthMethod, Identification, NotifyType},
};
use rand_core::{Infallible, TryCryptoRng, TryRng};

const ROOT: &[u8] = include_bytes!("../vectors/pki/root.pem");

/// Within the validity of everything in `pki/`.
const NOW: i64 = 1_800_000_000;

/// Configuration text: a list of proposals, or one suite.
pub fn proposal(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match IkeSuite::from_keywords(text) {
        Ok(suites) => {
            assert!((1..=255).contains(&suites.len()));
            for suite in suites {
                assert_eq!(suite.to_keywords().parse(), Ok(suite));
                assert_eq!(suite.to_string().parse(), Ok(suite));
                // What is offered can be chosen, and the choice is recognised.
                let offer = IkeSuite::offer(&[suite], &[]);
                let chosen = IkeSuite::select(&[suite], &offer).expect("our own offer");
                let answer = chosen.answer(Vec::new());
                assert!(IkeSuite::accepted(&[suite], &answer).is_some());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(suites) = ChildSuite::from_keywords(text) {
        assert!((1..=255).contains(&suites.len()));
        for suite in suites {
            assert_eq!(suite.to_keywords().parse(), Ok(suite));
            assert_eq!(suite.to_string().parse(), Ok(suite));
        }
    }
    if let Ok(suite) = text.parse::<IkeSuite>() {
        assert_eq!(suite.to_string().parse(), Ok(suite));
    }
    if let Ok(suite) = text.parse::<EspSuite>() {
        assert_eq!(suite.to_string().parse(), Ok(suite));
        assert_eq!(text.parse(), Ok(ChildSuite::from(suite)));
    }
}

/// AUTH data and the notifications around it: first octet says which.
pub fn signature(input: &[u8]) {
    let Some((which, data)) = input.split_first() else {
        return;
    };
    match which {
        0 => {
            if let Ok(scheme) = Scheme::from_algorithm_identifier(data) {
                let again = scheme.algorithm_identifier();
                assert_eq!(Scheme::from_algorithm_identifier(&again), Ok(scheme));
            }
        }
        1 => {
            for key in keys() {
                for method in [1, 9, 10, 11, 14].map(AuthMethod) {
                    let read = key.verify(method, data, b"no signature of this exists", true);
                    assert!(matches!(
                        read,
                        Err(AuthError::Algorithm | AuthError::Mismatch)
                    ));
                }
            }
        }
        2 => match HashAlgorithm::from_data(data) {
            Ok(list) => {
                let notify = HashAlgorithm::to_notify(&list);
                assert_eq!(HashAlgorithm::from_data(&notify.data), Ok(list));
            }
            Err(error) => {
                assert_eq!(data.len() % 2, 1);
                assert_eq!(error.notify().kind, NotifyType::INVALID_SYNTAX);
            }
        },
        3 => {
            if let Ok(id) = PpkId::from_data(data) {
                assert_eq!(id.to_notify().data, data);
                assert!(!id.to_string().is_empty());
            }
        }
        4 => {
            if let Ok(offer) = PpkOffer::from_data(data) {
                assert_eq!(offer.to_notify().data, data);
            }
        }
        _ => {}
    }
}

/// A public value: first octet is the method's place. As it is, and cut or filled up to the length.
pub fn key_exchange(input: &[u8]) {
    let Some((which, value)) = input.split_first() else {
        return;
    };
    let Some(method) = KeMethod::ALL.get(usize::from(*which)) else {
        return;
    };
    let mut fitting = value.to_vec();
    fitting.resize(method.initiator_len(), 0);
    for value in [value, &fitting] {
        match method.respond(value, &mut Counter(0)) {
            Ok((public, shared)) => {
                assert_eq!(value.len(), method.initiator_len());
                assert_eq!(public.len(), method.responder_len());
                assert_eq!(shared.len(), method.shared_len());
                assert!(shared.expose().iter().any(|octet| *octet != 0));
            }
            Err(KeError::Length { have, need, .. }) => assert_ne!(have, need),
            Err(error) => assert_eq!(error, KeError::Value(*method)),
        }
    }
    let secret = method.generate(&mut Counter(1));
    fitting.resize(method.responder_len(), 0);
    match secret.finish(&fitting) {
        Ok(shared) => assert_eq!(shared.len(), method.shared_len()),
        Err(error) => assert_eq!(error, KeError::Value(*method)),
    }
}

/// Numbers that are not random, so that an input always does the same.
struct Counter(u8);

impl TryRng for Counter {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.0 = self.0.wrapping_add(1);
        Ok(self.0.into())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.try_next_u32().map(Into::into)
    }

    fn try_fill_bytes(&mut self, octets: &mut [u8]) -> Result<(), Infallible> {
        for octet in octets {
            self.0 = self.0.wrapping_add(1);
            *octet = self.0;
        }
        Ok(())
    }
}

impl TryCryptoRng for Counter {}

/// A certificate chain: each certificate behind its length (2).
pub fn certificates(input: &[u8]) {
    let chain = split(input);
    let roots = TrustAnchors::new(ROOT).expect("a root");
    let id = Identification::fqdn("n3iwf.example.net");
    if roots.verify(&chain, NOW, &id).is_ok() {
        // Only what an authority signed: the end entities of `pki/`, octet for octet.
        let known = end_entities();
        assert!(chain.first().is_some_and(|first| known.contains(first)));
    }
    for certificate in &chain {
        // As authority, key and certificate file: any answer will do, as long as there is one.
        drop(TrustAnchors::new(certificate));
        drop(PublicKey::from_spki(certificate));
        drop(SigningKey::new(certificate));
    }
}

/// A chain as `certificates` reads it.
pub fn joined(chain: &[Vec<u8>]) -> Vec<u8> {
    chain
        .iter()
        .flat_map(|certificate| {
            let length = u16::try_from(certificate.len()).expect("a small certificate");
            [&length.to_be_bytes(), certificate.as_slice()].concat()
        })
        .collect()
}

/// The end entities of `pki/` in DER.
pub fn end_entities() -> [Vec<u8>; 5] {
    [
        include_bytes!("../vectors/pki/p256.pem").as_slice(),
        include_bytes!("../vectors/pki/p384.pem"),
        include_bytes!("../vectors/pki/p521.pem"),
        include_bytes!("../vectors/pki/ed25519.pem"),
        include_bytes!("../vectors/pki/rsa.pem"),
    ]
    .map(der)
}

/// The one certificate of a PEM file in DER.
pub fn der(pem: &[u8]) -> Vec<u8> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).expect("PEM");
    pem.contents
}

fn split(mut input: &[u8]) -> Vec<Vec<u8>> {
    let mut chain = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (certificate, rest) = rest.split_at(length);
        chain.push(certificate.to_vec());
        input = rest;
    }
    chain
}

fn keys() -> Vec<PublicKey> {
    end_entities()
        .iter()
        .map(|der| {
            let (_, parsed) = x509_parser::parse_x509_certificate(der).expect("a certificate");
            PublicKey::from_spki(parsed.public_key().raw).expect("a key")
        })
        .collect()
}
