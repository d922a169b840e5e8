//! Any text as a blueprint, any JSON as an event: no panic, and what is sent is JSON.
//!
//! The input is a blueprint and, after a NUL byte, an event. Start from the shipped blueprints:
//! `mkdir -p corpus/blueprint && cp ../blueprints/*/*.yaml corpus/blueprint/ && cargo +nightly fuzz run blueprint`.

#![no_main]

use aqueduct::blueprint::{self, Mapping, PartResult, Tables};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

fuzz_target!(|input: &str| {
    let (text, posted) = input.split_once('\0').unwrap_or((input, ""));
    let checked = blueprint::check(text);
    let _ = blueprint::render("fuzz.yaml", text, &checked.diagnostics);
    let Some(blueprint) = checked.blueprint else {
        return;
    };
    let Ok(config) = blueprint.trial_config(&Map::new()) else {
        return;
    };
    let Ok(plan) = blueprint.bind(&config, &|_| true) else {
        return;
    };
    let posted = serde_json::from_str(posted).unwrap_or_else(|_| {
        json!({"type": "track", "event": "Order Completed", "userId": "u", "traits": {"a": 1},
            "properties": {"total": 19.99, "currency": "GBP", "products": [{"quantity": 2}]}})
    });
    let Ok(event) = blueprint::event_of(&posted, 0) else {
        return;
    };
    let tables = Tables::default();
    let (mapping, _) = plan.map_traced(&event, &tables);
    let Mapping::Parts(parts) = mapping else {
        return;
    };
    for part in parts {
        if let PartResult::Item { json, .. } = part.result {
            serde_json::from_slice::<Value>(&json).expect("an item is JSON");
            if let Ok(request) = plan.assemble(part.request, &[&json], &tables)
                && !request.body.is_empty()
            {
                serde_json::from_slice::<Value>(&request.body).expect("a body is JSON");
            }
        }
    }
});
