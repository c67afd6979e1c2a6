//! Reads the files of known answers in `tests/vectors`.

use std::collections::BTreeMap;

/// One case: names and values.
pub(crate) struct Case(BTreeMap<String, String>);

impl Case {
    /// The value as text.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// The value as octets.
    pub(crate) fn octets(&self, name: &str) -> Vec<u8> {
        hex::decode(self.text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The value, if the case has one of this name.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The cases of a file. There is always one: an empty file is a mistake.
pub(crate) fn cases(file: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = BTreeMap::new();
    for line in file.lines().map(str::trim).chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if let Some((name, value)) = line.split_once('=') {
            case.insert(name.trim().to_owned(), value.trim().to_owned());
        } else if !case.is_empty() {
            assert!(line.is_empty(), "neither name nor value: {line}");
            cases.push(Case(std::mem::take(&mut case)));
        }
    }
    assert!(!cases.is_empty(), "no cases");
    cases
}
