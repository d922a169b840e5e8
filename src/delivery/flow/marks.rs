//! What was sent last: by which an older event, or one that says nothing new, is recognised. Pure.
//!
//! What the journal keeps ([`Mark`]) is looked up before events are taken in; here it is kept up to date with what is
//! on its way. An entry is forgotten only when nothing in memory needs it and the journal has it.

use hashbrown::HashMap;

use crate::blueprint::{ItemKeys, OnceKey};
use crate::clock::Millis;
use crate::journal::{Mark, Seq};

/// Entries kept in memory beyond those in use.
pub(super) const KEPT_MAX: usize = 16_384;

/// How long the journal keeps what is known of a `newest` key: an older event that comes later than this wins.
const NEWEST_KEPT_MS: Millis = 30 * 24 * 3_600_000;

/// Keeps keys of `once` apart from equal ones of `newest`.
const ONCE: u128 = 0x6f6e_6365_6f6e_6365_6f6e_6365_6f6e_6365;

/// Order of events: by their own time, then by the order of acceptance.
pub(super) type Age = (Millis, Seq);

#[derive(Debug, Default)]
struct Newest {
    /// The newest of those on their way and those sent.
    best: Option<Age>,
    sent: Option<Age>,
    /// The item (by its turn) that speaks for a newer event of the same value, which was not sent for that reason.
    stands_in: Option<u64>,
    /// Items on their way.
    users: u32,
    /// Settles that hold its mark and are not stored yet.
    unstored: u32,
}

#[derive(Debug, Clone, Copy)]
struct Said {
    value: u128,
    at_ms: Millis,
    seq: Seq,
    /// The newest event that said the same again.
    again: Age,
    /// When it may be forgotten.
    until_ms: Millis,
    turn: u64,
}

#[derive(Debug, Default)]
struct Once {
    /// What is on its way or was sent last.
    last: Option<Said>,
    sent: Option<Said>,
    users: u32,
    unstored: u32,
}

/// What an item holds of the marks while it is on its way; given back by [`Marks::ended`].
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Held {
    keys: ItemKeys,
    age: Age,
    turn: u64,
    once_ms: Millis,
}

/// What is known of the events sent.
#[derive(Debug, Default)]
pub(super) struct Marks {
    newest: HashMap<u128, Newest>,
    once: HashMap<u128, Once>,
    turn: u64,
}

impl Newest {
    /// The newest known to the vendor is at least this one.
    fn was_sent(&mut self, key: u128, age: Age, now_ms: Millis, marks: &mut HashMap<u128, Mark>) {
        if self.sent.is_some_and(|known| known >= age) {
            return;
        }
        self.sent = Some(age);
        let mark = Mark {
            key,
            value: 0,
            at_ms: age.0,
            seq: age.1,
            again: age,
            until_ms: now_ms.saturating_add(NEWEST_KEPT_MS),
        };
        self.unstored += u32::from(marks.insert(key, mark).is_none());
    }
}

impl Once {
    /// This was said to the vendor last.
    fn was_sent(&mut self, key: u128, said: Said, marks: &mut HashMap<u128, Mark>) {
        self.sent = Some(said);
        let mark = Mark {
            key: key ^ ONCE,
            value: said.value,
            at_ms: said.at_ms,
            seq: said.seq,
            again: said.again,
            until_ms: said.until_ms,
        };
        self.unstored += u32::from(marks.insert(mark.key, mark).is_none());
    }
}

impl Marks {
    /// Those of an item's keys that the journal has to be asked for.
    pub(super) fn unknown(&self, keys: &ItemKeys, unknown: &mut Vec<u128>) {
        unknown.extend(keys.newest.filter(|key| !self.newest.contains_key(key)));
        unknown.extend(
            keys.once
                .map(|once| once.key ^ ONCE)
                .filter(|key| !self.once.contains_key(key)),
        );
    }

    /// Takes in what the journal knows of keys it was asked for.
    pub(super) fn learn(&mut self, marks: &[Mark]) {
        // Which of the two maps a key belongs to is not known here; in the wrong one it is never looked at.
        for mark in marks {
            let age = (mark.at_ms, mark.seq);
            let newest = self.newest.entry(mark.key).or_default();
            newest.sent = newest.sent.max(Some(age));
            newest.best = newest.best.max(Some(age));
            let once = self.once.entry(mark.key).or_default();
            let said = Said {
                value: mark.value,
                at_ms: mark.at_ms,
                seq: mark.seq,
                again: mark.again,
                until_ms: mark.until_ms,
                turn: 0,
            };
            once.sent.get_or_insert(said);
            once.last.get_or_insert(said);
        }
    }

    /// Is something newer of the same key on its way, or sent?
    pub(super) fn is_older(&self, keys: &ItemKeys, age: Age) -> bool {
        keys.newest
            .and_then(|key| self.newest.get(&key))
            .is_some_and(|newest| newest.best.is_some_and(|best| age < best))
    }

    /// A new item: why it is not to be sent, or what it holds. `lasts_ms` as [`Marks::ended`].
    pub(super) fn enter(
        &mut self,
        mut keys: ItemKeys,
        age: Age,
        lasts_ms: Millis,
        now_ms: Millis,
        marks: &mut HashMap<u128, Mark>,
    ) -> Result<Held, &'static str> {
        self.turn += 1;
        if self.is_older(&keys, age) {
            return Err("superseded");
        }
        let mut again = age;
        if let Some(OnceKey { key, value }) = keys.once {
            let once = self.once.entry(key ^ ONCE).or_default();
            if let Some(last) = &mut once.last {
                // The very event that left the mark, come back for another reason, is not its own repeat.
                let own = last.seq == age.1;
                if last.value == value && own {
                    again = again.max(last.again);
                }
                let within = last.at_ms.abs_diff(age.0) < lasts_ms.unsigned_abs();
                if last.value == value && within && !own {
                    let later = last.again < age;
                    last.again = last.again.max(age);
                    let last = *last;
                    let is_sent = once.sent.is_some_and(|sent| sent.turn == last.turn);
                    if is_sent && later {
                        once.was_sent(key, last, marks);
                    }
                    self.said_already(keys.newest, &last, is_sent, age, now_ms, marks);
                    return Err("unchanged");
                }
                if age < (last.at_ms, last.seq) {
                    // It tells of the past: what was said last stays what it is.
                    keys.once = None;
                } else if age < last.again && !own {
                    // After it the value said last was true again, and nobody will say so once more.
                    return Err("superseded");
                }
            }
        }
        if let Some(OnceKey { key, value }) = keys.once {
            let once = self.once.entry(key ^ ONCE).or_default();
            once.last = Some(Said {
                value,
                at_ms: age.0,
                seq: age.1,
                again,
                until_ms: now_ms.max(age.0).saturating_add(lasts_ms),
                turn: self.turn,
            });
            once.users += 1;
        }
        if let Some(key) = keys.newest {
            let newest = self.newest.entry(key).or_default();
            newest.best = Some(age);
            newest.stands_in = None;
            newest.users += 1;
        }
        Ok(Held {
            keys,
            age,
            turn: self.turn,
            once_ms: lasts_ms,
        })
    }

    /// An event says again what `last` said. It is not sent, but nothing older than it may be either, except the item
    /// that says it, while that is on its way.
    fn said_already(
        &mut self,
        newest: Option<u128>,
        last: &Said,
        is_sent: bool,
        age: Age,
        now_ms: Millis,
        marks: &mut HashMap<u128, Mark>,
    ) {
        let Some(key) = newest else {
            return;
        };
        let newest = self.newest.entry(key).or_default();
        let known = last.turn == 0
            || newest.stands_in == Some(last.turn)
            || newest
                .best
                .is_none_or(|best| best <= (last.at_ms, last.seq));
        // Else something else was newer than it, which is none of this event's business.
        if known {
            newest.best = newest.best.max(Some(age));
            newest.stands_in = Some(last.turn);
            if is_sent {
                newest.was_sent(key, age, now_ms, marks);
            }
        }
    }

    /// Has a newer event of the same key come in since?
    pub(super) fn superseded(&self, held: &Held) -> bool {
        self.is_older(&held.keys, held.age) && !self.stands_in(held)
    }

    /// Does the item say what a newer event says, too?
    fn stands_in(&self, held: &Held) -> bool {
        held.keys
            .newest
            .and_then(|key| self.newest.get(&key))
            .is_some_and(|newest| newest.stands_in == Some(held.turn))
    }

    /// The item goes on without what its `newest` key is about.
    pub(super) fn without_newest(&mut self, held: &mut Held) {
        if let Some(newest) = held
            .keys
            .newest
            .take()
            .and_then(|key| self.newest.get_mut(&key))
        {
            newest.users = newest.users.saturating_sub(1);
        }
    }

    /// The item has left: sent (then the marks to keep go to `marks`), or not.
    pub(super) fn ended(
        &mut self,
        held: &Held,
        sent: bool,
        now_ms: Millis,
        marks: &mut HashMap<u128, Mark>,
    ) {
        if let Some((key, newest)) = held
            .keys
            .newest
            .and_then(|key| Some((key, self.newest.get_mut(&key)?)))
        {
            newest.users = newest.users.saturating_sub(1);
            let stands_in = newest.stands_in == Some(held.turn);
            if sent {
                let age = newest.best.filter(|_| stands_in).unwrap_or(held.age);
                newest.was_sent(key, age, now_ms, marks);
            } else if stands_in {
                newest.stands_in = None;
            }
            if newest.users == 0 {
                newest.best = newest.sent;
            }
        }
        if let Some((once_key, once)) = held.keys.once.and_then(|once| {
            let entry = self.once.get_mut(&(once.key ^ ONCE))?;
            Some((once, entry))
        }) {
            once.users = once.users.saturating_sub(1);
            if sent {
                if once.sent.is_none_or(|known| known.turn <= held.turn) {
                    let own = Said {
                        value: once_key.value,
                        at_ms: held.age.0,
                        seq: held.age.1,
                        again: held.age,
                        until_ms: 0,
                        turn: held.turn,
                    };
                    // What was said again while it was on its way counts from now on.
                    let said = once.last.filter(|last| last.turn == held.turn);
                    let said = Said {
                        until_ms: now_ms.max(held.age.0).saturating_add(held.once_ms),
                        ..said.unwrap_or(own)
                    };
                    once.was_sent(once_key.key, said, marks);
                }
            } else if once.last.is_some_and(|last| last.turn == held.turn) {
                // It said nothing after all: the next with this value is news.
                once.last = once.sent;
            }
        }
    }

    /// The marks of a settle are stored.
    pub(super) fn stored(&mut self, marks: &[Mark]) {
        for mark in marks {
            if let Some(newest) = self.newest.get_mut(&mark.key) {
                newest.unstored = newest.unstored.saturating_sub(1);
            }
            if let Some(once) = self.once.get_mut(&mark.key) {
                once.unstored = once.unstored.saturating_sub(1);
            }
        }
    }

    /// Is there more than needs to be kept?
    pub(super) fn too_many(&self) -> bool {
        self.newest.len().max(self.once.len()) > KEPT_MAX
    }

    /// Forgets what the journal knows and nobody uses. Only while no look-up is under way: what it read may be older.
    pub(super) fn forget(&mut self) {
        self.newest
            .retain(|_, newest| newest.users > 0 || newest.unstored > 0);
        self.once
            .retain(|_, once| once.users > 0 || once.unstored > 0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn once(key: u128, value: u128) -> ItemKeys {
        ItemKeys {
            once: Some(OnceKey { key, value }),
            ..ItemKeys::default()
        }
    }

    #[test]
    fn a_then_b_then_a_is_three_sends_and_a_then_a_is_one() {
        let mut marks = Marks::default();
        let mut stored = HashMap::new();
        let mut sent = Vec::new();
        for (seq, value) in [(0, 1), (1, 1), (2, 2), (3, 1), (4, 1)] {
            if let Ok(held) = marks.enter(once(7, value), (1_000, seq), 60_000, 0, &mut stored) {
                sent.push(seq);
                marks.ended(&held, true, 1_000, &mut stored);
            }
        }
        assert_eq!(sent, [0, 2, 3]);
        // Restarted, the journal says what was last; its time over, the same value is news again.
        let known: Vec<Mark> = stored.into_values().collect();
        let mut marks = Marks::default();
        let mut unknown = Vec::new();
        marks.unknown(&once(7, 1), &mut unknown);
        marks.learn(&known);
        assert_eq!(
            marks
                .enter(once(7, 1), (60_999, 5), 60_000, 0, &mut HashMap::new())
                .err(),
            Some("unchanged")
        );
        let later = marks.enter(once(7, 1), (61_000, 6), 60_000, 0, &mut HashMap::new());
        assert!(later.is_ok());
    }

    /// Enters an event of key 7.
    fn come(marks: &mut Marks, value: u128, at: i64) -> Result<Held, &'static str> {
        let keys = ItemKeys {
            newest: Some(7),
            ..once(7, value)
        };
        marks.enter(keys, (at, at as Seq), 60_000, 0, &mut HashMap::new())
    }

    #[test]
    fn a_repeat_does_not_outdate_the_item_on_its_way_that_says_the_same() {
        let mut marks = Marks::default();
        let mut stored = HashMap::new();
        let held = come(&mut marks, 1, 1).unwrap();
        assert_eq!(come(&mut marks, 1, 2).err(), Some("unchanged"));
        assert_eq!(come(&mut marks, 1, 4).err(), Some("unchanged"));
        assert!(!marks.superseded(&held), "it alone says what is the newest");
        assert_eq!(come(&mut marks, 2, 3).err(), Some("superseded"));
        marks.ended(&held, true, 0, &mut stored);
        assert_eq!(stored[&7].at_ms, 4, "stored once it is true, not before");
        // What is newer still takes its place.
        let held = come(&mut marks, 2, 5).unwrap();
        assert_eq!(come(&mut marks, 2, 6).err(), Some("unchanged"));
        let newer = come(&mut marks, 3, 7).unwrap();
        assert!(marks.superseded(&held));
        assert!(!marks.superseded(&newer));
    }

    #[test]
    fn what_tells_of_the_past_does_not_hide_what_comes_after() {
        let mut marks = Marks::default();
        let mut sent = Vec::new();
        for (at, value) in [(10, 1), (5, 2), (11, 2), (6, 2)] {
            if let Ok(held) = marks.enter(
                once(7, value),
                (at, at as Seq),
                60_000,
                0,
                &mut HashMap::new(),
            ) {
                sent.push(at);
                marks.ended(&held, true, 0, &mut HashMap::new());
            }
        }
        assert_eq!(sent, [10, 5, 11]);
        // Said again at 20, which was no news; sent now, what was true in between would stand as the newest.
        let mut come = |at: i64, value| {
            marks
                .enter(
                    once(7, value),
                    (at, at as Seq),
                    60_000,
                    0,
                    &mut HashMap::new(),
                )
                .err()
        };
        assert_eq!(come(20, 2), Some("unchanged"));
        assert_eq!(come(15, 3), Some("superseded"));
        assert_eq!(come(9, 3), None, "history");
        assert_eq!(come(21, 3), None);
        // Switched off, nothing is a repeat.
        let held = marks.enter(once(7, 2), (4, 4), 0, 0, &mut HashMap::new());
        assert!(held.is_ok());
    }

    #[test]
    fn until_when_a_value_was_said_again_is_known_after_a_restart() {
        for repeated_on_its_way in [true, false] {
            let (mut marks, mut stored) = (Marks::default(), HashMap::new());
            let enter = |marks: &mut Marks, value, at: i64, stored: &mut HashMap<u128, Mark>| {
                marks.enter(once(7, value), (at, at as Seq), 60_000, 0, stored)
            };
            let held = enter(&mut marks, 1, 10, &mut stored).unwrap();
            if repeated_on_its_way {
                assert_eq!(
                    enter(&mut marks, 1, 20, &mut stored).err(),
                    Some("unchanged")
                );
                assert!(stored.is_empty(), "it has not been said yet");
            }
            marks.ended(&held, true, 0, &mut stored);
            let repeat = enter(&mut marks, 1, 20, &mut stored);
            assert_eq!(repeat.err(), Some("unchanged"));
            let kept: Vec<Mark> = stored.into_values().collect();
            assert_eq!((kept[0].at_ms, kept[0].again), (10, (20, 20)));
            let mut marks = Marks::default();
            marks.learn(&kept);
            let mut stored = HashMap::new();
            assert_eq!(
                enter(&mut marks, 2, 15, &mut stored).err(),
                Some("superseded")
            );
            // The very event that left the mark, sent again, takes nothing of it away.
            let again = enter(&mut marks, 1, 10, &mut stored).unwrap();
            marks.ended(&again, true, 0, &mut stored);
            assert_eq!(
                stored.values().next().map(|mark| mark.again),
                Some((20, 20))
            );
            assert!(enter(&mut marks, 2, 21, &mut stored).is_ok());
        }
    }

    #[test]
    fn a_mark_of_a_time_to_come_is_kept_as_long_as_it_counts() {
        let (mut marks, mut stored) = (Marks::default(), HashMap::new());
        let held = marks.enter(once(7, 1), (50_000, 1), 60_000, 0, &mut stored);
        marks.ended(&held.unwrap(), true, 1_000, &mut stored);
        assert_eq!(stored.into_values().next().unwrap().until_ms, 110_000);
    }

    #[test]
    fn what_was_refused_does_not_hide_the_next_of_its_kind() {
        let mut marks = Marks::default();
        let held = marks
            .enter(once(7, 1), (0, 0), 60_000, 0, &mut HashMap::new())
            .unwrap();
        marks.ended(&held, false, 0, &mut HashMap::new());
        let next = marks.enter(once(7, 1), (1, 1), 60_000, 0, &mut HashMap::new());
        assert!(next.is_ok());
    }

    proptest! {
        /// However events arrive and end, through restarts and forgetting: nothing older is let in after something
        /// newer was sent, and the newest of a key is never held back.
        #[test]
        fn nothing_older_follows_something_newer(
            steps in prop::collection::vec((0..5u8, 0..4u128, 0..50i64, any::<bool>()), 1..200),
        ) {
            let mut marks = Marks::default();
            let mut journal: HashMap<u128, Mark> = HashMap::new();
            let mut books: HashMap<u128, Mark> = HashMap::new();
            let mut under_way: Vec<Held> = Vec::new();
            let mut sent: BTreeMap<u128, Age> = BTreeMap::new();
            for (seq, (step, key, at, ok)) in steps.into_iter().enumerate() {
                let keys = ItemKeys { newest: Some(key), ..ItemKeys::default() };
                match step {
                    0..3 => {
                        let age = (at, seq as Seq);
                        let mut unknown = Vec::new();
                        marks.unknown(&keys, &mut unknown);
                        let found: Vec<Mark> = unknown.iter().filter_map(|key| journal.get(key).copied()).collect();
                        marks.learn(&found);
                        match marks.enter(keys, age, 0, 0, &mut books) {
                            Ok(held) => under_way.push(held),
                            Err(_) => {
                                let newer = under_way.iter().filter(|held| held.keys == keys).map(|held| held.age)
                                    .chain(sent.get(&key).copied()).max();
                                prop_assert!(newer.is_some_and(|newer| newer > age), "the newest was held back");
                            }
                        }
                    }
                    3 if !under_way.is_empty() => {
                        let held = under_way.remove(0);
                        let key = held.keys.newest.unwrap();
                        let send = ok && !marks.superseded(&held);
                        if send {
                            prop_assert!(sent.get(&key).is_none_or(|known| *known <= held.age));
                            sent.insert(key, held.age);
                        }
                        marks.ended(&held, send, 0, &mut books);
                    }
                    _ => {
                        let stored: Vec<Mark> = books.drain().map(|(_, mark)| mark).collect();
                        journal.extend(stored.iter().map(|mark| (mark.key, *mark)));
                        marks.stored(&stored);
                        if ok {
                            marks.forget();
                        }
                    }
                }
            }
        }
    }
}
