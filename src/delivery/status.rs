//! What people see of a pipeline.

use crate::clock::Millis;
use crate::vendor::refresh::DocumentStatus;

/// What a pipeline is doing.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// About to take up its work.
    #[default]
    Starting,
    /// Delivering, or nothing to deliver.
    Running,
    /// Waiting for something that is expected to come by itself: `no_datafile`, `backoff`.
    Waiting,
    /// Stopped, by an admin or because the vendor will have none of it; the backlog is kept.
    Paused,
    /// Something of ours failed; it is tried again in a moment.
    Failed,
}

/// One pipeline, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Why, when it is not running: `admin`, `unauthorized`, `forbidden`, `not_found`, `redirect`, `blocked`,
    /// `no_datafile`, `backoff`, `journal`, …
    pub reason: Option<String>,
    /// The same in words: the admin's reason, or what the vendor answered.
    pub detail: Option<String>,
    /// Since when (Unix ms).
    pub since_ms: Option<Millis>,
    /// For `backoff`: until when (Unix ms).
    pub until_ms: Option<Millis>,
    /// When the oldest event without an outcome was accepted (Unix ms).
    pub oldest_pending_ms: Option<Millis>,
    /// Requests under way.
    pub in_flight: usize,
    /// Events read and not yet settled.
    pub unsettled: usize,
    /// What went wrong last since the process started, in words.
    pub last_error: Option<String>,
    /// When that was (Unix ms).
    pub last_error_ms: Option<Millis>,
    /// When the vendor last took something (Unix ms); kept in memory: none until it has since the process started.
    pub last_success_ms: Option<Millis>,
    /// Each request of the blueprint, when it makes several: one may be paused while others go on.
    pub requests: Vec<RequestStatus>,
    /// The documents its tables are read from, e.g. the datafile.
    pub documents: Vec<DocumentStatus>,
}

/// One request of a blueprint, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct RequestStatus {
    /// Its name in the blueprint.
    pub name: String,
    /// What it is doing: `running`, `waiting` or `paused`.
    pub state: State,
    /// Why, when it is not running: `unauthorized`, `forbidden`, …; `backoff` or `rate` while waiting.
    pub reason: Option<String>,
    /// What the vendor answered; or which fields are left out, because the vendor does not have them.
    pub detail: Option<String>,
    /// Since when it is paused (Unix ms).
    pub since_ms: Option<Millis>,
    /// While waiting: until when (Unix ms).
    pub until_ms: Option<Millis>,
    /// Under way.
    pub in_flight: usize,
    /// Events in memory that wait for it.
    pub waiting: usize,
    /// Its further events are set apart in the journal, so that other requests go on.
    pub apart: bool,
}
