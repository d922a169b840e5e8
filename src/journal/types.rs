//! The journal's vocabulary: what goes in, what comes out, and why something was refused.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::labels::{self, LabelTally, Labeller};
use crate::clock::Millis;

/// Number of a record: gapless, counted from 0, never reused.
pub type Seq = u64;

/// One record to append.
#[derive(Debug, Clone)]
pub struct Record {
    /// Identity for de-duplication (keyed hash of source and message id, see [`Journal::fingerprint`]).
    pub fingerprint: u64,
    /// What is stored.
    pub bytes: Bytes,
}

/// What became of an [`Journal::append`]: everything is on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Records stored.
    pub stored: u64,
    /// Records whose fingerprint was seen within the de-duplication window: not stored again.
    pub duplicates: u64,
}

/// Why an append was not done. Nothing of it is stored unless said otherwise.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// More is waiting than the committer takes; try again in a moment.
    #[error("the journal is busy")]
    Busy,
    /// The disk is nearly full, or the store refused to grow.
    #[error("the journal is out of space")]
    Full,
    /// A commit failed; it is unknown whether its records are durable, and none will be accepted again.
    #[error("the journal stopped after a failed commit: {0}")]
    Failed(Arc<str>),
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

/// One stored record.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number.
    pub seq: Seq,
    /// When its block was committed.
    pub at_ms: Millis,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A run of records read from a position on.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    /// The records, in order.
    pub entries: Vec<Entry>,
    /// Where to read on.
    pub next: Seq,
    /// Records that could not be read because their block is damaged (set aside, counted).
    pub damaged: Vec<Range<Seq>>,
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The vendor took it.
    Delivered,
    /// The integration wants nothing of it.
    Skipped,
    /// Given up, kept as a dead letter.
    Dead,
}

impl Outcome {
    /// The word stored and used as metric label. Persisted: must be kept stable.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Skipped => "skipped",
            Self::Dead => "dead",
        }
    }
}

/// `n` deliveries that ended alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// How they ended.
    pub outcome: Outcome,
    /// Why (empty for delivered). From a small closed set: it becomes a metric label.
    pub reason: String,
    /// How many.
    pub n: u64,
}

/// A delivery given up, as stored.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Id, increasing.
    pub id: i64,
    /// The integration's id.
    pub feed: String,
    /// The record's number.
    pub seq: Seq,
    /// When it was given up.
    pub at_ms: Millis,
    /// Short machine-readable cause, e.g. `unknown_event_key`, `rejected`, `retries_exhausted`.
    pub reason: String,
    /// The sentence shown to people.
    pub detail: String,
    /// How many attempts were made.
    pub attempts: u32,
    /// Status the vendor answered last, if any.
    pub status: Option<u16>,
    /// The vendor's last answer, capped.
    pub answer: String,
    /// Parts of the event that have ended already and are not sent again: bits whose meaning is the reader's affair.
    pub parts_done: u64,
    /// The record itself.
    pub record: Bytes,
}

/// A delivery set apart until a time: an unknown event key on hold, or a replay on its way.
#[derive(Debug, Clone)]
pub struct Parked {
    /// The integration's id.
    pub feed: String,
    /// The record's number.
    pub seq: Seq,
    /// When to look at it again.
    pub due_ms: Millis,
    /// When it was set apart first.
    pub since_ms: Millis,
    /// Attempts so far.
    pub attempts: u32,
    /// Why it waits, e.g. `unknown_event_key`, `replay`.
    pub reason: String,
    /// The replay it belongs to, if any.
    pub replay: Option<String>,
    /// Parts of the event that have ended already and are not sent again: bits whose meaning is the reader's affair.
    pub parts_done: u64,
    /// The record itself.
    pub record: Bytes,
}

/// What a feed remembers of something it sent: which value, of which moment, and until when it was said again; or of
/// somebody about whom nothing may be sent. A mark never goes back: one of an earlier moment does not replace it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Whose mark it is: one per feed.
    pub key: u128,
    /// What was sent.
    pub value: u128,
    /// The moment it is of; with `seq`, which of two is the newer.
    pub at_ms: Millis,
    /// The record it came from.
    pub seq: Seq,
    /// The newest moment and record known to say the same again; its own when there is none.
    pub again: (Millis, Seq),
    /// When it may be forgotten.
    pub until_ms: Millis,
}

/// What one feed changes at once. The numbers must add up, or the whole is refused:
/// `|done| + |unpark| = Σ tallies + |park|`.
#[derive(Debug, Clone, Default)]
pub struct Settle {
    /// The feed.
    pub feed: String,
    /// Records settled now (any order, not settled before).
    pub done: Vec<Range<Seq>>,
    /// Parked records settled now.
    pub unpark: Vec<Seq>,
    /// How they ended.
    pub tallies: Vec<Tally>,
    /// Those given up (each also counted in a `Dead` tally). Ids are given by the store.
    pub dead: Vec<DeadLetter>,
    /// Records set apart: of `done` (moved to the side) or of `unpark` (set apart again with a new due time).
    pub park: Vec<Parked>,
    /// What is remembered of what was sent.
    pub marks: Vec<Mark>,
    /// Records not settled yet of which some parts have ended, all of each that have: as in [`Parked::parts_done`].
    /// Kept until the record is settled.
    pub parts: Vec<(Seq, u64)>,
    /// What the feed's reader wants to find again when it begins anew; replaces what was kept.
    pub note: Option<Bytes>,
    /// Of `tallies`, those of records with a label.
    pub labelled: BTreeMap<LabelTally, u64>,
    /// Runs of `done` whose records nobody has looked at, with the tally they are in: the journal looks their labels up.
    pub unread: Vec<(Range<Seq>, Outcome, String)>,
}

/// Where a new feed begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedStart {
    /// With the next record appended.
    Now,
    /// With a given record.
    At(Seq),
}

/// A feed's state.
#[derive(Debug, Clone)]
pub struct Feed {
    /// The integration's id.
    pub id: String,
    /// First record it is accountable for.
    pub start: Seq,
    /// Everything below is settled.
    pub pos: Seq,
    /// Settled runs above `pos`, in order.
    pub settled_above: Vec<Range<Seq>>,
    /// Records parked now.
    pub parked: u64,
    /// Parts that have ended of records not settled (nor parked), in order of the records; see [`Settle::parts`].
    pub parts: Vec<(Seq, u64)>,
    /// What was kept last, see [`Settle::note`]; empty when nothing was.
    pub note: Bytes,
}

/// Whether a feed is the gateway's own (its name begins with `.`): it holds back trimming like any other, but is no
/// integration's, and has no place in the books.
#[must_use]
pub fn is_own(feed: &str) -> bool {
    feed.starts_with('.')
}

/// A feed's books. `accepted = delivered + skipped + deduplicated + dead + pending` holds by construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    /// The integration's id.
    pub feed: String,
    /// Records the feed is accountable for, repeated posts included.
    pub accepted: u64,
    /// Delivered.
    pub delivered: u64,
    /// Skipped, by reason.
    pub skipped: Vec<(String, u64)>,
    /// Repeated posts of a record already stored.
    pub deduplicated: u64,
    /// Dead letters, by reason.
    pub dead: Vec<(String, u64)>,
    /// Neither settled nor dead: not yet reached, in flight, or parked.
    pub pending: u64,
}

/// How the journal is doing.
#[derive(Debug, Clone)]
pub struct Health {
    /// Appends are taken.
    pub writable: bool,
    /// Why not, in words.
    pub reason: Option<String>,
    /// Bytes used on disk.
    pub bytes: u64,
    /// Blocks found damaged since the store was made.
    pub damaged_blocks: u64,
    /// How far back repeated posts are recognised, in milliseconds.
    pub dedup_window_ms: Millis,
}

/// Why reading or settling failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The store failed.
    #[error("journal store: {0}")]
    Store(Arc<str>),
    /// The feed does not exist.
    #[error("no feed `{0}`")]
    NoFeed(String),
    /// The numbers of a [`Settle`] do not add up (a bug in the caller; nothing was changed).
    #[error("unbalanced settle of `{feed}`: {detail}")]
    Unbalanced {
        /// The feed.
        feed: String,
        /// What does not add up.
        detail: String,
    },
    /// The journal was closed or stopped.
    #[error("the journal is closed")]
    Closed,
}

/// Which dead letters are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Of this feed.
    pub feed: Option<String>,
    /// With this reason.
    pub reason: Option<String>,
    /// Given up at or after.
    pub since_ms: Option<Millis>,
    /// Given up before.
    pub until_ms: Option<Millis>,
    /// Of the record with this number.
    pub seq: Option<Seq>,
    /// These ids only.
    pub ids: Option<Vec<i64>>,
}

/// Progress of one replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayProgress {
    /// The replay's id.
    pub replay: String,
    /// Still parked.
    pub waiting: u64,
}

/// The journal's settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// Records waiting to be committed before `Busy` is answered.
    pub queue_records_max: usize,
    /// Records in one block.
    pub block_records_max: usize,
    /// Bytes in one block, before compression.
    pub block_bytes_max: usize,
    /// Bytes of decoded blocks kept in memory for readers at the tail.
    pub tail_bytes_max: usize,
    /// Memory for recognising repeated posts.
    pub dedup_bytes_max: usize,
    /// How long repeated posts are recognised at most.
    pub dedup_window_ms: Millis,
    /// Settled blocks are kept at most this long, for looking at events and replaying ranges.
    pub retain_ms: Millis,
    /// … and at most this many bytes of them.
    pub retain_bytes: u64,
    /// Appends stop when less than this is free on the disk.
    pub free_bytes_min: u64,
    /// Reads the label records are also counted by.
    pub label: Labeller,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_records_max: 65_536,
            block_records_max: 8_192,
            block_bytes_max: 1 << 20,
            tail_bytes_max: 8 << 20,
            dedup_bytes_max: 32 << 20,
            dedup_window_ms: 24 * 3_600_000,
            retain_ms: 3_600_000,
            retain_bytes: 512 << 20,
            free_bytes_min: 256 << 20,
            label: labels::unlabelled,
        }
    }
}
