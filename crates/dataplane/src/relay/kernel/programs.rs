//! The relay's programs and maps in the kernel.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, MapData, RingBuf},
    programs::{
        LinkOrder, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{self, SchedClassifierLinkId},
    },
};
use ebpf_common::{
    MAP_SA_STATS, MAP_SAS,
    relay::{
        MAP_RELAY_DL, MAP_RELAY_DL_FLOWS, MAP_RELAY_DL_MORE, MAP_RELAY_DL_WAYS, MAP_RELAY_DROPS,
        MAP_RELAY_DSCP, MAP_RELAY_EVENTS, MAP_RELAY_META, MAP_RELAY_PEERS, MAP_RELAY_RATES,
        MAP_RELAY_REFUSED, MAP_RELAY_UL, MAP_RELAY_UL_FLOWS, MAP_RELAY_UL_MORE, PROGRAM_DOWNLINK,
        PROGRAM_DOWNLINK6, PROGRAM_UPLINK, PROGRAM_UPLINK6, RELAY_LAYOUT_VERSION, RelayMeta,
    },
};

use super::{
    KernelRelayConfig,
    sessions::{Sessions, Sizes},
};
use crate::{
    Error,
    link::Links,
    loader::{
        Attachment, add_clsact, attachment, delete_clsact_if_empty, failed, hang, interface_gone,
        make_pin_dir, mount_bpffs, open, pod::Raw, program, read_object, remove_pins,
    },
};

/// What is pinned.
const MAPS: [&str; 14] = [
    MAP_RELAY_UL,
    MAP_RELAY_UL_MORE,
    MAP_RELAY_DL,
    MAP_RELAY_DL_MORE,
    MAP_RELAY_DL_WAYS,
    MAP_RELAY_DSCP,
    MAP_RELAY_UL_FLOWS,
    MAP_RELAY_DL_FLOWS,
    MAP_RELAY_REFUSED,
    MAP_RELAY_DROPS,
    MAP_RELAY_RATES,
    MAP_RELAY_EVENTS,
    MAP_RELAY_META,
    MAP_RELAY_PEERS,
];

/// `BPF_ANY` (linux/bpf.h).
const BPF_ANY: u64 = 0;

/// Which way an interface's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// Out of the tunnel.
    Access,
    /// From N3.
    N3,
}

impl Side {
    /// The program, with N3 over IPv6 or over IPv4.
    const fn program(self, over_ipv6: bool) -> &'static str {
        match (self, over_ipv6) {
            (Self::Access, false) => PROGRAM_UPLINK,
            (Self::N3, false) => PROGRAM_DOWNLINK,
            (Self::Access, true) => PROGRAM_UPLINK6,
            (Self::N3, true) => PROGRAM_DOWNLINK6,
        }
    }
}

/// A program on an interface. Either kind stays there when the daemon is killed, so that established
/// sessions go on; the next start takes it off.
enum Link {
    /// A filter of the clsact qdisc.
    Clsact(SchedClassifierLinkId),
    /// A tcx link with a pin.
    Tcx(PinnedLink),
}

/// A program on an interface.
struct Hook {
    link: Link,
    made_clsact: bool,
    users: usize,
}

/// Loaded programs with their maps. Dropping takes both and the pins away.
pub(super) struct Programs {
    ebpf: Ebpf,
    attachment: Attachment,
    /// N3 is of IPv6.
    over_ipv6: bool,
    hooks: BTreeMap<(Side, String), Hook>,
    pub(super) sessions: Sessions,
    pub(super) events: RingBuf<MapData>,
    /// Open as long as the programs are, so that the map stays what its pin says.
    _meta: Array<MapData, Raw<RelayMeta>>,
    pin_dir: PathBuf,
}

impl Programs {
    pub(super) fn load(config: &KernelRelayConfig, meta: RelayMeta) -> Result<Self, Error> {
        let object = read_object(&config.object)?;
        mount_bpffs(&config.pin_dir)?;
        // The sessions of an earlier run are not ours.
        remove_hooks(&config.pin_dir)?;
        remove_pins(&config.pin_dir, &MAPS)?;
        make_pin_dir(&config.pin_dir)?;
        Self::load_object(config, meta, &object).inspect_err(|_| {
            let _ = remove_pins(&config.pin_dir, &MAPS);
        })
    }

    fn load_object(
        config: &KernelRelayConfig,
        meta: RelayMeta,
        object: &[u8],
    ) -> Result<Self, Error> {
        let sizes = Sizes::of(config.max_sessions);
        let btf = Btf::from_sys_fs().ok();
        let mut loader = EbpfLoader::new();
        loader
            .btf(btf.as_ref())
            .map_max_entries(MAP_RELAY_UL, sizes.places)
            .map_max_entries(MAP_RELAY_UL_MORE, sizes.sessions)
            .map_max_entries(MAP_RELAY_DL, sizes.places)
            .map_max_entries(MAP_RELAY_DL_MORE, sizes.sessions)
            .map_max_entries(MAP_RELAY_DL_WAYS, sizes.sessions)
            .map_max_entries(MAP_RELAY_DSCP, sizes.sessions)
            .map_max_entries(MAP_RELAY_UL_FLOWS, sizes.blocks())
            .map_max_entries(MAP_RELAY_DL_FLOWS, sizes.blocks())
            .map_max_entries(MAP_RELAY_REFUSED, sizes.sessions)
            .map_max_entries(MAP_RELAY_PEERS, sizes.sessions)
            .map_max_entries(MAP_RELAY_RATES, sizes.rates)
            // Made with the object, but not used here.
            .map_max_entries(MAP_SAS, 1)
            .map_max_entries(MAP_SA_STATS, 1);
        for name in MAPS {
            loader.map_pin_path(name, config.pin_dir.join(name));
        }
        let mut ebpf = loader
            .load(object)
            .map_err(|e| failed("load the object", &e))?;
        let mut written: Array<MapData, Raw<RelayMeta>> = open(&mut ebpf, MAP_RELAY_META)?;
        let meta = RelayMeta {
            layout_version: RELAY_LAYOUT_VERSION,
            mask: sizes.places - 1,
            ..meta
        };
        written
            .set(0, Raw(meta), BPF_ANY)
            .map_err(|e| failed("write relay_meta", &e))?;
        let sessions = Sessions::open(&mut ebpf, sizes)?;
        let events = open(&mut ebpf, MAP_RELAY_EVENTS)?;
        let over_ipv6 = config.user.gtp.is_ipv6();
        for name in [Side::Access, Side::N3].map(|side| side.program(over_ipv6)) {
            program(&mut ebpf, name)?
                .load()
                .map_err(|e| failed(&format!("load program {name}"), &e))?;
        }
        Ok(Self {
            ebpf,
            attachment: attachment(),
            over_ipv6,
            hooks: BTreeMap::new(),
            sessions,
            events,
            _meta: written,
            pin_dir: config.pin_dir.clone(),
        })
    }

    /// Attaches the program of a side, or counts one user more.
    pub(super) fn hook(&mut self, side: Side, interface: &str) -> Result<(), Error> {
        let key = (side, interface.to_owned());
        if let Some(hook) = self.hooks.get_mut(&key) {
            hook.users += 1;
            return Ok(());
        }
        let name = side.program(self.over_ipv6);
        let mut made_clsact = false;
        if self.attachment == Attachment::Clsact {
            // A daemon that was killed leaves its filter behind.
            let _ = tc::qdisc_detach_program(interface, TcAttachType::Ingress, name);
            made_clsact = add_clsact(interface)?;
        }
        let link = hang(
            &mut self.ebpf,
            name,
            interface,
            TcAttachType::Ingress,
            LinkOrder::last(),
            self.attachment,
        )?;
        let link = match self.attachment {
            Attachment::Clsact => Link::Clsact(link),
            Attachment::Tcx => Link::Tcx(self.pin(side, interface, link)?),
        };
        let hook = Hook {
            link,
            made_clsact,
            users: 1,
        };
        self.hooks.insert(key, hook);
        Ok(())
    }

    /// Pins a tcx link by the number of its interface: a name may have what bpffs does not take.
    fn pin(
        &mut self,
        side: Side,
        interface: &str,
        link: SchedClassifierLinkId,
    ) -> Result<PinnedLink, Error> {
        let name = side.program(self.over_ipv6);
        let doing = format!("pin {name} of {interface}");
        let index = Links::open()?.get(interface)?.index;
        let link = program(&mut self.ebpf, name)?
            .take_link(link)
            .map_err(|e| failed(&doing, &e))?;
        let link = FdLink::try_from(link).map_err(|e| failed(&doing, &e))?;
        link.pin(self.pin_dir.join(format!("{name}-{index}")))
            .map_err(|e| failed(&doing, &e))
    }

    /// Takes the program off an interface that no session needs any more.
    pub(super) fn unhook(&mut self, side: Side, interface: &str) {
        let key = (side, interface.to_owned());
        match self.hooks.get_mut(&key) {
            Some(hook) if hook.users > 1 => hook.users -= 1,
            Some(_) => {
                if let Some(hook) = self.hooks.remove(&key) {
                    self.detach(side, interface, hook);
                }
            }
            None => {}
        }
    }

    fn detach(&mut self, side: Side, interface: &str, hook: Hook) {
        let name = side.program(self.over_ipv6);
        let doing = format!("detach {name} from {interface}");
        let result = match hook.link {
            Link::Clsact(link) => program(&mut self.ebpf, name)
                .and_then(|program| program.detach(link).map_err(|e| failed(&doing, &e))),
            // The link ends with its last descriptor.
            Link::Tcx(link) => link.unpin().map(drop).map_err(|e| Error::io(doing, e)),
        };
        // The interface, and all that hung on it, may be gone.
        if interface_gone(interface) {
            return;
        }
        if let Err(error) = result {
            tracing::warn!(%error, "kernel relay");
        }
        if hook.made_clsact
            && let Err(error) = delete_clsact_if_empty(interface)
        {
            tracing::warn!(%error, "kernel relay");
        }
    }
}

/// Takes the programs of an earlier run off every interface.
fn remove_hooks(pin_dir: &Path) -> Result<(), Error> {
    let names = [
        PROGRAM_UPLINK,
        PROGRAM_DOWNLINK,
        PROGRAM_UPLINK6,
        PROGRAM_DOWNLINK6,
    ];
    if attachment() == Attachment::Clsact {
        for link in Links::open()?.list()? {
            for name in names {
                // Most interfaces have none.
                let _ = tc::qdisc_detach_program(&link.name, TcAttachType::Ingress, name);
            }
        }
    }
    let Ok(pins) = std::fs::read_dir(pin_dir) else {
        return Ok(());
    };
    let ours = |pin: &str| {
        let mut prefixes = names.iter().filter_map(|name| pin.strip_prefix(name));
        prefixes.any(|rest| rest.starts_with('-'))
    };
    for pin in pins.filter_map(Result::ok) {
        if pin.file_name().to_str().is_some_and(ours) {
            std::fs::remove_file(pin.path())
                .map_err(|e| Error::io(format!("remove pin {}", pin.path().display()), e))?;
        }
    }
    Ok(())
}

impl Drop for Programs {
    fn drop(&mut self) {
        for ((side, interface), hook) in std::mem::take(&mut self.hooks) {
            self.detach(side, &interface, hook);
        }
        if let Err(error) = remove_pins(&self.pin_dir, &MAPS) {
            tracing::warn!(%error, "kernel relay");
        }
    }
}
