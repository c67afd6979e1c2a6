//! Retransmission, replay, windows, liveness, and garbage.

use std::time::Duration;

use ike::{CloseReason, EndpointConfig, Timing, wire};

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

#[test]
fn requests_are_retransmitted_bit_identical_with_growing_waits() {
    let mut world = World::native(10);
    world.muted.insert(N3iwf);
    let ue = world.initiate(setup::native());
    world.run(seconds(300));
    let sent: Vec<_> = world.sent.iter().filter(|sent| sent.from == Ue).collect();
    let at: Vec<_> = sent
        .iter()
        .map(|sent| sent.at.since_origin().as_secs())
        .collect();
    assert_eq!(at, [0, 1, 3, 7, 15, 31, 51, 71, 91]);
    assert!(sent.iter().all(|again| again.data == sent[0].data));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::PeerDead));
    let mut answers = world.sent.iter().filter(|sent| sent.from == N3iwf);
    let first = answers.next().unwrap();
    assert!(
        answers.all(|again| again.data == first.data),
        "replayed bit-identical"
    );
    assert_eq!(world.kme.allocations, 1, "retransmissions cost no key");
    assert_eq!(world.n3iwf.record.keys_needed, 1);
}

#[test]
fn every_response_is_replayed_bit_identical() {
    let mut world = World::native(11);
    // Every first transmission of the N3IWF is lost.
    let mut seen = std::collections::HashSet::new();
    world.tap = Some(Box::new(move |from, data| {
        (from == Ue || !seen.insert(data.to_vec())).then(|| data.to_vec())
    }));
    world.attach(setup::native());
    let answers: Vec<_> = world.sent.iter().filter(|s| s.from == N3iwf).collect();
    assert_eq!(answers.len(), 12, "six responses, each twice");
    for pair in answers.chunks(2) {
        assert_eq!(pair[0].data, pair[1].data);
    }
    assert_eq!(world.kme.allocations, 1);
}

#[test]
fn a_request_that_waits_for_its_daemon_is_answered_once() {
    let mut world = World::native(12);
    world.behaviour.slowness = seconds(6);
    let ue = world.initiate(setup::native());
    world.run(seconds(28));
    let answers = world.sent.iter().filter(|sent| sent.from == N3iwf).count();
    let requests = world.sent.iter().filter(|sent| sent.from == Ue).count();
    assert!(requests > answers, "the UE repeats itself meanwhile");
    assert_eq!(world.n3iwf.record.keys_needed, 1);
    assert!(world.n3iwf.record.eap_begins <= 1);
    world.run(seconds(60));
    // Established or given up, both agree.
    let up = world.ue.record.established.contains(&ue);
    assert_eq!(up, !world.established(N3iwf).is_empty());
}

#[test]
fn old_messages_change_nothing() {
    let mut world = World::native(13);
    let (_, n3iwf) = world.attach(setup::native());
    world.command(N3iwf, |endpoint, now| {
        endpoint
            .create_child(now, n3iwf, setup::user_child(1))
            .unwrap()
    });
    world.run(seconds(1));
    let before = (
        world.sas(Ue).len(),
        world.sas(N3iwf).len(),
        world.kme.allocations,
    );
    let all = world.sent.clone();
    for _ in 0..2 {
        for sent in &all {
            let to = if sent.from == Ue { N3iwf } else { Ue };
            world.inject(to, sent.data.clone());
        }
    }
    world.run(seconds(1));
    assert_eq!(
        before,
        (
            world.sas(Ue).len(),
            world.sas(N3iwf).len(),
            world.kme.allocations
        )
    );
    assert_eq!(world.established(Ue).len(), 1);
    assert_eq!(world.established(N3iwf).len(), 1);
    // Only replays of last responses may have left: nothing that was not sent before.
    for sent in &world.sent[all.len()..] {
        assert!(all.iter().any(|old| old.data == sent.data));
    }
}

#[test]
fn garbage_and_cut_messages_are_survived() {
    let mut world = World::native(14);
    world.attach(setup::native());
    let real: Vec<_> = world
        .sent
        .iter()
        .map(|sent| (sent.from, sent.data.clone()))
        .collect();
    for (from, data) in real {
        let to = if from == Ue { N3iwf } else { Ue };
        for len in 0..data.len() {
            world.inject(to, data[..len].to_vec());
        }
        for at in 0..data.len() {
            let mut flipped = data.clone();
            flipped[at] ^= 0x80;
            world.inject(to, flipped);
        }
    }
    for len in 0..64 {
        world.inject(N3iwf, vec![0xff; len]);
        world.inject(Ue, vec![0; len]);
    }
    world.run(seconds(120));
    assert_eq!(world.established(Ue).len(), 1);
    assert_eq!(world.established(N3iwf).len(), 1);
    assert_eq!(world.sas(N3iwf).len(), 1, "what garbage began has expired");
}

#[test]
fn silence_is_probed_and_a_dead_peer_is_noticed() {
    let timing = Timing {
        dpd_interval: Some(seconds(10)),
        retransmit_tries: 3,
        ..Timing::default()
    };
    let with = |config: EndpointConfig| EndpointConfig { timing, ..config };
    let mut world = World::new(
        15,
        with(setup::ue_endpoint()),
        with(setup::n3iwf_endpoint()),
    );
    let (ue, n3iwf) = world.attach(setup::native());
    let before = world.sent.len();
    world.run(seconds(35));
    assert!(world.sent.len() >= before + 6, "probes and answers flow");
    assert_eq!(
        world.established(Ue).len() + world.established(N3iwf).len(),
        2
    );
    world.muted.insert(Ue);
    world.run(seconds(60));
    assert_eq!(world.reason(N3iwf, n3iwf), Some(CloseReason::PeerDead));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::PeerDead));
    assert!(world.n3iwf.record.installed.is_empty());
    assert_eq!(world.n3iwf.record.down.len(), 1);
}

#[test]
fn an_unknown_spi_is_told_at_a_limited_rate_and_asked_about() {
    let mut world = World::native(16);
    let (ue, n3iwf) = world.attach(setup::native());
    // The N3IWF forgets everything, as after a restart.
    world.command(N3iwf, |endpoint, now| endpoint.abandon(now, n3iwf));
    world.run(seconds(40));
    world.sent.clear();
    world.command(Ue, |endpoint, now| endpoint.probe(now, ue));
    world.run(Duration::from_millis(100));
    let answer = world.sent.iter().find(|sent| sent.from == N3iwf).unwrap();
    let parsed = wire::parse(&answer.data).unwrap();
    let wire::Body::Clear(payloads) = &parsed.body else {
        panic!("not in clear");
    };
    assert!(wire::find_notify(payloads, wire::NotifyType::INVALID_IKE_SPI).is_some());
    assert_eq!(world.established(Ue).len(), 1, "not believed at once");
    world.run(seconds(1));
    assert_eq!(world.established(Ue).len(), 1, "nor at the second time");
    world.run(seconds(1));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::PeerDead));
    // A flood gets a limited number of answers.
    let probe = world.sent[0].data.clone();
    world.sent.clear();
    for n in 0..1000u32 {
        let mut other = probe.clone();
        other[8..12].copy_from_slice(&n.to_be_bytes());
        world.inject(N3iwf, other);
    }
    world.run(Duration::from_millis(500));
    let answers = world.sent.len();
    assert!((1..=512).contains(&answers), "{answers}");
}

/// What anybody who sees the SPIs can say to the UE.
fn invalid_ike_spi(world: &mut World) -> Vec<u8> {
    let status = world.sas(Ue).remove(0);
    let header = wire::Header {
        spi_i: status.spi_i,
        spi_r: status.spi_r,
        exchange: wire::ExchangeType::Informational,
        flags: wire::Flags {
            initiator: false,
            response: true,
        },
        message_id: 0,
    };
    let notify = wire::Notify::status(wire::NotifyType::INVALID_IKE_SPI, vec![]);
    wire::encode(&header, &[notify.into()]).unwrap()
}

#[test]
fn forged_doubts_cause_few_questions() {
    let mut world = World::native(18);
    world.attach(setup::native());
    let forged = invalid_ike_spi(&mut world);
    let before = world.sent.len();
    for _ in 0..100 {
        world.inject(Ue, forged.clone());
        world.run(Duration::from_millis(50));
    }
    let questions = world.sent[before..]
        .iter()
        .filter(|sent| sent.from == Ue)
        .count();
    assert!((3..=5).contains(&questions), "{questions} in five seconds");
    assert_eq!(world.established(Ue).len(), 1);
}

/// Somebody who sees the SPIs answers whatever the UE asks, while nothing else comes through: the third question decides.
#[test]
fn forged_doubts_end_no_sa_whose_peer_answers_in_time() {
    let mut world = World::native(18);
    let (ue, _) = world.attach(setup::native());
    let forged = invalid_ike_spi(&mut world);
    world.run(seconds(2));
    for (silence, survives) in [(900, true), (1600, false)] {
        world.faults.loss = 1000;
        world.command(Ue, |endpoint, now| endpoint.probe(now, ue));
        for _ in 0..silence / 50 {
            world.inject(Ue, forged.clone());
            world.run(Duration::from_millis(50));
        }
        world.faults.loss = 0;
        world.run(seconds(2));
        assert_eq!(world.established(Ue).len(), usize::from(survives));
    }
}

#[test]
fn an_endpoint_moves_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<ike::Endpoint>();
    is_send::<ike::Event>();
}

#[test]
fn an_empty_endpoint_has_no_timer() {
    let mut world = World::native(17);
    assert_eq!(world.ue.endpoint.poll_timeout(), None);
    let (ue, _) = world.attach(setup::native());
    world.command(Ue, |endpoint, now| endpoint.close(now, ue));
    world.run(seconds(120));
    assert_eq!(
        world.ue.endpoint.poll_timeout(),
        None,
        "nothing lingers for ever"
    );
    assert_eq!(world.n3iwf.endpoint.poll_timeout(), None);
}
