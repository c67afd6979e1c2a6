//! `cargo xtask sim`: scenarios of the whole control plane, in virtual time.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::paths;

#[derive(Args, Debug)]
pub(crate) struct SimArgs {
    /// Arguments of `sim`: --scenarios N, --hours H, --seed S [--trace], --json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds it optimised and runs it; its exit code is ours.
pub(crate) fn run(args: &SimArgs) -> Result<ExitCode> {
    let status = Command::new(env!("CARGO"))
        .current_dir(paths::root())
        .args(["run", "--release", "--quiet", "-p", "sim", "--"])
        .args(&args.arguments)
        .status()
        .context("cannot start cargo")?;
    Ok(ExitCode::from(
        status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
    ))
}
