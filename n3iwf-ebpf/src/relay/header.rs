//! IPv4 headers, and those of the tunnel, read and written.

use aya_ebpf::{helpers::bpf_get_prandom_u32, programs::TcContext};
use ebpf_common::relay::Reason;

use super::Verdict;
use crate::{ETHERNET_HEADER, buffer, packet::ETH_P_IP};

pub(crate) const IPV4: u32 = 20;
pub(super) const UDP: u32 = 8;
pub(crate) const GRE: u32 = 8;
pub(crate) const IPPROTO_GRE: u8 = 47;

/// TTL, hop limit.
pub(super) const HOPS: u8 = 64;

/// Where an IPv4 packet lies in the buffer.
pub(crate) struct Place {
    /// Octets of the link header in front of it: 0 or 14.
    pub(crate) link: u32,
    /// Octets of the packet, which ends where the buffer ends.
    pub(crate) total: u32,
}

/// Congestion experienced (RFC 3168, section 5).
const CE: u8 = 3;

/// The first octets of a PDU: what an IP header and the TCP flags of an IPv4 packet take.
pub(crate) struct Head(pub(super) Option<[u8; 34]>);

impl Head {
    /// PDUs that are shorter than IPv4 and TCP are left unread.
    #[inline(always)]
    pub(crate) fn read(ctx: &TcContext, at: u32, len: u32) -> Self {
        if len < IPV4 + 20 {
            return Self(None);
        }
        Self(buffer::octets(ctx, at))
    }

    /// Traffic class of the new outer header: its DSCP is the session's; ECN is the PDU's, or what
    /// congestion the old outer header tells of (RFC 6040, sections 4.1 and 4.2).
    #[inline(always)]
    pub(crate) fn tos(&self, dscp: u16, old: u8) -> u8 {
        let ecn = match &self.0 {
            Some(head) if head[0] >> 4 == 4 => head[1] & CE,
            Some(head) if head[0] >> 4 == 6 => (head[1] >> 4) & CE,
            _ => 0,
        };
        let ecn = if ecn != 0 && old & CE == CE { CE } else { ecn };
        ((dscp as u8) << 2) | ecn
    }
}

/// A whole IPv4 packet of `protocol` to `address` without options. An XFRM interface keeps a link
/// header in front of the decrypted packet if the encrypted one had one, so only the lengths tell.
#[inline(always)]
pub(crate) fn find(
    ctx: &TcContext,
    protocol: u8,
    address: [u8; 4],
) -> Result<([u8; IPV4 as usize], Place), Verdict> {
    let other = || Verdict::pass(Reason::Other);
    // SAFETY: the context is valid while the program runs; the verifier checks each access.
    let (ethertype, len, gso_size) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).protocol, (*skb).len, (*skb).gso_size)
    };
    if u16::from_be(ethertype as u16) != ETH_P_IP {
        return Err(other());
    }
    let header: [u8; IPV4 as usize] = buffer::network_octets(ctx).ok_or_else(other)?;
    if header[0] >> 4 != 4 || header[9] != protocol {
        return Err(other());
    }
    if [header[16], header[17], header[18], header[19]] != address {
        return Err(other());
    }
    if gso_size != 0 {
        return Err(Verdict::pass(Reason::Gso));
    }
    if header[0] & 15 != 5 {
        return Err(Verdict::pass(Reason::Options));
    }
    // More Fragments, or an offset.
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Err(Verdict::pass(Reason::Fragment));
    }
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    let link = len.wrapping_sub(total);
    if sum(&header) != 0xffff || total < IPV4 || (link != 0 && link != ETHERNET_HEADER) {
        return Err(Verdict::pass(Reason::Malformed));
    }
    Ok((header, Place { link, total }))
}

/// The first octets of the packet at `link`, which must start with `header`.
#[inline(always)]
pub(crate) fn headers<const N: usize, const M: usize>(
    ctx: &TcContext,
    link: u32,
    header: &[u8; M],
) -> Option<[u8; N]> {
    let octets: [u8; N] = buffer::octets(ctx, link)?;
    // Octet by octet: a call of `memcmp` is more than the verifier follows.
    let mut difference = 0;
    let mut at = 0;
    while at < M {
        difference |= octets[at] ^ header[at];
        at += 1;
    }
    (difference == 0).then_some(octets)
}

/// The one's complement sum of the first 20 octets (RFC 1071); 0xffff for a sound header.
#[inline(always)]
fn sum(header: &[u8]) -> u16 {
    let mut sum = 0u32;
    let mut at = 0;
    while at < 20 {
        sum += u32::from(u16::from_be_bytes([header[at], header[at + 1]]));
        at += 2;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// UDP and GTP-U with a PDU Session Container of four octets.
pub(super) const TUNNEL: u32 = UDP + 16;
const GTP_U_PORT: [u8; 2] = 2152u16.to_be_bytes();

/// Writes UDP without a checksum, GTP-U (TS 29.281, 5.1) and a PDU Session Container (TS 38.415) to `at` of
/// `out`.
#[inline(always)]
pub(super) fn write_tunnel(out: &mut [u8], at: usize, pdu: u32, teid: [u8; 4], qfi: u8) {
    let udp = ((pdu + TUNNEL) as u16).to_be_bytes();
    let gtp = ((pdu + 8) as u16).to_be_bytes();
    let [p, q] = GTP_U_PORT;
    let header: [u8; TUNNEL as usize] = [
        p, q, p, q, udp[0], udp[1], 0, 0, 0x34, 0xff, gtp[0], gtp[1], teid[0], teid[1], teid[2],
        teid[3], 0, 0, 0, 0x85, 1, 0x10, qfi, 0,
    ];
    let mut n = 0;
    while n < TUNNEL as usize {
        out[at + n] = header[n];
        n += 1;
    }
}

/// Writes an IPv4 header to the front of `out`. Routers may fragment the packet, so it has an ID.
#[inline(always)]
pub(crate) fn write_ipv4(
    out: &mut [u8],
    tos: u8,
    total: u16,
    protocol: u8,
    from: [u8; 4],
    to: [u8; 4],
) {
    // SAFETY: the helper takes nothing.
    let id = unsafe { bpf_get_prandom_u32() };
    let total = total.to_be_bytes();
    out[0] = 0x45;
    out[1] = tos;
    out[2] = total[0];
    out[3] = total[1];
    out[4] = (id >> 8) as u8;
    out[5] = id as u8;
    out[6] = 0;
    out[7] = 0;
    out[8] = HOPS;
    out[9] = protocol;
    out[10] = 0;
    out[11] = 0;
    let mut at = 0;
    while at < 4 {
        out[12 + at] = from[at];
        out[16 + at] = to[at];
        at += 1;
    }
    let checksum = (!sum(out)).to_be_bytes();
    out[10] = checksum[0];
    out[11] = checksum[1];
}
