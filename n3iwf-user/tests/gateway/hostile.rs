//! Who is no UE, or a bad one: replays, floods, a core that lies. See docs/hostile-input.md.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use ike::{CookiePolicy, Path};
use n3iwf_user::core::NasLink;
use oxirush_ngap::NgapPduKind;
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

use crate::{
    amf,
    world::{N3IWF, World},
};

/// What must not change, whatever a stranger sends.
fn standing(world: &World) -> (usize, usize, usize, usize, usize, usize) {
    (
        world.gateway.ues(world.now).len(),
        world.gateway.sas().len(),
        world.gateway.addresses_taken(),
        world.held.len(),
        world.relay.len(),
        world.fetched,
    )
}

/// The UE still has its session, and NAS goes through.
fn still_serves(world: &mut World, ue: usize, ran: u32) {
    assert_eq!(world.ues[ue].closed, None);
    world.uplink.clear();
    let link = NasLink(u64::from(ran));
    world.gateway.nas_received(world.now, link, b"still here");
    world.run();
    assert_eq!(world.next().nas(), b"still here");
}

fn inject(world: &mut World, path: Path, data: &[u8]) {
    world.gateway.handle_datagram(world.now, path, data);
    world.run();
}

fn elsewhere(path: Path, number: u8) -> Path {
    let remote = SocketAddr::new(Ipv4Addr::new(198, 51, 100, number).into(), 500);
    Path { remote, ..path }
}

/// Each datagram of an attach again: alone, in any order, from the same address and from others.
#[test]
fn a_replayed_attach_changes_nothing_while_the_ue_is_attached() {
    let mut world = World::new();
    let (ue, ran) = world.attach_with_session();
    let recorded = world.recorded.clone();
    assert!(recorded.len() >= 6, "{} datagrams", recorded.len());
    let before = standing(&world);
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    // In order, backwards, and shuffled many times over.
    let forwards: Vec<usize> = (0..recorded.len()).collect();
    let backwards: Vec<usize> = forwards.iter().rev().copied().collect();
    let shuffled = (0..200).map(|_| usize::try_from(rng.next_u32()).unwrap() % recorded.len());
    let shuffled: Vec<usize> = shuffled.collect();
    for at in forwards.into_iter().chain(backwards).chain(shuffled) {
        let (path, data) = &recorded[at];
        inject(&mut world, *path, data);
        assert_eq!(standing(&world), before, "datagram {at}");
    }
    // From another address the IKE_SA_INIT is a request of somebody else; the rest is nothing.
    for (at, (path, data)) in recorded.iter().enumerate().skip(1) {
        inject(&mut world, elsewhere(*path, 9), data);
        assert_eq!(standing(&world), before, "datagram {at} from elsewhere");
    }
    let sa = world.gateway.sas();
    assert_eq!(
        sa[0].path.remote, world.ues[ue].path.local,
        "the UE stays where it is"
    );
    still_serves(&mut world, ue, ran);
}

/// The same after the UE has left: the first message is a request like any other, and all that
/// comes of it is a half-open IKE SA, which expires with its keys.
#[test]
fn a_replayed_attach_of_a_ue_that_left_gets_nowhere() {
    let mut world = World::new();
    let (ue, ran) = world.attach_with_session();
    let recorded = world.recorded.clone();
    world.gateway.release(world.now, ran);
    world.run();
    world.ngap(&amf::context_release(ran));
    world.pass(Duration::from_secs(60));
    world.ues[ue].dead = true;
    assert_eq!(world.gateway.ues(world.now).len(), 0);
    let fetched = world.fetched;
    world.uplink.clear();
    for _ in 0..3 {
        for (path, data) in &recorded {
            inject(&mut world, *path, data);
        }
    }
    assert_eq!(
        world.gateway.ues(world.now).len(),
        0,
        "no UE without its keys"
    );
    assert_eq!((world.held.len(), world.relay.len()), (0, 0));
    assert_eq!(world.gateway.addresses_taken(), 0);
    assert!(world.uplink.is_empty(), "the AMF hears of none of it");
    // One IKE_SA_INIT was in the recording: one allocation, however often it is sent.
    assert_eq!(world.fetched, fetched + 7);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.gateway.sas().len(), 0);
    assert_eq!(
        world.fates.len(),
        world.fetched,
        "each of its keys has its fate"
    );
}

/// IKE_SA_INIT of ten thousand addresses: from the threshold on a cookie each, no state, no key; a
/// UE that answers its cookie attaches.
#[test]
fn a_flood_of_strangers_costs_no_more_keys_than_the_threshold() {
    const THRESHOLD: usize = 4;
    let mut world = World::with_endpoint(|responder| {
        responder.cookies = CookiePolicy::Above(THRESHOLD);
    });
    let mut stranger = World::new();
    stranger.add_ue();
    stranger.run();
    let template = stranger.recorded[0].1.clone();
    let mut rng = ChaCha20Rng::seed_from_u64(8);
    let mut flood = |world: &mut World, count: u32| {
        for _ in 0..count {
            let mut data = template.clone();
            rng.fill_bytes(&mut data[..8]);
            let address = Ipv4Addr::from_bits(0x0a00_0000 | (rng.next_u32() & 0x00ff_ffff));
            let path = Path {
                local: N3IWF,
                remote: SocketAddr::new(address.into(), 500),
            };
            inject(world, path, &data);
        }
    };
    flood(&mut world, 10_000);
    assert_eq!(world.gateway.half_open(), THRESHOLD);
    assert_eq!(world.fetched, 7 * THRESHOLD);
    assert!(world.answers >= 10_000 - THRESHOLD, "a cookie for each");
    let fetched = world.fetched;
    let (ue, ran) = world.attach_with_session();
    assert_eq!(world.fetched, fetched + 7, "the UE's own keys");
    let before = standing(&world);
    flood(&mut world, 1000);
    assert_eq!(standing(&world), before);
    still_serves(&mut world, ue, ran);
}

/// NAS over TCP of an attached UE: as much as it likes goes to the AMF, in its context alone.
#[test]
fn a_nas_flood_stays_in_its_own_context() {
    let mut world = World::new();
    let (_, noisy) = world.attach();
    let (quiet, ran) = world.attach();
    world.uplink.clear();
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    for round in 0..2000_usize {
        let mut nas = vec![0; 1 + round % 700];
        rng.fill_bytes(&mut nas);
        world
            .gateway
            .nas_received(world.now, NasLink(u64::from(noisy)), &nas);
        world.run();
        let uplink = world.next();
        assert_eq!(uplink.kind(), NgapPduKind::Initiating_UplinkNASTransport);
        assert_eq!((uplink.ran(), uplink.nas()), (Some(noisy), nas.clone()));
    }
    // A link that is nobody's is nobody's NAS.
    world
        .gateway
        .nas_received(world.now, NasLink(9999), b"whose?");
    world.run();
    assert!(world.uplink.is_empty());
    still_serves(&mut world, quiet, ran);
}

/// Messages of a core with any octet changed: no UE but those they name is touched, and the
/// gateway goes on.
#[test]
fn a_compromised_core_reaches_no_further_than_its_ues() {
    let mut world = World::new();
    let (ue, ran) = world.attach_with_session();
    let messages = [
        amf::downlink_nas(ran + 1, b"who?"),
        amf::context_setup(ran + 1, None, Vec::new()),
        amf::session_setup(ran + 1, &[(1, b"x", amf::transfer(0x200, &[1]))]),
        amf::context_release(ran + 1),
    ];
    let before = standing(&world);
    let mut rng = ChaCha20Rng::seed_from_u64(10);
    for message in &messages {
        world.ngap(message);
        assert_eq!(standing(&world), before, "a UE that is not there");
    }
    for _ in 0..4000 {
        let pick = usize::try_from(rng.next_u32()).unwrap() % messages.len();
        let mut octets = messages[pick].clone();
        for _ in 0..=rng.next_u32() % 4 {
            let at = usize::try_from(rng.next_u32()).unwrap() % octets.len();
            octets[at] = rng.next_u32().to_be_bytes()[0];
        }
        world.ngap(&octets);
        world.uplink.clear();
        // It may hit upon the UE's own identifiers, and then end it; nobody else's state appears.
        let (ues, sas, addresses, held, relay, _) = standing(&world);
        assert!(ues <= 1 && sas <= 1 && addresses <= 1 && held <= 2 && relay <= 1);
    }
    if world.ues[ue].closed.is_none() && world.gateway.ues(world.now).len() == 1 {
        still_serves(&mut world, ue, ran);
    }
    // And the next UE attaches, as far as the AMF still is one.
    if world.gateway.amfs().iter().any(|amf| amf.state == "ready") {
        world.uplink.clear();
        world.attach();
    }
}
