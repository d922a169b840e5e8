//! Counts by label, as rows.

use std::collections::BTreeMap;

use rusqlite::{Connection, Transaction, params};

use super::read::{outcome_of, rows};
use super::{seq, sql};
use crate::journal::labels::{Count, LabelChange, LabelTally, Labels};
use crate::journal::store::{Moved, StoreError};
use crate::journal::{Outcome, Seq};

pub(super) fn write(transaction: &Transaction<'_>, change: &LabelChange) -> rusqlite::Result<()> {
    for (label, more) in &change.counts {
        transaction
            .prepare_cached(
                "INSERT INTO label(name, records, repeats) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET records = records + excluded.records,
                     repeats = repeats + excluded.repeats",
            )?
            .execute(params![label, sql(more.records), sql(more.repeats)])?;
    }
    for (first, labels) in &change.blocks {
        for (label, n) in labels {
            transaction
                .prepare_cached("INSERT INTO label_block(first, label, n) VALUES (?1, ?2, ?3)")?
                .execute(params![sql(*first), label, sql(*n)])?;
        }
    }
    for (feed, start) in &change.starts {
        for (label, count) in start {
            transaction
                .prepare_cached(
                    "INSERT INTO label_start(feed, label, records, repeats) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![feed, label, sql(count.records), sql(count.repeats)])?;
        }
    }
    for ((feed, tally), by) in &change.tallies {
        transaction
            .prepare_cached(
                "INSERT INTO label_tally(feed, label, outcome, reason, n) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET n = n + excluded.n",
            )?
            .execute(params![feed, tally.label, tally.outcome.as_str(), tally.reason, by])?;
    }
    Ok(())
}

/// All counts; none in a store of a format before them.
pub(super) fn load(connection: &Connection) -> Result<Labels, StoreError> {
    let mut labels = Labels::default();
    let from = rows(
        connection,
        "SELECT value FROM meta WHERE key = 'labels_from'",
        [],
        |row| seq(row, 0),
    )?;
    labels.from = from.first().copied().unwrap_or(0);
    let there = rows(
        connection,
        "SELECT 1 FROM sqlite_schema WHERE name = 'label_tally'",
        [],
        |_| Ok(()),
    )?;
    if there.is_empty() {
        return Ok(labels);
    }
    let counts = rows(
        connection,
        "SELECT name, records, repeats FROM label",
        [],
        |row| Ok((row.get(0)?, count(row, 1)?)),
    )?;
    labels.counts = counts.into_iter().collect();
    let starts = rows(
        connection,
        "SELECT feed, label, records, repeats FROM label_start",
        [],
        |row| Ok((row.get::<_, String>(0)?, row.get(1)?, count(row, 2)?)),
    )?;
    for (feed, label, count) in starts {
        labels
            .feeds
            .entry(feed)
            .or_default()
            .start
            .insert(label, count);
    }
    let tallies = rows(
        connection,
        "SELECT feed, label, outcome, reason, n FROM label_tally",
        [],
        |row| {
            let outcome: String = row.get(2)?;
            let (label, reason) = (row.get(1)?, row.get(3)?);
            Ok((
                row.get::<_, String>(0)?,
                label,
                outcome,
                reason,
                seq(row, 4)?,
            ))
        },
    )?;
    for (feed, label, outcome, reason, n) in tallies {
        let tally = LabelTally {
            label,
            outcome: outcome_of(&outcome)?,
            reason,
        };
        labels
            .feeds
            .entry(feed)
            .or_default()
            .tallies
            .insert(tally, n);
    }
    Ok(labels)
}

fn count(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Count> {
    Ok(Count {
        records: seq(row, at)?,
        repeats: seq(row, at + 1)?,
    })
}

pub(super) fn between(
    connection: &Connection,
    from: Seq,
    to: Seq,
) -> Result<BTreeMap<String, u64>, StoreError> {
    let found = rows(
        connection,
        "SELECT label, sum(n) FROM label_block WHERE first >= ?1 AND first < ?2 GROUP BY label",
        params![sql(from), sql(to)],
        |row| Ok((row.get(0)?, seq(row, 1)?)),
    )?;
    Ok(found.into_iter().collect())
}

impl Moved {
    /// One more; `by`: what its label's dead letters change by.
    pub(super) fn count(&mut self, feed: String, reason: String, label: Option<String>, by: i64) {
        if let Some(label) = label {
            let tally = LabelTally {
                label,
                outcome: Outcome::Dead,
                reason: reason.clone(),
            };
            self.labels.tally(&feed, tally, by);
        }
        *self.reasons.entry((feed, reason)).or_default() += 1;
    }
}
