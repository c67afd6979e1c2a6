//! CREATE_CHILD_SA begun by the peer (RFC 7296 1.3.1).

use super::{
    Cx, Denial, Phase, Sa,
    child::{Child, ChildState},
    child_create::KeySource,
    child_exchange::ChildExchange,
    keys as key_material, selectors,
};
use crate::{
    crypto::ChildSuite,
    event::{ChildAnswer, ChildFailure, ChildId, Event},
    wire::{Notify, NotifyType, Payload, find_notify},
};

impl Sa {
    /// A CREATE_CHILD_SA request. Whatever is wrong with it fails the Child SA, not the IKE SA.
    pub(super) fn child_request(
        &mut self,
        cx: &mut Cx<'_>,
        payloads: &[Payload],
    ) -> Result<(), Denial> {
        let deny = |kind| Denial {
            answer: Notify::status(kind, Vec::new()),
            fatal: None,
        };
        if !matches!(self.phase, Phase::Established) {
            return Err(deny(NotifyType::TEMPORARY_FAILURE));
        }
        self.refuse_foreign_ppks(payloads)?;
        let mut offer = None;
        let mut nonce = None;
        let mut ts_i = None;
        let mut ts_r = None;
        let mut ke = None;
        for payload in payloads {
            match payload {
                Payload::Sa(sa) => offer = Some(sa),
                Payload::Ke { method, data } => ke = Some((*method, data.as_slice())),
                Payload::Nonce(octets) => nonce = Some(octets.clone()),
                Payload::TsI(list) => ts_i = Some(list.clone()),
                Payload::TsR(list) => ts_r = Some(list.clone()),
                _ => {}
            }
        }
        let (Some(offer), Some(mut ts_i), Some(mut ts_r)) = (offer, ts_i, ts_r) else {
            return Err(deny(NotifyType::NO_ADDITIONAL_SAS));
        };
        let replaces = match find_notify(payloads, NotifyType::REKEY_SA) {
            Some(notify) => Some(self.rekeyed_child(cx, notify)?),
            None => None,
        };
        let old = replaces.and_then(|old| self.children.get(&old));
        if let Some(old) = old {
            ts_r = selectors::narrow(&ts_r, &old.ts_local);
            ts_i = selectors::narrow(&ts_i, &old.ts_remote);
        }
        let inherited = old.map(|old| (old.token, old.signalling, old.peer_notifies.clone()));
        let own_nonce = match (key_material::child_nonce_len(self.profile()), &nonce) {
            (Some(_), None) => return Err(Denial::syntax("CREATE_CHILD_SA without a Nonce")),
            (Some(len), Some(_)) => cx.random(len),
            (None, _) => Vec::new(),
        };
        let selection = ChildSuite::select(&self.esp_suites, offer)
            .and_then(|selection| Some((selection.proposal.esp_spi()?, selection)));
        let Some((spi_out, selection)) = selection else {
            return Err(deny(NotifyType::NO_PROPOSAL_CHOSEN));
        };
        if ts_i.is_empty() || ts_r.is_empty() {
            return Err(deny(NotifyType::TS_UNACCEPTABLE));
        }
        let exchange = ChildExchange::respond(selection.suite.ke, ke, cx.rng)?;
        let named = find_notify(payloads, self.naming_kind());
        if self.child_key_count(replaces.is_some()) > 0 && !self.is_master() {
            let usable = match named {
                Some(notify) => self.read_naming(notify).is_ok(),
                None => replaces.is_none() && self.user_keys.is_some(),
            };
            if !usable {
                return Err(deny(NotifyType::INVALID_SYNTAX));
            }
        }
        let id = cx.ids.child();
        let mut child = Child::new(cx, id, ChildState::Asked);
        child.spi_out = spi_out;
        child.suite = Some(selection.suite.esp);
        child.exchange = exchange;
        child.answer = Some(selection.answer(child.spi_in.to_be_bytes().to_vec()));
        child.nonce_i = nonce.unwrap_or_default();
        child.nonce_r = own_nonce;
        child.ts_remote = ts_i;
        child.ts_local = ts_r;
        child.peer_notifies = key_material::foreign_notifies(payloads);
        child.named = named.cloned();
        if let Some((token, signalling, notifies)) = inherited {
            child.replaces = replaces;
            child.token = token;
            child.signalling = signalling;
            if child.peer_notifies.is_empty() {
                child.peer_notifies = notifies;
            }
            self.children.insert(id, Box::new(child));
            self.answering = Some(id);
            // The daemon consented to this traffic when it consented to the old one.
            self.answer_child(cx, id, Ok(ChildAnswer::default()));
            return Ok(());
        }
        cx.events.push_back(Event::ChildRequested {
            sa: self.id,
            child: id,
            ts_local: child.ts_local.clone(),
            ts_remote: child.ts_remote.clone(),
            notifies: child.peer_notifies.clone(),
        });
        self.children.insert(id, Box::new(child));
        self.answering = Some(id);
        Ok(())
    }

    /// The daemon's decision about the peer's request.
    pub(crate) fn answer_child(
        &mut self,
        cx: &mut Cx<'_>,
        id: ChildId,
        answer: Result<ChildAnswer, NotifyType>,
    ) {
        let master = self.is_master();
        let [first_needs, rekey_needs] = [false, true].map(|rekey| self.child_key_count(rekey) > 0);
        if self.answering != Some(id) {
            return;
        }
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        if child.state != ChildState::Asked {
            return;
        }
        let answer = match answer {
            Ok(_) if !matches!(self.phase, Phase::Established) => {
                Err(NotifyType::TEMPORARY_FAILURE)
            }
            answer => answer,
        };
        match answer {
            Err(kind) => {
                self.respond(cx, &[Notify::status(kind, Vec::new()).into()]);
                self.fail_child(cx, id, ChildFailure::Abandoned);
            }
            Ok(answer) => {
                child.own_notifies = answer.notifies;
                let rekey = child.replaces.is_some();
                let needs = if rekey { rekey_needs } else { first_needs };
                if !needs {
                    self.install_child(cx, id);
                    return self.pump(cx);
                }
                let named = child.named.take();
                let source = match (master, named) {
                    (false, Some(notify)) => self.named_keys(cx, &[notify.into()], rekey),
                    (false, None) => self.named_keys(cx, &[], rekey),
                    (true, _) => match self.user_keys.take_if(|_| !rekey) {
                        Some(keys) => Ok(KeySource::Held(keys)),
                        None => {
                            let state = self.allocate(cx);
                            if let Some(child) = self.children.get_mut(&id) {
                                child.state = state;
                            }
                            return;
                        }
                    },
                };
                let Some(child) = self.children.get_mut(&id) else {
                    return;
                };
                match source {
                    Ok(KeySource::Held(keys)) => {
                        child.give_keys(keys);
                        self.install_child(cx, id);
                    }
                    Ok(KeySource::Asked(request, named)) => {
                        child.expect(named);
                        child.state = ChildState::AwaitKeys(request);
                    }
                    Err(failure) => {
                        let refusal = Notify::status(NotifyType::INVALID_SYNTAX, Vec::new());
                        self.respond(cx, &[refusal.into()]);
                        self.fail_child(cx, id, failure);
                    }
                }
            }
        }
        self.pump(cx);
    }

    /// Answers the peer: the Child SA is installed here, or IKE_FOLLOWUP_KE is to come.
    pub(super) fn grant_child(&mut self, cx: &mut Cx<'_>, id: ChildId) {
        self.answering = None;
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let ke = child.exchange.next_answer(cx);
        let Some(answer) = child.answer.take() else {
            // CREATE_CHILD_SA was answered before.
            return self.respond(cx, &ke);
        };
        let mut payloads = vec![Payload::Sa(answer)];
        if !child.nonce_r.is_empty() {
            payloads.push(Payload::Nonce(child.nonce_r.clone()));
        }
        payloads.extend(ke);
        payloads.extend([
            Payload::TsI(child.ts_remote.clone()),
            Payload::TsR(child.ts_local.clone()),
        ]);
        payloads.extend(child.own_notifies.iter().cloned().map(Payload::Notify));
        payloads.extend(child.naming.take().map(Payload::Notify));
        self.respond(cx, &payloads);
    }
}
