//! Cookies, half-open SAs, refusals in IKE_SA_INIT: what a stranger can cost.

use std::time::Duration;

use ike::{
    CloseReason, CookiePolicy, EndpointConfig, Fate, Profile, QkdFailure, ResponderConfig,
    wire::{self, Body, Header, NotifyType, Payload, PayloadType, find_notify},
};

use crate::{
    setup,
    world::{
        Side::{N3iwf, Ue},
        World,
    },
};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn with(change: impl FnOnce(&mut ResponderConfig)) -> EndpointConfig {
    let mut config = setup::n3iwf_endpoint();
    change(config.responder.as_mut().unwrap());
    config
}

fn world(seed: u64, change: impl FnOnce(&mut ResponderConfig)) -> World {
    World::new(seed, setup::ue_endpoint(), with(change))
}

fn clear(data: &[u8]) -> (Header, Vec<Payload>) {
    let parsed = wire::parse(data).unwrap();
    match parsed.body {
        Body::Clear(payloads) => (parsed.header, payloads),
        Body::Encrypted { .. } => panic!("not in clear"),
    }
}

/// An IKE_SA_INIT request of a UE that never goes on.
fn request(seed: u64) -> Vec<u8> {
    let mut world = World::native(seed);
    world.initiate(setup::native());
    world.sent[0].data.clone()
}

#[test]
fn a_cookie_comes_back_first_and_nothing_else_changes() {
    let mut world = world(20, |config| config.cookies = CookiePolicy::Always);
    world.attach(setup::native());
    let (first, plain) = clear(&world.sent[0].data);
    let (answer, cookie) = clear(&world.sent[1].data);
    assert_eq!(answer.spi_r, 0);
    assert_eq!(cookie.len(), 1);
    assert!(find_notify(&cookie, NotifyType::COOKIE).is_some());
    let (second, again) = clear(&world.sent[2].data);
    assert_eq!(first, second, "same SPI, same Message ID");
    assert_eq!(again[0], cookie[0]);
    assert_eq!(again[1..], plain);
    assert_eq!(world.kme.allocations, 1, "no key before the cookie is back");
    let counters = world.n3iwf.endpoint.counters();
    assert_eq!((counters.cookies_sent, counters.cookies_accepted), (1, 1));
}

#[test]
fn without_a_cookie_there_is_neither_state_nor_key() {
    let mut world = world(21, |config| config.cookies = CookiePolicy::Always);
    for seed in 100..150 {
        world.inject(N3iwf, request(seed));
    }
    world.run(seconds(1));
    assert_eq!(world.sas(N3iwf).len(), 0);
    assert_eq!(world.n3iwf.record.keys_needed, 0);
    assert_eq!(world.n3iwf.endpoint.poll_timeout(), None);
    assert_eq!(world.sent.len(), 50, "one cookie for each");
    assert_eq!(world.n3iwf.endpoint.counters().cookies_sent, 50);
}

#[test]
fn a_cookie_is_bound_to_its_sender_and_does_not_last() {
    let mut world = world(22, |config| config.cookies = CookiePolicy::Always);
    world.initiate(setup::native());
    world.run(Duration::from_millis(25));
    let returned = world.sent[2].data.clone();
    world.run(seconds(1));
    let sas = world.sas(N3iwf).len();
    let mut stolen = world.sent[2].data.clone();
    // Another SPI: the cookie is not for it.
    stolen[0] ^= 1;
    world.inject(N3iwf, stolen);
    world.run(Duration::from_millis(1));
    assert_eq!(world.sas(N3iwf).len(), sas);
    let path = ike::Path {
        local: (setup::N3IWF, 500).into(),
        remote: ([203, 0, 113, 9], 500).into(),
    };
    let mut moved = returned.clone();
    // Not the same request bit for bit, or it would be taken for a retransmission.
    let last = moved.len() - 1;
    moved[last] ^= 1;
    world.inject_on(N3iwf, path, moved.clone());
    world.run(Duration::from_millis(1));
    assert_eq!(world.sas(N3iwf).len(), sas, "another address");
    world.run(seconds(200));
    let needed = world.n3iwf.record.keys_needed;
    world.inject(N3iwf, moved);
    world.run(Duration::from_millis(1));
    assert_eq!(world.n3iwf.record.keys_needed, needed, "too old");
}

#[test]
fn cookies_are_asked_for_from_the_threshold_on() {
    let mut world = world(23, |config| config.cookies = CookiePolicy::Above(3));
    for seed in 200..206 {
        world.inject(N3iwf, request(seed));
    }
    world.run(seconds(1));
    assert_eq!(world.n3iwf.endpoint.half_open(), 3);
    assert_eq!(world.n3iwf.record.keys_needed, 3);
    world.attach(setup::native());
    assert_eq!(
        world.established(Ue).len(),
        1,
        "who returns the cookie is served"
    );
}

#[test]
fn endless_cookies_are_given_up() {
    let mut world = World::native(24);
    let ue = world.initiate(setup::native());
    let (header, _) = clear(&world.sent[0].data);
    world.muted.insert(N3iwf);
    for n in 0..20u8 {
        let answer = Header {
            flags: wire::Flags {
                initiator: false,
                response: true,
            },
            ..header
        };
        let cookie = wire::Notify::status(NotifyType::COOKIE, vec![n; 8]);
        let data = wire::encode(&answer, &[cookie.into()]).unwrap();
        world.inject(Ue, data);
        world.run(Duration::from_millis(1));
    }
    assert_eq!(world.sent.iter().filter(|sent| sent.from == Ue).count(), 5);
    world.run(seconds(10));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::TooManyRounds));
}

#[test]
fn half_open_sas_are_limited_and_expire_with_their_keys_lost() {
    let mut world = world(25, |config| config.half_open_limit = 4);
    for seed in 300..320 {
        world.inject(N3iwf, request(seed));
    }
    world.run(seconds(1));
    assert_eq!(world.n3iwf.endpoint.half_open(), 4);
    assert_eq!(world.n3iwf.record.provided, 28);
    world.run(seconds(28));
    assert_eq!(world.n3iwf.endpoint.half_open(), 4);
    world.run(seconds(2));
    assert_eq!(world.n3iwf.endpoint.half_open(), 0);
    let record = &world.n3iwf.record;
    assert_eq!(record.closed.len(), 4);
    assert!(
        record
            .closed
            .iter()
            .all(|(_, reason)| *reason == CloseReason::HalfOpenExpired)
    );
    assert_eq!(record.fates.len(), 28);
    assert!(record.fates.values().all(|fate| *fate == Fate::Lost));
    world.attach(setup::native());
}

#[test]
fn keys_that_come_too_late_are_lost() {
    let mut world = World::native(26);
    world.behaviour.slowness = seconds(100);
    world.inject(N3iwf, request(400));
    world.run(seconds(200));
    let record = &world.n3iwf.record;
    assert_eq!(record.closed.len(), 1);
    assert_eq!(record.fates.len(), record.provided);
    assert!(record.fates.values().all(|fate| *fate == Fate::Lost));
    assert!(world.kme.allocations == 1);
}

#[test]
fn a_refusal_in_clear_is_a_hint_with_a_grace() {
    let mut world = world(27, |config| config.profiles = vec![Profile::Paper]);
    let ue = world.initiate(setup::native());
    world.run(seconds(4));
    assert_eq!(world.reason(Ue, ue), None, "not at once");
    assert_eq!(world.sas(N3iwf).len(), 0);
    world.run(seconds(2));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::NoProposalChosen));
}

#[test]
fn a_forged_refusal_does_not_stop_an_attach() {
    let mut world = World::native(28);
    let ue = world.initiate(setup::native());
    let (header, _) = clear(&world.sent[0].data);
    for kind in [
        NotifyType::NO_PROPOSAL_CHOSEN,
        NotifyType::INVALID_SYNTAX,
        NotifyType::QKD_UNAVAILABLE,
        NotifyType::INVALID_MAJOR_VERSION,
        NotifyType::AUTHENTICATION_FAILED,
    ] {
        let answer = Header {
            flags: wire::Flags {
                initiator: false,
                response: true,
            },
            ..header
        };
        let notify = wire::Notify::status(kind, vec![1]);
        let data = wire::encode(&answer, &[notify.into()]).unwrap();
        world.inject(Ue, data);
    }
    world.run(seconds(10));
    assert!(world.ue.record.established.contains(&ue));
}

#[test]
fn key_ids_nobody_knows_do_not_stop_an_attach() {
    let mut world = World::native(29);
    let ue = world.initiate(setup::native());
    world.run(Duration::from_millis(25));
    let (header, payloads) = clear(&world.sent[1].data);
    // A forger answers a second attach before the N3IWF does.
    drop((header, payloads));
    world.run(seconds(5));
    assert!(world.ue.record.established.contains(&ue));
    let second = world.initiate(setup::native());
    let request = world.sent.last().unwrap().data.clone();
    let (asked, _) = clear(&request);
    let (_, mut forged) = clear(&world.sent[1].data);
    for payload in &mut forged {
        if let Payload::Notify(notify) = payload
            && notify.kind == NotifyType::QKD_KEY_IDS
        {
            for octet in &mut notify.data[1..] {
                *octet ^= 0x55;
            }
        }
    }
    let header = Header {
        spi_r: 0x1234,
        flags: wire::Flags {
            initiator: false,
            response: true,
        },
        ..asked
    };
    world.inject(Ue, wire::encode(&header, &forged).unwrap());
    world.run(seconds(30));
    assert!(world.ue.record.established.contains(&second));
}

#[test]
fn no_keys_is_told_as_a_hint_and_costs_nothing() {
    for (failure, reason) in [
        (QkdFailure::NoKeys, 1),
        (QkdFailure::Unreachable, 2),
        (QkdFailure::Quota, 3),
        (QkdFailure::UnknownSae, 4),
    ] {
        let mut world = World::native(30);
        world.kme.faults.master = Some(failure);
        let ue = world.initiate(setup::native());
        world.run(seconds(20));
        assert_eq!(
            world.reason(Ue, ue),
            Some(CloseReason::PeerQkdUnavailable(reason))
        );
        assert_eq!(world.n3iwf.record.closed[0].1, CloseReason::Qkd(failure));
        assert_eq!(world.kme.allocations, 1, "retransmissions do not ask again");
        assert_eq!(world.sas(N3iwf).len(), 0);
        let answers: Vec<_> = world.sent.iter().filter(|s| s.from == N3iwf).collect();
        assert!(answers.len() > 1);
        assert!(answers.iter().all(|answer| answer.data == answers[0].data));
    }
}

#[test]
fn keys_missing_on_the_ue_side_end_the_attach_on_both() {
    let mut world = World::native(31);
    world.kme.faults.missing = Some(3);
    let ue = world.initiate(setup::native());
    world.run(seconds(60));
    assert_eq!(
        world.reason(Ue, ue),
        Some(CloseReason::Qkd(QkdFailure::UnknownKey))
    );
    assert_eq!(world.n3iwf.record.closed[0].1, CloseReason::HalfOpenExpired);
    assert!(
        world
            .n3iwf
            .record
            .fates
            .values()
            .all(|fate| *fate == Fate::Lost)
    );
}

#[test]
fn a_silent_daemon_of_the_ue_ends_the_attach() {
    let mut world = World::native(32);
    world.behaviour.silent_keys = Some(Ue);
    let ue = world.initiate(setup::native());
    world.run(seconds(120));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::LocalTimeout));
    assert_eq!(world.sas(N3iwf).len(), 0);
}

/// What the N3IWF answers to an IKE_SA_INIT request, as one notify type.
fn answer_to(data: Vec<u8>) -> Option<NotifyType> {
    let mut world = World::native(33);
    world.inject(N3iwf, data);
    world.run(seconds(1));
    assert_eq!(world.sas(N3iwf).len(), 0);
    let sent = world.sent.first()?;
    let (header, payloads) = clear(&sent.data);
    assert!(header.flags.response && !header.flags.initiator);
    assert_eq!(payloads.len(), 1);
    match &payloads[0] {
        Payload::Notify(notify) => Some(notify.kind),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_fault_in_ike_sa_init_has_its_notify() {
    let good = request(500);
    let (header, payloads) = clear(&good);
    let without = |kind: PayloadType| {
        let rest: Vec<_> = payloads
            .iter()
            .filter(|payload| payload.payload_type() != kind)
            .cloned()
            .collect();
        wire::encode(&header, &rest).unwrap()
    };
    assert_eq!(
        answer_to(without(PayloadType::SA)),
        Some(NotifyType::INVALID_SYNTAX)
    );
    assert_eq!(
        answer_to(without(PayloadType::NONCE)),
        Some(NotifyType::INVALID_SYNTAX)
    );
    assert_eq!(
        answer_to(without(PayloadType::NOTIFY)),
        Some(NotifyType::NO_PROPOSAL_CHOSEN),
        "no QKD_SUPPORTED, and no paper profile"
    );
    let mut version = good.clone();
    version[17] = 0x30;
    assert_eq!(answer_to(version), Some(NotifyType::INVALID_MAJOR_VERSION));
    let mut version_1 = good.clone();
    version_1[17] = 0x10;
    assert_eq!(answer_to(version_1), None, "IKEv1 is older, not newer");
    let mut critical = payloads.clone();
    critical.push(Payload::Unknown {
        payload_type: 200,
        data: vec![1, 2, 3],
    });
    let mut critical = wire::encode(&header, &critical).unwrap();
    let at = critical.len() - 6;
    critical[at] = 0x80;
    assert_eq!(
        answer_to(critical),
        Some(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD)
    );
    let mut odd = payloads.clone();
    for payload in &mut odd {
        if let Payload::Notify(notify) = payload
            && notify.kind == NotifyType::QKD_SUPPORTED
        {
            notify.data = vec![9, 1, b'x'];
        }
    }
    assert_eq!(
        answer_to(wire::encode(&header, &odd).unwrap()),
        Some(NotifyType::INVALID_SYNTAX)
    );
    let mut weak = payloads.clone();
    if let Some(Payload::Sa(sa)) = weak.first_mut() {
        sa.proposals[0].transforms[0].id = 3;
    }
    assert_eq!(
        answer_to(wire::encode(&header, &weak).unwrap()),
        Some(NotifyType::NO_PROPOSAL_CHOSEN)
    );
    let mut length = good;
    length.push(0);
    assert_eq!(answer_to(length), None, "a length that lies gets nothing");
}

#[test]
fn an_unknown_notify_or_payload_is_passed_over() {
    let mut world = World::native(34);
    let mut first = true;
    world.tap = Some(Box::new(move |from, data| {
        if from != N3iwf || !std::mem::take(&mut first) {
            return Some(data.to_vec());
        }
        let (header, mut payloads) = clear(data);
        payloads.push(wire::Notify::status(NotifyType(40_000), vec![1]).into());
        payloads.push(Payload::VendorId(b"somebody".to_vec()));
        Some(wire::encode(&header, &payloads).unwrap())
    }));
    // The UE takes the answer, and AUTH then shows that it was changed on the way.
    let ue = world.initiate(setup::native());
    world.run(seconds(60));
    assert_eq!(
        world.reason(Ue, ue),
        Some(CloseReason::AuthenticationFailed)
    );
    assert_eq!(
        world.n3iwf.record.closed[0].1,
        CloseReason::AuthenticationRefused
    );
}
