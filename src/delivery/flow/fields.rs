//! Fields a vendor does not have: one of them, and it refuses all that is written with it. They are left out. Pure.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::Value;

use super::slots::{Ended, Fate};
use super::{Flow, Job};
use crate::clock::Millis;

/// Why nothing is sent of an item that has no other fields.
const MISSING: &str = "metadata_field_missing";

/// Names of missing fields kept for people.
const NAMES_MAX: usize = 50;

/// What is known of the fields a request writes.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// In small letters; none before they were looked up.
    fields: Option<BTreeSet<String>>,
    /// Where an item has its own.
    inside: &'static str,
    /// Left out of items.
    pub(super) lacking: BTreeSet<String>,
}

/// What is left of an item.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    All,
    Some,
    Nothing,
}

impl Known {
    fn leave_out(&mut self, json: &mut Bytes) -> Left {
        let Some(fields) = &self.fields else {
            return Left::All;
        };
        let Ok(mut item) = serde_json::from_slice::<Value>(json) else {
            return Left::All;
        };
        let Some(values) = item.get_mut(self.inside).and_then(Value::as_object_mut) else {
            return Left::All;
        };
        let unknown: Vec<String> = values
            .keys()
            .filter(|name| !fields.contains(&name.to_lowercase()))
            .cloned()
            .collect();
        if unknown.is_empty() {
            return Left::All;
        }
        for name in unknown {
            values.shift_remove(&name);
            if self.lacking.len() < NAMES_MAX {
                self.lacking.insert(name);
            }
        }
        if values.is_empty() {
            return Left::Nothing;
        }
        if let Ok(left) = serde_json::to_vec(&item) {
            *json = left.into();
        }
        Left::Some
    }
}

impl Flow {
    /// The vendor has said which fields it has.
    pub(in super::super) fn fields_known(
        &mut self,
        request: usize,
        inside: &'static str,
        fields: BTreeSet<String>,
    ) {
        if let Some(line) = self.lines.get_mut(request) {
            line.known = Known {
                fields: Some(fields),
                inside,
                lacking: BTreeSet::new(),
            };
        }
    }

    /// Nothing is known any more of the fields vendors have.
    pub(super) fn forget_fields(&mut self) {
        for line in &mut self.lines {
            line.known = Known::default();
        }
    }

    /// Is there nothing to be written of an item, for want of fields? Those that are missing are taken out of it.
    pub(super) fn lacks_fields(&mut self, request: usize, json: &mut Bytes) -> Option<Ended> {
        let known = &mut self.lines.get_mut(request)?.known;
        (known.leave_out(json) == Left::Nothing)
            .then(|| Ended::As(Fate::Skipped(MISSING.to_owned())))
    }

    /// A refused job goes again without the fields the vendor does not have. Back comes a job that has none of those.
    pub(super) fn again_without_unknown(&mut self, mut job: Job, now_ms: Millis) -> Option<Job> {
        let Some(line) = self.lines.get_mut(job.batch.request) else {
            return Some(job);
        };
        let mut kept = Vec::with_capacity(job.batch.items.len());
        let mut gone = Vec::new();
        let mut changed = false;
        for mut item in std::mem::take(&mut job.batch.items) {
            let left = line.known.leave_out(&mut item.json);
            changed |= left != Left::All;
            match left {
                Left::Nothing => gone.push(item),
                Left::All | Left::Some => kept.push(item),
            }
        }
        job.batch.items = kept;
        if !changed {
            return Some(job);
        }
        job.wire = None;
        job.combined = None;
        let lanes: Vec<_> = gone.iter().map(|item| item.lane).collect();
        self.leave_lanes(&job, &lanes);
        for item in gone {
            let ended = Ended::As(Fate::Skipped(MISSING.to_owned()));
            self.end_item(item, ended, now_ms);
        }
        if job.batch.items.is_empty() {
            self.go_on(job);
        } else {
            self.again(job);
        }
        None
    }
}
