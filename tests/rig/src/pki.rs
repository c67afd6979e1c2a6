//! The certificates of IKE for modes `psk` and `cert`: an authority, one between, N3IWF and UE.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::exec;
use crate::files::FQDN;

/// The UE's name in its certificate.
pub const UE_NAME: &str = "ue-1@example.net";

/// Writes `ike-ca.pem`, and for `n3iwf` and `ue` a chain of two certificates (ECDSA on P-256, signed
/// by an authority below the root) and a key.
///
/// # Errors
/// When `openssl` fails.
pub fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    authority(directory)?;
    key(directory, "ike-sub")?;
    let usage = "basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign\n";
    sign(directory, "ike-sub", "ike-ca", usage)?;
    for (name, alternative) in [
        ("n3iwf", format!("DNS:{FQDN}")),
        ("ue", format!("email:{UE_NAME}")),
    ] {
        key(directory, name)?;
        let usage = format!(
            "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\n\
             extendedKeyUsage=1.3.6.1.5.5.7.3.17\nsubjectAltName={alternative}\n"
        );
        sign(directory, name, "ike-sub", &usage)?;
        let file = directory.join(format!("{name}.pem"));
        let mut chain = fs::read_to_string(&file)?;
        chain.push_str(&fs::read_to_string(directory.join("ike-sub.pem"))?);
        fs::write(&file, chain)?;
    }
    Ok(())
}

fn openssl(directory: &Path, words: &[&str]) -> Result<()> {
    let mut command = Command::new("openssl");
    exec::output(command.args(words).current_dir(directory)).map(drop)
}

fn key(directory: &Path, name: &str) -> Result<()> {
    let file = format!("{name}.key");
    let curve = "ec_paramgen_curve:P-256";
    openssl(
        directory,
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            curve,
            "-out",
            &file,
        ],
    )
}

/// The root: a key with a certificate of its own.
fn authority(directory: &Path) -> Result<()> {
    let name = "ike-ca";
    key(directory, name)?;
    let settings = format!(
        "[req]\nprompt = no\ndistinguished_name = subject\nx509_extensions = more\n\
         [subject]\nO = rig\nCN = {name}\n\
         [more]\nbasicConstraints = critical,CA:true\nkeyUsage = critical,keyCertSign\n"
    );
    fs::write(directory.join(format!("{name}.cnf")), settings)?;
    openssl(
        directory,
        &[
            "req",
            "-x509",
            "-sha256",
            "-days",
            "365",
            "-config",
            &format!("{name}.cnf"),
            "-key",
            &format!("{name}.key"),
            "-out",
            &format!("{name}.pem"),
        ],
    )
}

/// A certificate for a key, by an authority.
fn sign(directory: &Path, name: &str, by: &str, extensions: &str) -> Result<()> {
    let settings = format!(
        "[req]\nprompt = no\ndistinguished_name = subject\n[subject]\nO = rig\nCN = {name}\n"
    );
    fs::write(directory.join(format!("{name}.cnf")), settings)?;
    fs::write(directory.join(format!("{name}.ext")), extensions)?;
    let request = format!("{name}.csr");
    openssl(
        directory,
        &[
            "req",
            "-new",
            "-config",
            &format!("{name}.cnf"),
            "-key",
            &format!("{name}.key"),
            "-out",
            &request,
        ],
    )?;
    openssl(
        directory,
        &[
            "x509",
            "-req",
            "-sha256",
            "-days",
            "365",
            "-in",
            &request,
            "-CA",
            &format!("{by}.pem"),
            "-CAkey",
            &format!("{by}.key"),
            "-CAcreateserial",
            "-extfile",
            &format!("{name}.ext"),
            "-out",
            &format!("{name}.pem"),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chains_lead_to_the_authority() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path()).unwrap();
        for name in ["n3iwf", "ue"] {
            let chain = format!("{name}.pem");
            let words = [
                "verify",
                "-CAfile",
                "ike-ca.pem",
                "-untrusted",
                &chain,
                &chain,
            ];
            openssl(directory.path(), &words).unwrap();
            let pem = fs::read_to_string(directory.path().join(&chain)).unwrap();
            assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 2);
        }
    }
}
