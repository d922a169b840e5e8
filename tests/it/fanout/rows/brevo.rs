//! Brevo: `contracts` §2.8 as the gateway keeps it.

use serde_json::json;

use super::*;

const BATCH: &str = "/brevo/v3/events/batch";
const CONTACTS: &str = "/brevo/v3/contacts";

fn quick() -> Value {
    json!({"batch_wait_ms": 300})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_refused_to_the_last_event_in_the_same_words_pauses_and_buries_nobody() {
    let fan = Fan::start().await;
    let people = users("u", 6);
    fan.prepare(&people, &["checkout"]);
    fan.policies(json!({"brevo": {"refused_texts": ["checkout"]}}));
    let id = fan
        .install("brevo", json!({}), json!({"batch_wait_ms": 2_000}))
        .await;
    fan.post(&one_each(&fan, &people)).await;
    let paused =
        |status: &Value| request_of(status, "event")["reason"] == json!("every_event_refused");
    let status = fan.status_until(&id, paused).await;
    let detail = request_of(&status, "event")["detail"].to_string();
    assert!(
        detail.contains("is not acceptable") && detail.contains("blueprint"),
        "{detail}"
    );
    let row = fan.app.ledger(&id).await;
    assert_eq!((&row["dead"], &row["pending"]), (&json!(0), &json!(6)));
    fan.policies(json!({"brevo": {"refused_texts": []}}));
    fan.resume(&id).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(6));
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_and_an_id_of_two_contacts_are_tried_once_without_the_id_and_never_merged() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 3), &["checkout"]);
    let mails = ["a@example.com", "b@example.com"];
    let contacts: Vec<Value> = mails.iter().map(|mail| json!({"email": mail})).collect();
    fan.seed("brevo", json!({"contacts": contacts}));
    // Brevo says it with two codes.
    fan.policies(json!({"brevo": {"flaky_codes": true}}));
    let id = fan
        .install("brevo", json!({"create_contacts": true}), quick())
        .await;
    forget_requests(&fan).await;
    let mut decisions = one_each(&fan, &users("u", 2));
    for (decision, mail) in decisions.iter_mut().zip(mails) {
        decision["attributes"]["email"] = json!(mail);
    }
    fan.post(&decisions).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(2));
    let asked = fan.requests(CONTACTS);
    let mut seen: BTreeMap<String, Vec<(bool, u64)>> = BTreeMap::new();
    for request in &asked {
        let body = body(request);
        assert!(body.get("forceMerge").is_none());
        let email = body["email"].as_str().expect("email").to_owned();
        let with_id = body.get("ext_id").is_some();
        let status = request["status"].as_u64().expect("status");
        seen.entry(email).or_default().push((with_id, status));
    }
    for mail in mails {
        assert_eq!(seen[mail], [(true, 400), (false, 204)], "{mail}");
    }
    // One whose id alone is another's cannot be mended, and does not hold the others up.
    let status = json!({"status": 400, "body": {"code": "duplicate_parameter", "message": "already associated with another Contact"}});
    fault(&fan, CONTACTS, 2, status).await;
    let mut third = one_each(&fan, &["u-2".to_owned()]);
    third[0]["attributes"]["email"] = json!("c@example.com");
    fan.post(&third).await;
    let (_, _, dead) = ends(&fan, &id).await;
    assert_eq!(dead, [("duplicate_parameter".to_owned(), 1)].into());
    fan.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_in_process_is_waited_for_five_times_and_its_events_wait_behind_it() {
    let fan = Fan::start().await;
    let people = users("u", 4);
    fan.prepare(&[], &["checkout"]);
    let id = fan
        .install("brevo", json!({"create_contacts": true}), quick())
        .await;
    forget_requests(&fan).await;
    let early =
        json!({"status": 425, "body": {"code": "account_in_process", "message": "in process"}});
    fan.faults(json!({"rules": [
        {"path": CONTACTS, "contains": "\"u-0\"", "times": 2, "action": early},
        {"path": CONTACTS, "contains": "\"u-1\"", "action": early},
    ]}))
    .await;
    fan.post(&one_each(&fan, &people)).await;
    let (delivered, _, dead) = ends(&fan, &id).await;
    assert_eq!(delivered, json!(3));
    assert_eq!(dead, [("in_process".to_owned(), 1)].into());
    let of = |user: &str| -> Vec<Value> {
        let id = json!(user);
        let all = fan.requests(CONTACTS);
        all.into_iter()
            .filter(|request| body(request)["ext_id"] == id)
            .collect()
    };
    assert_eq!(answers(&of("u-0")), [425, 425, 201]);
    assert_eq!(answers(&of("u-1")), [425; 6]);
    for user in ["u-0", "u-1"] {
        let gaps = gaps(&of(user));
        assert!(gaps.iter().all(|gap| *gap >= 2_000), "{gaps:?}");
    }
    // Made first, known when their events come; nobody else waited for them.
    let made_ms = at_ms(&of("u-0")[2]);
    let events = fan.requests(BATCH);
    let first_with = |user: &str| {
        let said = format!("\"{user}\"");
        let with = |request: &&Value| request["body"].as_str().expect("body").contains(&said);
        events.iter().find(with).map(at_ms).expect("sent")
    };
    assert!(first_with("u-0") >= made_ms);
    assert!(first_with("u-2") < made_ms && first_with("u-3") < made_ms);
    assert_eq!(fan.value("brevo", "u-0", "checkout"), json!("on"));
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_gone_stops_the_making_of_contacts_and_no_event() {
    let fan = Fan::start().await;
    let people = users("u", 5);
    fan.prepare(&people, &["checkout"]);
    let config = json!({"create_contacts": true, "list_ids": "7"});
    let id = fan.install("brevo", config, quick()).await;
    fan.post(&one_each(&fan, &people)).await;
    let paused = |status: &Value| request_of(status, "contact")["reason"] == json!("list_missing");
    let status = fan.status_until(&id, paused).await;
    assert_eq!(request_of(&status, "event")["reason"], Value::Null);
    // All but the contact that looks whether the list is back.
    let began = Instant::now();
    while fan.state("brevo")["counts"]["events"] != json!(4) {
        assert!(began.elapsed() < PATIENCE, "{}", fan.status(&id).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fan.seed("brevo", json!({"lists": [{"id": 7, "name": "seven"}]}));
    fan.resume(&id).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(5));
    let state = fan.state("brevo");
    let contacts = state["contacts"].as_array().expect("contacts");
    let listed = contacts
        .iter()
        .filter(|contact| contact["listIds"].to_string().contains('7'));
    assert_eq!(listed.count(), 5, "{contacts:?}");
    assert_eq!(state["counts"]["events"], json!(5));
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_of_somebody_brevo_does_not_know_are_left_or_the_contact_is_made_first() {
    let fan = Fan::start().await;
    fan.prepare(&[], &["checkout"]);
    let config = json!({"exposure": "none"});
    let id = fan.install("brevo", config, quick()).await;
    fan.post(&one_each(&fan, &users("u", 1))).await;
    let (_, skipped, _) = ends(&fan, &id).await;
    assert_eq!(skipped, json!({"missing": 1}));
    let config = json!({"exposure": "none", "create_contacts": true});
    let makes = install_another(&fan, "brevo", "makes", config, quick()).await;
    let one = decision("later", "u-1", "checkout", "on", fan.now_ms());
    fan.post(&[one]).await;
    assert_eq!(fan.app.settled(&makes).await["delivered"], json!(1));
    assert_eq!(fan.value("brevo", "u-1", "checkout"), json!("on"));
    fan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_a_batch_goes_in_halves_and_a_body_brevo_cannot_take_is_dead() {
    let fan = Fan::start().await;
    let people = users("u", 8);
    fan.prepare(&people, &["checkout"]);
    let id = fan
        .install("brevo", json!({}), json!({"batch_wait_ms": 2_000}))
        .await;
    forget_requests(&fan).await;
    fault(&fan, BATCH, 1, json!({"status": 413, "body": "too large"})).await;
    fan.post(&one_each(&fan, &people)).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(8));
    let sizes: Vec<usize> = fan
        .requests(BATCH)
        .iter()
        .map(|request| body(request)["events"].as_array().expect("events").len())
        .collect();
    assert_eq!(sizes, [8, 4, 4]);
    fault(&fan, BATCH, 1, json!({"status": 422, "body": {}})).await;
    fan.post(&[decision("odd", "u-0", "checkout", "off", fan.now_ms())])
        .await;
    let (_, _, dead) = ends(&fan, &id).await;
    assert_eq!(dead, [("rejected".to_owned(), 1)].into());
    fan.stop().await;
}

/// The clock of this test runs very fast: only times between requests are looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_tried_every_ten_minutes_and_used_up_credits_every_hour() {
    for (times, status, reason, every_ms) in [
        (400, 401, "unauthorized", 600_000),
        (2_000, 402, "not_enough_credits", 3_600_000),
    ] {
        let fan = Fan::start_with(times).await;
        fan.prepare(&users("u", 1), &["checkout"]);
        let id = fan.install("brevo", json!({}), quick()).await;
        let body = json!({"code": reason, "message": "Key not found"});
        fault(&fan, BATCH, 3, json!({"status": status, "body": body})).await;
        fan.post(&one_each(&fan, &users("u", 1))).await;
        let paused = |status: &Value| status["reason"] == json!(reason);
        fan.status_until(&id, paused).await;
        let requests = requests_until(&fan, BATCH, 4).await;
        let gaps = gaps(&requests[..3]);
        assert!(
            gaps.iter().all(|gap| *gap >= every_ms),
            "{status}: {gaps:?}"
        );
        assert_eq!(fan.app.settled(&id).await["delivered"], json!(1));
        fan.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_travel_one_by_one_or_in_batches_only_as_the_installer_says() {
    let fan = Fan::start().await;
    let people = users("u", 12);
    fan.prepare(&people, &["checkout"]);
    let single = fan
        .install("brevo", json!({"events_mode": "single"}), quick())
        .await;
    fan.post(&one_each(&fan, &people)).await;
    assert_eq!(fan.app.settled(&single).await["delivered"], json!(12));
    assert!(fan.requests(BATCH).is_empty());
    assert_eq!(
        with_method(fan.requests("/brevo/v3/events"), "POST").len(),
        12
    );
    let (status, _) = fan
        .app
        .admin("DELETE", &format!("integrations/{single}"), None)
        .await;
    assert!(status < 300);
    forget_requests(&fan).await;
    // Two batches are all there is; nothing spills, the rest waits for the next window.
    fan.policies(json!({"brevo": {"buckets": {"events_batch": [{"limit": 2, "per_ms": 20_000}]}}}));
    let config = json!({"events_mode": "batch", "dedupe_ttl": "0 s"});
    let batch = fan
        .install(
            "brevo",
            config,
            json!({"batch_items": 4, "batch_wait_ms": 300}),
        )
        .await;
    let again: Vec<Value> = people
        .iter()
        .map(|user| {
            decision(
                &format!("again-{user}"),
                user,
                "checkout",
                "b",
                fan.now_ms(),
            )
        })
        .collect();
    fan.post(&again).await;
    assert_eq!(fan.app.settled(&batch).await["delivered"], json!(12));
    assert!(
        fan.requests("/brevo/v3/events")
            .iter()
            .all(|request| request["path"] == json!(BATCH))
    );
    fan.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn integrations_of_one_account_keep_its_rate_together() {
    let fan = Fan::start().await;
    let people = users("u", 30);
    fan.prepare(&people, &["checkout"]);
    let mut ids = Vec::new();
    for (name, key, group) in [
        ("a", "xkeysib-1", Value::Null),
        ("b", "xkeysib-1", Value::Null),
        ("c", "xkeysib-2", json!("ours")),
        ("d", "xkeysib-3", json!("ours")),
    ] {
        let config = json!({"api_key": key, "events_mode": "single", "rate_limit_group": group});
        ids.push(install_another(&fan, "brevo", name, config, quick()).await);
    }
    fan.post(&one_each(&fan, &people)).await;
    for id in &ids {
        assert_eq!(fan.app.settled(id).await["delivered"], json!(30));
    }
    let mut by_key: BTreeMap<String, Vec<Millis>> = BTreeMap::new();
    for request in with_method(fan.requests("/brevo/v3/events"), "POST") {
        if request["status"] == json!(204) {
            let key = request["headers"]["api-key"].as_str().expect("key");
            // Two keys, one account.
            let account = if key == "xkeysib-1" { "one" } else { "two" };
            by_key
                .entry(account.to_owned())
                .or_default()
                .push(at_ms(&request));
        }
    }
    for (account, times) in &by_key {
        assert_eq!(times.len(), 60, "{account}");
        // Ten a second; what the network adds to one request may bring it nearer to the next.
        let close = times
            .windows(11)
            .filter(|ten| ten[10] - ten[0] < 800)
            .count();
        assert_eq!(close, 0, "{account}: {times:?}");
    }
    fan.app.stop().await;
}
