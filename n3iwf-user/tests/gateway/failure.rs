//! Attaches and UEs that end badly: told to the right ones, and nothing left.

use std::time::Duration;

use ike::{CloseReason, Path, QkdFailure, wire::NotifyType};
use n3iwf_user::ngap::Cause;
use oxirush_ngap::{NgapPduKind, ie, ngap::*};

use crate::{amf, world::World};

#[test]
fn a_reject_reaches_the_ue_before_eap_failure() {
    let mut world = World::new();
    let ue = world.add_ue();
    world.ues[ue].stop = true;
    world.run();
    let ran = world.next().ran().unwrap();
    world
        .gateway
        .handle_ngap(world.now, 0, &amf::downlink_nas(ran, b"reject"));
    world
        .gateway
        .handle_ngap(world.now, 0, &amf::context_release(ran));
    world.run();
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Successful_UEContextRelease
    );
    let ue = &world.ues[ue];
    assert_eq!(ue.nas, [b"reject".to_vec()]);
    assert!(ue.eap_failed);
    assert!(world.uplink.is_empty(), "the AMF knows already");
    world.assert_nothing_left();
}

#[test]
fn a_release_when_it_is_our_turn_ends_eap_at_once() {
    let mut world = World::new();
    let ue = world.add_ue();
    world.run();
    let ran = world.next().ran().unwrap();
    world.ngap(&amf::context_release(ran));
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Successful_UEContextRelease
    );
    assert!(world.ues[ue].eap_failed);
    world.assert_nothing_left();
}

#[test]
fn a_stop_asks_the_amf_to_release() {
    let mut world = World::new();
    let ue = world.add_ue();
    world.ues[ue].stop = true;
    world.run();
    let ran = world.next().ran().unwrap();
    world.ngap(&amf::downlink_nas(ran, b"authenticate"));
    assert!(world.ues[ue].eap_failed);
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Initiating_UEContextReleaseRequest
    );
    world.ngap(&amf::context_release(ran));
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Successful_UEContextRelease
    );
    world.assert_nothing_left();
}

#[test]
fn an_amf_that_never_releases_does_not_keep_the_ue() {
    let mut world = World::new();
    let ue = world.add_ue();
    world.ues[ue].stop = true;
    world.run();
    let ran = world.next().ran().unwrap();
    world.ngap(&amf::downlink_nas(ran, b"authenticate"));
    assert!(!world.gateway.is_empty());
    world.pass(Duration::from_secs(40));
    world.assert_nothing_left();
}

#[test]
fn a_wrong_k_n3iwf_fails_the_context_setup() {
    let mut world = World::new();
    let ue = world.add_ue();
    world.ues[ue].msk = [8; 32];
    world.run();
    let ran = world.next().ran().unwrap();
    world.ngap(&amf::context_setup(ran, None, Vec::new()));
    let failure = world.next();
    assert_eq!(
        failure.kind(),
        NgapPduKind::Unsuccessful_InitialContextSetup
    );
    assert_eq!(
        failure.cause(),
        Cause::radioNetwork(CauseRadioNetwork::failure_in_radio_interface_procedure)
    );
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Initiating_UEContextReleaseRequest
    );
    world.ngap(&amf::context_release(ran));
    world.pass(Duration::from_secs(120));
    assert!(!world.ues[ue].established);
    world.assert_nothing_left();
}

#[test]
fn a_signalling_sa_the_data_plane_refuses_fails_the_context_setup() {
    let mut world = World::new();
    world.add_ue();
    world.run();
    let ran = world.next().ran().unwrap();
    world.refuse_install = true;
    world.ngap(&amf::context_setup(ran, None, Vec::new()));
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Unsuccessful_InitialContextSetup
    );
    world.ngap(&amf::context_release(ran));
    world.pass(Duration::from_secs(120));
    world.assert_nothing_left();
}

#[test]
fn an_empty_address_pool_fails_the_context_setup() {
    let mut world = World::without_amf("10.0.0.0/30");
    world.amf_listens = true;
    world.setup_answers.push_back(amf::ng_setup_response());
    world.start();
    world.next();
    // Two hosts, one of them ours.
    let (_, first) = world.attach();
    let ue = world.add_ue();
    world.run();
    let ran = world.next().ran().unwrap();
    world.ngap(&amf::context_setup(ran, None, Vec::new()));
    let failure = world.next();
    assert_eq!(
        failure.cause(),
        Cause::radioNetwork(CauseRadioNetwork::radio_resources_not_available)
    );
    assert!(world.ues[ue].eap_failed);
    world.ngap(&amf::context_release(ran));
    world.ngap(&amf::context_release(first));
    world.uplink.clear();
    world.assert_nothing_left();
    world.attach();
}

#[test]
fn a_kms_without_keys_costs_nothing() {
    let mut world = World::new();
    world.kms_failure = Some(QkdFailure::Unreachable);
    let ue = world.add_ue();
    world.pass(Duration::from_secs(120));
    assert_eq!(
        world.ues[ue].closed,
        Some(CloseReason::PeerQkdUnavailable(2))
    );
    assert!(world.uplink.is_empty());
    world.assert_nothing_left();
    world.kms_failure = None;
    world.attach();
}

#[test]
fn without_an_amf_no_key_is_spent() {
    let mut world = World::without_amf("10.0.0.0/24");
    world.start();
    let ue = world.add_ue();
    world.pass(Duration::from_secs(120));
    assert_eq!(
        world.ues[ue].closed,
        Some(CloseReason::PeerQkdUnavailable(3))
    );
    assert_eq!(world.fetched, 0);
    world.assert_nothing_left();
}

#[test]
fn an_amf_lost_between_keys_and_eap_means_congestion() {
    let mut world = World::new();
    let ue = world.add_ue();
    // IKE_SA_INIT arrives and gets its keys; then the AMF goes.
    let init = world.ues[ue].endpoint.poll_transmit().unwrap();
    let path = Path {
        local: init.path.remote,
        remote: init.path.local,
    };
    world.gateway.handle_datagram(world.now, path, &init.data);
    while let Some(action) = world.gateway.poll_action() {
        world.act(action);
    }
    assert_eq!(world.fetched, 7);
    world.amf_listens = false;
    world.lose_amf();
    assert_eq!(
        world.ues[ue].closed,
        Some(CloseReason::Refused(NotifyType::CONGESTION))
    );
    world.pass(Duration::from_secs(60));
    world.assert_nothing_left();
}

#[test]
fn a_ue_that_dies_is_noticed_and_released() {
    let mut world = World::new();
    let (ue, _) = world.attach_with_session();
    world.ues[ue].dead = true;
    world.pass(Duration::from_secs(600));
    let request = world.next();
    assert_eq!(
        request.kind(),
        NgapPduKind::Initiating_UEContextReleaseRequest
    );
    assert_eq!(
        request.cause(),
        Cause::radioNetwork(CauseRadioNetwork::radio_connection_with_ue_lost)
    );
    assert!(world.held.is_empty(), "ESP goes with the IKE SA");
    world.assert_nothing_left();
    world.attach();
}

#[test]
fn a_ue_killed_in_the_middle_of_eap_expires() {
    let mut world = World::new();
    let ue = world.add_ue();
    world.run();
    let ran = world.next().ran().unwrap();
    world.ues[ue].dead = true;
    world.ngap(&amf::downlink_nas(ran, b"authenticate"));
    world.pass(Duration::from_secs(35));
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Initiating_UEContextReleaseRequest
    );
    world.pass(Duration::from_secs(60));
    world.assert_nothing_left();
}

#[test]
fn a_ue_gone_before_the_amf_told_its_identifier_is_released_when_it_does() {
    let mut world = World::new();
    let ue = world.add_ue();
    world.run();
    let ran = world.next().ran().unwrap();
    world.ues[ue].dead = true;
    world.pass(Duration::from_secs(31));
    world.ngap(&amf::downlink_nas(ran, b"late"));
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Initiating_UEContextReleaseRequest
    );
    world.ngap(&amf::context_release(ran));
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Successful_UEContextRelease
    );
    world.pass(Duration::from_secs(60));
    world.assert_nothing_left();
}

#[test]
fn a_ue_that_deletes_its_ike_sa_is_released() {
    let mut world = World::new();
    let (ue, ran) = world.attach_with_session();
    let (now, sa) = (world.now, world.ues[ue].sa.unwrap());
    world.ues[ue].endpoint.close(now, sa);
    world.run();
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Initiating_UEContextReleaseRequest
    );
    assert!(
        world.uplink.is_empty(),
        "no notification about each session"
    );
    world.ngap(&amf::context_release(ran));
    world.assert_nothing_left();
}

#[test]
fn the_amf_releases_a_ue_with_everything() {
    let mut world = World::new();
    let (ue, ran) = world.attach_with_session();
    world.ngap(&amf::context_release(ran));
    let complete = world.next();
    assert_eq!(complete.kind(), NgapPduKind::Successful_UEContextRelease);
    let list = complete
        .pdu
        .ie::<ie::PDUSessionResourceListCxtRelCpl>()
        .unwrap()
        .unwrap();
    assert_eq!(list.0[0].pdu_session_id.0, 1);
    assert_eq!(world.ues[ue].closed, Some(CloseReason::PeerDeleted));
    assert_eq!(world.nas_closed.len(), 1);
    world.assert_nothing_left();
}

#[test]
fn the_operator_releases_a_ue_through_the_amf() {
    let mut world = World::new();
    let (_, ran) = world.attach_with_session();
    assert!(!world.gateway.release(world.now, 999));
    assert!(world.gateway.release(world.now, ran));
    world.run();
    let request = world.next();
    assert_eq!(request.cause(), Cause::misc(CauseMisc::om_intervention));
    assert_eq!(world.held.len(), 2, "until the AMF says so");
    world.ngap(&amf::context_release(ran));
    world.assert_nothing_left();
}

#[test]
fn the_loss_of_the_amf_takes_its_ues_and_the_next_attach_works() {
    let mut world = World::new();
    let (ue, _) = world.attach_with_session();
    let half = world.add_ue();
    world.run();
    world.next();
    world.amf_listens = false;
    world.lose_amf();
    assert_eq!(world.ues[ue].closed, Some(CloseReason::PeerDeleted));
    assert!(world.ues[half].eap_failed);
    world.assert_nothing_left();
    assert!(world.uplink.is_empty(), "there is nobody to tell");
    world.amf_listens = true;
    world.setup_answers.push_back(amf::ng_setup_response());
    world.pass(Duration::from_secs(120));
    assert_eq!(world.next().kind(), NgapPduKind::Initiating_NGSetup);
    world.attach();
}

#[test]
fn a_shutdown_releases_everybody() {
    let mut world = World::new();
    world.attach_with_session();
    world.attach();
    let half = world.add_ue();
    world.run();
    world.next();
    world.gateway.shut_down(world.now);
    world.run();
    for _ in 0..2 {
        assert_eq!(
            world.next().kind(),
            NgapPduKind::Initiating_UEContextReleaseRequest
        );
    }
    assert!(world.ues[half].eap_failed);
    world.pass(Duration::from_secs(60));
    world.assert_nothing_left();
    let late = world.add_ue();
    world.pass(Duration::from_secs(60));
    assert!(!world.ues[late].established);
    assert_eq!(world.gateway.sas().len(), 0);
}
