//! What is settled and not yet told to the journal. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use hashbrown::HashMap;

use super::Origin;
use super::slots::{Fate, Slot};
use crate::clock::Millis;
use crate::journal::{DeadLetter, Mark, Outcome, Parked, Seq, Settle, Tally};

/// Settled and not yet told to the journal.
#[derive(Debug, Default)]
pub(super) struct Books {
    done: Vec<Range<Seq>>,
    unpark: Vec<Seq>,
    tallies: BTreeMap<(Outcome, String), u64>,
    dead: Vec<DeadLetter>,
    park: Vec<Parked>,
    /// Those of `park` that wait for a row of a table.
    held: Vec<usize>,
    pub(super) marks: HashMap<u128, Mark>,
    delivered_at: Vec<(Millis, usize)>,
    skipped: BTreeMap<String, Vec<Seq>>,
}

/// Reasons found on the way: the mapping of an event does not tell them afterwards.
const ON_THE_WAY: [&str; 6] = [
    "superseded",
    "unchanged",
    "stale",
    "missing",
    "opted_out",
    "metadata_field_missing",
];

/// A settle, and what metrics want to know of it.
#[derive(Debug)]
pub(in super::super) struct Settled {
    pub settle: Settle,
    /// (accepted at, how many) of those delivered.
    pub delivered_at: Vec<(Millis, usize)>,
    /// Which were skipped for reasons that nothing else tells afterwards.
    pub skipped: BTreeMap<String, Vec<Seq>>,
}

/// Why an event is set apart, and until when.
#[derive(Debug)]
pub(super) struct Apart {
    pub since_ms: Millis,
    pub due_ms: Millis,
    pub reason: String,
    /// It waits for a row of a table.
    pub held: bool,
}

impl Books {
    /// Writes an event's outcome.
    pub(super) fn finish(&mut self, feed: &str, slot: Slot, fate: Fate, now_ms: Millis) {
        self.leave(&slot);
        match fate {
            Fate::Skipped(reason) => {
                if ON_THE_WAY.contains(&reason.as_str()) {
                    let seqs = self.skipped.entry(reason.clone()).or_default();
                    seqs.push(slot.seq);
                }
                self.tally(Outcome::Skipped, reason, 1);
            }
            Fate::Delivered => {
                self.tally(Outcome::Delivered, String::new(), 1);
                match self.delivered_at.last_mut() {
                    Some((at_ms, n)) if *at_ms == slot.at_ms => *n += 1,
                    _ => self.delivered_at.push((slot.at_ms, 1)),
                }
            }
            Fate::Dead {
                reason,
                detail,
                status,
                answer,
            } => {
                self.tally(Outcome::Dead, reason.clone(), 1);
                self.dead.push(DeadLetter {
                    id: 0,
                    feed: feed.to_owned(),
                    seq: slot.seq,
                    at_ms: now_ms,
                    reason,
                    detail,
                    attempts: slot.attempts,
                    status,
                    answer,
                    parts_done: slot.parts_done(),
                    record: slot.record,
                });
            }
        }
    }

    /// Sets an event apart.
    pub(super) fn set_apart(&mut self, feed: &str, slot: Slot, apart: Apart) {
        self.leave(&slot);
        if apart.held {
            self.held.push(self.park.len());
        }
        let parts_done = slot.parts_done();
        self.park.push(Parked {
            feed: feed.to_owned(),
            seq: slot.seq,
            due_ms: apart.due_ms,
            since_ms: apart.since_ms,
            attempts: slot.attempts,
            reason: apart.reason,
            replay: match slot.origin {
                Origin::Parked { replay, .. } => replay,
                Origin::Fresh => None,
            },
            parts_done,
            record: slot.record,
        });
    }

    fn leave(&mut self, slot: &Slot) {
        match slot.origin {
            Origin::Fresh => push_seq(&mut self.done, slot.seq),
            Origin::Parked { .. } => self.unpark.push(slot.seq),
        }
    }

    /// Those that wait for a row and are not settled yet are looked at again at once: the tables have changed.
    pub(super) fn held_due(&mut self, now_ms: Millis) {
        for index in self.held.drain(..) {
            if let Some(parked) = self.park.get_mut(index) {
                parked.due_ms = parked.due_ms.min(now_ms);
            }
        }
    }

    /// Those that wait for this reason and are not settled yet are looked at again at once.
    pub(super) fn due(&mut self, reason: &str, now_ms: Millis) {
        for parked in self
            .park
            .iter_mut()
            .filter(|parked| parked.reason == reason)
        {
            parked.due_ms = parked.due_ms.min(now_ms);
        }
    }

    fn tally(&mut self, outcome: Outcome, reason: String, n: u64) {
        *self.tallies.entry((outcome, reason)).or_insert(0) += n;
    }

    /// Writes off a run of records that are not in memory: expired, or unreadable.
    pub(super) fn write_off(&mut self, span: Range<Seq>, outcome: Outcome, reason: &str) {
        let n = span.end.saturating_sub(span.start);
        if n > 0 {
            self.done.push(span);
            self.tally(outcome, reason.to_owned(), n);
        }
    }

    /// All of it, if there is anything.
    pub(super) fn take(&mut self, feed: &str) -> Option<Settled> {
        if self.done.is_empty() && self.unpark.is_empty() {
            return None;
        }
        let mut books = std::mem::take(self);
        books.done.sort_unstable_by_key(|range| range.start);
        books.done.dedup_by(|next, run| {
            let joins = next.start == run.end;
            if joins {
                run.end = next.end;
            }
            joins
        });
        // A mark of a part goes with the settle of its event or an earlier one: then the event is only sent again.
        let marks = books.marks.into_values().collect();
        let tallies = books
            .tallies
            .into_iter()
            .map(|((outcome, reason), n)| Tally { outcome, reason, n })
            .collect();
        Some(Settled {
            settle: Settle {
                feed: feed.to_owned(),
                done: books.done,
                unpark: books.unpark,
                tallies,
                dead: books.dead,
                park: books.park,
                marks,
            },
            delivered_at: books.delivered_at,
            skipped: books.skipped,
        })
    }
}

fn push_seq(runs: &mut Vec<Range<Seq>>, seq: Seq) {
    match runs.last_mut() {
        Some(run) if run.end == seq => run.end += 1,
        _ => runs.push(seq..seq + 1),
    }
}
