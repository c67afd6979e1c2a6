//! Messages in one or several datagrams: sealing, opening, reassembly (RFC 7383).
//!
//! A fragment is kept only after its own integrity check, so what waits here is the peer's alone, and bounded:
//! one request and one response per IKE SA, each up to the limits of [`Fragmentation`]. A larger Total Fragments than
//! before means that the peer cut its message anew, smaller: what was collected is dropped; a smaller one is old
//! (RFC 7383 2.6). A message is never put together from SK and SKF.

use std::collections::BTreeMap;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::window::{self, Datagrams, RequestDigest};
use crate::{
    crypto::{OpenError, Protector, SealError, intermediate::Covered},
    fragmentation::Fragmentation,
    time::Instant,
    wire::{
        self, Body, EncodeError, ExchangeType, Header, Parsed, Payload, PayloadType, WireError,
        parse_payloads,
    },
};

/// A message whose protection was good, from one datagram or several.
pub(super) struct Opened {
    /// Its payloads, or why they make no sense.
    pub(super) payloads: Result<Vec<Payload>, WireError>,
    /// Digest of the only datagram, or of fragment 1: a retransmission is answered when that one comes.
    pub(super) digest: RequestDigest,
    /// What `IntAuth` covers of it, in IKE_INTERMEDIATE.
    pub(super) covered: Option<Covered>,
}

/// What a datagram brought.
pub(super) enum Arrival {
    /// Nothing that the peer has sent, or nothing that is wanted.
    Nothing,
    /// A fragment, with others still to come.
    Fragment,
    /// A message.
    Message(Box<Opened>),
}

/// Fragments of messages that are not whole yet.
#[derive(Default)]
pub(super) struct Inbox {
    request: Option<Assembly>,
    response: Option<Assembly>,
}

struct Assembly {
    id: u32,
    exchange: ExchangeType,
    total: u16,
    parts: BTreeMap<u16, Zeroizing<Vec<u8>>>,
    octets: usize,
    /// Fragment 1 as it came, and the type of the first payload.
    first: Option<(Vec<u8>, PayloadType)>,
    until: Instant,
}

impl Assembly {
    fn is_of(&self, header: &Header, now: Instant) -> bool {
        self.id == header.message_id && self.exchange == header.exchange && self.until > now
    }
}

impl Inbox {
    /// Opens a datagram. Fragments count when both ends agreed on them: `fragments`, else `None`.
    pub(super) fn open(
        &mut self,
        inbound: &Protector,
        parsed: &Parsed<'_>,
        now: Instant,
        fragments: Option<&Fragmentation>,
    ) -> Arrival {
        let Body::Encrypted {
            first, fragment, ..
        } = &parsed.body
        else {
            return Arrival::Nothing;
        };
        let Some(part) = *fragment else {
            return match inbound.open_chain(parsed) {
                Ok(chain) => {
                    *self.slot(parsed.header.flags.response) = None;
                    message(parsed, *first, &chain)
                }
                Err(OpenError::Content(error)) => Arrival::Message(Box::new(Opened {
                    payloads: Err(error),
                    digest: window::digest(parsed.datagram),
                    covered: None,
                })),
                Err(_) => Arrival::Nothing,
            };
        };
        match fragments {
            Some(limits) => self.collect(inbound, parsed, (part, *first), now, limits),
            None => Arrival::Nothing,
        }
    }

    fn collect(
        &mut self,
        inbound: &Protector,
        parsed: &Parsed<'_>,
        ((number, total), first): ((u16, u16), PayloadType),
        now: Instant,
        limits: &Fragmentation,
    ) -> Arrival {
        if total > limits.max_fragments {
            return Arrival::Nothing;
        }
        let header = &parsed.header;
        let slot = self.slot(header.flags.response);
        let known = slot.as_ref().filter(|begun| begun.is_of(header, now));
        if let Some(begun) = known
            && (total < begun.total || (total == begun.total && begun.parts.contains_key(&number)))
        {
            return Arrival::Nothing;
        }
        let goes_on = known.is_some_and(|begun| begun.total == total);
        let Ok(chunk) = inbound.open_fragment(parsed) else {
            return Arrival::Nothing;
        };
        if !goes_on {
            *slot = None;
        }
        let begun = slot.get_or_insert_with(|| Assembly {
            id: header.message_id,
            exchange: header.exchange,
            total,
            parts: BTreeMap::new(),
            octets: 0,
            first: None,
            until: now + limits.timeout,
        });
        begun.octets = begun.octets.saturating_add(chunk.len());
        if begun.octets > limits.max_octets {
            *slot = None;
            return Arrival::Nothing;
        }
        begun.parts.insert(number, chunk);
        if number == 1 {
            begun.first = Some((parsed.datagram.to_vec(), first));
        }
        if begun.parts.len() < usize::from(total) {
            return Arrival::Fragment;
        }
        match slot.take() {
            Some(whole) => whole.assemble(),
            None => Arrival::Nothing,
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        [&self.request, &self.response]
            .into_iter()
            .flatten()
            .map(|begun| begun.until)
            .min()
    }

    /// Drops what waited too long.
    pub(super) fn expire(&mut self, now: Instant) {
        self.request.take_if(|begun| begun.until <= now);
        self.response.take_if(|begun| begun.until <= now);
    }

    fn slot(&mut self, response: bool) -> &mut Option<Assembly> {
        match response {
            true => &mut self.response,
            false => &mut self.request,
        }
    }
}

impl Assembly {
    /// The numbers are distinct and within 1 to Total Fragments, so all of them are there, in order.
    fn assemble(self) -> Arrival {
        let mut chain = Zeroizing::new(Vec::with_capacity(self.octets));
        for part in self.parts.values() {
            chain.extend_from_slice(part);
        }
        let Some((datagram, first)) = self.first else {
            return Arrival::Nothing;
        };
        match wire::parse(&datagram) {
            Ok(parsed) => message(&parsed, first, &chain),
            Err(_) => Arrival::Nothing,
        }
    }
}

fn message(parsed: &Parsed<'_>, first: PayloadType, chain: &[u8]) -> Arrival {
    Arrival::Message(Box::new(Opened {
        payloads: parse_payloads(first, chain),
        digest: window::digest(parsed.datagram),
        covered: match parsed.header.exchange {
            ExchangeType::IkeIntermediate => Covered::new(parsed, chain),
            _ => None,
        },
    }))
}

/// Seals a message: whole when it fits into `room` octets, or when there are no fragments (`None`).
pub(super) fn seal(
    outbound: &mut Protector,
    header: &Header,
    payloads: &[Payload],
    room: Option<usize>,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<Datagrams, SealError> {
    let (first, chain) = wire::encode_payloads(payloads)?;
    let chain = Zeroizing::new(chain);
    seal_chain(outbound, header, (first, &chain), room, rng)
}

/// The same around a payload chain that is written already.
pub(super) fn seal_chain(
    outbound: &mut Protector,
    header: &Header,
    (first, chain): (PayloadType, &[u8]),
    room: Option<usize>,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<Datagrams, SealError> {
    let Some(room) = room.filter(|room| outbound.sealed_len(chain.len()) > *room) else {
        return Ok(vec![outbound.seal_chain(header, first, chain, rng)?]);
    };
    let chunk = outbound.fragment_capacity(room);
    let too_long = EncodeError::TooLong("message in fragments");
    let total = u16::try_from(chain.len().div_ceil(chunk.max(1))).map_err(|_| too_long)?;
    (1..=total)
        .zip(chain.chunks(chunk.max(1)))
        .map(|(number, part)| {
            let first = match number {
                1 => first,
                _ => PayloadType::NONE,
            };
            outbound.seal_fragment(header, first, (number, total), part, rng)
        })
        .collect()
}

#[cfg(test)]
#[path = "fragments_tests.rs"]
mod tests;
