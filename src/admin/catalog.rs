//! The catalog: what can be installed, and installing it.

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::Admin;
use super::extract::{Body, Params};
use super::integrations::{IntegrationView, Tested, tested};
use super::page::{Page, Paging};
use super::problem::{Problem, ProblemBody};
use crate::blueprint::{Blueprint, FieldKind, check};
use crate::registry::audit::Actor;
use crate::registry::checks::Checks;
use crate::registry::shipped_variants;

/// One vendor that can be installed.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub(super) struct CatalogEntry {
    /// Name used in paths.
    vendor: String,
    /// Name for people.
    title: String,
    /// What it does.
    about: String,
    /// For the library, e.g. `Analytics`.
    category: String,
    /// How events travel.
    delivery_modes: Vec<&'static str>,
    /// The fields of the first variant.
    fields: Vec<FieldView>,
    /// The shipped blueprints.
    variants: Vec<VariantView>,
}

/// A shipped blueprint.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub(super) struct VariantView {
    /// Name to install it by.
    variant: String,
    /// Name for people.
    title: String,
    /// What it does.
    about: String,
    /// What `config` holds.
    fields: Vec<FieldView>,
}

/// One field of `config`.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub(super) struct FieldView {
    /// Name in `config`.
    key: String,
    /// Name for people.
    label: String,
    /// `text`, `secret`, `url`, `choice`, `number` or `yes_no`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// It must be given.
    required: bool,
    /// Where to find the value.
    help: Option<String>,
    /// Taken when nothing is given.
    default: Option<String>,
    /// Shown only on request; may be given in `settings` too.
    advanced: bool,
    /// What may be chosen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    options: Vec<OptionView>,
}

/// One choice of a field.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub(super) struct OptionView {
    /// Name for people.
    label: String,
    /// What to enter.
    value: String,
}

/// The body of an install.
#[derive(Debug, utoipa::ToSchema)]
#[expect(
    dead_code,
    reason = "the shape for the document; read as a map, so that all faults come at once"
)]
pub(super) struct Install {
    /// Name for people; unique.
    name: String,
    /// One of the entry's variants; `default` when left out.
    variant: Option<String>,
    /// Values of the entry's fields.
    #[schema(value_type = Object)]
    config: Value,
    /// `server_side`.
    delivery_mode: Option<String>,
    /// Ids of the sources whose events are wanted; all when left out.
    sources: Option<Vec<String>>,
    /// Delivery settings, and the entry's advanced fields.
    #[schema(value_type = Option<Object>)]
    settings: Option<Value>,
}

/// What to test with.
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TestParams {
    /// Event name; needed where the vendor knows events by key.
    event: Option<String>,
}

/// Lists what can be installed.
#[utoipa::path(
    get, path = "/integration-catalog", tag = "catalog",
    params(Paging),
    responses((status = 200, body = Page<CatalogEntry>), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<CatalogEntry>>, Problem> {
    let entries = admin.catalog().to_vec();
    Page::within(entries, paging.limit, paging.cursor.as_deref(), |entry| {
        &entry.vendor
    })
    .map(Json)
}

/// Shows one vendor that can be installed.
#[utoipa::path(
    get, path = "/integration-catalog/{vendor}", tag = "catalog",
    params(("vendor" = String, Path, description = "E.g. `optimizely`")),
    responses((status = 200, body = CatalogEntry), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(vendor): Path<String>,
) -> Result<Json<CatalogEntry>, Problem> {
    let known = admin.catalog().iter();
    let mut known = known.filter(|entry| entry.vendor == vendor);
    known
        .next()
        .cloned()
        .map(Json)
        .ok_or_else(|| Problem::not_found("catalog entry", &vendor))
}

/// Installs an integration. 422 lists every bad field; nothing is installed then.
#[utoipa::path(
    post, path = "/integration-catalog/{vendor}/install", tag = "catalog",
    params(("vendor" = String, Path, description = "E.g. `optimizely`"), ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters of your choice: within 24 hours the same request with the same key has one effect and one answer")),
    request_body = Install,
    responses((status = 201, body = IntegrationView), (status = 503), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("editor")))
)]
pub(super) async fn install(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(vendor): Path<String>,
    Body(body): Body<Map<String, Value>>,
) -> Result<(StatusCode, Json<IntegrationView>), Problem> {
    let changed = admin.registry().install(&actor, &vendor, &body).await?;
    let view = IntegrationView::changed(&admin, changed).await;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Sends one marked event as the integration of an install would, and shows request and reply. Nothing is installed.
/// The body is that of an install; a name is not needed yet.
#[utoipa::path(
    post, path = "/integration-catalog/{vendor}/test", tag = "catalog",
    params(("vendor" = String, Path, description = "E.g. `optimizely`"), TestParams),
    request_body = Install,
    responses((status = 200, body = Tested), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("editor")))
)]
pub(super) async fn test(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(vendor): Path<String>,
    Params(params): Params<TestParams>,
    Body(body): Body<Map<String, Value>>,
) -> Result<Json<Tested>, Problem> {
    let rehearsal = admin.registry().rehearse(&vendor, &body).await?;
    let done = admin
        .delivery()
        .rehearse(&rehearsal, params.event.as_deref())
        .await;
    let result = if done.is_ok() { "ok" } else { "not_sent" };
    admin
        .registry()
        .note(&actor, "integration.rehearse", &vendor, None, result)
        .await?;
    tested(done)
}

/// One entry for each vendor, in the order its blueprints are shipped.
pub(super) fn entries(checks: &Checks) -> Vec<CatalogEntry> {
    let mut vendors: Vec<&str> = Vec::new();
    for (path, _) in checks.builtin {
        if let Some((vendor, _)) = path.split_once('/')
            && !vendors.contains(&vendor)
        {
            vendors.push(vendor);
        }
    }
    vendors
        .into_iter()
        .filter_map(|vendor| entry(checks, vendor))
        .collect()
}

fn entry(checks: &Checks, vendor: &str) -> Option<CatalogEntry> {
    let shipped: Vec<(&str, Blueprint)> = shipped_variants(checks, vendor)
        .into_iter()
        .filter_map(|(variant, text)| Some((variant, check(text).blueprint?)))
        .collect();
    let (_, first) = shipped
        .iter()
        .find(|(variant, _)| *variant == "default")
        .or_else(|| shipped.first())?;
    Some(CatalogEntry {
        vendor: vendor.to_owned(),
        title: first.title().to_owned(),
        about: first.about().to_owned(),
        category: first.category().to_owned(),
        delivery_modes: vec!["server_side"],
        fields: fields(first),
        variants: shipped
            .iter()
            .map(|(variant, blueprint)| VariantView {
                variant: (*variant).to_owned(),
                title: blueprint.title().to_owned(),
                about: blueprint.about().to_owned(),
                fields: fields(blueprint),
            })
            .collect(),
    })
}

fn fields(blueprint: &Blueprint) -> Vec<FieldView> {
    blueprint
        .fields()
        .iter()
        .map(|field| {
            let (kind, options) = match &field.kind {
                FieldKind::Text => ("text", &[][..]),
                FieldKind::Secret => ("secret", &[][..]),
                FieldKind::Url => ("url", &[][..]),
                FieldKind::Choice(options) => ("choice", options.as_slice()),
                FieldKind::Number => ("number", &[][..]),
                FieldKind::YesNo => ("yes_no", &[][..]),
            };
            FieldView {
                key: field.key.clone(),
                label: field.label.clone(),
                kind,
                required: !field.optional && field.default.is_none(),
                help: field.help.clone(),
                default: field.default.clone(),
                advanced: field.advanced,
                options: options
                    .iter()
                    .map(|(label, value)| OptionView {
                        label: label.clone(),
                        value: value.clone(),
                    })
                    .collect(),
            }
        })
        .collect()
}
