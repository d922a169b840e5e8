//! Blueprints: those of integrations with their revisions, and checking, testing and trying one out.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value};

use super::Admin;
use super::extract::{Body, Params, TextOrJson, read};
use super::integrations::IntegrationView;
use super::page::{Page, Paging, limit_of, number_of, rfc3339};
use super::problem::{Problem, ProblemBody};
use super::story::{MappingView, map};
use crate::blueprint::{Config, Diagnostic, ExampleResult, Plan, Severity, Table, Tables, check};
use crate::registry::audit::Actor;
use crate::registry::store::RevisionRow;

/// One revision of an integration's blueprint. Revisions never change.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct RevisionView {
    revision: u32,
    /// As it was put: YAML or JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Token that put it.
    author: String,
    note: String,
    created_at: String,
    /// It runs now.
    in_use: bool,
}

/// A blueprint with a note, as JSON. The blueprint itself may also be the whole body, as YAML or JSON.
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BlueprintBody {
    /// YAML or JSON.
    text: String,
    /// Why, for whoever looks later.
    #[serde(default)]
    note: String,
}

/// Which revision to go back to.
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollBackBody {
    /// Its number.
    revision: u32,
    #[serde(default)]
    note: String,
}

/// What the check found.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct Checked {
    /// There is no error.
    ok: bool,
    diagnostics: Vec<Diagnostic>,
}

/// What the examples gave.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct ExamplesRun {
    /// There is no error and every example passed.
    ok: bool,
    diagnostics: Vec<Diagnostic>,
    examples: Vec<ExampleResult>,
}

/// What to try: an integration, or a blueprint with a config, or both (that blueprint under the integration's config).
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TryBody {
    /// `int_…`: its config and tables are used, and its blueprint when none is given.
    #[serde(default)]
    integration: Option<String>,
    /// YAML or JSON text.
    #[serde(default)]
    blueprint: Option<String>,
    /// Values of the blueprint's fields, without an integration.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
    /// Documents for its remote tables, by table name.
    #[serde(default)]
    #[schema(value_type = Object)]
    documents: BTreeMap<String, Value>,
    /// The event, as an app would post it (with `type`).
    #[schema(value_type = Object)]
    event: Map<String, Value>,
}

fn view(row: RevisionRow, in_use: u32, with_text: bool) -> RevisionView {
    RevisionView {
        revision: row.number,
        text: with_text.then_some(row.text),
        author: row.author,
        note: row.note,
        created_at: rfc3339(row.created_at_ms),
        in_use: row.number == in_use,
    }
}

fn revision_in_use(admin: &Admin, id: &str) -> Result<u32, Problem> {
    admin
        .registry()
        .picture()
        .integration(id)
        .map(|installed| installed.blueprint_revision)
        .ok_or_else(|| Problem::not_found("integration", id))
}

/// Shows the blueprint in use; as it was put with `Accept: application/yaml`.
#[utoipa::path(
    get, path = "/integrations/{id}/blueprint", tag = "blueprints",
    params(("id" = String, Path, description = "`int_…`")),
    responses((status = 200, body = RevisionView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let number = revision_in_use(&admin, &id)?;
    let row = admin.registry().revision(&id, number).await?;
    let wants_text = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("yaml") || accept.starts_with("text/"));
    if wants_text {
        let kind = "application/yaml; charset=utf-8";
        return Ok(([(header::CONTENT_TYPE, kind)], row.text).into_response());
    }
    Ok(Json(view(row, number, true)).into_response())
}

/// Puts a new revision. One that does not check, or does not fit the config, never replaces a running one.
#[utoipa::path(
    put, path = "/integrations/{id}/blueprint", tag = "blueprints",
    params(("id" = String, Path, description = "`int_…`")),
    request_body(content = BlueprintBody, description = "This, or the blueprint itself as `application/yaml` or `application/json`"),
    responses((status = 200, body = IntegrationView), (status = 409, description = "Changed by somebody else meanwhile"), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("editor")))
)]
pub(super) async fn put(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    body: TextOrJson,
) -> Result<Json<IntegrationView>, Problem> {
    let body = blueprint_of(&body)?;
    let changed = admin
        .registry()
        .put_blueprint(&actor, &id, &body.text, &body.note)
        .await?;
    Ok(Json(IntegrationView::changed(&admin, changed).await))
}

/// Lists the revisions, newest first.
#[utoipa::path(
    get, path = "/integrations/{id}/blueprint/revisions", tag = "blueprints",
    params(("id" = String, Path, description = "`int_…`"), Paging),
    responses((status = 200, body = Page<RevisionView>), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn revisions(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<RevisionView>>, Problem> {
    let limit = limit_of(paging.limit)?;
    let before = number_of(paging.cursor.as_deref())?;
    let in_use = revision_in_use(&admin, &id)?;
    let rows = admin
        .registry()
        .revisions(&id, before, limit + 1)
        .await?
        .into_iter()
        .map(|row| view(row, in_use, false))
        .collect();
    Ok(Json(Page::of(rows, limit, |row: &RevisionView| {
        row.revision.to_string()
    })))
}

/// Shows one revision.
#[utoipa::path(
    get, path = "/integrations/{id}/blueprint/revisions/{n}", tag = "blueprints",
    params(("id" = String, Path, description = "`int_…`"), ("n" = u32, Path, description = "Its number")),
    responses((status = 200, body = RevisionView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn revision(
    State(admin): State<Admin>,
    Path((id, n)): Path<(String, String)>,
) -> Result<Json<RevisionView>, Problem> {
    let in_use = revision_in_use(&admin, &id)?;
    let number = n.parse().map_err(|_| Problem::not_found("revision", &n))?;
    let row = admin.registry().revision(&id, number).await?;
    Ok(Json(view(row, in_use, true)))
}

/// Goes back to an earlier revision, as a new one.
#[utoipa::path(
    post, path = "/integrations/{id}/blueprint/rollback", tag = "blueprints",
    params(("id" = String, Path, description = "`int_…`")),
    request_body = RollBackBody,
    responses((status = 200, body = IntegrationView), (status = 409, description = "Changed by somebody else meanwhile"), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("editor")))
)]
pub(super) async fn roll_back(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Body(body): Body<RollBackBody>,
) -> Result<Json<IntegrationView>, Problem> {
    let changed = admin
        .registry()
        .roll_back(&actor, &id, body.revision, &body.note)
        .await?;
    Ok(Json(IntegrationView::changed(&admin, changed).await))
}

/// Checks a blueprint: all remarks at once, each with its place.
#[utoipa::path(
    post, path = "/blueprints/check", tag = "blueprints",
    request_body(content = BlueprintBody, description = "This, or the blueprint itself as `application/yaml` or `application/json`"),
    responses((status = 200, body = Checked), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn check_one(body: TextOrJson) -> Result<Json<Checked>, Problem> {
    let text = blueprint_of(&body)?.text;
    let checked = off_thread(move || check(&text)).await?;
    Ok(Json(Checked {
        ok: is_clean(&checked.diagnostics),
        diagnostics: checked.diagnostics,
    }))
}

/// Checks a blueprint and runs its examples.
#[utoipa::path(
    post, path = "/blueprints/test", tag = "blueprints",
    request_body(content = BlueprintBody, description = "This, or the blueprint itself as `application/yaml` or `application/json`"),
    responses((status = 200, body = ExamplesRun), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn test(body: TextOrJson) -> Result<Json<ExamplesRun>, Problem> {
    let text = blueprint_of(&body)?.text;
    let (diagnostics, examples) = off_thread(move || {
        let checked = check(&text);
        let examples = checked
            .blueprint
            .map_or_else(Vec::new, |blueprint| blueprint.run_examples());
        (checked.diagnostics, examples)
    })
    .await?;
    Ok(Json(ExamplesRun {
        ok: is_clean(&diagnostics) && examples.iter().all(|example| example.passed),
        diagnostics,
        examples,
    }))
}

/// Shows each request in full that an event would become, and which line made each field. Nothing is sent.
#[utoipa::path(
    post, path = "/blueprints/try", tag = "blueprints",
    request_body = TryBody,
    responses((status = 200, body = MappingView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn try_out(
    State(admin): State<Admin>,
    Body(body): Body<TryBody>,
) -> Result<Json<MappingView>, Problem> {
    let event = super::story::event_as_posted(body.event, admin.now_ms())
        .map_err(|(field, code, message)| Problem::field(&field, code, message))?;
    let (plan, config) = plan_of(
        &admin,
        body.integration.as_deref(),
        body.blueprint,
        body.config,
    )?;
    let mut tables = body
        .integration
        .as_deref()
        .map(|id| admin.delivery().tables(id))
        .map_or_else(Tables::default, |tables| (*tables).clone());
    for (name, document) in &body.documents {
        let table = Table::read(&plan, name, document).map_err(|message| {
            Problem::field(&format!("documents.{name}"), "not_a_table", message)
        })?;
        tables.tables.insert(name.clone(), Arc::new(table));
    }
    let view = off_thread(move || map(&plan, &config, &event, &tables)).await?;
    Ok(Json(view))
}

fn plan_of(
    admin: &Admin,
    integration: Option<&str>,
    blueprint: Option<String>,
    config: Option<Map<String, Value>>,
) -> Result<(Arc<Plan>, Config), Problem> {
    let installed = integration
        .map(|id| {
            admin
                .registry()
                .picture()
                .integration(id)
                .cloned()
                .ok_or_else(|| {
                    Problem::field(
                        "integration",
                        "unknown_integration",
                        "there is no such integration",
                    )
                })
        })
        .transpose()?;
    let text = match (&installed, blueprint) {
        (_, Some(text)) => text,
        (Some(installed), None) => installed.blueprint_text.clone(),
        (None, None) => {
            return Err(Problem::field(
                "blueprint",
                "missing",
                "is required when no integration is given",
            ));
        }
    };
    let checked = check(&text);
    let Some(blueprint) = checked.blueprint else {
        return Err(crate::registry::ChangeError::Blueprint(checked.diagnostics).into());
    };
    let config = match (config, installed) {
        (Some(config), _) => blueprint
            .read_config(&config, "config")
            .map_err(Problem::fields)?,
        (None, Some(installed)) => installed.config_for(&blueprint),
        (None, None) => blueprint
            .read_config(&Map::new(), "config")
            .map_err(Problem::fields)?,
    };
    // Nothing is sent: an address that may not be reached is no reason not to show the request.
    let plan = blueprint
        .bind(&config, &|_| true)
        .map_err(Problem::fields)?;
    Ok((Arc::new(plan), config))
}

fn is_clean(diagnostics: &[Diagnostic]) -> bool {
    diagnostics
        .iter()
        .all(|remark| remark.severity != Severity::Error)
}

/// The blueprint of a body: the wrapper with a `text`, or the body itself.
fn blueprint_of(body: &TextOrJson) -> Result<BlueprintBody, Problem> {
    if body.is_json {
        let value: Map<String, Value> = read(&body.bytes)?;
        if value.contains_key("text") {
            return read(&body.bytes);
        }
    }
    let text = std::str::from_utf8(&body.bytes).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "not_utf8",
            format!(
                "the blueprint is not UTF-8 after byte {}",
                error.valid_up_to()
            ),
        )
    })?;
    Ok(BlueprintBody {
        text: text.to_owned(),
        note: String::new(),
    })
}

/// Checking and mapping are bounded, but not short enough for a thread that answers others.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR))
}
