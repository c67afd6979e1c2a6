//! To the AMF.

use std::net::{IpAddr, SocketAddr};

use nwu::{EstablishmentCause, Guami, Plmn};
use oxirush_ngap::{
    BitString, Bits, Error, build_ngap, build_ngap_ie,
    helpers::{plmn as plmn_identity, s_nssai},
    ngap::{
        AMFSetID, AMFUENGAPID, AssociatedQosFlowItem, AssociatedQosFlowList, BroadcastPLMNItem,
        BroadcastPLMNList, Cause, ConfidentialityProtectionResult, CriticalityDiagnostics, GTPTEID,
        GTPTunnel, GlobalN3IWFID, GlobalRANNodeID, IntegrityProtectionResult, N3IWFID, NGAP_PDU,
        PDUSessionID, PDUSessionResourceFailedToSetupItemCxtRes,
        PDUSessionResourceFailedToSetupItemSURes, PDUSessionResourceFailedToSetupListCxtRes,
        PDUSessionResourceFailedToSetupListSURes, PDUSessionResourceItemCxtRelCpl,
        PDUSessionResourceListCxtRelCpl, PDUSessionResourceNotifyReleasedTransfer,
        PDUSessionResourceReleaseResponseTransfer, PDUSessionResourceReleasedItemNot,
        PDUSessionResourceReleasedItemRelRes, PDUSessionResourceReleasedListNot,
        PDUSessionResourceReleasedListRelRes, PDUSessionResourceSetupItemCxtRes,
        PDUSessionResourceSetupItemSURes, PDUSessionResourceSetupListCxtRes,
        PDUSessionResourceSetupListSURes, PDUSessionResourceSetupResponseTransfer,
        PDUSessionResourceSetupUnsuccessfulTransfer, PLMNIdentity, PagingDRX, PortNumber,
        QosFlowIdentifier, QosFlowPerTNLInformation, RANUENGAPID, RRCEstablishmentCause,
        SecurityResult, SliceSupportItem, SliceSupportList, SupportedTAItem, SupportedTAList, TAC,
        TransportLayerAddress, UEAssociatedLogicalNGConnectionItem,
        UEAssociatedLogicalNGConnectionList, UEContextRequest, UPTransportLayerInformation,
        UserLocationInformation, UserLocationInformationN3IWFWithPortNumber, encode_open_type,
    },
};

use super::UeIds;

/// The N3IWF towards an AMF: what NG SETUP REQUEST says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The PLMN the N3IWF ID belongs to.
    pub plmn: Plmn,
    /// N3IWF ID, 16 bits.
    pub id: u16,
    /// RAN node name; empty: none.
    pub name: String,
    /// Tracking areas.
    pub areas: Vec<SupportedArea>,
}

/// One tracking area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupportedArea {
    /// Tracking area code.
    pub tac: [u8; 3],
    /// What it broadcasts, so to speak.
    pub plmns: Vec<SupportedPlmn>,
}

/// One PLMN of a tracking area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupportedPlmn {
    /// Which.
    pub plmn: Plmn,
    /// Its slices: SST and SD.
    pub slices: Vec<(u8, Option<[u8; 3]>)>,
}

/// What became of one PDU session of a setup request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOutcome {
    /// PDU session ID.
    pub id: u8,
    /// How it ended.
    pub result: Result<SessionUp, Cause>,
}

/// A PDU session that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionUp {
    /// Our N3 address.
    pub address: IpAddr,
    /// The TEID downlink packets shall carry.
    pub dl_teid: u32,
    /// QFIs accepted.
    pub qfis: Vec<u8>,
    /// Whether to tell the Security Result: ESP protects both ways.
    pub security_result: bool,
}

/// NG SETUP REQUEST (TS 38.413, 9.2.6.1).
pub fn ng_setup_request(node: &Node) -> Result<Vec<u8>, Error> {
    let id = GlobalN3IWFID::new(
        identity(node.plmn)?,
        N3IWFID::n3IWF_ID(Bits::from(node.id)),
        None,
    );
    let areas = node
        .areas
        .iter()
        .map(|area| {
            let plmns = area
                .plmns
                .iter()
                .map(|served| {
                    let slices = served
                        .slices
                        .iter()
                        .map(|(sst, sd)| SliceSupportItem::new(s_nssai(*sst, *sd), None))
                        .collect();
                    Ok(BroadcastPLMNItem::new(
                        identity(served.plmn)?,
                        SliceSupportList(slices),
                        None,
                    ))
                })
                .collect::<Result<_, Error>>()?;
            Ok(SupportedTAItem::new(
                TAC(area.tac),
                BroadcastPLMNList(plmns),
                None,
            ))
        })
        .collect::<Result<_, Error>>()?;
    // The paging DRX is mandatory and means nothing to a node that never pages.
    let pdu = if node.name.is_empty() {
        build_ngap!(
            InitiatingMessage,
            NGSetup,
            NGSetupRequest,
            GlobalRANNodeID(GlobalRANNodeID::globalN3IWF_ID(id)),
            SupportedTAList(SupportedTAList(areas)),
            DefaultPagingDRX(PagingDRX::v128),
        )?
    } else {
        build_ngap!(
            InitiatingMessage,
            NGSetup,
            NGSetupRequest,
            GlobalRANNodeID(GlobalRANNodeID::globalN3IWF_ID(id)),
            RANNodeName(node.name.as_str()),
            SupportedTAList(SupportedTAList(areas)),
            DefaultPagingDRX(PagingDRX::v128),
        )?
    };
    pdu.encode()
}

/// INITIAL UE MESSAGE (TS 38.413, 9.2.5.1): the UE's outer address as its location, and the
/// request for a context, without which no K_N3IWF would come.
pub fn initial_ue_message(
    ran: u32,
    nas: &[u8],
    location: SocketAddr,
    cause: Option<EstablishmentCause>,
    guami: Option<&Guami>,
    plmn: Option<Plmn>,
) -> Result<Vec<u8>, Error> {
    let mut pdu = build_ngap!(
        InitiatingMessage,
        InitialUEMessage,
        InitialUEMessage,
        RAN_UE_NGAP_ID(ran),
        NAS_PDU(nas.to_vec()),
        UserLocationInformation(user_location(location)),
        RRCEstablishmentCause(establishment_cause(cause)),
    )?;
    let mut ies = pdu.protocol_ies()?.into_owned();
    if let Some(guami) = guami {
        let set = AMFSetID(Bits::new(guami.set.into(), 10)?);
        ies.0
            .push(build_ngap_ie!(InitialUEMessage, IGNORE AMFSetID(set))?);
    }
    ies.0.push(
        build_ngap_ie!(InitialUEMessage, IGNORE UEContextRequest(UEContextRequest::requested))?,
    );
    if let Some(plmn) = plmn {
        ies.0
            .push(build_ngap_ie!(InitialUEMessage, IGNORE SelectedPLMNIdentity(identity(plmn)?))?);
    }
    pdu.set_protocol_ies(ies)?;
    pdu.encode()
}

/// UPLINK NAS TRANSPORT (TS 38.413, 9.2.5.3).
pub fn uplink_nas(ue: UeIds, nas: &[u8], location: SocketAddr) -> Result<Vec<u8>, Error> {
    build_ngap!(
        InitiatingMessage,
        UplinkNASTransport,
        UplinkNASTransport,
        AMF_UE_NGAP_ID(ue.amf),
        RAN_UE_NGAP_ID(ue.ran),
        NAS_PDU(nas.to_vec()),
        UserLocationInformation(user_location(location)),
    )?
    .encode()
}

/// NAS NON DELIVERY INDICATION (TS 38.413, 9.2.5.4).
pub fn nas_non_delivery(ue: UeIds, nas: &[u8], cause: Cause) -> Result<Vec<u8>, Error> {
    build_ngap!(
        InitiatingMessage,
        NASNonDeliveryIndication,
        NASNonDeliveryIndication,
        AMF_UE_NGAP_ID(ue.amf),
        RAN_UE_NGAP_ID(ue.ran),
        NAS_PDU(nas.to_vec()),
        Cause(cause),
    )?
    .encode()
}

/// INITIAL CONTEXT SETUP RESPONSE (TS 38.413, 9.2.2.2).
pub fn context_setup_response(ue: UeIds, sessions: &[SessionOutcome]) -> Result<Vec<u8>, Error> {
    let (mut up, mut failed) = (Vec::new(), Vec::new());
    for session in sessions {
        let id = PDUSessionID(session.id);
        match &session.result {
            Ok(session) => up.push(PDUSessionResourceSetupItemCxtRes::new(
                id,
                setup_transfer(session)?.into(),
                None,
            )),
            Err(cause) => failed.push(PDUSessionResourceFailedToSetupItemCxtRes::new(
                id,
                unsuccessful_transfer(cause)?.into(),
                None,
            )),
        }
    }
    let mut pdu = build_ngap!(
        SuccessfulOutcome,
        InitialContextSetup,
        InitialContextSetupResponse,
        AMF_UE_NGAP_ID(ue.amf),
        RAN_UE_NGAP_ID(ue.ran),
    )?;
    let mut ies = pdu.protocol_ies()?.into_owned();
    if !up.is_empty() {
        ies.0
            .push(build_ngap_ie!(InitialContextSetupResponse, IGNORE
            PDUSessionResourceSetupListCxtRes(PDUSessionResourceSetupListCxtRes(up)))?);
    }
    if !failed.is_empty() {
        ies.0.push(build_ngap_ie!(InitialContextSetupResponse, IGNORE
            PDUSessionResourceFailedToSetupListCxtRes(PDUSessionResourceFailedToSetupListCxtRes(failed)))?);
    }
    pdu.set_protocol_ies(ies)?;
    pdu.encode()
}

/// INITIAL CONTEXT SETUP FAILURE (TS 38.413, 9.2.2.3).
pub fn context_setup_failure(ue: UeIds, cause: Cause) -> Result<Vec<u8>, Error> {
    build_ngap!(
        UnsuccessfulOutcome,
        InitialContextSetup,
        InitialContextSetupFailure,
        AMF_UE_NGAP_ID(ue.amf),
        RAN_UE_NGAP_ID(ue.ran),
        Cause(cause),
    )?
    .encode()
}

/// PDU SESSION RESOURCE SETUP RESPONSE (TS 38.413, 9.2.1.2).
pub fn session_setup_response(ue: UeIds, sessions: &[SessionOutcome]) -> Result<Vec<u8>, Error> {
    let (mut up, mut failed) = (Vec::new(), Vec::new());
    for session in sessions {
        let id = PDUSessionID(session.id);
        match &session.result {
            Ok(session) => up.push(PDUSessionResourceSetupItemSURes::new(
                id,
                setup_transfer(session)?.into(),
                None,
            )),
            Err(cause) => failed.push(PDUSessionResourceFailedToSetupItemSURes::new(
                id,
                unsuccessful_transfer(cause)?.into(),
                None,
            )),
        }
    }
    let mut pdu = build_ngap!(
        SuccessfulOutcome,
        PDUSessionResourceSetup,
        PDUSessionResourceSetupResponse,
        AMF_UE_NGAP_ID(ue.amf),
        RAN_UE_NGAP_ID(ue.ran),
    )?;
    let mut ies = pdu.protocol_ies()?.into_owned();
    if !up.is_empty() {
        ies.0
            .push(build_ngap_ie!(PDUSessionResourceSetupResponse, IGNORE
            PDUSessionResourceSetupListSURes(PDUSessionResourceSetupListSURes(up)))?);
    }
    if !failed.is_empty() {
        ies.0.push(build_ngap_ie!(PDUSessionResourceSetupResponse, IGNORE
            PDUSessionResourceFailedToSetupListSURes(PDUSessionResourceFailedToSetupListSURes(failed)))?);
    }
    pdu.set_protocol_ies(ies)?;
    pdu.encode()
}

/// PDU SESSION RESOURCE RELEASE RESPONSE (TS 38.413, 9.2.1.4).
pub fn session_release_response(ue: UeIds, sessions: &[u8]) -> Result<Vec<u8>, Error> {
    let transfer = encode_open_type(&PDUSessionResourceReleaseResponseTransfer::new(None))?;
    let list = sessions
        .iter()
        .map(|id| {
            PDUSessionResourceReleasedItemRelRes::new(
                PDUSessionID(*id),
                transfer.to_vec().into(),
                None,
            )
        })
        .collect();
    build_ngap!(
        SuccessfulOutcome,
        PDUSessionResourceRelease,
        PDUSessionResourceReleaseResponse,
        AMF_UE_NGAP_ID(ue.amf),
        RAN_UE_NGAP_ID(ue.ran),
        PDUSessionResourceReleasedListRelRes(PDUSessionResourceReleasedListRelRes(list)),
    )?
    .encode()
}

/// PDU SESSION RESOURCE NOTIFY with released sessions (TS 38.413, 9.2.1.7): the UE gave them up.
pub fn session_notify(ue: UeIds, sessions: &[u8], cause: &Cause) -> Result<Vec<u8>, Error> {
    let transfer = encode_open_type(&PDUSessionResourceNotifyReleasedTransfer::new(
        cause.clone(),
        None,
    ))?;
    let list = sessions
        .iter()
        .map(|id| {
            PDUSessionResourceReleasedItemNot::new(
                PDUSessionID(*id),
                transfer.to_vec().into(),
                None,
            )
        })
        .collect();
    build_ngap!(
        InitiatingMessage,
        PDUSessionResourceNotify,
        PDUSessionResourceNotify,
        AMF_UE_NGAP_ID(ue.amf),
        RAN_UE_NGAP_ID(ue.ran),
        PDUSessionResourceReleasedListNot(PDUSessionResourceReleasedListNot(list)),
    )?
    .encode()
}

/// UE CONTEXT RELEASE REQUEST (TS 38.413, 9.2.2.4).
pub fn context_release_request(ue: UeIds, cause: Cause) -> Result<Vec<u8>, Error> {
    build_ngap!(
        InitiatingMessage,
        UEContextReleaseRequest,
        UEContextReleaseRequest,
        AMF_UE_NGAP_ID(ue.amf),
        RAN_UE_NGAP_ID(ue.ran),
        Cause(cause),
    )?
    .encode()
}

/// UE CONTEXT RELEASE COMPLETE (TS 38.413, 9.2.2.6) with the PDU sessions that went with it.
pub fn context_release_complete(ue: UeIds, sessions: &[u8]) -> Result<Vec<u8>, Error> {
    let mut pdu = build_ngap!(
        SuccessfulOutcome,
        UEContextRelease,
        UEContextReleaseComplete,
        AMF_UE_NGAP_ID(ue.amf),
        RAN_UE_NGAP_ID(ue.ran),
    )?;
    if !sessions.is_empty() {
        let list = sessions
            .iter()
            .map(|id| PDUSessionResourceItemCxtRelCpl::new(PDUSessionID(*id), None))
            .collect();
        let mut ies = pdu.protocol_ies()?.into_owned();
        ies.0.push(build_ngap_ie!(UEContextReleaseComplete, REJECT
            PDUSessionResourceListCxtRelCpl(PDUSessionResourceListCxtRelCpl(list)))?);
        pdu.set_protocol_ies(ies)?;
    }
    pdu.encode()
}

/// NG RESET ACKNOWLEDGE (TS 38.413, 9.2.6.12): the list of a partial reset comes back.
pub fn reset_acknowledge(part: &[(Option<u64>, Option<u32>)]) -> Result<Vec<u8>, Error> {
    let mut pdu = build_ngap!(SuccessfulOutcome, NGReset, NGResetAcknowledge,)?;
    if !part.is_empty() {
        let list = part
            .iter()
            .map(|(amf, ran)| {
                UEAssociatedLogicalNGConnectionItem::new(
                    amf.map(AMFUENGAPID),
                    ran.map(RANUENGAPID),
                    None,
                )
            })
            .collect();
        let mut ies = pdu.protocol_ies()?.into_owned();
        ies.0.push(build_ngap_ie!(NGResetAcknowledge, IGNORE
            UE_associatedLogicalNG_connectionList(UEAssociatedLogicalNGConnectionList(list)))?);
        pdu.set_protocol_ies(ies)?;
    }
    pdu.encode()
}

/// AMF CONFIGURATION UPDATE ACKNOWLEDGE (TS 38.413, 9.2.6.8).
pub fn configuration_update_acknowledge() -> Result<Vec<u8>, Error> {
    build_ngap!(
        SuccessfulOutcome,
        AMFConfigurationUpdate,
        AMFConfigurationUpdateAcknowledge,
    )?
    .encode()
}

/// ERROR INDICATION (TS 38.413, 9.2.7.1) about a UE, or about none.
pub fn error_indication(
    amf: Option<u64>,
    ran: Option<u32>,
    cause: Cause,
) -> Result<Vec<u8>, Error> {
    error_indication_with(amf, ran, cause, None)
}

pub(super) fn error_indication_with(
    amf: Option<u64>,
    ran: Option<u32>,
    cause: Cause,
    diagnostics: Option<CriticalityDiagnostics>,
) -> Result<Vec<u8>, Error> {
    let mut pdu: NGAP_PDU = build_ngap!(InitiatingMessage, ErrorIndication, ErrorIndication,)?;
    let mut ies = pdu.protocol_ies()?.into_owned();
    if let Some(amf) = amf {
        ies.0
            .push(build_ngap_ie!(ErrorIndication, IGNORE AMF_UE_NGAP_ID(amf))?);
    }
    if let Some(ran) = ran {
        ies.0
            .push(build_ngap_ie!(ErrorIndication, IGNORE RAN_UE_NGAP_ID(ran))?);
    }
    ies.0
        .push(build_ngap_ie!(ErrorIndication, IGNORE Cause(cause))?);
    if let Some(diagnostics) = diagnostics {
        ies.0
            .push(build_ngap_ie!(ErrorIndication, IGNORE CriticalityDiagnostics(diagnostics))?);
    }
    pdu.set_protocol_ies(ies)?;
    pdu.encode()
}

fn setup_transfer(session: &SessionUp) -> Result<Vec<u8>, Error> {
    let tunnel = UPTransportLayerInformation::gTPTunnel(GTPTunnel::new(
        address(session.address),
        GTPTEID(session.dl_teid.to_be_bytes()),
        None,
    ));
    let flows = session
        .qfis
        .iter()
        .map(|qfi| AssociatedQosFlowItem::new(QosFlowIdentifier((*qfi).into()), None, None))
        .collect();
    let result = session.security_result.then(|| {
        SecurityResult::new(
            IntegrityProtectionResult::performed,
            ConfidentialityProtectionResult::performed,
            None,
        )
    });
    let transfer = PDUSessionResourceSetupResponseTransfer::new(
        QosFlowPerTNLInformation::new(tunnel, AssociatedQosFlowList(flows), None),
        None,
        result,
        None,
        None,
    );
    Ok(encode_open_type(&transfer)?.to_vec())
}

fn unsuccessful_transfer(cause: &Cause) -> Result<Vec<u8>, Error> {
    let transfer = PDUSessionResourceSetupUnsuccessfulTransfer::new(cause.clone(), None, None);
    Ok(encode_open_type(&transfer)?.to_vec())
}

fn user_location(at: SocketAddr) -> UserLocationInformation<'static> {
    UserLocationInformation::userLocationInformationN3IWF_with_PortNumber(
        UserLocationInformationN3IWFWithPortNumber::new(
            address(at.ip()),
            PortNumber(at.port().to_be_bytes()),
            None,
        ),
    )
}

fn address(address: IpAddr) -> TransportLayerAddress<'static> {
    TransportLayerAddress(BitString::from(match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }))
}

fn identity(plmn: Plmn) -> Result<PLMNIdentity, Error> {
    let (mcc, mnc) = plmn.digits();
    plmn_identity(&mcc, &mnc)
}

/// The codes of TS 24.502 9.2.2 are indices of the NGAP enumeration.
fn establishment_cause(cause: Option<EstablishmentCause>) -> RRCEstablishmentCause {
    use EstablishmentCause as E;
    match cause {
        Some(E::Emergency) => RRCEstablishmentCause::emergency,
        Some(E::HighPriorityAccess) => RRCEstablishmentCause::highPriorityAccess,
        Some(E::MoSignalling) => RRCEstablishmentCause::mo_Signalling,
        Some(E::MoData) => RRCEstablishmentCause::mo_Data,
        Some(E::MpsPriorityAccess) => RRCEstablishmentCause::mps_PriorityAccess,
        Some(E::McsPriorityAccess) => RRCEstablishmentCause::mcs_PriorityAccess,
        None => RRCEstablishmentCause::notAvailable,
    }
}
