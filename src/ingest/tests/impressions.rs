//! A decision made here reaches Optimizely as an SDK's own would: asked at the door, mapped by the shipped blueprint,
//! compared with what the official SDKs sent for the same user, flag and attributes.

use super::decide::{golden, publish};
use super::*;
use crate::blueprint::{self, Mapping, PartResult, Plan, Table, Tables};

fn read(path: &str) -> Value {
    let path = format!(
        "{}/tests/fixtures/optimizely/{path}",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn plan() -> Plan {
    let (_, text) = blueprint::builtin()[0];
    let shipped = blueprint::check(text).blueprint.expect("it checks");
    let config = json!({"account_id": "12345678", "project_id": "98765432"});
    let config = shipped
        .trial_config(config.as_object().expect("object"))
        .expect("a config");
    shipped.bind(&config, &|_| false).expect("a plan")
}

fn tables(plan: &Plan, document: &Value) -> Tables {
    let mut tables = Tables::default();
    for source in plan.tables() {
        let table = Table::read(plan, &source.name, document).expect("a table");
        tables.tables.insert(source.name.clone(), Arc::new(table));
    }
    tables
}

/// The requests an event becomes, by their names.
fn sent(plan: &Plan, tables: &Tables, event: &Event) -> Vec<(String, Value)> {
    let Mapping::Parts(parts) = plan.map(event, tables) else {
        panic!("the blueprint has an entry for decisions");
    };
    let items = parts.into_iter().filter_map(|part| match part.result {
        PartResult::Item { json, .. } => Some((part.request, json)),
        _ => None,
    });
    items
        .map(|(request, json)| {
            let made = plan.assemble(request, &[&json], tables).expect("a request");
            let body = serde_json::from_slice(&made.body).expect("JSON");
            (made.name, body)
        })
        .collect()
}

/// Without what differs from one sending to the next. Where nothing is known JavaScript 6 says null, the others "".
fn masked(mut body: Value) -> Value {
    body["client_name"] = json!("masked");
    body["client_version"] = json!("masked");
    let snapshot = &mut body["visitors"][0]["snapshots"][0];
    for (part, keys) in [
        ("events", ["uuid", "timestamp", "entity_id"]),
        ("decisions", ["", "campaign_id", "variation_id"]),
    ] {
        let entry = snapshot[part][0].as_object_mut().expect("an entry");
        for key in keys {
            match entry.get_mut(key) {
                Some(value) if matches!(key, "uuid" | "timestamp") => *value = json!("masked"),
                Some(value) if value.is_null() => *value = json!(""),
                _ => {}
            }
        }
    }
    body
}

/// Whom an SDK decided for, with which attributes, and the case's forced decisions.
fn question(case: &Value) -> Option<Value> {
    if case["notification"] != "DECISION" {
        return None;
    }
    let (user, attributes, info) = match case["positional_args"].as_array() {
        Some(args) => (&args[1], &args[2], &args[3]),
        None => {
            let payload = &case["payload"];
            (
                &payload["userId"],
                &payload["attributes"],
                &payload["decisionInfo"],
            )
        }
    };
    let either = |one: &str, other: &str| info.get(one).or(info.get(other)).cloned();
    if either("decisionEventDispatched", "decision_event_dispatched")? == false {
        return None;
    }
    let flag = either("flagKey", "flag_key")?;
    let forced = match case["case"].as_str()? {
        "forced_flag" => json!([{"flagKey": flag, "variationKey": "treatment"}]),
        "forced_rule" => {
            json!([{"flagKey": flag, "ruleKey": "checkout_redesign_ab", "variationKey": "control"}])
        }
        _ => json!([]),
    };
    Some(
        json!({"userId": user, "attributes": attributes, "keys": [flag], "forcedDecisions": forced}),
    )
}

#[tokio::test]
async fn impressions_equal_the_official_sdks() {
    let document = golden("golden_v4");
    let plan = plan();
    let tables = tables(&plan, &document);
    let door = door();
    publish(&door, "int_1", &document);
    let mut compared = 0;
    for scenario in [
        "javascript-sdk-6.6.1/main",
        "javascript-sdk-6.6.1/batch",
        "javascript-sdk-6.6.1/decide_all",
        "javascript-sdk-5.4.1/main",
        "python-sdk-5.7.0/main",
        "python-sdk-5.7.0/batch",
    ] {
        let mut theirs = Vec::new();
        for request in read(&format!("{scenario}.requests.json"))
            .as_array()
            .expect("requests")
        {
            // The JS 5 SDK cuts bodies with letters beyond ASCII: those are recorded as text.
            for visitor in request["body"]["visitors"].as_array().into_iter().flatten() {
                if visitor["snapshots"][0].get("decisions").is_some() {
                    let mut body = request["body"].clone();
                    body["visitors"] = json!([visitor]);
                    theirs.push(masked(body));
                }
            }
        }
        let cases = read(&format!("{scenario}.notifications.json"));
        let mut ours = Vec::new();
        for question in cases.as_array().expect("cases").iter().filter_map(question) {
            let answer = door.post("/v1/decide", question.to_string()).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let event = door.events().pop().expect("an event");
            let sent = sent(&plan, &tables, &event);
            let [(name, body)] = sent.as_slice() else {
                panic!("one request, not {sent:?}");
            };
            assert_eq!(name, "impression");
            let item = &body["visitors"][0]["snapshots"][0]["events"][0];
            assert_eq!(item["uuid"], event.event_id.to_string());
            assert_eq!(item["timestamp"], NOW);
            ours.push(masked(body.clone()));
        }
        for body in theirs {
            let place = ours.iter().position(|own| *own == body);
            let place = place.unwrap_or_else(|| panic!("{scenario}: {body}\nnot among {ours:#?}"));
            ours.remove(place);
            compared += 1;
        }
        // Only what was sent as cut JSON has nothing to be compared with.
        assert!(
            ours.is_empty() || scenario.starts_with("javascript-sdk-5"),
            "{scenario}: {ours:#?}"
        );
    }
    // JS 6: 11, 4 and 29; JS 5: 5 (the cut bodies aside); Python: 10 and 4.
    assert_eq!(compared, 63);
}

#[tokio::test]
async fn a_holdout_beside_a_delivery_is_a_second_impression() {
    let document = golden("golden_v4_misc");
    let plan = plan();
    let tables = tables(&plan, &document);
    let door = door();
    publish(&door, "int_1", &document);
    let mut seen = 0;
    for n in 0..40 {
        let body = json!({"userId": format!("u{n}"), "keys": "dark_mode", "attributes": {"plan": "premium"}, "messageId": n.to_string()});
        door.post("/v1/decide", body.to_string()).await;
        let event = door.events().pop().expect("an event");
        let sent = sent(&plan, &tables, &event);
        if sent.len() == 1 {
            continue;
        }
        seen += 1;
        let [(first, _), (second, body)] = sent.as_slice() else {
            panic!("two requests, not {sent:?}");
        };
        assert_eq!(
            (first.as_str(), second.as_str()),
            ("impression", "held_out")
        );
        let held = &event.fields["decision"]["heldOut"];
        assert_ne!(held["impressionId"], event.event_id.to_string());
        assert_eq!(
            body["visitors"],
            json!([{
                "visitor_id": format!("u{n}"),
                "attributes": [
                    {"entity_id": "90001", "key": "plan", "type": "custom", "value": "premium"},
                    {"entity_id": "$opt_bot_filtering", "key": "$opt_bot_filtering", "type": "custom", "value": true},
                ],
                "snapshots": [{
                    "decisions": [{
                        "campaign_id": "92001", "experiment_id": "92001", "variation_id": null,
                        "metadata": {"flag_key": "dark_mode", "rule_key": "global_ho_excl_td", "rule_type": "holdout",
                            "variation_key": "off", "enabled": false},
                    }],
                    "events": [{"entity_id": "92001", "timestamp": NOW, "key": "campaign_activated", "uuid": held["impressionId"]}],
                }],
            }])
        );
    }
    assert!(seen > 5, "{seen}");
}
