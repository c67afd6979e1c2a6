//! The UE's programs. Uplink: the QFI of a packet that leaves by a PDU session's interface, by its QoS
//! rules (TS 24.501, 6.2.5), and GRE around it (TS 24.502, 9.3.3). Downlink, in [`downlink`]: GRE off.
//!
//! What is not plain goes on, to a relay in user space that has the same rules.
//!
//! The way into the tunnel is a detour through ingress of the same interface. A packet from a socket has
//! the route of the session's interface, whose MTU the XFRM interface would hold it to, with the new
//! headers; on ingress it has none, and the XFRM interface looks its own up.

pub(crate) mod downlink;
mod flow;

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC},
    btf_maps::{HashMap, LruHashMap, PerCpuArray},
    helpers::bpf_redirect,
    macros::btf_map,
    programs::TcContext,
};
use ebpf_common::{
    Counter,
    relay::FlowBlock,
    ue::{UE_FILTERS, UeDerived, UeFlow, UePacket, UeSession},
};

use crate::{
    NO_PREALLOC,
    buffer::{self, coarse_time},
    packet::{ETH_P_IP, ETH_P_IPV6},
    relay::{
        header::{self, GRE, Head, IPPROTO_GRE, IPV4},
        redirect_neigh, redirect_xfrm,
    },
};

const HEADERS: u32 = IPV4 + GRE;
const IPV6: u32 = 40;
/// What the kernel takes from the front when an IPv6 packet becomes one of IPv4, octets.
const SHORTER: u32 = 20;

/// The loader sets the numbers; without PDU sessions there are none.
const FEW: usize = 1;

#[btf_map(name = "ue_sessions")]
static SESSIONS: HashMap<u32, UeSession, FEW, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "ue_derived")]
static DERIVED: LruHashMap<UeFlow, UeDerived, FEW> = LruHashMap::new();

#[btf_map(name = "ue_flows")]
static FLOWS: PerCpuArray<FlowBlock, FEW> = PerCpuArray::new();

#[btf_map(name = "ue_dl_flows")]
static DOWNLINK_FLOWS: PerCpuArray<FlowBlock, FEW> = PerCpuArray::new();

#[btf_map(name = "ue_tunnels")]
static TUNNELS: HashMap<u32, u32, FEW, NO_PREALLOC> = HashMap::new();

#[inline(always)]
pub(crate) fn uplink(ctx: &TcContext) -> i32 {
    relay(ctx).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn relay(ctx: &TcContext) -> Option<i32> {
    // SAFETY: the context is valid while the program runs; the verifier checks each access.
    let (ethertype, len, gso_size, ifindex) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).protocol, (*skb).len, (*skb).gso_size, (*skb).ifindex)
    };
    if gso_size != 0 {
        return None;
    }
    // SAFETY: user space replaces values, and never changes one.
    let session = unsafe { SESSIONS.get(&ifindex) }?;
    if len > session.pdu_max {
        return None;
    }
    let ethertype = u16::from_be(ethertype as u16);
    let packet = match ethertype {
        ETH_P_IP => {
            let packet = flow::ipv4(ctx, 0, len)?;
            (packet.local[0] == u32::from_ne_bytes(session.address)).then_some(packet)?
        }
        ETH_P_IPV6 if session.ipv6 != 0 => {
            let packet = flow::ipv6(ctx, 0, len)?;
            // Which prefix is the session's, the network checks.
            flow::is_global(&packet.local).then_some(packet)?
        }
        _ => return None,
    };
    let now = coarse_time();
    let qfi = choose(session, &packet, ifindex, now) & 0x3f;
    if qfi == 0 || session.tunnels[qfi as usize] == 0 {
        return None;
    }
    let mut head = MaybeUninit::uninit();
    let head = Head::read(ctx, 0, len, &mut head);
    let [i0, i1, i2, i3, i4] = header::ipv4(
        head.tos(session.dscp[qfi as usize].into(), 0),
        (len + HEADERS) as u16,
        IPPROTO_GRE,
        session.inner,
        session.up_address,
    );
    let [p, t] = (session.gre_protocol as u16).to_be_bytes();
    let [gre, key] = [[0x20, 0, p, t], [qfi as u8, 0, 0, 0]].map(u32::from_ne_bytes);
    if ethertype == ETH_P_IPV6 {
        // Behind GRE what the kernel takes of an IPv6 header.
        let [f0, f1, f2, f3, f4]: [u32; SHORTER as usize / 4] = buffer::read(ctx, 0)?;
        let new: [u32; (HEADERS + SHORTER) as usize / 4] =
            [i0, i1, i2, i3, i4, gre, key, f0, f1, f2, f3, f4];
        if !buffer::change_protocol(ctx, ETH_P_IP) {
            return None;
        }
        if !buffer::adjust_room(ctx, (HEADERS + SHORTER) as i32) || !buffer::store(ctx, 0, &new) {
            return Some(TC_ACT_SHOT);
        }
    } else {
        let new: [u32; HEADERS as usize / 4] = [i0, i1, i2, i3, i4, gre, key];
        if !buffer::adjust_room(ctx, HEADERS as i32) {
            return None;
        }
        if !buffer::store(ctx, 0, &new) {
            return Some(TC_ACT_SHOT);
        }
    }
    count(&FLOWS, session.place, qfi, len, now);
    // SAFETY: the helper checks the interface when it sends.
    Some(unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 })
}

/// GRE that [`uplink`] made goes into the tunnel. What user space writes to the interface is for
/// the PDU address, which is not the tunnel's.
#[inline(always)]
pub(crate) fn tunnel(ctx: &TcContext) -> i32 {
    enter(ctx).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn enter(ctx: &TcContext) -> Option<i32> {
    // SAFETY: the context is valid while the program runs.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let [first, _, third, source, to, _, key]: [u32; HEADERS as usize / 4] = buffer::read(ctx, 0)?;
    let ([version, ..], [_, protocol, ..]) = (first.to_ne_bytes(), third.to_ne_bytes());
    if version != 0x45 || protocol != IPPROTO_GRE {
        return None;
    }
    // SAFETY: as in [`relay`].
    let session = unsafe { SESSIONS.get(&ifindex) }?;
    if source != u32::from_ne_bytes(session.inner) || to != u32::from_ne_bytes(session.up_address) {
        return None;
    }
    let [qfi, ..] = key.to_ne_bytes();
    let through = session.tunnels[(qfi & 0x3f) as usize];
    if session.link_header == 0 {
        Some(redirect_xfrm(through))
    } else {
        Some(redirect_neigh(ctx, through, 0).unwrap_or(TC_ACT_SHOT))
    }
}

/// The first filter that takes the packet, unless a derived rule comes before it: its QFI, or 0.
#[inline(always)]
fn choose(session: &UeSession, packet: &UePacket, ifindex: u32, now: u64) -> u32 {
    // No rule has it.
    let mut found = 0;
    let mut at = 0;
    while at < UE_FILTERS {
        if at as u32 >= session.count {
            break;
        }
        let filter = &session.filters[at];
        if filter.difference(packet) == 0 {
            if (at as u32) < session.before {
                return filter.qfi;
            }
            found = filter.qfi;
            break;
        }
        at += 1;
    }
    if !flow::may_be_derived(packet) {
        return found;
    }
    let flow = UeFlow {
        local: packet.local,
        remote: packet.remote,
        upper: flow::upper(packet),
        protocol: flow::protocol(packet),
        ifindex,
        generation: session.generation,
    };
    // SAFETY: a value is replaced, not changed.
    match unsafe { DERIVED.get(&flow) } {
        Some(derived) if derived.ends_ns > now => derived.qfi as u32,
        _ => found,
    }
}

#[inline(always)]
fn count(flows: &PerCpuArray<FlowBlock, FEW>, place: u32, qfi: u32, octets: u32, now: u64) {
    let Some(block) = flows.get_ptr_mut(place) else {
        return;
    };
    let counters: *mut Counter = block.cast();
    // SAFETY: this CPU's value of the map, 64 counters in a row; a QFI has 6 bits.
    unsafe {
        let counter = counters.add((qfi & 0x3f) as usize);
        (*counter).packets += 1;
        (*counter).bytes += u64::from(octets);
        (*counter).last_seen_ns = now;
    }
}
