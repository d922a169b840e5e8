//! Pendo: `contracts` §4.7 as the gateway keeps it.

use serde_json::json;

use super::*;

const TRACK: &str = "/pendo-data/data/track";
const VISITORS: &str = "/pendo-app/api/v1/metadata/visitor";
const SCHEMA: &str = "/pendo-app/api/v1/metadata/schema";

/// Without Track Events.
fn fields_only() -> Value {
    json!({"track_secret": null})
}

/// Without fields.
fn events_only() -> Value {
    json!({"integration_key": null})
}

fn quick() -> Value {
    json!({"batch_wait_ms": 300})
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_nobody_made_are_left_out_and_named_and_the_others_are_written() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 3), &["checkout"]);
    let id = fan
        .install("pendo", fields_only(), json!({"batch_wait_ms": 2_000}))
        .await;
    forget_requests(&fan).await;
    let now_ms = fan.now_ms();
    fan.post(&[
        decision("m-0", "u-0", "checkout", "on", now_ms),
        decision("m-1", "u-1", "checkout", "on", now_ms),
        decision("m-2", "u-1", "banner", "on", now_ms),
        decision("m-3", "u-2", "banner", "on", now_ms),
    ])
    .await;
    let (delivered, skipped, dead) = ends(&fan, &id).await;
    assert_eq!(
        (delivered, skipped),
        (json!(2), json!({"metadata_field_missing": 2}))
    );
    assert!(dead.is_empty());
    for user in ["u-0", "u-1"] {
        assert_eq!(fan.value("pendo", user, "checkout"), json!("on"));
    }
    assert_eq!(fan.outcome("m-3", &id).await.1, "metadata_field_missing");
    assert!(fan.requests(VISITORS).len() <= 2, "refused once at most");
    let asked = fan.requests(SCHEMA).len();
    assert!((1..=2).contains(&asked), "{asked}");
    let named = |status: &Value| {
        request_of(status, "visitor")["detail"]
            .to_string()
            .contains("optimizely_banner")
    };
    fan.status_until(&id, named).await;
    // Known now: nothing is sent of it, and Pendo is not asked again for it.
    fan.post(&[decision("m-4", "u-0", "banner", "on", now_ms + 1)])
        .await;
    fan.app.settled(&id).await;
    assert!(fan.requests(VISITORS).len() <= 2 && fan.requests(SCHEMA).len() == asked);
    // Somebody makes the field, and says so.
    fan.seed(
        "pendo",
        json!({"visitor_fields": {"optimizely_banner": "text"}}),
    );
    fan.resume(&id).await;
    fan.post(&[decision("m-5", "u-0", "banner", "on", now_ms + 2)])
        .await;
    fan.app.settled(&id).await;
    assert_eq!(fan.value("pendo", "u-0", "banner"), json!("on"));
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_fails_unnamed_is_found_and_dies_alone() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 6), &["checkout"]);
    fan.seed(
        "pendo",
        json!({"visitor_fields": {"optimizely_nav": "boolean"}}),
    );
    let id = fan
        .install("pendo", fields_only(), json!({"batch_wait_ms": 2_000}))
        .await;
    let mut decisions = one_each(&fan, &users("u", 5));
    decisions.push(decision("odd", "u-5", "nav", "on", fan.now_ms()));
    fan.post(&decisions).await;
    let (delivered, _, dead) = ends(&fan, &id).await;
    assert_eq!((delivered, dead.values().sum()), (json!(5), 1));
    assert_eq!(fan.outcome("odd", &id).await.0, "dead");
    for user in users("u", 5) {
        assert_eq!(fan.value("pendo", &user, "checkout"), json!("on"), "{user}");
    }
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_takes_too_long_is_halved_and_nobody_is_lost() {
    let fan = Fan::start().await;
    let people = users("u", 9);
    fan.prepare(&people, &["checkout"]);
    let id = fan
        .install("pendo", fields_only(), json!({"batch_wait_ms": 2_000}))
        .await;
    fan.policies(json!({"pendo": {"max_records": 3}}));
    fan.post(&one_each(&fan, &people)).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(9));
    for user in &people {
        assert_eq!(fan.value("pendo", user, "checkout"), json!("on"), "{user}");
    }
    // Above the limit on purpose.
    fan.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opted_out_is_left_alone_and_nobody_else() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 3), &["checkout"]);
    let id = fan.install("pendo", events_only(), quick()).await;
    fan.faults(
        json!({"rules": [{"path": TRACK, "contains": "\"u-1\"", "action": {"status": 451}}]}),
    )
    .await;
    fan.post(&one_each(&fan, &users("u", 3))).await;
    fan.app.settled(&id).await;
    fan.post(&[decision("again", "u-1", "banner", "on", fan.now_ms())])
        .await;
    let (delivered, skipped, _) = ends(&fan, &id).await;
    assert_eq!((delivered, skipped), (json!(2), json!({"opted_out": 2})));
    assert_eq!(
        fan.outcome("again", &id).await,
        ("skipped".to_owned(), "opted_out".to_owned())
    );
    let asked = fan.requests(TRACK);
    assert_eq!(
        answers(&asked)
            .iter()
            .filter(|status| **status == 451)
            .count(),
        1
    );
    assert_eq!(asked.len(), 3);
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_one_whether_pendo_says_429_or_403_and_no_pause() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 2), &["checkout"]);
    let id = fan.install("pendo", events_only(), quick()).await;
    let body = json!({"error": {"reason": "rateLimitExceeded"}});
    for (at, action) in [json!({"status": 403, "body": body}), json!({"status": 429})]
        .into_iter()
        .enumerate()
    {
        fault(&fan, TRACK, 1, action).await;
        let before = fan.requests(TRACK).len();
        fan.post(&one_each(&fan, &[format!("u-{at}")])).await;
        fan.app.settled(&id).await;
        let requests = &fan.requests(TRACK)[before..];
        assert_eq!(requests.len(), 2);
        assert!(gaps(requests)[0] >= 30_000, "{:?}", gaps(requests));
    }
    assert_eq!(fan.app.ledger(&id).await["delivered"], json!(2));
    // Refused for good is a different thing, and so is an event Pendo will not have.
    fault(&fan, TRACK, 1, json!({"status": 400})).await;
    fan.post(&[decision("bad", "u-0", "banner", "on", fan.now_ms())])
        .await;
    let (_, _, dead) = ends(&fan, &id).await;
    assert_eq!(dead, [("invalid_event".to_owned(), 1)].into());
    fault(&fan, TRACK, 1, json!({"status": 404})).await;
    fan.post(&[decision("late", "u-1", "banner", "on", fan.now_ms())])
        .await;
    fan.status_until(&id, |now| now["reason"] == json!("not_found"))
        .await;
    fan.resume(&id).await;
    fan.app.settled(&id).await;
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_a_day_late_waits_for_somebody_to_replay_it() {
    let fan = Fan::start().await;
    let id = fan.install("pendo", events_only(), quick()).await;
    let late_ms = fan.now_ms() - 25 * 3_600_000;
    fan.post(&[decision("late", "u-0", "checkout", "on", late_ms)])
        .await;
    let (_, _, dead) = ends(&fan, &id).await;
    assert_eq!(dead, [("too_late".to_owned(), 1)].into());
    assert!(fan.requests(TRACK).is_empty());
    let replay = Some(json!({"integration": id}));
    let (status, reply) = fan.app.admin("POST", "dead-letters/replay", replay).await;
    assert!(status < 300, "{reply}");
    fan.app
        .ledger_until(&id, |row| row["delivered"] == json!(1))
        .await;
    assert_eq!(fan.requests(TRACK).len(), 1);
    fan.stop().await;
}

/// The clock of this test runs very fast: only times between requests are looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_pendo_has_not_seen_is_written_after_the_first_visit() {
    let fan = Fan::start_with(2_000).await;
    fan.prepare(&users("u", 1), &["checkout"]);
    let id = fan.install("pendo", fields_only(), quick()).await;
    fan.post(&one_each(&fan, &["new".to_owned(), "u-0".to_owned()]))
        .await;
    let asked = requests_until(&fan, VISITORS, 2).await;
    let gap = gaps(&asked)[0];
    assert!(gap >= 3_600_000, "{gap}");
    fan.seed("pendo", json!({"visitors": ["new"]}));
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(2));
    assert_eq!(fan.value("pendo", "new", "checkout"), json!("on"));
    fan.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_who_opted_out_is_left_alone_for_a_day_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let fan = Fan::start_in(dir.path()).await;
    let people = users("u", 2);
    fan.prepare(&people, &["checkout", "banner"]);
    let id = fan.install("pendo", json!({}), quick()).await;
    let forgotten = json!({"path": TRACK, "contains": "\"u-1\"", "action": {"status": 451}});
    fan.faults(json!({"rules": [forgotten]})).await;
    fan.post(&one_each(&fan, &people)).await;
    fan.app.settled(&id).await;
    assert_eq!(fan.outcome("m-u-0", &id).await.0, "delivered");
    let asked = fan.requests(TRACK);
    assert_eq!(asked.len(), 2);
    assert!(answers(&asked).contains(&451));

    // Neither the event nor the field of another flag, by whichever secret.
    let fan = fan.restart(dir.path(), json!({})).await;
    fan.prepare(&people, &["checkout", "banner"]);
    let now_ms = fan.now_ms();
    fan.post(&[
        decision("again", "u-1", "banner", "on", now_ms),
        decision("other", "u-0", "banner", "on", now_ms),
    ])
    .await;
    let before = fan.app.settled(&id).await;
    assert_eq!(
        fan.outcome("again", &id).await,
        ("skipped".to_owned(), "opted_out".to_owned())
    );
    let (_, story) = fan.app.admin("GET", "events/again", None).await;
    assert!(
        story
            .to_string()
            .contains("asked the vendor to be left alone"),
        "{story}"
    );
    assert_eq!(fan.outcome("other", &id).await.0, "delivered");
    for path in [TRACK, VISITORS] {
        let about = |request: &Value| request["body"].to_string().contains("u-1");
        assert!(!fan.requests(path).iter().any(about), "{path}");
    }

    // A day later Pendo may have changed its mind.
    fan.clock.skip(Duration::from_secs(24 * 3_600));
    fan.post(&[decision("later", "u-1", "banner", "on", fan.now_ms())])
        .await;
    let after = fan.app.settled(&id).await;
    assert_eq!(fan.outcome("later", &id).await.0, "delivered");
    assert_eq!(after["skipped"], before["skipped"]);
    assert_eq!(fan.value("pendo", "u-1", "banner"), json!("on"));
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_just_being_written_is_written_after_a_while() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 2), &["checkout"]);
    let id = fan.install("pendo", fields_only(), quick()).await;
    forget_requests(&fan).await;
    fault(&fan, VISITORS, 2, json!({"status": 409})).await;
    fan.post(&one_each(&fan, &users("u", 2))).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(2));
    let requests = with_method(fan.requests(VISITORS), "POST");
    assert_eq!(answers(&requests), [409, 409, 200]);
    let gaps = gaps(&requests);
    assert!(gaps.iter().all(|gap| *gap >= 5_000), "{gaps:?}");
    for user in users("u", 2) {
        assert_eq!(fan.value("pendo", &user, "checkout"), json!("on"));
    }
    // It is no door that is closed.
    assert_eq!(fan.status(&id).await["state"], json!("running"));
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_pendo_would_not_show_are_shortened_or_the_event_is_dead_unsent() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 2), &["checkout"]);
    let id = fan.install("pendo", events_only(), quick()).await;
    let now_ms = fan.now_ms();
    let mut long_rule = decision("shortened", "u-0", "checkout", "on", now_ms);
    long_rule["decisionInfo"]["ruleKey"] = json!("r".repeat(480));
    let long_flag = decision("too-long", "u-1", &"f".repeat(480), "on", now_ms);
    fan.post(&[long_rule, long_flag]).await;
    let (delivered, _, dead) = ends(&fan, &id).await;
    assert_eq!(
        (delivered, dead),
        (json!(1), [("properties_too_large".to_owned(), 1)].into())
    );
    assert_eq!(
        fan.outcome("too-long", &id).await,
        ("dead".to_owned(), "properties_too_large".to_owned())
    );
    let requests = fan.requests(TRACK);
    assert_eq!(requests.len(), 1);
    let sent = body(&requests[0]);
    assert_eq!(
        sent["properties"],
        json!({"flag_key": "checkout", "variation_key": "on", "enabled": true})
    );
    // The vendor counts what is longer than 512 bytes as a breach.
    fan.stop().await;
}

/// The clock of this test runs very fast: only times between requests are looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_who_never_comes_is_given_up_after_three_more_tries_unless_made() {
    let fan = Fan::start_with(10_000).await;
    fan.prepare(&users("u", 1), &["checkout"]);
    let id = fan.install("pendo", fields_only(), quick()).await;
    fan.post(&one_each(&fan, &["never".to_owned()])).await;
    let (delivered, skipped, dead) = ends(&fan, &id).await;
    assert_eq!((delivered, skipped), (json!(0), json!({"missing": 1})));
    assert!(dead.is_empty());
    assert_eq!(
        fan.outcome("m-never", &id).await,
        ("skipped".to_owned(), "missing".to_owned())
    );
    let gaps = gaps(&with_method(fan.requests(VISITORS), "POST"));
    let hours: Vec<Millis> = gaps.iter().map(|gap| gap / 3_600_000).collect();
    assert_eq!(gaps.len(), 3, "{gaps:?}");
    let waited = hours.iter().zip([1, 6, 24]);
    assert!(
        waited.into_iter().all(|(waited, asked)| *waited >= asked),
        "{gaps:?}"
    );

    let config = json!({"track_secret": null, "create_missing": true});
    let makes = install_another(&fan, "pendo", "makes", config, quick()).await;
    fan.post(&[decision("made", "never", "checkout", "on", fan.now_ms())])
        .await;
    assert_eq!(fan.app.settled(&makes).await["delivered"], json!(1));
    assert_eq!(fan.value("pendo", "never", "checkout"), json!("on"));
    fan.app.stop().await;
}
