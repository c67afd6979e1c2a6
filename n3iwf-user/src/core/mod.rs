//! The N3IWF without a socket or a clock.
//!
//! Every input is a method with the time; afterwards the caller drains [`N3iwf::poll_command`]
//! (for the IKE endpoint) and [`N3iwf::poll_action`] (for the world) and arms a timer for
//! [`N3iwf::poll_timeout`]. A UE is one [`types::Ue`] under its RAN-UE-NGAP-ID, found by IKE SA,
//! by inner address and by that number; it is dropped when neither its IKE SA, its Child SAs, its
//! relayed sessions nor its context at the AMF are left, and not before.

mod amf;
mod attach;
mod child;
mod dscp;
mod early;
mod key_orders;
mod keydesk;
mod modify;
mod overload;
mod pacing;
mod pool;
mod rekey;
mod release;
mod session;
mod spread;
mod status;
mod types;
mod ues;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use daemon::timeline::{Party, Phase, PhaseTimes, Timeline};
use ike::{ChildId, Event, Instant, SaId};
use oxirush_ngap::Error as NgapError;
use tracing::{debug, error, info, warn};

use self::{
    amf::Amf,
    early::Early,
    keydesk::KeyDesk,
    overload::TurnedAway,
    pool::Numbers,
    types::{IkeState, N2State, Ue},
    ues::Ues,
};
pub use self::{
    amf::AmfStatus,
    dscp::{Dscp, DscpTable},
    keydesk::{Ahead, DeskCounts, KeyPolicy, WhenEmpty},
    pool::{AddressPool, NotTaken},
    spread::ChildSas,
    status::{Census, ChildRow, SessionRow, UeStatus},
    types::{
        Action, AmfNumber, Command, CoreConfig, CoreTiming, NasLink, RelaySession, RelayTunnel,
    },
};
use crate::ngap::{self, AmfMessage, Cause, CauseRadioNetwork, UeIds};

/// Reqids the data plane lets a daemon use.
const LAST_REQID: u32 = (1 << 20) - 1;
/// Downlink NAS messages kept for a UE whose turn or connection has not come.
const DOWNLINK_LIMIT: usize = 16;

/// The session table and everything that happens to it.
pub struct N3iwf {
    config: CoreConfig,
    amfs: Vec<Amf>,
    ues: Ues,
    by_sa: HashMap<SaId, u32>,
    by_inner: HashMap<IpAddr, u32>,
    by_link: HashMap<NasLink, u32>,
    by_child: HashMap<ChildId, u32>,
    by_teid: HashMap<u32, u32>,
    /// When a Child SA has drained, or is rekeyed again.
    rekey_timers: BTreeSet<(Instant, ChildId)>,
    /// When the authentication of a UE is too old.
    auth_timers: BTreeSet<(Instant, u32)>,
    /// IKE SAs that asked for keys, or have them, and have no UE yet.
    half_open: HashMap<SaId, Timeline>,
    desk: KeyDesk,
    early: Early,
    turned_away: TurnedAway,
    pool: AddressPool,
    ran_ids: Numbers,
    reqids: Numbers,
    teids: Numbers,
    tokens: u64,
    actions: VecDeque<Action>,
    commands: VecDeque<Command>,
    /// Phases that ended, until somebody takes note.
    phases: VecDeque<(Phase, PhaseTimes)>,
    sessions_up: u64,
    sessions_failed: u64,
    /// The IKE SA the last input was about: its handler time is charged there.
    touched: Option<SaId>,
    stopping: bool,
}

impl N3iwf {
    /// A core without UEs; [`start`](Self::start) makes it connect to its AMFs.
    pub fn new(config: CoreConfig) -> Self {
        let amfs = config
            .amfs
            .iter()
            .map(|_| Amf::new(&config.timing))
            .collect();
        let pool = AddressPool::new(config.inner_range, [config.inner_address]);
        Self {
            amfs,
            pool,
            ues: Ues::default(),
            by_sa: HashMap::new(),
            by_inner: HashMap::new(),
            by_link: HashMap::new(),
            by_child: HashMap::new(),
            by_teid: HashMap::new(),
            rekey_timers: BTreeSet::new(),
            auth_timers: BTreeSet::new(),
            half_open: HashMap::new(),
            desk: KeyDesk::new(config.keys.clone()),
            early: Early::default(),
            turned_away: TurnedAway::default(),
            ran_ids: Numbers::new(1, u32::MAX),
            reqids: Numbers::new(1, LAST_REQID),
            teids: Numbers::new(1, u32::MAX),
            tokens: 0,
            actions: VecDeque::new(),
            commands: VecDeque::new(),
            phases: VecDeque::new(),
            sessions_up: 0,
            sessions_failed: 0,
            touched: None,
            stopping: false,
            config,
        }
    }

    /// Begins: connects to every AMF, fetches keys ahead.
    pub fn start(&mut self, now: Instant) {
        for amf in 0..self.amfs.len() {
            self.connect(amf);
        }
        self.desk.start(now);
        self.key_orders(now);
    }

    /// The next thing to do outside.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next command for the IKE endpoint.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let amfs = self.amfs.iter().filter_map(Amf::deadline);
        amfs.chain(self.ues.next_deadline())
            .chain(self.next_rekey())
            .chain(self.desk.poll_timeout())
            .chain(self.early.deadline())
            .min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.desk.handle_timeout(now);
        self.key_orders(now);
        for amf in 0..self.amfs.len() {
            self.amf_timeout(now, amf);
        }
        self.early_attaches(now);
        self.rekeys_due(now);
        for number in self.ues.due(now) {
            self.pace(now, number);
            let deadline = self.ues.get(&number).and_then(|ue| ue.n2.deadline());
            if deadline.is_some_and(|at| at <= now) {
                warn!(ue = number, "the AMF does not answer the release request");
                self.forget_context(now, number);
            }
        }
    }

    /// An event of the IKE endpoint.
    pub fn handle_ike(&mut self, now: Instant, event: Event) {
        match event {
            Event::KeysNeeded {
                sa,
                request,
                wanted,
            } => self.keys_needed(now, sa, request, wanted),
            Event::KeysMissing { sae, id } => {
                self.desk.missing(now, &sae, id);
                self.key_orders(now);
            }
            Event::Keyed { sa, .. } => {
                self.touched = Some(sa);
                self.half_open
                    .entry(sa)
                    .or_insert_with(|| Timeline::begin(now.since_origin()));
            }
            Event::EapBegin {
                sa, path, legacy, ..
            } => self.eap_begin(now, sa, path, legacy),
            Event::Eap { sa, packet } => self.eap(now, sa, &packet),
            Event::InstallChild { sa, child } => self.install_child(sa, *child),
            Event::Established { sa, .. } => {
                self.touched = Some(sa);
                self.desk.established(now, sa);
                self.key_orders(now);
            }
            Event::ChildUp { sa, child, token } => self.child_up(now, sa, child, token),
            Event::ChildFailed {
                sa,
                child,
                token,
                reason,
            } => self.child_failed(now, sa, child, token, &reason),
            Event::ChildDown { sa, child, .. } => self.child_down(now, sa, child),
            Event::ChildSwitched { sa, from, to } => self.child_switched(sa, from, to),
            Event::ChildRekeyFailed { sa, child, reason } => {
                self.child_rekey_failed(now, sa, child, reason);
            }
            Event::IkeRekeyed { sa, replaced, .. } => self.ike_rekeyed(sa, replaced),
            Event::IkeRekeyFailed { sa, reason } => {
                self.touched = Some(sa);
                warn!(%sa, ?reason, "the IKE SA was not rekeyed");
            }
            Event::ChildRequested { sa, child, .. } => {
                // TS 24.502 7.1: the N3IWF alone begins user-plane Child SAs.
                self.commands.push_back(Command::RefuseChild { sa, child });
            }
            Event::Informed { sa, token, refusal } => self.informed(sa, token, Some(refusal)),
            Event::KeyFate { sa, id, fate } => {
                self.actions.push_back(Action::BookKey { sa, id, fate });
            }
            Event::PathChanged {
                sa,
                path,
                udp_encap,
            } => {
                if let Some(ue) = self.ue_of(sa) {
                    info!(ue = ue.number, %path, udp_encap, "the UE moved");
                    // The AMF hears of it with the next UPLINK NAS TRANSPORT: TS 29.413, 5.2 has no
                    // location report for this access.
                    ue.path = path;
                    let moved = ue.in_data_plane();
                    let moves = moved.map(|child| Action::MoveSa {
                        child,
                        path,
                        udp_encap,
                    });
                    let moves: Vec<Action> = moves.collect();
                    self.actions.extend(moves);
                }
            }
            Event::Closed { sa, reason } => {
                self.early.forget(sa);
                self.desk.ended(now, sa);
                self.key_orders(now);
                self.closed(now, sa, &reason);
            }
            // The initiator's events, and what a later engine may add.
            _ => {}
        }
    }

    /// An NGAP message of an AMF.
    pub fn handle_ngap(&mut self, now: Instant, amf: AmfNumber, octets: &[u8]) {
        let message = match ngap::decode(octets) {
            Ok(message) => message,
            Err(fault) => {
                warn!(amf = self.amf_name(amf), reason = %fault.reason, "NGAP message refused");
                if let Some(data) = fault.answer {
                    self.send_ngap(amf, None, Ok(data));
                }
                return;
            }
        };
        match message {
            AmfMessage::NgSetupResponse(info) => self.ng_setup_done(amf, info),
            AmfMessage::NgSetupFailure { cause, wait } => {
                self.ng_setup_failed(now, amf, cause.as_ref(), wait);
            }
            AmfMessage::ConfigurationUpdate {
                name,
                guamis,
                plmns,
                capacity,
            } => self.amf_updated(amf, name, guamis, plmns, capacity),
            AmfMessage::OverloadStart(overload) => self.overload_started(amf, overload),
            AmfMessage::OverloadStop(guamis) => self.overload_stopped(amf, &guamis),
            AmfMessage::Withdrawn(list) => self.guamis_withdrawn(amf, list),
            AmfMessage::Reset(scope) => self.reset(now, amf, scope),
            AmfMessage::DownlinkNas { ue, nas } => {
                if let Some(number) = self.find(now, amf, ue) {
                    self.core_answered(now, number);
                    self.deliver(now, number, nas);
                }
            }
            AmfMessage::ContextSetup(setup) => {
                if let Some(number) = self.find(now, amf, setup.ue) {
                    self.core_answered(now, number);
                    self.context_setup(now, number, setup);
                }
            }
            AmfMessage::SessionSetup {
                ue,
                nas,
                ue_ambr,
                sessions,
            } => {
                if let Some(number) = self.find(now, amf, ue) {
                    self.core_answered(now, number);
                    if let Some(ambr) = ue_ambr {
                        self.change_ue_ambr(number, ambr);
                    }
                    self.session_setup(now, number, nas, sessions);
                }
            }
            AmfMessage::SessionModify { ue, sessions } => {
                if let Some(number) = self.find(now, amf, ue) {
                    self.session_modify(number, sessions);
                }
            }
            AmfMessage::ContextModification {
                ue,
                ue_ambr,
                new_amf,
            } => {
                if let Some(number) = self.find(now, amf, ue) {
                    self.context_modification(number, ue_ambr, new_amf);
                }
            }
            AmfMessage::SessionRelease { ue, nas, sessions } => {
                if let Some(number) = self.find(now, amf, ue) {
                    self.session_release(now, number, nas, &sessions);
                }
            }
            AmfMessage::ContextRelease {
                amf: id,
                ran,
                cause,
            } => self.context_release(now, amf, id, ran, cause.as_ref()),
            AmfMessage::ErrorIndication {
                amf: id,
                ran,
                cause,
            } => self.error_indicated(now, amf, id, ran, cause.as_ref()),
            AmfMessage::ResetAcknowledge => {
                debug!(amf = self.amf_name(amf), "NG RESET ACKNOWLEDGE");
            }
            AmfMessage::Noted(what) => info!(amf = self.amf_name(amf), "noted: {what}"),
        }
        self.early_attaches(now);
    }

    /// Adds handler time to the timeline of whatever UE the last inputs were about.
    pub fn charge(&mut self, spent: Duration) {
        if let Some(sa) = self.touched.take()
            && let Some(timeline) = self.timeline(sa)
        {
            timeline.add_own(spent);
        }
    }

    /// Ends: every UE is released towards AMF and UE. Done when [`is_empty`](Self::is_empty).
    pub fn shut_down(&mut self, now: Instant) {
        self.stopping = true;
        self.early_attaches(now);
        self.desk.close(now);
        self.key_orders(now);
        let all: Vec<u32> = self.ues.keys().copied().collect();
        for number in all {
            self.release_now(now, number, Cause::misc(ngap::CauseMisc::om_intervention));
        }
    }

    /// Whether nothing of any UE is left.
    pub fn is_empty(&self) -> bool {
        self.ues.is_empty()
    }

    /// The UE a message of `amf` is about. Unknown and contradicting identifiers are answered
    /// (TS 38.413, 10.6).
    fn find(&mut self, now: Instant, amf: AmfNumber, ids: UeIds) -> Option<u32> {
        let cause = match self.ues.get_mut(&ids.ran) {
            Some(ue) if ue.amf == Some(amf) => match ue.n2 {
                N2State::Asked => {
                    ue.n2 = N2State::Active(ids.amf);
                    self.touched = Some(ue.sa);
                    return Some(ids.ran);
                }
                // The UE went away before the AMF told its identifier: now it can be told.
                N2State::Orphaned(_) => {
                    ue.n2 = N2State::Active(ids.amf);
                    let lost = CauseRadioNetwork::radio_connection_with_ue_lost;
                    self.ask_release(now, ids.ran, Cause::radioNetwork(lost));
                    return None;
                }
                N2State::Active(known) | N2State::Releasing(known, _) if known == ids.amf => {
                    self.touched = Some(ue.sa);
                    return Some(ids.ran);
                }
                N2State::None | N2State::Gone => CauseRadioNetwork::unknown_local_UE_NGAP_ID,
                N2State::Active(_) | N2State::Releasing(..) => {
                    CauseRadioNetwork::inconsistent_remote_UE_NGAP_ID
                }
            },
            _ => CauseRadioNetwork::unknown_local_UE_NGAP_ID,
        };
        warn!(
            amf = self.amf_name(amf),
            ?ids,
            ?cause,
            "NGAP message about no UE of ours"
        );
        let answer =
            ngap::error_indication(Some(ids.amf), Some(ids.ran), Cause::radioNetwork(cause));
        self.send_ngap(amf, None, answer);
        None
    }

    fn error_indicated(
        &mut self,
        now: Instant,
        amf: AmfNumber,
        id: Option<u64>,
        ran: Option<u32>,
        cause: Option<&Cause>,
    ) {
        let text = cause.map(ngap::cause_text).unwrap_or_default();
        warn!(amf = self.amf_name(amf), ?id, ?ran, cause = %text, "ERROR INDICATION");
        // The AMF lost this UE: what is left of it here serves nobody (TS 38.413, 10.6).
        let lost = matches!(
            cause,
            Some(Cause::radioNetwork(
                CauseRadioNetwork::unknown_local_UE_NGAP_ID
                    | CauseRadioNetwork::inconsistent_remote_UE_NGAP_ID
            ))
        );
        let known = ran.filter(|ran| self.ues.get(ran).is_some_and(|ue| ue.amf == Some(amf)));
        if let Some(number) = known
            && lost
        {
            self.forget_context(now, number);
        }
    }

    fn core_answered(&mut self, now: Instant, number: u32) {
        if let Some(ue) = self.ues.get_mut(&number) {
            ue.timeline.done_waiting(Party::Core, now.since_origin());
        }
    }

    fn ue_of(&mut self, sa: SaId) -> Option<&mut Ue> {
        self.touched = Some(sa);
        let number = self.by_sa.get(&sa)?;
        self.ues.get_mut(number)
    }

    fn timeline(&mut self, sa: SaId) -> Option<&mut Timeline> {
        match self.by_sa.get(&sa) {
            Some(number) => self.ues.get_mut(number).map(|ue| &mut ue.timeline),
            None => self.half_open.get_mut(&sa),
        }
    }

    /// A message that does not encode is a bug: it is told, and nothing is sent.
    fn send_ngap(&mut self, amf: AmfNumber, ue: Option<u32>, data: Result<Vec<u8>, NgapError>) {
        match data {
            Ok(data) => self.actions.push_back(Action::SendNgap { amf, ue, data }),
            Err(error) => error!(%error, ?ue, "NGAP message does not encode"),
        }
    }

    /// Sends a message about a UE whose context the AMF has.
    fn send_about(
        &mut self,
        number: u32,
        build: impl FnOnce(UeIds, &Ue) -> Result<Vec<u8>, NgapError>,
    ) {
        let Some(ue) = self.ues.get(&number) else {
            return;
        };
        let (Some(amf), Some(id)) = (ue.amf, ue.n2.amf_ue()) else {
            return;
        };
        let ids = UeIds {
            amf: id,
            ran: number,
        };
        let data = build(ids, ue);
        self.send_ngap(amf, Some(number), data);
    }

    /// Drops the UE if nothing of it is left; gives its address back as soon as no SA uses it.
    fn reap(&mut self, number: u32) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        if ue.ike != IkeState::Closed || !ue.children.is_empty() || !ue.relays.is_empty() {
            return;
        }
        if let Some(inner) = ue.inner.take() {
            self.by_inner.remove(&inner);
            if let Err(error) = self.pool.give_back(inner) {
                error!(ue = number, %error, "inner address");
            }
        }
        if matches!(ue.n2, N2State::None | N2State::Gone) {
            self.by_sa.remove(&ue.sa);
            self.ues.remove(&number);
            self.ran_ids.give_back(number);
            info!(ue = number, "UE gone");
        }
    }
}
