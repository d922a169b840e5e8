//! Endpoints of alerts: what is taken, what is shown, and what is written down.

use super::*;

#[tokio::test]
async fn an_endpoints_secret_is_shown_once_and_sealed() {
    let api = Api::new();
    let body = json!({ "url": "https://hooks.example.org/x" });
    let made = api.ok("PUT", "alerts/ops", Some(body.clone())).await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_"));
    assert_eq!(made["rules"]["oldest_waiting"], json!({ "above_s": 300 }));
    assert_eq!(
        (&made["state"], &made["waiting"]),
        (&json!("ok"), &json!(0))
    );

    let changed = json!({ "url": "https://hooks.example.org/y", "rules": { "dead_letters": { "above": 7 } } });
    let again = api.ok("PUT", "alerts/ops", Some(changed)).await;
    assert!(again.get("secret").is_none());
    assert_eq!(again["rules"]["zero_traffic"], Value::Null);
    let rotated = json!({ "url": "https://hooks.example.org/y", "rotate_secret": true });
    let rotated = api.ok("PUT", "alerts/ops", Some(rotated)).await;
    let second = rotated["secret"].as_str().unwrap().to_owned();
    assert_ne!(second, secret);
    assert!(rotated["old_secret_until"].is_string());

    let listed = api.ok("GET", "alerts", None).await;
    assert_eq!(listed["data"][0]["url"], "https://hooks.example.org/y");
    let audit = api.ok("GET", "audit", None).await;
    let deeds: Vec<&str> = audit["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|deed| deed["action"].as_str().unwrap())
        .collect();
    assert_eq!(&deeds[..3], ["alert_endpoint.put"; 3]);
    for secret in [&secret, &second] {
        for shown in [&listed, &audit, &again] {
            assert!(!shown.to_string().contains(secret.as_str()));
        }
        let bare = secret.strip_prefix("whsec_").unwrap().as_bytes();
        for file in std::fs::read_dir(api.dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(bare.len()).any(|window| window == bare));
        }
    }
    api.ok("DELETE", "alerts/ops", None).await;
    assert_eq!(api.call("GET", "alerts/ops", None).await.0, 404);
    assert_eq!(api.call("POST", "alerts/ops/test", None).await.0, 404);
}

#[tokio::test]
async fn every_field_that_cannot_be_used_is_named() {
    let api = Api::new();
    for (path, body, field, code) in [
        (
            "alerts/Ops",
            json!({ "url": "https://a.example" }),
            "name",
            "invalid_name",
        ),
        (
            "alerts/ops",
            json!({ "url": "http://a.example" }),
            "url",
            "not_https",
        ),
        (
            "alerts/ops",
            json!({ "url": "https://10.0.0.1/" }),
            "url",
            "private_address",
        ),
        (
            "alerts/ops",
            json!({ "url": "https://a.example", "rules": {} }),
            "rules",
            "empty",
        ),
        (
            "alerts/ops",
            json!({ "url": "https://a.example", "integrations": ["int_nobody"] }),
            "integrations",
            "unknown_integration",
        ),
        (
            "alerts/ops",
            json!({ "url": "https://a.example", "rules": { "dead_letters": { "above_s": 1 } } }),
            "rules.dead_letters.above_s",
            "unknown_field",
        ),
        (
            "alerts/ops",
            json!({ "url": "https://a.example", "repeat_h": 721 }),
            "repeat_h",
            "out_of_range",
        ),
        ("alerts/ops", json!({}), "url", "missing"),
    ] {
        let (status, answer) = api.call("PUT", path, Some(body)).await;
        assert_eq!(status, 422, "{answer}");
        let fault = &answer["errors"][0];
        assert_eq!(
            (fault["field"].as_str(), fault["code"].as_str()),
            (Some(field), Some(code)),
            "{answer}"
        );
    }
    for query in ["state=over", "endpoint=nobody", "limit=0"] {
        let (status, _) = api
            .call("GET", &format!("alerts/state?{query}"), None)
            .await;
        assert!((400..500).contains(&status), "{query}");
    }
    let state = api.ok("GET", "alerts/state", None).await;
    assert_eq!(state["data"], json!([]));
}
