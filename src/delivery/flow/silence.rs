//! People of whom the vendor wants to hear nothing for a while, by lane. Pure.
//!
//! The journal keeps it ([`Mark`]), written with the outcome of the event that was refused, so that no restart ends it
//! early; here is what was looked up there and what was learned since.

use hashbrown::HashMap;

use crate::clock::Millis;
use crate::journal::{Mark, Seq};

/// Why nothing of such a person is sent. Counted under this name.
pub(super) const OPTED_OUT: &str = "opted_out";

/// Lanes known at once. More: what the journal has is forgotten, and looked up again.
const KNOWN_MAX: usize = 65_536;

/// The upper half of the marks' keys; the lane is the lower. Other keys are hashes.
const SILENCE: u64 = 0x7369_6c65_6e63_6564;

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Until when; 0: it never asked to be left alone.
    until_ms: Millis,
    /// Settles that hold its mark and are not stored yet.
    unstored: u32,
}

/// Who asked to be left alone, among those looked up.
#[derive(Debug, Default)]
pub(super) struct Silences {
    known: HashMap<u64, Known>,
}

fn key(lane: u64) -> u128 {
    u128::from(SILENCE) << 64 | u128::from(lane)
}

/// The lane of a mark that is one of these.
fn lane(mark: &Mark) -> Option<u64> {
    let (upper, lower) = ((mark.key >> 64) as u64, mark.key & u128::from(u64::MAX));
    (upper == SILENCE).then_some(lower as u64)
}

impl Silences {
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// What the journal has to be asked for before an item of this lane is taken in.
    pub(super) fn unknown(&self, lane: Option<u64>, unknown: &mut Vec<u128>) {
        unknown.extend(lane.filter(|lane| !self.known.contains_key(lane)).map(key));
    }

    /// Takes in what the journal said.
    pub(super) fn learn(&mut self, marks: &[Mark]) {
        for (lane, mark) in marks.iter().filter_map(|mark| Some((lane(mark)?, mark))) {
            let known = self.known.entry(lane).or_default();
            known.until_ms = known.until_ms.max(mark.until_ms);
        }
    }

    /// The journal was asked for this lane, if it knew anything.
    pub(super) fn asked(&mut self, lane: Option<u64>) {
        if let Some(lane) = lane {
            self.known.entry(lane).or_default();
        }
    }

    /// The vendor's answer to this record: nothing more of this lane until then. What to write down goes to `marks`.
    pub(super) fn add(
        &mut self,
        lane: Option<u64>,
        seq: Seq,
        until_ms: Millis,
        now_ms: Millis,
        marks: &mut HashMap<u128, Mark>,
    ) {
        let Some(lane) = lane else {
            return;
        };
        let known = self.known.entry(lane).or_default();
        known.until_ms = known.until_ms.max(until_ms);
        let mark = Mark {
            key: key(lane),
            value: 0,
            at_ms: now_ms,
            seq,
            again: (now_ms, seq),
            until_ms: known.until_ms,
        };
        known.unstored += u32::from(marks.insert(mark.key, mark).is_none());
    }

    /// Why nothing is sent of this lane, if nothing is.
    pub(super) fn reason(&self, lane: Option<u64>, now_ms: Millis) -> Option<&'static str> {
        let known = self.known.get(&lane?)?;
        (known.until_ms > now_ms).then_some(OPTED_OUT)
    }

    /// The marks of a settle are stored.
    pub(super) fn stored(&mut self, marks: &[Mark]) {
        for lane in marks.iter().filter_map(lane) {
            if let Some(known) = self.known.get_mut(&lane) {
                known.unstored = known.unstored.saturating_sub(1);
            }
        }
    }

    /// Frees memory; only while the journal is not being asked.
    pub(super) fn forget(&mut self, now_ms: Millis) {
        if self.known.len() <= KNOWN_MAX {
            return;
        }
        // Items on their way are looked at once more before they go, so those who are silent now stay if they can.
        self.known
            .retain(|_, known| known.unstored > 0 || known.until_ms > now_ms);
        if self.known.len() > KNOWN_MAX {
            self.known.retain(|_, known| known.unstored > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_outlives_memory_and_is_forgotten_only_when_the_journal_has_it() {
        let mut silences = Silences::default();
        let mut stored = HashMap::new();
        silences.add(Some(7), 3, 1_000, 10, &mut stored);
        silences.add(None, 4, 1_000, 10, &mut stored);
        for lane in 100..=100 + KNOWN_MAX as u64 {
            silences.asked(Some(lane));
        }
        silences.forget(2_000);
        assert_eq!(silences.known.len(), 1, "it is not stored yet");
        let marks: Vec<Mark> = stored.into_values().collect();
        silences.stored(&marks);
        let mut unknown = Vec::new();
        silences.unknown(Some(7), &mut unknown);
        assert!(unknown.is_empty());

        let mut later = Silences::default();
        later.unknown(Some(7), &mut unknown);
        later.unknown(None, &mut unknown);
        assert_eq!(unknown, [marks[0].key]);
        later.learn(&marks);
        later.asked(Some(8));
        assert_eq!(later.reason(Some(7), 999), Some(OPTED_OUT));
        assert_eq!(later.reason(Some(7), 1_000), None);
        assert_eq!(later.reason(Some(8), 999), None);
        unknown.clear();
        later.unknown(Some(8), &mut unknown);
        assert!(unknown.is_empty(), "asked for once");
    }
}
