//! System calls that no crate wraps: `recvmmsg(2)`, `sendmmsg(2)` with `IP_TOS`, `IP_MTU_DISCOVER`.
#![allow(unsafe_code)]

use std::{
    io, mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use memmap2::MmapMut;

use crate::Error;

/// Datagrams per system call.
pub(super) const BATCH: usize = 32;

/// Room for one datagram: the largest a socket can deliver, but for jumbograms.
const ROOM: usize = 65_536;

/// Room for [`BATCH`] packets. Pages that no packet ever filled are never made, nor wiped by a
/// daemon's allocator when the relay ends: users' packets are not its keys.
pub(super) struct Room(MmapMut);

impl Room {
    pub(super) fn new() -> Result<Self, Error> {
        MmapMut::map_anon(BATCH * ROOM)
            .map(Self)
            .map_err(|error| Error::io("room for packets", error))
    }

    pub(super) fn buffers(&self) -> impl Iterator<Item = &[u8]> {
        self.0.chunks_exact(ROOM)
    }

    pub(super) fn buffers_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.0.chunks_exact_mut(ROOM)
    }
}

/// Receives up to [`BATCH`] datagrams per call into buffers of its own.
pub(super) struct Receiver {
    room: Room,
    lengths: Vec<usize>,
    sources: Vec<Name>,
}

impl Receiver {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            lengths: vec![0; BATCH],
            sources: vec![Name::EMPTY; BATCH],
        }
    }

    /// Waits for nothing: returns how many datagrams were there.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut vectors: Vec<libc::iovec> = self
            .room
            .buffers_mut()
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .zip(&mut self.sources)
            .map(|(vector, source)| {
                let mut message = empty_message();
                message.msg_hdr.msg_name = ptr::from_mut(source).cast();
                message.msg_hdr.msg_namelen = Name::ROOM;
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        // BATCH is far below u32::MAX.
        #[expect(clippy::cast_possible_truncation)]
        let count = messages.len() as u32;
        // SAFETY: every pointer in `messages` refers to a live, exclusively borrowed buffer of
        // `self` with the stated length, and the kernel writes to at most `count` of them.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (length, message) in self.lengths.iter_mut().zip(&messages).take(received) {
            *length = message.msg_len.try_into().unwrap_or(0);
        }
        Ok(received)
    }

    /// The datagrams of the last call that returned `received`.
    pub(super) fn datagrams(&self, received: usize) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.sources
            .iter()
            .zip(self.room.buffers())
            .zip(&self.lengths)
            .take(received)
            .map(|((source, buffer), length)| {
                (source.address(), buffer.get(..*length).unwrap_or_default())
            })
    }
}

/// A datagram to send: header and payload are gathered, not copied together.
pub(super) struct Outgoing<'a> {
    pub(super) to: SocketAddr,
    /// Of the IP header, 6 bits.
    pub(super) dscp: u8,
    pub(super) header: [u8; 16],
    pub(super) header_len: usize,
    pub(super) payload: &'a [u8],
}

/// Sends all of `datagrams` in order; returns how many the kernel refused.
///
/// A full socket buffer is waited for; any other refusal costs that datagram alone.
pub(super) fn send(socket: BorrowedFd<'_>, datagrams: &[Outgoing<'_>]) -> u64 {
    let mut names: Vec<Name> = datagrams
        .iter()
        .map(|datagram| Name::from(datagram.to))
        .collect();
    let mut vectors: Vec<[libc::iovec; 2]> = datagrams
        .iter()
        .map(|datagram| {
            let header = datagram.header.get(..datagram.header_len).unwrap_or(&[]);
            [vector(header), vector(datagram.payload)]
        })
        .collect();
    let mut classes: Vec<Class> = datagrams
        .iter()
        .map(|datagram| Class::of(datagram.to, datagram.dscp))
        .collect();
    let mut messages: Vec<libc::mmsghdr> = names
        .iter_mut()
        .zip(&mut vectors)
        .zip(&mut classes)
        .map(|((name, vectors), class)| {
            let mut message = empty_message();
            if class.value != 0 {
                message.msg_hdr.msg_control = ptr::from_mut(class).cast();
                message.msg_hdr.msg_controllen = size_of::<Class>();
            }
            message.msg_hdr.msg_namelen = name.len();
            message.msg_hdr.msg_name = ptr::from_mut(name).cast();
            message.msg_hdr.msg_iov = vectors.as_mut_ptr();
            message.msg_hdr.msg_iovlen = vectors.len();
            message
        })
        .collect();
    let mut rest = messages.as_mut_slice();
    let mut refused = 0;
    while !rest.is_empty() {
        let count = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        // SAFETY: every pointer in `rest` refers to a live address or octets borrowed by
        // `datagrams`; the kernel reads them and writes only `msg_len`.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), count, 0) };
        let done = match usize::try_from(sent) {
            Ok(sent) => sent.max(1),
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => 0,
            Err(_) => {
                refused += 1;
                1
            }
        };
        rest = rest
            .split_at_mut_checked(done)
            .map_or(&mut [], |(_, tail)| tail);
    }
    refused
}

/// Lets the kernel fragment what this socket sends instead of refusing it.
pub(super) fn allow_fragmentation(socket: BorrowedFd<'_>) -> io::Result<()> {
    let value = libc::IP_PMTUDISC_DONT;
    // The size of an int is 4.
    #[expect(clippy::cast_possible_truncation)]
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value is a live int and `len` its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            ptr::from_ref(&value).cast(),
            len,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An address as the kernel has it. A `sockaddr_in` lies in the first 16 octets of this one: family
/// and port at the same places, its address where the flow label is.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Name(libc::sockaddr_in6);

// AF_INET is 2, AF_INET6 10; the sizes are 16 and 28.
#[expect(clippy::cast_possible_truncation)]
impl Name {
    const V4: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
    const V6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;
    const V4_LEN: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    const ROOM: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;

    const EMPTY: Self = Self(libc::sockaddr_in6 {
        sin6_family: 0,
        sin6_port: 0,
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
        sin6_scope_id: 0,
    });

    const fn len(&self) -> libc::socklen_t {
        match self.0.sin6_family {
            Self::V6 => Self::ROOM,
            _ => Self::V4_LEN,
        }
    }

    /// Only meaningful after the kernel has filled it.
    fn address(&self) -> SocketAddr {
        let port = u16::from_be(self.0.sin6_port);
        match self.0.sin6_family {
            Self::V6 => {
                let address = Ipv6Addr::from(self.0.sin6_addr.s6_addr);
                SocketAddrV6::new(address, port, 0, self.0.sin6_scope_id).into()
            }
            _ => (Ipv4Addr::from(u32::from_be(self.0.sin6_flowinfo)), port).into(),
        }
    }
}

impl From<SocketAddr> for Name {
    fn from(to: SocketAddr) -> Self {
        let mut name = Self::EMPTY.0;
        name.sin6_port = to.port().to_be();
        match to {
            SocketAddr::V4(to) => {
                name.sin6_family = Self::V4;
                name.sin6_flowinfo = u32::from(*to.ip()).to_be();
            }
            SocketAddr::V6(to) => {
                name.sin6_family = Self::V6;
                name.sin6_addr.s6_addr = to.ip().octets();
                name.sin6_scope_id = to.scope_id();
            }
        }
        Self(name)
    }
}

/// A control message with the traffic class of one datagram.
#[repr(C, align(8))]
struct Class {
    header: libc::cmsghdr,
    value: libc::c_int,
}

impl Class {
    fn of(to: SocketAddr, dscp: u8) -> Self {
        let (level, kind) = match to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        Self {
            header: libc::cmsghdr {
                // What `CMSG_LEN` makes of an int: padding does not count.
                cmsg_len: size_of::<libc::cmsghdr>() + size_of::<libc::c_int>(),
                cmsg_level: level,
                cmsg_type: kind,
            },
            value: libc::c_int::from(dscp & 0x3f) << 2,
        }
    }
}

fn vector(octets: &[u8]) -> libc::iovec {
    libc::iovec {
        // sendmmsg only reads; the field is mutable because recvmmsg shares the type.
        iov_base: octets.as_ptr().cast_mut().cast(),
        iov_len: octets.len(),
    }
}

fn empty_message() -> libc::mmsghdr {
    // SAFETY: all-zero is a valid mmsghdr: null pointers with zero lengths.
    unsafe { mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use std::{mem::offset_of, net::UdpSocket, os::fd::AsFd};

    use socket2::SockRef;

    use super::*;

    /// What a socket that asks for traffic classes gets with a datagram.
    fn class_received(socket: &UdpSocket) -> Option<u8> {
        use nix::sys::socket::{ControlMessageOwned as Got, MsgFlags, recvmsg};
        let mut octets = [0; 16];
        let mut vectors = [io::IoSliceMut::new(&mut octets)];
        let mut room = nix::cmsg_space!(libc::c_int);
        let fd = socket.as_raw_fd();
        let got = recvmsg::<()>(fd, &mut vectors, Some(&mut room), MsgFlags::empty()).unwrap();
        got.cmsgs().unwrap().find_map(|message| match message {
            Got::Ipv4Tos(class) => Some(class),
            Got::Ipv6TClass(class) => u8::try_from(class).ok(),
            _ => None,
        })
    }

    #[test]
    fn each_datagram_has_its_own_dscp() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let to = UdpSocket::bind(address).unwrap();
            let socket = SockRef::from(&to);
            match to.local_addr().unwrap() {
                SocketAddr::V4(_) => socket.set_recv_tos_v4(true).unwrap(),
                SocketAddr::V6(_) => socket.set_recv_tclass_v6(true).unwrap(),
            }
            let from = UdpSocket::bind(address).unwrap();
            let out = [46, 0, 63].map(|dscp| Outgoing {
                to: to.local_addr().unwrap(),
                dscp,
                header: [0; 16],
                header_len: 0,
                payload: b"a",
            });
            assert_eq!(send(from.as_fd(), &out), 0);
            let classes = [(); 3].map(|()| class_received(&to));
            assert_eq!(classes, [46 << 2, 0, 63 << 2].map(Some), "{address}");
        }
    }

    #[test]
    fn an_address_of_either_family_comes_back() {
        for (text, len) in [
            ("192.0.2.1:2152", 16),
            ("[2001:db8::1]:2152", 28),
            ("[fe80::1%3]:9", 28),
        ] {
            let address: SocketAddr = text.parse().unwrap();
            let name = Name::from(address);
            assert_eq!((name.address(), name.len()), (address, len));
        }
    }

    #[test]
    fn the_address_of_ipv4_has_the_place_of_the_flow_label() {
        use libc::{sockaddr_in, sockaddr_in6};
        assert_eq!(
            offset_of!(sockaddr_in, sin_addr),
            offset_of!(sockaddr_in6, sin6_flowinfo)
        );
        assert_eq!(
            offset_of!(sockaddr_in, sin_port),
            offset_of!(sockaddr_in6, sin6_port)
        );
    }
}
