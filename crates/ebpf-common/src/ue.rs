//! Map keys and values of the UE's programs: QoS rules choose the QFI of an uplink packet, which then
//! leaves as GRE (TS 24.501, 6.2.5; TS 24.502, 9.3.3).
//!
//! Addresses are octets in network byte order, everything else is in host byte order.

/// Version of the layouts in this module.
pub const UE_LAYOUT_VERSION: u32 = 1;

/// Name of the PDU sessions: `HashMap<u32, UeSession>`, by the index of the session's interface. A value
/// is replaced as a whole, rules and all.
pub const MAP_UE_SESSIONS: &str = "ue_sessions";
/// Name of the rules that reflective QoS derived: `LruHashMap<UeFlow, UeDerived>`.
pub const MAP_UE_DERIVED: &str = "ue_derived";
/// Name of the uplink counters: `PerCpuArray<FlowBlock>`, by [`UeSession::place`], then by QFI.
pub const MAP_UE_FLOWS: &str = "ue_flows";
/// Name of the program on egress of a session's interface: QFI and GRE.
pub const PROGRAM_UE_UPLINK: &str = "ue_uplink";
/// Name of the program on its ingress: GRE of the other one goes into the tunnel.
pub const PROGRAM_UE_TUNNEL: &str = "ue_tunnel";

/// Sessions of a UE: PDU session identities are 1 to 15.
pub const UE_SESSIONS: u32 = 16;
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

/// A packet filter over IPv4. It takes a packet of which every masked field is the same, with ports within
/// the ranges.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UeFilter {
    /// Destination, as the octets lie in memory.
    pub remote: u32,
    /// Bits of it that matter.
    pub remote_mask: u32,
    /// Source.
    pub local: u32,
    /// Bits of it that matter.
    pub local_mask: u32,
    /// SPI of ESP or AH, host byte order.
    pub spi: u32,
    /// All ones if it matters.
    pub spi_mask: u32,
    /// Protocol, and type of service above it (bit 8 on).
    pub kind: u32,
    /// Bits of both that matter.
    pub kind_mask: u32,
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
    /// Destination, as the octets lie in memory.
    pub remote: u32,
    /// Source.
    pub local: u32,
    /// SPI, host byte order.
    pub spi: u32,
    /// As [`UeFilter::kind`].
    pub kind: u32,
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
    pub const fn difference(&self, packet: &UePacket) -> u64 {
        let mut all = (self.remote ^ packet.remote) & self.remote_mask;
        all |= (self.local ^ packet.local) & self.local_mask;
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

/// Value of [`MAP_UE_SESSIONS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UeSession {
    /// The PDU address.
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
    /// The XFRM interface that each QFI goes through; 0: user space decides.
    pub tunnels: [u32; QFIS],
    /// In the order in which they are tried.
    pub filters: [UeFilter; UE_FILTERS],
}

/// Key of [`MAP_UE_DERIVED`]: an uplink flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UeFlow {
    /// Source, as the octets lie in memory.
    pub local: u32,
    /// Destination.
    pub remote: u32,
    /// Local port above the remote one, or the SPI.
    pub upper: u32,
    /// Protocol.
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
        assert_eq!(UE_LAYOUT_VERSION, 1);
        assert_eq!(size_of::<UeFilter>(), 48);
        assert_eq!(size_of::<UeSession>(), 40 + 4 * QFIS + 48 * UE_FILTERS);
        assert_eq!(size_of::<UeFlow>(), 24);
        assert_eq!(size_of::<UeDerived>(), 16);
    }

    #[test]
    fn names_fit_the_kernel() {
        let maps = [MAP_UE_SESSIONS, MAP_UE_DERIVED, MAP_UE_FLOWS];
        for name in maps
            .into_iter()
            .chain([PROGRAM_UE_UPLINK, PROGRAM_UE_TUNNEL])
        {
            assert!(name.len() <= 15, "{name}");
        }
    }
}
