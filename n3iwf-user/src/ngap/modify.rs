//! PDU SESSION RESOURCE MODIFY and UE CONTEXT MODIFICATION (TS 38.413, 8.2.3 and 8.3.4).

use dataplane::relay::Ambr;
use oxirush_ngap::{
    Error, build_ngap, build_ngap_ie, extract_ngap_ies,
    ngap::{
        Cause, CauseProtocol, CauseRadioNetwork, NGAPPDU, PDUSessionID,
        PDUSessionResourceFailedToModifyItemModRes, PDUSessionResourceFailedToModifyListModRes,
        PDUSessionResourceModifyItemModRes, PDUSessionResourceModifyListModReq,
        PDUSessionResourceModifyListModRes, PDUSessionResourceModifyRequestTransfer,
        PDUSessionResourceModifyResponseTransfer, PDUSessionResourceModifyUnsuccessfulTransfer,
        QosFlowAddOrModifyRequestList, QosFlowAddOrModifyResponseItem,
        QosFlowAddOrModifyResponseList, QosFlowIdentifier, QosFlowListWithCause,
        QosFlowWithCauseItem, ULNGUUPTNLModifyList, decode_open_type, encode_open_type,
    },
};

use super::{
    AmfMessage, QosFlow, TransportAddress, UeIds,
    decode::{five_qi, qfi, session_ambr, tunnel, ue_ambr},
};

/// One PDU session of a modify request.
#[derive(Debug, PartialEq, Eq)]
pub struct ModifyRequest {
    /// PDU session ID.
    pub id: u8,
    /// NAS PDU, forwarded once the session is modified.
    pub nas: Option<Vec<u8>>,
    /// The transfer, or why it cannot be followed.
    pub transfer: Result<ModifyTransfer, Cause>,
}

/// PDUSessionResourceModifyRequestTransfer (TS 38.413, 9.3.4.3): what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModifyTransfer {
    /// Session-AMBR.
    pub ambr: Option<Ambr>,
    /// New uplink tunnels.
    pub tunnels: Vec<TunnelChange>,
    /// Flows to add or to modify.
    pub flows: Vec<FlowRequest>,
    /// QFIs to release.
    pub released: Vec<u8>,
}

/// Another end of the tunnel at the UPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelChange {
    /// Which tunnel: the TEID of its downlink packets.
    pub dl_teid: u32,
    /// The UPF's N3 addresses.
    pub upf: TransportAddress,
    /// The TEID uplink packets carry.
    pub ul_teid: u32,
}

/// A QoS flow to add or to modify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRequest {
    /// Which, and of what kind.
    pub flow: QosFlow,
    /// Whether its QoS parameters came; a flow that is new needs them.
    pub described: bool,
}

/// What became of one PDU session of a modify request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModifyOutcome {
    /// PDU session ID.
    pub id: u8,
    /// How it ended.
    pub result: Result<ModifiedFlows, Cause>,
}

/// What became of the flows that were to be added or modified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModifiedFlows {
    /// QFIs.
    pub done: Vec<u8>,
    /// QFIs, and why not.
    pub failed: Vec<(u8, Cause)>,
}

pub(super) fn context_modification(pdu: &NGAPPDU<'_>) -> Result<AmfMessage, Error> {
    extract_ngap_ies!(pdu, UEContextModificationRequest,
        req amf: u64 = AMF_UE_NGAP_ID(id),
        req ran: u32 = RAN_UE_NGAP_ID(id),
        lax ambr: Ambr = UEAggregateMaximumBitRate(rate) => ue_ambr(&rate),
        opt new_amf: u64 = NewAMF_UE_NGAP_ID(id) => id.0,
    );
    // A Security Key is for the next IKE SA at the earliest (TS 33.501, 7A.2.1.1).
    Ok(AmfMessage::ContextModification {
        ue: UeIds { amf, ran },
        ue_ambr: ambr,
        new_amf,
    })
}

pub(super) fn session_modify(pdu: &NGAPPDU<'_>) -> Result<AmfMessage, Error> {
    extract_ngap_ies!(pdu, PDUSessionResourceModifyRequest,
        req amf: u64 = AMF_UE_NGAP_ID(id),
        req ran: u32 = RAN_UE_NGAP_ID(id),
        req list: PDUSessionResourceModifyListModReq = PDUSessionResourceModifyListModReq(list) => list,
    );
    let sessions = list
        .0
        .into_iter()
        .map(|item| ModifyRequest {
            id: item.pdu_session_id.0,
            nas: item.nas_pdu.map(|nas| nas.0.into_vec()),
            transfer: transfer(&item.pdu_session_resource_modify_request_transfer),
        })
        .collect();
    Ok(AmfMessage::SessionModify {
        ue: UeIds { amf, ran },
        sessions,
    })
}

fn transfer(octets: &[u8]) -> Result<ModifyTransfer, Cause> {
    let decoded: PDUSessionResourceModifyRequestTransfer = decode_open_type(octets)
        .map_err(|_| Cause::protocol(CauseProtocol::transfer_syntax_error))?;
    let read = || -> Result<_, Error> {
        extract_ngap_ies!(decoded, PDUSessionResourceModifyRequestTransfer,
            opt ambr: Ambr = PDUSessionAggregateMaximumBitRate(rate) => session_ambr(&rate),
            opt tunnels: ULNGUUPTNLModifyList = UL_NGU_UP_TNLModifyList(list) => list,
            opt flows: QosFlowAddOrModifyRequestList = QosFlowAddOrModifyRequestList(list) => list,
            opt released: QosFlowListWithCause = QosFlowToReleaseList(list) => list,
        );
        let tunnels = tunnels.into_iter().flat_map(|list| list.0).map(|item| {
            let (upf, ul_teid) = tunnel(&item.ul_ngu_up_tnl_information)?;
            let (_, dl_teid) = tunnel(&item.dl_ngu_up_tnl_information)?;
            Some(TunnelChange {
                dl_teid,
                upf,
                ul_teid,
            })
        });
        Ok((ambr, tunnels.collect::<Option<Vec<_>>>(), flows, released))
    };
    let (ambr, tunnels, flows, released) =
        read().map_err(|_| Cause::protocol(CauseProtocol::abstract_syntax_error_reject))?;
    let tunnels = tunnels.ok_or(Cause::protocol(CauseProtocol::semantic_error))?;
    let mut wanted: Vec<FlowRequest> = Vec::new();
    for item in flows.into_iter().flat_map(|list| list.0) {
        let qfi = qfi(&item.qos_flow_identifier)?;
        if wanted.iter().any(|other| other.flow.qfi == qfi) {
            return Err(Cause::radioNetwork(
                CauseRadioNetwork::multiple_qos_flow_ID_instances,
            ));
        }
        let parameters = item.qos_flow_level_qos_parameters.as_ref();
        wanted.push(FlowRequest {
            flow: QosFlow {
                qfi,
                five_qi: parameters.and_then(five_qi),
                gbr: parameters.is_some_and(|p| p.gbr_qos_information.is_some()),
            },
            described: parameters.is_some(),
        });
    }
    let mut gone = Vec::new();
    for item in released.into_iter().flat_map(|list| list.0) {
        let qfi = qfi(&item.qos_flow_identifier)?;
        // Added and released at once means nothing (TS 38.413, 8.2.3.4).
        if wanted.iter().any(|other| other.flow.qfi == qfi) {
            return Err(Cause::protocol(CauseProtocol::semantic_error));
        }
        gone.push(qfi);
    }
    Ok(ModifyTransfer {
        ambr,
        tunnels,
        flows: wanted,
        released: gone,
    })
}

/// UE CONTEXT MODIFICATION RESPONSE (TS 38.413, 9.2.2.8).
pub fn context_modification_response(ue: UeIds) -> Result<Vec<u8>, Error> {
    build_ngap!(
        SuccessfulOutcome,
        UEContextModification,
        UEContextModificationResponse,
        AMF_UE_NGAP_ID(ue.amf),
        RAN_UE_NGAP_ID(ue.ran),
    )?
    .encode()
}

/// PDU SESSION RESOURCE MODIFY RESPONSE (TS 38.413, 9.2.1.6).
pub fn session_modify_response(ue: UeIds, sessions: &[ModifyOutcome]) -> Result<Vec<u8>, Error> {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for session in sessions {
        let id = PDUSessionID(session.id);
        match &session.result {
            Ok(flows) => done.push(PDUSessionResourceModifyItemModRes::new(
                id,
                response_transfer(flows)?.into(),
                None,
            )),
            Err(cause) => {
                let transfer =
                    PDUSessionResourceModifyUnsuccessfulTransfer::new(cause.clone(), None, None);
                failed.push(PDUSessionResourceFailedToModifyItemModRes::new(
                    id,
                    encode_open_type(&transfer)?.to_vec().into(),
                    None,
                ));
            }
        }
    }
    let mut pdu = build_ngap!(
        SuccessfulOutcome,
        PDUSessionResourceModify,
        PDUSessionResourceModifyResponse,
        AMF_UE_NGAP_ID(ue.amf),
        RAN_UE_NGAP_ID(ue.ran),
    )?;
    let mut ies = pdu.protocol_ies()?.into_owned();
    if !done.is_empty() {
        ies.0
            .push(build_ngap_ie!(PDUSessionResourceModifyResponse, IGNORE
            PDUSessionResourceModifyListModRes(PDUSessionResourceModifyListModRes(done)))?);
    }
    if !failed.is_empty() {
        ies.0
            .push(build_ngap_ie!(PDUSessionResourceModifyResponse, IGNORE
            PDUSessionResourceFailedToModifyListModRes(PDUSessionResourceFailedToModifyListModRes(failed)))?);
    }
    pdu.set_protocol_ies(ies)?;
    pdu.encode()
}

fn response_transfer(flows: &ModifiedFlows) -> Result<Vec<u8>, Error> {
    let identifier = |qfi: u8| QosFlowIdentifier(qfi.into());
    let done = flows.done.iter();
    let done = done.map(|qfi| QosFlowAddOrModifyResponseItem::new(identifier(*qfi), None));
    let failed = flows.failed.iter();
    let failed =
        failed.map(|(qfi, cause)| QosFlowWithCauseItem::new(identifier(*qfi), cause.clone(), None));
    let transfer = PDUSessionResourceModifyResponseTransfer::new(
        None,
        None,
        (!flows.done.is_empty()).then(|| QosFlowAddOrModifyResponseList(done.collect())),
        None,
        (!flows.failed.is_empty()).then(|| QosFlowListWithCause(failed.collect())),
        None,
    );
    Ok(encode_open_type(&transfer)?.to_vec())
}
