//! The maps that hold sessions, their counters and their limits.

use std::{collections::BTreeMap, net::Ipv4Addr};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use ebpf_common::{
    Counter,
    relay::{
        BLOCK, BY_FLOW, DOWNLINK, DownlinkSession, FREE, FRESH, FlowBlock, FlowDscp, MAP_RELAY_DL,
        MAP_RELAY_DL_FLOWS, MAP_RELAY_DL_MORE, MAP_RELAY_DL_WAYS, MAP_RELAY_DROPS, MAP_RELAY_DSCP,
        MAP_RELAY_RATES, MAP_RELAY_REFUSED, MAP_RELAY_UL, MAP_RELAY_UL_FLOWS, MAP_RELAY_UL_MORE,
        PLACE_FLOWS, RelayRate, RelayReasons, SESSION_RATES, SessionDrops, TAKEN, UPLINK,
        UplinkKey, UplinkSession, downlink_place, uplink_place,
    },
};

use super::peers::{Peer, Peers};
use crate::{
    Error,
    loader::{failed, open, pod::Raw},
    places::{Places, Ranges},
    reading::add,
    sys::{WEAKLY_ORDERED, wait_for_programs},
};

/// `BPF_ANY` (linux/bpf.h).
const BPF_ANY: u64 = 0;

/// How many entries the maps have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Sessions at one time.
    pub(super) sessions: u32,
    /// Places for sessions, a power of two.
    pub(super) places: u32,
    /// QoS flows that find no room at the place of their session.
    pub(super) further_flows: u32,
    /// Rate limits, and the one that limits nothing.
    pub(super) rates: u32,
}

impl Sizes {
    pub(super) fn of(sessions: u32) -> Self {
        // As many refused places as a number of 16 bits can name.
        let sessions = sessions.clamp(1, 1 << 16);
        Self {
            sessions,
            // Half of them stay free, so that few keys meet.
            places: (sessions * 2).next_power_of_two(),
            further_flows: sessions * 2,
            rates: sessions * 2 + 1,
        }
    }

    /// Values that hold the counters of all flows.
    pub(super) const fn blocks(&self) -> u32 {
        (self.places * PLACE_FLOWS + self.further_flows).div_ceil(BLOCK)
    }
}

/// A session's part of the maps.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) uplink: UplinkSession,
    uplink_place: u32,
    /// The same for the XFRM interfaces of further Child SAs, at their places.
    more: Vec<(UplinkSession, u32)>,
    downlink: DownlinkSession,
    downlink_place: u32,
    peer: Peer,
    /// Counters that are not at the session's places.
    further_flows: Option<u32>,
    /// The limit of the session itself.
    rate: Option<u32>,
    /// The UE whose limit holds for the session too.
    ue: Option<u32>,
    /// What its flows' places had counted before, in the order of the places.
    before: Vec<Flow>,
}

/// Counters of a QoS flow, uplink and downlink.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    pub(super) uplink: Counter,
    pub(super) downlink: Counter,
}

/// What was counted since `before`.
fn since(now: Counter, before: Counter) -> Counter {
    let packets = now.packets.wrapping_sub(before.packets);
    Counter {
        packets,
        bytes: now.bytes.wrapping_sub(before.bytes),
        last_seen_ns: if packets == 0 { 0 } else { now.last_seen_ns },
    }
}

/// What a session was given: places and whether its keys say them.
#[derive(Debug, Default)]
struct Taken {
    number: Option<u32>,
    /// That of the default Child SA first.
    uplinks: Vec<(u32, bool)>,
    downlink: Option<(u32, bool)>,
    /// Start of the range.
    further_flows: Option<u32>,
    peer: Option<(Peer, u32)>,
}

/// What differs between the flows of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways {
    /// XFRM interfaces beside that of the default Child SA.
    pub(super) ifindexes: Vec<u32>,
    /// By QFI; 0: the default.
    pub(super) by_qfi: Option<[u32; 64]>,
    /// For sessions that have [`BY_FLOW`].
    pub(super) dscp: Option<FlowDscp>,
}

const fn key(uplink: &UplinkSession) -> UplinkKey {
    UplinkKey {
        inner: uplink.inner,
        ifindex: uplink.ifindex,
    }
}

impl Held {
    /// Uplink sessions and their places.
    fn uplinks(&self) -> impl Iterator<Item = (&UplinkSession, u32)> {
        let more = self.more.iter().map(|(uplink, place)| (uplink, *place));
        std::iter::once((&self.uplink, self.uplink_place)).chain(more)
    }

    fn flows(&self) -> u32 {
        self.uplink.qfis.count_ones()
    }
}

/// The limit that all sessions of a UE share.
struct UeLimit {
    place: u32,
    sessions: usize,
}

pub(super) struct Sessions {
    uplinks: Array<MapData, Raw<UplinkSession>>,
    more_uplinks: HashMap<MapData, Raw<UplinkKey>, u32>,
    downlinks: Array<MapData, Raw<DownlinkSession>>,
    more_downlinks: HashMap<MapData, [u8; 4], u32>,
    ways: HashMap<MapData, u32, [u32; 64]>,
    dscp: HashMap<MapData, u32, Raw<FlowDscp>>,
    uplink_flows: PerCpuArray<MapData, Raw<FlowBlock>>,
    downlink_flows: PerCpuArray<MapData, Raw<FlowBlock>>,
    refused: PerCpuArray<MapData, Raw<SessionDrops>>,
    rates: Array<MapData, Raw<RelayRate>>,
    reasons: PerCpuArray<MapData, Raw<RelayReasons>>,
    mask: u32,
    uplink_places: Places,
    downlink_places: Places,
    numbers: Places,
    /// Behind the flows of all places.
    flow_ranges: Ranges,
    rate_places: Places,
    pub(super) peers: Peers,
    ues: BTreeMap<u32, UeLimit>,
    cpus: usize,
    /// Something was taken out of a map, and a program may still be at it.
    freed: bool,
}

impl Sessions {
    pub(super) fn open(ebpf: &mut Ebpf, sizes: Sizes) -> Result<Self, Error> {
        let mut rate_places = Places::new(sizes.rates);
        // Place 0 limits nothing.
        rate_places.take(0);
        Ok(Self {
            uplinks: open(ebpf, MAP_RELAY_UL)?,
            more_uplinks: open(ebpf, MAP_RELAY_UL_MORE)?,
            downlinks: open(ebpf, MAP_RELAY_DL)?,
            more_downlinks: open(ebpf, MAP_RELAY_DL_MORE)?,
            ways: open(ebpf, MAP_RELAY_DL_WAYS)?,
            dscp: open(ebpf, MAP_RELAY_DSCP)?,
            uplink_flows: open(ebpf, MAP_RELAY_UL_FLOWS)?,
            downlink_flows: open(ebpf, MAP_RELAY_DL_FLOWS)?,
            refused: open(ebpf, MAP_RELAY_REFUSED)?,
            rates: open(ebpf, MAP_RELAY_RATES)?,
            reasons: open(ebpf, MAP_RELAY_DROPS)?,
            mask: sizes.places - 1,
            uplink_places: Places::new(sizes.places),
            downlink_places: Places::new(sizes.places),
            numbers: Places::new(sizes.sessions),
            flow_ranges: Ranges::new(sizes.further_flows),
            rate_places,
            peers: Peers::open(ebpf, sizes.sessions)?,
            ues: BTreeMap::new(),
            cpus: nr_cpus().map_err(|(file, e)| Error::io(format!("read {file}"), e))?,
            freed: false,
        })
    }

    /// Adds a session with counters at zero; places and numbers of both halves are chosen here. An
    /// inner address or a TEID that is taken stays whose it is.
    pub(super) fn add(
        &mut self,
        uplink: UplinkSession,
        downlink: DownlinkSession,
        ways: &Ways,
        (peer, pdu_max): (Peer, u32),
        own: Option<RelayRate>,
        ue: Option<(u32, RelayRate)>,
    ) -> Result<Held, Error> {
        let mut further = vec![uplink; ways.ifindexes.len()];
        for (one, ifindex) in further.iter_mut().zip(&ways.ifindexes) {
            one.ifindex = *ifindex;
        }
        for one in std::iter::once(&uplink).chain(&further) {
            self.check_unique(key(one), downlink.teid)?;
        }
        self.settle();
        let mut taken = Taken::default();
        let further_keys: Vec<UplinkKey> = further.iter().map(key).collect();
        let count = uplink.qfis.count_ones();
        let keys = (key(&uplink), &further_keys[..], downlink.teid);
        if let Err(error) = self.take(&mut taken, keys, count, (peer, pdu_max)) {
            self.give_back(&taken, count);
            return Err(error);
        }
        let flows_at = |(place, direct): (u32, bool)| match taken.further_flows {
            Some(further) if count > PLACE_FLOWS || !direct => {
                (self.mask + 1) * PLACE_FLOWS + further
            }
            _ => place * PLACE_FLOWS,
        };
        let (Some(number), Some(down), Some((_, peer_place)), Some(up)) = (
            taken.number,
            taken.downlink,
            taken.peer,
            taken.uplinks.first().copied(),
        ) else {
            // What was taken is there.
            return Err(full("session"));
        };
        let (flows, downlink_flows) = (flows_at(up), flows_at(down));
        let rate = own.and_then(|_| self.rate_places.any());
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        let placed = |uplink: UplinkSession| UplinkSession {
            state: FREE,
            peer: peer_place,
            flows,
            session: number,
            ..uplink
        };
        let places = taken.uplinks.iter().skip(1).map(|(place, _)| *place);
        let more = further.into_iter().map(placed).zip(places).collect();
        let direct: Vec<bool> = taken.uplinks.iter().map(|(_, direct)| *direct).collect();
        let mut held = Held {
            uplink: placed(uplink),
            uplink_place: up.0,
            more,
            downlink: DownlinkSession {
                state: FREE,
                peer: peer_place,
                flows: downlink_flows,
                session: number,
                ways: ways.by_qfi.is_some().into(),
                ..downlink
            },
            downlink_place: down.0,
            peer,
            further_flows: taken.further_flows,
            rate,
            ue: None,
            before: Vec::new(),
        };
        let written = self
            .limit(&mut held, own, ue)
            .and_then(|()| self.read_flows(&held))
            .and_then(|before| {
                held.before = before;
                if let Some(by_qfi) = ways.by_qfi {
                    self.ways
                        .insert(u32::from(number), by_qfi, BPF_ANY)
                        .map_err(|e| failed("write relay_dl_ways", &e))?;
                }
                if let Some(dscp) = ways.dscp {
                    self.dscp
                        .insert(u32::from(number), Raw(dscp), BPF_ANY)
                        .map_err(|e| failed("write relay_dscp", &e))?;
                }
                self.write(&held, &direct, down.1)
            });
        if let Err(error) = written {
            self.remove(&held);
            return Err(error);
        }
        Ok(held)
    }

    /// Takes what a session with `count` flows and these keys needs; what it got is in `taken`.
    fn take(
        &mut self,
        taken: &mut Taken,
        (first, further, teid): (UplinkKey, &[UplinkKey], [u8; 4]),
        count: u32,
        (peer, pdu_max): (Peer, u32),
    ) -> Result<(), Error> {
        taken.number = Some(self.numbers.any().ok_or_else(|| full("session"))?);
        for key in std::iter::once(&first).chain(further) {
            let wanted = uplink_place(*key, self.mask);
            let place = choose(&mut self.uplink_places, wanted).ok_or_else(|| full("place"))?;
            taken.uplinks.push(place);
        }
        let wanted = downlink_place(teid, self.mask);
        let down = choose(&mut self.downlink_places, wanted).ok_or_else(|| full("place"))?;
        taken.downlink = Some(down);
        let direct = taken.uplinks.first().is_some_and(|(_, direct)| *direct) && down.1;
        if count > PLACE_FLOWS || !direct {
            let range = self.flow_ranges.take(count);
            taken.further_flows = Some(range.ok_or_else(|| full("QoS flow"))?);
        }
        taken.peer = Some((peer, self.peers.take(peer, pdu_max)?));
        Ok(())
    }

    /// Gives back what [`Self::take`] took before it failed.
    fn give_back(&mut self, taken: &Taken, count: u32) {
        if let Some(number) = taken.number {
            self.numbers.free(number);
        }
        for (place, _) in &taken.uplinks {
            self.uplink_places.free(*place);
        }
        if let Some((place, _)) = taken.downlink {
            self.downlink_places.free(place);
        }
        if let Some(first) = taken.further_flows {
            self.flow_ranges.free(first, count);
        }
        if let Some((peer, _)) = taken.peer {
            self.peers.free(peer);
        }
    }

    fn check_unique(&self, key: UplinkKey, teid: [u8; 4]) -> Result<(), Error> {
        let taken = |what: String| Error::Config(format!("{what} is another session's"));
        let up = uplink_place(key, self.mask);
        let here = self.uplink_at(up)?;
        let more = self.more_uplinks.get(&Raw(key), 0).is_ok();
        if more || (here.state != FREE && here.inner == key.inner && here.ifindex == key.ifindex) {
            return Err(taken(Ipv4Addr::from(key.inner).to_string()));
        }
        let here = self
            .downlinks
            .get(&downlink_place(teid, self.mask), 0)
            .map_err(|e| failed("read relay_dl", &e))?
            .0;
        let more = self.more_downlinks.get(&teid, 0).is_ok();
        if more || (here.state != FREE && here.teid == teid) {
            return Err(taken(format!("TEID {:#010x}", u32::from_be_bytes(teid))));
        }
        Ok(())
    }

    fn uplink_at(&self, place: u32) -> Result<UplinkSession, Error> {
        let found = self.uplinks.get(&place, 0);
        Ok(found.map_err(|e| failed("read relay_ul", &e))?.0)
    }

    /// Puts the limits of a session into the map and their places into the session.
    fn limit(
        &mut self,
        held: &mut Held,
        own: Option<RelayRate>,
        ue: Option<(u32, RelayRate)>,
    ) -> Result<(), Error> {
        let mut rates = [0; SESSION_RATES];
        if let (Some(place), Some(limit)) = (held.rate, own) {
            self.set_rate(place, limit)?;
            rates[0] = place;
        }
        if let Some((ue, limit)) = ue {
            let place = match self.ues.get_mut(&ue) {
                Some(shared) => {
                    shared.sessions += 1;
                    shared.place
                }
                None => {
                    let place = self.rate_places.any().ok_or_else(|| {
                        Error::Config("the kernel relay has no rate limit left".to_owned())
                    })?;
                    self.ues.insert(ue, UeLimit { place, sessions: 1 });
                    place
                }
            };
            held.ue = Some(ue);
            self.set_rate(place, limit)?;
            rates[1] = place;
        }
        held.uplink.rates = rates;
        for (further, _) in &mut held.more {
            further.rates = rates;
        }
        held.downlink.rates = rates;
        Ok(())
    }

    fn set_rate(&mut self, place: u32, limit: RelayRate) -> Result<(), Error> {
        self.rates
            .set(place, Raw(limit), BPF_ANY)
            .map_err(|e| failed("write relay_rates", &e))
    }

    /// Changes the limit of a UE, if a session of it has one.
    pub(super) fn set_ue_rate(&mut self, ue: u32, limit: RelayRate) -> Result<(), Error> {
        match self.ues.get(&ue).map(|shared| shared.place) {
            Some(place) => self.set_rate(place, limit),
            None => Ok(()),
        }
    }

    fn write(&mut self, held: &Held, up_direct: &[bool], down_direct: bool) -> Result<(), Error> {
        let zero = self.on_all(SessionDrops::default())?;
        self.refused
            .set(held.uplink.session.into(), zero, BPF_ANY)
            .map_err(|e| failed("clear relay_refused", &e))?;
        for ((uplink, place), direct) in held.uplinks().zip(up_direct) {
            if !direct {
                self.more_uplinks
                    .insert(Raw(key(uplink)), place, BPF_ANY)
                    .map_err(|e| failed("write relay_ul_more", &e))?;
            }
        }
        if !down_direct {
            self.more_downlinks
                .insert(held.downlink.teid, held.downlink_place, BPF_ANY)
                .map_err(|e| failed("write relay_dl_more", &e))?;
        }
        self.set(held, FREE)?;
        if WEAKLY_ORDERED {
            wait_for_programs();
        }
        self.set(held, TAKEN)
    }

    fn on_all<T: Copy>(&self, value: T) -> Result<PerCpuValues<Raw<T>>, Error>
    where
        Raw<T>: aya::Pod,
    {
        PerCpuValues::try_from(vec![Raw(value); self.cpus])
            .map_err(|e| Error::io("count the CPUs", e))
    }

    fn set(&mut self, held: &Held, state: u32) -> Result<(), Error> {
        for (uplink, place) in held.uplinks() {
            let uplink = UplinkSession {
                // The first packet is told.
                state: if state == TAKEN { FRESH } else { state },
                ..*uplink
            };
            self.uplinks
                .set(place, Raw(uplink), BPF_ANY)
                .map_err(|e| failed("write relay_ul", &e))?;
        }
        let downlink = DownlinkSession {
            state,
            ..held.downlink
        };
        self.downlinks
            .set(held.downlink_place, Raw(downlink), BPF_ANY)
            .map_err(|e| failed("write relay_dl", &e))
    }

    /// A place changes its owner only when no program can still look at the last one: it would take
    /// one session's packet for another's.
    fn settle(&mut self) {
        if std::mem::take(&mut self.freed) {
            wait_for_programs();
        }
    }

    /// Names the Child SAs of a session anew. Its packets go by user space for that moment.
    pub(super) fn rebind(&mut self, held: &mut Held, reqids: [u32; 4]) -> Result<(), Error> {
        self.set(held, FREE)?;
        wait_for_programs();
        held.uplink.reqids = reqids;
        for (further, _) in &mut held.more {
            further.reqids = reqids;
        }
        self.set(held, FREE)?;
        if WEAKLY_ORDERED {
            wait_for_programs();
        }
        self.set(held, TAKEN)
    }

    /// Takes a session out of the maps; its counters can be read until another one is added.
    pub(super) fn remove(&mut self, held: &Held) {
        self.freed = true;
        if let Err(error) = self.set(held, FREE) {
            tracing::warn!(%error, "a session could not be taken out of the kernel");
        }
        // Most sessions are not in these.
        for (uplink, place) in held.uplinks() {
            let _ = self.more_uplinks.remove(&Raw(key(uplink)));
            self.uplink_places.free(place);
        }
        let _ = self.more_downlinks.remove(&held.downlink.teid);
        if held.downlink.ways != 0 {
            let _ = self.ways.remove(&u32::from(held.downlink.session));
        }
        if held.uplink.dscp == BY_FLOW || held.downlink.dscp == BY_FLOW {
            let _ = self.dscp.remove(&u32::from(held.uplink.session));
        }
        self.downlink_places.free(held.downlink_place);
        self.peers.free(held.peer);
        self.numbers.free(held.uplink.session.into());
        if let Some(further) = held.further_flows {
            self.flow_ranges.free(further, held.flows());
        }
        if let Some(place) = held.rate {
            self.rate_places.free(place);
        }
        if let Some(ue) = held.ue
            && let Some(shared) = self.ues.get_mut(&ue)
        {
            shared.sessions -= 1;
            if shared.sessions == 0 {
                self.rate_places.free(shared.place);
                self.ues.remove(&ue);
            }
        }
    }

    /// Counters of the flows of a session, lowest QFI first, all CPUs added.
    pub(super) fn flows(&self, held: &Held) -> Result<Vec<Flow>, Error> {
        let now = self.read_flows(held)?;
        let both = now.into_iter().zip(&held.before);
        Ok(both
            .map(|(now, before)| Flow {
                uplink: since(now.uplink, before.uplink),
                downlink: since(now.downlink, before.downlink),
            })
            .collect())
    }

    /// What the places of a session's flows say.
    fn read_flows(&self, held: &Held) -> Result<Vec<Flow>, Error> {
        let count = held.flows();
        let up = counters(&self.uplink_flows, held.uplink.flows, count)?;
        let down = counters(&self.downlink_flows, held.downlink.flows, count)?;
        let both = up.into_iter().zip(down);
        Ok(both
            .map(|(uplink, downlink)| Flow { uplink, downlink })
            .collect())
    }

    /// What was refused of a session, all CPUs added.
    pub(super) fn refused(&self, held: &Held) -> Result<SessionDrops, Error> {
        let values = self
            .refused
            .get(&held.uplink.session.into(), 0)
            .map_err(|e| failed("read relay_refused", &e))?;
        let mut total = SessionDrops::default();
        for value in values.iter() {
            total.add(&value.0);
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

/// `count` counters from `first` on, all CPUs added.
fn counters(
    map: &PerCpuArray<MapData, Raw<FlowBlock>>,
    first: u32,
    count: u32,
) -> Result<Vec<Counter>, Error> {
    let mut all = vec![Counter::default(); usize::try_from(count).unwrap_or(0)];
    let last = first.saturating_add(count.saturating_sub(1));
    for block in first / BLOCK..=last / BLOCK {
        let values = map
            .get(&block, 0)
            .map_err(|e| failed("read counters of flows", &e))?;
        for (place, total) in (first..).zip(&mut all) {
            if place / BLOCK != block {
                continue;
            }
            let within = usize::try_from(place % BLOCK).unwrap_or(usize::MAX);
            let found = values.iter().filter_map(|value| value.0.flows.get(within));
            for counter in found {
                add(total, counter);
            }
        }
    }
    Ok(all)
}

fn full(what: &str) -> Error {
    Error::Config(format!("the kernel relay has no {what} left"))
}

/// The place that a key says, or any other; and which of both.
fn choose(places: &mut Places, place: u32) -> Option<(u32, bool)> {
    if places.take(place) {
        return Some((place, true));
    }
    places.any().map(|place| (place, false))
}
