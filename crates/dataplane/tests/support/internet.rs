//! Packets of IPv4 and IPv6, octet by octet, with good checksums.
#![allow(dead_code, reason = "each target uses its part")]

/// An IPv4 packet with a good checksum.
pub(crate) fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from);
    packet.extend(to);
    seal(&mut packet);
    packet.extend(payload);
    packet
}

/// Puts the right checksum into the IPv4 header at the front.
pub(crate) fn seal(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
}

/// RFC 1071.
pub(crate) fn checksum(octets: &[u8]) -> u16 {
    let mut sum: u32 = octets
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// UDP over IPv6 with this traffic class; addresses with ports.
pub(crate) fn udp6(
    class: u8,
    from: ([u8; 16], u16),
    to: ([u8; 16], u16),
    payload: &[u8],
) -> Vec<u8> {
    let len = ((8 + payload.len()) as u16).to_be_bytes();
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    let mut udp = [&ports[..], &len, &[0, 0], payload].concat();
    let pseudo = [&from.0[..], &to.0, &[0, 0], &len, &[0, 0, 0, 17]].concat();
    let sum = match checksum(&[&pseudo[..], &udp].concat()) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    let first = [0x60 | class >> 4, class << 4, 0, 0, len[0], len[1], 17, 64];
    [&first[..], &from.0, &to.0, &udp].concat()
}

/// A TCP segment over IPv4 or IPv6 with these flags and options.
pub(crate) fn tcp(v6: bool, flags: u8, options: &[u8]) -> Vec<u8> {
    let mut segment = vec![0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2];
    segment.push(((20 + options.len()) / 4 * 16) as u8);
    segment.extend([flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    let pseudo = [
        &[0, 6, 0, segment.len() as u8][..],
        &[10, 60, 0, 7, 198, 18, 0, 10],
    ]
    .concat();
    let mut packet = ipv4(6, [10, 60, 0, 7], [198, 18, 0, 10], &[]);
    if v6 {
        packet = vec![0x60, 0, 0, 0, 0, segment.len() as u8, 6, 64];
        packet.extend([0; 32]);
    } else {
        packet[3] += segment.len() as u8;
        seal(&mut packet);
    }
    let sum = checksum(&[if v6 { &pseudo[..4] } else { &pseudo[..] }, &segment].concat());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    packet.extend(segment);
    packet
}
