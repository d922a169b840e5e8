//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): a creation that is posted again has one effect,
//! and the second post gets the first one's answer, also after a restart.
//!
//! Only what worked is remembered: a refused request had no effect, and its key is free to be used again.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Admin;
use super::document::{IDEMPOTENCY_KEY, takes_key};
use super::extract::BODY_BYTES_MAX;
use super::problem::Problem;
use crate::registry::answers::{Answer, Known};
use crate::registry::audit::Actor;

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// Set on an answer that is a repetition.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What the layer knows.
#[derive(Clone)]
pub(super) struct Keys {
    admin: Admin,
    paths: Arc<HashSet<String>>,
    under_way: Arc<Mutex<HashSet<String>>>,
}

impl Keys {
    /// For the calls of a document that take a key (all are POSTs).
    pub(super) fn of(admin: Admin, document: &Value) -> Self {
        let paths = document["paths"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, item)| item["post"].as_object().is_some_and(takes_key))
            .map(|(path, _)| path.clone())
            .collect();
        Self {
            admin,
            paths: Arc::new(paths),
            under_way: Arc::default(),
        }
    }
}

/// A request under way; its place is free again when this is dropped.
struct UnderWay {
    place: String,
    all: Arc<Mutex<HashSet<String>>>,
}

impl UnderWay {
    fn begin(keys: &Keys, place: &str) -> Option<Self> {
        keys.under_way
            .lock()
            .insert(place.to_owned())
            .then(|| Self {
                place: place.to_owned(),
                all: Arc::clone(&keys.under_way),
            })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.lock().remove(&self.place);
    }
}

/// Answers a repetition with the first answer; lets everything else through.
pub(super) async fn once(State(keys): State<Keys>, request: Request, next: Next) -> Response {
    let takes_key = request.method() == axum::http::Method::POST
        && request
            .extensions()
            .get::<MatchedPath>()
            .is_some_and(|path| keys.paths.contains(path.as_str()));
    if !takes_key || !request.headers().contains_key(IDEMPOTENCY_KEY) {
        return next.run(request).await;
    }
    match keyed(&keys, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn keyed(keys: &Keys, request: Request, next: Next) -> Result<Response, Problem> {
    let key = key_of(request.headers())?;
    let actor = request.extensions().get::<Actor>();
    let actor = actor.map_or("", |actor| actor.id.as_str());
    let place = hash(&[actor.as_bytes(), key.as_bytes()]);
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|_| Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE))?;
    let asked = hash(&[
        head.uri.path().as_bytes(),
        head.uri.query().unwrap_or_default().as_bytes(),
        &body,
    ]);
    let Some(under_way) = UnderWay::begin(keys, &place) else {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "idempotency_key_in_use",
            "a request with this Idempotency-Key is under way; try again when it is answered",
        ));
    };
    match keys.admin.registry().begin_answer(&place, &asked).await? {
        Known::New => {}
        Known::Answered(answer) => return Ok(again(&answer)),
        Known::Other => {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "this Idempotency-Key was used for another request within 24 hours; use a new one",
            ));
        }
        Known::Unfinished => {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "idempotency_outcome_unknown",
                "a request with this Idempotency-Key began, and the gateway stopped before it was answered; look whether it took effect, then use a new key",
            ));
        }
    }
    // Apart from the connection: a client that goes away must not leave an effect without its answer.
    let admin = keys.admin.clone();
    let request = Request::from_parts(head, Body::from(body));
    let done = tokio::spawn(async move {
        let response = next.run(request).await;
        let response = remember(&admin, &under_way.place, &asked, response).await;
        drop(under_way);
        response
    });
    Ok(done
        .await
        .unwrap_or_else(|_| Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response()))
}

/// Keeps the answer when the request took effect. One that cannot be kept is given all the same: the effect is there.
async fn remember(admin: &Admin, place: &str, asked: &str, response: Response) -> Response {
    let (head, body) = response.into_parts();
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response();
    };
    let kept = if head.status.is_success() {
        let answer = Answer {
            status: head.status.as_u16(),
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        admin.registry().keep_answer(place, asked, &answer).await
    } else {
        admin.registry().forget_answer(place).await
    };
    if let Err(error) = kept {
        tracing::error!(%error, "an answer could not be kept under its Idempotency-Key");
    }
    Response::from_parts(head, Body::from(body))
}

fn again(answer: &Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = (status, answer.body.clone()).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

fn key_of(headers: &HeaderMap) -> Result<String, Problem> {
    let mut all = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = all.next().and_then(|key| key.to_str().ok());
    let lawful = |key: &&str| {
        (1..=KEY_BYTES_MAX).contains(&key.len())
            && key
                .bytes()
                .all(|byte| byte == b' ' || byte.is_ascii_graphic())
    };
    match (key.filter(lawful), all.next()) {
        (Some(key), None) => Ok(key.to_owned()),
        _ => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "invalid_idempotency_key",
            format!(
                "send one Idempotency-Key of 1 to {KEY_BYTES_MAX} visible ASCII characters, e.g. a UUID"
            ),
        )),
    }
}

/// Hex SHA-256 of several texts, each with its length, so that no two lists give the same.
fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    crate::registry::seal::hex(&hasher.finalize())
}
