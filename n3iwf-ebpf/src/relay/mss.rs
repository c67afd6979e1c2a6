//! The MSS option of TCP connections through the tunnel (RFC 9293, 3.7.1): segments that fit need
//! no fragmentation on either side.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_l4_csum_replace, programs::TcContext};

use super::header::Head;
use crate::buffer;

const IPV4: u32 = 20;
const IPV6: u32 = 40;
const TCP: u32 = 20;
const IPPROTO_TCP: u8 = 6;
const SYN: u8 = 0x02;
/// Options looked through; MSS is the first one everywhere.
const MAX_OPTIONS: u32 = 8;
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;

/// Lowers the MSS of a SYN at `pdu` to what fits: `limit` over IPv4, 20 less over IPv6.
#[inline(always)]
pub(super) fn clamp(ctx: &TcContext, head: &Head<'_>, pdu: u32, len: u32, limit: u32) {
    let Some(head) = head.0 else {
        return;
    };
    let [version, ..] = head[0].to_ne_bytes();
    let [_, protocol, ..] = head[2].to_ne_bytes();
    let [.., next_header, _] = head[1].to_ne_bytes();
    let (header, flags, data_offset, limit) = if version == 0x45 && protocol == IPPROTO_TCP {
        // Only the first fragment has a TCP header.
        if u32::from_be(head[1]) & 0x1fff != 0 {
            return;
        }
        let [data_offset, flags, ..] = head[8].to_ne_bytes();
        (IPV4, flags, data_offset, limit)
    } else if version >> 4 == 6 && next_header == IPPROTO_TCP {
        let Some([data_offset, flags]) = buffer::octets(ctx, pdu + IPV6 + 12) else {
            return;
        };
        (IPV6, flags, data_offset, limit - 20)
    } else {
        return;
    };
    if flags & SYN != 0 {
        let end = header + u32::from(data_offset >> 4) * 4;
        if end <= len {
            options(ctx.skb.skb, pdu + header, pdu + end, limit as u16);
        }
    }
}

/// `tcp` and `end`: where the TCP header begins and ends. A function of its own: few packets need it, and
/// the others have less code to run past.
#[inline(never)]
fn options(skb: *mut __sk_buff, tcp: u32, end: u32, limit: u16) {
    let ctx = &TcContext::new(skb);
    let mut at = tcp + TCP;
    for _ in 0..MAX_OPTIONS {
        if at + 4 > end {
            return;
        }
        let Some([kind, len, high, low]) = buffer::octets(ctx, at) else {
            return;
        };
        match kind {
            END => return,
            NOP => at += 1,
            MSS if len == 4 => {
                let found = [high, low];
                if u16::from_be_bytes(found) > limit {
                    replace(ctx, tcp, at + 2, found, limit.to_be_bytes());
                }
                return;
            }
            _ if len < 2 => return,
            _ => at += u32::from(len),
        }
    }
}

#[inline(always)]
fn replace(ctx: &TcContext, tcp: u32, at: u32, old: [u8; 2], new: [u8; 2]) {
    // The checksum is over words; a value at an odd place lies across two of them.
    let word = |octets: [u8; 2]| {
        let word = u16::from_ne_bytes(octets);
        u64::from(if (at - tcp) & 1 == 0 {
            word
        } else {
            word.swap_bytes()
        })
    };
    // SAFETY: the helper takes the context of this program; a packet without room is left alone.
    let ret = unsafe { bpf_l4_csum_replace(ctx.skb.skb, tcp + 16, word(old), word(new), 2) };
    if ret == 0 {
        buffer::store_balanced(ctx, at, &new);
    }
}
