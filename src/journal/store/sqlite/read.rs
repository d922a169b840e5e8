//! Reading beside the committer: each call is a short transaction of its own, so the write-ahead log is
//! never held up.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::letters::{self, Share};
use super::{open, seq, sort, sql};
use crate::clock::Millis;
use crate::journal::feed::{FeedState, decode_parts, decode_runs};
use crate::journal::store::{Block, Loaded, OpenError, Reader, Seen, StoreError};
use crate::journal::{DeadFilter, DeadLetter, Mark, Outcome, Parked, Seq};

/// Reads a journal in SQLite.
#[derive(Debug)]
pub struct SqliteReader {
    pub(super) connection: Connection,
}

impl SqliteReader {
    /// Opens the journal of a data directory for reading only. Needs no lock, changes nothing.
    ///
    /// # Errors
    /// There is none, it is not ours, or of a later version.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(super::FILE);
        if !open::check_file(&path)? {
            return Err(OpenError::Io {
                path,
                source: std::io::Error::new(std::io::ErrorKind::NotFound, "there is no journal"),
            });
        }
        Ok(Self {
            connection: open::connect_read_only(&path)?,
        })
    }

    /// What is there, as the committer would find it.
    ///
    /// # Errors
    /// The engine could not read it.
    pub fn load(&mut self) -> Result<Loaded, StoreError> {
        load(&self.connection)
    }

    /// One state of the store for all that follows, until the reader is dropped.
    ///
    /// # Errors
    /// The engine refused.
    pub fn freeze(&mut self) -> Result<(), StoreError> {
        self.connection
            .execute_batch("BEGIN; SELECT count(*) FROM meta;")
            .map_err(|error| sort(&error))
    }

    /// How many marks there are.
    ///
    /// # Errors
    /// The engine could not read.
    pub fn marks_kept(&mut self) -> Result<u64, StoreError> {
        if !has_table(&self.connection, "mark")? {
            return Ok(0);
        }
        self.connection
            .query_row("SELECT count(*) FROM mark", [], |row| seq(row, 0))
            .map_err(|error| sort(&error))
    }

    /// What SQLite itself finds wrong with the file's structure: at most ten sentences.
    ///
    /// # Errors
    /// The engine could not read.
    pub fn structure(&mut self) -> Result<Vec<String>, StoreError> {
        let found = rows(&self.connection, "PRAGMA integrity_check(10)", [], |row| {
            row.get::<_, String>(0)
        })?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }
}

pub(super) fn load(connection: &Connection) -> Result<Loaded, StoreError> {
    let number = |query: &str| -> Result<u64, StoreError> {
        connection
            .query_row(query, [], |row| seq(row, 0))
            .map_err(|error| sort(&error))
    };
    let key: Vec<u8> = connection
        .query_row(
            "SELECT value FROM meta WHERE key = 'dedup_key'",
            [],
            |row| row.get(0),
        )
        .map_err(|error| sort(&error))?;
    let key = key
        .try_into()
        .map_err(|_| StoreError::Failed("the key of the fingerprints is damaged".into()))?;
    let last = connection
        .query_row(
            "SELECT first, n, at_ms, bytes_before, duplicates, length(body) FROM block ORDER BY first DESC LIMIT 1",
            [],
            |row| Ok((seq(row, 0)? + seq(row, 1)?, seq(row, 3)? + seq(row, 5)?, seq(row, 4)?)),
        )
        .optional()
        .map_err(|error| sort(&error))?;
    let (next, bytes, duplicates) = last.unwrap_or_default();
    Ok(Loaded {
        key,
        first: number("SELECT coalesce(min(first), 0) FROM block")?,
        // A second witness, should the newest block's row be damaged.
        next: next.max(number(
            "SELECT coalesce((SELECT first + n FROM seen ORDER BY first DESC LIMIT 1), 0)",
        )?),
        // Written to the side when a commit held nothing but duplicates.
        duplicates: duplicates.max(number("SELECT value FROM meta WHERE key = 'duplicates'")?),
        bytes,
        damaged: number("SELECT count(*) FROM damaged")?,
        feeds: feeds(connection)?,
        labels: super::labels::load(connection)?,
    })
}

pub(super) fn feeds(connection: &Connection) -> Result<Vec<FeedState>, StoreError> {
    let mut feeds = rows(
        connection,
        "SELECT id, start, pos, above, duplicates_at_start,
            (SELECT count(*) FROM parked WHERE parked.feed = feed.id) FROM feed ORDER BY id",
        [],
        |row| {
            let pos = seq(row, 2)?;
            let above = decode_runs(pos, row.get_ref(3)?.as_blob()?);
            Ok((
                FeedState {
                    id: row.get(0)?,
                    start: seq(row, 1)?,
                    pos,
                    above: Vec::new(),
                    duplicates_at_start: seq(row, 4)?,
                    tallies: std::collections::BTreeMap::new(),
                    parked: seq(row, 5)?,
                    ..FeedState::default()
                },
                above,
            ))
        },
    )?
    .into_iter()
    .map(|(mut feed, above)| {
        feed.above = above.ok_or_else(|| {
            StoreError::Failed(format!("the cursor of feed `{}` is damaged", feed.id).into())
        })?;
        Ok(feed)
    })
    .collect::<Result<Vec<_>, StoreError>>()?;
    sides(connection, &mut feeds)?;
    for feed in &mut feeds {
        let tallies = rows(
            connection,
            "SELECT outcome, reason, n FROM tally WHERE feed = ?1",
            [&feed.id],
            |row| {
                let outcome: String = row.get(0)?;
                Ok((outcome, row.get::<_, String>(1)?, seq(row, 2)?))
            },
        )?;
        for (outcome, reason, n) in tallies {
            feed.tallies.insert((outcome_of(&outcome)?, reason), n);
        }
    }
    Ok(feeds)
}

/// What is kept beside the feeds.
fn sides(connection: &Connection, feeds: &mut [FeedState]) -> Result<(), StoreError> {
    if !has_table(connection, "side")? {
        return Ok(());
    }
    let sides = rows(
        connection,
        "SELECT feed, parts, note FROM side",
        [],
        |row| {
            let parts = decode_parts(row.get_ref(1)?.as_blob()?);
            Ok((row.get::<_, String>(0)?, parts, row.get::<_, Vec<u8>>(2)?))
        },
    )?;
    for (id, parts, note) in sides {
        if let Some(feed) = feeds.iter_mut().find(|feed| feed.id == id) {
            feed.parts = parts.ok_or_else(|| {
                StoreError::Failed(format!("what has ended of feed `{id}` is damaged").into())
            })?;
            feed.note = note.into();
        }
    }
    Ok(())
}

/// A store of an older format, only read here, lacks some.
fn has_table(connection: &Connection, name: &str) -> Result<bool, StoreError> {
    let known = rows(
        connection,
        "SELECT 1 FROM sqlite_schema WHERE name = ?1",
        [name],
        |_| Ok(()),
    )?;
    Ok(!known.is_empty())
}

pub(super) fn outcome_of(word: &str) -> Result<Outcome, StoreError> {
    [Outcome::Delivered, Outcome::Skipped, Outcome::Dead]
        .into_iter()
        .find(|one| one.as_str() == word)
        .ok_or_else(|| StoreError::Failed(format!("unknown outcome `{word}`").into()))
}

pub(super) fn seen(connection: &Connection, visit: &mut dyn FnMut(Seen)) -> Result<(), StoreError> {
    let mut statement = connection
        .prepare("SELECT first, at_ms, ids FROM seen ORDER BY first")
        .map_err(|error| sort(&error))?;
    let mut rows = statement.query([]).map_err(|error| sort(&error))?;
    while let Some(row) = rows.next().map_err(|error| sort(&error))? {
        let one = (|| {
            let ids = row.get_ref(2)?.as_blob()?;
            Ok(Seen {
                first: seq(row, 0)?,
                at_ms: row.get(1)?,
                ids: numbers(ids).collect(),
            })
        })()
        .map_err(|error: rusqlite::Error| sort(&error))?;
        visit(one);
    }
    Ok(())
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|eight| u64::from_le_bytes(*eight))
}

/// All rows of a query.
pub(super) fn rows<T>(
    connection: &Connection,
    query: &str,
    params: impl rusqlite::Params,
    map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection
        .prepare_cached(query)
        .map_err(|error| sort(&error))?;
    statement
        .query_map(params, map)
        .and_then(Iterator::collect)
        .map_err(|error| sort(&error))
}

const PARKED: &str = "feed, seq, due_ms, since_ms, attempts, reason, replay, record, parts_done";

fn parked_row(row: &Row<'_>) -> rusqlite::Result<Parked> {
    Ok(Parked {
        feed: row.get(0)?,
        seq: seq(row, 1)?,
        due_ms: row.get(2)?,
        since_ms: row.get(3)?,
        attempts: row.get(4)?,
        reason: row.get(5)?,
        replay: row.get(6)?,
        record: Bytes::from(row.get::<_, Vec<u8>>(7)?),
        parts_done: seq(row, 8)?,
    })
}

const BLOCK: &str = "first, n, at_ms, bytes_before, duplicates";

fn block_row(row: &Row<'_>) -> rusqlite::Result<Block> {
    Ok(Block {
        first: seq(row, 0)?,
        n: seq(row, 1)?,
        at_ms: row.get(2)?,
        bytes_before: seq(row, 3)?,
        duplicates: seq(row, 4)?,
        body: Vec::new(),
    })
}

impl Reader for SqliteReader {
    fn blocks(&mut self, from: Seq, bytes_max: usize) -> Result<Vec<Block>, StoreError> {
        let holding: Option<i64> = self
            .connection
            .prepare_cached("SELECT max(first) FROM block WHERE first <= ?1")
            .and_then(|mut statement| statement.query_row([sql(from)], |row| row.get(0)))
            .map_err(|error| sort(&error))?;
        let mut at = holding.unwrap_or_else(|| sql(from));
        let (mut blocks, mut bytes) = (Vec::new(), 0);
        while blocks.is_empty() || bytes < bytes_max {
            let found = self
                .connection
                .prepare_cached(&format!(
                    "SELECT {BLOCK} FROM block WHERE first >= ?1 ORDER BY first LIMIT 1"
                ))
                .and_then(|mut statement| statement.query_row([at], block_row).optional())
                .map_err(|error| sort(&error))?;
            let Some(mut block) = found else { break };
            // Apart from the rest, so that a body SQLite cannot read costs this block only.
            block.body = self
                .connection
                .prepare_cached("SELECT body FROM block WHERE first = ?1")
                .and_then(|mut statement| {
                    statement.query_row([sql(block.first)], |row| {
                        Ok(row.get_ref(0)?.as_blob().unwrap_or_default().to_vec())
                    })
                })
                .or_else(|error| match error.sqlite_error_code() {
                    Some(
                        rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::SystemIoFailure,
                    ) => Ok(Vec::new()),
                    _ => Err(sort(&error)),
                })?;
            bytes += block.body.len().max(1);
            at = sql(block.first) + 1;
            blocks.push(block);
        }
        Ok(blocks)
    }

    fn block_at(&mut self, record: Seq) -> Result<Option<Block>, StoreError> {
        self.connection
            .prepare_cached(&format!(
                "SELECT {BLOCK} FROM block WHERE first <= ?1 ORDER BY first DESC LIMIT 1"
            ))
            .and_then(|mut statement| statement.query_row([sql(record)], block_row).optional())
            .map_err(|error| sort(&error))
    }

    fn first_after(&mut self, first: Seq) -> Result<Option<Seq>, StoreError> {
        self.connection
            .prepare_cached("SELECT first FROM block WHERE first > ?1 ORDER BY first LIMIT 1")
            .and_then(|mut statement| {
                statement
                    .query_row([sql(first)], |row| seq(row, 0))
                    .optional()
            })
            .map_err(|error| sort(&error))
    }

    fn block_before(&mut self, at_ms: Millis) -> Result<Option<Block>, StoreError> {
        let edge = |query: &str| -> Result<Option<i64>, StoreError> {
            self.connection
                .query_row(query, [], |row| row.get(0))
                .map_err(|error| sort(&error))
        };
        let (Some(mut low), Some(mut high)) = (
            edge("SELECT min(first) FROM block")?,
            edge("SELECT max(first) FROM block")?,
        ) else {
            return Ok(None);
        };
        let mut statement = self
            .connection
            .prepare_cached(&format!(
                "SELECT {BLOCK} FROM block WHERE first <= ?1 ORDER BY first DESC LIMIT 1"
            ))
            .map_err(|error| sort(&error))?;
        // Times rise with numbers but for a clock set back, so halving finds the place.
        let mut best = None;
        while low <= high {
            let middle = low + (high - low) / 2;
            let block = statement
                .query_row([middle], block_row)
                .map_err(|error| sort(&error))?;
            if block.at_ms < at_ms {
                low = sql(block.first + block.n).max(middle + 1);
                best = Some(block);
            } else {
                high = sql(block.first) - 1;
            }
        }
        Ok(best)
    }

    fn labels_between(
        &mut self,
        from: Seq,
        to: Seq,
    ) -> Result<std::collections::BTreeMap<String, u64>, StoreError> {
        super::labels::between(&self.connection, from, to)
    }

    fn parked(
        &mut self,
        feed: &str,
        due_ms: Millis,
        limit: usize,
    ) -> Result<Vec<Parked>, StoreError> {
        rows(
            &self.connection,
            &format!(
                "SELECT {PARKED} FROM parked WHERE feed = ?1 AND due_ms <= ?2 ORDER BY due_ms, seq LIMIT ?3"
            ),
            params![feed, due_ms, sql(limit as u64)],
            parked_row,
        )
    }

    fn parked_at(&mut self, feed: &str, seq: Seq) -> Result<Option<Parked>, StoreError> {
        let found = rows(
            &self.connection,
            &format!("SELECT {PARKED} FROM parked WHERE feed = ?1 AND seq = ?2"),
            params![feed, sql(seq)],
            parked_row,
        )?;
        Ok(found.into_iter().next())
    }

    fn marks(&mut self, feed: &str, keys: &[u128]) -> Result<Vec<Mark>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT value, at_ms, seq, until_ms, coalesce(again_ms, at_ms), coalesce(again_seq, seq)
                 FROM mark WHERE feed = ?1 AND key = ?2",
            )
            .map_err(|error| sort(&error))?;
        let mut found = Vec::new();
        for key in keys {
            let mark = statement
                .query_row(params![feed, key.to_be_bytes()], |row| {
                    Ok(Mark {
                        key: *key,
                        value: u128::from_be_bytes(row.get(0)?),
                        at_ms: row.get(1)?,
                        seq: seq(row, 2)?,
                        until_ms: row.get(3)?,
                        again: (row.get(4)?, seq(row, 5)?),
                    })
                })
                .optional()
                .map_err(|error| sort(&error))?;
            found.extend(mark);
        }
        Ok(found)
    }

    fn oldest_parked_ms(&mut self, feed: &str) -> Result<Option<Millis>, StoreError> {
        // The lowest number is the oldest record.
        self.connection
            .prepare_cached(
                "SELECT coalesce(accepted_ms, since_ms) FROM parked WHERE feed = ?1 ORDER BY seq LIMIT 1",
            )
            .and_then(|mut statement| statement.query_row([feed], |row| row.get(0)).optional())
            .map_err(|error| sort(&error))
    }

    fn replay_waiting(&mut self, replay: &str) -> Result<u64, StoreError> {
        self.connection
            .query_row(
                "SELECT count(*) FROM parked WHERE replay = ?1",
                [replay],
                |row| seq(row, 0),
            )
            .map_err(|error| sort(&error))
    }

    fn dead_letters(
        &mut self,
        filter: &DeadFilter,
        after_id: Option<i64>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let share = Share {
            ids: after_id.map_or(i64::MIN, |id| id.saturating_add(1))..=i64::MAX,
            limit,
            whole: false,
        };
        letters::chosen(&self.connection, filter, &share)
            .and_then(|ids| letters::read(&self.connection, &ids))
            .map_err(|error| sort(&error))
    }

    fn dead_count(&mut self, filter: &DeadFilter) -> Result<(u64, (i64, i64)), StoreError> {
        letters::count(&self.connection, filter).map_err(|error| sort(&error))
    }

    fn find(&mut self, fingerprints: &[u64]) -> Result<Vec<Seq>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT first, ids FROM seen ORDER BY first")
            .map_err(|error| sort(&error))?;
        let mut rows = statement.query([]).map_err(|error| sort(&error))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(|error| sort(&error))? {
            let first = seq(row, 0).map_err(|error| sort(&error))?;
            let ids = row
                .get_ref(1)
                .map_err(|error| sort(&error))?
                .as_blob()
                .unwrap_or_default();
            let known = (first..).zip(numbers(ids));
            found.extend(
                known
                    .filter(|(_, id)| fingerprints.contains(id))
                    .map(|(at, _)| at),
            );
        }
        Ok(found)
    }

    fn damaged(&mut self) -> Result<Vec<Range<Seq>>, StoreError> {
        rows(
            &self.connection,
            "SELECT first, n FROM damaged ORDER BY first",
            [],
            |row| Ok(seq(row, 0)?..seq(row, 0)? + seq(row, 1)?),
        )
    }
}
