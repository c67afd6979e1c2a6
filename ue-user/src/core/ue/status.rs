//! A picture of the UE for `uectl`, without any key.

use std::{collections::BTreeMap, net::IpAddr};

use daemon::timeline::Row;
use ike::Instant;
use serde::{Deserialize, Serialize};

use super::{State, Ue};

/// Where the UE stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// How far it is.
    pub state: State,
    /// The subscriber.
    pub supi: String,
    /// The 5G-GUTI, once given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub guti: Option<String>,
    /// Key modes offered, best first.
    pub modes: Vec<String>,
    /// The policy in force: `require-qkd`, `prefer-qkd`, `no-qkd`.
    pub policy: String,
    /// NAS ciphering and integrity algorithms in use.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nas_security: Option<(String, String)>,
    /// Inner address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inner_address: Option<IpAddr>,
    /// Why the last attach failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_failure: Option<String>,
    /// Time to the next attach, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_in_ms: Option<u64>,
    /// Attaches that failed in a row.
    pub failures: u32,
    /// The phases of the last attach.
    pub timeline: Vec<Row>,
    /// The IKE SA, if there is one.
    pub ike: Vec<IkeRow>,
    /// PDU sessions.
    pub sessions: Vec<SessionRow>,
}

/// An IKE SA.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IkeRow {
    /// The engine's number.
    pub id: u64,
    /// `CONNECTING`, `ESTABLISHED` or `DELETING`.
    pub state: String,
    /// Initiator's SPI, 16 hexadecimal digits.
    pub spi_i: String,
    /// Responder's SPI.
    pub spi_r: String,
    /// Our end.
    pub local: String,
    /// The N3IWF's end.
    pub remote: String,
    /// The N3IWF's SAE ID.
    pub peer_sae: Option<String>,
    /// Key mode and profile.
    pub mode: String,
    /// Key exchange method; none where the keys are QKD keys.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key_exchange: Option<String>,
    /// From what modes the attach fell back to what, and why, if it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fallback: Option<String>,
    /// Algorithms.
    pub suite: Option<String>,
    /// Age in seconds since it was established.
    pub established_s: Option<u64>,
    /// QKD keys in it, in order of use.
    pub key_ids: Vec<String>,
    /// Keys fetched and not used yet.
    pub held_keys: usize,
    /// Own requests sent again.
    pub retransmits: u64,
    /// Whether there is a NAT on either side.
    pub nat: bool,
    /// Whether it survives a change of this host's address (MOBIKE).
    pub mobike: bool,
    /// Child SAs.
    pub children: Vec<ChildRow>,
}

/// A Child SA.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildRow {
    /// The engine's number, the data plane's too.
    pub id: u64,
    /// Our SPI, 8 hexadecimal digits.
    pub spi_in: String,
    /// The N3IWF's SPI.
    pub spi_out: String,
    /// Algorithms.
    pub suite: Option<String>,
    /// `signalling`, or the PDU session.
    pub carries: String,
    /// Whether it is installed and agreed.
    pub up: bool,
    /// Age in seconds.
    pub up_s: Option<u64>,
    /// Number of the XFRM interface.
    pub slot: Option<u32>,
    /// QKD keys in it.
    pub key_ids: Vec<String>,
}

/// A PDU session.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRow {
    /// PDU session identity.
    pub id: u8,
    /// Whether its interface is up.
    pub up: bool,
    /// The UE's IPv4 address.
    pub address: Option<String>,
    /// With IPv6: interface identifier of its link-local address, as `0:1:203:405`.
    #[serde(default)]
    pub interface_id: Option<String>,
    /// QFIs of its QoS rules.
    pub qfis: Vec<u8>,
    /// QFI of the default rule.
    pub default_qfi: Option<u8>,
    /// The data network.
    pub dnn: Option<String>,
    /// The slice, as `1-010203`.
    pub s_nssai: Option<String>,
    /// MTU of the interface.
    pub mtu: Option<u16>,
    /// DNS servers the network named.
    pub dns: Vec<String>,
    /// Session AMBR in kbit/s, downlink and uplink.
    pub ambr_kbps: Option<(u64, u64)>,
    /// Why it is not up.
    pub failure: Option<String>,
}

/// The UE in numbers.
#[derive(Debug, Clone)]
pub struct Census {
    /// How far it is.
    pub state: State,
    /// Attaches that failed in a row.
    pub failures: u32,
    /// PDU sessions wanted.
    pub sessions: usize,
    /// Those with an interface that is up.
    pub sessions_up: usize,
    /// IKE SAs and Child SAs.
    pub ike: ike::Census,
    /// IKE messages so far.
    pub messages: ike::Counters,
}

impl Ue {
    /// Keys in IKE SAs that have keyed nothing yet.
    pub fn keys_held(&self) -> usize {
        self.endpoint.keys_held()
    }

    /// All IKE SAs.
    pub fn sas(&self) -> impl Iterator<Item = ike::SaStatus> {
        self.endpoint.sas()
    }

    /// Whether the Child SA of this number is one the data plane has, gets or loses.
    pub fn knows_child(&self, child: u64) -> bool {
        let link = self.link.as_ref();
        link.is_some_and(|link| link.children.keys().any(|id| id.number() == child))
    }

    /// The UE in numbers.
    pub fn census(&self) -> Census {
        let sessions = self.link.as_ref().map(|link| &link.sessions);
        let up = |session: &&super::Session| session.up;
        Census {
            state: self.state(),
            failures: self.failures,
            sessions: sessions.map_or(0, BTreeMap::len),
            sessions_up: sessions.map_or(0, |all| all.values().filter(up).count()),
            ike: self.endpoint.census(),
            messages: *self.endpoint.counters(),
        }
    }

    /// The phases of the last attach.
    pub fn timeline(&self) -> Vec<Row> {
        self.timeline.rows()
    }

    /// Where the UE stands.
    pub fn status(&self, now: Instant) -> Status {
        let link = self.link.as_ref();
        let algorithms = self.nas.algorithms();
        let ms = |at: Instant| u64::try_from(at.duration_since(now).as_millis()).unwrap_or(0);
        let sessions = link.map(|link| link.sessions.iter().map(session_row).collect());
        Status {
            state: self.state(),
            supi: format!("imsi-{}", self.nas.imsi()),
            guti: self.nas.guti().map(ToString::to_string),
            modes: self.modes().iter().map(ToString::to_string).collect(),
            policy: self.config.offer.policy.to_string(),
            nas_security: algorithms.map(|(nea, nia)| (nea.to_owned(), nia.to_owned())),
            inner_address: link.and_then(|link| link.inner),
            last_failure: self.last_failure.as_ref().map(ToString::to_string),
            retry_in_ms: self.retry_at.map(ms),
            failures: self.failures,
            timeline: self.timeline.rows(),
            ike: self
                .endpoint
                .sas()
                .map(|sa| self.ike_row(now, &sa))
                .collect(),
            sessions: sessions.unwrap_or_default(),
        }
    }

    pub(super) fn modes(&self) -> Vec<ike::Mode> {
        let offer = &self.config.offer;
        offer.policy.order(&offer.modes)
    }

    fn ike_row(&self, now: Instant, sa: &ike::SaStatus) -> IkeRow {
        let age = |since: Instant| now.duration_since(since).as_secs();
        let ids = |ids: &[keys::KeyId]| ids.iter().map(ToString::to_string).collect();
        let placed = self.link.as_ref().map(|link| &link.children);
        let child = |child: &ike::ChildStatus| {
            let placed = placed.and_then(|children| children.get(&child.id));
            ChildRow {
                id: child.id.number(),
                spi_in: format!("{:08x}", child.spi_in),
                spi_out: format!("{:08x}", child.spi_out),
                suite: child.suite.map(|suite| suite.to_string()),
                carries: match placed.and_then(|child| child.pdu_session) {
                    None => "signalling".to_owned(),
                    Some(id) => format!("PDU session {id}"),
                },
                up: child.up,
                up_s: child.since.map(age),
                slot: placed.map(|child| child.slot),
                key_ids: ids(&child.key_ids),
            }
        };
        IkeRow {
            id: sa.id.number(),
            state: format!("{:?}", sa.state).to_uppercase(),
            spi_i: format!("{:016x}", sa.spi_i),
            spi_r: format!("{:016x}", sa.spi_r),
            local: sa.path.local.to_string(),
            remote: sa.path.remote.to_string(),
            peer_sae: sa.peer_sae.as_ref().map(ToString::to_string),
            mode: sa.mode.to_string(),
            key_exchange: sa.suite.and_then(|suite| suite.ke).map(|ke| ke.to_string()),
            fallback: self
                .link
                .as_ref()
                .filter(|link| link.sa == sa.id)
                .and_then(|link| link.fallback.clone()),
            suite: sa.suite.map(|suite| suite.to_string()),
            established_s: sa.established.map(age),
            key_ids: ids(&sa.key_ids),
            held_keys: sa.held_keys,
            retransmits: sa.retransmits,
            nat: sa.nat_local || sa.nat_remote,
            mobike: sa.mobike,
            children: sa.children.iter().map(child).collect(),
        }
    }
}

fn session_row((&id, session): (&u8, &super::Session)) -> SessionRow {
    let accept = session.accept.as_ref();
    let slice = accept.and_then(|accept| accept.s_nssai);
    SessionRow {
        id,
        up: session.up,
        address: accept.and_then(|accept| Some(accept.address?.to_string())),
        interface_id: accept.and_then(|accept| {
            let [a, b, c, d] = accept.interface_id?.as_chunks::<2>().0.try_into().ok()?;
            let group = |octets: [u8; 2]| format!("{:x}", u16::from_be_bytes(octets));
            Some([a, b, c, d].map(group).join(":"))
        }),
        qfis: accept.map(|accept| accept.rules.qfis()).unwrap_or_default(),
        default_qfi: accept.map(|accept| accept.rules.default_qfi()),
        dnn: accept.and_then(|accept| accept.dnn.clone()),
        s_nssai: slice.map(|slice| match slice.sd {
            Some([a, b, c]) => format!("{}-{a:02x}{b:02x}{c:02x}", slice.sst),
            None => slice.sst.to_string(),
        }),
        mtu: session.interface.as_ref().map(|interface| interface.mtu),
        dns: accept
            .map(|accept| accept.dns.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        ambr_kbps: accept.and_then(|accept| accept.ambr_kbps),
        failure: session.failure.clone(),
    }
}
