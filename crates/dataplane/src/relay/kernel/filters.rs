//! QoS rules as the UE's program takes them.

use ebpf_common::ue::{HAS_PORTS, HAS_SPI, IS_IPV6, UE_FILTERS, UeFilter, words4, words6};

use crate::relay::rules::{Component, DERIVED, PacketFilter, UplinkRules};

const ANY_PORT: [u16; 2] = [0, u16::MAX];
/// [`UeFilter::needs`]: no packet has this.
const NEVER: u32 = 1 << 31;

/// The mask of a prefix length.
fn mask(prefix: u8) -> [u8; 16] {
    let host = 128u32.saturating_sub(prefix.into());
    u128::MAX.checked_shl(host).unwrap_or(0).to_be_bytes()
}

/// The filters of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filters {
    pub(super) filters: [UeFilter; UE_FILTERS],
    pub(super) count: u32,
    /// Those before the rules that reflective QoS derives.
    pub(super) before: u32,
}

/// `None`: they are too many, or one has a component twice.
pub(super) fn flatten(rules: &UplinkRules) -> Option<Filters> {
    let mut flat = Filters {
        filters: [UeFilter::default(); UE_FILTERS],
        count: 0,
        before: 0,
    };
    let mut places = flat.filters.iter_mut();
    for rule in rules.rules() {
        for filter in &rule.filters {
            let mut filter = one(filter)?;
            filter.qfi = rule.qfi.into();
            *places.next()? = filter;
            flat.count += 1;
            if rule.precedence <= DERIVED {
                flat.before = flat.count;
            }
        }
    }
    Some(flat)
}

fn one(components: &PacketFilter) -> Option<UeFilter> {
    let mut filter = UeFilter {
        local_ports: ANY_PORT,
        remote_ports: ANY_PORT,
        ..UeFilter::default()
    };
    let mut seen = Vec::new();
    let mut versions = [false; 2];
    for component in components {
        let kind = std::mem::discriminant(component);
        if seen.contains(&kind) {
            return None;
        }
        seen.push(kind);
        match component {
            Component::Any => {}
            Component::RemoteIpv4(address, mask) => {
                filter.remote = words4(*address);
                filter.remote_mask = words4(*mask);
                versions[0] = true;
            }
            Component::LocalIpv4(address, mask) => {
                filter.local = words4(*address);
                filter.local_mask = words4(*mask);
                versions[0] = true;
            }
            Component::Protocol(protocol) => {
                filter.kind |= u32::from(*protocol);
                filter.kind_mask |= 0xff;
            }
            Component::TrafficClass(value, mask) => {
                filter.kind |= u32::from(*value) << 8;
                filter.kind_mask |= u32::from(*mask) << 8;
            }
            Component::LocalPort(ports) => {
                filter.local_ports = [*ports.start(), *ports.end()];
                filter.needs |= HAS_PORTS;
            }
            Component::RemotePort(ports) => {
                filter.remote_ports = [*ports.start(), *ports.end()];
                filter.needs |= HAS_PORTS;
            }
            Component::Spi(spi) => {
                (filter.spi, filter.spi_mask) = (*spi, u32::MAX);
                filter.needs |= HAS_SPI;
            }
            Component::RemoteIpv6(address, prefix) => {
                filter.remote = words6(*address);
                filter.remote_mask = words6(mask(*prefix));
                versions[1] = true;
            }
            Component::LocalIpv6(address, prefix) => {
                filter.local = words6(*address);
                filter.local_mask = words6(mask(*prefix));
                versions[1] = true;
            }
            Component::FlowLabel(label) => {
                (filter.label, filter.label_mask) = (*label, u32::MAX);
                versions[1] = true;
            }
        }
    }
    match versions {
        [false, false] => {}
        [true, false] => filter.kind_mask |= IS_IPV6,
        [false, true] => {
            filter.kind |= IS_IPV6;
            filter.kind_mask |= IS_IPV6;
        }
        // No packet needs what it cannot have.
        [true, true] => filter.needs |= NEVER,
    }
    Some(filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::UplinkRule;

    fn rule(precedence: u8, filters: Vec<PacketFilter>) -> UplinkRule {
        UplinkRule {
            precedence,
            qfi: precedence,
            filters,
        }
    }

    #[test]
    fn rules_are_flat_in_the_order_of_their_precedence() {
        let flat = flatten(&UplinkRules::new(vec![
            rule(200, vec![vec![Component::Any]]),
            rule(
                60,
                vec![
                    vec![Component::FlowLabel(1), Component::Protocol(6)],
                    vec![Component::Protocol(6)],
                    vec![Component::Protocol(17)],
                ],
            ),
        ]));
        let flat = flat.unwrap();
        assert_eq!((flat.count, flat.before), (4, 3));
        let qfis = flat.filters.map(|filter| filter.qfi);
        assert_eq!(qfis[..5], [60, 60, 60, 200, 0]);
    }

    #[test]
    fn what_the_program_has_no_form_for_stays_in_user_space() {
        let twice = vec![Component::RemotePort(1..=2), Component::RemotePort(2..=3)];
        assert_eq!(flatten(&UplinkRules::new(vec![rule(1, vec![twice])])), None);
        let any = |count| UplinkRules::new(vec![rule(1, vec![vec![Component::Any]; count])]);
        assert!(flatten(&any(UE_FILTERS)).is_some());
        assert_eq!(flatten(&any(UE_FILTERS + 1)), None);
    }
}
