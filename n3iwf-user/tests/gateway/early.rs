//! Attaches that come while the association with the AMF is being set up.

use std::time::Duration;

use ike::CloseReason;
use oxirush_ngap::NgapPduKind;

use crate::{amf, world::World};

/// NG SETUP REQUEST is sent and not answered.
fn setting_up() -> World {
    let mut world = World::without_amf("10.0.0.0/24");
    world.amf_listens = true;
    world.start();
    assert_eq!(world.next().kind(), NgapPduKind::Initiating_NGSetup);
    world
}

fn turned_away(world: &World, ue: usize) -> bool {
    world.ues[ue].closed == Some(CloseReason::PeerQkdUnavailable(3))
}

#[test]
fn they_wait_without_keys_and_go_on_with_ng_setup() {
    let mut world = setting_up();
    let ues: Vec<usize> = (0..3).map(|_| world.add_ue()).collect();
    // They repeat themselves meanwhile, which makes no further attaches.
    world.pass(Duration::from_secs(2));
    assert_eq!(world.fetched, 0);
    assert_eq!(world.gateway.sas().len(), ues.len());
    world.ngap(&amf::ng_setup_response());
    for ue in &ues {
        let initial = world.next();
        assert_eq!(initial.kind(), NgapPduKind::Initiating_InitialUEMessage);
        assert_eq!(world.ues[*ue].closed, None);
    }
    assert_eq!(world.fetched, ues.len() * 7);
}

#[test]
fn they_are_refused_when_the_association_fails() {
    let mut world = setting_up();
    let ue = world.add_ue();
    world.run();
    world.amf_listens = false;
    world.lose_amf();
    assert_eq!(world.gateway.sas().len(), 0, "refused at once");
    world.pass(Duration::from_secs(10));
    assert!(turned_away(&world, ue), "{:?}", world.ues[ue].closed);
    assert_eq!(world.fetched, 0);
    world.assert_nothing_left();
}

#[test]
fn they_do_not_wait_for_ever() {
    let mut world = setting_up();
    let ue = world.add_ue();
    world.run();
    world.pass(Duration::from_secs(4));
    assert_eq!(world.gateway.sas().len(), 1);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.gateway.sas().len(), 0);
    world.pass(Duration::from_secs(10));
    assert!(turned_away(&world, ue), "{:?}", world.ues[ue].closed);
    assert_eq!(world.fetched, 0);
    world.assert_nothing_left();
}

#[test]
fn one_that_expires_meanwhile_is_forgotten() {
    let mut world = setting_up();
    let ue = world.add_ue();
    world.run();
    world.ues[ue].dead = true;
    world.gateway.abandon_all(world.now);
    world.run();
    world.ngap(&amf::ng_setup_response());
    assert!(world.uplink.is_empty());
    assert_eq!(world.fetched, 0);
    world.assert_nothing_left();
}

#[test]
fn a_shutdown_refuses_them() {
    let mut world = setting_up();
    let ue = world.add_ue();
    world.run();
    world.gateway.shut_down(world.now);
    world.pass(Duration::from_secs(10));
    assert!(turned_away(&world, ue), "{:?}", world.ues[ue].closed);
    assert_eq!(world.fetched, 0);
    world.assert_nothing_left();
}

#[test]
fn no_more_wait_than_there_is_room_for() {
    let mut world = setting_up();
    for _ in 0..1025 {
        world.add_ue();
    }
    world.run();
    assert_eq!(world.gateway.sas().len(), 1024);
    assert_eq!(world.fetched, 0);
}
