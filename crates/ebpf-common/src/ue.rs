//! Map keys and values of the UE's programs: QoS rules choose the QFI of an uplink packet, which then
//! leaves as GRE (TS 24.501, 6.2.5; TS 24.502, 9.3.3); GRE out of the tunnel becomes a packet of the session.
//!
//! Addresses are octets in network byte order, everything else is in host byte order.

/// Version of the layouts in this module.
pub const UE_LAYOUT_VERSION: u32 = 3;

/// Name of the PDU sessions: `HashMap<u32, UeSession>`, by the index of the session's interface. A value
/// is replaced as a whole, rules and all.
pub const MAP_UE_SESSIONS: &str = "ue_sessions";
/// Name of the rules that reflective QoS derived: `LruHashMap<UeFlow, UeDerived>`.
pub const MAP_UE_DERIVED: &str = "ue_derived";
/// Name of the uplink counters: `PerCpuArray<FlowBlock>`, by [`UeSession::place`], then by QFI.
pub const MAP_UE_FLOWS: &str = "ue_flows";
/// Name of the downlink counters, likewise.
pub const MAP_UE_DL_FLOWS: &str = "ue_dl_flows";
/// Name of the sessions of XFRM interfaces: `HashMap<u32, u32>`, interface index to that of
/// [`MAP_UE_SESSIONS`].
pub const MAP_UE_TUNNELS: &str = "ue_tunnels";
/// Name of the program on egress of a session's interface: QFI and GRE.
pub const PROGRAM_UE_UPLINK: &str = "ue_uplink";
/// Name of the program on its ingress: GRE of the other one goes into the tunnel.
pub const PROGRAM_UE_TUNNEL: &str = "ue_tunnel";

/// Name of the program on ingress of a session's XFRM interfaces: GRE off.
pub const PROGRAM_UE_DOWNLINK: &str = "ue_downlink";

/// Sessions of a UE: PDU session identities are 1 to 15.
pub const UE_SESSIONS: u32 = 16;
/// XFRM interfaces of a UE: each session has one for its default Child SA and further ones.
pub const UE_TUNNELS: u32 = 4 * UE_SESSIONS;
/// Packet filters of one session.
pub const UE_FILTERS: usize = 32;
/// Derived rules of a UE.
pub const UE_DERIVED: u32 = 16 * 1024;
/// QoS flow identifiers.
pub const QFIS: usize = 64;

/// [`UeFilter::needs`]: the packet has ports.
pub const HAS_PORTS: u32 = 1;
/// [`UeFilter::needs`]: the packet has an SPI.
pub const HAS_SPI: u32 = 2;

/// [`UeFilter::kind`]: the packet is IPv6.
pub const IS_IPV6: u32 = 1 << 16;

/// An address as its octets lie in memory; IPv4 is the first word, and the others are zero.
pub type Words = [u32; 4];

/// A packet filter. It takes a packet of which every masked field is the same, with ports within the
/// ranges.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UeFilter {
    /// Destination.
    pub remote: Words,
    /// Bits of it that matter.
    pub remote_mask: Words,
    /// Source.
    pub local: Words,
    /// Bits of it that matter.
    pub local_mask: Words,
    /// SPI of ESP or AH, host byte order.
    pub spi: u32,
    /// All ones if it matters.
    pub spi_mask: u32,
    /// Protocol, type of service or traffic class above it (bit 8 on), [`IS_IPV6`].
    pub kind: u32,
    /// Bits of them that matter.
    pub kind_mask: u32,
    /// Flow label.
    pub label: u32,
    /// All ones if it matters.
    pub label_mask: u32,
    /// Least and greatest local port.
    pub local_ports: [u16; 2],
    /// Least and greatest remote port.
    pub remote_ports: [u16; 2],
    /// [`HAS_PORTS`] and [`HAS_SPI`].
    pub needs: u32,
    /// QFI of what it takes.
    pub qfi: u32,
}

/// What filters look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UePacket {
    /// Destination.
    pub remote: Words,
    /// Source.
    pub local: Words,
    /// SPI, host byte order.
    pub spi: u32,
    /// As [`UeFilter::kind`].
    pub kind: u32,
    /// Flow label; 0 over IPv4.
    pub label: u32,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// [`HAS_PORTS`] and [`HAS_SPI`].
    pub has: u32,
}

impl UeFilter {
    /// 0 if the filter takes the packet. Without a branch: the verifier would follow each of them
    /// through all filters behind it.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "arrays of four words")]
    pub const fn difference(&self, packet: &UePacket) -> u64 {
        let mut all = 0;
        let mut word = 0;
        while word < 4 {
            all |= (self.remote[word] ^ packet.remote[word]) & self.remote_mask[word];
            all |= (self.local[word] ^ packet.local[word]) & self.local_mask[word];
            word += 1;
        }
        all |= (self.label ^ packet.label) & self.label_mask;
        all |= (self.spi ^ packet.spi) & self.spi_mask;
        all |= (self.kind ^ packet.kind) & self.kind_mask;
        all |= self.needs & !packet.has;
        let outside = outside(packet.local_port, self.local_ports)
            | outside(packet.remote_port, self.remote_ports);
        all as u64 | outside
    }
}

/// 0 for a port within a range: the differences have no sign then.
#[inline(always)]
const fn outside(port: u16, range: [u16; 2]) -> u64 {
    let (port, low, high) = (port as u64, range[0] as u64, range[1] as u64);
    (port.wrapping_sub(low) | high.wrapping_sub(port)) >> 63
}

/// An IPv4 address.
#[inline(always)]
pub const fn words4(address: [u8; 4]) -> Words {
    [u32::from_ne_bytes(address), 0, 0, 0]
}

/// An IPv6 address.
#[inline(always)]
pub const fn words6(a: [u8; 16]) -> Words {
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}

/// Value of [`MAP_UE_SESSIONS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UeSession {
    /// The PDU address; zeroes without IPv4.
    pub address: [u8; 4],
    /// Our inner address: GRE comes from it.
    pub inner: [u8; 4],
    /// UP_IP4_ADDRESS: GRE goes to it.
    pub up_address: [u8; 4],
    /// GRE protocol type that is sent.
    pub gre_protocol: u32,
    /// Largest PDU that fits the tunnel.
    pub pdu_max: u32,
    /// 1 when the tunnel's interface wants an Ethernet header, as XFRM interfaces never do.
    pub link_header: u32,
    /// The session's value of [`MAP_UE_FLOWS`].
    pub place: u32,
    /// [`UeFlow::generation`] of derived rules that hold.
    pub generation: u32,
    /// Filters that there are.
    pub count: u32,
    /// Filters that come before derived rules.
    pub before: u32,
    /// 1 when the session has IPv6.
    pub ipv6: u32,
    /// Zero.
    pub unused: u32,
    /// How long a rule holds that reflective QoS derives, nanoseconds; 0: none are derived.
    pub rq_timer_ns: u64,
    /// The XFRM interface that each QFI goes through; 0: user space decides.
    pub tunnels: [u32; QFIS],
    /// DSCP of the packets of each QFI in the tunnel, which XFRM copies to the outer header.
    pub dscp: [u8; QFIS],
    /// In the order in which they are tried.
    pub filters: [UeFilter; UE_FILTERS],
}

/// Key of [`MAP_UE_DERIVED`]: an uplink flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UeFlow {
    /// Source.
    pub local: Words,
    /// Destination.
    pub remote: Words,
    /// Local port above the remote one, or the SPI.
    pub upper: u32,
    /// Protocol, [`IS_IPV6`].
    pub protocol: u32,
    /// Index of the session's interface.
    pub ifindex: u32,
    /// [`UeSession::generation`].
    pub generation: u32,
}

/// Value of [`MAP_UE_DERIVED`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UeDerived {
    /// `CLOCK_MONOTONIC` at which the RQ timer ends, nanoseconds.
    pub ends_ns: u64,
    /// QFI of the flow.
    pub qfi: u64,
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;

    use super::*;

    #[test]
    fn ranges_are_inclusive() {
        for (range, inside) in [
            ([0, u16::MAX], [0, 1, u16::MAX]),
            ([5, 5], [5, 5, 5]),
            ([5, 9], [5, 7, 9]),
            ([u16::MAX, u16::MAX], [u16::MAX; 3]),
        ] {
            for port in 0..=u16::MAX {
                let expected = (range[0]..=range[1]).contains(&port);
                assert_eq!(outside(port, range) == 0, expected, "{port} {range:?}");
            }
            assert!(inside.iter().all(|port| outside(*port, range) == 0));
        }
    }

    /// A change here is a change of [`UE_LAYOUT_VERSION`].
    #[test]
    fn layout_is_as_published() {
        assert_eq!(UE_LAYOUT_VERSION, 3);
        assert_eq!(size_of::<UeFilter>(), 104);
        assert_eq!(size_of::<UeSession>(), 56 + 5 * QFIS + 104 * UE_FILTERS);
        assert_eq!(size_of::<UeFlow>(), 48);
        assert_eq!(size_of::<UeDerived>(), 16);
    }

    #[test]
    fn names_fit_the_kernel() {
        let maps = [
            MAP_UE_SESSIONS,
            MAP_UE_DERIVED,
            MAP_UE_FLOWS,
            MAP_UE_DL_FLOWS,
            MAP_UE_TUNNELS,
        ];
        for name in
            maps.into_iter()
                .chain([PROGRAM_UE_UPLINK, PROGRAM_UE_TUNNEL, PROGRAM_UE_DOWNLINK])
        {
            assert!(name.len() <= 15, "{name}");
        }
    }
}
