//! Every input of the fuzz corpus, on the compiler at hand.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of a test: to panic is to report"
)]

use std::{fs, path::PathBuf};

use qkd::{
    KeyId,
    codec::{Expect, parse_error, parse_keys, parse_status},
};

#[path = "support/exercise.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets share it")]
mod exercise;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../fuzz/corpus", target]
        .iter()
        .collect();
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn seed<'a>(corpus: &'a [(String, Vec<u8>)], name: &str) -> &'a [u8] {
    &corpus.iter().find(|(file, _)| file == name).unwrap().1
}

#[test]
fn qkd_keys() {
    let corpus = corpus("qkd_keys");
    for (name, input) in &corpus {
        println!("{name}");
        exercise::keys(input);
    }
    // Seeds that are what they are called, so that fuzzing starts behind the first check.
    let accepted = |name, number| {
        let size_bits = 256;
        parse_keys(seed(&corpus, name), Expect::New { number, size_bits }).is_ok()
    };
    assert!(accepted("one", 1));
    assert!(accepted("two", 2));
    assert!(accepted("extensions", 1));
    assert!(accepted("escapes", 1));
    assert!(!accepted("duplicate", 2));
    assert!(!accepted("arrays", 1));
    let ids: Vec<KeyId> = ["bc490419-7d60-487f-adc1-4ddcc177c139"]
        .iter()
        .map(|id| id.parse().unwrap())
        .collect();
    assert!(parse_keys(seed(&corpus, "one"), Expect::These(&ids)).is_ok());
}

#[test]
fn qkd_status() {
    let corpus = corpus("qkd_status");
    for (name, input) in &corpus {
        println!("{name}");
        exercise::status(input);
    }
    assert!(parse_status(seed(&corpus, "standard")).is_ok());
    assert!(parse_status(seed(&corpus, "negative")).is_err());
    assert!(parse_error(seed(&corpus, "error")).is_some());
    assert!(parse_error(seed(&corpus, "proxy")).is_none());
}
