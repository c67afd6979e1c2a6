//! Rekeyed SAs (RFC 7296, 1.3.2, 1.3.3 and 2.8): the session stays, what carries it changes.
//!
//! A new Child SA has slot and reqid of the one it replaces, so policies and interfaces stay as they
//! are. Whoever began the rekey sends through it at once; the other end when the old one is deleted.
//! The old one stays in the data plane for [`DRAIN`], since packets that left through it may arrive
//! after its Delete.

use std::time::Duration;

use ike::{
    ChildFailure, ChildId, ChildSa, Instant,
    wire::{Notify, NotifyType},
};
use keys::KeyId;
use tracing::{debug, info, warn};

use super::{Action, Child, Install, Link, Ue};

/// How long a Child SA that was replaced stays for packets on their way.
const DRAIN: Duration = Duration::from_secs(5);
/// Wait before a Child SA at a soft limit is rekeyed again when that failed.
const RETRY: Duration = Duration::from_secs(10);

impl Link {
    pub(super) fn next_rekey(&self) -> Option<Instant> {
        let children = self.children.values();
        children
            .filter_map(|child| child.drained_at.or(child.rekey_at))
            .chain(self.renew_at)
            .min()
    }
}

impl Ue {
    /// Where a Child SA goes that takes over from another.
    pub(super) fn place_rekeyed(
        &mut self,
        child: Box<ChildSa>,
        old: ChildId,
    ) -> Result<Install, &'static str> {
        let link = self.link.as_mut().ok_or("there is no attach")?;
        let inner_local = link.inner.ok_or("there is no inner address")?;
        let old_one = link.children.get(&old);
        let old_one = old_one.ok_or("what it replaces is not here")?;
        let inbound = !child.role_initiator;
        let new = Child {
            replaces: Some(old),
            inbound,
            installed: false,
            up: false,
            superseded: false,
            drained_at: None,
            expired: false,
            rekey_at: None,
            key_ids: child.key_ids.clone(),
            qfis: old_one.qfis.clone(),
            ..*old_one
        };
        let install = Install {
            inner_local,
            inner_remote: new.inner_remote,
            pdu_session: new.pdu_session,
            slot: new.slot,
            reqid: new.reqid,
            inbound,
            child,
        };
        link.children.insert(install.child.id, new);
        Ok(install)
    }

    /// Packets leave through `to` from now on.
    pub(super) fn child_switched(&mut self, from: ChildId, to: ChildId) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        if link.signalling == Some(from) {
            link.signalling = Some(to);
        }
        for session in link.sessions.values_mut() {
            if session.child == Some(from) {
                session.child = Some(to);
            }
        }
        if let Some(old) = link.children.get_mut(&from) {
            old.superseded = true;
        }
        info!(%from, %to, "Child SA rekeyed");
        let new = link.children.get_mut(&to);
        if new.is_some_and(|new| std::mem::take(&mut new.inbound)) {
            self.actions.push_back(Action::Switch(to));
        }
    }

    /// Whether the Child SA that went down is one that was replaced: it is removed a little later.
    pub(super) fn drain(&mut self, now: Instant, child: ChildId) -> bool {
        let ending = self
            .link
            .as_ref()
            .is_none_or(|link| link.ending.as_ref().is_some_and(|ending| ending.closing));
        let link = self.link.as_mut().filter(|_| !ending);
        let child = link.and_then(|link| link.children.get_mut(&child));
        let child = child.filter(|child| child.superseded && child.installed);
        if let Some(child) = child {
            child.drained_at = Some(now + DRAIN);
            return true;
        }
        false
    }

    /// What this Child SA had replaced and is still there: it has no reason to stay longer.
    pub(super) fn drained_with(&self, id: ChildId) -> Vec<ChildId> {
        let Some(link) = self.link.as_ref() else {
            return Vec::new();
        };
        let Some(child) = link.children.get(&id).filter(|child| !child.superseded) else {
            return Vec::new();
        };
        let drained = link
            .children
            .iter()
            .filter(|(_, other)| other.drained_at.is_some() && other.reqid == child.reqid);
        drained.map(|(id, _)| *id).collect()
    }

    pub(super) fn child_rekey_failed(
        &mut self,
        now: Instant,
        child: ChildId,
        reason: ChildFailure,
    ) {
        warn!(%child, ?reason, "Child SA was not rekeyed");
        let Some(link) = self.link.as_mut() else {
            return;
        };
        // What was to take over is not in the data plane.
        link.children
            .retain(|_, new| new.installed || new.replaces != Some(child));
        if let Some(child) = link.children.get_mut(&child)
            && child.expired
        {
            child.rekey_at = Some(now + RETRY);
        }
    }

    pub(super) fn ike_rekeyed(&mut self, replaced: Vec<KeyId>) {
        info!("IKE SA rekeyed");
        if !replaced.is_empty() {
            self.actions.push_back(Action::ReleaseKeys(replaced));
        }
    }

    pub(super) fn rekey_ike(&mut self, now: Instant) -> Result<(), String> {
        let link = self.link.as_ref().ok_or("the UE is not attached")?;
        let begun = self.endpoint.rekey_ike(now, link.sa);
        begun.map_err(|error| error.to_string())
    }

    pub(super) fn rekey_children(&mut self, now: Instant, one: Option<u64>) -> Result<(), String> {
        let link = self.link.as_ref().ok_or("the UE is not attached")?;
        let sa = link.sa;
        let in_use = |child: &Child| child.up && !child.superseded;
        let wanted: Vec<ChildId> = link
            .children
            .iter()
            .filter(|(id, child)| in_use(child) && one.is_none_or(|one| id.number() == one))
            .map(|(id, _)| *id)
            .collect();
        if wanted.is_empty() {
            return Err(match one {
                Some(one) => format!("there is no Child SA {one} in use"),
                None => "there is no Child SA in use".to_owned(),
            });
        }
        for child in wanted {
            let begun = self.endpoint.rekey_child(now, sa, child);
            begun.map_err(|error| format!("Child SA {child}: {error}"))?;
        }
        Ok(())
    }

    /// The kernel reports a limit of a Child SA: at a soft one it is rekeyed, at a hard one it ends.
    pub fn child_expired(&mut self, now: Instant, number: u64, hard: bool) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let sa = link.sa;
        let found = link
            .children
            .iter_mut()
            .find(|(id, child)| id.number() == number && !child.superseded);
        let Some((id, child)) = found.map(|(id, child)| (*id, child)) else {
            return;
        };
        if hard {
            warn!(child = number, "a Child SA reached its hard limit");
            self.endpoint.delete_child(now, sa, id);
        } else if !std::mem::replace(&mut child.expired, true) {
            info!(child = number, "a Child SA reached its soft limit");
            self.rekey_again(now, id);
        }
        self.drive(now);
    }

    pub(super) fn rekeys_due(&mut self, now: Instant) {
        self.renew(now);
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let mut drained = Vec::new();
        let mut again = Vec::new();
        for (id, child) in &mut link.children {
            if child.drained_at.is_some_and(|at| at <= now) {
                drained.push(*id);
            } else if child.rekey_at.take_if(|at| *at <= now).is_some() {
                again.push(*id);
            }
        }
        for child in drained {
            self.child_gone(child);
        }
        for child in again {
            self.rekey_again(now, child);
        }
    }

    /// AUTH_LIFETIME of the N3IWF: the UE attaches anew when four fifths of it, or a little more,
    /// are over.
    pub(super) fn note_auth_lifetime(&mut self, now: Instant, notifies: &[Notify]) {
        let mut notifies = notifies.iter();
        let notify = notifies.find(|notify| notify.kind == NotifyType::AUTH_LIFETIME);
        let seconds = notify.and_then(|notify| <[u8; 4]>::try_from(notify.data.as_slice()).ok());
        let Some(seconds) = seconds
            .map(u32::from_be_bytes)
            .filter(|seconds| *seconds > 0)
        else {
            return;
        };
        let share = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        let wait = Duration::from_secs(seconds.into()).mul_f64(0.8 + share / 10.0);
        info!(seconds, "the authentication has a lifetime");
        if let Some(link) = self.link.as_mut() {
            link.renew_at = Some(now + wait);
        }
    }

    /// Deregisters and attaches again: a new IKE SA with a new authentication.
    pub(super) fn renew(&mut self, now: Instant) {
        let registered = self.nas.is_registered();
        let Some(link) = self.link.as_mut() else {
            return;
        };
        if link.renew_at.take_if(|at| *at <= now).is_none() || link.ending.is_some() {
            return;
        }
        info!("attaching anew, the authentication grows old");
        link.renewing = true;
        if registered && link.nas.connected {
            self.nas.deregister(now.since_origin(), false);
        } else {
            self.end(now, None, true);
        }
    }

    fn rekey_again(&mut self, now: Instant, child: ChildId) {
        let Some(link) = self.link.as_ref() else {
            return;
        };
        if let Err(error) = self.endpoint.rekey_child(now, link.sa, child) {
            debug!(%child, %error, "nothing to rekey");
        }
    }
}
