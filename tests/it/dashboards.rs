//! Dashboards and alert rules speak of metrics that exist, with the labels they have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::TestApp;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Labels Prometheus itself adds.
const OF_PROMETHEUS: [&str; 3] = ["le", "job", "instance"];

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where each `aqueduct_…` name of a text ends.
fn places(text: &str) -> impl Iterator<Item = (&str, usize)> {
    text.match_indices("aqueduct_").map(|(at, _)| {
        let rest = &text[at..];
        let len = rest
            .find(|c: char| !c.is_ascii_lowercase() && c != '_')
            .unwrap_or(rest.len());
        (&rest[..len], at + len)
    })
}

/// Every `aqueduct_…` name in a text.
fn names(text: &str) -> BTreeSet<&str> {
    places(text).map(|(name, _)| name).collect()
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("deploy folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path
            .extension()
            .is_some_and(|end| end == "json" || end == "yml")
        {
            found.push(path);
        }
    }
}

/// The metrics the source declares: labels by name, and which are histograms.
struct Declared {
    labels: BTreeMap<String, BTreeSet<String>>,
    histograms: BTreeSet<String>,
}

impl Declared {
    fn read() -> Self {
        let source = read(&Path::new(ROOT).join("src/metrics.rs"));
        let mut labels = BTreeMap::new();
        for opening in ["    counter!(\"", "    gauge!(\"", "    histogram!(\""] {
            for rest in source.split(opening).skip(1) {
                let texts: Vec<&str> = rest[..rest.find('\n').expect("a line")]
                    .split('"')
                    .collect();
                // name", "label" => value, "label" => value)
                let keys = texts.iter().skip(2).step_by(2).map(|key| (*key).to_owned());
                labels.insert(texts[0].to_owned(), keys.collect());
            }
        }
        let histograms = source
            .split("    histogram!(\"")
            .skip(1)
            .map(|rest| rest[..rest.find('"').expect("closed")].to_owned())
            .collect();
        let declared = Self { labels, histograms };
        let described: BTreeSet<&str> = names(&source);
        let listed: BTreeSet<&str> = declared.labels.keys().map(String::as_str).collect();
        assert_eq!(
            described, listed,
            "every metric is described and made by one function"
        );
        assert!(declared.labels.len() > 25 && declared.histograms.len() > 3);
        declared
    }

    /// The metric a series name belongs to.
    fn base<'a>(&self, series: &'a str) -> &'a str {
        ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| series.strip_suffix(suffix))
            .filter(|base| self.histograms.contains(*base))
            .unwrap_or(series)
    }
}

/// The expressions of a dashboard or a rule file, each with what is written beside it (legend, annotations).
fn expressions(path: &Path) -> Vec<(String, String)> {
    let text = read(path);
    if path.extension().is_some_and(|end| end == "json") {
        let board: Value = serde_json::from_str(&text).expect("JSON");
        let panels = board["panels"].as_array().expect("panels");
        let targets = panels
            .iter()
            .flat_map(|panel| panel["targets"].as_array())
            .flatten();
        targets
            .map(|target| {
                let text = |key: &str| target[key].as_str().unwrap_or_default().to_owned();
                (text("expr"), text("legendFormat"))
            })
            .collect()
    } else {
        let rules = text.split("      - alert: ").skip(1);
        rules
            .map(|rule| {
                let (_, rest) = rule.split_once("expr: ").expect("an expr");
                let (expr, rest) = rest.split_once('\n').expect("a line");
                (expr.to_owned(), rest.replace("$labels.", ""))
            })
            .collect()
    }
}

/// Label names in the braces right after a series' name.
fn selected(expr: &str, end: usize) -> Vec<&str> {
    let Some(rest) = expr[end..].strip_prefix('{') else {
        return Vec::new();
    };
    let inside = &rest[..rest.find('}').expect("closed")];
    let names = inside
        .split(',')
        .map(|one| one.split(['=', '!']).next().unwrap_or_default());
    names.map(str::trim).collect()
}

/// Label names an expression groups by.
fn grouped(expr: &str) -> Vec<&str> {
    let lists = expr
        .split(" by (")
        .skip(1)
        .map(|rest| &rest[..rest.find(')').expect("closed")]);
    lists
        .flat_map(|list| list.split(',').map(str::trim))
        .collect()
}

/// Words within `{{ }}`, without the functions they are piped to.
fn templated(text: &str) -> Vec<&str> {
    let words = text
        .split("{{")
        .skip(1)
        .filter_map(|rest| rest.split("}}").next());
    let words = words.map(|word| word.split('|').next().unwrap_or_default().trim());
    words.filter(|word| !word.starts_with('$')).collect()
}

#[test]
fn only_metrics_that_exist_are_shown_or_alerted_on_by_labels_they_have() {
    let declared = Declared::read();
    let mut paths = Vec::new();
    files(&Path::new(ROOT).join("deploy"), &mut paths);
    let mut used = BTreeSet::new();
    let mut checked = 0;
    for path in &paths {
        let text = read(path);
        for name in names(&text) {
            let base = declared.base(name);
            assert!(
                declared.labels.contains_key(base),
                "{} speaks of `{name}`, which src/metrics.rs does not know",
                path.display()
            );
            // A histogram has no series of its own name.
            assert!(
                base != name || !declared.histograms.contains(name),
                "{} reads the histogram `{name}` without _bucket, _sum or _count",
                path.display()
            );
            used.insert(base.to_owned());
        }
        let has_expressions = text.contains("\"panels\"") || text.contains("- alert: ");
        for (expr, beside) in has_expressions
            .then(|| expressions(path))
            .into_iter()
            .flatten()
        {
            let mut all: BTreeSet<&str> = OF_PROMETHEUS.into();
            for (series, end) in places(&expr) {
                let labels = &declared.labels[declared.base(series)];
                for label in selected(&expr, end) {
                    assert!(
                        labels.contains(label) || OF_PROMETHEUS.contains(&label),
                        "{}: `{series}` has no label `{label}` in {expr}",
                        path.display()
                    );
                    checked += 1;
                }
                all.extend(labels.iter().map(String::as_str));
            }
            let shown = templated(&beside);
            for label in grouped(&expr).into_iter().chain(shown) {
                assert!(
                    all.contains(label),
                    "{}: no label `{label}` in {expr}",
                    path.display()
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 80, "{checked}");
    let unseen: Vec<&String> = declared
        .labels
        .keys()
        .filter(|name| !used.contains(*name))
        .collect();
    assert!(unseen.is_empty(), "no dashboard shows {unseen:?}");
}

/// A running gateway exposes what the source declares, label for label.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_has_the_labels_that_are_declared() {
    let declared = Declared::read();
    let app = TestApp::start().await;
    let id = app.install_optimizely("Optimizely", json!({})).await;
    app.track("signup", "u-1", json!({})).await;
    app.settled(&id).await;
    let reply = app.http.get(format!("http://{}/metrics", app.metrics));
    let text = reply
        .send()
        .await
        .expect("answer")
        .text()
        .await
        .expect("text");
    let mut seen = BTreeSet::new();
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let end = line.find(['{', ' ']).expect("a name");
        let base = declared.base(&line[..end]);
        let labels = selected(line, end)
            .into_iter()
            .filter(|label| *label != "le");
        let labels: BTreeSet<String> = labels.map(str::to_owned).collect();
        let wanted = declared.labels.get(base);
        assert_eq!(Some(&labels), wanted, "{line}");
        seen.insert(base.to_owned());
    }
    for name in [
        "aqueduct_deliveries_total",
        "aqueduct_vendor_request_seconds",
        "aqueduct_ingest_request_seconds",
    ] {
        assert!(seen.contains(name), "no {name} in {text}");
    }
    app.stop().await;
}
