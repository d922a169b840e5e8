//! Dead letters: grouped by cause with an example, looked at one by one, and sent again.

use askama::Template;
use axum::extract::{Extension, Path, State};
use axum::http::{Method, Uri};
use serde_json::{Value, json};

use super::Console;
use super::api::Refusal;
use super::form::{Filter, Form, query_of, segment};
use super::format::{Pill, When, count, pretty_text, prose};
use super::frame::{Answer, Frame, page};
use super::gate::Who;
use super::overview::words;
use super::session::Notice;
use super::views::{Books, DeadLetter, Listed, Replay};

/// Groups shown with an example each.
const GROUPS_MAX: usize = 50;

#[derive(Template)]
#[template(path = "dead_letters.html")]
struct GroupsPage {
    frame: Frame,
    groups: Vec<Group>,
    more: usize,
}

struct Group {
    integration: String,
    name: String,
    reason: String,
    words: String,
    count: u64,
    example: Option<Letter>,
    list: String,
}

struct Letter {
    id: String,
    when: When,
    detail: String,
    status: Option<Pill>,
    attempts: u32,
    answer: String,
    story: Option<String>,
    message_id: String,
}

#[derive(Template)]
#[template(path = "dead_list.html")]
struct ListPage {
    frame: Frame,
    integration: String,
    name: String,
    reason: String,
    title: String,
    rows: Vec<Letter>,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "replay_confirm.html")]
struct ConfirmPage {
    frame: Frame,
    matched: u64,
    what: String,
    integration: String,
    reason: String,
    ids: Vec<String>,
    since: String,
    until: String,
    rate: String,
}

#[derive(Template)]
#[template(path = "replay.html")]
struct ReplayPage {
    frame: Frame,
    id: String,
    replay: Replay,
    state: Pill,
    sent: u64,
    running: bool,
    started: Option<When>,
    filter: Vec<(String, String)>,
}

/// Grouped by cause. The numbers are the books'; nothing is counted here.
pub(super) async fn groups(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    uri: Uri,
) -> Answer {
    let now_ms = console.now_ms();
    let wanted = Form::query(uri.query()).text("integration").to_owned();
    let books: Books = console.api().get(&who.actor, "/ledger").await?;
    let mut causes: Vec<(String, String, u64)> = books
        .data
        .iter()
        .filter(|row| wanted.is_empty() || row.integration == wanted)
        .flat_map(|row| {
            row.dead_reasons
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(reason, count)| (row.integration.clone(), reason.clone(), *count))
        })
        .collect();
    causes.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    let more = causes.len().saturating_sub(GROUPS_MAX);
    let mut groups = Vec::new();
    for (integration, reason, count) in causes.into_iter().take(GROUPS_MAX) {
        let filter = query_of(&[("integration", &integration), ("reason", &reason)]);
        let example: Listed<DeadLetter> = console
            .api()
            .get(&who.actor, &format!("/dead-letters{filter}&limit=1"))
            .await?;
        groups.push(Group {
            name: books
                .data
                .iter()
                .find(|row| row.integration == integration)
                .and_then(|row| row.name.clone())
                .unwrap_or_else(|| integration.clone()),
            words: words(&reason),
            count,
            example: example
                .data
                .into_iter()
                .next()
                .map(|letter| letter_of(letter, now_ms)),
            list: format!("/dead-letters/list{filter}"),
            integration,
            reason,
        });
    }
    Ok(page(&GroupsPage {
        frame: Frame::new(&who, "dead", "Dead letters"),
        groups,
        more,
    }))
}

fn letter_of(letter: DeadLetter, now_ms: i64) -> Letter {
    Letter {
        when: When::iso(&letter.at, now_ms),
        status: letter.status.map(|status| Pill::status(Some(status), None)),
        attempts: letter.attempts,
        answer: pretty_text(&letter.answer),
        story: letter
            .message_id
            .as_ref()
            .map(|id| format!("/events/{}", segment(id))),
        message_id: letter.message_id.unwrap_or_else(|| "–".to_owned()),
        id: letter.id,
        detail: letter.detail,
    }
}

/// One cause, letter by letter.
pub(super) async fn list(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    uri: Uri,
) -> Answer {
    let query = Form::query(uri.query());
    let filter = Filter::of(&query, &["integration", "reason"]);
    let (integration, reason) = (filter.text("integration"), filter.text("reason"));
    let now_ms = console.now_ms();
    let path = filter.asks("/dead-letters", query.text("after"));
    let letters: Listed<DeadLetter> = console.api().get(&who.actor, &path).await?;
    let integrations = console.api().integrations(&who.actor).await?;
    Ok(page(&ListPage {
        frame: Frame::new(&who, "dead", "Dead letters"),
        name: integrations.name_of(integration).to_owned(),
        title: if reason.is_empty() {
            "All causes".to_owned()
        } else {
            words(reason)
        },
        next: filter.goes_on("/dead-letters/list", "after", letters.next_cursor),
        rows: letters
            .data
            .into_iter()
            .map(|letter| letter_of(letter, now_ms))
            .collect(),
        integration: integration.to_owned(),
        reason: reason.to_owned(),
    }))
}

/// Counts first; sends when that was confirmed.
pub(super) async fn replay(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
) -> Answer {
    let confirmed = form.text("do") == "send";
    let ids = form.all("id");
    let mut body = json!({ "dry_run": !confirmed });
    for key in ["integration", "reason", "since", "until"] {
        if let Some(value) = form.given(key) {
            body[key] = json!(value);
        }
    }
    if !ids.is_empty() {
        body["ids"] = json!(ids);
    }
    if let Some(rate) = form.given("rate") {
        body["rate"] = serde_json::from_str::<serde_json::Number>(rate)
            .map_or_else(|_| json!(0), Value::Number);
    }
    let done: Replay = console
        .api()
        .call(&who.actor, Method::POST, "/dead-letters/replay", Some(body))
        .await?;
    if let Some(id) = &done.id {
        let notice = Notice::done(
            "The replay is under way. Events keep their ids, so nothing counts twice.",
        );
        return Ok(who.go(&console, &format!("/replays/{}", segment(id)), notice));
    }
    if confirmed {
        let notice =
            Notice::fault("There was nothing left to send: no dead letter matches any more.");
        return Ok(who.go(&console, "/dead-letters", notice));
    }
    let integrations = console.api().integrations(&who.actor).await?;
    let integration = form.text("integration").to_owned();
    let what = match (integration.is_empty(), form.given("reason")) {
        (true, None) => "all dead letters".to_owned(),
        (true, Some(reason)) => format!("all dead letters with the cause “{}”", words(reason)),
        (false, None) => format!("the dead letters of {}", integrations.name_of(&integration)),
        (false, Some(reason)) => format!(
            "the dead letters of {} with the cause “{}”",
            integrations.name_of(&integration),
            words(reason)
        ),
    };
    Ok(page(&ConfirmPage {
        frame: Frame::new(&who, "dead", "Replay"),
        matched: done.matched,
        what,
        integration,
        reason: form.text("reason").to_owned(),
        ids: ids.into_iter().map(str::to_owned).collect(),
        since: form.text("since").to_owned(),
        until: form.text("until").to_owned(),
        rate: form.given("rate").unwrap_or("500").to_owned(),
    }))
}

/// How far a replay is.
pub(super) async fn progress(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer {
    let replay: Replay = console
        .api()
        .get(&who.actor, &format!("/replays/{}", segment(&id)))
        .await?;
    let integrations = console.api().integrations(&who.actor).await?;
    let filter = match &replay.filter {
        Some(Value::Object(filter)) => filter
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| {
                let shown = super::format::short(value);
                match key.as_str() {
                    "integration" => (
                        "Integration".to_owned(),
                        integrations.name_of(&shown).to_owned(),
                    ),
                    "reason" => ("Cause".to_owned(), words(&shown)),
                    "rate" => {
                        let rate = shown.trim_end_matches(".0");
                        ("Rate".to_owned(), format!("{rate} events a second at most"))
                    }
                    _ => (words(key), shown),
                }
            })
            .collect(),
        _ => Vec::new(),
    };
    Ok(page(&ReplayPage {
        frame: Frame::new(&who, "dead", "Replay"),
        state: Pill::outcome(&replay.state),
        sent: replay
            .matched
            .saturating_sub(replay.waiting + replay.cancelled),
        running: replay.state == "running",
        started: replay
            .started_at
            .as_deref()
            .map(|at| When::iso(at, console.now_ms())),
        filter,
        id,
        replay,
    }))
}

/// Puts back what was not sent.
pub(super) async fn cancel(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer {
    let path = format!("/replays/{}", segment(&id));
    let done: Result<(), Refusal> = console.api().delete(&who.actor, &path).await;
    done?;
    let notice = Notice::done("Cancelled. What was not sent is back among the dead letters.");
    Ok(who.go(&console, &path, notice))
}
