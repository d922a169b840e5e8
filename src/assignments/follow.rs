//! Following the journal: decisions into the view, and the feed behind it. In the background, in batches.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Assignment, Assignments, AssignmentsError, read};
use crate::journal::{FeedStart, Journal, JournalError, Outcome, Seq, Settle, Tally};

/// The journal's name for the feed. It is the gateway's own: no integration has it, and no ledger shows it.
pub const FEED: &str = ".assignments";

/// Bytes of records read at once.
const READ_BYTES: usize = 256 << 10;
/// What comes within this time is taken in together.
const GATHER: Duration = Duration::from_millis(500);
/// The feed is moved this often: every move is a commit of the journal.
const SETTLE_EVERY: Duration = Duration::from_secs(5);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(10);
/// While the view cannot be written, the journal keeps this much for it; then the oldest are given up, so that
/// deliveries do not run out of room for its sake.
const BACKLOG_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    View(#[from] AssignmentsError),
}

/// Where the view stands.
#[derive(Debug)]
pub(super) struct Steps {
    view: Assignments,
    journal: Journal,
    /// Records below are in the view.
    pub(super) at: Seq,
    /// Records below are written to its file as read.
    noted: Seq,
    /// Records below are settled in the journal.
    settled: Seq,
}

/// The task that follows. Dropped without [`Follower::stop`] it just ends; nothing is lost.
#[derive(Debug)]
pub struct Follower {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Begins to follow, in the runtime one is in.
    #[must_use]
    pub fn start(view: Assignments, journal: Journal) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(view, journal, stopped));
        Self { stop, task }
    }

    /// Takes in what there is, and ends.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

async fn run(view: Assignments, journal: Journal, mut stop: watch::Receiver<bool>) {
    let mut steps = loop {
        match Steps::begin(view.clone(), journal.clone()).await {
            Ok(steps) => break steps,
            Err(FollowError::Journal(JournalError::Closed)) => return,
            Err(error) => tracing::warn!(%error, "assignments cannot be followed; trying again"),
        }
        if pause(PAUSE, &mut stop).await {
            return;
        }
    };
    let mut end = journal.end();
    let mut settle_at = tokio::time::Instant::now() + SETTLE_EVERY;
    loop {
        let stopping = *stop.borrow();
        let due = stopping || tokio::time::Instant::now() >= settle_at;
        let done = steps.catch_up(due).await;
        if due {
            settle_at = tokio::time::Instant::now() + SETTLE_EVERY;
        }
        match done {
            Ok(()) => {}
            Err(FollowError::Journal(JournalError::Closed)) => return,
            Err(error) => {
                tracing::warn!(%error, "assignments are behind; trying again");
                steps.give_up_the_oldest().await;
                if pause(PAUSE, &mut stop).await {
                    return;
                }
                continue;
            }
        }
        if stopping {
            return;
        }
        let behind = steps.unsettled();
        tokio::select! {
            changed = end.changed() => if changed.is_err() { return },
            _ = stop.changed() => continue,
            () = tokio::time::sleep_until(settle_at), if behind => continue,
        }
        pause(GATHER, &mut stop).await;
    }
}

/// Waits; true when it is to end.
async fn pause(time: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        _ = stop.changed() => {}
    }
    *stop.borrow()
}

impl Steps {
    /// Finds out where to go on. A view made anew reads what the journal still has.
    async fn begin(view: Assignments, journal: Journal) -> Result<Self, FollowError> {
        let feed = journal.open_feed(FEED, FeedStart::At(0)).await?;
        let known = {
            let view = view.clone();
            blocking(move || view.position()).await?
        };
        let end = *journal.end().borrow();
        let at = match known {
            // Behind the feed only after a crash of the disk: what was settled may be gone, the rest is read again.
            Some(at) if at <= end => at,
            Some(at) => {
                tracing::warn!(
                    at,
                    end,
                    "the assignments are of another journal; reading this one from its start"
                );
                0
            }
            None => 0,
        };
        Ok(Self {
            view,
            journal,
            at,
            noted: at,
            settled: feed.pos,
        })
    }

    #[cfg(test)]
    pub(super) async fn begun(view: &Assignments, journal: &Journal) -> Self {
        Self::begin(view.clone(), journal.clone()).await.unwrap()
    }

    #[cfg(test)]
    pub(super) async fn caught_up(&mut self, settle: bool) {
        self.catch_up(settle).await.unwrap();
    }

    /// Something is read that the journal does not know of yet.
    fn unsettled(&self) -> bool {
        self.settled < self.at
    }

    /// Takes in all there is. `settle`: also notes the position, and moves the feed.
    async fn catch_up(&mut self, settle: bool) -> Result<(), FollowError> {
        loop {
            let end = *self.journal.end().borrow();
            if self.at >= end {
                break;
            }
            let chunk = self.journal.read(self.at, READ_BYTES).await?;
            let decisions: Vec<Assignment> =
                chunk.entries.iter().filter_map(read::assignment).collect();
            if !decisions.is_empty() {
                self.write(chunk.next, decisions).await?;
            }
            self.at = chunk.next;
        }
        if settle {
            if self.noted < self.at {
                self.write(self.at, Vec::new()).await?;
            }
            self.settle(Outcome::Delivered, "", self.at).await?;
            let view = self.view.clone();
            blocking(move || view.forget()).await?;
        }
        Ok(())
    }

    async fn write(&mut self, upto: Seq, decisions: Vec<Assignment>) -> Result<(), FollowError> {
        let view = self.view.clone();
        blocking(move || view.apply(upto, &decisions)).await?;
        self.noted = upto;
        Ok(())
    }

    /// Moves the feed, never beyond what the view's file has noted.
    async fn settle(
        &mut self,
        outcome: Outcome,
        reason: &str,
        upto: Seq,
    ) -> Result<(), FollowError> {
        if upto <= self.settled {
            return Ok(());
        }
        let n = upto - self.settled;
        let tally = Tally {
            outcome,
            reason: reason.to_owned(),
            n,
        };
        self.journal
            .settle(Settle {
                feed: FEED.to_owned(),
                done: std::iter::once(self.settled..upto).collect(),
                tallies: vec![tally],
                ..Settle::default()
            })
            .await?;
        self.settled = upto;
        Ok(())
    }

    /// While the view cannot be written, the journal must not grow for it without end.
    async fn give_up_the_oldest(&mut self) {
        let behind = self.journal.backlog_bytes(FEED).await.unwrap_or(0);
        if behind <= BACKLOG_BYTES_MAX {
            return;
        }
        let end = *self.journal.end().borrow();
        // Half of what waits, about.
        let upto = self.settled + (end - self.settled) / 2;
        tracing::error!(
            records = upto - self.settled,
            "decisions given up: the assignments could not be written for too long"
        );
        if self
            .settle(Outcome::Skipped, "given_up", upto)
            .await
            .is_ok()
        {
            self.at = self.at.max(upto);
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AssignmentsError> + Send + 'static,
) -> Result<T, AssignmentsError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| AssignmentsError::Store(error.to_string()))?
}
