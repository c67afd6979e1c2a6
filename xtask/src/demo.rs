//! `cargo xtask demo`: the whole thing in one command.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::vm::{self, Job, Payload, kernel};
use crate::{artifacts, compiler, host, paths, setup};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Where {
    /// Here when this kernel has everything, else in a virtual machine
    Auto,
    /// In network namespaces of this host
    Host,
    /// In a virtual machine
    Vm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Binary key IDs, AES-256-GCM, no certificate
    Native,
    /// The messages of the paper, octet for octet
    Paper,
}

impl Profile {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Paper => "paper",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyMode {
    /// QKD keys directly, no key exchange
    Qkd,
    /// Diffie-Hellman, ML-KEM, and a QKD key as PPK (RFC 9867)
    Hybrid,
    /// Diffie-Hellman and K_N3IWF: the 3GPP standard
    Psk,
    /// Diffie-Hellman and certificates of both ends
    Cert,
}

impl KeyMode {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Qkd => "qkd",
            Self::Hybrid => "hybrid",
            Self::Psk => "psk",
            Self::Cert => "cert",
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// How the keys of IKE come about
    #[arg(long, value_enum, default_value_t = KeyMode::Qkd)]
    mode: KeyMode,
    /// The wire profile of the QKD mode
    #[arg(long, value_enum, default_value_t = Profile::Native)]
    profile: Profile,
    /// Kernel of the virtual machine
    #[arg(long, value_enum, default_value_t = kernel::Line::V6_12)]
    kernel: kernel::Line,
    /// Where to run
    #[arg(long = "where", value_enum, default_value_t = Where::Auto)]
    place: Where,
    /// Capture NWu (and N2/N3 beside it) and write the key table to open it
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Relay user packets by eBPF instead of in user space
    #[arg(long)]
    kernel_relay: bool,
    /// Leave everything up afterwards and say how to look at it
    #[arg(long)]
    keep: bool,
    /// The report as JSON on standard output
    #[arg(long)]
    json: bool,
    /// Use what is built, without looking for changes
    #[arg(long)]
    no_build: bool,
}

/// Sets up, builds, runs the demonstration; exit code 0 only when every step held.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    setup::run(setup::Consent::Ask, false)?;
    if !args.no_build {
        artifacts::build_programs()?;
        compiler::build_object()?;
    }
    if choose(args)? {
        in_vm(args)
    } else {
        on_host(args)
    }
}

/// The demonstration as a test, in the virtual machine and from what is built: with captures, and
/// with what tshark says of them. Whether everything held.
pub(crate) fn as_test(mode: KeyMode, profile: Profile, capture: PathBuf) -> Result<bool> {
    let args = DemoArgs {
        mode,
        profile,
        kernel: kernel::Line::V6_12,
        place: Where::Vm,
        pcap: Some(capture),
        kernel_relay: false,
        keep: false,
        json: false,
        no_build: true,
    };
    if paths::which("tshark").is_none() {
        bail!("tshark is missing: `cargo xtask setup` installs it");
    }
    Ok(in_vm(&args)? == ExitCode::SUCCESS)
}

/// Whether it is to be the virtual machine; says why.
fn choose(args: &DemoArgs) -> Result<bool> {
    if args.place == Where::Vm {
        eprintln!(
            "where: virtual machine with Linux {}, as asked for",
            args.kernel
        );
        return Ok(true);
    }
    let missing = host::missing()?;
    let release = host::release()?;
    if missing.is_empty() {
        eprintln!("where: namespaces of this host; its kernel {release} has all that is needed");
        return Ok(false);
    }
    let missing = missing.join(", ");
    if args.place == Where::Host {
        bail!(
            "this host (Linux {release}) lacks {missing}; without --where host a virtual machine is used"
        );
    }
    eprintln!(
        "where: virtual machine with Linux {}, since this host (Linux {release}) lacks {missing}",
        args.kernel
    );
    Ok(true)
}

fn rig_arguments(args: &DemoArgs, results: &str, object: &str, bin: &str) -> Vec<String> {
    let profile = args.profile.name();
    let mut words: Vec<String> = [
        "demo",
        "--mode",
        args.mode.name(),
        "--profile",
        profile,
        "--results",
        results,
        "--bpf-object",
        object,
    ]
    .map(str::to_owned)
    .to_vec();
    words.extend(["--bin-dir".to_owned(), bin.to_owned()]);
    for (flag, wanted) in [
        ("--pcap", args.pcap.is_some()),
        ("--kernel-relay", args.kernel_relay),
        ("--keep", args.keep),
        ("--json", args.json),
    ] {
        if wanted {
            words.push(flag.to_owned());
        }
    }
    words
}

fn on_host(args: &DemoArgs) -> Result<ExitCode> {
    let results = results_directory()?;
    let bin = artifacts::directory();
    let object = paths::bpf_object();
    let status = Command::new(bin.join("rig"))
        .args(rig_arguments(
            args,
            &results.display().to_string(),
            &object.display().to_string(),
            &bin.display().to_string(),
        ))
        .status()
        .context("cannot start the rig")?;
    finish(args, &results, status.success())
}

fn in_vm(args: &DemoArgs) -> Result<ExitCode> {
    let results = results_directory()?;
    let mut words = vec![format!("{}/rig", Payload::BIN)];
    words.extend(rig_arguments(
        args,
        "/results",
        Payload::BPF_OBJECT,
        Payload::BIN,
    ));
    let mut job = Job::command(args.kernel, words);
    artifacts::take_along(&mut job.payload)?;
    job.env = vm::tests::environment();
    job.results = Some(results.clone());
    job.timeout = Duration::from_secs(600);
    if args.keep {
        job.mode = vm::Mode::Keep;
    }
    let outcome = vm::run(&job)?;
    if outcome.kept {
        eprintln!(
            "\nthe machine stays up:\n  \
             cargo xtask vm --attach      a root shell in it (leave with Ctrl-])\n  \
             cargo xtask vm --stop        switches it off"
        );
    }
    finish(args, &results, outcome.code == 0)
}

fn results_directory() -> Result<PathBuf> {
    let dir = paths::target().join("demo");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Puts the captures where they were asked for.
fn finish(args: &DemoArgs, results: &Path, ok: bool) -> Result<ExitCode> {
    if let Some(place) = &args.pcap {
        let table = place.with_extension("keys");
        let core = place.with_extension("n2n3.pcap");
        for (name, target) in [("nwu.pcap", place), ("n2n3.pcap", &core)] {
            let source = results.join(name);
            if source.is_file() {
                std::fs::copy(&source, target)
                    .with_context(|| format!("cannot write {}", target.display()))?;
                eprintln!("capture: {}", target.display());
            } else if ok {
                bail!("the rig left no {name}");
            }
        }
        let source = results.join("wireshark");
        if source.is_dir() {
            copy_tree(&source, &table)?;
            eprintln!("key tables: {}", table.display());
        }
        if ok {
            return dissect(args.mode, args.profile, place, &core, &table);
        }
    }
    if !ok {
        eprintln!("logs of the daemons: {}", results.display());
    }
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// An independent dissector on the captures: an error of its is an error of the demonstration.
fn dissect(
    mode: KeyMode,
    profile: Profile,
    nwu: &Path,
    core: &Path,
    keys: &Path,
) -> Result<ExitCode> {
    if paths::which("tshark").is_none() {
        eprintln!("captures not dissected: tshark is missing, `cargo xtask setup` installs it");
        return Ok(ExitCode::SUCCESS);
    }
    let status = Command::new(artifacts::directory().join("dissect"))
        .args(["--mode", mode.name(), "--profile", profile.name()])
        .arg("--nwu")
        .arg(nwu)
        .arg("--n2n3")
        .arg(core)
        .arg("--keys")
        .arg(keys)
        .arg("--octets")
        .status()
        .context("cannot start dissect")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
