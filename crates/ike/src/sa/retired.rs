//! An IKE SA that was replaced by a rekey: it answers what its peer repeats, and is deleted by whoever began the rekey.

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
    pub(super) crypt: Crypt,
    pub(super) inbox: Inbox,
    /// Whether both ends take fragments.
    pub(super) fragments: bool,
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
        if let Some(datagrams) = self.send(cx, path, &header, &payloads) {
            let timing = &cx.config.timing;
            self.requests
                .sent(cx.now, timing, id, ExchangeType::Informational, datagrams);
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
        let outbound = &mut self.crypt.outbound;
        let datagrams = fragments::seal(outbound, header, payloads, room, cx.rng).ok()?;
        cx.transmit_all(path, &datagrams);
        Some(datagrams)
    }

    fn open(&mut self, cx: &Cx<'_>, parsed: &Parsed<'_>) -> Arrival {
        let limits = self.fragments.then_some(&cx.config.fragmentation);
        self.inbox.open(&self.crypt.inbound, parsed, cx.now, limits)
    }

    /// A message for it. Whether the peer said something.
    fn handle(&mut self, cx: &mut Cx<'_>, heir: &mut Sa, path: Path, parsed: &Parsed<'_>) -> bool {
        let header = &parsed.header;
        let linger = cx.now + cx.config.timing.linger;
        if header.flags.response {
            let ours = self.requests.expects(header.message_id, header.exchange)
                && matches!(self.open(cx, parsed), Arrival::Message(_));
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
                cx.transmit_all(path, response);
                self.until = linger;
                return false;
            }
            Incoming::InProgress | Incoming::Outside => return false,
        }
        let Arrival::Message(opened) = self.open(cx, parsed) else {
            return false;
        };
        self.responses
            .accept(header.message_id, header.exchange, opened.digest, path);
        let mut moved = false;
        let payloads: Vec<Payload> = match header.exchange {
            // A peer that moves before it has seen the new IKE SA in use says so on this one.
            ExchangeType::Informational => {
                let mut answer = Vec::new();
                let payloads = opened.payloads.unwrap_or_default();
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
