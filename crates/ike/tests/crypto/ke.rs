//! Key exchanges: known answers, every pair of ends, and public values that are none.

use ike::crypto::{KeError, KeMethod};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{script::Script, vectors::cases};

const MODP: [KeMethod; 3] = [KeMethod::Modp2048, KeMethod::Modp3072, KeMethod::Modp4096];
const ECP: [KeMethod; 3] = [KeMethod::Ecp256, KeMethod::Ecp384, KeMethod::Ecp521];
const ML_KEM: [KeMethod; 3] = [KeMethod::MlKem512, KeMethod::MlKem768, KeMethod::MlKem1024];

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(9)
}

#[test]
fn known_answers() {
    let file = cases(include_str!("../vectors/ke.txt"));
    assert_eq!(file.len(), 17);
    for case in &file {
        let method: KeMethod = case.text("method_text").parse().unwrap();
        let secret = method.generate(&mut Script(case.octets("random_i")));
        assert_eq!(secret.method(), method);
        assert_eq!(
            hex::encode(secret.public()),
            case.text("public_i"),
            "{method}"
        );
        let shared = secret.finish(&case.octets("public_r")).unwrap();
        assert_eq!(
            hex::encode(shared.expose()),
            case.text("shared"),
            "{method}"
        );
        if case.find("random_r").is_some() {
            let mut script = Script(case.octets("random_r"));
            let (public, shared) = method
                .respond(&case.octets("public_i"), &mut script)
                .unwrap();
            assert_eq!(hex::encode(public), case.text("public_r"), "{method}");
            assert_eq!(
                hex::encode(shared.expose()),
                case.text("shared"),
                "{method}"
            );
        }
        if case.find("wrong").is_some() {
            let shared = secret.finish(&case.octets("wrong")).unwrap();
            assert_eq!(
                hex::encode(shared.expose()),
                case.text("rejected"),
                "{method}"
            );
        }
    }
}

#[test]
fn encapsulation_of_nist() {
    for case in cases(include_str!("../vectors/acvp.txt")) {
        let method: KeMethod = case.text("method_text").parse().unwrap();
        let mut script = Script(case.octets("m"));
        let (ciphertext, shared) = method.respond(&case.octets("ek"), &mut script).unwrap();
        assert_eq!(hex::encode(ciphertext), case.text("c"));
        assert_eq!(hex::encode(shared.expose()), case.text("k"));
    }
}

#[test]
fn both_ends_agree_and_every_exchange_differs() {
    let mut rng = rng();
    for method in KeMethod::ALL {
        let (first, second) = (method.generate(&mut rng), method.generate(&mut rng));
        assert_ne!(first.public(), second.public(), "{method}");
        assert_eq!(first.public().len(), method.initiator_len(), "{method}");
        let (public, shared) = method.respond(first.public(), &mut rng).unwrap();
        assert_eq!(public.len(), method.responder_len(), "{method}");
        assert_eq!(shared.len(), method.shared_len(), "{method}");
        assert!(first.finish(&public).unwrap() == shared, "{method}");
        assert!(second.finish(&public).unwrap() != shared, "{method}");
    }
}

#[test]
fn lengths() {
    let mut rng = rng();
    for method in KeMethod::ALL {
        let secret = method.generate(&mut rng);
        let (ours, theirs) = (method.initiator_len(), method.responder_len());
        for have in [0, 1, theirs - 1, theirs + 1] {
            let error = KeError::Length {
                method,
                have,
                need: theirs,
            };
            assert_eq!(secret.finish(&vec![2; have]).err(), Some(error));
        }
        for have in [0, 1, ours - 1, ours + 1] {
            let error = KeError::Length {
                method,
                have,
                need: ours,
            };
            let answer = method.respond(&vec![2; have], &mut rng);
            assert_eq!(answer.err(), Some(error));
        }
    }
}

fn is_no_value(method: KeMethod, value: &[u8]) {
    let mut rng = rng();
    let error = Some(KeError::Value(method));
    assert_eq!(method.respond(value, &mut rng).err(), error, "{method}");
    if value.len() == method.responder_len() {
        let secret = method.generate(&mut rng);
        assert_eq!(secret.finish(value).err(), error, "{method}");
    }
}

/// RFC 6989, section 2.1: 0, 1 and p - 1, and nothing from p on.
#[test]
fn numbers_out_of_range() {
    for method in MODP {
        let name = method.to_string();
        let file = cases(include_str!("../vectors/ke.txt"));
        let case = file.iter().find(|case| case.text("method_text") == name);
        let prime = case.unwrap().octets("prime");
        let with_last = |octet: u8| {
            let mut value = prime.clone();
            *value.last_mut().unwrap() = octet;
            value
        };
        let small = |octet: u8| {
            let mut value = vec![0; prime.len()];
            *value.last_mut().unwrap() = octet;
            value
        };
        assert_eq!(prime.last(), Some(&0xff));
        is_no_value(method, &small(0));
        is_no_value(method, &small(1));
        is_no_value(method, &with_last(0xfe));
        is_no_value(method, &prime);
        is_no_value(method, &vec![0xff; prime.len()]);
        for value in [small(2), with_last(0xfd)] {
            assert!(method.respond(&value, &mut rng()).is_ok(), "{method}");
        }
    }
}

#[test]
fn points_off_the_curve() {
    for method in ECP {
        let good = method.generate(&mut rng()).public().to_vec();
        let mut off = good.clone();
        *off.last_mut().unwrap() ^= 1;
        is_no_value(method, &off);
        is_no_value(method, &vec![0; good.len()]);
        is_no_value(method, &vec![0xff; good.len()]);
        // x and y in the wrong order.
        let (x, y) = good.split_at(good.len() / 2);
        is_no_value(method, &[y, x].concat());
    }
}

/// RFC 7748, section 6.1: points of small order give zeros. The last two are not reduced.
#[test]
fn points_of_small_order() {
    let mut order_8 =
        hex::decode("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800").unwrap();
    let mut p = vec![0xff; 32];
    (p[0], p[31]) = (0xed, 0x7f);
    let mut one = vec![0; 32];
    one[0] = 1;
    let mut p_less_1 = p.clone();
    p_less_1[0] = 0xec;
    let mut p_and_1 = p.clone();
    p_and_1[0] = 0xee;
    for value in [vec![0; 32], one, order_8.clone(), p_less_1, p, p_and_1] {
        is_no_value(KeMethod::Curve25519, &value);
    }
    order_8[0] ^= 1;
    let answer = KeMethod::Curve25519.respond(&order_8, &mut rng());
    assert!(answer.is_ok());
}

/// FIPS 203, section 7.2: coefficients of 3329 and more.
#[test]
fn encapsulation_keys_that_are_not_reduced() {
    for method in ML_KEM {
        let mut key = method.generate(&mut rng()).public().to_vec();
        // The first coefficient: 12 bits, the lower 8 first.
        key[0] = 0x00;
        key[1] = key[1] & 0xf0 | 0x0d;
        assert!(method.respond(&key, &mut rng()).is_ok(), "3328");
        key[0] = 0x01;
        for value in [key, vec![0xff; method.initiator_len()]] {
            let answer = method.respond(&value, &mut rng());
            assert_eq!(answer.err(), Some(KeError::Value(method)));
        }
    }
}

/// Draws of ECP that are 0 or beyond the order are passed over.
#[test]
fn scalars_out_of_range_are_drawn_again() {
    let last = cases(include_str!("../vectors/ke.txt"));
    let case = last
        .iter()
        .find(|case| case.text("method_text") == "ECP_256");
    let good = case.unwrap().octets("random_i");
    let script = [vec![0; 32], vec![0xff; 32], good].concat();
    let secret = KeMethod::Ecp256.generate(&mut Script(script));
    assert_eq!(hex::encode(secret.public()), case.unwrap().text("public_i"));
}
