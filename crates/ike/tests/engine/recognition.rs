//! Admission tags and buckets: known UEs attach while strangers spend nothing.

use std::time::Duration;

use ike::{
    Admission, Bucket, CookiePolicy, EndpointConfig,
    crypto::{Prf, admission::AdmissionKey},
    wire::{
        self, Body, Header, NotifyType, Payload, find_notify,
        qkd::{QkdAdmission, QkdKeyIds, QkdKeysMissing},
    },
};

use keys::{KeyId, Secret};

use crate::{
    setup,
    world::{
        Side::{N3iwf, Ue},
        World,
    },
};

/// One attach of an SAE without a cookie, one more with it, and then none for a long time.
const TIGHT: Bucket = Bucket {
    per_minute: 1,
    burst: 1,
    hard: 1,
};

fn guarded(cookies: CookiePolicy, admission: Admission) -> EndpointConfig {
    let mut config = setup::n3iwf_endpoint();
    config.admission = admission;
    config.responder.as_mut().unwrap().cookies = cookies;
    config
}

fn world(seed: u64, cookies: CookiePolicy, bucket: Option<Bucket>) -> World {
    let admission = Admission {
        bucket,
        ..Admission::default()
    };
    World::new(seed, setup::ue_endpoint(), guarded(cookies, admission))
}

fn clear(data: &[u8]) -> (Header, Vec<Payload>) {
    let parsed = wire::parse(data).unwrap();
    match parsed.body {
        Body::Clear(payloads) => (parsed.header, payloads),
        Body::Encrypted { .. } => panic!("not in clear"),
    }
}

/// An IKE_SA_INIT request of somebody who claims to be `sae` and has no tag.
fn stranger(seed: u64, sae: &str) -> Vec<u8> {
    let mut world = World::native(seed);
    let mut config = setup::native();
    config.sae_id = sae.parse().unwrap();
    world.initiate(config);
    world.sent[0].data.clone()
}

/// What the N3IWF answers at once: the kind and data of the one notify; `None`, if it asks the KMS.
fn answer(world: &mut World, request: &[u8]) -> Option<(NotifyType, Vec<u8>)> {
    let (before, needed) = (world.sent.len(), world.n3iwf.record.keys_needed);
    world.muted.insert(N3iwf);
    world.inject(N3iwf, request.to_vec());
    world.run(Duration::from_millis(1));
    world.muted.remove(&N3iwf);
    if world.n3iwf.record.keys_needed > needed {
        assert_eq!(world.n3iwf.record.keys_needed, needed + 1);
        return None;
    }
    let (_, payloads) = clear(&world.sent[before].data);
    match payloads.as_slice() {
        [Payload::Notify(notify)] => Some((notify.kind, notify.data.clone())),
        other => panic!("{other:?}"),
    }
}

/// The same request with the cookie it was answered with.
fn returning(request: &[u8], cookie: Vec<u8>) -> Vec<u8> {
    let (header, mut payloads) = clear(request);
    let cookie = wire::Notify::status(NotifyType::COOKIE, cookie);
    payloads.insert(0, cookie.into());
    wire::encode(&header, &payloads).unwrap()
}

/// Attaches and leaves, so that the UE is known.
fn become_known(world: &mut World) {
    let (ue, _) = world.attach(setup::native());
    world.command(Ue, |endpoint, now| endpoint.close(now, ue));
    world.run(Duration::from_secs(1));
    assert!(world.sas(N3iwf).is_empty());
    assert_eq!(world.n3iwf.endpoint.recognised().0, 1);
}

/// The IKE_SA_INIT request of a UE that is known, which nobody has seen yet.
fn tagged(world: &mut World) -> Vec<u8> {
    world.muted.insert(Ue);
    let sa = world.initiate(setup::native());
    let request = world.sent.last().unwrap().data.clone();
    // Whoever sends it has it from the UE, which goes no further.
    world.command(Ue, |endpoint, now| endpoint.close(now, sa));
    world.muted.remove(&Ue);
    assert!(tag_of(&request).is_some());
    request
}

fn tag_of(request: &[u8]) -> Option<QkdAdmission> {
    let (_, payloads) = clear(request);
    find_notify(&payloads, NotifyType::QKD_ADMISSION)
        .map(|notify| QkdAdmission::from_data(&notify.data).unwrap())
}

fn is_cookie(answer: Option<(NotifyType, Vec<u8>)>) -> bool {
    answer.is_some_and(|(kind, _)| kind == NotifyType::COOKIE)
}

#[test]
fn a_bucket_asks_for_cookies_and_then_refuses() {
    let mut world = world(900, CookiePolicy::Never, Some(TIGHT));
    let ask = |world: &mut World, seed| answer(world, &stranger(seed, "sae-ue-1"));
    assert_eq!(ask(&mut world, 1), None, "the first costs nothing");
    let second = stranger(2, "sae-ue-1");
    let (kind, cookie) = answer(&mut world, &second).unwrap();
    assert_eq!(kind, NotifyType::COOKIE);
    assert_eq!(answer(&mut world, &returning(&second, cookie)), None);
    let third = stranger(3, "sae-ue-1");
    let (kind, cookie) = answer(&mut world, &third).unwrap();
    assert_eq!(kind, NotifyType::COOKIE);
    let refusal = answer(&mut world, &returning(&third, cookie));
    assert_eq!(refusal, Some((NotifyType::QKD_UNAVAILABLE, vec![3])));
    assert_eq!(world.n3iwf.record.keys_needed, 2);
    let counters = *world.n3iwf.endpoint.counters();
    assert_eq!((counters.bucket_cookies, counters.quota_refused), (2, 1));
    // Others have buckets of their own, and a token comes back each minute.
    assert_eq!(answer(&mut world, &stranger(4, "sae-ue-2")), None);
    world.run(Duration::from_secs(121));
    assert_eq!(ask(&mut world, 5), None);
}

#[test]
fn a_mode_without_qkd_keys_has_no_bucket() {
    let mut config = setup::accepting(&[ike::Mode::Psk], ike::QkdPolicy::Forbid);
    config.admission.bucket = Some(Bucket {
        per_minute: 1,
        burst: 0,
        hard: 0,
    });
    let mut world = World::new(901, setup::ue_endpoint(), config);
    let offer = setup::offering(&[ike::Mode::Psk], ike::QkdPolicy::Forbid);
    world.attach_with(setup::choosy(), &offer);
    assert_eq!(world.n3iwf.endpoint.counters().cookies_sent, 0);
}

#[test]
fn a_known_ue_attaches_in_a_flood_that_costs_no_key() {
    let mut world = world(902, CookiePolicy::Always, Some(TIGHT));
    become_known(&mut world);
    let first = clear(&world.sent[0].data).1.len();
    // Somebody claims its SAE ID until the bucket is spent.
    let claimed = stranger(1, "sae-ue-1");
    let (_, cookie) = answer(&mut world, &claimed).unwrap();
    assert_eq!(answer(&mut world, &returning(&claimed, cookie)), None);
    let before = world.n3iwf.record.keys_needed;
    for seed in 1000..1300 {
        let path = ike::Path {
            local: (setup::N3IWF, 500).into(),
            remote: ([203, 0, 113, (seed % 250) as u8], 500).into(),
        };
        world.inject_on(N3iwf, path, stranger(seed, "sae-ue-1"));
    }
    world.run(Duration::from_millis(1));
    let claimed = stranger(2, "sae-ue-1");
    let (_, cookie) = answer(&mut world, &claimed).unwrap();
    let refusal = answer(&mut world, &returning(&claimed, cookie));
    assert_eq!(refusal, Some((NotifyType::QKD_UNAVAILABLE, vec![3])));
    world.run(Duration::from_millis(100));
    assert_eq!(world.n3iwf.record.keys_needed, before, "keys of the flood");
    let sent = world.sent.len();
    world.attach(setup::native());
    assert_eq!(world.n3iwf.record.keys_needed, before + 1);
    let own: Vec<_> = world.sent[sent..].iter().filter(|s| s.from == Ue).collect();
    let (_, payloads) = clear(&own[0].data);
    assert_eq!(payloads.len(), first + 1, "the tag, and nothing else");
    assert!(
        wire::parse(&own[1].data).is_ok_and(|next| matches!(next.body, Body::Encrypted { .. })),
        "no round trip for a cookie"
    );
    assert_eq!(world.n3iwf.endpoint.counters().tags_accepted, 1);
}

#[test]
fn the_first_request_has_no_tag_and_the_next_is_32_octets_longer() {
    let mut world = World::native(903);
    become_known(&mut world);
    let first = world.sent[0].data.clone();
    assert!(tag_of(&first).is_none());
    let next = tagged(&mut world);
    assert_eq!(next.len(), first.len() + 32);
    assert!(next.ends_with(&tag_of(&next).unwrap().tag));
}

#[test]
fn a_forged_or_moved_tag_is_none() {
    let mut world = world(904, CookiePolicy::Always, None);
    become_known(&mut world);
    let good = tagged(&mut world);
    let len = good.len();
    // In the tag, in the tag ID, and in the initiator's SPI.
    for at in [len - 1, len - 16, len - 17, len - 24, 3] {
        let mut forged = good.clone();
        forged[at] ^= 0x10;
        assert!(is_cookie(answer(&mut world, &forged)), "octet {at}");
    }
    let (header, mut payloads) = clear(&good);
    payloads.rotate_right(1);
    let moved = wire::encode(&header, &payloads).unwrap();
    assert!(
        is_cookie(answer(&mut world, &moved)),
        "not the last payload"
    );
    assert_eq!(world.n3iwf.endpoint.counters().tags_ignored, 5);
    assert_eq!(answer(&mut world, &good), None, "and the good one is good");
}

#[test]
fn a_replayed_tag_is_none() {
    let mut world = world(905, CookiePolicy::Always, None);
    become_known(&mut world);
    let good = tagged(&mut world);
    assert_eq!(answer(&mut world, &good), None);
    let needed = world.n3iwf.record.keys_needed;
    world.inject(N3iwf, good.clone());
    world.run(Duration::from_secs(1));
    assert_eq!(world.n3iwf.record.keys_needed, needed, "a retransmission");
    // When its IKE SA, never finished, is forgotten.
    world.run(Duration::from_secs(120));
    assert_eq!(world.n3iwf.endpoint.half_open(), 0);
    assert!(is_cookie(answer(&mut world, &good)), "a replay");
    assert_eq!(world.n3iwf.endpoint.counters().tags_ignored, 1);
}

#[test]
fn a_tag_of_another_sae_is_none() {
    let mut world = world(906, CookiePolicy::Always, None);
    become_known(&mut world);
    let id = tag_of(&tagged(&mut world)).unwrap().tag_id;
    let key = world
        .kme
        .made
        .values()
        .map(|octets| AdmissionKey::derive(Prf::HmacSha2_256, &Secret::from_slice(octets)).unwrap())
        .find(|key| key.id() == id)
        .expect("K_auth is one of the keys");
    let sign = |request: &[u8]| {
        let (header, mut payloads) = clear(request);
        let unsigned = QkdAdmission {
            tag_id: id,
            tag: [0; 16],
        };
        payloads.push(unsigned.to_notify().into());
        let mut request = wire::encode(&header, &payloads).unwrap();
        key.sign(&mut request);
        request
    };
    let other = sign(&stranger(1, "sae-ue-2"));
    assert!(is_cookie(answer(&mut world, &other)));
    let own = sign(&stranger(2, "sae-ue-1"));
    assert_eq!(answer(&mut world, &own), None);
}

#[test]
fn an_expired_tag_costs_the_ue_a_cookie_and_no_more() {
    let admission = Admission {
        tags: Some(Duration::from_secs(60)),
        ..Admission::default()
    };
    let config = guarded(CookiePolicy::Always, admission);
    let mut world = World::new(907, setup::ue_endpoint(), config);
    become_known(&mut world);
    world.run(Duration::from_secs(60));
    let late = tagged(&mut world);
    assert!(is_cookie(answer(&mut world, &late)));
    world.attach(setup::native());
    assert_eq!(world.n3iwf.endpoint.counters().tags_accepted, 0);
    assert_eq!(world.n3iwf.endpoint.recognised().0, 1, "the new one");
}

#[test]
fn a_known_ue_has_a_bucket_too() {
    let mut world = world(908, CookiePolicy::Never, Some(TIGHT));
    become_known(&mut world);
    assert_eq!(answer_of_next(&mut world), None);
    assert_eq!(answer_of_next(&mut world), None);
    assert!(
        is_cookie(answer_of_next(&mut world)),
        "spent, and the public bucket is low"
    );
}

fn answer_of_next(world: &mut World) -> Option<(NotifyType, Vec<u8>)> {
    let request = tagged(world);
    answer(world, &request)
}

#[test]
fn a_flood_at_the_half_open_limit_does_not_keep_a_known_ue_out() {
    let mut config = guarded(CookiePolicy::Never, Admission::default());
    config.responder.as_mut().unwrap().half_open_limit = 4;
    let mut world = World::new(909, setup::ue_endpoint(), config);
    become_known(&mut world);
    for seed in 0..10 {
        world.inject(N3iwf, stranger(2000 + seed, "sae-ue-2"));
    }
    world.run(Duration::from_millis(100));
    assert_eq!(world.n3iwf.endpoint.half_open(), 4);
    world.attach(setup::native());
    assert_eq!(world.n3iwf.endpoint.counters().half_open_refused, 6);
}

#[test]
fn without_tags_nothing_is_kept() {
    let admission = Admission {
        tags: None,
        ..Admission::default()
    };
    let mut ue = setup::ue_endpoint();
    ue.admission = admission;
    let config = guarded(CookiePolicy::Never, admission);
    let mut world = World::new(910, ue, config);
    world.attach(setup::native());
    assert_eq!(world.n3iwf.endpoint.recognised(), (0, 0));
    world.initiate(setup::native());
    assert!(tag_of(&world.sent.last().unwrap().data).is_none());
}

/// The key IDs that an IKE_SA_INIT response names.
fn named(data: &[u8]) -> Vec<KeyId> {
    let (_, payloads) = clear(data);
    let notify = find_notify(&payloads, NotifyType::QKD_KEY_IDS).unwrap();
    QkdKeyIds::from_data(&notify.data).unwrap().ids
}

#[test]
fn a_known_ue_tells_which_keys_its_kms_does_not_have() {
    let mut world = world(940, CookiePolicy::Never, None);
    become_known(&mut world);
    world.kme.faults.missing = Some(0);
    let before = world.sent.len();
    let ue = world.initiate(setup::native());
    let begun = world.now;
    while world.reason(Ue, ue).is_none() {
        world.run(Duration::from_millis(100));
    }
    // A forged answer may have named them: a good one had some time, and not the five seconds of other errors.
    let waited = world.now.duration_since(begun);
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    assert!(waited < Duration::from_secs(6), "{waited:?}");
    let answer = world.sent[before..].iter().find(|sent| sent.from == N3iwf);
    let ids = named(&answer.unwrap().data);
    assert_eq!(world.n3iwf.record.keys_missing, []);
    world.kme.faults.missing = None;
    world.attach(setup::native());
    let told = &world.n3iwf.record.keys_missing;
    assert_eq!(*told, [(setup::native().sae_id, ids[0])]);
    // Once is enough: an attach has succeeded since.
    become_known_again(&mut world);
    assert_eq!(world.n3iwf.record.keys_missing.len(), 1);
}

fn become_known_again(world: &mut World) {
    for sa in world.sas(Ue) {
        world.command(Ue, |endpoint, now| endpoint.close(now, sa.id));
    }
    world.run(Duration::from_secs(1));
    world.attach(setup::native());
}

#[test]
fn nobody_but_a_known_ue_says_that_keys_are_missing() {
    let mut world = world(941, CookiePolicy::Never, None);
    become_known(&mut world);
    let missing = QkdKeysMissing(KeyId::from_octets([9; 16])).to_notify();
    // Of a stranger, and put into a request of the UE.
    for request in [stranger(8, "sae-ue-1"), tagged(&mut world)] {
        let (header, mut payloads) = clear(&request);
        payloads.insert(payloads.len() - 1, missing.clone().into());
        let forged = wire::encode(&header, &payloads).unwrap();
        assert_eq!(
            answer(&mut world, &forged),
            None,
            "it is a request all the same"
        );
    }
    assert_eq!(world.n3iwf.record.keys_missing, []);
}

#[test]
fn layouts_are_held_to_where_both_ends_speak_of_qkd() {
    let mut world = world(942, CookiePolicy::Never, None);
    become_known(&mut world);
    let syntax = Some((NotifyType::INVALID_SYNTAX, Vec::new()));
    for kind in [NotifyType::QKD_ADMISSION, NotifyType::QKD_KEYS_MISSING] {
        for length in [0, 15, 17, 23, 25] {
            let (header, mut payloads) = clear(&stranger(9, "sae-ue-1"));
            let notify = wire::Notify::status(kind, vec![7; length]);
            payloads.push(notify.into());
            let request = wire::encode(&header, &payloads).unwrap();
            assert_eq!(answer(&mut world, &request), syntax, "{kind:?}, {length}");
            // Without QKD_SUPPORTED the number means nothing, and without it there is no proposal here.
            payloads.retain(|payload| {
                !matches!(payload, Payload::Notify(n) if n.kind == NotifyType::QKD_SUPPORTED)
            });
            let request = wire::encode(&header, &payloads).unwrap();
            let refused = answer(&mut world, &request).unwrap().0;
            assert_ne!(refused, NotifyType::INVALID_SYNTAX, "{kind:?}, {length}");
        }
    }
}
