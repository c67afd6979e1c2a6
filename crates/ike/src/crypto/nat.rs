//! NAT detection (RFC 7296, section 2.23).

use std::net::{IpAddr, SocketAddr};

use sha1::{Digest, Sha1};

/// `SHA-1(SPIi | SPIr | IP | port)`: the data of NAT_DETECTION_SOURCE_IP and _DESTINATION_IP.
///
/// The SPIs are those of the header the notification travels in: in the first request `spi_r` is 0.
/// An IPv4-mapped address of a dual-stack socket counts as the IPv4 address it is.
pub fn detection_hash(spi_i: u64, spi_r: u64, address: SocketAddr) -> [u8; 20] {
    let mut hash = Sha1::new();
    hash.update(spi_i.to_be_bytes());
    hash.update(spi_r.to_be_bytes());
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => hash.update(v4.octets()),
        IpAddr::V6(v6) => hash.update(v6.octets()),
    }
    hash.update(address.port().to_be_bytes());
    hash.finalize().into()
}
