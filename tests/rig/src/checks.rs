//! What must be true before, during and after an attach.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::exec;
use crate::kernel::{self, SaCount, SaMapKey, XfrmState};
use crate::topology::Place;
use crate::world::World;

/// Overhead of tunnel-mode ESP over IPv4 per packet, octets: the least and the most that the
/// suites of this project add (RFC 4303): outer IPv4 header 20, UDP 0 or 8, SPI and sequence
/// number 8, IV 8 to 16, padding with its length and next header 2 to 17, ICV 12 to 16.
const OVERHEAD: (u64, u64) = (50, 85);

/// What there is in the namespaces of the two ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    interfaces: BTreeMap<&'static str, Vec<String>>,
    addresses: BTreeMap<&'static str, Vec<String>>,
    routes: BTreeMap<&'static str, Vec<String>>,
    rules: BTreeMap<&'static str, Vec<String>>,
    states: usize,
    policies: usize,
    programs: Vec<String>,
    pins: bool,
}

impl Snapshot {
    /// Looks.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn take(world: &World) -> Result<Self> {
        let mut snapshot = Self::default();
        for place in [Place::Ue, Place::N3iwf] {
            let netns = world.netns(place)?;
            let lines = |arguments: &[&str]| -> Result<Vec<String>> {
                let text = netns.ip(arguments)?;
                let mut lines: Vec<String> = text.lines().map(|l| l.trim().to_owned()).collect();
                lines.sort();
                Ok(lines)
            };
            let name = place.name();
            snapshot.interfaces.insert(name, netns.interfaces()?);
            snapshot.addresses.insert(
                name,
                addresses(&netns.ip(&["-oneline", "address", "show"])?),
            );
            snapshot
                .routes
                .insert(name, lines(&["route", "show", "table", "all"])?);
            snapshot.rules.insert(name, lines(&["rule", "show"])?);
            snapshot.states += kernel::xfrm_states(netns)?.0.len();
            snapshot.policies += kernel::xfrm_policies(netns)?;
        }
        snapshot.programs = kernel::loaded_programs()?;
        snapshot.pins = world.pins().exists();
        Ok(snapshot)
    }

    /// What is there now and was not there before, in words.
    #[must_use]
    pub fn left_since(&self, before: &Self) -> Vec<String> {
        let mut left = Vec::new();
        let mut compare = |what: &str,
                           now: &BTreeMap<&'static str, Vec<String>>,
                           then: &BTreeMap<&'static str, Vec<String>>| {
            for (place, items) in now {
                let old = then.get(place).cloned().unwrap_or_default();
                for item in items.iter().filter(|item| !old.contains(item)) {
                    left.push(format!("{what} in {place}: {item}"));
                }
            }
        };
        compare("interface", &self.interfaces, &before.interfaces);
        compare("address", &self.addresses, &before.addresses);
        compare("route", &self.routes, &before.routes);
        compare("rule", &self.rules, &before.rules);
        if self.states > before.states {
            left.push(format!("{} XFRM states", self.states - before.states));
        }
        if self.policies > before.policies {
            left.push(format!("{} XFRM policies", self.policies - before.policies));
        }
        for program in self
            .programs
            .iter()
            .filter(|p| !before.programs.contains(p))
        {
            left.push(format!("eBPF program {program}"));
        }
        if self.pins && !before.pins {
            left.push("pins".to_owned());
        }
        left
    }
}

/// `nwu inet 192.0.2.1/24` for each line of `ip -oneline address`: without what may change by itself.
fn addresses(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().skip(1).take(3).collect();
        words.join(" ")
    };
    text.lines().map(line).collect()
}

/// Waits until nothing is there that was not there before.
///
/// # Errors
/// Lists what stays.
pub fn nothing_left(world: &World, before: &Snapshot) -> Result<()> {
    let mut left = Vec::new();
    let waited = exec::wait_for("nothing left", std::time::Duration::from_secs(10), || {
        left = Snapshot::take(world)?.left_since(before);
        Ok(left.is_empty().then_some(()))
    });
    if left.is_empty() {
        return waited;
    }
    bail!("left behind: {}", left.join("; "))
}

/// Compares the kernel's SA counters of the N3IWF with the eBPF map: the same SAs, the same number
/// of packets, and octets that differ by what ESP adds per packet. Returns a table.
///
/// # Errors
/// Names the SA and both numbers.
pub fn counters_agree(
    states: &[XfrmState],
    counted: &BTreeMap<SaMapKey, SaCount>,
    local: &str,
) -> Result<String> {
    if states.is_empty() {
        bail!("the kernel has no ESP state");
    }
    let mut table = format!(
        "{:<10} {:<4} {:>9} {:>9} {:>12} {:>12}\n",
        "SPI", "", "packets", "eBPF", "octets", "eBPF"
    );
    for state in states {
        let outbound = state.source == local;
        let direction = if outbound { "out" } else { "in" };
        let Some(count) = counted.get(&(state.spi, outbound)) else {
            bail!("SPI {:08x} {direction}: not in the eBPF map", state.spi);
        };
        table.push_str(&format!(
            "{:08x}   {direction:<4} {:>9} {:>9} {:>12} {:>12}\n",
            state.spi, state.packets, count.packets, state.bytes, count.bytes
        ));
        if state.packets != count.packets {
            bail!(
                "SPI {:08x} {direction}: kernel {} packets, eBPF {}\n{table}",
                state.spi,
                state.packets,
                count.packets
            );
        }
        let least = state.bytes + state.packets * OVERHEAD.0;
        let most = state.bytes + state.packets * OVERHEAD.1;
        if !(least..=most).contains(&count.bytes) {
            bail!(
                "SPI {:08x} {direction}: eBPF {} octets, expected {least} to {most}\n{table}",
                state.spi,
                count.bytes
            );
        }
    }
    if counted.len() != states.len() {
        bail!(
            "{} entries in the eBPF map for {} states\n{table}",
            counted.len(),
            states.len()
        );
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(spi: u32, source: &str, packets: u64, bytes: u64) -> XfrmState {
        XfrmState {
            spi,
            source: source.to_owned(),
            packets,
            bytes,
            ..XfrmState::default()
        }
    }

    #[test]
    fn counters_that_differ_are_told() {
        let states = [state(1, "a", 10, 1000), state(2, "b", 5, 500)];
        let mut map = BTreeMap::new();
        map.insert(
            (1, true),
            SaCount {
                packets: 10,
                bytes: 1600,
            },
        );
        map.insert(
            (2, false),
            SaCount {
                packets: 5,
                bytes: 780,
            },
        );
        assert!(
            counters_agree(&states, &map, "a")
                .unwrap()
                .contains("00000001")
        );
        map.insert(
            (2, false),
            SaCount {
                packets: 6,
                bytes: 780,
            },
        );
        let error = counters_agree(&states, &map, "a").unwrap_err().to_string();
        assert!(error.contains("kernel 5 packets, eBPF 6"), "{error}");
        map.insert(
            (2, false),
            SaCount {
                packets: 5,
                bytes: 5000,
            },
        );
        assert!(counters_agree(&states, &map, "a").is_err());
        map.remove(&(2, false));
        assert!(
            counters_agree(&states, &map, "a")
                .unwrap_err()
                .to_string()
                .contains("not in")
        );
        assert!(
            counters_agree(&[], &map, "a").is_err(),
            "nothing to compare is no agreement"
        );
    }

    #[test]
    fn what_is_left_is_named() {
        let before = Snapshot::default();
        let mut after = Snapshot {
            states: 2,
            pins: true,
            ..Snapshot::default()
        };
        after
            .interfaces
            .insert("ue", vec!["lo".to_owned(), "xfrmi".to_owned()]);
        after.programs.push("nwu_ingress (7)".to_owned());
        let left = after.left_since(&before).join("; ");
        for word in ["xfrmi", "2 XFRM states", "nwu_ingress", "pins"] {
            assert!(left.contains(word), "{word} in {left}");
        }
        assert!(after.left_since(&after).is_empty());
    }
}
