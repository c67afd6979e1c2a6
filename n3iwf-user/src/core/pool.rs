//! Inner addresses of UEs, and other numbers given out once at a time.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use thiserror::Error;

/// The addresses of `ueIpAddressRange`, lowest free first.
///
/// Of IPv4 ranges the network and broadcast addresses are left out, and so is whatever is reserved
/// (the N3IWF's own inner address).
#[derive(Debug)]
pub struct AddressPool {
    range: IpNet,
    reserved: BTreeSet<u128>,
    first: u128,
    last: u128,
    /// Below this everything was given out at least once.
    next: u128,
    returned: BTreeSet<u128>,
}

/// An address that is not out cannot come back: it would be given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} is not taken from the pool")]
pub struct NotTaken(pub IpAddr);

impl AddressPool {
    /// A pool of `range` without `reserved`.
    pub fn new(range: IpNet, reserved: impl IntoIterator<Item = IpAddr>) -> Self {
        let network = number(range.network());
        let broadcast = number(range.broadcast());
        let (first, last) = match range {
            IpNet::V4(v4) if v4.prefix_len() < 31 => (network + 1, broadcast - 1),
            // The all-zeros address of a subnet is the routers' anycast address (RFC 4291, 2.6.1).
            IpNet::V6(v6) if v6.prefix_len() < 127 => (network + 1, broadcast),
            _ => (network, broadcast),
        };
        let reserved = reserved
            .into_iter()
            .filter(|address| range.contains(address))
            .map(number)
            .collect();
        Self {
            range,
            reserved,
            first,
            last,
            next: first,
            returned: BTreeSet::new(),
        }
    }

    /// The lowest free address; `None` when all are taken.
    pub fn take(&mut self) -> Option<IpAddr> {
        if let Some(lowest) = self.returned.pop_first() {
            return Some(self.address(lowest));
        }
        while self.reserved.contains(&self.next) {
            self.next += 1;
        }
        if self.next > self.last {
            return None;
        }
        let taken = self.next;
        self.next += 1;
        Some(self.address(taken))
    }

    /// Takes an address back.
    ///
    /// # Errors
    /// [`NotTaken`] for an address that is not out; the pool stays as it was.
    pub fn give_back(&mut self, address: IpAddr) -> Result<(), NotTaken> {
        let offset = number(address);
        let out = self.range.contains(&address)
            && (self.first..self.next).contains(&offset)
            && !self.reserved.contains(&offset)
            && !self.returned.contains(&offset);
        if !out {
            return Err(NotTaken(address));
        }
        self.returned.insert(offset);
        Ok(())
    }

    /// How many addresses are out.
    pub fn taken(&self) -> usize {
        let given = self.next - self.first;
        let reserved = self.reserved.range(self.first..self.next).count();
        usize::try_from(given)
            .unwrap_or(usize::MAX)
            .saturating_sub(reserved)
            .saturating_sub(self.returned.len())
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.range {
            // The number came from an IPv4 address: the low 32 bits are all of it.
            IpNet::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or_default()).into(),
            IpNet::V6(_) => Ipv6Addr::from_bits(number).into(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Numbers `first..=last`, given out in turn so that a number just returned rests a while: late
/// messages about its former owner then find nobody.
#[derive(Debug)]
pub(crate) struct Numbers {
    first: u32,
    last: u32,
    next: u32,
    out: HashSet<u32>,
}

impl Numbers {
    pub(crate) fn new(first: u32, last: u32) -> Self {
        Self {
            first,
            last,
            next: first,
            out: HashSet::new(),
        }
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        let capacity = u64::from(self.last - self.first) + 1;
        if self.out.len() as u64 >= capacity {
            return None;
        }
        loop {
            let candidate = self.next;
            self.next = if candidate == self.last {
                self.first
            } else {
                candidate + 1
            };
            if self.out.insert(candidate) {
                return Some(candidate);
            }
        }
    }

    pub(crate) fn give_back(&mut self, number: u32) {
        self.out.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(range: &str) -> AddressPool {
        AddressPool::new(range.parse().unwrap(), ["10.0.0.1".parse().unwrap()])
    }

    #[test]
    fn the_ends_and_the_gateway_are_left_out() {
        let mut pool = pool("10.0.0.0/29");
        let all: Vec<String> = std::iter::from_fn(|| pool.take())
            .map(|address| address.to_string())
            .collect();
        assert_eq!(
            all,
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        assert_eq!(pool.taken(), 5);
    }

    #[test]
    fn tiny_and_ipv6_ranges_work() {
        let mut single = AddressPool::new("10.9.9.9/32".parse().unwrap(), []);
        assert_eq!(single.take(), Some("10.9.9.9".parse().unwrap()));
        assert_eq!(single.take(), None);
        let mut v6 = AddressPool::new(
            "2001:db8::/64".parse().unwrap(),
            ["2001:db8::1".parse().unwrap()],
        );
        assert_eq!(v6.take(), Some("2001:db8::2".parse().unwrap()));
    }

    #[test]
    fn what_is_not_out_cannot_come_back() {
        let mut pool = pool("10.0.0.0/24");
        let first = pool.take().unwrap();
        for text in ["10.0.0.0", "10.0.0.1", "10.0.0.3", "10.0.1.2", "::1"] {
            let address = text.parse().unwrap();
            assert_eq!(pool.give_back(address), Err(NotTaken(address)));
        }
        assert_eq!(pool.give_back(first), Ok(()));
        assert_eq!(pool.give_back(first), Err(NotTaken(first)));
        assert_eq!(pool.taken(), 0);
    }

    #[test]
    fn numbers_rest_before_they_return() {
        let mut numbers = Numbers::new(1, 3);
        assert_eq!(numbers.take(), Some(1));
        numbers.give_back(1);
        assert_eq!(numbers.take(), Some(2));
        assert_eq!(numbers.take(), Some(3));
        assert_eq!(numbers.take(), Some(1));
        assert_eq!(numbers.take(), None);
    }

    proptest! {
        /// Against a plain set: never one address twice, always the lowest free, never the reserved.
        #[test]
        fn behaves_as_a_set(steps in proptest::collection::vec((any::<bool>(), 0_usize..16), 0..200)) {
            let mut pool = pool("10.0.0.0/28");
            let mut out: BTreeSet<IpAddr> = BTreeSet::new();
            let all: BTreeSet<IpAddr> = (2..15).map(|n| IpAddr::from([10, 0, 0, n])).collect();
            for (take, pick) in steps {
                if take {
                    let expected = all.difference(&out).next().copied();
                    prop_assert_eq!(pool.take(), expected);
                    out.extend(expected);
                } else if let Some(address) = out.iter().nth(pick).copied() {
                    prop_assert_eq!(pool.give_back(address), Ok(()));
                    out.remove(&address);
                }
                prop_assert_eq!(pool.taken(), out.len());
            }
        }
    }
}
