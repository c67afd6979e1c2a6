//! GRE inside the tunnel to GTP-U on N3 and back, without leaving the kernel.
//!
//! What is not plain user traffic of a known session goes on to user space (`TCX_NEXT`), where a
//! relay with the same sessions decides about it; only what is certainly wrong is dropped here.

mod downlink;
mod header;
mod mss;
mod uplink;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    btf_maps::{Array, HashMap, PerCpuArray},
    helpers::{
        bpf_redirect,
        generated::{bpf_ktime_get_coarse_ns, bpf_redirect_neigh, bpf_skb_change_head},
    },
    macros::btf_map,
    programs::TcContext,
};
use ebpf_common::{
    Counter,
    relay::{
        DownlinkSession, REASONS, Reason, RelayCounters, RelayMeta, RelayReasons, UplinkKey,
        UplinkSession,
    },
};

use crate::ETHERNET_HEADER;

/// The loader sets the number that the configuration says; without a relay there is none.
const MAX_SESSIONS: usize = 1;

// Preallocated: sessions lie close together, and 10 000 of them are found faster. User space puts
// nothing in the place of a deleted session before all programs that saw it have ended.
#[btf_map(name = "relay_ul")]
static UPLINKS: HashMap<UplinkKey, UplinkSession, MAX_SESSIONS> = HashMap::new();

#[btf_map(name = "relay_dl")]
static DOWNLINKS: HashMap<[u8; 4], DownlinkSession, MAX_SESSIONS> = HashMap::new();

#[btf_map(name = "relay_stats")]
static COUNTERS: PerCpuArray<RelayCounters, MAX_SESSIONS> = PerCpuArray::new();

#[btf_map(name = "relay_drops")]
static REASON_COUNTS: PerCpuArray<RelayReasons, 2> = PerCpuArray::new();

#[btf_map(name = "relay_meta")]
static META: Array<RelayMeta, 1> = Array::new();

/// Why a packet is not relayed, and whether it may go on to user space.
pub(crate) enum Verdict {
    Pass(Reason),
    Drop(Reason),
}

#[inline(always)]
pub(crate) fn uplink(ctx: &TcContext) -> i32 {
    match uplink::relay(ctx) {
        Ok(action) => action,
        Err(verdict) => refuse(ebpf_common::relay::UPLINK, verdict),
    }
}

#[inline(always)]
pub(crate) fn downlink(ctx: &TcContext) -> i32 {
    match downlink::relay(ctx) {
        Ok(action) => action,
        Err(verdict) => refuse(ebpf_common::relay::DOWNLINK, verdict),
    }
}

#[inline(always)]
fn refuse(direction: u32, verdict: Verdict) -> i32 {
    let (reason, action) = match verdict {
        Verdict::Pass(reason) => (reason, TC_ACT_UNSPEC),
        Verdict::Drop(reason) => (reason, TC_ACT_SHOT),
    };
    // The compiler knows that every reason is below `REASONS`, the verifier does not.
    let index = core::hint::black_box(reason as u32);
    if let Some(counts) = REASON_COUNTS.get_ptr_mut(direction)
        && index < REASONS
    {
        let counts: *mut u64 = counts.cast();
        // SAFETY: this CPU's value of the map, which is `REASONS` numbers in a row.
        unsafe { *counts.add(index as usize) += 1 };
    }
    action
}

/// Adds a relayed PDU to one direction of a session.
#[inline(always)]
fn count(index: u32, which: fn(*mut RelayCounters) -> *mut Counter, octets: u32) {
    let Some(counters) = COUNTERS.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: this CPU's value of the map; tc programs of one CPU do not interrupt each other. The
    // helper only reads a clock.
    unsafe {
        let counter = which(counters);
        (*counter).packets += 1;
        (*counter).bytes += u64::from(octets);
        (*counter).last_seen_ns = bpf_ktime_get_coarse_ns();
    }
}

/// Sends through an interface with an Ethernet header, by the kernel's route and neighbour there.
#[inline(always)]
fn redirect_neigh(ctx: &TcContext, ifindex: u32, link_header: u32) -> Result<i32, Verdict> {
    if link_header == 0 {
        // The helper replaces a link header, so there has to be one.
        // SAFETY: the helper takes the context of this program.
        let ret = unsafe { bpf_skb_change_head(ctx.skb.skb, ETHERNET_HEADER, 0) };
        if ret != 0 {
            return Err(Verdict::Drop(Reason::Failed));
        }
    }
    // SAFETY: without parameters the helper looks the destination up itself.
    let action = unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) };
    Ok(action as i32)
}

/// Sends through an interface without a link header: XFRM.
#[inline(always)]
fn redirect_xfrm(ifindex: u32) -> i32 {
    // SAFETY: the helper checks the interface when it sends.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}
