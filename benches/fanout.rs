//! What one flag decision costs on its way to four vendors (Heap, Pendo, Brevo, ODP), before HTTP.
//!
//! `four vendors`: for each, the stored record is read, mapped and written as the items of its requests. `four pipelines
//! up to HTTP`: the same as the gateway's pipelines do it, with the ledger of what is on its way, lanes, marks, batches,
//! rates, and the requests with their bodies. `four pipelines`: and what comes after HTTP, the vendors' (empty) answers
//! taken in and the settling. All by the gateway's own functions and with its allocator.
//!
//! Run with `cargo bench --bench fanout`. The aim is under 25 µs for all four. What is counted is the thread's own time
//! on the processor, so that a busy machine does not make it longer.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use aqueduct::blueprint::{self, Mapping, PartResult, Plan, Sheet, Tables};
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
fn one(plan: &Plan, tables: &Tables, record: &[u8], sheet: &mut Sheet) -> usize {
    let seen = plan.read(record).expect("an event");
    let Mapping::Parts(parts) = plan.map_read(&seen, tables, sheet) else {
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

/// This thread's time on the processor so far.
fn on_processor() -> Duration {
    let had = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(had).expect("a time that goes forward")
}

fn timed(rounds: u64, mut round: impl FnMut()) -> Duration {
    let before = on_processor();
    for _ in 0..rounds {
        round();
    }
    on_processor().saturating_sub(before)
}

/// Pipelines that go on and on, as a gateway's do.
struct Course {
    pipelines: Vec<Rehearsal>,
    /// Users so far: each decision is of one the pipelines have not met, for a repeat would not be sent.
    users: u32,
}

/// Time on the processor.
#[derive(Default)]
struct Spent {
    before_sending: Duration,
    whole: Duration,
}

impl Course {
    fn new(links: &[Arc<Integration>]) -> Self {
        let begin =
            |link: &Arc<Integration>| Rehearsal::new(link.clone(), ACCEPTED_MS, on_processor);
        let mut course = Self {
            pipelines: links.iter().map(begin).collect(),
            users: 0,
        };
        // What grows at first has grown.
        course.take(&mut Spent::default());
        course
    }

    /// Takes a chunk of decisions through.
    fn take(&mut self, spent: &mut Spent) {
        let users = self.users..self.users + CHUNK;
        self.users = users.end;
        let records: Vec<Bytes> = users
            .map(|user| record(&format!("user_{user:09}")))
            .collect();
        for pipeline in &mut self.pipelines {
            let begun = on_processor();
            let made = pipeline.run(&records);
            spent.whole += on_processor().saturating_sub(begun);
            spent.before_sending += made.before_sending;
            assert!(made.items >= records.len(), "{made:?}");
        }
    }

    /// What so many decisions cost; they are taken through by the chunk.
    fn spend(&mut self, decisions: u64, what: impl Fn(&Spent) -> Duration) -> Duration {
        let chunks = decisions.div_ceil(u64::from(CHUNK));
        let mut spent = Spent::default();
        for _ in 0..chunks {
            self.take(&mut spent);
        }
        (what(&spent) / CHUNK).mul_f64(decisions as f64 / chunks as f64)
    }
}

fn fanout(criterion: &mut Criterion) {
    let (one_record, tables) = (record("user_123"), Tables::default());
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
            assert!(one(&link.plan, &tables, &one_record, &mut Sheet::default()) > 100);
        }
        group.bench_function(format!("four vendors, {variant}"), |bench| {
            let mut sheet = Sheet::for_many();
            bench.iter_custom(|rounds| {
                timed(rounds, || {
                    for link in &links {
                        black_box(one(&link.plan, &tables, black_box(&one_record), &mut sheet));
                    }
                })
            });
        });
        for (vendor, link) in VENDORS.iter().zip(&links) {
            group.bench_function(format!("{vendor}, {variant}"), |bench| {
                let mut sheet = Sheet::for_many();
                bench.iter_custom(|rounds| {
                    timed(rounds, || {
                        black_box(one(&link.plan, &tables, black_box(&one_record), &mut sheet));
                    })
                });
            });
        }
        group.bench_function(format!("four pipelines up to HTTP, {variant}"), |bench| {
            let mut course = Course::new(&links);
            bench.iter_custom(|rounds| course.spend(rounds, |spent| spent.before_sending));
        });
        group.bench_function(format!("four pipelines, {variant}"), |bench| {
            let mut course = Course::new(&links);
            bench.iter_custom(|rounds| course.spend(rounds, |spent| spent.whole));
        });
    }
    group.finish();
}

criterion_group!(benches, fanout);
criterion_main!(benches);
