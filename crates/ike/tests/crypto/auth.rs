//! AUTH by shared key and by RSA, certificates, NAT detection.

use ike::{
    crypto::{
        Prf,
        auth::{AuthError, Signed, shared_key, signed_octets, verify_shared_key},
        nat::detection_hash,
        rsa::{Certificate, CertificateError, RsaSigner},
    },
    wire::{IdType, Identification},
};
use keys::Secret;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::vectors::cases;

const LEAF: &[u8] = include_bytes!("../vectors/rsa-leaf.der");
const AUTHORITY: &[u8] = include_bytes!("../vectors/rsa-ca.der");
const KEY: &str = include_str!("../vectors/rsa-key.pem");
const KEY_PKCS1: &str = include_str!("../vectors/rsa-key-pkcs1.pem");

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(1)
}

#[test]
fn shared_key_over_signed_octets() {
    let file = cases(include_str!("../vectors/auth.txt"));
    assert_eq!(file.len(), 4);
    for case in &file {
        let prf: Prf = case.text("prf_text").parse().unwrap();
        let int_auth = case.octets("int_auth");
        let signed = signed_octets(
            prf,
            &Signed {
                message: &case.octets("message"),
                peer_nonce: &case.octets("peer_nonce"),
                id: &Identification::fqdn(case.text("fqdn_text")),
                sk_p: &Secret::from_slice(&case.octets("sk_p")),
                int_auth: (!int_auth.is_empty()).then_some(&int_auth),
            },
        );
        assert_eq!(hex::encode(&signed), case.text("signed"));
        let secret = Secret::from_slice(&case.octets("secret"));
        let auth = shared_key(prf, &secret, &signed);
        assert_eq!(hex::encode(&auth), case.text("auth"));
        assert_eq!(verify_shared_key(prf, &secret, &signed, &auth), Ok(()));
        let mut wrong = auth.clone();
        wrong[0] ^= 1;
        for received in [&wrong[..], &auth[1..], &[]] {
            assert_eq!(
                verify_shared_key(prf, &secret, &signed, received),
                Err(AuthError::Mismatch)
            );
        }
        let other = Secret::from_slice(b"another secret");
        assert_eq!(
            verify_shared_key(prf, &other, &signed, &auth),
            Err(AuthError::Mismatch)
        );
    }
}

#[test]
fn rsa_signature_of_another_implementation() {
    let case = &cases(include_str!("../vectors/rsa.txt"))[0];
    let octets = case.text("octets_text").as_bytes();
    let certificate = Certificate::new(LEAF).unwrap();
    certificate
        .verify(octets, &case.octets("signature"))
        .unwrap();
    for key in [KEY, KEY_PKCS1] {
        let signer = RsaSigner::new(key.as_bytes()).unwrap();
        let signature = signer.sign(octets, &mut rng()).unwrap();
        assert_eq!(hex::encode(&signature), case.text("signature"));
        assert!(signer.fits(&certificate));
    }
    let mut wrong = case.octets("signature");
    wrong[200] ^= 1;
    for signature in [&wrong[..], &wrong[1..], &[]] {
        assert_eq!(
            certificate.verify(octets, signature),
            Err(AuthError::Mismatch)
        );
    }
    assert_eq!(
        certificate.verify(b"other octets", &case.octets("signature")),
        Err(AuthError::Mismatch)
    );
}

#[test]
fn keys_in_der() {
    let body: String = KEY
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    let der = base64(&body);
    let signer = RsaSigner::new(&der).unwrap();
    assert!(signer.fits(&Certificate::new(LEAF).unwrap()));
    assert!(!signer.fits(&Certificate::new(AUTHORITY).unwrap()));
    for bad in [&b""[..], b"-----BEGIN PRIVATE KEY-----", &der[..100]] {
        assert_eq!(
            RsaSigner::new(bad).err(),
            Some(CertificateError::PrivateKey)
        );
    }
}

fn base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    let (mut bits, mut have) = (0u32, 0);
    for octet in text.bytes().filter(|octet| *octet != b'=') {
        let value = alphabet.iter().position(|letter| *letter == octet).unwrap();
        bits = (bits << 6 | u32::try_from(value).unwrap()) & 0xffff;
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push(u8::try_from(bits >> have & 0xff).unwrap());
        }
    }
    out
}

#[test]
fn certificates() {
    let leaf = Certificate::new(LEAF).unwrap();
    let authority = Certificate::new(AUTHORITY).unwrap();
    assert_eq!(leaf.der(), LEAF);
    let case = &cases(include_str!("../vectors/rsa.txt"))[0];
    assert_eq!(
        hex::encode(authority.authority_hash()),
        case.text("authority_hash")
    );
    leaf.check_issuer(&authority).unwrap();
    authority.check_issuer(&authority).unwrap();
    for (certificate, issuer) in [(&leaf, &leaf), (&authority, &leaf)] {
        assert_eq!(
            certificate.check_issuer(issuer),
            Err(CertificateError::Issuer)
        );
    }
    // One octet of the signature, one of what is signed.
    for place in [LEAF.len() - 1, LEAF.len() - 300] {
        let mut forged = LEAF.to_vec();
        forged[place] ^= 1;
        let refused = Certificate::new(&forged)
            .and_then(|forged| forged.check_issuer(&authority))
            .is_err();
        assert!(refused, "octet {place}");
    }
    // Validity: the two certificates are good for a hundred years.
    assert!(leaf.is_valid_at(4_000_000_000));
    assert!(!leaf.is_valid_at(0));
    assert!(!leaf.is_valid_at(i64::MAX));
}

#[test]
fn identity_of_a_certificate() {
    let leaf = Certificate::new(LEAF).unwrap();
    assert!(leaf.is_for(&Identification::fqdn("n3iwf.example.net")));
    assert!(leaf.is_for(&Identification::fqdn("N3IWF.example.NET")));
    let address = |octets: &[u8]| Identification::new(IdType::IPV4_ADDR, octets.to_vec());
    assert!(leaf.is_for(&address(&[192, 0, 2, 1])));
    for other in [
        Identification::fqdn("n3iwf.example.org"),
        Identification::fqdn("example.net"),
        Identification::key_id(b"n3iwf.example.net".to_vec()),
        address(&[192, 0, 2, 2]),
        Identification::new(IdType::DER_ASN1_DN, vec![]),
    ] {
        assert!(!leaf.is_for(&other), "{other}");
    }
    assert!(
        !Certificate::new(AUTHORITY)
            .unwrap()
            .is_for(&Identification::fqdn("Test CA"))
    );
}

#[test]
fn a_certificate_cut_off_anywhere_is_refused() {
    for len in 0..LEAF.len() {
        assert!(Certificate::new(&LEAF[..len]).is_err(), "{len}");
    }
    let longer = [LEAF, &[0]].concat();
    assert_eq!(
        Certificate::new(&longer).err(),
        Some(CertificateError::Syntax)
    );
}

#[test]
fn nat_detection() {
    let file = cases(include_str!("../vectors/nat.txt"));
    assert_eq!(file.len(), 3);
    for case in &file {
        let spi = |name| u64::from_be_bytes(case.octets(name).try_into().unwrap());
        let address = case.text("address_text").parse().unwrap();
        assert_eq!(
            hex::encode(detection_hash(spi("spi_i"), spi("spi_r"), address)),
            case.text("hash")
        );
    }
    let of = |text: &str| detection_hash(1, 2, text.parse().unwrap());
    assert_eq!(of("[::ffff:192.0.2.1]:500"), of("192.0.2.1:500"));
    assert_ne!(of("192.0.2.1:501"), of("192.0.2.1:500"));
}
