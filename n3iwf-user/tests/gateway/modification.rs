//! What an AMF says to modify PDU sessions and UE contexts.

use dataplane::relay::Ambr;
use n3iwf_user::ngap::Cause;
use oxirush_ngap::{BitString, build_ngap, build_ngap_ie, ngap::*};

use crate::amf;

/// QFI, and whether its QoS parameters come.
pub(crate) type Flow = (u8, bool);

#[derive(Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) ambr: Option<Ambr>,
    /// TEID downlink, TEID uplink.
    pub(crate) tunnel: Option<(u32, u32)>,
    /// The UPF's end of it; otherwise 203.0.113.9.
    pub(crate) upf: Option<&'a [u8]>,
    pub(crate) flows: &'a [Flow],
    pub(crate) released: &'a [u8],
}

pub(crate) fn qfi(qfi: u8) -> QosFlowIdentifier {
    QosFlowIdentifier(u64::from(qfi))
}

pub(crate) fn tunnel(address: &[u8], teid: u32) -> UPTransportLayerInformation<'static> {
    UPTransportLayerInformation::gTPTunnel(GTPTunnel::new(
        TransportLayerAddress(BitString::from(address.to_vec())),
        GTPTEID(teid.to_be_bytes()),
        None,
    ))
}

pub(crate) fn transfer(wanted: &Wanted<'_>) -> Vec<u8> {
    let mut ies = Vec::new();
    if let Some(ambr) = wanted.ambr {
        let rate = PDUSessionAggregateMaximumBitRate::new(
            BitRate(ambr.downlink),
            BitRate(ambr.uplink),
            None,
        );
        ies.push(
            build_ngap_ie!(PDUSessionResourceModifyRequestTransfer, REJECT
                PDUSessionAggregateMaximumBitRate(rate))
            .unwrap(),
        );
    }
    if let Some((down, up)) = wanted.tunnel {
        let item = ULNGUUPTNLModifyItem::new(
            tunnel(wanted.upf.unwrap_or(&[203, 0, 113, 9]), up),
            tunnel(&[203, 0, 113, 1], down),
            None,
        );
        let list = ULNGUUPTNLModifyList(vec![item]);
        ies.push(
            build_ngap_ie!(PDUSessionResourceModifyRequestTransfer, REJECT
                UL_NGU_UP_TNLModifyList(list))
            .unwrap(),
        );
    }
    if !wanted.flows.is_empty() {
        let flows =
            wanted.flows.iter().map(|(id, described)| {
                let characteristics = QosCharacteristics::nonDynamic5QI(
                    NonDynamic5QIDescriptor::new(FiveQI(1), None, None, None, None),
                );
                let arp = AllocationAndRetentionPriority::new(
                    PriorityLevelARP(8),
                    PreEmptionCapability::shall_not_trigger_pre_emption,
                    PreEmptionVulnerability::not_pre_emptable,
                    None,
                );
                let parameters =
                    QosFlowLevelQosParameters::new(characteristics, arp, None, None, None, None);
                QosFlowAddOrModifyRequestItem::new(
                    qfi(*id),
                    described.then_some(parameters),
                    None,
                    None,
                )
            });
        let list = QosFlowAddOrModifyRequestList(flows.collect());
        ies.push(
            build_ngap_ie!(PDUSessionResourceModifyRequestTransfer, REJECT
                QosFlowAddOrModifyRequestList(list))
            .unwrap(),
        );
    }
    if !wanted.released.is_empty() {
        let cause = Cause::nas(CauseNas::normal_release);
        let flows = wanted.released.iter();
        let flows = flows.map(|id| QosFlowWithCauseItem::new(qfi(*id), cause.clone(), None));
        let list = QosFlowListWithCause(flows.collect());
        ies.push(
            build_ngap_ie!(PDUSessionResourceModifyRequestTransfer, REJECT
                QosFlowToReleaseList(list))
            .unwrap(),
        );
    }
    let transfer = PDUSessionResourceModifyRequestTransfer::new(ProtocolIEContainer(ies));
    encode_open_type(&transfer).unwrap().to_vec()
}

pub(crate) fn modify(ran: u32, sessions: &[(u8, &[u8], Vec<u8>)]) -> Vec<u8> {
    let items = sessions.iter().map(|(id, nas, transfer)| {
        PDUSessionResourceModifyItemModReq::new(
            PDUSessionID(*id),
            Some(NASPDU::from(nas.to_vec())),
            transfer.clone().into(),
            None,
        )
    });
    build_ngap!(
        InitiatingMessage,
        PDUSessionResourceModify,
        PDUSessionResourceModifyRequest,
        AMF_UE_NGAP_ID(amf::amf_id(ran)),
        RAN_UE_NGAP_ID(ran),
        PDUSessionResourceModifyListModReq(PDUSessionResourceModifyListModReq(items.collect())),
    )
    .unwrap()
    .encode()
    .unwrap()
}

pub(crate) fn context_modification(ran: u32, ambr: Ambr, new_amf: Option<u64>) -> Vec<u8> {
    let mut pdu = build_ngap!(
        InitiatingMessage,
        UEContextModification,
        UEContextModificationRequest,
        AMF_UE_NGAP_ID(amf::amf_id(ran)),
        RAN_UE_NGAP_ID(ran),
        UEAggregateMaximumBitRate(UEAggregateMaximumBitRate::new(
            BitRate(ambr.downlink),
            BitRate(ambr.uplink),
            None
        )),
    )
    .unwrap();
    if let Some(id) = new_amf {
        let mut ies = pdu.protocol_ies().unwrap().into_owned();
        ies.0.push(
            build_ngap_ie!(UEContextModificationRequest, REJECT
                NewAMF_UE_NGAP_ID(AMFUENGAPID(id)))
            .unwrap(),
        );
        pdu.set_protocol_ies(ies).unwrap();
    }
    pdu.encode().unwrap()
}
