//! Each of Pendo's rules once, through HTTP.

use super::*;
use crate::sandbox::testing::{Client, NOW};

const TRACK: &str = "/pendo-data/data/track";
const WRITE: &str = "/pendo-app/api/v1/metadata/visitor/custom/value";
const VERIFY: &str = "/pendo-app/api/v1/token/verify";

async fn start() -> Client {
    let client = Client::start(&[(KEY_HEADER, "integration")]).await;
    client.configure(json!({"pendo": {
        "integration_keys": ["integration"], "read_only_keys": ["reader"], "track_secrets": ["secret"],
        "other_region_keys": ["abroad"],
    }}));
    client
}

fn event(who: &str) -> Value {
    json!({"type": "track", "event": "Experiment Viewed", "visitorId": who, "timestamp": NOW,
        "properties": {"flag_key": "a"}, "context": {}})
}

#[tokio::test]
async fn pe1_pe2_pe12_secrets_by_surface() {
    let client = start().await;
    let verified = client.get(VERIFY).await;
    assert_eq!(
        (verified.status, verified.json()),
        (200, json!({"valid": true, "writeAccess": true}))
    );
    let reader = client.with(KEY_HEADER, "reader");
    assert_eq!(reader.get(VERIFY).await.json()["writeAccess"], false);
    assert_eq!(reader.post(WRITE, json!([])).await.status, 403);
    assert_eq!(client.count("refused", "PE2"), 1);

    let secret = client.with(KEY_HEADER, "secret");
    assert_eq!(secret.post(TRACK, event("u1")).await.status, 200);
    assert_eq!(
        secret
            .post("/pendo-app/data/track", event("u1"))
            .await
            .status,
        200,
        "on both hosts"
    );
    for (who, path, body) in [
        (&client, TRACK, event("u1")),
        (&secret, WRITE, json!([])),
        (&client.with(KEY_HEADER, "abroad"), WRITE, json!([])),
        (&client.with(KEY_HEADER, ""), WRITE, json!([])),
    ] {
        let refused = who.post(path, body).await;
        assert_eq!((refused.status, refused.body.as_str()), (403, ""));
    }
    assert_eq!(client.count("refused", "PE1"), 4);
    let other = client.with(KEY_HEADER, "").with(SECRET_HEADER, "secret");
    assert_eq!(other.post(TRACK, event("u1")).await.status, 200);
    client.configure(json!({"pendo": {"track_header": "integration_key"}}));
    assert_eq!(other.post(TRACK, event("u1")).await.status, 403);
    assert_eq!(
        client.get("/pendo-data/api/v1/token/verify").await.status,
        404,
        "no API there"
    );
}

#[tokio::test]
async fn pe3_pe4_track_fields() {
    let client = start().await.with(KEY_HEADER, "secret");
    let cases = [
        ("type", json!("event")),
        ("event", json!("")),
        ("visitorId", json!(7)),
        ("timestamp", json!(NOW / 1000)),
        ("timestamp", json!("2026-11-18T10:00:00Z")),
        ("timestamp", json!(1.5)),
        ("properties", json!([])),
    ];
    for (field, value) in &cases {
        let mut bad = event("u1");
        bad[*field] = value.clone();
        let refused = client.post(TRACK, bad).await;
        assert_eq!(
            (refused.status, refused.body.as_str()),
            (400, ""),
            "{field} {value}"
        );
    }
    assert_eq!(client.count("refused", "PE3"), cases.len() as u64);
    assert_eq!(client.post(TRACK, json!([event("u1")])).await.status, 400);
    assert_eq!(client.count("refused", "PE4"), 1);
}

#[tokio::test]
async fn pe5_stale_and_undefined_events_are_lost_in_silence() {
    let client = start().await.with(KEY_HEADER, "secret");
    client.handle.advance(7 * 24 * 3_600_000);
    assert_eq!(client.post(TRACK, event("u1")).await.status, 200);
    assert_eq!(
        client.count("limits", "PE5"),
        0,
        "seven days to the millisecond"
    );
    client.handle.advance(1);
    let taken = client.post(TRACK, event("u1")).await;
    assert_eq!((taken.status, taken.body.as_str()), (200, ""));
    assert_eq!(client.count("limits", "PE5"), 1);

    let now = client.handle.now_ms();
    client
        .handle
        .seed(
            "pendo",
            "",
            json!({"track_events": {"Experiment Viewed": now - 10}}),
        )
        .expect("seeded");
    client.configure(json!({"pendo": {"undefined_events": "discard"}}));
    for (name, at_ms) in [
        ("Experiment Viewed", now - 11),
        ("Experiment Viewed", now - 10),
        ("Signup", now),
    ] {
        let mut event = event("u1");
        event["event"] = json!(name);
        event["timestamp"] = json!(at_ms);
        assert_eq!(client.post(TRACK, event).await.status, 200);
    }
    let state = client.handle.state("pendo", "", 10);
    assert_eq!(state["counts"]["track_events"], 2);
    let why: Vec<&str> = state["discarded"]
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|d| d["why"].as_str())
        .collect();
    assert_eq!(
        why,
        [
            "older than 7 days",
            "before the event was defined",
            "not defined"
        ]
    );
}

#[tokio::test]
async fn pe6_properties_nobody_sees() {
    let client = start().await.with(KEY_HEADER, "secret");
    for properties in [
        json!({"flag-key": "a", "__x__": 1, "error": 1, "a": 1}),
        json!({"a": "x".repeat(505)}),
        json!({"a": "x".repeat(25 * 1024)}),
        json!({"a": "x".repeat(504)}),
    ] {
        let mut event = event("u1");
        event["properties"] = properties;
        assert_eq!(client.post(TRACK, event).await.status, 200);
    }
    let state = client.handle.state("pendo", "", 10);
    assert_eq!(
        state["events"][0]["hidden"],
        json!(["flag-key", "__x__", "error"])
    );
    assert_eq!(state["events"][1]["event"]["too_large"], true);
    assert!(state["events"][2]["event"]["properties"]["error"].is_string());
    assert_eq!(
        state["events"][3]["event"].get("too_large"),
        None,
        "512 bytes are shown"
    );
    assert_eq!(client.count("limits", "PE6"), 3);
}

#[tokio::test]
async fn pe7_pe8_pe9_pe10_metadata() {
    let client = start().await;
    let seed = json!({"visitors": ["u1"], "visitor_fields": {"Optimizely_a": "text", "count": "number", "old": "text"},
        "deleted_visitor_fields": ["old"], "accounts": ["acme"], "account_fields": {"plan": "text"}});
    client.handle.seed("pendo", "", seed).expect("seeded");
    let path = "/pendo-app/api/v1/metadata/visitor/value";
    assert_eq!(client.post(path, json!([])).await.status, 404);
    assert_eq!(client.count("refused", "PE7"), 1);

    let record = |who: &str, values: Value| json!({"visitorId": who, "values": values});
    for bad in [
        json!({"u1": {"optimizely_a": "x"}}),
        json!([record("u1", json!({"optimizely_a": "x", "nobody": 1}))]),
        json!([record("u1", json!({"old": "x"}))]),
        json!([{"accountId": "u1", "values": {}}]),
    ] {
        assert_eq!(client.post(WRITE, bad).await.status, 400);
    }
    assert_eq!(client.count("refused", "PE8"), 4);

    let body = json!([
        record("u1", json!({"optimizely_a": "v1"})),
        record("u2", json!({"optimizely_a": "v1"})),
        record("u1", json!({"count": "many"})),
    ]);
    let reply = client.post(WRITE, body.clone()).await;
    assert_eq!(reply.status, 200);
    let reply = reply.json();
    assert_eq!(
        (
            &reply["total"],
            &reply["updated"],
            &reply["failed"],
            &reply["missing"]
        ),
        (&json!(3), &json!(1), &json!(2), &json!(["u2"]))
    );
    assert_eq!(client.count("silent", "PE9"), 1);
    let created = client
        .post(&format!("{WRITE}?create=true"), body)
        .await
        .json();
    assert_eq!(
        (&created["updated"], created.get("missing")),
        (&json!(2), None)
    );
    assert_eq!(
        client.handle.values("pendo", ""),
        json!({"u1": {"a": "v1"}, "u2": {"a": "v1"}})
    );

    let account = client
        .post(
            "/pendo-app/api/v1/metadata/account/custom/value",
            json!([{"accountId": "acme", "values": {"plan": "pro"}}]),
        )
        .await;
    assert_eq!(account.json()["updated"], 1);
    let one = client
        .text("PUT", &format!("{WRITE}/u1/fresh"), "\"x\"")
        .await;
    assert_eq!(one.status, 200, "a single unknown custom field is made");
    let schema = client
        .get("/pendo-app/api/v1/metadata/schema/visitor")
        .await
        .json();
    assert_eq!(schema["custom"]["optimizely_a"]["Type"], "text");
    assert_eq!(schema["custom"]["old"]["isDeleted"], true);
    assert_eq!(schema["custom"]["fresh"]["Type"], "text");

    client.configure(json!({"pendo": {"max_records": 2, "autocreate_custom": true}}));
    let many = json!(vec![record("u1", json!({"optimizely_a": "x"})); 3]);
    assert_eq!(client.post(WRITE, many).await.status, 408);
    assert_eq!(client.count("limits", "PE10"), 1);
    let made = client
        .post(WRITE, json!([record("u1", json!({"optimizely_b": "x"}))]))
        .await;
    assert_eq!(made.json()["updated"], 1);
}

#[tokio::test]
async fn pe11_rates_when_they_are_switched_on() {
    let client = start().await.with(KEY_HEADER, "secret");
    let track = |who: &'static str| client.post(TRACK, event(who));
    for _ in 0..3 {
        assert_eq!(track("u1").await.status, 200);
    }
    client.configure(json!({"pendo": {"visitor_interval_ms": 1000}}));
    assert_eq!(track("u1").await.status, 200);
    let refused = track("u1").await;
    assert_eq!((refused.status, refused.body.as_str()), (429, ""));
    assert_eq!(track("u2").await.status, 200);
    client.configure(json!({"pendo": {"rate_reply": "forbidden"}}));
    let refused = track("u1").await;
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (403, r#"{"error":{"reason":"rateLimitExceeded"}}"#)
    );
    client.configure(json!({"pendo": {"rate_reply": "count_only"}}));
    assert_eq!(track("u1").await.status, 200);
    assert_eq!(client.count("limits", "PE11"), 3);
    client.handle.advance(1_000);
    client.configure(
        json!({"pendo": {"rate_reply": "too_many", "visitor_interval_ms": 0, "requests_per_s": 2}}),
    );
    let statuses = [
        track("u1").await.status,
        track("u2").await.status,
        track("u3").await.status,
    ];
    assert_eq!(statuses, [200, 200, 429]);
}
