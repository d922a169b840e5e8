//! Vendors that refuse, redirect, fall silent or forget us: nothing is lost, nothing counts twice, and somebody is told.

use serde_json::json;

use super::*;

/// Decisions of these users, one each, at the same time.
fn decisions(people: &[String], now_ms: Millis) -> Vec<Value> {
    people
        .iter()
        .map(|user| decision(&format!("m-{user}"), user, "checkout", "on", now_ms))
        .collect()
}

/// Contract, test 2, at Brevo.
#[tokio::test(flavor = "multi_thread")]
async fn one_event_of_two_hundred_that_brevo_refuses_dies_alone_with_brevos_words() {
    let fan = Fan::start().await;
    let mut people = users("u", 200);
    people[17] = "poison".to_owned();
    fan.prepare(&people, &["checkout"]);
    fan.policies(json!({"brevo": {"refused_texts": ["poison"]}}));
    let id = fan
        .install("brevo", json!({}), json!({"batch_wait_ms": 60_000}))
        .await;
    fan.post(&decisions(&people, fan.now_ms())).await;
    let row = fan.app.settled(&id).await;
    assert_eq!((&row["delivered"], &row["dead"]), (&json!(199), &json!(1)));
    assert_eq!(
        statuses(&fan.requests("/brevo/v3/events")),
        [(207, 1)].into()
    );
    let (_, dead) = fan.app.admin("GET", "dead-letters", None).await;
    let letter = &dead["data"][0];
    assert_eq!(letter["message_id"], json!("m-poison"), "{dead}");
    assert!(
        letter["detail"]
            .as_str()
            .expect("detail")
            .contains("not acceptable"),
        "{letter}"
    );
    assert_eq!(fan.state("brevo")["counts"]["events"], json!(199));
    fan.stop().await;
}

/// Contract, test 2, at Heap.
#[tokio::test(flavor = "multi_thread")]
async fn one_event_of_five_hundred_that_heap_refuses_is_found_in_few_requests() {
    let fan = Fan::start().await;
    let mut people = users("u", 500);
    people[321] = "poison".to_owned();
    let refused = json!({"status": 400, "body": {}});
    fan.faults(json!({"rules": [{"path": "/heap-us/api/track", "contains": "\"poison\"", "action": refused}]}))
        .await;
    let id = fan
        .install("heap", json!({}), json!({"batch_wait_ms": 60_000}))
        .await;
    fan.post(&decisions(&people, fan.now_ms())).await;
    let row = fan.app.settled(&id).await;
    assert_eq!((&row["delivered"], &row["dead"]), (&json!(499), &json!(1)));
    let requests = fan.requests("/heap-us/api/track");
    assert!(requests.len() <= 1 + 10, "{}", requests.len());
    let refused = statuses(&requests)[&400];
    assert!(refused <= 10, "{refused} refusals");
    assert_eq!(
        fan.state("heap")["counts"]["events"],
        json!(499),
        "{}",
        fan.state("heap")["counts"]
    );
    fan.stop().await;
}

/// Contract, test 3.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_lost_on_the_way_counts_once_at_heap_and_is_counted_as_a_doubt() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 1), &["checkout"]);
    let lost = json!({"wire": "reset", "process": true});
    fan.faults(json!({"rules": [
        {"path": "/heap-us/api/track", "times": 1, "action": lost},
        {"path": "/pendo-data", "times": 1, "action": lost},
    ]}))
    .await;
    let quick = json!({"batch_wait_ms": 0});
    let heap = fan.install("heap", json!({}), quick.clone()).await;
    let pendo = fan.install("pendo", json!({}), quick).await;
    fan.post(&decisions(&users("u", 1), fan.now_ms())).await;
    for id in [&heap, &pendo] {
        assert_eq!(fan.app.settled(id).await["delivered"], json!(1));
    }
    assert_eq!(fan.requests("/heap-us/api/track").len(), 2);
    assert_eq!(
        fan.state("heap")["events_by_name"],
        json!({"Experiment Viewed": 1})
    );
    assert_eq!(
        fan.requests("/pendo-data").len(),
        2,
        "Pendo knows no repeats"
    );
    let metrics = metrics(&fan).await;
    for (id, request) in [(&heap, "event"), (&pendo, "track")] {
        let counted = metrics.lines().any(|line| {
            line.starts_with("aqueduct_vendor_doubts_total")
                && line.contains(&format!("\"{id}\""))
                && line.contains(&format!("\"{request}\""))
                && line.ends_with(" 1")
        });
        assert!(counted, "{request}: {metrics}");
    }
    fan.stop().await;
}

async fn metrics(fan: &Fan) -> String {
    let url = format!("http://{}/metrics", fan.app.metrics);
    let response = fan.app.http.get(url).send().await.expect("metrics answer");
    response.text().await.expect("text")
}

/// Contract, test 5.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_brevo_does_not_know_pauses_and_the_backlog_drains_in_order() {
    let dir = tempfile::tempdir().expect("dir");
    let fan = Fan::start_in(dir.path()).await;
    let people = users("u", 20);
    fan.prepare(&people, &["checkout"]);
    let id = fan
        .install("brevo", json!({}), json!({"batch_wait_ms": 0}))
        .await;
    let elsewhere = json!({"brevo": {"allowed_ips": ["203.0.113.7"]}});
    fan.policies(elsewhere.clone());
    let now_ms = fan.now_ms();
    for (round, variation) in ["a", "b", "c"].into_iter().enumerate() {
        let at_ms = now_ms + 1_000 * i64::try_from(round).expect("small");
        let some: Vec<Value> = people
            .iter()
            .map(|user| {
                decision(
                    &format!("{variation}-{user}"),
                    user,
                    "checkout",
                    variation,
                    at_ms,
                )
            })
            .collect();
        fan.post(&some).await;
    }
    let is_paused = |status: &Value| {
        status["state"] == json!("paused") && status["reason"] == json!("ip_not_authorised")
    };
    let status = fan.status_until(&id, is_paused).await;
    let detail = status["detail"].as_str().expect("detail");
    assert!(detail.contains("authorised_ips"), "{status}");
    assert_eq!(fan.app.ledger(&id).await["pending"], json!(60));
    assert_eq!(fan.state("brevo")["counts"]["events"], json!(0));

    // The backlog is durable: a restart finds all of it, and the same closed door.
    let fan = fan.restart(dir.path(), elsewhere).await;
    fan.prepare(&people, &["checkout"]);
    fan.status_until(&id, is_paused).await;
    assert_eq!(fan.app.ledger(&id).await["pending"], json!(60));

    fan.policies(json!({"brevo": {"allowed_ips": ["127.0.0.1"]}}));
    fan.resume(&id).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(60));
    // Each person's in the order in which they were decided.
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for request in fan.requests("/brevo/v3/events") {
        if request["status"] == json!(401) {
            continue;
        }
        let body = body(&request);
        let events = body["events"].as_array().cloned().unwrap_or(vec![body]);
        for event in events {
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            seen.entry(text(&event["identifiers"]["ext_id"]))
                .or_default()
                .push(text(&event["event_properties"]["variation_key"]));
        }
    }
    assert_eq!(seen.len(), 20);
    assert!(
        seen.values().all(|seen| seen == &["a", "b", "c"]),
        "{seen:?}"
    );
    for user in &people {
        assert_eq!(fan.value("brevo", user, "checkout"), json!("c"));
    }
    fan.stop().await;
}

/// Contract, test 6.
#[tokio::test(flavor = "multi_thread")]
async fn swapped_secrets_of_pendo_pause_both_halves_and_each_is_mended_by_itself() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 1), &["checkout"]);
    let swapped = json!({"integration_keys": ["secret-of-track"], "track_secrets": ["key-of-metadata"],
        "track_header": "integration_key"});
    // At install the wrong key is found out by asking.
    fan.policies(json!({"pendo": swapped}));
    let config = fan.entered("pendo", &json!({}));
    let body = json!({"name": "P", "variant": "decisions", "delivery_mode": "server_side", "config": config, "settings": {}});
    let (status, reply) = fan
        .app
        .admin("POST", "integration-catalog/pendo/install", Some(body))
        .await;
    assert_eq!(status, 422, "{reply}");
    assert!(
        reply.to_string().contains("config.integration_key"),
        "{reply}"
    );

    // Swapped afterwards, it is Pendo's 403 that tells.
    fan.policies(json!({"pendo": {"integration_keys": [], "track_secrets": []}}));
    let id = fan
        .install("pendo", json!({}), json!({"batch_wait_ms": 0}))
        .await;
    fan.policies(json!({"pendo": swapped}));
    fan.post(&decisions(&users("u", 1), fan.now_ms())).await;
    let state = |status: &Value, request: &str| {
        let requests = status["requests"].as_array().cloned().unwrap_or_default();
        requests
            .iter()
            .find(|row| row["name"] == json!(request))
            .map(|row| row["state"].clone())
            .unwrap_or_default()
    };
    let both = |status: &Value| {
        ["track", "visitor"].map(|request| state(status, request))
            == [json!("paused"), json!("paused")]
    };
    let status = fan.status_until(&id, both).await;
    for row in status["requests"].as_array().expect("requests") {
        let detail = row["detail"].as_str().expect("detail");
        assert!(detail.contains("swapped"), "{row}");
    }
    assert_eq!(fan.app.ledger(&id).await["pending"], json!(1));

    // One secret is put right: that half goes on, the other stays.
    fan.policies(json!({"pendo": {"integration_keys": ["key-of-metadata"]}}));
    fan.resume(&id).await;
    let began = Instant::now();
    while fan.value("pendo", "u-0", "checkout") != json!("on") {
        assert!(began.elapsed() < PATIENCE, "{}", fan.status(&id).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let one = |status: &Value| {
        ["track", "visitor"].map(|request| state(status, request))
            == [json!("paused"), json!("running")]
    };
    fan.status_until(&id, one).await;
    assert_eq!(fan.app.ledger(&id).await["pending"], json!(1));
    fan.policies(json!({"pendo": {"track_secrets": ["secret-of-track"]}}));
    fan.resume(&id).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(1));
    assert_eq!(
        fan.state("pendo")["events_by_name"],
        json!({"Experiment Viewed": 1})
    );
    fan.stop().await;
}

/// Contract, test 10.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_of_heap_pauses_and_is_no_delivery() {
    let fan = Fan::start().await;
    fan.policies(json!({"heap": {"eu_apps": ["11"], "wrong_region": "redirect"}}));
    let id = fan
        .install("heap", json!({}), json!({"batch_wait_ms": 0}))
        .await;
    fan.post(&decisions(&users("u", 3), fan.now_ms())).await;
    let is_paused = |status: &Value| status["state"] == json!("paused");
    let status = fan.status_until(&id, is_paused).await;
    assert_eq!(status["reason"], json!("wrong_region"), "{status}");
    let row = fan.app.ledger(&id).await;
    assert_eq!((&row["delivered"], &row["pending"]), (&json!(0), &json!(3)));
    assert_eq!(
        statuses(&fan.requests("/heap-us"))
            .into_keys()
            .collect::<Vec<_>>(),
        [302]
    );
    assert!(
        fan.requests("/heap-eu").is_empty(),
        "a redirect is never followed"
    );
    fan.policies(json!({"heap": {"eu_apps": []}}));
    fan.resume(&id).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(3));
    fan.stop().await;
}

/// Contract §3.5: when Heap refuses every single event, it is not the events.
#[tokio::test(flavor = "multi_thread")]
async fn a_heap_that_refuses_everything_pauses_before_it_buries_everything() {
    let fan = Fan::start().await;
    let refused = json!({"status": 400, "body": {}});
    fan.faults(json!({"rules": [{"path": "/heap-us", "action": refused}]}))
        .await;
    let id = fan
        .install("heap", json!({}), json!({"batch_wait_ms": 500}))
        .await;
    let people = users("u", 200);
    fan.post(&decisions(&people, fan.now_ms())).await;
    let reason = |status: &Value| {
        let requests = status["requests"].as_array().cloned().unwrap_or_default();
        requests
            .iter()
            .all(|row| row["reason"] == json!("bad_app_id_or_region"))
    };
    fan.status_until(&id, reason).await;
    let row = fan.app.ledger(&id).await;
    let dead = row["dead"].as_u64().expect("dead");
    assert!(dead < 20, "{row}");
    fan.app.sandbox("DELETE", "/_sandbox/faults", None).await;
    fan.resume(&id).await;
    fan.app.settled(&id).await;
    let (status, reply) = fan
        .app
        .admin(
            "POST",
            "dead-letters/replay",
            Some(json!({"integration": id})),
        )
        .await;
    assert!(status < 300, "{reply}");
    let row = fan
        .app
        .ledger_until(&id, |row| row["delivered"] == json!(200))
        .await;
    assert_eq!(row["dead"], json!(0), "{row}");
    for user in &people {
        assert_eq!(fan.value("heap", user, "checkout"), json!("on"), "{user}");
    }
    fan.stop().await;
}

/// Contract §2.8: a 202 with a smaller count is taken, and somebody can see it.
#[tokio::test(flavor = "multi_thread")]
async fn brevo_counting_fewer_than_were_sent_is_seen() {
    let fan = Fan::start().await;
    let people = users("u", 10);
    fan.prepare(&people, &["checkout"]);
    fan.policies(json!({"brevo": {"undercount": 2}}));
    let id = fan
        .install("brevo", json!({}), json!({"batch_wait_ms": 500}))
        .await;
    fan.post(&decisions(&people, fan.now_ms())).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(10));
    let status = fan.status(&id).await;
    let error = status["last_error"].as_str().unwrap_or_default();
    assert!(
        error.contains("8 of 10") || error.contains("queued only"),
        "{status}"
    );
    let metrics = metrics(&fan).await;
    let counted = metrics
        .lines()
        .any(|line| line.starts_with("aqueduct_vendor_doubts_total") && line.contains(&id));
    assert!(counted, "{metrics}");
    fan.stop().await;
}
