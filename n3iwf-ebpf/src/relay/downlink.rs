//! GTP-U (TS 29.281) to GRE (TS 24.502, 9.3.3).

use aya_ebpf::programs::TcContext;
use ebpf_common::relay::{Reason, RelayMeta, downlink_place, flow_place, mapped};

use super::{
    DOWNLINK_FLOWS, META, Verdict, checksum, count, counter, foresee,
    header::{self, GRE, Head, IPPROTO_GRE, IPV4, Place, UDP, write_ipv4},
    ipv6::{self, IPV6},
    mss, rate, redirect_neigh, redirect_xfrm, session,
};
use crate::{
    buffer::{self, coarse_time},
    packet::{ETH_P_IP, IPPROTO_UDP},
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

/// A packet that may carry GTP-U to us.
struct Arrived {
    link: u32,
    /// Octets of the IP header.
    ip: u32,
    /// Octets of the packet.
    total: u32,
    /// Type of service, or traffic class.
    class: u8,
    /// As [`ebpf_common::relay::RelayPeer::address`].
    source: [u8; 16],
    /// UDP and the mandatory part of GTP-U.
    tunnel: [u8; (UDP + GTP_U) as usize],
}

#[inline(always)]
fn over_ipv4(ctx: &TcContext, meta: &RelayMeta) -> Result<Arrived, Verdict> {
    let malformed = || Verdict::pass(Reason::Malformed);
    let &[.., a, b, c, d] = &meta.n3_address;
    let (header, Place { link, total }) = header::find(ctx, IPPROTO_UDP, [a, b, c, d])?;
    if total < IPV4 + UDP + GTP_U {
        return Err(malformed());
    }
    let headers: [u8; (IPV4 + UDP + GTP_U) as usize] =
        header::headers(ctx, link, &header).ok_or_else(malformed)?;
    Ok(Arrived {
        link,
        ip: IPV4,
        total,
        class: header[1],
        source: mapped([headers[12], headers[13], headers[14], headers[15]]),
        tunnel: *headers.last_chunk().ok_or_else(malformed)?,
    })
}

#[inline(always)]
fn over_ipv6(ctx: &TcContext, meta: &RelayMeta) -> Result<Arrived, Verdict> {
    let malformed = || Verdict::pass(Reason::Malformed);
    let (header, Place { link, total }) = ipv6::find(ctx, &meta.n3_address)?;
    if total < IPV6 + UDP + GTP_U {
        return Err(malformed());
    }
    // What the network header says must be what stands where the lengths say.
    let headers: [u8; IPV6 as usize] = header::headers(ctx, link, &header).ok_or_else(malformed)?;
    let addresses: &[u8; 32] = headers.last_chunk().ok_or_else(malformed)?;
    Ok(Arrived {
        link,
        ip: IPV6,
        total,
        class: headers[0] << 4 | headers[1] >> 4,
        source: *addresses.first_chunk().ok_or_else(malformed)?,
        tunnel: buffer::octets(ctx, link + IPV6).ok_or_else(malformed)?,
    })
}

/// Whether two addresses are the same.
#[inline(always)]
fn is_same(one: &[u8; 16], other: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*one) == u128::from_ne_bytes(*other)
}

#[inline(always)]
pub(super) fn relay<const V6: bool>(ctx: &TcContext) -> Result<i32, Verdict> {
    let malformed = || Verdict::pass(Reason::Malformed);
    // SAFETY: the context is valid while the program runs; the verifier checks each access.
    let (kind, vlan) = unsafe { ((*ctx.skb.skb).pkt_type, (*ctx.skb.skb).vlan_present) };
    if kind != PACKET_HOST || vlan != 0 {
        return Err(Verdict::pass(Reason::Other));
    }
    let meta = META.get(0).ok_or(Verdict::pass(Reason::Other))?;
    let arrived = if V6 {
        over_ipv6(ctx, meta)?
    } else {
        over_ipv4(ctx, meta)?
    };
    let Arrived {
        link, ip, total, ..
    } = arrived;
    let tunnel = &arrived.tunnel;
    if u16::from_be_bytes([tunnel[2], tunnel[3]]) != PORT {
        return Err(Verdict::pass(Reason::Other));
    }
    let udp = u32::from(u16::from_be_bytes([tunnel[4], tunnel[5]]));
    let gtp = u32::from(u16::from_be_bytes([tunnel[10], tunnel[11]]));
    if ip + udp != total || UDP + GTP_U + gtp != udp {
        return Err(malformed());
    }
    // Version 1, protocol type GTP.
    let flags = tunnel[8];
    if flags & 0xf0 != 0x30 {
        return Err(malformed());
    }
    if tunnel[9] != G_PDU {
        return Err(Verdict::pass(Reason::Signalling));
    }
    let teid = [tunnel[12], tunnel[13], tunnel[14], tunnel[15]];
    foresee(&DOWNLINK_FLOWS, downlink_place(teid, meta.mask));
    let session = session::downlink(teid, meta.mask).ok_or(Verdict::pass(Reason::NoSession))?;
    let peer = session::peer(session.peer).ok_or(Verdict::pass(Reason::Other))?;
    if !is_same(&arrived.source, &peer.address) {
        return Err(Verdict::pass(Reason::WrongAddress).of(session.session));
    }
    let front = ip + UDP + GTP_U;
    let (optional, flow) = optional(ctx, link + front, flags, gtp)?;
    let flow = flow.unwrap_or(session.default_qfi as u8 & 0x3f);
    if (session.qfis >> (flow & 0x3f)) & 1 == 0 {
        return Err(Verdict::pass(Reason::QfiNotAllowed).of(session.session));
    }
    let old = front + optional;
    let pdu = gtp - optional;
    if pdu < MIN_PDU {
        return Err(Verdict::pass(Reason::TooShort));
    }
    if pdu > meta.downlink_max {
        return Err(Verdict::pass(Reason::TooBig).of(session.session));
    }
    if V6 {
        let sum = [tunnel[6], tunnel[7]];
        if !checksum::is_good(ctx, link + IPV6, udp, sum) {
            return Err(malformed());
        }
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
    let head = Head::read(ctx, link + old, pdu);
    let mut new = [0u8; NEW as usize];
    write_ipv4(
        &mut new,
        head.tos(session::tunnel_dscp(session, flow), arrived.class),
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
    if V6 {
        // It takes the first 20 octets.
        if !buffer::change_protocol(ctx, ETH_P_IP) {
            return Err(Verdict::pass(Reason::Failed));
        }
        if !buffer::adjust_room(ctx, -(old as i32 - 20)) {
            return Err(Verdict::drop(Reason::Failed));
        }
    } else if !buffer::adjust_room(ctx, -(old as i32)) {
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
