//! One thread owns the writing side: it takes all that waits, appends and settles together, builds
//! blocks, writes one transaction with one sync, and answers everybody. While it syncs, the next group
//! gathers: no timer is needed.
//!
//! No room: the appends are refused, the settles tried again without them, and appends are taken again
//! by themselves once there is room. Any other failed commit ends writing for good: what the system has
//! on disk is then unknown, and syncing again would only pretend to know.

mod plan;
mod queue;
mod room;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::block::Builder;
use super::dedup::Dedup;
use super::store::{Block, Change, Seen, Store, StoreError, TrimRule};
use super::{AppendError, Appended, JournalError, Options, Record, Seq, Settle};
use crate::clock::{Millis, SharedClock};
use crate::journal::labels::LabelChange;
use crate::metrics as meters;
use queue::{AppendReply, SettleReply};
use room::Shortage;

pub(super) use queue::{Books, Command, Shared};

/// Blocks' worth of records in one commit.
const BLOCKS_PER_COMMIT: usize = 4;
/// Fingerprints gathered in one row: what fits into a page with room to spare.
const SEEN_ROW: usize = 512;
/// Pause after which there is time for housekeeping.
const IDLE: Duration = Duration::from_millis(250);
/// How often room is looked for while there is none.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Marks whose time may be over are looked for this often, so many at a time.
const FORGET_EVERY: Duration = Duration::from_secs(1);
const FORGET_STEP: usize = 2_000;
/// Trimming under load: a step at most this often.
const TRIM_EVERY: Duration = Duration::from_millis(20);

/// Appends and settles of one commit.
#[derive(Debug, Default)]
struct Group {
    appends: Vec<(Vec<Record>, AppendReply)>,
    settles: Vec<(Box<Settle>, SettleReply)>,
    records: usize,
    bytes: usize,
}

/// The writing side, living in its thread.
pub(super) struct Committer {
    pub(super) store: Box<dyn Store>,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: SharedClock,
    dedup: Dedup,
    builder: Builder,
    /// The row of fingerprints being filled.
    seen: Seen,
    shortage: Option<Shortage>,
    failed: bool,
    trimmed: Instant,
    trim_more: bool,
    forgot: Instant,
    gauged: Instant,
    sync_seconds: metrics::Histogram,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer").finish_non_exhaustive()
    }
}

impl Committer {
    pub(super) fn new(
        store: Box<dyn Store>,
        shared: Arc<Shared>,
        clock: SharedClock,
        dedup: Dedup,
    ) -> Self {
        let now = Instant::now();
        Self {
            store,
            shared,
            clock,
            dedup,
            builder: Builder::default(),
            seen: Seen::default(),
            shortage: None,
            failed: false,
            trimmed: now,
            trim_more: true,
            forgot: now,
            gauged: now,
            sync_seconds: meters::journal_sync_seconds(),
        }
    }

    /// Works until told to close.
    pub(super) fn run(mut self) {
        let mut inbox = VecDeque::new();
        let mut patience = IDLE;
        self.gauge();
        loop {
            self.shared.take(&mut inbox, patience);
            if inbox.is_empty() {
                // More to tidy up: just look whether somebody came meanwhile.
                patience = if self.idle() {
                    Duration::ZERO
                } else {
                    PROBE_EVERY
                };
                continue;
            }
            patience = IDLE;
            match inbox.pop_front() {
                Some(Command::Close(reply)) => {
                    let clean = !self.failed;
                    if let Err(error) = self.store.close(clean) {
                        tracing::error!(%error, "journal did not close cleanly");
                    }
                    if let Some(reply) = reply {
                        let _ = reply.send(());
                    }
                    return;
                }
                Some(Command::Control(work)) if !self.failed => work(&mut self),
                Some(command) if self.failed => drop_failed(command, &self.shared),
                Some(command) => {
                    inbox.push_front(command);
                    let group = self.gather(&mut inbox);
                    self.commit(group);
                    self.between();
                }
                None => {}
            }
        }
    }

    /// All appends and settles at the front, up to what one commit takes.
    fn gather(&self, inbox: &mut VecDeque<Command>) -> Group {
        let options = &self.shared.options;
        let mut group = Group::default();
        while group.records < options.block_records_max * BLOCKS_PER_COMMIT
            && group.bytes < options.block_bytes_max * BLOCKS_PER_COMMIT
        {
            match inbox.pop_front() {
                Some(Command::Append(records, reply)) => {
                    group.records += records.len();
                    group.bytes += records.iter().map(|one| one.bytes.len()).sum::<usize>();
                    group.appends.push((records, reply));
                }
                Some(Command::Settle(settle, reply)) => group.settles.push((settle, reply)),
                Some(other) => {
                    inbox.push_front(other);
                    break;
                }
                None => break,
            }
        }
        self.shared.taken(group.records, group.bytes);
        group
    }

    fn commit(&mut self, mut group: Group) {
        let now_ms = self.clock.now_ms();
        if !group.appends.is_empty() && !self.room() {
            for (_, reply) in group.appends.drain(..) {
                let _ = reply.send(Err(AppendError::Full));
            }
        }
        let mut plan = self.plan(group.settles);
        let mut change = Change::default();
        let mut fresh = Vec::new();
        let mut answers = Vec::with_capacity(group.appends.len());
        if !group.appends.is_empty() {
            self.build(
                &group.appends,
                now_ms,
                &mut change,
                &mut fresh,
                &mut answers,
            );
        }
        change.aside = std::mem::take(&mut plan.aside);
        change.labels.tallies = std::mem::take(&mut plan.labels.tallies);
        change.feeds = plan.feeds.values().cloned().collect();
        match self.write(&change) {
            Ok(()) => {
                self.publish(&change, fresh);
                for ((_, reply), answer) in group.appends.into_iter().zip(answers) {
                    let _ = reply.send(Ok(answer));
                }
                for reply in plan.replies {
                    let _ = reply.send(Ok(()));
                }
            }
            Err(StoreError::Full(reason)) => {
                self.ran_full(&reason, &change);
                for (_, reply) in group.appends {
                    let _ = reply.send(Err(match self.failure() {
                        Some(reason) => AppendError::Failed(reason),
                        None => AppendError::Full,
                    }));
                }
                self.settle_alone(change, plan.replies, &reason);
            }
            Err(StoreError::Failed(reason)) => {
                self.fail(&reason);
                for (_, reply) in group.appends {
                    let _ = reply.send(Err(AppendError::Failed(Arc::clone(&reason))));
                }
                for reply in plan.replies {
                    let _ = reply.send(Err(JournalError::Store(Arc::clone(&reason))));
                }
            }
        }
    }

    /// One transaction, timed.
    pub(super) fn write(&mut self, change: &Change) -> Result<(), StoreError> {
        if change.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let result = self.store.commit(change);
        self.sync_seconds.record(start.elapsed().as_secs_f64());
        result
    }

    /// Turns records into blocks, leaving out the repeated.
    fn build(
        &mut self,
        appends: &[(Vec<Record>, AppendReply)],
        now_ms: Millis,
        change: &mut Change,
        fresh: &mut Vec<super::block::Decoded>,
        answers: &mut Vec<Appended>,
    ) {
        let (mut next, duplicates_before, mut stored_bytes) = {
            let books = self.shared.books.lock();
            (books.next, books.duplicates, books.bytes)
        };
        let begin = next;
        let (records_max, bytes_max) = {
            let options = &self.shared.options;
            (options.block_records_max, options.block_bytes_max)
        };
        let mut duplicates = duplicates_before;
        let mut ids = Vec::new();
        let mut in_block = BTreeMap::new();
        let builder = &mut self.builder;
        let mut seal = |builder: &mut Builder, next: Seq| {
            let n = builder.len() as u64;
            let (body, decoded) = builder.seal(next - n, now_ms);
            change.blocks.push(Block {
                first: next - n,
                n,
                at_ms: now_ms,
                bytes_before: stored_bytes,
                duplicates: 0,
                body,
            });
            stored_bytes += change
                .blocks
                .last()
                .map_or(0, |block| block.body.len() as u64);
            fresh.push(decoded);
        };
        self.dedup.begin(now_ms);
        let all = appends.iter().flat_map(|(records, _)| records);
        self.dedup.approach(all.map(|record| record.fingerprint));
        for (records, _) in appends {
            let mut answer = Appended {
                stored: 0,
                duplicates: 0,
            };
            for record in records {
                let fingerprint = record.fingerprint.max(1);
                let label = label_of(&self.shared, &record.bytes, &change.labels);
                if !self.dedup.insert(fingerprint, next, now_ms) {
                    answer.duplicates += 1;
                    if let Some(label) = label {
                        change.labels.counts.entry(label).or_default().repeats += 1;
                    }
                    continue;
                }
                if !builder.is_empty()
                    && (builder.len() >= records_max
                        || builder.raw_len() + record.bytes.len() > bytes_max)
                {
                    let first = next - builder.len() as u64;
                    change.labels.block(first, &mut in_block);
                    seal(builder, next);
                }
                if let Some(label) = label {
                    change
                        .labels
                        .counts
                        .entry(label.clone())
                        .or_default()
                        .records += 1;
                    *in_block.entry(label).or_default() += 1;
                }
                builder.push(&record.bytes);
                ids.push(fingerprint);
                next += 1;
                answer.stored += 1;
            }
            duplicates += answer.duplicates;
            answers.push(answer);
        }
        if !builder.is_empty() {
            let first = next - builder.len() as u64;
            change.labels.block(first, &mut in_block);
            seal(builder, next);
        }
        for block in &mut change.blocks {
            block.duplicates = duplicates;
        }
        change.duplicates = (duplicates != duplicates_before).then_some(duplicates);
        change.seen = self.remember(begin, ids, now_ms);
    }

    /// Tells the label a stored record was counted under.
    pub(super) fn labeller(&self) -> impl Fn(Seq, &[u8]) -> Option<String> + use<> {
        let shared = Arc::clone(&self.shared);
        move |seq, record| {
            let label = (shared.options.label)(record)?;
            let labels = &shared.books.lock().labels;
            (seq >= labels.from).then(|| labels.known_as(&label))
        }
    }

    /// Rows of fingerprints to write: the one being filled grows until it is long enough.
    fn remember(&self, first: Seq, ids: Vec<u64>, at_ms: Millis) -> Vec<Seen> {
        if ids.is_empty() {
            return Vec::new();
        }
        let row = &self.seen;
        let joins = !row.ids.is_empty()
            && row.first + row.ids.len() as u64 == first
            && row.ids.len() + ids.len() <= SEEN_ROW;
        let (first, ids) = if joins {
            (row.first, [&row.ids[..], &ids].concat())
        } else {
            (first, ids)
        };
        vec![Seen { first, at_ms, ids }]
    }

    /// Makes a written change visible: numbers, then records, then the news.
    fn publish(&mut self, change: &Change, fresh: Vec<super::block::Decoded>) {
        if let Some(row) = change.seen.last() {
            self.seen.clone_from(row);
        }
        let next = {
            let mut books = self.shared.books.lock();
            if let Some(last) = change.blocks.last() {
                books.next = last.first + last.n;
                books.bytes = last.bytes_before + last.body.len() as u64;
            }
            if let Some(duplicates) = change.duplicates {
                books.duplicates = duplicates;
            }
            for feed in &change.feeds {
                books.feeds.insert(feed.id.clone(), feed.clone());
            }
            books.labels.apply(&change.labels);
            books.next
        };
        if !fresh.is_empty() {
            self.shared.tail.lock().push(fresh);
            self.shared.end.send_replace(next);
        }
    }

    /// Records moved between dead letters and parked by a replay (`by` = -1) or its end (1).
    pub(super) fn moved(&mut self, moved: &super::store::Moved, by: i64) {
        let mut books = self.shared.books.lock();
        books.labels.apply(&moved.labels);
        for ((feed, reason), n) in &moved.reasons {
            if let Some(state) = books.feeds.get_mut(feed) {
                state.move_dead(reason, by * n.cast_signed());
            }
        }
    }

    /// Ends writing for good.
    pub(super) fn fail(&mut self, reason: &Arc<str>) {
        if self.failed {
            return;
        }
        tracing::error!(%reason, "journal commit failed; nothing is accepted any more until a restart");
        self.failed = true;
        self.shared.fail(reason);
        let mut health = self.shared.health.lock();
        health.writable = false;
        health.reason = Some(format!("a commit failed: {reason}; restart the gateway"));
    }

    fn failure(&self) -> Option<Arc<str>> {
        self.shared.failure()
    }

    /// What cannot wait between two commits.
    fn between(&mut self) {
        if self.failed {
            return;
        }
        let _ = self.tidy(false);
        let pause = if self.trim_more { TRIM_EVERY } else { IDLE * 2 };
        if self.trimmed.elapsed() >= pause {
            self.trim();
        }
        if self.forgot.elapsed() >= FORGET_EVERY {
            self.forget();
        }
        if self.gauged.elapsed() >= PROBE_EVERY {
            self.gauge();
        }
    }

    /// Housekeeping while nothing waits. True if there is more of it.
    fn idle(&mut self) -> bool {
        if self.failed {
            return false;
        }
        if self.shortage.is_some() || self.gauged.elapsed() >= PROBE_EVERY {
            self.room();
        }
        let more = self.trim() > 0;
        if self.forgot.elapsed() >= FORGET_EVERY {
            self.forget();
        }
        if !self.failed && !more {
            let _ = self.tidy(true);
        }
        self.gauge();
        more && !self.failed
    }

    /// One step of trimming. Returns the blocks removed.
    pub(super) fn trim(&mut self) -> u64 {
        if self.failed {
            return 0;
        }
        self.trimmed = Instant::now();
        let now_ms = self.clock.now_ms();
        let below = {
            let books = self.shared.books.lock();
            let slowest = books.feeds.values().map(|feed| feed.pos).min();
            slowest.unwrap_or(books.next)
        };
        let options = &self.shared.options;
        let rule = TrimRule {
            below,
            before_ms: now_ms.saturating_sub(options.retain_ms),
            // Short of room, what is settled goes first.
            bytes_max: if self.shortage.is_some() {
                0
            } else {
                options.retain_bytes
            },
            seen_below: self.dedup.first().unwrap_or(0),
            step_blocks: 512,
            step_bytes: 4 << 20,
        };
        let removed = match self.store.trim(&rule) {
            Ok(removed) => removed,
            Err(StoreError::Full(_)) => 0,
            Err(StoreError::Failed(reason)) => {
                self.fail(&reason);
                0
            }
        };
        self.trim_more = removed > 0;
        removed
    }

    /// One step of forgetting marks. True when it came to the end of them.
    pub(super) fn forget(&mut self) -> bool {
        if self.failed {
            return true;
        }
        self.forgot = Instant::now();
        match self.store.forget(self.clock.now_ms(), FORGET_STEP) {
            Ok(end) => end,
            Err(StoreError::Full(_)) => true,
            Err(StoreError::Failed(reason)) => {
                self.fail(&reason);
                true
            }
        }
    }

    /// Checkpoints and the like.
    pub(super) fn tidy(&mut self, idle: bool) -> Result<(), StoreError> {
        let result = self.store.tidy(idle);
        match &result {
            Ok(()) | Err(StoreError::Full(_)) => {}
            Err(StoreError::Failed(reason)) => {
                let reason = Arc::clone(reason);
                self.fail(&reason);
            }
        }
        result
    }

    fn gauge(&mut self) {
        self.gauged = Instant::now();
        let bytes = self.store.size();
        let window_ms = self.dedup.window_ms(self.clock.now_ms());
        let damaged = {
            let mut health = self.shared.health.lock();
            health.bytes = bytes;
            health.dedup_window_ms = window_ms;
            health.damaged_blocks
        };
        meters::journal_bytes().set(bytes as f64);
        meters::journal_damaged_blocks().set(damaged as f64);
        meters::dedup_window_seconds().set(window_ms as f64 / 1000.0);
    }
}

/// The label a record to append is counted under.
fn label_of(shared: &Shared, record: &[u8], change: &LabelChange) -> Option<String> {
    let label = (shared.options.label)(record)?;
    let books = shared.books.lock();
    Some(books.labels.counted_as(label, &change.counts))
}

/// Fills the table from what is stored beside the blocks.
pub(super) fn rebuild(
    store: &mut dyn Store,
    options: &Options,
    now_ms: Millis,
) -> Result<Dedup, StoreError> {
    let mut dedup = Dedup::new(options.dedup_bytes_max, options.dedup_window_ms);
    let mut first = true;
    store.seen(&mut |row| {
        if std::mem::take(&mut first) && row.first > 0 {
            dedup.forgot_before(row.at_ms);
        }
        dedup.begin(row.at_ms);
        for (at, id) in row.ids.iter().enumerate() {
            dedup.insert(*id, row.first + at as u64, row.at_ms);
        }
    })?;
    dedup.begin(now_ms);
    Ok(dedup)
}

fn drop_failed(command: Command, shared: &Shared) {
    let reason = match shared.silence() {
        JournalError::Store(reason) => reason,
        _ => "closed".into(),
    };
    match command {
        Command::Append(records, reply) => {
            let bytes = records.iter().map(|one| one.bytes.len()).sum();
            shared.taken(records.len(), bytes);
            let _ = reply.send(Err(AppendError::Failed(reason)));
        }
        Command::Settle(_, reply) => {
            let _ = reply.send(Err(JournalError::Store(reason)));
        }
        Command::Control(_) | Command::Close(_) => {}
    }
}
