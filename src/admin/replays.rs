//! Replays under way: how far they are, and calling one back.

use axum::Json;
use axum::extract::{Extension, Path, State};
use serde_json::Value;

use super::Admin;
use super::page::rfc3339;
use super::problem::{Problem, ProblemBody};
use crate::registry::ReplayRow;
use crate::registry::audit::Actor;

/// A replay, or the count a dry run gave.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct ReplayView {
    /// Null for a dry run.
    id: Option<String>,
    dry_run: bool,
    /// Dead letters the filter matched.
    matched: u64,
    /// Of them still to be sent.
    waiting: u64,
    /// Of them put back among the dead letters when the replay was cancelled.
    cancelled: u64,
    /// `counted`, `running`, `done` or `cancelled`.
    state: &'static str,
    /// What was asked for.
    #[schema(value_type = Option<Object>)]
    filter: Option<Value>,
    started_at: Option<String>,
}

impl ReplayView {
    /// Nothing was sent.
    pub(super) fn counted(matched: u64, dry_run: bool) -> Self {
        Self {
            id: None,
            dry_run,
            matched,
            waiting: 0,
            cancelled: 0,
            state: "counted",
            filter: None,
            started_at: None,
        }
    }

    pub(super) fn of(row: ReplayRow, waiting: u64) -> Self {
        Self {
            state: match (row.cancelled, waiting) {
                (Some(_), _) => "cancelled",
                (None, 0) => "done",
                (None, _) => "running",
            },
            id: Some(row.id),
            dry_run: false,
            matched: row.matched,
            waiting,
            cancelled: row.cancelled.unwrap_or(0),
            filter: serde_json::from_str(&row.filter).ok(),
            started_at: Some(rfc3339(row.created_at_ms)),
        }
    }
}

/// Shows how far a replay is.
#[utoipa::path(
    get, path = "/replays/{id}", tag = "dead letters",
    params(("id" = String, Path, description = "`rep_…`")),
    responses((status = 200, body = ReplayView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<ReplayView>, Problem> {
    let row = admin.registry().replay(&id).await?;
    let waiting = admin.journal().replay_progress(&id).await?.waiting;
    Ok(Json(ReplayView::of(row, waiting)))
}

/// Puts what a replay has not sent yet back among the dead letters.
#[utoipa::path(
    delete, path = "/replays/{id}", tag = "dead letters",
    params(("id" = String, Path, description = "`rep_…`")),
    responses((status = 200, body = ReplayView), (status = 503), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("operator")))
)]
pub(super) async fn cancel(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<ReplayView>, Problem> {
    admin.registry().replay(&id).await?;
    let back = admin.journal().cancel_replay(&id).await?;
    let row = admin.registry().replay_cancelled(&actor, &id, back).await?;
    let waiting = admin.journal().replay_progress(&id).await?.waiting;
    Ok(Json(ReplayView::of(row, waiting)))
}
