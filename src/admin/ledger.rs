//! The books: what became of every accepted event, per integration, and of its decisions per experiment.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;

use super::Admin;
use super::extract::Params;
use super::page::{LIMIT_MAX, Page};
use super::problem::{Problem, ProblemBody};
use crate::event::decision::label::of_label;
use crate::journal::Ledger;
use crate::journal::labels::{OVERFLOW, Rest};

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

/// How the books are laid out.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Rows a page, 1 to 100.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// `integration` (the default): a row for each. `experiment`: a row for each integration and flag experiment, and one
    /// for its events that are no decisions; the rows of an integration add up to its own.
    #[param(value_type = Option<String>)]
    by: Option<By>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum By {
    Integration,
    Experiment,
}

/// The books of one integration, or of one experiment's decisions at it.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct BooksRow {
    /// The integration's id.
    integration: String,
    name: Option<String>,
    /// With `by=experiment`: what the row is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<Part>,
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

/// What a row by experiment is of.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct Part {
    /// `decisions`: of this flag and experiment; `other_decisions`: of experiments beyond the first 500 there were;
    /// `other_events`: all that are no decisions.
    kind: &'static str,
    /// The flag's key.
    flag: Option<String>,
    /// The key of the experiment, or of the rule that decided; null when none did.
    experiment: Option<String>,
    /// Of `other_events`, what may stand among them besides: `earlier_decisions`, accepted by a version that did not count
    /// by experiment; `open_decisions`, all that wait or were lost in a damaged block, until nothing waits and it is known
    /// which were lost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    also: Vec<&'static str>,
}

impl BooksRow {
    fn of(row: Ledger, name: Option<String>, of: Option<Part>, consistent: bool) -> Self {
        let skipped: u64 = row.skipped.iter().map(|(_, n)| n).sum();
        let dead: u64 = row.dead.iter().map(|(_, n)| n).sum();
        Self {
            name,
            of,
            balanced: consistent
                && row.accepted == row.delivered + skipped + row.deduplicated + dead + row.pending,
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
    }
}

impl Part {
    /// Tells it apart from all others of its integration.
    fn key(&self) -> String {
        let text = format!("{}/{:?}/{:?}", self.kind, self.flag, self.experiment);
        let hash = crate::registry::picture::sha256(&text);
        hash.iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn of(label: Option<&str>, rest: Rest) -> Self {
        let (kind, flag, experiment) = match label {
            None => ("other_events", None, None),
            Some(OVERFLOW) => ("other_decisions", None, None),
            Some(label) => {
                let (flag, experiment) = of_label(label);
                ("decisions", Some(flag), experiment)
            }
        };
        Self {
            kind,
            flag: flag.map(str::to_owned),
            experiment: experiment.map(str::to_owned),
            also: [
                (rest.earlier, "earlier_decisions"),
                (rest.unread, "open_decisions"),
            ]
            .into_iter()
            .filter_map(|(holds, what)| holds.then_some(what))
            .collect(),
        }
    }
}

/// Shows the books.
#[utoipa::path(
    get, path = "/ledger", tag = "events",
    params(Wanted),
    responses((status = 200, body = Books), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn show(
    State(admin): State<Admin>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Books>, Problem> {
    let picture = admin.registry().picture();
    let rows: Vec<(Option<Part>, bool, Ledger)> = match wanted.by.unwrap_or(By::Integration) {
        By::Integration => {
            let rows = admin.journal().ledger().await?;
            rows.into_iter().map(|row| (None, true, row)).collect()
        }
        By::Experiment => {
            let rows = admin.journal().ledger_by_label().await?;
            rows.into_iter()
                .map(|row| {
                    let part = Part::of(row.label.as_deref(), row.rest);
                    (Some(part), row.balanced, row.books)
                })
                .collect()
        }
    };
    let data: Vec<(String, BooksRow)> = rows
        .into_iter()
        .map(|(of, consistent, row)| {
            let name = picture
                .integration(&row.feed)
                .map(|integration| integration.name.clone());
            let key = match &of {
                None => row.feed.clone(),
                Some(part) => format!("{}.{}", row.feed, part.key()),
            };
            (key, BooksRow::of(row, name, of, consistent))
        })
        .collect();
    let balanced = data.iter().all(|(_, row)| row.balanced);
    let page = Page::within(
        data,
        wanted.limit.or(Some(LIMIT_MAX)),
        wanted.cursor.as_deref(),
        |(key, _)| key,
    )?;
    let (data, next_cursor, has_more) = page.into_parts();
    let data = data.into_iter().map(|(_, row)| row).collect();
    Ok(Json(Books {
        balanced,
        data,
        next_cursor,
        has_more,
    }))
}
