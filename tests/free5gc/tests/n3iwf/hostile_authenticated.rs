//! The published weaknesses that need a subscription, or an IKE SA that is established.

use dataplane::SpecError;
use ike::wire::{
    ExchangeType, NotifyType, Payload, PayloadType, Proposal, Protocol, SaPayload, Transform,
    TransformType, find_notify,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::{
    stranger::{Stranger, is_only, raw},
    world::World,
};

/// CFG_REQUEST with INTERNAL_IP4_ADDRESS of this many octets.
fn request(len: u8) -> Payload {
    let mut body = vec![1, 0, 0, 0, 0, 1, 0, len];
    body.extend(vec![10; len.into()]);
    raw(PayloadType::CP, body)
}

#[test]
fn issue_984_an_inner_address_of_one_to_three_octets() {
    for len in [1, 2, 3, 5, 255] {
        let mut world = World::new();
        let mut stranger = Stranger::authenticated(&mut world, Stranger::good_child());
        world.to_core.clear();
        let payloads = [stranger.auth(), request(len)];
        let answer = stranger.ask(&mut world, ExchangeType::IkeAuth, 5, &payloads);
        assert!(
            is_only(&answer.unwrap(), NotifyType::INVALID_SYNTAX),
            "{len}"
        );
        assert!(world.specs.is_empty());
        assert_eq!(world.gateway.sas().len(), 0);
        // The core is told that its context did not come about, and lets go of the UE.
        assert_eq!(
            world.to_core.first().map(String::as_str),
            Some("InitialContextSetupFailure")
        );
        assert!(world.gateway.is_empty(), "{:?}", world.to_core);
        assert_eq!(world.gateway.addresses_taken(), 0);
    }
    // And before anybody is authenticated.
    for len in [1, 2, 3, 5] {
        let mut world = World::new();
        let mut stranger = Stranger::init(&mut world);
        let mut payloads = Stranger::good_first(Stranger::good_child());
        payloads.push(request(len));
        let answer = stranger.ask(&mut world, ExchangeType::IkeAuth, 1, &payloads);
        assert!(
            is_only(&answer.unwrap(), NotifyType::INVALID_SYNTAX),
            "{len}"
        );
        world.assert_untouched();
    }
    // Empty, and with the four octets of an address, it is served.
    for len in [0, 4] {
        let mut world = World::new();
        let mut stranger = Stranger::authenticated(&mut world, Stranger::good_child());
        let payloads = [stranger.auth(), request(len)];
        let answer = stranger.ask(&mut world, ExchangeType::IkeAuth, 5, &payloads);
        assert!(find_notify(&answer.unwrap(), NotifyType::NAS_IP4_ADDRESS).is_some());
        assert_eq!(world.specs.len(), 1);
    }
}

/// A proposal for ESP of these transforms and no ESN.
fn esp(transforms: &[(TransformType, u16, Option<u16>)]) -> SaPayload {
    let mut list: Vec<Transform> = transforms
        .iter()
        .map(|(kind, id, bits)| Transform {
            key_length: *bits,
            ..Transform::new(*kind, *id)
        })
        .collect();
    list.push(Transform::new(TransformType::ESN, 0));
    SaPayload {
        proposals: vec![Proposal {
            number: 1,
            protocol: Protocol::ESP,
            spi: vec![1, 1, 1, 1],
            transforms: list,
        }],
    }
}

#[test]
fn issue_973_esp_without_encryption_or_integrity() {
    let (encr, integ) = (TransformType::ENCR, TransformType::INTEG);
    let aes = (encr, 12, Some(256));
    let bad = [
        // ENCR_NULL alone, with NONE, with SHA-1; AES-CBC alone and with NONE; MD5; nothing.
        esp(&[(encr, 11, None)]),
        esp(&[(encr, 11, None), (integ, 0, None)]),
        esp(&[(encr, 11, None), (integ, 2, None)]),
        esp(&[aes]),
        esp(&[aes, (integ, 0, None)]),
        esp(&[aes, (integ, 1, None)]),
        esp(&[(integ, 2, None)]),
        esp(&[]),
    ];
    for offer in bad {
        let mut world = World::new();
        let mut stranger = Stranger::authenticated(&mut world, offer.clone());
        let auth = stranger.auth();
        let answer = stranger.ask(&mut world, ExchangeType::IkeAuth, 5, &[auth]);
        let answer = answer.unwrap();
        // RFC 7296 1.2: the peer is authenticated, the Child SA is not to be.
        assert!(find_notify(&answer, NotifyType::NO_PROPOSAL_CHOSEN).is_some());
        assert!(
            !answer.iter().any(|p| matches!(p, Payload::Sa(_))),
            "{offer:?}"
        );
        assert!(world.specs.is_empty());
    }
}

#[test]
fn issue_992_every_child_sa_has_a_replay_window() {
    let mut world = World::new();
    Stranger::attached(&mut world);
    let [spec] = world.specs.as_mut_slice() else {
        panic!("one Child SA");
    };
    assert_eq!(spec.replay_window, 128);
    // The data plane takes none without.
    for window in [0, 1, 31] {
        spec.replay_window = window;
        assert_eq!(spec.check(3), Err(SpecError::ReplayWindow(window)));
    }
}

#[test]
fn issue_994_a_message_id_counts_once() {
    let mut world = World::new();
    let mut stranger = Stranger::attached(&mut world);
    let status = format!("{:?}", world.gateway.sas());
    let core = world.to_core.len();
    // Requests with IDs of the past and of the future, each well protected.
    for id in [0, 1, 2, 3, 4, 5, 7, 8, u32::MAX] {
        for exchange in [
            ExchangeType::IkeAuth,
            ExchangeType::CreateChildSa,
            ExchangeType::Informational,
        ] {
            let delete = Payload::Delete(ike::wire::Delete::Ike);
            assert_eq!(
                stranger.ask(&mut world, exchange, id, &[delete]),
                None,
                "{id}"
            );
        }
    }
    assert_eq!(format!("{:?}", world.gateway.sas()), status);
    // The right one, and then the same octets again: the same answer, and nothing done twice.
    let request = stranger.seal(ExchangeType::Informational, 6, &[]);
    world.inject(stranger.address, &request);
    let first = world.answers();
    assert_eq!(first.len(), 1);
    world.inject(stranger.address, &request);
    assert_eq!(world.answers(), first);
    // Other octets with its ID: nothing.
    assert_eq!(
        stranger.ask(&mut world, ExchangeType::Informational, 6, &[]),
        None
    );
    assert_eq!((world.to_core.len(), world.specs.len()), (core, 1));
}

#[test]
fn issue_994_responses_nobody_asked_for() {
    let mut world = World::new();
    let mut stranger = Stranger::attached(&mut world);
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    for id in [0, 1, 5, 6, u32::MAX] {
        for exchange in [ExchangeType::CreateChildSa, ExchangeType::Informational] {
            let sa = stranger.sa.as_mut().unwrap();
            let delete = [Payload::Delete(ike::wire::Delete::Ike)];
            let response = sa.seal(&mut rng, exchange, true, id, &delete).unwrap();
            assert_eq!(stranger.send(&mut world, &response), None);
        }
    }
    assert_eq!((world.gateway.sas().len(), world.specs.len()), (1, 1));
}
