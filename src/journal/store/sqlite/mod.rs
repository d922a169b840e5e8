//! The journal in one SQLite file: `journal.db` in the data directory (WAL, synchronous=FULL).
//!
//! Checkpoints are made by hand: SQLite's automatic ones swallow errors, and a failed sync of the main
//! file must stop us like any other. For the same reason closing does not checkpoint by itself.
//! The newest block is never trimmed: it carries the running totals.

mod labels;
mod letters;
mod open;
mod read;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::ErrorCode;
use rusqlite::ffi;

use super::{OpenError, StoreError};
use crate::journal::Seq;

pub use read::SqliteReader;

/// The file in the data directory.
pub const FILE: &str = "journal.db";
/// Newest format this version reads and writes.
pub const FORMAT: u32 = 5;

/// A journal in SQLite.
#[derive(Debug)]
pub struct SqliteStore {
    dir: PathBuf,
    path: PathBuf,
    connection: Connection,
    /// Bytes written to the write-ahead log since the last full checkpoint, about.
    wal_bytes: u64,
    /// The mark looked at last: feed and key.
    forgotten: Option<(String, Vec<u8>)>,
    /// Held as long as the store is open.
    _lock: File,
}

impl SqliteStore {
    /// Opens the journal of a data directory, creating both when missing, and locks the directory.
    /// `new_key` becomes the fingerprints' key of a store made now (see [`super::random_key`]).
    ///
    /// # Errors
    /// Locked, not ours, of a later version, or refused by the system: each names the path and the way out.
    pub fn open(dir: &Path, new_key: [u8; 16]) -> Result<Self, OpenError> {
        open::open(dir, new_key)
    }
}

/// SQLite's integers are signed; ours stay below 2^63.
fn sql(n: u64) -> i64 {
    n.cast_signed()
}

fn seq(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Seq> {
    Ok(row.get::<_, i64>(at)?.cast_unsigned())
}

/// Sorts SQLite's errors: no room (the transaction rolls back, nothing is lost), or the rest.
fn sort(error: &rusqlite::Error) -> StoreError {
    let text: Arc<str> = error.to_string().into();
    let Some(code) = error.sqlite_error() else {
        return StoreError::Failed(text);
    };
    // Growing the shared index fails before anything is written.
    let no_room = code.code == ErrorCode::DiskFull
        || code.extended_code == ffi::SQLITE_IOERR_SHMSIZE
        || (code.extended_code == ffi::SQLITE_IOERR_WRITE && file_size_limited());
    if no_room {
        StoreError::Full(text)
    } else {
        StoreError::Failed(text)
    }
}

/// SQLite reports a write beyond the process's file size limit as a plain write error.
fn file_size_limited() -> bool {
    rustix::process::getrlimit(rustix::process::Resource::Fsize)
        .current
        .is_some()
}
