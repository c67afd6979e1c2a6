//! `cargo xtask fuzz --minutes N`: every fuzz target for its share of the time.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup::{self, Consent};
use crate::{compiler, paths, proc};

#[derive(Args, Debug)]
pub(crate) struct FuzzArgs {
    /// Time for all targets together
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Only targets whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// Fuzzes with cargo-fuzz: nightly with its sanitizers where rustup has one,
/// else the stable compiler without them.
pub(crate) fn run(args: &FuzzArgs) -> Result<ExitCode> {
    let package = paths::root().join("fuzz");
    if !package.join("Cargo.toml").is_file() {
        bail!("there are no fuzz targets at {}", package.display());
    }
    setup::fuzzer(Consent::Ask)?;
    let list = proc::output(fuzz(&package).arg("list").arg("--fuzz-dir").arg(&package))
        .context("cannot list the fuzz targets")?;
    let targets: Vec<&str> = list
        .lines()
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .filter(|name| args.only.as_deref().is_none_or(|only| name.contains(only)))
        .collect();
    if targets.is_empty() {
        bail!("no fuzz target of that name");
    }
    let share = (args.minutes * 60 / targets.len() as u64).max(5);
    println!("{} targets, {share} s each", targets.len());
    let mut failed = Vec::new();
    for target in targets {
        println!("\n== {target}");
        let mut command = fuzz(&package);
        command.arg("run").arg("--fuzz-dir").arg(&package);
        if !has_sanitizers() {
            command.args(["--sanitizer", "none"]);
        }
        command.arg(target);
        // What is found new goes to a directory of the build; the seeds are
        // committed and stay as they are.
        let found = paths::target().join("fuzz-corpus").join(target);
        std::fs::create_dir_all(&found)?;
        command.arg(&found);
        let seeds = package.join("corpus").join(target);
        if seeds.is_dir() {
            command.arg(seeds);
        }
        command.args([
            "--",
            &format!("-max_total_time={share}"),
            "-print_final_stats=1",
        ]);
        if let Err(error) = proc::run(&mut command) {
            println!("{error:#}");
            failed.push(target.to_owned());
        }
    }
    if failed.is_empty() {
        println!("\nno target found anything");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "\nfindings in: {} (inputs in fuzz/artifacts)",
        failed.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

fn has_sanitizers() -> bool {
    matches!(compiler::detect(), Some(compiler::Compiler::Nightly(_)))
}

fn fuzz(package: &Path) -> Command {
    let mut command = Command::new("cargo");
    if let Some(compiler::Compiler::Nightly(name)) = compiler::detect() {
        command.arg(format!("+{name}"));
    } else {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    command.arg("fuzz").current_dir(
        package
            .parent()
            .map_or_else(PathBuf::new, Path::to_path_buf),
    );
    command
}
