//! AUTH, EAP and everything that must not become an established SA; and every suite that must.

use std::time::Duration;

use ike::{
    ChildFailure, CloseReason, Fate, NewChild, PeerCertificate,
    crypto::{AesBits, Encr, EspSuite, IkeSuite, Integ, Prf},
    wire::{self, Body, Identification, NotifyType, Payload},
};

use crate::{
    setup,
    world::{
        Side::{self, N3iwf, Ue},
        World,
    },
};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Runs an attach that has to fail, and gives both reasons.
fn fails(mut world: World, config: ike::InitiatorConfig) -> (CloseReason, CloseReason) {
    let ue = world.initiate(config);
    world.run(seconds(90));
    assert!(world.ue.record.established.is_empty());
    assert!(world.established(N3iwf).is_empty());
    assert!(world.ue.record.installed.is_empty());
    assert!(world.n3iwf.record.installed.is_empty());
    let there = world.n3iwf.record.closed.first().unwrap().1.clone();
    for side in [Ue, N3iwf] {
        let record = &world.node(side).record;
        assert_eq!(record.fates.len(), record.provided, "{side:?}");
    }
    (world.reason(Ue, ue).unwrap(), there)
}

/// Changes one octet of the n-th datagram of a side, counted from 0.
fn tamper(world: &mut World, side: Side, n: usize, change: impl Fn(&mut Vec<Payload>) + 'static) {
    let mut count = 0;
    let mut original = None;
    world.tap = Some(Box::new(move |from, data| {
        if from != side {
            return Some(data.to_vec());
        }
        if original.is_none() && count == n {
            original = Some(data.to_vec());
        }
        count += 1;
        if original.as_deref() != Some(data) {
            return Some(data.to_vec());
        }
        let parsed = wire::parse(data).unwrap();
        let Body::Clear(mut payloads) = parsed.body else {
            panic!("only clear messages can be forged");
        };
        change(&mut payloads);
        Some(wire::encode(&parsed.header, &payloads).unwrap())
    }));
}

#[test]
fn a_wrong_authentication_key_is_noticed_by_the_ue() {
    let mut world = World::native(40);
    world.kme.faults.wrong_octets = Some(6);
    assert_eq!(
        fails(world, setup::native()),
        (
            CloseReason::AuthenticationFailed,
            CloseReason::AuthenticationRefused
        )
    );
}

#[test]
fn wrong_encryption_keys_never_get_an_answer() {
    for ordinal in [0, 1] {
        let mut world = World::native(41);
        world.kme.faults.wrong_octets = Some(ordinal);
        let mut patient = setup::ue_endpoint();
        patient.timing.retransmit_tries = 4;
        let ue = world.initiate(setup::native());
        world.run(seconds(200));
        assert_eq!(world.reason(Ue, ue), Some(CloseReason::PeerDead));
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
}

#[test]
fn a_wrong_subscription_key_is_noticed_by_the_n3iwf() {
    let mut world = World::native(42);
    world.behaviour.wrong_msk = true;
    assert_eq!(
        fails(world, setup::native()),
        (
            CloseReason::AuthenticationRefused,
            CloseReason::AuthenticationFailed
        )
    );
}

#[test]
fn the_paper_profile_notices_wrong_keys_after_eap() {
    let mut world = World::new(43, setup::ue_endpoint(), setup::paper_endpoint());
    world.kme.faults.wrong_octets = Some(12);
    assert_eq!(
        fails(world, setup::paper()),
        (
            CloseReason::AuthenticationRefused,
            CloseReason::AuthenticationFailed
        )
    );
}

#[test]
fn a_changed_request_of_ike_sa_init_fails_the_attach() {
    let mut world = World::native(44);
    tamper(&mut world, Ue, 0, |payloads| {
        payloads.push(Payload::VendorId(vec![1]));
    });
    assert_eq!(
        fails(world, setup::native()),
        (
            CloseReason::AuthenticationRefused,
            CloseReason::AuthenticationFailed
        )
    );
}

#[test]
fn a_changed_response_of_ike_sa_init_fails_the_attach() {
    let mut world = World::native(45);
    tamper(&mut world, N3iwf, 0, |payloads| {
        payloads.push(Payload::VendorId(vec![1]));
    });
    assert_eq!(
        fails(world, setup::native()),
        (
            CloseReason::AuthenticationFailed,
            CloseReason::AuthenticationRefused
        )
    );
}

#[test]
fn offers_cannot_be_cut_down_on_the_way() {
    let mut config = setup::native();
    config.ike_suites = vec![setup::GCM_IKE, setup::CBC_IKE];
    config.esp_suites = vec![setup::GCM_ESP.into(), setup::CBC_ESP.into()];
    let mut world = World::native(46);
    tamper(&mut world, Ue, 0, |payloads| {
        if let Some(Payload::Sa(sa)) = payloads.first_mut() {
            sa.proposals.remove(0);
        }
    });
    assert_eq!(
        fails(world, config),
        (
            CloseReason::AuthenticationRefused,
            CloseReason::AuthenticationFailed
        )
    );
}

#[test]
fn another_identity_than_expected_is_refused() {
    let mut config = setup::native();
    config.peer_identity = Some(Identification::fqdn("other.example.net"));
    assert_eq!(
        fails(World::native(47), config),
        (
            CloseReason::AuthenticationFailed,
            CloseReason::AuthenticationRefused
        )
    );
}

#[test]
fn eap_failure_ends_both_sides() {
    let mut world = World::native(48);
    world.behaviour.eap_fails = true;
    assert_eq!(
        fails(world, setup::native()),
        (CloseReason::EapFailure, CloseReason::EapFailure)
    );
}

#[test]
fn a_lost_eap_failure_is_replayed_after_the_sa_is_gone() {
    let mut world = World::native(49);
    world.behaviour.eap_fails = true;
    let mut answers = 0;
    world.tap = Some(Box::new(move |from, data| {
        answers += usize::from(from == N3iwf);
        // IKE_SA_INIT, 5G-Start, two requests, then the failure: its first two copies are lost.
        (from == Ue || !(5..7).contains(&answers)).then(|| data.to_vec())
    }));
    let ue = world.initiate(setup::native());
    world.run(seconds(20));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::EapFailure));
    assert_eq!(world.ue.record.eap_failures, 1);
}

#[test]
fn any_number_of_eap_rounds_goes_through_but_not_endless_ones() {
    for rounds in [1, 2, 11, 40] {
        let mut world = World::native(50);
        world.behaviour.eap = vec![(20, 20); rounds];
        world.attach(setup::native());
    }
    let mut world = World::native(51);
    world.behaviour.eap = vec![(20, 20); 1000];
    let (here, there) = fails(world, setup::native());
    assert!([here, there].contains(&CloseReason::TooManyRounds));
}

#[test]
fn the_daemon_can_refuse_with_notifies() {
    let mut world = World::native(52);
    let ue = world.initiate(setup::native());
    world.behaviour.slowness = Duration::from_millis(1);
    while world.n3iwf.record.eap_begins == 0 {
        world.run(Duration::from_micros(100));
    }
    let sa = world.sas(N3iwf)[0].id;
    world.command(N3iwf, |endpoint, now| {
        let congestion = wire::Notify::status(NotifyType::CONGESTION, vec![]);
        endpoint.refuse(now, sa, vec![congestion]);
    });
    world.run(seconds(1));
    assert_eq!(
        world.reason(Ue, ue),
        Some(CloseReason::Refused(NotifyType::CONGESTION))
    );
    assert_eq!(world.reason(N3iwf, sa), Some(CloseReason::Local));
}

#[test]
fn certificates_of_the_paper_profile_are_judged_when_asked() {
    let (certificate, _) = setup::rsa();
    let mut config = setup::paper();
    config.peer_certificate = PeerCertificate::Trusted(vec![certificate]);
    let paper = |seed| World::new(seed, setup::ue_endpoint(), setup::paper_endpoint());
    paper(53).attach(config.clone());
    config.peer_certificate = PeerCertificate::Trusted(vec![]);
    assert_eq!(
        fails(paper(54), config),
        (
            CloseReason::AuthenticationFailed,
            CloseReason::AuthenticationRefused
        )
    );
}

#[test]
fn every_suite_attaches() {
    let encrs = [AesBits::B128, AesBits::B256];
    let prfs = [
        Prf::HmacSha1,
        Prf::HmacSha2_256,
        Prf::HmacSha2_384,
        Prf::HmacSha2_512,
    ];
    let integs = [
        Integ::HmacSha1_96,
        Integ::HmacSha2_256_128,
        Integ::HmacSha2_384_192,
        Integ::HmacSha2_512_256,
    ];
    let mut suites = Vec::new();
    for bits in encrs {
        for prf in prfs {
            suites.push((Encr::AesGcm16(bits), None, prf));
            suites.extend(integs.map(|integ| (Encr::AesCbc(bits), Some(integ), prf)));
        }
    }
    for (n, (encr, integ, prf)) in suites.into_iter().enumerate() {
        let ike = IkeSuite {
            encr,
            integ,
            prf,
            ke: None,
        };
        let esp = EspSuite {
            encr,
            integ,
            esn: n % 2 == 0,
        };
        let mut there = setup::n3iwf_endpoint();
        let responder = there.responder.as_mut().unwrap();
        responder.ike_suites = vec![ike];
        responder.esp_suites = vec![esp.into()];
        let mut config = setup::native();
        config.ike_suites = vec![ike];
        config.esp_suites = vec![esp.into()];
        let mut world = World::new(60 + n as u64, setup::ue_endpoint(), there);
        let (_, n3iwf) = world.attach(config);
        world.command(N3iwf, |endpoint, now| {
            endpoint
                .create_child(now, n3iwf, setup::user_child(1))
                .unwrap()
        });
        world.run(seconds(1));
        assert_eq!(world.ue.record.installed.len(), 2, "{ike:?}");
        let status = world.sas(Ue).remove(0);
        assert_eq!(status.suite, Some(ike));
        assert_eq!(status.children[1].suite, Some(esp));
        world.check_keys();
    }
}

#[test]
fn the_responder_prefers_by_its_own_order() {
    let mut config = setup::native();
    config.ike_suites = vec![setup::CBC_IKE, setup::GCM_IKE];
    config.esp_suites = vec![setup::CBC_ESP.into(), setup::GCM_ESP.into()];
    let mut world = World::native(100);
    world.attach(config);
    let status = world.sas(N3iwf).remove(0);
    assert_eq!(status.suite, Some(setup::GCM_IKE));
    assert_eq!(
        status.children[0].suite,
        Some(setup::GCM_ESP),
        "of the same kind"
    );
}

#[test]
fn without_an_esp_suite_in_common_the_ike_sa_stands_alone() {
    let mut config = setup::native();
    let esp = EspSuite {
        encr: Encr::AesGcm16(AesBits::B128),
        integ: None,
        esn: false,
    };
    config.esp_suites = vec![esp.into()];
    let mut world = World::native(101);
    world.attach(config);
    assert!(world.ue.record.installed.is_empty());
    let refused = ChildFailure::Refused(NotifyType::NO_PROPOSAL_CHOSEN);
    assert_eq!(world.ue.record.failed[0].1, refused);
    assert_eq!(world.established(N3iwf).len(), 1);
}

#[test]
fn selectors_outside_the_offer_are_unacceptable() {
    let mut config = setup::native();
    config.ts_local = vec![setup::N3IWF_INNER];
    let mut world = World::native(102);
    world.attach(config);
    let refused = ChildFailure::Refused(NotifyType::TS_UNACCEPTABLE);
    assert_eq!(world.ue.record.failed[0].1, refused);
    assert_eq!(world.n3iwf.record.failed[0].1, refused);
    assert!(world.n3iwf.record.installed.is_empty());
}

#[test]
fn a_signalling_sa_that_cannot_be_installed_is_gone_on_both_sides() {
    for side in [Ue, N3iwf] {
        let mut world = World::native(103);
        world.behaviour.install_fails = Some((side, 0));
        world.attach(setup::native());
        world.run(seconds(2));
        assert!(world.ue.record.installed.is_empty(), "{side:?}");
        assert!(world.n3iwf.record.installed.is_empty(), "{side:?}");
        let failed = world.node(side).record.failed[0].1;
        assert_eq!(failed, ChildFailure::InstallFailed);
        let lost = world.node(side).record.fates.values();
        assert_eq!(lost.filter(|fate| **fate == Fate::Lost).count(), 2);
    }
}

#[test]
fn a_data_plane_that_never_answers_lets_the_handshake_expire() {
    let mut world = World::native(104);
    world.behaviour.silent_install = Some(N3iwf);
    let ue = world.initiate(setup::native());
    world.run(seconds(300));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::PeerDead));
    assert_eq!(world.n3iwf.record.closed[0].1, CloseReason::HalfOpenExpired);
    assert_eq!(
        world.n3iwf.record.down.len(),
        1,
        "it may hold it, so it is told to drop it"
    );
}

#[test]
fn nothing_is_created_before_the_sa_is_established() {
    let mut world = World::native(105);
    let ue = world.initiate(setup::native());
    let new = NewChild {
        ts_local: vec![],
        ts_remote: vec![],
        notifies: vec![],
        token: 0,
    };
    let result = world.command(Ue, |endpoint, now| {
        endpoint.create_child(now, ue, new.clone())
    });
    assert_eq!(result, Err(ike::CommandError::NotEstablished));
    world.command(Ue, |endpoint, now| endpoint.close(now, ue));
    assert_eq!(world.reason(Ue, ue), Some(CloseReason::Local));
    let result = world.command(Ue, |endpoint, now| endpoint.create_child(now, ue, new));
    assert_eq!(result, Err(ike::CommandError::UnknownSa));
}
