//! IPv4 headers, read and written.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use ebpf_common::relay::Reason;

use super::Verdict;

pub(super) const IPV4: u32 = 20;
pub(super) const UDP: u32 = 8;
pub(super) const GRE: u32 = 8;
pub(super) const IPPROTO_GRE: u8 = 47;

const TTL: u8 = 64;

/// Whether `header` starts an IPv4 packet of this protocol to us; everything else is not ours.
#[inline(always)]
pub(super) fn is_ours(header: &[u8], protocol: u8, address: [u8; 4]) -> bool {
    header[0] >> 4 == 4
        && header[9] == protocol
        && header[16] == address[0]
        && header[17] == address[1]
        && header[18] == address[2]
        && header[19] == address[3]
}

/// Total length of a packet whose headers can be replaced.
#[inline(always)]
pub(super) fn check_ipv4(header: &[u8]) -> Result<u32, Verdict> {
    if header[0] & 15 != 5 {
        return Err(Verdict::Pass(Reason::Options));
    }
    // More Fragments, or an offset.
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Err(Verdict::Pass(Reason::Fragment));
    }
    if sum(header) != 0xffff {
        return Err(Verdict::Pass(Reason::Malformed));
    }
    Ok(u32::from(u16::from_be_bytes([header[2], header[3]])))
}

/// The one's complement sum of the first 20 octets (RFC 1071); 0xffff for a sound header.
#[inline(always)]
fn sum(header: &[u8]) -> u16 {
    let mut sum = 0u32;
    let mut at = 0;
    while at < 20 {
        sum += u32::from(u16::from_be_bytes([header[at], header[at + 1]]));
        at += 2;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Writes an IPv4 header to the front of `out`. Routers may fragment the packet, so it has an ID.
#[inline(always)]
pub(super) fn write_ipv4(out: &mut [u8], total: u16, protocol: u8, from: [u8; 4], to: [u8; 4]) {
    // SAFETY: the helper takes nothing.
    let id = unsafe { bpf_get_prandom_u32() };
    let total = total.to_be_bytes();
    out[0] = 0x45;
    out[1] = 0;
    out[2] = total[0];
    out[3] = total[1];
    out[4] = (id >> 8) as u8;
    out[5] = id as u8;
    out[6] = 0;
    out[7] = 0;
    out[8] = TTL;
    out[9] = protocol;
    out[10] = 0;
    out[11] = 0;
    let mut at = 0;
    while at < 4 {
        out[12 + at] = from[at];
        out[16 + at] = to[at];
        at += 1;
    }
    let checksum = (!sum(out)).to_be_bytes();
    out[10] = checksum[0];
    out[11] = checksum[1];
}
