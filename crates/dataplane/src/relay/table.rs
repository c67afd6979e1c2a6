//! The N3IWF's sessions and the decision per packet, without a socket.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use gtpu::{Direction, Header, PduSessionContainer};
use nwu::GreHeader;

use super::{
    AccessSession, Ambr, Drops, FlowReading, Path, SessionReading,
    limit::{self, Limits},
};
use crate::reading::Traffic;

/// Packets and octets that relay threads add to.
#[derive(Debug, Default)]
pub(super) struct Both {
    uplink: [AtomicU64; 2],
    downlink: [AtomicU64; 2],
}

/// What was not relayed.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) no_session: AtomicU64,
    pub(super) qfi_not_allowed: AtomicU64,
    pub(super) wrong_address: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) too_big: AtomicU64,
    pub(super) rate: AtomicU64,
    pub(super) send_failed: AtomicU64,
}

impl Both {
    pub(super) fn count(&self, direction: Direction, octets: usize) {
        let [packets, bytes] = match direction {
            Direction::Uplink => &self.uplink,
            Direction::Downlink => &self.downlink,
        };
        packets.fetch_add(1, Relaxed);
        bytes.fetch_add(octets.try_into().unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn traffic(&self, direction: Direction) -> Traffic {
        let [packets, bytes] = match direction {
            Direction::Uplink => &self.uplink,
            Direction::Downlink => &self.downlink,
        };
        Traffic {
            packets: packets.load(Relaxed),
            bytes: bytes.load(Relaxed),
        }
    }
}

impl Counters {
    pub(super) fn drops(&self) -> Drops {
        Drops {
            no_session: self.no_session.load(Relaxed),
            qfi_not_allowed: self.qfi_not_allowed.load(Relaxed),
            wrong_address: self.wrong_address.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
            too_big: self.too_big.load(Relaxed),
            rate: self.rate.load(Relaxed),
            send_failed: self.send_failed.load(Relaxed),
            ..Drops::default()
        }
    }
}

/// A session with its counters.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) session: AccessSession,
    pub(super) counters: Arc<Counters>,
    /// By QFI: the session's, and those it had before it was modified.
    flows: Vec<(u8, Arc<Both>)>,
    limits: Limits,
}

impl Entry {
    /// The slot whose GRE socket serves a flow: without IPsec there is one for all.
    pub(super) fn home(&self, qfi: u8) -> u32 {
        if self.session.interface.is_none() {
            return 0;
        }
        let mut further = self.session.further.iter();
        let found = further.find(|tunnel| tunnel.qfis.contains(&qfi));
        found.map_or(self.session.slot, |tunnel| tunnel.slot)
    }

    /// Counts a PDU of a flow that the session has.
    pub(super) fn count(&self, qfi: u8, direction: Direction, octets: usize) {
        if let Some((_, flow)) = self.flows.iter().find(|(own, _)| *own == qfi) {
            flow.count(direction, octets);
        }
    }

    /// Whether the AMBRs allow a PDU; if not, it is counted.
    fn admit(&self, direction: Direction, octets: usize, now: u64) -> bool {
        let admitted = self.limits.admit(direction, octets, now);
        if !admitted {
            self.counters.rate.fetch_add(1, Relaxed);
        }
        admitted
    }

    fn reading(&self) -> SessionReading {
        let mut flows: Vec<FlowReading> = self
            .flows
            .iter()
            .map(|(qfi, flow)| FlowReading {
                qfi: *qfi,
                uplink: flow.traffic(Direction::Uplink),
                downlink: flow.traffic(Direction::Downlink),
                last_seen: None,
            })
            .collect();
        flows.sort_by_key(|flow| flow.qfi);
        SessionReading {
            pdu_session: self.session.pdu_session,
            dl_teid: self.session.dl_teid,
            address: self.session.ue_inner,
            uplink: flows.iter().map(|flow| flow.uplink).sum(),
            downlink: flows.iter().map(|flow| flow.downlink).sum(),
            flows,
            drops: self.counters.drops(),
            path: Path::User,
        }
    }
}

impl AccessSession {
    /// Whether one of its Child SAs has this slot. A UE may send any flow by any of them: which one it takes
    /// is its choice (TS 24.502, 7.5), and all are its own.
    fn has_slot(&self, slot: u32) -> bool {
        self.slot == slot || self.further.iter().any(|tunnel| tunnel.slot == slot)
    }
}

/// Sessions by TEID and by inner address.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    by_teid: BTreeMap<u32, Arc<Entry>>,
    by_inner: HashMap<Ipv4Addr, Vec<Arc<Entry>>>,
    /// UE-AMBRs, by the number of the UE.
    ues: HashMap<u32, Arc<limit::Both>>,
}

impl Table {
    pub(super) fn insert(&mut self, session: AccessSession) {
        self.remove(session.dl_teid);
        self.place(session, Arc::default(), Vec::new());
    }

    /// `false`: there is no such session.
    pub(super) fn modify(&mut self, session: AccessSession) -> bool {
        let Some(old) = self.by_teid.get(&session.dl_teid).cloned() else {
            return false;
        };
        self.remove(session.dl_teid);
        self.place(session, Arc::clone(&old.counters), old.flows.clone());
        true
    }

    /// `flows` are counters that go on.
    fn place(
        &mut self,
        session: AccessSession,
        counters: Arc<Counters>,
        mut flows: Vec<(u8, Arc<Both>)>,
    ) {
        let ue = session.ue_ambr.map(|ambr| {
            let shared = self
                .ues
                .entry(session.ue)
                .or_insert_with(|| Arc::new(limit::Both::new(ambr)));
            shared.set(ambr);
            Arc::clone(shared)
        });
        let limits = Limits {
            session: session.session_ambr.map(limit::Both::new),
            ue,
        };
        for qfi in &session.qfis {
            if flows.iter().all(|(known, _)| known != qfi) {
                flows.push((*qfi, Arc::default()));
            }
        }
        let entry = Arc::new(Entry {
            session,
            counters,
            flows,
            limits,
        });
        let inner = entry.session.ue_inner;
        self.by_inner
            .entry(inner)
            .or_default()
            .push(Arc::clone(&entry));
        self.by_teid.insert(entry.session.dl_teid, entry);
    }

    pub(super) fn remove(&mut self, dl_teid: u32) -> Option<SessionReading> {
        let entry = self.by_teid.remove(&dl_teid)?;
        let inner = entry.session.ue_inner;
        if let Some(entries) = self.by_inner.get_mut(&inner) {
            entries.retain(|other| other.session.dl_teid != dl_teid);
            if entries.is_empty() {
                self.by_inner.remove(&inner);
            }
        }
        // The last session of a UE, besides the table, has its limit.
        let ue = entry.session.ue;
        if self
            .ues
            .get(&ue)
            .is_some_and(|shared| Arc::strong_count(shared) <= 2)
        {
            self.ues.remove(&ue);
        }
        Some(entry.reading())
    }

    /// Changes the limit that the sessions of a UE share.
    pub(super) fn set_ue_ambr(&self, ue: u32, ambr: Ambr) {
        if let Some(shared) = self.ues.get(&ue) {
            shared.set(ambr);
        }
    }

    pub(super) fn readings(&self) -> Vec<SessionReading> {
        self.by_teid.values().map(|entry| entry.reading()).collect()
    }

    /// Whether a session still needs the GRE socket of `slot`.
    pub(super) fn uses_slot(&self, slot: u32) -> bool {
        self.by_teid
            .values()
            .any(|entry| entry.session.has_slot(slot))
    }

    /// The UPFs of all sessions.
    pub(super) fn upfs(&self) -> BTreeSet<IpAddr> {
        let sessions = self.by_teid.values();
        sessions.map(|entry| entry.session.upf).collect()
    }

    /// The session whose `ul_teid` a peer does not know.
    pub(super) fn by_ul_teid(&self, upf: IpAddr, ul_teid: u32) -> Option<u32> {
        self.by_teid
            .values()
            .map(|entry| &entry.session)
            .find(|session| session.upf == upf && session.ul_teid == ul_teid)
            .map(|session| session.dl_teid)
    }

    /// Which session an uplink GRE packet belongs to, and its container.
    ///
    /// `now` is in nanoseconds. `slot` is `None` when the socket is bound to no interface (no IPsec).
    pub(super) fn uplink<'a>(
        &self,
        slot: Option<u32>,
        source: Ipv4Addr,
        gre: &'a [u8],
        now: u64,
        unknown: &Counters,
    ) -> Option<(Arc<Entry>, PduSessionContainer, &'a [u8])> {
        let Ok((header, pdu)) = GreHeader::decode(gre) else {
            unknown.malformed.fetch_add(1, Relaxed);
            return None;
        };
        let mut candidates = self
            .by_inner
            .get(&source)
            .into_iter()
            .flatten()
            .filter(|entry| slot.is_none_or(|slot| entry.session.has_slot(slot)))
            .peekable();
        let Some(first) = candidates.peek().copied() else {
            unknown.no_session.fetch_add(1, Relaxed);
            return None;
        };
        let allowed = candidates.find_map(|entry| {
            let qfi = header.qfi.unwrap_or(entry.session.default_qfi);
            entry.session.qfis.contains(&qfi).then_some((entry, qfi))
        });
        let Some((entry, qfi)) = allowed else {
            first.counters.qfi_not_allowed.fetch_add(1, Relaxed);
            return None;
        };
        if !entry.admit(Direction::Uplink, pdu.len(), now) {
            return None;
        }
        let container = PduSessionContainer {
            direction: Direction::Uplink,
            qfi,
            rqi: false,
        };
        Some((Arc::clone(entry), container, pdu))
    }

    /// Which session a downlink G-PDU belongs to, and its GRE header.
    pub(super) fn downlink(
        &self,
        source: IpAddr,
        header: &Header,
        octets: usize,
        now: u64,
        unknown: &Counters,
    ) -> Result<Option<(Arc<Entry>, GreHeader)>, UnknownTeid> {
        let Some(entry) = self.by_teid.get(&header.teid) else {
            unknown.no_session.fetch_add(1, Relaxed);
            return Err(UnknownTeid);
        };
        if entry.session.upf != source {
            entry.counters.wrong_address.fetch_add(1, Relaxed);
            return Ok(None);
        }
        let (qfi, rqi) = match header.container {
            Some(container) => (container.qfi, container.rqi),
            None => (entry.session.default_qfi, false),
        };
        if !entry.session.qfis.contains(&qfi) {
            entry.counters.qfi_not_allowed.fetch_add(1, Relaxed);
            return Ok(None);
        }
        if !entry.admit(Direction::Downlink, octets, now) {
            return Ok(None);
        }
        let gre = GreHeader {
            qfi: Some(qfi),
            rqi,
        };
        Ok(Some((Arc::clone(entry), gre)))
    }
}

/// A G-PDU for a tunnel that does not exist: the sender is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownTeid;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Tunnel;
    use gtpu::MessageType;

    const UE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const UPF: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));

    fn session(dl_teid: u32, slot: u32, qfis: &[u8]) -> AccessSession {
        AccessSession {
            dl_teid,
            ul_teid: dl_teid + 100,
            upf: UPF,
            ue_inner: UE,
            pdu_session: 1,
            qfis: qfis.to_vec(),
            default_qfi: qfis[0],
            slot,
            interface: Some("xfrmi".into()),
            further: Vec::new(),
            ue: 1,
            session_ambr: None,
            ue_ambr: None,
            dscp: 0,
            n3_dscp: BTreeMap::new(),
        }
    }

    fn gre(qfi: u8) -> Vec<u8> {
        let header = GreHeader {
            qfi: Some(qfi),
            rqi: false,
        };
        [&header.encode(0)[..], b"pdu"].concat()
    }

    fn g_pdu(teid: u32, container: Option<PduSessionContainer>) -> Header {
        Header {
            kind: MessageType::GPdu,
            teid,
            sequence: None,
            container,
        }
    }

    #[test]
    fn uplink_needs_the_slot_and_a_qfi_of_the_session() {
        let mut table = Table::default();
        let unknown = Counters::default();
        table.insert(session(1, 0, &[1, 2]));
        table.insert(session(2, 1, &[5]));
        let packet = gre(2);
        let (entry, container, pdu) = table.uplink(Some(0), UE, &packet, 0, &unknown).unwrap();
        assert_eq!(
            (entry.session.dl_teid, container.qfi, pdu),
            (1, 2, &b"pdu"[..])
        );
        assert!(
            table.uplink(Some(0), UE, &gre(5), 0, &unknown).is_none(),
            "other session's flow"
        );
        assert!(
            table.uplink(Some(2), UE, &gre(1), 0, &unknown).is_none(),
            "no such slot"
        );
        let other = Ipv4Addr::new(10, 0, 0, 3);
        assert!(
            table.uplink(Some(0), other, &gre(1), 0, &unknown).is_none(),
            "no such UE"
        );
        assert!(
            table.uplink(Some(0), UE, &[0x20], 0, &unknown).is_none(),
            "no GRE"
        );
        // Without interfaces the flow alone tells the sessions apart.
        let packet = gre(5);
        assert_eq!(
            table
                .uplink(None, UE, &packet, 0, &unknown)
                .unwrap()
                .0
                .session
                .dl_teid,
            2
        );
        assert_eq!(table.readings()[0].drops.qfi_not_allowed, 1);
        assert_eq!(
            unknown.drops(),
            Drops {
                no_session: 2,
                malformed: 1,
                ..Drops::default()
            }
        );
    }

    #[test]
    fn a_flow_goes_by_its_own_child_sa_and_comes_by_any() {
        let mut table = Table::default();
        let unknown = Counters::default();
        let tunnel = |slot, qfi| Tunnel {
            slot,
            interface: Some(format!("xfrmi-{slot}")),
            qfis: vec![qfi],
            dscp: 0,
        };
        table.insert(AccessSession {
            further: vec![tunnel(2, 5), tunnel(3, 6)],
            ..session(1, 0, &[9, 5, 6])
        });
        table.insert(session(2, 1, &[9]));
        for slot in [0, 2, 3] {
            for qfi in [9, 5, 6] {
                let packet = gre(qfi);
                let found = table.uplink(Some(slot), UE, &packet, 0, &unknown);
                assert_eq!(found.unwrap().0.session.dl_teid, 1);
            }
            assert!(table.uses_slot(slot));
        }
        let packet = gre(9);
        let found = table.uplink(Some(1), UE, &packet, 0, &unknown).unwrap();
        assert_eq!(found.0.session.dl_teid, 2);
        let entry = &table.by_teid[&1];
        assert_eq!([9, 5, 6, 7].map(|qfi| entry.home(qfi)), [0, 2, 3, 0]);
        table.remove(1);
        assert!(!table.uses_slot(2));
    }

    #[test]
    fn downlink_needs_the_upf_and_a_known_flow() {
        let mut table = Table::default();
        let unknown = Counters::default();
        table.insert(session(1, 0, &[3]));
        let container = |qfi| {
            Some(PduSessionContainer {
                direction: Direction::Downlink,
                qfi,
                rqi: true,
            })
        };
        let found = table
            .downlink(UPF, &g_pdu(1, container(3)), 0, 0, &unknown)
            .unwrap()
            .unwrap();
        assert_eq!(
            found.1,
            GreHeader {
                qfi: Some(3),
                rqi: true
            }
        );
        let found = table
            .downlink(UPF, &g_pdu(1, None), 0, 0, &unknown)
            .unwrap()
            .unwrap();
        assert_eq!(
            found.1,
            GreHeader {
                qfi: Some(3),
                rqi: false
            }
        );
        assert!(
            table
                .downlink(UE.into(), &g_pdu(1, None), 0, 0, &unknown)
                .unwrap()
                .is_none()
        );
        assert!(
            table
                .downlink(UPF, &g_pdu(1, container(4)), 0, 0, &unknown)
                .unwrap()
                .is_none()
        );
        assert_eq!(
            table
                .downlink(UPF, &g_pdu(9, None), 0, 0, &unknown)
                .unwrap_err(),
            UnknownTeid
        );
        let drops = table.readings()[0].drops;
        assert_eq!((drops.wrong_address, drops.qfi_not_allowed), (1, 1));
    }

    #[test]
    fn a_session_above_its_ambr_is_counted_for_it() {
        let mut table = Table::default();
        let unknown = Counters::default();
        table.insert(AccessSession {
            session_ambr: Some(Ambr {
                uplink: 8_000_000,
                downlink: 80_000,
            }),
            ..session(1, 0, &[1])
        });
        // Downlink 10 octets a millisecond, and never less than 3000 at once.
        let mut passed = 0;
        for ms in 0..1000 {
            let found = table.downlink(UPF, &g_pdu(1, None), 1000, ms * 1_000_000, &unknown);
            passed += usize::from(found.unwrap().is_some());
        }
        assert_eq!(passed, 3 + 9);
        assert_eq!(table.readings()[0].drops.rate, 1000 - 12);
        assert!(table.uplink(Some(0), UE, &gre(1), 0, &unknown).is_some());
    }

    #[test]
    fn a_modified_session_counts_on_and_takes_other_flows() {
        let mut table = Table::default();
        let unknown = Counters::default();
        assert!(!table.modify(session(1, 0, &[1])), "nothing to modify");
        table.insert(session(1, 0, &[1, 2]));
        let count = |table: &Table, qfi| {
            let packet = gre(qfi);
            let found = table.uplink(Some(0), UE, &packet, 0, &unknown);
            found.is_some_and(|(entry, container, pdu)| {
                entry.count(container.qfi, Direction::Uplink, pdu.len());
                true
            })
        };
        assert!(count(&table, 1) && count(&table, 2) && !count(&table, 3));
        assert!(table.modify(AccessSession {
            ul_teid: 7,
            ..session(1, 0, &[2, 3])
        }));
        assert_eq!(table.by_ul_teid(UPF, 7), Some(1));
        assert!(!count(&table, 1) && count(&table, 2) && count(&table, 3));
        let reading = &table.readings()[0];
        let flows: Vec<(u8, u64)> = reading
            .flows
            .iter()
            .map(|flow| (flow.qfi, flow.uplink.packets))
            .collect();
        assert_eq!(flows, [(1, 1), (2, 2), (3, 1)]);
        assert_eq!(reading.uplink.packets, 4);
        assert_eq!(reading.drops.qfi_not_allowed, 2);
        assert_eq!(table.by_inner[&UE].len(), 1);
    }

    #[test]
    fn a_removed_session_leaves_nothing() {
        let mut table = Table::default();
        table.insert(session(1, 0, &[1]));
        table.insert(session(1, 3, &[1]));
        assert!(table.uses_slot(3) && !table.uses_slot(0), "replaced");
        assert_eq!(table.by_ul_teid(UPF, 101), Some(1));
        assert!(table.remove(1).is_some());
        assert!(table.remove(1).is_none());
        assert!(table.by_inner.is_empty() && table.by_teid.is_empty());
        let ambr = Ambr {
            uplink: 1_000_000,
            downlink: 1_000_000,
        };
        for teid in [1, 2] {
            table.insert(AccessSession {
                ue_ambr: Some(ambr),
                ..session(teid, 0, &[1])
            });
        }
        table.remove(1);
        assert_eq!(table.ues.len(), 1, "the UE has a session left");
        table.remove(2);
        assert!(table.ues.is_empty());
    }
}
