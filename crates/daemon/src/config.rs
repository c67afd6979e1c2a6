//! Configuration files: YAML in, a typed value or one precise complaint out.
//!
//! An unknown key is an error, not a wish that goes unheard; the nearest known key is suggested.
//! Types used with [`load`] carry `#[serde(deny_unknown_fields)]`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error as YamlError, Location, Spanned};
use thiserror::Error;

/// Larger files than this are no configuration; one with 12 000 subscribers has 1.4 MiB.
const MAX_FILE: u64 = 16 << 20;

/// Reads `path` into a `T`.
///
/// # Errors
///
/// [`ConfigError::Read`] when the file cannot be read, [`ConfigError::Invalid`] with file, line,
/// column, key and reason when its content is not a `T`.
pub fn load<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T, ConfigError> {
    load_checked(path, |_: &T| Ok(()))
}

/// As [`load`], then asks `check` about what one key alone cannot tell.
///
/// # Errors
///
/// As [`load`]; a [`Complaint`] is reported at the place in the file where its key stands.
pub fn load_checked<T: DeserializeOwned>(
    path: impl AsRef<Path>,
    check: impl FnOnce(&T) -> Result<(), Complaint>,
) -> Result<T, ConfigError> {
    let path = path.as_ref();
    let read = |source| ConfigError::Read {
        file: path.to_path_buf(),
        source,
    };
    if fs::metadata(path).map_err(read)?.len() > MAX_FILE {
        return Err(read(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than 16 MiB",
        )));
    }
    parse(path, &fs::read_to_string(path).map_err(read)?, check)
}

/// The part of [`load_checked`] after reading; `file` is what error texts call `text`.
///
/// # Errors
///
/// [`ConfigError::Invalid`], as [`load_checked`].
pub fn parse<T: DeserializeOwned>(
    file: &Path,
    text: &str,
    check: impl FnOnce(&T) -> Result<(), Complaint>,
) -> Result<T, ConfigError> {
    let mut key = String::new();
    let value: T = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            key = error.path().to_string();
            error.into_inner()
        })
    })
    .map_err(|error| invalid(file, &key, &error))?;
    match check(&value) {
        Ok(()) => Ok(value),
        Err(complaint) => Err(placed(file, text, complaint)),
    }
}

/// A complaint that came up after the file was read, at the place where its key stands.
pub fn place(path: &Path, complaint: Complaint) -> ConfigError {
    match fs::read_to_string(path) {
        Ok(text) => placed(path, &text, complaint),
        Err(source) => ConfigError::Read {
            file: path.to_path_buf(),
            source,
        },
    }
}

fn placed(file: &Path, text: &str, complaint: Complaint) -> ConfigError {
    let (line, column) = locate(text, &complaint.key).unwrap_or((1, 1));
    ConfigError::Invalid {
        file: file.to_path_buf(),
        line,
        column,
        key: complaint.key,
        what: complaint.what,
    }
}

/// Why there is no configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The content is not what the daemon wants.
    #[error("{}:{line}:{column}: {key}: {what}", file.display())]
    Invalid {
        /// Which file.
        file: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// The key, dotted from the top: `qkd.kms[0].url`; `.` for the whole file.
        key: String,
        /// What is wrong, and what would be right where that is known.
        what: String,
    },
}

/// What a check beyond one key found: the key to name (dotted, `a.b[0].c`) and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    key: String,
    what: String,
}

impl Complaint {
    /// A complaint about `key`.
    pub fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            what: what.into(),
        }
    }
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

impl std::error::Error for Complaint {}

fn invalid(file: &Path, path: &str, error: &YamlError) -> ConfigError {
    let error = error.without_snippet();
    let (line, column) = error
        .location()
        .map_or((1, 1), |at| (at.line(), at.column()));
    ConfigError::Invalid {
        file: file.to_path_buf(),
        line,
        column,
        key: if path.is_empty() { "." } else { path }.to_owned(),
        what: reason(error),
    }
}

/// The reason in the words of a user of the file; positions are told elsewhere.
fn reason(error: &YamlError) -> String {
    match error {
        YamlError::SerdeUnknownField {
            field, expected, ..
        } => unknown("key", field, expected),
        YamlError::SerdeUnknownVariant {
            variant, expected, ..
        } => unknown("value", variant, expected),
        YamlError::SerdeMissingField { field, .. } => format!("the key `{field}` is missing"),
        YamlError::SerdeInvalidType {
            unexpected,
            expected,
            ..
        }
        | YamlError::SerdeInvalidValue {
            unexpected,
            expected,
            ..
        } => format!("{unexpected} where {expected} belongs"),
        YamlError::InvalidScalar { ty, .. } => format!("not a valid {ty}"),
        YamlError::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key `{key}` appears twice")
        }
        YamlError::Message { msg, .. } => msg.clone(),
        other => other
            .render_with_formatter(&serde_saphyr::UserMessageFormatter)
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned(),
    }
}

fn unknown(kind: &str, found: &str, known: &[&str]) -> String {
    let found: String = found
        .chars()
        .take(64)
        .flat_map(char::escape_debug)
        .collect();
    match nearest(&found, known) {
        Some(near) => format!("unknown {kind} `{found}`; did you mean `{near}`?"),
        None if known.is_empty() => format!("unknown {kind} `{found}`"),
        None => format!("unknown {kind} `{found}`; known: {}", known.join(", ")),
    }
}

/// The known word a typist most likely meant, if one is close enough: a third of it may be wrong.
fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let fold = |word: &str| word.to_lowercase().replace(['_', '-'], "");
    let found = fold(found);
    known
        .iter()
        .map(|word| (strsim::osa_distance(&found, &fold(word)), *word))
        .filter(|(distance, word)| *distance <= (word.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Line and column of the deepest part of `key` that the file has.
fn locate(text: &str, key: &str) -> Option<(u64, u64)> {
    let segments: Vec<&str> = key
        .split(['.', '['])
        .map(|part| part.trim_end_matches(']'))
        .filter(|part| !part.is_empty())
        .collect();
    (0..=segments.len()).rev().find_map(|depth| {
        let walk = Walk(segments.get(..depth)?);
        let at = serde_saphyr::with_deserializer_from_str(text, |d| walk.deserialize(d)).ok()??;
        Some((at.line(), at.column()))
    })
}

/// Walks down a path of keys and indices to the location of what stands there.
struct Walk<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<Location>;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            let spanned: Spanned<IgnoredAny> = serde::Deserialize::deserialize(from)?;
            return Ok(Some(spanned.referenced));
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<Location>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a mapping or a sequence")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            match self.0.split_first() {
                Some((head, rest)) if *head == key => found = map.next_value_seed(Walk(rest))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Some((head, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        let wanted: Option<usize> = head.parse().ok();
        for index in 0.. {
            if wanted == Some(index) {
                let found = seq.next_element_seed(Walk(rest))?.flatten();
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(found);
            }
            if seq.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Sample {
        nas_tcp_port: u16,
        fqdn: String,
        #[serde(default)]
        kms: Vec<Kms>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Kms {
        url: String,
        #[serde(default)]
        policy: Policy,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    enum Policy {
        #[default]
        RequireQkd,
        NoQkd,
    }

    fn sample(text: &str) -> Result<Sample, ConfigError> {
        parse(Path::new("n3iwf.yaml"), text, |_| Ok(()))
    }

    fn complaint(text: &str) -> String {
        sample(text).unwrap_err().to_string()
    }

    #[test]
    fn a_right_file_is_read() {
        let text = "nasTcpPort: 20000\nfqdn: n3iwf.example.net\nkms:\n  - url: https://kme\n    policy: no-qkd\n";
        let read = sample(text).unwrap();
        assert_eq!(read.nas_tcp_port, 20000);
        assert_eq!(read.kms[0].policy, Policy::NoQkd);
    }

    #[test]
    fn an_unknown_key_names_place_and_neighbour() {
        let text = "nasTcpPort: 1\nfqdn: x\nkms:\n  - ulr: https://kme\n";
        assert_eq!(
            complaint(text),
            "n3iwf.yaml:4:5: kms[0].ulr: unknown key `ulr`; did you mean `url`?"
        );
        assert_eq!(
            complaint("nas_tcp_port: 1\n"),
            "n3iwf.yaml:1:1: nas_tcp_port: unknown key `nas_tcp_port`; did you mean `nasTcpPort`?"
        );
    }

    #[test]
    fn a_key_like_none_lists_the_known_ones() {
        let text = "zzz: 1\n";
        assert_eq!(
            complaint(text),
            "n3iwf.yaml:1:1: zzz: unknown key `zzz`; known: nasTcpPort, fqdn, kms"
        );
    }

    #[test]
    fn a_wrong_type_names_the_key() {
        let text = complaint("nasTcpPort: many\nfqdn: x\n");
        assert!(text.starts_with("n3iwf.yaml:1:13: nasTcpPort: "), "{text}");
        let text = complaint("nasTcpPort: 70000\nfqdn: x\n");
        assert!(text.starts_with("n3iwf.yaml:1:13: nasTcpPort: "), "{text}");
    }

    #[test]
    fn a_wrong_word_suggests_the_right_one() {
        let text = "nasTcpPort: 1\nfqdn: x\nkms:\n  - url: y\n    policy: require-qdk\n";
        let text = complaint(text);
        assert!(
            text.starts_with("n3iwf.yaml:5:13: kms[0].policy: "),
            "{text}"
        );
        assert!(text.ends_with("did you mean `require-qkd`?"), "{text}");
    }

    #[test]
    fn a_missing_key_is_named() {
        let text = complaint("nasTcpPort: 1\n");
        assert!(text.ends_with("the key `fqdn` is missing"), "{text}");
    }

    #[test]
    fn a_key_given_twice_is_an_error() {
        let text = complaint("nasTcpPort: 1\nnasTcpPort: 2\nfqdn: x\n");
        assert!(text.starts_with("n3iwf.yaml:2:1: "), "{text}");
        assert!(text.contains("nasTcpPort"), "{text}");
    }

    #[test]
    fn an_empty_file_and_broken_yaml_are_errors() {
        assert!(sample("").is_err());
        let text = complaint("nasTcpPort: [1\nfqdn: x");
        assert!(text.starts_with("n3iwf.yaml:"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_check_is_reported_where_its_key_stands() {
        let text = "nasTcpPort: 1\nfqdn: x\nkms:\n  - url: a\n  - url: b\n";
        let error = parse::<Sample>(Path::new("f"), text, |_| {
            Err(Complaint::new("kms[1].url", "no such host"))
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "f:5:10: kms[1].url: no such host");
        let error = parse::<Sample>(Path::new("f"), text, |_| {
            Err(Complaint::new("kms[0].policy", "needed here"))
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "f:4:5: kms[0].policy: needed here");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = load::<Sample>("/nonexistent/n3iwf.yaml").unwrap_err();
        assert!(matches!(error, ConfigError::Read { .. }));
        assert!(error.to_string().starts_with("/nonexistent/n3iwf.yaml: "));
    }
}
