//! Errors of the management API: RFC 9457 `application/problem+json` with `code` and `message` added, and `errors`
//! when fields are at fault. The one place that maps errors to statuses.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::blueprint::{Diagnostic, FieldFault};
use crate::journal::JournalError;
use crate::registry::ChangeError;

/// Media type of every error.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// An error on its way to the caller. Boxed: it is large, and rare.
#[derive(Debug)]
pub(super) struct Problem(pub(super) Box<ProblemBody>);

/// An error as it is answered.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// Always `about:blank`: `code` tells the kinds apart.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What is wrong and the way out.
    detail: String,
    /// Stable short code.
    code: String,
    /// As `detail`.
    message: String,
    /// The fields at fault: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldFault>,
    /// The remarks on a blueprint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    diagnostics: Vec<Diagnostic>,
}

impl Problem {
    /// An error with its status, code and sentence.
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(ProblemBody {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: message.clone(),
            code: code.to_owned(),
            message,
            errors: Vec::new(),
            diagnostics: Vec::new(),
        }))
    }

    /// 422 with every field at fault.
    pub(super) fn fields(errors: Vec<FieldFault>) -> Self {
        let message = match errors.as_slice() {
            [one] => format!("`{}` {}", one.field, one.message),
            many => format!("{} fields cannot be used; see `errors`", many.len()),
        };
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields", message);
        problem.0.errors = errors;
        problem
    }

    /// 422 with one field at fault.
    pub(super) fn field(field: &str, code: &str, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldFault {
            field: field.to_owned(),
            code: code.to_owned(),
            message: message.into(),
        }])
    }

    /// 404 for a thing that is not there.
    pub(super) fn not_found(what: &str, id: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is no {what} `{}`", id.escape_default()),
        )
    }

    /// What a status means when nobody said more.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let (code, message) = match status {
            StatusCode::NOT_FOUND => (
                "not_found",
                "there is nothing here; GET /openapi.json lists all calls",
            ),
            StatusCode::METHOD_NOT_ALLOWED => (
                "method_not_allowed",
                "this path does not take the method; see the `Allow` header",
            ),
            StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "the body is larger than 1 MB"),
            StatusCode::BAD_REQUEST => ("bad_request", "the request could not be read"),
            _ => ("error", "the request could not be answered"),
        };
        Self::new(status, code, message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"aqueduct admin\""),
            );
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let code = error.code();
        match error {
            ChangeError::Fields(faults) => Self::fields(faults),
            ChangeError::Blueprint(diagnostics) => {
                let mut problem = Self::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    code,
                    "the blueprint does not check; see `diagnostics`",
                );
                problem.0.diagnostics = diagnostics;
                problem
            }
            ChangeError::NotFound { .. } => {
                Self::new(StatusCode::NOT_FOUND, code, error.to_string())
            }
            ChangeError::Conflict { .. } => {
                Self::new(StatusCode::CONFLICT, code, error.to_string())
            }
            ChangeError::Feed(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string())
            }
            ChangeError::Store(_) | ChangeError::Picture(_) => {
                tracing::error!(%error, "the registry failed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    code,
                    "the registry's database failed; the log says more",
                )
            }
        }
    }
}

impl From<JournalError> for Problem {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::NoFeed(feed) => Self::not_found("integration", &feed),
            JournalError::Closed => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "journal_closed",
                "the journal is closed: the gateway is stopping, or its disk failed",
            ),
            error => {
                tracing::error!(%error, "the journal failed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "journal_failed",
                    "the journal failed; the log says more",
                )
            }
        }
    }
}
