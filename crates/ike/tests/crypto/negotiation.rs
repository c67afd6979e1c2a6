//! Offers, choices and answers; names of suites.

use ike::{
    crypto::{AesBits, Encr, EspSuite, IkeSuite, Integ, KeMethod, Prf, SuiteError},
    wire::{
        Attribute, Payload, Proposal, Protocol, SaPayload, Transform, TransformType,
        encode_payloads,
    },
};

const GCM: &str = "AES_GCM_16-256/PRF_HMAC_SHA2_256";
const CBC: &str = "AES_CBC-256/HMAC_SHA1_96/PRF_HMAC_SHA1";
const ECP: &str = "AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256";

fn suite(text: &str) -> IkeSuite {
    text.parse().unwrap()
}

fn esp(text: &str) -> EspSuite {
    text.parse().unwrap()
}

fn none(kind: TransformType) -> Transform {
    Transform::new(kind, 0)
}

/// An IKE proposal with more transforms than the suite has.
fn offer(text: &str, more: Vec<Transform>) -> SaPayload {
    let mut offer = IkeSuite::offer(&[suite(text)], &[]);
    offer.proposals[0].transforms.extend(more);
    offer
}

#[test]
fn names() {
    for text in [GCM, CBC, ECP, "AES_GCM_16-128/PRF_HMAC_SHA2_512/ML_KEM_768"] {
        assert_eq!(suite(text).to_string(), text);
    }
    for text in ["AES_GCM_16-256/ESN", "AES_CBC-128/HMAC_SHA2_256_128"] {
        assert_eq!(esp(text).to_string(), text);
    }
    assert_eq!(
        suite("ECP_256/PRF_HMAC_SHA1/AES_GCM_16-192").ke,
        Some(KeMethod::Ecp256.into())
    );
    for bad in [
        "",
        "AES_GCM_16-256",
        "AES_GCM_16-512/PRF_HMAC_SHA1",
        "aes256/PRF_HMAC_SHA1",
        "AES_CBC-256/PRF_HMAC_SHA1",
        "AES_GCM_16-256/HMAC_SHA1_96/PRF_HMAC_SHA1",
        "AES_GCM_16-256/PRF_HMAC_SHA1/PRF_HMAC_SHA1",
        "AES_GCM_16-256/PRF_HMAC_SHA1/ESN",
    ] {
        assert!(bad.parse::<IkeSuite>().is_err(), "{bad}");
    }
    for bad in ["", "ESN", "AES_GCM_16-256/ESN/ESN", "AES_CBC-256/ESN"] {
        assert!(bad.parse::<EspSuite>().is_err(), "{bad}");
    }
    assert_eq!(
        "AES_GCM_16-512/PRF_HMAC_SHA1".parse::<IkeSuite>(),
        Err(SuiteError::Unknown("AES_GCM_16-512".to_owned()))
    );
}

#[test]
fn every_algorithm_is_found_by_its_transform_and_by_its_name() {
    for encr in Encr::ALL {
        assert_eq!(Encr::from_transform(&encr.transform()), Some(encr));
        assert_eq!(encr.to_string().parse(), Ok(encr));
    }
    for integ in Integ::ALL {
        assert_eq!(Integ::from_transform(&integ.transform()), Some(integ));
        assert_eq!(integ.to_string().parse(), Ok(integ));
    }
    for prf in Prf::ALL {
        assert_eq!(Prf::from_transform(&prf.transform()), Some(prf));
        assert_eq!(prf.to_string().parse(), Ok(prf));
        assert!(prf.min_nonce_len() * 2 >= prf.key_len());
    }
    for method in KeMethod::ALL {
        assert_eq!(KeMethod::from_id(method.id()), Some(method));
        assert_eq!(method.to_string().parse(), Ok(method));
    }
    let no_length = Transform::new(TransformType::ENCR, 20);
    assert_eq!(Encr::from_transform(&no_length), None);
}

#[test]
fn sizes_of_offers() {
    let size = |sa: SaPayload| encode_payloads(&[Payload::Sa(sa)]).unwrap().1.len();
    // The SA payloads of the paper: 40 octets without key exchange, 44 for ESP.
    assert_eq!(size(IkeSuite::offer(&[suite(CBC)], &[])), 40);
    assert_eq!(
        size(EspSuite::offer(&[esp("AES_CBC-256/HMAC_SHA1_96")], 1)),
        44
    );
    assert_eq!(size(IkeSuite::offer(&[suite(GCM)], &[])), 32);
}

#[test]
fn our_preference_decides() {
    let offered = IkeSuite::offer(&[suite(CBC), suite(GCM)], &[]);
    let chosen = IkeSuite::select(&[suite(ECP), suite(GCM), suite(CBC)], &offered).unwrap();
    assert_eq!((chosen.suite, chosen.index), (suite(GCM), 1));
    let answer = chosen.answer(vec![]);
    assert_eq!(answer.proposals, [suite(GCM).proposal(2, vec![])]);
    let accepted = IkeSuite::accepted(&[suite(CBC), suite(GCM)], &answer).unwrap();
    assert_eq!((accepted.suite, accepted.index), (suite(GCM), 1));
    assert_eq!(IkeSuite::select(&[suite(ECP)], &offered), None);
    assert_eq!(IkeSuite::select(&[], &offered), None);
    assert_eq!(IkeSuite::select(&[suite(GCM)], &SaPayload::default()), None);
}

#[test]
fn several_transforms_of_a_type_are_a_choice() {
    let more = vec![
        Encr::AesGcm16(AesBits::B128).transform(),
        Prf::HmacSha2_512.transform(),
        Prf::HmacSha1.transform(),
    ];
    let ours = suite("AES_GCM_16-128/PRF_HMAC_SHA2_512");
    let chosen = IkeSuite::select(&[ours], &offer(GCM, more)).unwrap();
    assert_eq!(chosen.suite, ours);
    assert_eq!(chosen.answer(vec![]).proposals, [ours.proposal(1, vec![])]);
}

#[test]
fn none_stands_for_a_type_we_do_not_want() {
    for kind in [
        TransformType::INTEG,
        TransformType::KE,
        TransformType::ADDKE3,
    ] {
        let chosen = IkeSuite::select(&[suite(GCM)], &offer(GCM, vec![none(kind)])).unwrap();
        assert!(
            chosen.proposal.transforms.contains(&none(kind)),
            "answered as offered"
        );
        let some = Transform::new(kind, 14);
        assert_eq!(
            IkeSuite::select(&[suite(GCM)], &offer(GCM, vec![some.clone()])),
            None
        );
        let either = offer(GCM, vec![some, none(kind)]);
        assert!(IkeSuite::select(&[suite(GCM)], &either).is_some());
    }
    let odd = offer(GCM, vec![none(TransformType::ESN)]);
    assert_eq!(IkeSuite::select(&[suite(GCM)], &odd), None);
    let unknown = offer(GCM, vec![Transform::new(TransformType(200), 0)]);
    assert_eq!(IkeSuite::select(&[suite(GCM)], &unknown), None);
}

#[test]
fn a_transform_with_an_unknown_attribute_is_passed_over() {
    let mut offered = offer(GCM, vec![]);
    offered.proposals[0].transforms[0].other = vec![Attribute::Short(99, 1)];
    assert_eq!(IkeSuite::select(&[suite(GCM)], &offered), None);
    offered.proposals[0]
        .transforms
        .push(suite(GCM).encr.transform());
    assert!(IkeSuite::select(&[suite(GCM)], &offered).is_some());
}

#[test]
fn the_protocol_has_to_fit() {
    let mut offered = offer(GCM, vec![]);
    offered.proposals[0].protocol = Protocol::ESP;
    assert_eq!(IkeSuite::select(&[suite(GCM)], &offered), None);
    assert_eq!(EspSuite::select(&[esp("AES_GCM_16-256")], &offered), None);
}

#[test]
fn sequence_numbers() {
    let (short, long) = (esp("AES_GCM_16-256"), esp("AES_GCM_16-256/ESN"));
    let offered = EspSuite::offer(&[long, short], 0xaabb_ccdd);
    let chosen = EspSuite::select(&[short], &offered).unwrap();
    assert_eq!(chosen.proposal.number, 2);
    assert_eq!(chosen.proposal.esp_spi(), Some(0xaabb_ccdd));
    let answer = chosen.answer(vec![0, 0, 0, 7]);
    assert_eq!(answer.proposals[0].esp_spi(), Some(7));
    assert_eq!(
        EspSuite::accepted(&[long, short], &answer).unwrap().suite,
        short
    );
    // Without an ESN transform sequence numbers are short.
    let mut bare = EspSuite::offer(&[short], 1);
    bare.proposals[0].transforms.pop();
    assert!(EspSuite::select(&[short], &bare).is_some());
    assert_eq!(EspSuite::select(&[long], &bare), None);
}

#[test]
fn answers_that_are_none() {
    let ours = [suite(GCM), suite(CBC)];
    let answer = |proposals: Vec<Proposal>| IkeSuite::accepted(&ours, &SaPayload { proposals });
    let good = suite(GCM).proposal(1, vec![]);
    assert!(answer(vec![good.clone()]).is_some());
    assert_eq!(answer(vec![]), None);
    assert_eq!(answer(vec![good.clone(), good.clone()]), None);
    assert_eq!(answer(vec![suite(GCM).proposal(2, vec![])]), None);
    assert_eq!(answer(vec![suite(GCM).proposal(0, vec![])]), None);
    assert_eq!(answer(vec![suite(GCM).proposal(3, vec![])]), None);
    assert_eq!(answer(vec![suite(ECP).proposal(1, vec![])]), None);
    let mut two = good.clone();
    two.transforms.push(Prf::HmacSha2_512.transform());
    assert_eq!(answer(vec![two]), None, "still a choice");
    let mut few = good;
    few.transforms.pop();
    assert_eq!(answer(vec![few]), None);
}

#[test]
fn spi_of_a_rekeyed_ike_sa() {
    let proposal = suite(GCM).proposal(1, 7u64.to_be_bytes().to_vec());
    assert_eq!(proposal.ike_spi(), Some(7));
    assert_eq!(proposal.esp_spi(), None);
}
