//! Cargo test binaries in the machine: built on the host, run as root on a
//! kernel of choice.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Echo, Job, Outcome, Payload, kernel};
use crate::{artifacts, paths, proc};

/// Seconds that one test binary may take, under emulation.
const PATIENCE: u32 = 300;

/// Whether a test failed (libtest's 101) or its whole binary did, which then has no result of its own: killed for its
/// patience (124), or by a signal. Said in libtest's words, for what reads them.
const ENDED: &str = r#"failed=0
ended() {
    failed=1
    [ $2 -eq 101 ] && return
    echo "test $1, all of it: exit code $2 ... FAILED"
    echo "test result: FAILED. 0 passed; 1 failed; 0 ignored"
}
"#;

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
    #[serde(default)]
    package_id: String,
    executable: Option<PathBuf>,
    target: Option<Built>,
}

#[derive(Deserialize)]
struct Built {
    name: String,
    kind: Vec<String>,
}

/// Builds the test targets; returns the executable of each, in order.
///
/// As part of the whole workspace: with its features, or cargo would build every dependency again.
pub(crate) fn build(targets: &[Target]) -> Result<Vec<PathBuf>> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args(["test", "--no-run", "--quiet", "--workspace"])
        .arg("--message-format=json-render-diagnostics");
    let names: BTreeSet<&str> = targets.iter().map(|target| target.test.as_str()).collect();
    for name in names {
        match name {
            "lib" => cargo.arg("--lib"),
            test => cargo.args(["--test", test]),
        };
    }
    let out = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !out.status.success() {
        bail!("cannot build the tests for the virtual machine");
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let artifacts: Vec<Message> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|message: &Message| message.reason == "compiler-artifact")
        .collect();
    targets
        .iter()
        .map(|target| {
            artifacts
                .iter()
                .filter(|message| message.is(target))
                .find_map(|message| message.executable.clone())
                .with_context(|| format!("{} has no test {}", target.package, target.test))
        })
        .collect()
}

impl Message {
    /// Whether this is the executable of `target`.
    fn is(&self, target: &Target) -> bool {
        let Some(built) = &self.target else {
            return false;
        };
        // `path+file:///…/NAME#VERSION`, or `…#NAME@VERSION` where the directory has another name.
        let package = &target.package;
        let (path, fragment) = self.package_id.rsplit_once('#').unwrap_or_default();
        let of_package =
            path.ends_with(&format!("/{package}")) || fragment.starts_with(&format!("{package}@"));
        let of_kind = if target.test == "lib" {
            built.kind.iter().any(|kind| kind == "lib")
        } else {
            built.name == target.test && built.kind.iter().any(|kind| kind == "test")
        };
        of_package && of_kind
    }
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
    let mut script = ENDED.to_owned();
    let mut job = Job::command(line, Vec::new());
    artifacts::take_along(&mut job.payload)?;
    for (target, executable) in targets.iter().zip(&executables) {
        let place = format!("/tests/{}-{}", target.package, target.test);
        job.payload.program(&place, executable)?;
        let filter: Vec<String> = filter.iter().map(|word| proc::quote(word)).collect();
        script.push_str(&format!(
            "echo 'in the machine: {name}'\n\
             timeout -k 5 {PATIENCE} {place} --test-threads=1 {} || ended '{name}' $?\n",
            filter.join(" "),
            name = format_args!("{}:{}", target.package, target.test),
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
