//! Keys in a configuration file.

use std::fmt;

use keys::Secret;
use serde::{Deserialize, Deserializer, de};

/// 16 octets written as 32 hexadecimal digits. Not `Debug`, and no error text quotes it.
pub struct HexSecret(Secret);

impl HexSecret {
    /// The octets.
    pub fn secret(&self) -> &Secret {
        &self.0
    }
}

impl<'de> Deserialize<'de> for HexSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Digits)
    }
}

struct Digits;

impl de::Visitor<'_> for Digits {
    type Value = HexSecret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("32 hexadecimal digits, quoted")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<HexSecret, E> {
        let mut fault = text.len() != 32;
        let secret = Secret::filled(16, |octets| {
            fault |= hex::decode_to_slice(text, octets).is_err();
        });
        // Not `invalid_value`, which would quote the digits.
        match fault {
            false => Ok(HexSecret(secret)),
            true => Err(E::custom("32 hexadecimal digits, quoted")),
        }
    }
}
