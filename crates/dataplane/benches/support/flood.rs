//! A sender that is faster than what it measures.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// Sends one frame over and over from a packet socket, past the queueing discipline.
pub(crate) struct Sender {
    socket: std::os::fd::OwnedFd,
    frame: Vec<u8>,
    address: libc::sockaddr_ll,
    batch: usize,
}

impl Sender {
    pub(crate) fn new(device: &str, frame: &[u8], batch: usize) -> Self {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::empty(),
            SockProtocol::EthAll,
        )
        .unwrap();
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open; the value is an int, as its length says.
        let ret = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        assert_eq!(ret, 0);
        // SAFETY: sockaddr_ll is a plain structure, valid when zeroed.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = nix::net::if_::if_nametoindex(device).unwrap() as i32;
        address.sll_halen = 6;
        Self {
            socket,
            frame: frame.to_vec(),
            address,
            batch,
        }
    }

    /// How many frames went out.
    pub(crate) fn send(&self) -> u64 {
        let mut part = libc::iovec {
            iov_base: self.frame.as_ptr().cast_mut().cast(),
            iov_len: self.frame.len(),
        };
        // SAFETY: mmsghdr is a plain structure, valid when zeroed.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_name = (&raw const self.address).cast_mut().cast();
        message.msg_hdr.msg_namelen = size_of_val(&self.address) as libc::socklen_t;
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
        let mut messages = vec![message; self.batch];
        // SAFETY: every message points to the address and the frame, which live until the call
        // returns; the kernel writes only the lengths of the messages.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                self.batch as u32,
                0,
            )
        };
        u64::try_from(sent).unwrap_or(0)
    }
}
