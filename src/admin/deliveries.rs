//! The delivery log: every request made at a vendor and what came back.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::Value;

use super::Admin;
use super::extract::Params;
use super::page::{Page, limit_of, number_of, rfc3339, time_of};
use super::problem::{Problem, ProblemBody};
use super::story::{mask, shown};
use crate::blueprint::Config;
use crate::logbook::{AttemptFilter, AttemptRow, LogbookError};

/// Longest body shown in a list, in bytes; the attempt by itself shows all that was kept.
const LIST_BODY_BYTES_MAX: usize = 16 << 10;

/// One request made at a vendor; secrets masked.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct AttemptView {
    id: String,
    integration: String,
    /// Name of the request in the blueprint.
    pub(super) request: String,
    pub(super) at: String,
    took_ms: u32,
    /// 1 for the first.
    attempt: u32,
    /// Why it was made: `batch`, `replay`, `hold`, `test` or `probe`.
    trigger: String,
    /// Events in it.
    events: u64,
    method: String,
    url: String,
    /// Null when it was left out of the log, or is too long for a list.
    #[schema(value_type = Option<Object>)]
    pub(super) request_body: Option<Value>,
    request_bytes: u64,
    /// Null when there was no answer.
    status: Option<u16>,
    #[schema(value_type = Option<Object>)]
    response_body: Option<Value>,
    /// How the answer was read: `delivered`, `retry`, `bisect`, `reject` or `pause`.
    pub(super) verdict: String,
    /// Class of failure when there was no answer.
    error: Option<String>,
}

/// Which attempts.
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AttemptParams {
    /// `int_…`
    integration: Option<String>,
    /// `delivered`, `retry`, `bisect`, `reject` or `pause`.
    outcome: Option<String>,
    /// That held an event with this `messageId`.
    message_id: Option<String>,
    /// Sent at or after (RFC 3339, or Unix milliseconds).
    since: Option<String>,
    /// Rows in one answer, 1 to 100.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl AttemptView {
    pub(super) fn of(row: AttemptRow, config: &Config) -> Self {
        let body = |bytes: Option<Vec<u8>>| bytes.map(|bytes| shown(config, &bytes));
        Self {
            id: row.id.to_string(),
            integration: row.integration,
            request: row.request,
            at: rfc3339(row.at_ms),
            took_ms: row.took_ms,
            attempt: row.attempt,
            trigger: row.trigger,
            events: row.events,
            method: row.method,
            url: mask(config, &row.url),
            request_body: body(row.request_body),
            request_bytes: row.request_bytes,
            status: row.status,
            response_body: body(row.response_body),
            verdict: row.verdict,
            error: row.error,
        }
    }
}

/// The log failed: it is beside the events, none of them is lost by it.
pub(super) fn log_problem(error: LogbookError) -> Problem {
    tracing::error!(%error, "the delivery log could not be read");
    Problem::new(
        axum::http::StatusCode::INTERNAL_SERVER_ERROR,
        "log_failed",
        "the delivery log could not be read; the log says more",
    )
}

fn config_of(admin: &Admin, integration: &str) -> Config {
    admin
        .registry()
        .picture()
        .integration(integration)
        .map_or_else(Config::new, |installed| installed.config.clone())
}

/// Lists attempts, newest first, with request and reply.
#[utoipa::path(
    get, path = "/deliveries", tag = "events",
    params(AttemptParams),
    responses((status = 200, body = Page<AttemptView>), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<AttemptParams>,
) -> Result<Json<Page<AttemptView>>, Problem> {
    let limit = limit_of(params.limit)?;
    let before: Option<i64> = number_of(params.cursor.as_deref())?;
    let verdict = verdict_of(params.outcome)?;
    let mut filter = AttemptFilter {
        integration: params.integration,
        verdict,
        seq: None,
        since_ms: time_of("since", params.since.as_deref())?,
    };
    let mut rows = Vec::new();
    if let Some(message_id) = &params.message_id {
        for seq in super::events::seqs_of(&admin, message_id, None).await? {
            filter.seq = Some(seq);
            rows.extend(
                admin
                    .logbook()
                    .attempts(filter.clone(), before, limit + 1)
                    .await
                    .map_err(log_problem)?,
            );
        }
        rows.sort_unstable_by_key(|row: &AttemptRow| std::cmp::Reverse(row.id));
        rows.dedup_by_key(|row| row.id);
    } else {
        rows = admin
            .logbook()
            .attempts(filter, before, limit + 1)
            .await
            .map_err(log_problem)?;
    }
    let mut page = Page::of(rows, limit, |row: &AttemptRow| row.id.to_string());
    let ids = page.rows().iter().map(|row| row.id).collect();
    let whole = admin
        .logbook()
        .attempts_by_id(ids)
        .await
        .map_err(log_problem)?;
    let mut whole = whole.into_iter().peekable();
    for row in page.rows_mut() {
        // One may have been trimmed meanwhile.
        if let Some(whole) = whole.next_if(|whole| whole.id == row.id) {
            *row = whole;
            let short = |body: &Vec<u8>| body.len() <= LIST_BODY_BYTES_MAX;
            row.request_body = row.request_body.take().filter(short);
            row.response_body = row.response_body.take().filter(short);
        }
    }
    Ok(Json(page.map(|row| {
        let config = config_of(&admin, &row.integration);
        AttemptView::of(row, &config)
    })))
}

/// Shows one attempt with its whole bodies.
#[utoipa::path(
    get, path = "/deliveries/{id}", tag = "events",
    params(("id" = String, Path, description = "Id of the attempt")),
    responses((status = 200, body = AttemptView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<AttemptView>, Problem> {
    let missing = || Problem::not_found("kept attempt", &id);
    let number = id.parse().map_err(|_| missing())?;
    let row = admin
        .logbook()
        .attempt_by_id(number)
        .await
        .map_err(log_problem)?
        .ok_or_else(missing)?;
    let config = config_of(&admin, &row.integration);
    Ok(Json(AttemptView::of(row, &config)))
}

fn verdict_of(outcome: Option<String>) -> Result<Option<String>, Problem> {
    match outcome.as_deref() {
        None | Some("delivered" | "retry" | "bisect" | "reject" | "pause") => Ok(outcome),
        Some("dead") => Ok(Some("reject".to_owned())),
        Some(_) => Err(Problem::field(
            "outcome",
            "unknown_outcome",
            "must be delivered, retry, bisect, reject or pause",
        )),
    }
}
