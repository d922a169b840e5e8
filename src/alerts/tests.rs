//! Sending, through a registry, the real client and a real listener.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;

use super::{Alerts, Handle, Parts, Pipelines, notice};
use crate::clock::{SharedClock, SystemClock};
use crate::delivery::status::Status;
use crate::journal::{self, Options};
use crate::registry::alerts::AlertSettings;
use crate::registry::audit::Actor;
use crate::registry::checks::Checks;
use crate::registry::random::Random;
use crate::registry::testing::Outside;
use crate::registry::{self, Given, Registry, Role};
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
    let journal = journal::testing::open(dir.path(), Options::default(), Arc::clone(&clock));
    let open = Arc::new(Guard::parse(&[addr.to_string()]).unwrap());
    let guard = if allowed {
        Arc::clone(&open)
    } else {
        Arc::new(Guard::default())
    };
    let client = Client::new(guard, "test", Arc::clone(&clock)).unwrap();
    let checks = Checks {
        urls: open,
        ..registry::testing::checks(&Outside::offline(), Arc::new(journal.clone()))
    };
    let random = Random::system();
    let registry = registry::testing::open(
        dir.path(),
        &Given::default(),
        Arc::clone(&clock),
        random.clone(),
        checks,
    );
    let handle = Handle::new(registry.clone(), Arc::clone(&clock), random.clone());
    let parts = Parts {
        registry: registry.clone(),
        journal,
        pipelines: Arc::new(NoPipelines),
        client,
        clock,
        random,
    };
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
