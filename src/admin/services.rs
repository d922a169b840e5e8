//! What the management API asks of delivery and of the logbook: small traits, so that it can be tested without them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::blueprint::Tables;
use crate::clock::Millis;
use crate::logbook::{Attempt, Rejected};

/// The running pipelines.
pub trait DeliveryControl: Send + Sync {
    /// How an integration is doing, as JSON with a `state`; none when no pipeline runs for it.
    fn status(&self, integration: &str) -> Option<Value>;

    /// Ends a pause of delivery's own (a refused credential) and reads the remote tables again.
    fn resume(&self, integration: &str);

    /// Sends one marked event; `event` names it, else one the vendor knows is chosen. The answer shows request and reply.
    fn test<'a>(
        &'a self,
        integration: &'a str,
        event: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Value, TestFault>>;

    /// The remote tables an integration maps by now.
    fn tables(&self, integration: &str) -> Option<Arc<Tables>>;
}

/// Why no test event was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TestFault {
    /// No pipeline runs for the integration.
    #[error("the integration does not run; see its `problem`")]
    NotRunning,
    /// The event could not be made.
    #[error("{0}")]
    NotMade(String),
}

/// Which attempts are meant; all conditions hold together.
#[derive(Debug, Clone, Default)]
pub struct AttemptFilter {
    /// At this integration.
    pub integration: Option<String>,
    /// Read as this verdict.
    pub verdict: Option<String>,
    /// Holding any of these records.
    pub seqs: Option<Vec<u64>>,
    /// Sent at or after.
    pub since_ms: Option<Millis>,
    /// With a lower id (for paging: newest first).
    pub before_id: Option<i64>,
    /// At most this many.
    pub limit: usize,
}

/// Which refused events are meant.
#[derive(Debug, Clone, Default)]
pub struct RejectedFilter {
    /// Posted by this source.
    pub source: Option<String>,
    /// Refused with this code.
    pub code: Option<String>,
    /// Refused at or after.
    pub since_ms: Option<Millis>,
    /// With a lower id.
    pub before_id: Option<i64>,
    /// At most this many.
    pub limit: usize,
}

/// The bounded logs, read. Newest first, with their ids.
pub trait LogbookQuery: Send + Sync {
    /// Attempts.
    fn attempts(&self, filter: AttemptFilter) -> BoxFuture<'_, Result<Vec<(i64, Attempt)>, String>>;

    /// One attempt with whole bodies.
    fn attempt(&self, id: i64) -> BoxFuture<'_, Result<Option<Attempt>, String>>;

    /// Refused events.
    fn rejected(&self, filter: RejectedFilter)
    -> BoxFuture<'_, Result<Vec<(i64, Rejected)>, String>>;
}
