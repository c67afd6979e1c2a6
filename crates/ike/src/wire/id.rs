//! Identification payloads (RFC 7296, section 3.5).

use std::fmt;

use super::{error::WireError, reader::Reader};

codes! {
    /// ID Type octet.
    IdType(u8) {
        IPV4_ADDR = 1 "ID_IPV4_ADDR",
        FQDN = 2 "ID_FQDN",
        RFC822_ADDR = 3 "ID_RFC822_ADDR",
        IPV6_ADDR = 5 "ID_IPV6_ADDR",
        DER_ASN1_DN = 9 "ID_DER_ASN1_DN",
        DER_ASN1_GN = 10 "ID_DER_ASN1_GN",
        KEY_ID = 11 "ID_KEY_ID",
        NULL = 13 "ID_NULL",
    }
}

/// An identity: type (1), reserved (3), data.
///
/// The reserved octets are kept as received, since AUTH covers the body octet for octet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identification {
    /// How `data` is to be read.
    pub kind: IdType,
    /// The identity itself.
    pub data: Vec<u8>,
    reserved: [u8; 3],
}

impl Identification {
    /// An identity of any type.
    pub const fn new(kind: IdType, data: Vec<u8>) -> Self {
        Self {
            kind,
            data,
            reserved: [0; 3],
        }
    }

    /// A fully qualified domain name, ASCII without a final dot.
    pub fn fqdn(name: &str) -> Self {
        Self::new(IdType::FQDN, name.as_bytes().to_vec())
    }

    /// An opaque octet string.
    pub const fn key_id(octets: Vec<u8>) -> Self {
        Self::new(IdType::KEY_ID, octets)
    }

    /// The payload body, which is what AUTH covers (RFC 7296, section 2.15: RestOfIDPayload).
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.data.len() + 4);
        body.push(self.kind.0);
        body.extend_from_slice(&self.reserved);
        body.extend_from_slice(&self.data);
        body
    }

    pub(crate) fn read(mut body: Reader<'_>) -> Result<Self, WireError> {
        let kind = IdType(body.u8()?);
        let reserved = body.array()?;
        let data = body.rest().to_vec();
        let fits = match kind {
            IdType::IPV4_ADDR => data.len() == 4,
            IdType::IPV6_ADDR => data.len() == 16,
            _ => true,
        };
        if !fits {
            return Err(WireError::InvalidSyntax("length of an address identity"));
        }
        Ok(Self {
            kind,
            data,
            reserved,
        })
    }
}

/// Printable text as text, anything else in hexadecimal.
impl fmt::Display for Identification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(octets) = <[u8; 4]>::try_from(self.data.as_slice())
            && self.kind == IdType::IPV4_ADDR
        {
            return std::net::Ipv4Addr::from(octets).fmt(f);
        }
        if let Ok(octets) = <[u8; 16]>::try_from(self.data.as_slice())
            && self.kind == IdType::IPV6_ADDR
        {
            return std::net::Ipv6Addr::from(octets).fmt(f);
        }
        match std::str::from_utf8(&self.data) {
            Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) => {
                f.write_str(text)
            }
            _ => self
                .data
                .iter()
                .try_for_each(|octet| write!(f, "{octet:02x}")),
        }
    }
}
