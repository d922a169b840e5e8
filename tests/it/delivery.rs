//! What a vendor sees, and how each event ends.

use serde_json::json;

use crate::support::TestApp;

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_a_conversion_worth_its_exact_cents() {
    let app = TestApp::start().await;
    let id = app.install_optimizely("Optimizely", json!({})).await;
    app.track(
        "Order Completed",
        "u-1",
        json!({"order_id": "ORD-5521", "total": 89.99, "currency": "GBP"}),
    )
    .await;
    app.track(
        "Order Completed",
        "u-2",
        json!({"total": "19.99", "currency": "GBP"}),
    )
    .await;
    let row = app.settled(&id).await;
    assert_eq!(row["delivered"], json!(2));
    let summary = app.optimizely().await;
    assert_eq!(
        summary["keys"]["purchase"]["counted"],
        json!(2),
        "{summary}"
    );
    assert_eq!(
        summary["keys"]["purchase"]["revenue"],
        json!(8999 + 1999),
        "{summary}"
    );
    assert_eq!(summary["would_not_count"], json!({}), "{summary}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poison_event_never_harms_its_batch() {
    let app = TestApp::start().await;
    app.sandbox("PUT", "/_sandbox/faults", Some(json!({"rules": [{"path": "/optimizely/v1/events", "contains": "poison-user", "action": {"status": 400, "body": "bad visitor"}}]}))).await;
    let id = app
        .install_optimizely("Optimizely", json!({"batch_wait_ms": 200}))
        .await;
    let batch: Vec<_> = (0..50).map(|i| json!({"type": "track", "event": "signup", "userId": if i == 17 { "poison-user".to_owned() } else { format!("u-{i}") }})).collect();
    let (status, _) = app.post("/v1/batch", &json!({"batch": batch})).await;
    assert_eq!(status, 200);
    let row = app.settled(&id).await;
    assert_eq!(
        (&row["delivered"], &row["dead"]),
        (&json!(49), &json!(1)),
        "{row}"
    );
    let (_, dead) = app.admin("GET", "dead-letters", None).await;
    assert_eq!(dead["data"][0]["status"], json!(400), "{dead}");
    assert!(
        dead["data"][0]["answer"]
            .as_str()
            .expect("answer")
            .contains("bad visitor"),
        "{dead}"
    );

    // The vendor is mended: the dead letter is replayed under the same identity.
    app.sandbox("DELETE", "/_sandbox/faults", None).await;
    let (_, dry) = app
        .admin(
            "POST",
            "dead-letters/replay",
            Some(json!({"integration": id, "dry_run": true})),
        )
        .await;
    assert_eq!(dry["matched"], json!(1), "{dry}");
    let (status, replay) = app
        .admin(
            "POST",
            "dead-letters/replay",
            Some(json!({"integration": id})),
        )
        .await;
    assert!(status == 200 || status == 202, "{replay}");
    let row = app
        .ledger_until(&id, |row| row["delivered"] == json!(50))
        .await;
    assert_eq!(row["dead"], json!(0), "{row}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_event_key_waits_for_the_datafile_and_is_then_delivered() {
    let app = TestApp::start().await;
    let id = app.install_optimizely("Optimizely", json!({})).await;
    app.track("Signup", "u-1", json!({})).await;
    app.ledger_until(&id, |row| row["pending"] == json!(1))
        .await;
    let mut datafile = app
        .sandbox("GET", "/optimizely/datafiles/demo.json", None)
        .await;
    datafile["events"]
        .as_array_mut()
        .expect("events")
        .push(json!({"id": "70001", "key": "Signup", "experimentIds": []}));
    datafile["revision"] = json!("1000");
    app.sandbox("PUT", "/_sandbox/optimizely/datafiles/demo", Some(datafile))
        .await;
    let (status, reply) = app
        .admin("POST", &format!("integrations/{id}/resume"), None)
        .await;
    assert!(status < 300, "{reply}");
    let row = app.settled(&id).await;
    assert_eq!(row["delivered"], json!(1), "{row}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_event_key_is_given_up_with_the_near_miss() {
    let app = TestApp::start().await;
    let id = app
        .install_optimizely("Optimizely", json!({"hold_s": 0}))
        .await;
    app.track("Signup", "u-1", json!({})).await;
    app.settled(&id).await;
    let (_, dead) = app.admin("GET", "dead-letters", None).await;
    assert_eq!(
        dead["data"][0]["reason"],
        json!("unknown_event_key"),
        "{dead}"
    );
    assert_eq!(
        dead["data"][0]["detail"],
        json!("no event key `Signup`; there is `signup` (capitals count)"),
        "{dead}"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_pauses_and_keeps_the_backlog() {
    let app = TestApp::start().await;
    app.sandbox(
        "PUT",
        "/_sandbox/faults",
        Some(json!({"rules": [{"path": "/optimizely/v1/events", "action": {"status": 403}}]})),
    )
    .await;
    let id = app.install_optimizely("Optimizely", json!({})).await;
    for i in 0..5 {
        app.track("signup", &format!("u-{i}"), json!({})).await;
    }
    let (mut status, began) = (json!(null), std::time::Instant::now());
    while status["state"] != json!("paused") && began.elapsed().as_secs() < 20 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        status = app
            .admin("GET", &format!("integrations/{id}"), None)
            .await
            .1["status"]
            .clone();
    }
    assert_eq!(status["state"], json!("paused"), "{status}");
    assert_eq!(app.ledger(&id).await["pending"], json!(5));
    app.sandbox("DELETE", "/_sandbox/faults", None).await;
    app.admin("POST", &format!("integrations/{id}/resume"), None)
        .await;
    assert_eq!(app.settled(&id).await["delivered"], json!(5));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_delays_and_loses_nothing() {
    let app = TestApp::start().await;
    app.sandbox("PUT", "/_sandbox/faults", Some(json!({"rules": [
        {"path": "/optimizely/v1/events", "times": 2, "action": {"status": 503}},
        {"path": "/optimizely/v1/events", "times": 2, "action": {"wire": "reset"}},
        {"path": "/optimizely/v1/events", "times": 1, "action": {"status": 429, "headers": {"retry-after": "0"}}},
    ]}))).await;
    let id = app.install_optimizely("Optimizely", json!({})).await;
    for i in 0..20 {
        app.track("signup", &format!("u-{i}"), json!({})).await;
    }
    assert_eq!(app.settled(&id).await["delivered"], json!(20));
    let summary = app.optimizely().await;
    assert_eq!(summary["unique_events"], json!(20), "{summary}");
    assert_eq!(summary["duplicates"]["differing"], json!(0), "{summary}");
    app.stop().await;
}
