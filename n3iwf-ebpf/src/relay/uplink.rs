//! GRE (TS 24.502, 9.3.3) to GTP-U (TS 29.281) with a PDU Session Container (TS 38.415).

use core::mem::MaybeUninit;

use aya_ebpf::programs::TcContext;
use ebpf_common::relay::{
    FRESH, Reason, SESSION_SAS, UPLINK, UplinkKey, UplinkSession, flow_place, uplink_place,
};

use super::{
    META, UPLINK_FLOWS, Verdict,
    checksum::Sum,
    count, counter, event, foresee,
    header::{self, GRE, HEAD, Head, IPPROTO_GRE, IPV4, Place, TUNNEL, WITH_HEAD},
    ipv6::{self, IPV6},
    mss, rate, redirect_neigh, session,
};
use crate::{
    buffer::{self, coarse_time},
    packet::{ETH_P_IPV6, IPPROTO_UDP},
};

const OLD: u32 = IPV4 + GRE;
const NEW: u32 = IPV4 + TUNNEL;
const NEW6: u32 = IPV6 + TUNNEL;
/// Words of the headers and of the head of the PDU.
const FRONT: usize = OLD as usize / 4 + HEAD;

#[inline(always)]
pub(super) fn relay<const V6: bool>(ctx: &TcContext) -> Result<i32, Verdict> {
    let meta = META.get(0).ok_or(Verdict::pass(Reason::Other))?;
    let (header, Place { link, total }) = header::find(ctx, IPPROTO_GRE, meta.up_address)?;
    if total < OLD {
        return Err(Verdict::pass(Reason::Malformed));
    }
    let pdu = total - OLD;
    let malformed = || Verdict::pass(Reason::Malformed);
    let mut front = MaybeUninit::uninit();
    let (gre, key, head) = if pdu >= WITH_HEAD {
        let words: &[u32; FRONT] =
            header::words(ctx, link, &header, &mut front).ok_or_else(malformed)?;
        let [_, _, _, _, _, gre, key, head @ ..] = words;
        (*gre, *key, Head(Some(head)))
    } else {
        let mut short = MaybeUninit::<[u32; 7]>::uninit();
        let words = header::words(ctx, link, &header, &mut short).ok_or_else(malformed)?;
        let [.., gre, key] = *words;
        (gre, key, Head(None))
    };
    // A key and nothing else: flags 0x2000. The protocol type is not looked at.
    if u32::from_be(gre) >> 16 != 0x2000 {
        return Err(Verdict::pass(Reason::Extension));
    }
    let [qfi, ..] = key.to_ne_bytes();
    let qfi = qfi & 0x3f;
    let [_, class, ..] = header[0].to_ne_bytes();
    let key = UplinkKey {
        inner: header[3].to_ne_bytes(),
        ifindex: unsafe {
            // SAFETY: the context is valid while the program runs.
            (*ctx.skb.skb).ifindex
        },
    };
    foresee(&UPLINK_FLOWS, uplink_place(key, meta.mask));
    let session = session::uplink(key, meta.mask).ok_or(Verdict::pass(Reason::NoSession))?;
    let Some(spi) = from_its_sa(ctx, session) else {
        return Err(Verdict::drop(Reason::WrongSa).of(session.session));
    };
    if (session.qfis >> qfi) & 1 == 0 {
        return Err(Verdict::pass(Reason::QfiNotAllowed).of(session.session));
    }
    let peer = session::peer(session.peer).ok_or(Verdict::pass(Reason::Other))?;
    if pdu > peer.pdu_max {
        return Err(Verdict::pass(Reason::TooBig).of(session.session));
    }
    let now = coarse_time();
    if !rate::admit(&session.rates, UPLINK, pdu, now) {
        return Err(Verdict::drop(Reason::Rate).of(session.session));
    }
    let counter = counter(
        &UPLINK_FLOWS,
        session.flows + flow_place(session.qfis, qfi.into()),
    );
    if session.state == FRESH {
        event::first_packet(&raw const session.state, session.session, spi, now);
    }
    if meta.mss != 0 {
        mss::clamp(ctx, &head, link + OLD, pdu, meta.mss);
    }
    let tos = head.tos(session::n3_dscp(session, qfi), class);
    let [t0, t1, t2, t3, t4, t5] = header::tunnel(pdu, session.teid, qfi);
    if V6 {
        let len = pdu + TUNNEL;
        let [i0, i1, i2, i3, i4, i5, i6, i7, i8, i9] =
            ipv6::header(tos, len as u16, &meta.n3_address, &peer.address);
        let mut new: [u32; NEW6 as usize / 4] = [
            i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, t0, t1, t2, t3, t4, t5,
        ];
        // It covers addresses, UDP and GTP-U.
        let [_, _, covered @ ..] = &new;
        let sum = Sum::of_udp(len)
            .add(covered)
            .add_packet(ctx, link + OLD, pdu)
            .ok_or(Verdict::pass(Reason::Failed))?
            .checksum();
        new[11] |= u32::from_ne_bytes([0, 0, sum[0], sum[1]]);
        // It makes 20 octets of room.
        if !buffer::change_protocol(ctx, ETH_P_IPV6) {
            return Err(Verdict::pass(Reason::Failed));
        }
        if !buffer::adjust_room(ctx, (NEW6 - OLD - 20) as i32) || !buffer::store(ctx, link, &new) {
            return Err(Verdict::drop(Reason::Failed));
        }
    } else {
        let [i0, i1, i2, i3, i4] = header::ipv4(
            tos,
            (pdu + NEW) as u16,
            IPPROTO_UDP,
            last(&meta.n3_address),
            last(&peer.address),
        );
        // UDP without a checksum, as RFC 768 allows over IPv4.
        let new: [u32; NEW as usize / 4] = [i0, i1, i2, i3, i4, t0, t1, t2, t3, t4, t5];
        if !buffer::adjust_room(ctx, (NEW - OLD) as i32) {
            return Err(Verdict::pass(Reason::Failed));
        }
        if !buffer::store(ctx, link, &new) {
            return Err(Verdict::drop(Reason::Failed));
        }
    }
    let action = redirect_neigh(ctx, peer.ifindex, link)?;
    count(counter, pdu, now);
    Ok(action)
}

/// The IPv4 address of a mapped one.
#[inline(always)]
fn last(&[.., a, b, c, d]: &[u8; 16]) -> [u8; 4] {
    [a, b, c, d]
}

/// The SPI of the SA that decrypted the packet, if it is one of the session's; 0 where none is asked
/// for. The policies of the kernel would ask that only later, behind this program.
#[inline(always)]
fn from_its_sa(ctx: &TcContext, session: &UplinkSession) -> Option<u32> {
    if session.reqids[0] == 0 {
        return Some(0);
    }
    let state = buffer::xfrm_state(ctx)?;
    let mut place = 0;
    while place < SESSION_SAS {
        if session.reqids[place] == state.reqid {
            return Some(u32::from_be(state.spi));
        }
        place += 1;
    }
    None
}
