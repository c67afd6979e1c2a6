//! What outlives an IKE SA: its last response, for a peer that missed it, and its farewell, until confirmed.
//!
//! Both are finished datagrams; a ghost has no keys and can do nothing else.

use super::{
    Cx,
    window::{Incoming, Requests, Responses, Tick, digest},
};
use crate::{event::Path, time::Instant, wire::Parsed};

pub(crate) struct Ghost {
    own_spi: u64,
    path: Path,
    requests: Requests,
    responses: Responses,
    until: Instant,
}

impl Ghost {
    pub(super) fn new(
        own_spi: u64,
        path: Path,
        requests: Requests,
        responses: Responses,
        until: Instant,
    ) -> Self {
        Self {
            own_spi,
            path,
            requests,
            responses,
            until,
        }
    }

    pub(crate) fn own_spi(&self) -> u64 {
        self.own_spi
    }

    /// A datagram for the SA that was. A response is taken at its word: all it can do is to end the farewell.
    pub(crate) fn handle(&mut self, cx: &mut Cx<'_>, path: Path, parsed: &Parsed<'_>) {
        let header = &parsed.header;
        if !header.flags.response {
            self.replay(cx, path, header.message_id, parsed.datagram);
        } else if self.requests.expects(header.message_id, header.exchange) {
            self.requests.answered();
        }
    }

    /// Answers a retransmission of the last request with the same octets. While a peer still repeats itself it is
    /// remembered, so that its IKE_SA_INIT does not pass for a new one, which would cost keys.
    pub(crate) fn replay(&mut self, cx: &mut Cx<'_>, path: Path, id: u32, datagram: &[u8]) {
        self.until = cx.now + cx.config.timing.linger;
        if let Incoming::Replay(response) = self.responses.classify(id, &digest(datagram)) {
            cx.transmit_all(path, response);
        }
    }

    pub(crate) fn next_timeout(&self) -> Instant {
        match self.requests.due() {
            Some(due) => due,
            None => self.until,
        }
    }

    /// Whether nothing is left to do.
    pub(crate) fn handle_timeout(&mut self, cx: &mut Cx<'_>) -> bool {
        match self.requests.tick(cx.now, &cx.config.timing) {
            Tick::Nothing => {}
            Tick::Resend(datagrams) => cx.transmit_all(self.path, datagrams),
            Tick::GiveUp => self.requests.answered(),
        }
        self.requests.is_free() && self.until <= cx.now
    }
}
