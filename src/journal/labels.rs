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

/// Records that were lost before their label could be read: a part of a damaged block. While a feed has such and something
/// open besides, nobody knows which of its open records they are; see [`Rest::unread`].
pub const UNREAD: &str = "\u{fffd}";

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
    /// What else is in the row, when it is that of the records without a label.
    pub rest: Rest,
}

/// Records with a label that stand among those without one, because nobody knows how many of which there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rest {
    /// There may be some that were appended by a version that did not count by label.
    pub earlier: bool,
    /// A part of a damaged block was lost: with it, all that is open, until nothing is.
    pub unread: bool,
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
    /// Records below were appended before labels were counted: they have none, at either end.
    pub from: Seq,
}

impl OfFeed {
    /// Changes a tally.
    pub fn add(&mut self, tally: &LabelTally, by: i64) {
        let n = self.tallies.entry(tally.clone()).or_default();
        *n = n.saturating_add_signed(by);
    }

    /// Records lost unread, by what they were tallied as.
    fn unread(&self) -> impl Iterator<Item = (&LabelTally, u64)> {
        let first = LabelTally {
            label: UNREAD.to_owned(),
            outcome: Outcome::Delivered,
            reason: String::new(),
        };
        let behind = self.tallies.range(first..);
        let all = behind.take_while(|(tally, _)| tally.label == UNREAD);
        all.filter(|(_, n)| **n > 0).map(|(tally, n)| (tally, *n))
    }

    /// Whether some of its records were lost unread, and it is not known yet of which labels.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        self.unread().next().is_some()
    }

    /// Records of a label that have ended.
    fn settled(&self, label: &str) -> u64 {
        let all = self.tallies.iter();
        all.filter(|(tally, _)| tally.label == label)
            .map(|(_, n)| n)
            .sum()
    }
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
        if self.counts.contains_key(label) || label == UNREAD {
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
            self.feeds.entry(feed.clone()).or_default().add(tally, *by);
        }
    }

    /// What is known of a feed.
    #[must_use]
    pub fn of_feed(&self, feed: &str) -> OfFeed {
        self.feeds.get(feed).cloned().unwrap_or_default()
    }

    /// Of a feed that has nothing open: each record of a label that has not ended is one of those lost unread. Returns
    /// what to change of its tallies so that they stand where they belong.
    #[must_use]
    pub fn attribute(&self, of: &OfFeed) -> Vec<(LabelTally, i64)> {
        let mut changes = Vec::new();
        let mut open: Vec<(&String, u64)> = Vec::new();
        for (tally, lost) in of.unread() {
            if open.is_empty() && changes.is_empty() {
                let left = self.counts.iter().map(|(label, count)| {
                    let start = of.start.get(label).copied().unwrap_or_default();
                    let records = count.records.saturating_sub(start.records);
                    (label, records.saturating_sub(of.settled(label)))
                });
                open = left.filter(|(_, n)| *n > 0).collect();
            }
            let mut room = lost;
            for (label, n) in &mut open {
                let taken = (*n).min(room);
                *n -= taken;
                room -= taken;
                if taken > 0 {
                    let tally = LabelTally {
                        label: (*label).clone(),
                        ..tally.clone()
                    };
                    changes.push((tally, taken.cast_signed()));
                }
            }
            changes.push((tally.clone(), -lost.cast_signed()));
        }
        changes
    }

    /// A feed's books by label, `whole` being its own, `start` its first record; the last row is what has no label.
    #[must_use]
    pub fn ledger(&self, whole: Ledger, start: Seq) -> Vec<LabelLedger> {
        let empty = OfFeed::default();
        let of = self.feeds.get(&whole.feed).unwrap_or(&empty);
        let unread = of.has_unread();
        let mut rest = whole;
        let mut rest_balanced = true;
        let mut rows = Vec::new();
        for (label, count) in &self.counts {
            let start = of.start.get(label).copied().unwrap_or_default();
            let tallies = || of.tallies.iter().filter(|(tally, _)| tally.label == *label);
            let mut records = count.records.saturating_sub(start.records);
            let deduplicated = count.repeats.saturating_sub(start.repeats);
            let settled = of.settled(label);
            if unread {
                // Which of the open ones are lost is not known yet: all stand in the last row.
                records = records.min(settled);
            }
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
                rest: Rest::default(),
                books,
            });
        }
        let skipped: u64 = rest.skipped.iter().map(|(_, n)| n).sum();
        let dead: u64 = rest.dead.iter().map(|(_, n)| n).sum();
        let parts = rest.delivered + skipped + rest.deduplicated + dead + rest.pending;
        rows.push(LabelLedger {
            label: None,
            balanced: rest_balanced && rest.accepted == parts,
            rest: Rest {
                earlier: start < self.from,
                unread,
            },
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
    fn what_was_lost_unread_stands_with_the_rest_until_nothing_is_open() {
        let tally = |label: &str, outcome, reason: &str| LabelTally {
            label: label.to_owned(),
            outcome,
            reason: reason.to_owned(),
        };
        let mut labels = Labels::default();
        for (label, records) in [("a", 6), ("b", 4)] {
            let count = Count {
                records,
                repeats: 0,
            };
            labels.counts.insert(label.to_owned(), count);
        }
        // Of 12 records (6 a, 4 b, 2 without) 5 were delivered, 4 were lost in one damaged block, 3 wait.
        let of = labels.feeds.entry("f".to_owned()).or_default();
        of.add(&tally("a", Outcome::Delivered, ""), 4);
        of.add(&tally(UNREAD, Outcome::Dead, "damaged"), 4);
        let whole = |delivered, pending| Ledger {
            feed: "f".to_owned(),
            accepted: 12,
            delivered,
            skipped: Vec::new(),
            deduplicated: 0,
            dead: vec![("damaged".to_owned(), 4)],
            pending,
        };
        let shown = |rows: Vec<LabelLedger>| -> Vec<(u64, u64, u64, u64)> {
            assert!(rows.iter().all(|row| row.balanced), "{rows:?}");
            let dead = |row: &LabelLedger| row.books.dead.iter().map(|(_, n)| n).sum();
            let sums = rows.iter().map(|row| {
                let books = &row.books;
                (books.accepted, books.delivered, dead(row), books.pending)
            });
            sums.collect()
        };
        let rows = labels.ledger(whole(5, 3), 0);
        assert!(rows.last().is_some_and(|row| row.rest.unread));
        assert_eq!(shown(rows), [(4, 4, 0, 0), (8, 1, 4, 3)]);
        // The three are through, one of each: what is left of each label is what was lost.
        let of = labels.feeds.entry("f".to_owned()).or_default();
        of.add(&tally("a", Outcome::Delivered, ""), 1);
        of.add(&tally("b", Outcome::Delivered, ""), 1);
        let changes = labels.attribute(&labels.of_feed("f"));
        let of = labels.feeds.entry("f".to_owned()).or_default();
        for (tally, by) in changes {
            of.add(&tally, by);
        }
        let rows = labels.ledger(whole(8, 0), 0);
        assert_eq!(rows.last().map(|row| row.rest), Some(Rest::default()));
        assert_eq!(shown(rows), [(6, 5, 1, 0), (4, 1, 3, 0), (2, 2, 0, 0)]);
        assert_eq!(labels.attribute(&labels.of_feed("f")), [], "once only");
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
            let rows = labels.ledger(whole.clone(), 0);
            let found: Vec<bool> = rows.iter().map(|row| row.balanced).collect();
            assert_eq!(found, good, "{settled}: {rows:?}");
        }
    }
}
