//! The books: what became of every accepted event, per integration.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;

use super::Admin;
use super::problem::{Problem, ProblemBody};

/// The books of all integrations.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct Books {
    /// Every row adds up: accepted = delivered + skipped + deduplicated + dead + pending.
    balanced: bool,
    data: Vec<BooksRow>,
    next_cursor: Option<String>,
    has_more: bool,
}

/// The books of one integration.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct BooksRow {
    /// The integration's id.
    integration: String,
    name: Option<String>,
    accepted: u64,
    delivered: u64,
    /// All skipped.
    skipped: u64,
    /// … by reason.
    skipped_reasons: BTreeMap<String, u64>,
    deduplicated: u64,
    /// All dead letters.
    dead: u64,
    /// … by reason.
    dead_reasons: BTreeMap<String, u64>,
    pending: u64,
    balanced: bool,
}

/// Shows the books.
#[utoipa::path(
    get, path = "/ledger", tag = "events",
    responses((status = 200, body = Books), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn show(State(admin): State<Admin>) -> Result<Json<Books>, Problem> {
    let picture = admin.registry().picture();
    let data: Vec<BooksRow> = admin
        .journal()
        .ledger()
        .await?
        .into_iter()
        .map(|row| {
            let skipped: u64 = row.skipped.iter().map(|(_, n)| n).sum();
            let dead: u64 = row.dead.iter().map(|(_, n)| n).sum();
            BooksRow {
                name: picture
                    .integration(&row.feed)
                    .map(|integration| integration.name.clone()),
                balanced: row.accepted
                    == row.delivered + skipped + row.deduplicated + dead + row.pending,
                integration: row.feed,
                accepted: row.accepted,
                delivered: row.delivered,
                skipped,
                skipped_reasons: row.skipped.into_iter().collect(),
                deduplicated: row.deduplicated,
                dead,
                dead_reasons: row.dead.into_iter().collect(),
                pending: row.pending,
            }
        })
        .collect();
    Ok(Json(Books {
        balanced: data.iter().all(|row| row.balanced),
        data,
        next_cursor: None,
        has_more: false,
    }))
}
