//! Pseudorandom functions and prf+ (RFC 7296, section 2.13), and the HMAC under them.

use std::{fmt, str::FromStr};

use hmac::{Hmac, KeyInit, Mac};
use keys::Secret;
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use zeroize::Zeroize;

use super::{keymat::KeyError, suite::SuiteError};
use crate::wire::{Transform, TransformType};

/// Pseudorandom function (transform type 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Prf {
    /// PRF_HMAC_SHA1, 2 (RFC 2104).
    HmacSha1,
    /// PRF_HMAC_SHA2_256, 5 (RFC 4868).
    HmacSha2_256,
    /// PRF_HMAC_SHA2_384, 6 (RFC 4868).
    HmacSha2_384,
    /// PRF_HMAC_SHA2_512, 7 (RFC 4868).
    HmacSha2_512,
}

impl Prf {
    /// Every function here, strongest first.
    pub const ALL: [Self; 4] = [
        Self::HmacSha2_512,
        Self::HmacSha2_384,
        Self::HmacSha2_256,
        Self::HmacSha1,
    ];

    /// Transform ID.
    pub const fn id(self) -> u16 {
        match self {
            Self::HmacSha1 => 2,
            Self::HmacSha2_256 => 5,
            Self::HmacSha2_384 => 6,
            Self::HmacSha2_512 => 7,
        }
    }

    /// Octets of the output, and of the preferred key.
    pub const fn key_len(self) -> usize {
        match self {
            Self::HmacSha1 => 20,
            Self::HmacSha2_256 => 32,
            Self::HmacSha2_384 => 48,
            Self::HmacSha2_512 => 64,
        }
    }

    /// Fewest octets a nonce may have: half the key, and 16 (RFC 7296, section 2.10).
    pub const fn min_nonce_len(self) -> usize {
        match self {
            Self::HmacSha1 | Self::HmacSha2_256 => 16,
            Self::HmacSha2_384 => 24,
            Self::HmacSha2_512 => 32,
        }
    }

    /// `prf(key, parts[0] | parts[1] | ...)`, [`Self::key_len`] octets.
    pub fn mac(self, key: &[u8], parts: &[&[u8]]) -> Secret {
        match self {
            Self::HmacSha1 => hmac::<Hmac<Sha1>>(key, parts),
            Self::HmacSha2_256 => hmac::<Hmac<Sha256>>(key, parts),
            Self::HmacSha2_384 => hmac::<Hmac<Sha384>>(key, parts),
            Self::HmacSha2_512 => hmac::<Hmac<Sha512>>(key, parts),
        }
    }

    /// `prf+(key, seed[0] | seed[1] | ...)`, `len` octets: at most 255 blocks.
    pub fn plus(self, key: &[u8], seed: &[&[u8]], len: usize) -> Result<Secret, KeyError> {
        let block = self.key_len();
        if len > 255 * block {
            return Err(KeyError::TooLong(len));
        }
        Ok(Secret::filled(len, |out| {
            let mut previous = Secret::from_slice(&[]);
            for (chunk, counter) in out.chunks_mut(block).zip(1u8..=255) {
                let counter = [counter];
                let mut parts = Vec::with_capacity(seed.len() + 2);
                parts.push(previous.expose());
                parts.extend_from_slice(seed);
                parts.push(&counter);
                let next = self.mac(key, &parts);
                for (to, from) in chunk.iter_mut().zip(next.expose()) {
                    *to = *from;
                }
                previous = next;
            }
        }))
    }

    /// The transform that offers it.
    pub const fn transform(self) -> Transform {
        Transform::new(TransformType::PRF, self.id())
    }

    /// The function a transform names.
    pub fn from_transform(transform: &Transform) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|prf| prf.transform() == *transform)
    }
}

/// As in `swanctl --list-sas`: `PRF_HMAC_SHA2_256`.
impl fmt::Display for Prf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HmacSha1 => "PRF_HMAC_SHA1",
            Self::HmacSha2_256 => "PRF_HMAC_SHA2_256",
            Self::HmacSha2_384 => "PRF_HMAC_SHA2_384",
            Self::HmacSha2_512 => "PRF_HMAC_SHA2_512",
        })
    }
}

impl FromStr for Prf {
    type Err = SuiteError;

    fn from_str(text: &str) -> Result<Self, SuiteError> {
        Self::ALL
            .into_iter()
            .find(|prf| prf.to_string() == text)
            .ok_or_else(|| SuiteError::Unknown(text.to_owned()))
    }
}

/// HMAC of the parts one after the other.
fn hmac<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Secret {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("a key of any length");
    for part in parts {
        mac.update(part);
    }
    let mut octets = mac.finalize().into_bytes();
    let secret = Secret::from_slice(&octets);
    octets.as_mut_slice().zeroize();
    secret
}
