//! The N2 interface itself: setup, loss, reset, errors.

use std::time::Duration;

use n3iwf_user::ngap::Cause;
use oxirush_ngap::{NgapPduKind, build_ngap, ie, ngap::*};

use crate::{amf, world::World};

#[test]
fn ng_setup_says_who_we_are() {
    let mut world = World::without_amf("10.0.0.0/24");
    world.amf_listens = true;
    world.start();
    let setup = world.next();
    assert_eq!(setup.kind(), NgapPduKind::Initiating_NGSetup);
    assert_eq!(setup.ue, None, "on stream 0");
    let node = setup.pdu.ie::<ie::GlobalRANNodeID>().unwrap().unwrap();
    let GlobalRANNodeID::globalN3IWF_ID(node) = node else {
        panic!("not an N3IWF");
    };
    let N3IWFID::n3IWF_ID(id) = node.n3iwf_id else {
        panic!("no 16-bit ID");
    };
    assert_eq!((id.value(), id.len()), (135, 16));
    assert_eq!(node.plmn_identity.0, [0x02, 0xf8, 0x39]);
    let areas = setup.pdu.ie::<ie::SupportedTAList>().unwrap().unwrap();
    assert_eq!(areas.0[0].tac.0, [0, 0, 1]);
    let slice = &areas.0[0].broadcast_plmn_list.0[0].tai_slice_support_list.0[0].s_nssai;
    assert_eq!(
        (slice.sst.0, slice.sd.as_ref().unwrap().0),
        ([1], [1, 2, 3])
    );
}

#[test]
fn an_absent_amf_is_tried_again_with_growing_waits() {
    let mut world = World::without_amf("10.0.0.0/24");
    world.start();
    assert_eq!(world.connects, 1);
    let mut seen = Vec::new();
    for _ in 0..70 {
        world.pass(Duration::from_secs(1));
        seen.push(world.connects);
    }
    // After 1, 2, 4, 8, 16 and then every 30 seconds.
    assert_eq!(
        (seen[0], seen[2], seen[6], seen[14], seen[30]),
        (2, 3, 4, 5, 6)
    );
    assert_eq!(seen[60], 7);
    let status = &world.gateway.amfs()[0];
    assert_eq!(status.state, "down");
    assert_eq!(status.trouble.as_deref(), Some("refused"));
}

#[test]
fn a_setup_failure_is_retried_after_the_time_to_wait() {
    let mut world = World::without_amf("10.0.0.0/24");
    world.amf_listens = true;
    world
        .setup_answers
        .push_back(amf::ng_setup_failure(Some(TimeToWait::v5s)));
    world.setup_answers.push_back(amf::ng_setup_response());
    world.start();
    assert_eq!(world.gateway.amfs()[0].state, "waiting");
    world.next();
    world.pass(Duration::from_secs(4));
    assert!(world.uplink.is_empty());
    world.pass(Duration::from_secs(2));
    assert_eq!(world.next().kind(), NgapPduKind::Initiating_NGSetup);
    assert_eq!(
        (world.connects, world.disconnects),
        (1, 0),
        "the association stands"
    );
    let status = &world.gateway.amfs()[0];
    assert_eq!(
        (status.state.as_str(), status.name.as_str()),
        ("ready", "amf-1")
    );
}

#[test]
fn a_setup_failure_without_a_time_disconnects() {
    let mut world = World::without_amf("10.0.0.0/24");
    world.amf_listens = true;
    world.setup_answers.push_back(amf::ng_setup_failure(None));
    world.start();
    assert_eq!(world.disconnects, 1);
    let status = &world.gateway.amfs()[0];
    assert!(status.trouble.as_deref().unwrap().contains("unknown PLMN"));
}

#[test]
fn an_amf_that_does_not_answer_the_setup_is_left() {
    let mut world = World::without_amf("10.0.0.0/24");
    world.amf_listens = true;
    world.start();
    world.pass(Duration::from_secs(9));
    assert_eq!(world.disconnects, 0);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.disconnects, 1);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.connects, 2);
}

#[test]
fn a_configuration_update_is_acknowledged_and_kept() {
    let mut world = World::new();
    world.ngap(&amf::configuration_update());
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Successful_AMFConfigurationUpdate
    );
    assert_eq!(world.gateway.amfs()[0].name, "amf-renamed");
}

#[test]
fn a_reset_of_one_ue_leaves_the_other() {
    let mut world = World::new();
    let (first, ran) = world.attach_with_session();
    let (second, other) = world.attach_with_session();
    world.ngap(&amf::reset(&[ran]));
    let answer = world.next();
    assert_eq!(answer.kind(), NgapPduKind::Successful_NGReset);
    let list = answer
        .pdu
        .ie::<ie::UE_associatedLogicalNG_connectionList>()
        .unwrap()
        .unwrap();
    assert_eq!(list.0.len(), 1);
    assert!(world.ues[first].closed.is_some());
    assert!(world.ues[second].closed.is_none());
    assert_eq!(world.gateway.ues(world.now)[0].ue, other);
    world.ngap(&amf::reset(&[]));
    assert_eq!(world.next().kind(), NgapPduKind::Successful_NGReset);
    world.assert_nothing_left();
}

#[test]
fn messages_about_nobody_are_answered_with_the_cause() {
    let mut world = World::new();
    let (_, ran) = world.attach();
    world.ngap(&amf::downlink_nas(4711, b"x"));
    let answer = world.next();
    assert_eq!(answer.kind(), NgapPduKind::Initiating_ErrorIndication);
    assert_eq!(
        answer.cause(),
        Cause::radioNetwork(CauseRadioNetwork::unknown_local_UE_NGAP_ID)
    );
    world.ngap(&amf::context_release(4711));
    assert_eq!(world.next().kind(), NgapPduKind::Initiating_ErrorIndication);
    let twisted = build_ngap!(
        InitiatingMessage,
        DownlinkNASTransport,
        DownlinkNASTransport,
        AMF_UE_NGAP_ID(1u64),
        RAN_UE_NGAP_ID(ran),
        NAS_PDU(vec![1]),
    )
    .unwrap();
    world.ngap(&twisted.encode().unwrap());
    assert_eq!(
        world.next().cause(),
        Cause::radioNetwork(CauseRadioNetwork::inconsistent_remote_UE_NGAP_ID)
    );
    assert!(world.nas_sent.is_empty());
}

#[test]
fn an_error_indication_that_the_amf_lost_a_ue_ends_it() {
    let mut world = World::new();
    let (_, ran) = world.attach_with_session();
    world.ngap(&amf::error_indication(ran, CauseRadioNetwork::unspecified));
    assert!(!world.gateway.is_empty(), "any other cause is noted");
    world.ngap(&amf::error_indication(
        ran,
        CauseRadioNetwork::unknown_local_UE_NGAP_ID,
    ));
    assert!(world.uplink.is_empty(), "never answered with another one");
    world.assert_nothing_left();
}

#[test]
fn what_is_no_ngap_or_lacks_an_ie_is_answered_and_survived() {
    let mut world = World::new();
    for octets in [&[][..], &[0xff], &[0, 21, 0, 200, 1], &[0x80; 40]] {
        world.ngap(octets);
    }
    let syntax = Cause::protocol(CauseProtocol::transfer_syntax_error);
    while let Some(answer) = world.uplink.pop_front() {
        assert_eq!(answer.kind(), NgapPduKind::Initiating_ErrorIndication);
        assert_eq!(answer.cause(), syntax);
    }
    let bare = build_ngap!(
        InitiatingMessage,
        DownlinkNASTransport,
        DownlinkNASTransport,
        AMF_UE_NGAP_ID(5u64),
        RAN_UE_NGAP_ID(6u32),
    )
    .unwrap();
    world.ngap(&bare.encode().unwrap());
    let answer = world.next();
    assert_eq!(
        answer.cause(),
        Cause::protocol(CauseProtocol::abstract_syntax_error_reject)
    );
    assert_eq!(answer.ran(), Some(6));
    let diagnostics = answer
        .pdu
        .ie::<ie::CriticalityDiagnostics>()
        .unwrap()
        .unwrap();
    let items = diagnostics.ies_criticality_diagnostics.unwrap();
    assert_eq!(items.0[0].ie_id, ID_NAS_PDU);
    assert_eq!(items.0[0].type_of_error, TypeOfError::missing);
}

#[test]
fn every_truncation_of_a_message_is_survived() {
    let mut world = World::new();
    let (_, ran) = world.attach();
    let whole = amf::session_setup(ran, &[(1, b"accept", amf::transfer(1, &[1]))]);
    for len in 0..whole.len() {
        world.ngap(&whole[..len]);
    }
    // No truncation made a session of its own, and the daemon still works.
    world.uplink.clear();
    assert_eq!(world.relay.len(), 0);
    world.ngap(&whole);
    let (up, _) = amf::session_outcomes(&world.next());
    assert_eq!(up.len(), 1);
}

#[test]
fn unknown_procedures_follow_their_criticality() {
    let mut world = World::new();
    // UE RADIO CAPABILITY CHECK is of criticality reject, PAGING of criticality ignore.
    let check = build_ngap!(
        InitiatingMessage,
        UERadioCapabilityCheck,
        UERadioCapabilityCheckRequest,
        AMF_UE_NGAP_ID(5u64),
        RAN_UE_NGAP_ID(6u32),
    )
    .unwrap();
    world.ngap(&check.encode().unwrap());
    let answer = world.next();
    assert_eq!(answer.kind(), NgapPduKind::Initiating_ErrorIndication);
    assert_eq!(
        answer.cause(),
        Cause::protocol(CauseProtocol::abstract_syntax_error_reject)
    );
    let paging = build_ngap!(InitiatingMessage, Paging, Paging,).unwrap();
    world.ngap(&paging.encode().unwrap());
    assert!(world.uplink.is_empty());
}
