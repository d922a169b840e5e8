//! Outgoing alerts: where they are sent, by which rules, and what is wrong now. A signing secret is shown once.

use axum::Json;
use axum::extract::{Extension, Path, State};

use super::Admin;
use super::extract::{Body, Params};
use super::page::{Page, Paging, limit_of, number_of, rfc3339};
use super::problem::{Problem, ProblemBody};
use crate::alerts::state_word;
use crate::registry::alert_log::{AlertRow, NoticeRow};
use crate::registry::alerts::{AlertEndpoint, AlertSettings, Rule, Rules};
use crate::registry::audit::Actor;

/// An endpoint that alerts are posted to.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct AlertEndpointView {
    name: String,
    url: String,
    /// The rules in use with their thresholds; null = off.
    rules: Rules,
    /// Only about these integrations; null = about all.
    integrations: Option<Vec<String>>,
    /// Also told when it is over.
    resolved: bool,
    /// Told again every so many hours while it lasts; 0 = once.
    repeat_h: u32,
    /// It is over when nothing was seen of it for so many seconds.
    resolve_after_s: u32,
    /// `ok`, `retrying`, `paused` (one attempt a minute) or `gone` (it answered 410; put it again to go on).
    state: &'static str,
    /// Why it is paused.
    reason: Option<String>,
    /// What went wrong with the last attempt.
    last_error: Option<String>,
    /// When it last took a notice, as far as this process knows.
    last_sent_at: Option<String>,
    /// When it is tried again.
    retry_at: Option<String>,
    /// Notices not taken yet.
    waiting: u64,
    /// The end of its signing secret.
    secret_hint: String,
    /// Until when the secret before it signs too.
    old_secret_until: Option<String>,
    created_at: String,
    changed_at: String,
    /// The new signing secret; shown only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// What an endpoint is to be told.
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PutAlertEndpoint {
    /// Where notices are posted; a private address has to be in AQUEDUCT_EGRESS_ALLOW.
    url: String,
    /// The rules to use with their thresholds; left out: all of them, at the usual thresholds.
    #[serde(default)]
    rules: Option<Rules>,
    /// Only about these integrations; left out: about all.
    #[serde(default)]
    integrations: Option<Vec<String>>,
    /// Also told when it is over; yes when left out.
    #[serde(default)]
    resolved: Option<bool>,
    /// Told again every so many hours while it lasts, 0 = once; 4 when left out.
    #[serde(default)]
    repeat_h: Option<u32>,
    /// It is over when nothing was seen of it for so many seconds; 60 when left out.
    #[serde(default)]
    resolve_after_s: Option<u32>,
    /// Make a new signing secret; the one before signs too for 24 hours.
    #[serde(default)]
    rotate_secret: bool,
}

/// An alert: something that was or is wrong.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct AlertView {
    id: String,
    /// By whose rules: an endpoint's name; null = the usual rules, which the gateway watches by itself.
    endpoint: Option<String>,
    rule: Rule,
    /// Which integration; null = the whole gateway, or a source.
    integration: Option<String>,
    /// Its name.
    integration_name: Option<String>,
    /// Which source, of the rule `source_silent`.
    source: Option<String>,
    /// Its name.
    source_name: Option<String>,
    /// `firing` or `resolved`.
    state: &'static str,
    /// One sentence.
    summary: String,
    /// Why, for pauses.
    reason: Option<String>,
    /// What was measured at the last notice.
    value: u64,
    threshold: u64,
    /// `seconds` or `events`.
    unit: &'static str,
    since: String,
    last_noticed_at: String,
    /// How often it was told.
    notices: u32,
    resolved_at: Option<String>,
    /// What was sent about it, oldest first.
    sent: Vec<NoticeView>,
}

/// A message to an endpoint.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct NoticeView {
    /// Its `webhook-id`.
    id: String,
    endpoint: String,
    /// `alert.firing`, `alert.resolved` or `alert.test`.
    #[serde(rename = "type")]
    kind: String,
    /// `waiting`, `sent` or `given_up`.
    state: String,
    attempts: u32,
    /// What went wrong with the last attempt, or with one before it that it has to wait for.
    last_error: Option<String>,
    created_at: String,
    ended_at: Option<String>,
}

/// Which alerts are wanted.
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AlertsWanted {
    /// By an endpoint's rules; left out: by the usual rules.
    endpoint: Option<String>,
    /// `firing` or `resolved`; left out: both.
    state: Option<String>,
    /// Rows in one answer, 1 to 100.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

async fn view(admin: &Admin, endpoint: &AlertEndpoint) -> Result<AlertEndpointView, Problem> {
    let waiting = admin.registry().notices_waiting(&endpoint.name).await?;
    let status = admin.alerts().status(&endpoint.name);
    let now_ms = admin.now_ms();
    let settings = &endpoint.settings;
    let old = endpoint.old_secret.as_ref();
    Ok(AlertEndpointView {
        name: endpoint.name.clone(),
        url: settings.url.clone(),
        rules: settings.rules,
        integrations: settings.integrations.clone(),
        resolved: settings.resolved,
        repeat_h: settings.repeat_h,
        resolve_after_s: settings.resolve_after_s,
        state: state_word(endpoint, &status),
        reason: status.paused.map(|(reason, _)| reason.to_owned()),
        last_error: status.last_error,
        last_sent_at: status.last_sent_ms.map(rfc3339),
        retry_at: status.retry_at_ms.filter(|_| waiting > 0).map(rfc3339),
        waiting,
        secret_hint: endpoint.secret.hint(),
        old_secret_until: old
            .filter(|(_, until_ms)| now_ms < *until_ms)
            .map(|(_, until_ms)| rfc3339(*until_ms)),
        created_at: rfc3339(endpoint.created_at_ms),
        changed_at: rfc3339(endpoint.changed_at_ms),
        secret: None,
    })
}

async fn known(admin: &Admin, name: &str) -> Result<AlertEndpointView, Problem> {
    let picture = admin.registry().picture();
    match picture.alert_endpoint(name) {
        Some(endpoint) => view(admin, endpoint).await,
        None => Err(Problem::not_found("alert endpoint", name)),
    }
}

/// Lists the endpoints that alerts are posted to.
#[utoipa::path(
    get, path = "/alerts", tag = "alerts", operation_id = "list_alert_endpoints",
    params(Paging),
    responses((status = 200, body = Page<AlertEndpointView>), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<AlertEndpointView>>, Problem> {
    let mut views = Vec::new();
    for endpoint in &admin.registry().picture().alert_endpoints {
        views.push(view(&admin, endpoint).await?);
    }
    let cursor = paging.cursor.as_deref();
    Page::within(views, paging.limit, cursor, |view| &view.name).map(Json)
}

/// Shows an endpoint.
#[utoipa::path(
    get, path = "/alerts/{name}", tag = "alerts", operation_id = "show_alert_endpoint",
    params(("name" = String, Path, description = "The endpoint's name")),
    responses((status = 200, body = AlertEndpointView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<AlertEndpointView>, Problem> {
    known(&admin, &name).await.map(Json)
}

/// Makes an endpoint, or changes it as a whole; `secret` is shown only when it was made by this call.
#[utoipa::path(
    put, path = "/alerts/{name}", tag = "alerts", operation_id = "put_alert_endpoint",
    params(("name" = String, Path, description = "1 to 40 small letters, digits, `-` or `_`")),
    request_body = PutAlertEndpoint,
    responses((status = 200, body = AlertEndpointView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-creates" = json!(true)), ("x-minimum-role" = json!("admin")))
)]
pub(super) async fn put(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    Body(body): Body<PutAlertEndpoint>,
) -> Result<Json<AlertEndpointView>, Problem> {
    let usual = AlertSettings::usual(body.url);
    let settings = AlertSettings {
        rules: body.rules.unwrap_or(usual.rules),
        integrations: body.integrations,
        resolved: body.resolved.unwrap_or(usual.resolved),
        repeat_h: body.repeat_h.unwrap_or(usual.repeat_h),
        resolve_after_s: body.resolve_after_s.unwrap_or(usual.resolve_after_s),
        url: usual.url,
    };
    let made = admin
        .registry()
        .put_alert_endpoint(&actor, &name, settings, body.rotate_secret)
        .await?;
    // What waits is tried at the new address at once.
    admin.alerts().poke(&name);
    let mut view = known(&admin, &name).await?;
    view.secret = made.map(|secret| secret.expose().to_owned());
    Ok(Json(view))
}

/// Removes an endpoint, and what was still to be sent to it.
#[utoipa::path(
    delete, path = "/alerts/{name}", tag = "alerts", operation_id = "delete_alert_endpoint",
    params(("name" = String, Path, description = "The endpoint's name")),
    responses((status = 204), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("admin")))
)]
pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Result<axum::http::StatusCode, Problem> {
    let registry = admin.registry();
    registry.delete_alert_endpoint(&actor, &name).await?;
    Ok(axum::http::StatusCode::NO_CONTENT)
}

/// Sends a test notice by the same way as alerts, behind those that wait, and says how it went within 20 seconds. A
/// paused endpoint is tried at once.
#[utoipa::path(
    post, path = "/alerts/{name}/test", tag = "alerts", operation_id = "test_alert_endpoint",
    params(("name" = String, Path, description = "The endpoint's name")),
    responses((status = 200, body = NoticeView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("operator")))
)]
pub(super) async fn test(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Result<Json<NoticeView>, Problem> {
    let row = admin.alerts().test(&name).await?;
    admin
        .registry()
        .note(&actor, "alert_endpoint.test", &name, None, "ok")
        .await?;
    let mut view = notice(row);
    if view.state == "waiting" && view.last_error.is_none() {
        view.last_error = admin.alerts().status(&name).last_error;
    }
    Ok(Json(view))
}

/// What is wrong now, and what was: newest first. Kept for 90 days.
#[utoipa::path(
    get, path = "/alerts/state", tag = "alerts", operation_id = "list_alerts",
    params(AlertsWanted),
    responses((status = 200, body = Page<AlertView>), (status = 404, description = "No such alert endpoint", body = ProblemBody, content_type = "application/problem+json"), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn state(
    State(admin): State<Admin>,
    Params(wanted): Params<AlertsWanted>,
) -> Result<Json<Page<AlertView>>, Problem> {
    let limit = limit_of(wanted.limit)?;
    let before = number_of(wanted.cursor.as_deref())?;
    let resolved = match wanted.state.as_deref() {
        None => None,
        Some("firing") => Some(false),
        Some("resolved") => Some(true),
        Some(_) => {
            let message = "must be `firing` or `resolved`";
            return Err(Problem::field("state", "unknown_value", message));
        }
    };
    let endpoint = wanted.endpoint.unwrap_or_default();
    if !endpoint.is_empty() {
        known(&admin, &endpoint).await?;
    }
    let registry = admin.registry();
    let rows = registry
        .alerts(&endpoint, resolved, before, limit + 1)
        .await?;
    let page = Page::of(rows, limit, |row| row.n.to_string());
    let mut views = Vec::new();
    for row in page.rows() {
        let sent = if row.endpoint.is_empty() {
            Vec::new()
        } else {
            registry.alert_notices(&row.id).await?
        };
        views.push(alert(row, sent));
    }
    Ok(Json(page.with_rows(views)))
}

fn alert(row: &AlertRow, sent: Vec<NoticeRow>) -> AlertView {
    let named = |text: &String| (!text.is_empty()).then(|| text.clone());
    let about = (named(&row.integration), named(&row.integration_name));
    let (integration, source) = if row.rule.is_about_source() {
        ((None, None), about)
    } else {
        (about, (None, None))
    };
    AlertView {
        id: row.id.clone(),
        endpoint: named(&row.endpoint),
        rule: row.rule,
        integration: integration.0,
        integration_name: integration.1,
        source: source.0,
        source_name: source.1,
        state: if row.resolved_ms.is_some() {
            "resolved"
        } else {
            "firing"
        },
        summary: row.summary.clone(),
        reason: row.reason.clone(),
        value: row.value,
        threshold: row.threshold,
        unit: row.rule.unit(),
        since: rfc3339(row.since_ms),
        last_noticed_at: rfc3339(row.noticed_ms),
        notices: row.notices,
        resolved_at: row.resolved_ms.map(rfc3339),
        sent: sent.into_iter().map(notice).collect(),
    }
}

fn notice(row: NoticeRow) -> NoticeView {
    NoticeView {
        id: row.id,
        endpoint: row.endpoint,
        kind: row.kind,
        state: row.outcome.unwrap_or_else(|| "waiting".to_owned()),
        attempts: row.attempts,
        last_error: row.last_error,
        created_at: rfc3339(row.created_ms),
        ended_at: row.ended_ms.map(rfc3339),
    }
}
