//! The relay's programs, packet by packet (`BPF_PROG_TEST_RUN`): whose a packet is, what is counted, and
//! what is above a limit.
//!
//! Needs root and the object of `cargo xtask build`; no interface, no ESP.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test fails by panicking"
)]

#[path = "support/programs.rs"]
mod programs;
mod support;

use std::time::Instant;

use ebpf_common::relay::{
    PROGRAM_DOWNLINK, PROGRAM_UPLINK, RateState, RelayRate, SessionDrops, UPLINK,
};
use programs::{
    DOWNLINK_MAX, DROP, Extras, PASS, REDIRECT, Session, UE, UPLINK_MAX, downlink, frame, gre, n3,
    pdu, with_programs,
};

#[test]
fn a_session_with_sas_takes_nothing_in_clear() {
    with_programs(|mut programs| {
        programs.add(Session { reqid: 7, ..UE });
        let ran = programs.run(PROGRAM_UPLINK, &frame(&gre(UE, 9, &pdu(100))), 1);
        assert_eq!(ran.action, DROP);
        assert_eq!(programs.reasons(UPLINK).wrong_sa, 1);
        assert_eq!(programs.counters(0).uplink.packets, 0);
    });
}

#[test]
fn each_flow_has_counters_of_its_own() {
    with_programs(|mut programs| {
        let neighbour = Session { number: 1, ..UE };
        programs.add(neighbour);
        let send = |session, qfi, up: bool, len| {
            let (name, packet) = if up {
                (PROGRAM_UPLINK, gre(session, qfi, &pdu(len)))
            } else {
                (PROGRAM_DOWNLINK, downlink(session, qfi, false, &pdu(len)))
            };
            assert_eq!(programs.run(name, &frame(&packet), 1).action, REDIRECT);
        };
        for (place, (session, qfi)) in [(UE, 9), (UE, 63), (neighbour, 9), (neighbour, 63)]
            .into_iter()
            .enumerate()
        {
            for n in 0..=place {
                send(session, qfi, true, 100 + n);
                send(session, qfi, false, 1000 + n);
                send(session, qfi, false, 1000 + n);
            }
        }
        for place in 0..4u64 {
            let flow = programs.flow(place as u32 / 2, place as usize % 2);
            let sent = place + 1;
            let more = place * (place + 1) / 2;
            assert_eq!(
                (flow.uplink.packets, flow.downlink.packets),
                (sent, 2 * sent)
            );
            assert_eq!(flow.uplink.bytes, 100 * sent + more);
            assert_eq!(flow.downlink.bytes, 2 * (1000 * sent + more));
            assert!(flow.uplink.last_seen_ns > 0 && flow.downlink.last_seen_ns > 0);
        }
    });
}

#[test]
fn what_is_refused_is_counted_for_its_session() {
    with_programs(|mut programs| {
        let neighbour = Session {
            number: 1,
            reqid: 77,
        };
        programs.add(neighbour);
        let up = |packet: Vec<u8>| programs.run(PROGRAM_UPLINK, &frame(&packet), 1).action;
        let down = |packet: Vec<u8>| programs.run(PROGRAM_DOWNLINK, &frame(&packet), 1).action;
        for _ in 0..2 {
            assert_eq!(up(gre(UE, 10, &pdu(100))), PASS);
        }
        assert_eq!(up(gre(UE, 9, &pdu(UPLINK_MAX + 1))), PASS);
        assert_eq!(down(downlink(UE, 10, false, &pdu(100))), PASS);
        assert_eq!(down(downlink(UE, 9, false, &pdu(DOWNLINK_MAX + 1))), PASS);
        let foreign = downlink(UE, 9, false, &pdu(100));
        assert_eq!(down(n3([203, 0, 113, 9], &foreign[28..])), PASS);
        assert_eq!(up(gre(neighbour, 9, &pdu(100))), DROP);
        assert_eq!(
            programs.refused(0),
            SessionDrops {
                wrong_address: [0, 1],
                qfi_not_allowed: [2, 1],
                too_big: [1, 1],
                ..SessionDrops::default()
            }
        );
        assert_eq!(
            programs.refused(1),
            SessionDrops {
                wrong_sa: [1, 0],
                ..SessionDrops::default()
            }
        );
    });
}

/// Keys that meet at one place: the second session is found by the map of the others.
#[test]
fn a_session_is_found_wherever_it_is() {
    with_programs(|mut programs| {
        // 16 sessions have 32 places: this one's keys say the same places as the first one's.
        let other = Session { number: 32, ..UE };
        let lost = Session { number: 64, ..UE };
        let packet = frame(&gre(other, 9, &pdu(100)));
        assert_eq!(programs.run(PROGRAM_UPLINK, &packet, 1).action, PASS);
        programs.add_at(
            other,
            5,
            Extras {
                place: Some(20),
                ..Extras::default()
            },
        );
        let ran = programs.run(PROGRAM_UPLINK, &packet, 1);
        assert_eq!(ran.action, REDIRECT);
        // GTP-U TEID of the other session, not of the one whose place it would be.
        assert_eq!(ran.packet[14 + 32..14 + 36], other.ul_teid().to_be_bytes());
        let packet = frame(&downlink(other, 9, false, &pdu(100)));
        let ran = programs.run(PROGRAM_DOWNLINK, &packet, 1);
        assert_eq!(ran.action, REDIRECT);
        assert_eq!(ran.packet[14 + 16..14 + 20], other.inner());
        let counted = programs.counters(5);
        assert_eq!((counted.uplink.packets, counted.downlink.packets), (1, 1));
        assert_eq!(programs.counters(0).uplink.packets, 0);
        // The first one is where it was, and a third one is nowhere.
        for (session, action) in [(UE, REDIRECT), (lost, PASS)] {
            let packet = frame(&gre(session, 9, &pdu(100)));
            assert_eq!(programs.run(PROGRAM_UPLINK, &packet, 1).action, action);
            let packet = frame(&downlink(session, 9, false, &pdu(100)));
            assert_eq!(programs.run(PROGRAM_DOWNLINK, &packet, 1).action, action);
        }
    });
}

/// A flood passes at the rate of the lowest limit, and what it may be ahead of it.
#[test]
fn aggregate_maximum_bit_rates_hold() {
    const OCTETS: u64 = 1000;
    const PACKETS: u64 = 3000;
    with_programs(|mut programs| {
        let limit = |uplink, downlink| RelayRate {
            uplink: RateState::new(Some(uplink)),
            downlink: RateState::new(Some(downlink)),
        };
        // Sessions 1 and 2 are of one UE; its limit is at place 3.
        let mega = 1_000_000;
        programs.set_rate(1, limit(8 * mega, 800 * mega));
        programs.set_rate(2, limit(800 * mega, 800 * mega));
        programs.set_rate(3, limit(80 * mega, 8 * mega));
        let sessions = [1, 2].map(|number| Session { number, ..UE });
        for (session, own) in sessions.into_iter().zip([1, 2]) {
            let rates = [own, 3];
            programs.add_with(
                session,
                Extras {
                    rates,
                    ..Extras::default()
                },
            );
        }
        let flood = |name, packets: &[Vec<u8>]| {
            let begin = Instant::now();
            let mut passed = 0;
            for n in 0..PACKETS as usize {
                let ran = programs.run(name, &packets[n % packets.len()], 1);
                assert!(
                    ran.action == REDIRECT || ran.action == DROP,
                    "{}",
                    ran.action
                );
                passed += u64::from(ran.action == REDIRECT);
            }
            (passed, begin.elapsed())
        };
        let check = |what: &str, passed: u64, elapsed: std::time::Duration| {
            // 8 Mbit/s are 1000 packets per second; 100 ms of them may pass at once. The kernel's
            // clock moves in ticks of at most 10 ms.
            let most = 100.0 + elapsed.as_secs_f64() * 1000.0 + 11.0;
            println!(
                "{what}: {passed} of {PACKETS} packets in {:.0} ms, at 8 Mbit/s at most {most:.0}",
                elapsed.as_secs_f64() * 1e3
            );
            assert!(passed as f64 <= most, "{what}: {passed} > {most}");
            // A tick at either end, and in an emulated machine ticks come late by as much again.
            let least = (most - 11.0 - 40.0).min(PACKETS as f64);
            assert!(passed as f64 >= least, "{what}: {passed} < {least}");
        };
        // Up, the limit of the session itself.
        let up = frame(&gre(sessions[0], 9, &pdu(OCTETS as usize)));
        let (passed, elapsed) = flood(PROGRAM_UPLINK, &[up]);
        check("session-AMBR", passed, elapsed);
        assert_eq!(programs.counters(1).uplink.packets, passed);
        assert_eq!(programs.refused(1).rate, [PACKETS - passed, 0]);
        assert_eq!(programs.reasons(UPLINK).rate, PACKETS - passed);
        // Down, both sessions within the limit of their UE.
        let down = sessions.map(|one| frame(&downlink(one, 9, false, &pdu(OCTETS as usize))));
        let (passed, elapsed) = flood(PROGRAM_DOWNLINK, &down);
        check("UE-AMBR", passed, elapsed);
        let refused = [1, 2].map(|session| programs.refused(session).rate[1]);
        assert_eq!(refused[0] + refused[1], PACKETS - passed);
        // A session without limits is held up by nobody.
        let free = frame(&gre(UE, 9, &pdu(OCTETS as usize)));
        assert_eq!(flood(PROGRAM_UPLINK, &[free]).0, PACKETS);
    });
}
