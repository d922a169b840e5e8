//! How much backlog a feed may have: by age and by bytes. What is over is given up as skipped (`expired`), oldest
//! first, said loudly and tallied.

use std::ops::Range;

use crate::clock::Millis;
use crate::journal::{Feed, FeedStart, Journal, JournalError, Outcome, Seq, Settle, Tally};

/// How much waits.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Records before this are too old.
    old: Seq,
    /// The feed's cursor.
    pos: Seq,
    /// Bytes on disk from there on.
    bytes: u64,
    feed: Feed,
}

impl Backlog {
    /// Looks a feed's backlog up. Records committed before `before_ms` are too old.
    ///
    /// # Errors
    /// The journal could not be read.
    pub(super) async fn of(
        journal: &Journal,
        feed: &str,
        before_ms: Millis,
    ) -> Result<Self, JournalError> {
        let old = journal.position_before(before_ms).await?;
        let feed = journal.open_feed(feed, FeedStart::Now).await?;
        let bytes = journal.backlog_bytes(&feed.id).await?;
        Ok(Self {
            old,
            pos: feed.pos,
            bytes,
            feed,
        })
    }

    /// Up to where records are given up. `read_pos`: those before are in memory, or settled. `end`: of the journal.
    pub(super) fn expires(&self, read_pos: Seq, end: Seq, bytes_max: u64) -> Seq {
        let mut upto = self.old.min(end);
        let records = end.saturating_sub(self.pos);
        let unread = end.saturating_sub(read_pos.max(upto));
        if self.bytes > bytes_max && records > 0 {
            // Blocks differ little in bytes per record: shares of records stand for shares of bytes.
            let keep = u128::from(bytes_max) * u128::from(records) / u128::from(self.bytes);
            let keep = u64::try_from(keep).unwrap_or(u64::MAX);
            if unread > keep {
                upto = upto.max(end - keep);
            }
        }
        upto
    }
}

/// A span without the runs of it that are settled.
pub(super) fn unsettled(settled_above: &[Range<Seq>], span: Range<Seq>) -> Vec<Range<Seq>> {
    let mut parts = Vec::new();
    let mut from = span.start;
    for run in settled_above {
        if run.end <= from || run.start >= span.end {
            continue;
        }
        if run.start > from {
            parts.push(from..run.start);
        }
        from = from.max(run.end);
    }
    if from < span.end {
        parts.push(from..span.end);
    }
    parts
}

/// Applies the limits to a feed nobody delivers: its integration's blueprint no longer checks, or it is not installed
/// any more. Returns how many records were given up.
///
/// # Errors
/// The journal failed; nothing was given up.
pub(super) async fn of_idle_feed(
    journal: &Journal,
    feed: &str,
    before_ms: Millis,
    bytes_max: u64,
) -> Result<u64, JournalError> {
    let backlog = Backlog::of(journal, feed, before_ms).await?;
    let end = *journal.end().borrow();
    let upto = backlog.expires(backlog.pos, end, bytes_max);
    if upto <= backlog.pos {
        return Ok(0);
    }
    let done = unsettled(&backlog.feed.settled_above, backlog.pos..upto);
    let n = done.iter().map(|run| run.end - run.start).sum();
    if n == 0 {
        return Ok(0);
    }
    journal
        .settle(Settle {
            feed: feed.to_owned(),
            unread: done
                .iter()
                .map(|run| (run.clone(), Outcome::Skipped, "expired".to_owned()))
                .collect(),
            done,
            tallies: vec![Tally {
                outcome: Outcome::Skipped,
                reason: "expired".to_owned(),
                n,
            }],
            ..Settle::default()
        })
        .await?;
    Ok(n)
}
