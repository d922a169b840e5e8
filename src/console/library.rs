//! The integration library: what can be installed, the form to install it with, and a test before that.

use askama::Template;
use axum::extract::{Extension, Path, State};
use axum::http::{Method, StatusCode, Uri};
use serde_json::{Map, Value, json};

use super::Console;
use super::api::Refusal;
use super::fields::{Input, entered, inputs, take_fault};
use super::form::{Form, query_of, segment};
use super::frame::{Answer, Frame, page, rendered};
use super::gate::Who;
use super::integrations::{TrialRow, trial_rows};
use super::session::Notice;
use super::views::{CatalogEntry, FieldFault, Integration, Listed, Source, Tested, Variant};

#[derive(Template)]
#[template(path = "library.html")]
struct ListPage {
    frame: Frame,
    wanted: String,
    category: String,
    categories: Vec<(String, String, bool)>,
    entries: Vec<Card>,
}

struct Card {
    entry: CatalogEntry,
    initial: String,
    installed: usize,
}

#[derive(Template)]
#[template(path = "install.html")]
struct FormPage {
    frame: Frame,
    entry: CatalogEntry,
    variant: Variant,
    name: String,
    name_fault: Option<String>,
    inputs: Vec<Input>,
    any_advanced: bool,
    advanced_open: bool,
    sources: Vec<(Source, bool)>,
    other_faults: Vec<FieldFault>,
    faults: usize,
    test_event: String,
    test_fault: Option<String>,
    trials: Vec<TrialRow>,
}

/// The library.
pub(super) async fn list(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    uri: Uri,
) -> Answer {
    let query = Form::query(uri.query());
    let (wanted, category) = (
        query.text("q").trim().to_owned(),
        query.text("category").to_owned(),
    );
    let catalog: Listed<CatalogEntry> = console
        .api()
        .get(&who.actor, "/integration-catalog?limit=100")
        .await?;
    let installed = console.api().integrations(&who.actor).await?;
    let mut names: Vec<String> = catalog
        .data
        .iter()
        .map(|entry| entry.category.clone())
        .collect();
    names.sort();
    names.dedup();
    let mut categories = vec![(
        "All".to_owned(),
        format!("/integrations/library{}", query_of(&[("q", &wanted)])),
        category.is_empty(),
    )];
    categories.extend(names.into_iter().map(|name| {
        let link = query_of(&[("category", &name), ("q", &wanted)]);
        let lit = name == category;
        (name, format!("/integrations/library{link}"), lit)
    }));
    let needle = wanted.to_lowercase();
    let matches = |entry: &CatalogEntry| {
        (category.is_empty() || entry.category == category)
            && [&entry.title, &entry.about, &entry.vendor, &entry.category]
                .iter()
                .any(|text| text.to_lowercase().contains(&needle))
    };
    let entries = catalog
        .data
        .into_iter()
        .filter(matches)
        .map(|entry| Card {
            initial: entry.title.chars().take(1).collect(),
            installed: installed
                .data
                .iter()
                .filter(|integration| integration.vendor == entry.vendor)
                .count(),
            entry,
        })
        .collect();
    Ok(page(&ListPage {
        frame: Frame::new(&who, "integrations", "Integration Library"),
        wanted,
        category,
        categories,
        entries,
    }))
}

/// The form.
pub(super) async fn form(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(vendor): Path<String>,
    uri: Uri,
) -> Answer {
    let query = Form::query(uri.query());
    let shown = Shown {
        variant: query.text("variant").to_owned(),
        ..Shown::default()
    };
    let made = made(&console, &who, &vendor, shown).await?;
    Ok(page(&made))
}

/// What the form is shown with.
#[derive(Default)]
struct Shown {
    variant: String,
    form: Option<Form>,
    faults: Vec<FieldFault>,
    trials: Vec<TrialRow>,
    notice: Option<Notice>,
}

async fn made(
    console: &Console,
    who: &Who,
    vendor: &str,
    shown: Shown,
) -> Result<FormPage, super::frame::Fail> {
    let entry: CatalogEntry = console
        .api()
        .get(
            &who.actor,
            &format!("/integration-catalog/{}", segment(vendor)),
        )
        .await?;
    let sources = console.api().sources(&who.actor).await?;
    let variant = entry
        .variants
        .iter()
        .find(|variant| variant.variant == shown.variant)
        .or_else(|| entry.variants.first())
        .cloned()
        .unwrap_or_else(|| Variant {
            variant: "default".to_owned(),
            about: String::new(),
            fields: Vec::new(),
        });
    let mut faults = shown.faults;
    let count = faults.len();
    let form = shown.form.as_ref();
    let name_fault = take_fault(&mut faults, &["name"]);
    let test_fault = take_fault(&mut faults, &["event"]);
    let kept = |key: &str| {
        console
            .0
            .sessions
            .kept(who.session(), vendor, key)
            .is_some()
    };
    let inputs = inputs(&variant.fields, &Map::new(), form, &kept, &mut faults);
    let advanced_open = inputs.iter().any(|input| {
        input.advanced
            && (input.fault.is_some()
                || !input.value.is_empty() && form.is_some() && input.kind != "choice")
    });
    let chosen = form.map(|form| form.all("source")).unwrap_or_default();
    let mut frame = Frame::new(who, "integrations", format!("Install {}", entry.title));
    if let Some(notice) = shown.notice {
        frame = frame.saying(notice);
    }
    Ok(FormPage {
        frame,
        name: form.map_or_else(|| entry.title.clone(), |form| form.text("name").to_owned()),
        name_fault,
        any_advanced: inputs.iter().any(|input| input.advanced),
        advanced_open,
        inputs,
        sources: sources.chosen(|id| chosen.contains(&id)),
        other_faults: faults,
        faults: count,
        test_event: form.map_or("", |form| form.text("event")).to_owned(),
        test_fault,
        trials: shown.trials,
        variant,
        entry,
    })
}

/// Installs what was entered, or tests it.
pub(super) async fn install(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(vendor): Path<String>,
) -> Answer {
    let entry: CatalogEntry = console
        .api()
        .get(
            &who.actor,
            &format!("/integration-catalog/{}", segment(&vendor)),
        )
        .await?;
    let wanted = form.text("variant").to_owned();
    let fields = entry
        .variants
        .iter()
        .find(|variant| variant.variant == wanted)
        .map(|variant| variant.fields.clone())
        .unwrap_or_default();
    let mut config = entered(&fields, &form, false);
    // Secrets are never sent back to the browser; those entered before are kept with the session meanwhile.
    for field in fields.iter().filter(|field| field.kind == "secret") {
        match config.get(&field.key).and_then(Value::as_str) {
            Some(text) => console
                .0
                .sessions
                .keep(who.session(), &vendor, &field.key, text),
            None => {
                if let Some(secret) = console.0.sessions.kept(who.session(), &vendor, &field.key) {
                    config.insert(field.key.clone(), json!(secret.expose()));
                }
            }
        }
    }
    let mut body = json!({
        "name": form.text("name").trim(),
        "variant": wanted,
        "config": config,
        "delivery_mode": "server_side",
    });
    let sources = form.all("source");
    if !sources.is_empty() {
        body["sources"] = json!(sources);
    }
    let path = format!("/integration-catalog/{}", segment(&vendor));
    let mut shown = Shown {
        variant: wanted,
        form: Some(form.clone()),
        ..Shown::default()
    };
    let refusal = if form.text("do") == "test" {
        let query = query_of(&[("event", form.text("event").trim())]);
        let tested: Result<Tested, Refusal> = console
            .api()
            .call(
                &who.actor,
                Method::POST,
                &format!("{path}/test{query}"),
                Some(body),
            )
            .await;
        match tested {
            Ok(tested) => {
                shown.trials = trial_rows(tested);
                None
            }
            Err(refusal) => Some(refusal),
        }
    } else {
        let done: Result<Integration, Refusal> = console
            .api()
            .call(
                &who.actor,
                Method::POST,
                &format!("{path}/install"),
                Some(body),
            )
            .await;
        match done {
            Ok(made) => {
                console.0.sessions.forget(who.session(), &vendor);
                let mut words = format!("{} is installed and takes events from now on.", made.name);
                for warning in &made.warnings {
                    words.push_str(&format!(" Note: {} {}.", warning.field, warning.message));
                }
                return Ok(who.go(
                    &console,
                    &format!("/integrations/{}", made.id),
                    Notice::done(words),
                ));
            }
            Err(refusal) => Some(refusal),
        }
    };
    let mut status = StatusCode::OK;
    if let Some(refusal) = refusal {
        if refusal.errors.is_empty() {
            return Err(refusal.into());
        }
        status = StatusCode::UNPROCESSABLE_ENTITY;
        shown.faults = refusal.errors;
    }
    let made = made(&console, &who, &vendor, shown).await?;
    Ok(rendered(status, &made))
}
