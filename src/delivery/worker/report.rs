//! What a worker tells: to the flow what a vendor's answer means, to the log, the metrics and the status what happened.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;

use super::super::flow::{Heard, HeardVerdict, Job, RequestState};
use super::super::status::{RequestStatus, State};
use super::super::{mask, read};
use super::Worker;
use crate::blueprint::{Plan, Verdict};
use crate::clock::Millis;
use crate::logbook::Attempt;
use crate::metrics;
use crate::registry::Integration;
use crate::vendor::http::{Answer, SendError};
use crate::vendor::refresh::Refresh;
use crate::vendor::replies::ItemVerdict;

/// A wait for a rate is shown when it is longer.
const RATE_SHOWN_MS: Millis = 1_000;

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
        let (mut heard, label, took, error) = match &result {
            Ok(answer) => {
                let heard = heard_of(&integration.plan, &job, answer);
                (heard, answer.status.to_string(), answer.took, None)
            }
            Err(error) => {
                let kind = error.kind.as_str().to_owned();
                if error.kind.is_ambiguous() {
                    metrics::vendor_doubts(&integration.id, &request).increment(1);
                }
                (read::silence(error), kind.clone(), error.took, Some(kind))
            }
        };
        metrics::vendor_requests(&integration.id, &request, &label).increment(1);
        metrics::vendor_request_seconds(&integration.id, &request).record(took.as_secs_f64());
        #[expect(
            clippy::cast_precision_loss,
            reason = "a batch has far fewer than 2^52 items"
        )]
        metrics::batch_events(&integration.id).record(job.batch.items.len() as f64);
        unsaid(&integration, &mut heard);
        let looks = heard.look_up && self.fields_are_old(job.batch.request, at_ms);
        if let HeardVerdict::All(Verdict::Delivered) = heard.verdict
            && let Some(note) = &heard.note
        {
            metrics::vendor_doubts(&integration.id, &request).increment(1);
            tracing::warn!(integration = %integration.id, request, "taken with a reservation: {note}");
        }
        self.note_answer(&heard, &label, now_ms);
        self.log_attempt(&job, &request, at_ms, took, &result, &heard, error);
        if looks {
            return self.look_up_fields(job, heard, now_ms);
        }
        self.hear(job, heard, now_ms);
    }

    pub(super) fn hear(&mut self, job: Job, heard: Heard, now_ms: Millis) {
        let chance: f64 = self.parts.chance.random();
        self.flow.heard(job, heard, now_ms, chance);
    }

    fn note_answer(&self, heard: &Heard, label: &str, now_ms: Millis) {
        let mut status = self.parts.status.lock();
        let word = read::word(&heard.verdict);
        if matches!(word, "delivered" | "partial") {
            status.last_success_ms = Some(now_ms);
        }
        if word != "delivered" || heard.note.is_some() {
            let said = heard.note.as_ref().unwrap_or(&heard.answer);
            let said: String = said.chars().take(300).collect();
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
                Ok(answer) if answer.body.is_empty() => Bytes::new(),
                Ok(answer) => {
                    let said = String::from_utf8_lossy(&answer.body);
                    Bytes::from(mask(&self.parts.integration, &said))
                }
                Err(error) => Bytes::from(mask(&self.parts.integration, &error.message)),
            },
            verdict: read::word(&heard.verdict),
            error,
        });
    }

    /// Publishes what people see.
    pub(super) fn show(&mut self) {
        let now_ms = self.parts.clock.now_ms();
        let several = self.parts.integration.plan.requests().len() > 1;
        let requests = self.flow.requests(now_ms);
        let integration = &self.parts.integration;
        let paused = requests
            .iter()
            .find_map(|request| Some((request.name.clone(), request.paused.as_ref()?)));
        let waits = |by_rate: bool| {
            let waiting = requests
                .iter()
                .filter(move |request| request.by_rate == by_rate);
            waiting.filter_map(|request| request.until_ms).max()
        };
        // A rate that lets the next request through in a moment is no news.
        let by_rate_ms = waits(true).filter(|until_ms| *until_ms > now_ms + RATE_SHOWN_MS);
        let waits = waits(false)
            .map(|until_ms| ("backoff", until_ms))
            .or(by_rate_ms.map(|until_ms| ("rate", until_ms)));
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
        } else if let Some((request, pause)) = paused {
            let said: String = pause.detail.chars().take(300).collect();
            let detail = Some(if several {
                format!("`{request}`: {said}")
            } else {
                said
            });
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
        } else if let Some((why, until_ms)) = waits {
            let detail = status.last_error.clone();
            (State::Waiting, Some(why), detail, None, Some(until_ms))
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
        status.requests = if several {
            requests.iter().map(shown).collect()
        } else {
            Vec::new()
        };
        drop(status);
        let shown = if state == State::Paused { reason } else { None };
        self.show_pause(shown);
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

/// A request's state, for people.
fn shown(request: &RequestState) -> RequestStatus {
    let (state, reason) = match (&request.paused, request.until_ms) {
        (Some(pause), _) => (State::Paused, Some(pause.reason)),
        (None, Some(_)) if request.by_rate => (State::Waiting, Some("rate")),
        (None, Some(_)) => (State::Waiting, Some("backoff")),
        (None, None) => (State::Running, None),
    };
    let pause = request.paused.as_ref();
    RequestStatus {
        name: request.name.to_string(),
        state,
        reason: reason.map(str::to_owned),
        detail: pause
            .map(|pause| pause.detail.chars().take(300).collect())
            .or_else(|| left_out(&request.lacking)),
        since_ms: pause.map(|pause| pause.since_ms),
        until_ms: request.until_ms.filter(|_| pause.is_none()),
        in_flight: request.in_flight,
        waiting: request.waiting,
        apart: request.apart,
    }
}

/// What is not written although it would be.
fn left_out(lacking: &[String]) -> Option<String> {
    (!lacking.is_empty()).then(|| {
        format!(
            "left out, because the vendor has no such field: {} (make them there; `resume` looks again at once)",
            lacking.join(", ")
        )
    })
}

/// A vendor may say a secret back to us; nobody is told it.
fn unsaid(integration: &Integration, heard: &mut Heard) {
    heard.note = heard.note.as_deref().map(|note| mask(integration, note));
    if let HeardVerdict::All(Verdict::Delivered) = heard.verdict {
        return;
    }
    heard.answer = mask(integration, &heard.answer);
    if let HeardVerdict::Each(each) = &mut heard.verdict {
        for verdict in each {
            if let ItemVerdict::Dead { detail, .. } = verdict {
                *detail = mask(integration, detail);
            }
        }
    }
}

/// What an answer means for the items of a job.
fn heard_of(plan: &Plan, job: &Job, answer: &Answer) -> Heard {
    let items = &job.batch.items;
    let request = job.batch.request;
    let sent: Vec<&[u8]> = match &job.combined {
        // Readers that look at items want what was sent: of a combined object its first item is enough to tell whom
        // it is about.
        Some(of) => of
            .iter()
            .map(|of| {
                let first = of.first().and_then(|index| items.get(*index));
                first.map_or(&[][..], |item| plan.bare(item.part, &item.json))
            })
            .collect(),
        None => items
            .iter()
            .map(|item| plan.bare(item.part, &item.json))
            .collect(),
    };
    read::answer(
        plan,
        request,
        answer,
        &sent,
        job.combined.as_deref(),
        items.len(),
    )
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
