//! What became of a job, and what follows for its events. Pure.

use std::time::Duration;

use super::super::bisect::{self, Found};
use super::divide::Wait;
use super::silence::OPTED_OUT;
use super::slots::{Ended, Fate};
use super::{Flow, Heard, HeardVerdict, Item, Job, Origin, Refusal};
use crate::blueprint::Verdict;
use crate::clock::Millis;
use crate::vendor::replies::ItemVerdict;

/// Of a vendor's answer this much is kept with a dead letter.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// Items are sent again at once so often; then the job waits like a failed one.
const ROUNDS_MAX: u32 = 3;

/// The reason of events whose subject the vendor does not know yet; with the number of times they were set apart.
const MISSING: &str = "missing";

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
        if heard.look_up {
            match self.again_without_unknown(job, now_ms) {
                Some(same) => job = same,
                None => return self.works(gate),
            }
        }
        let refusal = || Refusal {
            reason: match heard.status {
                Some(413) => "too_large",
                _ => "rejected",
            },
            status: heard.status,
            answer: cap(&heard.answer, ANSWER_BYTES_MAX),
        };
        if let Some((reason, detail)) = self.all_refused(gate, &heard) {
            return self.pause(job, reason, detail, None, now_ms);
        }
        match heard.verdict {
            HeardVerdict::All(Verdict::Delivered) => {
                self.works(gate);
                self.delivered(job, now_ms);
            }
            HeardVerdict::All(Verdict::Reject) => {
                self.works(gate);
                let refusal = refusal();
                self.end_sent(&mut job, now_ms, |_| given_up(&refusal));
                self.go_on(job);
            }
            HeardVerdict::All(Verdict::Bisect) => {
                self.works(gate);
                self.bisect(job, refusal(), now_ms);
            }
            HeardVerdict::All(Verdict::Split) => {
                self.works(gate);
                self.split(job, &refusal(), now_ms);
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
                self.retry(job, own_ms, refusal(), now_ms);
            }
            HeardVerdict::All(Verdict::Pause { reason }) => {
                let detail = heard.note.unwrap_or(heard.answer);
                self.pause(job, reason, detail, heard.look_after, now_ms);
            }
            HeardVerdict::Each(verdicts) => {
                self.works(gate);
                self.each(job, verdicts, &refusal(), chance, now_ms);
            }
        }
    }

    /// A job whose request cannot be made: halved like a refused one.
    pub(in super::super) fn unmakeable(&mut self, job: Job, why: &str, now_ms: Millis) {
        let (gate, items) = (self.gate_of(&job), job.items());
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(line) = self.lines.get_mut(job.batch.request) {
            line.in_flight = line.in_flight.saturating_sub(1);
            line.unsent(items);
        }
        if let Some(door) = self.doors.get_mut(gate) {
            door.in_flight = door.in_flight.saturating_sub(1);
        }
        self.works(gate);
        let refusal = Refusal {
            reason: "unmakeable",
            status: None,
            answer: cap(why, ANSWER_BYTES_MAX),
        };
        self.bisect(job, refusal, now_ms);
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
            line.answered(now_ms, items);
            // What the vendor says of its limits is known to the pipeline after this one.
            self.note_wanted |= heard.slow || heard.room.is_some_and(|room| room.remaining == 0);
            match heard.room {
                Some(room) => line.adopt(now_ms, room),
                None if heard.slow => line.too_many(now_ms),
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

    pub(super) fn retry(
        &mut self,
        mut job: Job,
        wait_ms: Millis,
        refusal: Refusal,
        now_ms: Millis,
    ) {
        let retry_for_ms = self
            .options
            .requests
            .get(job.batch.request)
            .map_or(0, |rules| rules.retry_for_ms);
        let first_ms = *job.first_failed_ms.get_or_insert(now_ms);
        if now_ms - first_ms >= retry_for_ms {
            let refusal = Refusal {
                reason: "retries_exhausted",
                ..refusal
            };
            self.end_sent(&mut job, now_ms, |_| given_up(&refusal));
            return self.go_on(job);
        }
        let wait_ms = wait_ms.max(self.pace_ms(&job));
        let key = (now_ms.saturating_add(wait_ms), job.batch.id);
        if let Some(line) = self.lines.get_mut(job.batch.request) {
            line.retries.insert(key, job);
        }
    }

    fn pause(
        &mut self,
        mut job: Job,
        reason: &'static str,
        detail: String,
        look_after: Option<Duration>,
        now_ms: Millis,
    ) {
        let gate = self.gate_of(&job);
        let look_after_ms =
            look_after.map(|wait| Millis::try_from(wait.as_millis()).unwrap_or(Millis::MAX));
        if let Some(door) = self.doors.get_mut(gate) {
            door.gate.pause(now_ms, reason, detail, look_after_ms);
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
        self.let_others_pass(request, now_ms);
    }

    /// What was sent was taken.
    fn delivered(&mut self, mut job: Job, now_ms: Millis) {
        self.end_sent(&mut job, now_ms, |_| Ended::As(Fate::Delivered));
        if let Some(search) = job.search.take() {
            let (search, refusal) = *search;
            self.search_on(job, bisect::taken(search), refusal, now_ms);
        }
    }

    /// What was sent was refused, nobody knows for which item.
    fn bisect(&mut self, mut job: Job, refusal: Refusal, now_ms: Millis) {
        let sent = std::mem::take(&mut job.batch.items);
        let search = job.search.take().map(|search| search.0);
        self.search_on(job, bisect::refused(sent, search), refusal, now_ms);
    }

    /// Goes on with what is left of a refused job.
    fn search_on(&mut self, mut job: Job, found: Found<Item>, refusal: Refusal, now_ms: Millis) {
        job.batch.items = found.next;
        job.search = found
            .search
            .map(|search| Box::new((search, refusal.clone())));
        if let Some(culprit) = found.culprit {
            self.leave_lanes(&job, &[culprit.lane]);
            self.end_item(culprit, given_up(&refusal), now_ms);
        }
        self.again(job);
    }

    /// Nothing of what was sent is left; what was kept back meanwhile goes out.
    pub(super) fn go_on(&mut self, mut job: Job) {
        if let Some(search) = job.search.take() {
            job.batch.items = search.0.into_kept();
            self.again(job);
        }
    }

    /// Sends a job's items at once, as a new request.
    pub(super) fn again(&mut self, mut job: Job) {
        if job.batch.items.is_empty() {
            return;
        }
        job.wire = None;
        job.combined = None;
        job.failures = 0;
        job.first_failed_ms = None;
        job.split |= self.pace_ms(&job) > 0;
        if let Some(line) = self.lines.get_mut(job.batch.request) {
            line.ready.push_front(job);
        }
    }

    /// Of each item its own verdict.
    fn each(
        &mut self,
        mut job: Job,
        verdicts: Vec<ItemVerdict>,
        refusal: &Refusal,
        chance: f64,
        now_ms: Millis,
    ) {
        let items = std::mem::take(&mut job.batch.items);
        let mut gone = Vec::with_capacity(items.len());
        let mut left = Vec::new();
        let mut waiting: Option<Wait> = None;
        for (mut item, verdict) in items.into_iter().zip(verdicts) {
            let ended = match verdict {
                ItemVerdict::AgainWithout(field) => {
                    super::strip(&mut item.json, field);
                    left.push((item, false));
                    continue;
                }
                ItemVerdict::Again => {
                    left.push((item, false));
                    continue;
                }
                ItemVerdict::Wait {
                    after,
                    times,
                    reason,
                } => {
                    waiting.get_or_insert(Wait {
                        after,
                        times,
                        reason,
                    });
                    left.push((item, true));
                    continue;
                }
                ItemVerdict::OptedOut { lasts } => {
                    let lasts_ms = Millis::try_from(lasts.as_millis()).unwrap_or(Millis::MAX);
                    let until_ms = now_ms.saturating_add(lasts_ms);
                    let seq = self.slots.get(item.slot).map_or(0, |slot| slot.seq);
                    let marks = &mut self.books.marks;
                    self.silences.add(item.lane, seq, until_ms, now_ms, marks);
                    Ended::As(Fate::Skipped(OPTED_OUT.to_owned()))
                }
                ItemVerdict::Delivered => Ended::As(Fate::Delivered),
                ItemVerdict::Skip(reason) => Ended::As(Fate::Skipped(reason.to_owned())),
                ItemVerdict::Missing => self.missing(item.slot, item.part, now_ms),
                ItemVerdict::Dead { reason, detail } => Ended::As(Fate::Dead {
                    reason: reason.to_owned(),
                    detail,
                    status: refusal.status,
                    answer: refusal.answer.clone(),
                }),
            };
            gone.push(item.lane);
            self.end_item(item, ended, now_ms);
        }
        let (wait_items, go_items) = super::divide::with_their_lanes(left);
        job.batch.items = go_items;
        match waiting {
            Some(wait) if job.batch.items.is_empty() && job.search.is_none() => {
                if !gone.is_empty() {
                    job.wire = None;
                    job.combined = None;
                }
                job.batch.items = wait_items;
                self.leave_lanes(&job, &gone);
                return self.wait(job, wait, refusal, chance, now_ms);
            }
            Some(wait) => {
                self.set_waiting(&mut job, wait_items, wait, refusal, chance, now_ms);
            }
            None => {}
        }
        self.leave_lanes(&job, &gone);
        if job.batch.items.is_empty() {
            return self.go_on(job);
        }
        job.rounds += 1;
        if job.rounds > ROUNDS_MAX {
            job.wire = None;
            job.failures = job.failures.saturating_add(1);
            let wait_ms = self.options.backoff.wait_ms(job.failures, None, chance);
            return self.retry(job, wait_ms, refusal.clone(), now_ms);
        }
        self.again(job);
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
        let waits = self
            .options
            .requests
            .get(part)
            .map(|rules| &rules.requeue_ms);
        match waits.and_then(|waits| waits.get(times)) {
            Some(wait_ms) => Ended::Apart {
                due_ms: now_ms.saturating_add(*wait_ms),
                reason: format!("{MISSING}_{}", times + 1),
            },
            None => Ended::As(Fate::Skipped(MISSING.to_owned())),
        }
    }

    /// All items a job sent end; those kept back stay.
    pub(super) fn end_sent(&mut self, job: &mut Job, now_ms: Millis, how: impl Fn(&Item) -> Ended) {
        let items = std::mem::take(&mut job.batch.items);
        if items.iter().any(|item| item.lane.is_some()) {
            let lanes: Vec<_> = items.iter().map(|item| item.lane).collect();
            self.leave_lanes(job, &lanes);
        }
        for item in items {
            let ended = how(&item);
            self.end_item(item, ended, now_ms);
        }
    }

    /// All items of a job end.
    pub(super) fn end_all(&mut self, mut job: Job, now_ms: Millis, how: impl Fn(&Item) -> Ended) {
        if let Some(search) = job.search.take() {
            job.batch.items.extend(search.0.into_kept());
        }
        self.end_sent(&mut job, now_ms, how);
    }
}

pub(super) fn given_up(refusal: &Refusal) -> Ended {
    let said = cap(&refusal.answer, 300);
    Ended::As(Fate::Dead {
        reason: refusal.reason.to_owned(),
        detail: match refusal.status {
            Some(status) => format!("the vendor answered {status}: {said}"),
            None => said,
        },
        status: refusal.status,
        answer: refusal.answer.clone(),
    })
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
