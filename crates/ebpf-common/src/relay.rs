//! Map keys and values of the relay between GRE and GTP-U.
//!
//! Addresses and TEIDs are octets in network byte order, everything else is in host byte order.
//! Octets are counted as those of PDUs: neither GRE, GTP-U nor anything around them counts.
//!
//! `bpftool map dump pinned /sys/fs/bpf/n3iwf/relay_drops` prints the reasons by name, and
//! `relay_ul`, `relay_dl` and `relay_stats` in its place the sessions and their counters.

use crate::Counter;

/// Version of the layouts in this module, stored in [`RelayMeta`].
pub const RELAY_LAYOUT_VERSION: u32 = 1;

/// Name of the uplink sessions: `HashMap<UplinkKey, UplinkSession>`.
pub const MAP_RELAY_UL: &str = "relay_ul";
/// Name of the downlink sessions: `HashMap<TEID, DownlinkSession>`; the key is the TEID of received
/// G-PDUs.
pub const MAP_RELAY_DL: &str = "relay_dl";
/// Name of the counters of sessions: `PerCpuArray<RelayCounters>`, by [`UplinkSession::index`].
pub const MAP_RELAY_STATS: &str = "relay_stats";
/// Name of the reasons why packets were not relayed: `PerCpuArray<RelayReasons>`, two entries,
/// [`UPLINK`] and [`DOWNLINK`].
pub const MAP_RELAY_DROPS: &str = "relay_drops";
/// Name of the one-entry array that holds [`RelayMeta`].
pub const MAP_RELAY_META: &str = "relay_meta";
/// Name of the program for packets that come out of the tunnel.
pub const PROGRAM_UPLINK: &str = "relay_uplink";
/// Name of the program for packets that arrive on N3.
pub const PROGRAM_DOWNLINK: &str = "relay_downlink";

/// Index into [`MAP_RELAY_DROPS`]: GRE to GTP-U.
pub const UPLINK: u32 = 0;
/// Index into [`MAP_RELAY_DROPS`]: GTP-U to GRE.
pub const DOWNLINK: u32 = 1;

/// Child SAs that may carry one session.
pub const SESSION_SAS: usize = 4;

/// Key of [`MAP_RELAY_UL`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UplinkKey {
    /// The UE's inner address.
    pub inner: [u8; 4],
    /// The XFRM interface the packet came out of.
    pub ifindex: u32,
}

/// Value of [`MAP_RELAY_UL`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UplinkSession {
    /// Bit n: the UE may use QFI n.
    pub qfis: u64,
    /// TEID that the UPF chose.
    pub teid: [u8; 4],
    /// The UPF's address on N3.
    pub upf: [u8; 4],
    /// The interface that leads to the UPF.
    pub n3_ifindex: u32,
    /// Index into [`MAP_RELAY_STATS`].
    pub index: u32,
    /// reqids of the Child SAs that may carry the session; unused places repeat the first one.
    /// The first is 0 only without IPsec, and then no SA is asked for.
    pub reqids: [u32; SESSION_SAS],
}

/// Value of [`MAP_RELAY_DL`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DownlinkSession {
    /// Bit n: QFI n belongs to the session.
    pub qfis: u64,
    /// The UPF's address on N3: G-PDUs of others are not this session's.
    pub upf: [u8; 4],
    /// The UE's inner address.
    pub inner: [u8; 4],
    /// The XFRM interface that encrypts.
    pub ifindex: u32,
    /// Index into [`MAP_RELAY_STATS`].
    pub index: u32,
    /// QFI of G-PDUs without a PDU Session Container.
    pub default_qfi: u32,
    /// 1 when the interface wants an Ethernet header, as XFRM interfaces never do.
    pub link_header: u32,
}

/// Value of [`MAP_RELAY_STATS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayCounters {
    /// GRE to GTP-U.
    pub uplink: Counter,
    /// GTP-U to GRE.
    pub downlink: Counter,
}

/// Value of [`MAP_RELAY_META`], written before the programs are attached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayMeta {
    /// [`RELAY_LAYOUT_VERSION`] of the daemon that made the maps.
    pub layout_version: u32,
    /// Our address on N3.
    pub n3_address: [u8; 4],
    /// UP_IP4_ADDRESS.
    pub up_address: [u8; 4],
    /// GRE protocol type that is sent.
    pub gre_protocol: u32,
    /// Largest PDU that fits N3.
    pub uplink_max: u32,
    /// Largest PDU that fits the tunnel.
    pub downlink_max: u32,
    /// Largest TCP segment over IPv4 that fits both; over IPv6 it is 20 less. 0: none is clamped.
    pub mss: u32,
}

/// Packets that were not relayed, by reason. All but `wrong_sa` and `failed` go on to user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayReasons {
    /// Neither GRE nor GTP-U to us.
    pub other: u64,
    /// IP fragments, the first one included.
    pub fragment: u64,
    /// IP options.
    pub options: u64,
    /// Headers that are cut off, contradict themselves or have a wrong checksum.
    pub malformed: u64,
    /// Super-packets of GRO or GSO.
    pub gso: u64,
    /// GTP-U that is no G-PDU: Echo, Error Indication, End Marker.
    pub signalling: u64,
    /// Optional fields of GRE, and extension headers of GTP-U other than one PDU Session Container.
    pub extension: u64,
    /// No session has this TEID, or this inner address on this interface.
    pub no_session: u64,
    /// The packet came out of a Child SA that is not the session's. It is dropped.
    pub wrong_sa: u64,
    /// G-PDU from an address that is not the session's UPF.
    pub wrong_address: u64,
    /// The flow belongs to another session.
    pub qfi_not_allowed: u64,
    /// The PDU does not fit the other side whole.
    pub too_big: u64,
    /// The PDU is shorter than an IP header.
    pub too_short: u64,
    /// The kernel had no room for the new headers. It is dropped if the old ones were gone already.
    pub failed: u64,
}

/// Why a packet was not relayed: the index of its count within [`RelayReasons`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named as its field in RelayReasons")]
pub enum Reason {
    Other = 0,
    Fragment = 1,
    Options = 2,
    Malformed = 3,
    Gso = 4,
    Signalling = 5,
    Extension = 6,
    NoSession = 7,
    WrongSa = 8,
    WrongAddress = 9,
    QfiNotAllowed = 10,
    TooBig = 11,
    TooShort = 12,
    Failed = 13,
}

/// Number of reasons.
pub const REASONS: u32 = 14;

impl RelayReasons {
    /// Name and number of every reason, in the order of [`Reason`].
    pub const fn named(&self) -> [(&'static str, u64); REASONS as usize] {
        [
            ("other", self.other),
            ("fragment", self.fragment),
            ("options", self.options),
            ("malformed", self.malformed),
            ("gso", self.gso),
            ("signalling", self.signalling),
            ("extension", self.extension),
            ("no_session", self.no_session),
            ("wrong_sa", self.wrong_sa),
            ("wrong_address", self.wrong_address),
            ("qfi_not_allowed", self.qfi_not_allowed),
            ("too_big", self.too_big),
            ("too_short", self.too_short),
            ("failed", self.failed),
        ]
    }

    /// Adds the numbers of another CPU.
    pub fn add(&mut self, more: &Self) {
        self.other += more.other;
        self.fragment += more.fragment;
        self.options += more.options;
        self.malformed += more.malformed;
        self.gso += more.gso;
        self.signalling += more.signalling;
        self.extension += more.extension;
        self.no_session += more.no_session;
        self.wrong_sa += more.wrong_sa;
        self.wrong_address += more.wrong_address;
        self.qfi_not_allowed += more.qfi_not_allowed;
        self.too_big += more.too_big;
        self.too_short += more.too_short;
        self.failed += more.failed;
    }
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    /// A change here is a change of [`RELAY_LAYOUT_VERSION`].
    #[test]
    fn layout_is_as_published() {
        assert_eq!(RELAY_LAYOUT_VERSION, 1);
        assert_eq!(size_of::<UplinkKey>(), 8);
        assert_eq!(size_of::<UplinkSession>(), 40);
        assert_eq!(size_of::<DownlinkSession>(), 32);
        assert_eq!(size_of::<RelayCounters>(), 48);
        assert_eq!(size_of::<RelayMeta>(), 28);
        assert_eq!(size_of::<RelayReasons>(), REASONS as usize * 8);
        for (reason, offset) in [
            (Reason::Other, offset_of!(RelayReasons, other)),
            (Reason::Fragment, offset_of!(RelayReasons, fragment)),
            (Reason::Options, offset_of!(RelayReasons, options)),
            (Reason::Malformed, offset_of!(RelayReasons, malformed)),
            (Reason::Gso, offset_of!(RelayReasons, gso)),
            (Reason::Signalling, offset_of!(RelayReasons, signalling)),
            (Reason::Extension, offset_of!(RelayReasons, extension)),
            (Reason::NoSession, offset_of!(RelayReasons, no_session)),
            (Reason::WrongSa, offset_of!(RelayReasons, wrong_sa)),
            (
                Reason::WrongAddress,
                offset_of!(RelayReasons, wrong_address),
            ),
            (
                Reason::QfiNotAllowed,
                offset_of!(RelayReasons, qfi_not_allowed),
            ),
            (Reason::TooBig, offset_of!(RelayReasons, too_big)),
            (Reason::TooShort, offset_of!(RelayReasons, too_short)),
            (Reason::Failed, offset_of!(RelayReasons, failed)),
        ] {
            assert_eq!(reason as usize * 8, offset, "{reason:?}");
        }
    }

    #[test]
    fn names_fit_the_kernel() {
        for name in [
            MAP_RELAY_UL,
            MAP_RELAY_DL,
            MAP_RELAY_STATS,
            MAP_RELAY_DROPS,
            MAP_RELAY_META,
            PROGRAM_UPLINK,
            PROGRAM_DOWNLINK,
        ] {
            assert!(name.len() <= 15, "{name}");
        }
    }
}
