//! GRE inside the tunnel to GTP-U on N3 and back, without leaving the kernel.
//!
//! What is not plain user traffic of a known session goes on to user space (`TCX_NEXT`), where a
//! relay with the same sessions decides about it; only what is certainly wrong is dropped here.

mod checksum;
mod downlink;
mod event;
pub(crate) mod header;
mod ipv6;
mod mss;
mod rate;
mod session;
mod uplink;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    btf_maps::{Array, PerCpuArray},
    helpers::{
        bpf_redirect,
        generated::{bpf_redirect_neigh, bpf_skb_change_head},
    },
    macros::btf_map,
    programs::TcContext,
};
use ebpf_common::{
    Counter,
    relay::{
        BLOCK, DOWNLINK, FlowBlock, NO_SESSION, PLACE_FLOWS, REASONS, Reason, RelayMeta,
        RelayReasons, SessionDrops, UPLINK, mapped,
    },
    ue::{Words, words6},
};

use crate::{
    ETHERNET_HEADER,
    buffer::{self, coarse_time},
};

/// The loader sets the number that the configuration says; without a relay there is none.
const MAX_SESSIONS: usize = 1;

#[btf_map(name = "relay_ul_flows")]
static UPLINK_FLOWS: PerCpuArray<FlowBlock, MAX_SESSIONS> = PerCpuArray::new();

#[btf_map(name = "relay_dl_flows")]
static DOWNLINK_FLOWS: PerCpuArray<FlowBlock, MAX_SESSIONS> = PerCpuArray::new();

#[btf_map(name = "relay_refused")]
static REFUSED: PerCpuArray<SessionDrops, MAX_SESSIONS> = PerCpuArray::new();

#[btf_map(name = "relay_drops")]
static REASON_COUNTS: PerCpuArray<RelayReasons, 2> = PerCpuArray::new();

#[btf_map(name = "relay_meta")]
static META: Array<RelayMeta, 1> = Array::new();

/// Why a packet is not relayed, and whether it may go on to user space.
pub(crate) struct Verdict {
    reason: Reason,
    action: i32,
    /// The session that it is counted for too.
    session: Option<u16>,
}

impl Verdict {
    /// User space decides.
    #[inline(always)]
    fn pass(reason: Reason) -> Self {
        Self {
            reason,
            action: TC_ACT_UNSPEC,
            session: None,
        }
    }

    /// The packet ends here.
    #[inline(always)]
    fn drop(reason: Reason) -> Self {
        Self {
            reason,
            action: TC_ACT_SHOT,
            session: None,
        }
    }

    #[inline(always)]
    fn of(self, session: u16) -> Self {
        Self {
            session: Some(session),
            ..self
        }
    }

    /// The action, once the packet is counted.
    #[inline(always)]
    fn told(self, ctx: &TcContext, direction: u32) -> i32 {
        let session = self.session.map_or(NO_SESSION, u32::from);
        refuse(ctx.skb.skb, direction, self.reason, session);
        self.action
    }
}

/// `V6`: N3 is of IPv6.
#[inline(always)]
pub(crate) fn uplink<const V6: bool>(ctx: &TcContext) -> i32 {
    match uplink::relay::<V6>(ctx) {
        Ok(action) => action,
        Err(verdict) => verdict.told(ctx, UPLINK),
    }
}

#[inline(always)]
pub(crate) fn downlink<const V6: bool>(ctx: &TcContext) -> i32 {
    match downlink::relay::<V6>(ctx) {
        Ok(action) => action,
        Err(verdict) => verdict.told(ctx, DOWNLINK),
    }
}

/// The source of a packet that is left as it came, as [`ebpf_common::relay::RelayEvent::source`]; zeroes when
/// there is none.
#[inline(always)]
fn source(ctx: &TcContext) -> Words {
    let Some([version, ..]) = buffer::network::<[u8; 4]>(ctx) else {
        return [0; 4];
    };
    if version >> 4 != 4 {
        return buffer::network_at(ctx, 8).unwrap_or([0; 4]);
    }
    match buffer::network_at(ctx, 12) {
        Some(address) => words6(mapped(address)),
        None => [0; 4],
    }
}

/// Counts a packet that is not relayed, for its session ([`NO_SESSION`]: none) too. A function of its own:
/// what is relayed has less code to run past.
#[inline(never)]
fn refuse(skb: *mut __sk_buff, direction: u32, reason: Reason, session: u32) {
    // The compiler knows that every reason is below `REASONS`, the verifier does not.
    let index = core::hint::black_box(reason as u32);
    if let Some(counts) = REASON_COUNTS.get_ptr_mut(direction)
        && index < REASONS
    {
        let counts: *mut u64 = counts.cast();
        // SAFETY: this CPU's value of the map, which is `REASONS` numbers in a row.
        let count = unsafe {
            let count = counts.add(index as usize);
            *count += 1;
            *count
        };
        if reason.is_told() {
            let source = source(&TcContext::new(skb));
            event::refused(direction, index, session, source, count, coarse_time());
        }
    }
    if session != NO_SESSION
        && let Some(counts) = REFUSED.get_ptr_mut(session)
    {
        // SAFETY: this CPU's value of the map.
        let both = unsafe {
            match reason {
                Reason::WrongSa => &raw mut (*counts).wrong_sa,
                Reason::WrongAddress => &raw mut (*counts).wrong_address,
                Reason::QfiNotAllowed => &raw mut (*counts).qfi_not_allowed,
                Reason::TooBig => &raw mut (*counts).too_big,
                Reason::Rate => &raw mut (*counts).rate,
                _ => return,
            }
        };
        let one: *mut u64 = both.cast();
        // SAFETY: as above; there are two numbers, uplink first.
        unsafe { *one.add(usize::from(direction != UPLINK)) += 1 };
    }
}

/// The counter of the flow at a place.
#[inline(always)]
fn counter(flows: &PerCpuArray<FlowBlock, MAX_SESSIONS>, place: u32) -> Option<*mut Counter> {
    let block = flows.get_ptr_mut(place / BLOCK)?;
    let counters: *mut Counter = block.cast();
    // SAFETY: this CPU's value of the map, which is `BLOCK` counters in a row.
    let counter = unsafe { counters.add((place % BLOCK) as usize) };
    // Its line comes from memory while the headers are made, not after that.
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const (*counter).packets) };
    Some(counter)
}

/// Has the line of a session's first counters come from memory together with the session's own, which says
/// where they really are: nearly always there.
#[inline(always)]
fn foresee(flows: &PerCpuArray<FlowBlock, MAX_SESSIONS>, place: u32) {
    let _ = counter(flows, place * PLACE_FLOWS);
}

/// Adds a relayed PDU to the counter of a flow.
#[inline(always)]
fn count(counter: Option<*mut Counter>, octets: u32, now: u64) {
    let Some(counter) = counter else {
        return;
    };
    // SAFETY: this CPU's value of the map; tc programs of one CPU do not interrupt each other.
    unsafe {
        (*counter).packets += 1;
        (*counter).bytes += u64::from(octets);
        (*counter).last_seen_ns = now;
    }
}

/// Sends through an interface with an Ethernet header, by the kernel's route and neighbour there.
#[inline(always)]
pub(crate) fn redirect_neigh(
    ctx: &TcContext,
    ifindex: u32,
    link_header: u32,
) -> Result<i32, Verdict> {
    if link_header == 0 {
        // The helper replaces a link header, so there has to be one.
        // SAFETY: the helper takes the context of this program.
        let ret = unsafe { bpf_skb_change_head(ctx.skb.skb, ETHERNET_HEADER, 0) };
        if ret != 0 {
            return Err(Verdict::drop(Reason::Failed));
        }
    }
    // SAFETY: without parameters the helper looks the destination up itself.
    let action = unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) };
    Ok(action as i32)
}

/// Sends through an interface without a link header: XFRM.
#[inline(always)]
pub(crate) fn redirect_xfrm(ifindex: u32) -> i32 {
    // SAFETY: the helper checks the interface when it sends.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}
