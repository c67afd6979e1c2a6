//! Ten thousand attaches over bad networks, slow daemons and failing KMEs, each from one seed.

use std::time::Duration;

use ike::{EndpointConfig, Instant, QkdFailure, Timing, wire::NotifyType};
use rand_core::{Rng, SeedableRng};

use crate::{
    rng::TestRng,
    setup,
    world::{Faults, Side, World},
};

/// A time by which everything has come to rest once the network is good again.
const STORM: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(240);

fn timing() -> Timing {
    Timing {
        retransmit_first: Duration::from_millis(500),
        retransmit_max: Duration::from_secs(8),
        retransmit_tries: 7,
        dpd_interval: Some(Duration::from_secs(20)),
        ..Timing::default()
    }
}

/// What one seed came to.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Outcome {
    attached: usize,
    failed: usize,
    children: usize,
}

struct Dice(TestRng);

impl Dice {
    fn below(&mut self, bound: u32) -> u32 {
        self.0.next_u32() % bound
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}

/// What is attached with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Native,
    Paper,
    /// Every second message takes several datagrams of 576 octets.
    Fragments,
    /// Mode `hybrid`, with ML-KEM and rekeys.
    Hybrid,
}

fn build(seed: u64, dice: &mut Dice, kind: Kind) -> World {
    let mut ue = setup::ue_endpoint();
    let mut n3iwf: EndpointConfig = if kind == Kind::Paper {
        setup::paper_endpoint()
    } else {
        setup::n3iwf_endpoint()
    };
    if kind == Kind::Fragments {
        ue.fragmentation.datagram = Some(576);
        n3iwf.fragmentation.datagram = Some([576, 1280][dice.below(2) as usize]);
    }
    if kind == Kind::Hybrid {
        n3iwf = setup::hybrid_endpoint();
        ue.lifetimes.from_peer = true;
        ue.fragmentation.datagram = Some(576);
    }
    ue.timing = timing();
    n3iwf.timing = timing();
    if let Some(responder) = &mut n3iwf.responder {
        responder.cookies = match dice.below(3) {
            0 => ike::CookiePolicy::Never,
            1 => ike::CookiePolicy::Above(1),
            _ => ike::CookiePolicy::Always,
        };
    }
    let mut world = World::new(seed, ue, n3iwf);
    world.record_sent = false;
    world.latency = Duration::from_millis(u64::from(dice.below(60)));
    let level = dice.below(4);
    world.faults = Faults {
        loss: level * dice.below(100),
        duplicate: level * dice.below(60),
        truncate: level * dice.below(20),
        flip: level * dice.below(20),
        jitter: Duration::from_millis(u64::from(level * dice.below(600))),
    };
    world.behaviour.slowness = Duration::from_millis(u64::from(dice.below(3) * dice.below(800)));
    world.kme.faults.replication =
        Duration::from_millis(u64::from(dice.below(3) * dice.below(900)));
    let failures = [
        QkdFailure::NoKeys,
        QkdFailure::Unreachable,
        QkdFailure::Quota,
        QkdFailure::UnknownSae,
    ];
    match dice.below(40) {
        0 => world.kme.faults.master = Some(failures[dice.below(4) as usize]),
        1 => world.kme.faults.slave = Some(failures[dice.below(4) as usize]),
        2 => world.kme.faults.missing = Some(dice.below(7) as usize),
        3 => world.kme.faults.wrong_octets = Some(dice.below(7) as usize),
        4 => world.behaviour.wrong_msk = true,
        5 => world.behaviour.eap_fails = true,
        6 => world.behaviour.install_fails = Some((Side::Ue, dice.below(3) as usize)),
        7 => world.behaviour.install_fails = Some((Side::N3iwf, dice.below(3) as usize)),
        8 => world.behaviour.refuses_children = Some(NotifyType::NO_ADDITIONAL_SAS),
        _ => {}
    }
    if dice.one_in(8) {
        world.behaviour.eap = (0..dice.below(12)).map(|_| (30, 30)).collect();
        world.behaviour.eap.push((30, 4));
    }
    if kind == Kind::Fragments {
        let large = |dice: &mut Dice| 4 + usize::try_from(dice.below(2000)).unwrap();
        for (response, request) in &mut world.behaviour.eap {
            (*response, *request) = (large(dice), large(dice));
        }
    }
    if dice.one_in(6) {
        world.nat = Some(crate::world::Nat {
            outer: [198, 51, 100, 77].into(),
            port_offset: 7000,
        });
    }
    world
}

/// Begins, adds Child SAs from both sides, deletes some, and perhaps closes; all while the network is bad.
fn run(seed: u64, kind: Kind) -> Outcome {
    let mut dice = Dice(TestRng::seed_from_u64(seed));
    let mut world = build(seed, &mut dice, kind);
    let hybrid = kind == Kind::Hybrid;
    let config = if kind == Kind::Paper {
        setup::paper()
    } else {
        setup::native()
    };
    let ue = match hybrid {
        true => world.initiate_with(
            setup::hybrid_config(),
            &setup::offering(&[ike::Mode::Hybrid], ike::QkdPolicy::Require),
        ),
        false => world.initiate(config.clone()),
    };
    let storm_ends = Instant::ZERO + STORM;
    let mut token = 0;
    while world.now < storm_ends {
        world.run(Duration::from_millis(u64::from(200 + dice.below(4000))));
        let side = if dice.one_in(2) {
            Side::Ue
        } else {
            Side::N3iwf
        };
        let Some(sa) = world.established(side).first().cloned() else {
            continue;
        };
        match dice.below(24) {
            0..4 => {
                token += 1;
                world.command(Side::N3iwf, |endpoint, now| {
                    let all: Vec<_> = endpoint.sas().map(|sa| sa.id).collect();
                    for sa in all {
                        // Not yet established there: then there is nothing to add to.
                        let _ = endpoint.create_child(now, sa, setup::user_child(token));
                    }
                });
            }
            4 => {
                token += 1;
                let new = ike::NewChild {
                    ts_local: vec![setup::UE_INNER],
                    ts_remote: vec![setup::N3IWF_INNER],
                    notifies: vec![],
                    token,
                };
                if side == Side::Ue {
                    world.command(side, |endpoint, now| {
                        endpoint.create_child(now, sa.id, new).unwrap()
                    });
                }
            }
            5 => {
                if let Some(child) = sa.children.last() {
                    world.command(side, |endpoint, now| {
                        endpoint.delete_child(now, sa.id, child.id);
                    });
                }
            }
            6 => world.command(side, |endpoint, now| endpoint.probe(now, sa.id)),
            8 | 9 if hybrid => {
                if let Some(child) = sa.children.first() {
                    // Refused while it is being rekeyed already.
                    world.command(side, |endpoint, now| {
                        let _ = endpoint.rekey_child(now, sa.id, child.id);
                    });
                }
            }
            10 if hybrid => world.command(side, |endpoint, now| {
                let _ = endpoint.rekey_ike(now, sa.id);
            }),
            7 if dice.one_in(3) => world.command(side, |endpoint, now| endpoint.close(now, sa.id)),
            _ => {}
        }
    }
    world.faults = Faults::default();
    world.run(CALM);
    settle(&mut world, seed, ue)
}

fn brief(sas: &[ike::SaStatus]) -> Vec<String> {
    sas.iter()
        .map(|sa| format!("{:016x} {:?} {}", sa.spi_i, sa.state, sa.children.len()))
        .collect()
}

/// Both ends agree on what there is.
fn settle(world: &mut World, seed: u64, ue: ike::SaId) -> Outcome {
    let here = world.sas(Side::Ue);
    let there = world.sas(Side::N3iwf);
    let describe = || {
        format!(
            "seed {seed}: UE {:?}\nN3IWF {:?}\nclosed {:?} / {:?}",
            brief(&here),
            brief(&there),
            world.ue.record.closed,
            world.n3iwf.record.closed
        )
    };
    assert_eq!(here.len(), there.len(), "{}", describe());
    let mut outcome = Outcome::default();
    match here.first() {
        None => {
            assert!(
                world.ue.record.closed.iter().any(|(sa, _)| *sa == ue),
                "{}",
                describe()
            );
            outcome.failed = 1;
        }
        Some(sa) => {
            let peer = &there[0];
            assert_eq!(
                (sa.spi_i, sa.spi_r),
                (peer.spi_i, peer.spi_r),
                "{}",
                describe()
            );
            assert_eq!(sa.state, ike::SaState::Established, "{}", describe());
            assert_eq!(peer.state, ike::SaState::Established, "{}", describe());
            let children = |sa: &ike::SaStatus, flip: bool| {
                let mut list: Vec<_> = sa
                    .children
                    .iter()
                    .map(|child| {
                        assert!(child.up, "{}", describe());
                        match flip {
                            true => (child.spi_out, child.spi_in),
                            false => (child.spi_in, child.spi_out),
                        }
                    })
                    .collect();
                list.sort_unstable();
                list
            };
            assert_eq!(children(sa, false), children(peer, true), "{}", describe());
            assert_eq!(sa.children.len(), world.ue.record.installed.len());
            assert_eq!(peer.children.len(), world.n3iwf.record.installed.len());
            outcome.attached = 1;
            outcome.children = sa.children.len();
        }
    }
    assert_eq!(world.n3iwf.endpoint.half_open(), 0, "{}", "half-open stays");
    world.check_keys();
    outcome
}

fn storm(seeds: std::ops::Range<u64>, kind: Kind) -> Outcome {
    let mut sum = Outcome::default();
    for seed in seeds {
        let one = run(seed, kind);
        sum.attached += one.attached;
        sum.failed += one.failed;
        sum.children += one.children;
    }
    sum
}

fn ten_thousand(first: u64, kind: Kind) -> Outcome {
    let workers: Vec<_> = (0..4u64)
        .map(|n| first + n * 2500..first + (n + 1) * 2500)
        .map(|seeds| std::thread::spawn(move || storm(seeds, kind)))
        .collect();
    let mut sum = Outcome::default();
    for worker in workers {
        let one = worker.join().unwrap();
        sum.attached += one.attached;
        sum.failed += one.failed;
        sum.children += one.children;
    }
    assert_eq!(sum.attached + sum.failed, 10_000);
    sum
}

#[test]
fn ten_thousand_attaches_end_the_same_on_both_sides() {
    let sum = ten_thousand(0, Kind::Native);
    // Both outcomes have to be frequent, or the storm tests nothing.
    assert!(sum.attached > 5000, "{sum:?}");
    assert!(sum.failed > 500, "{sum:?}");
    assert!(sum.children > sum.attached, "{sum:?}");
}

#[test]
fn mode_hybrid_weathers_the_storm_too() {
    let sum = storm(50_000..51_000, Kind::Hybrid);
    assert_eq!(sum.attached + sum.failed, 1000);
    assert!(sum.attached > 400, "{sum:?}");
    assert!(sum.failed > 50, "{sum:?}");
}

/// A message of n datagrams is lost n times as often.
#[test]
fn ten_thousand_attaches_in_fragments_end_the_same_on_both_sides() {
    let sum = ten_thousand(30_000, Kind::Fragments);
    assert!(sum.attached > 4000, "{sum:?}");
    assert!(sum.failed > 500, "{sum:?}");
    assert!(sum.children > sum.attached, "{sum:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, Kind::Native), run(seed, Kind::Native));
    }
}

#[test]
fn paper_profile_weathers_the_storm_too() {
    let sum = storm(20_000..20_150, Kind::Paper);
    assert_eq!(sum.attached + sum.failed, 150);
    assert!(sum.attached > 60, "{sum:?}");
}
