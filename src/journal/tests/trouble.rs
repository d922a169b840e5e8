//! A store that fails, a disk without room, and more than the queue takes.

use super::*;

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
