//! The rig's scenarios in the virtual machine: each counts as one test.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::outcome::Counts;
use crate::vm::{self, Echo, Job, Payload, kernel};
use crate::{artifacts, paths};

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
    job.timeout = Duration::from_secs(1500);
    job.echo = Echo::Show;
    let outcome = vm::run(&job)?;
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
            counts.failed += 1;
            for step in failed {
                println!("FAILED {}: {}: {}", report.scenario, step.name, step.detail);
            }
        }
    }
    if outcome.code != 0 && counts.failed == 0 {
        bail!(
            "the rig ended with exit code {}; logs are in {}",
            outcome.code,
            results.display()
        );
    }
    if counts.failed > 0 {
        println!("logs are in {}", results.display());
    }
    Ok(counts)
}
