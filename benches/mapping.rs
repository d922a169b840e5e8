//! What one event costs from its parsed form to the JSON bytes of its item, and a batch to its body.
//!
//! Run with `cargo bench --bench mapping`. The aim is at most 3 µs for a typical event.

use std::hint::black_box;
use std::sync::Arc;

use aqueduct::blueprint::{self, Mapping, PartResult, Plan, Table, Tables};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use serde_json::json;

fn plan() -> Plan {
    let (_, text) = blueprint::builtin()[0];
    let blueprint = blueprint::check(text)
        .blueprint
        .expect("shipped blueprints check");
    let config = blueprint
        .trial_config(&serde_json::Map::new())
        .expect("a trial config");
    blueprint.bind(&config, &|_| false).expect("a plan")
}

fn tables(plan: &Plan) -> Tables {
    let document = json!({
        "revision": "42", "region": "US", "botFiltering": true, "anonymizeIP": true,
        "events": [{"key": "purchase", "id": "1"}, {"key": "signup", "id": "2"}],
        "attributes": [{"key": "plan", "id": "3"}, {"key": "age", "id": "4"}],
    });
    let mut tables = Tables::default();
    for source in plan.tables() {
        let table = Table::read(plan, &source.name, &document).expect("a table");
        tables.tables.insert(source.name.clone(), Arc::new(table));
    }
    tables
}

fn mapping(criterion: &mut Criterion) {
    let plan = plan();
    let tables = tables(&plan);
    let context = json!({
        "ip": "203.0.113.7", "locale": "en-GB", "userAgent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/145.0",
        "page": {"url": "https://shop.example/checkout", "path": "/checkout", "title": "Checkout"},
        "library": {"name": "analytics.js", "version": "2.1.0"}, "traits": {"plan": "pro", "age": 42, "shoe": 43},
    });
    let posted = [
        (
            "order",
            json!({"type": "track", "event": "Order Completed", "messageId": "m-1", "userId": "u-1",
                "timestamp": "2026-11-20T14:03:27.412Z", "context": context,
                "properties": {"order_id": "ORD-5521", "total": 89.99, "currency": "gbp", "coupon": "SUMMER",
                    "products": [{"sku": "A", "price": 19.99, "quantity": 2}, {"sku": "B", "price": 50.01, "quantity": 1}]}}),
        ),
        (
            "signup",
            json!({"type": "track", "event": "signup", "messageId": "m-2", "userId": "u-1",
                "timestamp": "2026-11-20T14:03:27.412Z", "context": context,
                "properties": {"plan": "pro", "seats": 3, "trial": false}}),
        ),
    ];
    let mut group = criterion.benchmark_group("map");
    let mut item = Vec::new();
    for (name, posted) in &posted {
        let event = blueprint::event_of(posted, 0).expect("an event");
        group.bench_with_input(BenchmarkId::from_parameter(name), &event, |bench, event| {
            bench.iter(|| black_box(plan.map(black_box(event), &tables)));
        });
        if let Mapping::Parts(parts) = plan.map(&event, &tables)
            && let PartResult::Item { json, .. } = &parts[0].result
        {
            item = json.to_vec();
        }
    }
    group.finish();
    let items: Vec<&[u8]> = vec![&item; 1000];
    criterion.bench_function("assemble/1000", |bench| {
        bench.iter(|| black_box(plan.assemble(0, black_box(&items), &tables)));
    });
    criterion.bench_function("envelope_key", |bench| {
        bench.iter(|| black_box(plan.envelope_key(0, &tables)));
    });
    let (_, text) = blueprint::builtin()[0];
    criterion.bench_function("check", |bench| {
        bench.iter(|| black_box(blueprint::check(black_box(text))));
    });
}

criterion_group!(benches, mapping);
criterion_main!(benches);
