//! Calls whose names are taken and whose rooms are not built yet: 501 with the code `not_available_yet`.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

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
pub(super) async fn sync_runs() -> Problem {
    not_available_yet("scheduled sync")
}

/// Starts a run of a scheduled sync.
#[utoipa::path(
    post, path = "/sync/{integration}/run", tag = "sync",
    params(("integration" = String, Path, description = "`int_…`")),
    responses((status = 501, body = ProblemBody, content_type = "application/problem+json"), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("operator")))
)]
pub(super) async fn sync_run() -> Problem {
    not_available_yet("scheduled sync")
}

/// The document's page.
pub(super) fn pages() -> Router {
    Router::new().route(
        "/docs",
        get(async || not_available_yet("the document's page (see /openapi.json)")),
    )
}
