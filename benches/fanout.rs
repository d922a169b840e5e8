//! What one flag decision costs on its way to four vendors, before HTTP: for Heap, Pendo, Brevo and ODP each, the stored
//! record is decoded, mapped and written as the items of its requests.
//!
//! Run with `cargo bench --bench fanout`. The aim is under 25 µs for all four. What is counted is the thread's own time
//! on the processor, so that a busy machine does not make it longer.

use std::hint::black_box;
use std::time::Duration;

use aqueduct::blueprint::{self, Mapping, PartResult, Plan, Tables};
use aqueduct::event::Event;
use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use serde_json::json;

/// The blueprint's plan with every request switched on that a decision can have a share in.
fn plan(path: &str) -> Plan {
    let (_, text) = blueprint::builtin()
        .iter()
        .find(|(known, _)| *known == path)
        .expect("a shipped blueprint");
    let blueprint = blueprint::check(text)
        .blueprint
        .expect("shipped blueprints check");
    let entered = match path.split('/').next() {
        Some("heap") => json!({"app_id": "11"}),
        Some("pendo") => json!({"integration_key": "key", "track_secret": "secret"}),
        Some("brevo") => json!({"api_key": "key", "per_flag_attributes": true}),
        _ => json!({"api_key": "key", "per_flag_attributes": true}),
    };
    let config = blueprint
        .trial_config(entered.as_object().expect("an object"))
        .expect("a config");
    blueprint.bind(&config, &|_| false).expect("a plan")
}

/// A decision as ingest stores it, with everything a server-side SDK tells.
fn record() -> Vec<u8> {
    json!({
        "type": "decision", "eventId": "5f0c1f7e-8a52-5c1b-9c1e-2b7a3f9d0b01", "source": "src_default",
        "messageId": "2f1c6a3e-0d0b-4a57-9a7d-0e6f0a5f3b11", "receivedAt": "2026-11-20T14:03:27.501Z",
        "timestamp": "2026-11-20T14:03:27.412Z", "userId": "user_123",
        "context": {"library": {"name": "optimizely-node", "version": "6.6.1"}},
        "decision": {
            "type": "flag", "flagKey": "checkout-redesign", "flagSlug": "checkout_redesign", "enabled": true,
            "variationKey": "treatment", "ruleKey": "checkout_redesign_test", "ruleKind": "experiment",
            "experimentKey": "checkout_redesign_test", "experimentId": "9300000012345", "variationId": "9400000012345",
            "layerId": "9200000012345", "revision": "42", "decisionEventDispatched": true,
            "variables": {"button_text": "Place order", "max_items": 25, "discount": 0.15, "express": true},
            "attributes": {"plan": "premium", "email": "ann@example.com", "country": "GB", "lifetime_orders": 7},
            "origin": "sdk",
        },
    })
    .to_string()
    .into_bytes()
}

/// What a pipeline does with a record it has read; bytes of the items made.
fn one(plan: &Plan, tables: &Tables, record: &[u8]) -> usize {
    let event =
        Event::decode_reading(record, |kind, name| plan.reads(kind, name)).expect("an event");
    let Mapping::Parts(parts) = plan.map(&event, tables) else {
        return 0;
    };
    parts
        .iter()
        .map(|part| match &part.result {
            PartResult::Item { json, .. } => json.len(),
            _ => 0,
        })
        .sum()
}

/// This thread's time on the processor so far. The read itself costs nothing that matters beside the
/// thousands of rounds between two reads.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

fn timed(rounds: u64, mut round: impl FnMut()) -> Duration {
    let before = on_processor();
    for _ in 0..rounds {
        round();
    }
    on_processor().saturating_sub(before)
}

fn fanout(criterion: &mut Criterion) {
    let (record, tables) = (record(), Tables::default());
    let mut group = criterion.benchmark_group("fanout");
    // Few long samples: Linux counts a thread's time in ticks of a few milliseconds.
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    for variant in ["decisions", "default"] {
        let plans: Vec<Plan> = ["heap", "pendo", "brevo", "odp"]
            .iter()
            .map(|vendor| plan(&format!("{vendor}/{variant}")))
            .collect();
        for plan in &plans {
            // A vendor that is sent nothing would make the figure a lie.
            assert!(one(plan, &tables, &record) > 100);
        }
        group.bench_function(format!("four vendors, {variant}"), |bench| {
            bench.iter_custom(|rounds| {
                timed(rounds, || {
                    for plan in &plans {
                        black_box(one(plan, &tables, black_box(&record)));
                    }
                })
            });
        });
        for (vendor, plan) in ["heap", "pendo", "brevo", "odp"].iter().zip(&plans) {
            group.bench_function(format!("{vendor}, {variant}"), |bench| {
                bench.iter_custom(|rounds| {
                    timed(rounds, || {
                        black_box(one(plan, &tables, black_box(&record)));
                    })
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, fanout);
criterion_main!(benches);
