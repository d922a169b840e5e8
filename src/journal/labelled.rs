//! Which labels the records of a run have: of whole blocks as was written beside them, of others by looking.

use std::collections::BTreeMap;
use std::ops::Range;

use super::labels::Count;
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
            let label = self.handle.shared.books.lock().labels.known_as(&label);
            let count = counts.entry(label).or_default();
            count.records = count.records.saturating_sub(n);
        }
        Ok(Some(counts))
    }

    /// How many records of a run have which label. Records of a damaged block of which only a part is asked for have none.
    pub(super) async fn labels_in(
        &self,
        run: Range<Seq>,
    ) -> Result<BTreeMap<String, u64>, JournalError> {
        let mut found = BTreeMap::new();
        if self.handle.shared.books.lock().labels.counts.is_empty() {
            return Ok(found);
        }
        let mut at = run.start;
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
            at = chunk.next.max(at + 1);
        }
        Ok(())
    }
}
