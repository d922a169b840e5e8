//! What the management API asks of delivery: a small trait, so that it can be tested without pipelines.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::blueprint::Tables;
use crate::delivery::status::Status;
use crate::delivery::{Handle, Trial, TrialError};
use crate::registry::Rehearsal;

/// The running pipelines.
pub trait DeliveryControl: Send + Sync {
    /// How an integration is doing; none when no pipeline runs for it.
    fn status<'a>(&'a self, integration: &'a str) -> BoxFuture<'a, Option<Status>>;

    /// Brings the pipelines in step with the published view; done when the answer to a change may be given.
    fn sync(&self) -> BoxFuture<'_, ()>;

    /// Ends a pause of delivery's own (a refused credential) and reads the remote tables again.
    fn resume(&self, integration: &str);

    /// Sends one marked event; `event` names it. Shows each request and its reply.
    fn test<'a>(
        &'a self,
        integration: &'a str,
        event: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Trial>, TrialError>>;

    /// The same for an integration that is not installed yet.
    fn rehearse<'a>(
        &'a self,
        rehearsal: &'a Rehearsal,
        event: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Trial>, TrialError>>;

    /// The remote tables an integration maps by now.
    fn tables(&self, integration: &str) -> Arc<Tables>;
}

impl DeliveryControl for Handle {
    fn status<'a>(&'a self, integration: &'a str) -> BoxFuture<'a, Option<Status>> {
        Box::pin(Self::status(self, integration))
    }

    fn sync(&self) -> BoxFuture<'_, ()> {
        Box::pin(Self::sync(self))
    }

    fn resume(&self, integration: &str) {
        // False: there is no pipeline, or no document to read; then there is nothing to resume.
        let _ = Self::resume(self, integration);
        let _ = self.poke_datafile(integration);
    }

    fn test<'a>(
        &'a self,
        integration: &'a str,
        event: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Trial>, TrialError>> {
        Box::pin(Self::test(self, integration, event))
    }

    fn rehearse<'a>(
        &'a self,
        rehearsal: &'a Rehearsal,
        event: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Trial>, TrialError>> {
        Box::pin(Self::rehearse(self, rehearsal, event))
    }

    fn tables(&self, integration: &str) -> Arc<Tables> {
        Self::tables(self, integration)
    }
}
