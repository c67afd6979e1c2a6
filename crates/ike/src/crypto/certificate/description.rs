//! What a certificate says of itself, for whoever has to tell an operator.

use x509_parser::extensions::GeneralName;

use super::{super::rsa::CertificateError, parse};
use crate::wire::{IdType, Identification};

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its subject as text.
    pub subject: String,
    /// The names IKE can use: the subjectAltNames in their order, then the subject if it has one.
    pub names: Vec<Identification>,
    /// Begin of validity, in seconds since 1970.
    pub not_before: i64,
    /// End of validity, in seconds since 1970.
    pub not_after: i64,
    /// Whether it is the certificate of an authority.
    pub authority: bool,
}

impl Description {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// It is none.
    pub fn of(der: &[u8]) -> Result<Self, CertificateError> {
        let parsed = parse(der)?;
        let alternative = parsed
            .subject_alternative_name()
            .map_err(|_| CertificateError::Syntax)?;
        let mut names: Vec<Identification> = alternative
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(identity)
            .collect();
        if parsed.subject().iter().next().is_some() {
            let subject = parsed.subject().as_raw().to_vec();
            names.push(Identification::new(IdType::DER_ASN1_DN, subject));
        }
        Ok(Self {
            subject: parsed.subject().to_string(),
            names,
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            authority: parsed.is_ca(),
        })
    }
}

fn identity(name: &GeneralName<'_>) -> Option<Identification> {
    let (kind, data) = match name {
        GeneralName::DNSName(name) => (IdType::FQDN, name.as_bytes()),
        GeneralName::RFC822Name(name) => (IdType::RFC822_ADDR, name.as_bytes()),
        GeneralName::IPAddress(octets) if octets.len() == 4 => (IdType::IPV4_ADDR, *octets),
        GeneralName::IPAddress(octets) if octets.len() == 16 => (IdType::IPV6_ADDR, *octets),
        _ => return None,
    };
    Some(Identification::new(kind, data.to_vec()))
}
