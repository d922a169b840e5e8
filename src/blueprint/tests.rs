//! The language as a whole: what all its tests share, shipped blueprints, config.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    Blueprint, Mapping, PartResult, Plan, Table, Tables, builtin, check, event_of, render,
};
use crate::event::Event;

mod faults;
mod golden;
mod language;
mod texts;
mod travel;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/optimizely")
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("fixture");
    serde_json::from_str(&text).expect("JSON")
}

fn clean(text: &str) -> Blueprint {
    let checked = check(text);
    let shown = render("test.yaml", text, &checked.diagnostics);
    checked.blueprint.unwrap_or_else(|| panic!("{shown}"))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => panic!("{other} is no object"),
    }
}

fn plan_with(text: &str, config: Value) -> Plan {
    let blueprint = clean(text);
    let config = blueprint
        .read_config(&object(config), "config")
        .expect("config");
    blueprint.bind(&config, &|_| false).expect("bound")
}

fn optimizely(extra: Value) -> Plan {
    let mut config =
        json!({"account_id": "12345678", "project_id": "98765432", "sdk_key": "golden_sdk_key"});
    for (key, value) in object(extra) {
        config[key] = value;
    }
    plan_with(builtin()[0].1, config)
}

fn tables_of(plan: &Plan, document: &Value) -> Tables {
    Tables {
        tables: plan
            .tables()
            .iter()
            .map(|source| {
                let table = Table::read(plan, &source.name, document).expect("table");
                (source.name.clone(), Arc::new(table))
            })
            .collect(),
    }
}

fn event(posted: Value) -> Event {
    event_of(&posted, 1_795_183_407_412).expect("event")
}

/// The one part of what an event becomes.
fn only(mapping: Mapping) -> PartResult {
    match mapping {
        Mapping::Parts(mut parts) if parts.len() == 1 => parts.remove(0).result,
        other => panic!("not one part: {other:?}"),
    }
}

fn sent(result: &PartResult) -> Value {
    match result {
        PartResult::Item { json, .. } => {
            let value: Value = serde_json::from_slice(json).expect("JSON");
            // No name is written twice, and nothing is lost on the way.
            assert_eq!(value.to_string().as_bytes(), json);
            value
        }
        other => panic!("not sent: {other:?}"),
    }
}

#[test]
fn shipped_blueprints_check_without_a_remark_and_so_does_their_json() {
    let schema =
        read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("blueprints/blueprint.schema.json"));
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    for (path, text) in builtin() {
        let checked = check(text);
        assert!(
            checked.diagnostics.is_empty(),
            "{}",
            render(path, text, &checked.diagnostics)
        );
        let blueprint = checked.blueprint.expect("it checked clean");
        assert_eq!(
            format!("{}/{}", blueprint.vendor(), blueprint.variant()),
            *path
        );
        assert!(!blueprint.run_examples().is_empty());
        let tree = super::yaml::read(text, &mut super::Faults::default()).expect("YAML");
        let json = tree.to_json();
        let errors: Vec<String> = schema
            .iter_errors(&json)
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{path}: {errors:#?}");
        for json in [
            json.to_string(),
            serde_json::to_string_pretty(&json).expect("JSON"),
        ] {
            let checked = check(&json);
            assert!(
                checked.diagnostics.is_empty(),
                "{}",
                render(path, &json, &checked.diagnostics)
            );
            let results = checked.blueprint.expect("checked").run_examples();
            assert!(results.iter().all(|result| result.passed), "{results:?}");
        }
    }
}

#[test]
fn what_is_entered_is_checked_all_at_once() {
    let blueprint = clean(builtin()[0].1);
    let faults = blueprint
        .read_config(
            &object(json!({"account_id": 12, "projct_id": "1", "sdk_key": "", "revenue_unit": "pounds", "datafile_url": "cdn", "anonymize_ip": "yes"})),
            "config",
        )
        .expect_err("faults");
    let mut found: Vec<(&str, &str)> = faults
        .iter()
        .map(|f| (f.field.as_str(), f.code.as_str()))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("config.account_id", "wrong_type"),
            ("config.anonymize_ip", "wrong_type"),
            ("config.datafile_url", "not_a_url"),
            ("config.projct_id", "unknown_field"),
            ("config.project_id", "missing"),
            ("config.revenue_unit", "unknown_choice"),
            ("config.sdk_key", "missing"),
        ]
    );
    let entered = json!({"account_id": "1", "project_id": "2", "sdk_key": "a\r\nb", "datafile_url": "http://10.0.0.1/x"});
    let config = blueprint
        .read_config(&object(entered), "config")
        .expect("readable");
    let faults = blueprint.bind(&config, &|_| false).expect_err("faults");
    let found: Vec<(&str, &str)> = faults
        .iter()
        .map(|f| (f.field.as_str(), f.code.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("config.sdk_key", "not_ascii"),
            ("config.datafile_url", "not_https")
        ]
    );
    assert!(faults.iter().all(|fault| !fault.message.contains("a\r\nb")));
    let allowed = blueprint.bind(&config, &|url| url.starts_with("http://10."));
    assert_eq!(allowed.expect_err("the key").len(), 1);
}

/// The page that teaches the language shows a whole blueprint and a fault in it: both are as it says.
#[test]
fn the_page_tells_the_truth() {
    let page = include_str!("../../docs/blueprints.md");
    let block = |start: &str| {
        let (_, rest) = page.split_once(start).expect("a block");
        rest.split_once("```").expect("its end").0.to_owned()
    };
    let text = block("```yaml\n");
    let checked = check(&text);
    assert!(
        checked.diagnostics.is_empty(),
        "{}",
        render("acme.yaml", &text, &checked.diagnostics)
    );
    let slip = text.replace("=cents(properties", "=cents(propertes");
    let shown = render("acme.yaml", &slip, &check(&slip).diagnostics);
    let console = block("$ aqueduct check acme.yaml\n");
    assert!(console.starts_with(shown.trim_end()), "{shown}\n{console}");
    for function in super::function::FUNCTIONS {
        assert!(
            page.contains(&format!("`{}(", function.name)),
            "the page does not have {}",
            function.name
        );
    }
}
