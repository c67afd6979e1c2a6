//! The root file system of the virtual machine: one initramfs per kernel with
//! the tools and modules of [`TOOLS`] and [`MODULES`], cached by content.

use std::collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher};
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::BufWriter;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::kernel::Kernel;
use crate::{paths, proc};

const INIT: &str = include_str!("init.sh");

/// Programs that must be there; `busybox` fills in for everything else.
const TOOLS: &[&str] = &[
    "busybox", "dash", "bash", "ip", "ss", "tc", "bridge", "kmod", "bpftool", "tcpdump", "ping",
    "openssl", "nft",
];

/// Programs that are taken along when the host has them.
const EXTRAS: &[&str] = &["ethtool", "iperf3", "strace", "nstat", "setpriv", "sysctl"];

/// Modules loaded at boot (those built in are skipped). The kernel asks for
/// further ones itself through `/sbin/modprobe`.
const MODULES: &[&str] = &[
    // devices
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "veth",
    "tun",
    "dummy",
    "bridge",
    // IPsec
    "xfrm_user",
    "xfrm_interface",
    "esp4",
    "esp6",
    "esp4_offload",
    "esp6_offload",
    // transports
    "sctp",
    "sctp_diag",
    "udp_diag",
    "tcp_diag",
    "gre",
    "ip_gre",
    "af_packet",
    "netlink_diag",
    // traffic control
    "sch_ingress",
    "sch_netem",
    "cls_bpf",
    "act_bpf",
    // the NAT of a scenario
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_ct",
    // ciphers as ESP names them
    "gcm",
    "ctr",
    "cbc",
    "ghash_generic",
    "aesni_intel",
    "authenc",
    "authencesn",
    "seqiv",
    "echainiv",
    // seqiv and echainiv draw their salt from it
    "drbg",
];

/// Directories of modules that are there for the asking: which of them an
/// algorithm is made of differs between the lines.
const ON_DEMAND: &[&str] = &["kernel/crypto/", "kernel/arch/x86/crypto/"];

/// The base image for this kernel, written when it is not in the cache.
pub(crate) fn base(kernel: &Kernel) -> Result<PathBuf> {
    let tools = tools()?;
    let modules = closure(&kernel.modules)?;
    let mut hasher = DefaultHasher::new();
    (INIT, &kernel.release, MODULES, ON_DEMAND).hash(&mut hasher);
    for source in tools.values() {
        hash_file(source, &mut hasher)?;
    }
    let name = format!("base-{}-{:016x}.cpio", kernel.release, hasher.finish());
    let image = paths::vm().join(&name);
    if image.is_file() {
        return Ok(image);
    }
    remove_older(&format!("base-{}-", kernel.release))?;
    let staging = tempfile::tempdir_in(paths::vm())?;
    let partial = staging.path().join(name);
    let mut archive = Archive::new(BufWriter::new(fs::File::create(&partial)?));
    skeleton(&mut archive)?;
    for (path, source) in &tools {
        archive
            .file(path, source)
            .with_context(|| format!("cannot read {}", source.display()))?;
    }
    applets(&mut archive, &tools)?;
    add_modules(&mut archive, kernel, &modules, staging.path())?;
    archive.bytes("/init", 0o755, INIT.as_bytes())?;
    archive.finish()?;
    fs::rename(&partial, &image)?;
    Ok(image)
}

/// Everything the program at `path` loads: the interpreter and libraries that
/// `ldd` names, by their place in the image.
pub(crate) fn libraries(program: &Path) -> Result<BTreeMap<String, PathBuf>> {
    libraries_of(Command::new("ldd").arg(program), program)
}

/// The same for a program that looks into this directory first.
pub(crate) fn libraries_beside(
    program: &Path,
    directory: &Path,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program).env("LD_LIBRARY_PATH", directory);
    libraries_of(&mut ldd, program)
}

fn libraries_of(ldd: &mut Command, program: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let output = ldd.output().context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut found = BTreeMap::new();
    // `libc.so.6 => /lib/…/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`
    for line in text.lines().map(str::trim) {
        if line.contains("not found") {
            bail!(
                "{} needs a library that is missing: {line}",
                program.display()
            );
        }
        let target = line.split_once("=> ").map_or(line, |(_, target)| target);
        let Some(path) = target.split_whitespace().next() else {
            continue;
        };
        if path.starts_with('/') {
            found.insert(merged(path), PathBuf::from(path));
        }
    }
    Ok(found)
}

/// Mixes a file's identity into a cache key.
pub(crate) fn hash_file(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    (path, meta.size(), meta.mtime(), meta.mtime_nsec()).hash(hasher);
    Ok(())
}

/// `/lib/x` is `/usr/lib/x` in an image with merged `/usr`.
fn merged(path: &str) -> String {
    let top = ["/lib/", "/lib64/", "/bin/", "/sbin/"];
    if top.iter().any(|dir| path.starts_with(dir)) {
        format!("/usr{path}")
    } else {
        path.to_owned()
    }
}

fn tools() -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    let mut add = |name: &str, required: bool| -> Result<()> {
        let Some(found) = paths::which(name) else {
            if required {
                bail!("{name} is missing on this host: run `cargo xtask setup`");
            }
            return Ok(());
        };
        let place = match name {
            "dash" | "bash" | "busybox" | "kmod" => format!("/usr/bin/{name}"),
            _ => merged(&found.to_string_lossy()),
        };
        files.extend(libraries(&found)?);
        files.insert(place, fs::canonicalize(&found)?);
        Ok(())
    };
    for name in TOOLS {
        add(name, true)?;
    }
    for name in EXTRAS {
        add(name, false)?;
    }
    Ok(files)
}

fn skeleton<W: std::io::Write>(archive: &mut Archive<W>) -> Result<()> {
    for dir in [
        "proc", "sys", "dev", "run", "root", "job", "results", "usr/bin", "usr/sbin",
    ] {
        archive.directory(dir, 0o755)?;
    }
    archive.directory("tmp", 0o1777)?;
    archive.directory("var", 0o755)?;
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("var/run", "../run"),
        ("var/tmp", "../tmp"),
    ] {
        archive.symlink(link, target)?;
    }
    archive.device("dev/console", 0o600, (5, 1))?;
    archive.device("dev/null", 0o666, (1, 3))?;
    archive.bytes("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/bash\n")?;
    archive.bytes("etc/group", 0o644, b"root:x:0:\n")?;
    archive.bytes("etc/hosts", 0o644, b"127.0.0.1 localhost\n::1 localhost\n")?;
    archive.bytes(
        "etc/nsswitch.conf",
        0o644,
        b"hosts: files\npasswd: files\ngroup: files\n",
    )?;
    Ok(())
}

/// Links for busybox's applets and kmod's faces, where no real program is.
fn applets<W: std::io::Write>(
    archive: &mut Archive<W>,
    tools: &BTreeMap<String, PathBuf>,
) -> Result<()> {
    let taken: BTreeSet<&str> = tools
        .keys()
        .filter_map(|path| path.rsplit_once('/'))
        .map(|(_, name)| name)
        .collect();
    archive.symlink("usr/bin/sh", "dash")?;
    let kmod = ["modprobe", "insmod", "rmmod", "lsmod", "modinfo", "depmod"];
    for name in kmod {
        archive.symlink(&format!("usr/sbin/{name}"), "../bin/kmod")?;
    }
    let busybox = paths::which("busybox").context("busybox is missing")?;
    let list = proc::output(Command::new(busybox).arg("--list"))?;
    for name in list.lines() {
        if !taken.contains(name) && !kmod.contains(&name) && name != "sh" {
            archive.symlink(&format!("usr/bin/{name}"), "busybox")?;
        }
    }
    Ok(())
}

/// The wanted modules and all they depend on: paths below the module tree.
fn closure(tree: &Path) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(tree.join("modules.dep"))
        .with_context(|| format!("no modules.dep in {}", tree.display()))?;
    let built_in = fs::read_to_string(tree.join("modules.builtin")).unwrap_or_default();
    closure_of(MODULES, &text, &built_in)
        .with_context(|| format!("the kernel of {} lacks something", tree.display()))
}

/// [`closure`] over the texts of `modules.dep` and `modules.builtin`.
fn closure_of(names: &[&str], dependencies: &str, built_in: &str) -> Result<BTreeSet<String>> {
    let mut by_name = BTreeMap::new();
    for line in dependencies.lines() {
        if let Some((path, needs)) = line.split_once(':') {
            by_name.insert(module_name(path), (path, needs));
        }
    }
    let built_in: BTreeSet<String> = built_in.lines().map(module_name).collect();
    let mut wanted = BTreeSet::new();
    let mut missing = Vec::new();
    for name in names {
        match by_name.get(*name) {
            Some((path, needs)) => {
                wanted.insert((*path).to_owned());
                // modules.dep lists the transitive closure.
                wanted.extend(needs.split_whitespace().map(str::to_owned));
            }
            None if built_in.contains(*name) => {}
            None => missing.push(*name),
        }
    }
    if !missing.is_empty() {
        bail!("no module {}", missing.join(", "));
    }
    for (path, needs) in by_name.values() {
        if ON_DEMAND.iter().any(|dir| path.starts_with(dir)) {
            wanted.insert((*path).to_owned());
            wanted.extend(needs.split_whitespace().map(str::to_owned));
        }
    }
    Ok(wanted)
}

/// `kernel/net/xfrm/xfrm_user.ko.xz` -> `xfrm_user`.
fn module_name(path: &str) -> String {
    let file = path.rsplit_once('/').map_or(path, |(_, file)| file);
    file.split_once('.')
        .map_or(file, |(stem, _)| stem)
        .replace('-', "_")
}

/// Modules go in decompressed: unpacking xz is slow in an emulated machine.
fn add_modules<W: std::io::Write>(
    archive: &mut Archive<W>,
    kernel: &Kernel,
    modules: &BTreeSet<String>,
    staging: &Path,
) -> Result<()> {
    let relative = Path::new("lib/modules").join(&kernel.release);
    let tree = staging.join(&relative);
    fs::create_dir_all(&tree)?;
    for name in [
        "modules.order",
        "modules.builtin",
        "modules.builtin.modinfo",
    ] {
        let source = kernel.modules.join(name);
        if source.is_file() {
            fs::copy(source, tree.join(name))?;
        }
    }
    for module in modules {
        let place = tree.join(module.trim_end_matches(".xz"));
        if let Some(dir) = place.parent() {
            fs::create_dir_all(dir)?;
        }
        let source = kernel.modules.join(module);
        if module.ends_with(".xz") {
            let file = fs::File::create(&place)?;
            proc::run(Command::new("xz").arg("-dc").arg(&source).stdout(file))
                .with_context(|| format!("cannot unpack {}", source.display()))?;
        } else {
            fs::copy(&source, &place)?;
        }
    }
    let depmod = paths::which("depmod").context("depmod is missing (Debian package kmod)")?;
    proc::output(
        Command::new(depmod)
            .arg("-b")
            .arg(staging)
            .arg(&kernel.release),
    )?;
    add_tree(archive, &tree, &format!("/usr/{}", relative.display()))?;
    // The list of /init: in the order given, only what is there.
    let present: BTreeSet<String> = modules.iter().map(|m| module_name(m)).collect();
    let list: Vec<&str> = MODULES
        .iter()
        .copied()
        .filter(|m| present.contains(*m))
        .collect();
    archive.bytes("etc/modules", 0o644, list.join("\n").as_bytes())?;
    Ok(())
}

fn add_tree<W: std::io::Write>(archive: &mut Archive<W>, dir: &Path, place: &str) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<std::io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = format!("{place}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            add_tree(archive, &entry.path(), &path)?;
        } else {
            archive.file(&path, &entry.path())?;
        }
    }
    Ok(())
}

fn remove_older(prefix: &str) -> Result<()> {
    fs::create_dir_all(paths::vm())?;
    for entry in fs::read_dir(paths::vm())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_are_as_modprobe_knows_them() {
        assert_eq!(
            module_name("kernel/crypto/ghash-generic.ko.xz"),
            "ghash_generic"
        );
        assert_eq!(module_name("kernel/net/xfrm/xfrm_user.ko"), "xfrm_user");
        assert_eq!(module_name("veth.ko"), "veth");
    }

    #[test]
    fn dependencies_come_along() {
        let dependencies = "kernel/net/esp4.ko.xz: kernel/net/xfrm_algo.ko.xz kernel/lib/af.ko.xz\n\
                            kernel/net/xfrm_algo.ko.xz:\nkernel/net/other.ko.xz:\n\
                            kernel/crypto/ctr.ko.xz:\n";
        let wanted = closure_of(&["esp4", "cbc"], dependencies, "kernel/crypto/cbc.ko\n").unwrap();
        let all: Vec<&str> = wanted.iter().map(String::as_str).collect();
        assert_eq!(
            all,
            [
                "kernel/crypto/ctr.ko.xz",
                "kernel/lib/af.ko.xz",
                "kernel/net/esp4.ko.xz",
                "kernel/net/xfrm_algo.ko.xz"
            ]
        );
        let error = closure_of(&["esp4", "sctp"], dependencies, "").unwrap_err();
        assert!(error.to_string().contains("sctp"), "{error}");
    }

    #[test]
    fn libraries_of_a_program_are_found() {
        let found = libraries(Path::new("/bin/ls")).unwrap();
        assert!(
            found.keys().any(|path| path.contains("libc.so.6")),
            "{found:?}"
        );
        assert!(
            found.keys().all(|path| path.starts_with("/usr/")),
            "{found:?}"
        );
    }
}
