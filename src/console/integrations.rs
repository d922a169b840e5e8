//! Installed integrations: the list, one of them, its settings, and what can be done to it.

use askama::Template;
use axum::extract::{Extension, Path, State};
use axum::http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::Console;
use super::api::Refusal;
use super::fields::{Input, entered, inputs, take_fault};
use super::form::{Form, segment};
use super::format::{Pill, When, count, pretty_text, prose, short, span};
use super::frame::{Answer, Fail, Frame, page, rendered};
use super::gate::Who;
use super::overview::{why, words};
use super::session::Notice;
use super::views::{
    Attempt, Books, BooksRow, CatalogEntry, Field, FieldFault, Integration, Listed, Source, Tested,
};
use crate::registry::Role;

#[derive(Template)]
#[template(path = "integrations.html")]
struct ListPage {
    frame: Frame,
    rows: Vec<Row>,
}

struct Row {
    integration: Integration,
    state: Pill,
    why: String,
    books: Option<BooksRow>,
    changed: When,
}

#[derive(Template)]
#[template(path = "integration.html")]
struct ShowPage {
    frame: Frame,
    integration: Integration,
    state: Pill,
    why: String,
    since: Option<When>,
    until: Option<When>,
    oldest: Option<When>,
    last_success: Option<When>,
    last_error: Option<When>,
    books: Option<BooksRow>,
    config: Vec<(String, String)>,
    documents: Vec<DocumentRow>,
    created: When,
    source_names: String,
    attempts: Vec<AttemptRow>,
    trials: Vec<TrialRow>,
    test_event: String,
    test_fault: Option<String>,
}

struct DocumentRow {
    tables: String,
    revision: String,
    confirmed: Option<When>,
    fault: Option<String>,
}

pub(super) struct AttemptRow {
    pub(super) id: String,
    pub(super) when: When,
    pub(super) request: String,
    pub(super) events: u64,
    pub(super) status: Pill,
    pub(super) verdict: Pill,
    pub(super) took: String,
}

/// A test's request and reply.
pub(super) struct TrialRow {
    pub(super) request: String,
    pub(super) line: String,
    pub(super) headers: String,
    pub(super) body: String,
    pub(super) status: Pill,
    pub(super) answer: String,
    pub(super) verdict: Pill,
    pub(super) took: String,
    pub(super) good: bool,
}

pub(super) fn trial_rows(tested: Tested) -> Vec<TrialRow> {
    tested
        .trials
        .into_iter()
        .map(|trial| TrialRow {
            line: format!("{} {}", trial.method, trial.url),
            headers: trial
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}"))
                .collect::<Vec<_>>()
                .join("\n"),
            body: pretty_text(&trial.body),
            status: Pill::status(trial.status, None),
            answer: pretty_text(&trial.answer),
            good: trial.verdict == "delivered",
            verdict: Pill::outcome(&trial.verdict),
            took: span(&i64::try_from(trial.took_ms).unwrap_or(i64::MAX)),
            request: trial.request,
        })
        .collect()
}

/// The installed ones.
pub(super) async fn list(State(console): State<Console>, Extension(who): Extension<Who>) -> Answer {
    let now_ms = console.now_ms();
    let all = console.api().integrations(&who.actor).await?;
    let books: Books = console.api().get(&who.actor, "/ledger").await?;
    let rows = all
        .data
        .into_iter()
        .map(|integration| Row {
            state: Pill::state(&integration.status),
            why: why(&integration),
            books: books
                .data
                .iter()
                .find(|row| row.integration == integration.id)
                .cloned(),
            changed: When::iso(&integration.changed_at, now_ms),
            integration,
        })
        .collect();
    Ok(page(&ListPage {
        frame: Frame::new(&who, "integrations", "Integrations"),
        rows,
    }))
}

/// One of them.
pub(super) async fn show(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer {
    let integration = one(&console, &who, &id).await?;
    let made = shown(&console, &who, integration, Vec::new(), String::new(), None).await?;
    Ok(page(&made))
}

pub(super) async fn one(console: &Console, who: &Who, id: &str) -> Result<Integration, Refusal> {
    console
        .api()
        .get(&who.actor, &format!("/integrations/{}", segment(id)))
        .await
}

async fn shown(
    console: &Console,
    who: &Who,
    integration: Integration,
    trials: Vec<TrialRow>,
    test_event: String,
    test_fault: Option<String>,
) -> Result<ShowPage, Fail> {
    let now_ms = console.now_ms();
    let books: Books = console.api().get(&who.actor, "/ledger").await?;
    let sources = console.api().sources(&who.actor).await?;
    let attempts: Listed<Attempt> = console
        .api()
        .get(
            &who.actor,
            &format!(
                "/deliveries?limit=5&integration={}",
                segment(&integration.id)
            ),
        )
        .await?;
    let when = |at_ms: Option<i64>| at_ms.map(|at_ms| When::ms(at_ms, now_ms));
    let status = &integration.status;
    Ok(ShowPage {
        state: Pill::state(status),
        why: why(&integration),
        since: when(status.since_ms).filter(|_| status.state != "running"),
        until: when(status.until_ms),
        oldest: when(status.oldest_pending_ms),
        last_success: when(status.last_success_ms),
        last_error: when(status.last_error_ms),
        books: books
            .data
            .into_iter()
            .find(|row| row.integration == integration.id),
        config: integration
            .config
            .iter()
            .map(|(key, value)| (key.clone(), shown_value(value)))
            .collect(),
        documents: status
            .documents
            .iter()
            .map(|document| DocumentRow {
                tables: document.tables.join(", "),
                revision: document.revision.clone().unwrap_or_else(|| "–".to_owned()),
                confirmed: when(document.confirmed_at_ms),
                fault: document.fault.clone(),
            })
            .collect(),
        created: When::iso(&integration.created_at, now_ms),
        source_names: match &integration.sources {
            None => "all".to_owned(),
            Some(ids) => ids
                .iter()
                .map(|id| sources.name_of(id))
                .collect::<Vec<_>>()
                .join(", "),
        },
        attempts: attempts
            .data
            .iter()
            .map(|attempt| attempt_row(attempt, now_ms))
            .collect(),
        trials,
        test_event,
        test_fault,
        frame: Frame::new(who, "integrations", integration.name.clone()),
        integration,
    })
}

pub(super) fn attempt_row(attempt: &Attempt, now_ms: i64) -> AttemptRow {
    AttemptRow {
        id: attempt.id.clone(),
        when: When::iso(&attempt.at, now_ms),
        request: attempt.request.clone(),
        events: attempt.events,
        status: Pill::status(attempt.status, attempt.error.as_deref()),
        verdict: Pill::outcome(&attempt.verdict),
        took: span(&i64::try_from(attempt.took_ms).unwrap_or(i64::MAX)),
    }
}

/// A value of a config or a setting for people.
fn shown_value(value: &Value) -> String {
    match value {
        Value::Object(mask) if mask.contains_key("set") => match mask.get("hint") {
            Some(Value::String(hint)) if hint != "…" => format!("set, ends in {hint}"),
            _ => "set".to_owned(),
        },
        Value::Null => "–".to_owned(),
        value => short(value),
    }
}

/// Stops it.
pub(super) async fn pause(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(id): Path<String>,
) -> Answer {
    let body = json!({ "reason": form.text("reason").trim() });
    console
        .api()
        .post(
            &who.actor,
            &format!("/integrations/{}/pause", segment(&id)),
            Some(body),
        )
        .await?;
    let notice = Notice::done("Paused. Its events wait in the journal; nothing is lost.");
    Ok(who.go(&console, &format!("/integrations/{}", segment(&id)), notice))
}

/// Lets it go on.
pub(super) async fn resume(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer {
    console
        .api()
        .post(
            &who.actor,
            &format!("/integrations/{}/resume", segment(&id)),
            None,
        )
        .await?;
    let notice = Notice::done("Resumed. What waited is sent now, oldest first.");
    Ok(who.go(&console, &format!("/integrations/{}", segment(&id)), notice))
}

/// Sends one marked event.
pub(super) async fn test(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(id): Path<String>,
) -> Answer {
    who.needs(Role::Operator)?;
    let event = form.given("event");
    let body = event.map_or_else(|| json!({}), |event| json!({ "event": event }));
    let tested: Result<Tested, Refusal> = console
        .api()
        .call(
            &who.actor,
            Method::POST,
            &format!("/integrations/{}/test", segment(&id)),
            Some(body),
        )
        .await;
    let integration = one(&console, &who, &id).await?;
    let (trials, fault) = match tested {
        Ok(tested) => (trial_rows(tested), None),
        Err(refusal) => (Vec::new(), Some(refusal_of_test(&refusal))),
    };
    let status = if fault.is_some() {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::OK
    };
    let event = form.text("event").to_owned();
    let made = shown(&console, &who, integration, trials, event, fault).await?;
    Ok(rendered(status, &made))
}

fn refusal_of_test(refusal: &Refusal) -> String {
    let about_event = refusal.errors.iter().find(|fault| fault.field == "event");
    about_event.map_or_else(|| refusal.sentence(), |fault| fault.message.clone())
}

/// Takes it away; its name must be typed, and giving up what waits must be said.
pub(super) async fn remove(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(id): Path<String>,
) -> Answer {
    who.needs(Role::Editor)?;
    let home = format!("/integrations/{}", segment(&id));
    let integration = one(&console, &who, &id).await?;
    if form.text("name").trim() != integration.name {
        let notice = Notice::fault("Not removed: the name typed is not the integration's.");
        return Ok(who.go(&console, &home, notice));
    }
    let force = if form.text("force") == "yes" {
        "?force=true"
    } else {
        ""
    };
    match console
        .api()
        .delete(&who.actor, &format!("{home}{force}"))
        .await
    {
        Ok(()) => {
            let notice = Notice::done(format!("{} is removed.", integration.name));
            Ok(who.go(&console, "/integrations", notice))
        }
        Err(refusal) if refusal.status == 409 => Ok(who.go(
            &console,
            &home,
            Notice::fault(format!(
                "Not removed: {} Tick “give up what waits” to remove it all the same.",
                refusal.message.split(';').next().unwrap_or_default()
            )),
        )),
        Err(refusal) => Err(refusal.into()),
    }
}

#[derive(Template)]
#[template(path = "integration_settings.html")]
struct SettingsPage {
    frame: Frame,
    integration: Integration,
    name: String,
    name_fault: Option<String>,
    inputs: Vec<Input>,
    any_advanced: bool,
    sources: Vec<(Source, bool)>,
    all_sources: bool,
    tuning: Vec<Input>,
    other_faults: Vec<FieldFault>,
    faults: usize,
}

/// (setting, what it is for)
const TUNING: [(&str, &str, &str); 11] = [
    (
        "in_flight_max",
        "Requests at once",
        "How many requests may be under way to the vendor",
    ),
    (
        "batch_items",
        "Most events in one request",
        "Empty: as many as the blueprint allows",
    ),
    (
        "batch_bytes",
        "Most bytes in one request",
        "Empty: as many as the blueprint allows",
    ),
    (
        "batch_wait_ms",
        "Wait for a batch to fill, in ms",
        "Empty: as the blueprint says",
    ),
    (
        "timeout_ms",
        "Time for one attempt, in ms",
        "After it the attempt counts as unanswered and is made again",
    ),
    (
        "retry_base_ms",
        "First wait before a retry, in ms",
        "Waits double from here, with some chance in them",
    ),
    ("retry_cap_ms", "Longest wait before a retry, in ms", ""),
    (
        "retry_for_s",
        "Give up after, in seconds",
        "An event that cannot be delivered for so long becomes a dead letter",
    ),
    (
        "hold_s",
        "Hold an unknown event key, in seconds",
        "Waits for the datafile to know it; empty: as the blueprint says",
    ),
    (
        "backlog_age_s",
        "Oldest backlog, in seconds",
        "What waits longer is skipped as expired",
    ),
    (
        "backlog_bytes",
        "Largest backlog, in bytes",
        "Beyond it the oldest is skipped as expired",
    ),
];

/// Its settings.
pub(super) async fn settings(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer {
    let made = settings_page(&console, &who, &id, None, Vec::new()).await?;
    Ok(page(&made))
}

/// The fields its blueprint asks for, as the catalog shows them.
async fn fields_of(
    console: &Console,
    who: &Who,
    integration: &Integration,
) -> Result<Vec<Field>, Refusal> {
    let entry: CatalogEntry = console
        .api()
        .get(
            &who.actor,
            &format!("/integration-catalog/{}", segment(&integration.vendor)),
        )
        .await?;
    Ok(entry
        .variants
        .into_iter()
        .find(|variant| variant.variant == integration.variant)
        .map(|variant| variant.fields)
        .unwrap_or_default())
}

async fn settings_page(
    console: &Console,
    who: &Who,
    id: &str,
    form: Option<&Form>,
    mut faults: Vec<FieldFault>,
) -> Result<SettingsPage, Fail> {
    let integration = one(console, who, id).await?;
    let fields = fields_of(console, who, &integration).await?;
    let sources = console.api().sources(&who.actor).await?;
    let count = faults.len();
    let mut stored = integration.config.clone();
    for field in fields.iter().filter(|field| field.advanced) {
        if let Some(value) = integration.settings.get(&field.key) {
            stored.insert(field.key.clone(), value.clone());
        }
    }
    let name_fault = take_fault(&mut faults, &["name"]);
    let inputs = inputs(&fields, &stored, form, &|_| false, &mut faults);
    let tuning = TUNING
        .iter()
        .map(|(key, label, help)| {
            let name = format!("settings.{key}");
            let stored = integration.settings.get(*key);
            Input {
                value: match (form, stored) {
                    (Some(form), _) => form.text(&name).to_owned(),
                    (None, Some(Value::Null) | None) => String::new(),
                    (None, Some(value)) => value.to_string(),
                },
                fault: take_fault(&mut faults, &[&name]),
                label: (*label).to_owned(),
                kind: "number".to_owned(),
                required: false,
                help: (!help.is_empty()).then(|| (*help).to_owned()),
                placeholder: None,
                options: Vec::new(),
                kept: None,
                advanced: false,
                name,
            }
        })
        .collect();
    let chosen: Option<Vec<String>> = match form {
        Some(form) => Some(form.all("source").into_iter().map(str::to_owned).collect()),
        None => integration.sources.clone(),
    };
    Ok(SettingsPage {
        frame: Frame::new(
            who,
            "integrations",
            format!("Settings of {}", integration.name),
        ),
        name: form.map_or_else(
            || integration.name.clone(),
            |form| form.text("name").to_owned(),
        ),
        name_fault,
        any_advanced: inputs.iter().any(|input| input.advanced),
        inputs,
        all_sources: chosen.is_none(),
        sources: sources.chosen(|id| {
            chosen
                .as_ref()
                .is_some_and(|ids| ids.iter().any(|one| one == id))
        }),
        tuning,
        other_faults: faults,
        faults: count,
        integration,
    })
}

/// Changes them.
pub(super) async fn change(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(id): Path<String>,
) -> Answer {
    let integration = one(&console, &who, &id).await?;
    let fields = fields_of(&console, &who, &integration).await?;
    let given = entered(&fields, &form, true);
    let config: Map<String, Value> = given
        .into_iter()
        .filter(|(key, value)| {
            // What is empty and was never set stays so.
            let known =
                integration.config.contains_key(key) || integration.settings.contains_key(key);
            known || !value.is_null()
        })
        .collect();
    let mut tuning = Map::new();
    for (key, _, _) in TUNING {
        let name = format!("settings.{key}");
        if form.has(&name) {
            let value = match form.text(&name).trim() {
                "" => Value::Null,
                text => serde_json::from_str::<serde_json::Number>(text)
                    .map_or_else(|_| json!(text), Value::Number),
            };
            tuning.insert(key.to_owned(), value);
        }
    }
    // A setting that cannot be empty was left as it is when it comes back empty.
    tuning.retain(|key, value| {
        !value.is_null()
            || matches!(
                key.as_str(),
                "batch_items" | "batch_bytes" | "batch_wait_ms" | "hold_s"
            )
    });
    let sources = form.all("source");
    let body = json!({
        "name": form.text("name").trim(),
        "config": config,
        "sources": if sources.is_empty() { Value::Null } else { json!(sources) },
        "settings": tuning,
    });
    let done: Result<Integration, Refusal> = console
        .api()
        .call(
            &who.actor,
            Method::PATCH,
            &format!("/integrations/{}", segment(&id)),
            Some(body),
        )
        .await;
    match done {
        Ok(_) => {
            let notice = Notice::done("Saved. It runs with the new settings.");
            Ok(who.go(&console, &format!("/integrations/{}", segment(&id)), notice))
        }
        Err(refusal) if !refusal.errors.is_empty() => {
            let made = settings_page(&console, &who, &id, Some(&form), refusal.errors).await?;
            Ok(rendered(StatusCode::UNPROCESSABLE_ENTITY, &made))
        }
        Err(refusal) => Err(refusal.into()),
    }
}
