//! The journal from outside: promises kept across restarts, damage, shortage and failure.

#![expect(
    clippy::single_range_in_vec_init,
    reason = "lists of runs, often of one"
)]

mod model;

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
    assert_eq!(journal.find(vec![4]).await.unwrap(), vec![3]);
    assert_eq!(
        journal.get(11).await.unwrap().unwrap().bytes,
        record(11).bytes
    );
}

#[tokio::test]
async fn dead_letters_replay_and_cancel_keep_the_books() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(T0);
    let journal = open_at(dir.path(), options(), &clock);
    journal.open_feed("a", FeedStart::Now).await.unwrap();
    journal.append(records(0..6)).await.unwrap();
    let settle = Settle {
        feed: "a".into(),
        done: vec![0..6],
        tallies: vec![
            tally(Outcome::Delivered, "", 1),
            tally(Outcome::Dead, "rejected", 3),
            tally(Outcome::Dead, "damaged", 1),
        ],
        dead: vec![
            letter(1, "rejected"),
            letter(2, "rejected"),
            letter(3, "rejected"),
        ],
        park: vec![aside(5, T0 + 5000)],
        ..Settle::default()
    };
    journal.settle(settle).await.unwrap();
    assert!(journal.parked("a", T0, 9).await.unwrap().is_empty());
    assert_eq!(journal.next_due("a").await.unwrap(), Some(T0 + 5000));
    assert_eq!(journal.wake("a", "unknown_event_key").await.unwrap(), 1);
    let due = journal.parked("a", T0, 9).await.unwrap();
    assert_eq!(
        (due.len(), due[0].seq, &due[0].record),
        (1, 5, &record(5).bytes)
    );
    assert_eq!(journal.oldest_pending_ms("a").await.unwrap(), Some(T0));

    // Two a second: the third is due a second from now.
    let moved = journal
        .replay("r1", DeadFilter::default(), 2.0)
        .await
        .unwrap();
    assert_eq!(moved, 3);
    assert_eq!(journal.replay_progress("r1").await.unwrap().waiting, 3);
    let due = journal.parked("a", T0 + 999, 9).await.unwrap();
    assert_eq!(
        due.iter().map(|one| one.seq).collect::<Vec<_>>(),
        vec![1, 5, 2]
    );
    assert_eq!(
        (due[0].reason.as_str(), due[0].replay.as_deref()),
        ("replay", Some("r1"))
    );

    // One is on its way when the rest is cancelled, and arrives all the same.
    assert_eq!(journal.cancel_replay("r1").await.unwrap(), 3);
    assert_eq!(journal.dead_count(DeadFilter::default()).await.unwrap(), 3);
    let mut arrived = Settle {
        feed: "a".into(),
        unpark: vec![1, 5],
        tallies: vec![tally(Outcome::Delivered, "", 2)],
        ..Settle::default()
    };
    journal.settle(arrived.clone()).await.unwrap();
    arrived.unpark = vec![2, 5];
    assert!(
        journal.settle(arrived).await.is_err(),
        "5 is settled already"
    );
    let letters = journal
        .dead_letters(DeadFilter::default(), None, 9)
        .await
        .unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!(
        (
            letters[0].seq,
            letters[0].detail.as_str(),
            letters[0].status
        ),
        (2, "no", Some(400))
    );

    let ledger = journal.ledger().await.unwrap().remove(0);
    assert!(balanced(&ledger), "{ledger:?}");
    assert_eq!((ledger.delivered, ledger.pending), (3, 0));
    assert_eq!(
        ledger.dead,
        vec![("damaged".into(), 1), ("rejected".into(), 2)]
    );
    journal.close().await;
    let journal = open_at(dir.path(), options(), &clock);
    let ledger = journal.ledger().await.unwrap().remove(0);
    assert_eq!(
        ledger.dead,
        vec![("damaged".into(), 1), ("rejected".into(), 2)]
    );
    assert!(inspect::verify(dir.path()).unwrap().faults.is_empty());
}

#[tokio::test]
async fn marks_are_written_with_the_settle_and_forgotten_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(T0);
    let journal = open_at(dir.path(), options(), &clock);
    journal.open_feed("a", FeedStart::Now).await.unwrap();
    journal.append(records(0..2)).await.unwrap();
    let mark = Mark {
        key: 1 << 127 | 3,
        value: 5,
        at_ms: T0,
        seq: 1,
        again: (T0, 1),
        until_ms: T0 + 100,
    };
    let mut settle = delivered("a", 0..1);
    settle.marks = vec![mark];
    journal.settle(settle.clone()).await.unwrap();
    // The same records again do not add up: nothing of it is written.
    settle.marks[0].seq = 2;
    assert!(journal.settle(settle).await.is_err());
    assert_eq!(journal.marks("a", &[mark.key, 3]).await.unwrap(), [mark]);
    journal.close().await;
    let journal = open_at(dir.path(), options(), &clock);
    assert_eq!(journal.marks("a", &[mark.key]).await.unwrap(), [mark]);
    assert!(journal.marks("b", &[mark.key]).await.unwrap().is_empty());
    clock.advance(100);
    assert!(journal.marks("a", &[mark.key]).await.unwrap().is_empty());
    assert_eq!(inspect::shape(dir.path()).unwrap().marks, 1);
    journal.tidy().await.unwrap();
    assert_eq!(inspect::shape(dir.path()).unwrap().marks, 0);
}

#[tokio::test]
async fn trims_only_what_every_feed_has_passed() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(T0);
    let journal = open_at(dir.path(), options(), &clock);
    journal.open_feed("fast", FeedStart::Now).await.unwrap();
    journal.open_feed("slow", FeedStart::Now).await.unwrap();
    for first in (0..100).step_by(10) {
        journal.append(records(first..first + 10)).await.unwrap();
        clock.advance(1000);
    }
    journal.settle(delivered("fast", 0..100)).await.unwrap();
    journal.settle(delivered("slow", 0..55)).await.unwrap();
    assert_eq!(journal.position_before(T0 + 3000).await.unwrap(), 30);
    assert_eq!(journal.position_before(T0).await.unwrap(), 0);
    assert_eq!(
        journal.oldest_pending_ms("slow").await.unwrap(),
        Some(T0 + 5000)
    );
    let backlog = journal.backlog_bytes("slow").await.unwrap();
    let all_bytes = inspect::shape(dir.path()).unwrap().bytes_kept;
    assert!(backlog * 10 > all_bytes * 4 && backlog * 10 < all_bytes * 6);
    journal.tidy().await.unwrap();
    assert_eq!(
        inspect::shape(dir.path()).unwrap().first,
        0,
        "within the retention"
    );
    clock.advance(2 * 3_600_000);
    journal.tidy().await.unwrap();
    assert_eq!(inspect::shape(dir.path()).unwrap().first, 50);
    let old = journal.open_feed("late", FeedStart::At(3)).await.unwrap();
    assert_eq!(old.start, 50);
    journal.remove_feed("slow").await.unwrap();
    journal.remove_feed("late").await.unwrap();
    journal.tidy().await.unwrap();
    journal.close().await;

    // Trimmed records are still recognised, and numbers go on where they were.
    let journal = open_at(dir.path(), options(), &clock);
    let answer = journal.append(records(0..101)).await.unwrap();
    assert_eq!((answer.stored, answer.duplicates), (1, 100));
    assert_eq!(*journal.end().borrow(), 101);
}

/// Changes stored bytes behind the journal's back.
fn corrupt(dir: &Path, statement: &str, first: Seq, body: &[u8]) {
    let connection = rusqlite::Connection::open(dir.join("journal.db")).unwrap();
    connection
        .execute(statement, rusqlite::params![first.cast_signed(), body])
        .unwrap();
}

#[tokio::test]
async fn a_block_flipped_at_every_byte_is_counted_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for first in [0, 3, 6] {
        journal.append(records(first..first + 3)).await.unwrap();
    }
    journal.close().await;
    let body = {
        let mut reader = store::sqlite::SqliteReader::open(dir.path()).unwrap();
        reader.blocks(3, 1).unwrap().remove(0).body
    };
    for at in 0..body.len() {
        let mut bad = body.clone();
        bad[at] ^= 1 << (at % 8);
        corrupt(
            dir.path(),
            "UPDATE block SET body = ?2 WHERE first = ?1",
            3,
            &bad,
        );
        corrupt(dir.path(), "DELETE FROM damaged WHERE ?1 = 3 OR ?2", 3, &[]);
        let journal = open(dir.path());
        for _ in 0..2 {
            let (entries, damaged) = all(&journal, 0).await;
            assert_eq!(damaged, vec![3..6], "byte {at}");
            let seqs: Vec<_> = entries.iter().map(|entry| entry.seq).collect();
            assert_eq!(seqs, vec![0, 1, 2, 6, 7, 8], "byte {at}");
        }
        assert_eq!(journal.health().damaged_blocks, 1, "byte {at}");
        journal.close().await;
    }
    assert_eq!(inspect::verify(dir.path()).unwrap().faults.len(), 1);
}

/// Flips in the file itself, where the row's head and the chain of its pages lie too.
#[tokio::test]
async fn a_large_block_damaged_in_the_file_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let noise: Vec<u8> = (0u32..120_000)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    for (id, bytes) in [(0, &b"first"[..]), (1, &noise), (2, b"last")] {
        let bytes = Bytes::copy_from_slice(bytes);
        journal
            .append(vec![Record {
                fingerprint: id + 1,
                bytes,
            }])
            .await
            .unwrap();
    }
    journal.close().await;
    let path = dir.path().join("journal.db");
    let good = std::fs::read(&path).unwrap();
    let starts = |page: &[u8]| {
        noise
            .windows(64)
            .step_by(64)
            .any(|part| page.windows(64).any(|w| w == part))
    };
    let pages: Vec<usize> = (1..good.len() / 16384)
        .filter(|page| starts(&good[page * 16384 + 8..page * 16384 + 400]))
        .collect();
    assert!(pages.len() > 20, "{}", pages.len());
    let (mut flips, mut noticed) = (0, 0);
    for page in pages {
        // The first four bytes of such a page point to the next one.
        for at in [0, 1, 2, 3, 4, 100, 16_000] {
            let mut bad = good.clone();
            bad[page * 16384 + at] ^= 0x41;
            std::fs::write(&path, &bad).unwrap();
            let journal = open(dir.path());
            let (entries, damaged) = all(&journal, 0).await;
            let seqs: Vec<_> = entries.iter().map(|entry| entry.seq).collect();
            flips += 1;
            noticed += damaged.len();
            if damaged.is_empty() {
                // The last page's pointer and filling carry nothing.
                assert_eq!(seqs, vec![0, 1, 2]);
                assert_eq!(&entries[1].bytes[..], &noise[..]);
            } else {
                assert_eq!(
                    (seqs, damaged),
                    (vec![0, 2], vec![1..2]),
                    "page {page} byte {at}"
                );
                assert_eq!(journal.health().damaged_blocks, 1);
            }
            journal.close().await;
        }
    }
    assert!(
        noticed * 10 > flips * 8,
        "{noticed} of {flips} flips noticed"
    );
}

#[test]
fn refuses_what_it_does_not_know_and_leaves_it_alone() {
    let refused = |dir: &Path| SqliteStore::open(dir, [7; 16]).unwrap_err().to_string();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    for (content, says) in [(&b""[..], "shorter"), (&[b'x'; 5000], "no SQLite database")] {
        std::fs::write(&path, content).unwrap();
        let text = refused(dir.path());
        assert!(text.contains(says) && text.contains("journal.db"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    std::fs::remove_file(&path).unwrap();
    drop(SqliteStore::open(dir.path(), [7; 16]).unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[63] = 9;
    std::fs::write(&path, &bytes).unwrap();
    let text = refused(dir.path());
    assert!(
        text.contains("format 9") && text.contains("reads up to 5"),
        "{text}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let first = SqliteStore::open(dir.path(), [7; 16]).unwrap();
    let text = SqliteStore::open(dir.path(), [7; 16])
        .unwrap_err()
        .to_string();
    assert!(text.contains("in use by another"), "{text}");
    drop(first);
    SqliteStore::open(dir.path(), [7; 16]).unwrap();
}

/// A store whose commits end as the test says.
struct Faulty {
    inner: Box<dyn store::Store>,
    fault: Arc<Mutex<Option<StoreError>>>,
    commits: Arc<Mutex<u64>>,
}

impl Faulty {
    fn check(&self) -> Result<(), StoreError> {
        *self.commits.lock() += 1;
        self.fault.lock().clone().map_or(Ok(()), Err)
    }
}

impl store::Store for Faulty {
    fn load(&mut self) -> Result<store::Loaded, StoreError> {
        self.inner.load()
    }
    fn seen(&mut self, visit: &mut dyn FnMut(store::Seen)) -> Result<(), StoreError> {
        self.inner.seen(visit)
    }
    fn commit(&mut self, change: &Change) -> Result<(), StoreError> {
        // No room for blocks; what is small still fits.
        match self.check() {
            Err(StoreError::Full(_)) if change.blocks.is_empty() => {}
            other => other?,
        }
        self.inner.commit(change)
    }
    fn whereabouts(&mut self, feed: &str, seq: Seq) -> Result<store::Whereabouts, StoreError> {
        self.inner.whereabouts(feed, seq)
    }
    fn remove_feed(&mut self, feed: &str) -> Result<(), StoreError> {
        self.inner.remove_feed(feed)
    }
    fn wake(&mut self, feed: &str, reason: &str, now_ms: Millis) -> Result<u64, StoreError> {
        self.inner.wake(feed, reason, now_ms)
    }
    fn replay(
        &mut self,
        replay: &str,
        those: store::Those<'_>,
        now_ms: Millis,
        due_ms: &dyn Fn(u64) -> Millis,
        label: store::LabelOf<'_>,
    ) -> Result<store::Moved, StoreError> {
        self.inner.replay(replay, those, now_ms, due_ms, label)
    }
    fn cancel(
        &mut self,
        replay: &str,
        limit: usize,
        label: store::LabelOf<'_>,
    ) -> Result<store::Moved, StoreError> {
        self.inner.cancel(replay, limit, label)
    }
    fn set_aside(&mut self, block: &Block, now_ms: Millis) -> Result<bool, StoreError> {
        self.inner.set_aside(block, now_ms)
    }
    fn trim(&mut self, rule: &store::TrimRule) -> Result<u64, StoreError> {
        self.inner.trim(rule)
    }
    fn forget(&mut self, now_ms: Millis, step: usize) -> Result<bool, StoreError> {
        self.inner.forget(now_ms, step)
    }
    fn tidy(&mut self, idle: bool) -> Result<(), StoreError> {
        self.inner.tidy(idle)
    }
    fn probe(&mut self) -> Result<(), StoreError> {
        self.check()
    }
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn free_bytes(&self) -> Option<u64> {
        None
    }
    fn reader(&self) -> Result<Box<dyn Reader>, StoreError> {
        self.inner.reader()
    }
    fn close(self: Box<Self>, clean: bool) -> Result<(), StoreError> {
        assert!(clean || self.fault.lock().is_some());
        self.inner.close(clean)
    }
}

type Fault = Arc<Mutex<Option<StoreError>>>;

fn open_faulty(dir: &Path) -> (Journal, Fault, Arc<Mutex<u64>>) {
    let (fault, commits) = (Fault::default(), Arc::new(Mutex::new(0)));
    let store = Faulty {
        inner: Box::new(SqliteStore::open(dir, [7; 16]).unwrap()),
        fault: Arc::clone(&fault),
        commits: Arc::clone(&commits),
    };
    let journal = Journal::open(Box::new(store), options(), ManualClock::at(T0)).unwrap();
    (journal, fault, commits)
}

#[tokio::test]
async fn a_failed_commit_ends_writing_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, fault, commits) = open_faulty(dir.path());
    journal.open_feed("a", FeedStart::Now).await.unwrap();
    journal.append(records(0..3)).await.unwrap();
    *fault.lock() = Some(StoreError::Failed("disk I/O error".into()));
    let (one, two, settled) = tokio::join!(
        journal.append(records(3..5)),
        journal.append(records(5..7)),
        journal.settle(delivered("a", 0..2)),
    );
    for failed in [one, two] {
        assert!(
            matches!(&failed, Err(AppendError::Failed(why)) if why.contains("I/O")),
            "{failed:?}"
        );
    }
    assert!(settled.is_err());
    *fault.lock() = None;
    let before = *commits.lock();
    assert!(matches!(
        journal.append(records(7..8)).await,
        Err(AppendError::Failed(_))
    ));
    assert!(journal.settle(delivered("a", 0..2)).await.is_err());
    assert!(journal.wake("a", "x").await.is_err());
    assert_eq!(*commits.lock(), before, "nothing may be written any more");
    let health = journal.health();
    assert!(!health.writable && health.reason.unwrap().contains("restart"));
    // What was acknowledged can still be read, and is there after a restart.
    assert_eq!(all(&journal, 0).await.0.len(), 3);
    *fault.lock() = Some(StoreError::Failed("still".into()));
    journal.close().await;
    let journal = open(dir.path());
    assert_eq!(all(&journal, 0).await.0.len(), 3);
    assert_eq!(journal.append(records(0..8)).await.unwrap().stored, 5);
}

#[tokio::test]
async fn without_room_appends_wait_and_settles_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, fault, _) = open_faulty(dir.path());
    journal.open_feed("a", FeedStart::Now).await.unwrap();
    journal.append(records(0..4)).await.unwrap();
    *fault.lock() = Some(StoreError::Full("database or disk is full".into()));
    let (appended, settled) = tokio::join!(
        journal.append(records(4..6)),
        journal.settle(delivered("a", 0..2)),
    );
    assert!(matches!(appended, Err(AppendError::Full)), "{appended:?}");
    settled.unwrap();
    assert!(!journal.health().writable);
    assert!(matches!(
        journal.append(records(4..6)).await,
        Err(AppendError::Full)
    ));
    journal.settle(delivered("a", 2..3)).await.unwrap();
    *fault.lock() = None;
    // Found out by itself, within about a second.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !journal.health().writable && std::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    let answer = journal.append(records(0..6)).await.unwrap();
    assert_eq!(
        (answer.stored, answer.duplicates),
        (2, 4),
        "the refused are no duplicates"
    );
    assert!(balanced(&journal.ledger().await.unwrap()[0]));
}

#[tokio::test]
async fn a_nearly_full_disk_is_noticed_before_writing() {
    let dir = tempfile::tempdir().unwrap();
    let scarce = Options {
        free_bytes_min: u64::MAX,
        ..options()
    };
    let journal = open_at(dir.path(), scarce, &ManualClock::at(T0));
    journal.open_feed("a", FeedStart::Now).await.unwrap();
    assert!(matches!(
        journal.append(records(0..1)).await,
        Err(AppendError::Full)
    ));
    assert!(journal.health().reason.unwrap().contains("nearly full"));
}

#[tokio::test]
async fn more_than_the_queue_takes_is_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options {
        queue_records_max: 4,
        block_records_max: 2,
        ..options()
    };
    let journal = open_at(dir.path(), small, &ManualClock::at(T0));
    let appends = (0..40u64).map(|n| journal.append(records(n * 3..n * 3 + 3)));
    let answers = futures_util::future::join_all(appends).await;
    let busy = answers
        .iter()
        .filter(|one| matches!(one, Err(AppendError::Busy)))
        .count();
    let stored: u64 = answers.iter().flatten().map(|one| one.stored).sum();
    assert!(busy > 0 && stored > 0 && stored == 3 * (40 - busy as u64));
    assert_eq!(all(&journal, 0).await.0.len() as u64, stored);
}

#[tokio::test]
async fn books_by_label_begin_where_the_feed_does() {
    let dir = tempfile::tempdir().unwrap();
    let label = |record: &[u8]| Some(format!("l{}", record[6] % 2));
    let small = Options {
        block_records_max: 3,
        label,
        ..options()
    };
    let journal = open_at(dir.path(), small.clone(), &ManualClock::at(T0));
    journal.append(records(0..8)).await.unwrap();
    journal.open_feed("late", FeedStart::Now).await.unwrap();
    // From the middle of a block on: 4, 5, 6, 7.
    journal
        .open_feed("earlier", FeedStart::At(4))
        .await
        .unwrap();
    journal.append(records(6..10)).await.unwrap();
    let rows = |rows: Vec<LabelLedger>| -> Vec<(String, Option<String>, u64, u64)> {
        rows.into_iter()
            .inspect(|row| assert!(row.balanced, "{row:?}"))
            .filter(|row| row.books.accepted > 0)
            .map(|row| {
                (
                    row.books.feed,
                    row.label,
                    row.books.accepted,
                    row.books.deduplicated,
                )
            })
            .collect()
    };
    let found = rows(journal.ledger_by_label().await.unwrap());
    let row = |feed: &str, label: &str, accepted, repeats| {
        (feed.to_owned(), Some(label.to_owned()), accepted, repeats)
    };
    let expected = [
        row("earlier", "l0", 4, 1),
        row("earlier", "l1", 4, 1),
        row("late", "l0", 2, 1),
        row("late", "l1", 2, 1),
    ];
    assert_eq!(found, expected);
    journal.close().await;
    let journal = open_at(dir.path(), small, &ManualClock::at(T0));
    assert_eq!(rows(journal.ledger_by_label().await.unwrap()), expected);
}
