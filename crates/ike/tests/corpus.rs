//! Every input of the fuzz corpus, on the compiler at hand; and the seeds are what they should be.
//!
//! `UPDATE_CORPUS=1 cargo test -p ike --test corpus` writes the seeds anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

use std::{fs, path::PathBuf};

use ike::{
    crypto::{AesBits, DirectionKeys, Encr, Protector},
    wire::{ExchangeType, encode_payloads},
};
use keys::Secret;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

#[path = "support/exercise.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets share it")]
mod exercise;
#[path = "support/samples.rs"]
mod samples;

fn directory(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../fuzz/corpus", target]
        .iter()
        .collect()
}

/// Every file of a target's corpus goes through `exercise`, which panics when something is wrong.
fn replay(target: &str, exercise: fn(&[u8])) -> usize {
    let mut files: Vec<_> = fs::read_dir(directory(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for file in &files {
        eprintln!("{}", file.display());
        exercise(&fs::read(file).unwrap());
    }
    files.len()
}

fn check_seeds(target: &str, seeds: &[samples::Sample]) {
    for (name, octets) in seeds {
        let file = directory(target).join(name);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs::create_dir_all(directory(target)).unwrap();
            fs::write(&file, octets).unwrap();
        }
        let stored = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(&stored, octets, "{}", file.display());
    }
}

/// Protected messages, whole and in fragments, under keys the target does not have.
fn sealed() -> Vec<samples::Sample> {
    let keys = DirectionKeys {
        encr: Secret::from_slice(&[1; 32]),
        salt: [0; 4],
        integ: None,
    };
    let mut protector = Protector::new(Encr::AesGcm16(AesBits::B256), None, keys).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let header = samples::header(ExchangeType::IkeAuth, true, false);
    let (_, payloads) = samples::chains().remove(1);
    let (first, chain) = encode_payloads(&payloads).unwrap();
    let whole = protector.seal(&header, &payloads, &mut rng).unwrap();
    let fragment = protector
        .seal_fragment(&header, first, (1, 2), &chain[..60], &mut rng)
        .unwrap();
    vec![("auth-sealed", whole), ("auth-fragment", fragment)]
}

#[test]
fn ike_message() {
    let seeds = [samples::messages(), sealed()].concat();
    check_seeds("ike_message", &seeds);
    assert!(replay("ike_message", exercise::message) >= seeds.len());
}

#[test]
fn ike_payloads() {
    let seeds = samples::chain_octets();
    check_seeds("ike_payloads", &seeds);
    assert!(replay("ike_payloads", exercise::payloads) >= seeds.len());
}

#[test]
fn ike_qkd_notify() {
    let seeds = samples::qkd_bodies();
    check_seeds("ike_qkd_notify", &seeds);
    assert!(replay("ike_qkd_notify", exercise::qkd) >= seeds.len());
}
