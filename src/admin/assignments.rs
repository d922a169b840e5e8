//! Who has which variation of which flag.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Admin;
use super::extract::Params;
use super::page::{Page, limit_of, number_of, rfc3339};
use super::problem::{Problem, ProblemBody};
use crate::assignments::{Assignment, AssignmentsError, Filter, Place};

/// The newest decision about a flag for a user.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct AssignmentView {
    user: String,
    /// The flag's key.
    flag: String,
    enabled: bool,
    /// The variation's key.
    variation: Option<String>,
    /// The rule's key.
    rule: Option<String>,
    /// `experiment`, `rollout`, `everyone_else`, `holdout`, `forced` or `none`; null when no datafile knew the flag.
    rule_kind: Option<String>,
    experiment_id: Option<String>,
    /// The datafile's revision.
    revision: Option<String>,
    /// The source that reported it.
    source: String,
    decided_at: String,
    /// Number of the event in the journal.
    seq: String,
    #[serde(skip)]
    place: String,
}

/// Which assignments.
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AssignmentParams {
    /// Of this user.
    user: Option<String>,
    /// Of this flag.
    flag: Option<String>,
    /// Rows in one answer, 1 to 100.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl AssignmentView {
    fn of((place, row): (Place, Assignment)) -> Self {
        Self {
            user: row.user,
            flag: row.flag,
            enabled: row.enabled,
            variation: row.variation,
            rule: row.rule,
            rule_kind: row.rule_kind,
            experiment_id: row.experiment,
            revision: row.revision,
            source: row.source,
            decided_at: rfc3339(row.decided_ms),
            seq: row.seq.to_string(),
            place: place.to_string(),
        }
    }
}

impl From<AssignmentsError> for Problem {
    fn from(error: AssignmentsError) -> Self {
        tracing::error!(%error, "the assignments cannot be read");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "assignments_unavailable",
            "the assignments cannot be read at the moment; the log says more",
        )
    }
}

/// Lists who has which variation of which flag, by the newest decision reported.
#[utoipa::path(
    get, path = "/assignments", tag = "events",
    params(AssignmentParams),
    responses((status = 200, body = Page<AssignmentView>), (status = 503), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<AssignmentParams>,
) -> Result<Json<Page<AssignmentView>>, Problem> {
    let limit = limit_of(params.limit)?;
    let after: Option<Place> = number_of(params.cursor.as_deref())?;
    let filter = Filter {
        user: params.user,
        flag: params.flag,
    };
    let rows = admin
        .assignments()
        .list(filter, after, limit + 1)
        .await?
        .into_iter()
        .map(AssignmentView::of)
        .collect();
    Ok(Json(Page::of(rows, limit, |row: &AssignmentView| {
        row.place.clone()
    })))
}
