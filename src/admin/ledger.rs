//! The books: what became of every accepted event, per integration.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;

use super::Admin;
use super::extract::Params;
use super::page::{LIMIT_MAX, Page, Paging};
use super::problem::{Problem, ProblemBody};

/// The books of the integrations.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct Books {
    /// Every row adds up, those of other pages too: accepted = delivered + skipped + deduplicated + dead + pending.
    balanced: bool,
    data: Vec<BooksRow>,
    /// Give it as `cursor` for the next page; null on the last.
    next_cursor: Option<String>,
    /// There is a next page.
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
    params(Paging),
    responses((status = 200, body = Books), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn show(
    State(admin): State<Admin>,
    Params(paging): Params<Paging>,
) -> Result<Json<Books>, Problem> {
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
    let balanced = data.iter().all(|row| row.balanced);
    let page = Page::within(
        data,
        paging.limit.or(Some(LIMIT_MAX)),
        paging.cursor.as_deref(),
        |row| &row.integration,
    )?;
    let (data, next_cursor, has_more) = page.into_parts();
    Ok(Json(Books {
        balanced,
        data,
        next_cursor,
        has_more,
    }))
}
