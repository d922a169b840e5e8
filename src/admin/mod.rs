//! The management API: everything under `/v1/admin`, and its OpenAPI document.
//!
//! One file per resource. Handlers read a request, ask registry, journal, delivery or logbook, and describe the
//! answer; they decide nothing. Who may call what stands beside each call and is enforced in [`auth`].

mod alerts;
mod assignments;
mod audit;
mod auth;
mod blueprints;
mod catalog;
mod dead_letters;
mod deliveries;
mod docs;
mod document;
mod events;
mod extract;
mod idempotency;
mod integrations;
mod later;
mod ledger;
mod limits;
mod live;
mod page;
mod problem;
mod rejected;
mod replays;
mod services;
mod sources;
mod story;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::assignments::Assignments;
use crate::clock::{Millis, SharedClock};
use crate::journal::Journal;
use crate::logbook::Logbook;
use crate::registry::Registry;
use problem::{PROBLEM_JSON, Problem};

pub use auth::SignedIn;
pub use services::DeliveryControl;

/// Everything the API is made over.
#[derive(Clone)]
pub struct Parts {
    /// What is installed.
    pub registry: Registry,
    /// Events, dead letters, books.
    pub journal: Journal,
    /// The running pipelines.
    pub delivery: Arc<dyn DeliveryControl>,
    /// The bounded logs.
    pub logbook: Logbook,
    /// Who has which variation of which flag.
    pub assignments: Assignments,
    /// What is told to whom when something is wrong.
    pub alerts: crate::alerts::Handle,
    /// What time it is.
    pub clock: SharedClock,
    /// Calls a token may make in a minute; 0 = no limit.
    pub calls_a_minute: u32,
}

/// The API's state. Cheap to clone.
#[derive(Clone)]
struct Admin(
    Arc<Parts>,
    Arc<tokio::sync::Semaphore>,
    Arc<std::sync::OnceLock<Vec<catalog::CatalogEntry>>>,
);

impl Admin {
    fn registry(&self) -> &Registry {
        &self.0.registry
    }

    fn journal(&self) -> &Journal {
        &self.0.journal
    }

    fn delivery(&self) -> &dyn DeliveryControl {
        self.0.delivery.as_ref()
    }

    fn logbook(&self) -> &Logbook {
        &self.0.logbook
    }

    fn assignments(&self) -> &Assignments {
        &self.0.assignments
    }

    fn alerts(&self) -> &crate::alerts::Handle {
        &self.0.alerts
    }

    fn now_ms(&self) -> Millis {
        self.0.clock.now_ms()
    }

    /// What can be installed: read from the shipped blueprints once, as they never change.
    fn catalog(&self) -> &[catalog::CatalogEntry] {
        self.2
            .get_or_init(|| catalog::entries(self.registry().checks()))
    }

    /// Room for live streams.
    fn streams(&self) -> Arc<tokio::sync::Semaphore> {
        Arc::clone(&self.1)
    }
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "aqueduct admin API",
        description = "Manages sources, integrations and blueprints, and shows what became of every event.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    components(schemas(problem::ProblemBody)),
    security(("admin_token" = []))
)]
struct Document;

/// The router for the admin listener.
pub fn router(parts: Parts) -> Router {
    let admin = Admin(
        Arc::new(parts),
        Arc::new(tokio::sync::Semaphore::new(live::STREAMS_MAX)),
        Arc::default(),
    );
    let (router, document) = calls().split_for_parts();
    let (open, open_document) = open_calls().split_for_parts();
    let guard = auth::Guard {
        admin: admin.clone(),
        roles: Arc::new(auth::roles(&document)),
        limits: Arc::new(limits::Limits::new(admin.0.calls_a_minute)),
    };
    let mut whole = document;
    whole.merge(open_document);
    let whole = document::complete(&whole);
    let keys = idempotency::Keys::of(admin.clone(), &whole);
    let rendered = docs::Rendered::of(&whole);
    router
        .with_state(admin)
        .layer(axum::middleware::from_fn_with_state(
            keys,
            idempotency::once,
        ))
        .layer(axum::middleware::from_fn_with_state(guard, auth::guard))
        .merge(open.with_state(rendered))
        .layer(DefaultBodyLimit::max(extract::BODY_BYTES_MAX))
        .layer(CatchPanicLayer::custom(
            |_: Box<dyn std::any::Any + Send>| {
                tracing::error!("a management call panicked");
                Problem::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "the call failed unexpectedly; the log says more",
                )
                .into_response()
            },
        ))
        .layer(axum::middleware::from_fn(finish))
}

/// The OpenAPI document as text, for `aqueduct openapi`.
#[must_use]
pub fn openapi() -> String {
    let mut whole = calls().into_openapi();
    whole.merge(open_calls().into_openapi());
    serde_json::to_string_pretty(&document::complete(&whole)).unwrap_or_default()
}

fn calls() -> OpenApiRouter<Admin> {
    let v1 = OpenApiRouter::new()
        .routes(routes!(catalog::list))
        .routes(routes!(catalog::show))
        .routes(routes!(catalog::install))
        .routes(routes!(catalog::test))
        .routes(routes!(integrations::list))
        .routes(routes!(
            integrations::show,
            integrations::change,
            integrations::remove
        ))
        .routes(routes!(integrations::pause))
        .routes(routes!(integrations::resume))
        .routes(routes!(integrations::test))
        .routes(routes!(blueprints::show, blueprints::put))
        .routes(routes!(blueprints::revisions))
        .routes(routes!(blueprints::revision))
        .routes(routes!(blueprints::roll_back))
        .routes(routes!(blueprints::check_one))
        .routes(routes!(blueprints::test))
        .routes(routes!(blueprints::try_out))
        .routes(routes!(sources::list, sources::create))
        .routes(routes!(sources::show, sources::change, sources::remove))
        .routes(routes!(sources::rotate_key))
        .routes(routes!(sources::revoke_key))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(live::recent))
        .routes(routes!(live::live))
        .routes(routes!(events::story))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::show))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::replay))
        .routes(routes!(replays::show, replays::cancel))
        .routes(routes!(rejected::list))
        .routes(routes!(ledger::show))
        .routes(routes!(alerts::list))
        .routes(routes!(alerts::show, alerts::put, alerts::remove))
        .routes(routes!(alerts::test))
        .routes(routes!(alerts::state))
        .routes(routes!(assignments::list))
        .routes(routes!(audit::list))
        .routes(routes!(audit::verify))
        .routes(routes!(later::sync_runs))
        .routes(routes!(later::sync_run));
    OpenApiRouter::with_openapi(Document::openapi()).nest("/v1/admin", v1)
}

/// The calls that need no token.
fn open_calls() -> OpenApiRouter<Arc<docs::Rendered>> {
    OpenApiRouter::new()
        .routes(routes!(docs::json))
        .routes(routes!(docs::html))
}

/// The last look at every answer: errors that are no problem document yet become one, and browsers are told to
/// trust nothing in it.
async fn finish(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let status = response.status();
    let is_problem = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == PROBLEM_JSON);
    if (status.is_client_error() || status.is_server_error()) && !is_problem {
        let allow = response.headers().get(header::ALLOW).cloned();
        response = Problem::of_status(status).into_response();
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    // The document's page brings a policy of its own.
    response
        .headers_mut()
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    response
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
