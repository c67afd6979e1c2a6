//! What the control socket shows.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Serialize;

use crate::amf::Amf;
use crate::amf::ue::SessionPhase;
use crate::types::Slice;

/// A subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubscriberStatus {
    /// SUPI.
    pub supi: String,
    /// SQN last used, hexadecimal.
    pub sqn: String,
    /// How often its USIM asked for re-synchronisation.
    pub resynchronisations: u64,
    /// Whether it is registered.
    pub registered: bool,
}

/// A UE's context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UeStatus {
    /// SUPI, once known.
    pub supi: Option<String>,
    /// AMF UE NGAP ID.
    pub amf_ue_ngap_id: u64,
    /// RAN UE NGAP ID.
    pub ran_ue_ngap_id: u32,
    /// What the AMF waits for; `registered` when nothing.
    pub state: &'static str,
    /// The UE's outer address, as the N3IWF reported it.
    pub location: Option<SocketAddr>,
    /// 5G-GUTI.
    pub guti: Option<String>,
    /// IMEISV.
    pub imeisv: Option<String>,
    /// NAS integrity algorithm.
    pub integrity: Option<String>,
    /// NAS ciphering algorithm.
    pub ciphering: Option<String>,
    /// Allowed NSSAI.
    pub allowed: Vec<Slice>,
    /// Whether CONFIGURATION UPDATE COMPLETE came.
    pub configured: bool,
    /// Since when, milliseconds of the AMF's time.
    pub since_ms: u128,
    /// PDU sessions.
    pub sessions: Vec<SessionStatus>,
}

/// A PDU session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionStatus {
    /// PDU session identity.
    pub id: u8,
    /// `setup`, `active` or `release`.
    pub state: &'static str,
    /// Data network.
    pub dnn: String,
    /// Slice.
    pub slice: Slice,
    /// The UE's address.
    pub address: Ipv4Addr,
    /// Our TEID.
    pub uplink_teid: u32,
    /// The N3IWF's address and TEID.
    pub downlink: Option<(IpAddr, u32)>,
    /// QoS flows the N3IWF accepted.
    pub qfis: Vec<u8>,
}

impl Amf {
    /// The subscribers.
    #[must_use]
    pub fn subscriber_status(&self) -> Vec<SubscriberStatus> {
        self.home
            .status()
            .map(|(supi, sqn, resynchronisations)| SubscriberStatus {
                supi: supi.to_owned(),
                sqn: format!("{sqn:012x}"),
                resynchronisations,
                registered: self.registered_ue(supi).is_ok(),
            })
            .collect()
    }

    /// The UEs.
    #[must_use]
    pub fn ue_status(&self) -> Vec<UeStatus> {
        self.ues
            .iter()
            .map(|(id, ue)| UeStatus {
                supi: ue.supi.clone(),
                amf_ue_ngap_id: *id,
                ran_ue_ngap_id: ue.ran_id,
                state: ue.phase.name(),
                location: ue.location.map(SocketAddr::from),
                guti: ue.guti.map(|guti| guti.to_string()),
                imeisv: ue.imeisv.clone(),
                integrity: ue
                    .security
                    .as_ref()
                    .map(|s| format!("{:?}", s.context.integrity_algorithm())),
                ciphering: ue
                    .security
                    .as_ref()
                    .map(|s| format!("{:?}", s.context.ciphering_algorithm())),
                allowed: ue.allowed.clone(),
                configured: ue.configured,
                since_ms: ue.since.as_millis(),
                sessions: ue
                    .sessions
                    .iter()
                    .map(|(id, session)| SessionStatus {
                        id: *id,
                        state: match session.phase {
                            SessionPhase::Setup => "setup",
                            SessionPhase::Active => "active",
                            SessionPhase::Release { .. } => "release",
                        },
                        dnn: session.dnn.clone(),
                        slice: session.slice,
                        address: session.address,
                        uplink_teid: session.uplink_teid,
                        downlink: session.downlink,
                        qfis: session.qfis.clone(),
                    })
                    .collect(),
            })
            .collect()
    }

    /// The SUPI of a UE.
    #[must_use]
    pub fn supi(&self, ue: u64) -> Option<String> {
        self.ues.get(&ue).and_then(|ue| ue.supi.clone())
    }

    /// Associations: peer, node identity, node name.
    #[must_use]
    pub fn associations(&self) -> Vec<(String, Option<u64>, Option<String>)> {
        self.associations
            .values()
            .map(|association| {
                let node = association.node.as_ref();
                (
                    association.peer.clone(),
                    node.map(|node| node.id),
                    node.and_then(|node| node.name.clone()),
                )
            })
            .collect()
    }
}
