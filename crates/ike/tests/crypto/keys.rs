//! PRFs, prf+ and the key schedules.

use ike::crypto::{
    DirectionKeys, EspSuite, IkeKeys, IkeSuite, KeyError, Prf,
    keymat::{child_keys, ike_keys, skeyseed, skeyseed_rekey},
    qkd,
};
use keys::Secret;

use crate::vectors::{Case, cases};

fn secret(case: &Case, name: &str) -> Secret {
    Secret::from_slice(&case.octets(name))
}

fn spi64(case: &Case, name: &str) -> u64 {
    u64::from_be_bytes(case.octets(name).try_into().unwrap())
}

fn spi32(case: &Case, name: &str) -> u32 {
    u32::from_be_bytes(case.octets(name).try_into().unwrap())
}

fn same(case: &Case, name: &str, secret: &Secret) {
    assert_eq!(hex::encode(secret.expose()), case.text(name), "{name}");
}

fn integ(keys: &DirectionKeys) -> String {
    keys.integ
        .as_ref()
        .map(|key| hex::encode(key.expose()))
        .unwrap_or_default()
}

fn suite(text: &str) -> IkeSuite {
    text.parse().unwrap()
}

fn esp(ike: &IkeSuite) -> EspSuite {
    EspSuite {
        encr: ike.encr,
        integ: ike.integ,
        esn: false,
    }
}

#[test]
fn hmac() {
    let file = cases(include_str!("../vectors/hmac.txt"));
    for case in &file {
        let prf: Prf = format!("PRF_{}", case.text("hash_text")).parse().unwrap();
        let (key, data) = (case.octets("key"), case.octets("data"));
        same(case, "mac", &prf.mac(&key, &[&data]));
        let (head, tail) = data.split_at(3);
        same(case, "mac", &prf.mac(&key, &[head, &[], tail]));
    }
    assert_eq!(file.len(), 10);
}

#[test]
fn nist_sp_800_135() {
    let file = cases(include_str!("../vectors/sp800-135.txt"));
    let case = &file[0];
    let (ni, nr) = (case.octets("ni"), case.octets("nr"));
    let seed = skeyseed(Prf::HmacSha2_256, &ni, &nr, &secret(case, "shared"));
    same(case, "skeyseed", &seed);
    let (spi_i, spi_r) = (case.octets("spi_i"), case.octets("spi_r"));
    let parts: [&[u8]; 4] = [&ni, &nr, &spi_i, &spi_r];
    let dkm = Prf::HmacSha2_256.plus(seed.expose(), &parts, 132).unwrap();
    same(case, "dkm", &dkm);
    // The leading octets of the same stream are the keys of any suite.
    let keys = ike_keys(
        &suite("AES_CBC-256/HMAC_SHA1_96/PRF_HMAC_SHA2_256"),
        &seed,
        &ni,
        &nr,
        spi64(case, "spi_i"),
        spi64(case, "spi_r"),
    )
    .unwrap();
    assert_eq!(keys.sk_d.expose(), &dkm.expose()[..32]);
    assert_eq!(
        keys.initiator.integ.unwrap().expose(),
        &dkm.expose()[32..52]
    );
    assert_eq!(
        keys.responder.integ.unwrap().expose(),
        &dkm.expose()[52..72]
    );
    assert_eq!(keys.initiator.encr.expose(), &dkm.expose()[72..104]);
    assert_eq!(keys.responder.encr.expose()[..28], dkm.expose()[104..132]);
}

#[test]
fn prf_plus_ends_after_255_blocks() {
    for prf in Prf::ALL {
        let most = 255 * prf.key_len();
        let all = prf.plus(b"key", &[b"seed"], most).unwrap();
        let few = prf.plus(b"key", &[b"se", b"ed"], 7).unwrap();
        assert_eq!(all.len(), most);
        assert_eq!(few.expose(), &all.expose()[..7]);
        assert_eq!(
            prf.plus(b"key", &[b"seed"], most + 1).err(),
            Some(KeyError::TooLong(most + 1))
        );
        assert!(prf.plus(b"key", &[], 0).unwrap().is_empty());
    }
}

#[test]
fn schedules_with_a_shared_secret() {
    let file = cases(include_str!("../vectors/schedules.txt"));
    let mut seen = 0;
    for case in file.iter().filter(|case| case.find("suite_text").is_some()) {
        let suite = suite(case.text("suite_text"));
        let (ni, nr) = (case.octets("ni"), case.octets("nr"));
        let seed = skeyseed(suite.prf, &ni, &nr, &secret(case, "shared"));
        same(case, "skeyseed", &seed);
        let (spi_i, spi_r) = (spi64(case, "spi_i"), spi64(case, "spi_r"));
        let keys = ike_keys(&suite, &seed, &ni, &nr, spi_i, spi_r).unwrap();
        check_sk(case, &keys);
        same(case, "sk_ei", &keys.initiator.encr);
        same(case, "sk_er", &keys.responder.encr);
        assert_eq!(integ(&keys.initiator), case.text("sk_ai"));
        assert_eq!(integ(&keys.responder), case.text("sk_ar"));
        if suite.encr.is_aead() {
            assert_eq!(keys.initiator.salt, case.octets("salt_i")[..]);
            assert_eq!(keys.responder.salt, case.octets("salt_r")[..]);
        }
        let again = secret(case, "again");
        let again = [again];
        let rekeyed = skeyseed_rekey(suite.prf, &keys.sk_d, &again, &ni, &nr).unwrap();
        same(case, "rekeyed", &rekeyed);
        assert!(skeyseed_rekey(suite.prf, &keys.sk_d, &[], &ni, &nr).is_none());
        for (name, shared) in [("child", &[][..]), ("child_pfs", &again)] {
            let child = child_keys(suite.prf, &esp(&suite), &keys.sk_d, shared, &ni, &nr).unwrap();
            let all = [child.first, child.second].map(|keys| {
                let salt = &keys.salt[..suite.encr.salt_len()];
                let integ = keys.integ.map_or(vec![], |key| key.expose().to_vec());
                [keys.encr.expose(), salt, &integ].concat()
            });
            assert_eq!(hex::encode(all.concat()), case.text(name), "{name}");
        }
        seen += 1;
    }
    assert_eq!(seen, 8);
}

fn check_sk(case: &Case, keys: &IkeKeys) {
    same(case, "sk_d", &keys.sk_d);
    same(case, "sk_pi", &keys.sk_pi);
    same(case, "sk_pr", &keys.sk_pr);
}

fn delivered(case: &Case) -> Vec<Secret> {
    case.octets("keys")
        .chunks(64)
        .map(Secret::from_slice)
        .collect()
}

#[test]
fn schedules_with_qkd_keys() {
    let file = cases(include_str!("../vectors/schedules.txt"));
    let mut seen = 0;
    for case in file.iter().filter(|case| case.find("qkd_text").is_some()) {
        let suite = suite(case.text("qkd_text"));
        let (ni, nr) = (case.octets("ni"), case.octets("nr"));
        let (spi_i, spi_r) = (spi64(case, "spi_i"), spi64(case, "spi_r"));
        let k_auth = secret(case, "k_auth");
        let keys = delivered(case);
        assert_eq!(keys.len(), qkd::ike_key_count(&suite));
        let ike = qkd::ike_keys(&suite, keys, &k_auth, &ni, &nr, spi_i, spi_r).unwrap();
        check_sk(case, &ike);
        same(case, "up_encr", &ike.initiator.encr);
        same(case, "down_encr", &ike.responder.encr);
        assert_eq!(integ(&ike.initiator), case.text("up_integ"));
        assert_eq!(integ(&ike.responder), case.text("down_integ"));
        assert_eq!(ike.initiator.salt, case.octets("salt_i")[..]);
        assert_eq!(ike.responder.salt, case.octets("salt_r")[..]);

        let (ue, n3iwf) = (spi32(case, "spi_ue"), spi32(case, "spi_n3iwf"));
        let child = qkd::child_keys(&esp(&suite), delivered(case), &ni, &nr, ue, n3iwf).unwrap();
        same(case, "up_encr", &child.first.encr);
        same(case, "down_encr", &child.second.encr);
        assert_eq!(integ(&child.first), case.text("up_integ"));
        assert_eq!(integ(&child.second), case.text("down_integ"));
        assert_eq!(child.first.salt, case.octets("salt_up")[..]);
        assert_eq!(child.second.salt, case.octets("salt_down")[..]);

        let k_n3iwf = secret(case, "k_n3iwf");
        same(
            case,
            "final",
            &qkd::final_secret(suite.prf, &k_auth, &k_n3iwf),
        );
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn an_attach_takes_7_or_13_keys() {
    let aead = suite("AES_GCM_16-256/PRF_HMAC_SHA2_256");
    let cbc = suite("AES_CBC-256/HMAC_SHA1_96/PRF_HMAC_SHA1");
    assert_eq!(qkd::attach_key_count(&aead, &esp(&aead), 2), 7);
    assert_eq!(qkd::attach_key_count(&cbc, &esp(&cbc), 2), 13);
    assert_eq!(qkd::key_len(&aead, &esp(&aead)), 32);
    let long = suite("AES_CBC-128/HMAC_SHA2_512_256/PRF_HMAC_SHA1");
    assert_eq!(qkd::key_len(&aead, &esp(&long)), 64);
}

#[test]
fn keys_that_do_not_suffice() {
    let aead = suite("AES_GCM_16-256/PRF_HMAC_SHA2_256");
    let auth = Secret::from_slice(&[1; 32]);
    let make = |suite: &IkeSuite, lens: &[usize]| {
        let keys = lens.iter().map(|len| Secret::from_slice(&vec![7; *len]));
        qkd::ike_keys(suite, keys.collect(), &auth, b"ni", b"nr", 1, 2).err()
    };
    let count = |have| Some(KeyError::Count { have, need: 2 });
    assert_eq!(make(&aead, &[32, 32]), None);
    assert_eq!(make(&aead, &[]), count(0));
    assert_eq!(make(&aead, &[32]), count(1));
    assert_eq!(make(&aead, &[32, 32, 32]), count(3));
    let short = KeyError::TooShort { have: 31, need: 32 };
    assert_eq!(make(&aead, &[32, 31]), Some(short));
    let odd = IkeSuite {
        integ: Some(ike::crypto::Integ::HmacSha1_96),
        ..aead
    };
    assert_eq!(make(&odd, &[32, 32]), Some(KeyError::Suite));
    let bare = IkeSuite {
        encr: ike::crypto::Encr::AesCbc(ike::crypto::AesBits::B256),
        ..aead
    };
    assert_eq!(make(&bare, &[32; 4]), Some(KeyError::Suite));
    assert_eq!(
        ike_keys(&bare, &auth, b"ni", b"nr", 1, 2).err(),
        Some(KeyError::Suite)
    );
}

#[test]
fn salts_differ_by_spi_and_by_nonce() {
    let one = qkd::salt(b"ni", b"nr", &[0, 0, 0, 1]);
    assert_ne!(one, qkd::salt(b"ni", b"nr", &[0, 0, 0, 2]));
    assert_ne!(one, qkd::salt(b"ni", b"nx", &[0, 0, 0, 1]));
    assert_eq!(one, qkd::salt(b"n", b"inr", &[0, 0, 0, 1]));
}
