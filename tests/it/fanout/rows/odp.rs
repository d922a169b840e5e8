//! ODP: `contracts` (sync) §3.3 as the gateway keeps it.

use serde_json::json;

use super::*;

const EVENTS: &str = "/odp/v3/events";

fn sent(request: &Value) -> Vec<String> {
    let body = body(request);
    let events = body.as_array().expect("an array");
    let who = |event: &Value| {
        event["identifiers"]["fs_user_id"]
            .as_str()
            .expect("id")
            .to_owned()
    };
    events.iter().map(who).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_invalid_die_by_their_number_and_without_one_are_searched_for() {
    let fan = Fan::start().await;
    let people = users("u", 8);
    let id = fan
        .install("odp", json!({}), json!({"batch_wait_ms": 2_000}))
        .await;
    let body = json!({"title": "Bad Request", "status": 400, "detail": {"invalids": [
        {"event": 2, "message": "missing 'action' field"}, {"event": 5, "message": "no"}]}});
    fault(&fan, EVENTS, 1, json!({"status": 400, "body": body})).await;
    fan.post(&one_each(&fan, &people)).await;
    let (delivered, _, dead) = ends(&fan, &id).await;
    assert_eq!(
        (delivered, dead),
        (json!(6), [("invalid".to_owned(), 2)].into())
    );
    let requests = fan.requests(EVENTS);
    let (first, rest) = (sent(&requests[0]), sent(&requests[1]));
    let left: Vec<&String> = first
        .iter()
        .enumerate()
        .filter(|(at, _)| ![2, 5].contains(at))
        .map(|(_, who)| who)
        .collect();
    assert_eq!(rest.iter().collect::<Vec<_>>(), left);
    // The same events, under the same ids.
    let ids = |request: &Value| -> BTreeMap<String, Value> {
        let events = super::super::body(request);
        let events = events.as_array().cloned().unwrap_or_default();
        let of = |event: Value| {
            let who = event["identifiers"]["fs_user_id"]
                .as_str()
                .expect("id")
                .to_owned();
            (who, event["data"]["idempotence_id"].clone())
        };
        events.into_iter().map(of).collect()
    };
    let before = ids(&requests[0]);
    assert!(
        ids(&requests[1])
            .iter()
            .all(|(who, id)| id.is_string() && before[who] == *id)
    );

    let refused = json!({"status": 400, "body": {"title": "Bad Request", "status": 400}});
    fan.faults(json!({"rules": [{"path": EVENTS, "contains": "\"poison\"", "action": refused}]}))
        .await;
    let mut people = users("v", 7);
    people.insert(3, "poison".to_owned());
    fan.post(&one_each(&fan, &people)).await;
    let (delivered, _, dead) = ends(&fan, &id).await;
    assert_eq!((delivered, dead.values().sum()), (json!(13), 3));
    assert_eq!(fan.outcome("m-poison", &id).await.0, "dead");
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_pauses_with_every_cause_and_trouble_of_the_vendor_is_waited_out() {
    let fan = Fan::start().await;
    let id = fan
        .install(
            "odp",
            json!({}),
            json!({"batch_wait_ms": 100, "retry_base_ms": 500}),
        )
        .await;
    fan.policies(json!({"odp": {"public_keys": ["another"], "private_keys": ["another.secret"]}}));
    fan.post(&one_each(&fan, &users("u", 1))).await;
    let status = fan
        .status_until(&id, |now| now["reason"] == json!("forbidden"))
        .await;
    let detail = status["detail"].as_str().expect("detail");
    for cause in ["revoked", "region", "Consent"] {
        assert!(detail.contains(cause), "{detail}");
    }
    fan.policies(json!({"odp": {"public_keys": [], "private_keys": []}}));
    let rules: Vec<Value> = [429, 502, 503, 504]
        .iter()
        .map(|status| json!({"path": EVENTS, "times": 1, "action": {"status": status}}))
        .collect();
    fan.faults(json!({ "rules": rules })).await;
    fan.resume(&id).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(1));
    let seen = answers(&fan.requests(EVENTS));
    assert!(seen.ends_with(&[429, 502, 503, 504, 202]), "{seen:?}");
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_odp_pauses_and_too_large_a_request_goes_in_halves() {
    let fan = Fan::start().await;
    let id = fan
        .install("odp", json!({}), json!({"batch_wait_ms": 2_000}))
        .await;
    let body = json!({"title": "Not Found", "status": 404, "detail": {"message": "no such path"}});
    let status = pauses_and_goes_on(
        &fan,
        &id,
        EVENTS,
        json!({"status": 404, "body": body}),
        "not_found",
        &one_each(&fan, &users("u", 3)),
    )
    .await;
    let detail = status["detail"].as_str().expect("detail");
    assert!(
        detail.contains("base_url") || detail.contains("region"),
        "{status}"
    );

    forget_requests(&fan).await;
    let too_large = json!({"status": 413, "body": {"title": "Payload Too Large", "status": 413}});
    fault(&fan, EVENTS, 1, too_large).await;
    fan.post(&one_each(&fan, &users("v", 5))).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(8));
    let sizes: Vec<usize> = fan
        .requests(EVENTS)
        .iter()
        .map(|request| sent(request).len())
        .collect();
    assert_eq!(sizes, [5, 3, 2]);
    fan.stop().await;
}
