//! GRE (TS 24.502, 9.3.3) to GTP-U (TS 29.281) with a PDU Session Container (TS 38.415).

use aya_ebpf::programs::TcContext;
use ebpf_common::relay::{FRESH, Reason, SESSION_SAS, UplinkKey, UplinkSession, flow_place};

use super::{
    META, UPLINK_FLOWS, Verdict, count, counter, event,
    header::{self, GRE, IPPROTO_GRE, IPV4, Place, UDP, write_ipv4},
    mss, rate, redirect_neigh, session,
};
use crate::{
    buffer::{self, coarse_time},
    packet::IPPROTO_UDP,
};

/// GTP-U with the optional fields and a PDU Session Container of four octets.
const GTP_U: u32 = 16;
const OLD: u32 = IPV4 + GRE;
const NEW: u32 = IPV4 + UDP + GTP_U;
const PORT: [u8; 2] = 2152u16.to_be_bytes();

#[inline(always)]
pub(super) fn relay(ctx: &TcContext) -> Result<i32, Verdict> {
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
    let session = session::uplink(key, meta.mask).ok_or(Verdict::pass(Reason::NoSession))?;
    let Some(spi) = from_its_sa(ctx, session) else {
        return Err(Verdict::drop(Reason::WrongSa).of(session.session));
    };
    if (session.qfis >> qfi) & 1 == 0 {
        return Err(Verdict::pass(Reason::QfiNotAllowed).of(session.session));
    }
    let pdu = total - OLD;
    if pdu > meta.uplink_max {
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
    let head = header::Head::read(ctx, link + OLD, pdu);
    let mut new = [0u8; NEW as usize];
    write_ipv4(
        &mut new,
        head.tos(session.dscp, header[1]),
        (pdu + NEW) as u16,
        IPPROTO_UDP,
        meta.n3_address,
        session.upf,
    );
    let udp = ((pdu + UDP + GTP_U) as u16).to_be_bytes();
    let gtp = ((pdu + 8) as u16).to_be_bytes();
    let teid = session.teid;
    // UDP without a checksum, as RFC 768 allows over IPv4.
    [new[20], new[21], new[22], new[23]] = [PORT[0], PORT[1], PORT[0], PORT[1]];
    [new[24], new[25]] = udp;
    [new[28], new[29], new[30], new[31]] = [0x34, 0xff, gtp[0], gtp[1]];
    [new[32], new[33], new[34], new[35]] = teid;
    [new[39], new[40], new[41], new[42]] = [0x85, 1, 0x10, qfi];

    if meta.mss != 0 {
        mss::clamp(ctx, &head, link + OLD, pdu, meta.mss);
    }
    if !buffer::adjust_room(ctx, (NEW - OLD) as i32) {
        return Err(Verdict::pass(Reason::Failed));
    }
    if !buffer::store(ctx, link, &new) {
        return Err(Verdict::drop(Reason::Failed));
    }
    let action = redirect_neigh(ctx, session.n3_ifindex, link)?;
    count(counter, pdu, now);
    Ok(action)
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
