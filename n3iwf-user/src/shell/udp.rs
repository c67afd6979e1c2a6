//! UDP 500 and 4500 on NWu.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use anyhow::Context;
use daemon::datagrams::Datagrams;
use ike::{Path, Transmit};
use tracing::debug;

use super::queues;

/// The largest UDP payload; IKE has no smaller bound without fragmentation.
const MAX_DATAGRAM: usize = 65_535;
/// IKE's two ports (RFC 7296, 2).
const PORTS: [u16; 2] = [500, 4500];
/// Datagrams per wake-up: fewer rounds of the loop, and timers are not starved.
const BATCH: usize = 64;
/// Of strangers fewer: nobody else waits long for them.
const STRANGERS: usize = 8;

pub(super) struct Udp {
    /// For each port the queue of strangers, then that of the others.
    sockets: Vec<(Datagrams, SocketAddr)>,
    buffer: Vec<u8>,
    /// Datagrams left of the batch of one wake-up.
    budget: usize,
}

impl Udp {
    /// Binds both ports; with `encapsulate` the kernel takes ESP out of port 4500 (RFC 3948).
    pub(super) fn bind(address: IpAddr, encapsulate: bool) -> anyhow::Result<Self> {
        let mut sockets = Vec::new();
        for port in PORTS {
            let local = SocketAddr::new(address, port);
            let queues =
                queues::bind(local).with_context(|| format!("UDP {local} (ikeBindAddress)"))?;
            for socket in queues {
                if port == 4500 && encapsulate {
                    dataplane::enable_udp_encap(&socket).context("UDP_ENCAP on port 4500")?;
                }
                sockets.push((socket, local));
            }
        }
        Ok(Self {
            sockets,
            buffer: vec![0; MAX_DATAGRAM],
            budget: 0,
        })
    }

    /// Waits until one of the sockets can be read, and says which; strangers come last. Cancel-safe.
    pub(super) async fn readable(&mut self) -> usize {
        self.budget = BATCH;
        match self.sockets.as_slice() {
            [
                (strangers, _),
                (others, _),
                (strangers_nat, _),
                (others_nat, _),
            ] => tokio::select! {
                biased;
                _ = others.readable() => 1,
                _ = others_nat.readable() => 3,
                from = either(strangers, strangers_nat) => {
                    self.budget = STRANGERS;
                    from * 2
                }
            },
            _ => std::future::pending().await,
        }
    }

    /// The next datagram of the batch: its path and its length in the buffer.
    pub(super) fn try_receive(&mut self, socket: usize) -> Option<(Path, usize)> {
        self.budget = self.budget.checked_sub(1)?;
        let (socket, local) = self.sockets.get(socket)?;
        loop {
            match socket.try_recv_from(&mut self.buffer) {
                Ok((length, remote)) => {
                    let path = Path {
                        local: *local,
                        remote,
                    };
                    return Some((path, length));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // An ICMP error about an earlier datagram; the socket is fine.
                Err(error) => debug!(%error, %local, "receive"),
            }
        }
    }

    /// The datagram just received.
    pub(super) fn taken(&self, length: usize) -> Vec<u8> {
        self.buffer.get(..length).unwrap_or_default().to_vec()
    }

    /// Sends; what the kernel cannot take now is lost, as on any link, and IKE retransmits.
    pub(super) fn send(&self, transmit: &Transmit) {
        let Path { local, remote } = transmit.path;
        let Some((socket, _)) = self.sockets.iter().find(|(_, at)| *at == local) else {
            debug!(%local, "no socket of this address");
            return;
        };
        if let Err(error) = socket.try_send_to(&transmit.data, remote) {
            debug!(%error, %remote, "send");
        }
    }
}

/// Which of the two can be read; by chance, so that a flood on one port keeps nobody from the other.
async fn either(first: &Datagrams, second: &Datagrams) -> usize {
    tokio::select! {
        _ = first.readable() => 0,
        _ = second.readable() => 1,
    }
}
