//! What must not wait in memory. Pure.
//!
//! When the window is full and one request is closed for long while another works, the closed one's events are set
//! apart in the journal, so that the other goes on; they come back when it works again. One job stays, to probe with.
//! An identity with more events than its pace lets through is treated alike, so that it holds up nobody else.

use super::slots::{Ended, Slot, paused_reason};
use super::{Flow, Job, Origin};
use crate::clock::Millis;

/// A request that opens by itself within this is not worth setting events apart for.
const LONG_MS: Millis = 60_000;

/// Events of a paused request are looked at again so often, should nobody wake them.
const PAUSED_RECHECK_MS: Millis = 3_600_000;

/// So many items of one lane wait in memory when the window is full.
const LANE_WAITING_MAX: usize = 64;

/// Why they are set apart.
const PACED: &str = "paced";

/// One request, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct RequestState {
    pub name: std::sync::Arc<str>,
    /// Why it is paused, if it is: the reason, what the vendor said, since when.
    pub paused: Option<super::super::gate::Paused>,
    /// Until when it is left alone, by its gate or its rate.
    pub until_ms: Option<Millis>,
    /// It waits for its rate, not for the vendor to recover.
    pub by_rate: bool,
    pub in_flight: usize,
    /// Items in memory.
    pub waiting: usize,
    /// Its events are set apart in the journal.
    pub apart: bool,
    /// Fields it would write and the vendor does not have.
    pub lacking: Vec<String>,
}

impl Flow {
    /// Makes room when the window is full. Call it when there is more to read.
    pub(in super::super) fn relieve(&mut self, now_ms: Millis) {
        if self.wants_fresh() {
            return;
        }
        self.set_overflow_apart(now_ms);
        let closed: Vec<Option<Millis>> = (0..self.lines.len())
            .map(|request| self.closed_until_ms(request, now_ms))
            .collect();
        if closed.iter().all(Option::is_some) {
            // Nobody would gain by it: the log is the better place to wait.
            return;
        }
        for (request, due_ms) in closed.into_iter().enumerate() {
            if let Some(due_ms) = due_ms {
                self.set_request_apart(request, due_ms, now_ms);
            }
        }
    }

    /// When a request that is closed for long is to be looked at again; none when it is not.
    fn closed_until_ms(&mut self, request: usize, now_ms: Millis) -> Option<Millis> {
        let rules = self.options.requests.get(request)?;
        let gate = &self.doors.get(rules.gate)?.gate;
        if gate.paused().is_some() {
            return Some(now_ms.saturating_add(PAUSED_RECHECK_MS));
        }
        let spills = rules.spill.is_some();
        let until_ms = gate.wakes_ms().unwrap_or(now_ms);
        let bucket_ms = self.lines.get_mut(request)?.rate_opens_ms(now_ms, 1);
        let until_ms = until_ms.max(bucket_ms.filter(|_| !spills).unwrap_or(now_ms));
        (until_ms > now_ms + LONG_MS).then_some(until_ms)
    }

    /// A request is paused: whoever shares its lanes does not wait for it, but for the one item that looks whether it
    /// works again.
    pub(super) fn let_others_pass(&mut self, request: usize, now_ms: Millis) {
        let mut others = self.options.requests.iter().enumerate();
        if others.any(|(at, rules)| {
            at != request && rules.lanes == request && !self.carries(request, at)
        }) {
            self.set_request_apart(request, now_ms.saturating_add(PAUSED_RECHECK_MS), now_ms);
        }
    }

    /// Does the one request only carry items of the other?
    fn carries(&self, of: usize, carrier: usize) -> bool {
        let rules = self.options.requests.get(of);
        rules.and_then(|rules| rules.spill) == Some(carrier)
    }

    fn set_request_apart(&mut self, request: usize, due_ms: Millis, now_ms: Millis) {
        let Some(reason) = self
            .options
            .requests
            .get(request)
            .map(|rules| paused_reason(&rules.name))
        else {
            return;
        };
        for batch in self.batcher.take(request) {
            self.enqueue(vec![batch]);
        }
        let Some(line) = self.lines.get_mut(request) else {
            return;
        };
        line.apart = true;
        let mut jobs: Vec<Job> = std::mem::take(&mut line.retries).into_values().collect();
        jobs.extend(std::mem::take(&mut line.ready));
        // One stays to probe with, unless one is at it.
        if line.in_flight == 0 && !jobs.is_empty() {
            let probe = jobs.remove(0);
            line.ready.push_back(probe);
        }
        let ended = |_: &super::Item| Ended::Apart {
            due_ms,
            reason: reason.clone(),
        };
        for waiting in self.lanes.take_waiting(|of| of == request) {
            let ended = ended(&waiting.item);
            self.end_item(waiting.item, ended, now_ms);
        }
        for job in jobs {
            self.end_all(job, now_ms, ended);
        }
    }

    fn set_overflow_apart(&mut self, now_ms: Millis) {
        for (place, waiting) in self.lanes.take_overflow(LANE_WAITING_MAX) {
            let pace_ms = self
                .options
                .requests
                .get(waiting.request)
                .map_or(0, |rules| rules.pace_ms)
                .max(1_000);
            let place = Millis::try_from(place + LANE_WAITING_MAX).unwrap_or(Millis::MAX);
            let wait_ms = place.saturating_mul(pace_ms).min(PAUSED_RECHECK_MS);
            let ended = Ended::Apart {
                due_ms: now_ms.saturating_add(wait_ms),
                reason: PACED.to_owned(),
            };
            self.end_item(waiting.item, ended, now_ms);
        }
    }

    /// Does an event of the request not even come in? While others of it are here to find out when it works again.
    pub(super) fn waits_outside(&mut self, request: usize, now_ms: Millis) -> Option<Ended> {
        let line = self.lines.get(request)?;
        if !line.apart || line.items == 0 {
            return None;
        }
        let due_ms = self.closed_until_ms(request, now_ms)?;
        let rules = self.options.requests.get(request)?;
        Some(Ended::Apart {
            due_ms,
            reason: paused_reason(&rules.name),
        })
    }

    /// Has an event waited for its request to work again for longer than a backlog may be old?
    pub(super) fn expired(&self, slot: &Slot, now_ms: Millis) -> bool {
        let Origin::Parked { reason, .. } = &slot.origin else {
            return false;
        };
        let waited = reason == PACED
            || self
                .options
                .requests
                .iter()
                .any(|rules| reason.strip_prefix("paused_") == Some(&*rules.name));
        waited && now_ms.saturating_sub(slot.at_ms) > self.options.backlog_age_ms
    }

    /// Has the events of requests that are open again come back.
    pub(super) fn reopen(&mut self, now_ms: Millis) {
        for request in 0..self.lines.len() {
            if self.lines.get(request).is_some_and(|line| line.apart)
                && self.closed_until_ms(request, now_ms).is_none()
                && !self.probes(request)
            {
                if let Some(line) = self.lines.get_mut(request) {
                    line.apart = false;
                }
                let rules = self.options.requests.get(request);
                if let Some(reason) = rules.map(|rules| paused_reason(&rules.name)) {
                    self.books.due(&reason, now_ms);
                    self.woken.push(reason);
                }
            }
        }
    }

    fn probes(&self, request: usize) -> bool {
        self.options
            .requests
            .get(request)
            .and_then(|rules| self.doors.get(rules.gate))
            .is_some_and(|door| door.gate.probes())
    }

    /// Reasons whose events are to be looked at now.
    pub(in super::super) fn take_woken(&mut self) -> Vec<String> {
        std::mem::take(&mut self.woken)
    }

    /// An admin says: try now. What a vendor's rate forbids stays forbidden.
    pub(in super::super) fn resume(&mut self, now_ms: Millis) {
        self.forget_fields();
        for door in &mut self.doors {
            if door.gate.paused().is_some() {
                door.row.insist();
            }
            door.gate.resume(now_ms);
        }
        for (line, rules) in self.lines.iter_mut().zip(&self.options.requests) {
            if rules.pace_ms == 0 {
                let retries = std::mem::take(&mut line.retries);
                line.retries = retries
                    .into_iter()
                    .map(|((at_ms, id), job)| ((at_ms.min(now_ms), id), job))
                    .collect();
            }
        }
    }

    /// How each request is doing.
    pub(in super::super) fn requests(&mut self, now_ms: Millis) -> Vec<RequestState> {
        let mut states = Vec::with_capacity(self.lines.len());
        for (rules, line) in self.options.requests.iter().zip(&mut self.lines) {
            let Some(door) = self.doors.get(rules.gate) else {
                continue;
            };
            let by_gate = door.gate.wakes_ms();
            let by_rate = line
                .rate_opens_ms(now_ms, 1)
                .filter(|at_ms| *at_ms > now_ms && line.items > 0);
            states.push(RequestState {
                name: rules.name.clone(),
                paused: door.gate.paused().cloned(),
                until_ms: by_gate.max(by_rate),
                by_rate: by_rate > by_gate,
                in_flight: line.in_flight,
                waiting: line.items,
                apart: line.apart,
                lacking: line.known.lacking.iter().cloned().collect(),
            });
        }
        states
    }
}
