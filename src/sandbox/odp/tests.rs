//! Each of ODP's rules once, through HTTP.

use super::*;
use crate::sandbox::testing::Client;

const EVENTS: &str = "/odp/v3/events";

async fn start() -> Client {
    let client = Client::start(&[("x-api-key", "pub")]).await;
    client.configure(
        json!({"odp": {"public_keys": ["pub", "pub-eu1"], "private_keys": ["pub.secret"]}}),
    );
    client
}

fn event(who: &str, data: Value) -> Value {
    json!({"type": "fullstack", "action": "decision", "identifiers": {"fs_user_id": who}, "data": data})
}

#[tokio::test]
async fn od1_od2_keys_and_regions() {
    let client = start().await;
    let taken = client.post(EVENTS, event("u1", json!({}))).await;
    assert_eq!(taken.status, 202);
    assert_eq!(
        (&taken.json()["title"], &taken.json()["status"]),
        (&json!("Accepted"), &json!(202))
    );
    let refused = client
        .with("x-api-key", "other")
        .post(EVENTS, event("u1", json!({})))
        .await;
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (403, r#"{"message":"Forbidden"}"#)
    );
    assert_eq!(
        client.get("/odp/v3/profiles?fs_user_id=u1").await.status,
        403,
        "needs the private key"
    );
    let private = client.with("x-api-key", "pub.secret");
    assert_eq!(
        private.get("/odp/v3/profiles?fs_user_id=u1").await.status,
        202
    );
    let abroad = client.with("x-api-key", "pub-eu1");
    assert_eq!(
        abroad.post(EVENTS, event("u1", json!({}))).await.status,
        403
    );
    client.configure(json!({"odp": {"region": "eu"}}));
    assert_eq!(
        abroad.post(EVENTS, event("u1", json!({}))).await.status,
        202
    );
    assert_eq!(
        (
            client.count("refused", "OD1"),
            client.count("refused", "OD2")
        ),
        (2, 1)
    );
}

#[tokio::test]
async fn od3_od4_batches_name_what_is_invalid() {
    let client = start().await;
    let mut nobody = event("u1", json!({}));
    nobody["identifiers"] = json!({});
    let mut nothing = event("u1", json!({}));
    nothing["action"] = json!("");
    let batch = json!([event("u1", json!({})), nobody, nothing]);
    let refused = client.post(EVENTS, batch.clone()).await;
    assert_eq!(refused.status, 400);
    let invalids = &refused.json()["detail"]["invalids"];
    assert_eq!(
        (&invalids[0]["event"], &invalids[1]["event"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(
        client.handle.state("odp", "", 10)["counts"]["events"],
        0,
        "all or nothing"
    );
    client.configure(json!({"odp": {"batch_partial": true}}));
    assert_eq!(client.post(EVENTS, batch).await.status, 400);
    assert_eq!(client.handle.state("odp", "", 10)["counts"]["events"], 1);
    let many = json!(vec![event("u1", json!({})); 501]);
    assert_eq!(client.post(EVENTS, many).await.status, 400);
    assert_eq!(client.count("limits", "OD4"), 1);
    assert_eq!(client.post(EVENTS, json!([])).await.status, 400);

    let profiles = json!([{"attributes": {"fs_user_id": "u2", "email": "b@x.org", "vip": true}}, {"attributes": {"vip": true}}]);
    let refused = client.post("/odp/v3/profiles", profiles).await;
    assert_eq!(refused.json()["detail"]["invalids"][0]["profile"], 1);
    let private = client.with("x-api-key", "pub.secret");
    let read = private.get("/odp/v3/profiles?email=b%40x.org").await.json();
    assert_eq!(
        read["attributes"],
        json!({"vip": true, "email": "b@x.org", "fs_user_id": "u2"})
    );
    for (path, body) in [
        (
            "/odp/v3/objects/products",
            json!([{"product_id": "p1", "price": 1}]),
        ),
        ("/odp/v3/lists", json!({"name": "News"})),
        (
            "/odp/v3/lists/subscriptions",
            json!({"list_id": "news", "email": "b@x.org", "subscribed": true}),
        ),
        (
            "/odp/v3/consent",
            json!([{"identifier_field_name": "email", "identifier_value": "b@x.org", "consent": true}]),
        ),
    ] {
        assert_eq!(client.post(path, body).await.status, 202, "{path}");
    }
    assert_eq!(
        client.handle.state("odp", "", 10)["lists"]["news"]["b@x.org"],
        true
    );
}

#[tokio::test]
async fn od5_rates_by_table() {
    let client = start().await;
    for _ in 0..10 {
        assert_eq!(
            client
                .post("/odp/v3/lists", json!({"name": "News"}))
                .await
                .status,
            202
        );
    }
    assert_eq!(
        client
            .post("/odp/v3/lists", json!({"name": "News"}))
            .await
            .status,
        429
    );
    for n in 0..22 {
        if n == 11 {
            client.configure(json!({"odp": {"rates": "older"}}));
        }
        let status = client.post(EVENTS, event("u1", json!({}))).await.status;
        assert_eq!(status, if n < 21 { 202 } else { 429 });
    }
    assert_eq!(client.count("limits", "OD5"), 2);
    client.handle.advance(1_000);
    assert_eq!(
        client.post(EVENTS, event("u1", json!({}))).await.status,
        202
    );
}

#[tokio::test]
async fn od6_od7_od8_segments() {
    let client = start().await;
    let private = client.with("x-api-key", "pub.secret");
    let path = "/odp/v3/segments/lytics_vip";
    assert_eq!(
        private
            .text("PUT", path, "{\"description\":\"\"}")
            .await
            .status,
        201
    );
    assert_eq!(
        private
            .text("PUT", path, "{\"description\":\"\"}")
            .await
            .json(),
        json!({"revision": 2})
    );
    assert_eq!(
        private
            .text("PUT", "/odp/v3/segments/7up", "{}")
            .await
            .status,
        400
    );
    assert_eq!(client.count("refused", "OD7"), 1);

    let ask = json!({"query": "query {customer(fs_user_id : \"u1\") {audiences(subset: [\"lytics_vip\"]) {edges {node {name state}}}}}"});
    let state = async || {
        let reply = client.post("/odp/v3/graphql", ask.clone()).await;
        assert_eq!(reply.status, 200);
        reply.json()
    };
    assert_eq!(
        state().await["errors"][0]["extensions"]["code"],
        "INVALID_IDENTIFIER_EXCEPTION"
    );
    client.configure(json!({"odp": {"unknown_user": "empty"}}));
    let node = "/data/customer/audiences/edges/0/node";
    let expected = json!({"name": "lytics_vip", "state": "not_qualified"});
    assert_eq!(state().await.pointer(node), Some(&expected));

    let pass = |action: &str, ts: i64| {
        let data = json!({"audience_id": "lytics_vip", "ts": ts});
        json!([{"type": "passthrough", "action": action, "identifiers": {"fs_user_id": "u1"}, "data": data}])
    };
    assert_eq!(client.post(EVENTS, pass("qualify", 20)).await.status, 202);
    assert_eq!(client.count("silent", "OD6"), 1, "off unless asked for");
    client.configure(json!({"odp": {"passthrough": true}}));
    client.post(EVENTS, pass("qualify", 20)).await;
    client.post(EVENTS, pass("disqualify", 10)).await;
    assert_eq!(
        state()
            .await
            .pointer(node)
            .map(|node| node["state"].clone()),
        Some(json!("qualified"))
    );
    let mut two = pass("disqualify", 30);
    two[0]["identifiers"]["email"] = json!("a@x.org");
    client.post(EVENTS, two).await;
    assert_eq!(client.count("silent", "OD6"), 2, "exactly one identifier");
    client.post(EVENTS, pass("disqualify", 30)).await;
    assert_eq!(state().await.pointer(node), Some(&expected));

    client
        .handle
        .seed("odp", "", json!({"segments": {"gold": ["u1", "vuid_1"]}}))
        .expect("seeded");
    let profiles = client.handle.state("odp", "", 10)["profiles"].clone();
    assert_eq!(profiles[1]["identifiers"], json!({"vuid": "vuid_1"}));
    assert_eq!(profiles[0]["segments"], json!(["gold"]));
}

#[tokio::test]
async fn od9_repeats_and_the_newest_variation() {
    let client = start().await;
    let data = |variation: &str, ts: Value, id: &str| json!({"flag_key": "a b", "variation_key": variation, "ts": ts, "idempotence_id": id});
    let newer = event("u1", data("v2", json!(1_795_000_020), "i2"));
    let older = event("u1", data("v1", json!("2026-11-18T10:26:50Z"), "i1"));
    for event in [&newer, &older, &older] {
        assert_eq!(client.post(EVENTS, event.clone()).await.status, 202);
    }
    assert_eq!(client.handle.value("odp", "", "u1", "a b"), "v2");
    let counts = client.handle.state("odp", "", 10)["counts"].clone();
    assert_eq!(
        (&counts["events"], &counts["repeats"]),
        (&json!(3), &json!(1))
    );
    client.configure(json!({"odp": {"dedupe": true}}));
    client.post(EVENTS, older).await;
    assert_eq!(client.handle.state("odp", "", 10)["counts"]["events"], 3);
}
