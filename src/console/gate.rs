//! Who gets in, and which requests are believed to come from our own pages.
//!
//! A request that changes something must be same-origin by what the browser says of it (`Sec-Fetch-Site`, `Origin`)
//! *and* bring back its session's own token, in the form or in the header `X-CSRF-Token`. Either alone would do; a
//! proxy that strips one of them does not open the door.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
use http_body_util::{BodyExt as _, Limited};
use parking_lot::Mutex;
use subtle::ConstantTimeEq as _;

use super::form::{BODY_BYTES_MAX, CSRF_FIELD, Form, query_of};
use super::frame::Fail;
use super::session::Notice;
use super::{Console, frame};
use crate::clock::Millis;
use crate::registry::Role;
use crate::registry::audit::Actor;

/// Name of the cookie over https. The prefix makes browsers refuse it from other hosts, other paths and without TLS.
const COOKIE: &str = "__Host-aqueduct";

/// Name of the cookie over plain http, believed on loopback addresses only: some browsers keep no `Secure` cookie there.
const COOKIE_LOOPBACK: &str = "aqueduct-loopback";

/// Wrong tokens taken within a minute before sign-in rests.
const WRONG_PER_MINUTE: u32 = 20;

/// Who made the request, for handlers: in its extensions once the gate let it through.
#[derive(Clone)]
pub(super) struct Who {
    /// As the management API knows them.
    pub(super) actor: Actor,
    /// Name of their token.
    pub(super) name: String,
    /// What forms must bring back.
    pub(super) csrf: String,
    /// Left by the request before.
    pub(super) notice: Option<Notice>,
    session: String,
}

impl Who {
    pub(super) fn may(&self, role: Role) -> bool {
        self.actor.role >= role
    }

    /// Refuses below a role, for what looks at other things before the API does.
    pub(super) fn needs(&self, role: Role) -> Result<(), Fail> {
        if self.may(role) {
            return Ok(());
        }
        Err(Fail::new(
            StatusCode::FORBIDDEN,
            "Your role does not allow this",
            &format!("It needs the role {}.", frame::role_word(role)),
        ))
    }

    /// Id of their session.
    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// Goes on to another page, with words at its top.
    pub(super) fn go(&self, console: &Console, path: &str, notice: Notice) -> Response {
        console.0.sessions.leave(&self.session, notice);
        Redirect::to(path).into_response()
    }
}

/// Lets a request through when somebody is signed in.
pub(super) async fn gate(State(console): State<Console>, request: Request, next: Next) -> Response {
    // A token revoked by another process counts from the next request on, as in the API.
    if let Err(error) = console.0.registry.refresh().await {
        tracing::error!(%error, "the registry could not be read");
        return frame::bare_error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The registry cannot be read",
            "The gateway's log says why.",
        );
    }
    let Some(mut who) = who(&console, request.headers(), request.uri()) else {
        return signed_out(&request);
    };
    let is_page = request.method() == Method::GET && !wants_json(request.headers());
    let request = match believed(request, &who.csrf).await {
        Ok(request) => request,
        Err(refused) => return refused,
    };
    if is_page {
        who.notice = console.0.sessions.take(&who.session);
    }
    let mut request = request;
    request.extensions_mut().insert(who.clone());
    let response = next.run(request).await;
    frame::with_frame(response, &who)
}

/// For the sign-in form, which has no session yet.
pub(super) async fn same_site(request: Request, next: Next) -> Response {
    if request.method() != Method::GET
        && request.method() != Method::HEAD
        && !is_same_origin(request.headers(), request.uri())
    {
        return forged();
    }
    next.run(request).await
}

fn who(console: &Console, headers: &HeaderMap, uri: &Uri) -> Option<Who> {
    let id = session_id(headers, uri)?;
    let found = console.0.sessions.find(&id)?;
    let picture = console.0.registry.picture();
    let entry = picture
        .tokens
        .iter()
        .find(|entry| entry.id == found.token && entry.works(console.now_ms()));
    let Some(entry) = entry else {
        console.0.sessions.end(&id);
        return None;
    };
    Some(Who {
        actor: Actor {
            id: entry.id.clone(),
            role: entry.role,
        },
        name: entry.name.clone(),
        csrf: found.csrf,
        notice: None,
        session: id,
    })
}

fn signed_out(request: &Request) -> Response {
    if request.method() == Method::GET && !wants_json(request.headers()) {
        let here = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let next = if here == "/" { "" } else { here };
        return Redirect::to(&format!("/sign-in{}", query_of(&[("next", next)]))).into_response();
    }
    frame::bare_error(
        StatusCode::UNAUTHORIZED,
        "You are signed out",
        "The session ended, or its token was revoked. Sign in and do it again: nothing was changed.",
    )
}

/// A request that changes something goes on only when it is one of ours; its form is read here, once.
async fn believed(request: Request, csrf: &str) -> Result<Request, Response> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(request);
    }
    if !is_same_origin(request.headers(), request.uri()) {
        return Err(forged());
    }
    let (mut parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return Err(frame::bare_error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Too much at once",
            "A form may be 1 MB at most.",
        ));
    };
    let body = body.to_bytes();
    let in_header = parts
        .headers
        .get("x-csrf-token")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let is_form = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let form = if is_form {
        Form::read(&body)
    } else {
        Form::default()
    };
    let brought = in_header.unwrap_or_else(|| form.text(CSRF_FIELD).to_owned());
    if !bool::from(brought.as_bytes().ct_eq(csrf.as_bytes())) {
        return Err(forged());
    }
    parts.extensions.insert(form);
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// What the browser says about where the request came from. Browsers send at least one of the two with every request
/// that is no GET; one with neither is not believed.
fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let by_site = text("sec-fetch-site").map(|site| site == "same-origin");
    let by_origin = text("origin").map(|origin| {
        let host = origin.split_once("://").map(|(_, host)| host);
        host.is_some() && host == host_of(headers, uri).as_deref()
    });
    match (by_site, by_origin) {
        (None, None) => false,
        (site, origin) => site.unwrap_or(true) && origin.unwrap_or(true),
    }
}

fn forged() -> Response {
    frame::bare_error(
        StatusCode::FORBIDDEN,
        "This did not come from the console",
        "The request was not sent by one of this console's own pages, or the page is older than the session. \
         Reload the page and try again: nothing was changed.",
    )
}

/// Host and port the browser thinks it talks to.
pub(super) fn host_of(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .map(str::to_owned)
        .or_else(|| uri.authority().map(ToString::to_string))
}

/// True when the browser reached us by a loopback address.
pub(super) fn is_loopback(headers: &HeaderMap, uri: &Uri) -> bool {
    let Some(host) = host_of(headers, uri) else {
        return false;
    };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _)) => name,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name.ends_with(".localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn session_id(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let loopback = is_loopback(headers, uri);
    let cookies: Vec<(&str, &str)> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .collect();
    let named = |wanted: &str| {
        cookies
            .iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| (*value).to_owned())
    };
    named(COOKIE).or_else(|| named(COOKIE_LOOPBACK).filter(|_| loopback))
}

/// The `Set-Cookie` that begins a session. `secure`: the browser came over https.
pub(super) fn cookie(id: &str, secure: bool) -> String {
    let seconds = super::session::WHOLE_MS / 1000;
    let (name, secure) = if secure {
        (COOKIE, "; Secure")
    } else {
        (COOKIE_LOOPBACK, "")
    };
    format!("{name}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

/// The `Set-Cookie`s that take both names away.
pub(super) fn no_cookie() -> [String; 2] {
    [
        format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict; Secure"),
        format!("{COOKIE_LOOPBACK}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"),
    ]
}

/// Ends the session of a request.
pub(super) fn end(console: &Console, who: &Who) {
    console.0.sessions.end(&who.session);
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| {
            accept.starts_with("application/json") || accept.starts_with("text/event-stream")
        })
}

/// Counts wrong tokens: guessing rests when there were too many within a minute.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<(Millis, u32)>);

impl Attempts {
    /// True while sign-in rests.
    pub(super) fn rest(&self, now_ms: Millis) -> bool {
        let counted = self.0.lock();
        counted.0 == now_ms / 60_000 && counted.1 >= WRONG_PER_MINUTE
    }

    /// One more wrong token.
    pub(super) fn wrong(&self, now_ms: Millis) {
        let mut counted = self.0.lock();
        if counted.0 != now_ms / 60_000 {
            *counted = (now_ms / 60_000, 0);
        }
        counted.1 = counted.1.saturating_add(1);
    }
}
