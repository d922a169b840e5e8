//! An integration's blueprint: the mapping as a table and as text, checked while typing, tried with a real event, and
//! saved only if it checks.

use askama::Template;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::Console;
use super::api::Refusal;
use super::form::{Form, segment};
use super::format::pretty;
use super::frame::{Answer, Frame, page as made, rendered};
use super::gate::Who;
use super::integrations::one;
use super::session::Notice;
use super::story::{MappingPart, mapping_part};
use super::views::{
    Accepted, BlueprintTested, Diagnostic, Example, Integration, Listed, Mapped, Revision,
};

#[derive(Template)]
#[template(path = "blueprint.html")]
struct Page {
    frame: Frame,
    integration: Integration,
    revision: u32,
    text: String,
    note: String,
    outline: Vec<Entry>,
    diagnostics: Vec<Diagnostic>,
    checked: bool,
    examples: Vec<Example>,
    /// How many of them fail.
    failed: usize,
    event: String,
    /// (JSON, words)
    recent: Vec<(String, String)>,
    tried: Option<MappingPart>,
    try_fault: Option<String>,
}

#[derive(Template)]
#[template(path = "tried.html")]
struct Tried {
    tried: Option<MappingPart>,
    try_fault: Option<String>,
}

/// One event of the mapping, as a table shows it.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    kind: String,
    event: String,
    line: usize,
    fields: Vec<OutlineField>,
}

/// One field it makes.
#[derive(Debug, PartialEq, Eq)]
struct OutlineField {
    path: String,
    value: String,
    line: usize,
}

/// What the page is shown with, beside what is stored.
#[derive(Default)]
struct Shown {
    text: Option<String>,
    note: String,
    diagnostics: Vec<Diagnostic>,
    checked: bool,
    examples: Vec<Example>,
    event: Option<String>,
    tried: Option<MappingPart>,
    try_fault: Option<String>,
    notice: Option<Notice>,
}

/// The page.
pub(super) async fn page(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    let query = Form::query(uri.query());
    let shown = Shown {
        event: event_of(&console, &who, query.text("event")).await?,
        ..Shown::default()
    };
    Ok(made(&shown_page(&console, &who, &id, shown).await?))
}

/// A recent event chosen by its number, as text to try.
async fn event_of(console: &Console, who: &Who, seq: &str) -> Result<Option<String>, Refusal> {
    if seq.is_empty() {
        return Ok(None);
    }
    let recent: Listed<Accepted> = console.api().get(&who.actor, "/events?limit=20").await?;
    Ok(recent
        .data
        .iter()
        .find(|event| event.seq == seq)
        .map(|event| pretty(&event.event)))
}

async fn shown_page(console: &Console, who: &Who, id: &str, shown: Shown) -> Result<Page, Refusal> {
    let integration = one(console, who, id).await?;
    let revision: Revision = console
        .api()
        .get(
            &who.actor,
            &format!("/integrations/{}/blueprint", segment(id)),
        )
        .await?;
    let recent: Listed<Accepted> = console.api().get(&who.actor, "/events?limit=20").await?;
    let text = shown
        .text
        .unwrap_or_else(|| revision.text.clone().unwrap_or_default());
    let mut frame = Frame::new(
        who,
        "integrations",
        format!("Blueprint of {}", integration.name),
    );
    if let Some(notice) = shown.notice {
        frame = frame.saying(notice);
    }
    Ok(Page {
        frame,
        revision: revision.revision,
        outline: outline(&text),
        note: shown.note,
        diagnostics: shown.diagnostics,
        checked: shown.checked,
        failed: shown
            .examples
            .iter()
            .filter(|example| !example.passed)
            .count(),
        examples: shown.examples,
        event: shown
            .event
            .or_else(|| recent.data.first().map(|event| pretty(&event.event)))
            .unwrap_or_else(|| SAMPLE.to_owned()),
        recent: recent
            .data
            .iter()
            .map(|event| {
                let name = event.name.clone().unwrap_or_default();
                let words = format!(
                    "{} {name} · {}",
                    event.kind,
                    super::format::clock_time(&event.accepted_at)
                );
                (pretty(&event.event), words)
            })
            .collect(),
        tried: shown.tried,
        try_fault: shown.try_fault,
        text,
        integration,
    })
}

/// Something to try before any event came.
const SAMPLE: &str = r#"{
  "type": "track",
  "event": "Order Completed",
  "userId": "u-1",
  "properties": { "order_id": "A-1", "total": 89.99, "currency": "GBP" }
}"#;

/// Saves, checks with the examples, or tries: which is said by the button.
pub(super) async fn save(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(id): Path<String>,
) -> Answer {
    // Browsers send line ends as CR LF; lines are to stay as they were written.
    let text = form.text("text").replace("\r\n", "\n");
    let note = form.text("note").trim().to_owned();
    let mut shown = Shown {
        text: Some(text.clone()),
        note: note.clone(),
        event: form.given("event").map(str::to_owned),
        ..Shown::default()
    };
    let mut status = StatusCode::OK;
    match form.text("do") {
        "try" => {
            let (tried, fault) = tried(&console, &who, &id, &text, form.text("event")).await;
            (shown.tried, shown.try_fault) = (tried, fault);
        }
        "check" => {
            let tested: BlueprintTested = console
                .api()
                .call(
                    &who.actor,
                    Method::POST,
                    "/blueprints/test",
                    Some(json!({ "text": text })),
                )
                .await?;
            shown.checked = true;
            shown.diagnostics = tested.diagnostics;
            shown.examples = tested.examples;
        }
        _ => {
            let done: Result<Integration, Refusal> = console
                .api()
                .call(
                    &who.actor,
                    Method::PUT,
                    &format!("/integrations/{}/blueprint", segment(&id)),
                    Some(json!({ "text": text, "note": note })),
                )
                .await;
            match done {
                Ok(now) => {
                    let words =
                        format!("Saved as revision {}. It runs now.", now.blueprint_revision);
                    let path = format!("/integrations/{}/blueprint", segment(&id));
                    return Ok(who.go(&console, &path, Notice::done(words)));
                }
                Err(refusal) if refusal.status == 422 => {
                    status = StatusCode::UNPROCESSABLE_ENTITY;
                    shown.notice = Some(Notice::fault(format!(
                        "Not saved; revision in use stays. {}",
                        refusal.sentence()
                    )));
                    shown.checked = true;
                    shown.diagnostics = refusal.diagnostics;
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }
    let page = shown_page(&console, &who, &id, shown).await?;
    Ok(rendered(status, &page))
}

async fn tried(
    console: &Console,
    who: &Who,
    id: &str,
    text: &str,
    event: &str,
) -> (Option<MappingPart>, Option<String>) {
    let event: Value = match serde_json::from_str(event) {
        Ok(event @ Value::Object(_)) => event,
        Ok(_) => return (None, Some("The event must be a JSON object.".to_owned())),
        Err(error) => return (None, Some(format!("The event is not JSON: {error}"))),
    };
    let mut body = json!({ "integration": id, "event": event });
    if !text.is_empty() {
        body["blueprint"] = json!(text);
    }
    let done: Result<Mapped, Refusal> = console
        .api()
        .call(&who.actor, Method::POST, "/blueprints/try", Some(body))
        .await;
    match done {
        Ok(mapped) => (Some(mapping_part(mapped, "")), None),
        Err(refusal) if !refusal.diagnostics.is_empty() => {
            let first = &refusal.diagnostics[0];
            let words = format!("Line {}: {}", first.line, first.message);
            (None, Some(format!("The blueprint does not check. {words}")))
        }
        Err(refusal) => (None, Some(refusal.sentence())),
    }
}

/// Checks while somebody types: the API's own answer, as JSON.
pub(super) async fn check(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    body: String,
) -> Response {
    let body = json!({ "text": body });
    console
        .api()
        .raw(&who.actor, Method::POST, "/blueprints/check", Some(body))
        .await
}

/// Tries while somebody types: the same markup the page holds, without the page.
pub(super) async fn try_out(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(id): Path<String>,
) -> Answer {
    let text = form.text("text").replace("\r\n", "\n");
    let (tried, try_fault) = tried(&console, &who, &id, &text, form.text("event")).await;
    let mut response = made(&Tried { tried, try_fault }).into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Top-level keys of a blueprint that name events.
const KINDS: [&str; 7] = [
    "track", "identify", "page", "screen", "group", "alias", "decision",
];

/// The mapping as rows: read from the text by its indentation alone, so that it can be shown even while the text does
/// not check. Lines count from 1.
fn outline(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut kind = None;
    // Keys above the line at hand, with their indentation.
    let mut above: Vec<(usize, String)> = Vec::new();
    for (place, raw) in text.lines().enumerate() {
        let line = without_remark(raw);
        let content = line.trim_start();
        if content.is_empty() {
            continue;
        }
        let indent = line.len() - content.len();
        let (key, value) = key_value(content);
        if indent == 0 {
            kind = KINDS.iter().find(|known| **known == key).copied();
            above.clear();
            if let Some(kind) = kind {
                above.push((0, kind.to_owned()));
                // `identify:` may be an entry of its own, without names of events below it.
                if kind != "track" {
                    entries.push(Entry {
                        kind: kind.to_owned(),
                        event: String::new(),
                        line: place + 1,
                        fields: Vec::new(),
                    });
                }
            }
            continue;
        }
        let Some(kind) = kind else { continue };
        while above.last().is_some_and(|(of, _)| *of >= indent) {
            above.pop();
        }
        let is_entry = kind == "track" && above.len() == 1;
        if is_entry {
            entries.push(Entry {
                kind: kind.to_owned(),
                event: key.clone(),
                line: place + 1,
                fields: Vec::new(),
            });
        }
        let first = if kind == "track" { 2 } else { 1 };
        if !value.is_empty()
            && let Some(entry) = entries.last_mut()
        {
            let mut path: Vec<&str> = above
                .iter()
                .skip(first)
                .map(|(_, key)| key.as_str())
                .collect();
            if !is_entry {
                path.push(&key);
            }
            entry.fields.push(OutlineField {
                path: path.join("."),
                value,
                line: place + 1,
            });
        }
        above.push((indent, key));
    }
    entries
}

/// A line without its remark; a `#` within quotes or a word is none.
fn without_remark(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, letter) in line.char_indices() {
        match (quote, letter) {
            (None, '"' | '\'') => quote = Some(letter),
            (Some(open), letter) if letter == open => quote = None,
            (None, '#') if before.is_whitespace() => return line[..at].trim_end(),
            _ => {}
        }
        before = letter;
    }
    line.trim_end()
}

fn key_value(content: &str) -> (String, String) {
    let content = content.strip_prefix("- ").unwrap_or(content);
    let bare = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
    match content.split_once(": ") {
        Some((key, value)) => (bare(key), value.trim().to_owned()),
        None => match content.strip_suffix(':') {
            Some(key) => (bare(key), String::new()),
            None => (String::new(), content.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{OutlineField, outline};

    #[test]
    fn the_outline_names_events_fields_and_lines() {
        let text = "blueprint: a/b\ntrack:\n  Order Completed:   # money\n    conversion:\n      key: purchase\n      tags:\n        coupon: =\"a # b\"\n  \"*\":\n    drop: true\nidentify:\n  person:\n    email: =traits.email\nrequests:\n  x: {}\n";
        let entries = outline(text);
        let names: Vec<_> = entries
            .iter()
            .map(|entry| (entry.kind.as_str(), entry.event.as_str(), entry.line))
            .collect();
        assert_eq!(
            names,
            [
                ("track", "Order Completed", 3),
                ("track", "*", 8),
                ("identify", "", 10)
            ]
        );
        assert_eq!(
            entries[0].fields,
            [
                OutlineField {
                    path: "conversion.key".into(),
                    value: "purchase".into(),
                    line: 5
                },
                OutlineField {
                    path: "conversion.tags.coupon".into(),
                    value: "=\"a # b\"".into(),
                    line: 7
                },
            ]
        );
        assert_eq!(entries[2].fields[0].path, "person.email");
    }

    #[test]
    fn every_shipped_blueprint_has_an_outline() {
        for (name, text) in crate::blueprint::builtin() {
            assert!(!outline(text).is_empty(), "{name}");
        }
    }
}
