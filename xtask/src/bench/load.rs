//! `bench rate`, `bench scale` and `bench qkd`: natively, the data plane records.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};

use super::{attach, results};
use crate::{artifacts, compiler, paths, proc};

#[derive(Args, Clone, Debug)]
pub(super) struct RateArgs {
    /// Attaches under way at the same time
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    pub(super) at_once: Vec<usize>,
    /// Attaches begun per second
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "50,100,200,400,800,1200,1600"
    )]
    pub(super) offered: Vec<u32>,
    /// How long each is measured, seconds
    #[arg(long, default_value_t = 5)]
    pub(super) seconds: u32,
    /// Repetitions of each number under way
    #[arg(long, default_value_t = 3)]
    pub(super) runs: usize,
    /// Keep the results in docs/bench
    #[arg(long)]
    pub(super) store: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct IkeArgs {
    /// Root of unpacked strongSwan packages; the installed ones, or those of `cargo xtask interop`
    #[arg(long)]
    pub(super) strongswan: Option<PathBuf>,
    /// IKE/ESP suites in swanctl's words
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "aes256gcm16-prfsha256-x25519/aes256gcm16,aes256gcm16-prfsha256-modp2048/aes256gcm16"
    )]
    pub(super) suites: Vec<String>,
    /// Setups under way at the same time
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    pub(super) at_once: Vec<usize>,
    /// How long each is measured, seconds
    #[arg(long, default_value_t = 3)]
    pub(super) seconds: u32,
    /// Repetitions
    #[arg(long, default_value_t = 3)]
    pub(super) runs: usize,
    /// Keep the results in docs/bench
    #[arg(long)]
    pub(super) store: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ScaleArgs {
    /// Numbers of UEs at which to measure
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
    pub(super) ues: Vec<usize>,
    /// Keep the results in docs/bench
    #[arg(long)]
    pub(super) store: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct QkdArgs {
    /// Requests of each kind
    #[arg(long, default_value_t = 200)]
    pub(super) requests: usize,
    /// Keys per second of the link
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "14,35,70,140,350,700,1400"
    )]
    pub(super) rates: Vec<u32>,
    /// Keep the results in docs/bench
    #[arg(long)]
    pub(super) store: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct FloodArgs {
    /// Datagrams per second, each from an address of its own
    #[arg(long, default_value_t = 50_000)]
    rate: u32,
    /// How long, seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Attaches to measure, in quiet and in the flood
    #[arg(long, default_value_t = 20)]
    attaches: u32,
}

/// Arguments of a measurement as the command line has them when nobody says anything.
#[derive(Parser)]
struct Defaults<T: Args> {
    #[command(flatten)]
    args: T,
}

/// All defaults, and stored.
pub(super) fn stored<T: Args>() -> T {
    Defaults::parse_from(["bench", "--store"]).args
}

/// Measures and shows the tables.
pub(super) fn rate(args: &RateArgs) -> Result<ExitCode> {
    shown(measure_rate(args)?)
}

/// Measures and shows the tables.
pub(super) fn ike(args: &IkeArgs) -> Result<ExitCode> {
    shown(measure_ike(args)?)
}

/// Measures and shows the tables.
pub(super) fn scale(args: &ScaleArgs) -> Result<ExitCode> {
    shown(measure_scale(args)?)
}

/// Measures and shows the tables.
pub(super) fn qkd(args: &QkdArgs) -> Result<ExitCode> {
    shown(measure_qkd(args)?)
}

/// The rig shows the figures; its `report.json` keeps them.
pub(super) fn flood(args: &FloodArgs) -> Result<ExitCode> {
    artifacts::build_programs()?;
    let place = attach::fresh("flood")?;
    let words = [
        "bench".to_owned(),
        "flood".to_owned(),
        format!("--rate={}", args.rate),
        format!("--seconds={}", args.seconds),
        format!("--attaches={}", args.attaches),
    ];
    Ok(if attach::rig(&place, words.to_vec(), &[])? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn shown(whole: bool) -> Result<ExitCode> {
    results::show()?;
    Ok(if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether it worked.
pub(super) fn measure_rate(args: &RateArgs) -> Result<bool> {
    let (at_once, offered) = (list(&args.at_once), list(&args.offered));
    let (seconds, runs) = (args.seconds, args.runs);
    let options =
        format!("--at-once {at_once} --offered {offered} --seconds {seconds} --runs {runs}");
    measure("rate", &options, true, args.store)
}

/// Whether it worked.
pub(super) fn measure_ike(args: &IkeArgs) -> Result<bool> {
    let shown = format!(
        "--suites {} --at-once {} --seconds {} --runs {}",
        args.suites.join(","),
        list(&args.at_once),
        args.seconds,
        args.runs
    );
    let unpacked = paths::target().join("interop").join("root");
    let root = match &args.strongswan {
        Some(root) => Some(root.clone()),
        None if Path::new("/usr/sbin/charon-systemd").is_file() => None,
        None if unpacked.is_dir() => Some(unpacked),
        None => bail!(
            "strongSwan is needed: Debian's charon-systemd and strongswan-swanctl, or --strongswan with the root of unpacked packages"
        ),
    };
    let options = match root {
        Some(root) => format!("{shown} --strongswan {}", root.display()),
        None => shown.clone(),
    };
    measure_as("ike", &options, &shown, false, args.store)
}

/// Whether it worked.
pub(super) fn measure_scale(args: &ScaleArgs) -> Result<bool> {
    let ues = list(&args.ues);
    let words = format!("--steps {ues}");
    let shown = format!("--ues {ues}");
    Ok(measure_as("scale", &words, &shown, true, args.store)? && maps(&shown, args.store)?)
}

/// The eBPF maps with few UEs and with many. Runs natively: any kernel with eBPF will do.
fn maps(shown: &str, store: bool) -> Result<bool> {
    compiler::build_object()?;
    let place = attach::fresh("maps")?;
    let (printed, output) = (place.join("printed.jsonl"), place.join("maps.jsonl"));
    let status = artifacts::optimised("bench")
        .args(["--quiet", "--bench", "maps"])
        .stdout(fs::File::create(&printed)?)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        return Ok(false);
    }
    proc::run(
        results::reporter()?
            .arg("maps")
            .arg("--lines")
            .arg(&printed)
            .arg("--machine")
            .arg(results::directory().join("scale.jsonl"))
            .arg("--output")
            .arg(&output)
            .args(["--again", &format!("cargo xtask bench scale {shown}")]),
    )?;
    results::keep(&output, "maps", store)?;
    Ok(true)
}

/// Whether it worked.
pub(super) fn measure_qkd(args: &QkdArgs) -> Result<bool> {
    let options = format!("--requests {} --rates {}", args.requests, list(&args.rates));
    measure("qkd", &options, false, args.store)
}

fn measure(what: &str, options: &str, load: bool, store: bool) -> Result<bool> {
    measure_as(what, options, options, load, store)
}

/// `options` for the rig, or for what the rig starts (`load`); `shown` is how this door spells them.
fn measure_as(what: &str, options: &str, shown: &str, load: bool, store: bool) -> Result<bool> {
    artifacts::build_programs()?;
    let place = attach::fresh(what)?;
    let mut words = vec!["bench".to_owned(), what.to_owned()];
    words.extend(["--commit".to_owned(), results::commit()?]);
    words.extend([
        "--again".to_owned(),
        format!("cargo xtask bench {what} {shown}"),
    ]);
    let options = options.split(' ').map(str::to_owned);
    let (own, others): (Vec<String>, Vec<String>) = if load {
        (Vec::new(), options.collect())
    } else {
        (options.collect(), Vec::new())
    };
    words.extend(own);
    if !attach::rig(&place, words, &others)? {
        return Ok(false);
    }
    results::keep(&place.join(format!("{what}.jsonl")), what, store)?;
    Ok(true)
}

fn list<T: ToString>(numbers: &[T]) -> String {
    let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    texts.join(",")
}
