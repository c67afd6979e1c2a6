//! NGAP as an N3IWF speaks it.

use std::net::{IpAddr, Ipv4Addr};

use core5g::ngap::{UeIds, transport_address};
use oxirush_ngap::helpers::s_nssai;
use oxirush_ngap::ngap::*;
use oxirush_ngap::{Bits, build_ngap, extract_ngap_ies};

pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
pub const TEID: u32 = 0x0a0b_0c0d;

pub struct Announce {
    pub plmn: [u8; 3],
    pub tac: [u8; 3],
    pub slice: (u8, Option<[u8; 3]>),
    pub n3iwf: bool,
}

impl Default for Announce {
    fn default() -> Self {
        Self {
            plmn: [0x02, 0xf8, 0x39],
            tac: [0, 0, 1],
            slice: (1, Some([1, 2, 3])),
            n3iwf: true,
        }
    }
}

pub fn ng_setup(announce: &Announce) -> Vec<u8> {
    let plmn = PLMNIdentity(announce.plmn);
    let node = if announce.n3iwf {
        let id = N3IWFID::n3IWF_ID(Bits::new(135, 16).unwrap());
        GlobalRANNodeID::globalN3IWF_ID(GlobalN3IWFID::new(plmn, id, None))
    } else {
        let gnb = oxirush_ngap::helpers::global_gnb_id(plmn, 1, 24).unwrap();
        GlobalRANNodeID::globalGNB_ID(gnb)
    };
    let (sst, sd) = announce.slice;
    let slices = SliceSupportList(vec![SliceSupportItem::new(s_nssai(sst, sd), None)]);
    let plmns = BroadcastPLMNList(vec![BroadcastPLMNItem::new(plmn, slices, None)]);
    let area = SupportedTAItem::new(TAC(announce.tac), plmns, None);
    encode(
        &build_ngap!(
            InitiatingMessage,
            NGSetup,
            NGSetupRequest,
            GlobalRANNodeID(node),
            RANNodeName("n3iwf.example.net"),
            SupportedTAList(SupportedTAList(vec![area])),
            DefaultPagingDRX(PagingDRX::v128),
        )
        .unwrap(),
    )
}

fn location() -> UserLocationInformation<'static> {
    let address = transport_address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)));
    let location =
        UserLocationInformationN3IWFWithPortNumber::new(address, PortNumber([0x11, 0x94]), None);
    UserLocationInformation::userLocationInformationN3IWF_with_PortNumber(location)
}

pub fn initial_ue(ran_id: u32, nas: Vec<u8>) -> Vec<u8> {
    encode(
        &build_ngap!(
            InitiatingMessage,
            InitialUEMessage,
            InitialUEMessage,
            RAN_UE_NGAP_ID(ran_id),
            NAS_PDU(nas),
            UserLocationInformation(location()),
            RRCEstablishmentCause(RRCEstablishmentCause::mo_Signalling),
            UEContextRequest(UEContextRequest::requested),
        )
        .unwrap(),
    )
}

pub fn uplink(ids: UeIds, nas: Vec<u8>) -> Vec<u8> {
    encode(
        &build_ngap!(
            InitiatingMessage,
            UplinkNASTransport,
            UplinkNASTransport,
            AMF_UE_NGAP_ID(ids.amf),
            RAN_UE_NGAP_ID(ids.ran),
            NAS_PDU(nas),
            UserLocationInformation(location()),
        )
        .unwrap(),
    )
}

pub fn context_ready(ids: UeIds) -> Vec<u8> {
    encode(
        &build_ngap!(
            SuccessfulOutcome,
            InitialContextSetup,
            InitialContextSetupResponse,
            AMF_UE_NGAP_ID(ids.amf),
            RAN_UE_NGAP_ID(ids.ran),
        )
        .unwrap(),
    )
}

pub fn context_failed(ids: UeIds) -> Vec<u8> {
    encode(
        &build_ngap!(
            UnsuccessfulOutcome,
            InitialContextSetup,
            InitialContextSetupFailure,
            AMF_UE_NGAP_ID(ids.amf),
            RAN_UE_NGAP_ID(ids.ran),
            Cause(Cause::radioNetwork(
                CauseRadioNetwork::failure_in_radio_interface_procedure
            )),
        )
        .unwrap(),
    )
}

pub fn session_ready(ids: UeIds, session: u8, address: IpAddr, teid: u32, qfis: &[u8]) -> Vec<u8> {
    let tunnel = GTPTunnel::new(
        transport_address(address),
        GTPTEID(teid.to_be_bytes()),
        None,
    );
    let flows = qfis
        .iter()
        .map(|qfi| AssociatedQosFlowItem::new(QosFlowIdentifier(u64::from(*qfi)), None, None))
        .collect();
    let flows = QosFlowPerTNLInformation::new(
        UPTransportLayerInformation::gTPTunnel(tunnel),
        AssociatedQosFlowList(flows),
        None,
    );
    let transfer = PDUSessionResourceSetupResponseTransfer::new(flows, None, None, None, None);
    let item = PDUSessionResourceSetupItemSURes::new(
        PDUSessionID(session),
        encode_open_type(&transfer).unwrap(),
        None,
    );
    encode(
        &build_ngap!(
            SuccessfulOutcome,
            PDUSessionResourceSetup,
            PDUSessionResourceSetupResponse,
            AMF_UE_NGAP_ID(ids.amf),
            RAN_UE_NGAP_ID(ids.ran),
            PDUSessionResourceSetupListSURes(PDUSessionResourceSetupListSURes(vec![item])),
        )
        .unwrap(),
    )
}

pub fn session_failed(ids: UeIds, session: u8) -> Vec<u8> {
    let cause = Cause::radioNetwork(CauseRadioNetwork::radio_resources_not_available);
    let transfer = PDUSessionResourceSetupUnsuccessfulTransfer::new(cause, None, None);
    let item = PDUSessionResourceFailedToSetupItemSURes::new(
        PDUSessionID(session),
        encode_open_type(&transfer).unwrap(),
        None,
    );
    encode(
        &build_ngap!(
            SuccessfulOutcome,
            PDUSessionResourceSetup,
            PDUSessionResourceSetupResponse,
            AMF_UE_NGAP_ID(ids.amf),
            RAN_UE_NGAP_ID(ids.ran),
            PDUSessionResourceFailedToSetupListSURes(PDUSessionResourceFailedToSetupListSURes(
                vec![item]
            )),
        )
        .unwrap(),
    )
}

pub fn session_released(ids: UeIds, session: u8) -> Vec<u8> {
    let transfer = PDUSessionResourceReleaseResponseTransfer::new(None);
    let item = PDUSessionResourceReleasedItemRelRes::new(
        PDUSessionID(session),
        encode_open_type(&transfer).unwrap(),
        None,
    );
    encode(
        &build_ngap!(
            SuccessfulOutcome,
            PDUSessionResourceRelease,
            PDUSessionResourceReleaseResponse,
            AMF_UE_NGAP_ID(ids.amf),
            RAN_UE_NGAP_ID(ids.ran),
            PDUSessionResourceReleasedListRelRes(PDUSessionResourceReleasedListRelRes(vec![item])),
        )
        .unwrap(),
    )
}

pub fn release_request(ids: UeIds) -> Vec<u8> {
    encode(
        &build_ngap!(
            InitiatingMessage,
            UEContextReleaseRequest,
            UEContextReleaseRequest,
            AMF_UE_NGAP_ID(ids.amf),
            RAN_UE_NGAP_ID(ids.ran),
            Cause(Cause::radioNetwork(
                CauseRadioNetwork::radio_connection_with_ue_lost
            )),
        )
        .unwrap(),
    )
}

pub fn release_complete(ids: UeIds) -> Vec<u8> {
    encode(
        &build_ngap!(
            SuccessfulOutcome,
            UEContextRelease,
            UEContextReleaseComplete,
            AMF_UE_NGAP_ID(ids.amf),
            RAN_UE_NGAP_ID(ids.ran),
        )
        .unwrap(),
    )
}

pub fn ng_reset(part: Option<UeIds>) -> Vec<u8> {
    let kind = match part {
        None => ResetType::nG_Interface(ResetAll::reset_all),
        Some(ids) => {
            let item = UEAssociatedLogicalNGConnectionItem::new(
                Some(ids.amf.into()),
                Some(ids.ran.into()),
                None,
            );
            ResetType::partOfNG_Interface(UEAssociatedLogicalNGConnectionList(vec![item]))
        }
    };
    encode(
        &build_ngap!(
            InitiatingMessage,
            NGReset,
            NGReset,
            Cause(Cause::misc(CauseMisc::om_intervention)),
            ResetType(kind),
        )
        .unwrap(),
    )
}

/// DOWNLINK NAS TRANSPORT: its identifiers and NAS-PDU.
pub fn downlink(octets: &[u8]) -> (UeIds, Vec<u8>) {
    let read = || -> Result<_, oxirush_ngap::Error> {
        let pdu = checked(octets);
        extract_ngap_ies!(pdu, DownlinkNASTransport,
            req amf: u64 = AMF_UE_NGAP_ID(id),
            req ran: u32 = RAN_UE_NGAP_ID(id),
            req nas: Vec<u8> = NAS_PDU(nas) => nas.0.to_vec(),
        );
        Ok((UeIds { amf, ran }, nas))
    };
    read().unwrap()
}

/// INITIAL CONTEXT SETUP REQUEST: identifiers, K_N3IWF, NAS-PDU.
pub fn context_setup(octets: &[u8]) -> (UeIds, [u8; 32], Option<Vec<u8>>) {
    let read = || -> Result<_, oxirush_ngap::Error> {
        let pdu = checked(octets);
        extract_ngap_ies!(pdu, InitialContextSetupRequest,
            req amf: u64 = AMF_UE_NGAP_ID(id),
            req ran: u32 = RAN_UE_NGAP_ID(id),
            req key: [u8; 32] = SecurityKey(key) => key.0.as_octets().try_into().unwrap(),
            req allowed: usize = AllowedNSSAI(list) => list.0.len(),
            req capabilities: Vec<u8> = UESecurityCapabilities(c) =>
                c.nr_integrity_protection_algorithms.0.as_octets().to_vec(),
            opt nas: Vec<u8> = NAS_PDU(nas) => nas.0.to_vec(),
        );
        assert!(allowed > 0);
        // The UE's capability is IA0, IA1, IA2; NGAP starts with IA1.
        assert_eq!(capabilities, [0xc0, 0]);
        Ok((UeIds { amf, ran }, key, nas))
    };
    read().unwrap()
}

/// What PDU SESSION RESOURCE SETUP REQUEST asks for.
pub struct SetupRequest {
    pub session: u8,
    pub nas: Vec<u8>,
    pub uplink: (IpAddr, u32),
    pub qfis: Vec<u8>,
    pub reflective: Vec<u8>,
}

pub fn session_setup(octets: &[u8]) -> SetupRequest {
    let read = || -> Result<_, oxirush_ngap::Error> {
        let pdu = checked(octets);
        extract_ngap_ies!(pdu, PDUSessionResourceSetupRequest,
            req list: PDUSessionResourceSetupListSUReq =
                PDUSessionResourceSetupListSUReq(list) => list,
            req ambr: u64 = UEAggregateMaximumBitRate(a) => a.ue_aggregate_maximum_bit_rate_ul.0,
        );
        assert_eq!(ambr, 1_000_000_000);
        let item = &list.0[0];
        let transfer: PDUSessionResourceSetupRequestTransfer<'_> =
            decode_open_type(&item.pdu_session_resource_setup_request_transfer)?;
        let deviations = PDUSessionResourceSetupRequestTransfer::check(
            &item.pdu_session_resource_setup_request_transfer,
        )?;
        assert!(deviations.is_empty(), "{deviations:?}");
        extract_ngap_ies!(transfer, PDUSessionResourceSetupRequestTransfer,
            req up: UPTransportLayerInformation = UL_NGU_UP_TNLInformation(up) => up,
            req kind: PDUSessionType = PDUSessionType(kind) => kind,
            req flows: QosFlowSetupRequestList = QosFlowSetupRequestList(flows) => flows,
        );
        assert_eq!(kind, PDUSessionType::ipv4);
        let UPTransportLayerInformation::gTPTunnel(tunnel) = up else {
            panic!("a GTP tunnel");
        };
        let address = core5g::ngap::ip_address(&tunnel.transport_layer_address).unwrap();
        Ok(SetupRequest {
            session: item.pdu_session_id.0,
            nas: item.pdu_session_nas_pdu.as_ref().unwrap().0.to_vec(),
            uplink: (address, u32::from_be_bytes(tunnel.gtp_teid.0)),
            qfis: flows
                .0
                .iter()
                .map(|flow| u8::try_from(flow.qos_flow_identifier.0).unwrap())
                .collect(),
            reflective: flows
                .0
                .iter()
                .filter(|flow| {
                    flow.qos_flow_level_qos_parameters
                        .reflective_qos_attribute
                        .is_some()
                })
                .map(|flow| u8::try_from(flow.qos_flow_identifier.0).unwrap())
                .collect(),
        })
    };
    read().unwrap()
}

/// PDU SESSION RESOURCE RELEASE COMMAND: session and NAS-PDU.
pub fn session_release(octets: &[u8]) -> (u8, Option<Vec<u8>>) {
    let read = || -> Result<_, oxirush_ngap::Error> {
        let pdu = checked(octets);
        extract_ngap_ies!(pdu, PDUSessionResourceReleaseCommand,
            opt nas: Vec<u8> = NAS_PDU(nas) => nas.0.to_vec(),
            req session: u8 = PDUSessionResourceToReleaseListRelCmd(list) =>
                list.0[0].pdu_session_id.0,
        );
        Ok((session, nas))
    };
    read().unwrap()
}

/// UE CONTEXT RELEASE COMMAND: identifiers and cause.
pub fn context_release(octets: &[u8]) -> (UeIds, Cause) {
    let read = || -> Result<_, oxirush_ngap::Error> {
        let pdu = checked(octets);
        extract_ngap_ies!(pdu, UEContextReleaseCommand,
            req ids: UENGAPIDs = UE_NGAP_IDs(ids) => ids,
            req cause: Cause = Cause(cause) => cause,
        );
        let UENGAPIDs::uE_NGAP_ID_pair(pair) = ids else {
            panic!("a pair of identifiers");
        };
        let ids = UeIds {
            amf: pair.amf_ue_ngap_id.0,
            ran: pair.ran_ue_ngap_id.0,
        };
        Ok((ids, cause))
    };
    read().unwrap()
}

/// A message of the core, which has to be as the ASN.1 wants it.
pub fn checked(octets: &[u8]) -> NGAP_PDU {
    let pdu = NGAP_PDU::decode(octets).unwrap();
    let deviations = pdu.check().unwrap();
    assert!(deviations.is_empty(), "{pdu}: {deviations:?}");
    pdu
}

fn encode(pdu: &NGAP_PDU) -> Vec<u8> {
    checked(&pdu.encode().unwrap()).encode().unwrap()
}
