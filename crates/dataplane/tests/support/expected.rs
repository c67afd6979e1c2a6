//! What the relay's programs have to make of a packet, and what they have to leave alone.

use ebpf_common::relay::{DOWNLINK, PROGRAM_UPLINK, PROGRAM_UPLINK6, UPLINK};
use gtpu::{Direction, PduSessionContainer, encode_g_pdu};

use crate::{
    programs::{PASS, Programs, Ran, UE, UP_ADDRESS},
    support::internet::{checksum, ipv4},
};

/// The packet behind the Ethernet header, IPv4 with a sound header, with ID and checksum cleared.
pub(crate) fn normal(ran: &Ran) -> Vec<u8> {
    let mut packet = ran.packet[14..].to_vec();
    assert_eq!(checksum(&packet[..20]), 0, "IPv4 header checksum");
    packet[4..6].fill(0);
    with_clear_checksum(packet)
}

pub(crate) fn with_clear_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10..12].fill(0);
    packet
}

/// The G-PDU that a PDU of [`UE`] becomes.
pub(crate) fn uplink_gtp(qfi: u8, pdu: &[u8]) -> Vec<u8> {
    let container = PduSessionContainer {
        direction: Direction::Uplink,
        qfi,
        rqi: false,
    };
    encode_g_pdu(UE.ul_teid(), container, pdu).unwrap()
}

/// What goes into the tunnel to [`UE`], as [`normal`] has it.
pub(crate) fn expected_downlink(qfi: u8, rqi: bool, pdu: &[u8]) -> Vec<u8> {
    let header = nwu::GreHeader {
        qfi: Some(qfi),
        rqi,
    };
    let payload = [&header.encode(0)[..], pdu].concat();
    with_clear_checksum(ipv4(47, UP_ADDRESS, UE.inner(), &payload))
}

/// Runs a frame that has to be left alone for `reason`, and counted for that once.
pub(crate) fn left_alone(programs: &Programs, name: &str, reason: &str, frame: &[u8]) {
    let direction = if [PROGRAM_UPLINK, PROGRAM_UPLINK6].contains(&name) {
        UPLINK
    } else {
        DOWNLINK
    };
    let counts = || {
        let all = programs.reasons(direction).named();
        let total: u64 = all.iter().map(|(_, count)| count).sum();
        let own = all.into_iter().find(|(name, _)| *name == reason).unwrap().1;
        (own, total)
    };
    let before = counts();
    let ran = programs.run(name, frame, 1);
    assert_eq!(ran.action, PASS, "{name}: {reason}");
    assert!(ran.packet == frame, "{name}: {reason}: changed");
    let once = (before.0 + 1, before.1 + 1);
    assert_eq!(counts(), once, "{name}: {reason}: {frame:x?}");
}
