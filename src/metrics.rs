//! Every metric: name, labels, unit; one function each. No label ever holds a user id or an event's content.
//!
//! Hot paths keep the handle a function returns; the others call and forget.

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

/// Gives every metric its help text. Call once, after a recorder is installed.
pub fn describe() {
    describe_counter!(
        "aqueduct_events_accepted_total",
        "Events made durable and acknowledged"
    );
    describe_counter!(
        "aqueduct_events_rejected_total",
        "Events refused at the door, by code"
    );
    describe_counter!(
        "aqueduct_unknown_write_keys_total",
        "Requests with an unknown write key, by the key's prefix"
    );
    describe_counter!(
        "aqueduct_ingest_shed_total",
        "Requests turned away under load, by reason"
    );
    describe_counter!(
        "aqueduct_ingest_retries_total",
        "Requests an SDK marked as a repeated try"
    );
    describe_histogram!(
        "aqueduct_ingest_request_seconds",
        "Time from request to answer at the ingest listener"
    );
    describe_gauge!(
        "aqueduct_ingest_connections",
        "Open connections at the ingest listener"
    );
    describe_counter!("aqueduct_deliveries_total", "Deliveries ended, by outcome");
    describe_counter!("aqueduct_skips_total", "Deliveries skipped, by reason");
    describe_gauge!(
        "aqueduct_pending_events",
        "Accepted events without an outcome yet"
    );
    describe_gauge!(
        "aqueduct_oldest_pending_seconds",
        "Age of the oldest accepted event without an outcome"
    );
    describe_gauge!(
        "aqueduct_source_silent_seconds",
        "Time since a source last posted an event, also before this process; none of a source that never did"
    );
    describe_counter!(
        "aqueduct_vendor_requests_total",
        "Requests made at vendors, by status or kind of failure"
    );
    describe_counter!(
        "aqueduct_vendor_doubts_total",
        "Requests of which nobody knows how much counts: the answer was lost, or says that not all does"
    );
    describe_histogram!(
        "aqueduct_vendor_request_seconds",
        "Time of one request at a vendor"
    );
    describe_histogram!(
        "aqueduct_delivery_seconds",
        "Time from acceptance to delivery"
    );
    describe_histogram!("aqueduct_batch_events", "Items in one request");
    describe_gauge!(
        "aqueduct_integration_paused",
        "1 while an integration is paused, by reason"
    );
    describe_gauge!("aqueduct_dead_letters", "Dead letters kept now");
    describe_histogram!(
        "aqueduct_journal_sync_seconds",
        "Time of one durable commit"
    );
    describe_gauge!("aqueduct_journal_bytes", "Bytes of the journal on disk");
    describe_gauge!(
        "aqueduct_journal_damaged_blocks",
        "Blocks found damaged and set aside"
    );
    describe_gauge!(
        "aqueduct_dedup_window_seconds",
        "How far back repeated posts are recognised"
    );
    describe_gauge!(
        "aqueduct_datafile_age_seconds",
        "Time since the datafile was last confirmed"
    );
    describe_gauge!(
        "aqueduct_datafile_info",
        "1 for the datafile revision in use"
    );
    describe_counter!(
        "aqueduct_datafile_fetches_total",
        "Datafile fetches, by result"
    );
    describe_gauge!(
        "aqueduct_agent_stream_connected",
        "1 while the event stream of a source's Agent is open"
    );
    describe_counter!(
        "aqueduct_agent_stream_gaps_total",
        "Times in which an Agent's event stream was not heard; what it decided then is not known here"
    );
    describe_counter!(
        "aqueduct_agent_stream_gap_milliseconds_total",
        "Time without an Agent's event stream"
    );
    describe_counter!(
        "aqueduct_agent_stream_connects_total",
        "Attempts to open an Agent's event stream, by result"
    );
    describe_gauge!(
        "aqueduct_alerts_firing",
        "Alerts open by the usual thresholds, by rule"
    );
    describe_counter!(
        "aqueduct_alert_notices_total",
        "Attempts to send an alert notice, by endpoint and result"
    );
    describe_gauge!(
        "aqueduct_request_waiting_events",
        "Events in memory that wait for a request of a blueprint that makes several"
    );
    describe_gauge!(
        "aqueduct_request_in_flight",
        "Requests under way, for a request of a blueprint that makes several"
    );
    describe_gauge!(
        "aqueduct_request_paused",
        "1 while a request of a blueprint that makes several is paused"
    );
    describe_counter!(
        "aqueduct_logbook_dropped_total",
        "Log rows or bodies left out because the log could not keep up"
    );
}

/// Events accepted.
pub fn events_accepted(source: &str, kind: &'static str) -> Counter {
    counter!("aqueduct_events_accepted_total", "source" => source.to_owned(), "type" => kind)
}

/// Events refused at the door.
pub fn events_rejected(source: &str, code: &'static str) -> Counter {
    counter!("aqueduct_events_rejected_total", "source" => source.to_owned(), "code" => code)
}

/// Requests with an unknown write key. `prefix`: at most 8 characters of it, from a bounded set.
pub fn unknown_write_keys(prefix: &str) -> Counter {
    counter!("aqueduct_unknown_write_keys_total", "prefix" => prefix.to_owned())
}

/// Requests turned away: `busy`, `rate`, `full`, `connections`, `stopped`, `draining`.
pub fn ingest_shed(reason: &'static str) -> Counter {
    counter!("aqueduct_ingest_shed_total", "reason" => reason)
}

/// Requests an SDK marked as a repeated try.
pub fn ingest_retries() -> Counter {
    counter!("aqueduct_ingest_retries_total")
}

/// Time to answer an ingest request, in seconds.
pub fn ingest_request_seconds(route: &'static str, status: u16) -> Histogram {
    histogram!("aqueduct_ingest_request_seconds", "route" => route, "status" => status.to_string())
}

/// Open ingest connections.
pub fn ingest_connections() -> Gauge {
    gauge!("aqueduct_ingest_connections")
}

/// Deliveries ended: `delivered`, `skipped`, `deduplicated`, `dead`.
pub fn deliveries(integration: &str, outcome: &'static str) -> Counter {
    counter!("aqueduct_deliveries_total", "integration" => integration.to_owned(), "outcome" => outcome)
}

/// Deliveries skipped, by reason.
pub fn skips(integration: &str, reason: &str) -> Counter {
    counter!("aqueduct_skips_total", "integration" => integration.to_owned(), "reason" => reason.to_owned())
}

/// Events without an outcome yet.
pub fn pending_events(integration: &str) -> Gauge {
    gauge!("aqueduct_pending_events", "integration" => integration.to_owned())
}

/// Age of the oldest event without an outcome, in seconds.
pub fn oldest_pending_seconds(integration: &str) -> Gauge {
    gauge!("aqueduct_oldest_pending_seconds", "integration" => integration.to_owned())
}

/// Requests made at a vendor. `status`: the number, or a kind of failure (`timeout`, `connect`, `dns`, `tls`, `blocked`, `reset`).
pub fn vendor_requests(integration: &str, request: &str, status: &str) -> Counter {
    counter!("aqueduct_vendor_requests_total", "integration" => integration.to_owned(), "request" => request.to_owned(), "status" => status.to_owned())
}

/// Requests of which nobody knows how much counts at the vendor: their answer was lost (it may be sent twice), or says
/// that not all of it does (Brevo's 202 with a smaller count).
pub fn vendor_doubts(integration: &str, request: &str) -> Counter {
    counter!("aqueduct_vendor_doubts_total", "integration" => integration.to_owned(), "request" => request.to_owned())
}

/// Time of one request at a vendor, in seconds.
pub fn vendor_request_seconds(integration: &str, request: &str) -> Histogram {
    histogram!("aqueduct_vendor_request_seconds", "integration" => integration.to_owned(), "request" => request.to_owned())
}

/// Time from acceptance to delivery, in seconds.
pub fn delivery_seconds(integration: &str) -> Histogram {
    histogram!("aqueduct_delivery_seconds", "integration" => integration.to_owned())
}

/// Seconds since a source last posted.
pub fn source_silent_seconds(source: &str) -> Gauge {
    gauge!("aqueduct_source_silent_seconds", "source" => source.to_owned())
}

/// Items in one request.
pub fn batch_events(integration: &str) -> Histogram {
    histogram!("aqueduct_batch_events", "integration" => integration.to_owned())
}

/// 1 while an integration is paused for this reason, else 0.
pub fn integration_paused(integration: &str, reason: &str) -> Gauge {
    gauge!("aqueduct_integration_paused", "integration" => integration.to_owned(), "reason" => reason.to_owned())
}

/// Dead letters kept now.
pub fn dead_letters(integration: &str) -> Gauge {
    gauge!("aqueduct_dead_letters", "integration" => integration.to_owned())
}

/// Time of one durable commit, in seconds.
pub fn journal_sync_seconds() -> Histogram {
    histogram!("aqueduct_journal_sync_seconds")
}

/// Bytes of the journal on disk.
pub fn journal_bytes() -> Gauge {
    gauge!("aqueduct_journal_bytes")
}

/// Damaged blocks set aside.
pub fn journal_damaged_blocks() -> Gauge {
    gauge!("aqueduct_journal_damaged_blocks")
}

/// How far back repeated posts are recognised, in seconds.
pub fn dedup_window_seconds() -> Gauge {
    gauge!("aqueduct_dedup_window_seconds")
}

/// Time since the datafile was last confirmed, in seconds.
pub fn datafile_age_seconds(integration: &str) -> Gauge {
    gauge!("aqueduct_datafile_age_seconds", "integration" => integration.to_owned())
}

/// 1 for the datafile revision in use, 0 for the one before.
pub fn datafile_info(integration: &str, revision: &str) -> Gauge {
    gauge!("aqueduct_datafile_info", "integration" => integration.to_owned(), "revision" => revision.to_owned())
}

/// Datafile fetches: `updated`, `unchanged`, `failed`, `refused`.
pub fn datafile_fetches(integration: &str, result: &'static str) -> Counter {
    counter!("aqueduct_datafile_fetches_total", "integration" => integration.to_owned(), "result" => result)
}

/// 1 while the event stream of a source's Agent is open.
pub fn agent_stream_connected(source: &str) -> Gauge {
    gauge!("aqueduct_agent_stream_connected", "source" => source.to_owned())
}

/// Times in which an Agent's stream was not heard: what it decided then is not known here.
pub fn agent_stream_gaps(source: &str) -> Counter {
    counter!("aqueduct_agent_stream_gaps_total", "source" => source.to_owned())
}

/// Time without an Agent's stream, in milliseconds.
pub fn agent_stream_gap_ms(source: &str) -> Counter {
    counter!("aqueduct_agent_stream_gap_milliseconds_total", "source" => source.to_owned())
}

/// Attempts to open an Agent's stream: `opened`, `refused` (a status other than 200) or `failed`.
pub fn agent_stream_connects(source: &str, result: &'static str) -> Counter {
    counter!("aqueduct_agent_stream_connects_total", "source" => source.to_owned(), "result" => result)
}

/// Alerts open by the usual thresholds.
pub fn alerts_firing(rule: &'static str) -> Gauge {
    gauge!("aqueduct_alerts_firing", "rule" => rule)
}

/// Attempts to send an alert notice: `sent`, `retried`, `given_up`.
pub fn alert_notices(endpoint: &str, result: &'static str) -> Counter {
    counter!("aqueduct_alert_notices_total", "endpoint" => endpoint.to_owned(), "result" => result)
}

/// Events in memory that wait for one request of several.
pub fn request_waiting(integration: &str, request: &str) -> Gauge {
    gauge!("aqueduct_request_waiting_events", "integration" => integration.to_owned(), "request" => request.to_owned())
}

/// Requests under way, of one request of several.
pub fn request_in_flight(integration: &str, request: &str) -> Gauge {
    gauge!("aqueduct_request_in_flight", "integration" => integration.to_owned(), "request" => request.to_owned())
}

/// 1 while one request of several is paused, else 0.
pub fn request_paused(integration: &str, request: &str) -> Gauge {
    gauge!("aqueduct_request_paused", "integration" => integration.to_owned(), "request" => request.to_owned())
}

/// Log rows (`row`) or bodies (`body`) left out.
pub fn logbook_dropped(what: &'static str) -> Counter {
    counter!("aqueduct_logbook_dropped_total", "what" => what)
}
