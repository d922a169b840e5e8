//! What a pipeline writes down for the one after it, in the journal's note of its feed: the rates of its requests. Pure.
//!
//! See `buckets/lease` for why nothing is sent that no note tells of.

use serde::{Deserialize, Serialize};

use super::Flow;
use super::buckets::{Bucket, Kept};
use crate::clock::Millis;

/// A lease is for so many rounds of all requests that may be under way.
const ROUNDS: u64 = 2;

/// As stored. Persisted: fields may be added, with a default; none may change its meaning.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// Everything had been answered, and nothing was sent afterwards.
    left: bool,
    requests: Vec<RequestNote>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RequestNote {
    name: String,
    rate: Kept,
    /// The vendor asked to be left alone until then.
    waits_ms: Option<Millis>,
}

impl Flow {
    /// Takes up what an earlier pipeline knew of the rates: handed on in memory, or else by its note (empty when there
    /// never was one). From now on, what is sent is written down.
    pub(in super::super) fn recall(
        &mut self,
        note: &[u8],
        rates: Vec<(String, Bucket)>,
        now_ms: Millis,
    ) {
        if rates.is_empty() {
            self.recall_note(note, now_ms);
        } else {
            self.take_over(rates, now_ms);
        }
        for (line, rules) in self.lines.iter_mut().zip(&self.options.requests) {
            if line.bucket.counts(rules.pace_ms) {
                let many = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
                let requests = many(rules.in_flight_max).saturating_add(1) * ROUNDS;
                line.bucket.lease(requests, many(rules.limits.items_max));
            }
        }
    }

    fn recall_note(&mut self, note: &[u8], now_ms: Millis) {
        if note.is_empty() {
            return;
        }
        let Ok(note) = serde_json::from_slice::<Note>(note) else {
            tracing::error!(
                feed = self.options.feed,
                "what was noted of the rates cannot be read; they begin anew"
            );
            return;
        };
        let sudden = !note.left;
        for known in note.requests {
            let index = self.options.requests.iter();
            let Some(index) = index.clone().position(|rules| *rules.name == *known.name) else {
                continue;
            };
            if let Some(line) = self.lines.get_mut(index) {
                let earlier = Bucket::of_kept(known.rate, now_ms);
                line.bucket.take_over(earlier, now_ms);
            }
            let gate = self.options.requests.get(index).map(|rules| rules.gate);
            if let Some(until_ms) = known.waits_ms.filter(|at_ms| *at_ms > now_ms)
                && let Some(door) = gate.and_then(|gate| self.doors.get_mut(gate))
            {
                door.gate.wait(until_ms);
            }
        }
        for (line, rules) in self.lines.iter_mut().zip(&self.options.requests) {
            line.bucket.rest(rules.pace_ms, sudden, now_ms);
        }
    }

    /// Takes over the rates of a pipeline that was there before in this process, by name of the request.
    fn take_over(&mut self, rates: Vec<(String, Bucket)>, now_ms: Millis) {
        for (name, bucket) in rates {
            let index = self
                .options
                .requests
                .iter()
                .position(|rules| *rules.name == *name);
            let Some(index) = index else { continue };
            let pace_ms = self.options.requests.get(index).map(|rules| rules.pace_ms);
            if let Some(line) = self.lines.get_mut(index) {
                line.bucket.take_over(bucket, now_ms);
                line.bucket.rest(pace_ms.unwrap_or(0), false, now_ms);
            }
        }
    }

    /// The rates, for the pipeline that comes after in this process.
    pub(in super::super) fn rates(&self) -> Vec<(String, Bucket)> {
        let names = self
            .options
            .requests
            .iter()
            .map(|rules| rules.name.to_string());
        let buckets = self.lines.iter().map(|line| line.bucket.clone());
        names.zip(buckets).collect()
    }

    /// Is it time to write the rates down?
    pub(super) fn wants_note(&self) -> bool {
        let lines = || self.lines.iter();
        let low = self.note_wanted || lines().any(|line| line.bucket.wants_note());
        low && !self.noting && lines().any(|line| line.bucket.is_leased())
    }

    /// Is it time to write down that all is over? Once.
    pub(super) fn wants_farewell(&mut self) -> bool {
        let leased = self.lines.iter().any(|line| line.bucket.is_leased());
        leased && !self.noting && self.in_flight == 0 && !std::mem::replace(&mut self.left, true)
    }

    /// Writes the rates down. Call [`Flow::note_stored`] when the journal has it.
    pub(super) fn note(&mut self, leaving: bool) -> bytes::Bytes {
        self.note_wanted = false;
        self.noting = true;
        let mut requests = Vec::with_capacity(self.lines.len());
        for (line, rules) in self.lines.iter_mut().zip(&self.options.requests) {
            let door = self.doors.get(rules.gate);
            requests.push(RequestNote {
                name: rules.name.to_string(),
                rate: line.bucket.kept(leaving),
                waits_ms: door.and_then(|door| door.gate.waits_ms()),
            });
            line.bucket.noted();
        }
        let note = Note {
            left: leaving,
            requests,
        };
        serde_json::to_vec(&note).unwrap_or_default().into()
    }

    /// The last note is in the journal.
    pub(in super::super) fn note_stored(&mut self) {
        self.noting = false;
        for line in &mut self.lines {
            line.bucket.note_stored();
        }
    }
}
