//! IKE_INTERMEDIATE, additional key exchanges and mode `hybrid`: what it costs, what it proves, and every way to talk two
//! peers out of it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ike::{
    CloseReason, EndpointConfig, Fate, Fragmentation, InitiatorConfig, KeyLog, KeyPurpose,
    Mode::{self, Hybrid, Psk, Qkd},
    Offer, PpkUse,
    Profile::Native,
    QkdFailure,
    QkdPolicy::{self, Prefer, Require},
    crypto::{IkeKeys, IkeSuite, KeMethod, keymat, ppk},
    wire::{self, Body, ExchangeType, NotifyType, Payload, TransformType},
};
use keys::Secret;

use crate::{
    setup,
    world::{
        Side::{self, N3iwf, Ue},
        World,
    },
};

pub(crate) const MODES: [Mode; 2] = [Hybrid, Psk];

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// An N3IWF with these suites.
pub(crate) fn n3iwf(
    modes: &[Mode],
    policy: QkdPolicy,
    place: PpkUse,
    suite: IkeSuite,
) -> EndpointConfig {
    let mut config = setup::accepting(modes, policy);
    config.responder.as_mut().unwrap().ike_suites = vec![suite];
    config.acceptance.ppk = place;
    config.lifetimes.from_peer = true;
    config
}

pub(crate) fn ue() -> EndpointConfig {
    let mut config = setup::ue_endpoint();
    config.lifetimes.from_peer = true;
    config
}

pub(crate) fn config(suite: IkeSuite) -> InitiatorConfig {
    InitiatorConfig {
        ike_suites: vec![suite],
        ..setup::native()
    }
}

pub(crate) fn offering(modes: &[Mode], policy: QkdPolicy, place: PpkUse) -> Offer {
    Offer {
        ppk: place,
        ..setup::offering(modes, policy)
    }
}

pub(crate) fn plain() -> IkeSuite {
    setup::exchange(KeMethod::Curve25519)
}

fn mode(world: &mut World) -> Mode {
    let here = world.established(Ue).remove(0).mode;
    assert_eq!(world.established(N3iwf)[0].mode, here);
    here
}

/// Exchanges of this type that the UE has begun, retransmissions not counted.
fn exchanges(world: &World, exchange: ExchangeType) -> usize {
    let ids: std::collections::BTreeSet<u32> = world
        .sent
        .iter()
        .filter(|sent| sent.from == Ue)
        .map(|sent| wire::parse(&sent.data).unwrap().header)
        .filter(|header| header.exchange == exchange)
        .map(|header| header.message_id)
        .collect();
    ids.len()
}

fn strip(kind: NotifyType) -> impl Fn(&mut Vec<Payload>) {
    move |payloads| payloads.retain(|p| !matches!(p, Payload::Notify(n) if n.kind == kind))
}

fn fails(world: &mut World, config: InitiatorConfig, offer: &Offer) -> CloseReason {
    let ue = world.initiate_with(config, offer);
    world.run(seconds(180));
    assert!(world.n3iwf.record.established.is_empty());
    assert!(world.ue.record.established.is_empty());
    assert!(world.ue.record.installed.is_empty() && world.n3iwf.record.installed.is_empty());
    for side in [Ue, N3iwf] {
        let record = &world.node(side).record;
        assert_eq!(record.provided, record.fates.len());
        assert!(record.fates.values().all(|fate| *fate == Fate::Lost));
    }
    world.reason(Ue, ue).unwrap()
}

#[test]
fn additional_key_exchanges_take_one_exchange_each() {
    use KeMethod::{Ecp384, MlKem512, MlKem768, MlKem1024, Modp2048};
    let cases: [&[KeMethod]; 5] = [
        &[MlKem768],
        &[MlKem1024],
        &[Ecp384],
        &[MlKem512, Modp2048],
        &[MlKem768, MlKem1024, Ecp384],
    ];
    for (seed, methods) in (1100..).zip(cases) {
        let suite = setup::additional(methods);
        let accept = n3iwf(&[Psk], Prefer, PpkUse::Either, suite);
        let mut world = World::new(seed, ue(), accept);
        let offer = offering(&[Psk], Prefer, PpkUse::Either);
        let (_, n3iwf) = world.attach_with(config(suite), &offer);
        world.command(N3iwf, |endpoint, now| {
            endpoint
                .create_child(now, n3iwf, setup::user_child(1))
                .unwrap()
        });
        world.run(seconds(1));
        assert_eq!(
            exchanges(&world, ExchangeType::IkeIntermediate),
            methods.len()
        );
        assert_eq!(world.established(Ue)[0].suite, Some(suite));
        assert_eq!(world.ue.record.installed.len(), 2);
        world.check_keys();
        assert_eq!(world.kme.allocations, 0);
    }
}

#[test]
fn additional_key_exchanges_pass_small_and_lossy_paths() {
    let suite = setup::additional(&[KeMethod::MlKem768, KeMethod::MlKem1024]);
    for seed in 1110..1140 {
        let small = Fragmentation {
            datagram: Some(576),
            ..Fragmentation::default()
        };
        let accept = n3iwf(&MODES, Prefer, PpkUse::Either, suite);
        let sized = |config| EndpointConfig {
            fragmentation: small,
            ..config
        };
        let mut world = World::new(seed, sized(ue()), sized(accept));
        world.faults.loss = 100;
        world.faults.duplicate = 100;
        world.faults.jitter = Duration::from_millis(100);
        world.nat = (seed % 2 == 0).then_some(crate::world::Nat {
            outer: [198, 51, 100, 77].into(),
            port_offset: 7000,
        });
        let begun = world.initiate_with(config(suite), &offering(&MODES, Prefer, PpkUse::Either));
        world.run(seconds(100));
        assert!(world.sent.iter().all(|sent| sent.data.len() + 28 <= 576));
        if world.ue.record.established.contains(&begun) {
            assert_eq!(mode(&mut world), Hybrid);
            world.check_keys();
        }
        assert!(world.kme.allocations <= 1, "one key, however often asked");
    }
}

#[test]
fn hybrid_spends_one_key_and_mixes_it_where_both_want() {
    use PpkUse::{Auth, Either, Intermediate};
    // N3IWF, UE, IKE_INTERMEDIATE exchanges without ADDKE.
    let cases = [
        (Either, Either, 1),
        (Intermediate, Either, 1),
        (Either, Intermediate, 1),
        (Auth, Either, 0),
        (Either, Auth, 0),
    ];
    for addition in [&[][..], &[KeMethod::MlKem768]] {
        for (seed, (here, there, expected)) in (1150..).zip(cases) {
            let suite = setup::additional(addition);
            let accept = n3iwf(&MODES, Prefer, here, suite);
            let mut world = World::new(seed, ue(), accept);
            let (_, sa) = world.attach_with(config(suite), &offering(&MODES, Prefer, there));
            world.command(N3iwf, |endpoint, now| {
                endpoint
                    .create_child(now, sa, setup::user_child(1))
                    .unwrap()
            });
            world.run(seconds(1));
            assert_eq!(mode(&mut world), Hybrid);
            assert_eq!(
                exchanges(&world, ExchangeType::IkeIntermediate),
                expected + addition.len()
            );
            assert_eq!(world.ue.record.installed.len(), 2);
            world.check_keys();
            assert_eq!((world.kme.allocations, world.kme.collections), (1, 1));
            let used = Fate::Used {
                purpose: KeyPurpose::Ppk,
                child: None,
            };
            for side in [Ue, N3iwf] {
                let fates: Vec<_> = world.node(side).record.fates.values().copied().collect();
                assert_eq!(fates, [used]);
                let status = world.established(side).remove(0);
                assert_eq!((status.key_ids.len(), status.held_keys), (1, 0));
            }
        }
    }
}

#[test]
fn places_that_do_not_meet_leave_the_other_modes() {
    let accept = |modes| n3iwf(modes, Prefer, PpkUse::Intermediate, plain());
    let mut world = World::new(1165, ue(), accept(&MODES));
    world.attach_with(config(plain()), &offering(&MODES, Prefer, PpkUse::Auth));
    assert_eq!(mode(&mut world), Psk);
    assert_eq!(world.kme.allocations, 0);
    let mut world = World::new(1166, ue(), accept(&MODES));
    let offer = offering(&MODES, Require, PpkUse::Auth);
    let reason = fails(&mut world, config(plain()), &offer);
    assert_eq!(reason, CloseReason::NoProposalChosen);
}

#[test]
fn the_better_of_three_modes_is_chosen() {
    let modes = [Qkd(Native), Hybrid, Psk];
    for (seed, theirs, expected) in [
        (1167, &modes[..], Qkd(Native)),
        (1168, &modes[1..], Hybrid),
        (1169, &modes[2..], Psk),
    ] {
        let mut accept = setup::accepting(&modes, Prefer);
        accept.lifetimes.from_peer = true;
        let mut world = World::new(seed, ue(), accept);
        let offer = offering(theirs, Prefer, PpkUse::Either);
        world.attach_with(setup::choosy(), &offer);
        assert_eq!(mode(&mut world), expected);
    }
}

#[test]
fn another_key_under_the_same_name_is_refused() {
    // By the confirmation in IKE_INTERMEDIATE, by AUTH in IKE_AUTH.
    for (seed, place) in [(1170, PpkUse::Intermediate), (1171, PpkUse::Auth)] {
        let mut world = World::new(seed, ue(), n3iwf(&MODES, Prefer, place, plain()));
        world.kme.faults.wrong_octets = Some(0);
        let reason = fails(
            &mut world,
            config(plain()),
            &offering(&MODES, Prefer, place),
        );
        assert_eq!(reason, CloseReason::AuthenticationRefused);
        assert_eq!(
            world.n3iwf.record.closed[0].1,
            CloseReason::AuthenticationFailed
        );
        let before_identity = exchanges(&world, ExchangeType::IkeAuth) == 0;
        assert_eq!(before_identity, place == PpkUse::Intermediate);
    }
}

#[test]
fn the_subscription_is_proven_in_mode_hybrid_too() {
    for (seed, place) in [(1172, PpkUse::Intermediate), (1173, PpkUse::Auth)] {
        let mut world = World::new(seed, ue(), n3iwf(&MODES, Prefer, place, plain()));
        world.behaviour.wrong_msk = true;
        let reason = fails(
            &mut world,
            config(plain()),
            &offering(&MODES, Prefer, place),
        );
        assert_eq!(reason, CloseReason::AuthenticationRefused);
    }
}

#[test]
fn without_a_key_policy_decides() {
    for (seed, master) in [(1174, true), (1175, false)] {
        for policy in [Prefer, Require] {
            let mut world = World::new(seed, ue(), n3iwf(&MODES, Prefer, PpkUse::Either, plain()));
            let failure = Some(QkdFailure::NoKeys);
            match master {
                true => world.kme.faults.master = failure,
                false => world.kme.faults.slave = failure,
            }
            let offer = offering(&MODES, policy, PpkUse::Either);
            if policy == Require {
                let reason = fails(&mut world, config(plain()), &offer);
                assert!(matches!(
                    reason,
                    CloseReason::PeerQkdUnavailable(1) | CloseReason::Qkd(QkdFailure::NoKeys)
                ));
                continue;
            }
            world.attach_with(config(plain()), &offer);
            assert_eq!(mode(&mut world), Psk);
            assert_eq!(world.ue.record.fallbacks[0].1, [Psk], "in the open");
        }
    }
}

// Downgrades: an attacker on the path rewrites IKE_SA_INIT, which both AUTH cover.

fn downgraded(seed: u64, side: Side, change: impl Fn(&mut Vec<Payload>) + 'static) {
    let suites = vec![setup::additional(&[KeMethod::MlKem768]), plain()];
    let mut accept = n3iwf(&MODES, Prefer, PpkUse::Either, plain());
    accept
        .responder
        .as_mut()
        .unwrap()
        .ike_suites
        .clone_from(&suites);
    let mut world = World::new(seed, ue(), accept);
    world.tamper(side, change);
    let config = InitiatorConfig {
        ike_suites: suites,
        ..setup::native()
    };
    let reason = fails(
        &mut world,
        config,
        &offering(&MODES, Prefer, PpkUse::Either),
    );
    assert!(
        matches!(
            reason,
            CloseReason::AuthenticationFailed | CloseReason::AuthenticationRefused
        ),
        "{seed}: {reason:?}"
    );
}

#[test]
fn taking_any_part_of_the_offer_away_is_noticed() {
    downgraded(1180, Ue, strip(NotifyType::QKD_SUPPORTED));
    downgraded(1181, Ue, strip(NotifyType::USE_PPK_INT));
    downgraded(1182, Ue, strip(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED));
    downgraded(1183, Ue, |payloads| {
        strip(NotifyType::USE_PPK)(payloads);
        strip(NotifyType::USE_PPK_INT)(payloads);
    });
    downgraded(1184, Ue, |payloads| {
        for payload in payloads {
            if let Payload::Sa(sa) = payload {
                sa.proposals
                    .retain(|proposal| proposal.of_type(TransformType::ADDKE1).next().is_none());
            }
        }
    });
    downgraded(1185, Ue, |payloads| {
        strip(NotifyType::QKD_SUPPORTED)(payloads);
        strip(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)(payloads);
    });
}

#[test]
fn an_answer_without_the_exchange_that_its_suite_needs_is_none() {
    let suite = setup::additional(&[KeMethod::MlKem768]);
    let mut world = World::new(1190, ue(), n3iwf(&[Psk], Prefer, PpkUse::Either, suite));
    world.tamper(N3iwf, strip(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED));
    let offer = offering(&[Psk], Prefer, PpkUse::Either);
    let reason = fails(&mut world, config(suite), &offer);
    let expected = CloseReason::Syntax("additional key exchanges without IKE_INTERMEDIATE");
    assert_eq!(reason, expected);
}

#[test]
fn suites_with_additional_exchanges_are_not_chosen_for_a_peer_that_has_none() {
    let suite = setup::additional(&[KeMethod::MlKem768]);
    let mut world = World::new(1191, ue(), n3iwf(&[Psk], Prefer, PpkUse::Either, suite));
    world.tamper(Ue, strip(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED));
    let offer = offering(&[Psk], Prefer, PpkUse::Either);
    let reason = fails(&mut world, config(suite), &offer);
    assert_eq!(reason, CloseReason::NoProposalChosen);
}

/// Keys of each stage, on the side that is asked.
#[derive(Default)]
pub(crate) struct Stages(pub(crate) Mutex<Vec<(u64, u64, IkeSuite, IkeKeys)>>);

impl std::fmt::Debug for Stages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stages")
    }
}

impl KeyLog for Stages {
    fn ike_sa(&self, spi_i: u64, spi_r: u64, suite: &IkeSuite, keys: &IkeKeys) {
        let copy = IkeKeys {
            sk_d: keys.sk_d.duplicate(),
            sk_pi: keys.sk_pi.duplicate(),
            sk_pr: keys.sk_pr.duplicate(),
            initiator: keys.initiator.duplicate(),
            responder: keys.responder.duplicate(),
        };
        self.0.lock().unwrap().push((spi_i, spi_r, *suite, copy));
    }
}

/// The schedule, put together from its primitives, which have vectors of their own.
#[test]
fn the_keys_of_the_last_stage_are_those_of_rfc_9867() {
    let suite = setup::additional(&[KeMethod::MlKem768]);
    let log = Arc::new(Stages::default());
    let mut here = ue();
    here.key_log = Some(Arc::clone(&log) as Arc<dyn KeyLog>);
    let mut world = World::new(1195, here, n3iwf(&MODES, Prefer, PpkUse::Either, suite));
    world.attach_with(config(suite), &offering(&MODES, Prefer, PpkUse::Either));
    let stages = log.0.lock().unwrap();
    assert_eq!(stages.len(), 3, "IKE_SA_INIT, ML-KEM, PPK");
    let nonce = |at: usize| {
        let Body::Clear(payloads) = wire::parse(&world.sent[at].data).unwrap().body else {
            panic!("IKE_SA_INIT is in clear");
        };
        payloads.into_iter().find_map(|payload| match payload {
            Payload::Nonce(nonce) => Some(nonce),
            _ => None,
        })
    };
    let (ni, nr) = (nonce(0).unwrap(), nonce(1).unwrap());
    let key = Secret::from_slice(world.kme.made.values().next().unwrap());
    let (spi_i, spi_r, _, second) = &stages[1];
    let (_, _, _, third) = &stages[2];
    let seed = ppk::mix(suite.prf, &key, &second.sk_d).unwrap();
    let keys = keymat::ike_keys(&suite, &seed, &ni, &nr, *spi_i, *spi_r).unwrap();
    for (made, expected) in [
        (&third.sk_d, &keys.sk_d),
        (&third.sk_pi, &keys.sk_pi),
        (&third.sk_pr, &keys.sk_pr),
        (&third.initiator.encr, &keys.initiator.encr),
        (&third.responder.encr, &keys.responder.encr),
    ] {
        assert_eq!(made.expose(), expected.expose());
    }
    let child = keymat::child_keys(suite.prf, &setup::GCM_ESP, &keys.sk_d, &[], &ni, &nr).unwrap();
    let installed = world.ue.record.installed.values().next().unwrap();
    assert_eq!(installed.key_out, child.first.encr.expose());
    assert_eq!(installed.key_in, child.second.encr.expose());
}
