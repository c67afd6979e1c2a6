//! TCP super-packets cut back into segments.
//!
//! Generic receive offload may merge TCP segments before a relay sees them. A tunnel has a fixed
//! room per packet, so such a packet is segmented again as the sender's kernel did (RFC 9293: each
//! segment is a TCP packet of its own; the stream does not change).

use super::packet::{checksum, ipv4};

const TCP: u8 = 6;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// A packet as it leaves: whole, or cut into segments.
pub(super) struct Parts<'a> {
    whole: &'a [u8],
    cut: Option<Vec<Vec<u8>>>,
}

impl<'a> Parts<'a> {
    /// `packet` in parts of at most `limit` octets where [`segment`] can make them.
    pub(super) fn new(packet: &'a [u8], limit: usize) -> Self {
        Self {
            whole: packet,
            cut: segment(packet, limit),
        }
    }

    /// Whether the packet does not fit as it is, and cannot be cut.
    pub(super) fn too_long(&self, limit: usize) -> bool {
        self.cut.is_none() && self.whole.len() > limit
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let whole = self.cut.is_none().then_some(self.whole);
        let cut = self.cut.iter().flatten().map(Vec::as_slice);
        whole.into_iter().chain(cut)
    }
}

/// Cuts an unfragmented IPv4 TCP packet into packets of at most `limit` octets.
///
/// `None` when it is not such a packet, or fits already, or `limit` leaves no room for data:
/// it then goes out as it is.
fn segment(packet: &[u8], limit: usize) -> Option<Vec<Vec<u8>>> {
    if packet.len() <= limit {
        return None;
    }
    let ip = ipv4(packet)?;
    let fragmented = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff != 0;
    if *packet.get(9)? != TCP || fragmented {
        return None;
    }
    let tcp_len = usize::from(*ip.payload.get(12)? >> 4) * 4;
    if tcp_len < 20 {
        return None;
    }
    let (tcp, data) = ip.payload.split_at_checked(tcp_len)?;
    let room = limit.checked_sub(ip.header_len.checked_add(tcp_len)?)?;
    if room == 0 || data.is_empty() {
        return None;
    }
    let ip_header = packet.get(..ip.header_len)?;
    let count = data.len().div_ceil(room);
    let id = u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]);
    let sequence = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
    let mut segments = Vec::with_capacity(count);
    for (index, chunk) in data.chunks(room).enumerate() {
        let mut out = [ip_header, tcp, chunk].concat();
        let total = u16::try_from(out.len()).ok()?;
        let (ip_part, tcp_part) = out.split_at_mut_checked(ip.header_len)?;
        put(ip_part, 2, total.to_be_bytes())?;
        // Wrapping on purpose: both counters are modular.
        #[expect(clippy::cast_possible_truncation)]
        put(ip_part, 4, id.wrapping_add(index as u16).to_be_bytes())?;
        put(ip_part, 10, [0, 0])?;
        let sum = checksum(&[ip_part]);
        put(ip_part, 10, sum.to_be_bytes())?;
        let offset = u32::try_from(index.checked_mul(room)?).ok()?;
        put(tcp_part, 4, sequence.wrapping_add(offset).to_be_bytes())?;
        let flags = tcp_part.get_mut(13)?;
        if index + 1 < count {
            *flags &= !FIN_PSH;
        }
        if index > 0 {
            *flags &= !CWR;
        }
        put(tcp_part, 16, [0, 0])?;
        let tcp_total = u16::try_from(tcp_part.len()).ok()?;
        let [t1, t2] = tcp_total.to_be_bytes();
        let addresses = ip_part.get(12..20)?;
        let sum = checksum(&[addresses, &[0, TCP, t1, t2], tcp_part]);
        put(tcp_part, 16, sum.to_be_bytes())?;
        segments.push(out);
    }
    Some(segments)
}

fn put<const N: usize>(octets: &mut [u8], at: usize, value: [u8; N]) -> Option<()> {
    *octets.get_mut(at..)?.first_chunk_mut::<N>()? = value;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCP packet with 12 octets of options, FIN, PSH and CWR set, and `len` octets of data.
    fn tcp(len: usize) -> Vec<u8> {
        let total = u16::try_from(20 + 32 + len).unwrap().to_be_bytes();
        let mut packet = vec![
            0x45, 0, total[0], total[1], 0xff, 0xff, 0x40, 0, 64, 6, 0, 0,
        ];
        packet.extend([10, 60, 0, 1, 198, 18, 0, 10]);
        packet.extend([
            0x12, 0x34, 0, 80, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 1, 0x80, 0x99,
        ]);
        packet.extend([0x10, 0, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        packet.extend((0..len).map(|n| u8::try_from(n % 251).unwrap()));
        packet
    }

    #[test]
    fn segments_rebuild_the_stream() {
        let packet = tcp(10_000);
        let segments = segment(&packet, 1358).unwrap();
        let mut data = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            let last = index + 1 == segments.len();
            assert!(segment.len() <= 1358);
            let ip = ipv4(segment).unwrap();
            assert_eq!(checksum(&[&segment[..20]]), 0, "IP checksum of {index}");
            let len = u16::try_from(ip.payload.len()).unwrap().to_be_bytes();
            let pseudo = [&segment[12..20], &[0, 6, len[0], len[1]], ip.payload];
            assert_eq!(checksum(&pseudo), 0, "TCP checksum of {index}");
            let expected = 0xffff_ff00_u32.wrapping_add(u32::try_from(data.len()).unwrap());
            assert_eq!(ip.payload[4..8], expected.to_be_bytes());
            let flags = ip.payload[13];
            assert_eq!(flags & FIN_PSH, if last { FIN_PSH } else { 0 });
            assert_eq!(flags & CWR, if index == 0 { CWR } else { 0 });
            data.extend_from_slice(&ip.payload[32..]);
        }
        assert_eq!(data, packet[52..]);
    }

    #[test]
    fn what_cannot_be_cut_is_left_alone() {
        let packet = tcp(2000);
        assert!(segment(&packet, packet.len()).is_none(), "fits");
        assert!(segment(&packet, 52).is_none(), "no room for data");
        let mut udp = packet.clone();
        udp[9] = 17;
        assert!(segment(&udp, 1358).is_none());
        let mut fragment = packet.clone();
        fragment[6] = 0x20;
        assert!(segment(&fragment, 1358).is_none());
        let mut offset = packet.clone();
        offset[32] = 0x40;
        assert!(
            segment(&offset, 1358).is_none(),
            "TCP header shorter than 20"
        );
        for len in 0..packet.len() {
            // A truncated packet contradicts its total length.
            assert!(segment(&packet[..len], 40).is_none(), "cut at {len}");
        }
    }
}
