//! The operators' listener: Prometheus metrics and health. Never depends on a vendor.
//!
//! `/livez` answers while the process loop turns; `/readyz` says whether events can be accepted, and why not.
//! What the journal's books hold (pending, dead letters, outcomes) is read when Prometheus asks, so the
//! numbers scraped are the numbers of the ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::clock::SharedClock;
use crate::journal::{Journal, Ledger};
use crate::metrics;

/// What the listener reads.
#[derive(Clone)]
pub struct Ops {
    /// Renders the metrics.
    pub prometheus: PrometheusHandle,
    /// Read for health and books.
    pub journal: Journal,
    /// Set when the process is stopping.
    pub draining: Arc<AtomicBool>,
    /// For ages.
    pub clock: SharedClock,
}

impl std::fmt::Debug for Ops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ops").finish_non_exhaustive()
    }
}

/// Answer of `/readyz`.
#[derive(Debug, serde::Serialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<String>,
}

/// The listener's routes.
pub fn router(ops: Ops) -> Router {
    Router::new()
        .route("/metrics", get(render))
        .route("/livez", get(async || "ok\n"))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(ops)
}

async fn ready(State(ops): State<Ops>) -> Response {
    let mut reasons = Vec::new();
    if ops.draining.load(Ordering::SeqCst) {
        reasons.push("draining: the process is stopping".to_owned());
    }
    let health = ops.journal.health();
    if !health.writable {
        reasons.push(
            health
                .reason
                .unwrap_or_else(|| "the journal takes no events".to_owned()),
        );
    }
    let status = if reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(Readiness {
            ready: reasons.is_empty(),
            reasons,
        }),
    )
        .into_response()
}

async fn render(State(ops): State<Ops>) -> Response {
    if let Err(error) = read_books(&ops).await {
        // The other metrics are still worth scraping; /readyz says what is wrong.
        tracing::warn!(%error, "the journal's books could not be read for /metrics");
    }
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        ops.prometheus.render(),
    )
        .into_response()
}

/// Brings the metrics that mirror the journal up to date.
async fn read_books(ops: &Ops) -> Result<(), crate::journal::JournalError> {
    let now_ms = ops.clock.now_ms();
    for ledger in ops.journal.ledger().await? {
        mirror(&ledger);
        let oldest = ops.journal.oldest_pending_ms(&ledger.feed).await?;
        let age_ms = oldest.map_or(0, |at_ms| now_ms.saturating_sub(at_ms).max(0));
        #[expect(clippy::cast_precision_loss, reason = "an age in seconds for a gauge")]
        metrics::oldest_pending_seconds(&ledger.feed).set(age_ms as f64 / 1000.0);
    }
    let health = ops.journal.health();
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    {
        metrics::journal_bytes().set(health.bytes as f64);
        metrics::journal_damaged_blocks().set(health.damaged_blocks as f64);
        metrics::dedup_window_seconds().set(health.dedup_window_ms as f64 / 1000.0);
    }
    Ok(())
}

/// One integration's books as metrics.
#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
fn mirror(ledger: &Ledger) {
    let dead: u64 = ledger.dead.iter().map(|(_, n)| n).sum();
    let skipped: u64 = ledger.skipped.iter().map(|(_, n)| n).sum();
    metrics::pending_events(&ledger.feed).set(ledger.pending as f64);
    metrics::dead_letters(&ledger.feed).set(dead as f64);
    metrics::deliveries(&ledger.feed, "delivered").absolute(ledger.delivered);
    metrics::deliveries(&ledger.feed, "skipped").absolute(skipped);
    metrics::deliveries(&ledger.feed, "deduplicated").absolute(ledger.deduplicated);
    metrics::deliveries(&ledger.feed, "dead").absolute(dead);
    for (reason, n) in &ledger.skipped {
        metrics::skips(&ledger.feed, reason).absolute(*n);
    }
}
