//! What became of a job, and what follows for its events. Pure.

use super::slots::{Ended, Fate};
use super::{Batch, Flow, Heard, HeardVerdict, Job, Origin};
use crate::blueprint::Verdict;
use crate::clock::Millis;
use crate::vendor::replies::ItemVerdict;

/// Of a vendor's answer this much is kept with a dead letter.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// Items are sent again at once so often; then the job waits like a failed one.
const ROUNDS_MAX: u32 = 3;

/// The reason of events whose subject the vendor does not know yet; with the number of times they were set apart.
const MISSING: &str = "missing";

/// Why a job is given up.
struct GivenUp<'a> {
    reason: &'a str,
    status: Option<u16>,
    answer: &'a str,
}

impl Flow {
    /// Takes a job back with what came of it. `chance` in 0..1 spreads the next attempt.
    pub(in super::super) fn heard(
        &mut self,
        mut job: Job,
        heard: Heard,
        now_ms: Millis,
        chance: f64,
    ) {
        self.came_back(&job, &heard, now_ms);
        let gate = self.gate_of(&job);
        let given_up = GivenUp {
            reason: "rejected",
            status: heard.status,
            answer: &heard.answer,
        };
        match heard.verdict {
            HeardVerdict::All(Verdict::Delivered) => {
                self.works(gate);
                self.end_all(job.batch, now_ms, |_| Ended::As(Fate::Delivered));
            }
            HeardVerdict::All(Verdict::Reject) => {
                self.works(gate);
                self.give_up(job.batch, &given_up, now_ms);
            }
            HeardVerdict::All(Verdict::Bisect) => {
                self.works(gate);
                self.bisect(job, &given_up, now_ms);
            }
            HeardVerdict::All(Verdict::Retry { after }) => {
                let backoff = self.options.backoff;
                if let Some(door) = self.doors.get_mut(gate) {
                    let failures = door.gate.failures().saturating_add(1);
                    let wait_ms = backoff.wait_ms(failures, after, chance);
                    door.gate.failed(now_ms, wait_ms, after.is_some());
                }
                job.failures = job.failures.saturating_add(1);
                let own_ms = backoff.wait_ms(job.failures, after, chance);
                self.retry(job, own_ms, &given_up, now_ms);
            }
            HeardVerdict::All(Verdict::Pause { reason }) => {
                let detail = heard.note.unwrap_or(heard.answer);
                self.pause(job, reason, detail, now_ms);
            }
            HeardVerdict::Each(verdicts) => {
                self.works(gate);
                self.each(job, verdicts, &given_up, chance, now_ms);
            }
        }
    }

    /// A job whose request cannot be made: halved like a refused one.
    pub(in super::super) fn unmakeable(&mut self, job: Job, why: &str, now_ms: Millis) {
        let (gate, items) = (self.gate_of(&job), job.items());
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(line) = self.lines.get_mut(job.batch.request) {
            line.in_flight = line.in_flight.saturating_sub(1);
            line.bucket.unsent(items);
        }
        if let Some(door) = self.doors.get_mut(gate) {
            door.in_flight = door.in_flight.saturating_sub(1);
        }
        self.works(gate);
        let given_up = GivenUp {
            reason: "unmakeable",
            status: None,
            answer: why,
        };
        self.bisect(job, &given_up, now_ms);
    }

    fn gate_of(&self, job: &Job) -> usize {
        self.options
            .requests
            .get(job.batch.request)
            .map_or(usize::MAX, |rules| rules.gate)
    }

    fn works(&mut self, gate: usize) {
        if let Some(door) = self.doors.get_mut(gate) {
            door.gate.works();
        }
    }

    /// A job is no longer under way.
    fn came_back(&mut self, job: &Job, heard: &Heard, now_ms: Millis) {
        let (gate, items) = (self.gate_of(job), job.items());
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(door) = self.doors.get_mut(gate) {
            door.in_flight = door.in_flight.saturating_sub(1);
        }
        if let Some(line) = self.lines.get_mut(job.batch.request) {
            line.in_flight = line.in_flight.saturating_sub(1);
            line.bucket.answered(now_ms, items);
            match heard.room {
                Some(room) => line.bucket.adopt(now_ms, room),
                None if heard.status == Some(429) => line.bucket.too_many(now_ms),
                None => {}
            }
        }
        let pace_ms = self.pace_ms(job);
        if pace_ms > 0 {
            for item in &job.batch.items {
                if let Some(key) = self.lane_of(job.batch.request, item) {
                    self.lanes.answered(key, now_ms.saturating_add(pace_ms));
                }
            }
        }
        if !matches!(heard.verdict, HeardVerdict::All(Verdict::Pause { .. })) {
            for item in &job.batch.items {
                if let Some(slot) = self.slots.get_mut(item.slot) {
                    slot.attempts = slot.attempts.saturating_add(1);
                }
            }
        }
    }

    /// The pace of a job's lanes: its own, or that of the request whose items it carries.
    fn pace_ms(&self, job: &Job) -> Millis {
        let parts = job.batch.items.first().map(|item| item.part);
        [Some(job.batch.request), parts]
            .into_iter()
            .flatten()
            .filter_map(|request| Some(self.options.requests.get(request)?.pace_ms))
            .max()
            .unwrap_or(0)
    }

    fn retry(&mut self, mut job: Job, wait_ms: Millis, given_up: &GivenUp<'_>, now_ms: Millis) {
        let retry_for_ms = self
            .options
            .requests
            .get(job.batch.request)
            .map_or(0, |rules| rules.retry_for_ms);
        let first_ms = *job.first_failed_ms.get_or_insert(now_ms);
        if now_ms - first_ms >= retry_for_ms {
            let given_up = GivenUp {
                reason: "retries_exhausted",
                ..*given_up
            };
            return self.give_up(job.batch, &given_up, now_ms);
        }
        let wait_ms = wait_ms.max(self.pace_ms(&job));
        let key = (now_ms.saturating_add(wait_ms), job.batch.id);
        if let Some(line) = self.lines.get_mut(job.batch.request) {
            line.retries.insert(key, job);
        }
    }

    fn pause(&mut self, mut job: Job, reason: &'static str, detail: String, now_ms: Millis) {
        let gate = self.gate_of(&job);
        if let Some(door) = self.doors.get_mut(gate) {
            door.gate.pause(now_ms, reason, detail);
        }
        // Nobody's event's fault: the time it lasts counts against none.
        job.first_failed_ms = None;
        job.split |= self.pace_ms(&job) > 0;
        let request = job.batch.request;
        for (line, rules) in self.lines.iter_mut().zip(&self.options.requests) {
            if rules.gate == gate {
                for waiting in line.retries.values_mut() {
                    waiting.first_failed_ms = None;
                }
            }
        }
        if let Some(line) = self.lines.get_mut(request) {
            line.ready.push_front(job);
        }
    }

    /// Halves a refused job; an item alone is given up.
    fn bisect(&mut self, job: Job, given_up: &GivenUp<'_>, now_ms: Millis) {
        if job.batch.items.len() <= 1 {
            return self.give_up(job.batch, given_up, now_ms);
        }
        let (request, trigger) = (job.batch.request, job.trigger);
        let (left, right) = job.batch.halves(self.batcher.new_id());
        let laned = left
            .items
            .iter()
            .chain(&right.items)
            .any(|item| item.lane.is_some());
        if laned {
            self.share_lanes(&left, &right);
        }
        for batch in [right, left] {
            let mut half = Job::new(batch, trigger);
            half.split = laned;
            if let Some(line) = self.lines.get_mut(request) {
                line.ready.push_front(half);
            }
        }
    }

    /// Lanes with items in both halves belong to the left one first, then to the right one.
    fn share_lanes(&mut self, left: &Batch, right: &Batch) {
        let lanes = |batch: &Batch| -> Vec<_> {
            let items = batch.items.iter();
            items
                .filter_map(|item| self.lane_of(batch.request, item))
                .collect()
        };
        let (left_lanes, right_lanes) = (lanes(left), lanes(right));
        let both: hashbrown::HashSet<_> = left_lanes.into_iter().collect();
        for key in right_lanes {
            self.lanes.hold_after(key, right.id, left.id);
            if !both.contains(&key) {
                self.lanes.release(key, left.id);
            }
        }
    }

    /// Of each item its own verdict.
    fn each(
        &mut self,
        mut job: Job,
        verdicts: Vec<ItemVerdict>,
        given_up: &GivenUp<'_>,
        chance: f64,
        now_ms: Millis,
    ) {
        let items = std::mem::take(&mut job.batch.items);
        let mut gone = Vec::with_capacity(items.len());
        for (item, verdict) in items.into_iter().zip(verdicts) {
            let ended = match verdict {
                ItemVerdict::Again => {
                    job.batch.items.push(item);
                    continue;
                }
                ItemVerdict::Delivered => Ended::As(Fate::Delivered),
                ItemVerdict::Skip(reason) => Ended::As(Fate::Skipped(reason.to_owned())),
                ItemVerdict::Missing => self.missing(item.slot, item.part, now_ms),
                ItemVerdict::Dead { reason, detail } => Ended::As(Fate::Dead {
                    reason: reason.to_owned(),
                    detail,
                    status: given_up.status,
                    answer: cap(given_up.answer, ANSWER_BYTES_MAX),
                }),
            };
            gone.push(item.lane);
            self.end_item(item, ended, now_ms);
        }
        self.leave_lanes(&job.batch, &gone);
        if job.batch.items.is_empty() {
            return;
        }
        job.wire = None;
        job.rounds += 1;
        if job.rounds > ROUNDS_MAX {
            job.failures = job.failures.saturating_add(1);
            let wait_ms = self.options.backoff.wait_ms(job.failures, None, chance);
            return self.retry(job, wait_ms, given_up, now_ms);
        }
        job.split = true;
        if let Some(line) = self.lines.get_mut(job.batch.request) {
            line.ready.push_front(job);
        }
    }

    /// The vendor does not know whom the item is about: it may later.
    fn missing(&self, slot: usize, part: usize, now_ms: Millis) -> Ended {
        let times = match self.slots.get(slot).map(|slot| &slot.origin) {
            Some(Origin::Parked { reason, .. }) => reason
                .strip_prefix(MISSING)
                .and_then(|times| times.strip_prefix('_')?.parse::<usize>().ok())
                .unwrap_or(0),
            _ => 0,
        };
        let waits = self.options.requests.get(part).map(|rules| &rules.requeue_ms);
        match waits.and_then(|waits| waits.get(times)) {
            Some(wait_ms) => Ended::Apart {
                due_ms: now_ms.saturating_add(*wait_ms),
                reason: format!("{MISSING}_{}", times + 1),
            },
            None => Ended::As(Fate::Skipped(MISSING.to_owned())),
        }
    }

    fn give_up(&mut self, batch: Batch, given_up: &GivenUp<'_>, now_ms: Millis) {
        let answer = cap(given_up.answer, ANSWER_BYTES_MAX);
        let said = cap(given_up.answer, 300);
        let detail = match given_up.status {
            Some(status) => format!("the vendor answered {status}: {said}"),
            None => said,
        };
        self.end_all(batch, now_ms, |_| {
            Ended::As(Fate::Dead {
                reason: given_up.reason.to_owned(),
                detail: detail.clone(),
                status: given_up.status,
                answer: answer.clone(),
            })
        });
    }

    /// All items of a batch end.
    pub(super) fn end_all(
        &mut self,
        mut batch: Batch,
        now_ms: Millis,
        how: impl Fn(&super::Item) -> Ended,
    ) {
        let items = std::mem::take(&mut batch.items);
        if items.iter().any(|item| item.lane.is_some()) {
            let lanes: Vec<_> = items.iter().map(|item| item.lane).collect();
            self.leave_lanes(&batch, &lanes);
        }
        for item in items {
            let ended = how(&item);
            self.end_item(item, ended, now_ms);
        }
    }
}

fn cap(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default())
}
