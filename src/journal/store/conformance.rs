//! What every engine must do, as functions over a way to open one. An engine's tests call [`all`].

use bytes::Bytes;

use super::{Aside, Block, Change, Reader, Seen, Store, Those, TrimRule, Whereabouts};
use crate::journal::feed::FeedState;
use crate::journal::{DeadFilter, DeadLetter, Mark, Outcome, Parked, Seq};

/// Opens the same store again and again; the one before was closed.
pub(crate) type Open<'a> = &'a dyn Fn() -> Box<dyn Store>;

/// One check of the suite.
pub(crate) type Check<'a> = &'a dyn Fn(Open<'_>);

/// The whole suite. `fresh` gives a way to open a store that is empty at first.
pub(crate) fn all(fresh: &dyn Fn(Check<'_>)) {
    fresh(&starts_empty_and_keeps_its_key);
    fresh(&keeps_what_was_committed);
    fresh(&reads_from_any_position);
    fresh(&a_commit_is_all_or_nothing);
    fresh(&parks_and_buries);
    fresh(&moves_dead_letters_to_and_fro);
    fresh(&trims_by_rule_but_never_the_newest);
    fresh(&a_mark_never_goes_back);
    fresh(&keeps_what_has_ended_and_a_note_beside_a_feed);
    fresh(&forgets_marks_a_step_at_a_time);
    fresh(&sets_damage_aside_once);
}

fn block(first: Seq, n: u64, bytes_before: u64) -> Block {
    Block {
        first,
        n,
        at_ms: 1000 + first.cast_signed(),
        bytes_before,
        duplicates: first,
        body: vec![u8::try_from(first % 251).unwrap(); 100],
    }
}

fn blocks(count: u64) -> Change {
    Change {
        blocks: (0..count).map(|i| block(i * 10, 10, i * 100)).collect(),
        ..Change::default()
    }
}

fn feed(pos: Seq, dead: u64, parked: u64) -> FeedState {
    let tallies = [((Outcome::Dead, "rejected".to_owned()), dead)];
    FeedState {
        id: "f".into(),
        pos,
        tallies: tallies.into_iter().filter(|(_, n)| *n > 0).collect(),
        parked,
        ..FeedState::default()
    }
}

fn parked(seq: Seq, due_ms: i64) -> Parked {
    Parked {
        feed: "f".into(),
        seq,
        due_ms,
        since_ms: 5,
        attempts: 1,
        reason: "hold".into(),
        replay: None,
        parts_done: 0b100,
        record: Bytes::from_static(b"record"),
    }
}

fn letter(seq: Seq, record: &'static [u8]) -> DeadLetter {
    DeadLetter {
        id: 0,
        feed: "f".into(),
        seq,
        at_ms: 9,
        reason: "rejected".into(),
        detail: "why".into(),
        attempts: 3,
        status: None,
        answer: "a".into(),
        parts_done: 0b10 | 1 << 63,
        record: Bytes::from_static(record),
    }
}

fn everything() -> DeadFilter {
    DeadFilter::default()
}

fn starts_empty_and_keeps_its_key(open: Open<'_>) {
    let mut store = open();
    let loaded = store.load().unwrap();
    assert_eq!((loaded.first, loaded.next, loaded.duplicates), (0, 0, 0));
    assert!(loaded.feeds.is_empty());
    let mut reader = store.reader().unwrap();
    assert!(reader.blocks(0, 1).unwrap().is_empty());
    assert!(reader.block_before(i64::MAX).unwrap().is_none());
    drop(reader);
    store.close(true).unwrap();
    assert_eq!(open().load().unwrap().key, loaded.key);
}

fn keeps_what_was_committed(open: Open<'_>) {
    let mut store = open();
    let mut state = feed(4, 2, 0);
    state.above = vec![6..9, 12..20];
    let seen = |first: Seq, ids: &[u64]| Seen {
        first,
        at_ms: 7,
        ids: ids.to_vec(),
    };
    let change = Change {
        seen: vec![seen(0, &[1, 2]), seen(2, &[u64::MAX])],
        feeds: vec![state.clone()],
        ..blocks(2)
    };
    store.commit(&change).unwrap();
    // A row of fingerprints grows; duplicates alone are a commit too.
    let change = Change {
        seen: vec![seen(2, &[u64::MAX, 4])],
        duplicates: Some(77),
        ..Change::default()
    };
    store.commit(&change).unwrap();
    for clean in [true, false] {
        store.close(clean).unwrap();
        store = open();
        let loaded = store.load().unwrap();
        assert_eq!(
            (loaded.next, loaded.duplicates, loaded.bytes),
            (20, 77, 200)
        );
        assert_eq!(loaded.feeds, vec![state.clone()]);
        let mut rows = Vec::new();
        store.seen(&mut |row| rows.push(row)).unwrap();
        assert_eq!(rows, vec![seen(0, &[1, 2]), seen(2, &[u64::MAX, 4])]);
    }
    assert_eq!(
        store.reader().unwrap().find(&[u64::MAX, 12_345]).unwrap(),
        vec![2]
    );
}

fn reads_from_any_position(open: Open<'_>) {
    let mut store = open();
    store.commit(&blocks(5)).unwrap();
    let mut reader = store.reader().unwrap();
    let firsts = |reader: &mut Box<dyn Reader>, from, bytes| -> Vec<Seq> {
        let found = reader.blocks(from, bytes).unwrap();
        found.iter().map(|block| block.first).collect()
    };
    assert_eq!(firsts(&mut reader, 0, 1), vec![0]);
    assert_eq!(firsts(&mut reader, 19, 150), vec![10, 20]);
    assert_eq!(firsts(&mut reader, 20, 1 << 20), vec![20, 30, 40]);
    assert_eq!(reader.blocks(40, 1).unwrap()[0], block(40, 10, 400));
    assert_eq!(reader.block_at(35).unwrap().unwrap().first, 30);
    assert_eq!(reader.first_after(30).unwrap(), Some(40));
    assert_eq!(reader.first_after(40).unwrap(), None);
    assert_eq!(reader.block_before(1021).unwrap().unwrap().first, 20);
    assert!(reader.block_before(1000).unwrap().is_none());
    // A reader sees what is committed later.
    let next = Change {
        blocks: vec![block(50, 1, 500)],
        ..Change::default()
    };
    store.commit(&next).unwrap();
    assert_eq!(firsts(&mut reader, 50, 1), vec![50]);
}

fn a_commit_is_all_or_nothing(open: Open<'_>) {
    let mut store = open();
    store.commit(&blocks(1)).unwrap();
    let bad = Change {
        blocks: vec![block(10, 10, 100)],
        // The same letter twice: the engine must refuse.
        aside: vec![Aside::Bury(letter(1, b"x")), Aside::Bury(letter(1, b"x"))],
        ..Change::default()
    };
    assert!(store.commit(&bad).is_err());
    assert_eq!(store.load().unwrap().next, 10);
    assert_eq!(
        store.reader().unwrap().dead_count(&everything()).unwrap().0,
        0
    );
}

fn parks_and_buries(open: Open<'_>) {
    let mut store = open();
    let change = Change {
        aside: vec![
            Aside::Park(parked(3, 50)),
            Aside::Park(parked(4, 20)),
            Aside::Park(parked(5, 90)),
            Aside::Unpark {
                feed: "f".into(),
                seq: 5,
            },
        ],
        feeds: vec![feed(10, 0, 2)],
        ..blocks(1)
    };
    store.commit(&change).unwrap();
    assert_eq!(store.whereabouts("f", 3).unwrap(), Whereabouts::Parked);
    assert_eq!(store.whereabouts("f", 5).unwrap(), Whereabouts::Nowhere);
    let mut reader = store.reader().unwrap();
    let due = reader.parked("f", 50, 10).unwrap();
    assert_eq!(
        due.iter().map(|one| one.seq).collect::<Vec<_>>(),
        vec![4, 3]
    );
    assert_eq!(due[1].record, Bytes::from_static(b"record"));
    assert_eq!(reader.parked("f", 50, 1).unwrap().len(), 1);
    assert_eq!(reader.oldest_parked_ms("f").unwrap(), Some(1000));
    assert_eq!(store.wake("f", "hold", 30).unwrap(), 1);
    assert_eq!(store.wake("f", "other", 0).unwrap(), 0);
    assert_eq!(reader.parked("f", 30, 10).unwrap().len(), 2);
    let again = Parked {
        attempts: 2,
        record: Bytes::new(),
        parts_done: 0b1,
        ..parked(3, 60)
    };
    let change = Change {
        aside: vec![Aside::Repark(again)],
        ..Change::default()
    };
    store.commit(&change).unwrap();
    let due = reader.parked("f", 60, 10).unwrap();
    assert_eq!((due[1].attempts, &due[1].record[..]), (2, &b"record"[..]));
    assert_eq!(due[1].parts_done, 0b1);
    store.remove_feed("f").unwrap();
    assert!(store.load().unwrap().feeds.is_empty());
    assert!(reader.parked("f", 60, 10).unwrap().is_empty());
}

fn moves_dead_letters_to_and_fro(open: Open<'_>) {
    let mut store = open();
    let change = Change {
        aside: vec![
            Aside::Bury(letter(1, b"one")),
            Aside::Bury(letter(2, b"")),
            Aside::Bury(letter(3, b"three")),
        ],
        feeds: vec![feed(10, 3, 0)],
        ..blocks(1)
    };
    store.commit(&change).unwrap();
    let mut reader = store.reader().unwrap();
    let (count, (first, last)) = reader.dead_count(&everything()).unwrap();
    assert_eq!(count, 3);
    let none = DeadFilter {
        reason: Some("other".into()),
        ..everything()
    };
    assert_eq!(reader.dead_count(&none).unwrap().0, 0);
    let page = reader.dead_letters(&everything(), None, 1).unwrap();
    assert_eq!((page[0].seq, page[0].attempts), (1, 3));
    let rest = reader
        .dead_letters(&everything(), Some(page[0].id), 9)
        .unwrap();
    assert_eq!(rest.len(), 2);

    // Two steps of one; the letter without a record stays.
    let due = |i: u64| 100 + i.cast_signed();
    for expected in [1, 1, 0] {
        let those = Those {
            filter: &everything(),
            ids: (first, last),
            limit: 1,
        };
        let moved = store.replay("r", those, 7, &due, &|_, _| None).unwrap();
        assert_eq!(moved.reasons.values().sum::<u64>(), expected);
    }
    assert_eq!(reader.replay_waiting("r").unwrap(), 2);
    let due = reader.parked("f", 200, 9).unwrap();
    assert!(due.iter().all(|one| one.parts_done == 0b10 | 1 << 63));
    let loaded = store.load().unwrap();
    assert_eq!(loaded.feeds, vec![feed(10, 1, 2)]);
    let moved = store.cancel("r", 10, &|_, _| None).unwrap();
    assert_eq!(moved.reasons[&("f".to_owned(), "rejected".to_owned())], 2);
    assert_eq!(store.load().unwrap().feeds, vec![feed(10, 3, 0)]);
    let back = reader.dead_letters(&everything(), Some(last), 9).unwrap();
    assert_eq!(
        (back[0].detail.as_str(), &back[0].record[..]),
        ("why", &b"one"[..])
    );
    assert_eq!(back[0].parts_done, 0b10 | 1 << 63);
    let cancelled = Whereabouts::Cancelled {
        reason: "rejected".into(),
        record: b"one".to_vec(),
    };
    assert_eq!(store.whereabouts("f", 1).unwrap(), cancelled);
    assert_eq!(store.whereabouts("f", 2).unwrap(), Whereabouts::Nowhere);
}

fn trims_by_rule_but_never_the_newest(open: Open<'_>) {
    let mut store = open();
    let seen = (0..10).map(|i| Seen {
        first: i * 10,
        at_ms: 0,
        ids: vec![1; 10],
    });
    let change = Change {
        seen: seen.collect(),
        ..blocks(10)
    };
    store.commit(&change).unwrap();
    let rule = TrimRule {
        below: 50,
        before_ms: 0,
        bytes_max: u64::MAX,
        seen_below: 0,
        step_blocks: 100,
        step_bytes: u64::MAX,
    };
    assert_eq!(store.trim(&rule).unwrap(), 0);
    // Of 500 settled bytes 250 may stay: the two blocks wholly beyond that go.
    let by_bytes = TrimRule {
        bytes_max: 250,
        ..rule
    };
    assert_eq!(store.trim(&by_bytes).unwrap(), 2);
    let by_age = TrimRule {
        before_ms: i64::MAX,
        step_blocks: 2,
        ..rule
    };
    assert_eq!(store.trim(&by_age).unwrap(), 2);
    assert_eq!(store.trim(&by_age).unwrap(), 1);
    assert_eq!(store.trim(&by_age).unwrap(), 0, "50 is not settled");
    let all = TrimRule {
        below: 100,
        before_ms: i64::MAX,
        seen_below: 95,
        ..rule
    };
    while store.trim(&all).unwrap() > 0 {}
    let loaded = store.load().unwrap();
    assert_eq!((loaded.first, loaded.next, loaded.bytes), (90, 100, 1000));
    let mut rows = Vec::new();
    store.seen(&mut |row| rows.push(row.first)).unwrap();
    assert_eq!(rows, vec![90]);
}

fn mark(key: u128, value: u128, at_ms: i64, seq: Seq, until_ms: i64) -> Mark {
    Mark {
        key,
        value,
        at_ms,
        seq,
        again: (at_ms, seq),
        until_ms,
    }
}

fn marking(feed: &str, marks: &[Mark]) -> Change {
    let aside = marks.iter().map(|mark| Aside::Mark {
        feed: feed.into(),
        mark: *mark,
    });
    Change {
        aside: aside.collect(),
        ..Change::default()
    }
}

fn a_mark_never_goes_back(open: Open<'_>) {
    let mut store = open();
    let newest = Mark {
        again: (70, 12),
        ..mark(u128::MAX, 7, 50, 9, 1000)
    };
    for marks in [
        [mark(u128::MAX, 1, 50, 8, 1000), mark(2, 2, 10, 1, 1000)],
        [newest, mark(u128::MAX, 3, 49, 99, 2000)],
        [mark(u128::MAX, 4, 50, 8, 2000), mark(2, 5, 10, 1, 1001)],
    ] {
        store.commit(&marking("f", &marks)).unwrap();
    }
    store.commit(&marking("g", &[mark(2, 9, 0, 0, 5)])).unwrap();
    for clean in [true, false] {
        let mut reader = store.reader().unwrap();
        // Of the same moment, the one written last counts.
        assert_eq!(
            reader.marks("f", &[2, 3, u128::MAX]).unwrap(),
            vec![mark(2, 5, 10, 1, 1001), newest]
        );
        drop(reader);
        store.close(clean).unwrap();
        store = open();
    }
    store.remove_feed("f").unwrap();
    let mut reader = store.reader().unwrap();
    assert!(reader.marks("f", &[2, u128::MAX]).unwrap().is_empty());
    assert_eq!(reader.marks("g", &[2]).unwrap().len(), 1);
}

fn keeps_what_has_ended_and_a_note_beside_a_feed(open: Open<'_>) {
    let mut store = open();
    let note = |text: &'static str| Aside::Note {
        feed: "f".into(),
        note: Bytes::from_static(text.as_bytes()),
    };
    let parts = |parts: &[(Seq, u64)]| Aside::Parts {
        feed: "f".into(),
        parts: parts.to_vec(),
    };
    let ended = Aside::Ended {
        feed: "f".into(),
        seq: 4,
        parts: 1 << 63 | 1,
    };
    for (feeds, aside) in [
        (
            vec![feed(4, 0, 1)],
            vec![parts(&[(3, 1)]), Aside::Park(parked(4, 7))],
        ),
        (vec![], vec![note("a"), ended]),
        (vec![], vec![parts(&[(5, 1 << 63), (900, 2)]), note("b")]),
    ] {
        let change = Change {
            feeds,
            aside,
            ..Change::default()
        };
        store.commit(&change).unwrap();
    }
    for clean in [true, false] {
        store.close(clean).unwrap();
        store = open();
        let known = store.load().unwrap().feeds.remove(0);
        assert_eq!(known.parts, [(5, 1 << 63), (900, 2)]);
        assert_eq!(&known.note[..], b"b");
        let parked = store.reader().unwrap().parked("f", 7, 9).unwrap();
        assert_eq!(parked[0].parts_done, 1 << 63 | 1);
    }
    store.remove_feed("f").unwrap();
    let change = Change {
        feeds: vec![feed(4, 0, 0)],
        ..Change::default()
    };
    store.commit(&change).unwrap();
    let anew = store.load().unwrap().feeds.remove(0);
    assert!(anew.parts.is_empty() && anew.note.is_empty());
}

fn forgets_marks_a_step_at_a_time(open: Open<'_>) {
    let mut store = open();
    let marks: Vec<Mark> = (0..10u8)
        .map(|key| mark(u128::from(key) << 120, 1, 1, 1, i64::from(key % 2) * 100))
        .collect();
    store.commit(&marking("f", &marks[..5])).unwrap();
    store.commit(&marking("g", &marks[5..])).unwrap();
    let ends: Vec<bool> = (0..4).map(|_| store.forget(99, 3).unwrap()).collect();
    assert_eq!(ends, vec![false, false, false, true]);
    let mut reader = store.reader().unwrap();
    let keys: Vec<u128> = marks.iter().map(|mark| mark.key).collect();
    let kept = |reader: &mut Box<dyn Reader>, feed| reader.marks(feed, &keys).unwrap().len();
    assert_eq!((kept(&mut reader, "f"), kept(&mut reader, "g")), (2, 3));
    assert!(store.forget(100, 9).unwrap());
    assert_eq!((kept(&mut reader, "f"), kept(&mut reader, "g")), (0, 0));
}

fn sets_damage_aside_once(open: Open<'_>) {
    let mut store = open();
    store.commit(&blocks(2)).unwrap();
    assert!(store.set_aside(&block(10, 10, 100), 5).unwrap());
    assert!(!store.set_aside(&block(10, 10, 100), 6).unwrap());
    assert_eq!(store.load().unwrap().damaged, 1);
    assert_eq!(store.reader().unwrap().damaged().unwrap(), vec![10..20]);
    store.probe().unwrap();
    store.tidy(true).unwrap();
}

#[test]
fn sqlite_conforms() {
    all(&|check| {
        let dir = tempfile::tempdir().unwrap();
        check(&|| {
            let store = super::sqlite::SqliteStore::open(dir.path(), [1; 16]).unwrap();
            Box::new(store)
        });
    });
}
