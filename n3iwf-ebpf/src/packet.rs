//! From a socket buffer to what it carries on NWu.

use aya_ebpf::programs::TcContext;
use ebpf_common::{
    Class, SaInfo,
    relay::mapped,
    ue::{Words, words6},
};

use crate::buffer::{be16, be32, octets, peek, read};

pub(crate) const ETH_P_IP: u16 = 0x0800;
pub(crate) const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

pub(crate) const IPPROTO_HOPOPTS: u8 = 0;
pub(crate) const IPPROTO_UDP: u8 = 17;
pub(crate) const IPPROTO_ROUTING: u8 = 43;
pub(crate) const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_ESP: u8 = 50;
pub(crate) const IPPROTO_DSTOPTS: u8 = 60;
const IPPROTO_MOBILITY: u8 = 135;

pub(crate) const PORT_IKE: u16 = 500;
pub(crate) const PORT_NAT_T: u16 = 4500;

/// VLAN tags within the packet; the outermost one is usually outside of it already.
const MAX_TAGS: u32 = 2;
/// IPv6 extension headers looked through. A packet with more counts as `other`.
const MAX_EXTENSIONS: u32 = 8;

/// What a packet is, before the SA table is asked.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Known without it.
    Class(Class),
    /// ESP, in UDP or not.
    Esp {
        /// SPI in host order.
        spi: u32,
    },
}

/// What is counted of a packet.
pub(crate) struct Packet {
    pub(crate) kind: Kind,
    /// Packets on the wire: the segments of a GSO super-packet, else 1.
    pub(crate) packets: u64,
    /// Octets of IP packets on the wire.
    pub(crate) bytes: u64,
    /// Outer destination, IPv4 mapped into IPv6.
    pub(crate) destination: Words,
    /// Where the IP header starts.
    pub(crate) network: u32,
    /// Octets of IP and extension headers.
    pub(crate) headers: u32,
}

/// An IP header, as far as it matters.
struct Ip {
    /// Octets of the whole IP packet.
    total: u32,
    /// Where the transport header starts.
    transport: u32,
    protocol: u8,
    fragment: bool,
    /// The first words of the transport header, if they were read with the IP header. No option: the compiler
    /// leaves no value in the place of words that it has not, and the verifier does not let that be copied.
    first: [u32; 2],
    whole: bool,
}

impl Packet {
    /// `link_header` is the length of the header in front of `skb->protocol`'s payload.
    #[inline(always)]
    pub(crate) fn read(ctx: &TcContext, link_header: u32) -> Self {
        // SAFETY: the context is valid while the program runs; the verifier checks each access.
        let (protocol, segments, len) = unsafe {
            let skb = ctx.skb.skb;
            ((*skb).protocol, (*skb).gso_segs, (*skb).len)
        };
        let mut packet = Self {
            kind: Kind::Class(Class::NonIp),
            packets: u64::from(segments.max(1)),
            bytes: u64::from(len),
            destination: [0; 4],
            network: 0,
            headers: 0,
        };
        let mut protocol = u16::from_be(protocol as u16);
        let mut network = link_header;
        for _ in 0..MAX_TAGS {
            if protocol != ETH_P_8021Q && protocol != ETH_P_8021AD {
                break;
            }
            let Some(inner) = be16(ctx, network + 2) else {
                packet.kind = Kind::Class(Class::Malformed);
                return packet;
            };
            protocol = inner;
            network += 4;
        }
        let ip = match protocol {
            ETH_P_IP => packet.ipv4(ctx, network, len),
            ETH_P_IPV6 => packet.ipv6(ctx, network, len),
            _ => return packet,
        };
        packet.kind = match ip {
            Ok(ip) => {
                let headers = if ip.protocol == IPPROTO_UDP {
                    ip.transport - network + 8
                } else {
                    ip.transport - network
                };
                packet.network = network;
                packet.headers = ip.transport - network;
                packet.bytes = u64::from(ip.total) + (packet.packets - 1) * u64::from(headers);
                if ip.fragment {
                    Kind::Class(Class::Fragment)
                } else {
                    transport(ctx, &ip, network + ip.total).unwrap_or(Kind::Class(Class::Malformed))
                }
            }
            Err(class) => Kind::Class(class),
        };
        packet
    }

    /// Corrects the length of an ESP packet that is yet to be encrypted: the kernel has made room for
    /// the header and the IV, the trailer and the ICV will follow (RFC 4303 section 2.4).
    #[inline(always)]
    pub(crate) fn encrypted(&mut self, sa: &SaInfo) {
        let head = u64::from(self.headers) + 8 + u64::from(sa.iv_len);
        let block = u64::from(sa.block_len);
        // Only single packets: the XFRM interface makes no super-packets.
        if self.packets != 1 || self.bytes < head || (block != 4 && block != 16) {
            return;
        }
        let inner = self.bytes - head;
        let padded = (inner + 2 + block - 1) & !(block - 1);
        self.bytes = head + padded + u64::from(sa.icv_len);
    }

    /// RFC 791 section 3.1.
    #[inline(always)]
    fn ipv4(&mut self, ctx: &TcContext, network: u32, len: u32) -> Result<Ip, Class> {
        // With what comes behind nearly every header: it costs no more.
        let ([header @ .., first, second], whole): ([u32; 7], bool) =
            match peek(ctx, network).or_else(|| read(ctx, network)) {
                Some(words) => (words, true),
                None => {
                    let [a, b, c, d, e] = read(ctx, network).ok_or(Class::Malformed)?;
                    ([a, b, c, d, e, 0, 0], false)
                }
            };
        let [version, ..] = header[0].to_ne_bytes();
        let [_, protocol, ..] = header[2].to_ne_bytes();
        let ihl = u32::from(version & 0x0f) * 4;
        let total = u32::from_be(header[0]) & 0xffff;
        if total == 0 && self.packets > 1 {
            // A super-packet of more than 65535 octets; ESP and IKE are never that.
            return Err(Class::Other);
        }
        // The buffer must hold what the header promises; it may hold padding behind that.
        if version >> 4 != 4 || ihl < 20 || total < ihl || network + total > len {
            return Err(Class::Malformed);
        }
        self.destination = words6(mapped(header[4].to_ne_bytes()));
        Ok(Ip {
            total,
            transport: network + ihl,
            protocol,
            // More Fragments, or an offset.
            fragment: u32::from_be(header[1]) & 0x3fff != 0,
            first: [first, second],
            whole: whole && ihl == 20,
        })
    }

    /// RFC 8200 sections 3 and 4.
    #[inline(always)]
    fn ipv6(&mut self, ctx: &TcContext, network: u32, len: u32) -> Result<Ip, Class> {
        let header: [u8; 8] = octets(ctx, network).ok_or(Class::Malformed)?;
        let total = u32::from(u16::from_be_bytes([header[4], header[5]])) + 40;
        if total == 40 && self.packets > 1 {
            return Err(Class::Other);
        }
        if header[0] >> 4 != 6 || network + total > len {
            return Err(Class::Malformed);
        }
        self.destination = read(ctx, network + 24).ok_or(Class::Malformed)?;
        let mut ip = Ip {
            total,
            transport: network + 40,
            protocol: header[6],
            fragment: false,
            first: [0; 2],
            whole: false,
        };
        for _ in 0..MAX_EXTENSIONS {
            match ip.protocol {
                IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS | IPPROTO_MOBILITY => {
                    let [next, len] = octets(ctx, ip.transport).ok_or(Class::Malformed)?;
                    ip.protocol = next;
                    ip.transport += (u32::from(len) + 1) * 8;
                }
                IPPROTO_FRAGMENT => {
                    let [next, _, high, low] = octets(ctx, ip.transport).ok_or(Class::Malformed)?;
                    ip.protocol = next;
                    ip.transport += 8;
                    // An offset, or More Fragments; neither: an atomic fragment (RFC 6946).
                    if u16::from_be_bytes([high, low]) & 0xfff9 != 0 {
                        ip.fragment = true;
                        break;
                    }
                }
                _ => break,
            }
            if ip.transport > network + total {
                return Err(Class::Malformed);
            }
        }
        Ok(ip)
    }
}

/// `None`: the headers end too early. `end` is where the IP packet ends.
#[inline(always)]
fn transport(ctx: &TcContext, ip: &Ip, end: u32) -> Option<Kind> {
    match ip.protocol {
        IPPROTO_ESP if ip.whole && ip.transport + 8 <= end => Some(Kind::Esp {
            spi: u32::from_be(ip.first[0]),
        }),
        IPPROTO_ESP => esp(ctx, ip.transport, end),
        IPPROTO_UDP => {
            let [ports, length] = if ip.whole {
                ip.first
            } else {
                read(ctx, ip.transport)?
            };
            let ports = u32::from_be(ports);
            let (source, destination) = ((ports >> 16) as u16, ports as u16);
            let len = u32::from_be(length) >> 16;
            let udp_end = ip.transport + len;
            if len < 8 || udp_end > end {
                return None;
            }
            let payload = ip.transport + 8;
            if source == PORT_NAT_T || destination == PORT_NAT_T {
                nat_t(ctx, payload, udp_end)
            } else if source == PORT_IKE || destination == PORT_IKE {
                ike(ctx, payload, udp_end)
            } else {
                Some(Kind::Class(Class::Other))
            }
        }
        _ => Some(Kind::Class(Class::Other)),
    }
}

/// UDP 4500: keepalive, IKE behind the non-ESP marker, or ESP (RFC 3948 section 2).
#[inline(always)]
fn nat_t(ctx: &TcContext, payload: u32, end: u32) -> Option<Kind> {
    if payload + 1 == end {
        let [octet] = octets(ctx, payload)?;
        return (octet == 0xff).then_some(Kind::Class(Class::NatKeepalive));
    }
    if payload + 8 > end {
        return None;
    }
    if be32(ctx, payload)? == 0 {
        ike(ctx, payload + 4, end)
    } else {
        esp(ctx, payload, end)
    }
}

/// The IKE header (RFC 7296 section 3.1).
#[inline(always)]
fn ike(ctx: &TcContext, header: u32, end: u32) -> Option<Kind> {
    if header + 28 > end {
        return None;
    }
    let [version, exchange] = octets(ctx, header + 17)?;
    Some(Kind::Class(match (version >> 4, exchange) {
        (2, 34) => Class::IkeSaInit,
        (2, 35) => Class::IkeAuth,
        (2, 36) => Class::IkeCreateChildSa,
        (2, 37) => Class::IkeInformational,
        _ => Class::IkeOther,
    }))
}

/// SPI and sequence number (RFC 4303 section 2).
#[inline(always)]
fn esp(ctx: &TcContext, header: u32, end: u32) -> Option<Kind> {
    if header + 8 > end {
        return None;
    }
    Some(Kind::Esp {
        spi: be32(ctx, header)?,
    })
}
