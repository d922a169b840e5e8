//! Dead letters: looked at, and sent again.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use serde_json::Value;

use super::Admin;
use super::extract::{Body, Params};
use super::page::{Page, limit_of, number_of, rfc3339, time_of};
use super::problem::{Problem, ProblemBody};
use super::replays::ReplayView;
use super::story::shown;
use crate::blueprint::{Config, FieldFault};
use crate::journal::{DeadFilter, DeadLetter};
use crate::registry::audit::Actor;

/// Events a second that a replay sends when nothing is said.
const RATE_DEFAULT: f64 = 500.0;

/// Most that may be said.
const RATE_MAX: f64 = 100_000.0;

/// A delivery that was given up.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct DeadLetterView {
    id: String,
    integration: String,
    /// Number of the event in the journal.
    seq: String,
    message_id: Option<String>,
    at: String,
    /// Short machine-readable cause.
    reason: String,
    /// The same in a sentence.
    detail: String,
    attempts: u32,
    /// Status the vendor answered last.
    status: Option<u16>,
    /// The vendor's last answer, capped.
    answer: String,
    /// As accepted.
    #[schema(value_type = Option<Object>)]
    event: Option<Value>,
}

/// Which dead letters.
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeadParams {
    /// `int_…`
    integration: Option<String>,
    /// Short machine-readable cause.
    reason: Option<String>,
    /// Given up at or after (RFC 3339, or Unix milliseconds).
    since: Option<String>,
    /// Given up before.
    until: Option<String>,
    /// Rows in one answer, 1 to 100.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Which dead letters to send again; all conditions hold together, none means all.
#[derive(Debug, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ReplayBody {
    /// `int_…`
    integration: Option<String>,
    /// Short machine-readable cause.
    reason: Option<String>,
    /// Given up at or after (RFC 3339).
    since: Option<String>,
    /// Given up before.
    until: Option<String>,
    /// These only.
    ids: Option<Vec<String>>,
    /// Count only.
    dry_run: bool,
    /// Events a second; 500 when left out.
    #[schema(value_type = Option<f64>)]
    rate: Option<serde_json::Number>,
}

impl DeadLetterView {
    fn of(letter: DeadLetter, config: &Config) -> Self {
        let event: Option<Value> = serde_json::from_slice(&letter.record).ok();
        let answer = match shown(config, letter.answer.as_bytes()) {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Self {
            id: letter.id.to_string(),
            integration: letter.feed,
            seq: letter.seq.to_string(),
            message_id: event
                .as_ref()
                .and_then(|event| event.get("messageId")?.as_str())
                .map(str::to_owned),
            at: rfc3339(letter.at_ms),
            reason: letter.reason,
            detail: letter.detail,
            attempts: letter.attempts,
            status: letter.status,
            answer,
            event,
        }
    }
}

/// Lists dead letters, oldest first.
#[utoipa::path(
    get, path = "/dead-letters", tag = "dead letters",
    params(DeadParams),
    responses((status = 200, body = Page<DeadLetterView>), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<DeadParams>,
) -> Result<Json<Page<DeadLetterView>>, Problem> {
    let limit = limit_of(params.limit)?;
    let after = number_of(params.cursor.as_deref())?;
    let filter = DeadFilter {
        feed: params.integration,
        reason: params.reason,
        since_ms: time_of("since", params.since.as_deref())?,
        until_ms: time_of("until", params.until.as_deref())?,
        ..DeadFilter::default()
    };
    let picture = admin.registry().picture();
    let no_config = Config::new();
    let rows = admin
        .journal()
        .dead_letters(filter, after, limit + 1)
        .await?
        .into_iter()
        .map(|letter| {
            let config = picture
                .integration(&letter.feed)
                .map_or(&no_config, |installed| &installed.config);
            DeadLetterView::of(letter, config)
        })
        .collect();
    Ok(Json(Page::of(rows, limit, |row: &DeadLetterView| {
        row.id.clone()
    })))
}

/// Sends dead letters again under the same event ids. `dry_run` only counts them.
#[utoipa::path(
    post, path = "/dead-letters/replay", tag = "dead letters",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters of your choice: within 24 hours the same request with the same key has one effect and one answer")),
    request_body = ReplayBody,
    responses(
        (status = 200, description = "Counted (dry run), or there was none to send", body = ReplayView),
        (status = 202, description = "Under way", body = ReplayView),
        (status = 503), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("operator")))
)]
pub(super) async fn replay(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Body(body): Body<ReplayBody>,
) -> Result<(StatusCode, Json<ReplayView>), Problem> {
    let (filter, rate) = checked(&admin, &body)?;
    let matched = admin.journal().dead_count(filter.clone()).await?;
    if body.dry_run || matched == 0 {
        return Ok((
            StatusCode::OK,
            Json(ReplayView::counted(matched, body.dry_run)),
        ));
    }
    let about = serde_json::json!({
        "integration": body.integration, "reason": body.reason, "since": body.since,
        "until": body.until, "ids": body.ids, "rate": rate,
    });
    let id = admin
        .registry()
        .begin_replay(&actor, about, matched)
        .await?;
    let moved = admin.journal().replay(&id, filter, rate).await?;
    let row = admin.registry().replay_moved(&id, moved).await?;
    let waiting = admin.journal().replay_progress(&id).await?.waiting;
    Ok((StatusCode::ACCEPTED, Json(ReplayView::of(row, waiting))))
}

fn checked(admin: &Admin, body: &ReplayBody) -> Result<(DeadFilter, f64), Problem> {
    let mut faults = Vec::new();
    let mut fault = |field: &str, code: &str, message: String| {
        faults.push(FieldFault {
            field: field.to_owned(),
            code: code.to_owned(),
            message,
        });
    };
    if let Some(id) = &body.integration
        && admin.registry().picture().integration(id).is_none()
    {
        fault(
            "integration",
            "unknown_integration",
            format!("there is no integration `{}`", id.escape_default()),
        );
    }
    let mut ids = Vec::new();
    for (place, id) in body.ids.iter().flatten().enumerate() {
        match id.parse() {
            Ok(id) => ids.push(id),
            Err(_) => fault(
                &format!("ids[{place}]"),
                "unknown_dead_letter",
                "is not the id of a dead letter".to_owned(),
            ),
        }
    }
    let rate = match &body.rate {
        None => RATE_DEFAULT,
        Some(rate) => rate.as_f64().unwrap_or(f64::NAN),
    };
    if !(rate > 0.0 && rate <= RATE_MAX) {
        fault(
            "rate",
            "out_of_range",
            format!("must be more than 0 and at most {RATE_MAX} events a second"),
        );
    }
    if !faults.is_empty() {
        return Err(Problem::fields(faults));
    }
    let filter = DeadFilter {
        feed: body.integration.clone(),
        reason: body.reason.clone(),
        since_ms: time_of("since", body.since.as_deref())?,
        until_ms: time_of("until", body.until.as_deref())?,
        ids: body.ids.is_some().then_some(ids),
        seq: None,
    };
    Ok((filter, rate))
}
