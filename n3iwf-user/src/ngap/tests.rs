//! Messages both ways, and input that is none. What the messages do is tested with the gateway.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use nwu::{EstablishmentCause, Plmn};
use oxirush_ngap::{
    BitString, build_ngap, ie,
    ngap::{
        GTPTEID, GTPTunnel, NGAP_PDU, PLMNIdentity, PagingDRX, RRCEstablishmentCause,
        TransportLayerAddress, UPTransportLayerInformation, UserLocationInformation,
    },
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
fn a_tunnel_end_has_32_128_or_160_bits() {
    let v4 = Ipv4Addr::new(203, 0, 113, 2);
    let v6: Ipv6Addr = "2001:db8::2".parse().unwrap();
    let tunnel = |octets: &[u8]| {
        let address = TransportLayerAddress(BitString::from(octets.to_vec()));
        let tunnel = GTPTunnel::new(address, GTPTEID([0, 0, 0, 7]), None);
        decode::tunnel(&UPTransportLayerInformation::gTPTunnel(tunnel))
    };
    let both = [&v4.octets()[..], &v6.octets()].concat();
    let one = |address: IpAddr| Some((TransportAddress::One(address), 7));
    assert_eq!(tunnel(&v4.octets()), one(v4.into()));
    assert_eq!(tunnel(&v6.octets()), one(v6.into()));
    assert_eq!(tunnel(&both), Some((TransportAddress::Both(v4, v6), 7)));
    for octets in [1, 3, 5, 8, 12, 15, 17, 19] {
        assert_eq!(tunnel(&both[..octets]), None, "{octets} octets");
    }
    let (ours4, ours6): (IpAddr, IpAddr) = ([203, 0, 113, 1].into(), Ipv6Addr::LOCALHOST.into());
    for (address, from4, from6) in [
        (TransportAddress::One(v4.into()), Some(v4.into()), None),
        (TransportAddress::One(v6.into()), None, Some(v6.into())),
        (
            TransportAddress::Both(v4, v6),
            Some(v4.into()),
            Some(v6.into()),
        ),
    ] {
        assert_eq!(address.reached_from(ours4), from4);
        assert_eq!(address.reached_from(ours6), from6);
    }
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
