//! Configuration of the data plane.

use std::{net::IpAddr, path::PathBuf};

use ebpf_common::flood::MOST_INITS;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Error, Role, Traffic, relay::RelayKind, spec::MAX_REQID};

/// What the data plane needs to know; built by a daemon from its own configuration file.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which end this is.
    pub role: Role,
    /// Marks what this daemon made (interface alias); at most 32 characters, the same in every run.
    pub owner: String,
    /// Name of the XFRM interface of slot 0, at most 10 characters (`xfrmInterfaceName`). Slot k is
    /// called `<name>-<k>`.
    pub interface_name: String,
    /// XFRM interface ID of slot 0, not 0 (`xfrmInterfaceID`). Slot k has this plus k.
    pub interface_id: u32,
    /// N3IWF: the inner address (`ipSecTunnelAddress`). UE: `None`.
    pub inner_address: Option<IpAddr>,
    /// N3IWF: the inner addresses of UEs (`ueIpAddressRange`), routed to the XFRM interface. UE: `None`.
    pub inner_range: Option<IpNet>,
    /// The `dataplane:` section of the daemon's file.
    pub options: Options,
}

impl Config {
    /// Name of the XFRM interface of `slot`.
    pub fn interface(&self, slot: u32) -> String {
        if slot == 0 {
            self.interface_name.clone()
        } else {
            format!("{}-{slot}", self.interface_name)
        }
    }
}

/// The `dataplane:` section of a daemon's configuration file. Every key has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    /// `kernel` (default) or `recording`.
    pub kind: Kind,
    /// Where `recording` writes its JSON lines; nothing is written without it.
    pub record_file: Option<PathBuf>,
    /// MTU of the XFRM interfaces. The default 1386 leaves room for the largest ESP overhead on a
    /// 1500-octet path and gives PDU sessions the 1358 octets of TS 23.501 Annex J.
    pub mtu: u32,
    /// Number of XFRM interfaces that may be made: 1 plus the further PDU sessions of a UE.
    pub slots: u32,
    /// First reqid of the 2^20 that belong to this daemon.
    pub reqid_base: u32,
    /// What moves user packets: `user` (default) or `kernel`, which needs the eBPF object and serves
    /// what has an XFRM interface. Packets in an N3IWF's kernel relay pass neither netfilter nor IPsec
    /// policies of N3. At a UE, `kernel` is the way of uplink packets.
    pub relay: RelayKind,
    /// eBPF accounting on NWu; absent: none.
    pub bpf: Option<BpfOptions>,
    /// What one Child SA may carry before it is rekeyed; none by default.
    pub limits: Limits,
}

/// The `dataplane.limits:` section: counted by the kernel in each direction of a Child SA. At a soft
/// limit it is rekeyed, at a hard one the kernel passes nothing more and it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Octets of inner packets.
    pub soft_bytes: Option<u64>,
    /// Octets of inner packets.
    pub hard_bytes: Option<u64>,
    /// Packets.
    pub soft_packets: Option<u64>,
    /// Packets.
    pub hard_packets: Option<u64>,
    /// Up to this share of a soft limit, 0 to 90 percent, is taken off it by chance, so that many
    /// Child SAs, and the two ends of one, are not rekeyed at once.
    pub jitter_percent: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            soft_bytes: None,
            hard_bytes: None,
            soft_packets: None,
            hard_packets: None,
            jitter_percent: 10,
        }
    }
}

impl Limits {
    /// A soft limit for the Child SA with this inbound SPI, whose value is random.
    pub(crate) fn soft(&self, limit: Option<u64>, spi: u32) -> Option<u64> {
        let limit = limit?;
        let range = u128::from(limit) * u128::from(self.jitter_percent) / 100;
        let early = range * u128::from(spi) / u128::from(u32::MAX);
        Some(
            limit
                .saturating_sub(u64::try_from(early).unwrap_or(limit))
                .max(1),
        )
    }

    pub(crate) const fn any(&self) -> bool {
        self.soft_bytes.is_some()
            || self.hard_bytes.is_some()
            || self.soft_packets.is_some()
            || self.hard_packets.is_some()
    }

    /// Whether a state of the Child SA with this inbound SPI has reached a soft limit.
    pub(crate) fn are_reached(&self, traffic: Traffic, spi: u32) -> bool {
        let reached = |count: u64, limit| {
            let limit = self.soft(limit, spi);
            limit.is_some_and(|limit| count >= limit)
        };
        reached(traffic.bytes, self.soft_bytes) || reached(traffic.packets, self.soft_packets)
    }

    fn check(&self) -> Result<(), String> {
        for (what, soft, hard) in [
            ("Bytes", self.soft_bytes, self.hard_bytes),
            ("Packets", self.soft_packets, self.hard_packets),
        ] {
            if soft == Some(0) || hard == Some(0) {
                return Err(format!("limits: soft{what} and hard{what} are not 0"));
            }
            if let (Some(soft), Some(hard)) = (soft, hard)
                && soft >= hard
            {
                return Err(format!(
                    "limits: soft{what} {soft} is not below hard{what} {hard}"
                ));
            }
        }
        if self.jitter_percent > 90 {
            return Err(format!(
                "limits: jitterPercent {} is above 90",
                self.jitter_percent
            ));
        }
        Ok(())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: Kind::Kernel,
            record_file: None,
            mtu: DEFAULT_MTU,
            slots: 16,
            reqid_base: 0x4e00_0000,
            relay: RelayKind::User,
            bpf: None,
            limits: Limits::default(),
        }
    }
}

/// Default MTU of XFRM interfaces, see [`Options::mtu`].
pub const DEFAULT_MTU: u32 = 1386;

/// Which data plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Kernel IPsec: [`crate::Xfrm`].
    #[default]
    Kernel,
    /// No IPsec at all, for hosts whose kernel has no ESP: [`crate::Recording`].
    Recording,
}

/// The `dataplane.bpf:` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BpfOptions {
    /// The NWu interface the programs are attached to.
    pub interface: String,
    /// The object file made by `cargo xtask build`.
    #[serde(default = "default_object")]
    pub object: PathBuf,
    /// Directory on a BPF file system that belongs to this daemon alone.
    #[serde(default = "default_pin_dir")]
    pub pin_dir: PathBuf,
    /// Most Child SAs at one time, for which there is room from the start: 64 octets for each direction and processor.
    /// Absent: 32768 at an N3IWF, 256 at a UE.
    #[serde(default)]
    pub max_child_sas: Option<u32>,
    /// N3IWF: how many IKE_SA_INIT requests per second one source (an IPv4 address, the first 64 bits of an IPv6 one) may
    /// send, and as many at once, before the programs drop the rest; absent (default): none is dropped. UEs behind one
    /// NAT are one source.
    #[serde(default)]
    pub ike_init_per_source: Option<u32>,
}

impl BpfOptions {
    /// Most Child SAs at one time.
    pub(crate) fn child_sas(&self, role: Role) -> u32 {
        self.max_child_sas.unwrap_or(match role {
            Role::N3iwf => 32_768,
            Role::Ue => 256,
        })
    }

    fn check(&self, role: Role) -> Result<(), String> {
        if let Some(most) = self.max_child_sas
            && !(1..=1_000_000).contains(&most)
        {
            return Err(format!("maxChildSas {most}: 1 to 1000000"));
        }
        match (self.ike_init_per_source, role) {
            (Some(rate), _) if !(1..=MOST_INITS).contains(&rate) => {
                Err(format!("ikeInitPerSource {rate}: 1 to {MOST_INITS}"))
            }
            (Some(_), Role::Ue) => Err("ikeInitPerSource: nobody begins with a UE".to_owned()),
            _ => Ok(()),
        }
    }
}

pub(crate) fn default_object() -> PathBuf {
    "/usr/lib/n3iwf/n3iwf.bpf.o".into()
}

pub(crate) fn default_pin_dir() -> PathBuf {
    "/sys/fs/bpf/n3iwf".into()
}

impl Config {
    /// Refuses what cannot work, before anything is touched.
    pub fn check(&self) -> Result<(), Error> {
        let fail = |text: String| Err(Error::Config(text));
        let name = &self.interface_name;
        if name.is_empty()
            || name.len() > 10
            || !name
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
        {
            return fail(format!(
                "interface name {name:?}: 1 to 10 letters, digits, '-' or '_'"
            ));
        }
        if self.owner.is_empty()
            || self.owner.len() > 32
            || self.owner.chars().any(char::is_control)
        {
            return fail(format!("owner {:?}: 1 to 32 characters", self.owner));
        }
        let options = &self.options;
        if !(1..=1024).contains(&options.slots) {
            return fail(format!("slots {}: 1 to 1024", options.slots));
        }
        if self.interface_id == 0 || self.interface_id.checked_add(options.slots).is_none() {
            return fail(format!(
                "interface ID {}: not 0, with room for {} slots",
                self.interface_id, options.slots
            ));
        }
        if options.reqid_base == 0 || options.reqid_base.checked_add(MAX_REQID).is_none() {
            return fail(format!(
                "reqidBase {:#x}: not 0, with room for 2^20 reqids",
                options.reqid_base
            ));
        }
        if !(576..=65_000).contains(&options.mtu) {
            return fail(format!("mtu {}: 576 to 65000", options.mtu));
        }
        match (self.role, self.inner_address, self.inner_range) {
            (Role::Ue, None, None) => {}
            (Role::Ue, _, _) => return fail("a UE gets its inner address by IKE".into()),
            (Role::N3iwf, Some(address), Some(range)) => {
                if address.is_ipv4() != range.addr().is_ipv4() {
                    return fail(format!(
                        "{address} and {range} are of different IP versions"
                    ));
                }
            }
            (Role::N3iwf, _, _) => {
                return fail("an N3IWF needs its inner address and the range of its UEs".into());
            }
        }
        if let Some(bpf) = &options.bpf {
            bpf.check(self.role).or_else(fail)?;
        }
        options.limits.check().or_else(fail)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n3iwf() -> Config {
        Config {
            role: Role::N3iwf,
            owner: "n3iwf".into(),
            interface_name: "xfrmi".into(),
            interface_id: 1,
            inner_address: Some("10.0.0.1".parse().unwrap()),
            inner_range: Some("10.0.0.0/24".parse().unwrap()),
            options: Options::default(),
        }
    }

    fn bpf(config: &mut Config) -> &mut BpfOptions {
        let options: BpfOptions = serde_json::from_str(r#"{"interface": "nwu"}"#).unwrap();
        config.options.bpf.insert(options)
    }

    #[test]
    fn a_limit_of_attaches_is_for_an_n3iwf() {
        let mut config = n3iwf();
        bpf(&mut config).ike_init_per_source = Some(10);
        config.check().unwrap();
        config.role = Role::Ue;
        (config.inner_address, config.inner_range) = (None, None);
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("ikeInitPerSource"), "{error}");
    }

    #[test]
    fn slots_have_names() {
        n3iwf().check().unwrap();
        assert_eq!(n3iwf().interface(0), "xfrmi");
        assert_eq!(n3iwf().interface(12), "xfrmi-12");
    }

    #[test]
    fn mistakes_are_named() {
        type Change = fn(&mut Config);
        let cases: [(&str, Change); 17] = [
            ("interface name", |c| {
                c.interface_name = "eleven-long".into();
            }),
            ("interface name", |c| c.interface_name = "a/b".into()),
            ("owner", |c| c.owner.clear()),
            ("interface ID", |c| c.interface_id = 0),
            ("interface ID", |c| c.interface_id = u32::MAX),
            ("slots", |c| c.options.slots = 0),
            ("reqidBase", |c| c.options.reqid_base = u32::MAX),
            ("mtu", |c| c.options.mtu = 100),
            ("IP versions", |c| {
                c.inner_address = Some("2001:db8::1".parse().unwrap());
            }),
            ("needs its inner address", |c| c.inner_range = None),
            ("by IKE", |c| c.role = Role::Ue),
            ("hardPackets 7", |c| {
                c.options.limits.soft_packets = Some(7);
                c.options.limits.hard_packets = Some(7);
            }),
            ("not 0", |c| c.options.limits.hard_bytes = Some(0)),
            ("above 90", |c| c.options.limits.jitter_percent = 91),
            ("maxChildSas 0", |c| bpf(c).max_child_sas = Some(0)),
            ("ikeInitPerSource 0", |c| {
                bpf(c).ike_init_per_source = Some(0);
            }),
            ("ikeInitPerSource 100001", |c| {
                bpf(c).ike_init_per_source = Some(100_001);
            }),
        ];
        for (text, change) in cases {
            let mut config = n3iwf();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn soft_limits_spread_within_their_jitter() {
        let limits = Limits {
            jitter_percent: 20,
            ..Limits::default()
        };
        assert_eq!(limits.soft(None, 5), None);
        assert_eq!(limits.soft(Some(1000), 0), Some(1000));
        assert_eq!(limits.soft(Some(1000), u32::MAX), Some(800));
        assert_eq!(limits.soft(Some(1000), u32::MAX / 2), Some(901));
        assert_eq!(limits.soft(Some(u64::MAX), 0), Some(u64::MAX));
        assert_eq!(limits.soft(Some(1), u32::MAX), Some(1));
    }

    #[test]
    fn the_section_has_defaults_and_no_unknown_keys() {
        let options: Options = serde_json::from_str("{}").unwrap();
        assert_eq!(options, Options::default());
        let options: Options = serde_json::from_str(
            r#"{"kind": "recording", "recordFile": "/tmp/r", "mtu": 1400, "slots": 2,
                "reqidBase": 5, "bpf": {"interface": "nwu"}}"#,
        )
        .unwrap();
        let bpf = options.bpf.unwrap();
        assert_eq!(bpf.pin_dir, PathBuf::from("/sys/fs/bpf/n3iwf"));
        assert_eq!(bpf.object, PathBuf::from("/usr/lib/n3iwf/n3iwf.bpf.o"));
        assert_eq!(bpf.ike_init_per_source, None);
        assert!(serde_json::from_str::<Options>(r#"{"recordfile": "x"}"#).is_err());
    }
}
