//! QoS rules of a UE: which QoS flow an uplink packet belongs to (TS 24.501, 9.11.4.13; TS 23.501,
//! 5.7.1.4 and 5.7.6).

use std::{ops::RangeInclusive, time::Duration};

use super::reflect::Reflections;

/// Precedence of rules that reflective QoS derives (TS 24.501, 6.2.5.1.1.2).
pub(super) const DERIVED: u8 = 80;

/// IPv6-NoNxt.
const NO_NEXT_HEADER: u8 = 59;

/// One QoS rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkRule {
    /// Rules are tried in the order of it, lowest first.
    pub precedence: u8,
    /// QFI of packets that match, 1..63.
    pub qfi: u8,
    /// A packet matches the rule when it matches one of these.
    pub filters: Vec<PacketFilter>,
}

/// A packet filter: a packet matches when it matches every component.
pub type PacketFilter = Vec<Component>;

/// A component of a packet filter. Local is the UE: of uplink packets the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// Match-all.
    Any,
    /// IPv4 remote address and mask.
    RemoteIpv4([u8; 4], [u8; 4]),
    /// IPv4 local address and mask.
    LocalIpv4([u8; 4], [u8; 4]),
    /// IPv6 remote address and prefix length.
    RemoteIpv6([u8; 16], u8),
    /// IPv6 local address and prefix length.
    LocalIpv6([u8; 16], u8),
    /// Protocol identifier, or next header behind the extension headers.
    Protocol(u8),
    /// Local ports.
    LocalPort(RangeInclusive<u16>),
    /// Remote ports.
    RemotePort(RangeInclusive<u16>),
    /// Security parameter index of ESP or AH.
    Spi(u32),
    /// Type of service or traffic class, and its mask.
    TrafficClass(u8, u8),
    /// Flow label, 20 bits.
    FlowLabel(u32),
}

/// The QoS rules of a session, in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkRules {
    rules: Vec<UplinkRule>,
    rq_timer: Duration,
}

impl UplinkRules {
    /// A default rule alone: every packet is of one flow.
    pub fn one(qfi: u8) -> Self {
        Self::new(vec![UplinkRule {
            precedence: u8::MAX,
            qfi,
            filters: vec![vec![Component::Any]],
        }])
    }

    /// From rules in any order.
    pub fn new(mut rules: Vec<UplinkRule>) -> Self {
        rules.sort_by_key(|rule| rule.precedence);
        let rq_timer = Duration::ZERO;
        Self { rules, rq_timer }
    }

    /// With reflective QoS: how long a derived rule holds (T3583). Zero: none are derived.
    #[must_use]
    pub fn with_rq_timer(mut self, rq_timer: Duration) -> Self {
        self.rq_timer = rq_timer;
        self
    }

    /// In the order in which they are tried.
    pub(super) fn rules(&self) -> &[UplinkRule] {
        &self.rules
    }

    /// See [`Self::with_rq_timer`].
    pub fn rq_timer(&self) -> Duration {
        self.rq_timer
    }

    /// The QFI of an IP packet that leaves the UE by these rules alone; `None`: no rule takes it.
    pub fn qfi(&self, packet: &[u8]) -> Option<u8> {
        let packet = Packet::read(packet)?;
        self.rules.iter().find(|r| r.takes(&packet)).map(|r| r.qfi)
    }

    /// The same with the rules that reflective QoS derived.
    pub(super) fn choose(&self, packet: &[u8], derived: &Reflections, now: u64) -> Option<u8> {
        let packet = Packet::read(packet)?;
        let found = self.rules.iter().find(|rule| rule.takes(&packet));
        if let Some(rule) = found.filter(|rule| rule.precedence <= DERIVED) {
            return Some(rule.qfi);
        }
        let derived = derived.qfi(&packet, now);
        derived.or(found.map(|rule| rule.qfi))
    }
}

impl UplinkRule {
    fn takes(&self, packet: &Packet<'_>) -> bool {
        let mut filters = self.filters.iter();
        filters.any(|filter| filter.iter().all(|component| packet.matches(component)))
    }
}

/// What filters look at.
pub(super) struct Packet<'a> {
    pub(super) source: &'a [u8],
    pub(super) destination: &'a [u8],
    traffic_class: u8,
    /// Of IPv6.
    flow_label: Option<u32>,
    pub(super) protocol: u8,
    /// Behind the IP headers; empty in a fragment that is not the first.
    transport: &'a [u8],
}

impl<'a> Packet<'a> {
    pub(super) fn read(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::ipv4(packet),
            6 => Self::ipv6(packet),
            _ => None,
        }
    }

    fn ipv4(packet: &'a [u8]) -> Option<Self> {
        let header = packet.first_chunk::<20>()?;
        let [version_ihl, traffic_class, ..] = *header;
        let [_, _, _, _, _, _, f1, f2, _, protocol, ..] = *header;
        let fragment = u16::from_be_bytes([f1, f2]) & 0x1fff != 0;
        let transport = packet.get(usize::from(version_ihl & 15) * 4..)?;
        Some(Self {
            source: packet.get(12..16)?,
            destination: packet.get(16..20)?,
            traffic_class,
            flow_label: None,
            protocol,
            transport: if fragment { &[] } else { transport },
        })
    }

    /// RFC 8200, sections 3 and 4.
    fn ipv6(packet: &'a [u8]) -> Option<Self> {
        let header = packet.first_chunk::<40>()?;
        let [v1, v2, v3, v4, _, _, mut protocol, ..] = *header;
        let first = u32::from_be_bytes([v1, v2, v3, v4]);
        let mut transport = packet.get(40..)?;
        loop {
            let len = match (protocol, transport) {
                // Hop-by-hop options, routing, destination options.
                (0 | 43 | 60, [_, len, ..]) => (usize::from(*len) + 1) * 8,
                (44, [next, _, high, low, ..]) => {
                    if u16::from_be_bytes([*high, *low]) & 0xfff8 != 0 {
                        (protocol, transport) = (*next, &[]);
                        break;
                    }
                    8
                }
                _ => break,
            };
            let [next, ..] = *transport else {
                break;
            };
            protocol = next;
            match transport.get(len..) {
                Some(rest) => transport = rest,
                None => {
                    (protocol, transport) = (NO_NEXT_HEADER, &[]);
                    break;
                }
            }
        }
        Some(Self {
            source: packet.get(8..24)?,
            destination: packet.get(24..40)?,
            traffic_class: u8::try_from((first >> 20) & 0xff).unwrap_or(0),
            flow_label: Some(first & 0x000f_ffff),
            protocol,
            transport,
        })
    }

    fn matches(&self, component: &Component) -> bool {
        match component {
            Component::Any => true,
            Component::RemoteIpv4(address, mask) => masked(self.destination, address, mask),
            Component::LocalIpv4(address, mask) => masked(self.source, address, mask),
            Component::RemoteIpv6(address, len) => prefixed(self.destination, address, *len),
            Component::LocalIpv6(address, len) => prefixed(self.source, address, *len),
            Component::Protocol(protocol) => self.protocol == *protocol,
            Component::LocalPort(ports) => self.port(0).is_some_and(|port| ports.contains(&port)),
            Component::RemotePort(ports) => self.port(2).is_some_and(|port| ports.contains(&port)),
            Component::Spi(spi) => self.spi() == Some(*spi),
            Component::TrafficClass(value, mask) => self.traffic_class & mask == value & mask,
            Component::FlowLabel(label) => self.flow_label == Some(*label),
        }
    }

    /// Of TCP, UDP, DCCP, SCTP and UDP-Lite.
    pub(super) fn port(&self, at: usize) -> Option<u16> {
        if !matches!(self.protocol, 6 | 17 | 33 | 132 | 136) {
            return None;
        }
        let octets = self.transport.get(at..)?.first_chunk()?;
        Some(u16::from_be_bytes(*octets))
    }

    pub(super) fn spi(&self) -> Option<u32> {
        let at = match self.protocol {
            50 => 0,
            51 => 4,
            _ => return None,
        };
        let octets = self.transport.get(at..)?.first_chunk()?;
        Some(u32::from_be_bytes(*octets))
    }
}

/// Whether two addresses agree where the mask has bits; addresses of two families do not.
fn masked(address: &[u8], wanted: &[u8], mask: &[u8]) -> bool {
    address.len() == wanted.len()
        && address
            .iter()
            .zip(wanted)
            .zip(mask)
            .all(|((octet, wanted), mask)| octet & mask == wanted & mask)
}

fn prefixed(address: &[u8], wanted: &[u8; 16], len: u8) -> bool {
    let bits = u128::MAX.checked_shl(128_u32.saturating_sub(len.into()));
    masked(address, wanted, &bits.unwrap_or(0).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(precedence: u8, qfi: u8, filters: Vec<PacketFilter>) -> UplinkRule {
        UplinkRule {
            precedence,
            qfi,
            filters,
        }
    }

    /// 10.0.0.2 to 203.0.113.9, with four octets of transport.
    fn ipv4(protocol: u8, fragment: u16, transport: [u8; 4]) -> Vec<u8> {
        let [f1, f2] = fragment.to_be_bytes();
        let header = [
            0x45, 0xb8, 0, 24, 0, 0, f1, f2, 64, protocol, 0, 0, 10, 0, 0, 2, 203, 0, 113, 9,
        ];
        [&header[..], &transport].concat()
    }

    /// 2001:db8::2 to 2001:db8:1::9, flow label 0x12345, with extension headers.
    fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x6b, 0x81, 0x23, 0x45, 0, 0, next, 64];
        packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        packet.extend([0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        packet.extend(rest);
        packet
    }

    #[test]
    fn the_lowest_precedence_that_matches_has_the_packet() {
        let rules = UplinkRules::new(vec![
            rule(255, 1, vec![vec![Component::Any]]),
            rule(20, 2, vec![vec![Component::Protocol(17)]]),
            rule(
                10,
                3,
                vec![
                    vec![Component::RemotePort(5000..=5009), Component::Protocol(17)],
                    vec![Component::RemoteIpv4([198, 51, 100, 7], [255; 4])],
                ],
            ),
        ]);
        let ports = |remote: u16| {
            let [high, low] = remote.to_be_bytes();
            [0x30, 0x39, high, low]
        };
        assert_eq!(rules.qfi(&ipv4(17, 0, ports(5000))), Some(3));
        assert_eq!(rules.qfi(&ipv4(17, 0, ports(5009))), Some(3));
        assert_eq!(rules.qfi(&ipv4(17, 0, ports(5010))), Some(2));
        assert_eq!(rules.qfi(&ipv4(6, 0, ports(5000))), Some(1));
        // A later fragment has no ports; the first one has.
        assert_eq!(rules.qfi(&ipv4(17, 0x2001, ports(5000))), Some(2));
        assert_eq!(rules.qfi(&ipv4(17, 0x2000, ports(5000))), Some(3));
        assert_eq!(rules.qfi(&[]), None);
        assert_eq!(rules.qfi(&[0x50; 40]), None);
        let only = UplinkRules::new(vec![rule(1, 2, vec![vec![Component::Protocol(17)]])]);
        assert_eq!(only.qfi(&ipv4(6, 0, ports(1))), None, "no rule takes it");
        assert_eq!(UplinkRules::default().qfi(&ipv4(6, 0, ports(1))), None);
    }

    #[test]
    fn every_component_tells_packets_apart() {
        let udp = ipv4(17, 0, [0x30, 0x39, 0x13, 0x88]);
        let esp = ipv4(50, 0, [0xde, 0xad, 0xbe, 0xef]);
        // Hop-by-hop options, an atomic fragment header, UDP.
        let hops = [44, 0, 1, 4, 0, 0, 0, 0];
        let atomic = [17, 0, 0, 0, 0, 0, 0, 1];
        let six = ipv6(0, &[&hops[..], &atomic, &[0x30, 0x39, 0x13, 0x88]].concat());
        let later = ipv6(44, &[17, 0, 0, 8, 0, 0, 0, 1, 0x30, 0x39, 0x13, 0x88]);
        let local = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        let cases: [(Component, &[u8], &[u8]); 12] = [
            (
                Component::LocalIpv4([10, 0, 0, 0], [255, 0, 0, 0]),
                &udp,
                &six,
            ),
            (
                Component::RemoteIpv4([203, 0, 113, 9], [255; 4]),
                &udp,
                &six,
            ),
            (Component::LocalIpv6(local, 128), &six, &udp),
            (Component::RemoteIpv6(local, 32), &six, &udp),
            (Component::Protocol(17), &later, &esp),
            (Component::LocalPort(12345..=12345), &six, &later),
            (Component::RemotePort(5000..=5000), &udp, &esp),
            (Component::Spi(0xdead_beef), &esp, &udp),
            (Component::TrafficClass(0xb8, 0xfc), &six, &[0x45; 24]),
            (Component::FlowLabel(0x12345), &six, &udp),
            (Component::RemoteIpv6([0; 16], 0), &six, &udp),
            (Component::Protocol(17), &six, &esp),
        ];
        for (component, yes, no) in cases {
            let rules = UplinkRules::new(vec![rule(1, 7, vec![vec![component.clone()]])]);
            assert_eq!(rules.qfi(yes), Some(7), "{component:?}");
            assert_eq!(rules.qfi(no), None, "{component:?}");
        }
        let wrong = Component::RemoteIpv6(local, 48);
        let rules = UplinkRules::new(vec![rule(1, 7, vec![vec![wrong]])]);
        assert_eq!(rules.qfi(&six), None);
    }

    #[test]
    fn no_cut_of_a_packet_is_read_beyond_its_end() {
        let hops = [44, 0, 1, 4, 0, 0, 0, 0];
        let atomic = [17, 0, 0, 0, 0, 0, 0, 1];
        let six = ipv6(0, &[&hops[..], &atomic, &[0x30, 0x39, 0x13, 0x88]].concat());
        let four = ipv4(17, 0, [0x30, 0x39, 0x13, 0x88]);
        let port = vec![vec![Component::RemotePort(5000..=5000)]];
        let rules = UplinkRules::new(vec![rule(1, 7, port)]);
        for packet in [six, four] {
            assert_eq!(rules.qfi(&packet), Some(7));
            for len in 0..packet.len() {
                assert_eq!(rules.qfi(&packet[..len]), None, "cut at {len}");
            }
        }
    }
}
