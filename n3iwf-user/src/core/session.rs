//! PDU sessions (TS 24.502, 7.5 to 7.7; TS 38.413, 8.2).

use daemon::timeline::Phase;
use ike::{ChildFailure, ChildId, Instant, NewChild, SaId, wire::TrafficSelector};
use nwu::{QosInfo, notify};
use tracing::{info, warn};

use super::{
    N3iwf,
    attach::private_notify,
    modify::relay_session,
    spread::Further,
    types::{Action, Command, IkeState, N2State, Relay, Release, Session, SessionState, Setup},
};
use crate::ngap::{
    self, Cause, CauseMisc, CauseRadioNetwork, CauseTransport, SessionOutcome, SessionRequest,
    SessionUp,
};

impl N3iwf {
    /// PDU SESSION RESOURCE SETUP REQUEST.
    pub(super) fn session_setup(
        &mut self,
        now: Instant,
        number: u32,
        nas: Option<Vec<u8>>,
        sessions: Vec<SessionRequest>,
    ) {
        if let Some(nas) = nas {
            self.deliver(now, number, nas);
        }
        self.begin_setup(number, false, sessions);
    }

    /// Begins all sessions of a setup procedure; its response leaves when the last has ended.
    pub(super) fn begin_setup(
        &mut self,
        number: u32,
        context: bool,
        sessions: Vec<SessionRequest>,
    ) {
        let mut setup = Setup {
            context,
            waiting: Default::default(),
            outcomes: Vec::new(),
        };
        let mut created = Vec::new();
        for request in sessions {
            let id = request.id;
            match self.begin_session(number, request) {
                Ok(commands) => {
                    setup.waiting.insert(id);
                    created.extend(commands);
                }
                Err(cause) => {
                    warn!(ue = number, session = id, cause = %ngap::cause_text(&cause), "PDU session refused");
                    setup.outcomes.push(SessionOutcome {
                        id,
                        result: Err(cause),
                    });
                }
            }
        }
        self.commands.extend(created);
        if setup.waiting.is_empty() {
            self.answer_setup(number, &setup);
        } else if let Some(ue) = self.ues.get_mut(&number) {
            ue.setups.push(setup);
        }
    }

    /// One CREATE_CHILD_SA for each Child SA, that of the default one first.
    fn begin_session(
        &mut self,
        number: u32,
        request: SessionRequest,
    ) -> Result<Vec<Command>, Cause> {
        let slots = self.config.slots;
        let inner_address = self.config.inner_address;
        let gtp_address = self.config.gtp_address;
        let ue = self
            .ues
            .get_mut(&number)
            .filter(|ue| ue.ike == IkeState::Up)
            .ok_or(Cause::radioNetwork(
                CauseRadioNetwork::radio_connection_with_ue_lost,
            ))?;
        if ue.sessions.contains_key(&request.id) {
            return Err(Cause::radioNetwork(
                CauseRadioNetwork::multiple_PDU_session_ID_instances,
            ));
        }
        let transfer = request.transfer?;
        // Before the UE hears of it: N3 has one IP version here.
        let upf = transfer
            .upf
            .reached_from(gtp_address)
            .ok_or(Cause::transport(
                CauseTransport::transport_resource_unavailable,
            ))?;
        let no_room = Cause::radioNetwork(CauseRadioNetwork::radio_resources_not_available);
        let taken = |slot: &u32| {
            ue.sessions
                .values()
                .any(|s| s.slots().any(|own| own == *slot))
        };
        let mut free = (0..slots).filter(|slot| !taken(slot));
        let slot = free.next().ok_or(no_room.clone())?;
        let free: Vec<u32> = free.collect();
        let inner = ue.inner.ok_or(no_room.clone())?;
        let groups =
            self.config
                .child_sas
                .spread(&transfer.flows, &self.config.dscp, 1 + free.len());
        let (up_kind, up) = notify::up_address(inner_address);
        let mut children = Vec::with_capacity(groups.len());
        let (mut tokens, first) = (self.tokens, self.tokens + 1);
        for qfis in &groups {
            tokens += 1;
            let dscp = self.config.dscp.of_child(&transfer.flows, qfis);
            let qos = QosInfo {
                pdu_session: request.id,
                qfis: qfis.clone(),
                default: tokens == first,
                dscp: (dscp != 0).then_some(dscp),
            };
            let qos = qos.encode().map_err(|_| no_room.clone())?;
            children.push(Command::CreateChild {
                sa: ue.sa,
                child: NewChild {
                    ts_local: vec![TrafficSelector::host(inner_address)],
                    ts_remote: vec![TrafficSelector::host(inner)],
                    notifies: vec![
                        private_notify(notify::QOS_INFO, qos),
                        private_notify(up_kind, up.clone()),
                    ],
                    token: tokens,
                },
            });
        }
        let dl_teid = self.teids.take().ok_or(no_room)?;
        self.by_teid.insert(dl_teid, number);
        self.tokens = tokens;
        let further = (first + 1..).zip(free).zip(groups.into_iter().skip(1));
        let further = further.map(|((token, slot), qfis)| Further {
            token,
            child: None,
            slot,
            qfis,
        });
        ue.sessions.insert(
            request.id,
            Box::new(Session {
                state: SessionState::Creating,
                token: first,
                awaited: children.len(),
                child: None,
                slot,
                further: further.collect(),
                flows: transfer.flows,
                ambr: transfer.ambr,
                upf,
                ul_teid: transfer.ul_teid,
                dl_teid,
                security_indicated: transfer.security_indicated,
                nas: request.nas,
                change: None,
            }),
        );
        Ok(children)
    }

    pub(super) fn child_up(&mut self, now: Instant, sa: SaId, child: ChildId, token: u64) {
        let Some(ue) = self.ue_of(sa) else {
            return;
        };
        let number = ue.number;
        if ue.signalling == Some(child) {
            self.signalling_up(now, number);
            return;
        }
        let Some(installed) = ue.children.get(&child) else {
            return;
        };
        if installed.replaces.is_some() {
            // It takes over with `ChildSwitched`.
            return;
        }
        let Some((id, session)) = ue
            .sessions
            .iter_mut()
            .find(|(_, session)| session.has_token(token))
        else {
            self.commands.push_back(Command::DeleteChild { sa, child });
            return;
        };
        if let Some((place, _)) = session.by_token(token) {
            *place = Some(child);
        }
        if session.state != SessionState::Creating {
            // Released while it was being made.
            self.commands.push_back(Command::DeleteChild { sa, child });
            return;
        }
        session.awaited = session.awaited.saturating_sub(1);
        if session.awaited > 0 {
            return;
        }
        session.state = SessionState::Relaying;
        let (id, dl_teid) = (*id, session.dl_teid);
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        let session = ue.sessions.get(&id);
        let relay = session.and_then(|session| relay_session(ue, id, session, &self.config));
        let Some(relay) = relay else {
            return;
        };
        ue.relays.insert(dl_teid, Relay::Adding);
        self.actions.push_back(Action::AddSession(relay));
    }

    /// The relay's answer to [`Action::AddSession`].
    pub fn session_added(
        &mut self,
        now: Instant,
        number: u32,
        dl_teid: u32,
        result: Result<(), String>,
    ) {
        let added = result.is_ok();
        let address = self.config.gtp_address;
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        self.touched = Some(ue.sa);
        match result {
            Ok(()) => {
                ue.relays.insert(dl_teid, Relay::Present);
            }
            Err(error) => {
                warn!(ue = number, error, "the relay refused a PDU session");
                ue.relays.remove(&dl_teid);
                // As long as a session has it, it goes with that.
                if ue.sessions.values().all(|s| s.dl_teid != dl_teid) {
                    self.free_teid(dl_teid);
                }
            }
        }
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        let sa = ue.sa;
        let found = ue.sessions.iter_mut().find(|(_, session)| {
            session.dl_teid == dl_teid && session.state == SessionState::Relaying
        });
        let Some((id, session)) = found else {
            // The session ended meanwhile.
            self.remove_relay(number, dl_teid);
            self.reap(number);
            return;
        };
        let id = *id;
        if added {
            session.state = SessionState::Up;
            let up = SessionUp {
                address,
                dl_teid,
                qfis: session.qfis(),
                security_result: session.security_indicated,
            };
            let nas = session.nas.take();
            if ue.timeline.phase() == Some(Phase::Child) {
                ue.timeline.end(now.since_origin());
                self.phases
                    .push_back((Phase::Child, ue.timeline.of(Phase::Child)));
            }
            info!(ue = number, session = id, "PDU session up");
            self.finish(number, id, Ok(up));
            // After the Child SA exists, and not before (TS 23.502, 4.12.5).
            if let Some(nas) = nas {
                self.let_settle(now, number);
                self.deliver(now, number, nas);
            }
        } else {
            session.state = SessionState::Releasing;
            let children: Vec<ChildId> = session.children().collect();
            self.finish(
                number,
                id,
                Err(Cause::transport(
                    CauseTransport::transport_resource_unavailable,
                )),
            );
            self.delete_children(sa, children);
        }
    }

    fn delete_children(&mut self, sa: SaId, children: impl IntoIterator<Item = ChildId>) {
        let delete = |child| Command::DeleteChild { sa, child };
        self.commands.extend(children.into_iter().map(delete));
    }

    /// The relay's answer to [`Action::RemoveSession`].
    pub fn session_removed(&mut self, number: u32, dl_teid: u32) {
        if let Some(ue) = self.ues.get_mut(&number)
            && ue.relays.remove(&dl_teid).is_some()
        {
            self.free_teid(dl_teid);
        }
        self.reap(number);
    }

    /// GTP-U Error Indication (TS 29.281, 7.3.1): the UPF forgot the tunnel, so the session goes.
    pub fn tunnel_lost(&mut self, dl_teid: u32) {
        let number = self.by_teid.get(&dl_teid);
        let Some(ue) = number.and_then(|number| self.ues.get(number)) else {
            return;
        };
        for (id, session) in &ue.sessions {
            if session.dl_teid == dl_teid && session.state == SessionState::Up {
                warn!(
                    ue = ue.number,
                    session = id,
                    "the UPF does not know the tunnel"
                );
                // Stays `Up`, so that its end is told to the AMF.
                let sa = ue.sa;
                let delete = |child| Command::DeleteChild { sa, child };
                self.commands.extend(session.children().map(delete));
            }
        }
    }

    fn free_teid(&mut self, dl_teid: u32) {
        self.by_teid.remove(&dl_teid);
        self.teids.give_back(dl_teid);
    }

    fn remove_relay(&mut self, number: u32, dl_teid: u32) {
        if let Some(relay) = self
            .ues
            .get_mut(&number)
            .and_then(|ue| ue.relays.get_mut(&dl_teid))
            && *relay == Relay::Present
        {
            *relay = Relay::Removing;
            self.actions.push_back(Action::RemoveSession {
                ue: number,
                dl_teid,
            });
        }
    }

    /// `Endpoint::create_child` refused at once.
    pub fn child_refused(&mut self, sa: SaId, token: u64) {
        self.session_failed(sa, token, &ChildFailure::Abandoned);
    }

    pub(super) fn child_failed(
        &mut self,
        now: Instant,
        sa: SaId,
        child: ChildId,
        token: u64,
        reason: &ChildFailure,
    ) {
        let Some(ue) = self.ue_of(sa) else {
            return;
        };
        let number = ue.number;
        warn!(ue = number, %child, ?reason, "Child SA failed");
        if ue.signalling == Some(child) {
            ue.signalling = None;
            self.lose_signalling(now, number);
            return;
        }
        self.session_failed(sa, token, reason);
    }

    fn session_failed(&mut self, sa: SaId, token: u64, reason: &ChildFailure) {
        let Some(ue) = self.ue_of(sa) else {
            return;
        };
        let number = ue.number;
        let found = ue.sessions.iter().find(|(_, s)| s.has_token(token));
        if let Some((id, session)) = found {
            let (id, others) = (*id, session.children().collect::<Vec<_>>());
            self.end_session(number, id, &failure_cause(reason));
            self.delete_children(sa, others);
        }
    }

    pub(super) fn child_down(&mut self, now: Instant, sa: SaId, child: ChildId) {
        let Some(ue) = self.ue_of(sa) else {
            return;
        };
        let number = ue.number;
        if self.drain(now, number, child) {
            return;
        }
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        let id = ue
            .sessions
            .iter()
            .find(|(_, session)| session.has_child(child))
            .map(|(id, session)| (*id, session.state));
        let signalling = ue.signalling == Some(child);
        if signalling {
            ue.signalling = None;
        }
        let mut others = Vec::new();
        if let Some((id, state)) = id {
            if state == SessionState::Up {
                ue.lost.push(id);
            }
            if let Some(session) = ue.sessions.get_mut(&id) {
                if let Some(place) = session.place_of(child) {
                    *place = None;
                }
                others.extend(session.children());
            }
        }
        self.remove_with_drained(number, child);
        match id {
            // Their turn comes.
            Some((_, SessionState::Releasing)) if !others.is_empty() => {}
            // A session has all of its Child SAs or none.
            Some((id, _)) => {
                let lost = CauseRadioNetwork::radio_connection_with_ue_lost;
                self.end_session(number, id, &Cause::radioNetwork(lost));
                self.delete_children(sa, others);
            }
            None => {}
        }
        if signalling {
            self.lose_signalling(now, number);
        }
    }

    /// Without its signalling Child SA a UE is of no use.
    fn lose_signalling(&mut self, now: Instant, number: u32) {
        self.fail_context(number);
        let lost = CauseRadioNetwork::radio_connection_with_ue_lost;
        self.ask_release(now, number, Cause::radioNetwork(lost));
        self.close_ike(now, number);
    }

    /// To be called when all events of one input are handled: tells the AMF of sessions whose
    /// Child SA the UE deleted, unless the whole UE went with them.
    pub fn settle(&mut self) {
        for number in self.ues.refresh() {
            let lost = self.ues.get(&number).is_some_and(|ue| !ue.lost.is_empty());
            if !lost {
                continue;
            }
            let Some(ue) = self.ues.get_mut(&number) else {
                continue;
            };
            let sessions = std::mem::take(&mut ue.lost);
            let up = self
                .ues
                .get(&number)
                .is_some_and(|ue| ue.ike == IkeState::Up && matches!(ue.n2, N2State::Active(_)));
            if up {
                let cause =
                    Cause::radioNetwork(CauseRadioNetwork::release_due_to_ngran_generated_reason);
                self.send_about(number, |ids, _| {
                    ngap::session_notify(ids, &sessions, &cause)
                });
            }
        }
    }

    /// The session is over: relay, numbers and waiting procedures.
    fn end_session(&mut self, number: u32, id: u8, cause: &Cause) {
        let Some(session) = self
            .ues
            .get_mut(&number)
            .and_then(|ue| ue.sessions.remove(&id))
        else {
            return;
        };
        let known = self
            .ues
            .get(&number)
            .is_some_and(|ue| ue.relays.contains_key(&session.dl_teid));
        if known {
            self.remove_relay(number, session.dl_teid);
        } else {
            self.free_teid(session.dl_teid);
        }
        info!(ue = number, session = id, "PDU session gone");
        self.finish(number, id, Err(cause.clone()));
        self.finish_modify(number, id, Err(cause.clone()));
        self.finish_release(number, id);
    }

    pub(super) fn drop_sessions(&mut self, number: u32, cause: &Cause) {
        let all: Vec<u8> = self
            .ues
            .get(&number)
            .map(|ue| ue.sessions.keys().copied().collect())
            .unwrap_or_default();
        for id in all {
            self.end_session(number, id, cause);
        }
    }

    /// PDU SESSION RESOURCE RELEASE COMMAND: NAS goes first, while the session's ESP still stands.
    pub(super) fn session_release(
        &mut self,
        now: Instant,
        number: u32,
        nas: Option<Vec<u8>>,
        sessions: &[u8],
    ) {
        if let Some(nas) = nas {
            self.deliver(now, number, nas);
        }
        let mut release = Release {
            waiting: Default::default(),
            sessions: Vec::new(),
        };
        for id in sessions {
            // One that is not here is released as far as the AMF is concerned.
            if !release.sessions.contains(id) {
                release.sessions.push(*id);
            }
            let Some(ue) = self.ues.get_mut(&number) else {
                return;
            };
            let sa = ue.sa;
            let Some(session) = ue.sessions.get_mut(id) else {
                continue;
            };
            release.waiting.insert(*id);
            let (before, dl_teid) = (session.state, session.dl_teid);
            let children: Vec<ChildId> = session.children().collect();
            session.state = SessionState::Releasing;
            match before {
                SessionState::Up | SessionState::Relaying => {
                    self.delete_children(sa, children);
                    self.remove_relay(number, dl_teid);
                }
                SessionState::Creating | SessionState::Releasing => {}
            }
            let interrupted = CauseRadioNetwork::interaction_with_other_procedure;
            let interrupted = Cause::radioNetwork(interrupted);
            self.finish(number, *id, Err(interrupted.clone()));
            self.finish_modify(number, *id, Err(interrupted));
        }
        if release.waiting.is_empty() {
            self.answer_release(number, &release);
        } else if let Some(ue) = self.ues.get_mut(&number) {
            ue.releases.push(release);
        }
    }

    /// A session of a setup procedure ended one way or the other.
    fn finish(&mut self, number: u32, id: u8, result: Result<SessionUp, Cause>) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        let Some(at) = ue
            .setups
            .iter()
            .position(|setup| setup.waiting.contains(&id))
        else {
            return;
        };
        let Some(setup) = ue.setups.get_mut(at) else {
            return;
        };
        setup.waiting.remove(&id);
        setup.outcomes.push(SessionOutcome { id, result });
        if setup.waiting.is_empty() {
            let setup = ue.setups.remove(at);
            self.answer_setup(number, &setup);
        }
    }

    fn answer_setup(&mut self, number: u32, setup: &Setup) {
        for outcome in &setup.outcomes {
            match outcome.result {
                Ok(_) => self.sessions_up += 1,
                Err(_) => self.sessions_failed += 1,
            }
        }
        self.send_about(number, |ids, _| {
            if setup.context {
                ngap::context_setup_response(ids, &setup.outcomes)
            } else {
                ngap::session_setup_response(ids, &setup.outcomes)
            }
        });
    }

    fn finish_release(&mut self, number: u32, id: u8) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        for release in &mut ue.releases {
            release.waiting.remove(&id);
        }
        let (done, waiting): (Vec<Release>, Vec<Release>) = std::mem::take(&mut ue.releases)
            .into_iter()
            .partition(|release| release.waiting.is_empty());
        ue.releases = waiting;
        for release in done {
            self.answer_release(number, &release);
        }
    }

    fn answer_release(&mut self, number: u32, release: &Release) {
        self.send_about(number, |ids, _| {
            ngap::session_release_response(ids, &release.sessions)
        });
    }
}

/// How the failure of a Child SA is told to the SMF.
fn failure_cause(reason: &ChildFailure) -> Cause {
    match reason {
        ChildFailure::InstallFailed => {
            Cause::misc(CauseMisc::not_enough_user_plane_processing_resources)
        }
        ChildFailure::Qkd(_) => {
            Cause::radioNetwork(CauseRadioNetwork::radio_resources_not_available)
        }
        _ => Cause::radioNetwork(CauseRadioNetwork::failure_in_radio_interface_procedure),
    }
}
