//! Signing in with an admin token, and out again.

use askama::Template;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use http_body_util::{BodyExt as _, Limited};

use super::form::Form;
use super::gate::{self, Who};
use super::{Console, frame};

/// Longest token read, in bytes.
const FORM_BYTES_MAX: usize = 8 << 10;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct Page {
    assets: &'static super::assets::Names,
    next: String,
    fault: Option<&'static str>,
    /// Opened in a way a session cookie would not survive.
    insecure: bool,
}

/// The form. Whether TLS ends before us shows only at the POST, by what the browser says its origin is.
pub(super) async fn page(uri: Uri) -> Response {
    let next = safe_next(Form::query(uri.query()).text("next"));
    show(StatusCode::OK, next, None, false)
}

/// Takes the token.
pub(super) async fn sign_in(State(console): State<Console>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let now_ms = console.now_ms();
    if console.0.attempts.rest(now_ms) {
        let mut response = show(
            StatusCode::TOO_MANY_REQUESTS,
            "/".to_owned(),
            Some("Too many wrong tokens. Wait a minute and try again."),
            false,
        );
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
        return response;
    }
    let Ok(body) = Limited::new(body, FORM_BYTES_MAX).collect().await else {
        return show(
            StatusCode::PAYLOAD_TOO_LARGE,
            "/".to_owned(),
            Some("That is too long for a token."),
            false,
        );
    };
    let form = Form::read(&body.to_bytes());
    let next = safe_next(form.text("next"));
    let over_https = parts
        .headers
        .get(header::ORIGIN)
        .and_then(|origin| origin.to_str().ok())
        .is_some_and(|origin| origin.starts_with("https://"));
    if !over_https && !gate::is_loopback(&parts.headers, &parts.uri) {
        return show(StatusCode::FORBIDDEN, next, None, true);
    }
    if let Err(error) = console.0.registry.refresh().await {
        tracing::error!(%error, "the registry could not be read");
    }
    let token = form.text("token").trim();
    let Some(actor) = console.0.registry.picture().bearer(token, now_ms) else {
        console.0.attempts.wrong(now_ms);
        return show(
            StatusCode::UNAUTHORIZED,
            next,
            Some("No live admin token looks like this. Check that all of it was pasted."),
            false,
        );
    };
    let noted = console
        .0
        .registry
        .note(&actor, "session.begin", &actor.id, None, "ok")
        .await;
    if noted.is_err() {
        return frame::bare_error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The registry cannot be written",
            "The gateway's log says why.",
        );
    }
    let id = console.0.sessions.begin(&actor.id);
    let mut response = Redirect::to(&next).into_response();
    if let Ok(cookie) = HeaderValue::from_str(&gate::cookie(&id, over_https)) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Ends the session.
pub(super) async fn sign_out(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
) -> Response {
    gate::end(&console, &who);
    let noted = console
        .0
        .registry
        .note(&who.actor, "session.end", &who.actor.id, None, "ok")
        .await;
    if let Err(error) = noted {
        tracing::warn!(%error, "a sign-out is missing in the audit log");
    }
    let mut response = Redirect::to("/sign-in").into_response();
    for cookie in gate::no_cookie() {
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    // What pages left behind in the browser goes too.
    response.headers_mut().insert(
        header::HeaderName::from_static("clear-site-data"),
        HeaderValue::from_static("\"cache\", \"storage\""),
    );
    response
}

fn show(status: StatusCode, next: String, fault: Option<&'static str>, insecure: bool) -> Response {
    let page = Page {
        assets: super::assets::names(),
        next,
        fault,
        insecure,
    };
    frame::rendered(status, &page)
}

/// A path of ours to go on to; anything else means the first page.
fn safe_next(next: &str) -> String {
    let is_ours = next.starts_with('/')
        && !next.starts_with("//")
        && next
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !next.starts_with("/sign-");
    if is_ours {
        next.to_owned()
    } else {
        "/".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::safe_next;

    #[test]
    fn going_on_never_leaves_the_console() {
        for bad in [
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "",
            "javascript:alert(1)",
            "/a\nb",
            "/sign-out",
        ] {
            assert_eq!(safe_next(bad), "/", "{bad}");
        }
        assert_eq!(safe_next("/events/a?x=1"), "/events/a?x=1");
    }
}
