//! Encryption and integrity algorithms (RFC 8221, RFC 8247).

use std::{fmt, str::FromStr};

use thiserror::Error;

use crate::wire::{Transform, TransformType};

/// The text names no algorithm or no usable combination.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SuiteError {
    /// Not the name of an algorithm that fits here.
    #[error("no algorithm is called {0}")]
    Unknown(String),
    /// A keyword of a proposal that has no place there.
    #[error("{keyword}: {why}")]
    Keyword {
        /// The keyword as written.
        keyword: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two algorithms of one kind, or a kind that is missing.
    #[error("{0}")]
    Combination(&'static str),
}

/// Key size of AES.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AesBits {
    /// 128 bits.
    B128,
    /// 192 bits.
    B192,
    /// 256 bits.
    B256,
}

impl AesBits {
    /// The size in bits, as in the Key Length attribute.
    pub const fn bits(self) -> u16 {
        match self {
            Self::B128 => 128,
            Self::B192 => 192,
            Self::B256 => 256,
        }
    }

    /// The size in octets.
    pub const fn octets(self) -> usize {
        match self {
            Self::B128 => 16,
            Self::B192 => 24,
            Self::B256 => 32,
        }
    }
}

/// Encryption algorithm (transform type 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encr {
    /// ENCR_AES_CBC, 12 (RFC 3602); needs an [`Integ`].
    AesCbc(AesBits),
    /// ENCR_AES_GCM_16, 20 (RFC 5282 in IKE, RFC 4106 in ESP): tag of 16 octets, no [`Integ`].
    AesGcm16(AesBits),
    /// ENCR_CHACHA20_POLY1305, 28 (RFC 7634): key of 256 bits, tag of 16 octets, no [`Integ`].
    ChaCha20Poly1305,
}

impl Encr {
    /// Every algorithm here, strongest first.
    pub const ALL: [Self; 7] = [
        Self::AesGcm16(AesBits::B256),
        Self::ChaCha20Poly1305,
        Self::AesGcm16(AesBits::B192),
        Self::AesGcm16(AesBits::B128),
        Self::AesCbc(AesBits::B256),
        Self::AesCbc(AesBits::B192),
        Self::AesCbc(AesBits::B128),
    ];

    /// Transform ID.
    pub const fn id(self) -> u16 {
        match self {
            Self::AesCbc(_) => 12,
            Self::AesGcm16(_) => 20,
            Self::ChaCha20Poly1305 => 28,
        }
    }

    /// Octets of the key, without the salt.
    pub const fn key_len(self) -> usize {
        match self {
            Self::AesCbc(bits) | Self::AesGcm16(bits) => bits.octets(),
            Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Octets of the salt that key material holds after the key.
    pub const fn salt_len(self) -> usize {
        match self {
            Self::AesCbc(_) => 0,
            Self::AesGcm16(_) | Self::ChaCha20Poly1305 => 4,
        }
    }

    /// Octets of the IV in front of the ciphertext.
    pub const fn iv_len(self) -> usize {
        match self {
            Self::AesCbc(_) => 16,
            Self::AesGcm16(_) | Self::ChaCha20Poly1305 => 8,
        }
    }

    /// Octets of the tag behind the ciphertext: 0 when an [`Integ`] makes it.
    pub const fn tag_len(self) -> usize {
        match self {
            Self::AesCbc(_) => 0,
            Self::AesGcm16(_) | Self::ChaCha20Poly1305 => 16,
        }
    }

    /// Whether encryption and integrity are one algorithm.
    pub const fn is_aead(self) -> bool {
        !matches!(self, Self::AesCbc(_))
    }

    /// The transform that offers it. ChaCha20 has one key size and so no Key Length attribute.
    pub const fn transform(self) -> Transform {
        match self {
            Self::AesCbc(bits) | Self::AesGcm16(bits) => {
                Transform::with_key_length(TransformType::ENCR, self.id(), bits.bits())
            }
            Self::ChaCha20Poly1305 => Transform::new(TransformType::ENCR, self.id()),
        }
    }

    /// The algorithm a transform names.
    pub fn from_transform(transform: &Transform) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|encr| encr.transform() == *transform)
    }
}

/// As in `swanctl --list-sas`: `AES_GCM_16-256`.
impl fmt::Display for Encr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AesCbc(bits) => write!(f, "AES_CBC-{}", bits.bits()),
            Self::AesGcm16(bits) => write!(f, "AES_GCM_16-{}", bits.bits()),
            Self::ChaCha20Poly1305 => f.write_str("CHACHA20_POLY1305"),
        }
    }
}

impl FromStr for Encr {
    type Err = SuiteError;

    fn from_str(text: &str) -> Result<Self, SuiteError> {
        Self::ALL
            .into_iter()
            .find(|encr| encr.to_string() == text)
            .ok_or_else(|| SuiteError::Unknown(text.to_owned()))
    }
}

/// Integrity algorithm (transform type 3): HMAC cut to half its length, SHA-1 to 96 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Integ {
    /// AUTH_HMAC_SHA1_96, 2 (RFC 2404).
    HmacSha1_96,
    /// AUTH_HMAC_SHA2_256_128, 12 (RFC 4868).
    HmacSha2_256_128,
    /// AUTH_HMAC_SHA2_384_192, 13 (RFC 4868).
    HmacSha2_384_192,
    /// AUTH_HMAC_SHA2_512_256, 14 (RFC 4868).
    HmacSha2_512_256,
}

impl Integ {
    /// Every algorithm here, strongest first.
    pub const ALL: [Self; 4] = [
        Self::HmacSha2_512_256,
        Self::HmacSha2_384_192,
        Self::HmacSha2_256_128,
        Self::HmacSha1_96,
    ];

    /// Transform ID.
    pub const fn id(self) -> u16 {
        match self {
            Self::HmacSha1_96 => 2,
            Self::HmacSha2_256_128 => 12,
            Self::HmacSha2_384_192 => 13,
            Self::HmacSha2_512_256 => 14,
        }
    }

    /// Octets of the key: the hash's output.
    pub const fn key_len(self) -> usize {
        match self {
            Self::HmacSha1_96 => 20,
            Self::HmacSha2_256_128 => 32,
            Self::HmacSha2_384_192 => 48,
            Self::HmacSha2_512_256 => 64,
        }
    }

    /// Octets of the integrity check value.
    pub const fn tag_len(self) -> usize {
        match self {
            Self::HmacSha1_96 => 12,
            Self::HmacSha2_256_128 => 16,
            Self::HmacSha2_384_192 => 24,
            Self::HmacSha2_512_256 => 32,
        }
    }

    /// The transform that offers it.
    pub const fn transform(self) -> Transform {
        Transform::new(TransformType::INTEG, self.id())
    }

    /// The algorithm a transform names.
    pub fn from_transform(transform: &Transform) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|integ| integ.transform() == *transform)
    }
}

/// As in `swanctl --list-sas`: `HMAC_SHA2_256_128`.
impl fmt::Display for Integ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HmacSha1_96 => "HMAC_SHA1_96",
            Self::HmacSha2_256_128 => "HMAC_SHA2_256_128",
            Self::HmacSha2_384_192 => "HMAC_SHA2_384_192",
            Self::HmacSha2_512_256 => "HMAC_SHA2_512_256",
        })
    }
}

impl FromStr for Integ {
    type Err = SuiteError;

    fn from_str(text: &str) -> Result<Self, SuiteError> {
        Self::ALL
            .into_iter()
            .find(|integ| integ.to_string() == text)
            .ok_or_else(|| SuiteError::Unknown(text.to_owned()))
    }
}
