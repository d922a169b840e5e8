//! Brevo: codes and statuses of a refusal, and what is known of each afterwards.

use serde_json::json;

use super::*;

const BATCH: &str = "/brevo/v3/events/batch";

fn quick() -> Value {
    json!({"batch_wait_ms": 300})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_of_a_400_is_what_its_event_dies_of_and_the_rest_of_the_batch_is_delivered() {
    let fan = Fan::start().await;
    // Brevo's list is open: what nobody has heard of has one name for all.
    let codes = [
        ("invalid_parameter", "invalid_parameter"),
        ("missing_parameter", "missing_parameter"),
        ("out_of_range", "out_of_range"),
        ("duplicate_parameter", "duplicate_parameter"),
        ("bad_request", "bad_request"),
        ("document_not_found", "refused"),
        ("method_not_allowed", "refused"),
        ("unprocessable_entity", "refused"),
    ];
    let mut people = users("u", 3);
    people.extend(codes.iter().map(|(code, _)| (*code).to_owned()));
    fan.prepare(&people, &["checkout"]);
    let id = fan
        .install("brevo", json!({}), json!({"batch_wait_ms": 2_000}))
        .await;
    let rules: Vec<Value> = codes
        .iter()
        .map(|(code, _)| {
            let body = json!({"code": code, "message": format!("said of {code}")});
            json!({"path": BATCH, "contains": format!("\"{code}\""), "action": {"status": 400, "body": body}})
        })
        .collect();
    fan.faults(json!({ "rules": rules })).await;
    fan.post(&one_each(&fan, &people)).await;
    let (delivered, skipped, dead) = ends(&fan, &id).await;
    assert_eq!((delivered, skipped), (json!(3), json!({})));
    let mut expected = BTreeMap::new();
    for (code, reason) in codes {
        *expected.entry(reason.to_owned()).or_default() += 1;
        let letter = letter(&fan, &format!("m-{code}")).await;
        assert_eq!(
            (&letter["reason"], &letter["status"]),
            (&json!(reason), &json!(400))
        );
        let detail = letter["detail"].as_str().expect("detail");
        assert!(detail.contains(&format!("said of {code}")), "{letter}");
        let told = fan.outcome(&format!("m-{code}"), &id).await;
        assert_eq!(told, ("dead".to_owned(), reason.to_owned()));
    }
    assert_eq!(dead, expected);
    for user in users("u", 3) {
        assert_eq!(fan.value("brevo", &user, "checkout"), json!("on"));
    }
    // Eight bad ones of eleven are their own fault, not the door's.
    assert_eq!(fan.status(&id).await["state"], json!("running"));
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_brevo_cannot_take_at_all_is_dead_with_its_status_and_nothing_pauses() {
    let fan = Fan::start().await;
    let statuses = [405_u16, 406, 415, 422];
    let people = users("u", statuses.len());
    fan.prepare(&people, &["checkout"]);
    let id = fan.install("brevo", json!({}), quick()).await;
    forget_requests(&fan).await;
    for (status, user) in statuses.into_iter().zip(&people) {
        let body = json!({"code": "not_acceptable", "message": format!("no to {status}")});
        fault(&fan, BATCH, 1, json!({"status": status, "body": body})).await;
        fan.post(&one_each(&fan, std::slice::from_ref(user))).await;
        fan.app.settled(&id).await;
        let letter = letter(&fan, &format!("m-{user}")).await;
        assert_eq!(
            (&letter["reason"], &letter["status"]),
            (&json!("rejected"), &json!(status))
        );
        let detail = letter["detail"].as_str().expect("detail");
        assert!(detail.contains(&format!("no to {status}")), "{letter}");
        let told = fan.outcome(&format!("m-{user}"), &id).await;
        assert_eq!(told, ("dead".to_owned(), "rejected".to_owned()));
        assert_eq!(fan.status(&id).await["state"], json!("running"));
    }
    assert_eq!(answers(&fan.requests(BATCH)), [405, 406, 415, 422]);
    let (delivered, _, dead) = ends(&fan, &id).await;
    assert_eq!(
        (delivered, dead),
        (json!(0), [("rejected".to_owned(), 4)].into())
    );
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_may_not_pauses_with_brevos_code_and_loses_nothing() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 2), &["checkout"]);
    let id = fan.install("brevo", json!({}), quick()).await;
    for (code, user) in ["permission_denied", "account_under_validation"]
        .into_iter()
        .zip(users("u", 2))
    {
        let body = json!({"code": code, "message": "not now"});
        let action = json!({"status": 403, "body": body});
        let events = one_each(&fan, &[user]);
        let status = pauses_and_goes_on(&fan, &id, BATCH, action, "forbidden", &events).await;
        let detail = status["detail"].as_str().expect("detail");
        assert!(
            detail.contains(code) && detail.contains("not now"),
            "{status}"
        );
    }
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_in_front_of_brevo_that_gives_up_costs_a_retry_of_the_same_bytes() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 1), &["checkout"]);
    let id = fan.install("brevo", json!({}), quick()).await;
    forget_requests(&fan).await;
    let timed_out = json!({"status": 524, "body": "error code: 524"});
    fault(&fan, BATCH, 2, timed_out).await;
    fan.post(&one_each(&fan, &users("u", 1))).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(1));
    let requests = fan.requests(BATCH);
    assert_eq!(answers(&requests), [524, 524, 202]);
    assert!(
        requests
            .iter()
            .all(|request| request["body"] == requests[0]["body"])
    );
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_which_brevo_queued_nothing_is_dead_and_can_be_replayed() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 1), &["checkout"]);
    let id = fan.install("brevo", json!({}), quick()).await;
    let none = json!({"status": 202, "body": {"message": "Batch accepted.", "count": 0}});
    fault(&fan, BATCH, 1, none).await;
    fan.post(&one_each(&fan, &users("u", 1))).await;
    let (_, _, dead) = ends(&fan, &id).await;
    assert_eq!(dead, [("not_queued".to_owned(), 1)].into());
    let letter = letter(&fan, "m-u-0").await;
    assert!(
        letter["detail"].to_string().contains("queued none"),
        "{letter}"
    );
    let replay = Some(json!({"integration": id}));
    let (status, reply) = fan.app.admin("POST", "dead-letters/replay", replay).await;
    assert!(status < 300, "{reply}");
    fan.app
        .ledger_until(&id, |row| row["delivered"] == json!(1))
        .await;
    assert_eq!(fan.value("brevo", "u-0", "checkout"), json!("on"));
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_that_says_nothing_is_a_minute_of_rest_for_its_bucket() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 1), &["checkout"]);
    let config = json!({"events_mode": "batch"});
    let id = fan.install("brevo", config, quick()).await;
    forget_requests(&fan).await;
    fault(&fan, BATCH, 1, json!({"status": 429, "body": {}})).await;
    fan.post(&one_each(&fan, &users("u", 1))).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(1));
    let requests = fan.requests(BATCH);
    assert_eq!(answers(&requests), [429, 202]);
    assert!(gaps(&requests)[0] >= 60_000, "{:?}", gaps(&requests));
    fan.stop().await;
}

/// Brevo takes 512 KB; more is a breach, which the sandbox counts.
#[tokio::test(flavor = "multi_thread")]
async fn large_events_make_smaller_batches_before_brevo_has_to_say_so() {
    let fan = Fan::start().await;
    let config = fan.entered("brevo", &json!({"per_flag_attributes": null}));
    let settings = json!({"batch_wait_ms": 2_000});
    let reply = fan.app.install("brevo", "default", config, settings).await;
    let id = reply["id"].as_str().expect("id").to_owned();
    forget_requests(&fan).await;
    for n in 0..40 {
        let large = json!({"text": "x".repeat(20_000)});
        fan.app.track("opened", &format!("u-{n}"), large).await;
    }
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(40));
    let requests = fan.requests(BATCH);
    assert!(answers(&requests).iter().all(|status| *status == 202));
    assert!((2..=40).contains(&requests.len()), "{}", requests.len());
    fan.stop().await;
}
