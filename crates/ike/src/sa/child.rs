//! Child SAs: their states, their keys, and CREATE_CHILD_SA begun by this side (RFC 7296 1.3.1).
//!
//! Keys in mode `qkd`: the N3IWF (responder of the IKE SA) is master and decides. Its message that makes a Child SA
//! either names fresh keys in QKD_KEY_IDS, or, without that notify, means the keys IKE_SA_INIT named for the first
//! user-plane Child SA.

use keys::{KeyId, QkdKey};

use super::{Command, Cx, Phase, Sa, keys as key_material, ledger};
use crate::{
    config::Profile,
    crypto::{EspSuite, qkd as schedule},
    event::{
        ChildFailure, ChildId, ChildSa, CommandError, Event, KeyRequestId, KeysWanted, NewChild,
        QkdFailure,
    },
    time::Instant,
    wire::{
        Delete, ExchangeType, Notify, NotifyType, Payload, SaPayload, TrafficSelector, find_notify,
        qkd::{KeyIdFormat, QkdKeyIds},
    },
};

/// Where a Child SA stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChildState {
    /// The peer asked for it; the daemon is to decide.
    Asked,
    /// The KMS is being asked.
    AwaitKeys(KeyRequestId),
    /// Our request waits for the window.
    Queued,
    /// Our request is sent.
    Requested,
    /// The data plane works on it.
    Installing,
    /// The signalling Child SA is installed, IKE_AUTH is not quite over.
    Installed,
    /// In use.
    Up,
    /// We are deleting it.
    Deleting,
    /// The signalling Child SA is not to be, which is reported after [`Event::Established`].
    Failed(ChildFailure),
}

impl ChildState {
    /// Whether the data plane has been told to hold it.
    pub(super) fn is_installed(&self) -> bool {
        matches!(
            self,
            Self::Installing | Self::Installed | Self::Up | Self::Deleting
        )
    }
}

pub(super) struct Child {
    pub(super) id: ChildId,
    pub(super) token: u64,
    pub(super) signalling: bool,
    /// Whether this side began the exchange.
    pub(super) ours: bool,
    pub(super) spi_in: u32,
    pub(super) spi_out: u32,
    pub(super) suite: Option<EspSuite>,
    pub(super) ts_local: Vec<TrafficSelector>,
    pub(super) ts_remote: Vec<TrafficSelector>,
    /// Notifies of our message.
    pub(super) own_notifies: Vec<Notify>,
    /// Notifies of the peer's message.
    pub(super) peer_notifies: Vec<Notify>,
    /// The peer's proposal as it is to be answered.
    pub(super) answer: Option<SaPayload>,
    /// QKD_KEY_IDS of the peer's request.
    pub(super) named: Option<Notify>,
    pub(super) nonce_i: Vec<u8>,
    pub(super) nonce_r: Vec<u8>,
    pub(super) keys: Option<Vec<QkdKey>>,
    pub(super) key_ids: Vec<KeyId>,
    /// Whether the keys are fresh, so that the master's message has to name them.
    pub(super) fresh: bool,
    pub(super) state: ChildState,
    pub(super) since: Option<Instant>,
}

impl Child {
    pub(super) fn new(cx: &mut Cx<'_>, id: ChildId, state: ChildState) -> Self {
        Self {
            id,
            token: 0,
            signalling: false,
            ours: false,
            spi_in: cx.esp_spi(),
            spi_out: 0,
            suite: None,
            ts_local: Vec::new(),
            ts_remote: Vec::new(),
            own_notifies: Vec::new(),
            peer_notifies: Vec::new(),
            answer: None,
            named: None,
            nonce_i: Vec::new(),
            nonce_r: Vec::new(),
            keys: None,
            key_ids: Vec::new(),
            fresh: false,
            state,
            since: None,
        }
    }

    /// QKD_KEY_IDS for the master's message, when the keys are fresh.
    pub(super) fn key_notify(&self, profile: Profile) -> Option<Payload> {
        let format = match profile {
            Profile::Native => KeyIdFormat::Binary,
            Profile::Paper => KeyIdFormat::Json,
        };
        let ids = self.key_ids.clone();
        self.fresh
            .then(|| QkdKeyIds { format, ids }.to_notify().into())
    }

    /// Takes over its keys.
    pub(super) fn give_keys(&mut self, keys: Vec<QkdKey>) {
        self.key_ids = keys.iter().map(|key| key.id).collect();
        self.keys = Some(keys);
    }
}

impl Sa {
    /// The N3IWF side is master SAE.
    pub(super) fn is_master(&self) -> bool {
        !self.initiator
    }

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
        child.ours = true;
        child.token = new.token;
        child.ts_local = new.ts_local;
        child.ts_remote = new.ts_remote;
        child.own_notifies = new.notifies;
        if self.is_master() {
            match self.user_keys.take() {
                Some(keys) => child.give_keys(keys),
                None => child.state = self.allocate(cx),
            }
        }
        if child.state == ChildState::Queued {
            self.queue.push_back(Command::CreateChild(id));
        }
        self.children.insert(id, child);
        self.pump(cx);
        Ok(id)
    }

    /// Asks the KMS for the keys of one Child SA.
    pub(super) fn allocate(&mut self, cx: &mut Cx<'_>) -> ChildState {
        let request = cx.ids.key_request();
        if let (Some(suite), Some(slave)) = (&self.suite, &self.peer_sae) {
            cx.events.push_back(Event::KeysNeeded {
                sa: self.id,
                request,
                wanted: KeysWanted::Allocate {
                    slave: slave.clone(),
                    number: ledger::keys_per_sa(self.aead()),
                    size_bits: key_material::size_bits(suite, &self.esp_suites),
                },
            });
        }
        ChildState::AwaitKeys(request)
    }

    /// Asks the KMS for the keys the master named, or takes those of IKE_SA_INIT when it named none.
    pub(super) fn named_keys(
        &mut self,
        cx: &mut Cx<'_>,
        payloads: &[Payload],
    ) -> Result<KeySource, ChildFailure> {
        let Some(notify) = find_notify(payloads, NotifyType::QKD_KEY_IDS) else {
            return match self.user_keys.take() {
                Some(keys) => Ok(KeySource::Held(keys)),
                None => Err(ChildFailure::InvalidAnswer("no QKD_KEY_IDS")),
            };
        };
        let ids = QkdKeyIds::from_data(&notify.data)
            .map_err(|_| ChildFailure::InvalidAnswer("QKD_KEY_IDS"))?
            .ids;
        let reused = ids.iter().any(|id| {
            self.ledger.holds(id)
                || self.ike_keys.contains(id)
                || self
                    .children
                    .values()
                    .any(|child| child.key_ids.contains(id))
        });
        if reused || ids.len() != ledger::keys_per_sa(self.aead()) {
            return Err(ChildFailure::InvalidAnswer("QKD_KEY_IDS"));
        }
        let Some(master) = self.peer_sae.clone() else {
            return Err(ChildFailure::Qkd(QkdFailure::UnknownSae));
        };
        let request = cx.ids.key_request();
        let wanted = KeysWanted::Collect {
            master,
            ids: ids.clone(),
        };
        cx.events.push_back(Event::KeysNeeded {
            sa: self.id,
            request,
            wanted,
        });
        Ok(KeySource::Asked(request, ids))
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
        let number = ledger::keys_per_sa(self.aead());
        let master = self.is_master();
        let Some(child) = self.children.get_mut(&id) else {
            return ledger::lose_unclaimed(self.id, keys.unwrap_or_default(), cx.events);
        };
        let checked = match keys {
            Err(failure) => Err(failure),
            // The slave noted the IDs it asked for.
            Ok(keys) if !master => {
                key_material::in_order(&child.key_ids, keys).map_err(|unwanted| {
                    ledger::lose_unclaimed(self.id, unwanted, cx.events);
                    QkdFailure::UnknownKey
                })
            }
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
        self.ledger.take_child(&keys);
        child.fresh = master;
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
        let nonce = key_material::child_nonce_len(self.profile).map(|len| cx.random(len));
        let suites = &self.esp_suites;
        let Some(child) = self.children.get_mut(&id) else {
            self.current = None;
            return;
        };
        child.state = ChildState::Requested;
        let mut payloads = vec![Payload::Sa(EspSuite::offer(suites, child.spi_in))];
        if let Some(nonce) = nonce {
            child.nonce_i.clone_from(&nonce);
            payloads.push(Payload::Nonce(nonce));
        }
        payloads.extend([
            Payload::TsI(child.ts_local.clone()),
            Payload::TsR(child.ts_remote.clone()),
        ]);
        payloads.extend(child.own_notifies.iter().cloned().map(Payload::Notify));
        payloads.extend(child.key_notify(self.profile));
        self.request(cx, ExchangeType::CreateChildSa, &payloads);
    }

    /// The response to it.
    pub(super) fn child_response(&mut self, cx: &mut Cx<'_>, id: ChildId, payloads: &[Payload]) {
        if !self.children.contains_key(&id) {
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
            self.fail_child(cx, id, failure);
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
        if key_material::child_nonce_len(self.profile).is_some() && nonce.is_none() {
            return Err(ChildFailure::InvalidAnswer("no Nonce"));
        }
        let source = match self.is_master() {
            true => None,
            false => Some(self.named_keys(cx, payloads)?),
        };
        let Some(child) = self.children.get_mut(&id) else {
            return Err(ChildFailure::Abandoned);
        };
        child.nonce_r = nonce.unwrap_or_default();
        match source {
            Some(KeySource::Asked(request, ids)) => {
                child.key_ids = ids;
                child.state = ChildState::AwaitKeys(request);
                return Ok(());
            }
            Some(KeySource::Held(keys)) => child.give_keys(keys),
            None => {}
        }
        self.install_child(cx, id);
        Ok(())
    }

    /// Hands a Child SA to the data plane.
    pub(super) fn install_child(&mut self, cx: &mut Cx<'_>, id: ChildId) {
        let made = self.compose(id);
        match made {
            Some(child) => {
                let sa = self.id;
                cx.events.push_back(Event::InstallChild {
                    sa,
                    child: Box::new(child),
                });
            }
            None => self.child_not_installed(cx, id, ChildFailure::Qkd(QkdFailure::UnknownKey)),
        }
    }

    fn compose(&mut self, id: ChildId) -> Option<ChildSa> {
        let child = self.children.get_mut(&id)?;
        let keys = child.keys.take()?;
        let suite = child.suite?;
        let secrets = keys.into_iter().map(|key| key.secret).collect();
        let (spi_ue, spi_n3iwf) = match self.initiator {
            true => (child.spi_in, child.spi_out),
            false => (child.spi_out, child.spi_in),
        };
        let keys = schedule::child_keys(
            &suite,
            secrets,
            &child.nonce_i,
            &child.nonce_r,
            spi_ue,
            spi_n3iwf,
        )
        .ok()?;
        let (keys_in, keys_out) = match self.initiator {
            true => (keys.second, keys.first),
            false => (keys.first, keys.second),
        };
        child.state = ChildState::Installing;
        Some(ChildSa {
            id,
            role_initiator: child.ours,
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            suite,
            keys_in,
            keys_out,
            ts_local: child.ts_local.clone(),
            ts_remote: child.ts_remote.clone(),
            path: self.path,
            udp_encap: self.nat_local || self.nat_remote,
            signalling: child.signalling,
            token: child.token,
            notifies: child.peer_notifies.clone(),
            key_ids: child.key_ids.clone(),
        })
    }

    /// The data plane's answer.
    pub(crate) fn child_installed(&mut self, cx: &mut Cx<'_>, id: ChildId, result: Result<(), ()>) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        if child.state != ChildState::Installing {
            return;
        }
        match result {
            Ok(()) => {
                child.state = ChildState::Installed;
                let ids = child.key_ids.clone();
                self.ledger.used(self.id, &ids, Some(id), cx.events);
                self.child_is_installed(cx, id);
            }
            Err(()) => self.child_not_installed(cx, id, ChildFailure::InstallFailed),
        }
        self.pump(cx);
    }

    fn child_is_installed(&mut self, cx: &mut Cx<'_>, id: ChildId) {
        match &self.phase {
            Phase::AuthI(_) => self.after_final(cx),
            Phase::AuthR(_) => self.signalling_installed(cx, Ok(())),
            Phase::Established | Phase::Deleting => {
                if self.answering == Some(id) {
                    self.grant_child(cx, id);
                }
                if !self.closed {
                    self.child_is_up(cx, id);
                }
            }
            _ => {}
        }
    }

    fn child_not_installed(&mut self, cx: &mut Cx<'_>, id: ChildId, failure: ChildFailure) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        child.state = ChildState::Failed(failure);
        match &self.phase {
            Phase::AuthI(_) => self.after_final(cx),
            Phase::AuthR(_) => self.signalling_installed(cx, Err(())),
            _ if self.answering == Some(id) => {
                self.answering = None;
                let refusal = match failure {
                    ChildFailure::Qkd(failure) => key_material::unavailable(failure),
                    _ => Notify::status(NotifyType::NO_ADDITIONAL_SAS, Vec::new()),
                };
                self.respond(cx, &[refusal.into()]);
                self.fail_child(cx, id, failure);
            }
            _ => {
                self.queue.push_back(Command::DeleteSpi(child.spi_in));
                self.fail_child(cx, id, failure);
            }
        }
    }

    pub(super) fn child_is_up(&mut self, cx: &mut Cx<'_>, id: ChildId) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        child.state = ChildState::Up;
        child.since = Some(cx.now);
        let (sa, token) = (self.id, child.token);
        let child = id;
        cx.events.push_back(Event::ChildUp { sa, child, token });
    }

    /// A Child SA is not to be; its keys are lost.
    pub(super) fn fail_child(&mut self, cx: &mut Cx<'_>, id: ChildId, reason: ChildFailure) {
        let Some(child) = self.children.remove(&id) else {
            return;
        };
        cx.ids.spis.remove(&child.spi_in);
        if self.answering == Some(id) {
            self.answering = None;
        }
        self.ledger.lost(self.id, &child.key_ids, cx.events);
        let (sa, token) = (self.id, child.token);
        let child = id;
        cx.events.push_back(Event::ChildFailed {
            sa,
            child,
            token,
            reason,
        });
    }

    /// An installed Child SA is gone.
    pub(super) fn remove_child(&mut self, cx: &mut Cx<'_>, id: ChildId, by_peer: bool) {
        let Some(child) = self.children.remove(&id) else {
            return;
        };
        cx.ids.spis.remove(&child.spi_in);
        self.ledger.lost(self.id, &child.key_ids, cx.events);
        cx.events.push_back(Event::ChildDown {
            sa: self.id,
            child: id,
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            by_peer,
        });
    }

    /// Deletes a Child SA, or gives up one that is not there yet.
    pub(crate) fn delete_child(&mut self, cx: &mut Cx<'_>, id: ChildId) {
        let master = self.is_master();
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        match child.state {
            ChildState::Up => {
                child.state = ChildState::Deleting;
                self.queue.push_back(Command::DeleteChild(id));
                self.pump(cx);
            }
            ChildState::Queued | ChildState::AwaitKeys(_) if child.ours && master => {
                self.queue
                    .retain(|command| *command != Command::CreateChild(id));
                self.fail_child(cx, id, ChildFailure::Abandoned);
            }
            _ => {}
        }
    }

    /// Sends the Delete of a Child SA.
    pub(super) fn send_child_delete(&mut self, cx: &mut Cx<'_>, id: ChildId) {
        match self.children.get(&id).map(|child| child.spi_in) {
            Some(spi) => self.send_delete(cx, spi),
            None => self.current = None,
        }
    }

    /// Sends a Delete for the SPI we receive on.
    pub(super) fn send_delete(&mut self, cx: &mut Cx<'_>, spi: u32) {
        let delete = Payload::Delete(Delete::esp(vec![spi]));
        self.request(cx, ExchangeType::Informational, &[delete]);
    }
}

/// Where the slave's keys come from.
pub(super) enum KeySource {
    /// They were named in IKE_SA_INIT and are here.
    Held(Vec<QkdKey>),
    /// The KMS is being asked for these.
    Asked(KeyRequestId, Vec<KeyId>),
}
