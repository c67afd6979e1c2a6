//! Sessions: where a packet's is.

use aya_ebpf::{
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use ebpf_common::relay::{
    BY_FLOW, DownlinkSession, FRESH, FlowDscp, RelayPeer, TAKEN, UplinkKey, UplinkSession,
    downlink_place, uplink_place,
};

use super::MAX_SESSIONS;
use crate::NO_PREALLOC;

/// `BPF_F_MMAPABLE`: the values begin with a page, and so each of them with a cache line.
const PAGE_ALIGNED: usize = 1 << 10;

#[btf_map(name = "relay_ul")]
static UPLINKS: Array<UplinkSession, MAX_SESSIONS, PAGE_ALIGNED> = Array::new();

#[btf_map(name = "relay_ul_more")]
static MORE_UPLINKS: HashMap<UplinkKey, u32, MAX_SESSIONS, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "relay_dl")]
static DOWNLINKS: Array<DownlinkSession, MAX_SESSIONS, PAGE_ALIGNED> = Array::new();

#[btf_map(name = "relay_dl_more")]
static MORE_DOWNLINKS: HashMap<[u8; 4], u32, MAX_SESSIONS, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "relay_dl_ways")]
static WAYS: HashMap<u32, [u32; 64], MAX_SESSIONS, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "relay_dscp")]
static DSCP: HashMap<u32, FlowDscp, MAX_SESSIONS, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "relay_peers")]
static PEERS: Array<RelayPeer, MAX_SESSIONS> = Array::new();

/// The UPF of a session. User space changes a place only when no session has it.
#[inline(always)]
pub(super) fn peer(place: u32) -> Option<&'static RelayPeer> {
    PEERS.get(place)
}

/// The interface that a flow of a session goes through.
#[inline(always)]
pub(super) fn interface(session: &DownlinkSession, qfi: u8) -> u32 {
    if session.ways != 0 {
        // SAFETY: user space replaces values, and never changes one.
        if let Some(ways) = unsafe { WAYS.get(&u32::from(session.session)) } {
            let own = ways[(qfi & 0x3f) as usize];
            if own != 0 {
                return own;
            }
        }
    }
    session.ifindex
}

/// DSCP of an uplink packet on N3.
#[inline(always)]
pub(super) fn n3_dscp(session: &UplinkSession, qfi: u8) -> u16 {
    if session.dscp != BY_FLOW {
        return session.dscp;
    }
    // SAFETY: user space replaces values, and never changes one.
    let found = unsafe { DSCP.get(&u32::from(session.session)) };
    found.map_or(0, |dscp| dscp.n3[(qfi & 0x3f) as usize].into())
}

/// DSCP of a downlink packet in the tunnel.
#[inline(always)]
pub(super) fn tunnel_dscp(session: &DownlinkSession, qfi: u8) -> u16 {
    if session.dscp != BY_FLOW {
        return session.dscp;
    }
    // SAFETY: as above.
    let found = unsafe { DSCP.get(&u32::from(session.session)) };
    found.map_or(0, |dscp| dscp.tunnel[(qfi & 0x3f) as usize].into())
}

#[inline(always)]
pub(super) fn uplink(key: UplinkKey, mask: u32) -> Option<&'static UplinkSession> {
    let here = UPLINKS.get(uplink_place(key, mask))?;
    if is_uplink(here, key) {
        return Some(here);
    }
    // SAFETY: a value is one aligned word.
    let place = unsafe { MORE_UPLINKS.get(&key) }?;
    let there = UPLINKS.get(*place)?;
    is_uplink(there, key).then_some(there)
}

#[inline(always)]
pub(super) fn downlink(teid: [u8; 4], mask: u32) -> Option<&'static DownlinkSession> {
    let here = DOWNLINKS.get(downlink_place(teid, mask))?;
    if is_downlink(here, teid) {
        return Some(here);
    }
    // SAFETY: a value is one aligned word.
    let place = unsafe { MORE_DOWNLINKS.get(&teid) }?;
    let there = DOWNLINKS.get(*place)?;
    is_downlink(there, teid).then_some(there)
}

/// User space changes a place only while it is free, and waits for all programs that saw it taken.
/// What is read after the state, which is what `volatile` is for, is one session's.
#[inline(always)]
fn is_uplink(session: &UplinkSession, key: UplinkKey) -> bool {
    // SAFETY: a reference is valid for reading.
    let state = unsafe { core::ptr::read_volatile(&raw const session.state) };
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::Acquire);
    (state == TAKEN || state == FRESH)
        && u32::from_ne_bytes(session.inner) == u32::from_ne_bytes(key.inner)
        && session.ifindex == key.ifindex
}

/// As [`is_uplink`].
#[inline(always)]
fn is_downlink(session: &DownlinkSession, teid: [u8; 4]) -> bool {
    // SAFETY: a reference is valid for reading.
    let state = unsafe { core::ptr::read_volatile(&raw const session.state) };
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::Acquire);
    state == TAKEN && u32::from_ne_bytes(session.teid) == u32::from_ne_bytes(teid)
}
