//! Identifiers that travel in clear: QKD key IDs and SAE IDs.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// A QKD key identifier: a UUID, compared as 128 bits whatever its spelling (ETSI GS QKD 014, 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 16]);

/// The text is not a UUID.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a key_ID is a UUID of 36 characters")]
pub struct KeyIdError;

impl KeyId {
    /// From the 16 octets of a UUID in network order.
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    /// The 16 octets in network order.
    pub const fn octets(&self) -> &[u8; 16] {
        &self.0
    }

    /// The first eight hexadecimal digits: enough to tell keys apart in a table.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Uuid::from_bytes(self.0).hyphenated(), f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        // Only the hyphenated form: braces and URNs are not key_IDs.
        if text.len() != 36 {
            return Err(KeyIdError);
        }
        let uuid = Uuid::try_parse(text).map_err(|_| KeyIdError)?;
        Ok(Self(*uuid.as_bytes()))
    }
}

impl Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The identity of a Secure Application Entity: 1 to 255 octets of UTF-8 without control characters.
/// Cheap to clone: it stands beside every key and every IKE SA.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SaeId(Arc<str>);

/// Why a string is no SAE ID.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SaeIdError {
    /// Empty, or longer than 255 octets.
    #[error("an SAE ID has 1 to 255 octets, this one has {0}")]
    Length(usize),
    /// A control character, which no log or URL should carry.
    #[error("an SAE ID has no control characters")]
    Control,
    /// Not UTF-8 at all.
    #[error("an SAE ID is UTF-8")]
    Encoding,
}

impl SaeId {
    /// Reads the octets of an SAE ID as carried in QKD_SUPPORTED.
    pub fn from_octets(octets: &[u8]) -> Result<Self, SaeIdError> {
        std::str::from_utf8(octets)
            .map_err(|_| SaeIdError::Encoding)?
            .parse()
    }

    /// `-`: stands where a type wants an SAE ID and no mode has QKD keys. Never sent.
    pub fn absent() -> Self {
        Self("-".into())
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SaeId {
    type Err = SaeIdError;

    fn from_str(text: &str) -> Result<Self, SaeIdError> {
        if text.is_empty() || text.len() > 255 {
            return Err(SaeIdError::Length(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(SaeIdError::Control);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for SaeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SaeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaeId({:?})", self.0)
    }
}

impl Serialize for SaeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SaeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_id_is_compared_as_128_bits() {
        let lower: KeyId = "0b2e9c4e-5a77-4a4d-8f0e-0123456789ab".parse().unwrap();
        let upper: KeyId = "0B2E9C4E-5A77-4A4D-8F0E-0123456789AB".parse().unwrap();
        assert_eq!(lower, upper);
        assert_eq!(upper.to_string(), "0b2e9c4e-5a77-4a4d-8f0e-0123456789ab");
        assert_eq!(upper.short(), "0b2e9c4e");
    }

    #[test]
    fn key_id_rejects_other_spellings() {
        for text in [
            "",
            "{0b2e9c4e-5a77-4a4d-8f0e-0123456789ab}",
            "0b2e9c4e5a774a4d8f0e0123456789ab",
        ] {
            assert_eq!(text.parse::<KeyId>(), Err(KeyIdError), "{text}");
        }
    }

    #[test]
    fn sae_id_bounds() {
        assert_eq!("".parse::<SaeId>(), Err(SaeIdError::Length(0)));
        assert_eq!(
            "x".repeat(256).parse::<SaeId>(),
            Err(SaeIdError::Length(256))
        );
        assert_eq!("ue\n".parse::<SaeId>(), Err(SaeIdError::Control));
        assert_eq!(SaeId::from_octets(b"\xff"), Err(SaeIdError::Encoding));
        assert_eq!(
            SaeId::from_octets(b"sae-ue-1").unwrap().as_str(),
            "sae-ue-1"
        );
    }
}
