//! From the AMF.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use dataplane::relay::Ambr;
use keys::Secret;
use nwu::{Guami, Plmn};
use oxirush_ngap::{
    Deviation, Error, NgapPduKind, extract_ngap_ies, ie,
    ngap::{
        AMFUENGAPID, AllowedNSSAI, Cause, CauseProtocol, CauseRadioNetwork, Criticality,
        CriticalityDiagnostics, NGAPPDU, PDUSessionAggregateMaximumBitRate,
        PDUSessionResourceSetupListCxtReq, PDUSessionResourceSetupListSUReq,
        PDUSessionResourceSetupRequestTransfer, PDUSessionResourceToReleaseListRelCmd,
        PLMNIdentity, PLMNSupportList, QosCharacteristics, QosFlowIdentifier,
        QosFlowLevelQosParameters, QosFlowSetupRequestList, RANUENGAPID, ResetType,
        SecurityIndication, ServedGUAMIList, TimeToWait, TransportLayerAddress,
        UEAggregateMaximumBitRate, UENGAPIDs, UPTransportLayerInformation, decode_open_type,
    },
};

use super::{
    AmfInfo, AmfMessage, Backups, ContextSetup, QosFlow, ResetScope, SessionRequest, SetupTransfer,
    TransportAddress, UeIds, encode::error_indication_with, modify, overload,
};

/// Why a message has no meaning, and what to send back.
#[derive(Debug)]
pub struct Fault {
    /// For the log.
    pub reason: String,
    /// An ERROR INDICATION, encoded; `None` where the standard wants silence.
    pub answer: Option<Vec<u8>>,
}

/// Reads one NGAP message.
///
/// IEs an N3IWF has no use for are not looked at (TS 29.413, 5.3). A message it cannot follow is
/// answered as TS 38.413 clause 10 says: by the criticality of what was not understood.
///
/// # Errors
///
/// [`Fault`], boxed because it is rare.
pub fn decode(octets: &[u8]) -> Result<AmfMessage, Box<Fault>> {
    let pdu = NGAPPDU::decode_borrowed(octets).map_err(|error| {
        Box::new(Fault {
            reason: format!("no NGAP message: {error}"),
            // TS 38.413 10.2: transfer syntax error.
            answer: error_indication_with(
                None,
                None,
                Cause::protocol(CauseProtocol::transfer_syntax_error),
                None,
            )
            .ok(),
        })
    })?;
    refuse_foreign_ies(&pdu)?;
    message(&pdu).map_err(|error| faulty(&pdu, &error))
}

/// TS 38.413 10.3.4.2: an IE that is not comprehended and has criticality reject rejects the
/// message.
fn refuse_foreign_ies(pdu: &NGAPPDU<'_>) -> Result<(), Box<Fault>> {
    let Ok(deviations) = pdu.check_structure() else {
        return Ok(());
    };
    let foreign: Vec<Deviation> = deviations
        .into_iter()
        .filter(|deviation| {
            matches!(
                deviation,
                Deviation::UnexpectedIe {
                    criticality: Criticality::reject,
                    ..
                }
            )
        })
        .collect();
    let Some(first) = foreign.first() else {
        return Ok(());
    };
    Err(Box::new(Fault {
        reason: format!("{pdu}: {first}"),
        answer: answer(
            pdu,
            Cause::protocol(CauseProtocol::abstract_syntax_error_reject),
            Some(pdu.criticality_diagnostics(&foreign)),
        ),
    }))
}

/// A known message with an IE that is missing or cannot be read.
fn faulty(pdu: &NGAPPDU<'_>, error: &Error) -> Box<Fault> {
    let deviation = Deviation::of(error);
    let cause = deviation
        .as_ref()
        .and_then(Deviation::cause)
        .unwrap_or(CauseProtocol::abstract_syntax_error_reject);
    let diagnostics = deviation.map(|deviation| pdu.criticality_diagnostics(&[deviation]));
    Box::new(Fault {
        reason: format!("{pdu}: {error}"),
        answer: answer(pdu, Cause::protocol(cause), diagnostics),
    })
}

fn answer(
    pdu: &NGAPPDU<'_>,
    cause: Cause,
    diagnostics: Option<CriticalityDiagnostics>,
) -> Option<Vec<u8>> {
    // An ERROR INDICATION is never answered with another one.
    if matches!(pdu.kind(), NgapPduKind::Initiating_ErrorIndication) {
        return None;
    }
    let amf: Option<AMFUENGAPID> = pdu.ie::<ie::AMF_UE_NGAP_ID>().and_then(Result::ok);
    let ran: Option<RANUENGAPID> = pdu.ie::<ie::RAN_UE_NGAP_ID>().and_then(Result::ok);
    error_indication_with(amf.map(|id| id.0), ran.map(|id| id.0), cause, diagnostics).ok()
}

fn message(pdu: &NGAPPDU<'_>) -> Result<AmfMessage, Error> {
    use NgapPduKind as K;
    Ok(match pdu.kind() {
        K::Successful_NGSetup => {
            extract_ngap_ies!(pdu, NGSetupResponse,
                req name: String = AMFName(name) => name.0.into_owned(),
                req served: (Vec<Guami>, Backups) = ServedGUAMIList(list) => read_guamis(&list),
                req capacity: u8 = RelativeAMFCapacity(capacity) => capacity.0,
                req plmns: Vec<Plmn> = PLMNSupportList(list) => read_plmns(&list),
            );
            let (guamis, backups) = served;
            AmfMessage::NgSetupResponse(AmfInfo {
                name: printable(&name),
                guamis,
                backups,
                plmns,
                capacity,
            })
        }
        K::Unsuccessful_NGSetup => {
            extract_ngap_ies!(pdu, NGSetupFailure,
                lax cause: Cause = Cause(cause) => cause,
                lax wait: TimeToWait = TimeToWait(wait) => wait,
            );
            AmfMessage::NgSetupFailure {
                cause,
                wait: wait.map(duration),
            }
        }
        K::Initiating_DownlinkNASTransport => {
            extract_ngap_ies!(pdu, DownlinkNASTransport,
                req amf: u64 = AMF_UE_NGAP_ID(id),
                req ran: u32 = RAN_UE_NGAP_ID(id),
                req nas: Vec<u8> = NAS_PDU(nas) => nas.0.into_vec(),
            );
            AmfMessage::DownlinkNas {
                ue: UeIds { amf, ran },
                nas,
            }
        }
        K::Initiating_InitialContextSetup => AmfMessage::ContextSetup(context_setup(pdu)?),
        K::Initiating_PDUSessionResourceSetup => {
            extract_ngap_ies!(pdu, PDUSessionResourceSetupRequest,
                req amf: u64 = AMF_UE_NGAP_ID(id),
                req ran: u32 = RAN_UE_NGAP_ID(id),
                opt nas: Vec<u8> = NAS_PDU(nas) => nas.0.into_vec(),
                req list: PDUSessionResourceSetupListSUReq = PDUSessionResourceSetupListSUReq(list) => list,
                lax ambr: Ambr = UEAggregateMaximumBitRate(rate) => ue_ambr(&rate),
            );
            let sessions = list
                .0
                .into_iter()
                .map(|item| SessionRequest {
                    id: item.pdu_session_id.0,
                    nas: item.pdu_session_nas_pdu.map(|nas| nas.0.into_vec()),
                    transfer: transfer(&item.pdu_session_resource_setup_request_transfer),
                })
                .collect();
            AmfMessage::SessionSetup {
                ue: UeIds { amf, ran },
                nas,
                ue_ambr: ambr,
                sessions,
            }
        }
        K::Initiating_PDUSessionResourceRelease => {
            extract_ngap_ies!(pdu, PDUSessionResourceReleaseCommand,
                req amf: u64 = AMF_UE_NGAP_ID(id),
                req ran: u32 = RAN_UE_NGAP_ID(id),
                lax nas: Vec<u8> = NAS_PDU(nas) => nas.0.into_vec(),
                req list: PDUSessionResourceToReleaseListRelCmd = PDUSessionResourceToReleaseListRelCmd(list) => list,
            );
            AmfMessage::SessionRelease {
                ue: UeIds { amf, ran },
                nas,
                sessions: list.0.iter().map(|item| item.pdu_session_id.0).collect(),
            }
        }
        K::Initiating_PDUSessionResourceModify => modify::session_modify(pdu)?,
        K::Initiating_UEContextModification => modify::context_modification(pdu)?,
        K::Initiating_UEContextRelease => {
            extract_ngap_ies!(pdu, UEContextReleaseCommand,
                req ids: UENGAPIDs = UE_NGAP_IDs(ids) => ids,
                lax cause: Cause = Cause(cause) => cause,
            );
            match ids {
                UENGAPIDs::uE_NGAP_ID_pair(pair) => AmfMessage::ContextRelease {
                    amf: pair.amf_ue_ngap_id.0,
                    ran: Some(pair.ran_ue_ngap_id.0),
                    cause,
                },
                UENGAPIDs::aMF_UE_NGAP_ID(amf) => AmfMessage::ContextRelease {
                    amf: amf.0,
                    ran: None,
                    cause,
                },
                _ => AmfMessage::Noted("UE CONTEXT RELEASE COMMAND of a later release"),
            }
        }
        K::Initiating_ErrorIndication => {
            extract_ngap_ies!(pdu, ErrorIndication,
                lax amf: u64 = AMF_UE_NGAP_ID(id),
                lax ran: u32 = RAN_UE_NGAP_ID(id),
                lax cause: Cause = Cause(cause) => cause,
            );
            AmfMessage::ErrorIndication { amf, ran, cause }
        }
        K::Initiating_NGReset => {
            extract_ngap_ies!(pdu, NGReset,
                req what: ResetType = ResetType(what) => what,
            );
            match what {
                ResetType::nG_Interface(_) => AmfMessage::Reset(ResetScope::All),
                ResetType::partOfNG_Interface(list) => AmfMessage::Reset(ResetScope::Part(
                    list.0
                        .iter()
                        .map(|item| {
                            (
                                item.amf_ue_ngap_id.as_ref().map(|id| id.0),
                                item.ran_ue_ngap_id.as_ref().map(|id| id.0),
                            )
                        })
                        .collect(),
                )),
                _ => AmfMessage::Noted("NG RESET of a later release"),
            }
        }
        K::Successful_NGReset => AmfMessage::ResetAcknowledge,
        K::Initiating_AMFConfigurationUpdate => {
            extract_ngap_ies!(pdu, AMFConfigurationUpdate,
                opt name: String = AMFName(name) => printable(&name.0),
                opt served: (Vec<Guami>, Backups) = ServedGUAMIList(list) => read_guamis(&list),
                lax capacity: u8 = RelativeAMFCapacity(capacity) => capacity.0,
                opt supported: Vec<Plmn> = PLMNSupportList(list) => read_plmns(&list),
            );
            AmfMessage::ConfigurationUpdate {
                name,
                guamis: served,
                plmns: supported,
                capacity,
            }
        }
        K::Initiating_AMFStatusIndication => overload::status_indication(pdu)?,
        K::Initiating_OverloadStart => overload::overload_start(pdu)?,
        K::Initiating_OverloadStop => overload::overload_stop(pdu)?,
        _ => return unknown(pdu),
    })
}

/// A procedure an N3IWF does not run: by the criticality of the procedure (TS 38.413, 10.3.4.1).
fn unknown(pdu: &NGAPPDU<'_>) -> Result<AmfMessage, Error> {
    if pdu.is_initiating() && pdu.criticality() == Criticality::reject {
        // Any error without an IE ends as abstract-syntax-error-reject.
        return Err(Error::argument("an N3IWF does not run this procedure"));
    }
    Ok(AmfMessage::Noted("a procedure an N3IWF does not run"))
}

fn context_setup(pdu: &NGAPPDU<'_>) -> Result<ContextSetup, Error> {
    extract_ngap_ies!(pdu, InitialContextSetupRequest,
        req amf: u64 = AMF_UE_NGAP_ID(id),
        req ran: u32 = RAN_UE_NGAP_ID(id),
        req _slices: AllowedNSSAI = AllowedNSSAI(slices) => slices,
        req key: Secret = SecurityKey(key) => Secret::from_slice(key.0.as_octets()),
        opt list: PDUSessionResourceSetupListCxtReq = PDUSessionResourceSetupListCxtReq(list) => list,
        lax nas: Vec<u8> = NAS_PDU(nas) => nas.0.into_vec(),
        lax ambr: Ambr = UEAggregateMaximumBitRate(rate) => ue_ambr(&rate),
    );
    let sessions = list
        .into_iter()
        .flat_map(|list| list.0)
        .map(|item| SessionRequest {
            id: item.pdu_session_id.0,
            nas: item.nas_pdu.map(|nas| nas.0.into_vec()),
            transfer: transfer(&item.pdu_session_resource_setup_request_transfer),
        })
        .collect();
    Ok(ContextSetup {
        ue: UeIds { amf, ran },
        key,
        nas,
        ue_ambr: ambr,
        sessions,
    })
}

fn transfer(octets: &[u8]) -> Result<SetupTransfer, Cause> {
    let syntax = |_| Cause::protocol(CauseProtocol::transfer_syntax_error);
    let decoded: PDUSessionResourceSetupRequestTransfer =
        decode_open_type(octets).map_err(syntax)?;
    let read = || -> Result<_, Error> {
        extract_ngap_ies!(decoded, PDUSessionResourceSetupRequestTransfer,
            req tunnel: UPTransportLayerInformation = UL_NGU_UP_TNLInformation(tunnel) => tunnel,
            req flows: QosFlowSetupRequestList = QosFlowSetupRequestList(flows) => flows,
            opt security: SecurityIndication = SecurityIndication(security) => security,
            lax ambr: Ambr = PDUSessionAggregateMaximumBitRate(rate) => session_ambr(&rate),
        );
        Ok((self::tunnel(&tunnel), flows, security.is_some(), ambr))
    };
    let (tunnel, flows, security_indicated, ambr) =
        read().map_err(|_| Cause::protocol(CauseProtocol::abstract_syntax_error_reject))?;
    let Some((upf, ul_teid)) = tunnel else {
        return Err(Cause::protocol(CauseProtocol::semantic_error));
    };
    let mut known: Vec<QosFlow> = Vec::with_capacity(flows.0.len());
    for flow in &flows.0 {
        let qfi = qfi(&flow.qos_flow_identifier)?;
        if known.iter().any(|other| other.qfi == qfi) {
            return Err(Cause::radioNetwork(
                CauseRadioNetwork::multiple_qos_flow_ID_instances,
            ));
        }
        known.push(QosFlow {
            qfi,
            five_qi: five_qi(&flow.qos_flow_level_qos_parameters),
            gbr: flow
                .qos_flow_level_qos_parameters
                .gbr_qos_information
                .is_some(),
        });
    }
    if known.is_empty() {
        return Err(Cause::protocol(CauseProtocol::semantic_error));
    }
    Ok(SetupTransfer {
        upf,
        ul_teid,
        flows: known,
        ambr,
        security_indicated,
    })
}

/// QFI is 0..63 with an extension marker; GRE and GTP-U have six bits for it.
pub(super) fn qfi(identifier: &QosFlowIdentifier) -> Result<u8, Cause> {
    u8::try_from(identifier.0)
        .ok()
        .filter(|qfi| *qfi < 64)
        .ok_or(Cause::radioNetwork(CauseRadioNetwork::unkown_qos_flow_ID))
}

pub(super) fn five_qi(parameters: &QosFlowLevelQosParameters) -> Option<u8> {
    let five_qi = match &parameters.qos_characteristics {
        QosCharacteristics::nonDynamic5QI(descriptor) => Some(descriptor.five_qi.0),
        QosCharacteristics::dynamic5QI(descriptor) => descriptor.five_qi.as_ref().map(|qi| qi.0),
        _ => None,
    };
    five_qi.and_then(|five_qi| u8::try_from(five_qi).ok())
}

/// Address and TEID of a GTP-U tunnel.
pub(super) fn tunnel(
    information: &UPTransportLayerInformation<'_>,
) -> Option<(TransportAddress, u32)> {
    let UPTransportLayerInformation::gTPTunnel(tunnel) = information else {
        return None;
    };
    let teid = u32::from_be_bytes(tunnel.gtp_teid.0);
    address(&tunnel.transport_layer_address).map(|address| (address, teid))
}

pub(super) fn session_ambr(rate: &PDUSessionAggregateMaximumBitRate) -> Ambr {
    Ambr {
        uplink: rate.pdu_session_aggregate_maximum_bit_rate_ul.0,
        downlink: rate.pdu_session_aggregate_maximum_bit_rate_dl.0,
    }
}

pub(super) fn ue_ambr(rate: &UEAggregateMaximumBitRate) -> Ambr {
    Ambr {
        uplink: rate.ue_aggregate_maximum_bit_rate_ul.0,
        downlink: rate.ue_aggregate_maximum_bit_rate_dl.0,
    }
}

/// `None`: of no length that TS 38.414, 5.1 has. Of 160 bits the first 32 are those of IPv4.
fn address(bits: &TransportLayerAddress<'_>) -> Option<TransportAddress> {
    let octets = bits.0.as_octets();
    match bits.0.len() {
        32 => {
            let v4 = Ipv4Addr::from(*octets.first_chunk::<4>()?);
            Some(TransportAddress::One(v4.into()))
        }
        128 => {
            let v6 = Ipv6Addr::from(*octets.first_chunk::<16>()?);
            Some(TransportAddress::One(v6.into()))
        }
        160 => {
            let (v4, rest) = octets.split_first_chunk::<4>()?;
            let v6 = Ipv6Addr::from(*rest.first_chunk::<16>()?);
            Some(TransportAddress::Both((*v4).into(), v6))
        }
        _ => None,
    }
}

/// Served GUAMIs, and who takes over from them.
fn read_guamis(list: &ServedGUAMIList<'_>) -> (Vec<Guami>, Backups) {
    let read = |item| overload::guami(item);
    let served = list.0.iter().filter_map(|item| read(&item.guami)).collect();
    let backups = list.0.iter().filter_map(|item| {
        let name = item.backup_amf_name.as_ref()?;
        Some((read(&item.guami)?, printable(&name.0)))
    });
    (served, backups.collect())
}

fn read_plmns(list: &PLMNSupportList) -> Vec<Plmn> {
    list.0
        .iter()
        .filter_map(|item| plmn(&item.plmn_identity))
        .collect()
}

/// By digits: NGAP orders a three-digit MNC otherwise than TS 24.502 does.
pub(super) fn plmn(identity: &PLMNIdentity) -> Option<Plmn> {
    let (mcc, mnc) = oxirush_ngap::helpers::plmn_from(identity)?;
    Plmn::from_digits(&mcc, &mnc)
}

fn duration(wait: TimeToWait) -> Duration {
    Duration::from_secs(match wait {
        TimeToWait::v1s => 1,
        TimeToWait::v2s => 2,
        TimeToWait::v5s => 5,
        TimeToWait::v10s => 10,
        TimeToWait::v20s => 20,
        _ => 60,
    })
}

pub(super) fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(150).collect()
}
