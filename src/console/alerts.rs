//! Alerts: what is wrong and was, who is told of it and how that went; endpoints made, changed, tested and removed. A
//! signing secret is shown once, on the page after it was made.

use askama::Template;
use axum::extract::{Extension, Path, State};
use axum::http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::Console;
use super::api::Refusal;
use super::fields::take_fault;
use super::form::{Form, segment};
use super::format::{Pill, When, count};
use super::frame::{Answer, Fail, Frame, page, rendered};
use super::gate::Who;
use super::session::Notice;
use super::views::{Alert, AlertEndpoint, FieldFault, Integration, Listed, SentNotice};
use crate::registry::Role;
use crate::registry::alerts::{Rule, Rules};

#[derive(Template)]
#[template(path = "alerts.html")]
struct AlertsPage {
    frame: Frame,
    alerts: Vec<AlertRow>,
    endpoints: Vec<EndpointRow>,
    new: EndpointForm,
}

#[derive(Template)]
#[template(path = "alert_endpoint.html")]
struct EndpointPage {
    frame: Frame,
    row: EndpointRow,
    alerts: Vec<AlertRow>,
    change: EndpointForm,
}

struct EndpointRow {
    endpoint: AlertEndpoint,
    state: Pill,
    sent: Option<When>,
    retry: Option<When>,
    old_secret: Option<When>,
}

struct AlertRow {
    state: Pill,
    rule: &'static str,
    summary: String,
    /// Where to look at it.
    link: Option<String>,
    since: When,
    resolved: Option<When>,
    sent: Vec<SentRow>,
}

struct SentRow {
    kind: &'static str,
    state: Pill,
    attempts: u32,
    error: Option<String>,
    when: When,
}

/// What an endpoint is told, to make one or change it.
#[derive(Template, Default)]
#[template(path = "alert_form.html")]
struct EndpointForm {
    action: String,
    button: &'static str,
    csrf: String,
    /// Only of a new one: it is the endpoint's address in the API.
    name: Option<String>,
    url: String,
    rules: Vec<RuleRow>,
    /// Id, name, chosen.
    integrations: Vec<(String, String, bool)>,
    resolved: bool,
    repeat_h: String,
    resolve_after_s: String,
    name_fault: Option<String>,
    url_fault: Option<String>,
    faults: Vec<String>,
}

#[derive(Clone)]
struct RuleRow {
    key: &'static str,
    words: &'static str,
    unit: &'static str,
    on: bool,
    threshold: String,
}

/// The rules in words.
const RULES: [(Rule, &str); Rule::ALL.len()] = [
    (
        Rule::IntegrationPaused,
        "An integration is paused for longer than",
    ),
    (
        Rule::DeadLetters,
        "An integration has more dead letters than",
    ),
    (
        Rule::OldestWaiting,
        "The oldest event of an integration waits longer than",
    ),
    (
        Rule::DatafileStale,
        "A datafile was not confirmed for longer than",
    ),
    (Rule::ZeroTraffic, "No event was accepted for longer than"),
    (
        Rule::SourceSilent,
        "A source that posted has been silent for longer than",
    ),
];

fn rule_words(word: &str) -> &'static str {
    match Rule::named(word) {
        Some(Rule::IntegrationPaused) => "integration paused",
        Some(Rule::DeadLetters) => "dead letters",
        Some(Rule::OldestWaiting) => "oldest waiting",
        Some(Rule::DatafileStale) => "datafile stale",
        Some(Rule::ZeroTraffic) => "no traffic",
        Some(Rule::SourceSilent) => "source silent",
        None => "other",
    }
}

impl EndpointForm {
    fn of(rules: &Rules, csrf: &str, integrations: &[Integration]) -> Self {
        Self {
            csrf: csrf.to_owned(),
            rules: RULES
                .iter()
                .map(|(rule, words)| {
                    let threshold = rules.threshold(*rule);
                    let usual = Rules::usual().threshold(*rule).unwrap_or(3_600);
                    RuleRow {
                        key: rule.as_str(),
                        words,
                        unit: rule.unit(),
                        on: threshold.is_some(),
                        threshold: threshold.unwrap_or(usual).to_string(),
                    }
                })
                .collect(),
            integrations: integrations
                .iter()
                .map(|one| (one.id.clone(), one.name.clone(), false))
                .collect(),
            resolved: true,
            repeat_h: "4".to_owned(),
            resolve_after_s: "60".to_owned(),
            ..Self::default()
        }
    }

    fn new(csrf: &str, integrations: &[Integration]) -> Self {
        Self {
            action: "/alerts".to_owned(),
            button: "Make endpoint",
            name: Some(String::new()),
            ..Self::of(&Rules::usual(), csrf, integrations)
        }
    }

    fn changing(endpoint: &AlertEndpoint, csrf: &str, integrations: &[Integration]) -> Self {
        let mut form = Self {
            action: format!("/alerts/{}", segment(&endpoint.name)),
            button: "Save",
            url: endpoint.url.clone(),
            resolved: endpoint.resolved,
            repeat_h: endpoint.repeat_h.to_string(),
            resolve_after_s: endpoint.resolve_after_s.to_string(),
            ..Self::of(&endpoint.rules, csrf, integrations)
        };
        let only = endpoint.integrations.as_deref().unwrap_or_default();
        for (id, _, lit) in &mut form.integrations {
            *lit = only.contains(id);
        }
        form
    }

    /// The same with what was entered, and what is wrong with it.
    fn entered(mut self, form: &Form, mut faults: Vec<FieldFault>) -> Self {
        if self.name.is_some() {
            self.name = Some(form.text("name").to_owned());
        }
        for rule in &mut self.rules {
            rule.on = form.has(rule.key);
            form.text(&format!("{}.above", rule.key))
                .clone_into(&mut rule.threshold);
        }
        let only = form.all("integrations");
        for (id, _, lit) in &mut self.integrations {
            *lit = only.contains(&id.as_str());
        }
        form.text("url").clone_into(&mut self.url);
        form.text("repeat_h").clone_into(&mut self.repeat_h);
        form.text("resolve_after_s")
            .clone_into(&mut self.resolve_after_s);
        self.resolved = form.has("resolved");
        self.name_fault = take_fault(&mut faults, &["name"]);
        self.url_fault = take_fault(&mut faults, &["url"]);
        self.faults = faults
            .into_iter()
            .map(|fault| format!("{}: {}", fault.field, fault.message))
            .collect();
        self
    }
}

/// What a form says, as the API takes it.
fn body(form: &Form) -> Value {
    let number = |name: &str| {
        let text = form.text(name).trim();
        serde_json::from_str::<serde_json::Number>(text).map_or_else(|_| json!(text), Value::Number)
    };
    let mut rules = Map::new();
    for (rule, _) in RULES.iter().filter(|(rule, _)| form.has(rule.as_str())) {
        let word = rule.as_str();
        let key = if rule.unit() == "seconds" {
            "above_s"
        } else {
            "above"
        };
        rules.insert(
            word.to_owned(),
            json!({ key: number(&format!("{word}.above")) }),
        );
    }
    let only = form.all("integrations");
    json!({
        "url": form.text("url").trim(),
        "rules": rules,
        "integrations": (!only.is_empty()).then_some(only),
        "resolved": form.has("resolved"),
        "repeat_h": number("repeat_h"),
        "resolve_after_s": number("resolve_after_s"),
    })
}

/// What is wrong and was, and who is told.
pub(super) async fn list(State(console): State<Console>, Extension(who): Extension<Who>) -> Answer {
    Ok(page(&list_page(&console, &who, None).await?))
}

async fn list_page(
    console: &Console,
    who: &Who,
    sent: Option<(&Form, Vec<FieldFault>)>,
) -> Result<AlertsPage, Fail> {
    let api = console.api();
    let now_ms = console.now_ms();
    let alerts: Listed<Alert> = api.get(&who.actor, "/alerts/state?limit=30").await?;
    let endpoints: Listed<AlertEndpoint> = api.get(&who.actor, "/alerts?limit=100").await?;
    let integrations = api.integrations(&who.actor).await?;
    let frame = Frame::new(who, "alerts", "Alerts");
    let new = EndpointForm::new(&frame.csrf, &integrations.data);
    Ok(AlertsPage {
        alerts: alerts
            .data
            .into_iter()
            .map(|alert| AlertRow::of(alert, now_ms))
            .collect(),
        endpoints: endpoints
            .data
            .into_iter()
            .map(|endpoint| EndpointRow::of(endpoint, now_ms))
            .collect(),
        new: match sent {
            Some((form, faults)) => new.entered(form, faults),
            None => new,
        },
        frame,
    })
}

/// One endpoint, and what was sent to it.
pub(super) async fn show(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Answer {
    Ok(page(&endpoint_page(&console, &who, &name, None).await?))
}

async fn endpoint_page(
    console: &Console,
    who: &Who,
    name: &str,
    sent: Option<(&Form, Vec<FieldFault>)>,
) -> Result<EndpointPage, Fail> {
    let api = console.api();
    let now_ms = console.now_ms();
    let name = segment(name);
    let endpoint: AlertEndpoint = api.get(&who.actor, &format!("/alerts/{name}")).await?;
    let alerts: Listed<Alert> = api
        .get(
            &who.actor,
            &format!("/alerts/state?limit=30&endpoint={name}"),
        )
        .await?;
    let integrations = api.integrations(&who.actor).await?;
    let frame = Frame::new(who, "alerts", format!("Alerts to {}", endpoint.name));
    let change = EndpointForm::changing(&endpoint, &frame.csrf, &integrations.data);
    Ok(EndpointPage {
        change: match sent {
            Some((form, faults)) => change.entered(form, faults),
            None => change,
        },
        row: EndpointRow::of(endpoint, now_ms),
        alerts: alerts
            .data
            .into_iter()
            .map(|alert| AlertRow::of(alert, now_ms))
            .collect(),
        frame,
    })
}

/// Makes one. A name that is taken is refused: putting it again would change what is there.
pub(super) async fn create(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
) -> Answer {
    let name = form.text("name").trim();
    let path = format!("/alerts/{}", segment(name));
    let known: Result<AlertEndpoint, Refusal> = console.api().get(&who.actor, &path).await;
    let fault = |message: &str| {
        vec![FieldFault {
            field: "name".to_owned(),
            message: message.to_owned(),
        }]
    };
    let faults = if name.is_empty() {
        fault("is missing")
    } else if known.is_ok() {
        fault("is taken by another endpoint; choose another name, or change that one")
    } else {
        match put(&console, &who, &path, body(&form)).await {
            Ok(notice) => return Ok(who.go(&console, &path, notice)),
            Err(refusal) if !refusal.errors.is_empty() => refusal.errors,
            Err(refusal) => return Err(refusal.into()),
        }
    };
    let made = list_page(&console, &who, Some((&form, faults))).await?;
    Ok(rendered(StatusCode::UNPROCESSABLE_ENTITY, &made))
}

/// Changes one.
pub(super) async fn change(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(name): Path<String>,
) -> Answer {
    let path = format!("/alerts/{}", segment(&name));
    match put(&console, &who, &path, body(&form)).await {
        Ok(notice) => Ok(who.go(&console, &path, notice)),
        Err(refusal) if !refusal.errors.is_empty() => {
            let sent = Some((&form, refusal.errors));
            let made = endpoint_page(&console, &who, &name, sent).await?;
            Ok(rendered(StatusCode::UNPROCESSABLE_ENTITY, &made))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// Gives an endpoint a new signing secret, everything else as it is.
pub(super) async fn rotate(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Answer {
    who.needs(Role::Admin)?;
    let path = format!("/alerts/{}", segment(&name));
    let endpoint: AlertEndpoint = console.api().get(&who.actor, &path).await?;
    let again = json!({
        "url": endpoint.url,
        "rules": endpoint.rules,
        "integrations": endpoint.integrations,
        "resolved": endpoint.resolved,
        "repeat_h": endpoint.repeat_h,
        "resolve_after_s": endpoint.resolve_after_s,
        "rotate_secret": true,
    });
    let notice = put(&console, &who, &path, again).await?;
    Ok(who.go(&console, &path, notice))
}

async fn put(console: &Console, who: &Who, path: &str, body: Value) -> Result<Notice, Refusal> {
    let endpoint: AlertEndpoint = console
        .api()
        .call(&who.actor, Method::PUT, path, Some(body))
        .await?;
    Ok(match endpoint.secret {
        Some(secret) => {
            let words = format!(
                "The signing secret of {}. It is shown only now: copy it to where notices are checked.",
                endpoint.name
            );
            Notice::with_secret(words, secret)
        }
        None => Notice::done(format!("{} is saved.", endpoint.name)),
    })
}

/// Sends a test notice and says how it went.
pub(super) async fn test(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Answer {
    let path = format!("/alerts/{}", segment(&name));
    let sent: SentNotice = console
        .api()
        .call(&who.actor, Method::POST, &format!("{path}/test"), None)
        .await?;
    let error = sent.last_error.unwrap_or_default();
    let notice = match sent.state.as_str() {
        "sent" => Notice::done(format!("{name} took the test notice.")),
        "waiting" if error.is_empty() => {
            Notice::fault("The test notice waits behind others; look again in a moment.")
        }
        "waiting" => Notice::fault(format!("Not taken yet, and tried again: {error}")),
        _ => Notice::fault(format!("Not taken: {error}")),
    };
    Ok(who.go(&console, &path, notice))
}

/// Removes one.
pub(super) async fn remove(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Answer {
    let path = format!("/alerts/{}", segment(&name));
    console.api().delete(&who.actor, &path).await?;
    let notice = Notice::done(format!("{name} is removed; it is told nothing more."));
    Ok(who.go(&console, "/alerts", notice))
}

impl EndpointRow {
    fn of(endpoint: AlertEndpoint, now_ms: i64) -> Self {
        let when = |at: &Option<String>| at.as_deref().map(|at| When::iso(at, now_ms));
        Self {
            state: match endpoint.state.as_str() {
                "ok" => Pill::new("good", "ok"),
                "retrying" => Pill::new("warn", "tried again"),
                other => Pill::new("bad", other),
            },
            sent: when(&endpoint.last_sent_at),
            retry: when(&endpoint.retry_at),
            old_secret: when(&endpoint.old_secret_until),
            endpoint,
        }
    }
}

impl AlertRow {
    fn of(alert: Alert, now_ms: i64) -> Self {
        Self {
            state: if alert.state == "firing" {
                Pill::new("bad", "firing")
            } else {
                Pill::new("quiet", "over")
            },
            rule: rule_words(&alert.rule),
            link: match (&alert.integration, Rule::named(&alert.rule)) {
                _ if alert.source.is_some() => Some("/sources".to_owned()),
                (Some(_), Some(Rule::DeadLetters)) => Some("/dead-letters".to_owned()),
                (Some(id), _) => Some(format!("/integrations/{}", segment(id))),
                (None, _) => None,
            },
            since: When::iso(&alert.since, now_ms),
            resolved: alert.resolved_at.as_deref().map(|at| When::iso(at, now_ms)),
            sent: alert
                .sent
                .into_iter()
                .map(|sent| SentRow::of(sent, now_ms))
                .collect(),
            summary: alert.summary,
        }
    }
}

impl SentRow {
    fn of(sent: SentNotice, now_ms: i64) -> Self {
        Self {
            kind: match sent.kind.as_str() {
                "alert.firing" => "firing",
                "alert.resolved" => "over",
                _ => "test",
            },
            state: match sent.state.as_str() {
                "sent" => Pill::new("good", "taken"),
                "waiting" => Pill::new("warn", "waiting"),
                _ => Pill::new("bad", "given up"),
            },
            attempts: sent.attempts,
            when: When::iso(sent.ended_at.as_deref().unwrap_or(&sent.created_at), now_ms),
            error: sent.last_error.filter(|_| sent.state != "sent"),
        }
    }
}
