//! Attaches that work, and what comes after them.

use std::{net::Ipv4Addr, time::Duration};

use daemon::timeline::Phase;
use ike::Fate;

use super::world::{Faults, N3IWF_INNER, UE_INNER, World, ue_config};
use crate::core::ue::{Command, State};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_attach_from_ike_sa_init_to_an_interface() {
    let mut world = World::new(Faults::default());
    assert_eq!(world.ue.state(), State::Detached);
    world.command(Command::Attach);
    assert_eq!(world.ue.state(), State::Registered);
    assert_eq!(world.attached, 1);
    assert_eq!(world.installed.len(), 2, "signalling and user plane");

    let interface = &world.interfaces[0];
    assert_eq!(interface.accept.address, Some(Ipv4Addr::new(10, 60, 0, 1)));
    assert_eq!(
        (interface.accept.rules.default_qfi(), interface.mtu),
        (9, 1358)
    );
    assert_eq!(interface.inner_local, UE_INNER);
    assert_eq!(interface.up_address, N3IWF_INNER);
    assert_eq!(interface.slot, 0);

    let status = world.ue.status(world.now);
    assert_eq!(status.sessions.len(), 1);
    assert!(status.sessions[0].up);
    assert_eq!(status.ike[0].children.len(), 2);
    assert_eq!(status.ike[0].peer_sae.as_deref(), Some("sae-n3iwf"));
    assert_eq!(
        status.nas_security,
        Some(("128-NEA2".into(), "128-NIA2".into()))
    );
    assert!(status.guti.is_some() && status.last_failure.is_none());
    let phases: Vec<Phase> = status.timeline.iter().map(|row| row.phase).collect();
    assert_eq!(phases, Phase::ALL);
}

/// All keys of an AEAD attach: 2 + 2 + 2 + K_auth, each for one purpose.
#[test]
fn every_key_has_one_fate() {
    let world = World::attached();
    assert_eq!(world.keys_made, 7);
    assert_eq!(world.fates.len(), 7);
    let used = |fate: &&Fate| matches!(fate, Fate::Used { .. });
    assert_eq!(world.fates.values().filter(used).count(), 7);
    let mut purposes: Vec<_> = world
        .fates
        .values()
        .map(|fate| format!("{fate:?}"))
        .collect();
    purposes.sort();
    purposes.dedup();
    assert_eq!(purposes.len(), 7, "no two keys for one purpose");
}

/// The budget of the native profile: 55 % of the paper's 4991 octets.
#[test]
fn the_frames_of_a_native_attach_fit_their_budget() {
    let world = World::attached();
    let total: usize = world.sizes.iter().sum();
    assert_eq!(world.sizes.len(), 14, "two INIT, ten AUTH, two CHILD");
    assert!(total <= 2750, "{total} octets: {:?}", world.sizes);
}

#[test]
fn deregistration_leaves_nothing() {
    let mut world = World::attached();
    world.command(Command::Deregister);
    world.run_for(SECOND);
    assert_eq!(world.ue.state(), State::Detached);
    assert_eq!(world.detached, [(None, None)]);
    assert_eq!(world.n3iwf_sas(), 0);
    world.assert_clean();
    // It stays detached.
    world.run_for(600 * SECOND);
    assert_eq!(world.ue.state(), State::Detached);
}

/// The time for an attach is over long ago, and says nothing about a deregistration.
#[test]
fn a_late_deregistration_waits_for_its_answer() {
    let mut world = World::attached();
    world.run_for(120 * SECOND);
    world.command(Command::Deregister);
    world.run_for(SECOND);
    assert_eq!(world.ue.state(), State::Detached);
    assert_eq!(world.detached, [(None, None)]);
    world.assert_clean();
}

#[test]
fn a_delete_that_overtakes_the_deregistration_accept_is_no_failure() {
    let mut world = World::attached();
    world.faults.core_silent = true;
    world.command(Command::Deregister);
    world.settle();
    world.delete_ike();
    world.run_for(600 * SECOND);
    assert_eq!(world.ue.state(), State::Detached);
    assert_eq!(world.detached, [(None, None)]);
    world.assert_clean();
}

#[test]
fn switch_off_does_not_wait_for_a_network_that_is_silent() {
    let mut world = World::attached();
    world.faults.core_silent = true;
    world.command(Command::Shutdown);
    assert_eq!(world.ue.state(), State::Detaching);
    // The UE deletes the IKE SA itself after releaseTimeout.
    world.run_for(3 * SECOND);
    assert_eq!(world.ue.state(), State::Detached);
    world.assert_clean();
}

#[test]
fn switch_off_ends_even_when_the_n3iwf_is_gone() {
    let mut world = World::attached();
    world.faults.core_silent = true;
    world.faults.cut = true;
    world.command(Command::Shutdown);
    world.run_for(8 * SECOND);
    assert_eq!(world.ue.state(), State::Detached);
    world.assert_clean();
}

#[test]
fn a_second_attach_names_the_guti_and_the_amf() {
    let mut world = World::attached();
    world.command(Command::Deregister);
    world.run_for(SECOND);
    world.command(Command::Attach);
    world.run_for(SECOND);
    assert_eq!(world.ue.state(), State::Registered);
    assert_eq!((world.attached, world.interfaces.len()), (2, 1));
}

#[test]
fn the_network_deletes_the_ike_sa_and_the_ue_comes_back() {
    let mut world = World::attached();
    world.delete_ike();
    world.settle();
    assert_eq!(world.ue.state(), State::BackingOff);
    world.assert_clean();
    let (failure, retry_in) = world.detached.pop().unwrap();
    assert!(failure.unwrap().to_string().contains("deleted by the peer"));
    assert!((SECOND..=2 * SECOND).contains(&retry_in.unwrap()));
    world.run_for(3 * SECOND);
    assert_eq!(world.ue.state(), State::Registered);
}

#[test]
fn a_session_is_released_and_established_again() {
    let mut world = World::attached();
    world.command(Command::Release(1));
    world.run_for(SECOND);
    assert!(world.interfaces.is_empty());
    assert_eq!(world.installed.len(), 1, "the signalling Child SA stays");
    assert_eq!(world.n3iwf_user_children(), 0);
    assert!(world.ue.command(world.now, Command::Release(1)).is_err());

    world.command(Command::Establish(1));
    world.run_for(SECOND);
    assert_eq!((world.interfaces.len(), world.installed.len()), (1, 2));
    assert!(world.ue.command(world.now, Command::Establish(1)).is_err());
    assert!(world.ue.command(world.now, Command::Establish(2)).is_err());
}

#[test]
fn the_network_releases_a_session() {
    let mut world = World::attached();
    world.release(1, 0);
    world.run_for(SECOND);
    assert!(world.interfaces.is_empty());
    assert_eq!(world.ue.state(), State::Registered);
    assert_eq!(world.n3iwf_user_children(), 0);
}

#[test]
fn two_sessions_have_two_interfaces_and_slots() {
    let mut config = ue_config();
    let mut second = config.sessions[0].clone();
    second.id = 2;
    config.sessions.push(second);
    let mut world = World::with(config, Faults::default());
    // The scripted core takes one request at a time, so the second is asked for later.
    world.faults.one_session = true;
    world.command(Command::Attach);
    world.run_for(SECOND);
    assert_eq!(world.interfaces.len(), 1);
    world.faults.one_session = false;
    world.run_for(20 * SECOND);
    assert_eq!(world.interfaces.len(), 2);
    let slots: Vec<u32> = world.interfaces.iter().map(|i| i.slot).collect();
    assert_eq!(slots, [0, 1]);
    assert_eq!(world.attached, 1);
}

#[test]
fn flows_go_by_the_child_sa_that_lists_them() {
    let mut world = World::attached();
    assert_eq!(world.interfaces[0].further, []);
    for qfi in [5, 6] {
        world.create_child_for(1, &[qfi], false);
        world.run_for(SECOND);
    }
    let further = |world: &World| -> Vec<(u32, Vec<u8>)> {
        let further = world.interfaces[0].further.iter();
        further
            .map(|child| (child.slot, child.qfis.clone()))
            .collect()
    };
    assert_eq!(further(&world), [(1, vec![5]), (2, vec![6])]);
    assert_eq!(world.interfaces[0].slot, 0, "the default one is as before");
    assert_eq!(world.installed.len(), 4);
    // A rekey changes nothing of it.
    world.n3iwf_rekeys(false);
    world.run_for(20 * SECOND);
    assert_eq!(further(&world), [(1, vec![5]), (2, vec![6])]);
    assert_eq!(world.installed.len(), 4);
    // DSCPs are told with a Child SA, and of one that is there.
    world.create_child_of(1, &[7], false, Some(46));
    world.run_for(SECOND);
    let dscp = |world: &World| -> (u8, Vec<u8>) {
        let own = &world.interfaces[0];
        (
            own.dscp,
            own.further.iter().map(|child| child.dscp).collect(),
        )
    };
    assert_eq!(dscp(&world), (0, vec![0, 0, 46]));
    world.n3iwf_tells(1, &[9], true, Some(10));
    world.n3iwf_tells(1, &[5], false, Some(34));
    world.n3iwf_tells(1, &[7, 8], false, None);
    world.run_for(SECOND);
    assert_eq!(dscp(&world), (10, vec![34, 0, 0]));
    assert_eq!(world.interfaces[0].further[2].qfis, [7, 8]);
    world.n3iwf_rekeys(false);
    world.run_for(20 * SECOND);
    assert_eq!(dscp(&world), (10, vec![34, 0, 0]));
    world.n3iwf_deletes_last();
    world.run_for(SECOND);
    // One goes: its flow falls to the default one, and the session stays.
    world.n3iwf_deletes_last();
    world.run_for(SECOND);
    assert_eq!(further(&world).len(), 1);
    assert_eq!(
        (world.interfaces.len(), world.n3iwf_user_children()),
        (1, 2)
    );
    // The session takes all of them with it.
    world.release(1, 0);
    world.run_for(SECOND);
    assert!(world.interfaces.is_empty());
    assert_eq!((world.n3iwf_user_children(), world.installed.len()), (0, 1));
    assert_eq!(world.ue.state(), State::Registered);
}

#[test]
fn a_child_sa_for_an_unknown_session_is_refused() {
    let mut world = World::attached();
    world.create_child(7);
    world.run_for(SECOND);
    assert_eq!(world.installed.len(), 2);
    assert_eq!(world.n3iwf_user_children(), 1);
    assert_eq!(world.ue.state(), State::Registered);
}
