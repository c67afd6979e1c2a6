//! Certificates for a KME pair and its SAEs: one CA, ECDSA P-256 throughout.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use thiserror::Error;
use time::{Duration, OffsetDateTime};

/// The CA's name. It is the same each time, so that a CA key read back signs under the same name.
const CA_NAME: &str = "QKD site CA";

/// A directory with `ca.pem`, `ca.key`, and `NAME.pem`, `NAME.key` for each KME and SAE.
#[derive(Debug, Clone)]
pub struct Pki {
    dir: PathBuf,
    days: u32,
}

/// A KME to certify: its ID and the addresses clients know it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmeName {
    /// KME ID: the CN, and a DNS SAN when it can be one.
    pub id: String,
    /// IP addresses and DNS names for the SAN.
    pub addresses: Vec<String>,
}

/// Why there are no certificates.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertError {
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A name that cannot be a file name and a CN.
    #[error(
        "{0:?}: a name is up to 64 letters, digits, '-', '_', '.', '@', begins with a letter or digit, and is not 'ca'"
    )]
    Name(String),
    /// Certificate generation failed.
    #[error(transparent)]
    Certificate(#[from] rcgen::Error),
}

impl FromStr for KmeName {
    type Err = CertError;

    /// `kme-a` or `kme-a=198.51.100.2,kme-a.example`.
    fn from_str(text: &str) -> Result<Self, CertError> {
        let (id, addresses) = text.split_once('=').unwrap_or((text, ""));
        check(id)?;
        Ok(Self {
            id: id.to_owned(),
            addresses: addresses
                .split(',')
                .filter(|address| !address.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }
}

impl Pki {
    /// The CA in `dir`: the one that is there, or a new one valid for ten years. Certificates will
    /// be valid for `days` from now.
    ///
    /// # Errors
    /// [`CertError`] when files cannot be read or written.
    pub fn open(dir: impl Into<PathBuf>, days: u32) -> Result<Self, CertError> {
        let pki = Self {
            dir: dir.into(),
            days,
        };
        if !pki.key("ca").exists() {
            fs::create_dir_all(&pki.dir).map_err(|error| at(&pki.dir, error))?;
            let key = KeyPair::generate()?;
            let mut params = ca_params();
            params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
            params.not_after = params.not_before + Duration::days(3651);
            let certificate = params.self_signed(&key)?;
            write(&pki.key("ca"), &key.serialize_pem(), 0o600)?;
            write(&pki.certificate("ca"), &certificate.pem(), 0o644)?;
        }
        Ok(pki)
    }

    /// Makes the server certificate of a KME.
    ///
    /// # Errors
    /// [`CertError`] when the name is unfit or files cannot be written.
    pub fn kme(&self, kme: &KmeName) -> Result<(), CertError> {
        let mut params = self.params(&kme.id)?;
        let mut names = kme.addresses.clone();
        names.push(kme.id.clone());
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(&kme.id, &params)
    }

    /// Makes the client certificate of an SAE: its ID is the CN.
    ///
    /// # Errors
    /// [`CertError`] when the name is unfit or files cannot be written.
    pub fn sae(&self, id: &str) -> Result<(), CertError> {
        let mut params = self.params(id)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(id, &params)
    }

    /// The file with the certificate of `name`; `ca` for the CA's.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.pem"))
    }

    /// The file with the private key of `name`.
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    fn params(&self, name: &str) -> Result<CertificateParams, CertError> {
        check(name)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
        params.not_after = params.not_before + Duration::days(i64::from(self.days) + 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn issue(&self, name: &str, params: &CertificateParams) -> Result<(), CertError> {
        let path = self.key("ca");
        let pem = fs::read_to_string(&path).map_err(|error| at(&path, error))?;
        let issuer = Issuer::new(ca_params(), KeyPair::from_pem(&pem)?);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        write(&self.key(name), &key.serialize_pem(), 0o600)?;
        write(&self.certificate(name), &certificate.pem(), 0o644)
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, name);
    dn
}

/// Names become file names: nothing that leaves the directory or hides in it.
fn check(name: &str) -> Result<(), CertError> {
    let fit = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 64
        && name != "ca"
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c));
    if fit {
        Ok(())
    } else {
        Err(CertError::Name(name.to_owned()))
    }
}

fn at(path: &Path, source: io::Error) -> CertError {
    CertError::File {
        path: path.into(),
        source,
    }
}

/// Replaces a file; a key is never readable by others, not even for a moment.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path, error)),
        _ => {}
    }
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| at(path, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn names_become_files_in_the_directory_only() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "ca", "a b", "ü"] {
            assert!(
                matches!(name.parse::<KmeName>(), Err(CertError::Name(_))),
                "{name}"
            );
        }
        assert_eq!(
            "kme-a=198.51.100.2,kme.example".parse::<KmeName>().unwrap(),
            KmeName {
                id: "kme-a".into(),
                addresses: vec!["198.51.100.2".into(), "kme.example".into()]
            }
        );
    }

    #[test]
    fn a_second_run_keeps_the_ca() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), 30).unwrap();
        pki.sae("sae-ue-1").unwrap();
        let ca = fs::read(pki.certificate("ca")).unwrap();
        let again = Pki::open(dir.path(), 30).unwrap();
        again.sae("sae-ue-2").unwrap();
        assert_eq!(fs::read(again.certificate("ca")).unwrap(), ca);
        let mode = fs::metadata(again.key("sae-ue-2"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
