//! Rekeyed SAs (RFC 7296, 1.3.2, 1.3.3 and 2.8): the session stays, what carries it changes.
//!
//! A new Child SA has the reqid of the one it replaces, so policies and relay stay as they are.
//! Whoever began the rekey sends through it at once; the other end when the old one is deleted. The
//! old one stays in the data plane for [`CoreTiming::drain`](super::CoreTiming), since packets that
//! left through it may arrive after its Delete.

use ike::{
    ChildFailure, ChildId, Instant, SaId,
    wire::{Notify, NotifyType},
};
use keys::KeyId;
use tracing::{info, warn};

use super::{
    N3iwf,
    types::{Action, Child, ChildState, Command, IkeState, Ue},
};
use crate::ngap::{Cause, CauseRadioNetwork};

impl Ue {
    /// Child SAs in the data plane that are not replaced.
    pub(super) fn in_use(&self) -> impl Iterator<Item = ChildId> {
        let in_use = |entry: &Child| entry.state == ChildState::Installed && !entry.superseded;
        let children = self.children.iter();
        children
            .filter(move |(_, entry)| in_use(entry))
            .map(|(id, _)| *id)
    }
}

impl Ue {
    /// The same with those that the data plane is installing: it does one thing after the other.
    pub(super) fn in_data_plane(&self) -> impl Iterator<Item = ChildId> {
        let installing = |entry: &Child| entry.state == ChildState::Installing;
        let children = self.children.iter();
        let coming = children.filter(move |(_, entry)| installing(entry));
        self.in_use().chain(coming.map(|(id, _)| *id))
    }
}

impl N3iwf {
    /// Packets leave through `to` from now on.
    pub(super) fn child_switched(&mut self, sa: SaId, from: ChildId, to: ChildId) {
        let Some(ue) = self.ue_of(sa) else {
            return;
        };
        if ue.signalling == Some(from) {
            ue.signalling = Some(to);
        }
        for session in ue.sessions.values_mut() {
            if let Some(place) = session.place_of(from) {
                *place = Some(to);
            }
        }
        if let Some(old) = ue.children.get_mut(&from) {
            old.superseded = true;
        }
        let held_back = ue
            .children
            .get_mut(&to)
            .is_some_and(|new| std::mem::take(&mut new.inbound));
        info!(ue = ue.number, %from, %to, "Child SA rekeyed");
        if held_back {
            self.actions.push_back(Action::SwitchSa { child: to });
        }
    }

    /// Whether the Child SA that went down is one that was replaced: it is removed a little later.
    pub(super) fn drain(&mut self, now: Instant, number: u32, child: ChildId) -> bool {
        let until = now + self.config.timing.drain;
        let entry = self
            .ues
            .get_mut(&number)
            .filter(|ue| ue.ike == IkeState::Up)
            .and_then(|ue| ue.children.get_mut(&child))
            .filter(|entry| entry.superseded && entry.state == ChildState::Installed);
        if let Some(entry) = entry {
            entry.state = ChildState::Draining(until);
            self.rekey_timers.insert((until, child));
            return true;
        }
        false
    }

    /// Removes a Child SA together with those it had replaced: its traffic is over.
    pub(super) fn remove_with_drained(&mut self, number: u32, child: ChildId) {
        let Some(ue) = self.ues.get(&number) else {
            return;
        };
        let reqid = ue.children.get(&child).map(|entry| entry.reqid);
        let drained = ue.children.iter().filter(|(_, entry)| {
            Some(entry.reqid) == reqid && matches!(entry.state, ChildState::Draining(_))
        });
        let mut gone: Vec<ChildId> = drained.map(|(id, _)| *id).collect();
        gone.push(child);
        for child in gone {
            self.remove_child(number, child);
        }
    }

    pub(super) fn child_rekey_failed(
        &mut self,
        now: Instant,
        sa: SaId,
        child: ChildId,
        reason: ChildFailure,
    ) {
        let retry = now + self.config.timing.rekey_retry;
        let Some(ue) = self.ue_of(sa) else {
            return;
        };
        warn!(ue = ue.number, %child, ?reason, "Child SA was not rekeyed");
        if let Some(entry) = ue.children.get_mut(&child)
            && entry.expired
        {
            entry.rekey_at = Some(retry);
            self.rekey_timers.insert((retry, child));
        }
    }

    pub(super) fn ike_rekeyed(&mut self, sa: SaId, replaced: Vec<KeyId>) {
        if let Some(ue) = self.ue_of(sa) {
            info!(ue = ue.number, "IKE SA rekeyed");
        }
        if !replaced.is_empty() {
            let ids = replaced;
            self.actions.push_back(Action::ReleaseKeys { ids });
        }
    }

    /// AUTH_LIFETIME for the last IKE_AUTH response (RFC 4478): the authentication begins to age.
    pub(super) fn auth_lifetime(&mut self, now: Instant, number: u32) -> Option<Notify> {
        let lifetime = self.config.timing.authentication?;
        self.auth_timers.insert((now + lifetime, number));
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        let data = seconds.to_be_bytes().to_vec();
        Some(Notify::status(NotifyType::AUTH_LIFETIME, data))
    }

    /// Ends IKE SAs whose UEs have not attached anew in time.
    pub(super) fn authentications_over(&mut self, now: Instant) {
        let Some(lifetime) = self.config.timing.authentication else {
            return;
        };
        while let Some((at, number)) = self.auth_timers.pop_first() {
            if at > now {
                self.auth_timers.insert((at, number));
                return;
            }
            // The number may have been given to another UE since.
            let theirs = |ue: &&mut Ue| ue.since + lifetime <= now;
            let ue = self.ues.get_mut(&number).filter(theirs);
            if ue.is_some_and(|ue| matches!(ue.ike, IkeState::Finishing | IkeState::Up)) {
                warn!(ue = number, "the authentication is too old");
                let cause = CauseRadioNetwork::release_due_to_ngran_generated_reason;
                self.release_now(now, number, Cause::radioNetwork(cause));
            }
        }
    }

    /// Whose Child SA this is: the IKE SA, by the number the data plane knows.
    pub fn owner(&self, child: u64) -> Option<SaId> {
        let (_, number) = self.child_of_number(child)?;
        self.ues.get(&number).map(|ue| ue.sa)
    }

    fn child_of_number(&self, child: u64) -> Option<(ChildId, u32)> {
        let id = ChildId::from_number(child);
        self.by_child.get(&id).map(|number| (id, *number))
    }

    /// The kernel reports a limit of a Child SA: at a soft one it is rekeyed, at a hard one it ends.
    pub fn child_expired(&mut self, child: u64, hard: bool) {
        let Some((id, number)) = self.child_of_number(child) else {
            return;
        };
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        let sa = ue.sa;
        let entry = ue.children.get_mut(&id);
        let Some(entry) = entry.filter(|entry| !entry.superseded) else {
            return;
        };
        self.touched = Some(sa);
        if hard {
            warn!(ue = number, child, "a Child SA reached its hard limit");
            self.commands
                .push_back(Command::DeleteChild { sa, child: id });
        } else if !std::mem::replace(&mut entry.expired, true) {
            info!(ue = number, child, "a Child SA reached its soft limit");
            self.commands
                .push_back(Command::RekeyChild { sa, child: id });
        }
    }

    /// What of a UE an operator may rekey: its IKE SA and the Child SAs in use, by number.
    pub fn rekeyable(&self, number: u32) -> Option<(SaId, Vec<ChildId>)> {
        let ue = self.ues.get(&number).filter(|ue| ue.ike == IkeState::Up)?;
        let mut children: Vec<ChildId> = ue.in_use().collect();
        children.sort_unstable();
        Some((ue.sa, children))
    }

    pub(super) fn next_rekey(&self) -> Option<Instant> {
        let rekey = self.rekey_timers.first().map(|(at, _)| *at);
        let auth = self.auth_timers.first().map(|(at, _)| *at);
        rekey.into_iter().chain(auth).min()
    }

    /// Removes what has drained and tries again what failed. A timer whose Child SA is gone, or has
    /// been put off, means nothing.
    pub(super) fn rekeys_due(&mut self, now: Instant) {
        self.authentications_over(now);
        while let Some((at, id)) = self.rekey_timers.pop_first() {
            if at > now {
                self.rekey_timers.insert((at, id));
                return;
            }
            let Some(number) = self.by_child.get(&id).copied() else {
                continue;
            };
            let Some(ue) = self.ues.get_mut(&number) else {
                continue;
            };
            let Some(child) = ue.children.get_mut(&id) else {
                continue;
            };
            match child.state {
                ChildState::Draining(until) if until <= now => self.remove_child(number, id),
                ChildState::Installed if child.rekey_at.is_some_and(|at| at <= now) => {
                    child.rekey_at = None;
                    let (sa, child) = (ue.sa, id);
                    self.commands.push_back(Command::RekeyChild { sa, child });
                }
                _ => {}
            }
        }
    }
}
