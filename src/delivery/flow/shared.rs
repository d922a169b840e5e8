//! Rates that several requests keep together, whichever integration they are of: a vendor counts by account.
//!
//! A request's own rate and a shared one look the same from outside.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::buckets::{Bucket, Window};
use crate::clock::Millis;
use crate::vendor::replies::Room;

/// When all that is allowed is under way for somebody else, nobody here hears of its answer: look again after this.
const LOOK_AGAIN_MS: Millis = 50;

/// Shared buckets, by what their sharers have in common.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Directory {
    buckets: Arc<Mutex<HashMap<u128, Arc<Mutex<Bucket>>>>>,
}

impl Directory {
    /// The bucket of that key. Of sharers that declare other windows the latest decides.
    fn get(&self, key: u128, windows: &[Window]) -> Arc<Mutex<Bucket>> {
        let mut buckets = self.buckets.lock();
        let bucket = buckets
            .entry(key)
            .or_insert_with(|| Arc::new(Mutex::new(Bucket::new(windows))));
        bucket.lock().redeclare(windows);
        Arc::clone(bucket)
    }
}

/// The rate of one request.
#[derive(Debug)]
pub(in super::super) struct Rate {
    bucket: Arc<Mutex<Bucket>>,
    shared: bool,
    /// Under way here.
    requests: u64,
    items: u64,
    /// The time when last asked.
    seen_ms: Millis,
}

impl Rate {
    /// A rate nobody else uses.
    pub(super) fn own(windows: &[Window]) -> Self {
        Self {
            bucket: Arc::new(Mutex::new(Bucket::new(windows))),
            shared: false,
            requests: 0,
            items: 0,
            seen_ms: 0,
        }
    }

    /// The one of this key.
    pub(super) fn of(directory: &Directory, key: u128, windows: &[Window]) -> Self {
        Self {
            bucket: directory.get(key, windows),
            shared: true,
            ..Self::own(&[])
        }
    }

    /// See [`Bucket::take_over`]. What others have used since is known better.
    pub(super) fn take_over(&mut self, earlier: Bucket, now_ms: Millis) {
        let mut bucket = self.bucket.lock();
        if !self.shared || bucket.is_untouched() {
            bucket.take_over(earlier, now_ms);
        }
    }

    /// As it stands now.
    pub(super) fn snapshot(&self) -> Bucket {
        self.bucket.lock().clone()
    }

    /// See [`Bucket::admits`].
    pub(super) fn admits(&mut self, now_ms: Millis, items: u64) -> bool {
        self.seen_ms = now_ms;
        self.bucket.lock().admits(now_ms, items)
    }

    /// See [`Bucket::sent`]. False, and nothing is counted, when somebody else has used the room up since it was
    /// asked for.
    #[must_use]
    pub(super) fn sent(&mut self, now_ms: Millis, items: u64) -> bool {
        let mut bucket = self.bucket.lock();
        if self.shared && !bucket.admits(now_ms, items) {
            return false;
        }
        bucket.sent(items);
        drop(bucket);
        self.requests += 1;
        self.items += items;
        true
    }

    /// See [`Bucket::unsent`].
    pub(super) fn unsent(&mut self, items: u64) {
        self.came_back(items);
        self.bucket.lock().unsent(items);
    }

    /// See [`Bucket::answered`].
    pub(super) fn answered(&mut self, now_ms: Millis, items: u64) {
        self.came_back(items);
        self.bucket.lock().answered(now_ms, items);
    }

    fn came_back(&mut self, items: u64) {
        self.requests = self.requests.saturating_sub(1);
        self.items = self.items.saturating_sub(items);
    }

    /// See [`Bucket::adopt`].
    pub(super) fn adopt(&mut self, now_ms: Millis, room: Room) {
        self.bucket.lock().adopt(now_ms, room);
    }

    /// See [`Bucket::too_many`].
    pub(super) fn too_many(&mut self, now_ms: Millis) {
        self.bucket.lock().too_many(now_ms);
    }

    /// See [`Bucket::opens_ms`].
    pub(super) fn opens_ms(&mut self, now_ms: Millis, items: u64) -> Option<Millis> {
        let opens_ms = self.bucket.lock().opens_ms(now_ms, items);
        match opens_ms {
            None if self.shared => Some(now_ms + LOOK_AGAIN_MS),
            opens_ms => opens_ms,
        }
    }
}

impl Drop for Rate {
    /// Whoever goes leaves nothing under way: the others would wait for it for ever.
    fn drop(&mut self) {
        if self.requests > 0 {
            let mut bucket = self.bucket.lock();
            bucket.given_up(self.seen_ms, self.requests, self.items);
        }
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

    #[test]
    fn what_one_uses_the_other_has_not() {
        let directory = Directory::default();
        let [mut one, mut other] = [7, 7].map(|key| Rate::of(&directory, key, &windows(3)));
        let mut stranger = Rate::of(&directory, 8, &windows(3));
        for _ in 0..3 {
            assert!(one.admits(0, 1));
            assert!(one.sent(0, 1));
        }
        assert!(!other.admits(0, 1) && stranger.admits(0, 1));
        assert_eq!(other.opens_ms(0, 1), Some(LOOK_AGAIN_MS), "to look again");
        one.answered(100, 1);
        assert!(!other.admits(1_000, 1));
        assert_eq!(other.opens_ms(1_000, 1), Some(1_100));
        // Gone with two under way, which may have been counted until now.
        one.admits(1_050, 1);
        drop(one);
        assert!(other.admits(1_100, 1));
        assert!(other.sent(1_100, 1) && !other.sent(1_100, 1));
        assert!(!other.admits(1_100, 1) && other.opens_ms(1_100, 1) == Some(2_050));
    }

    #[test]
    fn a_429_of_one_slows_the_other_and_the_latest_declaration_holds() {
        let directory = Directory::default();
        let mut one = Rate::of(&directory, 7, &windows(8));
        one.too_many(0);
        let mut other = Rate::of(&directory, 7, &windows(16));
        let burst = (0..20).filter(|_| other.sent(10, 1)).count();
        assert_eq!(burst, 8, "half of sixteen");
        // A pipeline begun anew does not forget what the others did meanwhile.
        one.take_over(Bucket::new(&windows(16)), 20);
        assert!(!one.admits(20, 1));
    }
}
