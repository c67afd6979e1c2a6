//! Certificates for one run.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};

/// Writes `ca.pem`, `other-ca.pem`, and certificates with keys: `n3iwf`, `ue`, both also by the other
/// authority (`n3iwf-other`, `ue-other`), and `n3iwf-expired`.
pub(crate) fn write(directory: &Path) {
    let ca = authority("authority");
    let other = authority("another authority");
    fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
    fs::write(directory.join("other-ca.pem"), other.pem()).unwrap();
    let n3iwf = || SanType::DnsName("n3iwf.example.net".try_into().unwrap());
    let ue = || SanType::Rfc822Name("ue-1@example.net".try_into().unwrap());
    issue(directory, "n3iwf", &ca, n3iwf(), false);
    issue(directory, "n3iwf-other", &other, n3iwf(), false);
    issue(directory, "n3iwf-expired", &ca, n3iwf(), true);
    issue(directory, "ue", &ca, ue(), false);
    issue(directory, "ue-other", &other, ue(), false);
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(
    directory: &Path,
    name: &str,
    by: &CertifiedIssuer<'static, KeyPair>,
    san: SanType,
    expired: bool,
) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![san];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if expired {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    let certificate = params.signed_by(&key, by).unwrap();
    fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}
