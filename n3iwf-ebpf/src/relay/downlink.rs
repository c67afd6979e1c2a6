//! GTP-U (TS 29.281) to GRE (TS 24.502, 9.3.3).

use core::mem::MaybeUninit;

use aya_ebpf::programs::TcContext;
use ebpf_common::{
    relay::{DOWNLINK, Reason, RelayMeta, downlink_place, flow_place, mapped},
    ue::{Words, words6},
};

use super::{
    DOWNLINK_FLOWS, META, Verdict, checksum, count, counter, foresee,
    header::{self, GRE, HEAD, Head, IPPROTO_GRE, IPV4, Place, UDP, WITH_HEAD},
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
const PORT: u32 = 2152;
const G_PDU: u8 = 255;
const CONTAINER: u8 = 0x85;
/// Longest PDU Session Container looked into, in units of four octets.
const MAX_UNITS: u32 = 8;
/// Octets of an optional part with a PDU Session Container of four octets: that of every UPF.
const USUAL: u32 = 8;
/// The kernel leaves at least an IPv4 header behind what it takes away.
const MIN_PDU: u32 = 20;

/// `skb->pkt_type` of frames to this host.
const PACKET_HOST: u32 = 0;

/// A packet that may carry GTP-U to us.
struct Arrived<'a> {
    link: u32,
    /// Octets of the IP header.
    ip: u32,
    /// Octets of the packet.
    total: u32,
    /// Type of service, or traffic class.
    class: u8,
    /// As [`ebpf_common::relay::RelayPeer::address`].
    source: Words,
    /// UDP and the mandatory part of GTP-U.
    tunnel: [u32; 4],
    /// What follows, if there is as much: a usual optional part.
    optional: Option<[u32; 2]>,
    /// And the head of the PDU.
    head: Option<&'a [u32; HEAD]>,
}

/// Octets of packets that have an [`Arrived::optional`], without the IP header.
const WITH_OPTIONAL: u32 = UDP + GTP_U + USUAL;
/// Those that have an [`Arrived::head`] too.
const WITH_ALL: u32 = WITH_OPTIONAL + WITH_HEAD;

#[inline(always)]
fn over_ipv4<'a>(
    ctx: &TcContext,
    meta: &RelayMeta,
    room: &'a mut MaybeUninit<[u32; 5 + 4 + 2 + HEAD]>,
) -> Result<Arrived<'a>, Verdict> {
    let malformed = || Verdict::pass(Reason::Malformed);
    let &[.., a, b, c, d] = &meta.n3_address;
    let (header, Place { link, total }) = header::find(ctx, IPPROTO_UDP, [a, b, c, d])?;
    if total < IPV4 + UDP + GTP_U {
        return Err(malformed());
    }
    let (tunnel, optional, head) = if total >= IPV4 + WITH_ALL {
        let words = header::words(ctx, link, &header, room).ok_or_else(malformed)?;
        let [_, _, _, _, _, t0, t1, t2, t3, o0, o1, head @ ..] = words;
        ([*t0, *t1, *t2, *t3], Some([*o0, *o1]), Some(head))
    } else if total >= IPV4 + WITH_OPTIONAL {
        let mut room = MaybeUninit::<[u32; 5 + 4 + 2]>::uninit();
        let words = header::words(ctx, link, &header, &mut room).ok_or_else(malformed)?;
        let [_, _, _, _, _, t0, t1, t2, t3, optional @ ..] = *words;
        ([t0, t1, t2, t3], Some(optional), None)
    } else {
        let mut room = MaybeUninit::<[u32; 5 + 4]>::uninit();
        let words = header::words(ctx, link, &header, &mut room).ok_or_else(malformed)?;
        let [_, _, _, _, _, tunnel @ ..] = *words;
        (tunnel, None, None)
    };
    let [_, class, ..] = header[0].to_ne_bytes();
    Ok(Arrived {
        link,
        ip: IPV4,
        total,
        class,
        source: words6(mapped(header[3].to_ne_bytes())),
        tunnel,
        optional,
        head,
    })
}

#[inline(always)]
fn over_ipv6<'a>(
    ctx: &TcContext,
    meta: &RelayMeta,
    room: &'a mut MaybeUninit<[u32; 4 + 2 + HEAD]>,
) -> Result<Arrived<'a>, Verdict> {
    let malformed = || Verdict::pass(Reason::Malformed);
    let (header, Place { link, total }) = ipv6::find(ctx, &meta.n3_address)?;
    if total < IPV6 + UDP + GTP_U {
        return Err(malformed());
    }
    // What the network header says must be what stands where the lengths say.
    let mut again = MaybeUninit::<ipv6::Header>::uninit();
    let [first, _, s0, s1, s2, s3, ..] =
        *header::words(ctx, link, &header, &mut again).ok_or_else(malformed)?;
    let (tunnel, optional, head) = if total >= IPV6 + WITH_ALL {
        let words = buffer::words(ctx, link + IPV6, room).ok_or_else(malformed)?;
        let [t0, t1, t2, t3, o0, o1, head @ ..] = words;
        ([*t0, *t1, *t2, *t3], Some([*o0, *o1]), Some(head))
    } else {
        let tunnel = buffer::read(ctx, link + IPV6).ok_or_else(malformed)?;
        (tunnel, None, None)
    };
    Ok(Arrived {
        link,
        ip: IPV6,
        total,
        class: (u32::from_be(first) >> 20) as u8,
        source: [s0, s1, s2, s3],
        tunnel,
        optional,
        head,
    })
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
    let (mut room4, mut room6) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    let arrived = if V6 {
        over_ipv6(ctx, meta, &mut room6)?
    } else {
        over_ipv4(ctx, meta, &mut room4)?
    };
    let Arrived {
        link, ip, total, ..
    } = arrived;
    let [ports, length, gtp, teid] = arrived.tunnel;
    if u32::from_be(ports) & 0xffff != PORT {
        return Err(Verdict::pass(Reason::Other));
    }
    let udp = u32::from_be(length) >> 16;
    let [flags, kind, ..] = gtp.to_ne_bytes();
    let gtp = u32::from_be(gtp) & 0xffff;
    if ip + udp != total || UDP + GTP_U + gtp != udp {
        return Err(malformed());
    }
    // Version 1, protocol type GTP.
    if flags & 0xf0 != 0x30 {
        return Err(malformed());
    }
    if kind != G_PDU {
        return Err(Verdict::pass(Reason::Signalling));
    }
    let teid = teid.to_ne_bytes();
    foresee(&DOWNLINK_FLOWS, downlink_place(teid, meta.mask));
    let session = session::downlink(teid, meta.mask).ok_or(Verdict::pass(Reason::NoSession))?;
    let peer = session::peer(session.peer).ok_or(Verdict::pass(Reason::Other))?;
    if !ipv6::is_same(&arrived.source, &words6(peer.address)) {
        return Err(Verdict::pass(Reason::WrongAddress).of(session.session));
    }
    let front = ip + UDP + GTP_U;
    let (optional, flow) = optional(ctx, link + front, flags, gtp, arrived.optional)?;
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
        let [.., high, low] = length.to_ne_bytes();
        let sum = [high, low];
        if !checksum::is_good(ctx, link + IPV6, udp, sum) {
            return Err(malformed());
        }
    }
    let now = coarse_time();
    if !rate::admit(&session.rates, DOWNLINK, pdu, now) {
        return Err(Verdict::drop(Reason::Rate).of(session.session));
    }
    let ifindex = session::interface(session, flow);
    let place = session.flows + flow_place(session.qfis, (flow & 0x3f).into());
    let counter = counter(&DOWNLINK_FLOWS, place);
    let mut head = MaybeUninit::uninit();
    let head = match arrived.head {
        Some(head) if optional == USUAL => Head(Some(head)),
        _ => Head::read(ctx, link + old, pdu, &mut head),
    };
    let [i0, i1, i2, i3, i4] = header::ipv4(
        head.tos(session::tunnel_dscp(session, flow), arrived.class),
        (pdu + NEW) as u16,
        IPPROTO_GRE,
        meta.up_address,
        session.inner,
    );
    let [p, t] = (meta.gre_protocol as u16).to_be_bytes();
    // RQI is 0x40 of the container's octet and 0x80 of the key's last one.
    let [gre, key] =
        [[0x20, 0, p, t], [flow & 0x3f, 0, 0, (flow & 0x40) << 1]].map(u32::from_ne_bytes);
    let new: [u32; NEW as usize / 4] = [i0, i1, i2, i3, i4, gre, key];

    let [.., high, low] = length.to_ne_bytes();
    if !V6 && [high, low] == [0; 2] {
        // Without a UDP checksum, as UPFs send over IPv4: the front is only made shorter.
        if !buffer::adjust_room(ctx, NEW as i32 - old as i32) {
            return Err(Verdict::pass(Reason::Failed));
        }
    } else {
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
        if !buffer::adjust_room(ctx, NEW as i32) {
            return Err(Verdict::drop(Reason::Failed));
        }
    }
    if !buffer::store(ctx, link, &new) {
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

/// Octets of the optional part at `at`, and RQI and QFI of a PDU Session Container in it. Its first words
/// may have been `read`.
#[inline(always)]
fn optional(
    ctx: &TcContext,
    at: u32,
    flags: u8,
    gtp: u32,
    read: Option<[u32; 2]>,
) -> Result<(u32, Option<u8>), Verdict> {
    let word = |n: usize| match read {
        Some(read) => Some(read[n].to_ne_bytes()),
        None => buffer::octets(ctx, at + 4 * n as u32),
    };
    let malformed = || Verdict::pass(Reason::Malformed);
    let extension = || Verdict::pass(Reason::Extension);
    if flags & 7 == 0 {
        return Ok((0, None));
    }
    if gtp < 4 {
        return Err(malformed());
    }
    let [_, _, _, next] = word(0).ok_or_else(malformed)?;
    if flags & 4 == 0 || next == 0 {
        return Ok((4, None));
    }
    if next != CONTAINER {
        return Err(extension());
    }
    let [units, kind, flow, first_next] = word(1).ok_or_else(malformed)?;
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
