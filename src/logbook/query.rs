//! Questions to the log, newest first.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::{store, tide};
use crate::clock::Millis;

/// Which attempts are meant. Empty: all.
#[derive(Debug, Clone, Default)]
pub struct AttemptFilter {
    /// Of this integration.
    pub integration: Option<String>,
    /// With this verdict (`delivered`, `retry`, `bisect`, `reject`, `pause`).
    pub verdict: Option<String>,
    /// That held this record.
    pub seq: Option<u64>,
    /// Sent at or after.
    pub since_ms: Option<Millis>,
}

/// One attempt as kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptRow {
    /// Its id, increasing.
    pub id: i64,
    /// The integration's id.
    pub integration: String,
    /// Name of the request in the blueprint.
    pub request: String,
    /// When it was sent.
    pub at_ms: Millis,
    /// How long it took.
    pub took_ms: u32,
    /// 1 for the first.
    pub attempt: u32,
    /// Why it was made.
    pub trigger: String,
    /// Events in it.
    pub events: u64,
    /// Their numbers as runs (first, last).
    pub runs: Vec<(u64, u64)>,
    /// Where it went, without secrets.
    pub url: String,
    /// Method.
    pub method: String,
    /// Status, none when there was no answer.
    pub status: Option<u16>,
    /// How the answer was read.
    pub verdict: String,
    /// Class of failure when there was no answer.
    pub error: Option<String>,
    /// Length of the body sent.
    pub request_bytes: u64,
    /// The body sent; none in lists, and when it was left out under load.
    pub request_body: Option<Vec<u8>>,
    /// The answer's body; none in lists.
    pub response_body: Option<Vec<u8>>,
}

/// Which refused events are meant. Empty: all.
#[derive(Debug, Clone, Default)]
pub struct RejectedFilter {
    /// Of this source.
    pub source: Option<String>,
    /// With this code.
    pub code: Option<String>,
    /// At or after.
    pub since_ms: Option<Millis>,
}

/// One refused event as kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RejectedRow {
    /// Its id, increasing.
    pub id: i64,
    /// When.
    pub at_ms: Millis,
    /// The source's id.
    pub source: String,
    /// Place in its batch.
    pub index: u32,
    /// Stable code.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// The event as posted, capped.
    pub body: Vec<u8>,
}

const ATTEMPT_COLUMNS: &str = "id, integration, request, at_ms, took_ms, attempt, trigger_word, events, seqs, url, \
                               method, status, verdict, error, request_bytes";

/// Most numbers an attempt spans before it counts as wide.
const SPAN: i64 = 8_192;

macro_rules! enclosing {
    ($table:literal) => {
        concat!(
            "id in (select id from ",
            $table,
            " where last_seq >= ? and last_seq <= ? and first_seq <= ? union all select id from ",
            $table,
            " where last_seq - first_seq > 8192 and last_seq >= ? and first_seq <= ?)"
        )
    };
}

/// Conditions joined by `and`, and their arguments.
#[derive(Default)]
struct Wanted {
    conditions: Vec<&'static str>,
    arguments: Vec<Value>,
}

impl Wanted {
    fn and(&mut self, condition: &'static str, argument: Option<impl Into<Value>>) {
        if let Some(argument) = argument {
            self.conditions.push(condition);
            self.arguments.push(argument.into());
        }
    }

    /// Rows of `table` whose first and last record enclose `seq`. Most span little, so only those that end soon after it
    /// are looked at; the few that span more have an index of their own (its condition stands in the schema too).
    fn and_enclosing(&mut self, table: &'static str, seq: i64) {
        self.conditions.push(match table {
            "skip" => enclosing!("skip"),
            _ => enclosing!("attempt"),
        });
        let soon = seq.saturating_add(SPAN);
        self.arguments
            .extend([seq, soon, seq, seq, seq].map(Value::Integer));
    }

    /// Rows of `since_ms` or later. Those that surely are not, by their number, are not looked at.
    fn and_since(
        &mut self,
        connection: &Connection,
        table: &'static str,
        since_ms: Option<Millis>,
    ) -> rusqlite::Result<()> {
        if let Some(since_ms) = since_ms {
            self.and("id > ?", Some(tide::behind(connection, table, since_ms)?));
            self.and("at_ms >= ?", Some(since_ms));
        }
        Ok(())
    }

    fn text(&self) -> String {
        if self.conditions.is_empty() {
            "1".to_owned()
        } else {
            self.conditions.join(" and ")
        }
    }
}

pub(super) fn attempts(
    connection: &Connection,
    filter: &AttemptFilter,
    before_id: Option<i64>,
    limit: usize,
) -> rusqlite::Result<Vec<AttemptRow>> {
    let mut wanted = Wanted::default();
    wanted.and("integration = ?", filter.integration.clone());
    wanted.and("verdict = ?", filter.verdict.clone());
    wanted.and("id < ?", before_id);
    wanted.and_since(connection, "attempt", filter.since_ms)?;
    if let Some(seq) = filter.seq {
        wanted.and_enclosing("attempt", i64::try_from(seq).unwrap_or(i64::MAX));
    }
    let mut statement = connection.prepare_cached(&format!(
        "select {ATTEMPT_COLUMNS} from attempt where {} order by id desc",
        wanted.text()
    ))?;
    let mut rows = statement.query(params_from_iter(wanted.arguments))?;
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        let attempt = read_attempt(row)?;
        // First and last enclose it; the runs say whether it was really in.
        let holds = filter.seq.is_none_or(|seq| {
            let within = |run: &(u64, u64)| (run.0..=run.1).contains(&seq);
            attempt.runs.iter().any(within)
        });
        if holds {
            found.push(attempt);
        }
    }
    Ok(found)
}

/// Several attempts by id, with their bodies; those not kept any more are left out.
pub(super) fn whole(connection: &Connection, ids: &[i64]) -> rusqlite::Result<Vec<AttemptRow>> {
    let found = ids.iter().map(|id| attempt(connection, *id).transpose());
    found.flatten().collect()
}

pub(super) fn attempt(connection: &Connection, id: i64) -> rusqlite::Result<Option<AttemptRow>> {
    let mut statement = connection.prepare_cached(&format!(
        "select {ATTEMPT_COLUMNS}, request_body, response_body from attempt where id = ?1"
    ))?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let mut attempt = read_attempt(row)?;
    attempt.request_body = row
        .get::<_, Option<Vec<u8>>>(15)?
        .and_then(|body| store::decompress(&body));
    attempt.response_body = row.get(16)?;
    Ok(Some(attempt))
}

pub(super) fn rejections(
    connection: &Connection,
    filter: &RejectedFilter,
    before_id: Option<i64>,
    limit: usize,
) -> rusqlite::Result<Vec<RejectedRow>> {
    let mut wanted = Wanted::default();
    wanted.and("source = ?", filter.source.clone());
    wanted.and("code = ?", filter.code.clone());
    wanted.and("id < ?", before_id);
    wanted.and_since(connection, "rejected", filter.since_ms)?;
    let mut statement = connection.prepare_cached(&format!(
        "select id, at_ms, source, place, code, message, body from rejected where {} order by id desc",
        wanted.text()
    ))?;
    let mut rows = statement.query(params_from_iter(wanted.arguments))?;
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        found.push(RejectedRow {
            id: row.get(0)?,
            at_ms: row.get(1)?,
            source: row.get(2)?,
            index: row.get(3)?,
            code: row.get(4)?,
            message: row.get(5)?,
            body: row.get(6)?,
        });
    }
    Ok(found)
}

/// Why, and when, a record was skipped; the latest, when more than once.
pub(super) fn skip_of(
    connection: &Connection,
    integration: &str,
    seq: u64,
) -> rusqlite::Result<Option<(String, Millis)>> {
    let number = i64::try_from(seq).unwrap_or(i64::MAX);
    let mut wanted = Wanted::default();
    wanted.and("integration = ?", Some(integration.to_owned()));
    wanted.and_enclosing("skip", number);
    let mut statement = connection.prepare_cached(&format!(
        "select reason, at_ms, seqs from skip where {} order by id desc",
        wanted.text()
    ))?;
    let mut rows = statement.query(params_from_iter(wanted.arguments))?;
    while let Some(row) = rows.next()? {
        let runs = store::unpack(&row.get::<_, Vec<u8>>(2)?);
        if runs.iter().any(|run| (run.0..=run.1).contains(&seq)) {
            return Ok(Some((row.get(0)?, row.get(1)?)));
        }
    }
    Ok(None)
}

fn read_attempt(row: &Row<'_>) -> rusqlite::Result<AttemptRow> {
    let unsigned = |index| {
        row.get::<_, i64>(index)
            .map(|number| u64::try_from(number).unwrap_or(0))
    };
    Ok(AttemptRow {
        id: row.get(0)?,
        integration: row.get(1)?,
        request: row.get(2)?,
        at_ms: row.get(3)?,
        took_ms: row.get(4)?,
        attempt: row.get(5)?,
        trigger: row.get(6)?,
        events: unsigned(7)?,
        runs: store::unpack(&row.get::<_, Vec<u8>>(8)?),
        url: row.get(9)?,
        method: row.get(10)?,
        status: row.get(11)?,
        verdict: row.get(12)?,
        error: row.get(13)?,
        request_bytes: unsigned(14)?,
        request_body: None,
        response_body: None,
    })
}
