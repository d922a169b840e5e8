//! What is installed: sources and their write keys, integrations and their blueprints, admin tokens, the audit log.
//!
//! [`store`] keeps it durably in `control.db`; readers hold the published, immutable [`View`] and never touch the database.

pub mod alert_log;
pub mod alerts;
pub mod answers;
pub mod audit;
pub mod checks;
pub mod picture;
mod preflight;
pub mod random;
pub mod seal;
pub mod store;
pub mod tokens_only;

mod access;
mod agents;
mod control;
mod draft;
mod integrations;
mod permits;
mod replays;
mod seen;
mod tuning;
mod values;

use std::collections::HashMap;
use std::sync::Arc;

pub use agents::NewAgent;
pub use control::{ChangeError, Given, OpenError, Registry};
pub use draft::shipped_variants;
pub use integrations::{Changed, Rehearsal};
pub use permits::{Permits, SourceSpec};
pub use replays::ReplayRow;
pub use seen::{Moment, Seen};

use crate::blueprint::{Blueprint, Config, Plan};
use crate::clock::Millis;
use crate::secret::Secret;

/// An app allowed to post events.
#[derive(Debug, Clone)]
pub struct Source {
    /// `src_…`.
    pub id: String,
    /// Name for people; unique.
    pub name: String,
    /// Events a second all its keys together may post; none = no limit of its own.
    pub rate: Option<u32>,
    /// What else its keys are held to.
    pub permits: Permits,
    /// Posts are taken.
    pub enabled: bool,
    /// When it was made.
    pub created_at_ms: Millis,
}

/// An Optimizely Agent whose decisions a source listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The Agent's base address, as `https://agent.example.org`.
    pub url: String,
    /// The key it is asked with.
    pub sdk_key: Secret,
    /// Kinds of notifications asked for, comma-separated; `decision` is one of them.
    pub filter: String,
}

/// Why and since when an admin stopped an integration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Pause {
    /// Words of whoever paused it.
    pub reason: String,
    /// Since when (Unix ms).
    pub since_ms: Millis,
}

/// How an integration is delivered to. Every field has a default; `settings` of the API.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// Requests under way at once.
    pub in_flight_max: usize,
    /// Most items in one request (at most the blueprint's).
    pub batch_items: Option<usize>,
    /// Most bytes in one request (at most the blueprint's).
    pub batch_bytes: Option<usize>,
    /// How long a batch waits to fill, in milliseconds.
    pub batch_wait_ms: Option<u64>,
    /// Time for one attempt, in milliseconds.
    pub timeout_ms: u64,
    /// First wait before a retry, in milliseconds.
    pub retry_base_ms: u64,
    /// Longest wait before a retry, in milliseconds.
    pub retry_cap_ms: u64,
    /// After this long an event that still cannot be delivered becomes a dead letter, in seconds.
    pub retry_for_s: u64,
    /// How long an unknown event key waits for the datafile, in seconds.
    pub hold_s: Option<u64>,
    /// A backlog older than this is given up as skipped (`expired`), in seconds.
    pub backlog_age_s: u64,
    /// A backlog larger than this on disk is given up, oldest first, as skipped (`expired`), in bytes.
    pub backlog_bytes: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            in_flight_max: 4,
            batch_items: None,
            batch_bytes: None,
            batch_wait_ms: None,
            timeout_ms: 15_000,
            retry_base_ms: 500,
            retry_cap_ms: 60_000,
            retry_for_s: 24 * 3_600,
            hold_s: None,
            backlog_age_s: 7 * 24 * 3_600,
            backlog_bytes: 20 << 30,
        }
    }
}

/// One installed link to a vendor.
#[derive(Debug)]
pub struct Integration {
    /// `int_…`; also the name of its journal feed.
    pub id: String,
    /// Vendor, e.g. `optimizely`.
    pub vendor: String,
    /// Variant of the shipped blueprint it began with.
    pub variant: String,
    /// Name for people; unique.
    pub name: String,
    /// Only events of these sources; none = of all.
    pub sources: Option<Vec<String>>,
    /// Values of the blueprint's fields, secrets included.
    pub config: Config,
    /// How it is delivered to.
    pub tuning: Tuning,
    /// Stopped by an admin.
    pub paused: Option<Pause>,
    /// Number of the blueprint revision in use.
    pub blueprint_revision: u32,
    /// Text of that revision.
    pub blueprint_text: String,
    /// That revision, checked.
    pub blueprint: Arc<Blueprint>,
    /// … and bound to `config`.
    pub plan: Arc<Plan>,
    /// Changes with every change of anything above.
    pub version: u64,
    /// When it was installed.
    pub created_at_ms: Millis,
}

/// The published picture of the registry.
#[derive(Debug, Default, Clone)]
pub struct View {
    /// Sources by SHA-256 of a live write key.
    pub sources_by_key: HashMap<[u8; 32], Arc<Source>>,
    /// Integrations by id, in order of installation.
    pub integrations: Vec<Arc<Integration>>,
    /// Sources that listen to an Agent.
    pub agents: Vec<(Arc<Source>, Arc<Agent>)>,
    /// Integrations that cannot run (their blueprint no longer checks), with the limits their backlog keeps to.
    pub idle: Vec<(String, Tuning)>,
    /// Where accepted events are noted by source.
    pub seen: Seen,
}

/// A view shared by readers: `load()` it per request or step.
pub type SharedView = Arc<arc_swap::ArcSwap<View>>;

/// What an admin token may do; each includes those before it.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Pause, resume, replay, test.
    Operator,
    /// Install and change integrations and blueprints.
    Editor,
    /// Sources, tokens.
    Admin,
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
