//! The configuration file: free5GC's keys where they mean the same, own sections for the rest.
//!
//! `config/n3iwf.yaml` beside this crate says what each key does.

mod ike_share;
mod model;

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use daemon::{
    config::{Complaint, ConfigError},
    hardening::Needs,
};
use dataplane::relay::{GtpRelayConfig, RelayKind};
use ipnet::IpNet;
use nwu::Plmn;

pub use self::{ike_share::Choices, model::*};
use crate::{
    core::{self, CoreConfig, CoreTiming, KeyPolicy},
    ngap::{Node, SupportedArea, SupportedPlmn},
};

/// UDP port of GTP-U (TS 29.281, 4.4.2).
const GTP_PORT: u16 = 2152;

/// Reads and checks a file.
///
/// # Errors
/// [`ConfigError`], with file, line, column and key.
pub fn load(path: &Path) -> Result<File, ConfigError> {
    daemon::config::load_checked(path, File::check)
}

impl File {
    /// As [`load`], of a text that errors call `file`.
    ///
    /// # Errors
    /// [`ConfigError`], with file, line, column and key.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        daemon::config::parse(file, text, Self::check)
    }

    /// What one key alone cannot tell.
    fn check(&self) -> Result<(), Complaint> {
        let own = &self.configuration;
        let fail =
            |key: &str, what: String| Err(Complaint::new(format!("configuration.{key}"), what));
        self.node()?;
        if own.amf_sctp_addresses.is_empty() {
            return fail("amfSCTPAddresses", "at least one AMF is needed".into());
        }
        for (at, amf) in own.amf_sctp_addresses.iter().enumerate() {
            if amf.ip.is_empty() == amf.unix.is_none() {
                return fail(
                    &format!("amfSCTPAddresses[{at}]"),
                    "either `ip` or `unix` is needed".into(),
                );
            }
        }
        let times = [own.sctp.heartbeat, own.sctp.rto_max];
        let allowed = Duration::from_millis(100)..=Duration::from_secs(3600);
        if !times.iter().all(|time| allowed.contains(time)) {
            return fail("sctp", "`heartbeat` and `rtoMax`: 100ms to 1h".into());
        }
        if !(1..=20).contains(&own.sctp.retransmissions) {
            return fail("sctp.retransmissions", "1 to 20".into());
        }
        if own.ike_bind_address.is_unspecified() {
            return fail(
                "ikeBindAddress",
                "one address of this host is needed: NAT detection and ESP name it".into(),
            );
        }
        if let Some(what) = no_tunnel_end(own.n3iwf_gtp_bind_address) {
            return fail("n3iwfGtpBindAddress", what.into());
        }
        if own.nas_tcp_port == 0 {
            return fail("nasTcpPort", "0 is no port".into());
        }
        let range = own.ue_ip_address_range;
        if range.prefix_len() > 30 {
            return fail("ueIpAddressRange", format!("no room for a UE in {range}"));
        }
        if own.fqdn.is_empty() || !own.fqdn.is_ascii() || own.fqdn.len() > 253 {
            return fail("fqdn", "1 to 253 ASCII characters".into());
        }
        if let Some(qkd) = &own.qkd {
            if let Some((key, what)) = qkd.bucket.as_ref().and_then(Bucket::fault) {
                return fail(&format!("qkd.bucket.{key}"), what.into());
            }
            if let Some((key, what)) = qkd.ahead.as_ref().and_then(Ahead::fault) {
                return fail(&format!("qkd.ahead.{key}"), what.into());
            }
            // An IKE SA that waits longer than it may be half-open waits for nothing.
            if qkd.wait.is_zero() || qkd.wait >= own.ike.half_open_lifetime {
                return fail("qkd.wait", "shorter than `ike.halfOpenLifetime`".into());
            }
        }
        self.check_modes()?;
        self.dataplane()
            .check()
            .or_else(|error| fail("dataplane", error.to_string()))
    }

    /// The capabilities the daemon needs, and until when.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let dataplane = &self.configuration.dataplane;
        let ebpf = dataplane.bpf.is_some() || dataplane.relay == RelayKind::Kernel;
        Needs::of_a_daemon(ebpf)
    }

    /// The N3IWF towards AMFs.
    ///
    /// # Errors
    /// A [`Complaint`] for digits that are none.
    pub fn node(&self) -> Result<Node, Complaint> {
        let own = &self.configuration.n3iwf_information;
        let key = "configuration.n3iwfInformation";
        let mut areas = Vec::new();
        for (a, area) in own.supported_ta_list.iter().enumerate() {
            let here = format!("{key}.supportedTAList[{a}]");
            let tac = octets(&area.tac)
                .ok_or_else(|| Complaint::new(format!("{here}.tac"), "six hexadecimal digits"))?;
            let mut plmns = Vec::new();
            for (p, served) in area.broadcast_plmn_list.iter().enumerate() {
                let here = format!("{here}.broadcastPlmnList[{p}]");
                let mut slices = Vec::new();
                for (s, slice) in served.tai_slice_support_list.iter().enumerate() {
                    let sd = match &slice.snssai.sd {
                        None => None,
                        Some(text) => Some(octets(text).ok_or_else(|| {
                            Complaint::new(
                                format!("{here}.taiSliceSupportList[{s}].snssai.sd"),
                                "six hexadecimal digits",
                            )
                        })?),
                    };
                    slices.push((slice.snssai.sst, sd));
                }
                plmns.push(SupportedPlmn {
                    plmn: served.plmn_id.plmn(&format!("{here}.plmnID"))?,
                    slices,
                });
            }
            areas.push(SupportedArea { tac, plmns });
        }
        if areas.is_empty() {
            return Err(Complaint::new(
                format!("{key}.supportedTAList"),
                "at least one tracking area is needed",
            ));
        }
        if own.name.len() > 150 || !own.name.chars().all(printable) {
            return Err(Complaint::new(
                format!("{key}.name"),
                "at most 150 letters, digits and ' ( ) + , - . / : = ?",
            ));
        }
        Ok(Node {
            plmn: own
                .global_n3iwf_id
                .plmn_id
                .plmn(&format!("{key}.globalN3IWFID.plmnID"))?,
            id: own.global_n3iwf_id.n3iwf_id,
            name: own.name.clone(),
            areas,
        })
    }

    /// How associations with AMFs are made.
    pub fn n2_options(&self) -> n2::Options {
        let own = &self.configuration;
        n2::Options::default()
            .with_local(own.local_sctp_addr)
            .with_liveness(n2::Liveness {
                heartbeat: own.sctp.heartbeat,
                retransmissions: own.sctp.retransmissions,
                rto_max: own.sctp.rto_max,
            })
    }

    /// The AMFs to connect to.
    pub fn amfs(&self) -> Vec<n2::Address> {
        self.configuration
            .amf_sctp_addresses
            .iter()
            .flat_map(|amf| {
                let sctp = amf
                    .ip
                    .iter()
                    .map(|ip| n2::Address::Sctp((*ip, amf.port).into()));
                let unix = amf.unix.iter().cloned().map(n2::Address::Unix);
                sctp.chain(unix).collect::<Vec<_>>()
            })
            .collect()
    }

    /// The core's share.
    ///
    /// # Errors
    /// As [`node`](Self::node).
    pub fn core(&self) -> Result<CoreConfig, Complaint> {
        let own = &self.configuration;
        Ok(CoreConfig {
            node: self.node()?,
            amfs: self.amfs().iter().map(ToString::to_string).collect(),
            inner_address: own.ip_sec_tunnel_address.into(),
            inner_range: IpNet::V4(own.ue_ip_address_range),
            nas_port: own.nas_tcp_port,
            gtp_address: own.n3iwf_gtp_bind_address,
            slots: own.dataplane.slots,
            child_sas: own.child_sas,
            dscp: own.dscp.clone(),
            replay_window: 128,
            keys: self.key_policy(),
            timing: CoreTiming {
                authentication: own.authentication_lifetime,
                ..CoreTiming::default()
            },
        })
    }

    fn key_policy(&self) -> KeyPolicy {
        let Some(qkd) = &self.configuration.qkd else {
            return KeyPolicy::default();
        };
        KeyPolicy {
            ahead: qkd.ahead.as_ref().map(|ahead| core::Ahead {
                keys: ahead.keys,
                low: ahead.refill_below,
                age: ahead.maximum_age,
                total: ahead.total,
                peers: ahead.peers.clone(),
            }),
            floor: qkd.floor,
            empty: match qkd.when_empty {
                WhenEmpty::Refuse => core::WhenEmpty::Refuse,
                WhenEmpty::Wait => core::WhenEmpty::Wait(qkd.wait),
            },
        }
    }

    /// The data plane's share.
    pub fn dataplane(&self) -> dataplane::Config {
        let own = &self.configuration;
        dataplane::Config {
            role: dataplane::Role::N3iwf,
            owner: format!("n3iwf {}", own.xfrm_interface_name),
            interface_name: own.xfrm_interface_name.clone(),
            interface_id: own.xfrm_interface_id,
            inner_address: Some(own.ip_sec_tunnel_address.into()),
            inner_range: Some(IpNet::V4(own.ue_ip_address_range)),
            options: own.dataplane.clone(),
        }
    }

    /// The user-plane relay's share.
    pub fn relay(&self) -> GtpRelayConfig {
        let own = &self.configuration;
        GtpRelayConfig {
            gtp: SocketAddr::new(own.n3iwf_gtp_bind_address, GTP_PORT),
            up_address: own.ip_sec_tunnel_address,
            n3_mtu: own.n3_mtu,
            tunnel_mtu: u16::try_from(own.dataplane.mtu).unwrap_or(u16::MAX),
            gre_protocol: own.gre_protocol,
        }
    }
}

impl PlmnId {
    fn plmn(&self, key: &str) -> Result<Plmn, Complaint> {
        Plmn::from_digits(&self.mcc, &self.mnc)
            .ok_or_else(|| Complaint::new(key, "mcc has three digits, mnc two or three"))
    }
}

/// Why UPFs cannot send to an address.
fn no_tunnel_end(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() || address.is_multicast() {
        return Some("one address of this host is needed: UPFs are told it");
    }
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("IPv4 within IPv6: write it as IPv4")
        }
        // NGAP has no room for the link.
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("an address of more than one link"),
        _ => None,
    }
}

/// Six hexadecimal digits.
fn octets(text: &str) -> Option<[u8; 3]> {
    if text.len() != 6 || !text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return None;
    }
    let [_, a, b, c] = u32::from_str_radix(text, 16).ok()?.to_be_bytes();
    Some([a, b, c])
}

/// PrintableString (X.680, 41.4).
fn printable(c: char) -> bool {
    c.is_ascii_alphanumeric() || " '()+,-./:=?".contains(c)
}

#[cfg(test)]
mod tests;
