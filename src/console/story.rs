//! One event's story: received, mapped, sent, answered, how it ended and why.

use askama::Template;
use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Redirect};

use super::Console;
use super::api::Refusal;
use super::form::{Form, query_of, segment};
use super::format::{Pill, When, pretty, prose, span};
use super::frame::{Answer, Frame, page as made, rendered};
use super::gate::Who;
use super::overview::words;
use super::views::{Chapter, LeftOut, Mapped, Part, SentAs, Story};

#[derive(Template)]
#[template(path = "story.html")]
struct Page {
    frame: Frame,
    message_id: String,
    events: Vec<EventPart>,
}

#[derive(Template)]
#[template(path = "story_missing.html")]
struct Missing {
    frame: Frame,
    wanted: String,
    message: String,
}

struct EventPart {
    seq: String,
    event_id: String,
    accepted: When,
    raw: String,
    chapters: Vec<ChapterPart>,
}

struct ChapterPart {
    integration: String,
    name: String,
    outcome: Pill,
    reason: String,
    detail: String,
    mapping: Option<MappingPart>,
    attempts: Vec<AttemptPart>,
}

/// How an event maps; also what "Try it" shows.
#[derive(Template)]
#[template(path = "mapping.html")]
pub(super) struct MappingPart {
    skipped: Option<String>,
    parts: Vec<RequestPart>,
    /// Where the blueprint's lines can be looked at; empty: nowhere.
    blueprint: String,
}

struct RequestPart {
    request: String,
    result: Pill,
    reason: String,
    line: String,
    headers: String,
    body: String,
    fields: Vec<FieldRow>,
    left_out: Vec<LeftOut>,
}

impl RequestPart {
    /// A request the blueprint refused has fields, and where they come from, but nothing in them.
    fn has_values(&self) -> bool {
        self.fields.iter().any(|field| !field.value.is_empty())
    }
}

struct FieldRow {
    field: String,
    value: String,
    line: u32,
}

struct AttemptPart {
    id: String,
    when: When,
    number: u32,
    trigger: String,
    status: Pill,
    verdict: Pill,
    took: String,
    line: String,
    events: u64,
    item: String,
    answer: String,
}

/// Finds an event by the id somebody typed.
pub(super) async fn find(Extension(_): Extension<Who>, uri: Uri) -> Answer {
    let query = Form::query(uri.query());
    Ok(match query.given("message_id") {
        Some(id) => Redirect::to(&format!("/events/{}", segment(id))).into_response(),
        None => Redirect::to("/live").into_response(),
    })
}

/// The story.
pub(super) async fn page(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(message_id): Path<String>,
    uri: Uri,
) -> Answer {
    let source = Form::query(uri.query());
    let path = format!(
        "/events/{}{}",
        segment(&message_id),
        query_of(&[("source", source.text("source"))])
    );
    let story: Result<Story, Refusal> = console.api().get(&who.actor, &path).await;
    let story = match story {
        Ok(story) => story,
        Err(refusal) if refusal.status == 404 => {
            return Ok(rendered(
                StatusCode::NOT_FOUND,
                &Missing {
                    frame: Frame::new(&who, "live", "Event not found"),
                    wanted: message_id,
                    message: refusal.message,
                },
            ));
        }
        Err(refusal) => return Err(refusal.into()),
    };
    let now_ms = console.now_ms();
    Ok(made(&Page {
        frame: Frame::new(&who, "live", "Event story"),
        message_id: story.message_id,
        events: story
            .events
            .into_iter()
            .map(|event| EventPart {
                accepted: When::iso(&event.accepted_at, now_ms),
                raw: pretty(&event.event),
                seq: event.seq,
                event_id: event.event_id,
                chapters: event
                    .integrations
                    .into_iter()
                    .map(|chapter| chapter_part(chapter, now_ms))
                    .collect(),
            })
            .collect(),
    }))
}

fn chapter_part(chapter: Chapter, now_ms: i64) -> ChapterPart {
    let blueprint = format!("/integrations/{}/blueprint", segment(&chapter.integration));
    ChapterPart {
        outcome: Pill::outcome(&chapter.outcome),
        reason: chapter.reason.as_deref().map(words).unwrap_or_default(),
        detail: chapter.detail,
        mapping: chapter
            .mapping
            .map(|mapping| mapping_part(mapping, &blueprint)),
        attempts: chapter
            .attempts
            .into_iter()
            .map(|own| {
                let attempt = own.attempt;
                AttemptPart {
                    when: When::iso(&attempt.at, now_ms),
                    number: attempt.attempt,
                    trigger: attempt.trigger.clone(),
                    status: Pill::status(attempt.status, attempt.error.as_deref()),
                    verdict: Pill::outcome(&attempt.verdict),
                    took: span(&i64::try_from(attempt.took_ms).unwrap_or(i64::MAX)),
                    line: format!("{} {}", attempt.method, attempt.url),
                    events: attempt.events,
                    item: own.item.as_ref().map(pretty).unwrap_or_default(),
                    answer: attempt
                        .response_body
                        .as_ref()
                        .map(pretty)
                        .unwrap_or_default(),
                    id: attempt.id,
                }
            })
            .collect(),
        integration: chapter.integration,
        name: chapter.name,
    }
}

pub(super) fn mapping_part(mapping: Mapped, blueprint: &str) -> MappingPart {
    MappingPart {
        skipped: mapping.skipped.as_deref().map(words),
        parts: mapping.requests.into_iter().map(request_part).collect(),
        blueprint: blueprint.to_owned(),
    }
}

fn request_part(part: Part) -> RequestPart {
    let (tone, word) = match part.result.as_str() {
        "item" => ("good", "sent as"),
        "held" => ("warn", "held"),
        "refused" => ("bad", "refused by the blueprint"),
        _ => ("quiet", "skipped"),
    };
    let reason = match (&part.reason, &part.detail) {
        (Some(reason), Some(detail)) => format!("{}: {detail}", words(reason)),
        (Some(reason), None) => words(reason),
        (None, Some(detail)) => detail.clone(),
        (None, None) => String::new(),
    };
    let fields = part
        .made_by
        .iter()
        .map(|made| FieldRow {
            value: part
                .item
                .as_ref()
                .and_then(|item| at_path(item, &made.field))
                .map(super::format::short)
                .unwrap_or_default(),
            field: made.field.clone(),
            line: made.line,
        })
        .collect();
    let (line, headers, body) = part.sent_as.as_ref().map(sent).unwrap_or_default();
    RequestPart {
        request: part.request,
        result: Pill::new(tone, word),
        reason,
        line,
        headers,
        body,
        fields,
        left_out: part.notes,
    }
}

fn sent(sent: &SentAs) -> (String, String, String) {
    let headers = sent
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join("\n");
    (
        format!("{} {}", sent.method, sent.url),
        headers,
        pretty(&sent.body),
    )
}

/// The value at a path such as `events[0].tags.revenue`.
fn at_path<'a>(item: &'a serde_json::Value, path: &str) -> Option<&'a serde_json::Value> {
    let mut at = item;
    for step in path.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
        at = match at {
            serde_json::Value::Array(rows) => rows.get(step.parse::<usize>().ok()?)?,
            value => value.get(step)?,
        };
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::at_path;

    #[test]
    fn a_path_finds_its_value() {
        let item = json!({ "events": [{ "tags": { "revenue": 8999 } }] });
        assert_eq!(at_path(&item, "events[0].tags.revenue"), Some(&json!(8999)));
        assert_eq!(at_path(&item, "events.0.tags.revenue"), Some(&json!(8999)));
        assert_eq!(at_path(&item, "events[1]"), None);
    }
}
