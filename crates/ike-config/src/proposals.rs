//! Proposals in configuration files: swanctl's words, or what a status prints.

use std::{fmt, marker::PhantomData};

use ike::crypto::{ChildSuite, IkeSuite, SuiteError};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

/// Suites, best first: `aes256gcm16-prfsha384-ecp384-x25519,default`, a list of such texts, or suites
/// as a status prints them (`AES_GCM_16-256/PRF_HMAC_SHA2_256`). Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposals<S>(pub Vec<S>);

/// What [`Proposals`] are read into.
pub trait Suites: Copy + PartialEq {
    /// The suites that a text stands for.
    ///
    /// # Errors
    /// It has a word that is unknown, or in the wrong place.
    fn suites(text: &str) -> Result<Vec<Self>, SuiteError>;
}

fn is_printed(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_uppercase())
}

impl Suites for IkeSuite {
    fn suites(text: &str) -> Result<Vec<Self>, SuiteError> {
        match is_printed(text) {
            true => text.parse().map(|suite| vec![suite]),
            false => Self::from_keywords(text),
        }
    }
}

impl Suites for ChildSuite {
    fn suites(text: &str) -> Result<Vec<Self>, SuiteError> {
        match is_printed(text) {
            true => text.parse().map(|suite| vec![suite]),
            false => Self::from_keywords(text),
        }
    }
}

impl<S: Suites> Proposals<S> {
    fn add(&mut self, text: &str) -> Result<(), String> {
        let suites = S::suites(text).map_err(|error| format!("`{text}`: {error}"))?;
        for suite in suites {
            if !self.0.contains(&suite) {
                self.0.push(suite);
            }
        }
        Ok(())
    }
}

impl<'de, S: Suites> Deserialize<'de> for Proposals<S> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader(PhantomData))
    }
}

/// One text of [`Proposals`].
struct Text<S>(Proposals<S>);

impl<'de, S: Suites> Deserialize<'de> for Text<S> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let mut proposals = Proposals(Vec::new());
        proposals.add(&text).map_err(de::Error::custom)?;
        Ok(Self(proposals))
    }
}

struct Reader<S>(PhantomData<S>);

impl<'de, S: Suites> Visitor<'de> for Reader<S> {
    type Value = Proposals<S>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("proposals (`aes256gcm16-prfsha384-ecp384`), or a list of them")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let mut proposals = Proposals(Vec::new());
        proposals.add(text).map_err(E::custom)?;
        Ok(proposals)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut proposals = Proposals(Vec::new());
        while let Some(Text(more)) = items.next_element::<Text<S>>()? {
            for suite in more.0 {
                if !proposals.0.contains(&suite) {
                    proposals.0.push(suite);
                }
            }
        }
        match proposals.0.is_empty() {
            true => Err(de::Error::custom("at least one proposal is needed")),
            false => Ok(proposals),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        ike: Proposals<IkeSuite>,
        esp: Proposals<ChildSuite>,
    }

    fn read(text: &str) -> Result<File, String> {
        daemon::config::parse(Path::new("f"), text, |_| Ok(())).map_err(|error| error.to_string())
    }

    #[test]
    fn words_lists_and_prints_are_read() {
        let file = read(
            "ike: aes256gcm16-prfsha384-ecp384-x25519\nesp: [aes256gcm16-esn, AES_GCM_16-256]\n",
        )
        .unwrap();
        assert_eq!(file.ike.0.len(), 2);
        assert_eq!(file.ike.0[0].to_keywords(), "aes256gcm16-prfsha384-ecp384");
        assert_eq!(file.esp.0.len(), 2);
        let file = read("ike: default\nesp: aes256gcm16-ecp384-ke1_mlkem768\n").unwrap();
        assert_eq!(
            file.esp.0[0].to_string(),
            "AES_GCM_16-256/ECP_384/KE1_ML_KEM_768"
        );
        let file = read(
            "ike: [AES_GCM_16-256/PRF_HMAC_SHA2_256, 'aes128-sha256-modp2048,aes128-sha256-modp2048']\nesp: default\n",
        )
        .unwrap();
        assert_eq!(file.ike.0.len(), 2, "none twice");
        assert!(file.esp.0.len() > 2);
    }

    #[test]
    fn a_bad_word_is_named_with_its_place() {
        for (text, start, what) in [
            (
                "ike: aes256gcm16-prfsha384-modp1024\nesp: default\n",
                "f:1:6: ike: ",
                "modp1024",
            ),
            (
                "ike:\n  - aes256gcm16-prfsha384\n  - rot13-prfsha384\nesp: default\n",
                "f:3:5: ike[1]: ",
                "rot13",
            ),
            (
                "ike: default\nesp: aes256gcm16-prfsha384\n",
                "f:2:6: esp: ",
                "no pseudorandom function",
            ),
            ("ike: []\nesp: default\n", "f:1:6: ike: ", "at least one"),
            ("ike: {a: 1}\nesp: default\n", "f:1:", "proposals ("),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(start), "{error}");
            assert!(error.contains(what), "{error}");
        }
    }
}
