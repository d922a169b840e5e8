//! What all pages share: the frame around them, errors as pages, rendering.

use askama::Template;
use axum::extract::Extension;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::api::Refusal;
use super::assets;
use super::gate::Who;
use super::session::Notice;
use crate::registry::Role;

/// The frame: navigation, who is signed in, and what the request before left to say.
pub(super) struct Frame {
    pub(super) title: String,
    /// The navigation's entry that is lit.
    pub(super) section: &'static str,
    pub(super) assets: &'static assets::Names,
    pub(super) user: String,
    pub(super) role: &'static str,
    pub(super) csrf: String,
    pub(super) notice: Option<Notice>,
    pub(super) may_operate: bool,
    pub(super) may_edit: bool,
    pub(super) may_admin: bool,
}

impl Frame {
    pub(super) fn new(who: &Who, section: &'static str, title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            section,
            assets: assets::names(),
            user: who.name.clone(),
            role: role_word(who.actor.role),
            csrf: who.csrf.clone(),
            notice: who.notice.clone(),
            may_operate: who.may(Role::Operator),
            may_edit: who.may(Role::Editor),
            may_admin: who.may(Role::Admin),
        }
    }

    /// The same with words at the top that were not left by another request.
    pub(super) fn saying(mut self, notice: Notice) -> Self {
        self.notice = Some(notice);
        self
    }
}

pub(super) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Editor => "editor",
        Role::Admin => "admin",
    }
}

/// An error on its way to becoming a page: the gate puts the frame around it.
#[derive(Debug, Clone)]
pub(super) struct Fail {
    pub(super) status: StatusCode,
    title: String,
    message: String,
}

impl Fail {
    pub(super) fn new(status: StatusCode, title: &str, message: &str) -> Self {
        Self {
            status,
            title: title.to_owned(),
            message: message.to_owned(),
        }
    }
}

impl From<Refusal> for Fail {
    fn from(refusal: Refusal) -> Self {
        let status =
            StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let title = match status {
            StatusCode::NOT_FOUND => "Not found",
            StatusCode::FORBIDDEN => "Your role does not allow this",
            StatusCode::UNAUTHORIZED => "You are signed out",
            StatusCode::UNPROCESSABLE_ENTITY => "That cannot be used",
            StatusCode::CONFLICT => "That does not go together",
            status if status.is_server_error() => "Something of ours failed",
            _ => "That did not work",
        };
        Self::new(status, title, &refusal.sentence())
    }
}

impl IntoResponse for Fail {
    fn into_response(self) -> Response {
        let mut response = bare_error(self.status, &self.title, &self.message);
        response.extensions_mut().insert(self);
        response
    }
}

/// A page, or the error in its place.
pub(super) type Answer = Result<Response, Fail>;

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    frame: Frame,
    status: u16,
    message: String,
}

#[derive(Template)]
#[template(path = "bare_error.html")]
struct BareError<'a> {
    assets: &'static assets::Names,
    title: &'a str,
    message: &'a str,
}

/// Puts the frame around an error.
pub(super) fn with_frame(response: Response, who: &Who) -> Response {
    let Some(fail) = response.extensions().get::<Fail>().cloned() else {
        return response;
    };
    rendered(
        fail.status,
        &ErrorPage {
            status: fail.status.as_u16(),
            message: fail.message,
            frame: Frame::new(who, "", fail.title),
        },
    )
}

/// No such page.
pub(super) async fn not_found(Extension(_): Extension<Who>) -> Fail {
    Fail::new(
        StatusCode::NOT_FOUND,
        "Not found",
        "There is no such page. The navigation leads to all there are.",
    )
}

/// An error for somebody who is not signed in.
pub(super) fn bare_error(status: StatusCode, title: &str, message: &str) -> Response {
    rendered(
        status,
        &BareError {
            assets: assets::names(),
            title,
            message,
        },
    )
}

/// A page with status 200.
pub(super) fn page(template: &impl Template) -> Response {
    rendered(StatusCode::OK, template)
}

/// A page.
pub(super) fn rendered(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => {
            let kind = HeaderValue::from_static("text/html; charset=utf-8");
            (status, [(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "a page could not be rendered");
            plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the page could not be rendered",
            )
        }
    }
}

/// A plain sentence.
pub(super) fn plain(status: StatusCode, text: &'static str) -> Response {
    (status, text).into_response()
}
