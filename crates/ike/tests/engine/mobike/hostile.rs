//! Moves that are none, or not where they say: attackers on the way, addresses that are nobody's, cookies.

use std::{net::IpAddr, time::Duration};

use ike::{
    CloseReason, Mobike, Path,
    wire::{ExchangeType, Flags, Header, Notify, NotifyType, find_notify, parse},
};
use rand_core::SeedableRng;

use super::{ATTIC, CELLAR, CHECKS, NAT, NO_NATS, move_to, second, settled, world, world_with};
use crate::{
    forged::Forger,
    rng::TestRng,
    setup,
    world::{
        Nat,
        Side::{N3iwf, Ue},
        World,
    },
};

/// Whatever an attacker on the way can copy, keep back or send from elsewhere: without the keys it moves nobody.
#[test]
fn an_attacker_without_keys_moves_nothing() {
    let mut world = world(800);
    let (ue, n3iwf) = world.attach(setup::native());
    move_to(&mut world, ue, CELLAR);
    world.run(second(1));
    settled(&mut world, n3iwf);
    let here = world.sas(N3iwf)[0].path;
    let (paths, elsewhere) = (
        world.n3iwf.record.paths.len(),
        Path {
            remote: ([203, 0, 113, 50], 4500).into(),
            ..here
        },
    );
    // Everything the UE has ever sent, from the attacker's address; all of it protected.
    let said: Vec<_> = world.sent.iter().filter(|sent| sent.from == Ue).collect();
    let copies: Vec<Vec<u8>> = said.iter().map(|sent| sent.data.clone()).collect();
    for data in copies {
        world.inject_on(N3iwf, elsewhere, data);
    }
    // An update that nobody protected, with the right SPIs and Message ID.
    let status = world.sas(Ue).remove(0);
    for message_id in 0..12 {
        let header = Header {
            spi_i: status.spi_i,
            spi_r: status.spi_r,
            exchange: ExchangeType::Informational,
            flags: Flags {
                initiator: true,
                response: false,
            },
            message_id,
        };
        let update = Notify::status(NotifyType::UPDATE_SA_ADDRESSES, Vec::new());
        let clear = ike::wire::encode(&header, &[update.into()]).unwrap();
        world.inject_on(N3iwf, elsewhere, [vec![0; 4], clear].concat());
    }
    world.run(second(2));
    assert_eq!(world.sas(N3iwf)[0].path, here);
    assert_eq!(world.n3iwf.record.paths.len(), paths);
    settled(&mut world, n3iwf);
}

/// RFC 4555 3.8: with MOBIKE, a message that is no update moves nobody, although it is authentic.
#[test]
fn an_authentic_question_from_elsewhere_moves_nothing() {
    let mut world = world(801);
    world.nat = Some(NAT);
    let (ue, _) = world.attach(setup::native());
    let here = world.sas(N3iwf)[0].path;
    world.nat = Some(Nat {
        port_offset: 9000,
        ..NAT
    });
    world.ue_address = ATTIC;
    // The UE does not know that it moved, so nothing of it arrives but what an attacker carries.
    world.command(Ue, |endpoint, now| endpoint.probe(now, ue));
    let probe = world.sent.last().unwrap().data.clone();
    let elsewhere = Path {
        remote: ([203, 0, 113, 50], 4500).into(),
        ..here
    };
    world.inject_on(N3iwf, elsewhere, probe);
    world.run(Duration::from_millis(100));
    assert_eq!(world.sas(N3iwf)[0].path, here);
    assert!(world.n3iwf.record.paths.is_empty());
}

/// The UE's update, kept back by somebody on the way and sent from another address.
fn diverted(mut world: World) -> (World, Path) {
    let (ue, _) = world.attach(setup::native());
    let here = world.sas(N3iwf)[0].path;
    world.tap = Some(Box::new(|side, data| {
        (side == N3iwf).then(|| data.to_vec())
    }));
    move_to(&mut world, ue, CELLAR);
    let update = world.sent.last().unwrap().data.clone();
    let elsewhere = Path {
        remote: ([203, 0, 113, 50], 4500).into(),
        ..here
    };
    world.inject_on(N3iwf, elsewhere, update);
    world.run(Duration::from_millis(500));
    (world, here)
}

#[test]
fn no_child_sa_follows_to_an_address_that_returns_no_cookie() {
    let (mut world, _) = diverted(world_with(802, Mobike::default(), CHECKS));
    assert!(world.n3iwf.record.paths.is_empty());
    // Nobody answers there, which ends the IKE SA in time.
    world.run(second(400));
    let closed = world.n3iwf.record.closed.last().map(|(_, why)| why.clone());
    assert_eq!(closed, Some(CloseReason::PeerDead));
    assert!(world.n3iwf.record.paths.is_empty());
}

#[test]
fn where_no_nat_is_allowed_a_diverted_update_is_refused() {
    let (mut world, here) = diverted(world_with(803, NO_NATS, Mobike::default()));
    assert_eq!(world.sas(N3iwf)[0].path, here);
    assert!(world.n3iwf.record.paths.is_empty());
    // The answer reached the attacker; the UE's own copy gets it again.
    world.tap = None;
    world.run(second(5));
    assert_eq!(
        world.ue.record.refusals,
        [NotifyType::UNEXPECTED_NAT_DETECTED]
    );
}

#[test]
fn where_no_nat_is_allowed_there_is_no_attach_through_one() {
    let mut world = world_with(804, NO_NATS, Mobike::default());
    world.nat = Some(NAT);
    let ue = world.initiate(setup::native());
    world.run(second(30));
    assert_eq!(
        world.reason(Ue, ue),
        Some(CloseReason::Refused(NotifyType::UNEXPECTED_NAT_DETECTED))
    );
    let why = world.n3iwf.record.closed.last().map(|(_, why)| why.clone());
    assert_eq!(why, Some(CloseReason::UnexpectedNat));
    // Without one there is.
    let mut world = world_with(805, NO_NATS, Mobike::default());
    let (ue, n3iwf) = world.attach(setup::native());
    move_to(&mut world, ue, CELLAR);
    world.run(second(1));
    settled(&mut world, n3iwf);
    assert!(world.ue.record.refusals.is_empty());
}

#[test]
fn with_a_check_child_sas_follow_when_the_cookie_is_back() {
    let mut world = world_with(806, Mobike::default(), CHECKS);
    let (ue, n3iwf) = world.attach(setup::native());
    let began = world.now;
    move_to(&mut world, ue, CELLAR);
    world.run(Duration::from_millis(15));
    assert_eq!(world.sas(N3iwf)[0].path.remote.ip(), CELLAR);
    assert!(world.n3iwf.record.paths.is_empty(), "the cookie is out");
    while world.n3iwf.record.paths.is_empty() {
        world.run(Duration::from_millis(1));
        assert!(world.now < began + second(5));
    }
    assert_eq!(
        world.now,
        began + Duration::from_millis(30),
        "update, cookie, cookie"
    );
    settled(&mut world, n3iwf);
}

#[test]
fn a_host_cannot_be_everywhere() {
    for address in ["224.0.0.5", "255.255.255.255", "0.0.0.0", "127.0.0.1"] {
        let mut world = world(807);
        let (ue, _) = world.attach(setup::native());
        let here = world.sas(N3iwf)[0].path;
        move_to(&mut world, ue, address.parse().unwrap());
        world.run(second(1));
        assert_eq!(
            world.ue.record.refusals,
            [NotifyType::UNACCEPTABLE_ADDRESSES],
            "{address}"
        );
        assert_eq!(world.sas(N3iwf)[0].path, here);
        assert!(world.n3iwf.record.paths.is_empty());
    }
}

/// A peer that says what ours does not: further addresses, and a COOKIE2 that is to come back.
#[test]
fn further_addresses_are_noted_and_a_cookie_is_returned() {
    let mut world = world(809);
    world.attach(setup::native());
    let mut forger = Forger::new(&mut world);
    let four = |last: u8| {
        let data = vec![192, 0, 2, last];
        Notify::status(NotifyType::ADDITIONAL_IP4_ADDRESS, data).into()
    };
    let cookie = Notify::status(NotifyType::COOKIE2, vec![7; 8]);
    let here = world.sas(N3iwf)[0].path;
    let mut ask = |world: &mut World, id: u32, payloads: &[ike::wire::Payload]| {
        let header = Header {
            exchange: ExchangeType::Informational,
            flags: Flags {
                initiator: true,
                response: false,
            },
            message_id: id,
            ..forger.header
        };
        let mut rng = TestRng::seed_from_u64(9);
        let request = forger.outbound.seal(&header, payloads, &mut rng).unwrap();
        let before = world.sent.len();
        world.inject_on(N3iwf, here, [vec![0; 4], request].concat());
        world.run(Duration::from_millis(1));
        let answer = world.sent[before..].iter().find(|sent| sent.from == N3iwf);
        forger
            .inbound
            .open(&parse(&answer.unwrap().data[4..]).unwrap())
            .unwrap()
    };
    let answer = ask(&mut world, 6, &[four(7), four(8), cookie.clone().into()]);
    assert_eq!(find_notify(&answer, NotifyType::COOKIE2), Some(&cookie));
    assert_eq!(
        world.sas(N3iwf)[0].peer_addresses,
        ["192.0.2.7", "192.0.2.8"].map(|text| text.parse::<IpAddr>().unwrap())
    );
    // Too short to be one (4.2.5): no reason to copy it.
    let short = Notify::status(NotifyType::COOKIE2, vec![7; 7]);
    let answer = ask(&mut world, 7, &[short.into()]);
    assert!(find_notify(&answer, NotifyType::COOKIE2).is_none());
    assert_eq!(world.sas(N3iwf)[0].peer_addresses.len(), 2);
    let none = Notify::status(NotifyType::NO_ADDITIONAL_ADDRESSES, Vec::new());
    ask(&mut world, 8, &[none.into()]);
    assert!(world.sas(N3iwf)[0].peer_addresses.is_empty());
}

/// RFC 4555 3.7: another cookie than the one sent is not the peer's, and ends the IKE SA.
#[test]
fn a_cookie_that_comes_back_changed_ends_the_ike_sa() {
    let mut world = world_with(810, Mobike::default(), CHECKS);
    let (ue, n3iwf) = world.attach(setup::native());
    let mut forger = Forger::new(&mut world);
    // The UE's answer to the check is kept back, and another one sent.
    world.run(Duration::from_millis(1));
    let mut seen = 0;
    world.tap = Some(Box::new(move |side, data| {
        seen += usize::from(side == Ue);
        (side == N3iwf || seen == 1).then(|| data.to_vec())
    }));
    move_to(&mut world, ue, CELLAR);
    world.run(Duration::from_millis(25));
    let header = Header {
        exchange: ExchangeType::Informational,
        flags: Flags {
            initiator: true,
            response: true,
        },
        message_id: 0,
        ..forger.header
    };
    let cookie = Notify::status(NotifyType::COOKIE2, vec![7; 16]);
    let mut rng = TestRng::seed_from_u64(9);
    let answer = forger
        .outbound
        .seal(&header, &[cookie.into()], &mut rng)
        .unwrap();
    let path = world.sas(N3iwf)[0].path;
    world.inject_on(N3iwf, path, [vec![0; 4], answer].concat());
    world.run(Duration::from_millis(5));
    assert!(matches!(
        world.reason(N3iwf, n3iwf),
        Some(CloseReason::Syntax(_))
    ));
    assert!(world.n3iwf.record.paths.is_empty());
}
