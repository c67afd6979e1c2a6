//! Mode `plain`: IKE_AUTH without EAP, by shared key and by certificate, and only where it is configured.

use std::{sync::Arc, time::Duration};

use ike::{
    CloseReason, EndpointConfig, Lifetimes,
    Mode::{Cert, Plain, Psk},
    Offer,
    QkdPolicy::Forbid,
    wire::{self, Body, NotifyType, Payload},
};
use keys::{QkdKey, Secret};

use crate::{
    certificates::{self, KEYS, RSA, named},
    setup,
    world::{
        Side::{N3iwf, Ue},
        World,
    },
};

fn key(octet: u8) -> Option<Arc<Secret>> {
    Some(Arc::new(Secret::from_slice(&[octet; 24])))
}

fn responder(octet: u8) -> EndpointConfig {
    let mut config = setup::accepting(&[Plain], Forbid);
    config.acceptance.credential = None;
    config.acceptance.shared_key = key(octet);
    config.lifetimes = Lifetimes {
        from_peer: true,
        ..Lifetimes::default()
    };
    config
}

fn offer(octet: u8) -> Offer {
    Offer {
        shared_key: key(octet),
        ..setup::offering(&[Plain], Forbid)
    }
}

fn initiator() -> EndpointConfig {
    EndpointConfig {
        lifetimes: Lifetimes {
            from_peer: true,
            ..Lifetimes::default()
        },
        ..setup::ue_endpoint()
    }
}

/// Both reasons of an attach that has to fail.
fn fails(seed: u64, config: EndpointConfig, offer: &Offer) -> (CloseReason, CloseReason) {
    let mut world = World::new(seed, initiator(), config);
    let ue = world.initiate_with(named(), offer);
    world.run(Duration::from_secs(120));
    assert!(world.ue.record.established.is_empty());
    assert!(world.n3iwf.record.established.is_empty());
    assert!(world.ue.record.installed.is_empty() && world.n3iwf.record.installed.is_empty());
    let there = world.n3iwf.record.closed.first().unwrap().1.clone();
    (world.reason(Ue, ue).unwrap(), there)
}

#[test]
fn a_shared_key_proves_both_ends_in_two_round_trips() {
    let mut world = World::new(1300, initiator(), responder(3));
    let (ue, n3iwf) = world.attach_with(named(), &offer(3));
    assert_eq!(world.sent.len(), 4, "IKE_SA_INIT and IKE_AUTH, no more");
    for side in [Ue, N3iwf] {
        assert_eq!(world.established(side)[0].mode, Plain);
        assert_eq!(world.node(side).record.installed.len(), 1);
    }
    assert_eq!(world.ue.record.configuration, setup::cfg_reply());
    assert_eq!(world.n3iwf.record.eap_begins, 0);
    world.check_keys();
    for (side, sa) in [(Ue, ue), (N3iwf, n3iwf)] {
        let child = world.established(side)[0].children[0].id;
        world
            .command(side, |endpoint, now| endpoint.rekey_child(now, sa, child))
            .unwrap();
        world.run(Duration::from_secs(2));
        world
            .command(side, |endpoint, now| endpoint.rekey_ike(now, sa))
            .unwrap();
        world.run(Duration::from_secs(2));
    }
    assert_eq!(world.ue.record.ike_rekeys, 2);
    assert_eq!(world.n3iwf.record.ike_rekeys, 2);
    assert_eq!(world.ue.record.switched.len(), 2);
    assert_eq!(world.ue.record.installed.len(), 1);
    world.check_keys();
}

#[test]
fn certificates_of_every_kind_prove_both_ends_without_eap() {
    for (seed, here) in (1310..).zip(0..KEYS.len()) {
        let there = (here + 2) % KEYS.len();
        let mut world = World::new(seed, initiator(), certificates::n3iwf(&[Plain], there));
        world.attach_with(named(), &certificates::ue(&[Plain], here));
        assert_eq!(world.established(Ue)[0].mode, Plain);
        assert_eq!(world.established(N3iwf)[0].mode, Plain);
        assert_eq!(world.n3iwf.record.eap_begins, 0);
        world.check_keys();
    }
}

#[test]
fn another_key_is_refused() {
    let reasons = fails(1320, responder(3), &offer(4));
    let expected = (
        CloseReason::AuthenticationRefused,
        CloseReason::AuthenticationFailed,
    );
    assert_eq!(reasons, expected);
}

#[test]
fn an_end_that_expects_a_certificate_takes_no_shared_key_and_the_reverse() {
    let expected = CloseReason::AuthenticationFailed;
    let reasons = fails(1330, certificates::n3iwf(&[Plain], 0), &offer(3));
    assert_eq!(reasons.1, expected);
    let reasons = fails(1331, responder(3), &certificates::ue(&[Plain], 0));
    assert_eq!(reasons.1, expected);
    // The responder proves itself by certificate; the initiator knows a key alone.
    let mut config = responder(3);
    config.acceptance.shared_key = None;
    config.acceptance.credential = certificates::n3iwf(&[Plain], 0).acceptance.credential;
    config.acceptance.trust = Some(setup::trust());
    let offer = Offer {
        trust: None,
        ..certificates::ue(&[Plain], 1)
    };
    let mut world = World::new(1332, initiator(), config);
    let ue = world.initiate_with(named(), &offer);
    world.run(Duration::from_secs(60));
    assert_eq!(world.reason(Ue, ue), Some(expected));
}

#[test]
fn nobody_gets_in_without_eap_where_mode_plain_is_not_configured() {
    let mut config = certificates::n3iwf(&[Cert, Psk], 0);
    config.acceptance.shared_key = key(3);
    let reasons = fails(1340, config, &offer(3));
    assert_eq!(reasons.1, CloseReason::AuthenticationFailed);
    let reasons = fails(
        1341,
        certificates::n3iwf(&[Psk], 0),
        &certificates::ue(&[Plain], 1),
    );
    assert_eq!(reasons.1, CloseReason::AuthenticationFailed);
}

#[test]
fn an_initiator_that_wants_no_eap_is_not_led_into_it() {
    let config = responder(3);
    let reasons = fails(
        1350,
        EndpointConfig {
            acceptance: ike::Acceptance {
                modes: vec![Psk],
                ..config.acceptance.clone()
            },
            ..config
        },
        &offer(3),
    );
    assert_eq!(reasons.0, CloseReason::AuthenticationRefused);
}

#[test]
fn method_1_counts_only_where_it_is_allowed() {
    for (seed, allowed) in [(1360, true), (1361, false)] {
        let mut config = certificates::n3iwf(&[Plain], 0);
        config.acceptance.allow_sha1 = allowed;
        let mut world = World::new(seed, initiator(), config);
        // The initiator does not hear of RFC 7427, so it signs with method 1.
        world.tap = Some(Box::new(|from, data| {
            let Ok(parsed) = wire::parse(data) else {
                return Some(data.to_vec());
            };
            match parsed.body {
                Body::Clear(mut payloads) if from == N3iwf => {
                    payloads.retain(|payload| !matches!(payload, Payload::Notify(n) if n.kind == NotifyType::SIGNATURE_HASH_ALGORITHMS));
                    wire::encode(&parsed.header, &payloads).ok()
                }
                _ => Some(data.to_vec()),
            }
        }));
        let offer = Offer {
            allow_sha1: true,
            ..certificates::ue(&[Plain], RSA)
        };
        let ue = world.initiate_with(named(), &offer);
        world.run(Duration::from_secs(60));
        // The initiator's method 1 covers the request, which nobody changed: the responder takes it where it may.
        let granted = !world.n3iwf.record.established.is_empty();
        assert_eq!(granted, allowed);
        let expected = match allowed {
            // The responder signs its own message, which was changed on the way.
            true => CloseReason::AuthenticationFailed,
            false => CloseReason::AuthenticationRefused,
        };
        assert_eq!(world.reason(Ue, ue), Some(expected));
    }
}

fn ppk(octet: u8) -> Option<Arc<QkdKey>> {
    Some(Arc::new(QkdKey {
        id: "bc490419-7d60-487f-adc1-4ddcc177c139".parse().unwrap(),
        secret: Secret::from_slice(&[octet; 32]),
    }))
}

/// What both ends have for a PPK.
fn with_ppk(ours: Option<Arc<QkdKey>>, theirs: Option<Arc<QkdKey>>) -> (Offer, EndpointConfig) {
    let mut config = responder(3);
    config.acceptance.configured_ppk = theirs;
    let offer = Offer {
        configured_ppk: ours,
        ..offer(3)
    };
    (offer, config)
}

#[test]
fn a_configured_ppk_is_in_the_keys_of_both_ends() {
    let (offer, config) = with_ppk(ppk(9), ppk(9));
    let mut world = World::new(1370, initiator(), config);
    let (ue, _) = world.attach_with(named(), &offer);
    assert_eq!(world.sent.len(), 4);
    world.check_keys();
    let rekeyed = world.command(Ue, |endpoint, now| endpoint.rekey_ike(now, ue));
    rekeyed.unwrap();
    world.run(Duration::from_secs(2));
    let child = world.established(Ue)[0].children[0].id;
    let rekeyed = world.command(Ue, |endpoint, now| endpoint.rekey_child(now, ue, child));
    rekeyed.unwrap();
    world.run(Duration::from_secs(2));
    assert_eq!(world.n3iwf.record.ike_rekeys, 1);
    assert_eq!(world.ue.record.switched.len(), 1);
    world.check_keys();
}

#[test]
fn an_end_with_a_ppk_goes_nowhere_without_it() {
    let (offer, config) = with_ppk(ppk(9), ppk(8));
    let reasons = fails(1371, config, &offer);
    assert_eq!(reasons.0, CloseReason::AuthenticationRefused);
    let (offer, config) = with_ppk(None, ppk(9));
    let reasons = fails(1372, config, &offer);
    assert_eq!(reasons.0, CloseReason::AuthenticationRefused);
    let (offer, config) = with_ppk(ppk(9), None);
    let mut world = World::new(1373, initiator(), config);
    let ue = world.initiate_with(named(), &offer);
    world.run(Duration::from_secs(60));
    let reason = world.reason(Ue, ue);
    assert_eq!(reason, Some(CloseReason::NoProposalChosen));
    assert!(world.n3iwf.record.established.is_empty());
}
