//! Small values of configuration and status.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroize;

/// A network, as `{mcc: "208", mnc: "93"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plmn(oxirush_security::Plmn);

impl Plmn {
    /// The value of the codecs.
    #[must_use]
    pub fn get(self) -> oxirush_security::Plmn {
        self.0
    }

    /// The three octets of NGAP and NAS (TS 24.008 10.5.1.3).
    #[must_use]
    pub fn octets(self) -> [u8; 3] {
        self.0.to_nas_octets()
    }

    /// The serving network name of 5G AKA (TS 24.501 9.12.1): a two-digit MNC
    /// is padded.
    #[must_use]
    pub fn serving_network_name(self) -> String {
        format!(
            "5G:mnc{:0>3}.mcc{}.3gppnetwork.org",
            self.0.mnc(),
            self.0.mcc()
        )
    }
}

impl<'de> Deserialize<'de> for Plmn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Text {
            mcc: String,
            mnc: String,
        }
        let text = Text::deserialize(deserializer)?;
        oxirush_security::Plmn::new(&text.mcc, &text.mnc)
            .map(Self)
            .map_err(D::Error::custom)
    }
}

/// An S-NSSAI, as `{sst: 1, sd: "010203"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Slice/service type.
    pub sst: u8,
    /// Slice differentiator.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_hex_option",
        deserialize_with = "read_hex_option"
    )]
    pub sd: Option<[u8; 3]>,
}

/// A tracking area code: six hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tac(pub [u8; 3]);

impl Tac {
    /// As a number.
    #[must_use]
    pub fn get(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_be_bytes([0, a, b, c])
    }
}

impl<'de> Deserialize<'de> for Tac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_hex(deserializer).map(Self)
    }
}

/// Octets that no output shows, wiped when dropped.
pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> Secret<N> {
    /// The octets.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'de, const N: usize> Deserialize<'de> for Secret<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_hex(deserializer).map(Self)
    }
}

fn read_hex<'de, D: Deserializer<'de>, const N: usize>(
    deserializer: D,
) -> Result<[u8; N], D::Error> {
    let mut text = String::deserialize(deserializer)?;
    let mut octets = [0; N];
    let read = hex::decode_to_slice(&text, &mut octets);
    text.zeroize();
    // The text itself stays out of the complaint: it may be a key.
    read.map(|()| octets)
        .map_err(|_| D::Error::custom(format!("expected {} hexadecimal digits in quotes", N * 2)))
}

fn read_hex_option<'de, D: Deserializer<'de>, const N: usize>(
    deserializer: D,
) -> Result<Option<[u8; N]>, D::Error> {
    read_hex(deserializer).map(Some)
}

fn write_hex_option<S: Serializer, const N: usize>(
    value: &Option<[u8; N]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(octets) => serializer.serialize_str(&hex::encode(octets)),
        None => serializer.serialize_none(),
    }
}
