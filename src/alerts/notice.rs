//! A notice as it is sent: its JSON, and its signature after Standard Webhooks 1.0
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>). Pure.
//!
//! Signed is `{id}.{timestamp}.{body}` with HMAC-SHA256 under the bytes behind `whsec_`; the id is the same on every
//! attempt, the timestamp is the attempt's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::watch::Tell;
use crate::clock::Millis;
use crate::registry::alert_log::AlertRow;
use crate::secret::Secret;

/// What kind of message it is: `type` of the body.
pub(super) fn kind(tell: Tell) -> Option<&'static str> {
    match tell {
        Tell::Firing | Tell::Again => Some("alert.firing"),
        Tell::Resolved => Some("alert.resolved"),
        Tell::Dropped => None,
    }
}

/// The body of a notice about an alert.
pub(super) fn body(row: &AlertRow, kind: &str, now_ms: Millis) -> String {
    let about = if row.integration.is_empty() {
        Value::Null
    } else {
        json!({ "id": row.integration, "name": row.integration_name })
    };
    let (integration, source) = if row.rule.is_about_source() {
        (Value::Null, about)
    } else {
        (about, Value::Null)
    };
    json!({
        "type": kind,
        "timestamp": time(now_ms),
        "data": {
            "alert": row.id,
            "endpoint": row.endpoint,
            "rule": row.rule,
            "integration": integration,
            "source": source,
            "summary": row.summary,
            "reason": row.reason,
            "value": row.value,
            "threshold": row.threshold,
            "unit": row.rule.unit(),
            "since": time(row.since_ms),
            "notice": row.notices,
            "resolved_at": row.resolved_ms.map(time),
        },
    })
    .to_string()
}

/// The body of a test.
pub(super) fn test_body(endpoint: &str, now_ms: Millis) -> String {
    json!({
        "type": "alert.test",
        "timestamp": time(now_ms),
        "data": { "endpoint": endpoint, "summary": "a test of this endpoint; nothing is wrong" },
    })
    .to_string()
}

/// The value of `webhook-signature`: one signature for each secret, separated by blanks. None when a secret is not one
/// of ours.
pub(super) fn signatures(
    secrets: &[&Secret],
    id: &str,
    timestamp_s: i64,
    body: &str,
) -> Option<String> {
    let each = secrets.iter().map(|secret| {
        let key = STANDARD
            .decode(secret.expose().strip_prefix("whsec_")?)
            .ok()?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
        mac.update(format!("{id}.{timestamp_s}.{body}").as_bytes());
        Some(format!(
            "v1,{}",
            STANDARD.encode(mac.finalize().into_bytes())
        ))
    });
    let all: Option<Vec<String>> = each.collect();
    all.map(|all| all.join(" "))
}

fn time(at_ms: Millis) -> String {
    jiff::Timestamp::from_millisecond(at_ms)
        .map_or_else(|_| at_ms.to_string(), |at| format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries (`standard-webhooks/libraries`, every language's test).
    #[test]
    fn the_reference_libraries_example_is_signed_as_they_sign_it() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let body = r#"{"test": 2432232314}"#;
        let signed = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(
            signatures(&[&secret], id, 1_614_265_330, body).as_deref(),
            Some(signed)
        );
        let both = signatures(&[&secret, &secret], id, 1_614_265_330, body);
        assert_eq!(both, Some(format!("{signed} {signed}")));
        assert_eq!(signatures(&[&Secret::new("whsec_%")], id, 0, body), None);
    }
}
