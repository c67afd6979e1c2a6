//! The compiler for the eBPF object. `bpfel-unknown-none` is a tier-3 target:
//! `core` is built from source, so a compiler with its library sources next to
//! it is needed. Two ways to one are known:
//!
//! * rustup's nightly with the component `rust-src`;
//! * Debian's `rustc-web` with `rust-web-src` (a stable compiler; the unstable
//!   `-Z build-std` is allowed by `RUSTC_BOOTSTRAP=1`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::{paths, proc};

const CORE: &str = "lib/rustlib/src/rust/library/core/Cargo.toml";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can build `core` for the eBPF target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// The rustup toolchain of this name.
    Nightly(String),
    /// Debian's `rustc` of this path.
    Debian(PathBuf),
}

impl std::fmt::Display for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nightly(name) => write!(f, "rustup toolchain {name} with rust-src"),
            Self::Debian(path) => write!(
                f,
                "Debian's rustc-web at {} with rust-web-src",
                path.display()
            ),
        }
    }
}

/// The compiler to use, nightly preferred; `None` when this host has neither.
pub(crate) fn detect() -> Option<Compiler> {
    nightly(&rustup_home()).or_else(|| debian(Path::new(DEBIAN_RUSTC)))
}

fn rustup_home() -> PathBuf {
    std::env::var_os("RUSTUP_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".rustup"),
        PathBuf::from,
    )
}

fn nightly(rustup: &Path) -> Option<Compiler> {
    let toolchains = std::fs::read_dir(rustup.join("toolchains")).ok()?;
    let mut names: Vec<OsString> = toolchains
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join(CORE).is_file())
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    names
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        // `nightly-<host>` rather than one pinned to a date.
        .find(|name| name.starts_with("nightly-") && !name.contains("-20"))
        .map(Compiler::Nightly)
}

fn debian(rustc: &Path) -> Option<Compiler> {
    // The sysroot is the prefix of the program; asking it would cost a start.
    let prefix = rustc.parent()?.parent()?;
    (rustc.is_file() && prefix.join(CORE).is_file()).then(|| Compiler::Debian(rustc.to_path_buf()))
}

/// Builds the eBPF crate and puts the object where the daemons look for it.
pub(crate) fn build_object() -> Result<PathBuf> {
    let package = paths::root().join("n3iwf-ebpf");
    if !package.join("Cargo.toml").is_file() {
        return Err(anyhow!("there is no eBPF crate at {}", package.display()));
    }
    let compiler = detect().ok_or_else(|| {
        anyhow!("no compiler for the eBPF object on this host: run `cargo xtask setup`")
    })?;
    let mut cargo = Command::new("cargo");
    // What rustup and cargo set for this very process must not leak.
    for name in [
        "RUSTUP_TOOLCHAIN",
        "RUSTC",
        "RUSTFLAGS",
        "CARGO",
        "CARGO_TARGET_DIR",
    ] {
        cargo.env_remove(name);
    }
    match &compiler {
        Compiler::Nightly(name) => {
            cargo.arg(format!("+{name}"));
        }
        Compiler::Debian(rustc) => {
            cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
        }
    }
    cargo
        .args([
            "build",
            "--release",
            "-Z",
            "build-std=core",
            "--target",
            "bpfel-unknown-none",
        ])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(&package)
        // --btf: map keys and values carry their types, so that bpftool names them.
        .env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf")
        .env("PATH", path_with_cargo_bin()?);
    eprintln!("  eBPF object: {compiler}");
    let out = cargo
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !out.status.success() {
        return Err(anyhow!("failed ({}): {}", out.status, proc::show(&cargo)));
    }
    let built = executable(&String::from_utf8_lossy(&out.stdout), &package)
        .ok_or_else(|| anyhow!("cargo built no eBPF program"))?;
    let object = paths::bpf_object();
    if let Some(dir) = object.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::copy(&built, &object)
        .with_context(|| format!("cannot copy {} to {}", built.display(), object.display()))?;
    Ok(object)
}

/// The program among cargo's messages.
fn executable(messages: &str, package: &Path) -> Option<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Message {
        reason: String,
        manifest_path: Option<PathBuf>,
        executable: Option<PathBuf>,
        #[serde(default)]
        filenames: Vec<PathBuf>,
        target: Option<Target>,
    }
    #[derive(serde::Deserialize)]
    struct Target {
        kind: Vec<String>,
    }
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter(|message| {
            message
                .manifest_path
                .as_deref()
                .is_some_and(|p| p.starts_with(package))
        })
        .filter(|m| {
            m.target
                .as_ref()
                .is_some_and(|t| t.kind.iter().any(|k| k == "bin"))
        })
        .filter_map(|message| {
            message
                .executable
                .or_else(|| message.filenames.into_iter().next())
        })
        .next_back()
}

fn path_with_cargo_bin() -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(paths::cargo_bin()).chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(dirs)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn touch(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    #[test]
    fn a_nightly_counts_only_with_the_library_sources() {
        let home = tempfile::tempdir().unwrap();
        let toolchain = home
            .path()
            .join("toolchains/nightly-x86_64-unknown-linux-gnu");
        fs::create_dir_all(&toolchain).unwrap();
        assert_eq!(nightly(home.path()), None);
        touch(toolchain.join(CORE));
        let found = nightly(home.path());
        assert_eq!(
            found,
            Some(Compiler::Nightly(
                "nightly-x86_64-unknown-linux-gnu".to_owned()
            ))
        );
    }

    #[test]
    fn debians_compiler_counts_only_with_the_library_sources() {
        let root = tempfile::tempdir().unwrap();
        let rustc = root.path().join("bin/rustc");
        touch(rustc.clone());
        assert_eq!(debian(&rustc), None);
        touch(root.path().join(CORE));
        assert_eq!(debian(&rustc), Some(Compiler::Debian(rustc)));
    }

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/w/x/Cargo.toml","target":{"kind":["lib"]},"filenames":["/t/libx.rlib"],"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/e/Cargo.toml","target":{"kind":["bin"]},"filenames":["/t/e"],"executable":"/t/e"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            executable(messages, Path::new("/w/e")),
            Some(PathBuf::from("/t/e"))
        );
        assert_eq!(executable(messages, Path::new("/w/other")), None);
    }
}
