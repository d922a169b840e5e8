//! The log's file and its writer thread.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use super::tide::{self, Tide};
use super::{Attempt, Entry, LogbookError, Options, Rejected, Skipped};
use crate::clock::{Millis, SharedClock};

/// Number of the tables' form, kept in the file. A file of another form is set aside.
const FORMAT: i64 = 1;

/// Room a row takes besides its texts and bodies, about.
const ROW_BYTES: u64 = 256;

/// Rows in one transaction.
const ROWS_PER_COMMIT: usize = 512;

/// Old rows are looked for this often.
const TRIM_EVERY_MS: Millis = 5_000;

/// Large columns stand last: what stands behind them is slow to read.
const SCHEMA: &str = "
create table if not exists attempt(
  id integer primary key autoincrement, integration text not null, request text not null, at_ms integer not null,
  took_ms integer not null, attempt integer not null, trigger_word text not null,
  first_seq integer, last_seq integer, events integer not null, seqs blob not null,
  url text not null, method text not null, status integer, verdict text not null, error text,
  bytes integer not null, request_bytes integer not null, request_body blob, response_body blob);
create index if not exists attempt_by_seq on attempt(last_seq, first_seq);
create index if not exists attempt_by_integration on attempt(integration, id);
create index if not exists attempt_by_verdict on attempt(verdict, id);
create index if not exists attempt_by_both on attempt(integration, verdict, id);
create index if not exists attempt_wide on attempt(last_seq, first_seq) where last_seq - first_seq > 8192;
create table if not exists rejected(
  id integer primary key autoincrement, at_ms integer not null, source text not null, place integer not null,
  code text not null, message text not null, bytes integer not null, body blob not null);
create table if not exists skip(
  id integer primary key autoincrement, integration text not null, at_ms integer not null, reason text not null,
  first_seq integer not null, last_seq integer not null, bytes integer not null, seqs blob not null);
create index if not exists skip_by_seq on skip(last_seq, first_seq);
create index if not exists skip_wide on skip(last_seq, first_seq) where last_seq - first_seq > 8192;
create index if not exists rejected_by_source on rejected(source, id);
create index if not exists rejected_by_code on rejected(code, id);
create index if not exists rejected_by_both on rejected(source, code, id);
";

/// What the rows take. Each table has its own share, so that many attempts do not push out the rejections.
#[derive(Debug, Clone, Copy, Default)]
struct Bytes {
    attempts: u64,
    rejected: u64,
    skips: u64,
}

/// The open log.
pub(super) struct Store {
    connection: Connection,
    path: PathBuf,
    options: Options,
    bytes: Bytes,
    tides: Tides,
    trimmed_at_ms: Millis,
}

/// How far the tables that are asked by time have come.
#[derive(Debug, Clone, Copy, Default)]
struct Tides {
    attempts: Tide,
    rejected: Tide,
}

impl Store {
    /// Opens the file; a damaged one is set aside and a new one begun.
    pub(super) fn open(path: &Path, options: &Options) -> Result<Self, LogbookError> {
        let failed = |cause: rusqlite::Error| LogbookError::Open {
            path: path.display().to_string(),
            cause: cause.to_string(),
        };
        let (connection, bytes, tides) = match prepare(path) {
            Ok(opened) => opened,
            // Refused by the system, not damaged: renaming would take away a good file, or a directory.
            Err(error) if refused(&error) => return Err(failed(error)),
            Err(error) => {
                set_aside(path, &error);
                prepare(path).map_err(failed)?
            }
        };
        Ok(Self {
            connection,
            path: path.to_owned(),
            options: options.clone(),
            bytes,
            tides,
            trimmed_at_ms: 0,
        })
    }

    /// Writes what comes until the queue is closed.
    pub(super) fn run(
        mut self,
        queue: &Receiver<Entry>,
        queued_bytes: &AtomicUsize,
        clock: &SharedClock,
    ) {
        loop {
            let mut entries = Vec::new();
            match queue.recv_timeout(Duration::from_secs(5)) {
                Ok(entry) => entries.push(entry),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while entries.len() < ROWS_PER_COMMIT
                && let Ok(entry) = queue.try_recv()
            {
                entries.push(entry);
            }
            let bodies: usize = entries.iter().map(body_bytes).sum();
            if let Err(error) = self.write(&entries) {
                self.recover(&error, entries.len());
            }
            queued_bytes.fetch_sub(bodies, Ordering::Relaxed);
            let now_ms = clock.now_ms();
            let shares = self.shares();
            let full = self.bytes.attempts > shares.attempts
                || self.bytes.rejected > shares.rejected
                || self.bytes.skips > shares.skips;
            if full || now_ms - self.trimmed_at_ms >= TRIM_EVERY_MS {
                self.trimmed_at_ms = now_ms;
                if let Err(error) = self.trim(now_ms) {
                    self.recover(&error, 0);
                }
            }
            for entry in entries {
                if let Entry::Flush(done) = entry {
                    let _ = done.send(());
                }
            }
        }
    }

    fn write(&mut self, entries: &[Entry]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let mut bytes = self.bytes;
        let mut tides = self.tides;
        for entry in entries {
            match entry {
                Entry::Attempt(attempt) => {
                    bytes.attempts += insert_attempt(&transaction, attempt)?;
                    let id = transaction.last_insert_rowid();
                    tides
                        .attempts
                        .wrote(&transaction, "attempt", id, attempt.at_ms)?;
                }
                Entry::Rejected(rejected) => {
                    bytes.rejected += insert_rejected(&transaction, rejected)?;
                    let id = transaction.last_insert_rowid();
                    tides
                        .rejected
                        .wrote(&transaction, "rejected", id, rejected.at_ms)?;
                }
                Entry::Skipped(skipped) => bytes.skips += insert_skipped(&transaction, skipped)?,
                Entry::Flush(_) => {}
            }
        }
        transaction.commit()?;
        self.bytes = bytes;
        self.tides = tides;
        Ok(())
    }

    /// Removes what is too old or too much, oldest first.
    fn trim(&mut self, now_ms: Millis) -> rusqlite::Result<()> {
        let oldest_ms = now_ms.saturating_sub(self.options.keep_ms);
        let shares = self.shares();
        let before = self.bytes;
        let kept = Bytes {
            attempts: self.trim_table("attempt", oldest_ms, before.attempts, shares.attempts)?,
            rejected: self.trim_table("rejected", oldest_ms, before.rejected, shares.rejected)?,
            skips: self.trim_table("skip", oldest_ms, before.skips, shares.skips)?,
        };
        let freed = kept.attempts < before.attempts
            || kept.rejected < before.rejected
            || kept.skips < before.skips;
        self.bytes = kept;
        if freed {
            tide::trim(&self.connection, "attempt")?;
            tide::trim(&self.connection, "rejected")?;
            self.connection
                .execute_batch("pragma incremental_vacuum(4096)")?;
        }
        Ok(())
    }

    /// Six eighths for attempts, one for rejections, one for skips.
    fn shares(&self) -> Bytes {
        let eighth = self.options.bytes_max / 8;
        Bytes {
            attempts: self.options.bytes_max - 2 * eighth,
            rejected: eighth,
            skips: eighth,
        }
    }

    /// Trims one table; returns what its rows take then.
    fn trim_table(
        &self,
        table: &str,
        oldest_ms: Millis,
        mut bytes: u64,
        bytes_max: u64,
    ) -> rusqlite::Result<u64> {
        // In order of their numbers, which is nearly that of their times: no index by time is needed, and no scan.
        let old = format!("id in (select id from {table} order by id limit 256) and at_ms < ?1");
        loop {
            let freed = self.remove(table, &old, oldest_ms)?;
            bytes = bytes.saturating_sub(freed);
            if freed == 0 {
                break;
            }
        }
        while bytes > bytes_max {
            let oldest = format!("id in (select id from {table} order by id limit ?1)");
            let freed = self.remove(table, &oldest, 16)?;
            if freed == 0 {
                break;
            }
            bytes = bytes.saturating_sub(freed);
        }
        Ok(bytes)
    }

    fn remove(&self, table: &str, which: &str, argument: i64) -> rusqlite::Result<u64> {
        let mut delete = self.connection.prepare_cached(&format!(
            "delete from {table} where {which} returning bytes"
        ))?;
        let mut rows = delete.query([argument])?;
        let mut freed = 0;
        while let Some(row) = rows.next()? {
            freed += u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
        }
        Ok(freed)
    }

    /// A log that fails while running: count what is lost, set the file aside if it is damaged, go on.
    fn recover(&mut self, error: &rusqlite::Error, rows: usize) {
        crate::metrics::logbook_dropped("row").increment(u64::try_from(rows).unwrap_or(0));
        tracing::warn!(path = %self.path.display(), %error, rows, "cannot write the log");
        let damaged = matches!(
            error.sqlite_error_code(),
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
        );
        if !damaged {
            return;
        }
        // The old connection must let go of the file before another takes its name.
        if let Ok(idle) = Connection::open_in_memory() {
            drop(std::mem::replace(&mut self.connection, idle));
        }
        set_aside(&self.path, error);
        match prepare(&self.path) {
            Ok((connection, bytes, tides)) => {
                self.connection = connection;
                self.bytes = bytes;
                self.tides = tides;
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "no new log can be made");
            }
        }
    }
}

fn prepare(path: &Path) -> rusqlite::Result<(Connection, Bytes, Tides)> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(
        "pragma page_size = 8192; pragma auto_vacuum = incremental; pragma journal_mode = wal;
         pragma synchronous = normal; pragma journal_size_limit = 8388608;",
    )?;
    let format: i64 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
    if format != 0 && format != FORMAT {
        return Err(rusqlite::Error::InvalidParameterName(format!(
            "written by another version (form {format}, this is {FORMAT})"
        )));
    }
    connection.execute_batch(SCHEMA)?;
    connection.execute_batch(tide::SCHEMA)?;
    connection.pragma_update(None, "user_version", FORMAT)?;
    let taken = |table: &str| -> rusqlite::Result<u64> {
        let sum = format!("select coalesce(sum(bytes), 0) from {table}");
        let sum: i64 = connection.query_row(&sum, [], |row| row.get(0))?;
        Ok(u64::try_from(sum).unwrap_or(0))
    };
    let bytes = Bytes {
        attempts: taken("attempt")?,
        rejected: taken("rejected")?,
        skips: taken("skip")?,
    };
    let tides = Tides {
        attempts: Tide::load(&connection, "attempt")?,
        rejected: Tide::load(&connection, "rejected")?,
    };
    Ok((connection, bytes, tides))
}

/// True when the system would not let us at the file.
fn refused(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
        )
    )
}

/// Renames the file and its companions to the first free `….damaged-N`.
fn set_aside(path: &Path, error: &rusqlite::Error) {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = (1..1_000)
        .map(|n| format!(".damaged-{n}"))
        .find(|suffix| !with(suffix).exists());
    let Some(aside) = aside else {
        return;
    };
    for companion in ["", "-wal", "-shm"] {
        let _ = std::fs::rename(with(companion), with(&format!("{aside}{companion}")));
    }
    tracing::error!(
        path = %path.display(), %error, aside = %with(&aside).display(),
        "the log of attempts cannot be used; it is set aside and a new one begun (no event is affected)"
    );
}

/// A connection for queries.
pub(super) fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

fn body_bytes(entry: &Entry) -> usize {
    match entry {
        Entry::Attempt(attempt) => attempt.request_body.len() + attempt.response_body.len(),
        Entry::Rejected(rejected) => rejected.body.len(),
        Entry::Skipped(_) | Entry::Flush(_) => 0,
    }
}

fn insert_attempt(connection: &Connection, attempt: &Attempt) -> rusqlite::Result<u64> {
    let runs = runs(&attempt.seqs);
    let signed = |seq: u64| i64::try_from(seq).unwrap_or(i64::MAX);
    let first = runs.first().map(|run| signed(run.0));
    let last = runs.last().map(|run| signed(run.1));
    let runs = pack(&runs);
    let request_body = compress(&attempt.request_body);
    let stored =
        request_body.as_ref().map_or(0, Vec::len) + attempt.response_body.len() + runs.len();
    let bytes = ROW_BYTES + u64::try_from(stored).unwrap_or(0);
    let response = (!attempt.response_body.is_empty()).then_some(attempt.response_body.as_ref());
    connection
        .prepare_cached(
            "insert into attempt(integration, request, at_ms, took_ms, attempt, trigger_word, first_seq, last_seq,
               events, seqs, url, method, status, verdict, error, request_bytes, request_body, response_body, bytes)
             values (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19)",
        )?
        .execute(params![
            attempt.integration,
            attempt.request,
            attempt.at_ms,
            attempt.took_ms,
            attempt.attempt,
            attempt.trigger,
            first,
            last,
            i64::try_from(attempt.seqs.len()).unwrap_or(i64::MAX),
            runs,
            attempt.url,
            attempt.method,
            attempt.status,
            attempt.verdict,
            attempt.error,
            i64::try_from(attempt.request_body.len()).unwrap_or(i64::MAX),
            request_body,
            response,
            i64::try_from(bytes).unwrap_or(i64::MAX),
        ])?;
    Ok(bytes)
}

fn insert_rejected(connection: &Connection, rejected: &Rejected) -> rusqlite::Result<u64> {
    let stored = rejected.body.len() + rejected.message.len();
    let bytes = ROW_BYTES + u64::try_from(stored).unwrap_or(0);
    connection
        .prepare_cached(
            "insert into rejected(at_ms, source, place, code, message, body, bytes) values (?1,?2,?3,?4,?5,?6,?7)",
        )?
        .execute(params![
            rejected.at_ms,
            rejected.source,
            rejected.index,
            rejected.code,
            rejected.message,
            rejected.body.as_ref(),
            i64::try_from(bytes).unwrap_or(i64::MAX),
        ])?;
    Ok(bytes)
}

fn insert_skipped(connection: &Connection, skipped: &Skipped) -> rusqlite::Result<u64> {
    let runs = runs(&skipped.seqs);
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
        return Ok(0);
    };
    let signed = |seq: u64| i64::try_from(seq).unwrap_or(i64::MAX);
    let packed = pack(&runs);
    let bytes = ROW_BYTES + u64::try_from(packed.len()).unwrap_or(0);
    connection
        .prepare_cached(
            "insert into skip(integration, at_ms, reason, first_seq, last_seq, seqs, bytes) values (?1,?2,?3,?4,?5,?6,?7)",
        )?
        .execute(params![
            skipped.integration,
            skipped.at_ms,
            skipped.reason,
            signed(first.0),
            signed(last.1),
            packed,
            signed(bytes),
        ])?;
    Ok(bytes)
}

fn compress(body: &[u8]) -> Option<Vec<u8>> {
    (!body.is_empty()).then(|| lz4_flex::compress_prepend_size(body))
}

/// The other way; none when the row has no body (or a damaged one).
pub(super) fn decompress(body: &[u8]) -> Option<Vec<u8>> {
    lz4_flex::decompress_size_prepended(body).ok()
}

/// Numbers as runs (first, last), in order.
pub(super) fn runs(seqs: &[u64]) -> Vec<(u64, u64)> {
    let mut sorted = seqs.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for seq in sorted {
        match runs.last_mut() {
            Some(run) if run.1 == seq || run.1.checked_add(1) == Some(seq) => run.1 = seq,
            _ => runs.push((seq, seq)),
        }
    }
    runs
}

/// Runs as bytes: each number 8 bytes, little end first. Persisted: must be kept stable.
fn pack(runs: &[(u64, u64)]) -> Vec<u8> {
    runs.iter()
        .flat_map(|(first, last)| [first.to_le_bytes(), last.to_le_bytes()])
        .flatten()
        .collect()
}

/// The other way.
pub(super) fn unpack(bytes: &[u8]) -> Vec<(u64, u64)> {
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or(0);
    bytes
        .chunks_exact(16)
        .map(|pair| {
            let (first, last) = pair.split_at(8);
            (number(first), number(last))
        })
        .collect()
}
