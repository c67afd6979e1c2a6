//! The NAS messages that the AMF and the SMF send (TS 24.501).

use std::net::Ipv4Addr;

use oxirush_nas::common::Plmn as NasPlmn;
use oxirush_nas::nas_5gs::{
    AccessTypeValue, CipheringAlgorithm, GmmCause, GsmCause, Guti, ImeisvRequestValue,
    IntegrityAlgorithm, KeySetIdentifier, MobileIdentityType, Nas5gmmMessage, Nas5gsMessage,
    NasAbba, NasAdditional5gSecurityInformation, NasAllowedSscMode, NasAuthenticationParameterAutn,
    NasAuthenticationParameterRand, NasAuthenticationReject, NasAuthenticationRequest,
    NasConfigurationUpdateCommand, NasConfigurationUpdateIndication, NasDeRegistrationType,
    NasDeregistrationAcceptUeOriginating, NasDeregistrationRequestUeTerminated, NasDlNasTransport,
    NasDnn, NasExtendedProtocolConfigurationOptions, NasFGmmCause, NasFGsIdentityType,
    NasFGsMobileIdentity, NasFGsNetworkFeatureSupport, NasFGsRegistrationResult,
    NasFGsTrackingAreaIdentityList, NasFGsmCause, NasGprsTimer2, NasIdentityRequest,
    NasImeisvRequest, NasKeySetIdentifier, NasNetworkName, NasNssai, NasPayloadContainer,
    NasPayloadContainerType, NasPduAddress, NasPduSessionEstablishmentAccept,
    NasPduSessionEstablishmentReject, NasPduSessionIdentity2, NasPduSessionModificationCommand,
    NasPduSessionReleaseCommand, NasPduSessionReleaseReject, NasPduSessionType,
    NasQosFlowDescriptions, NasQosRules, NasRegistrationAccept, NasRegistrationReject,
    NasRejectedNssai, NasSNssai, NasSecurityAlgorithms, NasSecurityModeCommand, NasSessionAmbr,
    NasSscMode, NasUeSecurityCapability, PayloadContainerKind, PduSessionTypeValue,
    QosFlowDescription, QosFlowOpCode, QosFlowParameter, QosPacketFilter, QosPacketFilterComponent,
    QosPacketFilterDirection, QosRule, QosRuleOpCode, RegistrationResult, RejectedNssaiCause,
    SscModeValue,
};

use crate::config::{Ambr, Ciphering, DnnConfig, FlowConfig, Integrity};
use crate::types::{Slice, Tac};

/// A value that the codec refuses to encode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("NAS: {0}")]
pub struct BuildError(String);

fn wrong(error: impl std::fmt::Display) -> BuildError {
    BuildError(error.to_string())
}

type Built = Result<Nas5gsMessage, BuildError>;

/// A message's name as its type is called, the inner one of a transport.
#[must_use]
pub fn name(message: &Nas5gsMessage) -> String {
    match message {
        Nas5gsMessage::Gmm(_, Nas5gmmMessage::DlNasTransport(transport)) => transport
            .payload_container
            .decode_as_n1_sm_message()
            .map_or_else(|_| "DlNasTransport".to_owned(), |inner| name(&inner)),
        Nas5gsMessage::Gmm(_, Nas5gmmMessage::UlNasTransport(transport)) => transport
            .payload_container
            .decode_as_n1_sm_message()
            .map_or_else(|_| "UlNasTransport".to_owned(), |inner| name(&inner)),
        Nas5gsMessage::Gmm(_, message) => format!("{:?}", message.message_type()),
        Nas5gsMessage::Gsm(_, message) => format!("{:?}", message.message_type()),
        Nas5gsMessage::SecurityProtected(_, inner) => name(inner),
        _ => "Opaque".to_owned(),
    }
}

/// IDENTITY REQUEST for the SUCI.
pub fn identity_request() -> Built {
    let kind = NasFGsIdentityType::from_identity_type(MobileIdentityType::Suci).map_err(wrong)?;
    Ok(Nas5gsMessage::new_5gmm(NasIdentityRequest::new(kind)))
}

/// AUTHENTICATION REQUEST of 5G AKA.
pub fn authentication_request(ksi: u8, rand: [u8; 16], autn: [u8; 16]) -> Built {
    let request = NasAuthenticationRequest::new(key_set(ksi)?, NasAbba::new(vec![0, 0]))
        .with_authentication_parameter_rand(NasAuthenticationParameterRand::from_rand(rand))
        .with_authentication_parameter_autn(NasAuthenticationParameterAutn::from_autn(autn));
    Ok(Nas5gsMessage::new_5gmm(request))
}

/// AUTHENTICATION REJECT.
#[must_use]
pub fn authentication_reject() -> Nas5gsMessage {
    Nas5gsMessage::new_5gmm(NasAuthenticationReject::new())
}

/// SECURITY MODE COMMAND, which asks for the complete REGISTRATION REQUEST.
pub fn security_mode_command(
    ksi: u8,
    algorithms: (IntegrityAlgorithm, CipheringAlgorithm),
    capability: NasUeSecurityCapability,
    request_imeisv: bool,
) -> Built {
    let (integrity, ciphering) = algorithms;
    let mut command = NasSecurityModeCommand::new(
        NasSecurityAlgorithms::from_algorithms(ciphering, integrity),
        key_set(ksi)?,
        capability,
    )
    .with_additional_5g_security_information(NasAdditional5gSecurityInformation::from_flags(
        true, false,
    ));
    if request_imeisv {
        command.set_imeisv_request(NasImeisvRequest::from_request(
            ImeisvRequestValue::Requested,
        ));
    }
    Ok(Nas5gsMessage::new_5gmm(command))
}

/// What REGISTRATION ACCEPT says.
pub struct Accept<'a> {
    /// The new identity of the UE.
    pub guti: Guti,
    /// The network.
    pub plmn: NasPlmn,
    /// Registration area.
    pub areas: &'a [Tac],
    /// Slices the UE may use.
    pub allowed: &'a [Slice],
    /// Requested slices that it may not.
    pub rejected: &'a [Slice],
    /// Non-3GPP de-registration timer, seconds.
    pub deregistration_timer: u64,
}

/// REGISTRATION ACCEPT over non-3GPP access.
pub fn registration_accept(accept: &Accept<'_>) -> Built {
    let result = NasFGsRegistrationResult::from_result(RegistrationResult::Non3GppAccess);
    let areas: Vec<u32> = accept.areas.iter().map(|tac| tac.get()).collect();
    let timer = NasGprsTimer2::from_seconds(accept.deregistration_timer).map_err(wrong)?;
    let mut message = NasRegistrationAccept::new(result)
        .with_fg_guti(NasFGsMobileIdentity::from_guti(accept.guti))
        .with_tai_list(
            NasFGsTrackingAreaIdentityList::from_plmn_tacs(&accept.plmn, &areas).map_err(wrong)?,
        )
        .with_allowed_nssai(nssai(accept.allowed)?)
        .with_fgs_network_feature_support(NasFGsNetworkFeatureSupport::default())
        .with_non_3gpp_de_registration_timer_value(timer);
    if !accept.rejected.is_empty() {
        message.set_rejected_nssai(rejected_nssai(accept.rejected)?);
    }
    Ok(Nas5gsMessage::new_5gmm(message))
}

/// REGISTRATION REJECT.
pub fn registration_reject(cause: u8, rejected: &[Slice]) -> Built {
    let mut reject = NasRegistrationReject::new(gmm_cause(cause));
    if !rejected.is_empty() {
        reject.set_rejected_nssai(rejected_nssai(rejected)?);
    }
    Ok(Nas5gsMessage::new_5gmm(reject))
}

/// CONFIGURATION UPDATE COMMAND with the network's name.
#[must_use]
pub fn configuration_update(network: &str, acknowledge: bool) -> Nas5gsMessage {
    let mut command = NasConfigurationUpdateCommand::new()
        .with_full_name_for_network(NasNetworkName::from_name(network, false));
    if acknowledge {
        command.set_configuration_update_indication(NasConfigurationUpdateIndication::from_flags(
            true, false,
        ));
    }
    Nas5gsMessage::new_5gmm(command)
}

/// DEREGISTRATION ACCEPT to a UE that deregisters.
#[must_use]
pub fn deregistration_accept() -> Nas5gsMessage {
    Nas5gsMessage::new_5gmm(NasDeregistrationAcceptUeOriginating::new())
}

/// DEREGISTRATION REQUEST from the network.
#[must_use]
pub fn deregistration_request(reregister: bool, cause: Option<u8>) -> Nas5gsMessage {
    let kind = NasDeRegistrationType::default()
        .with_access_type(AccessTypeValue::Non3GppAccess)
        .with_re_registration_required(reregister);
    let mut request = NasDeregistrationRequestUeTerminated::new(kind);
    if let Some(cause) = cause {
        request.set_fgmm_cause(gmm_cause(cause));
    }
    Nas5gsMessage::new_5gmm(request)
}

/// A 5GSM message in DL NAS TRANSPORT.
pub fn downlink_transport(session: u8, message: &Nas5gsMessage, cause: Option<GmmCause>) -> Built {
    let container = NasPayloadContainer::from_n1_sm_message(message).map_err(wrong)?;
    let mut transport = NasDlNasTransport::new(
        NasPayloadContainerType::from_kind(PayloadContainerKind::N1SmInformation),
        container,
    )
    .with_pdu_session_id(NasPduSessionIdentity2::from_pdu_session_id(session));
    if let Some(cause) = cause {
        transport.set_fgmm_cause(NasFGmmCause::from_cause(cause));
    }
    Ok(Nas5gsMessage::new_5gmm(transport))
}

/// What a PDU session has of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Its address.
    pub ipv4: Option<Ipv4Addr>,
    /// Of its link-local address.
    pub interface_id: Option<[u8; 8]>,
    /// The UE asked for both.
    pub both: bool,
}

/// PDU SESSION ESTABLISHMENT ACCEPT of SSC mode 1.
pub fn session_accept(
    (session, pti): (u8, u8),
    dnn: &DnnConfig,
    slice: Slice,
    granted: Granted,
) -> Built {
    let rules = dnn
        .flows
        .iter()
        .zip(1u8..)
        .map(|(flow, rule)| qos_rule(flow, rule))
        .collect::<Vec<_>>();
    let descriptions = dnn
        .flows
        .iter()
        .map(|flow| {
            QosFlowDescription::new(
                flow.qfi,
                QosFlowOpCode::Create,
                true,
                vec![QosFlowParameter::FiveQi(flow.five_qi)],
            )
        })
        .collect::<Vec<_>>();
    let ambr =
        NasSessionAmbr::from_kbps(dnn.ambr.downlink_kbps, dnn.ambr.uplink_kbps).map_err(wrong)?;
    let (kind, address) = match (granted.ipv4, granted.interface_id) {
        (Some(ipv4), Some(id)) => {
            let address = NasPduAddress::from_ipv4v6(id, ipv4.octets());
            (PduSessionTypeValue::Ipv4v6, address)
        }
        (None, Some(id)) => (PduSessionTypeValue::Ipv6, NasPduAddress::from_ipv6_iid(id)),
        (ipv4, None) => {
            let ipv4 = ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let address = NasPduAddress::from_ipv4(ipv4.octets());
            (PduSessionTypeValue::Ipv4, address)
        }
    };
    let mut accept = NasPduSessionEstablishmentAccept::new(
        NasPduSessionType::from_session_type(kind),
        NasSscMode::from_mode(SscModeValue::Ssc1),
        NasQosRules::from_rules(&rules).map_err(wrong)?,
        ambr,
    )
    .with_pdu_address(address)
    .with_s_nssai(snssai(slice))
    .with_authorized_qos_flow_descriptions(
        NasQosFlowDescriptions::from_descriptions(&descriptions).map_err(wrong)?,
    )
    .with_dnn(NasDnn::from_string(&dnn.name).map_err(wrong)?);
    if granted.both && kind == PduSessionTypeValue::Ipv4 {
        accept.set_fgsm_cause(NasFGsmCause::from_cause(
            GsmCause::PduSessionTypeIpv4OnlyAllowed,
        ));
    }
    if let Some(options) = configuration_options(dnn) {
        accept.set_extended_protocol_configuration_options(options);
    }
    Ok(Nas5gsMessage::new_5gsm(accept, session, pti))
}

/// PDU SESSION ESTABLISHMENT REJECT.
#[must_use]
pub fn session_reject((session, pti): (u8, u8), cause: u8) -> Nas5gsMessage {
    let mut reject = NasPduSessionEstablishmentReject::new(gsm_cause(cause));
    if cause == GsmCause::NotSupportedSscMode.as_u8() {
        reject.set_allowed_ssc_mode(NasAllowedSscMode::from_modes(true, false, false));
    }
    Nas5gsMessage::new_5gsm(reject, session, pti)
}

/// PDU SESSION MODIFICATION COMMAND, which the network starts: rules to create, identifiers of rules
/// to delete, session AMBR.
pub fn session_modification_command(
    session: u8,
    created: &[(u8, FlowConfig)],
    deleted: &[u8],
    ambr: Option<Ambr>,
) -> Built {
    let mut command = NasPduSessionModificationCommand::new();
    let created = created.iter().map(|(rule, flow)| qos_rule(flow, *rule));
    let deleted = deleted.iter();
    let deleted = deleted.map(|rule| QosRule::new(*rule, QosRuleOpCode::Delete));
    let rules: Vec<QosRule> = created.chain(deleted).collect();
    if !rules.is_empty() {
        command.set_authorized_qos_rules(NasQosRules::from_rules(&rules).map_err(wrong)?);
    }
    if let Some(ambr) = ambr {
        let ambr =
            NasSessionAmbr::from_kbps(ambr.downlink_kbps, ambr.uplink_kbps).map_err(wrong)?;
        command.set_session_ambr(ambr);
    }
    Ok(Nas5gsMessage::new_5gsm(command, session, 0))
}

/// PDU SESSION RELEASE COMMAND; PTI 0 when the network starts it.
#[must_use]
pub fn session_release_command((session, pti): (u8, u8), cause: GsmCause) -> Nas5gsMessage {
    let command = NasPduSessionReleaseCommand::new(NasFGsmCause::from_cause(cause));
    Nas5gsMessage::new_5gsm(command, session, pti)
}

/// PDU SESSION RELEASE REJECT.
#[must_use]
pub fn session_release_reject((session, pti): (u8, u8), cause: GsmCause) -> Nas5gsMessage {
    let reject = NasPduSessionReleaseReject::new(NasFGsmCause::from_cause(cause));
    Nas5gsMessage::new_5gsm(reject, session, pti)
}

/// The codec's name of an integrity algorithm.
#[must_use]
pub const fn integrity(algorithm: Integrity) -> IntegrityAlgorithm {
    match algorithm {
        Integrity::Nia1 => IntegrityAlgorithm::NIA1,
        Integrity::Nia2 => IntegrityAlgorithm::NIA2,
    }
}

/// The codec's name of a ciphering algorithm.
#[must_use]
pub const fn ciphering(algorithm: Ciphering) -> CipheringAlgorithm {
    match algorithm {
        Ciphering::Nea0 => CipheringAlgorithm::NEA0,
        Ciphering::Nea1 => CipheringAlgorithm::NEA1,
        Ciphering::Nea2 => CipheringAlgorithm::NEA2,
    }
}

/// A slice in NAS.
#[must_use]
pub fn snssai(slice: Slice) -> NasSNssai {
    NasSNssai::from_sst_sd(slice.sst, slice.sd)
}

fn nssai(slices: &[Slice]) -> Result<NasNssai, BuildError> {
    let list: Vec<_> = slices.iter().map(|slice| snssai(*slice)).collect();
    NasNssai::from_snssais(&list).map_err(wrong)
}

fn rejected_nssai(slices: &[Slice]) -> Result<NasRejectedNssai, BuildError> {
    let list: Vec<_> = slices.iter().take(8).map(|slice| snssai(*slice)).collect();
    let entries: Vec<_> = list
        .iter()
        .map(|slice| (RejectedNssaiCause::NotAvailableInPlmnOrSnpn, slice))
        .collect();
    NasRejectedNssai::from_entries(&entries).map_err(wrong)
}

fn key_set(ksi: u8) -> Result<NasKeySetIdentifier, BuildError> {
    NasKeySetIdentifier::from_key_set_identifier(KeySetIdentifier::Native(ksi)).map_err(wrong)
}

fn gmm_cause(cause: u8) -> NasFGmmCause {
    NasFGmmCause::from_cause(GmmCause::from_u8_received(cause))
}

fn gsm_cause(cause: u8) -> NasFGsmCause {
    NasFGsmCause::from_cause(GsmCause::from_u8_for_ue(cause))
}

/// The rule of a flow: the default one takes every packet, last of all.
fn qos_rule(flow: &FlowConfig, rule: u8) -> QosRule {
    let components = match flow.filter {
        None => vec![QosPacketFilterComponent::MatchAll],
        Some(filter) => {
            let mut components = Vec::new();
            if let Some(net) = filter.remote {
                components.push(QosPacketFilterComponent::Ipv4RemoteAddress {
                    address: net.network().octets(),
                    mask: net.netmask().octets(),
                });
            }
            if let Some(protocol) = filter.protocol {
                components.push(QosPacketFilterComponent::ProtocolIdentifierOrNextHeader(
                    protocol,
                ));
            }
            if let Some(port) = filter.remote_port {
                components.push(QosPacketFilterComponent::SingleRemotePort(port));
            }
            components
        }
    };
    let filter = QosPacketFilter::Match {
        direction: QosPacketFilterDirection::Bidirectional,
        identifier: 1,
        components,
    };
    let default = flow.filter.is_none();
    QosRule::new(rule, QosRuleOpCode::Create)
        .with_default_rule(default)
        .with_packet_filters(vec![filter])
        .with_precedence(if default { 255 } else { rule })
        .with_qfi(flow.qfi)
}

/// MTU and DNS servers (TS 24.008 10.5.6.3): a configuration protocol octet,
/// then containers of identifier, length and contents.
fn configuration_options(dnn: &DnnConfig) -> Option<NasExtendedProtocolConfigurationOptions> {
    if dnn.mtu.is_none() && dnn.dns.is_empty() {
        return None;
    }
    let mut octets = vec![0x80];
    for server in &dnn.dns {
        octets.extend_from_slice(&[0x00, 0x0d, 4]);
        octets.extend_from_slice(&server.octets());
    }
    if let Some(mtu) = dnn.mtu {
        octets.extend_from_slice(&[0x00, 0x10, 2]);
        octets.extend_from_slice(&mtu.to_be_bytes());
    }
    Some(NasExtendedProtocolConfigurationOptions::new(octets))
}
