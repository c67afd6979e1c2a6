//! `cargo xtask bench`: many attaches in a row, and where their time went;
//! `cargo xtask bench relay`: what relaying costs.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::vm::{self, Job, Payload, kernel};
use crate::{artifacts, compiler, host, paths};

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    /// Something else than attaches
    #[command(subcommand)]
    what: Option<What>,
    /// How many attaches
    #[arg(long, default_value_t = 20)]
    attaches: usize,
    /// The wire profile of the QKD mode: native, paper
    #[arg(long, default_value = "native")]
    profile: String,
    /// Kernel of the virtual machine
    #[arg(long, value_enum, default_value_t = kernel::Line::V6_12)]
    kernel: kernel::Line,
}

#[derive(Subcommand, Debug)]
enum What {
    /// The relay's programs packet by packet, and kernel against user space (needs root)
    Relay,
}

/// Runs natively: GRE is in clear there, so any kernel with eBPF will do.
fn relay() -> Result<ExitCode> {
    compiler::build_object()?;
    let status = Command::new("cargo")
        .current_dir(paths::root())
        .args(["bench", "--quiet", "-p", "dataplane", "--bench", "relay"])
        .status()
        .context("cannot start cargo")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Measures on this host when its kernel has everything. Elsewhere in the
/// virtual machine, whose times compare with each other and nothing else.
pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    if let Some(What::Relay) = args.what {
        return relay();
    }
    artifacts::build_programs()?;
    let object = compiler::build_object()?;
    let words = |object: &str, bin: &str| -> Vec<String> {
        let count = args.attaches.to_string();
        let words = [
            "bench",
            "--attaches",
            &count,
            "--profile",
            &args.profile,
            "--bpf-object",
            object,
            "--bin-dir",
            bin,
        ];
        words.map(str::to_owned).to_vec()
    };
    let missing = host::missing()?;
    if missing.is_empty() {
        let bin = artifacts::directory();
        let status = Command::new(bin.join("rig"))
            .args(words(
                &object.display().to_string(),
                &bin.display().to_string(),
            ))
            .status()
            .context("cannot start the rig")?;
        return Ok(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    eprintln!(
        "this host lacks {}: measuring in a virtual machine, whose emulated processor makes \
         absolute times meaningless",
        missing.join(", ")
    );
    let mut command = vec![format!("{}/rig", Payload::BIN)];
    command.extend(words(Payload::BPF_OBJECT, Payload::BIN));
    let mut job = Job::command(args.kernel, command);
    artifacts::take_along(&mut job.payload)?;
    job.env = vm::tests::environment();
    job.results = Some(paths::target().join("bench"));
    job.timeout = Duration::from_secs(1800);
    Ok(ExitCode::from(vm::run(&job)?.code))
}
