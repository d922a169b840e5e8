//! Books by label. A label is a short text that a function handed in reads from a record; the journal knows nothing else
//! about it. Records with a label are counted by it when they are appended and again when they are settled, in the same
//! transactions as the records themselves, so the books of a label add up as those of the whole feed do.
//!
//! The number of labels is bounded: what comes after the first [`LABELS_MAX`] is counted together as [`OVERFLOW`]. A label
//! is never forgotten, so a record is counted under the same one at both ends.

use std::collections::{BTreeMap, HashMap};

use super::{Ledger, Outcome, Seq};

/// Labels counted one by one.
pub const LABELS_MAX: usize = 500;

/// What all further labels are counted as.
pub const OVERFLOW: &str = "\u{2026}";

/// Reads a record's label, if it has one.
pub type Labeller = fn(&[u8]) -> Option<String>;

/// No record has a label.
#[must_use]
pub fn unlabelled(_: &[u8]) -> Option<String> {
    None
}

/// Of the tallies of a settle, those of one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelTally {
    /// The label, as the function reads it from the records.
    pub label: String,
    /// How they ended.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
}

/// A feed's books by label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelLedger {
    /// The label; none: all records without one.
    pub label: Option<String>,
    /// Its books; for [`LabelLedger::label`] none, what is left of the feed's own.
    pub books: Ledger,
    /// Accepted is the sum of all else, and nothing is counted twice.
    pub balanced: bool,
}

/// How many records of a label were appended, and how many of its repeated posts were recognised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Records.
    pub records: u64,
    /// Repeated posts.
    pub repeats: u64,
}

/// What is known of one feed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfFeed {
    /// The counts when it began.
    pub start: BTreeMap<String, Count>,
    /// How deliveries ended.
    pub tallies: BTreeMap<LabelTally, u64>,
}

/// All counts, as of the last commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// By label.
    pub counts: BTreeMap<String, Count>,
    /// By feed.
    pub feeds: HashMap<String, OfFeed>,
}

/// What one transaction changes of them.
#[derive(Debug, Clone, Default)]
pub struct LabelChange {
    /// Records and repeats to add, by label.
    pub counts: BTreeMap<String, Count>,
    /// Records with a label in each new block.
    pub blocks: Vec<(Seq, BTreeMap<String, u64>)>,
    /// The counts at which a new feed begins.
    pub starts: Vec<(String, BTreeMap<String, Count>)>,
    /// To add to the tallies, by feed.
    pub tallies: BTreeMap<(String, LabelTally), i64>,
}

impl LabelChange {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.starts.is_empty() && self.tallies.is_empty()
    }

    /// Notes the labels of a block's records.
    pub fn block(&mut self, first: Seq, labels: &mut BTreeMap<String, u64>) {
        if !labels.is_empty() {
            self.blocks.push((first, std::mem::take(labels)));
        }
    }

    /// Adds to a feed's tally.
    pub fn tally(&mut self, feed: &str, tally: LabelTally, by: i64) {
        *self.tallies.entry((feed.to_owned(), tally)).or_default() += by;
    }
}

impl Labels {
    /// The label something is counted under; `also`: labels about to be known.
    #[must_use]
    pub fn counted_as(&self, label: String, also: &BTreeMap<String, Count>) -> String {
        let known = self.counts.contains_key(&label) || also.contains_key(&label);
        let fresh = also.keys().filter(|name| !self.counts.contains_key(*name));
        if known || self.counts.len() + fresh.count() < LABELS_MAX {
            label
        } else {
            OVERFLOW.to_owned()
        }
    }

    /// The label records settled now were counted under.
    #[must_use]
    pub fn known_as(&self, label: &str) -> String {
        if self.counts.contains_key(label) {
            label.to_owned()
        } else {
            OVERFLOW.to_owned()
        }
    }

    /// Makes a written change visible.
    pub fn apply(&mut self, change: &LabelChange) {
        for (label, more) in &change.counts {
            let count = self.counts.entry(label.clone()).or_default();
            count.records += more.records;
            count.repeats += more.repeats;
        }
        for (feed, start) in &change.starts {
            self.feeds.entry(feed.clone()).or_default().start = start.clone();
        }
        for ((feed, tally), by) in &change.tallies {
            let of = self.feeds.entry(feed.clone()).or_default();
            let n = of.tallies.entry(tally.clone()).or_default();
            *n = n.saturating_add_signed(*by);
        }
    }

    /// A feed's books by label, `whole` being its own; the last row is what has no label.
    #[must_use]
    pub fn ledger(&self, whole: Ledger) -> Vec<LabelLedger> {
        let empty = OfFeed::default();
        let of = self.feeds.get(&whole.feed).unwrap_or(&empty);
        let mut rest = whole;
        let mut rest_balanced = true;
        let mut rows = Vec::new();
        for (label, count) in &self.counts {
            let start = of.start.get(label).copied().unwrap_or_default();
            let tallies = || of.tallies.iter().filter(|(tally, _)| tally.label == *label);
            let records = count.records.saturating_sub(start.records);
            let deduplicated = count.repeats.saturating_sub(start.repeats);
            let settled: u64 = tallies().map(|(_, n)| n).sum();
            if records + deduplicated + settled == 0 {
                continue;
            }
            let by_reason = |wanted: Outcome| -> Vec<(String, u64)> {
                tallies()
                    .filter(|(tally, n)| tally.outcome == wanted && **n > 0)
                    .map(|(tally, n)| (tally.reason.clone(), *n))
                    .collect()
            };
            let books = Ledger {
                feed: rest.feed.clone(),
                accepted: records + deduplicated,
                delivered: by_reason(Outcome::Delivered).iter().map(|(_, n)| n).sum(),
                skipped: by_reason(Outcome::Skipped),
                deduplicated,
                dead: by_reason(Outcome::Dead),
                pending: records.saturating_sub(settled),
            };
            rest_balanced &= take(&mut rest.accepted, books.accepted)
                & take(&mut rest.delivered, books.delivered)
                & take(&mut rest.deduplicated, books.deduplicated)
                & take(&mut rest.pending, books.pending)
                & take_reasons(&mut rest.skipped, &books.skipped)
                & take_reasons(&mut rest.dead, &books.dead);
            rows.push(LabelLedger {
                label: Some(label.clone()),
                balanced: settled <= records,
                books,
            });
        }
        let skipped: u64 = rest.skipped.iter().map(|(_, n)| n).sum();
        let dead: u64 = rest.dead.iter().map(|(_, n)| n).sum();
        let parts = rest.delivered + skipped + rest.deduplicated + dead + rest.pending;
        rows.push(LabelLedger {
            label: None,
            balanced: rest_balanced && rest.accepted == parts,
            books: rest,
        });
        rows
    }
}

/// Takes a label's share from the whole; false when the whole has less.
fn take(whole: &mut u64, share: u64) -> bool {
    let enough = *whole >= share;
    *whole = whole.saturating_sub(share);
    enough
}

fn take_reasons(whole: &mut Vec<(String, u64)>, share: &[(String, u64)]) -> bool {
    let mut enough = true;
    for (reason, n) in share {
        let place = whole.iter_mut().find(|(known, _)| known == reason);
        enough &= place.is_some_and(|(_, known)| take(known, *n));
    }
    whole.retain(|(_, n)| *n > 0);
    enough
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_beyond_the_bound_are_counted_together_at_both_ends() {
        let mut labels = Labels::default();
        let mut change = LabelChange::default();
        for n in 0..LABELS_MAX + 3 {
            let label = labels.counted_as(format!("l{n}"), &change.counts);
            change.counts.entry(label).or_default().records += 1;
        }
        labels.apply(&change);
        assert_eq!(labels.counts.len(), LABELS_MAX + 1);
        assert_eq!(labels.counts[OVERFLOW].records, 3);
        assert_eq!(labels.known_as("l7"), "l7");
        assert_eq!(labels.known_as("l501"), OVERFLOW);
    }

    #[test]
    fn what_does_not_add_up_is_said() {
        let mut labels = Labels::default();
        let count = Count {
            records: 1,
            repeats: 0,
        };
        labels.counts.insert("a".to_owned(), count);
        let tally = LabelTally {
            label: "a".to_owned(),
            outcome: Outcome::Delivered,
            reason: String::new(),
        };
        let whole = Ledger {
            feed: "f".to_owned(),
            accepted: 2,
            delivered: 2,
            skipped: Vec::new(),
            deduplicated: 0,
            dead: Vec::new(),
            pending: 0,
        };
        for (settled, good) in [(1, [true, true]), (2, [false, false]), (0, [true, false])] {
            let mut tallies = BTreeMap::new();
            tallies.insert(tally.clone(), settled);
            let of = OfFeed {
                tallies,
                ..OfFeed::default()
            };
            labels.feeds.insert("f".to_owned(), of);
            let rows = labels.ledger(whole.clone());
            let found: Vec<bool> = rows.iter().map(|row| row.balanced).collect();
            assert_eq!(found, good, "{settled}: {rows:?}");
        }
    }
}
