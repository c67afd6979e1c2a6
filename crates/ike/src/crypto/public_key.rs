//! Keys that sign AUTH and verify it: RSA, ECDSA on P-256, P-384 and P-521, Ed25519.
//!
//! | method | AUTH data | source |
//! |---|---|---|
//! | 1 | RSASSA-PKCS1-v1_5 with SHA-1, for old peers | RFC 7296, section 2.15 |
//! | 9, 10, 11 | `r \| s`, each as long as the order of P-256, P-384, P-521 | RFC 4754, section 3 |
//! | 14 | AlgorithmIdentifier and signature: [`super::signature`] | RFC 7427 |

use ed25519_dalek::{Signature as Ed25519Signature, SigningKey as Ed25519Key};
use p256::{
    ecdsa::signature::{
        Signer,
        hazmat::{PrehashVerifier, RandomizedPrehashSigner},
    },
    pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey},
};
use rand_core::CryptoRng;
use rsa::{
    Pkcs1v15Sign, Pss, RsaPrivateKey, RsaPublicKey, pkcs1::DecodeRsaPrivateKey,
    traits::PublicKeyParts,
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};

use super::{
    auth::AuthError,
    rsa::CertificateError,
    signature::{HashAlgorithm, Scheme, Sha2, sha1},
};
use crate::wire::AuthMethod;

/// A public key, as certificates hold it.
#[derive(Debug, Clone)]
pub struct PublicKey(Public);

#[derive(Debug, Clone)]
enum Public {
    Rsa(RsaPublicKey),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    P521(p521::ecdsa::VerifyingKey),
    Ed25519(ed25519_dalek::VerifyingKey),
}

/// A private key. Wiped when dropped, by the crates that hold it.
pub struct SigningKey(Private);

// An RSA key is large; boxed, the others stay small.
enum Private {
    Rsa(Box<RsaPrivateKey>),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    P521(p521::ecdsa::SigningKey),
    Ed25519(Ed25519Key),
}

/// Octets an RSA modulus may have: 2048 to 8192 bits.
const RSA_OCTETS: std::ops::RangeInclusive<usize> = 256..=1024;

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in DER.
    pub fn from_spki(der: &[u8]) -> Result<Self, CertificateError> {
        use ed25519_dalek::VerifyingKey;
        let ecdsa = p256::PublicKey::from_public_key_der(der).map(|key| Public::P256(key.into()));
        ecdsa
            .or_else(|_| {
                p384::PublicKey::from_public_key_der(der).map(|key| Public::P384(key.into()))
            })
            .or_else(|_| {
                p521::PublicKey::from_public_key_der(der).map(|key| Public::P521(key.into()))
            })
            .or_else(|_| VerifyingKey::from_public_key_der(der).map(Public::Ed25519))
            .or_else(|_| RsaPublicKey::from_public_key_der(der).map(Public::Rsa))
            .ok()
            .filter(|key| match key {
                Public::Rsa(key) => RSA_OCTETS.contains(&key.size()),
                Public::Ed25519(key) => !key.is_weak(),
                _ => true,
            })
            .map(Self)
            .ok_or(CertificateError::PublicKey)
    }

    /// Checks AUTH data over the signed octets.
    ///
    /// Method 1 rests on SHA-1 and is refused unless `allow_sha1`: for peers known to have nothing
    /// newer (RFC 8247, section 3.2).
    pub fn verify(
        &self,
        method: AuthMethod,
        data: &[u8],
        signed_octets: &[u8],
        allow_sha1: bool,
    ) -> Result<(), AuthError> {
        match (method, &self.0) {
            (AuthMethod::DIGITAL_SIGNATURE, _) => {
                let (scheme, signature) = Scheme::from_auth_data(data)?;
                self.verify_scheme(scheme, signature, signed_octets)
            }
            (AuthMethod::RSA, Public::Rsa(key)) if allow_sha1 => {
                let hash = sha1(signed_octets);
                key.verify(Pkcs1v15Sign::new::<Sha1>(), &hash, data)
                    .map_err(|_| AuthError::Mismatch)
            }
            (AuthMethod::ECDSA_256, Public::P256(key)) => {
                let hash = Sha2::Sha256.digest(signed_octets);
                checked(p256::ecdsa::Signature::from_slice(data), &hash, key)
            }
            (AuthMethod::ECDSA_384, Public::P384(key)) => {
                let hash = Sha2::Sha384.digest(signed_octets);
                checked(p384::ecdsa::Signature::from_slice(data), &hash, key)
            }
            (AuthMethod::ECDSA_521, Public::P521(key)) => {
                let hash = Sha2::Sha512.digest(signed_octets);
                checked(p521::ecdsa::Signature::from_slice(data), &hash, key)
            }
            _ => Err(AuthError::Algorithm),
        }
    }

    fn verify_scheme(
        &self,
        scheme: Scheme,
        signature: &[u8],
        signed_octets: &[u8],
    ) -> Result<(), AuthError> {
        match (scheme, &self.0) {
            (Scheme::Ecdsa(hash), Public::P256(key)) => {
                let hash = hash.digest(signed_octets);
                checked(p256::ecdsa::Signature::from_der(signature), &hash, key)
            }
            (Scheme::Ecdsa(hash), Public::P384(key)) => {
                let hash = hash.digest(signed_octets);
                checked(p384::ecdsa::Signature::from_der(signature), &hash, key)
            }
            (Scheme::Ecdsa(hash), Public::P521(key)) => {
                let hash = hash.digest(signed_octets);
                checked(p521::ecdsa::Signature::from_der(signature), &hash, key)
            }
            (Scheme::Ed25519, Public::Ed25519(key)) => Ed25519Signature::from_slice(signature)
                .and_then(|signature| key.verify_strict(signed_octets, &signature))
                .map_err(|_| AuthError::Mismatch),
            (Scheme::RsaPkcs1(hash), Public::Rsa(key)) => {
                let padding = match hash {
                    Sha2::Sha256 => Pkcs1v15Sign::new::<Sha256>(),
                    Sha2::Sha384 => Pkcs1v15Sign::new::<Sha384>(),
                    Sha2::Sha512 => Pkcs1v15Sign::new::<Sha512>(),
                };
                key.verify(padding, &hash.digest(signed_octets), signature)
                    .map_err(|_| AuthError::Mismatch)
            }
            (Scheme::RsaPss(hash, salt), Public::Rsa(key)) => {
                let octets = hash.digest(signed_octets);
                let salt = salt.into();
                match hash {
                    Sha2::Sha256 => {
                        key.verify(Pss::<Sha256>::new_with_salt(salt), &octets, signature)
                    }
                    Sha2::Sha384 => {
                        key.verify(Pss::<Sha384>::new_with_salt(salt), &octets, signature)
                    }
                    Sha2::Sha512 => {
                        key.verify(Pss::<Sha512>::new_with_salt(salt), &octets, signature)
                    }
                }
                .map_err(|_| AuthError::Mismatch)
            }
            _ => Err(AuthError::Algorithm),
        }
    }
}

impl SigningKey {
    /// Reads a private key: PKCS #8, PKCS #1 (RSA) or SEC 1 (ECDSA), PEM or DER.
    pub fn new(octets: &[u8]) -> Result<Self, CertificateError> {
        let der = match octets.windows(10).any(|window| window == b"-----BEGIN") {
            true => PrivateKeyDer::from_pem_slice(octets).ok(),
            false => PrivateKeyDer::try_from(octets.to_vec()).ok(),
        };
        let private = match der.as_ref().ok_or(CertificateError::PrivateKey)? {
            PrivateKeyDer::Pkcs8(der) => Private::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => RsaPrivateKey::from_pkcs1_der(der.secret_pkcs1_der())
                .ok()
                .map(|key| Private::Rsa(Box::new(key))),
            PrivateKeyDer::Sec1(der) => Private::from_sec1(der.secret_sec1_der()),
            _ => None,
        };
        private
            .filter(|key| match key {
                Private::Rsa(key) => RSA_OCTETS.contains(&key.size()),
                _ => true,
            })
            .map(Self)
            .ok_or(CertificateError::PrivateKey)
    }

    /// Whether this key belongs to a certificate with this SubjectPublicKeyInfo.
    pub fn fits(&self, spki: &[u8]) -> bool {
        let ours = match &self.0 {
            Private::Rsa(key) => key.as_public_key().to_public_key_der(),
            Private::P256(key) => key.verifying_key().to_public_key_der(),
            Private::P384(key) => key.verifying_key().to_public_key_der(),
            Private::P521(key) => key.verifying_key().to_public_key_der(),
            Private::Ed25519(key) => key.verifying_key().to_public_key_der(),
        };
        ours.is_ok_and(|ours| ours.as_bytes() == spki)
    }

    /// AUTH method and data over the signed octets.
    ///
    /// Method 14 when the peer announced hash algorithms, with the best of them for this key: RSA as
    /// RSASSA-PSS. Without, methods 9 to 11, and for RSA method 1 if `allow_sha1`. `rng` blinds RSA
    /// against timing, salts it, and hedges ECDSA against faults.
    pub fn sign(
        &self,
        peer_hashes: Option<&[HashAlgorithm]>,
        signed_octets: &[u8],
        allow_sha1: bool,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<(AuthMethod, Vec<u8>), AuthError> {
        let Some(hashes) = peer_hashes else {
            return self.sign_without_scheme(signed_octets, allow_sha1, rng);
        };
        let scheme = self
            .schemes()
            .into_iter()
            .find(|scheme| hashes.contains(&scheme.hash()))
            .ok_or(AuthError::Algorithm)?;
        let data = scheme.wrap(&self.sign_scheme(scheme, signed_octets, rng)?)?;
        Ok((AuthMethod::DIGITAL_SIGNATURE, data))
    }

    /// The schemes of this key, best first. A hash should be as strong as the curve.
    fn schemes(&self) -> Vec<Scheme> {
        match &self.0 {
            Private::Rsa(_) => [Sha2::Sha256, Sha2::Sha384, Sha2::Sha512]
                .map(|hash| Scheme::RsaPss(hash, hash.len()))
                .into(),
            Private::P256(_) => [Sha2::Sha256, Sha2::Sha384, Sha2::Sha512]
                .map(Scheme::Ecdsa)
                .into(),
            Private::P384(_) => [Sha2::Sha384, Sha2::Sha512, Sha2::Sha256]
                .map(Scheme::Ecdsa)
                .into(),
            Private::P521(_) => [Sha2::Sha512, Sha2::Sha384].map(Scheme::Ecdsa).into(),
            Private::Ed25519(_) => vec![Scheme::Ed25519],
        }
    }

    fn sign_without_scheme(
        &self,
        signed_octets: &[u8],
        allow_sha1: bool,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<(AuthMethod, Vec<u8>), AuthError> {
        match &self.0 {
            Private::Rsa(key) if allow_sha1 => {
                let hash = sha1(signed_octets);
                key.sign_with_rng(rng, Pkcs1v15Sign::new::<Sha1>(), &hash)
                    .map(|signature| (AuthMethod::RSA, signature))
                    .map_err(|_| AuthError::Sign)
            }
            Private::P256(key) => {
                let hash = Sha2::Sha256.digest(signed_octets);
                let signature: p256::ecdsa::Signature = hedged(key, &hash, rng)?;
                Ok((AuthMethod::ECDSA_256, signature.to_vec()))
            }
            Private::P384(key) => {
                let hash = Sha2::Sha384.digest(signed_octets);
                let signature: p384::ecdsa::Signature = hedged(key, &hash, rng)?;
                Ok((AuthMethod::ECDSA_384, signature.to_vec()))
            }
            Private::P521(key) => {
                let hash = Sha2::Sha512.digest(signed_octets);
                let signature: p521::ecdsa::Signature = hedged(key, &hash, rng)?;
                Ok((AuthMethod::ECDSA_521, signature.to_vec()))
            }
            Private::Rsa(_) | Private::Ed25519(_) => Err(AuthError::Algorithm),
        }
    }

    fn sign_scheme(
        &self,
        scheme: Scheme,
        signed_octets: &[u8],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Vec<u8>, AuthError> {
        match (scheme, &self.0) {
            (Scheme::RsaPss(hash, _), Private::Rsa(key)) => {
                let octets = hash.digest(signed_octets);
                match hash {
                    Sha2::Sha256 => key.sign_with_rng(rng, Pss::<Sha256>::new(), &octets),
                    Sha2::Sha384 => key.sign_with_rng(rng, Pss::<Sha384>::new(), &octets),
                    Sha2::Sha512 => key.sign_with_rng(rng, Pss::<Sha512>::new(), &octets),
                }
                .map_err(|_| AuthError::Sign)
            }
            (Scheme::Ecdsa(hash), Private::P256(key)) => {
                let signature: p256::ecdsa::Signature =
                    hedged(key, &hash.digest(signed_octets), rng)?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
            (Scheme::Ecdsa(hash), Private::P384(key)) => {
                let signature: p384::ecdsa::Signature =
                    hedged(key, &hash.digest(signed_octets), rng)?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
            (Scheme::Ecdsa(hash), Private::P521(key)) => {
                let signature: p521::ecdsa::Signature =
                    hedged(key, &hash.digest(signed_octets), rng)?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
            (Scheme::Ed25519, Private::Ed25519(key)) => key
                .try_sign(signed_octets)
                .map(|signature| signature.to_bytes().to_vec())
                .map_err(|_| AuthError::Sign),
            _ => Err(AuthError::Algorithm),
        }
    }
}

impl Private {
    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let p256 = p256::SecretKey::from_pkcs8_der(der).map(|key| Self::P256(key.into()));
        p256.or_else(|_| p384::SecretKey::from_pkcs8_der(der).map(|key| Self::P384(key.into())))
            .or_else(|_| p521::SecretKey::from_pkcs8_der(der).map(|key| Self::P521(key.into())))
            .or_else(|_| Ed25519Key::from_pkcs8_der(der).map(Self::Ed25519))
            .or_else(|_| RsaPrivateKey::from_pkcs8_der(der).map(|key| Self::Rsa(Box::new(key))))
            .ok()
    }

    fn from_sec1(der: &[u8]) -> Option<Self> {
        let p256 = p256::SecretKey::from_sec1_der(der).map(|key| Self::P256(key.into()));
        p256.or_else(|_| p384::SecretKey::from_sec1_der(der).map(|key| Self::P384(key.into())))
            .or_else(|_| p521::SecretKey::from_sec1_der(der).map(|key| Self::P521(key.into())))
            .ok()
    }
}

fn checked<S, E>(
    signature: Result<S, E>,
    hash: &[u8],
    key: &impl PrehashVerifier<S>,
) -> Result<(), AuthError> {
    let signature = signature.map_err(|_| AuthError::Mismatch)?;
    key.verify_prehash(hash, &signature)
        .map_err(|_| AuthError::Mismatch)
}

fn hedged<S>(
    key: &impl RandomizedPrehashSigner<S>,
    hash: &[u8],
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<S, AuthError> {
    key.sign_prehash_with_rng(rng, hash)
        .map_err(|_| AuthError::Sign)
}
