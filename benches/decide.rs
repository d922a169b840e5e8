//! What deciding a flag costs: one core, the datafile of the fixtures, users and attributes of the decision vectors.
//!
//! Run with `cargo bench --bench decide`. The aim is at least 200,000 decisions a second.

use std::hint::black_box;
use std::path::Path;

use aqueduct::datafile::{Datafile, Options, Traits, User};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Map, Value};

struct Asked {
    user: String,
    attributes: Map<String, Value>,
    flag: String,
}

fn fixture(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/optimizely");
    std::fs::read_to_string(root.join(path)).expect("a fixture")
}

fn asked() -> Vec<Asked> {
    fixture("vectors/golden_v4.vectors.jsonl")
        .lines()
        .map(|line| {
            let vector: Value = serde_json::from_str(line).expect("a vector");
            Asked {
                user: vector["user"].as_str().expect("user").to_owned(),
                attributes: vector["attributes"].as_object().expect("object").clone(),
                flag: vector["flag"].as_str().expect("flag").to_owned(),
            }
        })
        .collect()
}

fn decide(criterion: &mut Criterion) {
    let text = fixture("datafiles/golden_v4.json");
    let datafile = Datafile::parse(text.as_bytes()).expect("a datafile");
    let asked = asked();
    let user = |asked: &'static Asked| User {
        id: &asked.user,
        traits: Traits {
            attributes: &asked.attributes,
            segments: &[],
        },
        forced: &[],
    };
    let asked: &'static [Asked] = asked.leak();
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(asked.len() as u64));
    let reasons = Options {
        include_reasons: true,
        ..Options::default()
    };
    for (name, options) in [("plain", Options::default()), ("with_reasons", reasons)] {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                for asked in asked {
                    black_box(datafile.decide(&asked.flag, user(asked), options));
                }
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    let heavy = &asked
        .iter()
        .find(|asked| asked.flag == "checkout_redesign")
        .expect("a flag with variables");
    group.bench_function("five_variables", |bench| {
        bench.iter(|| black_box(datafile.decide(&heavy.flag, user(heavy), Options::default())));
    });
    group.finish();
    criterion.bench_function("parse", |bench| {
        bench.iter(|| black_box(Datafile::parse(black_box(text.as_bytes()))));
    });
}

criterion_group!(benches, decide);
criterion_main!(benches);
