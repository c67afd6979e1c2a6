//! IPv6 headers on N3, read and written.

use aya_ebpf::programs::TcContext;
use ebpf_common::relay::Reason;

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

/// A whole UDP packet over IPv6 to `address` without extension headers.
#[inline(always)]
pub(super) fn find(
    ctx: &TcContext,
    address: &[u8; 16],
) -> Result<([u8; IPV6 as usize], Place), Verdict> {
    let other = || Verdict::pass(Reason::Other);
    // SAFETY: the context is valid while the program runs; the verifier checks each access.
    let (ethertype, len, gso_size) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).protocol, (*skb).len, (*skb).gso_size)
    };
    if u16::from_be(ethertype as u16) != ETH_P_IPV6 {
        return Err(other());
    }
    let header: [u8; IPV6 as usize] = buffer::network_octets(ctx).ok_or_else(other)?;
    if header[0] >> 4 != 6 || !is_same(&header, 24, address) {
        return Err(other());
    }
    match header[6] {
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
    let total = IPV6 + u32::from(u16::from_be_bytes([header[4], header[5]]));
    let link = len.wrapping_sub(total);
    if link != 0 && link != ETHERNET_HEADER {
        return Err(Verdict::pass(Reason::Malformed));
    }
    Ok((header, Place { link, total }))
}

/// Whether an address is at `at` of a header. Octet by octet: a call of `memcmp` is more than the
/// verifier follows.
#[inline(always)]
fn is_same(header: &[u8; IPV6 as usize], at: usize, address: &[u8; 16]) -> bool {
    let mut difference = 0;
    let mut n = 0;
    while n < 16 {
        difference |= header[at + n] ^ address[n];
        n += 1;
    }
    difference == 0
}

/// Writes an IPv6 header to the front of `out` (RFC 8200, section 3). `payload` is what follows, octets.
#[inline(always)]
pub(super) fn write(out: &mut [u8], class: u8, payload: u16, from: &[u8; 16], to: &[u8; 16]) {
    let payload = payload.to_be_bytes();
    out[0] = 0x60 | class >> 4;
    out[1] = class << 4;
    out[2] = 0;
    out[3] = 0;
    out[4] = payload[0];
    out[5] = payload[1];
    out[6] = IPPROTO_UDP;
    out[7] = HOPS;
    let mut at = 0;
    while at < 16 {
        out[8 + at] = from[at];
        out[24 + at] = to[at];
        at += 1;
    }
}
