//! Additional key exchanges of a rekey of the IKE SA (RFC 9370 2.2.4): IKE_FOLLOWUP_KE, one for each, on the old IKE SA.
//!
//! The response to CREATE_CHILD_SA, and each but the last of IKE_FOLLOWUP_KE, ends with N(ADDITIONAL_KEY_EXCHANGE), which
//! the next request repeats. Until the last one nothing is replaced. A peer that asks for something else instead, or
//! for nothing, has given the rekey up.

use std::collections::VecDeque;

use super::{OwnRekey, PeerRekey, Step, deny};
use crate::{
    crypto::{IkeSuite, KeMethod, KeyExchange},
    event::ChildFailure,
    sa::{
        Command, Cx, Denial, Sa,
        keys::{self as key_material, key_exchange},
    },
    time::Instant,
    wire::{ExchangeType, Notify, NotifyType, Payload, find_notify, notifies},
};

/// Octets of the link, which means something to us alone.
const LINK_LEN: usize = 8;

fn additional(suite: &IkeSuite) -> VecDeque<KeMethod> {
    let exchanges = suite.ke.iter().flat_map(KeyExchange::additional);
    exchanges.map(|(_, method)| method).collect()
}

fn link(payloads: &[Payload]) -> Option<Vec<u8>> {
    let notify = find_notify(payloads, NotifyType::ADDITIONAL_KEY_EXCHANGE)?;
    Some(notify.data.clone()).filter(|link| !link.is_empty())
}

fn to_payload(link: &[u8]) -> Payload {
    Notify::status(NotifyType::ADDITIONAL_KEY_EXCHANGE, link.to_vec()).into()
}

/// Initiator of the rekey: what is still to come.
pub(super) struct Following {
    left: VecDeque<KeMethod>,
    link: Vec<u8>,
    spi_r: u64,
    nonce_r: Vec<u8>,
    /// Names of keys in the response to CREATE_CHILD_SA.
    named: Option<Notify>,
}

impl Following {
    /// `None`: there is no additional key exchange.
    pub(super) fn begin(
        suite: &IkeSuite,
        spi_r: u64,
        nonce_r: &[u8],
        payloads: &[Payload],
        naming: NotifyType,
    ) -> Result<Option<Self>, ChildFailure> {
        let left = additional(suite);
        if left.is_empty() {
            return Ok(None);
        }
        let missing = ChildFailure::InvalidAnswer("no ADDITIONAL_KEY_EXCHANGE");
        Ok(Some(Self {
            left,
            link: link(payloads).ok_or(missing)?,
            spi_r,
            nonce_r: nonce_r.to_vec(),
            named: find_notify(payloads, naming).cloned(),
        }))
    }
}

/// Responder of the rekey: what is still to come.
pub(super) struct Awaited {
    left: VecDeque<KeMethod>,
    link: Vec<u8>,
    /// When it is not waited for any longer; CREATE_CHILD_SA is answered.
    until: Option<Instant>,
}

impl Awaited {
    pub(super) fn of(suite: &IkeSuite) -> Self {
        Self {
            left: additional(suite),
            link: Vec::new(),
            until: None,
        }
    }

    /// The end of the next answer, if another exchange is to come.
    pub(super) fn next_link(&mut self, cx: &mut Cx<'_>) -> Option<Payload> {
        if self.left.is_empty() {
            return None;
        }
        self.link = cx.random(LINK_LEN);
        self.until = Some(cx.now + cx.config.timing.half_open_lifetime);
        Some(to_payload(&self.link))
    }
}

impl PeerRekey {
    /// Our half of a key exchange.
    pub(super) fn answer_ke(
        &mut self,
        cx: &mut Cx<'_>,
        method: KeMethod,
        value: &[u8],
    ) -> Result<(), Denial> {
        let (data, shared) = method
            .respond(value, cx.rng)
            .map_err(|_| deny(NotifyType::INVALID_SYNTAX))?;
        self.shared.push(shared);
        self.ke = Some(Payload::Ke {
            method: method.id(),
            data,
        });
        Ok(())
    }
}

impl Sa {
    /// Initiator: sends the next request, if it is time for one. The window is free: the last response has just come.
    pub(super) fn send_ike_followup(&mut self, cx: &mut Cx<'_>) {
        let Some(own) = &mut self.own_rekey else {
            return;
        };
        let Step::Following(following) = &mut own.step else {
            return;
        };
        let Some(method) = following.left.pop_front() else {
            return;
        };
        let ke = method.generate(cx.rng);
        let payloads = [
            Payload::Ke {
                method: method.id(),
                data: ke.public().to_vec(),
            },
            to_payload(&following.link),
        ];
        own.ke = Some(ke);
        self.current = Some(Command::RekeyIke);
        self.request(cx, ExchangeType::IkeFollowupKe, &payloads);
    }

    /// Initiator: the response to it.
    pub(super) fn read_ike_followup(
        &mut self,
        cx: &mut Cx<'_>,
        own: &mut OwnRekey,
        payloads: &[Payload],
    ) -> Result<Option<super::Heir>, ChildFailure> {
        let invalid = ChildFailure::InvalidAnswer;
        if let Some(error) = notifies(payloads).find(|notify| notify.kind.is_error()) {
            return Err(key_material::child_refusal(error));
        }
        let Step::Following(following) = &mut own.step else {
            return Err(ChildFailure::Abandoned);
        };
        let (Some(ke), Some((id, value))) = (own.ke.take(), key_exchange(payloads)) else {
            return Err(invalid("no KE"));
        };
        if id != ke.method().id() {
            return Err(invalid("KE of another method"));
        }
        let shared = ke.finish(value).map_err(|_| invalid("a KE value"))?;
        own.shared.push(shared);
        if !following.left.is_empty() {
            following.link = link(payloads).ok_or(invalid("no ADDITIONAL_KEY_EXCHANGE"))?;
            return Ok(None);
        }
        let (spi_r, nonce_r) = (following.spi_r, std::mem::take(&mut following.nonce_r));
        let named: Vec<Payload> = following.named.take().map(Into::into).into_iter().collect();
        self.exchanged(cx, own, spi_r, &nonce_r, &named)
    }

    /// Responder: whether a request of IKE_FOLLOWUP_KE with this link is for the IKE SA; answers it.
    pub(in crate::sa) fn ike_followup_request(
        &mut self,
        cx: &mut Cx<'_>,
        named: &[u8],
        payloads: &[Payload],
    ) -> Option<Result<(), Denial>> {
        let mut peer = self.peer_rekey.take_if(|peer| {
            let awaited = &peer.awaited;
            awaited.until.is_some() && !named.is_empty() && awaited.link == named
        })?;
        let answered = match (peer.awaited.left.pop_front(), key_exchange(payloads)) {
            (Some(method), Some((id, value))) if id == method.id() => {
                peer.answer_ke(cx, method, value)
            }
            _ => Err(deny(NotifyType::INVALID_SYNTAX)),
        };
        match answered {
            Ok(()) => self.go_on_with_peer(cx, *peer),
            Err(_) => self.lose_peer_rekey(cx, &peer),
        }
        Some(answered)
    }

    /// A request on the current IKE SA: whoever asks for something else has given up what it began.
    pub(in crate::sa) fn peer_goes_on(&mut self, cx: &mut Cx<'_>, exchange: ExchangeType) {
        if exchange == ExchangeType::IkeFollowupKe {
            return;
        }
        let waits = |peer: &mut Box<PeerRekey>| peer.awaited.until.is_some();
        if let Some(peer) = self.peer_rekey.take_if(waits) {
            self.lose_peer_rekey(cx, &peer);
        }
    }

    /// When the peer's rekey is given up.
    pub(in crate::sa) fn peer_rekey_until(&self) -> Option<Instant> {
        self.peer_rekey.as_ref()?.awaited.until
    }

    /// Gives it up when it is time.
    pub(in crate::sa) fn peer_rekey_over(&mut self, cx: &mut Cx<'_>) {
        if self.peer_rekey_until().is_some_and(|until| until <= cx.now) {
            self.drop_peer_rekey(cx);
            self.pump(cx);
        }
    }

    /// The peer's rekey is not to be; a request that waits for its answer gets one.
    pub(super) fn drop_peer_rekey(&mut self, cx: &mut Cx<'_>) {
        let Some(peer) = self.peer_rekey.take() else {
            return;
        };
        self.lose_peer_rekey(cx, &peer);
        if peer.awaited.until.is_none() {
            let refusal = Notify::status(NotifyType::TEMPORARY_FAILURE, Vec::new());
            self.respond(cx, &[refusal.into()]);
        }
    }

    fn lose_peer_rekey(&mut self, cx: &mut Cx<'_>, peer: &PeerRekey) {
        let ids: Vec<_> = peer.keys.iter().map(|key| key.id).collect();
        self.ledger.lost(self.id, &ids, cx.events);
    }
}
