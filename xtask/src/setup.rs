//! `cargo xtask setup`: what the other chores need from this host, whether it
//! is there, and getting it.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{compiler, paths, proc};

/// How far setup may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    /// Install without asking.
    Yes,
    /// Ask on a terminal; without one, install.
    Ask,
}

/// A program and the Debian package it comes from.
struct Tool {
    program: &'static str,
    package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// Programs the chores call.
const TOOLS: &[Tool] = &[
    tool("cc", "gcc"),
    tool("strip", "binutils"),
    tool("xz", "xz-utils"),
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("busybox", "busybox-static"),
    tool("depmod", "kmod"),
    tool("ip", "iproute2"),
    tool("bpftool", "bpftool"),
    tool("tcpdump", "tcpdump"),
    tool("tshark", "tshark"),
    tool("openssl", "openssl"),
    tool("nft", "nftables"),
    tool("promtool", "prometheus"),
    tool("ping", "iputils-ping"),
    tool("ethtool", "ethtool"),
    tool("setpriv", "util-linux"),
];

/// Debian's compiler for the eBPF object, where rustup offers none.
const COMPILER: &[&str] = &["rustc-web", "rust-web-src"];
/// The LLVM that bpf-linker is linked with, of the version of that compiler.
const LLVM: &str = "llvm-22-dev";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// What is missing, each with the way to get it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    packages: Vec<&'static str>,
    /// Programs that `cargo install` provides: name, arguments, environment.
    cargo: Vec<CargoInstall>,
}

#[derive(Debug, PartialEq, Eq)]
struct CargoInstall {
    program: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const BPF_LINKER: CargoInstall = CargoInstall {
    program: "bpf-linker",
    arguments: &["--locked", "--no-default-features", "--features", "llvm-22"],
    environment: &[("LLVM_PREFIX", LLVM_PREFIX)],
};
const CARGO_DENY: CargoInstall = CargoInstall {
    program: "cargo-deny",
    arguments: &["--locked"],
    environment: &[],
};

const CARGO_FUZZ: CargoInstall = CargoInstall {
    program: "cargo-fuzz",
    arguments: &["--locked"],
    environment: &[],
};

impl CargoInstall {
    fn shell(&self) -> String {
        let environment: String = self
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={value} "))
            .collect();
        format!(
            "{environment}cargo install {} {}",
            self.program,
            self.arguments.join(" ")
        )
    }
}

impl Missing {
    fn look(ci: bool) -> Self {
        let mut missing = Self::default();
        for tool in TOOLS {
            let present = match tool.program {
                // A dynamically linked busybox is of no use in an initramfs.
                "busybox" => Path::new("/usr/share/doc/busybox-static").is_dir(),
                name => paths::which(name).is_some(),
            };
            if !present {
                missing.packages.push(tool.package);
            }
        }
        if compiler::detect().is_none() {
            missing.packages.extend(COMPILER);
        }
        if installed("bpf-linker").is_none() {
            if !Path::new(LLVM_PREFIX).join("bin/llvm-config").is_file() {
                missing.packages.push(LLVM);
            }
            missing.cargo.push(BPF_LINKER);
        }
        if ci && installed("cargo-deny").is_none() {
            missing.cargo.push(CARGO_DENY);
        }
        missing
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.cargo.is_empty()
    }

    fn commands(&self) -> Vec<String> {
        let mut commands = Vec::new();
        if !self.packages.is_empty() {
            commands.push(format!(
                "apt-get install --no-install-recommends {}",
                self.packages.join(" ")
            ));
        }
        commands.extend(self.cargo.iter().map(CargoInstall::shell));
        commands
    }
}

fn installed(program: &str) -> Option<std::path::PathBuf> {
    let own = paths::cargo_bin().join(program);
    if own.is_file() {
        Some(own)
    } else {
        paths::which(program)
    }
}

/// Makes sure that there is a cargo-fuzz, which `cargo xtask fuzz` alone needs.
pub(crate) fn fuzzer(consent: Consent) -> Result<()> {
    if installed(CARGO_FUZZ.program).is_some() {
        return Ok(());
    }
    let missing = Missing {
        cargo: vec![CARGO_FUZZ],
        ..Missing::default()
    };
    let command = CARGO_FUZZ.shell();
    eprintln!("setup: cargo-fuzz is missing on this host; this gets it: {command}");
    if !agreed(consent, false)? {
        bail!("cargo-fuzz is missing: {command}");
    }
    install(&missing)
}

/// Makes sure that everything is there; `ci` adds what only `.ci/run` needs.
pub(crate) fn run(consent: Consent, ci: bool) -> Result<()> {
    let missing = Missing::look(ci);
    if !missing.is_empty() {
        eprintln!("setup: missing on this host; these commands get it (as root):");
        for command in missing.commands() {
            eprintln!("    {command}");
        }
        if !agreed(consent, !missing.packages.is_empty())? {
            bail!("run the commands above, or `cargo xtask setup --yes` as root");
        }
        install(&missing)?;
        let still = Missing::look(ci);
        if !still.is_empty() {
            bail!(
                "still missing after the installation: {}",
                still.commands().join("; ")
            );
        }
    }
    if let Some(compiler) = compiler::detect() {
        eprintln!("setup: everything is there; eBPF compiler: {compiler}");
    }
    Ok(())
}

fn agreed(consent: Consent, packages: bool) -> Result<bool> {
    if packages && !is_root()? {
        return Ok(false);
    }
    let terminal = std::io::stdin().is_terminal();
    if consent == Consent::Yes || !terminal {
        return Ok(true);
    }
    eprint!("install now? [Y/n] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "" | "y" | "Y" | "yes"))
}

/// Whether this process may install packages and make namespaces.
pub(crate) fn is_root() -> Result<bool> {
    Ok(proc::output(Command::new("id").arg("-u"))?.trim() == "0")
}

fn install(missing: &Missing) -> Result<()> {
    let logs = paths::target().join("setup");
    if !missing.packages.is_empty() {
        if paths::which("apt-get").is_none() {
            bail!("this host has no apt-get: install the programs by its own means");
        }
        let install = || {
            let mut apt = Command::new("apt-get");
            apt.args(["install", "--yes", "--no-install-recommends"])
                .args(&missing.packages)
                .env("DEBIAN_FRONTEND", "noninteractive");
            proc::run_logged(
                "installing Debian packages",
                &logs.join("apt.log"),
                &mut apt,
            )
        };
        if install().is_err() {
            // The first run of a machine has no package lists, or old ones.
            let mut update = Command::new("apt-get");
            update.arg("update");
            proc::run_logged(
                "updating the package lists",
                &logs.join("update.log"),
                &mut update,
            )?;
            install().context("a package that Debian 12 offers could not be installed")?;
        }
    }
    for item in &missing.cargo {
        let mut cargo = Command::new("cargo");
        cargo.arg("install").arg(item.program).args(item.arguments);
        cargo.envs(item.environment.iter().copied());
        // Not into this workspace's target directory, and not with its toolchain file.
        cargo.current_dir("/").env_remove("CARGO_TARGET_DIR");
        let log = logs.join(format!("{}.log", item.program));
        proc::run_logged(&format!("building {}", item.program), &log, &mut cargo)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_as_documented() {
        let missing = Missing {
            packages: vec!["kmod", "tshark"],
            cargo: vec![BPF_LINKER],
        };
        assert_eq!(
            missing.commands(),
            [
                "apt-get install --no-install-recommends kmod tshark",
                "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker \
                 --locked --no-default-features --features llvm-22",
            ]
        );
        assert!(Missing::default().commands().is_empty());
    }
}
