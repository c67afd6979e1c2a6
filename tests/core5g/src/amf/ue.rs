//! One UE's context in the AMF.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use oxirush_nas::nas_5gs::{
    KAmf, NasRegistrationRequest, NasSecurityContext, NasUeSecurityCapability,
};

use crate::amf::AssociationId;
use crate::config::FlowConfig;
use crate::home::Challenge;
use crate::ngap::UeIds;
use crate::types::Slice;

/// What the AMF waits for.
pub(crate) enum Phase {
    /// IDENTITY RESPONSE.
    Identify,
    /// AUTHENTICATION RESPONSE.
    Authenticate(Box<Challenge>),
    /// SECURITY MODE COMPLETE.
    Secure,
    /// INITIAL CONTEXT SETUP RESPONSE.
    Context,
    /// REGISTRATION COMPLETE.
    Accept,
    /// Nothing: registered.
    Registered,
    /// DEREGISTRATION ACCEPT.
    Deregister,
    /// UE CONTEXT RELEASE COMPLETE.
    Release,
}

impl Phase {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Identify => "identification",
            Self::Authenticate(_) => "authentication",
            Self::Secure => "security-mode",
            Self::Context => "context-setup",
            Self::Accept => "registration-accept",
            Self::Registered => "registered",
            Self::Deregister => "deregistration",
            Self::Release => "release",
        }
    }
}

/// NAS security in use, or offered by SECURITY MODE COMMAND.
pub(crate) struct Security {
    pub(crate) context: NasSecurityContext,
    pub(crate) k_amf: KAmf,
}

pub(crate) struct Ue {
    pub(crate) association: AssociationId,
    pub(crate) stream: u16,
    pub(crate) ran_id: u32,
    pub(crate) phase: Phase,
    pub(crate) guard: Option<Duration>,
    /// When its last message goes out, for the order of delayed ones.
    pub(crate) last_sent: Duration,
    pub(crate) since: Duration,
    /// The UE's outer address, as the N3IWF sees it.
    pub(crate) location: Option<(IpAddr, u16)>,
    pub(crate) supi: Option<String>,
    pub(crate) request: Option<NasRegistrationRequest>,
    pub(crate) capability: Option<NasUeSecurityCapability>,
    pub(crate) ksi: u8,
    pub(crate) resynchronised: bool,
    pub(crate) security: Option<Security>,
    pub(crate) allowed: Vec<Slice>,
    pub(crate) rejected: Vec<Slice>,
    pub(crate) guti: Option<oxirush_nas::nas_5gs::Guti>,
    pub(crate) imeisv: Option<String>,
    pub(crate) configured: bool,
    pub(crate) sessions: BTreeMap<u8, Session>,
}

impl Ue {
    pub(crate) fn new(association: AssociationId, stream: u16, ran_id: u32, now: Duration) -> Self {
        Self {
            association,
            stream,
            ran_id,
            phase: Phase::Identify,
            guard: None,
            last_sent: Duration::ZERO,
            since: now,
            location: None,
            supi: None,
            request: None,
            capability: None,
            ksi: 0,
            resynchronised: false,
            security: None,
            allowed: Vec::new(),
            rejected: Vec::new(),
            guti: None,
            imeisv: None,
            configured: false,
            sessions: BTreeMap::new(),
        }
    }

    pub(crate) fn ids(&self, amf: u64) -> UeIds {
        UeIds {
            amf,
            ran: self.ran_id,
        }
    }
}

/// What a PDU session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionPhase {
    /// PDU SESSION RESOURCE SETUP RESPONSE.
    Setup,
    /// Nothing.
    Active,
    /// The end of a release: the N3IWF's response, the UE's completion.
    Release {
        /// The N3IWF has answered.
        n3iwf: bool,
        /// The UE has answered.
        ue: bool,
    },
}

pub(crate) struct Session {
    pub(crate) phase: SessionPhase,
    pub(crate) pti: u8,
    pub(crate) dnn: String,
    pub(crate) slice: Slice,
    pub(crate) address: Ipv4Addr,
    pub(crate) uplink_teid: u32,
    pub(crate) downlink: Option<(IpAddr, u32)>,
    pub(crate) qfis: Vec<u8>,
    /// Its flows, each with the identifier of its QoS rule; the first one is the default flow.
    pub(crate) flows: Vec<(u8, FlowConfig)>,
    /// What the flows become when the N3IWF agrees.
    pub(crate) change: Option<Vec<(u8, FlowConfig)>>,
    /// A request for the same identity, which waits for the old session's end.
    pub(crate) next: Option<Box<crate::amf::session::Request>>,
}
