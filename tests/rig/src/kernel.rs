//! What the kernel holds: IPsec states and policies, eBPF maps and programs, interfaces. Read
//! with the ordinary tools, so that what the daemons claim is checked by something else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::exec;
use crate::netns::Netns;

/// An ESP state as `ip -s xfrm state` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XfrmState {
    /// Outer source.
    pub source: String,
    /// Outer destination.
    pub destination: String,
    /// SPI, chosen by the destination.
    pub spi: u32,
    /// Ties it to its policies.
    pub reqid: u32,
    /// XFRM interface ID.
    pub if_id: u32,
    /// `tunnel` or `transport`.
    pub mode: String,
    /// Source and destination port of ESP in UDP (RFC 3948).
    pub encap: Option<(u16, u16)>,
    /// Lifetime counters.
    pub bytes: u64,
    /// Lifetime counters.
    pub packets: u64,
    /// Packets refused as too old for the replay window.
    pub late: u64,
    /// Packets refused as seen before.
    pub replayed: u64,
    /// Packets refused for their integrity.
    pub failed: u64,
}

impl XfrmState {
    /// Packets refused for whatever reason.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.late + self.replayed + self.failed
    }
}

/// Counters of a namespace, by name.
#[derive(Clone, Debug, Default)]
pub struct Snmp(BTreeMap<String, u64>);

impl Snmp {
    /// What the kernel counts of IPsec (`/proc/net/xfrm_stat`).
    ///
    /// # Errors
    /// When the kernel has no such counters.
    pub fn xfrm(netns: &Netns) -> Result<Self> {
        let text = netns.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/xfrm_stat")?))?;
        let pairs = text.lines().filter_map(|line| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        });
        Ok(Self(pairs.collect()))
    }

    /// What it counts of ICMP (`/proc/net/snmp`).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn icmp(netns: &Netns) -> Result<Self> {
        let text = netns.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?))?;
        Ok(Self::section(&text, "Icmp:"))
    }

    /// A line of names, and one of values.
    fn section(text: &str, title: &str) -> Self {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(title));
        let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
        let pairs = names.split_whitespace().zip(values.split_whitespace());
        let read = pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Self(read.collect())
    }

    /// One of them.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn get(&self, name: &str) -> Result<u64> {
        let value = self.0.get(name).copied();
        value.with_context(|| format!("no counter {name}"))
    }
}

/// The states of a namespace and the listing they were read from, without keys.
///
/// # Errors
/// When `ip` fails or prints something that is not understood.
pub fn xfrm_states(netns: &Netns) -> Result<(Vec<XfrmState>, String)> {
    let text = netns.ip(&["-s", "xfrm", "state", "list", "nokeys"])?;
    Ok((parse_states(&text)?, text))
}

/// How many policies a namespace has.
///
/// # Errors
/// When `ip` fails.
pub fn xfrm_policies(netns: &Netns) -> Result<usize> {
    let text = netns.ip(&["xfrm", "policy", "list"])?;
    Ok(text.lines().filter(|line| line.starts_with("src ")).count())
}

/// Both outer ends of each policy's template.
///
/// # Errors
/// When `ip` fails.
pub fn xfrm_tunnels(netns: &Netns) -> Result<Vec<BTreeSet<String>>> {
    Ok(parse_templates(&netns.ip(&["xfrm", "policy", "list"])?))
}

fn parse_templates(text: &str) -> Vec<BTreeSet<String>> {
    let ends = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["tmpl", "src", source, "dst", destination, ..] => Some(BTreeSet::from([
                (*source).to_owned(),
                (*destination).to_owned(),
            ])),
            _ => None,
        }
    };
    text.lines().filter_map(ends).collect()
}

fn parse_states(text: &str) -> Result<Vec<XfrmState>> {
    let mut states: Vec<XfrmState> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["src", source, "dst", destination, ..] = words.as_slice()
            && line.starts_with("src ")
        {
            states.push(XfrmState {
                source: (*source).to_owned(),
                destination: (*destination).to_owned(),
                ..XfrmState::default()
            });
            continue;
        }
        let Some(state) = states.last_mut() else {
            continue;
        };
        match words.as_slice() {
            ["proto", "esp", rest @ ..] => {
                state.spi = number(after(rest, "spi"))?;
                state.reqid = number(after(rest, "reqid"))?;
                state.mode = after(rest, "mode").unwrap_or_default().to_owned();
            }
            ["if_id", id, ..] => state.if_id = number(Some(id))?,
            [
                "encap",
                "type",
                "espinudp",
                "sport",
                source,
                "dport",
                destination,
                ..,
            ] => {
                state.encap = Some((source.parse()?, destination.parse()?));
            }
            [bytes, packets] if bytes.ends_with("(bytes),") => {
                state.bytes = counter(bytes, "(bytes),")?;
                state.packets = counter(packets, "(packets)")?;
            }
            ["replay-window", a, "replay", b, "failed", c] => {
                state.late = a.parse()?;
                state.replayed = b.parse()?;
                state.failed = c.parse()?;
            }
            _ => {}
        }
    }
    Ok(states)
}

fn after<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == key)?;
    words.get(at + 1).copied()
}

/// `0xc1f2a3b4(3253904308)`, `7(0x00000007)`, `0x1`, `12`.
fn number(word: Option<&str>) -> Result<u32> {
    let word = word.context("a number is missing")?;
    let plain = word.split('(').next().unwrap_or(word);
    let value = match plain.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => plain.parse(),
    };
    value.with_context(|| format!("not a number: {word}"))
}

fn counter(word: &str, unit: &str) -> Result<u64> {
    let digits = word
        .strip_suffix(unit)
        .with_context(|| format!("not a counter: {word}"))?;
    digits
        .parse()
        .with_context(|| format!("not a counter: {word}"))
}

/// What one entry of the per-SA map says, summed over processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaCount {
    /// Packets on the wire.
    pub packets: u64,
    /// Octets of outer IP packets.
    pub bytes: u64,
}

/// Key of the per-SA map: SPI, and whether the direction is outbound.
pub type SaMapKey = (u32, bool);

/// Where the pinned table of Child SAs has each of them, and the dump it was read from.
///
/// # Errors
/// When the map is not pinned there, or bpftool does not know its fields: then it carries no BTF.
pub fn sa_places(pins: &Path) -> Result<(BTreeMap<SaMapKey, u32>, String)> {
    let map = find_pin(pins, "nwu_sas")?;
    let dump = |options: &[&str]| {
        exec::output(
            Command::new("bpftool")
                .args(options)
                .args(["map", "dump", "pinned"])
                .arg(&map),
        )
    };
    let entries: Value = serde_json::from_str(&dump(&["--json"])?).context("bpftool's JSON")?;
    Ok((parse_places(&entries)?, dump(&[])?))
}

fn parse_places(entries: &Value) -> Result<BTreeMap<SaMapKey, u32>> {
    let mut places = BTreeMap::new();
    for entry in entries.as_array().context("bpftool printed no list")? {
        let typed = typed(entry);
        let number = |pointer: &str| {
            let found = typed.pointer(pointer).and_then(Value::as_u64);
            let found = found.with_context(|| format!("no field {pointer}: no BTF?"))?;
            anyhow::Ok(u32::try_from(found)?)
        };
        let key = (number("/key/spi")?, number("/key/direction")? == 1);
        places.insert(key, number("/value/place")?);
    }
    Ok(places)
}

/// With BTF the typed view is under `formatted`.
fn typed(entry: &Value) -> &Value {
    entry.get("formatted").unwrap_or(entry)
}

/// The pinned per-SA counters, by SPI and direction, and the dump of the table of SAs.
///
/// # Errors
/// As [`sa_places`], or when another SA than the table says is at a place.
pub fn sa_counters(pins: &Path) -> Result<(BTreeMap<SaMapKey, SaCount>, String)> {
    let (places, readable) = sa_places(pins)?;
    let map = find_pin(pins, "nwu_sa_stats")?;
    let mut counters = BTreeMap::new();
    for (key, place) in places {
        let octets = place.to_ne_bytes().map(|octet| octet.to_string());
        let text = exec::output(
            Command::new("bpftool")
                .args(["--json", "map", "lookup", "pinned"])
                .arg(&map)
                .arg("key")
                .args(octets),
        )?;
        let entry: Value = serde_json::from_str(&text).context("bpftool's JSON")?;
        counters.insert(key, parse_counter(&entry, key)?);
    }
    Ok((counters, readable))
}

/// All processors added.
fn parse_counter(entry: &Value, (spi, outbound): SaMapKey) -> Result<SaCount> {
    let mut sum = SaCount::default();
    for cpu in typed(entry)
        .get("values")
        .and_then(Value::as_array)
        .context("no per-CPU values")?
    {
        let field = |pointer: &str| {
            cpu.pointer(pointer)
                .and_then(Value::as_u64)
                .with_context(|| format!("no field {pointer}: no BTF?"))
        };
        let whose = (field("/value/key/spi")?, field("/value/key/direction")?);
        ensure!(
            whose == (u64::from(spi), u64::from(outbound)),
            "SPI {spi:#010x} is told to be where {whose:?} is"
        );
        sum.packets += field("/value/counter/packets")?;
        sum.bytes += field("/value/counter/bytes")?;
    }
    Ok(sum)
}

/// Maps may be pinned in the directory itself or in one below it.
fn find_pin(pins: &Path, name: &str) -> Result<std::path::PathBuf> {
    for place in [pins.join(name), pins.join("maps").join(name)] {
        if place.exists() {
            return Ok(place);
        }
    }
    bail!("map {name} is not pinned below {}", pins.display())
}

/// eBPF programs of the project that are loaded, by name and ID.
///
/// # Errors
/// When bpftool fails.
pub fn loaded_programs() -> Result<Vec<String>> {
    let text = exec::output(Command::new("bpftool").args(["--json", "prog", "show"]))?;
    let programs: Value = serde_json::from_str(&text).context("bpftool's JSON")?;
    let mut names = Vec::new();
    for program in programs.as_array().into_iter().flatten() {
        let name = program
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if name.starts_with("nwu_") {
            let id = program.get("id").and_then(Value::as_u64).unwrap_or(0);
            names.push(format!("{name} ({id})"));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LISTING: &str = "\
src 192.0.2.1 dst 192.0.2.10
\tproto esp spi 0xc1f2a3b4(3253904308) reqid 1308622849(0x4e000001) mode tunnel
\treplay-window 0 seq 0x00000000 flag  (0x00000000)
\taead rfc4106(gcm(aes)) <<Keys hidden>> 128
\tanti-replay esn context:
\t seq-hi 0x0, seq 0x0, oseq-hi 0x0, oseq 0x9
\t replay_window 128, bitmap-length 4
\tif_id 0x1
\tsel src 0.0.0.0/0 dst 0.0.0.0/0 uid 0
\tlifetime config:
\t  limit: soft (INF)(bytes), hard (INF)(bytes)
\t  limit: soft (INF)(packets), hard (INF)(packets)
\tlifetime current:
\t  1068(bytes), 9(packets)
\t  add 2026-11-21 18:00:00 use 2026-11-21 18:00:01
\tstats:
\t  replay-window 1 replay 2 failed 3
src 192.0.2.10 dst 192.0.2.1
\tproto esp spi 0x00000101(257) reqid 7(0x00000007) mode tunnel
\tencap type espinudp sport 20017 dport 4500 addr 0.0.0.0
";

    #[test]
    fn states_are_read_from_the_listing() {
        let states = parse_states(LISTING).unwrap();
        assert_eq!(states.len(), 2);
        let first = states.first().unwrap();
        assert_eq!(
            (first.spi, first.reqid, first.if_id),
            (0xc1f2_a3b4, 0x4e00_0001, 1)
        );
        assert_eq!((first.bytes, first.packets, first.refused()), (1068, 9, 6));
        assert_eq!((first.late, first.replayed, first.failed), (1, 2, 3));
        assert_eq!(
            (first.source.as_str(), first.mode.as_str()),
            ("192.0.2.1", "tunnel")
        );
        let last = states.last().unwrap();
        assert_eq!((last.spi, last.encap), (257, Some((20017, 4500))));
        assert_eq!(first.encap, None);
        assert!(parse_states("").unwrap().is_empty());
    }

    #[test]
    fn counters_are_found_by_name() {
        let text = "Ip: A B\nIp: 1 2\nIcmp: InMsgs InEchos\nIcmp: 9 7\nUdp: X\nUdp: 3\n";
        let icmp = Snmp::section(text, "Icmp:");
        assert_eq!(icmp.get("InEchos").unwrap(), 7);
        assert!(icmp.get("X").is_err());
    }

    #[test]
    fn templates_are_read_from_the_policies() {
        let listing = "src 10.0.0.2/32 dst 10.0.0.1/32 proto gre\n\tdir out priority 100\n\
                       \ttmpl src 192.0.2.11 dst 192.0.2.1\n\t\tproto esp reqid 7 mode tunnel\n\tif_id 0x1\n";
        let ends = ["192.0.2.11", "192.0.2.1"].map(str::to_owned);
        assert_eq!(parse_templates(listing), [BTreeSet::from(ends)]);
    }

    #[test]
    fn counters_are_summed_over_processors() {
        let cpu = |n: u64| {
            let counter = json!({"packets": n + 1, "bytes": 100, "last_seen_ns": 5});
            let key = json!({"spi": 77, "direction": 1, "remote": [0]});
            json!({"cpu": n, "value": {"counter": counter, "key": key, "sa": {"plane": 2}}})
        };
        let entry = json!({"key": ["0x04"], "formatted": {"key": 4, "values": [cpu(0), cpu(1)]}});
        let sum = SaCount {
            packets: 3,
            bytes: 200,
        };
        assert_eq!(parse_counter(&entry, (77, true)).unwrap(), sum);
        assert!(parse_counter(&entry, (77, false)).is_err(), "another SA");
        let raw = json!({"key": ["0x04"], "values": [{"cpu": 0, "value": ["0x01"]}]});
        assert!(
            parse_counter(&raw, (77, true)).is_err(),
            "without field names it is no evidence"
        );
        let key = json!({"spi": 77, "direction": 1, "remote": [0]});
        let typed = json!({"key": key, "value": {"sa": {"plane": 2}, "place": 4}});
        let entries = json!([{"key": ["0x4d"], "value": [], "formatted": typed}]);
        let places = parse_places(&entries).unwrap();
        assert_eq!(places, BTreeMap::from([((77, true), 4)]));
        assert!(parse_places(&json!([{"key": ["0x4d"], "value": []}])).is_err());
    }
}
