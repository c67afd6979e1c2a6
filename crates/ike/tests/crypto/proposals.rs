//! Proposals in swanctl's words, and several key exchanges in offers and answers.

use ike::{
    crypto::{ChildSuite, Encr, EspSuite, IkeSuite, Integ, KeMethod, KeyExchange, Prf, SuiteError},
    wire::{Payload, Transform, TransformType, encode_payloads},
};

fn ike(text: &str) -> Vec<IkeSuite> {
    IkeSuite::from_keywords(text).unwrap()
}

fn child(text: &str) -> Vec<ChildSuite> {
    ChildSuite::from_keywords(text).unwrap()
}

fn shown<S: ToString>(suites: &[S]) -> Vec<String> {
    suites.iter().map(ToString::to_string).collect()
}

#[test]
fn words_and_status() {
    for (words, status) in [
        (
            "aes256gcm16-prfsha384-ecp384-ke1_mlkem768",
            "AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384/KE1_ML_KEM_768",
        ),
        (
            "aes256-sha256-modp2048",
            "AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048",
        ),
        (
            "chacha20poly1305-prfsha256-x25519",
            "CHACHA20_POLY1305/PRF_HMAC_SHA2_256/CURVE_25519",
        ),
        (
            "aes128-sha1-prfsha256-ecp521-ke2_mlkem512-ke7_modp4096",
            "AES_CBC-128/HMAC_SHA1_96/PRF_HMAC_SHA2_256/ECP_521/KE2_ML_KEM_512/KE7_MODP_4096",
        ),
        ("aes192gcm16-prfsha512", "AES_GCM_16-192/PRF_HMAC_SHA2_512"),
    ] {
        let suite: IkeSuite = words.parse().unwrap();
        assert_eq!(suite.to_string(), status);
        assert_eq!(suite.to_keywords(), words);
        assert_eq!(status.parse(), Ok(suite));
        assert_eq!(ike(words), [suite]);
    }
    for (words, status) in [
        ("aes256gcm16", "AES_GCM_16-256"),
        ("aes256gcm16-esn", "AES_GCM_16-256/ESN"),
        ("aes128-sha1", "AES_CBC-128/HMAC_SHA1_96"),
        ("aes192-sha512", "AES_CBC-192/HMAC_SHA2_512_256"),
        (
            "chacha20poly1305-x25519-ke1_mlkem768-esn",
            "CHACHA20_POLY1305/ESN/CURVE_25519/KE1_ML_KEM_768",
        ),
    ] {
        let suite: ChildSuite = words.parse().unwrap();
        assert_eq!(suite.to_string(), status);
        assert_eq!(suite.to_keywords(), words);
        assert_eq!(status.parse(), Ok(suite));
        let esp = words.parse::<EspSuite>();
        assert_eq!(esp.is_ok(), suite.ke.is_none(), "{words}");
    }
    assert_eq!(
        "aes128-noesn-sha1".parse::<EspSuite>(),
        "AES_CBC-128/HMAC_SHA1_96".parse()
    );
    for (other, usual) in [
        ("aes-sha-ecp256", "aes128-sha1-ecp256"),
        ("aes256-sha2_256-ecp256", "aes256-sha256-ecp256"),
        ("aes256-sha2_384-ecp256", "aes256-sha384-ecp256"),
        ("aes256-sha2_512-ecp256", "aes256-sha512-ecp256"),
    ] {
        assert_eq!(ike(other), ike(usual));
        assert_eq!(ike(other)[0].to_keywords(), usual);
    }
    assert_eq!(
        "aes256gcm128-prfsha256-curve25519".parse::<IkeSuite>(),
        "aes256gcm16-prfsha256-x25519".parse()
    );
}

#[test]
fn choices_stand_for_every_combination() {
    assert_eq!(
        shown(&ike(
            "aes256-aes128-sha256-sha1-ecp256, aes256-sha256-ecp256"
        )),
        [
            "AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256",
            "AES_CBC-256/HMAC_SHA1_96/PRF_HMAC_SHA1/ECP_256",
            "AES_CBC-128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256",
            "AES_CBC-128/HMAC_SHA1_96/PRF_HMAC_SHA1/ECP_256",
        ]
    );
    assert_eq!(
        shown(&ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none")),
        [
            "AES_GCM_16-256/PRF_HMAC_SHA2_384/CURVE_25519/KE1_ML_KEM_768",
            "AES_GCM_16-256/PRF_HMAC_SHA2_384/CURVE_25519",
        ]
    );
    // A method twice in one suite is no combination.
    assert_eq!(
        shown(&ike(
            "aes256gcm16-prfsha384-x25519-ecp384-ke1_x25519-ke1_mlkem768"
        )),
        [
            "AES_GCM_16-256/PRF_HMAC_SHA2_384/CURVE_25519/KE1_ML_KEM_768",
            "AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384/KE1_CURVE_25519",
            "AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384/KE1_ML_KEM_768",
        ]
    );
    assert_eq!(
        shown(&child("aes256gcm16-aes128gcm16-noesn-esn")),
        [
            "AES_GCM_16-256",
            "AES_GCM_16-256/ESN",
            "AES_GCM_16-128",
            "AES_GCM_16-128/ESN",
        ]
    );
}

#[test]
fn defaults() {
    let suites = IkeSuite::defaults();
    assert_eq!(
        suites.first().unwrap().to_keywords(),
        "aes256gcm16-prfsha384-ecp384-ke1_mlkem1024"
    );
    assert_eq!(
        suites.last().unwrap().to_keywords(),
        "aes128-sha256-modp2048"
    );
    for suite in &suites {
        assert!(suite.ke.is_some(), "{suite}");
        assert!(suite.prf != Prf::HmacSha1, "{suite}");
        assert!(suite.integ != Some(Integ::HmacSha1_96), "{suite}");
        assert_eq!(suite.to_keywords().parse(), Ok(*suite));
    }
    assert_eq!(ike("default"), suites);
    assert_eq!(ike("aes256-sha1-modp2048,default").len(), suites.len() + 1);
    // The first message of all cannot be fragmented: it has to fit the smallest IPv6 path with a key.
    let (_, sa) = encode_payloads(&[Payload::Sa(IkeSuite::offer(&suites, &[]))]).unwrap();
    assert!(sa.len() < 900, "{} octets", sa.len());

    let suites = ChildSuite::defaults();
    assert_eq!(suites.first().unwrap().to_keywords(), "aes256gcm16-esn");
    assert!(suites.iter().all(|suite| suite.ke.is_none()));
    assert!(
        suites
            .iter()
            .all(|suite| suite.esp.integ != Some(Integ::HmacSha1_96))
    );
    assert_eq!(child("default"), suites);
}

#[test]
fn errors_name_the_keyword() {
    for (text, error) in [
        ("", "no algorithm is called "),
        (
            "aes257gcm16-prfsha256",
            "no algorithm is called aes257gcm16",
        ),
        (
            "aes256gcm16-prfsha256-ecp385",
            "no algorithm is called ecp385",
        ),
        ("aes256gcm16--prfsha256", "no algorithm is called "),
        (
            "AES256gcm16-prfsha256",
            "no algorithm is called AES256gcm16",
        ),
        ("3des-sha1-modp2048", "3des: blocks of 64 bits"),
        ("aes256-md5-modp2048", "md5: broken"),
        ("aes256-sha256-modp1024", "modp1024: too short"),
        ("aes256-sha256-esn", "esn: IKE has no sequence numbers"),
        ("aes256-sha256-aes256", "aes256: twice in one proposal"),
        (
            "prfsha256-ecp256",
            "prfsha256-ecp256: no encryption algorithm",
        ),
        (
            "aes256gcm16-ecp256",
            "aes256gcm16-ecp256: no pseudorandom function",
        ),
        (
            "aes256-prfsha256",
            "aes256-prfsha256: no integrity algorithm",
        ),
        (
            "aes256gcm16-sha256-prfsha256",
            "aes256gcm16-sha256-prfsha256: an AEAD takes no integrity algorithm",
        ),
        (
            "aes256gcm16-prfsha256-ke1_mlkem768",
            "aes256gcm16-prfsha256-ke1_mlkem768: an additional key exchange without a first one",
        ),
        (
            "aes256gcm16-prfsha256-x25519-ke1_x25519",
            "aes256gcm16-prfsha256-x25519-ke1_x25519: a key exchange method twice in a suite",
        ),
        (
            "aes256gcm16-prfsha256-x25519-ke8_mlkem768",
            "ke8_mlkem768: additional key exchanges have the numbers 1 to 7",
        ),
        (
            "aes256gcm16-prfsha256-x25519-ke0_mlkem768",
            "ke0_mlkem768: additional key exchanges have the numbers 1 to 7",
        ),
        (
            "aes256gcm16-prfsha256-x25519-ke01_mlkem768",
            "ke01_mlkem768: additional key exchanges have the numbers 1 to 7",
        ),
        (
            "aes256gcm16-prfsha256-x25519-ke1_sha256",
            "ke1_sha256: no key exchange method is called this",
        ),
    ] {
        let read = IkeSuite::from_keywords(text);
        assert_eq!(read.unwrap_err().to_string(), error);
    }
    let read = ChildSuite::from_keywords("aes256gcm16-prfsha256");
    assert_eq!(
        read.unwrap_err().to_string(),
        "prfsha256: ESP has no pseudorandom function"
    );
    assert_eq!(
        "aes256gcm16-x25519"
            .parse::<EspSuite>()
            .unwrap_err()
            .to_string(),
        "CURVE_25519: no key exchange has a place here"
    );
    assert_eq!(
        "aes256gcm16-prfsha256-prfsha384".parse::<IkeSuite>(),
        Err(SuiteError::Combination("a choice where one suite belongs"))
    );
    let many: String = (1..=7)
        .flat_map(|place| {
            ["mlkem512", "mlkem768", "mlkem1024", "ecp384", "modp4096"]
                .map(|method| format!("-ke{place}_{method}"))
        })
        .chain((1..=7).map(|place| format!("-ke{place}_none")))
        .collect();
    assert_eq!(
        IkeSuite::from_keywords(&format!("aes256gcm16-prfsha256-x25519{many}")),
        Err(SuiteError::Combination("more than 255 suites"))
    );
    for bad in [
        "AES_GCM_16-256/PRF_HMAC_SHA1/KE1_ECP_256",
        "AES_GCM_16-256/PRF_HMAC_SHA1/ECP_256/KE1_ECP_256",
        "AES_GCM_16-256/PRF_HMAC_SHA1/ECP_256/KE0_ECP_384",
        "AES_GCM_16-256/PRF_HMAC_SHA1/ECP_256/KE8_ECP_384",
        "AES_GCM_16-256/PRF_HMAC_SHA1/ECP_256/KE1_ECP_384/KE1_ECP_521",
    ] {
        assert!(bad.parse::<IkeSuite>().is_err(), "{bad}");
    }
}

const HYBRID: &str = "aes256gcm16-prfsha384-ecp384-ke1_mlkem768";

fn hybrid() -> IkeSuite {
    HYBRID.parse().unwrap()
}

#[test]
fn exchanges_in_order() {
    let ke = hybrid().ke.unwrap();
    assert_eq!(ke.first(), KeMethod::Ecp384);
    assert!(
        ke.additional()
            .eq([(TransformType::ADDKE1, KeMethod::MlKem768)])
    );
    assert!(ke.methods().eq([KeMethod::Ecp384, KeMethod::MlKem768]));
    let more = ke.with_additional(3, KeMethod::Curve25519).unwrap();
    assert!(more.additional().eq([
        (TransformType::ADDKE1, KeMethod::MlKem768),
        (TransformType::ADDKE3, KeMethod::Curve25519),
    ]));
    assert!(ke.with_additional(1, KeMethod::Curve25519).is_err());
    assert!(ke.with_additional(2, KeMethod::Ecp384).is_err());
    assert!(KeyExchange::single(KeMethod::Ecp256).additional().eq([]));
}

#[test]
fn additional_key_exchanges_are_negotiated() {
    let plain: IkeSuite = "aes256gcm16-prfsha384-ecp384".parse().unwrap();
    let offered = IkeSuite::offer(&[hybrid()], &[]);
    assert_eq!(
        offered.proposals[0].transforms[3],
        Transform::new(TransformType::ADDKE1, 36)
    );
    assert_eq!(IkeSuite::select(&[plain], &offered), None, "not optional");
    let chosen = IkeSuite::select(&[plain, hybrid()], &offered).unwrap();
    assert_eq!(chosen.suite, hybrid());
    assert_eq!(chosen.answer(vec![]), offered);

    // Optional for the peer: each of ours has a place in its one proposal.
    let mut optional = offered.clone();
    let none = Transform::new(TransformType::ADDKE1, 0);
    optional.proposals[0].transforms.push(none.clone());
    let chosen = IkeSuite::select(&[plain], &optional).unwrap();
    assert!(chosen.proposal.transforms.contains(&none));
    assert_eq!(
        IkeSuite::select(&[hybrid(), plain], &optional)
            .unwrap()
            .index,
        0
    );

    // The same methods in other places are another suite.
    let mut elsewhere = offered;
    elsewhere.proposals[0].transforms[3].kind = TransformType::ADDKE2;
    assert_eq!(IkeSuite::select(&[hybrid()], &elsewhere), None);
}

#[test]
fn answers_hold_what_was_offered_and_nothing_else() {
    let ours = [hybrid()];
    let good = IkeSuite::offer(&ours, &[]);
    assert_eq!(IkeSuite::accepted(&ours, &good).unwrap().suite, hybrid());
    let mut turned = good.clone();
    turned.proposals[0].transforms.reverse();
    assert!(IkeSuite::accepted(&ours, &turned).is_some(), "in any order");
    for place in 0..good.proposals[0].transforms.len() {
        let mut few = good.clone();
        few.proposals[0].transforms.remove(place);
        assert_eq!(IkeSuite::accepted(&ours, &few), None, "without {place}");
        let mut double = good.clone();
        let transform = double.proposals[0].transforms[place].clone();
        double.proposals[0].transforms[(place + 1) % 4] = transform;
        assert_eq!(IkeSuite::accepted(&ours, &double), None, "{place} twice");
        let mut none = good.clone();
        none.proposals[0].transforms[place].id = 0;
        assert_eq!(IkeSuite::accepted(&ours, &none), None, "NONE for {place}");
    }
    for kind in [
        TransformType::INTEG,
        TransformType::ADDKE2,
        TransformType::ESN,
    ] {
        let mut more = good.clone();
        more.proposals[0].transforms.push(Transform::new(kind, 0));
        assert_eq!(IkeSuite::accepted(&ours, &more), None, "{kind}");
    }
}

#[test]
fn key_exchanges_of_child_sas() {
    let suites = child("aes256gcm16-x25519-ke1_mlkem768,aes256gcm16-x25519,aes256gcm16");
    let offered = ChildSuite::offer(&suites, 7);
    let ours = child("aes256gcm16-x25519");
    let chosen = ChildSuite::select(&ours, &offered).unwrap();
    assert_eq!(chosen.proposal, ours[0].proposal(2, 7));
    let answer = chosen.answer(vec![0, 0, 0, 9]);
    let accepted = ChildSuite::accepted(&suites, &answer).unwrap();
    assert_eq!((accepted.suite, accepted.index), (ours[0], 1));
    // In IKE_AUTH there is none.
    let bare: EspSuite = "aes256gcm16".parse().unwrap();
    assert_eq!(suites[2], bare.into());
    let chosen = EspSuite::select(&[bare], &offered).unwrap();
    assert_eq!(chosen.proposal.number, 3);
    assert_eq!(suites[0].esp, bare);
}

#[test]
fn chacha20_has_no_key_length() {
    let transform = Encr::ChaCha20Poly1305.transform();
    assert_eq!(transform, Transform::new(TransformType::ENCR, 28));
    let long = Transform::with_key_length(TransformType::ENCR, 28, 256);
    assert_eq!(Encr::from_transform(&long), None);
}
