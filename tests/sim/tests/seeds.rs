//! A few hundred scenarios; `cargo xtask sim` runs as many as there is time for.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use sim::{
    Summary,
    plan::{Fault, Plan},
};

fn held(plan: &Plan) -> Summary {
    sim::run(plan).unwrap_or_else(|violation| {
        panic!(
            "`cargo xtask sim --seed {} --trace`: {violation}",
            plan.seed
        )
    })
}

fn seeds(range: std::ops::Range<u64>) {
    for seed in range {
        let summary = held(&Plan::new(seed));
        assert!(summary.attaches > 0 && summary.keys > 0, "seed {seed}");
    }
}

#[test]
fn seeds_a() {
    seeds(1..110);
}

#[test]
fn seeds_b() {
    seeds(110..220);
}

/// What `cargo xtask sim` has found: docs/resilience.md.
#[test]
fn seeds_that_failed_once() {
    for seed in [
        1848, 9395, 15798, 46448, 53209, 63736, 67443, 68882, 74973, 78335, 86831,
    ] {
        held(&Plan::new(seed));
    }
}

#[test]
fn fifty_ues_on_a_quiet_day_lose_no_key() {
    let summary = held(&Plan::quiet(50));
    assert_eq!((summary.attaches, summary.detaches), (50, 50));
    assert_eq!((summary.keys, summary.lost), (50 * 7, 0));
    assert_eq!(summary.converged, Duration::ZERO);
}

#[test]
fn a_seed_replays_event_by_event() {
    for seed in [3, 41, 1118] {
        assert_eq!(held(&Plan::new(seed)), held(&Plan::new(seed)));
    }
}

/// The N3IWF dies under 20 attached UEs and is back after two seconds: each UE hears of it as soon as it asks.
#[test]
fn all_come_back_after_a_crash_of_the_n3iwf() {
    let mut plan = Plan::quiet(20);
    plan.healed = Duration::from_secs(12);
    let crash = Fault::N3iwfCrash(Duration::from_secs(2));
    plan.faults = vec![(Duration::from_secs(10), crash)];
    let summary = held(&plan);
    assert!(summary.attaches >= 40, "{summary:?}");
    assert!(summary.converged > Duration::ZERO);
    assert!(summary.converged <= Duration::from_secs(5), "{summary:?}");
}
