//! Whole messages (RFC 7296, sections 3.1 and 3.14; RFC 7383, section 2.5).

use super::{
    HEADER_LEN, MAX_MESSAGE,
    chain::{Chain, encode_payloads},
    error::{EncodeError, WireError},
    header::{Header, Raw},
    payload::{Payload, PayloadType},
    reader::Reader,
};

/// A clear message, or a protected one after it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The header.
    pub header: Header,
    /// The payloads, in order.
    pub payloads: Vec<Payload>,
}

/// A datagram as far as it can be read without keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// The header.
    pub header: Header,
    /// The whole message, header first.
    pub datagram: &'a [u8],
    /// What follows the header.
    pub body: Body,
}

/// What follows the header of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// No Encrypted payload: everything is readable.
    Clear(Vec<Payload>),
    /// The message ends in an Encrypted payload (SK) or Encrypted Fragment payload (SKF).
    Encrypted {
        /// Type of the first payload inside; NONE for an empty SK and for SKF after the first.
        first: PayloadType,
        /// Offset of the generic header of SK or SKF in the datagram.
        offset: usize,
        /// Fragment Number (from 1) and Total Fragments of an SKF.
        fragment: Option<(u16, u16)>,
        /// Payloads in clear in front of it; covered by the integrity check.
        before: Vec<Payload>,
    },
}

/// Reads a datagram without keys; a non-ESP marker is already gone.
///
/// The Length field must tell the length of the datagram exactly.
pub fn parse(datagram: &[u8]) -> Result<Parsed<'_>, WireError> {
    let mut reader = Reader::new(datagram, "header");
    let raw = Raw::read(&mut reader)?;
    if raw.version >> 4 != 2 {
        return Err(WireError::MajorVersion(raw.version >> 4));
    }
    if usize::try_from(raw.length) != Ok(datagram.len()) {
        return Err(WireError::Length {
            claimed: raw.length,
            actual: datagram.len(),
        });
    }
    if datagram.len() > MAX_MESSAGE {
        return Err(WireError::InvalidSyntax("message too long"));
    }
    if raw.header.spi_i == 0 {
        return Err(WireError::InvalidSyntax("SPI of the initiator is zero"));
    }
    let mut chain = Chain::new(raw.next, reader.rest());
    let mut payloads = Vec::new();
    let mut encrypted = None;
    while let Some(link) = chain.next()? {
        if !matches!(link.kind, PayloadType::SK | PayloadType::SKF) {
            payloads.push(link.payload()?);
            continue;
        }
        let fragment = match link.kind {
            PayloadType::SKF => Some(read_fragment(link.body)?),
            _ => None,
        };
        encrypted = Some((link.next, HEADER_LEN + link.offset, fragment));
    }
    chain.finish()?;
    let body = match encrypted {
        None => Body::Clear(payloads),
        Some((first, offset, fragment)) => Body::Encrypted {
            first,
            offset,
            fragment,
            before: payloads,
        },
    };
    Ok(Parsed {
        header: raw.header,
        datagram,
        body,
    })
}

/// Writes a message without an Encrypted payload.
pub fn encode(header: &Header, payloads: &[Payload]) -> Result<Vec<u8>, EncodeError> {
    let (first, chain) = encode_payloads(payloads)?;
    let length = message_length(HEADER_LEN + chain.len())?;
    let mut out = Vec::with_capacity(HEADER_LEN + chain.len());
    header.write(&mut out, first, length);
    out.extend_from_slice(&chain);
    Ok(out)
}

/// The Length field of a message of `len` octets.
pub(crate) fn message_length(len: usize) -> Result<u32, EncodeError> {
    match u32::try_from(len) {
        Ok(length) if len <= MAX_MESSAGE => Ok(length),
        _ => Err(EncodeError::TooLong("message")),
    }
}

/// Fragment Number (2) and Total Fragments (2) at the start of an SKF body.
fn read_fragment(body: &[u8]) -> Result<(u16, u16), WireError> {
    let mut reader = Reader::new(body, "SKF");
    let number = reader.u16()?;
    let total = reader.u16()?;
    if number == 0 || number > total {
        return Err(WireError::InvalidSyntax("fragment number"));
    }
    Ok((number, total))
}
