//! Each of Brevo's rules once, through HTTP.

use super::*;
use crate::sandbox::testing::Client;

async fn start() -> Client {
    Client::start(&[("api-key", "xkeysib-a")]).await
}

fn event(name: &str, who: &str) -> Value {
    json!({"event_name": name, "identifiers": {"ext_id": who}})
}

#[tokio::test]
async fn br1_br2_keys_and_addresses() {
    let client = start().await;
    client.configure(json!({"brevo": {"keys": ["xkeysib-a"]}}));
    let account = client.get("/brevo/v3/account").await;
    assert_eq!(account.status, 200);
    let refused = client
        .with("api-key", "xkeysib-b")
        .get("/brevo/account")
        .await;
    assert_eq!(refused.status, 401);
    assert_eq!(
        refused.json(),
        json!({"code": "unauthorized", "message": "Key not found"})
    );
    assert_eq!(
        refused.header("x-sib-ratelimit-remaining"),
        "99",
        "headers on every reply"
    );

    client.configure(json!({"brevo": {"allowed_ips": ["192.0.2.1"]}}));
    let refused = client.get("/brevo/v3/account").await;
    let message = refused.json()["message"].to_string();
    assert_eq!(refused.status, 401);
    assert!(
        message.contains("unrecognised IP address 127.0.0.1"),
        "{message}"
    );
    client.configure(json!({"brevo": {"allowed_ips": ["127.0.0.1"]}}));
    assert_eq!(client.get("/brevo/v3/account").await.status, 200);
    assert_eq!(
        (
            client.count("refused", "BR1"),
            client.count("refused", "BR2")
        ),
        (1, 1)
    );
    assert_eq!(
        client.handle.breaches(None)["total"],
        0,
        "no limit was broken"
    );
}

#[tokio::test]
async fn br3_br4_single_events() {
    let client = start().await;
    client.configure(json!({"brevo": {"rate_limits": false}}));
    let empty = client.text("POST", "/brevo/v3/events", "").await;
    assert_eq!(empty.status, 400);
    assert_eq!(
        empty.json(),
        json!({"code": "missing_parameter", "message": "No inputs in the body"})
    );
    let broken = client.text("POST", "/brevo/v3/events", "{").await;
    assert_eq!(broken.json()["code"], "bad_request");

    let good = client
        .post("/brevo/v3/events", event("experiment_viewed", "u1"))
        .await;
    assert_eq!((good.status, good.body.as_str()), (204, ""));
    let mut cases = vec![
        event("Experiment Viewed", "u1"),
        event(&"x".repeat(256), "u1"),
    ];
    for change in [
        json!({"identifiers": {}}),
        json!({"identifiers": {"user": "u1"}}),
        json!({"event_properties": {"a b": 1}}),
        json!({"event_properties": {"a": null}}),
        json!({"contact_properties": {"A": ["x"]}}),
        json!({"event_date": "yesterday"}),
        json!({"event_properties": {"a": "x".repeat(51 * 1024)}}),
    ] {
        let mut bad = event("e", "u1");
        for (key, value) in change.as_object().expect("object") {
            bad[key] = value.clone();
        }
        cases.push(bad);
    }
    for bad in &cases {
        let refused = client.post("/brevo/v3/events", bad.clone()).await;
        assert_eq!(
            (refused.status, &refused.json()["code"]),
            (400, &json!("invalid_parameter")),
            "{bad}"
        );
    }
    assert_eq!(client.count("refused", "BR4"), cases.len() as u64 - 1);
    assert_eq!(client.count("limits", "BR4"), 1, "50 KB is a limit");
    assert_eq!(client.handle.state("brevo", "", 10)["counts"]["events"], 1);
}

#[tokio::test]
async fn br5_br6_batches() {
    let client = start().await;
    let path = "/brevo/v3/events/batch";
    let of = |count: usize| json!({"events": vec![event("e", "u"); count]});
    let taken = client.post(path, of(200)).await;
    assert_eq!((taken.status, &taken.json()["count"]), (202, &json!(200)));
    client.configure(json!({"brevo": {"undercount": 2}}));
    assert_eq!(client.post(path, of(7)).await.json()["count"], 5);

    let partial = client
        .post(
            path,
            json!({"events": [event("e", "u"), event("e v", "u"), event("f", "u")]}),
        )
        .await;
    assert_eq!(partial.status, 207);
    let reply = partial.json();
    assert_eq!(
        (
            &reply["total_events"],
            &reply["successful_events"],
            &reply["failed_events"]
        ),
        (&json!(3), &json!(2), &json!(1))
    );
    assert_eq!(reply["errors"][0]["eventIndex"], json!([1]));
    let failed = client
        .post(path, json!({"events": [event("e v", "u")]}))
        .await;
    assert_eq!(
        (failed.status, &failed.json()["errors"][0]["eventIndex"]),
        (400, &json!([0]))
    );
    assert_eq!(
        client.handle.state("brevo", "", 10)["counts"]["events"],
        209
    );

    let large =
        json!({"events": [{"event_name": "e", "identifiers": {"ext_id": "x".repeat(513 * 1024)}}]});
    for (body, limit) in [
        (json!([event("e", "u")]), 0),
        (json!({"events": []}), 0),
        (json!({"event": 1}), 0),
        (of(201), 1),
        (large, 2),
    ] {
        let refused = client.post(path, body).await;
        assert_eq!(
            (refused.status, &refused.json()["code"]),
            (400, &json!("invalid_parameter"))
        );
        assert_eq!(client.count("limits", "BR5"), limit);
    }
    client.configure(json!({"brevo": {"bare_array": true}}));
    assert_eq!(
        client.post(path, json!([event("e", "u")])).await.status,
        202
    );
}

#[tokio::test]
async fn br7_attributes_are_ignored_in_silence() {
    let client = start().await;
    let seed = json!({"attributes": [
        {"name": "FEATURE_ENABLED", "type": "boolean"}, {"name": "EXPERIMENT_DATE", "type": "date"},
        {"name": "OPT_CHECKOUT", "type": "text"},
    ]});
    client.handle.seed("brevo", "", seed).expect("seeded");
    let contact = json!({"ext_id": "u1", "email": "U1@x.org", "attributes": {
        "FEATURE_ENABLED": "true", "EXPERIMENT_DATE": "2026-11-18T10:00:00Z", "OPT_CHECKOUT": "on", "NOBODY": 1,
    }});
    let made = client.post("/brevo/v3/contacts", contact.clone()).await;
    assert_eq!(made.status, 201);
    let shown = client.get("/brevo/v3/contacts/u1%40x.org").await.json();
    assert_eq!(shown["attributes"], json!({"OPT_CHECKOUT": "on"}));
    assert_eq!(client.count("silent", "BR7"), 3);

    client.configure(json!({"brevo": {"date_takes_time": true}}));
    let event = json!({"event_name": "e", "identifiers": {"email_id": "u1@X.org"},
        "contact_properties": {"FEATURE_ENABLED": true, "EXPERIMENT_DATE": "2026-11-18T10:00:00Z", "OPT_CHECKOUT": "off"}});
    client
        .post("/brevo/v3/events/batch", json!({"events": [event]}))
        .await;
    let state = client.handle.state("brevo", "", 10);
    assert_eq!(state["contacts"][0]["attributes"]["FEATURE_ENABLED"], true);
    assert_eq!(
        state["contacts"][0]["attributes"]["EXPERIMENT_DATE"],
        "2026-11-18T10:00:00Z"
    );
    assert_eq!(client.handle.value("brevo", "", "u1", "checkout"), "off");
    assert_eq!(
        client.handle.values("brevo", ""),
        json!({"u1": {"checkout": "off"}})
    );

    let latest = json!({"attributes": [{"name": "FEATURE_FLAG", "type": "text"}, {"name": "VARIATION_NAME", "type": "text"}],
        "contacts": [{"ext_id": "u1", "attributes": {"FEATURE_FLAG": "New-Flag", "VARIATION_NAME": "v2"}}]});
    client.handle.seed("brevo", "", latest).expect("seeded");
    assert_eq!(
        client.handle.value("brevo", "", "u1", "New-Flag"),
        "v2",
        "without an attribute of its own, the latest decision tells"
    );
    client.configure(json!({"brevo": {"strict_attributes": true}}));
    let refused = client
        .text(
            "PUT",
            "/brevo/v3/contacts/u1%40x.org",
            r#"{"attributes":{"NOBODY":1}}"#,
        )
        .await;
    assert_eq!(
        refused.json()["message"],
        "Transactional attribute as primary Key is missing"
    );
    let made = client
        .post(
            "/brevo/v3/contacts/attributes/normal/NOBODY",
            json!({"type": "float"}),
        )
        .await;
    assert_eq!((made.status, made.body.as_str()), (201, "{}"));
    let taken = client
        .text(
            "PUT",
            "/brevo/v3/contacts/u1?identifierType=ext_id",
            r#"{"attributes":{"NOBODY":1}}"#,
        )
        .await;
    assert_eq!(taken.status, 204);
    let empty = client
        .post("/brevo/v3/contacts/attributes/normal/X", json!({}))
        .await;
    assert_eq!(empty.json()["message"], "No inputs in the body");
}

#[tokio::test]
async fn br8_br9_br10_contacts_known_unknown_and_mixed_up() {
    let client = start().await;
    client.configure(json!({"brevo": {"flaky_codes": true}}));
    let post = |body: Value| client.post("/brevo/v3/contacts", body);
    assert_eq!(
        post(json!({"email": "a@x.org"})).await.json(),
        json!({"id": 1})
    );
    assert_eq!(post(json!({"ext_id": "u2"})).await.json(), json!({"id": 2}));
    let known = post(json!({"email": "A@x.org"})).await;
    assert_eq!(
        (known.status, &known.json()["code"]),
        (400, &json!("duplicate_parameter"))
    );
    assert_eq!(
        known.json()["metadata"],
        json!({"duplicate_identifiers": ["email"]})
    );
    assert_eq!(
        post(json!({"email": "a@x.org", "updateEnabled": true}))
            .await
            .status,
        204
    );

    let unknown = client
        .text(
            "PUT",
            "/brevo/v3/contacts/nobody%40x.org",
            "{\"ext_id\":\"x\"}",
        )
        .await;
    assert_eq!(
        (unknown.status, unknown.json()["message"].as_str()),
        (404, Some("Contact does not exist"))
    );

    let both = json!({"email": "a@x.org", "ext_id": "u2", "updateEnabled": true});
    assert_eq!(
        post(both.clone()).await.json()["code"],
        "invalid_parameter",
        "every second time"
    );
    let mixed = client
        .text("PUT", "/brevo/v3/contacts/a%40x.org", "{\"ext_id\":\"u2\"}")
        .await;
    assert_eq!(mixed.json()["code"], "duplicate_parameter");
    assert_eq!(
        mixed.json()["metadata"]["duplicate_identifiers"],
        json!(["ext_id"])
    );
    let mut merging = both;
    merging["forceMerge"] = json!(true);
    assert_eq!(post(merging).await.status, 204);
    assert_eq!(
        client.handle.state("brevo", "", 10)["counts"]["contacts"],
        1
    );
    let rules = ["BR8", "BR9", "BR10"].map(|rule| client.count("refused", rule));
    assert_eq!(rules, [1, 1, 2]);
}

#[tokio::test]
async fn br11_br12_lists_batches_and_imports() {
    let client = start().await;
    let seed = json!({"contacts": [{"ext_id": "u1", "email": "a@x.org"}], "attributes": [{"name": "A", "type": "text"}]});
    client.handle.seed("brevo", "", seed).expect("seeded");
    let add = "/brevo/v3/contacts/lists/1/contacts/add";
    let added = client.post(add, json!({"extIds": ["u1", "u9"]})).await;
    assert_eq!(
        added.json(),
        json!({"contacts": {"success": ["u1"], "failure": ["u9"]}})
    );
    assert_eq!(
        client
            .post(add, json!({"extIds": ["u1"], "ids": [1]}))
            .await
            .status,
        400
    );
    assert_eq!(
        client.post(add, json!({"ids": vec![1; 151]})).await.status,
        400
    );
    assert_eq!(
        (
            client.count("refused", "BR11"),
            client.count("limits", "BR11")
        ),
        (1, 1)
    );
    assert_eq!(
        client
            .post(
                "/brevo/v3/contacts/lists/7/contacts/add",
                json!({"ids": [1]})
            )
            .await
            .status,
        404
    );

    let batch = json!({"contacts": [{"id": 1, "attributes": {"A": "x"}}, {"id": 99, "attributes": {"A": "y"}}]});
    let whole = client.post("/brevo/v3/contacts/batch", batch.clone()).await;
    assert_eq!(whole.status, 404);
    assert_eq!(
        client.handle.state("brevo", "", 1)["contacts"][0]["attributes"],
        json!({})
    );
    client.configure(json!({"brevo": {"contacts_batch_unknown": "partial", "import_ms": 5000}}));
    let partial = client.post("/brevo/v3/contacts/batch", batch).await;
    assert_eq!(
        (partial.status, partial.json()),
        (207, json!({"successIds": [1], "failureIds": [99]}))
    );

    let import = json!({"jsonBody": [{"email": "b@x.org", "attributes": {"A": "z", "B": 1}}]});
    assert_eq!(
        client
            .post("/brevo/v3/contacts/import", import.clone())
            .await
            .status,
        400,
        "no list"
    );
    let mut import = import;
    import["listIds"] = json!([1]);
    client.handle.advance(1_000);
    let taken = client.post("/brevo/v3/contacts/import", import).await;
    let process = format!("/brevo/v3/processes/{}", taken.json()["processId"]);
    assert_eq!(client.get(&process).await.json()["status"], "in_process");
    client.handle.advance(5_000);
    assert_eq!(client.get(&process).await.json()["status"], "completed");
}

#[tokio::test]
async fn br13_buckets_bind_apart_and_open_with_time() {
    let client = start().await;
    let single = || client.post("/brevo/v3/events", event("e", "u"));
    for left in (0..10).rev() {
        let reply = single().await;
        assert_eq!(reply.header("x-sib-ratelimit-remaining"), left.to_string());
    }
    let refused = single().await;
    assert_eq!((refused.status, refused.body.as_str()), (429, "{}"));
    assert_eq!(refused.header("x-sib-ratelimit-limit"), "10");
    assert_eq!(refused.header("x-sib-ratelimit-reset"), "1");
    assert_eq!(
        client.get("/brevo/v3/contacts/attributes").await.status,
        200,
        "another bucket"
    );
    client.handle.advance(1_000);
    assert_eq!(single().await.status, 204);

    let batch = || {
        client.post(
            "/brevo/v3/events/batch",
            json!({"events": [event("e", "u")]}),
        )
    };
    for _ in 0..100 {
        assert_eq!(batch().await.status, 202);
    }
    let refused = batch().await;
    assert_eq!(
        (refused.status, refused.header("x-sib-ratelimit-limit")),
        (429, "100")
    );
    assert_eq!(
        client.get("/brevo/v3/account").await.status,
        429,
        "the same bucket"
    );
    assert_eq!(client.count("limits", "BR13"), 3);
    client.handle.advance(3_600_000);
    assert_eq!(batch().await.status, 202);
    client.configure(json!({"brevo": {"tier": "extended", "events_batch_bucket": "events"}}));
    assert_eq!(batch().await.header("x-sib-ratelimit-limit"), "60");
    client
        .configure(json!({"brevo": {"buckets": {"events_batch": [{"limit": 5, "per_ms": 1000}]}}}));
    assert_eq!(batch().await.header("x-sib-ratelimit-limit"), "5");
    assert!(
        client
            .handle
            .configure(&json!({"brevo": {"buckets": {"event": []}}}))
            .is_err()
    );
}

#[tokio::test]
async fn br14_events_of_unknown_contacts() {
    let client = start().await;
    assert_eq!(
        client
            .post("/brevo/v3/events", event("e", "u1"))
            .await
            .status,
        204
    );
    assert_eq!(client.count("silent", "BR14"), 1);
    assert_eq!(
        client.handle.state("brevo", "", 10)["counts"]["contacts"],
        0
    );
    client.configure(json!({"brevo": {"unknown_contact": "create"}}));
    assert_eq!(
        client
            .post("/brevo/v3/events", event("e", "u1"))
            .await
            .status,
        204
    );
    assert_eq!(
        client.handle.state("brevo", "", 10)["contacts"][0]["ext_id"],
        "u1"
    );
}
