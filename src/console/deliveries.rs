//! The delivery log: every request made at a vendor, and one of them with its bodies.

use askama::Template;
use axum::extract::{Extension, Path, State};
use axum::http::Uri;

use super::Console;
use super::form::{Filter, Form, segment};
use super::format::{Pill, When, bytes, count, pretty, span};
use super::frame::{Answer, Frame, page};
use super::gate::Who;
use super::integrations::{AttemptRow, attempt_row};
use super::views::{Attempt, Integration, Listed};

/// (word of the API, words for people)
const OUTCOMES: [(&str, &str); 5] = [
    ("delivered", "delivered"),
    ("retry", "will retry"),
    ("bisect", "split and retried"),
    ("reject", "refused"),
    ("pause", "paused it"),
];

#[derive(Template)]
#[template(path = "deliveries.html")]
struct ListPage {
    frame: Frame,
    integrations: Vec<(String, String, bool)>,
    outcomes: Vec<(&'static str, &'static str, bool)>,
    message_id: String,
    rows: Vec<Row>,
    older: Option<String>,
    filtered: bool,
}

struct Row {
    integration: String,
    attempt: AttemptRow,
    trigger: String,
    number: u32,
}

#[derive(Template)]
#[template(path = "delivery.html")]
struct ShowPage {
    frame: Frame,
    attempt: Attempt,
    /// It is installed still.
    installed: bool,
    integration: String,
    when: When,
    status: Pill,
    verdict: Pill,
    took: String,
    size: String,
    request: Option<String>,
    answer: Option<String>,
}

/// The log.
pub(super) async fn list(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    uri: Uri,
) -> Answer {
    let query = Form::query(uri.query());
    let filter = Filter::of(&query, &["integration", "outcome", "message_id"]);
    let path = filter.asks("/deliveries", query.text("before"));
    let now_ms = console.now_ms();
    let attempts: Listed<Attempt> = console.api().get(&who.actor, &path).await?;
    let integrations = console.api().integrations(&who.actor).await?;
    let rows = attempts
        .data
        .iter()
        .map(|attempt| Row {
            integration: integrations.name_of(&attempt.integration).to_owned(),
            attempt: attempt_row(attempt, now_ms),
            trigger: attempt.trigger.clone(),
            number: attempt.attempt,
        })
        .collect();
    Ok(page(&ListPage {
        frame: Frame::new(&who, "deliveries", "Delivery log"),
        outcomes: OUTCOMES
            .iter()
            .map(|(word, shown)| (*word, *shown, *word == filter.text("outcome")))
            .collect(),
        message_id: filter.text("message_id").to_owned(),
        older: filter.goes_on("/deliveries", "before", attempts.next_cursor),
        filtered: filter.any(),
        integrations: choices(&integrations, filter.text("integration")),
        rows,
    }))
}

/// Integrations to choose from: id, name, chosen.
pub(super) fn choices(
    integrations: &Listed<Integration>,
    chosen: &str,
) -> Vec<(String, String, bool)> {
    integrations
        .data
        .iter()
        .map(|one| (one.id.clone(), one.name.clone(), one.id == chosen))
        .collect()
}

/// One request with its bodies.
pub(super) async fn show(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer {
    let attempt: Attempt = console
        .api()
        .get(&who.actor, &format!("/deliveries/{}", segment(&id)))
        .await?;
    let integrations = console.api().integrations(&who.actor).await?;
    Ok(page(&ShowPage {
        frame: Frame::new(&who, "deliveries", "Delivery"),
        installed: integrations
            .data
            .iter()
            .any(|one| one.id == attempt.integration),
        integration: integrations.name_of(&attempt.integration).to_owned(),
        when: When::iso(&attempt.at, console.now_ms()),
        status: Pill::status(attempt.status, attempt.error.as_deref()),
        verdict: Pill::outcome(&attempt.verdict),
        took: span(&i64::try_from(attempt.took_ms).unwrap_or(i64::MAX)),
        size: bytes(&attempt.request_bytes),
        request: attempt.request_body.as_ref().map(pretty),
        answer: attempt.response_body.as_ref().map(pretty),
        attempt,
    }))
}
