//! Messages both ways, and input that is none. What the messages do is tested with the gateway.

use std::net::SocketAddr;

use nwu::{EstablishmentCause, Plmn};
use oxirush_ngap::{
    build_ngap, ie,
    ngap::{NGAP_PDU, PLMNIdentity, PagingDRX, RRCEstablishmentCause, UserLocationInformation},
};
use proptest::prelude::*;

use super::*;

const UE: UeIds = UeIds {
    amf: 0xff_ffff_ffff,
    ran: u32::MAX,
};

fn node(mnc: &str) -> Node {
    let plmn = Plmn::from_digits("310", mnc).unwrap();
    Node {
        plmn,
        id: 0xabcd,
        name: String::new(),
        areas: vec![SupportedArea {
            tac: [1, 2, 3],
            plmns: vec![SupportedPlmn {
                plmn,
                slices: vec![(1, None)],
            }],
        }],
    }
}

#[test]
fn a_three_digit_mnc_is_written_in_the_order_of_ngap() {
    let octets = ng_setup_request(&node("410")).unwrap();
    let pdu = NGAP_PDU::decode(&octets).unwrap();
    assert_eq!(pdu.check().unwrap(), []);
    let areas = pdu.ie::<ie::SupportedTAList>().unwrap().unwrap();
    let network = &areas.0[0].broadcast_plmn_list.0[0].plmn_identity;
    // TS 24.502 has 13 00 14 for the same digits.
    assert_eq!(*network, PLMNIdentity([0x13, 0x40, 0x01]));
    assert_eq!(node("410").plmn.octets(), [0x13, 0x00, 0x14]);
    assert!(pdu.ie::<ie::RANNodeName>().is_none());
    let paging = pdu.ie::<ie::DefaultPagingDRX>().unwrap().unwrap();
    assert_eq!(paging, PagingDRX::v128);
}

#[test]
fn every_uplink_message_is_complete_at_the_bounds_of_its_identifiers() {
    let cause = || Cause::misc(CauseMisc::om_intervention);
    let v6: SocketAddr = "[2001:db8::1]:65535".parse().unwrap();
    let up = SessionOutcome {
        id: 255,
        result: Ok(SessionUp {
            address: "203.0.113.1".parse().unwrap(),
            dl_teid: u32::MAX,
            qfis: vec![0, 63],
            security_result: true,
        }),
    };
    let down = SessionOutcome {
        id: 0,
        result: Err(cause()),
    };
    let sessions = [up, down];
    let modified = [
        ModifyOutcome {
            id: 255,
            result: Ok(ModifiedFlows {
                done: vec![0, 63],
                failed: vec![(5, cause())],
            }),
        },
        ModifyOutcome {
            id: 1,
            result: Ok(ModifiedFlows::default()),
        },
        ModifyOutcome {
            id: 0,
            result: Err(cause()),
        },
    ];
    let messages = [
        initial_ue_message(u32::MAX, &[1], v6, None, None, None),
        uplink_nas(UE, &[0; 70_000], v6),
        nas_non_delivery(UE, &[1], cause()),
        context_setup_response(UE, &[]),
        context_setup_response(UE, &sessions),
        context_setup_failure(UE, cause()),
        session_setup_response(UE, &sessions),
        session_release_response(UE, &[0, 255]),
        session_modify_response(UE, &modified),
        session_modify_response(UE, &modified[1..2]),
        context_modification_response(UE),
        session_notify(UE, &[7], &cause()),
        context_release_request(UE, cause()),
        context_release_complete(UE, &[]),
        context_release_complete(UE, &[1, 2]),
        reset_acknowledge(&[]),
        reset_acknowledge(&[(Some(UE.amf), None), (None, Some(1))]),
        configuration_update_acknowledge(),
        error_indication(Some(1), None, cause()),
        error_indication(None, None, cause()),
    ];
    for message in messages {
        let octets = message.unwrap();
        let pdu = NGAP_PDU::decode(&octets).unwrap();
        assert_eq!(pdu.check().unwrap(), [], "{pdu}");
        assert_eq!(pdu.encode().unwrap(), octets, "{pdu}");
    }
}

#[test]
fn an_ipv6_location_has_128_bits_and_an_absent_cause_is_told_as_such() {
    let v6: SocketAddr = "[2001:db8::1]:4500".parse().unwrap();
    let octets = initial_ue_message(1, &[1], v6, None, None, None).unwrap();
    let pdu = NGAP_PDU::decode(&octets).unwrap();
    let location = pdu.ie::<ie::UserLocationInformation>().unwrap().unwrap();
    let UserLocationInformation::userLocationInformationN3IWF_with_PortNumber(at) = location else {
        panic!("not the location of an N3IWF's UE");
    };
    assert_eq!(at.ip_address.0.len(), 128);
    let cause = pdu.ie::<ie::RRCEstablishmentCause>().unwrap().unwrap();
    assert_eq!(cause, RRCEstablishmentCause::notAvailable);
    let mo_data = Some(EstablishmentCause::MoData);
    let octets = initial_ue_message(1, &[1], v6, mo_data, None, None).unwrap();
    let pdu = NGAP_PDU::decode(&octets).unwrap();
    let cause = pdu.ie::<ie::RRCEstablishmentCause>().unwrap().unwrap();
    assert_eq!(cause, RRCEstablishmentCause::mo_Data);
}

#[test]
fn an_error_indication_that_cannot_be_read_is_not_answered() {
    let mut octets =
        error_indication(Some(1), Some(2), Cause::misc(CauseMisc::unspecified)).unwrap();
    // An IE that no release has, with criticality reject.
    let mut pdu = NGAP_PDU::decode(&octets).unwrap();
    let mut ies = pdu.protocol_ies().unwrap().into_owned();
    if let Some(ie) = ies.0.last_mut() {
        ie.id.0 = 65_000;
        ie.criticality = oxirush_ngap::ngap::Criticality::reject;
    }
    pdu.set_protocol_ies(ies).unwrap();
    octets = pdu.encode().unwrap();
    let fault = decode(&octets).unwrap_err();
    assert_eq!(fault.answer, None, "{}", fault.reason);
}

#[test]
fn a_foreign_ie_of_criticality_reject_rejects_and_of_ignore_does_not() {
    let pdu = |criticality| {
        let mut pdu = build_ngap!(
            InitiatingMessage,
            DownlinkNASTransport,
            DownlinkNASTransport,
            AMF_UE_NGAP_ID(1u64),
            RAN_UE_NGAP_ID(2u32),
            NAS_PDU(vec![3]),
        )
        .unwrap();
        let mut ies = pdu.protocol_ies().unwrap().into_owned();
        let mut foreign = ies.0.last().unwrap().clone();
        foreign.id.0 = 65_000;
        foreign.criticality = criticality;
        ies.0.push(foreign);
        pdu.set_protocol_ies(ies).unwrap();
        pdu.encode().unwrap()
    };
    let fault = decode(&pdu(oxirush_ngap::ngap::Criticality::reject)).unwrap_err();
    let answer = NGAP_PDU::decode(&fault.answer.unwrap()).unwrap();
    let cause = answer.ie::<ie::Cause>().unwrap().unwrap();
    assert_eq!(
        cause,
        Cause::protocol(CauseProtocol::abstract_syntax_error_reject)
    );
    let message = decode(&pdu(oxirush_ngap::ngap::Criticality::ignore)).unwrap();
    assert!(matches!(message, AmfMessage::DownlinkNas { nas, .. } if nas == [3]));
}

#[test]
fn causes_read_as_words() {
    let cause = Cause::radioNetwork(CauseRadioNetwork::radio_connection_with_ue_lost);
    assert_eq!(
        cause_text(&cause),
        "radio network: radio connection with ue lost"
    );
}

proptest! {
    /// Whatever arrives: a message, or a fault whose answer is an ERROR INDICATION.
    #[test]
    fn any_octets_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Err(fault) = decode(&octets)
            && let Some(answer) = fault.answer
        {
            let answer = NGAP_PDU::decode(&answer).unwrap();
            prop_assert_eq!(answer.procedure_code(), 9);
        }
    }
}
