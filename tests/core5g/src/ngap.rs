//! The NGAP messages that the AMF sends (TS 38.413), as octets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use oxirush_ngap::helpers::{guami, s_nssai, ue_security_capabilities};
use oxirush_ngap::ngap::{
    AMFName, AllocationAndRetentionPriority, AllowedNSSAI, AllowedNSSAIItem, BitRate, Cause,
    CauseNas, CriticalityDiagnostics, FiveQI, GTPTEID, GTPTunnel, NGAP_PDU,
    NonDynamic5QIDescriptor, OverloadAction as Wire, OverloadResponse,
    PDUSessionAggregateMaximumBitRate, PDUSessionID, PDUSessionResourceModifyItemModReq,
    PDUSessionResourceModifyListModReq, PDUSessionResourceModifyRequestTransfer,
    PDUSessionResourceReleaseCommandTransfer, PDUSessionResourceSetupItemSUReq,
    PDUSessionResourceSetupListSUReq, PDUSessionResourceSetupRequestTransfer,
    PDUSessionResourceToReleaseItemRelCmd, PDUSessionResourceToReleaseListRelCmd, PDUSessionType,
    PLMNIdentity, PLMNSupportItem, PLMNSupportList, PreEmptionCapability, PreEmptionVulnerability,
    PriorityLevelARP, ProtocolIEContainer, QosCharacteristics, QosFlowAddOrModifyRequestItem,
    QosFlowAddOrModifyRequestList, QosFlowIdentifier, QosFlowLevelQosParameters,
    QosFlowListWithCause, QosFlowSetupRequestItem, QosFlowSetupRequestList, QosFlowWithCauseItem,
    RelativeAMFCapacity, ResetAll, ResetType, SNSSAI, ServedGUAMIItem, ServedGUAMIList,
    SliceSupportItem, SliceSupportList, TrafficLoadReductionIndication, TransportLayerAddress,
    UEAggregateMaximumBitRate, UEAssociatedLogicalNGConnectionList, UENGAPIDPair, UENGAPIDs,
    UPTransportLayerInformation, UnavailableGUAMIItem, UnavailableGUAMIList, encode_open_type,
};
use oxirush_ngap::{BitString, Error, build_ngap, build_ngap_ie};

use crate::amf::OverloadAction;
use crate::config::{Ambr, AmfConfig, FlowConfig};
use crate::types::Slice;

type Octets = Result<Vec<u8>, Error>;

/// The two identifiers of a UE-associated connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UeIds {
    /// AMF UE NGAP ID.
    pub amf: u64,
    /// RAN UE NGAP ID.
    pub ran: u32,
}

/// NG SETUP RESPONSE.
pub fn ng_setup_response(amf: &AmfConfig) -> Octets {
    let slices = amf
        .slices
        .iter()
        .map(|slice| SliceSupportItem::new(slice_value(*slice), None))
        .collect();
    let support = PLMNSupportItem::new(plmn(amf), SliceSupportList(slices), None);
    let identity = guami(plmn(amf), amf.region, amf.set, amf.pointer)?;
    build_ngap!(
        SuccessfulOutcome,
        NGSetup,
        NGSetupResponse,
        AMFName(amf.name.as_str()),
        ServedGUAMIList(ServedGUAMIList(vec![ServedGUAMIItem::new(
            identity, None, None
        )])),
        RelativeAMFCapacity(RelativeAMFCapacity(255)),
        PLMNSupportList(PLMNSupportList(vec![support])),
    )?
    .encode()
}

/// NG SETUP FAILURE.
pub fn ng_setup_failure(cause: Cause, diagnostics: Option<CriticalityDiagnostics>) -> Octets {
    match diagnostics {
        Some(diagnostics) => build_ngap!(
            UnsuccessfulOutcome,
            NGSetup,
            NGSetupFailure,
            Cause(cause),
            CriticalityDiagnostics(diagnostics),
        )?,
        None => build_ngap!(UnsuccessfulOutcome, NGSetup, NGSetupFailure, Cause(cause))?,
    }
    .encode()
}

/// RAN CONFIGURATION UPDATE ACKNOWLEDGE.
pub fn ran_configuration_update_acknowledge() -> Octets {
    build_ngap!(
        SuccessfulOutcome,
        RANConfigurationUpdate,
        RANConfigurationUpdateAcknowledge,
    )?
    .encode()
}

/// NG RESET of the whole interface.
pub fn ng_reset(cause: Cause) -> Octets {
    build_ngap!(
        InitiatingMessage,
        NGReset,
        NGReset,
        Cause(cause),
        ResetType(ResetType::nG_Interface(ResetAll::reset_all)),
    )?
    .encode()
}

/// OVERLOAD START.
pub fn overload_start(action: Option<OverloadAction>, percent: Option<u8>) -> Octets {
    let mut pdu = build_ngap!(InitiatingMessage, OverloadStart, OverloadStart,)?;
    let mut ies = Vec::new();
    if let Some(action) = action {
        let response = OverloadResponse::overloadAction(match action {
            OverloadAction::RejectMoData => Wire::reject_non_emergency_mo_dt,
            OverloadAction::RejectSignalling => Wire::reject_rrc_cr_signalling,
            OverloadAction::EmergencyOnly => {
                Wire::permit_emergency_sessions_and_mobile_terminated_services_only
            }
            OverloadAction::HighPriorityOnly => {
                Wire::permit_high_priority_sessions_and_mobile_terminated_services_only
            }
        });
        ies.push(build_ngap_ie!(OverloadStart, REJECT AMFOverloadResponse(response))?);
    }
    if let Some(percent) = percent {
        let percent = TrafficLoadReductionIndication(percent);
        ies.push(build_ngap_ie!(OverloadStart, IGNORE
            AMFTrafficLoadReductionIndication(percent))?);
    }
    pdu.set_protocol_ies(ProtocolIEContainer(ies))?;
    pdu.encode()
}

/// OVERLOAD STOP.
pub fn overload_stop() -> Octets {
    build_ngap!(InitiatingMessage, OverloadStop, OverloadStop,)?.encode()
}

/// AMF STATUS INDICATION of the AMF's GUAMI.
pub fn status_indication(amf: &AmfConfig, backup: Option<&str>) -> Octets {
    let identity = guami(plmn(amf), amf.region, amf.set, amf.pointer)?;
    let item = UnavailableGUAMIItem::new(identity, None, backup.map(AMFName::from), None);
    build_ngap!(
        InitiatingMessage,
        AMFStatusIndication,
        AMFStatusIndication,
        UnavailableGUAMIList(UnavailableGUAMIList(vec![item])),
    )?
    .encode()
}

/// NG RESET ACKNOWLEDGE, with the connections of a partial reset.
pub fn ng_reset_acknowledge(list: Option<UEAssociatedLogicalNGConnectionList>) -> Octets {
    match list {
        Some(list) => build_ngap!(
            SuccessfulOutcome,
            NGReset,
            NGResetAcknowledge,
            UE_associatedLogicalNG_connectionList(list),
        )?,
        None => build_ngap!(SuccessfulOutcome, NGReset, NGResetAcknowledge,)?,
    }
    .encode()
}

/// ERROR INDICATION.
pub fn error_indication(
    ids: (Option<u64>, Option<u32>),
    cause: Cause,
    diagnostics: Option<CriticalityDiagnostics>,
) -> Octets {
    let mut ies = Vec::new();
    if let Some(amf) = ids.0 {
        ies.push(build_ngap_ie!(ErrorIndication, AMF_UE_NGAP_ID(amf))?);
    }
    if let Some(ran) = ids.1 {
        ies.push(build_ngap_ie!(ErrorIndication, RAN_UE_NGAP_ID(ran))?);
    }
    ies.push(build_ngap_ie!(ErrorIndication, Cause(cause))?);
    if let Some(diagnostics) = diagnostics {
        ies.push(build_ngap_ie!(
            ErrorIndication,
            CriticalityDiagnostics(diagnostics)
        )?);
    }
    let mut pdu = build_ngap!(InitiatingMessage, ErrorIndication, ErrorIndication,)?;
    pdu.set_protocol_ies(ProtocolIEContainer(ies))?;
    pdu.encode()
}

/// DOWNLINK NAS TRANSPORT.
pub fn downlink_nas(ids: UeIds, nas: Vec<u8>) -> Octets {
    build_ngap!(
        InitiatingMessage,
        DownlinkNASTransport,
        DownlinkNASTransport,
        AMF_UE_NGAP_ID(ids.amf),
        RAN_UE_NGAP_ID(ids.ran),
        NAS_PDU(nas),
    )?
    .encode()
}

/// What INITIAL CONTEXT SETUP REQUEST needs besides the identifiers.
pub struct ContextSetup<'a> {
    /// The network.
    pub amf: &'a AmfConfig,
    /// Allowed NSSAI.
    pub allowed: &'a [Slice],
    /// The UE's 5G algorithms: ciphering, integrity.
    pub algorithms: (u8, u8),
    /// K_N3IWF.
    pub key: [u8; 32],
    /// A NAS message to forward once the signalling SA is up.
    pub nas: Option<Vec<u8>>,
}

/// INITIAL CONTEXT SETUP REQUEST; SecurityKey is K_N3IWF (TS 29.413 5.2).
pub fn initial_context_setup(ids: UeIds, setup: ContextSetup<'_>) -> Octets {
    let amf = setup.amf;
    let allowed = setup
        .allowed
        .iter()
        .map(|slice| AllowedNSSAIItem::new(slice_value(*slice), None))
        .collect();
    let mut pdu = build_ngap!(
        InitiatingMessage,
        InitialContextSetup,
        InitialContextSetupRequest,
        AMF_UE_NGAP_ID(ids.amf),
        RAN_UE_NGAP_ID(ids.ran),
        UEAggregateMaximumBitRate(ue_ambr(amf.ue_ambr)),
        GUAMI(guami(plmn(amf), amf.region, amf.set, amf.pointer)?),
        AllowedNSSAI(AllowedNSSAI(allowed)),
        UESecurityCapabilities(ue_security_capabilities(
            ngap_algorithms(setup.algorithms.0),
            ngap_algorithms(setup.algorithms.1),
        )),
        SecurityKey(setup.key),
    )?;
    if let Some(nas) = setup.nas {
        let mut ies = pdu.protocol_ies()?.into_owned();
        ies.0
            .push(build_ngap_ie!(InitialContextSetupRequest, NAS_PDU(nas))?);
        pdu.set_protocol_ies(ies)?;
    }
    pdu.encode()
}

/// One PDU session to set up.
pub struct SessionSetup<'a> {
    /// PDU session identity.
    pub id: u8,
    /// The protected NAS message for the UE.
    pub nas: Vec<u8>,
    /// Slice of the session.
    pub slice: Slice,
    /// Session AMBR.
    pub ambr: Ambr,
    /// UE AMBR.
    pub ue_ambr: Ambr,
    /// Uplink tunnel: the UPF's address and TEID.
    pub uplink: (IpAddr, u32),
    /// QoS flows.
    pub flows: &'a [FlowConfig],
}

/// PDU SESSION RESOURCE SETUP REQUEST for one IPv4 session.
pub fn session_setup(ids: UeIds, setup: SessionSetup<'_>) -> Octets {
    let flows = setup.flows.iter().map(qos_flow).collect();
    let (address, teid) = setup.uplink;
    let tunnel = UPTransportLayerInformation::gTPTunnel(GTPTunnel::new(
        transport_address(address),
        GTPTEID(teid.to_be_bytes()),
        None,
    ));
    let ambr = session_ambr(setup.ambr);
    let transfer = PDUSessionResourceSetupRequestTransfer::new(ProtocolIEContainer(vec![
        build_ngap_ie!(
            PDUSessionResourceSetupRequestTransfer,
            PDUSessionAggregateMaximumBitRate(ambr)
        )?,
        build_ngap_ie!(
            PDUSessionResourceSetupRequestTransfer,
            UL_NGU_UP_TNLInformation(tunnel)
        )?,
        build_ngap_ie!(
            PDUSessionResourceSetupRequestTransfer,
            PDUSessionType(PDUSessionType::ipv4)
        )?,
        build_ngap_ie!(
            PDUSessionResourceSetupRequestTransfer,
            QosFlowSetupRequestList(QosFlowSetupRequestList(flows))
        )?,
    ]));
    let item = PDUSessionResourceSetupItemSUReq::new(
        PDUSessionID(setup.id),
        Some(setup.nas.into()),
        slice_value(setup.slice),
        encode_open_type(&transfer)?,
        None,
    );
    build_ngap!(
        InitiatingMessage,
        PDUSessionResourceSetup,
        PDUSessionResourceSetupRequest,
        AMF_UE_NGAP_ID(ids.amf),
        RAN_UE_NGAP_ID(ids.ran),
        PDUSessionResourceSetupListSUReq(PDUSessionResourceSetupListSUReq(vec![item])),
        UEAggregateMaximumBitRate(ue_ambr(setup.ue_ambr)),
    )?
    .encode()
}

/// One PDU session to modify.
pub struct SessionModify<'a> {
    /// PDU session identity.
    pub id: u8,
    /// The protected NAS message for the UE.
    pub nas: Vec<u8>,
    /// Session AMBR.
    pub ambr: Option<Ambr>,
    /// QoS flows to add or to modify.
    pub flows: &'a [FlowConfig],
    /// QFIs to release.
    pub released: &'a [u8],
}

/// PDU SESSION RESOURCE MODIFY REQUEST.
pub fn session_modify(ids: UeIds, modify: SessionModify<'_>) -> Octets {
    let mut ies = Vec::new();
    if let Some(ambr) = modify.ambr {
        ies.push(build_ngap_ie!(
            PDUSessionResourceModifyRequestTransfer,
            PDUSessionAggregateMaximumBitRate(session_ambr(ambr))
        )?);
    }
    if !modify.flows.is_empty() {
        let flows = modify.flows.iter().map(|flow| {
            QosFlowAddOrModifyRequestItem::new(
                QosFlowIdentifier(u64::from(flow.qfi)),
                Some(qos_parameters(flow)),
                None,
                None,
            )
        });
        let list = QosFlowAddOrModifyRequestList(flows.collect());
        ies.push(build_ngap_ie!(
            PDUSessionResourceModifyRequestTransfer,
            QosFlowAddOrModifyRequestList(list)
        )?);
    }
    if !modify.released.is_empty() {
        let cause = Cause::nas(CauseNas::normal_release);
        let flows = modify.released.iter().map(|qfi| {
            QosFlowWithCauseItem::new(QosFlowIdentifier(u64::from(*qfi)), cause.clone(), None)
        });
        let list = QosFlowListWithCause(flows.collect());
        ies.push(build_ngap_ie!(
            PDUSessionResourceModifyRequestTransfer,
            QosFlowToReleaseList(list)
        )?);
    }
    let transfer = PDUSessionResourceModifyRequestTransfer::new(ProtocolIEContainer(ies));
    let item = PDUSessionResourceModifyItemModReq::new(
        PDUSessionID(modify.id),
        Some(modify.nas.into()),
        encode_open_type(&transfer)?,
        None,
    );
    build_ngap!(
        InitiatingMessage,
        PDUSessionResourceModify,
        PDUSessionResourceModifyRequest,
        AMF_UE_NGAP_ID(ids.amf),
        RAN_UE_NGAP_ID(ids.ran),
        PDUSessionResourceModifyListModReq(PDUSessionResourceModifyListModReq(vec![item])),
    )?
    .encode()
}

/// UE CONTEXT MODIFICATION REQUEST with a UE AMBR.
pub fn ue_context_modification(ids: UeIds, ambr: Ambr) -> Octets {
    build_ngap!(
        InitiatingMessage,
        UEContextModification,
        UEContextModificationRequest,
        AMF_UE_NGAP_ID(ids.amf),
        RAN_UE_NGAP_ID(ids.ran),
        UEAggregateMaximumBitRate(ue_ambr(ambr)),
    )?
    .encode()
}

/// PDU SESSION RESOURCE RELEASE COMMAND, with the NAS message for the UE.
pub fn session_release(ids: UeIds, id: u8, cause: Cause, nas: Option<Vec<u8>>) -> Octets {
    let transfer = PDUSessionResourceReleaseCommandTransfer::new(cause, None);
    let item = PDUSessionResourceToReleaseItemRelCmd::new(
        PDUSessionID(id),
        encode_open_type(&transfer)?,
        None,
    );
    let list = PDUSessionResourceToReleaseListRelCmd(vec![item]);
    match nas {
        Some(nas) => build_ngap!(
            InitiatingMessage,
            PDUSessionResourceRelease,
            PDUSessionResourceReleaseCommand,
            AMF_UE_NGAP_ID(ids.amf),
            RAN_UE_NGAP_ID(ids.ran),
            NAS_PDU(nas),
            PDUSessionResourceToReleaseListRelCmd(list),
        )?,
        None => build_ngap!(
            InitiatingMessage,
            PDUSessionResourceRelease,
            PDUSessionResourceReleaseCommand,
            AMF_UE_NGAP_ID(ids.amf),
            RAN_UE_NGAP_ID(ids.ran),
            PDUSessionResourceToReleaseListRelCmd(list),
        )?,
    }
    .encode()
}

/// UE CONTEXT RELEASE COMMAND.
pub fn ue_context_release(ids: UeIds, cause: Cause) -> Octets {
    let pair = UENGAPIDPair::new(ids.amf.into(), ids.ran.into(), None);
    build_ngap!(
        InitiatingMessage,
        UEContextRelease,
        UEContextReleaseCommand,
        UE_NGAP_IDs(UENGAPIDs::uE_NGAP_ID_pair(pair)),
        Cause(cause),
    )?
    .encode()
}

/// The message of a PDU by its ASN.1 name.
#[must_use]
pub fn name(octets: &[u8]) -> String {
    NGAP_PDU::decode_borrowed(octets).map_or_else(
        |_| "undecodable".to_owned(),
        |pdu| pdu.procedure_name().to_string(),
    )
}

/// An S-NSSAI in NGAP.
#[must_use]
pub fn slice_value(slice: Slice) -> SNSSAI {
    s_nssai(slice.sst, slice.sd)
}

/// An S-NSSAI out of NGAP.
#[must_use]
pub fn slice_of(value: &SNSSAI) -> Slice {
    let [sst] = value.sst.0;
    Slice {
        sst,
        sd: value.sd.as_ref().map(|sd| sd.0),
    }
}

/// The network's PLMN in NGAP.
#[must_use]
pub fn plmn(amf: &AmfConfig) -> PLMNIdentity {
    PLMNIdentity(amf.plmn.octets())
}

/// An IP address in NGAP: 32 or 128 bits.
#[must_use]
pub fn transport_address(address: IpAddr) -> TransportLayerAddress<'static> {
    TransportLayerAddress(match address {
        IpAddr::V4(v4) => BitString::from_octets(v4.octets()),
        IpAddr::V6(v6) => BitString::from_octets(v6.octets()),
    })
}

/// An IP address out of NGAP; of both families (160 bits), the IPv4 one.
#[must_use]
pub fn ip_address(address: &TransportLayerAddress<'_>) -> Option<IpAddr> {
    let octets = address.0.as_octets();
    if let Ok(v6) = <[u8; 16]>::try_from(octets) {
        return Some(IpAddr::V6(Ipv6Addr::from(v6)));
    }
    if octets.len() != 4 && octets.len() != 20 {
        return None;
    }
    let v4 = <[u8; 4]>::try_from(octets.get(..4)?).ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(v4)))
}

/// The octet of NAS (algorithm 0 first) as the one of NGAP (algorithm 1 first,
/// TS 38.413 9.3.1.86).
const fn ngap_algorithms(nas: u8) -> u8 {
    nas << 1
}

fn session_ambr(ambr: Ambr) -> PDUSessionAggregateMaximumBitRate {
    PDUSessionAggregateMaximumBitRate::new(
        BitRate(ambr.downlink_kbps.saturating_mul(1000)),
        BitRate(ambr.uplink_kbps.saturating_mul(1000)),
        None,
    )
}

fn ue_ambr(ambr: Ambr) -> UEAggregateMaximumBitRate {
    UEAggregateMaximumBitRate::new(
        BitRate(ambr.downlink_kbps.saturating_mul(1000)),
        BitRate(ambr.uplink_kbps.saturating_mul(1000)),
        None,
    )
}

fn qos_parameters(flow: &FlowConfig) -> QosFlowLevelQosParameters {
    let descriptor =
        NonDynamic5QIDescriptor::new(FiveQI(u64::from(flow.five_qi)), None, None, None, None);
    let arp = AllocationAndRetentionPriority::new(
        PriorityLevelARP(flow.arp),
        PreEmptionCapability::shall_not_trigger_pre_emption,
        PreEmptionVulnerability::not_pre_emptable,
        None,
    );
    let reflective = flow
        .reflective
        .then_some(oxirush_ngap::ngap::ReflectiveQosAttribute::subject_to);
    QosFlowLevelQosParameters::new(
        QosCharacteristics::nonDynamic5QI(descriptor),
        arp,
        None,
        reflective,
        None,
        None,
    )
}

fn qos_flow(flow: &FlowConfig) -> QosFlowSetupRequestItem {
    QosFlowSetupRequestItem::new(
        QosFlowIdentifier(u64::from(flow.qfi)),
        qos_parameters(flow),
        None,
        None,
    )
}
