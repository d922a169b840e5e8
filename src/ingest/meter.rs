//! Metric handles kept at hand: looking one up by name and labels costs more than parsing an event.

use std::array;
use std::sync::OnceLock;
use std::time::Duration;

use axum::http::StatusCode;
use metrics::{Counter, Histogram};

use super::route::Route;
use crate::metrics as named;

/// The door's own meters.
#[derive(Debug)]
pub(super) struct Meters {
    /// Time of requests answered with 200, by route.
    ok: [OnceLock<Histogram>; Route::LABELS.len()],
    retries: OnceLock<Counter>,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            ok: array::from_fn(|_| OnceLock::new()),
            retries: OnceLock::new(),
        }
    }
}

impl Meters {
    /// Counts and times one answer.
    pub(super) fn answered(&self, route: &Route<'_>, status: StatusCode, took: Duration) {
        let Some((label, slot)) = Route::LABELS
            .get(route.index())
            .zip(self.ok.get(route.index()))
        else {
            return;
        };
        if status == StatusCode::OK {
            slot.get_or_init(|| named::ingest_request_seconds(label, 200))
                .record(took);
        } else {
            named::ingest_request_seconds(label, status.as_u16()).record(took);
        }
    }

    /// Counts a request an SDK sends again.
    pub(super) fn retried(&self) {
        self.retries.get_or_init(named::ingest_retries).increment(1);
    }
}
