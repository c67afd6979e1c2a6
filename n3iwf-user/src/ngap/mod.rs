//! NGAP as an N3IWF speaks it (TS 38.413 within the bounds of TS 29.413): octets to meaning and
//! back. The codec is `oxirush-ngap`; here is which message and which IE matters, and what to
//! answer to the rest.

mod decode;
mod encode;
mod modify;
mod overload;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use dataplane::relay::Ambr;
use keys::Secret;
use nwu::{Guami, Plmn};
pub use oxirush_ngap::ngap::{
    Cause, CauseMisc, CauseNas, CauseProtocol, CauseRadioNetwork, CauseTransport,
};

pub use decode::{Fault, decode};
pub use encode::{
    Node, SessionOutcome, SessionUp, SupportedArea, SupportedPlmn,
    configuration_update_acknowledge, context_release_complete, context_release_request,
    context_setup_failure, context_setup_response, error_indication, initial_ue_message,
    nas_non_delivery, ng_setup_request, reset_acknowledge, session_notify,
    session_release_response, session_setup_response, uplink_nas,
};
pub use modify::{
    FlowRequest, ModifiedFlows, ModifyOutcome, ModifyRequest, ModifyTransfer, TunnelChange,
    context_modification_response, session_modify_response,
};
pub use overload::{Action as OverloadAction, Overload, Restraint, Withdrawn};

/// The pair of identifiers of a UE on N2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UeIds {
    /// AMF-UE-NGAP-ID, 40 bits.
    pub amf: u64,
    /// RAN-UE-NGAP-ID.
    pub ran: u32,
}

/// What an AMF says.
#[derive(Debug)]
pub enum AmfMessage {
    /// NG SETUP RESPONSE.
    NgSetupResponse(AmfInfo),
    /// NG SETUP FAILURE.
    NgSetupFailure {
        /// Why.
        cause: Option<Cause>,
        /// How long to wait before the next attempt.
        wait: Option<Duration>,
    },
    /// DOWNLINK NAS TRANSPORT.
    DownlinkNas {
        /// For whom.
        ue: UeIds,
        /// NAS PDU.
        nas: Vec<u8>,
    },
    /// INITIAL CONTEXT SETUP REQUEST.
    ContextSetup(ContextSetup),
    /// PDU SESSION RESOURCE SETUP REQUEST.
    SessionSetup {
        /// For whom.
        ue: UeIds,
        /// NAS PDU of the message itself, for the UE whatever becomes of the sessions.
        nas: Option<Vec<u8>>,
        /// UE-AMBR, if it changes.
        ue_ambr: Option<Ambr>,
        /// The sessions.
        sessions: Vec<SessionRequest>,
    },
    /// PDU SESSION RESOURCE MODIFY REQUEST.
    SessionModify {
        /// For whom.
        ue: UeIds,
        /// The sessions.
        sessions: Vec<ModifyRequest>,
    },
    /// UE CONTEXT MODIFICATION REQUEST: what is `None` stays.
    ContextModification {
        /// For whom.
        ue: UeIds,
        /// UE-AMBR.
        ue_ambr: Option<Ambr>,
        /// AMF-UE-NGAP-ID from now on.
        new_amf: Option<u64>,
    },
    /// PDU SESSION RESOURCE RELEASE COMMAND.
    SessionRelease {
        /// For whom.
        ue: UeIds,
        /// NAS PDU for the UE.
        nas: Option<Vec<u8>>,
        /// PDU session IDs.
        sessions: Vec<u8>,
    },
    /// UE CONTEXT RELEASE COMMAND; the AMF may know no RAN-UE-NGAP-ID yet.
    ContextRelease {
        /// AMF-UE-NGAP-ID.
        amf: u64,
        /// RAN-UE-NGAP-ID.
        ran: Option<u32>,
        /// Why.
        cause: Option<Cause>,
    },
    /// ERROR INDICATION.
    ErrorIndication {
        /// AMF-UE-NGAP-ID, if it is about a UE.
        amf: Option<u64>,
        /// RAN-UE-NGAP-ID, if it is about a UE.
        ran: Option<u32>,
        /// Why.
        cause: Option<Cause>,
    },
    /// NG RESET.
    Reset(ResetScope),
    /// NG RESET ACKNOWLEDGE.
    ResetAcknowledge,
    /// AMF CONFIGURATION UPDATE: what is `None` stays.
    ConfigurationUpdate {
        /// AMF name.
        name: Option<String>,
        /// Served GUAMIs, and who takes over from them.
        guamis: Option<(Vec<Guami>, Backups)>,
        /// Supported PLMNs.
        plmns: Option<Vec<Plmn>>,
        /// Relative AMF capacity.
        capacity: Option<u8>,
    },
    /// OVERLOAD START.
    OverloadStart(Overload),
    /// OVERLOAD STOP, for these GUAMIs; none: for all.
    OverloadStop(Vec<Guami>),
    /// AMF STATUS INDICATION: GUAMIs that go out of service.
    Withdrawn(Vec<Withdrawn>),
    /// Understood, and of no consequence for a non-3GPP node yet.
    Noted(&'static str),
}

/// Names of the AMFs that take over, by GUAMI.
pub type Backups = Vec<(Guami, String)>;

/// What an AMF serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AmfInfo {
    /// AMF name.
    pub name: String,
    /// Served GUAMIs.
    pub guamis: Vec<Guami>,
    /// Who takes over from it.
    pub backups: Backups,
    /// Supported PLMNs.
    pub plmns: Vec<Plmn>,
    /// Relative AMF capacity, 0 to 255.
    pub capacity: u8,
}

/// INITIAL CONTEXT SETUP REQUEST.
pub struct ContextSetup {
    /// For whom.
    pub ue: UeIds,
    /// K_N3IWF.
    pub key: Secret,
    /// NAS PDU, delivered once the signalling Child SA is up.
    pub nas: Option<Vec<u8>>,
    /// UE-AMBR.
    pub ue_ambr: Option<Ambr>,
    /// PDU sessions to set up at once.
    pub sessions: Vec<SessionRequest>,
}

impl fmt::Debug for ContextSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextSetup")
            .field("ue", &self.ue)
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

/// One PDU session of a setup request.
#[derive(Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// PDU session ID.
    pub id: u8,
    /// NAS PDU, forwarded after the Child SA exists and only then.
    pub nas: Option<Vec<u8>>,
    /// The transfer, or why it cannot be followed.
    pub transfer: Result<SetupTransfer, Cause>,
}

/// PDUSessionResourceSetupRequestTransfer (TS 38.413, 9.3.4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupTransfer {
    /// The UPF's N3 addresses.
    pub upf: TransportAddress,
    /// The TEID uplink packets carry.
    pub ul_teid: u32,
    /// QoS flows, in the SMF's order; never empty. The first is the default.
    pub flows: Vec<QosFlow>,
    /// Session-AMBR.
    pub ambr: Option<Ambr>,
    /// Whether a Security Indication came, which wants a Security Result.
    pub security_indicated: bool,
}

/// A Transport Layer Address (TS 38.414, 5.1): 32 bits of IPv4, 128 of IPv6, or 160 of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportAddress {
    /// Of one IP version.
    One(IpAddr),
    /// Of both; whoever sends to it chooses.
    Both(Ipv4Addr, Ipv6Addr),
}

impl TransportAddress {
    /// The one to reach from `ours`, if there is one of its IP version.
    pub fn reached_from(self, ours: IpAddr) -> Option<IpAddr> {
        match (self, ours) {
            (Self::One(address), _) => (address.is_ipv4() == ours.is_ipv4()).then_some(address),
            (Self::Both(v4, _), IpAddr::V4(_)) => Some(v4.into()),
            (Self::Both(_, v6), IpAddr::V6(_)) => Some(v6.into()),
        }
    }
}

/// A QoS flow of a PDU session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QosFlow {
    /// QoS flow identifier, 0..63.
    pub qfi: u8,
    /// 5G QoS identifier (TS 23.501, 5.7.4), if it has one.
    pub five_qi: Option<u8>,
    /// It has a guaranteed bit rate.
    pub gbr: bool,
}

/// What NG RESET is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResetScope {
    /// Every UE of the association.
    All,
    /// The listed ones.
    Part(Vec<(Option<u64>, Option<u32>)>),
}

/// A cause in the words of TS 38.413.
pub fn cause_text(cause: &Cause) -> String {
    let text = match cause {
        Cause::radioNetwork(cause) => format!("radio network: {cause:?}"),
        Cause::transport(cause) => format!("transport: {cause:?}"),
        Cause::nas(cause) => format!("NAS: {cause:?}"),
        Cause::protocol(cause) => format!("protocol: {cause:?}"),
        Cause::misc(cause) => format!("misc: {cause:?}"),
        _ => "unknown".to_owned(),
    };
    text.replace('_', " ")
}
