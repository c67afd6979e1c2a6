//! NWu: datagrams that are lost, repeated, late, cut off and rewritten by NATs.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use ike::{Instant, Path};

use crate::plan::{Dice, Plan};

/// The N3IWF's NWu address.
pub(crate) const N3IWF: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
/// UEs have the addresses behind this one, in order.
const UES: u32 = 0xc000_0201;
/// And their NATs these.
const NATS: u32 = 0xc633_6401;

/// Something that holds until a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window<T>(Option<(Instant, T)>);

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Copy> Window<T> {
    pub(crate) fn open(&mut self, until: Instant, what: T) {
        self.0 = Some((until, what));
    }

    pub(crate) fn at(&self, now: Instant) -> Option<T> {
        self.0
            .filter(|(until, _)| now < *until)
            .map(|(_, what)| what)
    }
}

/// The links of all UEs to the N3IWF.
pub(crate) struct Network {
    loss: u32,
    duplicates: u32,
    delay: Duration,
    jitter: Duration,
    pub(crate) cut: Window<()>,
    links: Vec<Link>,
}

struct Link {
    cut: Window<()>,
    /// First external port of the NAT, which changes with each rebinding.
    nat: Option<u16>,
}

impl Network {
    pub(crate) fn new(plan: &Plan) -> Self {
        let links = plan.behind_nat.iter().map(|nat| Link {
            cut: Window::default(),
            nat: nat.then_some(40_000),
        });
        Self {
            loss: plan.loss,
            duplicates: plan.duplicates,
            delay: plan.delay,
            jitter: plan.jitter,
            cut: Window::default(),
            links: links.collect(),
        }
    }

    /// From now on everything arrives, once and in order.
    pub(crate) fn heal(&mut self) {
        (self.loss, self.duplicates, self.jitter) = (0, 0, Duration::ZERO);
    }

    pub(crate) fn cut_ue(&mut self, ue: usize, until: Instant) {
        if let Some(link) = self.links.get_mut(ue) {
            link.cut.open(until, ());
        }
    }

    /// The NAT forgets; `false` without one.
    pub(crate) fn rebind(&mut self, ue: usize) -> bool {
        match self.links.get_mut(ue).and_then(|link| link.nat.as_mut()) {
            Some(port) => {
                *port += 2;
                true
            }
            None => false,
        }
    }

    /// Whether a UE's packets get through at all.
    pub(crate) fn reaches(&self, now: Instant, ue: usize) -> bool {
        let cut = self
            .links
            .get(ue)
            .is_none_or(|link| link.cut.at(now).is_some());
        !cut && self.cut.at(now).is_none()
    }

    /// When a datagram arrives: not at all, once, or twice.
    pub(crate) fn arrivals(&self, now: Instant, ue: usize, dice: &mut Dice) -> Vec<Instant> {
        // Drawn in every case, so that one cut does not change the rest of a run.
        let lost = dice.chance(self.loss);
        let twice = dice.chance(self.duplicates);
        let times = [dice.time(self.jitter), dice.time(self.jitter)];
        if lost || !self.reaches(now, ue) {
            return Vec::new();
        }
        times
            .into_iter()
            .take(if twice { 2 } else { 1 })
            .map(|late| now + self.delay + late)
            .collect()
    }

    /// One way over NWu.
    pub(crate) fn delay(&self) -> Duration {
        self.delay
    }

    /// How the N3IWF sees what a UE sends on this path.
    pub(crate) fn outside(&self, ue: usize, path: Path) -> Path {
        let nat = self.links.get(ue).and_then(|link| link.nat);
        let remote = match nat {
            Some(port) => SocketAddr::new(nat_address(ue), port + offset(path.local.port())),
            None => path.local,
        };
        Path {
            local: path.remote,
            remote,
        }
    }

    /// Which UE gets what the N3IWF sends on this path, and how it sees it.
    pub(crate) fn inside(&self, path: Path) -> Option<(usize, Path)> {
        let index = (0..self.links.len())
            .find(|&ue| [ue_address(ue), nat_address(ue)].contains(&path.remote.ip()))?;
        let local = match self.links.get(index)?.nat {
            Some(port) => {
                let inner = [500, 4500]
                    .into_iter()
                    .find(|&inner| port + offset(inner) == path.remote.port())?;
                SocketAddr::new(ue_address(index), inner)
            }
            None => path.remote,
        };
        let inside = Path {
            local,
            remote: path.local,
        };
        Some((index, inside))
    }
}

fn offset(port: u16) -> u16 {
    u16::from(port == 4500)
}

fn nth(base: u32, ue: usize) -> IpAddr {
    let number = u32::try_from(ue).unwrap_or(0);
    IpAddr::V4(Ipv4Addr::from_bits(base + number))
}

pub(crate) fn ue_address(ue: usize) -> IpAddr {
    nth(UES, ue)
}

fn nat_address(ue: usize) -> IpAddr {
    nth(NATS, ue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nat_maps_both_ways_until_it_forgets() {
        let mut plan = Plan::quiet(2);
        plan.behind_nat = vec![false, true];
        let mut network = Network::new(&plan);
        let sent = |ue: usize, port| Path {
            local: SocketAddr::new(ue_address(ue), port),
            remote: SocketAddr::new(N3IWF, port),
        };
        for ue in 0..2 {
            for port in [500, 4500] {
                let seen = network.outside(ue, sent(ue, port));
                assert_eq!(seen.local, sent(ue, port).remote);
                assert_eq!(seen.remote == sent(ue, port).local, ue == 0);
                assert_eq!(network.inside(seen), Some((ue, sent(ue, port))));
            }
        }
        let old = network.outside(1, sent(1, 4500));
        assert!(network.rebind(1) && !network.rebind(0));
        assert_eq!(network.inside(old), None);
    }
}
