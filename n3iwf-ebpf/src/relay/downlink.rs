//! GTP-U (TS 29.281) to GRE (TS 24.502, 9.3.3).

use aya_ebpf::programs::TcContext;
use ebpf_common::relay::{Reason, flow_place};

use super::{
    DOWNLINK_FLOWS, META, Verdict, count, counter,
    header::{self, GRE, IPPROTO_GRE, IPV4, Place, UDP, write_ipv4},
    mss, rate, redirect_neigh, redirect_xfrm, session,
};
use crate::{
    buffer::{self, coarse_time},
    packet::IPPROTO_UDP,
};

/// The mandatory part of a GTP-U header.
const GTP_U: u32 = 8;
const NEW: u32 = IPV4 + GRE;
const PORT: u16 = 2152;
const G_PDU: u8 = 255;
const CONTAINER: u8 = 0x85;
/// Longest PDU Session Container looked into, in units of four octets.
const MAX_UNITS: u32 = 8;
/// The kernel leaves at least an IPv4 header behind what it takes away.
const MIN_PDU: u32 = 20;

/// `skb->pkt_type` of frames to this host.
const PACKET_HOST: u32 = 0;

#[inline(always)]
pub(super) fn relay(ctx: &TcContext) -> Result<i32, Verdict> {
    let malformed = || Verdict::pass(Reason::Malformed);
    // SAFETY: the context is valid while the program runs; the verifier checks each access.
    let (kind, vlan) = unsafe { ((*ctx.skb.skb).pkt_type, (*ctx.skb.skb).vlan_present) };
    if kind != PACKET_HOST || vlan != 0 {
        return Err(Verdict::pass(Reason::Other));
    }
    let meta = META.get(0).ok_or(Verdict::pass(Reason::Other))?;
    let (header, Place { link, total }) = header::find(ctx, IPPROTO_UDP, meta.n3_address)?;
    if total < IPV4 + UDP + GTP_U {
        return Err(malformed());
    }
    let headers: [u8; (IPV4 + UDP + GTP_U) as usize] =
        header::headers(ctx, link, &header).ok_or_else(malformed)?;
    if u16::from_be_bytes([headers[22], headers[23]]) != PORT {
        return Err(Verdict::pass(Reason::Other));
    }
    let udp = u32::from(u16::from_be_bytes([headers[24], headers[25]]));
    let gtp = u32::from(u16::from_be_bytes([headers[30], headers[31]]));
    if IPV4 + udp != total || UDP + GTP_U + gtp != udp {
        return Err(malformed());
    }
    // Version 1, protocol type GTP.
    let flags = headers[28];
    if flags & 0xf0 != 0x30 {
        return Err(malformed());
    }
    if headers[29] != G_PDU {
        return Err(Verdict::pass(Reason::Signalling));
    }
    let teid = [headers[32], headers[33], headers[34], headers[35]];
    let session = session::downlink(teid, meta.mask).ok_or(Verdict::pass(Reason::NoSession))?;
    if [headers[12], headers[13], headers[14], headers[15]] != session.upf {
        return Err(Verdict::pass(Reason::WrongAddress).of(session.session));
    }
    let (optional, flow) = optional(ctx, link + IPV4 + UDP + GTP_U, flags, gtp)?;
    let flow = flow.unwrap_or(session.default_qfi as u8 & 0x3f);
    if (session.qfis >> (flow & 0x3f)) & 1 == 0 {
        return Err(Verdict::pass(Reason::QfiNotAllowed).of(session.session));
    }
    let old = IPV4 + UDP + GTP_U + optional;
    let pdu = gtp - optional;
    if pdu < MIN_PDU {
        return Err(Verdict::pass(Reason::TooShort));
    }
    if pdu > meta.downlink_max {
        return Err(Verdict::pass(Reason::TooBig).of(session.session));
    }
    let now = coarse_time();
    if !rate::admit(
        &session.rates,
        |rate| unsafe { &raw mut (*rate).downlink },
        pdu,
        now,
    ) {
        return Err(Verdict::drop(Reason::Rate).of(session.session));
    }
    let ifindex = session::interface(session, flow);
    let place = session.flows + flow_place(session.qfis, (flow & 0x3f).into());
    let counter = counter(&DOWNLINK_FLOWS, place);
    let head = header::Head::read(ctx, link + old, pdu);
    let mut new = [0u8; NEW as usize];
    write_ipv4(
        &mut new,
        head.tos(session.dscp, header[1]),
        (pdu + NEW) as u16,
        IPPROTO_GRE,
        meta.up_address,
        session.inner,
    );
    let gre_protocol = (meta.gre_protocol as u16).to_be_bytes();
    [new[20], new[22], new[23]] = [0x20, gre_protocol[0], gre_protocol[1]];
    // RQI is 0x40 of the container's octet and 0x80 of the key's last one.
    [new[24], new[27]] = [flow & 0x3f, (flow & 0x40) << 1];

    // All of the old headers go before the new ones come: the kernel then forgets a UDP checksum
    // that a virtual device left for later, whose place is gone.
    if !buffer::adjust_room(ctx, -(old as i32)) {
        return Err(Verdict::pass(Reason::Failed));
    }
    if !buffer::adjust_room(ctx, NEW as i32) || !buffer::store(ctx, link, &new) {
        return Err(Verdict::drop(Reason::Failed));
    }
    if meta.mss != 0 {
        mss::clamp(ctx, &head, link + NEW, pdu, meta.mss);
    }
    let action = if session.link_header == 0 {
        redirect_xfrm(ifindex)
    } else {
        redirect_neigh(ctx, ifindex, link)?
    };
    count(counter, pdu, now);
    Ok(action)
}

/// Octets of the optional part at `at`, and RQI and QFI of a PDU Session Container in it.
#[inline(always)]
fn optional(ctx: &TcContext, at: u32, flags: u8, gtp: u32) -> Result<(u32, Option<u8>), Verdict> {
    let malformed = || Verdict::pass(Reason::Malformed);
    let extension = || Verdict::pass(Reason::Extension);
    if flags & 7 == 0 {
        return Ok((0, None));
    }
    if gtp < 4 {
        return Err(malformed());
    }
    let [_, _, _, next]: [u8; 4] = buffer::octets(ctx, at).ok_or_else(malformed)?;
    if flags & 4 == 0 || next == 0 {
        return Ok((4, None));
    }
    if next != CONTAINER {
        return Err(extension());
    }
    let [units, kind, flow, first_next]: [u8; 4] =
        buffer::octets(ctx, at + 4).ok_or_else(malformed)?;
    let units = u32::from(units);
    let len = 4 + units * 4;
    if units == 0 || units > MAX_UNITS || kind >> 4 != 0 {
        return Err(extension());
    }
    if len > gtp {
        return Err(malformed());
    }
    let next = if units == 1 {
        first_next
    } else {
        let [next] = buffer::octets(ctx, at + len - 1).ok_or_else(malformed)?;
        next
    };
    if next != 0 {
        return Err(extension());
    }
    Ok((len, Some(flow & 0x7f)))
}
