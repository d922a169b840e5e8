//! Durable appends: 256 producers of one record each, and 32 of 50, 1 KB records. Run with
//! `cargo bench --bench append`; the directory is made under the target directory, on a real disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aqueduct::clock::SystemClock;
use aqueduct::journal::store::{random_key, sqlite::SqliteStore};
use aqueduct::journal::{Journal, Options, Record};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};

/// Rounds each producer makes in one iteration.
const ROUNDS: u64 = 8;

fn record(id: u64) -> Record {
    let fill: String = (0..12)
        .map(|at| {
            format!(
                r#""property_{at}":"{:032x}","currency":"GBP","quantity":{},"#,
                (id + at).wrapping_mul(0x9e37_79b9_7f4a_7c15),
                id % 9
            )
        })
        .collect();
    let bytes =
        format!(r#"{{"type":"track","event":"Order Completed","messageId":"{id}",{fill}"z":0}}"#);
    Record {
        fingerprint: id + 1,
        bytes: Bytes::from(bytes),
    }
}

async fn round(
    journal: &Journal,
    next: &Arc<AtomicU64>,
    templates: &Arc<Vec<Record>>,
    producers: u64,
    batch: u64,
) {
    let tasks = (0..producers).map(|_| {
        let (journal, next, templates) = (journal.clone(), Arc::clone(next), Arc::clone(templates));
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let first = next.fetch_add(batch, Ordering::Relaxed);
                let records = (first..first + batch).map(|id| Record {
                    fingerprint: id + 1,
                    bytes: templates[usize::try_from(id).unwrap_or(0) % templates.len()]
                        .bytes
                        .clone(),
                });
                let answer = journal.append(records.collect()).await;
                assert_eq!(answer.map(|one| one.stored).ok(), Some(batch));
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert!(task.await.is_ok());
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn append(criterion: &mut Criterion) {
    let runtime = runtime();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let store = SqliteStore::open(dir.path(), random_key()).expect("a store");
    let options = Options {
        retain_ms: 0,
        ..Options::default()
    };
    let journal =
        Journal::open(Box::new(store), options, Arc::new(SystemClock)).expect("a journal");
    let next = Arc::new(AtomicU64::new(0));
    let templates = Arc::new((0..512).map(record).collect::<Vec<_>>());
    let mut group = criterion.benchmark_group("append");
    group.sample_size(10);
    for (producers, batch) in [(32, 1), (256, 1), (32, 50)] {
        group.throughput(Throughput::Elements(producers * batch * ROUNDS));
        group.bench_function(
            BenchmarkId::new(format!("{producers} producers"), batch),
            |bencher| {
                bencher.iter(|| {
                    runtime.block_on(round(&journal, &next, &templates, producers, batch))
                });
            },
        );
    }
    group.finish();
    runtime.block_on(journal.close());
}

criterion_group!(benches, append);
criterion_main!(benches);
