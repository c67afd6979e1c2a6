//! What AUTH covers of IKE_INTERMEDIATE exchanges (RFC 9242, section 3.3).
//!
//! ```text
//! IntAuth_i1 = prf(SK_pi1, A | P)      IntAuth_in = prf(SK_pin, IntAuth_i(n-1) | A | P)
//! IntAuth    = IntAuth_iN | IntAuth_rN | IKE_AUTH_MID (4)
//! ```
//!
//! `A` is the message up to the end of the generic header of its Encrypted payload, as if the message
//! were neither encrypted nor fragmented: its lengths are those of `A | P` and of the header and `P`.
//! `P` is the payload chain inside.

use keys::Secret;

use super::prf::Prf;
use crate::wire::{Body, HEADER_LEN, PAYLOAD_HEADER_LEN, Parsed, PayloadType};

/// `IntAuth`, exchange by exchange.
///
/// Each message is added with the keys that protect it: those before an update it leads to.
pub struct IntAuth {
    prf: Prf,
    initiator: Option<Secret>,
    responder: Option<Secret>,
}

impl IntAuth {
    /// Before the first exchange.
    pub const fn new(prf: Prf) -> Self {
        Self {
            prf,
            initiator: None,
            responder: None,
        }
    }

    /// Adds the initiator's message.
    pub fn add_request(&mut self, sk_pi: &Secret, message: &Covered) {
        self.initiator = Some(message.chain(self.prf, sk_pi, self.initiator.as_ref()));
    }

    /// Adds the responder's message.
    pub fn add_response(&mut self, sk_pr: &Secret, message: &Covered) {
        self.responder = Some(message.chain(self.prf, sk_pr, self.responder.as_ref()));
    }

    /// `IntAuth` for [`super::auth::Signed`]; `None` unless there was a request and a response.
    ///
    /// `message_id` is that of the first IKE_AUTH request.
    pub fn finish(&self, message_id: u32) -> Option<Vec<u8>> {
        let (initiator, responder) = (self.initiator.as_ref()?, self.responder.as_ref()?);
        let mut octets = initiator.expose().to_vec();
        octets.extend_from_slice(responder.expose());
        octets.extend_from_slice(&message_id.to_be_bytes());
        Some(octets)
    }
}

/// `A | P` of one message.
pub struct Covered(Secret);

impl Covered {
    /// From a message as it was sent or received, or the first of its fragments, and the
    /// payload chain of the whole of it.
    ///
    /// `None` for a message without an Encrypted payload, for a fragment other than the first, and for
    /// fragments with payloads in clear.
    pub fn new(parsed: &Parsed<'_>, chain: &[u8]) -> Option<Self> {
        let Body::Encrypted {
            first,
            offset,
            fragment,
            ..
        } = &parsed.body
        else {
            return None;
        };
        let fits = match fragment {
            None => true,
            Some((number, _)) => *number == 1 && *offset == HEADER_LEN,
        };
        let head = parsed.datagram.get(..*offset).filter(|_| fits)?;
        let total = u32::try_from(offset + PAYLOAD_HEADER_LEN + chain.len()).ok()?;
        let payload = u16::try_from(PAYLOAD_HEADER_LEN + chain.len()).ok()?;
        let mut octets = head.to_vec();
        if fragment.is_some() {
            *octets.get_mut(NEXT_PAYLOAD)? = PayloadType::SK.0;
        }
        octets
            .get_mut(LENGTH..HEADER_LEN)?
            .copy_from_slice(&total.to_be_bytes());
        octets.extend_from_slice(&[first.0, 0]);
        octets.extend_from_slice(&payload.to_be_bytes());
        octets.extend_from_slice(chain);
        Some(Self(Secret::from_slice(&octets)))
    }

    fn chain(&self, prf: Prf, sk_p: &Secret, previous: Option<&Secret>) -> Secret {
        let previous = previous.map_or(&[][..], Secret::expose);
        prf.mac(sk_p.expose(), &[previous, self.0.expose()])
    }
}

/// Place of the Next Payload field in the header.
const NEXT_PAYLOAD: usize = 16;

/// Place of the Length field in the header.
const LENGTH: usize = 24;
