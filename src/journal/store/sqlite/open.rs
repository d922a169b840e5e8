//! Opening: who may, what the file is, and making a new one so that a crash leaves all of it or nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{FILE, FORMAT, SqliteStore};
use crate::journal::store::OpenError;

/// "aqjl" in SQLite's application id. Persisted: must be kept stable.
const APPLICATION_ID: u32 = 0x6171_6a6c;

/// Format 1.
const SCHEMA: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE block(
    first INTEGER PRIMARY KEY, n INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    bytes_before INTEGER NOT NULL, duplicates INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE seen(first INTEGER PRIMARY KEY, n INTEGER NOT NULL, at_ms INTEGER NOT NULL, ids BLOB NOT NULL);
CREATE TABLE feed(
    id TEXT PRIMARY KEY, start INTEGER NOT NULL, pos INTEGER NOT NULL, above BLOB NOT NULL,
    duplicates_at_start INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tally(
    feed TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY(feed, outcome, reason)) WITHOUT ROWID;
CREATE TABLE parked(
    feed TEXT NOT NULL, seq INTEGER NOT NULL, due_ms INTEGER NOT NULL, since_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL, reason TEXT NOT NULL, replay TEXT, accepted_ms INTEGER,
    dead_at_ms INTEGER, dead_reason TEXT, dead_detail TEXT, dead_attempts INTEGER, dead_status INTEGER,
    dead_answer TEXT, record BLOB NOT NULL);
CREATE UNIQUE INDEX parked_seq ON parked(feed, seq);
CREATE INDEX parked_due ON parked(feed, due_ms, seq);
CREATE INDEX parked_replay ON parked(replay) WHERE replay IS NOT NULL;
CREATE TABLE dead_letter(
    id INTEGER PRIMARY KEY AUTOINCREMENT, feed TEXT NOT NULL, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, attempts INTEGER NOT NULL, status INTEGER,
    answer TEXT NOT NULL, accepted_ms INTEGER, cancelled INTEGER NOT NULL DEFAULT 0, record BLOB);
CREATE UNIQUE INDEX dead_letter_seq ON dead_letter(feed, seq);
CREATE TABLE damaged(first INTEGER PRIMARY KEY, n INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    found_ms INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE probe(filler BLOB);
";

/// What makes format 2 of format 1, and so on: a new store is made by the same steps as an old one is brought up
/// to date. Stores of these formats are out there: must be kept as they are.
const STEPS: &[&str] = &[
    "
ALTER TABLE parked ADD COLUMN parts_done INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letter ADD COLUMN parts_done INTEGER NOT NULL DEFAULT 0;
CREATE TABLE mark(
    feed TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, at_ms INTEGER NOT NULL, seq INTEGER NOT NULL,
    until_ms INTEGER NOT NULL, PRIMARY KEY(feed, key)) WITHOUT ROWID;
",
    "
ALTER TABLE mark ADD COLUMN again_ms INTEGER;
ALTER TABLE mark ADD COLUMN again_seq INTEGER;
CREATE TABLE side(feed TEXT PRIMARY KEY, parts BLOB NOT NULL DEFAULT x'', note BLOB NOT NULL DEFAULT x'') WITHOUT ROWID;
",
    "
CREATE TABLE label(name TEXT PRIMARY KEY, records INTEGER NOT NULL, repeats INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE label_block(
    first INTEGER NOT NULL, label TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY(first, label)) WITHOUT ROWID;
CREATE TABLE label_start(
    feed TEXT NOT NULL, label TEXT NOT NULL, records INTEGER NOT NULL, repeats INTEGER NOT NULL,
    PRIMARY KEY(feed, label)) WITHOUT ROWID;
CREATE TABLE label_tally(
    feed TEXT NOT NULL, label TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY(feed, label, outcome, reason)) WITHOUT ROWID;
",
    "
CREATE INDEX dead_letter_cause ON dead_letter(feed, reason, id, at_ms);
INSERT INTO meta(key, value) SELECT 'labels_from', CASE WHEN EXISTS (SELECT 1 FROM label) THEN 0
    ELSE coalesce((SELECT first + n FROM block ORDER BY first DESC LIMIT 1), 0) END;
",
];

pub(super) fn open(dir: &Path, new_key: [u8; 16]) -> Result<SqliteStore, OpenError> {
    make_directory(dir)?;
    let path = dir.join(FILE);
    let existing = check_file(&path)?;
    let lock = lock(dir)?;
    // Looked at again under the lock: another process may just have made it.
    if !existing && !check_file(&path)? {
        create(dir, &path, new_key, FORMAT)?;
    }
    let connection = connect(&path)?;
    upgrade(&connection).map_err(|error| engine(&path, &error))?;
    Ok(SqliteStore {
        dir: dir.to_owned(),
        path,
        connection,
        wal_bytes: u64::MAX / 2, // unknown: the first tidy looks
        forgotten: None,
        _lock: lock,
    })
}

/// A connection that reads only; works beside a running gateway and changes nothing.
pub(super) fn connect_read_only(path: &Path) -> Result<Connection, OpenError> {
    let fail = |error: rusqlite::Error| engine(path, &error);
    let wal = path.with_extension("db-wal");
    let at_rest = std::fs::metadata(&wal).map_or(true, |meta| meta.len() == 0);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = if at_rest {
        // Nothing is in the write-ahead log: SQLite need not make its side files.
        let name = path.to_string_lossy();
        let escaped = name
            .replace('%', "%25")
            .replace('?', "%3f")
            .replace('#', "%23");
        Connection::open_with_flags(
            format!("file:{escaped}?immutable=1"),
            flags | OpenFlags::SQLITE_OPEN_URI,
        )
    } else {
        Connection::open_with_flags(path, flags)
    }
    .map_err(fail)?;
    prepare_reader(&connection).map_err(fail)?;
    Ok(connection)
}

/// Whether there is a journal. Reads the first bytes only, with no help of SQLite, which might write.
pub(super) fn check_file(path: &Path) -> Result<bool, OpenError> {
    let not_ours = |detail: &str| OpenError::NotOurs {
        path: path.to_owned(),
        detail: detail.to_owned(),
    };
    let mut head = [0u8; 100];
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(io(path, source)),
    };
    match file.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(not_ours("it is shorter than any database"));
        }
        Err(source) => return Err(io(path, source)),
    }
    if &head[..16] != b"SQLite format 3\0" {
        return Err(not_ours("it is no SQLite database"));
    }
    let number =
        |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if number(68) != APPLICATION_ID {
        return Err(not_ours("it is a database of another program"));
    }
    match number(60) {
        0 => Err(not_ours("it names no format version")),
        found if found > FORMAT => Err(OpenError::Future {
            path: path.to_owned(),
            found,
            known: FORMAT,
        }),
        _ => Ok(true),
    }
}

/// A second connection of this process, for reading.
pub(super) fn connect_beside(path: &Path) -> Result<Connection, OpenError> {
    let fail = |error: rusqlite::Error| engine(path, &error);
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(fail)?;
    prepare_reader(&connection).map_err(fail)?;
    Ok(connection)
}

fn prepare_reader(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "cache_size", -2048)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn make_directory(dir: &Path) -> Result<(), OpenError> {
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(dir).map_err(|source| io(dir, source))?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
        _ => sync(Path::new(".")),
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| io(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(&path, source)),
    }
}

/// Makes the file under another name, complete and synced, then gives it its own: after a crash there is
/// a whole journal or none.
fn create(dir: &Path, path: &Path, key: [u8; 16], format: u32) -> Result<(), OpenError> {
    let draft = dir.join("journal.db.new");
    for stale in [
        draft.clone(),
        with_suffix(&draft, "-journal"),
        with_suffix(&draft, "-wal"),
        with_suffix(&draft, "-shm"),
    ] {
        match std::fs::remove_file(&stale) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(&stale, error)),
            _ => {}
        }
    }
    let fail = |error: rusqlite::Error| engine(&draft, &error);
    let connection = Connection::open(&draft).map_err(fail)?;
    let steps = steps(1, format);
    connection
        .execute_batch(&format!(
            "PRAGMA page_size=16384; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=MEMORY;
             BEGIN; {SCHEMA} {steps} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={format}; COMMIT;"
        ))
        .map_err(fail)?;
    connection
        .execute(
            "INSERT INTO meta(key, value) VALUES ('format', ?1), ('dedup_key', ?2), ('duplicates', 0)",
            rusqlite::params![format, key],
        )
        .map_err(fail)?;
    connection
        .query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))
        .map_err(fail)?;
    connection.close().map_err(|(_, error)| fail(error))?;
    sync(&draft)?;
    std::fs::rename(&draft, path).map_err(|source| io(path, source))?;
    sync(dir)
}

/// The statements that lead from one format to another.
fn steps(from: u32, to: u32) -> String {
    STEPS
        .iter()
        .skip(from.saturating_sub(1) as usize)
        .take(to.saturating_sub(from) as usize)
        .copied()
        .collect()
}

/// Brings an older store up to date, all of it or nothing.
fn upgrade(connection: &Connection) -> rusqlite::Result<()> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found >= FORMAT {
        return Ok(());
    }
    let steps = steps(found, FORMAT);
    let done = connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {steps} UPDATE meta SET value = {FORMAT} WHERE key = 'format';
         PRAGMA user_version={FORMAT}; COMMIT;"
    ));
    if done.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    done?;
    // The number stands in the file's head too, where an older version looks for it.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    tracing::info!(
        from = found,
        to = FORMAT,
        "the journal was brought up to date"
    );
    Ok(())
}

fn connect(path: &Path) -> Result<Connection, OpenError> {
    let fail = |error: rusqlite::Error| engine(path, &error);
    // Write access is asked for before SQLite is: it would open read-only and fail much later.
    OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|source| io(path, source))?;
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(fail)?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(fail)?;
    connection
        .busy_timeout(std::time::Duration::from_secs(5))
        .map_err(fail)?;
    connection
        .execute_batch(
            "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-4096; PRAGMA temp_store=MEMORY;",
        )
        .map_err(fail)?;
    let mode: String = connection
        .query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))
        .map_err(fail)?;
    if mode != "wal" {
        return Err(OpenError::Engine {
            path: path.to_owned(),
            detail: format!(
                "the file system does not allow a write-ahead log (journal mode is {mode}); use a local disk"
            ),
        });
    }
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn sync(path: &Path) -> Result<(), OpenError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| io(path, source))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn io(path: &Path, source: std::io::Error) -> OpenError {
    OpenError::Io {
        path: path.to_owned(),
        source,
    }
}

fn engine(path: &Path, error: &rusqlite::Error) -> OpenError {
    OpenError::Engine {
        path: path.to_owned(),
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::store::Store as _;

    /// A store of an older format with a dead letter, a parked record and a feed, as that version wrote them; and a
    /// mark, where it knew them.
    fn old_store(dir: &Path, format: u32) -> PathBuf {
        let path = dir.join(FILE);
        create(dir, &path, [3; 16], format).unwrap();
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "INSERT INTO feed(id, start, pos, above, duplicates_at_start) VALUES ('f', 0, 2, x'', 0);
                 INSERT INTO tally(feed, outcome, reason, n) VALUES ('f', 'dead', 'rejected', 1);
                 INSERT INTO parked(feed, seq, due_ms, since_ms, attempts, reason, record)
                     VALUES ('f', 0, 5, 5, 1, 'hold', x'41');
                 INSERT INTO dead_letter(feed, seq, at_ms, reason, detail, attempts, answer, record)
                     VALUES ('f', 1, 5, 'rejected', 'why', 1, '', x'42');",
            )
            .unwrap();
        if format > 1 {
            connection
                .execute(
                    "INSERT INTO mark(feed, key, value, at_ms, seq, until_ms) VALUES ('f', ?1, ?1, 8, 9, 10)",
                    [7_u128.to_be_bytes()],
                )
                .unwrap();
        }
        path
    }

    #[test]
    fn a_store_of_an_older_format_is_brought_up_to_date() {
        for format in 1..FORMAT {
            brought_up_to_date(format);
        }
    }

    fn brought_up_to_date(format: u32) {
        let dir = tempfile::tempdir().unwrap();
        let path = old_store(dir.path(), format);
        let marks = u64::from(format > 1);
        let shape = crate::journal::inspect::shape(dir.path()).unwrap();
        assert_eq!(
            (shape.marks, shape.dead_letters),
            (marks, 1),
            "read as it is"
        );
        for _ in 0..2 {
            let mut store = open(dir.path(), [0; 16]).unwrap();
            let loaded = store.load().unwrap();
            assert_eq!((loaded.key, loaded.feeds.len()), ([3; 16], 1));
            let mut reader = store.reader().unwrap();
            assert_eq!(reader.parked("f", 5, 9).unwrap()[0].parts_done, 0);
            let letters = reader
                .dead_letters(&crate::journal::DeadFilter::default(), None, 9)
                .unwrap();
            assert_eq!((letters[0].seq, letters[0].parts_done), (1, 0));
            assert!(reader.marks("f", &[1]).unwrap().is_empty());
            let known = reader.marks("f", &[7]).unwrap();
            assert_eq!(
                known.first().map(|mark| mark.again),
                (marks > 0).then_some((8, 9))
            );
            // An older version looks at the head of the file only.
            let head = std::fs::read(&path).unwrap();
            assert_eq!(head[60..64], FORMAT.to_be_bytes());
            drop(reader);
            Box::new(store).close(true).unwrap();
        }
        let fresh = tempfile::tempdir().unwrap();
        open(fresh.path(), [0; 16]).unwrap();
        let schema = |dir: &Path| -> Vec<Option<String>> {
            let connection = Connection::open(dir.join(FILE)).unwrap();
            let mut statement = connection
                .prepare("SELECT sql FROM sqlite_schema ORDER BY name")
                .unwrap();
            let rows = statement.query_map([], |row| row.get(0)).unwrap();
            rows.collect::<Result<_, _>>().unwrap()
        };
        assert_eq!(schema(dir.path()), schema(fresh.path()));
    }
}
