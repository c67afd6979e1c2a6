//! The two programs as a user calls them.

use std::{fs, process::Command};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/n3iwf.yaml");

fn daemon() -> Command {
    Command::new(env!("CARGO_BIN_EXE_n3iwf-user"))
}

fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_n3iwfctl"))
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

#[test]
fn the_sample_passes_the_check() {
    let output = daemon()
        .args(["--config", SAMPLE, "--check-config"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_mistake_is_told_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wrong.yaml");
    let sample = fs::read_to_string(SAMPLE).unwrap();
    fs::write(&path, sample.replace("  fqdn:", "  fqnd:")).unwrap();
    let output = daemon()
        .arg("--config")
        .arg(&path)
        .arg("--check-config")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let told = text(&output.stderr);
    assert!(told.contains("wrong.yaml:"), "{told}");
    assert!(told.contains("did you mean `fqdn`?"), "{told}");
}

#[test]
fn preflight_speaks_json_and_fails_without_its_addresses() {
    let output = daemon()
        .args(["preflight", "--json", "--config", SAMPLE])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // 192.0.2.1 is for documentation: no host has it.
    assert_eq!(report["passed"], false);
    assert!(!output.status.success());
    let checks = report["checks"].as_array().unwrap();
    let find = |name: &str| {
        let found = checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("{name} in {report:#}"))
    };
    assert_eq!(find("ikeBindAddress")["outcome"], "fail");
    assert!(find("ikeBindAddress")["fix"].is_string());
    assert_eq!(
        find("kms")["outcome"],
        "fail",
        "the sample's files are not here"
    );
}

#[test]
fn the_tool_names_the_socket_nobody_answers_on() {
    for command in [&["status"][..], &["sas", "--json"], &["release", "1"]] {
        let output = tool()
            .args(["--socket", "/nonexistent/n3iwf.sock"])
            .args(command)
            .output()
            .unwrap();
        assert!(!output.status.success());
        let told = text(&output.stderr);
        assert!(
            told.starts_with("n3iwfctl: /nonexistent/n3iwf.sock: "),
            "{told}"
        );
    }
}
