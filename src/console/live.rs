//! Live events: the newest ones rendered here, and the stream that a script adds to them.

use askama::Template;
use axum::extract::{Extension, Request, State};
use axum::http::{Method, Uri};
use axum::response::Response;

use super::Console;
use super::form::{Form, query_of, segment};
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
    let wanted = [
        ("source", query.text("source").trim()),
        ("type", query.text("type").trim()),
        ("name", query.text("name").trim()),
        ("user", query.text("user").trim()),
    ];
    let with = |pair: &(&'static str, &str)| {
        let mut pairs: Vec<(&str, &str)> = wanted.to_vec();
        pairs.push(*pair);
        query_of(&pairs)
    };
    let mut path = format!("/events{}", with(&("cursor", query.text("before"))));
    path.push_str(if path.contains('?') {
        "&limit=50"
    } else {
        "?limit=50"
    });
    let events: Listed<Accepted> = console.api().get(&who.actor, &path).await?;
    let sources: Listed<Source> = console.api().get(&who.actor, "/sources?limit=100").await?;
    let named = |id: &str| {
        sources
            .data
            .iter()
            .find(|source| source.id == id)
            .map_or_else(|| id.to_owned(), |source| source.name.clone())
    };
    let rows: Vec<Row> = events
        .data
        .iter()
        .map(|event| row(event, &named(&event.source)))
        .collect();
    let newest = events
        .data
        .first()
        .map_or_else(String::new, |event| event.seq.clone());
    Ok(rendered(&Page {
        frame: Frame::new(&who, "live", "Live events"),
        kinds: KINDS
            .iter()
            .map(|kind| (*kind, *kind == wanted[1].1))
            .collect(),
        name: wanted[2].1.to_owned(),
        user: wanted[3].1.to_owned(),
        stream: if query.has("before") {
            String::new()
        } else {
            format!("/live/stream{}", query_of(&wanted))
        },
        older: events
            .next_cursor
            .map(|cursor| format!("/live{}", with(&("before", &cursor)))),
        sources: sources
            .data
            .into_iter()
            .map(|source| {
                let lit = source.id == wanted[0].1;
                (source, lit)
            })
            .collect(),
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
