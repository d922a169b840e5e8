//! What one flag decision costs on its way to four vendors (Heap, Pendo, Brevo, ODP), before HTTP.
//!
//! `four vendors`: for each, the stored record is read, mapped and written as the items of its requests. `four
//! pipelines`: the same as the gateway's pipelines do it, and all that follows: the ledger of what is on its way, lanes,
//! marks, batches, rates, the requests with their bodies, the vendors' (empty) answers taken in, the settling. Both by
//! the gateway's own functions and with its allocator.
//!
//! Run with `cargo bench --bench fanout`. The aim is under 25 µs for all four. What is counted is the thread's own time
//! on the processor, so that a busy machine does not make it longer.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use aqueduct::blueprint::{self, Mapping, PartResult, Plan, Tables};
use aqueduct::delivery::rehearsal::Rehearsal;
use aqueduct::registry::{Integration, Tuning};
use bytes::Bytes;
use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use serde_json::json;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VENDORS: [&str; 4] = ["heap", "pendo", "brevo", "odp"];

/// Decisions taken through the pipelines at a time, each of another user.
const CHUNK: u32 = 2_000;

/// `receivedAt` of the records.
const ACCEPTED_MS: i64 = 1_795_183_407_501;

/// A link to the vendor with every request switched on that a decision can have a share in.
fn integration(path: &str) -> Integration {
    let (_, text) = blueprint::builtin()
        .iter()
        .find(|(known, _)| *known == path)
        .expect("a shipped blueprint");
    let blueprint = blueprint::check(text)
        .blueprint
        .expect("shipped blueprints check");
    let (vendor, variant) = path.split_once('/').expect("vendor and variant");
    let entered = match vendor {
        "heap" => json!({"app_id": "11"}),
        "pendo" => json!({"integration_key": "key", "track_secret": "secret"}),
        _ => json!({"api_key": "key", "per_flag_attributes": true}),
    };
    let config = blueprint
        .trial_config(entered.as_object().expect("an object"))
        .expect("a config");
    let plan = blueprint.bind(&config, &|_| false).expect("a plan");
    Integration {
        id: format!("int_{vendor}"),
        vendor: vendor.to_owned(),
        variant: variant.to_owned(),
        name: vendor.to_owned(),
        sources: None,
        config,
        tuning: Tuning::default(),
        paused: None,
        blueprint_revision: 1,
        blueprint_text: String::new(),
        blueprint: Arc::new(blueprint),
        plan: Arc::new(plan),
        version: 1,
        created_at_ms: 0,
    }
}

/// A decision as ingest stores it, with everything a server-side SDK tells.
fn record(user: &str) -> Bytes {
    json!({
        "type": "decision", "eventId": "5f0c1f7e-8a52-5c1b-9c1e-2b7a3f9d0b01", "source": "src_default",
        "messageId": "2f1c6a3e-0d0b-4a57-9a7d-0e6f0a5f3b11", "receivedAt": "2026-11-20T14:03:27.501Z",
        "timestamp": "2026-11-20T14:03:27.412Z", "userId": user,
        "context": {"library": {"name": "optimizely-node", "version": "6.6.1"}},
        "decision": {
            "type": "flag", "flagKey": "checkout-redesign", "flagSlug": "checkout_redesign", "enabled": true,
            "variationKey": "treatment", "ruleKey": "checkout_redesign_test", "ruleKind": "experiment",
            "experimentKey": "checkout_redesign_test", "experimentId": "9300000012345", "variationId": "9400000012345",
            "layerId": "9200000012345", "revision": "42", "decisionEventDispatched": true,
            "variables": {"button_text": "Place order", "max_items": 25, "discount": 0.15, "express": true},
            "attributes": {"plan": "premium", "email": format!("{user}@example.com"), "country": "GB", "lifetime_orders": 7},
            "origin": "sdk",
        },
    })
    .to_string()
    .into()
}

/// What a pipeline makes of a record it has read; bytes of the items.
fn one(plan: &Plan, tables: &Tables, record: &[u8]) -> usize {
    let seen = plan.read(record).expect("an event");
    let Mapping::Parts(parts) = plan.map_read(&seen, tables) else {
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
    let (one_record, tables) = (record("user_123"), Tables::default());
    let records: Vec<Bytes> = (0..CHUNK)
        .map(|n| record(&format!("user_{n:05}")))
        .collect();
    let mut group = criterion.benchmark_group("fanout");
    // Few long samples: Linux counts a thread's time in ticks of a few milliseconds.
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    for variant in ["decisions", "default"] {
        let links: Vec<Arc<Integration>> = VENDORS
            .iter()
            .map(|vendor| Arc::new(integration(&format!("{vendor}/{variant}"))))
            .collect();
        for link in &links {
            // A vendor that is sent nothing would make the figure a lie.
            assert!(one(&link.plan, &tables, &one_record) > 100);
        }
        group.bench_function(format!("four vendors, {variant}"), |bench| {
            bench.iter_custom(|rounds| {
                timed(rounds, || {
                    for link in &links {
                        black_box(one(&link.plan, &tables, black_box(&one_record)));
                    }
                })
            });
        });
        for (vendor, link) in VENDORS.iter().zip(&links) {
            group.bench_function(format!("{vendor}, {variant}"), |bench| {
                bench.iter_custom(|rounds| {
                    timed(rounds, || {
                        black_box(one(&link.plan, &tables, black_box(&one_record)));
                    })
                });
            });
        }
        // Pipelines that know nothing of these users yet: a repeat would not be sent.
        let mut through = || {
            for link in &links {
                let made = Rehearsal::new(link.clone(), ACCEPTED_MS).run(&records);
                assert!(made.items >= records.len(), "{made:?}");
            }
        };
        group.bench_function(format!("four pipelines, {variant}"), |bench| {
            bench.iter_custom(|rounds| {
                // A round is one decision; they are taken through by the chunk.
                let chunks = rounds.div_ceil(u64::from(CHUNK));
                let whole = timed(chunks, &mut through) / CHUNK;
                whole.mul_f64(rounds as f64 / chunks as f64)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, fanout);
criterion_main!(benches);
