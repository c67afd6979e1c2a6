//! Two queues for each UDP port: IKE_SA_INIT of strangers, which anybody may send as fast as he likes, and everything
//! else. The kernel chooses by a few octets, so that a full queue of strangers loses nothing of the others.
//!
//! It looks at what a message says, not whether that is true: cookie, tag and SPI are for IKE to check.

use std::{io, net::SocketAddr};

use daemon::{
    datagrams::Datagrams,
    steer::{Instruction, steer},
};
use socket2::{Domain, Protocol, Socket, Type};

/// The port where IKE stands behind a non-ESP marker (RFC 3948, 2.2).
const NAT_PORT: u16 = 4500;

// Classic BPF (linux/filter.h): class, size and mode in one number.
const LOAD_WORD: u16 = 0x20;
const LOAD_OCTET: u16 = 0x30;
const LOAD_LENGTH: u16 = 0x80;
const LOAD_WORD_FROM_X: u16 = 0x40;
const SUBTRACT: u16 = 0x14;
const TO_X: u16 = 0x07;
const IF_EQUAL: u16 = 0x15;
const IF_NOT_BELOW: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Position in the group.
const STRANGERS: u32 = 0;
const OTHERS: u32 = 1;

/// The sockets of one port: of strangers, of all others.
pub(super) fn bind(local: SocketAddr) -> io::Result<[Datagrams; 2]> {
    // Sockets of a group share a port with any socket of this user's: with that of another daemon, too.
    drop(std::net::UdpSocket::bind(local)?);
    let strangers = member(local)?;
    let others = member(local)?;
    if let Err(error) = steer(&others, &program(local.port() == NAT_PORT)) {
        // Then the kernel chooses by address; both are read.
        tracing::warn!(%local, %error, "no queue of their own for strangers");
    }
    Ok([strangers, others])
}

fn member(local: SocketAddr) -> io::Result<Datagrams> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    socket.bind(&local.into())?;
    Datagrams::new(socket.into())
}

/// IKE_SA_INIT goes to the strangers, unless a Notify comes first, as COOKIE does in a request that has one
/// (RFC 7296, 2.6), or QKD_ADMISSION last, as in those of UEs that attached before.
fn program(marked: bool) -> Vec<Instruction> {
    let base = if marked { 4 } else { 0 };
    let plain = |code, k| Instruction {
        code,
        then: 0,
        otherwise: 0,
        k,
    };
    let test = |code, k, then, otherwise| Instruction {
        code,
        then,
        otherwise,
        k,
    };
    // ESP and other traffic of port 4500 has no marker.
    let mut program = match marked {
        true => vec![
            plain(LOAD_WORD, 0),
            test(IF_EQUAL, 0, 1, 0),
            plain(RETURN, OTHERS),
        ],
        false => Vec::new(),
    };
    program.extend([
        // Exchange type: IKE_SA_INIT.
        plain(LOAD_OCTET, base + 18),
        test(IF_EQUAL, 34, 0, 11),
        // First payload: Notify.
        plain(LOAD_OCTET, base + 16),
        test(IF_EQUAL, 41, 9, 0),
        // Last payload: none after it, 32 octets; no protocol, no SPI, 61442.
        plain(LOAD_LENGTH, 0),
        test(IF_NOT_BELOW, base + 28 + 32, 0, 6),
        plain(SUBTRACT, 32),
        plain(TO_X, 0),
        plain(LOAD_WORD_FROM_X, 0),
        test(IF_EQUAL, 0x20, 0, 2),
        plain(LOAD_WORD_FROM_X, 4),
        test(IF_EQUAL, 61_442, 1, 0),
        plain(RETURN, STRANGERS),
        plain(RETURN, OTHERS),
    ]);
    program
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn message(exchange: u8, first: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 28];
        message[..8].fill(7);
        message[16] = first;
        message[18] = exchange;
        message.extend_from_slice(body);
        message
    }

    /// QKD_ADMISSION with any tag, which is 32 octets.
    fn tag() -> Vec<u8> {
        let mut tag = vec![9; 32];
        tag[..8].copy_from_slice(&[0, 0, 0, 32, 0, 0, 0xf0, 0x02]);
        tag
    }

    async fn goes_to(sockets: &[Datagrams; 2], datagram: &[u8]) -> usize {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = sockets[0].local_addr().unwrap();
        sender.send_to(datagram, to).unwrap();
        let mut buffers = [[0; 512]; 2];
        let [first, second] = &mut buffers;
        tokio::select! {
            read = sockets[0].recv_from(first) => {
                assert_eq!(first[..read.unwrap().0], *datagram);
                0
            }
            read = sockets[1].recv_from(second) => {
                assert_eq!(second[..read.unwrap().0], *datagram);
                1
            }
        }
    }

    fn free() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    }

    #[tokio::test]
    async fn strangers_have_a_queue_of_their_own() {
        let sockets = bind(free()).unwrap();
        let body = [1; 200];
        let tagged = [&body[..], &tag()].concat();
        for (datagram, queue) in [
            (message(34, 33, &body), STRANGERS),
            (message(34, 33, &tagged), OTHERS),
            (message(34, 41, &body), OTHERS),
            (message(35, 46, &body), OTHERS),
            (message(37, 0, &[]), OTHERS),
            (message(34, 33, &tag()[1..]), STRANGERS),
            (message(34, 33, &[]), STRANGERS),
            (vec![0xff], STRANGERS),
            (Vec::new(), STRANGERS),
        ] {
            assert_eq!(
                goes_to(&sockets, &datagram).await,
                queue as usize,
                "{datagram:?}"
            );
        }
    }

    #[tokio::test]
    async fn behind_the_marker_it_is_the_same() {
        let local = free();
        let sockets = [member(local).unwrap(), member(local).unwrap()];
        steer(&sockets[1], &program(true)).unwrap();
        let marked = |message: Vec<u8>| [&[0; 4][..], &message].concat();
        let tagged = [&[1; 100][..], &tag()].concat();
        for (datagram, queue) in [
            (marked(message(34, 33, &[1; 100])), STRANGERS),
            (marked(message(34, 33, &tagged)), OTHERS),
            (marked(message(34, 41, &[1; 100])), OTHERS),
            (marked(message(36, 46, &[1; 100])), OTHERS),
            (message(34, 33, &[1; 100]), OTHERS),
        ] {
            assert_eq!(goes_to(&sockets, &datagram).await, queue as usize);
        }
    }

    #[tokio::test]
    async fn a_second_daemon_gets_no_part_of_the_port() {
        let local = free();
        let _sockets = bind(local).unwrap();
        assert_eq!(
            bind(local).unwrap_err().kind(),
            io::ErrorKind::AddrInUse,
            "as without groups"
        );
    }
}
