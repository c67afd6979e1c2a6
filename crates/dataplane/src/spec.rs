//! What a daemon asks the data plane to install.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use keys::Secret;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Which end of NWu this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The network end: one inner address on the XFRM interface, a route for all UEs.
    N3iwf,
    /// The UE: its inner address arrives with the signalling Child SA.
    Ue,
}

/// What a Child SA carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    /// The signalling Child SA: NAS over TCP (TS 24.502 clause 8.2).
    Control,
    /// A user-plane Child SA: GRE (TS 24.502 clause 8.3).
    User,
}

/// ESP encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncrAlg {
    /// AES-GCM with a 16-octet ICV (RFC 4106); needs a salt, no integrity algorithm.
    AesGcm16,
    /// AES-CBC (RFC 3602); needs an integrity algorithm.
    AesCbc,
    /// ChaCha20-Poly1305 with a 16-octet ICV (RFC 7634), 32-octet key; needs a salt, no integrity
    /// algorithm.
    #[serde(rename = "chacha20_poly1305")]
    ChaCha20Poly1305,
}

impl EncrAlg {
    /// By IKEv2 Transform ID (type 1).
    pub const fn from_transform(id: u16) -> Option<Self> {
        match id {
            12 => Some(Self::AesCbc),
            20 => Some(Self::AesGcm16),
            28 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    const fn takes_key(self, octets: usize) -> bool {
        match self {
            Self::AesGcm16 | Self::AesCbc => matches!(octets, 16 | 24 | 32),
            Self::ChaCha20Poly1305 => octets == 32,
        }
    }
}

/// ESP integrity, for encryption that has none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntegAlg {
    /// HMAC-SHA1-96 (RFC 2404), 20-octet key.
    HmacSha1_96,
    /// HMAC-SHA2-256-128 (RFC 4868), 32-octet key.
    HmacSha2_256_128,
    /// HMAC-SHA2-384-192 (RFC 4868), 48-octet key.
    HmacSha2_384_192,
    /// HMAC-SHA2-512-256 (RFC 4868), 64-octet key.
    HmacSha2_512_256,
}

impl IntegAlg {
    /// By IKEv2 Transform ID (type 3).
    pub const fn from_transform(id: u16) -> Option<Self> {
        match id {
            2 => Some(Self::HmacSha1_96),
            12 => Some(Self::HmacSha2_256_128),
            13 => Some(Self::HmacSha2_384_192),
            14 => Some(Self::HmacSha2_512_256),
            _ => None,
        }
    }

    /// Length of the key, octets.
    pub const fn key_len(self) -> usize {
        match self {
            Self::HmacSha1_96 => 20,
            Self::HmacSha2_256_128 => 32,
            Self::HmacSha2_384_192 => 48,
            Self::HmacSha2_512_256 => 64,
        }
    }

    /// Length of the ICV on the wire, octets.
    pub const fn icv_len(self) -> usize {
        match self {
            Self::HmacSha1_96 => 12,
            Self::HmacSha2_256_128 => 16,
            Self::HmacSha2_384_192 => 24,
            Self::HmacSha2_512_256 => 32,
        }
    }
}

/// Keys of one direction.
pub struct EspKeys {
    /// Encryption key: 16, 24 or 32 octets, without the salt.
    pub encr: Secret,
    /// AEAD salt (RFC 4106 section 4); ignored for AES-CBC.
    pub salt: [u8; 4],
    /// Integrity key; `None` with an AEAD.
    pub integ: Option<Secret>,
}

/// Everything about one Child SA: both states and their policies.
///
/// `Debug` shows no key.
pub struct ChildSaSpec {
    /// The daemon's number of this Child SA; unique while installed.
    pub id: u64,
    /// What it carries.
    pub plane: Plane,
    /// The daemon's number of the UE.
    pub ue: u32,
    /// PDU session ID; `None` for the signalling Child SA.
    pub pdu_session: Option<u8>,
    /// Our SPI, host order. Never 0..=255 (RFC 4303 section 2.1).
    pub spi_in: u32,
    /// The peer's SPI, host order. Any but 0: some peers choose reserved ones.
    pub spi_out: u32,
    /// Encryption algorithm of both directions.
    pub encr: EncrAlg,
    /// Integrity algorithm of both directions.
    pub integ: Option<IntegAlg>,
    /// Keys of packets from the peer.
    pub keys_in: EspKeys,
    /// Keys of packets to the peer.
    pub keys_out: EspKeys,
    /// 64-bit sequence numbers (RFC 4303 section 2.2.1).
    pub esn: bool,
    /// Replay window in packets, 32..=4096.
    pub replay_window: u32,
    /// Our outer address; the port counts only with `udp_encap`.
    pub local: SocketAddr,
    /// The peer's outer address; the port counts only with `udp_encap`.
    pub remote: SocketAddr,
    /// ESP in UDP (RFC 3948).
    pub udp_encap: bool,
    /// Our inner address.
    pub inner_local: IpAddr,
    /// The peer's inner address.
    pub inner_remote: IpAddr,
    /// Inner protocol of the policies: 6 for signalling, 47 for GRE, `None` for any.
    pub protocol: Option<u8>,
    /// Number of the XFRM interface: 0 for signalling and a UE's first PDU session, k for its k-th
    /// further session, whose selectors would collide.
    pub slot: u32,
    /// Ties states and policies together; below 2^20. A rekeyed Child SA keeps the reqid of the one
    /// it replaces: the policies are then shared and go with the last of the two.
    pub reqid: u32,
}

impl fmt::Debug for ChildSaSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSaSpec")
            .field("id", &self.id)
            .field("plane", &self.plane)
            .field("ue", &self.ue)
            .field("pdu_session", &self.pdu_session)
            .field("spi_in", &format_args!("{:#010x}", self.spi_in))
            .field("spi_out", &format_args!("{:#010x}", self.spi_out))
            .field("encr", &self.encr)
            .field("integ", &self.integ)
            .field("esn", &self.esn)
            .field("replay_window", &self.replay_window)
            .field("local", &self.local)
            .field("remote", &self.remote)
            .field("udp_encap", &self.udp_encap)
            .field("inner_local", &self.inner_local)
            .field("inner_remote", &self.inner_remote)
            .field("protocol", &self.protocol)
            .field("slot", &self.slot)
            .field("reqid", &self.reqid)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a [`ChildSaSpec`] before the kernel is asked at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The encryption key does not fit AES.
    #[error("an AES key has 16, 24 or 32 octets, this one has {0}")]
    EncrKey(usize),
    /// The integrity key does not fit the algorithm.
    #[error("the integrity key has {have} octets, {want} are needed")]
    IntegKey {
        /// Length given.
        have: usize,
        /// Length the algorithm has.
        want: usize,
    },
    /// AES-CBC without integrity, or AES-GCM with a second one.
    #[error("AES-CBC needs an integrity algorithm and key, AES-GCM has none")]
    Integrity,
    /// Our SPI is one of 0..=255, which are reserved, or the peer's is 0.
    #[error("SPI {0} is reserved")]
    Spi(u32),
    /// Outside 32..=4096.
    #[error("replay window {0} is outside 32..=4096")]
    ReplayWindow(u32),
    /// IPv4 and IPv6 mixed within the outer or within the inner addresses.
    #[error("both {0} addresses must be of one IP version")]
    Family(&'static str),
    /// reqid of 2^20 or above.
    #[error("reqid {0} is above 1048575")]
    Reqid(u32),
    /// More XFRM interfaces than configured.
    #[error("slot {slot}: only {slots} XFRM interfaces are configured")]
    Slot {
        /// Slot asked for.
        slot: u32,
        /// Configured number.
        slots: u32,
    },
    /// A user-plane SA without a PDU session, or signalling with one.
    #[error("a user-plane Child SA has a PDU session, the signalling one has none")]
    Session,
}

/// Reqids a daemon may use: `0..MAX_REQID`.
pub(crate) const MAX_REQID: u32 = 1 << 20;

impl ChildSaSpec {
    /// Checks what needs no kernel; `slots` is the configured number of XFRM interfaces.
    pub fn check(&self, slots: u32) -> Result<(), SpecError> {
        // The peer's SPI is the peer's choice: free5GC's UE receives on 2.
        if self.spi_in <= 255 || self.spi_out == 0 {
            return Err(SpecError::Spi(self.spi_in.min(self.spi_out)));
        }
        for keys in [&self.keys_in, &self.keys_out] {
            if !self.encr.takes_key(keys.encr.len()) {
                return Err(SpecError::EncrKey(keys.encr.len()));
            }
            match (self.encr, self.integ, &keys.integ) {
                (EncrAlg::AesGcm16 | EncrAlg::ChaCha20Poly1305, None, None) => {}
                (EncrAlg::AesCbc, Some(alg), Some(key)) if key.len() == alg.key_len() => {}
                (EncrAlg::AesCbc, Some(alg), Some(key)) => {
                    return Err(SpecError::IntegKey {
                        have: key.len(),
                        want: alg.key_len(),
                    });
                }
                _ => return Err(SpecError::Integrity),
            }
        }
        if !(32..=4096).contains(&self.replay_window) {
            return Err(SpecError::ReplayWindow(self.replay_window));
        }
        if self.local.is_ipv4() != self.remote.is_ipv4() {
            return Err(SpecError::Family("outer"));
        }
        if self.inner_local.is_ipv4() != self.inner_remote.is_ipv4() {
            return Err(SpecError::Family("inner"));
        }
        if self.reqid >= MAX_REQID {
            return Err(SpecError::Reqid(self.reqid));
        }
        if self.slot >= slots {
            return Err(SpecError::Slot {
                slot: self.slot,
                slots,
            });
        }
        if self.pdu_session.is_some() != (self.plane == Plane::User) {
            return Err(SpecError::Session);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sa() -> ChildSaSpec {
        let keys = || EspKeys {
            encr: Secret::filled(32, |o| o.fill(0xa5)),
            salt: [0xa5; 4],
            integ: None,
        };
        ChildSaSpec {
            id: 1,
            plane: Plane::User,
            ue: 1,
            pdu_session: Some(5),
            spi_in: 256,
            spi_out: u32::MAX,
            encr: EncrAlg::AesGcm16,
            integ: None,
            keys_in: keys(),
            keys_out: keys(),
            esn: true,
            replay_window: 32,
            local: "192.0.2.1:4500".parse().unwrap(),
            remote: "192.0.2.10:4500".parse().unwrap(),
            udp_encap: false,
            inner_local: "10.0.0.1".parse().unwrap(),
            inner_remote: "10.0.0.2".parse().unwrap(),
            protocol: None,
            slot: 15,
            reqid: MAX_REQID - 1,
        }
    }

    #[test]
    fn the_extremes_are_fine() {
        assert_eq!(sa().check(16), Ok(()));
        let mut cbc = sa();
        cbc.encr = EncrAlg::AesCbc;
        cbc.integ = Some(IntegAlg::HmacSha1_96);
        for keys in [&mut cbc.keys_in, &mut cbc.keys_out] {
            keys.integ = Some(Secret::filled(20, |o| o.fill(1)));
        }
        assert_eq!(cbc.check(16), Ok(()));
    }

    #[test]
    fn a_peer_may_receive_on_a_reserved_spi() {
        let mut sa = sa();
        sa.spi_out = 2;
        assert_eq!(sa.check(16), Ok(()));
    }

    #[test]
    fn contradictions_are_named() {
        type Change = fn(&mut ChildSaSpec);
        let cases: [(SpecError, Change); 14] = [
            (SpecError::Spi(255), |sa| sa.spi_in = 255),
            (SpecError::Spi(0), |sa| sa.spi_out = 0),
            (SpecError::EncrKey(20), |sa| {
                sa.keys_out.encr = Secret::filled(20, |o| o.fill(1));
            }),
            (SpecError::EncrKey(16), |sa| {
                sa.encr = EncrAlg::ChaCha20Poly1305;
                sa.keys_in.encr = Secret::filled(16, |o| o.fill(1));
            }),
            (SpecError::Integrity, |sa| {
                sa.encr = EncrAlg::ChaCha20Poly1305;
                sa.integ = Some(IntegAlg::HmacSha2_256_128);
            }),
            (SpecError::Integrity, |sa| sa.encr = EncrAlg::AesCbc),
            (SpecError::Integrity, |sa| {
                sa.integ = Some(IntegAlg::HmacSha1_96);
            }),
            (SpecError::IntegKey { have: 20, want: 32 }, |sa| {
                sa.encr = EncrAlg::AesCbc;
                sa.integ = Some(IntegAlg::HmacSha2_256_128);
                sa.keys_in.integ = Some(Secret::filled(20, |o| o.fill(1)));
            }),
            (SpecError::ReplayWindow(31), |sa| sa.replay_window = 31),
            (SpecError::ReplayWindow(4097), |sa| sa.replay_window = 4097),
            (SpecError::Family("outer"), |sa| {
                sa.remote = "[2001:db8::1]:4500".parse().unwrap();
            }),
            (SpecError::Family("inner"), |sa| {
                sa.inner_remote = "2001:db8::1".parse().unwrap();
            }),
            (SpecError::Reqid(MAX_REQID), |sa| sa.reqid = MAX_REQID),
            (SpecError::Session, |sa| sa.pdu_session = None),
        ];
        for (error, change) in cases {
            let mut sa = sa();
            change(&mut sa);
            assert_eq!(sa.check(16), Err(error));
        }
        assert_eq!(
            sa().check(15),
            Err(SpecError::Slot {
                slot: 15,
                slots: 15
            })
        );
    }

    #[test]
    fn debug_shows_no_key() {
        let text = format!("{:?}", sa());
        assert!(text.contains("spi_in: 0x00000100"), "{text}");
        assert!(!text.contains("a5") && !text.contains("165"), "{text}");
    }
}
