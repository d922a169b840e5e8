//! Alerts raised, and the notices about them that are still to be sent: durable before anybody acts on them.
//!
//! An alert and its notices are written in one transaction, so whoever dies afterwards finds the notices waiting, with
//! the ids they are sent under. Rows in, rows out: what raises an alert is decided elsewhere.

use rusqlite::Row;

use super::alerts::Rule;
use super::control::{ChangeError, Registry};
use super::store::StoreError;
use crate::clock::Millis;

/// What ended is kept so long.
const KEEP_MS: Millis = 90 * 24 * 3_600_000;

/// One alert of one watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertRow {
    /// Number, for paging; 0 before it is stored.
    pub n: i64,
    /// `alt_…`.
    pub id: String,
    /// Whose rules raised it: an endpoint's name, or empty for the gateway's own watch with the usual rules.
    pub endpoint: String,
    /// Which rule.
    pub rule: Rule,
    /// Which integration; empty when it is about the whole gateway.
    pub integration: String,
    /// Its name when the alert was raised.
    pub integration_name: String,
    /// One sentence.
    pub summary: String,
    /// Why, for pauses: `unauthorized`, `admin`, …
    pub reason: Option<String>,
    /// What was measured at the last notice, in the rule's unit.
    pub value: u64,
    /// Above this it fires.
    pub threshold: u64,
    /// Since when it was so.
    pub since_ms: Millis,
    /// When it was last told of.
    pub noticed_ms: Millis,
    /// How often.
    pub notices: u32,
    /// When it was over.
    pub resolved_ms: Option<Millis>,
}

/// One message to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeRow {
    /// Number, in order of sending.
    pub n: i64,
    /// `msg_…`: the `webhook-id` of every attempt.
    pub id: String,
    /// To whom.
    pub endpoint: String,
    /// About which alert; none for a test.
    pub alert: Option<String>,
    /// `alert.firing`, `alert.resolved` or `alert.test`.
    pub kind: String,
    /// The bytes that are signed and sent.
    pub body: String,
    /// When it was raised.
    pub created_ms: Millis,
    /// Attempts so far.
    pub attempts: u32,
    /// Not before this.
    pub next_ms: Millis,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// `sent` or `given_up`; none while it waits.
    pub outcome: Option<String>,
    /// When it ended.
    pub ended_ms: Option<Millis>,
}

/// A message to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNotice {
    /// `msg_…`.
    pub id: String,
    /// To whom.
    pub endpoint: String,
    /// About which alert; none for a test.
    pub alert: Option<String>,
    /// `alert.firing`, `alert.resolved` or `alert.test`.
    pub kind: &'static str,
    /// The bytes to sign and send.
    pub body: String,
}

const ALERT: &str = "SELECT n, id, endpoint, rule, integration, integration_name, summary, reason, value, threshold, \
     since_ms, noticed_ms, notices, resolved_ms FROM alerts";

const NOTICE: &str = "SELECT n, id, endpoint, alert, kind, body, created_ms, attempts, next_ms, last_error, outcome, \
     ended_ms FROM alert_notices";

impl Registry {
    /// Writes down alerts (new ones and changed ones, by id) and the notices about them, all or nothing. Notices to an
    /// endpoint that was removed meanwhile are left out.
    ///
    /// # Errors
    /// When the database fails; nothing of it is stored then.
    pub async fn record_alerts(
        &self,
        alerts: Vec<AlertRow>,
        notices: Vec<NewNotice>,
    ) -> Result<(), ChangeError> {
        self.record(move |tx, inner| {
            let now_ms = inner.clock.now_ms();
            for alert in &alerts {
                if !alert.endpoint.is_empty() && !super::alerts::exists(tx, &alert.endpoint)? {
                    continue;
                }
                tx.execute(
                    "INSERT INTO alerts (id, endpoint, rule, integration, integration_name, summary, reason, value, \
                     threshold, since_ms, noticed_ms, notices, resolved_ms) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
                     ON CONFLICT (id) DO UPDATE SET summary = excluded.summary, reason = excluded.reason, \
                     value = excluded.value, threshold = excluded.threshold, noticed_ms = excluded.noticed_ms, \
                     notices = excluded.notices, resolved_ms = excluded.resolved_ms",
                    rusqlite::params![
                        alert.id,
                        alert.endpoint,
                        alert.rule.as_str(),
                        alert.integration,
                        alert.integration_name,
                        alert.summary,
                        alert.reason,
                        whole(alert.value),
                        whole(alert.threshold),
                        alert.since_ms,
                        alert.noticed_ms,
                        alert.notices,
                        alert.resolved_ms,
                    ],
                )?;
            }
            for notice in &notices {
                if super::alerts::exists(tx, &notice.endpoint)? {
                    tx.execute(
                        "INSERT INTO alert_notices (id, endpoint, alert, kind, body, created_ms, attempts, next_ms) \
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?6)",
                        (
                            &notice.id,
                            &notice.endpoint,
                            &notice.alert,
                            notice.kind,
                            &notice.body,
                            now_ms,
                        ),
                    )?;
                }
            }
            let before_ms = now_ms - KEEP_MS;
            tx.execute("DELETE FROM alerts WHERE resolved_ms < ?1", [before_ms])?;
            tx.execute("DELETE FROM alert_notices WHERE ended_ms < ?1", [before_ms])?;
            Ok(())
        })
        .await
    }

    /// Alerts that are not over.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open_alerts(&self) -> Result<Vec<AlertRow>, ChangeError> {
        self.read(|store| {
            let mut query = store
                .reader()
                .prepare_cached(&format!("{ALERT} WHERE resolved_ms IS NULL ORDER BY n"))?;
            let rows = query.query_map([], alert)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Alerts of one watch, newest first, below `before` if given; only those that are over or not, if asked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn alerts(
        &self,
        endpoint: &str,
        resolved: Option<bool>,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AlertRow>, ChangeError> {
        let endpoint = endpoint.to_owned();
        self.read(move |store| {
            let mut query = store.reader().prepare_cached(&format!(
                "{ALERT} WHERE endpoint = ?1 AND n < ?2 AND (?3 IS NULL OR (resolved_ms IS NOT NULL) = ?3) \
                 ORDER BY n DESC LIMIT ?4"
            ))?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows =
                query.query_map((&endpoint, before.unwrap_or(i64::MAX), resolved, limit), alert)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// The notices about an alert, oldest first, at most 100.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn alert_notices(&self, id: &str) -> Result<Vec<NoticeRow>, ChangeError> {
        let id = id.to_owned();
        self.notices("WHERE alert = ?1 ORDER BY n LIMIT 100", Some(id))
            .await
    }

    /// One notice.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn notice(&self, id: &str) -> Result<Option<NoticeRow>, ChangeError> {
        let id = id.to_owned();
        let rows = self.notices("WHERE id = ?1", Some(id)).await?;
        Ok(rows.into_iter().next())
    }

    /// Of each endpoint the notice that is to be sent next.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_notices(&self) -> Result<Vec<NoticeRow>, ChangeError> {
        self.notices(
            "WHERE n IN (SELECT min(n) FROM alert_notices WHERE outcome IS NULL GROUP BY endpoint)",
            None,
        )
        .await
    }

    /// How many notices wait for an endpoint.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn notices_waiting(&self, endpoint: &str) -> Result<u64, ChangeError> {
        let endpoint = endpoint.to_owned();
        self.read(move |store| {
            let n: i64 = store.reader().query_row(
                "SELECT count(*) FROM alert_notices WHERE endpoint = ?1 AND outcome IS NULL",
                [&endpoint],
                |row| row.get(0),
            )?;
            Ok(n.unsigned_abs())
        })
        .await
    }

    /// Writes down how an attempt went. `outcome`: none when it is to be tried again at `next_ms`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn notice_tried(
        &self,
        n: i64,
        outcome: Option<&'static str>,
        next_ms: Millis,
        error: Option<String>,
    ) -> Result<(), ChangeError> {
        self.record(move |tx, inner| {
            let ended_ms = outcome.map(|_| inner.clock.now_ms());
            tx.execute(
                "UPDATE alert_notices SET attempts = attempts + 1, next_ms = ?2, last_error = ?3, outcome = ?4, \
                 ended_ms = ?5 WHERE n = ?1",
                (n, next_ms, &error, outcome, ended_ms),
            )?;
            Ok(())
        })
        .await
    }

    async fn notices(&self, end: &str, key: Option<String>) -> Result<Vec<NoticeRow>, ChangeError> {
        let sql = format!("{NOTICE} {end}");
        self.read(move |store| {
            let mut query = store.reader().prepare_cached(&sql)?;
            let rows = query.query_map(rusqlite::params_from_iter(key.iter()), notice)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

fn alert(row: &Row<'_>) -> rusqlite::Result<AlertRow> {
    let (id, word): (String, String) = (row.get(1)?, row.get(3)?);
    let rule = Rule::named(&word).ok_or_else(|| {
        let fault = StoreError::Value {
            table: "alerts",
            row: id.clone(),
            detail: format!("unknown rule `{word}`"),
        };
        rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(fault))
    })?;
    Ok(AlertRow {
        n: row.get(0)?,
        id,
        endpoint: row.get(2)?,
        rule,
        integration: row.get(4)?,
        integration_name: row.get(5)?,
        summary: row.get(6)?,
        reason: row.get(7)?,
        value: row.get::<_, i64>(8)?.unsigned_abs(),
        threshold: row.get::<_, i64>(9)?.unsigned_abs(),
        since_ms: row.get(10)?,
        noticed_ms: row.get(11)?,
        notices: row.get(12)?,
        resolved_ms: row.get(13)?,
    })
}

fn notice(row: &Row<'_>) -> rusqlite::Result<NoticeRow> {
    Ok(NoticeRow {
        n: row.get(0)?,
        id: row.get(1)?,
        endpoint: row.get(2)?,
        alert: row.get(3)?,
        kind: row.get(4)?,
        body: row.get(5)?,
        created_ms: row.get(6)?,
        attempts: row.get(7)?,
        next_ms: row.get(8)?,
        last_error: row.get(9)?,
        outcome: row.get(10)?,
        ended_ms: row.get(11)?,
    })
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
