//! Reflective QoS at the UE (TS 24.501, 6.2.5.1.4): an uplink flow takes the QFI of the downlink
//! packets of the same flow that came with RQI, until the RQ timer (T3583) ends.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ebpf_common::ue::{IS_IPV6, UeFlow, Words, words4, words6};

use super::{
    n3iwf::{read, write},
    rules::Packet,
};

/// Most rules derived at one time. A peer that sends to every port cannot take more memory.
const MOST: usize = 1024;

/// How often in the time of a rule the kernel is told that it goes on.
const REFRESHES: u64 = 8;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;

/// The packet filter of a derived rule, for uplink packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    local: IpAddr,
    remote: IpAddr,
    protocol: u8,
    /// TCP and UDP: local port, then remote port. ESP: the SPI.
    upper: u32,
}

impl Flow {
    /// The flow of an uplink packet, if it is of a kind that rules are derived for.
    fn of_uplink(packet: &Packet<'_>) -> Option<Self> {
        let upper = match packet.protocol {
            TCP | UDP => ports(packet.port(0)?, packet.port(2)?),
            ESP => packet.spi()?,
            _ => return None,
        };
        Some(Self {
            local: address(packet.source)?,
            remote: address(packet.destination)?,
            protocol: packet.protocol,
            upper,
        })
    }

    /// The uplink flow that answers a downlink packet (TS 24.501, 6.2.5.1.4.2).
    fn answering(packet: &Packet<'_>) -> Option<Self> {
        let upper = match packet.protocol {
            TCP | UDP => ports(packet.port(2)?, packet.port(0)?),
            ESP => packet.spi()?,
            _ => return None,
        };
        Some(Self {
            local: address(packet.destination)?,
            remote: address(packet.source)?,
            protocol: packet.protocol,
            upper,
        })
    }
}

impl Flow {
    /// As the kernel's programs have it.
    fn reflected(&self, qfi: u8, holds_ns: u64) -> Reflected {
        let version = if self.local.is_ipv6() { IS_IPV6 } else { 0 };
        let flow = UeFlow {
            local: words(self.local),
            remote: words(self.remote),
            upper: self.upper,
            protocol: u32::from(self.protocol) | version,
            ..UeFlow::default()
        };
        Reflected {
            flow,
            qfi,
            holds_ns,
        }
    }
}

fn words(address: IpAddr) -> Words {
    match address {
        IpAddr::V4(address) => words4(address.octets()),
        IpAddr::V6(address) => words6(address.octets()),
    }
}

fn ports(local: u16, remote: u16) -> u32 {
    u32::from(local) << 16 | u32::from(remote)
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

#[derive(Debug)]
struct Derived {
    qfi: u8,
    /// When the RQ timer ends, on the clock of the caller.
    ends: AtomicU64,
    /// The same as the kernel was told last.
    told: AtomicU64,
}

/// A derived rule that the kernel's programs do not have, or whose time there is running out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reflected {
    /// Without interface and generation.
    pub(super) flow: UeFlow,
    pub(super) qfi: u8,
    /// How long the rule holds from now.
    pub(super) holds_ns: u64,
}

/// The derived QoS rules of one session. Times are nanoseconds of one clock.
#[derive(Debug, Default)]
pub(super) struct Reflections(RwLock<HashMap<Flow, Derived>>);

impl Reflections {
    /// A downlink packet with RQI: derives a rule, or starts its timer anew. Gives what the kernel's
    /// programs have to know: not every packet, since that is a system call.
    pub(super) fn learn(
        &self,
        downlink: &[u8],
        qfi: u8,
        rq_timer: Duration,
        now: u64,
    ) -> Option<Reflected> {
        let flow = Flow::answering(&Packet::read(downlink)?)?;
        let timer = u64::try_from(rq_timer.as_nanos()).unwrap_or(u64::MAX);
        let ends = now.saturating_add(timer);
        // Nearly every packet is one of a flow that has its rule.
        if let Some(derived) = read(&self.0).get(&flow).filter(|d| d.qfi == qfi) {
            derived.ends.store(ends, Relaxed);
            let old = derived.told.load(Relaxed).saturating_add(timer / REFRESHES) <= ends;
            return old.then(|| {
                derived.told.store(ends, Relaxed);
                flow.reflected(qfi, timer)
            });
        }
        let mut all = write(&self.0);
        if all.len() >= MOST && !all.contains_key(&flow) {
            all.retain(|_, derived| derived.ends.load(Relaxed) > now);
            if all.len() >= MOST {
                return None;
            }
        }
        let (ends, told) = (AtomicU64::new(ends), AtomicU64::new(ends));
        all.insert(flow, Derived { qfi, ends, told });
        Some(flow.reflected(qfi, timer))
    }

    /// The QFI of the derived rule that takes an uplink packet.
    pub(super) fn qfi(&self, uplink: &Packet<'_>, now: u64) -> Option<u8> {
        let all = read(&self.0);
        if all.is_empty() {
            return None;
        }
        let derived = all.get(&Flow::of_uplink(uplink)?)?;
        (derived.ends.load(Relaxed) > now).then_some(derived.qfi)
    }

    /// Reflective QoS no longer applies to the session.
    pub(super) fn clear(&self) {
        write(&self.0).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{Component, UplinkRule, UplinkRules};

    const TIMER: Duration = Duration::from_nanos(100);
    const UE: [u8; 4] = [10, 60, 0, 7];
    const HOST: [u8; 4] = [198, 18, 0, 10];

    /// An IPv4 packet with four octets of transport.
    fn packet(from: [u8; 4], to: [u8; 4], protocol: u8, transport: [u16; 2]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend(from);
        packet.extend(to);
        packet.extend(transport.iter().flat_map(|half| half.to_be_bytes()));
        packet
    }

    fn rules() -> UplinkRules {
        let rule = |precedence, qfi, component| UplinkRule {
            precedence,
            qfi,
            filters: vec![vec![component]],
        };
        UplinkRules::new(vec![
            rule(10, 2, Component::RemotePort(53..=53)),
            rule(255, 1, Component::Any),
        ])
        .with_rq_timer(TIMER)
    }

    #[test]
    fn an_uplink_flow_follows_the_downlink_one_until_the_timer_ends() {
        let (rules, known) = (rules(), Reflections::default());
        let down = packet(HOST, UE, UDP, [5000, 6000]);
        let up = packet(UE, HOST, UDP, [6000, 5000]);
        assert_eq!(rules.choose(&up, &known, 0), Some(1));
        known.learn(&down, 7, TIMER, 0);
        assert_eq!(rules.choose(&up, &known, 99), Some(7));
        let others = [
            packet(UE, HOST, UDP, [6000, 5001]),
            packet(UE, HOST, UDP, [6001, 5000]),
            packet(UE, HOST, TCP, [6000, 5000]),
            packet(UE, [198, 18, 0, 11], UDP, [6000, 5000]),
            packet([10, 60, 0, 8], HOST, UDP, [6000, 5000]),
            packet(HOST, UE, UDP, [5000, 6000]),
        ];
        for other in &others {
            assert_eq!(rules.choose(other, &known, 1), Some(1), "{other:x?}");
        }
        // Every packet with RQI starts the timer anew; one of another flow moves the rule.
        known.learn(&down, 7, TIMER, 90);
        assert_eq!(rules.choose(&up, &known, 189), Some(7));
        assert_eq!(rules.choose(&up, &known, 190), Some(1));
        known.learn(&down, 8, TIMER, 200);
        assert_eq!(rules.choose(&up, &known, 201), Some(8));
        known.clear();
        assert_eq!(rules.choose(&up, &known, 201), Some(1));
    }

    #[test]
    fn the_kernel_is_told_what_is_new_and_now_and_then_that_it_goes_on() {
        let known = Reflections::default();
        let timer = Duration::from_nanos(800);
        let down = packet(HOST, UE, UDP, [5000, 6000]);
        let told = known.learn(&down, 7, timer, 0).unwrap();
        assert_eq!((told.qfi, told.holds_ns), (7, 800));
        assert_eq!(told.flow.upper, 6000 << 16 | 5000);
        assert_eq!(told.flow.local, words4(UE));
        assert_eq!(known.learn(&down, 7, timer, 99), None);
        assert!(known.learn(&down, 7, timer, 100).is_some());
        assert_eq!(known.learn(&down, 7, timer, 199), None);
        assert_eq!(known.learn(&down, 8, timer, 200).unwrap().qfi, 8);
    }

    #[test]
    fn signalled_rules_of_lower_precedence_value_come_first() {
        let (rules, known) = (rules(), Reflections::default());
        known.learn(&packet(HOST, UE, UDP, [53, 6000]), 7, TIMER, 0);
        let up = packet(UE, HOST, UDP, [6000, 53]);
        assert_eq!(rules.choose(&up, &known, 1), Some(2));
    }

    #[test]
    fn rules_are_derived_of_tcp_udp_and_esp_alone_and_never_of_later_fragments() {
        let (rules, known) = (rules(), Reflections::default());
        for (protocol, derived) in [(TCP, true), (UDP, true), (ESP, true), (1, false)] {
            let down = packet(HOST, UE, protocol, [9, 9]);
            known.learn(&down, 7, TIMER, 0);
            let up = packet(UE, HOST, protocol, [9, 9]);
            let qfi = if derived { 7 } else { 1 };
            assert_eq!(rules.choose(&up, &known, 1), Some(qfi), "{protocol}");
        }
        let mut fragment = packet(HOST, UE, UDP, [10, 10]);
        fragment[7] = 1;
        known.learn(&fragment, 7, TIMER, 0);
        let up = packet(UE, HOST, UDP, [10, 10]);
        assert_eq!(rules.choose(&up, &known, 1), Some(1));
        for cut in 0..24 {
            known.learn(&packet(HOST, UE, UDP, [10, 10])[..cut], 7, TIMER, 0);
        }
        assert_eq!(rules.choose(&up, &known, 1), Some(1));
    }

    #[test]
    fn a_peer_that_tries_every_port_takes_bounded_memory_and_ended_rules_make_room() {
        let known = Reflections::default();
        for port in 0..=u16::MAX {
            known.learn(&packet(HOST, UE, UDP, [port, 1]), 7, TIMER, 0);
        }
        assert_eq!(read(&known.0).len(), MOST);
        known.learn(&packet(HOST, UE, UDP, [60_000, 2]), 7, TIMER, 100);
        assert_eq!(read(&known.0).len(), 1);
    }
}
