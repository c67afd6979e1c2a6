//! `cargo xtask interop`: the IKEv2 engine against software of other makers, on this host and in
//! the virtual machine; the result is a table in `docs/interop.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::test::outcome::Counts;
use crate::vm::{self, Echo, Job, Payload, kernel};
use crate::{artifacts, paths, proc, setup};

mod packages;

/// Whose software.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// charon of Debian's packages
    Strongswan,
}

/// How much of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Extent {
    /// Two suites, and what is special
    Few,
    /// Each algorithm, key exchange method and authentication
    Quick,
    /// Each suite and each authentication with each key exchange method
    Usual,
    /// Every combination
    Full,
}

impl Extent {
    const fn name(self) -> &'static str {
        match self {
            Self::Few => "few",
            Self::Quick => "quick",
            Self::Usual => "usual",
            Self::Full => "full",
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct InteropArgs {
    /// Whose software
    #[arg(long, value_enum, default_value_t = Peer::Strongswan)]
    peer: Peer,
    /// Only on this host, without ESP in the kernel
    #[arg(long)]
    native: bool,
    /// Only in the virtual machine, with packets through both kernels' ESP
    #[arg(long, conflicts_with = "native")]
    vm: bool,
    /// How much; usual on this host, quick in the virtual machine
    #[arg(long, value_enum)]
    extent: Option<Extent>,
    /// Kernel of the virtual machine
    #[arg(long, value_enum, default_value_t = kernel::Line::V6_12)]
    kernel: kernel::Line,
    /// The reports as JSON; the document stays as it is
    #[arg(long)]
    json: bool,
}

/// The programs of the run.
const PROGRAMS: [&str; 2] = ["interop", "ikepeer"];

/// Runs the matrix in one place or both, and writes the table.
pub(crate) fn run(args: &InteropArgs) -> Result<ExitCode> {
    let Peer::Strongswan = args.peer;
    if !setup::is_root()? {
        bail!("namespaces need root");
    }
    let mut held = true;
    if !args.vm {
        held &= place("native", args.json, |work| {
            natively(args.extent.unwrap_or(Extent::Usual), work)
        })?;
    }
    if !args.native {
        held &= place("vm", args.json, |work| {
            in_vm(args.extent.unwrap_or(Extent::Quick), args.kernel, work)
        })?;
    }
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn place(name: &str, json: bool, work: impl FnOnce(&Path) -> Result<bool>) -> Result<bool> {
    let directory = paths::target().join("interop").join(name);
    let held = work(&directory)?;
    let report = directory.join("report.json");
    if json {
        print!("{}", fs::read_to_string(&report)?);
        return Ok(held);
    }
    let document = paths::root().join("docs").join("interop.md");
    proc::run(
        Command::new(program("interop"))
            .arg("document")
            .arg(&report)
            .arg(&document),
    )?;
    eprintln!("interop: {} has the table of this run", document.display());
    Ok(held)
}

/// As a stage of `cargo xtask test`.
pub(crate) fn as_test(line: Option<kernel::Line>) -> Result<Counts> {
    if !setup::is_root()? {
        return Ok(Counts {
            skipped: 1,
            reasons: vec!["strongSwan: namespaces need root".to_owned()],
            ..Counts::default()
        });
    }
    let work = paths::target().join("interop").join("test");
    match line {
        None => natively(Extent::Quick, &work)?,
        Some(line) => in_vm(Extent::Few, line, &work)?,
    };
    count(&work.join("report.json"))
}

#[derive(Deserialize)]
struct Report {
    outcomes: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    row: Row,
    marks: BTreeMap<String, Mark>,
}

/// What of a row tells it from others at a glance; the report has the rest.
#[derive(Deserialize)]
struct Row {
    ike: String,
}

#[derive(Deserialize)]
#[serde(tag = "mark", rename_all = "camelCase")]
enum Mark {
    Held,
    Failed { why: String },
    NotRun { why: String },
}

/// Every mark counts as a test; what cannot be run is skipped, each reason told once.
fn count(report: &Path) -> Result<Counts> {
    let text = fs::read_to_string(report).context("the run left no report")?;
    let report: Report = serde_json::from_str(&text).context("report.json")?;
    let mut counts = Counts::default();
    let marks = report.outcomes.iter().flat_map(|outcome| {
        let ike = &outcome.row.ike;
        outcome
            .marks
            .iter()
            .map(move |(column, mark)| (ike, column, mark))
    });
    for (ike, column, mark) in marks {
        match mark {
            Mark::Held => counts.passed += 1,
            Mark::Failed { why } => {
                println!("FAILED strongSwan: {why}");
                counts.fail(format!("{ike} {column}: {why}"));
            }
            Mark::NotRun { why } => {
                counts.skipped += 1;
                let reason = format!("strongSwan: {why}");
                if !counts.reasons.contains(&reason) {
                    counts.reasons.push(reason);
                }
            }
        }
    }
    if counts.passed == 0 {
        bail!("nothing held");
    }
    Ok(counts)
}

/// The test profile.
fn build() -> Result<()> {
    if artifacts::testing() {
        return Ok(());
    }
    proc::run(Command::new("cargo").current_dir(paths::root()).args([
        "build", "--quiet", "-p", "interop", "-p", "ikepeer", "--bins",
    ]))
}

fn program(name: &str) -> PathBuf {
    paths::target().join("debug").join(name)
}

fn natively(extent: Extent, work: &Path) -> Result<bool> {
    build()?;
    let root = packages::usual()?;
    let newer = packages::newer();
    fresh(work)?;
    let mut interop = Command::new(program("interop"));
    interop
        .args([
            "run",
            "--quiet",
            "--extent",
            extent.name(),
            "--place",
            "native",
        ])
        .arg("--ikepeer")
        .arg(program("ikepeer"))
        .arg("--root")
        .arg(&root)
        .arg("--work")
        .arg(work);
    match &newer {
        Ok(root) => interop.arg("--newer").arg(root),
        Err(why) => interop.arg("--no-newer").arg(why),
    };
    let status = interop.status().context("cannot start interop")?;
    Ok(status.success())
}

fn in_vm(extent: Extent, line: kernel::Line, work: &Path) -> Result<bool> {
    build()?;
    let root = packages::usual()?;
    let newer = packages::newer();
    fresh(work)?;
    let words = [
        &format!("{}/interop", Payload::BIN),
        "run",
        "--quiet",
        "--kernel-esp",
        "--place",
        "vm",
        "--extent",
        extent.name(),
        "--ikepeer",
        &format!("{}/ikepeer", Payload::BIN),
        "--work",
        "/results",
    ];
    let mut words = words.map(str::to_owned).to_vec();
    words.extend(match &newer {
        Ok(_) => ["--newer".to_owned(), packages::NEWER_IN_VM.to_owned()],
        Err(why) => ["--no-newer".to_owned(), why.clone()],
    });
    let mut job = Job::command(line, words);
    for name in PROGRAMS {
        let place = format!("{}/{name}", Payload::BIN);
        job.payload.program(&place, &program(name))?;
    }
    for directory in ["usr/sbin", "usr/lib/ipsec", "usr/lib/ipsec/plugins"] {
        let libraries = root.join("usr/lib/ipsec");
        job.payload.directory(&root, directory, &libraries)?;
    }
    if let Ok(newer) = &newer {
        packages::take_newer_along(newer, &mut job.payload)?;
    }
    // MD4 and DES of EAP-MSCHAPv2.
    let legacy = Path::new("/usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so");
    if legacy.is_file() {
        job.payload.file(&legacy.display().to_string(), legacy);
    }
    job.env = vm::tests::environment();
    job.results = Some(work.to_path_buf());
    job.timeout = Duration::from_secs(1500);
    job.echo = Echo::Show;
    Ok(vm::run(&job)?.code == 0)
}

/// Never the report of an earlier run.
fn fresh(work: &Path) -> Result<()> {
    if work.exists() {
        fs::remove_dir_all(work)?;
    }
    fs::create_dir_all(work)?;
    Ok(())
}
