//! The mistakes of the N3IWF, made by a UE: what a hostile N3IWF, or anybody at its address, might
//! send. Nothing is installed, and the UE says why.

use std::time::Duration;

use free5gc::{n3iwf::Tamper, sa::notify};
use ike::{
    CloseReason,
    wire::{
        self, AuthMethod, Delete, ExchangeType, NotifyType, Payload, PayloadType, TransformType,
    },
};
use ue_user::core::ue::{AttachFailure, State};

use crate::world::World;

fn raw(kind: PayloadType, body: Vec<u8>) -> Payload {
    Payload::Unknown {
        payload_type: kind.0,
        data: body,
    }
}

/// An attach with an N3IWF that changes what it sends.
fn with(tamper: Tamper) -> World {
    let mut world = World::new();
    world.n3iwf.tamper = Some(tamper);
    world.attach();
    world.pass(Duration::from_secs(90));
    world
}

/// Replaces one payload of the responses of one exchange.
fn replacing(exchange: ExchangeType, kind: PayloadType, by: Payload) -> Tamper {
    Box::new(move |header, payloads| {
        if header.exchange == exchange {
            for payload in payloads.iter_mut() {
                if payload.payload_type() == kind {
                    *payload = by.clone();
                }
            }
        }
    })
}

/// The attach failed like this, and left nothing.
fn assert_failed(world: &World, what: &str) {
    let [failure] = world.failures.as_slice() else {
        panic!("{:?}", world.failures);
    };
    assert!(failure.to_string().contains(what), "{failure}");
    assert!(world.installed.is_empty());
    assert_eq!(world.ue.state(), State::Detached);
}

#[test]
fn public_values_that_are_none_are_not_taken() {
    for value in [
        vec![0; 256],
        [vec![0; 255], vec![1]].concat(),
        vec![0xff; 256],
        vec![2; 255],
    ] {
        let ke = Payload::Ke {
            method: 14,
            data: value,
        };
        let world = with(replacing(ExchangeType::IkeSaInit, PayloadType::KE, ke));
        assert!(world.installed.is_empty());
        assert!(
            matches!(world.failures[..], [AttachFailure::Ike(_)]),
            "{:?}",
            world.failures
        );
        // Not one message was sent with keys of it.
        assert!(
            world.sent.iter().all(|data| {
                wire::parse(data).unwrap().header.exchange == ExchangeType::IkeSaInit
            })
        );
    }
}

#[test]
fn answers_outside_the_offer_are_not_taken() {
    let changes: [fn(&mut wire::Proposal); 5] = [
        |proposal| proposal.transforms.clear(),
        // A type left out is a downgrade, not an answer.
        |proposal| {
            proposal
                .transforms
                .retain(|t| t.kind != TransformType::INTEG);
        },
        |proposal| proposal.transforms.retain(|t| t.kind != TransformType::KE),
        |proposal| {
            for transform in &mut proposal.transforms {
                if transform.kind == TransformType::PRF {
                    transform.id = 1;
                }
            }
        },
        |proposal| proposal.number = 9,
    ];
    for change in changes {
        let world = with(Box::new(move |header, payloads| {
            for payload in payloads.iter_mut() {
                if header.exchange == ExchangeType::IkeSaInit
                    && let Payload::Sa(sa) = payload
                {
                    sa.proposals.iter_mut().for_each(change);
                }
            }
        }));
        assert!(world.installed.is_empty());
        assert!(
            matches!(world.failures[..], [AttachFailure::Ike(_)]),
            "{:?}",
            world.failures
        );
        assert!(
            world.sent.iter().all(|data| {
                wire::parse(data).unwrap().header.exchange == ExchangeType::IkeSaInit
            })
        );
    }
}

#[test]
fn group_2_is_not_used_on_request() {
    let wish = notify(NotifyType::INVALID_KE_PAYLOAD, vec![0, 2]);
    let world = with(Box::new(move |header, payloads| {
        if header.exchange == ExchangeType::IkeSaInit {
            *payloads = vec![wish.clone()];
        }
    }));
    assert!(world.installed.is_empty());
    let ke = |data: &Vec<u8>| match wire::parse(data).unwrap().body {
        wire::Body::Clear(payloads) => payloads
            .iter()
            .any(|payload| matches!(payload, Payload::Ke { method, .. } if *method != 14)),
        wire::Body::Encrypted { .. } => false,
    };
    assert!(!world.sent.iter().any(ke));
}

#[test]
fn short_eap_and_eap_5g_that_lies_end_the_attach() {
    for len in 0..4 {
        let short = raw(PayloadType::EAP, vec![1, 1, 0, 4][..len].to_vec());
        let world = with(replacing(ExchangeType::IkeAuth, PayloadType::EAP, short));
        assert_failed(&world, "IKE");
        assert!(matches!(
            world.failures[0],
            AttachFailure::Ike(CloseReason::Syntax(_))
        ));
    }
    let prefix = [1, 7, 0, 0, 254, 0, 0x28, 0xaf, 0, 0, 0, 3, 2, 0];
    for (keep, tail) in [
        (8, &[][..]),
        (12, &[]),
        (14, &[0]),
        (14, &[0xff, 0xff]),
        (14, &[0, 2, 0x7e]),
    ] {
        let mut packet = [&prefix[..keep], tail].concat();
        packet[3] = u8::try_from(packet.len()).unwrap();
        let eap = Payload::Eap(packet);
        let world = with(replacing(ExchangeType::IkeAuth, PayloadType::EAP, eap));
        assert_failed(&world, "NWu: EAP");
    }
}

#[test]
fn an_inner_address_of_one_to_three_octets_ends_the_attach() {
    for len in [1, 2, 3, 5] {
        let mut body = vec![2, 0, 0, 0, 0, 1, 0, len];
        body.extend(vec![10; len.into()]);
        let cp = raw(PayloadType::CP, body);
        let world = with(replacing(ExchangeType::IkeAuth, PayloadType::CP, cp));
        assert_failed(&world, "IKE");
        assert!(matches!(
            world.failures[0],
            AttachFailure::Ike(CloseReason::Syntax(_))
        ));
    }
}

#[test]
fn nas_addresses_and_ports_of_a_wrong_length_end_the_attach() {
    for (kind, data) in [
        (NotifyType::NAS_IP4_ADDRESS, vec![10, 0, 0]),
        (NotifyType::NAS_IP4_ADDRESS, vec![]),
        (NotifyType::NAS_TCP_PORT, vec![1]),
        (NotifyType::NAS_TCP_PORT, vec![1, 2, 3]),
    ] {
        let world = with(Box::new(move |_, payloads| {
            for payload in payloads.iter_mut() {
                if let Payload::Notify(notify) = payload
                    && notify.kind == kind
                {
                    notify.data.clone_from(&data);
                }
            }
        }));
        assert_failed(&world, "unreadable NAS address or port");
    }
}

#[test]
fn an_n3iwf_without_k_n3iwf_is_left() {
    let forged = Payload::Auth {
        method: AuthMethod::SHARED_KEY,
        data: vec![7; 32],
    };
    let world = with(Box::new(move |header, payloads| {
        // The last response: AUTH comes first there.
        if header.exchange == ExchangeType::IkeAuth
            && let Some(first @ Payload::Auth { .. }) = payloads.first_mut()
        {
            *first = forged.clone();
        }
    }));
    assert_failed(&world, "IKE");
    assert!(matches!(
        world.failures[0],
        AttachFailure::Ike(CloseReason::AuthenticationFailed)
    ));
    // Nor is one that brings none.
    let world = with(Box::new(|header, payloads| {
        if header.exchange == ExchangeType::IkeAuth
            && matches!(payloads.first(), Some(Payload::Auth { .. }))
        {
            payloads.remove(0);
        }
    }));
    assert_failed(&world, "IKE");
}

#[test]
fn requests_with_message_ids_of_the_past_do_nothing() {
    let mut world = World::new();
    world.attach();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.ue.state(), State::Registered);
    let sent = world.sent.len();
    // CREATE_CHILD_SA had 0: a Delete with that ID, or far ahead, is nobody's.
    for id in [0, 18, 1000, u32::MAX] {
        let delete = [Payload::Delete(Delete::Ike)];
        let request = world
            .n3iwf
            .sealed(ExchangeType::Informational, id, &delete)
            .unwrap();
        world.inject(&request);
    }
    assert_eq!(
        (world.sent.len(), world.ue.state()),
        (sent, State::Registered)
    );
}

#[test]
fn padding_longer_than_the_message_ends_the_attach() {
    let mut world = World::new();
    world.attach();
    world.pass(Duration::from_secs(2));
    let content = vec![0; 15];
    let request = world
        .n3iwf
        .sealed_raw(ExchangeType::Informational, 1, &content, 255);
    world.inject(&request.unwrap());
    world.pass(Duration::from_secs(5));
    assert!(
        matches!(
            world.failures[..],
            [AttachFailure::Ike(CloseReason::Syntax(_))]
        ),
        "{:?}",
        world.failures
    );
    assert!(world.installed.is_empty() && world.sessions.is_empty());
}
