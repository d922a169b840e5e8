//! The journal from outside. Here is the ground its tests stand on; what they are about: the books and what is
//! remembered (`books`), damaged and strange files (`damage`), a disk that fails or is full (`trouble`), and whatever
//! comes, in any order (`model`).

#![expect(
    clippy::single_range_in_vec_init,
    reason = "lists of runs, often of one"
)]

mod books;
mod damage;
mod model;
mod trouble;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

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
    testing::open(dir, options, Arc::clone(clock) as SharedClock)
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
        parts_done: 0,
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
        parts_done: 0,
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
