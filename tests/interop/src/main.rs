//! `interop`: the matrix, here and now; `cargo xtask interop` brings it what it needs.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that reports"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Args, Parser};
use interop::{
    lab::{Lab, Places},
    matrix::{self, Extent, Situation},
    pki,
    session::{self, Outcome},
    strongswan::{self, Strongswan, Version},
    table::Report,
};

/// The IKEv2 engine against strongSwan
#[derive(Parser)]
enum Cli {
    /// Run the matrix (needs root)
    Run(Run),
    /// Put the table of a report into a document
    Document {
        /// `report.json` of a run
        report: PathBuf,
        /// Markdown with a section for the place of the run
        document: PathBuf,
    },
}

#[derive(Args)]
struct Run {
    /// The program `ikepeer`
    #[arg(long)]
    ikepeer: PathBuf,
    /// Root of strongSwan's unpacked packages; without it: installed
    #[arg(long)]
    root: Option<PathBuf>,
    /// Root of a newer strongSwan with every library it needs, for ML-KEM
    #[arg(long)]
    newer: Option<PathBuf>,
    /// Why there is none
    #[arg(long, conflicts_with = "newer", default_value = "no --newer was given")]
    no_newer: String,
    /// Generated files, logs, and `report.json`
    #[arg(long)]
    work: PathBuf,
    /// This kernel carries ESP: packets are to flow
    #[arg(long)]
    kernel_esp: bool,
    /// What to call this place
    #[arg(long, default_value = "native")]
    place: String,
    /// How much
    #[arg(long, value_enum, default_value_t = Extent::Usual)]
    extent: Extent,
    /// Only rows in whose description this occurs
    #[arg(long)]
    only: Option<String>,
    /// A line of counts in place of the table
    #[arg(long)]
    quiet: bool,
    /// The report as JSON on standard output
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

fn main() -> ExitCode {
    let result = match Cli::parse() {
        Cli::Run(arguments) => run(&arguments),
        Cli::Document { report, document } => document_of(&report, &document).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("interop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `6.12` of `6.12.90-cloud-amd64`: the rest is of one machine.
fn kernel_line(release: &str) -> String {
    let parts: Vec<&str> = release.trim().split('.').take(2).collect();
    parts.join(".")
}

fn document_of(report: &Path, document: &Path) -> Result<()> {
    let text = fs::read_to_string(report).with_context(|| format!("{}", report.display()))?;
    let report: Report = serde_json::from_str(&text).context("the report")?;
    report.write_into(document)
}

fn try_row(
    lab: &Lab,
    places: &Places,
    theirs: &mut Strongswan<'_>,
    row: &matrix::Row,
    report: &mut Report,
) -> Result<()> {
    report.outcomes.push(session::run(lab, places, theirs, row));
    // After each row, so that a run that is ended leaves what it has seen.
    write(places, report)
}

fn write(places: &Places, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    fs::write(places.work.join("report.json"), text).context("report.json")
}

fn run(cli: &Run) -> Result<bool> {
    strongswan::find(cli.root.as_deref())?;
    fs::create_dir_all(&cli.work)?;
    let places = Places {
        ikepeer: cli.ikepeer.clone(),
        work: fs::canonicalize(&cli.work)?,
        root: cli.root.clone(),
        newer: cli.newer.clone(),
        kernel_esp: cli.kernel_esp,
    };
    pki::make(&places.work.join("pki"))?;
    let lab = Lab::new()?;
    let mut theirs = Strongswan::start(&lab, &places, Version::Usual)?;
    let mut report = Report {
        peer: theirs.version()?,
        newer: None,
        place: cli.place.clone(),
        kernel: kernel_line(&fs::read_to_string("/proc/sys/kernel/osrelease")?),
        esp: match cli.kernel_esp {
            true => "Both sides have kernel ESP, and a mark stands for packets both ways, too.",
            false => {
                "Control plane alone: strongSwan has ESP in user space (`kernel-libipsec`), which claims a NAT so \
                 that all is on port 4500, and `ikepeer` has none."
            }
        }
        .to_owned(),
        outcomes: Vec::new(),
    };
    let rows = matrix::rows(cli.extent, cli.kernel_esp);
    let chosen = |row: &&matrix::Row| {
        cli.only
            .as_deref()
            .is_none_or(|part| format!("{row:?}").contains(part))
    };
    let rows: Vec<&matrix::Row> = rows.iter().filter(chosen).collect();
    let (newer, usual): (Vec<&matrix::Row>, Vec<&matrix::Row>) = rows
        .iter()
        .partition(|row| row.situation == Situation::MlKem);
    for row in usual {
        try_row(&lab, &places, &mut theirs, row, &mut report)?;
    }
    // Both want the same ports.
    drop(theirs);
    match &places.newer {
        Some(root) if !newer.is_empty() => {
            strongswan::find(Some(root))?;
            let mut theirs = Strongswan::start(&lab, &places, Version::Newer)?;
            report.newer = Some(theirs.version()?);
            for row in newer {
                try_row(&lab, &places, &mut theirs, row, &mut report)?;
            }
        }
        _ => {
            for row in newer {
                let why = format!("a strongSwan with ML-KEM: {}", cli.no_newer);
                report.outcomes.push(Outcome::not_run(row, &why));
            }
        }
    }
    write(&places, &report)?;
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else if cli.quiet {
        let counts = report.counts();
        println!(
            "{}: {} rows, {} marks held, {} failed, {} not run",
            report.peer,
            report.outcomes.len(),
            counts.held,
            counts.failed,
            counts.not_run
        );
    } else {
        println!("{}", report.markdown());
    }
    for (row, column, why) in report.failures() {
        eprintln!(
            "FAILED {} {} {:?} {:?} {column:?}: {why}",
            row.ike,
            row.auth.name(),
            row.begins,
            row.situation
        );
    }
    Ok(report.counts().failed == 0)
}
