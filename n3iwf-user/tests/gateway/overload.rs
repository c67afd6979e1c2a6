//! AMFs that are overloaded, that go out of service, or that are down while another of their set is not.

use std::time::Duration;

use ike::{CloseReason, wire::NotifyType};
use nwu::{AnParameters, EstablishmentCause};
use oxirush_ngap::{NgapPduKind, ngap::OverloadAction};

use crate::{
    amf,
    world::{World, an_parameters},
};

const SIGNALLING: OverloadAction = OverloadAction::reject_rrc_cr_signalling;

/// Two AMFs of set 1: the UEs' own, and one with this capacity.
fn pair(capacity: u8) -> World {
    World::with_amfs(vec![
        amf::ng_setup_response_of("amf-1", (1, 0), 100, None),
        amf::ng_setup_response_of("amf-2", (1, 1), capacity, None),
    ])
}

/// A UE that tells this of itself begins to attach: its number, and its AMF if it got one.
fn begin(world: &mut World, parameters: AnParameters) -> (usize, Option<usize>) {
    let ue = world.add_ue();
    world.ues[ue].parameters = parameters;
    world.run();
    let amf = world.uplink.pop_front().map(|initial| {
        assert_eq!(initial.kind(), NgapPduKind::Initiating_InitialUEMessage);
        initial.amf
    });
    (ue, amf)
}

fn chosen(world: &mut World, parameters: &AnParameters) -> Option<usize> {
    begin(world, parameters.clone()).1
}

fn because(cause: EstablishmentCause) -> AnParameters {
    AnParameters {
        establishment_cause: Some(cause),
        ..an_parameters()
    }
}

fn refused(kind: NotifyType) -> Option<CloseReason> {
    Some(CloseReason::Refused(kind))
}

#[test]
fn the_share_that_is_said_goes_to_another_amf_of_the_set() {
    let mut world = pair(1);
    world.ngap(&amf::overload_start(Some(SIGNALLING), Some(30)));
    let amfs: Vec<_> = (0..100)
        .map(|_| chosen(&mut world, &an_parameters()).unwrap())
        .collect();
    assert_eq!(amfs.iter().filter(|amf| **amf == 1).count(), 30);
    assert_eq!(
        amfs[..10].iter().filter(|amf| **amf == 1).count(),
        3,
        "evenly"
    );
    let status = world.gateway.amfs();
    assert_eq!(status[0].turned_away, 30);
    assert_eq!(
        status[0].overload.as_deref(),
        Some("no MO data and signalling, 30 % less")
    );
    assert_eq!(status[1].overload, None);
    world.ngap(&amf::overload_stop());
    assert_eq!(world.gateway.amfs()[0].overload, None);
    for _ in 0..10 {
        assert_eq!(chosen(&mut world, &an_parameters()), Some(0));
    }
}

#[test]
fn an_action_is_about_some_causes_and_a_later_one_takes_its_place() {
    let mut world = pair(1);
    let data = because(EstablishmentCause::MoData);
    world.ngap(&amf::overload_start(
        Some(OverloadAction::reject_non_emergency_mo_dt),
        None,
    ));
    assert_eq!(chosen(&mut world, &data), Some(1));
    assert_eq!(chosen(&mut world, &an_parameters()), Some(0), "signalling");
    world.ngap(&amf::overload_start(
        Some(OverloadAction::permit_emergency_sessions_and_mobile_terminated_services_only),
        None,
    ));
    let high = because(EstablishmentCause::HighPriorityAccess);
    assert_eq!(chosen(&mut world, &an_parameters()), Some(1));
    assert_eq!(chosen(&mut world, &high), Some(1));
    let emergency = because(EstablishmentCause::Emergency);
    assert_eq!(chosen(&mut world, &emergency), Some(0));
    world.ngap(&amf::overload_start(None, None));
    assert_eq!(chosen(&mut world, &data), Some(0), "nothing to be less of");
}

#[test]
fn with_no_other_amf_the_ue_is_told_and_then_costs_no_keys() {
    let mut world = World::new();
    let (attached, _) = world.attach_with_session();
    world.ngap(&amf::overload_start(Some(SIGNALLING), None));
    let keys = world.fetched;
    let (ue, none) = begin(&mut world, an_parameters());
    assert_eq!(none, None, "the AMF hears nothing of it");
    assert_eq!(world.ues[ue].closed, refused(NotifyType::CONGESTION));
    // Only EAP-5G tells what an attach is for: this one has cost its keys, the next one does not.
    assert_eq!(world.fetched, keys + 7);
    for _ in 0..20 {
        let (ue, none) = begin(&mut world, an_parameters());
        assert_eq!(none, None);
        // It would ask again: an answer to IKE_SA_INIT may be anybody's.
        world.ues[ue].dead = true;
    }
    assert_eq!(world.fetched, keys + 7);
    // Later it may be an emergency.
    world.pass(Duration::from_secs(11));
    let emergency = because(EstablishmentCause::Emergency);
    assert_eq!(chosen(&mut world, &emergency), Some(0));
    let (_, none) = begin(&mut world, an_parameters());
    assert_eq!(none, None);
    world.ngap(&amf::overload_stop());
    assert_eq!(chosen(&mut world, &an_parameters()), Some(0), "at once");
    // Who was attached has noticed nothing.
    assert!(world.ues[attached].closed.is_none());
    assert_eq!(world.relay.len(), 1);
    world.ngap(&amf::reset(&[]));
    world.pass(Duration::from_secs(120));
    world.assert_nothing_left();
}

#[test]
fn an_overload_ends_with_the_association() {
    let mut world = World::new();
    world.ngap(&amf::overload_start(Some(SIGNALLING), None));
    world.setup_answers.push_back(amf::ng_setup_response());
    world.lose_amf();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.next().kind(), NgapPduKind::Initiating_NGSetup);
    assert_eq!(world.gateway.amfs()[0].overload, None);
    assert_eq!(chosen(&mut world, &an_parameters()), Some(0));
}

#[test]
fn ues_of_a_withdrawn_guami_go_to_its_backup_or_its_set() {
    let answers = || {
        vec![
            amf::ng_setup_response_of("amf-1", (1, 0), 100, None),
            amf::ng_setup_response_of("amf-2", (1, 1), 200, None),
            amf::ng_setup_response_of("amf-3", (2, 0), 1, None),
        ]
    };
    let mut world = World::with_amfs(answers());
    let (attached, ran) = world.attach();
    world.ngap(&amf::status_indication((1, 0), None));
    assert_eq!(
        chosen(&mut world, &an_parameters()),
        Some(1),
        "the same set"
    );
    world.ngap(&amf::status_indication((1, 0), Some("amf-3")));
    assert_eq!(chosen(&mut world, &an_parameters()), Some(2), "the backup");
    assert_eq!(world.gateway.amfs()[0].withdrawn, ["208/93 1/1/0 -> amf-3"]);
    // Nobody new gets there without a GUAMI either, and who is there stays.
    let stranger = AnParameters {
        guami: None,
        ..an_parameters()
    };
    for _ in 0..20 {
        assert_ne!(chosen(&mut world, &stranger), Some(0));
    }
    world.ngap(&amf::downlink_nas(ran, b"still here"));
    assert_eq!(world.nas_sent.len(), 1);
    assert!(world.ues[attached].closed.is_none());
    world.ngap(&amf::guami_update((1, 0)));
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Successful_AMFConfigurationUpdate
    );
    assert_eq!(chosen(&mut world, &an_parameters()), Some(0), "back");
}

#[test]
fn an_amf_without_a_guami_left_takes_no_attach_and_no_key() {
    let mut world = World::new();
    world.ngap(&amf::status_indication((1, 0), None));
    let (ue, none) = begin(&mut world, an_parameters());
    assert_eq!(none, None);
    world.pass(Duration::from_secs(200));
    assert_eq!(
        world.ues[ue].closed,
        Some(CloseReason::PeerQkdUnavailable(3))
    );
    assert_eq!(world.fetched, 0);
    world.assert_nothing_left();
    // GUAMIs of others are none of its business.
    world.ngap(&amf::guami_update((1, 0)));
    world.ngap(&amf::status_indication((1, 7), None));
    assert!(world.gateway.amfs()[0].withdrawn.is_empty());
}

#[test]
fn ues_of_an_amf_that_is_down_go_to_its_backup_or_its_set() {
    for (backup, other) in [(None, 1), (Some("amf-3"), 2)] {
        let mut world = World::with_amfs(vec![
            amf::ng_setup_response_of("amf-1", (1, 0), 255, backup),
            amf::ng_setup_response_of("amf-2", (1, 1), 1, None),
            amf::ng_setup_response_of("amf-3", (2, 0), 200, None),
        ]);
        assert_eq!(chosen(&mut world, &an_parameters()), Some(0));
        world.amf_listens = false;
        world.lose_amf();
        assert_eq!(chosen(&mut world, &an_parameters()), Some(other));
    }
}

#[test]
fn ues_without_a_guami_are_shared_out_by_capacity() {
    let mut world = pair(50);
    let stranger = AnParameters {
        guami: None,
        ..an_parameters()
    };
    let amfs: Vec<_> = (0..30)
        .map(|_| chosen(&mut world, &stranger).unwrap())
        .collect();
    assert_eq!(amfs.iter().filter(|amf| **amf == 0).count(), 20);
}

#[test]
fn every_truncation_of_an_overload_message_is_survived() {
    let mut world = pair(1);
    for whole in [
        amf::overload_start(Some(SIGNALLING), Some(99)),
        amf::overload_stop(),
        amf::status_indication((1, 0), Some("amf-2")),
    ] {
        for length in 0..whole.len() {
            world.ngap(&whole[..length]);
        }
    }
    world.uplink.clear();
    assert!(world.gateway.amfs()[0].withdrawn.is_empty());
    world.ngap(&amf::overload_stop());
    assert_eq!(chosen(&mut world, &an_parameters()), Some(0));
}
