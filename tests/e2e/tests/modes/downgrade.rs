//! Attempts at less than what was configured: by a peer, by someone on the path, by an outage.

use ike::wire::{self, Body, ExchangeType, Notify, NotifyType, Payload, find_notify};

use crate::pair::{From, Pair, Setup, Tap};

/// Changes the payloads of the clear messages of one end.
pub(crate) fn change(of: From, change: impl Fn(Vec<Payload>) -> Vec<Payload> + 'static) -> Tap {
    Box::new(move |from, data| {
        let parsed = wire::parse(data).unwrap();
        match parsed.body {
            Body::Clear(payloads) if from == of => {
                let changed = wire::encode(&parsed.header, &change(payloads)).unwrap();
                vec![(from, changed)]
            }
            _ => vec![(from, data.to_vec())],
        }
    })
}

/// The UE's IKE_SA_INIT as it would be without mode qkd.
pub(crate) fn without_qkd(payloads: Vec<Payload>) -> Vec<Payload> {
    const KE: u8 = 4;
    payloads
        .into_iter()
        .filter(|payload| {
            !matches!(payload, Payload::Notify(notify) if notify.kind == NotifyType::QKD_SUPPORTED)
        })
        .map(|payload| match payload {
            Payload::Sa(mut sa) => {
                sa.proposals
                    .retain(|proposal| proposal.transforms.iter().any(|t| t.kind.0 == KE));
                Payload::Sa(sa)
            }
            other => other,
        })
        .collect()
}

/// Answers the UE's IKE_SA_INIT with an error notify, ahead of the N3IWF.
fn forge(kind: NotifyType, data: &'static [u8]) -> Tap {
    Box::new(move |from, data_in| {
        let parsed = wire::parse(data_in).unwrap();
        let mut arriving = vec![(from, data_in.to_vec())];
        if from == From::Ue && parsed.header.exchange == ExchangeType::IkeSaInit {
            let mut header = parsed.header;
            header.flags.response = true;
            header.flags.initiator = false;
            let error = Payload::Notify(Notify::status(kind, data.to_vec()));
            let forged = wire::encode(&header, &[error]).unwrap();
            arriving.insert(0, (From::N3iwf, forged));
        }
        arriving
    })
}

/// Notes whether the UE ever offers a key exchange.
fn watch(seen: std::rc::Rc<std::cell::Cell<bool>>) -> Tap {
    Box::new(move |from, data| {
        if let Body::Clear(payloads) = wire::parse(data).unwrap().body
            && from == From::Ue
            && payloads.iter().any(|p| matches!(p, Payload::Ke { .. }))
        {
            seen.set(true);
        }
        vec![(from, data.to_vec())]
    })
}

#[test]
fn who_requires_qkd_gets_nothing_less_from_its_peer() {
    for both in [Setup::mixed, Setup::hybrid] {
        let ue = Setup {
            n3iwf_modes: "psk",
            n3iwf_policy: None,
            ..both("require-qkd")
        };
        let why = Pair::new(&ue).refuse();
        assert!(why.contains("no proposal in common"), "{why}");
        let n3iwf = Setup {
            n3iwf_policy: Some("require-qkd"),
            ue_modes: "psk",
            ue_policy: None,
            ..both("no-qkd")
        };
        let why = Pair::new(&n3iwf).refuse();
        assert!(why.contains("no proposal in common"), "{why}");
    }
}

#[test]
fn an_outage_of_the_kms_is_no_way_around_require_qkd() {
    for side in [0, 1] {
        let mut pair = Pair::new(&Setup::mixed("require-qkd"));
        pair.kms_down[side] = true;
        let offered = std::rc::Rc::new(std::cell::Cell::new(false));
        pair.tap = Some(watch(std::rc::Rc::clone(&offered)));
        let why = pair.refuse();
        assert!(why.contains("KMS"), "{why}");
        assert!(!offered.get(), "no key exchange was ever offered");
        let mut pair = Pair::new(&Setup::hybrid("require-qkd"));
        pair.kms_down[side] = true;
        let why = pair.refuse();
        assert!(why.contains("KMS"), "{why}");
    }
}

#[test]
fn with_prefer_qkd_the_fallback_is_shown() {
    let cases = [
        (Setup::mixed("prefer-qkd"), "qkd-native psk -> psk: "),
        (Setup::hybrid("prefer-qkd"), "hybrid psk -> psk: "),
    ];
    for (side, (setup, told)) in [0, 1]
        .into_iter()
        .flat_map(|side| cases.map(|case| (side, case)))
    {
        let mut pair = Pair::new(&setup);
        pair.kms_down[side] = true;
        pair.attach();
        assert_eq!(pair.shown(), ("psk".to_owned(), "psk".to_owned()));
        let status = pair.status();
        assert_eq!(status.policy, "prefer-qkd");
        let fallback = status.ike[0].fallback.clone().expect("it is shown");
        assert!(fallback.starts_with(told), "{fallback}");
        assert!(fallback.contains("KMS"), "{fallback}");
    }
}

#[test]
fn a_peer_that_takes_the_lesser_mode_is_shown_too() {
    for both in [Setup::mixed, Setup::hybrid] {
        let mut pair = Pair::new(&Setup {
            n3iwf_modes: "psk",
            n3iwf_policy: None,
            ..both("prefer-qkd")
        });
        pair.attach();
        let fallback = pair.status().ike[0].fallback.clone().expect("it is shown");
        assert!(fallback.contains("psk: the N3IWF's choice"), "{fallback}");
    }
}

#[test]
fn forged_errors_do_not_move_the_ue() {
    for policy in ["require-qkd", "prefer-qkd"] {
        for (kind, data) in [
            (NotifyType::QKD_UNAVAILABLE, &[2][..]),
            (NotifyType::NO_PROPOSAL_CHOSEN, &[]),
        ] {
            let mut pair = Pair::new(&Setup::mixed(policy));
            pair.tap = Some(forge(kind, data));
            pair.attach();
            assert_eq!(pair.shown().0, "qkd-native", "{policy}, {kind}");
            assert_eq!(pair.status().ike[0].fallback, None);
            let mut pair = Pair::new(&Setup::hybrid(policy));
            pair.tap = Some(forge(kind, data));
            pair.attach();
            assert_eq!(pair.shown().0, "hybrid", "{policy}, {kind}");
            assert_eq!(pair.status().ike[0].fallback, None);
        }
    }
}

#[test]
fn an_offer_stripped_on_the_path_breaks_auth() {
    let mut pair = Pair::new(&Setup::mixed("prefer-qkd"));
    pair.tap = Some(change(From::Ue, |payloads| {
        if find_notify(&payloads, NotifyType::QKD_SUPPORTED).is_some() {
            without_qkd(payloads)
        } else {
            payloads
        }
    }));
    let why = pair.refuse();
    assert!(why.contains("authentication"), "{why}");
}

/// Whoever is on the path takes one thing out of the clear messages of one end.
fn strip(of: From, kinds: &'static [NotifyType]) -> Tap {
    change(of, move |mut payloads| {
        payloads.retain(
            |payload| !matches!(payload, Payload::Notify(notify) if kinds.contains(&notify.kind)),
        );
        payloads
    })
}

#[test]
fn nothing_of_a_hybrid_offer_can_be_taken_out_on_the_path() {
    const PPK: &[NotifyType] = &[NotifyType::USE_PPK, NotifyType::USE_PPK_INT];
    const LATER: &[NotifyType] = &[NotifyType::USE_PPK_INT];
    const INTERMEDIATE: &[NotifyType] = &[NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED];
    const SUPPORTED: &[NotifyType] = &[NotifyType::QKD_SUPPORTED];
    for stripped in [PPK, LATER, INTERMEDIATE, SUPPORTED] {
        // With `prefer-qkd` there is something to fall to, so that AUTH has to notice.
        let mut pair = Pair::new(&Setup::hybrid("prefer-qkd"));
        pair.tap = Some(strip(From::Ue, stripped));
        let why = pair.refuse();
        assert!(why.contains("authentication"), "{stripped:?}: {why}");
        let mut pair = Pair::new(&Setup::hybrid("require-qkd"));
        pair.tap = Some(strip(From::Ue, stripped));
        pair.refuse();
    }
}

#[test]
fn ml_kem_taken_out_of_the_offer_breaks_auth() {
    let mut pair = Pair::new(&Setup::hybrid("prefer-qkd"));
    pair.tap = Some(change(From::Ue, |payloads| {
        let simpler = |payload| match payload {
            Payload::Sa(mut sa) => {
                sa.proposals.retain(|proposal| {
                    !proposal
                        .transforms
                        .iter()
                        .any(|t| t.kind.is_additional_ke())
                });
                Payload::Sa(sa)
            }
            other => other,
        };
        payloads.into_iter().map(simpler).collect()
    }));
    let why = pair.refuse();
    assert!(why.contains("authentication"), "{why}");
}

#[test]
fn the_answer_to_a_hybrid_offer_keeps_its_qkd_key() {
    for stripped in [
        &[NotifyType::QKD_KEY_IDS][..],
        &[NotifyType::QKD_SUPPORTED],
        &[NotifyType::USE_PPK_INT, NotifyType::USE_PPK],
    ] {
        for policy in ["require-qkd", "prefer-qkd"] {
            let mut pair = Pair::new(&Setup::hybrid(policy));
            pair.tap = Some(strip(From::N3iwf, stripped));
            pair.refuse();
        }
    }
}

#[test]
fn a_certificate_request_stripped_on_the_path_breaks_auth() {
    let mut pair = Pair::new(&Setup {
        n3iwf_modes: "cert, psk",
        ue_modes: "cert, psk",
        ..Setup::of("cert")
    });
    pair.tap = Some(change(From::N3iwf, |mut payloads| {
        payloads.retain(|payload| !matches!(payload, Payload::CertReq { .. }));
        payloads
    }));
    let why = pair.refuse();
    assert!(why.contains("authentication"), "{why}");
}

#[test]
fn an_n3iwf_without_the_right_certificate_is_refused() {
    for mode in ["psk", "cert"] {
        for (what, setup) in [
            (
                "another authority",
                Setup {
                    n3iwf: "n3iwf-other",
                    ..Setup::of(mode)
                },
            ),
            (
                "expired",
                Setup {
                    n3iwf: "n3iwf-expired",
                    ..Setup::of(mode)
                },
            ),
            (
                "another name",
                Setup {
                    fqdn: "other.example.net",
                    ..Setup::of(mode)
                },
            ),
        ] {
            let why = Pair::new(&setup).refuse();
            assert!(
                why.contains("the peer's authentication failed"),
                "{what}: {why}"
            );
        }
    }
    let never = Setup {
        send_certificate: "never",
        ..Setup::of("psk")
    };
    let why = Pair::new(&never).refuse();
    assert!(why.contains("the peer's authentication failed"), "{why}");
    // Who has no anchor asks for nothing; K_N3IWF alone is what the standard leaves.
    Pair::new(&Setup {
        judges: false,
        ..never
    })
    .attach();
}

#[test]
fn a_ue_without_the_right_certificate_is_refused() {
    for setup in [
        Setup {
            ue: "ue-other",
            ..Setup::of("cert")
        },
        Setup {
            ue_modes: "psk",
            ..Setup::of("cert")
        },
        Setup {
            n3iwf_modes: "psk",
            ..Setup::of("cert")
        },
    ] {
        let why = Pair::new(&setup).refuse();
        assert!(
            why.contains("refused our authentication") || why.contains("failed"),
            "{why}"
        );
    }
}
