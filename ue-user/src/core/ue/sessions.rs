//! Child SAs and PDU sessions: NAS says what a session is, IKE gives it a way.

use std::{net::IpAddr, time::Duration};

use ike::{
    ChildAnswer, ChildId, Event, Instant,
    wire::{Notify, NotifyType, TrafficSelector},
};
use nwu::{QosInfo, notify};
use tracing::{info, warn};

use super::{
    Action, AttachFailure, Child, FurtherChild, Install, Link, Session, SessionInterface, Ue,
};
use crate::core::nas::{self, QosRules};

/// IPv4 and GRE with key around a PDU.
const GRE_OVERHEAD: u16 = 28;
/// Smallest MTU an IPv4 link may have (RFC 791).
const LEAST_MTU: u16 = 576;
/// The same for IPv6 (RFC 8200, section 5).
const LEAST_MTU_IPV6: u16 = 1280;
/// Reqids are below this.
const REQIDS: u32 = 1 << 20;

impl Ue {
    pub(super) fn child_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::ChildRequested {
                sa,
                child,
                notifies,
                ..
            } => {
                let answer = match self.judge_child(&notifies) {
                    Ok(_) => Ok(ChildAnswer::default()),
                    Err((kind, why)) => {
                        warn!(why, "Child SA refused");
                        Err(kind)
                    }
                };
                self.endpoint.answer_child(now, sa, child, answer);
            }
            Event::InstallChild { sa, child } => {
                let id = child.id;
                if let Some(link) = self.link.as_mut() {
                    link.udp_encap = child.udp_encap;
                }
                match self.place_child(child) {
                    Ok(install) => self.actions.push_back(Action::Install(Box::new(install))),
                    Err(why) => {
                        warn!(why, "Child SA refused");
                        self.endpoint.child_installed(now, sa, id, Err(()));
                    }
                }
            }
            Event::ChildUp { child, .. } => self.child_up(now, child),
            Event::ChildFailed { child, reason, .. } => {
                warn!(child = child.number(), ?reason, "Child SA failed");
                self.child_gone(child);
            }
            Event::ChildDown { child, by_peer, .. } => {
                info!(child = child.number(), by_peer, "Child SA down");
                if !self.drain(now, child) {
                    self.child_gone(child);
                }
            }
            Event::Told { notifies, .. } => self.told(&notifies),
            Event::ChildSwitched { from, to, .. } => self.child_switched(from, to),
            Event::ChildRekeyFailed { child, reason, .. } => {
                self.child_rekey_failed(now, child, reason);
            }
            Event::IkeRekeyed { replaced, .. } => self.ike_rekeyed(replaced),
            Event::IkeRekeyFailed { reason, .. } => {
                warn!(?reason, "the IKE SA was not rekeyed");
            }
            other => warn!(?other, "unexpected IKE event"),
        }
    }

    pub(super) fn session_event(&mut self, now: Instant, event: nas::Event) {
        match event {
            nas::Event::SessionAccepted(accept) => {
                info!(
                    pdu_session = accept.id,
                    address = accept.address.map(tracing::field::display),
                    ipv6 = accept.interface_id.is_some(),
                    qfis = ?accept.rules.qfis(),
                    "PDU session accepted"
                );
                let Some(link) = self.link.as_mut() else {
                    return;
                };
                let id = accept.id;
                let session = link.sessions.entry(id).or_default();
                session.failure = None;
                session.accept = Some(accept);
                self.join(id);
            }
            nas::Event::SessionModified {
                id,
                rules,
                rq_timer,
                ambr_kbps,
            } => self.session_modified(id, rules.as_ref(), rq_timer, ambr_kbps),
            nas::Event::SessionFailed { id, failure } => {
                warn!(pdu_session = id, %failure, "no PDU session");
                self.session_gone(now, id, Some(failure.to_string()));
            }
            nas::Event::SessionReleased {
                id,
                by_network,
                cause,
            } => {
                let cause = cause.map(|cause| cause.to_string());
                info!(pdu_session = id, by_network, cause, "PDU session released");
                self.session_gone(now, id, cause.filter(|_| by_network));
            }
            other => warn!(?other, "unexpected NAS event"),
        }
    }

    fn session_modified(
        &mut self,
        id: u8,
        rules: Option<&QosRules>,
        rq_timer: Option<Duration>,
        ambr_kbps: Option<(u64, u64)>,
    ) {
        info!(pdu_session = id, ?ambr_kbps, "PDU session modified");
        let sessions = self.link.as_mut().map(|link| &mut link.sessions);
        let Some(session) = sessions.and_then(|sessions| sessions.get_mut(&id)) else {
            return;
        };
        let accept = session.accept.as_mut();
        let interface = session.interface.as_mut().map(|own| &mut own.accept);
        for accept in accept.into_iter().chain(interface) {
            if let Some(rules) = rules {
                accept.rules = rules.clone();
            }
            accept.rq_timer = rq_timer.unwrap_or(accept.rq_timer);
            accept.ambr_kbps = ambr_kbps.or(accept.ambr_kbps);
        }
        let changed = rules.is_some() || rq_timer.is_some();
        if let Some(own) = session.interface.as_ref().filter(|_| changed) {
            let rules = own.accept.uplink();
            self.actions.push_back(Action::SetRules(id, rules));
        }
    }

    /// What the N3IWF says without a Child SA to make: the flows of one that is there
    /// (TS 24.502, 7.6). The NAS message that follows says which packets they take.
    pub(super) fn told(&mut self, notifies: &[Notify]) {
        for notify in notifies.iter().filter(|n| n.kind.0 == notify::QOS_INFO) {
            match QosInfo::decode(&notify.data) {
                Ok(info) => self.flows_changed(&info),
                Err(error) => warn!(%error, "5G_QOS_INFO cannot be read"),
            }
        }
    }

    fn flows_changed(&mut self, info: &QosInfo) {
        info!(
            pdu_session = info.pdu_session,
            qfis = ?info.qfis,
            dscp = info.dscp,
            "flows of a Child SA changed"
        );
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let session = link.sessions.get(&info.pdu_session);
        let default = session.and_then(|session| session.child);
        // A rekey may have made two of it.
        let slot = match info.default {
            true => default.and_then(|child| link.children.get(&child)),
            false => link.children.values().find(|child| {
                child.pdu_session == Some(info.pdu_session)
                    && child.qfis.iter().any(|qfi| info.qfis.contains(qfi))
            }),
        };
        let slot = slot.map(|child| child.slot);
        for child in link.children.values_mut() {
            if child.pdu_session == Some(info.pdu_session) && Some(child.slot) == slot {
                child.qfis.clone_from(&info.qfis);
                child.dscp = info.dscp.unwrap_or(0);
            }
        }
        self.tunnels_changed(info.pdu_session);
    }

    pub(super) fn establish_configured(&mut self, now: Instant) {
        for request in self.config.sessions.clone() {
            if let Some(link) = self.link.as_mut() {
                link.sessions.entry(request.id).or_default();
            }
            self.nas.establish(now.since_origin(), &request);
        }
    }

    pub(super) fn establish(&mut self, now: Instant, id: u8) -> Result<(), String> {
        let request = self.config.sessions.iter().find(|request| request.id == id);
        let request = request
            .ok_or_else(|| format!("no PDU session {id} is configured"))?
            .clone();
        let link = self.link.as_mut().filter(|link| link.ending.is_none());
        let Some(link) = link.filter(|_| self.nas.is_registered()) else {
            return Err("the UE is not registered".into());
        };
        let session = link.sessions.entry(id).or_default();
        if session.accept.is_some() {
            return Err(format!("PDU session {id} is there already"));
        }
        session.failure = None;
        self.nas.establish(now.since_origin(), &request);
        Ok(())
    }

    pub(super) fn release(&mut self, now: Instant, id: u8) -> Result<(), String> {
        let session = self.link.as_ref().and_then(|link| link.sessions.get(&id));
        if session.is_none_or(|session| session.accept.is_none()) {
            return Err(format!("there is no PDU session {id}"));
        }
        self.nas.release(now.since_origin(), id);
        Ok(())
    }

    pub(super) fn interface_added(&mut self, now: Instant, id: u8, outcome: Result<(), String>) {
        let Some(session) = self
            .link
            .as_mut()
            .and_then(|link| link.sessions.get_mut(&id))
        else {
            return;
        };
        match outcome {
            Ok(()) => {
                session.up = true;
                info!(pdu_session = id, "PDU session up");
            }
            Err(error) => {
                warn!(pdu_session = id, %error, "no interface for the PDU session");
                session.interface = None;
                session.failure = Some(error);
                // Without an interface the session is of no use.
                self.nas.release(now.since_origin(), id);
            }
        }
    }

    /// Whether there was something to do when engine and NAS are silent.
    pub(super) fn settle(&mut self, now: Instant) -> bool {
        if self.check_lock_step(now) {
            return true;
        }
        let Some(link) = self.link.as_mut() else {
            return false;
        };
        if std::mem::take(&mut link.signalling_lost) && link.ending.is_none() {
            let why = "the signalling Child SA is gone".to_owned();
            self.end(now, Some(AttachFailure::Nwu(why)), false);
            return true;
        }
        let wanted = &self.config.sessions;
        let decided = |id: &u8| {
            let session = link.sessions.get(id);
            session.is_none_or(|session| session.up || session.failure.is_some())
        };
        if !link.settled
            && link.ending.is_none()
            && self.nas.is_registered()
            && wanted.iter().all(|request| decided(&request.id))
        {
            link.settled = true;
            self.timeline.end(now.since_origin());
            self.actions.push_back(Action::Attached);
        }
        false
    }

    /// Whether the UE can use a Child SA the N3IWF offers: PDU session and UP address.
    fn judge_child(
        &self,
        notifies: &[Notify],
    ) -> Result<(QosInfo, IpAddr), (NotifyType, &'static str)> {
        let qos = notifies.iter().find(|n| n.kind.0 == notify::QOS_INFO);
        let qos = qos.ok_or((NotifyType::INVALID_SYNTAX, "it has no 5G_QOS_INFO"))?;
        let qos = QosInfo::decode(&qos.data)
            .map_err(|_| (NotifyType::INVALID_SYNTAX, "its 5G_QOS_INFO cannot be read"))?;
        let address = notifies.iter().find_map(|n| match n.kind.0 {
            kind @ (notify::UP_IP4_ADDRESS | notify::UP_IP6_ADDRESS) => {
                Some(notify::decode_address(kind, &n.data))
            }
            _ => None,
        });
        let address = match address {
            Some(Ok(address)) => address,
            _ => return Err((NotifyType::INVALID_SYNTAX, "it has no readable UP address")),
        };
        let sessions = self.link.as_ref().map(|link| &link.sessions);
        if !sessions.is_some_and(|sessions| sessions.contains_key(&qos.pdu_session)) {
            let why = "it is for a PDU session this UE did not ask for";
            return Err((NotifyType::NO_ADDITIONAL_SAS, why));
        }
        Ok((qos, address))
    }

    /// Where a Child SA goes in the data plane.
    fn place_child(&mut self, child: Box<ike::ChildSa>) -> Result<Install, &'static str> {
        if let Some(old) = child.replaces {
            return self.place_rekeyed(child, old);
        }
        let inner_local = single(&child.ts_local);
        let inner_local = inner_local.ok_or("our side of its traffic is no single address")?;
        let ts_remote = single(&child.ts_remote);
        let mut flows = None;
        let (pdu_session, inner_remote) = if child.signalling {
            let remote = ts_remote.ok_or("the N3IWF's side of its traffic is no single address")?;
            (None, remote)
        } else {
            let (qos, address) = self.judge_child(&child.notifies).map_err(|(_, why)| why)?;
            if ts_remote.is_some_and(|remote| remote != address) {
                return Err("its UP address is not in its traffic selectors");
            }
            let session = qos.pdu_session;
            flows = Some(qos);
            (Some(session), address)
        };
        let Some(link) = self.link.as_mut() else {
            return Err("there is no attach");
        };
        if link.inner.is_some_and(|inner| inner != inner_local) {
            return Err("our side of its traffic is not this UE's inner address");
        }
        link.inner = Some(inner_local);
        let taken = |slot: &u32| {
            let mut users = link
                .children
                .values()
                .filter(|child| child.pdu_session.is_some());
            users.any(|child| child.slot == *slot)
        };
        let slot = match pdu_session {
            None => 0,
            Some(_) => (0..u32::MAX).find(|slot| !taken(slot)).unwrap_or(u32::MAX),
        };
        if let Some(id) = pdu_session
            && let Some(session) = link.sessions.get_mut(&id)
            && (session.child.is_none() || flows.as_ref().is_some_and(|flows| flows.default))
        {
            session.child = Some(child.id);
        }
        if child.signalling {
            link.signalling = Some(child.id);
        }
        self.reqids = (self.reqids + 1) % REQIDS;
        let reqid = self.reqids.max(1);
        link.children.insert(
            child.id,
            Child {
                pdu_session,
                dscp: flows.as_ref().and_then(|flows| flows.dscp).unwrap_or(0),
                qfis: flows.map(|flows| flows.qfis).unwrap_or_default(),
                slot,
                inner_remote,
                reqid,
                installed: false,
                up: false,
                replaces: None,
                inbound: false,
                superseded: false,
                drained_at: None,
                expired: false,
                rekey_at: None,
                key_ids: child.key_ids.clone(),
            },
        );
        Ok(Install {
            child,
            inner_local,
            inner_remote,
            pdu_session,
            slot,
            reqid,
            inbound: false,
        })
    }

    fn child_up(&mut self, now: Instant, id: ChildId) {
        let Some(child) = self
            .link
            .as_mut()
            .and_then(|link| link.children.get_mut(&id))
        else {
            return;
        };
        child.up = true;
        if child.replaces.is_some() {
            // It takes over with `ChildSwitched`.
            return;
        }
        match child.pdu_session {
            None => self.signalling_up(now),
            Some(session) => {
                info!(
                    pdu_session = session,
                    child = id.number(),
                    "user-plane Child SA up"
                );
                self.join(session);
                self.tunnels_changed(session);
            }
        }
    }

    /// Tells the relay of Child SAs beside the default one, and of DSCPs, if it has the session.
    fn tunnels_changed(&mut self, id: u8) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let further = link.further(id);
        let session = link.sessions.get_mut(&id);
        let Some(session) = session else {
            return;
        };
        let child = session.child.and_then(|child| link.children.get(&child));
        let dscp = child.map_or(0, |child| child.dscp);
        let interface = session.interface.as_mut();
        let changed = |own: &&mut SessionInterface| own.further != further || own.dscp != dscp;
        if let Some(interface) = interface.filter(changed) {
            interface.dscp = dscp;
            interface.further.clone_from(&further);
            self.actions
                .push_back(Action::SetTunnels { id, dscp, further });
        }
    }

    /// A Child SA is gone, and with it the way of what it carried.
    pub(super) fn child_gone(&mut self, id: ChildId) {
        let drained = self.drained_with(id);
        let Some(child) = self
            .link
            .as_mut()
            .and_then(|link| link.children.remove(&id))
        else {
            return;
        };
        match child.pdu_session {
            // The end of the IKE SA may follow, and is then the better reason.
            None => {
                if let Some(link) = self.link.as_mut()
                    && link.signalling.take_if(|current| *current == id).is_some()
                {
                    link.signalling_lost = true;
                }
            }
            Some(pdu_session) => {
                let session = self
                    .link
                    .as_mut()
                    .and_then(|l| l.sessions.get_mut(&pdu_session));
                if let Some(session) = session.filter(|session| session.child == Some(id)) {
                    session.child = None;
                    session.up = false;
                    if session.interface.take().is_some() {
                        self.actions.push_back(Action::RemoveSession(pdu_session));
                    }
                    session.failure = Some("its Child SA is gone".to_owned());
                } else {
                    // Its flows go by the default one.
                    self.tunnels_changed(pdu_session);
                }
            }
        }
        // One that is being installed would stay, since nobody asks what came of it.
        self.actions.push_back(Action::Remove(id));
        if child.installed && !child.key_ids.is_empty() {
            self.actions.push_back(Action::ReleaseKeys(child.key_ids));
        }
        for old in drained {
            self.child_gone(old);
        }
    }

    /// The interface is made when NAS and IKE are both done with a session.
    fn join(&mut self, id: u8) {
        let mtu = self.config.tunnel_mtu.saturating_sub(GRE_OVERHEAD);
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let further = link.further(id);
        let Some(session) = link.sessions.get_mut(&id) else {
            return;
        };
        let child = session.child.and_then(|child| link.children.get(&child));
        let (Some(accept), Some(child), None) = (&session.accept, child, &session.interface) else {
            return;
        };
        let Some(inner_local) = link.inner.filter(|_| child.up) else {
            return;
        };
        let least = match accept.interface_id {
            Some(_) => LEAST_MTU_IPV6,
            None => LEAST_MTU,
        };
        let interface = SessionInterface {
            accept: accept.clone(),
            mtu: accept.mtu.unwrap_or(mtu).clamp(least, mtu.max(least)),
            inner_local,
            up_address: child.inner_remote,
            slot: child.slot,
            dscp: child.dscp,
            further,
        };
        session.interface = Some(interface.clone());
        session.failure = None;
        self.actions
            .push_back(Action::AddSession(Box::new(interface)));
    }

    fn session_gone(&mut self, now: Instant, id: u8, failure: Option<String>) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let Some(session) = link.sessions.get_mut(&id) else {
            return;
        };
        if session.interface.take().is_some() {
            self.actions.push_back(Action::RemoveSession(id));
        }
        session.child = None;
        *session = Session {
            failure: Some(failure.unwrap_or_else(|| "released".to_owned())),
            ..Session::default()
        };
        // The N3IWF usually deletes it; a delete of ours that crosses it does no harm.
        if link.ending.is_some() {
            return;
        }
        let sa = link.sa;
        let all = link.children.iter();
        let own = all.filter(|(_, child)| child.pdu_session == Some(id) && !child.superseded);
        let own: Vec<ChildId> = own.map(|(child, _)| *child).collect();
        for child in own {
            self.endpoint.delete_child(now, sa, child);
        }
    }
}

impl Link {
    /// The Child SAs of a session that are up, beside its default one.
    fn further(&self, id: u8) -> Vec<FurtherChild> {
        let default = self.sessions.get(&id).and_then(|session| session.child);
        let default = default.and_then(|child| self.children.get(&child));
        let default = default.map(|child| child.slot);
        let mut further: Vec<FurtherChild> = Vec::new();
        for child in self.children.values() {
            let known = further.iter().any(|other| other.slot == child.slot);
            if child.pdu_session == Some(id)
                && child.up
                && Some(child.slot) != default
                && !known
                && child.drained_at.is_none()
            {
                further.push(FurtherChild {
                    slot: child.slot,
                    qfis: child.qfis.clone(),
                    dscp: child.dscp,
                });
            }
        }
        further
    }
}

/// The address a set of selectors means, when it means exactly one.
fn single(selectors: &[TrafficSelector]) -> Option<IpAddr> {
    match selectors {
        [one] if one.start == one.end => Some(one.start),
        _ => None,
    }
}
