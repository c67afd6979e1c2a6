//! Child SAs: their states, from key material to the data plane and back.

use keys::{KeyId, QkdKey};

use super::{
    Command, Cx, Phase, Sa,
    child_exchange::ChildExchange,
    keys as key_material,
    lifetime::Life,
    naming::{Named, Proof},
    ppk::fresh,
};
use crate::{
    config::Mode,
    crypto::{EspSuite, keymat, ppk, qkd as schedule},
    event::{ChildFailure, ChildId, ChildSa, Event, KeyRequestId, QkdFailure},
    time::Instant,
    wire::{Delete, ExchangeType, Notify, NotifyType, Payload, SaPayload, TrafficSelector},
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
    /// CREATE_CHILD_SA is over, IKE_FOLLOWUP_KE is not.
    Following,
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
    pub(super) exchange: ChildExchange,
    /// The peer's proposal as it is to be answered.
    pub(super) answer: Option<SaPayload>,
    /// Slave: what the peer's request says of fresh keys.
    pub(super) named: Option<Notify>,
    pub(super) nonce_i: Vec<u8>,
    pub(super) nonce_r: Vec<u8>,
    pub(super) keys: Option<Vec<QkdKey>>,
    pub(super) key_ids: Vec<KeyId>,
    /// Slave: what the keys have to prove.
    pub(super) proof: Option<Proof>,
    /// What our message says of fresh keys: the master's names, or that the slave has them.
    pub(super) naming: Option<Notify>,
    pub(super) state: ChildState,
    pub(super) since: Option<Instant>,
    /// The Child SA it takes over from.
    pub(super) replaces: Option<ChildId>,
    /// To be deleted as soon as it is up.
    pub(super) doomed: bool,
    pub(super) life: Life,
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
            exchange: ChildExchange::default(),
            answer: None,
            named: None,
            nonce_i: Vec::new(),
            nonce_r: Vec::new(),
            keys: None,
            key_ids: Vec::new(),
            proof: None,
            naming: None,
            state,
            since: None,
            replaces: None,
            doomed: false,
            life: Life::default(),
        }
    }

    /// Slave: the keys that the KMS is being asked for.
    pub(super) fn expect(&mut self, named: Named) {
        self.key_ids = named.ids;
        self.proof = named.proof;
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
        !self.ue
    }

    /// Hands a Child SA to the data plane, once its key exchanges are over.
    pub(super) fn install_child(&mut self, cx: &mut Cx<'_>, id: ChildId) {
        if self.follows_up(cx, id) {
            return;
        }
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
        let qkd = self.mode.is_qkd();
        let hybrid = self.mode == Mode::Hybrid;
        let child = self.children.get_mut(&id)?;
        let suite = child.suite?;
        let (ni, nr) = (&child.nonce_i, &child.nonce_r);
        let (keys, first_is_ours) = if qkd {
            let secrets = child.keys.take()?.into_iter().map(|key| key.secret);
            let (spi_ue, spi_n3iwf) = match self.ue {
                true => (child.spi_in, child.spi_out),
                false => (child.spi_out, child.spi_in),
            };
            let keys =
                schedule::child_keys(&suite, secrets.collect(), ni, nr, spi_ue, spi_n3iwf).ok()?;
            (keys, self.ue)
        } else {
            let sk_d = self.crypt.as_ref()?.sk_d.as_ref()?;
            let prf = self.suite?.prf;
            let mixed = match hybrid && child.replaces.is_some() {
                true => Some(ppk::mix(prf, fresh(&child.keys.take()?)?, sk_d).ok()?),
                false => None,
            };
            let sk_d = mixed.as_ref().unwrap_or(sk_d);
            let shared = std::mem::take(&mut child.exchange.shared);
            let keys = keymat::child_keys(prf, &suite, sk_d, &shared, ni, nr).ok()?;
            (keys, child.ours)
        };
        let (keys_in, keys_out) = match first_is_ours {
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
            replaces: child.replaces,
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
        let lasting = self.never_rekeys(cx.config);
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        child.state = ChildState::Up;
        child.since = Some(cx.now);
        child.life = Life::begin(cx, cx.config.lifetimes.child.filter(|_| !lasting));
        let (sa, token, doomed) = (self.id, child.token, child.doomed);
        let child = id;
        cx.events.push_back(Event::ChildUp { sa, child, token });
        self.take_over(cx, id);
        if doomed {
            self.delete_child(cx, id);
        }
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
        // The daemon hears of the signalling Child SA with the end of the handshake, not of its plans.
        if child.signalling && self.established.is_none() {
            return;
        }
        if let Some(old) = child.replaces {
            return self.rekey_failed(cx, old, reason);
        }
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
        if by_peer {
            self.hand_over(cx, id);
        }
        cx.events.push_back(Event::ChildDown {
            sa: self.id,
            child: id,
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            by_peer,
        });
    }

    /// Deletes a Child SA, or gives up one that is not there yet; with whatever is to replace it.
    pub(crate) fn delete_child(&mut self, cx: &mut Cx<'_>, id: ChildId) {
        self.delete_successors(cx, id);
        self.delete_one(cx, id);
    }

    /// Deletes this Child SA alone.
    pub(super) fn delete_one(&mut self, cx: &mut Cx<'_>, id: ChildId) {
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
