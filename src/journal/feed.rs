//! A feed's cursor and tallies: how far an integration has come, and how it went. Pure.
//!
//! `pos` is the first record not settled; runs settled out of order stand in `above`. The numbers add up
//! at every moment: `(pos − start) + |above| = Σ tallies + parked`.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use bytes::Bytes;

use super::{Feed, Ledger, Outcome, Seq, Settle};

/// What is stored of one feed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeedState {
    /// The integration's id.
    pub id: String,
    /// First record it is accountable for.
    pub start: Seq,
    /// Everything below is settled.
    pub pos: Seq,
    /// Settled runs above `pos`: in order, apart from each other.
    pub above: Vec<Range<Seq>>,
    /// The journal's count of duplicates when the feed began.
    pub duplicates_at_start: u64,
    /// How deliveries ended.
    pub tallies: BTreeMap<(Outcome, String), u64>,
    /// Records parked now.
    pub parked: u64,
    /// Parts that have ended of records not settled: in order of the records.
    pub parts: Vec<(Seq, u64)>,
    /// What the feed's reader keeps for itself.
    pub note: Bytes,
}

impl FeedState {
    /// Checks the numbers and moves the cursor. On an error nothing has changed.
    ///
    /// # Errors
    /// A sentence saying what does not add up.
    pub fn settle(&mut self, settle: &Settle, end: Seq) -> Result<(), String> {
        check_numbers(settle)?;
        let mut above = self.above.clone();
        let mut done = settle.done.clone();
        done.sort_unstable_by_key(|run| run.start);
        for run in &done {
            if run.is_empty() || run.end > end {
                return Err(format!(
                    "records {}..{} do not exist (the journal ends at {end})",
                    run.start, run.end
                ));
            }
            if run.start < self.pos {
                return Err(format!(
                    "record {} was settled before (the cursor is at {})",
                    run.start, self.pos
                ));
            }
            insert(&mut above, run.clone())?;
        }
        self.above = above;
        if let Some(run) = self.above.first()
            && run.start == self.pos
        {
            self.pos = run.end;
            self.above.remove(0);
        }
        for tally in &settle.tallies {
            if tally.n > 0 {
                *self
                    .tallies
                    .entry((tally.outcome, tally.reason.clone()))
                    .or_default() += tally.n;
            }
        }
        self.parked = self.parked + settle.park.len() as u64 - settle.unpark.len() as u64;
        self.note_parts(&settle.parts, end);
        if let Some(note) = &settle.note {
            self.note = note.clone();
        }
        Ok(())
    }

    /// Whether a record is neither settled nor parked.
    #[must_use]
    pub fn is_open(&self, seq: Seq) -> bool {
        let at = self.above.partition_point(|run| run.end <= seq);
        seq >= self.pos && !self.above.get(at).is_some_and(|run| run.contains(&seq))
    }

    /// Takes in what has ended of open records, and forgets those that are not open any more.
    fn note_parts(&mut self, parts: &[(Seq, u64)], end: Seq) {
        let mut all = std::mem::take(&mut self.parts);
        all.extend(parts.iter().filter(|(seq, _)| *seq < end));
        all.sort_by_key(|(seq, _)| *seq);
        all.dedup_by(|next, known| {
            let same = next.0 == known.0;
            if same {
                known.1 = next.1;
            }
            same
        });
        all.retain(|(seq, _)| self.is_open(*seq));
        self.parts = all;
    }

    /// Records settled or parked so far.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.pos - self.start
            + self
                .above
                .iter()
                .map(|run| run.end - run.start)
                .sum::<u64>()
    }

    /// Whether cursor and tallies agree.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.passed() == self.tallies.values().sum::<u64>() + self.parked
    }

    /// The feed's books, `end` and `duplicates` being the journal's.
    #[must_use]
    pub fn ledger(&self, end: Seq, duplicates: u64) -> Ledger {
        let deduplicated = duplicates.saturating_sub(self.duplicates_at_start);
        let of = |wanted: Outcome| {
            self.tallies
                .iter()
                .filter(move |((outcome, _), n)| *outcome == wanted && **n > 0)
                .map(|((_, reason), n)| (reason.clone(), *n))
        };
        Ledger {
            feed: self.id.clone(),
            accepted: end.saturating_sub(self.start) + deduplicated,
            delivered: of(Outcome::Delivered).map(|(_, n)| n).sum(),
            skipped: of(Outcome::Skipped).collect(),
            deduplicated,
            dead: of(Outcome::Dead).collect(),
            pending: end.saturating_sub(self.start + self.passed()) + self.parked,
        }
    }

    /// As callers see it.
    #[must_use]
    pub fn public(&self) -> Feed {
        Feed {
            id: self.id.clone(),
            start: self.start,
            pos: self.pos,
            settled_above: self.above.clone(),
            parked: self.parked,
            parts: self.parts.clone(),
            note: self.note.clone(),
        }
    }
}

fn check_numbers(settle: &Settle) -> Result<(), String> {
    let done: u64 = settle
        .done
        .iter()
        .map(|run| run.end.saturating_sub(run.start))
        .sum();
    let tallied: u64 = settle.tallies.iter().map(|tally| tally.n).sum();
    let (unpark, park) = (settle.unpark.len() as u64, settle.park.len() as u64);
    if done + unpark != tallied + park {
        return Err(format!(
            "{done} done + {unpark} unparked is not {tallied} tallied + {park} parked"
        ));
    }
    let unparked: HashSet<Seq> = settle.unpark.iter().copied().collect();
    if unparked.len() != settle.unpark.len() {
        return Err("a record is unparked twice".to_owned());
    }
    let mut parked = HashSet::with_capacity(settle.park.len());
    for one in &settle.park {
        let known =
            unparked.contains(&one.seq) || settle.done.iter().any(|run| run.contains(&one.seq));
        if !known || !parked.insert(one.seq) {
            return Err(format!(
                "record {} is parked but is neither done nor unparked here, or parked twice",
                one.seq
            ));
        }
    }
    let mut dead: BTreeMap<&str, u64> = BTreeMap::new();
    for letter in &settle.dead {
        let known = unparked.contains(&letter.seq)
            || settle.done.iter().any(|run| run.contains(&letter.seq));
        if !known || !parked.insert(letter.seq) {
            return Err(format!(
                "record {} is given up but is neither done nor unparked here, or also parked, or given up twice",
                letter.seq
            ));
        }
        *dead.entry(&letter.reason).or_default() += 1;
    }
    for (reason, letters) in dead {
        let counted: u64 = settle
            .tallies
            .iter()
            .filter(|tally| tally.outcome == Outcome::Dead && tally.reason == reason)
            .map(|tally| tally.n)
            .sum();
        if letters > counted {
            return Err(format!(
                "{letters} dead letters for `{reason}`, but {counted} tallied"
            ));
        }
    }
    Ok(())
}

/// Adds a run to ordered, separate runs, joining neighbours.
fn insert(runs: &mut Vec<Range<Seq>>, run: Range<Seq>) -> Result<(), String> {
    let at = runs.partition_point(|have| have.start < run.start);
    let overlaps = (at > 0 && runs[at - 1].end > run.start)
        || runs.get(at).is_some_and(|next| next.start < run.end);
    if overlaps {
        return Err(format!(
            "some of records {}..{} were settled before",
            run.start, run.end
        ));
    }
    let joins_left = at > 0 && runs[at - 1].end == run.start;
    let joins_right = runs.get(at).is_some_and(|next| next.start == run.end);
    match (joins_left, joins_right) {
        (true, true) => {
            runs[at - 1].end = runs[at].end;
            runs.remove(at);
        }
        (true, false) => runs[at - 1].end = run.end,
        (false, true) => runs[at].start = run.start,
        (false, false) => runs.insert(at, run),
    }
    Ok(())
}

/// Runs as stored: LEB128 of gap and length alternately, from `pos` on. Persisted: must be kept stable.
#[must_use]
pub fn encode_runs(pos: Seq, runs: &[Range<Seq>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = pos;
    for run in runs {
        put(&mut out, run.start - at);
        put(&mut out, run.end - run.start);
        at = run.end;
    }
    out
}

/// Reads what [`encode_runs`] wrote; `None` if it is no such thing.
#[must_use]
pub fn decode_runs(pos: Seq, mut bytes: &[u8]) -> Option<Vec<Range<Seq>>> {
    let mut runs = Vec::new();
    let mut at = pos;
    while !bytes.is_empty() {
        let start = at.checked_add(take(&mut bytes)?)?;
        at = start.checked_add(take(&mut bytes)?)?;
        runs.push(start..at);
    }
    Some(runs)
}

/// Parts as stored: LEB128 of the gap to the record before, and of what differs from its bits, alternately. Persisted:
/// must be kept stable.
#[must_use]
pub fn encode_parts(parts: &[(Seq, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut before = (0, 0);
    for (seq, bits) in parts {
        put(&mut out, seq - before.0);
        put(&mut out, bits ^ before.1);
        before = (*seq, *bits);
    }
    out
}

/// Reads what [`encode_parts`] wrote; `None` if it is no such thing.
#[must_use]
pub fn decode_parts(mut bytes: &[u8]) -> Option<Vec<(Seq, u64)>> {
    let mut parts = Vec::new();
    let (mut at, mut bits): (Seq, u64) = (0, 0);
    while !bytes.is_empty() {
        at = at.checked_add(take(&mut bytes)?)?;
        bits ^= take(&mut bytes)?;
        parts.push((at, bits));
    }
    Some(parts)
}

fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "lists of runs, often of one"
)]
mod tests {
    use super::*;
    use crate::journal::Tally;

    fn delivered(done: Vec<Range<Seq>>) -> Settle {
        let n = done.iter().map(|run| run.end - run.start).sum();
        Settle {
            feed: "f".into(),
            done,
            tallies: vec![Tally {
                outcome: Outcome::Delivered,
                reason: String::new(),
                n,
            }],
            ..Settle::default()
        }
    }

    fn feed(pos: Seq) -> FeedState {
        FeedState {
            start: pos,
            pos,
            ..FeedState::default()
        }
    }

    #[test]
    fn out_of_order_runs_join_and_move_the_cursor() {
        let mut state = feed(10);
        state.settle(&delivered(vec![14..16, 12..13]), 20).unwrap();
        assert_eq!((state.pos, state.above.clone()), (10, vec![12..13, 14..16]));
        state.settle(&delivered(vec![13..14]), 20).unwrap();
        assert_eq!(state.above, vec![12..16]);
        state.settle(&delivered(vec![10..12]), 20).unwrap();
        assert_eq!((state.pos, state.above.len()), (16, 0));
        let ledger = state.ledger(20, 0);
        assert_eq!(
            (ledger.accepted, ledger.delivered, ledger.pending),
            (10, 6, 4)
        );
    }

    #[test]
    fn refuses_what_does_not_add_up() {
        let mut state = feed(10);
        state.settle(&delivered(vec![12..14]), 20).unwrap();
        let before = state.clone();
        let mut short = delivered(vec![10..12]);
        short.tallies[0].n = 1;
        for (settle, says) in [
            (short, "2 done"),
            (delivered(vec![13..15]), "settled before"),
            (delivered(vec![11..13]), "settled before"),
            (delivered(vec![9..10]), "settled before"),
            (delivered(vec![15..16, 15..17]), "settled before"),
            (delivered(vec![19..21]), "do not exist"),
        ] {
            let error = state.settle(&settle, 20).unwrap_err();
            assert!(error.contains(says), "{error}");
            assert_eq!(state, before);
        }
    }

    #[test]
    fn parts_are_kept_until_their_record_is_settled() {
        let mut state = feed(10);
        let mut settle = delivered(vec![10..11]);
        settle.parts = vec![(14, 0b1), (12, 0b10)];
        state.settle(&settle, 20).unwrap();
        assert_eq!(state.parts, [(12, 0b10), (14, 0b1)]);
        let mut settle = delivered(vec![12..13]);
        settle.parts = vec![(14, 0b100), (25, 0b1)];
        state.settle(&settle, 20).unwrap();
        assert_eq!(
            state.parts,
            [(14, 0b100)],
            "and none of records that do not exist"
        );
        state.settle(&delivered(vec![14..15]), 20).unwrap();
        assert!(state.parts.is_empty());
        assert!(state.is_open(11) && !state.is_open(12) && !state.is_open(9));
    }

    proptest::proptest! {
        #[test]
        fn runs_survive_storage(steps in proptest::collection::vec((1u64..1 << 40, 1u64..1 << 20), 0..20), pos in 0u64..1 << 40) {
            let mut at = pos;
            let runs: Vec<_> = steps.iter().map(|(gap, len)| { let start = at + gap; at = start + len; start..at }).collect();
            proptest::prop_assert_eq!(decode_runs(pos, &encode_runs(pos, &runs)), Some(runs));
        }

        #[test]
        fn parts_survive_storage(steps in proptest::collection::vec((1u64..1 << 40, proptest::prelude::any::<u64>()), 0..20)) {
            let mut at = 0;
            let parts: Vec<_> = steps.iter().map(|(gap, bits)| { at += gap; (at, *bits) }).collect();
            proptest::prop_assert_eq!(decode_parts(&encode_parts(&parts)), Some(parts));
        }
    }
}
