//! The bounded logs people look at: every attempt made at a vendor, and every event refused at the door.
//!
//! Kept in `attempts.db` (not synced: losing its end in a power cut loses no event), bounded by age and bytes.
//! Writers never wait: when the log cannot keep up, bodies are left out first, then rows, and both are counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::clock::{Millis, SharedClock};
use crate::metrics;

mod query;
mod store;
mod tide;

pub use query::{AttemptFilter, AttemptRow, RejectedFilter, RejectedRow};

/// One request made at a vendor and what came back.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The integration's id.
    pub integration: String,
    /// Name of the request in the blueprint.
    pub request: String,
    /// When it was sent.
    pub at_ms: Millis,
    /// How long it took.
    pub took_ms: u32,
    /// 1 for the first.
    pub attempt: u32,
    /// `batch`, `replay`, `hold`, `test` or `probe`: why it was made.
    pub trigger: &'static str,
    /// Numbers of the records in it.
    pub seqs: Vec<u64>,
    /// Where it went, without secrets.
    pub url: String,
    /// Method.
    pub method: String,
    /// Body sent.
    pub request_body: Bytes,
    /// Status, none when there was no answer.
    pub status: Option<u16>,
    /// The answer's body, capped; or the kind of failure in words.
    pub response_body: Bytes,
    /// `delivered`, `retry`, `bisect`, `reject`, `pause`.
    pub verdict: &'static str,
    /// Class of failure when there was no answer: `timeout`, `connect`, `dns`, `tls`, `blocked`, `reset`.
    pub error: Option<String>,
}

/// One event refused at the door.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// When.
    pub at_ms: Millis,
    /// The source's id.
    pub source: String,
    /// Place in its batch.
    pub index: u32,
    /// Stable code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The event as posted, capped.
    pub body: Bytes,
}

/// Events skipped on their way, for one reason.
#[derive(Debug, Clone)]
pub struct Skipped {
    /// The integration's id.
    pub integration: String,
    /// When.
    pub at_ms: Millis,
    /// Why: `unchanged`, `superseded`, …
    pub reason: String,
    /// Numbers of the records.
    pub seqs: Vec<u64>,
}

/// Bounds of the logs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rows older than this are removed.
    pub keep_ms: Millis,
    /// The oldest rows are removed when all take more than this.
    pub bytes_max: u64,
    /// Rows waiting to be written; more are left out.
    pub queue_rows_max: usize,
    /// Bytes of bodies waiting to be written; more are left out.
    pub queue_bytes_max: usize,
    /// Bytes of bodies of plain successes kept per second on average; more are left out. Failures are always kept.
    pub body_bytes_per_s: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keep_ms: 7 * 24 * 3_600_000,
            bytes_max: 256 << 20,
            queue_rows_max: 4_096,
            queue_bytes_max: 16 << 20,
            body_bytes_per_s: 8 << 20,
        }
    }
}

/// The log could not be opened or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogbookError {
    /// The file cannot be used.
    #[error("{path}: {cause}; check that it is a file and belongs to the user aqueduct runs as")]
    Open {
        /// The file.
        path: String,
        /// Why.
        cause: String,
    },
    /// A query failed.
    #[error("log query: {0}")]
    Query(String),
}

/// A row on its way to the writer.
enum Entry {
    Attempt(Box<Attempt>),
    Rejected(Box<Rejected>),
    Skipped(Box<Skipped>),
    Flush(std::sync::mpsc::Sender<()>),
}

/// The logs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logbook {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    queue: Mutex<Option<SyncSender<Entry>>>,
    queued_bytes: Arc<AtomicUsize>,
    allowance: Mutex<Allowance>,
    options: Options,
    writer: Mutex<Option<JoinHandle<()>>>,
    reader: Mutex<Option<rusqlite::Connection>>,
    rows_dropped: AtomicU64,
}

/// How many bytes of successful bodies may still be kept: fills with time, up to ten seconds' worth.
#[derive(Debug)]
struct Allowance {
    bytes: u64,
    at_ms: Millis,
}

impl Allowance {
    fn take(&mut self, bytes: usize, now_ms: Millis, per_s: u64) -> bool {
        let passed = u64::try_from(now_ms.saturating_sub(self.at_ms)).unwrap_or(0);
        self.at_ms = now_ms.max(self.at_ms);
        let gained = per_s.saturating_mul(passed) / 1_000;
        self.bytes = self
            .bytes
            .saturating_add(gained)
            .min(per_s.saturating_mul(10));
        let wanted = u64::try_from(bytes).unwrap_or(u64::MAX);
        if wanted > self.bytes {
            return false;
        }
        self.bytes -= wanted;
        true
    }
}

impl Logbook {
    /// Opens (or makes) the log at `path` and starts its writer. A damaged file is set aside beside it, said loudly,
    /// and a new one begun: the log is for looking, no event depends on it.
    ///
    /// # Errors
    /// When no file can be made there.
    pub fn open(path: &Path, options: Options, clock: SharedClock) -> Result<Self, LogbookError> {
        let store = store::Store::open(path, &options)?;
        let (sender, receiver) = sync_channel(options.queue_rows_max);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let now_ms = clock.now_ms();
        let writer = {
            let queued_bytes = queued_bytes.clone();
            let write = move || store.run(&receiver, &queued_bytes, &clock);
            std::thread::Builder::new()
                .name("logbook".to_owned())
                .spawn(write)
                .map_err(|error| LogbookError::Open {
                    path: path.display().to_string(),
                    cause: error.to_string(),
                })?
        };
        let allowance = Allowance {
            bytes: options.body_bytes_per_s.saturating_mul(10),
            at_ms: now_ms,
        };
        Ok(Self {
            inner: Some(Arc::new(Inner {
                path: path.to_owned(),
                queue: Mutex::new(Some(sender)),
                queued_bytes,
                allowance: Mutex::new(allowance),
                options,
                writer: Mutex::new(Some(writer)),
                reader: Mutex::new(None),
                rows_dropped: AtomicU64::new(0),
            })),
        })
    }

    /// A log that keeps nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { inner: None }
    }

    /// Notes an attempt. Never waits.
    pub fn attempt(&self, mut attempt: Attempt) {
        let Some(inner) = &self.inner else {
            return;
        };
        let bytes = attempt.request_body.len() + attempt.response_body.len();
        let plain = attempt.verdict == "delivered" && attempt.trigger != "test";
        let kept = inner.reserve(bytes)
            && (!plain
                || inner.allowance.lock().take(
                    bytes,
                    attempt.at_ms,
                    inner.options.body_bytes_per_s,
                )
                || inner.release(bytes));
        if !kept && bytes > 0 {
            attempt.request_body = Bytes::new();
            attempt.response_body = Bytes::new();
            metrics::logbook_dropped("body").increment(1);
        }
        inner.push(
            Entry::Attempt(Box::new(attempt)),
            if kept { bytes } else { 0 },
        );
    }

    /// Notes an event refused at the door. Never waits.
    pub fn rejected(&self, mut rejected: Rejected) {
        let Some(inner) = &self.inner else {
            return;
        };
        let mut bytes = rejected.body.len();
        if !inner.reserve(bytes) {
            rejected.body = Bytes::new();
            bytes = 0;
            metrics::logbook_dropped("body").increment(1);
        }
        inner.push(Entry::Rejected(Box::new(rejected)), bytes);
    }

    /// Notes events skipped on their way. Never waits.
    pub fn skipped(&self, skipped: Skipped) {
        if let Some(inner) = &self.inner {
            inner.push(Entry::Skipped(Box::new(skipped)), 0);
        }
    }

    /// Why, and when, a record was skipped on its way to an integration; none when it was not, or nobody knows any more.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn skip_of(
        &self,
        integration: &str,
        seq: u64,
    ) -> Result<Option<(String, Millis)>, LogbookError> {
        let integration = integration.to_owned();
        self.query(move |connection| query::skip_of(connection, &integration, seq))
            .await
    }

    /// Attempts, newest first, without bodies.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn attempts(
        &self,
        filter: AttemptFilter,
        before_id: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AttemptRow>, LogbookError> {
        self.query(move |connection| query::attempts(connection, &filter, before_id, limit))
            .await
    }

    /// One attempt with its bodies.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn attempt_by_id(&self, id: i64) -> Result<Option<AttemptRow>, LogbookError> {
        self.query(move |connection| query::attempt(connection, id))
            .await
    }

    /// Several attempts with their bodies, in the order asked for; those not kept any more are left out.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn attempts_by_id(&self, ids: Vec<i64>) -> Result<Vec<AttemptRow>, LogbookError> {
        self.query(move |connection| query::whole(connection, &ids))
            .await
    }

    /// Events refused at the door, newest first.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn rejections(
        &self,
        filter: RejectedFilter,
        before_id: Option<i64>,
        limit: usize,
    ) -> Result<Vec<RejectedRow>, LogbookError> {
        self.query(move |connection| query::rejections(connection, &filter, before_id, limit))
            .await
    }

    /// Waits until all that was noted before is written.
    pub async fn flush(&self) {
        let Some(inner) = self.inner.clone() else {
            return;
        };
        let waited = tokio::task::spawn_blocking(move || {
            let (sender, receiver) = std::sync::mpsc::channel();
            let queue = inner.queue.lock().clone();
            if let Some(queue) = queue
                && queue.send(Entry::Flush(sender)).is_ok()
            {
                let _ = receiver.recv();
            }
        });
        let _ = waited.await;
    }

    /// Writes what waits and closes the file.
    pub async fn close(&self) {
        let Some(inner) = self.inner.clone() else {
            return;
        };
        let _ = tokio::task::spawn_blocking(move || {
            drop(inner.queue.lock().take());
            let writer = inner.writer.lock().take();
            if let Some(writer) = writer {
                let _ = writer.join();
            }
        })
        .await;
    }

    /// Runs a query on a blocking thread. One connection is kept for reading; a log that keeps nothing answers nothing.
    async fn query<T: Default + Send + 'static>(
        &self,
        ask: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LogbookError> {
        let Some(inner) = self.inner.clone() else {
            return Ok(T::default());
        };
        let failed = |error: &dyn std::fmt::Display| LogbookError::Query(error.to_string());
        tokio::task::spawn_blocking(move || {
            let mut reader = inner.reader.lock();
            let connection = match reader.take() {
                Some(connection) => connection,
                None => store::reader(&inner.path)?,
            };
            let answer = ask(&connection);
            // A connection that failed is not used again: the file may have been set aside.
            if answer.is_ok() {
                *reader = Some(connection);
            }
            answer
        })
        .await
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))
    }
}

impl Inner {
    /// Room for so many bytes of bodies in the queue; taken when there is.
    fn reserve(&self, bytes: usize) -> bool {
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.options.queue_bytes_max {
            self.release(bytes);
            return false;
        }
        true
    }

    /// Gives reserved room back. Always false, for use at the end of a condition.
    fn release(&self, bytes: usize) -> bool {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        false
    }

    fn push(&self, entry: Entry, bytes: usize) {
        let queue = self.queue.lock();
        let full = match queue.as_ref().map(|queue| queue.try_send(entry)) {
            Some(Ok(())) => false,
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => true,
        };
        drop(queue);
        if full {
            self.release(bytes);
            metrics::logbook_dropped("row").increment(1);
            if self.rows_dropped.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::warn!(path = %self.path.display(), "the log cannot keep up: rows are left out");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn attempt(seqs: Vec<u64>, verdict: &'static str, body: Vec<u8>) -> Attempt {
        Attempt {
            integration: "int_1".into(),
            request: "conversions".into(),
            at_ms: 1_000,
            took_ms: 12,
            attempt: 1,
            trigger: "batch",
            seqs,
            url: "https://logx.example/v1/events".into(),
            method: "POST".into(),
            request_body: body.into(),
            status: Some(204),
            response_body: Bytes::new(),
            verdict,
            error: None,
        }
    }

    fn open(dir: &tempfile::TempDir, options: Options) -> Logbook {
        Logbook::open(
            &dir.path().join("attempts.db"),
            options,
            ManualClock::at(10_000),
        )
        .unwrap()
    }

    fn of_seq(seq: u64) -> AttemptFilter {
        AttemptFilter {
            seq: Some(seq),
            ..AttemptFilter::default()
        }
    }

    #[tokio::test]
    async fn an_attempt_is_found_by_each_record_in_it_and_by_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(&dir, Options::default());
        log.attempt(attempt(
            vec![7, 5, 6, 20, 9],
            "delivered",
            b"{\"a\":1}".to_vec(),
        ));
        log.attempt(attempt(vec![8], "retry", b"x".to_vec()));
        log.flush().await;
        for (seq, expected) in [
            (4, 0),
            (5, 1),
            (6, 1),
            (7, 1),
            (8, 1),
            (9, 1),
            (15, 0),
            (20, 1),
        ] {
            let found = log.attempts(of_seq(seq), None, 10).await.unwrap();
            assert_eq!(found.len(), expected, "{seq}");
        }
        let all = log
            .attempts(AttemptFilter::default(), None, 10)
            .await
            .unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].verdict, "retry", "newest first");
        let older = log
            .attempts(AttemptFilter::default(), Some(all[0].id), 10)
            .await
            .unwrap();
        assert_eq!(older[0].runs, [(5, 7), (9, 9), (20, 20)]);
        let whole = log.attempt_by_id(older[0].id).await.unwrap().unwrap();
        assert_eq!(whole.request_body.as_deref(), Some(b"{\"a\":1}".as_slice()));
        assert_eq!(log.attempt_by_id(99).await.unwrap(), None);
        log.close().await;
        log.attempt(attempt(vec![1], "delivered", Vec::new()));
    }

    #[tokio::test]
    async fn what_came_since_a_moment_is_found_with_every_other_filter_page_by_page() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(&dir, Options::default());
        let mut all = Vec::new();
        for n in 0..600_i64 {
            // Some took long, and once the clock was set back.
            let at_ms = 50_000 + n * 300 - (n % 7) * 1_000 - if n > 400 { 30_000 } else { 0 };
            let (integration, verdict) = (n % 2, ["delivered", "retry", "reject"][n as usize % 3]);
            let mut one = attempt(vec![n.unsigned_abs() / 4], verdict, Vec::new());
            one.integration = format!("int_{integration}");
            one.at_ms = at_ms;
            log.attempt(one);
            let code = ["missing_event", "too_large"][n as usize % 2];
            log.rejected(Rejected {
                at_ms,
                source: format!("src_{}", n % 3),
                index: 0,
                code,
                message: "no".into(),
                body: Bytes::from_static(b"{}"),
            });
            all.push((n + 1, at_ms, format!("int_{integration}"), verdict, code));
        }
        log.flush().await;
        for since_ms in [0, 50_000, 51_234, 120_000, 170_001, 199_999, 300_000] {
            for (integration, verdict, seq) in [
                (None, None, None),
                (Some("int_1"), None, None),
                (None, Some("reject"), None),
                (Some("int_0"), Some("retry"), None),
                (None, None, Some(77)),
                (Some("int_1"), Some("delivered"), Some(99)),
            ] {
                let filter = AttemptFilter {
                    integration: integration.map(str::to_owned),
                    verdict: verdict.map(str::to_owned),
                    seq,
                    since_ms: Some(since_ms),
                };
                let wanted: Vec<i64> = all
                    .iter()
                    .rev()
                    .filter(|row| row.1 >= since_ms)
                    .filter(|row| integration.is_none_or(|wanted| row.2 == wanted))
                    .filter(|row| verdict.is_none_or(|wanted| row.3 == wanted))
                    .filter(|row| seq.is_none_or(|wanted| (row.0 - 1).unsigned_abs() / 4 == wanted))
                    .map(|row| row.0)
                    .collect();
                let (mut found, mut before) = (Vec::new(), None);
                loop {
                    let page = log.attempts(filter.clone(), before, 37).await.unwrap();
                    let Some(last) = page.last() else { break };
                    before = Some(last.id);
                    found.extend(page.iter().map(|row| row.id));
                }
                assert_eq!(found, wanted, "{filter:?}");
            }
            let filter = RejectedFilter {
                source: Some("src_1".into()),
                code: Some("too_large".into()),
                since_ms: Some(since_ms),
            };
            let found = log.rejections(filter, None, 1_000).await.unwrap();
            let wanted = all
                .iter()
                .rev()
                .filter(|row| row.1 >= since_ms && (row.0 - 1) % 3 == 1 && row.4 == "too_large");
            let wanted: Vec<i64> = wanted.map(|row| row.0).collect();
            let found: Vec<i64> = found.iter().map(|row| row.id).collect();
            assert_eq!(found, wanted, "{since_ms}");
        }
    }

    #[tokio::test]
    async fn a_skip_is_found_by_its_record_and_integration() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(&dir, Options::default());
        for (integration, reason, seqs) in [
            ("int_1", "unchanged", vec![3, 4, 9]),
            ("int_2", "stale", vec![4]),
            ("int_1", "superseded", vec![5]),
        ] {
            log.skipped(Skipped {
                integration: integration.into(),
                at_ms: 9_000,
                reason: reason.into(),
                seqs,
            });
        }
        log.flush().await;
        for (integration, seq, reason) in [
            ("int_1", 4, Some("unchanged")),
            ("int_1", 5, Some("superseded")),
            ("int_1", 6, None),
            ("int_2", 4, Some("stale")),
            ("int_2", 9, None),
        ] {
            let found = log.skip_of(integration, seq).await.unwrap();
            let wanted = reason.map(|reason| (reason.to_owned(), 9_000));
            assert_eq!(found, wanted, "{integration} {seq}");
        }
    }

    #[tokio::test]
    async fn the_log_stays_within_its_bytes_and_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            bytes_max: 100_000,
            ..Options::default()
        };
        let log = open(&dir, options.clone());
        // Bytes that do not compress.
        let mut state = 1u32;
        let mut body = || {
            (0..1_000)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state.to_be_bytes()[0]
                })
                .collect::<Vec<u8>>()
        };
        for seq in 0..500 {
            log.attempt(attempt(vec![seq], "retry", body()));
        }
        log.rejected(Rejected {
            at_ms: 9_000,
            source: "src_1".into(),
            index: 3,
            code: "too_large",
            message: "over 32 KB".into(),
            body: Bytes::from_static(b"{}"),
        });
        log.flush().await;
        let kept = log
            .attempts(AttemptFilter::default(), None, 1_000)
            .await
            .unwrap();
        assert!((50..100).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept[0].runs, [(499, 499)], "the newest are kept");
        log.close().await;
        // Reopened much later, everything is too old.
        let path = dir.path().join("attempts.db");
        let log = Logbook::open(&path, options, ManualClock::at(8 * 24 * 3_600_000)).unwrap();
        log.flush().await;
        assert!(
            log.attempts(AttemptFilter::default(), None, 10)
                .await
                .unwrap()
                .is_empty()
        );
        let filter = RejectedFilter::default();
        assert!(log.rejections(filter, None, 10).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn under_load_bodies_go_first_and_failures_keep_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            body_bytes_per_s: 10,
            ..Options::default()
        };
        let log = open(&dir, options);
        log.attempt(attempt(vec![1], "delivered", vec![b'a'; 90]));
        log.attempt(attempt(vec![2], "delivered", vec![b'b'; 90]));
        log.attempt(attempt(vec![3], "bisect", vec![b'c'; 90]));
        log.flush().await;
        let mut kept = Vec::new();
        for row in log
            .attempts(AttemptFilter::default(), None, 10)
            .await
            .unwrap()
        {
            let row = log.attempt_by_id(row.id).await.unwrap().unwrap();
            kept.push((row.runs[0].0, row.request_body.is_some()));
        }
        assert_eq!(kept, [(3, true), (2, false), (1, true)]);
    }

    #[tokio::test]
    async fn what_the_system_refuses_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attempts.db");
        std::fs::create_dir(&path).unwrap();
        let error = Logbook::open(&path, Options::default(), ManualClock::at(0)).unwrap_err();
        assert!(error.to_string().contains("attempts.db"), "{error}");
        assert!(path.is_dir(), "a directory is not taken away");
    }

    #[tokio::test]
    async fn a_damaged_file_is_set_aside_and_a_new_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attempts.db");
        std::fs::write(&path, vec![b'?'; 20_000]).unwrap();
        let log = open(&dir, Options::default());
        log.attempt(attempt(vec![1], "delivered", Vec::new()));
        log.flush().await;
        assert_eq!(log.attempts(of_seq(1), None, 10).await.unwrap().len(), 1);
        let aside = dir.path().join("attempts.db.damaged-1");
        assert_eq!(std::fs::read(aside).unwrap(), vec![b'?'; 20_000]);
    }
}
