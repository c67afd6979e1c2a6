//! Key exchanges in CREATE_CHILD_SA of Child SAs, and in IKE_FOLLOWUP_KE after it.

use std::{collections::HashSet, time::Duration};

use ike::{
    ChildFailure, ChildId, EndpointConfig, InitiatorConfig,
    Mode::{self, Cert, Hybrid, Psk, Qkd},
    Offer,
    Profile::Native,
    QkdPolicy::Prefer,
    SaId,
    crypto::{ChildSuite, KeMethod, KeyExchange},
    wire::{self, ExchangeType, NotifyType},
};

use crate::{
    certificates, setup,
    world::{
        Faults,
        Side::{self, N3iwf, Ue},
        World,
    },
};

const PFS: &str = "aes256gcm16-x25519";
const FOLLOWED: &str = "aes256gcm16-x25519-ke1_mlkem768-ke2_ecp256";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn suites(words: &str) -> Vec<ChildSuite> {
    ChildSuite::from_keywords(words).unwrap()
}

/// A UE and an N3IWF with these ESP proposals.
fn world(seed: u64, mode: Mode, n3iwf: &str) -> World {
    let mut accept = match mode {
        Hybrid => setup::hybrid_endpoint(),
        Cert => certificates::n3iwf(&[Cert], 0),
        mode => setup::accepting(&[mode], Prefer),
    };
    accept.responder.as_mut().unwrap().esp_suites = suites(n3iwf);
    accept.lifetimes.from_peer = true;
    let mut ue = setup::ue_endpoint();
    ue.lifetimes.from_peer = true;
    World::new(seed, ue, accept)
}

fn offer(mode: Mode) -> Offer {
    match mode {
        Cert => certificates::ue(&[Cert], 1),
        mode => setup::offering(&[mode], Prefer),
    }
}

/// Attaches, and makes the Child SA of a PDU session.
fn attach(world: &mut World, mode: Mode, ue: &str) -> (SaId, SaId) {
    let config = InitiatorConfig {
        esp_suites: suites(ue),
        ..match mode {
            Hybrid => setup::hybrid_config(),
            Cert => certificates::named(),
            _ => setup::choosy(),
        }
    };
    let ids = world.attach_with(config, &offer(mode));
    world.command(N3iwf, |endpoint, now| {
        let child = setup::user_child(5);
        endpoint.create_child(now, ids.1, child).unwrap()
    });
    world.run(seconds(2));
    ids
}

/// The key exchanges of the signalling Child SA and of the other one, the same on both sides.
fn exchanges(world: &mut World) -> [Option<KeyExchange>; 2] {
    let both = [Ue, N3iwf].map(|side| {
        let children = world.established(side).remove(0).children;
        assert_eq!(children.len(), 2, "{children:?}");
        let of = |signalling| {
            let child = children.iter().find(|child| child.signalling == signalling);
            child.unwrap().key_exchange
        };
        [of(true), of(false)]
    });
    assert_eq!(both[0], both[1]);
    world.check_keys();
    assert_eq!(world.ue.record.installed.len(), 2);
    assert_eq!(world.n3iwf.record.installed.len(), 2);
    both[0]
}

fn children(world: &mut World, side: Side) -> Vec<ChildId> {
    let sa = world.established(side).remove(0);
    sa.children.iter().map(|child| child.id).collect()
}

/// Requests of this type, retransmissions not counted.
fn requests(world: &World, side: Side, exchange: ExchangeType) -> usize {
    let ids: HashSet<(u64, u32)> = world
        .sent
        .iter()
        .filter(|sent| sent.from == side)
        .map(|sent| wire::parse(&sent.data).unwrap().header)
        .filter(|header| header.exchange == exchange && !header.flags.response)
        .map(|header| (header.spi_i, header.message_id))
        .collect();
    ids.len()
}

#[test]
fn create_child_sa_has_the_key_exchange_that_is_configured() {
    let agreed = suites(PFS)[0].ke;
    for (seed, mode) in (1400..).zip([Psk, Cert, Hybrid]) {
        for side in [Ue, N3iwf] {
            let mut world = world(seed, mode, PFS);
            let (ue, n3iwf) = attach(&mut world, mode, PFS);
            assert_eq!(exchanges(&mut world), [None, agreed], "none in IKE_AUTH");
            let sa = if side == Ue { ue } else { n3iwf };
            let before: Vec<_> = world.ue.record.installed.values().cloned().collect();
            for child in children(&mut world, side) {
                world.command(side, |endpoint, now| {
                    endpoint.rekey_child(now, sa, child).unwrap()
                });
                world.run(seconds(1));
            }
            assert_eq!(exchanges(&mut world), [agreed, agreed], "{mode}, {side:?}");
            let fresh = &world.ue.record.installed;
            assert!(
                fresh
                    .values()
                    .all(|child| before.iter().all(|old| old.key_in != child.key_in))
            );
            let keys = usize::from(mode == Hybrid);
            assert!(fresh.values().all(|child| child.key_ids.len() == keys));
        }
    }
}

#[test]
fn with_qkd_keys_freshness_comes_from_them() {
    let mut world = world(1405, Qkd(Native), PFS);
    let (ue, _) = attach(&mut world, Qkd(Native), PFS);
    for child in children(&mut world, Ue) {
        world.command(Ue, |endpoint, now| {
            endpoint.rekey_child(now, ue, child).unwrap()
        });
        world.run(seconds(1));
    }
    assert_eq!(exchanges(&mut world), [None, None]);
    let installed = &world.ue.record.installed;
    assert!(installed.values().all(|child| child.key_ids.len() == 2));
}

#[test]
fn invalid_ke_payload_names_the_method_to_come_with() {
    let both = "aes256gcm16-x25519-ecp256";
    let agreed = Some(KeyExchange::single(KeMethod::Ecp256));
    for (seed, side) in [(1410, Ue), (1411, N3iwf)] {
        let (here, there) = match side {
            Ue => (both, "aes256gcm16-ecp256"),
            N3iwf => ("aes256gcm16-ecp256", both),
        };
        let mut world = world(seed, Hybrid, there);
        let (ue, n3iwf) = attach(&mut world, Hybrid, here);
        let sa = if side == Ue { ue } else { n3iwf };
        let before = requests(&world, side, ExchangeType::CreateChildSa);
        for child in children(&mut world, side) {
            world.command(side, |endpoint, now| {
                endpoint.rekey_child(now, sa, child).unwrap()
            });
            world.run(seconds(1));
        }
        assert_eq!(exchanges(&mut world), [agreed, agreed]);
        let after = requests(&world, side, ExchangeType::CreateChildSa);
        assert_eq!(after - before, 4, "each of two Child SAs in two attempts");
        let keys = world.kme.allocations;
        assert_eq!(keys, 3, "INVALID_KE_PAYLOAD costs no key");
        assert!(world.node(side).record.rekeys_failed.is_empty());
    }
}

#[test]
fn who_wants_a_key_exchange_gets_nothing_less() {
    for (seed, ue, n3iwf) in [
        (1415, "aes256gcm16", PFS),
        (1416, PFS, "aes256gcm16"),
        (1417, "aes256gcm16-ecp256", PFS),
        (1418, PFS, FOLLOWED),
        (1419, FOLLOWED, PFS),
    ] {
        let mut world = world(seed, Psk, n3iwf);
        attach(&mut world, Psk, ue);
        let refused = ChildFailure::Refused(NotifyType::NO_PROPOSAL_CHOSEN);
        assert_eq!(world.n3iwf.record.failed[0].1, refused, "{ue} / {n3iwf}");
        assert_eq!(world.ue.record.installed.len(), 1, "signalling goes on");
        assert_eq!(world.established(N3iwf).len(), 1);
    }
}

#[test]
fn additional_key_exchanges_follow_create_child_sa() {
    let agreed = suites(FOLLOWED)[0].ke;
    for (seed, mode) in (1420..).zip([Psk, Cert, Hybrid]) {
        for side in [Ue, N3iwf] {
            let mut world = world(seed, mode, FOLLOWED);
            let (ue, n3iwf) = attach(&mut world, mode, FOLLOWED);
            assert_eq!(exchanges(&mut world), [None, agreed]);
            assert_eq!(requests(&world, N3iwf, ExchangeType::IkeFollowupKe), 2);
            let sa = if side == Ue { ue } else { n3iwf };
            for child in children(&mut world, side) {
                world.command(side, |endpoint, now| {
                    endpoint.rekey_child(now, sa, child).unwrap()
                });
                world.run(seconds(1));
            }
            assert_eq!(exchanges(&mut world), [agreed, agreed], "{mode}, {side:?}");
            let expected = if side == Ue { 4 } else { 6 };
            assert_eq!(
                requests(&world, side, ExchangeType::IkeFollowupKe),
                expected
            );
        }
    }
}

#[test]
fn two_rekeys_at_once_leave_one_sa_with_every_key_exchange() {
    let mut survivors = HashSet::new();
    for seed in 0..40 {
        let mode = if seed % 2 == 0 { Psk } else { Hybrid };
        let words = if seed % 4 < 2 { PFS } else { FOLLOWED };
        let mut world = world(1430 + seed, mode, words);
        let (ue, n3iwf) = attach(&mut world, mode, words);
        let here = *children(&mut world, Ue).last().unwrap();
        let there = *children(&mut world, N3iwf).last().unwrap();
        world.faults.jitter = Duration::from_millis(20 * (seed % 5));
        let ours = world.command(Ue, |endpoint, now| {
            endpoint.rekey_child(now, ue, here).unwrap()
        });
        world.command(N3iwf, |endpoint, now| {
            endpoint.rekey_child(now, n3iwf, there).unwrap()
        });
        world.run(seconds(10));
        assert_eq!(exchanges(&mut world)[1], suites(words)[0].ke, "{seed}");
        survivors.insert(world.ue.record.installed.contains_key(&ours));
    }
    assert_eq!(survivors.len(), 2, "each side wins at times");
}

#[test]
fn rekeys_with_every_key_exchange_pass_bad_networks() {
    let lifetime = |soft| ike::Lifetime {
        soft: seconds(soft),
        jitter: seconds(10),
        hard: seconds(3 * soft),
    };
    let lifetimes = ike::Lifetimes {
        child: Some(lifetime(30)),
        ike: Some(lifetime(50)),
        retry: seconds(4),
        from_peer: true,
    };
    let mut rekeys = 0;
    for seed in 0..24 {
        let mode = if seed % 2 == 0 { Psk } else { Hybrid };
        let words = if seed % 4 < 2 { PFS } else { FOLLOWED };
        let mut accept = match mode {
            Hybrid => setup::hybrid_endpoint(),
            mode => setup::accepting(&[mode], Prefer),
        };
        accept.responder.as_mut().unwrap().esp_suites = suites(words);
        let with = |config: EndpointConfig| EndpointConfig {
            lifetimes,
            ..config
        };
        let mut world = World::new(1480 + seed, with(setup::ue_endpoint()), with(accept));
        attach(&mut world, mode, words);
        world.faults = Faults {
            loss: 100,
            duplicate: 50,
            jitter: Duration::from_millis(200),
            ..Faults::default()
        };
        world.run(seconds(200));
        assert!(
            !world.ue.record.installed.is_empty(),
            "{seed}: traffic stops"
        );
        world.faults = Faults::default();
        let calm = (0..60).any(|_| {
            world.run(seconds(1));
            [Ue, N3iwf].iter().all(|side| {
                let children = world.established(*side).remove(0).children;
                children.len() == 2 && children.iter().all(|child| child.up)
            })
        });
        assert!(calm, "{seed}");
        assert_eq!(exchanges(&mut world)[1], suites(words)[0].ke, "{seed}");
        rekeys += world.ue.record.switched.len();
        assert!(world.ue.record.closed.is_empty() && world.n3iwf.record.closed.is_empty());
    }
    assert!(rekeys > 24 * 6, "{rekeys}");
}

#[test]
fn an_initiator_that_does_not_go_on_is_given_up() {
    let mut world = world(1510, Hybrid, FOLLOWED);
    let (ue, _) = attach(&mut world, Hybrid, FOLLOWED);
    world.tap = Some(Box::new(|from, data| {
        let exchange = wire::parse(data).unwrap().header.exchange;
        (from == N3iwf || exchange != ExchangeType::IkeFollowupKe).then(|| data.to_vec())
    }));
    let child = *children(&mut world, Ue).last().unwrap();
    world.command(Ue, |endpoint, now| {
        endpoint.rekey_child(now, ue, child).unwrap()
    });
    world.run(seconds(5));
    assert_eq!(children(&mut world, N3iwf).len(), 3, "half of one is there");
    world.run(seconds(40));
    assert_eq!(children(&mut world, N3iwf).len(), 2);
    assert_eq!(world.n3iwf.record.installed.len(), 2, "traffic goes on");
    let lost = world.n3iwf.record.fates.values();
    assert_eq!(lost.filter(|fate| **fate == ike::Fate::Lost).count(), 1);
}

/// A UE and an N3IWF whose IKE SA has two additional key exchanges.
fn attach_followed(seed: u64, mode: Mode) -> (World, SaId, SaId) {
    let suite = setup::additional(&[KeMethod::MlKem768, KeMethod::Ecp256]);
    let mut accept = setup::accepting(&[mode], Prefer);
    accept.responder.as_mut().unwrap().ike_suites = vec![suite];
    accept.lifetimes.from_peer = true;
    let mut ue = setup::ue_endpoint();
    ue.lifetimes.from_peer = true;
    let mut world = World::new(seed, ue, accept);
    let config = InitiatorConfig {
        ike_suites: vec![suite],
        ..setup::native()
    };
    let (ue, n3iwf) = world.attach_with(config, &offer(mode));
    (world, ue, n3iwf)
}

fn ike_spis(world: &mut World) -> (u64, u64) {
    let [here, there] = [Ue, N3iwf].map(|side| {
        let sa = world.established(side).remove(0);
        (sa.spi_i, sa.spi_r, sa.suite, sa.key_ids)
    });
    assert_eq!(here, there);
    (here.0, here.1)
}

/// The IKE SA of both ends protects what is said on it.
fn still_works(world: &mut World, n3iwf: SaId) {
    let before = world.ue.record.installed.len();
    world.command(N3iwf, |endpoint, now| {
        let child = setup::user_child(9);
        endpoint.create_child(now, n3iwf, child).unwrap()
    });
    world.run(seconds(2));
    assert_eq!(world.ue.record.installed.len(), before + 1);
    world.check_keys();
}

#[test]
fn a_rekey_of_the_ike_sa_has_every_key_exchange_again() {
    for (seed, mode) in (1520..).zip([Psk, Hybrid]) {
        for side in [Ue, N3iwf] {
            let (mut world, ue, n3iwf) = attach_followed(seed, mode);
            let old = ike_spis(&mut world);
            let keys = world.established(Ue)[0].key_ids.clone();
            let sa = if side == Ue { ue } else { n3iwf };
            for number in 1..=3 {
                world.command(side, |endpoint, now| endpoint.rekey_ike(now, sa).unwrap());
                world.run(seconds(2));
                assert_eq!(world.ue.record.ike_rekeys, number);
                let followed = requests(&world, side, ExchangeType::IkeFollowupKe);
                assert_eq!(followed, 2 * number, "{mode}, {side:?}");
            }
            assert_ne!(ike_spis(&mut world), old);
            let fresh = world.established(Ue)[0].key_ids.clone();
            assert_eq!(fresh.len(), usize::from(mode == Hybrid));
            assert!(fresh.iter().all(|id| !keys.contains(id)));
            still_works(&mut world, n3iwf);
        }
    }
}

#[test]
fn two_rekeys_of_the_ike_sa_at_once_leave_one() {
    let mut initiators = HashSet::new();
    for seed in 0..40 {
        let mode = if seed % 2 == 0 { Psk } else { Hybrid };
        let (mut world, ue, n3iwf) = attach_followed(1530 + seed, mode);
        let old = ike_spis(&mut world);
        world.faults.jitter = Duration::from_millis(20 * (seed % 5));
        world.command(Ue, |endpoint, now| endpoint.rekey_ike(now, ue).unwrap());
        world.command(N3iwf, |endpoint, now| {
            endpoint.rekey_ike(now, n3iwf).unwrap();
        });
        world.run(seconds(20));
        assert_ne!(ike_spis(&mut world), old, "{seed}");
        initiators.insert(world.established(Ue)[0].initiator);
        world.faults.jitter = Duration::ZERO;
        still_works(&mut world, n3iwf);
    }
    assert_eq!(initiators.len(), 2, "each side wins at times");
}

#[test]
fn a_rekey_of_the_ike_sa_that_is_not_gone_on_with_changes_nothing() {
    for (seed, mode) in (1580..).zip([Psk, Hybrid]) {
        let (mut world, ue, n3iwf) = attach_followed(seed, mode);
        let old = ike_spis(&mut world);
        world.tap = Some(Box::new(|from, data| {
            let exchange = wire::parse(data).unwrap().header.exchange;
            (from == N3iwf || exchange != ExchangeType::IkeFollowupKe).then(|| data.to_vec())
        }));
        world.command(Ue, |endpoint, now| endpoint.rekey_ike(now, ue).unwrap());
        world.run(seconds(40));
        assert_eq!(world.n3iwf.record.ike_rekeys, 0);
        // What the UE repeats is of something that the N3IWF has given up.
        world.tap = None;
        world.run(seconds(40));
        let refused = ChildFailure::Refused(NotifyType::STATE_NOT_FOUND);
        assert_eq!(world.ue.record.ike_rekeys_failed, [refused], "{mode}");
        assert_eq!(ike_spis(&mut world), old);
        let lost = world.n3iwf.record.fates.values();
        let lost = lost.filter(|fate| **fate == ike::Fate::Lost).count();
        assert_eq!(lost, usize::from(mode == Hybrid));
        still_works(&mut world, n3iwf);
    }
}

#[test]
fn hybrid_with_chains_of_certificates_passes_576_octets() {
    let small = ike::Fragmentation {
        datagram: Some(576),
        ..ike::Fragmentation::default()
    };
    let (pem, key) = certificates::KEYS[certificates::RSA];
    let mut accept = setup::hybrid_endpoint();
    accept.acceptance.credential = Some(setup::credential(pem, key));
    accept.fragmentation = small;
    let mut ue = setup::ue_endpoint();
    ue.fragmentation = small;
    let mut world = World::new(1590, ue, accept);
    let wanted = Offer {
        trust: Some(setup::trust()),
        ..offer(Hybrid)
    };
    world.attach_with(setup::hybrid_config(), &wanted);
    assert_eq!(world.established(Ue)[0].mode, Hybrid);
    assert!(world.sent.iter().all(|sent| sent.data.len() + 28 <= 576));
    let several = |exchange| {
        let fragments = world.sent.iter().filter(|sent| {
            let parsed = wire::parse(&sent.data).unwrap();
            sent.from == N3iwf && parsed.header.exchange == exchange && parsed.header.message_id < 4
        });
        fragments.count() > 3
    };
    assert!(several(ExchangeType::IkeIntermediate), "ML-KEM");
    assert!(several(ExchangeType::IkeAuth), "the chain");
    world.check_keys();
}
