//! Every input of the fuzz corpora `n3iwf_ngap` and `n3iwf_config`, on the compiler at hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::PathBuf};

#[path = "support/exercise.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets share it")]
mod exercise;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../fuzz/corpus", target]
        .iter()
        .collect();
    let files = fs::read_dir(directory).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(path).unwrap())
    });
    files.collect()
}

#[test]
fn messages_of_an_amf() {
    let all = corpus("n3iwf_ngap");
    for (name, message) in &all {
        exercise::ngap(message);
        let good = n3iwf_user::ngap::decode(message).is_ok();
        assert_eq!(good, name.starts_with("good-"), "{name}");
    }
    assert!(all.len() >= 8, "{}", all.len());
}

#[test]
fn configuration_files() {
    let all = corpus("n3iwf_config");
    for (name, text) in &all {
        exercise::config(text);
        let text = std::str::from_utf8(text).unwrap();
        let good = n3iwf_user::config::File::parse("n3iwf.yaml".as_ref(), text).is_ok();
        assert_eq!(good, name.starts_with("good-"), "{name}");
    }
    assert!(all.len() >= 3, "{}", all.len());
}
