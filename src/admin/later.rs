//! Calls whose names are taken and whose rooms are not built yet: 501 with the code `not_available_yet`.

use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::Admin;
use super::problem::{Problem, ProblemBody};

/// The answer of all of them.
pub(super) fn not_available_yet(what: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_IMPLEMENTED,
        "not_available_yet",
        format!("{what} is not part of this release yet"),
    )
}

/// Runs of a scheduled sync.
#[utoipa::path(
    get, path = "/sync/{integration}/runs", tag = "sync",
    params(("integration" = String, Path, description = "`int_…`")),
    responses((status = 501, body = ProblemBody, content_type = "application/problem+json"), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn sync_runs(State(admin): State<Admin>, Path(id): Path<String>) -> Problem {
    scheduled_sync(&admin, &id)
}

/// Starts a run of a scheduled sync.
#[utoipa::path(
    post, path = "/sync/{integration}/run", tag = "sync",
    params(("integration" = String, Path, description = "`int_…`")),
    responses((status = 501, body = ProblemBody, content_type = "application/problem+json"), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("operator")))
)]
pub(super) async fn sync_run(State(admin): State<Admin>, Path(id): Path<String>) -> Problem {
    scheduled_sync(&admin, &id)
}

fn scheduled_sync(admin: &Admin, id: &str) -> Problem {
    if admin.registry().picture().integration(id).is_none() {
        return Problem::not_found("integration", id);
    }
    not_available_yet("scheduled sync")
}
