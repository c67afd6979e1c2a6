//! NAT detection, port 4500, keepalives, rebinding (RFC 7296 2.23).

use std::time::Duration;

use crate::{
    setup,
    world::{
        Nat,
        Side::{N3iwf, Ue},
        World,
    },
};

fn behind_nat(seed: u64) -> World {
    let mut world = World::native(seed);
    world.nat = Some(Nat {
        outer: [198, 51, 100, 77].into(),
        port_offset: 7000,
    });
    world
}

#[test]
fn without_a_nat_everything_stays_on_port_500() {
    let mut world = World::native(300);
    world.attach(setup::native());
    assert!(world.sent.iter().all(|sent| sent.path.local.port() == 500));
    let status = world.sas(Ue).remove(0);
    assert!(!status.nat_local && !status.nat_remote);
}

#[test]
fn behind_a_nat_both_move_to_port_4500_with_the_marker() {
    let mut world = behind_nat(301);
    world.attach(setup::native());
    let (init, rest) = world.sent.split_at(2);
    assert!(init.iter().all(|sent| sent.path.local.port() == 500));
    for sent in rest {
        assert_eq!(sent.path.local.port(), 4500);
        assert_eq!(sent.data[..4], [0; 4]);
    }
    let status = world.sas(Ue).remove(0);
    assert!(status.nat_local && !status.nat_remote);
    let status = world.sas(N3iwf).remove(0);
    assert!(!status.nat_local && status.nat_remote);
    assert_eq!(status.path.remote, ([198, 51, 100, 77], 11_500).into());
    assert!(
        world
            .ue
            .record
            .installed
            .values()
            .all(|child| child.udp_encap)
    );
    assert!(
        world
            .n3iwf
            .record
            .installed
            .values()
            .all(|child| child.udp_encap)
    );
}

#[test]
fn the_initiator_keeps_the_mapping_alive_and_nobody_answers() {
    let mut world = behind_nat(302);
    world.attach(setup::native());
    let before = world.sent.len();
    world.run(Duration::from_secs(50));
    let later: Vec<_> = world.sent[before..].iter().collect();
    assert_eq!(later.len(), 2);
    assert!(
        later
            .iter()
            .all(|sent| sent.from == Ue && sent.data == [0xff])
    );
    assert!(later.iter().all(|sent| sent.path.local.port() == 4500));
}

#[test]
fn a_rebound_mapping_is_followed_by_authenticated_messages_alone() {
    let mut world = behind_nat(303);
    let (ue, _) = world.attach(setup::native());
    let old = world.sas(N3iwf)[0].path;
    // Garbage and replays from elsewhere move nothing.
    let elsewhere = ike::Path {
        local: old.local,
        remote: ([203, 0, 113, 50], 4500).into(),
    };
    let replay = world
        .sent
        .iter()
        .rev()
        .find(|sent| sent.from == Ue)
        .unwrap();
    world.inject_on(N3iwf, elsewhere, replay.data.clone());
    world.inject_on(N3iwf, elsewhere, vec![0; 80]);
    world.run(Duration::from_secs(1));
    assert_eq!(world.sas(N3iwf)[0].path, old);
    world.nat = Some(Nat {
        outer: [198, 51, 100, 78].into(),
        port_offset: 9000,
    });
    world.command(Ue, |endpoint, now| endpoint.probe(now, ue));
    world.run(Duration::from_secs(1));
    let new = world.sas(N3iwf)[0].path;
    assert_eq!(new.remote, ([198, 51, 100, 78], 13_500).into());
    assert_eq!(world.n3iwf.record.paths, [new]);
}

#[test]
fn esp_and_keepalives_on_port_4500_are_not_for_ike() {
    let mut world = behind_nat(304);
    world.attach(setup::native());
    let path = world.sas(N3iwf)[0].path;
    let before = world.sent.len();
    for data in [vec![0xff], vec![], vec![0, 0, 0], vec![1; 100]] {
        world.inject_on(N3iwf, path, data);
    }
    world.run(Duration::from_secs(1));
    assert_eq!(world.sent.len(), before);
}
