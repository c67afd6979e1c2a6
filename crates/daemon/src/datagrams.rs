//! UDP sockets of a daemon that sleeps until there is something to read.
//!
//! `tokio`'s own socket also asks when it can be written, and so its thread is woken once more for every datagram that
//! leaves the send buffer: while the peer works on that datagram, and often on the processor that it needs. Here only
//! reading is asked for. What the kernel cannot take at once is not sent, which is what UDP does with it anyway.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// A UDP socket.
#[derive(Debug)]
pub struct Datagrams(AsyncFd<UdpSocket>);

impl Datagrams {
    /// Takes a bound socket over, which does not block from now on.
    ///
    /// # Errors
    /// When the kernel refuses. Panics outside a runtime with I/O, as all of `tokio`'s sockets do.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(register(socket)?))
    }

    /// Waits until there may be something to read. Cancel-safe.
    ///
    /// # Errors
    /// When the runtime ends.
    pub async fn readable(&self) -> io::Result<()> {
        // `try_recv_from` sees whether there is.
        self.0.readable().await?.retain_ready();
        Ok(())
    }

    /// The next datagram: its octets in `buffer`, and where it is from.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; or an ICMP error about an earlier one.
    pub fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0
            .try_io(Interest::READABLE, |socket| socket.recv_from(buffer))
    }

    /// Waits for the next datagram. Cancel-safe.
    ///
    /// # Errors
    /// An ICMP error about an earlier one, or when the runtime ends.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0
            .async_io(Interest::READABLE, |socket| socket.recv_from(buffer))
            .await
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// `WouldBlock` when the kernel has no room for it; or what keeps it from going out.
    pub fn try_send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.0.get_ref().send_to(data, to)
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().local_addr()
    }
}

/// Registers a socket with the runtime of the calling task.
#[expect(
    unsafe_code,
    reason = "the registration of what must not give up its descriptor"
)]
fn register(socket: UdpSocket) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: a `UdpSocket` owns one descriptor, gives the same one at each call and closes it only when it is dropped,
    // which `AsyncFd` does after it has taken the registration back.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn socket() -> Datagrams {
        Datagrams::new(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_is_sent_is_read_and_nothing_else() {
        let (one, other) = (socket(), socket());
        let (from, to) = (one.local_addr().unwrap(), other.local_addr().unwrap());
        let mut buffer = [0; 64];
        let empty = other.try_recv_from(&mut buffer).unwrap_err();
        assert_eq!(empty.kind(), ErrorKind::WouldBlock);
        for text in [b"first", b"other"] {
            assert_eq!(one.try_send_to(text, to).unwrap(), 5);
        }
        assert_eq!(other.recv_from(&mut buffer).await.unwrap(), (5, from));
        assert_eq!(&buffer[..5], b"first");
        other.readable().await.unwrap();
        assert_eq!(other.try_recv_from(&mut buffer).unwrap(), (5, from));
        assert_eq!(&buffer[..5], b"other");
        let empty = other.try_recv_from(&mut buffer).unwrap_err();
        assert_eq!(empty.kind(), ErrorKind::WouldBlock);
        // The readiness of before is used up: the next datagram is waited for.
        let (read, sent) = tokio::join!(other.recv_from(&mut buffer), async {
            tokio::task::yield_now().await;
            one.try_send_to(b"later", to)
        });
        assert_eq!((read.unwrap(), sent.unwrap()), ((5, from), 5));
    }

    #[tokio::test]
    async fn a_datagram_too_long_for_udp_is_an_error() {
        let one = socket();
        let to = one.local_addr().unwrap();
        assert!(one.try_send_to(&vec![0; 70_000], to).is_err());
    }
}
