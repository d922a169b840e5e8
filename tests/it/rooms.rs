//! Who may know whom: the code map of ARCHITECTURE.md, held against the code.
//!
//! Reads `src` as text, tests and comments left out; what reaches another room by `super::` past its own folder is not
//! seen.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What stands at the top of `src`, and the others it may name as `crate::…`. What is left out is a promise: because
/// `ingest` names no `vendor`, no vendor's outage can change what is accepted.
const ROOMS: &[(&str, &str)] = &[
    ("clock", ""),
    ("crew", ""),
    ("lifecycle", ""),
    ("metrics", ""),
    ("net", ""),
    ("secret", ""),
    ("config", "secret vendor"),
    ("telemetry", "config metrics"),
    ("event", "clock datafile"),
    ("datafile", "event"),
    ("blueprint", "clock event secret"),
    ("journal", "clock crew metrics"),
    ("logbook", "clock metrics"),
    ("sandbox", "clock"),
    ("assignments", "clock event journal"),
    ("vendor", "blueprint clock datafile event metrics secret"),
    (
        "registry",
        "blueprint clock datafile event journal secret vendor",
    ),
    (
        "ingest",
        "clock datafile event journal logbook metrics registry",
    ),
    (
        "agent",
        "clock event ingest journal logbook metrics registry vendor",
    ),
    (
        "delivery",
        "blueprint clock crew datafile event journal logbook metrics registry secret vendor",
    ),
    (
        "alerts",
        "blueprint clock delivery journal metrics registry secret vendor",
    ),
    (
        "admin",
        "alerts assignments blueprint clock delivery event journal logbook net registry secret",
    ),
    ("console", "admin clock config journal registry secret"),
    ("ops", "clock journal metrics"),
    (
        "app",
        "admin agent alerts assignments blueprint clock config console datafile delivery event ingest journal logbook \
         metrics net ops registry secret telemetry vendor",
    ),
    ("demo", "app clock config sandbox secret"),
    (
        "cli",
        "admin app blueprint clock config demo journal lifecycle registry sandbox telemetry",
    ),
];

/// Words that mean the world outside: files, sockets, threads, tasks, clocks, randomness, logs.
const OUTSIDE: &str = "tokio std::fs std::net std::env std::thread std::process std::time::Instant std::time::SystemTime \
                       reqwest hyper axum rusqlite rustix tracing metrics:: rand::";

/// Words that may not stand in a place: (path, words, the files excepted, why).
const NEVER: &[(&str, &str, &[&str], &str)] = &[
    ("event", OUTSIDE, &[], "`event` is pure"),
    ("datafile", OUTSIDE, &[], "`datafile` is pure"),
    ("blueprint", OUTSIDE, &[], "`blueprint` is pure"),
    (
        "journal",
        "serde_json",
        &[],
        "the journal knows bytes and labels, no JSON",
    ),
    (
        "console",
        "crate::journal",
        &["console/sampler.rs"],
        "pages ask the management API",
    ),
];

/// Doors to the outside, one each: the words, and where alone they may stand. The demo is a stranger and goes its own way.
const DOORS: &[(&str, &[&str])] = &[
    ("reqwest", &["vendor/http", "demo/"]),
    ("std::env", &["config.rs", "demo/"]),
    ("SystemTime Timestamp::now Zoned::now", &["clock.rs"]),
];

/// Folders of `src/vendor` that are no vendor's.
const OF_ALL_VENDORS: &[&str] = &["http", "refresh"];

/// The one part of a vendor that asks over the network itself.
const ASKS: &str = "vendor/odp/segments.rs";

#[test]
fn rooms_know_only_whom_they_may() {
    let mut broken = String::new();
    for (path, code) in sources(&src()) {
        let top = path.split(['/', '.']).next().unwrap_or_default();
        if matches!(top, "lib" | "main") {
            continue;
        }
        let Some((_, may)) = ROOMS.iter().find(|(room, _)| *room == top) else {
            let _ = writeln!(broken, "src/{path}: `{top}` is not in the list of rooms");
            continue;
        };
        for named in named(&code) {
            if named != top && !may.split(' ').any(|room| room == named) {
                let _ = writeln!(
                    broken,
                    "src/{path} names `crate::{named}`; `{top}` may name: {may}"
                );
            }
        }
    }
    assert!(broken.is_empty(), "\n{broken}");
}

#[test]
fn pure_rooms_stay_pure() {
    let all = sources(&src());
    let mut broken = String::new();
    let mut hold = |under: &str, words: &str, except: &[&str], why: &str| {
        let mut files = 0;
        for (path, code) in &all {
            if !path.starts_with(&format!("{under}/")) || except.contains(&path.as_str()) {
                continue;
            }
            files += 1;
            for word in words.split(' ').filter(|word| has(code, word)) {
                let _ = writeln!(broken, "src/{path} names `{word}`: {why}");
            }
        }
        assert!(files > 0, "nothing stands under src/{under}");
    };
    for (under, words, except, why) in NEVER {
        hold(under, words, except, why);
    }
    let vendors = folders(&src().join("vendor"));
    for vendor in vendors
        .iter()
        .filter(|name| !OF_ALL_VENDORS.contains(&name.as_str()))
    {
        let under = format!("vendor/{vendor}");
        hold(&under, OUTSIDE, &[ASKS], "a vendor's folder is pure");
        for other in vendors.iter().filter(|name| *name != vendor) {
            if !OF_ALL_VENDORS.contains(&other.as_str()) {
                let word = format!("vendor::{other}");
                hold(&under, &word, &[], "a vendor knows no other vendor");
            }
        }
        hold(
            &under,
            "vendor::http vendor::refresh",
            &[ASKS],
            "a vendor's folder is pure",
        );
    }
    assert!(broken.is_empty(), "\n{broken}");
}

#[test]
fn each_door_is_one() {
    let mut broken = String::new();
    for (path, code) in sources(&src()) {
        for (words, doors) in DOORS {
            if doors.iter().any(|door| path.starts_with(door)) {
                continue;
            }
            for word in words.split(' ').filter(|word| has(&code, word)) {
                let _ = writeln!(
                    broken,
                    "src/{path} names `{word}`, which may stand in {doors:?} only"
                );
            }
        }
    }
    assert!(broken.is_empty(), "\n{broken}");
}

/// Every folder of `src` has its row on the map, and every row its place.
#[test]
fn the_map_is_whole() {
    let map = std::fs::read_to_string(src().join("../ARCHITECTURE.md")).expect("the map");
    let rows: BTreeSet<String> = map
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    for folder in folders(&src()) {
        assert!(
            rows.contains(&folder),
            "ARCHITECTURE.md has no row for src/{folder}"
        );
    }
    for row in rows {
        let there = src().join(&row).is_dir() || src().join(format!("{row}.rs")).is_file();
        assert!(
            there,
            "ARCHITECTURE.md has a row for `{row}`, which src has not"
        );
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn folders(of: &Path) -> BTreeSet<String> {
    std::fs::read_dir(of)
        .expect("a folder")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Every file of code below `root` by its path, without its tests and its comments.
fn sources(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("test") || name == "conformance.rs" {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                let within = path.strip_prefix(root).expect("below the root");
                found.push((within.to_string_lossy().into_owned(), code(&text)));
            }
        }
    }
    found.sort();
    found
}

/// Without comments, and without what follows the tests' door at the end of a file.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let door = |pair: &[&str]| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod test") && pair[1].ends_with('{')
    };
    let end = lines.windows(2).position(door).unwrap_or(lines.len());
    lines[..end].join("\n")
}

/// The rooms named as `crate::room`, or in `crate::{room::…, room}`.
fn named(code: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let group = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        match group {
            Some((inside, _)) => found.extend(inside.split(',').map(|part| word(part.trim()))),
            None => {
                found.insert(word(rest));
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// The name a text begins with.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// Whether `wanted` stands in it as a path of its own.
fn has(code: &str, wanted: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(wanted).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + wanted.len()..].chars().next();
        let open = wanted.ends_with(':');
        !before.is_some_and(part) && (open || !after.is_some_and(part))
    })
}
