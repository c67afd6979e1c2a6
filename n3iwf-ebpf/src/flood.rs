//! IKE_SA_INIT requests above the limit of their source (`ebpf_common::flood`), if one is set.

use aya_ebpf::{
    btf_maps::{Array, LruHashMap, PerCpuArray},
    macros::btf_map,
    programs::TcContext,
};
use ebpf_common::{
    Counter,
    flood::{InitLimit, InitSource},
    relay::RateState,
};

use crate::{
    add,
    buffer::{be16, coarse_time, octets},
    packet::{PORT_IKE, PORT_NAT_T, Packet},
};

/// The loader sets the number where there is a limit; an object that is loaded for something else has few.
const SOURCES: usize = 64;
/// `BPF_ANY` (linux/bpf.h).
const ANY: u64 = 0;

#[btf_map(name = "nwu_init_limit")]
static LIMIT: Array<InitLimit, 1> = Array::new();

#[btf_map(name = "nwu_init_source")]
static SEEN: LruHashMap<[u8; 16], InitSource, SOURCES> = LruHashMap::new();

#[btf_map(name = "nwu_init_drops")]
static DROPS: PerCpuArray<Counter, 1> = PerCpuArray::new();

/// Whether a packet of class `ike_sa_init` is a request above the limit; if so it is counted here. Processors that
/// have packets of one source at the same moment may let one more pass each.
#[inline(always)]
pub(crate) fn exceeds(ctx: &TcContext, packet: &Packet) -> bool {
    let Some(limit) = LIMIT.get(0) else {
        return false;
    };
    if limit.price_ns == 0 {
        return false;
    }
    let Some(source) = requester(ctx, packet) else {
        return false;
    };
    let now = coarse_time();
    // Segments of a super-packet are requests each.
    let price = limit.price_ns * packet.packets;
    let known = SEEN.get_ptr_mut(&source);
    let conforming = match known {
        // SAFETY: the value of this entry; an aligned word.
        Some(known) => unsafe { (*known).conforming_ns },
        None => 0,
    };
    match RateState::admit(conforming, now, price, limit.tolerance_ns) {
        Some(conforming_ns) => {
            match known {
                // SAFETY: as above.
                Some(known) => unsafe { (*known).conforming_ns = conforming_ns },
                None => {
                    let first = InitSource { conforming_ns };
                    // Without room for it the source passes, as without a limit.
                    let _ = SEEN.insert(&source, &first, ANY);
                }
            }
            false
        }
        None => {
            if let Some(counter) = DROPS.get_ptr_mut(0) {
                // SAFETY: this CPU's value of the map.
                unsafe { add(counter, packet, now) };
            }
            true
        }
    }
}

/// Whose request it is: the IPv4 address, or the prefix of the IPv6 one. `None`: it is no request for a new IKE SA
/// (RFC 7296, 3.1).
#[inline(always)]
fn requester(ctx: &TcContext, packet: &Packet) -> Option<[u8; 16]> {
    let udp = packet.network + packet.headers;
    let header = match be16(ctx, udp + 2)? {
        PORT_IKE => udp + 8,
        // Behind the non-ESP marker.
        PORT_NAT_T => udp + 12,
        _ => return None,
    };
    let [_, flags]: [u8; 2] = octets(ctx, header + 18)?;
    let responder: [u8; 8] = octets(ctx, header + 8)?;
    const INITIATOR: u8 = 0x08;
    const RESPONSE: u8 = 0x20;
    if flags & (INITIATOR | RESPONSE) != INITIATOR || u64::from_ne_bytes(responder) != 0 {
        return None;
    }
    let mut source = [0; 16];
    let [version]: [u8; 1] = octets(ctx, packet.network)?;
    if version >> 4 == 4 {
        let address: [u8; 4] = octets(ctx, packet.network + 12)?;
        source[10] = 0xff;
        source[11] = 0xff;
        source[12] = address[0];
        source[13] = address[1];
        source[14] = address[2];
        source[15] = address[3];
    } else {
        let prefix: [u8; 8] = octets(ctx, packet.network + 8)?;
        let mut at = 0;
        while at < 8 {
            source[at] = prefix[at];
            at += 1;
        }
    }
    Some(source)
}
