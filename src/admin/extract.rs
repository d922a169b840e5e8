//! Reading requests: JSON bodies and queries, with errors that name the field.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::blueprint::FieldFault;

/// Largest body taken, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;

/// A JSON body. Empty bodies are refused.
pub(super) struct Body<T>(pub(super) T);

/// A JSON body that may be left out; then it is the default.
pub(super) struct MaybeBody<T>(pub(super) T);

/// A query string; unknown parameters are refused.
pub(super) struct Params<T>(pub(super) T);

/// A body that is JSON or a blueprint's own YAML text.
pub(super) struct TextOrJson {
    pub(super) bytes: Bytes,
    pub(super) is_json: bool,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = bytes(request, state).await?;
        if !is_json {
            return Err(not_json());
        }
        read(&bytes).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for MaybeBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = bytes(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json {
            return Err(not_json());
        }
        read(&bytes).map(Self)
    }
}

impl<S: Send + Sync> FromRequest<S> for TextOrJson {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let is_text = content_type(request.headers()).is_some_and(|kind| {
            matches!(
                kind.as_str(),
                "application/yaml"
                    | "application/x-yaml"
                    | "text/yaml"
                    | "text/x-yaml"
                    | "text/plain"
            )
        });
        let bytes = bytes(request, state).await?;
        if !is_json && !is_text {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send a blueprint as `application/yaml`, or `application/json`",
            ));
        }
        Ok(Self { bytes, is_json })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::<T>::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|error| {
                let text = error.body_text();
                let words = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_query", words)
            })
    }
}

/// Reads JSON bytes; syntax errors are 400 with their place, wrong content is 422 with its field.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        json_problem(&path, error.inner())
    })?;
    json.end().map_err(|error| json_problem(".", &error))?;
    Ok(value)
}

fn json_problem(path: &str, error: &serde_json::Error) -> Problem {
    if !error.is_data() {
        return Problem::new(
            StatusCode::BAD_REQUEST,
            "malformed_json",
            format!("the body is not JSON: {error}"),
        );
    }
    let text = error.to_string();
    let words = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(words, _)| words);
    let named = words.split('`').nth(1);
    let (code, name) = if words.starts_with("unknown field") {
        ("unknown_field", named)
    } else if words.starts_with("missing field") {
        ("missing", named)
    } else {
        ("wrong_type", None)
    };
    let field = match (path, name) {
        ("." | "", Some(name)) => name.to_owned(),
        (path, Some(name)) if !path.ends_with(name) => format!("{path}.{name}"),
        ("." | "", None) => "body".to_owned(),
        (path, _) => path.to_owned(),
    };
    Problem::fields(vec![FieldFault {
        field,
        code: code.to_owned(),
        message: words.to_owned(),
    }])
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state)
        .await
        .map_err(|error| Problem::of_status(error.status()))
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = text.split(';').next()?;
    Some(kind.trim().to_ascii_lowercase())
}

fn is_json(headers: &HeaderMap) -> bool {
    content_type(headers).is_some_and(|kind| {
        kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
    })
}

fn not_json() -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "send the body as `Content-Type: application/json`",
    )
}

#[cfg(test)]
mod tests {
    use super::read;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "read by serde")]
        inner: Inner,
        any: Option<serde_json::Value>,
    }

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "read by serde")]
        name: String,
    }

    #[test]
    fn errors_name_the_field_or_the_place() {
        for (body, status, code, field) in [
            (r#"{"inner":{"name":"x"}} x"#, 400, "malformed_json", ""),
            (r#"{"inner":{"name":"#, 400, "malformed_json", ""),
            ("\u{1}", 400, "malformed_json", ""),
            (r#"{"inner":{"name":1}}"#, 422, "wrong_type", "inner.name"),
            (r#"{"inner":{"nam":1}}"#, 422, "unknown_field", "inner.nam"),
            (r#"{"inner":{}}"#, 422, "missing", "inner.name"),
            (r#"{"x":1}"#, 422, "unknown_field", "x"),
            ("[]", 422, "wrong_type", "body"),
        ] {
            let problem = read::<Outer>(body.as_bytes())
                .err()
                .unwrap_or_else(|| panic!("{body}"));
            let problem = serde_json::to_value(&problem.0).unwrap();
            assert_eq!(problem["status"], status, "{body}: {problem}");
            if status == 400 {
                assert_eq!(problem["code"], code, "{body}");
            } else {
                assert_eq!(problem["errors"][0]["code"], code, "{body}: {problem}");
                assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
            }
        }
    }

    #[test]
    fn numbers_keep_their_text() {
        let body = br#"{"inner":{"name":"x"},"any":{"total":89.990}}"#;
        let outer: Outer = read(body).ok().unwrap();
        assert_eq!(outer.any.unwrap()["total"].to_string(), "89.990");
    }
}
