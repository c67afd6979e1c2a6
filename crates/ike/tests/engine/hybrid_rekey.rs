//! Rekeys in mode `hybrid`: each with a fresh PPK, named and proven as RFC 9867 has it, or in QKD_KEY_IDS to a peer that
//! has PPKs in IKE_AUTH only.

use std::sync::{Arc, Mutex};

use ike::{
    ChildFailure, Fate, KeyLog, KeyPurpose, PpkUse, QkdFailure,
    QkdPolicy::Prefer,
    crypto::{
        IkeSuite, KeMethod, Protector, keymat,
        ppk::{self, PpkId, PpkOffer},
    },
    wire::{self, ExchangeType, Notify, NotifyType, Payload, find_notify},
};
use keys::Secret;
use rand_core::SeedableRng;

use crate::{
    hybrid::{MODES, Stages, config, n3iwf, offering, plain, seconds, ue},
    rng::TestRng,
    setup,
    world::{
        Side::{self, N3iwf, Ue},
        World,
    },
};

/// An established pair with one user-plane Child SA.
fn pair(seed: u64, place: PpkUse, suite: IkeSuite) -> (World, Arc<Stages>) {
    let stages = Arc::new(Stages::default());
    let mut here = ue();
    here.key_log = Some(Arc::clone(&stages) as Arc<dyn KeyLog>);
    let mut world = World::new(seed, here, n3iwf(&MODES, Prefer, place, suite));
    let (_, sa) = world.attach_with(config(suite), &offering(&MODES, Prefer, place));
    world.command(N3iwf, |endpoint, now| {
        endpoint
            .create_child(now, sa, setup::user_child(1))
            .unwrap()
    });
    world.run(seconds(1));
    assert_eq!(world.ue.record.installed.len(), 2);
    assert_eq!(world.kme.allocations, 1, "a further Child SA costs no key");
    (world, stages)
}

/// Every key of both sides, for what it was used.
fn spent(world: &mut World, side: Side) -> usize {
    let record = &world.node(side).record;
    assert_eq!(record.provided, record.fates.len());
    for fate in record.fates.values() {
        let Fate::Used { purpose, .. } = fate else {
            panic!("a key is lost");
        };
        assert_eq!(*purpose, KeyPurpose::Ppk);
    }
    record.fates.len()
}

#[test]
fn a_child_sa_is_rekeyed_with_a_fresh_key_from_either_side() {
    for (seed, side, place) in [
        (1200, Ue, PpkUse::Either),
        (1201, N3iwf, PpkUse::Either),
        (1202, Ue, PpkUse::Auth),
        (1203, N3iwf, PpkUse::Auth),
    ] {
        let (mut world, _) = pair(seed, place, plain());
        for child in world.established(side)[0].children.clone() {
            let sa = world.established(side)[0].id;
            world.command(side, |endpoint, now| {
                endpoint.rekey_child(now, sa, child.id).unwrap()
            });
            world.run(seconds(1));
        }
        for end in [Ue, N3iwf] {
            assert_eq!(world.node(end).record.switched.len(), 2, "{side:?}");
            assert_eq!(spent(&mut world, end), 3);
            let children = world.established(end)[0].children.clone();
            assert_eq!(children.len(), 2);
            assert!(children.iter().all(|child| child.key_ids.len() == 1));
        }
        world.check_keys();
    }
}

#[test]
fn the_ike_sa_is_rekeyed_with_a_fresh_key_from_either_side() {
    let suite = setup::additional(&[KeMethod::MlKem768]);
    for (seed, side, suite) in [
        (1204, Ue, plain()),
        (1205, N3iwf, plain()),
        (1206, Ue, suite),
        (1207, N3iwf, suite),
    ] {
        let (mut world, _) = pair(seed, PpkUse::Either, suite);
        let first = world.established(Ue)[0].key_ids.clone();
        for _ in 0..2 {
            let sa = world.established(side)[0].id;
            world.command(side, |endpoint, now| endpoint.rekey_ike(now, sa).unwrap());
            world.run(seconds(1));
        }
        for end in [Ue, N3iwf] {
            assert_eq!(world.node(end).record.ike_rekeys, 2);
            assert_eq!(spent(&mut world, end), 3);
            assert_ne!(world.established(end)[0].key_ids, first);
        }
        // The new SK_d is one and the same.
        let sa = world.established(N3iwf)[0].id;
        world.command(N3iwf, |endpoint, now| {
            endpoint
                .create_child(now, sa, setup::user_child(2))
                .unwrap()
        });
        world.run(seconds(1));
        assert_eq!(world.ue.record.installed.len(), 3);
        world.check_keys();
    }
}

#[test]
fn without_a_key_a_rekey_fails_and_everything_goes_on() {
    for (seed, side, master) in [
        (1208, Ue, true),
        (1209, Ue, false),
        (1210, N3iwf, true),
        (1211, N3iwf, false),
    ] {
        let (mut world, _) = pair(seed, PpkUse::Either, plain());
        let failure = Some(QkdFailure::NoKeys);
        match master {
            true => world.kme.faults.master = failure,
            false => world.kme.faults.slave = failure,
        }
        let status = world.established(side).remove(0);
        let child = status.children[1].id;
        world.command(side, |endpoint, now| {
            endpoint.rekey_child(now, status.id, child).unwrap()
        });
        world.run(seconds(3));
        world.command(side, |endpoint, now| {
            endpoint.rekey_ike(now, status.id).unwrap();
        });
        world.run(seconds(3));
        let record = &world.node(side).record;
        assert_eq!(record.rekeys_failed.len(), 1, "{side:?}");
        assert_eq!(record.ike_rekeys_failed.len(), 1, "{side:?}");
        for end in [Ue, N3iwf] {
            assert_eq!(world.established(end).len(), 1);
            assert_eq!(world.node(end).record.installed.len(), 2);
            let record = &world.node(end).record;
            assert_eq!(record.provided, record.fates.len());
        }
        world.check_keys();
    }
}

/// The payloads of each CREATE_CHILD_SA message on the way, to be read and changed.
fn open(
    world: &mut World,
    stages: Arc<Stages>,
    mut change: impl FnMut(Side, bool, &mut Vec<Payload>) + 'static,
) {
    let mut rng = TestRng::seed_from_u64(5);
    world.tap = Some(Box::new(move |from, data| {
        let parsed = wire::parse(data).unwrap();
        let header = parsed.header;
        if header.exchange != ExchangeType::CreateChildSa {
            return Some(data.to_vec());
        }
        let stages = stages.0.lock().unwrap();
        let (_, _, suite, keys) = stages
            .iter()
            .rev()
            .find(|(spi_i, spi_r, ..)| (*spi_i, *spi_r) == (header.spi_i, header.spi_r))
            .unwrap();
        let keys = match header.flags.initiator {
            true => keys.initiator.duplicate(),
            false => keys.responder.duplicate(),
        };
        let mut protector = Protector::new(suite.encr, suite.integ, keys).unwrap();
        let mut payloads = protector.open(&parsed).unwrap();
        change(from, header.flags.response, &mut payloads);
        Some(protector.seal(&header, &payloads, &mut rng).unwrap())
    }));
}

fn rekey_child(world: &mut World, side: Side) {
    let status = world.established(side).remove(0);
    let child = status.children[1].id;
    world.command(side, |endpoint, now| {
        endpoint.rekey_child(now, status.id, child).unwrap()
    });
    world.run(seconds(3));
}

fn rekey_ike(world: &mut World, side: Side) {
    let sa = world.established(side)[0].id;
    world.command(side, |endpoint, now| endpoint.rekey_ike(now, sa).unwrap());
    world.run(seconds(3));
}

/// Neither rekey came to anything, and what there was before goes on.
fn nothing_changed(world: &mut World, rekeys: usize) {
    for side in [Ue, N3iwf] {
        assert_eq!(world.established(side).len(), 1);
        let record = &world.node(side).record;
        assert_eq!(record.installed.len(), 2);
        assert_eq!(record.ike_rekeys, 0);
        assert!(record.switched.is_empty());
        assert_eq!(record.provided, record.fates.len(), "every key has an end");
    }
    let sa = world.established(N3iwf)[0].id;
    world.command(N3iwf, |endpoint, now| {
        endpoint
            .create_child(now, sa, setup::user_child(2))
            .unwrap()
    });
    world.run(seconds(1));
    for side in [Ue, N3iwf] {
        assert_eq!(world.node(side).record.installed.len(), 3);
    }
    assert_eq!(world.kme.allocations, 1 + rekeys);
    world.check_keys();
}

/// What the messages of all CREATE_CHILD_SA say of PPKs: who sent it, whether it is a response, and the names.
type Said = Arc<Mutex<Vec<(Side, bool, Option<PpkId>, Option<PpkId>)>>>;

fn listen(world: &mut World, stages: Arc<Stages>) -> Said {
    let said = Said::default();
    let heard = Arc::clone(&said);
    open(world, stages, move |from, response, payloads| {
        let data = |kind| find_notify(payloads, kind).map(|notify| notify.data.clone());
        let offer = data(NotifyType::PPK_IDENTITY_KEY);
        let offer = offer.map(|data| PpkOffer::from_data(&data).unwrap().id);
        let taken = data(NotifyType::PPK_IDENTITY);
        let taken = taken.map(|data| PpkId::from_data(&data).unwrap());
        assert!(find_notify(payloads, NotifyType::QKD_KEY_IDS).is_none());
        heard.lock().unwrap().push((from, response, offer, taken));
    });
    said
}

#[test]
fn the_n3iwf_offers_a_ppk_and_the_ue_takes_it_by_name() {
    let suite = setup::additional(&[KeMethod::MlKem768]);
    for (seed, suite) in [(1213, plain()), (1214, suite)] {
        let (mut world, stages) = pair(seed, PpkUse::Either, suite);
        let said = listen(&mut world, stages);
        rekey_child(&mut world, N3iwf);
        rekey_ike(&mut world, N3iwf);
        rekey_child(&mut world, N3iwf);
        let said = said.lock().unwrap();
        assert_eq!(said.len(), 6);
        let mut names = Vec::new();
        for pair in said.chunks(2) {
            let [
                (N3iwf, false, Some(offer), None),
                (Ue, true, None, Some(taken)),
            ] = pair
            else {
                panic!("{pair:?}");
            };
            assert_eq!(offer, taken);
            assert!(
                offer
                    .key_id()
                    .is_some_and(|id| world.kme.made.contains_key(&id))
            );
            names.push(offer.clone());
        }
        names.dedup();
        assert_eq!(names.len(), 3, "a key of its own for each");
        assert_eq!(world.ue.record.switched.len(), 2);
        assert_eq!(world.ue.record.ike_rekeys, 1);
    }
}

/// The UE has no name to offer.
#[test]
fn the_n3iwf_names_the_ppk_when_the_ue_begins() {
    let (mut world, stages) = pair(1215, PpkUse::Either, plain());
    let said = listen(&mut world, stages);
    rekey_child(&mut world, Ue);
    rekey_ike(&mut world, Ue);
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 4);
    for pair in said.chunks(2) {
        assert!(
            matches!(
                pair,
                [(Ue, false, None, None), (N3iwf, true, Some(_), None)]
            ),
            "{pair:?}"
        );
    }
    assert_eq!(world.ue.record.switched.len(), 1);
    assert_eq!(world.ue.record.ike_rekeys, 1);
}

#[test]
fn another_key_under_the_same_name_is_noticed_before_anything_is_installed() {
    for (seed, side) in [(1216, N3iwf), (1217, Ue)] {
        let (mut world, _) = pair(seed, PpkUse::Either, plain());
        world.kme.faults.wrong_octets = Some(0);
        rekey_child(&mut world, side);
        rekey_ike(&mut world, side);
        let record = &world.node(side).record;
        assert_eq!(record.rekeys_failed.len(), 1, "{side:?}");
        assert_eq!(record.ike_rekeys_failed.len(), 1, "{side:?}");
        world.kme.faults.wrong_octets = None;
        nothing_changed(&mut world, 2);
    }
}

/// QKD_KEY_IDS has no confirmation.
#[test]
fn without_rfc_9867_another_key_shows_at_once_in_an_ike_sa() {
    let (mut world, _) = pair(1212, PpkUse::Auth, plain());
    world.kme.faults.wrong_octets = Some(0);
    let sa = world.established(N3iwf)[0].id;
    world.command(N3iwf, |endpoint, now| endpoint.rekey_ike(now, sa).unwrap());
    world.run(seconds(400));
    // Neither end can read the other on the new one, so it is given up on both.
    assert!(world.established(N3iwf).is_empty() && world.established(Ue).is_empty());
}

#[test]
fn an_answer_that_does_not_take_the_ppk_makes_no_sa() {
    for (seed, with) in [
        (1218, None),
        (1219, Some(PpkId::Fixed(b"another".to_vec()))),
    ] {
        let (mut world, stages) = pair(seed, PpkUse::Either, plain());
        open(&mut world, stages, move |from, _, payloads| {
            if from == Ue {
                payloads.retain(
                    |p| !matches!(p, Payload::Notify(n) if n.kind == NotifyType::PPK_IDENTITY),
                );
                payloads.extend(with.as_ref().map(|id| Payload::from(id.to_notify())));
            }
        });
        rekey_child(&mut world, N3iwf);
        rekey_ike(&mut world, N3iwf);
        let record = &world.n3iwf.record;
        assert_eq!(record.rekeys_failed.len(), 1);
        assert_eq!(record.ike_rekeys_failed.len(), 1);
        world.tap = None;
        // The UE had made both, and is told.
        let sa = world.established(N3iwf)[0].id;
        assert_eq!(world.n3iwf.record.installed.len(), 2);
        assert_eq!(world.ue.record.installed.len(), 2);
        world.command(N3iwf, |endpoint, now| {
            endpoint
                .create_child(now, sa, setup::user_child(2))
                .unwrap()
        });
        world.run(seconds(1));
        assert_eq!(world.ue.record.installed.len(), 3);
    }
}

#[test]
fn a_ppk_that_the_ue_offers_is_refused() {
    let (mut world, stages) = pair(1220, PpkUse::Either, plain());
    open(&mut world, stages, |from, _, payloads| {
        if from == Ue {
            let offer = PpkOffer {
                id: PpkId::Fixed(b"a key of its own".to_vec()),
                confirmation: [7; 8],
            };
            payloads.push(offer.to_notify().into());
        }
    });
    rekey_child(&mut world, Ue);
    rekey_ike(&mut world, Ue);
    world.tap = None;
    let refused = ChildFailure::Refused(NotifyType::NO_PROPOSAL_CHOSEN);
    let record = &world.ue.record;
    assert_eq!(record.rekeys_failed.len(), 1);
    assert_eq!(record.ike_rekeys_failed.len(), 1);
    assert!(record.ike_rekeys_failed.contains(&refused));
    nothing_changed(&mut world, 0);
}

#[test]
fn names_that_are_none_fail_the_rekey_alone() {
    let bad: [&[u8]; 4] = [
        b"",
        b"\x02short",
        b"\x02not the name of any key\0\0\0\0\0\0\0\0",
        &[9; 45],
    ];
    for (seed, (side, data)) in (1221..).zip(
        [N3iwf, Ue]
            .into_iter()
            .flat_map(|side| bad.map(|data| (side, data))),
    ) {
        let (mut world, stages) = pair(seed, PpkUse::Either, plain());
        open(&mut world, stages, move |from, _, payloads| {
            if from == N3iwf {
                for payload in payloads.iter_mut() {
                    if matches!(payload, Payload::Notify(n) if n.kind == NotifyType::PPK_IDENTITY_KEY)
                    {
                        *payload =
                            Notify::status(NotifyType::PPK_IDENTITY_KEY, data.to_vec()).into();
                    }
                }
            }
        });
        rekey_child(&mut world, side);
        rekey_ike(&mut world, side);
        world.tap = None;
        let record = &world.node(side).record;
        assert_eq!(record.rekeys_failed.len(), 1, "{side:?} {data:?}");
        assert_eq!(record.ike_rekeys_failed.len(), 1, "{side:?} {data:?}");
        nothing_changed(&mut world, 2);
    }
}

/// The schedule, put together from its primitives, which have vectors of their own.
#[test]
fn a_rekeyed_child_sa_is_keyed_from_the_ppk_and_sk_d() {
    let suite = plain();
    let (mut world, stages) = pair(1229, PpkUse::Either, suite);
    let nonces = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&nonces);
    open(&mut world, Arc::clone(&stages), move |_, _, payloads| {
        heard
            .lock()
            .unwrap()
            .extend(payloads.iter().find_map(|payload| match payload {
                Payload::Nonce(nonce) => Some(nonce.clone()),
                _ => None,
            }));
    });
    rekey_child(&mut world, N3iwf);
    let status = world.established(Ue).remove(0);
    let child = status.children.last().unwrap();
    let key = Secret::from_slice(&world.kme.made[&child.key_ids[0]]);
    let nonces = nonces.lock().unwrap();
    let [ni, nr] = nonces.as_slice() else {
        panic!("one exchange");
    };
    let stages = stages.0.lock().unwrap();
    let (_, _, _, keys) = stages.last().unwrap();
    let sk_d = ppk::mix(suite.prf, &key, &keys.sk_d).unwrap();
    let made = keymat::child_keys(suite.prf, &setup::GCM_ESP, &sk_d, &[], ni, nr).unwrap();
    let installed = &world.ue.record.installed[&child.id];
    // The N3IWF began.
    assert_eq!(installed.key_in, made.first.encr.expose());
    assert_eq!(installed.key_out, made.second.encr.expose());
}
