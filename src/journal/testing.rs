//! A journal in a directory, for tests of whoever uses one.

use std::path::Path;

use super::store::sqlite::SqliteStore;
use super::{Journal, Options};
use crate::clock::SharedClock;

/// Opens the journal of a directory; one that is there already is read back.
pub(crate) fn open(dir: &Path, options: Options, clock: SharedClock) -> Journal {
    let store = SqliteStore::open(dir, [7; 16]).unwrap();
    Journal::open(Box::new(store), options, clock).unwrap()
}
