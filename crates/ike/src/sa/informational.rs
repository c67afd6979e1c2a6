//! INFORMATIONAL: deletes, liveness, late errors (RFC 7296 1.4, 2.4, 2.25).

use super::{Command, Cx, Denial, Phase, Sa, child::ChildState};
use crate::{
    event::{ChildId, CloseReason},
    wire::{Delete, ExchangeType, NotifyType, Payload, Protocol, notifies},
};

impl Sa {
    /// An INFORMATIONAL request. It is always answered; an empty one asks for nothing else.
    pub(super) fn informational_request(
        &mut self,
        cx: &mut Cx<'_>,
        payloads: &[Payload],
    ) -> Result<(), Denial> {
        let mut answer = Vec::new();
        let mut doomed = Vec::new();
        let mut ends = notifies(payloads)
            .any(|notify| notify.kind == NotifyType::AUTHENTICATION_FAILED)
            .then_some(CloseReason::AuthenticationRefused);
        for payload in payloads {
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
                        doomed.extend(self.child_the_peer_deletes(*spi, &mut answer));
                    }
                }
                _ => {}
            }
        }
        let payloads: Vec<Payload> = match answer.is_empty() {
            true => Vec::new(),
            false => vec![Payload::Delete(Delete::esp(answer))],
        };
        self.respond(cx, &payloads);
        for child in doomed {
            self.remove_child(cx, child, true);
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
            .find(|child| child.spi_out == spi_out && child.state.is_installed())?;
        let crossing = child.state == ChildState::Deleting
            && self.current == Some(Command::DeleteChild(child.id));
        if !crossing {
            answer.push(child.spi_in);
        }
        Some(child.id)
    }

    /// Sends the Delete of the IKE SA.
    pub(super) fn send_ike_delete(&mut self, cx: &mut Cx<'_>) {
        let delete = Payload::Delete(Delete::Ike);
        self.request(cx, ExchangeType::Informational, &[delete]);
    }
}
