//! IPv6 headers on N3, read and written.

use aya_ebpf::programs::TcContext;
use ebpf_common::{
    relay::Reason,
    ue::{Words, words6},
};

use super::{
    Verdict,
    header::{HOPS, Place},
};
use crate::{
    ETHERNET_HEADER, buffer,
    packet::{
        ETH_P_IPV6, IPPROTO_DSTOPTS, IPPROTO_FRAGMENT, IPPROTO_HOPOPTS, IPPROTO_ROUTING,
        IPPROTO_UDP,
    },
};

pub(super) const IPV6: u32 = 40;

/// An IPv6 header, in the order of memory.
pub(super) type Header = [u32; IPV6 as usize / 4];

/// A whole UDP packet over IPv6 to `address` without extension headers.
#[inline(always)]
pub(super) fn find(ctx: &TcContext, address: &[u8; 16]) -> Result<(Header, Place), Verdict> {
    let other = || Verdict::pass(Reason::Other);
    // SAFETY: the context is valid while the program runs; the verifier checks each access.
    let (ethertype, len, gso_size) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).protocol, (*skb).len, (*skb).gso_size)
    };
    if u16::from_be(ethertype as u16) != ETH_P_IPV6 {
        return Err(other());
    }
    let header: Header = buffer::network(ctx).ok_or_else(other)?;
    let [version, ..] = header[0].to_ne_bytes();
    let [.., to0, to1, to2, to3] = header;
    if version >> 4 != 6 || !is_same(&[to0, to1, to2, to3], &words6(*address)) {
        return Err(other());
    }
    let [.., next_header, _] = header[1].to_ne_bytes();
    match next_header {
        IPPROTO_UDP => {}
        IPPROTO_FRAGMENT => return Err(Verdict::pass(Reason::Fragment)),
        IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS => {
            return Err(Verdict::pass(Reason::Options));
        }
        _ => return Err(other()),
    }
    if gso_size != 0 {
        return Err(Verdict::pass(Reason::Gso));
    }
    let total = IPV6 + (u32::from_be(header[1]) >> 16);
    let link = len.wrapping_sub(total);
    if link != 0 && link != ETHERNET_HEADER {
        return Err(Verdict::pass(Reason::Malformed));
    }
    Ok((header, Place { link, total }))
}

/// Whether two addresses are the same. Word by word: a call of `memcmp` is more than the verifier follows.
#[inline(always)]
pub(super) fn is_same(one: &Words, other: &Words) -> bool {
    let mut difference = 0;
    let mut at = 0;
    while at < one.len() {
        difference |= one[at] ^ other[at];
        at += 1;
    }
    difference == 0
}

/// An IPv6 header (RFC 8200, section 3). `payload` is what follows, octets.
#[inline(always)]
pub(super) fn header(class: u8, payload: u16, from: &[u8; 16], to: &[u8; 16]) -> Header {
    let [p, l] = payload.to_be_bytes();
    let [f0, f1, f2, f3] = words6(*from);
    let [t0, t1, t2, t3] = words6(*to);
    let first = [0x60 | class >> 4, class << 4, 0, 0];
    let second = [p, l, IPPROTO_UDP, HOPS];
    let [first, second] = [first, second].map(u32::from_ne_bytes);
    [first, second, f0, f1, f2, f3, t0, t1, t2, t3]
}
