//! Items that must keep their order: one lane per identity. Pure.
//!
//! A lane is *held* by the batch that carries its items, from the batch's first item until the batch's last answer.
//! What comes meanwhile waits in the lane, unless it can join the batch that holds it. When one of its items is
//! carried by another batch, the lane has several holders in a row; only the first may go. Where a pace is set, a lane stays closed that long after an
//! answer.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::super::batch::{Envelope, Item};
use crate::clock::Millis;

/// Which lane: the requests that share order (by index of the first), and the lane's own number.
pub(super) type LaneKey = (usize, u64);

/// An item that waits for its lane.
#[derive(Debug)]
pub(super) struct Waiting {
    pub request: usize,
    pub group: u64,
    pub item: Item,
    pub envelope: Envelope,
}

#[derive(Debug, Default)]
struct Lane {
    /// Mostly one.
    holders: SmallVec<[u64; 2]>,
    waiting: VecDeque<Waiting>,
    free_ms: Millis,
}

/// The lanes of one pipeline that are in use.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: HashMap<LaneKey, Lane>,
    /// Lanes without holder, by when they open.
    timers: BTreeSet<(Millis, LaneKey)>,
    /// Items that wait, in all lanes.
    waiting: usize,
}

impl Lanes {
    /// May an item of the lane go into the batch `open` (one it could join, if there is one) or into a new one?
    pub(super) fn admits(&self, key: LaneKey, now_ms: Millis, open: Option<u64>) -> bool {
        self.lanes
            .get(&key)
            .is_none_or(|lane| lane.waiting.is_empty() && lane.joins(now_ms, open))
    }

    /// The batch `id` has an item of the lane.
    pub(super) fn hold(&mut self, key: LaneKey, id: u64) {
        let lane = self.lanes.entry(key).or_default();
        if lane.holders.is_empty() {
            self.timers.remove(&(lane.free_ms, key));
        }
        if lane.holders.last() != Some(&id) {
            lane.holders.push(id);
        }
    }

    /// An item waits.
    pub(super) fn wait(&mut self, key: LaneKey, waiting: Waiting) {
        self.waiting += 1;
        self.lanes
            .entry(key)
            .or_default()
            .waiting
            .push_back(waiting);
    }

    /// The next item of a lane, if it may go into the batch `open` says for it.
    pub(super) fn next(
        &mut self,
        key: LaneKey,
        now_ms: Millis,
        open: impl FnOnce(&Waiting) -> Option<u64>,
    ) -> Option<Waiting> {
        let lane = self.lanes.get_mut(&key)?;
        let open = open(lane.waiting.front()?);
        if lane.joins(now_ms, open) {
            self.waiting -= 1;
            lane.waiting.pop_front()
        } else {
            None
        }
    }

    /// May the batch `id` be sent as far as this lane goes: `Ok`, or from when on (none: not before another batch).
    pub(super) fn opens(&self, key: LaneKey, id: u64) -> Option<Millis> {
        match self.lanes.get(&key) {
            None => Some(Millis::MIN),
            Some(lane) => (lane.holders.first() == Some(&id)).then_some(lane.free_ms),
        }
    }

    /// An answer came for a batch with an item of the lane: closed until then.
    pub(super) fn answered(&mut self, key: LaneKey, free_ms: Millis) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            if lane.holders.is_empty() {
                self.timers.remove(&(lane.free_ms, key));
                self.timers.insert((free_ms, key));
            }
            lane.free_ms = free_ms;
        }
    }

    /// The batch `id` has no item of the lane any more.
    pub(super) fn release(&mut self, key: LaneKey, id: u64) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            let before = lane.holders.len();
            lane.holders.retain(|holder| *holder != id);
            if before > 0 && lane.holders.is_empty() {
                self.timers.insert((lane.free_ms, key));
            }
        }
    }

    /// In the lane the batch `new` goes right before the batch `id`.
    pub(super) fn hold_before(&mut self, key: LaneKey, new: u64, id: u64) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            let at = lane.holders.iter().position(|holder| *holder == id);
            if !lane.holders.contains(&new) {
                lane.holders.insert(at.unwrap_or(lane.holders.len()), new);
            }
        }
    }

    /// A lane that has opened and has somebody waiting; those nobody waits for are forgotten.
    pub(super) fn due(&mut self, now_ms: Millis) -> Option<LaneKey> {
        while let Some((free_ms, key)) = self.timers.first().copied() {
            if free_ms > now_ms {
                return None;
            }
            self.timers.pop_first();
            match self.lanes.get(&key) {
                Some(lane) if lane.waiting.is_empty() && lane.holders.is_empty() => {
                    self.lanes.remove(&key);
                }
                Some(_) => return Some(key),
                None => {}
            }
        }
        None
    }

    /// When the next lane opens that somebody waits for.
    pub(super) fn next_due_ms(&self) -> Option<Millis> {
        if self.waiting == 0 {
            return None;
        }
        self.timers
            .iter()
            .find(|(_, key)| {
                self.lanes
                    .get(key)
                    .is_some_and(|lane| !lane.waiting.is_empty())
            })
            .map(|(free_ms, _)| *free_ms)
    }

    /// Takes out all that wait for one of the requests `which`, in order within each lane.
    pub(super) fn take_waiting(&mut self, which: impl Fn(usize) -> bool) -> Vec<Waiting> {
        let mut taken = Vec::new();
        for lane in self.lanes.values_mut() {
            if lane.waiting.iter().any(|waiting| which(waiting.request)) {
                let (out, stay) = std::mem::take(&mut lane.waiting)
                    .into_iter()
                    .partition::<VecDeque<_>, _>(|waiting| which(waiting.request));
                lane.waiting = stay;
                taken.extend(out);
            }
        }
        self.waiting -= taken.len();
        taken
    }

    /// Takes out, of every lane where more than `most` wait, the later ones; each with its place behind those left.
    pub(super) fn take_overflow(&mut self, most: usize) -> Vec<(usize, Waiting)> {
        let mut taken = Vec::new();
        for lane in self.lanes.values_mut() {
            if lane.waiting.len() > most {
                let late = lane.waiting.split_off(most);
                taken.extend(late.into_iter().enumerate());
            }
        }
        self.waiting -= taken.len();
        taken
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }
}

impl Lane {
    fn joins(&self, now_ms: Millis, open: Option<u64>) -> bool {
        match self.holders.last() {
            None => self.free_ms <= now_ms,
            Some(last) => open == Some(*last),
        }
    }
}
