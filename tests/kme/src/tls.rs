//! The server side of mutual TLS: a client certificate is required, and its CN is the SAE ID.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, Result, ensure};
use keys::SaeId;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, crypto::ring::default_provider, server::WebPkiClientVerifier,
    server::danger::ClientCertVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::KmeConfig;

/// The honest server, and the one that the fault `wrong-certificate` puts in its place.
#[derive(Clone)]
pub(crate) struct Acceptors {
    pub(crate) honest: TlsAcceptor,
    pub(crate) rogue: TlsAcceptor,
}

impl Acceptors {
    pub(crate) fn new(config: &KmeConfig) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in certificates(&config.ca)? {
            roots.add(root)?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), default_provider().into())
                .build()?;
        let honest = server(
            verifier.clone(),
            certificates(&config.certificate)?,
            PrivateKeyDer::from_pem_file(&config.private_key)
                .with_context(|| format!("private key {}", config.private_key.display()))?,
        )?;

        // The right names, signed by nobody the client trusts.
        let key = KeyPair::generate()?;
        let rogue = CertificateParams::new(vec![config.id.clone(), config.listen.ip().to_string()])
            .or_else(|_| CertificateParams::new(vec![config.listen.ip().to_string()]))?
            .self_signed(&key)?;
        let rogue = server(
            verifier,
            vec![rogue.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )?;
        Ok(Self { honest, rogue })
    }
}

fn server(
    verifier: Arc<dyn ClientCertVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<TlsAcceptor> {
    let mut config = ServerConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = fs::read(path).with_context(|| format!("certificate {}", path.display()))?;
    let list = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("certificate {}", path.display()))?;
    ensure!(!list.is_empty(), "{} has no certificate", path.display());
    Ok(list)
}

/// The SAE ID in a client certificate: its only CN.
pub(crate) fn sae_id(certificate: &CertificateDer<'_>) -> Option<SaeId> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    if names.next().is_some() {
        return None;
    }
    name.parse().ok()
}
