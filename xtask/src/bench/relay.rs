//! The relays: natively with GRE in clear, or the whole chain with ESP in the virtual machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;

use super::{attach, results};
use crate::vm::{self, Echo, Job, Payload, kernel};

use crate::{artifacts, compiler, paths, proc};

/// Where the measurement is in the machine.
const PLACE: &str = "/bench/relay";

#[derive(Args, Debug)]
pub(crate) struct RelayArgs {
    /// Only programs packet by packet, in a flood, and what counting costs
    #[arg(long, group = "part")]
    programs: bool,
    /// Only packets per second
    #[arg(long, group = "part")]
    streams: bool,
    /// Where the processor of a relay is under a flood (perf)
    #[arg(long, group = "part")]
    profile: bool,
    /// The chain with ESP, in the virtual machine
    #[arg(long, group = "part")]
    vm: bool,
    /// Keep the results in docs/bench
    #[arg(long)]
    store: bool,
}

/// What is measured in one go.
struct Part {
    /// Name of the result file.
    file: &'static str,
    /// How it is asked for.
    flag: &'static str,
    /// What the measurement is told.
    words: &'static [&'static str],
}

const PROGRAMS: Part = Part {
    file: "relay",
    flag: "--programs",
    words: &["single", "warm", "counting"],
};
const STREAMS: Part = Part {
    file: "relay-streams",
    flag: "--streams",
    words: &["streams"],
};
const PROFILE: Part = Part {
    file: "relay-profile",
    flag: "--profile",
    words: &["profile"],
};
const ESP: Part = Part {
    file: "relay-vm",
    flag: "--vm",
    words: &["esp"],
};

pub(super) fn run(args: &RelayArgs) -> Result<ExitCode> {
    compiler::build_object()?;
    let program = build()?;
    // Built before anything is measured.
    results::reporter()?;
    let parts: &[Part] = match args {
        RelayArgs { programs: true, .. } => &[PROGRAMS],
        RelayArgs { streams: true, .. } => &[STREAMS],
        RelayArgs { profile: true, .. } => &[PROFILE],
        RelayArgs { vm: true, .. } => &[ESP],
        _ => &[PROGRAMS, STREAMS],
    };
    for part in parts {
        let place = attach::fresh(part.file)?;
        let printed = place.join("printed.jsonl");
        let kernel = if part.file == ESP.file {
            Some(in_the_machine(&program, part, &printed)?)
        } else {
            on_host(&program, part, &printed)?;
            None
        };
        keep(part, &place, &printed, kernel, args.store)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn on_host(program: &Path, part: &Part, printed: &Path) -> Result<()> {
    let status = Command::new(program)
        // The object is looked for from here.
        .current_dir(paths::root().join("crates/dataplane"))
        .args(part.words)
        .stdout(fs::File::create(printed)?)
        .status()
        .context("cannot start the measurement")?;
    if !status.success() {
        bail!("the measurement failed");
    }
    Ok(())
}

/// Release of the machine's kernel.
fn in_the_machine(program: &Path, part: &Part, printed: &Path) -> Result<String> {
    let line = kernel::Line::V6_12;
    let words = std::iter::once(PLACE).chain(part.words.iter().copied());
    let mut job = Job::command(line, words.map(str::to_owned).collect());
    job.payload.program(PLACE, program)?;
    job.payload.file(Payload::BPF_OBJECT, &paths::bpf_object());
    job.env = vm::tests::environment();
    job.echo = Echo::Show;
    job.timeout = Duration::from_secs(600);
    let outcome = vm::run(&job)?;
    if outcome.code != 0 {
        bail!("the measurement failed");
    }
    fs::write(printed, outcome.stdout)?;
    Ok(kernel::fetch(line)?.release)
}

/// Makes a result file of what was printed.
fn keep(
    part: &Part,
    place: &Path,
    printed: &Path,
    kernel: Option<String>,
    store: bool,
) -> Result<()> {
    let output = place.join("relay.jsonl");
    let mut report = results::reporter()?;
    report.arg("relay").arg("--lines").arg(printed);
    report.arg("--output").arg(&output);
    report.args(["--place", if kernel.is_some() { "vm" } else { "native" }]);
    if let Some(kernel) = kernel {
        report.args(["--kernel", &kernel]);
    }
    report.args(["--commit", &results::commit()?]);
    report.arg("--again");
    report.arg(format!("cargo xtask bench relay {}", part.flag));
    proc::run(&mut report)?;
    results::keep(&output, part.file, store)
}

/// The executable of the measurement.
fn build() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
    }
    let out = artifacts::optimised("bench")
        .args(["--quiet", "--bench", "relay"])
        .args(["--no-run", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !out.status.success() {
        bail!("cannot build the measurement");
    }
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok()?.executable)
        .next_back()
        .context("cargo built no measurement")
}
