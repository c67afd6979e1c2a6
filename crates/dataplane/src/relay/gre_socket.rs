//! Raw IPv4 sockets for GRE, and the means to end the thread that waits on one.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{
            setsockopt,
            sockopt::{RcvBufForce, SndBufForce},
        },
    },
};
use socket2::{Domain, Protocol, Socket, Type};

use super::mmsg;
use crate::Error;

const GRE: i32 = 47;

/// Receive buffer asked for; the kernel may give less.
const BUFFER: usize = 4 << 20;

/// Tells threads that they are to end.
#[derive(Clone)]
pub(super) struct Stop(Arc<EventFd>);

impl Stop {
    pub(super) fn new() -> Result<Self, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_flags(flags)
            .map_err(|error| Error::io("making an event descriptor", error.into()))?;
        Ok(Self(Arc::new(event)))
    }

    pub(super) fn set(&self) {
        // It fails only when the counter is full, that is, when it is set already.
        let _ = self.0.write(1);
    }

    /// Waits until `fd` is readable; `false` when it is time to end.
    pub(super) fn wait(&self, fd: BorrowedFd<'_>) -> bool {
        loop {
            let mut fds = [
                PollFd::new(fd, PollFlags::POLLIN),
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return false,
            }
            let [data, stop] = fds;
            if stop.any().unwrap_or(true) {
                return false;
            }
            // POLLERR counts as readable: the read then takes the pending error off the socket.
            if data.any().unwrap_or(true) {
                return true;
            }
        }
    }
}

/// A raw socket that takes GRE to `local` that came in through `interface`, and sends from there.
pub(super) fn open(local: Ipv4Addr, interface: Option<&str>) -> Result<Socket, Error> {
    let place = || match interface {
        Some(interface) => format!("opening a GRE socket on {interface}"),
        None => "opening a GRE socket".to_owned(),
    };
    let make = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(GRE)))?;
        if let Some(interface) = interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        socket.bind(&SocketAddrV4::new(local, 0).into())?;
        socket.set_nonblocking(false)?;
        grow(&socket);
        // PDUs above the tunnel's room go in fragments of the inner packet, never of ESP.
        mmsg::allow_fragmentation(socket.as_fd())?;
        Ok(socket)
    };
    make().map_err(|error| Error::io(place(), error))
}

/// Large buffers absorb bursts, such as a whole window of a TCP connection; less than asked for is no error.
///
/// CAP_NET_ADMIN gives what is asked for. Without it the kernel stops at `net.core.rmem_max`, by default less than
/// such a window takes.
pub(super) fn grow(socket: &Socket) {
    if setsockopt(socket, RcvBufForce, &BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(BUFFER);
    }
    if setsockopt(socket, SndBufForce, &BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(BUFFER);
    }
}

#[cfg(test)]
mod tests {
    use caps::{CapSet, Capability};

    use super::*;

    #[test]
    fn the_buffer_is_as_large_as_asked_for_or_as_the_kernel_allows() {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        grow(&socket);
        let most = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
        let most: usize = most.trim().parse().unwrap();
        let admin = caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap();
        let least = if admin { BUFFER } else { BUFFER.min(most) };
        // The kernel counts its own bookkeeping in, and doubles.
        assert_eq!(socket.recv_buffer_size().unwrap(), 2 * least);
    }
}
