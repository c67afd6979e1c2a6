//! Attaches that do not work, and the way back.

use std::time::Duration;

use ike::{CloseReason, QkdFailure};

use super::world::{Faults, World, ue_config};
use crate::core::{
    nas::Failure,
    ue::{AttachFailure, Command, State},
};

const SECOND: Duration = Duration::from_secs(1);

fn started(faults: Faults) -> World {
    let mut world = World::new(faults);
    world.command(Command::Attach);
    world
}

fn failure(world: &World) -> &AttachFailure {
    world.detached[0].0.as_ref().expect("a failure")
}

#[test]
fn any_single_lost_datagram_is_survived() {
    for lost in 0..14 {
        let mut world = started(Faults {
            lost: vec![lost],
            ..Faults::default()
        });
        world.run_for(10 * SECOND);
        assert_eq!(world.ue.state(), State::Registered, "datagram {lost}");
        assert_eq!((world.attached, world.keys_made), (1, 7), "datagram {lost}");
    }
}

#[test]
fn heavy_loss_is_survived() {
    let mut world = started(Faults {
        // Two in five, without a pattern.
        lost: (0..500_usize)
            .filter(|n| n.wrapping_mul(2_654_435_761) % 1009 % 5 < 2)
            .collect(),
        ..Faults::default()
    });
    world.run_for(300 * SECOND);
    assert_eq!(world.ue.state(), State::Registered);
}

#[test]
fn a_permanent_reject_is_said_and_not_retried() {
    let mut world = started(Faults {
        reject: Some(62),
        ..Faults::default()
    });
    world.run_for(SECOND);
    assert!(world.stopped, "5G-Stop answers the reject");
    assert!(matches!(
        failure(&world),
        AttachFailure::Nas(Failure::Rejected { .. })
    ));
    assert!(failure(&world).to_string().contains("No network slices"));
    assert_eq!(world.detached[0].1, None);
    world.run_for(600 * SECOND);
    assert_eq!(
        (world.ue.state(), world.detached.len()),
        (State::Detached, 1)
    );
    world.assert_clean();
    // Until an operator says so.
    world.faults.reject = None;
    world.command(Command::Attach);
    assert_eq!(world.ue.state(), State::Registered);
}

#[test]
fn congestion_is_retried() {
    let mut world = started(Faults {
        reject: Some(22),
        ..Faults::default()
    });
    world.run_for(SECOND / 2);
    assert_eq!(world.ue.state(), State::BackingOff);
    world.faults.reject = None;
    world.run_for(3 * SECOND);
    assert_eq!(world.ue.state(), State::Registered);
}

#[test]
fn an_unknown_identity_is_retried_at_once_but_once() {
    let mut world = started(Faults {
        reject: Some(9),
        ..Faults::default()
    });
    world.run_for(SECOND / 2);
    assert_eq!(world.detached.len(), 2);
    assert_eq!(world.detached[0].1, Some(Duration::ZERO));
    assert!(world.detached[1].1.unwrap() >= SECOND);
}

#[test]
fn a_wrong_k_ends_in_authentication_reject() {
    let mut world = started(Faults {
        wrong_k: true,
        ..Faults::default()
    });
    world.run_for(SECOND);
    assert_eq!(
        failure(&world),
        &AttachFailure::Nas(Failure::AuthenticationRejected)
    );
    assert_eq!(world.detached[0].1, None);
    world.assert_clean();
}

#[test]
fn pauses_grow_up_to_their_maximum() {
    let mut world = started(Faults {
        reject: Some(111),
        ..Faults::default()
    });
    world.run_for(600 * SECOND);
    let pauses: Vec<Duration> = world
        .detached
        .iter()
        .filter_map(|(_, pause)| *pause)
        .collect();
    assert!(pauses.len() > 8);
    for (n, pause) in (0u32..).zip(&pauses) {
        let whole = (2 * SECOND * 2u32.pow(n.min(10))).min(60 * SECOND);
        assert!((whole / 2..=whole).contains(pause), "pause {n}: {pause:?}");
    }
}

#[test]
fn bounded_attempts_end() {
    let mut config = ue_config();
    config.retry.attempts = 3;
    let mut world = World::with(
        config,
        Faults {
            reject: Some(111),
            ..Faults::default()
        },
    );
    world.command(Command::Attach);
    world.run_for(600 * SECOND);
    assert_eq!(
        (world.detached.len(), world.ue.state()),
        (3, State::Detached)
    );
    assert_eq!(world.detached[2].1, None);
}

#[test]
fn an_n3iwf_without_keys_means_backing_off() {
    let mut world = started(Faults {
        n3iwf_kms: 1,
        ..Faults::default()
    });
    // IKE_SA_INIT is not authenticated: a good answer may still come.
    world.run_for(6 * SECOND);
    assert_eq!(
        failure(&world),
        &AttachFailure::Ike(CloseReason::PeerQkdUnavailable(1))
    );
    assert!(world.detached[0].1.is_some());
    world.run_for(10 * SECOND);
    assert_eq!(world.ue.state(), State::Registered);
}

#[test]
fn a_ue_without_keys_backs_off() {
    let mut world = started(Faults {
        ue_kms: 1,
        ..Faults::default()
    });
    world.run_for(6 * SECOND);
    assert_eq!(
        failure(&world),
        &AttachFailure::Ike(CloseReason::Qkd(QkdFailure::UnknownKey))
    );
    world.run_for(10 * SECOND);
    assert_eq!(world.ue.state(), State::Registered);
}

#[test]
fn a_full_disk_stops_the_attach_before_the_answer() {
    let mut world = started(Faults {
        disk_full: true,
        ..Faults::default()
    });
    world.run_for(SECOND);
    assert!(world.stopped);
    assert!(matches!(
        failure(&world),
        AttachFailure::Nas(Failure::SqnStore(_))
    ));
    world.assert_clean();
}

#[test]
fn a_data_plane_that_refuses_ends_the_attach() {
    let mut world = started(Faults {
        plane_refuses: true,
        ..Faults::default()
    });
    world.run_for(SECOND);
    assert_eq!(
        failure(&world),
        &AttachFailure::DataPlane("no ESP in this kernel".into())
    );
    world.assert_clean();
}

#[test]
fn a_registration_accept_that_never_comes_is_t3510() {
    let mut world = started(Faults {
        no_accept: true,
        ..Faults::default()
    });
    assert_eq!(world.ue.state(), State::Registering);
    world.run_for(16 * SECOND);
    assert_eq!(
        failure(&world),
        &AttachFailure::Nas(Failure::NoAnswer("T3510"))
    );
    assert_eq!(world.n3iwf_sas(), 0, "the UE deleted the IKE SA");
}

#[test]
fn an_n3iwf_that_skips_authentication_is_left() {
    let mut world = started(Faults {
        early_success: true,
        ..Faults::default()
    });
    world.run_for(10 * SECOND);
    assert!(matches!(failure(&world), AttachFailure::Nwu(_)));
    world.assert_clean();
}

#[test]
fn an_n3iwf_that_never_answers_is_given_up() {
    let mut world = started(Faults {
        cut: true,
        ..Faults::default()
    });
    world.run_for(61 * SECOND);
    assert_eq!(
        failure(&world),
        &AttachFailure::TimedOut(Duration::from_secs(60))
    );
    world.faults.cut = false;
    world.run_for(10 * SECOND);
    assert_eq!(world.ue.state(), State::Registered);
}

#[test]
fn an_n3iwf_that_dies_is_noticed_and_found_again() {
    let mut world = World::attached();
    world.faults.cut = true;
    world.run_for(400 * SECOND);
    assert!(matches!(
        failure(&world),
        AttachFailure::Ike(CloseReason::PeerDead)
    ));
    assert!(world.installed.is_empty() && world.interfaces.is_empty());
    world.faults.cut = false;
    world.run_for(120 * SECOND);
    assert_eq!(world.ue.state(), State::Registered);
}

#[test]
fn a_nas_connection_that_breaks_is_made_again() {
    let mut world = World::attached();
    assert_eq!(world.readied, 1, "with the attach");
    let token = world.token();
    world.ue.nas_closed(world.now, token, "reset");
    world.faults.no_accept = true;
    world.run_for(SECOND);
    assert_ne!(world.token(), token);
    assert_eq!(world.readied, 2, "it may have to attach again");
    assert_eq!(world.ue.state(), State::Registered);
    // Octets of the old connection are nobody's.
    world.ue.nas_received(world.now, token, &[0, 0]);
    world.command(Command::Deregister);
    world.run_for(SECOND);
    assert_eq!(world.ue.state(), State::Detached);
}

#[test]
fn an_n3iwf_that_lost_its_state_is_left_and_found_again() {
    let mut world = World::attached();
    world.faults.nas_refused = true;
    world.faults.cut = true;
    let token = world.token();
    world.ue.nas_closed(world.now, token, "reset");
    world.run_for(5 * SECOND);
    assert_eq!(
        failure(&world),
        &AttachFailure::NasConnection("refused".into())
    );
    assert_eq!(world.ue.state(), State::BackingOff);
    world.assert_clean();
    world.faults.nas_refused = false;
    world.faults.cut = false;
    world.run_for(3 * SECOND);
    assert_eq!(world.ue.state(), State::Registered);
}

#[test]
fn commands_that_make_no_sense_are_refused() {
    let mut world = World::new(Faults::default());
    for command in [Command::Establish(1), Command::Release(1)] {
        assert!(world.ue.command(world.now, command).is_err());
    }
    world.command(Command::Deregister);
    world.command(Command::Attach);
    assert!(world.ue.command(world.now, Command::Attach).is_err());
}
