//! Key exchanges that make a Child SA's keys besides `SK_d` (RFC 7296 1.3.1, 1.3.3, 2.17; RFC 9370 2.2.4).
//!
//! | exchange | request | response |
//! |---|---|---|
//! | CREATE_CHILD_SA | SA, Ni, KEi, TSi, TSr | SA, Nr, KEr, TSi, TSr, N(ADDITIONAL_KEY_EXCHANGE) |
//! | IKE_FOLLOWUP_KE | KEi(1), N(ADDITIONAL_KEY_EXCHANGE) | KEr(1), N(ADDITIONAL_KEY_EXCHANGE) |
//! | the last one | KEi(n), N(ADDITIONAL_KEY_EXCHANGE) | KEr(n) |
//!
//! Without additional key exchanges CREATE_CHILD_SA is all. A KE payload of a method that the responder does not want is
//! answered with INVALID_KE_PAYLOAD, and the request comes again with another one.

use std::collections::VecDeque;

use keys::Secret;
use rand_core::CryptoRng;

use super::{
    Command, Cx, Denial, Sa,
    child::{Child, ChildState},
    keys as key_material,
};
use crate::{
    crypto::{KeMethod, KeSecret, KeyExchange},
    event::{ChildFailure, ChildId},
    time::Instant,
    wire::{ExchangeType, Notify, NotifyType, Payload, find_notify, notifies},
};

/// Wishes for another method obeyed: there is no reason for a second one.
const MAX_CHANGES: u32 = 2;
/// Octets of the link between CREATE_CHILD_SA and IKE_FOLLOWUP_KE, which means something to us alone.
const LINK_LEN: usize = 8;

/// The key exchanges of one Child SA.
#[derive(Default)]
pub(super) struct ChildExchange {
    /// What both ends agreed on.
    pub(super) agreed: Option<KeyExchange>,
    /// Secrets so far, in order.
    pub(super) shared: Vec<Secret>,
    /// Initiator: our half of the one under way, and the method of its successor if the peer wants another.
    ours: Option<KeSecret>,
    wish: Option<KeMethod>,
    changes: u32,
    /// Responder: KEr of the answer that is due.
    public: Option<Payload>,
    /// Methods that are still to come in IKE_FOLLOWUP_KE.
    left: VecDeque<KeMethod>,
    /// What the next request of IKE_FOLLOWUP_KE names.
    link: Vec<u8>,
    /// Responder: when it is not waited for any longer.
    until: Option<Instant>,
}

impl ChildExchange {
    /// Responder: our half of the exchange of CREATE_CHILD_SA.
    pub(super) fn respond(
        agreed: Option<KeyExchange>,
        ke: Option<(u16, &[u8])>,
        rng: &mut (dyn CryptoRng + Send),
    ) -> Result<Self, Denial> {
        let mut exchange = Self {
            agreed,
            ..Self::default()
        };
        let Some(methods) = agreed else {
            return Ok(exchange);
        };
        let method = methods.first();
        let Some((_, value)) = ke.filter(|(id, _)| *id == method.id()) else {
            let wish = method.id().to_be_bytes().to_vec();
            return Err(refuse(NotifyType::INVALID_KE_PAYLOAD, wish));
        };
        exchange.left = methods.additional().map(|(_, method)| method).collect();
        exchange.answer(method, value, rng)?;
        Ok(exchange)
    }

    fn answer(
        &mut self,
        method: KeMethod,
        value: &[u8],
        rng: &mut (dyn CryptoRng + Send),
    ) -> Result<(), Denial> {
        let (data, shared) = method
            .respond(value, rng)
            .map_err(|_| refuse(NotifyType::INVALID_SYNTAX, Vec::new()))?;
        self.shared.push(shared);
        self.public = Some(Payload::Ke {
            method: method.id(),
            data,
        });
        Ok(())
    }

    /// Responder: KEr, and the link to the next exchange if there is one.
    pub(super) fn next_answer(&mut self, cx: &mut Cx<'_>) -> Vec<Payload> {
        let mut payloads: Vec<Payload> = self.public.take().into_iter().collect();
        self.until = None;
        if !self.left.is_empty() {
            self.link = cx.random(LINK_LEN);
            self.until = Some(cx.now + cx.config.timing.half_open_lifetime);
            payloads.push(link(&self.link));
        }
        payloads
    }

    /// Initiator: takes KEr, which has to be of our method, and the link if another exchange follows.
    fn finish(&mut self, payloads: &[Payload]) -> Result<(), ChildFailure> {
        let invalid = ChildFailure::InvalidAnswer;
        let ke = key_material::key_exchange(payloads);
        let (Some(ours), Some((id, value))) = (self.ours.take(), ke) else {
            return Err(invalid("no KE"));
        };
        if id != ours.method().id() {
            return Err(invalid("KE of another method"));
        }
        let shared = ours.finish(value).map_err(|_| invalid("a KE value"))?;
        self.shared.push(shared);
        if !self.left.is_empty() {
            self.link = find_notify(payloads, NotifyType::ADDITIONAL_KEY_EXCHANGE)
                .map(|notify| notify.data.clone())
                .filter(|link| !link.is_empty())
                .ok_or(invalid("no ADDITIONAL_KEY_EXCHANGE"))?;
        }
        Ok(())
    }

    /// Initiator: KEi.
    fn begin(&mut self, cx: &mut Cx<'_>, method: KeMethod) -> Payload {
        let ke = method.generate(cx.rng);
        let data = ke.public().to_vec();
        self.ours = Some(ke);
        Payload::Ke {
            method: method.id(),
            data,
        }
    }
}

impl Child {
    /// When a peer that does not go on with IKE_FOLLOWUP_KE is given up.
    pub(super) fn given_up_at(&self) -> Option<Instant> {
        self.exchange
            .until
            .filter(|_| self.state == ChildState::Following)
    }
}

impl Sa {
    /// Whether a Child SA is between the beginning of CREATE_CHILD_SA and its keys.
    pub(super) fn makes_child(&self) -> bool {
        self.children.values().any(|child| match child.state {
            ChildState::Asked | ChildState::Requested | ChildState::Following => true,
            // The exchange is over, the KMS is not.
            ChildState::AwaitKeys(_) => child.spi_out != 0 && !self.mode.is_qkd(),
            _ => false,
        })
    }

    /// Initiator: KEi of CREATE_CHILD_SA, if a suite has a key exchange.
    pub(super) fn child_ke(&mut self, cx: &mut Cx<'_>, id: ChildId) -> Option<Payload> {
        let first = self.esp_suites.iter().find_map(|suite| suite.ke);
        let child = self.children.get_mut(&id)?;
        let method = child
            .exchange
            .wish
            .or(first.map(|exchange| exchange.first()))?;
        Some(child.exchange.begin(cx, method))
    }

    /// Initiator: the peer wants another method, of those offered: the request is sent again with it.
    pub(super) fn other_child_method(&mut self, id: ChildId, payloads: &[Payload]) -> bool {
        let wish = find_notify(payloads, NotifyType::INVALID_KE_PAYLOAD)
            .and_then(|notify| <[u8; 2]>::try_from(notify.data.as_slice()).ok())
            .and_then(|id| KeMethod::from_id(u16::from_be_bytes(id)));
        let Some(wish) = wish else {
            return false;
        };
        let offered = self
            .esp_suites
            .iter()
            .any(|suite| suite.ke.is_some_and(|exchange| exchange.first() == wish));
        let Some(child) = self.children.get_mut(&id) else {
            return false;
        };
        let exchange = &mut child.exchange;
        let sent = exchange.ours.as_ref().map(KeSecret::method);
        if !offered || sent == Some(wish) || exchange.changes >= MAX_CHANGES {
            return false;
        }
        exchange.changes += 1;
        exchange.wish = Some(wish);
        exchange.ours = None;
        child.state = ChildState::Queued;
        self.queue.push_front(Command::CreateChild(id));
        true
    }

    /// Initiator: what the response to CREATE_CHILD_SA says of the key exchange agreed on.
    pub(super) fn finish_child_ke(
        &mut self,
        id: ChildId,
        payloads: &[Payload],
    ) -> Result<(), ChildFailure> {
        let Some(child) = self.children.get_mut(&id) else {
            return Err(ChildFailure::Abandoned);
        };
        let exchange = &mut child.exchange;
        let Some(agreed) = exchange.agreed else {
            exchange.ours = None;
            return Ok(());
        };
        let sent = exchange.ours.as_ref().map(KeSecret::method);
        if sent != Some(agreed.first()) {
            return Err(ChildFailure::InvalidAnswer("a method without its KE"));
        }
        exchange.left = agreed.additional().map(|(_, method)| method).collect();
        exchange.finish(payloads)
    }

    /// Whether there is still a key exchange to come, which is seen to.
    pub(super) fn follows_up(&mut self, cx: &mut Cx<'_>, id: ChildId) -> bool {
        let Some(child) = self.children.get_mut(&id) else {
            return false;
        };
        if child.exchange.left.is_empty() {
            return false;
        }
        child.state = ChildState::Following;
        match child.ours {
            true => self.queue.push_front(Command::FollowChild(id)),
            false => self.grant_child(cx, id),
        }
        true
    }

    /// Initiator: sends the next request of IKE_FOLLOWUP_KE.
    pub(super) fn send_child_followup(&mut self, cx: &mut Cx<'_>, id: ChildId) {
        let request = self.children.get_mut(&id).and_then(|child| {
            let exchange = &mut child.exchange;
            let method = exchange.left.pop_front()?;
            let ke = exchange.begin(cx, method);
            Some([ke, link(&exchange.link)])
        });
        match request {
            Some(payloads) => self.request(cx, ExchangeType::IkeFollowupKe, &payloads),
            None => self.current = None,
        }
    }

    /// Initiator: the response to it.
    pub(super) fn child_followup(&mut self, cx: &mut Cx<'_>, id: ChildId, payloads: &[Payload]) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let refused = notifies(payloads).find(|notify| notify.kind.is_error());
        let taken = match refused {
            Some(error) => Err(key_material::child_refusal(error)),
            None => child.exchange.finish(payloads),
        };
        match taken {
            Ok(()) => self.install_child(cx, id),
            Err(failure) => {
                self.queue.push_back(Command::DeleteSpi(child.spi_in));
                self.fail_child(cx, id, failure);
            }
        }
    }

    /// Responder: a request of IKE_FOLLOWUP_KE.
    pub(super) fn followup_request(
        &mut self,
        cx: &mut Cx<'_>,
        payloads: &[Payload],
    ) -> Result<(), Denial> {
        let named = find_notify(payloads, NotifyType::ADDITIONAL_KEY_EXCHANGE);
        let named = named.map_or(&[][..], |notify| notify.data.as_slice());
        if let Some(answered) = self.ike_followup_request(cx, named, payloads) {
            return answered;
        }
        let waits = |child: &&mut Box<Child>| {
            child.state == ChildState::Following
                && !child.ours
                && !named.is_empty()
                && child.exchange.link == named
        };
        let Some(child) = self.children.values_mut().find(waits) else {
            return Err(refuse(NotifyType::STATE_NOT_FOUND, Vec::new()));
        };
        let id = child.id;
        let exchange = &mut child.exchange;
        let answered = match (
            exchange.left.pop_front(),
            key_material::key_exchange(payloads),
        ) {
            (Some(method), Some((id, value))) if id == method.id() => {
                exchange.answer(method, value, cx.rng)
            }
            _ => Err(refuse(NotifyType::INVALID_SYNTAX, Vec::new())),
        };
        if let Err(denial) = answered {
            self.fail_child(cx, id, ChildFailure::InvalidAnswer("IKE_FOLLOWUP_KE"));
            return Err(denial);
        }
        self.answering = Some(id);
        self.install_child(cx, id);
        Ok(())
    }

    /// Responder: gives up Child SAs whose initiator does not go on.
    pub(super) fn give_up_children(&mut self, cx: &mut Cx<'_>) {
        let over: Vec<ChildId> = self
            .children
            .values()
            .filter(|child| child.given_up_at().is_some_and(|at| at <= cx.now))
            .map(|child| child.id)
            .collect();
        for id in over {
            self.fail_child(cx, id, ChildFailure::Abandoned);
        }
        self.pump(cx);
    }
}

fn link(data: &[u8]) -> Payload {
    Notify::status(NotifyType::ADDITIONAL_KEY_EXCHANGE, data.to_vec()).into()
}

fn refuse(kind: NotifyType, data: Vec<u8>) -> Denial {
    Denial {
        answer: Notify::status(kind, data),
        fatal: None,
    }
}
