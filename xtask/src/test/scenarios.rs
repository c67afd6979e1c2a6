//! The rig's scenarios in the virtual machine: each counts as one test.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::outcome::Counts;
use crate::demo::{self, KeyMode, Profile};
use crate::vm::{self, Echo, Job, Payload, kernel};
use crate::{artifacts, paths, setup};

/// What the rig reports of one scenario.
#[derive(Deserialize)]
struct Report {
    scenario: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    name: String,
    ok: bool,
    detail: String,
}

/// The demonstration in both profiles of mode `qkd` and in each other mode with captures, each opened by an independent dissector.
pub(crate) fn captures() -> Result<Counts> {
    let directory = paths::target().join("captures");
    std::fs::create_dir_all(&directory)?;
    let mut counts = Counts::default();
    for (name, mode, profile) in [
        ("native", KeyMode::Qkd, Profile::Native),
        ("paper", KeyMode::Qkd, Profile::Paper),
        ("hybrid", KeyMode::Hybrid, Profile::Native),
        ("psk", KeyMode::Psk, Profile::Native),
        ("cert", KeyMode::Cert, Profile::Native),
    ] {
        let held = demo::as_test(mode, profile, directory.join(format!("{name}.pcap")))
            .with_context(|| format!("capture {name}"))?;
        if held {
            counts.passed += 1;
        } else {
            counts.fail(format!("the demonstration in {name}"));
        }
    }
    Ok(counts)
}

/// A whole attach of the real programs on this host in each key mode, with a data plane that records instead of
/// encrypting, so that it needs neither ESP nor SCTP.
pub(crate) fn natively() -> Result<Counts> {
    if !setup::is_root()? {
        return Ok(Counts {
            skipped: 1,
            reasons: vec!["attach with the recording data plane: namespaces need root".to_owned()],
            ..Counts::default()
        });
    }
    let results = paths::target().join("scenarios").join("host");
    if results.exists() {
        std::fs::remove_dir_all(&results)?;
    }
    let bin = artifacts::directory();
    let status = Command::new(bin.join("rig"))
        .args([
            "scenario",
            "attach",
            "attach-hybrid",
            "attach-psk",
            "attach-cert",
            "hygiene",
            "quiet-logs",
            "flood",
            "flood-bucket",
            "n3iwf-killed-100",
            "metrics",
        ])
        .args(["--recording", "--results"])
        .arg(&results)
        .arg("--bpf-object")
        .arg(paths::bpf_object())
        .arg("--bin-dir")
        .arg(&bin)
        .status()
        .context("cannot start the rig")?;
    count(&results, status.success())
}

/// Runs `rig scenario ARGUMENTS` and counts what it reports.
pub(crate) fn run(line: kernel::Line, arguments: &[&str]) -> Result<Counts> {
    let results = paths::target().join("scenarios").join(line.to_string());
    if results.exists() {
        std::fs::remove_dir_all(&results)?;
    }
    let mut words = vec![format!("{}/rig", Payload::BIN), "scenario".to_owned()];
    words.extend(arguments.iter().map(|word| (*word).to_owned()));
    words.extend(
        [
            "--results",
            "/results",
            "--bpf-object",
            Payload::BPF_OBJECT,
            "--bin-dir",
            Payload::BIN,
        ]
        .map(str::to_owned),
    );
    let mut job = Job::command(line, words);
    artifacts::take_along(&mut job.payload)?;
    job.env = vm::tests::environment();
    job.results = Some(results.clone());
    job.timeout = Duration::from_secs(2000);
    job.echo = Echo::Show;
    let outcome = vm::run(&job)?;
    count(&results, outcome.code == 0)
}

/// Reads what the rig left in `results`.
fn count(results: &Path, succeeded: bool) -> Result<Counts> {
    let text =
        std::fs::read_to_string(results.join("report.json")).context("the rig left no report")?;
    let reports: Vec<Report> = serde_json::from_str(&text).context("the rig's report")?;
    if reports.is_empty() {
        bail!("the rig ran no scenario");
    }
    let mut counts = Counts::default();
    for report in &reports {
        let failed: Vec<&Step> = report.steps.iter().filter(|step| !step.ok).collect();
        if failed.is_empty() && !report.steps.is_empty() {
            counts.passed += 1;
        } else {
            for step in &failed {
                println!("FAILED {}: {}: {}", report.scenario, step.name, step.detail);
            }
            let first = failed.first().map_or("no step ran", |step| &step.name);
            counts.fail(format!("{}: {first}", report.scenario));
        }
    }
    if !succeeded && counts.failed == 0 {
        bail!("the rig failed; logs are in {}", results.display());
    }
    if counts.failed > 0 {
        println!("logs are in {}", results.display());
    }
    Ok(counts)
}
