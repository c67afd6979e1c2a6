//! Aggregate maximum bit rates (TS 23.501, 5.7.2.6), by the algorithm of `ebpf_common::rate`.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use ebpf_common::relay::{RateState, RelayRate, SESSION_RATES, UPLINK};

use super::MAX_SESSIONS;

/// How often a limit is tried that other processors move at the same time.
const TRIES: usize = 4;

#[btf_map(name = "relay_rates")]
static RATES: Array<RelayRate, MAX_SESSIONS> = Array::new();

/// Whether a PDU is within all limits; it is charged to all of them or to none. `direction`: [`UPLINK`] or
/// [`ebpf_common::relay::DOWNLINK`].
#[inline(always)]
pub(super) fn admit(rates: &[u32; SESSION_RATES], direction: u32, octets: u32, now: u64) -> bool {
    let [session, ue] = *rates;
    session | ue == 0 || admitted(session, ue, direction, octets, now)
}

/// A function of its own: a session without limits has less code to run past.
#[inline(never)]
fn admitted(session: u32, ue: u32, direction: u32, octets: u32, now: u64) -> bool {
    let (session, ue) = (limit(session, direction), limit(ue, direction));
    if !fits(session, octets, now) || !fits(ue, octets, now) {
        return false;
    }
    charge(session, octets, now);
    charge(ue, octets, now);
    true
}

/// Null where nothing is limited: the compiler leaves no value in the place of a pointer that an option has
/// not, and the verifier does not let that be copied.
#[inline(always)]
fn limit(place: u32, direction: u32) -> *mut RateState {
    if place == 0 {
        return core::ptr::null_mut();
    }
    let Some(rate) = RATES.get_ptr_mut(place) else {
        return core::ptr::null_mut();
    };
    // SAFETY: within a value of the map; user space writes whole words.
    unsafe {
        let limit = if direction == UPLINK {
            &raw mut (*rate).uplink
        } else {
            &raw mut (*rate).downlink
        };
        if (*limit).cost == 0 {
            return core::ptr::null_mut();
        }
        limit
    }
}

#[inline(always)]
fn fits(limit: *mut RateState, octets: u32, now: u64) -> bool {
    limit.is_null() || next(limit, octets, now).is_some()
}

/// The state before and after the PDU.
#[inline(always)]
fn next(limit: *mut RateState, octets: u32, now: u64) -> Option<(u64, u64)> {
    // SAFETY: within a value of the map.
    let (cost, tolerance, before) = unsafe {
        (
            (*limit).cost,
            (*limit).tolerance_ns,
            core::ptr::read_volatile(&raw const (*limit).conforming_ns),
        )
    };
    let price = RateState::price_ns(cost, octets);
    let after = RateState::admit(before, now, price, tolerance)?;
    Some((before, after))
}

#[inline(always)]
fn charge(limit: *mut RateState, octets: u32, now: u64) {
    if limit.is_null() {
        return;
    }
    for _ in 0..TRIES {
        let Some((before, after)) = next(limit, octets, now) else {
            return;
        };
        if exchange(limit, before, after) {
            return;
        }
    }
}

/// Puts `after` in the place of `before`; `false` when another processor was faster.
///
/// `core` has no compare-and-exchange for this target, the kernel has one since 5.12.
#[inline(always)]
fn exchange(limit: *mut RateState, before: u64, after: u64) -> bool {
    let found: u64;
    // SAFETY: an aligned word within a value of the map; the instruction touches nothing else.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({place} + 0, r0, {after})",
            place = in(reg) &raw mut (*limit).conforming_ns,
            after = in(reg) after,
            inout("r0") before => found,
            options(nostack),
        );
    }
    found == before
}
