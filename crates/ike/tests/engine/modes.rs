//! Key modes: negotiation, mode `psk`, and every way to talk two peers into a weaker one.

use std::{net::IpAddr, time::Duration};

use ike::{
    CertificateUse, CloseReason, CookiePolicy, EndpointConfig, InitiatorConfig, Mobike,
    Mode::{self, Psk, Qkd},
    PeerCertificate, PeerRule,
    Profile::{Native, Paper},
    QkdFailure,
    QkdPolicy::{self, Forbid, Prefer, Require},
    crypto::{IkeSuite, KeMethod, rsa::Certificate},
    wire::{self, Body, Identification, Notify, NotifyType, Payload, TransformType},
};

use crate::{
    setup,
    world::{
        Side::{N3iwf, Ue},
        World,
    },
};

const BOTH: [Mode; 2] = [Qkd(Native), Psk];

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn world(seed: u64, modes: &[Mode], policy: QkdPolicy) -> World {
    World::new(seed, setup::ue_endpoint(), setup::accepting(modes, policy))
}

/// The mode both ends ended up in.
fn mode(world: &mut World) -> Mode {
    let here = world.established(Ue).remove(0).mode;
    assert_eq!(world.established(N3iwf)[0].mode, here);
    here
}

fn with_suites(methods: &[KeMethod]) -> Vec<IkeSuite> {
    methods.iter().copied().map(setup::exchange).collect()
}

fn fails(
    world: &mut World,
    config: InitiatorConfig,
    modes: &[Mode],
    policy: QkdPolicy,
) -> CloseReason {
    let ue = world.initiate_with(config, &setup::offering(modes, policy));
    world.run(seconds(180));
    assert!(world.established(N3iwf).is_empty());
    assert!(world.ue.record.established.is_empty());
    assert!(world.ue.record.installed.is_empty() && world.n3iwf.record.installed.is_empty());
    world.reason(Ue, ue).unwrap()
}

fn trusting() -> InitiatorConfig {
    let anchor = Certificate::new(include_bytes!("../vectors/rsa-ca.der")).unwrap();
    InitiatorConfig {
        peer_certificate: PeerCertificate::Trusted(vec![anchor.into()]),
        ..setup::choosy()
    }
}

#[test]
fn psk_attaches_with_every_method_and_spends_no_key() {
    use KeMethod::{Curve25519, Ecp256, Ecp384, Ecp521, Modp2048};
    for (seed, method) in (0..).zip([Modp2048, Ecp256, Ecp384, Ecp521, Curve25519]) {
        let mut n3iwf = setup::accepting(&[Psk], Prefer);
        n3iwf.responder.as_mut().unwrap().ike_suites = with_suites(&[method]);
        let mut world = World::new(seed, setup::ue_endpoint(), n3iwf);
        let config = InitiatorConfig {
            ike_suites: with_suites(&[method]),
            ..setup::native()
        };
        let (_, n3iwf) = world.attach_with(config, &setup::offering(&[Psk], Prefer));
        world.command(N3iwf, |endpoint, now| {
            endpoint
                .create_child(now, n3iwf, setup::user_child(1))
                .unwrap()
        });
        world.run(seconds(1));
        assert_eq!(mode(&mut world), Psk);
        assert_eq!(
            world.established(Ue)[0].suite,
            Some(setup::exchange(method))
        );
        assert_eq!(world.ue.record.installed.len(), 2);
        assert_eq!(world.n3iwf.record.installed.len(), 2);
        world.check_keys();
        let keys: std::collections::HashSet<_> = world
            .ue
            .record
            .installed
            .values()
            .flat_map(|child| [child.key_in.clone(), child.key_out.clone()])
            .collect();
        assert_eq!(keys.len(), 4, "no key twice");
        assert_eq!(world.kme.allocations + world.kme.collections, 0);
        assert!(world.established(Ue)[0].key_ids.is_empty());
    }
}

#[test]
fn the_responders_order_and_both_policies_decide() {
    // N3IWF's modes and policy, UE's modes and policy, result.
    let cases = [
        (&BOTH[..], Prefer, &BOTH[..], Prefer, Some(Qkd(Native))),
        (&BOTH, Require, &BOTH, Prefer, Some(Qkd(Native))),
        (&BOTH, Prefer, &BOTH, Require, Some(Qkd(Native))),
        (&BOTH, Forbid, &BOTH, Prefer, Some(Psk)),
        (&BOTH, Prefer, &BOTH, Forbid, Some(Psk)),
        (&BOTH, Prefer, &[Psk], Prefer, Some(Psk)),
        (&[Psk], Prefer, &BOTH, Prefer, Some(Psk)),
        (&BOTH, Require, &BOTH, Forbid, None),
        (&BOTH, Forbid, &BOTH, Require, None),
        (&[Psk], Prefer, &BOTH, Require, None),
        (&[Psk], Require, &BOTH, Prefer, None),
    ];
    for (seed, (ours, policy, theirs, wish, expected)) in (100..).zip(cases) {
        let mut world = world(seed, ours, policy);
        match expected {
            Some(expected) => {
                world.attach_with(setup::choosy(), &setup::offering(theirs, wish));
                assert_eq!(mode(&mut world), expected, "case {seed}");
            }
            None => {
                let reason = fails(&mut world, setup::choosy(), theirs, wish);
                assert_eq!(reason, CloseReason::NoProposalChosen, "case {seed}");
            }
        }
    }
}

#[test]
fn nothing_to_offer_ends_at_once() {
    let mut world = world(120, &BOTH, Prefer);
    let reason = fails(&mut world, setup::choosy(), &[Psk], Require);
    assert_eq!(reason, CloseReason::NoProposalChosen);
    assert!(world.sent.is_empty(), "not even asked");
}

#[test]
fn another_key_exchange_method_is_asked_for_once_with_and_without_a_cookie() {
    for (seed, cookies) in [(130, CookiePolicy::Never), (131, CookiePolicy::Always)] {
        let mut n3iwf = setup::accepting(&[Psk], Prefer);
        let responder = n3iwf.responder.as_mut().unwrap();
        responder.ike_suites = with_suites(&[KeMethod::Ecp256]);
        responder.cookies = cookies;
        let mut world = World::new(seed, setup::ue_endpoint(), n3iwf);
        world.attach_with(setup::choosy(), &setup::offering(&[Psk], Prefer));
        let suite = world.established(Ue)[0].suite.unwrap();
        assert_eq!(suite, setup::exchange(KeMethod::Ecp256));
        let requests: Vec<_> = world
            .sent
            .iter()
            .filter(|sent| sent.from == Ue)
            .filter_map(|sent| {
                let parsed = wire::parse(&sent.data).unwrap();
                match parsed.body {
                    Body::Clear(payloads) => Some((parsed.header, payloads)),
                    Body::Encrypted { .. } => None,
                }
            })
            .collect();
        let expected = if cookies == CookiePolicy::Never { 2 } else { 3 };
        assert_eq!(requests.len(), expected);
        let proposals = |payloads: &[Payload]| {
            payloads.iter().find_map(|payload| match payload {
                Payload::Sa(sa) => Some(sa.clone()),
                _ => None,
            })
        };
        for (header, payloads) in &requests {
            assert_eq!(header.spi_i, requests[0].0.spi_i, "the same SPI");
            assert_eq!(
                proposals(payloads),
                proposals(&requests[0].1),
                "all proposals"
            );
        }
        let last = &requests.last().unwrap().1;
        let first = last.first().unwrap();
        let cookie = matches!(first, Payload::Notify(n) if n.kind == NotifyType::COOKIE);
        assert_eq!(
            cookie,
            cookies == CookiePolicy::Always,
            "kept, and in front"
        );
        assert_eq!(world.n3iwf.endpoint.sas().count(), 1);
    }
}

#[test]
fn a_peer_that_asks_for_methods_without_end_is_left() {
    let mut world = world(132, &[Psk], Prefer);
    let methods = [KeMethod::Curve25519, KeMethod::Ecp256];
    let turn = std::cell::Cell::new(0);
    world.tamper(N3iwf, move |payloads| {
        turn.set(turn.get() + 1);
        let wish = methods[turn.get() % 2].id().to_be_bytes().to_vec();
        *payloads = vec![Notify::status(NotifyType::INVALID_KE_PAYLOAD, wish).into()];
    });
    let reason = fails(&mut world, setup::choosy(), &[Psk], Prefer);
    assert_eq!(reason, CloseReason::TooManyRounds);
    let requests = world.sent.iter().filter(|sent| sent.from == Ue).count();
    assert!(requests < 12, "{requests}");
}

#[test]
fn a_method_that_was_not_offered_is_not_used() {
    let mut world = world(133, &[Psk], Prefer);
    world.tamper(N3iwf, |payloads| {
        let wish = KeMethod::Modp2048.id().to_be_bytes().to_vec();
        *payloads = vec![Notify::status(NotifyType::INVALID_KE_PAYLOAD, wish).into()];
    });
    let reason = fails(&mut world, setup::choosy(), &[Psk], Prefer);
    assert_eq!(reason, CloseReason::NoProposalChosen);
}

#[test]
fn an_answer_without_a_transform_that_was_offered_is_none() {
    let mut world = world(134, &BOTH, Prefer);
    world.tamper(N3iwf, |payloads| {
        for payload in payloads {
            if let Payload::Sa(sa) = payload {
                sa.proposals[0]
                    .transforms
                    .retain(|transform| transform.kind != TransformType::KE);
            }
        }
    });
    let reason = fails(&mut world, setup::choosy(), &[Psk], Prefer);
    assert_eq!(reason, CloseReason::NoProposalChosen);
}

#[test]
fn bad_public_values_are_refused_on_both_sides() {
    let zero = |payloads: &mut Vec<Payload>| {
        for payload in payloads {
            if let Payload::Ke { data, .. } = payload {
                data.fill(0);
            }
        }
    };
    let mut there = world(135, &[Psk], Prefer);
    there.tamper(Ue, zero);
    let reason = fails(&mut there, setup::choosy(), &[Psk], Prefer);
    assert_eq!(reason, CloseReason::Refused(NotifyType::INVALID_SYNTAX));
    assert!(there.n3iwf.record.closed.is_empty(), "no state for it");
    let mut here = world(136, &[Psk], Prefer);
    here.tamper(N3iwf, zero);
    let reason = fails(&mut here, setup::choosy(), &[Psk], Prefer);
    assert_eq!(reason, CloseReason::Syntax("a KE value"));
}

#[test]
fn without_keys_the_next_mode_is_tried_in_the_open() {
    // The N3IWF's KMS fails, then the UE's.
    for (seed, master) in [(140, true), (141, false)] {
        let mut world = world(seed, &BOTH, Prefer);
        let failure = Some(QkdFailure::Unreachable);
        let reason = if master {
            world.kme.faults.master = failure;
            CloseReason::PeerQkdUnavailable(2)
        } else {
            world.kme.faults.slave = failure;
            CloseReason::Qkd(QkdFailure::Unreachable)
        };
        let begun = world.now;
        let (ue, _) = world.attach_with(setup::choosy(), &setup::offering(&BOTH, Prefer));
        assert_eq!(mode(&mut world), Psk);
        assert!(
            world.now.duration_since(begun) >= seconds(5),
            "after the grace"
        );
        assert_eq!(
            world.ue.record.fallbacks,
            [(BOTH.to_vec(), vec![Psk], reason)]
        );
        assert_eq!(world.established(Ue)[0].id, ue);
        let spis: std::collections::HashSet<_> = world
            .sent
            .iter()
            .filter(|sent| sent.from == Ue)
            .map(|sent| wire::parse(&sent.data).unwrap().header.spi_i)
            .collect();
        assert_eq!(spis.len(), 2, "a fresh IKE_SA_INIT");
        world.run(seconds(60));
        assert_eq!(world.sas(N3iwf).len(), 1, "the first attempt has expired");
        assert_eq!(
            world.n3iwf.record.fates.len(),
            world.n3iwf.record.provided,
            "keys of the first attempt are lost, not forgotten"
        );
    }
}

#[test]
fn who_requires_qkd_gets_no_other_mode() {
    let mut world = world(142, &BOTH, Prefer);
    world.kme.faults.master = Some(QkdFailure::NoKeys);
    let reason = fails(&mut world, setup::choosy(), &BOTH, Require);
    assert_eq!(reason, CloseReason::PeerQkdUnavailable(1));
    assert!(world.ue.record.fallbacks.is_empty());
}

#[test]
fn a_forged_qkd_unavailable_changes_nothing_when_the_good_answer_arrives() {
    let mut world = world(143, &BOTH, Prefer);
    world.behaviour.slowness = Duration::from_millis(900);
    let ue = world.initiate_with(setup::choosy(), &setup::offering(&BOTH, Prefer));
    let header = wire::parse(&world.sent[0].data).unwrap().header;
    let header = wire::Header {
        flags: wire::Flags {
            initiator: false,
            response: true,
        },
        ..header
    };
    let hint = Notify::status(NotifyType::QKD_UNAVAILABLE, vec![1]);
    world.inject(Ue, wire::encode(&header, &[hint.into()]).unwrap());
    world.run(seconds(20));
    assert!(world.ue.record.established.contains(&ue));
    assert_eq!(mode(&mut world), Qkd(Native));
    assert!(world.ue.record.fallbacks.is_empty());
}

#[test]
fn paper_is_offered_alone_and_left_for_psk() {
    let modes = [Qkd(Paper), Psk];
    let mut world = world(144, &BOTH, Prefer);
    let config = InitiatorConfig {
        master_sae_id: Some("sae-n3iwf".parse().unwrap()),
        ..setup::choosy()
    };
    world.attach_with(config, &setup::offering(&modes, Prefer));
    assert_eq!(mode(&mut world), Psk);
    let reason = CloseReason::NoProposalChosen;
    assert_eq!(
        world.ue.record.fallbacks,
        [(vec![Qkd(Paper)], vec![Psk], reason)]
    );
}

/// An N3IWF that takes both modes from everybody but the UE's address, for which this counts.
fn ruled(range: (IpAddr, u8), modes: &[Mode], policy: QkdPolicy) -> EndpointConfig {
    let mut config = setup::accepting(&BOTH, Prefer);
    config.acceptance.peers = vec![PeerRule {
        address: range.0,
        prefix_len: range.1,
        modes: modes.to_vec(),
        policy,
    }];
    config
}

#[test]
fn the_rule_for_an_address_decides_in_place_of_the_general_policy() {
    let here = (setup::UE, 32);
    let elsewhere = (IpAddr::from([203, 0, 113, 0]), 24);
    let cases = [
        (
            here,
            &BOTH[..],
            Require,
            &BOTH[..],
            Some((Qkd(Native), Require)),
        ),
        (here, &BOTH, Require, &[Psk], None),
        (here, &BOTH, Forbid, &BOTH, Some((Psk, Forbid))),
        (here, &BOTH, Forbid, &[Qkd(Native)], None),
        (here, &[Psk], Prefer, &[Qkd(Native)], None),
        (here, &[], Prefer, &BOTH, None),
        (elsewhere, &BOTH, Require, &[Psk], Some((Psk, Prefer))),
        (
            elsewhere,
            &[Psk],
            Forbid,
            &BOTH,
            Some((Qkd(Native), Prefer)),
        ),
    ];
    for (seed, (range, modes, policy, offered, expected)) in (170..).zip(cases) {
        let n3iwf = ruled(range, modes, policy);
        let mut world = World::new(seed, setup::ue_endpoint(), n3iwf);
        match expected {
            Some((expected, policy)) => {
                let (_, sa) = world.attach_with(setup::choosy(), &setup::offering(offered, Prefer));
                assert_eq!(mode(&mut world), expected, "{range:?} {modes:?}");
                assert_eq!(world.established(N3iwf)[0].policy, policy);
                assert_eq!(world.n3iwf.endpoint.policy(sa), Some(policy));
            }
            None => {
                let reason = fails(&mut world, setup::choosy(), offered, Prefer);
                assert_eq!(reason, CloseReason::NoProposalChosen, "{range:?} {modes:?}");
            }
        }
    }
}

#[test]
fn a_ue_behind_a_nat_is_where_the_nat_is() {
    let outer = IpAddr::from([198, 51, 100, 7]);
    for (range, ends_well) in [((outer, 32), false), ((setup::UE, 32), true)] {
        let n3iwf = ruled(range, &BOTH, Require);
        let mut world = World::new(180, setup::ue_endpoint(), n3iwf);
        world.nat = Some(crate::world::Nat {
            outer,
            port_offset: 7000,
        });
        if ends_well {
            world.attach_with(setup::choosy(), &setup::offering(&[Psk], Prefer));
            assert_eq!(world.established(N3iwf)[0].policy, Prefer);
        } else {
            let reason = fails(&mut world, setup::choosy(), &[Psk], Prefer);
            assert_eq!(reason, CloseReason::NoProposalChosen);
        }
    }
}

#[test]
fn what_was_decided_stays_with_the_ike_sa() {
    let there = IpAddr::from([192, 0, 2, 20]);
    let mut n3iwf = ruled((there, 32), &[Qkd(Native)], Require);
    n3iwf.mobike = Some(Mobike::default());
    n3iwf.lifetimes.from_peer = true;
    let ue = EndpointConfig {
        mobike: Some(Mobike::default()),
        ..setup::ue_endpoint()
    };
    let mut world = World::new(181, ue, n3iwf);
    let (ue, _) = world.attach_with(setup::choosy(), &setup::offering(&[Psk], Forbid));
    world.ue_address = there;
    world
        .command(Ue, |endpoint, now| endpoint.roam(now, ue, there))
        .unwrap();
    world.run(seconds(5));
    world
        .command(Ue, |endpoint, now| endpoint.rekey_ike(now, ue))
        .unwrap();
    world.run(seconds(5));
    let sa = world.established(N3iwf).remove(0);
    assert_eq!(sa.path.remote.ip(), there);
    assert_eq!((sa.mode, sa.policy), (Psk, Prefer));
    // A new IKE SA from there is another matter.
    world.initiate_with(setup::choosy(), &setup::offering(&[Psk], Forbid));
    world.run(seconds(20));
    assert_eq!(world.established(N3iwf).len(), 1);
}

// Downgrades: an attacker on the path rewrites IKE_SA_INIT, which both AUTH cover.

fn downgraded(seed: u64, config: InitiatorConfig, change: impl Fn(&mut Vec<Payload>) + 'static) {
    let mut world = world(seed, &BOTH, Prefer);
    world.tamper(Ue, change);
    let reason = fails(&mut world, config, &BOTH, Prefer);
    assert!(
        matches!(
            reason,
            CloseReason::AuthenticationFailed | CloseReason::AuthenticationRefused
        ),
        "{reason:?}"
    );
}

fn without_qkd(payloads: &mut Vec<Payload>) {
    payloads.retain(
        |payload| !matches!(payload, Payload::Notify(n) if n.kind == NotifyType::QKD_SUPPORTED),
    );
}

#[test]
fn taking_qkd_supported_out_of_the_request_is_noticed() {
    downgraded(150, setup::choosy(), without_qkd);
    downgraded(151, trusting(), without_qkd);
}

#[test]
fn taking_proposals_out_of_the_request_is_noticed() {
    downgraded(152, setup::choosy(), |payloads| {
        for payload in payloads {
            if let Payload::Sa(sa) = payload {
                sa.proposals
                    .retain(|proposal| proposal.of_type(TransformType::KE).next().is_some());
            }
        }
    });
}

#[test]
fn taking_the_better_method_out_of_the_request_is_noticed() {
    let mut world = world(153, &[Psk], Prefer);
    world.tamper(Ue, |payloads| {
        for payload in payloads {
            if let Payload::Sa(sa) = payload {
                let weak = KeMethod::Ecp256.transform(TransformType::KE);
                sa.proposals
                    .retain(|proposal| proposal.transforms.contains(&weak));
            }
        }
    });
    let reason = fails(&mut world, setup::choosy(), &[Psk], Prefer);
    assert_eq!(reason, CloseReason::AuthenticationRefused);
}

#[test]
fn a_flag_more_in_the_answer_is_noticed() {
    let mut world = world(154, &BOTH, Prefer);
    world.tamper(N3iwf, |payloads| {
        payloads.push(Notify::status(NotifyType::INITIAL_CONTACT, vec![]).into());
    });
    let reason = fails(&mut world, setup::choosy(), &[Psk], Prefer);
    assert!(
        matches!(
            reason,
            CloseReason::AuthenticationFailed | CloseReason::AuthenticationRefused
        ),
        "{reason:?}"
    );
}

// Certificates in mode psk.

fn certificates(seed: u64, usage: CertificateUse, config: InitiatorConfig) -> World {
    let mut n3iwf: EndpointConfig = setup::accepting(&[Psk], Prefer);
    n3iwf.acceptance.certificate = usage;
    let mut world = World::new(seed, setup::ue_endpoint(), n3iwf);
    world.initiate_with(config, &setup::offering(&[Psk], Prefer));
    world.run(seconds(20));
    world
}

/// Octets of the N3IWF's first protected message: with a certificate it is a lot longer.
fn first_answer(world: &World) -> usize {
    let answers = world.sent.iter().filter(|sent| sent.from == N3iwf);
    answers.map(|sent| sent.data.len()).nth(1).unwrap()
}

#[test]
fn a_certificate_is_sent_when_asked_for_or_always() {
    use CertificateUse::{Always, Never, WhenAsked};
    let long = |world: &World| first_answer(world) > 600;
    let asked = certificates(160, WhenAsked, trusting());
    assert_eq!(asked.ue.record.established.len(), 1);
    assert!(long(&asked));
    let quiet = certificates(161, WhenAsked, setup::choosy());
    assert_eq!(quiet.ue.record.established.len(), 1);
    assert!(!long(&quiet));
    let always = certificates(162, Always, setup::choosy());
    assert_eq!(always.ue.record.established.len(), 1);
    assert!(long(&always));
    let never = certificates(163, Never, trusting());
    assert!(never.ue.record.established.is_empty());
    assert_eq!(
        never.ue.record.closed[0].1,
        CloseReason::AuthenticationFailed,
        "a trust anchor is not passed over"
    );
}

#[test]
fn a_certificate_for_another_name_or_of_no_authority_is_refused() {
    let mut n3iwf = setup::accepting(&[Psk], Prefer);
    n3iwf.responder.as_mut().unwrap().identity = Identification::fqdn("other.example.net");
    let mut world = World::new(164, setup::ue_endpoint(), n3iwf);
    let config = InitiatorConfig {
        peer_identity: None,
        ..trusting()
    };
    let reason = fails(&mut world, config, &[Psk], Prefer);
    assert_eq!(reason, CloseReason::AuthenticationFailed);
    // No authority at all: nothing can be judged, so nothing is trusted.
    let config = InitiatorConfig {
        peer_certificate: PeerCertificate::Trusted(Vec::new()),
        ..setup::choosy()
    };
    let mut world = self::world(165, &[Psk], Prefer);
    let reason = fails(&mut world, config, &[Psk], Prefer);
    assert_eq!(reason, CloseReason::AuthenticationFailed);
}
