//! Events refused at the door: a bounded, visible log.

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use super::Admin;
use super::deliveries::log_problem;
use super::extract::Params;
use super::page::{Page, limit_of, number_of, rfc3339, time_of};
use super::problem::{Problem, ProblemBody};
use crate::logbook::RejectedFilter;

/// One refused event.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct RejectedView {
    id: String,
    at: String,
    /// The source's id.
    source: String,
    /// Place in its batch, from 0.
    index: u32,
    code: String,
    message: String,
    /// As posted: JSON, or text when it was cut short.
    #[schema(value_type = Object)]
    event: Value,
}

/// Which refused events.
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RejectedParams {
    /// `src_…`
    source: Option<String>,
    /// Stable code.
    code: Option<String>,
    /// Refused at or after (RFC 3339, or Unix milliseconds).
    since: Option<String>,
    /// Rows in one answer, 1 to 100.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists refused events, newest first.
#[utoipa::path(
    get, path = "/rejected-events", tag = "events",
    params(RejectedParams),
    responses((status = 200, body = Page<RejectedView>), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<RejectedParams>,
) -> Result<Json<Page<RejectedView>>, Problem> {
    let limit = limit_of(params.limit)?;
    let before = number_of(params.cursor.as_deref())?;
    let filter = RejectedFilter {
        source: params.source,
        code: params.code,
        since_ms: time_of("since", params.since.as_deref())?,
    };
    let rows = admin
        .logbook()
        .rejections(filter, before, limit + 1)
        .await
        .map_err(log_problem)?
        .into_iter()
        .map(|row| RejectedView {
            id: row.id.to_string(),
            at: rfc3339(row.at_ms),
            source: row.source,
            index: row.index,
            code: row.code,
            message: row.message,
            event: serde_json::from_slice(&row.body)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&row.body).into_owned())),
        })
        .collect();
    Ok(Json(Page::of(rows, limit, |row: &RejectedView| {
        row.id.clone()
    })))
}
