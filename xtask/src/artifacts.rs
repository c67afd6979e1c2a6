//! What the project builds and where it ends up.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Result;

use crate::vm::Payload;
use crate::{paths, proc};

/// The programs a user starts: name and package.
const PROGRAMS: &[(&str, &str)] = &[
    ("n3iwf-user", "n3iwf-user"),
    ("n3iwfctl", "n3iwf-user"),
    ("ue-user", "ue-user"),
    ("uectl", "ue-user"),
    ("kme", "kme"),
    ("core5g", "core5g"),
    ("rig", "rig"),
    ("dissect", "e2e"),
    ("load", "load"),
];

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
    let mut packages: Vec<&str> = PROGRAMS.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args(["build", "--release", "--bins"]);
    for package in packages {
        cargo.args(["-p", package]);
    }
    proc::run(&mut cargo)
}

/// Where the programs are.
pub(crate) fn directory() -> PathBuf {
    paths::target().join(if testing() { "debug" } else { "release" })
}

/// Puts what is built into a virtual machine's payload; what is not built is
/// left out, and whoever needs it says so.
pub(crate) fn take_along(payload: &mut Payload) -> Result<()> {
    for (name, _) in PROGRAMS {
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
