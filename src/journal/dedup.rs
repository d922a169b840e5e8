//! Recognises repeated posts: two generations of a fixed table of 64-bit fingerprints.
//!
//! Derived state: rebuilt at start from the fingerprints stored beside the blocks. A generation ends when
//! it is full or half the window old; the one before is then forgotten. So memory is bounded, and a post
//! is recognised for between half and all of the window, less when more come than fit. The time back to
//! the last one forgotten is the effective window. A false match needs two equal 64-bit keyed hashes
//! among some millions: about 10^-12 per record.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::Seq;
use crate::clock::Millis;

/// Hash of source and message id under the store's key, so that nobody outside can craft two alike.
#[must_use]
pub(super) fn fingerprint(key: &[u8; 16], source: &str, message_id: &str) -> u64 {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write_u64(source.len() as u64);
    hasher.write(source.as_bytes());
    hasher.write(message_id.as_bytes());
    hasher.finish()
}

/// With fewer than one slot in this many filled, pages of the table were never touched.
const SPARSE: usize = 512;

/// One generation: open addressing, linear probing, 0 is "empty".
#[derive(Debug)]
struct Generation {
    slots: Vec<u64>,
    len: usize,
    /// First record in here, and when the first and the last came.
    first: Seq,
    since_ms: Millis,
    last_ms: Millis,
}

impl Generation {
    fn new(slots: usize) -> Self {
        Self {
            // Zeroed memory is not resident until it is touched.
            slots: vec![0; slots],
            len: 0,
            first: 0,
            since_ms: 0,
            last_ms: 0,
        }
    }

    /// Forgets everything. The memory of a table that was in use is used again: it is all there, and a new one beside it
    /// would be that much more for a while.
    fn clear(&mut self) {
        if self.len < self.slots.len() / SPARSE {
            *self = Self::new(self.slots.len());
        } else {
            self.slots.fill(0);
            self.len = 0;
        }
    }

    fn limit(&self) -> usize {
        self.slots.len() / 4 * 3
    }

    /// Where a fingerprint is looked for first.
    fn home(&self, fingerprint: u64) -> usize {
        let mask = self.slots.len() as u64 - 1;
        // It is a keyed hash: its low bits are as good as any.
        usize::try_from(fingerprint & mask).unwrap_or(0)
    }

    /// The slot holding the fingerprint, or the empty one where it would go.
    fn slot(&self, fingerprint: u64) -> (usize, bool) {
        let mask = self.slots.len() - 1;
        let mut at = self.home(fingerprint);
        loop {
            match self.slots[at] {
                0 => return (at, false),
                have if have == fingerprint => return (at, true),
                _ => at = (at + 1) & mask,
            }
        }
    }
}

/// The two generations.
#[derive(Debug)]
pub(super) struct Dedup {
    current: Generation,
    previous: Generation,
    window_ms: Millis,
    /// When the newest of the forgotten came.
    forgotten_ms: Option<Millis>,
    /// Slots filled since [`Self::begin`]; `None` when a rotation came between.
    undo: Option<Vec<usize>>,
}

impl Dedup {
    /// Two tables within `bytes_max`, remembering for at most `window_ms`.
    #[must_use]
    pub(super) fn new(bytes_max: usize, window_ms: Millis) -> Self {
        let slots = (bytes_max / 16).max(1024);
        let slots = if slots.is_power_of_two() {
            slots
        } else {
            slots.next_power_of_two() / 2
        };
        Self {
            current: Generation::new(slots),
            previous: Generation::new(slots),
            window_ms,
            forgotten_ms: None,
            undo: Some(Vec::new()),
        }
    }

    /// Starts a commit at `now_ms`: forgets what is too old.
    pub(super) fn begin(&mut self, now_ms: Millis) {
        self.undo = Some(Vec::new());
        if self.current.len > 0 && now_ms - self.current.since_ms >= self.window_ms / 2 {
            self.rotate();
        }
        if self.previous.len > 0 && now_ms - self.previous.since_ms >= self.window_ms {
            self.forget_previous();
        }
        self.undo = Some(Vec::new());
    }

    /// Reads ahead where these will be looked for. The tables are far larger than any cache: reads that do not depend on
    /// each other are fetched from memory many at a time, those of [`Self::insert`] one after the other.
    pub(super) fn approach(&self, fingerprints: impl Iterator<Item = u64>) {
        let mut read = 0;
        for fingerprint in fingerprints {
            read |= self.current.slots[self.current.home(fingerprint)];
            if self.previous.len > 0 {
                read |= self.previous.slots[self.previous.home(fingerprint)];
            }
        }
        std::hint::black_box(read);
    }

    /// Remembers the fingerprint of record `seq`. False if it was known.
    pub(super) fn insert(&mut self, fingerprint: u64, seq: Seq, now_ms: Millis) -> bool {
        let fingerprint = fingerprint.max(1);
        if self.previous.len > 0 && self.previous.slot(fingerprint).1 {
            return false;
        }
        let (mut at, known) = self.current.slot(fingerprint);
        if known {
            return false;
        }
        if self.current.len >= self.current.limit() {
            self.rotate();
            at = self.current.slot(fingerprint).0;
        }
        let current = &mut self.current;
        if current.len == 0 {
            current.first = seq;
            current.since_ms = now_ms;
        }
        current.slots[at] = fingerprint;
        current.len += 1;
        current.last_ms = now_ms;
        if let Some(undo) = &mut self.undo {
            undo.push(at);
        }
        true
    }

    /// Takes back everything since [`Self::begin`]. False if that is not possible any more (rebuild then).
    pub(super) fn undo(&mut self) -> bool {
        let Some(slots) = self.undo.take() else {
            return false;
        };
        // Newest first: nothing was placed behind it, so emptying its slot breaks no probe.
        for at in slots.into_iter().rev() {
            self.current.slots[at] = 0;
            self.current.len -= 1;
        }
        self.undo = Some(Vec::new());
        true
    }

    /// First record still remembered; stored fingerprints below may go.
    #[must_use]
    pub(super) fn first(&self) -> Option<Seq> {
        let generation = if self.previous.len > 0 {
            &self.previous
        } else {
            &self.current
        };
        (generation.len > 0).then_some(generation.first)
    }

    /// How far back repeats are surely recognised.
    #[must_use]
    pub(super) fn window_ms(&self, now_ms: Millis) -> Millis {
        match self.forgotten_ms {
            Some(at) => (now_ms - at).clamp(0, self.window_ms),
            None => self.window_ms,
        }
    }

    /// Notes that something older than `at_ms` was forgotten before this process began.
    pub(super) fn forgot_before(&mut self, at_ms: Millis) {
        self.forgotten_ms = Some(at_ms);
    }

    fn rotate(&mut self) {
        self.undo = None;
        std::mem::swap(&mut self.current, &mut self.previous);
        self.forget_current();
    }

    fn forget_current(&mut self) {
        if self.current.len > 0 {
            self.forgotten_ms = Some(self.current.last_ms);
            self.current.clear();
        }
    }

    fn forget_previous(&mut self) {
        self.forgotten_ms = Some(self.previous.last_ms);
        self.previous.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;

    #[test]
    fn knows_repeats_until_the_window_is_over() {
        let mut dedup = Dedup::new(1 << 16, 24 * HOUR);
        dedup.begin(0);
        assert!(dedup.insert(7, 0, 0));
        assert!(!dedup.insert(7, 1, 0));
        dedup.begin(13 * HOUR);
        assert!(!dedup.insert(7, 1, 13 * HOUR), "13 hours later");
        assert_eq!(dedup.window_ms(13 * HOUR), 24 * HOUR);
        dedup.begin(24 * HOUR);
        assert!(dedup.insert(7, 1, 24 * HOUR), "24 hours later");
        assert_eq!(dedup.first(), Some(1));
    }

    #[test]
    fn memory_is_bounded_and_the_window_says_so() {
        let mut dedup = Dedup::new(1 << 15, 24 * HOUR);
        for n in 1..=10_000u64 {
            dedup.begin(n.cast_signed());
            assert!(dedup.insert(n, n, n.cast_signed()));
        }
        // 2 × 2,048 slots, three quarters used: the last 1,536 at least are remembered.
        let window = dedup.window_ms(10_000);
        assert!((1_536..=3_072).contains(&window), "{window}");
        for n in (10_000 - window.cast_unsigned() + 1)..=10_000 {
            assert!(!dedup.insert(n, n, 10_000));
        }
        assert!(dedup.insert(1, 10_001, 10_000));
    }

    #[test]
    fn undo_takes_back_one_commit_only() {
        let mut dedup = Dedup::new(1 << 15, 24 * HOUR);
        dedup.begin(0);
        for n in 1..=1000u64 {
            // Same slot for many: long probe chains.
            dedup.insert(n << 40 | 5, n, 0);
        }
        dedup.begin(1);
        for n in 2000..=2300u64 {
            dedup.insert(n << 40 | 5, n, 1);
        }
        assert!(dedup.undo());
        for n in 1..=1000u64 {
            assert!(!dedup.insert(n << 40 | 5, n, 2));
        }
        assert!(dedup.insert(2000 << 40 | 5, 2000, 2));
    }

    #[test]
    fn fingerprints_part_source_and_id() {
        let key = [3; 16];
        assert_ne!(fingerprint(&key, "ab", "c"), fingerprint(&key, "a", "bc"));
        assert_ne!(fingerprint(&key, "a", "b"), fingerprint(&[4; 16], "a", "b"));
    }
}
