//! The relay's programs, packet by packet (`BPF_PROG_TEST_RUN`): every octet is compared.
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

#[path = "support/expected.rs"]
mod expected;
#[path = "support/programs.rs"]
mod programs;
mod support;

use std::io::Write;

use ebpf_common::relay::{DOWNLINK, PROGRAM_DOWNLINK, PROGRAM_UPLINK, UPLINK};
use expected::{expected_downlink, left_alone, normal, uplink_gtp, with_clear_checksum};
use gtpu::{Message, MessageType};
use programs::{
    DEFAULT_QFI, DOWNLINK_MAX, Extras, MSS, N3IWF, PASS, Programs, QFIS, REDIRECT, Session, UE,
    UP_ADDRESS, UPF, UPLINK_MAX, downlink, frame, gre, n3, pdu, unsummed, with_programs,
};
use support::internet::{ipv4, seal, tcp};

/// What N3 has to carry.
fn expected_uplink(qfi: u8, pdu: &[u8]) -> Vec<u8> {
    let gtp = uplink_gtp(qfi, pdu);
    let mut udp = vec![0x08, 0x68, 0x08, 0x68];
    udp.extend(((8 + gtp.len()) as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(gtp);
    with_clear_checksum(ipv4(17, N3IWF, UPF, &udp))
}

#[test]
fn the_verifier_accepts_both() {
    with_programs(|programs| {
        let release = nix::sys::utsname::uname().unwrap();
        for (name, instructions) in programs.verified() {
            let instructions = instructions.expect("Linux 5.16 and later tell");
            // Past the harness, which keeps what tests print that pass.
            writeln!(
                std::io::stderr(),
                "{}: {name}: {instructions} instructions verified",
                release.release().to_string_lossy()
            )
            .unwrap();
            assert!(instructions < 100_000, "{name}: {instructions}");
        }
    });
}

#[test]
fn uplink_is_exact_for_every_size_and_flow() {
    with_programs(|programs| {
        let mut octets = 0;
        for len in 0..=UPLINK_MAX {
            let pdu = pdu(len);
            let ran = programs.run(PROGRAM_UPLINK, &frame(&gre(UE, 9, &pdu)), 1);
            assert_eq!(ran.action, REDIRECT, "{len} octets");
            assert!(normal(&ran) == expected_uplink(9, &pdu), "{len} octets");
            octets += len as u64;
        }
        for qfi in 0..64 {
            let packet = frame(&gre(UE, qfi, &pdu(100)));
            let ran = programs.run(PROGRAM_UPLINK, &packet, 1);
            if QFIS.contains(&qfi) {
                assert!(normal(&ran) == expected_uplink(qfi, &pdu(100)), "QFI {qfi}");
                octets += 100;
            } else {
                assert_eq!((ran.action, ran.packet), (PASS, packet), "QFI {qfi}");
            }
        }
        assert_eq!(programs.reasons(UPLINK).qfi_not_allowed, 62);
        let counters = programs.counters(0);
        assert_eq!(counters.uplink.packets, UPLINK_MAX as u64 + 1 + 2);
        assert_eq!(counters.uplink.bytes, octets);
        assert!(counters.uplink.last_seen_ns > 0);
        assert_eq!(counters.downlink, Default::default());
    });
}

#[test]
fn what_gre_leaves_open_is_ignored() {
    with_programs(|programs| {
        let expected = expected_uplink(9, &pdu(60));
        // Protocol type; spare bits of the key; RQI, which has no meaning uplink.
        for (at, octet) in [
            (22, 8),
            (23, 0xff),
            (24, 0xc9),
            (25, 1),
            (26, 1),
            (27, 0x80),
        ] {
            let mut packet = gre(UE, 9, &pdu(60));
            packet[at] = octet;
            let ran = programs.run(PROGRAM_UPLINK, &frame(&packet), 1);
            assert_eq!(ran.action, REDIRECT, "octet {at}");
            assert!(normal(&ran) == expected, "octet {at}");
        }
    });
}

#[test]
fn downlink_is_exact_for_every_size_and_flow() {
    with_programs(|programs| {
        let mut octets = 0;
        for len in 20..=DOWNLINK_MAX {
            let pdu = pdu(len);
            let rqi = len % 2 == 1;
            let summed = downlink(UE, 63, rqi, &pdu);
            let packet = if len % 4 < 2 {
                unsummed(summed)
            } else {
                summed
            };
            let ran = programs.run(PROGRAM_DOWNLINK, &frame(&packet), 1);
            assert_eq!(ran.action, REDIRECT, "{len} octets");
            assert!(
                normal(&ran) == expected_downlink(63, rqi, &pdu),
                "{len} octets"
            );
            octets += len as u64;
        }
        for (qfi, rqi) in (0..64).flat_map(|qfi| [(qfi, false), (qfi, true)]) {
            let packet = frame(&downlink(UE, qfi, rqi, &pdu(100)));
            let ran = programs.run(PROGRAM_DOWNLINK, &packet, 1);
            if QFIS.contains(&qfi) {
                assert!(normal(&ran) == expected_downlink(qfi, rqi, &pdu(100)));
                octets += 100;
            } else {
                assert_eq!((ran.action, ran.packet), (PASS, packet), "QFI {qfi}");
            }
        }
        assert_eq!(programs.reasons(DOWNLINK).qfi_not_allowed, 124);
        let counters = programs.counters(0);
        assert_eq!(counters.downlink.packets, (DOWNLINK_MAX - 19 + 4) as u64);
        assert_eq!(counters.downlink.bytes, octets);
        assert_eq!(counters.uplink, Default::default());
    });
}

/// A G-PDU with these octets between the TEID and the PDU.
fn g_pdu(flags: u8, optional: &[u8], pdu: &[u8]) -> Vec<u8> {
    let mut gtp = vec![flags, 255];
    gtp.extend(((optional.len() + pdu.len()) as u16).to_be_bytes());
    gtp.extend(UE.dl_teid().to_be_bytes());
    gtp.extend(optional);
    gtp.extend(pdu);
    gtp
}

#[test]
fn every_form_of_the_gtp_header_is_read() {
    with_programs(|programs| {
        let long = [0, 0, 0, 0x85, 2, 0x08, 0x40 | 63, 0xe0, 1, 2, 3, 0];
        let cases: [(u8, &[u8], u8, bool); 8] = [
            // No optional fields at all: the default flow.
            (0x30, &[], DEFAULT_QFI, false),
            (0x38, &[], DEFAULT_QFI, false),
            (0x32, &[0x12, 0x34, 0, 0], DEFAULT_QFI, false),
            (0x31, &[0, 0, 7, 0x85], DEFAULT_QFI, false),
            (0x34, &[0, 0, 0, 0], DEFAULT_QFI, false),
            (0x36, &[0x12, 0x34, 0, 0x85, 1, 0, 9, 0], 9, false),
            // With a paging policy, and with more than is looked at.
            (0x34, &[0, 0, 0, 0x85, 1, 0, 0xff, 0], 63, true),
            (0x37, &long, 63, true),
        ];
        let pdu = pdu(333);
        for (flags, optional, qfi, rqi) in cases {
            let gtp = g_pdu(flags, optional, &pdu);
            assert!(Message::decode(&gtp).is_ok());
            let summed = n3(UPF, &gtp);
            for packet in [unsummed(summed.clone()), summed] {
                let ran = programs.run(PROGRAM_DOWNLINK, &frame(&packet), 1);
                assert_eq!(ran.action, REDIRECT, "{flags:#x} {optional:x?}");
                let found = normal(&ran);
                assert!(found == expected_downlink(qfi, rqi, &pdu), "{flags:#x}");
            }
        }
    });
}

/// Runs a packet that has to be left alone for `reason`.
fn refused(programs: &Programs, name: &str, reason: &str, packet: &[u8]) {
    left_alone(programs, name, reason, &frame(packet));
}

/// `packet` with octets changed and the header checksum right again.
fn patched(packet: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    for (at, octet) in changes {
        packet[*at] = *octet;
    }
    seal(&mut packet);
    packet
}

#[test]
fn what_is_not_plain_uplink_is_left_alone() {
    with_programs(|programs| {
        let good = gre(UE, 9, &pdu(100));
        let stranger = Session { number: 5, ..UE };
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("other", patched(&good, &[(9, 6)])),
            ("other", patched(&good, &[(19, 9)])),
            ("other", patched(&good, &[(0, 0x65)])),
            ("options", patched(&good, &[(0, 0x46)])),
            ("fragment", patched(&good, &[(6, 0x20)])),
            ("fragment", patched(&good, &[(7, 1)])),
            // Wrong total length, cut short or with octets behind it.
            ("malformed", patched(&good, &[(3, good[3] - 1)])),
            ("malformed", patched(&good, &[(3, good[3] + 1)])),
            (
                "malformed",
                ipv4(47, UE.inner(), UP_ADDRESS, &[0x20, 0, 0, 0, 9, 0, 0]),
            ),
            ("malformed", ipv4(47, UE.inner(), UP_ADDRESS, &[])),
            // Checksum, routing, sequence, no key, recursion, another version.
            ("extension", patched(&good, &[(20, 0xa0)])),
            ("extension", patched(&good, &[(20, 0x60)])),
            ("extension", patched(&good, &[(20, 0x30)])),
            ("extension", patched(&good, &[(20, 0x00)])),
            ("extension", patched(&good, &[(20, 0x21)])),
            ("extension", patched(&good, &[(21, 0x01)])),
            ("no_session", gre(stranger, 9, &pdu(100))),
            ("qfi_not_allowed", gre(UE, 10, &pdu(100))),
            ("too_big", gre(UE, 9, &pdu(UPLINK_MAX + 1))),
        ];
        for (reason, packet) in &cases {
            refused(&programs, PROGRAM_UPLINK, reason, packet);
        }
        let mut wrong = good.clone();
        wrong[10] ^= 1;
        refused(&programs, PROGRAM_UPLINK, "malformed", &wrong);
        let packet = frame(&good);
        let ran = programs.run_gso(PROGRAM_UPLINK, &packet, 1, 50);
        assert_eq!((ran.action, ran.packet), (PASS, packet));
        assert_eq!(programs.reasons(UPLINK).gso, 1);
        assert_eq!(programs.counters(0).uplink.packets, 0);
    });
}

#[test]
fn what_is_not_plain_downlink_is_left_alone() {
    with_programs(|programs| {
        let good = downlink(UE, 9, false, &pdu(100));
        let stranger = Session { number: 5, ..UE };
        let container = |octets: &[u8; 4]| {
            n3(
                UPF,
                &g_pdu(0x34, &[&[0, 0, 0, 0x85][..], octets].concat(), &pdu(100)),
            )
        };
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("other", patched(&good, &[(9, 6)])),
            ("other", patched(&good, &[(19, 9)])),
            ("other", patched(&good, &[(23, 0x69)])),
            ("options", patched(&good, &[(0, 0x46)])),
            ("fragment", patched(&good, &[(6, 0x20)])),
            ("fragment", patched(&good, &[(7, 1)])),
            // Lengths of IP, UDP and GTP-U that do not agree.
            ("malformed", patched(&good, &[(3, good[3] - 1)])),
            ("malformed", patched(&good, &[(25, good[25] - 1)])),
            ("malformed", patched(&good, &[(31, good[31] - 1)])),
            ("malformed", patched(&good, &[(28, 0x54)])),
            ("malformed", patched(&good, &[(28, 0x24)])),
            ("malformed", n3(UPF, &[])),
            ("malformed", n3(UPF, &[0x30, 255, 0, 0, 0, 0, 0])),
            ("malformed", n3(UPF, &g_pdu(0x34, &[], &[]))),
            // A container that is longer than the message.
            (
                "malformed",
                n3(UPF, &g_pdu(0x34, &[0, 0, 0, 0x85, 8, 0, 9, 0], &pdu(20))),
            ),
            ("signalling", n3(UPF, &gtpu::echo_request(1))),
            (
                "signalling",
                n3(UPF, &gtpu::encode_end_marker(UE.dl_teid())),
            ),
            (
                "signalling",
                n3(
                    UPF,
                    &gtpu::ErrorIndication {
                        teid: UE.ul_teid(),
                        peer: std::net::IpAddr::from(UPF),
                    }
                    .encode(1),
                ),
            ),
            ("no_session", downlink(stranger, 9, false, &pdu(100))),
            ("wrong_address", n3([203, 0, 113, 9], &good[28..])),
            ("qfi_not_allowed", downlink(UE, 10, false, &pdu(100))),
            // Another extension header, one behind the container, an uplink container, no length,
            // a long one.
            (
                "extension",
                n3(UPF, &g_pdu(0x34, &[0, 0, 0, 0x40, 1, 0, 0, 0], &pdu(100))),
            ),
            ("extension", container(&[1, 0, 9, 0xc1])),
            ("extension", container(&[1, 0x10, 9, 0])),
            ("extension", container(&[0, 0, 9, 0])),
            ("extension", container(&[9, 0, 9, 0])),
            ("too_big", downlink(UE, 9, false, &pdu(DOWNLINK_MAX + 1))),
            ("too_short", downlink(UE, 9, false, &pdu(19))),
            ("too_short", downlink(UE, 9, false, &[])),
        ];
        for (reason, packet) in &cases {
            refused(&programs, PROGRAM_DOWNLINK, reason, packet);
        }
        let mut wrong = good.clone();
        wrong[10] ^= 1;
        refused(&programs, PROGRAM_DOWNLINK, "malformed", &wrong);
        // A frame to somebody else, as a promiscuous interface sees it.
        let mut foreign = frame(&good);
        foreign[0] = 2;
        let ran = programs.run(PROGRAM_DOWNLINK, &foreign, 1);
        assert_eq!((ran.action, ran.packet), (PASS, foreign));
        let packet = frame(&good);
        let ran = programs.run_gso(PROGRAM_DOWNLINK, &packet, 1, 50);
        assert_eq!((ran.action, ran.packet), (PASS, packet));
        assert_eq!(programs.reasons(DOWNLINK).gso, 1);
        assert_eq!(programs.counters(0).downlink.packets, 0);
    });
}

/// Every truncation, with the lengths of the whole packet and with honest ones.
#[test]
fn truncations_do_what_user_space_would() {
    with_programs(|programs| {
        let gre = gre(UE, 9, &pdu(40));
        let gtp = downlink(UE, 9, true, &pdu(40));
        for (name, whole) in [(PROGRAM_UPLINK, &gre), (PROGRAM_DOWNLINK, &gtp)] {
            // The kernel runs no IPv4 frame that is shorter than a header.
            for len in 20..whole.len() {
                let packet = frame(&whole[..len]);
                let ran = programs.run(name, &packet, 1);
                assert_eq!(ran.action, PASS, "{name} cut at {len}");
                assert!(ran.packet == packet, "{name} cut at {len}");
            }
        }
        for len in 20..gre.len() {
            let packet = patched(&gre[..len], &[(3, len as u8)]);
            let ran = programs.run(PROGRAM_UPLINK, &frame(&packet), 1);
            match nwu::GreHeader::decode(&packet[20..]) {
                Ok((_, pdu)) => assert!(normal(&ran) == expected_uplink(9, pdu)),
                Err(_) => assert_eq!(ran.action, PASS, "cut at {len}"),
            }
        }
        for len in 28..gtp.len() {
            let mut packet = patched(&gtp[..len], &[(3, len as u8), (25, (len - 20) as u8)]);
            if len >= 36 {
                packet[31] = (len - 36) as u8;
            }
            let ran = programs.run(PROGRAM_DOWNLINK, &frame(&packet), 1);
            match Message::decode(&packet[28..]) {
                Ok(message) if message.payload.len() >= 20 => {
                    assert_eq!(message.header.kind, MessageType::GPdu);
                    assert!(normal(&ran) == expected_downlink(9, true, message.payload));
                }
                _ => assert_eq!(ran.action, PASS, "cut at {len}"),
            }
        }
    });
}

#[test]
fn mss_of_a_syn_is_clamped_both_ways() {
    with_programs(|programs| {
        let mss = |value: u16| [&[2, 4][..], &value.to_be_bytes()].concat();
        let behind = |front: &[u8]| {
            let fill = [0; 3];
            [front, &mss(1460), &fill[..(4 - front.len() % 4) % 4]].concat()
        };
        let limit6 = MSS - 20;
        let cases: Vec<(bool, u8, Vec<u8>, Vec<u8>)> = vec![
            (false, 0x02, mss(1460), mss(MSS)),
            (false, 0x12, mss(9000), mss(MSS)),
            (false, 0x02, mss(MSS), mss(MSS)),
            (false, 0x02, mss(536), mss(536)),
            (false, 0x10, mss(1460), mss(1460)),
            (true, 0x02, mss(1460), mss(limit6)),
            (true, 0x12, mss(limit6 - 1), mss(limit6 - 1)),
            // Behind other options, also at an odd place.
            (
                false,
                0x02,
                [&[4, 2, 1, 1][..], &mss(1460)].concat(),
                [&[4, 2, 1, 1][..], &mss(MSS)].concat(),
            ),
            (
                false,
                0x02,
                [&[1][..], &mss(1460), &[0, 0, 0]].concat(),
                [&[1][..], &mss(MSS), &[0, 0, 0]].concat(),
            ),
            (
                false,
                0x02,
                [&[3, 3, 7][..], &mss(1460), &[0]].concat(),
                [&[3, 3, 7][..], &mss(MSS), &[0]].concat(),
            ),
            // Behind the end of options, and an option without a length.
            (false, 0x02, behind(&[0]), behind(&[0])),
            (false, 0x02, behind(&[9, 0]), behind(&[9, 0])),
            (false, 0x02, vec![], vec![]),
        ];
        for (v6, flags, before, after) in cases {
            let (before, after) = (tcp(v6, flags, &before), tcp(v6, flags, &after));
            let up = programs.run(PROGRAM_UPLINK, &frame(&gre(UE, 9, &before)), 1);
            assert!(normal(&up) == expected_uplink(9, &after), "{before:x?}");
            let down = downlink(UE, 9, false, &before);
            let down = programs.run(PROGRAM_DOWNLINK, &frame(&down), 1);
            assert!(normal(&down) == expected_downlink(9, false, &after));
        }
    });
}

#[test]
fn dscp_is_the_sessions_and_ecn_is_kept() {
    with_programs(|mut programs| {
        let marked = Session { number: 1, ..UE };
        let dscp = [46, 34];
        programs.add_with(
            marked,
            Extras {
                dscp,
                ..Extras::default()
            },
        );
        // ECN of the PDU, of the old outer header, and of the new one (RFC 6040).
        let cases = [
            (0, 0, 0),
            (0, 3, 0),
            (1, 0, 1),
            (2, 2, 2),
            (2, 3, 3),
            (1, 3, 3),
            (3, 0, 3),
        ];
        for (inner, outer, expected) in cases {
            for v6 in [false, true] {
                let mut packet = tcp(v6, 0x10, &[]);
                if v6 {
                    packet[1] = inner << 4;
                } else {
                    // Its DSCP is nobody's business here.
                    packet[1] = 0x20 | inner;
                    seal(&mut packet);
                }
                let up = patched(&gre(marked, 9, &packet), &[(1, 0x10 | outer)]);
                let ran = programs.run(PROGRAM_UPLINK, &frame(&up), 1);
                assert_eq!(ran.packet[15], 46 << 2 | expected, "up {inner} {outer}");
                assert!(ran.packet.ends_with(&packet));
                let down = patched(&downlink(marked, 9, false, &packet), &[(1, outer)]);
                let ran = programs.run(PROGRAM_DOWNLINK, &frame(&down), 1);
                assert_eq!(ran.packet[15], 34 << 2 | expected, "down {inner} {outer}");
                assert!(ran.packet.ends_with(&packet));
            }
        }
    });
}
