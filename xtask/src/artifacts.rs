//! What the project builds and where it ends up.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Result;

use crate::vm::Payload;
use crate::{paths, proc};

/// The programs a user starts.
const PROGRAMS: &[&str] = &[
    "n3iwf-user",
    "n3iwfctl",
    "ue-user",
    "uectl",
    "kme",
    "core5g",
    "rig",
    "dissect",
    "load",
];

/// Makes tables and pictures of what is measured.
const REPORTER: &str = "bench-report";

/// Set for the rest of the process by [`build_tests`].
static TESTING: OnceLock<()> = OnceLock::new();

/// Builds all tests, and with them the programs, in the test profile: no dependency is compiled a
/// second time for the machine, and arithmetic that overflows is caught there, too. From now on
/// [`directory`] is theirs.
pub(crate) fn build_tests() -> Result<()> {
    TESTING.get_or_init(|| ());
    proc::run(Command::new("cargo").current_dir(paths::root()).args([
        "build",
        "--workspace",
        "--all-targets",
    ]))
}

/// Whether [`build_tests`] built everything.
pub(crate) fn testing() -> bool {
    TESTING.get().is_some()
}

/// Builds the programs, release profile.
pub(crate) fn build_programs() -> Result<()> {
    let mut cargo = optimised("build");
    cargo.arg("--release");
    for name in PROGRAMS {
        cargo.args(["--bin", name]);
    }
    proc::run(&mut cargo)
}

/// Builds the program that makes tables and pictures, release profile, and says where it is.
pub(crate) fn build_reporter() -> Result<PathBuf> {
    proc::run(optimised("build").args(["--release", "--quiet", "--bin", REPORTER]))?;
    Ok(paths::target().join("release").join(REPORTER))
}

/// A cargo command for optimised programs or measurements, which the caller names. All of them are chosen out of the
/// whole workspace: chosen by package, each choice has features of its own, and every dependency is compiled anew for it.
pub(crate) fn optimised(command: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args([command, "--workspace"]);
    cargo
}

/// Where the programs are.
pub(crate) fn directory() -> PathBuf {
    paths::target().join(if testing() { "debug" } else { "release" })
}

/// Puts what is built into a virtual machine's payload; what is not built is
/// left out, and whoever needs it says so.
pub(crate) fn take_along(payload: &mut Payload) -> Result<()> {
    for name in PROGRAMS {
        let program = directory().join(name);
        if program.is_file() {
            payload.program(&format!("{}/{name}", Payload::BIN), &program)?;
        }
    }
    if paths::bpf_object().is_file() {
        payload.file(Payload::BPF_OBJECT, &paths::bpf_object());
    }
    Ok(())
}
