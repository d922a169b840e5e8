//! The shipped blueprints of all vendors: they check without a remark, ask for what the documentation says they ask
//! for, and name readers that exist.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{by_name, replies};
use crate::blueprint::{builtin, check};

/// A config that binds, for each vendor.
fn config(vendor: &str) -> Map<String, Value> {
    let config = match vendor {
        "brevo" => json!({"api_key": "xkeysib-1"}),
        "heap" => json!({"app_id": "11"}),
        "odp" => json!({"api_key": "W4WzcEs"}),
        "pendo" => json!({"track_secret": "t", "integration_key": "k"}),
        _ => json!({"account_id": "1", "project_id": "2", "sdk_key": "k"}),
    };
    config.as_object().cloned().unwrap_or_default()
}

#[test]
fn every_shipped_blueprint_checks_without_a_remark_and_its_examples_hold() {
    for (path, text) in builtin() {
        let checked = check(text);
        let said = crate::blueprint::render(path, text, &checked.diagnostics);
        assert!(checked.blueprint.is_some() && said.is_empty(), "{said}");
    }
}

#[test]
fn every_reader_a_blueprint_names_is_there() {
    let mut named = BTreeMap::new();
    for (path, text) in builtin() {
        let blueprint = check(text).blueprint.unwrap();
        let config = blueprint
            .read_config(&config(blueprint.vendor()), "config")
            .unwrap();
        assert_eq!(
            by_name(blueprint.vendor()).map(|v| v.check_config(&config)),
            Some(vec![]),
            "{path}"
        );
        let plan = blueprint.bind(&config, &|_| false).unwrap();
        for request in plan.requests() {
            if let Some(reader) = &request.replies {
                assert!(replies::reader(reader).is_some(), "{path} names {reader}");
                *named.entry(reader.clone()).or_insert(0) += 1;
            }
        }
    }
    assert_eq!(
        named.keys().map(String::as_str).collect::<Vec<_>>(),
        [
            "brevo_batch",
            "brevo_contact",
            "brevo_event",
            "heap",
            "odp",
            "pendo_metadata",
            "pendo_track"
        ]
    );
}

#[test]
fn installers_are_asked_for_the_fields_the_vendors_guides_name() {
    for (vendor, required, others) in [
        (
            "brevo",
            &["api_key"][..],
            &["base_url", "identifier", "create_contacts"][..],
        ),
        ("heap", &["app_id"], &["region", "base_url"]),
        ("odp", &["api_key"], &["region", "base_url"]),
        (
            "pendo",
            &[],
            &[
                "integration_key",
                "track_secret",
                "region",
                "api_base_url",
                "track_base_url",
            ],
        ),
    ] {
        for variant in ["default", "decisions"] {
            let path = format!("{vendor}/{variant}");
            let (_, text) = builtin().iter().find(|(known, _)| *known == path).unwrap();
            let blueprint = check(text).blueprint.unwrap();
            let needed: Vec<&str> = blueprint
                .fields()
                .iter()
                .filter(|field| !field.optional && field.default.is_none())
                .map(|field| field.key.as_str())
                .collect();
            assert_eq!(needed, required, "{path}");
            let common = ["exposure", "only_dispatched", "dedupe_ttl", "identity_from"];
            for key in others.iter().chain(&common) {
                assert!(
                    blueprint.fields().iter().any(|field| field.key == *key),
                    "{path}: {key}"
                );
            }
        }
    }
}
