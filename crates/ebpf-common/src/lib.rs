//! Map keys and values shared by the eBPF programs and user space.
//!
//! Every type is `#[repr(C)]`, without padding, of integers only, so that the same bytes mean the
//! same on both sides and `bpftool map dump name X` prints every field by its name.
//!
//! What the numbers mean:
//! - `packets` counts packets as they are on the wire: a GSO super-packet counts as the segments it
//!   is cut into.
//! - `bytes` counts octets of outer IP packets, from the first octet of the IP header to the last
//!   octet the IP header says belongs to the packet. Ethernet headers, VLAN tags and the padding of
//!   short frames do not count. Each further segment of a GSO super-packet adds the IP header and,
//!   for UDP, the UDP header that it will have.
//! - `last_seen_ns` is `CLOCK_MONOTONIC` in nanoseconds, 0 when nothing was seen.
//!
//! Maps are per-CPU: readers add `packets` and `bytes` of all CPUs and take the largest
//! `last_seen_ns`.

#![cfg_attr(not(test), no_std)]

pub mod flood;
pub mod rate;
pub mod relay;
pub mod ue;

/// Version of the layouts in this crate. It is stored in [`NwuMeta`], so that a daemon never reuses
/// pinned maps of another layout.
pub const LAYOUT_VERSION: u32 = 2;

/// Name of the per-class counters: `PerCpuArray<NwuClasses>`, two entries, [`INBOUND`] and [`OUTBOUND`].
pub const MAP_CLASSES: &str = "nwu_classes";
/// Name of the Child SAs: `HashMap<SaKey, SaEntry>`. The programs ask it only for an SA that is not at
/// [`SaKey::home`].
pub const MAP_SAS: &str = "nwu_sas";
/// Name of the counters of Child SAs: `PerCpuArray<SaStats>`, by [`SaEntry::place`].
///
/// An array, since finding an entry in one takes no call: on processors whose mitigations make each return of a
/// function wait, asking a hash map is half of what a packet costs.
pub const MAP_SA_STATS: &str = "nwu_sa_stats";
/// Name of the one-entry array that holds [`NwuMeta`].
pub const MAP_META: &str = "nwu_meta";
/// Name of the program for packets that arrive on NWu.
pub const PROGRAM_INGRESS: &str = "nwu_ingress";
/// Name of the program for packets that leave on NWu.
pub const PROGRAM_EGRESS: &str = "nwu_egress";

/// Name of the program that does nothing, for comparison.
pub const PROGRAM_NOTHING: &str = "nwu_nothing";

/// Direction: received on NWu. Index into [`MAP_CLASSES`] and value of [`SaKey::direction`].
pub const INBOUND: u32 = 0;
/// Direction: sent on NWu.
pub const OUTBOUND: u32 = 1;

/// [`SaInfo::plane`] of a place without an SA.
pub const PLANE_NONE: u8 = 0;
/// [`SaInfo::plane`] of the signalling Child SA (NAS over TCP, TS 24.502 clause 8.2).
pub const PLANE_CONTROL: u8 = 1;
/// [`SaInfo::plane`] of a user-plane Child SA (GRE, TS 24.502 clause 8.3).
pub const PLANE_USER: u8 = 2;

/// Packets, octets and the time of the last packet; see the crate documentation for the units.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets on the wire.
    pub packets: u64,
    /// Octets of outer IP packets.
    pub bytes: u64,
    /// `CLOCK_MONOTONIC` of the last packet, nanoseconds; 0: never.
    pub last_seen_ns: u64,
}

/// One [`Counter`] per class of packet on NWu. Every packet counts in exactly one class.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NwuClasses {
    /// IKE, exchange type 34 (RFC 7296 section 3.1).
    pub ike_sa_init: Counter,
    /// IKE, exchange type 35.
    pub ike_auth: Counter,
    /// IKE, exchange type 36.
    pub ike_create_child_sa: Counter,
    /// IKE, exchange type 37.
    pub ike_informational: Counter,
    /// IKE, any other exchange type.
    pub ike_other: Counter,
    /// One octet 0xFF on UDP 4500 (RFC 3948 section 2.3).
    pub nat_keepalive: Counter,
    /// ESP whose SPI belongs to a signalling Child SA.
    pub esp_control: Counter,
    /// ESP whose SPI belongs to a user-plane Child SA.
    pub esp_user: Counter,
    /// ESP of an SPI that is in no table: a rekey race, an old SA, or an attack.
    pub esp_unknown_spi: Counter,
    /// IP fragments, the first one included: IKE or ESP larger than the path.
    pub fragment: Counter,
    /// Headers that are cut off or contradict themselves.
    pub malformed: Counter,
    /// IP packets of none of the kinds above.
    pub other: Counter,
    /// Frames that carry no IP (ARP and others); `bytes` are those of the frame.
    pub non_ip: Counter,
}

/// Class of a packet: the index of its [`Counter`] within [`NwuClasses`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named as its field in NwuClasses")]
pub enum Class {
    IkeSaInit = 0,
    IkeAuth = 1,
    IkeCreateChildSa = 2,
    IkeInformational = 3,
    IkeOther = 4,
    NatKeepalive = 5,
    EspControl = 6,
    EspUser = 7,
    EspUnknownSpi = 8,
    Fragment = 9,
    Malformed = 10,
    Other = 11,
    NonIp = 12,
}

/// Number of classes: [`NwuClasses`] is as large as this many [`Counter`]s.
pub const CLASSES: u32 = 13;

/// Key of [`MAP_SAS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SaKey {
    /// SPI in host byte order, as `ip xfrm state` prints it.
    pub spi: u32,
    /// [`INBOUND`] or [`OUTBOUND`].
    pub direction: u32,
    /// Outbound: the address of the peer, who chose the SPI (IPv4 as `::ffff:a.b.c.d`), in network
    /// byte order. Inbound: zero, since the SPI is ours and the peer may move.
    pub remote: [u8; 16],
}

/// Whose SA it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaInfo {
    /// The daemon's number of the UE.
    pub ue: u32,
    /// The reqid that ties the SA to its policies.
    pub reqid: u32,
    /// [`PLANE_CONTROL`] or [`PLANE_USER`]; [`PLANE_NONE`] where no SA is.
    pub plane: u8,
    /// PDU session ID (1..15), 0 for the signalling SA.
    pub pdu_session: u8,
    /// Octets of the IV on the wire. With the next two, the length of a packet is known before it
    /// is encrypted: on egress a kernel with `esp4_offload` encrypts after the programs have run.
    pub iv_len: u8,
    /// Octets of the ICV on the wire.
    pub icv_len: u8,
    /// Payload, padding, pad length and next header end on a multiple of this.
    pub block_len: u8,
    /// Written by the program on egress, 1 once it saw that the kernel had encrypted a packet of the SA before: it
    /// decides that when it makes a state, so all packets are, and the program need not ask it about each.
    pub encrypted: u8,
    /// Zero: fills the word.
    pub unused: u16,
}

impl SaInfo {
    /// What a place without an SA has.
    pub const NONE: Self = Self {
        ue: 0,
        reqid: 0,
        plane: PLANE_NONE,
        pdu_session: 0,
        iv_len: 0,
        icv_len: 0,
        block_len: 0,
        encrypted: 0,
        unused: 0,
    };
}

/// Value of [`MAP_SAS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaEntry {
    /// Whose it is.
    pub sa: SaInfo,
    /// Where [`MAP_SA_STATS`] has it.
    pub place: u32,
}

/// Value of [`MAP_SA_STATS`]: one cache line.
///
/// The kernel writes the words of a value in their order, so a program that sees the plane of an SA sees all of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaStats {
    /// The programs add to it.
    pub counter: Counter,
    /// Which SA is here.
    pub key: SaKey,
    /// Whose it is; on each processor the same, but for [`SaInfo::encrypted`].
    pub sa: SaInfo,
}

impl SaStats {
    /// A place of nobody.
    pub const FREE: Self = Self::new(SaKey::inbound(0), SaInfo::NONE);

    /// Nothing seen yet.
    pub const fn new(key: SaKey, sa: SaInfo) -> Self {
        Self {
            counter: Counter {
                packets: 0,
                bytes: 0,
                last_seen_ns: 0,
            },
            key,
            sa,
        }
    }
}

/// Value of [`MAP_META`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NwuMeta {
    /// [`LAYOUT_VERSION`] of the daemon that made the maps.
    pub layout_version: u32,
    /// Index of the interface the programs are attached to.
    pub ifindex: u32,
    /// 1 when packets on the interface start with the IP header (TUN, PPP and the like), else 0.
    pub no_link_header: u32,
    /// Places of [`MAP_SA_STATS`], a power of two, less 1.
    pub mask: u32,
}

impl SaKey {
    /// Key of an inbound SA: the SPI is ours alone.
    pub const fn inbound(spi: u32) -> Self {
        Self {
            spi,
            direction: INBOUND,
            remote: [0; 16],
        }
    }

    /// Key of an outbound SA to the peer at `remote` (IPv4 mapped into IPv6).
    pub const fn outbound(spi: u32, remote: [u8; 16]) -> Self {
        Self {
            spi,
            direction: OUTBOUND,
            remote,
        }
    }

    /// Where [`MAP_SA_STATS`] has the SA, if that place was free. SPIs are random where they are made well; those
    /// that begin with 1 at each peer are told apart by the address.
    #[inline(always)]
    pub const fn home(&self, mask: u32) -> u32 {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.remote;
        let remote = u32::from_ne_bytes([a, b, c, d])
            ^ u32::from_ne_bytes([e, f, g, h])
            ^ u32::from_ne_bytes([i, j, k, l])
            ^ u32::from_ne_bytes([m, n, o, p]);
        // SPIs and addresses differ in few bits, which must not cancel each other. Then each half takes something of
        // the other before it is multiplied, and so the lower bits of all.
        let mixed = self.spi ^ remote.wrapping_mul(0x9e37_79b1);
        let mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x85eb_ca6b);
        let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
        (mixed ^ (mixed >> 16) ^ self.direction) & mask
    }
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};

    use super::*;

    /// A change here is a change of [`LAYOUT_VERSION`].
    #[test]
    fn layout_is_as_published() {
        assert_eq!(LAYOUT_VERSION, 2);
        assert_eq!(size_of::<Counter>(), 24);
        assert_eq!(size_of::<NwuClasses>(), 13 * 24);
        assert_eq!(size_of::<NwuClasses>(), CLASSES as usize * 24);
        for (class, offset) in [
            (Class::IkeSaInit, offset_of!(NwuClasses, ike_sa_init)),
            (Class::IkeAuth, offset_of!(NwuClasses, ike_auth)),
            (
                Class::IkeCreateChildSa,
                offset_of!(NwuClasses, ike_create_child_sa),
            ),
            (
                Class::IkeInformational,
                offset_of!(NwuClasses, ike_informational),
            ),
            (Class::IkeOther, offset_of!(NwuClasses, ike_other)),
            (Class::NatKeepalive, offset_of!(NwuClasses, nat_keepalive)),
            (Class::EspControl, offset_of!(NwuClasses, esp_control)),
            (Class::EspUser, offset_of!(NwuClasses, esp_user)),
            (
                Class::EspUnknownSpi,
                offset_of!(NwuClasses, esp_unknown_spi),
            ),
            (Class::Fragment, offset_of!(NwuClasses, fragment)),
            (Class::Malformed, offset_of!(NwuClasses, malformed)),
            (Class::Other, offset_of!(NwuClasses, other)),
            (Class::NonIp, offset_of!(NwuClasses, non_ip)),
        ] {
            assert_eq!(class as usize * size_of::<Counter>(), offset, "{class:?}");
        }
        assert_eq!((size_of::<SaKey>(), align_of::<SaKey>()), (24, 4));
        assert_eq!((size_of::<SaInfo>(), size_of::<SaEntry>()), (16, 20));
        assert_eq!(size_of::<SaStats>(), 64);
        // With the plane, the last word that is written.
        assert_eq!(
            offset_of!(SaStats, sa) + offset_of!(SaInfo, plane),
            size_of::<SaStats>() - size_of::<u64>()
        );
        assert_eq!(size_of::<NwuMeta>(), 16);
    }

    /// As many as there are places, of SPIs that are random, and of SPIs that begin at 1 with each of many peers: as
    /// random ones, about 63 of 100 are at home.
    #[test]
    fn homes_are_spread() {
        let mask = 4095u32;
        let remote = |n: u32| {
            let [_, _, c, d] = n.to_be_bytes();
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 200, c, d]
        };
        let mut x = 1u32;
        let random: Vec<SaKey> = (0..=mask)
            .map(|n| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                match n % 2 {
                    0 => SaKey::inbound(x),
                    _ => SaKey::outbound(x, remote(n)),
                }
            })
            .collect();
        let counted: Vec<SaKey> = (0..=mask)
            .map(|n| SaKey::outbound(n % 4 + 1, remote(n / 4)))
            .collect();
        for keys in [random, counted] {
            let homes: std::collections::BTreeSet<u32> =
                keys.iter().map(|key| key.home(mask)).collect();
            assert!(homes.len() > 2500, "{}", homes.len());
            assert!(homes.last().is_some_and(|home| *home <= mask));
        }
        assert_eq!(SaKey::inbound(7).home(0), 0);
    }

    #[test]
    fn names_fit_the_kernel() {
        for name in [
            PROGRAM_NOTHING,
            MAP_CLASSES,
            MAP_SAS,
            MAP_SA_STATS,
            MAP_META,
            PROGRAM_INGRESS,
            PROGRAM_EGRESS,
        ] {
            assert!(name.len() <= 15, "{name}");
        }
    }
}
