//! The N3IWF's relay in the kernel, with the one in user space behind it.
//!
//! Every session is in both. tc programs relay what they can; whatever they pass up (GTP-U
//! signalling, fragments, PDUs that do not fit, unknown peers) reaches [`GtpRelay`] as if there
//! were no programs. A session that the kernel cannot serve is served by [`GtpRelay`] alone, and
//! [`SessionReading::path`] says so.
//!
//! Relayed packets pass no netfilter hook and no XFRM policy of N3. Where this host itself protects
//! N3 by IPsec, [`super::RelayKind::User`] is the right relay.

mod events;
mod filters;
mod peers;
mod programs;
mod sessions;
mod ue;
mod ue_tunnels;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use ebpf_common::relay::{
    BY_FLOW, DownlinkSession, FlowDscp, RateState, RelayMeta, RelayRate, RelayReasons, SESSION_SAS,
    SUMMED, SessionDrops, UplinkSession, mapped,
};
use tracing::{info, warn};

pub use self::events::{KernelEvent, KernelEventKind};
pub(super) use self::ue::UePrograms;
use self::{
    peers::Peer,
    programs::{Programs, Side},
    sessions::{Held, Ways},
};
use super::{
    AccessEvent, AccessRelay, AccessSession, Ambr, Drops, FlowReading, GtpRelay, GtpRelayConfig,
    KernelReasons, Path, SessionReading,
    n3iwf::{GRE_OVERHEAD, n3_overhead, unknown_session},
};
use crate::{Error, Options, Seen, config, link::Links, sys::wait_for_programs};

/// Octets of IPv4 and TCP headers without options.
const TCP_OVERHEAD: u32 = 40;
/// Segments are not clamped below what every IPv4 host takes (RFC 9293, 3.7.1).
const LEAST_MSS: u32 = 536;

/// What [`KernelRelay`] needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRelayConfig {
    /// Addresses and MTUs, and the relay behind this one.
    pub user: GtpRelayConfig,
    /// The object file made by `cargo xtask build` ([`crate::BpfOptions::object`]).
    pub object: PathBuf,
    /// Directory on a BPF file system ([`crate::BpfOptions::pin_dir`]).
    pub pin_dir: PathBuf,
    /// Most sessions in the kernel at one time; further ones stay in user space.
    pub max_sessions: u32,
    /// Added to the reqids of [`AccessRelay::bind`] ([`crate::Options::reqid_base`]).
    pub reqid_base: u32,
    /// Serve sessions on interfaces that are no XFRM interfaces too, which have no SA to ask for.
    /// Only for tests and measurements: there GRE is in clear.
    pub clear_access: bool,
}

/// Sessions in the kernel unless told otherwise.
const DEFAULT_SESSIONS: u32 = 16_384;

impl KernelRelayConfig {
    /// With object, pins and reqids as a daemon's file says.
    pub fn new(user: GtpRelayConfig, options: &Options) -> Self {
        let bpf = options.bpf.as_ref();
        Self {
            user,
            object: bpf.map_or_else(config::default_object, |bpf| bpf.object.clone()),
            pin_dir: bpf.map_or_else(config::default_pin_dir, |bpf| bpf.pin_dir.clone()),
            max_sessions: DEFAULT_SESSIONS,
            reqid_base: options.reqid_base,
            clear_access: false,
        }
    }
}

/// [`AccessRelay`] in the kernel.
pub struct KernelRelay {
    config: KernelRelayConfig,
    state: Mutex<State>,
    user: GtpRelay,
}

struct State {
    programs: Programs,
    sessions: BTreeMap<u32, Session>,
}

struct Session {
    access: AccessSession,
    reqids: Vec<u32>,
    served: Option<Served>,
    /// What was counted before the session was modified.
    before: Option<Counters>,
}

/// A session's part in the kernel.
struct Served {
    held: Held,
    /// XFRM interfaces, that of the default Child SA first.
    access: Vec<String>,
    n3: String,
}

impl Served {
    /// Takes the programs off interfaces that no other session needs.
    fn unhook(&self, programs: &mut Programs) {
        for access in &self.access {
            programs.unhook(Side::Access, access);
        }
        programs.unhook(Side::N3, &self.n3);
    }
}

impl KernelRelay {
    /// Loads the programs and starts the relay in user space. The programs are attached to the
    /// interfaces of sessions as these come.
    pub fn start(config: KernelRelayConfig) -> Result<Self, Error> {
        let largest = |mtu: u16, overhead: usize| {
            u32::try_from(usize::from(mtu).saturating_sub(overhead)).unwrap_or(0)
        };
        let uplink_max = largest(config.user.n3_mtu, n3_overhead(config.user.gtp.ip()));
        let downlink_max = largest(config.user.tunnel_mtu, GRE_OVERHEAD);
        let n3_address = match config.user.gtp.ip() {
            IpAddr::V4(address) => mapped(address.octets()),
            IpAddr::V6(address) => address.octets(),
        };
        let meta = RelayMeta {
            n3_address,
            up_address: config.user.up_address.octets(),
            gre_protocol: config.user.gre_protocol.into(),
            downlink_max,
            mss: uplink_max
                .min(downlink_max)
                .saturating_sub(TCP_OVERHEAD)
                .max(LEAST_MSS),
            ..RelayMeta::default()
        };
        if config.user.gtp.port() != gtpu::PORT {
            return Err(Error::Config(format!(
                "the kernel relay serves GTP-U on port {} alone",
                gtpu::PORT
            )));
        }
        let user = GtpRelay::start(config.user.clone())?;
        let programs = Programs::load(&config, meta)?;
        Ok(Self {
            config,
            state: Mutex::new(State {
                programs,
                sessions: BTreeMap::new(),
            }),
            user,
        })
    }

    /// Packets that the kernel did not relay, by reason: uplink, then downlink. All but the reasons
    /// `wrong_sa` and `failed` went on to user space.
    pub fn reasons(&self) -> Result<[RelayReasons; 2], Error> {
        self.with(|state| state.programs.sessions.reasons())
    }

    /// Takes what the programs have told since the last time. [`AccessRelay::poll_event`] does, and
    /// puts it into the log.
    pub fn take_events(&self) -> Vec<KernelEvent> {
        self.with(|state| {
            let sessions = &state.sessions;
            let dl_teid = |number| {
                let mut served = sessions.iter();
                let found = served.find(|(_, session)| {
                    let served = session.served.as_ref();
                    served.is_some_and(|served| u32::from(served.held.uplink.session) == number)
                });
                found.map(|(dl_teid, _)| *dl_teid)
            };
            events::read(&mut state.programs.events, dl_teid)
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AccessRelay for KernelRelay {
    fn add(&self, session: AccessSession) -> Result<(), Error> {
        // First in user space: what the kernel passes up finds its session.
        self.user.add(session.clone())?;
        self.with(|state| {
            state.forget(session.dl_teid);
            let dl_teid = session.dl_teid;
            state.sessions.insert(
                dl_teid,
                Session {
                    access: session,
                    reqids: Vec::new(),
                    served: None,
                    before: None,
                },
            );
            if self.config.clear_access {
                state.serve(&self.config, &self.user, dl_teid);
            }
        });
        Ok(())
    }

    fn bind(&self, dl_teid: u32, reqid: u32) {
        self.with(|state| {
            let Some(session) = state.sessions.get_mut(&dl_teid) else {
                return;
            };
            let reqid = self.config.reqid_base.saturating_add(reqid);
            if session.reqids.contains(&reqid) {
                return;
            }
            if session.reqids.len() == SESSION_SAS {
                warn!(teid = dl_teid, reqid, "too many Child SAs for one session");
                return;
            }
            session.reqids.push(reqid);
            state.serve(&self.config, &self.user, dl_teid);
        });
    }

    fn modify(&self, session: AccessSession) -> Result<(), Error> {
        // What comes while the kernel's part is made anew goes by user space.
        self.user.modify(session.clone())?;
        self.with(|state| state.modify(&self.config, &self.user, session))
    }

    fn set_ue_ambr(&self, ue: u32, ambr: Ambr) {
        self.user.set_ue_ambr(ue, ambr);
        self.with(|state| {
            if let Err(error) = state.programs.sessions.set_ue_rate(ue, rate(ambr)) {
                warn!(ue, %error, "kernel relay");
            }
        });
    }

    fn remove(&self, dl_teid: u32) -> Option<SessionReading> {
        let counters = self.with(|state| state.forget(dl_teid));
        let mut reading = self.user.remove(dl_teid)?;
        if let Some(counters) = counters {
            merge(&mut reading, &counters);
        }
        Some(reading)
    }

    fn readings(&self) -> Vec<SessionReading> {
        let mut readings = self.user.readings();
        self.with(|state| {
            for reading in &mut readings {
                let session = state.sessions.get(&reading.dl_teid);
                if let Some(counters) = session.and_then(|one| one.counters(&state.programs)) {
                    merge(reading, &counters);
                }
            }
        });
        readings
    }

    fn drops(&self) -> Drops {
        let mut drops = self.user.drops();
        match self.reasons() {
            Ok(reasons) => {
                // Other reasons are a session's, or user space's to count.
                for direction in reasons {
                    drops.send_failed += direction.failed;
                }
            }
            Err(error) => warn!(%error, "kernel relay"),
        }
        drops
    }

    fn kernel_reasons(&self) -> Option<KernelReasons> {
        let [uplink, downlink] = self
            .reasons()
            .inspect_err(|error| warn!(%error, "kernel relay"))
            .ok()?;
        let by_name = |reasons: RelayReasons| {
            let named = reasons.named().into_iter();
            named
                .map(|(name, count)| (name.to_owned(), count))
                .collect()
        };
        Some(KernelReasons {
            uplink: by_name(uplink),
            downlink: by_name(downlink),
        })
    }

    fn poll_event(&self) -> Option<AccessEvent> {
        for event in self.take_events() {
            event.log();
        }
        let event = self.user.poll_event();
        // Which looks at the paths now and then.
        let changed = self.with(|state| {
            let peers = &mut state.programs.sessions.peers;
            peers.set_pdu_max(|upf| pdu_max(&self.user, upf))
        });
        if let Err(error) = changed {
            warn!(%error, "kernel relay");
        }
        event
    }
}

impl State {
    /// Puts a session into the kernel, or says why it stays in user space.
    fn serve(&mut self, config: &KernelRelayConfig, user: &GtpRelay, dl_teid: u32) {
        let Some(session) = self.sessions.get_mut(&dl_teid) else {
            return;
        };
        if let Some(served) = &mut session.served {
            let sessions = &mut self.programs.sessions;
            if let Err(error) = sessions.rebind(&mut served.held, reqids(&session.reqids)) {
                warn!(teid = dl_teid, %error, "kernel relay");
            }
            return;
        }
        let pdu_max = pdu_max(user, session.access.upf);
        match place(&mut self.programs, config, session, pdu_max) {
            Ok(served) => {
                info!(
                    teid = dl_teid,
                    access = served.access.join(" "),
                    n3 = served.n3,
                    "session in the kernel"
                );
                session.served = Some(served);
            }
            Err(error) => warn!(teid = dl_teid, %error, "session in user space"),
        }
    }

    /// Makes the kernel's part of a session anew; its counters go on.
    fn modify(
        &mut self,
        config: &KernelRelayConfig,
        user: &GtpRelay,
        access: AccessSession,
    ) -> Result<(), Error> {
        let dl_teid = access.dl_teid;
        let session = self
            .sessions
            .get_mut(&dl_teid)
            .ok_or_else(|| unknown_session(dl_teid))?;
        let old = session.served.take();
        if let Some(served) = &old {
            self.programs.sessions.remove(&served.held);
            // A program that has the session at hand counts yet.
            wait_for_programs();
            let counted = counted(&self.programs, &session.access, &served.held);
            session.before.get_or_insert_default().add(counted);
        }
        session.access = access;
        if old.is_some() || config.clear_access || !session.reqids.is_empty() {
            self.serve(config, user, dl_teid);
        }
        // Last, so that the programs stay attached.
        if let Some(served) = old {
            served.unhook(&mut self.programs);
        }
        Ok(())
    }

    /// Takes a session out of the kernel; what the kernel counted for it, if it served it.
    fn forget(&mut self, dl_teid: u32) -> Option<Counters> {
        let session = self.sessions.remove(&dl_teid)?;
        if let Some(served) = &session.served {
            self.programs.sessions.remove(&served.held);
        }
        let counters = session.counters(&self.programs);
        if let Some(served) = session.served {
            served.unhook(&mut self.programs);
        }
        counters
    }
}

/// What the kernel counted for a session.
#[derive(Default)]
struct Counters {
    flows: Vec<FlowReading>,
    refused: SessionDrops,
    /// The kernel serves the session now.
    serves: bool,
}

impl Counters {
    fn add(&mut self, more: Self) {
        for flow in more.flows {
            match self.flows.iter_mut().find(|own| own.qfi == flow.qfi) {
                Some(own) => {
                    own.uplink = [own.uplink, flow.uplink].into_iter().sum();
                    own.downlink = [own.downlink, flow.downlink].into_iter().sum();
                    own.last_seen = own.last_seen.max(flow.last_seen);
                }
                None => self.flows.push(flow),
            }
        }
        self.refused.add(&more.refused);
    }
}

impl Session {
    /// `None`: user space has always served it.
    fn counters(&self, programs: &Programs) -> Option<Counters> {
        if self.before.is_none() && self.served.is_none() {
            return None;
        }
        let mut total = Counters {
            serves: self.served.is_some(),
            ..Counters::default()
        };
        if let Some(before) = &self.before {
            total.add(Counters {
                flows: before.flows.clone(),
                ..*before
            });
        }
        if let Some(served) = &self.served {
            total.add(counted(programs, &self.access, &served.held));
        }
        Some(total)
    }
}

/// What the maps say.
fn counted(programs: &Programs, access: &AccessSession, held: &Held) -> Counters {
    let sessions = &programs.sessions;
    let read = || -> Result<Counters, Error> {
        let qfis: BTreeSet<u8> = access.qfis.iter().copied().collect();
        let both = qfis.into_iter().zip(sessions.flows(held)?);
        let flows = both.map(|(qfi, flow)| {
            let (up, down) = (Seen::from(flow.uplink), Seen::from(flow.downlink));
            FlowReading {
                qfi,
                uplink: up.traffic(),
                downlink: down.traffic(),
                last_seen: up.last_seen.max(down.last_seen),
            }
        });
        Ok(Counters {
            flows: flows.collect(),
            refused: sessions.refused(held)?,
            ..Counters::default()
        })
    };
    read().unwrap_or_else(|error| {
        warn!(%error, "kernel relay");
        Counters::default()
    })
}

/// Attaches the programs where the session's packets come in and fills the maps.
fn place(
    programs: &mut Programs,
    config: &KernelRelayConfig,
    session: &Session,
    pdu_max: u32,
) -> Result<Served, Error> {
    let access = &session.access;
    let refuse = |why: &str| Err(Error::Config(format!("no place in the kernel: {why}")));
    let Some(interface) = &access.interface else {
        return refuse("the session has no interface of its own");
    };
    let mut links = Links::open()?;
    let link = links.get(interface)?;
    let protected = link.if_id.is_some();
    if protected && session.reqids.is_empty() {
        return refuse("no Child SA is known for the session");
    }
    if !protected && !config.clear_access {
        return refuse("the interface is no XFRM interface");
    }
    let (n3_ifindex, _) = links.route_to(access.upf)?;
    let Some(n3) = links
        .list()?
        .into_iter()
        .find(|link| link.index == n3_ifindex)
    else {
        return refuse("the interface to the UPF is gone");
    };
    if access.qfis.iter().any(|qfi| *qfi > 63) {
        return refuse("a QFI has more than 6 bits");
    }
    if access.further.len() >= SESSION_SAS {
        return refuse("its Child SAs are too many");
    }
    let mut ways = Ways::default();
    let mut interfaces = vec![interface.clone()];
    for tunnel in &access.further {
        let Some(name) = &tunnel.interface else {
            return refuse("a Child SA has no interface of its own");
        };
        let index = links.index(name)?;
        ways.ifindexes.push(index);
        interfaces.push(name.clone());
        let by_qfi = ways.by_qfi.get_or_insert([0; 64]);
        for qfi in &tunnel.qfis {
            if let Some(place) = by_qfi.get_mut(usize::from(*qfi)) {
                *place = index;
            }
        }
    }
    let [n3_dscp, tunnel_dscp] = dscp(access, &mut ways);
    let qfis = access.qfis.iter().fold(0, |all, qfi| all | 1 << qfi);
    let uplink = UplinkSession {
        qfis,
        inner: access.ue_inner.octets(),
        ifindex: link.index,
        teid: access.ul_teid.to_be_bytes(),
        dscp: n3_dscp,
        reqids: if protected {
            reqids(&session.reqids)
        } else {
            [0; SESSION_SAS]
        },
        ..UplinkSession::default()
    };
    let downlink = DownlinkSession {
        qfis,
        teid: access.dl_teid.to_be_bytes(),
        inner: access.ue_inner.octets(),
        ifindex: link.index,
        default_qfi: access.default_qfi.into(),
        link_header: link.ethernet.into(),
        dscp: tunnel_dscp,
        ..DownlinkSession::default()
    };
    let peer = Peer {
        address: access.upf,
        ifindex: n3_ifindex,
    };
    programs.hook(Side::N3, &n3.name)?;
    let mut hooked: Vec<&String> = Vec::new();
    let added = interfaces
        .iter()
        .try_for_each(|interface| {
            programs.hook(Side::Access, interface)?;
            hooked.push(interface);
            Ok(())
        })
        .and_then(|()| {
            programs.sessions.add(
                uplink,
                downlink,
                &ways,
                (peer, pdu_max),
                access.session_ambr.map(rate),
                access.ue_ambr.map(|ambr| (access.ue, rate(ambr))),
            )
        });
    let held = added.inspect_err(|_| {
        for interface in hooked {
            programs.unhook(Side::Access, interface);
        }
        programs.unhook(Side::N3, &n3.name);
    })?;
    Ok(Served {
        held,
        access: interfaces,
        n3: n3.name,
    })
}

/// DSCP of all flows of a session, on N3 and in the tunnel, or [`BY_FLOW`].
fn dscp(access: &AccessSession, ways: &mut Ways) -> [u16; 2] {
    let mut by_flow = FlowDscp {
        n3: [0; 64],
        tunnel: [0; 64],
    };
    for qfi in &access.qfis {
        let at = usize::from(*qfi);
        if let (Some(n3), Some(tunnel)) = (by_flow.n3.get_mut(at), by_flow.tunnel.get_mut(at)) {
            (*n3, *tunnel) = (access.n3_dscp(*qfi), access.tunnel_dscp(*qfi));
        }
    }
    let common = |of: &dyn Fn(u8) -> u8| {
        let mut all = access.qfis.iter().map(|qfi| of(*qfi));
        let first = all.next().unwrap_or(0);
        match all.all(|other| other == first) {
            true => u16::from(first),
            false => BY_FLOW,
        }
    };
    let both = [
        common(&|qfi| access.n3_dscp(qfi)),
        common(&|qfi| access.tunnel_dscp(qfi)),
    ];
    ways.dscp = both.contains(&BY_FLOW).then_some(by_flow);
    both
}

/// Largest PDU that the programs may send to a UPF.
fn pdu_max(user: &GtpRelay, upf: IpAddr) -> u32 {
    let most = u32::try_from(user.uplink_max(upf)).unwrap_or(u32::MAX);
    match upf {
        IpAddr::V4(_) => most,
        IpAddr::V6(_) => most.min(SUMMED),
    }
}

fn rate(ambr: Ambr) -> RelayRate {
    RelayRate {
        uplink: RateState::new(Some(ambr.uplink)),
        downlink: RateState::new(Some(ambr.downlink)),
    }
}

/// As the map has them: free places repeat the first.
fn reqids(bound: &[u32]) -> [u32; SESSION_SAS] {
    let first = bound.first().copied().unwrap_or(0);
    let mut places = [first; SESSION_SAS];
    for (place, reqid) in places.iter_mut().zip(bound) {
        *place = *reqid;
    }
    places
}

/// Adds what the kernel counted to what user space did.
fn merge(reading: &mut SessionReading, kernel: &Counters) {
    if kernel.serves {
        reading.path = Path::Kernel;
    }
    for flow in &kernel.flows {
        let Some(total) = reading.flows.iter_mut().find(|own| own.qfi == flow.qfi) else {
            continue;
        };
        total.uplink = [total.uplink, flow.uplink].into_iter().sum();
        total.downlink = [total.downlink, flow.downlink].into_iter().sum();
        total.last_seen = flow.last_seen;
    }
    reading.uplink = reading.flows.iter().map(|flow| flow.uplink).sum();
    reading.downlink = reading.flows.iter().map(|flow| flow.downlink).sum();
    // The other reasons are passed on to user space, which counts what it drops.
    let SessionDrops { wrong_sa, rate, .. } = kernel.refused;
    reading.drops.wrong_sa += wrong_sa[0] + wrong_sa[1];
    reading.drops.rate += rate[0] + rate[1];
}
