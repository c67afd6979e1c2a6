//! Cargo test binaries in the machine: built on the host, run as root on a
//! kernel of choice.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Echo, Job, Outcome, Payload, kernel};
use crate::{artifacts, paths, proc};

/// Seconds that one test binary may take, under emulation.
const PATIENCE: u32 = 300;

/// A test target of a package: an integration test, or `lib` for unit tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) package: String,
    pub(crate) test: String,
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((package, test)) if !package.is_empty() && !test.is_empty() => Ok(Self {
                package: package.to_owned(),
                test: test.to_owned(),
            }),
            _ => Err(format!("expected PACKAGE:TEST, not {text:?}")),
        }
    }
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    target: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Builds the test targets; returns the executable of each, in order.
pub(crate) fn build(targets: &[Target]) -> Result<Vec<PathBuf>> {
    let mut executables = Vec::new();
    for target in targets {
        let mut cargo = Command::new("cargo");
        cargo
            .current_dir(paths::root())
            .args(["test", "--no-run", "--quiet"]);
        cargo.args([
            "--message-format=json-render-diagnostics",
            "-p",
            &target.package,
        ]);
        if target.test == "lib" {
            cargo.arg("--lib");
        } else {
            cargo.args(["--test", &target.test]);
        }
        let out = cargo
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        if !out.status.success() {
            bail!("cannot build test {} of {}", target.test, target.package);
        }
        let text = String::from_utf8_lossy(&out.stdout);
        let executable = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Message>(line).ok())
            .filter(|message| message.reason == "compiler-artifact")
            .filter(|m| {
                target.test == "lib" || m.target.as_ref().is_some_and(|t| t.name == target.test)
            })
            .filter_map(|message| message.executable)
            .next_back();
        match executable {
            Some(path) => executables.push(path),
            None => bail!("{} has no test {}", target.package, target.test),
        }
    }
    Ok(executables)
}

/// Runs the tests in one machine, one after the other, with `REQUIRE_KERNEL=1`:
/// a test that would skip for want of a kernel feature has to fail there.
pub(crate) fn run(
    line: kernel::Line,
    targets: &[Target],
    filter: &[String],
    echo: Echo,
) -> Result<Outcome> {
    let executables = build(targets)?;
    let mut script = "failed=0\n".to_owned();
    let mut job = Job::command(line, Vec::new());
    artifacts::take_along(&mut job.payload)?;
    for (target, executable) in targets.iter().zip(&executables) {
        let place = format!("/tests/{}-{}", target.package, target.test);
        job.payload.program(&place, executable)?;
        let filter: Vec<String> = filter.iter().map(|word| proc::quote(word)).collect();
        script.push_str(&format!(
            "echo 'in the machine: {}:{}'\ntimeout -k 5 {PATIENCE} {place} --test-threads=1 {} || failed=1\n",
            target.package,
            target.test,
            filter.join(" ")
        ));
    }
    script.push_str("exit $failed");
    job.command = ["sh", "-c", &script].map(str::to_owned).to_vec();
    job.env = environment();
    job.echo = echo;
    job.timeout = Duration::from_secs(1200);
    super::run(&job)
}

/// What programs of the project find in their environment in the machine.
pub(crate) fn environment() -> Vec<(String, String)> {
    [
        ("REQUIRE_KERNEL", "1"),
        ("RUST_BACKTRACE", "1"),
        ("N3IWF_BPF_OBJECT", Payload::BPF_OBJECT),
        ("N3IWF_BIN_DIR", Payload::BIN),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn targets_are_package_and_test() {
        let target: Target = "dataplane:xfrm_kernel".parse().unwrap();
        assert_eq!(target.package, "dataplane");
        assert_eq!(target.test, "xfrm_kernel");
        assert!("dataplane".parse::<Target>().is_err());
        assert!(":x".parse::<Target>().is_err());
    }
}
