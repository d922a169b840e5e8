//! Pipelines by step: the real journal, a real blueprint, a vendor played by a closure, time moved by hand.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Sender;
use super::status::{State, Status};
use super::worker::{Order, Parts, Step, Worker};
use crate::blueprint::{self, ConfigValue, Request, Table, Tables};
use crate::clock::{Clock as _, ManualClock};
use crate::journal::store::sqlite::SqliteStore;
use crate::journal::{DeadFilter, FeedStart, Journal, Ledger, Record};
use crate::logbook::Logbook;
use crate::registry::{Integration, Pause, Tuning};
use crate::vendor::http::{Answer, SendError, SendErrorKind};
use crate::vendor::refresh::Refresh;

pub(super) mod requests;

const BLUEPRINT: &str = r#"
blueprint: acme/default
title: Acme
about: A vendor for tests.
category: Testing
config:
  address: { type: url, label: Address }
tables:
  ids: { from: =config.address, rows: events, key: key, value: id, refresh: 1 min, hold: 15 min, label: event key }
track:
  ignored: drop
  any other event:
    hit:
      key: =event
requests:
  hit:
    post: =config.address
    item:
      id: =required(lookup(ids, fields.key))
      uuid: =eventId
      user: =userId
    batch: { items: 100, bytes: 100 KB, wait: 1 s }
    body:
      items: =items
"#;

const START: i64 = 1_795_223_290_000;
const ID: &str = "int_1";

type Reply = Result<Answer, SendError>;
type Script = Box<dyn FnMut(&Value) -> Reply + Send>;

/// A vendor that answers by a script and remembers what it was sent.
struct Vendor {
    script: Mutex<Script>,
    bodies: Mutex<Vec<Value>>,
}

impl Vendor {
    fn new(script: impl FnMut(&Value) -> Reply + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(Box::new(script)),
            bodies: Mutex::new(Vec::new()),
        })
    }

    fn now_says(&self, script: impl FnMut(&Value) -> Reply + Send + 'static) {
        *self.script.lock() = Box::new(script);
    }

    /// Everything sent since the last call.
    fn taken(&self) -> Vec<Value> {
        std::mem::take(&mut *self.bodies.lock())
    }
}

impl Sender for Arc<Vendor> {
    fn send(&self, request: Request, _: Duration) -> BoxFuture<'static, Reply> {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let reply = (self.script.lock())(&body);
        self.bodies.lock().push(body);
        Box::pin(async move { reply })
    }
}

fn status(status: u16, body: &str) -> Reply {
    Ok(Answer {
        status,
        retry_after: None,
        etag: None,
        last_modified: None,
        headers: Default::default(),
        body: body.to_owned().into(),
        cut: false,
        took: Duration::ZERO,
    })
}

fn users(body: &Value) -> Vec<u64> {
    let items = body["items"].as_array().unwrap();
    let user = |item: &Value| item["user"].as_str().unwrap().parse().unwrap();
    items.iter().map(user).collect()
}

struct Bench {
    dir: Arc<tempfile::TempDir>,
    clock: Arc<ManualClock>,
    journal: Journal,
    tables: watch::Sender<Arc<Tables>>,
    refresh: Refresh,
    status: Arc<Mutex<Status>>,
    rates: super::worker::Rates,
    posted: std::sync::atomic::AtomicU64,
}

fn ids(keys: &[&str]) -> Arc<Tables> {
    let rows = keys
        .iter()
        .map(|key| ((*key).to_owned(), json!(format!("id-{key}"))));
    let table = Arc::new(Table::of(rows));
    Arc::new(Tables {
        tables: [("ids".to_owned(), table)].into(),
    })
}

impl Bench {
    fn new() -> Self {
        Self::at(Arc::new(tempfile::tempdir().unwrap()))
    }

    fn at(dir: Arc<tempfile::TempDir>) -> Self {
        let clock = ManualClock::at(START);
        let store = SqliteStore::open(dir.path(), [7; 16]).unwrap();
        let journal = Journal::open(Box::new(store), Default::default(), clock.clone()).unwrap();
        let (tables, receiver) = watch::channel(ids(&["signup"]));
        Self {
            dir,
            clock,
            journal,
            tables,
            refresh: Refresh::fixed(receiver),
            status: Arc::default(),
            rates: Default::default(),
            posted: Default::default(),
        }
    }

    async fn post(&self, events: Range<u64>, name: &str, more: &str) {
        let records = events
            .map(|user| {
                let message = format!("m-{name}-{user}");
                let id = crate::event::event_id("src_1", &message);
                let record = format!(
                    r#"{{"type":"track","eventId":"{id}","source":"src_1","messageId":"{message}","receivedAt":"2026-11-21T01:08:10.000Z","timestamp":"2026-11-21T01:08:10.000Z","userId":"{user}","event":"{name}"{more}}}"#
                );
                Record {
                    fingerprint: self.journal.fingerprint("src_1", &message),
                    bytes: record.into(),
                }
            })
            .collect();
        self.journal.append(records).await.unwrap();
    }

    fn integration(&self, change: impl FnOnce(&mut Integration)) -> Arc<Integration> {
        let checked = blueprint::check(BLUEPRINT);
        let blueprint = checked.blueprint.unwrap_or_else(|| {
            panic!(
                "{}",
                blueprint::render("test", BLUEPRINT, &checked.diagnostics)
            )
        });
        let address = ConfigValue::Text("https://acme.example/hits".into());
        let config = blueprint::Config::from([("address".to_owned(), address)]);
        let plan = blueprint.bind(&config, &|_| false).unwrap();
        let mut integration = Integration {
            id: ID.into(),
            vendor: "acme".into(),
            variant: "default".into(),
            name: "Acme".into(),
            sources: None,
            config,
            tuning: Tuning::default(),
            paused: None,
            blueprint_revision: 1,
            blueprint_text: BLUEPRINT.into(),
            blueprint: Arc::new(blueprint),
            plan: Arc::new(plan),
            version: 1,
            created_at_ms: START,
        };
        change(&mut integration);
        Arc::new(integration)
    }

    async fn worker(&self, vendor: &Arc<Vendor>) -> Worker {
        self.worker_of(self.integration(|_| {}), vendor).await
    }

    async fn worker_of(&self, integration: Arc<Integration>, vendor: &Arc<Vendor>) -> Worker {
        let feed = self.journal.open_feed(ID, FeedStart::At(0)).await.unwrap();
        let parts = Parts {
            integration,
            journal: self.journal.clone(),
            sender: Arc::new(vendor.clone()),
            logbook: Logbook::none(),
            clock: self.clock.clone(),
            chance: StdRng::seed_from_u64(1),
            refresh: Some(self.refresh.clone()),
            status: self.status.clone(),
            rates: self.rates.clone(),
            buckets: Default::default(),
        };
        Worker::new(parts, &feed)
    }

    /// Steps, moving time on whenever nothing else moves, until `ms` have passed.
    async fn pass(&self, worker: &mut Worker, ms: i64) {
        let end = self.clock.now_ms() + ms;
        loop {
            match worker.step().await.unwrap() {
                Step::Moved => {}
                Step::Idle(wakes) => {
                    let now = self.clock.now_ms();
                    let next = wakes.unwrap_or(end).clamp(now + 1, end.max(now + 1));
                    if next > end || now >= end {
                        return;
                    }
                    self.clock.advance(next - now);
                }
            }
        }
    }

    async fn ledger(&self) -> Ledger {
        let ledger = self.journal.ledger().await.unwrap().remove(0);
        let skipped: u64 = ledger.skipped.iter().map(|(_, n)| n).sum();
        let dead: u64 = ledger.dead.iter().map(|(_, n)| n).sum();
        assert_eq!(
            ledger.accepted,
            ledger.delivered + skipped + ledger.deduplicated + dead + ledger.pending
        );
        ledger
    }
}

#[tokio::test]
async fn events_are_batched_mapped_and_settled() {
    let bench = Bench::new();
    let vendor = Vendor::new(|_| status(204, ""));
    let mut worker = bench.worker(&vendor).await;
    bench.post(0..250, "signup", "").await;
    bench.post(0..3, "ignored", "").await;
    bench
        .post(250..252, "signup", r#","integrations":{"Acme":false}"#)
        .await;
    bench.pass(&mut worker, 5_000).await;
    let bodies = vendor.taken();
    let sizes: Vec<_> = bodies.iter().map(|body| users(body).len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    assert_eq!(bodies[0]["items"][0]["id"], "id-signup");
    let ledger = bench.ledger().await;
    assert_eq!((ledger.delivered, ledger.pending), (250, 0));
    assert_eq!(ledger.skipped.len(), 2, "{:?}", ledger.skipped);
    assert!(ledger.skipped.contains(&("integrations".to_owned(), 2)));
    assert_eq!(bench.status.lock().state, State::Running);
}

#[tokio::test]
async fn a_crash_sends_again_what_was_not_settled_word_for_word() {
    let bench = Bench::new();
    // The vendor takes everything, but half of the answers are lost.
    let mut n = 0;
    let vendor = Vendor::new(move |_| {
        n += 1;
        if n % 2 == 0 {
            return status(204, "");
        }
        Err(SendError {
            kind: SendErrorKind::Reset,
            message: "connection reset".into(),
            took: Duration::ZERO,
        })
    });
    let mut worker = bench.worker(&vendor).await;
    bench.post(0..1_000, "signup", "").await;
    let mut first = Vec::new();
    for steps in 0..40 {
        for _ in 0..steps % 7 {
            let _ = worker.step().await.unwrap();
        }
        first.extend(vendor.taken());
        drop(worker);
        worker = bench.worker(&vendor).await;
    }
    bench.pass(&mut worker, 600_000).await;
    first.extend(vendor.taken());
    let ledger = bench.ledger().await;
    assert_eq!((ledger.delivered, ledger.pending), (1_000, 0));
    let mut copies: std::collections::BTreeMap<u64, std::collections::BTreeSet<String>> =
        Default::default();
    for body in &first {
        for (item, user) in body["items"].as_array().unwrap().iter().zip(users(body)) {
            copies.entry(user).or_default().insert(item.to_string());
        }
    }
    assert_eq!(copies.len(), 1_000, "every event reached the vendor");
    assert!(
        copies.values().all(|texts| texts.len() == 1),
        "always as the same bytes"
    );
}

#[tokio::test]
async fn one_bad_event_of_five_hundred_is_found_and_kept_with_the_answer() {
    let bench = Bench::new();
    let vendor = Vendor::new(|body| {
        if users(body).contains(&333) {
            status(400, "user 333 is odd")
        } else {
            status(204, "")
        }
    });
    let mut worker = bench.worker(&vendor).await;
    bench.post(0..500, "signup", "").await;
    bench.pass(&mut worker, 5_000).await;
    let ledger = bench.ledger().await;
    assert_eq!(ledger.delivered, 499);
    assert_eq!(ledger.dead, [("rejected".to_owned(), 1)]);
    let letters = bench
        .journal
        .dead_letters(DeadFilter::default(), None, 10)
        .await
        .unwrap();
    assert_eq!((letters[0].seq, letters[0].status), (333, Some(400)));
    assert_eq!(letters[0].answer, "user 333 is odd");
    let requests = vendor.taken().len();
    assert!(requests <= 5 + 14, "{requests} requests");
    // The vendor learns to like it: a replay sends it again, under the same id, and the books follow.
    vendor.now_says(|_| status(204, ""));
    let moved = bench
        .journal
        .replay("rep_1", DeadFilter::default(), 100.0)
        .await
        .unwrap();
    assert_eq!(moved, 1);
    bench.pass(&mut worker, 10_000).await;
    let again = vendor.taken();
    assert_eq!(users(&again[0]), [333]);
    let ledger = bench.ledger().await;
    assert_eq!(
        (
            ledger.delivered,
            ledger.dead.iter().map(|(_, n)| n).sum::<u64>()
        ),
        (500, 0)
    );
}

#[tokio::test]
async fn an_unknown_key_waits_for_the_datafile_and_dies_with_a_hint() {
    let bench = Bench::new();
    let vendor = Vendor::new(|_| status(204, ""));
    let mut worker = bench.worker(&vendor).await;
    bench.post(0..2, "Signup", "").await;
    bench.post(0..2, "purchase", "").await;
    bench.post(0..2, "signup", "").await;
    bench.pass(&mut worker, 60_000).await;
    assert_eq!(
        bench.ledger().await.delivered,
        2,
        "a known key does not wait for an unknown one"
    );
    assert_eq!(bench.ledger().await.pending, 4);
    // Somebody makes the event in Optimizely; the events on hold go out at once.
    bench.tables.send_replace(ids(&["signup", "purchase"]));
    bench.pass(&mut worker, 3_000).await;
    assert_eq!(bench.ledger().await.delivered, 4);
    // A restart does not begin the wait anew.
    drop(worker);
    let mut worker = bench.worker(&vendor).await;
    bench.pass(&mut worker, 836_000).await;
    assert_eq!(bench.ledger().await.pending, 2, "899 s are not yet 15 min");
    bench.pass(&mut worker, 40_000).await;
    let ledger = bench.ledger().await;
    assert_eq!(ledger.pending, 0);
    let letters = bench
        .journal
        .dead_letters(DeadFilter::default(), None, 10)
        .await
        .unwrap();
    assert_eq!(letters.len(), 2);
    assert!(
        letters[0]
            .detail
            .contains("no event key `Signup`; there is `signup` (capitals count)"),
        "{}",
        letters[0].detail
    );
}

#[tokio::test]
async fn a_wrong_key_pauses_and_keeps_the_backlog() {
    let bench = Bench::new();
    let vendor = Vendor::new(|_| status(403, "who are you"));
    let mut worker = bench.worker(&vendor).await;
    bench.post(0..5_000, "signup", "").await;
    bench.pass(&mut worker, 1_000).await;
    let state = bench.status.lock().clone();
    assert_eq!(
        (state.state, state.reason.as_deref()),
        (State::Paused, Some("forbidden"))
    );
    assert_eq!(state.detail.as_deref(), Some("who are you"));
    vendor.taken();
    // Hours later: probed once a minute, nobody burned.
    bench.pass(&mut worker, 3 * 3_600_000).await;
    let probes = vendor.taken().len();
    assert!((178..=181).contains(&probes), "{probes}");
    assert_eq!(bench.ledger().await.pending, 5_000);
    vendor.now_says(|_| status(204, ""));
    worker.obey(Order::Resume);
    bench.pass(&mut worker, 2_000).await;
    assert_eq!(bench.ledger().await.delivered, 5_000);
    assert_eq!(bench.status.lock().state, State::Running);
}

#[tokio::test]
async fn retry_after_holds_the_whole_integration() {
    let bench = Bench::new();
    let vendor = Vendor::new(|_| {
        status(429, "").map(|answer| Answer {
            retry_after: Some(Duration::from_secs(120)),
            ..answer
        })
    });
    let mut worker = bench.worker(&vendor).await;
    bench.post(0..1_000, "signup", "").await;
    bench.pass(&mut worker, 119_000).await;
    assert_eq!(
        vendor.taken().len(),
        4,
        "what was under way when the first answer came"
    );
    vendor.now_says(|_| status(204, ""));
    bench.pass(&mut worker, 30_000).await;
    assert_eq!(bench.ledger().await.delivered, 1_000);
}

#[tokio::test]
async fn a_paused_integration_sends_nothing_and_its_backlog_expires_on_the_books() {
    let bench = Bench::new();
    let vendor = Vendor::new(|_| status(204, ""));
    let paused = bench.integration(|integration| {
        integration.paused = Some(Pause {
            reason: "sale".into(),
            since_ms: START,
        });
        integration.tuning.backlog_age_s = 3_600;
    });
    let mut worker = bench.worker_of(paused, &vendor).await;
    bench.post(0..300, "signup", "").await;
    bench.pass(&mut worker, 3_000_000).await;
    bench.post(300..400, "signup", "").await;
    assert_eq!(bench.ledger().await.pending, 400);
    bench.pass(&mut worker, 1_200_000).await;
    let ledger = bench.ledger().await;
    assert_eq!(ledger.skipped, [("expired".to_owned(), 300)]);
    assert!(vendor.taken().is_empty());
    // Taken up again, the rest is delivered.
    drop(worker);
    let mut worker = bench.worker(&vendor).await;
    bench.pass(&mut worker, 5_000).await;
    assert_eq!(bench.ledger().await.delivered, 100);
}

#[tokio::test]
async fn without_a_datafile_events_stay_in_the_log() {
    let bench = Bench::new();
    bench.tables.send_replace(Arc::default());
    let vendor = Vendor::new(|_| status(204, ""));
    let mut worker = bench.worker(&vendor).await;
    bench.post(0..10, "signup", "").await;
    bench.pass(&mut worker, 3_600_000).await;
    let state = bench.status.lock().clone();
    assert_eq!(
        (state.state, state.reason.as_deref()),
        (State::Waiting, Some("no_datafile"))
    );
    assert_eq!(bench.ledger().await.pending, 10);
    bench.tables.send_replace(ids(&["signup"]));
    bench.pass(&mut worker, 3_000).await;
    assert_eq!(bench.ledger().await.delivered, 10);
}

#[tokio::test]
async fn what_cannot_be_read_is_dead_and_stops_nothing() {
    let bench = Bench::new();
    let vendor = Vendor::new(|_| status(204, ""));
    let mut worker = bench.worker(&vendor).await;
    let bad = Record {
        fingerprint: 1,
        bytes: "not an event".into(),
    };
    bench.journal.append(vec![bad]).await.unwrap();
    bench.post(0..10, "signup", "").await;
    bench.pass(&mut worker, 3_000).await;
    let ledger = bench.ledger().await;
    assert_eq!((ledger.delivered, ledger.pending), (10, 0));
    assert_eq!(ledger.dead, [("undecodable".to_owned(), 1)]);
}

#[tokio::test]
async fn a_damaged_block_is_dead_on_the_books_and_hides_no_other() {
    let bench = Bench::new();
    for first in [0, 10, 20] {
        bench.post(first..first + 10, "signup", "").await;
    }
    bench.journal.close().await;
    let dir = bench.dir.clone();
    drop(bench);
    rusqlite::Connection::open(dir.path().join("journal.db"))
        .unwrap()
        .execute("UPDATE block SET body = x'00' WHERE first = 10", [])
        .unwrap();
    let bench = Bench::at(dir);
    let vendor = Vendor::new(|_| status(204, ""));
    let mut worker = bench.worker(&vendor).await;
    bench.pass(&mut worker, 3_000).await;
    let ledger = bench.ledger().await;
    assert_eq!((ledger.delivered, ledger.pending), (20, 0));
    assert_eq!(ledger.dead, [("damaged".to_owned(), 10)]);
}

#[tokio::test]
async fn a_backlog_over_its_bytes_gives_up_the_oldest_and_no_more() {
    let bench = Bench::new();
    let vendor = Vendor::new(|_| status(503, ""));
    for block in 0..20 {
        bench
            .post(block * 100..block * 100 + 100, "signup", "")
            .await;
    }
    bench.journal.open_feed(ID, FeedStart::At(0)).await.unwrap();
    let all = bench.journal.backlog_bytes(ID).await.unwrap();
    let small = bench.integration(|integration| {
        integration.paused = Some(Pause {
            reason: "sale".into(),
            since_ms: START,
        });
        integration.tuning.backlog_bytes = all / 4;
    });
    let mut worker = bench.worker_of(small, &vendor).await;
    bench.pass(&mut worker, 60_000).await;
    let ledger = bench.ledger().await;
    assert!((450..=510).contains(&ledger.pending), "{}", ledger.pending);
    assert_eq!(
        ledger.skipped,
        [("expired".to_owned(), 2_000 - ledger.pending)]
    );
}

#[tokio::test]
async fn fresh_events_and_replayed_ones_share_the_way() {
    let bench = Bench::new();
    let vendor = Vendor::new(|_| status(422, "no"));
    let mut worker = bench.worker(&vendor).await;
    bench.post(0..3_000, "signup", "").await;
    // Whatever a 422 means to the vendor's blueprint, the events end among the dead.
    bench.pass(&mut worker, 30_000).await;
    let dead: u64 = bench.ledger().await.dead.iter().map(|(_, n)| n).sum();
    assert_eq!(dead, 3_000);
    bench
        .journal
        .replay("rep_1", DeadFilter::default(), 1e6)
        .await
        .unwrap();
    bench.post(3_000..30_000, "signup", "").await;
    vendor.taken();
    vendor.now_says(|_| status(204, ""));
    // Parked events are looked for every second; all of this would happen in no time.
    bench.clock.advance(2_000);
    bench.pass(&mut worker, 20_000).await;
    let order: Vec<u64> = vendor.taken().iter().flat_map(users).collect();
    assert_eq!(order.len(), 30_000);
    let half = order.len() / 2;
    let replayed_early = order[..half].iter().filter(|user| **user < 3_000).count();
    let fresh_early = half - replayed_early;
    assert!(
        replayed_early > 1_000 && fresh_early > 1_000,
        "{replayed_early} {fresh_early}"
    );
    assert_eq!(bench.ledger().await.delivered, 30_000);
}
