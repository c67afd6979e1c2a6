//! MOBIKE (RFC 4555): negotiation, moves in the middle of exchanges, loss, NATs that come and go.

mod hostile;

use std::{net::IpAddr, time::Duration};

use ike::{
    CloseReason, CommandError, EndpointConfig, Lifetimes, Mobike, SaId, Timing, wire::NotifyType,
};
use rand_core::{Rng, SeedableRng};

use crate::{
    rng::TestRng,
    setup,
    world::{
        Faults, Nat,
        Side::{N3iwf, Ue},
        World,
    },
};

const CELLAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 20));
const ATTIC: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 30));
const NAT: Nat = Nat {
    outer: IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 77)),
    port_offset: 7000,
};

const fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn mobile(config: EndpointConfig, mobike: Mobike) -> EndpointConfig {
    EndpointConfig {
        mobike: Some(mobike),
        lifetimes: Lifetimes {
            from_peer: true,
            ..Lifetimes::default()
        },
        timing: Timing {
            dpd_interval: Some(second(20)),
            ..Timing::default()
        },
        ..config
    }
}

fn world_with(seed: u64, ue: Mobike, n3iwf: Mobike) -> World {
    World::new(
        seed,
        mobile(setup::ue_endpoint(), ue),
        mobile(setup::n3iwf_endpoint(), n3iwf),
    )
}

fn world(seed: u64) -> World {
    world_with(seed, Mobike::default(), Mobike::default())
}

const CHECKS: Mobike = Mobike {
    check_routability: true,
    no_nats: false,
};
const NO_NATS: Mobike = Mobike {
    check_routability: false,
    no_nats: true,
};

/// The UE is at this address from now on, and nowhere else.
fn move_to(world: &mut World, sa: SaId, address: IpAddr) {
    world.ue_address = address;
    let moved = world.command(Ue, |endpoint, now| endpoint.roam(now, sa, address));
    assert_eq!(moved, Ok(()));
}

/// Both ends are where the UE is, and the data planes as well; a probe from the N3IWF is answered.
fn settled(world: &mut World, n3iwf: SaId) {
    let at = world.ue_address;
    let seen = world.nat.map_or(at, |nat| nat.outer);
    assert_eq!(world.sas(Ue)[0].path.local.ip(), at);
    assert_eq!(world.sas(N3iwf)[0].path.remote.ip(), seen);
    assert_eq!(
        world.ue.record.paths.last().map(|path| path.local.ip()),
        Some(at)
    );
    assert_eq!(
        world.n3iwf.record.paths.last().copied(),
        Some(world.sas(N3iwf)[0].path)
    );
    assert_eq!(
        world.ue.record.encaps.last(),
        world.n3iwf.record.encaps.last()
    );
    let before = world.n3iwf.endpoint.counters().retransmitted;
    world.command(N3iwf, |endpoint, now| endpoint.probe(now, n3iwf));
    world.run(second(1));
    assert_eq!(
        world.n3iwf.endpoint.counters().retransmitted,
        before,
        "the probe was answered at once"
    );
    assert_eq!(world.established(Ue).len(), 1);
    assert_eq!(world.established(N3iwf).len(), 1);
}

#[test]
fn both_ends_have_to_want_it_and_then_use_port_4500() {
    for (ours, theirs) in [(true, true), (true, false), (false, true)] {
        let mut world = world(700);
        let silent = |config| EndpointConfig {
            mobike: None,
            ..config
        };
        if !ours {
            world = World::new(
                700,
                silent(setup::ue_endpoint()),
                mobile(setup::n3iwf_endpoint(), Mobike::default()),
            );
        } else if !theirs {
            world = World::new(
                700,
                mobile(setup::ue_endpoint(), Mobike::default()),
                silent(setup::n3iwf_endpoint()),
            );
        }
        let (ue, _) = world.attach(setup::native());
        let agreed = ours && theirs;
        let status = world.sas(Ue).remove(0);
        assert_eq!(status.mobike, agreed);
        assert_eq!(world.sas(N3iwf)[0].mobike, agreed);
        // The initiator goes there before it knows of the other end (RFC 4555 3.3).
        let port = if ours { 4500 } else { 500 };
        assert_eq!(status.path.remote.port(), port);
        assert!(!status.nat_local && !status.nat_remote);
        let child = world.n3iwf.record.installed.values().next().unwrap();
        assert!(!child.udp_encap);
        let moved = world.command(Ue, |endpoint, now| endpoint.roam(now, ue, CELLAR));
        match agreed {
            true => assert_eq!(moved, Ok(())),
            false => {
                assert_eq!(moved, Err(CommandError::NoMobike));
                assert_eq!(world.sas(Ue)[0].path.local.ip(), setup::UE);
            }
        }
        let notifies = &world.ue.record.notifies;
        assert!(
            notifies
                .iter()
                .all(|notify| notify.kind != NotifyType::MOBIKE_SUPPORTED),
            "not the daemon's business"
        );
    }
}

#[test]
fn the_responder_has_no_say_in_it() {
    let mut world = world(701);
    let (_, n3iwf) = world.attach(setup::native());
    let moved = world.command(N3iwf, |endpoint, now| endpoint.roam(now, n3iwf, CELLAR));
    assert_eq!(moved, Err(CommandError::NotInThisMode));
}

#[test]
fn the_ue_moves_and_everything_goes_on() {
    let mut world = world(702);
    let (ue, n3iwf) = world.attach(setup::native());
    let before = world.sent.len();
    move_to(&mut world, ue, CELLAR);
    assert_eq!(world.ue.record.paths.len(), 1, "at once");
    world.run(Duration::from_millis(15));
    assert_eq!(
        world.n3iwf.record.paths.len(),
        1,
        "with the first datagram from there"
    );
    world.run(second(1));
    assert_eq!(world.sent.len(), before + 2, "one exchange");
    settled(&mut world, n3iwf);
    // What is made later is made there.
    let token = 9;
    world.command(N3iwf, |endpoint, now| {
        endpoint
            .create_child(now, n3iwf, setup::user_child(token))
            .unwrap()
    });
    world.run(second(1));
    assert!(world.n3iwf.record.tokens_up.contains(&token));
    world.check_keys();
}

#[test]
fn a_move_back_and_one_to_the_same_address_are_told_too() {
    let mut world = world(703);
    let (ue, n3iwf) = world.attach(setup::native());
    for address in [CELLAR, setup::UE, setup::UE] {
        move_to(&mut world, ue, address);
        world.run(second(1));
        settled(&mut world, n3iwf);
    }
    assert_eq!(world.n3iwf.record.paths.len(), 2, "a move is one");
}

#[test]
fn of_two_moves_in_a_row_the_last_counts() {
    let mut world = world(704);
    let (ue, n3iwf) = world.attach(setup::native());
    move_to(&mut world, ue, CELLAR);
    // The first update is under way, or its answer is.
    for wait in [0, 5, 12, 18] {
        world.run(Duration::from_millis(wait));
        let next = match world.ue_address {
            CELLAR => ATTIC,
            _ => CELLAR,
        };
        move_to(&mut world, ue, next);
    }
    world.run(second(3));
    settled(&mut world, n3iwf);
    assert!(world.ue.record.refusals.is_empty());
}

/// A request of either side is under way when the UE moves, at any moment of it.
#[test]
fn an_exchange_in_its_middle_survives_the_move() {
    for wait in 0..30 {
        for by_ue in [false, true] {
            let mut world = world(705 + wait);
            let (ue, n3iwf) = world.attach(setup::native());
            if by_ue {
                world.command(Ue, |endpoint, now| endpoint.rekey_ike(now, ue).unwrap());
            } else {
                world.command(N3iwf, |endpoint, now| {
                    endpoint
                        .create_child(now, n3iwf, setup::user_child(4))
                        .unwrap()
                });
            }
            world.run(Duration::from_millis(wait * 2));
            move_to(&mut world, ue, CELLAR);
            world.run(second(10));
            settled(&mut world, n3iwf);
            if by_ue {
                assert_eq!(world.ue.record.ike_rekeys, 1, "{wait}");
                assert_eq!(world.n3iwf.record.ike_rekeys, 1, "{wait}");
            } else {
                assert!(world.n3iwf.record.tokens_up.contains(&4), "{wait}");
            }
            world.check_keys();
        }
    }
}

/// The KMS of either side takes its time, and the UE moves before there are keys.
#[test]
fn an_answer_that_waits_for_keys_leaves_from_the_new_address() {
    for (seed, by_ue) in [(740, false), (741, true), (742, false), (743, true)] {
        let mut world = world(seed);
        let (ue, n3iwf) = world.attach(setup::native());
        world.behaviour.slowness = Duration::from_millis(900);
        if by_ue {
            world.command(Ue, |endpoint, now| endpoint.rekey_ike(now, ue).unwrap());
        } else {
            world.command(N3iwf, |endpoint, now| {
                endpoint.rekey_ike(now, n3iwf).unwrap();
            });
        }
        world.run(Duration::from_millis(100 + seed % 3 * 300));
        move_to(&mut world, ue, CELLAR);
        world.run(second(20));
        settled(&mut world, n3iwf);
        assert_eq!(world.ue.record.ike_rekeys, 1);
        assert_eq!(world.n3iwf.record.ike_rekeys, 1);
    }
}

#[test]
fn a_nat_appears_and_disappears_with_the_moves() {
    let mut world = world(750);
    let (ue, n3iwf) = world.attach(setup::native());
    world.nat = Some(NAT);
    move_to(&mut world, ue, CELLAR);
    world.run(second(1));
    settled(&mut world, n3iwf);
    assert_eq!(world.ue.record.encaps, [false, true], "the answer tells");
    assert_eq!(world.n3iwf.record.encaps, [true]);
    let status = world.sas(Ue).remove(0);
    assert!(status.nat_local && !status.nat_remote);
    // A Child SA that is made now is in UDP from the start.
    world.command(N3iwf, |endpoint, now| {
        endpoint
            .create_child(now, n3iwf, setup::user_child(4))
            .unwrap()
    });
    world.run(second(1));
    let inside = |world: &World| {
        let installed = world.ue.record.installed.values();
        installed.filter(|child| child.udp_encap).count()
    };
    assert_eq!(inside(&world), 1);
    world.nat = None;
    move_to(&mut world, ue, ATTIC);
    world.run(second(1));
    settled(&mut world, n3iwf);
    assert_eq!(world.ue.record.encaps.last(), Some(&false));
    let status = world.sas(Ue).remove(0);
    assert!(!status.nat_local && !status.nat_remote);
}

/// RFC 4555 3.8: found by the initiator with its question for a sign of life, and told in an update.
#[test]
fn a_new_mapping_of_the_nat_is_found_and_told() {
    let mut world = world(751);
    world.nat = Some(NAT);
    let (_, n3iwf) = world.attach(setup::native());
    // One question, after which it knows the mapping; that one is what the N3IWF has.
    world.run(second(30));
    let paths = world.n3iwf.record.paths.len();
    world.nat = Some(Nat {
        port_offset: 9000,
        ..NAT
    });
    world.run(second(30));
    assert_eq!(world.n3iwf.record.paths.len(), paths + 1);
    assert_eq!(
        world.sas(N3iwf)[0].path.remote,
        (NAT.outer, 13_500).into(),
        "4500 and 9000"
    );
    world.command(N3iwf, |endpoint, now| endpoint.probe(now, n3iwf));
    world.run(second(1));
    assert_eq!(world.established(N3iwf).len(), 1);
    // Once it is known, questions are questions.
    let sent = world.sent.len();
    let told = world.n3iwf.record.paths.len();
    world.run(second(60));
    assert!(world.sent.len() > sent);
    assert_eq!(world.n3iwf.record.paths.len(), told);
}

/// RFC 7296 2.23 and RFC 4555 3.8: what the kernel tells of ESP counts for a peer behind a NAT that does not say
/// itself where it is.
#[test]
fn esp_from_another_port_is_followed_without_mobike_alone() {
    let remapped: std::net::SocketAddr = (NAT.outer, 20_001).into();
    for (nat, mobike, followed) in [
        (Some(NAT), None, true),
        (Some(NAT), Some(Mobike::default()), false),
        (None, None, false),
    ] {
        let with = |config| EndpointConfig {
            mobike,
            ..mobile(config, Mobike::default())
        };
        let mut world = World::new(
            753,
            with(setup::ue_endpoint()),
            with(setup::n3iwf_endpoint()),
        );
        world.nat = nat;
        let (ue, n3iwf) = world.attach(setup::native());
        let before = world.sas(N3iwf)[0].path;
        let told = world.n3iwf.record.paths.len();
        world.command(N3iwf, |endpoint, now| endpoint.remap(now, n3iwf, remapped));
        let path = world.sas(N3iwf)[0].path;
        let paths = world.n3iwf.record.paths.len() - told;
        if followed {
            assert_eq!((path.local, path.remote), (before.local, remapped));
            assert_eq!(world.n3iwf.record.paths.last(), Some(&path));
        } else {
            assert_eq!(path, before, "{nat:?} {mobike:?}");
        }
        assert_eq!(paths, usize::from(followed));
        // Said again with each packet until the kernel knows: nothing new.
        world.command(N3iwf, |endpoint, now| endpoint.remap(now, n3iwf, remapped));
        assert_eq!(world.n3iwf.record.paths.len(), told + paths);
        // The UE's peer is behind no NAT.
        let before = world.sas(Ue)[0].path;
        world.command(Ue, |endpoint, now| endpoint.remap(now, ue, remapped));
        assert_eq!(world.sas(Ue)[0].path, before);
    }
}

#[test]
fn a_mapping_is_found_under_the_spis_of_a_rekeyed_ike_sa_too() {
    let mut world = world(752);
    world.nat = Some(NAT);
    let (ue, _) = world.attach(setup::native());
    world.run(second(30));
    world.command(Ue, |endpoint, now| endpoint.rekey_ike(now, ue).unwrap());
    world.run(second(1));
    world.nat = Some(Nat {
        port_offset: 9000,
        ..NAT
    });
    world.run(second(45));
    assert_eq!(world.sas(N3iwf)[0].path.remote, (NAT.outer, 13_500).into());
}

#[test]
fn loss_and_disorder_delay_a_move_and_no_more() {
    for seed in 760..800 {
        let mut world = world_with(
            seed,
            Mobike::default(),
            if seed % 2 == 0 {
                CHECKS
            } else {
                Mobike::default()
            },
        );
        let (ue, n3iwf) = world.attach(setup::native());
        let mut dice = TestRng::seed_from_u64(seed);
        world.faults = Faults {
            loss: 250,
            duplicate: 100,
            flip: 50,
            truncate: 50,
            jitter: Duration::from_millis(400),
        };
        world.record_sent = false;
        for _ in 0..6 {
            let at = [setup::UE, CELLAR, ATTIC][dice.next_u32() as usize % 3];
            world.nat = (dice.next_u32() % 3 == 0).then_some(NAT);
            move_to(&mut world, ue, at);
            match dice.next_u32() % 4 {
                0 => drop(world.command(Ue, |endpoint, now| endpoint.rekey_ike(now, ue))),
                1 => drop(world.command(N3iwf, |endpoint, now| endpoint.rekey_ike(now, n3iwf))),
                2 => drop(world.command(N3iwf, |endpoint, now| {
                    endpoint.create_child(now, n3iwf, setup::user_child(4))
                })),
                _ => {}
            }
            world.run(Duration::from_millis(u64::from(dice.next_u32() % 3000)));
        }
        world.faults = Faults::default();
        world.run(second(60));
        settled(&mut world, n3iwf);
        world.check_keys();
    }
}

#[test]
fn a_move_while_the_ike_sa_is_deleted_still_ends_it() {
    let mut world = world(808);
    let (ue, n3iwf) = world.attach(setup::native());
    world.command(Ue, |endpoint, now| endpoint.close(now, ue));
    move_to(&mut world, ue, CELLAR);
    world.run(second(5));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::Local));
    assert_eq!(world.reason(N3iwf, n3iwf), Some(CloseReason::PeerDeleted));
    let again = world.command(Ue, |endpoint, now| endpoint.roam(now, ue, ATTIC));
    assert_eq!(again, Err(CommandError::UnknownSa));
}

/// The `paper` profile is as measured: nothing of this is in it.
#[test]
fn the_paper_profile_has_no_mobike() {
    let mut world = World::new(
        811,
        mobile(setup::ue_endpoint(), Mobike::default()),
        mobile(setup::paper_endpoint(), Mobike::default()),
    );
    let (ue, _) = world.attach(setup::paper());
    assert!(world.sent.iter().all(|sent| sent.path.local.port() == 500));
    let moved = world.command(Ue, |endpoint, now| endpoint.roam(now, ue, CELLAR));
    assert_eq!(moved, Err(CommandError::NoMobike));
}

#[test]
fn a_peer_that_stays_silent_is_given_up_in_the_end() {
    let mut world = world(812);
    let (ue, _) = world.attach(setup::native());
    world.muted.insert(N3iwf);
    for address in [CELLAR, ATTIC, CELLAR] {
        move_to(&mut world, ue, address);
        world.run(second(7));
    }
    world.run(second(300));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::PeerDead));
}
