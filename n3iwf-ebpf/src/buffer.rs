//! Reading and rebuilding socket buffers.
//!
//! Everything is read with `bpf_skb_load_bytes`, which also reaches what is not in the linear part
//! of the buffer; packets and their headers are wherever the driver and TCP put them. Headers are read
//! many octets at a time and handled as words: a call, and clearing the room for its answer, cost more
//! than what a program does with the octets.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_hdr_start_off,
        bpf_xfrm_state,
    },
    helpers::generated::{
        bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_skb_adjust_room, bpf_skb_change_proto,
        bpf_skb_get_xfrm_state, bpf_skb_load_bytes, bpf_skb_load_bytes_relative,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};

/// What can be read from a packet and written to it.
///
/// # Safety
///
/// The type has no padding, and any octets are a value of it.
pub(crate) unsafe trait Octets: Copy {}

// SAFETY: integers.
unsafe impl<const N: usize> Octets for [u8; N] {}
// SAFETY: integers.
unsafe impl<const N: usize> Octets for [u32; N] {}

/// What is at `offset` from the start of the buffer, in the order of memory; `None` beyond the end.
#[inline(always)]
pub(crate) fn read<T: Octets>(ctx: &TcContext, offset: u32) -> Option<T> {
    let mut room = MaybeUninit::uninit();
    read_to(ctx, offset, &mut room).copied()
}

/// The same without a copy, for what is many octets.
#[inline(always)]
pub(crate) fn read_to<'a, T: Octets>(
    ctx: &TcContext,
    offset: u32,
    room: &'a mut MaybeUninit<T>,
) -> Option<&'a T> {
    // SAFETY: the helper writes so many octets, zeroes if it fails; the pointers are valid for the call.
    unsafe {
        let ret = bpf_skb_load_bytes(
            ctx.as_ptr(),
            offset,
            room.as_mut_ptr().cast(),
            size_of::<T>() as u32,
        );
        if ret == 0 {
            Some(room.assume_init_ref())
        } else {
            None
        }
    }
}

/// Words of it, with a look into the linear part of the buffer first, which takes no call. `offset` is below
/// 256.
#[inline(always)]
pub(crate) fn words<'a, const N: usize>(
    ctx: &TcContext,
    offset: u32,
    room: &'a mut MaybeUninit<[u32; N]>,
) -> Option<&'a [u32; N]> {
    match peek(ctx, offset) {
        Some(words) => Some(room.write(words)),
        None => read_to(ctx, offset, room),
    }
}

/// What lies in the linear part of the buffer; `None` where that is shorter, and the packet may not be. `offset` is
/// below 256.
#[inline(always)]
pub(crate) fn peek<const N: usize>(ctx: &TcContext, offset: u32) -> Option<[u32; N]> {
    // SAFETY: the context is valid while the program runs, and so is the buffer between the two until it is
    // changed; the verifier checks each access.
    let (data, end) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).data as usize, (*skb).data_end as usize)
    };
    // The compiler may know that, the verifier is to see it.
    let offset = core::hint::black_box(offset) & 0xff;
    let start = data + offset as usize;
    if start + N * 4 > end {
        return None;
    }
    // SAFETY: as said, and words need no alignment in the asm.
    Some(core::array::from_fn(|n| unsafe {
        let word: u64;
        core::arch::asm!(
            "{word} = *(u32 *)({at} + 0)",
            word = out(reg) word,
            at = in(reg) start + n * 4,
            options(pure, readonly, nostack),
        );
        word as u32
    }))
}

#[inline(always)]
pub(crate) fn octets<const N: usize>(ctx: &TcContext, offset: u32) -> Option<[u8; N]> {
    read(ctx, offset)
}

#[inline(always)]
pub(crate) fn be16(ctx: &TcContext, offset: u32) -> Option<u16> {
    octets(ctx, offset).map(u16::from_be_bytes)
}

#[inline(always)]
pub(crate) fn be32(ctx: &TcContext, offset: u32) -> Option<u32> {
    read(ctx, offset).map(|[word]: [u32; 1]| u32::from_be(word))
}

/// The first octets of what the kernel holds for the network header. They are read from the linear
/// part, where the kernel has put at least an IP header.
#[inline(always)]
pub(crate) fn network<T: Octets>(ctx: &TcContext) -> Option<T> {
    network_at(ctx, 0)
}

/// Octets of it from `offset` on.
#[inline(always)]
pub(crate) fn network_at<T: Octets>(ctx: &TcContext, offset: u32) -> Option<T> {
    let mut octets = MaybeUninit::<T>::uninit();
    // SAFETY: as in `read_to`.
    unsafe {
        let ret = bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            offset,
            octets.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            bpf_hdr_start_off::BPF_HDR_START_NET,
        );
        if ret == 0 {
            Some(octets.assume_init())
        } else {
            None
        }
    }
}

/// Writes at `offset` from the start of the buffer and keeps a checksum of the device true.
#[inline(always)]
pub(crate) fn store<T: Octets>(ctx: &TcContext, offset: u32, octets: &T) -> bool {
    write(ctx, offset, octets, u64::from(BPF_F_RECOMPUTE_CSUM))
}

/// Writes what a checksum within the packet has been corrected for: their sum stays.
#[inline(always)]
pub(crate) fn store_balanced<const N: usize>(ctx: &TcContext, offset: u32, octets: &[u8; N]) {
    // The checksum was written before, at a place before this one, so there is room.
    let _ = write(ctx, offset, octets, 0);
}

#[inline(always)]
fn write<T: Octets>(ctx: &TcContext, offset: u32, octets: &T, flags: u64) -> bool {
    // SAFETY: the helper reads so many octets or fails.
    let ret = unsafe {
        bpf_skb_store_bytes(
            ctx.skb.skb,
            offset,
            (&raw const *octets).cast(),
            size_of::<T>() as u32,
            flags,
        )
    };
    ret == 0
}

/// Makes (or takes) room between the link header and the IP header. `false`: nothing was changed.
#[inline(always)]
pub(crate) fn adjust_room(ctx: &TcContext, by: i32) -> bool {
    // SAFETY: the helper takes the context of this program.
    let ret = unsafe { bpf_skb_adjust_room(ctx.skb.skb, by, BPF_ADJ_ROOM_MAC, 0) };
    ret == 0
}

/// Makes an IPv4 packet one of IPv6 (20 octets longer) or the reverse: the kernel's notion of it, and room;
/// what the header says is left to the caller. `false`: nothing was changed.
#[inline(always)]
pub(crate) fn change_protocol(ctx: &TcContext, ethertype: u16) -> bool {
    // SAFETY: the helper takes the context of this program.
    let ret = unsafe { bpf_skb_change_proto(ctx.skb.skb, ethertype.to_be(), 0) };
    ret == 0
}

/// The SA that a packet came out of, or is about to go through.
#[inline(always)]
pub(crate) fn xfrm_state(ctx: &TcContext) -> Option<bpf_xfrm_state> {
    let mut state = MaybeUninit::<bpf_xfrm_state>::uninit();
    // SAFETY: the helper fills the structure of the size given, or fails; it is of integers.
    unsafe {
        let ret = bpf_skb_get_xfrm_state(
            ctx.skb.skb,
            0,
            state.as_mut_ptr(),
            size_of::<bpf_xfrm_state>() as u32,
            0,
        );
        (ret == 0).then(|| state.assume_init())
    }
}

/// The tick that [`coarse_time`] was last asked in, and its answer.
static mut TICK: [u64; 2] = [0; 2];

/// `CLOCK_MONOTONIC` to the last tick of the kernel or the one before, some milliseconds at most.
///
/// The clock moves with the ticks, and asking which tick it is takes no call: only the first packet of a tick asks
/// the clock. Processors share the answer. One that is overtaken between the two words leaves an answer of an earlier
/// tick, which the next tick replaces.
#[inline(always)]
pub(crate) fn coarse_time() -> u64 {
    // SAFETY: the helpers only read clocks; both words are aligned, and any two values of them are answers.
    unsafe {
        let tick = bpf_jiffies64();
        let last = &raw mut TICK;
        if (&raw const (*last)[0]).read_volatile() == tick {
            return (&raw const (*last)[1]).read_volatile();
        }
        let now = bpf_ktime_get_coarse_ns();
        (&raw mut (*last)[1]).write_volatile(now);
        (&raw mut (*last)[0]).write_volatile(tick);
        now
    }
}
