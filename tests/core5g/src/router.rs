//! The router of an IPv6 PDU session (TS 23.501, 5.8.2.2): a prefix of 64 bits for each session, told
//! in Router Advertisements (RFC 4861).

use std::net::Ipv6Addr;

/// Link-local address of the router.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;

/// What a session has of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Session {
    /// The prefix, 64 bits.
    pub prefix: Ipv6Addr,
    /// Interface identifier of the UE's link-local address.
    pub interface_id: [u8; 8],
}

impl Ipv6Session {
    /// The UE's link-local address.
    #[must_use]
    pub fn link_local(&self) -> Ipv6Addr {
        let id = u128::from(u64::from_be_bytes(self.interface_id));
        Ipv6Addr::from(0xfe80_u128 << 112 | id)
    }

    /// Whether an address is of the prefix.
    #[must_use]
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        network(address) == network(self.prefix)
    }

    /// The answer to a Router Solicitation of the UE.
    #[must_use]
    pub fn answer(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let (source, destination) = addresses(packet)?;
        let solicitation = packet.get(6) == Some(&ICMPV6)
            && packet.get(7) == Some(&255)
            && packet.get(40) == Some(&SOLICITATION);
        let to_routers = destination == ROUTER || destination.is_multicast();
        let ours = solicitation && to_routers && source == self.link_local();
        ours.then(|| self.advertisement())
    }

    /// A Router Advertisement: a default route, and a prefix to make addresses of, which is not on the
    /// link (RFC 4861, 4.2 and 4.6.2). Both for ever: they end with the session.
    fn advertisement(&self) -> Vec<u8> {
        let mut message = vec![ADVERTISEMENT, 0, 0, 0, 0, 0, 0xff, 0xff];
        message.extend([0; 8]);
        message.extend([3, 4, 64, 0x40]);
        message.extend([0xff; 8]);
        message.extend([0; 4]);
        message.extend(self.prefix.octets());
        let to = self.link_local();
        let length = u16::try_from(message.len()).unwrap_or(0).to_be_bytes();
        let sum = checksum(ROUTER, to, &message).to_be_bytes();
        if let Some(place) = message.get_mut(2..4) {
            place.copy_from_slice(&sum);
        }
        let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], ICMPV6, 255];
        packet.extend(ROUTER.octets());
        packet.extend(to.octets());
        packet.extend(message);
        packet
    }
}

/// The first 64 bits of an address.
#[must_use]
pub fn network(address: Ipv6Addr) -> u64 {
    u64::try_from(u128::from(address) >> 64).unwrap_or(0)
}

/// Source and destination of an IPv6 packet.
#[must_use]
pub fn addresses(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let header = packet.first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| -> Option<[u8; 16]> { header.get(at..)?.first_chunk().copied() };
    Some((address(8)?.into(), address(24)?.into()))
}

/// Of ICMPv6 (RFC 4443, 2.3), with its own field zero.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    let (from, to) = (from.octets(), to.octets());
    let parts = [&from[..], &to, &length, &[0, 0, 0, ICMPV6], message];
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u64 = words
        .map(|word| match word {
            [high, low] => u64::from(u16::from_be_bytes([*high, *low])),
            [high] => u64::from(*high) << 8,
            _ => 0,
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Ipv6Session = Ipv6Session {
        prefix: Ipv6Addr::new(0x2001, 0xdb8, 0x60, 7, 0, 0, 0, 0),
        interface_id: [0, 0, 0, 1, 2, 3, 4, 5],
    };

    fn solicitation(from: Ipv6Addr) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, ICMPV6, 255];
        packet.extend(from.octets());
        packet.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2).octets());
        packet.extend([SOLICITATION, 0, 0, 0, 0, 0, 0, 0]);
        packet
    }

    #[test]
    fn a_solicitation_of_the_ue_is_answered_with_its_prefix() {
        let packet = solicitation(SESSION.link_local());
        let answer = SESSION.answer(&packet).unwrap();
        assert_eq!(addresses(&answer), Some((ROUTER, SESSION.link_local())));
        assert_eq!((answer[7], answer[40]), (255, ADVERTISEMENT));
        assert_eq!(answer[72..88], SESSION.prefix.octets());
        // A packet with its checksum in place has the sum 0.
        assert_eq!(checksum(ROUTER, SESSION.link_local(), &answer[40..]), 0);
        for cut in 0..41 {
            assert_eq!(SESSION.answer(&packet[..cut]), None, "cut at {cut}");
        }
        let stranger = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
        assert_eq!(SESSION.answer(&solicitation(stranger)), None);
        let mut forwarded = packet.clone();
        forwarded[7] = 254;
        assert_eq!(SESSION.answer(&forwarded), None, "it came over a router");
    }

    #[test]
    fn addresses_are_of_the_prefix_or_not() {
        assert!(SESSION.contains("2001:db8:60:7::99".parse().unwrap()));
        assert!(!SESSION.contains("2001:db8:60:8::99".parse().unwrap()));
    }
}
