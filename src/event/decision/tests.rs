//! What real SDKs reported, in every shape, against one record.

use std::path::Path;

use bytes::BytesMut;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Facts, NoRules, RuleKind, Rules};
use crate::event::parse::{Acceptance, Body, BodyFault, Fault};
use crate::event::{Event, Kind, event_id};

const NOW: i64 = 1_795_223_290_000;

fn taken(body: &Body<'_>, index: usize, rules: &dyn Rules) -> Result<Event, Fault> {
    let acceptance = Acceptance {
        source: "src_1",
        received_at_ms: NOW,
        event_bytes_max: 32 << 10,
        make_id: &|| Uuid::from_u128(7),
        rules,
        admits: None,
    };
    let accepted = body.accept_decision(index, &acceptance, &mut BytesMut::new())?;
    assert_eq!(accepted.kind, Kind::Decision);
    Ok(Event::decode(&accepted.record).unwrap())
}

fn posted(text: &str) -> Result<Event, Fault> {
    taken(&Body::decisions(text, 10).unwrap(), 0, &NoRules)
}

fn code(value: &Value) -> &'static str {
    posted(&value.to_string()).unwrap_err().code
}

/// The DECISION notifications of a capture: (case, what the listener was given).
fn captured(file: &str) -> Vec<(String, Value)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/optimizely")
        .join(file);
    let all: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    all.iter()
        .filter(|one| one["notification"] == "DECISION")
        .map(|one| {
            let given = one.get("payload").unwrap_or(&one["positional_args"]);
            (one["case"].as_str().unwrap().to_owned(), given.clone())
        })
        .collect()
}

/// What an SDK's record says, without its own prose and, for a capture that was made with other attributes, those.
fn essence(event: &Event, also_without: &[&str]) -> Value {
    let mut decision = event.fields["decision"].clone();
    let members = decision.as_object_mut().unwrap();
    members.shift_remove("reasons");
    for key in also_without {
        members.shift_remove(*key);
    }
    json!({"userId": event.fields["userId"], "decision": decision})
}

#[test]
fn three_sdks_report_a_decision_alike() {
    let js6 = captured("javascript-sdk-6.6.1/main.notifications.json");
    let js5 = captured("javascript-sdk-5.4.1/main.notifications.json");
    let python = captured("python-sdk-5.7.0/main.notifications.json");
    let mut compared = [0, 0];
    for (case, given) in &js6 {
        let one = posted(&given.to_string()).unwrap();
        let of = |all: &[(String, Value)]| {
            let found = all.iter().find(|(other, _)| other == case)?;
            Some(posted(&found.1.to_string()).unwrap())
        };
        if let Some(other) = of(&python) {
            compared[0] += 1;
            assert_eq!(essence(&one, &[]), essence(&other, &[]), "{case}");
        }
        if let Some(other) = of(&js5) {
            compared[1] += 1;
            // It reports no ids; a datafile fills them in. Its capture was made with another city and browser.
            let less = ["experimentId", "variationId", "attributes"];
            assert_eq!(essence(&one, &less), essence(&other, &less), "{case}");
        }
    }
    assert_eq!(compared, [11, 5]);
    for file in [
        "javascript-sdk-6.6.1/batch",
        "javascript-sdk-6.6.1/decide_all",
        "javascript-sdk-5.4.1/batch",
        "python-sdk-5.7.0/batch",
    ] {
        for (case, given) in captured(&format!("{file}.notifications.json")) {
            posted(&given.to_string()).unwrap_or_else(|fault| panic!("{file} {case}: {fault:?}"));
        }
    }
}

/// One decision in each shape.
fn shapes() -> Vec<(&'static str, Value)> {
    let camel = json!({
        "flagKey": "checkout", "enabled": true, "variationKey": "treatment", "ruleKey": "checkout_ab",
        "variables": {"discount": 12.5, "max": 3}, "reasons": [], "decisionEventDispatched": true,
        "experimentId": "20001", "variationId": "40002",
    });
    let snake: Map<String, Value> = camel
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| {
            let mut snake = String::new();
            for c in key.chars() {
                if c.is_ascii_uppercase() {
                    snake.push('_');
                }
                snake.push(c.to_ascii_lowercase());
            }
            (snake, value.clone())
        })
        .collect();
    let attributes = json!({"plan": "premium", "age": 42});
    let mut answer = camel.clone();
    answer["userContext"] = json!({"userId": "u-1", "attributes": attributes});
    vec![
        (
            "js",
            json!({"type": "flag", "userId": "u-1", "attributes": attributes, "decisionInfo": camel}),
        ),
        ("python", json!(["flag", "u-1", attributes, snake])),
        (
            "python by name",
            json!({"decision_type": "flag", "user_id": "u-1", "attributes": attributes, "decision_info": snake}),
        ),
        (
            "go",
            json!({"messageId": Uuid::from_u128(7).to_string(), "Type": "flag", "DecisionInfo": camel,
                "UserContext": {"ID": "u-1", "Attributes": attributes, "QualifiedSegments": null}}),
        ),
        (
            "agent stream",
            json!({"Type": "flag", "UserContext": {"ID": "u-1", "Attributes": attributes, "QualifiedSegments": null}, "DecisionInfo": camel}),
        ),
        ("agent answer", answer),
    ]
}

#[test]
fn every_shape_becomes_the_same_record() {
    for (shape, given) in shapes() {
        let event = posted(&given.to_string()).unwrap();
        let origin = if shape.starts_with("agent") {
            "agent"
        } else {
            "sdk"
        };
        assert_eq!(
            Value::Object(event.fields),
            json!({
                "type": "decision", "eventId": event_id("src_1", &Uuid::from_u128(7).to_string()).to_string(),
                "source": "src_1", "messageId": Uuid::from_u128(7).to_string(),
                "receivedAt": "2026-11-21T01:08:10.000Z", "timestamp": "2026-11-21T01:08:10.000Z", "userId": "u-1",
                "decision": {
                    "type": "flag", "flagKey": "checkout", "flagSlug": "checkout", "enabled": true,
                    "variationKey": "treatment", "ruleKey": "checkout_ab", "experimentId": "20001", "variationId": "40002",
                    "decisionEventDispatched": true, "variables": {"discount": 12.5, "max": 3},
                    "attributes": {"plan": "premium", "age": 42}, "origin": origin,
                },
            }),
            "{shape}"
        );
    }
}

#[test]
fn empty_and_null_and_left_out_are_one() {
    let with = |empty: Value| {
        let mut given = shapes().remove(0).1;
        for key in ["variationKey", "ruleKey", "experimentId", "variationId"] {
            given["decisionInfo"][key] = empty.clone();
        }
        given["decisionInfo"]["enabled"] = false.into();
        posted(&given.to_string()).unwrap().fields
    };
    assert_eq!(with(json!("")), with(json!(null)));
    let decision = with(json!(""))["decision"].clone();
    assert!(decision.get("ruleKey").is_none() && decision.get("variationId").is_none());
    let agent = r#"{"Type":"flag","UserContext":{"ID":"u","Attributes":null},"DecisionInfo":{"flagKey":"f","enabled":false,"variationKey":"","ruleKey":"","variables":{},"reasons":null}}"#;
    assert_eq!(
        posted(agent).unwrap().fields["decision"],
        json!({"type": "flag", "flagKey": "f", "flagSlug": "f", "enabled": false, "origin": "agent"})
    );
}

#[test]
fn numbers_are_stored_in_one_form() {
    let posted = |number: &str| {
        let text = format!(
            r#"["flag","u",{{"n":{number}}},{{"flag_key":"f","enabled":true,"variables":{{"n":[{number}]}}}}]"#
        );
        let decision = posted(&text).unwrap().fields["decision"].clone();
        let written = decision["attributes"]["n"].to_string();
        assert_eq!(decision["variables"]["n"][0].to_string(), written);
        written
    };
    for (given, kept) in [
        ("0.0", "0"),
        ("-0.0", "0"),
        ("12.50", "12.5"),
        ("1e+16", "10000000000000000"),
        ("1e-07", "0.0000001"),
        ("9007199254740993", "9007199254740993"),
        ("1e400", "1e+400"),
        ("1e-300", "1e-300"),
        (
            "0.12345678901234567890123456789",
            "0.12345678901234567890123456789",
        ),
    ] {
        assert_eq!(posted(given), kept, "{given}");
    }
}

#[test]
fn what_is_no_decision_is_refused_with_a_code() {
    for old in [
        "ab-test",
        "feature",
        "feature-test",
        "feature-variable",
        "all-feature-variables",
    ] {
        let info = json!({"featureKey": "f", "featureEnabled": true, "source": "rollout"});
        let given = json!({"type": old, "userId": "u", "attributes": {}, "decisionInfo": info});
        assert_eq!(code(&given), "legacy_decision_type");
        assert_eq!(
            code(&json!([old, "u", {}, {"experiment_key": "e"}])),
            "legacy_decision_type"
        );
        assert_eq!(
            code(&json!({"Type": old, "UserContext": {"ID": "u"}, "DecisionInfo": {}})),
            "legacy_decision_type"
        );
    }
    let info = json!({"flagKey": "f", "enabled": true});
    for (given, wanted) in [
        (
            json!({"type": "party", "userId": "u", "decisionInfo": info}),
            "unknown_decision_type",
        ),
        (
            json!({"type": "flag", "userId": "", "decisionInfo": info}),
            "missing_identity",
        ),
        (
            json!({"type": "flag", "userId": null, "decisionInfo": info}),
            "missing_identity",
        ),
        (
            json!({"type": "flag", "userId": [], "decisionInfo": info}),
            "wrong_type",
        ),
        (
            json!({"type": "flag", "userId": "u", "decisionInfo": 1}),
            "wrong_type",
        ),
        (
            json!({"type": "flag", "userId": "u", "decisionInfo": {"enabled": true}}),
            "missing_flag_key",
        ),
        (
            json!({"type": "flag", "userId": "u", "decisionInfo": {"flagKey": "", "enabled": true}}),
            "missing_flag_key",
        ),
        (
            json!({"type": "flag", "userId": "u", "decisionInfo": {"flagKey": "f"}}),
            "missing_enabled",
        ),
        (
            json!({"type": "flag", "userId": "u", "decisionInfo": {"flagKey": {}, "enabled": true}}),
            "wrong_type",
        ),
        (
            json!({"type": "flag", "userId": "u", "decisionInfo": {"flagKey": "f", "enabled": 1}}),
            "wrong_type",
        ),
        (
            json!({"type": "flag", "userId": "u", "messageId": "", "decisionInfo": info}),
            "invalid_message_id",
        ),
        (
            json!({"event": "Order", "userId": "u"}),
            "unknown_decision_shape",
        ),
        (json!(["flag", "u", {}]), "unknown_decision_shape"),
        (json!({}), "unknown_decision_shape"),
        (
            json!({"type": "flag", "userId": "u", "decisionInfo": {"flagKey": "f", "enabled": true, "reasons": ["x".repeat(33_000)]}}),
            "event_too_large",
        ),
    ] {
        assert_eq!(code(&given), wanted, "{given}");
    }
    assert_eq!(
        Body::decisions("7", 10).unwrap_err(),
        BodyFault::NotAnObject
    );
    assert_eq!(
        Body::decisions("[{},{},{}]", 2).unwrap_err(),
        BodyFault::TooMany(2)
    );
    assert!(Body::decisions("[{},", 2).is_err());
}

#[test]
fn several_come_in_a_batch_or_as_an_array() {
    let given: Vec<Value> = shapes().into_iter().map(|(_, given)| given).collect();
    let batch =
        json!({"batch": given, "sentAt": "2026-11-21T01:08:05Z", "context": {"ip": "1.2.3.4"}})
            .to_string();
    let body = Body::decisions(&batch, 10).unwrap();
    let count = given.len();
    assert_eq!((body.len(), body.place(4)), (count, "/batch/4".to_owned()));
    for index in 0..count {
        let event = taken(&body, index, &NoRules).unwrap();
        assert_eq!(event.fields["context"], json!({"ip": "1.2.3.4"}));
    }
    // An Agent's answer for several flags; and no mistaking it for Python's four arguments.
    let answer = given.last().unwrap();
    let four = json!([answer, answer, answer, answer]).to_string();
    let body = Body::decisions(&four, 10).unwrap();
    assert_eq!((body.len(), body.place(3)), (4, "/3".to_owned()));
    assert!(taken(&body, 3, &NoRules).is_ok());
    let python = given[1].to_string();
    let body = Body::decisions(&python, 10).unwrap();
    assert_eq!((body.len(), body.place(0)), (1, String::new()));
}

#[test]
fn the_caller_may_say_when_and_as_which_message() {
    let mut given = shapes().remove(0).1;
    given["messageId"] = "m-1".into();
    given["timestamp"] = "2026-11-21T01:08:00.000Z".into();
    given["sentAt"] = "2026-11-21T01:08:01.000Z".into();
    given["context"] = json!({"app": {"version": "1"}});
    given["whatever"] = 1.into();
    let event = posted(&given.to_string()).unwrap();
    assert_eq!(event.message_id, "m-1");
    assert_eq!(event.timestamp_ms, NOW - 1_000);
    assert_eq!(event.fields["context"]["app"]["version"], "1");
    assert!(event.field("whatever").is_none() && event.field("decisionInfo").is_none());
}

struct Known;

impl Rules for Known {
    fn facts(&self, flag: &str, rule: Option<&str>, variation: Option<&str>) -> Facts {
        assert_eq!(
            (flag, rule, variation),
            ("checkout", Some("checkout_ab"), Some("treatment"))
        );
        let text = |text: &str| Some(text.to_owned());
        Facts {
            slug: text("checkout_ab12"),
            rule_kind: Some(RuleKind::Experiment),
            experiment_key: text("checkout_ab"),
            experiment_id: text("other"),
            variation_id: text("other"),
            layer_id: text("30001"),
            revision: text("42"),
        }
    }
}

#[test]
fn a_datafile_fills_in_what_the_report_left_out() {
    let given = shapes().remove(0).1.to_string();
    let body = Body::decisions(&given, 1).unwrap();
    let decision = taken(&body, 0, &Known).unwrap().fields["decision"].clone();
    for (key, wanted) in [
        ("flagSlug", "checkout_ab12"),
        ("ruleKind", "experiment"),
        ("experimentKey", "checkout_ab"),
        ("experimentId", "20001"),
        ("variationId", "40002"),
        ("layerId", "30001"),
        ("revision", "42"),
    ] {
        assert_eq!(decision[key], wanted, "{key}");
    }
}

fn track(event: &str, properties: &Value) -> Event {
    let text =
        json!({"event": event, "userId": "u", "messageId": "m", "properties": properties, "x": 1})
            .to_string();
    let body = Body::single(&text).unwrap();
    let acceptance = Acceptance {
        source: "src_1",
        received_at_ms: NOW,
        event_bytes_max: 32 << 10,
        make_id: &|| Uuid::from_u128(7),
        rules: &NoRules,
        admits: None,
    };
    let accepted = body
        .accept(0, Some(Kind::Track), &acceptance, &mut BytesMut::new())
        .unwrap();
    let event = Event::decode(&accepted.record).unwrap();
    assert_eq!(accepted.kind, event.kind);
    event
}

#[test]
fn a_track_call_may_tell_of_a_decision() {
    let properties = json!({"flag_key": "new-nav", "variation_key": "a", "rule_key": "r", "enabled": "true", "page": "/"});
    for name in ["Experiment Viewed", "$feature_flag_called"] {
        let event = track(name, &properties);
        assert_eq!(event.kind, Kind::Decision);
        assert_eq!(
            event.fields["decision"],
            json!({"type": "flag", "flagKey": "new-nav", "flagSlug": "new_nav_3d75", "enabled": true,
                   "variationKey": "a", "ruleKey": "r", "origin": "sdk"})
        );
        assert_eq!(
            (
                &event.fields["event"],
                &event.fields["properties"],
                &event.fields["x"]
            ),
            (&json!(name), &properties, &json!(1))
        );
        let same = json!({"type": "track", "event": name, "userId": "u", "properties": properties});
        assert_eq!(
            posted(&same.to_string()).unwrap().fields["decision"],
            event.fields["decision"]
        );
    }
    for (variation, enabled) in [
        (json!("off"), false),
        (json!("a"), true),
        (json!(null), false),
    ] {
        let event = track(
            "Experiment Viewed",
            &json!({"flag_key": "f", "variation_key": variation}),
        );
        assert_eq!(event.fields["decision"]["enabled"], enabled);
    }
    for (name, properties) in [
        ("Experiment Viewed", json!({"experiment_id": "x"})),
        ("Experiment Viewed", json!({"flag_key": ""})),
        ("Experiment Viewed", json!({"flag_key": "f", "enabled": []})),
        ("experiment viewed", json!({"flag_key": "f"})),
        ("Order Completed", json!({"flag_key": "f"})),
    ] {
        assert_eq!(
            track(name, &properties).kind,
            Kind::Track,
            "{name} {properties}"
        );
    }
}
