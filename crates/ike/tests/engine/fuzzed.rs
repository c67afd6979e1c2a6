//! The fuzz target `ike_endpoint` on stable: its corpus, and scripts by seed.

use rand_core::{Rng, SeedableRng};

use crate::{converse::conversation, rng::TestRng};

/// Where the corpus is.
const CORPUS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../fuzz/corpus/ike_endpoint"
);

#[test]
fn the_corpus_is_survived() {
    for entry in std::fs::read_dir(CORPUS).unwrap() {
        conversation(&std::fs::read(entry.unwrap().path()).unwrap());
    }
}

#[test]
fn the_seeds_of_the_corpus_reach_what_they_are_for() {
    let play = |name: &str| conversation(&std::fs::read(format!("{CORPUS}/{name}")).unwrap());
    for name in ["attach", "attach-with-cookie"] {
        let outcome = play(name);
        assert_eq!(outcome.established, [1, 1], "{name}");
        assert_eq!(outcome.children, [1, 1], "{name}");
    }
    let outcome = play("children-and-close");
    assert!(outcome.children.iter().all(|up| *up >= 3), "{outcome:?}");
    assert_eq!(outcome.closed, [1, 1], "{outcome:?}");
    let outcome = play("forged-after-attach");
    assert_eq!(outcome.established, [1, 1]);
    assert_eq!(
        outcome.closed,
        [0, 1],
        "the N3IWF believes the forged Delete"
    );
    assert_eq!(play("bad-answers").established, [0, 0]);
    for name in [
        "attach-hybrid",
        "attach-hybrid-fragments",
        "attach-fragments",
        "attach-psk",
        "attach-cert",
        "attach-cert-fragments",
    ] {
        let outcome = play(name);
        assert_eq!(outcome.established, [1, 1], "{name}");
        assert_eq!(outcome.children, [1, 1], "{name}");
    }
    // The Child SA rekeyed, then the IKE SA, then a Child SA under the new one.
    let outcome = play("hybrid-rekeys");
    assert_eq!(outcome.children, [3, 3], "{outcome:?}");
    assert_eq!(outcome.downs, [1, 1], "{outcome:?}");
    let outcome = play("psk-rekeys-and-moves");
    assert_eq!(outcome.children, [2, 2], "{outcome:?}");
    assert_eq!(outcome.closed, [0, 0], "{outcome:?}");
    let outcome = play("prefer-qkd-without-kms");
    assert_eq!(outcome.established, [1, 1], "fallen back: {outcome:?}");
    let outcome = play("hybrid-forged-intermediate");
    assert_eq!(outcome.established, [0, 0]);
    assert_eq!(outcome.closed, [0, 1], "the N3IWF takes the forger's word");
}

#[test]
fn scripts_by_seed_are_survived() {
    let mut established = 0;
    for seed in 0..1500 {
        let mut rng = TestRng::seed_from_u64(seed);
        let mut script = vec![0; 20 + usize::try_from(rng.next_u32() % 400).unwrap()];
        rng.fill_bytes(&mut script);
        // Most scripts begin with a good stretch of an attach.
        let prefix = usize::try_from(seed % 24).unwrap().min(script.len());
        script[..prefix].fill(0);
        // Settings in turn.
        script[0] = u8::try_from(seed / 24 % 64).unwrap();
        established += conversation(&script).established[1];
    }
    assert!(
        established > 500,
        "scripts reach established SAs: {established}"
    );
}
