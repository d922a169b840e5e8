//! The view's file. Keys of flags, variations and the like are stored once, as words, and rows hold their numbers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, Transaction, params};

use super::{Assignment, AssignmentsError, Filter, Place};
use crate::clock::Millis;
use crate::journal::Seq;

/// Number of the tables' form, kept in the file.
const FORMAT: i64 = 1;
/// Rows looked at in one step of forgetting.
const STEP: usize = 2_000;
/// Words kept in memory.
const WORDS_MAX: usize = 10_000;
/// A word in use is noted as such this often; it is forgotten two of these later than rows are.
const TOUCH_MS: Millis = 86_400_000;

const SCHEMA: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE word(id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL UNIQUE, used_ms INTEGER NOT NULL);
CREATE TABLE assignment(
    user TEXT NOT NULL, flag INTEGER NOT NULL, enabled INTEGER NOT NULL, variation INTEGER, rule INTEGER,
    rule_kind INTEGER, experiment INTEGER, revision INTEGER, source INTEGER NOT NULL, decided_ms INTEGER NOT NULL,
    seq INTEGER NOT NULL, written_ms INTEGER NOT NULL, PRIMARY KEY(user, flag)) WITHOUT ROWID;
CREATE INDEX assignment_of_flag ON assignment(flag, user);
";

impl From<rusqlite::Error> for AssignmentsError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// The writing side.
pub(super) struct Writer {
    connection: Connection,
    keep_ms: Millis,
    /// Word to number, and when it was noted as used.
    words: HashMap<String, (i64, Millis)>,
    /// Where forgetting goes on.
    forgotten: Option<(String, i64)>,
    forgotten_word: i64,
}

/// The reading side.
pub(super) struct Reader {
    connection: Connection,
}

impl Writer {
    pub(super) fn open(path: &Path, keep_ms: Millis) -> Result<Self, AssignmentsError> {
        let connection = match prepare(path) {
            Err(error) if damaged(&error) => {
                set_aside(path, &error);
                prepare(path)
            }
            other => other,
        };
        let connection = connection.map_err(|error| AssignmentsError::Open {
            path: path.display().to_string(),
            detail: error.to_string(),
        })?;
        let found = format(&connection)?;
        if found > FORMAT {
            return Err(AssignmentsError::Future {
                path: path.display().to_string(),
                found,
                known: FORMAT,
            });
        }
        Ok(Self {
            connection,
            keep_ms,
            words: HashMap::new(),
            forgotten: None,
            forgotten_word: 0,
        })
    }

    pub(super) fn position(&self) -> Result<Option<Seq>, AssignmentsError> {
        let found: Option<i64> = self
            .connection
            .query_row("SELECT value FROM meta WHERE key = 'position'", [], |row| {
                row.get(0)
            })
            .optional()?;
        Ok(found.map(i64::cast_unsigned))
    }

    pub(super) fn apply(
        &mut self,
        upto: Seq,
        decisions: &[Assignment],
        now_ms: Millis,
    ) -> Result<(), AssignmentsError> {
        if self.words.len() > WORDS_MAX {
            self.words.clear();
        }
        let words = &mut self.words;
        let transaction = self.connection.transaction()?;
        let mut fresh = HashMap::new();
        for decision in decisions {
            let mut word = |text: Option<&str>| -> rusqlite::Result<Option<i64>> {
                text.map(|text| word_id(&transaction, words, &mut fresh, text, now_ms))
                    .transpose()
            };
            let numbers = (
                word(Some(&decision.flag))?,
                word(decision.variation.as_deref())?,
                word(decision.rule.as_deref())?,
                word(decision.rule_kind.as_deref())?,
                word(decision.experiment.as_deref())?,
                word(decision.revision.as_deref())?,
                word(Some(&decision.source))?,
            );
            let (flag, variation, rule, rule_kind, experiment, revision, source) = numbers;
            transaction
                .prepare_cached(
                    "INSERT INTO assignment(user, flag, enabled, variation, rule, rule_kind, experiment, revision,
                        source, decided_ms, seq, written_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
                     ON CONFLICT(user, flag) DO UPDATE SET enabled = excluded.enabled,
                        variation = excluded.variation, rule = excluded.rule, rule_kind = excluded.rule_kind,
                        experiment = excluded.experiment, revision = excluded.revision, source = excluded.source,
                        decided_ms = excluded.decided_ms, seq = excluded.seq, written_ms = excluded.written_ms
                     WHERE (excluded.decided_ms, excluded.seq) >= (assignment.decided_ms, assignment.seq)",
                )?
                .execute(params![
                    decision.user,
                    flag,
                    decision.enabled,
                    variation,
                    rule,
                    rule_kind,
                    experiment,
                    revision,
                    source,
                    decision.decided_ms,
                    decision.seq.cast_signed(),
                    now_ms
                ])?;
        }
        transaction
            .prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES ('position', ?1)")?
            .execute([upto.cast_signed()])?;
        transaction.commit()?;
        // Only now are the new numbers certain.
        self.words.extend(fresh);
        Ok(())
    }

    /// A step through the table, by its own order: users not decided about for long, and words nobody uses.
    pub(super) fn forget(&mut self, now_ms: Millis) -> Result<bool, AssignmentsError> {
        let oldest_ms = now_ms.saturating_sub(self.keep_ms);
        let (user, flag) = self.forgotten.take().unwrap_or_default();
        let transaction = self.connection.transaction()?;
        let seen: Vec<(String, i64, Millis)> = transaction
            .prepare_cached(
                "SELECT user, flag, written_ms FROM assignment WHERE (user, flag) > (?1, ?2)
                 ORDER BY user, flag LIMIT ?3",
            )?
            .query_map(params![user, flag, STEP as i64], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (user, flag, _) in seen.iter().filter(|(_, _, at_ms)| *at_ms < oldest_ms) {
            transaction
                .prepare_cached("DELETE FROM assignment WHERE user = ?1 AND flag = ?2")?
                .execute(params![user, flag])?;
        }
        let unused: Vec<(i64, Millis)> = transaction
            .prepare_cached("SELECT id, used_ms FROM word WHERE id > ?1 ORDER BY id LIMIT ?2")?
            .query_map(params![self.forgotten_word, STEP as i64], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        // A row is never older than the last note of its words, but for the time between two notes.
        let unused_ms = oldest_ms.saturating_sub(2 * TOUCH_MS);
        for (id, _) in unused.iter().filter(|(_, used_ms)| *used_ms < unused_ms) {
            transaction
                .prepare_cached("DELETE FROM word WHERE id = ?1")?
                .execute([id])?;
        }
        transaction.commit()?;
        self.words.retain(|_, (_, used_ms)| *used_ms >= unused_ms);
        let end = seen.len() < STEP && unused.len() < STEP;
        if seen.len() == STEP {
            self.forgotten = seen
                .into_iter()
                .next_back()
                .map(|(user, flag, _)| (user, flag));
        }
        let whole = unused.len() == STEP;
        self.forgotten_word = unused.last().filter(|_| whole).map_or(0, |(id, _)| *id);
        Ok(end)
    }
}

/// The number of a word, made when it has none yet.
fn word_id(
    transaction: &Transaction<'_>,
    words: &HashMap<String, (i64, Millis)>,
    fresh: &mut HashMap<String, (i64, Millis)>,
    text: &str,
    now_ms: Millis,
) -> rusqlite::Result<i64> {
    let known = fresh.get(text).or_else(|| words.get(text));
    if let Some((id, used_ms)) = known
        && now_ms.saturating_sub(*used_ms) < TOUCH_MS
    {
        return Ok(*id);
    }
    let id = transaction
        .prepare_cached(
            "INSERT INTO word(text, used_ms) VALUES (?1, ?2)
             ON CONFLICT(text) DO UPDATE SET used_ms = max(used_ms, excluded.used_ms) RETURNING id",
        )?
        .query_row(params![text, now_ms], |row| row.get(0))?;
    fresh.insert(text.to_owned(), (id, now_ms));
    Ok(id)
}

const ROW: &str = "a.flag, a.user, f.text, a.enabled, v.text, r.text, k.text, e.text, n.text, s.text, a.decided_ms, a.seq
    FROM assignment a JOIN word f ON f.id = a.flag JOIN word s ON s.id = a.source
    LEFT JOIN word v ON v.id = a.variation LEFT JOIN word r ON r.id = a.rule
    LEFT JOIN word k ON k.id = a.rule_kind LEFT JOIN word e ON e.id = a.experiment
    LEFT JOIN word n ON n.id = a.revision";

fn row(row: &Row<'_>) -> rusqlite::Result<(Place, Assignment)> {
    let user: String = row.get(1)?;
    let place = Place {
        flag: row.get(0)?,
        user: user.clone(),
    };
    let assignment = Assignment {
        user,
        flag: row.get(2)?,
        enabled: row.get(3)?,
        variation: row.get(4)?,
        rule: row.get(5)?,
        rule_kind: row.get(6)?,
        experiment: row.get(7)?,
        revision: row.get(8)?,
        source: row.get(9)?,
        decided_ms: row.get(10)?,
        seq: row.get::<_, i64>(11)?.cast_unsigned(),
    };
    Ok((place, assignment))
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, AssignmentsError> {
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "cache_size", -2048)?;
        Ok(Self { connection })
    }

    pub(super) fn list(
        &self,
        filter: &Filter,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Vec<(Place, Assignment)>, AssignmentsError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let (after_flag, after_user) = after.map_or((-1, ""), |at| (at.flag, at.user.as_str()));
        let flag: i64 = match &filter.flag {
            None => -1,
            Some(flag) => match self.word(flag)? {
                Some(flag) => flag,
                None => return Ok(Vec::new()),
            },
        };
        let (which, order) = match (&filter.user, &filter.flag) {
            (None, None) => (
                "(a.user, a.flag) > (?4, ?3) AND ?1 = '' AND ?2 = -1",
                "a.user, a.flag",
            ),
            (Some(_), None) => (
                "a.user = ?1 AND a.flag > ?3 AND ?2 = -1 AND ?4 = ?4",
                "a.flag",
            ),
            (None, Some(_)) => (
                "a.flag = ?2 AND a.user > ?4 AND ?1 = '' AND ?3 = ?3",
                "a.user",
            ),
            (Some(_), Some(_)) => (
                "a.user = ?1 AND a.flag = ?2 AND (a.user, a.flag) > (?4, ?3)",
                "a.user",
            ),
        };
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {ROW} WHERE {which} ORDER BY {order} LIMIT ?5"
        ))?;
        let user = filter.user.as_deref().unwrap_or("");
        let rows = statement.query_map(params![user, flag, after_flag, after_user, limit], row)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn word(&self, text: &str) -> Result<Option<i64>, AssignmentsError> {
        Ok(self
            .connection
            .prepare_cached("SELECT id FROM word WHERE text = ?1")?
            .query_row([text], |row| row.get(0))
            .optional()?)
    }
}

fn prepare(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    // FULL: the feed is moved once this is written, and the journal may then let go of the records.
    connection.execute_batch(
        "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
         PRAGMA cache_size=-8192; PRAGMA temp_store=MEMORY;",
    )?;
    if format(&connection)? == 0 {
        connection.execute_batch(&format!(
            "BEGIN; {SCHEMA} PRAGMA user_version={FORMAT}; COMMIT;"
        ))?;
    }
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

fn format(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Damaged, or never a database: not merely refused by the system.
fn damaged(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
    )
}

fn set_aside(path: &Path, error: &rusqlite::Error) {
    let with = |suffix: &str| -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    };
    tracing::error!(
        path = %path.display(), %error,
        "the assignments are damaged: set aside as `.damaged`, and made anew from what the journal still has"
    );
    let moved = std::fs::rename(path, with(".damaged"));
    if let Err(error) = moved {
        tracing::error!(path = %path.display(), %error, "it could not be set aside");
    }
    for side in ["-wal", "-shm"] {
        let _gone = std::fs::remove_file(with(side));
    }
}
