//! User-plane relays: GRE inside the IPsec tunnel on one side, GTP-U (N3IWF) or a TUN
//! device (UE) on the other.
//!
//! The traits are what a daemon knows. The relays in user space run on threads of their own, in the
//! network namespace of the thread that made them, and move packets in batches. [`KernelRelay`]
//! puts tc programs in front of one of them.

mod gre_socket;
mod kernel;
mod limit;
mod mmsg;
mod n3iwf;
mod packet;
mod path;
mod reflect;
mod rules;
mod segment;
mod table;
#[cfg(test)]
mod tests;
mod too_big;
mod tun;
mod ue;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use kernel::{KernelEvent, KernelEventKind, KernelRelay, KernelRelayConfig};
pub use n3iwf::{GtpRelay, GtpRelayConfig};
pub use rules::{Component, PacketFilter, UplinkRule, UplinkRules};
pub use ue::{TunRelay, TunRelayConfig};

use crate::{Error, Options, reading::Traffic};

/// One PDU session at the N3IWF: where its GRE and its GTP-U go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessSession {
    /// Our TEID: downlink G-PDUs carry it. The session's key in [`AccessRelay`].
    pub dl_teid: u32,
    /// The UPF's TEID: uplink G-PDUs carry it.
    pub ul_teid: u32,
    /// The UPF's address on N3, of the same IP version as ours ([`GtpRelayConfig::gtp`]).
    pub upf: IpAddr,
    /// The UE's inner address: GRE comes from and goes to it.
    pub ue_inner: Ipv4Addr,
    /// PDU session ID, for status.
    pub pdu_session: u8,
    /// QFIs that the UE may use.
    pub qfis: Vec<u8>,
    /// QFI of downlink PDUs without a PDU Session Container.
    pub default_qfi: u8,
    /// Slot of the Child SA ([`crate::ChildSaSpec::slot`]): GRE on another slot is not this session's.
    pub slot: u32,
    /// Name of the slot's XFRM interface, which GRE has to come from and go to, so that nothing in
    /// clear passes for it. `None` only without IPsec ([`crate::Recording`]).
    pub interface: Option<String>,
    /// Child SAs for some of the flows; the others go by [`Self::slot`].
    pub further: Vec<Tunnel>,
    /// The daemon's number of the UE, whose sessions share [`Self::ue_ambr`].
    pub ue: u32,
    /// Session-AMBR (TS 23.501, 5.7.2.6); `None`: no limit.
    pub session_ambr: Option<Ambr>,
    /// UE-AMBR; the one told last holds for all sessions of the UE.
    pub ue_ambr: Option<Ambr>,
    /// DSCP of what goes by [`Self::slot`], as [`Tunnel::dscp`].
    pub dscp: u8,
    /// DSCP on N3 of the QoS flows that have one other than 0 (TS 23.501, 5.7.5.1), by QFI.
    pub n3_dscp: BTreeMap<u8, u8>,
}

impl AccessSession {
    /// DSCP of a flow's packets in the tunnel.
    pub(crate) fn tunnel_dscp(&self, qfi: u8) -> u8 {
        let mut further = self.further.iter();
        let found = further.find(|tunnel| tunnel.qfis.contains(&qfi));
        found.map_or(self.dscp, |tunnel| tunnel.dscp)
    }

    /// DSCP of a flow's packets on N3.
    pub(crate) fn n3_dscp(&self, qfi: u8) -> u8 {
        self.n3_dscp.get(&qfi).copied().unwrap_or(0)
    }
}

/// A Child SA that carries some QoS flows of a PDU session (5G_QOS_INFO, TS 24.502 9.3.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// As [`AccessSession::slot`].
    pub slot: u32,
    /// Name of the slot's XFRM interface.
    pub interface: Option<String>,
    /// The flows.
    pub qfis: Vec<u8>,
    /// DSCP of the packets in it (5G_QOS_INFO, TS 24.502 9.3.1.1), 6 bits, which IPsec copies to the
    /// outer header.
    pub dscp: u8,
}

/// An aggregate maximum bit rate, bit/s of PDUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ambr {
    /// From the UE.
    pub uplink: u64,
    /// To the UE.
    pub downlink: u64,
}

/// Why packets were not relayed, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drops {
    /// No session has this TEID or inner address.
    pub no_session: u64,
    /// The UE used a QFI of another session. At the UE: no QoS rule takes the packet.
    pub qfi_not_allowed: u64,
    /// The peer address does not belong to the session.
    pub wrong_address: u64,
    /// Headers do not parse.
    pub malformed: u64,
    /// The packet came out of a Child SA that is not the session's.
    pub wrong_sa: u64,
    /// The PDU fits the other side neither whole nor in fragments.
    pub too_big: u64,
    /// Above the aggregate maximum bit rate of the session or of its UE.
    pub rate: u64,
    /// The socket or device refused it.
    pub send_failed: u64,
}

impl Drops {
    /// Name and number of every reason.
    pub const fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("no_session", self.no_session),
            ("qfi_not_allowed", self.qfi_not_allowed),
            ("wrong_address", self.wrong_address),
            ("malformed", self.malformed),
            ("wrong_sa", self.wrong_sa),
            ("too_big", self.too_big),
            ("rate", self.rate),
            ("send_failed", self.send_failed),
        ]
    }
}

/// Packets that the kernel's programs did not relay, by reason
/// ([`ebpf_common::relay::RelayReasons`]). Most went on to user space, which relayed them or counts
/// them in [`Drops`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelReasons {
    /// GRE to GTP-U.
    pub uplink: BTreeMap<String, u64>,
    /// GTP-U to GRE.
    pub downlink: BTreeMap<String, u64>,
}

/// Counters of one QoS flow of a session; octets are those of PDUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReading {
    /// QoS flow identifier, 0..63.
    pub qfi: u8,
    /// From the UE.
    pub uplink: Traffic,
    /// To the UE.
    pub downlink: Traffic,
    /// `CLOCK_MONOTONIC` of the last packet that the kernel relayed; `None`: there was none.
    pub last_seen: Option<Duration>,
}

/// Which relay an N3IWF has ([`crate::Options::relay`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayKind {
    /// [`GtpRelay`].
    #[default]
    User,
    /// [`KernelRelay`].
    Kernel,
}

/// What moves the packets of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// Threads of this process.
    #[default]
    User,
    /// tc programs, and this process for what they leave to it.
    Kernel,
}

/// Counters of one PDU session; octets are those of PDUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReading {
    /// PDU session ID.
    pub pdu_session: u8,
    /// N3IWF: our TEID. UE: 0.
    pub dl_teid: u32,
    /// N3IWF: the UE's inner address. UE: its PDU address, 0.0.0.0 without IPv4.
    pub address: Ipv4Addr,
    /// From the UE.
    pub uplink: Traffic,
    /// To the UE.
    pub downlink: Traffic,
    /// Each QoS flow by itself, lowest QFI first; `uplink` and `downlink` are their sums. At the UE
    /// those that had packets.
    #[serde(default)]
    pub flows: Vec<FlowReading>,
    /// What was not relayed in either direction.
    pub drops: Drops,
    /// What moves its packets.
    #[serde(default)]
    pub path: Path,
}

/// What the N3 side tells the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessEvent {
    /// The UPF does not know the tunnel of this session (GTP-U Error Indication).
    TunnelUnknown {
        /// [`AccessSession::dl_teid`].
        dl_teid: u32,
    },
}

/// The N3IWF's user plane.
pub trait AccessRelay: Send + Sync {
    /// Starts to relay for a session; a second one with the same TEID replaces the first.
    fn add(&self, session: AccessSession) -> Result<(), Error>;

    /// Names a Child SA of a session by its reqid ([`crate::ChildSaSpec::reqid`]): uplink packets
    /// of the session come out of no other. A relay whose sockets the kernel's policies protect
    /// has no use for it; [`KernelRelay`] serves a session from its first Child SA on.
    fn bind(&self, dl_teid: u32, reqid: u32) {
        let _ = (dl_teid, reqid);
    }

    /// Changes a session in place: flows, limits, the UPF's end of the tunnel. Its counters go on, those of
    /// a flow that is gone too; UE, inner address, slot and Child SAs are as before.
    fn modify(&self, session: AccessSession) -> Result<(), Error>;

    /// Changes the UE-AMBR of a UE whose sessions have one.
    fn set_ue_ambr(&self, ue: u32, ambr: Ambr) {
        let _ = (ue, ambr);
    }

    /// Ends a session; its last counters.
    fn remove(&self, dl_teid: u32) -> Option<SessionReading>;

    /// Counters of all sessions, by TEID.
    fn readings(&self) -> Vec<SessionReading>;

    /// Packets that belong to no session.
    fn drops(&self) -> Drops;

    /// What the kernel's programs left alone, and why; `None` without them.
    fn kernel_reasons(&self) -> Option<KernelReasons> {
        None
    }

    /// The next event, if any.
    fn poll_event(&self) -> Option<AccessEvent>;
}

/// The N3IWF's relay that `options.relay` names.
pub fn open(config: GtpRelayConfig, options: &Options) -> Result<Arc<dyn AccessRelay>, Error> {
    Ok(match options.relay {
        RelayKind::User => Arc::new(GtpRelay::start(config)?),
        RelayKind::Kernel => Arc::new(KernelRelay::start(KernelRelayConfig::new(config, options))?),
    })
}

/// The UE's relay that `options.relay` names.
pub fn open_ue(config: TunRelayConfig, options: &Options) -> Result<TunRelay, Error> {
    match options.relay {
        RelayKind::User => Ok(TunRelay::new(config)),
        RelayKind::Kernel => {
            let object = options.bpf.as_ref().map(|bpf| bpf.object.clone());
            let object = object.unwrap_or_else(crate::config::default_object);
            TunRelay::with_programs(config, &object)
        }
    }
}

/// One PDU session at the UE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UeSession {
    /// PDU session ID: the session's key in [`UeRelay`].
    pub pdu_session: u8,
    /// Name of the TUN device.
    pub device: String,
    /// The PDU address; `None`: of IPv6 alone.
    pub address: Option<Ipv4Addr>,
    /// Interface identifier of the link-local address (TS 24.501, 9.11.4.10); `None`: of IPv4 alone. The
    /// kernel makes the other addresses of the prefixes that the network advertises.
    pub interface_id: Option<[u8; 8]>,
    /// MTU of the device.
    pub mtu: u16,
    /// Destinations routed to the device; those of IPv6 come with a session that has it.
    pub routes: Vec<ipnet::IpNet>,
    /// Which QFI uplink PDUs carry; what no rule takes is not sent.
    pub rules: UplinkRules,
    /// Our inner address: GRE comes from it.
    pub inner_local: Ipv4Addr,
    /// UP_IP4_ADDRESS: GRE goes to it.
    pub up_address: Ipv4Addr,
    /// Name of the XFRM interface; `None` only without IPsec.
    pub interface: Option<String>,
    /// DSCP of what goes by [`Self::interface`], as [`Tunnel::dscp`].
    pub dscp: u8,
    /// Child SAs for some of the flows; the others go by [`Self::interface`].
    pub further: Vec<Tunnel>,
}

/// The UE's user plane.
pub trait UeRelay: Send + Sync {
    /// Makes the TUN device, its address and routes, and starts to relay.
    fn add(&self, session: UeSession) -> Result<(), Error>;

    /// Changes the DSCP of the default Child SA, and the Child SAs beside it.
    fn set_tunnels(&self, pdu_session: u8, dscp: u8, further: Vec<Tunnel>) -> Result<(), Error>;

    /// Changes the QoS rules of a session.
    fn set_rules(&self, pdu_session: u8, rules: UplinkRules);

    /// Ends a session and removes its device; its last counters.
    fn remove(&self, pdu_session: u8) -> Option<SessionReading>;

    /// Counters of all sessions, by PDU session ID.
    fn readings(&self) -> Vec<SessionReading>;
}
