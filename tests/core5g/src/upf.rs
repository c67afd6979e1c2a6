//! The UPF without a socket: GTP-U (TS 29.281) on N3, plain IP on N6.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use gtpu::{
    DecodeError, Direction, ErrorIndication, Message, MessageType, PORT, PduSessionContainer,
    echo_response, encode_g_pdu, supported_extension_headers,
};
use serde::Serialize;

use crate::amf::UpfSession;
use crate::config::{FlowConfig, FlowFilter};
use crate::router::{self, Ipv6Session, network};

/// What to do with a datagram of N3.
#[derive(Debug, PartialEq, Eq)]
pub enum Uplink<'a> {
    /// Give the packet to N6.
    Deliver(&'a [u8]),
    /// Send a GTP-U message back.
    Reply(SocketAddr, Vec<u8>),
    /// Nothing; [`UpfCounters`] has why.
    Dropped,
}

/// Packets and octets of one session; octets are those of the IP packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SessionCounters {
    /// From the UE.
    pub uplink_packets: u64,
    /// From the UE.
    pub uplink_bytes: u64,
    /// To the UE.
    pub downlink_packets: u64,
    /// To the UE.
    pub downlink_bytes: u64,
    /// From the UE, refused: another source address.
    pub spoofed: u64,
    /// From the UE, refused: a QFI the session does not have.
    pub wrong_qfi: u64,
    /// To the UE, before the N3IWF's tunnel end is known.
    pub no_tunnel: u64,
}

/// Counters of the whole UPF.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UpfCounters {
    /// G-PDUs of an unknown TEID.
    pub unknown_teid: u64,
    /// Datagrams that are no GTP-U message.
    pub undecodable: u64,
    /// Echo requests answered.
    pub echoes: u64,
    /// Error indications received.
    pub error_indications: u64,
    /// Packets of N6 for nobody.
    pub unknown_destination: u64,
    /// G-PDUs with something else than a packet of the session's families inside.
    pub not_ip: u64,
}

/// A session as the control socket shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpfStatus {
    /// Our TEID.
    pub uplink_teid: u32,
    /// The UE's address.
    pub address: Ipv4Addr,
    /// The N3IWF's address and TEID.
    pub downlink: Option<(IpAddr, u32)>,
    /// Counters.
    #[serde(flatten)]
    pub counters: SessionCounters,
}

struct Session {
    address: Ipv4Addr,
    ipv4: bool,
    ipv6: Option<Ipv6Session>,
    flows: Vec<FlowConfig>,
    accepted: Vec<u8>,
    downlink: Option<(IpAddr, u32)>,
    counters: SessionCounters,
}

/// The sessions of a UPF.
#[derive(Default)]
pub struct Upf {
    sessions: BTreeMap<u32, Session>,
    by_address: BTreeMap<Ipv4Addr, u32>,
    /// By the first 64 bits of their addresses.
    by_prefix: BTreeMap<u64, u32>,
    /// Counters of the whole.
    pub counters: UpfCounters,
}

impl Upf {
    /// A new session.
    pub fn install(&mut self, session: UpfSession) {
        let teid = session.uplink_teid;
        if session.ipv4 {
            self.by_address.insert(session.address, teid);
        }
        if let Some(ipv6) = session.ipv6 {
            self.by_prefix.insert(network(ipv6.prefix), teid);
        }
        self.sessions.insert(
            teid,
            Session {
                address: session.address,
                ipv4: session.ipv4,
                ipv6: session.ipv6,
                flows: session.flows,
                accepted: Vec::new(),
                downlink: None,
                counters: SessionCounters::default(),
            },
        );
    }

    /// The other end of a session's tunnel.
    pub fn connect(&mut self, uplink_teid: u32, downlink: (IpAddr, u32), qfis: Vec<u8>) {
        if let Some(session) = self.sessions.get_mut(&uplink_teid) {
            session.downlink = Some(downlink);
            session.accepted = qfis;
        }
    }

    /// Other flows of a session, all of which the N3IWF has accepted.
    pub fn reflow(&mut self, uplink_teid: u32, flows: Vec<FlowConfig>) {
        if let Some(session) = self.sessions.get_mut(&uplink_teid) {
            session.accepted = flows.iter().map(|flow| flow.qfi).collect();
            session.flows = flows;
        }
    }

    /// The end of a session: its last counters.
    pub fn remove(&mut self, uplink_teid: u32) -> Option<SessionCounters> {
        let session = self.sessions.remove(&uplink_teid)?;
        if self.by_address.get(&session.address) == Some(&uplink_teid) {
            self.by_address.remove(&session.address);
        }
        self.by_prefix.retain(|_, teid| *teid != uplink_teid);
        Some(session.counters)
    }

    /// A datagram of N3; `local` is our own N3 address.
    pub fn uplink<'a>(
        &mut self,
        local: IpAddr,
        from: SocketAddr,
        datagram: &'a [u8],
    ) -> Uplink<'a> {
        let message = match Message::decode(datagram) {
            Ok(message) => message,
            Err(error) => {
                self.counters.undecodable += 1;
                tracing::debug!(%from, %error, "GTP-U");
                return match error {
                    DecodeError::RequiredExtension(_) => {
                        Uplink::Reply(from, supported_extension_headers(0))
                    }
                    _ => Uplink::Dropped,
                };
            }
        };
        let header = message.header;
        match header.kind {
            MessageType::GPdu => self.g_pdu(local, from, &message),
            MessageType::EchoRequest => {
                self.counters.echoes += 1;
                Uplink::Reply(from, echo_response(header.sequence.unwrap_or(0)))
            }
            MessageType::ErrorIndication => {
                self.counters.error_indications += 1;
                if let Ok(indication) = ErrorIndication::decode(message.payload) {
                    tracing::warn!(%from, teid = indication.teid, "the N3IWF does not know a tunnel");
                    self.disconnect(indication.teid);
                }
                Uplink::Dropped
            }
            _ => Uplink::Dropped,
        }
    }

    fn g_pdu<'a>(&mut self, local: IpAddr, from: SocketAddr, message: &Message<'a>) -> Uplink<'a> {
        let header = message.header;
        let Some(session) = self.sessions.get_mut(&header.teid) else {
            self.counters.unknown_teid += 1;
            let indication = ErrorIndication {
                teid: header.teid,
                peer: local,
            };
            // To the port of GTP-U, not to the source port (TS 29.281 4.4.2.4).
            let to = SocketAddr::new(from.ip(), PORT);
            return Uplink::Reply(to, indication.encode(0));
        };
        let four = addresses(message.payload).map(|(source, _)| source);
        let six = router::addresses(message.payload).map(|(source, _)| source);
        let own = match (four, six, session.ipv6) {
            (Some(source), _, _) => session.ipv4 && source == session.address,
            (None, Some(source), Some(ipv6)) => {
                ipv6.contains(source) || source == ipv6.link_local()
            }
            _ => {
                self.counters.not_ip += 1;
                return Uplink::Dropped;
            }
        };
        let counters = &mut session.counters;
        if !own {
            counters.spoofed += 1;
            return Uplink::Dropped;
        }
        // Without a container the packet is of the default flow.
        if let Some(container) = header.container {
            let known = session.flows.iter().any(|flow| flow.qfi == container.qfi);
            if container.direction != Direction::Uplink || !known {
                counters.wrong_qfi += 1;
                return Uplink::Dropped;
            }
        }
        counters.uplink_packets += 1;
        counters.uplink_bytes += message.payload.len() as u64;
        let Some(ipv6) = session.ipv6.filter(|_| four.is_none()) else {
            return Uplink::Deliver(message.payload);
        };
        if let Some(answer) = ipv6.answer(message.payload) {
            return match g_pdu(session, &answer) {
                Some((to, message)) => Uplink::Reply(to, message),
                None => Uplink::Dropped,
            };
        }
        // What is for the link ends here.
        match six {
            Some(source) if ipv6.contains(source) => Uplink::Deliver(message.payload),
            _ => Uplink::Dropped,
        }
    }

    /// A packet of N6: the G-PDU for the N3IWF.
    pub fn downlink(&mut self, packet: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let four = addresses(packet).and_then(|(_, to)| self.by_address.get(&to));
        let six = router::addresses(packet).and_then(|(_, to)| self.by_prefix.get(&network(to)));
        let teid = four.or(six).copied();
        let Some(session) = teid.and_then(|teid| self.sessions.get_mut(&teid)) else {
            self.counters.unknown_destination += 1;
            return None;
        };
        if session.downlink.is_none() {
            session.counters.no_tunnel += 1;
        }
        g_pdu(session, packet)
    }

    /// The sessions with their counters.
    #[must_use]
    pub fn status(&self) -> Vec<UpfStatus> {
        self.sessions
            .iter()
            .map(|(teid, session)| UpfStatus {
                uplink_teid: *teid,
                address: session.address,
                downlink: session.downlink,
                counters: session.counters,
            })
            .collect()
    }

    /// The tunnel end of an error indication is no longer one.
    fn disconnect(&mut self, downlink_teid: u32) {
        for session in self.sessions.values_mut() {
            if session
                .downlink
                .is_some_and(|(_, teid)| teid == downlink_teid)
            {
                session.downlink = None;
            }
        }
    }
}

/// The G-PDU for a packet to the UE, which is counted.
fn g_pdu(session: &mut Session, packet: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
    let (address, teid) = session.downlink?;
    let default = session.flows.first();
    let flow = session
        .flows
        .iter()
        .filter(|flow| session.accepted.is_empty() || session.accepted.contains(&flow.qfi))
        .find(|flow| flow.filter.is_some_and(|filter| matches(&filter, packet)))
        .or(default)?;
    let container = PduSessionContainer {
        direction: Direction::Downlink,
        qfi: flow.qfi,
        rqi: flow.reflective,
    };
    let message = encode_g_pdu(teid, container, packet)?;
    session.counters.downlink_packets += 1;
    session.counters.downlink_bytes += packet.len() as u64;
    Some((SocketAddr::new(address, PORT), message))
}

/// Source and destination of an IPv4 packet.
fn addresses(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let header = packet.get(..20)?;
    if header.first()? >> 4 != 4 {
        return None;
    }
    let address = |at: usize| {
        let octets = <[u8; 4]>::try_from(header.get(at..at + 4)?).ok()?;
        Some(Ipv4Addr::from(octets))
    };
    Some((address(12)?, address(16)?))
}

/// Whether a downlink packet is of a filter: the remote end is its source.
fn matches(filter: &FlowFilter, packet: &[u8]) -> bool {
    let Some((source, _)) = addresses(packet) else {
        return false;
    };
    let protocol = packet.get(9).copied();
    let port = || {
        // Ports are at the same place in TCP, UDP and SCTP, and only in the
        // first fragment.
        let first = packet
            .get(6..8)
            .is_some_and(|f| matches!(f, [a, b] if a & 0x1f == 0 && *b == 0));
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let octets = packet.get(header..header + 2).filter(|_| first)?;
        let known = matches!(protocol, Some(6 | 17 | 132));
        <[u8; 2]>::try_from(octets)
            .ok()
            .filter(|_| known)
            .map(u16::from_be_bytes)
    };
    filter.remote.is_none_or(|net| net.contains(&source))
        && filter
            .protocol
            .is_none_or(|wanted| protocol == Some(wanted))
        && filter
            .remote_port
            .is_none_or(|wanted| port() == Some(wanted))
}
