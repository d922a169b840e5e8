//! Live events: the newest ones rendered here, and the stream that a script adds to them.

use askama::Template;
use axum::extract::{Extension, Request, State};
use axum::http::{Method, Uri};
use axum::response::Response;

use super::Console;
use super::form::{Filter, Form, segment};
use super::format::{clock_time, pretty};
use super::frame::{Answer, Frame, page as rendered};
use super::gate::Who;
use super::views::{Accepted, Listed, Source};
use crate::admin::SignedIn;

/// The words of `type` that can be chosen.
const KINDS: [&str; 7] = [
    "track", "identify", "page", "screen", "group", "alias", "decision",
];

#[derive(Template)]
#[template(path = "live.html")]
struct Page {
    frame: Frame,
    sources: Vec<(Source, bool)>,
    kinds: Vec<(&'static str, bool)>,
    name: String,
    user: String,
    stream: String,
    older: Option<String>,
    rows: Vec<Row>,
    newest: String,
}

pub(super) struct Row {
    pub(super) time: String,
    pub(super) iso: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) who: String,
    pub(super) source: String,
    pub(super) link: String,
    pub(super) raw: String,
}

/// The page.
pub(super) async fn page(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    uri: Uri,
) -> Answer {
    let query = Form::query(uri.query());
    let filter = Filter::of(&query, &["source", "type", "name", "user"]);
    let path = filter.asks("/events", query.text("before"));
    let events: Listed<Accepted> = console.api().get(&who.actor, &path).await?;
    let sources = console.api().sources(&who.actor).await?;
    let rows: Vec<Row> = events
        .data
        .iter()
        .map(|event| row(event, sources.name_of(&event.source)))
        .collect();
    let newest = events
        .data
        .first()
        .map_or_else(String::new, |event| event.seq.clone());
    Ok(rendered(&Page {
        frame: Frame::new(&who, "live", "Live events"),
        kinds: KINDS
            .iter()
            .map(|kind| (*kind, *kind == filter.text("type")))
            .collect(),
        name: filter.text("name").to_owned(),
        user: filter.text("user").to_owned(),
        stream: if query.has("before") {
            String::new()
        } else {
            filter.on("/live/stream")
        },
        older: filter.goes_on("/live", "before", events.next_cursor),
        sources: sources.chosen(|id| id == filter.text("source")),
        rows,
        newest,
    }))
}

fn row(event: &Accepted, source: &str) -> Row {
    Row {
        time: clock_time(&event.accepted_at),
        iso: event.accepted_at.clone(),
        kind: event.kind.clone(),
        name: event.name.clone().unwrap_or_else(|| "–".to_owned()),
        who: event
            .user_id
            .clone()
            .or_else(|| event.anonymous_id.clone())
            .unwrap_or_else(|| "–".to_owned()),
        source: source.to_owned(),
        link: format!("/events/{}", segment(&event.message_id)),
        raw: pretty(&event.event),
    }
}

/// The API's stream, for the session's cookie instead of a token.
pub(super) async fn stream(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    request: Request,
) -> Response {
    let query = request
        .uri()
        .query()
        .map_or_else(String::new, |query| format!("?{query}"));
    let (mut parts, _) = request.into_parts();
    let uri: Result<Uri, _> = format!("/v1/admin/events/live{query}").parse();
    parts.uri = uri.unwrap_or_default();
    parts.method = Method::GET;
    parts.extensions.clear();
    parts.extensions.insert(SignedIn(who.actor));
    console
        .api()
        .send(Request::from_parts(parts, axum::body::Body::empty()))
        .await
}
