//! The console: pages for people at the admin listener, rendered here and shipped inside the binary.
//!
//! Every page is made of answers of the management API, asked in-process in the name of who is signed in (see
//! [`api`]): the console can see and do exactly what that person's token can, and roles are checked in one place.
//! Sign-in, sessions and forgery checks stand in [`gate`] and [`session`]; each other file is one page or a few that
//! belong together. Pages work without script; the small modules under `assets` make them livelier.
//!
//! It does not know the journal, delivery or the vendors.

mod alerts;
mod api;
mod assets;
mod blueprint;
mod chart;
mod dead_letters;
mod deliveries;
mod fields;
mod form;
mod format;
mod frame;
mod gate;
mod integrations;
mod library;
mod live;
mod overview;
mod records;
mod revisions;
mod sampler;
mod session;
mod settings;
mod sign_in;
mod sources;
mod story;
mod tokens;
mod views;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;

use crate::clock::{Millis, SharedClock};
use crate::config::Origin;
use crate::registry::Registry;
use crate::registry::random::Random;
pub use sampler::{Sampler, Sources};

/// Everything the console is made over.
pub struct Parts {
    /// The management API as it is served at the same listener.
    pub api: Router,
    /// Who may sign in.
    pub registry: Registry,
    /// The figures of the last hour.
    pub sampler: Arc<Sampler>,
    /// The settings in effect, secrets masked.
    pub settings: BTreeMap<String, (String, Origin)>,
    /// What time it is.
    pub clock: SharedClock,
    /// Where session ids come from.
    pub random: Random,
}

/// The console's state. Cheap to clone.
#[derive(Clone)]
struct Console(Arc<Inner>);

struct Inner {
    api: api::Api,
    registry: Registry,
    sampler: Arc<Sampler>,
    settings: BTreeMap<String, (String, Origin)>,
    clock: SharedClock,
    sessions: session::Sessions,
    attempts: gate::Attempts,
}

impl Console {
    fn api(&self) -> &api::Api {
        &self.0.api
    }

    fn now_ms(&self) -> Millis {
        self.0.clock.now_ms()
    }
}

/// Paths of the management API: all others are the console's.
const API_PATHS: [&str; 3] = ["/v1/", "/openapi.json", "/docs"];

/// The whole admin listener: the console, and the management API beside it.
pub fn router(parts: Parts) -> Router {
    let console = Console(Arc::new(Inner {
        api: api::Api::new(parts.api.clone()),
        registry: parts.registry,
        sampler: parts.sampler,
        settings: parts.settings,
        sessions: session::Sessions::new(parts.random, parts.clock.clone()),
        attempts: gate::Attempts::default(),
        clock: parts.clock,
    }));
    let open = Router::new()
        .route(
            "/sign-in",
            get(sign_in::page)
                .post(sign_in::sign_in)
                .layer(from_fn(gate::same_site)),
        )
        .route("/assets/{name}", get(assets::serve));
    let pages = open
        .merge(pages().layer(from_fn_with_state(console.clone(), gate::gate)))
        .fallback_service(
            Router::new()
                .fallback(frame::not_found)
                .layer(from_fn_with_state(console.clone(), gate::gate))
                .with_state(console.clone()),
        )
        .with_state(console)
        .layer(DefaultBodyLimit::max(form::BODY_BYTES_MAX))
        .layer(CatchPanicLayer::custom(
            |_: Box<dyn std::any::Any + Send>| {
                tracing::error!("a page panicked");
                frame::bare_error(
                    axum::http::StatusCode::INTERNAL_SERVER_ERROR,
                    "Something of ours failed",
                    "The page could not be made. The gateway's log says more.",
                )
            },
        ))
        .layer(from_fn(finish));
    Router::new()
        .fallback_service(pages)
        .layer(from_fn_with_state(parts.api, api_first))
}

/// Sends calls of the management API past the console.
async fn api_first(State(api): State<Router>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_api = API_PATHS.iter().any(|own| {
        path == own.trim_end_matches('/') || (own.ends_with('/') && path.starts_with(own))
    });
    if is_api {
        return match api.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
    }
    next.run(request).await
}

/// The pages that need somebody signed in.
fn pages() -> Router<Console> {
    Router::new()
        .route("/", get(overview::page))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/integrations", get(integrations::list))
        .route("/integrations/library", get(library::list))
        .route("/integrations/library/{vendor}", get(library::form))
        .route("/integrations/library/{vendor}", post(library::install))
        .route("/integrations/{id}", get(integrations::show))
        .route("/integrations/{id}/pause", post(integrations::pause))
        .route("/integrations/{id}/resume", post(integrations::resume))
        .route("/integrations/{id}/test", post(integrations::test))
        .route("/integrations/{id}/remove", post(integrations::remove))
        .route(
            "/integrations/{id}/settings",
            get(integrations::settings).post(integrations::change),
        )
        .route(
            "/integrations/{id}/blueprint",
            get(blueprint::page).post(blueprint::save),
        )
        .route("/integrations/{id}/blueprint/check", post(blueprint::check))
        .route("/integrations/{id}/blueprint/try", post(blueprint::try_out))
        .route("/integrations/{id}/revisions", get(revisions::list))
        .route("/integrations/{id}/revisions/{n}", get(revisions::show))
        .route("/integrations/{id}/rollback", post(revisions::roll_back))
        .route("/live", get(live::page))
        .route("/live/stream", get(live::stream))
        .route("/events", get(story::find))
        .route("/events/{message_id}", get(story::page))
        .route("/deliveries", get(deliveries::list))
        .route("/deliveries/{id}", get(deliveries::show))
        .route("/dead-letters", get(dead_letters::groups))
        .route("/dead-letters/list", get(dead_letters::list))
        .route("/dead-letters/replay", post(dead_letters::replay))
        .route("/replays/{id}", get(dead_letters::progress))
        .route("/replays/{id}/cancel", post(dead_letters::cancel))
        .route("/rejected", get(records::rejected))
        .route("/ledger", get(records::ledger))
        .route("/audit", get(records::audit))
        .route("/sources", get(sources::list).post(sources::create))
        .route("/sources/{id}/change", post(sources::change))
        .route("/sources/{id}/rotate", post(sources::rotate_key))
        .route("/sources/{id}/remove", post(sources::remove))
        .route("/sources/{id}/keys/{key}/revoke", post(sources::revoke_key))
        .route("/alerts", get(alerts::list).post(alerts::create))
        .route("/alerts/{name}", get(alerts::show).post(alerts::change))
        .route("/alerts/{name}/test", post(alerts::test))
        .route("/alerts/{name}/rotate", post(alerts::rotate))
        .route("/alerts/{name}/remove", post(alerts::remove))
        .route("/tokens", get(tokens::tokens).post(tokens::create_token))
        .route("/tokens/{id}/revoke", post(tokens::revoke_token))
        .route("/settings", get(settings::page))
}

/// What browsers are told about every page. No `unsafe-*`: styles and scripts are files of ours, and text is never
/// made into markup by script (`require-trusted-types-for`).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

async fn finish(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // Not `no-referrer`: under it browsers send `Origin: null` with our own forms, which the gate refuses.
        (header::REFERRER_POLICY, "same-origin"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}
