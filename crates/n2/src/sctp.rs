//! What is particular to SCTP: socket options (RFC 6458) and the control
//! messages that carry stream and payload protocol identifier.

use std::io;
use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::{Error, Liveness, Options, sys};

/// `struct cmsghdr`: length (native word), level, type (RFC 3542 clause 20).
const CMSG_HEADER: usize = size_of::<usize>() + 8;
/// `struct sctp_sndinfo` (RFC 6458 5.3.4): sid u16, flags u16, ppid u32,
/// context u32, association id i32.
const SNDINFO: usize = 16;
/// `struct sctp_rcvinfo` (RFC 6458 5.3.5): sid u16, ssn u16, flags u16, two of
/// padding, ppid u32, tsn u32, cumtsn u32, context u32, association id i32.
const RCVINFO: usize = 28;

/// RTO.Initial and RTO.Min of RFC 9260, 16, in ms.
const RTO_INITIAL: u32 = 3000;
const RTO_MIN: u32 = 1000;

/// Room for the control messages of one received message.
pub(crate) const CONTROL: usize = 128;

/// Whether this kernel can open an SCTP socket.
#[must_use]
pub fn supported() -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::SCTP)).is_ok()
}

/// A one-to-one style socket (RFC 6458 clause 4) with our options set.
pub(crate) fn socket(address: SocketAddr, options: &Options) -> Result<Socket, Error> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::SCTP)).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT) => Error::NoSctp(error),
            _ => Error::Io {
                what: "SCTP socket",
                error,
            },
        }
    })?;
    let initmsg = libc::sctp_initmsg {
        sinit_num_ostreams: options.streams.max(1),
        sinit_max_instreams: options.streams.max(1),
        // Zero keeps the kernel's own number of attempts and their timeout.
        sinit_max_attempts: 0,
        sinit_max_init_timeo: 0,
    };
    sys::set_option(
        socket.as_fd(),
        libc::IPPROTO_SCTP,
        libc::SCTP_INITMSG,
        &initmsg,
    )
    .map_err(Error::io("SCTP_INITMSG"))?;
    configure(&socket)?;
    notice_loss(&socket, &options.liveness)?;
    socket
        .set_nonblocking(true)
        .map_err(Error::io("non-blocking SCTP socket"))?;
    Ok(socket)
}

/// Has the kernel find out in time that nobody answers any more.
fn notice_loss(socket: &Socket, liveness: &Liveness) -> Result<(), Error> {
    let set = |name, value: &[u8], what| {
        sys::set_octets(socket.as_fd(), libc::IPPROTO_SCTP, name, value).map_err(Error::io(what))
    };
    set(libc::SCTP_RTOINFO, &rto_info(liveness), "SCTP_RTOINFO")?;
    set(
        libc::SCTP_ASSOCINFO,
        &association_parameters(liveness),
        "SCTP_ASSOCINFO",
    )?;
    set(
        libc::SCTP_PEER_ADDR_PARAMS,
        &path_parameters(liveness),
        "SCTP_PEER_ADDR_PARAMS",
    )
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// `struct sctp_rtoinfo` (RFC 6458 8.1.1): association id i32, initial u32, max u32, min u32. In ms.
fn rto_info(liveness: &Liveness) -> [u8; 16] {
    let max = milliseconds(liveness.rto_max);
    let mut info = [0; 16];
    for (at, value) in [(4, max.min(RTO_INITIAL)), (8, max), (12, max.min(RTO_MIN))] {
        put(&mut info, at, &value.to_ne_bytes());
    }
    info
}

/// `struct sctp_assocparams` (RFC 6458 8.1.2): association id i32, asocmaxrxt u16, number of peer destinations u16,
/// peer rwnd u32, local rwnd u32, cookie life u32. Zero changes nothing.
fn association_parameters(liveness: &Liveness) -> [u8; 20] {
    let mut parameters = [0; 20];
    put(&mut parameters, 4, &liveness.retransmissions.to_ne_bytes());
    parameters
}

/// `struct sctp_paddrparams` (RFC 6458 8.1.12), packed: association id i32, address [u8; 128], heartbeat interval u32
/// in ms, pathmaxrxt u16, MTU u32, SACK delay u32, flags u32, flow label u32, DSCP u8, and one of padding.
fn path_parameters(liveness: &Liveness) -> [u8; 156] {
    /// `SPP_HB_ENABLE`.
    const HEARTBEAT: u32 = 1;
    let mut parameters = [0; 156];
    let interval = milliseconds(liveness.heartbeat);
    put(&mut parameters, 132, &interval.to_ne_bytes());
    put(
        &mut parameters,
        136,
        &liveness.retransmissions.to_ne_bytes(),
    );
    put(&mut parameters, 146, &HEARTBEAT.to_ne_bytes());
    parameters
}

fn put(octets: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = octets.get_mut(at..at + value.len()) {
        field.copy_from_slice(value);
    }
}

/// The options that an accepted socket needs too.
pub(crate) fn configure(socket: &Socket) -> Result<(), Error> {
    for (name, what) in [
        // Signalling waits for its answer: never for more of it.
        (libc::SCTP_NODELAY, "SCTP_NODELAY"),
        (libc::SCTP_RECVRCVINFO, "SCTP_RECVRCVINFO"),
    ] {
        sys::set_option(socket.as_fd(), libc::IPPROTO_SCTP, name, &1).map_err(Error::io(what))?;
    }
    Ok(())
}

/// The outbound streams that the two ends agreed on.
pub(crate) fn outbound_streams(socket: &Socket) -> io::Result<u16> {
    // struct sctp_status (RFC 6458 8.2.1): association id i32, state i32, rwnd
    // u32, unacked u16, pending u16, inbound streams u16, outbound streams u16.
    let mut status = [0u8; 256];
    let len = sys::get_option(
        socket.as_fd(),
        libc::IPPROTO_SCTP,
        libc::SCTP_STATUS,
        &mut status,
    )?;
    status
        .get(..len)
        .and_then(|status| status.get(18..20))
        .and_then(|field| <[u8; 2]>::try_from(field).ok())
        .map(u16::from_ne_bytes)
        .ok_or_else(|| io::Error::other("a short SCTP_STATUS"))
}

/// The control message that sends on `stream` with `ppid`.
pub(crate) fn send_info(stream: u16, ppid: u32) -> Vec<u8> {
    let mut control = Vec::with_capacity(CMSG_HEADER + SNDINFO);
    control.extend_from_slice(&(CMSG_HEADER + SNDINFO).to_ne_bytes());
    control.extend_from_slice(&libc::IPPROTO_SCTP.to_ne_bytes());
    control.extend_from_slice(&libc::SCTP_SNDINFO.to_ne_bytes());
    control.extend_from_slice(&stream.to_ne_bytes());
    control.extend_from_slice(&[0; 2]);
    // The kernel passes the identifier through untouched: the network order of
    // TS 38.412 is ours to make.
    control.extend_from_slice(&ppid.to_be_bytes());
    control.extend_from_slice(&[0; 8]);
    control
}

/// Stream and payload protocol identifier out of received control messages.
pub(crate) fn receive_info(mut control: &[u8]) -> Option<(u16, u32)> {
    loop {
        let (len, rest) = control.split_first_chunk::<{ size_of::<usize>() }>()?;
        let (level, rest) = rest.split_first_chunk::<4>()?;
        let (kind, _) = rest.split_first_chunk::<4>()?;
        let len = usize::from_ne_bytes(*len);
        let body = control.get(CMSG_HEADER..len)?;
        if i32::from_ne_bytes(*level) == libc::IPPROTO_SCTP
            && i32::from_ne_bytes(*kind) == libc::SCTP_RCVINFO
            && body.len() >= RCVINFO
        {
            let stream = <[u8; 2]>::try_from(body.get(..2)?).ok()?;
            let ppid = <[u8; 4]>::try_from(body.get(8..12)?).ok()?;
            return Some((u16::from_ne_bytes(stream), u32::from_be_bytes(ppid)));
        }
        control = control.get(len.next_multiple_of(size_of::<usize>())..)?;
    }
}
