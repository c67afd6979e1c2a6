//! One message out, one message in, over either kind of socket.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use socket2::{MsgHdr, Socket};

use crate::{Error, MAX_MESSAGE, NGAP_PPID, Received, sctp, sys};

/// Octets before a message on a Unix socket: stream and payload protocol id.
const UNIX_HEADER: usize = 6;

/// Which rules a socket follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sctp,
    Unix,
}

/// Sends one message; `WouldBlock` when the socket is full.
pub(crate) fn send(socket: &Socket, kind: Kind, stream: u16, data: &[u8]) -> io::Result<()> {
    let sent = match kind {
        Kind::Sctp => {
            let control = sctp::send_info(stream, NGAP_PPID);
            let buffers = [IoSlice::new(data)];
            let message = MsgHdr::new().with_buffers(&buffers).with_control(&control);
            socket.sendmsg(&message, libc::MSG_NOSIGNAL)?
        }
        Kind::Unix => {
            let [s0, s1] = stream.to_be_bytes();
            let [p0, p1, p2, p3] = NGAP_PPID.to_be_bytes();
            let header: [u8; UNIX_HEADER] = [s0, s1, p0, p1, p2, p3];
            let buffers = [IoSlice::new(&header), IoSlice::new(data)];
            let message = MsgHdr::new().with_buffers(&buffers);
            socket
                .sendmsg(&message, libc::MSG_NOSIGNAL)?
                .saturating_sub(UNIX_HEADER)
        }
    };
    // Both transports send whole messages or nothing.
    if sent == data.len() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::WriteZero))
    }
}

/// Puts messages together from what the socket gives.
#[derive(Debug)]
pub(crate) struct Reassembly {
    buffer: Vec<u8>,
    partial: Vec<u8>,
    too_long: bool,
}

/// What one read led to.
#[derive(Debug)]
pub(crate) enum Progress {
    /// A message, a refused message, or the end of the association.
    Done(Result<Option<Received>, Error>),
    /// The kernel delivered part of a message.
    More,
}

impl Reassembly {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; MAX_MESSAGE + UNIX_HEADER],
            partial: Vec::new(),
            too_long: false,
        }
    }

    /// Reads once; `WouldBlock` when there is nothing to read.
    pub(crate) fn read(&mut self, socket: &Socket, kind: Kind) -> io::Result<Progress> {
        let mut control = [0u8; sctp::CONTROL];
        let piece = sys::recv_message(socket.as_fd(), &mut self.buffer, &mut control)?;
        let data = self.buffer.get(..piece.len).unwrap_or_default();
        if data.is_empty() {
            return Ok(Progress::Done(Ok(None)));
        }
        Ok(match kind {
            Kind::Unix => Progress::Done(unix_message(data, piece.flags)),
            Kind::Sctp => {
                if self.partial.len() + data.len() > MAX_MESSAGE {
                    self.too_long = true;
                    self.partial.clear();
                } else if !self.too_long {
                    self.partial.extend_from_slice(data);
                }
                if piece.flags & libc::MSG_EOR == 0 {
                    return Ok(Progress::More);
                }
                let data = std::mem::take(&mut self.partial);
                if std::mem::take(&mut self.too_long) {
                    return Ok(Progress::Done(Err(Error::TooLong)));
                }
                let control = control.get(..piece.control_len).unwrap_or_default();
                let (stream, ppid) = sctp::receive_info(control).unwrap_or_default();
                Progress::Done(Ok(Some(Received { stream, ppid, data })))
            }
        })
    }
}

fn unix_message(packet: &[u8], flags: libc::c_int) -> Result<Option<Received>, Error> {
    if flags & libc::MSG_TRUNC != 0 {
        return Err(Error::TooLong);
    }
    match packet {
        [s0, s1, p0, p1, p2, p3, data @ ..] if !data.is_empty() => Ok(Some(Received {
            stream: u16::from_be_bytes([*s0, *s1]),
            ppid: u32::from_be_bytes([*p0, *p1, *p2, *p3]),
            data: data.to_vec(),
        })),
        _ => Err(Error::ShortPacket(packet.len())),
    }
}
