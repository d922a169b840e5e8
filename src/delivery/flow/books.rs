//! What is settled and not yet told to the journal. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use hashbrown::HashMap;

use super::Origin;
use super::silence::OPTED_OUT;
use super::slots::{Fate, Slot};
use crate::clock::Millis;
use crate::event::decision::label::label;
use crate::journal::{DeadLetter, LabelTally, Mark, Outcome, Parked, Seq, Settle, Tally};

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
    /// Events still open of which a part has ended.
    parts: HashMap<Seq, u64>,
    /// Since when there are such, or marks, that nothing else has taken along.
    waits_since_ms: Option<Millis>,
    delivered_at: Vec<(Millis, usize)>,
    skipped: BTreeMap<String, Vec<Seq>>,
    /// Of `tallies`, those of decisions, by what they are counted by.
    labelled: BTreeMap<LabelTally, u64>,
    /// Records below have no label in the journal's books.
    pub(super) labels_from: Seq,
    /// Of `tallies`, those of records nobody has looked at.
    unread: Vec<(Range<Seq>, Outcome, String)>,
}

/// Parts that have ended wait this long for a settle that is made anyway.
const PARTS_WAIT_MS: Millis = 100;

/// Reasons found on the way: the mapping of an event does not tell them afterwards.
const ON_THE_WAY: [&str; 6] = [
    "superseded",
    "unchanged",
    "stale",
    "missing",
    OPTED_OUT,
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

impl Settled {
    pub(super) fn nothing(feed: &str) -> Self {
        Self {
            settle: Settle {
                feed: feed.to_owned(),
                ..Settle::default()
            },
            delivered_at: Vec::new(),
            skipped: BTreeMap::new(),
        }
    }
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
        if slot.seq >= self.labels_from
            && let Some(label) = label(&slot.record)
        {
            let (outcome, reason) = match &fate {
                Fate::Skipped(reason) => (Outcome::Skipped, reason.clone()),
                Fate::Delivered => (Outcome::Delivered, String::new()),
                Fate::Dead { reason, .. } => (Outcome::Dead, reason.clone()),
            };
            let tally = LabelTally {
                label,
                outcome,
                reason,
            };
            *self.labelled.entry(tally).or_default() += 1;
        }
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

    /// A part of an event has ended and others have not.
    pub(super) fn part_ended(&mut self, seq: Seq, parts_done: u64, now_ms: Millis) {
        self.parts.insert(seq, parts_done);
        self.waits_since_ms.get_or_insert(now_ms);
    }

    fn leave(&mut self, slot: &Slot) {
        self.parts.remove(&slot.seq);
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
            self.done.push(span.clone());
            self.unread.push((span, outcome, reason.to_owned()));
            self.tally(outcome, reason.to_owned(), n);
        }
    }

    /// Is there an outcome to settle? What has merely ended of open events goes along.
    fn has_outcomes(&self) -> bool {
        !(self.done.is_empty() && self.unpark.is_empty())
    }

    /// When what has ended of open events has waited long enough for others.
    pub(super) fn due_ms(&self) -> Option<Millis> {
        let since_ms = self.waits_since_ms?;
        Some(since_ms.saturating_add(PARTS_WAIT_MS))
    }

    /// All of it, if there is anything that should not wait; or anything at all.
    pub(super) fn take(&mut self, feed: &str, all: bool, now_ms: Millis) -> Option<Settled> {
        let due = self.due_ms().is_some_and(|due_ms| all || due_ms <= now_ms);
        if !self.has_outcomes() && !due {
            return None;
        }
        let mut books = std::mem::take(self);
        self.labels_from = books.labels_from;
        books.done.sort_unstable_by_key(|range| range.start);
        books.done.dedup_by(|next, run| {
            let joins = next.start == run.end;
            if joins {
                run.end = next.end;
            }
            joins
        });
        // What was sent, its mark and its part are written together: neither is ever known without the other.
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
                parts: books.parts.into_iter().collect(),
                note: None,
                labelled: books.labelled,
                unread: books.unread,
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
