//! Rekeying of Child SAs (RFC 7296 1.3.3, 2.8, 2.25.1).
//!
//! The new SA stands beside the old one, with the same traffic and the same meaning to the daemon; whoever began the
//! exchange deletes the old one then. When both ends begin at once, four nonces are on the table, and the SA made with
//! the lowest of them is closed by the end that asked for it.

use super::{
    Command, Cx, Denial, Sa,
    child::{Child, ChildState},
};
use crate::{
    config::Profile,
    event::{ChildFailure, ChildId, CommandError, Event},
    wire::{Notify, NotifyType, Protocol},
};

impl Sa {
    /// Begins a rekey.
    pub(crate) fn rekey_child(
        &mut self,
        cx: &mut Cx<'_>,
        id: ChildId,
    ) -> Result<ChildId, CommandError> {
        if !self.is_established() {
            return Err(CommandError::NotEstablished);
        }
        // The paper has no nonces in CREATE_CHILD_SA, without which collisions cannot be resolved.
        if self.profile() == Profile::Paper || self.never_rekeys(cx.config) {
            return Err(CommandError::NotInThisMode);
        }
        let Some(old) = self
            .children
            .get(&id)
            .filter(|old| old.state == ChildState::Up && !self.is_succeeded(id))
        else {
            return Err(CommandError::UnknownChild);
        };
        let (token, signalling) = (old.token, old.signalling);
        let (ts_local, ts_remote) = (old.ts_local.clone(), old.ts_remote.clone());
        let (own, peer) = (old.own_notifies.clone(), old.peer_notifies.clone());
        let new = cx.ids.child();
        let mut child = Child::new(cx, new, ChildState::Queued);
        child.replaces = Some(id);
        child.token = token;
        child.signalling = signalling;
        child.ts_local = ts_local;
        child.ts_remote = ts_remote;
        child.peer_notifies = peer;
        if !signalling {
            child.own_notifies = own;
        }
        self.begin_child(cx, child);
        self.pump(cx);
        Ok(new)
    }

    /// Whether something is, or is about to be, in this Child SA's place.
    pub(super) fn is_succeeded(&self, old: ChildId) -> bool {
        self.children
            .values()
            .any(|child| child.replaces == Some(old))
    }

    /// Whether a queued exchange still makes sense: the old SA is in use, and the peer has not rekeyed it meanwhile.
    pub(super) fn still_wanted(&self, id: ChildId) -> bool {
        let Some(old) = self.children.get(&id).and_then(|child| child.replaces) else {
            return true;
        };
        let in_use = self
            .children
            .get(&old)
            .is_some_and(|old| old.state == ChildState::Up);
        let rival = self
            .children
            .values()
            .any(|child| child.id != id && child.replaces == Some(old));
        in_use && !rival
    }

    /// REKEY_SA for the request that makes this Child SA, if it replaces one.
    pub(super) fn rekey_notify(&self, id: ChildId) -> Option<Notify> {
        let old = self.children.get(&id)?.replaces?;
        let spi = self.children.get(&old)?.spi_in;
        Some(Notify::about_esp(NotifyType::REKEY_SA, spi, Vec::new()))
    }

    /// The Child SA the peer wants to rekey.
    pub(super) fn rekeyed_child(
        &mut self,
        cx: &mut Cx<'_>,
        notify: &Notify,
    ) -> Result<ChildId, Denial> {
        let deny = |kind| Denial {
            answer: Notify::status(kind, Vec::new()),
            fatal: None,
        };
        let refused = !cx.config.lifetimes.from_peer || self.never_rekeys(cx.config);
        if self.profile() == Profile::Paper || refused {
            return Err(deny(NotifyType::NO_ADDITIONAL_SAS));
        }
        let not_found = Denial {
            answer: Notify {
                protocol: Protocol::ESP,
                spi: notify.spi.clone(),
                kind: NotifyType::CHILD_SA_NOT_FOUND,
                data: Vec::new(),
            },
            fatal: None,
        };
        let Some(spi) = notify.esp_spi() else {
            return Err(Denial::syntax("REKEY_SA without an ESP SPI"));
        };
        let old = self
            .children
            .values()
            .find(|child| child.spi_out == spi && child.spi_out != 0);
        let Some((id, state)) = old.map(|old| (old.id, old.state.clone())) else {
            // The response that made it may still be on its way to us.
            return Err(match self.current {
                Some(Command::CreateChild(_)) => deny(NotifyType::TEMPORARY_FAILURE),
                _ => not_found,
            });
        };
        if state != ChildState::Up {
            return Err(deny(NotifyType::TEMPORARY_FAILURE));
        }
        let master = self.is_master();
        let rival = self
            .children
            .values()
            .find(|child| child.replaces == Some(id))
            .map(|rival| (rival.id, rival.ours, rival.state.clone()));
        match rival {
            None => {}
            // A collision: answered as usual, resolved when our answer arrives.
            Some((_, true, ChildState::Requested)) => {}
            // Not sent yet, so it need not be.
            Some((rival, true, ChildState::Queued)) => self.withdraw(cx, rival),
            Some((rival, true, ChildState::AwaitKeys(_))) if master => self.withdraw(cx, rival),
            Some(_) => return Err(deny(NotifyType::TEMPORARY_FAILURE)),
        }
        Ok(id)
    }

    fn withdraw(&mut self, cx: &mut Cx<'_>, id: ChildId) {
        self.queue
            .retain(|command| *command != Command::CreateChild(id));
        self.fail_child(cx, id, ChildFailure::Superseded);
    }

    /// Whether the peer rekeyed the same SA at the same time and ours has the lowest nonce, so that ours goes.
    pub(super) fn lost_collision(&self, id: ChildId) -> bool {
        let Some(ours) = self.children.get(&id).filter(|c| c.replaces.is_some()) else {
            return false;
        };
        let lowest = |child: &Child| child.nonce_i.clone().min(child.nonce_r.clone());
        self.children
            .values()
            .filter(|other| !other.ours && other.replaces == ours.replaces)
            .any(|other| lowest(ours) < lowest(other))
    }

    /// A new SA is up: if this side began the rekey, the old one goes.
    pub(super) fn take_over(&mut self, cx: &mut Cx<'_>, id: ChildId) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        let (ours, sa) = (child.ours, self.id);
        let Some(from) = child.replaces else {
            return;
        };
        let Some(old) = self.children.get_mut(&from) else {
            return;
        };
        // Its hard lifetime stays, in case the peer never deletes it.
        old.life.soft = None;
        if !ours {
            return;
        }
        cx.events
            .push_back(Event::ChildSwitched { sa, from, to: id });
        if old.state == ChildState::Up {
            old.state = ChildState::Deleting;
            self.queue.push_back(Command::DeleteChild(from));
        }
    }

    /// The peer deletes a Child SA: if it had rekeyed it, the other one is to be used from now on.
    pub(super) fn hand_over(&mut self, cx: &mut Cx<'_>, from: ChildId) {
        let sa = self.id;
        let heir = self
            .children
            .values()
            .find(|child| child.replaces == Some(from) && child.state == ChildState::Up);
        if let Some(to) = heir.filter(|heir| !heir.ours).map(|heir| heir.id) {
            cx.events.push_back(Event::ChildSwitched { sa, from, to });
        }
    }

    /// Who deletes a Child SA means its traffic, so what is to replace it goes as well.
    pub(super) fn delete_successors(&mut self, cx: &mut Cx<'_>, old: ChildId) {
        let heirs: Vec<ChildId> = self
            .children
            .values()
            .filter(|child| child.replaces == Some(old))
            .map(|child| child.id)
            .collect();
        for id in heirs {
            if let Some(child) = self.children.get_mut(&id) {
                child.doomed = true;
            }
            self.delete_child(cx, id);
        }
    }

    /// What was to replace `old` is not to be.
    pub(super) fn rekey_failed(&mut self, cx: &mut Cx<'_>, old: ChildId, reason: ChildFailure) {
        let succeeded = self.is_succeeded(old);
        let Some(child) = self.children.get_mut(&old) else {
            return;
        };
        if succeeded || reason == ChildFailure::Superseded {
            return;
        }
        if child.life.soft.is_none() {
            child.life.retry(cx);
        }
        let (sa, child) = (self.id, old);
        cx.events
            .push_back(Event::ChildRekeyFailed { sa, child, reason });
    }
}
