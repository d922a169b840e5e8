//! Sending, through a registry, the real client and a real listener.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;

use super::measure::{self, Traffic};
use super::watch::Watch;
use super::{Alerts, Handle, Parts, Pipelines, notice, step, take_up};
use crate::clock::{Clock as _, ManualClock, Millis, SharedClock, SystemClock};
use crate::delivery::status::Status;
use crate::journal::{self, Options};
use crate::registry::alerts::{AlertSettings, Rules, Seconds};
use crate::registry::audit::Actor;
use crate::registry::checks::Checks;
use crate::registry::random::Random;
use crate::registry::testing::Outside;
use crate::registry::{self, Given, Registry, Role, SourceSpec};
use crate::secret::Secret;
use crate::vendor::guard::Guard;
use crate::vendor::http::Client;

#[derive(Debug)]
struct NoPipelines;

impl Pipelines for NoPipelines {
    fn snapshot(&self, _: &str) -> Option<Status> {
        None
    }
}

struct World {
    registry: Registry,
    handle: Handle,
    alerts: Alerts,
    url: String,
    arrived: mpsc::UnboundedReceiver<(HeaderMap, String)>,
    _dir: tempfile::TempDir,
}

/// A sender whose receiver answers `status`. `allowed`: the guard lets it through.
async fn world(status: u16, allowed: bool) -> World {
    let (sender, arrived) = mpsc::unbounded_channel();
    let hook = move |headers: HeaderMap, body: String| async move {
        let _ = sender.send((headers, body));
        StatusCode::from_u16(status).unwrap()
    };
    let router = axum::Router::new().route("/", axum::routing::post(hook));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });

    let dir = tempfile::tempdir().unwrap();
    let clock: SharedClock = Arc::new(SystemClock);
    let open = Arc::new(Guard::parse(&[addr.to_string()]).unwrap());
    let guard = if allowed {
        Arc::clone(&open)
    } else {
        Arc::new(Guard::default())
    };
    let parts = parts(dir.path(), clock, open, guard);
    let registry = parts.registry.clone();
    let handle = Handle::new(
        registry.clone(),
        Arc::clone(&parts.clock),
        parts.random.clone(),
    );
    let alerts = Alerts::start(&handle, parts, Duration::from_secs(60));
    World {
        registry,
        handle,
        alerts,
        url: format!("http://{addr}/"),
        arrived,
        _dir: dir,
    }
}

/// What alerts are made over, in a data directory; `urls` says which addresses may be entered, `guard` which are dialled.
fn parts(dir: &Path, clock: SharedClock, urls: Arc<Guard>, guard: Arc<Guard>) -> Parts {
    let journal = journal::testing::open(dir, Options::default(), Arc::clone(&clock));
    let checks = Checks {
        urls,
        ..registry::testing::checks(&Outside::offline(), Arc::new(journal.clone()))
    };
    let random = Random::system();
    let registry = registry::testing::open(
        dir,
        &Given::default(),
        Arc::clone(&clock),
        random.clone(),
        checks,
    );
    Parts {
        registry,
        journal,
        pipelines: Arc::new(NoPipelines),
        client: Client::new(guard, "test", Arc::clone(&clock)).unwrap(),
        clock,
        random,
    }
}

impl World {
    async fn put(&self, rotate: bool) -> Option<Secret> {
        let actor = Actor {
            id: "adm_test".to_owned(),
            role: Role::Admin,
        };
        let settings = AlertSettings::usual(self.url.clone());
        self.registry
            .put_alert_endpoint(&actor, "ops", settings, rotate)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn after_a_rotation_both_secrets_sign() {
    let mut world = world(200, true).await;
    let old = world.put(false).await.unwrap();
    assert!(
        world.put(false).await.is_none(),
        "a change keeps the secret"
    );
    let new = world.put(true).await.unwrap();
    assert_ne!(old, new);
    let row = world.handle.test("ops").await.unwrap();
    assert_eq!(row.outcome.as_deref(), Some("sent"));
    let (headers, body) = world.arrived.recv().await.unwrap();
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    let at = text("webhook-timestamp").parse().unwrap();
    let signed = notice::signatures(&[&new, &old], &row.id, at, &body);
    assert_eq!(Some(text("webhook-signature")), signed);
    assert_eq!(text("webhook-id"), row.id);
    world.alerts.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_says_gone_is_left_alone_until_it_is_put_again() {
    let mut world = world(410, true).await;
    world.put(false).await.unwrap();
    let row = world.handle.test("ops").await.unwrap();
    assert_eq!(row.outcome.as_deref(), Some("given_up"));
    world.arrived.recv().await.unwrap();
    let gone = |world: &World| {
        let picture = world.registry.picture();
        picture.alert_endpoint("ops").unwrap().gone_at_ms.is_some()
    };
    assert!(gone(&world));
    world.put(false).await;
    assert!(!gone(&world));
    world.alerts.stop().await;
}

#[tokio::test]
async fn what_the_receiver_refuses_waits_and_what_the_guard_forbids_is_not_dialled() {
    for (status, allowed, paused, word) in [
        (400, true, None, "status 400"),
        (401, true, Some("unauthorized"), "status 401"),
        (302, true, Some("redirect"), "status 302"),
        (200, false, Some("blocked"), "blocked: "),
    ] {
        let mut world = world(status, allowed).await;
        world.put(false).await.unwrap();
        let row = world.handle.test("ops").await.unwrap();
        assert_eq!(row.outcome, None, "{status}");
        let said = row.last_error.unwrap();
        assert!(said.starts_with(word), "{said}");
        let status = world.handle.status("ops");
        assert_eq!(status.paused.map(|(reason, _)| reason), paused);
        assert_eq!(world.registry.notices_waiting("ops").await.unwrap(), 1);
        assert_eq!(world.arrived.try_recv().is_ok(), allowed);
        world.alerts.stop().await;
    }
}

/// A process that only watches: one look at a time, by a clock that stands still.
struct Watching {
    parts: Parts,
    clock: Arc<ManualClock>,
    traffic: Traffic,
    watches: BTreeMap<String, Watch>,
}

impl Watching {
    async fn begin(dir: &Path, clock: &Arc<ManualClock>) -> Self {
        let guard = Arc::new(Guard::parse(&["127.0.0.1:9".to_owned()]).unwrap());
        let parts = parts(dir, clock.clone(), Arc::clone(&guard), guard);
        let never = tokio_util::sync::CancellationToken::new();
        Self {
            traffic: Traffic::begin(&parts.journal, clock.now_ms()).await,
            watches: take_up(&parts, &never).await.unwrap(),
            clock: Arc::clone(clock),
            parts,
        }
    }

    /// The notices made by a look after so long, each as its kind and whom it is about.
    async fn look(&mut self, after_ms: Millis) -> Vec<(String, String)> {
        self.clock.advance(after_ms);
        let now_ms = self.clock.now_ms();
        let measures = measure::all(&self.parts, &mut self.traffic, now_ms)
            .await
            .unwrap();
        let (next, _) = step(&self.parts, &self.watches, &measures, now_ms)
            .await
            .unwrap();
        self.watches = next;
        let mut told = Vec::new();
        for row in self.parts.registry.next_notices().await.unwrap() {
            let body: serde_json::Value = serde_json::from_str(&row.body).unwrap();
            let name = body["data"]["source"]["name"].as_str().unwrap_or_default();
            told.push((row.kind.clone(), name.to_owned()));
            let taken = self
                .parts
                .registry
                .notice_tried(row.n, Some("sent"), now_ms, None);
            taken.await.unwrap();
        }
        told
    }

    fn posts(&self, source: &str) {
        let seen = self.parts.registry.seen();
        seen.of(source).note(self.clock.now_ms());
    }

    async fn end(self) {
        self.parts.registry.keep_seen().await.unwrap();
        self.parts.journal.close().await;
    }
}

#[tokio::test]
async fn a_source_that_falls_silent_is_told_of_once_over_a_restart_and_until_it_posts_again() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(1_700_000_000_000);
    let mut watching = Watching::begin(dir.path(), &clock).await;
    let actor = Actor {
        id: "adm_test".to_owned(),
        role: Role::Admin,
    };
    let mut sources = Vec::new();
    for name in ["shop", "app", "unused"] {
        let spec = SourceSpec {
            name: name.to_owned(),
            ..SourceSpec::default()
        };
        let made = watching.parts.registry.create_source(&actor, spec, None);
        sources.push(made.await.unwrap().0);
    }
    let settings = AlertSettings {
        rules: Rules {
            source_silent: Some(Seconds { above_s: 3_600 }),
            ..Rules::default()
        },
        ..AlertSettings::usual("http://127.0.0.1:9/".to_owned())
    };
    watching
        .parts
        .registry
        .put_alert_endpoint(&actor, "ops", settings, false)
        .await
        .unwrap();
    let of = |kind: &str, name: &str| vec![(kind.to_owned(), name.to_owned())];

    watching.posts(&sources[0]);
    watching.posts(&sources[1]);
    assert_eq!(watching.look(3_600_999).await, [], "not above yet");
    watching.posts(&sources[1]);
    assert_eq!(watching.look(1).await, of("alert.firing", "shop"));
    assert_eq!(watching.look(60_000).await, [], "told once");

    // After a restart it is known that it is silent still, since when, and that this was told.
    watching.end().await;
    clock.advance(60_000);
    let mut watching = Watching::begin(dir.path(), &clock).await;
    assert_eq!(watching.look(2_000).await, []);
    let open = watching.parts.registry.open_alerts().await.unwrap();
    let of_ops = open.iter().find(|row| row.endpoint == "ops").unwrap();
    assert_eq!(of_ops.since_ms, 1_700_000_000_000);

    watching.posts(&sources[0]);
    assert_eq!(watching.look(2_000).await, [], "over only when it stays so");
    watching.posts(&sources[0]);
    assert_eq!(watching.look(60_000).await, of("alert.resolved", "shop"));
    assert_eq!(watching.look(2_000).await, []);
    // The other one has its own hour.
    assert_eq!(watching.look(3_420_000).await, of("alert.firing", "app"));
    watching.end().await;
}
