//! Debian's cloud kernels, fetched without installing anything on the host:
//! `apt-get download` and `dpkg -x` into `target/vm/kernel-<line>/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::{paths, proc};

/// A kernel line that the project is tried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Line {
    /// Linux 6.12 (tcx)
    #[value(name = "6.12")]
    V6_12,
    /// Linux 6.1 (clsact)
    #[value(name = "6.1")]
    V6_1,
}

impl Line {
    /// The version numbers every release of this line begins with.
    fn prefix(self) -> &'static [u64] {
        match self {
            Self::V6_12 => &[6, 12],
            Self::V6_1 => &[6, 1],
        }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V6_12 => "6.12",
            Self::V6_1 => "6.1",
        })
    }
}

/// An unpacked kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// `uname -r` of it.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// `lib/modules/<release>`, with `modules.dep`.
    pub(crate) modules: PathBuf,
}

/// The newest kernel of the line that this host's archives offer, or the one
/// fetched earlier.
pub(crate) fn fetch(line: Line) -> Result<Kernel> {
    let dir = paths::vm().join(format!("kernel-{line}"));
    if let Some(kernel) = unpacked(&dir)? {
        return Ok(kernel);
    }
    let package = newest(line)?;
    eprintln!("  Linux {line}: package {package}");
    // Unpacked next to its place and renamed, so that an interrupted run
    // leaves nothing that looks complete.
    let staging = paths::vm().join(format!("kernel-{line}.{}", std::process::id()));
    fs::create_dir_all(&staging)?;
    let log = paths::vm().join("logs").join(format!("fetch-{line}.log"));
    let download = || {
        let mut command = Command::new("apt-get");
        command.args(["download", &package]).current_dir(&staging);
        proc::run_logged(&format!("downloading {package}"), &log, &mut command)
    };
    if let Err(first) = download() {
        // Package lists older than the archive name files that are gone.
        let mut update = Command::new("apt-get");
        update.arg("update");
        proc::run_logged("updating the package lists", &log, &mut update)
            .map_err(|_| first)
            .and_then(|()| download())?;
    }
    let deb = fs::read_dir(&staging)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| anyhow!("apt-get download left no package in {}", staging.display()))?;
    let mut unpack = Command::new("dpkg");
    unpack.arg("-x").arg(&deb).arg(&staging);
    proc::run_logged("unpacking the kernel", &log, &mut unpack)?;
    fs::remove_file(&deb)?;
    let release = release(&staging)?
        .ok_or_else(|| anyhow!("package {package} holds no kernel: {}", staging.display()))?;
    let depmod = paths::which("depmod").context("depmod is missing (Debian package kmod)")?;
    proc::run_logged(
        "indexing the kernel modules",
        &log,
        Command::new(depmod).arg("-b").arg(&staging).arg(&release),
    )?;
    fs::rename(&staging, &dir)
        .with_context(|| format!("cannot put the kernel at {}", dir.display()))?;
    unpacked(&dir)?.ok_or_else(|| anyhow!("no kernel at {}", dir.display()))
}

fn unpacked(dir: &Path) -> Result<Option<Kernel>> {
    let Some(release) = release(dir)? else {
        return Ok(None);
    };
    Ok(Some(Kernel {
        image: dir.join("boot").join(format!("vmlinuz-{release}")),
        modules: dir.join("lib/modules").join(&release),
        release,
    }))
}

fn release(dir: &Path) -> Result<Option<String>> {
    let Ok(entries) = fs::read_dir(dir.join("boot")) else {
        return Ok(None);
    };
    for entry in entries {
        let name = entry?.file_name();
        if let Some(release) = name.to_str().and_then(|n| n.strip_prefix("vmlinuz-")) {
            return Ok(Some(release.to_owned()));
        }
    }
    Ok(None)
}

fn newest(line: Line) -> Result<String> {
    let names = search()?;
    if let Some(name) = choose(line, &names) {
        return Ok(name.to_owned());
    }
    bail!(
        "no Linux {line} cloud kernel in this host's package archives.\n\
         Debian 12 has both in bookworm and bookworm-security: check /etc/apt/sources.list.d, run `apt-get update`"
    )
}

fn search() -> Result<Vec<String>> {
    let pattern = "^linux-image-6.*-cloud-amd64(-unsigned)?$";
    let list = proc::output(Command::new("apt-cache").args(["search", "--names-only", pattern]))
        .context("the kernels of the virtual machine come from Debian's archives")?;
    Ok(list
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

/// Picks the newest of the line; of two equal ones the unsigned, which needs
/// no shim of another package.
fn choose(line: Line, names: &[String]) -> Option<&str> {
    names
        .iter()
        .filter_map(|name| {
            let version = name.strip_prefix("linux-image-")?;
            let (version, _) = version.split_once("-cloud-amd64")?;
            let numbers: Vec<u64> = version
                .split(['.', '-', '+'])
                .map_while(|part| part.parse().ok())
                .collect();
            // The metapackages carry no full version.
            if numbers.len() < 3 || !numbers.starts_with(line.prefix()) {
                return None;
            }
            Some((numbers, name.ends_with("-unsigned"), name.as_str()))
        })
        .max()
        .map(|(_, _, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_line_is_chosen() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.12.99+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.117+deb12-cloud-amd64",
        ]
        .map(str::to_owned);
        assert_eq!(
            choose(Line::V6_1, &names),
            Some("linux-image-6.1.0-56-cloud-amd64-unsigned")
        );
        assert_eq!(
            choose(Line::V6_12, &names),
            Some("linux-image-6.12.117+deb12-cloud-amd64-unsigned")
        );
        assert_eq!(choose(Line::V6_12, names.get(..4).unwrap()), None);
    }
}
