//! What an IKE SA may touch of its endpoint.

use std::collections::{HashSet, VecDeque};

use rand_core::CryptoRng;

use crate::{
    config::EndpointConfig,
    counters::Counters,
    event::{ChildId, Event, KeyRequestId, Path, SaId, Transmit},
    time::Instant,
    wire::Header,
};

/// UDP port of IKE and ESP in UDP behind NATs (RFC 3948).
pub(crate) const NAT_PORT: u16 = 4500;

/// What an IKE SA may touch of its endpoint.
pub(crate) struct Cx<'a> {
    pub(crate) now: Instant,
    pub(crate) config: &'a EndpointConfig,
    pub(crate) rng: &'a mut (dyn CryptoRng + Send),
    pub(crate) transmits: &'a mut VecDeque<Transmit>,
    pub(crate) events: &'a mut VecDeque<Event>,
    pub(crate) ids: &'a mut Ids,
    pub(crate) counters: &'a mut Counters,
}

impl Cx<'_> {
    /// Queues a datagram, with the non-ESP marker when it leaves from port 4500.
    pub(crate) fn transmit(&mut self, path: Path, message: &[u8]) {
        if let Some(header) = Header::peek(message) {
            self.counters.sent.count(&header);
        }
        let marker: &[u8] = if path.local.port() == NAT_PORT {
            &[0; 4]
        } else {
            &[]
        };
        let data = [marker, message].concat();
        self.transmits.push_back(Transmit { path, data });
    }

    /// Queues the datagrams of one message.
    pub(crate) fn transmit_all(&mut self, path: Path, message: &[Vec<u8>]) {
        for datagram in message {
            self.transmit(path, datagram);
        }
    }

    /// `len` random octets.
    pub(crate) fn random(&mut self, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.rng.fill_bytes(&mut octets);
        octets
    }

    /// A random SPI of an IKE SA, never 0.
    pub(crate) fn ike_spi(&mut self) -> u64 {
        loop {
            let spi = self.rng.next_u64();
            if spi != 0 {
                return spi;
            }
        }
    }

    /// A random ESP SPI that no Child SA of this endpoint has; 1 to 255 are reserved (RFC 4303 2.1).
    pub(crate) fn esp_spi(&mut self) -> u32 {
        loop {
            let spi = self.rng.next_u32();
            if spi > 255 && self.ids.spis.insert(spi) {
                return spi;
            }
        }
    }
}

/// Numbers unique over an endpoint.
#[derive(Default)]
pub(crate) struct Ids {
    next: u64,
    pub(super) spis: HashSet<u32>,
}

impl Ids {
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn sa(&mut self) -> SaId {
        SaId(self.number())
    }

    pub(super) fn child(&mut self) -> ChildId {
        ChildId(self.number())
    }

    pub(super) fn key_request(&mut self) -> KeyRequestId {
        KeyRequestId(self.number())
    }
}
