//! Appends, settles, parked and dead records, marks and labels: the books, now and after a restart.

use super::*;

#[tokio::test]
async fn appends_settles_and_remembers_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    journal.open_feed("a", FeedStart::Now).await.unwrap();
    let answer = journal.append(records(0..10)).await.unwrap();
    assert_eq!((answer.stored, answer.duplicates), (10, 0));
    let answer = journal.append(records(8..12)).await.unwrap();
    assert_eq!((answer.stored, answer.duplicates), (2, 2));
    journal.settle(delivered("a", 0..4)).await.unwrap();
    journal.settle(delivered("a", 6..8)).await.unwrap();
    let error = journal.settle(delivered("a", 7..9)).await.unwrap_err();
    assert!(matches!(error, JournalError::Unbalanced { .. }), "{error}");
    let before = journal.ledger().await.unwrap();
    journal.close().await;
    assert!(matches!(
        journal.append(records(0..1)).await,
        Err(AppendError::Closed)
    ));

    let journal = open(dir.path());
    assert_eq!(*journal.end().borrow(), 12);
    let feed = journal.open_feed("a", FeedStart::Now).await.unwrap();
    assert_eq!(
        (feed.start, feed.pos, feed.settled_above),
        (0, 4, vec![6..8])
    );
    assert_eq!(journal.ledger().await.unwrap(), before);
    assert_eq!(
        (
            before[0].accepted,
            before[0].deduplicated,
            before[0].pending
        ),
        (14, 2, 6)
    );
    let (entries, damaged) = all(&journal, 0).await;
    assert!(damaged.is_empty());
    let bytes: Vec<_> = entries.iter().map(|entry| entry.bytes.clone()).collect();
    let expected: Vec<_> = (0..12).map(|id| record(id).bytes).collect();
    assert_eq!(bytes, expected);
    let answer = journal.append(records(0..12)).await.unwrap();
    assert_eq!((answer.stored, answer.duplicates), (0, 12));
    assert_eq!(journal.find(vec![4]).await.unwrap(), vec![3]);
    assert_eq!(
        journal.get(11).await.unwrap().unwrap().bytes,
        record(11).bytes
    );
}

#[tokio::test]
async fn dead_letters_replay_and_cancel_keep_the_books() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(T0);
    let journal = open_at(dir.path(), options(), &clock);
    journal.open_feed("a", FeedStart::Now).await.unwrap();
    journal.append(records(0..6)).await.unwrap();
    let settle = Settle {
        feed: "a".into(),
        done: vec![0..6],
        tallies: vec![
            tally(Outcome::Delivered, "", 1),
            tally(Outcome::Dead, "rejected", 3),
            tally(Outcome::Dead, "damaged", 1),
        ],
        dead: vec![
            letter(1, "rejected"),
            letter(2, "rejected"),
            letter(3, "rejected"),
        ],
        park: vec![aside(5, T0 + 5000)],
        ..Settle::default()
    };
    journal.settle(settle).await.unwrap();
    assert!(journal.parked("a", T0, 9).await.unwrap().is_empty());
    assert_eq!(journal.wake("a", "unknown_event_key").await.unwrap(), 1);
    let due = journal.parked("a", T0, 9).await.unwrap();
    assert_eq!(
        (due.len(), due[0].seq, &due[0].record),
        (1, 5, &record(5).bytes)
    );
    assert_eq!(journal.oldest_pending_ms("a").await.unwrap(), Some(T0));

    // Two a second: the third is due a second from now.
    let moved = journal
        .replay("r1", DeadFilter::default(), 2.0)
        .await
        .unwrap();
    assert_eq!(moved, 3);
    assert_eq!(journal.replay_progress("r1").await.unwrap().waiting, 3);
    let due = journal.parked("a", T0 + 999, 9).await.unwrap();
    assert_eq!(
        due.iter().map(|one| one.seq).collect::<Vec<_>>(),
        vec![1, 5, 2]
    );
    assert_eq!(
        (due[0].reason.as_str(), due[0].replay.as_deref()),
        ("replay", Some("r1"))
    );

    // One is on its way when the rest is cancelled, and arrives all the same.
    assert_eq!(journal.cancel_replay("r1").await.unwrap(), 3);
    assert_eq!(journal.dead_count(DeadFilter::default()).await.unwrap(), 3);
    let mut arrived = Settle {
        feed: "a".into(),
        unpark: vec![1, 5],
        tallies: vec![tally(Outcome::Delivered, "", 2)],
        ..Settle::default()
    };
    journal.settle(arrived.clone()).await.unwrap();
    arrived.unpark = vec![2, 5];
    assert!(
        journal.settle(arrived).await.is_err(),
        "5 is settled already"
    );
    let letters = journal
        .dead_letters(DeadFilter::default(), None, 9)
        .await
        .unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!(
        (
            letters[0].seq,
            letters[0].detail.as_str(),
            letters[0].status
        ),
        (2, "no", Some(400))
    );

    let ledger = journal.ledger().await.unwrap().remove(0);
    assert!(balanced(&ledger), "{ledger:?}");
    assert_eq!((ledger.delivered, ledger.pending), (3, 0));
    assert_eq!(
        ledger.dead,
        vec![("damaged".into(), 1), ("rejected".into(), 2)]
    );
    journal.close().await;
    let journal = open_at(dir.path(), options(), &clock);
    let ledger = journal.ledger().await.unwrap().remove(0);
    assert_eq!(
        ledger.dead,
        vec![("damaged".into(), 1), ("rejected".into(), 2)]
    );
    assert!(inspect::verify(dir.path()).unwrap().faults.is_empty());
}

#[tokio::test]
async fn marks_are_written_with_the_settle_and_forgotten_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(T0);
    let journal = open_at(dir.path(), options(), &clock);
    journal.open_feed("a", FeedStart::Now).await.unwrap();
    journal.append(records(0..2)).await.unwrap();
    let mark = Mark {
        key: 1 << 127 | 3,
        value: 5,
        at_ms: T0,
        seq: 1,
        again: (T0, 1),
        until_ms: T0 + 100,
    };
    let mut settle = delivered("a", 0..1);
    settle.marks = vec![mark];
    journal.settle(settle.clone()).await.unwrap();
    // The same records again do not add up: nothing of it is written.
    settle.marks[0].seq = 2;
    assert!(journal.settle(settle).await.is_err());
    assert_eq!(journal.marks("a", &[mark.key, 3]).await.unwrap(), [mark]);
    journal.close().await;
    let journal = open_at(dir.path(), options(), &clock);
    assert_eq!(journal.marks("a", &[mark.key]).await.unwrap(), [mark]);
    assert!(journal.marks("b", &[mark.key]).await.unwrap().is_empty());
    clock.advance(100);
    assert!(journal.marks("a", &[mark.key]).await.unwrap().is_empty());
    assert_eq!(inspect::shape(dir.path()).unwrap().marks, 1);
    journal.tidy().await.unwrap();
    assert_eq!(inspect::shape(dir.path()).unwrap().marks, 0);
}

#[tokio::test]
async fn trims_only_what_every_feed_has_passed() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(T0);
    let journal = open_at(dir.path(), options(), &clock);
    journal.open_feed("fast", FeedStart::Now).await.unwrap();
    journal.open_feed("slow", FeedStart::Now).await.unwrap();
    for first in (0..100).step_by(10) {
        journal.append(records(first..first + 10)).await.unwrap();
        clock.advance(1000);
    }
    journal.settle(delivered("fast", 0..100)).await.unwrap();
    journal.settle(delivered("slow", 0..55)).await.unwrap();
    assert_eq!(journal.position_before(T0 + 3000).await.unwrap(), 30);
    assert_eq!(journal.position_before(T0).await.unwrap(), 0);
    assert_eq!(
        journal.oldest_pending_ms("slow").await.unwrap(),
        Some(T0 + 5000)
    );
    let backlog = journal.backlog_bytes("slow").await.unwrap();
    let all_bytes = inspect::shape(dir.path()).unwrap().bytes_kept;
    assert!(backlog * 10 > all_bytes * 4 && backlog * 10 < all_bytes * 6);
    journal.tidy().await.unwrap();
    assert_eq!(
        inspect::shape(dir.path()).unwrap().first,
        0,
        "within the retention"
    );
    clock.advance(2 * 3_600_000);
    journal.tidy().await.unwrap();
    assert_eq!(inspect::shape(dir.path()).unwrap().first, 50);
    let old = journal.open_feed("late", FeedStart::At(3)).await.unwrap();
    assert_eq!(old.start, 50);
    journal.remove_feed("slow").await.unwrap();
    journal.remove_feed("late").await.unwrap();
    journal.tidy().await.unwrap();
    journal.close().await;

    // Trimmed records are still recognised, and numbers go on where they were.
    let journal = open_at(dir.path(), options(), &clock);
    let answer = journal.append(records(0..101)).await.unwrap();
    assert_eq!((answer.stored, answer.duplicates), (1, 100));
    assert_eq!(*journal.end().borrow(), 101);
}

#[tokio::test]
async fn books_by_label_begin_where_the_feed_does() {
    let dir = tempfile::tempdir().unwrap();
    let label = |record: &[u8]| Some(format!("l{}", record[6] % 2));
    let small = Options {
        block_records_max: 3,
        label,
        ..options()
    };
    let journal = open_at(dir.path(), small.clone(), &ManualClock::at(T0));
    journal.append(records(0..8)).await.unwrap();
    journal.open_feed("late", FeedStart::Now).await.unwrap();
    // From the middle of a block on: 4, 5, 6, 7.
    journal
        .open_feed("earlier", FeedStart::At(4))
        .await
        .unwrap();
    journal.append(records(6..10)).await.unwrap();
    let rows = |rows: Vec<LabelLedger>| -> Vec<(String, Option<String>, u64, u64)> {
        rows.into_iter()
            .inspect(|row| assert!(row.balanced, "{row:?}"))
            .filter(|row| row.books.accepted > 0)
            .map(|row| {
                (
                    row.books.feed,
                    row.label,
                    row.books.accepted,
                    row.books.deduplicated,
                )
            })
            .collect()
    };
    let found = rows(journal.ledger_by_label().await.unwrap());
    let row = |feed: &str, label: &str, accepted, repeats| {
        (feed.to_owned(), Some(label.to_owned()), accepted, repeats)
    };
    let expected = [
        row("earlier", "l0", 4, 1),
        row("earlier", "l1", 4, 1),
        row("late", "l0", 2, 1),
        row("late", "l1", 2, 1),
    ];
    assert_eq!(found, expected);
    journal.close().await;
    let journal = open_at(dir.path(), small, &ManualClock::at(T0));
    assert_eq!(rows(journal.ledger_by_label().await.unwrap()), expected);
}
