//! Which socket of a group a datagram goes to: classic BPF on a `SO_REUSEPORT` group.
#![allow(
    unsafe_code,
    reason = "the socket option has no safe wrapper in any crate in use"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// An instruction of classic BPF (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub then: u8,
    /// Instructions to skip when it does not.
    pub otherwise: u8,
    /// Operand.
    pub k: u32,
}

/// Lets `program`, which sees the payload, choose among the sockets of the group by the order in which they were
/// bound. A program that reads beyond the end chooses the first.
///
/// # Errors
/// When the program is too long or the kernel refuses it.
pub fn steer(group: &impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let mut filters: Vec<libc::sock_filter> = program
        .iter()
        .map(|one| libc::sock_filter {
            code: one.code,
            jt: one.then,
            jf: one.otherwise,
            k: one.k,
        })
        .collect();
    let length = u16::try_from(filters.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let value = libc::sock_fprog {
        len: length,
        filter: filters.as_mut_ptr(),
    };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>())
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the file descriptor is open for the call; the value is a sock_fprog as its length says, and its
    // pointer covers `len` instructions that live until the call returns. The kernel copies them.
    let ret = unsafe {
        libc::setsockopt(
            group.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const value).cast(),
            size,
        )
    };
    match ret {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
