//! UDP 500 and 4500 of one address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use ike::{Path, Transmit};
use tokio::net::UdpSocket;

/// Longer datagrams than this do not exist.
const MAX_DATAGRAM: usize = 65_535;
/// IKE.
pub(crate) const IKE_PORT: u16 = 500;
/// IKE beside ESP in UDP.
const NAT_PORT: u16 = 4500;

pub(crate) struct Sockets {
    ike: UdpSocket,
    nat: UdpSocket,
    address: IpAddr,
}

impl Sockets {
    pub(crate) async fn bind(address: IpAddr, esp_in_udp: bool) -> Result<Self> {
        let bind = |port| async move {
            UdpSocket::bind((address, port))
                .await
                .with_context(|| format!("UDP {address}:{port}"))
        };
        let (ike, nat) = (bind(IKE_PORT).await?, bind(NAT_PORT).await?);
        if esp_in_udp {
            dataplane::enable_udp_encap(&nat).context("UDP_ENCAP on port 4500")?;
        }
        Ok(Self { ike, nat, address })
    }

    /// The next datagram. Cancel-safe.
    pub(crate) async fn recv(&self) -> io::Result<(Path, Vec<u8>)> {
        let mut on_ike = vec![0; MAX_DATAGRAM];
        let mut on_nat = vec![0; MAX_DATAGRAM];
        let (port, length, remote, mut data) = tokio::select! {
            received = self.ike.recv_from(&mut on_ike) => {
                let (length, remote) = received?;
                (IKE_PORT, length, remote, on_ike)
            }
            received = self.nat.recv_from(&mut on_nat) => {
                let (length, remote) = received?;
                (NAT_PORT, length, remote, on_nat)
            }
        };
        data.truncate(length);
        let local = SocketAddr::new(self.address, port);
        Ok((Path { local, remote }, data))
    }

    /// Sends a datagram; one that cannot be sent is lost, as on any network.
    pub(crate) async fn send(&self, transmit: &Transmit) -> io::Result<()> {
        let socket = match transmit.path.local.port() {
            NAT_PORT => &self.nat,
            _ => &self.ike,
        };
        socket
            .send_to(&transmit.data, transmit.path.remote)
            .await
            .map(drop)
    }
}
