//! Classifiers on NWu (tc, `classifier` sections): what every packet is, and for which Child SA.
//! The relay between GRE and GTP-U is in [`relay`], the UE's uplink in [`ue`].
//!
//! Both programs here count. They return `TCX_NEXT`, which classic tc reads as "unspecified", so that
//! programs and filters of others behind them still run. Nothing is dropped here but IKE_SA_INIT above the
//! limit of its source, where one is set ([`flood`]).

#![no_std]
#![no_main]
// Both compilers that build the object allow it.
#![feature(asm_experimental_arch)]

mod buffer;
mod flood;
mod packet;
mod relay;
mod ue;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    btf_maps::{Array, HashMap, PerCpuArray},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use ebpf_common::{
    CLASSES, Class, Counter, INBOUND, NwuClasses, NwuMeta, OUTBOUND, PLANE_CONTROL, PLANE_USER,
    SaEntry, SaInfo, SaKey, SaStats, ue::Words,
};

use crate::packet::{Kind, Packet};

/// `BPF_F_NO_PREALLOC`: memory follows the number of Child SAs, not the largest number allowed.
pub(crate) const NO_PREALLOC: usize = 1;
/// Octets of an Ethernet header; tags that follow are looked at where they are.
pub(crate) const ETHERNET_HEADER: u32 = 14;
/// The loader sets the number that the configuration says; without counting there is none.
const MAX_SAS: usize = 1;

#[btf_map(name = "nwu_classes")]
static CLASS_COUNTERS: PerCpuArray<NwuClasses, 2> = PerCpuArray::new();

#[btf_map(name = "nwu_sas")]
static SAS: HashMap<SaKey, SaEntry, MAX_SAS, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "nwu_sa_stats")]
static SA_STATS: PerCpuArray<SaStats, MAX_SAS> = PerCpuArray::new();

/// Filled by user space. All zeroes, as after loading by other tools, means an Ethernet device.
#[btf_map(name = "nwu_meta")]
static META: Array<NwuMeta, 1> = Array::new();

/// GRE out of the tunnel becomes GTP-U on N3 over IPv4. On ingress of the XFRM interfaces.
#[classifier]
pub fn relay_uplink(ctx: TcContext) -> i32 {
    relay::uplink::<false>(&ctx)
}

/// GTP-U on N3 over IPv4 becomes GRE into the tunnel. On ingress of the N3 interface.
#[classifier]
pub fn relay_downlink(ctx: TcContext) -> i32 {
    relay::downlink::<false>(&ctx)
}

/// [`relay_uplink`] with N3 over IPv6.
#[classifier]
pub fn relay_uplink6(ctx: TcContext) -> i32 {
    relay::uplink::<true>(&ctx)
}

/// [`relay_downlink`] with N3 over IPv6.
#[classifier]
pub fn relay_downlink6(ctx: TcContext) -> i32 {
    relay::downlink::<true>(&ctx)
}

/// Packets of a PDU session become GRE with the QFI that QoS rules say. On egress of the UE's interface
/// of the session.
#[classifier]
pub fn ue_uplink(ctx: TcContext) -> i32 {
    ue::uplink(&ctx)
}

/// That GRE goes into the tunnel. On ingress of the same interface.
#[classifier]
pub fn ue_tunnel(ctx: TcContext) -> i32 {
    ue::tunnel(&ctx)
}

/// GRE out of the tunnel becomes a packet of its PDU session. On ingress of the UE's XFRM interfaces.
#[classifier]
pub fn ue_downlink(ctx: TcContext) -> i32 {
    ue::downlink::downlink(&ctx)
}

/// Counts packets that arrive on NWu, and drops those above a limit.
#[classifier]
pub fn nwu_ingress(ctx: TcContext) -> i32 {
    let (class, packet) = account(&ctx, INBOUND);
    if matches!(class, Class::IkeSaInit) && flood::exceeds(&ctx, &packet) {
        return TC_ACT_SHOT;
    }
    TC_ACT_UNSPEC
}

/// Counts packets that leave on NWu.
#[classifier]
pub fn nwu_egress(ctx: TcContext) -> i32 {
    account(&ctx, OUTBOUND);
    TC_ACT_UNSPEC
}

/// Does nothing. What it costs that a program is there is measured with it.
#[classifier]
pub fn nwu_nothing(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[inline(always)]
fn account(ctx: &TcContext, direction: u32) -> (Class, Packet) {
    let (link_header, mask) = match META.get(0) {
        Some(meta) if meta.no_link_header != 0 => (0, meta.mask),
        Some(meta) => (ETHERNET_HEADER, meta.mask),
        None => (ETHERNET_HEADER, 0),
    };
    let mut packet = Packet::read(ctx, link_header);
    let now = buffer::coarse_time();
    let class = match packet.kind {
        Kind::Class(class) => class,
        Kind::Esp { spi } => {
            let remote = if direction == INBOUND {
                // Zeroes that the compiler does not know of: to clear a row of words it calls a
                // function that does so octet by octet.
                [core::hint::black_box(0); 4]
            } else {
                packet.destination
            };
            esp(ctx, &key(spi, direction, remote), mask, &mut packet, now)
        }
    };
    let Some(classes) = CLASS_COUNTERS.get_ptr_mut(direction) else {
        return (class, packet);
    };
    // The compiler knows that every class is below `CLASSES`, the verifier does not.
    let index = core::hint::black_box(class as u32);
    if index < CLASSES {
        let counters: *mut Counter = classes.cast();
        // SAFETY: the pointer is this CPU's value of the map, `NwuClasses` is `CLASSES` counters
        // in a row, and tc programs of one CPU do not interrupt each other.
        unsafe { add(counters.add(index as usize), &packet, now) };
    }
    (class, packet)
}

/// [`SaKey::inbound`] or [`SaKey::outbound`], made of words.
#[inline(always)]
fn key(spi: u32, direction: u32, [a, b, c, d]: Words) -> SaKey {
    // SAFETY: two words and the octets of an address, in the order of memory.
    unsafe { core::mem::transmute::<[u32; 6], SaKey>([spi, direction, a, b, c, d]) }
}

/// The class of an ESP packet, counted for its Child SA too.
#[inline(always)]
fn esp(ctx: &TcContext, key: &SaKey, mask: u32, packet: &mut Packet, now: u64) -> Class {
    let Some(stats) = find(key, mask) else {
        return Class::EspUnknownSpi;
    };
    // SAFETY: this CPU's value of the map; user space changes it only when nobody's packets come here.
    let sa = unsafe { &mut (*stats).sa };
    if key.direction == OUTBOUND && sa.encrypted == 0 {
        if pending(ctx, key, sa) {
            packet.encrypted(sa);
        } else {
            sa.encrypted = 1;
        }
    }
    // SAFETY: this CPU's value of the map.
    unsafe { add(&raw mut (*stats).counter, packet, now) };
    match sa.plane {
        PLANE_CONTROL => Class::EspControl,
        _ => Class::EspUser,
    }
}

/// Where an SA is counted: at home, or where the table of all SAs says.
#[inline(always)]
fn find(key: &SaKey, mask: u32) -> Option<*mut SaStats> {
    let here = SA_STATS.get_ptr_mut(key.home(mask))?;
    if is(here, key) {
        return Some(here);
    }
    // SAFETY: user space makes and deletes entries, and never changes one.
    let place = unsafe { SAS.get(key) }?.place;
    let there = SA_STATS.get_ptr_mut(place)?;
    is(there, key).then_some(there)
}

/// The plane is looked at first: where it is an SA's, all else has been written.
#[inline(always)]
fn is(stats: *mut SaStats, key: &SaKey) -> bool {
    // SAFETY: this CPU's value of the map, aligned words; those of the key are in the order of memory.
    unsafe {
        let plane = (&raw const (*stats).sa.plane).read_volatile();
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::Acquire);
        let found = &*(&raw const (*stats).key).cast::<[u32; 6]>();
        let wanted = &*(&raw const *key).cast::<[u32; 6]>();
        let mut differ = 0;
        for (found, wanted) in found.iter().zip(wanted) {
            differ |= found ^ wanted;
        }
        (plane == PLANE_CONTROL || plane == PLANE_USER) && differ == 0
    }
}

/// Whether the kernel has yet to encrypt the packet. With `esp4_offload` or `esp6_offload` loaded when the state
/// was made it does so behind egress, in software if the device cannot; the SA then still hangs on the packet. A
/// packet that is larger than the path it encrypts at once, but that is no ESP packet here: it is fragments.
#[inline(always)]
fn pending(ctx: &TcContext, key: &SaKey, info: &SaInfo) -> bool {
    let Some(state) = buffer::xfrm_state(ctx) else {
        return false;
    };
    state.spi == key.spi.to_be() && state.reqid == info.reqid
}

/// # Safety
///
/// `counter` is this CPU's value of a per-CPU map.
#[inline(always)]
unsafe fn add(counter: *mut Counter, packet: &Packet, now: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        (*counter).packets += packet.packets;
        (*counter).bytes += packet.bytes;
        (*counter).last_seen_ns = now;
    }
}

/// The kernel asks for the licence in its own spelling.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Nothing here panics: the verifier would refuse the loop.
    loop {}
}
