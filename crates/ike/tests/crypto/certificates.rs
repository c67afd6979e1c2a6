//! Certificate chains: those of OpenSSL, and every way in which one leads nowhere.

use std::net::IpAddr;

use ike::{
    crypto::{
        certificate::{Credential, MAX_CHAIN, TrustAnchors, VerifiedPeer, chain_of},
        public_key::SigningKey,
        rsa::CertificateError,
        signature::HashAlgorithm,
    },
    wire::{CertEncoding, IdType, Identification, Payload},
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, SanType, date_time_ymd,
};

const NAME: &str = "n3iwf.example.net";

/// 2026-01-01, within the validity of everything here that is not made to be invalid.
const NOW: i64 = 1_767_225_600;

fn fqdn() -> Identification {
    Identification::fqdn(NAME)
}

fn der(pem: &[u8]) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem).unwrap().1.contents
}

mod openssl {
    pub(super) const ROOT: &[u8] = include_bytes!("../vectors/pki/root.pem");
    pub(super) const SUB: &[u8] = include_bytes!("../vectors/pki/sub.pem");
    pub(super) const P256: &[u8] = include_bytes!("../vectors/pki/p256.pem");
    pub(super) const P256_KEY: &[u8] = include_bytes!("../vectors/pki/p256.key");
    pub(super) const RSA: &[u8] = include_bytes!("../vectors/pki/rsa.pem");
    pub(super) const RSA_KEY: &[u8] = include_bytes!("../vectors/pki/rsa.key");
    pub(super) const ED25519: &[u8] = include_bytes!("../vectors/pki/ed25519.pem");
    /// When they were made, and a bit.
    pub(super) const NOW: i64 = 1_800_000_000;
}

#[test]
fn chains_of_openssl() {
    let roots = TrustAnchors::new(openssl::ROOT).unwrap();
    let end = der(openssl::P256);
    let chain = [end.clone(), der(openssl::SUB)];
    let verify = |id: &Identification| roots.verify(&chain, openssl::NOW, id);
    let peer = verify(&fqdn()).unwrap();
    assert_eq!(peer.subject, "O=Test, CN=p256");
    assert!(peer.not_after > openssl::NOW + 3_000_000_000);

    let ip = |text: &str| match text.parse().unwrap() {
        IpAddr::V4(ip) => Identification::new(IdType::IPV4_ADDR, ip.octets().to_vec()),
        IpAddr::V6(ip) => Identification::new(IdType::IPV6_ADDR, ip.octets().to_vec()),
    };
    let (_, parsed) = x509_parser::parse_x509_certificate(&end).unwrap();
    let subject = parsed.subject().as_raw().to_vec();
    for id in [
        Identification::fqdn("N3IWF.Example.NET"),
        Identification::new(IdType::RFC822_ADDR, b"n3iwf@example.net".to_vec()),
        Identification::new(IdType::DER_ASN1_DN, subject.clone()),
        ip("192.0.2.1"),
        ip("2001:db8::1"),
    ] {
        assert!(verify(&id).is_ok(), "{id}");
        assert!(peer.is_for(&id), "{id}");
    }
    for id in [
        Identification::fqdn("example.net"),
        Identification::fqdn("n3iwf.example.net."),
        Identification::fqdn("*.example.net"),
        Identification::fqdn(""),
        Identification::new(IdType::RFC822_ADDR, NAME.into()),
        Identification::new(IdType::DER_ASN1_DN, subject[1..].to_vec()),
        Identification::key_id(NAME.into()),
        Identification::new(IdType::NULL, vec![]),
        ip("192.0.2.2"),
        Identification::new(IdType::IPV6_ADDR, vec![192, 0, 2]),
    ] {
        assert_eq!(verify(&id).err(), Some(CertificateError::Name), "{id}");
        assert!(!peer.is_for(&id), "{id}");
    }

    for end in [openssl::RSA, openssl::ED25519] {
        let chain = [der(end), der(openssl::SUB)];
        assert!(roots.verify(&chain, openssl::NOW, &fqdn()).is_ok());
    }
    let error = |chain: &[Vec<u8>]| roots.verify(chain, openssl::NOW, &fqdn()).err();
    assert_eq!(error(&[]), Some(CertificateError::Missing));
    assert_eq!(error(&chain[..1]), Some(CertificateError::Untrusted));
    let turned = [chain[1].clone(), chain[0].clone()];
    assert_eq!(
        error(&turned),
        Some(CertificateError::Usage),
        "authority first"
    );
    let many = vec![end; MAX_CHAIN + 1];
    assert_eq!(error(&many), Some(CertificateError::TooMany));
    for len in (0..chain[0].len()).step_by(7) {
        let cut = [chain[0][..len].to_vec(), chain[1].clone()];
        assert_eq!(error(&cut), Some(CertificateError::Syntax), "{len}");
    }
    for len in (0..chain[1].len()).step_by(7) {
        let cut = [chain[0].clone(), chain[1][..len].to_vec()];
        assert!(error(&cut).is_some(), "{len}");
    }
    let before = roots.verify(&chain, 1_000_000_000, &fqdn()).err();
    assert!(before.is_some());
    assert_eq!(
        roots.verify(&chain, -1, &fqdn()).err(),
        Some(CertificateError::Validity)
    );
    // The one below is trusted as well as any.
    let sub = TrustAnchors::new(openssl::SUB).unwrap();
    assert!(sub.verify(&chain[..1], openssl::NOW, &fqdn()).is_ok());
}

#[test]
fn no_bit_of_a_certificate_may_be_changed() {
    let roots = TrustAnchors::new(openssl::ROOT).unwrap();
    let chain = [der(openssl::P256), der(openssl::SUB)];
    for place in 0..chain[0].len() {
        let mut spoiled = chain.clone();
        spoiled[0][place] ^= 0x04;
        assert!(
            roots.verify(&spoiled, openssl::NOW, &fqdn()).is_err(),
            "{place}"
        );
    }
}

#[test]
fn auth_under_a_verified_chain() {
    let roots = TrustAnchors::new(openssl::ROOT).unwrap();
    for (certificate, key) in [
        (openssl::P256, openssl::P256_KEY),
        (openssl::RSA, openssl::RSA_KEY),
    ] {
        let file = [certificate, openssl::SUB, openssl::ROOT].concat();
        let ours = Credential::new(&file, key).unwrap();
        assert!(ours.is_for(&fqdn()));
        let payloads = ours.payloads();
        assert_eq!(payloads.len(), 2, "without the root");
        let peer = roots
            .verify(&chain_of(&payloads), openssl::NOW, &fqdn())
            .unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let hashes = Some(&HashAlgorithm::ALL[..]);
        let (method, data) = ours.key().sign(hashes, b"octets", false, &mut rng).unwrap();
        assert_eq!(peer.key.verify(method, &data, b"octets", false), Ok(()));
    }
    let wrong = Credential::new(openssl::P256, openssl::RSA_KEY).err();
    assert_eq!(wrong, Some(CertificateError::OtherKey));
    let none = Credential::new(b"", openssl::RSA_KEY).err();
    assert_eq!(none, Some(CertificateError::Syntax));
}

#[test]
fn requests() {
    let both = TrustAnchors::new(&[openssl::ROOT, openssl::SUB].concat()).unwrap();
    let root = TrustAnchors::new(openssl::ROOT).unwrap();
    assert_eq!(both.hashes().len(), 2);
    let Payload::CertReq {
        encoding: CertEncoding::X509_SIGNATURE,
        authorities,
    } = both.request()
    else {
        panic!("a request for X.509");
    };
    assert_eq!(authorities, both.hashes().concat());
    let sub = &both.hashes()[1][..];
    let alone = Credential::new(openssl::P256, openssl::P256_KEY).unwrap();
    let whole = [openssl::P256, openssl::SUB].concat();
    let whole = Credential::new(&whole, openssl::P256_KEY).unwrap();
    for (credential, roots, request, answers) in [
        (&whole, &root, &authorities[..], true),
        (&whole, &root, sub, true),
        (&whole, &root, &root.hashes()[0], true),
        (&whole, &root, &[], true),
        (&whole, &root, &[7; 20], false),
        (&whole, &root, &[7; 19], false),
        (&alone, &root, sub, false),
        (&alone, &both, sub, true),
        (&alone, &root, &root.hashes()[0], false),
    ] {
        assert_eq!(credential.answers(request, roots), answers);
    }
    for (bad, error) in [
        (&b""[..], CertificateError::Syntax),
        (openssl::P256, CertificateError::Usage),
        (openssl::P256_KEY, CertificateError::Missing),
    ] {
        assert_eq!(TrustAnchors::new(bad).err(), Some(error));
    }
    let other = Payload::Cert {
        encoding: CertEncoding::X509_HASH_URL,
        data: vec![1],
    };
    assert!(chain_of(&[other, Payload::Eap(vec![])]).is_empty());
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    change(&mut params);
    params
}

fn root(change: impl FnOnce(&mut CertificateParams)) -> Issuer {
    let key = KeyPair::generate().unwrap();
    CertifiedIssuer::self_signed(authority("root", change), key).unwrap()
}

fn below(issuer: &Issuer, change: impl FnOnce(&mut CertificateParams)) -> Issuer {
    let key = KeyPair::generate().unwrap();
    CertifiedIssuer::signed_by(authority("sub", change), key, issuer).unwrap()
}

fn end(issuer: &Issuer, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "end");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, issuer).unwrap().der().to_vec()
}

fn verify(root: &Issuer, chain: &[Vec<u8>], now: i64) -> Result<VerifiedPeer, CertificateError> {
    TrustAnchors::new(root.der())?.verify(chain, now, &fqdn())
}

/// Root, one authority below and the end entity, each with a change, at the usual time.
fn with(
    change_root: impl FnOnce(&mut CertificateParams),
    change_sub: impl FnOnce(&mut CertificateParams),
    change_end: impl FnOnce(&mut CertificateParams),
) -> Option<CertificateError> {
    let root = root(change_root);
    let sub = below(&root, change_sub);
    let chain = [end(&sub, change_end), sub.der().to_vec()];
    verify(&root, &chain, NOW).err()
}

fn same(_: &mut CertificateParams) {}

#[test]
fn validity() {
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2025, 1, 1);
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(2027, 1, 1);
    assert_eq!(with(same, same, same), None);
    let error = Some(CertificateError::Validity);
    assert_eq!(with(same, same, expired), error);
    assert_eq!(with(same, same, early), error);
    assert_eq!(with(same, expired, same), error);
    assert_eq!(with(same, early, same), error);
    let untrusted = Some(CertificateError::Untrusted);
    assert_eq!(with(expired, same, same), untrusted);
    assert_eq!(with(early, same, same), untrusted);
}

#[test]
fn usage() {
    let error = Some(CertificateError::Usage);
    let usage = |usage: KeyUsagePurpose| {
        move |params: &mut CertificateParams| params.key_usages = vec![usage]
    };
    let purpose = |purpose: ExtendedKeyUsagePurpose| {
        move |params: &mut CertificateParams| params.extended_key_usages = vec![purpose]
    };
    let no_usage = |params: &mut CertificateParams| params.key_usages.clear();
    assert_eq!(with(same, same, no_usage), None);
    assert_eq!(with(no_usage, no_usage, no_usage), None);
    assert_eq!(
        with(same, same, usage(KeyUsagePurpose::ContentCommitment)),
        None
    );
    assert_eq!(
        with(same, same, usage(KeyUsagePurpose::KeyEncipherment)),
        error
    );
    assert_eq!(with(same, usage(KeyUsagePurpose::CrlSign), same), error);
    assert_eq!(with(usage(KeyUsagePurpose::CrlSign), same, same), error);
    for fits in [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::Any,
        ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17]),
    ] {
        assert_eq!(with(same, same, purpose(fits)), None);
    }
    let mail = purpose(ExtendedKeyUsagePurpose::EmailProtection);
    assert_eq!(with(same, same, mail), error);
    // An end entity that is an authority, and authorities that are none.
    let is_ca = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    let is_none = |params: &mut CertificateParams| params.is_ca = IsCa::ExplicitNoCa;
    assert_eq!(with(same, same, is_ca), error);
    assert_eq!(with(same, is_none, same), error);
    assert_eq!(with(is_none, same, same), error);
}

#[test]
fn chains_that_lead_elsewhere() {
    let untrusted = Some(CertificateError::Untrusted);
    let trusted = root(same);
    // Another root of the same name.
    let other = root(same);
    let leaf = end(&other, same);
    assert_eq!(
        verify(&trusted, std::slice::from_ref(&leaf), NOW).err(),
        untrusted
    );
    assert_eq!(verify(&other, std::slice::from_ref(&leaf), NOW).err(), None);
    // A stranger's root in the chain is no authority for that.
    let chain = [leaf, other.der().to_vec()];
    assert_eq!(verify(&trusted, &chain, NOW).err(), untrusted);
    // No authority below one that may have none.
    let no_path = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    };
    let sub = below(&trusted, no_path);
    let deeper = below(&sub, |params| {
        params
            .distinguished_name
            .push(DnType::OrganizationName, "deeper");
    });
    let chain = [
        end(&deeper, same),
        deeper.der().to_vec(),
        sub.der().to_vec(),
    ];
    assert_eq!(verify(&trusted, &chain, NOW).err(), untrusted);
    // Name constraints.
    let elsewhere = |params: &mut CertificateParams| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".into())],
            excluded_subtrees: vec![],
        });
    };
    assert_eq!(with(same, elsewhere, same), untrusted);
}

#[test]
fn names() {
    let name = Some(CertificateError::Name);
    let none = |params: &mut CertificateParams| params.subject_alt_names.clear();
    assert_eq!(with(same, same, none), name);
    // The common name is no name of a host.
    let common = |params: &mut CertificateParams| {
        params.subject_alt_names.clear();
        params.distinguished_name.push(DnType::CommonName, NAME);
    };
    assert_eq!(with(same, same, common), name);
    let wildcard = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![SanType::DnsName("*.example.net".try_into().unwrap())];
    };
    assert_eq!(with(same, same, wildcard), name);
    let several = |params: &mut CertificateParams| {
        let first = SanType::DnsName("a.example.net".try_into().unwrap());
        params.subject_alt_names.insert(0, first);
    };
    assert_eq!(with(same, same, several), None);
}

#[test]
fn keys_of_rcgen_are_read() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert!(SigningKey::new(key.serialize_pem().as_bytes()).is_ok());
        assert!(SigningKey::new(&key.serialize_der()).is_ok());
    }
}

#[test]
fn a_certificate_is_described() {
    use ike::crypto::certificate::Description;
    let pem = include_bytes!("../vectors/pki/p256.pem");
    let key = include_bytes!("../vectors/pki/p256.key");
    let said = Credential::new(pem, key).unwrap().describe().unwrap();
    let names: Vec<String> = said.names.iter().map(ToString::to_string).collect();
    let expected = [
        "n3iwf.example.net",
        "192.0.2.1",
        "2001:db8::1",
        "n3iwf@example.net",
    ];
    assert_eq!(&names[..4], expected);
    assert_eq!((names.len(), said.authority), (5, false), "and the subject");
    assert!(said.subject.contains("CN=p256") && said.not_before < said.not_after);
    assert!(Description::of(b"no certificate").is_err());
}
