//! Flags decided by the gateway, from the datafile it reads itself to the impression the vendor sees.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::TestApp;

/// Asks until the datafile has been read; that it was not is said plainly until then.
async fn decide(app: &TestApp, body: &Value) -> Value {
    let began = Instant::now();
    loop {
        let (status, reply) = app.post("/v1/decide", body).await;
        if status == 200 {
            return reply;
        }
        assert_eq!((status, &reply["code"]), (503, &json!("no_datafile")));
        assert!(began.elapsed() < Duration::from_secs(20), "{reply}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_is_decided_recorded_and_reported_to_optimizely_once() {
    let app = TestApp::start().await;
    let body = json!({"userId": "u-1", "keys": "one_page_checkout", "messageId": "m-1"});
    let (status, early) = app.post("/v1/decide", &body).await;
    assert_eq!((status, &early["code"]), (503, &json!("no_datafile")));

    let id = app.install_optimizely("Optimizely", json!({})).await;
    let answer = decide(&app, &body).await;
    assert_eq!(answer["flagKey"], json!("one_page_checkout"));
    assert!(answer["variationKey"].is_string(), "{answer}");
    // The same call again: the same answer, and no second event.
    assert_eq!(decide(&app, &body).await, answer);
    // An SDK that decided and reported has sent its impression itself.
    let reported = json!({"type": "flag", "userId": "u-2", "attributes": {}, "decisionInfo": {
        "flagKey": "one_page_checkout", "enabled": true, "variationKey": "on", "ruleKey": "r",
        "variables": {}, "reasons": [], "decisionEventDispatched": true}});
    let (status, reply) = app.post("/v1/decision", &reported).await;
    assert_eq!(status, 200, "{reply}");

    let row = app.settled(&id).await;
    assert_eq!(row["delivered"], json!(1), "{row}");
    assert_eq!(
        row["skipped_reasons"],
        json!({"dispatched_by_sdk": 1}),
        "{row}"
    );
    let requests = app
        .sandbox("GET", "/_sandbox/requests?path=/optimizely/v1/events", None)
        .await;
    let text = requests.to_string();
    assert!(text.contains("campaign_activated"), "{text}");
    assert!(text.contains("one_page_checkout"), "{text}");

    // Without the integration nothing is decided any more.
    let (status, _) = app
        .admin("DELETE", &format!("integrations/{id}"), None)
        .await;
    assert!(status < 300);
    let began = Instant::now();
    while app.post("/v1/decide", &body).await.0 == 200 {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    app.stop().await;
}
