//! Who has which variation of which flag: a durable view of the decision stream.
//!
//! One row per user and flag, of the newest decision (by its time, then by its number in the journal), in
//! `assignments.db`. The view follows the journal behind a feed of the gateway's own: rows and the position they
//! were read up to are written in one transaction, and only then is the feed moved, so that nothing is missed and
//! nothing counted twice, whatever was interrupted where. What is not renewed within the time to keep is forgotten.
//!
//! Knows the canonical form of decisions; knows no datafile, no vendor and no HTTP.

mod follow;
mod read;
mod store;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::{Millis, SharedClock};
use crate::journal::Seq;

pub use follow::{FEED, Follower};

/// One decision, as far as the view keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The user.
    pub user: String,
    /// The flag's key.
    pub flag: String,
    /// The flag is on for the user.
    pub enabled: bool,
    /// The variation's key.
    pub variation: Option<String>,
    /// The rule's key.
    pub rule: Option<String>,
    /// What kind of rule it was: `experiment`, `rollout`, …
    pub rule_kind: Option<String>,
    /// The experiment's id.
    pub experiment: Option<String>,
    /// The datafile's revision.
    pub revision: Option<String>,
    /// The source that reported it.
    pub source: String,
    /// When it was decided.
    pub decided_ms: Millis,
    /// Its number in the journal.
    pub seq: Seq,
}

/// Which assignments.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this user.
    pub user: Option<String>,
    /// Of this flag.
    pub flag: Option<String>,
}

/// A place in a list: behind this row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The row's flag, as the file numbers it.
    pub(crate) flag: i64,
    /// The row's user.
    pub(crate) user: String,
}

impl std::str::FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (flag, user) = text.split_once('.').ok_or(())?;
        Ok(Self {
            flag: flag.parse().map_err(|_| ())?,
            user: user.to_owned(),
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.flag, self.user)
    }
}

/// Why the view could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum AssignmentsError {
    /// The file could not be opened.
    #[error("{path}: {detail}; check that the directory belongs to the user aqueduct runs as")]
    Open {
        /// The file.
        path: String,
        /// What the system said.
        detail: String,
    },
    /// A later version wrote it.
    #[error(
        "{path} has format {found}, this aqueduct reads up to {known}; run the version that wrote it, or move the file away: it is made anew from what the journal still has"
    )]
    Future {
        /// The file.
        path: String,
        /// Its format.
        found: i64,
        /// The newest one known here.
        known: i64,
    },
    /// The file could not be read or written.
    #[error("assignments: {0}")]
    Store(String),
}

/// The view. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Assignments {
    shared: Arc<Shared>,
}

struct Shared {
    /// One writer; readers beside it.
    writer: Mutex<store::Writer>,
    reader: Mutex<store::Reader>,
    clock: SharedClock,
}

impl std::fmt::Debug for Assignments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assignments").finish_non_exhaustive()
    }
}

impl Assignments {
    /// Opens the view, making it when there is none. What is not renewed within `keep_ms` is forgotten. A damaged
    /// file is set aside and a new one begun from what the journal still has.
    ///
    /// # Errors
    /// The system refused, or a later version wrote the file.
    pub fn open(
        path: &Path,
        keep_ms: Millis,
        clock: SharedClock,
    ) -> Result<Self, AssignmentsError> {
        let writer = store::Writer::open(path, keep_ms)?;
        let reader = store::Reader::open(path)?;
        Ok(Self {
            shared: Arc::new(Shared {
                writer: Mutex::new(writer),
                reader: Mutex::new(reader),
                clock,
            }),
        })
    }

    /// Rows after a place, ordered by user (of one flag) or else by user and flag, each with its own place.
    ///
    /// # Errors
    /// The file could not be read.
    pub async fn list(
        &self,
        filter: Filter,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Vec<(Place, Assignment)>, AssignmentsError> {
        self.read(move |reader| reader.list(&filter, after.as_ref(), limit))
            .await
    }

    /// Takes in decisions and the position they were read up to, in one transaction.
    pub(crate) fn apply(
        &self,
        upto: Seq,
        decisions: &[Assignment],
    ) -> Result<(), AssignmentsError> {
        let now_ms = self.shared.clock.now_ms();
        self.shared.writer.lock().apply(upto, decisions, now_ms)
    }

    /// Forgets a step of what is too old. True at the end of the table.
    pub(crate) fn forget(&self) -> Result<bool, AssignmentsError> {
        let now_ms = self.shared.clock.now_ms();
        self.shared.writer.lock().forget(now_ms)
    }

    /// Up to where the journal has been read.
    pub(crate) fn position(&self) -> Result<Option<Seq>, AssignmentsError> {
        self.shared.writer.lock().position()
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&store::Reader) -> Result<T, AssignmentsError> + Send + 'static,
    ) -> Result<T, AssignmentsError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared.reader.lock()))
            .await
            .map_err(|error| AssignmentsError::Store(error.to_string()))?
    }
}
