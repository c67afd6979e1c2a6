//! Configuration payload (RFC 7296, section 3.15; RFC 8598).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    error::{EncodeError, WireError},
    reader::Reader,
};

codes! {
    /// CFG Type octet.
    CfgType(u8) {
        REQUEST = 1 "CFG_REQUEST",
        REPLY = 2 "CFG_REPLY",
        SET = 3 "CFG_SET",
        ACK = 4 "CFG_ACK",
    }
}

codes! {
    /// Attribute type, 15 bits.
    CfgAttributeType(u16) {
        INTERNAL_IP4_ADDRESS = 1 "INTERNAL_IP4_ADDRESS",
        INTERNAL_IP4_NETMASK = 2 "INTERNAL_IP4_NETMASK",
        INTERNAL_IP4_DNS = 3 "INTERNAL_IP4_DNS",
        INTERNAL_IP4_NBNS = 4 "INTERNAL_IP4_NBNS",
        INTERNAL_IP4_DHCP = 6 "INTERNAL_IP4_DHCP",
        APPLICATION_VERSION = 7 "APPLICATION_VERSION",
        INTERNAL_IP6_ADDRESS = 8 "INTERNAL_IP6_ADDRESS",
        INTERNAL_IP6_DNS = 10 "INTERNAL_IP6_DNS",
        INTERNAL_IP6_DHCP = 12 "INTERNAL_IP6_DHCP",
        INTERNAL_IP4_SUBNET = 13 "INTERNAL_IP4_SUBNET",
        SUPPORTED_ATTRIBUTES = 14 "SUPPORTED_ATTRIBUTES",
        INTERNAL_IP6_SUBNET = 15 "INTERNAL_IP6_SUBNET",
        TIMEOUT_PERIOD_FOR_LIVENESS_CHECK = 24 "TIMEOUT_PERIOD_FOR_LIVENESS_CHECK",
        INTERNAL_DNS_DOMAIN = 25 "INTERNAL_DNS_DOMAIN",
        INTERNAL_DNSSEC_TA = 26 "INTERNAL_DNSSEC_TA",
    }
}

/// A Configuration payload: type (1), reserved (3), attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Request, reply, set or acknowledgement.
    pub kind: CfgType,
    /// Attributes in order.
    pub attributes: Vec<CfgAttribute>,
}

/// One attribute: reserved bit and type (2), length (2), value; an empty value asks for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CfgAttribute {
    /// Type, below 0x8000.
    pub kind: CfgAttributeType,
    /// Value.
    pub value: Vec<u8>,
}

impl CfgAttribute {
    /// An attribute without a value.
    pub const fn request(kind: CfgAttributeType) -> Self {
        Self {
            kind,
            value: Vec::new(),
        }
    }

    /// An attribute whose value is an IPv4 address or mask.
    pub fn ipv4(kind: CfgAttributeType, address: Ipv4Addr) -> Self {
        Self {
            kind,
            value: address.octets().to_vec(),
        }
    }

    /// INTERNAL_IP6_ADDRESS: the address and the prefix length in bits.
    pub fn ipv6_address(address: Ipv6Addr, prefix: u8) -> Self {
        let mut value = address.octets().to_vec();
        value.push(prefix);
        Self {
            kind: CfgAttributeType::INTERNAL_IP6_ADDRESS,
            value,
        }
    }

    /// The value as an IPv4 address, when it has four octets.
    pub fn as_ipv4(&self) -> Option<Ipv4Addr> {
        <[u8; 4]>::try_from(self.value.as_slice())
            .ok()
            .map(Ipv4Addr::from)
    }

    /// The value as an IPv6 address, when it begins with one; a prefix length may follow.
    pub fn as_ipv6(&self) -> Option<Ipv6Addr> {
        self.value
            .first_chunk::<16>()
            .map(|octets| Ipv6Addr::from(*octets))
    }

    /// Lengths the standard allows for this type (RFC 7296, section 3.15.1).
    fn length_fits(&self) -> bool {
        use CfgAttributeType as T;
        let len = self.value.len();
        match self.kind {
            T::INTERNAL_IP4_ADDRESS
            | T::INTERNAL_IP4_NETMASK
            | T::INTERNAL_IP4_DNS
            | T::INTERNAL_IP4_NBNS
            | T::INTERNAL_IP4_DHCP => matches!(len, 0 | 4),
            T::INTERNAL_IP6_ADDRESS | T::INTERNAL_IP6_SUBNET => matches!(len, 0 | 17),
            T::INTERNAL_IP6_DNS | T::INTERNAL_IP6_DHCP => matches!(len, 0 | 16),
            T::INTERNAL_IP4_SUBNET => matches!(len, 0 | 8),
            T::SUPPORTED_ATTRIBUTES => len.is_multiple_of(2),
            _ => true,
        }
    }
}

impl Configuration {
    /// The first attribute of this type.
    pub fn find(&self, kind: CfgAttributeType) -> Option<&CfgAttribute> {
        self.attributes
            .iter()
            .find(|attribute| attribute.kind == kind)
    }

    pub(crate) fn read(mut body: Reader<'_>) -> Result<Self, WireError> {
        let kind = CfgType(body.u8()?);
        body.take(3)?;
        let mut attributes = Vec::new();
        while !body.is_empty() {
            let kind = CfgAttributeType(body.u16()? & 0x7fff);
            let length = body.u16()?;
            let value = body.take(length.into())?.to_vec();
            let attribute = CfgAttribute { kind, value };
            if !attribute.length_fits() {
                return Err(WireError::InvalidSyntax(
                    "length of a configuration attribute",
                ));
            }
            attributes.push(attribute);
        }
        Ok(Self { kind, attributes })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&[self.kind.0, 0, 0, 0]);
        for attribute in &self.attributes {
            if attribute.kind.0 > 0x7fff {
                return Err(EncodeError::Invalid("type of a configuration attribute"));
            }
            let length = u16::try_from(attribute.value.len())
                .map_err(|_| EncodeError::TooLong("value of a configuration attribute"))?;
            out.extend_from_slice(&attribute.kind.0.to_be_bytes());
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&attribute.value);
        }
        Ok(())
    }
}
