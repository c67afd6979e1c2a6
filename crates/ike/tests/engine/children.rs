//! Child SAs and deletes: collisions, refusals, and whose keys they take.

use std::time::Duration;

use ike::{
    ChildFailure, ChildId, CloseReason, CommandError, Fate, NewChild, QkdFailure, SaId,
    wire::NotifyType,
};

use crate::{
    setup,
    world::{
        Side::{self, N3iwf, Ue},
        World,
    },
};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn create(world: &mut World, sa: SaId, token: u64) -> ChildId {
    world.command(N3iwf, |endpoint, now| {
        endpoint
            .create_child(now, sa, setup::user_child(token))
            .unwrap()
    })
}

fn create_from_ue(world: &mut World, sa: SaId, token: u64) -> ChildId {
    let new = NewChild {
        ts_local: vec![setup::UE_INNER],
        ts_remote: vec![setup::N3IWF_INNER],
        notifies: vec![],
        token,
    };
    world.command(Ue, |endpoint, now| {
        endpoint.create_child(now, sa, new).unwrap()
    })
}

fn installed(world: &World) -> (usize, usize) {
    (
        world.ue.record.installed.len(),
        world.n3iwf.record.installed.len(),
    )
}

#[test]
fn the_daemons_notifies_travel_with_the_child() {
    let mut world = World::native(200);
    let (_, n3iwf) = world.attach(setup::native());
    create(&mut world, n3iwf, 7);
    world.run(seconds(1));
    let child = world
        .ue
        .record
        .installed
        .values()
        .find(|child| !child.signalling);
    assert_eq!(child.unwrap().notifies, setup::user_child(7).notifies);
}

#[test]
fn notifies_alone_arrive_once_and_are_answered() {
    for (seed, loss) in [(210, 0), (211, 300), (212, 300)] {
        let mut world = World::native(seed);
        let (_, n3iwf) = world.attach(setup::native());
        world.faults.loss = loss;
        let notifies = setup::user_child(7).notifies;
        for token in [7, 9] {
            world.command(N3iwf, |endpoint, now| {
                endpoint
                    .inform(now, n3iwf, token, notifies.clone())
                    .unwrap();
            });
        }
        world.run(seconds(60));
        assert_eq!(world.ue.record.told, [notifies.clone(), notifies]);
        assert_eq!(world.n3iwf.record.informed, [(7, None), (9, None)]);
        assert!(world.n3iwf.record.told.is_empty());
        world.check_keys();
    }
}

#[test]
fn nothing_is_told_in_an_ike_sa_that_ends() {
    let mut world = World::native(213);
    let (_, n3iwf) = world.attach(setup::native());
    world.command(N3iwf, |endpoint, now| {
        endpoint.probe(now, n3iwf);
        let told = setup::user_child(7).notifies;
        endpoint.inform(now, n3iwf, 1, told.clone()).unwrap();
        endpoint.close(now, n3iwf);
        assert_eq!(
            endpoint.inform(now, n3iwf, 2, told),
            Err(CommandError::NotEstablished)
        );
    });
    world.run(seconds(10));
    assert!(world.ue.record.told.is_empty() && world.n3iwf.record.informed.is_empty());
    assert_eq!(world.n3iwf.record.closed.len(), 1);
}

#[test]
fn commands_queue_behind_the_window() {
    let mut world = World::native(201);
    let (_, n3iwf) = world.attach(setup::native());
    for token in 1..=5 {
        create(&mut world, n3iwf, token);
    }
    let begun = world.sent.len();
    assert_eq!(world.sent[begun - 1].from, N3iwf);
    world.run(Duration::from_millis(5));
    assert_eq!(world.sent.len(), begun, "one request at a time");
    world.run(seconds(2));
    assert_eq!(installed(&world), (6, 6));
    assert_eq!(world.n3iwf.record.tokens_up, [0, 1, 2, 3, 4, 5]);
    world.check_keys();
}

#[test]
fn both_sides_may_begin_at_once_and_no_key_is_shared() {
    for first in [Ue, N3iwf] {
        let mut world = World::native(202);
        let (ue, n3iwf) = world.attach(setup::native());
        if first == Ue {
            create_from_ue(&mut world, ue, 1);
            create(&mut world, n3iwf, 2);
        } else {
            create(&mut world, n3iwf, 2);
            create_from_ue(&mut world, ue, 1);
        }
        world.run(seconds(1));
        assert_eq!(installed(&world), (3, 3));
        world.check_keys();
    }
}

#[test]
fn a_child_begun_by_the_ue_takes_the_keys_of_the_handshake_when_they_are_left() {
    let mut world = World::native(203);
    let (ue, _) = world.attach(setup::native());
    create_from_ue(&mut world, ue, 1);
    world.run(seconds(1));
    assert_eq!(installed(&world), (2, 2));
    assert_eq!(world.kme.allocations, 1);
    create_from_ue(&mut world, ue, 2);
    world.run(seconds(1));
    assert_eq!(installed(&world), (3, 3));
    assert_eq!(world.kme.allocations, 2);
    world.check_keys();
}

#[test]
fn a_refused_child_leaves_the_ike_sa_up() {
    for kind in [
        NotifyType::NO_ADDITIONAL_SAS,
        NotifyType::TS_UNACCEPTABLE,
        NotifyType::NO_RESOURCES_OVER_N3GPP,
    ] {
        let mut world = World::native(204);
        world.behaviour.refuses_children = Some(kind);
        let (_, n3iwf) = world.attach(setup::native());
        create(&mut world, n3iwf, 3);
        world.run(seconds(1));
        assert_eq!(world.n3iwf.record.failed[0].1, ChildFailure::Refused(kind));
        assert_eq!(installed(&world), (1, 1));
        assert_eq!(
            world.established(Ue).len() + world.established(N3iwf).len(),
            2
        );
        // The N3IWF will not use those keys again.
        let lost = |fate: &&Fate| **fate == Fate::Lost;
        assert_eq!(world.n3iwf.record.fates.values().filter(lost).count(), 2);
        world.behaviour.refuses_children = None;
        create(&mut world, n3iwf, 4);
        world.run(seconds(1));
        assert_eq!(installed(&world), (2, 2));
        assert_eq!(world.kme.allocations, 2);
        world.check_keys();
    }
}

#[test]
fn a_child_without_keys_fails_alone() {
    let mut world = World::native(205);
    let (ue, n3iwf) = world.attach(setup::native());
    create(&mut world, n3iwf, 1);
    world.run(seconds(1));
    // The master's KMS is empty: nothing is sent.
    world.kme.faults.master = Some(QkdFailure::NoKeys);
    let before = world.sent.len();
    create(&mut world, n3iwf, 2);
    world.run(seconds(1));
    assert_eq!(world.sent.len(), before);
    let no_keys = ChildFailure::Qkd(QkdFailure::NoKeys);
    assert_eq!(world.n3iwf.record.failed[0].1, no_keys);
    create_from_ue(&mut world, ue, 3);
    world.run(seconds(1));
    assert_eq!(
        world.ue.record.failed[0].1, no_keys,
        "told by QKD_UNAVAILABLE"
    );
    // The slave's KMS misses the key.
    world.kme.faults.master = None;
    world.kme.faults.missing = Some(1);
    create(&mut world, n3iwf, 4);
    create_from_ue(&mut world, ue, 5);
    world.run(seconds(3));
    assert_eq!(installed(&world), (2, 2));
    assert_eq!(
        world.established(Ue).len() + world.established(N3iwf).len(),
        2
    );
}

#[test]
fn a_child_that_one_side_cannot_install_is_gone_on_both() {
    for (side, begun_by) in [(Ue, Ue), (Ue, N3iwf), (N3iwf, Ue), (N3iwf, N3iwf)] {
        let mut world = World::native(206);
        world.behaviour.install_fails = Some((side, 1));
        let (ue, n3iwf) = world.attach(setup::native());
        match begun_by {
            Ue => create_from_ue(&mut world, ue, 1),
            N3iwf => create(&mut world, n3iwf, 1),
        };
        world.run(seconds(1));
        assert_eq!(installed(&world), (1, 1), "{side:?} {begun_by:?}");
        assert_eq!(
            world.node(side).record.failed[0].1,
            ChildFailure::InstallFailed
        );
        world.check_keys();
    }
}

#[test]
fn a_child_is_deleted_by_either_side() {
    for side in [Ue, N3iwf] {
        let mut world = World::native(207);
        let (ue, n3iwf) = world.attach(setup::native());
        create(&mut world, n3iwf, 1);
        world.run(seconds(1));
        let sa = if side == Ue { ue } else { n3iwf };
        let child = world.sas(side)[0].children[1].id;
        world.command(side, |endpoint, now| endpoint.delete_child(now, sa, child));
        world.run(seconds(1));
        assert_eq!(installed(&world), (1, 1));
        assert_eq!(world.node(side).record.down, [(child, false)]);
        let other = if side == Ue { N3iwf } else { Ue };
        assert!(world.node(other).record.down[0].1, "by the peer");
    }
}

#[test]
fn deletes_of_the_same_child_may_cross() {
    let mut world = World::native(208);
    let (ue, n3iwf) = world.attach(setup::native());
    let here = world.sas(Ue)[0].children[0].id;
    let there = world.sas(N3iwf)[0].children[0].id;
    world.command(Ue, |endpoint, now| endpoint.delete_child(now, ue, here));
    world.command(N3iwf, |endpoint, now| {
        endpoint.delete_child(now, n3iwf, there);
    });
    world.run(seconds(5));
    assert_eq!(installed(&world), (0, 0));
    assert_eq!(
        world.ue.record.down.len() + world.n3iwf.record.down.len(),
        2
    );
    assert_eq!(
        world.established(Ue).len() + world.established(N3iwf).len(),
        2
    );
}

#[test]
fn deletes_of_the_ike_sa_may_cross() {
    let mut world = World::native(209);
    let (ue, n3iwf) = world.attach(setup::native());
    world.command(Ue, |endpoint, now| endpoint.close(now, ue));
    world.command(N3iwf, |endpoint, now| endpoint.close(now, n3iwf));
    world.run(seconds(5));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::Local));
    assert_eq!(world.reason(N3iwf, n3iwf), Some(CloseReason::Local));
    assert_eq!(installed(&world), (0, 0));
}

#[test]
fn a_delete_waits_for_the_exchange_under_way() {
    let mut world = World::native(210);
    let (_, n3iwf) = world.attach(setup::native());
    create(&mut world, n3iwf, 1);
    let begun = world.sent.len();
    world.command(N3iwf, |endpoint, now| endpoint.close(now, n3iwf));
    assert_eq!(world.sent.len(), begun, "the window is taken");
    world.run(seconds(5));
    assert_eq!(world.reason(N3iwf, n3iwf), Some(CloseReason::Local));
    assert_eq!(world.ue.record.closed[0].1, CloseReason::PeerDeleted);
    assert_eq!(installed(&world), (0, 0));
}

#[test]
fn a_delete_without_an_answer_ends_all_the_same() {
    let mut world = World::native(211);
    let (ue, _) = world.attach(setup::native());
    world.muted.insert(N3iwf);
    world.command(Ue, |endpoint, now| endpoint.close(now, ue));
    world.run(seconds(1));
    assert_eq!(world.reason(Ue, ue), None);
    assert_eq!(world.sas(Ue)[0].state, ike::SaState::Deleting);
    world.run(seconds(150));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::Local));
    assert_eq!(world.n3iwf.record.closed[0].1, CloseReason::PeerDeleted);
}

#[test]
fn the_answer_to_a_delete_is_replayed_after_the_sa_is_gone() {
    let mut world = World::native(212);
    let (ue, n3iwf) = world.attach(setup::native());
    let mut lost = 2;
    world.tap = Some(Box::new(move |from: Side, data: &[u8]| {
        if from == N3iwf && lost > 0 {
            lost -= 1;
            return None;
        }
        Some(data.to_vec())
    }));
    world.command(Ue, |endpoint, now| endpoint.close(now, ue));
    world.run(seconds(8));
    assert_eq!(world.reason(N3iwf, n3iwf), Some(CloseReason::PeerDeleted));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::Local));
    let answers: Vec<_> = world
        .sent
        .iter()
        .rev()
        .filter(|s| s.from == N3iwf)
        .take(3)
        .collect();
    assert!(answers.iter().all(|answer| answer.data == answers[0].data));
}

#[test]
fn a_child_asked_for_while_closing_is_put_off() {
    let mut world = World::native(213);
    let (ue, n3iwf) = world.attach(setup::native());
    // Both at the same moment: the N3IWF's request meets a UE that is deleting.
    create(&mut world, n3iwf, 1);
    world.command(Ue, |endpoint, now| endpoint.close(now, ue));
    world.run(seconds(5));
    assert_eq!(world.sas(Ue).len() + world.sas(N3iwf).len(), 0);
    assert_eq!(installed(&world), (0, 0));
    assert_eq!(world.ue.record.up.len(), 0);
}

#[test]
fn a_ue_may_attach_again_while_its_old_sa_lives() {
    let mut world = World::native(214);
    let (first, _) = world.attach(setup::native());
    let (second, _) = world.attach(setup::native());
    assert_ne!(first, second);
    assert_eq!(
        world.established(N3iwf).len(),
        2,
        "which to close is the daemon's choice"
    );
    let old = world.established(N3iwf)[0].id;
    world.command(N3iwf, |endpoint, now| endpoint.close(now, old));
    world.run(seconds(2));
    assert_eq!(world.reason(Ue, first), Some(CloseReason::PeerDeleted));
    assert_eq!(world.established(Ue)[0].id, second);
    world.check_keys();
}
