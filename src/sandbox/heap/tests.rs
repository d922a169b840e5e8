//! Each of Heap's rules once, through HTTP.

use super::*;
use crate::sandbox::testing::Client;

const TRACK: &str = "/heap-us/api/track";
const USERS: &str = "/heap-us/api/add_user_properties";

fn event(who: &str) -> Value {
    json!({"app_id": "1001", "identity": who, "event": "Experiment Viewed", "properties": {"flag_key": "a b"}})
}

fn bulk(events: &[Value]) -> Value {
    json!({"app_id": "1001", "events": events})
}

fn changed(change: Value) -> Value {
    let mut event = event("u1");
    for (key, value) in change.as_object().expect("object") {
        event[key] = value.clone();
        if value.is_null() {
            event.as_object_mut().expect("object").remove(key);
        }
    }
    event
}

#[tokio::test]
async fn he1_fields() {
    let client = Client::start(&[]).await;
    let taken = client.post(TRACK, event("u1")).await;
    assert_eq!((taken.status, taken.body.as_str()), (200, "{}"));
    let by_number =
        json!({"app_id": 1001, "user_id": "42", "event": "e", "timestamp": "2026-11-18T10:00:00Z"});
    assert_eq!(client.post(TRACK, by_number).await.status, 200);
    let cases = [
        json!({"app_id": null}),
        json!({"identity": null}),
        json!({"identity": ""}),
        json!({"identity": 7}),
        json!({"identity": "x".repeat(256)}),
        json!({"user_id": "42"}),
        json!({"identity": null, "user_id": "9007199254740992"}),
        json!({"event": null}),
        json!({"event": "x".repeat(1025)}),
        json!({"timestamp": "soon"}),
        json!({"properties": {"k": "x".repeat(1024)}}),
        json!({"properties": {"k": null}}),
        json!({"properties": {"k": {"l": 1}}}),
    ];
    for change in &cases {
        let refused = client.post(TRACK, changed(change.clone())).await;
        assert_eq!(
            (refused.status, refused.body.as_str()),
            (400, "{}"),
            "{change}"
        );
        assert_eq!(refused.header("x-sandbox-reason"), "HE1");
    }
    assert_eq!(client.text("POST", TRACK, "[1").await.status, 400);
    assert_eq!(client.count("refused", "HE1"), cases.len() as u64 + 1);
    assert_eq!(client.handle.state("heap", "", 10)["counts"]["events"], 2);
}

#[tokio::test]
async fn he2_bulk_is_all_or_nothing_and_bounded() {
    let client = Client::start(&[]).await;
    let events: Vec<Value> = (0..1001).map(|n| event(&format!("u{n}"))).collect();
    let refused = client.post(TRACK, bulk(&events)).await;
    assert_eq!((refused.status, client.count("limits", "HE2")), (400, 1));
    assert_eq!(client.post(TRACK, bulk(&events[..1000])).await.status, 200);
    let poisoned = bulk(&[event("a"), event(""), event("b")]);
    assert_eq!(client.post(TRACK, poisoned.clone()).await.status, 400);
    assert_eq!(client.handle.state("heap", "", 1)["counts"]["events"], 1000);
    client.configure(json!({"heap": {"bulk_partial": true}}));
    assert_eq!(client.post(TRACK, poisoned).await.status, 200);
    assert_eq!(client.handle.state("heap", "", 1)["counts"]["events"], 1002);
}

#[tokio::test]
async fn he3_a_key_seen_is_not_stored_again() {
    let client = Client::start(&[]).await;
    let first = changed(json!({"idempotency_key": "k1"}));
    let later = changed(json!({"idempotency_key": "k1", "event": "other"}));
    for event in [first, later] {
        assert_eq!(client.post(TRACK, event).await.status, 200);
    }
    let state = client.handle.state("heap", "", 10);
    assert_eq!(
        (&state["counts"]["events"], &state["counts"]["repeats"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        state["events"][0]["event"]["event"], "Experiment Viewed",
        "the first wins"
    );
}

#[tokio::test]
async fn he4_rates_by_identity_and_app() {
    let client = Client::start(&[]).await;
    let props = json!({"app_id": "1001", "identity": "u1", "properties": {"a": 1}});
    for n in 0..30 {
        let (path, body) = if n % 2 == 0 {
            (TRACK, event("u1"))
        } else {
            (USERS, props.clone())
        };
        assert_eq!(client.post(path, body).await.status, 200);
    }
    let refused = client.post(TRACK, bulk(&[event("u2"), event("u1")])).await;
    assert_eq!((refused.status, refused.body.as_str()), (429, "{}"));
    assert_eq!(refused.header("retry-after"), "");
    assert_eq!(
        client.post(TRACK, event("u2")).await.status,
        200,
        "others go on"
    );
    client.handle.advance(30_000);
    assert_eq!(client.post(TRACK, event("u1")).await.status, 200);
    assert_eq!(
        client
            .post(TRACK, bulk(&vec![event("u1"); 1000]))
            .await
            .status,
        429,
        "events of one"
    );

    for n in 0..14 {
        let events: Vec<Value> = (0..1000).map(|m| event(&format!("v{n}-{m}"))).collect();
        assert_eq!(client.post(TRACK, bulk(&events)).await.status, 200);
    }
    assert_eq!(
        client
            .post(TRACK, bulk(&vec![event("w"); 999]))
            .await
            .status,
        429,
        "events of the app"
    );
    assert_eq!(client.count("limits", "HE4"), 3);
    client.handle.advance(60_000);
    assert_eq!(
        client
            .post(TRACK, bulk(&vec![event("w"); 999]))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn he5_the_wrong_region() {
    let client = Client::start(&[]).await;
    client.configure(json!({"heap": {"us_apps": ["1001"]}}));
    assert_eq!(client.post(TRACK, event("u1")).await.status, 200);
    assert_eq!(
        client.post("/heap-eu/api/track", event("u1")).await.status,
        400
    );
    client.configure(json!({"heap": {"wrong_region": "redirect"}}));
    let elsewhere = client.post("/heap-eu/api/track", event("u1")).await;
    assert_eq!(elsewhere.status, 302);
    assert_eq!(
        elsewhere.header("location"),
        "https://heapanalytics.com/api/track"
    );
    assert_eq!(client.count("refused", "HE5"), 2);
}

#[tokio::test]
async fn he6_he7_values() {
    let client = Client::start(&[]).await;
    let listed = changed(json!({"properties": {"list": ["a", 2, "c"]}}));
    assert_eq!(client.post(TRACK, listed).await.status, 200);
    let state = client.handle.state("heap", "", 10);
    assert_eq!(state["events"][0]["event"]["properties"]["list"], "a||2||c");
    assert_eq!(client.count("silent", "HE6"), 1);

    let write = |properties: Value| {
        client.post(
            USERS,
            json!({"app_id": "1001", "users": [{"identity": "u1", "properties": properties}]}),
        )
    };
    for own in ["id", "Id", "user_id"] {
        assert_eq!(
            write(json!({own: 1})).await.header("x-sandbox-reason"),
            "HE6"
        );
    }
    assert_eq!(
        write(json!({"on": true})).await.header("x-sandbox-reason"),
        "HE7"
    );
    client.configure(json!({"heap": {"booleans": "accept"}}));
    assert_eq!(
        write(json!({"on": true, "[Optimizely] a b": "v1"}))
            .await
            .status,
        200
    );
    assert_eq!(write(json!({"[Optimizely] a b": "v2"})).await.status, 200);
    assert_eq!(client.handle.value("heap", "", "u1", "a b"), "v2");
    assert_eq!(
        client.handle.values("heap", ""),
        json!({"u1": {"a b": "v2"}})
    );

    let account = json!({"app_id": 1001, "account_id": "acme", "properties": {"plan": "pro"}});
    assert_eq!(
        client
            .post("/heap-us/api/add_account_properties", account)
            .await
            .status,
        200
    );
    assert_eq!(
        client.handle.state("heap", "", 10)["accounts"]["acme"]["plan"],
        "pro"
    );
}
