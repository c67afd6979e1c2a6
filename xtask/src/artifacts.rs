//! What the project builds and where it ends up.

use std::path::PathBuf;
use std::process::Command;

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
];

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
    paths::target().join("release")
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
