//! The relay's programs and maps in the kernel.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, RingBuf},
    programs::{LinkOrder, TcAttachType, tc},
};
use ebpf_common::relay::{
    MAP_RELAY_DL, MAP_RELAY_DL_FLOWS, MAP_RELAY_DL_MORE, MAP_RELAY_DL_WAYS, MAP_RELAY_DROPS,
    MAP_RELAY_DSCP, MAP_RELAY_EVENTS, MAP_RELAY_META, MAP_RELAY_PEERS, MAP_RELAY_RATES,
    MAP_RELAY_REFUSED, MAP_RELAY_UL, MAP_RELAY_UL_FLOWS, MAP_RELAY_UL_MORE, PROGRAM_DOWNLINK,
    PROGRAM_DOWNLINK6, PROGRAM_UPLINK, PROGRAM_UPLINK6, RELAY_LAYOUT_VERSION, RelayMeta,
};

use super::{
    KernelRelayConfig,
    sessions::{Sessions, Sizes},
};
use crate::{
    Error,
    lasting::{Lasting, Spot, remove_links},
    link::Links,
    loader::{
        Attachment, add_clsact, attachment, delete_clsact_if_empty, failed, interface_gone,
        make_pin_dir, mount_bpffs, open, pod::Raw, program, read_object, remove_pins, unpin,
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

/// A program on an interface, and for how many sessions. It stays there when the daemon is killed, so that
/// established sessions go on; the next start takes it off.
struct Hook {
    link: Lasting,
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
        unpin(&config.pin_dir, &MAPS)?;
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
        // It reads the kernel's BTF by itself, which is five megabytes.
        let mut loader = EbpfLoader::new();
        loader
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
            .map_max_entries(MAP_RELAY_RATES, sizes.rates);
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
        let made_clsact = self.attachment == Attachment::Clsact && add_clsact(interface)?;
        let spot = Spot {
            name,
            interface,
            side: TcAttachType::Ingress,
            order: LinkOrder::last(),
            attachment: self.attachment,
            pin_dir: &self.pin_dir,
        };
        let (link, _) = Lasting::hang(&mut self.ebpf, spot)?;
        let hook = Hook {
            link,
            made_clsact,
            users: 1,
        };
        self.hooks.insert(key, hook);
        Ok(())
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
        let result = hook.link.take_off(&mut self.ebpf, name);
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
    remove_links(pin_dir, &names, None).map(drop)
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
