//! The two programs as an operator meets them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const SAMPLE: &str = include_str!("../config/ue.yaml");

fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(program).args(arguments).output().unwrap();
    let text = [stdout, stderr].concat();
    (status.success(), String::from_utf8(text).unwrap())
}

fn ue_user(arguments: &[&str]) -> (bool, String) {
    run(env!("CARGO_BIN_EXE_ue-user"), arguments)
}

fn uectl(arguments: &[&str]) -> (bool, String) {
    run(env!("CARGO_BIN_EXE_uectl"), arguments)
}

fn write(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("ue.yaml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn the_sample_passes_check_config() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), SAMPLE);
    let (ok, text) = ue_user(&["--config", path.to_str().unwrap(), "check-config"]);
    assert!(ok, "{text}");
}

#[test]
fn a_wrong_file_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), &SAMPLE.replace("sessions:", "sesions:"));
    let (ok, text) = ue_user(&["--config", path.to_str().unwrap(), "--once"]);
    assert!(!ok);
    assert!(
        text.contains("ue.yaml:") && text.contains("sesions"),
        "{text}"
    );
}

#[test]
fn a_damaged_sequence_number_file_stops_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let sqn = directory.path().join("sqn.json");
    fs::write(&sqn, "{\"version\":1").unwrap();
    let text = SAMPLE.replace("/var/lib/ue-user/sqn.json", sqn.to_str().unwrap());
    let path = write(directory.path(), &text);
    let (ok, text) = ue_user(&["--config", path.to_str().unwrap(), "--once"]);
    assert!(!ok);
    assert!(text.contains("not a sequence number file"), "{text}");
    assert_eq!(fs::read_to_string(&sqn).unwrap(), "{\"version\":1");
}

#[test]
fn a_missing_kms_certificate_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let text = SAMPLE
        .replace("/var/lib/ue-user", directory.path().to_str().unwrap())
        .replace("/etc/ue-user", missing.to_str().unwrap());
    let path = write(directory.path(), &text);
    let (ok, text) = ue_user(&["--config", path.to_str().unwrap(), "--once"]);
    assert!(!ok);
    assert!(text.contains("kms-ca.pem"), "{text}");
}

#[test]
fn no_output_shows_a_key() {
    let directory = tempfile::tempdir().unwrap();
    let text = SAMPLE.replace("/var/lib/ue-user", directory.path().to_str().unwrap());
    let path = write(directory.path(), &text);
    let path = path.to_str().unwrap();
    for arguments in [
        &["--config", path, "--once"][..],
        &["--config", path, "preflight"],
    ] {
        let (_, text) = ue_user(arguments);
        assert!(
            !text.contains("465b5ce8") && !text.contains("cd63cb71"),
            "{text}"
        );
    }
}

#[test]
fn uectl_says_that_no_daemon_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let (ok, text) = uectl(&["--control", socket.to_str().unwrap(), "status"]);
    assert!(!ok);
    assert!(
        text.starts_with("uectl: ") && text.contains("none.sock"),
        "{text}"
    );
}

#[test]
fn help_names_every_command() {
    let (ok, text) = uectl(&["--help"]);
    assert!(ok);
    for command in [
        "status",
        "sas",
        "sessions",
        "keys",
        "attach",
        "establish",
        "release",
        "deregister",
        "--json",
    ] {
        assert!(text.contains(command), "{command}");
    }
    let (ok, text) = ue_user(&["--help"]);
    assert!(ok);
    for word in ["preflight", "check-config", "--once", "--config"] {
        assert!(text.contains(word), "{word}");
    }
}
