//! Certificates of both ends, made by OpenSSL: an authority that neither side's code has a hand in.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use rig::exec;

/// Kinds of key pairs, and OpenSSL's words for them.
const KEYS: [(&str, &[&str]); 4] = [
    (
        "p256",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    ),
    (
        "p384",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    ),
    ("ed25519", &["-algorithm", "ED25519"]),
    (
        "rsa",
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    ),
];

/// Names of the kinds of key pairs.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(kind, _)| *kind)
}

/// The names of both ends.
pub const NAMES: [(&str, &str); 2] = [
    ("ours", super::lab::OUR_ID),
    ("theirs", super::lab::THEIR_ID),
];

/// Makes `root.pem` and, for each end and kind of key, `END-KIND.pem` and `END-KIND.key`.
///
/// # Errors
/// When OpenSSL fails.
pub fn make(place: &Path) -> Result<()> {
    fs::create_dir_all(place)?;
    // Nothing of the host's configuration, which may not even be there.
    let config = place.join("openssl.cnf");
    fs::write(&config, "[req]\ndistinguished_name = name\n[name]\n")?;
    let openssl = |arguments: &[&str]| {
        exec::output(
            Command::new("openssl")
                .env("OPENSSL_CONF", &config)
                .current_dir(place)
                .args(arguments),
        )
        .map(drop)
        .context("openssl")
    };
    let key = |name: &str, words: &[&str]| {
        openssl(&[&["genpkey", "-out", &format!("{name}.key")], words].concat())
    };
    key("root", KEYS[0].1)?;
    openssl(&[
        "req",
        "-x509",
        "-new",
        "-key",
        "root.key",
        "-sha256",
        "-days",
        "30",
        "-subj",
        "/CN=Interop Root",
        "-out",
        "root.pem",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    ])?;
    for (end, id) in NAMES {
        for (kind, words) in KEYS {
            let name = format!("{end}-{kind}");
            key(&name, words)?;
            fs::write(
                place.join("leaf.ext"),
                format!(
                    "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
                     subjectAltName=DNS:{id}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
                ),
            )?;
            let subject = format!("/CN={id}");
            let request = format!("{name}.csr");
            openssl(&[
                "req",
                "-new",
                "-key",
                &format!("{name}.key"),
                "-subj",
                &subject,
                "-out",
                &request,
            ])?;
            openssl(&[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                "root.pem",
                "-CAkey",
                "root.key",
                "-CAcreateserial",
                "-days",
                "30",
                "-sha256",
                "-extfile",
                "leaf.ext",
                "-out",
                &format!("{name}.pem"),
            ])?;
        }
    }
    Ok(())
}
