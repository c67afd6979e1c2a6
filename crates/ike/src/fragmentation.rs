//! How messages are cut into fragments, and what may be collected of the peer's (RFC 7383).

use std::time::Duration;

use crate::{event::Path, sa::NAT_PORT};

/// Smallest IP datagram that messages are cut for, as every IPv4 host takes it (RFC 791 3.1).
const SMALLEST_DATAGRAM: u16 = 576;
const UDP_HEADER: usize = 8;
const NON_ESP_MARKER: usize = 4;

/// Fragmentation of protected messages: all but IKE_SA_INIT, in every mode but the `paper` profile of `qkd`.
///
/// Used when both ends said IKEV2_FRAGMENTATION_SUPPORTED. The size is not tried out: a path that takes less than
/// `datagram` has to be known to whoever configures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragmentation {
    /// Octets of the largest IP datagram to send, IP and UDP headers included: a message that fits is sent whole. Below
    /// 576 it counts as 576. `None`: fragmentation is neither offered nor accepted.
    pub datagram: Option<u16>,
    /// Fragments of one message of the peer; one that claims more is dropped.
    pub max_fragments: u16,
    /// Octets of one message of the peer. Each IKE SA collects at most one request and one response.
    pub max_octets: usize,
    /// How long fragments wait for the rest of their message.
    pub timeout: Duration,
}

impl Default for Fragmentation {
    fn default() -> Self {
        Self {
            // What every IPv6 path takes (RFC 7383 2.5.1).
            datagram: Some(1280),
            max_fragments: 64,
            max_octets: 32_768,
            timeout: Duration::from_secs(30),
        }
    }
}

impl Fragmentation {
    /// Octets an IKE message may have on this path; `None` without fragmentation.
    pub(crate) fn room(&self, path: Path) -> Option<usize> {
        let datagram = usize::from(self.datagram?.max(SMALLEST_DATAGRAM));
        let ip = if path.remote.is_ipv6() { 40 } else { 20 };
        let marker = match path.local.port() {
            NAT_PORT => NON_ESP_MARKER,
            _ => 0,
        };
        Some(datagram - ip - UDP_HEADER - marker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_headers_leave() {
        let path = |ip: &str, port| Path {
            local: (ip.parse::<std::net::IpAddr>().unwrap(), port).into(),
            remote: (ip.parse::<std::net::IpAddr>().unwrap(), 500).into(),
        };
        let config = Fragmentation::default();
        assert_eq!(config.room(path("192.0.2.1", 500)), Some(1252));
        assert_eq!(config.room(path("192.0.2.1", 4500)), Some(1248));
        assert_eq!(config.room(path("2001:db8::1", 4500)), Some(1228));
        let tiny = Fragmentation {
            datagram: Some(0),
            ..config
        };
        assert_eq!(tiny.room(path("2001:db8::1", 4500)), Some(524));
        let off = Fragmentation {
            datagram: None,
            ..config
        };
        assert_eq!(off.room(path("192.0.2.1", 500)), None);
    }
}
