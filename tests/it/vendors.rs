//! One decision, several vendors: what is filled in from the datafile, what each is sent, and how it can be read later.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::decisions::fixture;
use crate::support::TestApp;

/// The story of the only event with this id, once it holds `attempts` attempts of one integration: the log of
/// attempts is written a moment after the outcome.
async fn chapter(
    app: &TestApp,
    message_id: &str,
    integration: &str,
    attempts: usize,
) -> (Value, Value) {
    let began = Instant::now();
    loop {
        let (status, story) = app
            .admin("GET", &format!("events/{message_id}"), None)
            .await;
        assert_eq!(status, 200, "{story}");
        let event = &story["events"][0];
        let chapter = event["integrations"]
            .as_array()
            .expect("integrations")
            .iter()
            .find(|chapter| chapter["integration"] == json!(integration))
            .cloned()
            .expect("a chapter");
        let made = chapter["attempts"].as_array().expect("attempts").len();
        // What a vendor took is settled a moment later.
        if made >= attempts && chapter["outcome"] != json!("pending") {
            return (event["event"].clone(), chapter);
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{chapter}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Posts a decision the gateway makes itself until the datafile is there to make it from.
async fn datafile_read(app: &TestApp) {
    let began = Instant::now();
    let asked = json!({"userId": "u-0", "keys": ["checkout_redesign"], "messageId": "first"});
    while app.post("/v1/decide", &asked).await.0 != 200 {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reported_decision_is_completed_from_the_datafile_and_its_story_names_requests_and_replies()
 {
    let app = TestApp::start().await;
    let text = std::fs::read_to_string(fixture("datafiles/golden_v4.json")).expect("a datafile");
    let datafile = serde_json::from_str(&text).expect("JSON");
    app.sandbox("PUT", "/_sandbox/optimizely/datafiles/demo", Some(datafile))
        .await;
    let optimizely = app.install_optimizely("Optimizely", json!({})).await;
    let heap = json!({"name": "Heap", "variant": "decisions", "delivery_mode": "server_side",
        "config": {"app_id": "11", "base_url": format!("http://{}/heap-us", app.sandbox)},
        "settings": {"batch_wait_ms": 20}});
    let (status, reply) = app
        .admin("POST", "integration-catalog/heap/install", Some(heap))
        .await;
    assert_eq!(status, 201, "{reply}");
    let heap = reply["id"].as_str().expect("id").to_owned();
    datafile_read(&app).await;

    // What JavaScript SDK 5.4.1 gave its listener; it tells no ids.
    let captured = std::fs::read_to_string(fixture("javascript-sdk-5.4.1/main.notifications.json"))
        .expect("captured");
    let captured: Value = serde_json::from_str(&captured).expect("JSON");
    let mut notification = captured[0]["payload"].clone();
    assert!(notification["decisionInfo"].get("experimentId").is_none());
    notification["messageId"] = json!("js-5");
    let (status, reply) = app.post("/v1/decision", &notification).await;
    assert_eq!((status, &reply["accepted"]), (200, &json!(1)), "{reply}");

    let (event, told) = chapter(&app, "js-5", &heap, 2).await;
    let decision = &event["decision"];
    for (field, value) in [
        ("ruleKind", "experiment"),
        ("experimentKey", "checkout_redesign_ab"),
        ("experimentId", "20001"),
        ("variationId", "40001"),
        ("layerId", "30001"),
        ("revision", "42"),
        ("origin", "sdk"),
    ] {
        assert_eq!(decision[field], json!(value), "{field} of {decision}");
    }
    assert_eq!(told["outcome"], json!("delivered"), "{told}");
    let mut requests: Vec<(&str, &str)> = Vec::new();
    for own in told["attempts"].as_array().expect("attempts") {
        let attempt = &own["attempt"];
        assert_eq!(
            (
                &attempt["status"],
                &attempt["verdict"],
                &attempt["response_body"]
            ),
            (&json!(200), &json!("delivered"), &json!({})),
            "{own}"
        );
        // Heap is told no id of the event with a user's property; its part is found all the same.
        assert_eq!(own["item"]["identity"], json!("user_1"), "{own}");
        let url = attempt["url"].as_str().expect("url");
        requests.push((
            attempt["request"].as_str().expect("request"),
            url.rsplit('/').next().unwrap_or_default(),
        ));
    }
    requests.sort_unstable();
    assert_eq!(
        requests,
        [("event", "track"), ("user", "add_user_properties")]
    );

    // The SDK has reported it to Optimizely itself; told again, Heap knows it already.
    let (_, told) = chapter(&app, "js-5", &optimizely, 0).await;
    assert_eq!(
        (&told["outcome"], &told["reason"]),
        (&json!("skipped"), &json!("dispatched_by_sdk"))
    );
    notification["messageId"] = json!("js-5-again");
    app.post("/v1/decision", &notification).await;
    let began = Instant::now();
    loop {
        let (_, told) = chapter(&app, "js-5-again", &heap, 0).await;
        if told["reason"] == json!("unchanged") {
            assert_eq!(told["outcome"], json!("skipped"));
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    app.stop().await;
}

/// Its exit code is 0 only when the books balance and every vendor has the decision.
#[test]
fn the_demo_takes_a_decision_to_every_vendor() {
    let output = Command::new(env!("CARGO_BIN_EXE_aqueduct"))
        .args(["demo", "--exit"])
        .env_clear()
        .envs(
            ["INGEST", "ADMIN", "METRICS"]
                .map(|listener| (format!("AQUEDUCT_{listener}_LISTEN"), "127.0.0.1:0")),
        )
        .env("AQUEDUCT_FREE_BYTES_MIN", "1000000")
        .output()
        .expect("the demo runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    for text in [
        "limits of a vendor broken: 0",
        "POST /optimizely/v1/events -> 204 delivered",
        "POST /brevo/v3/events/batch -> 202 delivered",
        "POST /heap-us/api/add_user_properties -> 200 delivered",
        "POST /odp/v3/events -> 202 delivered",
        "POST /pendo-data/data/track -> 200 delivered",
        "there is `signup`",
        "the books balance",
    ] {
        assert!(said.contains(text), "{text} is not in {said}");
    }
}
