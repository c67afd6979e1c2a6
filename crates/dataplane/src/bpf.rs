//! Accounting on NWu: loads the eBPF object, attaches it, keeps its tables in step with the Child
//! SAs and reads its counters.
//!
//! The maps are pinned in a directory of this daemon, so that `bpftool map dump` and other readers
//! find them by name. The per-class counters survive a restart of the daemon; the SA tables
//! ([`crate::sa_table`]) do not, since no SA does.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, PerCpuArray},
    programs::{LinkOrder, TcAttachType},
};
use ebpf_common::{
    Counter, INBOUND, LAYOUT_VERSION, MAP_CLASSES, MAP_META, MAP_SA_STATS, MAP_SAS, NwuClasses,
    NwuMeta, OUTBOUND, PROGRAM_EGRESS, PROGRAM_INGRESS, SaInfo, SaKey,
    flood::{INIT_SOURCES, InitLimit, MAP_INIT_DROPS, MAP_INIT_LIMIT, MAP_INIT_SOURCES},
};

use crate::{
    BpfOptions, ClassReading, Error, Role, Seen,
    lasting::{Lasting, Spot, remove_links},
    link::Links,
    loader::{
        Attachment, add_clsact, attachment, delete_clsact_if_empty, failed, interface_gone,
        make_pin_dir, mount_bpffs, open, pod::Raw, program, read_object, remove_pins, unpin,
    },
    reading::{Classes, add},
    sa_table::SaTable,
};

/// What is pinned.
const MAPS: [&str; 4] = [MAP_CLASSES, MAP_SAS, MAP_SA_STATS, MAP_META];

const PROGRAMS: [&str; 2] = [PROGRAM_INGRESS, PROGRAM_EGRESS];

/// The loaded programs and their maps. Dropping it leaves the programs and the pins, as when the daemon
/// is killed: they go on counting classes, and the next run's programs take their place.
pub(crate) struct Accounting {
    ebpf: Ebpf,
    links: Vec<(&'static str, Lasting)>,
    attachment: Attachment,
    classes: PerCpuArray<MapData, Raw<NwuClasses>>,
    sas: SaTable,
    /// The limit of IKE_SA_INIT requests, if there is one.
    inits: Option<Inits>,
    /// The clsact qdisc is ours to delete.
    made_clsact: bool,
    options: BpfOptions,
}

/// Counters of one Child SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SaCounters {
    pub(crate) inbound: Seen,
    pub(crate) outbound: Seen,
}

/// The keys of one Child SA in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SaKeys {
    inbound: SaKey,
    outbound: SaKey,
}

impl SaKeys {
    pub(crate) fn new(spi_in: u32, spi_out: u32, remote: SocketAddr) -> Self {
        let remote = match remote.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self {
            inbound: SaKey::inbound(spi_in),
            outbound: SaKey::outbound(spi_out, remote.octets()),
        }
    }
}

impl Accounting {
    /// Removes what an earlier run left in the pin directory, then loads, pins and attaches; an earlier
    /// run's programs count until then. Returns what was removed, one line each.
    pub(crate) fn attach(options: &BpfOptions, role: Role) -> Result<(Self, Vec<String>), Error> {
        let object = read_object(&options.object)?;
        mount_bpffs(&options.pin_dir)?;
        let attachment = attachment();
        let removed = remove_leftovers(options)?;
        make_pin_dir(&options.pin_dir)?;
        let made = Self::load(options, options.child_sas(role), &object, attachment);
        if made.is_err() {
            let _ = remove_links(&options.pin_dir, &PROGRAMS, None);
            let _ = remove_pins(&options.pin_dir, &MAPS);
        }
        made.map(|accounting| (accounting, removed))
    }

    fn load(
        options: &BpfOptions,
        child_sas: u32,
        object: &[u8],
        attachment: Attachment,
    ) -> Result<Self, Error> {
        // It reads the kernel's BTF by itself, which is five megabytes.
        let mut loader = EbpfLoader::new();
        SaTable::size(&mut loader, child_sas);
        if options.ike_init_per_source.is_some() {
            loader.map_max_entries(MAP_INIT_SOURCES, INIT_SOURCES);
        }
        for name in MAPS {
            loader.map_pin_path(name, options.pin_dir.join(name));
        }
        let mut ebpf = loader
            .load(object)
            .map_err(|e| failed("load the object", &e))?;
        let link = Links::open()?.get(&options.interface)?;
        let sas = SaTable::open(&mut ebpf, child_sas)?;
        let mut meta: Array<MapData, Raw<NwuMeta>> = open(&mut ebpf, MAP_META)?;
        let value = NwuMeta {
            layout_version: LAYOUT_VERSION,
            ifindex: link.index,
            no_link_header: (!link.ethernet).into(),
            mask: sas.mask(),
        };
        meta.set(0, Raw(value), 0)
            .map_err(|e| failed("write nwu_meta", &e))?;
        let classes = open(&mut ebpf, MAP_CLASSES)?;
        let inits = options.ike_init_per_source;
        let inits = inits
            .map(|rate| Inits::limit(&mut ebpf, rate))
            .transpose()?;
        for name in PROGRAMS {
            program(&mut ebpf, name)?
                .load()
                .map_err(|e| failed(&format!("load program {name}"), &e))?;
        }
        let mut made_clsact = attachment == Attachment::Clsact && add_clsact(&options.interface)?;
        let mut links = Vec::new();
        // Inbound before anyone can drop, outbound after everyone could.
        for (name, side, order) in [
            (PROGRAM_INGRESS, TcAttachType::Ingress, LinkOrder::first()),
            (PROGRAM_EGRESS, TcAttachType::Egress, LinkOrder::last()),
        ] {
            let spot = Spot {
                name,
                interface: &options.interface,
                side,
                order,
                attachment,
                pin_dir: &options.pin_dir,
            };
            let (link, replaced) = Lasting::hang(&mut ebpf, spot)?;
            // We made the qdisc then, unless others use it by now.
            made_clsact |= replaced && attachment == Attachment::Clsact;
            links.push((name, link));
        }
        Ok(Self {
            ebpf,
            links,
            attachment,
            classes,
            sas,
            inits,
            made_clsact,
            options: options.clone(),
        })
    }

    /// How the programs are attached.
    pub(crate) fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Adds both directions of a Child SA with counters at zero. An SPI that is in the tables stays
    /// whose it is.
    pub(crate) fn add(&mut self, keys: &SaKeys, info: SaInfo) -> Result<(), Error> {
        self.sas.add(keys.inbound, info)?;
        self.sas
            .add(keys.outbound, info)
            .inspect_err(|_| self.sas.remove(keys.inbound))
    }

    /// Removes both directions; what is not there is no error.
    pub(crate) fn remove(&mut self, keys: &SaKeys) {
        self.sas.remove(keys.inbound);
        self.sas.remove(keys.outbound);
    }

    /// Packets of a Child SA leave to another address: its outbound entry begins anew.
    pub(crate) fn move_outbound(
        &mut self,
        from: &SaKeys,
        to: &SaKeys,
        info: SaInfo,
    ) -> Result<(), Error> {
        self.sas.add(to.outbound, info)?;
        self.sas.remove(from.outbound);
        Ok(())
    }

    /// Counters of a Child SA, all CPUs added.
    pub(crate) fn counters(&self, keys: &SaKeys) -> Result<SaCounters, Error> {
        Ok(SaCounters {
            inbound: self.sas.seen(keys.inbound)?,
            outbound: self.sas.seen(keys.outbound)?,
        })
    }

    /// Counters of all classes, all CPUs added.
    pub(crate) fn classes(&self) -> Result<ClassReading, Error> {
        let read = |direction| -> Result<Classes, Error> {
            let values = self
                .classes
                .get(&direction, 0)
                .map_err(|e| failed("read nwu_classes", &e))?;
            Ok(Classes::sum(values.iter().map(|value| &value.0)))
        };
        let init_dropped = self.inits.as_ref().map(Inits::dropped).transpose()?;
        Ok(ClassReading {
            ingress: read(INBOUND)?,
            egress: read(OUTBOUND)?,
            init_dropped,
        })
    }

    /// Detaches the programs and removes every pin. Returns what was removed and what is left.
    pub(crate) fn detach(mut self) -> (Vec<String>, Vec<String>) {
        let (mut removed, mut left) = (Vec::new(), Vec::new());
        for (name, link) in std::mem::take(&mut self.links) {
            let what = format!("eBPF program {name} on {}", self.options.interface);
            let result = link.take_off(&mut self.ebpf, name);
            match result {
                Ok(()) => removed.push(what),
                // The interface, and all that hung on it, may be gone.
                Err(_) if interface_gone(&self.options.interface) => removed.push(what),
                Err(e) => left.push(format!("{what}: {e}")),
            }
        }
        if self.made_clsact {
            match delete_clsact_if_empty(&self.options.interface) {
                Ok(true) => removed.push(format!("clsact qdisc of {}", self.options.interface)),
                Ok(false) => {}
                Err(e) => left.push(e.to_string()),
            }
        }
        let dir = self.options.pin_dir.clone();
        drop(self);
        match remove_pins(&dir, &MAPS) {
            Ok(pins) => removed.extend(pins),
            Err(e) => left.push(e.to_string()),
        }
        (removed, left)
    }
}

/// The limit of IKE_SA_INIT requests of one source.
struct Inits {
    drops: PerCpuArray<MapData, Raw<Counter>>,
    /// Open until the programs are loaded, which take it by its number.
    _limit: Array<MapData, Raw<InitLimit>>,
}

impl Inits {
    fn limit(ebpf: &mut Ebpf, per_second: u32) -> Result<Self, Error> {
        let mut limit: Array<MapData, Raw<InitLimit>> = open(ebpf, MAP_INIT_LIMIT)?;
        limit
            .set(0, Raw(InitLimit::per_second(per_second)), 0)
            .map_err(|e| failed("write nwu_init_limit", &e))?;
        Ok(Self {
            drops: open(ebpf, MAP_INIT_DROPS)?,
            _limit: limit,
        })
    }

    /// What was above it, all CPUs added.
    fn dropped(&self) -> Result<Seen, Error> {
        let values = self
            .drops
            .get(&0, 0)
            .map_err(|e| failed("read nwu_init_drops", &e))?;
        let mut total = Counter::default();
        for value in values.iter() {
            add(&mut total, &value.0);
        }
        Ok(total.into())
    }
}

/// Removes the pins of an earlier run that do not outlive it, and its programs from interfaces that are not
/// NWu any more.
fn remove_leftovers(options: &BpfOptions) -> Result<Vec<String>, Error> {
    let dir = &options.pin_dir;
    let nwu = Links::open()?.find(&options.interface)?;
    let mut removed = remove_links(dir, &PROGRAMS, nwu.map(|link| link.index))?;
    let gone: Vec<&str> = MAPS
        .into_iter()
        .filter(|name| *name != MAP_CLASSES || !reusable(dir))
        .collect();
    removed.extend(unpin(dir, &gone)?);
    Ok(removed)
}

/// Whether the pinned class counters have our layout.
fn reusable(dir: &Path) -> bool {
    let version = MapData::from_pin(dir.join(MAP_META))
        .ok()
        .and_then(|data| Array::<MapData, Raw<NwuMeta>>::try_from(Map::Array(data)).ok())
        .and_then(|meta| meta.get(&0, 0).ok())
        .map(|meta| meta.0.layout_version);
    version == Some(LAYOUT_VERSION)
        && MapData::from_pin(dir.join(MAP_CLASSES))
            .ok()
            .and_then(|data| data.info().ok())
            .is_some_and(|info| {
                usize::try_from(info.value_size()).ok() == Some(size_of::<NwuClasses>())
                    && info.max_entries() == 2
            })
}
