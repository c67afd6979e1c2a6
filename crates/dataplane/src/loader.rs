//! What every user of the eBPF object needs: reading it, attaching its programs by what the kernel
//! has, and the pins of its maps.

use std::{
    error::Error as _,
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use aya::{
    Ebpf,
    maps::{Map, MapError},
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions, TcError},
    },
};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::{Error, kernel::lock, link::Links};

/// Where bpffs is mounted by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// How the programs hang on the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attachment {
    /// tcx links (Linux 6.6 and later).
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

impl std::fmt::Display for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// Structures of `ebpf-common` as aya wants them.
pub(crate) mod pod {
    #![allow(unsafe_code)]

    /// A structure of `ebpf-common`.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub(crate) struct Raw<T>(pub(crate) T);

    // SAFETY: only instantiated with `#[repr(C)]` structures of integers without padding, whose
    // layout `ebpf-common` tests; every bit pattern of those is a value.
    unsafe impl<T: Copy + 'static> aya::Pod for Raw<T> {}
}

/// What this kernel has.
pub(crate) fn attachment() -> Attachment {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Attachment::Tcx,
        Err(_) => Attachment::Clsact,
    }
}

pub(crate) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, Error> {
    ebpf.program_mut(name)
        .ok_or_else(|| Error::bpf(format!("find program {name}"), "the object has none"))?
        .try_into()
        .map_err(|e| failed(&format!("use program {name}"), &e))
}

pub(crate) fn open<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<T, Error> {
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| Error::bpf(format!("find map {name}"), "the object has none"))?;
    T::try_from(map).map_err(|e| failed(&format!("use map {name}"), &e))
}

/// The octets of the object file.
pub(crate) fn read_object(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| {
        Error::io(
            format!(
                "read the eBPF object {} (made by `cargo xtask build`)",
                path.display()
            ),
            e,
        )
    })
}

/// Sees to a directory for pins.
pub(crate) fn make_pin_dir(dir: &Path) -> Result<(), Error> {
    mount_bpffs(dir)?;
    fs::create_dir_all(dir)
        .map_err(|e| Error::io(format!("create the pin directory {}", dir.display()), e))
}

/// Attaches a loaded program; `order` is for tcx alone.
pub(crate) fn hang(
    ebpf: &mut Ebpf,
    name: &str,
    interface: &str,
    side: TcAttachType,
    order: LinkOrder,
    attachment: Attachment,
) -> Result<SchedClassifierLinkId, Error> {
    let how = match attachment {
        Attachment::Tcx => TcAttachOptions::TcxOrder(order),
        Attachment::Clsact => TcAttachOptions::Netlink(NlOptions::default()),
    };
    program(ebpf, name)?
        .attach_with_options(interface, side, how)
        .map_err(|e| failed(&format!("attach {name} to {interface} by {attachment}"), &e))
}

/// An error with all its causes: aya keeps the kernel's words in the last one.
pub(crate) fn failed(doing: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    Error::bpf(doing, text)
}

pub(crate) fn not_found(error: &MapError) -> bool {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return io.kind() == io::ErrorKind::NotFound;
        }
        cause = inner.source();
    }
    false
}

/// Sees to a BPF file system below `dir`. `ip netns exec` hides the host's, so a missing one is
/// mounted where convention wants it.
pub(crate) fn mount_bpffs(dir: &Path) -> Result<(), Error> {
    // Of two threads that load, one would cover the other's.
    static MOUNTING: Mutex<()> = Mutex::new(());
    let _alone = lock(&MOUNTING);
    let existing = dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let kind = statfs(existing)
        .map_err(|e| Error::io(format!("look at {}", existing.display()), e.into()))?
        .filesystem_type();
    if kind == BPF_FS_MAGIC {
        return Ok(());
    }
    if !dir.starts_with(BPFFS) || !Path::new(BPFFS).exists() {
        return Err(Error::Config(format!(
            "pinDir {} is not on a BPF file system: choose a directory below {BPFFS}, or \
             `mount -t bpf bpf DIR`",
            dir.display()
        )));
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|e| Error::io(format!("mount bpffs on {BPFFS}"), e.into()))
}

/// Removes our pins from `dir` of these names, and `dir` itself when nothing is left in it.
pub(crate) fn remove_pins(dir: &Path, names: &[&str]) -> Result<Vec<String>, Error> {
    let removed = unpin(dir, names)?;
    // Fails while something of others is in it, and then it stays.
    let _ = fs::remove_dir(dir);
    Ok(removed)
}

/// Removes pins of an earlier run; the directory stays for whoever begins beside.
pub(crate) fn unpin(dir: &Path, names: &[&str]) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    for name in names {
        let pin: PathBuf = dir.join(name);
        match fs::remove_file(&pin) {
            Ok(()) => removed.push(format!("pin {}", pin.display())),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound) => {}
            Err(e) => return Err(Error::io(format!("remove pin {}", pin.display()), e)),
        }
    }
    Ok(removed)
}

/// Adds the clsact qdisc; `false` when there was one.
pub(crate) fn add_clsact(interface: &str) -> Result<bool, Error> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => Ok(true),
        Err(TcError::AlreadyAttached) => Ok(false),
        Err(e) => {
            let text = failed(&format!("add the clsact qdisc to {interface}"), &e);
            if text.to_string().contains("File exists") {
                return Ok(false);
            }
            Err(text)
        }
    }
}

pub(crate) fn delete_clsact_if_empty(interface: &str) -> Result<bool, Error> {
    let mut links = Links::open()?;
    let Some(link) = links.find(interface)? else {
        return Ok(false);
    };
    if links.has_filters(link.index)? {
        return Ok(false);
    }
    links.delete_clsact(link.index).map(|()| true)
}

pub(crate) fn interface_gone(interface: &str) -> bool {
    matches!(
        Links::open().and_then(|mut links| links.find(interface)),
        Ok(None)
    )
}
