//! Ethernet frames written octet by octet, and a packet socket to send them.

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket};

/// A frame under construction.
#[derive(Clone)]
pub(crate) struct Frame {
    ethertype: u16,
    tags: Vec<u16>,
    packet: Vec<u8>,
}

impl Frame {
    pub(crate) fn raw(ethertype: u16, packet: &[u8]) -> Self {
        Self {
            ethertype,
            tags: Vec::new(),
            packet: packet.to_vec(),
        }
    }

    /// IPv4 from 192.0.2.10 to 192.0.2.1.
    pub(crate) fn v4(protocol: u8, payload: &[u8]) -> Self {
        Self::v4_header(protocol, &[], payload)
    }

    /// The same with four octets of options.
    pub(crate) fn v4_options(protocol: u8, payload: &[u8]) -> Self {
        Self::v4_header(protocol, &[1, 1, 1, 0], payload)
    }

    fn v4_header(protocol: u8, options: &[u8], payload: &[u8]) -> Self {
        let header = 20 + options.len();
        let mut packet = vec![0x40 | (header / 4) as u8, 0];
        packet.extend(((header + payload.len()) as u16).to_be_bytes());
        packet.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
        packet.extend([192, 0, 2, 10, 192, 0, 2, 1]);
        packet.extend(options);
        packet.extend(payload);
        Self::raw(0x0800, &packet)
    }

    /// IPv6 from 2001:db8::10 to 2001:db8::1.
    pub(crate) fn v6(next: u8, payload: &[u8]) -> Self {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((payload.len() as u16).to_be_bytes());
        packet.extend([next, 64]);
        packet.extend(
            "2001:db8::10"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets(),
        );
        packet.extend(
            "2001:db8::1"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets(),
        );
        packet.extend(payload);
        Self::raw(0x86dd, &packet)
    }

    /// Turns an IPv4 packet around.
    pub(crate) fn towards_ue(mut self) -> Self {
        self.packet[15] = 1;
        self.packet[19] = 10;
        self
    }

    /// Puts a VLAN tag around.
    pub(crate) fn vlan(mut self, id: u16) -> Self {
        self.tags.insert(0, id);
        self
    }

    /// IPv4 fragment offset, in units of eight octets, and More Fragments.
    pub(crate) fn fragment(mut self, offset: u16, more: bool) -> Self {
        let field = offset | if more { 0x2000 } else { 0 };
        self.packet[6..8].copy_from_slice(&field.to_be_bytes());
        self
    }

    /// Overwrites one octet of the IP packet.
    pub(crate) fn patch(mut self, at: usize, octet: u8) -> Self {
        self.packet[at] = octet;
        self
    }

    /// What the programs should count: the IP packet, or the frame when they cannot tell.
    pub(crate) fn counted(&self) -> u64 {
        let frame = self.octets().len();
        let said = match self.ethertype {
            0x0800 if self.packet.len() >= 20 => {
                usize::from(u16::from_be_bytes([self.packet[2], self.packet[3]]))
            }
            0x86dd => 40 + usize::from(u16::from_be_bytes([self.packet[4], self.packet[5]])),
            _ => return frame as u64,
        };
        let sound = self.packet[0] >> 4 == if self.ethertype == 0x0800 { 4 } else { 6 }
            && (self.ethertype != 0x0800 || self.packet[0] & 15 >= 5)
            && said <= self.packet.len()
            // Extension headers that run past the packet.
            && !(self.packet[6] == 60 && self.ethertype == 0x86dd && self.packet[41] == 200);
        if sound { said as u64 } else { frame as u64 }
    }

    pub(crate) fn octets(&self) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 1]);
        for tag in &self.tags {
            frame.extend(0x8100u16.to_be_bytes());
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(self.ethertype.to_be_bytes());
        frame.extend(&self.packet);
        frame
    }
}

/// SPI, sequence number and `len` octets.
pub(crate) fn esp(spi: u32, len: usize) -> Vec<u8> {
    let mut packet = spi.to_be_bytes().to_vec();
    packet.extend([0, 0, 0, 1]);
    packet.resize(8 + len, 0xee);
    packet
}

pub(crate) fn udp((source, destination): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = source.to_be_bytes().to_vec();
    packet.extend(destination.to_be_bytes());
    packet.extend(((8 + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// An IKE header and four octets more.
pub(crate) fn ike(major: u8, exchange: u8) -> Vec<u8> {
    let mut packet = vec![0x5a; 16];
    packet.extend([33, major << 4, exchange, 8]);
    packet.extend([0, 0, 0, 0, 0, 0, 0, 32]);
    packet.extend([0; 4]);
    packet
}

/// A packet socket on one interface.
pub(crate) struct Sender {
    socket: std::os::fd::OwnedFd,
    interface: i32,
}

impl Sender {
    pub(crate) fn new(interface: &str) -> Self {
        Self {
            socket: socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::empty(),
                SockProtocol::EthAll,
            )
            .unwrap(),
            interface: nix::net::if_::if_nametoindex(interface).unwrap() as i32,
        }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        let address = link_address(self.interface);
        let sent = sendto(self.socket.as_raw_fd(), frame, &address, MsgFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
    }
}

/// Where a packet socket sends to.
#[allow(unsafe_code)]
fn link_address(interface: i32) -> nix::sys::socket::LinkAddr {
    use nix::sys::socket::SockaddrLike;
    // SAFETY: sockaddr_ll is a plain structure, valid when zeroed.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = interface;
    address.sll_halen = 6;
    // SAFETY: points to a sockaddr_ll of the length given.
    unsafe {
        nix::sys::socket::LinkAddr::from_raw(
            (&raw const address).cast(),
            Some(size_of::<libc::sockaddr_ll>() as u32),
        )
    }
    .unwrap()
}
