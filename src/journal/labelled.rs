//! Which labels the records of a run have: of whole blocks as was written beside them, of others by looking.

use std::collections::BTreeMap;
use std::ops::Range;

use super::labels::{Count, UNREAD};
use super::{Journal, JournalError, Seq};

/// What lies at a place of a run.
enum Piece {
    /// Whole blocks up to `end`, and the labels written beside them.
    Blocks {
        end: Seq,
        labels: BTreeMap<String, u64>,
    },
    /// A part of a block, up to `end` or the end of the run.
    Part { end: Seq },
    /// Nothing any more.
    Nothing,
}

impl Journal {
    /// The counts by label as they were when record `seq` was appended; none when it is yet to come.
    pub(super) async fn counts_at(
        &self,
        seq: Seq,
    ) -> Result<Option<BTreeMap<String, Count>>, JournalError> {
        let (next, mut counts) = {
            let books = self.handle.shared.books.lock();
            (books.next, books.labels.counts.clone())
        };
        if seq >= next {
            return Ok(None);
        }
        for (label, n) in self.labels_in(seq..next).await? {
            if label == UNREAD {
                continue;
            }
            let label = self.handle.shared.books.lock().labels.known_as(&label);
            let count = counts.entry(label).or_default();
            count.records = count.records.saturating_sub(n);
        }
        Ok(Some(counts))
    }

    /// How many records of a run have which label, those from before labels were counted left out. Records of a damaged
    /// block of which only a part is asked for are [`UNREAD`].
    pub(super) async fn labels_in(
        &self,
        run: Range<Seq>,
    ) -> Result<BTreeMap<String, u64>, JournalError> {
        let mut found = BTreeMap::new();
        let mut at = {
            let books = self.handle.shared.books.lock();
            if books.labels.counts.is_empty() {
                return Ok(found);
            }
            run.start.max(books.labels.from)
        };
        while at < run.end {
            let end = match self.piece(at..run.end).await? {
                Piece::Blocks { end, labels } => {
                    for (label, n) in labels {
                        *found.entry(label).or_default() += n;
                    }
                    end
                }
                Piece::Part { end } => {
                    self.look_in(at..end.min(run.end), &mut found).await?;
                    end
                }
                Piece::Nothing => run.end,
            };
            at = end.max(at + 1);
        }
        Ok(found)
    }

    /// What a run begins with.
    async fn piece(&self, run: Range<Seq>) -> Result<Piece, JournalError> {
        self.query(move |reader| {
            let (Some(first), Some(last)) = (
                reader.block_at(run.start)?,
                reader.block_at(run.end.saturating_sub(1))?,
            ) else {
                return Ok(Piece::Nothing);
            };
            let end = if last.first + last.n > run.end {
                last.first
            } else {
                run.end
            };
            if first.first < run.start || end <= run.start {
                return Ok(Piece::Part {
                    end: first.first + first.n,
                });
            }
            let labels = reader.labels_between(run.start, end)?;
            Ok(Piece::Blocks { end, labels })
        })
        .await
    }

    async fn look_in(
        &self,
        run: Range<Seq>,
        found: &mut BTreeMap<String, u64>,
    ) -> Result<(), JournalError> {
        let options = &self.handle.shared.options;
        let (label, bytes_max) = (options.label, options.block_bytes_max);
        let mut at = run.start;
        while at < run.end {
            let chunk = self.read(at, bytes_max).await?;
            for entry in chunk.entries {
                if run.contains(&entry.seq)
                    && let Some(label) = label(&entry.bytes)
                {
                    *found.entry(label).or_default() += 1;
                }
            }
            for lost in chunk.damaged {
                let n = lost
                    .end
                    .min(run.end)
                    .saturating_sub(lost.start.max(run.start));
                if n > 0 {
                    *found.entry(UNREAD.to_owned()).or_default() += n;
                }
            }
            at = chunk.next.max(at + 1);
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "lists of runs, often of one"
)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;

    use crate::clock::ManualClock;
    use crate::journal::labels::{LabelTally, Rest};
    use crate::journal::store::sqlite::SqliteStore;
    use crate::journal::{
        FeedStart, Journal, LabelLedger, Options, Outcome, Record, Seq, Settle, Tally,
    };

    /// Even records are decisions of `a` or `b`, odd ones have no label.
    fn label(record: &[u8]) -> Option<String> {
        record
            .starts_with(b"d")
            .then(|| char::from(record[1]).to_string())
    }

    fn open(dir: &Path) -> Journal {
        let options = Options {
            free_bytes_min: 0,
            dedup_bytes_max: 1 << 20,
            label,
            ..Options::default()
        };
        let store = SqliteStore::open(dir, [7; 16]).unwrap();
        Journal::open(Box::new(store), options, ManualClock::at(1_000)).unwrap()
    }

    async fn append(journal: &Journal, texts: &[&'static str]) {
        let end = *journal.end().borrow();
        let records = texts
            .iter()
            .zip(end + 1..)
            .map(|(text, fingerprint)| Record {
                fingerprint,
                bytes: Bytes::from_static(text.as_bytes()),
            });
        journal.append(records.collect()).await.unwrap();
    }

    /// Settles a run as delivered; `labels` as the pipeline read them.
    fn delivered(run: std::ops::Range<Seq>, labels: &[&str]) -> Settle {
        let mut settle = Settle {
            feed: "f".to_owned(),
            tallies: vec![Tally {
                outcome: Outcome::Delivered,
                reason: String::new(),
                n: run.end - run.start,
            }],
            done: vec![run],
            ..Settle::default()
        };
        for label in labels {
            let tally = LabelTally {
                label: (*label).to_owned(),
                outcome: Outcome::Delivered,
                reason: String::new(),
            };
            *settle.labelled.entry(tally).or_default() += 1;
        }
        settle
    }

    /// Each row as (label, accepted, delivered, dead, waiting); all must add up.
    async fn rows(journal: &Journal) -> (Vec<(String, u64, u64, u64, u64)>, Rest) {
        let rows = journal.ledger_by_label().await.unwrap();
        let whole = journal.ledger().await.unwrap().remove(0);
        let sum = |of: &dyn Fn(&LabelLedger) -> u64| rows.iter().map(of).sum::<u64>();
        assert_eq!(sum(&|row| row.books.accepted), whole.accepted);
        assert_eq!(sum(&|row| row.books.pending), whole.pending);
        let shown = rows.iter().map(|row| {
            assert!(row.balanced, "{row:?}");
            let dead = row.books.dead.iter().map(|(_, n)| n).sum();
            let name = row.label.clone().unwrap_or_default();
            let books = &row.books;
            (name, books.accepted, books.delivered, dead, books.pending)
        });
        (shown.collect(), rows.last().unwrap().rest)
    }

    fn row(label: &str, numbers: [u64; 4]) -> (String, u64, u64, u64, u64) {
        let [accepted, delivered, dead, pending] = numbers;
        (label.to_owned(), accepted, delivered, dead, pending)
    }

    #[tokio::test]
    async fn a_block_damaged_after_a_part_of_it_was_settled_is_counted_by_label_once_nothing_is_open()
     {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path());
        journal.open_feed("f", FeedStart::Now).await.unwrap();
        append(&journal, &["da", "db", "e", "da", "da", "e"]).await;
        append(&journal, &["db"]).await;
        journal.settle(delivered(0..2, &["a", "b"])).await.unwrap();
        journal.close().await;
        rusqlite::Connection::open(dir.path().join("journal.db"))
            .unwrap()
            .execute("UPDATE block SET body = x'00' WHERE first = 0", [])
            .unwrap();

        let journal = open(dir.path());
        let lost = Settle {
            feed: "f".to_owned(),
            tallies: vec![Tally {
                outcome: Outcome::Dead,
                reason: "damaged".to_owned(),
                n: 4,
            }],
            done: vec![2..6],
            unread: vec![(2..6, Outcome::Dead, "damaged".to_owned())],
            ..Settle::default()
        };
        journal.settle(lost).await.unwrap();
        let open_still = Rest {
            unread: true,
            ..Rest::default()
        };
        let expected = vec![
            row("a", [1, 1, 0, 0]),
            row("b", [1, 1, 0, 0]),
            row("", [5, 0, 4, 1]),
        ];
        assert_eq!(rows(&journal).await, (expected, open_still));

        journal.settle(delivered(6..7, &["b"])).await.unwrap();
        let expected = vec![
            row("a", [3, 1, 2, 0]),
            row("b", [2, 2, 0, 0]),
            row("", [2, 0, 2, 0]),
        ];
        assert_eq!(rows(&journal).await, (expected.clone(), Rest::default()));
        journal.close().await;
        let journal = open(dir.path());
        assert_eq!(
            rows(&journal).await,
            (expected, Rest::default()),
            "and stays so"
        );
    }

    #[tokio::test]
    async fn decisions_from_before_labels_were_counted_stand_with_the_other_events() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path());
        journal.open_feed("f", FeedStart::Now).await.unwrap();
        append(&journal, &["da", "e", "db"]).await;
        journal.close().await;
        // As a version of format 3 left it.
        rusqlite::Connection::open(dir.path().join("journal.db"))
            .unwrap()
            .execute_batch(
                "DROP INDEX dead_letter_cause; DROP TABLE label; DROP TABLE label_block; DROP TABLE label_start;
                 DROP TABLE label_tally; DELETE FROM meta WHERE key = 'labels_from';
                 PRAGMA user_version = 3; PRAGMA wal_checkpoint(TRUNCATE);",
            )
            .unwrap();

        let journal = open(dir.path());
        assert_eq!(journal.labels_from(), 3);
        append(&journal, &["da", "da"]).await;
        // The pipeline gives labels of those only that were counted; what it has not read is looked up.
        journal.settle(delivered(0..4, &["a"])).await.unwrap();
        let skipped = Settle {
            feed: "f".to_owned(),
            tallies: vec![Tally {
                outcome: Outcome::Skipped,
                reason: "expired".to_owned(),
                n: 1,
            }],
            done: vec![4..5],
            unread: vec![(4..5, Outcome::Skipped, "expired".to_owned())],
            ..Settle::default()
        };
        journal.settle(skipped).await.unwrap();
        let earlier = Rest {
            earlier: true,
            ..Rest::default()
        };
        let expected = vec![row("a", [2, 1, 0, 0]), row("", [3, 3, 0, 0])];
        assert_eq!(rows(&journal).await, (expected.clone(), earlier));
        // One installed since has none of them.
        journal.open_feed("g", FeedStart::Now).await.unwrap();
        let found = journal.ledger_by_label().await.unwrap();
        let new = found.iter().find(|row| row.books.feed == "g").unwrap();
        assert_eq!(new.rest, Rest::default());
        journal.close().await;
        let journal = open(dir.path());
        let found = journal.ledger_by_label().await.unwrap();
        let mut old = found.iter().filter(|row| row.books.feed == "f");
        assert!(old.all(|row| row.balanced), "{found:?}");
    }
}
