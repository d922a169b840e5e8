//! Rates that several requests keep together, whichever integration they are of: a vendor counts by account.
//!
//! Every request has a bucket of its own, which its pipeline hands on. One that shares its rate has a place in a common
//! one beside it, and may be sent when both have room.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Line;
use super::buckets::{Bucket, Window};
use crate::clock::Millis;
use crate::vendor::replies::Room;

/// When all that is allowed is under way for somebody else, nobody here hears of its answer: look again after this.
const LOOK_AGAIN_MS: Millis = 50;

/// Common buckets, by what their sharers have in common.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Directory {
    places: Arc<Mutex<HashMap<u128, Place>>>,
}

#[derive(Debug)]
struct Place {
    bucket: Arc<Mutex<Bucket>>,
    /// Who has told what it had sent before.
    told: HashSet<String>,
}

impl Directory {
    /// A place in the bucket of that key. `who` comes with what it knows itself: what was sent before it came here
    /// counts, once. Of sharers that declare other windows the latest decides.
    pub(super) fn join(&self, key: u128, windows: &[Window], who: String, own: &Bucket) -> Shared {
        let mut places = self.places.lock();
        let place = places.entry(key).or_insert_with(|| Place {
            bucket: Arc::new(Mutex::new(Bucket::new(windows))),
            told: HashSet::new(),
        });
        let mut bucket = place.bucket.lock();
        bucket.redeclare(windows);
        if place.told.insert(who) {
            bucket.absorb(own);
        }
        drop(bucket);
        Shared {
            bucket: Arc::clone(&place.bucket),
            requests: 0,
            items: 0,
            seen_ms: 0,
        }
    }
}

/// A place in a common bucket.
#[derive(Debug)]
pub(super) struct Shared {
    bucket: Arc<Mutex<Bucket>>,
    /// Under way here.
    requests: u64,
    items: u64,
    /// The time when last asked.
    seen_ms: Millis,
}

impl Shared {
    fn admits(&mut self, now_ms: Millis, items: u64) -> bool {
        self.seen_ms = now_ms;
        self.bucket.lock().admits(now_ms, items)
    }

    /// False, and nothing is counted, when somebody else has used the room up since it was asked for.
    fn sent(&mut self, now_ms: Millis, items: u64) -> bool {
        let mut bucket = self.bucket.lock();
        if !bucket.admits(now_ms, items) {
            return false;
        }
        bucket.sent(items);
        drop(bucket);
        self.requests += 1;
        self.items += items;
        true
    }

    fn came_back(&mut self, items: u64) {
        self.requests = self.requests.saturating_sub(1);
        self.items = self.items.saturating_sub(items);
    }

    fn opens_ms(&self, now_ms: Millis, items: u64) -> Millis {
        let opens_ms = self.bucket.lock().opens_ms(now_ms, items);
        opens_ms.unwrap_or(now_ms + LOOK_AGAIN_MS)
    }
}

impl Drop for Shared {
    /// Whoever goes leaves nothing under way: the others would wait for it for ever.
    fn drop(&mut self) {
        if self.requests > 0 {
            let mut bucket = self.bucket.lock();
            bucket.given_up(self.seen_ms, self.requests, self.items);
        }
    }
}

/// A line's rate: its own, and the one it shares.
impl Line {
    pub(super) fn admits(&mut self, now_ms: Millis, items: u64) -> bool {
        self.bucket.admits(now_ms, items) && self.shares_room(now_ms, items)
    }

    /// Would it keep within the windows, whatever is still to be written down?
    pub(super) fn has_room(&mut self, now_ms: Millis, items: u64) -> bool {
        self.bucket.has_room(now_ms, items) && self.shares_room(now_ms, items)
    }

    /// Has what is shared room for it?
    pub(super) fn shares_room(&mut self, now_ms: Millis, items: u64) -> bool {
        let shared = self.shared.as_mut();
        shared.is_none_or(|shared| shared.admits(now_ms, items))
    }

    /// A request goes out; false when another integration was faster, and it does not.
    #[must_use]
    pub(super) fn sent(&mut self, now_ms: Millis, items: u64) -> bool {
        let shared = self.shared.as_mut();
        let goes = shared.is_none_or(|shared| shared.sent(now_ms, items));
        if goes {
            self.bucket.sent(items);
        }
        goes
    }

    pub(super) fn unsent(&mut self, items: u64) {
        self.bucket.unsent(items);
        if let Some(shared) = &mut self.shared {
            shared.came_back(items);
            shared.bucket.lock().unsent(items);
        }
    }

    pub(super) fn answered(&mut self, now_ms: Millis, items: u64) {
        self.bucket.answered(now_ms, items);
        if let Some(shared) = &mut self.shared {
            shared.came_back(items);
            shared.bucket.lock().answered(now_ms, items);
        }
    }

    pub(super) fn adopt(&mut self, now_ms: Millis, room: Room) {
        self.bucket.adopt(now_ms, room);
        if let Some(shared) = &self.shared {
            shared.bucket.lock().adopt(now_ms, room);
        }
    }

    pub(super) fn too_many(&mut self, now_ms: Millis) {
        self.bucket.too_many(now_ms);
        if let Some(shared) = &self.shared {
            shared.bucket.lock().too_many(now_ms);
        }
    }

    pub(super) fn rate_opens_ms(&mut self, now_ms: Millis, items: u64) -> Option<Millis> {
        let opens_ms = self.bucket.opens_ms(now_ms, items)?;
        let shared = self.shared.as_ref();
        Some(shared.map_or(opens_ms, |shared| {
            shared.opens_ms(now_ms, items).max(opens_ms)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(n: u64) -> Vec<Window> {
        vec![Window {
            per_ms: 1_000,
            requests: Some(n),
            items: None,
        }]
    }

    fn join(directory: &Directory, key: u128, n: u64, who: &str) -> Shared {
        let own = Bucket::new(&windows(n));
        directory.join(key, &windows(n), who.to_owned(), &own)
    }

    #[test]
    fn what_one_uses_the_other_has_not() {
        let directory = Directory::default();
        let mut one = join(&directory, 7, 3, "one");
        let mut other = join(&directory, 7, 3, "other");
        let mut stranger = join(&directory, 8, 3, "other");
        for _ in 0..3 {
            assert!(one.admits(0, 1) && one.sent(0, 1));
        }
        assert!(!other.admits(0, 1) && stranger.admits(0, 1));
        assert_eq!(other.opens_ms(0, 1), LOOK_AGAIN_MS, "to look again");
        one.came_back(1);
        one.bucket.lock().answered(100, 1);
        assert!(!other.admits(1_000, 1));
        assert_eq!(other.opens_ms(1_000, 1), 1_100);
        // Gone with two under way, which may have been counted until now.
        one.admits(1_050, 1);
        drop(one);
        assert!(other.sent(1_100, 1) && !other.sent(1_100, 1));
        assert_eq!(other.opens_ms(1_100, 1), 2_050);
    }

    #[test]
    fn the_latest_declaration_holds_and_what_was_sent_before_counts_once() {
        let directory = Directory::default();
        let mut own = Bucket::new(&windows(4));
        (0..3).for_each(|_| own.sent(1));
        (0..3).for_each(|_| own.answered(0, 1));
        let mut shared = Vec::new();
        for _begun in 0..2 {
            shared.push(directory.join(7, &windows(4), "one".to_owned(), &own));
        }
        let mut other = join(&directory, 7, 8, "other");
        let burst = (0..20).filter(|_| other.sent(10, 1)).count();
        assert_eq!(burst, 5, "three of eight were used");
        shared.clear();
        assert!(!other.admits(10, 1));
    }
}
