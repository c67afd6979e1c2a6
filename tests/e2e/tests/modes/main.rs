//! Key modes of both daemons, from their configuration files, against each other and the core stand-in:
//! each mode attaches, and no attempt at a downgrade goes through in silence.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wrong_self_convention,
    reason = "a test fails by panicking"
)]

mod downgrade;
mod pair;
mod peers;
mod pki;

use pair::{Pair, Setup};

#[test]
fn each_mode_attaches_and_both_ends_show_it() {
    for (mode, policy, shown) in [
        ("qkd", "require-qkd", "qkd-native"),
        ("hybrid", "require-qkd", "hybrid"),
        ("psk", "no-qkd", "psk"),
        ("cert", "no-qkd", "cert"),
    ] {
        let mut pair = Pair::new(&Setup::of(mode));
        pair.attach();
        assert_eq!(pair.shown(), (shown.to_owned(), shown.to_owned()));
        let status = pair.status();
        assert_eq!(
            (status.policy.as_str(), status.modes),
            (policy, vec![shown.to_owned()])
        );
        let sa = &status.ike[0];
        assert_eq!(sa.key_exchange.is_some(), mode != "qkd", "{mode}");
        assert_eq!(sa.fallback, None);
        assert_eq!(sa.children.len(), 2, "signalling and the PDU session");
        let keys = match mode {
            "qkd" => 7,
            "hybrid" => 1,
            _ => 0,
        };
        assert_eq!(pair.keys_made, keys, "{mode}: keys of the KMS");
    }
}

#[test]
fn without_a_section_qkd_no_kms_is_asked() {
    let setup = Setup::of("psk");
    let files = setup.files();
    assert!(!files.n3iwf.contains("kms") && !files.ue.contains("kms"));
    Pair::new(&setup).attach();
}

#[test]
fn idi_is_random_but_for_mode_cert() {
    let mut first = Pair::new(&Setup::of("psk"));
    first.attach();
    let id = first.idi();
    assert_eq!(id.len(), 6, "three octets in hexadecimal: {id}");
    let mut cert = Pair::new(&Setup::of("cert"));
    cert.attach();
    assert_eq!(cert.idi(), "ue-1@example.net");
}

#[test]
fn the_best_common_mode_is_taken() {
    for (n3iwf, ue, policy, shown) in [
        ("qkd, psk", "qkd, psk", "prefer-qkd", "qkd-native"),
        ("qkd, psk", "qkd, psk", "no-qkd", "psk"),
        ("qkd, hybrid, psk", "hybrid, psk", "prefer-qkd", "hybrid"),
        ("hybrid, qkd", "qkd, hybrid", "require-qkd", "hybrid"),
        ("qkd, hybrid", "hybrid, qkd", "require-qkd", "qkd-native"),
        ("hybrid, psk", "hybrid, psk", "no-qkd", "psk"),
        ("psk, cert", "cert, psk", "no-qkd", "cert"),
        ("psk, cert", "psk, cert", "no-qkd", "psk"),
        ("qkd, psk, cert", "cert", "no-qkd", "cert"),
    ] {
        let mut pair = Pair::new(&Setup {
            n3iwf_modes: n3iwf,
            ue_modes: ue,
            n3iwf_policy: Some("prefer-qkd")
                .filter(|_| n3iwf.contains("qkd") || n3iwf.contains("hybrid")),
            ue_policy: Some(policy),
            ..Setup::of("psk")
        });
        pair.attach();
        assert_eq!(pair.shown().0, shown, "{n3iwf} / {ue}");
        assert_eq!(pair.shown().1, shown, "{n3iwf} / {ue}");
    }
}
