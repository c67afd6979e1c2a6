//! System calls that no crate wraps: `recvmmsg(2)`, `sendmmsg(2)`, `IP_MTU_DISCOVER`.
#![allow(unsafe_code)]

use std::{
    io, mem,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use memmap2::MmapMut;

use crate::Error;

/// Datagrams per system call.
pub(super) const BATCH: usize = 32;

/// Room for one datagram: the largest an IPv4 socket can deliver.
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

/// Receives up to [`BATCH`] IPv4 datagrams per call into buffers of its own.
pub(super) struct Receiver {
    room: Room,
    lengths: Vec<usize>,
    sources: Vec<libc::sockaddr_in>,
}

impl Receiver {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            lengths: vec![0; BATCH],
            sources: vec![EMPTY_ADDRESS; BATCH],
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
                message.msg_hdr.msg_namelen = ADDRESS_LEN;
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
    pub(super) fn datagrams(&self, received: usize) -> impl Iterator<Item = (SocketAddrV4, &[u8])> {
        self.sources
            .iter()
            .zip(self.room.buffers())
            .zip(&self.lengths)
            .take(received)
            .map(|((source, buffer), length)| {
                let address = Ipv4Addr::from(u32::from_be(source.sin_addr.s_addr));
                let from = SocketAddrV4::new(address, u16::from_be(source.sin_port));
                (from, buffer.get(..*length).unwrap_or_default())
            })
    }
}

/// A datagram to send: header and payload are gathered, not copied together.
pub(super) struct Outgoing<'a> {
    pub(super) to: SocketAddrV4,
    pub(super) header: [u8; 16],
    pub(super) header_len: usize,
    pub(super) payload: &'a [u8],
}

/// Sends all of `datagrams` in order; returns how many the kernel refused.
///
/// A full socket buffer is waited for; any other refusal costs that datagram alone.
pub(super) fn send(socket: BorrowedFd<'_>, datagrams: &[Outgoing<'_>]) -> u64 {
    let mut addresses: Vec<libc::sockaddr_in> = datagrams
        .iter()
        .map(|datagram| address(datagram.to))
        .collect();
    let mut vectors: Vec<[libc::iovec; 2]> = datagrams
        .iter()
        .map(|datagram| {
            let header = datagram.header.get(..datagram.header_len).unwrap_or(&[]);
            [vector(header), vector(datagram.payload)]
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = addresses
        .iter_mut()
        .zip(&mut vectors)
        .map(|(address, vectors)| {
            let mut message = empty_message();
            message.msg_hdr.msg_name = ptr::from_mut(address).cast();
            message.msg_hdr.msg_namelen = ADDRESS_LEN;
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

const EMPTY_ADDRESS: libc::sockaddr_in = libc::sockaddr_in {
    sin_family: 0,
    sin_port: 0,
    sin_addr: libc::in_addr { s_addr: 0 },
    sin_zero: [0; 8],
};

// The size of a sockaddr_in is 16.
#[expect(clippy::cast_possible_truncation)]
const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;

fn address(to: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        // AF_INET is 2.
        #[expect(clippy::cast_possible_truncation)]
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*to.ip()).to_be(),
        },
        sin_zero: [0; 8],
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
