//! Sources and their write keys. A key is shown once, when it is made.

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;

use super::Admin;
use super::extract::{Body, MaybeBody, Params};
use super::page::{Page, Paging, rfc3339};
use super::problem::{Problem, ProblemBody};
use crate::event::Kind;
use crate::registry::audit::Actor;
use crate::registry::picture::SourceEntry;
use crate::registry::{NewAgent, Permits, SourceSpec};
use crate::secret::Secret;

/// A source.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct SourceView {
    id: String,
    name: String,
    /// Events a second all its keys together may post; null = no limit.
    rate: Option<u32>,
    /// Events a second each of its keys may post; null = no limit.
    key_rate: Option<u32>,
    /// Web origins its keys may be used from; null = all.
    allowed_origins: Option<Vec<String>>,
    /// Names its track calls may have; null = all.
    allowed_events: Option<Vec<String>>,
    /// Kinds of calls its keys may make; null = all.
    #[schema(value_type = Option<Vec<String>>)]
    allowed_types: Option<Vec<Kind>>,
    created_at: String,
    /// When it last posted an event; null = never.
    last_event_at: Option<String>,
    /// Its live keys, oldest first; two while rotating.
    keys: Vec<KeyView>,
    /// The Optimizely Agent whose decisions it listens to; null = none.
    agent: Option<AgentView>,
    /// The new key; shown only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    write_key: Option<String>,
}

/// An Optimizely Agent a source listens to.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct AgentView {
    /// Its base address.
    url: String,
    /// The end of the SDK key it is asked with.
    sdk_key: String,
    /// Kinds of notifications it is asked for.
    filter: String,
}

/// A live write key, by its beginning.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct KeyView {
    id: String,
    prefix: String,
    label: String,
    created_at: String,
}

/// A new source.
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSource {
    /// Name for people; unique.
    name: String,
    /// Events a second all its keys together may post; no limit when left out.
    #[serde(default)]
    rate: Option<u32>,
    /// Events a second each of its keys may post; no limit when left out.
    #[serde(default)]
    key_rate: Option<u32>,
    /// Web origins its keys may be used from, e.g. `https://shop.example`, `https://*.shop.example`; all when left out. Calls
    /// without an `Origin` header (servers, apps) are taken in any case.
    #[serde(default)]
    allowed_origins: Option<Vec<String>>,
    /// Names its track calls may have; a `*` at the end stands for any rest; all when left out. Other events of a batch are
    /// answered in `rejected`.
    #[serde(default)]
    allowed_events: Option<Vec<String>>,
    /// Kinds of calls its keys may make: `track`, `identify`, `page`, `screen`, `group`, `alias`, `decision`; all when left out.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    allowed_types: Option<Vec<Kind>>,
    /// Also listen to the decisions of this Optimizely Agent.
    #[serde(default)]
    agent: Option<NewAgentBody>,
}

/// An Optimizely Agent to listen to, by `GET /v1/notifications/event-stream`.
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAgentBody {
    /// Its base address, e.g. `https://agent.example.org`; a private one has to be in AQUEDUCT_EGRESS_ALLOW.
    url: String,
    /// SDK key of the environment it is asked about; kept encrypted, shown by its end only.
    sdk_key: String,
    /// Kinds of notifications, comma-separated; `decision` when left out. Others than decisions are read and ignored.
    #[serde(default)]
    filter: Option<String>,
}

/// A change of a source: what is left out stays, null takes a limit away.
#[derive(Debug, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceChange {
    /// Name for people; unique.
    #[serde(default)]
    name: Option<String>,
    /// As in a new source.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>)]
    rate: Option<Option<u32>>,
    /// As in a new source.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>)]
    key_rate: Option<Option<u32>>,
    /// As in a new source.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    allowed_origins: Option<Option<Vec<String>>>,
    /// As in a new source.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    allowed_events: Option<Option<Vec<String>>>,
    /// As in a new source.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    allowed_types: Option<Option<Vec<Kind>>>,
}

/// A member that was sent, null included.
fn given<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    T::deserialize(from).map(Some)
}

impl SourceChange {
    fn apply(self, spec: &mut SourceSpec) {
        fn put<T>(change: Option<T>, place: &mut T) {
            if let Some(value) = change {
                *place = value;
            }
        }
        put(self.name, &mut spec.name);
        put(self.rate, &mut spec.rate);
        put(self.key_rate, &mut spec.permits.key_rate);
        put(self.allowed_origins, &mut spec.permits.origins);
        put(self.allowed_events, &mut spec.permits.events);
        put(self.allowed_types, &mut spec.permits.types);
    }
}

/// A new key.
#[derive(Debug, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKey {
    /// What it is for.
    #[serde(default)]
    label: String,
}

impl SourceView {
    fn of(admin: &Admin, entry: &SourceEntry) -> Self {
        let last_ms = admin.registry().seen().last_ms(&entry.source.id);
        Self {
            last_event_at: last_ms.map(rfc3339),
            id: entry.source.id.clone(),
            name: entry.source.name.clone(),
            rate: entry.source.rate,
            key_rate: entry.source.permits.key_rate,
            allowed_origins: entry.source.permits.origins.clone(),
            allowed_events: entry.source.permits.events.clone(),
            allowed_types: entry.source.permits.types.clone(),
            created_at: rfc3339(entry.source.created_at_ms),
            keys: entry
                .keys
                .iter()
                .map(|key| KeyView {
                    id: key.id.clone(),
                    prefix: key.prefix.clone(),
                    label: key.label.clone(),
                    created_at: rfc3339(key.created_at_ms),
                })
                .collect(),
            agent: entry.agent.as_ref().map(|agent| AgentView {
                url: agent.url.clone(),
                sdk_key: agent.sdk_key.hint(),
                filter: agent.filter.clone(),
            }),
            write_key: None,
        }
    }
}

fn known(admin: &Admin, id: &str) -> Result<SourceView, Problem> {
    admin
        .registry()
        .picture()
        .source(id)
        .map(|entry| SourceView::of(admin, entry))
        .ok_or_else(|| Problem::not_found("source", id))
}

/// Lists the sources.
#[utoipa::path(
    get, path = "/sources", tag = "sources",
    params(Paging),
    responses((status = 200, body = Page<SourceView>), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<SourceView>>, Problem> {
    let views = admin
        .registry()
        .picture()
        .sources
        .iter()
        .map(|entry| SourceView::of(&admin, entry))
        .collect();
    Page::within(views, paging.limit, paging.cursor.as_deref(), |view| {
        &view.id
    })
    .map(Json)
}

/// Shows a source.
#[utoipa::path(
    get, path = "/sources/{id}", tag = "sources",
    params(("id" = String, Path, description = "`src_…`")),
    responses((status = 200, body = SourceView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<SourceView>, Problem> {
    known(&admin, &id).map(Json)
}

/// Makes a source; `write_key` is shown only in this answer.
#[utoipa::path(
    post, path = "/sources", tag = "sources",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters of your choice: within 24 hours the same request with the same key has one effect and one answer")),
    request_body = NewSource,
    responses((status = 201, body = SourceView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("admin")))
)]
pub(super) async fn create(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Body(body): Body<NewSource>,
) -> Result<(StatusCode, Json<SourceView>), Problem> {
    let agent = body.agent.map(|agent| NewAgent {
        url: agent.url,
        sdk_key: Secret::new(agent.sdk_key),
        filter: agent.filter,
    });
    let spec = SourceSpec {
        name: body.name,
        rate: body.rate,
        permits: Permits {
            key_rate: body.key_rate,
            origins: body.allowed_origins,
            events: body.allowed_events,
            types: body.allowed_types,
        },
    };
    let (id, key) = admin.registry().create_source(&actor, spec, agent).await?;
    let mut view = known(&admin, &id)?;
    view.write_key = Some(key.expose().to_owned());
    Ok((StatusCode::CREATED, Json(view)))
}

/// Changes a source's name and limits; its keys stay, and keep to them from the next call on.
#[utoipa::path(
    patch, path = "/sources/{id}", tag = "sources",
    params(("id" = String, Path, description = "`src_…`")),
    request_body = SourceChange,
    responses((status = 200, body = SourceView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("admin")))
)]
pub(super) async fn change(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Body(body): Body<SourceChange>,
) -> Result<Json<SourceView>, Problem> {
    admin
        .registry()
        .change_source(&actor, &id, |spec| body.apply(spec))
        .await?;
    known(&admin, &id).map(Json)
}

/// Removes a source and its keys; what it posted is delivered all the same.
#[utoipa::path(
    delete, path = "/sources/{id}", tag = "sources",
    params(("id" = String, Path, description = "`src_…`")),
    responses((status = 204), (status = 409, description = "An integration names it"), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("admin")))
)]
pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    admin.registry().delete_source(&actor, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a source a new key, shown only in this answer; the key before it stays live until the next rotation.
#[utoipa::path(
    post, path = "/sources/{id}/rotate-key", tag = "sources",
    params(("id" = String, Path, description = "`src_…`"), ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters of your choice: within 24 hours the same request with the same key has one effect and one answer")),
    request_body = NewKey,
    responses((status = 200, body = SourceView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("admin")))
)]
pub(super) async fn rotate_key(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    MaybeBody(body): MaybeBody<NewKey>,
) -> Result<Json<SourceView>, Problem> {
    let key = admin
        .registry()
        .rotate_key(&actor, &id, &body.label)
        .await?;
    let mut view = known(&admin, &id)?;
    view.write_key = Some(key.expose().to_owned());
    Ok(Json(view))
}

/// Ends one key of a source.
#[utoipa::path(
    delete, path = "/sources/{id}/keys/{key}", tag = "sources",
    params(("id" = String, Path, description = "`src_…`"), ("key" = String, Path, description = "`key_…`")),
    responses((status = 204), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("admin")))
)]
pub(super) async fn revoke_key(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path((id, key)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    admin.registry().revoke_key(&actor, &id, &key).await?;
    Ok(StatusCode::NO_CONTENT)
}
