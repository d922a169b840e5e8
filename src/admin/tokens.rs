//! Admin tokens. A token is shown once, when it is made.

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;

use super::Admin;
use super::extract::{Body, Params};
use super::page::{Page, Paging, rfc3339, time_of};
use super::problem::{Problem, ProblemBody};
use crate::registry::Role;
use crate::registry::audit::Actor;
use crate::registry::picture::TokenEntry;

/// An admin token, without its secret half.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct TokenView {
    /// The open half.
    id: String,
    name: String,
    role: Role,
    /// It works now.
    live: bool,
    /// Given by AQUEDUCT_ADMIN_TOKEN.
    from_setting: bool,
    created_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    /// The whole token; shown only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// A new token.
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// Whose it is, for people.
    name: String,
    /// What it may do.
    role: Role,
    /// When it stops working by itself (RFC 3339).
    #[serde(default)]
    expires_at: Option<String>,
}

impl TokenView {
    fn of(entry: &TokenEntry, admin: &Admin) -> Self {
        Self {
            id: entry.id.clone(),
            name: entry.name.clone(),
            role: entry.role,
            live: entry.works(admin.now_ms()),
            from_setting: entry.from_setting,
            created_at: rfc3339(entry.created_at_ms),
            expires_at: entry.expires_at_ms.map(rfc3339),
            revoked_at: entry.revoked_at_ms.map(rfc3339),
            token: None,
        }
    }
}

/// Lists the tokens, revoked ones included.
#[utoipa::path(
    get, path = "/tokens", tag = "tokens",
    params(Paging),
    responses((status = 200, body = Page<TokenView>), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("admin")))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<TokenView>>, Problem> {
    let views = admin
        .registry()
        .picture()
        .tokens
        .iter()
        .map(|entry| TokenView::of(entry, &admin))
        .collect();
    Page::within(views, paging.limit, paging.cursor.as_deref(), |view| {
        &view.id
    })
    .map(Json)
}

/// Makes a token; `token` is shown only in this answer.
#[utoipa::path(
    post, path = "/tokens", tag = "tokens",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters of your choice: within 24 hours the same request with the same key has one effect and one answer")),
    request_body = NewToken,
    responses((status = 201, body = TokenView), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("admin")))
)]
pub(super) async fn create(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Body(body): Body<NewToken>,
) -> Result<(StatusCode, Json<TokenView>), Problem> {
    let expires_at_ms = time_of("expires_at", body.expires_at.as_deref())?;
    let token = admin
        .registry()
        .create_token(&actor, &body.name, body.role, expires_at_ms)
        .await?;
    let picture = admin.registry().picture();
    let entry = picture
        .tokens
        .iter()
        .find(|entry| {
            token
                .expose()
                .strip_prefix(&entry.id)
                .is_some_and(|rest| rest.starts_with('_'))
        })
        .ok_or_else(|| Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR))?;
    let mut view = TokenView::of(entry, &admin);
    view.token = Some(token.expose().to_owned());
    Ok((StatusCode::CREATED, Json(view)))
}

/// Ends a token; the next request with it is refused.
#[utoipa::path(
    delete, path = "/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "`adm_…`, without the secret half")),
    responses((status = 204), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("admin")))
)]
pub(super) async fn revoke(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    admin.registry().revoke_token(&actor, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
