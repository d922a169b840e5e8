//! Random operations against a model kept the simple way: whatever happens, the books balance.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Two of three records have a label.
fn label(record: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(record).unwrap();
    let id: u64 = text[6..].split(',').next().unwrap().parse().unwrap();
    (!id.is_multiple_of(3)).then(|| format!("l{}", id % 3))
}

#[derive(Debug, Clone)]
enum Action {
    Append(u64, u64),
    Settle(u8),
    Expire(u8),
    Park(u8),
    Unpark(u8),
    Replay,
    Cancel,
    Trim,
    Reopen,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        4 => (0u64..60, 1u64..9).prop_map(|(from, n)| Action::Append(from, n)),
        4 => any::<u8>().prop_map(Action::Settle),
        1 => any::<u8>().prop_map(Action::Expire),
        2 => any::<u8>().prop_map(Action::Park),
        2 => any::<u8>().prop_map(Action::Unpark),
        1 => Just(Action::Replay),
        1 => Just(Action::Cancel),
        1 => Just(Action::Trim),
        1 => Just(Action::Reopen),
    ];
    proptest::collection::vec(action, 1..40)
}

/// What the journal should say, kept the simple way.
#[derive(Debug, Default)]
struct Model {
    stored: Vec<u64>,
    duplicates: u64,
    unsettled: BTreeSet<Seq>,
    parked: BTreeSet<Seq>,
    dead: BTreeSet<Seq>,
    delivered: u64,
    skipped: u64,
    /// By label, or without: repeats, delivered, skipped.
    ended: BTreeMap<Option<String>, [u64; 3]>,
    replayed: BTreeMap<Seq, &'static str>,
}

impl Model {
    fn pick(set: &BTreeSet<Seq>, choice: u8) -> Option<Seq> {
        let n = set.len().max(1);
        set.iter().nth(usize::from(choice) % n).copied()
    }

    /// The record as it was stored.
    fn bytes(&self, seq: Seq) -> Bytes {
        record(self.stored[usize::try_from(seq).unwrap()]).bytes
    }

    fn label(&self, seq: Seq) -> Option<String> {
        label(&self.bytes(seq))
    }

    /// Counts how a record ended; its label goes with the settle.
    fn ended(&mut self, settle: &mut Settle, seq: Seq, outcome: Outcome, reason: &str) {
        let label = self.label(seq);
        match outcome {
            Outcome::Delivered => self.ended.entry(label.clone()).or_default()[1] += 1,
            Outcome::Skipped => self.ended.entry(label.clone()).or_default()[2] += 1,
            Outcome::Dead => {}
        }
        if let Some(label) = label {
            let reason = reason.to_owned();
            let tally = LabelTally {
                label,
                outcome,
                reason,
            };
            *settle.labelled.entry(tally).or_default() += 1;
        }
    }

    async fn step(&mut self, journal: &Journal, action: &Action) {
        match action {
            Action::Append(from, n) => {
                let answer = journal.append(records(*from..from + n)).await.unwrap();
                let fresh: Vec<_> = (*from..from + n)
                    .filter(|id| !self.stored.contains(id))
                    .collect();
                assert_eq!(answer.stored, fresh.len() as u64);
                assert_eq!(answer.duplicates, n - fresh.len() as u64);
                self.duplicates += answer.duplicates;
                for id in (*from..from + n).filter(|id| !fresh.contains(id)) {
                    self.ended.entry(label(&record(id).bytes)).or_default()[0] += 1;
                }
                for id in fresh {
                    self.unsettled.insert(self.stored.len() as u64);
                    self.stored.push(id);
                }
            }
            Action::Settle(choice) => {
                let Some(seq) = Self::pick(&self.unsettled, *choice) else {
                    return;
                };
                self.unsettled.remove(&seq);
                let mut settle = delivered("f", seq..seq + 1);
                match choice % 3 {
                    0 => {
                        self.delivered += 1;
                        self.ended(&mut settle, seq, Outcome::Delivered, "");
                    }
                    1 => {
                        self.skipped += 1;
                        self.ended(&mut settle, seq, Outcome::Skipped, "no_rule");
                        settle.tallies = vec![tally(Outcome::Skipped, "no_rule", 1)];
                    }
                    _ => {
                        self.dead.insert(seq);
                        self.ended(&mut settle, seq, Outcome::Dead, "rejected");
                        settle.tallies = vec![tally(Outcome::Dead, "rejected", 1)];
                        settle.dead = vec![DeadLetter {
                            record: self.bytes(seq),
                            ..letter(seq, "rejected")
                        }];
                    }
                }
                journal.settle(settle).await.unwrap();
            }
            Action::Expire(choice) => {
                let Some(seq) = Self::pick(&self.unsettled, *choice) else {
                    return;
                };
                let run: Vec<Seq> = (seq..seq + 5)
                    .take_while(|seq| self.unsettled.contains(seq))
                    .collect();
                let end = seq + run.len() as u64;
                let mut settle = delivered("f", seq..end);
                settle.tallies = vec![tally(Outcome::Skipped, "expired", end - seq)];
                settle.unread = vec![(seq..end, Outcome::Skipped, "expired".to_owned())];
                for seq in run {
                    self.unsettled.remove(&seq);
                    self.skipped += 1;
                    self.ended(&mut Settle::default(), seq, Outcome::Skipped, "expired");
                }
                journal.settle(settle).await.unwrap();
            }
            Action::Park(choice) => {
                let Some(seq) = Self::pick(&self.unsettled, *choice) else {
                    return;
                };
                self.unsettled.remove(&seq);
                self.parked.insert(seq);
                let mut settle = delivered("f", seq..seq + 1);
                settle.tallies.clear();
                settle.park = vec![Parked {
                    record: self.bytes(seq),
                    ..aside(seq, T0 + i64::from(*choice))
                }];
                journal.settle(settle).await.unwrap();
            }
            Action::Unpark(choice) => {
                let Some(seq) = Self::pick(&self.parked, *choice) else {
                    return;
                };
                let mut settle = delivered("f", seq..seq + 1);
                (settle.done, settle.unpark) = (vec![], vec![seq]);
                if choice % 2 == 0 {
                    self.parked.remove(&seq);
                    self.replayed.remove(&seq);
                    self.delivered += 1;
                    self.ended(&mut settle, seq, Outcome::Delivered, "");
                } else {
                    settle.tallies.clear();
                    settle.park = vec![aside(seq, T0 + 7)];
                }
                journal.settle(settle).await.unwrap();
            }
            Action::Replay => {
                let n = journal
                    .replay("r", DeadFilter::default(), 10.0)
                    .await
                    .unwrap();
                assert_eq!(n, self.dead.len() as u64);
                self.replayed
                    .extend(self.dead.iter().map(|seq| (*seq, "r")));
                self.parked.append(&mut self.dead);
            }
            Action::Cancel => {
                let n = journal.cancel_replay("r").await.unwrap();
                assert_eq!(n, self.replayed.len() as u64);
                for (seq, _) in std::mem::take(&mut self.replayed) {
                    self.parked.remove(&seq);
                    self.dead.insert(seq);
                }
            }
            Action::Trim => journal.tidy().await.unwrap(),
            Action::Reopen => {}
        }
    }

    /// Each label's books, one by one; the last row is what has none.
    async fn compare_labels(&self, journal: &Journal, whole: &Ledger) {
        let rows = journal.ledger_by_label().await.unwrap();
        let sum = |list: &[(String, u64)]| list.iter().map(|(_, n)| n).sum::<u64>();
        for row in &rows {
            assert!(row.balanced && balanced(&row.books), "{row:?}");
            let of = |seqs: &BTreeSet<Seq>| {
                let own = seqs.iter().filter(|seq| self.label(**seq) == row.label);
                own.count() as u64
            };
            let stored = (0..self.stored.len() as u64).collect();
            let ended = self.ended.get(&row.label).copied().unwrap_or_default();
            let books = &row.books;
            let found = [books.deduplicated, books.delivered, sum(&books.skipped)];
            assert_eq!(found, ended, "{row:?}");
            assert_eq!(books.accepted, of(&stored) + ended[0], "{row:?}");
            assert_eq!(sum(&books.dead), of(&self.dead), "{row:?}");
            assert_eq!(books.pending, of(&self.unsettled) + of(&self.parked));
        }
        let accepted: u64 = rows.iter().map(|row| row.books.accepted).sum();
        assert_eq!(accepted, whole.accepted);
    }

    async fn compare(&self, journal: &Journal, whole: bool) {
        let ledger = journal.ledger().await.unwrap().remove(0);
        assert!(balanced(&ledger), "{ledger:?}");
        let sum = |list: &[(String, u64)]| list.iter().map(|(_, n)| n).sum::<u64>();
        assert_eq!(ledger.accepted, self.stored.len() as u64 + self.duplicates);
        assert_eq!(ledger.delivered, self.delivered);
        assert_eq!(sum(&ledger.skipped), self.skipped);
        assert_eq!(ledger.deduplicated, self.duplicates);
        assert_eq!(sum(&ledger.dead), self.dead.len() as u64);
        assert_eq!(
            ledger.pending,
            (self.unsettled.len() + self.parked.len()) as u64
        );
        self.compare_labels(journal, &ledger).await;
        if !whole {
            return;
        }
        let from = self
            .unsettled
            .first()
            .copied()
            .unwrap_or(self.stored.len() as u64);
        let (entries, damaged) = all(journal, from).await;
        assert!(damaged.is_empty());
        let bytes: Vec<_> = entries.into_iter().map(|entry| entry.bytes).collect();
        let from = usize::try_from(from).unwrap();
        let expected: Vec<_> = self.stored[from..]
            .iter()
            .map(|id| record(*id).bytes)
            .collect();
        assert_eq!(bytes, expected);
        let parked = journal.parked("f", Millis::MAX, 1000).await.unwrap();
        assert_eq!(
            parked.iter().map(|one| one.seq).collect::<BTreeSet<_>>(),
            self.parked
        );
        let dead = journal
            .dead_letters(DeadFilter::default(), None, 1000)
            .await
            .unwrap();
        assert_eq!(
            dead.iter().map(|one| one.seq).collect::<BTreeSet<_>>(),
            self.dead
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_books_balance(actions in actions()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let tight = Options { retain_ms: 0, retain_bytes: 0, tail_bytes_max: 600, label, ..options() };
            let clock = ManualClock::at(T0);
            let mut journal = open_at(dir.path(), tight.clone(), &clock);
            journal.open_feed("f", FeedStart::Now).await.unwrap();
            let mut model = Model::default();
            for action in &actions {
                clock.advance(10);
                model.step(&journal, action).await;
                let reopen = matches!(action, Action::Reopen);
                model.compare(&journal, reopen).await;
                if reopen {
                    journal.close().await;
                    journal = open_at(dir.path(), tight.clone(), &clock);
                    model.compare(&journal, true).await;
                }
            }
            model.compare(&journal, true).await;
            journal.close().await;
            let faults = inspect::verify(dir.path()).unwrap().faults;
            assert!(faults.is_empty(), "{faults:?}");
        });
    }
}
