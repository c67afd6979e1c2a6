//! The relay's programs with N3 over IPv6, packet by packet (`BPF_PROG_TEST_RUN`): every octet is
//! compared, the UDP checksum among them.
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
    reason = "a test fails by panicking"
)]

#[path = "support/expected.rs"]
mod expected;
#[path = "support/programs.rs"]
mod programs;
mod support;

use ebpf_common::relay::{DOWNLINK, PROGRAM_DOWNLINK6, PROGRAM_UPLINK6, SUMMED};
use expected::{expected_downlink, left_alone, normal, uplink_gtp};
use gtpu::{Direction, Message, PduSessionContainer, encode_g_pdu};
use programs::{
    DEFAULT_QFI, DOWNLINK_MAX, N3IWF6, PASS, Programs, QFIS, REDIRECT, Session, UE, UPF6,
    UPLINK_MAX6, frame, gre, pdu, with_programs6,
};
use support::internet::{self, checksum, ipv4, seal, tcp};

const OTHER: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];

/// GTP-U in UDP and IPv6.
fn udp6(from: [u8; 16], to: [u8; 16], gtp: &[u8]) -> Vec<u8> {
    internet::udp6(0, (from, gtpu::PORT), (to, gtpu::PORT), gtp)
}

fn frame6(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd]);
    frame.extend(packet);
    frame
}

/// A G-PDU from the UPF.
fn downlink(session: Session, qfi: u8, rqi: bool, pdu: &[u8]) -> Vec<u8> {
    let container = PduSessionContainer {
        direction: Direction::Downlink,
        qfi,
        rqi,
    };
    let gtp = encode_g_pdu(session.dl_teid(), container, pdu).unwrap();
    udp6(UPF6, N3IWF6, &gtp)
}

fn expected_uplink(qfi: u8, pdu: &[u8]) -> Vec<u8> {
    frame6(&udp6(N3IWF6, UPF6, &uplink_gtp(qfi, pdu)))
}

/// The kernel writes the Ethernet header of what leaves when it leaves: addresses are not compared here.
fn behind_ethernet(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

#[test]
fn uplink_is_exact_for_every_size_and_flow() {
    with_programs6(|programs| {
        for len in 0..=UPLINK_MAX6 {
            let pdu = pdu(len);
            let ran = programs.run(PROGRAM_UPLINK6, &frame(&gre(UE, 9, &pdu)), 1);
            assert_eq!(ran.action, REDIRECT, "{len} octets");
            let expected = expected_uplink(9, &pdu);
            assert!(
                behind_ethernet(&ran.packet) == behind_ethernet(&expected),
                "{len} octets: {:x?} {:x?}",
                &ran.packet[14..ran.packet.len().min(80)],
                &expected[14..expected.len().min(80)]
            );
        }
        for qfi in 0..64 {
            let packet = frame(&gre(UE, qfi, &pdu(100)));
            let ran = programs.run(PROGRAM_UPLINK6, &packet, 1);
            if QFIS.contains(&qfi) {
                let expected = expected_uplink(qfi, &pdu(100));
                assert!(behind_ethernet(&ran.packet) == behind_ethernet(&expected));
            } else {
                assert_eq!((ran.action, ran.packet), (PASS, packet), "QFI {qfi}");
            }
        }
        let counters = programs.counters(0);
        assert_eq!(counters.uplink.packets, UPLINK_MAX6 as u64 + 1 + 2);
    });
}

/// Every value of the sum, the one for which the checksum would be zero too.
#[test]
fn no_checksum_is_zero() {
    with_programs6(|programs| {
        let mut largest = 0;
        for n in 0..=u16::MAX {
            let mut pdu = pdu(40);
            pdu[20..22].copy_from_slice(&n.to_be_bytes());
            let expected = expected_uplink(9, &pdu);
            // Of the others every 64th is enough.
            let sum = u16::from_be_bytes([expected[14 + 46], expected[14 + 47]]);
            assert_ne!(sum, 0);
            if sum != u16::MAX && n % 64 != 0 {
                continue;
            }
            largest += u32::from(sum == u16::MAX);
            let ran = programs.run(PROGRAM_UPLINK6, &frame(&gre(UE, 9, &pdu)), 1);
            assert!(
                behind_ethernet(&ran.packet) == behind_ethernet(&expected),
                "{n}"
            );
        }
        assert!(largest > 0, "the case is among them");
    });
}

#[test]
fn a_path_may_carry_jumbo_frames() {
    with_programs6(|mut programs| {
        programs.set_peer(UPF6, SUMMED as usize);
        // As much as a test run takes.
        for len in [1437, 3000, 3001, 3002, 3003] {
            let pdu = pdu(len);
            let ran = programs.run(PROGRAM_UPLINK6, &frame(&gre(UE, 9, &pdu)), 1);
            assert_eq!(ran.action, REDIRECT, "{len} octets");
            let expected = expected_uplink(9, &pdu);
            assert!(
                behind_ethernet(&ran.packet) == behind_ethernet(&expected),
                "{len} octets"
            );
        }
    });
}

#[test]
fn downlink_is_exact_for_every_size_and_flow() {
    with_programs6(|programs| {
        for len in 20..=DOWNLINK_MAX {
            let pdu = pdu(len);
            let rqi = len % 2 == 1;
            let packet = frame6(&downlink(UE, 63, rqi, &pdu));
            let ran = programs.run(PROGRAM_DOWNLINK6, &packet, 1);
            assert_eq!(ran.action, REDIRECT, "{len} octets");
            assert!(
                normal(&ran) == expected_downlink(63, rqi, &pdu),
                "{len} octets"
            );
        }
        for qfi in 0..64 {
            let packet = frame6(&downlink(UE, qfi, false, &pdu(100)));
            let ran = programs.run(PROGRAM_DOWNLINK6, &packet, 1);
            if QFIS.contains(&qfi) {
                assert!(normal(&ran) == expected_downlink(qfi, false, &pdu(100)));
            } else {
                assert_eq!((ran.action, ran.packet), (PASS, packet), "QFI {qfi}");
            }
        }
        assert_eq!(
            programs.counters(0).downlink.packets,
            (DOWNLINK_MAX - 19 + 2) as u64
        );
    });
}

/// A virtual device leaves the sum of the pseudo-header for the checksum; any other value is wrong, and
/// none at all is not enough (RFC 8200, 8.1).
#[test]
fn a_datagram_is_taken_with_a_good_checksum_alone() {
    with_programs6(|programs| {
        let good = downlink(UE, 9, false, &pdu(301));
        // The source port, a spare octet of GTP-U, the PDU.
        for at in [40, 56, 64, 80, 200, good.len() - 1] {
            let mut damaged = good.clone();
            damaged[at] ^= 0x10;
            refused(&programs, PROGRAM_DOWNLINK6, "malformed", &damaged);
        }
        let with = |sum: [u8; 2]| {
            let mut packet = good.clone();
            packet[46..48].copy_from_slice(&sum);
            packet
        };
        refused(&programs, PROGRAM_DOWNLINK6, "malformed", &with([0, 0]));
        let len = (good.len() - 40) as u16;
        let pseudo = [&good[8..40], &[0, 0], &len.to_be_bytes(), &[0, 0, 0, 17]].concat();
        let partial = !checksum(&pseudo);
        let ran = programs.run(PROGRAM_DOWNLINK6, &frame6(&with(partial.to_be_bytes())), 1);
        assert_eq!(ran.action, REDIRECT);
        let near = partial.wrapping_add(1).to_be_bytes();
        refused(&programs, PROGRAM_DOWNLINK6, "malformed", &with(near));
    });
}

/// Runs a packet of IPv6, or of IPv4, that has to be left alone for `reason`.
fn refused(programs: &Programs, name: &str, reason: &str, packet: &[u8]) {
    let six = packet[0] >> 4 == 6;
    let frame = if six { frame6(packet) } else { frame(packet) };
    left_alone(programs, name, reason, &frame);
}

#[test]
fn what_is_not_plain_is_left_alone() {
    with_programs6(|programs| {
        let good = downlink(UE, 9, false, &pdu(100));
        let stranger = Session { number: 5, ..UE };
        let patched = |changes: &[(usize, u8)]| {
            let mut packet = good.clone();
            for (at, octet) in changes {
                packet[*at] = *octet;
            }
            packet
        };
        let from = |source| udp6(source, N3IWF6, &good[48..]);
        let to = |to| udp6(UPF6, to, &good[48..]);
        let gtp = |gtp: &[u8]| udp6(UPF6, N3IWF6, gtp);
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("other", patched(&[(6, 6)])),
            ("other", to(OTHER)),
            ("other", patched(&[(43, 0x69)])),
            // IPv4 is not this program's.
            ("other", gre(UE, 9, &pdu(100))),
            ("fragment", patched(&[(6, 44)])),
            ("options", patched(&[(6, 0)])),
            ("options", patched(&[(6, 43)])),
            ("options", patched(&[(6, 60)])),
            ("malformed", patched(&[(5, good[5] - 1)])),
            ("malformed", patched(&[(5, good[5] + 1)])),
            ("malformed", patched(&[(45, good[45] - 1)])),
            ("malformed", gtp(&[])),
            ("malformed", gtp(&[0x30, 255, 0, 0, 0, 0, 0])),
            ("signalling", gtp(&gtpu::echo_request(1))),
            ("signalling", gtp(&gtpu::encode_end_marker(UE.dl_teid()))),
            ("no_session", downlink(stranger, 9, false, &pdu(100))),
            ("wrong_address", from(OTHER)),
            ("qfi_not_allowed", downlink(UE, 10, false, &pdu(100))),
            ("too_big", downlink(UE, 9, false, &pdu(DOWNLINK_MAX + 1))),
            ("too_short", downlink(UE, 9, false, &pdu(19))),
        ];
        for (reason, packet) in &cases {
            refused(&programs, PROGRAM_DOWNLINK6, reason, packet);
        }
        let uplinks = [
            ("no_session", gre(stranger, 9, &pdu(100))),
            ("qfi_not_allowed", gre(UE, 10, &pdu(100))),
            ("too_big", gre(UE, 9, &pdu(UPLINK_MAX6 + 1))),
        ];
        for (reason, packet) in &uplinks {
            refused(&programs, PROGRAM_UPLINK6, reason, packet);
        }
        let frame = frame6(&good);
        let ran = programs.run_gso(PROGRAM_DOWNLINK6, &frame, 1, 50);
        assert_eq!((ran.action, ran.packet), (PASS, frame));
        assert_eq!(programs.reasons(DOWNLINK).gso, 1);
        assert_eq!(programs.counters(0), Default::default());
    });
}

/// Every truncation, with honest lengths and without.
#[test]
fn truncations_do_what_user_space_would() {
    with_programs6(|programs| {
        let whole = downlink(UE, DEFAULT_QFI, true, &pdu(40));
        for len in 40..whole.len() {
            let packet = frame6(&whole[..len]);
            let ran = programs.run(PROGRAM_DOWNLINK6, &packet, 1);
            assert_eq!((ran.action, ran.packet), (PASS, packet), "cut at {len}");
        }
        for len in 48..whole.len() {
            let mut gtp = whole[48..len].to_vec();
            if gtp.len() >= 8 {
                gtp[3] = (gtp.len() - 8) as u8;
            }
            let packet = frame6(&udp6(UPF6, N3IWF6, &gtp));
            let ran = programs.run(PROGRAM_DOWNLINK6, &packet, 1);
            match Message::decode(&gtp) {
                Ok(message) if message.payload.len() >= 20 => {
                    let expected = expected_downlink(DEFAULT_QFI, true, message.payload);
                    assert!(normal(&ran) == expected, "cut at {len}");
                }
                _ => assert_eq!(ran.action, PASS, "cut at {len}"),
            }
        }
    });
}

#[test]
fn congestion_is_told_across_both_headers() {
    with_programs6(|programs| {
        // ECN of the PDU, of the old outer header, of the new one (RFC 6040).
        for (inner, outer, expected) in [(0, 0, 0), (0, 3, 0), (1, 0, 1), (2, 2, 2), (2, 3, 3)] {
            let mut packet = ipv4(6, [10, 60, 0, 7], [198, 18, 0, 10], &[0; 20]);
            packet[1] = inner;
            seal(&mut packet);
            let mut up = gre(UE, 9, &packet);
            up[1] = outer;
            seal(&mut up);
            let ran = programs.run(PROGRAM_UPLINK6, &frame(&up), 1);
            assert_eq!(ran.packet[14], 0x60);
            assert_eq!(ran.packet[15] >> 4, expected, "up {inner} {outer}");
            let mut down = downlink(UE, 9, false, &packet);
            down[1] = outer << 4;
            let ran = programs.run(PROGRAM_DOWNLINK6, &frame6(&down), 1);
            assert_eq!(ran.packet[15], expected, "down {inner} {outer}");
        }
    });
}

/// The sum is of what leaves, after the MSS option has changed.
#[test]
fn a_clamped_segment_has_the_right_sums() {
    with_programs6(|programs| {
        for front in [&[][..], &[1], &[3, 3, 7]] {
            let mut options = [front, &[2, 4, 0x05, 0xb4]].concat();
            options.resize(options.len().next_multiple_of(4), 0);
            let before = tcp(false, 0x02, &options);
            let at = front.len() + 2;
            options[at..at + 2].copy_from_slice(&programs::MSS.to_be_bytes());
            let expected = expected_uplink(9, &tcp(false, 0x02, &options));
            let ran = programs.run(PROGRAM_UPLINK6, &frame(&gre(UE, 9, &before)), 1);
            assert!(
                behind_ethernet(&ran.packet) == behind_ethernet(&expected),
                "{front:x?}"
            );
        }
    });
}
