//! The view through the journal: newest wins, restarts, what is forgotten, what is made anew.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::follow::Steps;
use super::*;
use crate::clock::ManualClock;
use crate::journal::{self, Journal, Options, Record};

const T0: Millis = 1_795_183_407_412;
const DAY: Millis = 86_400_000;

struct World {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: ManualClock::at(T0),
        }
    }

    fn clock(&self) -> SharedClock {
        Arc::<ManualClock>::clone(&self.clock)
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("assignments.db")
    }

    fn view(&self) -> Assignments {
        Assignments::open(&self.path(), 90 * DAY, self.clock()).unwrap()
    }

    fn journal(&self) -> Journal {
        let options = Options {
            free_bytes_min: 0,
            retain_ms: 0,
            retain_bytes: 0,
            ..Options::default()
        };
        journal::testing::open(self.dir.path(), options, self.clock())
    }
}

/// A decision `late` seconds after T0.
fn decision(id: u64, user: &str, flag: &str, variation: &str, late: i64) -> Record {
    let at = jiff::Timestamp::from_millisecond(T0 + late * 1000).unwrap();
    let record = json!({
        "type": "decision", "eventId": "5f0c1f7e-8a52-5c1b-9c1e-2b7a3f9d0a11", "source": "src_1",
        "messageId": id.to_string(), "receivedAt": "2026-11-20T14:03:27.412Z", "timestamp": format!("{at:.3}"),
        "userId": user,
        "decision": {
            "type": "flag", "flagKey": flag, "flagSlug": flag, "enabled": variation != "off",
            "variationKey": variation, "ruleKey": "rule", "ruleKind": "experiment", "experimentId": "77",
            "revision": "12", "variables": {"a": 1.0}, "origin": "sdk",
        },
    });
    Record {
        fingerprint: id + 1,
        bytes: Bytes::from(record.to_string()),
    }
}

fn other(id: u64) -> Record {
    Record {
        fingerprint: id + 1,
        bytes: Bytes::from(r#"{"type":"track","event":"\"type\":\"decision\""}"#),
    }
}

async fn all(view: &Assignments) -> Vec<(String, String, String)> {
    let rows = view.list(Filter::default(), None, 100).await.unwrap();
    rows.into_iter()
        .map(|(_, row)| (row.user, row.flag, row.variation.unwrap_or_default()))
        .collect()
}

fn row(user: &str, flag: &str, variation: &str) -> (String, String, String) {
    (user.into(), flag.into(), variation.into())
}

#[tokio::test]
async fn the_newest_decision_is_kept_in_whatever_order_they_come() {
    let world = World::new();
    let (journal, view) = (world.journal(), world.view());
    let mut steps = Steps::begun(&view, &journal).await;
    let batch = vec![
        decision(0, "u", "b", "on", 5),
        decision(1, "u", "a", "off", 9),
        other(2),
        decision(3, "v", "b", "on", 0),
        decision(4, "u", "b", "late", 1),
    ];
    journal.append(batch).await.unwrap();
    steps.caught_up(false).await;
    let wanted = [
        row("u", "b", "on"),
        row("u", "a", "off"),
        row("v", "b", "on"),
    ];
    assert_eq!(all(&view).await, wanted);
    // Of the same moment, the one accepted last.
    let batch = vec![
        decision(5, "u", "a", "on", 9),
        decision(6, "u", "b", "older", 4),
    ];
    journal.append(batch).await.unwrap();
    steps.caught_up(true).await;
    let filter = Filter {
        user: Some("u".into()),
        flag: Some("b".into()),
    };
    let rows = view.list(filter, None, 9).await.unwrap();
    assert_eq!(
        rows[0].1,
        Assignment {
            user: "u".into(),
            flag: "b".into(),
            enabled: true,
            variation: Some("on".into()),
            rule: Some("rule".into()),
            rule_kind: Some("experiment".into()),
            experiment: Some("77".into()),
            revision: Some("12".into()),
            source: "src_1".into(),
            decided_ms: T0 + 5000,
            seq: 0,
        }
    );
    assert!(
        journal.ledger().await.unwrap().is_empty(),
        "no integration's"
    );
}

#[tokio::test]
async fn nothing_is_missed_or_held_up_across_restarts() {
    let world = World::new();
    for round in 0..4u64 {
        let (journal, view) = (world.journal(), world.view());
        let mut steps = Steps::begun(&view, &journal).await;
        assert_eq!(steps.at, round * 2, "goes on where it was");
        let late = i64::try_from(round).unwrap();
        let batch = vec![
            decision(round * 2, "u", "f", &format!("v{round}"), late),
            decision(round * 2 + 1, &format!("u{round}"), "f", "on", 0),
        ];
        journal.append(batch).await.unwrap();
        // Before the view is written, the journal keeps the records.
        journal.tidy().await.unwrap();
        // Every other time it ends before the feed is moved.
        steps.caught_up(round % 2 == 1).await;
        let rows = all(&view).await;
        assert_eq!(rows.len() as u64, round + 2);
        assert!(rows.contains(&row("u", "f", &format!("v{round}"))));
        journal.tidy().await.unwrap();
        journal.close().await;
    }
    // A view that was lost is made anew from what the journal still has, and the feed stays where it is.
    std::fs::write(
        world.path(),
        "no database, but long enough to be looked at as one",
    )
    .unwrap();
    for side in ["assignments.db-wal", "assignments.db-shm"] {
        let _ = std::fs::remove_file(world.dir.path().join(side));
    }
    let (journal, view) = (world.journal(), world.view());
    assert!(world.dir.path().join("assignments.db.damaged").exists());
    let mut steps = Steps::begun(&view, &journal).await;
    assert_eq!(steps.at, 0);
    steps.caught_up(true).await;
    assert_eq!(all(&view).await.last(), Some(&row("u3", "f", "on")));
    let faults = crate::journal::inspect::verify(Path::new(world.dir.path())).unwrap();
    assert!(faults.faults.is_empty(), "{faults:?}");
}

#[tokio::test]
async fn what_is_not_renewed_is_forgotten_with_its_words() {
    let world = World::new();
    let view = world.view();
    let of = |id, user: &str, flag: &str| {
        let record = decision(id, user, flag, flag, 0);
        let entry = crate::journal::Entry {
            seq: id,
            at_ms: T0,
            bytes: record.bytes,
        };
        read::assignment(&entry).unwrap()
    };
    view.apply(2, &[of(0, "u", "old"), of(1, "v", "kept")])
        .unwrap();
    world.clock.advance(60 * DAY);
    view.apply(3, &[of(2, "v", "kept")]).unwrap();
    assert!(view.forget().unwrap());
    assert_eq!(all(&view).await.len(), 2);
    world.clock.advance(31 * DAY);
    assert!(view.forget().unwrap());
    assert_eq!(all(&view).await, [row("v", "kept", "kept")]);
    world.clock.advance(2 * DAY);
    assert!(view.forget().unwrap());
    view.apply(4, &[of(3, "u", "old")]).unwrap();
    assert_eq!(
        all(&view).await,
        [row("u", "old", "old"), row("v", "kept", "kept")]
    );
    assert_eq!(view.position().unwrap(), Some(4));
}

#[tokio::test]
async fn pages_follow_each_other_whatever_is_asked_for() {
    let world = World::new();
    let view = world.view();
    let mut decisions = Vec::new();
    for (at, (user, flag)) in ["a", "b.c", "d"]
        .iter()
        .flat_map(|user| ["x", "y", "z"].map(|flag| (*user, flag)))
        .enumerate()
    {
        let entry = crate::journal::Entry {
            seq: at as u64,
            at_ms: T0,
            bytes: decision(at as u64, user, flag, "on", 0).bytes,
        };
        decisions.extend(read::assignment(&entry));
    }
    view.apply(9, &decisions).unwrap();
    for (user, flag, count) in [
        (None, None, 9),
        (Some("b.c"), None, 3),
        (None, Some("y"), 3),
        (Some("d"), Some("z"), 1),
        (None, Some("unknown"), 0),
    ] {
        let filter = Filter {
            user: user.map(str::to_owned),
            flag: flag.map(str::to_owned),
        };
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = view.list(filter.clone(), after, 2).await.unwrap();
            let Some((place, _)) = page.last() else { break };
            // As a cursor it travels as text.
            after = Some(place.to_string().parse().unwrap());
            seen.extend(page.into_iter().map(|(_, row)| (row.user, row.flag)));
        }
        let mut sorted = seen.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(
            (seen.len(), sorted.len()),
            (count, count),
            "{user:?} {flag:?}"
        );
    }
}

#[tokio::test]
async fn a_later_format_is_refused_and_left_alone() {
    let world = World::new();
    drop(world.view());
    let connection = rusqlite::Connection::open(world.path()).unwrap();
    connection.execute_batch("PRAGMA user_version=9").unwrap();
    drop(connection);
    let error = Assignments::open(&world.path(), DAY, world.clock()).unwrap_err();
    assert!(
        matches!(error, AssignmentsError::Future { found: 9, .. }),
        "{error}"
    );
}
