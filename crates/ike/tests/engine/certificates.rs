//! Certificates of both ends: mode `cert`, and chains in mode `psk`.

use std::time::Duration;

use ike::{
    CertificateUse, CloseReason, EndpointConfig, InitiatorConfig,
    Mode::{self, Cert, Psk},
    Offer,
    QkdPolicy::Prefer,
    wire::{self, Body, IdType, Identification, NotifyType, Payload},
};

use crate::{
    setup,
    world::{
        Side::{N3iwf, Ue},
        World,
    },
};

macro_rules! pki {
    ($name:literal) => {
        (
            include_bytes!(concat!("../vectors/pki/", $name, ".pem")).as_slice(),
            include_bytes!(concat!("../vectors/pki/", $name, ".key")).as_slice(),
        )
    };
}

pub(crate) const KEYS: [(&[u8], &[u8]); 5] = [
    pki!("p256"),
    pki!("p384"),
    pki!("p521"),
    pki!("ed25519"),
    pki!("rsa"),
];
pub(crate) const RSA: usize = 4;

pub(crate) fn n3iwf(modes: &[Mode], place: usize) -> EndpointConfig {
    let (pem, key) = KEYS[place];
    let mut config = setup::accepting(modes, Prefer);
    config.acceptance.credential = Some(setup::credential(pem, key));
    config.acceptance.trust = Some(setup::trust());
    config
}

pub(crate) fn ue(modes: &[Mode], place: usize) -> Offer {
    let (pem, key) = KEYS[place];
    Offer {
        credential: Some(setup::credential(pem, key)),
        trust: Some(setup::trust()),
        ..setup::offering(modes, Prefer)
    }
}

/// IDi has to be a name of the certificate.
pub(crate) fn named() -> InitiatorConfig {
    InitiatorConfig {
        identity: Identification::new(IdType::RFC822_ADDR, b"n3iwf@example.net".to_vec()),
        ..setup::choosy()
    }
}

fn world(seed: u64, n3iwf: EndpointConfig) -> World {
    World::new(seed, setup::ue_endpoint(), n3iwf)
}

fn fails(seed: u64, n3iwf: EndpointConfig, config: InitiatorConfig, offer: &Offer) -> CloseReason {
    fails_in(&mut world(seed, n3iwf), config, offer)
}

fn fails_in(world: &mut World, config: InitiatorConfig, offer: &Offer) -> CloseReason {
    let ue = world.initiate_with(config, offer);
    world.run(Duration::from_secs(120));
    assert!(world.ue.record.established.is_empty());
    assert!(world.n3iwf.record.established.is_empty());
    assert!(world.ue.record.installed.is_empty() && world.n3iwf.record.installed.is_empty());
    world.reason(Ue, ue).unwrap()
}

/// Takes payloads out of the clear messages of the N3IWF.
fn strip(world: &mut World, what: impl Fn(&Payload) -> bool + 'static) {
    world.tap = Some(Box::new(move |from, data| {
        let parsed = wire::parse(data).unwrap();
        match parsed.body {
            Body::Clear(mut payloads) if from == N3iwf => {
                payloads.retain(|payload| !what(payload));
                Some(wire::encode(&parsed.header, &payloads).unwrap())
            }
            _ => Some(data.to_vec()),
        }
    }));
}

#[test]
fn both_ends_prove_themselves_with_keys_of_every_kind() {
    for (seed, here) in (900..).zip(0..KEYS.len()) {
        let there = (here + 1) % KEYS.len();
        let mut world = world(seed, n3iwf(&[Cert], there));
        world.attach_with(named(), &ue(&[Cert], here));
        assert_eq!(world.established(Ue)[0].mode, Cert);
        assert_eq!(world.established(N3iwf)[0].mode, Cert);
        assert_eq!(
            world.n3iwf.record.eap_begins, 1,
            "EAP-5G carries NAS all the same"
        );
        world.check_keys();
    }
}

#[test]
fn the_subscription_is_proven_in_mode_cert_too() {
    let mut world = world(905, n3iwf(&[Cert], 0));
    world.behaviour.wrong_msk = true;
    let reason = fails_in(&mut world, named(), &ue(&[Cert], 0));
    assert_eq!(reason, CloseReason::AuthenticationRefused);
}

#[test]
fn cert_is_chosen_when_both_have_it_and_psk_else() {
    let both = [Cert, Psk];
    for (seed, ours, theirs, expected) in [
        (910, &both[..], &both[..], Cert),
        (911, &[Psk], &both, Psk),
        (912, &both, &[Psk], Psk),
        (913, &both, &[Psk, Cert], Psk),
    ] {
        let mut world = world(seed, n3iwf(ours, 0));
        world.attach_with(named(), &ue(theirs, 1));
        assert_eq!(world.established(Ue)[0].mode, expected, "{seed}");
        assert_eq!(world.established(N3iwf)[0].mode, expected, "{seed}");
    }
}

#[test]
fn a_mode_the_other_end_does_not_have_is_not_entered() {
    let refused = CloseReason::AuthenticationRefused;
    let reason = fails(920, n3iwf(&[Cert], 0), named(), &ue(&[Psk], 0));
    assert_eq!(reason, refused);
    let reason = fails(921, n3iwf(&[Psk], 0), named(), &ue(&[Cert], 0));
    assert_eq!(reason, refused);
}

#[test]
fn certificates_that_do_not_vouch_are_refused_on_both_sides() {
    let refused = CloseReason::AuthenticationRefused;
    let failed = CloseReason::AuthenticationFailed;
    // The UE claims a name its certificate does not have.
    let reason = fails(930, n3iwf(&[Cert], 0), setup::choosy(), &ue(&[Cert], 0));
    assert_eq!(reason, refused);
    // Expired, by the UE's calendar and by the N3IWF's.
    let late = 10_000_000_000;
    let mut offer = ue(&[Cert], 0);
    offer.trust.as_mut().unwrap().epoch = late;
    let reason = fails(931, n3iwf(&[Cert], 0), named(), &offer);
    assert_eq!(reason, failed);
    let mut config = n3iwf(&[Cert], 0);
    config.acceptance.trust.as_mut().unwrap().epoch = late;
    let reason = fails(932, config, named(), &ue(&[Cert], 0));
    assert_eq!(reason, refused);
    // The N3IWF has another name.
    let mut config = n3iwf(&[Cert], 0);
    config.responder.as_mut().unwrap().identity = Identification::fqdn("other.example.net");
    let anybody = InitiatorConfig {
        peer_identity: None,
        ..named()
    };
    let reason = fails(933, config, anybody, &ue(&[Cert], 0));
    assert_eq!(reason, failed);
    // The UE has no authority to judge by: then mode cert is none.
    let offer = Offer {
        trust: None,
        ..ue(&[Cert], 0)
    };
    let reason = fails(934, n3iwf(&[Cert], 0), named(), &offer);
    assert_eq!(reason, failed);
}

#[test]
fn taking_the_wish_for_a_certificate_out_of_the_answer_is_noticed() {
    let mut world = world(940, n3iwf(&[Cert, Psk], 0));
    strip(&mut world, |payload| {
        matches!(payload, Payload::CertReq { .. })
    });
    let reason = fails_in(&mut world, named(), &ue(&[Cert, Psk], 0));
    assert_eq!(reason, CloseReason::AuthenticationFailed);
}

#[test]
fn taking_the_hash_algorithms_out_of_the_answer_is_noticed() {
    let mut world = world(941, n3iwf(&[Cert], 0));
    strip(
        &mut world,
        |payload| matches!(payload, Payload::Notify(n) if n.kind == NotifyType::SIGNATURE_HASH_ALGORITHMS),
    );
    let reason = fails_in(&mut world, named(), &ue(&[Cert], RSA));
    assert_eq!(
        reason,
        CloseReason::AuthenticationRefused,
        "no SHA-1 for it"
    );
}

#[test]
fn a_chain_is_judged_in_mode_psk_too() {
    for (seed, place) in (950..).zip(0..KEYS.len()) {
        let mut world = world(seed, n3iwf(&[Psk], place));
        let offer = Offer {
            credential: None,
            ..ue(&[Psk], 0)
        };
        world.attach_with(setup::choosy(), &offer);
        assert_eq!(world.established(Ue)[0].mode, Psk);
    }
    let mut config = n3iwf(&[Psk], 0);
    config.acceptance.certificate = CertificateUse::Never;
    let reason = fails(960, config, setup::choosy(), &ue(&[Psk], 0));
    assert_eq!(
        reason,
        CloseReason::AuthenticationFailed,
        "no silent downgrade"
    );
}
