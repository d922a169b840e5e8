//! Log lines and the Prometheus recorder: set up once by the command that runs.
//!
//! Logs go to stderr, one line an event, without payloads: ids, counts and causes only.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Seconds, from a fast local answer to a slow vendor.
const SECONDS: [f64; 16] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
    600.0,
];

/// Items in a request.
const ITEMS: [f64; 8] = [1.0, 5.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0];

/// Sends log lines to stderr. A second call in one process (tests) changes nothing.
pub fn logs(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let _already_set = match format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
        LogFormat::Pretty => lines.compact().try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        // The payload of a panic may quote data; its place never does.
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(place, "a task panicked");
    }));
}

/// Installs the process's metrics recorder, or gives the one already there.
///
/// # Errors
/// When another library took the recorder's place first.
pub fn recorder() -> anyhow::Result<PrometheusHandle> {
    /// The `metrics` facade allows one recorder a process, so its handle is one a process too. Locked from the look
    /// to the installation: two gateways of one process (tests) may start at the same moment.
    static HANDLE: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = HANDLE.lock();
    if let Some(handle) = installed.as_ref() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("aqueduct_batch_events".to_owned()), &ITEMS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|_| anyhow::anyhow!("the metrics recorder is already taken"))?;
    crate::metrics::describe();
    *installed = Some(handle.clone());
    Ok(handle)
}
