//! Fragmentation as two peers see it (RFC 7383): every exchange after IKE_SA_INIT, loss, replay, and who agrees to it.

use std::time::Duration;

use ike::{
    EndpointConfig, Fragmentation, InitiatorConfig,
    Mode::{Cert, Psk},
    Offer,
    QkdPolicy::Prefer,
    crypto::Protector,
    wire::{
        self, Body, ExchangeType, Flags, Header, IdType, Identification, Notify, NotifyType,
        Payload, PayloadType, find_notify,
    },
};
use rand_core::SeedableRng;

use crate::{
    forged::Forger,
    rng::TestRng,
    setup,
    world::{
        Side::{self, N3iwf, Ue},
        World,
    },
};

fn sized(mut config: EndpointConfig, datagram: Option<u16>) -> EndpointConfig {
    config.lifetimes.from_peer = true;
    config.fragmentation = Fragmentation {
        datagram,
        ..Fragmentation::default()
    };
    config
}

fn world(seed: u64, ue: Option<u16>, n3iwf: Option<u16>) -> World {
    let mut world = World::new(
        seed,
        sized(setup::ue_endpoint(), ue),
        sized(setup::n3iwf_endpoint(), n3iwf),
    );
    world.behaviour.eap = vec![(1500, 1700), (1500, 4)];
    world
}

/// Fragment Number and Total Fragments of every fragment a side has sent.
fn fragments(world: &World, side: Side) -> Vec<(u32, u16, u16)> {
    let sent = world.sent.iter().filter(|sent| sent.from == side);
    sent.filter_map(|sent| {
        let data = sent.data.strip_prefix(&[0; 4]).unwrap_or(&sent.data);
        let parsed = wire::parse(data).unwrap();
        match parsed.body {
            Body::Encrypted {
                fragment: Some((number, total)),
                ..
            } => Some((parsed.header.message_id, number, total)),
            _ => None,
        }
    })
    .collect()
}

fn largest(world: &World) -> usize {
    let datagrams = world.sent.iter().map(|sent| 28 + sent.data.len());
    datagrams.max().unwrap()
}

#[test]
fn an_attach_passes_a_path_of_576_octets() {
    for (seed, nat) in [(1000, false), (1001, true)] {
        let mut world = world(seed, Some(576), Some(576));
        world.nat = nat.then_some(crate::world::Nat {
            outer: [198, 51, 100, 77].into(),
            port_offset: 7000,
        });
        let (_, n3iwf) = world.attach(setup::native());
        let mut new = setup::user_child(1);
        let qos = Notify::status(NotifyType::FIVE_G_QOS_INFO, vec![7; 1800]);
        new.notifies = vec![qos.clone()];
        world.command(N3iwf, |endpoint, now| {
            endpoint.create_child(now, n3iwf, new).unwrap()
        });
        world.run(Duration::from_secs(1));
        assert!(largest(&world) <= 576);
        assert_eq!(world.ue.record.installed.len(), 2);
        let child = world.ue.record.installed.values().last().unwrap();
        assert_eq!(child.notifies, [qos]);
        let total = |all: Vec<(u32, u16, u16)>| all.iter().map(|(_, _, total)| *total).max();
        assert_eq!(total(fragments(&world, Ue)), Some(4));
        assert_eq!(total(fragments(&world, N3iwf)), Some(4));
        world.check_keys();
    }
}

#[test]
fn certificates_pass_a_path_of_576_octets() {
    let credential = || {
        setup::credential(
            include_bytes!("../vectors/pki/rsa.pem"),
            include_bytes!("../vectors/pki/rsa.key"),
        )
    };
    let mut n3iwf = sized(setup::accepting(&[Cert], Prefer), Some(576));
    n3iwf.acceptance.credential = Some(credential());
    n3iwf.acceptance.trust = Some(setup::trust());
    let offer = Offer {
        credential: Some(credential()),
        trust: Some(setup::trust()),
        ..setup::offering(&[Cert], Prefer)
    };
    let config = InitiatorConfig {
        identity: Identification::new(IdType::RFC822_ADDR, b"n3iwf@example.net".to_vec()),
        ..setup::choosy()
    };
    let mut world = World::new(1002, sized(setup::ue_endpoint(), Some(576)), n3iwf);
    world.attach_with(config, &offer);
    assert!(largest(&world) <= 576);
    assert!(fragments(&world, Ue).len() > 3 && fragments(&world, N3iwf).len() > 3);
}

#[test]
fn each_side_cuts_to_its_own_size() {
    let mut world = world(1003, Some(1280), Some(576));
    world.attach(setup::native());
    assert!(
        fragments(&world, Ue)
            .iter()
            .all(|(_, _, total)| *total == 2)
    );
    assert!(
        fragments(&world, N3iwf)
            .iter()
            .all(|(_, _, total)| *total == 4)
    );
}

#[test]
fn who_does_not_agree_gets_whole_messages() {
    for (seed, ue, n3iwf) in [
        (1004, None, Some(576)),
        (1005, Some(576), None),
        (1006, None, None),
    ] {
        let mut world = world(seed, ue, n3iwf);
        world.attach(setup::native());
        assert!(fragments(&world, Ue).is_empty() && fragments(&world, N3iwf).is_empty());
        assert!(largest(&world) > 1500);
        let said = |side, at: usize| {
            let sent = &world.sent[at];
            assert_eq!(sent.from, side);
            match wire::parse(&sent.data).unwrap().body {
                Body::Clear(payloads) => {
                    find_notify(&payloads, NotifyType::IKEV2_FRAGMENTATION_SUPPORTED).is_some()
                }
                Body::Encrypted { .. } => panic!("IKE_SA_INIT is in clear"),
            }
        };
        assert_eq!(said(Ue, 0), ue.is_some());
        assert!(!said(N3iwf, 1), "only as an answer");
    }
}

#[test]
fn paper_profile_says_nothing_of_fragments() {
    let mut world = World::new(1007, setup::ue_endpoint(), setup::paper_endpoint());
    world.behaviour.eap = vec![(1500, 1700), (69, 4)];
    world.attach(setup::paper());
    assert!(fragments(&world, Ue).is_empty() && fragments(&world, N3iwf).is_empty());
}

#[test]
fn a_lost_fragment_brings_all_of_them_again() {
    let mut world = world(1008, Some(576), Some(576));
    let lost = std::cell::Cell::new(0);
    world.tap = Some(Box::new(move |from, data| {
        let parsed = wire::parse(data).unwrap();
        let second = matches!(
            parsed.body,
            Body::Encrypted {
                fragment: Some((2, _)),
                ..
            }
        );
        if from == Ue && second && lost.get() == 0 {
            lost.set(1);
            return None;
        }
        Some(data.to_vec())
    }));
    world.attach(setup::native());
    let sent = fragments(&world, Ue);
    let (id, _, total) = sent[0];
    let times = |number| {
        sent.iter()
            .filter(|one| **one == (id, number, total))
            .count()
    };
    assert!((1..=total).all(|number| times(number) == 2), "{sent:?}");
}

#[test]
fn a_response_is_repeated_for_fragment_one_alone() {
    let mut world = world(1009, Some(576), Some(576));
    world.attach(setup::native());
    let find = |world: &World, wanted: u16| {
        let mut sent = world.sent.iter().filter(|sent| sent.from == Ue).rev();
        sent.find_map(|sent| match wire::parse(&sent.data).unwrap().body {
            Body::Encrypted {
                fragment: Some((number, _)),
                ..
            } if number == wanted => Some(sent.data.clone()),
            _ => None,
        })
    };
    // An old request in fragments: no answer at all.
    for number in 1..=3 {
        let before = world.sent.len();
        let data = find(&world, number).unwrap();
        world.inject(N3iwf, data);
        world.run(Duration::from_millis(5));
        assert_eq!(world.sent.len(), before, "fragment {number}");
    }
    // The last request in fragments: a child SA the UE asks for.
    let ue = world.established(Ue)[0].id;
    let mut new = setup::user_child(3);
    new.notifies = vec![Notify::status(NotifyType::FIVE_G_QOS_INFO, vec![7; 1200])];
    world.command(Ue, |endpoint, now| {
        endpoint.create_child(now, ue, new).unwrap()
    });
    world.run(Duration::from_secs(1));
    let answers = world.n3iwf.record.installed.len();
    for number in 1..=3 {
        let before = world.sent.len();
        let data = find(&world, number).unwrap();
        world.inject(N3iwf, data);
        world.run(Duration::from_millis(5));
        assert_eq!(world.sent.len() > before, number == 1, "fragment {number}");
    }
    assert_eq!(world.n3iwf.record.installed.len(), answers);
}

#[test]
fn rekeys_go_through_in_fragments() {
    let mut world = world(1010, Some(576), Some(576));
    let (ue, n3iwf) = world.attach(setup::native());
    for (side, sa) in [(N3iwf, n3iwf), (N3iwf, n3iwf)] {
        world.command(side, |endpoint, now| endpoint.rekey_ike(now, sa).unwrap());
        world.run(Duration::from_secs(2));
    }
    assert_eq!(world.ue.record.ike_rekeys, 2);
    let mut new = setup::user_child(3);
    new.notifies = vec![Notify::status(NotifyType::FIVE_G_QOS_INFO, vec![7; 1200])];
    world.command(Ue, |endpoint, now| {
        endpoint.create_child(now, ue, new).unwrap()
    });
    world.run(Duration::from_secs(1));
    assert_eq!(world.n3iwf.record.installed.len(), 2, "still agreed");
    world.check_keys();
}

/// Fragments of the peer, sealed with the right keys.
fn forge(forger: &mut Forger, id: u32, fragment: (u16, u16), chunk: &[u8]) -> Vec<u8> {
    let header = Header {
        exchange: ExchangeType::Informational,
        flags: Flags {
            initiator: true,
            response: false,
        },
        message_id: id,
        ..forger.header
    };
    let mut rng = TestRng::seed_from_u64(u64::from(fragment.0));
    let outbound: &mut Protector = &mut forger.outbound;
    outbound
        .seal_fragment(&header, PayloadType::NOTIFY, fragment, chunk, &mut rng)
        .unwrap()
}

#[test]
fn fragments_without_end_cost_a_bounded_time_and_no_answer() {
    let mut world = world(1011, Some(576), Some(576));
    world.attach(setup::native());
    let mut forger = Forger::new(&mut world);
    // IKE_AUTH 1 to 4.
    let next = 5;
    let before = world.sent.len();
    // Never the last one, each time cut anew.
    for total in 3..80 {
        for number in 1..total {
            let data = forge(&mut forger, next, (number, total), &[0; 400]);
            world.inject(N3iwf, data);
        }
    }
    world.run(Duration::from_millis(5));
    assert_eq!(world.sent.len(), before);
    // A good request with the same Message ID still gets through.
    let chain = wire::encode_payloads(&[Payload::Notify(Notify::status(
        NotifyType::COOKIE2,
        vec![9; 600],
    ))])
    .unwrap()
    .1;
    world.run(Duration::from_secs(31));
    let (one, two) = chain.split_at(300);
    for (number, part) in [(1, one), (2, two)] {
        let data = forge(&mut forger, next, (number, 2), part);
        world.inject(N3iwf, data);
    }
    world.run(Duration::from_millis(5));
    assert_eq!(world.sent.len(), before + 1, "answered");
}

#[test]
fn mode_psk_agrees_on_fragments_too() {
    let n3iwf = sized(setup::accepting(&[Psk], Prefer), Some(576));
    let mut world = World::new(1012, sized(setup::ue_endpoint(), Some(576)), n3iwf);
    world.behaviour.eap = vec![(1500, 1700), (1500, 4)];
    world.attach_with(setup::choosy(), &setup::offering(&[Psk], Prefer));
    assert!(largest(&world) <= 576);
    assert_eq!(fragments(&world, Ue).len(), 8);
}
