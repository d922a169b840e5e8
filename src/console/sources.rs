//! Sources: apps that post, what they may post, and their write keys. A key is shown once, on the page after it was made.

use askama::Template;
use axum::extract::{Extension, Path, State};
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Console;
use super::api::Refusal;
use super::fields::take_fault;
use super::form::{Form, segment};
use super::format::When;
use super::frame::{Answer, Fail, Frame, page, rendered};
use super::gate::Who;
use super::session::Notice;
use super::views::{FieldFault, Key, Source};
use crate::registry::Role;

/// Kinds of calls a source may be held to, and the words for them.
const TYPES: [&str; 7] = [
    "track", "identify", "page", "screen", "group", "alias", "decision",
];

#[derive(Template)]
#[template(path = "sources.html")]
struct SourcesPage {
    frame: Frame,
    rows: Vec<SourceRow>,
    new: SourceForm,
}

struct SourceRow {
    source: Source,
    created: When,
    last: Option<When>,
    keys: Vec<(Key, When)>,
    /// What it is held to, in words.
    limits: Vec<(&'static str, String)>,
    change: SourceForm,
    /// Its form was sent and something in it cannot be used.
    open: bool,
}

/// The fields of a source, to make one or change it.
#[derive(Template, Default)]
#[template(path = "source_form.html")]
struct SourceForm {
    /// Where it is sent.
    action: String,
    /// Begins the ids of its fields.
    prefix: String,
    button: &'static str,
    csrf: String,
    name: String,
    rate: String,
    key_rate: String,
    origins: String,
    events: String,
    types: Vec<(&'static str, bool)>,
    /// By field; the last ones are of none of them.
    faults: Faults,
}

#[derive(Default)]
struct Faults {
    name: Option<String>,
    rate: Option<String>,
    key_rate: Option<String>,
    origins: Option<String>,
    events: Option<String>,
    types: Option<String>,
    others: Vec<String>,
}

impl Faults {
    fn of(mut faults: Vec<FieldFault>) -> Self {
        // A fault of one entry of a list is told with the list.
        for fault in &mut faults {
            if let Some((list, _)) = fault.field.split_once('[') {
                fault.field = list.to_owned();
            }
        }
        let mut take = |name: &str| take_fault(&mut faults, &[name]);
        Self {
            name: take("name"),
            rate: take("rate"),
            key_rate: take("key_rate"),
            origins: take("allowed_origins"),
            events: take("allowed_events"),
            types: take("allowed_types"),
            others: faults
                .into_iter()
                .map(|fault| format!("{}: {}", fault.field, fault.message))
                .collect(),
        }
    }
}

impl SourceForm {
    fn new(csrf: &str) -> Self {
        Self {
            action: "/sources".to_owned(),
            prefix: "new".to_owned(),
            button: "Make source",
            csrf: csrf.to_owned(),
            types: TYPES.map(|kind| (kind, true)).to_vec(),
            ..Self::default()
        }
    }

    fn of(source: &Source, csrf: &str) -> Self {
        let number = |rate: Option<u32>| rate.map(|rate| rate.to_string()).unwrap_or_default();
        let lines = |list: &Option<Vec<String>>| list.as_deref().unwrap_or_default().join("\n");
        Self {
            action: format!("/sources/{}/change", segment(&source.id)),
            prefix: source.id.clone(),
            button: "Save",
            csrf: csrf.to_owned(),
            name: source.name.clone(),
            rate: number(source.rate),
            key_rate: number(source.key_rate),
            origins: lines(&source.allowed_origins),
            events: lines(&source.allowed_events),
            types: TYPES
                .map(|kind| {
                    let types = source.allowed_types.as_ref();
                    (
                        kind,
                        types.is_none_or(|types| types.iter().any(|known| known == kind)),
                    )
                })
                .to_vec(),
            faults: Faults::default(),
        }
    }

    /// The same with what was entered, and what is wrong with it.
    fn entered(mut self, form: &Form, faults: Vec<FieldFault>) -> Self {
        for (field, name) in [
            (&mut self.name, "name"),
            (&mut self.rate, "rate"),
            (&mut self.key_rate, "key_rate"),
            (&mut self.origins, "allowed_origins"),
            (&mut self.events, "allowed_events"),
        ] {
            *field = form.text(name).to_owned();
        }
        let chosen = form.all("allowed_types");
        self.types = TYPES.map(|kind| (kind, chosen.contains(&kind))).to_vec();
        self.faults = Faults::of(faults);
        self
    }
}

/// What a form says, as the API takes it: an empty field is no limit.
fn body(form: &Form) -> Value {
    let number = |name: &str| match form.given(name) {
        None => Value::Null,
        Some(text) => serde_json::from_str::<serde_json::Number>(text)
            .map_or_else(|_| json!(text), Value::Number),
    };
    let lines = |name: &str| -> Value {
        let lines: Vec<&str> = form
            .text(name)
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        if lines.is_empty() {
            return Value::Null;
        }
        json!(lines)
    };
    let types = form.all("allowed_types");
    json!({
        "name": form.text("name").trim(),
        "rate": number("rate"),
        "key_rate": number("key_rate"),
        "allowed_origins": lines("allowed_origins"),
        "allowed_events": lines("allowed_events"),
        "allowed_types": (types.len() < TYPES.len()).then_some(types),
    })
}

/// What a source is held to.
fn limits(source: &Source) -> Vec<(&'static str, String)> {
    let rate = |rate: Option<u32>| rate.map(|rate| format!("{rate} events a second"));
    let list = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.join(", "));
    [
        ("All keys together", rate(source.rate)),
        ("Each key", rate(source.key_rate)),
        ("Web origins", list(&source.allowed_origins)),
        ("Events", list(&source.allowed_events)),
        ("Calls", list(&source.allowed_types)),
    ]
    .into_iter()
    .filter_map(|(name, limit)| Some((name, limit?)))
    .collect()
}

/// The sources.
pub(super) async fn list(State(console): State<Console>, Extension(who): Extension<Who>) -> Answer {
    Ok(page(&sources_page(&console, &who, None).await?))
}

async fn sources_page(
    console: &Console,
    who: &Who,
    sent: Option<(Option<&str>, &Form, Vec<FieldFault>)>,
) -> Result<SourcesPage, Fail> {
    let now_ms = console.now_ms();
    let listed = console.api().sources(&who.actor).await?;
    let frame = Frame::new(who, "sources", "Sources");
    let mut new = SourceForm::new(&frame.csrf);
    let mut rows: Vec<SourceRow> = listed
        .data
        .into_iter()
        .map(|source| SourceRow {
            created: When::iso(&source.created_at, now_ms),
            last: source
                .last_event_at
                .as_deref()
                .map(|at| When::iso(at, now_ms)),
            keys: source
                .keys
                .iter()
                .map(|key| (key.clone(), When::iso(&key.created_at, now_ms)))
                .collect(),
            limits: limits(&source),
            change: SourceForm::of(&source, &frame.csrf),
            open: false,
            source,
        })
        .collect();
    match sent {
        None => {}
        Some((None, form, faults)) => new = new.entered(form, faults),
        Some((Some(id), form, faults)) => {
            if let Some(row) = rows.iter_mut().find(|row| row.source.id == id) {
                row.change = std::mem::take(&mut row.change).entered(form, faults);
                row.open = true;
            }
        }
    }
    Ok(SourcesPage { frame, rows, new })
}

/// Makes one.
pub(super) async fn create(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
) -> Answer {
    let made: Result<Source, Refusal> = console
        .api()
        .call(&who.actor, Method::POST, "/sources", Some(body(&form)))
        .await;
    match made {
        Ok(source) => {
            let words = format!(
                "The write key of {}. It is shown only now: copy it.",
                source.name
            );
            let notice = Notice::with_secret(words, source.write_key.unwrap_or_default());
            Ok(who.go(&console, "/sources", notice))
        }
        Err(refusal) if !refusal.errors.is_empty() => {
            let sent = Some((None, &form, refusal.errors));
            let made = sources_page(&console, &who, sent).await?;
            Ok(rendered(StatusCode::UNPROCESSABLE_ENTITY, &made))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// Changes a source's name and limits.
pub(super) async fn change(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(id): Path<String>,
) -> Answer {
    let path = format!("/sources/{}", segment(&id));
    let changed: Result<Source, Refusal> = console
        .api()
        .call(&who.actor, Method::PATCH, &path, Some(body(&form)))
        .await;
    match changed {
        Ok(source) => {
            let words = format!(
                "{} is changed; its keys keep to it from now on.",
                source.name
            );
            Ok(who.go(&console, "/sources", Notice::done(words)))
        }
        Err(refusal) if !refusal.errors.is_empty() => {
            let sent = Some((Some(id.as_str()), &form, refusal.errors));
            let made = sources_page(&console, &who, sent).await?;
            Ok(rendered(StatusCode::UNPROCESSABLE_ENTITY, &made))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// Gives a source a new key beside the newest of its old ones.
pub(super) async fn rotate_key(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(id): Path<String>,
) -> Answer {
    let label = form.text("label").trim();
    let body = if label.is_empty() {
        json!({})
    } else {
        json!({ "label": label })
    };
    let source: Source = console
        .api()
        .call(
            &who.actor,
            Method::POST,
            &format!("/sources/{}/rotate-key", segment(&id)),
            Some(body),
        )
        .await?;
    let words = format!(
        "The new write key of {}. It is shown only now: copy it. The key before it works until you end it, or rotate again.",
        source.name
    );
    let notice = Notice::with_secret(words, source.write_key.unwrap_or_default());
    Ok(who.go(&console, "/sources", notice))
}

/// Ends a key.
pub(super) async fn revoke_key(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path((id, key)): Path<(String, String)>,
) -> Answer {
    let path = format!("/sources/{}/keys/{}", segment(&id), segment(&key));
    console.api().delete(&who.actor, &path).await?;
    Ok(who.go(
        &console,
        "/sources",
        Notice::done("The key is ended: posts with it are refused from now on."),
    ))
}

/// Removes a source.
pub(super) async fn remove(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(id): Path<String>,
) -> Answer {
    who.needs(Role::Admin)?;
    let source: Source = console
        .api()
        .get(&who.actor, &format!("/sources/{}", segment(&id)))
        .await?;
    if form.text("name").trim() != source.name {
        let notice = Notice::fault("Not removed: the name typed is not the source's.");
        return Ok(who.go(&console, "/sources", notice));
    }
    let path = format!("/sources/{}", segment(&id));
    console.api().delete(&who.actor, &path).await?;
    let notice = Notice::done(format!(
        "{} is removed; what it posted is delivered all the same.",
        source.name
    ));
    Ok(who.go(&console, "/sources", notice))
}
