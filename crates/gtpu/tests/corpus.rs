//! Every input of the fuzz corpus, on the compiler at hand.
//!
//! `UPDATE_CORPUS=1 cargo test -p gtpu --test corpus` writes the seeds anew.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::PathBuf};

use gtpu::{Direction, ErrorIndication, PduSessionContainer};

#[path = "support/exercise.rs"]
#[expect(unreachable_pub, reason = "the fuzz target shares it")]
mod exercise;

#[test]
fn gtpu_message() {
    let container = |direction| PduSessionContainer {
        direction,
        qfi: 9,
        rqi: true,
    };
    let indication = ErrorIndication {
        teid: 7,
        peer: "203.0.113.1".parse().unwrap(),
    };
    let seeds = [
        gtpu::encode_g_pdu(1, container(Direction::Uplink), &[0x45; 20]).unwrap(),
        gtpu::encode_g_pdu(1, container(Direction::Downlink), &[0x45; 20]).unwrap(),
        gtpu::echo_request(7),
        gtpu::echo_response(7),
        gtpu::encode_end_marker(1),
        gtpu::supported_extension_headers(1),
        indication.encode(2),
    ];
    let directory: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../fuzz/corpus/gtpu_message"]
        .iter()
        .collect();
    for (index, octets) in seeds.iter().enumerate() {
        let file = directory.join(format!("seed-{index}"));
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs::create_dir_all(&directory).unwrap();
            fs::write(&file, octets).unwrap();
        }
        assert_eq!(&fs::read(&file).unwrap(), octets, "{}", file.display());
    }
    for entry in fs::read_dir(&directory).unwrap() {
        exercise::message(&fs::read(entry.unwrap().path()).unwrap());
    }
}
