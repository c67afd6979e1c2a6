//! The relay's programs and maps in the kernel.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues},
    programs::{
        LinkOrder, TcAttachType,
        tc::{self, SchedClassifierLinkId},
    },
    util::nr_cpus,
};
use ebpf_common::{
    MAP_SA_STATS, MAP_SAS,
    relay::{
        DOWNLINK, DownlinkSession, MAP_RELAY_DL, MAP_RELAY_DROPS, MAP_RELAY_META, MAP_RELAY_STATS,
        MAP_RELAY_UL, PROGRAM_DOWNLINK, PROGRAM_UPLINK, RELAY_LAYOUT_VERSION, RelayCounters,
        RelayMeta, RelayReasons, UPLINK, UplinkKey, UplinkSession,
    },
};

use super::KernelRelayConfig;
use crate::{
    Error,
    loader::{
        Attachment, add_clsact, attachment, delete_clsact_if_empty, failed, hang, interface_gone,
        make_pin_dir, mount_bpffs, open, pod::Raw, program, read_object, remove_pins,
    },
    reading::add,
    sys::wait_for_programs,
};

/// What is pinned.
const MAPS: [&str; 5] = [
    MAP_RELAY_UL,
    MAP_RELAY_DL,
    MAP_RELAY_STATS,
    MAP_RELAY_DROPS,
    MAP_RELAY_META,
];

/// `BPF_NOEXIST` (linux/bpf.h): never replace an entry.
const BPF_NOEXIST: u64 = 1;
/// `BPF_ANY` (linux/bpf.h).
const BPF_ANY: u64 = 0;

/// Which way an interface's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// Out of the tunnel: [`PROGRAM_UPLINK`].
    Access,
    /// From N3: [`PROGRAM_DOWNLINK`].
    N3,
}

impl Side {
    const fn program(self) -> &'static str {
        match self {
            Self::Access => PROGRAM_UPLINK,
            Self::N3 => PROGRAM_DOWNLINK,
        }
    }
}

/// A program on an interface.
struct Hook {
    link: SchedClassifierLinkId,
    made_clsact: bool,
    users: usize,
}

/// Loaded programs with their maps. Dropping takes both and the pins away.
pub(super) struct Programs {
    ebpf: Ebpf,
    attachment: Attachment,
    hooks: BTreeMap<(Side, String), Hook>,
    uplinks: HashMap<MapData, Raw<UplinkKey>, Raw<UplinkSession>>,
    downlinks: HashMap<MapData, [u8; 4], Raw<DownlinkSession>>,
    counters: PerCpuArray<MapData, Raw<RelayCounters>>,
    reasons: PerCpuArray<MapData, Raw<RelayReasons>>,
    /// Open as long as the programs are, so that the map stays what its pin says.
    _meta: Array<MapData, Raw<RelayMeta>>,
    pin_dir: PathBuf,
    cpus: usize,
    /// Something was taken out of a map, and a program may still be at it.
    freed: bool,
}

impl Programs {
    pub(super) fn load(config: &KernelRelayConfig, meta: RelayMeta) -> Result<Self, Error> {
        let object = read_object(&config.object)?;
        mount_bpffs(&config.pin_dir)?;
        // Sessions do not outlive the daemon, and neither do their maps.
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
        let btf = Btf::from_sys_fs().ok();
        let mut loader = EbpfLoader::new();
        loader
            .btf(btf.as_ref())
            .map_max_entries(MAP_RELAY_UL, config.max_sessions)
            .map_max_entries(MAP_RELAY_DL, config.max_sessions)
            .map_max_entries(MAP_RELAY_STATS, config.max_sessions)
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
            ..meta
        };
        written
            .set(0, Raw(meta), BPF_ANY)
            .map_err(|e| failed("write relay_meta", &e))?;
        let uplinks = open(&mut ebpf, MAP_RELAY_UL)?;
        let downlinks = open(&mut ebpf, MAP_RELAY_DL)?;
        let counters = open(&mut ebpf, MAP_RELAY_STATS)?;
        let reasons = open(&mut ebpf, MAP_RELAY_DROPS)?;
        for name in [PROGRAM_UPLINK, PROGRAM_DOWNLINK] {
            program(&mut ebpf, name)?
                .load()
                .map_err(|e| failed(&format!("load program {name}"), &e))?;
        }
        Ok(Self {
            ebpf,
            attachment: attachment(),
            hooks: BTreeMap::new(),
            uplinks,
            downlinks,
            counters,
            reasons,
            _meta: written,
            pin_dir: config.pin_dir.clone(),
            cpus: nr_cpus().map_err(|(file, e)| Error::io(format!("read {file}"), e))?,
            freed: false,
        })
    }

    /// Attaches the program of a side, or counts one user more.
    pub(super) fn hook(&mut self, side: Side, interface: &str) -> Result<(), Error> {
        let key = (side, interface.to_owned());
        if let Some(hook) = self.hooks.get_mut(&key) {
            hook.users += 1;
            return Ok(());
        }
        let name = side.program();
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
        let name = side.program();
        let result = program(&mut self.ebpf, name).and_then(|program| {
            program
                .detach(hook.link)
                .map_err(|e| failed(&format!("detach {name} from {interface}"), &e))
        });
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

    /// Adds a session with counters at zero. An inner address or a TEID that is taken stays whose
    /// it is.
    pub(super) fn add(
        &mut self,
        key: UplinkKey,
        uplink: UplinkSession,
        teid: u32,
        downlink: DownlinkSession,
    ) -> Result<(), Error> {
        self.settle();
        let zero = PerCpuValues::try_from(vec![Raw(RelayCounters::default()); self.cpus])
            .map_err(|e| Error::io("count the CPUs", e))?;
        self.counters
            .set(uplink.index, zero, BPF_ANY)
            .map_err(|e| failed("clear relay_stats", &e))?;
        self.uplinks
            .insert(Raw(key), Raw(uplink), BPF_NOEXIST)
            .map_err(|e| {
                let inner = Ipv4Addr::from(key.inner);
                failed(&format!("add {inner} to relay_ul"), &e)
            })?;
        self.downlinks
            .insert(teid.to_be_bytes(), Raw(downlink), BPF_NOEXIST)
            .map_err(|e| {
                self.freed = true;
                let _ = self.uplinks.remove(&Raw(key));
                failed(&format!("add TEID {teid:#010x} to relay_dl"), &e)
            })
    }

    /// The kernel gives the place of a deleted entry to the next one at once. No program may still
    /// look at it then: it would take one session's packet for another's.
    fn settle(&mut self) {
        if std::mem::take(&mut self.freed) {
            wait_for_programs();
        }
    }

    /// Replaces the uplink half of a session.
    pub(super) fn update(&mut self, key: UplinkKey, uplink: UplinkSession) -> Result<(), Error> {
        self.settle();
        self.freed = true;
        self.uplinks
            .insert(Raw(key), Raw(uplink), BPF_ANY)
            .map_err(|e| failed("change relay_ul", &e))
    }

    pub(super) fn remove(&mut self, key: UplinkKey, teid: u32) {
        self.freed = true;
        for result in [
            self.uplinks.remove(&Raw(key)),
            self.downlinks.remove(&teid.to_be_bytes()),
        ] {
            if let Err(error) = result {
                tracing::warn!(%error, "a session could not be taken out of the kernel");
            }
        }
    }

    /// Counters of a session, all CPUs added.
    pub(super) fn counters(&self, index: u32) -> Result<RelayCounters, Error> {
        let values = self
            .counters
            .get(&index, 0)
            .map_err(|e| failed("read relay_stats", &e))?;
        let mut total = RelayCounters::default();
        for value in values.iter() {
            add(&mut total.uplink, &value.0.uplink);
            add(&mut total.downlink, &value.0.downlink);
        }
        Ok(total)
    }

    /// Packets not relayed, uplink and downlink, all CPUs added.
    pub(super) fn reasons(&self) -> Result<[RelayReasons; 2], Error> {
        let mut both = [RelayReasons::default(); 2];
        for (direction, total) in [UPLINK, DOWNLINK].into_iter().zip(&mut both) {
            let values = self
                .reasons
                .get(&direction, 0)
                .map_err(|e| failed("read relay_drops", &e))?;
            for value in values.iter() {
                total.add(&value.0);
            }
        }
        Ok(both)
    }
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
