//! Aggregate maximum bit rates (TS 23.501, 5.7.2.6), by the algorithm of `ebpf_common::rate`.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use ebpf_common::relay::{RateState, RelayRate, SESSION_RATES};

use super::MAX_SESSIONS;

/// How often a limit is tried that other processors move at the same time.
const TRIES: usize = 4;

#[btf_map(name = "relay_rates")]
static RATES: Array<RelayRate, MAX_SESSIONS> = Array::new();

/// Whether a PDU is within all limits; it is charged to all of them or to none.
#[inline(always)]
pub(super) fn admit(
    rates: &[u32; SESSION_RATES],
    which: fn(*mut RelayRate) -> *mut RateState,
    octets: u32,
    now: u64,
) -> bool {
    let [session, ue] = *rates;
    if session | ue == 0 {
        return true;
    }
    let limits = [limit(session, which), limit(ue, which)];
    for limit in limits.into_iter().flatten() {
        if next(limit, octets, now).is_none() {
            return false;
        }
    }
    for limit in limits.into_iter().flatten() {
        charge(limit, octets, now);
    }
    true
}

#[inline(always)]
fn limit(place: u32, which: fn(*mut RelayRate) -> *mut RateState) -> Option<*mut RateState> {
    if place == 0 {
        return None;
    }
    let limit = which(RATES.get_ptr_mut(place)?);
    // SAFETY: within a value of the map; user space writes whole words.
    (unsafe { (*limit).cost } != 0).then_some(limit)
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
