//! The N3IWF's relay in the kernel, with the one in user space behind it.
//!
//! Every session is in both. tc programs relay what they can; whatever they pass up (GTP-U
//! signalling, fragments, PDUs that do not fit, unknown peers) reaches [`GtpRelay`] as if there
//! were no programs. A session that the kernel cannot serve is served by [`GtpRelay`] alone, and
//! [`SessionReading::path`] says so.
//!
//! Relayed packets pass no netfilter hook and no XFRM policy of N3. Where this host itself protects
//! N3 by IPsec, [`super::RelayKind::User`] is the right relay.

mod programs;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use ebpf_common::{
    Counter,
    relay::{
        DownlinkSession, RelayCounters, RelayMeta, RelayReasons, SESSION_SAS, UplinkKey,
        UplinkSession,
    },
};
use tracing::{info, warn};

use self::programs::{Programs, Side};
use super::{
    AccessEvent, AccessRelay, AccessSession, Drops, GtpRelay, GtpRelayConfig, Path, SessionReading,
    n3iwf::{GRE_OVERHEAD, N3_OVERHEAD},
};
use crate::{Error, Options, Traffic, config, link::Links};

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
    /// Places in `relay_stats` that had a session before.
    free: Vec<u32>,
    /// The first place that never had one.
    next: u32,
}

struct Session {
    access: AccessSession,
    reqids: Vec<u32>,
    served: Option<Served>,
}

/// A session's part in the kernel.
struct Served {
    key: UplinkKey,
    uplink: UplinkSession,
    access: String,
    n3: String,
}

impl KernelRelay {
    /// Loads the programs and starts the relay in user space. The programs are attached to the
    /// interfaces of sessions as these come.
    pub fn start(config: KernelRelayConfig) -> Result<Self, Error> {
        let largest = |mtu: u16, overhead: usize| {
            u32::try_from(usize::from(mtu).saturating_sub(overhead)).unwrap_or(0)
        };
        let uplink_max = largest(config.user.n3_mtu, N3_OVERHEAD);
        let downlink_max = largest(config.user.tunnel_mtu, GRE_OVERHEAD);
        let meta = RelayMeta {
            n3_address: config.user.gtp.ip().octets(),
            up_address: config.user.up_address.octets(),
            gre_protocol: config.user.gre_protocol.into(),
            uplink_max,
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
                free: Vec::new(),
                next: 0,
            }),
            user,
        })
    }

    /// Packets that the kernel did not relay, by reason: uplink, then downlink. All but the reasons
    /// `wrong_sa` and `failed` went on to user space.
    pub fn reasons(&self) -> Result<[RelayReasons; 2], Error> {
        self.with(|state| state.programs.reasons())
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
                },
            );
            if self.config.clear_access {
                state.serve(&self.config, dl_teid);
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
            state.serve(&self.config, dl_teid);
        });
    }

    fn remove(&self, dl_teid: u32) -> Option<SessionReading> {
        let counters = self.with(|state| state.forget(dl_teid));
        let mut reading = self.user.remove(dl_teid)?;
        if let Some((path, counters)) = counters {
            merge(&mut reading, path, &counters);
        }
        Some(reading)
    }

    fn readings(&self) -> Vec<SessionReading> {
        let mut readings = self.user.readings();
        self.with(|state| {
            for reading in &mut readings {
                if let Some(session) = state.sessions.get(&reading.dl_teid) {
                    let (path, counters) = session.counters(&state.programs);
                    merge(reading, path, &counters);
                }
            }
        });
        readings
    }

    fn drops(&self) -> Drops {
        let mut drops = self.user.drops();
        match self.reasons() {
            Ok(reasons) => {
                for direction in reasons {
                    drops.wrong_address += direction.wrong_sa;
                    drops.send_failed += direction.failed;
                }
            }
            Err(error) => warn!(%error, "kernel relay"),
        }
        drops
    }

    fn poll_event(&self) -> Option<AccessEvent> {
        self.user.poll_event()
    }
}

impl State {
    /// Puts a session into the kernel, or says why it stays in user space.
    fn serve(&mut self, config: &KernelRelayConfig, dl_teid: u32) {
        let Some(session) = self.sessions.get_mut(&dl_teid) else {
            return;
        };
        if let Some(served) = &mut session.served {
            served.uplink.reqids = reqids(&session.reqids);
            if let Err(error) = self.programs.update(served.key, served.uplink) {
                warn!(teid = dl_teid, %error, "kernel relay");
            }
            return;
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.next < config.max_sessions => {
                self.next += 1;
                self.next - 1
            }
            None => {
                warn!(
                    teid = dl_teid,
                    "the kernel relay is full: session in user space"
                );
                return;
            }
        };
        match place(&mut self.programs, config, session, index) {
            Ok(served) => {
                info!(
                    teid = dl_teid,
                    access = served.access,
                    n3 = served.n3,
                    "session in the kernel"
                );
                session.served = Some(served);
            }
            Err(error) => {
                self.free.push(index);
                warn!(teid = dl_teid, %error, "session in user space");
            }
        }
    }

    /// Takes a session out of the kernel; how it was served and what the kernel counted.
    fn forget(&mut self, dl_teid: u32) -> Option<(Path, RelayCounters)> {
        let session = self.sessions.remove(&dl_teid)?;
        if let Some(served) = &session.served {
            self.programs.remove(served.key, dl_teid);
        }
        let counters = session.counters(&self.programs);
        if let Some(served) = session.served {
            self.programs.unhook(Side::Access, &served.access);
            self.programs.unhook(Side::N3, &served.n3);
            self.free.push(served.uplink.index);
        }
        Some(counters)
    }
}

impl Session {
    fn counters(&self, programs: &Programs) -> (Path, RelayCounters) {
        let Some(served) = &self.served else {
            return (Path::User, RelayCounters::default());
        };
        let counters = programs.counters(served.uplink.index);
        (
            Path::Kernel,
            counters.unwrap_or_else(|error| {
                warn!(%error, "kernel relay");
                RelayCounters::default()
            }),
        )
    }
}

/// Attaches the programs where the session's packets come in and fills the maps.
fn place(
    programs: &mut Programs,
    config: &KernelRelayConfig,
    session: &Session,
    index: u32,
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
    let (n3_ifindex, _) = links.route_to(IpAddr::V4(access.upf))?;
    let Some(n3) = links
        .list()?
        .into_iter()
        .find(|link| link.index == n3_ifindex)
    else {
        return refuse("the interface to the UPF is gone");
    };
    let key = UplinkKey {
        inner: access.ue_inner.octets(),
        ifindex: link.index,
    };
    let qfis = access
        .qfis
        .iter()
        .filter(|qfi| **qfi < 64)
        .fold(0, |all, qfi| all | 1 << qfi);
    let uplink = UplinkSession {
        qfis,
        teid: access.ul_teid.to_be_bytes(),
        upf: access.upf.octets(),
        n3_ifindex,
        index,
        reqids: if protected {
            reqids(&session.reqids)
        } else {
            [0; SESSION_SAS]
        },
    };
    let downlink = DownlinkSession {
        qfis,
        upf: access.upf.octets(),
        inner: access.ue_inner.octets(),
        ifindex: link.index,
        index,
        default_qfi: access.default_qfi.into(),
        link_header: link.ethernet.into(),
    };
    programs.hook(Side::N3, &n3.name)?;
    let hooked = programs.hook(Side::Access, interface).and_then(|()| {
        programs
            .add(key, uplink, access.dl_teid, downlink)
            .inspect_err(|_| programs.unhook(Side::Access, interface))
    });
    hooked.inspect_err(|_| programs.unhook(Side::N3, &n3.name))?;
    Ok(Served {
        key,
        uplink,
        access: interface.clone(),
        n3: n3.name,
    })
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

fn merge(reading: &mut SessionReading, path: Path, kernel: &RelayCounters) {
    reading.path = path;
    for (traffic, counter) in [
        (&mut reading.uplink, &kernel.uplink),
        (&mut reading.downlink, &kernel.downlink),
    ] {
        count(traffic, counter);
    }
}

fn count(traffic: &mut Traffic, counter: &Counter) {
    traffic.packets = traffic.packets.wrapping_add(counter.packets);
    traffic.bytes = traffic.bytes.wrapping_add(counter.bytes);
}
