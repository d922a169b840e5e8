//! Flag decisions through the door.

use super::*;
use crate::event::Kind;

fn reported(flag: &str) -> Value {
    json!({"type": "flag", "userId": "u", "attributes": {}, "decisionInfo": {"flagKey": flag, "enabled": true, "variationKey": "a"}})
}

#[tokio::test]
async fn decisions_are_taken_alone_in_a_batch_and_as_an_array() {
    let door = door();
    let one = reported("f");
    let python = json!(["flag", "u", {}, {"flag_key": "f", "enabled": true, "variation_key": "a"}]);
    for (body, accepted) in [
        (one.clone(), 1),
        (python.clone(), 1),
        (json!({"batch": [one, python, one], "writeKey": KEY}), 3),
        (json!([one, one]), 2),
        (json!({"batch": []}), 0),
    ] {
        let before = door.events().len();
        let answer = door.post("/v1/decision/", body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json()["accepted"], accepted, "{body}");
        assert_eq!(door.events().len() - before, accepted);
    }
    let events = door.events();
    assert!(events.iter().all(|event| {
        event.kind == Kind::Decision && event.fields["decision"]["flagKey"] == "f"
    }));
    // As every other call: bounded, and by key.
    for (headers, body, status, code) in [
        (
            vec![("x-write-key", KEY)],
            "7".to_owned(),
            400,
            "not_an_object",
        ),
        (
            vec![("x-write-key", KEY)],
            "[{]".to_owned(),
            400,
            "bad_json",
        ),
        (
            vec![("x-write-key", KEY)],
            format!("[{}]", ["{}"; 2_501].join(",")),
            413,
            "batch_too_large",
        ),
        (
            vec![("x-write-key", KEY)],
            "x".repeat(600 << 10),
            413,
            "body_too_large",
        ),
        (
            vec![("x-write-key", "nobody")],
            one.to_string(),
            401,
            "unknown_write_key",
        ),
        (vec![], one.to_string(), 401, "missing_write_key"),
    ] {
        let answer = door.send("POST", "/v1/decision", &headers, body).await;
        assert_eq!((answer.status, &*answer.code()), (status, code));
    }
    *door.kept.fails.lock() = Some(AppendError::Full);
    let answer = door.post("/v1/decision", one.to_string()).await;
    assert_eq!((answer.status, &*answer.code()), (429, "disk_full"));
}

#[tokio::test]
async fn what_is_no_flag_decision_is_answered_and_logged() {
    let door = door();
    let body = json!({"batch": [
        {"type": "feature", "userId": "u", "attributes": {}, "decisionInfo": {"featureKey": "f"}},
        reported("f"),
        ["ab-test", "u", {}, {"experiment_key": "e"}],
        {"type": "flag", "userId": "u", "decisionInfo": {"flagKey": "f"}},
    ]});
    let answer = door.post("/v1/decision", body.to_string()).await;
    let document = answer.json();
    assert_eq!((answer.status, &document["accepted"]), (200, &json!(1)));
    assert_eq!(
        rejected(&document),
        [
            (0, "legacy_decision_type", "/batch/0/type"),
            (2, "legacy_decision_type", "/batch/2/type"),
            (3, "missing_enabled", "/batch/3/decisionInfo"),
        ]
    );
    let rejected = door.kept.rejected.lock();
    assert_eq!(rejected.len(), 3);
    assert!(String::from_utf8_lossy(&rejected[1].body).contains("experiment_key"));
}

#[tokio::test]
async fn a_track_call_that_tells_of_a_decision_becomes_one() {
    let door = door();
    let viewed = json!({"type": "track", "event": "Experiment Viewed", "userId": "u",
        "properties": {"flag_key": "f", "variation_key": "a", "enabled": true}});
    let batch = json!({"batch": [viewed, {"type": "track", "event": "Other", "userId": "u"}]});
    assert_eq!(
        door.post("/v1/track", viewed.to_string()).await.json()["accepted"],
        1
    );
    assert_eq!(
        door.post("/v1/batch", batch.to_string()).await.json()["accepted"],
        2
    );
    let kinds: Vec<_> = door.events().iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [Kind::Decision, Kind::Decision, Kind::Track]);
}
