//! IPv4 headers, and those of the tunnel, read and written.

use core::mem::MaybeUninit;

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

/// The first words of a PDU, if it is long enough: what an IP header and the TCP flags of an IPv4 packet take.
pub(crate) struct Head<'a>(pub(crate) Option<&'a [u32; HEAD]>);

/// Words of a [`Head`].
pub(crate) const HEAD: usize = 9;
/// PDUs that are shorter than IPv4 and TCP have no [`Head`], octets.
pub(crate) const WITH_HEAD: u32 = IPV4 + 20;

impl<'a> Head<'a> {
    /// Of a PDU of `len` octets at `at`.
    #[inline(always)]
    pub(crate) fn read(
        ctx: &TcContext,
        at: u32,
        len: u32,
        room: &'a mut MaybeUninit<[u32; HEAD]>,
    ) -> Self {
        if len < WITH_HEAD {
            return Self(None);
        }
        Self(buffer::words(ctx, at, room))
    }

    /// Traffic class of the new outer header: its DSCP is the session's; ECN is the PDU's, or what
    /// congestion the old outer header tells of (RFC 6040, sections 4.1 and 4.2).
    #[inline(always)]
    pub(crate) fn tos(&self, dscp: u16, old: u8) -> u8 {
        let ecn = match self.0.map(|head| head[0].to_ne_bytes()) {
            Some([version, tos, ..]) if version >> 4 == 4 => tos & CE,
            Some([version, class, ..]) if version >> 4 == 6 => (class >> 4) & CE,
            _ => 0,
        };
        let ecn = if ecn != 0 && old & CE == CE { CE } else { ecn };
        ((dscp as u8) << 2) | ecn
    }
}

/// An IPv4 header without options, in the order of memory.
pub(crate) type Header = [u32; IPV4 as usize / 4];

/// A whole IPv4 packet of `protocol` to `address` without options. An XFRM interface keeps a link
/// header in front of the decrypted packet if the encrypted one had one, so only the lengths tell.
#[inline(always)]
pub(crate) fn find(
    ctx: &TcContext,
    protocol: u8,
    address: [u8; 4],
) -> Result<(Header, Place), Verdict> {
    let other = || Verdict::pass(Reason::Other);
    // SAFETY: the context is valid while the program runs; the verifier checks each access.
    let (ethertype, len, gso_size) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).protocol, (*skb).len, (*skb).gso_size)
    };
    if u16::from_be(ethertype as u16) != ETH_P_IP {
        return Err(other());
    }
    let header: Header = buffer::network(ctx).ok_or_else(other)?;
    let [version, ..] = header[0].to_ne_bytes();
    let [_, carries, ..] = header[2].to_ne_bytes();
    if version >> 4 != 4 || carries != protocol || header[4] != u32::from_ne_bytes(address) {
        return Err(other());
    }
    if gso_size != 0 {
        return Err(Verdict::pass(Reason::Gso));
    }
    if version & 15 != 5 {
        return Err(Verdict::pass(Reason::Options));
    }
    // More Fragments, or an offset.
    if u32::from_be(header[1]) & 0x3fff != 0 {
        return Err(Verdict::pass(Reason::Fragment));
    }
    let total = u32::from_be(header[0]) & 0xffff;
    let link = len.wrapping_sub(total);
    if sum(&header) != 0xffff || total < IPV4 || (link != 0 && link != ETHERNET_HEADER) {
        return Err(Verdict::pass(Reason::Malformed));
    }
    Ok((header, Place { link, total }))
}

/// The first words of the packet at `link`, which must start with `header`.
#[inline(always)]
pub(crate) fn words<'a, const N: usize, const M: usize>(
    ctx: &TcContext,
    link: u32,
    header: &[u32; M],
    room: &'a mut MaybeUninit<[u32; N]>,
) -> Option<&'a [u32; N]> {
    let words = buffer::words(ctx, link, room)?;
    // Word by word: a call of `memcmp` is more than the verifier follows.
    let mut difference = 0;
    let mut at = 0;
    while at < M {
        difference |= words[at] ^ header[at];
        at += 1;
    }
    if difference == 0 { Some(words) } else { None }
}

/// The one's complement sum (RFC 1071) in the order of memory, whichever that is; 0xffff for a sound header.
#[inline(always)]
fn sum(header: &Header) -> u16 {
    let mut sum = 0u64;
    let mut at = 0;
    while at < header.len() {
        sum += u64::from(header[at]);
        at += 1;
    }
    // At most 2^32 + 3, then 0x1fffe, then 0xffff.
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// UDP and GTP-U with a PDU Session Container of four octets.
pub(super) const TUNNEL: u32 = UDP + 16;
const GTP_U_PORT: [u8; 2] = 2152u16.to_be_bytes();

/// UDP without a checksum, GTP-U (TS 29.281, 5.1) and a PDU Session Container (TS 38.415).
#[inline(always)]
pub(super) fn tunnel(pdu: u32, teid: [u8; 4], qfi: u8) -> [u32; TUNNEL as usize / 4] {
    let [u, v] = ((pdu + TUNNEL) as u16).to_be_bytes();
    let [g, h] = ((pdu + 8) as u16).to_be_bytes();
    let [p, q] = GTP_U_PORT;
    [
        [p, q, p, q],
        [u, v, 0, 0],
        [0x34, 0xff, g, h],
        teid,
        [0, 0, 0, 0x85],
        [1, 0x10, qfi, 0],
    ]
    .map(u32::from_ne_bytes)
}

/// An IPv4 header. Routers may fragment the packet, so it has an ID.
#[inline(always)]
pub(crate) fn ipv4(tos: u8, total: u16, protocol: u8, from: [u8; 4], to: [u8; 4]) -> Header {
    // SAFETY: the helper takes nothing.
    let [i, d, ..] = unsafe { bpf_get_prandom_u32() }.to_ne_bytes();
    let [t, l] = total.to_be_bytes();
    let mut header = [
        [0x45, tos, t, l],
        [i, d, 0, 0],
        [HOPS, protocol, 0, 0],
        from,
        to,
    ]
    .map(u32::from_ne_bytes);
    let [c, k] = (!sum(&header)).to_ne_bytes();
    header[2] |= u32::from_ne_bytes([0, 0, c, k]);
    header
}
