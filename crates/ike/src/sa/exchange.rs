//! Protected messages of one IKE SA: sealing, opening, and which exchange takes them.

use std::net::SocketAddr;

use zeroize::Zeroizing;

use super::{
    Command, Cx, Denial, Phase, Sa,
    fragments::{self, Arrival, Opened},
    window::{self, Incoming},
};
use crate::{
    crypto::intermediate::Covered,
    event::{CloseReason, Path},
    wire::{self, ExchangeType, Flags, Header, Parsed, Payload, WireError},
};

impl Sa {
    pub(super) fn header(&self, exchange: ExchangeType, response: bool, message_id: u32) -> Header {
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

    pub(super) fn transmit(&mut self, cx: &mut Cx<'_>, message: &[u8]) {
        self.last_sent = cx.now;
        cx.transmit(self.path, message);
    }

    /// Sends a protected request. The window has to be free.
    pub(super) fn request(
        &mut self,
        cx: &mut Cx<'_>,
        exchange: ExchangeType,
        payloads: &[Payload],
    ) {
        let Some(id) = self.requests.next_id() else {
            return self.finish(cx, CloseReason::Unsendable);
        };
        let header = self.header(exchange, false, id);
        let path = self.path;
        let Some(datagrams) = self.seal(cx, path, &header, payloads) else {
            return self.finish(cx, CloseReason::Unsendable);
        };
        self.last_sent = cx.now;
        cx.transmit_all(path, &datagrams);
        let timing = self.timing(cx.config);
        self.requests.sent(cx.now, &timing, id, exchange, datagrams);
    }

    /// Seals a message for a path, in fragments if it needs to be.
    pub(super) fn seal(
        &mut self,
        cx: &mut Cx<'_>,
        path: Path,
        header: &Header,
        payloads: &[Payload],
    ) -> Option<window::Datagrams> {
        let room = self
            .fragments
            .then(|| cx.config.fragmentation.room(path))
            .flatten();
        let (first, chain) = wire::encode_payloads(payloads).ok()?;
        let chain = Zeroizing::new(chain);
        let outbound = &mut self.crypt.as_mut()?.outbound;
        let datagrams =
            fragments::seal_chain(outbound, header, (first, &chain), room, cx.rng).ok()?;
        if header.exchange == ExchangeType::IkeIntermediate {
            let parsed = wire::parse(datagrams.first()?).ok()?;
            self.cover(header.flags.response, Covered::new(&parsed, &chain));
        }
        Some(datagrams)
    }

    /// Answers the peer's request that is being worked on.
    pub(super) fn respond(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) {
        let Some(pending) = self.responses.pending() else {
            return;
        };
        let header = self.header(pending.exchange, true, pending.id);
        let Some(datagrams) = self.seal(cx, pending.path, &header, payloads) else {
            return self.finish(cx, CloseReason::Unsendable);
        };
        self.last_sent = cx.now;
        cx.transmit_all(pending.path, &datagrams);
        self.responses.answered(datagrams);
    }

    /// A datagram for this SA that is not IKE_SA_INIT.
    pub(crate) fn handle(&mut self, cx: &mut Cx<'_>, path: Path, parsed: &Parsed<'_>) {
        if parsed.header.flags.response {
            self.handle_response(cx, path, parsed);
        } else {
            self.handle_request(cx, path, parsed);
        }
    }

    pub(super) fn handle_request(&mut self, cx: &mut Cx<'_>, path: Path, parsed: &Parsed<'_>) {
        let header = &parsed.header;
        let digest = window::digest(parsed.datagram);
        match self.responses.classify(header.message_id, &digest) {
            Incoming::New => {}
            Incoming::Replay(response) => return cx.transmit_all(path, response),
            Incoming::InProgress => return,
            Incoming::Outside => {
                if !self.forgives_request_id(cx, path, parsed) {
                    return;
                }
            }
        }
        if !self.takes(header.exchange) {
            return;
        }
        let Some(opened) = self.open(cx, path, parsed) else {
            return;
        };
        self.responses
            .accept(header.message_id, header.exchange, opened.digest, path);
        if let Ok(payloads) = &opened.payloads
            && self.hands_over_to_heir(cx, payloads)
        {
            return;
        }
        self.peer_goes_on(cx, header.exchange);
        self.cover(false, opened.covered);
        let denial = match opened.payloads {
            Ok(payloads) => match header.exchange {
                ExchangeType::IkeIntermediate => self.intermediate_request(cx, &payloads),
                ExchangeType::IkeAuth => self.auth_request(cx, path, &payloads),
                ExchangeType::CreateChildSa => self.create_request(cx, &payloads),
                ExchangeType::IkeFollowupKe => self.followup_request(cx, &payloads),
                _ => self.informational_request(cx, &payloads),
            },
            // An unknown critical payload fails only its exchange, once the SA is established (RFC 7296 2.21.3).
            Err(error @ WireError::UnsupportedCritical(_)) if self.is_established() => {
                Err(Denial {
                    answer: error.notify(),
                    fatal: None,
                })
            }
            Err(error) => Err(Denial {
                answer: error.notify(),
                fatal: Some(CloseReason::Syntax("of a protected request")),
            }),
        };
        if let Err(denial) = denial {
            self.respond(cx, &[denial.answer.into()]);
            if let Some(reason) = denial.fatal {
                self.finish(cx, reason);
            }
        }
        self.pump(cx);
    }

    pub(super) fn handle_response(&mut self, cx: &mut Cx<'_>, path: Path, parsed: &Parsed<'_>) {
        let header = &parsed.header;
        if !self.requests.expects(header.message_id, header.exchange)
            && !self.forgives_response_id(cx, parsed)
        {
            return;
        }
        let Some(opened) = self.open(cx, path, parsed) else {
            return;
        };
        self.note_response(cx, parsed);
        self.requests.answered();
        self.cover(true, opened.covered);
        match opened.payloads {
            Ok(payloads) => match header.exchange {
                ExchangeType::IkeIntermediate => self.intermediate_response(cx, &payloads),
                ExchangeType::IkeAuth => self.auth_response(cx, &payloads),
                _ => self.command_response(cx, &payloads),
            },
            Err(_) if matches!(self.phase, Phase::Deleting) => {
                self.finish(cx, CloseReason::Local);
            }
            Err(_) => self.finish(cx, CloseReason::Syntax("of a protected response")),
        }
        self.pump(cx);
    }

    /// Which requests make sense now. Others are left to be retransmitted, or to die.
    pub(super) fn takes(&self, exchange: ExchangeType) -> bool {
        match (&self.phase, exchange) {
            (Phase::AuthR(auth), ExchangeType::IkeAuth) => auth.awaits_request(),
            (Phase::Between(between), ExchangeType::IkeIntermediate) => between.awaits_request(),
            (
                Phase::Between(_) | Phase::AuthI(_) | Phase::AuthR(_),
                ExchangeType::Informational,
            ) => true,
            (
                Phase::Established | Phase::Deleting,
                ExchangeType::CreateChildSa
                | ExchangeType::IkeFollowupKe
                | ExchangeType::Informational,
            ) => true,
            _ => false,
        }
    }

    /// Opens a protected message. `None`: it is not one, not all of one, or not from the peer.
    pub(super) fn open(
        &mut self,
        cx: &mut Cx<'_>,
        path: Path,
        parsed: &Parsed<'_>,
    ) -> Option<Opened> {
        let limits = self.fragments.then_some(&cx.config.fragmentation);
        let inbound = &self.crypt.as_ref()?.inbound;
        let opened = match self.inbox.open(inbound, parsed, cx.now, limits) {
            Arrival::Nothing => return None,
            Arrival::Fragment => None,
            Arrival::Message(opened) => Some(*opened),
        };
        self.last_heard = cx.now;
        self.follow(cx, path, parsed.header.flags.response);
        opened
    }

    /// Takes over the path of an authenticated message: freely until established (the initiator floats to
    /// port 4500), later only of a peer behind a NAT (RFC 7296 2.23).
    pub(super) fn follow(&mut self, cx: &mut Cx<'_>, path: Path, response: bool) {
        if self.ue || response || path == self.path {
            return;
        }
        match self.phase {
            Phase::Between(_) | Phase::AuthR(_) => self.path = path,
            // With MOBIKE the peer says so itself (RFC 4555 3.8).
            Phase::Established if self.nat_remote && !self.mobility.is_agreed() => {
                self.path = path;
                self.path_changed(cx);
            }
            _ => {}
        }
    }

    /// Takes over where authentic ESP of a peer behind a NAT comes from (RFC 7296 2.23).
    pub(crate) fn remap(&mut self, cx: &mut Cx<'_>, remote: SocketAddr) {
        let path = Path {
            remote,
            ..self.path
        };
        if matches!(self.phase, Phase::Established) {
            self.follow(cx, path, false);
        }
    }

    /// Sends the next own request when the window is free.
    pub(super) fn pump(&mut self, cx: &mut Cx<'_>) {
        while matches!(self.phase, Phase::Established | Phase::Deleting) && self.requests.is_free()
        {
            let Some(command) = self.next_command() else {
                return;
            };
            self.current = Some(command);
            match command {
                Command::Probe => self.send_probe(cx),
                Command::UpdateAddresses => self.send_update(cx),
                Command::CheckRoutability => self.send_check(cx),
                Command::Inform(token) => self.send_inform(cx, token),
                Command::CreateChild(child) => self.send_child_request(cx, child),
                Command::FollowChild(child) => self.send_child_followup(cx, child),
                Command::RekeyIke => self.send_ike_rekey(cx),
                Command::DeleteChild(child) => self.send_child_delete(cx, child),
                Command::DeleteSpi(spi) => self.send_delete(cx, spi),
                Command::DeleteIke => self.send_ike_delete(cx),
            }
        }
    }

    /// While a rekey of the IKE SA is between its exchange and its end, nothing but the responder's questions for a
    /// sign of life, and its new address, goes through the old one: the rest waits for the new one.
    fn next_command(&mut self) -> Option<Command> {
        if self.is_between() {
            return None;
        }
        if self.heir.is_none() {
            // A Child SA in the making takes its keys from the IKE SA that it was asked for on.
            let waits = self.makes_child();
            let next = self
                .queue
                .iter()
                .position(|command| *command != Command::RekeyIke || !waits)?;
            return self.queue.remove(next);
        }
        let first = self
            .queue
            .iter()
            .position(|command| matches!(command, Command::Probe | Command::UpdateAddresses))?;
        self.queue.remove(first)
    }

    pub(super) fn command_response(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) {
        match self.current.take() {
            Some(Command::CreateChild(child)) => self.child_response(cx, child, payloads),
            Some(Command::FollowChild(child)) => self.child_followup(cx, child, payloads),
            Some(Command::RekeyIke) => self.ike_rekey_response(cx, payloads),
            Some(Command::DeleteChild(child)) => self.remove_child(cx, child, false),
            Some(Command::DeleteIke) => self.finish(cx, CloseReason::Local),
            Some(Command::Probe) => self.probe_response(cx, payloads),
            Some(Command::UpdateAddresses) => self.update_response(cx, payloads),
            Some(Command::CheckRoutability) => self.check_response(cx, payloads),
            Some(Command::Inform(token)) => self.informed(cx, token, payloads),
            Some(Command::DeleteSpi(_)) | None => {}
        }
    }
}
