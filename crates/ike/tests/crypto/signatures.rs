//! Signatures in AUTH: those of OpenSSL, our own, and everything that is none.

use ike::{
    crypto::{
        auth::AuthError,
        public_key::{PublicKey, SigningKey},
        rsa::CertificateError,
        signature::{HashAlgorithm, Scheme, Sha2},
    },
    wire::{AuthMethod, Notify, NotifyType, WireError},
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rsa::pkcs8::DecodePublicKey;

use crate::vectors::cases;

macro_rules! pki {
    ($name:literal) => {
        include_bytes!(concat!("../vectors/pki/", $name)).as_slice()
    };
}

const SIGNED: &[u8] = pki!("signed");

const KEYS: [&[u8]; 5] = [
    pki!("p256.key"),
    pki!("p384.key"),
    pki!("p521.key"),
    pki!("ed25519.key"),
    pki!("rsa.key"),
];

const CERTIFICATES: [&[u8]; 5] = [
    pki!("p256.pem"),
    pki!("p384.pem"),
    pki!("p521.pem"),
    pki!("ed25519.pem"),
    pki!("rsa.pem"),
];

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(3)
}

fn spki(pem: &[u8]) -> Vec<u8> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).unwrap();
    let certificate = pem.parse_x509().unwrap();
    certificate.public_key().raw.to_vec()
}

fn public(place: usize) -> PublicKey {
    PublicKey::from_spki(&spki(CERTIFICATES[place])).unwrap()
}

fn private(place: usize) -> SigningKey {
    SigningKey::new(KEYS[place]).unwrap()
}

/// AUTH data of method 14 from parts.
fn data(identifier: &[u8], signature: &[u8]) -> Vec<u8> {
    let length = u8::try_from(identifier.len()).unwrap();
    [&[length], identifier, signature].concat()
}

fn verify14(place: usize, scheme: Scheme, signature: &[u8]) -> Result<(), AuthError> {
    let data = data(&scheme.algorithm_identifier(), signature);
    public(place).verify(AuthMethod::DIGITAL_SIGNATURE, &data, SIGNED, false)
}

#[test]
fn algorithm_identifiers() {
    let file = cases(include_str!("../vectors/algorithms.txt"));
    assert_eq!(file.len(), 11);
    for case in &file {
        let identifier = case.octets("identifier");
        let scheme = Scheme::from_algorithm_identifier(&identifier).unwrap();
        assert_eq!(format!("{scheme:?}"), case.text("scheme_text"));
        assert_eq!(
            hex::encode(scheme.algorithm_identifier()),
            case.text("identifier")
        );
        // Nothing behind it, and nothing missing.
        for len in 0..identifier.len() {
            let cut = Scheme::from_algorithm_identifier(&identifier[..len]);
            assert_eq!(cut, Err(AuthError::Algorithm));
        }
        let longer = [&identifier[..], &[0]].concat();
        let read = Scheme::from_algorithm_identifier(&longer);
        assert_eq!(read, Err(AuthError::Algorithm));
    }
}

#[test]
fn other_spellings_of_algorithms() {
    let read = |text: &str| Scheme::from_algorithm_identifier(&hex::decode(text).unwrap());
    // sha256WithRSAEncryption without NULL.
    assert_eq!(
        read("300b06092a864886f70d01010b"),
        Ok(Scheme::RsaPkcs1(Sha2::Sha256))
    );
    // RSASSA-PSS, hashes without NULL.
    let bare = "303d06092a864886f70d01010a3030a00d300b0609608648016503040201\
        a11a301806092a864886f70d010108300b0609608648016503040201a203020120";
    assert_eq!(read(bare), Ok(Scheme::RsaPss(Sha2::Sha256, 32)));
    for refused in [
        // Parameters of RSASSA-PSS: absent, empty (SHA-1), MGF1 with another hash, a longer salt.
        "300b06092a864886f70d01010a".to_owned(),
        "300d06092a864886f70d01010a3000".to_owned(),
        bare.replacen("0402 01", "040202", 1)
            .replacen("03040201a1", "03040202a1", 1),
        bare.replace("a203020120", "a203020121"),
        // sha1WithRSAEncryption, ecdsa-with-SHA1, ecdsa-with-SHA224, id-Ed448, MD5.
        "300d06092a864886f70d0101050500".to_owned(),
        "300906072a8648ce3d0401".to_owned(),
        "300a06082a8648ce3d040301".to_owned(),
        "300506032b6571".to_owned(),
        "300d06092a864886f70d0101040500".to_owned(),
        // Parameters where there are none.
        "300c06082a8648ce3d0403020500".to_owned(),
        "300706032b65700500".to_owned(),
        String::new(),
    ] {
        assert_eq!(read(&refused), Err(AuthError::Algorithm), "{refused}");
    }
}

#[test]
fn signatures_of_openssl() {
    let ecdsa: [(usize, Sha2, &[u8]); 9] = [
        (0, Sha2::Sha256, pki!("p256-sha256.sig")),
        (0, Sha2::Sha384, pki!("p256-sha384.sig")),
        (0, Sha2::Sha512, pki!("p256-sha512.sig")),
        (1, Sha2::Sha256, pki!("p384-sha256.sig")),
        (1, Sha2::Sha384, pki!("p384-sha384.sig")),
        (1, Sha2::Sha512, pki!("p384-sha512.sig")),
        (2, Sha2::Sha256, pki!("p521-sha256.sig")),
        (2, Sha2::Sha384, pki!("p521-sha384.sig")),
        (2, Sha2::Sha512, pki!("p521-sha512.sig")),
    ];
    let mut all: Vec<(usize, Scheme, &[u8])> = ecdsa
        .into_iter()
        .map(|(place, hash, signature)| (place, Scheme::Ecdsa(hash), signature))
        .collect();
    all.extend([
        (3, Scheme::Ed25519, pki!("ed25519.sig")),
        (4, Scheme::RsaPkcs1(Sha2::Sha256), pki!("rsa-sha256.sig")),
        (4, Scheme::RsaPkcs1(Sha2::Sha384), pki!("rsa-sha384.sig")),
        (4, Scheme::RsaPkcs1(Sha2::Sha512), pki!("rsa-sha512.sig")),
        (4, Scheme::RsaPss(Sha2::Sha256, 32), pki!("rsa-pss256.sig")),
        (4, Scheme::RsaPss(Sha2::Sha384, 48), pki!("rsa-pss384.sig")),
        (4, Scheme::RsaPss(Sha2::Sha512, 64), pki!("rsa-pss512.sig")),
        (
            4,
            Scheme::RsaPss(Sha2::Sha256, 20),
            pki!("rsa-pss256-salt20.sig"),
        ),
    ]);
    for (place, scheme, signature) in &all {
        assert_eq!(verify14(*place, *scheme, signature), Ok(()), "{scheme:?}");
        let mut spoiled = signature.to_vec();
        *spoiled.last_mut().unwrap() ^= 1;
        let mismatch = Err(AuthError::Mismatch);
        assert_eq!(verify14(*place, *scheme, &spoiled), mismatch, "{scheme:?}");
        for len in [0, 1, signature.len() - 1] {
            let cut = verify14(*place, *scheme, &signature[..len]);
            assert_eq!(cut, mismatch, "{scheme:?}");
        }
        // With any other scheme or key it is none.
        for (other_place, other, _) in &all {
            if (other_place, other) != (place, scheme) {
                let read = verify14(*other_place, *other, signature);
                assert!(read.is_err(), "{scheme:?} as {other:?} of {other_place}");
            }
        }
        let data = data(&scheme.algorithm_identifier(), signature);
        let read = public(*place).verify(AuthMethod::DIGITAL_SIGNATURE, &data, b"other", false);
        assert_eq!(read, mismatch);
    }
}

#[test]
fn sha1_only_where_it_is_allowed() {
    let key = public(4);
    let signature = pki!("rsa-sha1.sig");
    let verify = |allow| key.verify(AuthMethod::RSA, signature, SIGNED, allow);
    assert_eq!(verify(true), Ok(()));
    assert_eq!(verify(false), Err(AuthError::Algorithm));
    let read = key.verify(AuthMethod::RSA, signature, b"other", true);
    assert_eq!(read, Err(AuthError::Mismatch));
    let signer = private(4);
    let (method, data) = signer.sign(None, SIGNED, true, &mut rng()).unwrap();
    assert_eq!((method, data.as_slice()), (AuthMethod::RSA, signature));
    let refused = signer.sign(None, SIGNED, false, &mut rng());
    assert_eq!(refused, Err(AuthError::Algorithm));
}

#[test]
fn what_we_sign_verifies() {
    let best = [
        Scheme::Ecdsa(Sha2::Sha256),
        Scheme::Ecdsa(Sha2::Sha384),
        Scheme::Ecdsa(Sha2::Sha512),
        Scheme::Ed25519,
        Scheme::RsaPss(Sha2::Sha256, 32),
    ];
    for (place, scheme) in best.into_iter().enumerate() {
        let all = Some(&HashAlgorithm::ALL[..]);
        let (method, data) = private(place).sign(all, SIGNED, false, &mut rng()).unwrap();
        assert_eq!(method, AuthMethod::DIGITAL_SIGNATURE);
        assert_eq!(Scheme::from_auth_data(&data).unwrap().0, scheme);
        assert_eq!(public(place).verify(method, &data, SIGNED, false), Ok(()));
        let mismatch = Err(AuthError::Mismatch);
        assert_eq!(public(place).verify(method, &data, b"", false), mismatch);
        // Only what the peer announced.
        for hash in HashAlgorithm::ALL {
            match private(place).sign(Some(&[hash]), SIGNED, false, &mut rng()) {
                Ok((method, data)) => {
                    assert_eq!(Scheme::from_auth_data(&data).unwrap().0.hash(), hash);
                    assert_eq!(public(place).verify(method, &data, SIGNED, false), Ok(()));
                }
                Err(error) => {
                    assert_eq!(error, AuthError::Algorithm);
                    let identity = hash == HashAlgorithm::Identity;
                    assert!(identity != (place == 3) || place == 2, "{place} {hash:?}");
                }
            }
        }
        let none = private(place).sign(Some(&[]), SIGNED, true, &mut rng());
        assert_eq!(none, Err(AuthError::Algorithm));
    }
}

#[test]
fn methods_9_to_11() {
    for (place, method, len) in [
        (0, AuthMethod::ECDSA_256, 64),
        (1, AuthMethod::ECDSA_384, 96),
        (2, AuthMethod::ECDSA_521, 132),
    ] {
        let (made, data) = private(place)
            .sign(None, SIGNED, false, &mut rng())
            .unwrap();
        assert_eq!((made, data.len()), (method, len));
        let key = public(place);
        assert_eq!(key.verify(method, &data, SIGNED, false), Ok(()));
        let mismatch = Err(AuthError::Mismatch);
        assert_eq!(key.verify(method, &data[1..], SIGNED, false), mismatch);
        assert_eq!(key.verify(method, &vec![0; len], SIGNED, false), mismatch);
        assert_eq!(key.verify(method, &data, b"other", false), mismatch);
        for other in [
            AuthMethod::RSA,
            AuthMethod::SHARED_KEY,
            AuthMethod::NULL,
            AuthMethod(200),
        ] {
            let read = key.verify(other, &data, SIGNED, true);
            assert_eq!(read, Err(AuthError::Algorithm), "{other}");
        }
    }
    let refused = private(3).sign(None, SIGNED, true, &mut rng());
    assert_eq!(refused, Err(AuthError::Algorithm));
}

#[test]
fn auth_data_cut_off_anywhere() {
    let all = Some(&HashAlgorithm::ALL[..]);
    let (_, data) = private(0).sign(all, SIGNED, false, &mut rng()).unwrap();
    let verify = |data: &[u8]| public(0).verify(AuthMethod::DIGITAL_SIGNATURE, data, SIGNED, false);
    assert_eq!(verify(&data), Ok(()));
    for len in 0..data.len() {
        assert!(verify(&data[..len]).is_err(), "{len}");
    }
    assert!(verify(&[&data[..], &[0]].concat()).is_err());
}

#[test]
fn keys_and_their_certificates() {
    for (place, key) in KEYS.into_iter().enumerate() {
        for (other, certificate) in CERTIFICATES.into_iter().enumerate() {
            let fits = private(place).fits(&spki(certificate));
            assert_eq!(fits, place == other, "{place} {other}");
        }
        let (_, der) = x509_parser::pem::parse_x509_pem(key).unwrap();
        assert!(
            SigningKey::new(&der.contents)
                .unwrap()
                .fits(&spki(CERTIFICATES[place]))
        );
        assert!(SigningKey::new(&der.contents[..20]).is_err());
    }
    let sec1 = SigningKey::new(pki!("p256-sec1.key")).unwrap();
    assert!(sec1.fits(&spki(CERTIFICATES[0])));
    let pkcs1 = include_bytes!("../vectors/rsa-key-pkcs1.pem");
    assert!(SigningKey::new(pkcs1).is_ok());
    for bad in [&b""[..], b"-----BEGIN PRIVATE KEY-----", CERTIFICATES[0]] {
        let read = SigningKey::new(bad).err();
        assert_eq!(read, Some(CertificateError::PrivateKey));
    }
    let error = Some(CertificateError::PublicKey);
    assert_eq!(PublicKey::from_spki(&[]).err(), error);
    assert_eq!(
        PublicKey::from_spki(&spki(CERTIFICATES[4])[1..]).err(),
        error
    );
    // 1024 bits.
    let short = hex::decode(concat!(
        "30819f300d06092a864886f70d010101050003818d0030818902818100",
        "c1c2c3c4c5c6c7c8c1c2c3c4c5c6c7c8c1c2c3c4c5c6c7c8c1c2c3c4c5c6c7c8",
        "c1c2c3c4c5c6c7c8c1c2c3c4c5c6c7c8c1c2c3c4c5c6c7c8c1c2c3c4c5c6c7c8",
        "c1c2c3c4c5c6c7c8c1c2c3c4c5c6c7c8c1c2c3c4c5c6c7c8c1c2c3c4c5c6c7c8",
        "c1c2c3c4c5c6c7c8c1c2c3c4c5c6c7c8c1c2c3c4c5c6c7c8c1c2c3c4c5c6c7c9",
        "0203010001"
    ))
    .unwrap();
    assert!(rsa::RsaPublicKey::from_public_key_der(&short).is_ok());
    assert_eq!(PublicKey::from_spki(&short).err(), error);
}

#[test]
fn hash_algorithms() {
    let notify = HashAlgorithm::to_notify(&HashAlgorithm::ALL);
    assert_eq!(
        notify,
        Notify::status(
            NotifyType::SIGNATURE_HASH_ALGORITHMS,
            vec![0, 2, 0, 3, 0, 4, 0, 5]
        )
    );
    let read = HashAlgorithm::from_data;
    assert_eq!(read(&notify.data), Ok(HashAlgorithm::ALL.to_vec()));
    assert_eq!(read(&[]), Ok(vec![]));
    // SHA-1 and unknown numbers are passed over, doubles counted once.
    assert_eq!(
        read(&[0, 1, 0, 4, 0xff, 0xff, 0, 4]),
        Ok(vec![HashAlgorithm::Sha2_512])
    );
    assert!(matches!(read(&[0, 2, 0]), Err(WireError::Truncated(_))));
}
