//! What a worker tells: to the flow what a vendor's answer means, to the log, the metrics and the status what happened.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;

use super::super::flow::{Heard, Job};
use super::super::mask;
use super::super::status::State;
use super::Worker;
use crate::blueprint::{Reply, Verdict};
use crate::clock::Millis;
use crate::logbook::Attempt;
use crate::metrics;
use crate::vendor::http::{Answer, SendError, SendErrorKind};
use crate::vendor::refresh::Refresh;

impl Worker {
    pub(super) fn take_answer(
        &mut self,
        job: Job,
        at_ms: Millis,
        result: Result<Answer, SendError>,
        now_ms: Millis,
    ) {
        let integration = self.parts.integration.clone();
        let request = integration
            .plan
            .requests()
            .get(job.batch.request)
            .map(|request| request.name.clone())
            .unwrap_or_default();
        let (heard, label, took, error) = match &result {
            Ok(answer) => {
                let verdict = integration.plan.verdict(
                    job.batch.request,
                    &Reply {
                        status: answer.status,
                        retry_after: answer.retry_after,
                        body: &answer.body,
                    },
                );
                let heard = Heard {
                    verdict,
                    status: Some(answer.status),
                    answer: String::from_utf8_lossy(&answer.body).into_owned(),
                };
                (heard, answer.status.to_string(), answer.took, None)
            }
            Err(error) => {
                let heard = Heard {
                    verdict: silence(error.kind),
                    status: None,
                    answer: error.message.clone(),
                };
                let kind = error.kind.as_str().to_owned();
                (heard, kind.clone(), error.took, Some(kind))
            }
        };
        metrics::vendor_requests(&integration.id, &request, &label).increment(1);
        metrics::vendor_request_seconds(&integration.id, &request).record(took.as_secs_f64());
        #[expect(
            clippy::cast_precision_loss,
            reason = "a batch has far fewer than 2^52 items"
        )]
        metrics::batch_events(&integration.id).record(job.batch.items.len() as f64);
        self.note_answer(&heard, &label, now_ms);
        self.log_attempt(&job, &request, at_ms, took, &result, &heard, error);
        let chance: f64 = self.parts.chance.random();
        self.flow.heard(job, heard, now_ms, chance);
    }

    fn note_answer(&self, heard: &Heard, label: &str, now_ms: Millis) {
        let mut status = self.parts.status.lock();
        if heard.verdict == Verdict::Delivered {
            status.last_success_ms = Some(now_ms);
        } else {
            let said: String = heard.answer.chars().take(300).collect();
            status.last_error = Some(format!("{label}: {said}"));
            status.last_error_ms = Some(now_ms);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one row of the log")]
    fn log_attempt(
        &self,
        job: &Job,
        request: &str,
        at_ms: Millis,
        took: Duration,
        result: &Result<Answer, SendError>,
        heard: &Heard,
        error: Option<String>,
    ) {
        let Some(wire) = &job.wire else {
            return;
        };
        self.parts.logbook.attempt(Attempt {
            integration: self.parts.integration.id.clone(),
            request: request.to_owned(),
            at_ms,
            took_ms: u32::try_from(took.as_millis()).unwrap_or(u32::MAX),
            attempt: job.failures.saturating_add(1),
            trigger: job.trigger,
            seqs: self.flow.seqs(&job.batch),
            url: mask(&self.parts.integration, wire.url.expose()),
            method: wire.method.clone(),
            request_body: wire.body.clone(),
            status: heard.status,
            response_body: match result {
                Ok(answer) => answer.body.clone(),
                Err(error) => Bytes::from(error.message.clone()),
            },
            verdict: word(&heard.verdict),
            error,
        });
    }

    /// Publishes what people see.
    pub(super) fn show(&mut self) {
        let pause = self.flow.paused();
        let integration = &self.parts.integration;
        let mut status = self.parts.status.lock();
        status.in_flight = self.flow.in_flight();
        status.unsettled = self.flow.unsettled();
        let (state, reason, detail, since_ms, until_ms) = if let Some(pause) = &integration.paused {
            let detail = Some(pause.reason.clone());
            (
                State::Paused,
                Some("admin"),
                detail,
                Some(pause.since_ms),
                None,
            )
        } else if let Some(pause) = pause {
            let detail = Some(pause.detail.chars().take(300).collect());
            (
                State::Paused,
                Some(pause.reason),
                detail,
                Some(pause.since_ms),
                None,
            )
        } else if self.lacks_tables() {
            let fault = self
                .parts
                .refresh
                .iter()
                .flat_map(Refresh::status)
                .find_map(|document| document.fault);
            (State::Waiting, Some("no_datafile"), fault, None, None)
        } else if let Some(until_ms) = self.flow.waits_until_ms() {
            let detail = status.last_error.clone();
            (
                State::Waiting,
                Some("backoff"),
                detail,
                None,
                Some(until_ms),
            )
        } else {
            (State::Running, None, None, None, None)
        };
        status.state = state;
        if status.reason.as_deref() != reason {
            status.reason = reason.map(str::to_owned);
        }
        status.detail = detail;
        status.since_ms = since_ms;
        status.until_ms = until_ms;
        drop(status);
        let shown = if state == State::Paused { reason } else { None };
        self.show_pause(shown.map(known_reason));
    }

    fn show_pause(&mut self, reason: Option<&'static str>) {
        if self.shown_pause == reason {
            return;
        }
        let id = &self.parts.integration.id;
        if let Some(old) = self.shown_pause {
            metrics::integration_paused(id, old).set(0.0);
            tracing::info!(integration = id, "no longer paused");
        }
        if let Some(new) = reason {
            metrics::integration_paused(id, new).set(1.0);
            tracing::warn!(
                integration = id,
                reason = new,
                "paused; the backlog is kept"
            );
        }
        self.shown_pause = reason;
    }
}

/// A request without an answer: the vendor may have it or not, the same bytes go out again. An address we may not
/// reach does not change by trying.
fn silence(kind: SendErrorKind) -> Verdict {
    match kind {
        SendErrorKind::Blocked => Verdict::Pause { reason: "blocked" },
        SendErrorKind::Timeout
        | SendErrorKind::Connect
        | SendErrorKind::Dns
        | SendErrorKind::Tls
        | SendErrorKind::Reset
        | SendErrorKind::Malformed => Verdict::Retry { after: None },
    }
}

/// The word of a verdict in the log.
pub(in super::super) fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Delivered => "delivered",
        Verdict::Retry { .. } => "retry",
        Verdict::Bisect => "bisect",
        Verdict::Reject => "reject",
        Verdict::Pause { .. } => "pause",
    }
}

/// Reasons of pauses as metric labels: a closed set.
fn known_reason(reason: &str) -> &'static str {
    match reason {
        "admin" => "admin",
        "unauthorized" => "unauthorized",
        "forbidden" => "forbidden",
        "not_found" => "not_found",
        "redirect" => "redirect",
        "blocked" => "blocked",
        _ => "unexpected_status",
    }
}

/// Tells the metrics how long deliveries took, once their settle is durable. (Outcomes are scraped from the journal's
/// own books.)
pub(super) fn count(feed: &str, delivered_at: &[(Millis, usize)], now_ms: Millis) {
    if !delivered_at.is_empty() {
        let histogram = metrics::delivery_seconds(feed);
        for (at_ms, n) in delivered_at {
            #[expect(
                clippy::cast_precision_loss,
                reason = "an age in milliseconds is far below 2^52"
            )]
            let seconds = now_ms.saturating_sub(*at_ms).max(0) as f64 / 1_000.0;
            histogram.record_many(seconds, *n);
        }
    }
}
