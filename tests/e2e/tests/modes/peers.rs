//! Policies of the N3IWF for peers at some addresses: each attempt to get around one.

use crate::pair::{From, Pair, Setup, Tap};

/// Everybody gets `prefer-qkd`, the UE's range this.
fn ruled(peers: &'static str, ue_modes: &'static str, ue_policy: &'static str) -> Setup {
    Setup {
        peers,
        ue_modes,
        ue_policy: Some(ue_policy),
        ..Setup::mixed("prefer-qkd")
    }
}

const REQUIRE: &str = "{ addresses: [192.0.2.0/24], policy: require-qkd }";
const FORBID: &str = "{ addresses: [192.0.2.0/24], policy: no-qkd }";

#[test]
fn a_peer_of_a_require_qkd_range_gets_nothing_less() {
    for modes in ["psk", "qkd, psk"] {
        let why = Pair::new(&ruled(REQUIRE, modes, "no-qkd")).refuse();
        assert!(why.contains("no proposal in common"), "{modes}: {why}");
    }
    let mut pair = Pair::new(&ruled(REQUIRE, "qkd, psk", "prefer-qkd"));
    pair.attach();
    assert_eq!(pair.shown().1, "qkd-native");
    assert_eq!(pair.n3iwf_policy(), "require-qkd");
    assert_eq!(pair.status().ike[0].fallback, None);
}

#[test]
fn a_peer_of_a_no_qkd_range_spends_no_key() {
    let mut pair = Pair::new(&ruled(FORBID, "qkd", "require-qkd"));
    let why = pair.refuse();
    assert!(why.contains("no proposal in common"), "{why}");
    assert_eq!(pair.keys_made, 0);
    // A UE that takes less sees that it got less.
    let mut pair = Pair::new(&ruled(FORBID, "qkd, psk", "prefer-qkd"));
    pair.attach();
    assert_eq!(pair.shown(), ("psk".to_owned(), "psk".to_owned()));
    assert_eq!(pair.n3iwf_policy(), "no-qkd");
    assert_eq!(pair.keys_made, 0);
    let fallback = pair.status().ike[0].fallback.clone().expect("it is shown");
    assert!(fallback.contains("the N3IWF's choice"), "{fallback}");
}

#[test]
fn an_outage_of_either_kms_is_no_way_around_the_range() {
    for side in [0, 1] {
        let mut pair = Pair::new(&ruled(REQUIRE, "qkd, psk", "prefer-qkd"));
        pair.kms_down[side] = true;
        pair.refuse();
        // Outside of the range the same UE falls back, and it is shown.
        let elsewhere = "{ addresses: [198.51.100.0/24], policy: require-qkd }";
        let mut pair = Pair::new(&ruled(elsewhere, "qkd, psk", "prefer-qkd"));
        pair.kms_down[side] = true;
        pair.attach();
        assert_eq!(pair.shown().1, "psk");
        assert_eq!(pair.n3iwf_policy(), "prefer-qkd");
        assert!(pair.status().ike[0].fallback.is_some());
    }
}

#[test]
fn outside_of_every_range_the_general_policy_holds() {
    const ELSEWHERE: &str =
        "{ addresses: [198.51.100.0/24, 2001:db8::/32], modes: [psk], policy: no-qkd }";
    let general = Setup {
        n3iwf_policy: Some("require-qkd"),
        ..ruled(ELSEWHERE, "psk", "no-qkd")
    };
    let why = Pair::new(&general).refuse();
    assert!(why.contains("no proposal in common"), "{why}");
    let mut pair = Pair::new(&Setup {
        ue_modes: "qkd",
        ue_policy: None,
        ..general
    });
    pair.attach();
    assert_eq!(pair.shown().1, "qkd-native");
    assert_eq!(pair.n3iwf_policy(), "require-qkd");
}

#[test]
fn the_longest_prefix_counts_and_brings_modes_of_its_own() {
    const HERE: &str = "{ addresses: [192.0.2.10], modes: [hybrid], policy: require-qkd }, \
                        { addresses: [192.0.2.0/24], modes: [psk], policy: no-qkd }";
    let mut pair = Pair::new(&ruled(HERE, "hybrid, psk", "prefer-qkd"));
    pair.attach();
    assert_eq!(pair.shown().1, "hybrid");
    let why = Pair::new(&ruled(HERE, "psk", "no-qkd")).refuse();
    assert!(why.contains("no proposal in common"), "{why}");
}

/// Takes the mode with QKD keys out of the UE's request.
fn without_qkd() -> Tap {
    crate::downgrade::change(From::Ue, crate::downgrade::without_qkd)
}

#[test]
fn an_offer_stripped_on_the_path_is_refused_before_auth() {
    let mut pair = Pair::new(&ruled(REQUIRE, "qkd, psk", "prefer-qkd"));
    pair.tap = Some(without_qkd());
    pair.refuse();
    assert_eq!(pair.keys_made, 0);
}
