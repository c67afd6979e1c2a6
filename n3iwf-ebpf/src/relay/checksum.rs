//! The UDP checksum over IPv6 (RFC 8200, 8.1): it covers the PDU, so all of it is read.
//!
//! N3 has no checksum of zero: a receiver need not take one (RFC 6935, section 5), and nobody on N3 asks
//! for it.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_csum_diff, bpf_csum_level, bpf_skb_pull_data},
    programs::TcContext,
};
use ebpf_common::relay::{SUMMED, SUMMED_CHUNK};

use crate::{
    buffer::{self, Octets},
    packet::IPPROTO_UDP,
};

/// `BPF_CSUM_LEVEL_QUERY` (linux/bpf.h).
const QUERY: u64 = 0;
/// No octet that is summed lies behind this one: all ones, above [`SUMMED`] and any headers.
const FURTHEST: u32 = 2 * SUMMED - 1;

/// The one's complement sum of octets in the order of memory, not folded yet.
#[derive(Clone, Copy)]
pub(super) struct Sum(u32);

impl Sum {
    /// Of the pseudo-header but the addresses: a UDP datagram of `len` octets.
    #[inline(always)]
    pub(super) fn of_udp(len: u32) -> Self {
        // The sum of words of 16 bits is the same as of those of 32, and needs no carry here.
        Self(u32::from((len as u16).to_be()) + u32::from(u16::from(IPPROTO_UDP).to_be()))
    }

    /// Adds octets at hand.
    #[inline(always)]
    pub(super) fn add<T: Octets>(self, octets: &T) -> Self {
        self.with((&raw const *octets).cast(), size_of::<T>() as u32)
    }

    #[inline(always)]
    fn with(self, octets: *const u8, len: u32) -> Self {
        // SAFETY: the helper reads so many octets, a multiple of four; the verifier knows that they are there.
        let sum = unsafe {
            bpf_csum_diff(
                core::ptr::null_mut(),
                0,
                octets.cast_mut().cast(),
                len,
                self.0,
            )
        };
        Self(sum as u32)
    }

    /// Adds `len` octets at `at` of the packet. `None`: they are not there, or more than [`SUMMED`].
    #[inline(always)]
    pub(super) fn add_packet(self, ctx: &TcContext, at: u32, len: u32) -> Option<Self> {
        if len > SUMMED {
            return None;
        }
        // SAFETY: the helper takes the context of this program.
        if unsafe { bpf_skb_pull_data(ctx.skb.skb, at + len) } != 0 {
            return None;
        }
        let mut sum = self;
        let mut from = at;
        let end = at + len;
        for _ in 0..SUMMED / SUMMED_CHUNK {
            if end - from < SUMMED_CHUNK {
                break;
            }
            sum = sum.with(part(ctx, from, SUMMED_CHUNK)?, SUMMED_CHUNK);
            from += SUMMED_CHUNK;
        }
        from = forget(from);
        let mut size = SUMMED_CHUNK / 2;
        while size >= 4 {
            if len & size != 0 {
                sum = sum.with(part(ctx, from, size)?, size);
                from += size;
            }
            from = forget(from);
            size /= 2;
        }
        // What is left goes to the places that it has in a word.
        let mut last = [0u8; 4];
        let mut at = 0;
        if len & 2 != 0 {
            [last[0], last[1]] = buffer::octets(ctx, from)?;
            at = 2;
        }
        if len & 1 != 0 {
            let [octet] = buffer::octets(ctx, from + at)?;
            if at == 0 {
                last[0] = octet;
            } else {
                last[2] = octet;
            }
        }
        Some(sum.add(&last))
    }

    /// In 16 bits, in the order of memory.
    #[inline(always)]
    fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff) + (self.0 >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The checksum for the UDP header; never zero, which would say that there is none.
    #[inline(always)]
    pub(super) fn checksum(self) -> [u8; 2] {
        match !self.fold() {
            0 => [0xff; 2],
            sum => sum.to_ne_bytes(),
        }
    }
}

/// The verifier knows no longer how a value came about, so it goes on once for all ways to get here.
#[inline(always)]
fn forget(value: u32) -> u32 {
    core::hint::black_box(value)
}

/// `len` octets at `from` of the linear part, if they are there.
#[inline(always)]
fn part(ctx: &TcContext, from: u32, len: u32) -> Option<*const u8> {
    // SAFETY: the context is valid while the program runs; the verifier checks each access.
    let (data, end) = unsafe {
        (
            (*ctx.skb.skb).data as usize,
            (*ctx.skb.skb).data_end as usize,
        )
    };
    // The verifier follows a bound that is said here, and none that the compiler derives elsewhere.
    let from = core::hint::black_box(from) & FURTHEST;
    let start = data + from as usize;
    (start + len as usize <= end).then_some(start as *const u8)
}

/// Whether a datagram of `len` octets at `at`, right behind the addresses of its IPv6 header, is as it was
/// sent. `checksum` is what it says.
#[inline(always)]
pub(super) fn is_good(ctx: &TcContext, at: u32, len: u32, checksum: [u8; 2]) -> bool {
    if checksum == [0; 2] {
        return false;
    }
    // SAFETY: the helper takes the context of this program.
    if unsafe { bpf_csum_level(ctx.as_ptr().cast(), QUERY) } >= 0 {
        // The device has looked.
        return true;
    }
    // Read anew: kept all the way, they would be more than the stack has.
    let Some(addresses) = buffer::read::<[u32; 8]>(ctx, at - 32) else {
        return false;
    };
    let pseudo = Sum::of_udp(len).add(&addresses);
    // A virtual device may leave the checksum for later, with the sum of the pseudo-header in its place. A
    // damaged packet looks like that once in 2^16 times, no more often than a checksum is right by chance.
    if pseudo.fold() == u16::from_ne_bytes(checksum) {
        return true;
    }
    pseudo
        .add_packet(ctx, at, len)
        .is_some_and(|sum| sum.fold() == 0xffff)
}
