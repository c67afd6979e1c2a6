//! The fuzz target `n3iwf_gateway` on stable: its corpus, and scripts by seed.
//!
//! `UPDATE_CORPUS=1 cargo test -p n3iwf-user --test gateway fuzz_corpus` writes the seeds anew.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

use oxirush_ngap::ngap::CauseRadioNetwork;

use crate::{
    amf,
    fuzzed::{Outcome, play},
};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/n3iwf_gateway");

/// UE 0 attaches, with a NAS connection and PDU session 1.
const SESSION: [u8; 20] = [
    0, // IKE_SA_INIT up to the first NAS
    1, 0, 0, 0, // DOWNLINK NAS TRANSPORT for it
    1, 1, 0, 0, // INITIAL CONTEXT SETUP REQUEST
    5, 0, 0, // NAS over TCP
    1, 2, 0, 1, // PDU SESSION RESOURCE SETUP REQUEST
    6, 0, 1, 0x7e, // NAS
];

fn seeds() -> Vec<(&'static str, Vec<u8>, Outcome)> {
    let up = |ues, established, sessions| Outcome {
        established,
        sessions,
        ues,
    };
    let with = |more: &[u8]| [&SESSION, more].concat();
    vec![
        ("session", SESSION.to_vec(), up(1, 1, 1)),
        // Flow 2 is added, the tunnel moves, the session goes, the UE goes.
        (
            "modified-and-released",
            with(&[1, 9, 0, 1, 2, 1, 9, 0, 2, 3, 1, 3, 0, 1, 1, 4, 0, 0]),
            up(0, 1, 0),
        ),
        (
            "rekeys",
            with(&[12, 0, 1, 12, 0, 2, 15, 0, 1, 15, 0, 2, 9, 100]),
            up(1, 1, 1),
        ),
        ("amf-lost", with(&[10, 1, 10, 0, 9, 50]), up(0, 1, 0)),
        // A short EAP of one UE, 5G-NAS with another octet of the next; the AMF does not answer their release.
        (
            "eap",
            vec![
                0, 8, 3, 2, 1, 0, 0, 1, 0, 0, 0, // UE 0
                0, 8, 0, 2, 1, 0, 9, 0x44, 1, 1, 0, 1, 0, // UE 1
                9, 255, 9, 255,
            ],
            up(0, 0, 0),
        ),
        (
            "changed-setup",
            with(&[3, 2, 0, 2, 2, 0, 30, 0x11, 0, 40, 0x80, 4, 3, 0, 0x15, 0]),
            up(1, 1, 1),
        ),
        (
            "refused-installation",
            [&[13, 0, 0], &SESSION[..]].concat(),
            up(1, 1, 0),
        ),
    ]
}

#[test]
fn the_corpus_is_survived_and_reaches_what_it_is_for() {
    let mut wrong = Vec::new();
    for (name, script, outcome) in seeds() {
        let file = format!("{CORPUS}/{name}");
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            std::fs::create_dir_all(CORPUS).unwrap();
            std::fs::write(&file, &script).unwrap();
        }
        assert_eq!(std::fs::read(&file).unwrap(), script, "{name}");
        let came_to = play(&script);
        if came_to != outcome {
            wrong.push((name, came_to));
        }
    }
    assert_eq!(wrong, []);
    for entry in std::fs::read_dir(CORPUS).unwrap() {
        play(&std::fs::read(entry.unwrap().path()).unwrap());
    }
}

#[test]
fn scripts_by_seed_are_survived() {
    let (mut established, mut sessions) = (0, 0);
    for seed in 0..300 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut script = vec![0; 20 + rng.next_u32() as usize % 300];
        rng.fill_bytes(&mut script);
        let outcome = play(&[&SESSION[..seed as usize % 21], &script].concat());
        established += outcome.established;
        sessions += outcome.sessions;
    }
    assert!(established > 50, "UEs attach: {established}");
    assert!(sessions > 5, "PDU sessions come up: {sessions}");
}

/// The seeds of `n3iwf_ngap`: each message an AMF sends, and each cut short.
#[test]
fn the_messages_of_an_amf_are_in_the_corpus() {
    let transfer = || amf::transfer(0x100, &[1]);
    let messages = [
        ("downlink-nas", amf::downlink_nas(1, b"nas")),
        (
            "context-setup",
            amf::context_setup(1, Some(b"nas"), Vec::new()),
        ),
        (
            "session-setup",
            amf::session_setup(1, &[(1, b"nas", transfer())]),
        ),
        ("session-release", amf::session_release(1, b"nas", &[1])),
        ("context-release", amf::context_release(1)),
        ("reset", amf::reset(&[1])),
        (
            "error-indication",
            amf::error_indication(1, CauseRadioNetwork::unspecified),
        ),
        ("configuration-update", amf::configuration_update()),
        ("ng-setup-response", amf::ng_setup_response()),
        ("ng-setup-failure", amf::ng_setup_failure(None)),
    ];
    for (name, message) in messages {
        let directory = format!("{CORPUS}/../n3iwf_ngap");
        let half = message[..message.len() / 2].to_vec();
        for (file, octets) in [
            (format!("good-{name}"), message),
            (format!("cut-{name}"), half),
        ] {
            let file = format!("{directory}/{file}");
            if std::env::var_os("UPDATE_CORPUS").is_some() {
                std::fs::create_dir_all(&directory).unwrap();
                std::fs::write(&file, &octets).unwrap();
            }
            assert_eq!(std::fs::read(&file).unwrap(), octets, "{file}");
        }
    }
}
