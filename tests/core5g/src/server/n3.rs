//! N3 over UDP, N6 over a TUN device.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UdpSocket;
use tun_rs::{AsyncDevice, DeviceBuilder};

use crate::config::{N6Config, UpfConfig};
use crate::server::{ServerError, Shared};
use crate::upf::Uplink;

/// More than any datagram.
const BUFFER: usize = 64 * 1024;
/// Wanted socket buffers: a burst of a few thousand packets, which a relay in
/// the kernel delivers faster than they are read. Without CAP_NET_ADMIN the
/// kernel may give less.
const SOCKET_BUFFER: usize = 4 << 20;

pub(crate) struct N3 {
    socket: UdpSocket,
    local: IpAddr,
    tun: Option<AsyncDevice>,
}

impl N3 {
    pub(crate) async fn bind(config: &UpfConfig) -> Result<Self, ServerError> {
        let failed = |what: String| move |error: io::Error| ServerError::Io { what, error };
        let socket = UdpSocket::bind(config.listen)
            .await
            .map_err(failed(format!("GTP-U at {}", config.listen)))?;
        let receive = setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER));
        for result in [
            receive,
            setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER),
        ] {
            if let Err(error) = result {
                tracing::debug!(%error, "GTP-U socket buffer");
            }
        }
        let tun = match &config.n6 {
            N6Config::None => None,
            N6Config::Tun {
                name,
                address,
                address6,
                mtu,
            } => {
                let mut device = DeviceBuilder::new()
                    .name(name.as_str())
                    .ipv4(address.addr(), address.prefix_len(), None)
                    .mtu(*mtu);
                if let Some(address) = address6 {
                    device = device.ipv6(address.addr(), address.prefix_len());
                }
                let device = device
                    .build_async()
                    .map_err(failed(format!("TUN device {name}")))?;
                tracing::info!(%name, %address, mtu, "N6");
                Some(device)
            }
        };
        Ok(Self {
            socket,
            local: config.address(),
            tun,
        })
    }

    /// Forwards packets until dropped.
    pub(crate) async fn serve(self, shared: Arc<Shared>) -> Result<(), ServerError> {
        match &self.tun {
            Some(tun) => tokio::select! {
                result = self.uplink(&shared) => result,
                result = self.downlink(&shared, tun) => result,
            },
            None => self.uplink(&shared).await,
        }
    }

    async fn uplink(&self, shared: &Shared) -> Result<(), ServerError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let (len, from) = match self.socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP error of an earlier datagram.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    return Err(ServerError::Io {
                        what: "N3 receive".to_owned(),
                        error,
                    });
                }
            };
            let datagram = buffer.get(..len).unwrap_or_default();
            let what = shared.upf().uplink(self.local, from, datagram);
            match what {
                Uplink::Deliver(packet) => {
                    if let Some(tun) = &self.tun
                        && let Err(error) = tun.send(packet).await
                    {
                        tracing::debug!(%error, "N6 send");
                    }
                }
                Uplink::Reply(to, message) => {
                    if let Err(error) = self.socket.send_to(&message, to).await {
                        tracing::debug!(%to, %error, "N3 send");
                    }
                }
                Uplink::Dropped => {}
            }
        }
    }

    async fn downlink(&self, shared: &Shared, tun: &AsyncDevice) -> Result<(), ServerError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let len = tun
                .recv(&mut buffer)
                .await
                .map_err(|error| ServerError::Io {
                    what: "N6 receive".to_owned(),
                    error,
                })?;
            let packet = buffer.get(..len).unwrap_or_default();
            let message = shared.upf().downlink(packet);
            if let Some((to, message)) = message
                && let Err(error) = self.socket.send_to(&message, to).await
            {
                tracing::debug!(%to, %error, "N3 send");
            }
        }
    }
}
