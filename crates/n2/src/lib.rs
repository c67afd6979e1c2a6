//! NGAP transport: kernel SCTP or a Unix SOCK_SEQPACKET socket.
//!
//! NGAP runs over one SCTP association per transport network layer
//! association (TS 38.412 clause 7): payload protocol identifier 60, the AMF
//! listens on port 38412, the NG-RAN node (here the N3IWF) connects. Both
//! ends exchange whole messages, each on a numbered stream.
//!
//! A kernel without SCTP still runs everything above this crate over a Unix
//! `SOCK_SEQPACKET` socket ([`Address::Unix`]). That socket keeps message
//! boundaries but has neither streams nor payload protocol identifiers, so
//! each packet starts with them:
//!
//! ```text
//!  0               2                               6
//! +---------------+-------------------------------+-------------
//! | stream, u16   | payload protocol id, u32      | message ...
//! +---------------+-------------------------------+-------------
//! ```
//!
//! both big-endian.
//!
//! ```no_run
//! # async fn example() -> Result<(), n2::Error> {
//! let amf: n2::Address = "sctp:203.0.113.2:38412".parse()?;
//! let (send, mut recv) = n2::Association::connect(&amf, &n2::Options::default()).await?.into_split();
//! send.send(0, &[0x00, 0x15]).await?;
//! while let Some(message) = recv.recv().await? {
//!     println!("{} octets on stream {}", message.data.len(), message.stream);
//! }
//! # Ok(())
//! # }
//! ```

mod address;
mod association;
mod listener;
mod sctp;
mod socket;
mod sys;

use std::io;
use std::time::Duration;

pub use address::{Address, AddressError};
pub use association::{Association, RecvHalf, SendHalf};
pub use listener::Listener;
pub use sctp::supported as sctp_supported;

/// The port an AMF listens on (TS 38.412 clause 7).
pub const NGAP_PORT: u16 = 38412;

/// The SCTP payload protocol identifier of NGAP (TS 38.412 clause 7).
pub const NGAP_PPID: u32 = 60;

/// The longest message that is sent or received, in octets.
///
/// NGAP sets no bound; this one is far above any message of a non-3GPP
/// access and keeps a peer from filling our memory.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// One message of the peer.
#[derive(Clone, PartialEq, Eq)]
pub struct Received {
    /// The stream it came on. Stream 0 carries non-UE-associated signalling.
    pub stream: u16,
    /// The payload protocol identifier, [`NGAP_PPID`] from a proper peer. Some
    /// stacks write it in host order (0x3c000000): the caller decides.
    pub ppid: u32,
    /// The message.
    pub data: Vec<u8>,
}

impl std::fmt::Debug for Received {
    /// NGAP carries keys (K_N3IWF): the octets stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received")
            .field("stream", &self.stream)
            .field("ppid", &self.ppid)
            .field("len", &self.data.len())
            .finish()
    }
}

/// How an association is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How long [`Association::connect`] waits.
    pub connect_timeout: Duration,
    /// Outbound and inbound streams to ask for (SCTP_INITMSG).
    pub streams: u16,
    /// The local IP address to connect from, if not the kernel's choice.
    pub local: Option<std::net::IpAddr>,
    /// How soon a path that carries nothing is found out.
    pub liveness: Liveness,
}

/// When an SCTP association counts as lost (RFC 9260, 8.1 and 8.3). The kernel's own values take a quarter of an hour
/// over a path without traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    /// HB.Interval: silence after which a HEARTBEAT is sent. Up to half an RTO more passes between two.
    pub heartbeat: Duration,
    /// Association.Max.Retrans and Path.Max.Retrans: HEARTBEATs or retransmissions in a row without an answer.
    pub retransmissions: u16,
    /// RTO.Max.
    pub rto_max: Duration,
}

impl Default for Liveness {
    /// Lost after about half a minute of silence, or ten seconds with something to say.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            retransmissions: 4,
            rto_max: Duration::from_secs(3),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            streams: 16,
            local: None,
            liveness: Liveness::default(),
        }
    }
}

impl Options {
    /// The same options with another connect timeout.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The same options with another idea of when a path is lost.
    #[must_use]
    pub fn with_liveness(mut self, liveness: Liveness) -> Self {
        self.liveness = liveness;
        self
    }

    /// The same options with another local address.
    #[must_use]
    pub fn with_local(mut self, local: Option<std::net::IpAddr>) -> Self {
        self.local = local;
        self
    }
}

/// Why the transport failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address does not parse.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The kernel has no SCTP.
    #[error("this kernel has no SCTP (module sctp): {0}")]
    NoSctp(io::Error),
    /// No connection within [`Options::connect_timeout`].
    #[error("no answer from {address} within {timeout:?}")]
    Timeout {
        /// The peer.
        address: Address,
        /// The time waited.
        timeout: Duration,
    },
    /// The peer refused, or the association failed.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the kernel said. The message has it: it is no `source` too.
        error: io::Error,
    },
    /// A message is longer than [`MAX_MESSAGE`]. Received: it was dropped,
    /// and the association goes on.
    #[error("a message of more than {MAX_MESSAGE} octets")]
    TooLong,
    /// A message to send has no octets: neither transport can carry it.
    #[error("an empty message")]
    Empty,
    /// A packet of a Unix peer is too short for its stream and payload
    /// protocol identifier. It was dropped, and the association goes on.
    #[error("a packet of {0} octets has no stream and payload protocol identifier")]
    ShortPacket(usize),
}

impl Error {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { what, error }
    }

    /// Whether the association is still good: only one message was refused.
    #[must_use]
    pub fn is_recoverable(&self) -> bool {
        matches!(self, Self::TooLong | Self::Empty | Self::ShortPacket(_))
    }
}

#[cfg(test)]
mod tests;
