//! What waits for the committer, and what it shares with readers and callers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

use super::Committer;
use crate::journal::feed::FeedState;
use crate::journal::labels::Labels;
use crate::journal::reader::Tail;
use crate::journal::{AppendError, Appended, Health, JournalError, Options, Record, Seq, Settle};

/// Blocks' worth of bytes waiting before `Busy`.
const BLOCKS_QUEUED_MAX: usize = 64;

pub(super) type AppendReply = oneshot::Sender<Result<Appended, AppendError>>;
pub(super) type SettleReply = oneshot::Sender<Result<(), JournalError>>;

/// Something for the committer to do.
pub(in crate::journal) enum Command {
    /// Store records.
    Append(Vec<Record>, AppendReply),
    /// Move a feed.
    Settle(Box<Settle>, SettleReply),
    /// Anything rare, between two commits.
    Control(Box<dyn FnOnce(&mut Committer) + Send>),
    /// Commit what waits and end.
    Close(Option<oneshot::Sender<()>>),
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Append(..) => "Append",
            Self::Settle(..) => "Settle",
            Self::Control(_) => "Control",
            Self::Close(_) => "Close",
        })
    }
}

#[derive(Debug, Default)]
struct Queue {
    commands: VecDeque<Command>,
    records: usize,
    bytes: usize,
    closed: bool,
    failed: Option<Arc<str>>,
    asleep: bool,
}

/// The journal's numbers as of the last commit.
#[derive(Debug, Default)]
pub(in crate::journal) struct Books {
    pub(in crate::journal) next: Seq,
    pub(in crate::journal) duplicates: u64,
    pub(in crate::journal) bytes: u64,
    pub(in crate::journal) feeds: BTreeMap<String, FeedState>,
    pub(in crate::journal) labels: Labels,
}

/// What committer, readers and callers share.
#[derive(Debug)]
pub(in crate::journal) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    pub(in crate::journal) end: watch::Sender<Seq>,
    pub(in crate::journal) books: Mutex<Books>,
    pub(in crate::journal) tail: Mutex<Tail>,
    pub(in crate::journal) health: Mutex<Health>,
    pub(in crate::journal) options: Options,
}

impl Shared {
    pub(in crate::journal) fn new(options: Options, books: Books, health: Health) -> Self {
        Self {
            queue: Mutex::default(),
            wake: Condvar::new(),
            end: watch::Sender::new(books.next),
            books: Mutex::new(books),
            tail: Mutex::new(Tail::new(options.tail_bytes_max)),
            health: Mutex::new(health),
            options,
        }
    }

    /// Queues an append.
    pub(in crate::journal) fn append(
        &self,
        records: Vec<Record>,
    ) -> Result<oneshot::Receiver<Result<Appended, AppendError>>, AppendError> {
        let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
        let (reply, answer) = oneshot::channel();
        let mut queue = self.queue.lock();
        if let Some(reason) = &queue.failed {
            return Err(AppendError::Failed(Arc::clone(reason)));
        }
        if queue.closed {
            return Err(AppendError::Closed);
        }
        // One append alone is always taken, however large.
        let crowded = queue.records + records.len() > self.options.queue_records_max
            || queue.bytes + bytes > BLOCKS_QUEUED_MAX * self.options.block_bytes_max;
        if queue.records > 0 && crowded {
            return Err(AppendError::Busy);
        }
        queue.records += records.len();
        queue.bytes += bytes;
        queue.commands.push_back(Command::Append(records, reply));
        self.rouse(queue);
        Ok(answer)
    }

    /// Records wait to be committed.
    pub(in crate::journal) fn is_pressed(&self) -> bool {
        self.queue.lock().records > 0
    }

    /// Queues anything else.
    pub(in crate::journal) fn send(&self, command: Command) -> Result<(), JournalError> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(self.gone(&queue));
        }
        queue.closed = matches!(command, Command::Close(_));
        if let (Some(reason), false) = (&queue.failed, queue.closed) {
            return Err(JournalError::Store(Arc::clone(reason)));
        }
        queue.commands.push_back(command);
        self.rouse(queue);
        Ok(())
    }

    /// From now on nothing is taken.
    pub(super) fn fail(&self, reason: &Arc<str>) {
        self.queue.lock().failed = Some(Arc::clone(reason));
    }

    /// Why writing ended, if it has.
    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.queue.lock().failed.clone()
    }

    /// Why no answer came.
    pub(in crate::journal) fn silence(&self) -> JournalError {
        self.gone(&self.queue.lock())
    }

    fn gone(&self, queue: &Queue) -> JournalError {
        match &queue.failed {
            Some(reason) => JournalError::Store(Arc::clone(reason)),
            None => JournalError::Closed,
        }
    }

    fn rouse(&self, queue: parking_lot::MutexGuard<'_, Queue>) {
        let asleep = queue.asleep;
        drop(queue);
        if asleep {
            self.wake.notify_one();
        }
    }

    /// Moves everything queued to `inbox`; waits up to `patience` for something if both are empty.
    pub(super) fn take(&self, inbox: &mut VecDeque<Command>, patience: Duration) {
        let mut queue = self.queue.lock();
        if inbox.is_empty() && queue.commands.is_empty() && !patience.is_zero() {
            queue.asleep = true;
            self.wake.wait_for(&mut queue, patience);
            queue.asleep = false;
        }
        inbox.append(&mut queue.commands);
    }

    pub(super) fn taken(&self, records: usize, bytes: usize) {
        let mut queue = self.queue.lock();
        queue.records = queue.records.saturating_sub(records);
        queue.bytes = queue.bytes.saturating_sub(bytes);
    }
}
