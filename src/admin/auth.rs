//! Who may call what. The least role of each call stands beside it, in the OpenAPI document (`x-minimum-role`), and
//! is enforced from there: a call without one needs the role admin.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use utoipa::openapi::OpenApi;

use super::Admin;
use super::limits::{Limits, Standing, WINDOW};
use super::problem::Problem;
use crate::net::Peer;
use crate::registry::Role;
use crate::registry::audit::Actor;
use crate::registry::picture::sha256;

/// Name of the document's extension that holds the least role of a call.
pub(super) const EXTENSION: &str = "x-minimum-role";

/// Least role by path and method.
pub(super) type Roles = HashMap<(String, Method), Role>;

/// Who calls, already established: the console puts it on the requests it makes for a signed-in person. A request from
/// outside cannot carry one, because extensions do not travel over a connection.
#[derive(Debug, Clone)]
pub struct SignedIn(pub Actor);

/// What the guard knows.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) admin: Admin,
    pub(super) roles: Arc<Roles>,
    pub(super) limits: Arc<Limits>,
}

/// Reads the roles out of the document.
pub(super) fn roles(document: &OpenApi) -> Roles {
    let mut roles = Roles::new();
    for (path, item) in &document.paths.paths {
        let operations = [
            (Method::GET, &item.get),
            (Method::POST, &item.post),
            (Method::PUT, &item.put),
            (Method::PATCH, &item.patch),
            (Method::DELETE, &item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            let role = operation
                .extensions
                .as_ref()
                .and_then(|extensions| extensions.get(EXTENSION))
                .and_then(|role| serde_json::from_value(role.clone()).ok())
                .unwrap_or(Role::Admin);
            roles.insert((path.clone(), method), role);
        }
    }
    roles
}

/// Lets a request through when its token may make the call; handlers find the `Actor` in the extensions.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let Some(path) = request.extensions().get::<MatchedPath>().cloned() else {
        return next.run(request).await;
    };
    let method = if *request.method() == Method::HEAD {
        Method::GET
    } else {
        request.method().clone()
    };
    let key = (path.as_str().to_owned(), method.clone());
    let known = guard.roles.get(&key).copied();
    if known.is_none() && guard.roles.keys().any(|(path, _)| *path == key.0) {
        // Another method of a known path: answered with 405.
        return next.run(request).await;
    }
    let needed = known.unwrap_or(Role::Admin);
    // A token revoked or made by another process counts from its next request on.
    if let Err(error) = guard.admin.registry().refresh().await {
        return Problem::from(error).into_response();
    }
    if let Some(SignedIn(actor)) = request.extensions().get::<SignedIn>().cloned() {
        // The console has looked at its visitors itself, and counts their calls as its own.
        return admitted(&guard, actor, needed, request, next).await;
    }
    let Some(token) = bearer(&request) else {
        return unauthorized(
            "missing_token",
            "send an admin token: `Authorization: Bearer adm_…`",
        );
    };
    let now_ms = guard.admin.now_ms();
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let hash = sha256(&token);
    if let Some(wait_s) = peer.and_then(|peer| guard.limits.wait(peer, &hash, now_ms)) {
        return too_many(
            wait_s,
            "too_many_failures",
            "too many tokens from this address did not work; wait, then send one that does",
        );
    }
    let Some(actor) = guard.admin.registry().picture().bearer(&token, now_ms) else {
        if let Some(peer) = peer {
            guard.limits.failed(peer, &hash, now_ms);
        }
        return unauthorized(
            "invalid_token",
            "the token is unknown, expired or revoked; `aqueduct token create` makes one",
        );
    };
    if let Some(peer) = peer {
        guard.limits.worked(peer, hash, now_ms);
    }
    let standing = guard.limits.call(&actor.id, now_ms);
    let mut response = match standing {
        Some(standing) if standing.refused => too_many(
            standing.reset_s,
            "too_many_requests",
            "the token has made all the calls it may make in a minute (AQUEDUCT_ADMIN_RATE)",
        ),
        _ => admitted(&guard, actor, needed, request, next).await,
    };
    if let Some(standing) = standing {
        tell(&mut response, standing);
    }
    response
}

/// Past the door: the role decides.
async fn admitted(
    guard: &Guard,
    actor: Actor,
    needed: Role,
    mut request: Request,
    next: Next,
) -> Response {
    if actor.role < needed {
        let method = request.method();
        if !matches!(*method, Method::GET | Method::HEAD) {
            let object = request.uri().path().to_owned();
            let noted = guard
                .admin
                .registry()
                .note(&actor, "request", &object, None, "forbidden")
                .await;
            if let Err(error) = noted {
                return Problem::from(error).into_response();
            }
        }
        return Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!(
                "this call needs the role {needed:?}; the token has {:?}",
                actor.role
            )
            .to_lowercase(),
        )
        .into_response();
    }
    request.extensions_mut().insert(actor);
    next.run(request).await
}

fn bearer(request: &Request) -> Option<String> {
    let text = request
        .headers()
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned())
}

/// `RateLimit` and `RateLimit-Policy` as in draft-ietf-httpapi-ratelimit-headers-10.
fn tell(response: &mut Response, standing: Standing) {
    let policy = format!("\"token\";q={};w={}", standing.quota, WINDOW.as_secs());
    let now = format!("\"token\";r={};t={}", standing.left, standing.reset_s);
    for (name, text) in [("ratelimit-policy", policy), ("ratelimit", now)] {
        if let Ok(value) = HeaderValue::try_from(text) {
            response.headers_mut().insert(name, value);
        }
    }
}

fn too_many(wait_s: u64, code: &str, message: &str) -> Response {
    let mut response = Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        code,
        format!("{message}; come again in {wait_s} s"),
    )
    .into_response();
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(wait_s));
    response
}

fn unauthorized(code: &str, message: &str) -> Response {
    Problem::new(StatusCode::UNAUTHORIZED, code, message).into_response()
}
