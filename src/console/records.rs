//! What was refused at the door, the books, and who changed what.

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::Uri;

use super::Console;
use super::form::{Filter, Form, query_of};
use super::format::{Pill, When, count, pretty, prose};
use super::frame::{Answer, Frame, page};
use super::gate::Who;
use super::overview::words;
use super::views::{Books, BooksRow, Deed, Listed, Rejected, Source, Verified};

#[derive(Template)]
#[template(path = "rejected.html")]
struct RejectedPage {
    frame: Frame,
    sources: Vec<(Source, bool)>,
    code: String,
    rows: Vec<RejectedRow>,
    older: Option<String>,
    filtered: bool,
}

struct RejectedRow {
    when: When,
    source: String,
    index: u32,
    code: String,
    message: String,
    raw: String,
}

#[derive(Template)]
#[template(path = "ledger.html")]
struct LedgerPage {
    frame: Frame,
    balanced: bool,
    by_experiment: bool,
    rows: Vec<LedgerRow>,
    more: Option<String>,
}

struct LedgerRow {
    books: BooksRow,
    name: String,
    /// With the ledger by experiment: what the row is of; the flag, and the experiment or rule.
    part: Option<(String, String)>,
    /// The first row of its integration.
    first: bool,
    skipped: Vec<(String, u64)>,
    dead: Vec<(String, u64)>,
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    rows: Vec<DeedRow>,
    older: Option<String>,
    verified: Option<Verified>,
}

struct DeedRow {
    when: When,
    actor: String,
    role: String,
    action: String,
    object: String,
    result: Pill,
    before: Option<String>,
    after: Option<String>,
}

/// Events refused at the door.
pub(super) async fn rejected(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    uri: Uri,
) -> Answer {
    let query = Form::query(uri.query());
    let filter = Filter::of(&query, &["source", "code"]);
    let now_ms = console.now_ms();
    let path = filter.asks("/rejected-events", query.text("before"));
    let listed: Listed<Rejected> = console.api().get(&who.actor, &path).await?;
    let sources = console.api().sources(&who.actor).await?;
    let rows = listed
        .data
        .into_iter()
        .map(|row| RejectedRow {
            when: When::iso(&row.at, now_ms),
            source: sources.name_of(&row.source).to_owned(),
            index: row.index,
            code: row.code,
            message: row.message,
            raw: pretty(&row.event),
        })
        .collect();
    Ok(page(&RejectedPage {
        frame: Frame::new(&who, "rejected", "Rejected events"),
        code: filter.text("code").to_owned(),
        older: filter.goes_on("/rejected", "before", listed.next_cursor),
        filtered: filter.any(),
        sources: sources.chosen(|id| id == filter.text("source")),
        rows,
    }))
}

/// The books.
pub(super) async fn ledger(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    uri: Uri,
) -> Answer {
    let query = Form::query(uri.query());
    let by_experiment = query.text("by") == "experiment";
    let by = if by_experiment { "experiment" } else { "" };
    let path = query_of(&[("by", by), ("cursor", query.text("after"))]);
    let books: Books = console
        .api()
        .get(&who.actor, &format!("/ledger{path}"))
        .await?;
    let more = books
        .next_cursor
        .map(|cursor| format!("/ledger{}", query_of(&[("by", by), ("after", &cursor)])));
    let mut before = String::new();
    Ok(page(&LedgerPage {
        frame: Frame::new(&who, "ledger", "Ledger"),
        balanced: books.balanced,
        by_experiment,
        more,
        rows: books
            .data
            .into_iter()
            .map(|books| LedgerRow {
                first: std::mem::replace(&mut before, books.integration.clone())
                    != books.integration,
                part: books.of.as_ref().map(|part| match part.kind.as_str() {
                    "decisions" => (
                        part.flag.clone().unwrap_or_default(),
                        part.experiment
                            .clone()
                            .unwrap_or_else(|| "no rule".to_owned()),
                    ),
                    "other_decisions" => ("further flags".to_owned(), "together".to_owned()),
                    _ => {
                        let also: String = part.also.iter().map(|also| others(also)).collect();
                        ("no decision".to_owned(), format!("all other events{also}"))
                    }
                }),
                name: books
                    .name
                    .clone()
                    .unwrap_or_else(|| books.integration.clone()),
                skipped: reasons(&books.skipped_reasons),
                dead: reasons(&books.dead_reasons),
                books,
            })
            .collect(),
    }))
}

/// What may stand among the other events besides.
fn others(also: &str) -> &'static str {
    match also {
        "earlier_decisions" => ", and decisions from before the upgrade that counts them",
        "open_decisions" => {
            ", and decisions that wait or were lost in a damaged block, until nothing waits and it is known which"
        }
        _ => "",
    }
}

fn reasons(reasons: &std::collections::BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let mut rows: Vec<(String, u64)> = reasons
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| (words(reason), *count))
        .collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    rows
}

/// Who changed what.
pub(super) async fn audit(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    uri: Uri,
) -> Answer {
    let query = Form::query(uri.query());
    let now_ms = console.now_ms();
    let path = query_of(&[("cursor", query.text("before")), ("limit", "50")]);
    let listed: Listed<Deed> = console
        .api()
        .get(&who.actor, &format!("/audit{path}"))
        .await?;
    // Walking the whole chain takes as long as the log is long: on request only.
    let verified = if query.has("verify") {
        Some(console.api().get(&who.actor, "/audit/verify").await?)
    } else {
        None
    };
    Ok(page(&AuditPage {
        frame: Frame::new(&who, "audit", "Audit log"),
        older: listed
            .next_cursor
            .map(|cursor| format!("/audit{}", query_of(&[("before", &cursor)]))),
        verified,
        rows: listed
            .data
            .into_iter()
            .map(|deed| DeedRow {
                when: When::iso(&deed.at, now_ms),
                actor: deed.actor,
                role: deed.role,
                action: deed.action,
                object: deed.object,
                result: if deed.result == "ok" {
                    Pill::new("good", "ok")
                } else {
                    Pill::new("bad", deed.result)
                },
                before: deed.before.as_ref().map(pretty),
                after: deed.after.as_ref().map(pretty),
            })
            .collect(),
    }))
}
