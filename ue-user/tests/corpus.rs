//! Every input of the fuzz corpora of the UE, on the compiler at hand; and scripts by seed.
//!
//! `UPDATE_CORPUS=1 cargo test -p ue-user --test corpus` writes the seeds anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

use std::{fs, path::PathBuf};

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

#[path = "support/exercise.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets share it")]
mod exercise;
#[path = "support/nas_script.rs"]
#[expect(unreachable_pub, reason = "the fuzz target shares it")]
mod nas_script;

use nas_script::{Outcome, play};

fn directory(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../fuzz/corpus", target]
        .iter()
        .collect()
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(directory(target)).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(path).unwrap())
    });
    files.collect()
}

fn seed(target: &str, name: &str, octets: &[u8]) {
    let file = directory(target).join(name);
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        fs::create_dir_all(directory(target)).unwrap();
        fs::write(&file, octets).unwrap();
    }
    assert_eq!(fs::read(&file).unwrap(), octets, "{}", file.display());
}

/// A default rule that takes everything, with this flow.
fn rule(id: u8, qfi: u8) -> [u8; 9] {
    [id, 0, 6, 0x31, 0x31, 1, 1, 255, qfi]
}

const REGISTERED: [u8; 11] = [
    0, // REGISTRATION REQUEST
    1, 0, 0, // AUTHENTICATION REQUEST
    2, 0, 0, 0, 0, 0, // SECURITY MODE COMMAND
    3, // REGISTRATION ACCEPT, as it is
];

/// PDU session 1 of transaction `pti` is accepted, with one rule.
fn accepted(pti: u8) -> Vec<u8> {
    let message = [
        &[1, pti, 0xc2, 0x11, 0, 9][..],
        &rule(1, 1),
        &[6, 6, 0, 100, 6, 0, 50, 0x29, 5, 1, 10, 60, 0, 1],
    ]
    .concat();
    [&[5, u8::try_from(message.len()).unwrap()][..], &message].concat()
}

fn modified(rules: &[u8]) -> Vec<u8> {
    let len = u8::try_from(rules.len()).unwrap();
    let message = [&[1, 0, 0xcb, 0x7a, 0, len][..], rules].concat();
    [&[5, u8::try_from(message.len()).unwrap()][..], &message].concat()
}

fn scripts() -> Vec<(&'static str, Vec<u8>, Outcome)> {
    let outcome = |registered, sessions, modified, failures| Outcome {
        registered,
        sessions,
        modified,
        failures,
    };
    let with = |parts: &[&[u8]]| [&REGISTERED[..], &[0], &parts.concat()].concat();
    let session = [&[11, 1][..], &accepted(1)].concat();
    vec![
        ("registered", with(&[]), outcome(1, 0, 0, 0)),
        ("session", with(&[&session]), outcome(1, 1, 0, 0)),
        (
            "modified",
            with(&[&session, &modified(&rule(1, 9))]),
            outcome(1, 1, 1, 0),
        ),
        (
            "sqn-not-stored",
            vec![10, 0, 0, 1, 0, 0, 10, 2],
            outcome(0, 0, 0, 1),
        ),
        (
            "deregistered",
            with(&[&[12, 0, 4, 1, 0x46]]),
            outcome(1, 0, 0, 0),
        ),
        (
            "rejected-in-clear",
            vec![0, 8, 4, 0x7e, 0, 0x44, 3],
            outcome(0, 0, 0, 1),
        ),
        ("given-up", vec![0, 9, 200], outcome(0, 0, 0, 1)),
        (
            "forgotten-identity",
            with(&[&[12, 3, 11, 1]]),
            outcome(1, 0, 0, 1),
        ),
        (
            "replayed",
            with(&[&[13, 0, 0, 13, 1, 0, 13, 2, 1, 9, 4]]),
            outcome(1, 0, 0, 0),
        ),
    ]
}

#[test]
fn nas_scripts_reach_what_they_are_for() {
    for (name, script, outcome) in scripts() {
        seed("ue_nas", name, &script);
        assert_eq!(play(&script), outcome, "{name}");
    }
    for (_, script) in corpus("ue_nas") {
        play(&script);
    }
}

#[test]
fn nas_scripts_by_seed_are_survived() {
    let prefix = [&REGISTERED[..], &[0, 11, 1], &accepted(1)].concat();
    let (mut registered, mut sessions) = (0, 0);
    for number in 0..1500 {
        let mut rng = ChaCha20Rng::seed_from_u64(number);
        let mut script = vec![0; 20 + rng.next_u32() as usize % 300];
        rng.fill_bytes(&mut script);
        let outcome = play(&[&prefix[..number as usize % (prefix.len() + 1)], &script].concat());
        registered += outcome.registered;
        sessions += outcome.sessions;
    }
    assert!(registered > 500, "UEs register: {registered}");
    assert!(sessions > 10, "PDU sessions come up: {sessions}");
}

#[test]
fn qos_rules() {
    let one = rule(1, 5);
    let two = [2, 0, 4, 0x21, 0x01, 9, 7, 0];
    let delete_default = [1, 0, 1, 0x40];
    let ipv6 = [
        &[3, 0, 25, 0x21, 0x31, 20, 0x21][..],
        &[0x20; 16],
        &[64, 0x30, 17, 7, 9],
    ]
    .concat();
    for (name, first, then, taken, modified) in [
        ("default", &one[..], &[][..], true, true),
        ("replaced", &one, &rule(1, 9), true, true),
        ("default-deleted", &one, &delete_default, true, false),
        ("no-default", &two, &[], false, false),
        ("second-default", &one, &rule(2, 9), true, false),
        ("ipv6-filter", &one, &ipv6, true, true),
        ("flow-0", &rule(1, 0), &[], false, false),
        ("cut", &one[..7], &[], false, false),
    ] {
        let len = u8::try_from(first.len()).unwrap();
        let input = [&[len][..], first, then].concat();
        seed("ue_qos_rules", name, &input);
        let outcome = exercise::qos_rules(&input);
        assert_eq!(outcome.is_some(), taken, "{name}");
        let second = outcome.and_then(|(_, second)| second);
        assert_eq!(second.is_some(), modified, "{name}");
    }
    for (_, input) in corpus("ue_qos_rules") {
        exercise::qos_rules(&input);
    }
}

#[test]
fn configuration_files() {
    let all = corpus("ue_config");
    for (name, text) in &all {
        exercise::config(text);
        let text = std::str::from_utf8(text).unwrap();
        let good = ue_user::config::Config::parse("ue.yaml".as_ref(), text).is_ok();
        assert_eq!(good, name.starts_with("good-"), "{name}");
    }
    assert!(all.len() >= 3, "{}", all.len());
}
