//! Which Child SA has which place in the counters on NWu.
//!
//! An SA is at the place that its key says, where a program finds it without a call, or at any other if that is
//! taken; the table of all SAs, which a program asks then, tells it. A place that was given up may still be counted at
//! by a program that had just found it, so it rests until all programs that ran then have ended.

use std::collections::HashMap;

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap as HashMapOfKernel, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use ebpf_common::{Counter, MAP_SA_STATS, MAP_SAS, PLANE_NONE, SaEntry, SaInfo, SaKey, SaStats};

use crate::{
    Error, Seen,
    loader::{failed, not_found, open, pod::Raw},
    places::Places,
    reading::add,
    sys::{WEAKLY_ORDERED, wait_for_programs},
};

/// `BPF_NOEXIST` (linux/bpf.h): never replace an entry.
const BPF_NOEXIST: u64 = 1;

/// The SAs of both directions and their counters.
pub(crate) struct SaTable {
    all: HashMapOfKernel<MapData, Raw<SaKey>, Raw<SaEntry>>,
    stats: PerCpuArray<MapData, Raw<SaStats>>,
    mask: u32,
    free: Places,
    places: HashMap<SaKey, u32>,
    /// Given up, and not waited for yet.
    resting: Vec<u32>,
}

/// Places for so many Child SAs of two directions each: a power of two.
fn places(max_child_sas: u32) -> u32 {
    max_child_sas
        .saturating_mul(2)
        .checked_next_power_of_two()
        .unwrap_or(1 << 31)
}

impl SaTable {
    /// Says how large the maps are to be.
    pub(crate) fn size(loader: &mut EbpfLoader<'_>, max_child_sas: u32) {
        loader.map_max_entries(MAP_SAS, max_child_sas.saturating_mul(2));
        loader.map_max_entries(MAP_SA_STATS, places(max_child_sas));
    }

    pub(crate) fn open(ebpf: &mut Ebpf, max_child_sas: u32) -> Result<Self, Error> {
        let count = places(max_child_sas);
        Ok(Self {
            all: open(ebpf, MAP_SAS)?,
            stats: open(ebpf, MAP_SA_STATS)?,
            mask: count.saturating_sub(1),
            free: Places::new(count),
            places: HashMap::new(),
            resting: Vec::new(),
        })
    }

    /// [`ebpf_common::NwuMeta::mask`].
    pub(crate) fn mask(&self) -> u32 {
        self.mask
    }

    /// Counts an SA from zero. An SPI that is in the table stays whose it is.
    pub(crate) fn add(&mut self, key: SaKey, sa: SaInfo) -> Result<(), Error> {
        let doing = || format!("add SPI {:#010x} to nwu_sas", key.spi);
        if self.places.contains_key(&key) {
            let there = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(failed(&doing(), &there));
        }
        let place = self
            .place(key)
            .ok_or_else(|| failed(&doing(), &std::io::Error::other("no place is free")))?;
        let made = self.enter(place, key, sa).and_then(|()| {
            let entry = SaEntry { sa, place };
            self.all
                .insert(Raw(key), Raw(entry), BPF_NOEXIST)
                .map_err(|e| failed(&doing(), &e))
        });
        match made {
            Ok(()) => {
                self.places.insert(key, place);
            }
            Err(_) => self.give_up(place),
        }
        made
    }

    /// Makes a free place that of an SA.
    fn enter(&mut self, place: u32, key: SaKey, sa: SaInfo) -> Result<(), Error> {
        if WEAKLY_ORDERED {
            let plane = PLANE_NONE;
            self.write(place, SaStats::new(key, SaInfo { plane, ..sa }))?;
            wait_for_programs();
        }
        self.write(place, SaStats::new(key, sa))
    }

    fn place(&mut self, key: SaKey) -> Option<u32> {
        let home = key.home(self.mask);
        if self.free.take(home) {
            return Some(home);
        }
        self.free.any().or_else(|| {
            self.rest();
            self.free.any()
        })
    }

    /// Frees what was given up.
    fn rest(&mut self) {
        if self.resting.is_empty() {
            return;
        }
        wait_for_programs();
        for place in self.resting.drain(..) {
            self.free.free(place);
        }
    }

    /// What is not there is no error.
    pub(crate) fn remove(&mut self, key: SaKey) {
        let Some(place) = self.places.remove(&key) else {
            return;
        };
        match self.all.remove(&Raw(key)) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(e) if not_found(&e) => {}
            Err(e) => tracing::warn!(error = %e, "an eBPF entry could not be removed"),
        }
        self.give_up(place);
    }

    fn give_up(&mut self, place: u32) {
        if let Err(error) = self.write(place, SaStats::FREE) {
            // It would count for an SA that is gone, so nobody else gets it.
            tracing::warn!(%error, "a place of an SA could not be freed");
            return;
        }
        self.resting.push(place);
        // Seldom, and before what rests is much of the table.
        if self.resting.len() > usize::try_from(self.mask / 4).unwrap_or(usize::MAX) {
            self.rest();
        }
    }

    fn write(&mut self, place: u32, value: SaStats) -> Result<(), Error> {
        let cpus = nr_cpus().map_err(|(file, e)| Error::io(format!("read {file}"), e))?;
        let values = PerCpuValues::try_from(vec![Raw(value); cpus])
            .map_err(|e| Error::io("count the CPUs", e))?;
        self.stats
            .set(place, values, 0)
            .map_err(|e| failed("write nwu_sa_stats", &e))
    }

    /// What was counted of an SA, all CPUs added.
    pub(crate) fn seen(&self, key: SaKey) -> Result<Seen, Error> {
        let place = self.places.get(&key).ok_or_else(|| {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            failed(&format!("find SPI {:#010x}", key.spi), &missing)
        })?;
        let values = self
            .stats
            .get(place, 0)
            .map_err(|e| failed("read nwu_sa_stats", &e))?;
        let mut total = Counter::default();
        for value in values.iter() {
            add(&mut total, &value.0.counter);
        }
        Ok(total.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_place_for_each_direction() {
        assert_eq!(places(1), 2);
        assert_eq!(places(48), 128);
        assert_eq!(places(32_768), 65_536);
        assert_eq!(places(1_000_000), 1 << 21);
        assert_eq!(places(u32::MAX), 1 << 31);
    }
}
