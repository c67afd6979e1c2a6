//! Traffic Selector payloads (RFC 7296, section 3.13).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    error::{EncodeError, WireError},
    reader::Reader,
};

const TS_IPV4_ADDR_RANGE: u8 = 7;
const TS_IPV6_ADDR_RANGE: u8 = 8;

/// One selector: a protocol, a range of ports and a range of addresses, all inclusive.
///
/// ```text
/// 0 TS Type (7 IPv4, 8 IPv6)   1 IP Protocol ID   2..4 Selector Length (16, 40)
/// 4..6 Start Port   6..8 End Port   Starting Address   Ending Address
/// ```
/// Selectors of other types are skipped: they can only be narrowed away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    /// IP protocol number, 0 for any.
    pub ip_protocol: u8,
    /// First port; 0 with `end_port` 65535 means any, 65535 with 0 means OPAQUE.
    pub start_port: u16,
    /// Last port.
    pub end_port: u16,
    /// First address.
    pub start: IpAddr,
    /// Last address, of the same family.
    pub end: IpAddr,
}

impl TrafficSelector {
    /// Every protocol and port of one address.
    pub const fn host(address: IpAddr) -> Self {
        Self {
            ip_protocol: 0,
            start_port: 0,
            end_port: u16::MAX,
            start: address,
            end: address,
        }
    }

    /// Every protocol, port and address of IPv4.
    pub const fn any_v4() -> Self {
        Self {
            ip_protocol: 0,
            start_port: 0,
            end_port: u16::MAX,
            start: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            end: IpAddr::V4(Ipv4Addr::BROADCAST),
        }
    }

    /// Every protocol, port and address of IPv6.
    pub const fn any_v6() -> Self {
        Self {
            ip_protocol: 0,
            start_port: 0,
            end_port: u16::MAX,
            start: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            end: IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
        }
    }

    /// What both selectors cover, or `None` (RFC 7296, section 2.9).
    ///
    /// OPAQUE ports only meet OPAQUE or any.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let ip_protocol = match (self.ip_protocol, other.ip_protocol) {
            (0, protocol) | (protocol, 0) => protocol,
            (a, b) if a == b => a,
            _ => return None,
        };
        let (start_port, end_port) = match (self.ports(), other.ports()) {
            ((0, u16::MAX), ports) | (ports, (0, u16::MAX)) => ports,
            (a, b) if a == b => a,
            (a, b) => {
                let ports = (a.0.max(b.0), a.1.min(b.1));
                // Also keeps OPAQUE, whose start is above its end, from meeting a plain range.
                if ports.0 > ports.1 {
                    return None;
                }
                ports
            }
        };
        // The derived order of IpAddr puts IPv4 before IPv6, so families are compared first.
        if self.start.is_ipv4() != other.start.is_ipv4() {
            return None;
        }
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start <= end).then_some(Self {
            ip_protocol,
            start_port,
            end_port,
            start,
            end,
        })
    }

    const fn ports(&self) -> (u16, u16) {
        (self.start_port, self.end_port)
    }

    pub(crate) fn read_list(mut body: Reader<'_>) -> Result<Vec<Self>, WireError> {
        let count = body.u8()?;
        body.take(3)?;
        let mut list = Vec::with_capacity(count.into());
        for _ in 0..count {
            list.extend(Self::read(&mut body)?);
        }
        body.finish()?;
        Ok(list)
    }

    fn read(body: &mut Reader<'_>) -> Result<Option<Self>, WireError> {
        let kind = body.u8()?;
        let ip_protocol = body.u8()?;
        let length = usize::from(body.u16()?);
        let rest = length
            .checked_sub(4)
            .ok_or(WireError::InvalidSyntax("length of a Traffic Selector"))?;
        let mut body = body.sub(rest, "Traffic Selector")?;
        let v6 = match kind {
            TS_IPV4_ADDR_RANGE => false,
            TS_IPV6_ADDR_RANGE => true,
            _ => return Ok(None),
        };
        let start_port = body.u16()?;
        let end_port = body.u16()?;
        let mut address = || -> Result<IpAddr, WireError> {
            Ok(if v6 {
                IpAddr::from(body.array::<16>()?)
            } else {
                IpAddr::from(body.array::<4>()?)
            })
        };
        let start = address()?;
        let end = address()?;
        body.finish()?;
        if start > end {
            return Err(WireError::InvalidSyntax("addresses of a Traffic Selector"));
        }
        Ok(Some(Self {
            ip_protocol,
            start_port,
            end_port,
            start,
            end,
        }))
    }

    pub(crate) fn write_list(list: &[Self], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let count =
            u8::try_from(list.len()).map_err(|_| EncodeError::TooLong("Traffic Selectors"))?;
        out.extend_from_slice(&[count, 0, 0, 0]);
        for selector in list {
            selector.write(out)?;
        }
        Ok(())
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (kind, length) = match (self.start, self.end) {
            (IpAddr::V4(_), IpAddr::V4(_)) => (TS_IPV4_ADDR_RANGE, 16u16),
            (IpAddr::V6(_), IpAddr::V6(_)) => (TS_IPV6_ADDR_RANGE, 40),
            _ => {
                return Err(EncodeError::Invalid(
                    "address families of a Traffic Selector",
                ));
            }
        };
        out.push(kind);
        out.push(self.ip_protocol);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&self.start_port.to_be_bytes());
        out.extend_from_slice(&self.end_port.to_be_bytes());
        for address in [self.start, self.end] {
            match address {
                IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
            }
        }
        Ok(())
    }
}

/// `start..end[protocol/first-last]`, the brackets only when they narrow anything.
impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.start)?;
        if self.start != self.end {
            write!(f, "..{}", self.end)?;
        }
        match (self.ip_protocol, self.ports()) {
            (0, (0, u16::MAX)) => Ok(()),
            (protocol, (0, u16::MAX)) => write!(f, "[{protocol}]"),
            (protocol, (u16::MAX, 0)) => write!(f, "[{protocol}/OPAQUE]"),
            (protocol, (first, last)) if first == last => write!(f, "[{protocol}/{first}]"),
            (protocol, (first, last)) => write!(f, "[{protocol}/{first}-{last}]"),
        }
    }
}
