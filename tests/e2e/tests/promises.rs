//! The documents that say which test shows what name tests and scenarios that exist.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn root(below: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../..", below]
        .iter()
        .collect()
}

/// What is between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// All Rust files of the project, as paths from its root.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Names of the scenarios, as the rig lists them.
fn scenarios() -> Vec<String> {
    let text = fs::read_to_string(root("tests/rig/src/scenarios/mod.rs")).unwrap();
    let names = text.lines().filter_map(|line| {
        let name = line.trim().strip_prefix("name: \"")?.strip_suffix("\",")?;
        Some(name.to_owned())
    });
    names.collect()
}

/// Whether a file has a function of this name; with a star at its end, one that begins so.
fn has(text: &str, name: &str) -> bool {
    match name.strip_suffix('*') {
        Some(beginning) => text.contains(&format!("fn {beginning}")),
        None => text.contains(&format!("fn {name}(")),
    }
}

/// References `FILE::NAME`, and `::NAME` of the file before it. Files by their path from the root, or by its end.
fn check(document: &str, whole_paths: bool) -> BTreeMap<String, usize> {
    let text = fs::read_to_string(root(document)).unwrap();
    let mut all = Vec::new();
    sources(&root("."), &mut all);
    let mut counts = BTreeMap::new();
    let mut file: Option<&str> = None;
    for reference in quoted(&text) {
        let Some((of, name)) = reference.split_once("::") else {
            continue;
        };
        if !of.is_empty() && !of.ends_with(".rs") {
            continue;
        }
        if !of.is_empty() {
            file = Some(of);
        }
        let file = file.unwrap_or_else(|| panic!("{document}: {reference} of which file?"));
        let end = format!("/{file}");
        let mut places: Vec<PathBuf> = match whole_paths {
            true => vec![root(file)],
            false => all
                .iter()
                .filter(|path| path.to_string_lossy().ends_with(&end))
                .cloned()
                .collect(),
        };
        places.retain(|path| fs::read_to_string(path).is_ok_and(|text| has(&text, name)));
        assert!(!places.is_empty(), "{document}: {file} has no {name}");
        *counts.entry(file.to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn every_promise_names_tests_that_exist() {
    let counts = check("docs/resilience.md", true);
    let total: usize = counts.values().sum();
    assert!(total > 60, "{total} references");
}

#[test]
fn every_defence_of_the_threat_model_names_tests_that_exist() {
    let counts = check("docs/threat-model.md", false);
    let total: usize = counts.values().sum();
    assert!(total > 20, "{total} references");
}

#[test]
fn every_scenario_that_is_named_exists_and_is_run() {
    let known = scenarios();
    assert!(known.len() > 30, "{known:?}");
    let text = fs::read_to_string(root("docs/resilience.md")).unwrap();
    let mut named = 0;
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let Some((_, list)) = line.split_once("scenario") else {
            continue;
        };
        let until = list.split(';').next().unwrap_or(list);
        for name in quoted(until).filter(|name| !name.contains(['/', ':', ' '])) {
            assert!(known.iter().any(|one| one == name), "no scenario {name}");
            named += 1;
        }
    }
    assert!(named > 15, "{named} scenarios");
    assert!(!known.contains(&"none-of-this-name".to_owned()));
}

#[test]
fn what_does_not_exist_is_found_out() {
    assert!(has("    fn some_test() {", "some_test"));
    assert!(has("async fn some_test_of_many() {", "some_test*"));
    assert!(!has("fn some_test_of_many() {", "some_test"));
    assert!(!has("some_test()", "some_test"));
}
