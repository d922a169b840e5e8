//! Writing: one transaction, one sync. Used by the committer's thread only.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::letters::{self, Share};
use super::read::{self, SqliteReader};
use super::{SqliteStore, labels, open, seq, sort, sql};
use crate::clock::Millis;
use crate::journal::feed::{FeedState, encode_parts, encode_runs};
use crate::journal::store::{
    Aside, Block, Change, LabelOf, Loaded, Moved, Reader, Seen, Store, StoreError, Those, TrimRule,
    Whereabouts,
};
use crate::journal::{DeadLetter, Mark, Outcome, Parked, Seq};

/// Written to the log before it is moved into the main file: about one second at full load.
const CHECKPOINT_BYTES: u64 = 16 << 20;
/// A log longer than this is cut even if that means waiting for readers.
const WAL_BYTES_MAX: u64 = 256 << 20;
/// What a small commit costs in pages.
const COMMIT_BYTES: u64 = 64 << 10;
/// Free pages kept for the next blocks (64 MB); more are given back to the file system when idle.
const FREE_PAGES_MAX: i64 = 4096;
/// Damaged blocks whose bytes are kept; of later ones only the place.
const DAMAGED_BODIES_MAX: i64 = 256;

type Step<T> = rusqlite::Result<T>;

impl SqliteStore {
    /// Runs `work` in one transaction and commits it.
    fn transact<T>(
        &mut self,
        bytes: u64,
        work: impl FnOnce(&Transaction<'_>) -> Step<T>,
    ) -> Result<T, StoreError> {
        let run = |connection: &mut Connection| -> Step<T> {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        let result = run(&mut self.connection).map_err(|error| sort(&error));
        if result.is_ok() {
            self.wal_bytes += bytes + COMMIT_BYTES;
        } else if !self.connection.is_autocommit() {
            // A commit that failed for want of room leaves the transaction open; it must not stay so.
            self.connection
                .execute_batch("ROLLBACK")
                .map_err(|error| StoreError::Failed(error.to_string().into()))?;
        }
        result
    }

    fn checkpoint(&mut self, mode: &str) -> Result<(), StoreError> {
        let (busy, pages, moved) = self
            .connection
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, i64>(2)?,
                ))
            })
            .map_err(|error| sort(&error))?;
        // What a reader held back is tried again after a quarter of the usual distance.
        self.wal_bytes = if busy == 0 && pages == moved {
            0
        } else {
            CHECKPOINT_BYTES / 4 * 3
        };
        Ok(())
    }
}

impl Store for SqliteStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        read::load(&self.connection)
    }

    fn seen(&mut self, visit: &mut dyn FnMut(Seen)) -> Result<(), StoreError> {
        read::seen(&self.connection, visit)
    }

    fn commit(&mut self, change: &Change) -> Result<(), StoreError> {
        let bytes = change.blocks.iter().map(|one| one.body.len() as u64).sum();
        self.transact(bytes, |transaction| {
            for block in &change.blocks {
                insert_block(transaction, block)?;
            }
            for seen in &change.seen {
                insert_seen(transaction, seen)?;
            }
            if let (Some(duplicates), true) = (change.duplicates, change.blocks.is_empty()) {
                transaction
                    .prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'duplicates'")?
                    .execute([sql(duplicates)])?;
            }
            for step in &change.aside {
                aside(transaction, step)?;
            }
            for feed in &change.feeds {
                upsert_feed(transaction, feed)?;
            }
            labels::write(transaction, &change.labels)
        })
    }

    fn whereabouts(&mut self, feed: &str, record: Seq) -> Result<Whereabouts, StoreError> {
        let key = params![feed, sql(record)];
        let found = (|| {
            let parked = self
                .connection
                .prepare_cached("SELECT 1 FROM parked WHERE feed = ?1 AND seq = ?2")?
                .exists(key)?;
            if parked {
                return Ok(Whereabouts::Parked);
            }
            let letter: Option<(String, Option<Vec<u8>>)> = self
                .connection
                .prepare_cached(
                    "SELECT reason, record FROM dead_letter WHERE feed = ?1 AND seq = ?2 AND cancelled = 1",
                )?
                .query_row(key, |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            Ok(letter.map_or(Whereabouts::Nowhere, |(reason, record)| {
                Whereabouts::Cancelled {
                    reason,
                    record: record.unwrap_or_default(),
                }
            }))
        })();
        found.map_err(|error: rusqlite::Error| sort(&error))
    }

    fn remove_feed(&mut self, feed: &str) -> Result<(), StoreError> {
        self.transact(0, |transaction| {
            for statement in [
                "DELETE FROM feed WHERE id = ?1",
                "DELETE FROM tally WHERE feed = ?1",
                "DELETE FROM parked WHERE feed = ?1",
                "DELETE FROM dead_letter WHERE feed = ?1",
                "DELETE FROM mark WHERE feed = ?1",
                "DELETE FROM side WHERE feed = ?1",
                "DELETE FROM label_start WHERE feed = ?1",
                "DELETE FROM label_tally WHERE feed = ?1",
            ] {
                transaction.execute(statement, [feed])?;
            }
            Ok(())
        })
    }

    fn wake(&mut self, feed: &str, reason: &str, now_ms: Millis) -> Result<u64, StoreError> {
        self.transact(0, |transaction| {
            let woken = transaction.execute(
                "UPDATE parked SET due_ms = ?3 WHERE feed = ?1 AND reason = ?2 AND due_ms > ?3",
                params![feed, reason, now_ms],
            )?;
            Ok(woken as u64)
        })
    }

    fn replay(
        &mut self,
        replay: &str,
        those: Those<'_>,
        now_ms: Millis,
        due_ms: &dyn Fn(u64) -> Millis,
        label: LabelOf<'_>,
    ) -> Result<Moved, StoreError> {
        let share = Share {
            ids: those.ids.0..=those.ids.1,
            limit: those.limit,
            whole: true,
        };
        self.transact(0, |transaction| {
            let mut moved = Moved::default();
            let chosen = letters::chosen(transaction, those.filter, &share)?;
            moved.last_id = chosen.last().copied().unwrap_or(those.ids.1);
            for (i, id) in chosen.into_iter().enumerate() {
                let (feed, reason, record, seq): (String, String, Vec<u8>, Seq) = transaction
                    .prepare_cached("SELECT feed, reason, record, seq FROM dead_letter WHERE id = ?1")?
                    .query_row([id], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?, seq(row, 3)?))
                    })?;
                transaction
                    .prepare_cached(
                        "INSERT INTO parked(feed, seq, due_ms, since_ms, attempts, reason, replay, accepted_ms,
                            dead_at_ms, dead_reason, dead_detail, dead_attempts, dead_status, dead_answer, record,
                            parts_done)
                         SELECT feed, seq, ?2, ?3, 0, 'replay', ?4, accepted_ms,
                            at_ms, reason, detail, attempts, status, answer, record, parts_done
                         FROM dead_letter WHERE id = ?1",
                    )?
                    .execute(params![id, due_ms(i as u64), now_ms, replay])?;
                transaction
                    .prepare_cached("DELETE FROM dead_letter WHERE id = ?1")?
                    .execute([id])?;
                count(transaction, &feed, Outcome::Dead, &reason, -1)?;
                moved.count(feed, reason, label(seq, &record), -1);
            }
            labels::write(transaction, &moved.labels)?;
            Ok(moved)
        })
    }

    fn cancel(
        &mut self,
        replay: &str,
        limit: usize,
        label: LabelOf<'_>,
    ) -> Result<Moved, StoreError> {
        self.transact(0, |transaction| {
            let mut moved = Moved::default();
            let chosen: Vec<(i64, String, String, Vec<u8>, Seq)> = transaction
                .prepare_cached(
                    "SELECT rowid, feed, coalesce(dead_reason, 'replay_cancelled'), record, seq FROM parked
                     WHERE replay = ?1 ORDER BY rowid LIMIT ?2",
                )?
                .query_map(params![replay, sql(limit as u64)], |row| {
                    let at = seq(row, 4)?;
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, at))
                })?
                .collect::<Step<_>>()?;
            for (row, feed, reason, record, seq) in chosen {
                transaction
                    .prepare_cached(
                        "INSERT INTO dead_letter(feed, seq, at_ms, reason, detail, attempts, status, answer,
                            accepted_ms, cancelled, record, parts_done)
                         SELECT feed, seq, coalesce(dead_at_ms, since_ms), ?2, coalesce(dead_detail, ''),
                            coalesce(dead_attempts, attempts), dead_status, coalesce(dead_answer, ''),
                            accepted_ms, 1, record, parts_done
                         FROM parked WHERE rowid = ?1",
                    )?
                    .execute(params![row, reason])?;
                transaction
                    .prepare_cached("DELETE FROM parked WHERE rowid = ?1")?
                    .execute([row])?;
                count(transaction, &feed, Outcome::Dead, &reason, 1)?;
                moved.count(feed, reason, label(seq, &record), 1);
            }
            labels::write(transaction, &moved.labels)?;
            Ok(moved)
        })
    }

    fn set_aside(&mut self, block: &Block, now_ms: Millis) -> Result<bool, StoreError> {
        self.transact(block.body.len() as u64, |transaction| {
            let kept: i64 =
                transaction.query_row("SELECT count(*) FROM damaged", [], |row| row.get(0))?;
            let body: &[u8] = if kept < DAMAGED_BODIES_MAX {
                &block.body
            } else {
                &[]
            };
            let added = transaction.execute(
                "INSERT OR IGNORE INTO damaged(first, n, at_ms, found_ms, body) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![sql(block.first), sql(block.n), block.at_ms, now_ms, body],
            )?;
            Ok(added > 0)
        })
    }

    fn trim(&mut self, rule: &TrimRule) -> Result<u64, StoreError> {
        let victims = victims(&self.connection, rule).map_err(|error| sort(&error))?;
        let seen_due = self
            .connection
            .prepare_cached("SELECT 1 FROM seen WHERE first + n <= ?1 ORDER BY first LIMIT 1")
            .and_then(|mut statement| statement.exists([sql(rule.seen_below)]))
            .map_err(|error| sort(&error))?;
        if victims.is_empty() && !seen_due {
            return Ok(0);
        }
        self.transact(0, |transaction| {
            for first in &victims {
                transaction
                    .prepare_cached("DELETE FROM block WHERE first = ?1")?
                    .execute([first])?;
                transaction
                    .prepare_cached("DELETE FROM label_block WHERE first = ?1")?
                    .execute([first])?;
            }
            if seen_due {
                transaction
                    .prepare_cached(
                        "DELETE FROM seen WHERE first IN
                            (SELECT first FROM seen WHERE first + n <= ?1 ORDER BY first LIMIT 256)",
                    )?
                    .execute([sql(rule.seen_below)])?;
            }
            Ok(victims.len().max(1) as u64)
        })
    }

    fn forget(&mut self, now_ms: Millis, step: usize) -> Result<bool, StoreError> {
        // By the table's own order: an index by time would double what every settle writes.
        let (feed, key) = self.forgotten.take().unwrap_or_default();
        let seen: Vec<(String, Vec<u8>, Millis)> = read::rows(
            &self.connection,
            "SELECT feed, key, until_ms FROM mark WHERE (feed, key) > (?1, ?2) ORDER BY feed, key LIMIT ?3",
            params![feed, key, sql(step as u64)],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        if seen.iter().any(|(_, _, until_ms)| *until_ms <= now_ms) {
            self.transact(0, |transaction| {
                for (feed, key, _) in seen.iter().filter(|(_, _, until)| *until <= now_ms) {
                    transaction
                        .prepare_cached("DELETE FROM mark WHERE feed = ?1 AND key = ?2")?
                        .execute(params![feed, key])?;
                }
                Ok(())
            })?;
        }
        let end = seen.len() < step;
        if !end {
            self.forgotten = seen.into_iter().last().map(|(feed, key, _)| (feed, key));
        }
        Ok(end)
    }

    fn tidy(&mut self, idle: bool) -> Result<(), StoreError> {
        if self.wal_bytes >= CHECKPOINT_BYTES || (idle && self.wal_bytes > 0) {
            let long = file_len(&self.path.with_extension("db-wal")) > WAL_BYTES_MAX;
            self.checkpoint(if long { "TRUNCATE" } else { "PASSIVE" })?;
        }
        if idle {
            let free: i64 = self
                .connection
                .query_row("PRAGMA freelist_count", [], |row| row.get(0))
                .map_err(|error| sort(&error))?;
            if free > FREE_PAGES_MAX {
                // 16 MB at a time. The statement has to be stepped to its end.
                self.connection
                    .prepare("PRAGMA incremental_vacuum(1024)")
                    .and_then(|mut statement| {
                        let mut rows = statement.query([])?;
                        while rows.next()?.is_some() {}
                        Ok(())
                    })
                    .map_err(|error| sort(&error))?;
                self.wal_bytes += CHECKPOINT_BYTES;
            }
        }
        Ok(())
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        self.transact(256 << 10, |transaction| {
            transaction.execute("INSERT INTO probe(filler) VALUES (zeroblob(262144))", [])?;
            Ok(())
        })?;
        self.transact(0, |transaction| {
            transaction.execute("DELETE FROM probe", [])?;
            Ok(())
        })
    }

    fn size(&self) -> u64 {
        file_len(&self.path) + file_len(&self.path.with_extension("db-wal"))
    }

    fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.dir).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, StoreError> {
        let connection = open::connect_beside(&self.path)
            .map_err(|error| StoreError::Failed(error.to_string().into()))?;
        Ok(Box::new(SqliteReader { connection }))
    }

    fn close(mut self: Box<Self>, clean: bool) -> Result<(), StoreError> {
        let result = if clean {
            self.checkpoint("TRUNCATE")
        } else {
            Ok(())
        };
        // No checkpoint happens in here: that is switched off.
        self.connection.close().map_err(|(_, error)| sort(&error))?;
        result
    }
}

fn file_len(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

fn insert_block(transaction: &Transaction<'_>, block: &Block) -> Step<()> {
    transaction
        .prepare_cached(
            "INSERT INTO block(first, n, at_ms, bytes_before, duplicates, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            sql(block.first),
            sql(block.n),
            block.at_ms,
            sql(block.bytes_before),
            sql(block.duplicates),
            block.body
        ])?;
    Ok(())
}

fn insert_seen(transaction: &Transaction<'_>, seen: &Seen) -> Step<()> {
    let mut ids = Vec::with_capacity(seen.ids.len() * 8);
    for id in &seen.ids {
        ids.extend_from_slice(&id.to_le_bytes());
    }
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO seen(first, n, at_ms, ids) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            sql(seen.first),
            sql(seen.ids.len() as u64),
            seen.at_ms,
            ids
        ])?;
    Ok(())
}

fn upsert_feed(transaction: &Transaction<'_>, feed: &FeedState) -> Step<()> {
    transaction
        .prepare_cached(
            "INSERT INTO feed(id, start, pos, above, duplicates_at_start) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT(id) DO UPDATE SET pos = excluded.pos, above = excluded.above",
        )?
        .execute(params![
            feed.id,
            sql(feed.start),
            sql(feed.pos),
            encode_runs(feed.pos, &feed.above),
            sql(feed.duplicates_at_start)
        ])?;
    for ((outcome, reason), n) in &feed.tallies {
        transaction
            .prepare_cached(
                "INSERT INTO tally(feed, outcome, reason, n) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET n = excluded.n WHERE n != excluded.n",
            )?
            .execute(params![feed.id, outcome.as_str(), reason, sql(*n)])?;
    }
    Ok(())
}

fn count(
    transaction: &Transaction<'_>,
    feed: &str,
    outcome: Outcome,
    reason: &str,
    by: i64,
) -> Step<()> {
    transaction
        .prepare_cached(
            "INSERT INTO tally(feed, outcome, reason, n) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET n = n + excluded.n",
        )?
        .execute(params![feed, outcome.as_str(), reason, by])?;
    Ok(())
}

fn aside(transaction: &Transaction<'_>, step: &Aside) -> Step<()> {
    match step {
        Aside::Park(parked) => park(transaction, parked),
        Aside::Repark(parked) => transaction
            .prepare_cached(
                "UPDATE parked SET due_ms = ?3, attempts = ?4, reason = ?5, replay = coalesce(?6, replay),
                    parts_done = ?7
                 WHERE feed = ?1 AND seq = ?2",
            )?
            .execute(params![
                parked.feed,
                sql(parked.seq),
                parked.due_ms,
                parked.attempts,
                parked.reason,
                parked.replay,
                sql(parked.parts_done)
            ])
            .map(drop),
        Aside::Unpark { feed, seq } => transaction
            .prepare_cached("DELETE FROM parked WHERE feed = ?1 AND seq = ?2")?
            .execute(params![feed, sql(*seq)])
            .map(drop),
        Aside::Mark { feed, mark } => remember(transaction, feed, mark),
        Aside::Ended { feed, seq, parts } => {
            for statement in [
                "UPDATE parked SET parts_done = ?3 WHERE feed = ?1 AND seq = ?2",
                "UPDATE dead_letter SET parts_done = ?3 WHERE feed = ?1 AND seq = ?2 AND cancelled = 1",
            ] {
                transaction
                    .prepare_cached(statement)?
                    .execute(params![feed, sql(*seq), sql(*parts)])?;
            }
            Ok(())
        }
        Aside::Parts { feed, parts } => transaction
            .prepare_cached(
                "INSERT INTO side(feed, parts) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET parts = excluded.parts",
            )?
            .execute(params![feed, encode_parts(parts)])
            .map(drop),
        Aside::Note { feed, note } => transaction
            .prepare_cached(
                "INSERT INTO side(feed, note) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET note = excluded.note",
            )?
            .execute(params![feed, &note[..]])
            .map(drop),
        Aside::Bury(letter) => bury(transaction, letter),
        Aside::Unbury { feed, seq } => transaction
            .prepare_cached("DELETE FROM dead_letter WHERE feed = ?1 AND seq = ?2")?
            .execute(params![feed, sql(*seq)])
            .map(drop),
    }
}

/// When the block holding a record was committed; it is still there, for its feed has not passed it.
const ACCEPTED: &str = "(SELECT at_ms FROM block WHERE first <= ?2 ORDER BY first DESC LIMIT 1)";

fn park(transaction: &Transaction<'_>, parked: &Parked) -> Step<()> {
    transaction
        .prepare_cached(&format!(
            "INSERT INTO parked(feed, seq, due_ms, since_ms, attempts, reason, replay, accepted_ms, record, parts_done)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, {ACCEPTED}, ?8, ?9)"
        ))?
        .execute(params![
            parked.feed,
            sql(parked.seq),
            parked.due_ms,
            parked.since_ms,
            parked.attempts,
            parked.reason,
            parked.replay,
            &parked.record[..],
            sql(parked.parts_done)
        ])?;
    Ok(())
}

/// A mark never goes back.
fn remember(transaction: &Transaction<'_>, feed: &str, mark: &Mark) -> Step<()> {
    let again = (mark.again != (mark.at_ms, mark.seq)).then_some(mark.again);
    transaction
        .prepare_cached(
            "INSERT INTO mark(feed, key, value, at_ms, seq, until_ms, again_ms, again_seq)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT(feed, key) DO UPDATE SET value = excluded.value, at_ms = excluded.at_ms,
                 seq = excluded.seq, until_ms = excluded.until_ms, again_ms = excluded.again_ms,
                 again_seq = excluded.again_seq
             WHERE (excluded.at_ms, excluded.seq) >= (mark.at_ms, mark.seq)",
        )?
        .execute(params![
            feed,
            mark.key.to_be_bytes(),
            mark.value.to_be_bytes(),
            mark.at_ms,
            sql(mark.seq),
            mark.until_ms,
            again.map(|again| again.0),
            again.map(|again| sql(again.1))
        ])?;
    Ok(())
}

fn bury(transaction: &Transaction<'_>, letter: &DeadLetter) -> Step<()> {
    let record = (!letter.record.is_empty()).then_some(&letter.record[..]);
    transaction
        .prepare_cached(&format!(
            "INSERT INTO dead_letter(feed, seq, at_ms, reason, detail, attempts, status, answer, accepted_ms, record,
                parts_done)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, {ACCEPTED}, ?9, ?10)"
        ))?
        .execute(params![
            letter.feed,
            sql(letter.seq),
            letter.at_ms,
            letter.reason,
            letter.detail,
            letter.attempts,
            letter.status,
            letter.answer,
            record,
            sql(letter.parts_done)
        ])?;
    Ok(())
}

/// Places of the blocks to trim now, oldest first.
fn victims(connection: &Connection, rule: &TrimRule) -> Step<Vec<i64>> {
    // Bytes stored before the block the slowest feed stands in: everything older is settled.
    let settled: Option<u64> = connection
        .prepare_cached(
            "SELECT bytes_before FROM block WHERE first <= ?1 ORDER BY first DESC LIMIT 1",
        )?
        .query_row([sql(rule.below)], |row| seq(row, 0))
        .optional()?;
    let Some(settled) = settled else {
        return Ok(Vec::new());
    };
    let keep_from = settled.saturating_sub(rule.bytes_max);
    let mut statement = connection.prepare_cached(
        "SELECT first, n, at_ms, bytes_before, length(body) FROM block
         WHERE first < (SELECT max(first) FROM block) ORDER BY first LIMIT ?1",
    )?;
    let mut rows = statement.query([sql(rule.step_blocks as u64)])?;
    let (mut victims, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let end = seq(row, 0)? + seq(row, 1)?;
        let length = seq(row, 4)?;
        let due = row.get::<_, i64>(2)? < rule.before_ms || seq(row, 3)? + length <= keep_from;
        if end > rule.below || !due || bytes > rule.step_bytes {
            break;
        }
        bytes += length;
        victims.push(row.get(0)?);
    }
    Ok(victims)
}
