//! What the `paper` profile needs and shows: a certificate of the size of the stock N3IWF's, and
//! frames of the sizes of Table II of arXiv 2603.24426.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use e2e::table_ii::{Attach, Column, Frame};

use crate::capture::IkeFrame;
use crate::exec;
use crate::files::{FQDN, KeyMode, Profile};

/// Octets of the certificate (DER) behind the sizes of Table II.
const CERTIFICATE: usize = 1021;
/// Serial number, of twenty octets.
const SERIAL: &str = "0x4e33495746000000000000000000000000000001";

/// Makes `n3iwf.key` and `n3iwf.pem` (RSA-2048, self-signed, 1021 octets of DER) in `directory`.
///
/// # Errors
/// When openssl is missing or fails.
pub fn make_certificate(directory: &Path) -> Result<()> {
    let key = directory.join("n3iwf.key");
    let certificate = directory.join("n3iwf.pem");
    let settings = directory.join("n3iwf.cnf");
    exec::output(
        Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(&key)
            .arg("2048"),
    )?;
    // A comment brings the certificate to its size; its own length octets move the first guess.
    let mut padding = 100usize;
    for _ in 0..4 {
        let comment = "x".repeat(padding);
        fs::write(
            &settings,
            format!(
                "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = more\n\
                 [name]\nCN = {FQDN}\n\
                 [more]\nsubjectAltName = DNS:{FQDN}\nnsComment = {comment}\n"
            ),
        )?;
        exec::output(
            Command::new("openssl")
                .args(["req", "-x509", "-sha256", "-days", "365"])
                // A number by chance is an octet shorter at times.
                .args(["-set_serial", SERIAL, "-config"])
                .arg(&settings)
                .arg("-key")
                .arg(&key)
                .arg("-out")
                .arg(&certificate),
        )?;
        let size = der_length(&fs::read_to_string(&certificate)?)?;
        if size == CERTIFICATE {
            return Ok(());
        }
        padding = (padding + CERTIFICATE)
            .checked_sub(size)
            .context("the certificate is too large without any comment")?;
    }
    bail!("no comment brings the certificate to {CERTIFICATE} octets")
}

/// Octets that the base64 text of a PEM file stands for.
fn der_length(pem: &str) -> Result<usize> {
    let text: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    if text.is_empty() || !text.len().is_multiple_of(4) {
        bail!("not a PEM file");
    }
    let padding = text
        .bytes()
        .rev()
        .take_while(|octet| *octet == b'=')
        .count();
    Ok(text.len() / 4 * 3 - padding)
}

/// Holds the frames of an attach to Table II; returns them message by message.
///
/// # Errors
/// When a message is missing or was sent again, or has another size than mode and profile fix.
pub fn sizes(frames: &[IkeFrame], mode: KeyMode, profile: Profile) -> Result<(usize, String)> {
    let attach = match mode {
        KeyMode::Hybrid => Attach::find_hybrid(frames)?,
        _ => Attach::find(frames)?,
    };
    let attach = attach.beside(match mode {
        KeyMode::Qkd => Column::Qkd,
        KeyMode::Hybrid | KeyMode::Psk => Column::Psk,
        KeyMode::Cert => Column::Certificate,
    });
    match (mode, profile) {
        (KeyMode::Qkd, Profile::Native) => attach.check_native(),
        (KeyMode::Qkd, Profile::Paper) => attach.check_paper(),
        (KeyMode::Hybrid, _) => attach.check_hybrid(),
        (KeyMode::Psk | KeyMode::Cert, _) => attach.check_exchange(),
    }
    .with_context(|| format!("\n{attach}"))?;
    Ok((attach.total(), attach.to_string()))
}

impl Frame for IkeFrame {
    fn length(&self) -> usize {
        self.length
    }

    fn exchange(&self) -> u8 {
        self.exchange
    }

    fn message_id(&self) -> u32 {
        self.message_id
    }

    fn is_response(&self) -> bool {
        self.response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_has_its_size() {
        let dir = tempfile::tempdir().unwrap();
        make_certificate(dir.path()).unwrap();
        let pem = fs::read_to_string(dir.path().join("n3iwf.pem")).unwrap();
        assert_eq!(der_length(&pem).unwrap(), CERTIFICATE);
        assert!(der_length("").is_err());
    }
}
