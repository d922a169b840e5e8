//! As few requests as each vendor takes, and never more than it allows.

use serde_json::json;

use super::*;

/// Contract, test 1.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_decisions_make_as_few_requests_as_each_vendor_takes() {
    let fan = Fan::start().await;
    fan.policies(json!({"pendo": {"visitor_interval_ms": 1000, "requests_per_s": 20}}));
    let people = users("u", 1_000);
    fan.prepare(&people, &["checkout"]);
    // Full batches go at once; the wait is only for what fills none, and posting takes its time here.
    let patient = json!({"batch_wait_ms": 60_000});
    let mut ids = Vec::new();
    for vendor in ["brevo", "heap", "pendo"] {
        ids.push(fan.install(vendor, json!({}), patient.clone()).await);
    }
    let now_ms = fan.now_ms();
    let decisions: Vec<Value> = people
        .iter()
        .map(|user| decision(&format!("m-{user}"), user, "checkout", "on", now_ms))
        .collect();
    fan.post(&decisions).await;
    for id in &ids {
        assert_eq!(fan.app.settled(id).await["delivered"], json!(1_000));
    }
    for (path, most) in [
        ("/brevo/v3/events/batch", 5),
        ("/heap-us/api/track", 2),
        ("/heap-us/api/add_user_properties", 2),
        ("/pendo-app/api/v1/metadata/visitor", 2),
    ] {
        let requests = fan.requests(path);
        let posted: Vec<Value> = requests
            .into_iter()
            .filter(|request| request["method"] == json!("POST"))
            .collect();
        assert!(
            (1..=most).contains(&posted.len()),
            "{path}: {}",
            posted.len()
        );
        assert!(!statuses(&posted).contains_key(&429), "{path}");
    }
    assert!(fan.requests("/brevo/v3/events?").is_empty());
    assert_eq!(fan.requests("/pendo-data/data/track").len(), 1_000);
    for vendor in ["brevo", "heap", "pendo"] {
        for user in &people {
            assert_eq!(
                fan.value(vendor, user, "checkout"),
                json!("on"),
                "{vendor} {user}"
            );
        }
    }
    fan.stop().await;
}

/// Contract, test 4.
#[tokio::test(flavor = "multi_thread")]
async fn a_429_of_brevo_closes_that_bucket_as_long_as_it_says_and_no_other() {
    let fan = Fan::start_with(4).await;
    let people = users("u", 60);
    fan.prepare(&people, &["checkout"]);
    fan.faults(json!({"rules": [{"path": "/brevo/v3/events/batch", "times": 1, "action": {
        "status": 429, "body": {}, "headers": {"x-sib-ratelimit-limit": "100", "x-sib-ratelimit-remaining": "0",
        "x-sib-ratelimit-reset": "7"}}}]}))
        .await;
    let settings = json!({"batch_items": 10, "batch_wait_ms": 100});
    let id = fan
        .install("brevo", json!({"create_contacts": true}), settings)
        .await;
    let now_ms = fan.now_ms();
    let decisions: Vec<Value> = people
        .iter()
        .map(|user| decision(&format!("m-{user}"), user, "checkout", "on", now_ms))
        .collect();
    fan.post(&decisions).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(60));
    let batches = fan.requests("/brevo/v3/events/batch");
    assert_eq!(batches[0]["status"], json!(429));
    let refused_ms = at_ms(&batches[0]);
    // Those already on their way when the answer came are not to blame.
    let closed = refused_ms + 1_000..refused_ms + 7_000;
    let late: Vec<_> = batches
        .iter()
        .map(|request| at_ms(request) - refused_ms)
        .filter(|after_ms| closed.contains(&(refused_ms + after_ms)))
        .collect();
    assert!(
        late.is_empty(),
        "batches within the seven seconds: {late:?}"
    );
    let meanwhile = ["/brevo/v3/contacts", "/brevo/v3/events"]
        .iter()
        .flat_map(|path| fan.requests(path))
        .filter(|request| request["path"] != batches[0]["path"])
        .filter(|request| closed.contains(&at_ms(request)))
        .count();
    assert!(meanwhile > 0, "other buckets kept flowing");
    fan.stop().await;
}

/// Contract, test 7.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_for_pendo_is_never_sent_there_and_counts_elsewhere() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 1), &["checkout"]);
    let brevo = fan.install("brevo", json!({}), json!({})).await;
    let heap = fan.install("heap", json!({}), json!({})).await;
    let pendo = fan
        .install("pendo", json!({"integration_key": null}), json!({}))
        .await;
    let old_ms = fan.now_ms() - 8 * 24 * 3_600_000;
    fan.post(&[decision("old", "u-0", "checkout", "on", old_ms)])
        .await;
    for id in [&brevo, &heap, &pendo] {
        fan.app.settled(id).await;
    }
    assert!(fan.requests("/pendo-data").is_empty());
    assert_eq!(
        fan.outcome("old", &pendo).await,
        ("skipped".to_owned(), "stale".to_owned())
    );
    for id in [&brevo, &heap] {
        assert_eq!(fan.outcome("old", id).await.0, "delivered");
    }
    assert_eq!(
        fan.state("heap")["events_by_name"],
        json!({"Experiment Viewed": 1})
    );
    assert_eq!(
        fan.state("brevo")["events_by_name"],
        json!({"experiment_viewed": 1})
    );
    fan.stop().await;
}
