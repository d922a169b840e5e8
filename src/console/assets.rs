//! Style, scripts and icon: compiled in, named by their content, kept by browsers for good.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

/// (name, type, content)
const FILES: [(&str, &str, &str); 4] = [
    (
        "console.css",
        "text/css; charset=utf-8",
        include_str!("assets/console.css"),
    ),
    (
        "console.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/console.js"),
    ),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    (
        "live.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/live.js"),
    ),
];

/// Where pages find them.
pub(super) struct Names {
    pub(super) style: String,
    pub(super) script: String,
    pub(super) icon: String,
    pub(super) live: String,
}

/// The names of this build.
pub(super) fn names() -> &'static Names {
    static NAMES: LazyLock<Names> = LazyLock::new(|| Names {
        style: named(0),
        script: named(1),
        icon: named(2),
        live: named(3),
    });
    &NAMES
}

fn tag(content: &str) -> String {
    let hash = Sha256::digest(content.as_bytes());
    hash.iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn named(index: usize) -> String {
    let (name, _, content) = FILES[index];
    format!("/assets/{}-{name}", tag(content))
}

/// One file.
pub(super) async fn serve(Path(wanted): Path<String>, headers: HeaderMap) -> Response {
    for (name, kind, content) in FILES {
        let tag = tag(content);
        if wanted
            .strip_prefix(&tag)
            .and_then(|rest| rest.strip_prefix('-'))
            != Some(name)
        {
            continue;
        }
        let etag = format!("\"{tag}\"");
        let known = headers
            .get(header::IF_NONE_MATCH)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains(&etag));
        let mut response = if known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            (
                [(header::CONTENT_TYPE, HeaderValue::from_static(kind))],
                content,
            )
                .into_response()
        };
        let headers = response.headers_mut();
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=31536000, immutable"),
        );
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            headers.insert(header::ETAG, etag);
        }
        return response;
    }
    super::frame::plain(StatusCode::NOT_FOUND, "there is no such file")
}
