//! Flags decided at the door.

use futures_util::future::BoxFuture;

use super::*;
use crate::datafile::{Datafile, Known, Odp};
use crate::event::Kind;

/// Knows the segments a test says, and who was asked for.
#[derive(Default)]
pub(super) struct FakeSegments {
    answer: Mutex<Option<Result<Vec<String>, String>>>,
    asked: Mutex<Vec<(String, Vec<String>)>>,
}

impl Segments for FakeSegments {
    fn qualified<'a>(
        &'a self,
        _: &'a Odp,
        wanted: &'a [String],
        user_id: &'a str,
        _: SegmentsCache,
    ) -> BoxFuture<'a, Result<Arc<[String]>, String>> {
        self.asked
            .lock()
            .push((user_id.to_owned(), wanted.to_vec()));
        let answer = self.answer.lock().clone().expect("an answer");
        Box::pin(async move { answer.map(Arc::from) })
    }
}

pub(super) fn golden(name: &str) -> Value {
    let path = format!(
        "{}/tests/fixtures/optimizely/datafiles/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub(super) fn publish(door: &Door, integration: &str, document: &Value) {
    door.datafiles.publish(Known {
        integration: integration.to_owned(),
        sdk_key_tail: String::new(),
        datafile: Arc::new(Datafile::read(document).unwrap()),
    });
}

fn door_with_datafile(name: &str) -> Door {
    let door = door();
    publish(&door, "int_1", &golden(name));
    door
}

#[tokio::test]
async fn one_flag_is_answered_as_an_object_and_recorded_first() {
    let door = door_with_datafile("golden_v4");
    let body = json!({
        "userId": "qa_user", "keys": ["checkout_redesign"], "attributes": {"plan": "premium"},
        "messageId": "m-1", "traits": {"email": "ann@example.com"}, "writeKey": "not this one",
    });
    let answer = door.post("/v1/decide", body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        answer.json(),
        json!({
            "flagKey": "checkout_redesign", "enabled": true, "variationKey": "treatment",
            "ruleKey": "checkout_redesign_ab",
            "variables": {"button_color": "green", "max_items": 25, "discount": 12.5, "show_banner": true,
                "config": {"a": 2, "b": [1, 2]}},
            "reasons": [], "userContext": {"userId": "qa_user", "attributes": {"plan": "premium"}},
            "isEveryoneElseVariation": false,
        })
    );
    let events = door.events();
    let [event] = events.as_slice() else {
        panic!("one event, not {events:?}");
    };
    assert_eq!((event.kind, &*event.message_id), (Kind::Decision, "m-1"));
    assert_eq!(event.event_id, crate::event::event_id("src_1", "m-1"));
    assert_eq!((event.timestamp_ms, event.received_at_ms), (NOW, NOW));
    assert_eq!(event.fields["traits"], body["traits"]);
    assert!(!event.fields.contains_key("writeKey"));
    assert_eq!(
        event.fields["decision"],
        json!({
            "type": "flag", "flagKey": "checkout_redesign", "flagSlug": "checkout_redesign", "enabled": true,
            "variationKey": "treatment", "ruleKey": "checkout_redesign_ab", "ruleKind": "experiment",
            "experimentKey": "checkout_redesign_ab", "experimentId": "20001", "variationId": "40002",
            "layerId": "30001", "revision": "42", "decisionEventDispatched": true, "impression": true,
            "variables": answer.json()["variables"], "attributes": {"plan": "premium"}, "origin": "gateway",
        })
    );
}

#[tokio::test]
async fn the_words_of_agent_mean_the_same() {
    let door = door_with_datafile("golden_v4");
    let body = json!({
        "userId": "user_1", "userAttributes": {"plan": "premium"},
        "decideOptions": ["DISABLE_DECISION_EVENT", "EXCLUDE_VARIABLES", "INCLUDE_REASONS"],
        "forcedDecisions": [{"flagKey": "dark_mode", "ruleKey": "", "variationKey": "off"}],
    });
    let path =
        "/v1/decide?keys=checkout_redesign&keys=dark_mode&keys=nothing%20here&keys=dark_mode";
    let answer = door.post(path, body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answers = answer.json();
    let flags: Vec<_> = answers
        .as_array()
        .expect("an array")
        .iter()
        .map(|answer| answer["flagKey"].as_str().unwrap())
        .collect();
    assert_eq!(flags, ["checkout_redesign", "dark_mode", "nothing here"]);
    assert_eq!(answers[0]["variables"], json!({}));
    assert!(answers[0]["reasons"].as_array().unwrap().len() > 1);
    assert_eq!(answers[1]["ruleKey"], Value::Null);
    assert_eq!(
        answers[2]["reasons"],
        json!(["No flag was found for key \"nothing here\"."])
    );
    // The notification still fires, and says that nothing was dispatched; an unknown flag fires none.
    let events = door.events();
    assert_eq!(events.len(), 2);
    for event in &events {
        assert_eq!(event.fields["decision"]["decisionEventDispatched"], false);
        assert_eq!(event.fields["decision"].get("impression"), None);
    }
    assert_ne!(events[0].message_id, events[1].message_id);
    assert!(events[1].message_id.ends_with(":dark_mode"));
}

#[tokio::test]
async fn all_flags_are_decided_when_none_is_named() {
    let door = door_with_datafile("golden_v4");
    let all = door.post("/v1/decide", r#"{"userId":"user_1"}"#).await;
    assert_eq!(all.json().as_array().unwrap().len(), 29);
    assert_eq!(door.events().len(), 29);
    let body = r#"{"userId":"user_1","options":["ENABLED_FLAGS_ONLY"]}"#;
    let on = door.post("/v1/decide", body).await.json();
    let on = on.as_array().unwrap();
    assert!(!on.is_empty() && on.len() < 29);
    assert!(on.iter().all(|answer| answer["enabled"] == true));
    // What is off was decided too.
    assert_eq!(door.events().len(), 58);
    let body = r#"{"userId":"user_1","keys":"no_rollout","options":["ENABLED_FLAGS_ONLY"]}"#;
    let off = door.post("/v1/decide", body).await.json();
    assert_eq!(off["enabled"], false);
}

#[tokio::test]
async fn what_cannot_be_decided_is_said_and_not_recorded() {
    let door = door_with_datafile("golden_v4_misc");
    for n in 0..50 {
        let body = json!({"userId": format!("u{n}"), "keys": ["cmab_flag"]});
        let answer = door.post("/v1/decide", body.to_string()).await.json();
        if answer["error"] == "cmab_unsupported" {
            assert_eq!(answer["variationKey"], Value::Null);
            assert_eq!(door.events().len(), n);
            return;
        }
    }
    panic!("nobody of fifty is in the rule's traffic");
}

#[tokio::test]
async fn a_holdout_that_spares_deliveries_is_recorded_beside_the_decision() {
    let door = door_with_datafile("golden_v4_misc");
    for n in 0..50 {
        let body = json!({"userId": format!("u{n}"), "keys": ["free_shipping"], "messageId": n.to_string()});
        door.post("/v1/decide", body.to_string()).await;
    }
    let events = door.events();
    let held: Vec<_> = events
        .iter()
        .filter(|event| event.fields["decision"].get("heldOut").is_some())
        .collect();
    assert!(held.len() > 5 && held.len() < 40);
    for event in held {
        let decision = &event.fields["decision"];
        assert_ne!(decision["ruleKind"], "holdout");
        let mark = format!("{}:held_out", event.message_id);
        assert_eq!(
            decision["heldOut"],
            json!({
                "experimentId": "92001", "ruleKey": "global_ho_excl_td", "variationKey": "off", "enabled": false,
                "variationId": "$opt_dummy_variation_id",
                "impressionId": crate::event::event_id("src_1", &mark).to_string(),
            })
        );
    }
}

#[tokio::test]
async fn each_flag_is_decided_by_the_first_datafile_that_has_it() {
    let door = door_with_datafile("golden_v4");
    publish(&door, "int_2", &golden("golden_v4_misc"));
    let decide = async |body: Value| {
        let before = door.events().len();
        let answer = door.post("/v1/decide", body.to_string()).await;
        let events = door.events();
        let revisions: Vec<_> = events[before..]
            .iter()
            .map(|event| event.fields["decision"]["revision"].clone())
            .collect();
        (answer.status, revisions)
    };
    let keys = ["dark_mode", "feature_rollout"];
    assert_eq!(
        decide(json!({"userId": "u", "keys": keys})).await,
        (200, vec![json!("42"), json!("8")])
    );
    assert_eq!(
        decide(json!({"userId": "u", "keys": keys, "integration": "int_2"})).await,
        (200, vec![json!("8"), json!("8")])
    );
    assert_eq!(
        decide(json!({"userId": "u", "keys": "dark_mode", "sdkKey": "golden_misc_key:token"}))
            .await,
        (200, vec![json!("8")])
    );
    let unknown = json!({"userId": "u", "integration": "int_3"}).to_string();
    let answer = door.post("/v1/decide", unknown).await;
    assert_eq!((answer.status, &*answer.code()), (503, "no_datafile"));
    assert!(answer.text.contains("int_3"));
}

#[tokio::test]
async fn questions_that_cannot_be_answered_are_refused_with_the_way_out() {
    let door = door();
    let ask = async |body: &str| door.post("/v1/decide", body.to_owned()).await;
    let early = ask(r#"{"userId":"u"}"#).await;
    assert_eq!((early.status, &*early.code()), (503, "no_datafile"));
    assert!((5..=15).contains(&early.retry_after()));
    publish(&door, "int_1", &golden("golden_v4"));
    for (body, said) in [
        (r#"{}"#, "`userId`"),
        (r#"{"userId":""}"#, "`userId`"),
        (r#"{"userId":["u"]}"#, "`userId`"),
        (r#"{"userId":"u","attributes":[]}"#, "`attributes`"),
        (r#"{"userId":"u","keys":[1]}"#, "`keys`"),
        (r#"{"userId":"u","options":["NO_SUCH"]}"#, "NO_SUCH"),
        (
            r#"{"userId":"u","forcedDecisions":[{"flagKey":"a"}]}"#,
            "variationKey",
        ),
        (r#"{"userId":"u","fetchSegments":"yes"}"#, "`fetchSegments`"),
        (
            r#"{"userId":"u","fetchSegmentsOptions":["X"]}"#,
            "IGNORE_CACHE",
        ),
        (r#"{"userId":"u","context":1}"#, "`context`"),
    ] {
        let answer = ask(body).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (400, "bad_field"),
            "{body}"
        );
        assert!(answer.text.contains(said), "{body}: {}", answer.text);
    }
    let long = json!({"userId": "u", "attributes": {"a": "x".repeat(40_000)}}).to_string();
    assert_eq!(ask(&long).await.code(), "bad_field");
    assert_eq!(ask("[1").await.code(), "bad_json");
    let anonymous = door
        .send("POST", "/v1/decide", &[], r#"{"userId":"u"}"#)
        .await;
    assert_eq!(
        (anonymous.status, &*anonymous.code()),
        (401, "missing_write_key")
    );
    assert!(door.events().is_empty());
    *door.kept.fails.lock() = Some(AppendError::Busy);
    let busy = ask(r#"{"userId":"u","keys":["dark_mode"]}"#).await;
    assert_eq!((busy.status, &*busy.code()), (429, "busy"));
}

#[tokio::test]
async fn segments_are_fetched_when_asked_for_and_never_in_the_way() {
    let door = door();
    let mut document = golden("golden_v4");
    document["integrations"] =
        json!([{"key": "odp", "host": "https://odp.example", "publicKey": "p"}]);
    publish(&door, "int_1", &document);
    let ask = async |body: Value| {
        let answer = door.post("/v1/decide", body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let flag = flag_by_segment(&document);
    let with = |more: Value| {
        let mut body = json!({"userId": "u", "keys": [flag.0]});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let outside = ask(with(json!({}))).await;
    assert!(door.segments.asked.lock().is_empty());
    *door.segments.answer.lock() = Some(Ok(vec![flag.1.clone()]));
    let inside = ask(with(json!({"fetchSegments": true}))).await;
    assert_ne!(inside["ruleKey"], outside["ruleKey"]);
    assert_eq!(inside["reasons"], json!([]));
    let asked = door.segments.asked.lock().clone();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].0 == "u" && asked[0].1.contains(&flag.1));
    let told = ask(with(json!({"qualifiedSegments": [flag.1]}))).await;
    assert_eq!(told["ruleKey"], inside["ruleKey"]);
    *door.segments.answer.lock() = Some(Err("ODP did not answer (timeout)".to_owned()));
    let without = ask(with(json!({"fetchSegments": true}))).await;
    assert_eq!(without["ruleKey"], outside["ruleKey"]);
    assert_eq!(
        without["reasons"],
        json!(["Qualified segments were not fetched: ODP did not answer (timeout)."])
    );
}

/// A flag whose first rule asks for a segment, and that segment.
fn flag_by_segment(document: &Value) -> (String, String) {
    let text = document["typedAudiences"]
        .as_array()
        .unwrap()
        .iter()
        .find(|audience| {
            let conditions = audience["conditions"].to_string();
            conditions.contains("third_party_dimension")
                && conditions.contains("\"qualified\"")
                && !conditions.contains("custom_attribute")
                && !conditions.contains("\"not\"")
        })
        .unwrap();
    let id = text["id"].as_str().unwrap();
    fn segment(value: &Value) -> Option<String> {
        match value {
            Value::Array(items) => items.iter().find_map(segment),
            value => value["value"].as_str().map(str::to_owned),
        }
    }
    (format!("aud_{id}"), segment(&text["conditions"]).unwrap())
}
