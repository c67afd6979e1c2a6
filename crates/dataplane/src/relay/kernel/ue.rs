//! The UE's relay in the kernel, in front of the one in user space.
//!
//! Programs are loaded at the start, while the daemon has the rights for it, and hang on the interface of
//! each session. Whatever they leave alone reaches the interface as if there were none.

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, PerCpuArray},
    programs::{LinkOrder, TcAttachType, tc::SchedClassifierLinkId},
};
use ebpf_common::{
    Counter,
    relay::FlowBlock,
    ue::{
        MAP_UE_DERIVED, MAP_UE_DL_FLOWS, MAP_UE_FLOWS, MAP_UE_SESSIONS, MAP_UE_TUNNELS,
        PROGRAM_UE_DOWNLINK, PROGRAM_UE_TUNNEL, PROGRAM_UE_UPLINK, QFIS, UE_DERIVED, UE_FILTERS,
        UE_SESSIONS, UE_TUNNELS, UeDerived, UeFilter, UeFlow, UeSession as Entry,
    },
};

use super::{filters::flatten, ue_tunnels::Tunnels};
use crate::{
    Error,
    link::Links,
    loader::{
        Attachment, add_clsact, attachment, failed, hang, open, pod::Raw, program, read_object,
    },
    reading::add,
    relay::{Tunnel, UeSession, UplinkRules, reflect::Reflected},
    sys,
};

/// `BPF_ANY` (linux/bpf.h).
const BPF_ANY: u64 = 0;

/// The programs, and the sessions they serve.
pub(in crate::relay) struct UePrograms {
    ebpf: Ebpf,
    attachment: Attachment,
    sessions: HashMap<MapData, u32, Raw<Entry>>,
    derived: HashMap<MapData, Raw<UeFlow>, Raw<UeDerived>>,
    flows: [PerCpuArray<MapData, Raw<FlowBlock>>; 2],
    tunnels: Tunnels,
    served: BTreeMap<u8, Served>,
}

struct Served {
    ifindex: u32,
    /// The XFRM interface of the default Child SA.
    tunnel: (u32, String),
    entry: Entry,
    links: Vec<(&'static str, SchedClassifierLinkId)>,
    /// The programs take its rules.
    active: bool,
    /// What the place had counted before.
    before: Vec<Both>,
}

/// Counters of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::relay) struct Both {
    pub(in crate::relay) uplink: Counter,
    pub(in crate::relay) downlink: Counter,
}

impl UePrograms {
    /// Loads the object.
    pub(in crate::relay) fn load(object: &Path) -> Result<Self, Error> {
        let object = read_object(object)?;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(MAP_UE_SESSIONS, UE_SESSIONS)
            .map_max_entries(MAP_UE_DERIVED, UE_DERIVED)
            .map_max_entries(MAP_UE_FLOWS, UE_SESSIONS)
            .map_max_entries(MAP_UE_DL_FLOWS, UE_SESSIONS)
            .map_max_entries(MAP_UE_TUNNELS, UE_TUNNELS)
            .load(&object)
            .map_err(|e| failed("load the object", &e))?;
        let sessions = open(&mut ebpf, MAP_UE_SESSIONS)?;
        let derived = open(&mut ebpf, MAP_UE_DERIVED)?;
        let flows = [
            open(&mut ebpf, MAP_UE_FLOWS)?,
            open(&mut ebpf, MAP_UE_DL_FLOWS)?,
        ];
        let attachment = attachment();
        let tunnels = Tunnels::open(&mut ebpf, attachment)?;
        for name in [PROGRAM_UE_UPLINK, PROGRAM_UE_TUNNEL, PROGRAM_UE_DOWNLINK] {
            program(&mut ebpf, name)?
                .load()
                .map_err(|e| failed(&format!("load program {name}"), &e))?;
        }
        Ok(Self {
            ebpf,
            attachment,
            sessions,
            derived,
            flows,
            tunnels,
            served: BTreeMap::new(),
        })
    }

    /// Serves a session whose interface has `ifindex`. `gre_protocol` and `pdu_max` are the relay's.
    pub(in crate::relay) fn add(
        &mut self,
        session: &UeSession,
        ifindex: u32,
        gre_protocol: u16,
        pdu_max: u32,
    ) -> Result<(), Error> {
        let Some(interface) = &session.interface else {
            return Err(Error::Config("there is no XFRM interface".into()));
        };
        let tunnel = Links::open()?.get(interface)?;
        let place = (0..UE_SESSIONS)
            .find(|place| self.served.values().all(|s| s.entry.place != *place))
            .ok_or_else(|| Error::Config("too many PDU sessions".into()))?;
        let entry = Entry {
            // Of IPv6 alone: no packet has this source.
            address: session.address.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(),
            inner: session.inner_local.octets(),
            up_address: session.up_address.octets(),
            gre_protocol: gre_protocol.into(),
            pdu_max,
            link_header: tunnel.ethernet.into(),
            place,
            generation: 0,
            count: 0,
            before: 0,
            ipv6: session.interface_id.is_some().into(),
            unused: 0,
            rq_timer_ns: 0,
            tunnels: [tunnel.index; QFIS],
            dscp: [session.dscp; QFIS],
            filters: [UeFilter::default(); UE_FILTERS],
        };
        let entry = with_rules(entry, &session.rules)?;
        // Super-packets of TCP would all go by user space.
        sys::disable_merging(&session.device)?;
        let mut served = Served {
            ifindex,
            tunnel: (tunnel.index, tunnel.name),
            entry,
            links: Vec::new(),
            active: true,
            before: self.counters_at(place)?,
        };
        if self.attachment == Attachment::Clsact {
            add_clsact(&session.device)?;
        }
        self.write(ifindex, &entry)?;
        // What leaves through the first program needs the second one.
        for (name, side) in [
            (PROGRAM_UE_TUNNEL, TcAttachType::Ingress),
            (PROGRAM_UE_UPLINK, TcAttachType::Egress),
        ] {
            let hung = hang(
                &mut self.ebpf,
                name,
                &session.device,
                side,
                LinkOrder::last(),
                self.attachment,
            );
            match hung {
                Ok(link) => served.links.push((name, link)),
                Err(error) => {
                    self.end(served);
                    return Err(error);
                }
            }
        }
        self.served.insert(session.pdu_session, served);
        Ok(())
    }

    fn write(&mut self, ifindex: u32, entry: &Entry) -> Result<(), Error> {
        self.sessions
            .insert(ifindex, Raw(*entry), BPF_ANY)
            .map_err(|e| failed("write ue_sessions", &e))
    }

    /// Changes the rules of a session. Those that the program cannot take leave it to user space.
    pub(in crate::relay) fn set_rules(&mut self, pdu_session: u8, rules: &UplinkRules) {
        let Some(mut served) = self.served.remove(&pdu_session) else {
            return;
        };
        if rules.rq_timer().is_zero() {
            served.entry.generation = served.entry.generation.wrapping_add(1);
        }
        let written = with_rules(served.entry, rules).and_then(|entry| {
            served.entry = entry;
            self.write(served.ifindex, &entry)
        });
        served.active = written.is_ok();
        if let Err(error) = written {
            tracing::warn!(pdu_session, %error, "the session is served by user space alone");
            // Without an entry the programs leave every packet alone.
            let _ = self.sessions.remove(&served.ifindex);
        }
        self.served.insert(pdu_session, served);
    }

    /// Says which flow goes by which Child SA; `dscp` is that of the default one.
    pub(in crate::relay) fn set_tunnels(&mut self, pdu_session: u8, dscp: u8, further: &[Tunnel]) {
        let Some(served) = self.served.get_mut(&pdu_session) else {
            return;
        };
        let (default, name) = &served.tunnel;
        let mut tunnels = [*default; QFIS];
        let mut marks = [dscp; QFIS];
        let mut interfaces = vec![(*default, name.as_str())];
        for tunnel in further {
            let Some(interface) = &tunnel.interface else {
                continue;
            };
            // What has no interface goes by user space, which knows the same.
            let index = Links::open().and_then(|mut links| links.index(interface));
            if let Ok(index) = &index {
                interfaces.push((*index, interface));
            }
            for qfi in &tunnel.qfis {
                let at = usize::from(*qfi);
                if let (Some(place), Some(mark)) = (tunnels.get_mut(at), marks.get_mut(at)) {
                    *place = index.as_ref().copied().unwrap_or(0);
                    *mark = tunnel.dscp;
                }
            }
        }
        let own = served.ifindex;
        let set = self
            .tunnels
            .set(&mut self.ebpf, pdu_session, own, &interfaces);
        if let Err(error) = set {
            tracing::warn!(pdu_session, %error, "downlink packets go by user space");
        }
        if served.entry.tunnels == tunnels && served.entry.dscp == marks {
            return;
        }
        served.entry.tunnels = tunnels;
        served.entry.dscp = marks;
        let (ifindex, entry, active) = (served.ifindex, served.entry, served.active);
        if active && let Err(error) = self.write(ifindex, &entry) {
            tracing::warn!(pdu_session, %error, "the session is served by user space alone");
            let _ = self.sessions.remove(&ifindex);
        }
    }

    /// A rule that reflective QoS derived.
    pub(in crate::relay) fn derive(&mut self, pdu_session: u8, reflected: &Reflected) {
        let Some(served) = self.served.get(&pdu_session) else {
            return;
        };
        let flow = UeFlow {
            ifindex: served.ifindex,
            generation: served.entry.generation,
            ..reflected.flow
        };
        let now = sys::monotonic();
        let derived = UeDerived {
            ends_ns: now.saturating_add(reflected.holds_ns),
            qfi: reflected.qfi.into(),
        };
        if let Err(error) = self.derived.insert(Raw(flow), Raw(derived), BPF_ANY) {
            tracing::debug!(%error, "a derived QoS rule is not in the kernel");
        }
    }

    /// Whether the programs serve a session.
    pub(in crate::relay) fn serves(&self, pdu_session: u8) -> bool {
        self.served.get(&pdu_session).is_some_and(|s| s.active)
    }

    /// Packets and octets that the programs relayed of a session, by QFI.
    pub(in crate::relay) fn counters(&self, pdu_session: u8) -> Vec<Both> {
        let Some(served) = self.served.get(&pdu_session) else {
            return Vec::new();
        };
        let now = self.counters_at(served.entry.place).unwrap_or_default();
        let both = now.iter().zip(&served.before);
        both.map(|(now, before)| Both {
            uplink: since(now.uplink, before.uplink),
            downlink: since(now.downlink, before.downlink),
        })
        .collect()
    }

    fn counters_at(&self, place: u32) -> Result<Vec<Both>, Error> {
        let mut total = vec![Both::default(); QFIS];
        let [up, down] = &self.flows;
        let read = |map: &PerCpuArray<MapData, Raw<FlowBlock>>| {
            let values = map.get(&place, 0);
            values.map_err(|e| failed("read counters of flows", &e))
        };
        for value in read(up)?.iter() {
            for (total, more) in total.iter_mut().zip(&value.0.flows) {
                add(&mut total.uplink, more);
            }
        }
        for value in read(down)?.iter() {
            for (total, more) in total.iter_mut().zip(&value.0.flows) {
                add(&mut total.downlink, more);
            }
        }
        Ok(total)
    }

    /// Ends a session whose interface is still there.
    pub(in crate::relay) fn remove(&mut self, pdu_session: u8) {
        if let Some(served) = self.served.remove(&pdu_session) {
            if self.tunnels.has(pdu_session) {
                let own = served.ifindex;
                let _ = self.tunnels.set(&mut self.ebpf, pdu_session, own, &[]);
            }
            self.end(served);
        }
    }

    fn end(&mut self, served: Served) {
        for (name, link) in served.links {
            let detached = program(&mut self.ebpf, name)
                .and_then(|p| p.detach(link).map_err(|e| failed("detach", &e)));
            if let Err(error) = detached {
                tracing::debug!(name, %error, "the program goes with its interface");
            }
        }
        if let Err(error) = self.sessions.remove(&served.ifindex) {
            tracing::debug!(%error, "ue_sessions");
        }
    }
}

/// What was counted since `before`.
fn since(now: Counter, before: Counter) -> Counter {
    Counter {
        packets: now.packets.wrapping_sub(before.packets),
        bytes: now.bytes.wrapping_sub(before.bytes),
        last_seen_ns: now.last_seen_ns,
    }
}

fn with_rules(entry: Entry, rules: &UplinkRules) -> Result<Entry, Error> {
    let flat = flatten(rules)
        .ok_or_else(|| Error::Config("its QoS rules are more than the program takes".into()))?;
    Ok(Entry {
        filters: flat.filters,
        count: flat.count,
        before: flat.before,
        rq_timer_ns: u64::try_from(rules.rq_timer().as_nanos()).unwrap_or(u64::MAX / 2),
        ..entry
    })
}
