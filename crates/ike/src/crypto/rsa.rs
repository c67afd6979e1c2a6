//! AUTH method 1, RSA Digital Signature: PKCS #1 v1.5 with SHA-1 (RFC 7296, section 3.8).
//!
//! Kept for peers that know nothing newer and for the `paper` profile; RFC 8247 asks for method 14.

use rsa::{
    Pkcs1v15Sign, RsaPrivateKey, RsaPublicKey,
    pkcs1::{DecodeRsaPrivateKey, DecodeRsaPublicKey},
    pkcs8::DecodePrivateKey,
    traits::PublicKeyParts,
};
use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha384, Sha512};
use thiserror::Error;
use x509_parser::oid_registry::{
    OID_PKCS1_RSAENCRYPTION, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA,
};

use super::{
    auth::AuthError,
    certificate::{names, parse},
};
use crate::wire::Identification;

/// Why a key or certificate cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Not a private key of a kind that is supported here, in PEM or DER.
    #[error("not a usable private key in PKCS #8, PKCS #1 or SEC 1")]
    PrivateKey,
    /// Not an X.509 certificate in DER.
    #[error("not an X.509 certificate")]
    Syntax,
    /// The certificate's key is of no supported kind, or an RSA key of less than 2048 or more than
    /// 8192 bits.
    #[error("not a supported public key")]
    PublicKey,
    /// Not signed by this authority with RSA and SHA-2.
    #[error("not signed by this authority")]
    Issuer,
    /// No certificate at all.
    #[error("no certificate")]
    Missing,
    /// More certificates than a chain may have.
    #[error("a chain of too many certificates")]
    TooMany,
    /// A certificate of the chain has expired or is not valid yet.
    #[error("a certificate is not valid at this time")]
    Validity,
    /// No chain of good signatures leads to an authority that is trusted now.
    #[error("no chain leads to a trusted authority")]
    Untrusted,
    /// A certificate is used for what it does not allow.
    #[error("a certificate is not for this use")]
    Usage,
    /// The end entity does not have the name that is claimed.
    #[error("the certificate is for another name")]
    Name,
    /// The private key is that of another certificate.
    #[error("the private key does not belong to the certificate")]
    OtherKey,
}

/// An RSA private key that signs with method 1.
pub struct RsaSigner {
    key: RsaPrivateKey,
}

impl RsaSigner {
    /// Reads a private key: PKCS #8 or PKCS #1, PEM or DER.
    pub fn new(octets: &[u8]) -> Result<Self, CertificateError> {
        let key = match std::str::from_utf8(octets) {
            Ok(pem) if pem.contains("-----BEGIN") => RsaPrivateKey::from_pkcs8_pem(pem)
                .ok()
                .or_else(|| RsaPrivateKey::from_pkcs1_pem(pem).ok()),
            _ => RsaPrivateKey::from_pkcs8_der(octets)
                .ok()
                .or_else(|| RsaPrivateKey::from_pkcs1_der(octets).ok()),
        };
        key.map(|key| Self { key })
            .ok_or(CertificateError::PrivateKey)
    }

    /// AUTH data of method 1 over the signed octets; blinded by `rng` against timing.
    pub fn sign(
        &self,
        signed_octets: &[u8],
        rng: &mut (impl rand_core::CryptoRng + ?Sized),
    ) -> Result<Vec<u8>, AuthError> {
        let hash = Sha1::digest(signed_octets);
        self.key
            .sign_with_rng(rng, Pkcs1v15Sign::new::<Sha1>(), &hash)
            .map_err(|_| AuthError::Sign)
    }

    /// Whether this key belongs to the certificate.
    pub fn fits(&self, certificate: &Certificate) -> bool {
        let public = self.key.as_public_key();
        public.n() == certificate.key.n() && public.e() == certificate.key.e()
    }
}

/// An X.509 certificate with an RSA key.
pub struct Certificate {
    der: Vec<u8>,
    key: RsaPublicKey,
    authority_hash: [u8; 20],
}

impl Certificate {
    /// Reads a certificate in DER, as in a CERT payload of encoding 4.
    pub fn new(der: &[u8]) -> Result<Self, CertificateError> {
        let parsed = parse(der)?;
        let spki = parsed.public_key();
        if spki.algorithm.algorithm != OID_PKCS1_RSAENCRYPTION {
            return Err(CertificateError::PublicKey);
        }
        let key = RsaPublicKey::from_pkcs1_der(&spki.subject_public_key.data)
            .map_err(|_| CertificateError::PublicKey)?;
        if !(256..=1024).contains(&key.size()) {
            return Err(CertificateError::PublicKey);
        }
        let authority_hash = Sha1::digest(spki.raw).into();
        Ok(Self {
            der: der.to_vec(),
            key,
            authority_hash,
        })
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-1 of the SubjectPublicKeyInfo: how a CERTREQ names an authority.
    pub const fn authority_hash(&self) -> &[u8; 20] {
        &self.authority_hash
    }

    /// Checks AUTH data of method 1.
    pub fn verify(&self, signed_octets: &[u8], signature: &[u8]) -> Result<(), AuthError> {
        let hash = Sha1::digest(signed_octets);
        self.key
            .verify(Pkcs1v15Sign::new::<Sha1>(), &hash, signature)
            .map_err(|_| AuthError::Mismatch)
    }

    /// Whether the certificate is for this identity (RFC 7296, section 3.5): a subjectAltName of
    /// the same type and content, or for ID_DER_ASN1_DN the subject, octet for octet.
    pub fn is_for(&self, id: &Identification) -> bool {
        let Ok(parsed) = parse(&self.der) else {
            return false;
        };
        names(&parsed, id)
    }

    /// Whether `seconds` since 1970 lie within the validity period.
    pub fn is_valid_at(&self, seconds: i64) -> bool {
        parse(&self.der).is_ok_and(|parsed| {
            let validity = parsed.validity();
            (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&seconds)
        })
    }

    /// Checks that `authority` signed this certificate directly: RSA with SHA-256, -384 or -512, names
    /// that chain, and an authority that is one.
    pub fn check_issuer(&self, authority: &Self) -> Result<(), CertificateError> {
        let parsed = parse(&self.der)?;
        let issuer = parse(&authority.der)?;
        let is_authority = matches!(issuer.basic_constraints(), Ok(Some(ext)) if ext.value.ca);
        if !is_authority || parsed.issuer().as_raw() != issuer.subject().as_raw() {
            return Err(CertificateError::Issuer);
        }
        let signed = parsed.tbs_certificate.as_ref();
        let algorithm = &parsed.signature_algorithm.algorithm;
        let (scheme, hash) = if *algorithm == OID_PKCS1_SHA256WITHRSA {
            (
                Pkcs1v15Sign::new::<Sha256>(),
                Sha256::digest(signed).to_vec(),
            )
        } else if *algorithm == OID_PKCS1_SHA384WITHRSA {
            (
                Pkcs1v15Sign::new::<Sha384>(),
                Sha384::digest(signed).to_vec(),
            )
        } else if *algorithm == OID_PKCS1_SHA512WITHRSA {
            (
                Pkcs1v15Sign::new::<Sha512>(),
                Sha512::digest(signed).to_vec(),
            )
        } else {
            return Err(CertificateError::Issuer);
        };
        authority
            .key
            .verify(scheme, &hash, &parsed.signature_value.data)
            .map_err(|_| CertificateError::Issuer)
    }
}
