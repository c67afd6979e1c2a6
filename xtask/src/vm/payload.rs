//! The files of the host that a job takes into the machine: programs (with
//! the libraries they load, without debugging sections) and plain files.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::image;
use crate::{paths, proc};

/// Files by their place in the machine.
#[derive(Debug, Default)]
pub(crate) struct Payload {
    files: BTreeMap<String, PathBuf>,
}

impl Payload {
    /// Where the project's programs are in the machine.
    pub(crate) const BIN: &str = "/usr/local/sbin";
    /// Where the eBPF object is in the machine.
    pub(crate) const BPF_OBJECT: &str = "/usr/lib/n3iwf/n3iwf.bpf.o";

    /// A plain file.
    pub(crate) fn file(&mut self, place: &str, source: &Path) {
        self.files.insert(place.to_owned(), source.to_path_buf());
    }

    /// A program and the libraries it loads.
    pub(crate) fn program(&mut self, place: &str, source: &Path) -> Result<()> {
        self.files.extend(image::libraries(source)?);
        self.files.insert(place.to_owned(), stripped(source)?);
        Ok(())
    }

    /// A program when it is one (ELF), else a plain file.
    pub(crate) fn add(&mut self, place: &str, source: &Path) -> Result<()> {
        let head =
            fs::read(source).with_context(|| format!("cannot take {} along", source.display()))?;
        if head.starts_with(b"\x7fELF") && fs::metadata(source)?.permissions().mode() & 0o111 != 0 {
            self.program(place, source)
        } else {
            self.file(place, source);
            Ok(())
        }
    }

    /// The files of a directory of an unpacked package, and the libraries they load of this host;
    /// those of the package itself are in `own`.
    pub(crate) fn directory(&mut self, root: &Path, directory: &str, own: &Path) -> Result<()> {
        let place = root.join(directory);
        let entries =
            fs::read_dir(&place).with_context(|| format!("cannot read {}", place.display()))?;
        for entry in entries {
            let path = entry?.path();
            let (Some(name), true) = (path.file_name(), path.is_file()) else {
                continue;
            };
            if fs::read(&path)?.starts_with(b"\x7fELF") {
                // What needs more than this host has is a plugin for hardware that is not there.
                let Ok(mut libraries) = image::libraries_beside(&path, own) else {
                    continue;
                };
                libraries.retain(|_, source| !source.starts_with(root));
                self.files.extend(libraries);
            }
            let place = format!("/{directory}/{}", name.to_string_lossy());
            self.files.insert(place, fs::canonicalize(&path)?);
        }
        Ok(())
    }

    pub(super) fn write<W: Write>(&self, archive: &mut Archive<W>) -> Result<()> {
        for (place, source) in &self.files {
            archive
                .file(place, source)
                .with_context(|| format!("cannot take {} along", source.display()))?;
        }
        Ok(())
    }
}

static STRIPPING: Mutex<()> = Mutex::new(());

/// A copy without debugging sections, cached by the original's identity: they
/// are most of a debug build and of no use in the machine.
fn stripped(source: &Path) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    image::hash_file(source, &mut hasher)?;
    // Two machines may take the same program along.
    let _one = STRIPPING.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = paths::vm().join("stripped");
    fs::create_dir_all(&dir)?;
    let name = source
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let place = dir.join(format!("{name}.{:016x}", hasher.finish()));
    if place.is_file() {
        return Ok(place);
    }
    for entry in fs::read_dir(&dir)? {
        let path = entry?.path();
        if path.file_stem().is_some_and(|stem| stem == name.as_str()) {
            fs::remove_file(path)?;
        }
    }
    let staging = tempfile::NamedTempFile::new_in(&dir)?;
    proc::output(
        Command::new("strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(staging.path())
            .arg(source),
    )?;
    fs::set_permissions(staging.path(), fs::metadata(source)?.permissions())?;
    staging.persist(&place)?;
    Ok(place)
}
