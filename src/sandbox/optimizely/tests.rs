//! The events endpoint, by value.

use super::*;
use datafiles::Datafiles;

const NOW: Millis = 1_795_000_000_000;

fn event(uuid: &str) -> Value {
    json!({"entity_id": "7201", "key": "purchase", "timestamp": NOW - 40, "uuid": uuid, "revenue": 8999})
}

fn batch(events: &[Value]) -> Value {
    let visitors: Vec<Value> = events
        .iter()
        .map(|event| json!({"visitor_id": "u", "snapshots": [{"events": [event]}], "attributes": []}))
        .collect();
    json!({"account_id": "12345678", "project_id": "98765432", "revision": "7", "enrich_decisions": true, "visitors": visitors})
}

fn post(tally: &mut Tally, body: &str, strict: bool) -> Answer {
    let catalog = Datafiles::new(NOW).catalog();
    events(
        Some(body.as_bytes()),
        strict,
        true,
        &catalog,
        NOW,
        |change| change(tally),
    )
}

/// The reason one event, changed by `change`, would not be counted by.
fn reason(change: impl Fn(&mut Value)) -> Option<String> {
    let mut body = batch(&[event("0c5d7f6e-2a41-5b7e-9d6a-000000000001")]);
    change(&mut body);
    let mut tally = Tally::default();
    let answer = post(&mut tally, &body.to_string(), false);
    assert_eq!(
        answer.status, 204,
        "lax: 204 whatever the fields hold: {body}"
    );
    let summary = tally.summary();
    assert_eq!(summary["events"], 1);
    let reasons = summary["would_not_count"].as_object().expect("object");
    assert_eq!(
        summary["counted"].as_u64().expect("n") + reasons.len() as u64,
        1
    );
    reasons.keys().next().cloned()
}

fn first(body: &mut Value) -> &mut Value {
    &mut body["visitors"][0]["snapshots"][0]["events"][0]
}

#[test]
fn every_way_of_not_counting_is_named() {
    assert_eq!(reason(|_| ()), None);
    type Change = fn(&mut Value);
    let cases: &[(&str, Change)] = &[
        ("missing_account_id", |b| b["account_id"] = json!(12345678)),
        ("unknown_account", |b| b["account_id"] = json!("1")),
        ("unknown_project", |b| b["project_id"] = json!("1")),
        ("missing_visitor_id", |b| {
            b["visitors"][0]["visitor_id"] = json!("")
        }),
        ("missing_uuid", |b| first(b)["uuid"] = Value::Null),
        ("missing_timestamp", |b| {
            first(b).as_object_mut().expect("o").remove("timestamp");
        }),
        ("timestamp_not_13_digits", |b| {
            first(b)["timestamp"] = json!(1_795_000_000)
        }),
        ("timestamp_not_13_digits", |b| {
            first(b)["timestamp"] = json!("1795000000000")
        }),
        ("missing_entity_id", |b| first(b)["entity_id"] = json!(7201)),
        ("unknown_entity_id", |b| {
            first(b)["entity_id"] = json!("7299")
        }),
        ("unknown_entity_id", |b| {
            first(b)["key"] = json!("campaign_activated")
        }),
        ("event_key_differs", |b| first(b)["key"] = json!("Purchase")),
    ];
    for (expected, change) in cases {
        assert_eq!(reason(change).as_deref(), Some(*expected));
    }
    assert_eq!(
        reason(|b| {
            first(b)["entity_id"] = json!("7411");
            first(b)["key"] = json!("campaign_activated");
        }),
        None,
        "an activation names a layer"
    );
}

#[test]
fn repeats_are_told_from_reused_uuids_and_revenue_is_counted_once() {
    let mut tally = Tally::default();
    let (a, b) = (
        event("0c5d7f6e-2a41-5b7e-9d6a-000000000001"),
        event("0c5d7f6e-2a41-5b7e-9d6a-000000000002"),
    );
    let mut reused = a.clone();
    reused["timestamp"] = json!(NOW);
    post(&mut tally, &batch(&[a.clone(), b]).to_string(), false);
    post(&mut tally, &batch(&[a, reused]).to_string(), false);
    let summary = tally.summary();
    assert_eq!(summary["events"], 4);
    assert_eq!(summary["unique_events"], 2);
    assert_eq!(
        summary["duplicates"],
        json!({"identical": 1, "differing": 1})
    );
    assert_eq!(
        summary["keys"]["purchase"]["revenue"].to_string(),
        (3 * 8999).to_string()
    );
    assert_eq!(summary["age_ms"]["max"], 40);
    let (asked, missing) = tally.missing(
        [
            "0c5d7f6e-2a41-5b7e-9d6a-000000000001",
            "0c5d7f6e-2a41-5b7e-9d6a-000000000009",
        ]
        .into_iter(),
    );
    assert_eq!(
        (asked, missing),
        (2, vec!["0c5d7f6e-2a41-5b7e-9d6a-000000000009"])
    );
}

#[test]
fn lax_and_strict() {
    let mut tally = Tally::default();
    for (body, strict, status) in [
        ("[1,2", false, 400),
        ("[1,2", true, 400),
        ("[1,2]", false, 204),
        ("{\"visitors\": {}}", false, 204),
        ("{}", false, 204),
        ("{}", true, 400),
    ] {
        assert_eq!(
            post(&mut tally, body, strict).status.as_u16(),
            status,
            "{body}"
        );
    }
    let good = batch(&[event("0c5d7f6e-2a41-5b7e-9d6a-000000000001")]);
    assert_eq!(post(&mut tally, &good.to_string(), true).status, 204);

    let mut bad = good;
    bad["account_id"] = json!("99");
    first(&mut bad)["revenue"] = json!(89.99);
    first(&mut bad)["tags"] = json!({"items": []});
    let answer = post(&mut tally, &bad.to_string(), true);
    let body: Value = serde_json::from_slice(&answer.body).expect("json");
    let paths: Vec<&str> = body["errors"]
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|e| e["path"].as_str())
        .collect();
    let event = "/visitors/0/snapshots/0/events/0";
    assert_eq!(
        paths,
        [
            format!("{event}/revenue"),
            format!("{event}/tags/items"),
            "/account_id".to_owned()
        ]
    );
}

/// Each recorded body of the official SDKs is good even to the strict reader, and every event of it is accounted for.
#[test]
fn what_the_sdks_send_passes() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/optimizely");
    let mut host = Datafiles::new(NOW);
    let golden = std::fs::read(format!("{root}/datafiles/golden_v4.json")).expect("fixture");
    host.put(
        "golden",
        serde_json::from_slice(&golden).expect("json"),
        NOW,
    )
    .expect("datafile");
    let catalog = host.catalog();
    let recorded =
        std::fs::read(format!("{root}/javascript-sdk-6.6.1/batch.requests.json")).expect("fixture");
    let recorded: Value = serde_json::from_slice(&recorded).expect("json");
    let mut tally = Tally::default();
    let mut bodies = 0;
    for body in find_batches(&recorded) {
        bodies += 1;
        let answer = events(
            Some(body.to_string().as_bytes()),
            true,
            true,
            &catalog,
            NOW,
            |change| change(&mut tally),
        );
        assert_eq!(
            answer.status,
            204,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
    }
    assert!(bodies > 0);
    let summary = tally.summary();
    assert_eq!(summary["would_not_count"], json!({}), "{summary}");
}

/// Every event batch somewhere inside a recording.
fn find_batches(value: &Value) -> Vec<Value> {
    match value {
        Value::Object(object) if object.contains_key("visitors") => vec![value.clone()],
        Value::Object(object) => object.values().flat_map(find_batches).collect(),
        Value::Array(list) => list.iter().flat_map(find_batches).collect(),
        Value::String(text) if text.contains("\"visitors\"") => {
            serde_json::from_str(text).map_or_else(|_| Vec::new(), |inner| find_batches(&inner))
        }
        _ => Vec::new(),
    }
}
