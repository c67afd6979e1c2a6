//! A search of files for keys, in every shape in which a log line may show one.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Octets of a key that are enough to know it by: a line that is cut short shows a key, too.
const PART: usize = 8;

/// A secret by name.
#[derive(Clone)]
pub struct Secret {
    /// What messages call it.
    pub name: String,
    octets: Vec<u8>,
}

/// Where a secret was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Its name.
    pub secret: String,
    /// As what.
    pub shape: &'static str,
    /// Octets from the beginning of the file.
    pub at: usize,
}

impl Secret {
    /// A secret of at least 16 octets.
    ///
    /// # Errors
    /// When it is shorter: a search for it would find it anywhere.
    pub fn new(name: impl Into<String>, octets: &[u8]) -> Result<Self> {
        anyhow::ensure!(octets.len() >= 2 * PART, "too short to look for");
        Ok(Self {
            name: name.into(),
            octets: octets.to_vec(),
        })
    }

    /// Its octets.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The first and the last octets, as text of each kind.
    fn needles(&self) -> Vec<(&'static str, Vec<u8>)> {
        let first = self.octets.get(..PART).unwrap_or_default();
        let last = self
            .octets
            .get(self.octets.len() - PART..)
            .unwrap_or_default();
        let mut needles = Vec::new();
        for part in [first, last] {
            needles.push(("octets", part.to_vec()));
            needles.push(("hexadecimal", joined(part, "", lower).into_bytes()));
            needles.push(("HEXADECIMAL", joined(part, "", upper).into_bytes()));
            needles.push(("hexadecimal, spaced", joined(part, " ", lower).into_bytes()));
            needles.push(("hexadecimal, colons", joined(part, ":", lower).into_bytes()));
            // `{:02x?}` of octets.
            needles.push(("hexadecimal, list", joined(part, ", ", lower).into_bytes()));
            needles.push((
                "hexadecimal, 0x",
                joined(part, ", ", |o| format!("0x{o:02x}")).into(),
            ));
            // `{:?}` of octets, and the same as JSON.
            needles.push((
                "decimal",
                joined(part, ", ", |o| o.to_string()).into_bytes(),
            ));
            needles.push((
                "decimal, JSON",
                joined(part, ",", |o| o.to_string()).into_bytes(),
            ));
            needles.push(("escaped", part.escape_ascii().to_string().into_bytes()));
        }
        // Groups of three octets, so that what follows them changes nothing.
        let whole = self.octets.get(..PART + 1).unwrap_or_default();
        needles.push(("base64", STANDARD.encode(whole).into_bytes()));
        needles.push(("base64url", URL_SAFE.encode(whole).into_bytes()));
        needles
    }
}

fn lower(octet: u8) -> String {
    format!("{octet:02x}")
}

fn upper(octet: u8) -> String {
    format!("{octet:02X}")
}

fn joined(octets: &[u8], between: &str, one: impl Fn(u8) -> String) -> String {
    let mut text = String::new();
    for (at, octet) in octets.iter().enumerate() {
        if at > 0 {
            text.push_str(between);
        }
        let _ = write!(text, "{}", one(*octet));
    }
    text
}

/// Of which secret, as what, and what that looks like.
type Needle<'a> = (&'a Secret, &'static str, Vec<u8>);

/// Where `text` shows one of the secrets first, in each shape.
#[must_use]
pub fn search(text: &[u8], secrets: &[Secret]) -> Vec<Leak> {
    // By their first octets, so that one pass over a long log looks for all of them.
    let mut needles: HashMap<[u8; 4], Vec<Needle<'_>>> = HashMap::new();
    for secret in secrets {
        for (shape, needle) in secret.needles() {
            if let Some(first) = needle.first_chunk() {
                let alike = needles.entry(*first).or_default();
                alike.push((secret, shape, needle));
            }
        }
    }
    let mut leaks = Vec::new();
    for at in 0..text.len() {
        let rest = text.get(at..).unwrap_or_default();
        let alike = rest.first_chunk().and_then(|first| needles.get_mut(first));
        let Some(alike) = alike else {
            continue;
        };
        alike.retain(|(secret, shape, needle)| {
            let found = rest.starts_with(needle);
            if found {
                leaks.push(Leak {
                    secret: secret.name.clone(),
                    shape,
                    at,
                });
            }
            !found
        });
    }
    leaks
}

/// The same of a file; also how many octets it has.
///
/// # Errors
/// When it cannot be read.
pub fn search_file(path: &Path, secrets: &[Secret]) -> Result<(Vec<Leak>, usize)> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    Ok((search(&text, secrets), text.len()))
}

/// SecurityKey of each INITIAL CONTEXT SETUP REQUEST in a capture of N2 (TS 38.413, 9.3.1.87: IE 94, 256 bits), which
/// is K_N3IWF.
///
/// # Errors
/// When the file cannot be read.
pub fn security_keys(capture: &Path) -> Result<Vec<Secret>> {
    // id-SecurityKey, criticality reject, 32 octets.
    const IE: [u8; 4] = [0, 94, 0, 32];
    let octets = fs::read(capture).with_context(|| capture.display().to_string())?;
    let mut keys: Vec<Secret> = Vec::new();
    for (at, _) in octets
        .windows(IE.len())
        .enumerate()
        .filter(|(_, w)| *w == IE)
    {
        let from = at + IE.len();
        if let Some(key) = octets.get(from..from + 32)
            && keys.iter().all(|known| known.octets != key)
        {
            keys.push(Secret::new(format!("K_N3IWF {}", keys.len() + 1), key)?);
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        let octets: Vec<u8> = (0..32).map(|n: u8| n.wrapping_mul(73) ^ 0xa5).collect();
        Secret::new("test", &octets).unwrap()
    }

    #[test]
    fn a_planted_key_is_found_in_every_shape() {
        let secret = secret();
        let octets = secret.octets().to_vec();
        let uuid = joined(&octets[..16], "", lower);
        let planted: Vec<(&str, Vec<u8>)> = vec![
            ("octets", octets.clone()),
            ("hexadecimal", joined(&octets, "", lower).into()),
            ("HEXADECIMAL", joined(&octets, "", upper).into()),
            ("decimal", format!("{octets:?}").into()),
            ("hexadecimal, list", format!("{octets:02x?}").into()),
            (
                "hexadecimal, 0x",
                format!("{octets:#04x?}").replace(",\n    ", ", ").into(),
            ),
            ("decimal, JSON", serde_json::to_vec(&octets).unwrap()),
            ("base64", STANDARD.encode(&octets).into()),
            ("base64url", URL_SAFE.encode(&octets).into()),
            ("escaped", format!("b\"{}\"", octets.escape_ascii()).into()),
            (
                "hexadecimal",
                format!("{}... 32 octets", &uuid[..20]).into(),
            ),
            ("hexadecimal", joined(&octets[20..], "", lower).into()),
        ];
        for (shape, text) in planted {
            let line = [b"{\"level\":\"TRACE\",\"key\":\"".as_slice(), &text, b"\"}"].concat();
            let found = search(&line, std::slice::from_ref(&secret));
            assert!(
                found.iter().any(|leak| leak.shape == shape),
                "{shape}: {found:?}"
            );
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let other = Secret::new("other", &[0x5a; 32]).unwrap();
        let text = joined(secret().octets(), "", lower);
        assert!(search(text.as_bytes(), &[other]).is_empty());
        assert!(search(b"", &[secret()]).is_empty());
        assert!(Secret::new("short", &[1; 15]).is_err());
    }

    #[test]
    fn security_keys_are_read_from_a_capture() {
        let mut octets = vec![7; 100];
        octets.extend([0, 94, 0, 32]);
        octets.extend([9; 32]);
        octets.extend([1; 20]);
        octets.extend([0, 94, 0, 32, 1, 2]);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("n2.pcap");
        fs::write(&file, &octets).unwrap();
        let keys = security_keys(&file).unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].octets(), [9; 32]);
    }
}
