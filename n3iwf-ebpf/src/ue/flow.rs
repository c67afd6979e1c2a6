//! What packet filters look at, of packets that are whole and have no options or extension headers.

use aya_ebpf::programs::TcContext;
use ebpf_common::ue::{HAS_PORTS, HAS_SPI, IS_IPV6, UePacket, Words, words4, words6};

use super::{IPV4, IPV6};
use crate::{
    buffer,
    packet::{IPPROTO_DSTOPTS, IPPROTO_FRAGMENT, IPPROTO_HOPOPTS, IPPROTO_ROUTING},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;
const AH: u8 = 51;

/// An IPv4 packet of `len` octets at `at`, which ends where the buffer ends.
#[inline(always)]
pub(super) fn ipv4(ctx: &TcContext, at: u32, len: u32) -> Option<UePacket> {
    let header: [u8; IPV4 as usize] = buffer::octets(ctx, at)?;
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if header[0] != 0x45 || fragment != 0 || total != len {
        return None;
    }
    let packet = UePacket {
        remote: words4([header[16], header[17], header[18], header[19]]),
        local: words4([header[12], header[13], header[14], header[15]]),
        kind: u32::from(header[9]) | u32::from(header[1]) << 8,
        ..UePacket::default()
    };
    Some(with_transport(ctx, at + IPV4, header[9], packet))
}

/// The same of IPv6.
#[inline(always)]
pub(super) fn ipv6(ctx: &TcContext, at: u32, len: u32) -> Option<UePacket> {
    let header: [u8; IPV6 as usize] = buffer::octets(ctx, at)?;
    let total = IPV6 + u32::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || total != len {
        return None;
    }
    let protocol = header[6];
    if matches!(
        protocol,
        IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_FRAGMENT | IPPROTO_DSTOPTS
    ) {
        return None;
    }
    let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    let addresses: &[u8; 32] = header.last_chunk()?;
    let packet = UePacket {
        local: words6(*addresses.first_chunk()?),
        remote: words6(*addresses.last_chunk()?),
        kind: u32::from(protocol) | (first >> 20 & 0xff) << 8 | IS_IPV6,
        label: first & 0x000f_ffff,
        ..UePacket::default()
    };
    Some(with_transport(ctx, at + IPV6, protocol, packet))
}

#[inline(always)]
fn with_transport(ctx: &TcContext, at: u32, protocol: u8, mut packet: UePacket) -> UePacket {
    match protocol {
        // DCCP, SCTP and UDP-Lite too.
        TCP | UDP | 33 | 132 | 136 => {
            if let Some(ports) = buffer::be32(ctx, at) {
                packet.local_port = (ports >> 16) as u16;
                packet.remote_port = ports as u16;
                packet.has = HAS_PORTS;
            }
        }
        ESP | AH => {
            let at = if protocol == ESP { at } else { at + 4 };
            if let Some(spi) = buffer::be32(ctx, at) {
                packet.spi = spi;
                packet.has = HAS_SPI;
            }
        }
        _ => {}
    }
    packet
}

/// As [`ebpf_common::ue::UeFlow::protocol`].
#[inline(always)]
pub(super) fn protocol(packet: &UePacket) -> u32 {
    packet.kind & (IS_IPV6 | 0xff)
}

/// Whether rules may be derived for packets like this one.
#[inline(always)]
pub(super) fn may_be_derived(packet: &UePacket) -> bool {
    match packet.kind as u8 {
        TCP | UDP => packet.has == HAS_PORTS,
        ESP => packet.has == HAS_SPI,
        _ => false,
    }
}

/// [`ebpf_common::ue::UeFlow::upper`]: the ports, or the SPI. What a packet has not is zero.
#[inline(always)]
pub(super) fn upper(packet: &UePacket) -> u32 {
    u32::from(packet.local_port) << 16 | u32::from(packet.remote_port) | packet.spi
}

/// The packet the other way: who was remote is local.
#[inline(always)]
pub(super) fn turned(packet: UePacket) -> UePacket {
    UePacket {
        remote: packet.local,
        local: packet.remote,
        local_port: packet.remote_port,
        remote_port: packet.local_port,
        ..packet
    }
}

/// Whether an IPv6 address is of one host, and not of the link alone (RFC 4291, 2.4).
#[inline(always)]
pub(super) fn is_global(address: &Words) -> bool {
    let first = u32::from_be(address[0]);
    first >> 24 != 0xff && first >> 22 != 0xfe80 >> 6 && first != 0
}
