//! `control.db`: what is installed, durably. Rows in, rows out; knows no rule about them.
//!
//! SQLite with write-ahead log and synchronous=FULL: a change that returned is on stable storage. A file that is
//! not ours, or of a later version, is refused before a byte of it changes. Other processes (`aqueduct token`)
//! may change it too; [`Store::changed_elsewhere`] tells.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior};

use super::seal::Sealed;
use crate::clock::Millis;

/// Name of the database in the data directory.
pub const DATABASE_FILE: &str = "control.db";

/// Version of the tables below.
const FORMAT: i64 = 1;

/// Marks the file as ours ("Aqdc"), at a fixed place of its first page.
const APPLICATION_ID: i32 = 0x4171_6463;

const SCHEMA: &str = "
CREATE TABLE format (version INTEGER NOT NULL, made_at_ms INTEGER NOT NULL, made_by TEXT NOT NULL) STRICT;
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE sources (
  ord INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE,
  rate INTEGER, enabled INTEGER NOT NULL, created_at_ms INTEGER NOT NULL) STRICT;
CREATE TABLE write_keys (
  ord INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  source TEXT NOT NULL REFERENCES sources(id) ON DELETE CASCADE,
  hash BLOB NOT NULL UNIQUE, prefix TEXT NOT NULL, label TEXT NOT NULL, origin TEXT NOT NULL,
  created_at_ms INTEGER NOT NULL) STRICT;
CREATE TABLE integrations (
  ord INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, phase TEXT NOT NULL,
  vendor TEXT NOT NULL, variant TEXT NOT NULL, name TEXT NOT NULL, sources TEXT, config TEXT NOT NULL,
  tuning TEXT NOT NULL, paused TEXT, blueprint_revision INTEGER NOT NULL, version INTEGER NOT NULL,
  created_at_ms INTEGER NOT NULL, changed_at_ms INTEGER NOT NULL) STRICT;
CREATE TABLE secrets (
  integration TEXT NOT NULL REFERENCES integrations(id) ON DELETE CASCADE, field TEXT NOT NULL,
  key_id TEXT NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (integration, field)) STRICT;
CREATE TABLE revisions (
  integration TEXT NOT NULL REFERENCES integrations(id) ON DELETE CASCADE, number INTEGER NOT NULL,
  text TEXT NOT NULL, author TEXT NOT NULL, note TEXT NOT NULL, created_at_ms INTEGER NOT NULL,
  PRIMARY KEY (integration, number)) STRICT;
CREATE TABLE tokens (
  ord INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, role TEXT NOT NULL,
  hash BLOB NOT NULL, origin TEXT NOT NULL, created_at_ms INTEGER NOT NULL, expires_at_ms INTEGER,
  revoked_at_ms INTEGER) STRICT;
CREATE TABLE replays (
  id TEXT PRIMARY KEY, filter TEXT NOT NULL, matched INTEGER NOT NULL, cancelled INTEGER, created_at_ms INTEGER NOT NULL) STRICT;
CREATE TABLE audit (
  n INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, actor TEXT NOT NULL, role TEXT NOT NULL, action TEXT NOT NULL,
  object TEXT NOT NULL, before TEXT, after TEXT, result TEXT NOT NULL, prev BLOB NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE TRIGGER revisions_stay BEFORE UPDATE ON revisions BEGIN SELECT RAISE(ABORT, 'revisions are immutable'); END;
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
";

/// Tables that came later. Releases before them leave them alone, so the format stays the same.
const LATER: &str = "
CREATE TABLE IF NOT EXISTS agents (
  source TEXT PRIMARY KEY REFERENCES sources(id) ON DELETE CASCADE, url TEXT NOT NULL, filter TEXT NOT NULL,
  key_id TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS source_permits (
  source TEXT PRIMARY KEY REFERENCES sources(id) ON DELETE CASCADE, permits TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS source_seen (
  source TEXT PRIMARY KEY REFERENCES sources(id) ON DELETE CASCADE, at_ms INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS alert_endpoints (
  ord INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL,
  key_id TEXT NOT NULL, sealed BLOB NOT NULL, old_key_id TEXT, old_sealed BLOB, old_until_ms INTEGER,
  gone_at_ms INTEGER, created_at_ms INTEGER NOT NULL, changed_at_ms INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS alerts (
  n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, endpoint TEXT NOT NULL, rule TEXT NOT NULL,
  integration TEXT NOT NULL, integration_name TEXT NOT NULL, summary TEXT NOT NULL, reason TEXT,
  value INTEGER NOT NULL, threshold INTEGER NOT NULL, since_ms INTEGER NOT NULL, noticed_ms INTEGER NOT NULL,
  notices INTEGER NOT NULL, resolved_ms INTEGER) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS alerts_open ON alerts (endpoint, rule, integration) WHERE resolved_ms IS NULL;
CREATE TABLE IF NOT EXISTS alert_notices (
  n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  endpoint TEXT NOT NULL REFERENCES alert_endpoints(name) ON DELETE CASCADE, alert TEXT, kind TEXT NOT NULL,
  body TEXT NOT NULL, created_ms INTEGER NOT NULL, attempts INTEGER NOT NULL, next_ms INTEGER NOT NULL,
  last_error TEXT, outcome TEXT, ended_ms INTEGER) STRICT;
CREATE INDEX IF NOT EXISTS alert_notices_waiting ON alert_notices (endpoint, n) WHERE outcome IS NULL;
CREATE INDEX IF NOT EXISTS alert_notices_of ON alert_notices (alert, n);
CREATE TABLE IF NOT EXISTS answers (
  place TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, key_id TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (at_ms);
";

/// Why the database was not opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreOpenError {
    /// The data directory or the file cannot be used by this user.
    #[error("{path}: {source}; the data directory must be readable and writable by this user")]
    NoAccess {
        /// Which path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Some other program's file.
    #[error(
        "{path}: not a registry of aqueduct; move the file away, or set AQUEDUCT_DATA_DIR to another directory"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Made by a later release.
    #[error(
        "{path}: format {found}, this release reads up to {FORMAT}; run the release that wrote it, or restore a backup made before the upgrade"
    )]
    Future {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// SQLite found it damaged, or failed.
    #[error("{path}: {detail}; restore the file from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        detail: String,
    },
}

/// The database failed while in use.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite's words.
    #[error("control.db: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A stored value is not what this release writes.
    #[error("control.db: {table} `{row}`: {detail}")]
    Value {
        /// Table.
        table: &'static str,
        /// Which row.
        row: String,
        /// What is wrong.
        detail: String,
    },
}

/// A row of `sources`.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "columns")]
pub struct SourceRow {
    pub id: String,
    pub name: String,
    pub rate: Option<u32>,
    /// JSON; see `permits`.
    pub permits: Option<String>,
    pub enabled: bool,
    pub created_at_ms: Millis,
}

/// A row of `write_keys`. The key itself is not kept.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "columns")]
pub struct KeyRow {
    pub id: String,
    pub source: String,
    pub hash: [u8; 32],
    pub prefix: String,
    pub label: String,
    /// `made`, or `setting` for the one given by AQUEDUCT_WRITE_KEY.
    pub origin: String,
    pub created_at_ms: Millis,
}

/// A row of `integrations` with the text of its revision.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "columns")]
pub struct IntegrationRow {
    pub id: String,
    /// `installing`, `live` or `removing`.
    pub phase: String,
    pub vendor: String,
    pub variant: String,
    pub name: String,
    /// JSON list of ids, none = all.
    pub sources: Option<String>,
    /// JSON; see `picture`.
    pub config: String,
    pub tuning: String,
    pub paused: Option<String>,
    pub blueprint_revision: u32,
    pub version: u64,
    pub created_at_ms: Millis,
    pub changed_at_ms: Millis,
    pub text: String,
}

/// A row of `agents`.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "columns")]
pub struct AgentRow {
    pub source: String,
    pub url: String,
    pub filter: String,
    pub sealed: Sealed,
}

/// A row of `secrets`.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "columns")]
pub struct SecretRow {
    pub integration: String,
    pub field: String,
    pub sealed: Sealed,
}

/// A row of `revisions`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "columns")]
pub struct RevisionRow {
    pub number: u32,
    pub text: String,
    pub author: String,
    pub note: String,
    pub created_at_ms: Millis,
}

/// A row of `tokens`. The token itself is not kept.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "columns")]
pub struct TokenRow {
    pub id: String,
    pub name: String,
    pub role: String,
    pub hash: [u8; 32],
    /// `made`, or `setting` for the one given by AQUEDUCT_ADMIN_TOKEN.
    pub origin: String,
    pub created_at_ms: Millis,
    pub expires_at_ms: Option<Millis>,
    pub revoked_at_ms: Option<Millis>,
}

/// Everything but revisions and audit.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "tables")]
pub struct Rows {
    pub sources: Vec<SourceRow>,
    pub keys: Vec<KeyRow>,
    pub integrations: Vec<IntegrationRow>,
    pub secrets: Vec<SecretRow>,
    pub tokens: Vec<TokenRow>,
    pub agents: Vec<AgentRow>,
    pub alert_endpoints: Vec<super::alerts::AlertEndpointRow>,
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    seen: i64,
}

impl Store {
    /// Opens the database of `data_dir`, making it when there is none.
    ///
    /// # Errors
    /// When it is not ours, of a later format, damaged, or out of reach; it is unchanged then.
    pub fn open(data_dir: &Path, now_ms: Millis) -> Result<Self, StoreOpenError> {
        let path = data_dir.join(DATABASE_FILE);
        let is_new = look_at_header(&path)?;
        let damaged = |error: rusqlite::Error| open_fault(&path, &error);
        let mut db = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(damaged)?;
        db.busy_timeout(std::time::Duration::from_secs(5))
            .map_err(damaged)?;
        if is_new {
            make(&mut db, now_ms).map_err(damaged)?;
        }
        let found: i64 = db
            .query_row("SELECT version FROM format", [], |row| row.get(0))
            .map_err(|error| match error {
                rusqlite::Error::SqliteFailure(ref fault, _)
                    if fault.code == rusqlite::ErrorCode::Unknown =>
                {
                    StoreOpenError::Foreign { path: path.clone() }
                }
                other => open_fault(&path, &other),
            })?;
        if found > FORMAT {
            return Err(StoreOpenError::Future { path, found });
        }
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;",
        )
        .map_err(damaged)?;
        // Proves that we may write: a read-only file or directory is found now, not at the first change.
        db.execute_batch(
            "BEGIN IMMEDIATE; UPDATE facts SET value = value WHERE key = 'first_start'; COMMIT;",
        )
        .map_err(damaged)?;
        db.execute_batch(LATER).map_err(damaged)?;
        let seen = data_version(&db).map_err(damaged)?;
        Ok(Self { db, seen })
    }

    /// True once after another process changed the database.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn changed_elsewhere(&mut self) -> Result<bool, StoreError> {
        let version = data_version(&self.db)?;
        Ok(std::mem::replace(&mut self.seen, version) != version)
    }

    /// Runs `change` in one transaction; on an error nothing of it stays.
    ///
    /// # Errors
    /// Those of `change`, or SQLite's.
    pub fn change<T, E: From<StoreError>>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StoreError::from)?;
        let value = change(&tx)?;
        tx.commit().map_err(StoreError::from)?;
        Ok(value)
    }

    /// The connection, for reading.
    pub(super) fn reader(&self) -> &Connection {
        &self.db
    }

    /// Reads everything but revisions and audit.
    ///
    /// # Errors
    /// When SQLite fails or a value is not what this release writes.
    pub fn rows(&self) -> Result<Rows, StoreError> {
        let tx = self.db.unchecked_transaction()?;
        Ok(Rows {
            sources: all(
                &tx,
                "SELECT id, name, rate, enabled, created_at_ms, permits FROM sources \
                 LEFT JOIN source_permits p ON p.source = id ORDER BY ord",
                |row| {
                    Ok(SourceRow {
                        id: row.get(0)?,
                        name: row.get(1)?,
                        rate: row.get(2)?,
                        enabled: row.get(3)?,
                        created_at_ms: row.get(4)?,
                        permits: row.get(5)?,
                    })
                },
            )?,
            keys: all(
                &tx,
                "SELECT id, source, hash, prefix, label, origin, created_at_ms FROM write_keys ORDER BY ord",
                |row| {
                    Ok(KeyRow {
                        id: row.get(0)?,
                        source: row.get(1)?,
                        hash: row.get(2)?,
                        prefix: row.get(3)?,
                        label: row.get(4)?,
                        origin: row.get(5)?,
                        created_at_ms: row.get(6)?,
                    })
                },
            )?,
            integrations: all(
                &tx,
                "SELECT i.id, phase, vendor, variant, name, sources, config, tuning, paused, blueprint_revision, \
                 version, i.created_at_ms, changed_at_ms, r.text FROM integrations i \
                 LEFT JOIN revisions r ON r.integration = i.id AND r.number = i.blueprint_revision ORDER BY ord",
                integration_row,
            )?,
            secrets: all(
                &tx,
                "SELECT integration, field, key_id, sealed FROM secrets",
                |row| {
                    Ok(SecretRow {
                        integration: row.get(0)?,
                        field: row.get(1)?,
                        sealed: Sealed {
                            key_id: row.get(2)?,
                            bytes: row.get(3)?,
                        },
                    })
                },
            )?,
            agents: all(
                &tx,
                "SELECT source, url, filter, key_id, sealed FROM agents",
                |row| {
                    Ok(AgentRow {
                        source: row.get(0)?,
                        url: row.get(1)?,
                        filter: row.get(2)?,
                        sealed: Sealed {
                            key_id: row.get(3)?,
                            bytes: row.get(4)?,
                        },
                    })
                },
            )?,
            alert_endpoints: all(&tx, super::alerts::ROWS, super::alerts::row)?,
            tokens: all(
                &tx,
                "SELECT id, name, role, hash, origin, created_at_ms, expires_at_ms, revoked_at_ms FROM tokens ORDER BY ord",
                |row| {
                    Ok(TokenRow {
                        id: row.get(0)?,
                        name: row.get(1)?,
                        role: row.get(2)?,
                        hash: row.get(3)?,
                        origin: row.get(4)?,
                        created_at_ms: row.get(5)?,
                        expires_at_ms: row.get(6)?,
                        revoked_at_ms: row.get(7)?,
                    })
                },
            )?,
        })
    }

    /// The revisions of an integration's blueprint, newest first, below `before` if given.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn revisions(
        &self,
        integration: &str,
        before: Option<u32>,
        limit: usize,
    ) -> Result<Vec<RevisionRow>, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT number, text, author, note, created_at_ms FROM revisions \
             WHERE integration = ?1 AND number < ?2 ORDER BY number DESC LIMIT ?3",
        )?;
        let rows = query.query_map(
            (
                integration,
                before.map_or(i64::MAX, i64::from),
                i64::try_from(limit).unwrap_or(i64::MAX),
            ),
            revision_row,
        )?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One revision.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn revision(
        &self,
        integration: &str,
        number: u32,
    ) -> Result<Option<RevisionRow>, StoreError> {
        Ok(self
            .db
            .query_row(
                "SELECT number, text, author, note, created_at_ms FROM revisions WHERE integration = ?1 AND number = ?2",
                (integration, number),
                revision_row,
            )
            .optional()?)
    }
}

/// A fact kept across starts, e.g. the proof that the encryption key is the right one.
pub(super) fn fact(tx: &Transaction<'_>, key: &str) -> Result<Option<String>, StoreError> {
    Ok(tx
        .query_row("SELECT value FROM facts WHERE key = ?1", [key], |row| {
            row.get(0)
        })
        .optional()?)
}

/// Keeps a fact across starts.
pub(super) fn set_fact(tx: &Transaction<'_>, key: &str, value: &str) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO facts (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )?;
    Ok(())
}

fn all<T>(
    tx: &Transaction<'_>,
    sql: &str,
    read: fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let mut query = tx.prepare_cached(sql)?;
    let rows = query.query_map([], read)?.collect::<Result<Vec<_>, _>>()?;
    Ok(rows)
}

fn integration_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<IntegrationRow> {
    Ok(IntegrationRow {
        id: row.get(0)?,
        phase: row.get(1)?,
        vendor: row.get(2)?,
        variant: row.get(3)?,
        name: row.get(4)?,
        sources: row.get(5)?,
        config: row.get(6)?,
        tuning: row.get(7)?,
        paused: row.get(8)?,
        blueprint_revision: row.get(9)?,
        version: row.get::<_, i64>(10)?.unsigned_abs(),
        created_at_ms: row.get(11)?,
        changed_at_ms: row.get(12)?,
        text: row.get::<_, Option<String>>(13)?.unwrap_or_default(),
    })
}

fn revision_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<RevisionRow> {
    Ok(RevisionRow {
        number: row.get(0)?,
        text: row.get(1)?,
        author: row.get(2)?,
        note: row.get(3)?,
        created_at_ms: row.get(4)?,
    })
}

/// Makes the tables in one transaction with a rollback journal, so that the file's first page is either empty
/// or wholly ours whenever the process dies.
fn make(db: &mut Connection, now_ms: Millis) -> rusqlite::Result<()> {
    db.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL;")?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        tx.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; {SCHEMA}"
        ))?;
        tx.execute(
            "INSERT INTO format (version, made_at_ms, made_by) VALUES (?1, ?2, ?3)",
            (
                FORMAT,
                now_ms,
                concat!("aqueduct ", env!("CARGO_PKG_VERSION")),
            ),
        )?;
    }
    tx.commit()
}

/// Looks at the first page without opening the file as a database. True: there is nothing there yet, or nothing that
/// was finished.
fn look_at_header(path: &Path) -> Result<bool, StoreOpenError> {
    let no_access = |source| StoreOpenError::NoAccess {
        path: path.to_owned(),
        source,
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(source) => return Err(no_access(source)),
    };
    let mut header = Vec::with_capacity(100);
    file.take(100).read_to_end(&mut header).map_err(no_access)?;
    // The power went while it was being made: SQLite's journal takes the half-written file back to nothing.
    let unfinished = rollback_journal(path).exists();
    if header.is_empty() || (unfinished && header.iter().all(|byte| *byte == 0)) {
        return Ok(true);
    }
    let number = |at: usize| {
        header
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(i32::from_be_bytes)
    };
    if !header.starts_with(b"SQLite format 3\0") || number(68) != Some(APPLICATION_ID) {
        return Err(StoreOpenError::Foreign {
            path: path.to_owned(),
        });
    }
    match number(60) {
        Some(found) if i64::from(found) > FORMAT => Err(StoreOpenError::Future {
            path: path.to_owned(),
            found: i64::from(found),
        }),
        _ => Ok(unfinished),
    }
}

/// SQLite's journal of a transaction that is not finished, beside the database.
fn rollback_journal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-journal");
    name.into()
}

fn open_fault(path: &Path, error: &rusqlite::Error) -> StoreOpenError {
    use rusqlite::ErrorCode;
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            StoreOpenError::NoAccess {
                path,
                source: std::io::Error::other(error.to_string()),
            }
        }
        Some(ErrorCode::NotADatabase) => StoreOpenError::Foreign { path },
        _ => StoreOpenError::Damaged {
            path,
            detail: error.to_string(),
        },
    }
}

fn data_version(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("PRAGMA data_version", [], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::{DATABASE_FILE, Store, StoreOpenError};

    fn refused(bytes: &[u8]) -> StoreOpenError {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(DATABASE_FILE);
        std::fs::write(&path, bytes).unwrap();
        let error = Store::open(dir.path(), 0).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the file was changed");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "files were left beside it"
        );
        assert!(error.to_string().contains(DATABASE_FILE));
        error
    }

    #[test]
    fn files_that_are_not_ours_are_left_alone() {
        assert!(matches!(refused(b"hello"), StoreOpenError::Foreign { .. }));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE t (x)")
            .unwrap();
        assert!(matches!(
            refused(&std::fs::read(&path).unwrap()),
            StoreOpenError::Foreign { .. }
        ));
    }

    #[test]
    fn a_later_format_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path(), 0).unwrap());
        let mut bytes = std::fs::read(dir.path().join(DATABASE_FILE)).unwrap();
        bytes[60..64].copy_from_slice(&2_i32.to_be_bytes());
        assert!(matches!(
            refused(&bytes),
            StoreOpenError::Future { found: 2, .. }
        ));
    }

    #[test]
    fn a_change_by_another_process_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut one = Store::open(dir.path(), 0).unwrap();
        let mut two = Store::open(dir.path(), 0).unwrap();
        assert!(!one.changed_elsewhere().unwrap());
        two.change(|tx| super::set_fact(tx, "k", "v")).unwrap();
        assert!(one.changed_elsewhere().unwrap());
        assert!(!one.changed_elsewhere().unwrap());
    }
}
