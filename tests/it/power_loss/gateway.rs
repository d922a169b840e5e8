//! The same disasters for a whole gateway: HTTP in, the vendor sandbox out. What was answered with 200 must reach
//! the vendor, from every state the disk may have been left in, and the books must add up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aqueduct::sandbox::Sandbox;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Rig;
use super::images::{Image, each_image};
use crate::support::app::{ADMIN_TOKEN, WRITE_KEY, client};
use crate::support::process::{Process, command};
use crate::support::{Setup, TestApp};

/// Crash images on which a gateway is started. Each costs a start, a delivery and a stop.
const GATEWAYS: usize = 220;
/// Longest any wait may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The vendor: notes who it was told about, then lets the sandbox answer. The note is in the trace before the
/// answer goes out, so whatever the gateway does with the answer comes after it.
struct Vendor {
    addr: SocketAddr,
    sandbox: SocketAddr,
    http: reqwest::Client,
    /// Answers 503 and lets nothing through.
    down: AtomicBool,
    trace: Mutex<Option<PathBuf>>,
    /// By visitor, since it was last emptied.
    got: Mutex<BTreeSet<String>>,
    /// By visitor, ever: uuid, timestamp and entity id. A repeat must be the same.
    identities: Mutex<BTreeMap<String, Value>>,
    _stop: DropGuard,
}

impl Vendor {
    async fn start() -> Arc<Self> {
        let stop = CancellationToken::new();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sandbox = Sandbox::bind(any).await.unwrap();
        let listener = tokio::net::TcpListener::bind(any).await.unwrap();
        let vendor = Arc::new(Self {
            addr: listener.local_addr().unwrap(),
            sandbox: sandbox.addr,
            http: client(),
            down: AtomicBool::new(false),
            trace: Mutex::default(),
            got: Mutex::default(),
            identities: Mutex::default(),
            _stop: stop.clone().drop_guard(),
        });
        tokio::spawn(sandbox.run(stop.clone().cancelled_owned()));
        let app = axum::Router::new()
            .fallback(pass)
            .with_state(Arc::clone(&vendor));
        tokio::spawn(
            axum::serve(listener, app)
                .with_graceful_shutdown(stop.cancelled_owned())
                .into_future(),
        );
        vendor
    }

    /// What the gateway may reach.
    fn egress(&self) -> String {
        format!("{},{}", self.addr, self.sandbox)
    }

    fn note(&self, body: &Value) {
        let mut visitors = Vec::new();
        for visitor in body["visitors"].as_array().unwrap() {
            let id = visitor["visitor_id"].as_str().unwrap().to_owned();
            let event = &visitor["snapshots"][0]["events"][0];
            let identity = json!([event["uuid"], event["timestamp"], event["entity_id"]]);
            let first = self
                .identities
                .lock()
                .entry(id.clone())
                .or_insert_with(|| identity.clone())
                .clone();
            assert_eq!(first, identity, "{id} came again as another");
            visitors.push(id);
        }
        if let Some(trace) = &*self.trace.lock() {
            append(trace, "vendor", &visitors);
        }
        self.got.lock().extend(visitors);
    }
}

async fn pass(
    State(vendor): State<Arc<Vendor>>,
    uri: Uri,
    body: axum::body::Bytes,
) -> (StatusCode, Vec<u8>) {
    if vendor.down.load(Ordering::SeqCst) {
        return (StatusCode::SERVICE_UNAVAILABLE, Vec::new());
    }
    vendor.note(&serde_json::from_slice(&body).unwrap());
    let reply = vendor
        .http
        .post(format!("http://{}{uri}", vendor.sandbox))
        .body(body)
        .send()
        .await
        .unwrap();
    let status = StatusCode::from_u16(reply.status().as_u16()).unwrap();
    (status, reply.bytes().await.unwrap().to_vec())
}

/// Adds a step to the trace as if the gateway had written it: lines for a file that is no file.
fn append(trace: &Path, name: &str, lines: &[String]) {
    let data: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let mut step = vec![b'W'];
    step.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
    step.extend(name.as_bytes());
    step.extend(0u64.to_le_bytes());
    step.extend(u64::try_from(data.len()).unwrap().to_le_bytes());
    step.extend(data.as_bytes());
    // One write to a file opened for appending: the shim's steps stay whole.
    let mut file = OpenOptions::new().append(true).open(trace).unwrap();
    assert_eq!(file.write(&step).unwrap(), step.len());
}

/// A gateway process under the shim, and the client that talks to it.
struct Lab {
    rig: Rig,
    vendor: Arc<Vendor>,
    http: reqwest::Client,
    gateway: Process,
    acked: Mutex<BTreeSet<String>>,
}

impl Lab {
    async fn start(traced: bool) -> Self {
        let rig = Rig::new();
        let vendor = Vendor::start().await;
        let gateway = start(&rig, &vendor, traced);
        let lab = Self {
            rig,
            vendor,
            http: client(),
            gateway,
            acked: Mutex::default(),
        };
        if traced {
            *lab.vendor.trace.lock() = Some(lab.rig.trace_path());
        }
        let (status, reply) = lab
            .admin("POST", "integration-catalog/optimizely/install", &json!({
                "name": "Optimizely", "variant": "default", "delivery_mode": "server_side",
                "settings": {
                    "events_url": format!("http://{}/optimizely/v1/events", lab.vendor.addr),
                    "batch_wait_ms": 5, "retry_base_ms": 10, "retry_cap_ms": 50,
                },
                "config": {
                    "account_id": "12345678", "project_id": "98765432", "sdk_key": "demo",
                    "datafile_url": format!("http://{}/optimizely/datafiles/demo.json", lab.vendor.sandbox),
                },
            }))
            .await;
        assert_eq!(status, 201, "{reply}");
        lab
    }

    async fn admin(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("http://{}/v1/admin/{path}", self.gateway.admin);
        let reply = self
            .http
            .request(method.parse().unwrap(), url)
            .bearer_auth(ADMIN_TOKEN)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        let status = reply.status().as_u16();
        (
            status,
            serde_json::from_str(&reply.text().await.unwrap()).unwrap(),
        )
    }

    /// Posts a batch of these visitors; remembers them when it is acknowledged. Returns the status; 0: no answer.
    async fn post(&self, visitors: &[String]) -> u16 {
        let events: Vec<Value> = visitors
            .iter()
            .map(|id| json!({"type": "track", "event": "signup", "userId": id, "messageId": id}))
            .collect();
        let sent = self
            .http
            .post(format!("http://{}/v1/batch", self.gateway.ingest))
            .basic_auth(WRITE_KEY, Some(""))
            .body(json!({"batch": events}).to_string())
            .send()
            .await;
        let Ok(reply) = sent else { return 0 };
        let status = reply.status().as_u16();
        if status == 200 {
            if let Some(trace) = &*self.vendor.trace.lock() {
                append(trace, "acks", visitors);
            }
            self.acked.lock().extend(visitors.iter().cloned());
        }
        status
    }

    /// Waits until the vendor was told about everything acknowledged.
    async fn delivered(&self, label: &str) {
        let began = Instant::now();
        loop {
            let missing = self
                .acked
                .lock()
                .difference(&self.vendor.got.lock())
                .count();
            if missing == 0 {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{label}: {missing} never came");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn start(rig: &Rig, vendor: &Vendor, traced: bool) -> Process {
    let mut command = command(&rig.data(), &vendor.egress());
    rig.preload(&mut command, traced);
    Process::spawn(&mut command)
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

/// Starts a gateway on an image and lets it deliver. Returns how many acknowledged events were still to come.
async fn revive(image: &Image, vendor: &Vendor, root: &Path) -> usize {
    let dir = tempfile::tempdir_in(root).unwrap();
    image.materialise(dir.path());
    vendor.got.lock().clear();
    let app = TestApp::start_with(Setup {
        data_dir: Some(dir.path().to_owned()),
        environment: vec![("AQUEDUCT_EGRESS_ALLOW", vendor.egress())],
        ..Setup::default()
    })
    .await;
    let (status, ledger) = app.admin("GET", "ledger", None).await;
    assert_eq!(
        (status, &ledger["balanced"]),
        (200, &json!(true)),
        "{}",
        image.label
    );
    let (acked, before) = (lines(&image.acks), lines(&image.vendor));
    assert!(
        acked.is_empty()
            || ledger["data"]
                .as_array()
                .is_some_and(|rows| rows.len() == 1),
        "{}: the integration is gone: {ledger}",
        image.label
    );
    // Fails when an event has no outcome, or the books do not balance.
    app.stop().await;
    let got = vendor.got.lock().clone();
    let lost: Vec<&String> = acked
        .iter()
        .filter(|id| !before.contains(*id) && !got.contains(*id))
        .collect();
    assert!(
        lost.is_empty(),
        "{}: {lost:?} acknowledged and lost",
        image.label
    );
    acked.difference(&before).count()
}

/// Another course of the ordeal: `AQUEDUCT_POWER_SEED`.
#[expect(
    clippy::disallowed_methods,
    reason = "a test's settings, not the gateway's"
)]
fn seed() -> u64 {
    std::env::var("AQUEDUCT_POWER_SEED").map_or(20_261_122, |text| text.parse().expect("a seed"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_started_on_any_crash_image_delivers_all_it_acknowledged() {
    let sum = ordeal(seed()).await;
    println!(
        "{} crash images, {} gateways started on them, {} had acknowledged events to deliver; 0 of {} lost",
        sum.images, sum.started, sum.came_late, sum.acked
    );
    assert!(sum.started >= 200 && sum.came_late >= 60, "{sum:?}");
}

#[derive(Debug, Default)]
struct Counts {
    /// Crash images there were.
    images: u64,
    /// Gateways started on one of them.
    started: usize,
    /// How many of those had acknowledged events still to deliver.
    came_late: usize,
    /// Events acknowledged in the recording.
    acked: usize,
}

/// Records a gateway under load and starts another on what a power cut may have left of its disk.
async fn ordeal(seed: u64) -> Counts {
    let lab = Lab::start(true).await;
    // A backlog builds up while the vendor is down, and runs off while more comes in.
    for phase in 0..3 {
        lab.vendor.down.store(phase == 0, Ordering::SeqCst);
        let posting = (0..4).map(|worker| {
            let lab = &lab;
            async move {
                for round in 0..12 {
                    let size = [1, 1, 4, 10][(worker + round) % 4];
                    let ids: Vec<String> = (0..size)
                        .map(|one| format!("u-{phase}-{worker}-{round}-{one}"))
                        .collect();
                    assert_eq!(lab.post(&ids).await, 200);
                }
            }
        });
        futures_util::future::join_all(posting).await;
    }
    lab.delivered("before any crash").await;
    lab.gateway.kill();
    *lab.vendor.trace.lock() = None;

    let mut images = Vec::new();
    let mut counts = Counts {
        images: each_image(&lab.rig.trace(), seed, 3, &mut |image| images.push(image)),
        acked: lab.acked.lock().len(),
        ..Counts::default()
    };
    // A few from before the first acknowledgement, then evenly over the rest.
    let (early, late): (Vec<_>, Vec<_>) =
        images.into_iter().partition(|image| image.acks.is_empty());
    let root = lab.rig.data();
    let few = GATEWAYS / 10;
    for image in spread(early, few).chain(spread(late, GATEWAYS - few)) {
        let to_come = revive(&image, &lab.vendor, root.parent().unwrap()).await;
        counts.came_late += usize::from(to_come > 0);
        counts.started += 1;
    }
    counts
}

/// `count` of them, evenly.
fn spread(images: Vec<Image>, count: usize) -> impl Iterator<Item = Image> {
    let len = images.len();
    images
        .into_iter()
        .enumerate()
        .filter(move |(at, _)| at * count / len != (at + 1) * count / len)
        .map(|(_, image)| image)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_nothing_is_acknowledged_until_a_restart() {
    for nth in [0, 1, 4] {
        let mut lab = Lab::start(false).await;
        let mut posted = 0;
        let mut next = || {
            posted += 1;
            [format!("eio-{nth}-{posted}")]
        };
        for _ in 0..20 {
            assert_eq!(lab.post(&next()).await, 200);
        }
        lab.rig.control("fail_sync", Some(nth));
        let began = Instant::now();
        let refused = loop {
            let status = lab.post(&next()).await;
            if status != 200 {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "sync {nth} never failed");
        };
        assert_eq!(refused, 503);
        // The disk is well again, but what it holds is unknown.
        lab.rig.control("fail_sync", None);
        for _ in 0..20 {
            assert_eq!(
                lab.post(&next()).await,
                503,
                "acknowledged after a failed sync"
            );
        }
        lab.gateway.kill();
        lab.gateway = start(&lab.rig, &lab.vendor, false);
        assert_eq!(lab.post(&next()).await, 200, "clean restart");
        lab.delivered(&format!("sync {nth} failed")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_refused_and_freed_without_a_restart() {
    let lab = Lab::start(false).await;
    lab.vendor.down.store(true, Ordering::SeqCst);
    let mut posted = 0;
    // What compresses badly, so that the disk is full soon.
    let mut next = || {
        posted += 1;
        (0..20)
            .map(|one| format!("full-{posted}-{one}-{}", uuid::Uuid::new_v4()))
            .collect::<Vec<_>>()
    };
    assert_eq!(lab.post(&next()).await, 200);
    lab.rig.control("full", Some(400 << 10));
    let began = Instant::now();
    let mut refusals = BTreeMap::new();
    while refusals.values().sum::<u32>() < 10 {
        let status = lab.post(&next()).await;
        if status != 200 {
            *refusals.entry(status).or_insert(0) += 1;
        }
        assert!(began.elapsed() < PATIENCE, "the disk never got full");
    }
    assert!(
        refusals.keys().all(|status| [429, 503].contains(status)),
        "{refusals:?}"
    );
    // Delivering goes on while nothing can be taken.
    lab.vendor.down.store(false, Ordering::SeqCst);
    lab.rig.control("full", None);
    let began = Instant::now();
    while lab.post(&next()).await != 200 {
        assert!(
            began.elapsed() < PATIENCE,
            "refused long after it was freed"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lab.delivered("full and freed").await;
}
