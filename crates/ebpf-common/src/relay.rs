//! Map keys and values of the relay between GRE and GTP-U.
//!
//! Addresses and TEIDs are octets in network byte order, everything else is in host byte order.
//! Octets are counted as those of PDUs: neither GRE, GTP-U nor anything around them counts.
//!
//! A packet touches as few cache lines as can be, so that ten thousand sessions cost little more than
//! one: the session of one direction is one line of 64 octets in an array, at the place that its key
//! says ([`uplink_place`], [`downlink_place`]), and the counters of its flow are another. A session
//! whose place is taken gets any free one, which a hash map tells ([`MAP_RELAY_UL_MORE`],
//! [`MAP_RELAY_DL_MORE`]); addresses of one pool and TEIDs in a row never need it.
//!
//! `docs/n3iwf.md` has the `bpftool` line for each map.

use crate::Counter;

/// Version of the layouts in this module, stored in [`RelayMeta`].
pub const RELAY_LAYOUT_VERSION: u32 = 5;

/// Name of the uplink sessions: `Array<UplinkSession>`.
pub const MAP_RELAY_UL: &str = "relay_ul";
/// Name of the places of uplink sessions that are not where their key says: `HashMap<UplinkKey, u32>`.
pub const MAP_RELAY_UL_MORE: &str = "relay_ul_more";
/// Name of the downlink sessions: `Array<DownlinkSession>`.
pub const MAP_RELAY_DL: &str = "relay_dl";
/// Name of the places of downlink sessions that are not where their TEID says:
/// `HashMap<TEID, u32>`.
pub const MAP_RELAY_DL_MORE: &str = "relay_dl_more";
/// Name of the peers on N3: `Array<RelayPeer>`, by [`UplinkSession::peer`].
pub const MAP_RELAY_PEERS: &str = "relay_peers";
/// Name of the XFRM interfaces of sessions with several Child SAs: `HashMap<u32, [u32; 64]>`, by
/// [`DownlinkSession::session`], then by QFI; 0: [`DownlinkSession::ifindex`].
pub const MAP_RELAY_DL_WAYS: &str = "relay_dl_ways";
/// Name of the DSCPs of sessions whose flows have different ones: `HashMap<u32, FlowDscp>`, by
/// [`UplinkSession::session`].
pub const MAP_RELAY_DSCP: &str = "relay_dscp";
/// Name of the uplink counters of QoS flows: `PerCpuArray<FlowBlock>`, by [`UplinkSession::flows`] and
/// [`flow_place`].
pub const MAP_RELAY_UL_FLOWS: &str = "relay_ul_flows";
/// Name of the downlink counters of QoS flows, likewise.
pub const MAP_RELAY_DL_FLOWS: &str = "relay_dl_flows";
/// Name of what was refused of known sessions: `PerCpuArray<SessionDrops>`, by
/// [`UplinkSession::session`].
pub const MAP_RELAY_REFUSED: &str = "relay_refused";
/// Name of the reasons why packets were not relayed: `PerCpuArray<RelayReasons>`, two entries,
/// [`UPLINK`] and [`DOWNLINK`].
pub const MAP_RELAY_DROPS: &str = "relay_drops";
/// Name of the rate limits: `Array<RelayRate>`, by [`UplinkSession::rates`]. Place 0 limits nothing.
pub const MAP_RELAY_RATES: &str = "relay_rates";
/// Name of the ring buffer of [`RelayEvent`]s.
pub const MAP_RELAY_EVENTS: &str = "relay_events";
/// Name of the one-entry array that holds [`RelayMeta`].
pub const MAP_RELAY_META: &str = "relay_meta";
/// Name of the program for packets that come out of the tunnel, with N3 over IPv4.
pub const PROGRAM_UPLINK: &str = "relay_uplink";
/// Name of the program for packets that arrive on N3 over IPv4.
pub const PROGRAM_DOWNLINK: &str = "relay_downlink";
/// [`PROGRAM_UPLINK`] with N3 over IPv6.
pub const PROGRAM_UPLINK6: &str = "relay_uplink6";
/// [`PROGRAM_DOWNLINK`] with N3 over IPv6.
pub const PROGRAM_DOWNLINK6: &str = "relay_downlink6";

/// Longest PDU that [`PROGRAM_UPLINK6`] takes, and longest UDP datagram of which [`PROGRAM_DOWNLINK6`]
/// checks the checksum, octets: the verifier wants an end to every sum.
pub const SUMMED: u32 = SUMMED_CHUNK * 32;
/// Octets that are summed by one call of a helper.
pub const SUMMED_CHUNK: u32 = 512;

/// Index into [`MAP_RELAY_DROPS`]: GRE to GTP-U.
pub const UPLINK: u32 = 0;
/// Index into [`MAP_RELAY_DROPS`]: GTP-U to GRE.
pub const DOWNLINK: u32 = 1;

/// Flows whose counters are one value of [`MAP_RELAY_UL_FLOWS`] and [`MAP_RELAY_DL_FLOWS`]: the
/// kernel keeps a pointer for each value, which would be a cache line more for each flow.
pub const BLOCK: u32 = 64;

/// Flows whose counters are kept for each place of [`MAP_RELAY_UL`] and [`MAP_RELAY_DL`]. A session at place
/// n with so many flows or fewer has those from n * [`PLACE_FLOWS`] on; one that has more, or is not where
/// its key says, has others, behind those of all places.
pub const PLACE_FLOWS: u32 = 2;

/// Child SAs that may carry one session.
pub const SESSION_SAS: usize = 4;
/// Rate limits that may hold for one session: its own AMBR and that of its UE.
pub const SESSION_RATES: usize = 2;

/// [`UplinkSession::state`] and [`DownlinkSession::state`] of a place that has no session. User space
/// writes such a place as a whole, then its state alone, so that no program sees half of a session.
pub const FREE: u32 = 0;
/// State of a place that has a session.
pub const TAKEN: u32 = 1;
/// State of an uplink place whose session has not had a packet since its Child SAs were named. The
/// program that sees the first one makes it [`TAKEN`] and tells user space.
pub const FRESH: u32 = 2;

/// [`RelayEvent::kind`]: the first uplink packet of a session since its Child SAs were named.
pub const EVENT_FIRST_PACKET: u32 = 1;
/// [`RelayEvent::kind`]: packets that were not relayed for [`RelayEvent::reason`]; the 1st, 2nd, 4th,
/// 8th and so on of a processor are told.
pub const EVENT_REFUSED: u32 = 2;

/// Key of [`MAP_RELAY_UL_MORE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UplinkKey {
    /// The UE's inner address.
    pub inner: [u8; 4],
    /// The XFRM interface the packet came out of.
    pub ifindex: u32,
}

/// Value of [`MAP_RELAY_UL`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkSession {
    /// Bit n: the UE may use QFI n.
    pub qfis: u64,
    /// Whose session it is.
    pub inner: [u8; 4],
    /// The XFRM interface its packets come out of.
    pub ifindex: u32,
    /// [`FREE`], [`TAKEN`] or [`FRESH`].
    pub state: u32,
    /// TEID that the UPF chose.
    pub teid: [u8; 4],
    /// Place of the UPF in [`MAP_RELAY_PEERS`].
    pub peer: u32,
    /// Place of the session's first flow in [`MAP_RELAY_UL_FLOWS`].
    pub flows: u32,
    /// Place of the session in [`MAP_RELAY_REFUSED`].
    pub session: u16,
    /// DSCP of the packets on N3, 6 bits, or [`BY_FLOW`].
    pub dscp: u16,
    /// reqids of the Child SAs that may carry the session; unused places repeat the first one.
    /// The first is 0 only without IPsec, and then no SA is asked for.
    pub reqids: [u32; SESSION_SAS],
    /// Places in [`MAP_RELAY_RATES`]; 0: no limit.
    pub rates: [u32; SESSION_RATES],
    /// Zero: fills the cache line.
    pub unused: u32,
}

/// Value of [`MAP_RELAY_DL`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownlinkSession {
    /// Bit n: QFI n belongs to the session.
    pub qfis: u64,
    /// Our TEID, which G-PDUs of the session carry.
    pub teid: [u8; 4],
    /// Place of the UPF in [`MAP_RELAY_PEERS`]: G-PDUs of others are not this session's.
    pub peer: u32,
    /// [`FREE`] or [`TAKEN`].
    pub state: u32,
    /// The UE's inner address.
    pub inner: [u8; 4],
    /// The XFRM interface that encrypts.
    pub ifindex: u32,
    /// QFI of G-PDUs without a PDU Session Container.
    pub default_qfi: u32,
    /// Place of the session's first flow in [`MAP_RELAY_DL_FLOWS`].
    pub flows: u32,
    /// Place of the session in [`MAP_RELAY_REFUSED`].
    pub session: u16,
    /// DSCP of the packets in the tunnel, 6 bits, or [`BY_FLOW`]; XFRM copies it to the outer header.
    pub dscp: u16,
    /// 1 when the interface wants an Ethernet header, as XFRM interfaces never do.
    pub link_header: u32,
    /// Places in [`MAP_RELAY_RATES`]; 0: no limit.
    pub rates: [u32; SESSION_RATES],
    /// 1 when [`MAP_RELAY_DL_WAYS`] says which flow goes by which interface.
    pub ways: u32,
    /// Zero: fills the cache line.
    pub unused: u32,
}

/// In place of a DSCP: [`MAP_RELAY_DSCP`] has that of each flow.
pub const BY_FLOW: u16 = u16::MAX;

/// Value of [`MAP_RELAY_DSCP`]: DSCPs of 6 bits, by QFI.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowDscp {
    /// Of the packets on N3.
    pub n3: [u8; 64],
    /// Of the packets in the tunnel.
    pub tunnel: [u8; 64],
}

/// Value of [`MAP_RELAY_PEERS`]: a UPF as it is reached by an interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayPeer {
    /// Its address on N3; IPv4 is mapped into IPv6 (RFC 4291, 2.5.5.2).
    pub address: [u8; 16],
    /// The interface that leads to it.
    pub ifindex: u32,
    /// Largest PDU that fits the path to it.
    pub pdu_max: u32,
    /// Zero: two peers are one cache line.
    pub unused: [u32; 2],
}

/// An IPv4 address as [`RelayPeer::address`] has it.
#[inline(always)]
pub const fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Value of [`MAP_RELAY_UL_FLOWS`] and [`MAP_RELAY_DL_FLOWS`]: the flow at place n is number
/// n modulo [`BLOCK`] of value n / [`BLOCK`]. A place is never cleared: it goes on where the flow that
/// had it before ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowBlock {
    /// Relayed PDUs of each flow.
    pub flows: [Counter; BLOCK as usize],
}

/// Value of [`MAP_RELAY_REFUSED`]: packets of one session that were not relayed, by direction
/// ([`UPLINK`], [`DOWNLINK`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionDrops {
    /// The packet came out of a Child SA that is not the session's. Uplink only.
    pub wrong_sa: [u64; 2],
    /// G-PDU from an address that is not the session's UPF. Downlink only.
    pub wrong_address: [u64; 2],
    /// The flow belongs to another session.
    pub qfi_not_allowed: [u64; 2],
    /// The PDU does not fit the other side whole.
    pub too_big: [u64; 2],
    /// Above the aggregate maximum bit rate of the session or of its UE.
    pub rate: [u64; 2],
}

/// What user space is told by the ring buffer. Events that find it full are lost.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayEvent {
    /// `CLOCK_MONOTONIC`, nanoseconds, to a tick of the kernel.
    pub time_ns: u64,
    /// How many packets of this reason the processor has seen; 1 for a first packet.
    pub count: u64,
    /// [`EVENT_FIRST_PACKET`] or [`EVENT_REFUSED`].
    pub kind: u32,
    /// [`UPLINK`] or [`DOWNLINK`].
    pub direction: u32,
    /// Number of the [`Reason`]; 0 for a first packet.
    pub reason: u32,
    /// The session as in [`UplinkSession::session`]; [`NO_SESSION`]: of none.
    pub session: u32,
    /// SPI of the SA that decrypted a first packet; 0: there was none.
    pub spi: u32,
    /// Zero.
    pub unused: u32,
    /// Outer source of a refused packet: the UE's inner address, or a peer on N3; IPv4 is mapped into
    /// IPv6. Zeroes when unknown.
    pub source: [u8; 16],
}

impl RelayEvent {
    /// From the octets of the ring buffer; `None` when they are too few.
    pub fn read(octets: &[u8]) -> Option<Self> {
        let word = |at: usize| -> Option<[u8; 4]> { octets.get(at..)?.first_chunk().copied() };
        let long = |at: usize| -> Option<[u8; 8]> { octets.get(at..)?.first_chunk().copied() };
        Some(Self {
            time_ns: u64::from_ne_bytes(long(0)?),
            count: u64::from_ne_bytes(long(8)?),
            kind: u32::from_ne_bytes(word(16)?),
            direction: u32::from_ne_bytes(word(20)?),
            reason: u32::from_ne_bytes(word(24)?),
            session: u32::from_ne_bytes(word(28)?),
            spi: u32::from_ne_bytes(word(32)?),
            unused: u32::from_ne_bytes(word(36)?),
            source: *octets.get(40..)?.first_chunk()?,
        })
    }
}

/// [`RelayEvent::session`] of a packet that belongs to no session.
pub const NO_SESSION: u32 = u32::MAX;

/// One direction of a rate limit: the state of the generic cell rate algorithm ([`crate::rate`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateState {
    /// Nanoseconds per octet in units of 2^-20; 0: no limit.
    pub cost: u64,
    /// How far the flow may be ahead of its rate, nanoseconds.
    pub tolerance_ns: u64,
    /// `CLOCK_MONOTONIC` at which the flow would be within its rate again. Programs write it.
    pub conforming_ns: u64,
}

/// Value of [`MAP_RELAY_RATES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayRate {
    /// GRE to GTP-U.
    pub uplink: RateState,
    /// GTP-U to GRE.
    pub downlink: RateState,
}

/// Where [`MAP_RELAY_UL`] has a session, if its place was free. `mask` is the number of places, a
/// power of two, less 1.
#[inline(always)]
pub const fn uplink_place(key: UplinkKey, mask: u32) -> u32 {
    // Addresses of one pool stay side by side; another interface begins somewhere else.
    let shift = key.ifindex.wrapping_mul(0x9e37_79b1);
    u32::from_be_bytes(key.inner).wrapping_add(shift) & mask
}

/// Where [`MAP_RELAY_DL`] has a session, if its place was free.
#[inline(always)]
pub const fn downlink_place(teid: [u8; 4], mask: u32) -> u32 {
    u32::from_be_bytes(teid) & mask
}

/// The flow with `qfi` (0..63) among those of `qfis`, lowest QFI first.
#[inline(always)]
pub const fn flow_place(qfis: u64, qfi: u32) -> u32 {
    let mut below = qfis & !(u64::MAX << (qfi & 63));
    // Counting bits in parallel: the kernel's instruction set has none for it.
    below -= (below >> 1) & 0x5555_5555_5555_5555;
    below = (below & 0x3333_3333_3333_3333) + ((below >> 2) & 0x3333_3333_3333_3333);
    below = (below + (below >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    (below.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32
}

/// Value of [`MAP_RELAY_META`], written before the programs are attached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayMeta {
    /// [`RELAY_LAYOUT_VERSION`] of the daemon that made the maps.
    pub layout_version: u32,
    /// Our address on N3, as [`RelayPeer::address`].
    pub n3_address: [u8; 16],
    /// UP_IP4_ADDRESS.
    pub up_address: [u8; 4],
    /// GRE protocol type that is sent.
    pub gre_protocol: u32,
    /// Largest PDU that fits the tunnel.
    pub downlink_max: u32,
    /// Largest TCP segment over IPv4 that fits both; over IPv6 it is 20 less. 0: none is clamped.
    pub mss: u32,
    /// Places of [`MAP_RELAY_UL`] and [`MAP_RELAY_DL`], a power of two, less 1.
    pub mask: u32,
}

/// Packets that were not relayed, by reason. All but `wrong_sa`, `rate` and `failed` go on to user
/// space.
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
    /// Above the aggregate maximum bit rate of the session or of its UE. It is dropped.
    pub rate: u64,
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
    Rate = 14,
}

/// Number of reasons.
pub const REASONS: u32 = 15;

impl SessionDrops {
    /// Adds the numbers of another CPU.
    pub fn add(&mut self, more: &Self) {
        for (total, more) in [
            (&mut self.wrong_sa, more.wrong_sa),
            (&mut self.wrong_address, more.wrong_address),
            (&mut self.qfi_not_allowed, more.qfi_not_allowed),
            (&mut self.too_big, more.too_big),
            (&mut self.rate, more.rate),
        ] {
            total[0] += more[0];
            total[1] += more[1];
        }
    }
}

impl Reason {
    /// Whether packets refused for this reason are told to user space one by one (and then less and
    /// less often): those that no well-meaning peer sends in numbers.
    #[inline(always)]
    pub const fn is_told(self) -> bool {
        matches!(
            self,
            Self::NoSession
                | Self::WrongSa
                | Self::WrongAddress
                | Self::QfiNotAllowed
                | Self::Malformed
                | Self::Failed
        )
    }
}

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
            ("rate", self.rate),
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
        self.rate += more.rate;
    }
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn events_are_read_as_they_are_laid_out() {
        let mut octets = [0u8; 56];
        for (octet, n) in octets.iter_mut().zip(0..) {
            *octet = n;
        }
        let event = RelayEvent::read(&octets).unwrap();
        assert_eq!(event.time_ns, u64::from_ne_bytes([0, 1, 2, 3, 4, 5, 6, 7]));
        for (field, at) in [
            (event.kind, offset_of!(RelayEvent, kind)),
            (event.direction, offset_of!(RelayEvent, direction)),
            (event.reason, offset_of!(RelayEvent, reason)),
            (event.session, offset_of!(RelayEvent, session)),
            (event.spi, offset_of!(RelayEvent, spi)),
            (event.unused, offset_of!(RelayEvent, unused)),
        ] {
            assert_eq!(field.to_ne_bytes(), octets[at..at + 4]);
        }
        assert_eq!(event.source, octets[40..]);
        assert_eq!(RelayEvent::read(&octets[..55]), None);
    }

    #[test]
    fn flows_are_in_the_order_of_their_qfi() {
        for qfis in [0, 1, 1 << 9 | 1 << 63, 0x8000_0000_0000_0203, u64::MAX] {
            for qfi in 0..64 {
                let below = (0..qfi).filter(|bit| qfis >> bit & 1 == 1).count();
                assert_eq!(flow_place(qfis, qfi) as usize, below, "{qfis:#x} {qfi}");
            }
        }
    }

    #[test]
    fn a_pool_of_addresses_has_places_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..1024u32 {
            let key = UplinkKey {
                inner: (0x0a00_0002 + n).to_be_bytes(),
                ifindex: 7,
            };
            assert!(seen.insert(uplink_place(key, 1023)));
            assert_eq!(downlink_place((n + 1).to_be_bytes(), 1023), (n + 1) % 1024);
        }
    }

    /// A change here is a change of [`RELAY_LAYOUT_VERSION`].
    #[test]
    fn layout_is_as_published() {
        assert_eq!(RELAY_LAYOUT_VERSION, 5);
        assert_eq!(size_of::<UplinkKey>(), 8);
        // A cache line each.
        assert_eq!(size_of::<UplinkSession>(), 64);
        assert_eq!(size_of::<DownlinkSession>(), 64);
        assert_eq!(size_of::<FlowBlock>(), 64 * 24);
        assert_eq!(size_of::<SessionDrops>(), 80);
        assert_eq!(size_of::<RelayRate>(), 48);
        assert_eq!(size_of::<RelayPeer>(), 32);
        assert_eq!(size_of::<FlowDscp>(), 128);
        assert_eq!(size_of::<RelayMeta>(), 40);
        assert_eq!(size_of::<RelayEvent>(), 56);
        assert_eq!(offset_of!(RelayEvent, source), 40);
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
            (Reason::Rate, offset_of!(RelayReasons, rate)),
        ] {
            assert_eq!(reason as usize * 8, offset, "{reason:?}");
        }
    }

    #[test]
    fn names_fit_the_kernel() {
        for name in [
            MAP_RELAY_UL,
            MAP_RELAY_UL_MORE,
            MAP_RELAY_DL,
            MAP_RELAY_DL_MORE,
            MAP_RELAY_DL_WAYS,
            MAP_RELAY_DSCP,
            MAP_RELAY_UL_FLOWS,
            MAP_RELAY_DL_FLOWS,
            MAP_RELAY_REFUSED,
            MAP_RELAY_RATES,
            MAP_RELAY_EVENTS,
            MAP_RELAY_DROPS,
            MAP_RELAY_META,
            MAP_RELAY_PEERS,
            PROGRAM_UPLINK,
            PROGRAM_DOWNLINK,
            PROGRAM_UPLINK6,
            PROGRAM_DOWNLINK6,
        ] {
            assert!(name.len() <= 15, "{name}");
        }
    }
}
