//! The documents that say which test shows what name tests and scenarios that exist.

use std::{collections::BTreeMap, fs, path::PathBuf};

use crate::{files, root, scenarios, spans};

/// Whether a file has a function of this name; with a star at its end, one that begins so.
fn has(text: &str, name: &str) -> bool {
    match name.strip_suffix('*') {
        Some(beginning) => text.contains(&format!("fn {beginning}")),
        None => text.contains(&format!("fn {name}(")),
    }
}

/// References `FILE::NAME`, and `::NAME` of the file before it. Files by their path from the root, or by its end.
fn check(document: &str, whole_paths: bool) -> BTreeMap<String, usize> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let all = files(".rs");
    let mut counts = BTreeMap::new();
    let mut file: Option<&str> = None;
    for reference in spans(&text) {
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
            true => vec![root().join(file)],
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
    let text = fs::read_to_string(root().join("docs/resilience.md")).unwrap();
    let mut named = 0;
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let Some((_, list)) = line.split_once("scenario") else {
            continue;
        };
        let until = list.split(';').next().unwrap_or(list);
        for name in spans(until).filter(|name| !name.contains(['/', ':', ' '])) {
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
