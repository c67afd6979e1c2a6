//! strongSwan's Debian packages, downloaded and unpacked, never installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::fresh;
use crate::vm::Payload;
use crate::{paths, proc};

/// Debian packages that charon, swanctl and the plugins in use are in.
const PACKAGES: &[&str] = &[
    "charon-systemd",
    "libcharon-extauth-plugins",
    "libcharon-extra-plugins",
    "libstrongswan",
    "libstrongswan-extra-plugins",
    "libstrongswan-standard-plugins",
    "strongswan-libcharon",
    "strongswan-swanctl",
];

/// The first suite whose strongSwan has ML-KEM: 6.0.1 of Debian 13 (trixie) knows its names, and none of its plugins
/// implements it.
const NEWER: &str = "forky";

/// Where those packages are in the virtual machine.
pub(super) const NEWER_IN_VM: &str = "/opt/strongswan";

/// The packages, unpacked under `target`: nothing of them is installed, so that no daemon of theirs
/// starts on this host.
pub(super) fn usual() -> Result<PathBuf> {
    let place = paths::target().join("interop");
    let root = place.join("root");
    let list = root.join("packages");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&list).is_ok_and(|present| present == wanted) {
        return Ok(root);
    }
    let staging = place.join("packages");
    fresh(&staging)?;
    let log = staging.join("apt.log");
    let download = || {
        let mut apt = Command::new("apt-get");
        apt.current_dir(&staging).arg("download").args(PACKAGES);
        proc::run_logged("downloading strongSwan", &log, &mut apt)
    };
    if download().is_err() {
        // The first run of a machine has no package lists, or old ones.
        let mut update = Command::new("apt-get");
        update.arg("update");
        let log = staging.join("update.log");
        proc::run_logged("updating the package lists", &log, &mut update)?;
        download().context("Debian's strongSwan packages cannot be had")?;
    }
    unpack(&staging, &staging.join("root"), &root)?;
    fs::write(&list, wanted)?;
    Ok(root)
}

/// Unpacks all packages of a directory, in `staging` first.
fn unpack(packages: &Path, staging: &Path, root: &Path) -> Result<()> {
    for entry in fs::read_dir(packages)? {
        let package = entry?.path();
        if package.extension().is_some_and(|ending| ending == "deb") {
            proc::output(Command::new("dpkg").arg("-x").arg(&package).arg(staging))?;
        }
    }
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    fs::rename(staging, root).context("no package was downloaded")
}

/// The packages of [`NEWER`], with everything they need down to the C library, unpacked under `target`; or why
/// they are not there, in words for the table.
pub(super) fn newer() -> Result<PathBuf, String> {
    let place = paths::target().join("interop").join("newer");
    newer_in(&place).map_err(|error| {
        eprintln!("interop: {error:#}");
        format!("the packages of Debian's {NEWER} cannot be had here")
    })
}

fn newer_in(place: &Path) -> Result<PathBuf> {
    let root = place.join("root");
    let list = root.join("packages");
    let wanted = format!("{NEWER}: {}", PACKAGES.join(" "));
    if fs::read_to_string(&list).is_ok_and(|present| present == wanted) {
        return Ok(root);
    }
    fresh(place)?;
    let settings = private_apt(place, &mirror()?)?;
    let apt = |what: &str, log: &str, words: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.env("APT_CONFIG", &settings).args(words).args(PACKAGES);
        proc::run_logged(what, &place.join(log), &mut apt)
    };
    let mut update = Command::new("apt-get");
    update.env("APT_CONFIG", &settings).arg("update");
    proc::run_logged(
        &format!("the package lists of {NEWER}"),
        &place.join("update.log"),
        &mut update,
    )?;
    apt(
        &format!("downloading strongSwan of {NEWER}"),
        "apt.log",
        &["install", "--yes", "--download-only"],
    )?;
    unpack(
        &place.join("cache/archives"),
        &place.join("unpacked"),
        &root,
    )?;
    fs::write(&list, wanted)?;
    Ok(root)
}

/// Where this host's own suite comes from.
fn mirror() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("this host does not say which suite it is of")?;
    let text = proc::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(RELEASE) $(COMPONENT) $(REPO_URI)",
        "Identifier: Packages",
    ]))?;
    mirror_of(&text, suite.trim_matches('"'))
        .map(str::to_owned)
        .with_context(|| format!("apt has no source of {suite} main"))
}

fn mirror_of<'a>(targets: &'a str, suite: &str) -> Option<&'a str> {
    targets
        .lines()
        .find_map(|line| line.strip_prefix(suite)?.strip_prefix(" main "))
}

/// An apt of its own: lists, cache and an empty system, so that it fetches every dependency and this host's apt
/// knows nothing of it.
fn private_apt(place: &Path, mirror: &str) -> Result<PathBuf> {
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(place.join(directory))?;
    }
    fs::write(
        place.join("sources.list"),
        format!("deb {mirror} {NEWER} main\n"),
    )?;
    fs::write(place.join("status"), "")?;
    let settings = place.join("apt.conf");
    let place = place.display();
    fs::write(
        &settings,
        format!(
            "Dir::Etc::sourcelist \"{place}/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::State::lists \"{place}/lists/\";\n\
             Dir::State::status \"{place}/status\";\n\
             Dir::Cache \"{place}/cache/\";\n\
             APT::Update::Error-Mode \"any\";\n\
             APT::Install-Recommends \"0\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"1\";\n\
             Acquire::http::Timeout \"20\";\n\
             Acquire::https::Timeout \"20\";\n"
        ),
    )?;
    Ok(settings)
}

/// charon, swanctl, the plugins and what they load, as files of the virtual machine.
pub(super) fn take_newer_along(root: &Path, payload: &mut Payload) -> Result<()> {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let linker = libraries.join("ld-linux-x86-64.so.2");
    let mut files = vec![
        linker.clone(),
        // Loaded by the C library when a thread ends.
        libraries.join("libgcc_s.so.1"),
        root.join("usr/sbin/charon-systemd"),
        root.join("usr/sbin/swanctl"),
    ];
    // The last: MD4 and DES of EAP-MSCHAPv2.
    for directory in [
        root.join("usr/lib/ipsec"),
        root.join("usr/lib/ipsec/plugins"),
        libraries.join("ossl-modules"),
    ] {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("{}", directory.display()))?;
        for entry in entries {
            files.push(entry?.path());
        }
    }
    let search = format!(
        "{}:{}",
        libraries.display(),
        root.join("usr/lib/ipsec").display()
    );
    let mut all = BTreeSet::new();
    for file in files.into_iter().filter(|file| file.is_file()) {
        let mut list = Command::new(&linker);
        list.args(["--library-path", &search, "--list"]).arg(&file);
        // The linker itself, and scripts, are no programs to it.
        let text = proc::output(&mut list).unwrap_or_default();
        all.extend(
            text.split_whitespace()
                .map(PathBuf::from)
                .filter(|path| path.starts_with(root)),
        );
        all.insert(file);
    }
    for file in all {
        let place = Path::new(NEWER_IN_VM).join(file.strip_prefix(root)?);
        payload.file(&place.display().to_string(), &fs::canonicalize(&file)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_the_suite_itself() {
        let targets = "old-security main a:/security/\nold-updates main a:/all/\nold contrib a:/else/\n\
                       old main a:/all/\n";
        assert_eq!(mirror_of(targets, "old"), Some("a:/all/"));
        assert_eq!(mirror_of(targets, "new"), None);
    }

    #[test]
    fn apt_is_kept_from_this_hosts_lists() {
        let place = tempfile::tempdir().unwrap();
        let settings = private_apt(place.path(), "a:/all/").unwrap();
        let output = Command::new("apt-config")
            .env("APT_CONFIG", settings)
            .args(["shell", "LISTS", "Dir::State::lists/d"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lists = place.path().join("lists").display().to_string();
        assert!(text.contains(&lists), "{text}");
    }
}
