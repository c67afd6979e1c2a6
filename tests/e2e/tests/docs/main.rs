//! The documentation names tests, scenarios, pages and headings that exist.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod named;
mod promises;

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::canonicalize(root).unwrap()
}

/// Every file of the project with this ending.
fn files(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&root(), ending, &mut found);
    found
}

/// Build directories and hidden ones are left out.
fn walk(directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(&path, ending, found);
            }
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

/// What is between backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Names of the scenarios, as the rig lists them.
fn scenarios() -> Vec<String> {
    let list = root().join("tests/rig/src/scenarios/mod.rs");
    let text = fs::read_to_string(list).unwrap();
    let names = text.lines().filter_map(|line| {
        let name = line.trim().strip_prefix("name: \"")?.strip_suffix("\",")?;
        Some(name.to_owned())
    });
    names.collect()
}
