//! An IKE SA that was replaced by a rekey: it answers what its peer repeats, and is deleted by whoever began the rekey.

use super::{
    Cx, Sa, SpiChange,
    keys::{self, Crypt},
    window::{Incoming, Requests, Responses, Tick, digest},
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
    pub(super) crypt: Crypt,
    /// When it is forgotten; every sign of the peer puts that off.
    pub(super) until: Instant,
}

impl Retired {
    pub(super) const fn own_spi(&self) -> u64 {
        match self.initiator {
            true => self.spi_i,
            false => self.spi_r,
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
        if let Ok(datagram) = self.crypt.outbound.seal(&header, &payloads, cx.rng) {
            cx.transmit(path, &datagram);
            let timing = &cx.config.timing;
            self.requests
                .sent(cx.now, timing, id, ExchangeType::Informational, datagram);
        }
    }

    /// A message for it. Whether the peer said something.
    fn handle(&mut self, cx: &mut Cx<'_>, path: Path, parsed: &Parsed<'_>) -> bool {
        let header = &parsed.header;
        let linger = cx.now + cx.config.timing.linger;
        if header.flags.response {
            let ours = self.requests.expects(header.message_id, header.exchange)
                && keys::open(&self.crypt.inbound, parsed).is_some();
            if ours {
                self.requests.answered();
                self.until = linger;
            }
            return ours;
        }
        let digest = digest(parsed.datagram);
        match self.responses.classify(header.message_id, &digest) {
            Incoming::New => {}
            Incoming::Replay(response) => {
                cx.transmit(path, response);
                self.until = linger;
                return false;
            }
            Incoming::InProgress | Incoming::Outside => return false,
        }
        if keys::open(&self.crypt.inbound, parsed).is_none() {
            return false;
        }
        self.responses
            .accept(header.message_id, header.exchange, digest, path);
        let payloads: Vec<Payload> = match header.exchange {
            ExchangeType::Informational => Vec::new(),
            _ => vec![Notify::status(NotifyType::TEMPORARY_FAILURE, Vec::new()).into()],
        };
        self.answer(cx, path, header.exchange, header.message_id, &payloads);
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
        if let Ok(datagram) = self.crypt.outbound.seal(&header, payloads, cx.rng) {
            cx.transmit(path, &datagram);
            self.responses.answered(datagram);
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
            if keys::open(&heir.crypt.inbound, parsed).is_some() {
                self.enthrone(cx);
                self.handle(cx, path, parsed);
            }
            return;
        }
        let heard = self
            .retired
            .iter_mut()
            .find(|old| (old.spi_i, old.spi_r) == (header.spi_i, header.spi_r))
            .is_some_and(|old| old.handle(cx, path, parsed));
        if heard {
            self.last_heard = cx.now;
        }
    }

    /// Retransmits for replaced SAs, and forgets them in the end.
    pub(super) fn retired_timeout(&mut self, cx: &mut Cx<'_>) {
        let path = self.path;
        let changes = &mut self.spi_changes;
        self.retired.retain_mut(|old| {
            match old.requests.tick(cx.now, &cx.config.timing) {
                Tick::Nothing => {}
                Tick::Resend(datagram) => cx.transmit(path, datagram),
                // Whether the peer lives is asked on the new one.
                Tick::GiveUp => old.requests.answered(),
            }
            let stays = !old.requests.is_free() || old.until > cx.now;
            if !stays {
                changes.push(SpiChange::Free(old.own_spi()));
            }
            stays
        });
    }

    /// A new request on the current IKE SA although the peer has rekeyed it: a Delete is the rekey's last step.
    pub(super) fn hands_over_to_heir(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) -> bool {
        if self.heir.is_none() {
            return false;
        }
        let deletes = payloads
            .iter()
            .any(|payload| matches!(payload, Payload::Delete(Delete::Ike)));
        if !deletes {
            // Whoever goes on with the old one could not take the new one.
            self.disown(cx);
            return false;
        }
        self.respond(cx, &[]);
        if !self.closed {
            self.enthrone(cx);
            self.pump(cx);
        }
        true
    }
}
