//! Reassembly against a peer that has the keys and means no good.

use std::time::Duration;

use keys::Secret;
use rand_core::SeedableRng;

use super::*;
use crate::{
    crypto::{AesBits, DirectionKeys, Encr, Integ},
    wire::{Flags, Notify, NotifyType},
};

type Rng = rand_chacha::ChaCha8Rng;

fn protector(encr: Encr, integ: Option<Integ>) -> Protector {
    let keys = DirectionKeys {
        encr: Secret::from_slice(&vec![1; encr.key_len()]),
        salt: [2; 4],
        integ: integ.map(|integ| Secret::from_slice(&vec![3; integ.key_len()])),
    };
    Protector::new(encr, integ, keys).unwrap()
}

fn gcm() -> Protector {
    protector(Encr::AesGcm16(AesBits::B256), None)
}

fn header(id: u32) -> Header {
    Header {
        spi_i: 1,
        spi_r: 2,
        exchange: ExchangeType::IkeAuth,
        flags: Flags {
            initiator: true,
            response: false,
        },
        message_id: id,
    }
}

/// A chain of this many octets.
fn payloads(octets: usize) -> Vec<Payload> {
    let data = (0..octets - 8).map(|n| n.to_be_bytes()[7]).collect();
    vec![Notify::status(NotifyType::COOKIE2, data).into()]
}

fn chain(octets: usize) -> (PayloadType, Vec<u8>) {
    wire::encode_payloads(&payloads(octets)).unwrap()
}

fn cut(outbound: &mut Protector, octets: usize, room: usize) -> Datagrams {
    let mut rng = Rng::seed_from_u64(1);
    seal(
        outbound,
        &header(1),
        &payloads(octets),
        Some(room),
        &mut rng,
    )
    .unwrap()
}

/// One fragment with any numbers.
fn piece(id: u32, fragment: (u16, u16), chunk: &[u8]) -> Vec<u8> {
    let mut rng = Rng::seed_from_u64(u64::from(fragment.0));
    let first = match fragment.0 {
        1 => PayloadType::NOTIFY,
        _ => PayloadType::NONE,
    };
    gcm()
        .seal_fragment(&header(id), first, fragment, chunk, &mut rng)
        .unwrap()
}

struct Peer {
    inbox: Inbox,
    inbound: Protector,
    now: Instant,
    limits: Fragmentation,
}

impl Peer {
    fn new() -> Self {
        Self {
            inbox: Inbox::default(),
            inbound: gcm(),
            now: Instant::ZERO,
            limits: Fragmentation::default(),
        }
    }

    fn take(&mut self, datagram: &[u8]) -> Arrival {
        let parsed = wire::parse(datagram).unwrap();
        let limits = Some(&self.limits);
        self.inbox.open(&self.inbound, &parsed, self.now, limits)
    }

    /// The payloads of the first message that these datagrams make.
    fn whole<'a>(
        &mut self,
        datagrams: impl IntoIterator<Item = &'a Vec<u8>>,
    ) -> Option<Vec<Payload>> {
        datagrams
            .into_iter()
            .find_map(|datagram| match self.take(datagram) {
                Arrival::Message(opened) => Some(opened.payloads.unwrap()),
                _ => None,
            })
    }

    fn held(&self) -> usize {
        let parts = |begun: &Option<Assembly>| begun.as_ref().map_or(0, |begun| begun.parts.len());
        parts(&self.inbox.request) + parts(&self.inbox.response)
    }
}

#[test]
fn a_message_is_cut_only_when_it_does_not_fit_and_every_piece_fits() {
    let suites = [
        (Encr::AesGcm16(AesBits::B256), None),
        (Encr::ChaCha20Poly1305, None),
        (Encr::AesCbc(AesBits::B128), Some(Integ::HmacSha1_96)),
        (Encr::AesCbc(AesBits::B256), Some(Integ::HmacSha2_512_256)),
    ];
    for (encr, integ) in suites {
        for room in [524, 548, 1228, 1252] {
            for octets in [20, room - 70, room - 40, room - 30, room, 3 * room, 20_000] {
                let mut outbound = protector(encr, integ);
                let fits = outbound.sealed_len(octets) <= room;
                let datagrams = cut(&mut outbound, octets, room);
                assert_eq!(datagrams.len() == 1, fits, "{encr} {octets} in {room}");
                assert!(datagrams.iter().all(|one| one.len() <= room));
                let full = &datagrams[0];
                assert!(fits || full.len() + 16 > room, "no room is wasted");
                let mut peer = Peer::new();
                peer.inbound = protector(encr, integ);
                assert_eq!(peer.whole(&datagrams), Some(payloads(octets)));
            }
        }
    }
}

#[test]
fn fragments_come_in_any_order_and_more_than_once() {
    let mut datagrams = cut(&mut gcm(), 5000, 548);
    assert!(datagrams.len() > 9);
    datagrams.reverse();
    let twice: Vec<Vec<u8>> = datagrams
        .iter()
        .flat_map(|one| [one.clone(), one.clone()])
        .collect();
    let mut peer = Peer::new();
    let last = twice.len() - 2;
    assert_eq!(peer.whole(&twice[..last]), None);
    assert_eq!(peer.whole(&twice[last..]), Some(payloads(5000)));
    assert_eq!(peer.held(), 0);
}

#[test]
fn the_digest_is_that_of_fragment_one() {
    let datagrams = cut(&mut gcm(), 2000, 548);
    let mut peer = Peer::new();
    for datagram in datagrams.iter().rev() {
        if let Arrival::Message(opened) = peer.take(datagram) {
            assert_eq!(opened.digest, window::digest(&datagrams[0]));
        }
    }
}

#[test]
fn a_message_cut_anew_takes_the_place_of_the_larger_pieces_and_not_the_reverse() {
    let large = cut(&mut gcm(), 3000, 1252);
    let small = cut(&mut gcm(), 3000, 548);
    let mut peer = Peer::new();
    assert_eq!(peer.whole(&large[..2]), None);
    assert_eq!(peer.whole(&small[..1]), None);
    assert_eq!(peer.held(), 1, "what was collected is dropped");
    assert!(matches!(peer.take(&large[2]), Arrival::Nothing), "old");
    assert_eq!(peer.whole(&small[1..]), Some(payloads(3000)));
}

#[test]
fn a_forged_fragment_neither_enters_nor_drops_anything() {
    let datagrams = cut(&mut gcm(), 3000, 548);
    let mut peer = Peer::new();
    assert_eq!(peer.whole(&datagrams[..3]), None);
    for (number, total) in [(4, 6), (4, 60), (1, 60), (6, 6)] {
        let mut forged = piece(1, (number, total), &[0; 300]);
        *forged.last_mut().unwrap() ^= 1;
        assert!(matches!(peer.take(&forged), Arrival::Nothing));
    }
    assert_eq!(peer.held(), 3);
    assert_eq!(peer.whole(&datagrams[3..]), Some(payloads(3000)));
}

#[test]
fn numbers_beyond_the_limits_are_dropped() {
    let mut peer = Peer::new();
    for fragment in [(1, 65), (65, 65), (1, u16::MAX), (u16::MAX, u16::MAX)] {
        assert!(matches!(
            peer.take(&piece(1, fragment, &[0; 20])),
            Arrival::Nothing
        ));
    }
    assert_eq!(peer.held(), 0);
    for fragment in [(0, 0), (0, 3), (4, 3)] {
        assert!(wire::parse(&piece(1, fragment, &[0; 20])).is_err());
    }
}

#[test]
fn octets_beyond_the_limit_are_dropped_with_their_message() {
    let mut peer = Peer::new();
    peer.limits.max_octets = 2500;
    for number in 1..=2 {
        assert!(matches!(
            peer.take(&piece(1, (number, 9), &[0; 1000])),
            Arrival::Fragment
        ));
    }
    assert!(matches!(
        peer.take(&piece(1, (3, 9), &[0; 1000])),
        Arrival::Nothing
    ));
    assert_eq!(peer.held(), 0);
}

#[test]
fn only_one_message_of_each_direction_is_collected() {
    let mut peer = Peer::new();
    for id in 1..100 {
        assert!(matches!(
            peer.take(&piece(id, (1, 9), &[0; 100])),
            Arrival::Fragment
        ));
        assert_eq!(peer.held(), 1);
    }
}

#[test]
fn what_waits_too_long_is_dropped() {
    let datagrams = cut(&mut gcm(), 2000, 548);
    let mut peer = Peer::new();
    assert_eq!(peer.whole(&datagrams[1..]), None);
    let until = peer.inbox.next_timeout().unwrap();
    assert_eq!(until.since_origin(), Duration::from_secs(30));
    peer.now = until;
    // Before the timer has fired as well as after.
    assert!(matches!(peer.take(&datagrams[0]), Arrival::Fragment));
    assert_eq!(peer.held(), 1);
    peer.now += Duration::from_secs(30);
    peer.inbox.expire(peer.now);
    assert_eq!((peer.held(), peer.inbox.next_timeout()), (0, None));
}

#[test]
fn a_whole_message_ends_the_collection_of_its_pieces() {
    let mut outbound = gcm();
    let datagrams = cut(&mut outbound, 2000, 548);
    let mut rng = Rng::seed_from_u64(2);
    let whole = outbound
        .seal(&header(1), &payloads(2000), &mut rng)
        .unwrap();
    let mut peer = Peer::new();
    assert_eq!(peer.whole(&datagrams[1..]), None);
    assert_eq!(peer.whole([&whole]), Some(payloads(2000)));
    assert_eq!(peer.held(), 0);
}

#[test]
fn without_agreement_fragments_are_nothing() {
    let datagrams = cut(&mut gcm(), 2000, 548);
    let mut peer = Peer::new();
    for datagram in &datagrams {
        let parsed = wire::parse(datagram).unwrap();
        let arrival = peer.inbox.open(&peer.inbound, &parsed, peer.now, None);
        assert!(matches!(arrival, Arrival::Nothing));
    }
    assert_eq!(peer.held(), 0);
}

#[test]
fn a_message_of_nonsense_is_the_peers_word() {
    let (_, chain) = chain(400);
    let mut peer = Peer::new();
    assert!(matches!(
        peer.take(&piece(1, (1, 2), &chain[..300])),
        Arrival::Fragment
    ));
    let Arrival::Message(opened) = peer.take(&piece(1, (2, 2), &[])) else {
        panic!("it is whole");
    };
    assert!(opened.payloads.is_err());
}

#[test]
fn a_message_that_takes_more_fragments_than_can_be_numbered_is_not_sent() {
    let mut rng = Rng::seed_from_u64(1);
    let chain = vec![0; 500_000];
    let sealed = seal_chain(
        &mut gcm(),
        &header(1),
        (PayloadType::NOTIFY, &chain),
        Some(68),
        &mut rng,
    );
    assert!(matches!(
        sealed,
        Err(SealError::Encode(EncodeError::TooLong(_)))
    ));
}
