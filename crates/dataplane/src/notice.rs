//! What the kernel reports of ESP states: limits they reached (`XFRM_MSG_EXPIRE`), and other
//! addresses or ports that their peer now sends from (`XFRM_MSG_MAPPING`).

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_xfrm::{
    XfrmMessage,
    constants::{XFRMNLGRP_EXPIRE, XFRMNLGRP_MAPPING},
};
use netlink_sys::{Socket, SocketAddr as SocketAddrNetlink, protocols::NETLINK_XFRM};
use tokio::io::unix::AsyncFd;

use crate::{
    Error,
    kernel::lock,
    sys::watch,
    xfrm::{StateId, address, is_esp},
};

/// More than one datagram of the kernel; an expiry has 232 octets and a few attributes.
const RECEIVE_BUFFER: usize = 8192;

/// What happened to a Child SA in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// It reached one of its [`Limits`](crate::Limits).
    Expired {
        /// [`ChildSaSpec::id`](crate::ChildSaSpec::id).
        id: u64,
        /// Whether the kernel passes nothing more of it; otherwise it is to be rekeyed.
        hard: bool,
    },
    /// An authentic ESP packet in UDP came from here, and not from the peer's address and port: a NAT
    /// has another mapping (RFC 7296 section 2.23). Repeated with each such packet until
    /// [`Dataplane::relocate`](crate::Dataplane::relocate).
    Remapped {
        /// [`ChildSaSpec::id`](crate::ChildSaSpec::id).
        id: u64,
        /// Where it came from.
        remote: SocketAddr,
    },
}

/// The same of a state, before it is known whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateNotice {
    Expired { hard: bool },
    Remapped { remote: SocketAddr },
}

impl StateNotice {
    pub(crate) const fn of(self, id: u64) -> Notice {
        match self {
            Self::Expired { hard } => Notice::Expired { id, hard },
            Self::Remapped { remote } => Notice::Remapped { id, remote },
        }
    }
}

/// Listens in the network namespace it was opened in.
pub(crate) struct Notices {
    socket: AsyncFd<Socket>,
    /// Read, and not taken yet.
    waiting: Mutex<VecDeque<(StateId, StateNotice)>>,
}

impl Notices {
    pub(crate) fn open() -> Result<Self, Error> {
        let open = || -> io::Result<AsyncFd<Socket>> {
            let mut socket = Socket::new(NETLINK_XFRM)?;
            socket.bind(&SocketAddrNetlink::new(0, 0))?;
            socket.add_membership(XFRMNLGRP_EXPIRE)?;
            socket.add_membership(XFRMNLGRP_MAPPING)?;
            socket.set_non_blocking(true)?;
            watch(socket)
        };
        open()
            .map(|socket| Self {
                socket,
                waiting: Mutex::default(),
            })
            .map_err(|e| Error::io("listen for what becomes of ESP states", e))
    }

    /// What was found out in another way.
    pub(crate) fn add(&self, notices: Vec<(StateId, StateNotice)>) {
        lock(&self.waiting).extend(notices);
    }

    /// The next state of which there is something to tell.
    pub(crate) async fn next(&self) -> io::Result<(StateId, StateNotice)> {
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
                let notices = read(buffer.get(..length?).unwrap_or(&[]));
                lock(&self.waiting).extend(notices);
            }
        }
    }
}

/// What of a datagram is about an ESP state; anything else is nobody's business here.
fn read(mut datagram: &[u8]) -> Vec<(StateId, StateNotice)> {
    let mut notices = Vec::new();
    while let Ok(frame) = NetlinkBuffer::new_checked(datagram) {
        let length = usize::try_from(frame.length()).unwrap_or(usize::MAX);
        let Some(octets) = datagram.get(..length).filter(|octets| !octets.is_empty()) else {
            break;
        };
        if let Ok(message) = NetlinkMessage::<XfrmMessage>::deserialize(octets)
            && let NetlinkPayload::InnerMessage(message) = message.payload
        {
            notices.extend(notice(&message));
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    notices
}

fn notice(message: &XfrmMessage) -> Option<(StateId, StateNotice)> {
    let (protocol, family, destination, spi, notice) = match message {
        XfrmMessage::Expire(message) => {
            let state = &message.expire.state;
            let hard = message.expire.hard != 0;
            let notice = StateNotice::Expired { hard };
            (
                state.id.proto,
                state.family,
                state.id.daddr,
                state.id.spi,
                notice,
            )
        }
        XfrmMessage::Mapping(message) => {
            let map = &message.map;
            let ip = address(map.id.family, &map.new_saddr)?;
            let remote = SocketAddr::new(ip, map.new_sport);
            let notice = StateNotice::Remapped { remote };
            (
                map.id.proto,
                map.id.family,
                map.id.daddr,
                map.id.spi,
                notice,
            )
        }
        _ => return None,
    };
    if !is_esp(protocol) {
        return None;
    }
    let destination: IpAddr = address(family, &destination)?;
    Some((StateId { destination, spi }, notice))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;
    use netlink_packet_xfrm::{
        Address, UserExpire, UserMapping, UserSaInfo,
        constants::{AF_INET, IPPROTO_ESP},
        monitor::{ExpireMessage, MappingMessage},
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
        serialized(XfrmMessage::Expire(ExpireMessage { expire }))
    }

    fn mapping(spi: u32, from: &str, port: u16) -> Vec<u8> {
        let mut map = UserMapping {
            new_saddr: Address::from_ip(&from.parse().unwrap()),
            new_sport: port,
            ..UserMapping::default()
        };
        map.id.daddr = Address::from_ip(&"192.0.2.1".parse().unwrap());
        map.id.spi = spi;
        map.id.family = AF_INET;
        map.id.proto = IPPROTO_ESP;
        serialized(XfrmMessage::Mapping(MappingMessage { map }))
    }

    fn serialized(message: XfrmMessage) -> Vec<u8> {
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
    fn notices_are_read_and_others_skipped() {
        let id = |spi| StateId {
            destination: "192.0.2.1".parse().unwrap(),
            spi,
        };
        let mut both = datagram(IPPROTO_ESP, 0x1234, 0);
        both.extend(datagram(51, 7, 1));
        both.extend(datagram(IPPROTO_ESP, 0x99, 1));
        both.extend(mapping(0x1234, "198.51.100.7", 28_385));
        let remote = "198.51.100.7:28385".parse().unwrap();
        assert_eq!(
            read(&both),
            [
                (id(0x1234), StateNotice::Expired { hard: false }),
                (id(0x99), StateNotice::Expired { hard: true }),
                (id(0x1234), StateNotice::Remapped { remote }),
            ]
        );
        assert_eq!(read(&[]), []);
        for one in [datagram(IPPROTO_ESP, 1, 0), mapping(1, "192.0.2.9", 9)] {
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
}
