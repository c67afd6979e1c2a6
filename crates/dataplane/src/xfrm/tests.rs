//! Messages as the kernel reads them; what the kernel does with them is in `tests/xfrm_kernel.rs`.

use keys::Secret;
use netlink_packet_core::Emitable;

use super::*;
use crate::{EncrAlg, EspKeys, IntegAlg, Limits, Plane};

const PLACE: Place = Place {
    if_id: 7,
    reqid: 0x4e00_0003,
};

fn keys(len: usize, integ: Option<usize>) -> EspKeys {
    EspKeys {
        encr: Secret::filled(len, |o| o.fill(0xa5)),
        salt: [1, 2, 3, 4],
        integ: integ.map(|len| Secret::filled(len, |o| o.fill(0x5a))),
    }
}

fn gcm() -> ChildSaSpec {
    ChildSaSpec {
        id: 1,
        plane: Plane::Control,
        ue: 9,
        pdu_session: None,
        spi_in: 0xc0de_0001,
        spi_out: 0xc0de_0002,
        encr: EncrAlg::AesGcm16,
        integ: None,
        keys_in: keys(32, None),
        keys_out: keys(32, None),
        esn: true,
        replay_window: 64,
        local: "192.0.2.1:4500".parse().unwrap(),
        remote: "192.0.2.10:40000".parse().unwrap(),
        udp_encap: true,
        inner_local: "10.0.0.1".parse().unwrap(),
        inner_remote: "10.0.0.7".parse().unwrap(),
        protocol: Some(6),
        slot: 0,
        reqid: 3,
    }
}

fn cbc() -> ChildSaSpec {
    ChildSaSpec {
        encr: EncrAlg::AesCbc,
        integ: Some(IntegAlg::HmacSha2_256_128),
        keys_in: keys(32, Some(32)),
        keys_out: keys(32, Some(32)),
        esn: false,
        udp_encap: false,
        protocol: None,
        ..gcm()
    }
}

/// Finds the value of an attribute of the given type in an encoded message.
fn attribute(octets: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut rest = octets.get(224..)?;
    while rest.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        if u16::from_ne_bytes([rest[2], rest[3]]) == kind {
            return Some(rest[4..len].to_vec());
        }
        rest = &rest[len.next_multiple_of(4).min(rest.len())..];
    }
    None
}

fn encoded(sa: &ChildSaSpec, direction: Direction) -> Vec<u8> {
    let message = state::message(sa, PLACE, direction, &Limits::default()).unwrap();
    let mut octets = vec![0; message.buffer_len()];
    message.emit(&mut octets);
    octets
}

#[test]
fn gcm_state_carries_key_and_salt() {
    let octets = encoded(&gcm(), Direction::Out);
    // struct xfrm_usersa_info: destination and SPI of xfrm_id follow the 56-octet selector.
    assert_eq!(octets[56..60], [192, 0, 2, 10]);
    assert_eq!(octets[72..76], [0xc0, 0xde, 0, 2]);
    assert_eq!(octets[76], 50);
    // XFRMA_ALG_AEAD: name[64], key bits, ICV bits, key and salt.
    let aead = attribute(&octets, 18).unwrap();
    assert!(aead.starts_with(b"rfc4106(gcm(aes))\0"));
    assert_eq!(aead[64..68], 288u32.to_ne_bytes());
    assert_eq!(aead[68..72], 128u32.to_ne_bytes());
    assert_eq!(aead[72..104], [0xa5; 32]);
    assert_eq!(aead[104..], [1, 2, 3, 4]);
    // XFRMA_ENCAP: type 2, our port, the peer's port, in network order.
    let encap = attribute(&octets, 4).unwrap();
    assert_eq!(encap[..2], 2u16.to_ne_bytes());
    assert_eq!(encap[2..6], [0x11, 0x94, 0x9c, 0x40]);
    // XFRMA_IF_ID.
    assert_eq!(attribute(&octets, 31).unwrap(), 7u32.to_ne_bytes());
    // XFRMA_REPLAY_ESN_VAL: two words of bitmap for 64 packets.
    let replay = attribute(&octets, 23).unwrap();
    assert_eq!(replay.len(), 24 + 8);
    assert_eq!(replay[20..24], 64u32.to_ne_bytes());
    // Flags: ESN and AF_UNSPEC.
    assert_eq!(octets[216], 128 | 32);
}

#[test]
fn chacha_state_carries_key_and_salt() {
    let sa = ChildSaSpec {
        encr: EncrAlg::ChaCha20Poly1305,
        ..gcm()
    };
    let aead = attribute(&encoded(&sa, Direction::Out), 18).unwrap();
    assert!(aead.starts_with(b"rfc7539esp(chacha20,poly1305)\0"));
    assert_eq!(aead[64..68], 288u32.to_ne_bytes());
    assert_eq!(aead[68..72], 128u32.to_ne_bytes());
    assert_eq!(aead[72..104], [0xa5; 32]);
    assert_eq!(aead[104..], [1, 2, 3, 4]);
}

#[test]
fn inbound_state_turns_addresses_and_ports_around() {
    let octets = encoded(&gcm(), Direction::In);
    assert_eq!(octets[56..60], [192, 0, 2, 1]);
    assert_eq!(octets[72..76], [0xc0, 0xde, 0, 1]);
    let encap = attribute(&octets, 4).unwrap();
    assert_eq!(encap[2..6], [0x9c, 0x40, 0x11, 0x94]);
}

#[test]
fn cbc_state_names_its_truncation() {
    let octets = encoded(&cbc(), Direction::Out);
    assert!(attribute(&octets, 18).is_none());
    assert!(attribute(&octets, 4).is_none());
    let crypt = attribute(&octets, 2).unwrap();
    assert!(crypt.starts_with(b"cbc(aes)\0"));
    assert_eq!(crypt[64..68], 256u32.to_ne_bytes());
    // XFRMA_ALG_AUTH_TRUNC: the kernel's own default for SHA-256 would be 96.
    let auth = attribute(&octets, 20).unwrap();
    assert!(auth.starts_with(b"hmac(sha256)\0"));
    assert_eq!(auth[64..68], 256u32.to_ne_bytes());
    assert_eq!(auth[68..72], 128u32.to_ne_bytes());
    assert_eq!(auth[72..], [0x5a; 32]);
    assert_eq!(octets[216], 32);
}

#[test]
fn read_back_finds_every_difference_and_prints_no_key() {
    for sa in [gcm(), cbc()] {
        let id = StateId::outbound(&sa);
        let asked = state::message(&sa, PLACE, Direction::Out, &Limits::default()).unwrap();
        state::compare(id, &asked, &asked).unwrap();
        let mut other = gcm();
        other.keys_out = keys(32, None);
        type Change = fn(&mut ChildSaSpec);
        let changes: [(&str, Change); 6] = [
            ("SPI", |sa| sa.spi_out += 1),
            ("destination", |sa| {
                sa.remote.set_ip("192.0.2.11".parse().unwrap());
            }),
            ("replay window", |sa| sa.replay_window = 32),
            ("flags", |sa| sa.esn = !sa.esn),
            ("encapsulation", |sa| sa.udp_encap = !sa.udp_encap),
            ("key", |sa| {
                sa.keys_out.encr = Secret::filled(32, |o| o.fill(0xa6));
            }),
        ];
        for (what, change) in changes {
            let make: fn() -> ChildSaSpec = if sa.integ.is_some() { cbc } else { gcm };
            let mut wanted = make();
            // `flags` is compared for what was asked: extended sequence numbers.
            if what == "flags" {
                wanted.esn = true;
            }
            let asked = state::message(&wanted, PLACE, Direction::Out, &Limits::default()).unwrap();
            change(&mut wanted);
            let held = state::message(&wanted, PLACE, Direction::Out, &Limits::default()).unwrap();
            let text = state::compare(id, &asked, &held).unwrap_err().to_string();
            assert!(text.contains(what), "{what}: {text}");
            assert!(
                !text.contains("a5a5") && !text.contains("165, 165"),
                "{text}"
            );
        }
        let elsewhere = Place { if_id: 8, ..PLACE };
        let held = state::message(&sa, elsewhere, Direction::Out, &Limits::default()).unwrap();
        let text = state::compare(id, &asked, &held).unwrap_err().to_string();
        assert!(text.contains("if_id"), "{text}");
    }
}

#[test]
fn wiping_leaves_no_key() {
    let mut message = XfrmMessage::AddSa(
        state::message(&cbc(), PLACE, Direction::In, &Limits::default()).unwrap(),
    );
    message.wipe();
    let XfrmMessage::AddSa(message) = &message else {
        panic!("still a state")
    };
    let mut octets = vec![0; message.buffer_len()];
    message.emit(&mut octets);
    assert!(!octets.windows(4).any(|w| w == [0xa5; 4] || w == [0x5a; 4]));
}

#[test]
fn policy_is_found_again() {
    let sa = gcm();
    for direction in [Direction::In, Direction::Forward, Direction::Out] {
        let message = policy::message(&sa, PLACE, direction);
        let key = PolicyKey::new(&sa, PLACE, direction);
        assert_eq!(policy::read(&message), Some((key.clone(), PLACE.reqid)));
        let expected = if direction == Direction::Out {
            ("10.0.0.1", "10.0.0.7")
        } else {
            ("10.0.0.7", "10.0.0.1")
        };
        assert_eq!(key.source.to_string(), expected.0);
        assert_eq!(key.destination.to_string(), expected.1);
        assert_eq!((key.protocol, key.if_id), (6, 7));
    }
}

#[test]
fn policy_read_back_finds_another_template() {
    let sa = gcm();
    let asked = policy::message(&sa, PLACE, Direction::In);
    let other = Place { reqid: 1, ..PLACE };
    let held = policy::message(&sa, other, Direction::In);
    let text = policy::compare("policy", &asked, &held)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("template") && text.contains("reqid 1"),
        "{text}"
    );
}
