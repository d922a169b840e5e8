//! Decisions of Optimizely Agents: one long answer per source that listens to one, read line by line into the journal.
//!
//! An Agent remembers nothing for a listener that was away (contracts: its stream has no ids and no replay), and several
//! Agents behind one address each tell only of their own decisions. So: reconnect at once and then ever more slowly,
//! count every time it was not heard, and never let go of a decision that was read. Knows no vendor and no blueprint.

mod lines;
mod stream;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::ingest::{Random, SharedRules};
use crate::journal::Journal;
use crate::logbook::Logbook;
use crate::metrics;
use crate::registry::{Agent, SharedView, Source};
use crate::vendor::http::Client;

/// How often it is looked whether sources came, went or changed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What listening needs.
#[derive(Clone)]
pub struct Parts {
    /// Which sources listen to whom.
    pub view: SharedView,
    /// The guarded way out.
    pub client: Client,
    /// Where decisions go.
    pub journal: Journal,
    /// Where refused ones are shown.
    pub logbook: Logbook,
    /// What decisions are filled in from.
    pub rules: SharedRules,
    /// What time it is.
    pub clock: SharedClock,
    /// For message ids and for spreading retries.
    pub random: Random,
}

/// The running listeners.
#[derive(Debug)]
pub struct Agents {
    stop: CancellationToken,
    watch: JoinHandle<()>,
}

/// One running listener.
struct Running {
    agent: Arc<Agent>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Agents {
    /// Begins to listen for every source with an Agent, and goes on as sources come and go.
    #[must_use]
    pub fn start(parts: Parts) -> Self {
        let stop = CancellationToken::new();
        let watch = tokio::spawn(watch(parts, stop.clone()));
        Self { stop, watch }
    }

    /// Hangs up; returns once everything read is durable, or cannot become so.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.watch.await {
            tracing::error!(%error, "the listeners to Agents ended badly");
        }
    }
}

async fn watch(parts: Parts, stop: CancellationToken) {
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut ended = Vec::new();
    let mut seen = None;
    loop {
        let view = parts.view.load_full();
        let is_new = !seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &view));
        if is_new {
            let wanted: Vec<&(Arc<Source>, Arc<Agent>)> = view
                .agents
                .iter()
                .filter(|(source, _)| source.enabled)
                .collect();
            let gone: Vec<String> = running
                .iter()
                .filter(|(id, running)| {
                    !wanted
                        .iter()
                        .any(|(source, agent)| source.id == **id && *agent == running.agent)
                })
                .map(|(id, _)| id.clone())
                .collect();
            for id in gone {
                if let Some(old) = running.remove(&id) {
                    old.stop.cancel();
                    ended.push(old.task);
                }
            }
            for (source, agent) in wanted {
                running
                    .entry(source.id.clone())
                    .or_insert_with(|| listen(&parts, source, agent, stop.child_token()));
            }
            seen = Some(view);
        }
        ended.retain(|task| !task.is_finished());
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    ended.extend(running.into_values().map(|running| running.task));
    for task in ended {
        if let Err(error) = task.await {
            tracing::error!(%error, "a listener to an Agent ended badly");
        }
    }
}

fn listen(
    parts: &Parts,
    source: &Arc<Source>,
    agent: &Arc<Agent>,
    stop: CancellationToken,
) -> Running {
    let listener = stream::Listener::new(
        parts.clone(),
        source.id.clone(),
        Arc::clone(agent),
        stop.clone(),
    );
    let connected = metrics::agent_stream_connected(&source.id);
    let task = tokio::spawn(async move {
        listener.run().await;
        connected.set(0.0);
    });
    Running {
        agent: Arc::clone(agent),
        stop,
        task,
    }
}
