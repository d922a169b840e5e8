//! The durable log: bytes in, bytes out. Knows no event, no integration, no JSON.
//!
//! Appended records become one or a few compressed, checksummed blocks per commit; readers ("feeds") have
//! cursors that move in the same commits. What it promises:
//!
//! - An append is answered after its records are on stable storage, a settle after the cursor is.
//! - Records are numbered without gaps; a number is never used twice.
//! - A record repeated within the de-duplication window is counted, not stored; it is answered once the
//!   first one is durable. This survives restarts, and the trimming of the first one's block.
//! - Every feed's books add up at every moment, whatever was interrupted where.
//! - A block is trimmed when every feed is past it and it is older, or more, than is to be retained.
//! - A damaged block is counted, its bytes are kept apart once, and reading goes on behind it.
//! - Out of space: appends are refused, settles still tried, and it recovers by itself. Any other failed
//!   commit or sync ends writing until a restart; reading goes on.

use std::sync::Arc;

use labels::LabelChange;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::clock::{Millis, SharedClock};
use crate::crew::{Crew, GivenUp};
use committer::{Books, Command, Committer, Shared};
use feed::FeedState;
use store::{Block, Change, Reader, StoreError};

pub mod block;
mod committer;
mod dedup;
pub mod feed;
pub mod inspect;
mod labelled;
pub mod labels;
mod reader;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod types;

pub use labels::{LabelLedger, LabelTally};
pub use types::{
    AppendError, Appended, Chunk, DeadFilter, DeadLetter, Entry, Feed, FeedStart, Health,
    JournalError, Ledger, Mark, Options, Outcome, Parked, Record, ReplayProgress, Seq, Settle,
    Tally, is_own,
};

/// Dead letters moved in one step of a replay: commits go on in between.
const REPLAY_STEP: usize = 1_000;

/// Niceness of the writing thread: less urgent than acceptance (0), more than delivery (10). With every processor busy it
/// begins a commit a little later, when more has gathered for it; half as many commits leave more of the processors for
/// what is accepted.
const NICENESS: i32 = 5;

/// The journal. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Journal {
    handle: Arc<Handle>,
}

/// Ends the committer when the last clone goes.
struct Handle {
    shared: Arc<Shared>,
    key: [u8; 16],
    clock: SharedClock,
    /// For reading blocks, and for everything else: looking at dead letters must not hold up deliveries.
    blocks: Arc<Mutex<Box<dyn Reader>>>,
    queries: Arc<Mutex<Box<dyn Reader>>>,
    /// One thread for each.
    block_reader: Crew,
    asker: Crew,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.shared.send(Command::Close(None));
    }
}

impl From<StoreError> for JournalError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string().into())
    }
}

impl Journal {
    /// Takes over a store: reads where it ends, rebuilds what recognises repeats, starts the committer.
    ///
    /// # Errors
    /// The store could not be read.
    pub fn open(
        mut store: Box<dyn store::Store>,
        options: Options,
        clock: SharedClock,
    ) -> Result<Self, JournalError> {
        let loaded = store.load()?;
        let now_ms = clock.now_ms();
        let dedup = committer::rebuild(store.as_mut(), &options, now_ms)?;
        let health = Health {
            writable: true,
            reason: None,
            bytes: store.size(),
            damaged_blocks: loaded.damaged,
            dedup_window_ms: dedup.window_ms(now_ms),
        };
        let books = Books {
            next: loaded.next,
            duplicates: loaded.duplicates,
            bytes: loaded.bytes,
            feeds: loaded
                .feeds
                .into_iter()
                .map(|feed| (feed.id.clone(), feed))
                .collect(),
            labels: loaded.labels,
        };
        let handle = Handle {
            shared: Arc::new(Shared::new(options, books, health)),
            key: loaded.key,
            clock: Arc::clone(&clock),
            blocks: Arc::new(Mutex::new(store.reader()?)),
            queries: Arc::new(Mutex::new(store.reader()?)),
            block_reader: Crew::start("journal-read", 1),
            asker: Crew::start("journal-ask", 1),
        };
        let committer = Committer::new(store, Arc::clone(&handle.shared), clock, dedup);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                // Refused only in odd containers, and then it merely competes as an equal.
                let _refused = rustix::process::nice(NICENESS);
                committer.run();
            })
            .map_err(|error| JournalError::Store(error.to_string().into()))?;
        Ok(Self {
            handle: Arc::new(handle),
        })
    }

    /// Keyed hash by which repeated posts are recognised; the key lives in the store.
    #[must_use]
    pub fn fingerprint(&self, source: &str, message_id: &str) -> u64 {
        dedup::fingerprint(&self.handle.key, source, message_id)
    }

    /// Returns once every record is on stable storage (or known there already).
    ///
    /// # Errors
    /// Nothing of it is stored, except that after [`AppendError::Failed`] this is unknown.
    pub async fn append(&self, records: Vec<Record>) -> Result<Appended, AppendError> {
        if records.is_empty() {
            return Ok(Appended {
                stored: 0,
                duplicates: 0,
            });
        }
        let shared = &self.handle.shared;
        let answer = shared.append(records)?;
        answer.await.unwrap_or_else(|_| {
            Err(match shared.silence() {
                JournalError::Store(reason) => AppendError::Failed(reason),
                _ => AppendError::Closed,
            })
        })
    }

    /// Whether records wait for their commit at this moment: whatever else wants a processor holds their callers up.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.handle.shared.is_pressed()
    }

    /// The number the next record will get; changes with every commit.
    #[must_use]
    pub fn end(&self) -> watch::Receiver<Seq> {
        self.handle.shared.end.subscribe()
    }

    /// Records from a position on: about `bytes_max` of them, at least one if there is any.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn read(&self, from: Seq, bytes_max: usize) -> Result<Chunk, JournalError> {
        if let Some(chunk) = reader::from_memory(&self.handle.shared, from, bytes_max) {
            return Ok(chunk);
        }
        let shared = Arc::clone(&self.handle.shared);
        let blocks = Arc::clone(&self.handle.blocks);
        let reading = self.handle.block_reader.run(move || {
            let mut damaged = Vec::new();
            let chunk = reader::from_store(&shared, &blocks, from, bytes_max, &mut |block| {
                damaged.push(block);
            });
            (chunk, damaged)
        });
        let (chunk, damaged) = reading.await.map_err(given_up)?;
        for block in damaged {
            self.set_aside(block).await;
        }
        Ok(chunk?)
    }

    /// Opens a feed, creating it at `start` when it does not exist. A start before the oldest record kept
    /// becomes that one.
    ///
    /// # Errors
    /// It could not be made durable.
    pub async fn open_feed(&self, feed: &str, start: FeedStart) -> Result<Feed, JournalError> {
        let id = feed.to_owned();
        let earlier = match start {
            FeedStart::At(seq) if self.state(feed).is_err() => self.counts_at(seq).await?,
            FeedStart::At(_) | FeedStart::Now => None,
        };
        self.control(move |committer| {
            let (next, duplicates, mut counts) = {
                let books = committer.shared.books.lock();
                if let Some(known) = books.feeds.get(&id) {
                    return Ok(known.public());
                }
                (books.next, books.duplicates, books.labels.counts.clone())
            };
            if let Some(earlier) = earlier {
                for (label, count) in &mut counts {
                    count.records = earlier.get(label).map_or(0, |count| count.records);
                }
            }
            let start = match start {
                FeedStart::Now => next,
                FeedStart::At(seq) => seq.max(committer.store.load()?.first).min(next),
            };
            let state = FeedState {
                id,
                start,
                pos: start,
                duplicates_at_start: duplicates,
                ..FeedState::default()
            };
            let labels = LabelChange {
                starts: vec![(state.id.clone(), counts)],
                ..LabelChange::default()
            };
            let change = Change {
                feeds: vec![state.clone()],
                labels,
                ..Change::default()
            };
            committer.write(&change)?;
            let feed = state.public();
            let mut books = committer.shared.books.lock();
            books.labels.apply(&change.labels);
            books.feeds.insert(state.id.clone(), state);
            Ok(feed)
        })
        .await
    }

    /// Removes a feed with its tallies, parked records, dead letters and marks.
    ///
    /// # Errors
    /// It could not be made durable.
    pub async fn remove_feed(&self, feed: &str) -> Result<(), JournalError> {
        let id = feed.to_owned();
        self.control(move |committer| {
            committer.store.remove_feed(&id)?;
            let mut books = committer.shared.books.lock();
            books.feeds.remove(&id);
            books.labels.feeds.remove(&id);
            Ok(())
        })
        .await
    }

    /// Moves a feed; returns once that is on stable storage.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn settle(&self, mut settle: Settle) -> Result<(), JournalError> {
        for (run, outcome, reason) in std::mem::take(&mut settle.unread) {
            for (label, n) in self.labels_in(run).await? {
                let reason = reason.clone();
                let tally = LabelTally {
                    label,
                    outcome,
                    reason,
                };
                *settle.labelled.entry(tally).or_default() += n;
            }
        }
        let (reply, answer) = oneshot::channel();
        let shared = &self.handle.shared;
        shared.send(Command::Settle(Box::new(settle), reply))?;
        answer.await.unwrap_or_else(|_| Err(shared.silence()))
    }

    /// Parked records due by `due_ms`, earliest first.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn parked(
        &self,
        feed: &str,
        due_ms: Millis,
        limit: usize,
    ) -> Result<Vec<Parked>, JournalError> {
        let feed = feed.to_owned();
        self.query(move |reader| reader.parked(&feed, due_ms, limit))
            .await
    }

    /// The parked record of this number, if it is parked.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn parked_at(&self, feed: &str, seq: Seq) -> Result<Option<Parked>, JournalError> {
        let feed = feed.to_owned();
        self.query(move |reader| reader.parked_at(&feed, seq)).await
    }

    /// What the feed remembers under these keys; nothing for those it never had or may have forgotten.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn marks(&self, feed: &str, keys: &[u128]) -> Result<Vec<Mark>, JournalError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let now_ms = self.handle.clock.now_ms();
        let (feed, keys) = (feed.to_owned(), keys.to_vec());
        let mut marks = self.query(move |reader| reader.marks(&feed, &keys)).await?;
        marks.retain(|mark| mark.until_ms > now_ms);
        Ok(marks)
    }

    /// Makes every parked record of the feed with this reason due now (the datafile changed).
    ///
    /// # Errors
    /// It could not be made durable.
    pub async fn wake(&self, feed: &str, reason: &str) -> Result<u64, JournalError> {
        let (feed, reason) = (feed.to_owned(), reason.to_owned());
        self.control(move |committer| {
            let now_ms = committer.clock.now_ms();
            committer.store.wake(&feed, &reason, now_ms)
        })
        .await
    }

    /// Dead letters after an id, lowest first.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn dead_letters(
        &self,
        filter: DeadFilter,
        after_id: Option<i64>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JournalError> {
        self.query(move |reader| reader.dead_letters(&filter, after_id, limit))
            .await
    }

    /// How many dead letters there are.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn dead_count(&self, filter: DeadFilter) -> Result<u64, JournalError> {
        self.query(move |reader| Ok(reader.dead_count(&filter)?.0))
            .await
    }

    /// Moves dead letters back to parked, due at `per_second` a second from now on. Returns how many.
    /// Those whose record was damaged stay where they are.
    ///
    /// # Errors
    /// It could not be made durable; a part may have been moved already.
    pub async fn replay(
        &self,
        replay: &str,
        filter: DeadFilter,
        per_second: f64,
    ) -> Result<u64, JournalError> {
        let counted = filter.clone();
        let (_, (mut first, last)) = self
            .query(move |reader| reader.dead_count(&counted))
            .await?;
        let start_ms = self.handle.clock.now_ms();
        let step_ms = if per_second > 0.0 {
            1000.0 / per_second
        } else {
            0.0
        };
        let mut total = 0;
        loop {
            let (replay, filter) = (replay.to_owned(), filter.clone());
            let (moved, upto) = self
                .control(move |committer| {
                    let due =
                        |i: u64| start_ms.saturating_add(((total + i) as f64 * step_ms) as i64);
                    let moved = committer.store.replay(
                        &replay,
                        store::Those {
                            filter: &filter,
                            ids: (first, last),
                            limit: REPLAY_STEP,
                        },
                        start_ms,
                        &due,
                        &committer.labeller(),
                    )?;
                    committer.moved(&moved, -1);
                    Ok((moved.reasons.values().sum::<u64>(), moved.last_id))
                })
                .await?;
            total += moved;
            // The next step does not look again at what lies between those this one took.
            first = upto.saturating_add(1);
            if moved < REPLAY_STEP as u64 {
                return Ok(total);
            }
        }
    }

    /// How far a replay has come.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn replay_progress(&self, replay: &str) -> Result<ReplayProgress, JournalError> {
        let replay = replay.to_owned();
        self.query(move |reader| {
            Ok(ReplayProgress {
                waiting: reader.replay_waiting(&replay)?,
                replay,
            })
        })
        .await
    }

    /// Puts what a replay has not yet sent back among the dead letters. Returns how many. What is on its
    /// way at this moment may be settled all the same, and then counts as settled.
    ///
    /// # Errors
    /// It could not be made durable; a part may have been moved already.
    pub async fn cancel_replay(&self, replay: &str) -> Result<u64, JournalError> {
        let mut total = 0;
        loop {
            let replay = replay.to_owned();
            let moved = self
                .control(move |committer| {
                    let label = committer.labeller();
                    let moved = committer.store.cancel(&replay, REPLAY_STEP, &label)?;
                    committer.moved(&moved, 1);
                    Ok(moved.reasons.values().sum::<u64>())
                })
                .await?;
            total += moved;
            if moved < REPLAY_STEP as u64 {
                return Ok(total);
            }
        }
    }

    /// The books of every integration, all as of one moment. Feeds of the gateway's own are left out.
    ///
    /// # Errors
    /// None so far.
    #[expect(clippy::unused_async, reason = "an engine elsewhere will have to ask")]
    pub async fn ledger(&self) -> Result<Vec<Ledger>, JournalError> {
        let books = self.handle.shared.books.lock();
        Ok(books
            .feeds
            .values()
            .filter(|feed| !is_own(&feed.id))
            .map(|feed| feed.ledger(books.next, books.duplicates))
            .collect())
    }

    /// The books of every integration by label, all as of one moment.
    ///
    /// # Errors
    /// None so far.
    #[expect(clippy::unused_async, reason = "an engine elsewhere will have to ask")]
    pub async fn ledger_by_label(&self) -> Result<Vec<LabelLedger>, JournalError> {
        let books = self.handle.shared.books.lock();
        Ok(books
            .feeds
            .values()
            .filter(|feed| !is_own(&feed.id))
            .flat_map(|feed| {
                books
                    .labels
                    .ledger(feed.ledger(books.next, books.duplicates), feed.start)
            })
            .collect())
    }

    /// The first record whose label was counted when it was appended: those before are settled without one.
    #[must_use]
    pub fn labels_from(&self) -> Seq {
        self.handle.shared.books.lock().labels.from
    }

    /// Time of the oldest record not settled by the feed (parked ones included).
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn oldest_pending_ms(&self, feed: &str) -> Result<Option<Millis>, JournalError> {
        let state = self.state(feed)?;
        let waiting = state.pos < *self.handle.shared.end.borrow();
        if !waiting && state.parked == 0 {
            return Ok(None);
        }
        self.query(move |reader| {
            let unread = if waiting {
                reader.block_at(state.pos)?.map(|block| block.at_ms)
            } else {
                None
            };
            let parked = if state.parked > 0 {
                reader.oldest_parked_ms(&state.id)?
            } else {
                None
            };
            Ok(unread.into_iter().chain(parked).min())
        })
        .await
    }

    /// Bytes of blocks at or above the feed's cursor.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn backlog_bytes(&self, feed: &str) -> Result<u64, JournalError> {
        let state = self.state(feed)?;
        let (next, bytes) = {
            let books = self.handle.shared.books.lock();
            (books.next, books.bytes)
        };
        if state.pos >= next {
            return Ok(0);
        }
        self.query(move |reader| {
            let block = reader.block_at(state.pos)?;
            Ok(block.map_or(0, |block| bytes.saturating_sub(block.bytes_before)))
        })
        .await
    }

    /// Last position whose block was committed before `at_ms` (exclusive end): for expiring a backlog by age.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn position_before(&self, at_ms: Millis) -> Result<Seq, JournalError> {
        let end = *self.handle.shared.end.borrow();
        let block = self.query(move |reader| reader.block_before(at_ms)).await?;
        Ok(block.map_or(0, |block| (block.first + block.n).min(end)))
    }

    /// Numbers of the records still remembered with one of these fingerprints, lowest first.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn find(&self, fingerprints: Vec<u64>) -> Result<Vec<Seq>, JournalError> {
        let end = *self.handle.shared.end.borrow();
        let wanted: Vec<u64> = fingerprints.into_iter().map(|one| one.max(1)).collect();
        let mut found = self.query(move |reader| reader.find(&wanted)).await?;
        found.retain(|seq| *seq < end);
        Ok(found)
    }

    /// One record, if it is still kept and not damaged.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn get(&self, seq: Seq) -> Result<Option<Entry>, JournalError> {
        let chunk = self.read(seq, 1).await?;
        Ok(chunk.entries.into_iter().find(|entry| entry.seq == seq))
    }

    /// How the journal is doing, as of about a second ago at most.
    #[must_use]
    pub fn health(&self) -> Health {
        self.handle.shared.health.lock().clone()
    }

    /// Does all housekeeping there is now instead of bit by bit: trims, forgets and checkpoints.
    ///
    /// # Errors
    /// The store failed.
    pub async fn tidy(&self) -> Result<(), JournalError> {
        while self.control(|committer| Ok(committer.trim())).await? > 0 {}
        while !self.control(|committer| Ok(committer.forget())).await? {}
        self.control(|committer| committer.tidy(true)).await
    }

    /// Commits what waits and closes the store. Without it the last clone's end does the same, but nobody
    /// waits for it, and the data directory stays locked a moment longer.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.handle.shared.send(Command::Close(Some(reply))).is_ok() {
            let _ = answer.await;
        }
    }

    fn state(&self, feed: &str) -> Result<FeedState, JournalError> {
        let books = self.handle.shared.books.lock();
        books
            .feeds
            .get(feed)
            .cloned()
            .ok_or_else(|| JournalError::NoFeed(feed.to_owned()))
    }

    async fn set_aside(&self, block: Block) {
        let kept = self
            .control(move |committer| {
                let now_ms = committer.clock.now_ms();
                if committer.store.set_aside(&block, now_ms)? {
                    committer.shared.health.lock().damaged_blocks += 1;
                }
                Ok(())
            })
            .await;
        if let Err(error) = kept {
            tracing::warn!(%error, "a damaged block could not be set aside");
        }
    }

    /// Runs something in the committer's thread, between two commits.
    async fn control<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Committer) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        let shared = &self.handle.shared;
        shared.send(Command::Control(Box::new(move |committer| {
            let result = work(committer).map_err(|error| {
                if let StoreError::Failed(reason) = &error {
                    committer.fail(reason);
                }
                JournalError::from(error)
            });
            let _ = reply.send(result);
        })))?;
        answer.await.unwrap_or_else(|_| Err(shared.silence()))
    }

    async fn query<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let reader = Arc::clone(&self.handle.queries);
        Ok(self
            .handle
            .asker
            .run(move || work(reader.lock().as_mut()))
            .await
            .map_err(given_up)??)
    }
}

fn given_up(error: GivenUp) -> JournalError {
    JournalError::Store(error.to_string().into())
}
