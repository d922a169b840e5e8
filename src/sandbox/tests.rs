//! The sandbox through its front door, by raw sockets: the rude endings included.

use super::*;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn start() -> (SocketAddr, Handle) {
    let sandbox = Sandbox::bind("127.0.0.1:0".parse().expect("address"))
        .await
        .expect("bound");
    let (addr, handle) = (sandbox.addr, sandbox.handle());
    tokio::spawn(sandbox.run(std::future::pending()));
    (addr, handle)
}

/// Sends one request and reads until the other side is done; the error when it is rude.
async fn raw(addr: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while answer.len() < 1 << 20 {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..read]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const EVENTS: &str = "/optimizely/v1/events";

#[tokio::test]
async fn every_wire_fault_looks_like_itself() {
    let (addr, handle) = start().await;
    let with = async |action: Value| {
        let script = json!([{"path": EVENTS, "action": action}]).to_string();
        let set = raw(addr, "PUT", "/_sandbox/faults", &script)
            .await
            .expect("answer");
        assert!(set.starts_with("HTTP/1.1 200"), "{set}");
        raw(addr, "POST", EVENTS, "{}").await
    };
    let refused = with(json!({"status": 429, "headers": {"Retry-After": "7"}, "body": {"a": 1}}))
        .await
        .expect("answer");
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains("retry-after: 7\r\n"), "{refused}");
    assert!(refused.ends_with("{\"a\":1}"), "{refused}");

    let reset = with(json!({"wire": "reset"})).await.expect_err("reset");
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(with(json!({"wire": "close"})).await.expect("closed"), "");
    let garbage = with(json!({"wire": "garbage"})).await.expect("bytes");
    assert!(!garbage.starts_with("HTTP"), "{garbage}");
    let cut = with(json!({"wire": "cut", "body": "0123456789"}))
        .await
        .expect("half");
    assert!(
        cut.contains("content-length: 10\r\n") && cut.ends_with("\r\n\r\n01234"),
        "{cut}"
    );
    let drip = with(json!({"wire": "drip", "body": "abc", "interval_ms": 1}))
        .await
        .expect("drops");
    assert!(drip.ends_with("\r\n\r\nabc"), "{drip}");
    let endless = with(json!({"wire": "endless"})).await.expect("a lot");
    assert!(endless.len() >= 1 << 20);
    let hang = tokio::time::timeout(Duration::from_millis(50), with(json!({"wire": "hang"}))).await;
    assert!(hang.is_err(), "{hang:?}");
    // None of these was processed.
    assert_eq!(handle.optimizely_summary("")["requests"]["taken"], 0);
    assert_eq!(handle.optimizely_summary("")["requests"]["faulted"], 8);
}

#[tokio::test]
async fn an_answer_may_be_lost_after_the_vendor_took_the_request() {
    let (addr, handle) = start().await;
    handle.set_faults(
        serde_json::from_value(
            json!({"rules": [{"times": 1, "action": {"wire": "reset", "process": true}}]}),
        )
        .expect("script"),
    );
    assert!(
        raw(addr, "POST", "/at/second/optimizely/v1/events", "{}")
            .await
            .is_err()
    );
    raw(addr, "POST", "/at/second/optimizely/v1/events", "{}")
        .await
        .expect("answer");
    assert_eq!(handle.optimizely_summary("second")["requests"]["taken"], 2);
    assert_eq!(handle.optimizely_summary("")["requests"]["taken"], 0);
    let log = handle.requests(0, "/at/second", 10);
    assert_eq!(log["data"][0]["status"], Value::Null);
    assert_eq!(log["data"][0]["fault"], 0);
    assert_eq!(log["data"][1]["status"], 204);
    assert_eq!(log["data"][1]["body"], "{}");
}

#[tokio::test]
async fn a_body_over_the_limit_gets_its_413() {
    let (addr, handle) = start().await;
    let fits = format!("\"{}\"", "x".repeat(optimizely::BODY_MAX - 2));
    let answer = raw(addr, "POST", EVENTS, &fits).await.expect("answer");
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    let answer = raw(addr, "POST", EVENTS, &format!("{fits} "))
        .await
        .expect("answer");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(handle.optimizely_summary("")["requests"]["too_large"], 1);
}

#[tokio::test]
async fn a_script_with_a_slip_is_refused_with_its_place() {
    let (addr, _handle) = start().await;
    for (script, word) in [
        (
            r#"{"rules":[{"action":{"status":"503"}}]}"#,
            "rules[0].action.status",
        ),
        (r#"[{"action":{"status":100}}]"#, "status"),
        (r#"[{"probability":1.5}]"#, "probability"),
        (r#"[{"action":{"headers":{"a b":"c"}}}]"#, "a b"),
    ] {
        let answer = raw(addr, "PUT", "/_sandbox/faults", script)
            .await
            .expect("answer");
        assert!(
            answer.starts_with("HTTP/1.1 400") && answer.contains(word),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn uuids_that_never_came_are_named() {
    let (addr, _handle) = start().await;
    let body = r#"{"visitors":[{"snapshots":[{"events":[{"uuid":"0c5d7f6e-2a41-5b7e-9d6a-000000000001"}]}]}]}"#;
    raw(addr, "POST", EVENTS, body).await.expect("answer");
    let asked = "0c5d7f6e-2a41-5b7e-9d6a-000000000001\n0c5d7f6e-2a41-5b7e-9d6a-000000000002\n";
    let answer = raw(addr, "POST", "/_sandbox/optimizely/missing", asked)
        .await
        .expect("answer");
    assert!(
        answer.ends_with(
            r#"{"asked":2,"missing":1,"sample":["0c5d7f6e-2a41-5b7e-9d6a-000000000002"]}"#
        ),
        "{answer}"
    );
}

#[tokio::test]
async fn vendors_are_played_by_label_and_controlled_over_http() {
    let client = testing::Client::start(&[("api-key", "k"), ("x-api-key", "k")]).await;
    let event = json!({"app_id": "1", "users": [{"identity": "u1", "properties": {"[Optimizely] a-b": "v1"}}]});
    let path = "/at/second/heap-us/api/add_user_properties";
    assert_eq!(client.post(path, event).await.status, 200);
    let values = client
        .get("/_sandbox/values/heap?at=second&user=u1&flag=a-b")
        .await;
    assert_eq!(values.json()["value"], "v1");
    assert_eq!(
        client.get("/_sandbox/values/heap").await.json(),
        json!({}),
        "the plain path is another account"
    );

    let clock = client
        .post("/_sandbox/clock", json!({"advance_ms": 90_000}))
        .await;
    assert_eq!(
        clock.json(),
        json!({"now_ms": testing::NOW + 90_000, "advanced_ms": 90_000})
    );
    let put = |path: &'static str, body: Value| {
        let body = body.to_string();
        let client = &client;
        async move { client.text("PUT", path, &body).await }
    };
    let config = put("/_sandbox/config", json!({"heap": {"booleans": "accept"}})).await;
    assert_eq!(config.json()["heap"]["booleans"], "accept");
    let slip = put("/_sandbox/config", json!({"heap": {"boolean": "accept"}})).await;
    assert!(
        slip.status == 400 && slip.body.contains("boolean"),
        "{}",
        slip.body
    );

    let seed = json!({"contacts": [{"ext_id": "u1", "attributes": {"OPT_A_B": "v9"}}], "attributes": [{"name": "OPT_A_B", "type": "text"}]});
    assert_eq!(put("/_sandbox/state/brevo", seed).await.status, 200);
    let value = client
        .get("/_sandbox/values/brevo?user=u1&flag=a-b")
        .await
        .json();
    assert_eq!(value["value"], "v9");
    let slip = put("/_sandbox/state/brevo", json!({"contacts": [{}]})).await;
    assert!(slip.body.contains("contacts[0]"), "{}", slip.body);
    assert_eq!(client.get("/_sandbox/state/acme").await.status, 404);

    assert_eq!(client.text("DELETE", "/_sandbox", "").await.status, 200);
    let state = client.get("/_sandbox/state/brevo").await.json();
    assert_eq!(state["counts"]["contacts"], 0);
}

#[tokio::test]
async fn faults_strike_every_vendor_and_are_no_breaches() {
    let client = testing::Client::start(&[("api-key", "k")]).await;
    let script = json!({"rules": [
        {"path": "/brevo", "times": 1, "action": {"status": 429, "headers": {"x-sib-ratelimit-reset": "7"}}},
        {"path": "/heap-us", "times": 1, "action": {"wire": "reset", "process": true}},
        {"path": "/odp", "times": 1, "action": {"wire": "close"}},
    ]});
    client
        .handle
        .set_faults(serde_json::from_value(script).expect("script"));
    let event = json!({"event_name": "e", "identifiers": {"ext_id": "u1"}});
    let struck = client.post("/brevo/v3/events", event.clone()).await;
    assert_eq!(
        (struck.status, struck.header("x-sib-ratelimit-reset")),
        (429, "7")
    );
    assert_eq!(client.post("/brevo/v3/events", event).await.status, 204);
    let heap =
        json!({"app_id": "1", "identity": "u1", "event": "e", "idempotency_key": "k"}).to_string();
    let path = "/heap-us/api/track";
    assert!(
        raw(client.addr, "POST", path, &heap).await.is_err(),
        "reset"
    );
    assert_eq!(client.text("POST", path, &heap).await.status, 200);
    let lost = raw(client.addr, "POST", "/odp/v3/events", "{}").await;
    assert_eq!(lost.expect("closed"), "");

    let counts = |vendor| client.handle.state(vendor, "", 10)["counts"].clone();
    assert_eq!(counts("brevo")["events"], 1);
    let heap = counts("heap");
    assert_eq!((&heap["events"], &heap["repeats"]), (&json!(1), &json!(1)));
    assert_eq!(counts("odp")["events"], 0);
    assert_eq!(client.handle.breaches(None)["total"], 0);
    let log = client.handle.requests(0, "/heap-us", 10);
    assert_eq!(log["data"][0]["fault"], 1);
    assert_eq!(log["data"][1]["rule"], "HE3");
}
