use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use socket2::{SockAddr, Socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::association::{Association, unix_socket};
use crate::socket::Kind;
use crate::{Address, Error, Options, sctp, sys};

/// Waits for associations, as an AMF does.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<Socket>,
    kind: Kind,
    local: Address,
    // Dropped after the socket is closed.
    _file: Option<SocketFile>,
}

impl Listener {
    /// Listens at `address`. A Unix socket file that nobody listens on any
    /// more is replaced; the file is removed when the listener is dropped.
    ///
    /// # Errors
    /// [`Error::NoSctp`] on a kernel without SCTP, [`Error::Io`] when the
    /// address is in use or not ours.
    pub fn bind(address: &Address, options: &Options) -> Result<Self, Error> {
        let (socket, kind, file) = match address {
            Address::Sctp(local) => {
                let socket = sctp::socket(*local, options)?;
                socket
                    .set_reuse_address(true)
                    .map_err(Error::io("SO_REUSEADDR"))?;
                socket
                    .bind(&(*local).into())
                    .map_err(Error::io("bind the SCTP address"))?;
                (socket, Kind::Sctp, None)
            }
            Address::Unix(path) => {
                let socket = unix_socket()?;
                let target = SockAddr::unix(path).map_err(Error::io("Unix socket path"))?;
                remove_stale(path, &target)?;
                socket
                    .bind(&target)
                    .map_err(Error::io("bind the Unix socket"))?;
                (socket, Kind::Unix, Some(SocketFile(path.clone())))
            }
        };
        socket.listen(16).map_err(Error::io("listen"))?;
        let local = match address {
            Address::Unix(_) => address.clone(),
            Address::Sctp(asked) => socket
                .local_addr()
                .ok()
                .and_then(|bound| bound.as_socket())
                .map_or(Address::Sctp(*asked), Address::Sctp),
        };
        Ok(Self {
            socket: sys::register(socket, Interest::READABLE)
                .map_err(Error::io("register the listener"))?,
            kind,
            local,
            _file: file,
        })
    }

    /// The next association. Dropping the future loses none.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn accept(&self) -> Result<Association, Error> {
        let (socket, peer) = self
            .socket
            .async_io(Interest::READABLE, Socket::accept)
            .await
            .map_err(Error::io("accept"))?;
        socket
            .set_nonblocking(true)
            .map_err(Error::io("non-blocking socket"))?;
        let peer = match self.kind {
            Kind::Unix => self.local.to_string(),
            Kind::Sctp => {
                sctp::configure(&socket)?;
                peer.as_socket()
                    .map_or_else(|| "sctp:?".to_owned(), |peer| format!("sctp:{peer}"))
            }
        };
        Association::new(socket, self.kind, peer)
    }

    /// The address it listens at, with the port that the kernel chose.
    #[must_use]
    pub fn local(&self) -> &Address {
        &self.local
    }
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "socket file not removed");
        }
    }
}

/// Removes the socket file of a listener that died, and nothing else.
fn remove_stale(path: &Path, target: &SockAddr) -> Result<(), Error> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(Error::io("bind the Unix socket")(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the path is taken by something that is no socket",
        )));
    }
    match unix_socket()?.connect(target) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(Error::io("remove the stale socket file"))
        }
        _ => Err(Error::io("bind the Unix socket")(io::Error::from(
            io::ErrorKind::AddrInUse,
        ))),
    }
}
