//! The little of IPv4 that a relay looks at.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Source, destination and payload of an IPv4 packet; `None` unless the header is whole.
pub(super) fn ipv4(packet: &[u8]) -> Option<Ipv4<'_>> {
    let header = packet.first_chunk::<20>()?;
    let [version_ihl, _, l1, l2, ..] = *header;
    if version_ihl >> 4 != 4 {
        return None;
    }
    let header_len = usize::from(version_ihl & 15) * 4;
    let total = usize::from(u16::from_be_bytes([l1, l2]));
    if header_len < 20 || total < header_len || total > packet.len() {
        return None;
    }
    let [.., s1, s2, s3, s4, d1, d2, d3, d4] = *header;
    Some(Ipv4 {
        source: Ipv4Addr::new(s1, s2, s3, s4),
        destination: Ipv4Addr::new(d1, d2, d3, d4),
        header_len,
        payload: packet.get(header_len..total)?,
    })
}

/// A checked view of an IPv4 packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ipv4<'a> {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) header_len: usize,
    pub(super) payload: &'a [u8],
}

/// Source and destination of an IPv6 packet; `None` unless it is whole.
pub(super) fn ipv6(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let header = packet.first_chunk::<40>()?;
    let [version, _, _, _, l1, l2, ..] = *header;
    let payload = usize::from(u16::from_be_bytes([l1, l2]));
    if version >> 4 != 6 || packet.len() < 40 + payload {
        return None;
    }
    let address = |at: usize| -> Option<[u8; 16]> { header.get(at..)?.first_chunk().copied() };
    Some((address(8)?.into(), address(24)?.into()))
}

/// The Internet checksum (RFC 1071) over the concatenation of even-length `parts` and a last one.
pub(super) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        let (words, last) = part.as_chunks::<2>();
        for word in words {
            sum = sum.wrapping_add(u16::from_be_bytes(*word).into());
            // 65 536 octets cannot overflow 32 bits, but a fold a word costs nothing to reason about.
            sum = (sum & 0xffff) + (sum >> 16);
        }
        if let [octet] = last {
            sum += u32::from(*octet) << 8;
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    // After folding the sum has 16 bits.
    !u16::try_from(sum & 0xffff).unwrap_or(0)
}
