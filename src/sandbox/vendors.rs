//! From a request to a vendor's answer: reads the body within bounds, asks for a fault, finds the vendor by its
//! prefix, logs.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use serde_json::{Map, Value};

use super::State;
use super::exchange::Reply;
use super::faults::Action;
use super::log::Entry;
use super::optimizely::tally::Refused;
use super::optimizely::{self, BODY_MAX};
use super::serve::{Body, full, plain};
use super::world::{Arrived, Surface};
use crate::clock::Clock;

/// Longest body read for the other vendors, in bytes (Brevo's import takes the longest: 10 MB).
const OTHER_BODY_MAX: usize = 12 << 20;
/// Bytes of a body that is too long which are still read (and forgotten), so that the caller hears the answer.
const DISCARD_MAX: usize = 64 << 20;

/// What to answer.
pub(super) enum Answer {
    Plain(Response<Body>),
    Spoilt(Action),
}

/// A request with its body.
struct Call {
    parts: Parts,
    /// None = longer than the vendor reads.
    body: Option<Bytes>,
    body_bytes: usize,
    peer: Option<IpAddr>,
}

impl Call {
    /// The label ("" for the plain path) and the path below it.
    fn place(&self) -> (&str, &str) {
        place(self.parts.uri.path())
    }
}

pub(super) async fn answer(
    state: &State,
    request: Request<Incoming>,
    peer: Option<IpAddr>,
) -> Answer {
    let (parts, incoming) = request.into_parts();
    let body_max = match Surface::of(place(parts.uri.path()).1) {
        Some(_) => OTHER_BODY_MAX,
        None => BODY_MAX,
    };
    let Ok((body, body_bytes)) = read(incoming, body_max).await else {
        return Answer::Plain(plain(StatusCode::BAD_REQUEST, "the body broke off"));
    };
    let call = Call {
        parts,
        body,
        body_bytes,
        peer,
    };
    let path = path_and_query(&call.parts);
    let struck = if state.has_faults.load(Ordering::Acquire) {
        let body = call.body.as_deref().unwrap_or_default();
        state.faults.lock().strike(path, body)
    } else {
        None
    };
    let Some((rule, action)) = struck else {
        let (response, broken) = vendor(state, &call, true);
        log(state, &call, Some(response.status()), None, broken);
        return Answer::Plain(response);
    };
    if action.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(action.delay_ms)).await;
    }
    if !action.replaces_answer() {
        let (response, broken) = vendor(state, &call, true);
        log(state, &call, Some(response.status()), Some(rule), broken);
        return Answer::Plain(response);
    }
    let (_, broken) = vendor(state, &call, action.process);
    let status = action
        .status
        .filter(|_| action.wire.is_none())
        .and_then(|status| StatusCode::from_u16(status).ok());
    log(state, &call, status, Some(rule), broken);
    Answer::Spoilt(action)
}

/// The vendor's own answer, and the rule it ran into. `process` false: only counts that a fault took the request's
/// place.
fn vendor(state: &State, call: &Call, process: bool) -> (Response<Body>, Option<&'static str>) {
    let (label, path) = call.place();
    if let Some(path) = path.strip_prefix("/optimizely/") {
        return (optimizely(state, call, label, path, process), None);
    }
    let Some((surface, path)) = Surface::of(path) else {
        return (not_found(), None);
    };
    if !process {
        return (plain(StatusCode::OK, ""), None);
    }
    let request = Arrived {
        path,
        parts: &call.parts,
        body: call.body.as_ref(),
        body_bytes: call.body_bytes,
        peer: call.peer,
    };
    let config = state.config.load();
    let (reply, broken) =
        state
            .world(label)
            .answer(surface, &request, &config, state.clock.now_ms());
    (response(reply), broken)
}

/// Label and path below it; "" for a path without a label.
fn place(path: &str) -> (&str, &str) {
    path.strip_prefix("/at/").map_or(("", path), |rest| {
        rest.split_at(rest.find('/').unwrap_or(rest.len()))
    })
}

fn response(reply: Reply) -> Response<Body> {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, reply.body);
    for (name, value) in reply.headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn optimizely(
    state: &State,
    call: &Call,
    label: &str,
    path: &str,
    process: bool,
) -> Response<Body> {
    let method = &call.parts.method;
    if path == "v1/events" {
        if method != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "");
        }
        if !process {
            state.with_tally(label, &mut |tally| tally.refused(Refused::Fault));
            return plain(StatusCode::OK, "");
        }
        let strict = call
            .parts
            .headers
            .get("x-optimizely-strict")
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
        let catalog = state.datafiles.lock().catalog();
        let answer = optimizely::events(
            call.body.as_deref(),
            strict,
            state.remember.load(Ordering::Relaxed),
            &catalog,
            state.clock.now_ms(),
            |change| state.with_tally(label, change),
        );
        return json(answer.status, answer.body);
    }
    let sdk_key = path
        .strip_prefix("datafiles/")
        .and_then(|name| name.strip_suffix(".json"));
    match sdk_key {
        Some(_) if !process => plain(StatusCode::OK, ""),
        Some(sdk_key) if method == Method::GET || method == Method::HEAD => {
            datafile(state, sdk_key, &call.parts.headers)
        }
        Some(_) => plain(StatusCode::METHOD_NOT_ALLOWED, ""),
        None => not_found(),
    }
}

fn datafile(state: &State, sdk_key: &str, headers: &HeaderMap) -> Response<Body> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let answer = state.datafiles.lock().read(
        sdk_key,
        text(header::IF_NONE_MATCH),
        text(header::IF_MODIFIED_SINCE),
    );
    let mut response = json(answer.status, answer.body);
    for (name, value) in [
        (header::ETAG, answer.etag),
        (header::LAST_MODIFIED, answer.last_modified),
    ] {
        if let Some(value) = value.and_then(|text| text.parse().ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn not_found() -> Response<Body> {
    json(
        StatusCode::NOT_FOUND,
        Bytes::from_static(b"{\"message\":\"the sandbox plays no such path\"}"),
    )
}

fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    let has_body = !body.is_empty();
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    if has_body {
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
    }
    response
}

/// The body, none when it is longer than `body_max`; and its length.
async fn read(
    mut incoming: Incoming,
    body_max: usize,
) -> Result<(Option<Bytes>, usize), hyper::Error> {
    let mut body = BytesMut::new();
    let mut first: Option<Bytes> = None;
    let mut length = 0;
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        length += data.len();
        if length > DISCARD_MAX {
            break;
        }
        if length > body_max {
            body.clear();
            first = None;
        } else if length == data.len() {
            // Most bodies come in one piece: no need to copy it.
            first = Some(data);
        } else {
            if let Some(first) = first.take() {
                body.extend_from_slice(&first);
            }
            body.extend_from_slice(&data);
        }
    }
    if length > body_max {
        return Ok((None, length));
    }
    Ok((Some(first.unwrap_or_else(|| body.freeze())), length))
}

fn path_and_query(parts: &Parts) -> &str {
    parts
        .uri
        .path_and_query()
        .map_or_else(|| parts.uri.path(), |path| path.as_str())
}

fn log(
    state: &State,
    call: &Call,
    status: Option<StatusCode>,
    fault: Option<usize>,
    rule: Option<&'static str>,
) {
    if !state.logging.load(Ordering::Relaxed) {
        return;
    }
    let mut headers = Map::new();
    for (name, value) in &call.parts.headers {
        let value = Value::String(String::from_utf8_lossy(value.as_bytes()).into_owned());
        headers.insert(name.as_str().to_owned(), value);
    }
    let at_ms = state.clock.now_ms();
    let mut log = state.log.lock();
    let body = call.body.as_deref().unwrap_or_default();
    let kept = &body[..body.len().min(log.body_max())];
    log.add(Entry {
        n: 0,
        at_ms,
        method: call.parts.method.to_string(),
        path: path_and_query(&call.parts).to_owned(),
        headers,
        body_bytes: call.body_bytes,
        body: String::from_utf8_lossy(kept).into_owned(),
        status: status.map(|status| status.as_u16()),
        fault,
        rule,
    });
}
