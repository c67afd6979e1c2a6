//! The system calls that no safe wrapper has for SCTP, and the registration of
//! a socket with the runtime.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Plain data that the kernel may read from or write over.
///
/// # Safety
/// Every bit pattern is a value of the type, and it holds no pointer.
pub(crate) unsafe trait OptionValue {}

// SAFETY: integers only.
unsafe impl OptionValue for libc::sctp_initmsg {}
// SAFETY: an integer.
unsafe impl OptionValue for libc::c_int {}

/// Sets a socket option.
pub(crate) fn set_option<T: OptionValue>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while it is borrowed, and `value` is
    // readable for `len` octets during the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets a socket option that is a structure, given as its octets.
pub(crate) fn set_octets(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while it is borrowed, and `value` is
    // readable for `len` octets during the call.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads a socket option as octets: how many the kernel wrote.
pub(crate) fn get_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut [u8],
) -> io::Result<usize> {
    let mut len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while it is borrowed, and `value` is
    // writable for `len` octets during the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(usize::try_from(len).map_err(io::Error::other)?)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What one `recvmsg` gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    /// Octets written to the buffer.
    pub(crate) len: usize,
    /// Octets written to the control buffer.
    pub(crate) control_len: usize,
    /// `MSG_EOR`, `MSG_TRUNC`, …
    pub(crate) flags: libc::c_int,
}

/// Receives one message, or a piece of one, with its control messages.
pub(crate) fn recv_message(
    fd: BorrowedFd<'_>,
    data: &mut [u8],
    control: &mut [u8],
) -> io::Result<Piece> {
    let mut iov = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    // SAFETY: `msghdr` is plain data, and all zeroes is an empty one.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len();
    // SAFETY: the descriptor is open while it is borrowed; `header` points at
    // `iov`, `data` and `control`, which outlive the call and are writable for
    // the lengths it gives.
    let received =
        unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    match usize::try_from(received) {
        Ok(len) => Ok(Piece {
            len: len.min(data.len()),
            control_len: header.msg_controllen.min(control.len()),
            flags: header.msg_flags,
        }),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Registers a socket with the runtime of the calling task.
pub(crate) fn register(socket: Socket, interest: Interest) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns one descriptor, gives the same one at each call
    // and closes it only when it is dropped, which `AsyncFd` does after it has
    // taken the registration back.
    unsafe { AsyncFd::register_with_interest(socket, interest) }.map_err(io::Error::from)
}
