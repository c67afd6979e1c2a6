//! The published weaknesses of free5GC's N3IWF that need no subscription, against ours. Each test
//! says what is answered to the octet, and that nothing is left behind. The numbers are those of
//! free5GC's issues.

use free5gc::sa::notify;
use ike::{
    crypto::KeMethod,
    wire::{
        self, ExchangeType, NotifyType, Payload, PayloadType, Proposal, Protocol, SaPayload,
        Transform, TransformType,
    },
};
use nwu::eap5g::Packet;

use crate::{
    stranger::{Stranger, eap_packet, is_only, ke, raw},
    world::World,
};

const EXCHANGES: [ExchangeType; 4] = [
    ExchangeType::IkeSaInit,
    ExchangeType::IkeAuth,
    ExchangeType::CreateChildSa,
    ExchangeType::Informational,
];

/// A header and nothing behind it.
fn bare(stranger: &Stranger, exchange: ExchangeType, response: bool) -> Vec<u8> {
    let mut header = stranger.header(exchange, 0);
    header.flags.response = response;
    let message = wire::encode(&header, &[]).unwrap();
    assert_eq!(message.len(), 28);
    message
}

#[test]
fn issue_968_an_empty_payload_list_from_nowhere() {
    let mut world = World::new();
    for exchange in EXCHANGES {
        let mut stranger = Stranger::new();
        if exchange != ExchangeType::IkeSaInit {
            stranger.transcript.spi_r = 0x6161;
        }
        world.inject(stranger.address, &bare(&stranger, exchange, false));
        let expected = match exchange {
            ExchangeType::IkeSaInit => NotifyType::INVALID_SYNTAX,
            _ => NotifyType::INVALID_IKE_SPI,
        };
        let mut header = stranger.header(exchange, 0);
        (header.flags.initiator, header.flags.response) = (false, true);
        let answer = wire::encode(&header, &[notify(expected, Vec::new())]).unwrap();
        assert_eq!(world.answers(), [answer], "{exchange}");
        world.inject(stranger.address, &bare(&stranger, exchange, true));
        assert_eq!(world.answers(), Vec::<Vec<u8>>::new(), "{exchange}");
    }
    world.assert_untouched();
}

#[test]
fn issue_968_an_empty_payload_list_into_an_ike_sa() {
    let mut world = World::new();
    let mut stranger = Stranger::init(&mut world);
    for exchange in EXCHANGES.iter().skip(1) {
        for response in [false, true] {
            // In clear it is nobody's word.
            world.inject(stranger.address, &bare(&stranger, *exchange, response));
            assert_eq!(world.answers(), Vec::<Vec<u8>>::new());
        }
    }
    assert_eq!(world.gateway.half_open(), 1);
    // Under protection it is the peer's, and says nothing where four payloads are due.
    let answer = stranger.ask(&mut world, ExchangeType::IkeAuth, 1, &[]);
    assert!(is_only(&answer.unwrap(), NotifyType::INVALID_SYNTAX));
    world.assert_untouched();
}

#[test]
fn issue_997_padding_longer_than_the_message() {
    for (blocks, pad_length) in [(1, 16), (1, 255), (2, 32), (4, 64), (4, 255)] {
        let mut world = World::new();
        let mut stranger = Stranger::init(&mut world);
        let sa = stranger.sa.as_ref().unwrap();
        let content = vec![0; blocks * 16 - 1];
        let (auth, first) = (ExchangeType::IkeAuth, PayloadType::ID_I);
        let message = sa.seal_raw(auth, 1, first, &content, pad_length).unwrap();
        let answer = stranger.send(&mut world, &message).unwrap();
        assert!(is_only(&answer, NotifyType::INVALID_SYNTAX), "{pad_length}");
        world.assert_untouched();
    }
}

#[test]
fn issue_997_ciphertext_without_whole_blocks_or_integrity_is_not_the_peers() {
    let mut world = World::new();
    let mut stranger = Stranger::init(&mut world);
    let good = stranger.seal(
        ExchangeType::IkeAuth,
        1,
        &Stranger::good_first(Stranger::good_child()),
    );
    // Header and SK header with every number of octets behind them.
    for len in 32..good.len() {
        let mut cut = good[..len].to_vec();
        cut[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        cut[30..32].copy_from_slice(&u16::try_from(len - 28).unwrap().to_be_bytes());
        assert_eq!(stranger.send(&mut world, &cut), None, "{len} octets");
    }
    assert_eq!(
        world.gateway.half_open(),
        1,
        "the IKE SA waits for its peer"
    );
    let answer = stranger.send(&mut world, &good).unwrap();
    assert_eq!(eap_packet(&answer)[0], 1, "and serves it");
}

/// An IKE_SA_INIT request with this SA payload, good otherwise.
fn offer(world: &mut World, sa: Payload) -> Vec<Payload> {
    let mut stranger = Stranger::new();
    let nonce = Payload::Nonce(vec![9; 32]);
    let ke = stranger.good_ke();
    stranger.ask_init(world, &[sa, ke, nonce])
}

#[test]
fn issue_940_transform_attributes_that_lie() {
    let mut world = World::new();
    for attribute in [
        // Type and half a value; a length beyond the transform; no value at all; two key lengths.
        "800e01",
        "000e0100",
        "000e",
        "800e0100800e0080",
    ] {
        let attribute = hex::decode(attribute).unwrap();
        let transform = 8 + u16::try_from(attribute.len()).unwrap();
        let mut body = vec![0, 0];
        body.extend((8 + transform).to_be_bytes());
        body.extend([1, 1, 0, 1, 0, 0]);
        body.extend(transform.to_be_bytes());
        body.extend([1, 0, 0, 12]);
        body.extend(attribute);
        let answer = offer(&mut world, raw(PayloadType::SA, body));
        assert!(is_only(&answer, NotifyType::INVALID_SYNTAX));
    }
    // AES needs a key length, and has three.
    for bits in [None, Some(0), Some(64), Some(512)] {
        let mut sa = Stranger::good_offer();
        sa.proposals[0].transforms[0].key_length = bits;
        let answer = offer(&mut world, Payload::Sa(sa));
        assert!(is_only(&answer, NotifyType::NO_PROPOSAL_CHOSEN), "{bits:?}");
    }
    world.assert_untouched();
}

#[test]
fn issue_989_proposals_without_anything() {
    let mut world = World::new();
    let answer = offer(&mut world, raw(PayloadType::SA, Vec::new()));
    assert!(is_only(&answer, NotifyType::INVALID_SYNTAX));
    let empty = Proposal {
        number: 1,
        protocol: Protocol::IKE,
        spi: Vec::new(),
        transforms: Vec::new(),
    };
    let sa = SaPayload {
        proposals: vec![empty.clone(), Proposal { number: 2, ..empty }],
    };
    let answer = offer(&mut world, Payload::Sa(sa));
    assert!(is_only(&answer, NotifyType::NO_PROPOSAL_CHOSEN));
    world.assert_untouched();
}

#[test]
fn issue_972_public_values_that_are_none() {
    let prime = {
        // RFC 3526, section 3.
        let text = include_str!("modp2048.hex");
        hex::decode(text.split_whitespace().collect::<String>()).unwrap()
    };
    let small = |value: u8| [vec![0; 255], vec![value]].concat();
    let mut less_one = prime.clone();
    *less_one.last_mut().unwrap() -= 1;
    let bad = [
        small(0),
        small(1),
        less_one,
        prime.clone(),
        vec![0xff; 256],
        Vec::new(),
        vec![2; 255],
        vec![2; 257],
    ];
    let mut world = World::new();
    for value in bad {
        let mut stranger = Stranger::new();
        let request = [
            Payload::Sa(Stranger::good_offer()),
            ke(value.clone()),
            Payload::Nonce(vec![9; 32]),
        ];
        let answer = stranger.ask_init(&mut world, &request);
        assert!(is_only(&answer, NotifyType::INVALID_SYNTAX), "{value:02x?}");
    }
    world.assert_untouched();
}

#[test]
fn issue_974_md5_and_group_2() {
    let swapped = |kind: TransformType, id: u16| {
        let mut sa = Stranger::good_offer();
        let transforms = &mut sa.proposals[0].transforms;
        transforms.iter_mut().find(|t| t.kind == kind).unwrap().id = id;
        sa
    };
    // PRF_HMAC_MD5, AUTH_HMAC_MD5_96, 1024-bit MODP, 768-bit MODP; DES and 3DES for good measure.
    let weak = [
        (TransformType::PRF, 1),
        (TransformType::INTEG, 1),
        (TransformType::KE, 2),
        (TransformType::KE, 1),
        (TransformType::ENCR, 2),
        (TransformType::ENCR, 3),
    ];
    let mut world = World::new();
    for (kind, id) in weak {
        let answer = offer(&mut world, Payload::Sa(swapped(kind, id)));
        assert!(
            is_only(&answer, NotifyType::NO_PROPOSAL_CHOSEN),
            "{kind:?} {id}"
        );
    }
    world.assert_untouched();
    // First in a proposal that has a good one as well: the good one is taken.
    for (kind, id) in weak {
        let mut world = World::new();
        let mut sa = Stranger::good_offer();
        let transforms = &mut sa.proposals[0].transforms;
        let at = transforms.iter().position(|t| t.kind == kind).unwrap();
        transforms.insert(at, Transform::new(kind, id));
        let answer = offer(&mut world, Payload::Sa(sa));
        let chosen = answer.iter().find_map(|payload| match payload {
            Payload::Sa(sa) => Some(sa.clone()),
            _ => None,
        });
        assert_eq!(chosen, Some(Stranger::good_offer()), "{kind:?} {id}");
    }
}

#[test]
fn a_public_value_of_another_group_is_asked_for_again() {
    let mut world = World::new();
    let mut stranger = Stranger::new();
    let request = [
        Payload::Sa(Stranger::good_offer()),
        Payload::Ke {
            method: 2,
            data: vec![2; 128],
        },
        Payload::Nonce(vec![9; 32]),
    ];
    let answer = stranger.ask_init(&mut world, &request);
    let wish = KeMethod::Modp2048.id().to_be_bytes().to_vec();
    assert_eq!(answer, [notify(NotifyType::INVALID_KE_PAYLOAD, wish)]);
    world.assert_untouched();
}

#[test]
fn issue_938_eap_shorter_than_it_says() {
    // Without the four octets of a header it is no EAP payload.
    for len in 0..4 {
        let mut world = World::new();
        let mut stranger = Stranger::in_eap(&mut world);
        let short = raw(
            PayloadType::EAP,
            vec![2, stranger.identifier, 0, 4][..len].to_vec(),
        );
        let answer = stranger.ask(&mut world, ExchangeType::IkeAuth, 2, &[short]);
        assert!(
            is_only(&answer.unwrap(), NotifyType::INVALID_SYNTAX),
            "{len}"
        );
        world.assert_untouched();
    }
    // With them, it ends before what EAP-5G needs: the method fails.
    let expanded = [254, 0, 0x28, 0xaf, 0, 0, 0, 3, 2, 0];
    for len in 0..=expanded.len() {
        for claimed in [0, 4, 4 + len, 5 + len, 0xffff] {
            let mut world = World::new();
            let mut stranger = Stranger::in_eap(&mut world);
            let claimed = u16::try_from(claimed).unwrap().to_be_bytes();
            let mut packet = vec![2, stranger.identifier, claimed[0], claimed[1]];
            packet.extend(&expanded[..len]);
            let identifier = stranger.identifier;
            let answer = stranger.eap(&mut world, 2, packet);
            let failure = Packet::Failure { identifier }.encode().unwrap();
            assert_eq!(answer, [Payload::Eap(failure)], "{len} {claimed:02x?}");
            world.assert_untouched();
        }
    }
}

/// A 5G-NAS response with these octets after the spare octet.
fn nas_response(identifier: u8, tail: &[u8]) -> Vec<u8> {
    let mut packet = vec![2, identifier, 0, 0, 254, 0, 0x28, 0xaf, 0, 0, 0, 3, 2, 0];
    packet.extend(tail);
    let len = u16::try_from(packet.len()).unwrap().to_be_bytes();
    packet[2..4].copy_from_slice(&len);
    packet
}

#[test]
fn issues_967_and_970_an_parameters_that_lie() {
    // AN-parameters length, AN-parameters, NAS PDU length, NAS PDU.
    let bad = [
        // The block is longer than the packet; its length is cut off.
        "ffff",
        "0010 0203 02f839 0000",
        "00",
        // A parameter is longer than the block: 254 and 255 wrap around in eight bits.
        "0005 02fe 02f839 0001 7e",
        "0005 02ff 02f839 0001 7e",
        "0004 0203 02f8 0001 7e",
        "0001 02 0001 7e",
        // GUAMI of every length but 6, PLMN of every length but 3, an empty cause.
        "0002 0100 0001 7e",
        "0007 0105 02f839cafe 0001 7e",
        "0009 0107 02f839cafe0000 0001 7e",
        "0002 0200 0001 7e",
        "0004 0202 02f8 0001 7e",
        "0006 0204 02f83900 0001 7e",
        "0002 0400 0001 7e",
        // S-NSSAI of length 0 and 3, and one that is cut off.
        "0003 0301 00 0001 7e",
        "0006 0304 03010203 0001 7e",
        "0004 0302 0401 0001 7e",
        // The NAS PDU is longer than the packet, or has no length.
        "0005 0203 02f839 0002 7e",
        "0005 0203 02f839 ffff",
        "0005 0203 02f839 00",
        "0005 0203 02f839",
    ];
    for text in bad {
        let mut world = World::new();
        let mut stranger = Stranger::in_eap(&mut world);
        let identifier = stranger.identifier;
        let tail = hex::decode(text.replace(' ', "")).unwrap();
        let answer = stranger.eap(&mut world, 2, nas_response(identifier, &tail));
        let failure = Packet::Failure { identifier }.encode().unwrap();
        assert_eq!(answer, [Payload::Eap(failure)], "{text}");
        world.assert_untouched();
    }
}

#[test]
fn issue_970_no_an_parameters_at_all() {
    // Legal (TS 24.502, 9.3.2.2.2): there is one AMF, so it is chosen.
    for tail in ["0000 0003 7e0041", "0005 0203 99f999 0003 7e0041"] {
        let mut world = World::new();
        let mut stranger = Stranger::in_eap(&mut world);
        let identifier = stranger.identifier;
        let tail = hex::decode(tail.replace(' ', "")).unwrap();
        world.to_core.clear();
        let packet = nas_response(identifier, &tail);
        let request = stranger.seal(ExchangeType::IkeAuth, 2, &[Payload::Eap(packet)]);
        stranger.send(&mut world, &request);
        assert_eq!(world.to_core.len(), 1, "{:?}", world.to_core);
    }
}
