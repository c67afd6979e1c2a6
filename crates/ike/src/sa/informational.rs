//! INFORMATIONAL: deletes, liveness, late errors (RFC 7296 1.4, 2.4, 2.25).

use super::{Command, Cx, Denial, Phase, Sa, child::ChildState, keys::foreign_notifies};
use crate::{
    event::{ChildId, CloseReason, CommandError, Event},
    wire::{Delete, ExchangeType, Notify, NotifyType, Payload, Protocol, notifies},
};

/// Deletes remembered for a Child SA that is not known yet.
const MAX_EARLY_DELETES: usize = 16;

impl Sa {
    /// An INFORMATIONAL request. It is always answered; an empty one asks for nothing else.
    pub(super) fn informational_request(
        &mut self,
        cx: &mut Cx<'_>,
        request: &[Payload],
    ) -> Result<(), Denial> {
        let mut answer = Vec::new();
        let mut doomed = Vec::new();
        let mut ends = notifies(request)
            .any(|notify| notify.kind == NotifyType::AUTHENTICATION_FAILED)
            .then_some(CloseReason::AuthenticationRefused);
        for payload in request {
            match payload {
                Payload::Delete(Delete::Ike) => {
                    ends.get_or_insert(match self.phase {
                        // Both delete at once: the end is the same, and it was wanted here too.
                        Phase::Deleting => CloseReason::Local,
                        _ => CloseReason::PeerDeleted,
                    });
                }
                Payload::Delete(Delete::Child { protocol, spis }) if *protocol == Protocol::ESP => {
                    for spi in spis {
                        match self.child_the_peer_deletes(*spi, &mut answer) {
                            Some(child) => doomed.push(child),
                            None => self.note_early_delete(*spi),
                        }
                    }
                }
                _ => {}
            }
        }
        let mut response: Vec<Payload> = match answer.is_empty() {
            true => Vec::new(),
            false => vec![Payload::Delete(Delete::esp(answer))],
        };
        let moved = match self.responses.pending() {
            Some(pending) => {
                let spis = (self.spi_i, self.spi_r);
                self.mobike_request(cx, spis, pending.path, request, &mut response)
            }
            None => false,
        };
        self.respond(cx, &response);
        if moved && ends.is_none() {
            self.follow_update(cx);
        }
        let told = foreign_notifies(request);
        if self.is_established() && !told.is_empty() {
            let sa = self.id;
            cx.events.push_back(Event::Told { sa, notifies: told });
        }
        for child in doomed {
            self.drop_child(cx, child, true);
        }
        if let Some(reason) = ends {
            self.finish(cx, reason);
        }
        Ok(())
    }

    /// The Child SA the peer receives on with this SPI. Our SPI of it goes into the answer, unless our own Delete
    /// of it is under way (RFC 7296 1.4.1).
    fn child_the_peer_deletes(&self, spi_out: u32, answer: &mut Vec<u32>) -> Option<ChildId> {
        let child = self
            .children
            .values()
            .find(|child| child.spi_out == spi_out && child.state != ChildState::Asked)?;
        let crossing = child.state == ChildState::Deleting
            && self.current == Some(Command::DeleteChild(child.id));
        if !crossing {
            answer.push(child.spi_in);
        }
        Some(child.id)
    }

    /// The peer may delete a Child SA before its response that made it has arrived here: then the response, when it
    /// comes, makes nothing.
    fn note_early_delete(&mut self, spi_out: u32) {
        let asking = matches!(self.phase, Phase::AuthI(_))
            || matches!(self.current, Some(Command::CreateChild(_)));
        if asking && self.early_deletes.len() < MAX_EARLY_DELETES {
            self.early_deletes.push(spi_out);
        }
    }

    /// Sends the Delete of the IKE SA.
    pub(super) fn send_ike_delete(&mut self, cx: &mut Cx<'_>) {
        let delete = Payload::Delete(Delete::Ike);
        self.request(cx, ExchangeType::Informational, &[delete]);
    }

    /// Queues notifies for the peer.
    pub(crate) fn inform(
        &mut self,
        cx: &mut Cx<'_>,
        token: u64,
        notifies: Vec<Notify>,
    ) -> Result<(), CommandError> {
        if !self.is_established() {
            return Err(CommandError::NotEstablished);
        }
        self.informs.push_back((token, notifies));
        self.queue.push_back(Command::Inform(token));
        self.pump(cx);
        Ok(())
    }

    pub(super) fn send_inform(&mut self, cx: &mut Cx<'_>, token: u64) {
        let place = self.informs.iter().position(|(own, _)| *own == token);
        let found = place.and_then(|place| self.informs.remove(place));
        let notifies = found.map(|(_, notifies)| notifies).unwrap_or_default();
        let payloads: Vec<Payload> = notifies.into_iter().map(Payload::from).collect();
        self.request(cx, ExchangeType::Informational, &payloads);
    }

    /// The peer has answered [`inform`](Self::inform).
    pub(super) fn informed(&mut self, cx: &mut Cx<'_>, token: u64, payloads: &[Payload]) {
        let refusal = notifies(payloads)
            .map(|notify| notify.kind)
            .find(|kind| kind.is_error());
        let sa = self.id;
        cx.events.push_back(Event::Informed { sa, token, refusal });
    }
}
