//! The heart of a pipeline. Pure: no journal, no network, no clock; values in, values out.
//!
//! Mapped events come in ([`Flow::absorb`]), jobs go out ([`Flow::next_job`]), what was heard of each job comes back
//! ([`Flow::heard`]), and settled events are collected for the journal ([`Flow::take_settle`]). Every event taken in
//! leaves by exactly one settle entry: delivered, skipped, dead, or parked.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;

use super::batch::{Batch, Batcher, Envelope, Item, Limits};
use super::gate::{Gate, Paused};
use super::retry::Backoff;
use crate::blueprint::{Mapping, Part, PartResult, Request, Verdict};
use crate::clock::Millis;
use crate::journal::{DeadLetter, Outcome, Parked, Seq, Settle, Tally};

/// A held event is looked at again at least this often.
const RECHECK_MS: Millis = 30_000;

/// Of a vendor's answer this much is kept with a dead letter.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// Room an event takes besides its bytes.
const SLOT_BYTES: usize = 256;

/// How a flow behaves.
#[derive(Debug, Clone)]
pub(super) struct FlowOptions {
    /// The feed's name.
    pub feed: String,
    /// By request of the plan.
    pub limits: Vec<Limits>,
    /// Jobs under way at once.
    pub in_flight_max: usize,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// A job that has failed for this long is given up.
    pub retry_for_ms: Millis,
    /// Overrides how long a held event waits.
    pub hold_ms: Option<Millis>,
    /// Events in memory at once.
    pub window_events: usize,
    /// Their bytes.
    pub window_bytes: usize,
}

/// Where an event came from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// From the log.
    Fresh,
    /// It was set apart.
    Parked {
        /// Since when.
        since_ms: Millis,
        /// Attempts before.
        attempts: u32,
        /// The replay it belongs to.
        replay: Option<String>,
    },
}

/// An event, mapped.
#[derive(Debug)]
pub(super) struct Arrival {
    pub seq: Seq,
    /// When it was accepted.
    pub at_ms: Millis,
    pub record: Bytes,
    pub origin: Origin,
    /// What it became, or why it cannot be read.
    pub mapped: Result<Mapping, String>,
}

/// Events mapped together.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// By request of the plan.
    pub envelopes: Vec<Envelope>,
    pub events: Vec<Arrival>,
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub batch: Batch,
    /// Failed attempts so far.
    pub failures: u32,
    first_failed_ms: Option<Millis>,
    not_before_ms: Millis,
    /// Made once: every attempt sends the same bytes.
    pub wire: Option<Request>,
    /// `batch`, `replay`, `hold` or `probe`.
    pub trigger: &'static str,
}

/// What came of a job.
#[derive(Debug)]
pub(super) struct Heard {
    pub verdict: Verdict,
    pub status: Option<u16>,
    /// The answer, or the failure in words.
    pub answer: String,
}

/// How the parts of an event ended so far; the worst word wins, then the best.
#[derive(Debug)]
enum Fate {
    Skipped(String),
    Delivered,
    Dead {
        reason: String,
        detail: String,
        status: Option<u16>,
        answer: String,
    },
}

#[derive(Debug)]
struct Slot {
    seq: Seq,
    at_ms: Millis,
    record: Bytes,
    origin: Origin,
    open: usize,
    attempts: u32,
    bytes: usize,
    fate: Option<Fate>,
}

/// Settled and not yet told to the journal.
#[derive(Debug, Default)]
struct Books {
    done: Vec<Range<Seq>>,
    unpark: Vec<Seq>,
    tallies: BTreeMap<(Outcome, String), u64>,
    dead: Vec<DeadLetter>,
    park: Vec<Parked>,
    delivered_at: Vec<(Millis, usize)>,
}

/// A settle, and what metrics want to know of it.
#[derive(Debug)]
pub(super) struct Settled {
    pub settle: Settle,
    /// (accepted at, how many) of those delivered.
    pub delivered_at: Vec<(Millis, usize)>,
}

/// The heart of a pipeline.
#[derive(Debug)]
pub(super) struct Flow {
    options: FlowOptions,
    batcher: Batcher,
    gate: Gate,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    ready: VecDeque<Job>,
    retries: Vec<Job>,
    books: Books,
    in_flight: usize,
    fresh: usize,
    parked: usize,
    bytes: usize,
    missing_rows: bool,
}

impl Flow {
    pub(super) fn new(options: FlowOptions) -> Self {
        Self {
            batcher: Batcher::new(options.limits.clone()),
            gate: Gate::new(),
            slots: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            retries: Vec::new(),
            books: Books::default(),
            in_flight: 0,
            fresh: 0,
            parked: 0,
            bytes: 0,
            missing_rows: false,
            options,
        }
    }

    /// Is there room for more from the log? A quarter of the window is kept for events set apart, so that neither
    /// kind starves the other.
    pub(super) fn wants_fresh(&self) -> bool {
        self.fresh < self.options.window_events * 3 / 4 && self.has_bytes()
    }

    /// How many events set apart there is room for.
    pub(super) fn wants_parked(&self) -> usize {
        if self.has_bytes() {
            (self.options.window_events / 4).saturating_sub(self.parked)
        } else {
            0
        }
    }

    fn has_bytes(&self) -> bool {
        self.bytes < self.options.window_bytes
    }

    /// Takes mapped events in.
    pub(super) fn absorb(&mut self, arrivals: Arrivals, now_ms: Millis) {
        let mut cut = Vec::new();
        for arrival in arrivals.events {
            self.admit(arrival, &arrivals.envelopes, now_ms, &mut cut);
        }
        self.enqueue(cut);
    }

    fn admit(
        &mut self,
        arrival: Arrival,
        envelopes: &[Envelope],
        now_ms: Millis,
        cut: &mut Vec<Batch>,
    ) {
        let Arrival {
            seq,
            at_ms,
            record,
            origin,
            mapped,
        } = arrival;
        let slot = Slot {
            seq,
            at_ms,
            record,
            attempts: match &origin {
                Origin::Fresh => 0,
                Origin::Parked { attempts, .. } => *attempts,
            },
            origin,
            open: 0,
            bytes: 0,
            fate: None,
        };
        let parts = match mapped {
            Err(detail) => return self.finish(slot, dead("undecodable", detail), now_ms),
            Ok(Mapping::Skipped(reason)) => {
                return self.finish(slot, Fate::Skipped(reason.to_owned()), now_ms);
            }
            Ok(Mapping::Parts(parts)) => parts,
        };
        match self.held(&slot, &parts, now_ms) {
            Some(parked) => self.set_apart(&slot, parked),
            None => self.spread(slot, parts, envelopes, now_ms, cut),
        }
    }

    /// Must the event wait for a row? Then all its parts wait, so that none is sent twice.
    fn held(
        &mut self,
        slot: &Slot,
        parts: &[Part],
        now_ms: Millis,
    ) -> Option<(Millis, Millis, String)> {
        let since_ms = match slot.origin {
            Origin::Fresh => now_ms,
            Origin::Parked { since_ms, .. } => since_ms,
        };
        parts.iter().find_map(|part| {
            let PartResult::Held { reason, hold, .. } = &part.result else {
                return None;
            };
            let hold_ms = self
                .options
                .hold_ms
                .unwrap_or_else(|| Millis::try_from(hold.as_millis()).unwrap_or(Millis::MAX));
            let until_ms = since_ms.saturating_add(hold_ms);
            self.missing_rows |= now_ms < until_ms;
            (now_ms < until_ms).then(|| {
                let due_ms = until_ms.min(now_ms + RECHECK_MS);
                (since_ms, due_ms, reason.clone())
            })
        })
    }

    fn set_apart(&mut self, slot: &Slot, (since_ms, due_ms, reason): (Millis, Millis, String)) {
        let replay = match &slot.origin {
            Origin::Fresh => {
                push_seq(&mut self.books.done, slot.seq);
                None
            }
            Origin::Parked { replay, .. } => {
                self.books.unpark.push(slot.seq);
                replay.clone()
            }
        };
        self.books.park.push(Parked {
            feed: self.options.feed.clone(),
            seq: slot.seq,
            due_ms,
            since_ms,
            attempts: slot.attempts,
            reason,
            replay,
            parts_done: 0,
            record: slot.record.clone(),
        });
    }

    /// Gives each part its fate, or a place in a batch.
    fn spread(
        &mut self,
        mut slot: Slot,
        parts: Vec<Part>,
        envelopes: &[Envelope],
        now_ms: Millis,
        cut: &mut Vec<Batch>,
    ) {
        let mut items = Vec::new();
        for part in parts {
            let fate = match part.result {
                PartResult::Item { json, group, .. } => match envelopes.get(part.request) {
                    Some(envelope)
                        if self.batcher.too_large(part.request, json.len(), envelope) =>
                    {
                        dead(
                            "too_large",
                            format!("its {} bytes exceed what one request may hold", json.len()),
                        )
                    }
                    Some(envelope) => {
                        slot.bytes += json.len();
                        items.push((part.request, group, json, envelope));
                        continue;
                    }
                    None => dead("undecodable", "the plan has no such request".to_owned()),
                },
                PartResult::Skipped { reason } => Fate::Skipped(reason),
                PartResult::Refused { reason, detail }
                | PartResult::Held { reason, detail, .. } => dead(&reason, detail),
            };
            merge(&mut slot.fate, fate);
        }
        if items.is_empty() {
            let fate = slot
                .fate
                .take()
                .unwrap_or_else(|| Fate::Skipped("unmapped".to_owned()));
            return self.finish(slot, fate, now_ms);
        }
        slot.open = items.len();
        slot.bytes += slot.record.len() + SLOT_BYTES;
        self.bytes += slot.bytes;
        *self.counter(&slot.origin) += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if let Some(place) = self.slots.get_mut(index) {
            *place = Some(slot);
        }
        for (request, group, json, envelope) in items {
            let item = Item { slot: index, json };
            self.batcher
                .add(request, group, item, envelope, now_ms, cut);
        }
    }

    fn counter(&mut self, origin: &Origin) -> &mut usize {
        match origin {
            Origin::Fresh => &mut self.fresh,
            Origin::Parked { .. } => &mut self.parked,
        }
    }

    fn enqueue(&mut self, batches: Vec<Batch>) {
        for batch in batches {
            let trigger = self.trigger(&batch);
            self.ready.push_back(Job {
                batch,
                failures: 0,
                first_failed_ms: None,
                not_before_ms: 0,
                wire: None,
                trigger,
            });
        }
    }

    fn trigger(&self, batch: &Batch) -> &'static str {
        let mut trigger = "batch";
        for item in &batch.items {
            match self
                .slots
                .get(item.slot)
                .and_then(Option::as_ref)
                .map(|slot| &slot.origin)
            {
                Some(Origin::Parked {
                    replay: Some(_), ..
                }) => return "replay",
                Some(Origin::Parked { .. }) => trigger = "hold",
                _ => {}
            }
        }
        trigger
    }

    /// The next job to send, if one may go now. It comes back by [`Flow::heard`].
    pub(super) fn next_job(&mut self, now_ms: Millis) -> Option<Job> {
        let mut cut = Vec::new();
        self.batcher.cut_due(now_ms, &mut cut);
        if cut.is_empty() && self.ready.is_empty() && !self.wants_fresh() {
            // No company can come: the window is full.
            self.batcher.cut_all(&mut cut);
        }
        self.enqueue(cut);
        if self.in_flight >= self.options.in_flight_max.max(1)
            || !self.gate.admits(now_ms, self.in_flight)
        {
            return None;
        }
        // Retries first: they hold the oldest events. Events still in open batches are not waited for.
        let due = self
            .retries
            .iter()
            .enumerate()
            .filter(|(_, job)| job.not_before_ms <= now_ms)
            .min_by_key(|(_, job)| job.not_before_ms)
            .map(|(index, _)| index);
        let mut job = match due {
            Some(index) => self.retries.swap_remove(index),
            None => self.ready.pop_front()?,
        };
        if self.gate.sent() {
            job.trigger = "probe";
        } else if job.trigger == "probe" {
            job.trigger = self.trigger(&job.batch);
        }
        self.in_flight += 1;
        Some(job)
    }

    /// Takes a job back with what came of it. `chance` in 0..1 spreads the next attempt.
    pub(super) fn heard(&mut self, mut job: Job, heard: Heard, now_ms: Millis, chance: f64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if !matches!(heard.verdict, Verdict::Pause { .. }) {
            for item in &job.batch.items {
                if let Some(slot) = self.slots.get_mut(item.slot).and_then(Option::as_mut) {
                    slot.attempts = slot.attempts.saturating_add(1);
                }
            }
        }
        match &heard.verdict {
            Verdict::Delivered => {
                self.gate.works();
                for item in job.batch.items {
                    self.part_done(item.slot, Fate::Delivered, now_ms);
                }
            }
            Verdict::Reject => {
                self.gate.works();
                self.give_up(job.batch, "rejected", &heard, now_ms);
            }
            Verdict::Bisect => {
                self.gate.works();
                if job.batch.items.len() <= 1 {
                    self.give_up(job.batch, "rejected", &heard, now_ms);
                } else {
                    self.bisect(job);
                }
            }
            Verdict::Retry { after } => {
                let failures = self.gate.failures().saturating_add(1);
                let wait_ms = self.options.backoff.wait_ms(failures, *after, chance);
                self.gate.failed(now_ms, wait_ms, after.is_some());
                job.failures = job.failures.saturating_add(1);
                let first_ms = *job.first_failed_ms.get_or_insert(now_ms);
                if now_ms - first_ms >= self.options.retry_for_ms {
                    self.give_up(job.batch, "retries_exhausted", &heard, now_ms);
                } else {
                    let own = self.options.backoff.wait_ms(job.failures, *after, chance);
                    job.not_before_ms = now_ms.saturating_add(own);
                    self.retries.push(job);
                }
            }
            Verdict::Pause { reason } => {
                self.gate.pause(now_ms, reason, heard.answer);
                // Nobody's event's fault: the time it lasts counts against none.
                job.first_failed_ms = None;
                self.ready.push_front(job);
                for waiting in &mut self.retries {
                    waiting.first_failed_ms = None;
                }
            }
        }
    }

    /// A job whose request cannot be made: halved like a refused one.
    pub(super) fn unmakeable(&mut self, job: Job, why: String, now_ms: Millis) {
        let heard = Heard {
            verdict: Verdict::Bisect,
            status: None,
            answer: why,
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        self.gate.works();
        if job.batch.items.len() <= 1 {
            self.give_up(job.batch, "unmakeable", &heard, now_ms);
        } else {
            self.bisect(job);
        }
    }

    fn bisect(&mut self, job: Job) {
        let trigger = job.trigger;
        let (left, right) = job.batch.halves();
        for batch in [right, left] {
            self.ready.push_front(Job {
                batch,
                failures: 0,
                first_failed_ms: None,
                not_before_ms: 0,
                wire: None,
                trigger,
            });
        }
    }

    fn give_up(&mut self, batch: Batch, reason: &str, heard: &Heard, now_ms: Millis) {
        let answer = cap(&heard.answer, ANSWER_BYTES_MAX);
        let said = cap(&heard.answer, 300);
        let detail = match heard.status {
            Some(status) => format!("the vendor answered {status}: {said}"),
            None => said,
        };
        for item in batch.items {
            let fate = Fate::Dead {
                reason: reason.to_owned(),
                detail: detail.clone(),
                status: heard.status,
                answer: answer.clone(),
            };
            self.part_done(item.slot, fate, now_ms);
        }
    }

    fn part_done(&mut self, index: usize, fate: Fate, now_ms: Millis) {
        let Some(place) = self.slots.get_mut(index) else {
            return;
        };
        let Some(slot) = place.as_mut() else {
            return;
        };
        merge(&mut slot.fate, fate);
        slot.open = slot.open.saturating_sub(1);
        if slot.open > 0 {
            return;
        }
        let Some(mut slot) = place.take() else {
            return;
        };
        self.free.push(index);
        self.bytes = self.bytes.saturating_sub(slot.bytes);
        let counter = self.counter(&slot.origin);
        *counter = counter.saturating_sub(1);
        if let Some(fate) = slot.fate.take() {
            self.finish(slot, fate, now_ms);
        }
    }

    /// Writes an event's outcome into the books.
    fn finish(&mut self, slot: Slot, fate: Fate, now_ms: Millis) {
        match slot.origin {
            Origin::Fresh => push_seq(&mut self.books.done, slot.seq),
            Origin::Parked { .. } => self.books.unpark.push(slot.seq),
        }
        match fate {
            Fate::Skipped(reason) => self.tally(Outcome::Skipped, reason, 1),
            Fate::Delivered => {
                self.tally(Outcome::Delivered, String::new(), 1);
                match self.books.delivered_at.last_mut() {
                    Some((at_ms, n)) if *at_ms == slot.at_ms => *n += 1,
                    _ => self.books.delivered_at.push((slot.at_ms, 1)),
                }
            }
            Fate::Dead {
                reason,
                detail,
                status,
                answer,
            } => {
                self.tally(Outcome::Dead, reason.clone(), 1);
                self.books.dead.push(DeadLetter {
                    id: 0,
                    feed: self.options.feed.clone(),
                    seq: slot.seq,
                    at_ms: now_ms,
                    reason,
                    detail,
                    attempts: slot.attempts,
                    status,
                    answer,
                    parts_done: 0,
                    record: slot.record,
                });
            }
        }
    }

    fn tally(&mut self, outcome: Outcome, reason: String, n: u64) {
        *self.books.tallies.entry((outcome, reason)).or_insert(0) += n;
    }

    /// Writes off a run of records that are not in memory: expired, or unreadable.
    pub(super) fn write_off(&mut self, span: Range<Seq>, outcome: Outcome, reason: &str) {
        let n = span.end.saturating_sub(span.start);
        if n > 0 {
            self.books.done.push(span);
            self.tally(outcome, reason.to_owned(), n);
        }
    }

    /// What is settled since the last call.
    pub(super) fn take_settle(&mut self) -> Option<Settled> {
        if self.books.done.is_empty() && self.books.unpark.is_empty() {
            return None;
        }
        let mut books = std::mem::take(&mut self.books);
        books.done.sort_unstable_by_key(|range| range.start);
        books.done.dedup_by(|next, run| {
            let joins = next.start == run.end;
            if joins {
                run.end = next.end;
            }
            joins
        });
        let tallies = books
            .tallies
            .into_iter()
            .map(|((outcome, reason), n)| Tally { outcome, reason, n })
            .collect();
        Some(Settled {
            settle: Settle {
                feed: self.options.feed.clone(),
                done: books.done,
                unpark: books.unpark,
                tallies,
                dead: books.dead,
                park: books.park,
                marks: Vec::new(),
            },
            delivered_at: books.delivered_at,
        })
    }

    /// Was a row missing since the last call?
    pub(super) fn take_missing_rows(&mut self) -> bool {
        std::mem::take(&mut self.missing_rows)
    }

    /// Numbers of the records in a batch, for the log.
    pub(super) fn seqs(&self, batch: &Batch) -> Vec<Seq> {
        let slots = batch
            .items
            .iter()
            .filter_map(|item| self.slots.get(item.slot)?.as_ref());
        slots.map(|slot| slot.seq).collect()
    }

    /// When there may be something to send again, nothing else happening.
    pub(super) fn wakes_ms(&self) -> Option<Millis> {
        let by_age = self.batcher.next_due_ms();
        let has_room = self.in_flight < self.options.in_flight_max.max(1);
        let waiting = !self.ready.is_empty() || !self.retries.is_empty();
        let by_gate = self
            .gate
            .wakes_ms()
            .filter(|_| self.in_flight == 0 && waiting);
        let by_retry = (has_room && self.gate.wakes_ms().is_none())
            .then(|| self.retries.iter().map(|job| job.not_before_ms).min())
            .flatten();
        // Behind a closed gate a retry may still wait for its own time.
        let by_gate = match (by_gate, self.ready.is_empty()) {
            (Some(gate), true) => self
                .retries
                .iter()
                .map(|job| job.not_before_ms.max(gate))
                .min(),
            (gate, _) => gate,
        };
        [by_age, by_gate, by_retry].into_iter().flatten().min()
    }

    pub(super) fn resume(&mut self, now_ms: Millis) {
        self.gate.resume(now_ms);
        for job in &mut self.retries {
            job.not_before_ms = job.not_before_ms.min(now_ms);
        }
    }

    pub(super) fn paused(&self) -> Option<&Paused> {
        self.gate.paused()
    }

    /// Until when the vendor is left alone, if it is.
    pub(super) fn waits_until_ms(&self) -> Option<Millis> {
        self.gate.wakes_ms()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Events in memory without an outcome.
    pub(super) fn unsettled(&self) -> usize {
        self.fresh + self.parked
    }
}

fn dead(reason: &str, detail: String) -> Fate {
    Fate::Dead {
        reason: reason.to_owned(),
        detail,
        status: None,
        answer: String::new(),
    }
}

/// One outcome per event: dead if any part is, else delivered if any part is, else skipped.
fn merge(fate: &mut Option<Fate>, other: Fate) {
    fn rank(fate: &Fate) -> u8 {
        match fate {
            Fate::Skipped(_) => 0,
            Fate::Delivered => 1,
            Fate::Dead { .. } => 2,
        }
    }
    if fate.as_ref().is_none_or(|known| rank(&other) > rank(known)) {
        *fate = Some(other);
    }
}

fn push_seq(runs: &mut Vec<Range<Seq>>, seq: Seq) {
    match runs.last_mut() {
        Some(run) if run.end == seq => run.end += 1,
        _ => runs.push(seq..seq + 1),
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

#[cfg(test)]
mod tests;
