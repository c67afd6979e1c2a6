//! XFRM interfaces, one for each slot, and what a UE's end has on them: addresses and routes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Running, not_started};
use crate::{
    Config, Error, Role,
    link::{Route, host_prefix, sysctl},
    sys::disable_merging,
};

/// Metric of the route of slot k is this plus k: slot 0 carries what is not bound to an interface.
const SLOT_METRIC: u32 = 1000;

/// An inner address pair of a UE on one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Host {
    pub(super) slot: u32,
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
}

impl Running {
    /// The interface of a slot, made when it is first needed.
    pub(super) fn slot(&mut self, config: &Config, slot: u32) -> Result<u32, Error> {
        if let Some(index) = self.slots.get(&slot) {
            return Ok(*index);
        }
        let name = config.interface(slot);
        let index = self.links.create_xfrm(
            &name,
            config.interface_id + slot,
            config.options.mtu,
            &config.owner,
        )?;
        // From here on `tear_down` removes it.
        self.slots.insert(slot, index);
        let furnished = self.furnish(config, slot, index, &name);
        if furnished.is_err() {
            // Half of one would be taken for a whole one next time.
            self.slots.remove(&slot);
            self.links.remove(&name)?;
        }
        furnished.map(|()| index)
    }

    /// What an interface needs to carry packets.
    fn furnish(&mut self, config: &Config, slot: u32, index: u32, name: &str) -> Result<(), Error> {
        // Replies may leave by another slot's interface than requests came in by.
        sysctl(&format!("ipv4/conf/{name}/rp_filter"), "2")?;
        // No router solicitations into the tunnel; an IPv6 inner address needs no link-local one.
        sysctl(&format!("ipv6/conf/{name}/addr_gen_mode"), "1")?;
        sysctl(&format!("ipv6/conf/{name}/router_solicitations"), "0")?;
        // GRO would hand merged packets to the relay's raw sockets; a GSO super-packet would count
        // as one packet in the kernel's SA when ESP is offloaded.
        disable_merging(name)?;
        self.links.set_up(index)?;
        if let (Role::N3iwf, Some(address), Some(range)) =
            (config.role, config.inner_address, config.inner_range)
        {
            if slot == 0 {
                self.links.add_address(index, address)?;
            }
            self.links.add_route(&Route {
                destination: range.trunc(),
                via: None,
                link: index,
                source: Some(address),
                metric: metric(slot),
            })?;
        }
        Ok(())
    }

    /// The UE's inner address on slot 0 and a route to the N3IWF's inner address.
    pub(super) fn add_host(&mut self, host: Host) -> Result<(), Error> {
        let count = self.hosts.get(&host).copied().unwrap_or(0);
        if count == 0 {
            let Some(&index) = self.slots.get(&host.slot) else {
                return Err(not_started());
            };
            let base = self.slots.get(&0).copied().unwrap_or(index);
            let fresh = !self.hosts.keys().any(|other| other.local == host.local);
            if fresh && let Err(error) = self.links.add_address(base, host.local) {
                if error.is_in_doubt() {
                    let _ = self.links.delete_address(base, host.local);
                }
                return Err(error);
            }
            let route = host.route(index);
            if let Err(error) = self.links.add_route(&route) {
                if error.is_in_doubt() {
                    let _ = self.links.delete_route(&route);
                }
                if fresh {
                    let _ = self.links.delete_address(base, host.local);
                }
                return Err(error);
            }
        }
        self.hosts.insert(host, count + 1);
        Ok(())
    }

    pub(super) fn release_host(&mut self, host: Host) -> Result<(), Error> {
        match self.hosts.get_mut(&host) {
            Some(count) if *count > 1 => {
                *count -= 1;
                return Ok(());
            }
            _ => self.hosts.remove(&host),
        };
        let index = self.slots.get(&host.slot).copied().unwrap_or(0);
        let mut result = self.links.delete_route(&host.route(index));
        if !self.hosts.keys().any(|other| other.local == host.local)
            && let Some(&base) = self.slots.get(&0)
        {
            result = result.and(self.links.delete_address(base, host.local));
        }
        result
    }
}

impl Host {
    fn route(self, link: u32) -> Route {
        Route {
            // A host prefix of either IP version is always valid.
            destination: IpNet::new_assert(self.remote, host_prefix(self.remote)),
            via: None,
            link,
            source: Some(self.local),
            metric: metric(self.slot),
        }
    }
}

const fn metric(slot: u32) -> u32 {
    if slot == 0 { 0 } else { SLOT_METRIC + slot }
}
