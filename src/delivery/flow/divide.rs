//! A job in two: it was too much at once, or some of its items have to wait. Pure.

use std::time::Duration;

use hashbrown::HashSet;

use super::verdicts::given_up;
use super::{Batch, Flow, Item, Job, Refusal};
use crate::clock::Millis;

/// How items wait, see [`crate::vendor::replies::ItemVerdict::Wait`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    pub after: Duration,
    pub times: u32,
    pub reason: &'static str,
}

/// Items that have to wait, and with them all of their lanes; and the others. Both in order.
pub(super) fn with_their_lanes(items: Vec<(Item, bool)>) -> (Vec<Item>, Vec<Item>) {
    let lanes: HashSet<u64> = items
        .iter()
        .filter(|(_, waits)| *waits)
        .filter_map(|(item, _)| item.lane)
        .collect();
    let waits = |(item, waits): &(Item, bool)| {
        *waits || item.lane.is_some_and(|lane| lanes.contains(&lane))
    };
    let (wait, go): (Vec<_>, Vec<_>) = items.into_iter().partition(waits);
    let bare = |items: Vec<(Item, bool)>| items.into_iter().map(|(item, _)| item).collect();
    (bare(wait), bare(go))
}

impl Flow {
    /// Too much at once: both halves go by themselves. (A search for a culprit finds one even where there is none:
    /// whoever is left in the end. Here nobody is given up unsent.)
    pub(super) fn split(&mut self, mut job: Job, refusal: &Refusal, now_ms: Millis) {
        if job.batch.items.len() <= 1 {
            self.end_sent(&mut job, now_ms, |_| given_up(refusal));
            return self.go_on(job);
        }
        if let Some(search) = job.search.take() {
            job.batch.items.extend(search.0.into_kept());
        }
        let rest = job.batch.items.split_off(job.batch.items.len().div_ceil(2));
        let first = std::mem::replace(&mut job.batch.items, rest);
        let first = self.part_of(&mut job, first);
        self.again(job);
        self.again(first);
    }

    /// Items of a job have to wait; whatever else is in it goes on.
    pub(super) fn set_waiting(
        &mut self,
        job: &mut Job,
        waiting: Vec<Item>,
        wait: Wait,
        refusal: &Refusal,
        chance: f64,
        now_ms: Millis,
    ) {
        let part = self.part_of(job, waiting);
        self.wait(part, wait, refusal, chance, now_ms);
    }

    /// A whole job has to wait. Its gate stays open.
    pub(super) fn wait(
        &mut self,
        mut job: Job,
        wait: Wait,
        refusal: &Refusal,
        chance: f64,
        now_ms: Millis,
    ) {
        job.waits += 1;
        if job.waits > wait.times {
            let refusal = Refusal {
                reason: wait.reason,
                ..refusal.clone()
            };
            self.end_sent(&mut job, now_ms, |_| given_up(&refusal));
            return self.go_on(job);
        }
        job.failures = job.failures.saturating_add(1);
        let wait_ms = self.options.backoff.wait_ms(1, Some(wait.after), chance);
        self.retry(job, wait_ms, refusal.clone(), now_ms);
    }

    /// A job of items taken out of another. Where they share a lane it goes first.
    fn part_of(&mut self, job: &mut Job, items: Vec<Item>) -> Job {
        let id = self.batcher.new_id();
        let request = job.batch.request;
        for item in &items {
            if let Some(key) = self.lane_of(request, item) {
                self.lanes.hold_before(key, id, job.batch.id);
            }
        }
        let lanes: Vec<_> = items.iter().map(|item| item.lane).collect();
        let mut part = Job::new(Batch::of(id, request, items, &job.batch), job.trigger);
        part.waits = job.waits;
        job.wire = None;
        job.combined = None;
        self.leave_lanes(job, &lanes);
        let behind = job.all_items().any(|item| {
            let key = self.lane_of(request, item);
            key.is_some_and(|key| self.lanes.opens(key, job.batch.id).is_none())
        });
        job.split |= behind;
        part
    }
}
