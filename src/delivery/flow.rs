//! The heart of a pipeline. Pure: no journal, no network, no clock; values in, values out.
//!
//! Mapped events come in ([`Flow::absorb`]), jobs go out ([`Flow::next_job`]), what was heard of each job comes back
//! ([`Flow::heard`]), and settled events are collected for the journal ([`Flow::take_settle`]). Every event taken in
//! leaves by exactly one settle entry: delivered, skipped, dead, or parked.
//!
//! Each request of the plan has a line of its own: its gate (or one it shares), its rate, its jobs. The rooms:
//! `slots` (events without outcome), `books` (outcomes), `lanes` (order), `buckets` (rates), `marks` (what was sent
//! last), `notes` (what must be known after a restart), `send` (what goes out next), `verdicts` (what became of it;
//! `divide` and `refusals` are its side rooms), `apart` (what must not wait in memory).

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use hashbrown::HashMap;

use super::batch::{Batch, Batcher, Envelope, Item};
use super::bisect::Search;
use super::gate::Gate;
use crate::blueprint::{ItemKeys, Mapping, Part, PartResult, Request, Verdict};
use crate::clock::Millis;
use crate::journal::{Mark, Outcome, Seq};
use crate::vendor::replies::{IfAll, ItemVerdict, Room};

mod apart;
mod books;
mod buckets;
mod divide;
mod fields;
mod lanes;
mod marks;
mod notes;
mod options;
mod refusals;
mod send;
mod shared;
mod silence;
mod slots;
mod verdicts;

pub(super) use apart::RequestState;
pub(super) use books::Settled;
pub(super) use buckets::Bucket;
#[cfg(test)]
pub(super) use buckets::Window;
pub(super) use marks::Held;
pub(super) use options::FlowOptions;
#[cfg(test)]
pub(super) use options::Rules;
pub(super) use shared::Directory;
pub(super) use slots::paused_reasons;

use books::{Apart, Books};
use fields::Known;
use lanes::{Lanes, Waiting};
use marks::Marks;
use refusals::Row;
use shared::Shared;
use silence::Silences;
use slots::{Ended, Fate, Slot, Slots, Standing, bit, dead};

/// A held event is looked at again at least this often.
const RECHECK_MS: Millis = 30_000;

/// Room an event takes besides its bytes.
const SLOT_BYTES: usize = 256;

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
        /// Why it waited.
        reason: String,
        /// Requests that need not be made again, by bit.
        parts_done: u64,
    },
}

/// An event, mapped.
#[derive(Debug)]
pub(super) struct Arrival {
    pub seq: Seq,
    /// When it was accepted.
    pub at_ms: Millis,
    /// Its own time.
    pub ts_ms: Millis,
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
    /// Which of the tables' states they were mapped with, see [`Flow::tables_changed`].
    pub generation: u64,
    pub events: Vec<Arrival>,
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub batch: Batch,
    /// Failed attempts so far.
    pub failures: u32,
    first_failed_ms: Option<Millis>,
    /// Made once: every attempt sends the same bytes.
    pub wire: Option<Request>,
    /// Where `combine` made fewer objects of them: which items each object sent stands for.
    pub combined: Option<Vec<Vec<usize>>>,
    /// `batch`, `replay`, `hold` or `probe`.
    pub trigger: &'static str,
    /// A part of a batch that was refused: what is kept back meanwhile, and why it was refused.
    search: Option<Box<(Search<Item>, Refusal)>>,
    /// Its lanes were in use a moment ago, or belong to another job first.
    split: bool,
    /// How often items of it were sent again at once.
    rounds: u32,
    /// How often it waited because its items have to.
    waits: u32,
}

/// Why items are given up.
#[derive(Debug, Clone)]
struct Refusal {
    reason: &'static str,
    status: Option<u16>,
    answer: String,
}

/// What came of a job.
#[derive(Debug)]
pub(super) struct Heard {
    pub verdict: HeardVerdict,
    pub status: Option<u16>,
    /// The answer, or the failure in words.
    pub answer: String,
    /// What a reader of replies has to say, for people.
    pub note: Option<String>,
    /// When to pause because everything is refused like this.
    pub if_all: Option<IfAll>,
    /// How long a pause is left alone.
    pub look_after: Option<std::time::Duration>,
    /// A rate was broken.
    pub slow: bool,
    /// Fields the vendor may not have are looked up first.
    pub look_up: bool,
    /// What the vendor says is left of its rate limit.
    pub room: Option<Room>,
}

/// What becomes of the items.
#[derive(Debug)]
pub(super) enum HeardVerdict {
    /// The same of all.
    All(Verdict),
    /// Of each its own; as many as the job has items.
    Each(Vec<ItemVerdict>),
}

/// A request's jobs and what it may do.
#[derive(Debug)]
struct Line {
    ready: VecDeque<Job>,
    /// By when they may go.
    retries: BTreeMap<(Millis, u64), Job>,
    bucket: Bucket,
    /// The rate it keeps together with others.
    shared: Option<Shared>,
    /// Of the fields it writes.
    known: Known,
    in_flight: usize,
    /// Items in memory that are its own.
    items: usize,
    /// Its events are set apart until it works again.
    apart: bool,
}

/// A gate, and the requests under way through it.
#[derive(Debug)]
struct Door {
    gate: Gate,
    in_flight: usize,
    /// Refused one after the other, with nothing taken in between.
    row: Row,
}

/// The heart of a pipeline.
#[derive(Debug)]
pub(super) struct Flow {
    options: FlowOptions,
    batcher: Batcher,
    lines: Vec<Line>,
    doors: Vec<Door>,
    lanes: Lanes,
    marks: Marks,
    silences: Silences,
    slots: Slots,
    books: Books,
    /// The line that is asked first for the next job.
    turn: usize,
    in_flight: usize,
    missing_rows: bool,
    generation: u64,
    woken: Vec<String>,
    /// Of events not taken in yet: requests that need not be made again, as kept.
    earlier: HashMap<Seq, u64>,
    /// See [`slots::layout`].
    layout: u64,
    /// The rates are to be written down.
    note_wanted: bool,
    /// … and are just being.
    noting: bool,
    /// It was written down that all is over.
    left: bool,
}

impl Flow {
    pub(super) fn new(options: FlowOptions) -> Self {
        let limits = options.requests.iter().map(|rules| rules.limits).collect();
        let line = |windows| Line {
            ready: VecDeque::new(),
            retries: BTreeMap::new(),
            bucket: Bucket::new(windows),
            shared: None,
            known: Known::default(),
            in_flight: 0,
            items: 0,
            apart: false,
        };
        let door = || Door {
            gate: Gate::new(),
            in_flight: 0,
            row: Row::default(),
        };
        Self {
            batcher: Batcher::new(limits),
            lines: options
                .requests
                .iter()
                .map(|rules| line(&rules.rate))
                .collect(),
            doors: options.requests.iter().map(|_| door()).collect(),
            lanes: Lanes::default(),
            marks: Marks::default(),
            silences: Silences::default(),
            slots: Slots::default(),
            books: Books::default(),
            turn: 0,
            in_flight: 0,
            missing_rows: false,
            generation: 0,
            woken: Vec::new(),
            earlier: HashMap::new(),
            layout: slots::layout(options.requests.iter().map(|rules| &*rules.name)),
            note_wanted: true,
            noting: false,
            left: false,
            options,
        }
    }

    /// Records below were appended before the journal counted labels.
    pub(super) fn labels_count_from(&mut self, seq: Seq) {
        self.books.labels_from = seq;
    }

    /// Is there room for more from the log? A quarter of the window is kept for events set apart, so that neither
    /// kind starves the other.
    pub(super) fn wants_fresh(&self) -> bool {
        self.slots.fresh < self.options.window_events * 3 / 4 && self.has_bytes()
    }

    /// How many events set apart there is room for.
    pub(super) fn wants_parked(&self) -> usize {
        if self.has_bytes() {
            (self.options.window_events / 4).saturating_sub(self.slots.parked)
        } else {
            0
        }
    }

    fn has_bytes(&self) -> bool {
        self.slots.bytes < self.options.window_bytes
    }

    /// Keys the journal must be asked for ([`Flow::learn`]) before these events are taken in.
    pub(super) fn unknown_marks(&self, arrivals: &Arrivals) -> Vec<u128> {
        let mut unknown = Vec::new();
        for arrival in &arrivals.events {
            if let Ok(Mapping::Parts(parts)) = &arrival.mapped {
                for part in parts {
                    if let PartResult::Item { keys, .. } = &part.result
                        && let Some(rules) = self.options.requests.get(part.request)
                    {
                        let keys = rules.keys(*keys);
                        self.marks.unknown(&keys, &mut unknown);
                        if rules.opts_out {
                            self.silences.unknown(keys.lane, &mut unknown);
                        }
                    }
                }
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    /// What the journal said. Nothing else may have been asked for meanwhile.
    pub(super) fn learn(&mut self, marks: &[Mark]) {
        self.marks.learn(marks);
        self.silences.learn(marks);
    }

    /// Frees memory; only while the journal is not being asked.
    pub(super) fn forget_marks(&mut self, now_ms: Millis) {
        self.silences.forget(now_ms);
        if self.marks.too_many() {
            self.marks.forget();
        }
    }

    /// The marks of a settle are in the journal.
    pub(super) fn marks_stored(&mut self, marks: &[Mark]) {
        self.marks.stored(marks);
        self.silences.stored(marks);
    }

    /// Takes mapped events in.
    pub(super) fn absorb(&mut self, arrivals: Arrivals, now_ms: Millis) {
        let mut cut = Vec::new();
        let outdated = arrivals.generation != self.generation;
        for arrival in arrivals.events {
            self.admit(arrival, &arrivals.envelopes, outdated, now_ms, &mut cut);
        }
        self.enqueue(cut);
    }

    fn admit(
        &mut self,
        arrival: Arrival,
        envelopes: &[Envelope],
        outdated: bool,
        now_ms: Millis,
        cut: &mut Vec<Batch>,
    ) {
        let (attempts, parts_done) = match &arrival.origin {
            Origin::Fresh => (0, self.earlier.remove(&arrival.seq).unwrap_or(0)),
            Origin::Parked {
                attempts,
                parts_done,
                ..
            } => (*attempts, *parts_done),
        };
        let parts_done = slots::bits_of(parts_done, self.layout);
        let slot = Slot {
            seq: arrival.seq,
            at_ms: arrival.at_ms,
            ts_ms: arrival.ts_ms,
            record: arrival.record,
            attempts,
            origin: arrival.origin,
            open: 0,
            bytes: 0,
            fate: (parts_done != 0).then_some(Fate::Delivered),
            delivered: parts_done,
            undone: 0,
            several: 0,
            layout: self.layout,
            apart: None,
        };
        let mut parts = match arrival.mapped {
            Err(detail) => return self.finish(slot, dead("undecodable", detail), now_ms),
            Ok(Mapping::Skipped(reason)) => return self.skip(slot, reason, now_ms),
            Ok(Mapping::Parts(parts)) => parts,
        };
        if self.expired(&slot, now_ms) {
            return self.skip(slot, "expired", now_ms);
        }
        if parts_done != 0 {
            parts.retain(|part| parts_done & bit(part.request) == 0);
        }
        match self.held(&slot, &parts, outdated, now_ms) {
            Some(apart) => self.books.set_apart(&self.options.feed, slot, apart),
            None => self.spread(slot, parts, envelopes, now_ms, cut),
        }
    }

    /// Nothing (more) of the event is sent.
    fn skip(&mut self, mut slot: Slot, reason: &str, now_ms: Millis) {
        slots::merge(&mut slot.fate, Fate::Skipped(reason.to_owned()));
        self.close(slot, now_ms);
    }

    /// Must the event wait for a row? Then all its parts wait, so that none is sent twice.
    fn held(
        &mut self,
        slot: &Slot,
        parts: &[Part],
        outdated: bool,
        now_ms: Millis,
    ) -> Option<Apart> {
        let since_ms = since_ms(&slot.origin, now_ms);
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
            (now_ms < until_ms).then(|| Apart {
                since_ms,
                // Mapped with tables that have changed since: the row may be there already.
                due_ms: if outdated {
                    now_ms
                } else {
                    until_ms.min(now_ms + RECHECK_MS)
                },
                reason: reason.clone(),
                held: true,
            })
        })
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
        let mut met = 0;
        for part in parts {
            let request = part.request;
            slot.several |= met & bit(request);
            met |= bit(request);
            let ended = match part.result {
                PartResult::Item {
                    mut json,
                    group,
                    keys,
                } => match envelopes.get(request) {
                    Some(envelope) if self.batcher.too_large(request, json.len(), envelope) => {
                        let detail =
                            format!("its {} bytes exceed what one request may hold", json.len());
                        Ended::As(dead("too_large", detail))
                    }
                    Some(envelope) => match self.enter(request, keys, &mut json, &slot, now_ms) {
                        Ok((lane, held)) => {
                            slot.bytes += json.len();
                            let item = Item {
                                slot: 0,
                                part: request,
                                json,
                                lane,
                                held,
                            };
                            items.push((request, group, item, envelope));
                            continue;
                        }
                        Err(ended) => ended,
                    },
                    None => Ended::As(dead(
                        "undecodable",
                        "the plan has no such request".to_owned(),
                    )),
                },
                PartResult::Skipped { reason } => Ended::As(Fate::Skipped(reason)),
                PartResult::Refused { reason, detail }
                | PartResult::Held { reason, detail, .. } => Ended::As(dead(&reason, detail)),
            };
            slot.end_part(request, ended);
        }
        if items.is_empty() {
            return self.close(slot, now_ms);
        }
        slot.open = items.len();
        slot.bytes += slot.record.len() + SLOT_BYTES;
        let index = self.slots.insert(slot);
        for (request, group, mut item, envelope) in items {
            item.slot = index;
            if let Some(line) = self.lines.get_mut(request) {
                line.items += 1;
            }
            self.place(request, group, item, envelope, now_ms, cut);
        }
    }

    /// May the item be sent at all, and now? Its lane and what it holds of the marks, or how its part ends.
    fn enter(
        &mut self,
        request: usize,
        keys: ItemKeys,
        json: &mut Bytes,
        slot: &Slot,
        now_ms: Millis,
    ) -> Result<(Option<u64>, Option<Box<Held>>), Ended> {
        if let Some(ended) = self.waits_outside(request, now_ms) {
            return Err(ended);
        }
        if let Some(ended) = self.lacks_fields(request, json) {
            return Err(ended);
        }
        let Some(rules) = self.options.requests.get(request) else {
            return Ok((None, None));
        };
        let mut keys = rules.keys(keys);
        let lane = keys.lane;
        if rules.opts_out {
            self.silences.asked(lane);
        }
        if let Some(reason) = self.silences.reason(lane, now_ms) {
            return Err(Ended::As(Fate::Skipped(reason.to_owned())));
        }
        if keys.newest.is_none() && keys.once.is_none() {
            return Ok((lane, None));
        }
        let age = (slot.ts_ms, slot.seq);
        if let Some(field) = &rules.newest_without
            && self.marks.is_older(&keys, age)
        {
            strip(json, field);
            keys.newest = None;
        }
        let lasts_ms = rules.once_ms.unwrap_or(0);
        let marks = &mut self.books.marks;
        match self.marks.enter(keys, age, lasts_ms, now_ms, marks) {
            Ok(held) => Ok((lane, Some(Box::new(held)))),
            Err(reason) => Err(Ended::As(Fate::Skipped(reason.to_owned()))),
        }
    }

    /// Puts an item into a batch, or behind others of its lane.
    fn place(
        &mut self,
        request: usize,
        group: u64,
        item: Item,
        envelope: &Envelope,
        now_ms: Millis,
        cut: &mut Vec<Batch>,
    ) {
        let Some(key) = self.lane_of(request, &item) else {
            self.batcher
                .add(request, group, item, envelope, now_ms, cut);
            return;
        };
        let open = self
            .batcher
            .would_join(request, group, item.json.len(), envelope);
        if self.lanes.admits(key, now_ms, open) {
            let id = self
                .batcher
                .add(request, group, item, envelope, now_ms, cut);
            self.lanes.hold(key, id);
        } else {
            let waiting = Waiting {
                request,
                group,
                item,
                envelope: envelope.clone(),
            };
            self.lanes.wait(key, waiting);
        }
    }

    fn lane_of(&self, request: usize, item: &Item) -> Option<lanes::LaneKey> {
        let lane = item.lane?;
        Some((self.options.requests.get(request)?.lanes, lane))
    }

    fn enqueue(&mut self, batches: Vec<Batch>) {
        for batch in batches {
            let trigger = self.trigger(&batch);
            if let Some(line) = self.lines.get_mut(batch.request) {
                line.ready.push_back(Job::new(batch, trigger));
            }
        }
    }

    fn trigger(&self, batch: &Batch) -> &'static str {
        let mut trigger = "batch";
        for item in &batch.items {
            match self.slots.get(item.slot).map(|slot| &slot.origin) {
                Some(Origin::Parked {
                    replay: Some(_), ..
                }) => return "replay",
                Some(Origin::Parked { .. }) => trigger = "hold",
                _ => {}
            }
        }
        trigger
    }

    /// A part of an event ended.
    fn end_item(&mut self, item: Item, ended: Ended, now_ms: Millis) {
        if let Some(line) = self.lines.get_mut(item.part) {
            line.items = line.items.saturating_sub(1);
        }
        if let Some(held) = item.held {
            let sent = matches!(ended, Ended::As(Fate::Delivered));
            self.marks.ended(&held, sent, now_ms, &mut self.books.marks);
        }
        match self.slots.part_ended(item.slot, item.part, ended) {
            Standing::Closed(slot) => self.close(*slot, now_ms),
            Standing::Open(Some((seq, done))) => self.books.part_ended(seq, done, now_ms),
            Standing::Open(None) => {}
        }
    }

    /// All parts of an event have ended.
    fn close(&mut self, mut slot: Slot, now_ms: Millis) {
        let fate = slot
            .fate
            .take()
            .unwrap_or_else(|| Fate::Skipped("unmapped".to_owned()));
        match slot.apart.take() {
            Some((due_ms, reason)) if !matches!(fate, Fate::Dead { .. }) => {
                let apart = Apart {
                    since_ms: since_ms(&slot.origin, now_ms),
                    due_ms,
                    reason,
                    held: false,
                };
                self.books.set_apart(&self.options.feed, slot, apart);
            }
            _ => self.finish(slot, fate, now_ms),
        }
    }

    fn finish(&mut self, slot: Slot, fate: Fate, now_ms: Millis) {
        self.books.finish(&self.options.feed, slot, fate, now_ms);
    }

    /// Writes off a run of records that are not in memory: expired, or unreadable.
    pub(super) fn write_off(&mut self, span: Range<Seq>, outcome: Outcome, reason: &str) {
        self.books.write_off(span, outcome, reason);
    }

    /// What is settled since the last call. What has merely ended of events that are still open waits a moment for
    /// something to go along with, see [`Flow::settle_due_ms`].
    /// `leaving`: nothing is sent any more; all of it, and a last note.
    pub(super) fn take_settle(&mut self, now_ms: Millis, leaving: bool) -> Option<Settled> {
        let farewell = leaving && self.wants_farewell();
        let note = (farewell || !leaving && self.wants_note()).then(|| self.note(farewell));
        let all = leaving || note.is_some();
        let mut settled = self.books.take(&self.options.feed, all, now_ms);
        if note.is_some() {
            let settled = settled.get_or_insert_with(|| Settled::nothing(&self.options.feed));
            settled.settle.note = note;
        }
        settled
    }

    /// When [`Flow::take_settle`] has something, nothing else happening.
    pub(super) fn settle_due_ms(&self) -> Option<Millis> {
        self.books.due_ms()
    }

    /// What had ended of events that were open when the pipeline before this one ended.
    pub(super) fn ended_earlier(&mut self, parts: Vec<(Seq, u64)>) {
        self.earlier = parts.into_iter().collect();
    }

    /// The tables are others from now on. Returns their generation, for [`Arrivals::generation`].
    pub(super) fn tables_changed(&mut self, now_ms: Millis) -> u64 {
        self.generation += 1;
        self.books.held_due(now_ms);
        self.generation
    }

    /// Was a row missing since the last call?
    pub(super) fn take_missing_rows(&mut self) -> bool {
        std::mem::take(&mut self.missing_rows)
    }

    /// Numbers of the records in a batch, for the log.
    pub(super) fn seqs(&self, batch: &Batch) -> Vec<Seq> {
        let slots = batch.items.iter();
        slots
            .filter_map(|item| Some(self.slots.get(item.slot)?.seq))
            .collect()
    }

    /// Requests that share their rate keep it together with others from now on. Call it when what was sent earlier is
    /// known, and before anything is sent.
    pub(super) fn share(&mut self, directory: &Directory) {
        for (line, rules) in self.lines.iter_mut().zip(&self.options.requests) {
            if let Some(key) = rules.bucket {
                let who = format!("{} {}", self.options.feed, rules.name);
                line.shared = Some(directory.join(key, &rules.rate, who, &line.bucket));
            }
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Events in memory without an outcome.
    pub(super) fn unsettled(&self) -> usize {
        self.slots.fresh + self.slots.parked
    }
}

impl Job {
    fn new(batch: Batch, trigger: &'static str) -> Self {
        Self {
            batch,
            failures: 0,
            first_failed_ms: None,
            wire: None,
            combined: None,
            trigger,
            search: None,
            split: false,
            rounds: 0,
            waits: 0,
        }
    }

    /// All that hold its lanes: those it sends, and those kept back.
    fn all_items(&self) -> impl Iterator<Item = &Item> {
        let kept = self.search.iter().flat_map(|search| search.0.kept());
        self.batch.items.iter().chain(kept)
    }

    fn items(&self) -> u64 {
        u64::try_from(self.batch.items.len()).unwrap_or(u64::MAX)
    }
}

/// Takes a field at the top of an item out of it. (Items of requests that use the event around them are a list that
/// begins with the item.)
fn strip(json: &mut Bytes, field: &str) {
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(json) else {
        return;
    };
    let item = match &mut value {
        serde_json::Value::Array(list) => list.first_mut(),
        item => Some(item),
    };
    if let Some(item) = item.and_then(serde_json::Value::as_object_mut)
        && item.shift_remove(field).is_some()
        && let Ok(stripped) = serde_json::to_vec(&value)
    {
        *json = stripped.into();
    }
}

fn since_ms(origin: &Origin, now_ms: Millis) -> Millis {
    match origin {
        Origin::Fresh => now_ms,
        Origin::Parked { since_ms, .. } => *since_ms,
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_restart;
#[cfg(test)]
mod tests_world;
