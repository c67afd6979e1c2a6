//! Requests to the kernel over netlink, one at a time.
//!
//! Blocking on purpose: the kernel answers within the `send`, and a data plane call is then one
//! sequence of steps that can be undone in reverse. Buffers are wiped, since XFRM messages carry
//! keys both ways.

use std::{io, os::fd::AsFd, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    NlasIterator, parse_string,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};
use zeroize::{Zeroize, Zeroizing};

use crate::Error;

/// Larger than anything the kernel puts into one datagram of a dump (32 KiB).
const RECEIVE_BUFFER: usize = 64 * 1024;
/// The kernel answers at once; this only keeps a bug from hanging a daemon.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Datagrams that may be left of an answer: far more than those of a dump of all states there can be.
const MOST_LEFT: usize = 65_536;
/// How often the kernel is asked to take something away.
const TRIES: u32 = 3;
/// Attribute of an extended acknowledgement that holds a text.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Ask for one object, or change one.
    Plain,
    /// Create, and fail if it exists.
    Create,
    /// Create or replace.
    Replace,
    /// Ask for all objects.
    Dump,
}

impl Mode {
    const fn flags(self) -> u16 {
        NLM_F_REQUEST
            | match self {
                Self::Plain => NLM_F_ACK,
                Self::Create => NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
                Self::Replace => NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
                Self::Dump => NLM_F_DUMP,
            }
    }
}

/// A message that may carry keys.
pub(crate) trait Wipe {
    /// Overwrites the keys.
    fn wipe(&mut self);
}

impl Wipe for RouteNetlinkMessage {
    fn wipe(&mut self) {}
}

/// A netlink socket of the network namespace it was opened in.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Zeroizing<Vec<u8>>,
}

impl Netlink {
    /// Opens a socket of `protocol` (`NETLINK_ROUTE`, `NETLINK_XFRM`).
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Explanations are welcome, not needed; the request is not worth repeating in an answer.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let seconds = i64::try_from(TIMEOUT.as_secs()).unwrap_or(i64::MAX);
        setsockopt(&socket.as_fd(), ReceiveTimeout, &TimeVal::new(seconds, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Zeroizing::new(vec![0; RECEIVE_BUFFER]),
        })
    }

    /// Sends `message`, hands every answer to `each`, and wipes them all.
    pub(crate) fn request<M>(
        &mut self,
        doing: &str,
        mode: Mode,
        message: M,
        mut each: impl FnMut(&M),
    ) -> Result<(), Error>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Wipe,
    {
        let done = self.exchange(mode, message, &mut each);
        done.map_err(|Failure { source, text }| {
            self.drain();
            Error::Kernel {
                doing: doing.to_owned(),
                source,
                text,
            }
        })
    }

    /// Reads what is left of an answer: as long as a dump is not read to its end, the kernel begins no other.
    fn drain(&mut self) {
        for _ in 0..MOST_LEFT {
            let mut room = self.buffer.as_mut_slice();
            let left = self.socket.recv(&mut room, libc::MSG_DONTWAIT);
            self.buffer.zeroize();
            self.buffer.resize(RECEIVE_BUFFER, 0);
            if left.is_err() {
                break;
            }
        }
    }

    /// Sends a message that takes something away; `false` when it was not there. Asked again when the kernel had no
    /// memory for the request or for its answer: what stays behind nobody would look for.
    pub(crate) fn take_away<M>(
        &mut self,
        doing: &str,
        message: impl Fn() -> M,
    ) -> Result<bool, Error>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Wipe,
    {
        let mut tries = 1;
        loop {
            match self.request(doing, Mode::Plain, message(), |_| {}) {
                Ok(()) => return Ok(true),
                Err(error) if error.is_gone() => return Ok(false),
                Err(error) if tries < TRIES && error.may_pass() => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn exchange<M>(
        &mut self,
        mode: Mode,
        message: M,
        each: &mut impl FnMut(&M),
    ) -> Result<(), Failure>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Wipe,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = mode.flags();
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut octets = Zeroizing::new(vec![0; request.buffer_len()]);
        request.serialize(&mut octets);
        if let NetlinkPayload::InnerMessage(message) = &mut request.payload {
            message.wipe();
        }
        self.socket.send(&octets, 0)?;
        loop {
            let mut room = self.buffer.as_mut_slice();
            let received = self.socket.recv(&mut room, libc::MSG_TRUNC)?;
            let done = match self.buffer.get(..received) {
                Some(datagram) => answers(datagram, self.sequence, each),
                None => Err(invalid("an answer longer than the receive buffer").into()),
            };
            if let Some(used) = self.buffer.get_mut(..received) {
                used.zeroize();
            }
            if done? {
                return Ok(());
            }
        }
    }
}

struct Failure {
    source: io::Error,
    text: Option<String>,
}

impl From<io::Error> for Failure {
    fn from(source: io::Error) -> Self {
        Self { source, text: None }
    }
}

fn invalid(text: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Reads the messages of one datagram; `true` when the last one has been seen.
fn answers<M: NetlinkDeserializable + Wipe>(
    mut datagram: &[u8],
    sequence: u32,
    each: &mut impl FnMut(&M),
) -> Result<bool, Failure> {
    while !datagram.is_empty() {
        let frame = NetlinkBuffer::new_checked(datagram).map_err(invalid)?;
        let length = usize::try_from(frame.length()).map_err(invalid)?;
        let stale = frame.sequence_number() != sequence;
        let message = datagram
            .get(..length)
            .ok_or_else(|| invalid("a netlink message longer than its datagram"))?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        if stale {
            // The answer to a request that timed out.
            continue;
        }
        let (_, payload) = NetlinkMessage::<M>::deserialize(message)
            .map_err(invalid)?
            .into_parts();
        match payload {
            NetlinkPayload::InnerMessage(mut answer) => {
                each(&answer);
                answer.wipe();
            }
            NetlinkPayload::Error(error) => {
                return match error.code {
                    None => Ok(true),
                    Some(_) => Err(Failure {
                        source: error.to_io(),
                        text: explanation(&error.header),
                    }),
                };
            }
            NetlinkPayload::Done(done) => {
                if done.code < 0 {
                    return Err(io::Error::from_raw_os_error(done.code.saturating_abs()).into());
                }
                return Ok(true);
            }
            NetlinkPayload::Overrun(_) => {
                return Err(io::Error::from_raw_os_error(libc::ENOBUFS).into());
            }
            _ => {}
        }
    }
    Ok(false)
}

/// The kernel's own words, from the attributes behind the header of the refused request.
fn explanation(answer: &[u8]) -> Option<String> {
    /// `struct nlmsghdr`.
    const HEADER: usize = 16;
    NlasIterator::new(answer.get(HEADER..)?)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .and_then(|attribute| parse_string(attribute.value()).ok())
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::ErrorMessage;
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    /// A datagram with one message.
    fn datagram(sequence: u32, payload: NetlinkPayload<RouteNetlinkMessage>) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let mut octets = vec![0; message.buffer_len()];
        message.serialize(&mut octets);
        octets
    }

    fn read(datagram: &[u8]) -> (Result<bool, io::Error>, Option<String>, usize) {
        let mut count = 0;
        let mut each = |_: &RouteNetlinkMessage| count += 1;
        match answers(datagram, 7, &mut each) {
            Ok(done) => (Ok(done), None, count),
            Err(failure) => (Err(failure.source), failure.text, count),
        }
    }

    #[test]
    fn a_refusal_keeps_errno_and_text() {
        let mut error = ErrorMessage::default();
        error.code = std::num::NonZeroI32::new(-libc::EEXIST);
        error.header = vec![0; 16];
        // Length 12, type NLMSGERR_ATTR_MSG, "in use\0" and padding.
        error.header.extend([11, 0, 1, 0]);
        error.header.extend(b"in use\0\0");
        let (result, text, count) = read(&datagram(7, NetlinkPayload::Error(error)));
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EEXIST));
        assert_eq!(text.as_deref(), Some("in use"));
        assert_eq!(count, 0);
    }

    #[test]
    fn stale_answers_are_skipped_and_truncated_ones_refused() {
        let message =
            || NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(LinkMessage::default()));
        let (result, _, count) = read(&datagram(6, message()));
        assert!(!result.unwrap());
        assert_eq!(count, 0);
        let whole = datagram(7, message());
        let (result, _, count) = read(&whole);
        assert!(!result.unwrap());
        assert_eq!(count, 1);
        for len in 1..whole.len() {
            assert!(read(&whole[..len]).0.is_err(), "{len}");
        }
    }

    #[test]
    fn an_acknowledgement_ends_the_exchange() {
        let mut error = ErrorMessage::default();
        error.header = vec![0; 16];
        assert!(read(&datagram(7, NetlinkPayload::Error(error))).0.unwrap());
    }
}
