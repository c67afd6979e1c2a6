//! The UE's uplink: the QFI of a packet that leaves by a PDU session's interface, by its QoS rules
//! (TS 24.501, 6.2.5), and GRE around it (TS 24.502, 9.3.3).
//!
//! What is not plain goes on to the interface, behind which a relay in user space has the same rules.
//!
//! The way into the tunnel is a detour through ingress of the same interface. A packet from a socket has
//! the route of the session's interface, whose MTU the XFRM interface would hold it to, with the new
//! headers; on ingress it has none, and the XFRM interface looks its own up.

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
    ue::{HAS_PORTS, HAS_SPI, UE_FILTERS, UeDerived, UeFlow, UePacket, UeSession},
};

use crate::{
    NO_PREALLOC,
    buffer::{self, coarse_time},
    packet::ETH_P_IP,
    relay::{
        header::{GRE, Head, IPPROTO_GRE, IPV4, write_ipv4},
        redirect_neigh, redirect_xfrm,
    },
};

const HEADERS: u32 = IPV4 + GRE;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;
const AH: u8 = 51;

/// The loader sets the numbers; without PDU sessions there are none.
const FEW: usize = 1;

#[btf_map(name = "ue_sessions")]
static SESSIONS: HashMap<u32, UeSession, FEW, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "ue_derived")]
static DERIVED: LruHashMap<UeFlow, UeDerived, FEW> = LruHashMap::new();

#[btf_map(name = "ue_flows")]
static FLOWS: PerCpuArray<FlowBlock, FEW> = PerCpuArray::new();

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
    if u16::from_be(ethertype as u16) != ETH_P_IP || gso_size != 0 {
        return None;
    }
    // SAFETY: user space replaces values, and never changes one.
    let session = unsafe { SESSIONS.get(&ifindex) }?;
    let header: [u8; IPV4 as usize] = buffer::octets(ctx, 0)?;
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if header[0] != 0x45 || fragment != 0 || total != len || total > session.pdu_max {
        return None;
    }
    let source = [header[12], header[13], header[14], header[15]];
    if u32::from_ne_bytes(source) != u32::from_ne_bytes(session.address) {
        return None;
    }
    let packet = read(ctx, &header);
    let now = coarse_time();
    let qfi = choose(session, &packet, header[9], ifindex, now)? & 0x3f;
    if session.tunnels[qfi as usize] == 0 {
        return None;
    }
    let head = Head::read(ctx, 0, total);
    let mut new = [0u8; HEADERS as usize];
    write_ipv4(
        &mut new,
        head.tos(0, 0),
        (total + HEADERS) as u16,
        IPPROTO_GRE,
        session.inner,
        session.up_address,
    );
    let gre_protocol = (session.gre_protocol as u16).to_be_bytes();
    [new[20], new[22], new[23], new[24]] = [0x20, gre_protocol[0], gre_protocol[1], qfi as u8];
    if !buffer::adjust_room(ctx, HEADERS as i32) {
        return None;
    }
    if !buffer::store(ctx, 0, &new) {
        return Some(TC_ACT_SHOT);
    }
    count(session.place, qfi, total, now);
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
    let header: [u8; HEADERS as usize] = buffer::octets(ctx, 0)?;
    if header[0] != 0x45 || header[9] != IPPROTO_GRE {
        return None;
    }
    // SAFETY: as in [`relay`].
    let session = unsafe { SESSIONS.get(&ifindex) }?;
    let source = u32::from_ne_bytes([header[12], header[13], header[14], header[15]]);
    let to = u32::from_ne_bytes([header[16], header[17], header[18], header[19]]);
    if source != u32::from_ne_bytes(session.inner) || to != u32::from_ne_bytes(session.up_address) {
        return None;
    }
    let through = session.tunnels[(header[24] & 0x3f) as usize];
    if session.link_header == 0 {
        Some(redirect_xfrm(through))
    } else {
        Some(redirect_neigh(ctx, through, 0).unwrap_or(TC_ACT_SHOT))
    }
}

/// What filters look at, of a packet that is whole and has no IP options.
#[inline(always)]
fn read(ctx: &TcContext, header: &[u8; IPV4 as usize]) -> UePacket {
    let mut packet = UePacket {
        remote: u32::from_ne_bytes([header[16], header[17], header[18], header[19]]),
        local: u32::from_ne_bytes([header[12], header[13], header[14], header[15]]),
        kind: u32::from(header[9]) | u32::from(header[1]) << 8,
        ..UePacket::default()
    };
    match header[9] {
        // DCCP, SCTP and UDP-Lite too.
        TCP | UDP | 33 | 132 | 136 => {
            if let Some(ports) = buffer::be32(ctx, IPV4) {
                packet.local_port = (ports >> 16) as u16;
                packet.remote_port = ports as u16;
                packet.has = HAS_PORTS;
            }
        }
        kind @ (ESP | AH) => {
            let at = if kind == ESP { IPV4 } else { IPV4 + 4 };
            if let Some(spi) = buffer::be32(ctx, at) {
                packet.spi = spi;
                packet.has = HAS_SPI;
            }
        }
        _ => {}
    }
    packet
}

/// The first filter that takes the packet, unless a derived rule comes before it.
#[inline(always)]
fn choose(
    session: &UeSession,
    packet: &UePacket,
    protocol: u8,
    ifindex: u32,
    now: u64,
) -> Option<u32> {
    let mut found = None;
    let mut at = 0;
    while at < UE_FILTERS {
        if at as u32 >= session.count {
            break;
        }
        let filter = &session.filters[at];
        if filter.difference(packet) == 0 {
            if (at as u32) < session.before {
                return Some(filter.qfi);
            }
            found = Some(filter.qfi);
            break;
        }
        at += 1;
    }
    let upper = match protocol {
        TCP | UDP if packet.has == HAS_PORTS => {
            u32::from(packet.local_port) << 16 | u32::from(packet.remote_port)
        }
        ESP if packet.has == HAS_SPI => packet.spi,
        _ => return found,
    };
    let flow = UeFlow {
        local: packet.local,
        remote: packet.remote,
        upper,
        protocol: protocol.into(),
        ifindex,
        generation: session.generation,
    };
    // SAFETY: a value is replaced, not changed.
    match unsafe { DERIVED.get(&flow) } {
        Some(derived) if derived.ends_ns > now => Some(derived.qfi as u32),
        _ => found,
    }
}

#[inline(always)]
fn count(place: u32, qfi: u32, octets: u32, now: u64) {
    let Some(block) = FLOWS.get_ptr_mut(place) else {
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
