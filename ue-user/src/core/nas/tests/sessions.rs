//! PDU sessions.

use std::{net::Ipv4Addr, time::Duration};

use oxirush_nas::nas_5gs::{
    GsmCause, Nas5gsmMessage, NasDlNasTransport, NasExtendedProtocolConfigurationOptions,
    NasFGmmCause, NasFGsmCause, NasGprsTimer, NasGprsTimer3, NasPayloadContainer,
    NasPayloadContainerType, NasPduAddress, NasPduSessionEstablishmentAccept,
    NasPduSessionEstablishmentReject, NasPduSessionIdentity2, NasPduSessionModificationCommand,
    NasPduSessionReleaseCommand, NasPduSessionType, NasQosRules, NasSessionAmbr, NasSscMode,
    PayloadContainerKind, PduSessionTypeValue, SscModeValue,
};

use super::*;

const REQUEST: u8 = 1;

fn wanted() -> SessionRequest {
    SessionRequest {
        id: REQUEST,
        dnn: Some("internet".into()),
        s_nssai: Some(SLICE),
        kind: Default::default(),
    }
}

/// The 5GSM message in an UL NAS TRANSPORT, with its identity and PTI.
fn session_message(network: &mut Network, pdu: &[u8]) -> (u8, u8, Nas5gsmMessage) {
    let Nas5gmmMessage::UlNasTransport(transport) = network.read(pdu) else {
        panic!("UL NAS TRANSPORT")
    };
    match transport.payload_container.decode_as_n1_sm_message() {
        Ok(Nas5gsMessage::Gsm(header, message)) => {
            assert_eq!(
                transport.pdu_session_id.map(|id| id.pdu_session_id()),
                Some(header.pdu_session_identity)
            );
            let pti = header.procedure_transaction_identity;
            (header.pdu_session_identity, pti, message)
        }
        other => panic!("no 5GSM message: {other:?}"),
    }
}

pub(crate) fn n1_sm(message: &Nas5gsMessage) -> NasDlNasTransport {
    NasDlNasTransport::new(
        NasPayloadContainerType::from_kind(PayloadContainerKind::N1SmInformation),
        NasPayloadContainer::from_n1_sm_message(message).unwrap(),
    )
}

/// One rule: create, default, match-all filter, QFI.
pub(crate) fn rule(id: u8, default: bool, qfi: u8) -> Vec<u8> {
    let header = 0x20 | if default { 0x10 } else { 0 } | 1;
    vec![id, 0, 6, header, 0x31, 1, 1, 255 - id, qfi]
}

pub(crate) fn accept_with(rules: Vec<u8>) -> NasPduSessionEstablishmentAccept {
    NasPduSessionEstablishmentAccept::new(
        NasPduSessionType::from_session_type(PduSessionTypeValue::Ipv4),
        NasSscMode::from_mode(SscModeValue::Ssc1),
        NasQosRules::new(rules),
        NasSessionAmbr::from_kbps(100_000, 50_000).unwrap(),
    )
    .with_pdu_address(NasPduAddress::from_ipv4([10, 60, 0, 1]))
}

fn establish(ue: &mut Nas, network: &mut Network) -> u8 {
    ue.establish(NOW, &wanted());
    let (id, pti, message) = session_message(network, &sent(ue));
    assert_eq!(id, REQUEST);
    assert!(matches!(
        message,
        Nas5gsmMessage::PduSessionEstablishmentRequest(_)
    ));
    pti
}

fn established() -> (Nas, Network) {
    let (mut ue, mut network) = registered();
    let pti = establish(&mut ue, &mut network);
    let accept = Nas5gsMessage::new_5gsm(accept_with(rule(1, true, 1)), REQUEST, pti);
    ue.downlink(NOW, &network.gmm(n1_sm(&accept))).unwrap();
    assert!(matches!(events(&mut ue)[..], [Event::SessionAccepted(_)]));
    (ue, network)
}

#[test]
fn establishment_gives_address_qfis_and_mtu() {
    let (mut ue, mut network) = registered();
    ue.establish(NOW, &wanted());
    let pdu = sent(&mut ue);
    let Nas5gmmMessage::UlNasTransport(transport) = network.read(&pdu) else {
        panic!("UL NAS TRANSPORT")
    };
    assert!(transport.request_type.unwrap().is_initial());
    assert_eq!(transport.dnn.unwrap().as_string().unwrap(), "internet");
    assert_eq!(
        transport.s_nssai.unwrap().parse().unwrap().sd,
        Some([1, 2, 3])
    );

    let rules = [rule(1, true, 9), rule(2, false, 5), rule(3, false, 5)].concat();
    // DNS 198.18.0.53, link MTU 1380.
    let options = hex::decode("80000d04c6120035001002 0564".replace(' ', "")).unwrap();
    let accept = accept_with(rules).with_extended_protocol_configuration_options(
        NasExtendedProtocolConfigurationOptions::new(options),
    );
    let accept = Nas5gsMessage::new_5gsm(accept, REQUEST, 1);
    ue.downlink(NOW, &network.gmm(n1_sm(&accept))).unwrap();
    let [Event::SessionAccepted(got)] = &events(&mut ue)[..] else {
        panic!("no accept");
    };
    assert_eq!((got.rules.qfis(), got.rules.default_qfi()), (vec![9, 5], 9));
    let expected = SessionAccept {
        id: REQUEST,
        address: Some(Ipv4Addr::new(10, 60, 0, 1)),
        interface_id: None,
        rules: got.rules.clone(),
        rq_timer: Duration::from_secs(60),
        ambr_kbps: Some((100_000, 50_000)),
        dnn: None,
        s_nssai: None,
        mtu: Some(1380),
        dns: vec![Ipv4Addr::new(198, 18, 0, 53)],
    };
    assert_eq!(*got, expected);
    assert_eq!(ue.poll_timeout(), None);
}

#[test]
fn reflective_qos_is_announced_and_its_timer_told() {
    let (mut ue, mut network) = registered();
    ue.establish(NOW, &wanted());
    let (_, pti, request) = session_message(&mut network, &sent(&mut ue));
    let Nas5gsmMessage::PduSessionEstablishmentRequest(request) = request else {
        panic!("{request:?}");
    };
    assert!(request.fgsm_capability.unwrap().rqos());
    let timer = NasGprsTimer::from_seconds(30).unwrap();
    let accept = accept_with(rule(1, true, 1)).with_rq_timer_value(timer);
    let accept = Nas5gsMessage::new_5gsm(accept, REQUEST, pti);
    ue.downlink(NOW, &network.gmm(n1_sm(&accept))).unwrap();
    let [Event::SessionAccepted(got)] = &events(&mut ue)[..] else {
        panic!("no accept");
    };
    assert_eq!(got.rq_timer, Duration::from_secs(30));
    assert_eq!(got.uplink().rq_timer(), got.rq_timer);

    // Deactivated: reflective QoS ends.
    let command =
        NasPduSessionModificationCommand::new().with_rq_timer_value(NasGprsTimer::deactivated());
    let (_, events) = command_modification(&mut ue, &mut network, command);
    let [
        Event::SessionModified {
            rules, rq_timer, ..
        },
    ] = &events[..]
    else {
        panic!("not modified");
    };
    assert_eq!((rules, rq_timer), (&None, &Some(Duration::ZERO)));
}

#[test]
fn a_reject_says_its_cause() {
    let (mut ue, mut network) = registered();
    let pti = establish(&mut ue, &mut network);
    let cause = NasFGsmCause::from_cause(GsmCause::MissingOrUnknownDnn);
    let reject = NasPduSessionEstablishmentReject::new(cause)
        .with_back_off_timer_value(NasGprsTimer3::from_seconds(60).unwrap());
    let reject = Nas5gsMessage::new_5gsm(reject, REQUEST, pti);
    ue.downlink(NOW, &network.gmm(n1_sm(&reject))).unwrap();
    let failure = SessionFailure::Rejected {
        cause: SmCause(27),
        retry_after: Some(Duration::from_secs(60)),
    };
    assert_eq!(
        events(&mut ue),
        [Event::SessionFailed {
            id: REQUEST,
            failure
        }]
    );
    // The identity is free again.
    establish(&mut ue, &mut network);
}

#[test]
fn a_request_the_amf_does_not_forward_fails() {
    let (mut ue, mut network) = registered();
    ue.establish(NOW, &wanted());
    let Nas5gmmMessage::UlNasTransport(up) = network.read(&sent(&mut ue)) else {
        panic!("UL NAS TRANSPORT")
    };
    let back = NasDlNasTransport::new(up.payload_container_type, up.payload_container)
        .with_pdu_session_id(NasPduSessionIdentity2::from_pdu_session_id(REQUEST))
        .with_fgmm_cause(NasFGmmCause::from_cause(GmmCause::PayloadWasNotForwarded));
    ue.downlink(NOW, &network.gmm(back)).unwrap();
    let failure = SessionFailure::NotForwarded(MmCause(90));
    assert_eq!(
        events(&mut ue),
        [Event::SessionFailed {
            id: REQUEST,
            failure
        }]
    );
}

#[test]
fn an_unusable_accept_is_released() {
    let no_default = accept_with(rule(1, false, 1));
    let mut no_address = accept_with(rule(1, true, 1));
    no_address.clear_pdu_address();
    let loopback =
        accept_with(rule(1, true, 1)).with_pdu_address(NasPduAddress::from_ipv4([127, 0, 0, 1]));
    let qfi_0 = accept_with(rule(1, true, 0));
    let broken = accept_with(vec![1, 0, 200, 0x31, 0]);
    // An address of another type than the session, and an interface identifier of nothing.
    let mut not_ipv6 = accept_with(rule(1, true, 1));
    not_ipv6.selected_pdu_session_type =
        NasPduSessionType::from_session_type(PduSessionTypeValue::Ipv6);
    let not_ipv4 =
        accept_with(rule(1, true, 1)).with_pdu_address(NasPduAddress::from_ipv6_iid([1; 8]));
    let nothing = ipv6_accept(
        PduSessionTypeValue::Ipv6,
        NasPduAddress::from_ipv6_iid([0; 8]),
    );
    for accept in [
        no_default, no_address, loopback, qfi_0, broken, not_ipv6, not_ipv4, nothing,
    ] {
        let (mut ue, mut network) = registered();
        let pti = establish(&mut ue, &mut network);
        let pdu = Nas5gsMessage::new_5gsm(accept, REQUEST, pti);
        ue.downlink(NOW, &network.gmm(n1_sm(&pdu))).unwrap();
        let Some(Output::Send(pdu)) = ue.poll_output() else {
            panic!("PDU SESSION RELEASE REQUEST")
        };
        let (_, _, message) = session_message(&mut network, &pdu);
        assert!(matches!(
            message,
            Nas5gsmMessage::PduSessionReleaseRequest(_)
        ));
        assert!(matches!(
            events(&mut ue)[..],
            [Event::SessionFailed {
                failure: SessionFailure::Unusable(_),
                ..
            }]
        ));
    }
}

fn ipv6_accept(
    kind: PduSessionTypeValue,
    address: NasPduAddress,
) -> NasPduSessionEstablishmentAccept {
    let mut accept = accept_with(rule(1, true, 1)).with_pdu_address(address);
    accept.selected_pdu_session_type = NasPduSessionType::from_session_type(kind);
    accept
}

#[test]
fn sessions_of_ipv6_have_an_interface_identifier() {
    let id = [0, 0, 0, 1, 2, 3, 4, 5];
    let four = Ipv4Addr::new(10, 60, 0, 1);
    let (ipv6, both) = (PduSessionTypeValue::Ipv6, PduSessionTypeValue::Ipv4v6);
    for (kind, expected, address, ipv4) in [
        (
            SessionKind::Ipv6,
            ipv6,
            NasPduAddress::from_ipv6_iid(id),
            None,
        ),
        (
            SessionKind::Ipv4v6,
            both,
            NasPduAddress::from_ipv4v6(id, four.octets()),
            Some(four),
        ),
    ] {
        let (mut ue, mut network) = registered();
        ue.establish(NOW, &SessionRequest { kind, ..wanted() });
        let (_, pti, request) = session_message(&mut network, &sent(&mut ue));
        let Nas5gsmMessage::PduSessionEstablishmentRequest(request) = request else {
            panic!("{request:?}");
        };
        let asked = request.pdu_session_type.unwrap().session_type();
        assert_eq!(asked, Some(expected));
        let accept = Nas5gsMessage::new_5gsm(ipv6_accept(expected, address), REQUEST, pti);
        ue.downlink(NOW, &network.gmm(n1_sm(&accept))).unwrap();
        let [Event::SessionAccepted(got)] = &events(&mut ue)[..] else {
            panic!("no accept");
        };
        assert_eq!((got.address, got.interface_id), (ipv4, Some(id)));
    }
}

#[test]
fn the_ue_releases() {
    let (mut ue, mut network) = established();
    ue.release(NOW, REQUEST);
    let (id, pti, _) = session_message(&mut network, &sent(&mut ue));
    let cause = NasFGsmCause::from_cause(GsmCause::RegularDeactivation);
    let command = Nas5gsMessage::new_5gsm(NasPduSessionReleaseCommand::new(cause), id, pti);
    ue.downlink(NOW, &network.gmm(n1_sm(&command))).unwrap();
    let Some(Output::Send(pdu)) = ue.poll_output() else {
        panic!("PDU SESSION RELEASE COMPLETE")
    };
    let (_, answered, message) = session_message(&mut network, &pdu);
    assert_eq!(answered, pti);
    assert!(matches!(
        message,
        Nas5gsmMessage::PduSessionReleaseComplete(_)
    ));
    assert_eq!(
        events(&mut ue),
        [Event::SessionReleased {
            id: REQUEST,
            by_network: false,
            cause: Some(SmCause(36))
        }]
    );
}

#[test]
fn the_network_releases() {
    let (mut ue, mut network) = established();
    let cause = NasFGsmCause::from_cause(GsmCause::ReactivationRequested);
    let command = Nas5gsMessage::new_5gsm(NasPduSessionReleaseCommand::new(cause), REQUEST, 0);
    ue.downlink(NOW, &network.gmm(n1_sm(&command))).unwrap();
    let released = Event::SessionReleased {
        id: REQUEST,
        by_network: true,
        cause: Some(SmCause(39)),
    };
    assert_eq!(events(&mut ue), [released]);
    // A second command names a session that is not there.
    let refused = ue.downlink(NOW, &network.gmm(n1_sm(&command)));
    assert!(refused.is_err());
    let Some(Output::Send(pdu)) = ue.poll_output() else {
        panic!("5GSM STATUS")
    };
    let (_, _, Nas5gsmMessage::FiveGsmStatus(status)) = session_message(&mut network, &pdu) else {
        panic!("5GSM STATUS")
    };
    assert_eq!(
        status.fgsm_cause.cause(),
        Some(GsmCause::InvalidPduSessionIdentity)
    );
}

#[test]
fn a_request_without_answer_is_repeated_and_given_up() {
    let (mut ue, mut network) = registered();
    establish(&mut ue, &mut network);
    for _ in 0..4 {
        let due = ue.poll_timeout().unwrap();
        ue.handle_timeout(due);
        session_message(&mut network, &sent(&mut ue));
    }
    let due = ue.poll_timeout().unwrap();
    assert_eq!(due, NOW + 5 * Duration::from_secs(16));
    ue.handle_timeout(due);
    let failure = SessionFailure::NoAnswer("T3580");
    assert_eq!(
        events(&mut ue),
        [Event::SessionFailed {
            id: REQUEST,
            failure
        }]
    );
}

#[test]
fn an_accept_with_another_pti_is_not_ours() {
    let (mut ue, mut network) = registered();
    let pti = establish(&mut ue, &mut network);
    let accept = Nas5gsMessage::new_5gsm(accept_with(rule(1, true, 1)), REQUEST, pti + 1);
    assert!(ue.downlink(NOW, &network.gmm(n1_sm(&accept))).is_err());
    assert!(events(&mut ue).is_empty());
}

#[test]
fn a_session_needs_a_registration() {
    let mut ue = ue();
    ue.establish(NOW, &wanted());
    let failure = SessionFailure::NotRegistered;
    assert_eq!(
        events(&mut ue),
        [Event::SessionFailed {
            id: REQUEST,
            failure
        }]
    );
}

/// The UE's answer to a modification, and what it tells its daemon.
fn modify(ue: &mut Nas, network: &mut Network, rules: Vec<u8>) -> (Nas5gsmMessage, Vec<Event>) {
    let command = NasPduSessionModificationCommand::new()
        .with_authorized_qos_rules(NasQosRules::new(rules))
        .with_session_ambr(NasSessionAmbr::from_kbps(8_000, 4_000).unwrap());
    command_modification(ue, network, command)
}

fn command_modification(
    ue: &mut Nas,
    network: &mut Network,
    command: NasPduSessionModificationCommand,
) -> (Nas5gsmMessage, Vec<Event>) {
    let command = Nas5gsMessage::new_5gsm(command, REQUEST, 0);
    ue.downlink(NOW, &network.gmm(n1_sm(&command))).unwrap();
    let (mut pdus, mut events) = (Vec::new(), Vec::new());
    while let Some(output) = ue.poll_output() {
        match output {
            Output::Send(pdu) => pdus.push(pdu),
            Output::Event(event) => events.push(event),
            Output::StoreSqn(_) => panic!("a sequence number to store"),
        }
    }
    let [pdu] = &pdus[..] else {
        panic!("PDUs sent: {pdus:02x?}");
    };
    let (id, pti, message) = session_message(network, pdu);
    assert_eq!((id, pti), (REQUEST, 0));
    (message, events)
}

/// One rule: an operation, a filter for UDP to one port, QFI.
fn udp_rule(id: u8, operation: u8, port: u16, qfi: u8) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let filter = [0x31, 5, 0x30, 17, 0x50, high, low];
    let rest = [10, qfi];
    [&[id, 0, 10, operation << 5 | 1][..], &filter, &rest].concat()
}

/// UDP over IPv4 to a port.
fn udp(port: u16) -> [u8; 28] {
    let mut packet = [0; 28];
    packet[0] = 0x45;
    packet[9] = 17;
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet
}

#[test]
fn rules_come_change_and_go_with_modification_commands() {
    let (mut ue, mut network) = established();
    let mut step = |rules: Vec<u8>| {
        let (answer, events) = modify(&mut ue, &mut network, rules);
        assert!(matches!(
            answer,
            Nas5gsmMessage::PduSessionModificationComplete(_)
        ));
        let [
            Event::SessionModified {
                id: REQUEST,
                rules: Some(rules),
                rq_timer: None,
                ambr_kbps: Some((8_000, 4_000)),
            },
        ] = &events[..]
        else {
            panic!("not modified");
        };
        let chosen = [5000, 5001].map(|port| rules.uplink().qfi(&udp(port)).unwrap());
        (rules.qfis(), chosen)
    };
    let (create, delete, add, replace, remove, keep) = (1, 2, 3, 4, 5, 6);
    assert_eq!(step(udp_rule(2, create, 5000, 7)), (vec![1, 7], [7, 1]));
    assert_eq!(step(udp_rule(2, replace, 5001, 8)), (vec![1, 8], [1, 8]));
    // The filter of the same identifier is replaced.
    assert_eq!(step(udp_rule(2, add, 5000, 8)), (vec![1, 8], [8, 1]));
    let no_filters = vec![2, 0, 3, keep << 5, 11, 9];
    assert_eq!(step(no_filters), (vec![1, 9], [9, 1]));
    // A second filter, and the first one goes.
    let second = vec![2, 0, 7, add << 5 | 1, 0x32, 2, 0x30, 17, 11, 9];
    assert_eq!(step(second), (vec![1, 9], [9, 9]));
    let first = vec![2, 0, 4, remove << 5 | 1, 1, 11, 9];
    assert_eq!(step(first), (vec![1, 9], [9, 9]));
    // Rule 40 was never there.
    let gone = vec![2, 0, 1, delete << 5, 40, 0, 1, delete << 5];
    assert_eq!(step(gone), (vec![1], [1, 1]));
}

#[test]
fn a_modification_that_makes_no_sense_is_rejected_and_changes_nothing() {
    let good = udp_rule(2, 1, 5000, 7);
    let cases = [
        (vec![1, 0, 1, 2 << 5], 83),
        ([&good[..], &udp_rule(9, 4, 1, 1)].concat(), 83),
        ([&good[..], &rule(3, true, 4)].concat(), 83),
        (udp_rule(2, 1, 5000, 0), 83),
        ([&good[..], &[3, 0, 200, 0x31, 0]].concat(), 84),
        // Ethertype.
        (vec![2, 0, 8, 0x21, 0x31, 3, 0x87, 8, 0, 10, 7], 45),
    ];
    for (rules, cause) in cases {
        let (mut ue, mut network) = established();
        let (answer, events) = modify(&mut ue, &mut network, rules);
        let Nas5gsmMessage::PduSessionModificationCommandReject(reject) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(reject.fgsm_cause.cause_raw(), cause);
        assert!(matches!(events[..], [Event::Status(_)]));
        let (_, events) = modify(&mut ue, &mut network, good.clone());
        let [Event::SessionModified { rules, .. }] = &events[..] else {
            panic!("not modified");
        };
        assert_eq!(rules.as_ref().unwrap().qfis(), [1, 7]);
    }
}
