//! The flow against vendors of every temper.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::retry::Backoff;
use super::*;
use crate::blueprint::ItemKeys;
use crate::journal::Settle;

mod refused;

fn rules(index: usize) -> Rules {
    let mut rules = Rules::plain(index, &format!("r{index}"));
    rules.limits.items_max = 8;
    rules.limits.bytes_max = 400;
    rules
}

fn options() -> FlowOptions {
    FlowOptions {
        feed: "int_1".into(),
        requests: (0..2).map(rules).collect(),
        backoff: Backoff {
            base_ms: 500,
            cap_ms: 60_000,
        },
        hold_ms: None,
        backlog_age_ms: 7 * 24 * 3_600_000,
        window_events: 64,
        window_bytes: 1 << 20,
    }
}

fn item(request: usize, seq: Seq, group: u64) -> Part {
    Part {
        request,
        result: PartResult::Item {
            json: format!("{{\"seq\":{seq}}}").into(),
            group,
            keys: ItemKeys::default(),
        },
        notes: Vec::new(),
    }
}

fn part(result: PartResult) -> Part {
    Part {
        request: 0,
        result,
        notes: Vec::new(),
    }
}

fn held(hold_s: u64) -> Part {
    part(PartResult::Held {
        table: "events".into(),
        key: "Signup".into(),
        reason: "unknown_event_key".into(),
        detail: "no event key `Signup`; there is `signup` (capitals count)".into(),
        hold: Duration::from_secs(hold_s),
    })
}

fn arrival(seq: Seq, parts: Vec<Part>) -> Arrival {
    Arrival {
        seq,
        at_ms: 0,
        ts_ms: 0,
        record: Bytes::from(format!("record {seq}")),
        origin: Origin::Fresh,
        mapped: Ok(Mapping::Parts(parts)),
    }
}

fn arrivals(events: Vec<Arrival>) -> Arrivals {
    let envelope = Envelope {
        key: 1,
        bytes: 20,
        tables: Arc::default(),
    };
    Arrivals {
        envelopes: vec![envelope; 4],
        generation: 0,
        events,
    }
}

fn heard(verdict: Verdict) -> Heard {
    Heard {
        verdict: HeardVerdict::All(verdict),
        status: Some(418),
        answer: "no".into(),
        note: None,
        if_all: None,
        look_after: None,
        slow: false,
        look_up: false,
        room: None,
    }
}

fn outcomes(settled: &Settled) -> Vec<(&'static str, &str, u64)> {
    let tallies = settled.settle.tallies.iter();
    tallies
        .map(|tally| (tally.outcome.as_str(), tally.reason.as_str(), tally.n))
        .collect()
}

fn balanced(settle: &Settle) -> bool {
    let done: u64 = settle.done.iter().map(|run| run.end - run.start).sum();
    let tallied: u64 = settle.tallies.iter().map(|tally| tally.n).sum();
    done + settle.unpark.len() as u64 == tallied + settle.park.len() as u64
}

fn seqs_of(job: &Job) -> Vec<Seq> {
    let text = |item: &Item| String::from_utf8(item.json.to_vec()).unwrap();
    job.batch
        .items
        .iter()
        .map(|item| {
            let text = text(item);
            text[7..text.len() - 1].parse().unwrap()
        })
        .collect()
}

#[test]
fn an_event_with_several_requests_has_one_outcome() {
    let skipped = || {
        part(PartResult::Skipped {
            reason: "consent".into(),
        })
    };
    let refused = || {
        part(PartResult::Refused {
            reason: "amount".into(),
            detail: "16 digits".into(),
        })
    };
    let mut flow = Flow::new(options());
    flow.absorb(
        arrivals(vec![
            arrival(0, vec![item(0, 0, 0), skipped()]),
            arrival(1, vec![item(0, 1, 0), refused()]),
            arrival(2, vec![skipped(), skipped()]),
            arrival(3, vec![item(0, 3, 0), item(1, 3, 0)]),
            arrival(4, vec![]),
        ]),
        0,
    );
    let first = flow.next_job(100).unwrap();
    let second = flow.next_job(100).unwrap();
    flow.heard(first, heard(Verdict::Delivered), 100, 0.0);
    assert_eq!(flow.unsettled(), 1, "one part of the fourth is still open");
    flow.heard(second, heard(Verdict::Reject), 100, 0.0);
    let settled = flow.take_settle(Millis::MAX, false).unwrap();
    assert_eq!(
        outcomes(&settled),
        [
            ("delivered", "", 1),
            ("skipped", "consent", 1),
            ("skipped", "unmapped", 1),
            ("dead", "amount", 1),
            ("dead", "rejected", 1)
        ]
    );
    assert_eq!(settled.settle.done.first(), Some(&(0..5)));
    let letter = &settled.settle.dead[1];
    assert_eq!(
        (letter.seq, letter.status, letter.attempts),
        (3, Some(418), 2)
    );
    assert_eq!(letter.detail, "the vendor answered 418: no");
}

#[test]
fn every_attempt_sends_the_same_bytes_and_an_outage_is_probed_alone() {
    let mut flow = Flow::new(options());
    let events = (0..24)
        .map(|seq| arrival(seq, vec![item(0, seq, 0)]))
        .collect();
    flow.absorb(arrivals(events), 0);
    let mut jobs: Vec<Job> = std::iter::from_fn(|| flow.next_job(0)).collect();
    assert_eq!(jobs.len(), 3, "as many as may be under way");
    for job in &mut jobs {
        job.wire = Some(Request {
            name: "r".into(),
            method: "POST".into(),
            url: crate::secret::Secret::new("https://v.example/"),
            headers: Vec::new(),
            body: Bytes::from(format!("{:?}", seqs_of(job))),
        });
    }
    let sent: BTreeSet<Bytes> = jobs
        .iter()
        .map(|job| job.wire.clone().unwrap().body)
        .collect();
    for job in jobs {
        flow.heard(job, heard(Verdict::Retry { after: None }), 0, 1.0);
    }
    assert!(
        flow.next_job(1_000).is_none(),
        "three failures in a row close the gate"
    );
    let wakes = flow.wakes_ms(1_000).unwrap();
    assert!(wakes > 1_000 && wakes <= 2_000);
    let probe = flow.next_job(wakes).unwrap();
    assert_eq!(probe.trigger, "probe");
    assert!(flow.next_job(wakes).is_none(), "one request decides");
    let mut again = BTreeSet::from([probe.wire.clone().unwrap().body]);
    flow.heard(probe, heard(Verdict::Delivered), wakes, 0.0);
    while let Some(job) = flow.next_job(10_000) {
        again.insert(job.wire.clone().unwrap().body);
        flow.heard(job, heard(Verdict::Delivered), 10_000, 0.0);
    }
    assert_eq!(again, sent);
    assert_eq!(
        outcomes(&flow.take_settle(Millis::MAX, false).unwrap()),
        [("delivered", "", 24)]
    );
}

#[test]
fn retries_end_after_their_time_but_a_pause_counts_against_nobody() {
    let mut flow = Flow::new(options());
    flow.absorb(arrivals(vec![arrival(0, vec![item(0, 0, 0)])]), 0);
    let mut now = 100;
    let job = flow.next_job(now).unwrap();
    flow.heard(job, heard(Verdict::Retry { after: None }), now, 0.5);
    // A day of "your key is wrong", probed once a minute, burns nothing.
    for _ in 0..1_440 {
        now = flow.wakes_ms(now).unwrap().max(now);
        let job = flow.next_job(now).unwrap();
        flow.heard(
            job,
            heard(Verdict::Pause {
                reason: "unauthorized",
            }),
            now,
            0.5,
        );
        assert_eq!(
            flow.requests(now)[0].paused.as_ref().unwrap().reason,
            "unauthorized"
        );
    }
    assert!(now >= 86_000_000 && flow.take_settle(Millis::MAX, false).is_none());
    flow.resume(now);
    let since = now;
    let mut tries = 0;
    while flow
        .take_settle(Millis::MAX, false)
        .inspect(|settled| {
            assert_eq!(outcomes(settled), [("dead", "retries_exhausted", 1)]);
        })
        .is_none()
    {
        now = flow.wakes_ms(now).unwrap_or(now).max(now);
        if let Some(job) = flow.next_job(now) {
            tries += 1;
            flow.heard(job, heard(Verdict::Retry { after: None }), now, 0.9);
        }
    }
    assert!(
        now - since >= 3_600_000 && now - since < 3_800_000,
        "{}",
        now - since
    );
    assert!((30..200).contains(&tries), "{tries}");
}

#[test]
fn an_unknown_key_waits_whole_and_then_dies_with_the_hint() {
    let mut flow = Flow::new(options());
    flow.absorb(
        arrivals(vec![arrival(0, vec![item(0, 0, 0), held(900)])]),
        1_000,
    );
    assert!(flow.take_missing_rows());
    assert!(
        flow.next_job(5_000).is_none(),
        "no part goes out before the other"
    );
    let settled = flow.take_settle(Millis::MAX, false).unwrap();
    let parked = &settled.settle.park[0];
    assert_eq!((parked.since_ms, parked.due_ms), (1_000, 31_000));
    assert!(balanced(&settled.settle));
    // Looked at again shortly before and right after its time.
    for (now, due) in [(895_000, Some(901_000)), (901_000, None)] {
        let mut again = arrival(0, vec![held(900)]);
        again.origin = Origin::Parked {
            since_ms: 1_000,
            attempts: 0,
            replay: Some("rep_1".into()),
            reason: "unknown_event_key".into(),
            parts_done: 0,
        };
        flow.absorb(arrivals(vec![again]), now);
        let settled = flow.take_settle(Millis::MAX, false).unwrap();
        assert!(balanced(&settled.settle));
        assert_eq!(settled.settle.unpark, [0]);
        assert_eq!(settled.settle.park.first().map(|parked| parked.due_ms), due);
        if due.is_some() {
            assert_eq!(settled.settle.park[0].replay.as_deref(), Some("rep_1"));
        } else {
            assert_eq!(outcomes(&settled), [("dead", "unknown_event_key", 1)]);
            assert!(settled.settle.dead[0].detail.contains("there is `signup`"));
        }
    }
}

#[test]
fn mapped_with_tables_that_changed_since_it_is_looked_at_again_at_once() {
    let mut flow = Flow::new(options());
    // Changed while it was being mapped; and changed while it waited to be settled.
    let generation = flow.tables_changed(500);
    flow.absorb(arrivals(vec![arrival(0, vec![held(900)])]), 1_000);
    let mut mapped = arrivals(vec![arrival(1, vec![held(900)])]);
    mapped.generation = generation;
    flow.absorb(mapped, 1_000);
    let due = |settled: Settled| -> Vec<Millis> {
        settled
            .settle
            .park
            .iter()
            .map(|parked| parked.due_ms)
            .collect()
    };
    assert_eq!(
        due(flow.take_settle(Millis::MAX, false).unwrap()),
        [1_000, 31_000]
    );
    let mut mapped = arrivals(vec![arrival(2, vec![held(900)])]);
    mapped.generation = generation;
    flow.absorb(mapped, 1_000);
    flow.tables_changed(2_000);
    assert_eq!(due(flow.take_settle(Millis::MAX, false).unwrap()), [2_000]);
}

#[test]
fn neither_kind_of_events_takes_the_others_room() {
    let mut flow = Flow::new(options());
    let fresh = (0..200)
        .map(|seq| arrival(seq, vec![item(0, seq, 0)]))
        .collect();
    flow.absorb(arrivals(fresh), 0);
    assert!(!flow.wants_fresh());
    assert_eq!(flow.wants_parked(), 16);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever the vendor answers, every event is settled exactly once, culprits and only culprits are refused.
    #[test]
    fn every_event_is_settled_exactly_once(
        kinds in prop::collection::vec(0..8u8, 1..120),
        answers in prop::collection::vec((0..6u8, 0.0..1.0f64), 1..60),
        shuffle in any::<u64>(),
    ) {
        let mut flow = Flow::new(options());
        let poison = |seq: Seq| kinds[usize::try_from(seq).unwrap()] == 0;
        let (mut fed, mut now, mut turn) = (0usize, 0, shuffle);
        let mut under_way: Vec<Job> = Vec::new();
        let mut answers = answers.into_iter();
        let mut seen: BTreeMap<Seq, u32> = BTreeMap::new();
        let mut totals: BTreeMap<(Outcome, String), u64> = BTreeMap::new();
        let mut idle = 0;
        while idle < 50 {
            idle += 1;
            if fed < kinds.len() && flow.wants_fresh() {
                let upto = (fed + 7).min(kinds.len());
                let events = (fed..upto).map(|index| {
                    let seq = Seq::try_from(index).unwrap();
                    match kinds[index] {
                        1 => arrival(seq, vec![part(PartResult::Skipped { reason: "s".into() })]),
                        2 => arrival(seq, vec![item(0, seq, 0), item(1, seq, 1)]),
                        3 => arrival(seq, vec![held(900)]),
                        4 => Arrival { mapped: Err("not JSON".into()), ..arrival(seq, vec![]) },
                        kind => arrival(seq, vec![item(0, seq, u64::from(kind % 2))]),
                    }
                }).collect();
                fed = upto;
                flow.absorb(arrivals(events), now);
            }
            while let Some(job) = flow.next_job(now) {
                prop_assert!(!job.batch.items.is_empty() && job.batch.items.len() <= 8);
                under_way.push(job);
            }
            prop_assert!(under_way.len() <= 6);
            prop_assert_eq!(under_way.len(), flow.in_flight());
            if !under_way.is_empty() {
                idle = 0;
                turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let index = usize::try_from(turn >> 33).unwrap() % under_way.len();
                let job = under_way.swap_remove(index);
                let bad = seqs_of(&job).into_iter().any(poison);
                let (answer, chance) = answers.next().unwrap_or((0, 0.5));
                let verdict = match answer {
                    1 => Verdict::Retry { after: None },
                    2 => Verdict::Retry { after: Some(Duration::from_secs(7)) },
                    3 => Verdict::Pause { reason: "forbidden" },
                    _ if bad => Verdict::Bisect,
                    _ => Verdict::Delivered,
                };
                flow.heard(job, heard(verdict), now, chance);
            } else if let Some(wakes) = flow.wakes_ms(now) {
                idle = if wakes > now { 0 } else { idle };
                now = wakes.max(now + 1);
            }
            if let Some(settled) = flow.take_settle(Millis::MAX, false) {
                prop_assert!(balanced(&settled.settle));
                for run in &settled.settle.done {
                    for seq in run.clone() {
                        *seen.entry(seq).or_default() += 1;
                    }
                }
                for tally in settled.settle.tallies {
                    *totals.entry((tally.outcome, tally.reason)).or_default() += tally.n;
                }
            }
        }
        let expected: BTreeMap<Seq, u32> = (0..Seq::try_from(kinds.len()).unwrap()).map(|seq| (seq, 1)).collect();
        prop_assert_eq!(seen, expected);
        prop_assert_eq!((flow.unsettled(), flow.slots.bytes), (0, 0));
        let n = |kind: fn(u8) -> bool| kinds.iter().filter(|k| kind(**k)).count() as u64;
        let total = |outcome, reason: &str| totals.get(&(outcome, reason.to_owned())).copied().unwrap_or(0);
        prop_assert_eq!(total(Outcome::Dead, "rejected"), n(|k| k == 0));
        prop_assert_eq!(total(Outcome::Dead, "undecodable"), n(|k| k == 4));
        prop_assert_eq!(total(Outcome::Skipped, "s"), n(|k| k == 1));
        prop_assert_eq!(total(Outcome::Delivered, ""), n(|k| k == 2 || k >= 5));
    }
}
