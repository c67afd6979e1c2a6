//! Post-quantum preshared keys: their names on the wire, and how they enter the key schedule.
//!
//! | where | what becomes of the keys | source |
//! |---|---|---|
//! | IKE_AUTH | [`mix_initial`]: `SK_d`, `SK_pi`, `SK_pr` of the first IKE SA | RFC 8784, section 3 |
//! | IKE_INTERMEDIATE | [`mix`] of `SK_d` is the SKEYSEED of all keys | RFC 9867, section 3.1 |
//! | CREATE_CHILD_SA | [`mix`] of `SK_d` stands for `SK_d` in that exchange | RFC 9867, section 3.2 |

use std::fmt;

use keys::{KeyId, Secret};
use subtle::ConstantTimeEq;

use super::{
    keymat::{IkeKeys, KeyError},
    prf::Prf,
};
use crate::wire::{Notify, NotifyType, Reader, WireError};

/// Octets of a PPK Confirmation.
pub const CONFIRMATION_LEN: usize = 8;

/// Most octets of a PPK_ID: what a QKD system, an administrator or a peer names keys by is shorter.
const MAX_ID: usize = 512;

/// PPK_ID: type (1) and the name of a key (RFC 8784, section 5.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PpkId {
    /// PPK_ID_OPAQUE, 1: octets that mean something to the two ends.
    Opaque(Vec<u8>),
    /// PPK_ID_FIXED, 2: the name of a configured or delivered key.
    Fixed(Vec<u8>),
}

impl PpkId {
    /// The name of a QKD key: its UUID as text, as ETSI GS QKD 014 writes it, so that it can also be
    /// told to a peer that has its PPKs by configuration.
    pub fn from_key_id(id: KeyId) -> Self {
        Self::Fixed(id.to_string().into_bytes())
    }

    /// The QKD key with this name.
    pub fn key_id(&self) -> Option<KeyId> {
        match self {
            Self::Fixed(name) => std::str::from_utf8(name).ok()?.parse().ok(),
            Self::Opaque(_) => None,
        }
    }

    /// N(PPK_IDENTITY) of the initiator in IKE_AUTH, or of the responder in the exchange of RFC 9867.
    pub fn to_notify(&self) -> Notify {
        Notify::status(NotifyType::PPK_IDENTITY, self.octets())
    }

    /// Reads the data of PPK_IDENTITY; empty data, the responder's consent in IKE_AUTH, are no PPK_ID.
    pub fn from_data(data: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(data, "PPK_ID");
        let kind = reader.u8()?;
        let name = reader.rest();
        if name.is_empty() || name.len() > MAX_ID {
            return Err(WireError::InvalidSyntax("length of a PPK_ID"));
        }
        match kind {
            1 => Ok(Self::Opaque(name.to_vec())),
            2 => Ok(Self::Fixed(name.to_vec())),
            _ => Err(WireError::InvalidSyntax("type of a PPK_ID")),
        }
    }

    fn octets(&self) -> Vec<u8> {
        let (kind, name) = match self {
            Self::Opaque(name) => (1, name),
            Self::Fixed(name) => (2, name),
        };
        let mut octets = vec![kind];
        octets.extend_from_slice(name);
        octets
    }
}

/// The name where it is text, else hexadecimal.
impl fmt::Display for PpkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Opaque(name) | Self::Fixed(name)) = self;
        match std::str::from_utf8(name) {
            Ok(text) if !text.chars().any(char::is_control) => f.write_str(text),
            _ => name.iter().try_for_each(|octet| write!(f, "{octet:02x}")),
        }
    }
}

/// A PPK the initiator has: PPK_ID and PPK Confirmation (8) (RFC 9867, section 3.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PpkOffer {
    /// The name of the key.
    pub id: PpkId,
    /// Shows that the initiator has the same key under this name.
    pub confirmation: [u8; CONFIRMATION_LEN],
}

impl PpkOffer {
    /// N(PPK_IDENTITY_KEY).
    pub fn to_notify(&self) -> Notify {
        let mut data = self.id.octets();
        data.extend_from_slice(&self.confirmation);
        Notify::status(NotifyType::PPK_IDENTITY_KEY, data)
    }

    /// Reads the data of PPK_IDENTITY_KEY.
    pub fn from_data(data: &[u8]) -> Result<Self, WireError> {
        let (id, confirmation) = data
            .split_last_chunk()
            .ok_or(WireError::Truncated("PPK Confirmation"))?;
        Ok(Self {
            id: PpkId::from_data(id)?,
            confirmation: *confirmation,
        })
    }

    /// Whether the initiator's key is this one, in constant time. The nonces and SPIs are those that
    /// [`confirmation`] takes.
    pub fn confirms(&self, confirmation: &[u8; CONFIRMATION_LEN]) -> bool {
        self.confirmation.ct_eq(confirmation).into()
    }
}

/// PPK Confirmation: the leading 8 octets of `prf(PPK, Ni | Nr | SPIi | SPIr)`.
pub fn confirmation(
    prf: Prf,
    ppk: &Secret,
    ni: &[u8],
    nr: &[u8],
    spi_i: u64,
    spi_r: u64,
) -> [u8; CONFIRMATION_LEN] {
    let (spi_i, spi_r) = (spi_i.to_be_bytes(), spi_r.to_be_bytes());
    let mac = prf.mac(ppk.expose(), &[ni, nr, &spi_i, &spi_r]);
    let mut confirmation = [0; CONFIRMATION_LEN];
    for (to, from) in confirmation.iter_mut().zip(mac.expose()) {
        *to = *from;
    }
    confirmation
}

/// `prf+(PPK, key)`, as long as keys of the PRF.
pub fn mix(prf: Prf, ppk: &Secret, key: &Secret) -> Result<Secret, KeyError> {
    prf.plus(ppk.expose(), &[key.expose()], prf.key_len())
}

/// `SK_d`, `SK_pi` and `SK_pr` with the PPK; `SK_e*` and `SK_a*` stay (RFC 8784, section 3).
pub fn mix_initial(prf: Prf, ppk: &Secret, keys: &mut IkeKeys) -> Result<(), KeyError> {
    let sk_d = mix(prf, ppk, &keys.sk_d)?;
    let sk_pi = mix(prf, ppk, &keys.sk_pi)?;
    let sk_pr = mix(prf, ppk, &keys.sk_pr)?;
    (keys.sk_d, keys.sk_pi, keys.sk_pr) = (sk_d, sk_pi, sk_pr);
    Ok(())
}
