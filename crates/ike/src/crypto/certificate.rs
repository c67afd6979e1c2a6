//! Certificates of a peer: from the chain in its CERT payloads to a key that is its own (RFC 7296,
//! sections 3.6 and 3.7; RFC 5280; RFC 4945, section 5).

mod description;

pub use description::Description;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject};
use webpki::{
    ALL_VERIFICATION_ALGS, EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeIdIter,
    VerifiedPath, anchor_from_trusted_cert,
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, KeyUsage},
    prelude::FromDer,
};

use super::{
    public_key::{PublicKey, SigningKey},
    rsa::CertificateError,
    signature::sha1,
};
use crate::wire::{CertEncoding, IdType, Identification, Payload};

/// Most certificates taken from a peer: an end entity and what leads to an authority.
pub const MAX_CHAIN: usize = 8;

/// Octets of an authority's name in CERTREQ.
pub const AUTHORITY_HASH_LEN: usize = 20;

/// The authorities whose certificates are accepted.
pub struct TrustAnchors {
    certificates: Vec<CertificateDer<'static>>,
    hashes: Vec<[u8; AUTHORITY_HASH_LEN]>,
}

/// What a verified chain says about the peer.
#[derive(Debug, Clone)]
pub struct VerifiedPeer {
    /// The key that AUTH has to be made with.
    pub key: PublicKey,
    /// The subject as text, for logs.
    pub subject: String,
    /// End of validity of the end entity, in seconds since 1970.
    pub not_after: i64,
    certificate: Vec<u8>,
}

/// A certificate chain of ours and its private key.
pub struct Credential {
    chain: Vec<CertificateDer<'static>>,
    key: SigningKey,
}

impl TrustAnchors {
    /// Takes certificates of authorities: PEM with any number of them, or one in DER.
    ///
    /// # Errors
    /// One of them is no certificate, or none that may sign certificates; or there is none at all.
    pub fn new(octets: &[u8]) -> Result<Self, CertificateError> {
        let certificates = read_certificates(octets)?;
        let mut hashes = Vec::new();
        for certificate in &certificates {
            let parsed = parse(certificate)?;
            let is_authority = matches!(parsed.basic_constraints(), Ok(Some(ext)) if ext.value.ca);
            anchor_from_trusted_cert(certificate).map_err(|_| CertificateError::Syntax)?;
            if !is_authority || !usage_allows(&parsed, KeyUsage::key_cert_sign) {
                return Err(CertificateError::Usage);
            }
            hashes.push(sha1(parsed.public_key().raw));
        }
        Ok(Self {
            certificates,
            hashes,
        })
    }

    /// CERTREQ with the names of all these authorities.
    pub fn request(&self) -> Payload {
        Payload::CertReq {
            encoding: CertEncoding::X509_SIGNATURE,
            authorities: self.hashes.concat(),
        }
    }

    /// SHA-1 of each authority's SubjectPublicKeyInfo, as in CERTREQ.
    pub fn hashes(&self) -> &[[u8; AUTHORITY_HASH_LEN]] {
        &self.hashes
    }

    /// Verifies a peer's chain at `now`, in seconds since 1970, for the identity the peer claims.
    ///
    /// `chain` is the content of the CERT payloads with encoding 4 in order: the end entity first, the
    /// others in any order. Checked are signatures (RSA of 2048 bits and more, ECDSA on P-256 and P-384,
    /// Ed25519; SHA-2), names, validity of every certificate and of the authority, basicConstraints,
    /// name constraints, keyUsage (digitalSignature or nonRepudiation, keyCertSign), extended key usage
    /// (absent, or one of serverAuth, clientAuth, ipsecIKE, any), and that `id` is a name of the end
    /// entity ([`VerifiedPeer::is_for`]). There is no revocation check.
    pub fn verify(
        &self,
        chain: &[Vec<u8>],
        now: i64,
        id: &Identification,
    ) -> Result<VerifiedPeer, CertificateError> {
        let (first, others) = chain.split_first().ok_or(CertificateError::Missing)?;
        if chain.len() > MAX_CHAIN {
            return Err(CertificateError::TooMany);
        }
        let time = u64::try_from(now).map_err(|_| CertificateError::Validity)?;
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(time));
        let parsed = parse(first)?;
        let subject = parsed.subject().to_string();
        let not_after = parsed.validity().not_after.timestamp();
        let key = PublicKey::from_spki(parsed.public_key().raw)?;
        if !usage_allows(&parsed, |usage| {
            usage.digital_signature() || usage.non_repudiation()
        }) {
            return Err(CertificateError::Usage);
        }

        let first_der = CertificateDer::from(first.as_slice());
        let others: Vec<_> = others
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let end_entity = EndEntityCert::try_from(&first_der).map_err(|error| reason(&error))?;
        // An authority that is not valid now leads nowhere.
        let anchors: Vec<TrustAnchor<'_>> = self
            .certificates
            .iter()
            .filter(|der| valid_at(der, now))
            .filter_map(|der| anchor_from_trusted_cert(der).ok())
            .collect();
        end_entity
            .verify_for_usage(
                ALL_VERIFICATION_ALGS,
                &anchors,
                &others,
                time,
                Purpose,
                None,
                Some(&authorities_may_sign),
            )
            .map_err(|error| reason(&error))?;

        let peer = VerifiedPeer {
            key,
            subject,
            not_after,
            certificate: first.clone(),
        };
        match peer.is_for(id) {
            true => Ok(peer),
            false => Err(CertificateError::Name),
        }
    }
}

impl VerifiedPeer {
    /// Whether this is a name of the peer's certificate: a subjectAltName of the same type and content,
    /// or for ID_DER_ASN1_DN the subject, octet for octet. FQDNs are compared without regard to case,
    /// and there are no wildcards. ID_KEY_ID is never one.
    pub fn is_for(&self, id: &Identification) -> bool {
        parse(&self.certificate).is_ok_and(|parsed| names(&parsed, id))
    }
}

impl Credential {
    /// Takes a chain (PEM with the end entity first, or one certificate in DER) and its private key.
    pub fn new(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain = read_certificates(chain)?;
        let key = SigningKey::new(key)?;
        let first = chain.first().ok_or(CertificateError::Missing)?;
        if !key.fits(parse(first)?.public_key().raw) {
            return Err(CertificateError::OtherKey);
        }
        Ok(Self { chain, key })
    }

    /// What the end entity's certificate says.
    pub fn describe(&self) -> Result<Description, CertificateError> {
        Description::of(self.chain.first().ok_or(CertificateError::Missing)?)
    }

    /// The private key.
    pub const fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The CERT payloads: end entity first, without an authority that signed itself.
    pub fn payloads(&self) -> Vec<Payload> {
        let sent = |(index, der): &(usize, &CertificateDer<'_>)| {
            *index == 0 || parse(der).is_ok_and(|parsed| parsed.subject() != parsed.issuer())
        };
        self.chain
            .iter()
            .enumerate()
            .filter(sent)
            .map(|(_, der)| Payload::Cert {
                encoding: CertEncoding::X509_SIGNATURE,
                data: der.to_vec(),
            })
            .collect()
    }

    /// Whether a certificate request means this chain: it names one of its authorities, or none at
    /// all (RFC 7296, section 3.7).
    ///
    /// `authorities` is the content of CERTREQ; `roots` holds the authority that is not in the chain.
    pub fn answers(&self, authorities: &[u8], roots: &TrustAnchors) -> bool {
        let (wanted, []) = authorities.as_chunks::<AUTHORITY_HASH_LEN>() else {
            return false;
        };
        let issues = |der: &CertificateDer<'_>, issuer: &CertificateDer<'_>| {
            let (Ok(der), Ok(issuer)) = (parse(der), parse(issuer)) else {
                return None;
            };
            (der.issuer() == issuer.subject()).then(|| sha1(issuer.public_key().raw))
        };
        let ours = self.chain.iter().flat_map(|der| {
            let issuers = self.chain.iter().chain(&roots.certificates);
            issuers.filter_map(move |issuer| issues(der, issuer))
        });
        wanted.is_empty() || ours.into_iter().any(|hash| wanted.contains(&hash))
    }

    /// Whether this is a name of our certificate; see [`VerifiedPeer::is_for`].
    pub fn is_for(&self, id: &Identification) -> bool {
        self.chain
            .first()
            .and_then(|der| parse(der).ok())
            .is_some_and(|parsed| names(&parsed, id))
    }
}

/// The certificates among the CERT payloads of a message, in order; other encodings are passed over.
pub fn chain_of(payloads: &[Payload]) -> Vec<Vec<u8>> {
    payloads
        .iter()
        .filter_map(|payload| match payload {
            Payload::Cert {
                encoding: CertEncoding::X509_SIGNATURE,
                data,
            } => Some(data.clone()),
            _ => None,
        })
        .collect()
}

/// Whether `id` is a name of this certificate.
pub(super) fn names(parsed: &X509Certificate<'_>, id: &Identification) -> bool {
    if id.kind == IdType::DER_ASN1_DN {
        return parsed.subject().as_raw() == id.data;
    }
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return false;
    };
    names.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(name) => {
            id.kind == IdType::FQDN && name.as_bytes().eq_ignore_ascii_case(&id.data)
        }
        GeneralName::RFC822Name(name) => {
            id.kind == IdType::RFC822_ADDR && name.as_bytes() == id.data
        }
        GeneralName::IPAddress(octets) => {
            matches!(id.kind, IdType::IPV4_ADDR | IdType::IPV6_ADDR) && *octets == id.data
        }
        _ => false,
    })
}

pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(CertificateError::Syntax),
    }
}

fn read_certificates(octets: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let certificates = match octets.windows(10).any(|window| window == b"-----BEGIN") {
        true => CertificateDer::pem_slice_iter(octets)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CertificateError::Syntax)?,
        false => vec![CertificateDer::from(octets.to_vec())],
    };
    for certificate in &certificates {
        parse(certificate)?;
    }
    match certificates.is_empty() {
        true => Err(CertificateError::Missing),
        false => Ok(certificates),
    }
}

fn valid_at(der: &[u8], now: i64) -> bool {
    parse(der).is_ok_and(|parsed| {
        let validity = parsed.validity();
        (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
    })
}

/// Whether keyUsage is absent or has what is asked for (RFC 5280, section 4.2.1.3).
fn usage_allows(parsed: &X509Certificate<'_>, allows: impl Fn(&KeyUsage) -> bool) -> bool {
    match parsed.key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => allows(usage.value),
        Err(_) => false,
    }
}

/// keyUsage of the authorities between; the library looks at basicConstraints alone.
fn authorities_may_sign(path: &VerifiedPath<'_>) -> Result<(), Error> {
    path.intermediate_certificates()
        .all(|cert| {
            parse(&cert.der()).is_ok_and(|parsed| usage_allows(&parsed, KeyUsage::key_cert_sign))
        })
        .then_some(())
        .ok_or(Error::EndEntityUsedAsCa)
}

/// Extended key usage of an IKE peer (RFC 4945, section 5.1.3.12): absent, or one that fits.
struct Purpose;

const PURPOSES: [&[usize]; 4] = [
    // serverAuth, clientAuth, ipsecIKE, anyExtendedKeyUsage
    &[1, 3, 6, 1, 5, 5, 7, 3, 1],
    &[1, 3, 6, 1, 5, 5, 7, 3, 2],
    &[1, 3, 6, 1, 5, 5, 7, 3, 17],
    &[2, 5, 29, 37, 0],
];

impl ExtendedKeyUsageValidator for Purpose {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let mut absent = true;
        for purpose in purposes {
            absent = false;
            if PURPOSES.contains(&purpose?.to_decoded_oid().as_slice()) {
                return Ok(());
            }
        }
        match absent {
            true => Ok(()),
            // The library's own error wants its own type of usage; any error refuses the path.
            false => Err(Error::EmptyEkuExtension),
        }
    }
}

fn reason(error: &Error) -> CertificateError {
    match error {
        Error::CertExpired { .. } | Error::CertNotValidYet { .. } | Error::InvalidCertValidity => {
            CertificateError::Validity
        }
        Error::UnknownIssuer
        | Error::InvalidSignatureForPublicKey
        | Error::NameConstraintViolation
        | Error::PathLenConstraintViolated
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumPathDepthExceeded
        | Error::MaximumSignatureChecksExceeded
        | Error::MaximumNameConstraintComparisonsExceeded => CertificateError::Untrusted,
        Error::CaUsedAsEndEntity | Error::EndEntityUsedAsCa | Error::EmptyEkuExtension => {
            CertificateError::Usage
        }
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => CertificateError::Untrusted,
        _ => CertificateError::Syntax,
    }
}
