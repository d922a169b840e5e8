//! The events in memory that have no outcome yet: each in a slot, with what its parts came to so far. Pure.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::Origin;
use crate::blueprint::RequestPlan;
use crate::clock::Millis;
use crate::journal::Seq;

/// How the parts of an event ended so far; the worst word wins, then the best.
#[derive(Debug)]
pub(super) enum Fate {
    Skipped(String),
    Delivered,
    Dead {
        reason: String,
        detail: String,
        status: Option<u16>,
        answer: String,
    },
}

/// One part of an event ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// For good.
    As(Fate),
    /// Not now: the event is set apart when its other parts have ended.
    Apart {
        /// Looked at again then.
        due_ms: Millis,
        /// Why it waits: a label.
        reason: String,
    },
}

/// An event in memory.
#[derive(Debug)]
pub(super) struct Slot {
    pub seq: Seq,
    /// When it was accepted.
    pub at_ms: Millis,
    /// Its own time.
    pub ts_ms: Millis,
    pub record: Bytes,
    pub origin: Origin,
    /// Parts under way.
    pub open: usize,
    pub attempts: u32,
    /// Memory it takes.
    pub bytes: usize,
    pub fate: Option<Fate>,
    /// Requests that need not be made again, by bit.
    pub delivered: u64,
    /// Requests with a part that did not get through, by bit.
    pub undone: u64,
    /// Requests with several parts, by bit: what has ended of them is not known before all have.
    pub several: u64,
    /// Whose bits they are, see [`layout`].
    pub layout: u64,
    /// When to look at it again, and why it waits.
    pub apart: Option<(Millis, String)>,
}

impl Slot {
    /// Writes down how a part for a request ended.
    pub(super) fn end_part(&mut self, request: usize, ended: Ended) {
        match ended {
            Ended::As(fate) => {
                match fate {
                    Fate::Delivered => self.delivered |= bit(request),
                    Fate::Skipped(_) | Fate::Dead { .. } => self.undone |= bit(request),
                }
                merge(&mut self.fate, fate);
            }
            Ended::Apart { due_ms, reason } => {
                self.undone |= bit(request);
                match &mut self.apart {
                    Some((due, _)) if *due <= due_ms => {}
                    apart => *apart = Some((due_ms, reason)),
                }
            }
        }
    }

    /// Requests that need not be made again when the event comes back, by bit.
    fn done(&self) -> u64 {
        self.delivered & !self.undone
    }

    /// … as the journal keeps them.
    pub(super) fn parts_done(&self) -> u64 {
        self.stamped(self.done())
    }

    fn stamped(&self, done: u64) -> u64 {
        if done == 0 { 0 } else { done | self.layout }
    }
}

/// Bits of requests; those above say which requests they are meant of.
const BITS: u32 = 48;
const OF_REQUESTS: u64 = (1 << BITS) - 1;

/// A request's bit in `parts_done`; requests beyond the 48th have none, and are made again.
pub(in super::super) fn bit(request: usize) -> u64 {
    let bit = u32::try_from(request)
        .ok()
        .and_then(|request| 1_u64.checked_shl(request));
    bit.unwrap_or(0) & OF_REQUESTS
}

/// Stands above the bits: of which requests, in which order, they are. Another revision of a blueprint may have others;
/// better a request is made twice than one of them never.
pub(super) fn layout<'a>(names: impl Iterator<Item = &'a str>) -> u64 {
    let mut hash = Sha256::new();
    for name in names {
        hash.update(name.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    let two = digest
        .iter()
        .take(2)
        .fold(0, |two, byte| (two << 8) | u64::from(*byte));
    two.max(1) << BITS
}

/// The bits the journal kept, if they are of these requests. (Those kept by earlier releases do not say.)
pub(super) fn bits_of(kept: u64, layout: u64) -> u64 {
    match kept & !OF_REQUESTS {
        of if of == 0 || of == layout => kept & OF_REQUESTS,
        _ => 0,
    }
}

/// The reason of events set apart because a request is closed.
pub(in super::super) fn paused_reason(request: &str) -> String {
    format!("paused_{request}")
}

/// Every reason under which events of a plan may wait for a request to work again.
pub(in super::super) fn paused_reasons(requests: &[RequestPlan]) -> Vec<String> {
    requests
        .iter()
        .map(|request| paused_reason(&request.name))
        .collect()
}

/// A fate of our own making.
pub(super) fn dead(reason: &str, detail: String) -> Fate {
    Fate::Dead {
        reason: reason.to_owned(),
        detail,
        status: None,
        answer: String::new(),
    }
}

/// One outcome per event: dead if any part is, else delivered if any part is, else skipped. A request whose `when` says
/// no tells less of why than any other reason.
pub(super) fn merge(fate: &mut Option<Fate>, other: Fate) {
    fn rank(fate: &Fate) -> u8 {
        match fate {
            Fate::Skipped(reason) if reason == "filtered" => 0,
            Fate::Skipped(_) => 1,
            Fate::Delivered => 2,
            Fate::Dead { .. } => 3,
        }
    }
    if fate.as_ref().is_none_or(|known| rank(&other) > rank(known)) {
        *fate = Some(other);
    }
}

/// How an event stands when one of its parts has ended.
#[derive(Debug)]
pub(super) enum Standing {
    /// Others have not. Its record and the requests that need not be made again, as kept, where that is news.
    Open(Option<(Seq, u64)>),
    /// That was its last.
    Closed(Box<Slot>),
}

/// The slots, and how much is in them.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    pub(super) fresh: usize,
    pub(super) parked: usize,
    pub(super) bytes: usize,
}

impl Slots {
    /// Takes an event in; returns its place.
    pub(super) fn insert(&mut self, slot: Slot) -> usize {
        self.bytes += slot.bytes;
        *self.counter(&slot.origin) += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if let Some(place) = self.slots.get_mut(index) {
            *place = Some(slot);
        }
        index
    }

    pub(super) fn get(&self, index: usize) -> Option<&Slot> {
        self.slots.get(index)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.get_mut(index)?.as_mut()
    }

    /// Notes how a part ended.
    pub(super) fn part_ended(&mut self, index: usize, request: usize, ended: Ended) -> Standing {
        let Some(place) = self.slots.get_mut(index) else {
            return Standing::Open(None);
        };
        let Some(slot) = place.as_mut() else {
            return Standing::Open(None);
        };
        let before = slot.done();
        slot.end_part(request, ended);
        slot.open = slot.open.saturating_sub(1);
        if slot.open > 0 {
            let done = slot.done() & !slot.several;
            let news = done & !before != 0;
            return Standing::Open(news.then(|| (slot.seq, slot.stamped(done))));
        }
        let Some(slot) = place.take() else {
            return Standing::Open(None);
        };
        self.free.push(index);
        self.bytes = self.bytes.saturating_sub(slot.bytes);
        let counter = self.counter(&slot.origin);
        *counter = counter.saturating_sub(1);
        Standing::Closed(Box::new(slot))
    }

    fn counter(&mut self, origin: &Origin) -> &mut usize {
        match origin {
            Origin::Fresh => &mut self.fresh,
            Origin::Parked { .. } => &mut self.parked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fate, bit, bits_of, layout, merge};

    #[test]
    fn bits_of_other_requests_are_not_believed() {
        let (old, new) = (
            layout(["a", "b"].into_iter()),
            layout(["c", "a", "b"].into_iter()),
        );
        let kept = old | bit(1);
        assert_eq!((bits_of(kept, old), bits_of(kept, new)), (bit(1), 0));
        assert_eq!(bits_of(bit(1), new), bit(1), "of an earlier release");
        assert_eq!((bit(47) & old, bit(48)), (0, 0));
    }

    #[test]
    fn a_skip_with_a_reason_is_not_hidden_by_a_request_that_was_not_for_the_event() {
        let skipped = |reason: &str| Fate::Skipped(reason.to_owned());
        for parts in [["filtered", "unchanged"], ["unchanged", "filtered"]] {
            let mut fate = None;
            for part in parts {
                merge(&mut fate, skipped(part));
            }
            assert!(matches!(&fate, Some(Fate::Skipped(reason)) if reason == "unchanged"));
            merge(&mut fate, Fate::Delivered);
            merge(&mut fate, skipped("unchanged"));
            assert!(matches!(fate, Some(Fate::Delivered)));
        }
    }
}
