//! Certificates and private keys in PEM files (RFC 7468): what is wrong is told with file and line.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ike::{
    Trust,
    crypto::certificate::{Credential, Description, TrustAnchors},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use zeroize::Zeroizing;

use daemon::config::Complaint;

/// Larger files than this hold no chain.
const MAX_FILE: u64 = 1 << 20;

/// A PEM section: its label, the line it begins at, its text with both boundaries.
struct Section<'a> {
    label: &'a str,
    line: usize,
    text: &'a str,
}

/// What is wrong with a file, and in which line of it.
struct Fault {
    line: Option<usize>,
    what: String,
}

impl Fault {
    fn at(line: usize, what: impl Into<String>) -> Self {
        Self {
            line: Some(line),
            what: what.into(),
        }
    }

    fn whole(what: impl Into<String>) -> Self {
        Self {
            line: None,
            what: what.into(),
        }
    }

    fn complain(self, key: &str, file: &Path) -> Complaint {
        let place = match self.line {
            Some(line) => format!("{}:{line}", file.display()),
            None => file.display().to_string(),
        };
        Complaint::new(key, format!("{place}: {}", self.what))
    }
}

/// Reads a file of the configuration; wiped when dropped, since it may hold a private key.
///
/// # Errors
/// A [`Complaint`] about `key`.
pub fn read(key: &str, file: &Path) -> Result<Zeroizing<Vec<u8>>, Complaint> {
    load(file).map_err(|fault| fault.complain(key, file))
}

/// A certificate chain, end entity first, and its private key.
///
/// # Errors
/// A [`Complaint`] about the key of the file at fault, with the file and the line in it.
pub fn credential(
    (chain_key, chain): (&str, &Path),
    (private_key, private): (&str, &Path),
) -> Result<Credential, Complaint> {
    let certificates = read(chain_key, chain)?;
    each(&certificates, |_| Ok(())).map_err(|fault| fault.complain(chain_key, chain))?;
    let octets = read(private_key, private)?;
    private_section(&octets).map_err(|fault| fault.complain(private_key, private))?;
    Credential::new(&certificates, &octets)
        .map_err(|error| Fault::whole(error.to_string()).complain(private_key, private))
}

/// The authorities in these files.
///
/// # Errors
/// A [`Complaint`] about `key`, with the file and the line in it.
pub fn authorities(
    key: &str,
    files: &[impl AsRef<Path>],
) -> Result<Option<TrustAnchors>, Complaint> {
    let mut all = Vec::new();
    for file in files {
        let file = file.as_ref();
        let octets = read(key, file)?;
        each(&octets, |section| {
            match TrustAnchors::new(section.as_bytes()) {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("not an authority: {error}")),
            }
        })
        .map_err(|fault| fault.complain(key, file))?;
        all.extend_from_slice(&octets);
        all.push(b'\n');
    }
    match all.is_empty() {
        true => Ok(None),
        false => TrustAnchors::new(&all)
            .map(Some)
            .map_err(|error| Complaint::new(key, error.to_string())),
    }
}

/// The authorities in these files, with the calendar: the time of this call counts as
/// [`ike::Instant::ZERO`].
///
/// # Errors
/// As [`authorities`].
pub fn trust(key: &str, files: &[impl AsRef<Path>]) -> Result<Option<Trust>, Complaint> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let epoch = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX);
    Ok(authorities(key, files)?.map(|anchors| Trust {
        anchors: Arc::new(anchors),
        epoch,
    }))
}

/// What the certificates of a file say, in order.
///
/// # Errors
/// A [`Complaint`] about `key`, with the file and the line in it.
pub fn describe_all(key: &str, file: &Path) -> Result<Vec<Description>, Complaint> {
    let octets = read(key, file)?;
    each(&octets, |_| Ok(())).map_err(|fault| fault.complain(key, file))
}

fn load(file: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let whole = |error: std::io::Error| Fault::whole(error.to_string());
    if fs::metadata(file).map_err(whole)?.len() > MAX_FILE {
        return Err(Fault::whole("larger than 1 MiB"));
    }
    fs::read(file).map(Zeroizing::new).map_err(whole)
}

/// Looks at each certificate of a file.
fn each(
    octets: &[u8],
    also: impl Fn(&str) -> Result<(), String>,
) -> Result<Vec<Description>, Fault> {
    let mut described = Vec::new();
    for section in sections(octets)? {
        if section.label != "CERTIFICATE" {
            let what = format!("{} where a certificate belongs", section.label);
            return Err(Fault::at(section.line, what));
        }
        let bad = |what: String| Fault::at(section.line, what);
        let der = CertificateDer::from_pem_slice(section.text.as_bytes())
            .map_err(|_| bad("not base64".to_owned()))?;
        described.push(Description::of(&der).map_err(|error| bad(error.to_string()))?);
        also(section.text).map_err(bad)?;
    }
    Ok(described)
}

/// Whether there is one private key, of a form that can be read.
fn private_section(octets: &[u8]) -> Result<(), Fault> {
    let mut keys = 0;
    for section in sections(octets)? {
        match section.label {
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY"
                if !section.text.contains("ENCRYPTED") =>
            {
                keys += 1;
                if keys > 1 {
                    return Err(Fault::at(section.line, "a second private key"));
                }
            }
            // Beside the key that is how OpenSSL writes it.
            "EC PARAMETERS" => {}
            label if label.ends_with("PRIVATE KEY") => {
                let what = "the key is encrypted; `openssl pkey -in FILE -out FILE` takes that off";
                return Err(Fault::at(section.line, what));
            }
            label => {
                let what = format!("{label} where a private key belongs");
                return Err(Fault::at(section.line, what));
            }
        }
    }
    match keys {
        0 => Err(Fault::whole("no private key")),
        _ => Ok(()),
    }
}

/// The sections of a file. Text between them is a comment (RFC 7468, section 5.2).
fn sections(octets: &[u8]) -> Result<Vec<Section<'_>>, Fault> {
    let text = std::str::from_utf8(octets)
        .map_err(|_| Fault::whole("not PEM; DER becomes PEM with `openssl x509 -inform DER`"))?;
    let mut sections = Vec::new();
    let mut open: Option<(&str, usize, usize)> = None;
    let mut offset = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let begin = offset;
        offset += line.len();
        let line = line.trim_end();
        let label = |word: &str| line.strip_prefix(word)?.strip_suffix("-----");
        match (label("-----BEGIN "), label("-----END "), open) {
            (Some(_), _, Some((inner, at, _))) => {
                return Err(Fault::at(at, format!("{inner} has no end")));
            }
            (Some(label), _, None) => open = Some((label, number, begin)),
            (_, Some(label), Some((inner, at, from))) if inner == label => {
                let text = text.get(from..offset).unwrap_or_default();
                sections.push(Section {
                    label,
                    line: at,
                    text,
                });
                open = None;
            }
            (_, Some(label), _) => {
                return Err(Fault::at(
                    number,
                    format!("the end of {label}, which has not begun"),
                ));
            }
            _ => {}
        }
    }
    match open {
        Some((label, line, _)) => Err(Fault::at(line, format!("{label} has no end"))),
        None if sections.is_empty() => Err(Fault::whole("nothing in PEM in it")),
        None => Ok(sections),
    }
}

#[cfg(test)]
mod tests;
