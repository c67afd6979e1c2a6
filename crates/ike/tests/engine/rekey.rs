//! Rekeying: from both sides, at once, over bad networks, without keys.

use std::{collections::HashSet, time::Duration};

use ike::{
    ChildFailure, ChildId, EndpointConfig, Lifetime, Lifetimes,
    Mode::{self, Psk, Qkd},
    Profile::Native,
    QkdFailure,
    QkdPolicy::Prefer,
    SaId, Timing,
};

use crate::{
    setup,
    world::{
        Faults,
        Side::{self, N3iwf, Ue},
        World,
    },
};

const MODES: [Mode; 2] = [Qkd(Native), Psk];

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn lifetimes() -> Lifetimes {
    Lifetimes {
        ike: Some(Lifetime {
            soft: seconds(45),
            jitter: seconds(20),
            hard: seconds(150),
        }),
        child: Some(Lifetime {
            soft: seconds(30),
            jitter: seconds(10),
            hard: seconds(90),
        }),
        retry: seconds(4),
        from_peer: true,
    }
}

/// No rekey but those asked for.
fn by_command() -> Lifetimes {
    Lifetimes {
        from_peer: true,
        ..Lifetimes::default()
    }
}

fn world(seed: u64, mode: Mode, lifetimes: Lifetimes) -> World {
    let with = |config: EndpointConfig| EndpointConfig {
        lifetimes,
        timing: Timing {
            retransmit_first: Duration::from_millis(500),
            ..Timing::default()
        },
        ..config
    };
    World::new(
        seed,
        with(setup::ue_endpoint()),
        with(setup::accepting(&[mode], Prefer)),
    )
}

fn attach(world: &mut World, mode: Mode) -> (SaId, SaId) {
    let (ue, n3iwf) = world.attach_with(setup::choosy(), &setup::offering(&[mode], Prefer));
    world.command(N3iwf, |endpoint, now| {
        endpoint
            .create_child(now, n3iwf, setup::user_child(5))
            .unwrap()
    });
    world.run(seconds(1));
    assert_eq!(world.ue.record.installed.len(), 2);
    (ue, n3iwf)
}

fn user_child(world: &mut World, side: Side) -> ChildId {
    let sa = world.established(side).remove(0);
    sa.children
        .iter()
        .find(|child| !child.signalling)
        .unwrap()
        .id
}

fn spis(world: &mut World, side: Side) -> Vec<(u32, u32, bool)> {
    let sa = world.established(side).remove(0);
    let mut list: Vec<_> = sa
        .children
        .iter()
        .map(|child| {
            assert!(child.up);
            match side {
                Ue => (child.spi_in, child.spi_out, child.signalling),
                N3iwf => (child.spi_out, child.spi_in, child.signalling),
            }
        })
        .collect();
    list.sort_unstable();
    list
}

/// Both sides hold the same Child SAs: the signalling one and the user's.
fn agreed(world: &mut World) -> Vec<(u32, u32, bool)> {
    let here = spis(world, Ue);
    assert_eq!(here, spis(world, N3iwf));
    assert_eq!(here.len(), 2, "neither one more nor one less");
    assert_eq!(here.iter().filter(|child| child.2).count(), 1);
    assert_eq!(world.ue.record.installed.len(), 2);
    assert_eq!(world.n3iwf.record.installed.len(), 2);
    world.check_keys();
    here
}

fn rekey(world: &mut World, side: Side, sa: SaId, child: ChildId) -> ChildId {
    world.command(side, |endpoint, now| {
        endpoint.rekey_child(now, sa, child).unwrap()
    })
}

#[test]
fn a_rekey_that_the_peer_does_not_follow_changes_nothing() {
    for side in [Ue, N3iwf] {
        let mut world = world(499, Qkd(Native), Lifetimes::default());
        let (ue, n3iwf) = attach(&mut world, Qkd(Native));
        let sa = if side == Ue { ue } else { n3iwf };
        let before = agreed(&mut world);
        let child = user_child(&mut world, side);
        rekey(&mut world, side, sa, child);
        world.run(seconds(1));
        assert_eq!(agreed(&mut world), before);
        assert!(world.node(side).record.switched.is_empty());
    }
}

#[test]
fn a_child_sa_is_rekeyed_from_either_side_in_every_mode() {
    for (seed, mode) in (500..).zip(MODES) {
        for side in [Ue, N3iwf] {
            let mut world = world(seed, mode, by_command());
            let (ue, n3iwf) = attach(&mut world, mode);
            let sa = if side == Ue { ue } else { n3iwf };
            let before = agreed(&mut world);
            let old = world.ue.record.installed.clone();
            let other = if side == Ue { N3iwf } else { Ue };
            for signalling in [false, true] {
                let status = world.established(side).remove(0);
                let child = status
                    .children
                    .iter()
                    .find(|child| child.signalling == signalling);
                let child = child.unwrap().id;
                let new = rekey(&mut world, side, sa, child);
                world.run(seconds(1));
                assert!(world.node(side).record.switched.contains(&(child, new)));
                assert!(world.node(side).record.down.contains(&(child, false)));
            }
            let after = agreed(&mut world);
            assert!(before.iter().all(|pair| !after.contains(pair)));
            let record = &world.node(other).record;
            assert_eq!(record.switched.len(), 2);
            assert_eq!(
                record.down.iter().filter(|(_, by_peer)| *by_peer).count(),
                2
            );
            assert_eq!(
                record.tokens_up.iter().filter(|token| **token == 5).count(),
                if other == N3iwf { 2 } else { 0 },
                "the token stays with the traffic"
            );
            let fresh = &world.ue.record.installed;
            for child in fresh.values() {
                assert!(old.values().all(|old| old.key_in != child.key_in));
                let same = old
                    .values()
                    .find(|old| old.signalling == child.signalling)
                    .unwrap();
                assert_eq!(
                    (&same.ts_local, &same.ts_remote),
                    (&child.ts_local, &child.ts_remote)
                );
                assert_eq!(child.key_ids.is_empty(), mode == Psk);
            }
            assert!(world.ue.record.rekeys_failed.is_empty());
            assert!(world.n3iwf.record.rekeys_failed.is_empty());
        }
    }
}

#[test]
fn two_rekeys_at_once_leave_one_sa() {
    let mut survivors = HashSet::new();
    for seed in 0..40 {
        let mode = MODES[usize::from(seed % 2 == 0)];
        let mut world = world(510 + seed, mode, by_command());
        let (ue, n3iwf) = attach(&mut world, mode);
        let before = agreed(&mut world);
        let here = user_child(&mut world, Ue);
        let there = user_child(&mut world, N3iwf);
        world.faults.jitter = Duration::from_millis(20 * (seed % 5));
        let ours = rekey(&mut world, Ue, ue, here);
        rekey(&mut world, N3iwf, n3iwf, there);
        world.run(seconds(10));
        let after = agreed(&mut world);
        assert_eq!(before.iter().filter(|pair| after.contains(pair)).count(), 1);
        survivors.insert(world.ue.record.installed.contains_key(&ours));
    }
    assert_eq!(survivors.len(), 2, "each side wins at times");
}

#[test]
fn a_session_deleted_while_it_is_rekeyed_is_gone_on_both_sides() {
    for (seed, mode) in (560..).zip(MODES) {
        for wait in 0..8 {
            let mut world = world(seed, mode, by_command());
            let (_, n3iwf) = attach(&mut world, mode);
            let child = user_child(&mut world, N3iwf);
            rekey(&mut world, N3iwf, n3iwf, child);
            world.run(Duration::from_millis(wait * 7));
            world.command(N3iwf, |endpoint, now| {
                let all: Vec<_> = endpoint.sas().flat_map(|sa| sa.children).collect();
                for child in all.iter().filter(|child| !child.signalling) {
                    endpoint.delete_child(now, n3iwf, child.id);
                }
            });
            world.run(seconds(10));
            assert_eq!(world.ue.record.installed.len(), 1, "{mode} after {wait}");
            assert_eq!(world.n3iwf.record.installed.len(), 1);
        }
    }
}

#[test]
fn lifetimes_rekey_for_ever_over_bad_networks() {
    let (mut rekeys, mut ike_rekeys) = (0, 0);
    for seed in 0..120u64 {
        let mode = MODES[usize::from(seed % 2 == 0)];
        let mut world = world(600 + seed, mode, lifetimes());
        world.record_sent = false;
        attach(&mut world, mode);
        world.faults = Faults {
            loss: 150,
            duplicate: 50,
            jitter: Duration::from_millis(400),
            ..Faults::default()
        };
        world.behaviour.slowness = Duration::from_millis(300);
        for _ in 0..30 {
            world.run(seconds(10));
            assert!(
                !world.ue.record.installed.is_empty(),
                "seed {seed}: traffic stops"
            );
        }
        world.faults = Faults::default();
        // Long enough for whatever is under way, too short for the next lifetime of most.
        let calm = (0..60).any(|_| {
            world.run(seconds(1));
            [Ue, N3iwf].iter().all(|side| {
                let children = world.established(*side).remove(0).children;
                children.len() == 2 && children.iter().all(|child| child.up)
            }) && spis(&mut world, Ue) == spis(&mut world, N3iwf)
        });
        assert!(
            calm,
            "seed {seed}: UE {:?}\nN3IWF {:?}",
            world.established(Ue).first().map(|sa| sa.children.clone()),
            world
                .established(N3iwf)
                .first()
                .map(|sa| sa.children.clone())
        );
        agreed(&mut world);
        rekeys += world.ue.record.switched.len();
        ike_rekeys += world.ue.record.ike_rekeys;
        assert!(world.ue.record.closed.is_empty() && world.n3iwf.record.closed.is_empty());
    }
    assert!(rekeys > 120 * 10, "{rekeys}");
    assert!(ike_rekeys > 120 * 4, "{ike_rekeys}");
}

#[test]
fn a_rekey_without_keys_is_tried_again_until_the_hard_lifetime() {
    for recovers in [true, false] {
        let mut world = world(590, Qkd(Native), lifetimes());
        attach(&mut world, Qkd(Native));
        world.kme.faults.master = Some(QkdFailure::NoKeys);
        world.run(seconds(60));
        let failures = world.n3iwf.record.rekeys_failed.clone();
        assert!(failures.len() > 4, "{}", failures.len());
        let reason = ChildFailure::Qkd(QkdFailure::NoKeys);
        assert!(failures.iter().all(|(_, why)| *why == reason));
        assert_eq!(world.ue.record.installed.len(), 2, "traffic goes on");
        if recovers {
            world.kme.faults.master = None;
            world.run(seconds(40));
            assert!(world.n3iwf.record.down.len() >= 2);
            agreed(&mut world);
        } else {
            world.run(seconds(40));
            assert!(world.ue.record.installed.is_empty());
            assert!(world.n3iwf.record.installed.is_empty());
            assert_eq!(world.established(Ue).len(), 1, "the IKE SA stands");
        }
    }
}

#[test]
fn the_paper_has_no_rekey() {
    let mut world = World::new(591, setup::ue_endpoint(), setup::paper_endpoint());
    let (ue, _) = world.attach(setup::paper());
    let child = world.established(Ue)[0].children[0].id;
    let refused = world.command(Ue, |endpoint, now| endpoint.rekey_child(now, ue, child));
    assert_eq!(refused, Err(ike::CommandError::NotInThisMode));
}

fn ike_spis(world: &mut World) -> (u64, u64) {
    let here = world.established(Ue).remove(0);
    let there = world.established(N3iwf).remove(0);
    assert_eq!((here.spi_i, here.spi_r), (there.spi_i, there.spi_r));
    assert_eq!(here.suite, there.suite);
    assert_eq!(here.key_ids, there.key_ids);
    (here.spi_i, here.spi_r)
}

fn rekey_ike(world: &mut World, side: Side, sa: SaId) {
    world.command(side, |endpoint, now| endpoint.rekey_ike(now, sa).unwrap());
}

#[test]
fn an_ike_sa_is_rekeyed_from_either_side_in_every_mode() {
    for (seed, mode) in (700..).zip(MODES) {
        let mut world = world(seed, mode, by_command());
        let (ue, n3iwf) = attach(&mut world, mode);
        let mut seen = HashSet::from([ike_spis(&mut world)]);
        // Twice in turn, so that roles change and change back.
        for (side, sa) in [(N3iwf, n3iwf), (Ue, ue), (Ue, ue), (N3iwf, n3iwf)] {
            let children = agreed(&mut world);
            let keys = world.established(Ue)[0].key_ids.clone();
            rekey_ike(&mut world, side, sa);
            world.run(seconds(2));
            assert!(seen.insert(ike_spis(&mut world)), "new SPIs");
            let status = world.established(side).remove(0);
            assert_eq!(status.id, sa, "the identifier stays");
            assert!(status.initiator, "whoever rekeys is initiator");
            assert_eq!(agreed(&mut world), children, "Child SAs are inherited");
            assert!(status.key_ids.iter().all(|id| !keys.contains(id)));
            assert_eq!(status.key_ids.len(), if mode == Psk { 0 } else { 3 });
            // The new one carries every exchange, from both sides.
            for (side, sa) in [(Ue, ue), (N3iwf, n3iwf)] {
                let child = user_child(&mut world, side);
                rekey(&mut world, side, sa, child);
                world.run(seconds(1));
            }
            let after = agreed(&mut world);
            assert_eq!(
                after.iter().filter(|pair| children.contains(pair)).count(),
                1
            );
        }
        assert_eq!(world.ue.record.ike_rekeys, 4);
        assert_eq!(world.n3iwf.record.ike_rekeys, 4);
        world.command(Ue, |endpoint, now| endpoint.close(now, ue));
        world.run(seconds(120));
        assert!(world.sas(Ue).is_empty() && world.sas(N3iwf).is_empty());
        assert_eq!(world.ue.endpoint.poll_timeout(), None);
        assert_eq!(world.n3iwf.endpoint.poll_timeout(), None);
    }
}

#[test]
fn a_replaced_ike_sa_answers_its_delete_again_when_its_keys_are_gone() {
    for (seed, mode) in (740..).zip(MODES) {
        let mut world = world(seed, mode, by_command());
        let (ue, _) = attach(&mut world, mode);
        let old = ike_spis(&mut world).0.to_be_bytes();
        let from = world.sent.len();
        // Every first transmission of the N3IWF is lost: of CREATE_CHILD_SA, and of the Delete.
        let mut seen = HashSet::new();
        world.tap = Some(Box::new(move |from, data| {
            (from == Ue || !seen.insert(data.to_vec())).then(|| data.to_vec())
        }));
        rekey_ike(&mut world, Ue, ue);
        world.run(seconds(10));
        let (new, _) = ike_spis(&mut world);
        assert_ne!(new.to_be_bytes(), old, "{mode}");
        let on_old = |data: &[u8]| data.starts_with(&old);
        let sent = &world.sent[from..];
        let answers = sent.iter().filter(|one| one.from == N3iwf);
        let answers: Vec<_> = answers.filter(|one| on_old(&one.data)).collect();
        assert_eq!(answers.len(), 4, "{mode}: two answers, each twice");
        assert!(answers.chunks(2).all(|pair| pair[0].data == pair[1].data));
        // What is no repetition finds nobody who could open it.
        let mut asked = sent.iter().filter(|one| one.from == Ue);
        let delete = asked.rfind(|one| on_old(&one.data)).unwrap();
        let mut other = delete.data.clone();
        other[23] += 1;
        let before = world.sent.len();
        world.inject(N3iwf, other);
        world.run(seconds(1));
        let mut since = world.sent[before..].iter();
        assert!(
            !since.any(|one| one.from == N3iwf && on_old(&one.data)),
            "{mode}"
        );
        assert_eq!(world.n3iwf.record.ike_rekeys, 1);
    }
}

#[test]
fn two_ike_rekeys_at_once_end_in_one_ike_sa() {
    for seed in 0..60 {
        let mode = MODES[usize::from(seed % 2 == 0)];
        let mut world = world(710 + seed, mode, by_command());
        let (ue, n3iwf) = attach(&mut world, mode);
        let children = agreed(&mut world);
        let before = ike_spis(&mut world);
        world.faults.jitter = Duration::from_millis(20 * (seed % 5));
        if seed % 3 == 0 {
            world.faults.loss = 200;
        }
        rekey_ike(&mut world, Ue, ue);
        rekey_ike(&mut world, N3iwf, n3iwf);
        world.run(seconds(20));
        world.faults = Faults::default();
        world.run(seconds(60));
        assert_ne!(ike_spis(&mut world), before, "seed {seed}");
        assert_eq!(agreed(&mut world), children);
        assert_eq!(world.established(Ue)[0].id, ue);
        assert_eq!(world.established(N3iwf)[0].id, n3iwf);
        // Whatever is left has to work.
        let child = user_child(&mut world, N3iwf);
        rekey(&mut world, N3iwf, n3iwf, child);
        world.run(seconds(2));
        agreed(&mut world);
    }
}

#[test]
fn an_ike_rekey_without_keys_leaves_the_old_ike_sa() {
    for (seed, begins, master) in [
        (780, N3iwf, true),
        (781, Ue, true),
        (782, N3iwf, false),
        (783, Ue, false),
    ] {
        let mut world = world(seed, Qkd(Native), by_command());
        let (ue, n3iwf) = attach(&mut world, Qkd(Native));
        let before = ike_spis(&mut world);
        let children = agreed(&mut world);
        let failure = Some(QkdFailure::Unreachable);
        match master {
            true => world.kme.faults.master = failure,
            false => world.kme.faults.slave = failure,
        }
        let sa = if begins == Ue { ue } else { n3iwf };
        rekey_ike(&mut world, begins, sa);
        world.run(seconds(5));
        assert_eq!(ike_spis(&mut world), before, "seed {seed}");
        assert_eq!(world.node(begins).record.ike_rekeys_failed.len(), 1);
        assert_eq!(agreed(&mut world), children);
        world.kme.faults.master = None;
        world.kme.faults.slave = None;
        rekey_ike(&mut world, begins, sa);
        world.run(seconds(5));
        assert_ne!(ike_spis(&mut world), before, "and then it works");
        agreed(&mut world);
    }
}

#[test]
fn an_ike_sa_is_closed_at_any_point_of_its_rekey() {
    for seed in 0..48 {
        let mode = MODES[usize::from(seed % 2 == 0)];
        let mut world = world(800 + seed, mode, by_command());
        let (ue, n3iwf) = attach(&mut world, mode);
        let (begins, closes) = [(Ue, Ue), (Ue, N3iwf), (N3iwf, Ue), (N3iwf, N3iwf)]
            [usize::try_from(seed / 2 % 4).unwrap()];
        world.behaviour.slowness = Duration::from_millis(5);
        rekey_ike(&mut world, begins, if begins == Ue { ue } else { n3iwf });
        world.run(Duration::from_millis(seed / 8 * 9));
        let sa = if closes == Ue { ue } else { n3iwf };
        world.command(closes, |endpoint, now| endpoint.close(now, sa));
        world.run(seconds(400));
        for side in [Ue, N3iwf] {
            assert!(world.sas(side).is_empty(), "seed {seed} {side:?}");
            let record = &world.node(side).record;
            assert!(record.installed.is_empty());
            assert_eq!(record.fates.len(), record.provided);
            assert_eq!(world.node(side).endpoint.poll_timeout(), None);
        }
    }
}
