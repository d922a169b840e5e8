//! The journal from outside: promises kept across restarts, damage, shortage and failure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::store::sqlite::SqliteStore;
use super::*;
use crate::clock::ManualClock;

const T0: Millis = 1_760_000_000_000;

fn options() -> Options {
    Options {
        dedup_bytes_max: 1 << 20,
        free_bytes_min: 0,
        ..Options::default()
    }
}

fn open_at(dir: &Path, options: Options, clock: &Arc<ManualClock>) -> Journal {
    let store = SqliteStore::open(dir, [7; 16]).unwrap();
    Journal::open(Box::new(store), options, Arc::clone(clock) as SharedClock).unwrap()
}

fn open(dir: &Path) -> Journal {
    open_at(dir, options(), &ManualClock::at(T0))
}

fn record(id: u64) -> Record {
    Record {
        fingerprint: id + 1,
        bytes: Bytes::from(format!("{{\"id\":{id},\"fill\":\"{:032}\"}}", id * 7919)),
    }
}

fn records(ids: Range<u64>) -> Vec<Record> {
    ids.map(record).collect()
}

fn tally(outcome: Outcome, reason: &str, n: u64) -> Tally {
    Tally {
        outcome,
        reason: reason.to_owned(),
        n,
    }
}

fn delivered(feed: &str, done: Range<Seq>) -> Settle {
    Settle {
        feed: feed.to_owned(),
        tallies: vec![tally(Outcome::Delivered, "", done.end - done.start)],
        done: vec![done],
        ..Settle::default()
    }
}

fn letter(seq: Seq, reason: &str) -> DeadLetter {
    DeadLetter {
        id: 0,
        feed: String::new(),
        seq,
        at_ms: T0,
        reason: reason.to_owned(),
        detail: "no".to_owned(),
        attempts: 1,
        status: Some(400),
        answer: "bad".to_owned(),
        record: record(seq).bytes,
    }
}

fn aside(seq: Seq, due_ms: Millis) -> Parked {
    Parked {
        feed: String::new(),
        seq,
        due_ms,
        since_ms: T0,
        attempts: 0,
        reason: "unknown_event_key".to_owned(),
        replay: None,
        record: record(seq).bytes,
    }
}

async fn all(journal: &Journal, from: Seq) -> (Vec<Entry>, Vec<Range<Seq>>) {
    let end = *journal.end().borrow();
    let (mut entries, mut damaged, mut at) = (Vec::new(), Vec::new(), from);
    while at < end {
        let chunk = journal.read(at, 4096).await.unwrap();
        assert!(chunk.next > at, "reading does not move on from {at}");
        at = chunk.next;
        entries.extend(chunk.entries);
        damaged.extend(chunk.damaged);
    }
    (entries, damaged)
}

fn balanced(ledger: &Ledger) -> bool {
    let parts = ledger.delivered
        + ledger.skipped.iter().map(|(_, n)| n).sum::<u64>()
        + ledger.deduplicated
        + ledger.dead.iter().map(|(_, n)| n).sum::<u64>()
        + ledger.pending;
    ledger.accepted == parts
}

#[tokio::test]
async fn appends_settles_and_remembers_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    journal.open_feed("a", FeedStart::Now).await.unwrap();
    let answer = journal.append(records(0..10)).await.unwrap();
    assert_eq!((answer.stored, answer.duplicates), (10, 0));
    let answer = journal.append(records(8..12)).await.unwrap();
    assert_eq!((answer.stored, answer.duplicates), (2, 2));
    journal.settle(delivered("a", 0..4)).await.unwrap();
    journal.settle(delivered("a", 6..8)).await.unwrap();
    let error = journal.settle(delivered("a", 7..9)).await.unwrap_err();
    assert!(matches!(error, JournalError::Unbalanced { .. }), "{error}");
    let before = journal.ledger().await.unwrap();
    journal.close().await;
    assert!(matches!(
        journal.append(records(0..1)).await,
        Err(AppendError::Closed)
    ));

    let journal = open(dir.path());
    assert_eq!(*journal.end().borrow(), 12);
    let feed = journal.open_feed("a", FeedStart::Now).await.unwrap();
    assert_eq!(
        (feed.start, feed.pos, feed.settled_above),
        (0, 4, vec![6..8])
    );
    assert_eq!(journal.ledger().await.unwrap(), before);
    assert_eq!(
        (
            before[0].accepted,
            before[0].deduplicated,
            before[0].pending
        ),
        (14, 2, 6)
    );
    let (entries, damaged) = all(&journal, 0).await;
    assert!(damaged.is_empty());
    let bytes: Vec<_> = entries.iter().map(|entry| entry.bytes.clone()).collect();
    let expected: Vec<_> = (0..12).map(|id| record(id).bytes).collect();
    assert_eq!(bytes, expected);
    let answer = journal.append(records(0..12)).await.unwrap();
    assert_eq!((answer.stored, answer.duplicates), (0, 12));
    assert_eq!(journal.find(4).await.unwrap(), vec![3]);
    assert_eq!(
        journal.get(11).await.unwrap().unwrap().bytes,
        record(11).bytes
    );
}
