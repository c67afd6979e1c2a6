//! Cookies: good for the request they were made for, for one rotation of the secret.

use std::net::IpAddr;

use ike::crypto::cookie::{COOKIE_LEN, CookieJar};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

const NI: &[u8] = &[9; 32];

fn source() -> IpAddr {
    "192.0.2.10".parse().unwrap()
}

fn jar() -> (CookieJar, ChaCha8Rng) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    (CookieJar::new(&mut rng), rng)
}

#[test]
fn good_for_its_request_alone() {
    let (jar, _) = jar();
    let cookie = jar.make(NI, source(), 7);
    assert_eq!(cookie.len(), COOKIE_LEN);
    assert!(jar.check(&cookie, NI, source(), 7));
    assert!(!jar.check(&cookie, NI, source(), 8));
    assert!(!jar.check(&cookie, &NI[1..], source(), 7));
    assert!(!jar.check(&cookie, NI, "192.0.2.11".parse().unwrap(), 7));
    for place in 0..cookie.len() {
        let mut forged = cookie.clone();
        forged[place] ^= 1;
        assert!(!jar.check(&forged, NI, source(), 7), "octet {place}");
        assert!(
            !jar.check(&cookie[..place], NI, source(), 7),
            "{place} octets"
        );
    }
    assert!(!jar.check(&[cookie, vec![0]].concat(), NI, source(), 7));
}

#[test]
fn good_for_one_rotation() {
    let (mut jar, mut rng) = jar();
    let first = jar.make(NI, source(), 7);
    jar.rotate(&mut rng);
    assert!(jar.check(&first, NI, source(), 7));
    let second = jar.make(NI, source(), 7);
    assert_ne!(first, second);
    jar.rotate(&mut rng);
    assert!(!jar.check(&first, NI, source(), 7));
    assert!(jar.check(&second, NI, source(), 7));
}

#[test]
fn no_octet_moves_between_the_nonce_and_the_address() {
    let (jar, _) = jar();
    let longer = [NI, &[0]].concat();
    let v6: IpAddr = "::ffff:192.0.2.10".parse().unwrap();
    assert_eq!(jar.make(NI, source(), 7), jar.make(NI, v6, 7));
    assert_ne!(jar.make(&longer, source(), 7), jar.make(NI, source(), 7));
}
