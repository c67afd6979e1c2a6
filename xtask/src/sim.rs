//! `cargo xtask sim`: scenarios of the whole control plane, in virtual time.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::{artifacts, paths, proc};

#[derive(Args, Debug)]
pub(crate) struct SimArgs {
    /// Arguments of `sim`: --scenarios N, --hours H, --seed S [--trace], --json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds it optimised and runs it; its exit code is ours.
pub(crate) fn run(args: &SimArgs) -> Result<ExitCode> {
    proc::run(artifacts::optimised("build").args(["--release", "--quiet", "--bin", "sim"]))?;
    let status = Command::new(paths::target().join("release").join("sim"))
        .current_dir(paths::root())
        .args(&args.arguments)
        .status()
        .context("cannot start sim")?;
    Ok(ExitCode::from(
        status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
    ))
}
