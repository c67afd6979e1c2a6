//! Attaches to free5GC's N3IWF, with all that it does wrong.

use std::time::Duration;

use free5gc::n3iwf::Child;
use ike::wire::{self, ExchangeType};
use ue_user::core::ue::{Command, Install, State};

use crate::world::{World, config};

/// What one end installed is what the other end installed.
fn assert_same(install: &Install, child: &Child) {
    let ours = &install.child;
    assert_eq!((ours.spi_in, ours.spi_out), (child.spi_out, child.spi_in));
    assert_eq!(ours.suite, child.suite);
    let (out, inward) = match child.user {
        true => (&child.keys.second, &child.keys.first),
        false => (&child.keys.first, &child.keys.second),
    };
    for (ours, theirs) in [(&ours.keys_out, out), (&ours.keys_in, inward)] {
        assert_eq!(ours.encr.expose(), theirs.encr.expose());
        let integ = |key: &Option<keys::Secret>| key.as_ref().unwrap().expose().to_vec();
        assert_eq!(integ(&ours.integ), integ(&theirs.integ));
    }
}

fn registered(mut world: World) -> World {
    world.attach();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.ue.state(), State::Registered, "{:?}", world.failures);
    assert_eq!((world.sessions.len(), world.installed.len()), (1, 2));
    assert_eq!(world.n3iwf.complaints, Vec::<&str>::new());
    world
}

#[test]
fn an_attach_with_a_pdu_session() {
    let world = registered(World::new());
    for (install, child) in world.installed.iter().zip(&world.n3iwf.children) {
        assert_same(install, child);
    }
    // SHA-2, which it knows although its own UE never offers it.
    let suite = world.n3iwf.children[1].suite.to_string();
    assert_eq!(suite, "AES_CBC-256/HMAC_SHA2_256_128");
}

#[test]
fn the_edition_that_counts_message_ids_is_served_as_well() {
    let mut world = World::new();
    world.n3iwf.counts_ids = true;
    registered(world);
}

#[test]
fn sha1_when_there_is_nothing_else() {
    let mut config = config();
    config.initiator.ike_suites.remove(0);
    let world = registered(World::with(config, 4));
    assert_eq!(
        world.n3iwf.children[0].suite.to_string(),
        "AES_CBC-256/HMAC_SHA1_96"
    );
    assert_same(&world.installed[1], &world.n3iwf.children[1]);
}

#[test]
fn leading_zeros_are_padded_as_it_pads_them() {
    for seed in 0..300 {
        let mut world = World::with(config(), 500 + seed);
        world.attach();
        assert_eq!(world.ue.state(), State::Registered, "{seed}");
    }
}

#[test]
fn a_sign_of_life_is_given_in_time_whatever_its_message_id() {
    let mut world = registered(World::new());
    // One that goes out with the ID of an unanswered CREATE_CHILD_SA: that ID was used.
    for _ in 0..3 {
        world.n3iwf.probe(world.now.since_origin());
        world.pass(Duration::from_secs(3));
        assert!(!world.released, "the UE was given up");
    }
    // And its own, for an hour.
    world.pass(Duration::from_secs(3600));
    assert!(!world.released);
    assert_eq!(world.ue.state(), State::Registered);
}

#[test]
fn ike_sa_init_is_not_repeated_within_five_seconds() {
    let mut world = World::new();
    world.mute_n3iwf = true;
    world.attach();
    world.pass(Duration::from_millis(4900));
    assert_eq!((world.sent.len(), world.n3iwf.ike_sas()), (1, 1));
    world.pass(Duration::from_secs(1));
    assert_eq!(
        world.n3iwf.ike_sas(),
        2,
        "it made a second IKE SA of the repetition"
    );
    // The first answer that arrives is taken.
    world.mute_n3iwf = false;
    world.pass(Duration::from_secs(20));
    assert_eq!(world.ue.state(), State::Registered);
}

#[test]
fn nothing_is_ever_rekeyed() {
    let mut world = registered(World::new());
    world.pass(Duration::from_secs(100_000));
    let created = world.sent.iter().filter(|data| {
        let header = wire::parse(data).unwrap().header;
        header.exchange == ExchangeType::CreateChildSa && !header.flags.response
    });
    assert_eq!(created.count(), 0);
    assert!(world.ue.command(world.now, Command::RekeyIke).is_err());
}

#[test]
fn deregistration_and_back() {
    let mut world = registered(World::new());
    world.command(Command::Deregister);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.ue.state(), State::Detached);
    assert!(world.installed.is_empty() && world.sessions.is_empty());
    world.attach();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.ue.state(), State::Registered, "{:?}", world.failures);
}
