//! Optimizely's Event API: `contracts` (optimizely) §A.5 as the gateway keeps it.

use serde_json::json;

use super::*;

const EVENTS: &str = "/optimizely/v1/events";

/// The visitors of a request.
fn visitors(request: &Value) -> Vec<String> {
    let body = body(request);
    let visitors = body["visitors"].as_array().expect("visitors");
    let id = |visitor: &Value| visitor["visitor_id"].as_str().expect("id").to_owned();
    visitors.iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_a_batch_goes_in_halves_and_what_is_too_large_alone_is_dead_and_says_so() {
    let fan = Fan::start().await;
    let id = fan
        .app
        .install_optimizely(
            "Optimizely",
            json!({"batch_wait_ms": 60_000, "batch_items": 8}),
        )
        .await;
    let too_large = json!({"status": 413, "body": "over the limit"});
    fan.faults(json!({"rules": [{"path": EVENTS, "contains": "\"heavy\"", "action": too_large}]}))
        .await;
    let people = ["u-0", "u-1", "u-2", "u-3", "u-4", "heavy", "u-6", "u-7"];
    let batch: Vec<Value> = people
        .iter()
        .map(|user| json!({"type": "track", "event": "signup", "userId": user, "messageId": format!("m-{user}")}))
        .collect();
    let (status, reply) = fan.app.post("/v1/batch", &json!({"batch": batch})).await;
    assert_eq!((status, &reply["accepted"]), (200, &json!(8)), "{reply}");
    let (delivered, skipped, dead) = ends(&fan, &id).await;
    assert_eq!((delivered, skipped), (json!(7), json!({})));
    assert_eq!(dead, [("too_large".to_owned(), 1)].into());
    let letter = letter(&fan, "m-heavy").await;
    assert_eq!(letter["status"], json!(413), "{letter}");
    let detail = letter["detail"].as_str().expect("detail");
    assert!(
        detail.contains("413") && detail.contains("over the limit"),
        "{letter}"
    );
    assert_eq!(
        fan.outcome("m-heavy", &id).await,
        ("dead".to_owned(), "too_large".to_owned())
    );
    // Halves, and no request more than that.
    let mut sizes: Vec<(usize, u64)> = fan
        .requests(EVENTS)
        .iter()
        .map(|request| {
            (
                visitors(request).len(),
                request["status"].as_u64().unwrap_or(0),
            )
        })
        .collect();
    sizes.sort_unstable();
    assert_eq!(
        sizes,
        [
            (1, 204),
            (1, 413),
            (2, 204),
            (2, 413),
            (4, 204),
            (4, 413),
            (8, 413)
        ]
    );
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_costs_a_retry_of_the_same_bytes_and_retry_after_is_kept() {
    let fan = Fan::start().await;
    let id = fan.app.install_optimizely("Optimizely", json!({})).await;
    let trouble = |(status, headers): (u16, Value)| json!({"path": EVENTS, "times": 1, "action": {"status": status, "headers": headers}});
    let rules: Vec<Value> = [
        (429, json!({"Retry-After": "20"})),
        (408, json!({})),
        (425, json!({})),
        (503, json!({})),
    ]
    .into_iter()
    .map(trouble)
    .collect();
    fan.faults(json!({ "rules": rules })).await;
    fan.app.track("signup", "u-0", json!({})).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(1));
    let requests = fan.requests(EVENTS);
    assert_eq!(answers(&requests), [429, 408, 425, 503, 204]);
    assert!(gaps(&requests)[0] >= 20_000, "{:?}", gaps(&requests));
    assert!(
        requests
            .iter()
            .all(|request| request["body"] == requests[0]["body"])
    );
    fan.stop().await;
}

/// The clock of this test runs very fast: only times between requests are looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_door_pauses_and_is_tried_once_a_minute_until_it_opens() {
    for (status, reason) in [(403, "forbidden"), (404, "not_found"), (302, "redirect")] {
        let fan = Fan::start_with(200).await;
        let id = fan.app.install_optimizely("Optimizely", json!({})).await;
        fault(
            &fan,
            EVENTS,
            3,
            json!({"status": status, "headers": {"Location": "/optimizely/v1/events"}}),
        )
        .await;
        fan.app.track("signup", "u-0", json!({})).await;
        let paused =
            |now: &Value| now["state"] == json!("paused") && now["reason"] == json!(reason);
        fan.status_until(&id, paused).await;
        assert_eq!(fan.app.settled(&id).await["delivered"], json!(1));
        let requests = fan.requests(EVENTS);
        assert_eq!(answers(&requests), [status, status, status, 204]);
        let gaps = gaps(&requests);
        assert!(gaps.iter().all(|gap| *gap >= 60_000), "{status}: {gaps:?}");
        fan.stop().await;
    }
}
