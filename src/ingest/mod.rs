//! The door: HTTP calls in, events appended to the journal, 200 only when they are durable.
//!
//! Speaks what stock Segment, RudderStack and Jitsu SDKs speak. Those SDKs throw events away on most 4xx
//! answers and take every 3xx for success, so: one bad event never fails its request, nothing is ever
//! redirected, and "not now" is always 429 or 503 with `Retry-After`.
//!
//! Knows no delivery, no vendor and no blueprint: whatever happens there cannot change an accept.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures_util::FutureExt as _;

use crate::clock::SharedClock;
use crate::datafile;
use crate::event::decision::Rules;
use crate::journal::{AppendError, Appended, Journal, Record};
use crate::logbook::{Logbook, Rejected};
use crate::registry::SharedView;

mod auth;
mod body;
mod calls;
mod decide;
mod meter;
mod permit;
mod rate;
mod refusal;
mod route;
mod settings;
mod webhooks;

#[cfg(test)]
mod tests;

pub use decide::{Segments, SegmentsCache};
use refusal::Refusal;
use route::Route;

/// Ingest's limits.
#[derive(Debug, Clone)]
pub struct Options {
    /// Largest body of one request, in bytes, as sent and also after decompression.
    pub body_bytes_max: usize,
    /// Largest event, in bytes of JSON.
    pub event_bytes_max: usize,
    /// Most events in one batch.
    pub batch_events_max: usize,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// Memory for all bodies being held at once, in bytes; beyond it 429 is answered.
    pub held_bytes_max: usize,
    /// Of a rejected event, this many bytes are kept in the log.
    pub rejected_bytes_max: usize,
    /// Events a second of each source that has no limit of its own; none = no limit.
    pub source_rate: Option<u32>,
}

impl Default for Options {
    /// Segment's own limits (500 KB a request, 32 KB an event, 2,500 events a batch), which its SDKs keep to.
    fn default() -> Self {
        Self {
            body_bytes_max: 500 << 10,
            event_bytes_max: 32 << 10,
            batch_events_max: 2_500,
            body_timeout: Duration::from_secs(20),
            held_bytes_max: 64 << 20,
            rejected_bytes_max: 4 << 10,
            source_rate: None,
        }
    }
}

/// A source of chance: 64 random bits a call.
pub type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What became of a vendor's webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookAnswer {
    /// Taken; 204.
    NoContent,
    /// The signature is missing or wrong; 401.
    BadSignature,
    /// There is no such integration; 404.
    Unknown,
    /// The body is not what the vendor sends; 400.
    Malformed,
}

/// Takes the webhooks vendors send.
pub trait WebhookSink: Send + Sync {
    /// Optimizely's "datafile changed". `integration`: as in the path; `signature`: of `X-Hub-Signature`.
    fn optimizely(&self, integration: &str, signature: Option<&str>, body: &[u8]) -> WebhookAnswer;
}

/// What ingest works with.
#[derive(Clone)]
pub struct State {
    /// Where events go.
    pub journal: Journal,
    /// Who may post.
    pub view: SharedView,
    /// Where refused events are shown.
    pub logbook: Logbook,
    /// What time it is.
    pub clock: SharedClock,
    /// For message ids and for spreading retries.
    pub random: Random,
    /// Limits.
    pub limits: Options,
    /// True while the process is stopping: calls are sent away to come again.
    pub draining: Arc<AtomicBool>,
    /// Who takes vendors' webhooks, if anybody.
    pub webhooks: Option<Arc<dyn WebhookSink>>,
    /// What flag decisions are filled in from.
    pub rules: SharedRules,
    /// What flags are decided by.
    pub datafiles: datafile::Shared,
    /// Who knows users' segments, if anybody.
    pub segments: Option<Arc<dyn Segments>>,
}

/// What flag decisions are filled in from.
pub type SharedRules = Arc<dyn Rules + Send + Sync>;

/// The ingest listener's routes.
pub fn router(state: State) -> Router {
    let backend = Live {
        journal: state.journal,
        logbook: state.logbook,
    };
    routes(Gate {
        backend,
        keys: auth::Keys::new(state.view, state.limits.source_rate),
        clock: state.clock,
        random: state.random,
        held: body::Held::new(state.limits.held_bytes_max),
        limits: state.limits,
        draining: state.draining,
        webhooks: state.webhooks,
        rules: state.rules,
        datafiles: state.datafiles,
        segments: state.segments,
        meters: meter::Meters::default(),
    })
}

/// Answer for a connection that is one too many, to be written before it is closed.
pub const CONNECTION_REFUSED: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\
    content-type: application/problem+json\r\n\
    retry-after: 5\r\n\
    access-control-allow-origin: *\r\n\
    access-control-expose-headers: Retry-After, RateLimit, RateLimit-Policy\r\n\
    connection: close\r\n\
    content-length: 160\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Too Many Requests\",\"status\":429,\
    \"detail\":\"too many open connections\",\"code\":\"connections\",\
    \"message\":\"too many open connections\"}\n";

/// Where accepted and refused events go. A trait only so that tests of this module need no store.
trait Backend: Send + Sync + 'static {
    fn fingerprint(&self, source: &str, message_id: &str) -> u64;
    fn append(
        &self,
        records: Vec<Record>,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send;
    fn rejected(&self, rejected: Rejected);
}

struct Live {
    journal: Journal,
    logbook: Logbook,
}

impl Backend for Live {
    fn fingerprint(&self, source: &str, message_id: &str) -> u64 {
        self.journal.fingerprint(source, message_id)
    }

    async fn append(&self, records: Vec<Record>) -> Result<Appended, AppendError> {
        self.journal.append(records).await
    }

    fn rejected(&self, rejected: Rejected) {
        self.logbook.rejected(rejected);
    }
}

/// Everything a request needs.
struct Gate<B> {
    backend: B,
    keys: auth::Keys,
    clock: SharedClock,
    random: Random,
    limits: Options,
    held: body::Held,
    draining: Arc<AtomicBool>,
    webhooks: Option<Arc<dyn WebhookSink>>,
    rules: SharedRules,
    datafiles: datafile::Shared,
    segments: Option<Arc<dyn Segments>>,
    meters: meter::Meters,
}

fn routes<B: Backend>(gate: Gate<B>) -> Router {
    // One handler and no layers: at the rates promised every layer's boxing and cloning shows.
    Router::new()
        .fallback(handle::<B>)
        .with_state(Arc::new(gate))
}

async fn handle<B: Backend>(Shared(gate): Shared<Arc<Gate<B>>>, request: Request) -> Response {
    let started = tokio::time::Instant::now();
    let (parts, body) = request.into_parts();
    let route = Route::of(parts.uri.path());
    let answer = AssertUnwindSafe(gate.answer(&route, &parts, body))
        .catch_unwind()
        .await;
    let mut response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(refusal)) => gate.refuse(&refusal),
        Err(_) => gate.refuse(&Refusal::Panicked),
    };
    let headers = response.headers_mut();
    // Answers of a source with a list of origins name the origin, or nobody.
    if !headers.contains_key(header::VARY) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    }
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    gate.meters
        .answered(&route, response.status(), started.elapsed());
    response
}

const ANY: HeaderValue = HeaderValue::from_static("*");
const EXPOSED: HeaderValue = HeaderValue::from_static("Retry-After, RateLimit, RateLimit-Policy");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl<B: Backend> Gate<B> {
    async fn answer(
        &self,
        route: &Route<'_>,
        parts: &Parts,
        body: Body,
    ) -> Result<Response, Refusal> {
        let allowed = route.method().ok_or(Refusal::NoSuchRoute)?;
        if parts.method == Method::OPTIONS {
            return self.preflight(&parts.headers);
        }
        if parts.method != allowed {
            return Err(Refusal::Method(allowed));
        }
        match route {
            Route::Event(kind) => self.post(calls::Shape::Single(*kind), parts, body).await,
            Route::Batch => self.post(calls::Shape::Batch, parts, body).await,
            Route::Decision => self.post(calls::Shape::Decision, parts, body).await,
            Route::Decide => self.decide(parts, body).await,
            Route::Metrics => {
                body::discard(body, self.limits.body_bytes_max).await;
                Ok(json(r#"{"success":true}"#))
            }
            Route::Settings(write_key) => settings::answer(write_key, &parts.headers),
            Route::OptimizelyWebhook(integration) => {
                self.optimizely_webhook(integration, parts, body).await
            }
            Route::NotYet => Err(Refusal::NotYet),
            Route::Unknown => Err(Refusal::NoSuchRoute),
        }
    }

    /// A browser asks without the key. An origin that no source takes is told so at once; with any other the call itself
    /// is judged by its key.
    fn preflight(&self, headers: &HeaderMap) -> Result<Response, Refusal> {
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            if !self.keys.any_takes_origin(&origin) {
                return Err(Refusal::Origin(permit::shown(&origin)));
            }
        }
        Ok(preflight())
    }

    fn refuse(&self, refusal: &Refusal) -> Response {
        refusal.response((self.random)())
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// Names the one origin that may read an answer.
fn for_origin(response: &mut Response, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
}

/// The answer to a browser's question whether it may call; SDKs ask before every call, because they send
/// `Authorization` or `X-Write-Key`, and `X-Retry-Count` when they try again.
fn preflight() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, OPTIONS"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "authorization, content-type, content-encoding, x-write-key, x-retry-count",
        ),
    );
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("7200"),
    );
    response
}

fn json(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// A header as text, when it is there and plain ASCII.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
