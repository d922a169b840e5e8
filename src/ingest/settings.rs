//! What analytics-next loads before it sends anything, so that its `cdnURL` can be this gateway.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use serde_json::json;

use super::refusal::Refusal;

/// Longest write key and host echoed.
const TEXT_MAX: usize = 200;

/// The settings document: send everything to this host and nothing anywhere else (analytics-next 1.84.3
/// was content with these members). The key is not looked up: the document tells nothing about it, and a
/// page whose settings fail to load would lose its events without a trace.
pub(super) fn answer(write_key: &str, headers: &HeaderMap) -> Result<Response, Refusal> {
    let plain = |text: &str, also: &[u8]| {
        !text.is_empty()
            && text.len() <= TEXT_MAX
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
    };
    if !plain(write_key, b"-_.:~") {
        return Err(Refusal::BadRequest("the path holds no write key"));
    }
    let host = super::text(headers, "host")
        .filter(|host| plain(host, b"-._:[]"))
        .ok_or(Refusal::BadRequest("the request has no usable Host header"))?;
    let mut segment = json!({
        "apiKey": write_key,
        "apiHost": format!("{host}/v1"),
        "unbundledIntegrations": [],
        "addBundledMetadata": true,
        "maybeBundledConfigIds": {},
        "versionSettings": {"version": "4.4.7", "componentTypes": ["browser"]},
    });
    if let Some(protocol) = protocol(host, headers) {
        segment["protocol"] = json!(protocol);
    }
    let always = json!({"__default": {"enabled": true, "integrations": {}}});
    let document = json!({
        "integrations": {"Segment.io": segment},
        "plan": {"track": always, "identify": always, "group": always},
        "edgeFunction": {},
        "analyticsNextEnabled": true,
        "middlewareSettings": {},
        "enabledMiddleware": {},
        "metrics": {"sampleRate": 0},
        "legacyVideoPluginsEnabled": false,
        "remotePlugins": [],
    });
    let mut response = super::json(Body::from(document.to_string()));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// How the browser reaches us: as the proxy in front says, else plain on the same machine, else left to
/// the SDK, which takes https.
fn protocol(host: &str, headers: &HeaderMap) -> Option<&'static str> {
    match super::text(headers, "x-forwarded-proto") {
        Some(first) if first.eq_ignore_ascii_case("https") => Some("https"),
        Some(first) if first.eq_ignore_ascii_case("http") => Some("http"),
        _ => {
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            (name == "localhost" || name == "[::1]" || name.starts_with("127.")).then_some("http")
        }
    }
}
