//! `cargo xtask soak`: many UEs that leave and come back, on this host.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::attach;
use crate::artifacts;

#[derive(Args, Clone, Debug)]
pub(crate) struct SoakArgs {
    /// How long UEs come and go
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// How many there are
    #[arg(long, default_value_t = 1000)]
    ues: usize,
    /// UEs that leave and come back per second
    #[arg(long, default_value_t = 20.0)]
    per_second: f64,
}

/// The rig compares what it sees with its bounds; its `soak.jsonl` keeps it.
pub(crate) fn run(args: &SoakArgs) -> Result<ExitCode> {
    artifacts::build_programs()?;
    let place = attach::fresh("soak")?;
    let words = [
        "bench".to_owned(),
        "soak".to_owned(),
        format!("--minutes={}", args.minutes),
        format!("--ues={}", args.ues),
        format!("--per-second={}", args.per_second),
    ];
    Ok(if attach::rig(&place, words.to_vec(), &[])? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
