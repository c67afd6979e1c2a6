use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::socket::{self, Kind, Progress, Reassembly};
use crate::{Address, Error, MAX_MESSAGE, Options, Received, sctp, sys};

/// One NGAP association.
///
/// Dropping it, or both its halves, closes it in order (SCTP SHUTDOWN).
#[derive(Debug)]
pub struct Association {
    send: SendHalf,
    recv: RecvHalf,
}

/// The sending side. Clones send on the same association.
#[derive(Debug, Clone)]
pub struct SendHalf {
    inner: Arc<Inner>,
}

/// The receiving side.
#[derive(Debug)]
pub struct RecvHalf {
    inner: Arc<Inner>,
    reassembly: Reassembly,
}

#[derive(Debug)]
struct Inner {
    socket: AsyncFd<Socket>,
    kind: Kind,
    streams: u16,
    peer: String,
    aborted: AtomicBool,
    abort: Notify,
}

impl Association {
    /// Connects to the peer at `address`.
    ///
    /// # Errors
    /// [`Error::NoSctp`] on a kernel without SCTP, [`Error::Timeout`], or
    /// [`Error::Io`] when the peer refuses or is unreachable.
    pub async fn connect(address: &Address, options: &Options) -> Result<Self, Error> {
        let connecting = Self::connect_now(address, options);
        match tokio::time::timeout(options.connect_timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout {
                address: address.clone(),
                timeout: options.connect_timeout,
            }),
        }
    }

    async fn connect_now(address: &Address, options: &Options) -> Result<Self, Error> {
        let (socket, target, kind) = match address {
            Address::Sctp(peer) => {
                let socket = sctp::socket(*peer, options)?;
                if let Some(local) = options.local {
                    socket
                        .bind(&SocketAddr::new(local, 0).into())
                        .map_err(Error::io("bind the local SCTP address"))?;
                }
                (socket, SockAddr::from(*peer), Kind::Sctp)
            }
            Address::Unix(path) => {
                let socket = unix_socket()?;
                let target = SockAddr::unix(path).map_err(Error::io("Unix socket path"))?;
                (socket, target, Kind::Unix)
            }
        };
        match socket.connect(&target) {
            Ok(()) => {}
            Err(error)
                if error.raw_os_error() == Some(libc::EINPROGRESS)
                    || error.kind() == io::ErrorKind::WouldBlock =>
            {
                // The socket turns writable when the handshake ends either way.
                let waiting = sys::register(socket, Interest::WRITABLE)
                    .map_err(Error::io("register the socket"))?;
                let guard = waiting.writable().await.map_err(Error::io("connect"))?;
                drop(guard);
                let socket = waiting.into_inner();
                if let Some(error) = socket.take_error().map_err(Error::io("connect"))? {
                    return Err(Error::io("connect")(error));
                }
                return Self::new(socket, kind, address.to_string());
            }
            Err(error) => return Err(Error::io("connect")(error)),
        }
        Self::new(socket, kind, address.to_string())
    }

    /// Takes over a connected, non-blocking socket.
    pub(crate) fn new(socket: Socket, kind: Kind, peer: String) -> Result<Self, Error> {
        let streams = match kind {
            Kind::Sctp => sctp::outbound_streams(&socket).map_err(Error::io("SCTP_STATUS"))?,
            Kind::Unix => u16::MAX,
        };
        let inner = Arc::new(Inner {
            // Whoever asks when it can be written is woken after every message that the peer takes.
            socket: sys::register(socket, Interest::READABLE)
                .map_err(Error::io("register the socket"))?,
            kind,
            streams,
            peer,
            aborted: AtomicBool::new(false),
            abort: Notify::new(),
        });
        Ok(Self {
            send: SendHalf {
                inner: Arc::clone(&inner),
            },
            recv: RecvHalf {
                inner,
                reassembly: Reassembly::new(),
            },
        })
    }

    /// Sends one message, see [`SendHalf::send`].
    ///
    /// # Errors
    /// As [`SendHalf::send`].
    pub async fn send(&self, stream: u16, data: &[u8]) -> Result<(), Error> {
        self.send.send(stream, data).await
    }

    /// Receives the next message, see [`RecvHalf::recv`].
    ///
    /// # Errors
    /// As [`RecvHalf::recv`].
    pub async fn recv(&mut self) -> Result<Option<Received>, Error> {
        self.recv.recv().await
    }

    /// The two directions, for two tasks.
    #[must_use]
    pub fn into_split(self) -> (SendHalf, RecvHalf) {
        (self.send, self.recv)
    }

    /// How many streams we may send on, see [`SendHalf::streams`].
    #[must_use]
    pub fn streams(&self) -> u16 {
        self.send.streams()
    }

    /// The peer, in the text form of [`Address`].
    #[must_use]
    pub fn peer(&self) -> &str {
        self.send.peer()
    }
}

/// Waits until there may be room for a message, or an error to be told.
async fn room(socket: &Socket) -> io::Result<()> {
    let interest = Interest::WRITABLE | Interest::ERROR;
    let waiting = sys::register(socket.try_clone()?, interest)?;
    waiting.ready(interest).await.map(drop)
}

impl SendHalf {
    /// Sends one message on a stream, with payload protocol identifier 60.
    /// Dropping the future before it is ready sends nothing.
    ///
    /// # Errors
    /// [`Error::Empty`] and [`Error::TooLong`] for what cannot be sent,
    /// [`Error::Io`] when the association is gone (or the stream does not
    /// exist: `InvalidInput`).
    pub async fn send(&self, stream: u16, data: &[u8]) -> Result<(), Error> {
        if data.is_empty() {
            return Err(Error::Empty);
        }
        if data.len() > MAX_MESSAGE {
            return Err(Error::TooLong);
        }
        if self.inner.aborted.load(Ordering::Acquire) {
            return Err(Error::io("send")(io::ErrorKind::NotConnected.into()));
        }
        let socket = self.inner.socket.get_ref();
        loop {
            match socket::send(socket, self.inner.kind, stream, data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    room(socket).await.map_err(Error::io("send"))?;
                }
                done => return done.map_err(Error::io("send")),
            }
        }
    }

    /// How many outbound streams the ends agreed on: valid stream numbers are
    /// below it. Stream 0 is for non-UE-associated signalling.
    #[must_use]
    pub fn streams(&self) -> u16 {
        self.inner.streams
    }

    /// The peer, in the text form of [`Address`].
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.inner.peer
    }

    /// Closes the association in order: the peer, and our own
    /// [`RecvHalf::recv`], see its end.
    ///
    /// # Errors
    /// [`Error::Io`] when it was no longer connected.
    pub fn shutdown(&self) -> Result<(), Error> {
        self.inner
            .socket
            .get_ref()
            .shutdown(Shutdown::Both)
            .map_err(Error::io("shut down"))
    }

    /// Breaks the association off: our own [`RecvHalf::recv`] ends at once, and
    /// when both halves have been dropped the peer gets an SCTP ABORT, which it
    /// sees as an error and not as an orderly end. A Unix socket has no such
    /// thing and is shut down.
    ///
    /// # Errors
    /// [`Error::Io`] when it was no longer connected.
    pub fn abort(&self) -> Result<(), Error> {
        self.inner.aborted.store(true, Ordering::Release);
        self.inner.abort.notify_one();
        match self.inner.kind {
            Kind::Unix => self.shutdown(),
            // A one-to-one socket takes no SCTP_ABORT flag: it aborts when it
            // is closed with a linger time of zero (RFC 6458 8.1.4).
            Kind::Sctp => self
                .inner
                .socket
                .get_ref()
                .set_linger(Some(Duration::ZERO))
                .map_err(Error::io("abort")),
        }
    }
}

impl RecvHalf {
    /// Receives the next message; `None` when the peer closed in order.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::TooLong`] and [`Error::ShortPacket`] for one refused message
    /// ([`Error::is_recoverable`]); [`Error::Io`] when the association failed.
    pub async fn recv(&mut self) -> Result<Option<Received>, Error> {
        let kind = self.inner.kind;
        while !self.inner.aborted.load(Ordering::Acquire) {
            let reassembly = &mut self.reassembly;
            // A lost association (ABORT, no answer) wakes with EPOLLERR alone.
            let interest = Interest::READABLE | Interest::ERROR;
            let reading = self
                .inner
                .socket
                .async_io(interest, |socket| reassembly.read(socket, kind));
            let progress = tokio::select! {
                progress = reading => progress,
                () = self.inner.abort.notified() => break,
            };
            match progress {
                Ok(Progress::Done(result)) => return result,
                Ok(Progress::More) => {}
                // The kernel's word for the end after a local shutdown.
                Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => return Ok(None),
                Err(error) => return Err(Error::io("receive")(error)),
            }
        }
        Ok(None)
    }

    /// The peer, in the text form of [`Address`].
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.inner.peer
    }
}

pub(crate) fn unix_socket() -> Result<Socket, Error> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)
        .map_err(Error::io("Unix SOCK_SEQPACKET socket"))?;
    socket
        .set_nonblocking(true)
        .map_err(Error::io("non-blocking Unix socket"))?;
    Ok(socket)
}
