//! Mutual TLS with the KME (014, 4 and 5.1): TLS 1.2 or later, both certificates required.

use std::{fmt::Display, fs, path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms},
    server::ParsedCertificate,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject},
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};
use zeroize::Zeroizing;

use crate::{KmsConfig, SetupError};

/// The TLS side of the client, from the PEM files of the configuration.
///
/// # Errors
/// [`SetupError`] naming the configuration key at fault.
pub fn client_config(config: &KmsConfig) -> Result<ClientConfig, SetupError> {
    let tls = |error: Error| SetupError::Tls(error.to_string());
    let provider = Arc::new(crypto::ring::default_provider());

    let mut roots = RootCertStore::empty();
    for root in certificates("ca", &config.ca)? {
        roots
            .add(root)
            .map_err(|error| file("ca", &config.ca, &error))?;
    }
    let chain = certificates("certificate", &config.certificate)?;
    let key = private_key(&config.private_key)?;

    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(tls)?;
    let builder = if config.kme_id.is_empty() {
        builder.with_root_certificates(roots)
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(KmeVerifier {
                roots,
                kme_ids: config.kme_id.clone(),
                provider,
            }))
    };
    let mut client = builder.with_client_auth_cert(chain, key).map_err(tls)?;
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(client)
}

fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let pem = fs::read(path).map_err(|error| file(key, path, &error))?;
    let list: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, pem::Error>>()
        .map_err(|error| file(key, path, &error))?;
    if list.is_empty() {
        return Err(file(key, path, &"no PEM certificate in it"));
    }
    Ok(list)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, SetupError> {
    let pem = Zeroizing::new(fs::read(path).map_err(|error| file("privateKey", path, &error))?);
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        pem::Error::NoItemsFound => file("privateKey", path, &"no PEM private key in it"),
        // The other messages may quote lines of the file.
        _ => file("privateKey", path, &"not a PEM file with a private key"),
    })
}

fn file(key: &'static str, path: &Path, reason: &dyn Display) -> SetupError {
    SetupError::File {
        key,
        path: path.into(),
        reason: reason.to_string(),
    }
}

/// Accepts a server certificate that chains to our roots, is valid now, and names one of the
/// expected KME IDs: the check 014, 5.1 asks for, in place of the check of the host name.
#[derive(Debug)]
struct KmeVerifier {
    roots: RootCertStore,
    kme_ids: Vec<String>,
    provider: Arc<CryptoProvider>,
}

impl KmeVerifier {
    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

impl ServerCertVerifier for KmeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.algorithms().all,
        )?;
        if names(end_entity)?
            .iter()
            .any(|name| self.kme_ids.contains(name))
        {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, cert, dss, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, cert, dss, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

/// Every CN and every DNS and URI SAN of a certificate.
fn names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, Error> {
    let encoding = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| encoding())?;
    let mut names: Vec<String> = certificate
        .subject()
        .iter_common_name()
        .filter_map(|name| name.as_str().ok())
        .map(str::to_owned)
        .collect();
    if let Some(san) = certificate
        .subject_alternative_name()
        .map_err(|_| encoding())?
    {
        names.extend(
            san.value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
                    _ => None,
                }),
        );
    }
    Ok(names)
}
