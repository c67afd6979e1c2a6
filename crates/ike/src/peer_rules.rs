//! Key modes by the peer's address: before AUTH a responder knows of its peer nothing else that nobody but the path
//! can choose. (A name in the request would be a rule for whoever leaves it out.)

use std::net::IpAddr;

use crate::config::{Mode, QkdPolicy};

/// Key modes and policy of the peers of one range of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRule {
    /// An address of the range.
    pub address: IpAddr,
    /// How many of its first bits all addresses of the range have.
    pub prefix_len: u8,
    /// Modes, best first. An empty list accepts nothing.
    pub modes: Vec<Mode>,
    /// Which of them count.
    pub policy: QkdPolicy,
}

impl PeerRule {
    fn covers(&self, address: IpAddr) -> bool {
        let ((own, width), (other, same)) = (bits(self.address), bits(address));
        let len = u32::from(self.prefix_len).min(width);
        let beyond = u128::BITS - len;
        width == same && (own ^ other).checked_shr(beyond).unwrap_or(0) == 0
    }
}

/// The address from its first bit on, and how many bits it has. IPv4 within IPv6 is IPv4.
fn bits(address: IpAddr) -> (u128, u32) {
    match address.to_canonical() {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

/// The rule for a peer: that of the smallest range with its address.
pub(crate) fn rule_for(rules: &[PeerRule], address: IpAddr) -> Option<&PeerRule> {
    rules
        .iter()
        .filter(|rule| rule.covers(address))
        .max_by_key(|rule| rule.prefix_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(range: &str, policy: QkdPolicy) -> PeerRule {
        let (address, len) = range.split_once('/').unwrap();
        PeerRule {
            address: address.parse().unwrap(),
            prefix_len: len.parse().unwrap(),
            modes: vec![Mode::Psk],
            policy,
        }
    }

    #[test]
    fn the_smallest_range_decides_whatever_the_order() {
        use QkdPolicy::{Forbid, Prefer, Require};
        let mut rules = vec![
            rule("192.0.2.0/24", Require),
            rule("192.0.2.128/25", Forbid),
            rule("192.0.2.200/32", Prefer),
            rule("2001:db8::/32", Require),
            rule("2001:db8:0:1::/64", Forbid),
        ];
        for _ in 0..2 {
            for (address, policy) in [
                ("192.0.2.1", Some(Require)),
                ("192.0.2.127", Some(Require)),
                ("192.0.2.128", Some(Forbid)),
                ("192.0.2.200", Some(Prefer)),
                ("::ffff:192.0.2.200", Some(Prefer)),
                ("192.0.3.1", None),
                ("2001:db8::1", Some(Require)),
                ("2001:db8:0:1::1", Some(Forbid)),
                ("2001:db9::1", None),
                ("::", None),
            ] {
                let found = rule_for(&rules, address.parse().unwrap());
                assert_eq!(found.map(|rule| rule.policy), policy, "{address}");
            }
            rules.reverse();
        }
    }

    #[test]
    fn a_range_of_everything_is_of_its_own_family() {
        let rules = [rule("0.0.0.0/0", QkdPolicy::Require)];
        assert!(rule_for(&rules, "203.0.113.9".parse().unwrap()).is_some());
        assert!(rule_for(&rules, "2001:db8::1".parse().unwrap()).is_none());
        let rules = [rule("::/0", QkdPolicy::Require)];
        assert!(rule_for(&rules, "2001:db8::1".parse().unwrap()).is_some());
        assert!(rule_for(&rules, "203.0.113.9".parse().unwrap()).is_none());
    }
}
