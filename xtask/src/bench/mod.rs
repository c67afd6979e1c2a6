//! `cargo xtask bench`: measurements, and the document made of them.
//!
//! Each measurement leaves a result file in `target/bench`; `--store` copies it to `docs/bench`,
//! where `bench report` makes `docs/benchmarks.md` of it.

mod attach;
mod load;
mod relay;
mod results;
mod soak;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

pub(crate) use self::soak::{SoakArgs, run as soak};

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// The paper's experiment: attaches of each mode in turn, where their time goes, and their octets
    Attach(attach::AttachArgs),
    /// Attaches per second of the N3IWF, and what happens beyond what it can do
    Rate(load::RateArgs),
    /// IKE alone: setups per second and core, against strongSwan's charon
    Ike(load::IkeArgs),
    /// Memory and time per attach by the number of UEs attached
    Scale(load::ScaleArgs),
    /// Keys per second of the KMEs, and attaches by the key rate of a QKD link
    Qkd(load::QkdArgs),
    /// A known UE attaches while strangers flood the N3IWF with IKE_SA_INIT; figures on the screen
    Flood(load::FloodArgs),
    /// All of them but the flood, in about a quarter of an hour, stored, and docs/benchmarks.md made anew
    All(AllArgs),
    /// The relay's programs packet by packet, and kernel against user space (needs root)
    Relay(relay::RelayArgs),
    /// docs/benchmarks.md from the stored results
    Report,
    /// What the stored results have to reach; fails while one target is missed
    Targets,
}

#[derive(Args, Debug)]
struct AllArgs {
    /// Attaches of each mode, natively
    #[arg(long, default_value_t = 100)]
    runs: usize,
    /// Attaches of each mode in the virtual machine; 0: none
    #[arg(long, default_value_t = 10)]
    vm_runs: usize,
    /// The modes
    #[arg(long, value_delimiter = ',', default_value = attach::MODES)]
    modes: Vec<String>,
}

pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    match &args.what {
        What::Attach(args) => attach::run(args),
        What::Rate(args) => load::rate(args),
        What::Ike(args) => load::ike(args),
        What::Scale(args) => load::scale(args),
        What::Qkd(args) => load::qkd(args),
        What::Flood(args) => load::flood(args),
        What::All(args) => all(args),
        What::Relay(args) => relay::run(args),
        What::Report => {
            results::document()?;
            Ok(ExitCode::SUCCESS)
        }
        What::Targets => results::targets(),
    }
}

fn all(args: &AllArgs) -> Result<ExitCode> {
    let vm_runs = (args.vm_runs > 0).then_some(args.vm_runs);
    let mut whole = attach::measure(&attach::AttachArgs::stored(
        args.runs,
        vm_runs,
        args.modes.clone(),
    ))?;
    whole &= load::measure_rate(&load::stored())?;
    whole &= load::measure_ike(&load::stored())?;
    whole &= load::measure_scale(&load::stored())?;
    whole &= load::measure_qkd(&load::stored())?;
    results::document()?;
    Ok(if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
