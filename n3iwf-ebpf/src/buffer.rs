//! Reading and rebuilding socket buffers.
//!
//! Everything is read with `bpf_skb_load_bytes`, which also reaches what is not in the linear part
//! of the buffer; packets and their headers are wherever the driver and TCP put them.

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_hdr_start_off,
        bpf_xfrm_state, bpf_xfrm_state__bindgen_ty_1,
    },
    helpers::generated::{
        bpf_ktime_get_coarse_ns, bpf_skb_adjust_room, bpf_skb_change_proto, bpf_skb_get_xfrm_state,
        bpf_skb_load_bytes, bpf_skb_load_bytes_relative, bpf_skb_store_bytes,
    },
    programs::TcContext,
};

/// Reads `T` at `offset` from the start of the buffer; `None` beyond the end.
#[inline(always)]
fn load<T: Copy, const N: usize>(
    ctx: &TcContext,
    offset: u32,
    from: fn([u8; N]) -> T,
) -> Option<T> {
    let mut octets = [0u8; N];
    // SAFETY: the helper writes exactly N octets or fails; the pointers are valid for the call.
    let ret =
        unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset, octets.as_mut_ptr().cast(), N as u32) };
    (ret == 0).then(|| from(octets))
}

#[inline(always)]
pub(crate) fn octets<const N: usize>(ctx: &TcContext, offset: u32) -> Option<[u8; N]> {
    load(ctx, offset, |octets| octets)
}

#[inline(always)]
pub(crate) fn be16(ctx: &TcContext, offset: u32) -> Option<u16> {
    load(ctx, offset, u16::from_be_bytes)
}

#[inline(always)]
pub(crate) fn be32(ctx: &TcContext, offset: u32) -> Option<u32> {
    load(ctx, offset, u32::from_be_bytes)
}

/// The first octets of what the kernel holds for the network header. They are read from the linear
/// part, where the kernel has put at least an IP header.
#[inline(always)]
pub(crate) fn network_octets<const N: usize>(ctx: &TcContext) -> Option<[u8; N]> {
    let mut octets = [0u8; N];
    // SAFETY: the helper writes exactly N octets or fails; the pointers are valid for the call.
    let ret = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            0,
            octets.as_mut_ptr().cast(),
            N as u32,
            bpf_hdr_start_off::BPF_HDR_START_NET,
        )
    };
    (ret == 0).then_some(octets)
}

/// Writes at `offset` from the start of the buffer and keeps a checksum of the device true.
#[inline(always)]
pub(crate) fn store<const N: usize>(ctx: &TcContext, offset: u32, octets: &[u8; N]) -> bool {
    write(ctx, offset, octets, u64::from(BPF_F_RECOMPUTE_CSUM))
}

/// Writes what a checksum within the packet has been corrected for: their sum stays.
#[inline(always)]
pub(crate) fn store_balanced<const N: usize>(ctx: &TcContext, offset: u32, octets: &[u8; N]) {
    // The checksum was written before, at a place before this one, so there is room.
    let _ = write(ctx, offset, octets, 0);
}

#[inline(always)]
fn write<const N: usize>(ctx: &TcContext, offset: u32, octets: &[u8; N], flags: u64) -> bool {
    // SAFETY: the helper reads N octets or fails.
    let ret = unsafe {
        bpf_skb_store_bytes(ctx.skb.skb, offset, octets.as_ptr().cast(), N as u32, flags)
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
    let mut state = bpf_xfrm_state {
        reqid: 0,
        spi: 0,
        family: 0,
        ext: 0,
        __bindgen_anon_1: bpf_xfrm_state__bindgen_ty_1 {
            remote_ipv6: [0; 4],
        },
    };
    // SAFETY: the helper fills the structure of the size given, or fails.
    let ret = unsafe {
        bpf_skb_get_xfrm_state(
            ctx.skb.skb,
            0,
            &raw mut state,
            size_of::<bpf_xfrm_state>() as u32,
            0,
        )
    };
    (ret == 0).then_some(state)
}

/// `CLOCK_MONOTONIC` to the last tick of the kernel, some milliseconds at most.
#[inline(always)]
pub(crate) fn coarse_time() -> u64 {
    // SAFETY: the helper only reads a clock.
    unsafe { bpf_ktime_get_coarse_ns() }
}
