//! Dashboards, alert rules and the compose file speak of metrics that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every `aqueduct_…` name in a text.
fn names(text: &str) -> BTreeSet<&str> {
    text.match_indices("aqueduct_")
        .map(|(at, _)| {
            let rest = &text[at..];
            let end = rest
                .find(|c: char| !c.is_ascii_lowercase() && c != '_')
                .unwrap_or(rest.len());
            &rest[..end]
        })
        .collect()
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

#[test]
fn only_metrics_that_exist_are_shown_or_alerted_on() {
    let source = read(&Path::new(ROOT).join("src/metrics.rs"));
    let known = names(&source);
    let histograms: BTreeSet<&str> = source
        .split("describe_histogram!(")
        .skip(1)
        .filter_map(|rest| names(&rest[..rest.find(')')?]).first().copied())
        .collect();
    assert!(known.len() > 20 && histograms.len() > 3, "{histograms:?}");

    let mut paths = Vec::new();
    files(&Path::new(ROOT).join("deploy"), &mut paths);
    let mut used = BTreeSet::new();
    for path in &paths {
        let text = read(path);
        for name in names(&text) {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|base| histograms.contains(base))
                .unwrap_or(name);
            assert!(
                known.contains(base),
                "{} speaks of `{name}`, which src/metrics.rs does not know",
                path.display()
            );
            // A histogram has no series of its own name.
            assert!(
                base != name || !histograms.contains(name),
                "{} reads the histogram `{name}` without _bucket, _sum or _count",
                path.display()
            );
            used.insert(base.to_owned());
        }
    }
    let unseen: Vec<&&str> = known.iter().filter(|name| !used.contains(**name)).collect();
    assert!(unseen.is_empty(), "no dashboard shows {unseen:?}");
}
