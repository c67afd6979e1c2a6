//! `bench attach`: the paper's experiment, natively and in the virtual machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::results;
use crate::vm::{self, Job, Payload, kernel};
use crate::{artifacts, compiler};

/// The modes that the daemons have.
pub(super) const MODES: &str = "qkd,qkd-ahead,qkd-paper,hybrid,psk,psk-x25519,cert";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Where {
    /// Processes of this host; the data plane records, N2 is a Unix socket
    Native,
    /// The virtual machine: IPsec and SCTP of its kernel, times that compare with each other alone
    Vm,
    /// One after the other
    Both,
}

#[derive(Args, Clone, Debug)]
pub(super) struct AttachArgs {
    /// Attaches of each mode
    #[arg(long, default_value_t = 100)]
    pub(super) runs: usize,
    /// Attaches of each mode in the virtual machine, if not as many
    #[arg(long)]
    pub(super) vm_runs: Option<usize>,
    /// qkd, qkd-ahead, qkd-paper, hybrid, psk, psk-x25519, cert
    #[arg(long, value_delimiter = ',', default_value = MODES)]
    pub(super) modes: Vec<String>,
    /// Round-trip time to add on NWu, as `20ms` (in the virtual machine)
    #[arg(long, value_parser = duration)]
    pub(super) rtt: Option<Duration>,
    /// To be added to each answer of the KMEs, as `5ms`
    #[arg(long, value_parser = duration)]
    pub(super) kms_delay: Option<Duration>,
    /// How much later a KME knows of the keys that the other has delivered, as `5ms`
    #[arg(long, value_parser = duration)]
    pub(super) kme_link: Option<Duration>,
    /// Where to measure
    #[arg(long = "where", value_enum, default_value_t = Where::Both)]
    pub(super) place: Where,
    /// Kernel of the virtual machine
    #[arg(long, value_enum, default_value_t = kernel::Line::V6_12)]
    pub(super) kernel: kernel::Line,
    /// Keep the results in docs/bench
    #[arg(long)]
    pub(super) store: bool,
}

impl AttachArgs {
    /// For the stored results: `vm_runs` is none where the virtual machine is left out.
    pub(super) fn stored(runs: usize, vm_runs: Option<usize>, modes: Vec<String>) -> Self {
        Self {
            runs,
            vm_runs,
            modes,
            rtt: None,
            kms_delay: None,
            kme_link: None,
            place: if vm_runs.is_some() {
                Where::Both
            } else {
                Where::Native
            },
            kernel: kernel::Line::V6_12,
            store: true,
        }
    }
}

/// `20ms`, `1.5ms`, `800us`, `1s`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err("a number with us, ms or s".to_owned()),
    };
    let number: f64 = digits.parse().map_err(|_| "a number with us, ms or s")?;
    Duration::try_from_secs_f64(number * scale).map_err(|error| error.to_string())
}

/// Measures and shows the tables.
pub(super) fn run(args: &AttachArgs) -> Result<ExitCode> {
    let whole = measure(args)?;
    results::show()?;
    Ok(if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Measures; whether every step of the rig held.
pub(super) fn measure(args: &AttachArgs) -> Result<bool> {
    artifacts::build_programs()?;
    let native = args.place != Where::Vm;
    if native && args.rtt.is_some() {
        bail!("--rtt needs sch_netem: --where vm");
    }
    // Delays make other results, which do not take the place of those without.
    let mut suffix = String::new();
    if let Some(rtt) = args.rtt {
        suffix.push_str(&format!("-rtt{}us", rtt.as_micros()));
    }
    if let Some(delay) = args.kms_delay {
        suffix.push_str(&format!("-kms{}us", delay.as_micros()));
    }
    if let Some(delay) = args.kme_link {
        suffix.push_str(&format!("-link{}us", delay.as_micros()));
    }
    let commit = results::commit()?;
    let mut whole = true;
    if native {
        let place = fresh("attach-native")?;
        whole &= on_host(args, &place, &commit)?;
        let file = place.join("attach.jsonl");
        results::keep(&file, &format!("attach-native{suffix}"), args.store)?;
        whole &= frames(args, &place, &file)?;
    }
    if args.place != Where::Native {
        let place = fresh("attach-vm")?;
        whole &= in_vm(args, &place, &commit)?;
        results::keep(
            &place.join("attach.jsonl"),
            &format!("attach-vm{suffix}"),
            args.store,
        )?;
    }
    Ok(whole)
}

/// An empty directory for what is measured now.
pub(super) fn fresh(name: &str) -> Result<PathBuf> {
    let place = results::directory().join(name);
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::create_dir_all(&place)?;
    Ok(place)
}

/// The rig's words; `again` is how a reader measures the same.
fn words(args: &AttachArgs, place: Where, runs: usize, commit: &str, modes: &str) -> Vec<String> {
    let name = if place == Where::Vm { "vm" } else { "native" };
    let mut again =
        format!("cargo xtask bench attach --where {name} --runs {runs} --modes {modes}");
    let mut words: Vec<String> = ["bench", "attach", "--place", name, "--modes", modes]
        .map(str::to_owned)
        .to_vec();
    words.extend(["--runs".to_owned(), runs.to_string()]);
    words.extend(["--commit".to_owned(), commit.to_owned()]);
    for (flag, rig, value) in [
        ("--rtt", "--rtt-ms", args.rtt),
        ("--kms-delay", "--kms-delay-ms", args.kms_delay),
        ("--kme-link", "--kme-link-ms", args.kme_link),
    ] {
        if let Some(value) = value {
            let ms = value.as_secs_f64() * 1000.0;
            again.push_str(&format!(" {flag} {ms}ms"));
            words.extend([rig.to_owned(), ms.to_string()]);
        }
    }
    words.extend(["--again".to_owned(), again]);
    words
}

fn on_host(args: &AttachArgs, place: &Path, commit: &str) -> Result<bool> {
    let modes = args.modes.join(",");
    rig(
        place,
        words(args, Where::Native, args.runs, commit, &modes),
        &[],
    )
}

/// The rig on this host, without IPsec; `load` is for what the rig starts.
pub(super) fn rig(place: &Path, words: Vec<String>, load: &[String]) -> Result<bool> {
    let bin = artifacts::directory();
    let status = Command::new(bin.join("rig"))
        .args(words)
        .arg("--recording")
        .arg("--results")
        .arg(place)
        .arg("--bin-dir")
        .arg(&bin)
        .args(load.first().map(|_| "--"))
        .args(load)
        .status()
        .context("cannot start the rig")?;
    Ok(status.success())
}

/// One attach of each mode under a capture, taken apart; whether that worked for each. Octets depend on neither kernel
/// nor load.
fn frames(args: &AttachArgs, place: &Path, machine: &Path) -> Result<bool> {
    // Where the keys come from, no frame tells.
    let modes: Vec<&str> = args.modes.iter().map(String::as_str).collect();
    let modes: Vec<&str> = modes
        .into_iter()
        .filter(|mode| *mode != "qkd-ahead")
        .collect();
    let modes = modes.join(",");
    let words = ["bench", "frames", "--modes", &modes].map(str::to_owned);
    if !rig(place, words.to_vec(), &[])? {
        bail!("the captures failed");
    }
    let output = place.join("frames.jsonl");
    let status = results::reporter()?
        .arg("frames")
        .arg("--captures")
        .arg(place)
        .arg("--machine")
        .arg(machine)
        .arg("--output")
        .arg(&output)
        .args([
            "--again",
            &format!("cargo xtask bench attach --where native --modes {modes}"),
        ])
        .status()
        .context("cannot start bench-report")?;
    if output.is_file() {
        results::keep(&output, "frames", args.store)?;
    }
    Ok(status.success())
}

fn in_vm(args: &AttachArgs, place: &Path, commit: &str) -> Result<bool> {
    compiler::build_object()?;
    let modes = args.modes.join(",");
    let runs = args.vm_runs.unwrap_or(args.runs);
    let mut command = vec![format!("{}/rig", Payload::BIN)];
    command.extend(words(args, Where::Vm, runs, commit, &modes));
    let more = [
        "--results",
        "/results",
        "--bpf-object",
        Payload::BPF_OBJECT,
        "--bin-dir",
        Payload::BIN,
    ];
    command.extend(more.map(str::to_owned));
    let mut job = Job::command(args.kernel, command);
    artifacts::take_along(&mut job.payload)?;
    job.env = vm::tests::environment();
    job.results = Some(place.to_path_buf());
    job.timeout = Duration::from_secs(3600);
    Ok(vm::run(&job)?.code == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("1.5ms"), Ok(Duration::from_micros(1500)));
        assert_eq!(duration("800us"), Ok(Duration::from_micros(800)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["", "20", "ms", "20 m", "-1ms", "1h", "nanms"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_reader_is_told_how_to_measure_the_same() {
        let args = AttachArgs {
            runs: 5,
            vm_runs: None,
            modes: vec!["qkd".to_owned()],
            rtt: Some(Duration::from_millis(20)),
            kms_delay: None,
            kme_link: None,
            place: Where::Vm,
            kernel: kernel::Line::V6_12,
            store: false,
        };
        let words = words(&args, Where::Vm, 5, "abc", "qkd");
        assert_eq!(
            words.last().map(String::as_str),
            Some("cargo xtask bench attach --where vm --runs 5 --modes qkd --rtt 20ms")
        );
        assert!(words.windows(2).any(|two| two == ["--rtt-ms", "20"]));
    }
}
