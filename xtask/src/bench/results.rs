//! Result files: where they are, how they are kept, and the document made of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::{artifacts, paths, proc};

/// Where measurements leave their results.
pub(super) fn directory() -> PathBuf {
    paths::target().join("bench")
}

/// Where results are kept, beside the document.
fn stored() -> PathBuf {
    paths::root().join("docs").join("bench")
}

/// The commit, with `-dirty` when sources differ from it. Results and documents are no sources.
pub(super) fn commit() -> Result<String> {
    let git = |arguments: &[&str]| {
        proc::output(
            Command::new("git")
                .current_dir(paths::root())
                .args(arguments),
        )
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--", ".", ":!docs", ":!*.md"])?;
    let dirty = if changed.trim().is_empty() {
        ""
    } else {
        "-dirty"
    };
    Ok(format!("{}{dirty}", commit.trim()))
}

/// Puts a result file among the others, under `name`.
pub(super) fn keep(from: &Path, name: &str, store: bool) -> Result<()> {
    let mut places = vec![directory()];
    if store {
        places.push(stored());
    }
    for place in places {
        fs::create_dir_all(&place)?;
        let to = place.join(format!("{name}.jsonl"));
        if from != to {
            fs::copy(from, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
        eprintln!("  results: {}", to.display());
    }
    Ok(())
}

/// Builds and returns `bench-report`.
pub(super) fn reporter() -> Result<Command> {
    Ok(Command::new(artifacts::build_reporter()?))
}

/// Tables and pictures of what was just measured, in `target/bench/report`.
pub(super) fn show() -> Result<()> {
    let home = directory().join("report");
    fs::create_dir_all(&home)?;
    let document = home.join("benchmarks.md");
    proc::run(
        reporter()?
            .arg("document")
            .arg("--results")
            .arg(directory())
            .arg("--document")
            .arg(&document)
            .arg("--pictures")
            .arg(home.join("img")),
    )?;
    println!("{}", fs::read_to_string(&document)?);
    eprintln!("  tables and pictures: {}", home.display());
    Ok(())
}

/// What the stored results have to reach.
pub(super) fn targets() -> Result<ExitCode> {
    let status = reporter()?
        .arg("targets")
        .arg("--results")
        .arg(stored())
        .status()
        .context("cannot start bench-report")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `docs/benchmarks.md` of what is stored.
pub(super) fn document() -> Result<()> {
    let docs = paths::root().join("docs");
    if !stored().is_dir() {
        bail!(
            "no stored results in {}: `cargo xtask bench all`",
            stored().display()
        );
    }
    proc::run(
        reporter()?
            .arg("document")
            .arg("--results")
            .arg(stored())
            .arg("--document")
            .arg(docs.join("benchmarks.md"))
            .arg("--pictures")
            .arg(docs.join("img").join("bench")),
    )?;
    eprintln!("  {}", docs.join("benchmarks.md").display());
    Ok(())
}
