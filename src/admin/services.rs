//! What the management API asks of delivery: a small trait, so that it can be tested without pipelines.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::blueprint::Tables;
use crate::delivery::status::Status;

/// The running pipelines.
pub trait DeliveryControl: Send + Sync {
    /// How an integration is doing; none when no pipeline runs for it.
    fn status(&self, integration: &str) -> Option<Status>;

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
