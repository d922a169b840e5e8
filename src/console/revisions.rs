//! The revisions of a blueprint: who put which, what differs, and going back.

use askama::Template;
use axum::extract::{Extension, Path, State};
use axum::http::{Method, Uri};
use serde_json::json;
use similar::{ChangeTag, TextDiff};

use super::Console;
use super::form::{Form, query_of, segment};
use super::format::When;
use super::frame::{Answer, Frame, page};
use super::gate::Who;
use super::integrations::one;
use super::session::Notice;
use super::views::{Integration, Listed, Revision};

/// Unchanged lines shown around a change.
const AROUND: usize = 3;

#[derive(Template)]
#[template(path = "revisions.html")]
struct ListPage {
    frame: Frame,
    integration: Integration,
    rows: Vec<Row>,
    older: Option<String>,
}

struct Row {
    revision: Revision,
    when: When,
}

#[derive(Template)]
#[template(path = "revision.html")]
struct ShowPage {
    frame: Frame,
    integration: Integration,
    revision: Revision,
    when: When,
    against: u32,
    others: Vec<(u32, bool)>,
    hunks: Vec<Vec<Line>>,
    text: String,
}

/// A line of a difference.
struct Line {
    old: String,
    new: String,
    tone: &'static str,
    sign: &'static str,
    text: String,
}

/// All of them, newest first.
pub(super) async fn list(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    let query = Form::query(uri.query());
    let integration = one(&console, &who, &id).await?;
    let base = format!("/integrations/{}/blueprint/revisions", segment(&id));
    let listed: Listed<Revision> = console
        .api()
        .get(
            &who.actor,
            &format!(
                "{base}{}",
                query_of(&[("cursor", query.text("before")), ("limit", "50")])
            ),
        )
        .await?;
    let now_ms = console.now_ms();
    Ok(page(&ListPage {
        frame: Frame::new(
            &who,
            "integrations",
            format!("Revisions of {}", integration.name),
        ),
        older: listed.next_cursor.map(|cursor| {
            format!(
                "/integrations/{}/revisions{}",
                segment(&id),
                query_of(&[("before", &cursor)])
            )
        }),
        rows: listed
            .data
            .into_iter()
            .map(|revision| Row {
                when: When::iso(&revision.created_at, now_ms),
                revision,
            })
            .collect(),
        integration,
    }))
}

/// One, and how it differs from another: the one in use, or the one before it.
pub(super) async fn show(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path((id, n)): Path<(String, String)>,
    uri: Uri,
) -> Answer {
    let query = Form::query(uri.query());
    let integration = one(&console, &who, &id).await?;
    let base = format!("/integrations/{}/blueprint/revisions", segment(&id));
    let get = |n: String| {
        let path = format!("{base}/{}", segment(&n));
        let (console, who) = (console.clone(), who.clone());
        async move { console.api().get::<Revision>(&who.actor, &path).await }
    };
    let revision = get(n).await?;
    let recent: Listed<Revision> = console
        .api()
        .get(&who.actor, &format!("{base}?limit=50"))
        .await?;
    let fallback = if revision.in_use {
        revision.revision.saturating_sub(1).max(1)
    } else {
        integration.blueprint_revision
    };
    let against = query.text("against").parse().unwrap_or(fallback);
    let other = get(against.to_string()).await?;
    let text = revision.text.clone().unwrap_or_default();
    let hunks = difference(&other.text.unwrap_or_default(), &text);
    Ok(page(&ShowPage {
        frame: Frame::new(
            &who,
            "integrations",
            format!("Revision {} of {}", revision.revision, integration.name),
        ),
        when: When::iso(&revision.created_at, console.now_ms()),
        others: recent
            .data
            .iter()
            .filter(|other| other.revision != revision.revision)
            .map(|other| (other.revision, other.revision == against))
            .collect(),
        against,
        hunks,
        text,
        revision,
        integration,
    }))
}

fn difference(old: &str, new: &str) -> Vec<Vec<Line>> {
    let diff = TextDiff::from_lines(old, new);
    let number =
        |place: Option<usize>| place.map_or_else(String::new, |place| (place + 1).to_string());
    diff.grouped_ops(AROUND)
        .iter()
        .map(|group| {
            group
                .iter()
                .flat_map(|op| diff.iter_changes(op))
                .map(|change| {
                    let (tone, sign) = match change.tag() {
                        ChangeTag::Delete => ("gone", "−"),
                        ChangeTag::Insert => ("new", "+"),
                        ChangeTag::Equal => ("same", " "),
                    };
                    Line {
                        old: number(change.old_index()),
                        new: number(change.new_index()),
                        tone,
                        sign,
                        text: change.value().trim_end_matches('\n').to_owned(),
                    }
                })
                .collect()
        })
        .collect()
}

/// Goes back to an earlier one, as a new one.
pub(super) async fn roll_back(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(id): Path<String>,
) -> Answer {
    let number: u32 = form.text("revision").parse().unwrap_or(0);
    let now: Integration = console
        .api()
        .call(
            &who.actor,
            Method::POST,
            &format!("/integrations/{}/blueprint/rollback", segment(&id)),
            Some(json!({ "revision": number, "note": form.text("note").trim() })),
        )
        .await?;
    let words = format!(
        "Back to revision {number}, as revision {}. It runs now.",
        now.blueprint_revision
    );
    let path = format!("/integrations/{}/revisions", segment(&id));
    Ok(who.go(&console, &path, Notice::done(words)))
}
