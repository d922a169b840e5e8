//! Journal to vendor: one pipeline per integration.
//!
//! [`Delivery::start`] runs a supervisor that keeps one [`worker`] per installed integration in step with the
//! registry's view: started when installed, begun anew when changed, ended (and its feed removed) when deleted.
//! Pipelines share nothing that can block: each has its own task, cursor, window, gate and connections in use.
//! Knows no ingest and no admin; admin holds a [`Handle`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::blueprint::{ConfigValue, Request};
use crate::clock::{Millis, SharedClock};
use crate::journal::{FeedStart, Journal, JournalError};
use crate::logbook::Logbook;
use crate::metrics;
use crate::registry::{Integration, SharedView, Tuning};
use crate::vendor::http::{Answer, Client, SendError};
use crate::vendor::refresh::{Refresh, Refresher, Subject};

mod batch;
mod bisect;
mod combine;
mod expiry;
mod flow;
pub(crate) mod gate;
mod handle;
mod mapping;
mod read;
#[doc(hidden)]
pub mod rehearsal;
mod rest;
pub(crate) mod retry;
pub mod status;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_live;
mod wire;
mod worker;

pub use handle::{Handle, Trial, TrialError, WebhookError};

use status::{State, Status};
use worker::{Order, Worker};

/// The view is compared with what runs this often; [`Handle::sync`] does it at once.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Ages of backlogs and datafiles are looked up this often.
const AGES_EVERY: Duration = Duration::from_secs(2);

/// Feeds nobody delivers are held to the limits of a backlog this often.
const IDLE_LIMITS_EVERY: Duration = Duration::from_secs(30);

/// A pipeline that failed is begun anew after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Makes one request at a vendor.
pub trait Sender: Send + Sync {
    /// Sends it; the future owns all it needs.
    fn send(
        &self,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Answer, SendError>>;
}

impl Sender for Client {
    fn send(
        &self,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Answer, SendError>> {
        let client = self.clone();
        Box::pin(async move { Client::send(&client, &request, timeout).await })
    }
}

/// What delivery works with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of the last good datafiles, `<data_dir>/datafiles`.
    pub datafiles_dir: PathBuf,
    /// Where datafiles are published for deciding flags.
    pub datafiles: crate::datafile::Shared,
    /// Seed of all chance here (jitter of waits).
    pub seed: u64,
}

/// What all pipelines are made of.
#[derive(Debug, Clone)]
struct Shared {
    journal: Journal,
    view: SharedView,
    client: Client,
    logbook: Logbook,
    clock: SharedClock,
    options: Options,
    pipelines: Arc<Mutex<HashMap<String, Pipeline>>>,
    /// Rates that integrations of one account keep together.
    buckets: flow::Directory,
}

/// What outsiders need of a running pipeline.
#[derive(Debug, Clone)]
struct Pipeline {
    integration: Arc<Integration>,
    status: Arc<Mutex<Status>>,
    rates: worker::Rates,
    orders: mpsc::UnboundedSender<Order>,
    refresh: Option<Refresh>,
}

/// A pipeline as the supervisor sees it.
#[derive(Debug)]
struct Running {
    version: u64,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The delivery stage, running.
#[derive(Debug)]
pub struct Delivery {
    handle: Handle,
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
}

impl Delivery {
    /// Starts delivering for every integration in the view. Needs a tokio runtime.
    #[must_use]
    pub fn start(
        journal: Journal,
        view: SharedView,
        client: Client,
        logbook: Logbook,
        clock: SharedClock,
        options: Options,
    ) -> Self {
        let shared = Shared {
            journal,
            view,
            client,
            logbook,
            clock,
            options,
            pipelines: Arc::default(),
            buckets: flow::Directory::default(),
        };
        let stop = CancellationToken::new();
        let (syncs, requests) = mpsc::unbounded_channel();
        let supervisor = tokio::spawn(supervise(shared.clone(), stop.clone(), requests));
        Self {
            handle: Handle::new(shared, syncs),
            stop,
            supervisor,
        }
    }

    /// For admin and webhooks.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops taking up new work, lets requests under way end and settles them, for at most `deadline`. Whatever is
    /// not settled by then is sent again after the next start, byte for byte. True when all was settled.
    pub async fn stop(self, deadline: Duration) -> bool {
        self.stop.cancel();
        let abort = self.supervisor.abort_handle();
        let ended = tokio::time::timeout(deadline, self.supervisor).await;
        abort.abort();
        ended.is_ok()
    }
}

async fn supervise(
    shared: Shared,
    stop: CancellationToken,
    mut syncs: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
) {
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut chance = StdRng::seed_from_u64(shared.options.seed);
    let mut ages_due = tokio::time::interval(AGES_EVERY);
    ages_due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut limits_due = tokio::time::interval(IDLE_LIMITS_EVERY);
    limits_due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen: Option<Arc<crate::registry::View>> = None;
    warn_of_strangers(&shared).await;
    loop {
        let mut waiting = None;
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => {}
            Some(request) = syncs.recv() => waiting = Some(request),
            _ = ages_due.tick() => {
                look_up(&shared).await;
                continue;
            }
            _ = limits_due.tick(), if seen.is_some() => {
                expire_idle(&shared, &running).await;
                continue;
            }
        }
        let view = shared.view.load_full();
        let changed = seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, &view));
        if changed {
            match reconcile(&shared, &view, &mut running, &mut chance).await {
                Ok(()) => seen = Some(view),
                Err(error) => {
                    tracing::error!(%error, "cannot take up a change of integrations yet")
                }
            }
        }
        if let Some(waiting) = waiting {
            let _ = waiting.send(());
        }
    }
    for pipeline in running.values() {
        pipeline.stop.cancel();
    }
    for (_, pipeline) in running {
        let _ = pipeline.task.await;
    }
}

/// Feeds without an integration keep the journal from being trimmed. Nothing is removed unasked: their backlog may
/// be all that is left of events (an older registry put back from a backup). It is held to the limits all the same,
/// see [`expire_idle`].
async fn warn_of_strangers(shared: &Shared) {
    let view = shared.view.load_full();
    for ledger in shared.journal.ledger().await.unwrap_or_default() {
        if !view
            .integrations
            .iter()
            .any(|known| known.id == ledger.feed)
            && !view.idle.iter().any(|(id, _)| *id == ledger.feed)
        {
            tracing::warn!(
                feed = ledger.feed,
                pending = ledger.pending,
                "the journal has a feed of no installed integration; it keeps its backlog on disk"
            );
        }
    }
}

/// Holds feeds nobody delivers to the limits of a backlog: those of integrations whose blueprint no longer checks to
/// their own, those of none to the limits that hold where nothing else is set.
async fn expire_idle(shared: &Shared, running: &HashMap<String, Running>) {
    let view = shared.view.load_full();
    let unset = Tuning::default();
    for ledger in shared.journal.ledger().await.unwrap_or_default() {
        if ledger.pending == 0 || running.contains_key(&ledger.feed) {
            continue;
        }
        let feed = &ledger.feed;
        let own = view.idle.iter().find(|(id, _)| id == feed);
        let tuning = own.map_or(&unset, |(_, tuning)| tuning);
        let age_ms = i64::try_from(tuning.backlog_age_s)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000);
        let before_ms = shared.clock.now_ms().saturating_sub(age_ms);
        match expiry::of_idle_feed(&shared.journal, feed, before_ms, tuning.backlog_bytes).await {
            Ok(0) => {}
            Ok(events) => tracing::error!(
                feed,
                events,
                "backlog of a feed nobody delivers is over its limit: its oldest events are given up as skipped (expired)"
            ),
            Err(error) => {
                tracing::error!(feed, %error, "cannot hold a feed to the limits of a backlog")
            }
        }
    }
}

async fn reconcile(
    shared: &Shared,
    view: &crate::registry::View,
    running: &mut HashMap<String, Running>,
    chance: &mut StdRng,
) -> Result<(), JournalError> {
    let gone: Vec<String> = running
        .keys()
        .filter(|id| !view.integrations.iter().any(|known| known.id == **id))
        .cloned()
        .collect();
    for id in gone {
        if let Some(pipeline) = running.remove(&id) {
            remove(shared, &id, pipeline).await?;
        }
    }
    for integration in &view.integrations {
        let id = &integration.id;
        let version = integration.version;
        if running
            .get(id)
            .is_some_and(|known| known.version == version)
        {
            continue;
        }
        // The feed is there before this returns: from now on no event passes it by.
        shared.journal.open_feed(id, FeedStart::Now).await?;
        let before = running.remove(id);
        let seed: u64 = chance.random();
        running.insert(id.clone(), begin(shared, integration, before, seed));
    }
    Ok(())
}

/// Ends a pipeline whose integration was deleted, and forgets what it kept.
async fn remove(shared: &Shared, id: &str, pipeline: Running) -> Result<(), JournalError> {
    // What is under way at the vendor need not be waited for: nobody will ask for its outcome.
    pipeline.stop.cancel();
    pipeline.task.abort();
    let _ = pipeline.task.await;
    shared.pipelines.lock().remove(id);
    match shared.journal.remove_feed(id).await {
        Ok(()) | Err(JournalError::NoFeed(_)) => {}
        Err(error) => return Err(error),
    }
    shared.options.datafiles.remove(id);
    let (dir, name) = (shared.options.datafiles_dir.clone(), id.to_owned());
    let forget = move || crate::vendor::refresh::forget(&dir, &name);
    let _ = tokio::task::spawn_blocking(forget).await;
    // What the operators' listener mirrors from the books ends with the books: nothing pends any more.
    for gauge in [
        metrics::pending_events(id),
        metrics::oldest_pending_seconds(id),
        metrics::dead_letters(id),
    ] {
        gauge.set(0.0);
    }
    tracing::info!(integration = id, "integration removed");
    Ok(())
}

/// Starts a pipeline; it takes up its work when the one before it has ended.
fn begin(
    shared: &Shared,
    integration: &Arc<Integration>,
    before: Option<Running>,
    seed: u64,
) -> Running {
    let stop = CancellationToken::new();
    if let Some(before) = &before {
        before.stop.cancel();
    }
    let earlier = shared.pipelines.lock().get(&integration.id).cloned();
    let (orders, inbox) = mpsc::unbounded_channel();
    let pipeline = Pipeline {
        integration: integration.clone(),
        rates: earlier
            .as_ref()
            .map(|pipeline| pipeline.rates.clone())
            .unwrap_or_default(),
        status: earlier.map(|pipeline| pipeline.status).unwrap_or_default(),
        orders,
        refresh: None,
    };
    let kept = Kept {
        status: pipeline.status.clone(),
        rates: pipeline.rates.clone(),
    };
    shared
        .pipelines
        .lock()
        .insert(integration.id.clone(), pipeline);
    let task = {
        let (shared, integration, stop) = (shared.clone(), integration.clone(), stop.clone());
        tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.task.await;
            }
            keep_running(shared, integration, kept, inbox, stop, seed).await;
        })
    };
    Running {
        version: integration.version,
        stop,
        task,
    }
}

/// What outlives a worker.
struct Kept {
    status: Arc<Mutex<Status>>,
    rates: worker::Rates,
}

/// Runs a worker, and another when it fails, until stopped.
async fn keep_running(
    shared: Shared,
    integration: Arc<Integration>,
    kept: Kept,
    mut inbox: mpsc::UnboundedReceiver<Order>,
    stop: CancellationToken,
    seed: u64,
) {
    let mut chance = StdRng::seed_from_u64(seed);
    let refresh = take_up_tables(&shared, &integration, &stop, chance.random()).await;
    if let Some(pipeline) = shared.pipelines.lock().get_mut(&integration.id)
        && pipeline.integration.version == integration.version
    {
        pipeline.refresh.clone_from(&refresh);
    }
    while !stop.is_cancelled() {
        let ended = match shared
            .journal
            .open_feed(&integration.id, FeedStart::Now)
            .await
        {
            Ok(feed) => {
                let parts = worker::Parts {
                    integration: integration.clone(),
                    journal: shared.journal.clone(),
                    sender: Arc::new(shared.client.clone()),
                    logbook: shared.logbook.clone(),
                    clock: shared.clock.clone(),
                    chance: StdRng::seed_from_u64(chance.random()),
                    refresh: refresh.clone(),
                    status: kept.status.clone(),
                    rates: kept.rates.clone(),
                    buckets: shared.buckets.clone(),
                };
                Worker::new(parts, &feed).run(&stop, &mut inbox).await
            }
            Err(error) => Err(error),
        };
        let Err(error) = ended else {
            return;
        };
        if matches!(error, JournalError::Closed) && stop.is_cancelled() {
            return;
        }
        tracing::error!(integration = integration.id, %error, "pipeline failed; it begins anew where it stood");
        {
            let mut status = kept.status.lock();
            status.state = State::Failed;
            status.reason = Some("journal".to_owned());
            status.detail = Some(error.to_string());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RESTART_AFTER) => {}
        }
    }
}

/// Loads the last good tables and keeps them fresh until `stop`.
async fn take_up_tables(
    shared: &Shared,
    integration: &Arc<Integration>,
    stop: &CancellationToken,
    seed: u64,
) -> Option<Refresh> {
    let subject = Subject {
        integration: integration.id.clone(),
        plan: integration.plan.clone(),
        config: integration.config.clone(),
        vendor: crate::vendor::by_name(&integration.vendor),
        dir: shared.options.datafiles_dir.clone(),
        datafiles: shared.options.datafiles.clone(),
    };
    let (client, clock) = (shared.client.clone(), shared.clock.clone());
    let load = move || Refresher::load(subject, client, clock, seed);
    let (refresher, refresh) = tokio::task::spawn_blocking(load).await.ok()??;
    tokio::spawn(refresher.run(stop.clone()));
    Some(refresh)
}

/// Brings what is looked up rather than reported up to date: ages of backlogs and datafiles.
async fn look_up(shared: &Shared) {
    let now_ms = shared.clock.now_ms();
    let pipelines = shared.pipelines.lock().clone();
    for (id, pipeline) in &pipelines {
        let oldest_ms = shared.journal.oldest_pending_ms(id).await.ok().flatten();
        let requests = {
            let mut status = pipeline.status.lock();
            status.oldest_pending_ms = oldest_ms;
            status.requests.clone()
        };
        show_requests(id, &requests);
        let confirmed = pipeline.refresh.iter().flat_map(Refresh::status);
        if let Some(at_ms) = confirmed
            .filter_map(|document| document.confirmed_at_ms)
            .min()
        {
            metrics::datafile_age_seconds(id).set(seconds(now_ms - at_ms));
        }
    }
}

/// Shows each request of a blueprint that makes several.
#[expect(clippy::cast_precision_loss, reason = "a window of events")]
fn show_requests(id: &str, requests: &[status::RequestStatus]) {
    for request in requests {
        let paused = request.state == status::State::Paused;
        metrics::request_waiting(id, &request.name).set(request.waiting as f64);
        metrics::request_in_flight(id, &request.name).set(request.in_flight as f64);
        metrics::request_paused(id, &request.name).set(f64::from(u8::from(paused)));
    }
}

#[expect(clippy::cast_precision_loss, reason = "ages far below 2^52 ms")]
fn seconds(ms: Millis) -> f64 {
    ms.max(0) as f64 / 1_000.0
}

/// A text without the integration's secrets.
fn mask(integration: &Integration, text: &str) -> String {
    integration
        .config
        .values()
        .fold(text.to_owned(), |text, value| match value {
            ConfigValue::Secret(secret) if secret.expose().len() >= 4 => {
                text.replace(secret.expose(), "…")
            }
            _ => text,
        })
}
