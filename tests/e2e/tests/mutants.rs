//! A bounded run of every fuzz target that decodes one input: mutants of its committed corpus, by a fixed rule, on the
//! compiler at hand. What finds nothing new is no proof: `cargo xtask fuzz` searches with coverage, and longer.
//!
//! `MUTANTS=1000000 cargo test -p e2e --test mutants` tries more of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    dead_code,
    unreachable_pub,
    reason = "a test fails by panicking; the exercises are shared with the fuzz targets"
)]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

#[path = "../../../crates/gtpu/tests/support/exercise.rs"]
mod gtpu_wire;
#[path = "../../../crates/ike/tests/support/exercise_crypto.rs"]
mod ike_crypto;
#[path = "../../../crates/ike/tests/support/exercise.rs"]
mod ike_wire;
#[path = "../../../n3iwf-user/tests/support/exercise.rs"]
mod n3iwf;
#[path = "../../../crates/nwu/tests/support/exercise.rs"]
mod nwu_wire;
#[path = "../../../crates/qkd/tests/support/exercise.rs"]
mod qkd_json;
#[path = "../../../ue-user/tests/support/exercise.rs"]
mod ue;

/// Mutants of each target, unless told otherwise.
const MUTANTS: usize = 20_000;
/// Octets that inputs grow to at most: longer than any datagram.
const LONGEST: usize = 70_000;
/// Octets that decoders have often been wrong about.
const INTERESTING: [u8; 8] = [0, 1, 0x0f, 0x40, 0x7f, 0x80, 0xfe, 0xff];

/// A target, what it does with an input, and what share of the mutants it has time for.
type Target = (&'static str, fn(&[u8]), usize);

const DECODERS: [Target; 18] = [
    ("gtpu_message", gtpu_wire::message, 1),
    ("ike_certificates", ike_crypto::certificates, 10),
    ("ike_key_exchange", ike_crypto::key_exchange, 100),
    ("ike_message", ike_wire::message, 1),
    ("ike_payloads", ike_wire::payloads, 1),
    ("ike_proposal", ike_crypto::proposal, 4),
    ("ike_qkd_notify", ike_wire::qkd, 1),
    ("ike_signature", ike_crypto::signature, 4),
    ("n3iwf_config", n3iwf::config, 20),
    ("n3iwf_ngap", n3iwf::ngap, 1),
    ("nwu_eap5g", nwu_wire::eap5g, 1),
    ("nwu_envelope", nwu_wire::envelope, 1),
    ("nwu_gre", nwu_wire::gre, 1),
    ("nwu_notify", nwu_wire::notify, 1),
    ("qkd_keys", qkd_json::keys, 1),
    ("qkd_status", qkd_json::status, 1),
    ("ue_config", ue::config, 20),
    ("ue_qos_rules", |input| drop(ue::qos_rules(input)), 1),
];

/// Targets that play a whole script, and the tests that try scripts by seed.
const SCRIPTS: [(&str, &str, &str); 3] = [
    (
        "ike_endpoint",
        "crates/ike/tests/engine/fuzzed.rs",
        "scripts_by_seed",
    ),
    (
        "n3iwf_gateway",
        "n3iwf-user/tests/gateway/fuzz_corpus.rs",
        "scripts_by_seed",
    ),
    ("ue_nas", "ue-user/tests/corpus.rs", "nas_scripts_by_seed"),
];

fn root(below: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../..", below]
        .iter()
        .collect()
}

/// The committed inputs of a target, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = root("fuzz/corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{target}: {error}"));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

struct Mutator {
    rng: ChaCha8Rng,
}

impl Mutator {
    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.next_u64() % bound as u64).unwrap()
    }

    fn octet(&mut self) -> u8 {
        match self.below(2) {
            0 => INTERESTING[self.below(INTERESTING.len())],
            _ => self.rng.next_u32().to_le_bytes()[0],
        }
    }

    /// A part of something that long.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let from = self.below(len + 1);
        let most = (len - from).min(64);
        from..from + self.below(most + 1)
    }

    fn mutant(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut input, seeds);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(9) {
            0 => {
                if let Some(octet) = input.get_mut(at) {
                    *octet ^= 1 << self.below(8);
                }
            }
            1 => {
                let value = self.octet();
                if let Some(octet) = input.get_mut(at) {
                    *octet = value;
                }
            }
            2 => input.truncate(at),
            3 => {
                let value = self.octet();
                input.insert(at, value);
            }
            4 => {
                let gone = self.range(input.len());
                input.drain(gone);
            }
            5 => {
                let again = self.range(input.len());
                let part = input[again].to_vec();
                input.splice(at..at, part);
            }
            6 => {
                // Another input from here on.
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            7 => {
                // A length or an identifier, of two or four octets.
                let width = 2 << self.below(2);
                let value = [self.octet(), self.octet(), self.octet(), self.octet()];
                if let Some(field) = input.get_mut(at..at + width) {
                    field.copy_from_slice(&value[..width]);
                }
            }
            _ => {
                let count = self.below(32);
                let more: Vec<u8> = (0..count).map(|_| self.octet()).collect();
                input.splice(at..at, more);
            }
        }
    }
}

/// Tries them; what panics is shown as it can be given to a fuzz target.
fn try_mutants(of: std::ops::Range<usize>) {
    let most = std::env::var("MUTANTS")
        .ok()
        .and_then(|text| text.parse().ok());
    for (target, exercise, share) in &DECODERS[of] {
        let seeds = corpus(target);
        assert!(!seeds.is_empty(), "{target}: no corpus");
        let number = target
            .bytes()
            .fold(0_u64, |sum, octet| sum.wrapping_mul(31) + u64::from(octet));
        let rng = ChaCha8Rng::seed_from_u64(number);
        let mut mutator = Mutator { rng };
        let (mut changed, count) = (0, most.unwrap_or(MUTANTS) / share);
        for _ in 0..count {
            let input = mutator.mutant(&seeds);
            changed += usize::from(!seeds.contains(&input));
            if catch_unwind(AssertUnwindSafe(|| exercise(&input))).is_err() {
                let hex: String = input.iter().map(|octet| format!("{octet:02x}")).collect();
                panic!("{target}: {} octets: {hex}", input.len());
            }
        }
        assert!(
            changed * 10 > count * 8,
            "{target}: {changed} of {count} are new"
        );
        eprintln!("{target}: {count} mutants of {} inputs", seeds.len());
    }
}

#[test]
fn of_the_first_decoders() {
    try_mutants(0..6);
}

#[test]
fn of_the_next_decoders() {
    try_mutants(6..12);
}

#[test]
fn of_the_last_decoders() {
    try_mutants(12..DECODERS.len());
}

/// Every fuzz target there is has a corpus and runs here, or in a test of scripts.
#[test]
fn every_fuzz_target_is_run() {
    let manifest = fs::read_to_string(root("fuzz/Cargo.toml")).unwrap();
    let targets: Vec<&str> = manifest
        .lines()
        .filter_map(|line| {
            line.strip_prefix("path = \"fuzz_targets/")?
                .strip_suffix(".rs\"")
        })
        .collect();
    assert_eq!(targets.len(), DECODERS.len() + SCRIPTS.len(), "{targets:?}");
    for target in targets {
        assert!(!corpus(target).is_empty(), "{target}");
        if DECODERS.iter().any(|(name, ..)| *name == target) {
            continue;
        }
        let script = SCRIPTS.iter().find(|(name, ..)| *name == target);
        let (_, file, test) = script.unwrap_or_else(|| panic!("{target} is run by nobody"));
        let text = fs::read_to_string(root(file)).unwrap();
        assert!(text.contains(&format!("fn {test}")), "{file}: no {test}");
    }
}
