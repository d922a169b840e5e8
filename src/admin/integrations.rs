//! Installed integrations: looked at, changed, paused, tested, removed.

use axum::Json;
use axum::extract::{Extension, Path};
use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::Admin;
use super::extract::{Body, MaybeBody, Params};
use super::page::{Page, Paging, rfc3339};
use super::problem::{Problem, ProblemBody};
use crate::blueprint::{Diagnostic, FieldFault};
use crate::delivery::status::{State, Status};
use crate::delivery::{Trial, TrialError};
use crate::registry::Changed;
use crate::registry::audit::Actor;
use crate::registry::picture::Installed;

/// An integration. Secrets stand in `config` as `{"set":true,"hint":"…4f2a"}`.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct IntegrationView {
    id: String,
    vendor: String,
    variant: String,
    name: String,
    delivery_mode: &'static str,
    /// Ids of the sources whose events are wanted; null = all.
    sources: Option<Vec<String>>,
    /// Values of the blueprint's fields.
    #[schema(value_type = Object)]
    config: Map<String, Value>,
    /// Delivery settings, and the blueprint's advanced fields.
    #[schema(value_type = Object)]
    settings: Map<String, Value>,
    /// Stopped by an admin.
    paused: Option<PauseView>,
    blueprint_revision: u32,
    /// Changes with every change.
    version: u64,
    created_at: String,
    changed_at: String,
    /// How delivery is doing.
    status: Status,
    /// Why it cannot run, if it cannot: its events wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<TroubleView>,
    /// What should be looked at after an install or a change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<FieldFault>,
}

/// Why and since when an admin stopped an integration.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct PauseView {
    reason: String,
    since: String,
}

/// Why an integration cannot run.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct TroubleView {
    /// In one sentence.
    message: String,
    /// What the check of its blueprint says.
    diagnostics: Vec<Diagnostic>,
    /// What does not fit its config.
    errors: Vec<FieldFault>,
}

/// The body of a change: what is left out stays, null gives back the default, a secret sent back masked stays.
#[derive(Debug, utoipa::ToSchema)]
#[expect(
    dead_code,
    reason = "the shape for the document; read as a map, so that all faults come at once"
)]
pub(super) struct Change {
    name: Option<String>,
    #[schema(value_type = Option<Object>)]
    config: Option<Value>,
    sources: Option<Vec<String>>,
    #[schema(value_type = Option<Object>)]
    settings: Option<Value>,
}

/// Why it is paused.
#[derive(Debug, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseBody {
    /// Words for whoever looks later.
    #[serde(default)]
    reason: String,
}

/// What to test with.
#[derive(Debug, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TestBody {
    /// Event name; one the vendor knows is chosen when left out.
    #[serde(default)]
    event: Option<String>,
}

/// What a test sent and got.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct Tested {
    /// One row per request the test event became.
    trials: Vec<Trial>,
}

/// How to remove.
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveParams {
    /// Remove although events wait for it or are kept as dead letters: they are given up.
    #[serde(default)]
    force: bool,
}

impl IntegrationView {
    pub(super) async fn of(admin: &Admin, installed: &Installed) -> Self {
        let mut config = installed.masked_config();
        let mut settings = match serde_json::to_value(&installed.tuning) {
            Ok(Value::Object(settings)) => settings,
            _ => Map::new(),
        };
        if let Ok(running) = &installed.running {
            for field in running
                .blueprint
                .fields()
                .iter()
                .filter(|field| field.advanced)
            {
                if let Some(value) = config.shift_remove(&field.key) {
                    settings.insert(field.key.clone(), value);
                }
            }
        }
        let problem = installed.running.as_ref().err().map(|trouble| TroubleView {
            message: "its blueprint, or its config under that blueprint, does not pass this release's check; put a corrected blueprint or change the config".to_owned(),
            diagnostics: trouble.diagnostics.clone(),
            errors: trouble.faults.clone(),
        });
        let paused = installed.paused.as_ref().map(|pause| PauseView {
            reason: pause.reason.clone(),
            since: rfc3339(pause.since_ms),
        });
        let status = status_of(admin, installed, problem.as_ref()).await;
        Self {
            id: installed.id.clone(),
            vendor: installed.vendor.clone(),
            variant: installed.variant.clone(),
            name: installed.name.clone(),
            delivery_mode: "server_side",
            sources: installed.sources.clone(),
            config,
            settings,
            paused,
            blueprint_revision: installed.blueprint_revision,
            version: installed.version,
            created_at: rfc3339(installed.created_at_ms),
            changed_at: rfc3339(installed.changed_at_ms),
            status,
            problem,
            warnings: Vec::new(),
        }
    }

    /// After a change: the pipelines are in step with it, and what should be looked at is said.
    pub(super) async fn changed(admin: &Admin, changed: Changed) -> Self {
        admin.delivery().sync().await;
        Self {
            warnings: changed.warnings,
            ..Self::of(admin, &changed.integration).await
        }
    }
}

async fn status_of(admin: &Admin, installed: &Installed, problem: Option<&TroubleView>) -> Status {
    let paused = |reason: &str, detail: &str| Status {
        state: State::Paused,
        reason: Some(reason.to_owned()),
        detail: Some(detail.to_owned()),
        ..Status::default()
    };
    if let Some(problem) = problem {
        return paused("blueprint_faults", &problem.message);
    }
    match (
        admin.delivery().status(&installed.id).await,
        &installed.paused,
    ) {
        (Some(status), _) => status,
        (None, Some(pause)) => paused("admin", &pause.reason),
        (None, None) => Status::default(),
    }
}

/// Lists the installed integrations.
#[utoipa::path(
    get, path = "/integrations", tag = "integrations",
    params(Paging),
    responses((status = 200, body = Page<IntegrationView>), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn list(
    axum::extract::State(admin): axum::extract::State<Admin>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<IntegrationView>>, Problem> {
    let all = admin.registry().picture().integrations.clone();
    let page = Page::within(all, paging.limit, paging.cursor.as_deref(), |installed| {
        &installed.id
    })?;
    let mut views = Vec::new();
    for installed in page.rows() {
        views.push(IntegrationView::of(&admin, installed).await);
    }
    Ok(Json(page.with_rows(views)))
}

/// Shows an integration.
#[utoipa::path(
    get, path = "/integrations/{id}", tag = "integrations",
    params(("id" = String, Path, description = "`int_…`")),
    responses((status = 200, body = IntegrationView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn show(
    axum::extract::State(admin): axum::extract::State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<IntegrationView>, Problem> {
    let picture = admin.registry().picture();
    let installed = picture
        .integration(&id)
        .ok_or_else(|| Problem::not_found("integration", &id))?;
    Ok(Json(IntegrationView::of(&admin, installed).await))
}

/// Changes an integration; it is checked as at install.
#[utoipa::path(
    patch, path = "/integrations/{id}", tag = "integrations",
    params(("id" = String, Path, description = "`int_…`")),
    request_body = Change,
    responses((status = 200, body = IntegrationView), (status = 409, description = "Changed by somebody else meanwhile"), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("editor")))
)]
pub(super) async fn change(
    axum::extract::State(admin): axum::extract::State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Body(body): Body<Map<String, Value>>,
) -> Result<Json<IntegrationView>, Problem> {
    let changed = admin.registry().change(&actor, &id, &body).await?;
    Ok(Json(IntegrationView::changed(&admin, changed).await))
}

/// Removes an integration. 409 while events wait for it or are kept as dead letters, unless `force=true`.
#[utoipa::path(
    delete, path = "/integrations/{id}", tag = "integrations",
    params(("id" = String, Path, description = "`int_…`"), RemoveParams),
    responses((status = 204), (status = 409, description = "Events wait for it or are kept as dead letters; `force=true` gives them up"), (status = 503), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("editor")))
)]
pub(super) async fn remove(
    axum::extract::State(admin): axum::extract::State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Params(params): Params<RemoveParams>,
) -> Result<StatusCode, Problem> {
    if admin.registry().picture().integration(&id).is_none() {
        return Err(Problem::not_found("integration", &id));
    }
    if !params.force {
        let ledger = admin.journal().ledger().await?;
        let (pending, dead) = ledger
            .iter()
            .find(|row| row.feed == id)
            .map_or((0, 0), |row| {
                (row.pending, row.dead.iter().map(|(_, n)| n).sum::<u64>())
            });
        if pending + dead > 0 {
            admin
                .registry()
                .note(&actor, "integration.remove", &id, None, "not_empty")
                .await?;
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "not_empty",
                format!(
                    "{pending} events wait for this integration and {dead} are kept as dead letters; `?force=true` gives them up"
                ),
            ));
        }
    }
    let removed = admin.registry().remove(&actor, &id).await;
    admin.delivery().sync().await;
    removed?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stops an integration; its events wait.
#[utoipa::path(
    post, path = "/integrations/{id}/pause", tag = "integrations",
    params(("id" = String, Path, description = "`int_…`")),
    request_body = PauseBody,
    responses((status = 200, body = IntegrationView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("operator")))
)]
pub(super) async fn pause(
    axum::extract::State(admin): axum::extract::State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    MaybeBody(body): MaybeBody<PauseBody>,
) -> Result<Json<IntegrationView>, Problem> {
    let installed = admin.registry().pause(&actor, &id, &body.reason).await?;
    admin.delivery().sync().await;
    Ok(Json(IntegrationView::of(&admin, &installed).await))
}

/// Lets an integration go on, whoever stopped it.
#[utoipa::path(
    post, path = "/integrations/{id}/resume", tag = "integrations",
    params(("id" = String, Path, description = "`int_…`")),
    responses((status = 200, body = IntegrationView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("operator")))
)]
pub(super) async fn resume(
    axum::extract::State(admin): axum::extract::State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<IntegrationView>, Problem> {
    let installed = admin.registry().resume(&actor, &id).await?;
    admin.delivery().sync().await;
    admin.delivery().resume(&id);
    Ok(Json(IntegrationView::of(&admin, &installed).await))
}

/// Sends one marked event and shows request and reply.
#[utoipa::path(
    post, path = "/integrations/{id}/test", tag = "integrations",
    params(("id" = String, Path, description = "`int_…`")),
    request_body = TestBody,
    responses((status = 200, body = Tested), (status = 409, description = "It does not run; see its `problem`"), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("operator")))
)]
pub(super) async fn test(
    axum::extract::State(admin): axum::extract::State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    MaybeBody(body): MaybeBody<TestBody>,
) -> Result<Json<Tested>, Problem> {
    if admin.registry().picture().integration(&id).is_none() {
        return Err(Problem::not_found("integration", &id));
    }
    let done = admin.delivery().test(&id, body.event.as_deref()).await;
    let result = if done.is_ok() { "ok" } else { "not_sent" };
    admin
        .registry()
        .note(&actor, "integration.test", &id, None, result)
        .await?;
    tested(done)
}

/// The answer to a test, sent or not.
pub(super) fn tested(done: Result<Vec<Trial>, TrialError>) -> Result<Json<Tested>, Problem> {
    done.map(|trials| Json(Tested { trials }))
        .map_err(|fault| match fault {
            TrialError::Unknown => Problem::new(
                StatusCode::CONFLICT,
                "not_running",
                "the integration does not run; see its `problem`",
            ),
            fault => Problem::field("event", "not_sent", fault.to_string()),
        })
}
