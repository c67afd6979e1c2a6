//! GRE out of the tunnel becomes a packet of its PDU session. On ingress of the XFRM interfaces.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::bpf_redirect,
    programs::TcContext,
};
use ebpf_common::ue::{UeFlow, UePacket, UeSession};

use super::{DERIVED, DOWNLINK_FLOWS, HEADERS, SESSIONS, SHORTER, TUNNELS, count, flow};
use crate::{
    buffer::{self, coarse_time},
    packet::ETH_P_IPV6,
    relay::header::{self, IPPROTO_GRE, Place},
};

#[inline(always)]
pub(crate) fn downlink(ctx: &TcContext) -> i32 {
    relay(ctx).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn relay(ctx: &TcContext) -> Option<i32> {
    // SAFETY: the context is valid while the program runs.
    let tunnel = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: a value is one aligned word.
    let ifindex = *unsafe { TUNNELS.get(&tunnel) }?;
    // SAFETY: user space replaces values, and never changes one.
    let session = unsafe { SESSIONS.get(&ifindex) }?;
    let (header, Place { link, total }) = header::find(ctx, IPPROTO_GRE, session.inner).ok()?;
    if total <= HEADERS {
        return None;
    }
    let mut room = MaybeUninit::<[u32; HEADERS as usize / 4]>::uninit();
    let [first, _, _, source, _, gre, key] = *header::words(ctx, link, &header, &mut room)?;
    if source != u32::from_ne_bytes(session.up_address) {
        return None;
    }
    // A key and nothing else. The protocol type is not looked at.
    if u32::from_be(gre) >> 16 != 0x2000 {
        return None;
    }
    let [qfi, .., last] = key.to_ne_bytes();
    let (qfi, reflective) = (qfi & 0x3f, last & 0x80 != 0);
    // Congestion on the way has to reach the PDU (RFC 6040, 4.2): rare, and user space's.
    let [_, tos, ..] = first.to_ne_bytes();
    if tos & 3 == 3 {
        return None;
    }
    let pdu = total - HEADERS;
    let at = link + HEADERS;
    let [version]: [u8; 1] = buffer::octets(ctx, at)?;
    let ipv6 = version >> 4 == 6;
    let packet = if ipv6 {
        let packet = flow::ipv6(ctx, at, pdu)?;
        (session.ipv6 != 0 && flow::is_global(&packet.remote)).then_some(packet)?
    } else {
        let packet = flow::ipv4(ctx, at, pdu)?;
        (packet.remote[0] == u32::from_ne_bytes(session.address)).then_some(packet)?
    };
    let now = coarse_time();
    if reflective && session.rq_timer_ns != 0 && !is_known(session, ifindex, packet, qfi, now) {
        return None;
    }
    if ipv6 {
        // It makes room in front, which goes with the headers.
        if !buffer::change_protocol(ctx, ETH_P_IPV6) {
            return None;
        }
        if !buffer::adjust_room(ctx, -((HEADERS + SHORTER) as i32)) {
            return Some(TC_ACT_SHOT);
        }
    } else if !buffer::adjust_room(ctx, -(HEADERS as i32)) {
        return None;
    }
    count(&DOWNLINK_FLOWS, session.place, qfi.into(), pdu, now);
    // SAFETY: the helper checks the interface when it sends.
    Some(unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 })
}

/// Whether the rule that a packet with RQI derives is there, with most of its time. If not, user space
/// derives it, for itself and for the programs.
#[inline(always)]
fn is_known(session: &UeSession, ifindex: u32, packet: UePacket, qfi: u8, now: u64) -> bool {
    let uplink = flow::turned(packet);
    if !flow::may_be_derived(&uplink) {
        return true;
    }
    let flow = UeFlow {
        local: uplink.local,
        remote: uplink.remote,
        upper: flow::upper(&uplink),
        protocol: flow::protocol(&uplink),
        ifindex,
        generation: session.generation,
    };
    // SAFETY: a value is replaced, not changed.
    match unsafe { DERIVED.get(&flow) } {
        Some(derived) => {
            let enough = now + session.rq_timer_ns / 4 * 3;
            derived.qfi == u64::from(qfi) && derived.ends_ns > enough
        }
        None => false,
    }
}
