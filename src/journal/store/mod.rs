//! What an engine must do to hold a journal. Blocks are opaque bytes, equal on every engine.
//!
//! A [`Store`] writes and is used by one thread, the committer; [`Reader`]s read beside it. Both are plain
//! synchronous code. The suite in `conformance` says what is expected of every engine.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::feed::FeedState;
use super::labels::{LabelChange, Labels};
use super::{DeadFilter, DeadLetter, Mark, Parked, Seq};
use crate::clock::Millis;

#[cfg(test)]
mod conformance;
pub mod sqlite;

/// Why the engine did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No room. The transaction is rolled back; it may be tried again when there is room.
    #[error("out of space: {0}")]
    Full(Arc<str>),
    /// Anything else. After a failed [`Store::commit`] nothing may be written any more.
    #[error("{0}")]
    Failed(Arc<str>),
}

/// Why a store was not opened. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error(
        "data directory {} is in use by another aqueduct process (it holds the file `lock` in there); stop that one, or use another directory",
        .0.display()
    )]
    Locked(PathBuf),
    /// Not a file of ours.
    #[error("{path} is not an aqueduct journal ({detail}); move it away, or use another data directory", path = path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Written by a later version.
    #[error("{path} has format {found}, this aqueduct reads up to {known}; run the version that wrote it, or use another data directory", path = path.display())]
    Future {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest one known here.
        known: u32,
    },
    /// The operating system refused.
    #[error("{path}: {source}; check that the directory exists and belongs to the user aqueduct runs as", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The engine could not open or read it.
    #[error("{path}: {detail}", path = path.display())]
    Engine {
        /// The file.
        path: PathBuf,
        /// What it said.
        detail: String,
    },
}

/// A sealed block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Number of the first record.
    pub first: Seq,
    /// Records in it.
    pub n: u64,
    /// When it is committed.
    pub at_ms: Millis,
    /// Bytes of all blocks ever stored before this one.
    pub bytes_before: u64,
    /// The journal's count of duplicates once it is stored.
    pub duplicates: u64,
    /// The bytes; empty when the engine could not read them.
    pub body: Vec<u8>,
}

/// Fingerprints of consecutive records, kept longer than their blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// The first one's record.
    pub first: Seq,
    /// When the last one came.
    pub at_ms: Millis,
    /// One per record.
    pub ids: Vec<u64>,
}

/// One step on the side of the blocks.
#[derive(Debug, Clone)]
pub enum Aside {
    /// A record is set apart.
    Park(Parked),
    /// A parked record gets a new time, and all parts that have ended; payload and history stay.
    Repark(Parked),
    /// A parked record is settled.
    Unpark {
        /// The feed.
        feed: String,
        /// The record.
        seq: Seq,
    },
    /// Something is remembered, unless a newer mark is there (later `at_ms`, then higher `seq`).
    Mark {
        /// The feed.
        feed: String,
        /// What.
        mark: Mark,
    },
    /// All parts that have ended of a parked record (or of one that a cancelled replay put back among the dead letters).
    Ended {
        /// The feed.
        feed: String,
        /// The record.
        seq: Seq,
        /// As in [`Parked::parts_done`].
        parts: u64,
    },
    /// Parts that have ended of a feed's open records, all of them: replaces what was kept.
    Parts {
        /// The feed.
        feed: String,
        /// In order of the records.
        parts: Vec<(Seq, u64)>,
    },
    /// What a feed's reader keeps for itself: replaces what was kept.
    Note {
        /// The feed.
        feed: String,
        /// Whatever it is.
        note: Bytes,
    },
    /// A delivery is given up.
    Bury(DeadLetter),
    /// A dead letter turned out to be on its way still.
    Unbury {
        /// The feed.
        feed: String,
        /// The record.
        seq: Seq,
    },
}

/// What is written at once, in one transaction with one sync.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// New blocks, in order, following what is there.
    pub blocks: Vec<Block>,
    /// Fingerprints; replaces the row with the same `first`.
    pub seen: Vec<Seen>,
    /// The journal's count of duplicates, when it changed.
    pub duplicates: Option<u64>,
    /// Steps, to be done in order.
    pub aside: Vec<Aside>,
    /// Feeds as they are now, tallies included (created when new); but their parts and notes go by `aside`.
    pub feeds: Vec<FeedState>,
    /// Counts by label.
    pub labels: LabelChange,
}

impl Change {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
            && self.duplicates.is_none()
            && self.aside.is_empty()
            && self.feeds.is_empty()
            && self.labels.is_empty()
    }
}

/// What a store holds when it is opened.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Key of the fingerprints, made with the store.
    pub key: [u8; 16],
    /// First record not trimmed.
    pub first: Seq,
    /// Number the next record gets.
    pub next: Seq,
    /// Duplicates ever.
    pub duplicates: u64,
    /// Bytes of all blocks ever stored.
    pub bytes: u64,
    /// Blocks set aside as damaged.
    pub damaged: u64,
    /// Every feed.
    pub feeds: Vec<FeedState>,
    /// Counts by label.
    pub labels: Labels,
}

/// Dead letters that became parked records, or the other way.
#[derive(Debug, Default)]
pub struct Moved {
    /// How many of each feed and reason.
    pub reasons: BTreeMap<(String, String), u64>,
    /// What that changed of the tallies by label.
    pub labels: LabelChange,
    /// The highest id among them.
    pub last_id: i64,
}

/// Tells the label a record (its number, its bytes) was counted under.
pub type LabelOf<'a> = &'a dyn Fn(Seq, &[u8]) -> Option<String>;

/// Where a feed has put a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// It is parked.
    Parked,
    /// A cancelled replay put it back among the dead letters.
    Cancelled {
        /// The dead letter's reason.
        reason: String,
        /// Its record.
        record: Vec<u8>,
    },
    /// Neither.
    Nowhere,
}

/// Which blocks may go.
#[derive(Debug, Clone, Copy)]
pub struct TrimRule {
    /// Only blocks that end at or below this record.
    pub below: Seq,
    /// Of those: the ones committed before this time …
    pub before_ms: Millis,
    /// … and the oldest ones beyond this many bytes.
    pub bytes_max: u64,
    /// Fingerprints of records below this one.
    pub seen_below: Seq,
    /// Blocks to remove in this step.
    pub step_blocks: usize,
    /// Bytes to remove in this step, about.
    pub step_bytes: u64,
}

/// Dead letters one step of a replay looks for.
#[derive(Debug, Clone, Copy)]
pub struct Those<'a> {
    /// What they have in common.
    pub filter: &'a DeadFilter,
    /// Only these.
    pub ids: (i64, i64),
    /// So many at most.
    pub limit: usize,
}

/// The writing side.
pub trait Store: Send {
    /// What is there.
    ///
    /// # Errors
    /// The engine could not read it.
    fn load(&mut self) -> Result<Loaded, StoreError>;
    /// Every row of fingerprints, oldest first.
    ///
    /// # Errors
    /// The engine could not read them.
    fn seen(&mut self, visit: &mut dyn FnMut(Seen)) -> Result<(), StoreError>;
    /// Writes everything in one transaction and returns once it is on stable storage.
    ///
    /// # Errors
    /// [`StoreError::Full`]: nothing was written. [`StoreError::Failed`]: unknown.
    fn commit(&mut self, change: &Change) -> Result<(), StoreError>;
    /// Where a feed has put a record.
    ///
    /// # Errors
    /// The engine could not read it.
    fn whereabouts(&mut self, feed: &str, seq: Seq) -> Result<Whereabouts, StoreError>;
    /// Removes a feed and everything kept for it.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn remove_feed(&mut self, feed: &str) -> Result<(), StoreError>;
    /// Makes parked records of this reason due at `now_ms`, if they are due later. Returns how many.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn wake(&mut self, feed: &str, reason: &str, now_ms: Millis) -> Result<u64, StoreError>;
    /// Parks those of these dead letters that have a record, lowest id first, the `i`-th due at `due_ms(i)`; takes them out of the tallies. Returns how many by feed and reason.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn replay(
        &mut self,
        replay: &str,
        those: Those<'_>,
        now_ms: Millis,
        due_ms: &dyn Fn(u64) -> Millis,
        label: LabelOf<'_>,
    ) -> Result<Moved, StoreError>;
    /// Puts up to `limit` records of a replay back among the dead letters and into the tallies. Returns how
    /// many by feed and reason.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn cancel(
        &mut self,
        replay: &str,
        limit: usize,
        label: LabelOf<'_>,
    ) -> Result<Moved, StoreError>;
    /// Keeps the bytes of a damaged block apart. False if that was done before.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn set_aside(&mut self, block: &Block, now_ms: Millis) -> Result<bool, StoreError>;
    /// Removes what the rule allows, a step at a time; never the newest block. Returns the blocks removed.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn trim(&mut self, rule: &TrimRule) -> Result<u64, StoreError>;
    /// Looks at up to `step` marks, going on where the last call stopped, and removes those whose time is over
    /// at `now_ms`. True when it came to the end; the next call begins anew.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn forget(&mut self, now_ms: Millis, step: usize) -> Result<bool, StoreError>;
    /// Housekeeping between commits. `idle`: there is time for more than what must be.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn tidy(&mut self, idle: bool) -> Result<(), StoreError>;
    /// Tries to grow a little and shrink again, to see whether there is room.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn probe(&mut self) -> Result<(), StoreError>;
    /// Bytes used on disk.
    fn size(&self) -> u64;
    /// Bytes free where the store lies, if the engine can tell.
    fn free_bytes(&self) -> Option<u64>;
    /// Another reader.
    ///
    /// # Errors
    /// The engine refused.
    fn reader(&self) -> Result<Box<dyn Reader>, StoreError>;
    /// Closes the store. `clean`: everything succeeded so far, so it may be tidied up; otherwise nothing
    /// is written any more.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn close(self: Box<Self>, clean: bool) -> Result<(), StoreError>;
}

/// The reading side. Sees what is committed, and nothing else.
pub trait Reader: Send {
    /// Blocks from the one holding `from` (or the next one there is) on, until `bytes_max` of bodies is
    /// reached; at least one if there is any.
    ///
    /// # Errors
    /// The engine could not read. A block it cannot read is returned with an empty body instead.
    fn blocks(&mut self, from: Seq, bytes_max: usize) -> Result<Vec<Block>, StoreError>;
    /// The block holding a record, body left out.
    ///
    /// # Errors
    /// The engine could not read.
    fn block_at(&mut self, seq: Seq) -> Result<Option<Block>, StoreError>;
    /// Where the next block after `first` begins.
    ///
    /// # Errors
    /// The engine could not read.
    fn first_after(&mut self, first: Seq) -> Result<Option<Seq>, StoreError>;
    /// The last block committed before a time, body left out.
    ///
    /// # Errors
    /// The engine could not read.
    fn block_before(&mut self, at_ms: Millis) -> Result<Option<Block>, StoreError>;
    /// How many records have which label in the blocks that begin in `from..to`.
    ///
    /// # Errors
    /// The engine could not read.
    fn labels_between(&mut self, from: Seq, to: Seq) -> Result<BTreeMap<String, u64>, StoreError>;
    /// Parked records of a feed due by `due_ms`, earliest first.
    ///
    /// # Errors
    /// The engine could not read.
    fn parked(
        &mut self,
        feed: &str,
        due_ms: Millis,
        limit: usize,
    ) -> Result<Vec<Parked>, StoreError>;
    /// The parked record of this number, if it is parked.
    ///
    /// # Errors
    /// The engine could not read.
    fn parked_at(&mut self, feed: &str, seq: Seq) -> Result<Option<Parked>, StoreError>;
    /// The marks of a feed under these keys, as far as there are any.
    ///
    /// # Errors
    /// The engine could not read.
    fn marks(&mut self, feed: &str, keys: &[u128]) -> Result<Vec<Mark>, StoreError>;
    /// When the oldest of the parked records was committed.
    ///
    /// # Errors
    /// The engine could not read.
    fn oldest_parked_ms(&mut self, feed: &str) -> Result<Option<Millis>, StoreError>;
    /// Records of a replay still parked.
    ///
    /// # Errors
    /// The engine could not read.
    fn replay_waiting(&mut self, replay: &str) -> Result<u64, StoreError>;
    /// Dead letters after an id, lowest first.
    ///
    /// # Errors
    /// The engine could not read.
    fn dead_letters(
        &mut self,
        filter: &DeadFilter,
        after_id: Option<i64>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError>;
    /// How many there are, and the lowest and the highest id.
    ///
    /// # Errors
    /// The engine could not read.
    fn dead_count(&mut self, filter: &DeadFilter) -> Result<(u64, (i64, i64)), StoreError>;
    /// Numbers of the records with one of these fingerprints: all that are remembered are looked at, once.
    ///
    /// # Errors
    /// The engine could not read.
    fn find(&mut self, fingerprints: &[u64]) -> Result<Vec<Seq>, StoreError>;
    /// Ranges of records whose blocks were set aside.
    ///
    /// # Errors
    /// The engine could not read.
    fn damaged(&mut self) -> Result<Vec<Range<Seq>>, StoreError>;
}

/// A key for a new store's fingerprints, from the operating system's generator.
#[must_use]
pub fn random_key() -> [u8; 16] {
    rand::random()
}
