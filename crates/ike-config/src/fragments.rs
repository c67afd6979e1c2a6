//! Size of fragments.

use daemon::config::Complaint;
use ike::Fragmentation;

/// What every IPv6 path takes, and what is left of most others (RFC 7383, section 2.5.1).
pub const FRAGMENT_SIZE: u16 = 1280;

/// What every IPv4 host takes (RFC 791, section 3.1).
const SMALLEST: u16 = 576;

/// Fragmentation for IP datagrams of `octets`; `key` is where they stand.
///
/// # Errors
/// A [`Complaint`] about fewer than 576.
pub fn fragmentation(key: &str, octets: u16) -> Result<Fragmentation, Complaint> {
    if octets < SMALLEST {
        let what = format!("{octets} octets: from {SMALLEST} on, which every host takes");
        return Err(Complaint::new(key, what));
    }
    Ok(Fragmentation {
        datagram: Some(octets),
        ..Fragmentation::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_every_host_takes_is_an_error() {
        assert_eq!(fragmentation("k", 576).unwrap().datagram, Some(576));
        assert_eq!(fragmentation("k", 1280).unwrap(), Fragmentation::default());
        assert_eq!(fragmentation("k", u16::MAX).unwrap().datagram, Some(65535));
        let error = fragmentation("k", 575).unwrap_err().to_string();
        assert!(error.starts_with("k: 575 octets"), "{error}");
    }
}
