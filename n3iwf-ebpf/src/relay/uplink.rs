//! GRE (TS 24.502, 9.3.3) to GTP-U (TS 29.281) with a PDU Session Container (TS 38.415).

use aya_ebpf::programs::TcContext;
use ebpf_common::relay::{
    FRESH, Reason, SESSION_SAS, UplinkKey, UplinkSession, flow_place, uplink_place,
};

use super::{
    META, UPLINK_FLOWS, Verdict,
    checksum::Sum,
    count, counter, event, foresee,
    header::{self, GRE, Head, IPPROTO_GRE, IPV4, Place, TUNNEL, write_ipv4, write_tunnel},
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

#[inline(always)]
pub(super) fn relay<const V6: bool>(ctx: &TcContext) -> Result<i32, Verdict> {
    let meta = META.get(0).ok_or(Verdict::pass(Reason::Other))?;
    let (header, Place { link, total }) = header::find(ctx, IPPROTO_GRE, meta.up_address)?;
    if total < OLD {
        return Err(Verdict::pass(Reason::Malformed));
    }
    let headers: [u8; OLD as usize] =
        header::headers(ctx, link, &header).ok_or(Verdict::pass(Reason::Malformed))?;
    // A key and nothing else: flags 0x2000. The protocol type is not looked at.
    if headers[20] != 0x20 || headers[21] != 0 {
        return Err(Verdict::pass(Reason::Extension));
    }
    let qfi = headers[24] & 0x3f;
    let key = UplinkKey {
        inner: [header[12], header[13], header[14], header[15]],
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
    let pdu = total - OLD;
    if pdu > peer.pdu_max {
        return Err(Verdict::pass(Reason::TooBig).of(session.session));
    }
    let now = coarse_time();
    if !rate::admit(
        &session.rates,
        |rate| unsafe { &raw mut (*rate).uplink },
        pdu,
        now,
    ) {
        return Err(Verdict::drop(Reason::Rate).of(session.session));
    }
    let counter = counter(
        &UPLINK_FLOWS,
        session.flows + flow_place(session.qfis, qfi.into()),
    );
    if session.state == FRESH {
        event::first_packet(&raw const session.state, session.session, spi, now);
    }
    let head = Head::read(ctx, link + OLD, pdu);
    if meta.mss != 0 {
        mss::clamp(ctx, &head, link + OLD, pdu, meta.mss);
    }
    let tos = head.tos(session::n3_dscp(session, qfi), header[1]);
    let teid = session.teid;
    if V6 {
        let mut new = [0u8; NEW6 as usize];
        let len = pdu + TUNNEL;
        ipv6::write(&mut new, tos, len as u16, &meta.n3_address, &peer.address);
        write_tunnel(&mut new, IPV6 as usize, pdu, teid, qfi);
        let sum = Sum::of_udp(len).add(addressed(&new));
        let sum = sum
            .add_packet(ctx, link + OLD, pdu)
            .ok_or(Verdict::pass(Reason::Failed))?
            .checksum();
        [new[46], new[47]] = sum;
        // It makes 20 octets of room.
        if !buffer::change_protocol(ctx, ETH_P_IPV6) {
            return Err(Verdict::pass(Reason::Failed));
        }
        if !buffer::adjust_room(ctx, (NEW6 - OLD - 20) as i32) || !buffer::store(ctx, link, &new) {
            return Err(Verdict::drop(Reason::Failed));
        }
    } else {
        let mut new = [0u8; NEW as usize];
        write_ipv4(
            &mut new,
            tos,
            (pdu + NEW) as u16,
            IPPROTO_UDP,
            last(&meta.n3_address),
            last(&peer.address),
        );
        // UDP without a checksum, as RFC 768 allows over IPv4.
        write_tunnel(&mut new, IPV4 as usize, pdu, teid, qfi);
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

/// What a UDP checksum covers of these headers: addresses, UDP and GTP-U.
#[inline(always)]
fn addressed(new: &[u8; NEW6 as usize]) -> &[u8; NEW6 as usize - 8] {
    // SAFETY: the array ends where the other one does.
    unsafe { &*new.as_ptr().add(8).cast() }
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
