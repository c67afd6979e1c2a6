//! What any page points at is there: tests by name, scenarios, pages, headings.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use crate::{files, scenarios, spans};

fn pages() -> BTreeMap<PathBuf, String> {
    let pages = files(".md").into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    });
    pages.collect()
}

fn sources() -> String {
    let texts = files(".rs")
        .into_iter()
        .map(|path| fs::read_to_string(path).unwrap());
    texts.collect()
}

/// Names of all functions.
fn functions(sources: &str) -> BTreeSet<&str> {
    let after = sources.split("fn ").skip(1);
    let names = after.filter_map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
        rest.get(..end)
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// The tests that a cell names: `module::name`, `file.rs::name`, or bare names after `file.rs`.
fn tests_of(cell: &str) -> Vec<&str> {
    let identifier = |name: &str| {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        !name.is_empty() && name.chars().all(fine)
    };
    let mut in_file = false;
    let mut named = Vec::new();
    for span in spans(cell) {
        if span.ends_with(".rs") {
            in_file = true;
        } else if let Some((_, name)) = span.rsplit_once("::") {
            if identifier(name) && name.matches('_').count() > 1 {
                named.push(name);
            }
        } else if in_file && identifier(span) {
            named.push(span);
        }
    }
    named
}

fn cells(page: &str) -> impl Iterator<Item = &str> {
    let rows = page.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split(" | "))
}

#[test]
fn tests_that_the_tables_name_exist() {
    let sources = sources();
    let functions = functions(&sources);
    let mut named = 0;
    let mut missing = Vec::new();
    for (path, page) in pages() {
        for test in cells(&page).flat_map(tests_of) {
            named += 1;
            if !functions.contains(test) {
                missing.push(format!("{}: {test}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no such test: {missing:#?}");
    assert!(
        named > 100,
        "{named} tests are named: the tables are not read"
    );
}

#[test]
fn scenarios_that_the_pages_name_exist() {
    let known = scenarios();
    let mut named = 0;
    for (path, page) in pages() {
        for after in page.split("rig scenario ").skip(1) {
            let end =
                after.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            let name = after.get(..end.unwrap_or(after.len())).unwrap();
            if name.is_empty() {
                continue;
            }
            named += 1;
            assert!(
                known.iter().any(|one| one == name),
                "{}: no scenario {name}",
                path.display()
            );
        }
    }
    assert!(
        named > 10,
        "{named} scenarios are named: the pages are not read"
    );
}

/// What a heading is called in a link to it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c if c.is_alphanumeric() => Some(c),
        _ => None,
    });
    kept.collect()
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let pages = pages();
    let mut followed = 0;
    let mut broken = Vec::new();
    for (path, page) in &pages {
        for after in page.split("](").skip(1) {
            let target = after.split(')').next().unwrap();
            if target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            followed += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let Ok(file) = fs::canonicalize(&file) else {
                broken.push(format!("{}: {target}", path.display()));
                continue;
            };
            let headings = pages.get(&file).into_iter().flat_map(|page| page.lines());
            let mut headings = headings.filter(|line| line.starts_with('#')).map(anchor);
            if !heading.is_empty() && !headings.any(|there| there == heading) {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(followed > 50, "{followed} links: the pages are not read");
}
