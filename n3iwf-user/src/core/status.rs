//! What the core shows of itself.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use daemon::timeline::{Phase, PhaseTimes, Row};
use ike::Instant;
use serde::{Deserialize, Serialize};

use super::{
    N3iwf,
    types::{IkeState, N2State, SessionState, Ue},
};

/// One UE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UeStatus {
    /// RAN-UE-NGAP-ID, the UE's number here.
    pub ue: u32,
    /// Number of its IKE SA.
    pub ike_sa: u64,
    /// Its outer address.
    pub remote: SocketAddr,
    /// `authenticating`, `finishing`, `up`, `closing`, `closed`.
    pub state: String,
    /// AMF-UE-NGAP-ID, once known.
    pub amf_ue_ngap_id: Option<u64>,
    /// Address of its AMF.
    pub amf: Option<String>,
    /// Its inner address.
    pub inner: Option<IpAddr>,
    /// Whether its NAS TCP connection stands.
    pub nas_connected: bool,
    /// Seconds since it began EAP-5G.
    pub age: u64,
    /// Its Child SAs.
    pub children: Vec<ChildRow>,
    /// Its PDU sessions.
    pub sessions: Vec<SessionRow>,
    /// Where the time of its attach went.
    pub timeline: Vec<Row>,
}

/// A Child SA in the data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildRow {
    /// Its number.
    pub child: u64,
    /// Its reqid, before the data plane's base is added.
    pub reqid: u32,
}

/// A PDU session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// PDU session ID.
    pub session: u8,
    /// `creating`, `relaying`, `up`, `releasing`.
    pub state: String,
    /// Number of its default Child SA.
    pub child: Option<u64>,
    /// Numbers of all its Child SAs.
    #[serde(default)]
    pub children: Vec<u64>,
    /// QFIs, the default first.
    pub qfis: Vec<u8>,
    /// The UPF's N3 address.
    pub upf: IpAddr,
    /// TEID of uplink packets.
    pub ul_teid: u32,
    /// TEID of downlink packets.
    pub dl_teid: u32,
    /// XFRM interface number.
    pub slot: u32,
}

/// How many there are, by state, and what came of sessions so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// UEs by state.
    pub ues: BTreeMap<&'static str, usize>,
    /// PDU sessions by state.
    pub sessions: BTreeMap<&'static str, usize>,
    /// PDU sessions that came up since the start.
    pub sessions_up: u64,
    /// PDU sessions that the core asked for and that did not come up.
    pub sessions_failed: u64,
}

fn ue_state(ue: &Ue) -> &'static str {
    match (ue.ike, ue.n2) {
        (IkeState::Authenticating, _) => "authenticating",
        (IkeState::Finishing, _) => "finishing",
        (IkeState::Up, N2State::Releasing(..)) => "releasing",
        (IkeState::Up, _) => "up",
        (IkeState::Closing, _) => "closing",
        (IkeState::Closed, _) => "closed",
    }
}

const fn session_state(state: SessionState) -> &'static str {
    match state {
        SessionState::Creating => "creating",
        SessionState::Relaying => "relaying",
        SessionState::Up => "up",
        SessionState::Releasing => "releasing",
    }
}

impl N3iwf {
    /// Counts without a look at each from outside.
    pub fn census(&self) -> Census {
        // States without anybody are counted, too: a series that comes and goes tells less.
        let none = |names: &[&'static str]| names.iter().map(|name| (*name, 0)).collect();
        let mut census = Census {
            ues: none(&[
                "authenticating",
                "finishing",
                "up",
                "releasing",
                "closing",
                "closed",
            ]),
            sessions: none(&["creating", "relaying", "up", "releasing"]),
            sessions_up: self.sessions_up,
            sessions_failed: self.sessions_failed,
        };
        for ue in self.ues.values() {
            *census.ues.entry(ue_state(ue)).or_default() += 1;
            for session in ue.sessions.values() {
                *census
                    .sessions
                    .entry(session_state(session.state))
                    .or_default() += 1;
            }
        }
        census
    }

    /// A phase of an attach that ended, and its times.
    pub fn poll_phase(&mut self) -> Option<(Phase, PhaseTimes)> {
        self.phases.pop_front()
    }

    /// All UEs by number.
    pub fn ues(&self, now: Instant) -> Vec<UeStatus> {
        self.ues.values().map(|ue| self.row(ue, now)).collect()
    }

    /// The UEs with the lowest numbers.
    pub fn first_ues(&self, now: Instant, limit: usize) -> Vec<UeStatus> {
        let first = self.ues.values().take(limit);
        first.map(|ue| self.row(ue, now)).collect()
    }

    /// Inner addresses given out.
    pub fn addresses_taken(&self) -> usize {
        self.pool.taken()
    }

    fn row(&self, ue: &Ue, now: Instant) -> UeStatus {
        let mut children: Vec<ChildRow> = ue
            .children
            .iter()
            .map(|(id, child)| ChildRow {
                child: id.number(),
                reqid: child.reqid,
            })
            .collect();
        children.sort_by_key(|row| row.child);
        UeStatus {
            ue: ue.number,
            ike_sa: ue.sa.number(),
            remote: ue.path.remote,
            state: ue_state(ue).to_owned(),
            amf_ue_ngap_id: ue.n2.amf_ue(),
            amf: ue.amf.map(|amf| self.amf_name(amf).to_owned()),
            inner: ue.inner,
            nas_connected: ue.link.is_some(),
            age: now.duration_since(ue.since).as_secs(),
            children,
            sessions: ue
                .sessions
                .iter()
                .map(|(id, session)| SessionRow {
                    session: *id,
                    state: session_state(session.state).to_owned(),
                    child: session.child.map(ike::ChildId::number),
                    children: session.children().map(ike::ChildId::number).collect(),
                    qfis: session.qfis(),
                    upf: session.upf,
                    ul_teid: session.ul_teid,
                    dl_teid: session.dl_teid,
                    slot: session.slot,
                })
                .collect(),
            timeline: ue.timeline.rows(),
        }
    }
}
