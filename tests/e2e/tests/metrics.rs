//! Documentation, dashboard and alert rules name metrics that the daemons export, and Prometheus'
//! own tool agrees with them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use metrics::{Described, Description, Exporter, Kind, Page};
use serde::Deserialize;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn programs() -> [(&'static str, Vec<&'static dyn Described>); 3] {
    [
        ("n3iwf-user", n3iwf_user::metrics::ALL.concat()),
        ("ue-user", ue_user::metrics::ALL.concat()),
        ("kme", kme::metrics::ALL.to_vec()),
    ]
}

fn all() -> Vec<Description> {
    let lists = programs().into_iter().flat_map(|(_, list)| list);
    lists.map(Described::describe).collect()
}

/// Name of every series that may be asked for, with the labels it has.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let mut series = BTreeMap::new();
    for family in all() {
        let labels: BTreeSet<String> = family.labels.iter().map(|l| l.name.to_owned()).collect();
        if let Kind::Histogram(_) = family.kind {
            let mut bucket = labels.clone();
            bucket.insert("le".to_owned());
            series.insert(format!("{}_bucket", family.name), bucket);
            series.insert(format!("{}_sum", family.name), labels.clone());
            series.insert(format!("{}_count", family.name), labels);
        } else {
            series.insert(family.name.to_owned(), labels);
        }
    }
    let process = Exporter::new().write(Page::new());
    for line in process.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split_whitespace().next().unwrap();
        assert!(name.starts_with("process_"), "{line}");
        series.insert(name.to_owned(), BTreeSet::new());
    }
    series
}

/// The metric names in a PromQL expression, each with the labels its selector names.
fn selectors(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '"') {
        rest = &rest[at..];
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = &quoted[quoted.find('"').unwrap() + 1..];
            continue;
        }
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(rest.len());
        let word = rest[..end].to_owned();
        rest = &rest[end..];
        if !["n3iwf_", "ue_", "kme_", "process_"]
            .iter()
            .any(|start| word.starts_with(start))
        {
            continue;
        }
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            let close = inside.find('}').unwrap();
            for matcher in inside[..close].split(',').filter(|m| !m.is_empty()) {
                let name = matcher.split(['=', '!']).next().unwrap();
                labels.push(name.trim().to_owned());
            }
            rest = &inside[close..];
        }
        found.push((word, labels));
    }
    found
}

fn check_expression(origin: &str, expression: &str, used: &mut BTreeSet<String>) {
    // Labels that Prometheus adds when it scrapes.
    const SCRAPED: [&str; 2] = ["job", "instance"];
    let series = series();
    for (name, labels) in selectors(expression) {
        let known = series
            .get(&name)
            .unwrap_or_else(|| panic!("{origin}: nobody exports {name}"));
        for label in labels {
            assert!(
                known.contains(&label) || SCRAPED.contains(&label.as_str()),
                "{origin}: {name} has no label {label}"
            );
        }
        used.insert(name);
    }
}

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: String,
    expr: String,
}

fn rules() -> Vec<Rule> {
    let text = fs::read_to_string(root().join("deploy/prometheus/alerts.yaml")).unwrap();
    let rules: Rules = serde_saphyr::from_str(&text).unwrap();
    rules
        .groups
        .into_iter()
        .flat_map(|group| group.rules)
        .collect()
}

#[test]
fn alerts_watch_what_is_exported() {
    let mut used = BTreeSet::new();
    for rule in rules() {
        check_expression(&rule.alert, &rule.expr, &mut used);
    }
    assert!(used.len() > 10, "{used:?}");
}

fn expressions(panel: &Value, out: &mut Vec<(String, String)>) {
    let title = panel["title"].as_str().unwrap_or("?").to_owned();
    for target in panel["targets"].as_array().into_iter().flatten() {
        out.push((title.clone(), target["expr"].as_str().unwrap().to_owned()));
    }
    for inner in panel["panels"].as_array().into_iter().flatten() {
        expressions(inner, out);
    }
}

#[test]
fn the_dashboard_shows_what_is_exported() {
    let text = fs::read_to_string(root().join("deploy/grafana/n3iwf.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let mut used = BTreeSet::new();
    for (title, expression) in &found {
        check_expression(title, expression, &mut used);
    }
    let ids: BTreeSet<u64> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(
        ids.len(),
        dashboard["panels"].as_array().unwrap().len(),
        "ids of panels"
    );
    // Everything the N3IWF counts is on it, but for what names subscribers or the version.
    for name in series().keys().filter(|name| name.starts_with("n3iwf_")) {
        let aside = [
            "n3iwf_qkd_peer_",
            "n3iwf_build_info",
            "n3iwf_inner_addresses",
            "_sum",
        ];
        let shown = used.contains(name)
            || name.ends_with("_packets_total")
            || name.ends_with("_bytes_total")
            || name == "n3iwf_ike_sas_established_total"
            || aside.iter().any(|part| name.contains(part));
        assert!(shown, "no panel shows {name}");
    }
}

/// The reader of expressions is itself checked: a wrong name or label must not pass.
#[test]
fn a_name_that_nobody_exports_is_found() {
    assert_eq!(
        selectors(r#"sum by (le) (rate(n3iwf_x_total{a="n3iwf_no", b!~"z"}[5m])) / ue_y > 3"#),
        [
            (
                "n3iwf_x_total".to_owned(),
                vec!["a".to_owned(), "b".to_owned()]
            ),
            ("ue_y".to_owned(), vec![]),
        ]
    );
    let refused = |expression: &str| {
        let expression = expression.to_owned();
        std::panic::catch_unwind(move || {
            check_expression("test", &expression, &mut BTreeSet::new());
        })
        .is_err()
    };
    assert!(refused("rate(n3iwf_readyy[5m])"));
    assert!(refused(r#"n3iwf_ready{supi="1"}"#));
    assert!(!refused(r#"n3iwf_ready{instance="1"}"#));
}

/// The tables of `docs/metrics.md`.
fn tables() -> String {
    let mut out = String::new();
    for (program, list) in programs() {
        let _ = write!(
            out,
            "\n### {program}\n\n| family | type | labels | what it is |\n|---|---|---|---|\n"
        );
        for family in list.iter().map(|family| family.describe()) {
            let labels: Vec<String> = family
                .labels
                .iter()
                .map(|label| format!("`{}`: {}", label.name, label.values))
                .collect();
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                family.name,
                family.kind.name(),
                labels.join("; "),
                family.help
            );
        }
    }
    out
}

#[test]
fn the_documentation_lists_every_family() {
    const BEGIN: &str =
        "<!-- families: written by `UPDATE_DOCS=1 cargo test -p e2e --test metrics` -->\n";
    const END: &str = "\n<!-- end of families -->";
    let path = root().join("docs/metrics.md");
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (tables_there, tail) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{head}{BEGIN}{}{END}{tail}", tables())).unwrap();
        return;
    }
    assert!(
        tables_there == tables(),
        "docs/metrics.md is not of this code: UPDATE_DOCS=1 cargo test -p e2e --test metrics"
    );
}

#[test]
fn names_have_units_and_counters_their_ending() {
    let mut names = BTreeSet::new();
    for family in all() {
        assert!(names.insert(family.name), "{} twice", family.name);
        assert_eq!(
            family.name.ends_with("_total"),
            family.kind == Kind::Counter,
            "{}",
            family.name
        );
        if let Kind::Histogram(buckets) = family.kind {
            assert!(family.name.ends_with("_seconds"), "{}", family.name);
            assert!(buckets.is_sorted());
        }
        assert!(family.help.ends_with('.'), "{}", family.name);
        for label in family.labels {
            // Whoever is a subscriber here is named on request only.
            let names_somebody = [
                "imsi", "supi", "guti", "ue", "remote", "address", "spi", "key_id",
            ];
            assert!(
                !names_somebody.contains(&label.name),
                "{} {}",
                family.name,
                label.name
            );
            assert!(label.name != "peer_sae" || family.name.contains("_qkd_peer_"));
        }
    }
}

fn promtool(arguments: &[&str]) {
    let directory = root().join("deploy/prometheus");
    match Command::new("promtool")
        .args(arguments)
        .current_dir(directory)
        .output()
    {
        Ok(output) => assert!(
            output.status.success(),
            "promtool {arguments:?}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "promtool: {error}: cargo xtask setup"
            );
            println!("skipped: promtool {arguments:?}: {error} (Debian package prometheus)");
        }
    }
}

#[test]
fn promtool_accepts_the_rules() {
    promtool(&["check", "rules", "alerts.yaml"]);
}

#[test]
fn alerts_fire_when_they_should_and_not_before() {
    promtool(&["test", "rules", "alerts_test.yaml"]);
}

#[test]
fn promtool_accepts_the_configuration() {
    promtool(&["check", "config", "--lint=all", "prometheus.yaml"]);
}
