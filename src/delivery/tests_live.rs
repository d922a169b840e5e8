//! The whole stage over real sockets: supervisor, refresher, client, journal, a vendor on loopback.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::status::State;
use super::{Delivery, Options, TrialError, WebhookError};
use crate::blueprint::{self, Config, ConfigValue};
use crate::clock::{Clock as _, SystemClock};
use crate::journal::store::sqlite::SqliteStore;
use crate::journal::{Journal, Ledger, Record};
use crate::logbook::{AttemptFilter, Logbook};
use crate::registry::{Integration, SharedView, Tuning, View};
use crate::secret::Secret;
use crate::vendor::guard::Guard;
use crate::vendor::http::Client;

/// A vendor and its document host, both on one port.
#[derive(Default)]
struct Site {
    datafile: Mutex<Option<Value>>,
    events: Mutex<Vec<Value>>,
    heads: Mutex<Vec<String>>,
}

impl Site {
    fn open() -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let site = Arc::new(Self::default());
        let shared = site.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let site = shared.clone();
                std::thread::spawn(move || site.serve(stream));
            }
        });
        (site, addr)
    }

    fn serve(&self, stream: TcpStream) {
        let mut out = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                match reader.read_line(&mut head) {
                    Ok(n) if n > 0 => {}
                    _ => return,
                }
            }
            let lower = head.to_ascii_lowercase();
            let length = lower
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.split("\r\n").next()?.parse().ok())
                .unwrap_or(0);
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            let answer = self.answer(&lower, &body);
            self.heads.lock().push(lower);
            if out.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, head: &str, body: &[u8]) -> String {
        if head.starts_with("post") {
            self.events
                .lock()
                .push(serde_json::from_slice(body).unwrap());
            return "HTTP/1.1 204 No Content\r\n\r\n".to_owned();
        }
        let Some(document) = self.datafile.lock().clone() else {
            return "HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n".to_owned();
        };
        let tag = format!("\"{}\"", document["revision"].as_str().unwrap());
        if head.contains(&format!("if-none-match: {tag}")) {
            return "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned();
        }
        let text = document.to_string();
        format!(
            "HTTP/1.1 200 OK\r\nETag: {tag}\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )
    }

    fn visitors(&self) -> Vec<Value> {
        let events = self.events.lock();
        events
            .iter()
            .flat_map(|body| body["visitors"].as_array().unwrap().clone())
            .collect()
    }
}

fn datafile(revision: &str, keys: &[&str]) -> Option<Value> {
    let events: Vec<Value> = keys
        .iter()
        .map(|key| json!({"id": format!("5{}", key.len()), "key": key, "experimentIds": []}))
        .collect();
    Some(json!({
        "version": "4", "accountId": "12345678", "projectId": "98765432", "revision": revision,
        "events": events, "attributes": [],
    }))
}

fn integration(
    site: SocketAddr,
    version: u64,
    change: impl FnOnce(&mut Config),
) -> Arc<Integration> {
    let (_, text) = blueprint::builtin()
        .iter()
        .find(|(path, _)| *path == "optimizely/default")
        .unwrap();
    // Fields that the webhook and secure datafiles need, where the shipped file does not ask for them.
    let extra =
        "config:\n  webhook_secret: { type: secret, label: Webhook secret, optional: true }";
    let text = if text.contains("webhook_secret:") {
        (*text).to_owned()
    } else {
        text.replacen("config:", extra, 1)
    };
    let blueprint = blueprint::check(&text).blueprint.unwrap();
    let text_of = |value: &str| ConfigValue::Text(value.to_owned());
    let mut config = Config::from([
        ("account_id".to_owned(), text_of("12345678")),
        ("project_id".to_owned(), text_of("98765432")),
        (
            "sdk_key".to_owned(),
            ConfigValue::Secret(Secret::new("sdk_key_0123456789")),
        ),
        (
            "datafile_url".to_owned(),
            text_of(&format!("http://{site}/datafiles/sdk_key_0123456789.json")),
        ),
        (
            "events_url".to_owned(),
            text_of(&format!("http://{site}/v1/events")),
        ),
        ("currency".to_owned(), text_of("USD")),
        ("revenue_unit".to_owned(), text_of("cents")),
    ]);
    change(&mut config);
    let plan = blueprint.bind(&config, &|_| true).unwrap();
    Arc::new(Integration {
        id: "int_opt".into(),
        vendor: "optimizely".into(),
        variant: "default".into(),
        name: "Optimizely".into(),
        sources: None,
        config,
        tuning: Tuning {
            batch_wait_ms: Some(20),
            ..Tuning::default()
        },
        paused: None,
        blueprint_revision: 1,
        blueprint_text: text,
        blueprint: Arc::new(blueprint),
        plan: Arc::new(plan),
        version,
        created_at_ms: 0,
    })
}

struct House {
    journal: Journal,
    view: SharedView,
    logbook: Logbook,
    delivery: Delivery,
}

impl House {
    fn open(dir: &Path, integrations: Vec<Arc<Integration>>) -> Self {
        let clock = Arc::new(SystemClock);
        let store = SqliteStore::open(dir, [7; 16]).unwrap();
        let journal = Journal::open(Box::new(store), Default::default(), clock.clone()).unwrap();
        let view: SharedView = Arc::new(arc_swap::ArcSwap::from_pointee(View {
            sources_by_key: HashMap::new(),
            integrations,
            ..View::default()
        }));
        let guard = Arc::new(Guard::parse(&["127.0.0.0/8"]).unwrap());
        let client = Client::new(guard, "aqueduct/test", clock.clone()).unwrap();
        let log = dir.join("attempts.db");
        let logbook = Logbook::open(&log, Default::default(), clock.clone()).unwrap();
        let options = Options {
            datafiles_dir: dir.join("datafiles"),
            datafiles: crate::datafile::Shared::default(),
            seed: 1,
        };
        let delivery = Delivery::start(
            journal.clone(),
            view.clone(),
            client,
            logbook.clone(),
            clock,
            options,
        );
        Self {
            journal,
            view,
            logbook,
            delivery,
        }
    }

    fn install(&self, integrations: Vec<Arc<Integration>>) {
        self.view.store(Arc::new(View {
            sources_by_key: HashMap::new(),
            integrations,
            ..View::default()
        }));
    }

    async fn post(&self, events: std::ops::Range<u64>, name: &str) {
        let records = events
            .map(|user| {
                let message = format!("m-{name}-{user}");
                let id = crate::event::event_id("src_1", &message);
                let at = jiff::Timestamp::from_millisecond(SystemClock.now_ms()).unwrap();
                let record = json!({
                    "type": "track", "eventId": id.to_string(), "source": "src_1", "messageId": message,
                    "receivedAt": at.to_string(), "timestamp": at.to_string(),
                    "userId": format!("user_{user}"), "event": name, "properties": {"total": 89.99},
                });
                Record {
                    fingerprint: self.journal.fingerprint("src_1", &message),
                    bytes: record.to_string().into(),
                }
            })
            .collect();
        self.journal.append(records).await.unwrap();
    }

    async fn ledger(&self) -> Ledger {
        self.journal.ledger().await.unwrap().remove(0)
    }

    async fn close(self) {
        assert!(self.delivery.stop(Duration::from_secs(10)).await);
        self.logbook.close().await;
        self.journal.close().await;
    }
}

/// Waits until something holds; looks often, gives up after ten seconds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_journal_to_optimizely_and_on_with_a_dead_datafile_host() {
    let dir = tempfile::tempdir().unwrap();
    let (site, addr) = Site::open();
    *site.datafile.lock() = datafile("42", &["purchase", "signup"]);
    let house = House::open(dir.path(), vec![integration(addr, 1, |_| {})]);
    let handle = house.delivery.handle();
    handle.sync().await;
    house.post(0..100, "Order Completed").await;
    until("delivered", async || house.ledger().await.delivered == 100).await;
    let visitors = site.visitors();
    assert_eq!(visitors.len(), 100);
    let event = &visitors[0]["snapshots"][0]["events"][0];
    assert_eq!(
        (&event["key"], &event["revenue"]),
        (&json!("purchase"), &json!(8999))
    );
    assert_eq!(site.events.lock()[0]["revision"], "42");
    let status = handle.status("int_opt").await.unwrap();
    assert_eq!(
        (status.state, status.oldest_pending_ms),
        (State::Running, None)
    );
    assert_eq!(status.documents[0].revision.as_deref(), Some("42"));

    // The log has the request as sent, found by any record in it; the datafile's key is nowhere in it.
    house.logbook.flush().await;
    let of_seq = AttemptFilter {
        seq: Some(57),
        ..AttemptFilter::default()
    };
    let found = house.logbook.attempts(of_seq, None, 10).await.unwrap();
    assert_eq!((found.len(), found[0].status), (1, Some(204)));
    let whole = house
        .logbook
        .attempt_by_id(found[0].id)
        .await
        .unwrap()
        .unwrap();
    let body: Value = serde_json::from_slice(&whole.request_body.unwrap()).unwrap();
    assert_eq!(body["account_id"], "12345678");
    house.close().await;

    // The document host dies; after a restart mapping goes on with the last good copy.
    *site.datafile.lock() = None;
    let house = House::open(dir.path(), vec![integration(addr, 1, |_| {})]);
    house.post(100..150, "signup").await;
    until("delivered without the host", async || {
        house.ledger().await.delivered == 150
    })
    .await;
    let status = house.delivery.handle().status("int_opt").await.unwrap();
    until("the fault is shown", async || {
        let status = house.delivery.handle().status("int_opt").await.unwrap();
        status.documents[0].fault.as_deref() == Some("status 503 instead of the document")
    })
    .await;
    assert_eq!(status.documents[0].revision.as_deref(), Some("42"));
    assert!(!format!("{status:?}").contains("sdk_key_0123456789"));

    // Deleting the integration removes its feed.
    house.install(Vec::new());
    house.delivery.handle().sync().await;
    assert!(house.journal.ledger().await.unwrap().is_empty());
    assert!(house.delivery.handle().status("int_opt").await.is_none());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_projects_datafile_is_refused_and_a_webhook_brings_a_new_one_at_once() {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let dir = tempfile::tempdir().unwrap();
    let (site, addr) = Site::open();
    *site.datafile.lock() = datafile("1", &["purchase"]);
    let secret = |config: &mut Config| {
        let secret = ConfigValue::Secret(Secret::new("hook_secret"));
        config.insert("webhook_secret".to_owned(), secret);
    };
    let other = integration(addr, 1, |config| {
        config.insert("project_id".to_owned(), ConfigValue::Text("1".into()));
    });
    let house = House::open(dir.path(), vec![other]);
    let handle = house.delivery.handle();
    handle.sync().await;
    house.post(0..3, "signup").await;
    until("refused", async || {
        let status = handle.status("int_opt").await.unwrap();
        let fault = status
            .documents
            .first()
            .and_then(|document| document.fault.clone());
        status.state == State::Waiting
            && fault.is_some_and(|fault| fault.contains("projectId `98765432`, not `1`"))
    })
    .await;
    assert_eq!(house.ledger().await.pending, 3);
    let no_tables = handle.test("int_opt", Some("purchase")).await.unwrap_err();
    assert!(matches!(no_tables, TrialError::NoTables(_)), "{no_tables}");

    // Put right, the pipeline begins anew with the new version.
    house.install(vec![integration(addr, 2, secret)]);
    handle.sync().await;
    until("the datafile is taken", async || {
        let status = handle.status("int_opt").await.unwrap();
        status
            .documents
            .first()
            .is_some_and(|document| document.revision.is_some())
    })
    .await;
    until("the unknown key waits", async || {
        house
            .journal
            .parked("int_opt", i64::MAX, 10)
            .await
            .unwrap()
            .len()
            == 3
    })
    .await;
    *site.datafile.lock() = datafile("2", &["purchase", "signup"]);
    let body = br#"{"project_id":98765432,"event":"project.datafile_updated","data":{"revision":2,"environment":"Production"}}"#;
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(b"hook_secret").unwrap();
    mac.update(body);
    let hex: String = mac
        .finalize()
        .into_bytes()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let forged = handle.optimizely_webhook("int_opt", Some("sha1=00"), body);
    assert!(matches!(forged, Err(WebhookError::Notice(_))));
    let unknown = handle.optimizely_webhook("int_no", Some("sha1=00"), body);
    assert_eq!(unknown, Err(WebhookError::Unknown));
    assert_eq!(
        handle.optimizely_webhook("int_opt", Some(&format!("sha1={hex}")), body),
        Ok(true)
    );
    until("delivered", async || house.ledger().await.delivered == 3).await;

    // A test event goes out marked, outside the books.
    let missing = handle
        .test("int_opt", Some("Signup"))
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        missing,
        "no event key `Signup`; there are: purchase, signup"
    );
    let trial = handle
        .test("int_opt", Some("signup"))
        .await
        .unwrap()
        .remove(0);
    assert_eq!(
        (trial.status, trial.verdict.as_str()),
        (Some(204), "delivered")
    );
    assert!(
        trial
            .headers
            .contains(&("X-Optimizely-Strict".to_owned(), "true".to_owned()))
    );
    let strict = site
        .heads
        .lock()
        .iter()
        .filter(|head| head.contains("x-optimizely-strict: true"))
        .count();
    assert_eq!(strict, 1);
    assert_eq!(house.ledger().await.accepted, 3);
    house.close().await;
}
