//! How far the log had come at which time. Rows are numbered in the order they are written, which is only nearly that of
//! their times: a request may take long, a clock may be set back. A mark says of a time that no row up to a number is
//! younger, so a question for what came since a moment begins behind that number instead of looking at everything. There
//! is a mark for every two seconds at most in which rows came; it costs the writer next to nothing, an index by time would
//! cost it an entry per row.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::clock::Millis;

/// Least time between two marks: at most what is written within it is looked at in vain.
const STEP_MS: Millis = 2_000;

/// The table, and what is kept in it: `tbl` has no row up to `id` that is younger than `at_ms`.
pub(super) const SCHEMA: &str = "
create table if not exists tide(
  tbl text not null, at_ms integer not null, id integer not null, primary key(tbl, at_ms)) without rowid;
";

/// Where one table stands.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tide {
    /// Time of the youngest row and number of the last one; none in an empty table.
    newest: Option<(Millis, i64)>,
    /// Time of the last mark.
    marked_ms: Option<Millis>,
}

impl Tide {
    /// Reads where a table stands, and marks what was written since its last mark: by a version that knew no marks, or
    /// before the process ended.
    pub(super) fn load(connection: &Connection, table: &'static str) -> rusqlite::Result<Self> {
        let last = connection
            .query_row(
                "select at_ms, id from tide where tbl = ?1 order by at_ms desc limit 1",
                [table],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let mut tide = Self {
            newest: last,
            marked_ms: last.map(|(at_ms, _)| at_ms),
        };
        let behind = last.map_or(0, |(_, id)| id);
        let transaction = connection.unchecked_transaction()?;
        {
            let mut written = transaction.prepare(&format!(
                "select id, at_ms from {table} where id > ?1 order by id"
            ))?;
            let mut rows = written.query([behind])?;
            while let Some(row) = rows.next()? {
                tide.wrote(&transaction, table, row.get(0)?, row.get(1)?)?;
            }
        }
        transaction.commit()?;
        Ok(tide)
    }

    /// Takes note of a row just written; marks what was there before it when it is that much younger.
    pub(super) fn wrote(
        &mut self,
        connection: &Connection,
        table: &'static str,
        id: i64,
        at_ms: Millis,
    ) -> rusqlite::Result<()> {
        if let Some((newest_ms, last)) = self.newest
            && at_ms > newest_ms
            && self
                .marked_ms
                .is_none_or(|marked_ms| at_ms.saturating_sub(marked_ms) >= STEP_MS)
        {
            connection
                .prepare_cached("insert or replace into tide(tbl, at_ms, id) values (?1, ?2, ?3)")?
                .execute(params![table, newest_ms, last])?;
            self.marked_ms = Some(newest_ms);
        }
        let newest_ms = self.newest.map_or(at_ms, |(newest_ms, _)| newest_ms);
        self.newest = Some((newest_ms.max(at_ms), id));
        Ok(())
    }
}

/// No row up to this number is of `since_ms` or later; 0 when that is not known of any.
pub(super) fn behind(
    connection: &Connection,
    table: &'static str,
    since_ms: Millis,
) -> rusqlite::Result<i64> {
    let found = connection
        .prepare_cached(
            "select id from tide where tbl = ?1 and at_ms < ?2 order by at_ms desc limit 1",
        )?
        .query_row(params![table, since_ms], |row| row.get(0))
        .optional()?;
    Ok(found.unwrap_or(0))
}

/// Forgets marks at which the table's rows are gone.
pub(super) fn trim(connection: &Connection, table: &'static str) -> rusqlite::Result<()> {
    let mut forget = connection.prepare_cached(&format!(
        "delete from tide where tbl = ?1 and id < coalesce((select min(id) from {table}), 0) and at_ms in
           (select at_ms from tide where tbl = ?1 order by at_ms limit 256)"
    ))?;
    while forget.execute([table])? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(rows: &[Millis]) -> (Connection, Tide) {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        connection
            .execute_batch("create table attempt(id integer primary key, at_ms integer)")
            .unwrap();
        let mut tide = Tide::default();
        for at_ms in rows {
            connection
                .execute("insert into attempt(at_ms) values (?1)", [at_ms])
                .unwrap();
            let id = connection.last_insert_rowid();
            tide.wrote(&connection, "attempt", id, *at_ms).unwrap();
        }
        (connection, tide)
    }

    fn marks(connection: &Connection) -> Vec<(Millis, i64)> {
        let mut all = connection
            .prepare("select at_ms, id from tide order by at_ms")
            .unwrap();
        let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn what_is_asked_for_is_never_behind_and_what_came_long_before_is() {
        // 40 rows a second for ten minutes, requests that took up to 30 s, and a clock set back by a minute on the way.
        let rows: Vec<Millis> = (0..24_000)
            .map(|n: Millis| {
                let set_back = if n > 12_000 { 60_000 } else { 0 };
                n * 25 - set_back - (n * 7_919 % 30_000) * Millis::from(n % 10 == 0)
            })
            .collect();
        let (connection, tide) = log(&rows);
        let first_of = |since_ms: Millis| {
            let mut younger = rows
                .iter()
                .zip(1..)
                .filter(|(at_ms, _)| **at_ms >= since_ms);
            younger.next().map_or(24_001, |(_, id)| id)
        };
        for since_ms in (-50_000..560_000).step_by(777) {
            let behind = behind(&connection, "attempt", since_ms).unwrap();
            assert!(behind < first_of(since_ms), "{since_ms}: {behind}");
            let in_vain = first_of(since_ms) - behind;
            // Two seconds' worth; where the clock was set back, those of the minute that came twice too.
            let twice = (298_000..303_000).contains(&since_ms);
            let bound = if twice { 2_500 } else { 90 };
            assert!(
                in_vain <= bound,
                "{since_ms}: {in_vain} rows looked at in vain"
            );
        }
        let found = marks(&connection);
        assert!(found.len() <= 300, "{}", found.len());
        // A file of a version that knew no marks gets the same; one that was cut short, those that are missing.
        for forget in ["1", "at_ms > 100000"] {
            connection
                .execute(&format!("delete from tide where {forget}"), [])
                .unwrap();
            let again = Tide::load(&connection, "attempt").unwrap();
            assert_eq!(again.newest, tide.newest);
            assert_eq!(marks(&connection), found);
        }
    }

    #[test]
    fn marks_go_with_their_rows() {
        let rows: Vec<Millis> = (0..2_000).map(|n| n * 3_000).collect();
        let (connection, _) = log(&rows);
        connection
            .execute("delete from attempt where id <= 1500", [])
            .unwrap();
        trim(&connection, "attempt").unwrap();
        let left = marks(&connection);
        assert_eq!(left.first(), Some(&(1_500 * 3_000, 1_501)));
        assert_eq!(left.len(), 499);
    }
}
