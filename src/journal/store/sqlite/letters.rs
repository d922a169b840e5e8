//! Dead letters, looked up. There may be millions (a vendor that refuses everything), so no question walks past those it
//! does not ask for: they are found cause by cause (feed and reason; there are few) through an index that holds all a
//! filter looks at.

use std::ops::RangeInclusive;

use bytes::Bytes;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};

use super::{seq, sql};
use crate::journal::{DeadFilter, DeadLetter};

/// Which of those that pass a filter are wanted.
pub(super) struct Share {
    /// Within these ids.
    pub(super) ids: RangeInclusive<i64>,
    /// So many at most, lowest id first.
    pub(super) limit: usize,
    /// Only those whose record is still there.
    pub(super) whole: bool,
}

/// Conditions and their values.
struct Terms {
    terms: Vec<String>,
    values: Vec<Value>,
}

impl Terms {
    /// What a filter asks beside the cause.
    fn of(filter: &DeadFilter) -> Self {
        let mut terms = Self {
            terms: vec!["1".to_owned()],
            values: Vec::new(),
        };
        if let Some(since_ms) = filter.since_ms {
            terms.add("at_ms >=", since_ms);
        }
        if let Some(until_ms) = filter.until_ms {
            terms.add("at_ms <", until_ms);
        }
        if let Some(seq) = filter.seq {
            terms.add("seq =", sql(seq));
        }
        if let Some(ids) = &filter.ids {
            // Numbers only: safe to write out, and not bound by SQLite's limit of parameters.
            let list: Vec<_> = ids.iter().map(i64::to_string).collect();
            terms.terms.push(format!("id IN ({})", list.join(",")));
        }
        terms
    }

    fn add(&mut self, term: &str, value: impl Into<Value>) {
        self.values.push(value.into());
        self.terms.push(format!("{term} ?{}", self.values.len()));
    }

    fn cause(mut self, feed: Option<&str>, reason: Option<&str>) -> Self {
        if let Some(feed) = feed {
            self.add("feed =", feed.to_owned());
        }
        if let Some(reason) = reason {
            self.add("reason =", reason.to_owned());
        }
        self
    }

    fn text(&self) -> String {
        self.terms.join(" AND ")
    }
}

/// The filter's conditions, in as many parts as it takes to find each by an index: by id or number at once, else cause by
/// cause.
fn parts(connection: &Connection, filter: &DeadFilter) -> rusqlite::Result<Vec<Terms>> {
    let (feed, reason) = (filter.feed.as_deref(), filter.reason.as_deref());
    let everything = *filter == DeadFilter::default();
    if everything || filter.ids.is_some() || filter.seq.is_some() {
        return Ok(vec![Terms::of(filter).cause(feed, reason)]);
    }
    let causes = causes(connection, feed, reason)?;
    let of = |(feed, reason): &(String, String)| Terms::of(filter).cause(Some(feed), Some(reason));
    Ok(causes.iter().map(of).collect())
}

/// The feeds and reasons there are letters of: one step in the index for each.
fn causes(
    connection: &Connection,
    feed: Option<&str>,
    reason: Option<&str>,
) -> rusqlite::Result<Vec<(String, String)>> {
    if let (Some(feed), Some(reason)) = (feed, reason) {
        return Ok(vec![(feed.to_owned(), reason.to_owned())]);
    }
    // Each a step of its own: a condition on the pair would walk through all that equal it.
    let mut next_feed = connection
        .prepare_cached("SELECT feed FROM dead_letter WHERE feed > ?1 ORDER BY feed LIMIT 1")?;
    let mut next_reason = connection.prepare_cached(
        "SELECT reason FROM dead_letter WHERE feed = ?1 AND reason > ?2 ORDER BY reason LIMIT 1",
    )?;
    let mut found = Vec::new();
    let mut at = feed.map(str::to_owned);
    loop {
        if feed.is_none() {
            let behind = at.unwrap_or_default();
            at = next_feed
                .query_row([&behind], |row| row.get(0))
                .optional()?;
        }
        let Some(here) = &at else { break };
        let mut cause = String::new();
        while let Some(next) = next_reason
            .query_row([here, &cause], |row| row.get::<_, String>(0))
            .optional()?
        {
            if reason.is_none_or(|reason| reason == next) {
                found.push((here.clone(), next.clone()));
            }
            cause = next;
        }
        if feed.is_some() {
            break;
        }
    }
    Ok(found)
}

/// The ids of those that pass, lowest first.
pub(super) fn chosen(
    connection: &Connection,
    filter: &DeadFilter,
    share: &Share,
) -> rusqlite::Result<Vec<i64>> {
    let mut ids = Vec::new();
    for mut part in parts(connection, filter)? {
        part.add("id >=", *share.ids.start());
        part.add("id <=", *share.ids.end());
        if share.whole {
            part.terms.push("record IS NOT NULL".to_owned());
        }
        let mut statement = connection.prepare_cached(&format!(
            "SELECT id FROM dead_letter WHERE {} ORDER BY id LIMIT {}",
            part.text(),
            share.limit
        ))?;
        let found = statement.query_map(params_from_iter(part.values), |row| row.get(0))?;
        for id in found {
            ids.push(id?);
        }
    }
    ids.sort_unstable();
    ids.truncate(share.limit);
    Ok(ids)
}

/// Those with these ids, in their order.
pub(super) fn read(connection: &Connection, ids: &[i64]) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, feed, seq, at_ms, reason, detail, attempts, status, answer, record, parts_done
         FROM dead_letter WHERE id = ?1",
    )?;
    let mut found = Vec::new();
    for id in ids {
        // One may have been sent again meanwhile.
        found.extend(statement.query_row(params![id], letter).optional()?);
    }
    Ok(found)
}

/// How many pass, and the lowest and the highest id of them (0 and 0 when none does).
pub(super) fn count(
    connection: &Connection,
    filter: &DeadFilter,
) -> rusqlite::Result<(u64, (i64, i64))> {
    let (mut n, mut ids) = (0, None);
    for part in parts(connection, filter)? {
        let (more, found): (u64, Option<(i64, i64)>) = connection.query_row(
            &format!(
                "SELECT count(*), min(id), max(id) FROM dead_letter WHERE {}",
                part.text()
            ),
            params_from_iter(part.values),
            |row| {
                let (lowest, highest): (Option<i64>, Option<i64>) = (row.get(1)?, row.get(2)?);
                Ok((seq(row, 0)?, lowest.zip(highest)))
            },
        )?;
        n += more;
        ids = match (ids, found) {
            (Some((low, high)), Some((lowest, highest))) => {
                Some((lowest.min(low), highest.max(high)))
            }
            (known, found) => known.or(found),
        };
    }
    Ok((n, ids.unwrap_or_default()))
}

fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get(0)?,
        feed: row.get(1)?,
        seq: seq(row, 2)?,
        at_ms: row.get(3)?,
        reason: row.get(4)?,
        detail: row.get(5)?,
        attempts: row.get(6)?,
        status: row.get(7)?,
        answer: row.get(8)?,
        record: row
            .get::<_, Option<Vec<u8>>>(9)?
            .map_or_else(Bytes::new, Bytes::from),
        parts_done: seq(row, 10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::store::Store as _;
    use crate::journal::store::sqlite::SqliteStore;

    /// Letters of two feeds and three reasons, not in the order of their times.
    fn letters(dir: &tempfile::TempDir) -> Vec<(i64, &'static str, &'static str, i64)> {
        let store = SqliteStore::open(dir.path(), [1; 16]).unwrap();
        let mut all = Vec::new();
        for n in 0..120_i64 {
            let feed = ["a", "b"][usize::from(n % 5 == 0)];
            let reason = ["gone", "odd", "rejected"][n.unsigned_abs() as usize % 3];
            let at_ms = 1_000 + n * 10 - (n % 4) * 100;
            store
                .connection
                .execute(
                    "INSERT INTO dead_letter(feed, seq, at_ms, reason, detail, attempts, answer, record)
                     VALUES (?1, ?2, ?3, ?4, 'why', 1, '', CASE WHEN ?2 % 7 = 0 THEN NULL ELSE x'42' END)",
                    params![feed, n, at_ms, reason],
                )
                .unwrap();
            all.push((n + 1, feed, reason, at_ms));
        }
        Box::new(store).close(true).unwrap();
        all
    }

    #[test]
    fn each_filter_finds_its_letters_and_walks_past_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let all = letters(&dir);
        let store = SqliteStore::open(dir.path(), [1; 16]).unwrap();
        let connection = &store.connection;
        for (feed, reason, since_ms, until_ms) in [
            (None, None, None, None),
            (Some("a"), None, None, None),
            (None, Some("odd"), None, None),
            (Some("b"), Some("rejected"), None, None),
            (None, None, Some(1_500), Some(2_000)),
            (Some("a"), None, Some(1_500), None),
            (Some("none"), None, None, None),
        ] {
            let filter = DeadFilter {
                feed: feed.map(str::to_owned),
                reason: reason.map(str::to_owned),
                since_ms,
                until_ms,
                ..DeadFilter::default()
            };
            let passes = |row: &&(i64, &str, &str, i64)| {
                feed.is_none_or(|feed| feed == row.1)
                    && reason.is_none_or(|reason| reason == row.2)
                    && since_ms.is_none_or(|since_ms| row.3 >= since_ms)
                    && until_ms.is_none_or(|until_ms| row.3 < until_ms)
            };
            let wanted: Vec<i64> = all.iter().filter(passes).map(|row| row.0).collect();
            let (mut found, mut after) = (Vec::new(), 0);
            loop {
                let share = Share {
                    ids: after + 1..=i64::MAX,
                    limit: 7,
                    whole: false,
                };
                let page = chosen(connection, &filter, &share).unwrap();
                let Some(last) = page.last() else { break };
                after = *last;
                found.extend(page);
            }
            assert_eq!(found, wanted, "{filter:?}");
            let ends = wanted.first().copied().zip(wanted.last().copied());
            let counted = count(connection, &filter).unwrap();
            let expected = (wanted.len() as u64, ends.unwrap_or_default());
            assert_eq!(counted, expected, "{filter:?}");
            let share = Share {
                ids: 10..=100,
                limit: 500,
                whole: true,
            };
            let whole = chosen(connection, &filter, &share).unwrap();
            let within = |id: &&i64| (10..=100).contains(*id) && (*id - 1) % 7 != 0;
            assert!(whole.iter().eq(wanted.iter().filter(within)), "{filter:?}");
            for part in parts(connection, &filter).unwrap() {
                let query = format!(
                    "EXPLAIN QUERY PLAN SELECT id FROM dead_letter WHERE {} AND id > 5 ORDER BY id",
                    part.text()
                );
                let mut plan = connection.prepare(&query).unwrap();
                let steps = plan
                    .query_map(params_from_iter(part.values), |row| row.get(3))
                    .unwrap();
                let steps: Vec<String> = steps.map(Result::unwrap).collect();
                let by_cause = steps[0].contains("dead_letter_cause (feed=? AND reason=?");
                let by_id = filter == DeadFilter::default() && steps[0].contains("rowid>?");
                assert!(steps.len() == 1 && (by_cause || by_id), "{steps:?}");
            }
        }
        let one = DeadFilter {
            feed: Some("b".into()),
            seq: Some(15),
            ..DeadFilter::default()
        };
        assert_eq!(count(connection, &one).unwrap(), (1, (16, 16)));
        let some = DeadFilter {
            feed: Some("a".into()),
            ids: Some(vec![2, 6, 7]),
            ..DeadFilter::default()
        };
        assert_eq!(count(connection, &some).unwrap(), (2, (2, 7)));
    }
}
