//! Rare events, told to user space by a ring buffer.

use aya_ebpf::{btf_maps::RingBuf, macros::btf_map};
use ebpf_common::{
    relay::{EVENT_FIRST_PACKET, EVENT_REFUSED, FRESH, RelayEvent, TAKEN, UPLINK},
    ue::Words,
};

/// Octets: more than a thousand events.
const SIZE: usize = 64 << 10;

/// Its entries are [`RelayEvent`]s; the type is not the map's, since libbpf takes no ring buffer with a
/// size of values.
#[btf_map(name = "relay_events")]
static EVENTS: RingBuf<(), SIZE> = RingBuf::new();

/// The first uplink packet of a session since its Child SAs were named. `state` is the session's.
#[inline(never)]
pub(super) fn first_packet(state: *const u32, session: u16, spi: u32, now: u64) {
    // Two processors may see the first packet at the same time, and user space may be taking the
    // session away: only one of them changes the state, and only from what it was.
    if !exchange(state.cast_mut(), FRESH, TAKEN) {
        return;
    }
    tell(&RelayEvent {
        time_ns: now,
        count: 1,
        kind: EVENT_FIRST_PACKET,
        direction: UPLINK,
        reason: 0,
        session: session.into(),
        spi,
        unused: 0,
        source: [0; 16],
    });
}

/// `count` packets were refused for a reason by now.
#[inline(always)]
pub(super) fn refused(
    direction: u32,
    reason: u32,
    session: u32,
    source: Words,
    count: u64,
    now: u64,
) {
    // The powers of two: a burst makes as many events as its number has bits.
    if count & (count - 1) != 0 {
        return;
    }
    tell(&RelayEvent {
        time_ns: now,
        count,
        kind: EVENT_REFUSED,
        direction,
        reason,
        session,
        spi: 0,
        unused: 0,
        // SAFETY: octets either way, in the order of memory.
        source: unsafe { core::mem::transmute::<Words, [u8; 16]>(source) },
    });
}

#[inline(always)]
fn tell(event: &RelayEvent) {
    // Full: nobody reads, and nobody misses it.
    let _ = EVENTS.output_untyped::<RelayEvent>(event, 0);
}

/// Puts `after` in the place of `before`; `false` when it was something else.
#[inline(always)]
fn exchange(place: *mut u32, before: u32, after: u32) -> bool {
    let found: u64;
    // SAFETY: an aligned word within a value of a map; the instruction touches nothing else.
    unsafe {
        core::arch::asm!(
            "w0 = cmpxchg32_32({place} + 0, w0, w2)",
            place = in(reg) place,
            in("r2") u64::from(after),
            inout("r0") u64::from(before) => found,
            options(nostack),
        );
    }
    found as u32 == before
}
