//! IKE_INTERMEDIATE (RFC 9242): additional key exchanges (RFC 9370), then the PPK of mode `hybrid` (RFC 9867).
//!
//! | initiator | keys of the message | responder |
//! |---|---|---|
//! | KEi(1) | of IKE_SA_INIT | KEr(1) |
//! | KEi(2) ... | after ADDKE1 | KEr(2) ... |
//! | N(PPK_IDENTITY_KEY) | after the last ADDKE | N(PPK_IDENTITY) |
//! | IKE_AUTH | with the PPK | |
//!
//! Each exchange gives all keys anew, by which its successor is protected. As initiator the PPK has an exchange of its
//! own; as responder it is taken beside the last KE as well. All messages are covered by AUTH (`IntAuth`), so leaving
//! one out, or its payloads, is noticed.

use std::collections::VecDeque;

use ::keys::Secret;

use super::{
    Cx, Denial, NAT_PORT, Phase, Sa,
    auth_initiator::first_error,
    keys::key_exchange,
    ppk::{self as place, PpkPlace},
};
use crate::{
    config::{InitiatorConfig, Offer},
    crypto::{
        KeMethod, KeSecret, KeyError, KeyExchange,
        intermediate::{Covered, IntAuth},
        keymat, ppk,
    },
    event::CloseReason,
    wire::{ExchangeType, Notify, NotifyType, Payload, notifies},
};

/// Between IKE_SA_INIT and IKE_AUTH.
pub(super) struct Between {
    int_auth: IntAuth,
    /// Additional key exchanges that are still to come.
    left: VecDeque<KeMethod>,
    /// Whether the PPK is still to come.
    ppk: bool,
    /// Initiator: our half of the one under way.
    ke: Option<KeSecret>,
    /// Initiator: what IKE_AUTH is to be done with.
    after: Option<(InitiatorConfig, Offer)>,
}

impl Between {
    pub(super) fn awaits_request(&self) -> bool {
        self.after.is_none()
    }

    fn is_over(&self) -> bool {
        self.left.is_empty() && !self.ppk
    }
}

impl Sa {
    fn between(&self, after: Option<(InitiatorConfig, Offer)>) -> Option<Box<Between>> {
        let suite = self.suite.as_ref()?;
        let additional = suite.ke.iter().flat_map(KeyExchange::additional);
        let between = Between {
            int_auth: IntAuth::new(suite.prf),
            left: additional.map(|(_, method)| method).collect(),
            ppk: self.ppk_place() == Some(PpkPlace::Intermediate),
            ke: None,
            after,
        };
        Some(Box::new(between))
    }

    /// Initiator: keys are there. Floats to port 4500 if there is a NAT (RFC 9242 3.2).
    pub(super) fn after_init(&mut self, cx: &mut Cx<'_>, config: InitiatorConfig, offer: Offer) {
        if self.nat_local || self.nat_remote || self.mobility.floats() {
            self.path.local.set_port(NAT_PORT);
            self.path.remote.set_port(NAT_PORT);
        }
        match self.between(Some((config, offer))) {
            Some(between) => {
                self.phase = Phase::Between(between);
                self.next_intermediate(cx);
            }
            None => self.finish(cx, CloseReason::NoProposalChosen),
        }
    }

    /// Responder: the answer to IKE_SA_INIT is sent.
    pub(super) fn after_init_responder(&mut self, cx: &mut Cx<'_>) {
        match self.between(None) {
            Some(between) if !between.is_over() => self.phase = Phase::Between(between),
            _ => self.begin_auth_responder(cx),
        }
    }

    /// Initiator: the next exchange, or IKE_AUTH.
    fn next_intermediate(&mut self, cx: &mut Cx<'_>) {
        let Phase::Between(between) = &mut self.phase else {
            return;
        };
        let payload = if let Some(method) = between.left.front() {
            let ke = method.generate(cx.rng);
            let payload = Payload::Ke {
                method: method.id(),
                data: ke.public().to_vec(),
            };
            between.ke = Some(ke);
            Some(payload)
        } else if between.ppk {
            self.ppk_offer().map(Payload::Notify)
        } else {
            return self.intermediate_over(cx);
        };
        match payload {
            Some(payload) => self.request(cx, ExchangeType::IkeIntermediate, &[payload]),
            None => self.finish(cx, CloseReason::Unsendable),
        }
    }

    /// Initiator: IKE_AUTH follows.
    fn intermediate_over(&mut self, cx: &mut Cx<'_>) {
        let Phase::Between(mut between) = std::mem::replace(&mut self.phase, Phase::Gone) else {
            return;
        };
        let first_auth = self.requests.next_id();
        self.int_auth = first_auth.and_then(|id| between.int_auth.finish(id));
        match between.after.take() {
            Some((config, offer)) => self.begin_auth(cx, config, offer),
            None => self.finish(cx, CloseReason::Unsendable),
        }
    }

    /// Takes a message of IKE_INTERMEDIATE into `IntAuth`, before its keys change.
    pub(super) fn cover(&mut self, response: bool, covered: Option<Covered>) {
        let auth = self.crypt.as_ref().and_then(|crypt| crypt.auth.as_ref());
        if let (Phase::Between(between), Some(auth), Some(covered)) =
            (&mut self.phase, auth, covered)
        {
            match response {
                false => between.int_auth.add_request(&auth.sk_pi, &covered),
                true => between.int_auth.add_response(&auth.sk_pr, &covered),
            }
        }
    }

    /// A request of IKE_INTERMEDIATE. It is answered with the keys that it came with.
    pub(super) fn intermediate_request(
        &mut self,
        cx: &mut Cx<'_>,
        payloads: &[Payload],
    ) -> Result<(), Denial> {
        let ours = self.ppk_confirmation();
        let Phase::Between(between) = &mut self.phase else {
            return Ok(());
        };
        let mut answer = Vec::new();
        let mut shared = None;
        match (between.left.front(), key_exchange(payloads)) {
            (Some(method), Some((id, value))) if id == method.id() => {
                let (public, secret) = method
                    .respond(value, cx.rng)
                    .map_err(|_| Denial::syntax("a KE value"))?;
                answer.push(Payload::Ke {
                    method: id,
                    data: public,
                });
                shared = Some(secret);
                between.left.pop_front();
            }
            (Some(_), _) => return Err(Denial::syntax("IKE_INTERMEDIATE without its KE")),
            (None, Some(_)) => return Err(Denial::syntax("a KE that was not agreed")),
            (None, None) => {}
        }
        let mut offers = notifies(payloads)
            .filter(|notify| notify.kind == NotifyType::PPK_IDENTITY_KEY)
            .peekable();
        let mixes = between.left.is_empty() && between.ppk && offers.peek().is_some();
        if mixes {
            let id = ours.and_then(|ours| place::choose(offers, &ours));
            // A PPK is never optional here, so there is nothing to fall back to (RFC 9867 3.1).
            let id = id.ok_or(Denial::fatal(
                NotifyType::AUTHENTICATION_FAILED,
                CloseReason::AuthenticationFailed,
            ))?;
            answer.push(id.to_notify().into());
            between.ppk = false;
        }
        if answer.is_empty() {
            return Err(Denial::syntax("IKE_INTERMEDIATE without its payload"));
        }
        self.respond(cx, &answer);
        if self.closed {
            return Ok(());
        }
        let made = shared.map_or(Ok(()), |shared| self.mix_shared(cx, &shared));
        let made = made.and_then(|()| match mixes {
            true => self.mix_ppk(cx),
            false => Ok(()),
        });
        if made.is_err() {
            self.finish(cx, CloseReason::Unsendable);
            return Ok(());
        }
        if let Phase::Between(between) = &self.phase
            && between.is_over()
        {
            self.int_auth = between.int_auth.finish(self.responses.next_id());
            self.begin_auth_responder(cx);
        }
        Ok(())
    }

    /// The response to a request of IKE_INTERMEDIATE.
    pub(super) fn intermediate_response(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) {
        if let Some(reason) = first_error(payloads) {
            return self.fail(cx, reason, &[]);
        }
        let made = self.read_intermediate_response(cx, payloads);
        match made {
            Ok(()) => self.next_intermediate(cx),
            Err(reason) => {
                let kind = match &reason {
                    CloseReason::AuthenticationFailed => NotifyType::AUTHENTICATION_FAILED,
                    _ => NotifyType::INVALID_SYNTAX,
                };
                let farewell = Notify::status(kind, Vec::new()).into();
                self.fail(cx, reason, &[farewell]);
            }
        }
    }

    fn read_intermediate_response(
        &mut self,
        cx: &mut Cx<'_>,
        payloads: &[Payload],
    ) -> Result<(), CloseReason> {
        let unusable = |_: KeyError| CloseReason::Unsendable;
        let Phase::Between(between) = &mut self.phase else {
            return Ok(());
        };
        if let Some(method) = between.left.pop_front() {
            let (Some(ke), Some((id, value))) = (between.ke.take(), key_exchange(payloads)) else {
                return Err(CloseReason::Syntax("IKE_INTERMEDIATE without KE"));
            };
            if id != method.id() {
                return Err(CloseReason::Syntax("KE of another method"));
            }
            let shared = ke
                .finish(value)
                .map_err(|_| CloseReason::Syntax("a KE value"))?;
            return self.mix_shared(cx, &shared).map_err(unusable);
        }
        between.ppk = false;
        if !self.ppk_is_taken(payloads) {
            return Err(CloseReason::AuthenticationFailed);
        }
        self.mix_ppk(cx).map_err(unusable)
    }

    /// All keys anew from the secret of an additional key exchange (RFC 9370 2.2.2).
    fn mix_shared(&mut self, cx: &mut Cx<'_>, shared: &Secret) -> Result<(), KeyError> {
        let suite = self.suite.ok_or(KeyError::Suite)?;
        let sk_d = self.crypt.as_ref().and_then(|crypt| crypt.sk_d.as_ref());
        let sk_d = sk_d.ok_or(KeyError::Suite)?;
        let (ni, nr) = (&self.transcript.nonce_i, &self.transcript.nonce_r);
        let seed = keymat::skeyseed_update(suite.prf, sk_d, shared, ni, nr);
        self.renew_keys(cx, &seed)
    }

    /// All keys anew from `prf+(PPK, SK_d)` (RFC 9867 3.1).
    fn mix_ppk(&mut self, cx: &mut Cx<'_>) -> Result<(), KeyError> {
        let suite = self.suite.ok_or(KeyError::Suite)?;
        let key = self.ppk_secret().ok_or(KeyError::Suite)?;
        let sk_d = self.crypt.as_ref().and_then(|crypt| crypt.sk_d.as_ref());
        let seed = ppk::mix(suite.prf, key, sk_d.ok_or(KeyError::Suite)?)?;
        self.renew_keys(cx, &seed)
    }
}
