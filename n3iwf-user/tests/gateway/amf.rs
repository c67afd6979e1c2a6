//! The AMF's half of NGAP, and what it remembers.

use dataplane::relay::Ambr;
use n3iwf_user::ngap::Cause;
use oxirush_ngap::{
    BitString, NgapPduKind, build_ngap, build_ngap_ie, extract_ngap_ies,
    helpers::{guami, plmn, s_nssai, ue_security_capabilities},
    ie,
    ngap::*,
};

pub(crate) const K_N3IWF: [u8; 32] = [7; 32];
pub(crate) const UE_AMBR: Ambr = Ambr {
    uplink: 50_000_000,
    downlink: 200_000_000,
};
pub(crate) const SESSION_AMBR: Ambr = Ambr {
    uplink: 10_000_000,
    downlink: 100_000_000,
};

/// A message that arrived at the AMF.
pub(crate) struct Uplink {
    pub(crate) amf: usize,
    pub(crate) ue: Option<u32>,
    pub(crate) pdu: NGAP_PDU,
}

impl Uplink {
    pub(crate) fn new(amf: usize, ue: Option<u32>, octets: &[u8]) -> Self {
        let pdu = NGAP_PDU::decode(octets).unwrap();
        // The encoder is an independent one, but the object sets are ours to follow.
        assert_eq!(pdu.check().unwrap(), [], "{pdu}");
        Self { amf, ue, pdu }
    }

    pub(crate) fn kind(&self) -> NgapPduKind {
        self.pdu.kind()
    }

    pub(crate) fn ran(&self) -> Option<u32> {
        self.pdu.ie::<ie::RAN_UE_NGAP_ID>().map(|id| id.unwrap().0)
    }

    pub(crate) fn nas(&self) -> Vec<u8> {
        let nas = self.pdu.ie::<ie::NAS_PDU>().unwrap().unwrap();
        nas.0.to_vec()
    }

    pub(crate) fn cause(&self) -> Cause {
        self.pdu.ie::<ie::Cause>().unwrap().unwrap()
    }
}

/// The AMF's identifier for a UE, made so that tests can name it.
pub(crate) fn amf_id(ran: u32) -> u64 {
    1_000_000 + u64::from(ran)
}

pub(crate) fn ng_setup_response() -> Vec<u8> {
    ng_setup_response_of("amf-1", (1, 0), 255, None)
}

/// Of an AMF of this set and pointer, and the AMF that takes over from it.
pub(crate) fn ng_setup_response_of(
    name: &str,
    (set, pointer): (u16, u8),
    capacity: u8,
    backup: Option<&str>,
) -> Vec<u8> {
    let network = plmn("208", "93").unwrap();
    let slices = SliceSupportList(vec![SliceSupportItem::new(
        s_nssai(1, Some([1, 2, 3])),
        None,
    )]);
    build_ngap!(
        SuccessfulOutcome,
        NGSetup,
        NGSetupResponse,
        AMFName(name),
        ServedGUAMIList(ServedGUAMIList(vec![ServedGUAMIItem::new(
            guami(network, 1, set, pointer).unwrap(),
            backup.map(AMFName::from),
            None
        )])),
        RelativeAMFCapacity(RelativeAMFCapacity(capacity)),
        PLMNSupportList(PLMNSupportList(vec![PLMNSupportItem::new(
            network, slices, None
        )])),
    )
    .unwrap()
    .encode()
    .unwrap()
}

pub(crate) fn ng_setup_failure(wait: Option<TimeToWait>) -> Vec<u8> {
    let mut pdu = build_ngap!(
        UnsuccessfulOutcome,
        NGSetup,
        NGSetupFailure,
        Cause(Cause::misc(CauseMisc::unknown_PLMN_or_SNPN)),
    )
    .unwrap();
    if let Some(wait) = wait {
        let mut ies = pdu.protocol_ies().unwrap().into_owned();
        ies.0
            .push(build_ngap_ie!(NGSetupFailure, IGNORE TimeToWait(wait)).unwrap());
        pdu.set_protocol_ies(ies).unwrap();
    }
    pdu.encode().unwrap()
}

pub(crate) fn downlink_nas(ran: u32, nas: &[u8]) -> Vec<u8> {
    build_ngap!(
        InitiatingMessage,
        DownlinkNASTransport,
        DownlinkNASTransport,
        AMF_UE_NGAP_ID(amf_id(ran)),
        RAN_UE_NGAP_ID(ran),
        NAS_PDU(nas.to_vec()),
    )
    .unwrap()
    .encode()
    .unwrap()
}

pub(crate) fn context_setup(
    ran: u32,
    nas: Option<&[u8]>,
    sessions: Vec<PDUSessionResourceSetupItemCxtReq<'static>>,
) -> Vec<u8> {
    let network = plmn("208", "93").unwrap();
    let mut pdu = build_ngap!(
        InitiatingMessage,
        InitialContextSetup,
        InitialContextSetupRequest,
        AMF_UE_NGAP_ID(amf_id(ran)),
        RAN_UE_NGAP_ID(ran),
        GUAMI(guami(network, 1, 1, 0).unwrap()),
        AllowedNSSAI(AllowedNSSAI(vec![AllowedNSSAIItem::new(
            s_nssai(1, Some([1, 2, 3])),
            None
        )])),
        UEAggregateMaximumBitRate(UEAggregateMaximumBitRate::new(
            BitRate(UE_AMBR.downlink),
            BitRate(UE_AMBR.uplink),
            None
        )),
        UESecurityCapabilities(ue_security_capabilities(0xe0, 0xe0)),
        SecurityKey(K_N3IWF),
    )
    .unwrap();
    let mut ies = pdu.protocol_ies().unwrap().into_owned();
    if !sessions.is_empty() {
        let list = PDUSessionResourceSetupListCxtReq(sessions);
        ies.0.push(
            build_ngap_ie!(InitialContextSetupRequest, REJECT
                PDUSessionResourceSetupListCxtReq(list))
            .unwrap(),
        );
    }
    if let Some(nas) = nas {
        ies.0.push(
            build_ngap_ie!(InitialContextSetupRequest, IGNORE NAS_PDU(nas.to_vec())).unwrap(),
        );
    }
    pdu.set_protocol_ies(ies).unwrap();
    pdu.encode().unwrap()
}

/// PDUSessionResourceSetupRequestTransfer for the UPF 203.0.113.2.
pub(crate) fn transfer(ul_teid: u32, qfis: &[u8]) -> Vec<u8> {
    transfer_to(&[203, 0, 113, 2], ul_teid, qfis)
}

/// The same for another UPF: octets of its Transport Layer Address.
pub(crate) fn transfer_to(upf: &[u8], ul_teid: u32, qfis: &[u8]) -> Vec<u8> {
    let tunnel = UPTransportLayerInformation::gTPTunnel(GTPTunnel::new(
        TransportLayerAddress(BitString::from(upf.to_vec())),
        GTPTEID(ul_teid.to_be_bytes()),
        None,
    ));
    let flows = qfis
        .iter()
        .map(|qfi| {
            QosFlowSetupRequestItem::new(
                QosFlowIdentifier(u64::from(*qfi)),
                QosFlowLevelQosParameters::new(
                    QosCharacteristics::nonDynamic5QI(NonDynamic5QIDescriptor::new(
                        FiveQI(9),
                        None,
                        None,
                        None,
                        None,
                    )),
                    AllocationAndRetentionPriority::new(
                        PriorityLevelARP(8),
                        PreEmptionCapability::shall_not_trigger_pre_emption,
                        PreEmptionVulnerability::not_pre_emptable,
                        None,
                    ),
                    None,
                    None,
                    None,
                    None,
                ),
                None,
                None,
            )
        })
        .collect();
    let security = SecurityIndication::new(
        IntegrityProtectionIndication::required,
        ConfidentialityProtectionIndication::required,
        Some(MaximumIntegrityProtectedDataRate::maximum_UE_rate),
        None,
    );
    let ambr = PDUSessionAggregateMaximumBitRate::new(
        BitRate(SESSION_AMBR.downlink),
        BitRate(SESSION_AMBR.uplink),
        None,
    );
    let transfer = PDUSessionResourceSetupRequestTransfer::new(ProtocolIEContainer(vec![
        build_ngap_ie!(PDUSessionResourceSetupRequestTransfer, REJECT
            PDUSessionAggregateMaximumBitRate(ambr))
        .unwrap(),
        build_ngap_ie!(PDUSessionResourceSetupRequestTransfer, REJECT
            UL_NGU_UP_TNLInformation(tunnel))
        .unwrap(),
        build_ngap_ie!(PDUSessionResourceSetupRequestTransfer, REJECT
            PDUSessionType(PDUSessionType::ipv4))
        .unwrap(),
        build_ngap_ie!(PDUSessionResourceSetupRequestTransfer, REJECT
            SecurityIndication(security))
        .unwrap(),
        build_ngap_ie!(PDUSessionResourceSetupRequestTransfer, REJECT
            QosFlowSetupRequestList(QosFlowSetupRequestList(flows)))
        .unwrap(),
    ]));
    encode_open_type(&transfer).unwrap().to_vec()
}

/// One session of a setup request: id, NAS, transfer.
pub(crate) type SessionAsked<'a> = (u8, &'a [u8], Vec<u8>);

pub(crate) fn session_setup(ran: u32, sessions: &[SessionAsked<'_>]) -> Vec<u8> {
    let items = sessions
        .iter()
        .map(|(id, nas, transfer)| {
            PDUSessionResourceSetupItemSUReq::new(
                PDUSessionID(*id),
                Some(NASPDU::from(nas.to_vec())),
                s_nssai(1, Some([1, 2, 3])),
                transfer.clone().into(),
                None,
            )
        })
        .collect();
    build_ngap!(
        InitiatingMessage,
        PDUSessionResourceSetup,
        PDUSessionResourceSetupRequest,
        AMF_UE_NGAP_ID(amf_id(ran)),
        RAN_UE_NGAP_ID(ran),
        PDUSessionResourceSetupListSUReq(PDUSessionResourceSetupListSUReq(items)),
    )
    .unwrap()
    .encode()
    .unwrap()
}

pub(crate) fn session_release(ran: u32, nas: &[u8], sessions: &[u8]) -> Vec<u8> {
    let transfer = encode_open_type(&PDUSessionResourceReleaseCommandTransfer::new(
        Cause::nas(CauseNas::normal_release),
        None,
    ))
    .unwrap()
    .to_vec();
    let items = sessions
        .iter()
        .map(|id| {
            PDUSessionResourceToReleaseItemRelCmd::new(
                PDUSessionID(*id),
                transfer.clone().into(),
                None,
            )
        })
        .collect();
    build_ngap!(
        InitiatingMessage,
        PDUSessionResourceRelease,
        PDUSessionResourceReleaseCommand,
        AMF_UE_NGAP_ID(amf_id(ran)),
        RAN_UE_NGAP_ID(ran),
        NAS_PDU(nas.to_vec()),
        PDUSessionResourceToReleaseListRelCmd(PDUSessionResourceToReleaseListRelCmd(items)),
    )
    .unwrap()
    .encode()
    .unwrap()
}

pub(crate) fn context_release(ran: u32) -> Vec<u8> {
    let pair = UENGAPIDPair::new(AMFUENGAPID(amf_id(ran)), RANUENGAPID(ran), None);
    build_ngap!(
        InitiatingMessage,
        UEContextRelease,
        UEContextReleaseCommand,
        UE_NGAP_IDs(UENGAPIDs::uE_NGAP_ID_pair(pair)),
        Cause(Cause::nas(CauseNas::normal_release)),
    )
    .unwrap()
    .encode()
    .unwrap()
}

pub(crate) fn reset(part: &[u32]) -> Vec<u8> {
    let what = if part.is_empty() {
        ResetType::nG_Interface(ResetAll::reset_all)
    } else {
        let list = part
            .iter()
            .map(|ran| {
                UEAssociatedLogicalNGConnectionItem::new(None, Some(RANUENGAPID(*ran)), None)
            })
            .collect();
        ResetType::partOfNG_Interface(UEAssociatedLogicalNGConnectionList(list))
    };
    build_ngap!(
        InitiatingMessage,
        NGReset,
        NGReset,
        Cause(Cause::misc(CauseMisc::om_intervention)),
        ResetType(what),
    )
    .unwrap()
    .encode()
    .unwrap()
}

pub(crate) fn error_indication(ran: u32, cause: CauseRadioNetwork) -> Vec<u8> {
    build_ngap!(
        InitiatingMessage,
        ErrorIndication,
        ErrorIndication,
        AMF_UE_NGAP_ID(amf_id(ran)),
        RAN_UE_NGAP_ID(ran),
        Cause(Cause::radioNetwork(cause)),
    )
    .unwrap()
    .encode()
    .unwrap()
}

pub(crate) fn overload_start(action: Option<OverloadAction>, percent: Option<u8>) -> Vec<u8> {
    let mut pdu = build_ngap!(InitiatingMessage, OverloadStart, OverloadStart,).unwrap();
    let mut ies = Vec::new();
    if let Some(action) = action {
        let response = OverloadResponse::overloadAction(action);
        ies.push(build_ngap_ie!(OverloadStart, REJECT AMFOverloadResponse(response)).unwrap());
    }
    if let Some(percent) = percent {
        let percent = TrafficLoadReductionIndication(percent);
        ies.push(
            build_ngap_ie!(OverloadStart, IGNORE AMFTrafficLoadReductionIndication(percent))
                .unwrap(),
        );
    }
    pdu.set_protocol_ies(ProtocolIEContainer(ies)).unwrap();
    pdu.encode().unwrap()
}

pub(crate) fn overload_stop() -> Vec<u8> {
    build_ngap!(InitiatingMessage, OverloadStop, OverloadStop,)
        .unwrap()
        .encode()
        .unwrap()
}

/// AMF STATUS INDICATION of the GUAMI with this set and pointer.
pub(crate) fn status_indication((set, pointer): (u16, u8), backup: Option<&str>) -> Vec<u8> {
    let network = plmn("208", "93").unwrap();
    let item = UnavailableGUAMIItem::new(
        guami(network, 1, set, pointer).unwrap(),
        None,
        backup.map(AMFName::from),
        None,
    );
    build_ngap!(
        InitiatingMessage,
        AMFStatusIndication,
        AMFStatusIndication,
        UnavailableGUAMIList(UnavailableGUAMIList(vec![item])),
    )
    .unwrap()
    .encode()
    .unwrap()
}

/// AMF CONFIGURATION UPDATE with the served GUAMI of this set and pointer.
pub(crate) fn guami_update((set, pointer): (u16, u8)) -> Vec<u8> {
    let network = plmn("208", "93").unwrap();
    build_ngap!(
        InitiatingMessage,
        AMFConfigurationUpdate,
        AMFConfigurationUpdate,
        ServedGUAMIList(ServedGUAMIList(vec![ServedGUAMIItem::new(
            guami(network, 1, set, pointer).unwrap(),
            None,
            None
        )])),
    )
    .unwrap()
    .encode()
    .unwrap()
}

pub(crate) fn configuration_update() -> Vec<u8> {
    build_ngap!(
        InitiatingMessage,
        AMFConfigurationUpdate,
        AMFConfigurationUpdate,
        AMFName("amf-renamed"),
    )
    .unwrap()
    .encode()
    .unwrap()
}

/// A session that is up: id, downlink TEID, QFIs.
pub(crate) type SessionUp = (u8, u32, Vec<u8>);
/// Session IDs with their transfers.
type Transfers = Vec<(u8, Vec<u8>)>;

/// The sessions of a setup response: those that are up (id, TEID, QFIs), those that failed.
pub(crate) fn session_outcomes(uplink: &Uplink) -> (Vec<SessionUp>, Vec<(u8, Cause)>) {
    let pdu = &uplink.pdu;
    let (up, failed): (Transfers, Transfers) = match pdu.kind() {
        NgapPduKind::Successful_PDUSessionResourceSetup => {
            let read = || -> Result<_, oxirush_ngap::Error> {
                extract_ngap_ies!(pdu, PDUSessionResourceSetupResponse,
                    opt up: Vec<(u8, Vec<u8>)> = PDUSessionResourceSetupListSURes(list) => list.0
                        .into_iter()
                        .map(|item| (item.pdu_session_id.0, item.pdu_session_resource_setup_response_transfer.to_vec()))
                        .collect(),
                    opt failed: Vec<(u8, Vec<u8>)> = PDUSessionResourceFailedToSetupListSURes(list) => list.0
                        .into_iter()
                        .map(|item| (item.pdu_session_id.0, item.pdu_session_resource_setup_unsuccessful_transfer.to_vec()))
                        .collect(),
                );
                Ok((up.unwrap_or_default(), failed.unwrap_or_default()))
            };
            read().unwrap()
        }
        NgapPduKind::Successful_InitialContextSetup => {
            let read = || -> Result<_, oxirush_ngap::Error> {
                extract_ngap_ies!(pdu, InitialContextSetupResponse,
                    opt up: Vec<(u8, Vec<u8>)> = PDUSessionResourceSetupListCxtRes(list) => list.0
                        .into_iter()
                        .map(|item| (item.pdu_session_id.0, item.pdu_session_resource_setup_response_transfer.to_vec()))
                        .collect(),
                );
                Ok((up.unwrap_or_default(), Vec::new()))
            };
            read().unwrap()
        }
        other => panic!("{other:?} has no sessions"),
    };
    let up = up
        .into_iter()
        .map(|(id, octets)| {
            let transfer: PDUSessionResourceSetupResponseTransfer =
                decode_open_type(&octets).unwrap();
            let result = transfer.security_result.unwrap();
            assert_eq!(
                result.integrity_protection_result,
                IntegrityProtectionResult::performed
            );
            let tunnel = transfer.dl_qos_flow_per_tnl_information;
            let UPTransportLayerInformation::gTPTunnel(gtp) = tunnel.up_transport_layer_information
            else {
                panic!("no GTP tunnel");
            };
            assert_eq!(
                gtp.transport_layer_address.0.as_octets(),
                [203, 0, 113, 1],
                "our N3 address"
            );
            let qfis = tunnel
                .associated_qos_flow_list
                .0
                .iter()
                .map(|flow| u8::try_from(flow.qos_flow_identifier.0).unwrap())
                .collect();
            (id, u32::from_be_bytes(gtp.gtp_teid.0), qfis)
        })
        .collect();
    let failed = failed
        .into_iter()
        .map(|(id, octets)| {
            let transfer: PDUSessionResourceSetupUnsuccessfulTransfer =
                decode_open_type(&octets).unwrap();
            (id, transfer.cause)
        })
        .collect();
    (up, failed)
}
