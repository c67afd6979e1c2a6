//! Key exchange methods by name and number.

use std::{fmt, str::FromStr};

use super::suite::SuiteError;
use crate::wire::{Transform, TransformType};

/// Key exchange method (transform type 4, and 6 to 12 for additional ones, RFC 9370).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeMethod {
    /// 14, RFC 3526.
    Modp2048,
    /// 15, RFC 3526.
    Modp3072,
    /// 16, RFC 3526.
    Modp4096,
    /// 19, RFC 5903.
    Ecp256,
    /// 20, RFC 5903.
    Ecp384,
    /// 21, RFC 5903.
    Ecp521,
    /// 31, RFC 8031.
    Curve25519,
    /// 35, draft-ietf-ipsecme-ikev2-mlkem.
    MlKem512,
    /// 36, draft-ietf-ipsecme-ikev2-mlkem.
    MlKem768,
    /// 37, draft-ietf-ipsecme-ikev2-mlkem.
    MlKem1024,
}

impl KeMethod {
    /// Every method named here.
    pub const ALL: [Self; 10] = [
        Self::Modp2048,
        Self::Modp3072,
        Self::Modp4096,
        Self::Ecp256,
        Self::Ecp384,
        Self::Ecp521,
        Self::Curve25519,
        Self::MlKem512,
        Self::MlKem768,
        Self::MlKem1024,
    ];

    /// Transform ID, also in the KE payload.
    pub const fn id(self) -> u16 {
        match self {
            Self::Modp2048 => 14,
            Self::Modp3072 => 15,
            Self::Modp4096 => 16,
            Self::Ecp256 => 19,
            Self::Ecp384 => 20,
            Self::Ecp521 => 21,
            Self::Curve25519 => 31,
            Self::MlKem512 => 35,
            Self::MlKem768 => 36,
            Self::MlKem1024 => 37,
        }
    }

    /// The method with this transform ID.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.id() == id)
    }

    /// The transform that offers it as type `kind`: KE or one of ADDKE1 to ADDKE7.
    pub const fn transform(self, kind: TransformType) -> Transform {
        Transform::new(kind, self.id())
    }
}

/// As in `swanctl --list-sas`: `ECP_256`.
impl fmt::Display for KeMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Modp2048 => "MODP_2048",
            Self::Modp3072 => "MODP_3072",
            Self::Modp4096 => "MODP_4096",
            Self::Ecp256 => "ECP_256",
            Self::Ecp384 => "ECP_384",
            Self::Ecp521 => "ECP_521",
            Self::Curve25519 => "CURVE_25519",
            Self::MlKem512 => "ML_KEM_512",
            Self::MlKem768 => "ML_KEM_768",
            Self::MlKem1024 => "ML_KEM_1024",
        })
    }
}

impl FromStr for KeMethod {
    type Err = SuiteError;

    fn from_str(text: &str) -> Result<Self, SuiteError> {
        Self::ALL
            .into_iter()
            .find(|method| method.to_string() == text)
            .ok_or_else(|| SuiteError::Unknown(text.to_owned()))
    }
}
