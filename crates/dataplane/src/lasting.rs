//! Programs on interfaces that stay there when the daemon is killed, and whose place the next run's take.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{self, SchedClassifierLink, SchedClassifierLinkId},
    },
};

use crate::{
    Error,
    link::Links,
    loader::{Attachment, failed, hang, program},
};

/// A program on an interface. Dropping it leaves the program there.
pub(crate) enum Lasting {
    /// A filter of the clsact qdisc.
    Clsact(SchedClassifierLinkId),
    /// A tcx link with a pin.
    Tcx(PinnedLink),
}

/// Where a program hangs.
pub(crate) struct Spot<'a> {
    pub(crate) name: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) side: TcAttachType,
    /// Among the programs of a tcx hook.
    pub(crate) order: LinkOrder,
    pub(crate) attachment: Attachment,
    /// Directory of the pins of tcx links.
    pub(crate) pin_dir: &'a Path,
}

impl Lasting {
    /// Attaches a loaded program; the clsact qdisc has to be there, where it is needed. Whether one of
    /// an earlier run hung there.
    ///
    /// By tcx the kernel changes one program for the other, and no packet meets none or both. By clsact it
    /// is two requests.
    pub(crate) fn hang(ebpf: &mut Ebpf, spot: Spot<'_>) -> Result<(Self, bool), Error> {
        let Spot {
            name, interface, ..
        } = spot;
        if spot.attachment == Attachment::Clsact {
            let replaced = tc::qdisc_detach_program(interface, spot.side, name).is_ok();
            let link = attach(ebpf, spot)?;
            return Ok((Self::Clsact(link), replaced));
        }
        let index = Links::open()?.get(interface)?.index;
        let pin = pin(spot.pin_dir, name, index);
        if let Some(link) = replace(ebpf, name, &pin) {
            return Ok((Self::Tcx(link), true));
        }
        // A link whose interface is gone.
        remove(&pin)?;
        let link = attach(ebpf, spot)?;
        let doing = format!("pin {name} of {interface}");
        let link = program(ebpf, name)?
            .take_link(link)
            .map_err(|e| failed(&doing, &e))?;
        let link = FdLink::try_from(link).map_err(|e| failed(&doing, &e))?;
        let link = link.pin(&pin).map_err(|e| failed(&doing, &e))?;
        Ok((Self::Tcx(link), false))
    }

    /// Takes the program off.
    pub(crate) fn take_off(self, ebpf: &mut Ebpf, name: &str) -> Result<(), Error> {
        let doing = format!("detach {name}");
        match self {
            Self::Clsact(link) => program(ebpf, name)?
                .detach(link)
                .map_err(|e| failed(&doing, &e)),
            // The link ends with its last descriptor.
            Self::Tcx(link) => link.unpin().map(drop).map_err(|e| Error::io(doing, e)),
        }
    }
}

/// By the number of the interface: a name may have what bpffs does not take.
fn pin(pin_dir: &Path, name: &str, index: u32) -> PathBuf {
    pin_dir.join(format!("{name}-{index}"))
}

/// Attaches a program where nothing of an earlier run hangs.
fn attach(ebpf: &mut Ebpf, spot: Spot<'_>) -> Result<SchedClassifierLinkId, Error> {
    let Spot {
        name, interface, ..
    } = spot;
    hang(
        ebpf,
        name,
        interface,
        spot.side,
        spot.order,
        spot.attachment,
    )
}

/// Puts the program into a link of an earlier run; `None`: there is none, or its interface is gone.
fn replace(ebpf: &mut Ebpf, name: &str, pin: &Path) -> Option<PinnedLink> {
    let old = PinnedLink::from_pin(pin).ok()?;
    let link: SchedClassifierLink = FdLink::from(old).try_into().ok()?;
    let program = program(ebpf, name).ok()?;
    let id = program.attach_to_link(link).ok()?;
    // The pin alone holds the link.
    drop(program.take_link(id));
    PinnedLink::from_pin(pin).ok()
}

/// Takes the programs of these names, which an earlier run left on interfaces by tcx, off all of them but
/// `keep`. What was removed, one line each.
pub(crate) fn remove_links(
    pin_dir: &Path,
    names: &[&str],
    keep: Option<u32>,
) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    let Ok(pins) = fs::read_dir(pin_dir) else {
        return Ok(removed);
    };
    for found in pins.filter_map(Result::ok) {
        let file = found.file_name();
        let Some((name, index)) = file.to_str().and_then(|file| file.rsplit_once('-')) else {
            continue;
        };
        if names.contains(&name) && index.parse().ok() != keep {
            remove(&found.path())?;
            removed.push(format!("eBPF program {name} on interface {index}"));
        }
    }
    Ok(removed)
}

fn remove(pin: &Path) -> Result<(), Error> {
    match fs::remove_file(pin) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove pin {}", pin.display()), e))
        }
        _ => Ok(()),
    }
}
