//! Changes of what is there: UE-AMBR, session AMBR, QoS flows, uplink tunnels (TS 38.413, 8.2.3
//! and 8.3.4; TS 24.502, 7.6).
//!
//! A session whose flows change is told to the UE first (INFORMATIONAL with 5G_QOS_INFO); then the
//! relay changes; then the AMF has its answer and the UE its NAS message.

use std::{collections::BTreeSet, net::IpAddr};

use dataplane::relay::Ambr;
use ike::{Instant, SaId, wire::NotifyType};
use nwu::{QosInfo, notify};
use tracing::{info, warn};

use super::{
    N3iwf,
    attach::private_notify,
    types::{
        Action, Change, Command, CoreConfig, N2State, RelaySession, RelayTunnel, Session,
        SessionState, Ue,
    },
};
use crate::ngap::{
    self, Cause, CauseProtocol, CauseRadioNetwork, CauseTransport, ModifiedFlows, ModifyOutcome,
    ModifyRequest, ModifyTransfer, QosFlow,
};

/// A modify procedure that waits for its sessions.
pub(super) struct Modify {
    waiting: BTreeSet<u8>,
    outcomes: Vec<ModifyOutcome>,
}

impl N3iwf {
    /// UE CONTEXT MODIFICATION REQUEST.
    pub(super) fn context_modification(
        &mut self,
        number: u32,
        ambr: Option<Ambr>,
        new_amf: Option<u64>,
    ) {
        if let Some(ambr) = ambr {
            self.change_ue_ambr(number, ambr);
        }
        self.send_about(number, |ids, _| ngap::context_modification_response(ids));
        if let (Some(id), Some(ue)) = (new_amf, self.ues.get_mut(&number)) {
            match &mut ue.n2 {
                N2State::Active(known) | N2State::Releasing(known, _) => *known = id,
                N2State::None | N2State::Asked | N2State::Orphaned(_) | N2State::Gone => {}
            }
        }
    }

    /// The UE-AMBR as the AMF tells it: for what is relayed already, and for what will be.
    pub(super) fn change_ue_ambr(&mut self, number: u32, ambr: Ambr) {
        let config = &self.config;
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        match ue.ambr.replace(ambr) {
            Some(before) if before == ambr => {}
            Some(_) => {
                info!(ue = number, ?ambr, "UE-AMBR changed");
                self.actions
                    .push_back(Action::SetUeAmbr { ue: number, ambr });
            }
            None => {
                // The relay knows no limit of this UE yet.
                let ue = &*ue;
                let relayed = ue.sessions.iter().filter(|(_, session)| {
                    matches!(session.state, SessionState::Relaying | SessionState::Up)
                });
                let changes = relayed.filter_map(|(id, session)| {
                    let session = relay_session(ue, *id, session, config)?;
                    Some(Action::ModifySession { session, token: 0 })
                });
                self.actions.extend(changes);
            }
        }
    }

    /// PDU SESSION RESOURCE MODIFY REQUEST; its response leaves when the last session has ended.
    pub(super) fn session_modify(&mut self, number: u32, sessions: Vec<ModifyRequest>) {
        let mut modify = Modify {
            waiting: BTreeSet::new(),
            outcomes: Vec::new(),
        };
        let mut begun = Vec::new();
        for request in sessions {
            let id = request.id;
            let token = self.tokens + 1;
            let change = match self.ues.get_mut(&number) {
                Some(ue) => begin(ue, request, token, &self.config),
                None => return,
            };
            match change {
                Ok(told) => {
                    self.tokens = token;
                    modify.waiting.insert(id);
                    begun.push((id, told));
                }
                Err(cause) => {
                    warn!(ue = number, session = id, cause = %ngap::cause_text(&cause), "PDU session not modified");
                    modify.outcomes.push(ModifyOutcome {
                        id,
                        result: Err(cause),
                    });
                }
            }
        }
        if modify.waiting.is_empty() {
            self.answer_modify(number, &modify);
            return;
        }
        if let Some(ue) = self.ues.get_mut(&number) {
            ue.modifies.push(modify);
        }
        for (id, told) in begun {
            match told {
                Some(command) => self.commands.push_back(command),
                None => self.apply(number, id),
            }
        }
    }

    /// The UE answered the INFORMATIONAL request about a session; `None`: it could not be sent.
    pub(super) fn informed(&mut self, sa: SaId, token: u64, answer: Option<Option<NotifyType>>) {
        let Some(ue) = self.ue_of(sa) else {
            return;
        };
        let number = ue.number;
        let found = ue.sessions.iter().find(|(_, session)| {
            let change = session.change.as_ref();
            change.is_some_and(|change| change.token == token && !change.applied)
        });
        let Some(id) = found.map(|(id, _)| *id) else {
            return;
        };
        match answer {
            Some(None) => self.apply(number, id),
            refusal => {
                warn!(
                    ue = number,
                    session = id,
                    ?refusal,
                    "the UE does not take the flows"
                );
                let cause = CauseRadioNetwork::failure_in_radio_interface_procedure;
                self.finish_modify(number, id, Err(Cause::radioNetwork(cause)));
            }
        }
    }

    /// `Endpoint::inform` refused at once.
    pub fn inform_refused(&mut self, sa: SaId, token: u64) {
        self.informed(sa, token, None);
    }

    /// Tells the relay.
    fn apply(&mut self, number: u32, id: u8) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        let token = match ue.sessions.get_mut(&id).and_then(|s| s.change.as_mut()) {
            Some(change) => {
                change.applied = true;
                change.token
            }
            None => return,
        };
        let ue = &*ue;
        let session = ue
            .sessions
            .get(&id)
            .and_then(|session| relay_session(ue, id, session, &self.config));
        match session {
            Some(session) => self
                .actions
                .push_back(Action::ModifySession { session, token }),
            None => {
                let lost = CauseRadioNetwork::radio_connection_with_ue_lost;
                self.finish_modify(number, id, Err(Cause::radioNetwork(lost)));
            }
        }
    }

    /// The relay's answer to [`Action::ModifySession`].
    pub fn session_modified(
        &mut self,
        now: Instant,
        number: u32,
        token: u64,
        result: Result<(), String>,
    ) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        self.touched = Some(ue.sa);
        let found = ue.sessions.iter_mut().find(|(_, session)| {
            let change = session.change.as_ref();
            change.is_some_and(|change| change.token == token)
        });
        let Some((id, session)) = found else {
            // The session ended meanwhile, or nobody waits.
            return;
        };
        let id = *id;
        match result {
            Ok(()) => {
                let Some(change) = session.change.take() else {
                    return;
                };
                session.flows = change.flows;
                session.ambr = change.ambr;
                session.upf = change.upf;
                session.ul_teid = change.ul_teid;
                info!(ue = number, session = id, "PDU session modified");
                self.finish_modify(number, id, Ok(change.outcome));
                if let Some(nas) = change.nas {
                    self.deliver(now, number, nas);
                }
            }
            Err(error) => {
                warn!(
                    ue = number,
                    session = id,
                    error,
                    "the relay refused a change"
                );
                let cause = CauseTransport::transport_resource_unavailable;
                self.finish_modify(number, id, Err(Cause::transport(cause)));
            }
        }
    }

    /// A session of a modify procedure ended one way or the other.
    pub(super) fn finish_modify(
        &mut self,
        number: u32,
        id: u8,
        result: Result<ModifiedFlows, Cause>,
    ) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        if let Some(session) = ue.sessions.get_mut(&id) {
            session.change = None;
        }
        let Some(at) = ue.modifies.iter().position(|m| m.waiting.contains(&id)) else {
            return;
        };
        let Some(modify) = ue.modifies.get_mut(at) else {
            return;
        };
        modify.waiting.remove(&id);
        modify.outcomes.push(ModifyOutcome { id, result });
        if modify.waiting.is_empty() {
            let modify = ue.modifies.remove(at);
            self.answer_modify(number, &modify);
        }
    }

    fn answer_modify(&mut self, number: u32, modify: &Modify) {
        self.send_about(number, |ids, _| {
            ngap::session_modify_response(ids, &modify.outcomes)
        });
    }
}

/// A session as it is to be relayed, a change under way included.
pub(super) fn relay_session(
    ue: &Ue,
    id: u8,
    session: &Session,
    config: &CoreConfig,
) -> Option<RelaySession> {
    let reqid = ue.children.get(&session.child?)?.reqid;
    let change = session.change.as_ref().filter(|change| change.applied);
    let (flows, ambr, upf, ul_teid) = match change {
        Some(change) => (&change.flows, change.ambr, change.upf, change.ul_teid),
        None => (&session.flows, session.ambr, session.upf, session.ul_teid),
    };
    let further = session.further.iter().map(|further| {
        let mut qfis = further.qfis.clone();
        qfis.retain(|qfi| flows.iter().any(|flow| flow.qfi == *qfi));
        let dscp = config.dscp.of_child(flows, &qfis);
        Some(RelayTunnel {
            dscp,
            slot: further.slot,
            reqid: ue.children.get(&further.child?)?.reqid,
            qfis,
        })
    });
    let further = further.collect::<Option<Vec<_>>>()?;
    Some(RelaySession {
        ue: ue.number,
        session: id,
        ue_inner: ue.inner?,
        up_address: config.inner_address,
        slot: session.slot,
        reqid,
        dscp: config.dscp.of_child(flows, &session.of_default(flows)),
        further,
        n3_dscp: config.dscp.by_qfi(flows),
        ambr,
        ue_ambr: ue.ambr,
        qfis: flows.iter().map(|flow| flow.qfi).collect(),
        upf,
        ul_teid,
        dl_teid: session.dl_teid,
    })
}

/// Begins a change of a session: what the UE has to be told first, if its flows change.
fn begin(
    ue: &mut Ue,
    request: ModifyRequest,
    token: u64,
    config: &CoreConfig,
) -> Result<Option<Command>, Cause> {
    let sa = ue.sa;
    let session = ue.sessions.get_mut(&request.id).ok_or(Cause::radioNetwork(
        CauseRadioNetwork::unknown_PDU_session_ID,
    ))?;
    if session.state != SessionState::Up || session.change.is_some() {
        return Err(Cause::radioNetwork(
            CauseRadioNetwork::interaction_with_other_procedure,
        ));
    }
    let mut change = changed(session, request.transfer?, config.gtp_address)?;
    // A new flow goes by the default Child SA.
    let default = |flows: &[QosFlow]| {
        let qfis = session.of_default(flows);
        let dscp = config.dscp.of_child(flows, &qfis);
        (qfis, dscp)
    };
    let mut told = Vec::new();
    let (before, after) = (default(&session.flows), default(&change.flows));
    if after != before {
        told.push((true, after.0, after.1));
    }
    for further in &session.further {
        let dscp = |flows: &[QosFlow]| config.dscp.of_child(flows, &further.qfis);
        if dscp(&change.flows) != dscp(&session.flows) {
            told.push((false, further.qfis.clone(), dscp(&change.flows)));
        }
    }
    let notify = |(default, qfis, dscp): (bool, Vec<u8>, u8)| {
        let info = QosInfo {
            pdu_session: request.id,
            qfis,
            default,
            dscp: (dscp != 0).then_some(dscp),
        };
        let data = info
            .encode()
            .map_err(|_| Cause::radioNetwork(CauseRadioNetwork::radio_resources_not_available))?;
        Ok(private_notify(notify::QOS_INFO, data))
    };
    let notifies = told
        .into_iter()
        .map(notify)
        .collect::<Result<Vec<_>, Cause>>()?;
    let told = (!notifies.is_empty()).then_some(Command::Inform {
        sa,
        token,
        notifies,
    });
    change.token = token;
    change.nas = request.nas;
    session.change = Some(change);
    Ok(told)
}

/// What a session becomes; `ours` is our address on N3.
fn changed(session: &Session, wanted: ModifyTransfer, ours: IpAddr) -> Result<Change, Cause> {
    let mut outcome = ModifiedFlows::default();
    let mut flows = session.flows.clone();
    flows.retain(|flow| !wanted.released.contains(&flow.qfi));
    for request in wanted.flows {
        let qfi = request.flow.qfi;
        match flows.iter_mut().find(|flow| flow.qfi == qfi) {
            Some(flow) if request.described => *flow = request.flow,
            Some(_) => {}
            None if request.described => flows.push(request.flow),
            None => {
                let cause = CauseRadioNetwork::unkown_qos_flow_ID;
                outcome.failed.push((qfi, Cause::radioNetwork(cause)));
                continue;
            }
        }
        outcome.done.push(qfi);
    }
    if flows.is_empty() {
        return Err(Cause::protocol(CauseProtocol::semantic_error));
    }
    let (mut upf, mut ul_teid) = (session.upf, session.ul_teid);
    for tunnel in wanted.tunnels {
        if tunnel.dl_teid != session.dl_teid {
            return Err(Cause::protocol(CauseProtocol::semantic_error));
        }
        upf = tunnel.upf.reached_from(ours).ok_or(Cause::transport(
            CauseTransport::transport_resource_unavailable,
        ))?;
        ul_teid = tunnel.ul_teid;
    }
    Ok(Change {
        token: 0,
        applied: false,
        flows,
        ambr: wanted.ambr.or(session.ambr),
        upf,
        ul_teid,
        nas: None,
        outcome,
    })
}
