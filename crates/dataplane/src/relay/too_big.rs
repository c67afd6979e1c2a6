//! What a PDU that does not fit gets in answer: ICMP "fragmentation needed" (RFC 792, RFC 1191) or
//! ICMPv6 "packet too big" (RFC 4443, 3.2).
//!
//! The answer comes from the address that the PDU was sent to: the far end knows a route from there,
//! which it need not for an address of the access network.

use super::packet::checksum;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Every link carries this much (RFC 8200, section 5), so no answer asks for less.
const IPV6_LEAST: usize = 1280;
/// Longest answer over IPv4 (RFC 1812, 4.3.2.3).
const IPV4_MOST: usize = 576;
const HOPS: u8 = 64;

/// The answer to a PDU that is longer than `mtu`; `None` when it may be fragmented on the way, or must
/// not be answered (RFC 1122, 3.2.2).
pub(super) fn answer(pdu: &[u8], mtu: usize) -> Option<Vec<u8>> {
    match pdu.first()? >> 4 {
        4 => ipv4(pdu, mtu),
        6 => ipv6(pdu, mtu),
        _ => None,
    }
}

fn ipv4(pdu: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let header = super::packet::ipv4(pdu)?;
    let flags = u16::from_be_bytes([*pdu.get(6)?, *pdu.get(7)?]);
    let (may_not_fragment, offset) = (flags & 0x4000 != 0, flags & 0x1fff);
    let single = |address: std::net::Ipv4Addr| {
        !address.is_multicast() && !address.is_broadcast() && !address.is_unspecified()
    };
    // Errors are types 3, 4, 5, 11 and 12.
    let is_error =
        *pdu.get(9)? == ICMP && matches!(header.payload.first(), Some(3..=5 | 11 | 12) | None);
    let answered = may_not_fragment
        && offset == 0
        && !is_error
        && single(header.source)
        && single(header.destination);
    if !answered {
        return None;
    }
    let quoted = pdu.get(..pdu.len().min(IPV4_MOST - 28))?;
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend(u16::try_from(mtu).ok()?.to_be_bytes());
    icmp.extend(quoted);
    seal(&mut icmp, 2, &[])?;
    let total = u16::try_from(20 + icmp.len()).ok()?.to_be_bytes();
    // DF: it is small, and has no ID.
    let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, HOPS, ICMP, 0, 0];
    packet.extend(header.destination.octets());
    packet.extend(header.source.octets());
    seal(&mut packet, 10, &[])?;
    packet.extend(icmp);
    Some(packet)
}

fn ipv6(pdu: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let header: &[u8; 40] = pdu.first_chunk()?;
    let mtu = mtu.max(IPV6_LEAST);
    if pdu.len() <= mtu {
        return None;
    }
    let source: [u8; 16] = *header.get(8..)?.first_chunk()?;
    let destination: [u8; 16] = *header.get(24..)?.first_chunk()?;
    // Errors are types 0 to 127. A multicast destination is answered (RFC 4443, 2.4 e.3), but not
    // from there.
    let is_error = header[6] == ICMPV6 && *pdu.get(40)? < 128;
    if is_error || source == [0; 16] || source[0] == 0xff || destination[0] == 0xff {
        return None;
    }
    let quoted = pdu.get(..pdu.len().min(IPV6_LEAST - 48))?;
    let mut icmp = vec![2, 0, 0, 0];
    icmp.extend(u32::try_from(mtu).ok()?.to_be_bytes());
    icmp.extend(quoted);
    let length = u16::try_from(icmp.len()).ok()?.to_be_bytes();
    seal(
        &mut icmp,
        2,
        &[
            &destination,
            &source,
            &[0, 0, length[0], length[1], 0, 0, 0, ICMPV6],
        ],
    )?;
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], ICMPV6, HOPS];
    packet.extend(destination);
    packet.extend(source);
    packet.extend(icmp);
    Some(packet)
}

/// Puts the checksum over `before` and `message` to its place in `message`.
fn seal(message: &mut [u8], at: usize, before: &[&[u8]]) -> Option<()> {
    let sum = checksum(&[before, &[&*message]].concat()).to_be_bytes();
    message
        .get_mut(at..)?
        .first_chunk_mut::<2>()
        .map(|place| *place = sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(len: usize, flags: u8, protocol: u8, first: u8) -> Vec<u8> {
        let total = u16::try_from(len).unwrap().to_be_bytes();
        let mut pdu = vec![
            0x45, 0, total[0], total[1], 0, 1, flags, 0, 64, protocol, 0, 0,
        ];
        pdu.extend([198, 18, 0, 10, 10, 60, 0, 7]);
        pdu.resize(len, first);
        pdu
    }

    fn v6(len: usize, next: u8, first: u8) -> Vec<u8> {
        let payload = u16::try_from(len - 40).unwrap().to_be_bytes();
        let mut pdu = vec![0x60, 0, 0, 0, payload[0], payload[1], next, 64];
        pdu.extend([0x20; 16]);
        pdu.extend([0x30; 16]);
        pdu.resize(len, first);
        pdu
    }

    #[test]
    fn ipv4_is_told_the_size_that_fits() {
        let pdu = v4(1400, 0x40, 17, 0x5a);
        let answer = answer(&pdu, 1358).unwrap();
        assert_eq!(answer.len(), IPV4_MOST);
        assert_eq!(answer[9], ICMP);
        assert_eq!(answer[12..20], [10, 60, 0, 7, 198, 18, 0, 10]);
        assert_eq!(answer[20..22], [3, 4]);
        assert_eq!(answer[26..28], 1358u16.to_be_bytes());
        assert_eq!(answer[28..], pdu[..IPV4_MOST - 28]);
        // A sum over what has its checksum in it is zero.
        assert_eq!(
            (checksum(&[&answer[..20]]), checksum(&[&answer[20..]])),
            (0, 0)
        );
    }

    #[test]
    fn what_may_be_fragmented_or_is_an_error_is_not_answered() {
        for (pdu, why) in [
            (v4(1400, 0, 17, 0), "no DF"),
            (v4(1400, 0x40, 1, 3), "an error"),
            (v4(1400, 0x40, 1, 11), "an error"),
            (v6(1280, 17, 0), "fits every link"),
            (v6(1400, 58, 2), "an error"),
            (vec![0x50; 1400], "no IP"),
            (vec![0x45; 10], "cut"),
            (vec![0x60; 39], "cut"),
        ] {
            assert_eq!(answer(&pdu, 1200), None, "{why}");
        }
        let mut multicast = v4(1400, 0x40, 17, 0);
        multicast[16] = 224;
        assert_eq!(answer(&multicast, 1358), None);
        // Echo is no error.
        assert!(answer(&v4(1400, 0x40, 1, 8), 1358).is_some());
        assert!(answer(&v6(1400, 58, 128), 1358).is_some());
    }

    #[test]
    fn ipv6_is_told_too_but_never_less_than_every_link_has() {
        for (mtu, told) in [(1338, 1338u32), (1000, 1280)] {
            let pdu = v6(1400, 17, 0x5a);
            let answer = answer(&pdu, mtu).unwrap();
            assert_eq!(answer.len(), IPV6_LEAST);
            assert_eq!((answer[6], answer[40]), (ICMPV6, 2));
            assert_eq!(answer[8..24], [0x30; 16]);
            assert_eq!(answer[24..40], [0x20; 16]);
            assert_eq!(answer[44..48], told.to_be_bytes());
            assert_eq!(answer[48..], pdu[..IPV6_LEAST - 48]);
            let length = u16::try_from(answer.len() - 40).unwrap().to_be_bytes();
            let pseudo = [0, 0, length[0], length[1], 0, 0, 0, ICMPV6];
            assert_eq!(checksum(&[&answer[8..40], &pseudo, &answer[40..]]), 0);
        }
    }
}
