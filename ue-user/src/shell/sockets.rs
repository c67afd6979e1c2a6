//! The NWu sockets: UDP 500 and 4500 on the UE's address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use daemon::datagrams::Datagrams;
use ike::{Path, Transmit};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use super::RunError;

/// Longer datagrams than this do not exist.
const MAX_DATAGRAM: usize = 65_535;

/// IKE, and IKE beside ESP in UDP.
const IKE_PORT: u16 = 500;
const NAT_PORT: u16 = 4500;

/// A socket could not be made.
#[derive(Debug, Error)]
#[error("UDP {address}: {source}")]
pub struct SocketError {
    address: SocketAddr,
    source: io::Error,
}

/// Both sockets.
pub(super) struct Sockets {
    ike: Port,
    nat: Port,
}

struct Port {
    socket: Datagrams,
    address: SocketAddr,
    buffer: Vec<u8>,
}

impl Sockets {
    /// Binds both ports of `address`; with `udp_encap` the kernel takes ESP out of what arrives on port 4500.
    pub(super) fn bind(address: IpAddr, udp_encap: bool) -> Result<Self, RunError> {
        let sockets = Self {
            ike: Port::bind(SocketAddr::new(address, IKE_PORT))?,
            nat: Port::bind(SocketAddr::new(address, NAT_PORT))?,
        };
        if udp_encap {
            dataplane::enable_udp_encap(&sockets.nat.socket)?;
        }
        Ok(sockets)
    }

    /// The address they are bound to.
    pub(super) fn address(&self) -> IpAddr {
        self.ike.address.ip()
    }

    /// The next datagram. Cancel-safe.
    pub(super) async fn recv(&mut self) -> io::Result<(Path, Vec<u8>)> {
        tokio::select! {
            received = self.ike.recv() => received,
            received = self.nat.recv() => received,
        }
    }

    /// Sends a datagram; one that cannot be sent is lost, as on any network.
    pub(super) fn send(&self, transmit: &Transmit) {
        let port = match transmit.path.local.port() {
            NAT_PORT => &self.nat,
            _ => &self.ike,
        };
        let remote = transmit.path.remote;
        if let Err(error) = port.socket.try_send_to(&transmit.data, remote) {
            tracing::warn!(%remote, %error, "datagram not sent");
        }
    }
}

impl Port {
    fn bind(address: SocketAddr) -> Result<Self, SocketError> {
        let make = || {
            let socket = Socket::new(
                Domain::for_address(address),
                Type::DGRAM,
                Some(Protocol::UDP),
            )?;
            socket.bind(&address.into())?;
            Datagrams::new(socket.into())
        };
        let socket = make().map_err(|source| SocketError { address, source })?;
        Ok(Self {
            socket,
            address,
            buffer: vec![0; MAX_DATAGRAM],
        })
    }

    async fn recv(&mut self) -> io::Result<(Path, Vec<u8>)> {
        let (length, remote) = self.socket.recv_from(&mut self.buffer).await?;
        let path = Path {
            local: self.address,
            remote,
        };
        let data = self.buffer.get(..length).unwrap_or_default().to_vec();
        Ok((path, data))
    }
}
