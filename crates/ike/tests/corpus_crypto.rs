//! Every input of the fuzz corpus of `ike::crypto`, on the compiler at hand; and the seeds are what they
//! should be.
//!
//! `UPDATE_CORPUS=1 cargo test -p ike --test corpus_crypto` writes the seeds anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::PathBuf};

use ike::crypto::{
    KeMethod,
    ppk::{PpkId, PpkOffer},
    public_key::SigningKey,
    signature::HashAlgorithm,
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

#[path = "support/exercise_crypto.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets share it")]
mod exercise;
#[path = "support/vectors.rs"]
mod vectors;

type Seed = (&'static str, Vec<u8>);

fn directory(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../fuzz/corpus", target]
        .iter()
        .collect()
}

/// The seeds are in the corpus as they are here, and every file goes through `exercise`, which panics
/// when something is wrong.
fn replay(target: &str, seeds: &[Seed], exercise: fn(&[u8])) {
    for (name, octets) in seeds {
        let file = directory(target).join(name);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs::create_dir_all(directory(target)).unwrap();
            fs::write(&file, octets).unwrap();
        }
        let stored = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(&stored, octets, "{}", file.display());
    }
    let mut count = 0;
    for entry in fs::read_dir(directory(target)).unwrap() {
        exercise(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= seeds.len());
}

#[test]
fn ike_proposal() {
    let seeds: Vec<Seed> = [
        ("default", "default"),
        (
            "hybrid",
            "aes256gcm16-prfsha384-ecp384-ke1_mlkem768-ke1_none",
        ),
        ("legacy", "aes256-sha1-modp2048, aes128-sha256-modp4096"),
        ("chacha", "chacha20poly1305-prfsha256-x25519"),
        (
            "choice",
            "aes256-aes128-sha256-sha1-ecp256-x25519-ke2_mlkem512-ke7_ecp521",
        ),
        (
            "esp",
            "aes256gcm16-chacha20poly1305-x25519-ke1_mlkem1024-esn-noesn",
        ),
        (
            "status",
            "AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384/KE1_ML_KEM_768",
        ),
        ("status-esp", "AES_CBC-256/HMAC_SHA2_256_128/ESN"),
        ("refused", "3des-md5-modp1024"),
    ]
    .map(|(name, text)| (name, text.into()))
    .into();
    replay("ike_proposal", &seeds, exercise::proposal);
}

#[test]
fn ike_signature() {
    let behind = |which: u8, octets: &[u8]| [&[which], octets].concat();
    let names = [
        "ecdsa256",
        "ecdsa384",
        "ecdsa512",
        "rsa256",
        "rsa384",
        "rsa512",
        "pss256",
        "pss384",
        "pss512",
        "pss-salt20",
        "ed25519",
    ];
    let file = vectors::cases(include_str!("vectors/algorithms.txt"));
    let mut seeds: Vec<Seed> = names
        .into_iter()
        .zip(&file)
        .map(|(name, case)| {
            assert!(case.text("scheme_text").len() > 6);
            (name, behind(0, &case.octets("identifier")))
        })
        .collect();
    assert_eq!(seeds.len(), file.len());
    for (name, pem) in [
        (
            "auth-p256",
            include_bytes!("vectors/pki/p256.key").as_slice(),
        ),
        ("auth-ed25519", include_bytes!("vectors/pki/ed25519.key")),
        ("auth-rsa", include_bytes!("vectors/pki/rsa.key")),
    ] {
        let key = SigningKey::new(pem).unwrap();
        let hashes = Some(&HashAlgorithm::ALL[..]);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let (_, data) = key
            .sign(hashes, b"something else", false, &mut rng)
            .unwrap();
        seeds.push((name, behind(1, &data)));
    }
    let id = PpkId::Fixed(b"bc490419-7d60-487f-adc1-4ddcc177c139".to_vec());
    let offer = PpkOffer {
        id: id.clone(),
        confirmation: [7; 8],
    };
    let hashes = HashAlgorithm::to_notify(&HashAlgorithm::ALL);
    seeds.push(("hashes", behind(2, &hashes.data)));
    seeds.push(("ppk-id", behind(3, &id.to_notify().data)));
    seeds.push(("ppk-offer", behind(4, &offer.to_notify().data)));
    replay("ike_signature", &seeds, exercise::signature);
}

#[test]
fn ike_key_exchange() {
    let names = [
        "modp2048",
        "modp3072",
        "modp4096",
        "ecp256",
        "ecp384",
        "ecp521",
        "curve25519",
        "mlkem512",
        "mlkem768",
        "mlkem1024",
    ];
    let file = vectors::cases(include_str!("vectors/ke.txt"));
    let seeds: Vec<Seed> = (0u8..)
        .zip(names.into_iter().zip(KeMethod::ALL))
        .map(|(place, (name, method))| {
            let of_method = |case: &&vectors::Case| case.text("method_text") == method.to_string();
            let case = file.iter().find(of_method).unwrap();
            (name, [vec![place], case.octets("public_i")].concat())
        })
        .collect();
    assert_eq!(seeds.len(), KeMethod::ALL.len());
    replay("ike_key_exchange", &seeds, exercise::key_exchange);
}

#[test]
fn ike_certificates() {
    let sub = exercise::der(include_bytes!("vectors/pki/sub.pem"));
    let root = exercise::der(include_bytes!("vectors/pki/root.pem"));
    let names = ["p256", "p384", "p521", "ed25519", "rsa"];
    let mut seeds: Vec<Seed> = names
        .into_iter()
        .zip(exercise::end_entities())
        .map(|(name, end)| (name, exercise::joined(&[end, sub.clone()])))
        .collect();
    let [end, ..] = exercise::end_entities();
    seeds.push(("alone", exercise::joined(std::slice::from_ref(&end))));
    seeds.push(("with-root", exercise::joined(&[end, root, sub])));
    replay("ike_certificates", &seeds, exercise::certificates);
}
