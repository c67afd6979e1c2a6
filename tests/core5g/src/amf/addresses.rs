//! Addresses of PDU sessions: the lowest that is free, found without a look at those that are not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::config::DnnConfig;

/// What sessions have of the data networks' pools.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    taken: BTreeSet<Ipv4Addr>,
    /// By data network: all hosts of its pool below this one are taken or excluded.
    floors: BTreeMap<String, u32>,
}

impl Addresses {
    /// The subscription's address, or any; `None` when it is taken or none is left.
    pub(super) fn take(&mut self, dnn: &DnnConfig, fixed: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let free =
            |address: &Ipv4Addr| !self.taken.contains(address) && !dnn.exclude.contains(address);
        let address = match fixed.filter(|address| dnn.pool.contains(address)) {
            Some(fixed) => Some(fixed).filter(free)?,
            None => {
                let (first, last) = (dnn.pool.hosts().next()?, dnn.pool.hosts().next_back()?);
                let floor = self.floors.get(&dnn.name).copied().unwrap_or_default();
                let from = floor.max(u32::from(first));
                let address = (from..=u32::from(last)).map(Ipv4Addr::from).find(free)?;
                self.floors.insert(dnn.name.clone(), u32::from(address));
                address
            }
        };
        self.taken.insert(address);
        Some(address)
    }

    /// A session ended.
    pub(super) fn give_back(&mut self, address: &Ipv4Addr) {
        self.taken.remove(address);
        // Lower than need be in another pool costs a longer look there, once.
        for floor in self.floors.values_mut() {
            *floor = (*floor).min(u32::from(*address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dnn() -> DnnConfig {
        serde_json::from_value(serde_json::json!({
            "name": "internet", "pool": "198.18.0.0/29", "exclude": ["198.18.0.2"]
        }))
        .unwrap()
    }

    #[test]
    fn the_lowest_free_one_is_given() {
        let (mut addresses, dnn) = (Addresses::default(), dnn());
        let take = |addresses: &mut Addresses, fixed| {
            addresses
                .take(&dnn, fixed)
                .map(|address: Ipv4Addr| address.octets()[3])
        };
        assert_eq!(take(&mut addresses, None), Some(1));
        assert_eq!(take(&mut addresses, None), Some(3), "2 is excluded");
        let fixed = Some(Ipv4Addr::new(198, 18, 0, 5));
        assert_eq!(take(&mut addresses, fixed), Some(5));
        assert_eq!(take(&mut addresses, fixed), None, "taken");
        assert_eq!(take(&mut addresses, None), Some(4));
        addresses.give_back(&Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(take(&mut addresses, None), Some(1));
        assert_eq!(take(&mut addresses, None), Some(6));
        assert_eq!(take(&mut addresses, None), None, "none is left");
        addresses.give_back(&Ipv4Addr::new(198, 18, 0, 6));
        assert_eq!(take(&mut addresses, None), Some(6));
    }
}
