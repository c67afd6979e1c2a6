//! Signature schemes of AUTH: method 14 (RFC 7427, RFC 8420), and their names on the wire.
//!
//! AUTH data of method 14:
//!
//! ```text
//! length of AlgorithmIdentifier (1)   AlgorithmIdentifier, DER   signature
//! ```

use rsa::{
    pkcs1::RsaPssParams,
    pkcs8::{
        AlgorithmIdentifierRef, ObjectIdentifier,
        der::{Any, Decode, asn1::AnyRef},
    },
};
use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha384, Sha512};

use super::auth::AuthError;
use crate::wire::{Notify, NotifyType, Reader, WireError};

/// Hash Algorithm of SIGNATURE_HASH_ALGORITHMS (RFC 7427, section 4; RFC 8420, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HashAlgorithm {
    /// 2.
    Sha2_256,
    /// 3.
    Sha2_384,
    /// 4.
    Sha2_512,
    /// 5: no hash in front of the signature, for Ed25519.
    Identity,
}

impl HashAlgorithm {
    /// Every algorithm we sign and verify with: what we announce. SHA-1 (1) is not among them (RFC
    /// 8247, section 3.2).
    pub const ALL: [Self; 4] = [
        Self::Sha2_256,
        Self::Sha2_384,
        Self::Sha2_512,
        Self::Identity,
    ];

    /// The number on the wire.
    pub const fn id(self) -> u16 {
        match self {
            Self::Sha2_256 => 2,
            Self::Sha2_384 => 3,
            Self::Sha2_512 => 4,
            Self::Identity => 5,
        }
    }

    /// N(SIGNATURE_HASH_ALGORITHMS): two octets each.
    pub fn to_notify(list: &[Self]) -> Notify {
        let data = list.iter().flat_map(|hash| hash.id().to_be_bytes());
        Notify::status(NotifyType::SIGNATURE_HASH_ALGORITHMS, data.collect())
    }

    /// Reads the data of SIGNATURE_HASH_ALGORITHMS; unknown numbers and SHA-1 are passed over.
    pub fn from_data(data: &[u8]) -> Result<Vec<Self>, WireError> {
        let mut reader = Reader::new(data, "SIGNATURE_HASH_ALGORITHMS");
        let mut list = Vec::new();
        while !reader.is_empty() {
            let id = reader.u16()?;
            let known = Self::ALL.into_iter().find(|hash| hash.id() == id);
            list.extend(known.filter(|hash| !list.contains(hash)));
        }
        Ok(list)
    }
}

/// SHA-2 under a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sha2 {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Sha2 {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// As announced in SIGNATURE_HASH_ALGORITHMS.
    pub const fn algorithm(self) -> HashAlgorithm {
        match self {
            Self::Sha256 => HashAlgorithm::Sha2_256,
            Self::Sha384 => HashAlgorithm::Sha2_384,
            Self::Sha512 => HashAlgorithm::Sha2_512,
        }
    }

    pub(super) fn digest(self, octets: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(octets).to_vec(),
            Self::Sha384 => Sha384::digest(octets).to_vec(),
            Self::Sha512 => Sha512::digest(octets).to_vec(),
        }
    }

    /// Octets of the hash: the salt of RSASSA-PSS is as long.
    pub(super) const fn len(self) -> u8 {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The last octet of id-sha256 and its like, 2.16.840.1.101.3.4.2.n.
    const fn arc(self) -> u8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha384 => 2,
            Self::Sha512 => 3,
        }
    }

    fn oid(self) -> ObjectIdentifier {
        match self {
            Self::Sha256 => ID_SHA256,
            Self::Sha384 => ID_SHA384,
            Self::Sha512 => ID_SHA512,
        }
    }
}

/// How AUTH data of method 14 are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// ecdsa-with-SHA2; the signature is `SEQUENCE { r, s }`.
    Ecdsa(Sha2),
    /// id-Ed25519 (RFC 8420).
    Ed25519,
    /// id-RSASSA-PSS, MGF1 with the same hash, and the octets of the salt.
    RsaPss(Sha2, u8),
    /// sha2WithRSAEncryption: PKCS #1 v1.5.
    RsaPkcs1(Sha2),
}

const ID_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const ID_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const ID_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const ID_MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const ID_RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const RSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ECDSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");
const ID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

impl Scheme {
    /// The hash the peer has to have announced for us to sign so.
    pub const fn hash(self) -> HashAlgorithm {
        match self {
            Self::Ecdsa(hash) | Self::RsaPss(hash, _) | Self::RsaPkcs1(hash) => hash.algorithm(),
            Self::Ed25519 => HashAlgorithm::Identity,
        }
    }

    /// The AlgorithmIdentifier in DER, as RFC 7427, appendix A and RFC 8420, section A give it.
    pub fn algorithm_identifier(self) -> Vec<u8> {
        match self {
            Self::Ecdsa(hash) => {
                let arc = hash.arc() + 1;
                vec![
                    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, arc,
                ]
            }
            Self::Ed25519 => vec![0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70],
            Self::RsaPkcs1(hash) => {
                let mut der = vec![0x30, 0x0d];
                der.extend_from_slice(&pkcs1(hash.arc() + 10));
                der.extend_from_slice(&[0x05, 0x00]);
                der
            }
            Self::RsaPss(hash, salt) => pss_identifier(hash, salt),
        }
    }

    /// Reads an AlgorithmIdentifier; absent and NULL parameters are both in use.
    ///
    /// Empty parameters of RSASSA-PSS, which would mean SHA-1, are refused (RFC 7427, section 3).
    pub fn from_algorithm_identifier(der: &[u8]) -> Result<Self, AuthError> {
        let identifier = AlgorithmIdentifierRef::from_der(der).map_err(|_| AuthError::Algorithm)?;
        let parameters = identifier.parameters;
        let plain = parameters.is_none_or(|any| any == AnyRef::NULL);
        let ecdsa = |hash| parameters.is_none().then_some(Self::Ecdsa(hash));
        let pkcs1 = |hash| plain.then_some(Self::RsaPkcs1(hash));
        match identifier.oid {
            ECDSA_SHA256 => ecdsa(Sha2::Sha256),
            ECDSA_SHA384 => ecdsa(Sha2::Sha384),
            ECDSA_SHA512 => ecdsa(Sha2::Sha512),
            RSA_SHA256 => pkcs1(Sha2::Sha256),
            RSA_SHA384 => pkcs1(Sha2::Sha384),
            RSA_SHA512 => pkcs1(Sha2::Sha512),
            ID_ED25519 => parameters.is_none().then_some(Self::Ed25519),
            ID_RSASSA_PSS => parameters.and_then(|any| pss(&any)),
            _ => None,
        }
        .ok_or(AuthError::Algorithm)
    }

    /// AUTH data of method 14.
    pub(super) fn wrap(self, signature: &[u8]) -> Result<Vec<u8>, AuthError> {
        let identifier = self.algorithm_identifier();
        let length = u8::try_from(identifier.len()).map_err(|_| AuthError::Sign)?;
        let mut data = vec![length];
        data.extend_from_slice(&identifier);
        data.extend_from_slice(signature);
        Ok(data)
    }

    /// The scheme and the signature in AUTH data of method 14.
    pub fn from_auth_data(data: &[u8]) -> Result<(Self, &[u8]), AuthError> {
        let (length, rest) = data.split_first().ok_or(AuthError::Algorithm)?;
        let (identifier, signature) = rest
            .split_at_checked(usize::from(*length))
            .ok_or(AuthError::Algorithm)?;
        Ok((Self::from_algorithm_identifier(identifier)?, signature))
    }
}

/// OBJECT IDENTIFIER 1.2.840.113549.1.1.n.
const fn pkcs1(arc: u8) -> [u8; 11] {
    [
        0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, arc,
    ]
}

/// hashAlgorithm [0], maskGenAlgorithm [1], saltLength [2]; trailerField is the default.
fn pss_identifier(hash: Sha2, salt: u8) -> Vec<u8> {
    let arc = hash.arc();
    let hash = [
        0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, arc, 0x05, 0x00,
    ];
    // DER leaves out what is the default.
    let explicit = [0xa2, 0x03, 0x02, 0x01, salt];
    let (salt_length, parameters_len) = match salt {
        20 => (&[][..], 0x2f),
        _ => (&explicit[..], 0x34),
    };
    let mut der = vec![0x30, parameters_len + 13];
    der.extend_from_slice(&pkcs1(10));
    der.extend_from_slice(&[0x30, parameters_len, 0xa0, 0x0f]);
    der.extend_from_slice(&hash);
    der.extend_from_slice(&[0xa1, 0x1c, 0x30, 0x1a]);
    der.extend_from_slice(&pkcs1(8));
    der.extend_from_slice(&hash);
    der.extend_from_slice(salt_length);
    der
}

fn pss(parameters: &AnyRef<'_>) -> Option<Scheme> {
    let parameters: RsaPssParams<Any> = parameters.decode_as().ok()?;
    let plain = |any: Option<Any>| any.is_none_or(|any| any == Any::null());
    let hash = Sha2::ALL
        .into_iter()
        .find(|hash| hash.oid() == parameters.hash.oid)?;
    let mask = parameters.mask_gen;
    let inner = mask.parameters?;
    let fits = plain(parameters.hash.parameters)
        && mask.oid == ID_MGF1
        && inner.oid == hash.oid()
        && plain(inner.parameters)
        && parameters.salt_len <= hash.len();
    fits.then_some(Scheme::RsaPss(hash, parameters.salt_len))
}

/// SHA-1 for method 1.
pub(super) fn sha1(octets: &[u8]) -> [u8; 20] {
    Sha1::digest(octets).into()
}
