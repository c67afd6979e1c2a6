//! How long an inner packet is on the wire.

use std::ops::RangeInclusive;

use crate::{EncrAlg, IntegAlg};

/// Algorithms of a Child SA, for length arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// Encryption.
    pub encr: EncrAlg,
    /// Integrity; `None` with an AEAD.
    pub integ: Option<IntegAlg>,
}

impl Suite {
    /// By IKEv2 Transform IDs (types 1 and 3). `None`: the data plane does not have one of them.
    pub fn from_transforms(encr: u16, integ: Option<u16>) -> Option<Self> {
        let integ = match integ {
            Some(id) => Some(IntegAlg::from_transform(id)?),
            None => None,
        };
        let encr = EncrAlg::from_transform(encr)?;
        Some(Self { encr, integ })
    }

    pub(crate) const fn iv(self) -> usize {
        match self.encr {
            EncrAlg::AesGcm16 | EncrAlg::ChaCha20Poly1305 => 8,
            EncrAlg::AesCbc => 16,
        }
    }

    pub(crate) const fn icv(self) -> usize {
        match (self.encr, self.integ) {
            (EncrAlg::AesGcm16 | EncrAlg::ChaCha20Poly1305, _) => 16,
            (EncrAlg::AesCbc, Some(integ)) => integ.icv_len(),
            (EncrAlg::AesCbc, None) => 0,
        }
    }

    /// The boundary that inner packet, padding, pad length and next header end on (RFC 4303
    /// section 2.4).
    pub(crate) const fn block(self) -> usize {
        match self.encr {
            EncrAlg::AesGcm16 | EncrAlg::ChaCha20Poly1305 => 4,
            EncrAlg::AesCbc => 16,
        }
    }

    /// Octets that every packet gains whatever its length.
    const fn fixed(self, encap: bool, v6: bool) -> usize {
        let ip = if v6 { 40 } else { 20 };
        let udp = if encap { 8 } else { 0 };
        ip + udp + 8 + self.iv() + self.icv()
    }
}

/// Length of the outer IP packet that carries an inner packet of `inner` octets in tunnel mode:
/// outer IP header without options, UDP header if `encap`, SPI and sequence number, IV, inner
/// packet, padding, pad length, next header, ICV.
pub const fn wire_length(suite: Suite, encap: bool, v6: bool, inner: usize) -> usize {
    suite.fixed(encap, v6) + (inner + 2).next_multiple_of(suite.block())
}

/// Smallest and largest number of octets by which an outer packet is longer than its inner packet.
///
/// For `n` packets, octets counted by the kernel's SA (inner) and by eBPF (outer) relate as
/// `kernel + n * start <= ebpf <= kernel + n * end`.
pub const fn wire_overhead_bounds(suite: Suite, encap: bool, v6: bool) -> RangeInclusive<usize> {
    let least = suite.fixed(encap, v6) + 2;
    least..=least + suite.block() - 1
}

/// Largest inner packet that fits a path of `mtu` octets unfragmented; 0 when none does.
pub const fn inner_mtu(suite: Suite, encap: bool, v6: bool, mtu: usize) -> usize {
    let room = mtu.saturating_sub(suite.fixed(encap, v6));
    (room - room % suite.block()).saturating_sub(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GCM: Suite = Suite {
        encr: EncrAlg::AesGcm16,
        integ: None,
    };
    const CBC_SHA1: Suite = Suite {
        encr: EncrAlg::AesCbc,
        integ: Some(IntegAlg::HmacSha1_96),
    };
    const CBC_SHA512: Suite = Suite {
        encr: EncrAlg::AesCbc,
        integ: Some(IntegAlg::HmacSha2_512_256),
    };

    #[test]
    fn lengths_by_hand() {
        // 20 IP + 8 ESP + 16 IV + 1440 (1438 + 2) + 12 ICV.
        assert_eq!(wire_length(CBC_SHA1, false, false, 1438), 1496);
        assert_eq!(inner_mtu(CBC_SHA1, false, false, 1500), 1438);
        // 20 IP + 8 UDP + 8 ESP + 8 IV + 88 (84 + 2 + 2 padding) + 16 ICV.
        assert_eq!(wire_length(GCM, true, false, 84), 148);
    }

    #[test]
    fn bounds_are_tight() {
        for suite in [GCM, CBC_SHA1, CBC_SHA512] {
            for (encap, v6) in [(false, false), (true, false), (false, true), (true, true)] {
                let overhead: Vec<usize> = (28..200)
                    .map(|inner| wire_length(suite, encap, v6, inner) - inner)
                    .collect();
                let bounds = wire_overhead_bounds(suite, encap, v6);
                assert_eq!(overhead.iter().min(), Some(bounds.start()));
                assert_eq!(overhead.iter().max(), Some(bounds.end()));
                let mtu = inner_mtu(suite, encap, v6, 1500);
                assert!(wire_length(suite, encap, v6, mtu) <= 1500);
                assert!(wire_length(suite, encap, v6, mtu + 1) > 1500);
            }
        }
    }

    #[test]
    fn the_default_mtu_fits_every_suite_on_a_1500_octet_path() {
        let default = usize::try_from(crate::config::DEFAULT_MTU).unwrap();
        for suite in [GCM, CBC_SHA1] {
            assert!(inner_mtu(suite, true, true, 1500) >= default);
        }
        // IP and GRE with key: what a PDU session keeps.
        assert_eq!(default - 20 - 8, 1358);
    }
}
