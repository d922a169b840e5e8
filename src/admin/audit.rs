//! The audit log, read and verified.

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use super::Admin;
use super::extract::Params;
use super::page::{Page, Paging, limit_of, number_of, rfc3339};
use super::problem::{Problem, ProblemBody};

/// One deed.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct DeedView {
    id: String,
    at: String,
    /// Token id, `startup` or `cli`.
    actor: String,
    role: String,
    action: String,
    object: String,
    /// How it was; secrets masked.
    #[schema(value_type = Option<Object>)]
    before: Option<Value>,
    /// How it is since; secrets masked.
    #[schema(value_type = Option<Object>)]
    after: Option<Value>,
    /// `ok`, or the code of the failure.
    result: String,
}

/// What the walk through the log found.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct Verified {
    /// Every row is as it was written.
    intact: bool,
    /// Rows that fit together.
    rows: u64,
    /// The first row that does not.
    fault: Option<String>,
}

/// Lists the deeds, newest first.
#[utoipa::path(
    get, path = "/audit", tag = "audit",
    params(Paging),
    responses((status = 200, body = Page<DeedView>), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("admin")))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<DeedView>>, Problem> {
    let limit = limit_of(paging.limit)?;
    let before = number_of(paging.cursor.as_deref())?;
    let json = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
    let rows = admin
        .registry()
        .audit(before, limit + 1)
        .await?
        .into_iter()
        .map(|row| DeedView {
            id: row.n.to_string(),
            at: rfc3339(row.at_ms),
            actor: row.actor,
            role: row.role,
            action: row.action,
            object: row.object,
            before: json(row.before),
            after: json(row.after),
            result: row.result,
        })
        .collect();
    Ok(Json(Page::of(rows, limit, |row| row.id.clone())))
}

/// Walks the whole log and says whether every row is as it was written.
#[utoipa::path(
    get, path = "/audit/verify", tag = "audit",
    responses((status = 200, body = Verified), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("admin")))
)]
pub(super) async fn verify(State(admin): State<Admin>) -> Result<Json<Verified>, Problem> {
    let found = admin.registry().verify_audit().await?;
    Ok(Json(match found {
        Ok(rows) => Verified {
            intact: true,
            rows,
            fault: None,
        },
        Err(fault) => Verified {
            intact: false,
            rows: fault.n - 1,
            fault: Some(fault.to_string()),
        },
    }))
}
