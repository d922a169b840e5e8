//! A pipeline without journal and vendor: stored records in, ready requests out. For measuring what an event costs: it
//! runs what a worker runs around the two, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::flow::{Flow, FlowOptions, Heard, HeardVerdict};
use super::worker::READ_BYTES;
use super::{mapping, wire};
use crate::blueprint::{Tables, Verdict};
use crate::clock::Millis;
use crate::journal::{Entry, Seq};
use crate::registry::Integration;

/// One integration's pipeline, in a time of its own.
#[derive(Debug)]
pub struct Rehearsal {
    integration: Arc<Integration>,
    tables: Arc<Tables>,
    flow: Flow,
    next: Seq,
    now_ms: Millis,
    /// This thread's time on the processor so far.
    processor: fn() -> Duration,
}

/// What was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Requests.
    pub requests: usize,
    /// Items in them.
    pub items: usize,
    /// Bytes of their bodies.
    pub bytes: usize,
    /// Time on the processor until they were ready to be sent.
    pub before_sending: Duration,
}

impl Rehearsal {
    /// A pipeline that begins at this time. `processor`: this thread's time on the processor so far.
    #[must_use]
    pub fn new(integration: Arc<Integration>, now_ms: Millis, processor: fn() -> Duration) -> Self {
        let options = FlowOptions::of(&integration.id, &integration.plan, &integration.tuning);
        Self {
            flow: Flow::new(options),
            tables: Arc::default(),
            next: 0,
            now_ms,
            integration,
            processor,
        }
    }

    /// Takes records through: read, mapped, in order, cut into batches, made into requests, all taken by the vendor,
    /// and settled. They come in as many at a time as a worker reads. Time goes by as the rates of the requests ask
    /// for.
    pub fn run(&mut self, records: &[Bytes]) -> Made {
        let mut made = Made::default();
        let mut rest = records;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take_while(|record| {
                bytes += record.len();
                bytes <= READ_BYTES
            });
            let (chunk, later) = rest.split_at(fit.count().max(1));
            rest = later;
            self.take_in(chunk, &mut made);
            self.send(&mut made);
        }
        while self.flow.unsettled() > 0 {
            let next_ms = self.flow.wakes_ms(self.now_ms);
            self.now_ms = next_ms.unwrap_or(self.now_ms).max(self.now_ms + 1);
            self.send(&mut made);
        }
        made
    }

    fn take_in(&mut self, records: &[Bytes], made: &mut Made) {
        let seqs = self.next..;
        let entries = seqs.zip(records).map(|(seq, bytes)| Entry {
            seq,
            at_ms: self.now_ms,
            bytes: bytes.clone(),
        });
        let entries: Vec<Entry> = entries.collect();
        self.next += records.len() as u64;
        let begun = (self.processor)();
        let arrivals = mapping::map_fresh(&self.integration, &self.tables, 0, entries);
        self.flow.forget_marks(self.now_ms);
        if !self.flow.unknown_marks(&arrivals).is_empty() {
            // The journal would know of none.
            self.flow.learn(&[]);
        }
        self.flow.absorb(arrivals, self.now_ms);
        made.before_sending += (self.processor)().saturating_sub(begun);
    }

    fn send(&mut self, made: &mut Made) {
        let mut jobs = Vec::new();
        let begun = (self.processor)();
        while let Some(mut job) = self.flow.next_job(self.now_ms) {
            if let Err(why) = wire::make(&self.integration.plan, &mut job) {
                self.flow.unmakeable(job, &why, self.now_ms);
                continue;
            }
            made.requests += 1;
            made.items += job.batch.items.len();
            made.bytes += job.wire.as_ref().map_or(0, |wire| wire.body.len());
            jobs.push(job);
        }
        made.before_sending += (self.processor)().saturating_sub(begun);
        for job in jobs {
            let taken = Heard {
                verdict: HeardVerdict::All(Verdict::Delivered),
                status: Some(200),
                answer: String::new(),
                note: None,
                if_all: None,
                look_after: None,
                slow: false,
                look_up: false,
                room: None,
            };
            self.flow.heard(job, taken, self.now_ms, 0.5);
        }
        if let Some(settled) = self.flow.take_settle(self.now_ms, false) {
            if settled.settle.note.is_some() {
                self.flow.note_stored();
            }
            self.flow.marks_stored(&settled.settle.marks);
        }
    }
}
