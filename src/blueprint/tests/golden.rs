//! Conversions made by the shipped Optimizely blueprints against what the official SDKs sent.

use serde_json::{Value, json};

use super::{builtin, event, fixtures, only, optimizely, plan_with, read_json, tables_of};
use crate::blueprint::{PartResult, Plan};

const SDKS: [&str; 3] = [
    "javascript-sdk-6.6.1",
    "javascript-sdk-5.4.1",
    "python-sdk-5.7.0",
];

/// One recorded `track`: what the SDK was given, and what it sent.
struct Tracked {
    sdk: &'static str,
    /// The case's name; the same case was run with each SDK.
    case: String,
    key: Value,
    user: Value,
    attributes: Value,
    tags: Value,
    /// The whole body, but with this conversion's visitor only.
    sent: Value,
}

impl Tracked {
    /// What was sent about the event itself.
    fn conversion(&mut self) -> &mut Value {
        &mut self.sent["visitors"][0]["snapshots"][0]["events"][0]
    }

    /// What an app posts for it.
    fn posted(&self, properties: Value) -> Value {
        let sent = &self.sent["visitors"][0]["snapshots"][0]["events"][0];
        json!({
            "type": "track",
            "event": self.key,
            "userId": self.user,
            "eventId": sent["uuid"],
            "timestamp": sent["timestamp"],
            "traits": self.attributes,
            "properties": properties,
        })
    }
}

fn without_nulls(tags: Option<&Value>) -> Value {
    let mut tags = tags.cloned().unwrap_or_default();
    if let Some(tags) = tags.as_object_mut() {
        tags.retain(|_, tag| !tag.is_null());
    }
    tags
}

/// Every conversion recorded of an SDK, beside the call it came from.
fn tracked(sdk: &'static str) -> Vec<Tracked> {
    let mut found = Vec::new();
    for scenario in ["main", "batch"] {
        let folder = fixtures().join(sdk);
        let notifications = read_json(&folder.join(format!("{scenario}.notifications.json")));
        let mut calls: Vec<&Value> = notifications
            .as_array()
            .expect("a list")
            .iter()
            .filter(|one| one["notification"] == "TRACK")
            .collect();
        let requests = read_json(&folder.join(format!("{scenario}.requests.json")));
        for request in requests.as_array().expect("requests") {
            for visitor in request["body"]["visitors"].as_array().expect("visitors") {
                let conversion = &visitor["snapshots"][0]["events"][0];
                if conversion["key"] == "campaign_activated" {
                    continue;
                }
                // JavaScript 5 tells its listeners another uuid than it sends.
                let told = |call: &&Value| {
                    let (key, tags) = match call.get("payload") {
                        Some(payload) => (&payload["eventKey"], payload.get("eventTags")),
                        None => (
                            &call["positional_args"][0],
                            Some(&call["positional_args"][3]),
                        ),
                    };
                    *key == conversion["key"]
                        && without_nulls(tags) == without_nulls(conversion.get("tags"))
                };
                let at = calls.iter().position(told).expect("the call it came from");
                let call = calls.remove(at);
                let given = |name: &str, at: usize| match call.get("payload") {
                    Some(payload) => payload[name].clone(),
                    None => call["positional_args"][at].clone(),
                };
                let mut sent = request["body"].clone();
                sent["visitors"] = json!([visitor]);
                found.push(Tracked {
                    sdk,
                    case: call["case"].as_str().expect("a name").to_owned(),
                    key: given("eventKey", 0),
                    user: given("userId", 1),
                    attributes: given("attributes", 2),
                    tags: given("eventTags", 3),
                    sent,
                });
            }
        }
        assert!(calls.is_empty(), "{sdk} {scenario}: calls never sent");
    }
    found
}

/// The body we send for an event.
fn made(plan: &Plan, posted: Value) -> Value {
    let datafile = read_json(&fixtures().join("datafiles/golden_v4.json"));
    let tables = tables_of(plan, &datafile);
    let item = match only(plan.map(&event(posted), &tables)) {
        PartResult::Item { json, .. } => json,
        other => panic!("{other:?}"),
    };
    let made = plan.assemble(0, &[&item], &tables).expect("a request");
    assert_eq!(made.url.expose(), "https://logx.optimizely.com/v1/events");
    serde_json::from_slice(&made.body).expect("JSON")
}

/// Makes 3.0 and 3 one: the SDKs write the same number in their languages' ways.
fn plain_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_str().strip_suffix(".0") {
                *value = serde_json::from_str(whole).expect("a number");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(plain_numbers),
        Value::Object(members) => members.values_mut().for_each(plain_numbers),
        _ => {}
    }
}

/// `uuid` and `timestamp` need no mask: they are given with the event.
fn masked(mut envelope: Value) -> Value {
    for key in ["client_name", "client_version"] {
        envelope[key] = json!("masked");
    }
    plain_numbers(&mut envelope);
    envelope
}

/// `optimizely/sdk` is given what the SDK was given, to the letter, and sends what the JavaScript SDK sends.
///
/// Where the Python SDK reads `revenue` and `value` otherwise, or keeps a null tag, JavaScript's is the measure:
/// what it lifted in the case of the same name.
#[test]
fn every_recorded_conversion_equals_the_javascript_sdks() {
    let (_, text) = builtin()
        .iter()
        .find(|(path, _)| *path == "optimizely/sdk")
        .expect("shipped");
    let plan = plan_with(
        text,
        json!({"account_id": "12345678", "project_id": "98765432", "sdk_key": "golden_sdk_key"}),
    );
    let mut measures = tracked("javascript-sdk-6.6.1");
    let mut compared = [0; SDKS.len()];
    for (sdk, count) in SDKS.into_iter().zip(&mut compared) {
        for mut one in tracked(sdk) {
            if sdk.starts_with("python") {
                let measure = measures.iter_mut().find(|other| other.case == one.case);
                let conversion = one.conversion();
                if let Some(tags) = conversion.get_mut("tags") {
                    *tags = without_nulls(Some(tags));
                }
                if let Some(measure) = measure {
                    for lifted in ["revenue", "value"] {
                        match measure.conversion().get(lifted) {
                            Some(value) => conversion[lifted] = value.clone(),
                            None => assert_eq!(conversion.get(lifted), None),
                        }
                    }
                } else {
                    assert_eq!(one.case, "init", "a case JavaScript was not run with");
                }
            }
            let ours = made(&plan, one.posted(one.tags.clone()));
            assert_eq!(masked(ours), masked(one.sent), "{sdk} {}", one.case);
            *count += 1;
        }
    }
    // All there are.
    assert_eq!(compared, [10, 5, 7]);
}

/// `optimizely/default` takes amounts: 89.99 for the SDK's 8999.
///
/// Only whole hundredths can be posted as an amount, and what is no number is no amount: those cases are
/// `optimizely/sdk`'s alone. An amount posted as text is a number wherever it is sent.
#[test]
fn amounts_become_what_the_sdks_send_for_hundredths() {
    let plan = optimizely(json!({}));
    let (mut compared, mut no_amounts) = (0, 0);
    for mut one in SDKS.into_iter().flat_map(tracked) {
        let mut properties = one.tags.clone();
        if let Some(revenue) = one.tags.get("revenue").cloned() {
            let lifted = one.conversion().get("revenue").and_then(Value::as_i64);
            let whole = revenue.as_i64().is_some() || revenue.as_str().is_some();
            let Some(hundredths) = lifted.filter(|_| whole) else {
                no_amounts += 1;
                continue;
            };
            let sign = if hundredths < 0 { "-" } else { "" };
            let size = hundredths.unsigned_abs();
            let amount = format!("{sign}{}.{:02}", size / 100, size % 100);
            properties["revenue"] = if revenue.is_string() {
                one.conversion()["tags"]["revenue"] = json!(hundredths);
                Value::from(amount)
            } else {
                serde_json::from_str(&amount).expect("a number")
            };
        }
        let ours = made(&plan, one.posted(properties));
        assert_eq!(masked(ours), masked(one.sent), "{} {}", one.sdk, one.case);
        compared += 1;
    }
    // A fraction, "abc" and true in JavaScript 6, a fraction in 5; text, a fraction and true in Python.
    assert_eq!((compared, no_amounts), (15, 7));
}
