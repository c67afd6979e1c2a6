//! Where this host is: its address towards a peer, and news of addresses, routes and links that change.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_ROUTE};
use tokio::io::unix::AsyncFd;

use crate::{Error, sys::watch};

/// RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE (linux/rtnetlink.h).
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// What arrives is not read, only counted as news: a datagram may be cut.
const RECEIVE_BUFFER: usize = 4096;

/// News of the network namespace it was opened in.
pub struct AddressNews {
    socket: AsyncFd<Socket>,
}

impl AddressNews {
    /// Begins to listen.
    ///
    /// # Errors
    /// Without rtnetlink.
    pub fn open() -> Result<Self, Error> {
        let open = || -> io::Result<AsyncFd<Socket>> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&NetlinkAddr::new(0, 0))?;
            for group in GROUPS {
                socket.add_membership(group)?;
            }
            socket.set_non_blocking(true)?;
            watch(socket)
        };
        open()
            .map(|socket| Self { socket })
            .map_err(|e| Error::io("listen for changes of addresses and routes", e))
    }

    /// Waits until something has changed, whatever it is; what came together is one piece of news. Cancel-safe.
    ///
    /// # Errors
    /// When the socket breaks. News that were too many at once are no error.
    pub async fn next(&self) -> io::Result<()> {
        let mut buffer = [0; RECEIVE_BUFFER];
        loop {
            let mut ready = self.socket.readable().await?;
            let mut news = false;
            while let Ok(received) = ready.try_io(|socket| {
                let mut room = buffer.as_mut_slice();
                socket.get_ref().recv(&mut room, 0)
            }) {
                match received {
                    Ok(_) => news = true,
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => news = true,
                    Err(error) => return Err(error),
                }
            }
            if news {
                return Ok(());
            }
        }
    }
}

/// The address the kernel would send from to this peer; `None` without a route.
pub fn source_towards(peer: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match peer.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Connecting a datagram socket asks for the route and sends nothing.
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(peer).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified()).then_some(source)
}

/// Whether an address is one of this host's.
pub fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_oneself_is_from_oneself() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 500));
        assert_eq!(source_towards(peer), Some(peer.ip()));
        assert!(is_ours(peer.ip()));
        // TEST-NET-3: nobody has it.
        assert!(!is_ours([203, 0, 113, 254].into()));
    }
}
