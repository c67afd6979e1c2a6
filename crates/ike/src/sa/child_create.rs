//! CREATE_CHILD_SA begun by this side (RFC 7296 1.3.1), and where the keys of a further Child SA come from.
//!
//! Keys in mode `qkd`: the N3IWF (responder of the IKE SA) is master and decides. Its message that makes a Child SA
//! either names fresh keys ([`naming`](super::naming)) or means those that IKE_SA_INIT named for the first user-plane
//! Child SA.

use keys::QkdKey;

use super::{
    Command, Cx, Sa,
    child::{Child, ChildState},
    keys as key_material, ledger,
    naming::{Named, Proof},
    selectors,
};
use crate::{
    config::Mode,
    crypto::ChildSuite,
    event::{
        ChildFailure, ChildId, CommandError, Event, KeyRequestId, KeysWanted, NewChild, QkdFailure,
    },
    wire::{ExchangeType, NotifyType, Payload, notifies},
};

/// Where the slave's keys come from.
pub(super) enum KeySource {
    /// They were named in IKE_SA_INIT and are here.
    Held(Vec<QkdKey>),
    /// The KMS is being asked for these.
    Asked(KeyRequestId, Named),
}

impl Sa {
    /// Begins a further Child SA.
    pub(crate) fn create_child(
        &mut self,
        cx: &mut Cx<'_>,
        new: NewChild,
    ) -> Result<ChildId, CommandError> {
        if !self.is_established() {
            return Err(CommandError::NotEstablished);
        }
        let id = cx.ids.child();
        let mut child = Child::new(cx, id, ChildState::Queued);
        child.token = new.token;
        child.ts_local = new.ts_local;
        child.ts_remote = new.ts_remote;
        child.own_notifies = new.notifies;
        self.begin_child(cx, child);
        self.pump(cx);
        Ok(id)
    }

    /// Queues the exchange that makes a Child SA, when there are keys for it.
    pub(super) fn begin_child(&mut self, cx: &mut Cx<'_>, mut child: Child) {
        let id = child.id;
        child.ours = true;
        if self.child_key_count(child.replaces.is_some()) > 0 && self.is_master() {
            // Keys of IKE_SA_INIT are for a Child SA of its own, never for a rekey.
            let held = match child.replaces {
                None => self.user_keys.take(),
                Some(_) => None,
            };
            match held {
                Some(keys) => child.give_keys(keys),
                None => child.state = self.allocate(cx),
            }
        }
        if child.state == ChildState::Queued {
            self.queue.push_back(Command::CreateChild(id));
        }
        self.children.insert(id, Box::new(child));
    }

    /// Asks the KMS for the keys of one Child SA.
    pub(super) fn allocate(&mut self, cx: &mut Cx<'_>) -> ChildState {
        let request = cx.ids.key_request();
        if let Some(wanted) = self.allocation(self.child_key_count(true)) {
            cx.events.push_back(Event::KeysNeeded {
                sa: self.id,
                request,
                wanted,
            });
        }
        ChildState::AwaitKeys(request)
    }

    /// Asks the KMS for the keys the master named, or takes those of IKE_SA_INIT when it named none.
    pub(super) fn named_keys(
        &mut self,
        cx: &mut Cx<'_>,
        payloads: &[Payload],
        rekey: bool,
    ) -> Result<KeySource, ChildFailure> {
        let Some(named) = self.named(payloads, self.child_key_count(true))? else {
            return match self.user_keys.take_if(|_| !rekey) {
                Some(keys) => Ok(KeySource::Held(keys)),
                None => Err(ChildFailure::InvalidAnswer("no names of keys")),
            };
        };
        let Some(master) = self.peer_sae.clone() else {
            return Err(ChildFailure::Qkd(QkdFailure::UnknownSae));
        };
        let request = cx.ids.key_request();
        let wanted = KeysWanted::Collect {
            master,
            ids: named.ids.clone(),
        };
        cx.events.push_back(Event::KeysNeeded {
            sa: self.id,
            request,
            wanted,
        });
        Ok(KeySource::Asked(request, named))
    }

    pub(super) fn child_waiting_for(&self, request: KeyRequestId) -> Option<ChildId> {
        self.children
            .values()
            .find(|child| child.state == ChildState::AwaitKeys(request))
            .map(|child| child.id)
    }

    /// The KMS's answer for a further Child SA.
    pub(super) fn child_keys(
        &mut self,
        cx: &mut Cx<'_>,
        id: ChildId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) {
        let number = self.child_key_count(true);
        let hybrid = self.mode == Mode::Hybrid;
        let master = self.is_master();
        let prf = self.suite.map(|suite| suite.prf);
        // The master's names of what it has just been given.
        let naming = match &keys {
            Ok(keys) if master => self.name(keys),
            _ => None,
        };
        let Some(child) = self.children.get_mut(&id) else {
            return ledger::lose_unclaimed(self.id, keys.unwrap_or_default(), cx.events);
        };
        let checked = match keys {
            Err(failure) => Err(failure),
            // The slave noted the IDs it asked for.
            Ok(keys) if !master => key_material::in_order(&child.key_ids, keys)
                .and_then(|keys| Proof::check(child.proof.as_ref(), prf, keys))
                .map_err(|unwanted| {
                    ledger::lose_unclaimed(self.id, unwanted, cx.events);
                    QkdFailure::UnknownKey
                }),
            Ok(keys) if keys.len() == number => Ok(keys),
            Ok(keys) => {
                ledger::lose_unclaimed(self.id, keys, cx.events);
                Err(QkdFailure::NoKeys)
            }
        };
        let keys = match checked {
            Ok(keys) => keys,
            Err(failure) => return self.child_without_keys(cx, id, failure),
        };
        match hybrid {
            true => self.ledger.take_ppk(&keys),
            false => self.ledger.take_child(&keys),
        }
        child.naming = match master {
            true => naming,
            false => child.proof.take().map(|proof| proof.consent()),
        };
        child.give_keys(keys);
        if child.ours && master {
            child.state = ChildState::Queued;
            self.queue.push_back(Command::CreateChild(id));
        } else {
            self.install_child(cx, id);
        }
    }

    fn child_without_keys(&mut self, cx: &mut Cx<'_>, id: ChildId, failure: QkdFailure) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        if !child.ours {
            self.respond(cx, &[key_material::unavailable(failure).into()]);
            self.answering = None;
        } else if !self.is_master() {
            // The peer has answered, so it has installed what this side cannot.
            self.queue.push_back(Command::DeleteSpi(child.spi_in));
        }
        self.fail_child(cx, id, ChildFailure::Qkd(failure));
    }

    /// Sends the CREATE_CHILD_SA request.
    pub(super) fn send_child_request(&mut self, cx: &mut Cx<'_>, id: ChildId) {
        let nonce = key_material::child_nonce_len(self.profile()).map(|len| cx.random(len));
        if !self.still_wanted(id) {
            self.current = None;
            return self.fail_child(cx, id, ChildFailure::Superseded);
        }
        let rekeyed = self.rekey_notify(id);
        let ke = self.child_ke(cx, id);
        let suites = &self.esp_suites;
        let Some(child) = self.children.get_mut(&id) else {
            self.current = None;
            return;
        };
        child.state = ChildState::Requested;
        let mut payloads: Vec<Payload> = rekeyed.into_iter().map(Payload::Notify).collect();
        payloads.push(Payload::Sa(ChildSuite::offer(suites, child.spi_in)));
        if let Some(nonce) = nonce {
            child.nonce_i.clone_from(&nonce);
            payloads.push(Payload::Nonce(nonce));
        }
        payloads.extend(ke);
        payloads.extend([
            Payload::TsI(child.ts_local.clone()),
            Payload::TsR(child.ts_remote.clone()),
        ]);
        payloads.extend(child.own_notifies.iter().cloned().map(Payload::Notify));
        payloads.extend(child.naming.clone().map(Payload::Notify));
        self.request(cx, ExchangeType::CreateChildSa, &payloads);
    }

    /// The response to it.
    pub(super) fn child_response(&mut self, cx: &mut Cx<'_>, id: ChildId, payloads: &[Payload]) {
        // When the IKE SA is being deleted, so is whatever the peer has granted.
        if !self.children.contains_key(&id) || !self.is_established() {
            return;
        }
        if self.other_child_method(id, payloads) {
            return;
        }
        if let Err(failure) = self.child_granted(cx, id, payloads) {
            // What the peer granted but this side did not take, the peer is told to delete.
            let granted = payloads
                .iter()
                .any(|payload| matches!(payload, Payload::Sa(_)));
            if granted && let Some(child) = self.children.get(&id) {
                self.queue.push_back(Command::DeleteSpi(child.spi_in));
            }
            let gone = failure == ChildFailure::Refused(NotifyType::CHILD_SA_NOT_FOUND);
            let old = self.children.get(&id).and_then(|child| child.replaces);
            self.fail_child(cx, id, failure);
            // RFC 7296 2.25: the peer has no such Child SA, so neither have we.
            if gone && let Some(old) = old {
                self.drop_child(cx, old, true);
            }
        }
        self.early_deletes.clear();
    }

    fn child_granted(
        &mut self,
        cx: &mut Cx<'_>,
        id: ChildId,
        payloads: &[Payload],
    ) -> Result<(), ChildFailure> {
        self.read_child_answer(id, payloads)?;
        let nonce = payloads.iter().find_map(|payload| match payload {
            Payload::Nonce(nonce) => Some(nonce.clone()),
            _ => None,
        });
        if key_material::child_nonce_len(self.profile()).is_some() && nonce.is_none() {
            return Err(ChildFailure::InvalidAnswer("no Nonce"));
        }
        let Some(child) = self.children.get_mut(&id) else {
            return Err(ChildFailure::Abandoned);
        };
        child.nonce_r = nonce.unwrap_or_default();
        let rekey = child.replaces.is_some();
        let offered = child.key_ids.clone();
        if self.lost_collision(id) {
            return Err(ChildFailure::Superseded);
        }
        self.check_consent(&offered, payloads)?;
        self.finish_child_ke(id, payloads)?;
        let source = match self.is_master() || self.child_key_count(rekey) == 0 {
            true => None,
            false => Some(self.named_keys(cx, payloads, rekey)?),
        };
        let Some(child) = self.children.get_mut(&id) else {
            return Err(ChildFailure::Abandoned);
        };
        match source {
            Some(KeySource::Asked(request, named)) => {
                child.expect(named);
                child.state = ChildState::AwaitKeys(request);
                return Ok(());
            }
            Some(KeySource::Held(keys)) => child.give_keys(keys),
            None => {}
        }
        self.install_child(cx, id);
        Ok(())
    }

    /// Reads SA and Traffic Selectors of a response into the Child SA that asked for them.
    pub(super) fn read_child_answer(
        &mut self,
        id: ChildId,
        payloads: &[Payload],
    ) -> Result<(), ChildFailure> {
        let Some(child) = self.children.get_mut(&id) else {
            return Err(ChildFailure::Abandoned);
        };
        let mut chosen = None;
        let mut ts_i = None;
        let mut ts_r = None;
        for payload in payloads {
            match payload {
                Payload::Sa(sa) => chosen = Some(sa),
                Payload::TsI(list) => ts_i = Some(list),
                Payload::TsR(list) => ts_r = Some(list),
                _ => {}
            }
        }
        let (Some(chosen), Some(ts_i), Some(ts_r)) = (chosen, ts_i, ts_r) else {
            return Err(match notifies(payloads).find(|n| n.kind.is_error()) {
                Some(error) => key_material::child_refusal(error),
                None => ChildFailure::InvalidAnswer("no SA or Traffic Selectors"),
            });
        };
        let plain: Vec<ChildSuite>;
        let suites = match self.established {
            Some(_) => &self.esp_suites,
            None => {
                let suites = key_material::without_exchange(&self.esp_suites);
                plain = suites.into_iter().map(Into::into).collect();
                &plain
            }
        };
        let selection = ChildSuite::accepted(suites, chosen);
        let Some((spi_out, suite)) =
            selection.and_then(|selection| Some((selection.proposal.esp_spi()?, selection.suite)))
        else {
            return Err(ChildFailure::InvalidAnswer(
                "a proposal that was not offered",
            ));
        };
        if !selectors::within(&child.ts_local, ts_i) || !selectors::within(&child.ts_remote, ts_r) {
            return Err(ChildFailure::InvalidAnswer(
                "Traffic Selectors beyond the offer",
            ));
        }
        // Deletes that overtook this answer (see `note_early_delete`).
        if std::mem::take(&mut self.early_deletes).contains(&spi_out) {
            return Err(ChildFailure::Abandoned);
        }
        child.spi_out = spi_out;
        child.suite = Some(suite.esp);
        child.exchange.agreed = suite.ke;
        child.ts_local.clone_from(ts_i);
        child.ts_remote.clone_from(ts_r);
        child.peer_notifies = key_material::foreign_notifies(payloads);
        Ok(())
    }
}
