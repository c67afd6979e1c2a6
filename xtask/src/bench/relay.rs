//! The relays: natively with GRE in clear, or the whole chain with ESP in the virtual machine.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::vm::{self, Echo, Job, Payload, kernel};
use crate::{artifacts, compiler, paths};

/// Where the measurement is in the machine.
const PLACE: &str = "/bench/relay";

#[derive(Args, Debug)]
pub(crate) struct RelayArgs {
    /// The chain with ESP, in the virtual machine
    #[arg(long)]
    vm: bool,
    /// Where the processor of a relay is under a flood (perf)
    #[arg(long, conflicts_with = "vm")]
    profile: bool,
}

pub(super) fn run(args: &RelayArgs) -> Result<ExitCode> {
    compiler::build_object()?;
    let program = build()?;
    if args.vm {
        return in_the_machine(&program);
    }
    let mut bench = Command::new(program);
    // The object is looked for from here.
    bench.current_dir(paths::root().join("crates/dataplane"));
    if args.profile {
        bench.arg("profile");
    }
    let status = bench.status().context("cannot start the measurement")?;
    Ok(code(status.success()))
}

fn in_the_machine(program: &std::path::Path) -> Result<ExitCode> {
    let words = [PLACE, "esp"].map(str::to_owned).to_vec();
    let mut job = Job::command(kernel::Line::V6_12, words);
    job.payload.program(PLACE, program)?;
    job.payload.file(Payload::BPF_OBJECT, &paths::bpf_object());
    job.env = vm::tests::environment();
    job.echo = Echo::Show;
    job.timeout = Duration::from_secs(600);
    Ok(code(vm::run(&job)?.code == 0))
}

const fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
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
