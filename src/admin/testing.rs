//! The management API over pipelines that do nothing, for its own tests and the console's.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::{DeliveryControl, Parts, router};
use crate::assignments::Assignments;
use crate::blueprint::Tables;
use crate::clock::SharedClock;
use crate::delivery::status::Status;
use crate::delivery::{Trial, TrialError};
use crate::journal::Journal;
use crate::logbook::Logbook;
use crate::registry::random::Random;
use crate::registry::{Registry, Rehearsal};

/// Pipelines that do nothing, and remember which integrations were resumed.
#[derive(Debug, Default)]
pub(crate) struct Idle(pub(crate) Mutex<Vec<String>>);

impl DeliveryControl for Idle {
    fn status<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Option<Status>> {
        Box::pin(async { None })
    }

    fn sync(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn resume(&self, integration: &str) {
        self.0.lock().push(integration.to_owned());
    }

    fn test<'a>(
        &'a self,
        _: &'a str,
        event: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Trial>, TrialError>> {
        let event = event.map(str::to_owned);
        Box::pin(async move {
            match event.as_deref() {
                Some("unknown") => Err(TrialError::Unknown),
                Some("impossible") => Err(TrialError::NoTables("not read yet".to_owned())),
                _ => Ok(Vec::new()),
            }
        })
    }

    fn rehearse<'a>(
        &'a self,
        _: &'a Rehearsal,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Trial>, TrialError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn tables(&self, _: &str) -> Arc<Tables> {
        Arc::default()
    }
}

/// The API, with no log of attempts, and its assignments in `dir`.
pub(crate) fn api(
    dir: &Path,
    registry: &Registry,
    journal: &Journal,
    delivery: &Arc<Idle>,
    clock: SharedClock,
    calls_a_minute: u32,
) -> Router {
    let alerts = crate::alerts::Handle::new(registry.clone(), Arc::clone(&clock), Random::system());
    let assignments =
        Assignments::open(&dir.join("assignments.db"), i64::MAX, Arc::clone(&clock)).unwrap();
    router(Parts {
        registry: registry.clone(),
        alerts,
        journal: journal.clone(),
        delivery: Arc::<Idle>::clone(delivery),
        logbook: Logbook::none(),
        assignments,
        clock,
        calls_a_minute,
    })
}
