//! A sender that is faster than what it measures.
#![allow(unsafe_code)]

use std::{
    cell::{Cell, RefCell},
    os::fd::AsRawFd,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// Sends frames in turn, over and over, from a packet socket, past the queueing discipline.
pub(crate) struct Sender {
    socket: std::os::fd::OwnedFd,
    /// What `messages` point to, in places that do not move.
    _frames: Vec<Vec<u8>>,
    _parts: Box<[libc::iovec]>,
    _address: Box<libc::sockaddr_ll>,
    messages: RefCell<Vec<libc::mmsghdr>>,
    next: Cell<usize>,
    batch: usize,
}

// SAFETY: the pointers are to what the sender owns.
unsafe impl Send for Sender {}

impl Sender {
    /// `batch`: frames per system call.
    pub(crate) fn new(device: &str, frames: Vec<Vec<u8>>, batch: usize) -> Self {
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
        let mut address: Box<libc::sockaddr_ll> = Box::new(unsafe { std::mem::zeroed() });
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = nix::net::if_::if_nametoindex(device).unwrap() as i32;
        address.sll_halen = 6;
        let mut parts: Box<[libc::iovec]> = frames
            .iter()
            .map(|frame| libc::iovec {
                iov_base: frame.as_ptr().cast_mut().cast(),
                iov_len: frame.len(),
            })
            .collect();
        let first = parts.as_mut_ptr();
        // A round of all frames, and as much more as a batch may begin before its end.
        let messages = (0..frames.len() + batch)
            .map(|n| {
                // SAFETY: mmsghdr is a plain structure, valid when zeroed.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_name = (&raw mut *address).cast();
                message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                // SAFETY: within the parts.
                message.msg_hdr.msg_iov = unsafe { first.add(n % frames.len()) };
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        Self {
            socket,
            _frames: frames,
            _parts: parts,
            _address: address,
            messages: RefCell::new(messages),
            next: Cell::new(0),
            batch,
        }
    }

    /// How many frames went out.
    pub(crate) fn send(&self) -> u64 {
        let mut messages = self.messages.borrow_mut();
        let round = messages.len() - self.batch;
        let from = self.next.get();
        self.next.set((from + self.batch) % round);
        let batch = &mut messages[from..from + self.batch];
        // SAFETY: every message points to the address and a frame, which live as long as the sender;
        // the kernel writes only the lengths of the messages.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                batch.as_mut_ptr(),
                self.batch as u32,
                0,
            )
        };
        u64::try_from(sent).unwrap_or(0)
    }
}
