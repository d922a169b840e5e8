//! One event's whole story: as received, how each integration maps it, every attempt, how it ended and why.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::Value;

use super::Admin;
use super::deliveries::AttemptView;
use super::extract::Params;
use super::page::rfc3339;
use super::problem::{Problem, ProblemBody};
use super::story::{MappingView, Outcome, map, own_item};
use crate::event::Event;
use crate::journal::{DeadFilter, DeadLetter, Entry, FeedStart};
use crate::logbook::AttemptFilter;
use crate::registry::picture::Installed;

/// Attempts shown per integration.
const ATTEMPTS_MAX: usize = 50;

/// Every acceptance of a message id.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct StoryView {
    message_id: String,
    /// More than one when several sources posted the same id, or one posted it again after the de-duplication window.
    events: Vec<EventView>,
}

/// One accepted event.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct EventView {
    /// Number in the journal.
    seq: String,
    accepted_at: String,
    /// The id that vendors deduplicate by; the same on every attempt.
    event_id: String,
    /// As received, in canonical form.
    #[schema(value_type = Object)]
    event: Value,
    integrations: Vec<ChapterView>,
}

/// What one integration makes of it.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct ChapterView {
    integration: String,
    name: String,
    /// `delivered`, `skipped`, `dead`, `pending`, `not_wanted`, or `settled` when the logs no longer tell which.
    outcome: &'static str,
    /// Short machine-readable cause.
    reason: Option<String>,
    /// The same in a sentence.
    detail: String,
    /// How it maps now; null when the integration cannot run.
    mapping: Option<MappingView>,
    /// Requests that held it, newest first.
    attempts: Vec<OwnAttempt>,
}

/// A request that held the event.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct OwnAttempt {
    /// The event's own part of the body that was sent.
    #[schema(value_type = Option<Object>)]
    item: Option<Value>,
    attempt: AttemptView,
}

/// Which event.
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StoryParams {
    /// Id of the source; all when left out.
    source: Option<String>,
}

/// Tells an event's whole story.
#[utoipa::path(
    get, path = "/events/{message_id}", tag = "events",
    params(("message_id" = String, Path, description = "The caller's `messageId`"), StoryParams),
    responses((status = 200, body = StoryView), (status = 503), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn story(
    State(admin): State<Admin>,
    Path(message_id): Path<String>,
    Params(params): Params<StoryParams>,
) -> Result<Json<StoryView>, Problem> {
    let mut events = Vec::new();
    for seq in seqs_of(&admin, &message_id, params.source.as_deref()).await? {
        let Some(entry) = admin.journal().get(seq).await? else {
            continue;
        };
        let Ok(event) = Event::decode(&entry.bytes) else {
            continue;
        };
        // Fingerprints may collide: the record itself decides.
        if event.message_id == message_id {
            events.push(event_view(&admin, &entry, event).await?);
        }
    }
    if events.is_empty() {
        return Err(Problem::new(
            axum::http::StatusCode::NOT_FOUND,
            "not_found",
            format!(
                "no kept event has the message id `{}`; settled events are kept for a while only, and refused ones stand in /v1/admin/rejected-events",
                message_id.escape_default()
            ),
        ));
    }
    Ok(Json(StoryView { message_id, events }))
}

/// Numbers of the records with this message id, of one source or of all.
pub(super) async fn seqs_of(
    admin: &Admin,
    message_id: &str,
    source: Option<&str>,
) -> Result<Vec<u64>, Problem> {
    let picture = admin.registry().picture();
    let sources = picture
        .sources
        .iter()
        .map(|entry| entry.source.id.as_str())
        .filter(|id| source.is_none_or(|wanted| wanted == *id));
    let fingerprints: Vec<u64> = sources
        .map(|source| admin.journal().fingerprint(source, message_id))
        .collect();
    Ok(admin.journal().find(fingerprints).await?)
}

async fn event_view(admin: &Admin, entry: &Entry, event: Event) -> Result<EventView, Problem> {
    let picture = admin.registry().picture();
    let mut integrations = Vec::new();
    for installed in &picture.integrations {
        integrations.push(chapter(admin, installed, entry, &event).await?);
    }
    Ok(EventView {
        seq: entry.seq.to_string(),
        accepted_at: rfc3339(entry.at_ms),
        event_id: event.event_id.to_string(),
        event: Value::Object(event.fields),
        integrations,
    })
}

async fn chapter(
    admin: &Admin,
    installed: &Installed,
    entry: &Entry,
    event: &Event,
) -> Result<ChapterView, Problem> {
    let tables = admin.delivery().tables(&installed.id);
    let mapping = installed
        .running
        .as_ref()
        .ok()
        .map(|running| map(&running.plan, &installed.config, event, &tables));
    let filter = AttemptFilter {
        integration: Some(installed.id.clone()),
        seq: Some(entry.seq),
        ..AttemptFilter::default()
    };
    let rows = admin
        .logbook()
        .attempts(filter, None, ATTEMPTS_MAX)
        .await
        .map_err(super::deliveries::log_problem)?;
    let mut attempts = Vec::new();
    for row in rows {
        let row = admin
            .logbook()
            .attempt_by_id(row.id)
            .await
            .map_err(super::deliveries::log_problem)?
            .unwrap_or(row);
        let view = AttemptView::of(row, &installed.config);
        attempts.push(OwnAttempt {
            item: view
                .request_body
                .as_ref()
                .and_then(|body| {
                    let mapped = mapping
                        .as_ref()
                        .and_then(|mapping| mapping.item(&view.request));
                    own_item(body, &event.event_id.to_string(), mapped)
                })
                .cloned(),
            attempt: view,
        });
    }
    let outcome = outcome(admin, installed, entry, event, mapping.as_ref(), &attempts).await?;
    Ok(ChapterView {
        integration: installed.id.clone(),
        name: installed.name.clone(),
        outcome: outcome.outcome,
        reason: outcome.reason,
        detail: outcome.detail,
        mapping,
        attempts,
    })
}

/// The journal says whether the event is settled; dead letters, waiting events, attempts and the mapping say how.
async fn outcome(
    admin: &Admin,
    installed: &Installed,
    entry: &Entry,
    event: &Event,
    mapping: Option<&MappingView>,
    attempts: &[OwnAttempt],
) -> Result<Outcome, Problem> {
    let say = |outcome, reason: Option<&str>, detail: String| Outcome {
        outcome,
        reason: reason.map(str::to_owned),
        detail,
    };
    let seq = entry.seq;
    let feed = admin
        .journal()
        .open_feed(&installed.id, FeedStart::Now)
        .await?;
    if seq < feed.start {
        return Ok(say(
            "not_wanted",
            Some("installed_later"),
            "the integration was installed after the event was accepted".to_owned(),
        ));
    }
    let settled = seq < feed.pos || feed.settled_above.iter().any(|run| run.contains(&seq));
    if !settled {
        return Ok(say(
            "pending",
            Some("in_line"),
            "it has not been settled yet".to_owned(),
        ));
    }
    if feed.parked > 0
        && let Some(parked) = admin.journal().parked_at(&installed.id, seq).await?
    {
        let detail = format!(
            "it waits until {} ({} attempts so far)",
            rfc3339(parked.due_ms),
            parked.attempts
        );
        return Ok(say("pending", Some(&parked.reason), detail));
    }
    // Of an event in several requests: dead if any of them is, else delivered if any is.
    let several = mapping.is_some_and(MappingView::has_several);
    if several && let Some(dead) = dead_letter(admin, &installed.id, seq).await? {
        return Ok(say("dead", Some(&dead.reason), dead.detail));
    }
    let delivered = attempts
        .iter()
        .find(|own| own.attempt.verdict == "delivered");
    if let Some(own) = delivered {
        return Ok(say(
            "delivered",
            None,
            format!("the vendor took it at {}", own.attempt.at),
        ));
    }
    if !several && let Some(dead) = dead_letter(admin, &installed.id, seq).await? {
        return Ok(say("dead", Some(&dead.reason), dead.detail));
    }
    let skip = admin.logbook().skip_of(&installed.id, seq).await;
    if let Some((reason, at_ms)) = skip.map_err(super::deliveries::log_problem)? {
        let detail = format!("{} ({})", why_skipped(&reason), rfc3339(at_ms));
        return Ok(say("skipped", Some(&reason), detail));
    }
    // Those of such a request that were refused are dead.
    let partial = attempts.iter().find(|own| own.attempt.verdict == "partial");
    if let Some(own) = partial {
        let detail = format!("the vendor took it at {}", own.attempt.at);
        return Ok(say("delivered", None, detail));
    }
    let unwanted_source = installed
        .sources
        .as_ref()
        .is_some_and(|sources| !sources.contains(&event.source));
    if unwanted_source {
        return Ok(say(
            "skipped",
            Some("source"),
            "the integration wants no events of this source".to_owned(),
        ));
    }
    if let Some(reason) = mapping.and_then(MappingView::skip_reason) {
        let detail = format!("the blueprint, as it is now, sends nothing of it: {reason}");
        return Ok(say("skipped", Some(&reason), detail));
    }
    Ok(say(
        "settled",
        None,
        "it has an outcome, but the log of its attempts is no longer kept".to_owned(),
    ))
}

/// The reason of a skip on the way, in a sentence.
fn why_skipped(reason: &str) -> &'static str {
    match reason {
        "unchanged" => "it says what the vendor was told already, so it was not sent again",
        "superseded" => "something newer was known when it would have been sent",
        "stale" => "it was too old for the vendor when it would have been sent",
        "missing" => "the vendor does not know whom it is about",
        "opted_out" => {
            "the person asked the vendor to be left alone, so for a day nothing about them is sent"
        }
        "metadata_field_missing" => "the vendor has none of the fields it would have written",
        _ => "it was skipped on its way",
    }
}

async fn dead_letter(admin: &Admin, feed: &str, seq: u64) -> Result<Option<DeadLetter>, Problem> {
    let filter = DeadFilter {
        feed: Some(feed.to_owned()),
        seq: Some(seq),
        ..DeadFilter::default()
    };
    let letters = admin.journal().dead_letters(filter, None, 1).await?;
    Ok(letters.into_iter().next())
}
