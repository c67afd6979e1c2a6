//! An IKE SA that was replaced by a rekey: it answers what its peer repeats, and is deleted by whoever began the rekey.
//! Once it is, nothing new is said on it, and what is repeated needs no keys: they are wiped then.

use super::{
    Cx, Sa, SpiChange,
    fragments::{self, Arrival, Inbox},
    keys::Crypt,
    window::{Datagrams, Incoming, Requests, Responses, Tick, digest},
};
use crate::{
    event::Path,
    time::Instant,
    wire::{Delete, ExchangeType, Flags, Header, Notify, NotifyType, Parsed, Payload},
};

pub(super) struct Retired {
    pub(super) initiator: bool,
    pub(super) spi_i: u64,
    pub(super) spi_r: u64,
    pub(super) requests: Requests,
    pub(super) responses: Responses,
    /// Until nothing new can be said.
    pub(super) crypt: Option<Box<Crypt>>,
    pub(super) inbox: Inbox,
    pub(super) end: End,
    /// Whether both ends take fragments.
    pub(super) fragments: bool,
    /// When it is forgotten; every sign of the peer puts that off.
    pub(super) until: Instant,
}

/// How far the Delete of a replaced IKE SA is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// Nobody has said it.
    #[default]
    Open,
    /// We have, and wait for the answer.
    Said,
    /// Both ends know.
    Known,
}

impl Retired {
    pub(super) const fn own_spi(&self) -> u64 {
        match self.initiator {
            true => self.spi_i,
            false => self.spi_r,
        }
    }

    /// Both ends know that it is deleted.
    pub(super) fn is_deleted(&mut self) {
        self.end = End::Known;
        self.finish();
    }

    /// Wipes the keys once nothing needs them any more.
    fn finish(&mut self) {
        if self.end == End::Known && self.requests.is_free() {
            self.crypt = None;
            self.inbox = Inbox::default();
        }
    }

    fn header(&self, exchange: ExchangeType, response: bool, message_id: u32) -> Header {
        Header {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            exchange,
            flags: Flags {
                initiator: self.initiator,
                response,
            },
            message_id,
        }
    }

    /// Sends the Delete that ends it.
    pub(super) fn delete(&mut self, cx: &mut Cx<'_>, path: Path) {
        let Some(id) = self.requests.next_id() else {
            return;
        };
        let header = self.header(ExchangeType::Informational, false, id);
        let payloads = [Payload::Delete(Delete::Ike)];
        if let Some(datagrams) = self.send(cx, path, &header, &payloads) {
            let timing = &cx.config.timing;
            self.requests
                .sent(cx.now, timing, id, ExchangeType::Informational, datagrams);
            self.end = End::Said;
        }
    }

    fn send(
        &mut self,
        cx: &mut Cx<'_>,
        path: Path,
        header: &Header,
        payloads: &[Payload],
    ) -> Option<Datagrams> {
        let room = match self.fragments {
            true => cx.config.fragmentation.room(path),
            false => None,
        };
        let outbound = &mut self.crypt.as_mut()?.outbound;
        let datagrams = fragments::seal(outbound, header, payloads, room, cx.rng).ok()?;
        cx.transmit_all(path, &datagrams);
        Some(datagrams)
    }

    /// `None` once its keys are wiped.
    fn open(&mut self, cx: &Cx<'_>, parsed: &Parsed<'_>) -> Option<Arrival> {
        let limits = self.fragments.then_some(&cx.config.fragmentation);
        let crypt = self.crypt.as_ref()?;
        Some(self.inbox.open(&crypt.inbound, parsed, cx.now, limits))
    }

    /// A message for it. Whether the peer said something.
    fn handle(&mut self, cx: &mut Cx<'_>, heir: &mut Sa, path: Path, parsed: &Parsed<'_>) -> bool {
        let header = &parsed.header;
        let linger = cx.now + cx.config.timing.linger;
        if header.flags.response {
            let ours = self.requests.expects(header.message_id, header.exchange)
                && matches!(self.open(cx, parsed), Some(Arrival::Message(_)));
            if ours {
                self.requests.answered();
                self.until = linger;
                if self.end == End::Said {
                    self.end = End::Known;
                }
                self.finish();
            }
            return ours;
        }
        let digest = digest(parsed.datagram);
        match self.responses.classify(header.message_id, &digest) {
            Incoming::New => {}
            Incoming::Replay(response) => {
                cx.transmit_all(path, response);
                self.until = linger;
                return false;
            }
            Incoming::InProgress | Incoming::Outside => return false,
        }
        let Some(Arrival::Message(opened)) = self.open(cx, parsed) else {
            return false;
        };
        self.responses
            .accept(header.message_id, header.exchange, opened.digest, path);
        let (mut moved, mut deleted) = (false, false);
        let payloads: Vec<Payload> = match header.exchange {
            // A peer that moves before it has seen the new IKE SA in use says so on this one.
            ExchangeType::Informational => {
                let mut answer = Vec::new();
                let payloads = opened.payloads.unwrap_or_default();
                deleted = deletes(&payloads);
                let spis = (self.spi_i, self.spi_r);
                moved = heir.mobike_request(cx, spis, path, &payloads, &mut answer);
                answer
            }
            _ => vec![Notify::status(NotifyType::TEMPORARY_FAILURE, Vec::new()).into()],
        };
        self.answer(cx, path, header.exchange, header.message_id, &payloads);
        if moved {
            if let Some(datagrams) = self.requests.again(cx.now, &cx.config.timing) {
                cx.transmit_all(path, datagrams);
            }
            heir.follow_update(cx);
        }
        if deleted {
            self.is_deleted();
        }
        self.until = linger;
        true
    }

    /// Answers the request that is being worked on.
    pub(super) fn answer(
        &mut self,
        cx: &mut Cx<'_>,
        path: Path,
        exchange: ExchangeType,
        id: u32,
        payloads: &[Payload],
    ) {
        let header = self.header(exchange, true, id);
        if let Some(datagrams) = self.send(cx, path, &header, payloads) {
            self.responses.answered(datagrams);
        }
    }

    pub(super) fn next_timeout(&self) -> Instant {
        self.requests.due().unwrap_or(self.until)
    }
}

impl Sa {
    /// A protected message that names other SPIs than the current ones.
    pub(crate) fn handle_beside(&mut self, cx: &mut Cx<'_>, path: Path, parsed: &Parsed<'_>) {
        let header = &parsed.header;
        if let Some(heir) = &self.heir
            && (heir.spi_i, heir.spi_r) == (header.spi_i, header.spi_r)
        {
            if !heir.crypt.inbound.open_any(parsed) {
                return;
            }
            // A Delete is too short for fragments.
            let payloads = heir.crypt.inbound.open(parsed).ok();
            if !self.redundant_deleted(cx, &payloads.unwrap_or_default(), parsed) {
                self.enthrone(cx);
                self.handle(cx, path, parsed);
                return;
            }
        }
        let mut retired = std::mem::take(&mut self.retired);
        let heard = retired
            .iter_mut()
            .find(|old| (old.spi_i, old.spi_r) == (header.spi_i, header.spi_r))
            .is_some_and(|old| old.handle(cx, self, path, parsed));
        self.retired = retired;
        if heard {
            self.last_heard = cx.now;
            self.pump(cx);
        }
    }

    /// Retransmits for replaced SAs, and forgets them in the end.
    pub(super) fn retired_timeout(&mut self, cx: &mut Cx<'_>) {
        let path = self.path;
        let changes = &mut self.spi_changes;
        self.retired.retain_mut(|old| {
            match old.requests.tick(cx.now, &cx.config.timing) {
                Tick::Nothing => {}
                Tick::Resend(datagrams) => cx.transmit_all(path, datagrams),
                // Whether the peer lives is asked on the new one.
                Tick::GiveUp => old.requests.answered(),
            }
            let stays = !old.requests.is_free() || old.until > cx.now;
            if !stays {
                changes.push(SpiChange::Free(old.own_spi()));
            }
            stays
        });
        if self.retired.is_empty() {
            // Its room too: thousands of SAs are rekeyed, and rarely.
            self.retired = Vec::new();
        }
    }

    /// Keeps a replaced IKE SA for a while.
    pub(super) fn keep_retired(&mut self, old: Retired) {
        self.retired.reserve_exact(1);
        self.retired.push(old);
    }

    /// A new request on the current IKE SA although the peer has rekeyed it: a Delete is the rekey's last step.
    pub(super) fn hands_over_to_heir(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) -> bool {
        if self.heir.is_none() {
            return false;
        }
        if !deletes(payloads) {
            // Whoever goes on with the old one could not take the new one.
            self.disown(cx);
            return false;
        }
        self.respond(cx, &[]);
        if !self.closed {
            self.enthrone(cx);
            if let Some(old) = self.retired.last_mut() {
                old.is_deleted();
            }
            self.pump(cx);
        }
        true
    }
}

/// Whether an IKE SA is deleted with these.
fn deletes(payloads: &[Payload]) -> bool {
    payloads
        .iter()
        .any(|payload| matches!(payload, Payload::Delete(Delete::Ike)))
}

#[cfg(test)]
mod tests {
    use keys::Secret;

    use super::*;
    use crate::{
        config::Timing,
        crypto::{AesBits, DirectionKeys, Encr, IkeKeys, IkeSuite, Prf},
    };

    fn retired() -> Retired {
        let suite = IkeSuite {
            encr: Encr::AesGcm16(AesBits::B256),
            integ: None,
            prf: Prf::HmacSha2_256,
            ke: None,
        };
        let secret = || Secret::from_slice(&[7; 32]);
        let direction = || DirectionKeys {
            encr: secret(),
            salt: [7; 4],
            integ: None,
        };
        let keys = IkeKeys {
            sk_d: secret(),
            initiator: direction(),
            responder: direction(),
            sk_pi: secret(),
            sk_pr: secret(),
        };
        Retired {
            initiator: false,
            spi_i: 1,
            spi_r: 2,
            requests: Requests::default(),
            responses: Responses::default(),
            crypt: Crypt::new(&suite, false, keys, None).ok().map(Box::new),
            inbox: Inbox::default(),
            end: End::Open,
            fragments: false,
            until: Instant::from_origin(std::time::Duration::ZERO),
        }
    }

    #[test]
    fn keys_are_wiped_with_the_delete_and_not_before_the_last_answer() {
        let mut old = retired();
        old.finish();
        assert!(old.crypt.is_some());
        old.is_deleted();
        assert!(old.crypt.is_none());

        let mut asking = retired();
        let now = Instant::from_origin(std::time::Duration::ZERO);
        let exchange = ExchangeType::Informational;
        asking
            .requests
            .sent(now, &Timing::default(), 3, exchange, Vec::new());
        asking.is_deleted();
        assert!(asking.crypt.is_some(), "an answer is still to be opened");
        asking.requests.answered();
        asking.finish();
        assert!(asking.crypt.is_none());
    }
}
