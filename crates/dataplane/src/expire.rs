//! Limits of ESP states that the kernel reports (`XFRM_MSG_EXPIRE`).

use std::{collections::VecDeque, io, net::IpAddr, sync::Mutex};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_xfrm::{XfrmMessage, constants::XFRMNLGRP_EXPIRE};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};
use tokio::io::unix::AsyncFd;

use crate::{
    Error,
    kernel::lock,
    sys::watch,
    xfrm::{StateId, address, is_esp},
};

/// More than one datagram of the kernel; an expiry has 232 octets and a few attributes.
const RECEIVE_BUFFER: usize = 8192;

/// A Child SA reached one of its [`Limits`](crate::Limits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// [`ChildSaSpec::id`](crate::ChildSaSpec::id).
    pub id: u64,
    /// Whether the kernel passes nothing more of it; otherwise it is to be rekeyed.
    pub hard: bool,
}

/// Listens for expiries in the network namespace it was opened in.
pub(crate) struct Expiries {
    socket: AsyncFd<Socket>,
    /// Read, and not taken yet.
    waiting: Mutex<VecDeque<(StateId, bool)>>,
}

impl Expiries {
    pub(crate) fn open() -> Result<Self, Error> {
        let open = || -> io::Result<AsyncFd<Socket>> {
            let mut socket = Socket::new(NETLINK_XFRM)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.add_membership(XFRMNLGRP_EXPIRE)?;
            socket.set_non_blocking(true)?;
            watch(socket)
        };
        open()
            .map(|socket| Self {
                socket,
                waiting: Mutex::default(),
            })
            .map_err(|e| Error::io("listen for expired ESP states", e))
    }

    /// The next state that reached a limit, with whether it was a hard one.
    pub(crate) async fn next(&self) -> io::Result<(StateId, bool)> {
        loop {
            if let Some(next) = lock(&self.waiting).pop_front() {
                return Ok(next);
            }
            let mut ready = self.socket.readable().await?;
            let mut buffer = [0; RECEIVE_BUFFER];
            let received = ready.try_io(|socket| {
                let mut room = buffer.as_mut_slice();
                socket.get_ref().recv(&mut room, 0)
            });
            if let Ok(length) = received {
                let expired = read(buffer.get(..length?).unwrap_or(&[]));
                lock(&self.waiting).extend(expired);
            }
        }
    }
}

/// What of a datagram is an expiry of an ESP state; anything else is nobody's business here.
fn read(mut datagram: &[u8]) -> Vec<(StateId, bool)> {
    let mut expired = Vec::new();
    while let Ok(frame) = NetlinkBuffer::new_checked(datagram) {
        let length = usize::try_from(frame.length()).unwrap_or(usize::MAX);
        let Some(octets) = datagram.get(..length).filter(|octets| !octets.is_empty()) else {
            break;
        };
        if let Ok(message) = NetlinkMessage::<XfrmMessage>::deserialize(octets)
            && let NetlinkPayload::InnerMessage(XfrmMessage::Expire(message)) = message.payload
        {
            let state = &message.expire.state;
            let destination: Option<IpAddr> = is_esp(state.id.proto)
                .then(|| address(state.family, &state.id.daddr))
                .flatten();
            expired.extend(destination.map(|destination| {
                let spi = state.id.spi;
                (StateId { destination, spi }, message.expire.hard != 0)
            }));
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    expired
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;
    use netlink_packet_xfrm::{
        UserExpire, UserSaInfo,
        constants::{AF_INET, IPPROTO_ESP},
        monitor::ExpireMessage,
    };

    use super::*;

    fn datagram(protocol: u8, spi: u32, hard: u8) -> Vec<u8> {
        let mut state = UserSaInfo {
            family: AF_INET,
            ..UserSaInfo::default()
        };
        state.id.proto = protocol;
        state.id.spi = spi;
        state.destination(&"192.0.2.1".parse().unwrap());
        let expire = UserExpire { state, hard };
        let message = XfrmMessage::Expire(ExpireMessage { expire });
        let mut message = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(message),
        );
        message.finalize();
        let mut octets = vec![0; message.buffer_len()];
        message.serialize(&mut octets);
        octets
    }

    #[test]
    fn expiries_are_read_and_others_skipped() {
        let id = |spi| StateId {
            destination: "192.0.2.1".parse().unwrap(),
            spi,
        };
        let mut both = datagram(IPPROTO_ESP, 0x1234, 0);
        both.extend(datagram(51, 7, 1));
        both.extend(datagram(IPPROTO_ESP, 0x99, 1));
        assert_eq!(read(&both), [(id(0x1234), false), (id(0x99), true)]);
        assert_eq!(read(&[]), []);
        let one = datagram(IPPROTO_ESP, 1, 0);
        for length in 0..one.len() - 8 {
            assert_eq!(read(one.get(..length).unwrap()), [], "{length}");
        }
        for octet in 0..one.len() {
            let mut broken = one.clone();
            if let Some(octet) = broken.get_mut(octet) {
                *octet ^= 0xff;
            }
            read(&broken);
        }
    }
}
