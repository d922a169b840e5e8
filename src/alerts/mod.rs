//! Outgoing alerts: what is wrong with the gateway, found every few seconds, written down, and posted to whoever asked.
//!
//! One way through: measure → each watch decides what changed → alerts and notices in one transaction of the registry
//! → the sender works the notices off. Only the transaction makes a notice, only an answer ends it: a kill between any
//! two steps costs nothing but time, and a notice sent twice has the same `webhook-id`.
//!
//! The gateway keeps a watch of its own with the usual rules, which tells nobody: it is what the admin API shows as
//! needing attention when there is no endpoint.

mod measure;
mod notice;
mod send;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::{Millis, SharedClock};
use crate::delivery::status::Status;
use crate::journal::Journal;
use crate::metrics;
use crate::registry::alert_log::{NewNotice, NoticeRow};
use crate::registry::alerts::{AlertEndpoint, AlertSettings, Rule};
use crate::registry::random::Random;
use crate::registry::{ChangeError, Registry};
use crate::vendor::http::Client;
use measure::Traffic;
use watch::{Tell, Watch};

/// How often it is looked.
pub const EVERY: Duration = Duration::from_secs(2);

/// How often it is written down when sources last posted.
const KEEP_SEEN_EVERY_MS: Millis = 60_000;

/// How long a test waits for its answer before it says "still waiting".
const TEST_PATIENCE: Duration = Duration::from_secs(20);

/// What is asked of delivery.
pub trait Pipelines: Send + Sync {
    /// How an integration's pipeline is doing; none when none runs.
    fn snapshot(&self, integration: &str) -> Option<Status>;
}

/// What alerts are made over.
#[derive(Clone)]
pub struct Parts {
    /// Endpoints, alerts, notices.
    pub registry: Registry,
    /// Books and the end of what was accepted.
    pub journal: Journal,
    /// The running pipelines.
    pub pipelines: Arc<dyn Pipelines>,
    /// The guarded way out.
    pub client: Client,
    /// What time it is.
    pub clock: SharedClock,
    /// For ids and waits.
    pub random: Random,
}

/// How sending to an endpoint goes, as this process knows it.
#[derive(Debug, Clone, Default)]
pub struct EndpointStatus {
    /// Why it is paused, and since when (Unix ms): one attempt a minute looks whether that has changed.
    pub paused: Option<(&'static str, Millis)>,
    /// The next attempt, when the last one failed (Unix ms).
    pub retry_at_ms: Option<Millis>,
    /// When it last took a notice (Unix ms).
    pub last_sent_ms: Option<Millis>,
    /// When an attempt last failed (Unix ms).
    pub last_failed_ms: Option<Millis>,
    /// What went wrong with the last attempt, if anything.
    pub last_error: Option<String>,
}

#[derive(Default)]
struct Shared {
    /// Something new waits.
    wake: Notify,
    /// An attempt ended.
    ended: Notify,
    /// Endpoints to be tried at once.
    poked: Mutex<HashSet<String>>,
    status: Mutex<HashMap<String, EndpointStatus>>,
}

/// What the management API asks of alerts. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    registry: Registry,
    clock: SharedClock,
    random: Random,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("alerts::Handle")
    }
}

impl Handle {
    /// A handle over a registry; nothing is measured or sent until [`Alerts::start`] is called with it.
    #[must_use]
    pub fn new(registry: Registry, clock: SharedClock, random: Random) -> Self {
        Self {
            registry,
            clock,
            random,
            shared: Arc::default(),
        }
    }

    /// How sending to an endpoint goes.
    #[must_use]
    pub fn status(&self, endpoint: &str) -> EndpointStatus {
        let all = self.shared.status.lock();
        all.get(endpoint).cloned().unwrap_or_default()
    }

    /// Has an endpoint tried at once, also a paused one.
    pub fn poke(&self, endpoint: &str) {
        self.shared.poked.lock().insert(endpoint.to_owned());
        self.shared.wake.notify_one();
    }

    /// Queues a test notice behind whatever waits, has the endpoint tried at once, and waits a while for the answer.
    ///
    /// # Errors
    /// When there is no such endpoint, or the database fails.
    pub async fn test(&self, endpoint: &str) -> Result<NoticeRow, ChangeError> {
        let lost = || ChangeError::NotFound {
            what: "alert endpoint",
            id: endpoint.escape_default().to_string(),
        };
        if self.registry.picture().alert_endpoint(endpoint).is_none() {
            return Err(lost());
        }
        let id = self.random.id("msg");
        let notice = NewNotice {
            id: id.clone(),
            endpoint: endpoint.to_owned(),
            alert: None,
            kind: "alert.test",
            body: notice::test_body(endpoint, self.clock.now_ms()),
        };
        self.registry
            .record_alerts(Vec::new(), vec![notice])
            .await?;
        let deadline = tokio::time::Instant::now() + TEST_PATIENCE;
        let asked_ms = self.clock.now_ms();
        self.poke(endpoint);
        loop {
            let ended = self.shared.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            // One before it may have been refused: then this one is not even tried. Looked at before the row, which is
            // written before the status.
            let refused = self.status(endpoint).last_failed_ms >= Some(asked_ms);
            let row = self.registry.notice(&id).await?.ok_or_else(lost)?;
            if row.attempts > 0 || row.outcome.is_some() || refused {
                return Ok(row);
            }
            if tokio::time::timeout_at(deadline, ended).await.is_err() {
                return Ok(row);
            }
        }
    }
}

/// The running watch and sender. Dropped without [`Alerts::stop`] they just end; nothing is lost.
pub struct Alerts {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Alerts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Alerts")
    }
}

impl Alerts {
    /// Begins to watch and to send, in the runtime one is in.
    #[must_use]
    pub fn start(handle: &Handle, parts: Parts, every: Duration) -> Self {
        let stop = CancellationToken::new();
        let parts = Arc::new(parts);
        let (sender, watcher) = (Arc::clone(&handle.shared), Arc::clone(&handle.shared));
        let tasks = vec![
            tokio::spawn(send::run(Arc::clone(&parts), sender, stop.clone())),
            tokio::spawn(watch_over(parts, watcher, every, stop.clone())),
        ];
        Self { stop, tasks }
    }

    /// Ends both. An attempt under way is cut off; the next process makes it again.
    pub async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

async fn watch_over(
    parts: Arc<Parts>,
    shared: Arc<Shared>,
    every: Duration,
    stop: CancellationToken,
) {
    let Some(mut watches) = take_up(&parts, &stop).await else {
        return;
    };
    show(&watches);
    let mut traffic = Traffic::begin(&parts.journal, parts.clock.now_ms()).await;
    let mut kept_ms = parts.clock.now_ms();
    loop {
        tokio::select! {
            () = stop.cancelled() => return keep_seen(&parts).await,
            () = tokio::time::sleep(every) => {}
        }
        let now_ms = parts.clock.now_ms();
        if now_ms - kept_ms >= KEEP_SEEN_EVERY_MS {
            kept_ms = now_ms;
            keep_seen(&parts).await;
        }
        let measures = match measure::all(&parts, &mut traffic, now_ms).await {
            Ok(measures) => measures,
            Err(error) => {
                tracing::debug!(%error, "nothing could be measured for alerts");
                continue;
            }
        };
        match step(&parts, &watches, &measures, now_ms).await {
            Ok((next, told)) => {
                watches = next;
                if told {
                    shared.wake.notify_one();
                }
            }
            // Nothing was stored, and the watches are as before: the next look finds the same again.
            Err(error) => tracing::warn!(%error, "alerts could not be written down; trying again"),
        }
    }
}

/// Writes down when sources last posted.
async fn keep_seen(parts: &Parts) {
    if let Err(error) = parts.registry.keep_seen().await {
        tracing::warn!(%error, "when sources last posted could not be written down");
    }
}

/// The alerts that were open when the process last ended; none when it is to stop.
async fn take_up(parts: &Parts, stop: &CancellationToken) -> Option<BTreeMap<String, Watch>> {
    loop {
        match parts.registry.open_alerts().await {
            Ok(open) => {
                let picture = parts.registry.picture();
                let mut watches: BTreeMap<String, Watch> = BTreeMap::new();
                for row in open {
                    let endpoint = picture.alert_endpoint(&row.endpoint);
                    let made_ms = endpoint.map_or(0, |endpoint| endpoint.created_at_ms);
                    let watch = watches.entry(row.endpoint.clone());
                    watch.or_insert_with(|| Watch::new(made_ms)).adopt(row);
                }
                return Some(watches);
            }
            Err(error) => tracing::warn!(%error, "open alerts cannot be read; trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }
}

/// One look of every watch. Returns the watches as they are once everything is stored, and whether notices were made.
async fn step(
    parts: &Parts,
    watches: &BTreeMap<String, Watch>,
    measures: &[watch::Measure],
    now_ms: Millis,
) -> Result<(BTreeMap<String, Watch>, bool), ChangeError> {
    let picture = parts.registry.picture();
    let own = AlertSettings::usual(String::new());
    let books = picture.alert_endpoints.iter().map(|endpoint| {
        let told = endpoint.gone_at_ms.is_none();
        (
            endpoint.name.as_str(),
            endpoint.created_at_ms,
            &endpoint.settings,
            told,
        )
    });
    let (mut next, mut alerts, mut notices) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (name, made_ms, settings, told) in std::iter::once(("", 0, &own, false)).chain(books) {
        let before = watches.get(name).filter(|watch| watch.made_ms() == made_ms);
        let mut watch = before.cloned().unwrap_or_else(|| Watch::new(made_ms));
        let changed = watch.step(name, settings, measures, now_ms, &mut || {
            parts.random.id("alt")
        });
        for (row, tell) in changed {
            if name.is_empty() {
                tracing::info!(
                    rule = row.rule.as_str(),
                    integration = row.integration,
                    resolved = row.resolved_ms.is_some(),
                    "alert: {}",
                    row.summary
                );
            } else if let Some(kind) = notice::kind(tell)
                && told
                && (tell != Tell::Resolved || settings.resolved)
            {
                notices.push(NewNotice {
                    id: parts.random.id("msg"),
                    endpoint: name.to_owned(),
                    alert: Some(row.id.clone()),
                    kind,
                    body: notice::body(&row, kind, now_ms),
                });
            }
            alerts.push(row);
        }
        next.insert(name.to_owned(), watch);
    }
    let told = !notices.is_empty();
    if !alerts.is_empty() {
        parts.registry.record_alerts(alerts, notices).await?;
    }
    show(&next);
    Ok((next, told))
}

#[expect(clippy::cast_precision_loss, reason = "a handful of alerts")]
fn show(watches: &BTreeMap<String, Watch>) {
    let own = watches.get("");
    for rule in Rule::ALL {
        let firing = own.map_or(0, |own| own.firing(rule));
        metrics::alerts_firing(rule.as_str()).set(firing as f64);
    }
}

/// An endpoint's state in a word: `ok`, `retrying`, `paused` or `gone`.
#[must_use]
pub fn state_word(endpoint: &AlertEndpoint, status: &EndpointStatus) -> &'static str {
    if endpoint.gone_at_ms.is_some() {
        "gone"
    } else if status.paused.is_some() {
        "paused"
    } else if status.last_error.is_some() {
        "retrying"
    } else {
        "ok"
    }
}
