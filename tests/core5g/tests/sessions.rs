//! PDU sessions, seen from a scripted N3IWF and UE.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic
)]

mod support;

use std::net::Ipv4Addr;

use core5g::amf::Action;
use core5g::ngap::name;
use oxirush_nas::nas_5gs::*;

use support::core::{CONFIG, Core};
use support::n3iwf;
use support::ue::Ue;

fn attached() -> (Core, Ue) {
    let mut core = Core::set_up();
    let mut ue = Ue::first(1);
    ue.attach(&mut core);
    (core, ue)
}

#[test]
fn a_session_with_two_flows() {
    let (mut core, mut ue) = attached();
    let (accept, setup) = ue.establish(&mut core, 5);
    assert_eq!(setup.qfis, [1, 2]);
    assert_eq!(setup.reflective, [2]);
    assert_eq!(setup.uplink.0.to_string(), "203.0.113.2");

    let kind = accept.selected_pdu_session_type.session_type();
    assert_eq!(kind, Some(PduSessionTypeValue::Ipv4));
    // 10.60.0.1 is the UPF's own.
    assert_eq!(accept.pdu_address.unwrap().ipv4(), Some([10, 60, 0, 2]));
    assert_eq!(accept.dnn.unwrap().as_string().as_deref(), Some("internet"));
    assert_eq!(accept.session_ambr.downlink_kbps(), Some(1_000_000));
    let rules = accept.authorized_qos_rules.rules();
    assert_eq!(rules.len(), 2);
    assert!(rules[0].dqr && !rules[1].dqr);
    assert_eq!((rules[0].qfi, rules[1].qfi), (Some(1), Some(2)));
    // The default rule is the last one to be tried.
    assert!(rules[0].precedence > rules[1].precedence);
    let QosPacketFilter::Match { components, .. } = &rules[1].packet_filters[0] else {
        panic!("a filter");
    };
    assert_eq!(
        components[..],
        [
            QosPacketFilterComponent::ProtocolIdentifierOrNextHeader(17),
            QosPacketFilterComponent::SingleRemotePort(5004)
        ]
    );
    let flows = accept
        .authorized_qos_flow_descriptions
        .unwrap()
        .descriptions();
    assert_eq!(flows[1].params, [QosFlowParameter::FiveQi(7)]);
    let options = accept.extended_protocol_configuration_options.unwrap();
    assert_eq!(
        hex::encode(&options.value),
        "80000d04c612000a0010020572",
        "DNS server and MTU 1394"
    );

    let [
        Action::Install(session),
        Action::Connect {
            uplink_teid,
            downlink,
            qfis,
        },
    ] = &core.user_plane[..]
    else {
        panic!("install and connect: {:?}", core.user_plane);
    };
    assert_eq!(session.uplink_teid, setup.uplink.1);
    assert_eq!(session.address, Ipv4Addr::new(10, 60, 0, 2));
    assert_eq!(*uplink_teid, setup.uplink.1);
    assert_eq!(*downlink, (n3iwf::ADDRESS, n3iwf::TEID));
    assert_eq!(qfis[..], [1, 2]);
    assert_eq!(core.amf.ue_status()[0].sessions[0].state, "active");
}

#[test]
fn several_sessions_of_several_ues_have_their_own_addresses() {
    let (mut core, mut first) = attached();
    first.establish(&mut core, 1);
    let (accept, _) = first.establish(&mut core, 2);
    assert_eq!(accept.pdu_address.unwrap().ipv4(), Some([10, 60, 0, 3]));
    // The other UE has the other data network, of two addresses.
    let mut second = Ue::second(2);
    second.attach(&mut core);
    let ids = second.ids.unwrap();
    for (session, last) in [(1, 1), (2, 2)] {
        let request = second.session_request(session, Some("ims"));
        let setup = n3iwf::session_setup(&core.ask(&n3iwf::uplink(ids, request)));
        let (message, _) = second.session_message(&setup.nas);
        let Nas5gsmMessage::PduSessionEstablishmentAccept(accept) = message else {
            panic!("accept expected");
        };
        assert_eq!(accept.pdu_address.unwrap().ipv4(), Some([10, 61, 0, last]));
        assert_eq!(setup.qfis, [1]);
    }
    let request = second.session_request(3, Some("ims"));
    let (_, nas) = n3iwf::downlink(&core.ask(&n3iwf::uplink(ids, request)));
    let (message, _) = second.session_message(&nas);
    let Nas5gsmMessage::PduSessionEstablishmentReject(reject) = message else {
        panic!("reject expected");
    };
    assert_eq!(
        reject.fgsm_cause.cause(),
        Some(GsmCause::InsufficientResources)
    );
    let teids: std::collections::BTreeSet<u32> = core
        .amf
        .ue_status()
        .iter()
        .flat_map(|ue| ue.sessions.iter().map(|session| session.uplink_teid))
        .collect();
    assert_eq!(teids.len(), 4);
}

#[test]
fn refusals_of_sessions() {
    let (mut core, mut ue) = attached();
    let ids = ue.ids.unwrap();
    // A data network that nobody has: the 5GSM message comes back.
    let request = ue.session_request(1, Some("intranet"));
    let (_, nas) = n3iwf::downlink(&core.ask(&n3iwf::uplink(ids, request)));
    let (message, cause) = ue.session_message(&nas);
    assert!(matches!(
        message,
        Nas5gsmMessage::PduSessionEstablishmentRequest(_)
    ));
    assert_eq!(
        cause,
        Some(GmmCause::DnnNotSupportedOrNotSubscribedInTheSlice)
    );

    // Policy, type and SSC mode: PDU SESSION ESTABLISHMENT REJECT.
    let rejected = |core: &mut Core, ue: &mut Ue, request: Vec<u8>| {
        let (_, nas) = n3iwf::downlink(&core.ask(&n3iwf::uplink(ids, request)));
        match ue.session_message(&nas).0 {
            Nas5gsmMessage::PduSessionEstablishmentReject(reject) => {
                (reject.fgsm_cause.cause().unwrap(), reject.allowed_ssc_mode)
            }
            other => panic!("reject expected: {other:?}"),
        }
    };
    core.amf.policy.pdu_session_reject = Some(26);
    let request = ue.session_request(1, None);
    let (cause, _) = rejected(&mut core, &mut ue, request);
    assert_eq!(cause, GsmCause::InsufficientResources);
    core.amf.policy.pdu_session_reject = None;
    let rate = || NasIntegrityProtectionMaximumDataRate::new(0xffff);
    let ipv6 = NasPduSessionEstablishmentRequest::new(rate()).with_pdu_session_type(
        NasPduSessionType::from_session_type(PduSessionTypeValue::Ipv6),
    );
    let request = ue.session_transport(1, Nas5gsMessage::new_5gsm(ipv6, 1, 1), None);
    let (cause, _) = rejected(&mut core, &mut ue, request);
    assert_eq!(cause, GsmCause::PduSessionTypeIpv4OnlyAllowed);
    let mode2 = NasPduSessionEstablishmentRequest::new(rate())
        .with_ssc_mode(NasSscMode::from_mode(SscModeValue::Ssc2));
    let request = ue.session_transport(1, Nas5gsMessage::new_5gsm(mode2, 1, 1), None);
    let (cause, allowed) = rejected(&mut core, &mut ue, request);
    assert_eq!(cause, GsmCause::NotSupportedSscMode);
    assert!(allowed.unwrap().ssc1());
    assert!(core.user_plane.is_empty());
    assert!(core.amf.ue_status()[0].sessions.is_empty());
}

#[test]
fn a_request_for_both_families_gets_ipv4_and_is_told() {
    let (mut core, mut ue) = attached();
    let both =
        NasPduSessionEstablishmentRequest::new(NasIntegrityProtectionMaximumDataRate::new(0xffff))
            .with_pdu_session_type(NasPduSessionType::from_session_type(
                PduSessionTypeValue::Ipv4v6,
            ));
    let request = ue.session_transport(1, Nas5gsMessage::new_5gsm(both, 1, 9), None);
    let setup = n3iwf::session_setup(&core.ask(&n3iwf::uplink(ue.ids.unwrap(), request)));
    let Nas5gsmMessage::PduSessionEstablishmentAccept(accept) = ue.session_message(&setup.nas).0
    else {
        panic!("accept expected");
    };
    let cause = accept.fgsm_cause.unwrap().cause();
    assert_eq!(cause, Some(GsmCause::PduSessionTypeIpv4OnlyAllowed));
}

#[test]
fn release_by_the_ue_ends_when_both_have_answered() {
    let (mut core, mut ue) = attached();
    let ids = ue.ids.unwrap();
    let (_, setup) = ue.establish(&mut core, 1);
    let request = Nas5gsMessage::new_5gsm(NasPduSessionReleaseRequest::new(), 1, 2);
    let request = ue.session_transport(1, request, None);
    let command = core.ask(&n3iwf::uplink(ids, request));
    let (session, nas) = n3iwf::session_release(&command);
    assert_eq!(session, 1);
    let message = ue.session_message(&nas.unwrap()).0;
    assert!(matches!(
        message,
        Nas5gsmMessage::PduSessionReleaseCommand(_)
    ));

    let complete = Nas5gsMessage::new_5gsm(NasPduSessionReleaseComplete::new(), 1, 2);
    let complete = ue.session_transport(1, complete, None);
    assert!(core.send(&n3iwf::uplink(ids, complete)).is_empty());
    assert_eq!(core.amf.ue_status()[0].sessions[0].state, "release");
    assert!(core.send(&n3iwf::session_released(ids, 1)).is_empty());
    assert!(core.amf.ue_status()[0].sessions.is_empty());
    let uplink_teid = setup.uplink.1;
    assert_eq!(
        core.user_plane.last(),
        Some(&Action::Remove { uplink_teid })
    );

    // A session that is not there.
    let request = Nas5gsMessage::new_5gsm(NasPduSessionReleaseRequest::new(), 9, 3);
    let request = ue.session_transport(9, request, None);
    let (_, nas) = n3iwf::downlink(&core.ask(&n3iwf::uplink(ids, request)));
    let Nas5gsmMessage::PduSessionReleaseReject(reject) = ue.session_message(&nas).0 else {
        panic!("reject expected");
    };
    assert_eq!(
        reject.fgsm_cause.cause(),
        Some(GsmCause::InvalidPduSessionIdentity)
    );
}

#[test]
fn release_by_the_network() {
    let (mut core, mut ue) = attached();
    let ids = ue.ids.unwrap();
    ue.establish(&mut core, 1);
    let supi = ue.supi.clone();
    assert!(core.amf.release_pdu_session(core.now, &supi, 2).is_err());
    let actions = core.amf.release_pdu_session(core.now, &supi, 1).unwrap();
    let sent = core.take(actions);
    let (_, nas) = n3iwf::session_release(&sent[0]);
    let Nas5gsmMessage::PduSessionReleaseCommand(command) = ue.session_message(&nas.unwrap()).0
    else {
        panic!("release command expected");
    };
    assert_eq!(
        command.fgsm_cause.cause(),
        Some(GsmCause::RegularDeactivation)
    );
    assert!(core.send(&n3iwf::session_released(ids, 1)).is_empty());
    let complete = Nas5gsMessage::new_5gsm(NasPduSessionReleaseComplete::new(), 1, 0);
    let complete = ue.session_transport(1, complete, None);
    assert!(core.send(&n3iwf::uplink(ids, complete)).is_empty());
    assert!(core.amf.ue_status()[0].sessions.is_empty());
    // The address is free again.
    let (accept, _) = ue.establish(&mut core, 1);
    assert_eq!(accept.pdu_address.unwrap().ipv4(), Some([10, 60, 0, 2]));
}

#[test]
fn the_same_identity_again_replaces_the_session() {
    let (mut core, mut ue) = attached();
    let ids = ue.ids.unwrap();
    ue.establish(&mut core, 1);
    let request = ue.session_request(1, None);
    let command = core.ask(&n3iwf::uplink(ids, request));
    let (session, nas) = n3iwf::session_release(&command);
    assert_eq!((session, nas), (1, None));
    let setup = n3iwf::session_setup(&core.ask(&n3iwf::session_released(ids, 1)));
    let message = ue.session_message(&setup.nas).0;
    assert!(matches!(
        message,
        Nas5gsmMessage::PduSessionEstablishmentAccept(_)
    ));
    assert_eq!(core.amf.ue_status()[0].sessions.len(), 1);
}

#[test]
fn a_session_that_the_n3iwf_cannot_set_up_is_rejected_to_the_ue() {
    let (mut core, mut ue) = attached();
    let ids = ue.ids.unwrap();
    let request = ue.session_request(1, None);
    let answer = core.ask(&n3iwf::uplink(ids, request));
    assert_eq!(name(&answer), "PDUSessionResourceSetup");
    let answer = core.ask(&n3iwf::session_failed(ids, 1));
    let (_, nas) = n3iwf::downlink(&answer);
    // The accept was never forwarded: its COUNT is skipped.
    let Nas5gsmMessage::PduSessionEstablishmentReject(reject) = ue.session_message(&nas).0 else {
        panic!("reject expected");
    };
    assert_eq!(
        reject.fgsm_cause.cause(),
        Some(GsmCause::InsufficientResources)
    );
    assert!(core.amf.ue_status()[0].sessions.is_empty());
    assert!(matches!(
        core.user_plane.last(),
        Some(Action::Remove { .. })
    ));
}

#[test]
fn a_fixed_address_is_kept() {
    let text = CONFIG.replace(
        "    sqn: \"000000000020\"\n",
        "    sqn: \"000000000020\"\n    static_ip: 10.60.7.7\n",
    );
    let mut core = Core::set_up_with(&text);
    let mut ue = Ue::first(1);
    ue.attach(&mut core);
    let (accept, _) = ue.establish(&mut core, 1);
    assert_eq!(accept.pdu_address.unwrap().ipv4(), Some([10, 60, 7, 7]));
}
