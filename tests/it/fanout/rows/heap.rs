//! Heap: `contracts` §3.5 as the gateway keeps it.

use serde_json::json;

use super::*;

const TRACK: &str = "/heap-us/api/track";

/// Flags `f-0` and so on, decided for one person.
fn many(fan: &Fan, user: &str, n: usize) -> Vec<Value> {
    let now_ms = fan.now_ms();
    (0..n)
        .map(|flag| {
            decision(
                &format!("{user}-{flag}"),
                user,
                &format!("f-{flag}"),
                "on",
                now_ms,
            )
        })
        .collect()
}

fn identities(request: &Value) -> Vec<String> {
    let body = body(request);
    let events = body["events"].as_array().expect("events");
    let name = |event: &Value| event["identity"].as_str().expect("identity").to_owned();
    events.iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_fills_a_refused_batch_waits_its_window_and_the_others_do_not() {
    let fan = Fan::start().await;
    let settings = json!({"batch_items": 40, "batch_wait_ms": 60_000});
    let id = fan.install("heap", json!({}), settings).await;
    let too_many = json!({"status": 429, "body": {}});
    fan.faults(
        json!({"rules": [{"path": TRACK, "contains": "\"bot\"", "times": 1, "action": too_many}]}),
    )
    .await;
    let mut decisions = many(&fan, "bot", 30);
    decisions.extend(one_each(&fan, &users("u", 10)));
    fan.post(&decisions).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(40));
    let requests = fan.requests(TRACK);
    let [first, rest, bot] = &requests[..] else {
        panic!("{} requests", requests.len());
    };
    assert_eq!(
        (identities(first).len(), &first["status"]),
        (40, &json!(429))
    );
    assert!(identities(rest).iter().all(|name| name.starts_with("u-")));
    assert_eq!(
        (identities(rest).len(), identities(bot)),
        (10, vec!["bot".to_owned(); 30])
    );
    assert!(at_ms(rest) < at_ms(bot), "the others go on");
    assert!(at_ms(bot) - at_ms(first) >= 30_000, "thirty seconds aside");
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_that_is_about_nobody_holds_all_and_too_large_a_request_goes_in_halves() {
    let fan = Fan::start().await;
    let people = users("u", 8);
    let settings = json!({"batch_items": 4, "batch_wait_ms": 60_000});
    let id = fan.install("heap", json!({}), settings).await;
    fault(&fan, TRACK, 1, json!({"status": 429, "body": {}})).await;
    fan.post(&one_each(&fan, &people[..4])).await;
    fan.app.settled(&id).await;
    let requests = fan.requests(TRACK);
    assert_eq!(answers(&requests), [429, 200]);
    assert!(gaps(&requests)[0] >= 30_000);
    fault(&fan, TRACK, 1, json!({"status": 413, "body": {}})).await;
    fan.post(&one_each(&fan, &people[4..])).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(8));
    let sizes: Vec<usize> = fan.requests(TRACK)[2..]
        .iter()
        .map(|request| identities(request).len())
        .collect();
    assert_eq!(sizes, [4, 2, 2]);
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_and_too_long_a_name_are_never_sent_and_a_closed_door_pauses() {
    let fan = Fan::start().await;
    let config = json!({"identity_from": "attributes.crm_id"});
    let id = fan
        .install("heap", config, json!({"batch_wait_ms": 100}))
        .await;
    let mut decisions = one_each(&fan, &users("u", 2));
    decisions[1]["attributes"]["crm_id"] = json!("x".repeat(256));
    fan.post(&decisions).await;
    let (_, skipped, _) = ends(&fan, &id).await;
    assert_eq!(skipped, json!({"invalid_identity": 2}));
    assert!(fan.requests("/heap-us").is_empty());
    for (n, (status, reason)) in [
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not_found"),
        (405, "not_found"),
    ]
    .into_iter()
    .enumerate()
    {
        fault(&fan, "/heap-us", 1_000, json!({"status": status})).await;
        let user = format!("door-{n}");
        let mut one = one_each(&fan, std::slice::from_ref(&user));
        one[0]["attributes"]["crm_id"] = json!(user);
        fan.post(&one).await;
        let paused = |now: &Value| now["reason"] == json!(reason);
        fan.status_until(&id, paused).await;
        assert_eq!(fan.app.ledger(&id).await["pending"], json!(1), "{status}");
        fan.app.sandbox("DELETE", "/_sandbox/faults", None).await;
        fan.resume(&id).await;
        fan.app.settled(&id).await;
        fan.status_until(&id, |now| now["state"] == json!("running"))
            .await;
    }
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(4));
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_heap_would_refuse_is_left_out_and_the_longest_it_takes_is_sent() {
    let fan = Fan::start().await;
    let config = fan.entered("heap", &json!({}));
    let quick = json!({"batch_wait_ms": 100});
    let reply = fan.app.install("heap", "default", config, quick).await;
    let id = reply["id"].as_str().expect("id").to_owned();
    // Characters, not bytes.
    let longest = "ż".repeat(1_023);
    fan.app.track(&longest, "u-0", json!({})).await;
    let too_long = fan.app.track(&"ż".repeat(1_024), "u-0", json!({})).await;
    let (delivered, skipped, dead) = ends(&fan, &id).await;
    assert_eq!(
        (delivered, skipped),
        (json!(1), json!({"invalid_event": 1}))
    );
    assert!(dead.is_empty());
    assert_eq!(
        fan.outcome(&too_long, &id).await,
        ("skipped".to_owned(), "invalid_event".to_owned())
    );
    assert_eq!(fan.state("heap")["events_by_name"], json!({longest: 1}));
    fan.stop().await;
}
