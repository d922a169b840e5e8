//! Every way a request is turned away: status, code, sentence and headers in one place.
//!
//! The statuses follow what stock SDKs do with them: 429 with `Retry-After` and 503 are tried again, 408
//! too; any other 4xx makes them drop the events, so it is only used where trying again cannot help.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use serde_json::json;

use crate::clock::Millis;
use crate::event::parse::BodyFault;
use crate::event::scan::{Place, place};
use crate::journal::AppendError;
use crate::metrics;

/// Why a request is turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is nothing at this path")]
    NoSuchRoute,
    #[error("this path takes {0} only")]
    Method(Method),
    #[error(
        "no write key: send it as the Basic user, as Bearer token, as X-Write-Key or as `writeKey` in the body"
    )]
    MissingKey,
    #[error("this write key is not known; look for it among the sources")]
    UnknownKey,
    #[error("the source of this write key is switched off")]
    SourceOff,
    #[error(
        "`{0}` is not among the web origins this write key may be used from; add it to its source's allowed origins"
    )]
    Origin(String),
    #[error("this write key may not make {0} calls; add the type to its source's allowed types")]
    Type(&'static str),
    #[error("the body has more than {0} bytes; send fewer events at once")]
    BodyTooLarge(usize),
    #[error("the body unpacks to more than {0} bytes; send fewer events at once")]
    UnpacksTooLarge(usize),
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("the body ended before it was complete")]
    BodyCut,
    #[error("Content-Encoding `{0}` is not known here; send gzip or identity")]
    Encoding(String),
    #[error("{0}")]
    Gzip(&'static str),
    #[error("the body is not UTF-8: byte {0} is no part of a character")]
    NotUtf8(usize),
    #[error("{message} (line {}, column {}{})", .place.line, .place.column, within(.place))]
    Json { message: String, place: Place },
    #[error("{0}")]
    Body(BodyFault),
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("the webhook's signature is missing or does not fit the body")]
    BadSignature,
    #[error("there is no such integration")]
    NoIntegration,
    #[error("too much is waiting here; try again in a moment")]
    Busy,
    #[error("this {whose} may post {per_second} events a second")]
    Rate {
        whose: Whose,
        per_second: u32,
        wait_ms: Millis,
    },
    #[error("the disk is nearly full; try again later")]
    Full,
    #[error("the store cannot write; nothing is accepted until it is restarted")]
    Stopped,
    #[error("this process is stopping; try again")]
    Draining,
    #[error("`{0}`: {1}")]
    Field(&'static str, String),
    #[error(
        "no datafile is known here yet: install an Optimizely integration, or look at its state when there is one; its datafile may not have been readable so far"
    )]
    NoDatafile,
    #[error(
        "no datafile of {0} is known here: check the name, or leave it out to ask all Optimizely integrations"
    )]
    NoChosenDatafile(String),
    #[error("this call is not available yet")]
    NotYet,
    #[error("something went wrong here; the call was not accepted")]
    Panicked,
}

/// Whose rate is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// That of all the source's keys together.
    Source,
    /// That of the key alone.
    Key,
}

impl Whose {
    fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Key => "key",
        }
    }
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Key => "write key",
        })
    }
}

fn within(place: &Place) -> String {
    if place.path.is_empty() {
        return String::new();
    }
    format!(", in {}", place.path)
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy => Self::Busy,
            AppendError::Full => Self::Full,
            AppendError::Failed(_) | AppendError::Closed => Self::Stopped,
        }
    }
}

impl Refusal {
    /// What a body that cannot be taken is refused with.
    pub(super) fn of_body(fault: BodyFault, text: &str) -> Self {
        match fault {
            BodyFault::Syntax(syntax) => Self::Json {
                message: syntax.kind.to_string(),
                place: place(text, syntax.at),
            },
            other => Self::Body(other),
        }
    }

    /// The one table: status, stable code, and for refusals under load the metric's reason.
    fn row(&self) -> (StatusCode, &'static str, Option<&'static str>) {
        use StatusCode as S;
        match self {
            Self::NoSuchRoute => (S::NOT_FOUND, "no_such_route", None),
            Self::Method(_) => (S::METHOD_NOT_ALLOWED, "method_not_allowed", None),
            Self::MissingKey => (S::UNAUTHORIZED, "missing_write_key", None),
            Self::UnknownKey => (S::UNAUTHORIZED, "unknown_write_key", None),
            Self::SourceOff => (S::UNAUTHORIZED, "source_disabled", None),
            Self::Origin(_) => (S::FORBIDDEN, "origin_not_allowed", None),
            Self::Type(_) => (S::FORBIDDEN, "type_not_allowed", None),
            Self::BodyTooLarge(_) => (S::PAYLOAD_TOO_LARGE, "body_too_large", None),
            Self::UnpacksTooLarge(_) => (S::PAYLOAD_TOO_LARGE, "body_too_large", None),
            Self::BodyTimeout => (S::REQUEST_TIMEOUT, "body_timeout", None),
            Self::BodyCut => (S::BAD_REQUEST, "body_cut", None),
            Self::Encoding(_) => (S::UNSUPPORTED_MEDIA_TYPE, "unknown_encoding", None),
            Self::Gzip(_) => (S::BAD_REQUEST, "bad_gzip", None),
            Self::NotUtf8(_) => (S::BAD_REQUEST, "not_utf8", None),
            Self::Json { .. } => (S::BAD_REQUEST, "bad_json", None),
            Self::Body(BodyFault::TooMany(_)) => (S::PAYLOAD_TOO_LARGE, "batch_too_large", None),
            Self::Body(BodyFault::NoBatch) => (S::BAD_REQUEST, "missing_batch", None),
            Self::Body(_) => (S::BAD_REQUEST, "not_an_object", None),
            Self::BadRequest(_) => (S::BAD_REQUEST, "bad_request", None),
            Self::Field(..) => (S::BAD_REQUEST, "bad_field", None),
            Self::NoDatafile => (S::SERVICE_UNAVAILABLE, "no_datafile", None),
            Self::NoChosenDatafile(_) => (S::SERVICE_UNAVAILABLE, "no_datafile", None),
            Self::BadSignature => (S::UNAUTHORIZED, "bad_signature", None),
            Self::NoIntegration => (S::NOT_FOUND, "no_such_integration", None),
            Self::Busy => (S::TOO_MANY_REQUESTS, "busy", Some("busy")),
            Self::Rate { .. } => (S::TOO_MANY_REQUESTS, "rate_limited", Some("rate")),
            Self::Full => (S::TOO_MANY_REQUESTS, "disk_full", Some("full")),
            Self::Stopped => (S::SERVICE_UNAVAILABLE, "store_stopped", Some("stopped")),
            Self::Draining => (S::SERVICE_UNAVAILABLE, "draining", Some("draining")),
            Self::NotYet => (S::NOT_IMPLEMENTED, "not_available_yet", None),
            Self::Panicked => (S::INTERNAL_SERVER_ERROR, "internal", None),
        }
    }

    /// The stable code.
    pub(super) fn code(&self) -> &'static str {
        self.row().1
    }

    /// Shortest and longest wait asked for, in seconds; the wait is drawn between them so that clients
    /// turned away together do not come back together.
    fn retry_after(&self) -> Option<(u64, u64)> {
        match self {
            Self::Busy => Some((1, 5)),
            Self::Rate { wait_ms, .. } => {
                let seconds = u64::try_from(wait_ms.saturating_add(999) / 1_000).unwrap_or(1);
                Some((
                    seconds.clamp(1, 30),
                    (seconds + seconds / 4 + 1).clamp(1, 30),
                ))
            }
            Self::Full | Self::Stopped => Some((10, 30)),
            Self::Draining => Some((1, 5)),
            Self::NoDatafile | Self::NoChosenDatafile(_) => Some((5, 15)),
            _ => None,
        }
    }

    /// The connection cannot be used again: the rest of the body was not read, or the process goes away.
    fn closes(&self) -> bool {
        matches!(
            self,
            Self::BodyTooLarge(_) | Self::BodyTimeout | Self::BodyCut | Self::Draining
        )
    }

    /// The answer. `chance`: 64 random bits.
    pub(super) fn response(&self, chance: u64) -> Response {
        let (status, code, shed) = self.row();
        if let Some(reason) = shed {
            metrics::ingest_shed(reason).increment(1);
        }
        let message = self.to_string();
        let mut document = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": message,
            "code": code,
            "message": message,
        });
        if let Self::Json { place, .. } = self {
            document["line"] = json!(place.line);
            document["column"] = json!(place.column);
            document["path"] = json!(place.path);
        }
        let mut response = Response::new(Body::from(document.to_string()));
        *response.status_mut() = status;
        let mut put = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        };
        put(header::CONTENT_TYPE, "application/problem+json");
        if let Some((least, most)) = self.retry_after() {
            let seconds = least + chance % (most - least + 1);
            put(header::RETRY_AFTER, &seconds.to_string());
        }
        match self {
            Self::Method(allowed) => put(header::ALLOW, &format!("{allowed}, OPTIONS")),
            Self::Encoding(_) => put(header::ACCEPT_ENCODING, "gzip, identity"),
            // Not Basic: that would open a browser's password dialog.
            Self::MissingKey | Self::UnknownKey | Self::SourceOff => {
                put(header::WWW_AUTHENTICATE, "Bearer realm=\"aqueduct\"");
            }
            // Nobody there may read it; for everybody else it says why.
            Self::Origin(_) => put(header::VARY, "origin"),
            Self::Rate {
                whose,
                per_second,
                wait_ms,
            } => {
                let seconds = wait_ms.saturating_add(999) / 1_000;
                let policy = format!("\"{}\";q={per_second};w=1", whose.label());
                put(HeaderName::from_static("ratelimit-policy"), &policy);
                let state = format!("\"{}\";r=0;t={seconds}", whose.label());
                put(HeaderName::from_static("ratelimit"), &state);
            }
            _ => {}
        }
        if self.closes() {
            put(header::CONNECTION, "close");
        }
        response
    }
}
