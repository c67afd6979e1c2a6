//! Protected messages of one IKE SA: sealing, opening, and which exchange takes them.

use super::{
    Command, Cx, Denial, Phase, Sa, keys,
    window::{self, Incoming},
};
use crate::{
    event::{CloseReason, Event, Path},
    wire::{ExchangeType, Flags, Header, Parsed, Payload, WireError},
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
        let sealed = match &mut self.crypt {
            Some(crypt) => crypt.outbound.seal(&header, payloads, cx.rng).ok(),
            None => None,
        };
        let Some(datagram) = sealed else {
            return self.finish(cx, CloseReason::Unsendable);
        };
        self.transmit(cx, &datagram);
        self.requests
            .sent(cx.now, &cx.config.timing, id, exchange, datagram);
    }

    /// Answers the peer's request that is being worked on.
    pub(super) fn respond(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) {
        let Some(pending) = self.responses.pending() else {
            return;
        };
        let header = self.header(pending.exchange, true, pending.id);
        let sealed = match &mut self.crypt {
            Some(crypt) => crypt.outbound.seal(&header, payloads, cx.rng).ok(),
            None => None,
        };
        let Some(datagram) = sealed else {
            return self.finish(cx, CloseReason::Unsendable);
        };
        self.last_sent = cx.now;
        cx.transmit(pending.path, &datagram);
        self.responses.answered(datagram);
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
            Incoming::Replay(response) => return cx.transmit(path, response),
            Incoming::InProgress | Incoming::Outside => return,
        }
        if !self.takes(header.exchange) {
            return;
        }
        let Some(opened) = self.open(cx, path, parsed) else {
            return;
        };
        self.responses
            .accept(header.message_id, header.exchange, digest, path);
        if let Ok(payloads) = &opened
            && self.hands_over_to_heir(cx, payloads)
        {
            return;
        }
        let denial = match opened {
            Ok(payloads) => match header.exchange {
                ExchangeType::IkeAuth => self.auth_request(cx, path, &payloads),
                ExchangeType::CreateChildSa => self.create_request(cx, &payloads),
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
        if !self.requests.expects(header.message_id, header.exchange) {
            return;
        }
        let Some(opened) = self.open(cx, path, parsed) else {
            return;
        };
        self.requests.answered();
        match opened {
            Ok(payloads) => match header.exchange {
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
            (Phase::AuthI(_) | Phase::AuthR(_), ExchangeType::Informational) => true,
            (
                Phase::Established | Phase::Deleting,
                ExchangeType::CreateChildSa | ExchangeType::Informational,
            ) => true,
            _ => false,
        }
    }

    /// Opens a protected message. `None`: it is not one, or not from the peer.
    pub(super) fn open(
        &mut self,
        cx: &mut Cx<'_>,
        path: Path,
        parsed: &Parsed<'_>,
    ) -> Option<Result<Vec<Payload>, WireError>> {
        let crypt = self.crypt.as_mut()?;
        let opened = keys::open(&crypt.inbound, parsed)?;
        self.last_heard = cx.now;
        self.follow(cx, path, parsed.header.flags.response);
        Some(opened)
    }

    /// Takes over the path of an authenticated message: freely until established (the initiator floats to
    /// port 4500), later only of a peer behind a NAT (RFC 7296 2.23).
    pub(super) fn follow(&mut self, cx: &mut Cx<'_>, path: Path, response: bool) {
        if self.ue || response || path == self.path {
            return;
        }
        match self.phase {
            Phase::AuthR(_) => self.path = path,
            Phase::Established if self.nat_remote => {
                self.path = path;
                let sa = self.id;
                cx.events.push_back(Event::PathChanged { sa, path });
            }
            _ => {}
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
                Command::Probe => self.request(cx, ExchangeType::Informational, &[]),
                Command::CreateChild(child) => self.send_child_request(cx, child),
                Command::RekeyIke => self.send_ike_rekey(cx),
                Command::DeleteChild(child) => self.send_child_delete(cx, child),
                Command::DeleteSpi(spi) => self.send_delete(cx, spi),
                Command::DeleteIke => self.send_ike_delete(cx),
            }
        }
    }

    /// While a rekey of the IKE SA is between its exchange and its end, nothing but the responder's questions for a
    /// sign of life goes through the old one: the rest waits for the new one.
    fn next_command(&mut self) -> Option<Command> {
        if self.is_between() {
            return None;
        }
        if self.heir.is_none() {
            return self.queue.pop_front();
        }
        let probe = self
            .queue
            .iter()
            .position(|command| *command == Command::Probe)?;
        self.queue.remove(probe)
    }

    pub(super) fn command_response(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) {
        match self.current.take() {
            Some(Command::CreateChild(child)) => self.child_response(cx, child, payloads),
            Some(Command::RekeyIke) => self.ike_rekey_response(cx, payloads),
            Some(Command::DeleteChild(child)) => self.remove_child(cx, child, false),
            Some(Command::DeleteIke) => self.finish(cx, CloseReason::Local),
            Some(Command::Probe | Command::DeleteSpi(_)) | None => {}
        }
    }
}
