//! One fault at a time under UEs that are attached. That the account adds up is checked after every event, as with
//! every plan.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use ike::QkdFailure;
use sim::{
    Summary,
    plan::{Fault, Plan, Supply},
};

const UES: usize = 8;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// All are attached from 5 s on. The faults begin at 10 s.
fn under(supply: Supply, faults: &[(u64, Fault)]) -> Summary {
    let mut plan = Plan::quiet(UES);
    plan.supply = supply;
    plan.faults = faults.iter().map(|(at, fault)| (s(*at), *fault)).collect();
    plan.healed = s(40);
    sim::run(&plan).unwrap_or_else(|violation| panic!("{faults:?}: {violation}"))
}

/// Keys held for each UE when the fault comes.
fn ahead() -> Supply {
    Supply {
        ahead: 14,
        ..Supply::default()
    }
}

const ONCE: u64 = UES as u64;

#[test]
fn a_kme_that_is_away_ends_no_sa() {
    for failure in [
        QkdFailure::Unreachable,
        QkdFailure::NoKeys,
        QkdFailure::UnknownSae,
    ] {
        for kme in [Fault::KmsA, Fault::KmsB] {
            for supply in [Supply::default(), ahead()] {
                // Rekeys while it is away, and when it is back.
                let summary = under(
                    supply,
                    &[
                        (10, kme(failure, s(8))),
                        (11, Fault::RekeyChild(0)),
                        (12, Fault::RekeyIke(1)),
                        (25, Fault::RekeyChild(2)),
                        (26, Fault::RekeyIke(3)),
                    ],
                );
                assert_eq!(summary.attaches, ONCE, "{failure:?} {supply:?}");
            }
        }
    }
}

#[test]
fn all_are_back_after_a_restart_of_the_amf() {
    for fault in [Fault::AmfRestart(s(3)), Fault::N2Break] {
        for supply in [Supply::default(), ahead()] {
            let summary = under(supply, &[(10, fault)]);
            assert_eq!(summary.attaches, 2 * ONCE, "{fault:?} {summary:?}");
            assert!(summary.keys >= 2 * ONCE * 7, "{fault:?} {summary:?}");
        }
    }
}

#[test]
fn a_path_to_the_amf_that_is_lost_and_comes_back_ends_nothing() {
    let summary = under(Supply::default(), &[(10, Fault::AmfHangs(s(8)))]);
    assert_eq!((summary.attaches, summary.lost), (ONCE, 0), "{summary:?}");
}

#[test]
fn rekeys_that_the_kernel_refuses_leave_the_old_sas() {
    for plane in [Fault::N3iwfPlane(s(5)), Fault::UePlane(0, s(5))] {
        let summary = under(
            Supply::default(),
            &[(10, plane), (11, Fault::RekeyChild(0))],
        );
        assert!(summary.attaches >= ONCE, "{plane:?}");
        assert!(summary.attaches <= ONCE + 1, "{plane:?}: one UE at most");
    }
}

/// The keys held for them are of no use any more. Each UE says so with its second attempt, and has fresh ones.
#[test]
fn keys_held_ahead_of_a_restart_of_the_kmes_cost_one_attempt() {
    let again = [0, 1, 2].map(|ue| (12, Fault::Deregister(ue)));
    let back = [0, 1, 2].map(|ue| (14, Fault::Attach(ue)));
    let faults = [&[(10, Fault::KmsRestart)][..], &again, &back].concat();
    let summary = under(ahead(), &faults);
    // One attempt that fails each; as long as dead keys were tried until there were none, it was two.
    let ended = ONCE + 3 + 3;
    assert_eq!(
        (summary.attaches, summary.detaches),
        (ONCE + 3, ended),
        "{summary:?}"
    );
}
